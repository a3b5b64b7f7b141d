package authtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authtest"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

type echo struct {
	Body struct {
		Text string `json:"text"`
	}
}

type echoed struct {
	Text string `json:"text"`
	Size int    `json:"size"`
}

// handler is a service as a user writes one.
func handler(sp *server.Server) (http.Handler, *sallyport.Mux) {
	mux := sallyport.NewMux(sp)
	who := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, sallyport.From(r.Context()).ID()) }
	mux.HandleFunc("GET /open", sallyport.Public(), who)
	mux.HandleFunc("GET /mine", sallyport.SignedIn(), who)
	mux.HandleFunc("GET /reports", sallyport.Scope("read:reports"), who)
	mux.HandleFunc("GET /editors", sallyport.Role("editor"), who)
	mux.HandleFunc("GET /strong", sallyport.MFA(), who)
	mux.HandleFunc("GET /fresh", sallyport.Fresh(10*time.Minute), who)
	mux.HandleFunc("GET /whole", sallyport.Unscoped(), who)
	mux.HandleFunc("GET /basic", sallyport.Via(sallyport.KindBasic), who)
	mux.HandleFunc("GET /limited", sallyport.Public(), who, sallyport.Limit{Rate: "2/minute"})
	mux.HandleFunc("DELETE /users/{id}/pictures", sallyport.All(sallyport.Role("admin"), sallyport.MFA()), who)
	api.Post(sp.API(), "/echo/", sallyport.Public(), func(_ context.Context, in *echo) (*api.Body[echoed], error) {
		return &api.Body[echoed]{Body: echoed{in.Body.Text, len(in.Body.Text)}}, nil
	})
	mux.Mount("/", sp.Routes())
	return sp.Guard(mux), mux
}

// recorder is a test that notes what is said to it.
type recorder struct{ said []string }

func (*recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// Everybody that SignIn makes is let in where the rule says so, and nowhere else, by
// the real gate.
func TestSignIn(t *testing.T) {
	t.Parallel()
	for _, format := range []session.Format{session.JWT, session.Opaque} {
		sp := authtest.New(t, func(c *server.Config) { c.TokenFormat = format })
		h, _ := handler(sp.Server)
		sp.Serve(h)
		if err := sp.PutRole(t.Context(), role.Role{Name: "editor"}); err != nil {
			t.Fatal(err)
		}
		reports := authtest.Permissions("read:reports")
		clients := map[string]*authtest.Client{
			"nobody":  sp.Anonymous(),
			"plain":   sp.SignIn("plain"),
			"editor":  sp.SignIn("Edith", authtest.Roles("editor")),
			"admin":   sp.SignIn("admin", authtest.Roles(role.Admin)),
			"reader":  sp.SignIn("reader", reports),
			"scoped":  sp.SignIn("scoped", reports, authtest.Scopes("read:reports")),
			"limited": sp.SignIn("limited", reports, authtest.Scopes()),
			"mfa":     sp.SignIn("mfa", authtest.MFA()),
			"stale":   sp.SignIn("stale", authtest.Ago(time.Hour)),
			"key":     sp.SignIn("key", reports, authtest.Scopes("read:reports"), authtest.Via(sallyport.KindAPIKey)),
			"basic":   sp.SignIn("basic", authtest.Via(sallyport.KindBasic)),
		}
		for path, let := range map[string]string{
			"/open":    "nobody plain editor admin reader scoped limited mfa stale key basic",
			"/mine":    "plain editor admin reader scoped limited mfa stale key",
			"/reports": "admin reader scoped key",
			"/editors": "editor",
			"/strong":  "mfa",
			"/fresh":   "plain editor admin reader scoped limited mfa",
			"/whole":   "plain editor admin reader mfa stale",
			"/basic":   "basic",
		} {
			for name, c := range clients {
				r := c.Call("GET", path, nil)
				want := strings.Contains(" "+let+" ", " "+name+" ")
				if (r.Status == http.StatusOK) != want {
					t.Errorf("%s: %s: %d %s", path, name, r.Status, r.Body)
				}
				if want && path != "/open" && r.Body != c.ID {
					t.Errorf("%s: %s is %s, not %s", path, name, r.Body, c.ID)
				}
			}
		}
		var me struct{ Username string }
		res, err := clients["editor"].Get(sp.URL + "/users/me")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(res.Body).Decode(&me); err != nil || me.Username != "Edith" {
			t.Errorf("%+v, %v", me, err)
		}
		_ = res.Body.Close()
	}
}

// A credential goes to the server under test and to nobody else.
func TestCredentialsStay(t *testing.T) {
	t.Parallel()
	var got http.Header
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer other.Close()
	sp := authtest.New(t)
	mux := sallyport.NewMux(sp)
	mux.HandleFunc("GET /away", sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusFound)
	})
	mux.Mount("/", sp.Routes())
	sp.Serve(sp.Guard(mux))
	ada := sp.SignIn("ada")
	ada.Call("GET", "/users/me", nil).Want(200, "")
	res, err := ada.Get(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got == nil || got.Get("Authorization") != "" {
		t.Errorf("another server got %v", got)
	}
	if got = nil; ada.Call("GET", "/away", nil).Status != http.StatusFound || got != nil {
		t.Errorf("a redirect was followed: %v", got)
	}
	ada.Call("GET", "/users/me", nil, "Authorization", "Bearer x").Want(401, "invalid_token")
}

// The server's time is the test's: tokens expire, and limits refill, by the clock.
func TestClock(t *testing.T) {
	t.Parallel()
	sp := authtest.New(t)
	h, _ := handler(sp.Server)
	sp.Serve(h)
	ada := sp.SignIn("ada")
	ada.Call("GET", "/fresh", nil).Want(200, "")
	sp.Clock.Advance(11 * time.Minute)
	ada.Call("GET", "/mine", nil).Want(200, "")
	ada.Call("GET", "/fresh", nil).Want(401, "insufficient_user_authentication")
	sp.Clock.Advance(5 * time.Minute)
	ada.Call("GET", "/mine", nil).Want(401, "invalid_token")
	for _, want := range []int{200, 200, 429} {
		sp.Anonymous().Call("GET", "/limited", nil).Want(want, "")
	}
	sp.Clock.Advance(time.Minute)
	sp.Anonymous().Call("GET", "/limited", nil).Want(200, "")
	if at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !authtest.NewClock(at).Now().Equal(at) {
		t.Error("a clock does not stand where it was set")
	}
}

// Over TLS, where the base URL says so; and bodies are sent as what they are.
func TestServeHTTPS(t *testing.T) {
	t.Parallel()
	sp := authtest.New(t, func(c *server.Config) { c.BaseURL = "https://service.test" })
	h, _ := handler(sp.Server)
	if address := sp.Serve(h); !strings.HasPrefix(address, "https://127.0.0.1:") {
		t.Fatal(address)
	}
	ada := sp.SignIn("ada")
	if r := ada.Call("GET", "/mine", nil).Want(200, ""); r.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%v", r.Header)
	}
	type m = map[string]any
	ada.Call("POST", "/echo/", m{"text": "hi"}).Want(200, "")
	ada.Call("POST", "/echo/", `{"text": "hi"}`).Want(200, "")
	ada.Call("POST", "/echo/", url.Values{"text": {"hi"}}).Want(415, "unsupported_media_type")
	ada.Call("POST", "/echo/", `{"text": "hi"}`, "Content-Type", "text/plain").Want(415, "unsupported_media_type")
	if got := ada.Call("POST", "/echo/", m{"text": "hi"}); got.Text("text") != "hi" || got.Text("size") != "2" || got.Text("none") != "" {
		t.Errorf("%s", got.Body)
	}
	ada.Call("GET", "/mine", nil, "Host", "evil.example").Want(400, "host_not_allowed")
	if got := ada.Call("POST", "/token", url.Values{}).Code(); got != "invalid_request" {
		t.Errorf("the code of an OAuth refusal: %q", got)
	}
}

// What cannot be made is said, and the test ends there.
func TestSignInRefuses(t *testing.T) {
	t.Parallel()
	for says, f := range map[string]func(sp *authtest.Server){
		"unknown_role":   func(sp *authtest.Server) { sp.SignIn("ada", authtest.Roles("nobody-made-it")) },
		"account_exists": func(sp *authtest.Server) { sp.SignIn("ada"); sp.SignIn("ada") },
		"unknown_scope": func(sp *authtest.Server) {
			sp.SignIn("ada", authtest.Scopes("x:y"), authtest.Via(sallyport.KindAPIKey))
		},
		"not made here":     func(sp *authtest.Server) { sp.SignIn("ada", authtest.Via(sallyport.KindCookie)) },
		"nothing is served": func(sp *authtest.Server) { sp.Anonymous().Call("GET", "/", nil) },
		"serves already":    func(sp *authtest.Server) { sp.Serve(http.NotFoundHandler()); sp.Serve(http.NotFoundHandler()) },
		"base_url":          nil,
	} {
		t.Run(says, func(t *testing.T) {
			r := &fatal{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if f == nil {
					authtest.New(r, func(c *server.Config) { c.BaseURL = "ftp://x" })
					return
				}
				f(authtest.New(r))
			}()
			<-done
			if !strings.Contains(r.said, says) {
				t.Errorf("said %q", r.said)
			}
		})
	}
}

// fatal is a test whose end is noted.
type fatal struct {
	testing.TB
	said string
}

func (f *fatal) Helper() {}

func (f *fatal) Fatal(args ...any) {
	f.said = fmt.Sprint(args...)
	runtime.Goexit()
}

func (f *fatal) Fatalf(format string, args ...any) { f.Fatal(fmt.Sprintf(format, args...)) }

// The assertions hold of what is so, and fail of what is not.
func TestAssertions(t *testing.T) {
	t.Parallel()
	_, mux := handler(authtest.New(t).Server)
	const remove = "DELETE /users/{id}/pictures"
	rule := sallyport.All(sallyport.Role("admin"), sallyport.MFA())
	admin := authtest.Principal("admin", authtest.Roles("admin"), authtest.MFA())
	bob := authtest.Principal("bob")
	for _, c := range []struct {
		name   string
		assert func(t authtest.T)
		says   string // "" for nothing
	}{
		{"the rule", func(t authtest.T) { authtest.AssertRule(t, mux, remove, rule) }, ""},
		{"the rule, written loosely", func(t authtest.T) { authtest.AssertRule(t, mux, " DELETE   /users/{id}/pictures ", rule) }, ""},
		{"the rule of a path that ends in a slash", func(t authtest.T) { authtest.AssertRule(t, mux, "POST /echo/", sallyport.Public()) }, ""},
		{"a wider rule", func(t authtest.T) { authtest.AssertRule(t, mux, remove, sallyport.Role("admin")) }, "the rule is all(role(admin), mfa), want role(admin)"},
		{"a rule in another order", func(t authtest.T) {
			authtest.AssertRule(t, mux, remove, sallyport.All(sallyport.MFA(), sallyport.Role("admin")))
		}, "want all(mfa, role(admin))"},
		{"the zero rule", func(t authtest.T) { authtest.AssertRule(t, mux, remove, sallyport.Rule{}) }, "the rule is all"},
		{"a route that is not there", func(t authtest.T) { authtest.AssertRule(t, mux, "DELETE /users/{user}/pictures", rule) }, "GET /whole"},
		{"another method", func(t authtest.T) { authtest.AssertAllows(t, mux, "PUT /mine", admin) }, "there is no route"},
		{"a route that is not there refuses nobody", func(t authtest.T) { authtest.AssertRefuses(t, mux, "GET /nowhere", bob) }, "there is no route"},

		{"who may is allowed", func(t authtest.T) { authtest.AssertAllows(t, mux, remove, admin) }, ""},
		{"who may is not refused", func(t authtest.T) { authtest.AssertRefuses(t, mux, remove, admin) }, "lets admin in"},
		{"who may not is refused", func(t authtest.T) { authtest.AssertRefuses(t, mux, remove, bob) }, ""},
		{"who may not is not allowed", func(t authtest.T) { authtest.AssertAllows(t, mux, remove, bob) }, "refuses bob: its rule is all(role(admin), mfa)\n\trole(admin): "},
		{"nobody is refused", func(t authtest.T) { authtest.AssertRefuses(t, mux, "GET /mine", sallyport.Principal{}) }, ""},
		{"nobody is not allowed", func(t authtest.T) { authtest.AssertAllows(t, mux, "GET /mine", sallyport.Principal{}) }, "an anonymous caller"},
		{"everybody is allowed", func(t authtest.T) { authtest.AssertAllows(t, mux, "GET /open", sallyport.Principal{}) }, ""},

		{"a stale sign-in", func(t authtest.T) {
			authtest.AssertRefuses(t, mux, "GET /fresh", authtest.Principal("bob", authtest.Ago(time.Hour)))
			authtest.AssertAllows(t, mux, "GET /fresh", bob)
		}, ""},
		{"a scope", func(t authtest.T) {
			held := authtest.Permissions("read:reports")
			authtest.AssertAllows(t, mux, "GET /reports", authtest.Principal("bob", held, authtest.Scopes("read:reports")))
			authtest.AssertRefuses(t, mux, "GET /reports", authtest.Principal("bob", held, authtest.Scopes()))
			authtest.AssertRefuses(t, mux, "GET /reports", authtest.Principal("bob", authtest.Scopes("read:reports")))
			authtest.AssertRefuses(t, mux, "GET /reports", authtest.Principal("bob", held, authtest.Via(sallyport.KindAPIKey)))
			authtest.AssertAllows(t, mux, "GET /reports", authtest.Principal("root", authtest.Roles("admin")))
		}, ""},
		{"a kind", func(t authtest.T) {
			authtest.AssertAllows(t, mux, "GET /basic", authtest.Principal("bob", authtest.Via(sallyport.KindBasic)))
			authtest.AssertRefuses(t, mux, "GET /basic", bob)
		}, ""},
	} {
		r := new(recorder)
		c.assert(r)
		if said := strings.Join(r.said, "; "); c.says == "" && said != "" || !strings.Contains(said, c.says) {
			t.Errorf("%s: said %q, want %q", c.name, said, c.says)
		}
	}
}

// Want fails of another status or code, and of nothing else.
func TestWant(t *testing.T) {
	t.Parallel()
	r := &failing{TB: t}
	sp := authtest.New(r)
	h, _ := handler(sp.Server)
	sp.Serve(h)
	mine := sp.Anonymous().Call("GET", "/mine", nil)
	for _, c := range []struct {
		status int
		code   string
		says   string
	}{{401, "", ""}, {401, "unauthenticated", ""}, {200, "", "status 401, want 200"}, {401, "invalid_token", `code "unauthenticated", want "invalid_token"`}} {
		r.said = ""
		if mine.Want(c.status, c.code); c.says == "" && r.said != "" || !strings.Contains(r.said, c.says) {
			t.Errorf("Want(%d, %q) said %q", c.status, c.code, r.said)
		}
	}
}

type failing struct {
	testing.TB
	said string
}

func (f *failing) Errorf(format string, args ...any) { f.said = fmt.Sprintf(format, args...) }

// A handler alone finds whoever the test says.
func TestRequest(t *testing.T) {
	t.Parallel()
	var got sallyport.Principal
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = sallyport.From(r.Context()) })
	key := authtest.Principal("ada", authtest.Roles("editor"), authtest.Permissions("a:b", "c:d"), authtest.Scopes("a:b"), authtest.Via(sallyport.KindAPIKey))
	h.ServeHTTP(httptest.NewRecorder(), authtest.Request(key, "GET", "/items", nil))
	if got.ID() != "ada" || !got.Can("a:b") || got.Can("c:d") || got.HasRole("editor") || got.KeyID() == "" || got.SessionID() != "" {
		t.Errorf("%+v", got.Claims())
	}
	h.ServeHTTP(httptest.NewRecorder(), authtest.Request(authtest.Principal("ada", authtest.MFA()), "GET", "/items", nil))
	if c := got.Claims(); !c.MFA || c.Scoped || c.Session == "" || !got.HasRole("user") || got.HasRole("admin") {
		t.Errorf("%+v", c)
	}
	h.ServeHTTP(httptest.NewRecorder(), authtest.Request(sallyport.Principal{}, "GET", "/items", nil))
	if !got.Anonymous() {
		t.Errorf("%+v", got.Claims())
	}
}

// What the examples say is so.
func TestExamples(test *testing.T) {
	t = test
	Example()
	ExampleAssertRefuses()
}
