package link_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// Of tokens without an account, those that set a service up are good, and no other.
func TestSetupTokens(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		if _, err := d.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		s := link.New(link.Config{Key: make([]byte, 32), Now: func() time.Time { return now }})
		write := func(f func(tx *db.Tx) error) {
			t.Helper()
			if err := d.Write(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		good := func(p link.Purpose, token string) bool {
			t.Helper()
			_, ok, err := s.Find(d.View(t.Context()), p, token)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		setup, decoy := link.Make(link.Setup), link.Make(link.Reset)
		write(func(tx *db.Tx) error {
			if _, err := s.Store(tx, decoy, link.Grant{Address: "nobody@example.com"}, link.MaxLife); err != nil {
				return err
			}
			return s.StoreSetup(tx, setup, link.MaxLife)
		})
		if !good(link.Setup, setup.Token) || good(link.Reset, decoy.Token) || good(link.Setup, decoy.Token) || good(link.Reset, setup.Token) {
			t.Error("a token is good for what it must not be, or not for what it is")
		}
		now = now.Add(link.MaxLife - time.Second)
		if !good(link.Setup, setup.Token) {
			t.Error("it is over too soon")
		}
		now = now.Add(time.Second)
		if good(link.Setup, setup.Token) {
			t.Error("it is not over")
		}
		now = now.Add(-time.Minute)
		used := 0
		for range 2 {
			ok := false
			write(func(tx *db.Tx) (err error) {
				_, ok, err = s.Use(tx, link.Setup, setup.Token)
				return err
			})
			if ok {
				used++
			}
		}
		if used != 1 {
			t.Errorf("it was used %d times", used)
		}
		// Not counted as letters are: a server that starts often has a link each time.
		var all []link.Secret
		for range 12 {
			all = append(all, link.Make(link.Setup))
			write(func(tx *db.Tx) error { return s.StoreSetup(tx, all[len(all)-1], link.MaxLife) })
		}
		if !good(link.Setup, all[0].Token) || !good(link.Setup, all[11].Token) {
			t.Error("one of several is not good")
		}
		write(s.VoidSetup)
		for _, secret := range all {
			if good(link.Setup, secret.Token) {
				t.Error("one is good though all were made worthless")
			}
		}
	})
}
