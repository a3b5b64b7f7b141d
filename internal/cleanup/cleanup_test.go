package cleanup_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

func cleaner(d *db.DB, every time.Duration, steps ...cleanup.Step) *cleanup.Cleaner {
	return cleanup.New(cleanup.Config{DB: d, Steps: steps, Every: every, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
}

// rows is a step that deletes from a number of rows, as often as it commits.
func rows(left *atomic.Int64, during func()) cleanup.Step {
	return cleanup.Step{Table: "sp_changes", Delete: func(tx *db.Tx, _ time.Time, limit int) (int64, error) {
		if during != nil {
			during()
		}
		return min(left.Load(), int64(limit)), nil
	}}
}

func round(t *testing.T, c *cleanup.Cleaner, want bool) {
	t.Helper()
	if mine, err := c.Round(t.Context()); err != nil || mine != want {
		t.Fatalf("it was its turn: %v, %v; want %v", mine, err, want)
	}
}

func exec(t *testing.T, d *db.DB, f func(tx *db.Tx) (int64, error)) {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *db.Tx) error { _, err := f(tx); return err }); err != nil {
		t.Fatal(err)
	}
}

// Of two processes one has the turn, until it gives it back.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		a, b := cleaner(d, time.Hour), cleaner(testkit.Again(t, d), time.Hour)
		for range 3 {
			round(t, a, true)
			round(t, b, false)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		a.Run(ctx) // which gives the turn back
		round(t, b, true)
		round(t, a, false)
		b.Run(ctx)
		a.Run(ctx) // whose turn it is not
		round(t, a, true)
	})
}

// The turn of a process that is gone is taken over; that of one which does
// something is not, however seldom the other looks.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		const every = 50 * time.Millisecond
		gone, alive, next := cleaner(d, every), cleaner(d, every), cleaner(d, every)
		round(t, gone, true)
		round(t, next, false)
		time.Sleep(5 * every)
		round(t, next, true)
		round(t, gone, false) // it has come back, and is one of the others
		for range 3 {
			round(t, alive, false)
			time.Sleep(5 * every)
			round(t, next, true)
		}
	})
}

// A process that stood still while another took over deletes nothing more.
func TestLostTurnIsUndone(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		exec(t, d, func(tx *db.Tx) (int64, error) { return tx.Exec("INSERT INTO sp_changes (what, at) VALUES ('x', 1)") })
		var lost atomic.Bool
		c := cleaner(d, time.Hour, cleanup.Step{Table: "sp_changes", Delete: func(tx *db.Tx, _ time.Time, limit int) (int64, error) {
			if lost.Load() { // as another process would, which cannot on SQLite while we write
				if _, err := tx.Exec("UPDATE sp_cleanup SET holder = 'another'"); err != nil {
					return 0, err
				}
			}
			return tx.Exec("DELETE FROM sp_changes WHERE what = 'x'")
		}}, cleanup.Step{Table: "never", Run: func(context.Context) (int64, error) {
			if lost.Load() {
				t.Error("it goes on")
			}
			return 0, nil
		}})
		left := func() (n int) {
			if _, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_changes", nil, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		lost.Store(true)
		if round(t, c, true); left() != 1 {
			t.Error("what it deleted without the turn is gone")
		}
		lost.Store(false)
		if round(t, c, true); left() != 0 {
			t.Error("with the turn it deletes nothing")
		}
	})
}

// What fails in one table keeps no other from being cleaned; it is told, and the
// round does not count as done.
func TestFailureOfOneTable(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	var ran atomic.Int64
	var fails atomic.Bool
	fails.Store(true)
	c := cleaner(d, time.Hour, cleanup.Step{Table: "first", Delete: func(*db.Tx, time.Time, int) (int64, error) {
		if fails.Load() {
			return 0, errors.New("no room")
		}
		return 0, nil
	}}, cleanup.Step{Table: "second", Run: func(context.Context) (int64, error) { return ran.Add(1), nil }})
	age := func() (told bool) {
		for _, f := range c.Measure(d.View(t.Context())) {
			told = told || f.Name == "sallyport_cleanup_age_seconds" && len(f.Points) == 1
		}
		return told
	}
	if mine, err := c.Round(t.Context()); !mine || err == nil || !strings.Contains(err.Error(), "first: no room") || ran.Load() != 1 || age() {
		t.Errorf("%v, %v; the second ran %d times; told: %v", mine, err, ran.Load(), age())
	}
	fails.Store(false)
	if round(t, c, true); ran.Load() != 2 || !age() {
		t.Errorf("the second ran %d times; told: %v", ran.Load(), age())
	}
}

// A long round counts as it goes, so that nobody takes it for dead, and ends when
// the process does.
func TestLongRound(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	beat := func() (n int) {
		if _, err := d.View(t.Context()).Row("SELECT beat FROM sp_cleanup", nil, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var endless, calls atomic.Int64
	endless.Store(1 << 40)
	ctx, cancel := context.WithCancel(t.Context())
	c := cleaner(d, time.Hour, rows(&endless, func() {
		if calls.Add(1) == 20 {
			cancel()
		}
	}))
	if mine, err := c.Round(ctx); !mine || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", mine, err)
	}
	if n := beat(); n < 20 {
		t.Errorf("it counted %d times", n)
	}
}
