// Package testkit is what tests of several packages share: databases of their
// own, and the test vectors from outside.
package testkit

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/sqlite"
)

// PostgresEnv names the environment variable with the URL of a PostgreSQL
// server on which tests may create databases.
const PostgresEnv = "SALLYPORT_TEST_POSTGRES"

// EachDB runs a test on every database, at the same time: SQLite always, PostgreSQL
// where PostgresEnv names a server. Under CI it must. It returns when both have ended.
func EachDB(t *testing.T, f func(t *testing.T, d *db.DB)) {
	t.Run("on", func(t *testing.T) {
		t.Run("sqlite", func(t *testing.T) {
			t.Parallel()
			f(t, SQLite(t))
		})
		t.Run("postgres", func(t *testing.T) {
			t.Parallel()
			f(t, Postgres(t))
		})
	})
}

// SQLite returns a migrated database in a file of its own.
func SQLite(t testing.TB) *db.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sallyport.db")
	return migrated(t, opened(t, func() (*db.DB, error) { return sqlite.Open(path) }))
}

// Postgres returns a migrated database of its own on the test server.
func Postgres(t testing.TB) *db.DB {
	t.Helper()
	d, _ := PostgresAt(t)
	return d
}

// PostgresAt is Postgres, and returns the URL as well.
func PostgresAt(t testing.TB) (*db.DB, string) {
	t.Helper()
	name := PostgresURL(t)
	return migrated(t, opened(t, func() (*db.DB, error) {
		// Several packages share one server with the race detector's costs: what would be
		// an outage in service is only a busy machine here.
		return postgres.OpenWith(context.Background(), name, postgres.Options{StatementTimeout: time.Minute})
	})), name
}

// Again opens the database of a handle that this package gave once more, as
// another process would.
func Again(t testing.TB, d *db.DB) *db.DB {
	t.Helper()
	open, ok := openers.Load(d)
	if !ok {
		t.Fatal("this handle is not the testkit's")
	}
	again := opened(t, open.(func() (*db.DB, error)))
	t.Cleanup(func() { again.Close() })
	return again
}

var openers sync.Map // *db.DB → func() (*db.DB, error)

func opened(t testing.TB, open func() (*db.DB, error)) *db.DB {
	t.Helper()
	d, err := open()
	if err != nil {
		t.Fatal(err)
	}
	openers.Store(d, open)
	t.Cleanup(func() { openers.Delete(d) })
	return d
}

func migrated(t testing.TB, d *db.DB) *db.DB {
	t.Helper()
	t.Cleanup(func() { d.Close() })
	if _, err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// PostgresURL creates an empty database on the test server and returns its
// URL. The database is dropped when the test ends.
func PostgresURL(t testing.TB) string {
	t.Helper()
	base := os.Getenv(PostgresEnv)
	if base == "" {
		Missing(t, "%s is not set: run scripts/postgres, or make test", PostgresEnv)
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := sql.Open("pgx", base)
	if err != nil {
		t.Fatal(err)
	}
	name := "t_" + strings.ToLower(rand.Text())
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer admin.Close()
		if _, err := admin.ExecContext(context.Background(), fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)); err != nil {
			t.Error(err)
		}
	})
	u.Path = "/" + name
	return u.String()
}
