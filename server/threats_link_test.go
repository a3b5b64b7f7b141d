package server_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// Signing in by mail (letters E and L of the threat list).

// person makes an account as the operator would: with an address that is known to be
// theirs, or not.
func (w *world) person(name string, verified bool, roles ...string) (id string) {
	w.t.Helper()
	u, err := w.sv.Accounts.Create(w.t.Context(), role.Operator(), account.NewUser{
		Email: name + "@example.com", Password: goodPassword, Username: &name, EmailVerified: verified,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.grant(u.ID, roles...)
	return u.ID
}

// ask asks for a letter and returns the handle.
func (w *world) ask(address string) string {
	w.t.Helper()
	return w.do("POST", "/auth/request-link", "", map[string]string{"email": address}).want(w.t, 202, "").text(w.t, "handle")
}

// letter is what an address is sent when it asks.
func (m *mailbox) letter(w *world, address string) (handle, token, code string) {
	w.t.Helper()
	handle = w.ask(address)
	got := m.to(w, address, mail.SignIn)
	if len(got) == 0 {
		w.t.Fatal("no letter")
	}
	last := got[len(got)-1]
	link, token, ok := strings.Cut(last.Link, "#token=")
	if !ok || link != w.cfg.BaseURL+"/account/link" || len(last.Code) != 6 {
		w.t.Fatalf("link %q, code %q", last.Link, last.Code)
	}
	return handle, token, last.Code
}

func (w *world) byLink(body map[string]string) reply {
	w.t.Helper()
	return w.do("POST", "/auth/link", "", body)
}

// otherCode is six digits that are not those.
func otherCode(code string, n int) string {
	if c := fmt.Sprintf("%06d", n); c != code {
		return c
	}
	return "999999"
}

// Link and code sign in, once, for ten minutes, as the address's person; and a GET
// uses nothing up.
func TestE_SignInByMail(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn)
		id := w.person("ada", true)
		w.permit(id, "read:users")
		// However the address is written, the letter goes where the account says.
		handle, token, code := "", "", ""
		handle = w.ask("ADA@Example.COM")
		msg := box.to(w, "ada@example.com", mail.SignIn)
		if len(msg) != 1 {
			t.Fatalf("%d letters", len(msg))
		}
		_, token, _ = strings.Cut(msg[0].Link, "#token=")
		code = msg[0].Code
		if !strings.HasPrefix(token, "li_") || !strings.HasPrefix(handle, "lh_") || token[3:] == handle[3:] {
			t.Fatalf("token %q, handle %q", token, handle)
		}
		w.do("GET", "/auth/link?token="+token, "", nil).want(t, 405, "")
		w.do("POST", "/auth/link?token="+token, "", map[string]string{"token": token}).want(t, 400, "credential_in_query")
		w.do("POST", "/auth/link?code="+code, "", map[string]string{"handle": handle, "code": code}).want(t, 400, "credential_in_query")

		r := w.byLink(map[string]string{"token": token, "scope": "read:users write:users"}).want(t, 200, "")
		c := payloadOf(t, r.text(t, "access_token"))
		if !slices.Equal(c["amr"].([]any), []any{"email"}) || c["acr"] != nil || c["client_id"] != "first-party" || c["sub"] != id || r.text(t, "scope") != "read:users" {
			t.Errorf("%v, scope %q", c, r.text(t, "scope"))
		}
		w.byLink(map[string]string{"token": token}).want(t, 401, "invalid_token")
		w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 401, "invalid_token") // it is one letter

		handle, token, code = box.letter(w, "ada@example.com")
		w.byLink(map[string]string{"handle": handle, "code": code[:3] + " " + code[3:]}).want(t, 200, "")
		w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 401, "invalid_token")
		w.byLink(map[string]string{"token": token}).want(t, 401, "invalid_token")

		w.clock.advance(15 * time.Minute)
		handle, token, code = box.letter(w, "ada@example.com")
		w.clock.advance(10*time.Minute - 2*time.Second)
		w.byLink(map[string]string{"token": token, "scope": "no:such"}).want(t, 422, "validation_failed") // uses nothing up
		w.clock.advance(2 * time.Second)
		w.byLink(map[string]string{"token": token}).want(t, 401, "invalid_token")
		w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 401, "invalid_token")
		w.signIn("ada", goodPassword) // the password stays: the address was known to be hers
		w.events("link.requested", 3)
		w.noSecretIn(t, token, handle, strings.TrimPrefix(token, "li_"))
	})
}

// What opens a session opens nothing else, and nothing else opens one.
func TestE_LinkIsForOneThing(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		w.person("ada", true)
		ada := w.signIn("ada", goodPassword)
		w.person("bob", true)
		handle, token, code := box.letter(w, "ada@example.com")
		before := w.count()
		for what, secret := range map[string]string{"token": token, "handle": handle, "code": code} {
			w.do("GET", "/users/me", secret, nil).want(t, 401, "invalid_token")
			w.doKeyed("GET", "/users/me", secret, nil).want(t, 401, "invalid_token")
			w.send(w.browse("GET", "/users/me", secret, nil)).want(t, 401, "invalid_token")
			w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": secret}).want(t, 401, "invalid_token")
			w.verify(secret, code).want(t, 401, "invalid_token")
			w.do("POST", "/2fa/setup", "", map[string]string{"mfa_token": secret}).want(t, 401, "invalid_token")
			w.form("/token", "grant_type", "password", "username", "ada", "password", secret).want(t, 401, "invalid_grant")
			if what != "token" {
				w.byLink(map[string]string{"token": secret}).want(t, 401, "invalid_token")
			}
			if what != "handle" {
				w.byLink(map[string]string{"handle": secret, "code": code}).want(t, 401, "invalid_token")
			}
		}
		for _, other := range []string{ada.access, ada.refresh, w.key(ada).key, "li_" + strings.Repeat("A", 43), token + "A", token[:len(token)-1], strings.ToUpper(token), " " + token, "vt_" + token[3:]} {
			w.byLink(map[string]string{"token": other}).want(t, 401, "invalid_token")
		}
		// Letters for other things, at each other's doors.
		w.do("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"}).want(t, 202, "")
		reset := box.token(w, "ada@example.com", mail.Reset)
		for _, other := range []string{reset, "li_" + reset[3:]} {
			w.byLink(map[string]string{"token": other}).want(t, 401, "invalid_token")
		}
		for _, other := range []string{token, "rs_" + token[3:], "vt_" + token[3:], "in_" + token[3:], "ca_" + token[3:], handle} {
			for _, path := range []string{"/auth/reset-password", "/auth/verify", "/auth/accept-invitation"} {
				w.do("POST", path, "", map[string]string{"token": other, "password": "another-" + goodPassword}).want(t, 400, "invalid_token")
			}
		}
		bobs, _, bobsCode := box.letter(w, "bob@example.com")
		if bobsCode != code {
			w.byLink(map[string]string{"handle": bobs, "code": code}).want(t, 401, "invalid_token")
			w.byLink(map[string]string{"handle": handle, "code": bobsCode}).want(t, 401, "invalid_token")
		}
		for _, body := range []any{
			map[string]string{},
			map[string]string{"handle": handle},
			map[string]string{"code": code},
			map[string]string{"token": token, "handle": handle, "code": code},
			map[string]any{"token": []string{token}},
			map[string]any{"token": map[string]string{"": token}},
			map[string]string{"Token": token},
			map[string]any{"handle": handle, "code": 1},
			"[]", "null", `"` + token + `"`,
		} {
			w.do("POST", "/auth/link", "", body).want(t, 422, "validation_failed")
		}
		for _, name := range []string{"token", "Token"} {
			w.do("POST", "/auth/link", "", `{"token":"`+token+`","`+name+`":"`+token+`"}`).want(t, 400, "duplicate_member")
		}
		w.send(w.typed("POST", "/auth/link", formType, "token="+token)).want(t, 415, "")
		for _, address := range []string{"", "ada", "ada@example.com, bob@example.com", "ada@example.com\r\nBcc: eve@example.com", "<ada@example.com>", "Ada <ada@example.com>", "ada@example.com "} {
			w.do("POST", "/auth/request-link", "", map[string]string{"email": address}).want(t, 422, "validation_failed")
		}
		if now := w.count(); now != before {
			t.Errorf("%d sessions, %d before", now, before)
		}
		w.byLink(map[string]string{"token": token}).want(t, 200, "")
		w.byLink(map[string]string{"handle": bobs, "code": bobsCode}).want(t, 200, "")
	})
}

// Nobody learns by asking, or by trying what they were given, whether an address
// has an account that may sign in: same answers, same rows, same locks.
func TestE_AskingTellsNothing(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn)
		w.person("ada", true)
		w.disable(w.person("disabled", true))
		w.person("unverified", false)
		addresses := []string{"ada@example.com", "nobody@example.com", "disabled@example.com", "unverified@example.com"}
		rows := func(table string) (n int) {
			var err error
			switch table {
			case "tokens":
				_, err = d.View(t.Context()).Row("SELECT count(*) FROM sp_mail_tokens", nil, &n)
			case "letters":
				_, err = d.View(t.Context()).Row("SELECT count(*) FROM sp_outbox", nil, &n)
			}
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		var want reply
		handles := map[string]string{}
		for _, address := range addresses {
			tokens, requests := rows("tokens"), len(w.events("link.requested", 0))
			r := w.do("POST", "/auth/request-link", "", map[string]string{"email": address}).want(t, 202, "")
			handles[address] = r.text(t, "handle")
			if len(handles[address]) != len("lh_")+43 {
				t.Errorf("%s: handle %q", address, handles[address])
			}
			r.body = bytes.ReplaceAll(r.body, []byte(handles[address]), []byte("HANDLE"))
			if want.header == nil {
				want = r
			}
			alike(t, address, r, want)
			if now, asked := rows("tokens"), len(w.events("link.requested", 0)); now != tokens+1 || asked != requests+1 {
				t.Errorf("%s: %d tokens and %d events were stored", address, now-tokens, asked-requests)
			}
		}
		if a, u := len(box.to(w, "ada@example.com", mail.SignIn)), len(box.to(w, "unverified@example.com", mail.SignIn)); a != 1 || u != 1 {
			t.Errorf("%d and %d letters", a, u)
		}
		for _, address := range addresses[1:3] {
			if got := box.to(w, address, mail.SignIn); len(got) != 0 {
				t.Errorf("%s was written to", address)
			}
		}
		code := box.to(w, "ada@example.com", mail.SignIn)[0].Code
		refusals := map[string][]reply{}
		for i := range 7 {
			for j, address := range addresses {
				if address == "unverified@example.com" {
					continue
				}
				eve := w.at(fmt.Sprintf("127.0.%d.1", j+1))
				r := eve.send(w.request("POST", "/auth/link", "", map[string]string{"handle": handles[address], "code": otherCode(code, i)}))
				r.header.Del("Retry-After")
				r.header.Del("RateLimit")
				refusals[address] = append(refusals[address], r)
			}
		}
		for _, address := range addresses[1:3] {
			for i, r := range refusals[address] {
				alike(t, fmt.Sprintf("%s, code %d", address, i), r, refusals["ada@example.com"][i])
			}
		}
		got := refusals["ada@example.com"]
		for i := range 5 {
			got[i].want(t, 401, "invalid_token")
		}
		// The handle is used up, and is not looked at; the account is locked from
		// there, and so is the address without one.
		w.byLink(map[string]string{"handle": handles["ada@example.com"], "code": code}).want(t, 401, "invalid_token")
		for j, address := range addresses[:2] {
			w.at(fmt.Sprintf("127.0.%d.1", j+1)).token(address, badPassword).want(t, 429, "too_many_attempts")
		}
		w.at("127.0.9.1").token("nobody@example.com", badPassword).want(t, 401, "invalid_grant") // the control
		w.at("127.0.9.1").token("ada@example.com", goodPassword).want(t, 200, "")
		noSecretsIn(t, w.events("signin.refused", 10), code, handles["ada@example.com"])
		noSecretsIn(t, w.events("link.requested", 4), "nobody")

		// Beyond three letters there is no fourth, and the answer is the same.
		for range 3 {
			r := w.do("POST", "/auth/request-link", "", map[string]string{"email": "ada@example.com"}).want(t, 202, "")
			r.body = bytes.ReplaceAll(r.body, []byte(r.text(t, "handle")), []byte("HANDLE"))
			alike(t, "again", r, want)
		}
		if n := len(box.to(w, "ada@example.com", mail.SignIn)); n != 3 {
			t.Errorf("%d letters in a row", n)
		}
		w.clock.advance(16 * time.Minute)
		_, token, _ := box.letter(w, "ada@example.com")
		w.byLink(map[string]string{"token": token}).want(t, 200, "")
	})
}

// Everything that is not good is one answer with one event, and changes nothing.
func TestE_LinkRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		ada := w.person("ada", true)
		bodies := map[string]map[string]string{}
		_, used, _ := box.letter(w, "ada@example.com")
		w.byLink(map[string]string{"token": used}).want(t, 200, "")
		bodies["used"] = map[string]string{"token": used}
		bodies["made up"] = map[string]string{"token": "li_" + strings.Repeat("B", 43)}
		bodies["no handle"] = map[string]string{"handle": "lh_" + strings.Repeat("B", 43), "code": "123456"}
		bodies["nobody's"] = map[string]string{"handle": w.ask("nobody@example.com"), "code": "123456"}
		handle, _, code := box.letter(w, "ada@example.com")
		bodies["wrong code"] = map[string]string{"handle": handle, "code": otherCode(code, 1)}
		bodies["long code"] = map[string]string{"handle": handle, "code": code + "0"}
		off := w.person("off", true)
		_, token, _ := box.letter(w, "off@example.com")
		w.disable(off)
		bodies["disabled since"] = map[string]string{"token": token}
		moved := w.person("moved", true)
		handle2, token, code2 := box.letter(w, "moved@example.com")
		address := "elsewhere@example.com"
		if _, err := w.sv.Accounts.Update(t.Context(), new(role.Operator()), moved, account.Change{Email: &address}); err != nil {
			t.Fatal(err)
		}
		bodies["another address since"] = map[string]string{"token": token}
		bodies["and its code"] = map[string]string{"handle": handle2, "code": code2}
		stolen := w.person("stolen", true)
		_, token, _ = box.letter(w, "stolen@example.com")
		w.write(func(tx *db.Tx) error { // whatever changes it, and forgets the letters
			_, err := tx.Exec("UPDATE sp_accounts SET email = 'x@example.com', email_key = 'x@example.com' WHERE id = $1", stolen)
			return err
		})
		bodies["yet another address"] = map[string]string{"token": token}
		gone := w.person("gone", true)
		_, token, _ = box.letter(w, "gone@example.com")
		if err := w.sv.Accounts.Delete(t.Context(), nil, gone); err != nil {
			t.Fatal(err)
		}
		bodies["deleted since"] = map[string]string{"token": token}
		before := w.holdings()
		tr := w.trail()
		var want reply
		var secrets []string
		for _, what := range slices.Sorted(maps.Keys(bodies)) {
			began := time.Now()
			r := tr.send(what, w.request("POST", "/auth/link", "", bodies[what]))
			if d := time.Since(began); d < 100*time.Millisecond {
				t.Errorf("%s: answered after %v, before the grid", what, d)
			}
			if want.header == nil {
				want = r.want(t, 401, "invalid_token")
			}
			alike(t, what, r, want)
			for _, s := range bodies[what] {
				quiet(t, what, r, s)
				if len(s) > 6 {
					secrets = append(secrets, s)
				}
			}
		}
		w.holds(before)
		tr.audited("signin.refused", audit.Failure, secrets...)
		w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 200, "")
		if n := w.live(ada); n != 2 {
			t.Errorf("%d sessions", n)
		}
	})
}

// Of a hundred at once one gets a session: with one link, with one code; and of
// wrong codes five are looked at.
func TestE_LinkRaces(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		id := w.person("ada", true)
		race := func(what string, n int, body func(i int) map[string]string) map[int]int {
			t.Helper()
			before := w.live(id)
			var mu sync.Mutex
			var wg sync.WaitGroup
			got := map[int]int{}
			for i := range n {
				wg.Go(func() {
					r := w.byLink(body(i))
					mu.Lock()
					defer mu.Unlock()
					got[r.status]++
				})
			}
			wg.Wait()
			if now := w.live(id); got[200]+got[401] != n || now != before+got[200] {
				t.Errorf("%s: answers %v, %d new sessions", what, got, now-before)
			}
			return got
		}
		handle, token, code := box.letter(w, "ada@example.com")
		race("wrong codes", 40, func(i int) map[string]string {
			return map[string]string{"handle": handle, "code": otherCode(code, i)}
		})
		var tries int
		if _, err := d.View(t.Context()).Row("SELECT max(tries) FROM sp_mail_tokens", nil, &tries); err != nil || tries != 5 {
			t.Errorf("%d codes were counted: %v", tries, err)
		}
		looked := 0
		for _, e := range w.events("signin.refused", 40) {
			if e.Reason == "the code of the letter is not right" {
				looked++
			}
		}
		if looked != 5 {
			t.Errorf("%d codes were looked at", looked)
		}
		w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 401, "invalid_token")
		w.byLink(map[string]string{"token": token}).want(t, 200, "") // the link is no guess
		_, token, _ = box.letter(w, "ada@example.com")
		if got := race("one link", 100, func(int) map[string]string { return map[string]string{"token": token} }); got[200] != 1 {
			t.Errorf("one link: %v", got)
		}
		handle, _, code = box.letter(w, "ada@example.com")
		if got := race("one code", 100, func(int) map[string]string { return map[string]string{"handle": handle, "code": code} }); got[200] != 1 {
			t.Errorf("one code: %v", got)
		}
		w.clock.advance(16 * time.Minute)
		handle, _, code = box.letter(w, "ada@example.com")
		race("four wrong codes", 4, func(i int) map[string]string {
			return map[string]string{"handle": handle, "code": otherCode(code, i)}
		})
		w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 200, "")
	})
}

// Codes of letters, passwords and codes of the second factor count together, and a
// locked account is not signed in to by mail either.
func TestL_LockHoldsByMail(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn)
		w.person("ada", true)
		handle, token, code := box.letter(w, "ada@example.com")
		eve := w.at("127.0.1.1")
		eve.guess("ada", 3)
		for i := range 2 {
			eve.send(w.request("POST", "/auth/link", "", map[string]string{"handle": handle, "code": otherCode(code, i)})).want(t, 401, "invalid_token")
		}
		for what, body := range map[string]map[string]string{"code": {"handle": handle, "code": code}, "link": {"token": token}} {
			locked(t, what, eve.send(w.request("POST", "/auth/link", "", body)), 20*time.Second, 30*time.Second)
		}
		eve.token("ada", goodPassword).want(t, 429, "too_many_attempts")
		w.at("127.0.2.1").send(w.request("POST", "/auth/link", "", map[string]string{"handle": handle, "code": code})).want(t, 200, "")
	})
}

// A second factor is asked for after a link as after a password; what waits for it
// is bound to the address, and not to the password.
func TestT_LinkIsNoWayRound(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /strong", sallyport.MFA(), func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) })
		}, withMail(&box), withMailSignIn, noLockout, overHTTPS)
		id := w.person("ada", true)
		w.permit(id, "read:users")
		ada := w.signIn("ada", goodPassword)
		a, recovery := w.enrol(ada.access)

		_, token, _ := box.letter(w, "ada@example.com")
		r := w.byLink(map[string]string{"token": token, "scope": "read:users"}).want(t, 403, "mfa_required")
		if bytes.Contains(r.body, []byte("access_token")) || !slices.Equal(r.json(t)["mfa_methods"].([]any), []any{"totp", "recovery_code"}) {
			t.Errorf("%s", r.body)
		}
		w.byLink(map[string]string{"token": token}).want(t, 401, "invalid_token") // it goes on with the mfa_token alone
		mfa := r.text(t, "mfa_token")
		w.do("GET", "/users/me", mfa, nil).want(t, 401, "invalid_token")
		// Another password changes nothing about who reads the mail.
		w.do("PUT", "/users/me/password", ada.access, map[string]string{"current_password": goodPassword, "new_password": "another-" + goodPassword}).want(t, 204, "")
		w.verify(mfa, a.wrong()).want(t, 401, "invalid_2fa_code")
		r = w.verify(mfa, a.next()).want(t, 200, "")
		c := payloadOf(t, r.text(t, "access_token"))
		if !slices.Equal(c["amr"].([]any), []any{"email", "otp"}) || c["acr"] != "mfa" || r.text(t, "scope") != "read:users" {
			t.Errorf("%v", c)
		}
		w.do("GET", "/strong", r.text(t, "access_token"), nil).want(t, 204, "")

		// With the code beside it; a wrong one uses no link up.
		_, token, _ = box.letter(w, "ada@example.com")
		w.byLink(map[string]string{"token": token, "otp": a.wrong()}).want(t, 401, "invalid_2fa_code")
		w.byLink(map[string]string{"token": token, "otp": recovery[0]}).want(t, 200, "")
		w.byLink(map[string]string{"token": token, "otp": recovery[1]}).want(t, 401, "invalid_token")

		// It ends with the address, the account, the factor.
		due := func() string {
			w.clock.advance(16 * time.Minute)
			_, token, _ := box.letter(w, "ada@example.com")
			return w.byLink(map[string]string{"token": token}).want(t, 403, "mfa_required").text(t, "mfa_token")
		}
		change := func(address string) {
			t.Helper()
			if _, err := w.sv.Accounts.Update(t.Context(), new(role.Operator()), id, account.Change{Email: &address, EmailVerified: new(true)}); err != nil {
				t.Fatal(err)
			}
		}
		mfa = due()
		change("other@example.com")
		w.verify(mfa, recovery[2]).want(t, 401, "invalid_token")
		change("ada@example.com")
		w.verify(due(), recovery[2]).want(t, 200, "") // the control: it was not used up
		mfa = due()
		w.switchOff(id, true)
		w.verify(mfa, recovery[3]).want(t, 401, "invalid_token")
		w.switchOff(id, false)
		w.verify(due(), recovery[3]).want(t, 200, "")
		mfa = due()
		if err := w.sv.SignIn.Reset(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		w.verify(mfa, recovery[4]).want(t, 401, "invalid_token")

		// A browser's.
		w.clock.advance(16 * time.Minute)
		_, token, _ = box.letter(w, "ada@example.com")
		body := map[string]string{"token": token}
		foreign := w.send(w.browse("POST", "/auth/link?mode=cookie", "", body, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")).want(t, 403, "cross_origin")
		if foreign.header.Get("Set-Cookie") != "" {
			t.Error("another origin got a cookie")
		}
		old := cookieOf(t, w.send(w.browse("POST", "/auth/link?mode=cookie", "", body, "Origin", "https://sallyport.test")).want(t, 204, ""))
		_, token, _ = box.letter(w, "ada@example.com")
		next := cookieOf(t, w.send(w.browse("POST", "/auth/link?mode=cookie", old, map[string]string{"token": token}, "Origin", "https://sallyport.test")).want(t, 204, ""))
		if w.lives(old) || !w.lives(next) {
			t.Error("the browser's session was not replaced")
		}
	})
}

// An account that somebody registered with another's address is worth nothing to
// them once its owner has signed in by mail; one that was verified loses nothing.
func TestE_LinkClaimsAnAccount(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		for _, c := range []struct {
			name     string
			verified bool
		}{{"mallory", false}, {"ada", true}} {
			id := w.person(c.name, c.verified)
			attacker := w.signIn(c.name, goodPassword)
			a, recovery := w.enrol(attacker.access)
			key := w.key(attacker)
			pending := w.due(c.name)
			_, token, _ := box.letter(w, c.name+"@example.com")
			r := w.byLink(map[string]string{"token": token})
			if c.verified {
				r.want(t, 403, "mfa_required")
				if !w.alive(attacker.access) || !w.accepted(key.key) || w.hash(id) == "" {
					t.Error("a verified account has lost something")
				}
				w.verify(pending, a.next()).want(t, 200, "")
				w.verify(r.text(t, "mfa_token"), recovery[0]).want(t, 200, "")
				continue
			}
			r.want(t, 200, "")
			w.dead("the session of who registered", attacker)
			if w.accepted(key.key) {
				t.Error("the API key of who registered is good")
			}
			w.verify(pending, a.next()).want(t, 401, "invalid_token")
			w.form("/token", "grant_type", "password", "username", c.name, "password", goodPassword, "otp", recovery[0]).want(t, 401, "invalid_grant")
			me := w.do("GET", "/users/me", r.text(t, "access_token"), nil).want(t, 200, "").json(t)
			if me["email_verified"] != true || me["mfa_enabled"] != false || w.hash(id) != "" || w.live(id) != 1 {
				t.Errorf("%v, hash %q, %d sessions", me, w.hash(id), w.live(id))
			}
			e := w.events("account.claimed", 1)
			if len(e) != 1 || e[0].Target != id || e[0].Detail["password"] != "true" || e[0].Detail["second_factor"] != "true" || e[0].Detail["api_keys"] != "1" {
				t.Errorf("%+v", e)
			}
			var left int
			if _, err := d.View(t.Context()).Row("SELECT (SELECT count(*) FROM sp_totp) + (SELECT count(*) FROM sp_recovery_codes) + (SELECT count(*) FROM sp_api_keys)", nil, &left); err != nil || left != 0 {
				t.Errorf("%d rows of who registered: %v", left, err)
			}
			// And again: now it is hers, and stays as it is.
			w.enrol(r.text(t, "access_token"))
			_, token, _ = box.letter(w, c.name+"@example.com")
			w.byLink(map[string]string{"token": token}).want(t, 403, "mfa_required")
			w.clock.advance(16 * time.Minute)
		}
	})
}

// Off unless it is switched on, and not without mail.
func TestMailSignInIsOff(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, withMail(&box))
	w.person("ada", true)
	w.do("POST", "/auth/request-link", "", map[string]string{"email": "ada@example.com"}).want(t, 403, "mail_sign_in_off")
	w.byLink(map[string]string{"token": "li_" + strings.Repeat("A", 43)}).want(t, 403, "mail_sign_in_off")
	if got := box.to(w, "ada@example.com", mail.SignIn); len(got) != 0 {
		t.Error("a letter was sent")
	}
	cfg := w.cfg
	cfg.Mail, cfg.MailSignIn = nil, true
	if _, err := server.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "auth.mail_sign_in") {
		t.Errorf("it starts without mail: %v", err)
	}
}

// Where addresses must be verified, an account whose address is not is refused as a
// wrong password is, by every way that takes one, and counts like one.
func TestL_UnverifiedIsAWrongPassword(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, probes, withMail(&box), withMailSignIn, func(c *server.Config) { c.VerifyAddress, c.Basic = true, true })
		id := w.person("new", false)
		w.person("ada", true)
		before := w.holdings()
		tr := w.trail()
		ways := w.signInRequests("ada", badPassword)
		ways["Basic"] = w.with("GET", "/by-basic", basicValue("ada", badPassword))
		for way, req := range w.signInRequests("new", goodPassword) {
			r := tr.send(way, req)
			alike(t, way, r, w.send(ways[way]))
			quiet(t, way, r, goodPassword)
		}
		r := w.send(w.with("GET", "/by-basic", basicValue("new", goodPassword)))
		alike(t, "Basic", r, w.send(ways["Basic"]))
		w.holds(before)
		tr.audited("signin.refused", audit.Failure, goodPassword)
		reasons := 0
		for _, e := range w.events("signin.refused", 8) {
			if e.Reason == "the address is not verified" && e.Actor == id {
				reasons++
			}
		}
		if reasons != 4 {
			t.Errorf("%d events say why", reasons)
		}
		// Five failures lock, with the right password as with a wrong one.
		w.clock.advance(25 * time.Hour)
		for range 5 {
			w.dueAs("new").want(t, 401, "invalid_grant")
		}
		w.dueAs("new").want(t, 429, "too_many_attempts")
		w.signIn("ada", goodPassword)
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 204, "")

		// A password that was remembered is not, once the address is another.
		address := "unproven@example.com"
		adas := w.do("GET", "/users/me", w.signIn("ada", goodPassword).access, nil).text(t, "id")
		if _, err := w.sv.Accounts.Update(t.Context(), new(role.Operator()), adas, account.Change{Email: &address}); err != nil {
			t.Fatal(err)
		}
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 401, "invalid_token")

		// Who reads the mail gets in, and from then on is verified.
		w.clock.advance(25 * time.Hour)
		_, token, _ := box.letter(w, "new@example.com")
		access := w.byLink(map[string]string{"token": token}).want(t, 200, "").text(t, "access_token")
		if me := w.do("GET", "/users/me", access, nil).want(t, 200, "").json(t); me["email_verified"] != true {
			t.Errorf("%v", me)
		}
		w.dueAs("new").want(t, 401, "invalid_grant") // the password was not hers, as far as is known
	})
}

// An account without a password is a wrong password to whoever tries one.
func TestL_NoPasswordIsAWrongPassword(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		id := w.person("invited", true)
		w.person("ada", true)
		w.setHash(id, "")
		for way, req := range w.signInRequests("ada", badPassword) {
			want := w.send(req)
			for _, pw := range []string{goodPassword, badPassword, " "} {
				alike(t, way, w.send(w.signInRequests("invited", pw)[way]), want)
			}
		}
		_, token, _ := box.letter(w, "invited@example.com")
		w.byLink(map[string]string{"token": token}).want(t, 200, "")
	})
}
