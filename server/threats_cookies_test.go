package server_test

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// The session cookie, and how a server takes it away.
const (
	cookieName = "__Host-sallyport"
	removal    = cookieName + "=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"
)

// overHTTPS has a server believe that browsers reach it there.
func overHTTPS(c *server.Config) { c.BaseURL = "https://sallyport.test" }

// browse makes a request with a cookie, or none, and headers: name, value …
func (w *world) browse(method, path, cookie string, body any, headers ...string) *http.Request {
	w.t.Helper()
	req := w.request(method, path, "", body)
	if cookie != "" {
		req.Header.Set("Cookie", cookieName+"="+cookie)
	}
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	return req
}

func (w *world) signInCookie(name, pw, cookie string, headers ...string) *http.Request {
	w.t.Helper()
	return w.browse("POST", "/auth/login?mode=cookie", cookie, map[string]string{"username": name, "password": pw}, headers...)
}

// cookie signs in as a browser does and returns the cookie's value.
func (w *world) cookie(name string) string {
	w.t.Helper()
	return cookieOf(w.t, w.send(w.signInCookie(name, goodPassword, "")).want(w.t, 204, ""))
}

// cookieOf returns the value of the one cookie that an answer sets.
func cookieOf(t *testing.T, r reply) string {
	t.Helper()
	set := r.header["Set-Cookie"]
	if len(set) != 1 {
		t.Fatalf("%d cookies set: %q", len(set), set)
	}
	pair, _, _ := strings.Cut(set[0], ";")
	_, value, _ := strings.Cut(pair, "=")
	return value
}

// lives reports whether a cookie is accepted. One that is not is taken away.
func (w *world) lives(cookie string) bool {
	w.t.Helper()
	r := w.send(w.browse("GET", "/users/me", cookie, nil))
	switch set := fmt.Sprint(r.header["Set-Cookie"]); {
	case r.status == 200 && set == "[]":
		return true
	case r.status == 401 && set == "["+removal+"]":
		return false
	default:
		w.t.Fatalf("status %d, Set-Cookie %s: %s", r.status, set, r.body)
		return false
	}
}

// sessionOfCookie returns the id of a cookie's session.
func (w *world) sessionOfCookie(cookie string) string {
	w.t.Helper()
	for _, item := range w.send(w.browse("GET", "/users/me/sessions", cookie, nil)).want(w.t, 200, "").json(w.t)["items"].([]any) {
		if m := item.(map[string]any); m["current"] == true {
			return m["id"].(string)
		}
	}
	w.t.Fatal("no session is the current one")
	return ""
}

// The cookie is set exactly as it must be, and taken away exactly so.
func TestC_CookieAttributes(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, overHTTPS)
		w.register("ada")
		r := w.send(w.signInCookie("ada", goodPassword, "")).want(t, 204, "")
		value := cookieOf(t, r)
		if !strings.HasPrefix(value, "st_") || len(value) != 90 {
			t.Errorf("value %q", value)
		}
		want := "__Host-sallyport=" + value + "; Path=/; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax"
		if got := r.header.Get("Set-Cookie"); got != want {
			t.Errorf("Set-Cookie %q\nwant       %q", got, want)
		}
		if len(r.body) != 0 || r.header.Get("Cache-Control") != "no-store" || r.header.Get("Content-Type") != "" {
			t.Errorf("headers %v, body %q", r.header, r.body)
		}
		me := w.send(w.browse("GET", "/users/me", value, nil)).want(t, 200, "")
		if me.text(t, "username") != "ada" || me.header["Set-Cookie"] != nil || me.header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v: %s", me.header, me.body)
		}
		for _, path := range []string{"/logout", "/auth/logout", "/logout/all"} {
			c := w.cookie("ada")
			out := w.send(w.browse("POST", path, c, nil))
			if set := out.header["Set-Cookie"]; out.status >= 300 || len(set) != 1 || set[0] != removal {
				t.Errorf("%s: status %d, Set-Cookie %q", path, out.status, set)
			}
			if w.lives(c) {
				t.Errorf("%s: the cookie lives", path)
			}
		}
		// Who signs out with a token has no cookie to lose.
		if r := w.do("POST", "/logout", w.signIn("ada", goodPassword).access, nil).want(t, 200, ""); r.header["Set-Cookie"] != nil {
			t.Errorf("Set-Cookie %q", r.header["Set-Cookie"])
		}
	})
}

// Only where the base URL is http:// on this machine, and only if told to, is the
// cookie not Secure. Where browsers would drop it, it is not set.
func TestC_CookieOverHTTP(t *testing.T) {
	const secure, insecure, refused = "__Host-sallyport", "sallyport", ""
	for _, tt := range []struct {
		base string
		dev  bool
		want string
	}{
		{"https://sallyport.test", false, secure},
		{"https://sallyport.test", true, secure},
		{"https://localhost", true, secure},
		{"https://sallyport.test/identity", true, secure},
		{"http://localhost:8080", true, insecure},
		{"http://LOCALHOST:8080", true, insecure},
		{"http://127.0.0.1:8080", true, insecure},
		{"http://[::1]:8080", true, insecure},
		{"http://localhost:8080", false, secure},
		{"http://127.0.0.1", false, secure},
		{"http://sallyport.test", false, refused},
		{"http://sallyport.test", true, refused},
		{"http://10.0.0.1", true, refused},
		{"http://localhost.example.com", true, refused},
		{"http://127.0.0.1.example.com", true, refused},
		{"http://0.0.0.0:8080", true, refused},
	} {
		t.Run(fmt.Sprint(tt.base, " ", tt.dev), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.BaseURL, c.InsecureLoopbackCookie = tt.base, tt.dev })
			w.register("ada")
			r := w.send(w.signInCookie("ada", goodPassword, ""))
			if tt.want == refused {
				r.want(t, 409, "cookie_needs_https")
				if r.header["Set-Cookie"] != nil {
					t.Errorf("a cookie was set: %q", r.header["Set-Cookie"])
				}
				w.signIn("ada", goodPassword) // tokens are not affected
				return
			}
			value := cookieOf(t, r.want(t, 204, ""))
			want := tt.want + "=" + value + "; Path=/; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax"
			if tt.want == insecure {
				want = strings.Replace(want, " Secure;", "", 1)
			}
			if got := r.header.Get("Set-Cookie"); got != want {
				t.Errorf("Set-Cookie %q, want %q", got, want)
			}
			for name, status := range map[string]int{secure: 401, insecure: 401, tt.want: 200} {
				req := w.request("GET", "/users/me", "", nil)
				req.Header.Set("Cookie", name+"="+value)
				w.send(req).want(t, status, "")
			}
			out := w.request("POST", "/auth/logout", "", nil)
			out.Header.Set("Cookie", tt.want+"="+value)
			if got := w.send(out).want(t, 204, "").header.Get("Set-Cookie"); got != strings.Replace(strings.Replace(want, value, "", 1), "Max-Age=2592000", "Max-Age=0", 1) {
				t.Errorf("Set-Cookie %q", got)
			}
		})
	}
}

// origins are what browsers say of where a request comes from. own is the test's
// own address.
func origins(address string) (foreign, ours map[string][]string) {
	own := "https" + strings.TrimPrefix(address, "http") // TLS ends before it
	foreign = map[string][]string{
		"another site":                               {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"},
		"another host of the site":                   {"Sec-Fetch-Site", "same-site", "Origin", "https://blog.sallyport.test"},
		"another port":                               {"Sec-Fetch-Site", "same-site", "Origin", "https://sallyport.test:8443"},
		"the same without TLS":                       {"Sec-Fetch-Site", "cross-site", "Origin", "http://sallyport.test"},
		"a null origin":                              {"Sec-Fetch-Site", "cross-site", "Origin", "null"},
		"no origin, cross-site":                      {"Sec-Fetch-Site", "cross-site"},
		"no origin, same-site":                       {"Sec-Fetch-Site", "same-site"},
		"an unknown word":                            {"Sec-Fetch-Site", "same-origin, cross-site"},
		"a word in capitals":                         {"Sec-Fetch-Site", "SAME-ORIGIN"},
		"an old browser, another site":               {"Origin", "https://evil.test"},
		"an old browser, a null origin":              {"Origin", "null"},
		"an old browser, a suffix":                   {"Origin", "https://sallyport.test.evil.test"},
		"an old browser, a prefix":                   {"Origin", "https://evilsallyport.test"},
		"an old browser, a user":                     {"Origin", "https://sallyport.test@evil.test"},
		"an old browser, a trailing dot":             {"Origin", "https://sallyport.test."},
		"an old browser, a path":                     {"Origin", "https://sallyport.test/"},
		"an old browser, another port":               {"Origin", "https://sallyport.test:8443"},
		"an old browser, without TLS":                {"Origin", "http://sallyport.test"},
		"an old browser, nonsense":                   {"Origin", "://"},
		"an old browser, this very host without TLS": {"Origin", address},
	}
	ours = map[string][]string{
		"the own page":                           {"Sec-Fetch-Site", "same-origin", "Origin", own},
		"the address bar":                        {"Sec-Fetch-Site", "none"},
		"an old browser, the own page":           {"Origin", own},
		"the base URL behind a proxy":            {"Origin", "https://sallyport.test"},
		"the base URL from another host of ours": {"Sec-Fetch-Site", "same-site", "Origin", "https://sallyport.test"},
		"no browser":                             {},
	}
	return foreign, ours
}

// A page of another origin cannot change anything with the cookie that the browser
// sends along. It can with a token, which a browser does not send by itself.
func TestC_CrossOrigin(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("/any", sallyport.SignedIn(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
			w.mux.HandleFunc("/open", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		}, overHTTPS)
		w.register("ada")
		c, tk := w.cookie("ada"), w.signIn("ada", goodPassword)
		foreign, ours := origins(w.http.URL)
		before := w.holdings()
		tr := w.trail()
		attacks := []struct {
			method, path string
			body         any
		}{
			{"POST", "/logout/all", nil},
			{"POST", "/auth/logout", nil},
			{"DELETE", "/users/me", nil},
			{"PATCH", "/users/me", map[string]string{"full_name": "Eve"}},
			{"PUT", "/users/me/password", map[string]string{"current_password": goodPassword, "new_password": "marzipan under the piano"}},
			{"POST", "/any", nil},
			{"QUERY", "/any", nil},
			{"POST", "/open", nil},
		}
		for from, headers := range foreign {
			for _, a := range attacks {
				if a.path != "/any" && a.path != "/logout/all" && !strings.HasPrefix(from, "another") {
					continue // enough
				}
				what := a.method + " " + a.path + " from " + from
				r := tr.send(what, w.browse(a.method, a.path, c, a.body, headers...))
				if r.status != 403 || r.json(t)["code"] != "cross_origin" {
					t.Errorf("%s: status %d: %s", what, r.status, r.body)
				}
				if r.header["Set-Cookie"] != nil {
					t.Errorf("%s takes the cookie away, and so signs its owner out", what)
				}
				quiet(t, what, r, c)
			}
			// What reads only is answered: that the page cannot see it is the browser's
			// doing.
			w.send(w.browse("GET", "/users/me", c, nil, headers...)).want(t, 200, "")
			// A token is sent by whoever holds it.
			req := w.browse("POST", "/any", "", nil, headers...)
			req.Header.Set("Authorization", "Bearer "+tk.access)
			w.send(req).want(t, 204, "")
		}
		// Neither is the handshake of a WebSocket, which is a GET, safe.
		upgrade := append([]string{"Connection", "Upgrade", "Upgrade", "websocket"}, foreign["another host of the site"]...)
		tr.send("a WebSocket", w.browse("GET", "/any", c, nil, upgrade...)).want(t, 403, "cross_origin")
		tr.audited("access.denied", audit.Denied, c, tk.access)
		w.holds(before)

		for from, headers := range ours {
			for _, a := range attacks[5:8] {
				if r := w.send(w.browse(a.method, a.path, c, a.body, headers...)); r.status != 204 {
					t.Errorf("%s %s from %s: status %d: %s", a.method, a.path, from, r.status, r.body)
				}
			}
			w.send(w.browse("GET", "/any", c, nil, append([]string{"Connection", "Upgrade", "Upgrade", "websocket"}, headers...)...)).want(t, 204, "")
		}
		w.send(w.browse("PATCH", "/users/me", c, map[string]string{"full_name": "Ada"}, ours["the own page"]...)).want(t, 200, "")
		w.send(w.browse("POST", "/auth/logout", c, nil, ours["the own page"]...)).want(t, 204, "")
	})
}

// Behind a proxy the origin is the base URL's as browsers write it.
func TestC_OriginOfTheBaseURL(t *testing.T) {
	for base, origin := range map[string]string{
		"https://Sallyport.Test:443/identity": "https://sallyport.test", "https://sallyport.test:8443": "https://sallyport.test:8443", "http://localhost:80": "http://localhost", "http://[::1]:8080": "http://[::1]:8080",
	} {
		w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.BaseURL = base })
		w.register("ada")
		c := w.cookie("ada")
		w.send(w.browse("POST", "/auth/logout", c, nil, "Origin", "https://evil.test")).want(t, 403, "cross_origin")
		w.send(w.browse("POST", "/auth/logout", c, nil, "Origin", origin, "Sec-Fetch-Site", "cross-site")).want(t, 204, "")
	}
}

// What a form of any page could send is not taken where JSON is expected, and
// what only reads changes nothing.
func TestC_CookieSimpleRequests(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, overHTTPS)
		id := w.register("ada")
		w.grant(id, "admin")
		c := w.cookie("ada")
		before := w.holdings()
		for _, contentType := range []string{"text/plain", formType, "multipart/form-data; boundary=x", "text/plain; charset=application/json", ""} {
			req := w.typed("PATCH", "/users/me", contentType, `{"full_name":"Eve"}`)
			req.Header.Set("Cookie", cookieName+"="+c)
			w.send(req).want(t, 415, "unsupported_media_type")
		}
		gets := 0
		for _, r := range w.sv.Routes().Routes() {
			if r.Method != "GET" && r.Method != "*" {
				continue
			}
			gets++
			for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
				path := strings.NewReplacer("{id}", id, "{name}", "user", "{file}", "x").Replace(r.Path)
				res := w.send(w.browse(method, path, c, nil, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test", "X-Http-Method-Override", "DELETE"))
				if res.status >= 500 {
					t.Errorf("%s %s: status %d", method, path, res.status)
				}
			}
		}
		if gets < 10 {
			t.Fatalf("%d routes", gets)
		}
		w.holds(before)
		w.send(w.browse("PATCH", "/users/me", c, map[string]string{"full_name": "Ada"})).want(t, 200, "")
	})
}

// A cookie that is not good is refused on every route, with one answer, and taken
// away so that the next request is answered.
func TestC_BadCookie(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /open", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
			w.mux.HandleFunc("GET /strong", sallyport.MFA(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		}, overHTTPS)
		w.register("ada")
		w.register("eve")
		c, eve, ended := w.cookie("ada"), w.cookie("eve"), w.cookie("ada")
		w.send(w.browse("POST", "/auth/logout", ended, nil)).want(t, 204, "")
		raw, err := b64.DecodeString(c[3:])
		if err != nil {
			t.Fatal(err)
		}
		evil, _ := b64.DecodeString(eve[3:])
		copy(evil[1:17], raw[1:17])
		digest := sha256.Sum256([]byte(c))
		bad := map[string]string{
			"empty": "", "nonsense": "nonsense", "only the prefix": "st_", "no prefix": c[3:], "long": "st_" + strings.Repeat("A", 3000), "quoted": `"` + c + `"`, "padded": c + "=",
			"ended": ended, "eve's for ada's session": "st_" + b64.EncodeToString(evil), "the digest": "st_" + b64.EncodeToString(digest[:]), "escaped": url.QueryEscape(c + "="),
		}
		for name, i := range map[string]int{"version": 0, "session": 9, "secret": 20, "tag": 64} {
			b := append([]byte{}, raw...)
			b[i] ^= 1
			bad["another "+name] = "st_" + b64.EncodeToString(b)
		}
		headers := map[string][]string{}
		for what, value := range bad {
			headers[what] = []string{cookieName + "=" + value}
		}
		headers["twice"] = []string{cookieName + "=" + c + "; " + cookieName + "=" + c}
		headers["twice in two headers"] = []string{cookieName + "=" + c, "x=y;" + cookieName + "=" + eve}
		headers["twice, one empty"] = []string{cookieName + "=; " + cookieName + "=" + c}
		with := func(path string, lines ...string) *http.Request {
			req := w.request("GET", path, "", nil)
			req.Header["Cookie"] = lines
			return req
		}
		before := w.holdings()
		tr := w.trail()
		for what, lines := range headers {
			var first reply
			for i, path := range []string{"/users/me", "/open", "/strong"} {
				r := tr.send(what+" at "+path, with(path, lines...)).want(t, 401, "invalid_token")
				if set := r.header["Set-Cookie"]; len(set) != 1 || set[0] != removal {
					t.Errorf("%s at %s: Set-Cookie %q", what, path, set)
				}
				if r.header.Get("Www-Authenticate") == "" || r.header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s at %s: headers %v", what, path, r.header)
				}
				if quiet(t, what, r, c, eve); i == 0 {
					first = r
				} else {
					alike(t, what, r, first)
				}
			}
		}
		tr.audited("credential.refused", audit.Failure, c, eve, ended)
		w.holds(before)

		// What is no bad cookie.
		for what, lines := range map[string][]string{
			"none": nil, "another name": {"session=" + c}, "the name in other letters": {"__host-sallyport=nonsense"}, "a longer name": {cookieName + "2=nonsense"},
			"a name in a value": {"x=" + cookieName + "=nonsense"}, "no value": {cookieName}, "a blank of another kind": {"\u2000" + cookieName + "=nonsense"},
		} {
			if r := w.send(with("/open", lines...)); r.status != 204 || r.header["Set-Cookie"] != nil {
				t.Errorf("%s: status %d, %v", what, r.status, r.header)
			}
			if r := w.send(with("/users/me", lines...)); r.status != 401 || r.header["Set-Cookie"] != nil {
				t.Errorf("%s: status %d, %v", what, r.status, r.header)
			}
		}
		for what, lines := range map[string][]string{
			"alone": {cookieName + "=" + c}, "among others": {"a=b; " + cookieName + "=" + c + ";c=d"}, "in another header": {"a=b", cookieName + "=" + c}, "with blanks": {"a=b;  \t" + cookieName + "=" + c + " "},
		} {
			if r := w.send(with("/users/me", lines...)); r.status != 200 || r.header["Set-Cookie"] != nil {
				t.Errorf("%s: status %d, %v", what, r.status, r.header)
			}
		}
		// A good cookie that is not enough stays.
		if r := w.send(with("/strong", cookieName+"="+c)).want(t, 401, ""); r.header["Set-Cookie"] != nil {
			t.Errorf("a cookie that is not enough is taken away: %q", r.header["Set-Cookie"])
		}
		// A bad token takes no cookie away.
		if r := w.do("GET", "/open", "x.y.z", nil).want(t, 401, "invalid_token"); r.header["Set-Cookie"] != nil {
			t.Errorf("Set-Cookie %q", r.header["Set-Cookie"])
		}
		// A token and a cookie: which one?
		for _, access := range []string{w.signIn("ada", goodPassword).access, "x.y.z"} {
			req := w.browse("GET", "/users/me", c, nil)
			req.Header.Set("Authorization", "Bearer "+access)
			if r := w.send(req).want(t, 400, "several_credentials"); r.header["Set-Cookie"] != nil {
				t.Errorf("Set-Cookie %q", r.header["Set-Cookie"])
			}
		}
		// Signing in and refreshing do not look at it.
		w.send(w.signInCookie("ada", goodPassword, "nonsense")).want(t, 204, "")
		if !w.lives(c) {
			t.Error("the genuine one is refused")
		}
	})
}

// A page of another origin cannot sign a visitor in as somebody else.
func TestL_LoginCSRF(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, overHTTPS)
		w.register("eve")
		foreign, ours := origins(w.http.URL)
		attempt := func(kind string, headers []string) *http.Request {
			req := w.signInCookie("eve", goodPassword, "", headers...)
			if kind == "form" {
				req = w.typed("POST", "/auth/login?mode=cookie", formType, url.Values{"username": {"eve"}, "password": {goodPassword}}.Encode())
				for i := 0; i < len(headers); i += 2 {
					req.Header.Set(headers[i], headers[i+1])
				}
			}
			return req
		}
		before := w.holdings()
		tr := w.trail()
		for from, headers := range foreign {
			for _, kind := range []string{"JSON", "form"} {
				r := tr.send(kind+" from "+from, attempt(kind, headers))
				if r.status != 403 || r.json(t)["code"] != "cross_origin" || r.header["Set-Cookie"] != nil {
					t.Errorf("%s from %s: status %d, %v: %s", kind, from, r.status, r.header, r.body)
				}
			}
		}
		tr.audited("signin.refused", audit.Failure, goodPassword)
		w.holds(before)
		for from, headers := range ours {
			for _, kind := range []string{"JSON", "form"} {
				r := w.send(attempt(kind, headers))
				if r.status != 204 || !w.lives(cookieOf(t, r)) {
					t.Errorf("%s from %s: status %d: %s", kind, from, r.status, r.body)
				}
			}
		}
		// Tokens go to who asks, and sign nobody's browser in.
		req := w.signInRequests("eve", goodPassword)["/auth/login JSON"]
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		if r := w.send(req).want(t, 200, ""); r.header["Set-Cookie"] != nil {
			t.Error("a cookie was set")
		}
	})
}

// A sign-in begins a session of its own, and ends the one that the browser had,
// whoever's it was.
func TestL_CookieFixation(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, overHTTPS)
		w.register("eve")
		w.register("ada")
		planted, elsewhere, bearer := w.cookie("eve"), w.cookie("eve"), w.signIn("eve", goodPassword)
		fixed := w.sessionOfCookie(planted)

		// A sign-in that fails changes nothing.
		before := w.holdings()
		w.send(w.signInCookie("ada", "wrong-"+goodPassword, planted)).want(t, 401, "invalid_credentials")
		w.holds(before)

		c := cookieOf(t, w.send(w.signInCookie("ada", goodPassword, planted)).want(t, 204, ""))
		if c == planted || w.sessionOfCookie(c) == fixed || w.lives(planted) {
			t.Error("the session of the planted cookie goes on")
		}
		if me := w.send(w.browse("GET", "/users/me", c, nil)).text(t, "username"); me != "ada" {
			t.Errorf("signed in as %s", me)
		}
		if !w.lives(elsewhere) || !w.alive(bearer.access) {
			t.Error("another session of eve's ended")
		}
		e := w.events("session.ended", 1)[0]
		if e.Target != fixed || e.Reason != "replaced by another sign-in" {
			t.Errorf("event %+v", e)
		}

		// Once more in the same browser; and with what is not good, or not one.
		again := cookieOf(t, w.send(w.signInCookie("ada", goodPassword, c)).want(t, 204, ""))
		if w.lives(c) || !w.lives(again) {
			t.Error("the replaced session lives, or the new one does not")
		}
		for what, value := range map[string]string{"ended": planted, "nonsense": "nonsense", "a refresh token": bearer.refresh, "an access token": bearer.access, "cut": elsewhere[:len(elsewhere)-1]} {
			if n := cookieOf(t, w.send(w.signInCookie("ada", goodPassword, value)).want(t, 204, "")); !w.lives(n) {
				t.Errorf("%s: the new cookie is dead", what)
			}
		}
		req := w.signInCookie("ada", goodPassword, "")
		req.Header["Cookie"] = []string{cookieName + "=" + elsewhere + "; " + cookieName + "=" + again}
		w.send(req).want(t, 204, "")
		// A sign-in for tokens leaves the browser's session alone.
		req = w.signInRequests("ada", goodPassword)["/auth/login JSON"]
		req.Header.Set("Cookie", cookieName+"="+again)
		w.send(req).want(t, 200, "")
		for what, c := range map[string]string{"of two": elsewhere, "of a sign-in for tokens": again} {
			if !w.lives(c) {
				t.Errorf("the session of a cookie ended that was not replaced: %s", what)
			}
		}
		if !w.alive(w.refresh(bearer).access) {
			t.Error("a session of tokens ended")
		}
	})
}

// What asks for a cookie says so in one way.
func TestL_CookieMode(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, overHTTPS)
		w.register("ada")
		body := map[string]string{"username": "ada", "password": goodPassword}
		before := w.holdings()
		for _, query := range []string{"mode=", "mode=token", "mode=Cookie", "mode=cookie&mode=cookie", "mode=cookie&mode=token", "mode=cookie%20", "mode"} {
			r := w.do("POST", "/auth/login?"+query, "", body).want(t, 422, "validation_failed")
			if r.header["Set-Cookie"] != nil || !strings.Contains(string(r.body), "?mode") {
				t.Errorf("%s: %v %s", query, r.header, r.body)
			}
		}
		w.do("POST", "/auth/login?mode=cookie&password=x", "", body).want(t, 400, "credential_in_query")
		w.do("POST", "/auth/login?mode=cookie", "", map[string]string{"username": "ada", "password": "wrong"}).want(t, 401, "invalid_credentials")
		w.do("POST", "/auth/login?mode=cookie", "", map[string]string{"username": "ada", "password": goodPassword, "scope": "no:such"}).want(t, 422, "validation_failed")
		w.holds(before)

		// A scope limits the session.
		id := w.register("bob")
		w.grant(id, "admin")
		c := cookieOf(t, w.do("POST", "/auth/login?mode=cookie", "", map[string]string{"username": "bob", "password": goodPassword, "scope": "read:users"}).want(t, 204, ""))
		for range 2 { // from the database, and from memory
			w.send(w.browse("GET", "/users", c, nil)).want(t, 200, "")
			w.send(w.browse("PUT", "/roles/x", c, map[string]any{"permissions": []string{}})).want(t, 403, "insufficient_scope")
			w.send(w.browse("GET", "/users/me/sessions", c, nil)).want(t, 403, "insufficient_scope")
		}
		w.send(w.browse("POST", "/auth/logout", c, nil)).want(t, 204, "")
	})
	w := newWorld(t, testkit.SQLite(t), nil, overHTTPS, func(c *server.Config) { c.NoPasswordGrant = true })
	w.register("ada")
	if r := w.send(w.signInCookie("ada", goodPassword, "")).want(t, 403, "password_sign_in_off"); r.header["Set-Cookie"] != nil {
		t.Error("a cookie was set")
	}
}

// Every way to end a session ends a cookie's, at once and on every node, and
// nothing else; a restart brings none back.
func TestR_CookieEnding(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w, other := pair(t, d, overHTTPS)
		id := w.register("ada")
		w.register("bob")
		w.sv.Close()
		w.http.Close()
		w = newWorldLike(t, other)
		bob, keep, bearer := w.cookie("bob"), w.cookie("ada"), w.signIn("ada", goodPassword)
		for what, end := range map[string]func(c string){
			"/logout":      func(c string) { w.send(w.browse("POST", "/logout", c, nil)).want(t, 200, "") },
			"/auth/logout": func(c string) { w.send(w.browse("POST", "/auth/logout", c, nil)).want(t, 204, "") },
			"its own id": func(c string) {
				r := w.send(w.browse("DELETE", "/users/me/sessions/"+w.sessionOfCookie(c), c, nil)).want(t, 204, "")
				if set := r.header["Set-Cookie"]; len(set) != 1 || set[0] != removal {
					t.Errorf("Set-Cookie %q", set)
				}
			},
			"another's id": func(c string) {
				r := w.send(w.browse("DELETE", "/users/me/sessions/"+w.sessionOfCookie(c), keep, nil)).want(t, 204, "")
				if r.header["Set-Cookie"] != nil {
					t.Errorf("the cookie that stays is taken away: %q", r.header["Set-Cookie"])
				}
			},
			"a token": func(c string) {
				w.do("DELETE", "/users/me/sessions/"+w.sessionOfCookie(c), bearer.access, nil).want(t, 204, "")
			},
		} {
			c := w.cookie("ada")
			if !other.lives(c) {
				t.Fatal("another node does not know the cookie")
			}
			tr := w.trail()
			end(c)
			if w.lives(c) {
				t.Errorf("%s: the cookie lives", what)
			}
			deadline := time.Now().Add(3 * time.Second)
			for other.lives(c) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: the cookie lives on another node", what)
				}
			}
			tr.send("again", w.browse("POST", "/logout", c, nil)).want(t, 401, "invalid_token")
			tr.audited("credential.refused", audit.Failure, c)
			if !w.lives(keep) || !w.lives(bob) || !w.alive(bearer.access) {
				t.Fatalf("%s ended another session", what)
			}
		}
		w.send(w.browse("DELETE", "/users/me/sessions/"+w.sessionOfCookie(bob), keep, nil)).want(t, 404, "not_found")

		// A changed password ends the others; a disabled account all.
		c := w.cookie("ada")
		w.send(w.browse("PUT", "/users/me/password", c, map[string]string{"current_password": goodPassword, "new_password": "marzipan under the piano"})).want(t, 204, "")
		if !w.lives(c) || w.lives(keep) || w.alive(bearer.access) {
			t.Error("after the password changed, the wrong sessions live")
		}
		w.disable(id)
		if w.lives(c) {
			t.Error("the cookie of a disabled account lives")
		}

		// Everywhere.
		bob2, tk := w.cookie("bob"), w.signIn("bob", goodPassword)
		w.send(w.browse("POST", "/logout/all", bob, nil)).want(t, 200, "")
		for _, c := range []string{bob, bob2} {
			if w.lives(c) {
				t.Error("a cookie lives after the logout from everywhere")
			}
		}
		w.dead("everywhere", tk)

		// A restart.
		out, stays := w.cookie("bob"), w.cookie("bob")
		w.send(w.browse("POST", "/logout", out, nil)).want(t, 200, "")
		w.sv.Close()
		w.http.Close()
		again := newWorldLike(t, other)
		if again.lives(out) || !again.lives(stays) {
			t.Error("after a restart, the wrong session lives")
		}
	})
}

// newWorldLike starts another node with the same keys.
func newWorldLike(t *testing.T, w *world) *world {
	t.Helper()
	n := newWorld(t, w.db, nil, func(c *server.Config) { *c = w.cfg })
	n.clock = w.clock
	return n
}

// A cookie's session ends when it is not used, and after its time in all; its use
// extends the one and not the other.
func TestR_CookieLifetimes(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, overHTTPS, func(c *server.Config) { c.RefreshTTL, c.SessionLife = 20*time.Minute, time.Hour })
		w.register("ada")
		r := w.send(w.signInCookie("ada", goodPassword, ""))
		if !strings.Contains(r.header.Get("Set-Cookie"), "; Max-Age=3600;") {
			t.Errorf("Set-Cookie %q", r.header.Get("Set-Cookie"))
		}
		used, idle := cookieOf(t, r), w.cookie("ada")
		row := func(cookie string) (lastUsed, idleUntil, ended time.Time) {
			t.Helper()
			b, err := b64.DecodeString(cookie[3:])
			if err != nil {
				t.Fatal(err)
			}
			x := b[1:17]
			var n [3]int64
			found, err := d.View(t.Context()).Row("SELECT last_used_at, idle_until, ended_at FROM sp_sessions WHERE id = $1",
				[]any{fmt.Sprintf("%x-%x-%x-%x-%x", x[:4], x[4:6], x[6:8], x[8:10], x[10:])}, &n[0], &n[1], &n[2])
			if err != nil || !found {
				t.Fatal(found, err)
			}
			return db.Time(n[0]), db.Time(n[1]), db.Time(n[2])
		}
		began, _, _ := row(used)
		// Within the first minute nothing is written.
		w.clock.advance(50 * time.Second)
		if !w.lives(used) {
			t.Fatal("a fresh cookie is refused")
		}
		w.sv.Sessions.Flush()
		if at, _, _ := row(used); !at.Equal(began) {
			t.Error("the use was noted within the first minute")
		}
		if !w.lives(idle) {
			t.Fatal("a fresh cookie is refused")
		}
		for minute := 1; minute < 46; minute += 15 {
			w.clock.advance(15 * time.Minute)
			if !w.lives(used) {
				t.Fatalf("dead after %d minutes although it is used", minute+15)
			}
			w.sv.Sessions.Flush()
			at, until, _ := row(used)
			if age := w.clock.now().Sub(at); age < 0 || age > 10*time.Second {
				t.Errorf("used a moment ago, and noted %v ago", age)
			}
			if left := until.Sub(at); left != 20*time.Minute && until.Sub(began) != time.Hour {
				t.Errorf("idle time extended by %v", left)
			}
		}
		w.clock.advance(-25 * time.Minute) // 45:50 → 20:50: the others' idle time has passed
		if w.lives(idle) {
			t.Error("a cookie that was not used for longer than its idle time is accepted")
		}
		w.clock.advance(25 * time.Minute)
		// Used again within the minute: known, not looked at, not written.
		at, until, _ := row(used)
		w.clock.advance(30 * time.Second)
		if !w.lives(used) {
			t.Error("refused")
		}
		w.sv.Sessions.Flush()
		if at2, until2, _ := row(used); !at2.Equal(at) || !until2.Equal(until) {
			t.Error("a use within the minute was written")
		}
		w.clock.advance(12*time.Minute + 30*time.Second) // 58:50
		if !w.lives(used) {
			t.Error("dead before its time in all")
		}
		w.sv.Sessions.Flush()
		if _, until, _ := row(used); until.After(began.Add(time.Hour)) {
			t.Errorf("the idle time reaches %v beyond the session's", until.Sub(began.Add(time.Hour)))
		}
		w.clock.advance(2 * time.Minute)
		if w.lives(used) {
			t.Error("alive after its time in all")
		}
		w.clock.advance(-3 * time.Minute)

		// A use that is stored late extends no session that has ended, and never
		// turns a time back.
		ending := w.cookie("ada")
		w.clock.advance(2 * time.Minute)
		if !w.lives(ending) {
			t.Fatal("refused")
		}
		w.send(w.browse("POST", "/auth/logout", ending, nil)).want(t, 204, "")
		beforeAt, beforeUntil, ended := row(ending)
		w.sv.Sessions.Flush()
		if at, until, still := row(ending); !at.Equal(beforeAt) || !until.Equal(beforeUntil) || !still.Equal(ended) || ended.UnixMicro() == 0 {
			t.Error("a session that has ended was touched")
		}
		back := w.cookie("ada")
		w.clock.advance(2 * time.Minute)
		w.lives(back)
		w.sv.Sessions.Flush()
		at, until, _ = row(back)
		w.clock.advance(-90 * time.Second)
		w.lives(back)
		w.sv.Sessions.Flush()
		if at2, until2, _ := row(back); at2.Before(at) || until2.Before(until) {
			t.Error("a clock that was set back turned the times back")
		}
	})
}

// What was used just before a server stops is stored; then it is not idle.
func TestR_CookieUseSurvivesAStop(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w, other := pair(t, d, overHTTPS, func(c *server.Config) { c.RefreshTTL = 20 * time.Minute })
		w.sv.Close()
		w.http.Close()
		w = newWorldLike(t, other)
		w.register("ada")
		used, idle := w.cookie("ada"), w.cookie("ada")
		w.clock.advance(15 * time.Minute)
		if !w.lives(used) {
			t.Fatal("refused")
		}
		w.sv.Close()
		w.http.Close()
		w.clock.advance(10 * time.Minute)
		if !other.lives(used) || other.lives(idle) {
			t.Error("after a restart, the wrong session lives")
		}
	})
}

// With a short idle time the session is looked at more often than once a minute.
func TestR_CookieShortIdle(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, overHTTPS, func(c *server.Config) { c.RefreshTTL = time.Minute })
	w.register("ada")
	c := w.cookie("ada")
	for range 8 {
		w.clock.advance(20 * time.Second)
		if !w.lives(c) {
			t.Fatal("a cookie that is used all the time is refused")
		}
		w.sv.Sessions.Flush()
	}
	w.clock.advance(time.Minute)
	if w.lives(c) {
		t.Error("an idle cookie is accepted")
	}
}

// Refresh tokens, access tokens of both forms and cookies are none of each other,
// whatever prefix they are given, also where the one that is meant is known.
func TestJ_CookieCrossings(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w, opaques := pair(t, d, overHTTPS, opaque)
		w.sv.Close()
		w.http.Close()
		w = newWorldLike(t, opaques)
		w.cfg.TokenFormat = ""
		jwts := newWorldLike(t, w)
		w.register("ada")
		c, o, j := w.cookie("ada"), w.signIn("ada", goodPassword), jwts.signIn("ada", goodPassword)
		if strings.Count(j.access, ".") != 2 || !strings.HasPrefix(o.access, "at_") {
			t.Fatal("the servers do not issue both forms")
		}
		all := map[string]string{"cookie": c, "refresh": o.refresh, "refresh of a JWT": j.refresh, "opaque": o.access, "JWT": j.access}
		for what, text := range all {
			if _, rest, ok := strings.Cut(text, "_"); ok && what != "JWT" {
				for _, prefix := range []string{"at_", "st_", "rt_", ""} {
					if prefix+rest != text {
						all[what+" as "+prefix] = prefix + rest
					}
				}
			}
		}
		if !w.lives(c) || !w.alive(o.access) || !w.alive(j.access) {
			t.Fatal("a genuine one is refused")
		}
		before := w.holdings()
		bearer := w.do("GET", "/users/me", "x.y.z", nil).want(t, 401, "invalid_token")
		tr := w.trail()
		for what, text := range all {
			if text != o.access && text != j.access {
				alike(t, what+" as bearer", tr.send(what+" as bearer", w.with("GET", "/users/me", "Bearer "+text)), bearer)
			}
			if text != c {
				if r := tr.send(what+" as cookie", w.browse("GET", "/users/me", text, nil)); r.status != 401 {
					t.Errorf("%s as cookie: status %d: %s", what, r.status, r.body)
				}
			}
		}
		tr.audited("credential.refused", audit.Failure, c, o.access, o.refresh, j.access, j.refresh)
		nonsense := map[string]reply{}
		for way, req := range w.refreshRequests("rt_nonsense") {
			nonsense[way] = w.send(req)
		}
		tr = w.trail()
		for what, text := range all {
			if text == o.refresh || text == j.refresh {
				continue
			}
			for way, req := range w.refreshRequests(text) {
				alike(t, what+" at "+way, tr.send(what+" at "+way, req), nonsense[way])
			}
		}
		tr.audited("refresh.refused", audit.Failure, c, o.access, o.refresh, j.access, j.refresh)
		w.holds(before)
		if !w.lives(c) || !w.alive(w.refresh(o).access) || !w.alive(w.refresh(j).access) {
			t.Error("a genuine one is refused after all that")
		}
	})
}

// Whoever steals the database holds no cookie.
func TestR_CookieStoredHashed(t *testing.T) {
	d := testkit.SQLite(t)
	w := newWorld(t, d, nil, overHTTPS)
	w.register("ada")
	c := w.cookie("ada")
	raw, err := sql.Open("sqlite", "file:"+filepath.Join(d.Dir(), "sallyport.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	b, err := b64.DecodeString(c[3:])
	if err != nil {
		t.Fatal(err)
	}
	digest, seen := sha256.Sum256([]byte(c)), 0
	everyValue(t, raw, "SELECT name FROM sqlite_master WHERE type = 'table'", func(where string, value []byte) {
		for what, secret := range map[string]string{"cookie": c, "cookie without its prefix": c[3:], "secret": string(b[17:49]), "tag": string(b[49:])} {
			if strings.Contains(string(value), secret) {
				t.Errorf("%s holds the %s", where, what)
			}
		}
		if string(value) == string(digest[:]) {
			seen++
		}
	})
	if seen != 1 {
		t.Errorf("the digest was seen %d times: the search is blind", seen)
	}
	if w.lives("st_"+b64.EncodeToString(digest[:])) || w.lives("st_"+b64.EncodeToString(append(append([]byte{}, b[:17]...), digest[:]...))) {
		t.Error("a digest is accepted")
	}
	noSecretsIn(t, w.events("session.started", 1), c)
	if !w.lives(c) {
		t.Error("the genuine one is refused")
	}
}
