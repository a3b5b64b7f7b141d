package remote_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/testkit"
)

func (is *issuer) answers(a any) {
	is.with(func(is *issuer) { is.introspect = func(string) any { return a } })
}

func key(t testing.TB, g sallyport.Gate, rule sallyport.Rule, key string) reply {
	t.Helper()
	return call(t, g, rule, "/", "X-API-Key: "+key)
}

// With introspection the answer decides what a caller may do now.
func TestIntrospectionDecides(t *testing.T) {
	is := newIssuer(t)
	now := is.clock.now().Unix()
	plain, items := is.issue(nil), is.issue(scoped("read:items", "role:editor"))
	opaque := "at_0123456789"
	const key = "sp_live_0123456789"
	for _, tt := range []struct {
		what, credential string
		answer           map[string]any
		rule             sallyport.Rule
		status           int
		code             string
	}{
		{"unscoped", plain, active("bearer"), sallyport.Permission("write:items"), 200, letIn},
		{"a role", plain, active("bearer"), sallyport.Role("editor"), 200, letIn},
		{"not its role", plain, active("bearer"), sallyport.Role("admin"), 403, "insufficient_permission"},
		{"not its permission", plain, active("bearer"), sallyport.Permission("x"), 403, "insufficient_permission"},
		{"an administrator", plain, active("bearer", "all_permissions", true), sallyport.Permission("x"), 200, letIn},
		{"a permission taken away", items, active("bearer", "permissions", []string{}), sallyport.Permission("read:items"), 403, "insufficient_permission"},
		{"scoped and held", items, active("bearer", "scope", "read:items role:editor"), sallyport.Permission("read:items"), 200, letIn},
		{"held and not in the scope", items, active("bearer", "scope", "read:items role:editor"), sallyport.Permission("write:items"), 403, "insufficient_scope"},
		{"the role by scope", items, active("bearer", "scope", "read:items role:editor"), sallyport.Role("editor"), 200, letIn},
		{"the token's scope holds if the answer has none", items, active("bearer"), sallyport.Permission("write:items"), 403, "insufficient_scope"},
		{"the answer's scope holds if the token has none", plain, active("bearer", "scope", "read:items"), sallyport.Permission("write:items"), 403, "insufficient_scope"},
		{"the narrower one", items, active("bearer", "scope", "write:items"), sallyport.Permission("read:items"), 403, "insufficient_scope"},
		{"a second factor since", plain, active("bearer", "mfa", true), sallyport.MFA(), 200, letIn},
		{"no second factor", plain, active("bearer"), sallyport.MFA(), 401, "insufficient_user_authentication"},
		{"a sign-in since", plain, active("bearer", "auth_time", now), sallyport.Fresh(time.Second), 200, letIn},
		{"no time of sign-in", plain, active("bearer"), sallyport.Fresh(time.Hour), 401, "insufficient_user_authentication"},

		{"not active", plain, map[string]any{"active": false}, sallyport.SignedIn(), 401, "invalid_token"},
		{"not active on a public route", plain, map[string]any{"active": false}, sallyport.Public(), 401, "invalid_token"},
		{"not active, and more", plain, active("bearer", "active", false), sallyport.SignedIn(), 401, "invalid_token"},
		{"another subject", plain, active("bearer", "sub", "eve"), sallyport.SignedIn(), 401, "invalid_token"},
		{"another session", plain, active("bearer", "sid", "session-2"), sallyport.SignedIn(), 401, "invalid_token"},
		{"another issuer", plain, active("bearer", "iss", "https://evil.example"), sallyport.SignedIn(), 401, "invalid_token"},
		{"our issuer", plain, active("bearer", "iss", is.url(), "aud", is.url()), sallyport.SignedIn(), 200, letIn},
		{"another audience", plain, active("bearer", "aud", "https://other.example"), sallyport.SignedIn(), 401, "invalid_token"},
		{"several audiences", plain, active("bearer", "aud", []string{"x", is.url()}), sallyport.SignedIn(), 200, letIn},
		{"a key as a token", plain, active("api_key"), sallyport.SignedIn(), 401, "invalid_token"},
		{"no type", plain, active("bearer", "token_type", nil), sallyport.SignedIn(), 401, "invalid_token"},
		{"a type in capital letters", plain, active("Bearer"), sallyport.SignedIn(), 200, letIn},
		{"no subject", plain, active("bearer", "sub", nil), sallyport.SignedIn(), 503, "unavailable"},
		{"a member of another type", plain, active("bearer", "roles", "admin"), sallyport.SignedIn(), 503, "unavailable"},
		{"scope null", plain, active("bearer", "scope", []string(nil)), sallyport.SignedIn(), 503, "unavailable"},
		{"not an object", plain, nil, sallyport.SignedIn(), 503, "unavailable"},

		{"opaque", opaque, active("bearer"), sallyport.Permission("write:items"), 200, letIn},
		{"opaque, not active", opaque, map[string]any{"active": false}, sallyport.SignedIn(), 401, "invalid_token"},
		{"opaque for another audience", opaque, active("bearer", "aud", "https://other.example"), sallyport.SignedIn(), 401, "invalid_token"},
		{"opaque and expired", opaque, active("bearer", "exp", now-60), sallyport.SignedIn(), 401, "invalid_token"},
		{"opaque and alive", opaque, active("bearer", "exp", now+60), sallyport.SignedIn(), 200, letIn},
		{"opaque and scoped", opaque, active("bearer", "scope", "read:items"), sallyport.Unscoped(), 403, "insufficient_scope"},
		{"opaque, a key's answer", opaque, active("api_key"), sallyport.SignedIn(), 401, "invalid_token"},

		{"a key", key, active("api_key", "scope", "read:items"), sallyport.Permission("read:items"), 200, "[ada api_key ]"},
		{"a key by its kind", key, active("api_key"), sallyport.Via(sallyport.KindAPIKey), 200, "[ada api_key ]"},
		{"a key where a token is needed", key, active("api_key"), sallyport.Via(sallyport.KindBearer), 403, "credential_not_accepted"},
		{"a key that may do nothing", key, active("api_key", "scope", ""), sallyport.Permission("read:items"), 403, "insufficient_scope"},
		{"a key, not active", key, map[string]any{"active": false}, sallyport.SignedIn(), 401, "invalid_token"},
		{"a token as a key", key, active("bearer"), sallyport.SignedIn(), 401, "invalid_token"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			is.answers(tt.answer)
			v := is.verifier(introspecting)
			for range 2 { // the second time from memory, if it was an answer
				before := is.questions.Load()
				header := "Authorization: Bearer " + tt.credential
				if tt.credential == key {
					header = "X-API-Key: " + key
				}
				r := call(t, v, tt.rule, "/", header)
				r.want(t, tt.what, tt.status, tt.code)
				if asked := is.questions.Load() > before; tt.status == 503 && !asked {
					t.Error("a failure was remembered")
				}
				if c := r.header["Www-Authenticate"]; tt.status == 401 && (len(c) != 2 || c[1] != "ApiKey") {
					t.Errorf("challenges %q", c)
				}
			}
		})
	}
}

// What is asked, and how.
func TestQuestion(t *testing.T) {
	is := newIssuer(t)
	is.answers(active("bearer"))
	var seen atomic.Int64
	access := is.issue(nil)
	for _, credential := range []string{access, "at_a+b/c=&x%20"} {
		is.with(func(is *issuer) {
			is.asked = func(r *http.Request, form string) {
				seen.Add(1)
				if form != credential || r.Header.Get("X-Api-Key") != serviceKey || len(r.PostForm) != 1 ||
					r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" || r.Header.Get("Authorization") != "" {
					t.Errorf("%v %v", r.Header, r.PostForm)
				}
			}
		})
		v := is.verifier(introspecting)
		for range 3 {
			get(t, v, sallyport.SignedIn(), credential).want(t, "asked", 200, letIn)
		}
	}
	if seen.Load() != 2 {
		t.Errorf("%d questions, want 2", seen.Load())
	}
	// What is forged or expired is not sent anywhere.
	v := is.verifier(introspecting)
	for _, bad := range []string{
		access + "x", "x", "rt_x", "sp_x", "", strings.Repeat("x", 9000), "at_" + strings.Repeat("x", 9000), "at_a b", "at_ü",
		is.issue(func(c *token.Claims) {
			c.IssuedAt, c.Expires = c.IssuedAt.Add(-time.Hour), c.IssuedAt.Add(-time.Minute)
		}),
	} {
		get(t, v, sallyport.SignedIn(), bad).want(t, "nonsense", 401, "invalid_token")
	}
	if seen.Load() != 2 {
		t.Error("nonsense was sent to the issuer")
	}
}

// Without introspection there is nothing to know an opaque token by.
func TestOpaqueWithoutIntrospection(t *testing.T) {
	is := newIssuer(t)
	get(t, is.verifier(nil), sallyport.SignedIn(), "at_0123456789").want(t, "opaque", 401, "invalid_token")
	is.fetched("for an opaque token", 0)
}

// A logout holds within MaxAge, counted from when the question was sent.
func TestLogoutHoldsWithinMaxAge(t *testing.T) {
	is := newIssuer(t)
	var out atomic.Bool
	var took time.Duration // what the issuer needs to answer
	is.with(func(is *issuer) {
		is.introspect = func(string) any {
			a := active("bearer", "active", !out.Load()) // decided now, and then it takes its time
			is.clock.forth(took)
			return a
		}
	})
	for _, maxAge := range []time.Duration{0, time.Second} {
		bound := maxAge
		if bound == 0 {
			bound = 500 * time.Millisecond
		}
		for _, credential := range []string{is.issue(nil), "at_0123456789"} {
			out.Store(false)
			took = 0
			v := is.verifier(func(c *remote.Config) {
				c.Introspection = &remote.Introspection{APIKey: serviceKey, MaxAge: maxAge}
			})
			get(t, v, sallyport.SignedIn(), credential).want(t, "before", 200, letIn)
			out.Store(true)
			n := is.questions.Load()
			is.clock.forth(bound - 1)
			get(t, v, sallyport.SignedIn(), credential).want(t, "just within", 200, letIn)
			if is.questions.Load() != n {
				t.Error("asked within the age")
			}
			is.clock.forth(1)
			get(t, v, sallyport.SignedIn(), credential).want(t, "at the bound", 401, "invalid_token")
			get(t, v, sallyport.SignedIn(), credential).want(t, "from memory", 401, "invalid_token")
			if is.questions.Load() != n+1 {
				t.Error("that it is not active was not remembered")
			}

			// An answer that took longer than its age is for the one who asked.
			out.Store(false)
			took = bound
			is.clock.forth(bound)
			get(t, v, sallyport.SignedIn(), credential).want(t, "a slow answer", 200, letIn)
			out.Store(true)
			get(t, v, sallyport.SignedIn(), credential).want(t, "after a slow answer", 401, "invalid_token")
			took = 0

			// A clock that was set back makes nothing last longer.
			out.Store(false)
			is.clock.forth(bound)
			get(t, v, sallyport.SignedIn(), credential).want(t, "once more", 200, letIn)
			out.Store(true)
			is.clock.forth(-time.Millisecond)
			get(t, v, sallyport.SignedIn(), credential).want(t, "a clock set back", 401, "invalid_token")
			is.clock.forth(time.Second)
		}
	}
}

// A request does not use a question that was sent too long before it came.
func TestOldQuestionIsNotJoined(t *testing.T) {
	is := newIssuer(t)
	arrived, release := make(chan int, 10), make(chan struct{})
	var n atomic.Int64
	is.with(func(is *issuer) {
		is.introspect = func(string) any {
			i := int(n.Add(1))
			arrived <- i
			if i == 1 {
				<-release
				return active("bearer")
			}
			return map[string]any{"active": false}
		}
	})
	v := is.verifier(introspecting)
	v.SetTimeout(time.Minute)
	var wg sync.WaitGroup
	wg.Go(func() { get(t, v, sallyport.SignedIn(), "at_x").want(t, "who asked first", 200, letIn) })
	<-arrived
	is.clock.forth(500 * time.Millisecond)
	get(t, v, sallyport.SignedIn(), "at_x").want(t, "who came later", 401, "invalid_token")
	close(release)
	wg.Wait()
	// The older answer came last and does not replace the younger one.
	get(t, v, sallyport.SignedIn(), "at_x").want(t, "afterwards", 401, "invalid_token")
	if n.Load() != 2 {
		t.Errorf("%d questions, want 2", n.Load())
	}
}

// One question at a time for each credential, and no more than the bound at all.
func TestQuestionsAreShared(t *testing.T) {
	is := newIssuer(t)
	var n atomic.Int64
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	v := is.verifier(func(c *remote.Config) {
		introspecting(c)
		c.Client = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if n.Add(1) == 1 {
				arrived <- struct{}{}
			}
			<-release
			w := httptest.NewRecorder()
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.WriteString(`{"active":true,"token_type":"bearer","sub":"ada","sid":"session-1"}`)
			return w.Result(), nil
		})}
	})
	v.SetTimeout(time.Minute)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { get(t, v, sallyport.SignedIn(), "at_same").want(t, "the same token", 200, letIn) })
	}
	<-arrived
	for i := range remote.MaxAsking - 1 {
		wg.Go(func() {
			get(t, v, sallyport.SignedIn(), fmt.Sprint("at_", i)).want(t, "one of many", 200, letIn)
		})
	}
	eventually(t, "the bound", func() bool { return n.Load() == remote.MaxAsking })
	get(t, v, sallyport.SignedIn(), "at_one_too_many").want(t, "one too many", 503, "unavailable")
	close(release)
	wg.Wait()
	get(t, v, sallyport.SignedIn(), "at_one_too_many").want(t, "afterwards", 200, letIn)
	if got := n.Load(); got != remote.MaxAsking+1 {
		t.Errorf("%d questions, want %d", got, remote.MaxAsking+1)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An issuer that cannot answer lets nobody in, and its errors hold no secret.
func TestIntrospectionFails(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	slow := make(chan struct{})
	defer close(slow)
	const opaque = "at_0123456789+/="
	write := func(contentType, body string) any {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write([]byte(body))
		}
	}
	raw := func(text string) any {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = c.Write([]byte(text))
			_ = c.Close()
		}
	}
	for _, tt := range []struct {
		what, log string
		answer    any
	}{
		{"500", "status 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
		{"401", "status 401", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }},
		{"201", "status 201", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }},
		{"another type", "Content-Type", write("text/plain", `{"active":true,"sub":"ada","token_type":"bearer"}`)},
		{"bad JSON", "strict JSON", write("application/json", `{"active":true`)},
		{"active twice", "strict JSON", write("application/json", `{"active":true,"sub":"ada","token_type":"bearer","Active":true}`)},
		{"huge", "longer than 262144 bytes", write("application/json", `{"active":true,"sub":"ada","token_type":"bearer","x":"`+strings.Repeat("x", 1<<20)+`"}`)},
		{"not HTTP", "malformed HTTP", raw(opaque + " " + serviceKey + "\r\n\r\n")},
		{"slow", "in time", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-slow:
			case <-r.Context().Done():
			}
		}},
		{"a redirect", "status 307", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}},
		{"a redirect within the host", "status 308", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/token/introspect", http.StatusPermanentRedirect)
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			is := newIssuer(t)
			var log testkit.Buffer
			v := is.verifier(func(c *remote.Config) {
				introspecting(c)
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			v.SetTimeout(time.Minute)
			if tt.what == "slow" {
				v.SetTimeout(50 * time.Millisecond)
			}
			access := is.issue(nil)
			is.answers(active("bearer"))
			get(t, v, sallyport.SignedIn(), opaque).want(t, "before", 200, letIn)
			get(t, v, sallyport.SignedIn(), access).want(t, "before", 200, letIn)
			is.clock.forth(500 * time.Millisecond)
			is.answers(tt.answer)
			for _, credential := range []string{opaque, access} {
				r := get(t, v, sallyport.SignedIn(), credential)
				r.want(t, "meanwhile", 503, "unavailable")
				if r.header.Get("Retry-After") != "1" {
					t.Errorf("%v", r.header)
				}
				get(t, v, sallyport.Public(), credential).want(t, "on a public route", 503, "unavailable")
			}
			key(t, v, sallyport.SignedIn(), "sp_x").want(t, "a key", 503, "unavailable")
			is.answers(active("bearer"))
			get(t, v, sallyport.SignedIn(), opaque).want(t, "afterwards", 200, letIn)

			text := log.String()
			if !strings.Contains(text, tt.log) {
				t.Errorf("the log does not say %q:\n%s", tt.log, text)
			}
			for _, secret := range []string{opaque, access, serviceKey, "0123456789", access[len(access)-20:]} {
				if strings.Contains(text, secret) {
					t.Errorf("the log holds %s", secret)
				}
			}
		})
	}
	if elsewhere.Load() != 0 {
		t.Error("a token was sent to another host")
	}
}

// A wrong key of the service is a fault of the service: 503, and not "invalid".
func TestWrongServiceKey(t *testing.T) {
	is := newIssuer(t)
	is.answers(active("bearer"))
	v := is.verifier(func(c *remote.Config) { c.Introspection = &remote.Introspection{APIKey: "wrong"} })
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "a good token", 503, "unavailable")
}

// The header and the addresses are the operator's.
func TestOwnHeaderAndAddresses(t *testing.T) {
	is := newIssuer(t)
	var asked atomic.Value
	mux := http.NewServeMux()
	mux.HandleFunc("/ask", func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("X-Service") + " " + r.Header.Get("X-Api-Key"))
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"active":true,"sub":"ada","token_type":"api_key"}`))
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	v := is.verifier(func(c *remote.Config) {
		c.Introspection = &remote.Introspection{URL: srv.URL + "/ask", APIKey: "k", HeaderName: "x-service"}
	})
	call(t, v, sallyport.SignedIn(), "/", "X-Service: sp_x").want(t, "its header", 200, "[ada api_key ]")
	call(t, v, sallyport.SignedIn(), "/", "X-API-Key: sp_x").want(t, "another header", 401, "unauthenticated")
	if asked.Load() != "k " {
		t.Errorf("asked with %q", asked.Load())
	}
}

// What is not asked for any more goes.
func TestVerdictsAreForgotten(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(func(c *remote.Config) {
		introspecting(c)
		c.Client = &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.WriteString(`{"active":true,"token_type":"bearer","sub":"ada"}`)
			return w.Result(), nil
		})}
	})
	for i := range 1000 {
		get(t, v, sallyport.SignedIn(), fmt.Sprint("at_", i)).want(t, "a token", 200, "[ada bearer ]")
	}
	if _, n := v.Held(); n != 1000 {
		t.Errorf("%d verdicts are held, want 1000", n)
	}
	for i := range 3 {
		is.clock.forth(500 * time.Millisecond)
		get(t, v, sallyport.SignedIn(), fmt.Sprint("at_later_", i)).want(t, "later", 200, "[ada bearer ]")
	}
	if _, n := v.Held(); n > 2 {
		t.Errorf("%d verdicts are held, want at most 2", n)
	}
}

// A text that was seen as a key is still a token, and the other way round.
func TestKindsDoNotMix(t *testing.T) {
	is := newIssuer(t)
	is.answers(active("bearer"))
	v := is.verifier(introspecting)
	for _, credential := range []string{"at_0123456789", is.issue(nil)} {
		key(t, v, sallyport.SignedIn(), credential).want(t, "as a key", 401, "invalid_token")
		get(t, v, sallyport.SignedIn(), credential).want(t, "as a token", 200, letIn)
		key(t, v, sallyport.SignedIn(), credential).want(t, "as a key again", 401, "invalid_token")
	}
}
