package server_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// What becomes of a database that has lost changes (letter F of the threat list).
// cmd/sallyport has the same with a standby that was behind.

// goBack makes the database one of before it was settled, which the server has seen,
// and waits for what comes of it.
func goBack(t *testing.T, s *settleWorld, wait string) *db.DB {
	t.Helper()
	other := testkit.Again(t, s.db)
	write := func(fn func(tx *db.Tx) error) {
		t.Helper()
		if err := other.Write(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	write(db.NewFeed)
	time.Sleep(s.sv.Lease()) // by then it has read that
	write(func(tx *db.Tx) error { _, err := tx.Exec("UPDATE sp_versions SET feed = '0'"); return err })
	for deadline := time.Now().Add(20 * time.Second); count(t, other, wait) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there is no %s", wait)
		}
	}
	time.Sleep(s.sv.Lease()) // it believes the database again
	return other
}

func count(t *testing.T, d *db.DB, action string) (n int) {
	t.Helper()
	if _, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_audit WHERE action = $1", []any{action}, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestF_ADatabaseThatWentBackLosesItsSessions(t *testing.T) {
	t.Parallel()
	s := newSettleWorld(t, testkit.Postgres(t))
	if !s.alive(s.ada.access) || !s.alive(s.bob.access) || s.count("links") != 1 {
		t.Fatal("before anything happened, something is not good that should be")
	}
	other := goBack(t, s, "database.settled")
	s.dead("a session", s.ada)
	s.dead("another's", s.bob)
	s.verify(s.pending, s.app.code(0)).want(t, 401, "")
	if n := s.count("links"); n != 0 {
		t.Errorf("%d links are left", n)
	}
	if !s.accepted(s.key.key) {
		t.Error("an API key was ended, which is the operator's to decide")
	}
	if n := count(t, other, "database.went_back"); n != 1 {
		t.Errorf("%d events", n)
	}
	if tk := s.signIn("bob", goodPassword); !s.alive(tk.access) {
		t.Error("a new session does not hold")
	}
}

func TestF_ADatabaseThatWentBackIsOnlyLogged(t *testing.T) {
	t.Parallel()
	s := &settleWorld{}
	s.world = newWorld(t, testkit.Postgres(t), nil, func(c *server.Config) { c.OnLostHistory = server.OnlyLog })
	_, tk := s.user("ada")
	other := goBack(t, s, "database.went_back")
	if !s.alive(tk.access) {
		t.Error("a session was ended")
	}
	if n := count(t, other, "database.went_back") + count(t, other, "database.settled"); n != 1 {
		t.Errorf("%d events", n)
	}
}

// A feed that a clock which was ahead has named is later than all that come: where the
// database goes back to before it, that is settled once.
func TestF_AFeedAheadIsSettledOnce(t *testing.T) {
	t.Parallel()
	s := newSettleWorld(t, testkit.Postgres(t))
	other := testkit.Again(t, s.db)
	set := func(feed string) {
		t.Helper()
		if err := other.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_versions SET feed = $1", feed)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	set("ffffffff-ahead")
	time.Sleep(3 * s.sv.Lease())
	set("0")
	for end := time.Now().Add(20 * time.Second); count(t, other, "database.settled") == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was never settled")
		}
	}
	time.Sleep(4 * s.sv.Lease()) // several more readings
	if back, settled := count(t, other, "database.went_back"), count(t, other, "database.settled"); back != 1 || settled != 1 {
		t.Errorf("went back %d times and was settled %d times", back, settled)
	}
	if tk := s.signIn("bob", goodPassword); !s.alive(tk.access) {
		t.Error("a new session does not hold")
	}
}

// A node that dies over it leaves a mark: whoever starts next ends what is left
// before anybody is let in.
func TestF_AnEndingThatWasInterruptedIsFinished(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, tk := w.user("ada")
		w.sv.Close()
		if err := d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec("UPDATE sp_versions SET unsettled = 1"); return err }); err != nil {
			t.Fatal(err)
		}
		again := newWorld(t, d, nil, func(c *server.Config) { c.MasterKeyFile = w.cfg.MasterKeyFile })
		again.dead("a session", tk)
		if n := count(t, d, "database.settled"); n != 1 {
			t.Errorf("%d events", n)
		}
		if tk := again.signIn("ada", goodPassword); !again.alive(tk.access) {
			t.Error("a new session does not hold")
		}
	})
}
