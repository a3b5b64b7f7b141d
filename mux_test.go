package sallyport_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport"
)

// gate lets in whoever sends a name in the X-User header, with one role.
type gate struct{}

func (gate) Require(r sallyport.Rule) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			var p sallyport.Principal
			if name := req.Header.Get("X-User"); name != "" {
				p = sallyport.NewPrincipal(sallyport.Claims{Subject: name}, sallyport.NewGrants([]string{"user"}, nil))
			}
			if e := r.Explain(&p, facts()).Refusal(); e != nil {
				sallyport.WriteError(w, e)
				return
			}
			next.ServeHTTP(w, req.WithContext(sallyport.NewContext(req.Context(), p)))
		})
	}
}

func hello(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "hello "+sallyport.From(r.Context()).ID()+r.PathValue("id"))
}

func call(h http.Handler, method, path, user string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if user != "" {
		r.Header.Set("X-User", user)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestMuxEnforcesAndPassesThePrincipal(t *testing.T) {
	m := sallyport.NewMux(gate{})
	m.HandleFunc("GET /me", sallyport.SignedIn(), hello)
	m.HandleFunc("GET /open", sallyport.Public(), hello)
	m.HandleFunc("GET /admin", sallyport.Role("admin"), hello)
	for _, c := range []struct {
		method, path, user string
		status             int
		body               string
	}{
		{"GET", "/me", "ada", 200, "hello ada"},
		{"HEAD", "/me", "", 401, ""},
		{"GET", "/me", "", 401, "unauthenticated"},
		{"GET", "/open", "", 200, "hello "},
		{"GET", "/admin", "ada", 403, "insufficient_permission"},
		{"GET", "/nowhere", "ada", 404, "not_found"},
		{"GET", "/me/", "ada", 404, "not_found"},
		{"POST", "/me", "ada", 405, "method_not_allowed"},
	} {
		w := call(m, c.method, c.path, c.user)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s as %q: %d %s", c.method, c.path, c.user, w.Code, w.Body)
		}
		if w.Code >= 400 {
			var p sallyport.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: not problem details: %s %v", c.method, c.path, w.Body, err)
			}
		}
	}
	if allow := call(m, "POST", "/me", "").Header().Get("Allow"); !strings.Contains(allow, "GET") {
		t.Errorf("405 without Allow: %q", allow)
	}
}

func TestMuxRefusesRoutesWithoutARule(t *testing.T) {
	for name, f := range map[string]func(*sallyport.Mux){
		"no rule":      func(m *sallyport.Mux) { m.HandleFunc("GET /x", sallyport.Rule{}, hello) },
		"invalid rule": func(m *sallyport.Mux) { m.HandleFunc("GET /x", sallyport.All(), hello) },
		"no handler":   func(m *sallyport.Mux) { m.Handle("GET /x", sallyport.Public(), nil) },
		"twice": func(m *sallyport.Mux) {
			m.HandleFunc("GET /x", sallyport.Public(), hello)
			m.HandleFunc("GET /x", sallyport.Public(), hello)
		},
		"after mounting": func(m *sallyport.Mux) {
			sub := sallyport.NewMux(gate{})
			m.Mount("/", sub)
			sub.HandleFunc("GET /x", sallyport.Public(), hello)
		},
		"unclean prefix": func(m *sallyport.Mux) { m.Mount("/a/../b", sallyport.NewMux(gate{})) },
		"no gate":        func(*sallyport.Mux) { sallyport.NewMux(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			f(sallyport.NewMux(gate{}))
		})
	}
}

func TestMountKeepsRulesAndPathValues(t *testing.T) {
	sub := sallyport.NewMux(gate{})
	sub.HandleFunc("GET /users/{id}", sallyport.SignedIn(), hello)
	m := sallyport.NewMux(gate{})
	m.HandleFunc("GET /{$}", sallyport.Public(), hello)
	m.Mount("/auth", sub)
	if w := call(m, "GET", "/auth/users/7", ""); w.Code != 401 {
		t.Errorf("mounted route without a credential: %d", w.Code)
	}
	if w := call(m, "GET", "/auth/users/7", "ada"); w.Code != 200 || w.Body.String() != "hello ada7" {
		t.Errorf("mounted route: %d %s", w.Code, w.Body)
	}
	if w := call(m, "GET", "/users/7", "ada"); w.Code != 404 {
		t.Errorf("without the prefix: %d", w.Code)
	}
	routes := m.Routes()
	if len(routes) != 2 || routes[0].Path != "/auth/users/{id}" || routes[0].Rule.String() != "signed-in" || routes[0].Method != "GET" {
		t.Errorf("routes: %v", routes)
	}
}

// Handlers get the real writer, not the one that words ServeMux's own answers.
func TestMuxDoesNotWrapTheWriter(t *testing.T) {
	m := sallyport.NewMux(gate{})
	var got http.ResponseWriter
	m.HandleFunc("GET /x", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
		got = w
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "mine")
	})
	w := call(m, "GET", "/x", "")
	if got != http.ResponseWriter(w) {
		t.Errorf("the writer is %T", got)
	}
	if w.Body.String() != "mine" {
		t.Errorf("a handler's own 404 was replaced: %s", w.Body)
	}
}

func TestOpenRoutesLookAtNoCredential(t *testing.T) {
	m := sallyport.NewMux(gate{})
	m.Open("GET /open", http.HandlerFunc(hello))
	if w := call(m, "GET", "/open", "ada"); w.Code != 200 || w.Body.String() != "hello " {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if r := m.Routes(); len(r) != 1 || r[0].Rule.String() != "public" {
		t.Errorf("routes: %v", r)
	}
}

// Requests that run at the same time never get each other's answer: the writer
// that words 404s is pooled, and must be nobody else's while a handler runs.
func TestParallelRequestsKeepTheirAnswers(t *testing.T) {
	m := sallyport.NewMux(gate{})
	m.HandleFunc("GET /users/{id}", sallyport.SignedIn(), hello)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			name := string(rune('a' + g))
			for range 2000 {
				if w := call(m, "GET", "/users/-"+name, name); w.Body.String() != "hello "+name+"-"+name {
					t.Errorf("%s got %q", name, w.Body)
					return
				}
				if w := call(m, "GET", "/nowhere", name); w.Code != 404 {
					t.Errorf("%s got %d", name, w.Code)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestFromWithoutAPrincipal(t *testing.T) {
	if p := sallyport.From(t.Context()); !p.Anonymous() || p.Can("x") || p.HasRole("x") {
		t.Errorf("%v", p)
	}
}

// An alias is the same route: its rule decides, its limits count together.
func TestMuxAlias(t *testing.T) {
	g := &countingGate{}
	m := sallyport.NewMux(g)
	m.HandleFunc("POST /auth/login", sallyport.Public(), hello, sallyport.Limit{Rate: "5/minute"})
	m.HandleFunc("DELETE /things/{id}", sallyport.Role("user"), hello)
	m.HandleFunc("GET /admin", sallyport.Role("admin"), hello)
	m.Alias("POST /login", "POST /auth/login")
	m.Alias("POST /login/{$}", "POST /login")
	m.Alias("DELETE /old/{id}/thing", "DELETE /things/{id}")
	m.Alias("GET /boss", "GET /admin")
	for _, c := range []struct {
		method, path, user string
		status             int
		body               string
	}{
		{"POST", "/login", "", 200, "hello "},
		{"POST", "/login/", "", 200, "hello "},
		{"POST", "/login/x", "", 404, "not_found"},
		{"GET", "/login", "", 405, "method_not_allowed"},
		{"DELETE", "/old/7/thing", "ada", 200, "hello ada7"},
		{"DELETE", "/old/7/thing", "", 401, "unauthenticated"},
		{"GET", "/boss", "ada", 403, "insufficient_permission"},
	} {
		w := call(m, c.method, c.path, c.user)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s as %q: %d %s", c.method, c.path, c.user, w.Code, w.Body)
		}
	}
	if g.limiters != 1 {
		t.Errorf("%d limiters were made for one route and its aliases", g.limiters)
	}
	listed := map[string]string{}
	for _, r := range m.Routes() {
		listed[r.Method+" "+r.Path] = r.Rule.String()
		if strings.Contains(r.Path, "login") && len(r.Limits) != 1 {
			t.Errorf("%s %s is listed with limits %v", r.Method, r.Path, r.Limits)
		}
	}
	for pattern, rule := range map[string]string{"POST /login": "public", "POST /login/{$}": "public", "DELETE /old/{id}/thing": "role(user)", "GET /boss": "role(admin)"} {
		if listed[pattern] != rule {
			t.Errorf("%s is listed with rule %q, want %q", pattern, listed[pattern], rule)
		}
	}
}

// countingGate enforces limits by counting that they were made.
type countingGate struct {
	gate
	limiters int
}

func (g *countingGate) Limit(_ string, _ []sallyport.Limit, through func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	g.limiters++
	return through
}

func TestMuxRefusesAliases(t *testing.T) {
	for name, c := range map[string]struct{ pattern, of, says string }{
		"of nothing":                {"POST /login", "POST /auth/nowhere", "there is no route"},
		"of another method":         {"GET /login", "POST /auth/login", "its method"},
		"without the wildcard":      {"GET /person", "GET /users/{id}", "its wildcards"},
		"with another wildcard":     {"GET /people/{name}", "GET /users/{id}", "its wildcards"},
		"with one more":             {"GET /people/{id}/{x}", "GET /users/{id}", "its wildcards"},
		"of itself":                 {"POST /auth/login", "POST /auth/login", "serves this path already"},
		"in front of a wildcard":    {"GET /users/me", "GET /hello", "GET /users/{id}"},
		"below a folder":            {"GET /files/secret", "GET /hello", "GET /files/"},
		"below a folder, rest":      {"GET /tree/{id}", "GET /users/{id}", "GET /tree/{rest...}"},
		"on a path for all methods": {"GET /any", "GET /hello", "/any"},
		"on another host's path":    {"GET example.com/on/host", "GET /hello", "GET example.com/on/"},
	} {
		t.Run(name, func(t *testing.T) {
			m := sallyport.NewMux(gate{})
			m.HandleFunc("POST /auth/login", sallyport.Public(), hello)
			m.HandleFunc("GET /hello", sallyport.Public(), hello)
			m.HandleFunc("GET /users/{id}", sallyport.SignedIn(), hello)
			m.HandleFunc("GET /files/", sallyport.SignedIn(), hello)
			m.HandleFunc("GET /tree/{rest...}", sallyport.SignedIn(), hello)
			m.HandleFunc("GET example.com/on/", sallyport.SignedIn(), hello)
			m.HandleFunc("/any", sallyport.SignedIn(), hello)
			if got := panicOf(func() { m.Alias(c.pattern, c.of) }); !strings.Contains(got, c.says) {
				t.Errorf("says %q, want %q", got, c.says)
			}
			if n := len(m.Routes()); n != 7 {
				t.Errorf("%d routes afterwards", n)
			}
			m.Alias("GET /greeting", "GET /hello") // what stands beside it passes
		})
	}
	m, outer := sallyport.NewMux(gate{}), sallyport.NewMux(gate{})
	m.HandleFunc("GET /hello", sallyport.Public(), hello)
	outer.Mount("/", m)
	if got := panicOf(func() { m.Alias("GET /late", "GET /hello") }); !strings.Contains(got, "closed") {
		t.Errorf("on a Mux that is mounted: %q", got)
	}
}

func panicOf(f func()) (said string) {
	defer func() { said = fmt.Sprint(recover()) }()
	f()
	return ""
}
