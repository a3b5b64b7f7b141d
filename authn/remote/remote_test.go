package remote_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authn/token"
)

// clock is the time of a test. It stands still until it is moved.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time        { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) forth(d time.Duration) { c.ns.Add(int64(d)) }

// issuer is a server that publishes keys and answers questions. Its parts can be
// replaced while it runs.
type issuer struct {
	t     testing.TB
	srv   *httptest.Server
	clock *clock

	mu         sync.Mutex
	set        *token.Set
	keys       http.HandlerFunc                   // instead of the set's JWKS
	introspect func(credential string) any        // the answer; an http.HandlerFunc to write it
	asked      func(r *http.Request, form string) // sees each question

	fetches, questions atomic.Int64
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	is := &issuer{t: t, clock: newClock(), set: setOf(t, token.EdDSA)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
		is.fetches.Add(1)
		is.mu.Lock()
		h, set := is.keys, is.set
		is.mu.Unlock()
		if h != nil {
			h(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(set.JWKS())
	})
	mux.HandleFunc("POST /token/introspect", func(w http.ResponseWriter, r *http.Request) {
		is.questions.Add(1)
		is.mu.Lock()
		f, asked := is.introspect, is.asked
		is.mu.Unlock()
		credential := r.PostFormValue("token")
		if asked != nil {
			asked(r, credential)
		}
		if r.Header.Get("X-Api-Key") != serviceKey {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch a := f(credential).(type) {
		case func(http.ResponseWriter, *http.Request):
			a(w, r)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(a)
		}
	})
	is.srv = httptest.NewServer(mux)
	t.Cleanup(is.srv.Close)
	return is
}

const serviceKey = "sp_service-key-of-this-test"

// url is what stands as iss.
func (is *issuer) url() string { return is.srv.URL }

// with replaces parts.
func (is *issuer) with(f func(*issuer)) {
	is.mu.Lock()
	defer is.mu.Unlock()
	f(is)
}

func setOf(t testing.TB, algs ...token.Alg) *token.Set {
	t.Helper()
	var keys []*token.Key
	for _, alg := range algs {
		k, err := token.Generate(alg)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	s, err := token.NewSet(keys[0], keys[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// claims are those of a good token; f changes them.
func (is *issuer) claims(f func(*token.Claims)) token.Claims {
	now := is.clock.now()
	c := token.Claims{
		Issuer: is.url(), Audience: []string{is.url()}, Subject: "ada", ClientID: "first-party", ID: "token-1", Session: "session-1",
		IssuedAt: now, Expires: now.Add(15 * time.Minute), AuthTime: now.Add(-time.Minute), AMR: []string{"pwd"},
	}
	if f != nil {
		f(&c)
	}
	return c
}

func (is *issuer) issue(f func(*token.Claims)) string {
	is.t.Helper()
	is.mu.Lock()
	set := is.set
	is.mu.Unlock()
	compact, err := set.Issue(is.claims(f))
	if err != nil {
		is.t.Fatal(err)
	}
	return compact
}

func scoped(scope ...string) func(*token.Claims) {
	return func(c *token.Claims) { c.Scoped, c.Scope = true, scope }
}

// verifier returns one for the issuer, with what f changes.
func (is *issuer) verifier(f func(*remote.Config)) *remote.Verifier {
	is.t.Helper()
	cfg := remote.Config{Issuer: is.url(), Now: is.clock.now, Log: slog.New(slog.DiscardHandler)}
	if f != nil {
		f(&cfg)
	}
	v, err := remote.New(cfg)
	if err != nil {
		is.t.Fatal(err)
	}
	is.t.Cleanup(func() { _ = v.Close() })
	return v
}

func introspecting(c *remote.Config) { c.Introspection = &remote.Introspection{APIKey: serviceKey} }

// reply is an answer of a protected route.
type reply struct {
	status int
	code   string // of the problem, or the body of a 200
	header http.Header
	body   string
}

// call sends a request with header lines through the gate.
func call(t testing.TB, g sallyport.Gate, rule sallyport.Rule, target string, header ...string) reply {
	t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	g.Require(rule)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := sallyport.From(r.Context())
		_, _ = fmt.Fprintf(w, "[%s %s %s]", p.ID(), p.Kind(), p.SessionID())
	})).ServeHTTP(w, r)
	out := reply{status: w.Code, code: w.Body.String(), header: w.Header(), body: w.Body.String()}
	if w.Code != 200 {
		var p sallyport.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Fatalf("%d %s is not a problem: %v", w.Code, w.Body, err)
		}
		out.code = p.Code
	}
	return out
}

func get(t testing.TB, g sallyport.Gate, rule sallyport.Rule, access string) reply {
	t.Helper()
	return call(t, g, rule, "/", "Authorization: Bearer "+access)
}

func (r reply) want(t testing.TB, what string, status int, code string) {
	t.Helper()
	if r.status != status || r.code != code {
		t.Errorf("%s: %d %s, want %d %s", what, r.status, r.code, status, code)
	}
}

const letIn = "[ada bearer session-1]"

func TestNewReportsEveryMistake(t *testing.T) {
	long := "https://" + strings.Repeat("x", 255)
	for _, tt := range []struct {
		name string
		cfg  remote.Config
		keys string // of the mistakes, in order
	}{
		{"https", remote.Config{Issuer: "https://id.example.com"}, ""},
		{"this machine", remote.Config{Issuer: "http://localhost:8080"}, ""},
		{"this machine by address", remote.Config{Issuer: "http://127.0.0.1:8080/base"}, ""},
		{"this machine by IPv6", remote.Config{Issuer: "http://[::1]:8080"}, ""},
		{"everything", remote.Config{
			Issuer: "https://id.example.com/", Audience: "api", JWKSURL: "https://keys.example.com/k", Leeway: time.Minute,
			Introspection: &remote.Introspection{URL: "https://id.example.com/i", APIKey: "k", HeaderName: "x-key", MaxAge: time.Second},
		}, ""},
		{"no leeway", remote.Config{Issuer: "https://id.example.com", Leeway: -1}, ""},
		{"dangerous", remote.Config{Issuer: "http://id.internal", DangerouslyPlainHTTP: true}, ""},

		{"nothing", remote.Config{}, "Issuer"},
		{"plain http", remote.Config{Issuer: "http://id.example.com"}, "Issuer"},
		{"plain http to what looks like this machine", remote.Config{Issuer: "http://localhost.example.com"}, "Issuer"},
		{"plain http to a name that looks like an address", remote.Config{Issuer: "http://127.0.0.1.example.com"}, "Issuer"},
		{"another scheme", remote.Config{Issuer: "ftp://id.example.com"}, "Issuer"},
		{"no scheme", remote.Config{Issuer: "id.example.com"}, "Issuer"},
		{"no host", remote.Config{Issuer: "https:id.example.com"}, "Issuer"},
		{"no host but a port", remote.Config{Issuer: "https://:443"}, "Issuer"},
		{"a password", remote.Config{Issuer: "https://u:hunter2@id.example.com"}, "Issuer"},
		{"no URL with a password", remote.Config{Issuer: "https://u:hunter2@id.example.com:x"}, "Issuer"},
		{"a query", remote.Config{Issuer: "https://id.example.com?a"}, "Issuer"},
		{"too long", remote.Config{Issuer: long}, "Issuer"},
		{"everything wrong", remote.Config{
			Issuer: "http://id.example.com", Audience: long, JWKSURL: "http://id.example.com/k", Leeway: time.Hour,
			Introspection: &remote.Introspection{URL: "/i", APIKey: "hunter2\n", HeaderName: "Authorization", MaxAge: time.Minute},
		}, "Issuer Audience JWKSURL Leeway Introspection.URL Introspection.APIKey Introspection.HeaderName Introspection.MaxAge"},
		{"no key", remote.Config{Issuer: "https://id.example.com", Introspection: &remote.Introspection{HeaderName: "X Y", MaxAge: -1}}, "Introspection.APIKey Introspection.HeaderName Introspection.MaxAge"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := remote.New(tt.cfg)
			var keys []string
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				for _, e := range joined.Unwrap() {
					ce, ok := errors.AsType[*remote.ConfigError](e)
					if !ok || ce.Reason == "" || ce.Fix == "" {
						t.Fatalf("%#v", e)
					}
					keys = append(keys, ce.Key)
				}
				if strings.Contains(err.Error(), "hunter2") {
					t.Error("the error shows a secret")
				}
			}
			if got := strings.Join(keys, " "); got != tt.keys || (v == nil) != (err != nil) {
				t.Errorf("mistakes %q, want %q (%v)", got, tt.keys, err)
			}
			if v != nil {
				_ = v.Close()
			}
		})
	}
}

func TestConfigHidesTheKey(t *testing.T) {
	i := remote.Introspection{URL: "https://id.example.com", APIKey: "hunter2"}
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "i", i, "p", &i)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "i", i, "p", &i)
	text, _ := json.Marshal(i)
	fmt.Fprintf(&b, "%v %+v %#v %s %v %s", i, i, i, i, &i, text)
	if strings.Contains(b.String(), "hunter2") {
		t.Error(b.String())
	}
}

// What a token gives by itself.
func TestTokenAlone(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	plain := is.issue(nil)
	items := is.issue(scoped("read:items", "role:editor"))
	nothing := is.issue(scoped())
	twice := is.issue(func(c *token.Claims) { c.AMR = []string{"pwd", "otp"} })
	old := is.issue(func(c *token.Claims) { c.AuthTime = c.IssuedAt.Add(-time.Hour) })
	never := is.issue(func(c *token.Claims) { c.AuthTime = time.Time{} })
	const challenge = `Bearer realm="sallyport"`
	for _, tt := range []struct {
		what, access string
		rule         sallyport.Rule
		status       int
		code         string
		challenge    string
	}{
		{"nobody on a public route", "", sallyport.Public(), 200, "[  ]", ""},
		{"nobody", "", sallyport.SignedIn(), 401, "unauthenticated", challenge},
		{"a token on a public route", plain, sallyport.Public(), 200, letIn, ""},
		{"a bad token on a public route", plain + "x", sallyport.Public(), 401, "invalid_token", challenge + `, error="invalid_token"`},
		{"signed in", plain, sallyport.SignedIn(), 200, letIn, ""},

		{"unscoped, a permission", plain, sallyport.Permission("read:items"), 403, "insufficient_permission", ""},
		{"unscoped, a role", plain, sallyport.Role("editor"), 403, "insufficient_permission", ""},
		{"unscoped", plain, sallyport.Unscoped(), 200, letIn, ""},
		{"scoped, unscoped asked for", items, sallyport.Unscoped(), 403, "insufficient_scope", challenge + `, error="insufficient_scope"`},

		{"its scope", items, sallyport.Permission("read:items"), 200, letIn, ""},
		{"its scope as a scope", items, sallyport.Scope("read:items"), 200, letIn, ""},
		{"another scope", items, sallyport.Permission("write:items"), 403, "insufficient_scope", challenge + `, error="insufficient_scope", scope="write:items"`},
		{"its role", items, sallyport.Role("editor"), 200, letIn, ""},
		{"another role", items, sallyport.Role("admin"), 403, "insufficient_scope", challenge + `, error="insufficient_scope", scope="role:admin"`},
		{"the role's scope is no permission", items, sallyport.Permission("role:editor"), 403, "insufficient_permission", ""},
		{"both", items, sallyport.All(sallyport.Permission("read:items"), sallyport.Role("editor")), 200, letIn, ""},
		{
			"several are missing", items, sallyport.All(sallyport.Permission("a"), sallyport.Role("b"), sallyport.Scope("read:items")), 403,
			"insufficient_scope", challenge + `, error="insufficient_scope", scope="a role:b"`,
		},
		{"an empty scope authenticates", nothing, sallyport.SignedIn(), 200, letIn, ""},
		{"an empty scope does no more", nothing, sallyport.Scope("read:items"), 403, "insufficient_scope", challenge + `, error="insufficient_scope", scope="read:items"`},

		{"one factor", plain, sallyport.MFA(), 401, "insufficient_user_authentication", challenge + `, error="insufficient_user_authentication", acr_values="mfa"`},
		{"two factors", twice, sallyport.MFA(), 200, letIn, ""},
		{"fresh", plain, sallyport.Fresh(5 * time.Minute), 200, letIn, ""},
		{"an hour old", old, sallyport.Fresh(5 * time.Minute), 401, "insufficient_user_authentication", challenge + `, error="insufficient_user_authentication", max_age="300"`},
		{"no time of sign-in", never, sallyport.Fresh(5 * time.Minute), 401, "insufficient_user_authentication", challenge + `, error="insufficient_user_authentication", max_age="300"`},
		{"another kind", plain, sallyport.Via(sallyport.KindAPIKey), 403, "credential_not_accepted", ""},
	} {
		for _, again := range []string{"", ", from memory"} {
			var r reply
			if tt.access == "" {
				r = call(t, v, tt.rule, "/")
			} else {
				r = get(t, v, tt.rule, tt.access)
			}
			r.want(t, tt.what+again, tt.status, tt.code)
			if got := strings.Join(r.header["Www-Authenticate"], " | "); got != tt.challenge {
				t.Errorf("%s: challenge %s, want %s", tt.what, got, tt.challenge)
			}
		}
	}
	if n := is.fetches.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

func TestSeveralCredentials(t *testing.T) {
	is := newIssuer(t)
	is.with(func(is *issuer) { is.introspect = func(string) any { return active("bearer") } })
	alone, asking := is.verifier(nil), is.verifier(introspecting)
	good := "Authorization: Bearer " + is.issue(nil)
	for _, tt := range []struct {
		what   string
		g      sallyport.Gate
		target string
		header []string
		status int
		code   string
	}{
		{"one", alone, "/", []string{good}, 200, letIn},
		{"one, asking", asking, "/", []string{good}, 200, letIn},
		{"two tokens", alone, "/", []string{good, good}, 400, "several_credentials"},
		{"a token and Basic", alone, "/", []string{good, "Authorization: Basic YTpi"}, 400, "several_credentials"},
		{"Basic is no credential here", alone, "/", []string{"Authorization: Basic YTpi"}, 401, "unauthenticated"},
		{"in the address", alone, "/?access_token=x", nil, 400, "credential_in_query"},
		{"in the address too", alone, "/?access_token=x", []string{good}, 400, "credential_in_query"},
		{"a key and a token", asking, "/", []string{good, "X-API-Key: k"}, 400, "several_credentials"},
		{"two keys", asking, "/", []string{"X-API-Key: k", "X-API-Key: k"}, 400, "several_credentials"},
		{"a key that nobody can check is no credential", alone, "/", []string{"X-API-Key: k"}, 401, "unauthenticated"},
		{"an empty key", asking, "/", []string{"X-API-Key: "}, 401, "invalid_token"},
		{"a key with other characters", asking, "/", []string{"X-API-Key: a b"}, 401, "invalid_token"},
		{"an empty token", alone, "/", []string{"Authorization: Bearer"}, 401, "invalid_token"},
	} {
		call(t, tt.g, sallyport.SignedIn(), tt.target, tt.header...).want(t, tt.what, tt.status, tt.code)
	}
}

// A Mux with a Verifier works as one with the server does.
func TestMux(t *testing.T) {
	is := newIssuer(t)
	mux := sallyport.NewMux(is.verifier(nil))
	who := func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, sallyport.From(r.Context()).ID())
	}
	mux.HandleFunc("GET /items", sallyport.Scope("read:items"), who)
	mux.HandleFunc("GET /hello", sallyport.Public(), who)
	mux.Open("GET /livez", http.HandlerFunc(who))
	access := is.issue(scoped("read:items"))
	for _, tt := range []struct {
		method, path, access string
		status               int
		body                 string
	}{
		{"GET", "/items", access, 200, "ada"},
		{"GET", "/items", "", 401, "unauthenticated"},
		{"GET", "/items", "x", 401, "invalid_token"},
		{"POST", "/items", access, 405, "method_not_allowed"},
		{"GET", "/nothing", access, 404, "not_found"},
		{"GET", "/hello", access, 200, "ada"},
		{"GET", "/hello", "", 200, ""},
		{"GET", "/livez", "x", 200, ""},
		{"GET", "/livez", access, 200, ""},
	} {
		r := httptest.NewRequest(tt.method, tt.path, nil)
		if tt.access != "" {
			r.Header.Set("Authorization", "Bearer "+tt.access)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s %s %.5s: %d %s", tt.method, tt.path, tt.access, w.Code, w.Body)
		}
	}
}

// Below a gate that has let somebody in, Open shows nobody.
func TestOpenBelowAGate(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+is.issue(nil))
	w := httptest.NewRecorder()
	v.Require(sallyport.SignedIn())(v.Open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, sallyport.From(r.Context()).Anonymous())
	}))).ServeHTTP(w, r)
	if w.Body.String() != "true" {
		t.Error(w.Code, w.Body)
	}
}

func TestRequireRefusesInvalidRules(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the zero rule was accepted")
		}
	}()
	newIssuer(t).verifier(nil).Require(sallyport.Rule{})
}

// A service that verifies elsewhere carries no database.
func TestDependencies(t *testing.T) {
	const module = "github.com/sallyport/sallyport"
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+"/authn/remote").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"": true, "/authn/remote": true, "/authn/token": true, "/authn/bearer": true, "/guard/body": true}
	seen := 0
	for _, path := range strings.Fields(string(out)) {
		seen++
		if rest, ours := strings.CutPrefix(path, module); !ours || !allowed[rest] {
			t.Errorf("%s is a dependency", path)
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d packages besides the standard library, want %d", seen, len(allowed))
	}
}

// active is an answer of the issuer about ada.
func active(tokenType string, more ...any) map[string]any {
	a := map[string]any{
		"active": true, "token_type": tokenType, "sub": "ada", "client_id": "first-party", "username": "ada",
		"amr": []string{"pwd"}, "mfa": false, "roles": []string{"editor"}, "permissions": []string{"read:items", "write:items"}, "all_permissions": false,
	}
	if tokenType == "bearer" {
		a["sid"] = "session-1"
	}
	for i := 0; i < len(more); i += 2 {
		a[more[i].(string)] = more[i+1]
		if more[i+1] == nil {
			delete(a, more[i].(string))
		}
	}
	return a
}
