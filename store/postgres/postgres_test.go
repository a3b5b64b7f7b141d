package postgres_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
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

// Every mistake of the limits is reported at once.
func TestOptions(t *testing.T) {
	_, err := postgres.OpenWith(t.Context(), "postgres://u:s3cr3t-pw@127.0.0.1:1/d", postgres.Options{
		MaxConnections: 1, ConnectTimeout: time.Hour, StatementTimeout: time.Millisecond, IdleTimeout: time.Millisecond, MaxLifetime: time.Second,
	})
	for _, key := range []string{"max_connections", "connect_timeout", "statement_timeout", "idle_timeout", "max_lifetime"} {
		if err == nil || !strings.Contains(err.Error(), "postgres."+key) {
			t.Errorf("%s is not named: %v", key, err)
		}
	}
	if m, ok := errors.AsType[*sallyport.ConfigError](err); !ok || m.Fix == "" {
		t.Errorf("%T", err)
	}
}

// The limits arrive where they count.
func TestLimitsOfTheServer(t *testing.T) {
	t.Parallel()
	raw := testkit.PostgresURL(t)
	d, err := postgres.OpenWith(t.Context(), raw, postgres.Options{MaxConnections: 2, StatementTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var timeout string
	if _, err := d.View(t.Context()).Row("SHOW statement_timeout", nil, &timeout); err != nil || timeout != "1s" {
		t.Errorf("statement_timeout %s, %v", timeout, err)
	}
	err = d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec("SELECT pg_sleep(20)"); return err })
	if e, ok := errors.AsType[*db.Error](err); !ok {
		t.Errorf("a statement without end: %v", e)
	}
	var busy sync.WaitGroup
	var most atomic.Int64
	for range 8 {
		busy.Go(func() {
			var n int64
			if _, err := d.View(context.Background()).Row("SELECT count(*) FROM pg_stat_activity, pg_sleep(0.05) WHERE datname = current_database() AND application_name = 'sallyport'", nil, &n); err != nil {
				t.Error(err)
			}
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
		})
	}
	busy.Wait()
	if n := most.Load(); n != 2 {
		t.Errorf("%d connections at once, want 2", n)
	}
	// What the URL says stands above them.
	d2, err := postgres.OpenWith(t.Context(), raw+"&statement_timeout=4321", postgres.Options{StatementTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer d2.Close()
	if _, err := d2.View(t.Context()).Row("SHOW statement_timeout", nil, &timeout); err != nil || timeout != "4321ms" {
		t.Errorf("statement_timeout of the URL: %s, %v", timeout, err)
	}
}

// With several hosts, those that are gone cost little, whether they refuse or say
// nothing, and one that cannot be written to is passed over.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	raw := testkit.PostgresURL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	with := func(hosts string) string { return strings.Replace(raw, u.Host, hosts, 1) }
	for _, c := range []struct{ name, hosts string }{
		{"refusing", "127.0.0.1:1," + u.Host},
		{"silent", silent.Addr().String() + "," + u.Host},
		{"last", u.Host + ",127.0.0.1:1"},
		{"IPv6", "[::1]:1," + u.Host},
		{"both", silent.Addr().String() + ",127.0.0.1:1," + u.Host},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			d, err := postgres.Open(t.Context(), with(c.hosts))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := d.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			// The silent one alone would take five.
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("it took %v", took)
			}
			password, _ := u.User.Password()
			if want := "postgres://" + c.hosts + u.Path; d.Name() != want || strings.Contains(d.Name(), password) {
				t.Errorf("called %q, want %q", d.Name(), want)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		_, err := postgres.Open(t.Context(), with("127.0.0.1:1,127.0.0.1:2"))
		if e, ok := errors.AsType[*db.OpenError](err); !ok || !e.Unreachable || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v", err)
		}
	})
	for _, bad := range []string{"h1:5432,h2:port", "h1,", ",h1", "h1,u:s3cr3t-pw@h2"} {
		if _, err := postgres.Open(t.Context(), "postgres://u:s3cr3t-pw@"+bad+"/d"); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A connection on which a write was refused because the server is read-only is not
// used again; and of several hosts only one that can be written to is used at all.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	raw := testkit.PostgresURL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := postgres.Open(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	write := func(d *db.DB) error {
		return d.Write(t.Context(), func(tx *db.Tx) error { return tx.Changed("somebody") })
	}
	readOnly := func(on string) {
		t.Helper()
		if err := admin.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec(`DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || ' SET default_transaction_read_only = on'; END $$`)
			if on == "off" {
				_, err = tx.Exec(`DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || ' SET default_transaction_read_only = off'; END $$`)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	several := strings.Replace(raw, u.Host, u.Host+",localhost:"+u.Port(), 1)
	readOnly("on")
	d, err := postgres.Open(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := postgres.Open(t.Context(), several); err == nil || !strings.Contains(err.Error(), "none of the servers can be written to") {
		t.Errorf("several hosts: %v", err)
	}
	if any, err := postgres.Open(t.Context(), several+"&target_session_attrs=any"); err != nil {
		t.Errorf("the URL asks for any: %v", err)
	} else {
		any.Close()
	}
	var settings string
	if _, err := d.View(t.Context()).Row("SHOW transaction_read_only", nil, &settings); err != nil || settings != "on" {
		t.Fatalf("read-only: %s, %v", settings, err)
	}
	err = write(d)
	if _, ok := errors.AsType[*db.Error](err); !ok || !strings.Contains(err.Error(), "25006") {
		t.Fatalf("a write: %v", err)
	}
	readOnly("off") // which connections that are open do not hear of
	if err := write(d); err != nil {
		t.Errorf("the connection was used again: %v", err)
	}
}
