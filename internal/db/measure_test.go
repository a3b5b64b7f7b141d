package db_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// value returns a family's only value.
func value(t *testing.T, d *db.DB, name string) float64 {
	t.Helper()
	for _, f := range d.Measure() {
		if f.Name == name {
			if s := f.Points[0].Spread; s != nil {
				return float64(s.Count)
			}
			return f.Points[0].Value
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// A transaction that PostgreSQL could not serialise is one write, two transactions
// and one retry. On SQLite there is one writer, and nothing to be tried again.
func TestMeasureWrites(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		scratch(t, d)
		if err := d.Write(t.Context(), put("n", 1)); err != nil {
			t.Fatal(err)
		}
		writes, begun := value(t, d, "sallyport_database_write_seconds"), value(t, d, "sallyport_database_transactions_total")
		runs := 0
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			runs++
			var n int64
			if _, err := tx.Row("SELECT version FROM scratch WHERE name = 'n'", nil, &n); err != nil {
				return err
			}
			if runs == 1 && d.Dialect() == db.Postgres { // another one is quicker
				if err := d.Write(context.Background(), func(tx *db.Tx) error {
					_, err := tx.Exec("UPDATE scratch SET version = $1 WHERE name = 'n'", n+1)
					return err
				}); err != nil {
					return err
				}
			}
			_, err := tx.Exec("UPDATE scratch SET version = $1 WHERE name = 'n'", n+10)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		writes, begun = value(t, d, "sallyport_database_write_seconds")-writes, value(t, d, "sallyport_database_transactions_total")-begun
		again := value(t, d, "sallyport_database_retries_total")
		if d.Dialect() == db.Postgres && (runs != 2 || again != 1 || writes != 2 || begun != 3) ||
			d.Dialect() == db.SQLite && (runs != 1 || again != 0 || writes != 1 || begun != 1) {
			t.Errorf("%d runs, %v retries, %v writes, %v transactions", runs, again, writes, begun)
		}

		// A refusal is no failure of the database; what it cannot do is one.
		_ = d.Write(t.Context(), func(*db.Tx) error { return errors.New("refused") })
		if n := value(t, d, "sallyport_database_write_failures_total"); n != 0 {
			t.Errorf("%v failures after a refusal", n)
		}
		_ = d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE there_is_no_such_table SET x = 1")
			return err
		})
		if n := value(t, d, "sallyport_database_write_failures_total"); n != 1 {
			t.Errorf("%v failures after one", n)
		}
	})
}
