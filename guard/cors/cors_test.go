package cors

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

// mistakes takes an error of New apart.
func mistakes(t *testing.T, err error) (out []*ConfigError) {
	t.Helper()
	for _, e := range flatten(err) {
		c, ok := e.(*ConfigError)
		if !ok {
			t.Fatalf("a mistake is a %T: %v", e, e)
		}
		if c.Key == "" || c.Reason == "" || !strings.HasSuffix(c.Fix, ".") {
			t.Errorf("not whole: %v", c)
		}
		out = append(out, c)
	}
	return out
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range many.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

func TestOriginsOfAConfig(t *testing.T) {
	const credentials, insecure = 1, 2
	for _, tt := range []struct {
		origin string
		with   int
		want   string // part of the reason or of the fix; "" if it is taken
	}{
		{"https://app.example.com", 0, ""},
		{"https://app.example.com", credentials, ""},
		{"https://app.example.com:8443", credentials, ""},
		{"https://*.example.com", credentials, ""},
		{"https://*.app.example.co.uk", credentials, ""},
		{"https://xn--bcher-kva.example", credentials, ""},
		{"https://192.0.2.1", credentials, ""},
		{"https://[2001:db8::1]:8443", credentials, ""},
		{"http://localhost", credentials, ""},
		{"http://localhost:3000", credentials, ""},
		{"http://localhost:*", credentials, ""},
		{"http://127.0.0.1:5173", credentials, ""},
		{"http://127.0.0.1:*", 0, ""},
		{"http://[::1]:*", 0, ""},
		{"http://app.localhost:3000", 0, ""},
		{"capacitor://localhost", credentials, ""},
		{"http://intranet.example.com", insecure, ""},
		{"http://intranet.example.com", credentials | insecure, ""},
		{"*", 0, ""},

		{"*", credentials, "act as its visitor"},
		{"null", 0, "a frame without rights"},
		{"null", credentials, "a frame without rights"},
		{"", 0, "no scheme"},
		{"app.example.com", 0, "no scheme"},
		{"//app.example.com", 0, "no scheme"},
		{"https:app.example.com", 0, "no scheme"},
		{"https://", 0, "valid host"},
		{"https://app.example.com/", 0, "Write https://app.example.com."},
		{"https://app.example.com/path", 0, "Write https://app.example.com."},
		{"https://app.example.com?", 0, "not an origin"},
		{"https://app.example.com?q=1", 0, "a query"},
		{"https://app.example.com#x", 0, "a fragment"},
		{"https://ada:secret@app.example.com", 0, "user name"},
		{"https://App.example.com", 0, "Write https://app.example.com."},
		{"HTTPS://app.example.com", 0, "Write https://app.example.com."},
		{"https://app.example.com:443", 0, "Write https://app.example.com."},
		{"http://localhost:80", 0, "Write http://localhost."},
		{"https://app.example.com:0", 0, "valid host and port"},
		{"https://app.example.com:65536", 0, "valid host and port"},
		{"https://app.example.com:", 0, "valid host and port"},
		{"https://bücher.example", 0, "xn--"},
		{" https://app.example.com", 0, "a space"},
		{"https://a.example.com, https://b.example.com", 0, "one entry of each"},
		{"https://*", 0, "may stand only for"},
		{"https://api.*.example.com", 0, "may stand only for"},
		{"https://*example.com", 0, "may stand only for"},
		{"*.example.com", 0, "no scheme"},
		{"*://app.example.com", 0, "may stand only for"},
		{"https://app.example.com:*", 0, "Name the port"},
		{"https://*.example.com:*", credentials, "Name the port"},
		{"https://localhost.example.com:*", 0, "Name the port"},
		{"http://127.example.com:*", insecure, "Name the port"},
		{"https://192.0.2.1:*", 0, "Name the port"},
		{"https://*.com", 0, "publicsuffix.org"},
		{"https://*.github.io", 0, "publicsuffix.org"},
		{"https://*.co.uk", credentials, "publicsuffix.org"},
		{"https://*.co.uk", insecure, "publicsuffix.org"},
		{"http://app.example.com", 0, "not https"},
		{"http://app.example.com", credentials, "not https"},
		{"http://192.0.2.1", 0, "not https"},
		{"http://localhost.example.com", 0, "not https"},
		{"app://app.example.com", 0, "not https"},
		{"file:///home", 0, "origin null"},
		{"https://127.1", 0, "not an origin"},
		{"https://[0:0:0:0:0:0:0:1]", 0, "not an origin"},
	} {
		t.Run(fmt.Sprint(tt.origin, " ", tt.with), func(t *testing.T) {
			c, err := New(Config{Origins: []string{tt.origin}, Credentials: tt.with&credentials != 0, DangerouslyAllowInsecureOrigins: tt.with&insecure != 0})
			got := mistakes(t, err)
			if tt.want == "" {
				if err != nil || c == nil {
					t.Fatalf("refused: %v", err)
				}
				// What is taken is also allowed, where it is one origin.
				if !strings.Contains(tt.origin, "*") && (!c.Allows(tt.origin) || c.Trusts(tt.origin) != (tt.with&credentials != 0)) {
					t.Error("the origin that is configured is not allowed")
				}
				return
			}
			if c != nil || len(got) != 1 || got[0].Key != "cors.origins" || !strings.Contains(got[0].Error(), tt.want) {
				t.Fatalf("mistakes = %v, want one that says %q", got, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Error("a password is shown")
			}
		})
	}
}

// Everything that is wrong is said at once, in the order of the configuration.
func TestEveryMistakeAtOnce(t *testing.T) {
	cfg := Config{
		Origins:         []string{"https://a.example.com", "null", "*", "https://A.example.com/"},
		Methods:         []string{"GET", "patch", "*", "TRACE", "GET IT"},
		RequestHeaders:  []string{"Authorization", "*", "Cookie", "Sec-Fetch-Site", "Access-Control-Allow-Origin", "X Y", ""},
		ResponseHeaders: []string{"X-Request-Id", "*", "Set-Cookie", "Origin", "X:Y"},
		Credentials:     true,
		MaxAge:          25 * time.Hour,
	}
	c, err := New(cfg)
	if c != nil {
		t.Error("it was made nevertheless")
	}
	var got []string
	for _, m := range mistakes(t, err) {
		got = append(got, m.Key+" "+m.Value)
	}
	want := []string{
		"cors.origins null", "cors.origins *", "cors.origins *", "cors.origins https://A.example.com/",
		"cors.methods patch", "cors.methods *", "cors.methods TRACE", "cors.methods GET IT",
		"cors.request_headers *", "cors.request_headers Cookie", "cors.request_headers Sec-Fetch-Site",
		"cors.request_headers Access-Control-Allow-Origin", "cors.request_headers X Y", "cors.request_headers ",
		"cors.response_headers *", "cors.response_headers Set-Cookie", "cors.response_headers Origin", "cors.response_headers X:Y",
		"cors.max_age 25h0m0s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("mistakes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if e, ok := errors.AsType[*ConfigError](err); !ok || e.Key != "cors.origins" {
		t.Errorf("errors.As finds no *ConfigError in %v", err)
	}

	// The same without the mistakes; what a caller does with its slices later
	// changes nothing.
	cfg = Config{Origins: []string{"https://a.example.com"}, Methods: []string{"GET", "PATCH"}, RequestHeaders: []string{"Authorization"}, ResponseHeaders: []string{"X-Request-Id"}, Credentials: true, MaxAge: 24 * time.Hour}
	if c, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Origins[0] = "https://b.example.com"
	if !c.Trusts("https://a.example.com") || c.Trusts("https://b.example.com") {
		t.Error("a slice of the Config is shared")
	}
	// Mistakes are found also where nobody is allowed.
	if _, err := New(Config{Methods: []string{"patch"}}); len(mistakes(t, err)) != 1 {
		t.Errorf("without origins: %v", err)
	}
}

func TestMaxAge(t *testing.T) {
	for _, tt := range []struct {
		age  time.Duration
		want string // the header; "" if refused
	}{
		{0, "600"},
		{time.Second, "1"},
		{time.Hour, "3600"},
		{24 * time.Hour, "86400"},
		{-time.Second, ""},
		{time.Millisecond, ""},
		{1500 * time.Millisecond, ""},
		{24*time.Hour + time.Second, ""},
		{1<<63 - 1, ""},
	} {
		c, err := New(Config{Origins: []string{"https://a.example.com"}, MaxAge: tt.age})
		if tt.want == "" {
			if got := mistakes(t, err); len(got) != 1 || got[0].Key != "cors.max_age" {
				t.Errorf("%v: %v", tt.age, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", tt.age, err)
			continue
		}
		w := httptest.NewRecorder()
		c.Handler(http.NotFoundHandler()).ServeHTTP(w, preflight("https://a.example.com", "PUT", ""))
		if got := w.Header().Get("Access-Control-Max-Age"); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.age, got, tt.want)
		}
	}
}

func preflight(origin, method, headers string) *http.Request {
	r := httptest.NewRequest("OPTIONS", "/", nil)
	r.Header.Set("Origin", origin)
	r.Header.Set("Access-Control-Request-Method", method)
	if headers != "" {
		r.Header.Set("Access-Control-Request-Headers", headers)
	}
	return r
}

// Nobody is allowed where nobody is named, and it costs nothing.
func TestWithoutOrigins(t *testing.T) {
	next := &count{}
	for name, c := range map[string]*CORS{"zero value": new(CORS), "zero Config": must(t, Config{}), "with credentials": must(t, Config{Credentials: true})} {
		if got := c.Handler(next); got != http.Handler(next) {
			t.Errorf("%s: the handler is wrapped", name)
		}
		for _, origin := range []string{"", "null", "*", "https://a.example.com"} {
			if c.Allows(origin) || c.Trusts(origin) {
				t.Errorf("%s: %q is allowed", name, origin)
			}
		}
	}
	if c := must(t, Config{Origins: []string{"https://a.example.com"}}); c.Handler(next) == http.Handler(next) {
		t.Error("with an origin the handler is not wrapped")
	}
}

type count struct{ n int }

func (c *count) ServeHTTP(http.ResponseWriter, *http.Request) { c.n++ }

func must(t testing.TB, cfg Config) *CORS {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// over asks a real server, with header lines as pairs, and returns the answer.
func over(t *testing.T, srv *httptest.Server, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	res, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// corsHeaders returns the names of a response's CORS headers.
func corsHeaders(h http.Header) (names []string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// C: an origin is allowed whole or not at all, by suffix, prefix, port, null,
// trailing dot, case and scheme; beside each refusal what is allowed.
func TestC_OriginsOverHTTP(t *testing.T) {
	exact := []string{"https://app.example.com", "https://app.example.com:8443", "http://localhost:*", "https://[2001:db8::1]"}
	pattern := []string{"https://*.example.com"}
	for _, tt := range []struct {
		name    string
		origins []string
		origin  string
		allowed bool
	}{
		{"the origin", exact, "https://app.example.com", true},
		{"the origin with its other port", exact, "https://app.example.com:8443", true},
		{"any port of localhost", exact, "http://localhost:3000", true},
		{"localhost without a port", exact, "http://localhost", true},
		{"an IPv6 address", exact, "https://[2001:db8::1]", true},
		{"a subdomain of a pattern", pattern, "https://a.example.com", true},
		{"a subdomain of a subdomain", pattern, "https://b.a.example.com", true},
		{"everybody", []string{"*"}, "https://evil.example", true},
		{"everybody, null too", []string{"*"}, "null", true},

		{"suffix", exact, "https://evilapp.example.com", false},
		{"suffix with a dot", exact, "https://evil.app.example.com", false},
		{"prefix", exact, "https://app.example.com.evil.example", false},
		{"prefix without a dot", exact, "https://app.example.comevil.example", false},
		{"user name", exact, "https://app.example.com@evil.example", false},
		{"the name as a user", exact, "https://evil.example@app.example.com", false},
		{"path", exact, "https://app.example.com/", false},
		{"backslash", exact, `https://app.example.com\.evil.example`, false},
		{"query", exact, "https://evil.example?https://app.example.com", false},
		{"fragment", exact, "https://evil.example#https://app.example.com", false},
		{"other port", exact, "https://app.example.com:8444", false},
		{"the scheme's own port", exact, "https://app.example.com:443", false},
		{"port with a zero", exact, "https://app.example.com:08443", false},
		{"port with a sign", exact, "https://app.example.com:+8443", false},
		{"port without digits", exact, "https://app.example.com:", false},
		{"two ports", exact, "https://app.example.com:8443:8443", false},
		{"null", exact, "null", false},
		{"nothing", exact, "", false},
		{"everybody's sign", exact, "*", false},
		{"trailing dot", exact, "https://app.example.com.", false},
		{"leading dot", exact, "https://.app.example.com", false},
		{"case of the host", exact, "https://APP.example.com", false},
		{"case of the scheme", exact, "HTTPS://app.example.com", false},
		{"scheme", exact, "http://app.example.com", false},
		{"scheme that ends alike", exact, "xhttps://app.example.com", false},
		{"no scheme", exact, "app.example.com", false},
		{"the name in brackets", exact, "https://[app.example.com]", false},
		{"an address without brackets", exact, "https://2001:db8::1", false},
		{"an address that goes on", exact, "https://[2001:db8::1].evil.example", false},
		{"a list", exact, "https://app.example.com https://evil.example", false},
		{"a list with a comma", exact, "https://app.example.com,https://evil.example", false},
		{"localhost as a prefix", exact, "http://localhost.evil.example:3000", false},
		{"localhost with another scheme", exact, "https://localhost:3000", false},
		{"no pattern is configured", exact, "https://*.example.com", false},

		{"the pattern's own domain", pattern, "https://example.com", false},
		{"the pattern's suffix without a dot", pattern, "https://evilexample.com", false},
		{"the pattern as a prefix", pattern, "https://a.example.com.evil.example", false},
		{"the pattern behind a slash", pattern, "https://evil.example/.example.com", false},
		{"the pattern behind a query", pattern, "https://evil.example?.example.com", false},
		{"the pattern behind a fragment", pattern, "https://evil.example#.example.com", false},
		{"the pattern behind a backslash", pattern, `https://evil.example\.example.com`, false},
		{"the pattern behind a user", pattern, "https://evil@a.example.com", false},
		{"the pattern with a port", pattern, "https://a.example.com:8443", false},
		{"the pattern with another scheme", pattern, "http://a.example.com", false},
		{"the pattern with a trailing dot", pattern, "https://a.example.com.", false},
		{"the pattern in capitals", pattern, "https://A.example.com", false},
		{"the pattern and null", pattern, "null", false},
		{"a label that is the pattern's", pattern, "https://*.example.com", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, credentials := range []bool{false, true} {
				if credentials && tt.origins[0] == "*" {
					continue
				}
				c := must(t, Config{Origins: tt.origins, Credentials: credentials})
				if got := c.Allows(tt.origin); got != tt.allowed {
					t.Errorf("Allows = %v", got)
				}
				if got := c.Trusts(tt.origin); got != (tt.allowed && credentials) {
					t.Errorf("Trusts = %v with credentials %v", got, credentials)
				}
				srv := httptest.NewServer(c.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "read") })))
				defer srv.Close()

				// The request itself is answered in any case.
				res, text := over(t, srv, "GET", "/", "Origin", tt.origin)
				if res.StatusCode != 200 || text != "read" {
					t.Errorf("%d %q", res.StatusCode, text)
				}
				if vary := res.Header.Get("Vary"); vary != "Origin" && tt.origins[0] != "*" {
					t.Errorf("Vary = %q", vary)
				}
				origin := tt.origin
				if tt.origins[0] == "*" {
					origin = "*"
				}
				want, pre := "[]", 403
				if tt.allowed {
					want, pre = "["+origin+"]", 204
				}
				if got := fmt.Sprint(res.Header.Values("Access-Control-Allow-Origin")); got != want {
					t.Errorf("Access-Control-Allow-Origin = %s, want %s", got, want)
				}
				if got := res.Header.Get("Access-Control-Allow-Credentials"); (got == "true") != (tt.allowed && credentials) || got != "" && got != "true" {
					t.Errorf("Access-Control-Allow-Credentials = %q", got)
				}
				if !tt.allowed && corsHeaders(res.Header) != nil {
					t.Errorf("headers for a stranger: %v", corsHeaders(res.Header))
				}

				res, text = over(t, srv, "OPTIONS", "/", "Origin", tt.origin, "Access-Control-Request-Method", "PUT")
				if res.StatusCode != pre || fmt.Sprint(res.Header.Values("Access-Control-Allow-Origin")) != want || text == "read" {
					t.Errorf("preflight: %d %v %q", res.StatusCode, res.Header, text)
				}
				if tt.origin != "" && tt.origin != "*" && strings.Contains(text, tt.origin) {
					t.Errorf("the refusal repeats the origin: %s", text)
				}
			}
		})
	}
}

// Two lines of Origin are nobody's, whatever their order.
func TestC_TwoOrigins(t *testing.T) {
	c := must(t, Config{Origins: []string{"https://a.example.com"}, Credentials: true})
	h := c.Handler(&count{})
	for _, lines := range [][]string{{"https://a.example.com", "https://evil.example"}, {"https://evil.example", "https://a.example.com"}} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Origin"] = lines
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if corsHeaders(w.Header()) != nil || w.Header().Get("Vary") != "Origin" {
			t.Errorf("%q: %v", lines, w.Header())
		}
	}
}

// C: wrong preflights, each beside one that is right.
func TestC_Preflights(t *testing.T) {
	const a = "https://a.example.com"
	next := &count{}
	c := must(t, Config{Origins: []string{a}, Credentials: true})
	srv := httptest.NewServer(c.Handler(next))
	defer srv.Close()
	for _, tt := range []struct {
		name, method, headers string
		more                  []string
		status                int
	}{
		{"put", "PUT", "", nil, 204},
		{"patch", "PATCH", "", nil, 204},
		{"delete", "DELETE", "", nil, 204},
		{"post", "POST", "content-type", nil, 204},
		{"get with a token", "GET", "authorization", nil, 204},
		{"all headers", "PUT", "authorization,content-type,x-api-key,x-request-id", nil, 204},
		{"headers with spaces", "PUT", "authorization, content-type", nil, 204},

		{"method in small letters", "put", "", nil, 403},
		{"patch in small letters", "patch", "", nil, 403},
		{"unknown method", "PURGE", "", nil, 403},
		{"trace", "TRACE", "", nil, 403},
		{"connect", "CONNECT", "", nil, 403},
		{"everybody's sign for a method", "*", "", nil, 403},
		{"two methods", "PUT, DELETE", "", nil, 403},
		{"unknown header", "PUT", "x-other", nil, 403},
		{"known and unknown header", "PUT", "authorization,x-other", nil, 403},
		{"everybody's sign for a header", "PUT", "*", nil, 403},
		{"cookie", "PUT", "cookie", nil, 403},
		{"many headers", "PUT", strings.Repeat("x-other,", 2000), nil, 403},
		{"many commas", "PUT", strings.Repeat(",", 20_000), nil, 403},

		// No page is let into a private network: neither name of that header is
		// ever sent.
		{"private network", "PUT", "", []string{"Access-Control-Request-Private-Network", "true"}, 204},
		{"local network", "PUT", "", []string{"Access-Control-Request-Local-Network", "true"}, 204},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := append([]string{"Origin", a, "Access-Control-Request-Method", tt.method}, tt.more...)
			if tt.headers != "" {
				header = append(header, "Access-Control-Request-Headers", tt.headers)
			}
			res, text := over(t, srv, "OPTIONS", "/", header...)
			if res.StatusCode != tt.status {
				t.Fatalf("status %d: %s", res.StatusCode, text)
			}
			got := corsHeaders(res.Header)
			if tt.status == 403 {
				if len(got) > 0 {
					t.Errorf("a refused preflight has %v", got)
				}
				if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" || !strings.Contains(text, `"code":"cross_origin"`) {
					t.Errorf("%s: %s", ct, text)
				}
				return
			}
			for _, name := range got {
				if strings.Contains(name, "Network") {
					t.Errorf("%s is sent", name)
				}
			}
			if text != "" || res.Header.Get("Access-Control-Max-Age") != "600" || res.Header.Get("Access-Control-Allow-Credentials") != "true" {
				t.Errorf("%v %q", res.Header, text)
			}
		})
	}
	if next.n != 0 {
		t.Fatalf("%d preflights reached the handler", next.n)
	}

	// What is no preflight does.
	for _, header := range [][]string{
		{},
		{"Origin", a},
		{"Access-Control-Request-Method", "PUT"},
	} {
		before := next.n
		if over(t, srv, "OPTIONS", "/", header...); next.n != before+1 {
			t.Errorf("OPTIONS with %v did not reach the handler", header)
		}
	}
	if over(t, srv, "GET", "/", "Origin", a, "Access-Control-Request-Method", "PUT"); next.n != 4 {
		t.Error("a GET was taken for a preflight")
	}
}

// What is configured is what is allowed, and nothing else.
func TestOwnMethodsAndHeaders(t *testing.T) {
	const a = "https://a.example.com"
	c := must(t, Config{Origins: []string{a}, Methods: []string{"GET", "PURGE"}, RequestHeaders: []string{"X-Own"}, ResponseHeaders: []string{"X-Total"}})
	h := c.Handler(&count{})
	for _, tt := range []struct {
		method, headers string
		status          int
	}{
		{"PURGE", "", 204}, {"GET", "x-own", 204}, {"POST", "", 204}, // browsers send POST anyway
		{"PUT", "", 403}, {"DELETE", "", 403}, {"GET", "authorization", 403}, {"POST", "content-type", 403},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, preflight(a, tt.method, tt.headers))
		if w.Code != tt.status {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.headers, w.Code, tt.status)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Origin", a)
	h.ServeHTTP(w, r)
	if got := w.Header().Get("Access-Control-Expose-Headers"); got != "x-total" {
		t.Errorf("exposed: %q", got)
	}
	// The defaults.
	w = httptest.NewRecorder()
	must(t, Config{Origins: []string{a}}).Handler(&count{}).ServeHTTP(w, r)
	if got := w.Header().Get("Access-Control-Expose-Headers"); got != "ratelimit,ratelimit-policy,retry-after,www-authenticate,x-request-id" {
		t.Errorf("exposed by default: %q", got)
	}
}

// C: pages can read refusals and failures as well as answers.
func TestC_ErrorsCarryTheHeaders(t *testing.T) {
	const a, evil = "https://a.example.com", "https://evil.example"
	mux := http.NewServeMux()
	for _, status := range []int{400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503} {
		mux.HandleFunc(fmt.Sprintf("/%d", status), func(w http.ResponseWriter, _ *http.Request) {
			if status == 401 {
				w.Header().Set("Www-Authenticate", "Bearer")
			}
			sallyport.WriteError(w, &sallyport.Error{Status: status, Code: "code", Message: "Message."})
		})
	}
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 404) })
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("as a handler does") })
	mux.HandleFunc("POST /method", func(http.ResponseWriter, *http.Request) {})
	inner := must(t, Config{Origins: []string{a}, Credentials: true}).Handler(mux)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "id")
		defer func() {
			if recover() != nil {
				sallyport.WriteError(w, sallyport.Internal())
			}
		}()
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	for path, status := range map[string]int{
		"/400": 400, "/401": 401, "/403": 403, "/404": 404, "/409": 409, "/413": 413, "/415": 415, "/422": 422, "/429": 429, "/500": 500, "/503": 503,
		"/plain": 404, "/panic": 500, "/nowhere": 404, "/method": 405,
	} {
		res, _ := over(t, srv, "GET", path, "Origin", a)
		h := res.Header
		if res.StatusCode != status || h.Get("Access-Control-Allow-Origin") != a || h.Get("Access-Control-Allow-Credentials") != "true" ||
			!strings.Contains(h.Get("Access-Control-Expose-Headers"), "x-request-id") || h.Get("Vary") != "Origin" || h.Get("X-Request-Id") != "id" {
			t.Errorf("%s: %d %v", path, res.StatusCode, h)
		}
		res, _ = over(t, srv, "GET", path, "Origin", evil)
		if got := corsHeaders(res.Header); res.StatusCode != status || got != nil {
			t.Errorf("%s for a stranger: %d %v", path, res.StatusCode, got)
		}
	}
}

// C: Vary is added to, whoever else writes it, and also without Origin.
func TestC_VaryIsAppended(t *testing.T) {
	const a = "https://a.example.com"
	h := must(t, Config{Origins: []string{a}}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Vary", "Accept")
	}))
	for _, origin := range []string{"", a, "https://evil.example", "nonsense"} {
		r := httptest.NewRequest("GET", "/", nil)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		w.Header().Set("Vary", "Accept-Encoding")
		h.ServeHTTP(w, r)
		if got := strings.Join(w.Header().Values("Vary"), ", "); got != "Accept-Encoding, Origin, Accept" {
			t.Errorf("origin %q: Vary = %q", origin, got)
		}
	}
	// No response can write into another's headers.
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	w.Header()["Vary"][0] = "spoilt"
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if got := w.Header().Values("Vary"); got[0] != "Origin" {
		t.Errorf("Vary = %q", got)
	}
}

// The handler gets the writer that came in: what it can do besides stays.
func TestTheWriterIsNotWrapped(t *testing.T) {
	var got http.ResponseWriter
	h := must(t, Config{Origins: []string{"https://a.example.com"}}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { got = w }))
	for _, origin := range []string{"", "https://a.example.com", "nonsense"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if h.ServeHTTP(w, r); got != http.ResponseWriter(w) {
			t.Errorf("origin %q: the writer is a %T", origin, got)
		}
	}
}

// Whatever Origin is sent, only what is configured is allowed, and Trusts, the
// answer to a request and the answer to a preflight are of one mind.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example.com", "https://b.example.org", "https://x/.example.org", "https://[a.example.com]", "http://localhost:1", "null", "", "https://a.example.com.", "https://[2001:db8::1]:8443"} {
		f.Add(s)
	}
	c := must(f, Config{Origins: []string{"https://a.example.com", "https://*.example.org", "http://localhost:*", "https://[2001:db8::1]:8443"}, Credentials: true})
	h := c.Handler(&count{})
	f.Fuzz(func(t *testing.T, origin string) {
		host, isSub := strings.CutSuffix(strings.TrimPrefix(origin, "https://"), ".example.org")
		want := origin == "https://a.example.com" || origin == "https://[2001:db8::1]:8443" || origin == "http://localhost" ||
			isSub && strings.HasPrefix(origin, "https://") && host != "" && !strings.ContainsFunc(host, func(r rune) bool {
				return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
			})
		if port, ok := strings.CutPrefix(origin, "http://localhost:"); ok {
			var n uint16
			_, err := fmt.Sscanf(port, "%d", &n)
			want = err == nil && n > 0 && fmt.Sprint(n) == port
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Origin"] = []string{origin}
		w, p := httptest.NewRecorder(), httptest.NewRecorder()
		h.ServeHTTP(w, r)
		pre := preflight("", "PUT", "")
		pre.Header["Origin"] = []string{origin}
		h.ServeHTTP(p, pre)
		if got := w.Header().Get("Access-Control-Allow-Origin"); (got != "") != want || got != "" && got != origin {
			t.Fatalf("%q: allowed %q, want %v", origin, got, want)
		}
		if c.Trusts(origin) != want || c.Allows(origin) != want || (p.Code == 204) != want {
			t.Fatalf("%q: Trusts %v, Allows %v, preflight %d, want %v", origin, c.Trusts(origin), c.Allows(origin), p.Code, want)
		}
	})
}
