package body

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

func mustGuard(t testing.TB, cfg Config) *Guard {
	t.Helper()
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// count answers with how many bytes it could read, or with the error.
var count = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		sallyport.WriteError(w, sallyport.AsError(err))
		return
	}
	fmt.Fprint(w, len(b))
})

func TestGuard(t *testing.T) {
	const object = `{"a":1}`
	tests := []struct {
		name, body    string
		header        map[string]string
		cfg           Config
		unknownLength bool
		want          string
	}{
		{name: "no body", want: "0"},
		{name: "as the default is", body: "hello", want: "5"},
		{name: "exactly the most", body: "hello", cfg: Config{Max: 5}, want: "5"},
		{name: "one more", body: "hello!", cfg: Config{Max: 5}, want: "413 body_too_large"},
		{name: "exactly the most, of unknown length", body: "hello", cfg: Config{Max: 5}, unknownLength: true, want: "5"},
		{name: "one more, of unknown length", body: "hello!", cfg: Config{Max: 5}, unknownLength: true, want: "413 body_too_large"},
		{name: "none where none is taken", cfg: Config{Max: -1}, want: "0"},
		{name: "one where none is taken", body: "x", cfg: Config{Max: -1}, want: "413 body_too_large"},
		{name: "one of unknown length where none is taken", body: "x", cfg: Config{Max: -1}, unknownLength: true, want: "413 body_too_large"},

		{name: "compressed", body: "hello", header: map[string]string{"Content-Encoding": "gzip"}, want: "415 unsupported_media_type"},
		{name: "compressed where it is taken", body: "hello", header: map[string]string{"Content-Encoding": "gzip"}, cfg: Config{Encoded: true}, want: "5"},
		{name: "identity", body: "hello", header: map[string]string{"Content-Encoding": "identity"}, want: "5"},

		{name: "its type", body: "hello", header: map[string]string{"Content-Type": "Text/Plain; charset=utf-8"}, cfg: Config{Types: []string{"text/plain", "image/png"}}, want: "5"},
		{name: "another type", body: "hello", header: map[string]string{"Content-Type": "text/html"}, cfg: Config{Types: []string{"text/plain"}}, want: "415 unsupported_media_type"},
		{name: "no type", body: "hello", cfg: Config{Types: []string{"text/plain"}}, want: "415 unsupported_media_type"},
		{name: "nothing, and no type", cfg: Config{Types: []string{"text/plain"}}, want: "0"},
		{name: "with a boundary", body: "hello", header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, cfg: Config{Types: []string{"multipart/form-data"}}, want: "5"},

		{name: "JSON", body: object, header: map[string]string{"Content-Type": "application/json"}, cfg: Config{JSON: true}, want: "7"},
		{name: "JSON of unknown length", body: object, unknownLength: true, header: map[string]string{"Content-Type": "application/json"}, cfg: Config{JSON: true}, want: "7"},
		{name: "JSON called text", body: object, header: map[string]string{"Content-Type": "text/plain"}, cfg: Config{JSON: true}, want: "415 unsupported_media_type"},
		{name: "a member twice", body: `{"a":1,"A":2}`, header: map[string]string{"Content-Type": "application/json"}, cfg: Config{JSON: true}, want: "400 duplicate_member"},
		{name: "too deep", body: strings.Repeat("[", 40) + strings.Repeat("]", 40), header: map[string]string{"Content-Type": "application/json"}, cfg: Config{JSON: true}, want: "400 too_deep"},
		{name: "JSON that is too long", body: `"` + strings.Repeat("x", 100) + `"`, unknownLength: true, header: map[string]string{"Content-Type": "application/json"}, cfg: Config{JSON: true, Max: 50}, want: "413 body_too_large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(mustGuard(t, tt.cfg).Handler(count))
			defer srv.Close()
			var in io.Reader = strings.NewReader(tt.body)
			if tt.unknownLength {
				in = struct{ io.Reader }{in}
			}
			req, err := http.NewRequest("POST", srv.URL, in)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range tt.header {
				req.Header.Set(k, v)
			}
			if got := answer(t, req); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// answer is the body, or the status and code of a refusal.
func answer(t *testing.T, req *http.Request) string {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusOK {
		return string(b)
	}
	var p sallyport.Problem
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return fmt.Sprint(res.StatusCode, " ", p.Code)
}

// The innermost has the last word, in both directions.
func TestGuardsWithinEachOther(t *testing.T) {
	small, large := mustGuard(t, Config{Max: 5}), mustGuard(t, Config{Max: 500})
	for name, tt := range map[string]struct {
		h    http.Handler
		want string
	}{
		"more":                {small.Handler(large.Handler(count)), "100"},
		"fewer":               {large.Handler(small.Handler(count)), "413 body_too_large"},
		"bounded":             {bound(5, count), "413 body_too_large"},
		"more than the bound": {bound(5, large.Handler(count)), "100"},
		"a wider bound":       {bound(5, bound(100, count)), "100"},
		"read as a whole": {bound(5, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := ReadAll(r, 100)
			fmt.Fprint(w, len(b), err)
		})), "100 <nil>"},
	} {
		for _, declared := range []bool{false, true} {
			if declared && name == "more" {
				continue // who refuses what is declared comes first
			}
			srv := httptest.NewServer(tt.h)
			var in io.Reader = strings.NewReader(strings.Repeat("x", 100))
			if !declared {
				in = struct{ io.Reader }{in}
			}
			req, err := http.NewRequest("POST", srv.URL, in)
			if err != nil {
				t.Fatal(err)
			}
			if got := answer(t, req); got != tt.want {
				t.Errorf("%s, declared %v: got %q, want %q", name, declared, got, tt.want)
			}
			srv.Close()
		}
	}
}

func bound(limit int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, Bound(r, limit)) })
}

// Handlers that know net/http alone find what they look for.
func TestGuardErrorsAreNetHTTPs(t *testing.T) {
	g := mustGuard(t, Config{Max: 3})
	r := httptest.NewRequest("POST", "/", struct{ io.Reader }{strings.NewReader("hello")})
	g.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		tooLarge, ok := errors.AsType[*http.MaxBytesError](err)
		if !ok || tooLarge.Limit != 3 {
			t.Errorf("got %v", err)
		}
		if _, again := r.Body.Read(make([]byte, 1)); again != err {
			t.Errorf("then %v", again)
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
}

// A body that does not arrive is given up; one that arrives in time is read,
// and the connection goes on.
func TestGuardTimeout(t *testing.T) {
	srv := httptest.NewServer(mustGuard(t, Config{Timeout: 200 * time.Millisecond}).Handler(count))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for _, whole := range []bool{true, false} {
		text := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel"
		if whole {
			text += "lo"
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if whole != (res.StatusCode == 200) || !whole && !strings.Contains(string(b), `"body_timeout"`) {
			t.Errorf("whole %v: %d %s", whole, res.StatusCode, b)
		}
	}
}

func TestGuardMistakes(t *testing.T) {
	_, err := New(Config{Types: []string{"image/*", "json", "Text/Plain", "text/plain; charset=utf-8", "image/png"}, JSON: true, Encoded: true})
	for _, want := range []string{`"image/*"`, `"json"`, `"Text/Plain"`, `"text/plain; charset=utf-8"`, "JSON takes", "compressed cannot"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	if strings.Contains(fmt.Sprint(err), "image/png") && !strings.Contains(fmt.Sprint(err), "such as image/png") {
		t.Error(err)
	}
	if _, err := New(Config{}); err != nil {
		t.Error(err)
	}
}

// Without a body a Guard costs nothing: 0 allocations.
func BenchmarkGuard(b *testing.B) {
	g := mustGuard(b, Config{})
	h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(nil, r)
	}
}
