package sallyport_test

import (
	"encoding/json"
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
