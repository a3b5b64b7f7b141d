package server_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

func verifying(c *server.Config) { c.VerifyAddress = true }

// verifiedUser registers an address where addresses are verified, and verifies it.
func (w *world) verifiedUser(box *mailbox, name string) (id string) {
	w.t.Helper()
	address := name + "@example.com"
	w.do("POST", "/auth/register", "", map[string]any{"username": name, "email": address, "password": goodPassword}).want(w.t, 202, "")
	return w.do("POST", "/auth/verify", "", map[string]any{"token": box.token(w, address, mail.Verify), "password": goodPassword}).want(w.t, 200, "").text(w.t, "id")
}

func TestE_Flow(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		w.verifiedUser(&box, "ada")
		tk := w.signIn("ada", goodPassword)
		w.do("POST", "/auth/forgot-password", "", map[string]any{"email": "ADA@example.com"}).want(t, 202, "")
		w.do("POST", "/auth/reset-password", "", map[string]any{"token": box.token(w, "ada@example.com", mail.Reset), "password": badPassword}).want(t, 200, "")
		if w.alive(tk.access) {
			t.Error("alive")
		}
		tk = w.signIn("ada", badPassword)
		w.do("PATCH", "/users/me", tk.access, map[string]any{"email": "ada@example.org"}).want(t, 200, "")
		w.do("POST", "/auth/verify", "", map[string]any{"token": box.token(w, "ada@example.org", mail.ChangeAddress), "password": badPassword}).want(t, 200, "")
		r := w.do("GET", "/users/me/export", tk.access, nil).want(t, 200, "")
		t.Logf("%s", r.body)
		w.do("DELETE", "/users/me", tk.access, nil).want(t, 204, "")
		t.Log(len(box.to(w, "ada@example.org", mail.AccountDeleted)))
	})
}
