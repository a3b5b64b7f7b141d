package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/guard/body"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// Hosts, HTTPS, headers, bodies and what the server tells of itself (letters H
// and V of the threat list).

// What is addressed to somebody else is refused, whatever it is for, before a
// credential or a limit is looked at; health is told to everybody.
func TestH_ForeignHosts(t *testing.T) {
	var handled atomic.Int64
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		w.mux.HandleFunc("/any", sallyport.Public(), func(http.ResponseWriter, *http.Request) { handled.Add(1) })
	}, limited(server.Limits{Default: "30/hour", Login: "5/hour", Guesses: "5/hour"}), func(c *server.Config) {
		c.Hosts = []string{"api.example.com", "*.wide.example", "[2001:db8::1]", "127.0.0.1"}
	})
	id, tk := w.user("ada")
	before := w.holdings()
	as := func(host string, req *http.Request) reply {
		req.Host = host
		return w.send(req)
	}
	foreign := []string{
		"evil.example", "localhost", "sallyport.test", "api.example.com.", "api.example.com.evil.example", "evilapi.example.com", "example.com", "xapi.example.com", "wide.example", "a..wide.example", ".wide.example",
		"api.example.com:0", "api.example.com:65536", "api.example.com:080", "api.example.com:", "api.example.com:80:80", "api.example.com:http", "api.example.com@evil.example",
		"127.0.0.2", "127.1", "2130706433", "0x7f.0.0.1", "[::1]", "[2001:db8::2]", "[2001:db8::1", "*.wide.example", "api_example.com", "api.example.com,evil.example", "münchen.example",
	}
	for _, host := range foreign {
		for _, req := range []*http.Request{
			w.request("GET", "/users/me", tk.access, nil), w.request("GET", "/nothing", "", nil), w.request("GET", "/docs", "", nil), w.request("GET", "/docs/init.js", "", nil), w.request("GET", "/openapi.json", "", nil),
			w.request("POST", "/auth/login", "", map[string]string{"username": "ada", "password": goodPassword}), w.request("DELETE", "/users/me", tk.access, nil), w.request("DELETE", "/livez/x", "", nil),
			w.request("POST", "/any", "", nil), w.request("OPTIONS", "/any", "", nil), w.keyed("GET", "/users/me", made(), nil), w.request("GET", "/doctor", tk.access, nil),
		} {
			what := fmt.Sprint(req.Method, " ", req.URL.Path, " at ", host)
			r := as(host, req)
			if strings.ContainsAny(host, ",ü@") && r.status == 400 && len(r.header["X-Request-Id"]) == 0 {
				continue // no Host at all: the parser's refusal
			}
			if r.status != 400 || !strings.Contains(string(r.body), `"host_not_allowed"`) {
				t.Errorf("%s: %d %.200s", what, r.status, r.body)
			}
			if strings.Contains(string(r.body), host) || r.header.Get("Location") != "" {
				t.Errorf("%s is reflected: %v %s", what, r.header, r.body)
			}
			headed(t, what, r)
		}
		for _, path := range []string{"/livez", "/readyz", "/readyz?verbose"} {
			if r := as(host, w.request("GET", path, "", nil)); r.status != 200 && len(r.header["X-Request-Id"]) > 0 {
				t.Errorf("%s at %s: %d", path, host, r.status)
			}
		}
	}
	if handled.Load() != 0 {
		t.Errorf("%d of them were handled", handled.Load())
	}
	w.holds(before)
	for _, host := range []string{"api.example.com", "API.Example.COM", "api.example.com:443", "api.example.com:8080", "a.wide.example", "b.a.wide.example:1", "[2001:db8::1]", "[2001:DB8:0:0::1]:8443", "127.0.0.1"} {
		if r := as(host, w.request("GET", "/users/me", tk.access, nil)); r.status != 200 || r.text(t, "id") != id {
			t.Errorf("at %s: %d %s", host, r.status, r.body)
		}
	}
	// X-Forwarded-Host and Forwarded name nobody.
	req := w.request("GET", "/users/me", tk.access, nil)
	req.Host = "evil.example"
	req.Header.Set("X-Forwarded-Host", "api.example.com")
	req.Header.Set("Forwarded", "host=api.example.com")
	w.send(req).want(t, 400, "host_not_allowed")

	// What counts is the absolute form's host (RFC 9112, 3.2.2).
	addr := w.listen()
	for line, want := range map[string]string{
		"GET http://evil.example/users/me HTTP/1.1\r\nHost: api.example.com":                 "400",
		"GET http://api.example.com/users/me HTTP/1.1\r\nHost: evil.example":                 "200",
		"GET http://api.example.com@evil.example/users/me HTTP/1.1\r\nHost: api.example.com": "400",
		"GET /users/me HTTP/1.1\r\nHost: api.example.com":                                    "200",
		"GET /users/me HTTP/1.1\r\nHost:":                                                    "400",
		"GET /users/me HTTP/1.0":                                                             "400",
		"GET /users/me HTTP/1.1\r\nHost: [2001:db8::1%25eth0]":                               "400",
		"GET /users/me HTTP/1.1\r\nHost: [2001:db8::1]":                                      "200",
		"OPTIONS * HTTP/1.1\r\nHost: evil.example":                                           "400",
	} {
		answer, _ := wire(t, addr, line+"\r\nAuthorization: Bearer "+tk.access+"\r\nConnection: close\r\n\r\n", silent)
		if !strings.HasPrefix(answer, "HTTP/1.1 "+want) && !strings.HasPrefix(answer, "HTTP/1.0 "+want) {
			t.Errorf("%q: %.300s", line, answer)
		}
	}
}

// headed fails unless an answer has the headers that every one has.
func headed(t *testing.T, what string, r reply) {
	t.Helper()
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
		if got := r.header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: status %d: %s %q", what, r.status, name, got)
		}
	}
	if got := r.header["Content-Security-Policy"]; len(got) != 1 || !strings.Contains(got[0], "default-src 'none'") || !strings.Contains(got[0], "frame-ancestors 'none'") || strings.Contains(got[0], "unsafe") {
		t.Errorf("%s: status %d: Content-Security-Policy %q", what, r.status, got)
	}
	if got := r.header["X-Request-Id"]; len(got) != 1 || got[0] == "" {
		t.Errorf("%s: status %d: X-Request-Id %q", what, r.status, got)
	}
	for _, name := range []string{"X-Xss-Protection", "Server", "X-Powered-By", "Expect-Ct"} {
		if r.header[name] != nil {
			t.Errorf("%s: status %d: %s %q", what, r.status, name, r.header[name])
		}
	}
}

// Headers of every class of response, those of the wall included.
func TestH_HeadersOfTheWall(t *testing.T) {
	for _, base := range []string{baseURL, "https://sallyport.test"} {
		w := newWorld(t, testkit.SQLite(t), unusual, func(c *server.Config) { c.BaseURL = base })
		_, tk := w.user("ada")
		w.do("GET", "/rare", "", nil).want(t, 200, "")
		all := classes(w, tk)
		all[1400] = func() *http.Request {
			r := w.request("GET", "/users/me", "", nil)
			r.Host = "evil.example"
			return r
		}
		if base != baseURL {
			for code, accept := range map[int]string{1403: "application/json", 1307: "text/html"} {
				all[code] = func() *http.Request {
					r := w.request("GET", "/docs?x=1", "", nil)
					r.Header.Set("X-Forwarded-Proto", "http")
					r.Header.Set("Accept", accept)
					return r
				}
			}
		}
		all[2200] = func() *http.Request { return w.request("GET", "/livez", "", nil) }
		for status, req := range all {
			r := w.send(req())
			if r.status != status%1000 {
				t.Errorf("status %d, want %d: %.200s", r.status, status, r.body)
			}
			what := fmt.Sprint(status, " under ", base)
			headed(t, what, r)
			want := ""
			if base != baseURL && status != 1403 && status != 1307 { // not over what came in clear (RFC 6797, 7.2)
				want = "max-age=31536000"
			}
			if got := r.header.Get("Strict-Transport-Security"); got != want {
				t.Errorf("%s: Strict-Transport-Security %q, want %q", what, got, want)
			}
		}
		// The page may run its own scripts, and nobody else's.
		page := w.do("GET", "/docs", "", nil).want(t, 200, "")
		headed(t, "the page", page)
		csp := page.header.Get("Content-Security-Policy")
		for _, want := range []string{"script-src 'self'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("the page's policy %q has no %s", csp, want)
			}
		}
		for _, word := range []string{"'unsafe-inline'", "'unsafe-eval'", "http:", "https:", "*"} {
			if i := strings.Index(csp, "script-src"); strings.Contains(strings.Split(csp[i:], ";")[0], word) {
				t.Errorf("the page's policy %q allows %s", csp, word)
			}
		}
	}
}

// What comes in clear where HTTPS is meant: a page is led to the configured
// address, everything else is refused, and nothing is done. Only a declared
// proxy's word makes it secure.
func TestH_InClear(t *testing.T) {
	var handled atomic.Int64
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		w.mux.HandleFunc("/any/{rest...}", sallyport.Public(), func(http.ResponseWriter, *http.Request) { handled.Add(1) })
	}, func(c *server.Config) {
		c.BaseURL, c.Hosts = "https://sallyport.test:8443", []string{"sallyport.test", "other.test", "127.0.0.1"}
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.71.1/32"), netip.MustParsePrefix("127.0.0.1/32")}
		c.HSTSSubdomains = true
	})
	_, tk := w.user("ada")
	w.http.Config.Handler = w.sv.Guard(w.mux) // nothing says https any more
	proxy, other := w.at("127.0.71.1"), w.at("127.0.71.2")
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	get := func(v *visitor, method, path, host string, headers ...string) reply {
		req := w.request(method, path, "", nil)
		req.Host = host
		for i := 0; i < len(headers); i += 2 {
			req.Header.Add(headers[i], headers[i+1])
		}
		v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		return v.send(req)
	}
	for _, host := range []string{"sallyport.test", "other.test", "sallyport.test:80", "127.0.0.1"} {
		for path, target := range map[string]string{
			"/docs": "/docs", "/any/a%2Fb?x=1&y=%20": "/any/a%2Fb?x=1&y=%20", "/any//evil.example/": "/any//evil.example/", "//evil.example/x": "//evil.example/x", "/nothing?next=https://evil.example": "/nothing?next=https://evil.example", "/any/%0d%0aSet-Cookie:x": "/any/%0d%0aSet-Cookie:x",
		} {
			for _, method := range []string{"GET", "HEAD"} {
				r := get(other, method, path, host, "Accept", browser)
				if r.status != 307 || r.header.Get("Location") != "https://sallyport.test:8443"+target || r.header.Get("Strict-Transport-Security") != "" || r.header["Set-Cookie"] != nil {
					t.Errorf("%s %s at %s: %d %v", method, path, host, r.status, r.header)
				}
			}
		}
	}
	refused := func(what string, r reply) {
		t.Helper()
		if r.status != 403 || r.header.Get("Location") != "" || r.header.Get("Strict-Transport-Security") != "" || !strings.Contains(string(r.body), `"https_required"`) {
			t.Errorf("%s: %d %v %.200s", what, r.status, r.header, r.body)
		}
		quiet(t, what, r, tk.access)
	}
	before := w.holdings()
	for what, headers := range map[string][]string{
		"a program": {}, "JSON first": {"Accept", "application/json, text/html"}, "any": {"Accept", "*/*"},
		"a page with a token": {"Accept", browser, "Authorization", "Bearer " + tk.access}, "a page with a key": {"Accept", browser, "X-API-Key", made()}, "a page with the cookie": {"Accept", browser, "Cookie", cookieName + "=x"},
		"who says so": {"X-Forwarded-Proto", "https"}, "who says so in Forwarded": {"Forwarded", "proto=https;for=127.0.0.1"}, "with other words": {"X-Forwarded-Ssl", "on", "Front-End-Https", "on", "X-Url-Scheme", "https"},
		"who pretends to be the proxy": {"X-Forwarded-For", "127.0.71.1", "X-Forwarded-Proto", "https"},
	} {
		refused(what, get(other, "GET", "/any/x", "sallyport.test", headers...))
		refused(what, get(other, "GET", "/users/me", "sallyport.test", headers...))
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		refused(method, get(other, method, "/any/x", "sallyport.test", "Accept", browser))
	}
	for what, req := range w.signInRequests("ada", goodPassword) {
		refused(what, other.send(req))
	}
	refused("the proxy, of a client in clear", get(proxy, "GET", "/any/x", "sallyport.test", "X-Forwarded-Proto", "http", "X-Forwarded-For", "203.0.113.1"))
	refused("the proxy, of a client that said https before it", get(proxy, "GET", "/any/x", "sallyport.test", "X-Forwarded-Proto", "https, http", "X-Forwarded-For", "203.0.113.1"))
	refused("the proxy, which says nothing", get(proxy, "GET", "/any/x", "sallyport.test"))
	w.holds(before)
	if handled.Load() != 0 {
		t.Errorf("%d of them were handled", handled.Load())
	}
	for _, path := range []string{"/livez", "/readyz"} { // the machine's own check has no TLS
		get(other, "GET", path, "sallyport.test").want(t, 200, "")
	}

	r := get(proxy, "GET", "/users/me", "sallyport.test", "X-Forwarded-Proto", "https", "X-Forwarded-For", "203.0.113.1", "Authorization", "Bearer "+tk.access).want(t, 200, "")
	if got := r.header.Get("Strict-Transport-Security"); got != "max-age=31536000; includeSubDomains" {
		t.Errorf("Strict-Transport-Security %q", got)
	}
	get(proxy, "GET", "/any/x", "sallyport.test", "X-Forwarded-Proto", "https").want(t, 200, "")
	// Of a host that is not ours nothing is said, in clear or not.
	get(other, "GET", "/docs", "evil.example", "Accept", browser).want(t, 400, "host_not_allowed")

	// Its own TLS is TLS.
	srv := httptest.NewTLSServer(w.sv.Guard(w.mux))
	defer srv.Close()
	req := w.request("GET", "/users/me", tk.access, nil)
	req.URL.Scheme, req.URL.Host, req.Host = "https", strings.TrimPrefix(srv.URL, "https://"), "sallyport.test"
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("over TLS: %d %v", res.StatusCode, res.Header)
	}
}

// What the server sees of a request is told to those who may know.
func TestH_Doctor(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "1000/hour", Login: "500/minute"}), func(c *server.Config) {
		c.TrustedProxies, c.ProxyHeader = []netip.Prefix{netip.MustParsePrefix("127.0.72.1/32")}, clientip.XForwardedFor
	})
	if err := w.sv.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, plain := w.user("plain")
	_, root := w.user("root", "admin")
	w.define("watchers", server.ReadServer)
	_, watcher := w.user("watcher", "watchers")
	w.user("mod", "moderator")
	w.do("GET", "/doctor", "", nil).want(t, 401, "unauthenticated")
	w.do("GET", "/doctor", "x", nil).want(t, 401, "invalid_token")
	w.do("GET", "/doctor", plain.access, nil).want(t, 403, "insufficient_permission")
	w.do("GET", "/doctor", w.signIn("mod", goodPassword).access, nil).want(t, 403, "insufficient_permission")
	w.do("GET", "/doctor", w.signIn("watcher", goodPassword, "scope", "read:users").access, nil).want(t, 403, "")
	w.do("POST", "/doctor", root.access, nil).want(t, 405, "")
	view := func(v *visitor, token string, headers ...string) server.View {
		t.Helper()
		req := w.request("GET", "/doctor", token, nil)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Add(headers[i], headers[i+1])
		}
		r := v.send(req).want(t, 200, "")
		if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%v", r.header)
		}
		var out server.View
		if err := json.Unmarshal(r.body, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	direct, proxy := w.at("127.0.72.2"), w.at("127.0.72.1")
	for _, token := range []string{root.access, watcher.access} {
		v := view(direct, token)
		if v.Address != "127.0.72.2" || v.Peer != "127.0.72.2" || v.PeerPort == 0 || v.Forwarded != "none" || v.HTTPS || v.BaseURL != baseURL || !slices.Equal(v.Hosts, testHosts) || v.Received != "" || v.Undeclared != "" {
			t.Errorf("directly: %+v", v)
		}
		if v.Limits != (server.LimitView{Default: "1000/hour", Login: "500/minute", Lockout: false, Shared: "no", Nodes: 1}) {
			t.Errorf("limits: %+v", v.Limits)
		}
	}
	if v := view(proxy, root.access, "X-Forwarded-For", "198.51.100.1, 203.0.113.5", "X-Forwarded-Proto", "https"); v.Address != "203.0.113.5" || v.Peer != "127.0.72.1" || v.Forwarded != "believed" || !v.HTTPS || v.Received != "198.51.100.1, 203.0.113.5" {
		t.Errorf("by the proxy: %+v", v)
	}
	long := strings.Repeat("ä", 2000) + ", 203.0.113.6"
	if v := view(direct, root.access, "X-Forwarded-For", long); v.Address != "127.0.72.2" || v.Forwarded != "ignored" || v.Ignored != "X-Forwarded-For" || v.Undeclared != "127.0.72.2" || len(v.Received) > 512 || !strings.HasSuffix(v.Received, "203.0.113.6") {
		t.Errorf("undeclared: %+v", v)
	}
	if v := view(proxy, root.access); v.Undeclared != "127.0.72.2" || v.Forwarded != "none" {
		t.Errorf("the proxy, which says nothing: %+v", v)
	}
}

// Whether wrong passwords lock is told as it is: with the limits of passwords off,
// lockout goes on.
func TestH_DoctorTellsLockout(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.NoLockout = off })
		_, root := w.user("root", "admin")
		v := w.at("127.0.72.9")
		v.guess("root", 5)
		locks := v.token("root", goodPassword).status == 429
		limits := w.do("GET", "/doctor", root.access, nil).want(t, 200, "").json(t)["limits"].(map[string]any)
		if locks == off || limits["lockout"] != locks || limits["login"] != "off" || limits["default"] != "off" {
			t.Errorf("switched off %v: it locks %v, and doctor says %v", off, locks, limits)
		}
	}
}

// The operator is told of peers that speak as proxies do: once of each, and of
// sixteen at most, whatever is sent.
func TestH_UndeclaredProxies(t *testing.T) {
	log := new(testkit.Buffer)
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) {
		c.Log = slog.New(slog.NewJSONHandler(log, nil))
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.73.200/32")}
	})
	told := func() (peers []string) {
		for line := range strings.Lines(log.String()) {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if text, _ := m["msg"].(string); strings.Contains(text, "not a declared proxy") {
				if m["level"] != "WARN" || m["fix"] != fmt.Sprintf("proxy.trusted = [%q]", m["peer"]) {
					t.Errorf("%v", m)
				}
				peers = append(peers, m["peer"].(string)+" "+m["header"].(string))
			}
		}
		return peers
	}
	forwarded := func(addr, name, value string) {
		req := w.request("GET", "/users/me", "", nil)
		if name != "" {
			req.Header.Set(name, value)
		}
		w.at(addr).send(req).want(t, 401, "")
	}
	forwarded("127.0.73.1", "", "")
	forwarded("127.0.73.200", "X-Forwarded-For", "203.0.113.1")
	if got := told(); len(got) != 0 {
		t.Fatalf("told of %q", got)
	}
	for i := range 6 { // two peers in turn
		forwarded(fmt.Sprintf("127.0.73.%d", 1+i%2), []string{"X-Forwarded-For", "Forwarded"}[i%2], "planted")
	}
	if got := told(); !slices.Equal(got, []string{"127.0.73.1 X-Forwarded-For", "127.0.73.2 Forwarded"}) {
		t.Fatalf("told of %q", got)
	}
	parallel(40, func(i int) { forwarded(fmt.Sprintf("127.0.73.%d", 3+i), "X-Real-IP", "203.0.113.1") })
	parallel(40, func(i int) { forwarded(fmt.Sprintf("127.0.73.%d", 3+i), "X-Forwarded-Proto", "https") })
	got := told()
	slices.Sort(got)
	if len(got) != 16 || len(slices.CompactFunc(got, func(a, b string) bool { return strings.Fields(a)[0] == strings.Fields(b)[0] })) != 16 {
		t.Errorf("told of %d: %q", len(got), got)
	}
	if strings.Contains(log.String(), "planted") {
		t.Error("what was sent is in the log")
	}
}

// The other mistakes of the wall, by the names of the configuration file, all at
// once.
func TestH_ConfigurationMistakes(t *testing.T) {
	cfg := server.Config{
		DB: testkit.SQLite(t), BaseURL: "https://sallyport.test", MasterKeyFile: t.TempDir() + "/master.key",
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.1/8")}, ProxyHeader: "CF-Connecting-IP",
		Hosts: []string{"*", "https://x", "a b"}, HSTS: 1, HSTSPreload: true,
		Limits: server.Limits{Default: "often", Login: "0/minute", Register: "5/fortnight", Guesses: "1/second;burst=0"},
	}
	sv, err := server.New(t.Context(), cfg)
	if err == nil {
		sv.Close()
		t.Fatal("it starts")
	}
	count := map[string]int{}
	for _, m := range mistakes(err) {
		count[m.Key]++
		if m.Reason == "" || m.Fix == "" {
			t.Errorf("%+v", m)
		}
	}
	for key, n := range map[string]int{
		"proxy.trusted": 2, "proxy.header": 1, "hosts.allowed": 3, "tls.hsts": 1, "tls.hsts_preload": 2, "limits.default": 1, "limits.login": 1, "limits.register": 1, "limits.guesses": 1,
	} {
		if count[key] != n {
			t.Errorf("%s: %d mistakes, want %d: %v", key, count[key], n, err)
		}
	}
	for _, word := range []string{"HSTSPreload", "HSTSSubdomains", "Trusted:", "BaseURL"} {
		if strings.Contains(err.Error(), word) {
			t.Errorf("the error speaks of %s: %v", word, err)
		}
	}
}

// Bodies of plain handlers end at the server's bound. A Guard further in allows
// less or more, and typed operations say it by themselves.
func TestV_BodiesOfPlainHandlers(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	guard := func(n int64) *body.Guard {
		g, err := body.New(body.Config{Max: n})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			sallyport.WriteError(w, sallyport.AsError(err))
			return
		}
		fmt.Fprint(w, n)
	})
	type upload struct {
		Body struct {
			Text string `json:"text"`
		}
	}
	type size struct {
		Size int `json:"size"`
	}
	typed := func(_ context.Context, in *upload) (*api.Body[size], error) {
		return &api.Body[size]{Body: size{len(in.Body.Text)}}, nil
	}
	routes := func(w *world) {
		w.mux.Handle("POST /plain", sallyport.Public(), count)
		w.mux.Handle("POST /less", sallyport.Public(), guard(1000).Handler(count))
		w.mux.Handle("POST /more", sallyport.Public(), guard(3*mib).Handler(count))
		w.mux.HandleFunc("POST /ignores", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
		api.Post(w.sv.API(), "/typed", sallyport.Public(), typed, api.Doc("Test", "Upload", ""))
		api.Post(w.sv.API(), "/typed/more", sallyport.Public(), typed, api.Doc("Test", "Upload more", ""), api.BodyLimit(3*mib))
		api.Post(w.sv.API(), "/typed/less", sallyport.Public(), typed, api.Doc("Test", "Upload less", ""), api.BodyLimit(1000))
	}
	for name, tt := range map[string]struct {
		max   int64
		plain int
	}{"by default": {0, mib}, "two": {2 * mib, 2 * mib}, "a thousand": {1000, 1000}, "none": {-1, 0}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), routes, func(c *server.Config) { c.MaxBody = tt.max })
			for path, limit := range map[string]int{"/plain": tt.plain, "/less": 1000, "/more": 3 * mib, "/typed": mib, "/typed/more": 3 * mib, "/typed/less": 1000} {
				for _, chunked := range []bool{false, true} {
					for _, n := range []int{limit, limit + 1} {
						text := bytes.Repeat([]byte("a"), n)
						if strings.HasPrefix(path, "/typed") {
							text = append(append([]byte(`{"text":"`), bytes.Repeat([]byte("a"), n-11)...), `"}`...)
						}
						var rd io.Reader = bytes.NewReader(text)
						if chunked {
							rd = io.MultiReader(rd)
						}
						req, err := http.NewRequestWithContext(t.Context(), "POST", w.http.URL+path, rd)
						if err != nil {
							t.Fatal(err)
						}
						req.Header.Set("Content-Type", "application/json")
						r := w.send(req)
						if n == limit {
							if r.status != 200 {
								t.Errorf("%s: %d bytes, chunked %v: %d %.200s", path, n, chunked, r.status, r.body)
							}
						} else if r.status != 413 || !strings.Contains(string(r.body), `"body_too_large"`) || !strings.Contains(string(r.body), fmt.Sprint("than the ", limit, " bytes")) {
							t.Errorf("%s: %d bytes, chunked %v: %d %.300s", path, n, chunked, r.status, r.body)
						}
					}
				}
			}
			w.do("POST", "/ignores", "", strings.Repeat("a", 2*mib)).want(t, 200, "")
			w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": "x"}).want(t, 401, "")
			w.do("POST", "/auth/login", "", strings.Repeat(" ", api.MaxAuthBody+1)).want(t, 413, "")
		})
	}
}

// Programs that put another router behind the wall have the same bound, and
// Bound within it.
func TestV_BodiesOfOtherRouters(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	other := http.NewServeMux()
	other.HandleFunc("POST /plain", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			sallyport.WriteError(w, sallyport.AsError(err))
			return
		}
		fmt.Fprint(w, len(r.PostForm.Get("x")))
	})
	other.HandleFunc("POST /more", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(body.Bound(r, 2<<20).Body)
		if err != nil {
			sallyport.WriteError(w, sallyport.AsError(err))
			return
		}
		fmt.Fprint(w, len(b))
	})
	srv := httptest.NewServer(w.sv.Guard(other))
	defer srv.Close()
	post := func(path string, n int) int {
		res, err := srv.Client().PostForm(srv.URL+path, url.Values{"x": {strings.Repeat("a", n-2)}})
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	for path, limit := range map[string]int{"/plain": 1 << 20, "/more": 2 << 20} {
		if got := post(path, limit); got != 200 {
			t.Errorf("%s: status %d for as much as fits", path, got)
		}
		if got := post(path, limit+1); got != 413 {
			t.Errorf("%s: status %d for a byte more", path, got)
		}
	}
}
