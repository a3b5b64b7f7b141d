package server_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
)

// TestR_ReuseOfARefreshTokenIsToldToItsPerson: one letter, to the account's address,
// and none for a refresh that is repeated in time.
func TestR_ReuseOfARefreshTokenIsToldToItsPerson(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		_, first := w.user("ada")
		second := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": first.refresh}).want(t, 200, "")
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": first.refresh}).want(t, 200, "")
		if got := box.to(w, "ada@example.com", mail.RefreshReused); len(got) != 0 {
			t.Fatalf("%d letters of a lost response", len(got))
		}
		w.clock.advance(11 * time.Second)
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": first.refresh}).want(t, 401, "")
		if got := box.to(w, "ada@example.com", mail.RefreshReused); len(got) != 1 {
			t.Fatalf("%d letters, want 1", len(got))
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": second.text(t, "refresh_token")}).want(t, 401, "")
		w.events("mail.sent", 1)
	})
}
