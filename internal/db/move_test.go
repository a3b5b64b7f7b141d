package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/sqlite"
)

// notMoved are the tables that say something of their own database only.
var notMoved = []string{"sp_migrations", "sp_changes", "sp_moves", "sp_compatible", "sp_cleanup"}

// side is one of two databases, with a second way to it that shares no code with
// the first.
type side struct {
	d   *db.DB
	raw *sql.DB
}

func sqliteSide(t *testing.T) side {
	path := filepath.Join(t.TempDir(), "sallyport.db")
	off, err := sqlite.TakeOffline(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := off.Create()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close(); d.Close(); off.Close() })
	return side{d, raw}
}

func postgresSide(t *testing.T) side {
	url := testkit.PostgresURL(t)
	d, err := postgres.OpenAlone(t.Context(), url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close(); d.Close() })
	return side{d, raw}
}

// tables lists all tables of ours, as SQLite has them.
func (s side) tables(t *testing.T) (out []string) {
	t.Helper()
	rows, err := s.raw.Query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'sp%' ORDER BY name")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		out = append(out, name)
	}
	return out
}

// dump returns every row of a table as text, in some order.
func (s side) dump(t *testing.T, table string) (out []string) {
	t.Helper()
	rows, err := s.raw.Query("SELECT * FROM " + table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values, dst := make([]any, len(names)), make([]any, len(names))
		for i := range values {
			dst[i] = &values[i]
		}
		if err := rows.Scan(dst...); err != nil {
			t.Fatal(err)
		}
		cells := map[string]string{}
		for i, name := range names {
			if table == "sp_versions" && name == "feed" {
				continue
			}
			switch values[i] { // SQLite's are numbers
			case false:
				values[i] = int64(0)
			case true:
				values[i] = int64(1)
			}
			cells[name] = fmt.Sprintf("%T %v", values[i], values[i])
		}
		out = append(out, fmt.Sprint(cells))
	}
	slices.Sort(out)
	return out
}

func (s side) feed(t *testing.T) (feed string) {
	t.Helper()
	if err := s.raw.QueryRow("SELECT feed FROM sp_versions WHERE id = 1").Scan(&feed); err != nil {
		t.Fatal(err)
	}
	return feed
}

// fill puts n rows into every table that there is, or will be: what they hold is
// random, but for references, which lead to rows that are there.
func (s side) fill(t *testing.T, n int) {
	t.Helper()
	tables, err := s.d.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if table.Name == "sp_versions" {
			continue
		}
		type column struct {
			name, typ string
			notNull   bool
			key       int
			parents   []any
		}
		var columns []column
		rows, err := s.raw.Query(`SELECT name, type, "notnull", pk FROM pragma_table_info($1)`, table.Name)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var c column
			if err := rows.Scan(&c.name, &c.typ, &c.notNull, &c.key); err != nil {
				t.Fatal(err)
			}
			columns = append(columns, c)
		}
		rows.Close()
		for i := range columns {
			c := &columns[i]
			var parent, to string
			err := s.raw.QueryRow(`SELECT "table", "to" FROM pragma_foreign_key_list($1) WHERE "from" = $2`, table.Name, c.name).Scan(&parent, &to)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			rows, err := s.raw.Query("SELECT " + to + " FROM " + parent)
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var v any
				if err := rows.Scan(&v); err != nil {
					t.Fatal(err)
				}
				c.parents = append(c.parents, v)
			}
			rows.Close()
		}
		tx, err := s.raw.Begin()
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			var names, marks []string
			var args []any
			for _, c := range columns {
				var v any
				switch {
				case c.parents != nil && (c.notNull || c.key > 0 || rand.IntN(2) == 0):
					v = c.parents[rand.IntN(len(c.parents))]
				case c.parents != nil || !c.notNull && c.key == 0 && rand.IntN(4) == 0:
				case c.typ == "TEXT":
					v = randomText()
				case c.typ == "BIGINT":
					v = rand.Int64() - rand.Int64()
				case c.typ == "BOOLEAN":
					v = rand.IntN(2) == 0
				case c.typ == "BYTEA":
					v = []byte(randomText())
					if c.key == 0 && c.notNull && rand.IntN(4) == 0 {
						v = []byte{}
					}
				default:
					t.Fatalf("%s.%s has the type %s", table.Name, c.name, c.typ)
				}
				names, args = append(names, c.name), append(args, v)
				marks = append(marks, fmt.Sprintf("$%d", len(args)))
			}
			if _, err := tx.Exec("INSERT INTO "+table.Name+" ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(marks, ", ")+") ON CONFLICT DO NOTHING", args...); err != nil {
				t.Fatalf("%s: %v", table.Name, err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// randomText has what sorts and is quoted differently in different places.
func randomText() string {
	parts := []string{"a", "B", "z", "Ä", "é", "é", " ", "-", "_", "'", `"`, "\\", "%", "\n", "😀", "ß", "İ", "0", "9", "~"}
	var b strings.Builder
	for range 1 + rand.IntN(12) {
		b.WriteString(parts[rand.IntN(len(parts))])
	}
	return b.String()
}

func migrated(t *testing.T, s side) side {
	t.Helper()
	if _, err := s.d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func moved(t *testing.T, from, to side) {
	t.Helper()
	if _, err := (&db.Mover{From: from.d, To: to.d, Now: time.Now}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func equalSides(t *testing.T, tables []string, a, b side) {
	t.Helper()
	for _, table := range tables {
		if slices.Contains(notMoved, table) {
			continue
		}
		x, y := a.dump(t, table), b.dump(t, table)
		if !slices.Equal(x, y) {
			t.Errorf("%s: %d rows, and %d on the other side", table, len(x), len(y))
			for i := range min(len(x), len(y)) {
				if x[i] != y[i] {
					t.Fatalf("%s\n%s", x[i], y[i])
				}
			}
		}
	}
}

func TestTablesAreAllThatThereAre(t *testing.T) {
	s, p := migrated(t, sqliteSide(t)), migrated(t, postgresSide(t))
	want := s.tables(t)
	if len(want) < 25 {
		t.Fatalf("%d tables", len(want))
	}
	of := func(d *db.DB) (out []string) {
		tables, err := d.Tables(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range tables {
			out = append(out, table.Name)
		}
		return out
	}
	got, other := of(s.d), of(p.d)
	if !slices.Equal(got, other) {
		t.Errorf("SQLite has %q, PostgreSQL %q", got, other)
	}
	got = append(got, notMoved...)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("tables %q, want %q", got, want)
	}
}

// TestMove: every table, there and back, interrupted at any point.
func TestMove(t *testing.T) {
	from, to, back := migrated(t, sqliteSide(t)), postgresSide(t), sqliteSide(t)
	from.fill(t, 600)
	tables := from.tables(t)
	feed := from.feed(t)
	for _, leg := range [][2]side{{from, to}, {to, back}} {
		interrupted := 0
		for done := false; !done; {
			ctx, cancel := context.WithCancel(t.Context())
			left := 1 + rand.IntN(30)
			if interrupted > 5 {
				left = 1 << 30
			}
			m := &db.Mover{From: leg[0].d, To: leg[1].d, Now: time.Now, Progress: func(string, int64, int64) {
				if left--; left == 0 {
					cancel()
				}
			}}
			sums, err := m.Run(ctx)
			cancel()
			switch {
			case err == nil:
				done = true
				if len(sums) == 0 || sums[0].SHA256 == "" {
					t.Errorf("sums %v", sums)
				}
			case !errors.Is(err, context.Canceled):
				t.Fatal(err)
			default:
				interrupted++
				for _, s := range leg { // neither is served half-way
					if err := s.d.Served(t.Context()); err == nil || !strings.Contains(err.Error(), "move") {
						t.Fatalf("half-way, %s is served: %v", s.d.Name(), err)
					}
				}
			}
		}
		if interrupted == 0 {
			t.Error("it was never interrupted")
		}
		if err := leg[1].d.Served(t.Context()); err != nil {
			t.Error(err)
		}
		if err := leg[0].d.Served(t.Context()); err == nil || !strings.Contains(err.Error(), "it was moved to") {
			t.Errorf("the source is served: %v", err)
		}
		equalSides(t, tables, from, leg[1])
		// Killed after the last step on the one side and before that on the other.
		if _, err := leg[0].raw.Exec("UPDATE sp_moves SET state = 'running' WHERE side = 'from'"); err != nil {
			t.Fatal(err)
		}
		moved(t, leg[0], leg[1])
		// Killed after the very last step, before it could say so.
		if _, err := (&db.Mover{From: leg[0].d, To: leg[1].d, Now: time.Now}).Run(t.Context()); !errors.Is(err, db.ErrMoved) {
			t.Errorf("once more: %v, want ErrMoved", err)
		}
		if err := leg[0].d.Served(t.Context()); err == nil || !strings.Contains(err.Error(), "it was moved to") {
			t.Errorf("the source is served: %v", err)
		}
		if f := leg[1].feed(t); f == feed || f == "" {
			t.Errorf("the feed of the target is %q, and was %q", f, feed)
		} else {
			feed = f
		}
	}
}

func TestMoveRefuses(t *testing.T) {
	from := migrated(t, sqliteSide(t))
	from.fill(t, 3)
	refused := func(what string, from, to side, words string) {
		t.Helper()
		_, err := (&db.Mover{From: from.d, To: to.d, Now: time.Now}).Run(t.Context())
		if _, ok := errors.AsType[*db.OpenError](err); !ok || !strings.Contains(fmt.Sprint(err), words) {
			t.Errorf("%s: %v, want one that says %q", what, err, words)
		}
		if err := from.d.Served(t.Context()); err != nil {
			t.Errorf("%s: the source is not served any more: %v", what, err)
		}
	}
	refused("the same kind", from, sqliteSide(t), "of the same kind")
	empty := sqliteSide(t)
	refusedSource := func() error {
		_, err := (&db.Mover{From: empty.d, To: postgresSide(t).d, Now: time.Now}).Run(t.Context())
		return err
	}
	if err := refusedSource(); err == nil || !strings.Contains(err.Error(), "its schema is version 0") {
		t.Errorf("an empty source: %v", err)
	}
	used := migrated(t, postgresSide(t))
	if _, err := used.raw.Exec("INSERT INTO sp_subjects (id, kind, disabled, version, created_at) VALUES ('x', 'user', FALSE, 1, 1)"); err != nil {
		t.Fatal(err)
	}
	before := used.dump(t, "sp_subjects")
	refused("a target in use", from, used, "in use already")
	if !slices.Equal(before, used.dump(t, "sp_subjects")) {
		t.Error("a target in use was changed")
	}

	// A part of a move that was given up, and the source served again since.
	half := postgresSide(t)
	ctx, cancel := context.WithCancel(t.Context())
	m := &db.Mover{From: from.d, To: half.d, Now: time.Now, Progress: func(string, int64, int64) { cancel() }}
	if _, err := m.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if undone, err := from.d.UndoMove(t.Context()); err != nil || !undone {
		t.Fatal(undone, err)
	}
	refused("a part of another move", from, half, "a part of another move")

	// What differs is found, and the target not served.
	altered := postgresSide(t)
	m = &db.Mover{From: from.d, To: altered.d, Now: time.Now, Progress: func(what string, _, _ int64) {
		if what == "comparing" {
			if _, err := altered.raw.Exec("UPDATE sp_audit SET reason = reason || 'x'"); err != nil {
				t.Error(err)
			}
		}
	}}
	if _, err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "sp_audit: the two sides differ") {
		t.Errorf("an altered target: %v", err)
	}
	if err := altered.d.Served(t.Context()); err == nil {
		t.Error("an altered target is served")
	}
	if _, err := from.d.UndoMove(t.Context()); err != nil {
		t.Fatal(err)
	}

	// And one that is as it should be, also when its own migrations were interrupted.
	halfMade := postgresSide(t)
	if err := halfMade.d.MigrateTo(t.Context(), 18); err != nil {
		t.Fatal(err)
	}
	moved(t, from, halfMade)
	if _, err := (&db.Mover{From: from.d, To: postgresSide(t).d, Now: time.Now}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("moved twice: %v", err)
	}
}

// TestAlone: nobody opens a database that somebody has alone, and nobody has one
// alone that is open.
func TestAlone(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "sallyport.db")
		d, err := sqlite.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sqlite.TakeOffline(path); err == nil || !strings.Contains(err.Error(), "another process has it open") {
			t.Fatalf("while it is open: %v", err)
		}
		if _, err := d.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		// Another program, which knows nothing of our lock.
		raw, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := raw.QueryRow("SELECT COUNT(*) FROM sp_roles").Scan(&n); err != nil {
			t.Fatal(err)
		}
		if _, err := sqlite.TakeOffline(path); err == nil || !strings.Contains(err.Error(), "another process has it open") {
			t.Fatalf("while another program has it open: %v", err)
		}
		raw.Close()
		off, err := sqlite.TakeOffline(path)
		if err != nil {
			t.Fatal(err)
		}
		alone(t, off.Close, func() (*db.DB, error) { return sqlite.Open(path) })
		if _, err := os.Stat(path + "-lock"); err != nil {
			t.Error(err)
		}
	})
	t.Run("postgres", func(t *testing.T) {
		url := testkit.PostgresURL(t)
		d, err := postgres.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := postgres.OpenAlone(t.Context(), url, postgres.Options{}); err == nil || !strings.Contains(err.Error(), "another process has it open") {
			t.Fatalf("while it is open: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		held, err := postgres.OpenAlone(t.Context(), url, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := held.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		alone(t, held.Close, func() (*db.DB, error) { return postgres.Open(t.Context(), url) })
	})
}

func alone(t *testing.T, end func() error, open func() (*db.DB, error)) {
	t.Helper()
	_, err := open()
	if e, ok := errors.AsType[*db.OpenError](err); !ok || !e.Unreachable {
		t.Fatalf("while somebody has it alone: %v", err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	d, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
