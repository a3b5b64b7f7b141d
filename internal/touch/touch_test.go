package touch_test

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/internal/touch"
)

func TestUsesAreStoredOnceAndBeforeCloseReturns(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("CREATE TABLE scratch (id TEXT PRIMARY KEY, at BIGINT NOT NULL, writes BIGINT NOT NULL)")
			if err == nil {
				_, err = tx.Exec("INSERT INTO scratch VALUES ('a', 0, 0), ('b', 0, 0)")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		u := touch.New(d, slog.New(slog.DiscardHandler), func(tx *db.Tx, id string, at time.Time) error {
			_, err := tx.Exec("UPDATE scratch SET at = $2, writes = writes + 1 WHERE id = $1", id, db.Micros(at))
			return err
		})
		for i := range 1000 {
			u.Note("a", time.UnixMicro(int64(i)))
		}
		u.Note("a", time.UnixMicro(5)) // an earlier one
		u.Note("gone", time.UnixMicro(1))
		u.Close()
		u.Close() // again is no harm
		for id, want := range map[string][2]int64{"a": {999, 1}, "b": {0, 0}} {
			var at, writes int64
			if _, err := d.View(t.Context()).Row("SELECT at, writes FROM scratch WHERE id = $1", []any{id}, &at, &writes); err != nil {
				t.Fatal(err)
			}
			if at != want[0] || writes != want[1] {
				t.Errorf("%s: at %d in %d writes, want %v", id, at, writes, want)
			}
		}
	})
}
