package body

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// refusal returns status and code of an error for the caller.
func refusal(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := err.(*sallyport.Error)
	if !ok {
		t.Fatalf("error is a %T: %v", err, err)
	}
	if e.Message == "" {
		t.Errorf("%s has no message", e.Code)
	}
	return fmt.Sprint(e.Status, " ", e.Code)
}

// untouchable is a body that must not be read.
type untouchable struct{ t *testing.T }

func (u untouchable) Read([]byte) (int, error) { u.t.Error("the body was read"); return 0, io.EOF }

func TestReadAll(t *testing.T) {
	const limit = 1000
	data := bytes.Repeat([]byte("0123456789"), 200)
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, tt := range []struct {
		name   string
		body   io.Reader
		length int64
		want   string
		n      int
	}{
		{"none", nil, 0, "", 0},
		{"empty", http.NoBody, 0, "", 0},
		{"small", bytes.NewReader(data[:10]), 10, "", 10},
		{"exactly the limit", bytes.NewReader(data[:limit]), limit, "", limit},
		{"exactly the limit, length unknown", bytes.NewReader(data[:limit]), -1, "", limit},
		{"byte by byte", iotest.OneByteReader(bytes.NewReader(data[:limit])), -1, "", limit},
		{"end together with data", iotest.DataErrReader(bytes.NewReader(data[:limit])), -1, "", limit},
		{"declared one too large", untouchable{t}, limit + 1, "413 body_too_large", 0},
		{"declared far too large", untouchable{t}, 1 << 62, "413 body_too_large", 0},
		{"one too large, length unknown", bytes.NewReader(data[:limit+1]), -1, "413 body_too_large", 0},
		{"larger than declared", bytes.NewReader(data[:limit+1]), 10, "413 body_too_large", 0},
		{"endless", neverEnding('x'), -1, "413 body_too_large", 0},
		{"ends in the middle", io.MultiReader(bytes.NewReader(data[:10]), iotest.ErrReader(io.ErrUnexpectedEOF)), 20, "400 body_unreadable", 0},
		{"client gone", iotest.ErrReader(context.Canceled), -1, "400 body_unreadable", 0},
		{"bad chunk", iotest.ErrReader(errors.New("http: secret")), -1, "400 body_unreadable", 0},
		{"timeout", io.MultiReader(bytes.NewReader(data[:10]), iotest.ErrReader(timeout)), 20, "408 body_timeout", 0},
		{"a bound further out", http.MaxBytesReader(nil, io.NopCloser(bytes.NewReader(data)), 100), -1, "413 body_too_large", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", nil)
			r.Body = nil
			if tt.body != nil {
				r.Body = io.NopCloser(tt.body)
			}
			r.ContentLength = tt.length
			b, err := ReadAll(r, limit)
			if got := refusal(t, err); got != tt.want {
				t.Fatalf("error = %q, want %q", got, tt.want)
			}
			if !bytes.Equal(b, data[:tt.n]) {
				t.Errorf("read %d bytes, want the first %d", len(b), tt.n)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Error("the error says what the reader said")
			}
		})
	}
}

type neverEnding byte

func (ch neverEnding) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(ch)
	}
	return len(b), nil
}

// counter counts what is read of an endless body.
type counter struct{ n int64 }

func (c *counter) Read(b []byte) (int, error) { c.n += int64(len(b)); return len(b), nil }

func TestReadAllReadsOneByteTooMany(t *testing.T) {
	for _, limit := range []int64{-1, 0, 1, 511, 512, 513, 1 << 20} {
		c := new(counter)
		r := httptest.NewRequest("POST", "/", c)
		r.ContentLength = -1
		if _, err := ReadAll(r, limit); refusal(t, err) != "413 body_too_large" {
			t.Errorf("limit %d: %v", limit, err)
		}
		if want := max(limit, 0) + 1; c.n != want {
			t.Errorf("limit %d: read %d bytes, want %d", limit, c.n, want)
		}
	}
	// The largest limit there is does not overflow.
	r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
	if b, err := ReadAll(r, 1<<63-1); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// H: a client that declares much and sends nothing must not cost memory.
func TestReadAllAllocatesWhatArrives(t *testing.T) {
	const limit = 1 << 30
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
	r.ContentLength = limit
	if b, err := ReadAll(r, limit); err != nil || len(b) != 1 {
		t.Fatal(len(b), err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("allocated %d bytes for a body of one byte", n)
	}
}

// The errors are what a real connection leads to.
func TestReadAllOverHTTP(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := ReadAll(r, 100)
		if err != nil {
			sallyport.WriteError(w, err.(*sallyport.Error))
			return
		}
		fmt.Fprint(w, len(b))
	}))
	srv.Config.ReadTimeout = 200 * time.Millisecond
	srv.Start()
	defer srv.Close()
	for _, tt := range []struct{ name, request, status string }{
		{"whole", "Content-Length: 5\r\n\r\nhello", "200"},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200"},
		{"chunked, too large", "Transfer-Encoding: chunked\r\n\r\n65\r\n" + strings.Repeat("x", 101) + "\r\n0\r\n\r\n", "413"},
		{"declared too large, waiting for 100", "Content-Length: 101\r\nExpect: 100-continue\r\n\r\n", "413"},
		{"bad chunk", "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
		{"slow", "Content-Length: 5\r\n\r\nhe", "408"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+tt.request)
			answer, err := io.ReadAll(conn)
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 "+tt.status)) {
				t.Errorf("answer %q (%v), want %s", answer, err, tt.status)
			}
		})
	}
}

func TestMediaType(t *testing.T) {
	const refused = "415 unsupported_media_type"
	const json = "application/json"
	type h = http.Header
	for _, tt := range []struct {
		name   string
		header h
		want   string
	}{
		{"exact", h{"Content-Type": {json}}, ""},
		{"other case", h{"Content-Type": {"Application/JSON"}}, ""},
		{"charset", h{"Content-Type": {json + "; charset=utf-8"}}, ""},
		{"charset quoted", h{"Content-Type": {json + `;charset="UTF-8"`}}, ""},
		{"charset, other case", h{"Content-Type": {json + " ;\tCharset=UTF-8 "}}, ""},
		{"identity", h{"Content-Type": {json}, "Content-Encoding": {"Identity"}}, ""},

		{"none", h{}, refused},
		{"empty", h{"Content-Type": {""}}, refused},
		{"two lines", h{"Content-Type": {json, json}}, refused},
		{"two lines, differing", h{"Content-Type": {json, "text/plain"}}, refused},
		{"list", h{"Content-Type": {json + ", " + json}}, refused},
		{"list that begins right", h{"Content-Type": {json + "; charset=utf-8, text/plain"}}, refused},
		{"list that ends right", h{"Content-Type": {"text/plain, " + json}}, refused},
		{"simple type", h{"Content-Type": {"text/plain"}}, refused},
		{"simple type with ours as a parameter", h{"Content-Type": {"text/plain; " + json}}, refused},
		{"form", h{"Content-Type": {"application/x-www-form-urlencoded"}}, refused},
		{"suffix", h{"Content-Type": {"application/problem+json"}}, refused},
		{"prefix", h{"Content-Type": {"application/jsonp"}}, refused},
		{"wildcard", h{"Content-Type": {"application/*"}}, refused},
		{"other charset", h{"Content-Type": {json + "; charset=utf-16"}}, refused},
		{"two charsets", h{"Content-Type": {json + "; charset=utf-8; charset=utf-16"}}, refused},
		{"continued charset", h{"Content-Type": {json + "; charset*0=utf-; charset*1=8"}}, refused},
		{"extended charset", h{"Content-Type": {json + "; charset*=utf-8''utf-8"}}, refused},
		{"other parameter", h{"Content-Type": {json + "; boundary=x"}}, refused},
		{"nothing behind the semicolon", h{"Content-Type": {json + ";"}}, refused},
		{"long s", h{"Content-Type": {"application/j\u017fon"}}, refused},
		{"gzip", h{"Content-Type": {json}, "Content-Encoding": {"gzip"}}, refused},
		{"gzip after identity", h{"Content-Type": {json}, "Content-Encoding": {"identity", "gzip"}}, refused},
		{"list of codings", h{"Content-Type": {json}, "Content-Encoding": {"identity, gzip"}}, refused},
		{"empty coding", h{"Content-Type": {json}, "Content-Encoding": {""}}, refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := MediaType(&http.Request{Header: tt.header}, json)
			if got := refusal(t, err); got != tt.want {
				t.Fatalf("error = %q, want %q", got, tt.want)
			}
			if err != nil && tt.header["Content-Encoding"] == nil && !strings.Contains(err.Error(), json) {
				t.Errorf("%q does not say what would be right", err)
			}
		})
	}
}

func TestParseForm(t *testing.T) {
	const refused = "400 invalid_request"
	type form = map[string]string
	fields := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "f%d=x&", i)
		}
		return b.String()
	}
	for _, tt := range []struct {
		name, in string
		form     form
		want     string
	}{
		{"empty", "", form{}, ""},
		{"password grant", "grant_type=password&username=ada%40example.com&password=a+b%2Bc", form{"grant_type": "password", "username": "ada@example.com", "password": "a b+c"}, ""},
		{"without a value", "a=&b&c=1", form{"c": "1"}, ""},
		{"stray separators", "&a=1&&b=2&", form{"a": "1", "b": "2"}, ""},
		{"equals sign in a value", "a=b=c==", form{"a": "b=c=="}, ""},
		{"semicolon is a character", "a=1;b=2", form{"a": "1;b=2"}, ""},
		{"encoded separators", "a%3D%26=%3D%26", form{"a=&": "=&"}, ""},
		{"encoded control characters", "password=a%00b%0A", form{"password": "a\x00b\n"}, ""},
		{"bare UTF-8", "a=ä", form{"a": "ä"}, ""},
		{"encoded UTF-8", "a=%c3%A4", form{"a": "ä"}, ""},
		{"names differ in case", "a=1&A=2", form{"a": "1", "A": "2"}, ""},

		{"repeated", "a=1&b=2&a=3", nil, refused},
		{"repeated with the same value", "a=1&a=1", nil, refused},
		{"repeated by escape", "a=1&%61=2", nil, refused},
		{"repeated without a value", "a=&a", nil, refused},
		{"first without a value", "a=&a=1", nil, refused},
		{"then without a value", "a=1&a=", nil, refused},
		{"no name", "=1", nil, refused},
		{"only an equals sign", "=", nil, refused},
		{"cut escape", "a=%4", nil, refused},
		{"cut escape 2", "a=%", nil, refused},
		{"escape cut by a separator", "a=%4&b=1", nil, refused},
		{"bad hexadecimal", "a=%4g", nil, refused},
		{"bad hexadecimal in a name", "%zz=1", nil, refused},
		{"invalid UTF-8", "a=\xff", nil, refused},
		{"invalid UTF-8 encoded", "a=%ff", nil, refused},
		{"invalid UTF-8 in a name", "%c3%28=1", nil, refused},
		{"overlong", "a=%c0%af", nil, refused},
		{"surrogate", "a=%ed%a0%80", nil, refused},
		{"bare line feed", "a=1\n", nil, refused},
		{"bare NUL", "a=1\x00", nil, refused},
		{"too many", fields(MaxFields + 1), nil, refused},
		{"1 MiB of fields", strings.Repeat("a&", 1<<19), nil, refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseForm([]byte(tt.in))
			if e := refusal(t, err); e != tt.want {
				t.Fatalf("error = %q, want %q", e, tt.want)
			}
			if err == nil && !maps.Equal(got, tt.form) {
				t.Errorf("form = %q, want %q", got, tt.form)
			}
		})
	}
	if got, err := ParseForm([]byte(fields(MaxFields))); err != nil || len(got) != MaxFields {
		t.Errorf("%d fields: %d, %v", MaxFields, len(got), err)
	}
	if got, err := ParseForm(bytes.Repeat([]byte("&"), 1<<20)); err != nil || len(got) != 0 {
		t.Errorf("only separators: %d, %v", len(got), err)
	}
	if _, err := ParseForm([]byte("password=hunter2&password=hunter2")); strings.Contains(err.Error(), "hunter2") {
		t.Error("the error holds a value")
	}
}

// Anything ParseForm accepts, url.ParseQuery reads alike, but for what they
// are known to differ in.
func FuzzParseForm(f *testing.F) {
	for _, s := range []string{"", "a=1&b=2", "a=%41+", "a=1;b=2", "a&b=&c", "%61=1&a=2", "a=%ff", "a=%"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseForm(b)
		if err != nil {
			return
		}
		if len(got) > MaxFields {
			t.Fatalf("%d fields", len(got))
		}
		// url.ParseQuery refuses a bare semicolon.
		want, err := url.ParseQuery(strings.ReplaceAll(string(b), ";", "%3B"))
		if err != nil {
			t.Fatalf("url.ParseQuery refuses %q: %v", b, err)
		}
		for name, values := range want {
			if len(values) != 1 || got[name] != values[0] {
				t.Fatalf("%q: field %q is %q and %q", b, name, got[name], values)
			}
		}
		for name, value := range got {
			if value == "" || !want.Has(name) || !utf8.ValidString(name+value) {
				t.Fatalf("%q: field %q is %q", b, name, value)
			}
		}
	})
}

func BenchmarkParseForm(b *testing.B) {
	in := []byte("grant_type=password&username=ada%40example.com&password=correct+horse+battery+staple&scope=read%3Aitems")
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := ParseForm(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadAll(b *testing.B) {
	r := httptest.NewRequest("POST", "/", nil)
	r.ContentLength = int64(len(smallBody))
	rd := bytes.NewReader(nil)
	r.Body = io.NopCloser(rd)
	b.ReportAllocs()
	for b.Loop() {
		rd.Reset(smallBody)
		if _, err := ReadAll(r, 1<<16); err != nil {
			b.Fatal(err)
		}
	}
}
