package postgres_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/store/postgres"
)

func TestBadURLs(t *testing.T) {
	for _, c := range []struct{ name, url, want string }{
		{"scheme", "mysql://u:s3cr3t-pw@h/d", "scheme"},
		{"no database", "postgres://u:s3cr3t-pw@h", "names no database"},
		{"unparsable", "postgres://u:s3cr3t-pw@h:port/d", "cannot be parsed"},
		{"bad parameter", "postgres://u:s3cr3t-pw@h/d?sslmode=sometimes", "not valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := postgres.Open(t.Context(), c.url)
			e, ok := errors.AsType[*db.OpenError](err)
			if !ok || e.Unreachable || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want a configuration error with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Fatalf("the password is printed: %v", err)
			}
		})
	}
}

func TestUnreachableIsToldApart(t *testing.T) {
	_, err := postgres.Open(t.Context(), "postgres://u:s3cr3t-pw@127.0.0.1:1/d")
	e, ok := errors.AsType[*db.OpenError](err)
	if !ok || !e.Unreachable || strings.Contains(err.Error(), "s3cr3t") {
		t.Fatalf("got %v", err)
	}
}

func TestMissingDatabase(t *testing.T) {
	u, err := url.Parse(testkit.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	good, err := postgres.Open(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	good.Close()
	u.Path = "/no_such_database"
	_, err = postgres.Open(t.Context(), u.String())
	if e, ok := errors.AsType[*db.OpenError](err); !ok || e.Unreachable || !strings.Contains(e.Fix, "createdb") {
		t.Fatalf("got %v", err)
	}
}
