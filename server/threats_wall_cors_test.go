package server_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// CORS as the whole server has it (letter C of the threat list).

const friend = "https://app.example.com"

// strangers are origins that look like a friend and are none.
var strangers = []string{
	"https://evil.example", "null", "https://app.example.com.evil.example", "https://evilapp.example.com", "https://app.example.com.", "https://app.example.com:8443", "https://app.example.com:443",
	"http://app.example.com", "https://example.com", "https://sub.app.example.com", "https://app.example.com/", "https://APP.example.com", "https://app.example.com@evil.example", "https://app.example.com evil.example", "", "*",
}

// readableBy fails unless an answer may be read by a friend's page, and a cache
// knows that by itself.
func readableBy(t *testing.T, what string, r reply, origin string) {
	t.Helper()
	if got := r.header["Access-Control-Allow-Origin"]; len(got) != 1 || got[0] != origin {
		t.Errorf("%s: status %d, Access-Control-Allow-Origin %q, want %q", what, r.status, got, origin)
	}
	varies(t, what, r)
	for _, name := range []string{"X-Request-Id", "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"} {
		if got := r.header.Get("Access-Control-Expose-Headers"); !slices.ContainsFunc(strings.Split(got, ","), func(s string) bool { return strings.EqualFold(s, name) }) {
			t.Errorf("%s: %s is not in Access-Control-Expose-Headers %q", what, name, got)
		}
	}
}

func varies(t *testing.T, what string, r reply) {
	t.Helper()
	if !strings.Contains(strings.Join(r.header["Vary"], ","), "Origin") {
		t.Errorf("%s: status %d: Vary %q does not name Origin", what, r.status, r.header["Vary"])
	}
}

// closed fails if a page of another origin may read anything of an answer.
func closed(t *testing.T, what string, r reply) {
	t.Helper()
	for name := range r.header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s: status %d: %s: %s", what, r.status, name, r.header.Get(name))
		}
	}
}

// classes are requests of which each is answered in another way.
func classes(w *world, tk tokens) map[int]func() *http.Request {
	text := func() *http.Request {
		req := w.request("PATCH", "/users/me", tk.access, "{}")
		req.Header.Set("Content-Type", "text/plain")
		return req
	}
	return map[int]func() *http.Request{
		200: func() *http.Request { return w.request("GET", "/users/me", tk.access, nil) },
		201: func() *http.Request { return w.request("POST", "/api-keys", tk.access, `{"name":"k","scopes":[]}`) },
		204: func() *http.Request { return w.request("GET", "/varies", "", nil) },
		307: func() *http.Request { return w.request("GET", "/users//me", "", nil) },
		400: func() *http.Request { return w.request("PATCH", "/users/me", tk.access, "{") },
		401: func() *http.Request { return w.request("GET", "/users/me", "", nil) },
		403: func() *http.Request { return w.request("GET", "/users", tk.access, nil) },
		404: func() *http.Request { return w.request("GET", "/nothing", "", nil) },
		405: func() *http.Request { return w.request("DELETE", "/openapi.json", "", nil) },
		409: func() *http.Request {
			return w.request("POST", "/auth/register", "", map[string]string{"email": "ada@example.com", "password": goodPassword})
		},
		413: func() *http.Request {
			return w.request("POST", "/auth/register", "", strings.Repeat(" ", api.MaxAuthBody+1))
		},
		415: text,
		422: func() *http.Request { return w.request("PATCH", "/users/me", tk.access, `{"x":1}`) },
		429: func() *http.Request { return w.request("GET", "/rare", "", nil) },
		500: func() *http.Request { return w.request("GET", "/panics", "", nil) },
	}
}

func unusual(w *world) {
	w.mux.HandleFunc("GET /panics", sallyport.Public(), func(http.ResponseWriter, *http.Request) { panic("planted") })
	w.mux.HandleFunc("GET /varies", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Vary", "Accept-Language")
		w.WriteHeader(204)
	})
	w.mux.HandleFunc("GET /rare", sallyport.Public(), whoami, sallyport.Limit{Rate: "1/day", By: sallyport.ByRoute})
}

// A friend's page can read every class of answer, and a stranger's none; each
// answer says that it differs by origin.
func TestC_EveryClassOfResponse(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), unusual, func(c *server.Config) { c.CORS = cors.Config{Origins: []string{friend, "https://*.wide.example"}} })
	_, tk := w.user("ada")
	w.do("GET", "/rare", "", nil).want(t, 200, "")
	ask := func(req *http.Request, origin string) reply {
		if origin != "-" {
			req.Header["Origin"] = []string{origin}
		}
		return w.send(req)
	}
	for status, req := range classes(w, tk) {
		for _, origin := range []string{friend, "https://a.wide.example", "https://b.a.wide.example"} {
			r := ask(req(), origin)
			if r.status != status {
				t.Errorf("status %d, want %d: %.300s", r.status, status, r.body)
			}
			readableBy(t, fmt.Sprint(status, " for ", origin), r, origin)
			if r.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%d: credentials are allowed", status)
			}
		}
		for _, origin := range append([]string{"-", "https://wide.example"}, strangers...) {
			r := ask(req(), origin)
			if r.status != status {
				t.Errorf("from %q: status %d, want %d: %.300s", origin, r.status, status, r.body)
			}
			closed(t, fmt.Sprint(status, " for ", origin), r)
			varies(t, fmt.Sprint(status, " for ", origin), r)
		}
	}
	for _, path := range []string{"/docs", "/docs/init.js", "/docs/swagger-ui-bundle.js", "/openapi.json", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
		readableBy(t, path, ask(w.request("GET", path, "", nil), friend), friend)
		closed(t, path, ask(w.request("GET", path, "", nil), strangers[0]))
	}
	if got := strings.Join(ask(w.request("GET", "/varies", "", nil), friend).header["Vary"], ", "); !strings.Contains(got, "Accept-Language") {
		t.Errorf("what a handler wrote into Vary is gone: %s", got)
	}
	two := w.request("GET", "/users/me", tk.access, nil)
	two.Header["Origin"] = []string{friend, friend}
	closed(t, "two origins", w.send(two))
}

// The limits and the lock of the server can be read, too: a page has to know how
// long to wait.
func TestC_RefusalsOfTheWall(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, overHTTPS, func(c *server.Config) {
		c.CORS = cors.Config{Origins: []string{friend}}
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Limits = server.Limits{Default: "30/hour", Login: "3/hour", Guesses: "2/hour"}
	})
	from := func(v *visitor, req *http.Request) reply {
		req.Header.Set("Origin", friend)
		return v.send(req)
	}
	v := w.at("127.0.70.1")
	for what, req := range map[string]func() *http.Request{
		"passwords": func() *http.Request { return w.signInRequests("ada", badPassword)["/auth/login JSON"] },
		"guesses":   func() *http.Request { return w.keyed("GET", "/users/me", made(), nil) },
		"all":       func() *http.Request { return w.request("GET", "/openapi.json", "", nil) },
	} {
		var r reply
		for range 40 {
			if r = from(v, req()); r.status == 429 {
				break
			}
		}
		readableBy(t, what, r.want(t, 429, "rate_limited"), friend)
	}
	clear := w.request("GET", "/users/me", "", nil)
	clear.Header.Set("X-Forwarded-Proto", "http")
	readableBy(t, "in clear", from(w.at("127.0.70.2"), clear).want(t, 403, "https_required"), friend)
	closed(t, "in clear", v.send(w.request("GET", "/users/me", "", nil)))
}

// A preflight is answered by the wall: it needs no credential, reaches no handler
// and is not counted.
func TestC_Preflights(t *testing.T) {
	var reached atomic.Int64
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		w.mux.HandleFunc("/any", sallyport.Public(), func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	}, limited(server.Limits{Default: "10/hour", Login: server.LimitOff}), func(c *server.Config) {
		c.CORS = cors.Config{Origins: []string{friend}, MaxAge: 2 * time.Minute}
		c.APIKeyHeader = "X-Service-Key"
	})
	preflight := func(path, origin, method, headers string) reply {
		req := w.request("OPTIONS", path, "", nil)
		req.Header["Origin"] = []string{origin}
		req.Header.Set("Access-Control-Request-Method", method)
		if headers != "" {
			req.Header.Set("Access-Control-Request-Headers", headers)
		}
		return w.send(req)
	}
	routes := w.mux.Routes()
	for _, r := range routes {
		path := strings.NewReplacer("{id}", "x", "{name}", "x", "{kid}", "x", "{file}", "x").Replace(r.Path)
		if path == "/livez" || path == "/readyz" || strings.HasPrefix(path, forward.Prefix) {
			continue // for who stands beside the server
		}
		method := r.Method
		if method == "*" {
			method = "PUT"
		}
		res := preflight(path, friend, method, "authorization,content-type,x-request-id,x-service-key")
		if res.status != 204 || res.header.Get("Access-Control-Allow-Origin") != friend || res.header.Get("Access-Control-Max-Age") != "120" || len(res.body) != 0 {
			t.Errorf("%s %s: %d %v", method, path, res.status, res.header)
		}
		if method != "GET" && method != "POST" && !strings.Contains(res.header.Get("Access-Control-Allow-Methods"), method) {
			t.Errorf("%s %s: allowed are %q", method, path, res.header.Get("Access-Control-Allow-Methods"))
		}
		if res.header.Get("X-Content-Type-Options") != "nosniff" || res.header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: %v", method, path, res.header)
		}
	}
	for what, c := range map[string][3]string{
		"a method": {friend, "PURGE", ""}, "a method in lower case": {friend, "patch", ""}, "a header": {friend, "PUT", "x-other"}, "the usual name of the key": {friend, "PUT", "x-api-key"},
		"one of several": {friend, "PUT", "authorization,x-other"}, "cookies by hand": {friend, "PUT", "cookie"},
	} {
		res := preflight("/any", c[0], c[1], c[2])
		closed(t, what, res.want(t, 403, "cross_origin"))
	}
	for _, origin := range strangers {
		closed(t, origin, preflight("/any", origin, "PUT", "authorization").want(t, 403, "cross_origin"))
	}
	if reached.Load() != 0 {
		t.Errorf("%d preflights reached the handler", reached.Load())
	}
	// An OPTIONS that is no preflight does, and counts.
	w.do("OPTIONS", "/any", "", nil).want(t, 200, "")
	if reached.Load() != 1 {
		t.Error("what is no preflight is kept from the handler")
	}
	for range 9 {
		w.do("GET", "/any", "", nil).want(t, 200, "")
	}
	w.do("GET", "/any", "", nil).want(t, 429, "")
	preflight("/any", friend, "PUT", "").want(t, 204, "")
}

// Without configuration there is no CORS, and preflights are as any OPTIONS.
func TestC_NoneByDefault(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), unusual)
	_, tk := w.user("ada")
	w.do("GET", "/rare", "", nil).want(t, 200, "")
	for status, req := range classes(w, tk) {
		for _, origin := range []string{friend, w.http.URL, baseURL, "null"} {
			r := req()
			r.Header.Set("Origin", origin)
			res := w.send(r)
			if res.status != status {
				t.Errorf("status %d, want %d", res.status, status)
			}
			closed(t, fmt.Sprint(status), res)
			if strings.Contains(strings.Join(res.header["Vary"], ","), "Origin") {
				t.Errorf("%d: Vary %q", status, res.header["Vary"])
			}
		}
	}
	req := w.request("OPTIONS", "/users/me", "", nil)
	req.Header.Set("Origin", friend)
	req.Header.Set("Access-Control-Request-Method", "PATCH")
	closed(t, "a preflight", w.send(req).want(t, 405, "method_not_allowed"))
}

// A configuration that could not be meant does not start, and each mistake is
// named as the configuration file has it.
func TestC_ConfigurationMistakes(t *testing.T) {
	d := testkit.SQLite(t)
	for name, tt := range map[string]struct {
		cors cors.Config
		want [][2]string // key and value
	}{
		"everybody with credentials": {cors.Config{Origins: []string{"*"}, Credentials: true}, [][2]string{{"cors.origins", "*"}}},
		"everybody and others":       {cors.Config{Origins: []string{"*", friend}}, [][2]string{{"cors.origins", "*"}}},
		"null":                       {cors.Config{Origins: []string{"null"}}, [][2]string{{"cors.origins", "null"}}},
		"a slash":                    {cors.Config{Origins: []string{friend + "/"}}, [][2]string{{"cors.origins", friend + "/"}}},
		"no scheme":                  {cors.Config{Origins: []string{"app.example.com"}}, [][2]string{{"cors.origins", "app.example.com"}}},
		"in clear":                   {cors.Config{Origins: []string{"http://app.example.com"}}, [][2]string{{"cors.origins", "http://app.example.com"}}},
		"capitals":                   {cors.Config{Origins: []string{"https://App.example.com"}}, [][2]string{{"cors.origins", "https://App.example.com"}}},
		"a public suffix":            {cors.Config{Origins: []string{"https://*.github.io"}}, [][2]string{{"cors.origins", "https://*.github.io"}}},
		"half a name":                {cors.Config{Origins: []string{"https://*example.com"}}, [][2]string{{"cors.origins", "https://*example.com"}}},
		"any port":                   {cors.Config{Origins: []string{"https://app.example.com:*"}}, [][2]string{{"cors.origins", "https://app.example.com:*"}}},
		"a user":                     {cors.Config{Origins: []string{"https://planted@app.example.com"}}, [][2]string{{"cors.origins", ""}}},
		"methods":                    {cors.Config{Origins: []string{friend}, Methods: []string{"patch", "TRACE", "A B", "*"}}, [][2]string{{"cors.methods", "patch"}, {"cors.methods", "TRACE"}, {"cors.methods", "A B"}, {"cors.methods", "*"}}},
		"request headers":            {cors.Config{Origins: []string{friend}, RequestHeaders: []string{"*", "Cookie", "A B", "Access-Control-Allow-Origin"}}, [][2]string{{"cors.headers", "*"}, {"cors.headers", "Cookie"}, {"cors.headers", "A B"}, {"cors.headers", "Access-Control-Allow-Origin"}}},
		"the age":                    {cors.Config{Origins: []string{friend}, MaxAge: 25 * time.Hour}, [][2]string{{"cors.max_age", "25h0m0s"}}},
		"all at once":                {cors.Config{Origins: []string{"null", "app.example.com"}, Methods: []string{"x y"}, RequestHeaders: []string{"*"}, MaxAge: -1}, [][2]string{{"cors.origins", "null"}, {"cors.origins", "app.example.com"}, {"cors.methods", "x y"}, {"cors.headers", "*"}, {"cors.max_age", "-1ns"}}},
	} {
		cfg := server.Config{DB: d, BaseURL: baseURL, MasterKeyFile: t.TempDir() + "/master.key", CORS: tt.cors}
		sv, err := server.New(t.Context(), cfg)
		if err == nil {
			sv.Close()
			t.Errorf("%s: it starts", name)
			continue
		}
		for _, all := range [][]*server.ConfigError{server.CheckWall(cfg), mistakes(err)} {
			var got [][2]string
			for _, m := range all {
				got = append(got, [2]string{m.Key, m.Value})
				if m.Reason == "" || m.Fix == "" {
					t.Errorf("%s: %+v", name, m)
				}
			}
			for _, want := range tt.want {
				if !slices.Contains(got, want) {
					t.Errorf("%s: %q is not among %q", name, want, got)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("%s: %d mistakes, want %d: %q", name, len(got), len(tt.want), got)
			}
		}
		if strings.Contains(err.Error(), "planted") || strings.Contains(err.Error(), "cors.request_headers") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, good := range map[string]cors.Config{
		"nobody": {}, "everybody": {Origins: []string{"*"}}, "a friend with credentials": {Origins: []string{friend, "https://*.wide.example", "http://localhost:*"}, Credentials: true},
	} {
		if m := server.CheckWall(server.Config{BaseURL: baseURL, CORS: good}); len(m) != 0 {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// mistakes takes joined errors apart.
func mistakes(err error) (all []*server.ConfigError) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, mistakes(e)...)
		}
		return all
	}
	if m, ok := errors.AsType[*server.ConfigError](err); ok {
		return append(all, m)
	}
	return all
}

// With credentials a friend's page may act with its visitor's cookie, and no
// other; without, none may. Who sends a credential by itself is not asked where
// from.
func TestC_TrustedOrigins(t *testing.T) {
	for _, credentials := range []bool{true, false} {
		t.Run(fmt.Sprintf("credentials %v", credentials), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), nil, overHTTPS, func(c *server.Config) {
				c.CORS = cors.Config{Origins: []string{friend, "https://*.wide.example"}, Credentials: credentials}
				c.APIKeyCookie, c.Basic = "key", true
			})
			_, tk := w.user("ada")
			key := w.key(tk)
			cookie := w.cookie("ada")
			headers := func(origin string) [][]string {
				return [][]string{{"Origin", origin}, {"Origin", origin, "Sec-Fetch-Site", "cross-site"}, {"Origin", origin, "Sec-Fetch-Site", "same-site"}}
			}
			name := 0
			// The ways in which a browser sends a credential by itself.
			write := func(req *http.Request, headers []string) reply {
				for i := 0; i < len(headers); i += 2 {
					req.Header[headers[i]] = []string{headers[i+1]}
				}
				return w.send(req)
			}
			patch := func() *http.Request {
				name++
				return w.request("PATCH", "/users/me", "", map[string]string{"full_name": fmt.Sprint("Ada ", name)})
			}
			bySelf := map[string]func() *http.Request{
				"the session cookie": func() *http.Request { r := patch(); r.Header.Set("Cookie", cookieName+"="+cookie); return r },
				"a key in a cookie": func() *http.Request {
					r := w.request("GET", "/users/me", "", nil)
					r.Method = "POST"
					r.URL.Path = "/logout/all"
					r.Header.Set("Cookie", "key="+key.key)
					return r
				},
				"Basic":     func() *http.Request { r := patch(); r.SetBasicAuth("ada", goodPassword); return r },
				"a sign-in": func() *http.Request { return w.signInCookie("ada", goodPassword, "") },
			}
			good := map[string]int{"the session cookie": 200, "a key in a cookie": 403, "Basic": 200, "a sign-in": 204}
			for what, req := range bySelf {
				for _, origin := range []string{friend, "https://a.wide.example"} {
					for _, h := range headers(origin) {
						r := write(req(), h)
						want, code := good[what], ""
						if !credentials {
							want, code = 403, "cross_origin"
						}
						if r.status != want || code != "" && !strings.Contains(string(r.body), code) || credentials && strings.Contains(string(r.body), "cross_origin") {
							t.Errorf("%s from a page of %s: %d %.200s", what, h, r.status, r.body)
						}
						readableBy(t, what, r, origin)
						if got := r.header.Get("Access-Control-Allow-Credentials"); got != map[bool]string{true: "true", false: ""}[credentials] {
							t.Errorf("%s: Access-Control-Allow-Credentials %q", what, got)
						}
					}
				}
				before := w.holdings()
				for _, origin := range strangers {
					if origin == "" {
						continue // no browser sends that
					}
					for _, h := range headers(origin) {
						r := write(req(), h)
						if r.status != 403 || !strings.Contains(string(r.body), "cross_origin") || r.header["Set-Cookie"] != nil {
							t.Errorf("%s from a page of %q: %d %.200s", what, h, r.status, r.body)
						}
						closed(t, what, r)
					}
				}
				w.holds(before)
			}
			for _, origin := range append([]string{friend}, strangers...) {
				for _, h := range headers(origin) {
					bearer, keyed := patch(), patch()
					bearer.Header.Set("Authorization", "Bearer "+tk.access)
					if r := write(bearer, h); r.status != 200 {
						t.Errorf("a token from a page of %q: %d %.200s", h, r.status, r.body)
					}
					keyed.Header.Set("X-API-Key", key.key)
					if r := write(keyed, h); strings.Contains(string(r.body), "cross_origin") || r.status != 403 && r.status != 200 {
						t.Errorf("a key from a page of %q: %d %.200s", h, r.status, r.body)
					}
				}
			}
		})
	}
}

// In a browser: a page of an allowed origin signs in, keeps its tokens itself, and
// reads what it may; the same page of another origin reads nothing at all.
func TestC_PagesOfOtherOrigins(t *testing.T) {
	html := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<!doctype html><html lang=en><title>page</title><body>page")
	})
	allowed, other := httptest.NewServer(html), httptest.NewServer(html)
	t.Cleanup(allowed.Close)
	t.Cleanup(other.Close)
	for _, credentials := range []bool{false, true} {
		t.Run(fmt.Sprintf("credentials %v", credentials), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "1000/hour", Login: "12/hour"}), func(c *server.Config) {
				c.BaseURL, c.InsecureLoopbackCookie = "http://127.0.0.1", true
				c.CORS = cors.Config{Origins: []string{allowed.URL}, Credentials: credentials}
			})
			ada := w.register("ada")
			b := newTab(t, w.http.URL)
			const signIn = `const r = await fetch(API + "/auth/login", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({username: "ada", password: PASSWORD})});
				const tokens = await r.json();`
			// As a page does that knows the API's address.
			run := func(page, script string) string {
				b.visit(page)
				return b.script(fmt.Sprintf("const API = %q, PASSWORD = %q;\n%s", w.http.URL, goodPassword, script))
			}
			scripts := map[string][2]string{
				"reads its account":       {signIn + `return (await (await fetch(API + "/users/me", {headers: {Authorization: "Bearer " + tokens.access_token}})).json()).id`, ada},
				"changes it":              {signIn + `return (await (await fetch(API + "/users/me", {method: "PATCH", headers: {Authorization: "Bearer " + tokens.access_token, "Content-Type": "application/json"}, body: '{"full_name":"Ada L."}'})).json()).full_name`, "Ada L."},
				"refreshes":               {signIn + `return (await fetch(API + "/token/refresh", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({refresh_token: tokens.refresh_token})})).status`, "200"},
				"reads a refusal":         {`const r = await fetch(API + "/users/me", {headers: {Authorization: "Bearer x"}}); return r.status + (await r.json()).code + (r.headers.get("X-Request-Id").length > 0) + r.headers.get("WWW-Authenticate").slice(0, 6)`, "401invalid_tokentrueBearer"},
				"reads what is not there": {`const r = await fetch(API + "/nothing"); return (await r.json()).code`, "not_found"},
			}
			for what, s := range scripts {
				if got := run(allowed.URL, s[0]); got != s[1] {
					t.Errorf("the allowed page %s: %q, want %q", what, got, s[1])
				}
				before := w.holdings()
				if got := run(other.URL, s[0]); !strings.HasPrefix(got, "failed: TypeError") {
					t.Errorf("another page %s: %q", what, got)
				}
				w.holds(before)
			}

			// The cookie: it works from the allowed page where credentials are on.
			cookies := `const opts = {credentials: "include", headers: {"Content-Type": "application/json"}};
				const s = await fetch(API + "/auth/login?mode=cookie", {...opts, method: "POST", body: JSON.stringify({username: "ada", password: PASSWORD})});
				const r = await fetch(API + "/users/me", {...opts, method: "PATCH", body: JSON.stringify({full_name: "by cookie"})});
				return s.status + " " + r.status`
			if got := run(allowed.URL, cookies); credentials && got != "204 200" || !credentials && !strings.HasPrefix(got, "failed: TypeError") {
				t.Errorf("the allowed page with a cookie: %q", got)
			}
			before := w.holdings()
			if got := run(other.URL, cookies); !strings.HasPrefix(got, "failed: TypeError") {
				t.Errorf("another page with a cookie: %q", got)
			}
			run(other.URL, `return (await fetch(API + "/logout/all", {method: "POST", mode: "no-cors", credentials: "include"})).type`)
			w.holds(before)

			// How long to wait can be read.
			limit := signIn + `let last; for (let i = 0; i < 20; i++) {
				last = await fetch(API + "/auth/login", {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"username":"nobody","password":"x"}'});
				if (last.status === 429) break;
			}
			return [last.status, Number(last.headers.get("Retry-After")) > 0, last.headers.get("RateLimit-Policy")].join()`
			if got := run(allowed.URL, limit); got != `429,true,"sign-in";q=12;w=3600` {
				t.Errorf("the allowed page at its limit: %q", got)
			}
		})
	}
}
