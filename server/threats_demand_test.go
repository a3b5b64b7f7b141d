package server_test

import (
	"bytes"
	"encoding/base32"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// A second factor that the configuration demands (letter T of the threat list).

func demanding(roles ...string) func(*server.Config) {
	return func(c *server.Config) { c.MFARequired = roles }
}

// openWhileSettingUp are the only routes that a session which owes a second factor
// may use.
var openWhileSettingUp = []string{"GET /users/me", "POST /2fa/setup", "POST /2fa/verify", "POST /auth/logout", "POST /logout", "POST /logout/all"}

// owing returns the mfa_token of a sign-in that must set a second factor up.
func (r reply) owing(t *testing.T) string {
	t.Helper()
	r.want(t, 403, "mfa_required")
	if got := r.json(t)["mfa_methods"].([]any); !slices.Equal(got, []any{"setup"}) || bytes.Contains(r.body, []byte("access_token")) || r.header.Get("Set-Cookie") != "" {
		t.Errorf("%s", r.body)
	}
	return r.text(t, "mfa_token")
}

// setUp has a secret made for a pending sign-in.
func (w *world) setUp(mfa string) app {
	w.t.Helper()
	text := w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": mfa}).want(w.t, 200, "").text(w.t, "secret")
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return app{w, secret}
}

// restarted is a server like w's with another configuration, on the same database.
func (w *world) restarted(change ...func(*server.Config)) *world {
	w.t.Helper()
	return newWorld(w.t, w.db, nil, append([]func(*server.Config){func(c *server.Config) { c.MasterKeyFile, c.Now = w.cfg.MasterKeyFile, w.clock.now }}, change...)...)
}

// Whoever must have a second factor and has none sets it up on the way in, by every
// way of signing in; before that there is no session.
func TestT_DemandedAtSignIn(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, probes, withMail(&box), withMailSignIn, noLockout, overHTTPS, demanding("moderator"))
		ways := map[string]func(name string) reply{
			"token": func(name string) reply { return w.dueAs(name) },
			"login": func(name string) reply {
				return w.do("POST", "/auth/login", "", map[string]string{"username": name, "password": goodPassword})
			},
			"otp":    func(name string) reply { return w.dueAs(name, "otp", "123456") },
			"cookie": func(name string) reply { return w.send(w.signInCookie(name, goodPassword, "")) },
			"link": func(name string) reply {
				_, token, _ := box.letter(w, name+"@example.com")
				return w.byLink(map[string]string{"token": token})
			},
			"unverified": func(name string) reply {
				_, token, _ := box.letter(w, name+"@example.com")
				return w.byLink(map[string]string{"token": token})
			},
		}
		for _, way := range slices.Sorted(maps.Keys(ways)) {
			id := w.person(way, way != "unverified", "moderator")
			mfa := ways[way](way).owing(t)
			if n := w.live(id); n != 0 {
				t.Errorf("%s: %d sessions before", way, n)
			}
			w.verify(mfa, "123456").want(t, 409, "mfa_off") // there is nothing to verify yet
			first, a := w.setUp(mfa), w.setUp(mfa)
			w.verify(mfa, first.code(0)).want(t, 401, "invalid_2fa_code") // the one before is worthless
			w.verify(mfa, a.wrong()).want(t, 401, "invalid_2fa_code")
			if n := w.live(id); n != 0 {
				t.Errorf("%s: %d sessions after a wrong code", way, n)
			}
			r := w.verify(mfa, a.code(0)).want(t, 200, "")
			recovery := r.json(t)["recovery_codes"].([]any)
			if len(recovery) != 10 {
				t.Errorf("%s: %d recovery codes", way, len(recovery))
			}
			if way == "cookie" {
				if !w.lives(cookieOf(t, r)) || bytes.Contains(r.body, []byte("access_token")) {
					t.Errorf("%s", r.body)
				}
			} else {
				want := []any{"pwd", "otp"}
				if way == "link" || way == "unverified" {
					want[0] = "email"
				}
				if c := payloadOf(t, r.text(t, "access_token")); !slices.Equal(c["amr"].([]any), want) || c["acr"] != "mfa" {
					t.Errorf("%s: %v", way, c)
				}
				w.do("GET", "/users/me/sessions", r.text(t, "access_token"), nil).want(t, 200, "")
			}
			w.verify(mfa, a.next()).want(t, 401, "invalid_token")
			w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": mfa}).want(t, 401, "invalid_token")
			// From now on it is asked for, as of everybody who has one.
			w.clock.advance(16 * time.Minute)
			if way != "unverified" {
				if r := ways[way](way); way != "otp" && !slices.Equal(r.want(t, 403, "mfa_required").json(t)["mfa_methods"].([]any), []any{"totp", "recovery_code"}) {
					t.Errorf("%s, again: %s", way, r.body)
				}
				w.form("/token", "grant_type", "password", "username", way, "password", goodPassword, "otp", recovery[3].(string)).want(t, 200, "")
			}
			if n := len(box.to(w, way+"@example.com", mail.SecondFactorOn)); n != 1 {
				t.Errorf("%s: %d letters", way, n)
			}
			w.noSecretIn(t, totp.Base32(a.secret), mfa, recovery[0].(string))
		}
		w.as("GET", "/by-basic", basicValue("token", goodPassword), nil).want(t, 401, "invalid_token")
		w.person("plain", true)
		w.signIn("plain", goodPassword) // the control: nothing is demanded of others
		w.as("GET", "/by-basic", basicValue("plain", goodPassword), nil).want(t, 204, "")
		w.person("basic", true, "moderator")
		w.as("GET", "/by-basic", basicValue("basic", goodPassword), nil).want(t, 401, "invalid_token")
	})
}

// A session without the factor is refused on every route but those that set it up
// and those that sign out, from the moment that the role or the demand comes.
func TestT_DemandedOfSessions(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout, overHTTPS)
		w.define("auditor")
		w.write(func(tx *db.Tx) error {
			return role.Put(t.Context(), tx, role.Operator(), role.Role{Name: "chief", Includes: []string{"auditor"}})
		})
		strict := w.restarted(noLockout, overHTTPS, demanding("auditor"))
		id, ada := w.user("ada")
		_, bob := w.user("bob")
		cookie := w.cookie("ada")
		key := w.key(ada)
		machine := w.token(w.machine(nil, "auditor"))
		for _, tk := range []tokens{ada, bob} {
			if !strict.alive(tk.access) {
				t.Fatal("refused before anything is demanded")
			}
		}
		strict.do("GET", "/users/me/sessions", ada.access, nil).want(t, 200, "")
		w.grant(id, "chief") // which has the role through another
		owes := func(what string, r reply) {
			t.Helper()
			r.want(t, 401, "insufficient_user_authentication")
			if c := r.header.Get("Www-Authenticate"); !strings.Contains(c, `error="insufficient_user_authentication"`) || !strings.Contains(c, `acr_values="mfa"`) {
				t.Errorf("%s: challenge %q", what, c)
			}
		}
		open := 0
		for _, route := range strict.sv.Routes().Routes() {
			name := route.Method + " " + route.Path
			if route.Setup != slices.Contains(openWhileSettingUp, name) {
				t.Errorf("%s: open while setting up: %v", name, route.Setup)
			}
			target := strings.NewReplacer("{id}", id, "{name}", "user", "{file}", "init.js").Replace(route.Path)
			req := strict.request(route.Method, target, ada.access, nil)
			asCookie := strict.browse(route.Method, target, cookie, nil, "Origin", "https://sallyport.test")
			if route.Setup {
				open++
				if strings.Contains(name, "logout") {
					continue // below
				}
				if r := strict.send(req); r.status == 401 && r.text(t, "code") == "insufficient_user_authentication" {
					t.Errorf("%s is refused", name)
				}
				continue
			}
			for what, r := range map[string]reply{name: strict.send(req), name + " with a cookie": strict.send(asCookie)} {
				if slices.Contains(openRoutes, name) || ofPortal(route) || strings.HasPrefix(route.Path, forward.Prefix) {
					if r.status == 401 && bytes.Contains(r.body, []byte("insufficient_user_authentication")) {
						t.Errorf("%s looks at no credentials, and is refused", what)
					}
					continue
				}
				if strings.Contains(name, "introspect") { // in the form of OAuth
					r.want(t, 401, "invalid_token")
					continue
				}
				owes(what, r)
			}
		}
		if open != len(openWhileSettingUp) {
			t.Errorf("%d routes are open while setting up", open)
		}
		denied := slices.DeleteFunc(strict.events("access.denied", 10), func(e audit.Record) bool {
			return strings.Contains(e.Detail["route"], forward.Prefix) // of proxies that are not set up
		})
		for _, e := range denied[:1] {
			if e.Actor != id || e.Reason != "a second factor is demanded, and the session has none" {
				t.Errorf("%+v", e)
			}
		}
		// Refreshing gives no way round, and others are no worse off.
		again := strict.refresh(ada)
		owes("after a refresh", strict.do("GET", "/users/me/sessions", again.access, nil))
		strict.do("GET", "/users/me/sessions", bob.access, nil).want(t, 200, "")
		w.do("GET", "/users/me/sessions", again.access, nil).want(t, 200, "") // where nothing is demanded
		strict.doKeyed("GET", "/users/me", key.key, nil).want(t, 200, "")
		strict.do("GET", "/users/me", machine, nil).want(t, 404, "") // a machine client is no person, and has no account
		inspector := w.machine([]string{"introspect:tokens"})
		w.write(func(tx *db.Tx) error {
			return role.GrantPermission(t.Context(), tx, role.Operator(), inspector.ID, "introspect:tokens")
		})
		if r := strict.introspected(inspector, again.access); r.json(t)["active"] != false {
			t.Errorf("other services are told that the token is good: %s", r.body)
		}
		if r := strict.introspected(inspector, bob.access); r.json(t)["active"] != true {
			t.Errorf("%s", r.body)
		}

		// A narrower token has the role no less.
		w.permit(id, "read:users")
		scoped := w.signIn("ada", goodPassword, "scope", "read:users")
		owes("a scoped token", strict.do("GET", "/users", scoped.access, nil))

		// Setting it up in the session opens everything to that session, and only to it.
		a, _ := strict.enrol(again.access)
		strict.do("GET", "/users/me/sessions", again.access, nil).want(t, 200, "")
		strict.dead("another session", scoped)
		if strict.lives(cookie) {
			t.Error("a browser's session from before is good")
		}
		// Switching it off closes it again, until there is another one.
		strict.do("DELETE", "/2fa", again.access, map[string]string{"code": a.next()}).want(t, 204, "")
		owes("after switching it off", strict.do("GET", "/users/me/sessions", again.access, nil))
		strict.enrol(again.access)
		strict.do("GET", "/users/me/sessions", again.access, nil).want(t, 200, "")
		for _, path := range []string{"/logout", "/auth/logout", "/logout/all"} {
			other := "out" + strings.ReplaceAll(path, "/", "-")
			oid, tk := w.user(other)
			w.grant(oid, "auditor")
			owes(path, strict.do("GET", "/users/me/sessions", tk.access, nil))
			if r := strict.do("POST", path, tk.access, nil); r.status != 200 && r.status != 204 {
				t.Errorf("%s: %d", path, r.status)
			}
			w.dead(path, tk)
		}
	})
}

// A service's own routes are behind the same gate, whichever way they are
// registered; and what everybody must have, everybody must.
func TestT_DemandedOnOwnRoutes(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		ok := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) })
		first := newWorld(t, d, nil, noLockout)
		_, ada := first.user("ada")
		w := newWorld(t, d, func(w *world) {
			w.mux.Handle("GET /own", sallyport.SignedIn(), ok)
			w.mux.Handle("GET /public", sallyport.Public(), ok)
			w.mux.Open("GET /page", ok)
			w.mux.HandleSetup("GET /help", sallyport.SignedIn(), ok)
			sub := sallyport.NewMux(w.sv)
			sub.HandleSetup("GET /help", sallyport.SignedIn(), ok)
			sub.Handle("GET /own", sallyport.SignedIn(), ok)
			w.mux.Mount("/under", sub)
			plain := http.NewServeMux()
			plain.Handle("GET /plain", w.sv.Require(sallyport.SignedIn())(ok))
			w.mux.Open("GET /plain", plain)
		}, noLockout, demanding("*"), func(c *server.Config) { c.MasterKeyFile, c.Now = first.cfg.MasterKeyFile, first.clock.now })
		for path, status := range map[string]int{"/own": 401, "/public": 401, "/page": 204, "/help": 204, "/under/help": 204, "/under/own": 401, "/plain": 401} {
			if r := w.do("GET", path, ada.access, nil); r.status != status {
				t.Errorf("%s: %d, want %d", path, r.status, status)
			}
		}
		w.do("GET", "/public", "", nil).want(t, 204, "")
		w.do("GET", "/help", "", nil).want(t, 401, "unauthenticated") // the rule holds
		a, _ := w.enrol(ada.access)
		for _, path := range []string{"/own", "/public", "/under/own", "/plain"} {
			w.do("GET", path, ada.access, nil).want(t, 204, "")
		}
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword, "otp", a.next()).want(t, 200, "")
		w.person("bob", true)
		w.dueAs("bob").owing(t)
	})
}

// The token of a sign-in that must set a factor up is good for that and for nothing
// else, and ends with what it stands on.
func TestT_SettingUpOnTheWayIn(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout, demanding("*"), func(c *server.Config) { c.MFATTL = 2 * time.Minute })
		id := w.person("ada", true)
		mfa := w.dueAs("ada").owing(t)
		w.do("GET", "/users/me", mfa, nil).want(t, 401, "invalid_token")
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": mfa}).want(t, 401, "invalid_token")
		w.do("POST", "/2fa/setup", mfa, nil).want(t, 401, "invalid_token")
		w.do("POST", "/2fa/recovery-codes", "", map[string]string{"mfa_token": mfa, "code": "123456"}).want(t, 401, "unauthenticated")
		for what, body := range map[string]any{"unknown member": map[string]string{"mfa_token": mfa, "x": "y"}, "list": "[]", "not a text": map[string]any{"mfa_token": []string{mfa}}} {
			if r := w.do("POST", "/2fa/setup", "", body); r.status != 422 {
				t.Errorf("%s: %d", what, r.status)
			}
		}
		w.do("POST", "/2fa/setup", "", map[string]string{}).want(t, 401, "unauthenticated")
		w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": "mfa_" + strings.Repeat("A", 43)}).want(t, 401, "invalid_token")
		w.do("POST", "/2fa/setup?mfa_token="+mfa, "", nil).want(t, 422, "validation_failed")

		// Five codes, of however many at once; of a hundred right ones one.
		a := w.setUp(mfa)
		for range 5 {
			w.verify(mfa, a.wrong()).want(t, 401, "invalid_2fa_code")
		}
		w.verify(mfa, a.code(0)).want(t, 401, "invalid_token")
		w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": mfa}).want(t, 401, "invalid_token")
		mfa = w.dueAs("ada").owing(t)
		a = w.setUp(mfa)
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[int]int{}
		for range 100 {
			wg.Go(func() {
				r := w.verify(mfa, a.code(0))
				mu.Lock()
				defer mu.Unlock()
				got[r.status]++
			})
		}
		wg.Wait()
		if got[200] != 1 || got[401]+got[409] != 99 || w.live(id) != 1 {
			t.Errorf("answers %v, %d sessions", got, w.live(id))
		}

		for _, c := range []struct {
			name string
			end  func(id string)
		}{
			{"stays", nil},
			{"late", func(string) { w.clock.advance(2 * time.Minute) }},
			{"disabled", w.disable},
			{"changed", func(id string) {
				if err := w.sv.Accounts.SetPassword(t.Context(), id, "another-"+goodPassword); err != nil {
					t.Fatal(err)
				}
			}},
			{"enrolled", func(string) {
				other := w.dueAs("enrolled").owing(t)
				w.verify(other, w.setUp(other).code(0)).want(t, 200, "")
			}},
		} {
			id := w.person(c.name, true)
			mfa := w.dueAs(c.name).owing(t)
			a := w.setUp(mfa)
			if c.end == nil {
				w.verify(mfa, a.code(0)).want(t, 200, "")
				continue
			}
			c.end(id)
			before := w.live(id)
			if r := w.verify(mfa, a.code(0)); r.status != 401 {
				t.Errorf("%s: %d %s", c.name, r.status, r.body)
			}
			if r := w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": mfa}); r.status != 401 {
				t.Errorf("%s: set up: %d %s", c.name, r.status, r.body)
			}
			if n := w.live(id); n != before {
				t.Errorf("%s: %d sessions, %d before", c.name, n, before)
			}
		}
		// Of an account that has a factor there is nothing to set up.
		due := w.due("stays")
		w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": due}).want(t, 409, "mfa_on")
		w.events("mfa.set_up", 5)
	})
}

// What somebody began who read a letter once ends with the password that is chosen
// after it: they would set up a factor of their own, and keep its person out.
func TestT_SettingUpByMailEnds(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout, demanding("*"))
		for _, verified := range []bool{true, false} {
			name := map[bool]string{true: "ada", false: "bob"}[verified]
			address := name + "@example.com"
			w.person(name, verified)
			began := func() string {
				_, token, _ := box.letter(w, address)
				return w.byLink(map[string]string{"token": token}).owing(t)
			}
			theirs := began()
			a := w.setUp(theirs)
			w.do("POST", "/auth/forgot-password", "", map[string]string{"email": address}).want(t, 202, "")
			w.do("POST", "/auth/reset-password", "", map[string]string{"token": box.token(w, address, mail.Reset), "password": "another-" + goodPassword}).want(t, 200, "")
			w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": theirs}).want(t, 401, "invalid_token")
			w.verify(theirs, a.code(0)).want(t, 401, "invalid_token")

			own := began() // the control, and of an account that has a password
			w.verify(own, w.setUp(own).code(0)).want(t, 200, "")
		}
	})
}

// Guesses while setting up count as all others do.
func TestT_SettingUpIsCounted(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, demanding("*"))
	w.person("ada", true)
	for range 5 {
		mfa := w.dueAs("ada").owing(t)
		w.verify(mfa, w.setUp(mfa).wrong()).want(t, 401, "invalid_2fa_code")
	}
	w.dueAs("ada").want(t, 429, "too_many_attempts")
	w.clock.advance(time.Minute)
	mfa := w.dueAs("ada").owing(t)
	w.verify(mfa, w.setUp(mfa).code(0)).want(t, 200, "")
}

// The issuer that an app shows, and the life of an mfa_token, are configured within
// bounds.
func TestSecondFactorConfiguration(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.TOTPIssuer = "Ada & Sons" })
	_, ada := w.user("ada")
	if uri := w.do("POST", "/2fa/setup", ada.access, nil).want(t, 200, "").text(t, "otpauth_uri"); !strings.HasPrefix(uri, "otpauth://totp/Ada%20%26%20Sons:ada?") || !strings.Contains(uri, "&issuer=Ada%20%26%20Sons&") {
		t.Errorf("%s", uri)
	}
	for what, change := range map[string]func(*server.Config){
		"auth.totp_issuer":  func(c *server.Config) { c.TOTPIssuer = "a:b" },
		"tokens.mfa_ttl":    func(c *server.Config) { c.MFATTL = 16 * time.Minute },
		"auth.mfa_required": func(c *server.Config) { c.MFARequired = []string{"no such name"} },
	} {
		cfg := w.cfg
		change(&cfg)
		if _, err := server.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
