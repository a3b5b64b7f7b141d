package server_test

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"go/ast"
	"go/parser"
	"go/token"
	"image"
	_ "image/png"
	"io/fs"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// The threats to the second factor (letter T of the threat list).

// app is an authenticator app.
type app struct {
	w      *world
	secret []byte
}

func (a app) code(shift int64) string {
	return totp.Default.Code(a.secret, totp.StepAt(a.w.clock.now())+shift)
}

// next waits, on the world's clock, for the next time step and returns its code:
// each is good once.
func (a app) next() string {
	a.w.clock.advance(totp.Period)
	return a.code(0)
}

// enrol sets up a second factor in a session.
func (w *world) enrol(access string) (app, []string) {
	w.t.Helper()
	text := w.do("POST", "/2fa/setup", access, nil).want(w.t, 200, "").text(w.t, "secret")
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	if err != nil {
		w.t.Fatal(err)
	}
	a := app{w, secret}
	m := w.do("POST", "/2fa/verify", access, map[string]string{"code": a.code(0)}).want(w.t, 200, "").json(w.t)
	if m["message"] != "2FA verified successfully" {
		w.t.Errorf("message %v", m["message"])
	}
	var recovery []string
	for _, c := range m["recovery_codes"].([]any) {
		recovery = append(recovery, c.(string))
	}
	return a, recovery
}

// due signs in with a password and returns the mfa_token.
func (w *world) due(name string) string {
	w.t.Helper()
	r := w.form("/token", "grant_type", "password", "username", name, "password", goodPassword).want(w.t, 403, "mfa_required")
	if got := r.json(w.t)["mfa_methods"]; len(got.([]any)) != 2 {
		w.t.Errorf("mfa_methods %v", got)
	}
	return r.text(w.t, "mfa_token")
}

func (w *world) verify(mfaToken, code string) reply {
	w.t.Helper()
	return w.do("POST", "/2fa/verify", "", map[string]string{"mfa_token": mfaToken, "code": code})
}

func (w *world) dueAs(name string, fields ...string) reply {
	w.t.Helper()
	return w.form("/token", append([]string{"grant_type", "password", "username", name, "password", goodPassword}, fields...)...)
}

// live returns how many sessions of a subject are alive.
func (w *world) live(subject string) (n int) {
	w.t.Helper()
	if _, err := w.db.View(w.t.Context()).Row("SELECT count(*) FROM sp_sessions WHERE subject_id = $1 AND ended_at = 0", []any{subject}, &n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// wrong returns a code that is not good now.
func (a app) wrong() string {
	for _, c := range []string{"000000", "111111", "222222", "333333", "444444"} {
		if !slices.Contains([]string{a.code(-2), a.code(-1), a.code(0), a.code(1), a.code(2)}, c) {
			return c
		}
	}
	panic("five codes of a million are all good")
}

// The whole life of a second factor, each step with what must not work beside it.
func TestT_Life(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, ada := w.user("ada")
		before := w.signIn("ada", goodPassword)
		old := w.key(ada)
		a, recovery := w.enrol(ada.access)
		if len(recovery) != 10 {
			t.Fatalf("%d recovery codes", len(recovery))
		}
		if me := w.do("GET", "/users/me", ada.access, nil).want(t, 200, "").json(t); me["mfa_enabled"] != true {
			t.Error("mfa_enabled is not true")
		}
		w.dead("a session from before", before)
		if !w.accepted(old.key) {
			t.Error("an API key has ended; the documentation says that it goes on")
		}
		w.do("POST", "/2fa/setup", ada.access, nil).want(t, 409, "mfa_on")

		mfa := w.due("ada")
		w.verify(mfa, a.wrong()).want(t, 401, "invalid_2fa_code")
		var used int64
		if _, err := d.View(t.Context()).Row("SELECT last_step FROM sp_totp WHERE subject_id = $1", []any{id}, &used); err != nil {
			t.Fatal(err)
		}
		w.verify(mfa, totp.Default.Code(a.secret, used)).want(t, 401, "invalid_2fa_code") // it was used to set up
		r := w.verify(mfa, a.next()).want(t, 200, "")
		tk := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		w.verify(mfa, a.next()).want(t, 401, "invalid_token")
		if !w.alive(tk.access) {
			t.Error("the session is not alive")
		}
		w.verify(w.due("ada"), recovery[0]).want(t, 200, "")
		w.verify(w.due("ada"), recovery[0]).want(t, 401, "invalid_2fa_code")
		w.verify(w.due("ada"), strings.ToUpper(strings.ReplaceAll(recovery[1], "-", " "))).want(t, 200, "")
		for _, e := range w.events("recovery_code.used", 2) {
			if e.Target != id {
				t.Errorf("event about %s", e.Target)
			}
		}

		// New recovery codes make the others worthless.
		w.do("POST", "/2fa/recovery-codes", tk.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
		fresh := w.do("POST", "/2fa/recovery-codes", tk.access, map[string]string{"code": a.next()}).want(t, 200, "").json(t)["recovery_codes"].([]any)
		w.verify(w.due("ada"), recovery[2]).want(t, 401, "invalid_2fa_code")
		w.verify(w.due("ada"), fresh[2].(string)).want(t, 200, "")

		// Switching it off needs a factor, and ends what others are in.
		w.do("DELETE", "/2fa", tk.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
		pending := w.due("ada")
		w.do("DELETE", "/2fa", tk.access, map[string]string{"code": a.next()}).want(t, http.StatusNoContent, "")
		w.verify(pending, a.next()).want(t, 401, "invalid_token")
		w.do("DELETE", "/2fa", tk.access, map[string]string{"code": a.next()}).want(t, 409, "mfa_off")
		if n := w.live(id); n != 1 {
			t.Errorf("%d sessions live on", n)
		}
		w.signIn("ada", goodPassword)
		for _, action := range []string{"mfa.set_up", "mfa.enabled", "mfa.refused", "mfa.recovery_codes_replaced", "mfa.disabled"} {
			w.events(action, 1)
		}
		w.noSecretIn(t, append(recovery, totp.Base32(a.secret), mfa, pending, strings.ReplaceAll(recovery[0], "-", ""), tk.access)...)
	})
}

// Own and neighbouring steps are good, others are not, and each is good once; a
// clock that is set back opens nothing again.
func TestT_StepsReplayAndClock(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		_, ada := w.user("ada")
		a, recovery := w.enrol(ada.access)
		w.clock.stop()
		w.clock.advance(10 * time.Minute)
		for _, shift := range []int64{-3, -2, 2, 3} {
			w.verify(w.due("ada"), a.code(shift)).want(t, 401, "invalid_2fa_code")
		}
		for _, shift := range []int64{-1, 0, 1} {
			code := a.code(shift)
			w.verify(w.due("ada"), code).want(t, 200, "")
			w.verify(w.due("ada"), code).want(t, 401, "invalid_2fa_code")
			w.dueAs("ada", "otp", code).want(t, 401, "invalid_2fa_code")
		}
		// The last step that was used is the next one: those before are used up too.
		w.verify(w.due("ada"), a.code(0)).want(t, 401, "invalid_2fa_code")
		w.clock.advance(-time.Hour)
		for _, shift := range []int64{-1, 0, 1} {
			w.verify(w.due("ada"), a.code(shift)).want(t, 401, "invalid_2fa_code")
		}
		w.verify(w.due("ada"), recovery[0]).want(t, 200, "")
		w.clock.advance(time.Hour + 2*totp.Period)
		w.verify(w.due("ada"), a.code(0)).want(t, 200, "")
	})
}

// Of a hundred at once one gets a session: with one token and code, with one code
// and as many tokens, with one recovery code.
func TestT_Races(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		id, ada := w.user("ada")
		a, recovery := w.enrol(ada.access)
		race := func(what string, n int, send func(i int) reply) {
			t.Helper()
			before := w.live(id)
			var mu sync.Mutex
			var wg sync.WaitGroup
			got := map[int]int{}
			for i := range n {
				wg.Go(func() {
					r := send(i)
					mu.Lock()
					defer mu.Unlock()
					got[r.status]++
				})
			}
			wg.Wait()
			if now := w.live(id); got[200] != 1 || got[401] != n-1 || now != before+1 {
				t.Errorf("%s: answers %v, %d new sessions", what, got, now-before)
			}
		}
		mfa, code := w.due("ada"), a.next()
		race("one token", 100, func(int) reply { return w.verify(mfa, code) })
		mfa = w.due("ada")
		race("one token, good codes", 5, func(i int) reply { return w.verify(mfa, recovery[5+i]) })
		many := make([]string, 30)
		for i := range many {
			many[i] = w.due("ada")
		}
		code = a.next()
		race("one code", len(many), func(i int) reply { return w.verify(many[i], code) })
		for i := range many {
			many[i] = w.due("ada")
		}
		race("one recovery code", len(many), func(i int) reply { return w.verify(many[i], recovery[0]) })
		code = a.next()
		race("one code at the token endpoint", 20, func(int) reply { return w.dueAs("ada", "otp", code) })
	})
}

// Five codes are looked at for one sign-in, however many come at once; and a
// right one does not count any more then.
func TestT_FiveTries(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		_, ada := w.user("ada")
		a, _ := w.enrol(ada.access)
		w.clock.advance(totp.Period)
		mfa := w.due("ada")
		var mu sync.Mutex
		var wg sync.WaitGroup
		codes := map[string]int{}
		for range 40 {
			wg.Go(func() {
				r := w.verify(mfa, a.wrong())
				code, _ := r.json(t)["code"].(string)
				mu.Lock()
				defer mu.Unlock()
				codes[code]++
			})
		}
		wg.Wait()
		if codes["invalid_2fa_code"] != 5 || codes["invalid_token"] != 35 {
			t.Errorf("answers %v", codes)
		}
		w.verify(mfa, a.code(0)).want(t, 401, "invalid_token")
		w.verify(w.due("ada"), a.code(0)).want(t, 200, "")
	})
}

// Guesses at codes and at passwords count together, and neither the right
// password nor a code in a session lets them be forgotten.
func TestT_Budget(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		a, _ := w.enrol(ada.access)
		w.clock.advance(totp.Period)
		for range 2 {
			w.verify(w.due("ada"), a.wrong()).want(t, 401, "invalid_2fa_code")
			w.due("ada")
		}
		w.dueAs("ada", "otp", a.wrong()).want(t, 401, "invalid_2fa_code")
		w.form("/token", "grant_type", "password", "username", "ada", "password", "not-the-password-41").want(t, 401, "invalid_grant")
		mfa := w.due("ada")
		w.do("POST", "/2fa/verify", ada.access, map[string]string{"code": a.code(0)}).want(t, 200, "") // a fifth would be too many
		w.verify(mfa, a.wrong()).want(t, 401, "invalid_2fa_code")
		locked := w.verify(mfa, a.code(1)).want(t, 429, "too_many_attempts")
		if locked.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		w.dueAs("ada").want(t, 429, "too_many_attempts")
		w.do("DELETE", "/2fa", ada.access, map[string]string{"code": a.code(1)}).want(t, 429, "too_many_attempts")
		w.clock.advance(time.Minute)
		w.verify(mfa, a.code(0)).want(t, 200, "")
		w.due("ada")
	})
}

// Basic is refused like a wrong password, and so it counts like one: the right
// password does not buy guesses at the code there either.
func TestT_BasicCountsAsWrong(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), probes)
	_, ada := w.user("ada")
	w.user("bob")
	w.enrol(ada.access)
	for range 5 {
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 401, "invalid_token")
	}
	w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 429, "too_many_attempts")
	w.dueAs("ada").want(t, 429, "too_many_attempts")
	w.as("GET", "/by-basic", basicValue("bob", goodPassword), nil).want(t, 204, "") // the control
}

// What guesses in a session fail counts as well.
func TestT_BudgetInASession(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, ada := w.user("ada")
	a, _ := w.enrol(ada.access)
	for _, r := range []struct{ method, path string }{
		{"POST", "/2fa/verify"}, {"POST", "/2fa/recovery-codes"}, {"DELETE", "/2fa"}, {"POST", "/2fa/verify"}, {"DELETE", "/2fa"},
	} {
		w.do(r.method, r.path, ada.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
	}
	w.do("POST", "/2fa/verify", ada.access, map[string]string{"code": a.next()}).want(t, 200, "") // half a minute later
}

// The token of a pending sign-in opens nothing else, and nothing else goes on
// with one.
func TestT_PendingTokenOpensNothingElse(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		id, ada := w.user("ada")
		a, recovery := w.enrol(ada.access)
		w.clock.advance(totp.Period)
		mfa := w.due("ada")
		before := w.live(id)
		w.do("GET", "/users/me", mfa, nil).want(t, 401, "invalid_token")
		w.doKeyed("GET", "/users/me", mfa, nil).want(t, 401, "invalid_token")
		w.send(w.browse("GET", "/users/me", mfa, nil)).want(t, 401, "invalid_token")
		w.as("GET", "/users/me", "Basic "+mfa, nil).want(t, 401, "")
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": mfa}).want(t, 401, "invalid_token")
		w.form("/token", "grant_type", "refresh_token", "refresh_token", mfa).want(t, 400, "invalid_grant")
		w.dueAs("ada", "otp", mfa).want(t, 401, "invalid_2fa_code")
		for what, other := range map[string]string{
			"an access token": ada.access, "a refresh token": ada.refresh, "a key": w.key(ada).key, "a recovery code": recovery[0],
			"nothing": "", "another": "mfa_" + strings.Repeat("A", 43), "longer": mfa + "A", "shorter": mfa[:len(mfa)-1],
		} {
			if r := w.verify(other, a.code(0)); r.status != 401 || r.text(t, "code") != "invalid_token" {
				t.Errorf("%s goes on with a sign-in: %d", what, r.status)
			}
		}
		for _, path := range []string{"/2fa/verify?mfa_token=" + mfa, "/2fa/verify?code=000000"} {
			w.do("POST", path, "", map[string]string{"code": a.code(0)}).want(t, 422, "validation_failed")
		}
		if n := w.live(id); n != before {
			t.Errorf("%d sessions, %d before", n, before)
		}
		w.verify(mfa, a.code(0)).want(t, 200, "")
	})
}

// A pending sign-in ends with what it stands on.
func TestT_PendingEnds(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		for _, c := range []struct {
			name string
			end  func(id string, tk tokens)
		}{
			{"stays", nil},
			{"late", func(string, tokens) { w.clock.advance(5 * time.Minute) }},
			{"disabled", func(id string, _ tokens) { w.disable(id) }},
			{"changed", func(_ string, tk tokens) {
				w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "another-" + goodPassword}).want(t, 204, "")
			}},
			{"deleted", func(_ string, tk tokens) { w.do("DELETE", "/users/me", tk.access, nil).want(t, 204, "") }},
			{"reset", func(id string, _ tokens) {
				if err := w.sv.SignIn.Reset(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			id, tk := w.user(c.name)
			a, _ := w.enrol(tk.access)
			w.clock.advance(totp.Period)
			mfa := w.due(c.name)
			if c.end == nil {
				w.verify(mfa, a.code(0)).want(t, 200, "")
				continue
			}
			c.end(id, tk)
			if r := w.verify(mfa, a.code(0)); r.status != 401 {
				t.Errorf("%s: %d %s", c.name, r.status, r.body)
			}
			w.clock.advance(cleanup.Skew)
			w.cleanUp()
		}
		var left int
		if _, err := d.View(t.Context()).Row("SELECT count(*) FROM sp_pending_signins WHERE expires_at < $1", []any{db.Micros(w.clock.now())}, &left); err != nil || left != 0 {
			t.Errorf("%d sign-ins that are over are still stored: %v", left, err)
		}
	})
}

// A sign-in goes on as what it was begun as: client, scope, cookie.
func TestT_BoundToHowItBegan(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout, overHTTPS)
		id, ada := w.user("ada")
		w.permit(id, "read:users", "write:users")
		a, _ := w.enrol(ada.access)

		mfa := w.dueAs("ada", "client_id", "docs", "scope", "read:users").want(t, 403, "mfa_required").text(t, "mfa_token")
		r := w.verify(mfa, a.next()).want(t, 200, "")
		if r.text(t, "scope") != "read:users" || payloadOf(t, r.text(t, "access_token"))["client_id"] != "docs" {
			t.Errorf("%s", r.body)
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": r.text(t, "refresh_token")}).want(t, 401, "invalid_token") // first-party's
		w.form("/token", "grant_type", "refresh_token", "client_id", "docs", "refresh_token", r.text(t, "refresh_token")).want(t, 200, "")
		w.dueAs("ada", "scope", "no:such").want(t, 400, "invalid_scope")

		// A browser's.
		mfa = w.send(w.signInCookie("ada", goodPassword, "")).want(t, 403, "mfa_required").text(t, "mfa_token")
		foreign := w.browse("POST", "/2fa/verify", "", map[string]string{"mfa_token": mfa, "code": a.next()}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
		if got := w.send(foreign).want(t, 403, "cross_origin"); got.header.Get("Set-Cookie") != "" {
			t.Error("another origin got a cookie")
		}
		res := w.verify(mfa, a.code(0)).want(t, 204, "")
		if !w.lives(cookieOf(t, res)) {
			t.Error("the cookie is not good")
		}
		// It takes the place of the one that the browser has.
		first := cookieOf(t, res)
		mfa = w.send(w.signInCookie("ada", goodPassword, first)).want(t, 403, "mfa_required").text(t, "mfa_token")
		if !w.lives(first) {
			t.Error("half a sign-in has ended a session")
		}
		second := cookieOf(t, w.send(w.browse("POST", "/2fa/verify", first, map[string]string{"mfa_token": mfa, "code": a.next()}, "Origin", "https://sallyport.test")).want(t, 204, ""))
		if w.lives(first) || !w.lives(second) {
			t.Error("the browser's session was not replaced")
		}
	})
}

// There is no way round the factor: not by a refresh from before, Basic, JSON, a
// cookie, a new password or a key.
func TestT_NoWayRound(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			probes(w)
			w.mux.HandleFunc("GET /strong", sallyport.MFA(), func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) })
		}, noLockout, overHTTPS)
		_, ada := w.user("ada")
		before, cookie := w.signIn("ada", goodPassword), w.cookie("ada")
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 204, "") // the control
		w.do("GET", "/strong", ada.access, nil).want(t, 401, "insufficient_user_authentication")
		a, _ := w.enrol(ada.access)
		key := w.key(ada)

		w.dead("a session from before", before)
		if w.lives(cookie) {
			t.Error("a cookie from before is good")
		}
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 401, "invalid_token")
		for route, req := range w.signInRequests("ada", goodPassword) {
			if r := w.send(req); r.status != 403 && r.status != 401 || bytes.Contains(r.body, []byte("access_token")) || r.header.Get("Set-Cookie") != "" {
				t.Errorf("%s: %d %s", route, r.status, r.body)
			}
		}
		w.send(w.signInCookie("ada", goodPassword, "")).want(t, 403, "mfa_required")
		w.doKeyed("GET", "/strong", key.key, nil).want(t, 401, "insufficient_user_authentication")
		w.do("PUT", "/users/me/password", ada.access, map[string]string{"current_password": goodPassword, "new_password": "another-" + goodPassword}).want(t, 204, "")
		w.form("/token", "grant_type", "password", "username", "ada", "password", "another-"+goodPassword).want(t, 403, "mfa_required")

		// What does lead in: the code with the password, at both routes.
		w.do("GET", "/strong", ada.access, nil).want(t, 204, "")
		w.form("/token", "grant_type", "password", "username", "ada", "password", "another-"+goodPassword, "otp", a.next()).want(t, 200, "")
		gap := a.next() // as apps show it
		w.form("/token", "grant_type", "password", "username", "ada", "password", "another-"+goodPassword, "otp", gap[:3]+" "+gap[3:]).want(t, 200, "")
		r := w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": "another-" + goodPassword, "otp": a.next()}).want(t, 200, "")
		w.do("GET", "/strong", r.text(t, "access_token"), nil).want(t, 204, "")
		w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": "another-" + goodPassword, "otp": a.wrong()}).want(t, 401, "invalid_2fa_code")
		w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": goodPassword, "otp": a.next()}).want(t, 401, "invalid_credentials")
	})
}

// Setting up is for a person in a fresh, unlimited session; the answer is not kept
// anywhere, and the picture is the secret's.
func TestT_SettingUp(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, ada := w.user("ada")
		w.permit(id, "read:users")
		w.do("POST", "/2fa/setup", "", nil).want(t, 401, "unauthenticated")
		w.doKeyed("POST", "/2fa/setup", w.key(ada, "read:users").key, nil).want(t, 403, "")
		w.do("POST", "/2fa/setup", w.signIn("ada", goodPassword, "scope", "read:users").access, nil).want(t, 403, "insufficient_scope")
		w.do("POST", "/2fa/setup", w.token(w.machine(nil)), nil).want(t, 401, "insufficient_user_authentication")
		for _, path := range []string{"/2fa/verify", "/2fa/recovery-codes"} {
			w.do("POST", path, ada.access, map[string]string{"code": "000000"}).want(t, 409, "mfa_off")
		}

		r := w.do("POST", "/2fa/setup", ada.access, nil).want(t, 200, "")
		if r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control %q", r.header.Get("Cache-Control"))
		}
		uri, secret := r.text(t, "otpauth_uri"), r.text(t, "secret")
		if !strings.HasPrefix(uri, "otpauth://totp/sallyport.test:ada?secret="+secret+"&") || len(secret) != 32 || !strings.HasPrefix(r.text(t, "qr_svg"), "<svg ") {
			t.Errorf("%.300s", r.body)
		}
		data, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.text(t, "qr_png"), "data:image/png;base64,"))
		if err != nil || scan(t, data) != uri {
			t.Errorf("the picture is not the address: %v", err)
		}
		// It is not on yet, and another secret takes the place of this one.
		w.signIn("ada", goodPassword)
		req := w.request("POST", "/2fa/setup", ada.access, nil)
		req.Header.Set("Accept", "image/png, application/json;q=0.5")
		picture := w.send(req).want(t, 200, "")
		if picture.header.Get("Content-Type") != "image/png" || picture.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v", picture.header)
		}
		text := scan(t, picture.body)
		if text == uri {
			t.Error("the same secret was shown twice")
		}
		decode := func(secret string) app {
			b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
			if err != nil {
				t.Fatal(err)
			}
			return app{w, b}
		}
		_, rest, _ := strings.Cut(text, "secret=")
		a := decode(rest[:32])
		w.do("POST", "/2fa/verify", ada.access, map[string]string{"code": decode(secret).code(0)}).want(t, 400, "invalid_2fa_code")
		w.doKeyed("POST", "/2fa/verify", w.key(ada).key, map[string]string{"code": a.code(0)}).want(t, 403, "")

		// Too late, and not fresh any more.
		w.clock.advance(10*time.Minute + time.Second)
		w.do("POST", "/2fa/verify", ada.access, map[string]string{"code": a.code(0)}).want(t, 409, "mfa_off")
		stale := w.do("POST", "/2fa/setup", ada.access, nil).want(t, 401, "insufficient_user_authentication")
		if got := stale.header.Get("Www-Authenticate"); !strings.Contains(got, `max_age="600"`) {
			t.Errorf("challenge %s", got)
		}
		w.enrol(w.signIn("ada", goodPassword).access)

		var sealed []byte
		if _, err := d.View(t.Context()).Row("SELECT sealed FROM sp_totp WHERE subject_id = $1", []any{id}, &sealed); err != nil || len(sealed) < 40 {
			t.Errorf("%d bytes: %v", len(sealed), err)
		}
	})
}

func scan(t *testing.T, data []byte) string {
	t.Helper()
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return testkit.ReadQR(t, img)
}

// Nothing in the database makes a code or is one, and another master key changes
// nothing for those who have the app.
func TestT_StoredSealed(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, ada := w.user("ada")
		a, recovery := w.enrol(ada.access)
		stored := func() []byte {
			var all []byte
			add := func(b []byte) { all = append(all, b...) }
			var sealed []byte
			if _, err := d.View(t.Context()).Row("SELECT sealed FROM sp_totp WHERE subject_id = $1", []any{id}, &sealed); err != nil {
				t.Fatal(err)
			}
			add(sealed)
			if err := d.View(t.Context()).Rows("SELECT digest FROM sp_recovery_codes WHERE subject_id = $1", []any{id}, func(scan db.Scan) error {
				var digest []byte
				err := scan(&digest)
				add(digest)
				if len(digest) != 32 {
					t.Errorf("a digest of %d bytes", len(digest))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return all
		}
		before := stored()
		for _, secret := range append([]string{string(a.secret), totp.Base32(a.secret)}, recovery...) {
			if bytes.Contains(before, []byte(secret)) || bytes.Contains(before, []byte(strings.ReplaceAll(secret, "-", ""))) {
				t.Error("a secret is stored as it is")
			}
		}
		if _, err := w.sv.RotateMaster(t.Context()); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(stored(), before) {
			t.Error("the secret was not sealed anew")
		}
		w.verify(w.due("ada"), a.next()).want(t, 200, "")
		w.verify(w.due("ada"), recovery[0]).want(t, 200, "")

		// A secret in another one's row does not open; its owner has recovery codes.
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_totp SET sealed = $2 WHERE subject_id = $1", id, bytes.Repeat([]byte{7}, 60))
			return err
		})
		if r := w.verify(w.due("ada"), a.next()); r.status < 500 {
			t.Errorf("a damaged secret: %d", r.status)
		}
		w.verify(w.due("ada"), recovery[1]).want(t, 200, "")
	})
}

// A code in a session steps it up, at once, and for the tokens that come after.
func TestT_SteppingUp(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		ok := func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /strong", sallyport.MFA(), ok)
			w.mux.HandleFunc("GET /fresh", sallyport.Fresh(time.Minute), ok)
		})
		id, ada := w.user("ada")
		w.do("GET", "/strong", ada.access, nil).want(t, 401, "insufficient_user_authentication")
		a, _ := w.enrol(ada.access)
		w.do("GET", "/strong", ada.access, nil).want(t, 204, "") // at once, with the token as it is
		if got := payloadOf(t, ada.access)["amr"].([]any); len(got) != 1 || payloadOf(t, ada.access)["acr"] != nil {
			t.Errorf("amr %v before", got)
		}
		tk := w.refresh(ada)
		if got := payloadOf(t, tk.access)["amr"].([]any); !slices.Equal(got, []any{"pwd", "otp"}) {
			t.Errorf("amr %v after a refresh", got)
		}
		w.clock.advance(2 * time.Minute)
		w.do("GET", "/fresh", tk.access, nil).want(t, 401, "insufficient_user_authentication")
		w.do("POST", "/2fa/verify", tk.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
		w.do("GET", "/fresh", tk.access, nil).want(t, 401, "insufficient_user_authentication")
		w.do("POST", "/2fa/verify", tk.access, map[string]string{"code": a.code(0)}).want(t, 200, "")
		w.do("GET", "/fresh", tk.access, nil).want(t, 204, "")
		w.events("session.stepped_up", 2)
		again := w.refresh(w.refresh(tk))
		if got := payloadOf(t, again.access); !slices.Equal(got["amr"].([]any), []any{"pwd", "otp"}) || got["acr"] != "mfa" || got["auth_time"] == payloadOf(t, ada.access)["auth_time"] {
			t.Errorf("%v", got)
		}
		w.do("GET", "/strong", again.access, nil).want(t, 204, "")

		// The operator resets it: everything ends, and the password is enough.
		if err := w.sv.SignIn.Reset(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		w.dead("a session of a factor that was reset", again)
		if err := w.sv.SignIn.Reset(t.Context(), id); err == nil {
			t.Error("a factor that is not there was reset")
		}
		w.do("GET", "/strong", w.signIn("ada", goodPassword).access, nil).want(t, 401, "insufficient_user_authentication")
		w.events("mfa.reset", 1)
	})
}

// Codes of another implementation sign in.
func TestT_Oathtool(t *testing.T) {
	tool, err := exec.LookPath("oathtool")
	if err != nil {
		testkit.Missing(t, "oathtool is not here (Debian package oathtool)")
	}
	w := newWorld(t, testkit.SQLite(t), nil)
	_, ada := w.user("ada")
	a, _ := w.enrol(ada.access)
	w.clock.advance(totp.Period)
	out, err := exec.CommandContext(t.Context(), tool, "--totp", "--base32", "--now="+w.clock.now().UTC().Format("2006-01-02 15:04:05 UTC"), totp.Base32(a.secret)).Output()
	if err != nil {
		t.Fatal(err)
	}
	w.verify(w.due("ada"), strings.TrimSpace(string(out))).want(t, 200, "")
}

// Every place that begins a session is known, and what stands before it: a
// person's only in the state machine of package signin, behind one function.
func TestT_EveryWayToASession(t *testing.T) {
	inserts, prepares, calls, begins, texts := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		if path = filepath.ToSlash(strings.TrimPrefix(path, "../")); strings.HasPrefix(path, "bench/") {
			return nil // it fills databases of its own
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("..", path), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			where := filepath.ToSlash(filepath.Dir(path)) + "." + fn.Name.Name
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					if n.Kind == token.STRING && strings.Contains(strings.Join(strings.Fields(n.Value), " "), "INTO sp_sessions") {
						texts[where]++
					}
				case *ast.CallExpr:
					if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "insertSession" {
						inserts[where]++
					}
					if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
						of, _ := sel.X.(*ast.SelectorExpr)
						switch {
						case sel.Sel.Name == "Insert" && of != nil && of.Sel.Name == "Sessions":
							calls[where]++
						case sel.Sel.Name == "Prepare" && of != nil && of.Sel.Name == "Sessions":
							prepares[where]++
						case sel.Sel.Name == "begin" && strings.HasPrefix(where, "signin."):
							begins[where]++
						}
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		got  map[string]int
		want []string
	}{
		"statements that store a session":       {texts, []string{"session.insertSession"}},
		"callers of that statement":             {inserts, []string{"session.Insert"}},
		"callers of Sessions.Prepare":           {prepares, []string{"oauth.Grant", "signin.begin"}},
		"callers of Sessions.Insert":            {calls, []string{"oauth.Grant", "signin.begin"}},
		"callers of begin in the state machine": {begins, []string{"signin.admit", "signin.continued"}},
	} {
		var got []string
		for where, n := range c.got {
			if got = append(got, where); n != 1 {
				t.Errorf("%s: %d in %s", what, n, where)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, known are %v. Whatever begins a session must ask for the second factor: go through signin.begin.", what, got, c.want)
		}
	}
}
