package server_test

import (
	"encoding/base32"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

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

// T: the whole life of a second factor, each step with what must not work beside
// it.
func TestThreatTLifeOfASecondFactor(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		_, other := "", w.signIn("ada", goodPassword)
		a, recovery := w.enrol(ada.access)
		if len(recovery) != 10 {
			t.Fatalf("%d recovery codes", len(recovery))
		}
		me := w.do("GET", "/users/me", ada.access, nil).want(t, 200, "").json(t)
		if me["mfa_enabled"] != true {
			t.Error("mfa_enabled is not true")
		}
		if w.alive(other.access) {
			t.Error("a session from before lives on")
		}
		w.do("POST", "/2fa/setup", ada.access, nil).want(t, 409, "mfa_on")

		token := w.due("ada")
		w.verify(token, "000000").want(t, 401, "invalid_2fa_code")
		w.verify(token, a.code(0)).want(t, 401, "invalid_2fa_code") // it was used to set up
		tk := w.verify(token, a.next()).want(t, 200, "").text(t, "access_token")
		w.verify(token, a.next()).want(t, 401, "invalid_token")
		if !w.alive(tk) {
			t.Error("the session is not alive")
		}
		w.verify(w.due("ada"), recovery[0]).want(t, 200, "")
		w.verify(w.due("ada"), recovery[0]).want(t, 401, "invalid_2fa_code")
		w.verify(w.due("ada"), strings.ToUpper(strings.ReplaceAll(recovery[1], "-", " "))).want(t, 200, "")

		w.do("POST", "/2fa/verify", tk, map[string]string{"code": a.next()}).want(t, 200, "")
		w.do("DELETE", "/2fa", tk, map[string]string{"code": "000000"}).want(t, 400, "invalid_2fa_code")
		w.do("DELETE", "/2fa", tk, map[string]string{"code": a.next()}).want(t, http.StatusNoContent, "")
		w.signIn("ada", goodPassword)
	})
}
