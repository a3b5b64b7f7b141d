package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// reader reads changes as a node does.
type changesReader struct {
	t      *testing.T
	d      *db.DB
	cursor db.Cursor
}

func (r *changesReader) read() (what []string, all bool) {
	r.t.Helper()
	what, all, next, err := r.d.Changes(r.t.Context(), r.cursor)
	if err != nil {
		r.t.Fatal(err)
	}
	r.cursor = next
	return what, all
}

func (r *changesReader) want(want ...string) {
	r.t.Helper()
	what, all := r.read()
	slices.Sort(what)
	if all || !slices.Equal(what, want) {
		r.t.Fatalf("read %q (everything: %v), want %q", what, all, want)
	}
}

func change(t *testing.T, d *db.DB, what ...string) {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		for _, w := range what {
			if err := tx.Changed(w); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestChangesAreReadOnce(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		change(t, d, "before")
		r := &changesReader{t: t, d: d}
		if _, all := r.read(); !all {
			t.Fatal("the first reading must tell that everything may have changed")
		}
		r.want()
		change(t, d, "a", "b", "a")
		r.want("a", "b")
		r.want()
		boom := errors.New("boom")
		if err := d.Write(t.Context(), func(tx *db.Tx) error { return errors.Join(tx.Changed("undone"), boom) }); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		r.want()
		// All that is left is deleted, and the next one is not missed.
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("DELETE FROM sp_changes")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		r.want()
		change(t, d, "c")
		r.want("c")
		// Another epoch: a backup has been restored.
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_versions SET feed = 'another'")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, all := r.read(); !all {
			t.Fatal("another epoch was not noticed")
		}
		r.want()
	})
}

// A transaction that began first and commits last must be heard of although a
// later one has been read meanwhile.
func TestALateCommitIsNotLost(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		if d.Dialect() == db.SQLite {
			t.Skip("one writer at a time: transactions commit in the order of their changes")
		}
		r := &changesReader{t: t, d: d}
		r.read()
		begun, commit, done := make(chan struct{}), make(chan struct{}), make(chan error)
		var once sync.Once
		go func() {
			done <- d.Write(context.Background(), func(tx *db.Tx) error {
				err := tx.Changed("early")
				once.Do(func() { close(begun); <-commit })
				return err
			})
		}()
		<-begun
		change(t, d, "late")
		r.want("late")
		r.want()
		change(t, d, "later")
		r.want("later")
		close(commit)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.want("early")
		r.want()
	})
}

// Whatever writers do at once, a reader hears of each change, and only of what
// is committed.
func TestNoChangeIsLost(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		r := &changesReader{t: t, d: d}
		r.read()
		const writers, each = 6, 20
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					if err := d.Write(context.Background(), func(tx *db.Tx) error {
						err := tx.Changed(fmt.Sprintf("%d-%d", w, i))
						time.Sleep(time.Duration(w) * time.Millisecond / 2)
						return err
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		stop := make(chan struct{})
		go func() { wg.Wait(); close(stop) }()
		seen := map[string]int{}
		for last := false; ; {
			what, all := r.read()
			if all {
				t.Fatal("everything is said to have changed")
			}
			for _, w := range what {
				seen[w]++
			}
			if last {
				break
			}
			select {
			case <-stop:
				last = true
			default:
			}
		}
		if len(seen) != writers*each {
			t.Errorf("heard of %d changes of %d", len(seen), writers*each)
		}
	})
}

func TestChangesAreAnnouncedAfterTheCommitAndBeforeWriteReturns(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var heard []string
		stop := d.OnChange(func(what []string) {
			var n int
			for _, w := range what {
				if ok, err := d.View(t.Context()).Row("SELECT 1 FROM sp_changes WHERE what = $1", []any{w}, &n); err != nil || !ok {
					t.Errorf("%s was announced before it was committed (%v)", w, err)
				}
			}
			heard = append(heard, what...)
		})
		change(t, d, "a")
		if !slices.Equal(heard, []string{"a"}) {
			t.Fatalf("heard of %q", heard)
		}
		if err := d.Write(db.DryRun(t.Context()), func(tx *db.Tx) error { return tx.Changed("dry") }); err != nil {
			t.Fatal(err)
		}
		stop()
		change(t, d, "b")
		if !slices.Equal(heard, []string{"a"}) {
			t.Fatalf("heard of %q", heard)
		}
	})
}

// A poll takes no longer the more changes are kept: three hours of them. The planner of
// PostgreSQL has to see that without knowing how far they were read.
func TestAPollReadsNoOldChanges(t *testing.T) {
	t.Parallel()
	d, url := testkit.PostgresAt(t)
	raw, err := sql.Open("pgx", url+"&default_query_exec_mode=simple_protocol")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetMaxOpenConns(1)
	exec := func(statement string) {
		t.Helper()
		if _, err := raw.Exec(statement); err != nil {
			t.Fatalf("%v: %s", err, statement)
		}
	}
	plan := func(statement string) (out string) {
		t.Helper()
		exec("PREPARE p AS " + statement)
		defer exec("DEALLOCATE p")
		rows, err := raw.Query("EXPLAIN EXECUTE p(pg_current_snapshot(), TRUE, 10001)")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			out += line + "\n"
		}
		return out
	}
	exec("INSERT INTO sp_changes (what, at) SELECT 'subject ' || i, i FROM generate_series(1, 30000) i")
	exec("ANALYZE sp_changes")
	exec("SET plan_cache_mode = force_generic_plan")
	var poll string
	d.Trace(func(statement string) {
		if strings.Contains(statement, "sp_changes") {
			poll = statement
		}
	})
	(&changesReader{t: t, d: d}).read()
	d.Trace(nil)
	if got := plan(poll); strings.Contains(got, "Seq Scan on sp_changes") {
		t.Error(got)
	}
	// It can be told.
	if got := plan("SELECT what FROM sp_changes WHERE tx >= pg_snapshot_xmax(CAST($1 AS pg_snapshot)) AND $2::boolean LIMIT $3"); !strings.Contains(got, "Seq Scan on sp_changes") {
		t.Error(got)
	}
}

func TestTooManyChangesAreEverything(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		r := &changesReader{t: t, d: d}
		r.read()
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO sp_changes (what, at) WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i <= 10000) SELECT CAST(i AS TEXT), 1 FROM r")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, all := r.read(); !all {
			t.Fatal("10,001 changes were read one by one")
		}
		change(t, d, "next")
		r.want("next")
	})
}

// The clock of a node that writes may be behind, and that of one that deletes
// ahead: what another has not read yet must stay.
func TestClocksThatDifferDeleteNothingUnread(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		r := &changesReader{t: t, d: d}
		r.read()
		for what, age := range map[string]time.Duration{"unread": 2*time.Hour + db.RetainChanges/2, "old": 4 * time.Hour} {
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				_, err := tx.Exec("INSERT INTO sp_changes (what, at) VALUES ($1, $2)", what, db.Micros(time.Now().Add(-age)))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		for want := range 2 { // one is old
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				n, err := d.DeleteChanges(tx, 500)
				if n != int64(1-want) {
					t.Errorf("%d changes were deleted, want %d", n, 1-want)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		r.want("unread")
	})
}

func TestNudgesComeWithChanges(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		if d.Dialect() == db.SQLite {
			t.Skip("there are none")
		}
		ctx, cancel := context.WithCancel(t.Context())
		nudged, done := make(chan struct{}, 100), make(chan struct{})
		go func() { d.Nudges(ctx, func() { nudged <- struct{}{} }); close(done) }()
		<-nudged // it listens
		change(t, d, "a")
		select {
		case <-nudged:
		case <-time.After(10 * time.Second):
			t.Error("no notification came")
		}
		cancel()
		<-done
	})
}

// Writers who hold every connection must not keep a node from hearing of changes:
// all its requests would be refused once the lease is over.
func TestChangesAreReadWhileThePoolIsTaken(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		r := &changesReader{t: t, d: d}
		r.read()
		change(t, d, "a")
		var wg sync.WaitGroup
		goOn, in := make(chan struct{}), make(chan struct{}, 64)
		for range 64 {
			wg.Go(func() {
				if err := d.Write(context.Background(), func(*db.Tx) error {
					in <- struct{}{}
					<-goOn
					return nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		<-in
		time.Sleep(200 * time.Millisecond) // the others too, as far as they get
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		what, _, _, err := d.Changes(ctx, r.cursor)
		if err != nil || len(what) != 1 {
			t.Errorf("heard of %q: %v", what, err)
		}
		close(goOn)
		wg.Wait()
	})
}
