package server_test

import (
	"testing"

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
