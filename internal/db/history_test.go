package db_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// What a node has seen and what is gone is noticed where the server is another one,
// or was started anew, and only there; a settled database is not taken for one that
// went back, nor is one whose old changes were swept.
func TestWentBack(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, d *db.DB, fn func(*db.Tx) error) {
		t.Helper()
		if err := d.Write(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	lose := func(tx *db.Tx) error {
		_, err := tx.Exec("DELETE FROM sp_changes WHERE what = 'lost'")
		return err
	}
	read := func(t *testing.T, d *db.DB, after db.Cursor) (db.Cursor, *db.WentBack) {
		t.Helper()
		_, _, next, err := d.Changes(t.Context(), after)
		lost, ok := errors.AsType[*db.WentBack](err)
		if err != nil && !ok {
			t.Fatal(err)
		}
		return next, lost
	}
	own := func(d *db.DB) *db.DB { return d }
	another := func(t *testing.T) func(d *db.DB) *db.DB {
		return func(d *db.DB) *db.DB { return testkit.Again(t, d) }
	}
	for _, c := range []struct {
		name   string
		writer func(*db.DB) *db.DB // who has made the change that is lost
		then   func(t *testing.T, d *db.DB)
		lost   bool
	}{
		{"own change", own, func(t *testing.T, d *db.DB) { write(t, d, lose) }, true},
		{"another node's", another(t), func(t *testing.T, d *db.DB) { write(t, d, lose) }, true},
		{"nothing is lost", own, func(*testing.T, *db.DB) {}, false},
		{"an earlier one was swept", own, func(t *testing.T, d *db.DB) {
			write(t, d, func(tx *db.Tx) error {
				_, err := tx.Exec("DELETE FROM sp_changes WHERE what = 'earlier'")
				return err
			})
		}, false},
		{"settled", own, func(t *testing.T, d *db.DB) {
			write(t, d, lose)
			write(t, d, db.NewFeed)
		}, false},
		{"an earlier feed", own, func(t *testing.T, d *db.DB) {
			write(t, d, func(tx *db.Tx) error {
				_, err := tx.Exec("UPDATE sp_versions SET feed = '0'")
				return err
			})
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := testkit.Postgres(t)
			other := testkit.Again(t, d)
			change(t, other, "earlier") // before this process was there
			write(t, d, db.NewFeed)
			cursor, _ := read(t, d, db.Cursor{})
			change(t, c.writer(d), "lost")
			cursor, lost := read(t, d, cursor)
			if lost != nil {
				t.Fatalf("before anything happened: %v", lost)
			}
			c.then(t, d)
			if _, lost := read(t, d, cursor); lost != nil && c.name != "an earlier feed" {
				t.Fatalf("the same server: %v", lost) // it is asked only where it may be another
			}
			db.AnotherServer(&cursor)
			next, lost := read(t, d, cursor)
			if (lost != nil) != c.lost {
				t.Fatalf("another server: %v, want that it went back: %v", lost, c.lost)
			}
			if !c.lost {
				return
			}
			if c.name != "an earlier feed" && (lost.Change != "lost" || time.Since(lost.At) > time.Minute) {
				t.Errorf("missing: %q of %v", lost.Change, lost.At)
			}
			if next != cursor {
				t.Error("the reading has counted")
			}
			behind := func(fn func(*db.Tx) error) {
				t.Helper()
				if err := d.WriteBehind(t.Context(), fn); err != nil {
					t.Fatal(err)
				}
			}
			// One node sees to it; nothing is believed until it is done.
			if err := d.Write(t.Context(), func(*db.Tx) error { return nil }); err == nil || !strings.Contains(err.Error(), "is being found out") {
				t.Errorf("a request writes meanwhile: %v", err)
			}
			if err := d.Ping(t.Context()); err == nil {
				t.Error("a request reads meanwhile")
			}
			ours := []bool{false, false}
			for i := range ours {
				behind(func(tx *db.Tx) (err error) {
					ours[i], err = db.Unsettle(tx, lost, time.Now())
					return err
				})
			}
			if !ours[0] || ours[1] {
				t.Errorf("marked: %v, want once", ours)
			}
			for _, node := range []*db.DB{d, other} {
				if _, _, _, err := node.Changes(t.Context(), db.Cursor{}); !errors.Is(err, db.ErrUnsettled) {
					t.Errorf("unsettled: %v", err)
				}
			}
			behind(func(tx *db.Tx) error { _, err := db.Settled(tx); return err })
			if _, all, _, err := d.Changes(t.Context(), cursor); err != nil || !all {
				t.Errorf("settled: %v, and everything may have changed: %v", err, all)
			}
			write(t, d, func(*db.Tx) error { return nil }) // requests do again
			behind(func(tx *db.Tx) (err error) {
				ours[0], err = db.Unsettle(tx, lost, time.Now())
				return err
			})
			if ours[0] {
				t.Error("a node that comes late has begun anew")
			}
			// Nor does one that settles late: what it would say is that all is well.
			_, _, settled, err := d.Changes(t.Context(), db.Cursor{})
			if err != nil {
				t.Fatal(err)
			}
			behind(func(tx *db.Tx) error {
				again, err := db.Settled(tx)
				if again {
					t.Error("settled twice")
				}
				return err
			})
			if _, all, _, err := d.Changes(t.Context(), settled); err != nil || all {
				t.Errorf("settled late: %v, and everything may have changed: %v", err, all)
			}
		})
	}
}

// Feeds go forward also where clocks do not.
func TestFeedsGoForward(t *testing.T) {
	d := testkit.SQLite(t)
	feed := ""
	for range 3 {
		before := feed
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			if before == "" { // as a clock would have made it that is far ahead
				if _, err := tx.Exec("UPDATE sp_versions SET feed = 'ffffffff'"); err != nil {
					return err
				}
				before = "ffffffff"
			}
			if err := db.NewFeed(tx); err != nil {
				return err
			}
			_, err := tx.Row("SELECT feed FROM sp_versions", nil, &feed)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if feed <= before {
			t.Errorf("%q after %q", feed, before)
		}
	}
}
