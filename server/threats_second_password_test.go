package server_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// A change of the password does not let codes that failed be forgotten: who is in
// somebody's session and knows the password could else guess at the code without
// end.
func TestT_PasswordChangeBuysNoGuesses(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		a, _ := w.enrol(ada.access)
		for range 4 {
			w.do("POST", "/2fa/recovery-codes", ada.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
		}
		w.do("PUT", "/users/me/password", ada.access, map[string]string{"current_password": goodPassword, "new_password": "another-" + goodPassword}).want(t, 204, "")
		w.do("POST", "/2fa/recovery-codes", ada.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
		w.do("POST", "/2fa/recovery-codes", ada.access, map[string]string{"code": a.code(1)}).want(t, 429, "too_many_attempts")
		w.do("PUT", "/users/me/password", ada.access, map[string]string{"current_password": "another-" + goodPassword, "new_password": goodPassword}).want(t, 429, "too_many_attempts")

		// Without a second factor the password is all there is.
		_, bob := w.user("bob")
		change := func(from, to string) reply {
			return w.do("PUT", "/users/me/password", bob.access, map[string]string{"current_password": from, "new_password": to})
		}
		for range 4 {
			change("not the password", goodPassword).want(t, 401, "wrong_password")
		}
		change(goodPassword, "another-"+goodPassword).want(t, 204, "")
		for range 4 {
			change("not the password", goodPassword).want(t, 401, "wrong_password")
		}
		change("another-"+goodPassword, goodPassword).want(t, 204, "")
	})
}
