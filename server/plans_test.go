package server_test

import (
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/bench/traffic"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// readWhole are the tables that some statement may read from the beginning, and why
// that takes no longer the more people there are. bench/scale measures the others.
var readWhole = map[string]string{
	"sp_roles": "what administrators defined", "sp_role_includes": "the same", "sp_role_permissions": "the same", "sp_permissions": "the same",
	"sp_clients":      "there are few, and listing them counts them",
	"sp_signing_keys": "one row for each rotation",
	"sp_policies":     "what administrators wrote, at most 10,000, read when one of them changes", "sp_resource_types": "what rules name",
	"sp_secrets": "a fixed number of rows", "sp_versions": "one row", "sp_cleanup": "one row",
	"sp_moves":        "one row for each move",
	"sp_certificates": "one row for each name", "sp_certificate_orders": "one row for each name",
	"sp_erasures":      "accounts that were deleted a moment ago",
	"sp_outbox":        "letters that wait are counted for metrics",
	"sp_audit_waiting": "events of the last tenth of a second",

	"sp_migrations": "one row for each migration", "sqlite_master": "one row for each table",
}

// Every statement that a server runs finds what it wants by an index, but those
// above. The statements are those that were run when everything was done that there
// is to do.
func TestPlans(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		d := testkit.SQLite(t)
		raw, err := sql.Open("sqlite", filepath.Join(d.Dir(), "sallyport.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		testPlans(t, d, func(statement string) []string {
			return whole(t, raw, `^SCAN (\S+)`, "EXPLAIN QUERY PLAN "+statement, parameters(statement))
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		d, url := testkit.PostgresAt(t)
		raw, err := sql.Open("pgx", url+"&default_query_exec_mode=simple_protocol")
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetMaxOpenConns(1)
		// With so few rows it would read all of them; where it cannot do otherwise, it
		// does.
		if _, err := raw.Exec("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"); err != nil {
			t.Fatal(err)
		}
		testPlans(t, d, func(statement string) []string {
			if _, err := raw.Exec("PREPARE p AS " + statement); err != nil {
				t.Fatal(err, statement)
			}
			defer raw.Exec("DEALLOCATE p")
			explain := "EXPLAIN EXECUTE p"
			if n := parameters(statement); n > 0 {
				explain += "(" + strings.TrimSuffix(strings.Repeat("NULL, ", n), ", ") + ")"
			}
			return whole(t, raw, `Seq Scan on (\S+)`, explain, 0)
		})
	})
}

func testPlans(t *testing.T, d *db.DB, read func(statement string) (tables []string)) {
	var mu sync.Mutex
	run := map[string]bool{}
	note := func(statement string) {
		mu.Lock()
		defer mu.Unlock()
		run[statement] = true
	}
	d.Trace(note)
	town, err := traffic.Start(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer town.Close()
	name, id, err := town.Move(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() error{
		func() error { return town.Newcomer(t.Context()) }, func() error { return town.Person(t.Context(), name) },
		func() error { return town.Admin(t.Context(), id) }, func() error { return town.Office(t.Context()) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	d.Trace(nil)
	ownUsersPlans(t, d.Dialect(), note)
	if got := read("SELECT id FROM sp_accounts WHERE full_name = 'x'"); !slices.Equal(got, []string{"sp_accounts"}) {
		t.Errorf("a statement without an index is said to read %v", got)
	}
	mu.Lock()
	defer mu.Unlock()
	n := 0
	for _, statement := range slices.Sorted(maps.Keys(run)) {
		switch word, _, _ := strings.Cut(strings.TrimSpace(statement), " "); word {
		case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH":
		default:
			continue // of transactions
		}
		n++
		for _, table := range read(statement) {
			// Others are names within a statement, of what was found already or came with it.
			if strings.HasPrefix(table, "sp_") && readWhole[table] == "" {
				t.Errorf("%s is read from its beginning by\n%s", table, statement)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d statements were run", n)
	}
	t.Logf("%d statements", n)
}

// parameters returns how many a statement has.
func parameters(statement string) (n int) {
	for _, m := range regexp.MustCompile(`\$(\d+)`).FindAllStringSubmatch(statement, -1) {
		i, _ := strconv.Atoi(m[1])
		n = max(n, i)
	}
	return n
}

// whole runs an EXPLAIN and returns the tables of which its last column says that
// they are read from the beginning.
func whole(t *testing.T, raw *sql.DB, says, explain string, args int) (tables []string) {
	t.Helper()
	rows, err := raw.Query(explain, make([]any, args)...)
	if err != nil {
		t.Fatalf("%v: %s", err, explain)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var line string
	into := make([]any, len(columns))
	for i := range into {
		into[i] = new(any)
	}
	into[len(into)-1] = &line
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(says).FindStringSubmatch(line); m != nil {
			tables = append(tables, m[1])
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", explain, err))
	}
	return tables
}
