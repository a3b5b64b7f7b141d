package lockout_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/store/sqlite"
)

// A way of testing a secret that a person may have thought of: count, test, and
// say how it ended before answering.
func Example() {
	dir, err := os.MkdirTemp("", "lockout")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlite.Open(filepath.Join(dir, "app.db"))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	ctx := context.Background()
	if _, err := db.Migrate(ctx); err != nil {
		panic(err)
	}
	refusals := audit.NewRefusals(db, slog.New(slog.DiscardHandler))
	defer refusals.Close()
	guard := lockout.New(lockout.Config{DB: db, Key: []byte("a secret of the server"), Refusals: refusals})

	open := func(pin string) string {
		attempt, err := guard.Begin(ctx, lockout.Who{Subject: "ada"})
		if err != nil {
			return err.Error()
		}
		defer attempt.End(ctx)
		if pin != "4711" {
			if err := attempt.Failure(ctx, nil); err != nil {
				return err.Error()
			}
			return "wrong"
		}
		return "open"
	}
	for _, pin := range []string{"0000", "1111", "1234", "2580", "9999", "4711"} {
		fmt.Println(open(pin))
	}

	// Output:
	// wrong
	// wrong
	// wrong
	// wrong
	// wrong
	// too_many_attempts: Too many sign-ins with this name, or from this network, have failed. The password was not looked at. Wait for as long as Retry-After says, or ask the operator.
}
