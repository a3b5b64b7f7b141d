package server

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/internal/testkit"
)

// onlyAda is a table of users with one.
type onlyAda string

func (hash onlyAda) ByID(context.Context, string) (account.OwnUser, bool, error) {
	return account.OwnUser{ID: "1", Username: "ada", Hash: string(hash)}, true, nil
}

func (hash onlyAda) ByLogin(ctx context.Context, login string) (account.OwnUser, bool, error) {
	u, _, err := hash.ByID(ctx, "1")
	return u, login == "ada", err
}

func (onlyAda) UpdateHash(context.Context, string, string, string) (bool, error) { return true, nil }

// A name and password are remembered until something changes here. Where a table of
// users decides, they are looked at again after a minute, too.
func TestBasicIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	const pw = "violet-anchor-97-marmalade"
	hash, err := bcrypt.GenerateFromPassword([]byte(pw), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{
		DB: testkit.SQLite(t), BaseURL: "http://sallyport.test", MasterKeyFile: filepath.Join(t.TempDir(), "master.key"), Users: onlyAda(hash),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	v, err := s.SignIn.Basic(t.Context(), "ada", pw)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.confirmPassword(s.DB.View(t.Context()), v)
	if in := time.Until(st.Until); err != nil || in <= 0 || in > lookAgain {
		t.Errorf("looked at again in %v: %v", in, err)
	}
	s.cfg.Users = nil
	if st, err = s.confirmPassword(s.DB.View(t.Context()), v); err != nil || !st.Until.IsZero() {
		t.Errorf("without a table, looked at again at %v: %v", st.Until, err)
	}
}
