package server_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// Clocks that are set while a server runs (letter F of the threat list).

// The clock is set by an hour while the server runs, what is old is deleted, and later
// it is set right again. What was ended or used up stays so at every moment; a
// token lives no longer for it; and nobody is kept out who signs in or refreshes.
func TestF_Clock(t *testing.T) {
	for _, way := range []struct {
		name   string
		by     time.Duration
		format session.Format
	}{{"ahead", time.Hour, session.JWT}, {"back", -time.Hour, session.Opaque}} {
		t.Run(way.name, func(t *testing.T) {
			testkit.EachDB(t, func(t *testing.T, d *db.DB) { testClock(t, d, way.by, way.format) })
		})
	}
}

func testClock(t *testing.T, d *db.DB, by time.Duration, format session.Format) {
	var box mailbox
	in := func(c *server.Config) { c.TokenFormat = format }
	w := newWorld(t, d, nil, withMail(&box), withMailSignIn, in)
	other := w.restarted(withMail(&box), withMailSignIn, in)
	_, ada := w.user("ada")
	bobID, bob := w.user("bob")
	w.person("eve", true)
	w.person("lou", true)
	authenticator, recovery := w.enrol(bob.access)

	// What is over before the clock is set.
	gone := w.signIn("ada", goodPassword)
	w.do("POST", "/logout", gone.access, nil).want(t, 200, "")
	rotated := w.signIn("ada", goodPassword)
	successor := w.refresh(rotated)
	code := authenticator.next()
	w.verify(w.due("bob"), code).want(t, 200, "")
	w.verify(w.due("bob"), recovery[0]).want(t, 200, "")
	w.forgot("eve@example.com").want(t, 202, "")
	used := box.token(w, "eve@example.com", mail.Reset)
	w.reset(used, "marzipan under the piano").want(t, 200, "")
	_, link, _ := box.letter(w, "eve@example.com")
	w.byLink(map[string]string{"token": link}).want(t, 200, "")
	key := w.key(ada)
	w.do("DELETE", "/api-keys/"+key.id, ada.access, nil)
	kept := w.key(ada)

	over := func(when string) {
		t.Helper()
		w.dead(when+": a session that was ended", gone)
		if w.accepted(key.key) {
			t.Errorf("%s: an API key that was deleted is accepted", when)
		}
		if !w.accepted(kept.key) {
			t.Errorf("%s: an API key is refused", when)
		}
		w.verify(w.due("bob"), code).want(t, 401, "invalid_2fa_code")
		w.verify(w.due("bob"), recovery[0]).want(t, 401, "invalid_2fa_code")
		w.unlock(bobID) // these were guesses
		w.reset(used, "zeppelin-orchard-58-gravel").want(t, 400, "")
		if r := w.byLink(map[string]string{"token": link}); r.status/100 != 4 {
			t.Errorf("%s: a link that was used signs in: %d", when, r.status)
		}
		// A change by another node is heard of as ever.
		tk := w.signIn("ada", goodPassword)
		if !w.alive(tk.access) || !other.alive(tk.access) {
			t.Errorf("%s: a new session is refused", when)
		}
		other.do("POST", "/logout", tk.access, nil).want(t, 200, "")
		for deadline := time.Now().Add(5 * time.Second); w.alive(tk.access); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: a logout on another node is never heard of", when)
			}
		}
	}
	guess := func(pw string) reply {
		t.Helper()
		return w.form("/token", "grant_type", "password", "username", "lou", "password", pw)
	}
	// lock has lou guess until nobody looks at the password any more.
	lock := func() {
		t.Helper()
		for n := 0; guess("not-the-password-41").status != 429; n++ {
			if n == 50 {
				t.Fatal("nobody is ever locked out")
			}
		}
	}
	// waits has lou wait for as long as it is told, which must be enough.
	waits := func(when string) {
		t.Helper()
		seconds, err := strconv.Atoi(guess(goodPassword).want(t, 429, "too_many_attempts").header.Get("Retry-After"))
		if err != nil || seconds > 60 {
			t.Errorf("%s: Retry-After %d, %v", when, seconds, err)
		}
		w.clock.advance(time.Duration(seconds) * time.Second)
		guess(goodPassword).want(t, 200, "")
	}
	// refused wants an access token to be no good on either node, and the session to
	// go on by its refresh token.
	refused := func(when string, tk tokens) tokens {
		t.Helper()
		if w.alive(tk.access) || other.alive(tk.access) {
			t.Errorf("%s: an access token of another time is accepted", when)
		}
		tk = w.refresh(tk)
		if !w.alive(tk.access) || !other.alive(tk.access) {
			t.Errorf("%s: a session that was refreshed is refused", when)
		}
		return tk
	}
	for _, node := range []*world{w, other} {
		if !node.alive(ada.access) { // and it is remembered
			t.Fatal("a session is refused")
		}
	}
	over("before")
	lock()

	w.clock.advance(by)
	w.cleanUp()
	over("set")
	ada = refused("set", ada)
	if by < 0 { // nobody is free at once
		waits("set")
		w.verify(w.due("bob"), authenticator.code(1)).want(t, 401, "invalid_2fa_code") // until the clock has caught up
		w.verify(w.due("bob"), recovery[1]).want(t, 200, "")
	} else { // an hour has passed, as far as anybody can tell
		guess(goodPassword).want(t, 200, "")
		w.verify(w.due("bob"), authenticator.code(0)).want(t, 200, "")
		code = authenticator.code(0)
	}
	lock()

	w.clock.advance(-by)
	w.cleanUp()
	over("set right")
	refused("set right", ada)
	if by < 0 {
		guess(goodPassword).want(t, 200, "")
		w.verify(w.due("bob"), authenticator.next()).want(t, 200, "")
	} else {
		waits("set right")
		w.verify(w.due("bob"), authenticator.next()).want(t, 401, "invalid_2fa_code")
		w.verify(w.due("bob"), recovery[1]).want(t, 200, "")
	}
	// The first of a family that was rotated long ago: a theft, then as now.
	w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": rotated.refresh}).want(t, 401, "")
	w.dead("used again", successor)
}

func (w *world) unlock(id string) {
	w.t.Helper()
	if _, err := w.sv.Lockout.Unlock(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
}
