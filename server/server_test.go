package server_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// The main path from nothing to a dead session, on both databases.
func TestFromRegistrationToLogout(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, tk := w.user("ada")
		me := w.do("GET", "/users/me", tk.access, nil).want(t, 200, "").json(t)
		if me["id"] != id || me["username"] != "ada" || me["email"] != "ada@example.com" || me["last_login_at"] == nil {
			t.Fatalf("me: %v", me)
		}
		w.do("GET", "/users", tk.access, nil).want(t, 403, "insufficient_permission")
		w.grant(id, "moderator")
		w.do("GET", "/users", tk.access, nil).want(t, 200, "")

		r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
		next := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		if next.refresh == tk.refresh || !w.alive(next.access) {
			t.Fatal("the refresh gave nothing new")
		}
		w.clock.advance(11 * time.Second)
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 401, "invalid_token")
		if w.alive(next.access) {
			t.Fatal("a reused refresh token left the family alive")
		}
		w.events("refresh.reused", 1)

		tk = w.signIn("ada@example.com", goodPassword)
		w.do("POST", "/logout", tk.access, nil).want(t, 200, "")
		if w.alive(tk.access) {
			t.Fatal("the access token lives after logout")
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 401, "invalid_token")
	})
}
