package db_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// scratch makes a table of the tests' own.
func scratch(t testing.TB, d *db.DB) *db.DB {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec("CREATE TABLE scratch (name TEXT PRIMARY KEY, version BIGINT NOT NULL)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return d
}

func put(name string, version int64) func(*db.Tx) error {
	return func(tx *db.Tx) error {
		n, err := tx.Exec("INSERT INTO scratch (name, version) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, version)
		if err == nil && n != 1 {
			err = fmt.Errorf("%s exists", name)
		}
		return err
	}
}

func names(t *testing.T, d *db.DB) (out []string) {
	t.Helper()
	err := d.View(t.Context()).Rows("SELECT name FROM scratch ORDER BY name", nil, func(scan db.Scan) error {
		var n string
		err := scan(&n)
		out = append(out, n)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWriteCommitsOrUndoesAll(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		boom := errors.New("boom")
		if err := d.Write(t.Context(), put("kept", 1)); err != nil {
			t.Fatal(err)
		}
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			if err := put("lost", 1)(tx); err != nil {
				return err
			}
			return boom
		})
		if err != boom {
			t.Fatalf("got %v, want the function's own error", err)
		}
		if got := names(t, d); !slices.Equal(got, []string{"kept"}) {
			t.Fatalf("rows: %v", got)
		}
	})
}

// PostgreSQL ends a transaction at its first error; SQLite would go on. Both
// must undo it, even if the function ignores the error.
func TestFirstErrorSticks(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, _ = tx.Exec("INSERT INTO scratch (name, version) VALUES ('a', 1)")
			_, _ = tx.Exec("INSERT INTO scratch (name, version) VALUES ('a', 1)") // violates the key
			if _, err := tx.Exec("INSERT INTO scratch (name, version) VALUES ('b', 1)"); err == nil {
				t.Error("a statement ran after an error")
			}
			return nil
		})
		if _, ok := errors.AsType[*db.Error](err); !ok {
			t.Fatalf("got %v, want a *db.Error", err)
		}
		if got := names(t, d); len(got) != 0 {
			t.Fatalf("rows: %v", got)
		}
	})
}

func TestPanicIsTheCallersAlone(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		func() {
			defer func() {
				if p := recover(); p != "x" {
					t.Errorf("recovered %v, want the original value", p)
				}
			}()
			_ = d.Write(t.Context(), func(tx *db.Tx) error {
				_ = put("lost", 1)(tx)
				panic("x")
			})
		}()
		if err := d.Write(t.Context(), put("kept", 1)); err != nil {
			t.Fatal(err)
		}
		if got := names(t, d); !slices.Equal(got, []string{"kept"}) {
			t.Fatalf("rows: %v", got)
		}
	})
}

// One group: good, error, constraint ignored, panic, good. Only the good stay.
func TestGroupKeepsJobsApart(t *testing.T) {
	d := scratch(t, testkit.SQLite(t))
	hold, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = d.Write(context.Background(), func(*db.Tx) error { close(held); <-hold; return nil })
	})
	<-held
	jobs := []func(*db.Tx) error{
		put("a", 1),
		func(tx *db.Tx) error { _ = put("b", 1)(tx); return errors.New("no") },
		func(tx *db.Tx) error {
			_, _ = tx.Exec("INSERT INTO scratch (name, version) VALUES ('a', 2)")
			return nil
		},
		func(tx *db.Tx) error { _ = put("d", 1)(tx); panic("x") },
		put("e", 1),
	}
	failed := make([]bool, len(jobs))
	for i, fn := range jobs {
		wg.Go(func() {
			defer func() {
				if recover() != nil {
					failed[i] = true
				}
			}()
			failed[i] = d.Write(context.Background(), fn) != nil
		})
		time.Sleep(5 * time.Millisecond) // into the queue in order; only the order depends on it
	}
	close(hold)
	wg.Wait()
	if want := []bool{false, true, true, true, false}; !slices.Equal(failed, want) {
		t.Errorf("failed: %v, want %v", failed, want)
	}
	if got := names(t, d); !slices.Equal(got, []string{"a", "e"}) {
		t.Errorf("rows: %v", got)
	}
}

// A full file ends SQLite's whole transaction under the job that filled it. The
// others of its group must not be lost.
func TestEngineRollbackDoesNotTakeTheGroup(t *testing.T) {
	d := scratch(t, testkit.SQLite(t))
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		var pages int
		_, err := tx.Row("PRAGMA max_page_count=120", nil, &pages)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = d.Write(context.Background(), func(*db.Tx) error { close(held); <-hold; return nil })
	})
	<-held
	var before, full, after error
	wg.Go(func() { before = d.Write(context.Background(), put("before", 1)) })
	time.Sleep(5 * time.Millisecond)
	wg.Go(func() {
		full = d.Write(context.Background(), func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO scratch WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i < 20000) SELECT 'x' || i || hex(zeroblob(200)), 1 FROM r")
			return err
		})
	})
	time.Sleep(5 * time.Millisecond)
	wg.Go(func() { after = d.Write(context.Background(), put("later", 1)) })
	time.Sleep(5 * time.Millisecond)
	close(hold)
	wg.Wait()
	if full == nil {
		t.Error("the file was not full: the test proves nothing")
	}
	if before != nil || after != nil {
		t.Errorf("innocent jobs failed: %v, %v", before, after)
	}
	if got := names(t, d); !slices.Equal(got, []string{"before", "later"}) {
		t.Errorf("rows: %v", got)
	}
}

func TestCancelledContextIsCheckedBeforeTheJob(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Write(ctx, put("a", 1)); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		// Cancelled inside: the work goes on, and its outcome is told.
		ctx, cancel = context.WithCancel(t.Context())
		err := d.Write(ctx, func(tx *db.Tx) error { cancel(); return put("b", 1)(tx) })
		if err != nil {
			t.Fatal(err)
		}
		if got := names(t, d); !slices.Equal(got, []string{"b"}) {
			t.Fatalf("rows: %v", got)
		}
	})
}

// Two transactions that each look whether another row is left and then delete
// one: only a serializable database keeps the last.
func TestLastRowStays(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		for round := range 10 {
			a, b := fmt.Sprint("a", round), fmt.Sprint("b", round)
			for _, n := range []string{a, b} {
				if err := d.Write(t.Context(), put(n, int64(round+100))); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for _, n := range []string{a, b} {
				wg.Go(func() {
					_ = d.Write(context.Background(), func(tx *db.Tx) error {
						var left int
						if _, err := tx.Row("SELECT count(*) FROM scratch WHERE version = $1", []any{round + 100}, &left); err != nil {
							return err
						}
						if left < 2 {
							return errors.New("the last one stays")
						}
						_, err := tx.Exec("DELETE FROM scratch WHERE name = $1", n)
						return err
					})
				})
			}
			wg.Wait()
			var left int
			if _, err := d.View(t.Context()).Row("SELECT count(*) FROM scratch WHERE version = $1", []any{round + 100}, &left); err != nil {
				t.Fatal(err)
			}
			if left != 1 {
				t.Fatalf("round %d: %d rows left, want 1", round, left)
			}
		}
	})
}

func TestManyWritersLoseNothing(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		if err := d.Write(t.Context(), put("n", 0)); err != nil {
			t.Fatal(err)
		}
		var ok atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 {
					err := d.Write(context.Background(), func(tx *db.Tx) error {
						var n int64
						if _, err := tx.Row("SELECT version FROM scratch WHERE name = 'n'", nil, &n); err != nil {
							return err
						}
						_, err := tx.Exec("UPDATE scratch SET version = $1 WHERE name = 'n'", n+1)
						return err
					})
					if err == nil {
						ok.Add(1)
					}
				}
			})
		}
		wg.Wait()
		var n int64
		if _, err := d.View(t.Context()).Row("SELECT version FROM scratch WHERE name = 'n'", nil, &n); err != nil {
			t.Fatal(err)
		}
		if n != ok.Load() || n == 0 {
			t.Fatalf("counted %d, acknowledged %d", n, ok.Load())
		}
	})
}

func TestCloseDrainsAndRefuses(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := scratch(t, testkit.SQLite(t))
	if err := d.Write(t.Context(), put("a", 1)); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), put("b", 1)); !errors.Is(err, db.ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
}

func TestMigrateIsIdempotentAndRefusesANewerSchema(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		created, err := d.Migrate(t.Context())
		if err != nil || created {
			t.Fatalf("second run: created=%v err=%v", created, err)
		}
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO sp_migrations (version_id, is_applied) VALUES (9999, TRUE)")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		_, err = d.Migrate(t.Context())
		if e, ok := errors.AsType[*db.OpenError](err); !ok || e.Unreachable {
			t.Fatalf("got %v, want an *OpenError that says the schema is newer", err)
		}
	})
}
