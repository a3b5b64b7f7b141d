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
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/sqlite"
)

// PostgresEnv names the environment variable with the URL of a PostgreSQL
// server on which tests may create databases.
const PostgresEnv = "SALLYPORT_TEST_POSTGRES"

// EachDB runs a test on every database: SQLite always, PostgreSQL where
// PostgresEnv names a server. Under CI it must.
func EachDB(t *testing.T, f func(t *testing.T, d *db.DB)) {
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// SQLite returns a migrated database in a file of its own.
func SQLite(t testing.TB) *db.DB {
	t.Helper()
	d, err := sqlite.Open(filepath.Join(t.TempDir(), "sallyport.db"))
	if err != nil {
		t.Fatal(err)
	}
	return migrated(t, d)
}

// Postgres returns a migrated database of its own on the test server.
func Postgres(t testing.TB) *db.DB {
	t.Helper()
	d, err := postgres.Open(t.Context(), PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	return migrated(t, d)
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
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not set: under CI nothing is skipped", PostgresEnv)
		}
		t.Skipf("%s is not set: run scripts/postgres, or make test", PostgresEnv)
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
