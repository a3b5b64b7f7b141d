package server_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// question is what a proxy asks about one request of a client.
type question struct {
	proxy, require    string
	method, uri, host string
	headers           []string // of the client
	without, twice    string   // of the proxy's own: leave out, send twice
}

// request makes it as the proxy does.
func (q question) request(w *world) *http.Request {
	w.t.Helper()
	if q.method == "" {
		q.method = "GET"
	}
	if q.uri == "" {
		q.uri = "/items?page=2"
	}
	if q.host == "" {
		q.host = "app.example"
	}
	own := map[string][2]string{
		"nginx":   {"X-Original-Method", "X-Original-URI"},
		"traefik": {"X-Forwarded-Method", "X-Forwarded-Uri"},
		"caddy":   {"X-Forwarded-Method", "X-Forwarded-Uri"},
	}
	var req *http.Request
	if q.proxy == "envoy" {
		req = w.request(q.method, "", "", nil)
		req.URL.Opaque = "/forward-auth/envoy" + q.uri // not made clean
		req.Host = q.host
		if q.require != "" {
			req.Header.Set(forward.RequireHeader, q.require)
		}
	} else {
		target := "/forward-auth/" + q.proxy
		if q.require != "" {
			target += "?require=" + url.QueryEscape(q.require)
		}
		req = w.request("GET", target, "", nil)
		for name, value := range map[string]string{own[q.proxy][0]: q.method, own[q.proxy][1]: q.uri, "X-Forwarded-Host": q.host} {
			if name == q.without {
				continue
			}
			req.Header.Set(name, value)
			if name == q.twice {
				req.Header.Add(name, value)
			}
		}
	}
	req.Header.Set("X-Forwarded-For", "192.0.2.7")
	for i := 0; i < len(q.headers); i += 2 {
		req.Header.Add(q.headers[i], q.headers[i+1])
	}
	return req
}

func (w *world) question(q question) reply {
	w.t.Helper()
	return w.send(q.request(w))
}

func bearerOf(tk tokens) []string { return []string{"Authorization", "Bearer " + tk.access} }

// assertion verifies an assertion by the published keys, as a service in any language
// would, and returns what it says.
func (w *world) assertion(compact string) map[string]any {
	w.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.do("GET", "/.well-known/jwks.json", "", nil).body, &set); err != nil {
		w.t.Fatal(err)
	}
	sig, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		w.t.Fatal(err)
	}
	h := sig.Signatures[0].Header
	if h.ExtraHeaders["typ"] != token.AssertionType {
		w.t.Errorf("typ is %v", h.ExtraHeaders["typ"])
	}
	raw, err := sig.Verify(set.Key(h.KeyID)[0])
	if err != nil {
		w.t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		w.t.Fatal(err)
	}
	return claims
}

// identity returns the headers that name who passes; each must be there once.
func identity(t *testing.T, r reply) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range forward.IdentityHeaders {
		if len(r.header[name]) != 1 {
			t.Fatalf("%s stands there %d times, status %d: %s", name, len(r.header[name]), r.status, r.body)
		}
		out[strings.TrimPrefix(name, "X-Sallyport-")] = r.header[name][0]
	}
	return out
}

var proxies = []string{"nginx", "traefik", "caddy", "envoy"}

// Who passes is named in every header, and in an assertion that anybody can verify and
// nobody takes for a credential.
func TestForwardAuth(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		static := apikey.Generate()
		w := newWorld(t, d, nil, behindOffice, func(c *server.Config) {
			c.APIKeys = []apikey.Static{apikey.NewStatic("billing", static, []string{"read:items"})}
		})
		w.define("reader", "read:items", "write:items")
		id, tk := w.user("ada", "reader")
		if _, err := w.sv.Accounts.Update(t.Context(), new(role.Operator()), id, account.Change{EmailVerified: new(true)}); err != nil {
			t.Fatal(err)
		}
		for _, proxy := range proxies {
			t.Run(proxy, func(t *testing.T) {
				w := *w
				w.t = t
				r := w.question(question{proxy: proxy, require: "all(scope(read:items), via(bearer))", method: "POST", headers: bearerOf(tk)}).want(t, 200, "")
				if cc := r.header.Get("Cache-Control"); cc != "no-store" {
					t.Errorf("Cache-Control: %s", cc)
				}
				got := identity(t, r)
				claims := w.assertion(got["Assertion"])
				session := got["Session"]
				want := map[string]string{
					"Subject": id, "Username": "ada", "Email": "ada@example.com", "Roles": "guest reader user", "Permissions": "read:items write:items",
					"Kind": "bearer", "Session": session, "Client": "first-party", "Omitted": "", "Assertion": got["Assertion"],
				}
				if fmt.Sprint(got) != fmt.Sprint(want) || len(session) != 36 {
					t.Errorf("got\n%v\nwant\n%v", got, want)
				}
				life := claims["exp"].(float64) - claims["iat"].(float64)
				now := float64(w.clock.now().Unix())
				if life <= 0 || life > 60 || claims["iat"].(float64) > now || claims["exp"].(float64) < now {
					t.Errorf("from %v to %v", claims["iat"], claims["exp"])
				}
				delete(claims, "exp")
				delete(claims, "iat")
				uri := sha256.Sum256([]byte("/items?page=2")) // as the client sent it
				wantClaims := map[string]any{
					"iss": baseURL, "aud": "app.example", "sub": id, "sid": session, "kind": "bearer", "preferred_username": "ada", "email": "ada@example.com",
					"client_id": "first-party", "roles": []any{"guest", "reader", "user"}, "permissions": []any{"read:items", "write:items"}, "method": "POST", "rule": "all(scope(read:items), via(bearer))", "uri_sha256": b64.EncodeToString(uri[:]),
				}
				if fmt.Sprint(claims) != fmt.Sprint(wantClaims) {
					t.Errorf("got\n%v\nwant\n%v", claims, wantClaims)
				}
				// It is no credential, here or at another service. Its audience alone does not
				// do that: one for our own host is none either.
				for _, host := range []string{"app.example", "sallyport.test"} {
					as := identity(t, w.question(question{proxy: proxy, require: "signed-in", host: host, headers: bearerOf(tk)}))["Assertion"]
					w.do("GET", "/users/me", as, nil).want(t, 401, "invalid_token")
					w.doKeyed("GET", "/users/me", as, nil).want(t, 401, "invalid_token")
					w.question(question{proxy: proxy, require: "signed-in", headers: []string{"Authorization", "Bearer " + as}}).want(t, 401, "invalid_token")
				}
				// A scoped credential has what its scope lists, and a key what it was given.
				narrow := w.signIn("ada", goodPassword, "scope", "read:items role:user")
				if got := identity(t, w.question(question{proxy: proxy, require: "signed-in", headers: bearerOf(narrow)})); got["Roles"] != "user" || got["Permissions"] != "read:items" {
					t.Errorf("scoped: %v", got)
				}
				if got := identity(t, w.question(question{proxy: proxy, require: "signed-in", headers: []string{"X-API-Key", static.Reveal()}})); got["Subject"] != "config:billing" || got["Username"]+got["Email"]+got["Session"] != "" || got["Kind"] != "api_key" || got["Permissions"] != "read:items" {
					t.Errorf("a key of the configuration: %v", got)
				}
				// Nobody is named as nobody, and what is no credential is refused where
				// everybody may.
				anonymous := identity(t, w.question(question{proxy: proxy, require: "public"}).want(t, 200, ""))
				for name, value := range anonymous {
					if value != "" {
						t.Errorf("of nobody, %s is %q", name, value)
					}
				}
				w.question(question{proxy: proxy, require: "public", headers: []string{"Authorization", "Bearer x"}}).want(t, 401, "invalid_token")
			})
		}
		// Another service's verifier knows it apart, with the same keys.
		as := identity(t, w.question(question{proxy: "nginx", headers: bearerOf(tk)}))["Assertion"]
		for aud, good := range map[string]string{"app.example": "", baseURL: tk.access} {
			v, err := remote.New(remote.Config{Issuer: baseURL, Audience: aud, JWKSURL: w.http.URL + "/.well-known/jwks.json", DangerouslyPlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			h := v.Require(sallyport.SignedIn())(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }))
			ask := func(credential string) int {
				rec := &statusOnly{header: http.Header{}}
				r, _ := http.NewRequest("GET", "/", nil)
				r.Header.Set("Authorization", "Bearer "+credential)
				h.ServeHTTP(rec, r)
				return rec.status
			}
			if got := ask(as); got != 401 {
				t.Errorf("another service takes an assertion as a token: %d", got)
			}
			if good != "" && ask(good) != 204 {
				t.Error("and refuses a token")
			}
		}
		// A logout holds at the next question, and an address that nobody has verified
		// names nobody.
		w.do("POST", "/logout", tk.access, nil).want(t, 200, "")
		w.question(question{proxy: "nginx", headers: bearerOf(tk)}).want(t, 401, "invalid_token")
		_, bob := w.user("bob")
		if got := identity(t, w.question(question{proxy: "nginx", headers: bearerOf(bob)})); got["Email"] != "" || got["Username"] != "bob" {
			t.Errorf("%v", got)
		}
	})
}

type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header { return s.header }
func (s *statusOnly) WriteHeader(n int)   { s.status = n }
func (s *statusOnly) Write(b []byte) (int, error) {
	return len(b), nil
}

// What a proxy is refused: each with the same question asked rightly.
func TestA_ForwardAuthRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, behindOffice)
	_, admin := w.user("root", "admin")
	_, tk := w.user("ada")
	for _, proxy := range proxies {
		ask := func(q question) reply {
			q.proxy = proxy
			if q.headers == nil {
				q.headers = bearerOf(tk)
			}
			return w.question(q)
		}
		ask(question{require: "role(user)"}).want(t, 200, "")
		r := ask(question{require: "role(user)", headers: []string{"Accept", "application/json"}}).want(t, 401, "unauthenticated")
		if r.header.Get("Www-Authenticate") == "" || r.header.Get(forward.CodeHeader) != "unauthenticated" {
			t.Errorf("%s: %v", proxy, r.header)
		}
		r = ask(question{require: "role(admin)"}).want(t, 403, "insufficient_permission")
		id := r.text(t, "decision_id")
		if e := w.decision(id); id != r.header.Get(forward.DecisionHeader) || e.Detail["route"] != "app.example/" || e.Detail["rule"] != "role(admin)" {
			t.Errorf("%s: %+v", proxy, e)
		}
		ask(question{require: "role(admin)", headers: bearerOf(admin)}).want(t, 200, "")
		ask(question{require: "mfa"}).want(t, 401, "insufficient_user_authentication")
		ask(question{require: "via(basic)"}).want(t, 403, "credential_not_accepted")
		ask(question{require: "all(signed-in, any(role(admin), role(user)))"}).want(t, 200, "")
		ask(question{require: "signed-in", headers: append(bearerOf(tk), "X-API-Key", "sp_x")}) // below: two credentials
		if r := ask(question{require: "public", headers: append(bearerOf(tk), "Cookie", cookieName+"=x")}); r.status/100 == 2 {
			t.Errorf("%s: two credentials: %d", proxy, r.status)
		}

		for _, rule := range []string{"admin", "role(admin", "all(public, mfa)", "role(user) ", "x", "policy(a:b, Order::{id})", "any(via(basic), via(client))", strings.Repeat("all(", 99)} {
			if rule == "role(user) " {
				ask(question{require: rule}).want(t, 200, "")
				continue
			}
			if r := ask(question{require: rule}).want(t, 403, "proxy_misconfigured"); r.text(t, "decision_id") == "" || !strings.Contains(r.text(t, "detail"), "sallyport snippet "+proxy) {
				t.Errorf("%s %s: %s", proxy, rule, r.body)
			}
		}
		for _, q := range []question{
			{method: "GET /x"}, {method: strings.Repeat("A", 33)}, {host: "app.example/x"}, {host: "a@b"}, {host: strings.Repeat("a", 261)},
		} {
			if proxy == "envoy" { // no client of net/http sends these
				break
			}
			q.require = "signed-in"
			id := ask(q).want(t, 403, "bad_target").text(t, "decision_id")
			if e := w.decision(id); e.Detail["code"] != "bad_target" || e.Detail["route"] != "GET /forward-auth/"+proxy {
				t.Errorf("%+v", e)
			}
		}
		if proxy != "envoy" {
			for _, uri := range []string{"http://app.example/", "x", "*", "/%zz", "/x#y", "/x?a#y"} {
				ask(question{uri: uri}).want(t, 403, "bad_target")
			}
			names := map[string][]string{"nginx": {"X-Original-Method", "X-Original-URI", "X-Forwarded-Host"}}[proxy]
			if names == nil {
				names = []string{"X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host"}
			}
			for _, name := range names {
				ask(question{without: name}).want(t, 403, "proxy_misconfigured")
				ask(question{twice: name}).want(t, 403, "proxy_misconfigured")
			}
			// All rules that are named hold, and nothing else may stand in the query.
			for query, status := range map[string]int{
				"require=role(user)&require=signed-in": 200, "require=role(user)&require=role(admin)": 403, "require=public&require=role(user)": 403,
				"": 200, "require=": 403, "Require=public": 403, "require=role(user)&x=1": 403, "require=%zz": 403, "require=public;x": 403,
			} {
				req := question{proxy: proxy, headers: bearerOf(tk)}.request(w)
				req.URL.RawQuery = query
				if r := w.send(req); r.status != status {
					t.Errorf("%s?%s: %d, want %d: %s", proxy, query, r.status, status, r.body)
				}
			}
		}
	}
	// Envoy's rule stands in a header that it must write, and what the client asks for
	// is not read as one.
	q := question{proxy: "envoy", uri: "/x?require=public"}
	w.question(q).want(t, 403, "proxy_misconfigured")
	q.require = "signed-in"
	w.question(q).want(t, 401, "unauthenticated")
	for _, own := range []string{"public", "role(user)"} { // beside Envoy's own
		q.headers = append(bearerOf(tk), forward.RequireHeader, own)
		w.question(q).want(t, 403, "proxy_misconfigured")
	}
	// An address that another proxy reads as one of our pages, and hands on, is no
	// question of Envoy's: the client has written its rule.
	for _, uri := range []string{"/..%2f..%2faccount/sign-in", "/%2e%2e%2f%2e%2e%2ftoken", "/x%2f..%2f..%5caccount", `/..%5C..%5Cx`} {
		w.question(question{proxy: "envoy", require: "signed-in", uri: uri, headers: bearerOf(tk)}).want(t, 403, "bad_target")
	}
	w.question(question{proxy: "envoy", require: "signed-in", uri: "/group%2f..project", headers: bearerOf(tk)}).want(t, 200, "")
	// Only below the route does a proxy ask under a foreign name.
	for path, status := range map[string]int{"/forward-auth%2fcaddy": 400, "/forward-auth/%63addy": 403} {
		req := w.request("GET", "", "", nil)
		req.URL.Opaque, req.Host = path, "app.example"
		if r := w.send(req); r.status != status {
			t.Errorf("%s: %d: %s", path, r.status, r.body)
		}
	}
	// Traefik does not say what its client would change to; it is told for a WebSocket.
	for _, proxy := range proxies {
		for _, headers := range [][]string{{"Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw=="}, nil} {
			r := w.question(question{proxy: proxy, require: "signed-in", headers: append(bearerOf(tk), headers...)}).want(t, 200, "")
			if got := r.header.Get("Upgrade"); (got == "websocket") != (proxy == "traefik" && headers != nil) {
				t.Errorf("%s with %q is told Upgrade: %q", proxy, headers, got)
			}
		}
	}
	for _, uri := range []string{"//x", "/a/../b", "/./x"} {
		r := w.question(question{proxy: "envoy", require: "signed-in", uri: uri, headers: bearerOf(tk)}).want(t, 403, "bad_target")
		if r.header.Get("Location") != "" {
			t.Errorf("%s: sent on to %s", uri, r.header.Get("Location"))
		}
	}
	// A preflight is no leave, of an origin that may read Sallyport's answers either: it
	// is decided on as every request.
	shared := w.restarted(behindOffice, func(c *server.Config) { c.CORS.Origins = []string{"https://pages.example"} })
	for _, headers := range [][]string{
		nil, {"Origin", "https://evil.example", "Access-Control-Request-Method", "DELETE"}, {"Origin", "https://pages.example", "Access-Control-Request-Method", "DELETE"},
	} {
		for _, w := range []*world{w, shared} {
			w.question(question{proxy: "envoy", require: "signed-in", method: "OPTIONS", headers: headers}).want(t, 401, "unauthenticated")
			// A proxy that asks by the client's method is answered no 2xx, which it takes for leave.
			req := question{proxy: "traefik", require: "signed-in", headers: headers}.request(w)
			req.Method = "OPTIONS"
			if r := w.send(req); r.status/100 != 4 || r.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("a preflight to Traefik's: %d %v", r.status, r.header)
			}
		}
	}
	// What is asked in another way than a proxy's is refused.
	for _, path := range []string{"/forward-auth/", "/forward-auth", "/forward-auth/nginx/", "/forward-auth/apache", "/forward-auth/NGINX"} {
		if r := w.do("GET", path, tk.access, nil); r.status/100 == 2 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		if r := w.do(method, "/forward-auth/nginx", tk.access, nil); r.status != 403 {
			t.Errorf("%s to nginx's: %d", method, r.status)
		}
	}
}

// Whoever is no declared proxy is told nothing but how to be one, whatever it asks.
func TestH_ForwardAuthIsForDeclaredProxies(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	log := new(testkit.Buffer)
	declared := newWorld(t, d, nil, behindOffice)
	w := declared.restarted(func(c *server.Config) { c.TrustedProxies, c.Log = nil, slog.New(slog.NewTextHandler(log, nil)) })
	_, admin := declared.user("root", "admin")
	_, tk := declared.user("ada")
	for range 3 {
		for _, proxy := range proxies {
			for _, rule := range []string{"public", "signed-in", "nonsense"} {
				q := question{proxy: proxy, require: rule, headers: bearerOf(tk), host: "sallyport.test"}
				r := w.question(q).want(t, 403, "proxy_not_declared")
				for _, name := range forward.IdentityHeaders {
					if len(r.header[name]) > 0 {
						t.Errorf("%s is told %s", proxy, name)
					}
				}
			}
			declared.question(question{proxy: proxy, require: "signed-in", headers: bearerOf(tk)}).want(t, 200, "")
		}
	}
	if text := log.String(); strings.Count(text, "not a declared proxy") != 1 || !strings.Contains(text, `127.0.0.1`) {
		t.Errorf("logged:\n%s", text)
	}
	if v := w.do("GET", "/doctor", admin.access, nil).want(t, 200, "").text(t, "undeclared_proxy"); v != "127.0.0.1" {
		t.Errorf("doctor is told of %s", v)
	}
	// Nor may a stranger come under a foreign name, as a proxy may.
	w.question(question{proxy: "envoy", require: "signed-in", host: "app.example"}).want(t, 400, "host_not_allowed")
	declared.question(question{proxy: "envoy", require: "public", host: "app.example"}).want(t, 200, "")
}

// A page of another origin cannot use a browser's cookie through the proxy, though the
// proxy asks with GET.
func TestC_ForwardAuthLooksAtTheOriginOfTheRequestItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, overHTTPS)
	w.register("ada")
	cookie := []string{"Cookie", cookieName + "=" + w.cookie("ada")}
	for _, proxy := range proxies {
		for _, tt := range []struct {
			method  string
			headers []string
			status  int
		}{
			{"GET", []string{"Sec-Fetch-Site", "cross-site"}, 200}, // a link
			{"POST", []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://app.example"}, 200},
			{"POST", []string{"Origin", "https://app.example"}, 200}, // an old browser
			{"POST", nil, 200}, // no browser
			{"DELETE", []string{"Sec-Fetch-Site", "same-origin"}, 200},
			{"POST", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403},
			{"POST", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://other.app.example"}, 403},
			{"POST", []string{"Origin", "https://evil.example"}, 403},
			{"POST", []string{"Origin", "null"}, 403},
			{"DELETE", []string{"Sec-Fetch-Site", "cross-site"}, 403},
			{"PATCH", []string{"Sec-Fetch-Site", "cross-site"}, 403},
			{"PUT", []string{"Sec-Fetch-Site", "cross-site"}, 403},
			// A WebSocket is no safe method, and Upgrade does not come through.
			{"GET", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://evil.app.example", "Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Version", "13"}, 403},
			{"GET", []string{"Origin", "https://evil.example", "Sec-WebSocket-Version", "13"}, 403},
			{"GET", []string{"Origin", "https://app.example", "Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Version", "13"}, 200},
		} {
			q := question{proxy: proxy, require: "signed-in", method: tt.method, headers: append(slices.Clone(cookie), tt.headers...)}
			r := w.question(q)
			if r.status != tt.status || tt.status == 403 && r.text(t, "code") != "cross_origin" {
				t.Errorf("%s, %s with %q: %d, want %d: %s", proxy, tt.method, tt.headers, r.status, tt.status, r.body)
			}
		}
	}
	// As with a cookie, but with a token, which no page of another origin has.
	tk := w.signIn("ada", goodPassword)
	w.question(question{proxy: "nginx", method: "POST", headers: append(bearerOf(tk), "Origin", "https://evil.example")}).want(t, 200, "")
}

// nginx is told 200, 401 or 403, whatever happens.
func TestF_ForwardAuthTellsNginxNothingElse(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, behindOffice, func(c *server.Config) {
			c.Lease = 100 * time.Millisecond
			c.Limits.Default = "20/minute"
		})
		_, tk := w.user("ada")
		status := func(proxy, client string) reply {
			q := question{proxy: proxy, require: "signed-in", headers: bearerOf(tk)}.request(w)
			q.Header.Set("X-Forwarded-For", client)
			return w.send(q)
		}
		status("nginx", "198.51.100.1").want(t, 200, "")
		for proxy, meant := range map[string]int{"nginx": 403, "traefik": 429, "caddy": 429, "envoy": 429} {
			client, n := fmt.Sprintf("203.0.113.%d", slices.Index(proxies, proxy)), 0
			r := status(proxy, client)
			for ; r.status == 200 && n < 100; n++ {
				r = status(proxy, client)
			}
			if r.status != meant || r.header.Get("Retry-After") == "" || n != 20 {
				t.Errorf("%s: %d after %d: %s", proxy, r.status, n, r.body)
			}
			if told := r.header.Get("X-Sallyport-Status"); told != map[bool]string{true: "429"}[proxy == "nginx"] {
				t.Errorf("%s is told %q", proxy, told)
			}
		}
		// A method or a path that is none is no other status either.
		for _, path := range []string{"/forward-auth/nginx?x=1", "/forward-auth/nginx?access_token=x"} {
			if r := w.from("198.51.100.2", "GET", path, ""); r.status != 403 {
				t.Errorf("%s: %d", path, r.status)
			}
		}
		req := question{proxy: "nginx", uri: "/x?access_token=y"}.request(w)
		if r := w.send(req); r.status != 403 || r.header.Get("X-Sallyport-Status") != "400" {
			t.Errorf("a token in the address: %d", r.status)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); status("traefik", "198.51.100.3").status != 503; time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatal("requests are let in long after the lease")
			}
		}
		for proxy, meant := range map[string]int{"nginx": 403, "traefik": 503, "caddy": 503, "envoy": 503} {
			r := status(proxy, "198.51.100.4").want(t, meant, "unavailable")
			if r.header.Get("Retry-After") == "" || r.header.Get("X-Sallyport-Subject") != "" {
				t.Errorf("%s: %v", proxy, r.header)
			}
		}
	})
}

// In clear where HTTPS is meant, the proxy is told so and sends nobody anywhere.
func TestH_ForwardAuthBehindHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, overHTTPS)
	_, tk := w.user("ada")
	for _, proxy := range proxies {
		q := question{proxy: proxy, require: "signed-in", headers: append(bearerOf(tk), "X-Forwarded-Proto", "http")}
		if r := w.question(q); r.status != 403 || r.header.Get("Location") != "" {
			t.Errorf("%s in clear: %d %v", proxy, r.status, r.header)
		}
		q.headers[len(q.headers)-1] = "https"
		w.question(q).want(t, 200, "")
	}
}

// A list that is too long is left out whole, and that is said: never half of it, and
// never more than services take.
func TestForwardAuthBoundsWhatItTells(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, behindOffice)
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("role-of-the-department-%03d", i))
	}
	w.define("chief")
	w.define("clerk")
	w.write(func(tx *db.Tx) error { // one role has them all, and another has few
		for i, name := range many {
			_, err := tx.Exec("INSERT INTO sp_roles (name, description, builtin) VALUES ($1, '', $2)", name, false)
			if err == nil {
				_, err = tx.Exec("INSERT INTO sp_role_includes (role, included) VALUES ('chief', $1)", name)
			}
			if err == nil && i < 35 {
				_, err = tx.Exec("INSERT INTO sp_role_includes (role, included) VALUES ('clerk', $1)", name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	_, tk := w.user("ada", "chief")
	for _, proxy := range proxies {
		r := w.question(question{proxy: proxy, require: "role(role-of-the-department-499)", headers: bearerOf(tk)}).want(t, 200, "")
		got := identity(t, r)
		total := 0
		for _, name := range forward.IdentityHeaders {
			total += len(name) + len(r.header.Get(name)) + 4
		}
		claims := w.assertion(got["Assertion"])
		if got["Roles"] != "" || got["Omitted"] != "roles" || fmt.Sprint(claims["roles"]) != "[]" || fmt.Sprint(claims["omitted"]) != "[roles]" || total > 8<<10 {
			t.Errorf("%s: %v, %d bytes", proxy, got, total)
		}
	}
	// The longest of everything else.
	long, name := strings.Repeat("é", 32), strings.Repeat("ü", 16)
	other := w.do("POST", "/auth/register", "", map[string]string{"username": long, "email": strings.Repeat("a", 60) + "@" + strings.Repeat(strings.Repeat("b", 60)+".", 3) + "example", "password": goodPassword, "full_name": name}).want(t, 201, "").text(t, "id")
	if _, err := w.sv.Accounts.Update(t.Context(), new(role.Operator()), other, account.Change{EmailVerified: new(true)}); err != nil {
		t.Fatal(err)
	}
	w.grant(other, "clerk")
	r := w.question(question{
		proxy: "nginx", host: strings.Repeat("a", 260), require: "any(" + strings.Repeat("role(user), ", 80) + "mfa)",
		headers: bearerOf(w.signIn(long, goodPassword)),
	}).want(t, 200, "")
	got, total := identity(t, r), 0
	for _, name := range forward.IdentityHeaders {
		total += len(name) + len(r.header.Get(name)) + 4
	}
	if total > 8<<10 || got["Username"] != strings.Repeat("%C3%A9", 32) || got["Roles"] == "" {
		t.Errorf("%d bytes: %v", total, got)
	}
}

// A browser that navigates is sent to the sign-in page of its own host and back, and
// nowhere else.
func TestC_ForwardAuthSendsBrowsersToSignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, behindOffice)
	closed := w.restarted(behindOffice, func(c *server.Config) { c.NoPortal = true })
	const own = "sallyport.test"
	navigate := []string{"Sec-Fetch-Mode", "navigate"}
	for _, tt := range []struct {
		name string
		q    question
		want string // where to; "" for 401
	}{
		{"a page", question{host: own, uri: "/app?a=1&b=//x", headers: navigate}, "http://sallyport.test/account/sign-in?next=%2Fapp%3Fa%3D1%26b%3D%2F%2Fx"},
		{"an old browser", question{host: own, uri: "/app", headers: []string{"Accept", "text/html,*/*"}}, "http://sallyport.test/account/sign-in?next=%2Fapp"},
		{"a session that ended", question{host: own, uri: "/app", headers: append([]string{"Cookie", cookieName + "=x"}, navigate...)}, "http://sallyport.test/account/sign-in?next=%2Fapp"},
		{"two slashes", question{host: own, uri: "//evil.example/x", headers: navigate}, "http://sallyport.test/account/sign-in"},
		{"a long address", question{host: own, uri: "/" + strings.Repeat("a", 3000), headers: navigate}, "http://sallyport.test/account/sign-in"},
		{"another host", question{host: "app.example", headers: navigate}, ""},
		{"another port", question{host: own + ":8443", headers: navigate}, ""},
		{"HTTPS", question{host: own, headers: append([]string{"X-Forwarded-Proto", "https"}, navigate...)}, ""},
		{"a script", question{host: own, headers: []string{"Sec-Fetch-Mode", "cors", "Accept", "text/html"}}, ""},
		{"a form", question{host: own, method: "POST", headers: navigate}, ""},
		{"a token", question{host: own, headers: append([]string{"Authorization", "Bearer x"}, navigate...)}, ""},
	} {
		for _, proxy := range proxies {
			tt.q.proxy, tt.q.require = proxy, "signed-in"
			if proxy == "envoy" && strings.HasPrefix(tt.q.uri, "//") {
				continue // refused before
			}
			r := w.question(tt.q)
			location, status := r.header.Get("Location"), 302
			if proxy == "nginx" {
				location, status = r.header.Get(forward.SignInHeader), 401
			}
			if tt.want == "" {
				status = 401
			}
			if r.status != status || location != tt.want {
				t.Errorf("%s, %s: %d to %q, want %q", tt.name, proxy, r.status, location, tt.want)
			}
			if r := closed.question(tt.q); r.status != 401 || r.header.Get("Location")+r.header.Get(forward.SignInHeader) != "" {
				t.Errorf("%s, %s: without pages, %d to %q", tt.name, proxy, r.status, location)
			}
		}
	}
}

// Policies see the request of the client, under the pattern of its host; a path that can
// be read in two ways is refused where they may look at it.
func TestA_ForwardAuthAsksPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, behindOffice)
	_, admin := w.user("root", "admin")
	w.define("reader", "read:items")
	_, tk := w.user("ada", "reader")
	w.policy(admin.access, "closed", `forbid(principal, action == Action::"read:items", resource == Route::"app.example/") when { context.path like "/secret*" || context.method == "DELETE" || context.ip == ip("203.0.113.9") };`)
	for _, proxy := range proxies {
		ask := func(q question) reply {
			q.proxy, q.headers = proxy, append(bearerOf(tk), q.headers...)
			if q.require == "" {
				q.require = "scope(read:items)"
			}
			return w.question(q)
		}
		ask(question{uri: "/open"}).want(t, 200, "")
		ask(question{uri: "/secret/x", host: "other.example"}).want(t, 200, "")
		ask(question{uri: "/secret/x", require: "signed-in"}).want(t, 200, "")
		ask(question{uri: "/secret/x"}).want(t, 403, "denied_by_policy")
		ask(question{uri: "/secret/x", host: "APP.example"}).want(t, 403, "denied_by_policy")
		ask(question{uri: "/%73ecret/x"}).want(t, 403, "denied_by_policy")
		ask(question{uri: "/open", method: "DELETE"}).want(t, 403, "denied_by_policy")
		for _, uri := range []string{"/open%2f..%2fsecret", "/open/%2e%2e/secret", "/open/..%5csecret", "/secret%00", "/%ff", "/open%2Fx", "/;x/secret/x", "/open/..;/secret", "/open/..;x=1/secret", "/secret%3bx"} {
			ask(question{uri: uri}).want(t, 403, "bad_target")
		}
		if proxy != "envoy" { // its own are answered before
			ask(question{uri: "//secret/x"}).want(t, 403, "denied_by_policy")
			ask(question{uri: "/open/../secret"}).want(t, 403, "bad_target")
		}
		ask(question{uri: "/group%2Fproject", require: "role(user)"}).want(t, 200, "") // no policy looks
	}
	req := question{proxy: "nginx", require: "scope(read:items)", headers: bearerOf(tk)}.request(w)
	req.Header.Set("X-Forwarded-For", "203.0.113.9")
	w.send(req).want(t, 403, "denied_by_policy")
	// A rule that came with a request makes nothing exist.
	w.question(question{proxy: "nginx", require: "scope(invented:name)", headers: bearerOf(tk)}).want(t, 403, "insufficient_permission")
	if r := w.do("GET", "/permissions", admin.access, nil); strings.Contains(string(r.body), "invented:name") {
		t.Error("a permission was made by asking for it")
	}
}

// Whoever looks for credentials through a proxy is bounded by their own address, and
// takes nobody else's turn.
func TestQ_ForwardAuthBoundsGuessesOfEachClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Guesses: "5/hour"}), behindOffice)
	_, tk := w.user("ada")
	for i, proxy := range proxies {
		ask := func(client int, key string) reply {
			req := question{proxy: proxy, require: "signed-in", headers: []string{"X-API-Key", key}}.request(w)
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.%d.%d", 100+i, client))
			return w.send(req)
		}
		for range 5 {
			ask(1, made()).want(t, 401, "invalid_token")
		}
		good := w.key(tk).key // that no server has seen yet
		for _, key := range []string{made(), good} {
			r := ask(1, key)
			if proxy == "nginx" && (r.status != 403 || r.header.Get(server.StatusHeader) != "429") || proxy != "nginx" && r.status != 429 || r.header.Get("Retry-After") == "" {
				t.Errorf("%s: after five: %d %s", proxy, r.status, r.body)
			}
		}
		ask(2, good).want(t, 200, "")
	}
}
