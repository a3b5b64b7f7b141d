package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// Where registering has been switched off, no account is made of registrations from
// before, and their letters are not sent again.
func TestE_ClosedForWhoHasRegistered(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var keys string // one file for all servers
		for _, mode := range []account.Registration{account.Invite, account.Closed} {
			var box mailbox
			open := newWorld(t, d, nil, withMail(&box), verifying, func(c *server.Config) {
				if keys != "" {
					c.MasterKeyFile = keys
				}
			})
			keys = open.cfg.MasterKeyFile
			ada, bob := "ada-"+string(mode), "bob-"+string(mode)
			open.registerSilently(ada).want(t, 202, "")
			open.registerSilently(bob).want(t, 202, "")
			token, other := box.token(open, ada+"@example.com", mail.Verify), box.token(open, bob+"@example.com", mail.Verify)
			open.sv.Close()

			w := newWorld(t, d, nil, withMail(&box), verifying, func(c *server.Config) {
				c.MasterKeyFile, c.Registration = keys, mode
			})
			for _, pw := range []string{goodPassword, ""} {
				w.prove(token, pw).want(t, 403, "registration_closed")
			}
			if _, err := w.sv.Accounts.Find(t.Context(), ada+"@example.com"); err == nil {
				t.Error("there is an account")
			}
			before := box.letters(w, ada+"@example.com")
			w.post("/auth/request-verify-token", map[string]string{"email": ada + "@example.com"}).want(t, 202, "")
			if n := box.letters(w, ada+"@example.com"); n != before {
				t.Error("the letter was sent again")
			}
			w.sv.Close()
			again := newWorld(t, d, nil, withMail(&box), verifying, func(c *server.Config) { c.MasterKeyFile = keys })
			again.prove(other, goodPassword).want(t, 200, "")
		}
	})
}

// Deleting an account does not let its address be written to anew.
func TestE_LettersStayCountedAfterDeletion(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		for range 4 {
			_, tk := w.user("ada")
			for range 3 {
				w.forgot("ada@example.com").want(t, 202, "")
			}
			box.letters(w, "ada@example.com")
			w.do("DELETE", "/users/me", tk.access, nil).want(t, 204, "")
		}
		if n := len(box.to(w, "ada@example.com", mail.Reset)); n != 3 {
			t.Errorf("%d letters, want 3", n)
		}
	})
}

// A notice of one kind comes ten times a day to an address, and not as often as
// somebody does something with an account that they made on it.
func TestE_NoticesAreCapped(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		_, tk := w.user("ada")
		change := func(i int) {
			pw := func(i int) string {
				if i == 0 {
					return goodPassword
				}
				return fmt.Sprintf("%s-%d", goodPassword, i)
			}
			w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": pw(i), "new_password": pw(i + 1)}).want(t, 204, "")
		}
		for i := range 12 {
			change(i)
		}
		if n := len(box.to(w, "ada@example.com", mail.PasswordChanged)); n != 10 {
			t.Errorf("%d notices, want 10", n)
		}
		w.clock.advance(10 * time.Minute)
		for i := range 12 {
			name := fmt.Sprint("bob", i)
			made := w.do("POST", "/auth/register", "", map[string]any{"username": name, "email": "bob@example.com", "password": goodPassword})
			made.want(t, 201, "")
			w.do("DELETE", "/users/me", w.signIn(name, goodPassword).access, nil).want(t, 204, "")
		}
		if n := len(box.to(w, "bob@example.com", mail.AccountDeleted)); n != 10 {
			t.Errorf("%d notices of deletions, want 10", n)
		}
	})
}

// Who had an account on somebody else's address is a stranger to it once its person
// has it, and where they come from again that person is told.
func TestE_PreHijackersDevice(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		w.user("ada") // by somebody else
		w.forgot("ada@example.com").want(t, 202, "")
		w.reset(box.token(w, "ada@example.com", mail.Reset), badPassword).want(t, 200, "")
		w.signIn("ada", badPassword) // by them, who have found the password out
		if n := len(box.to(w, "ada@example.com", mail.NewDevice)); n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
		w.signIn("ada", badPassword)
		if n := len(box.to(w, "ada@example.com", mail.NewDevice)); n != 1 {
			t.Errorf("%d letters, want no other", n)
		}
	})
}

// TestE_StrangersDoNotUseUpAPersonsLetters: whoever asks for letters to an address
// uses up those that strangers may ask for, and not those that its person may from
// where they sign in.
func TestE_StrangersDoNotUseUpAPersonsLetters(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn)
		home, elsewhere := w.at("203.0.113.7"), w.at("198.51.100.9")
		for path, kind := range map[string]mail.Kind{"/auth/forgot-password": mail.Reset, "/auth/request-link": mail.SignIn} {
			for _, verified := range []bool{true, false} {
				name := fmt.Sprintf("p%d%v", len(path), verified)
				address := name + "@example.com"
				id := w.register(name)
				if _, err := w.sv.Accounts.Update(t.Context(), nil, id, account.Change{EmailVerified: &verified}); err != nil {
					t.Fatal(err)
				}
				home.token(name, goodPassword).want(t, 200, "")
				ask := func(v *visitor) int {
					v.send(w.request("POST", path, "", map[string]string{"email": address})).want(t, 202, "")
					return len(box.to(w, address, kind))
				}
				for range 4 {
					ask(elsewhere)
				}
				if n := ask(elsewhere); n != 3 {
					t.Fatalf("%s: a stranger had %d letters sent, want 3", path, n)
				}
				want := 4
				if !verified { // it may be a stranger's
					want = 3
				}
				if n := ask(home); n != want {
					t.Errorf("%s, verified %v: %d letters, want %d", path, verified, n, want)
				}
				for range 4 {
					ask(home)
				}
				if n, want := ask(home), map[bool]int{true: 6, false: 3}[verified]; n != want {
					t.Errorf("%s, verified %v: %d letters from home and elsewhere, want %d", path, verified, n, want)
				}
			}
		}
	})
}

// TestA_OwnAccountByID: who may delete accounts deletes their own by its id as at
// /users/me, in a session that was signed in to a moment ago, and not with a key.
func TestA_OwnAccountByID(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.user("root", "admin")
		w.define("remover", "delete:users")
		id, tk := w.user("ada", "remover")
		other := w.register("bob")
		key := w.key(tk, "delete:users").key
		asKey := w.request("DELETE", "/users/"+id, "", nil)
		asKey.Header.Set("X-API-Key", key)
		if r := w.send(asKey); r.status != 401 && r.status != 403 {
			t.Errorf("with a key: %d %s", r.status, r.body)
		}
		w.clock.advance(11 * time.Minute)
		w.do("DELETE", "/users/"+id, tk.access, nil).want(t, 401, "insufficient_user_authentication")
		w.do("GET", "/users/me", tk.access, nil).want(t, 200, "")
		w.do("DELETE", "/users/"+other, tk.access, nil).want(t, 204, "") // another's does not take it
		w.do("DELETE", "/users/"+id, w.signIn("ada", goodPassword).access, nil).want(t, 204, "")
	})
}
