package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/netfault"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/store/postgres"
)

// table returns a database through a proxy with a table t of one number, at most 9.
func table(t *testing.T) (*db.DB, *netfault.Proxy) {
	t.Helper()
	name := testkit.PostgresURL(t)
	raw, err := sql.Open("pgx", name)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Exec("CREATE TABLE t (n BIGINT NOT NULL CHECK (n < 10))"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	through, err := netfault.New(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(through.Close)
	u.Host = through.Addr()
	d, err := postgres.Open(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, through
}

func numbers(t *testing.T, rd db.Reader) string {
	t.Helper()
	var all []int64
	if err := rd.Rows("SELECT n FROM t ORDER BY n", nil, func(scan db.Scan) error {
		var n int64
		err := scan(&n)
		all = append(all, n)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(all)
}

// Begin goes with the first statement, commit with the last, and what nobody waits for
// with either.
func TestMessagesOfATransaction(t *testing.T) {
	d, through := table(t)
	write := func(fn func(*db.Tx) error) func() error {
		return func() error { return d.Write(t.Context(), fn) }
	}
	boom := errors.New("boom")
	var n int64
	for _, tt := range []struct {
		name string
		want int64
		err  error
		left string
		do   func() error
	}{
		{"nothing", 0, nil, "[2]", write(func(*db.Tx) error { return nil })},
		{"nothing, and an error", 0, boom, "[2]", write(func(*db.Tx) error { return boom })},
		{"put off and given up", 0, boom, "[2]", write(func(tx *db.Tx) error {
			return errors.Join(tx.Later("INSERT INTO t VALUES (9)"), boom)
		})},
		{"two that nobody waits for", 1, nil, "[1 2 3]", write(func(tx *db.Tx) error {
			return errors.Join(tx.Later("INSERT INTO t VALUES ($1)", 1), tx.Later("INSERT INTO t VALUES ($1)", 3))
		})},
		{"a read", 2, nil, "[2]", write(func(tx *db.Tx) error {
			_, err := tx.Row("SELECT n FROM t WHERE n = $1", []any{2}, &n)
			return err
		})},
		{"a refresh: a read, an update and an event", 3, nil, "[3 4]", write(func(tx *db.Tx) error {
			if _, err := tx.Row("SELECT n FROM t WHERE n = $1", []any{2}, &n); err != nil {
				return err
			}
			if changed, err := tx.Exec("UPDATE t SET n = 3 WHERE n = $1", n); err != nil || changed != 1 {
				return fmt.Errorf("%d changed: %v", changed, err)
			}
			return tx.Later("INSERT INTO t VALUES ($1)", 4)
		})},
		{"an error after a write", 2, boom, "[2]", write(func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO t VALUES ($1)", 5)
			return errors.Join(err, boom)
		})},
	} {
		for _, run := range []string{"prepares", "is counted"} {
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				return errors.Join(tx.Later("DELETE FROM t"), tx.Later("INSERT INTO t VALUES (2)"))
			}); err != nil {
				t.Fatal(err)
			}
			before := through.Trips()
			if err := tt.do(); !errors.Is(err, tt.err) {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if sent := through.Trips() - before; run == "is counted" && sent != tt.want {
				t.Errorf("%s: %d messages, want %d", tt.name, sent, tt.want)
			}
			if got := numbers(t, d.View(t.Context())); got != tt.left {
				t.Errorf("%s: the table has %s, want %s", tt.name, got, tt.left)
			}
		}
	}
}

// What was put off fails whatever it travels with, and the transaction with it.
func TestPutOffAndRefused(t *testing.T) {
	d, _ := table(t)
	refused := func(tx *db.Tx) error { return tx.Later("INSERT INTO t VALUES (10)") }
	for name, with := range map[string]func(tx *db.Tx) error{
		"commit":     func(*db.Tx) error { return nil },
		"a write":    func(tx *db.Tx) error { _, err := tx.Exec("INSERT INTO t VALUES (2)"); return err },
		"a read":     func(tx *db.Tx) error { _, err := tx.Row("SELECT 1", nil, new(int)); return err },
		"rows":       func(tx *db.Tx) error { return tx.Rows("SELECT 1", nil, func(db.Scan) error { return nil }) },
		"one unseen": func(tx *db.Tx) error { _, _ = tx.Row("SELECT 1", nil, new(int)); return nil },
		"a later one": func(tx *db.Tx) error {
			if _, err := tx.Exec("INSERT INTO t VALUES (3)"); err != nil {
				return err
			}
			return refused(tx)
		},
	} {
		for _, ctx := range []context.Context{t.Context(), db.Loosely(t.Context()), db.DryRun(t.Context())} {
			err := d.Write(ctx, func(tx *db.Tx) error {
				if err := tx.Later("INSERT INTO t VALUES (1)"); err != nil {
					return err
				}
				if err := refused(tx); err != nil {
					t.Errorf("%s: it was not put off: %v", name, err)
				}
				return with(tx)
			})
			if e, ok := errors.AsType[*db.Error](err); !ok || strings.Count(e.Error(), "t_n_check") != 1 {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// Nothing is left of it, on no connection.
	if err := d.Write(t.Context(), func(tx *db.Tx) error { return tx.Later("INSERT INTO t VALUES (7)") }); err != nil {
		t.Fatal(err)
	}
	if got := numbers(t, d.View(t.Context())); got != "[7]" {
		t.Errorf("the table has %s", got)
	}
}

// panics is what nothing can be scanned into.
type panics struct{}

func (panics) Scan(any) error { panic("boom") }

// Whatever a transaction is refused for, its connection serves others, and the levels
// are what they are said to be.
func TestConnectionsStayUsable(t *testing.T) {
	d, _ := table(t)
	level := func(ctx context.Context) (s string) {
		t.Helper()
		if err := d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Row("SELECT current_setting('transaction_isolation')", nil, &s)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 50 { // more than there are connections
		_ = d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec("INSERT INTO t VALUES (11)"); return err })
		_ = d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec("SELECT nonsense"); return err })
		_ = d.Write(t.Context(), func(tx *db.Tx) error {
			return tx.Rows("SELECT n FROM t, generate_series(1, 1000)", nil, func(db.Scan) error { return errors.New("enough") })
		})
		for _, do := range []func(tx *db.Tx){
			func(tx *db.Tx) { _, _ = tx.Exec("INSERT INTO t VALUES (1)") },
			func(tx *db.Tx) {
				_ = tx.Rows("SELECT generate_series(1, 1000)", nil, func(db.Scan) error { panic("boom") })
			},
			func(tx *db.Tx) {
				_, _ = tx.Exec("INSERT INTO t VALUES (1)")
				_ = tx.Rows("SELECT generate_series(1, 1000)", nil, func(db.Scan) error { panic("boom") })
			},
			func(tx *db.Tx) { _, _ = tx.Row("SELECT 1", nil, panics{}) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic is gone")
					}
				}()
				_ = d.Write(t.Context(), func(tx *db.Tx) error {
					do(tx)
					panic("boom")
				})
			}()
			if err := d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec("SELECT 1"); return err }); err != nil {
				t.Fatal(err)
			}
		}
	}
	var open int64
	if _, err := d.View(t.Context()).Row("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'", nil, &open); err != nil || open != 0 {
		t.Errorf("%d connections are in a transaction: %v", open, err)
	}
	if s, l := level(t.Context()), level(db.Loosely(t.Context())); s != "serializable" || l != "read committed" {
		t.Errorf("%s and %s", s, l)
	}
	if got := numbers(t, d.View(t.Context())); got != "[]" {
		t.Errorf("the table has %s", got)
	}
	// Two that could not have run one after the other.
	read, wrote := make(chan struct{}), make(chan struct{})
	first := true
	var once sync.WaitGroup
	once.Go(func() {
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			var n int64
			if _, err := tx.Row("SELECT count(*) FROM t", nil, &n); err != nil {
				return err
			}
			if first {
				first = false
				close(read)
				<-wrote
			}
			return tx.Later("INSERT INTO t VALUES ($1)", n)
		}); err != nil {
			t.Error(err)
		}
	})
	<-read
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		var n int64
		if _, err := tx.Row("SELECT count(*) FROM t", nil, &n); err != nil {
			return err
		}
		return tx.Later("INSERT INTO t VALUES ($1)", n)
	}); err != nil {
		t.Fatal(err)
	}
	close(wrote)
	once.Wait()
	if got := numbers(t, d.View(t.Context())); got != "[0 1]" {
		t.Errorf("both have counted the same: %s", got)
	}
}
