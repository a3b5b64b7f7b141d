package main

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"
)

// Processes that die while they bring a schema up to date.

// schema is a database as the tests see it who bring it to any version.
type schema struct {
	sqlite   bool
	pool     *sql.DB
	provider *goose.Provider
}

// openSchema opens the database of a place, which may be empty, beside the program.
func (p place) openSchema(t *testing.T) *schema {
	t.Helper()
	driver, source := "sqlite", "file:"+filepath.Join(p.data, "sallyport.db")+"?_pragma=busy_timeout(50)&_pragma=foreign_keys(1)"
	dialect, own := goose.DialectSQLite3, "sqlite"
	if url := p.databaseURL(); url != "" {
		driver, source, dialect, own = "pgx", url, goose.DialectPostgres, "postgres"
	}
	pool, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pool.Close() })
	files := fstest.MapFS{} // both folders as one, as the program has them
	for _, dir := range []string{"", own} {
		from := os.DirFS(filepath.Join("..", "..", "internal", "db", "migrations", dir))
		names, err := fs.Glob(from, "*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := fs.ReadFile(from, name)
			if err != nil {
				t.Fatal(err)
			}
			files[name] = &fstest.MapFile{Data: b}
		}
	}
	s := &schema{sqlite: own == "sqlite", pool: pool}
	s.provider, err = goose.NewProvider(dialect, pool, files, goose.WithTableName("sp_migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// databaseURL returns the URL of a place in PostgreSQL, "" in SQLite.
func (p place) databaseURL() string {
	for _, line := range p.env {
		if url, ok := strings.CutPrefix(line, "SALLYPORT_DATABASE="); ok {
			return url
		}
	}
	return ""
}

func (s *schema) upTo(t *testing.T, version int64) {
	t.Helper()
	if _, err := s.provider.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
}

func (s *schema) exec(t *testing.T, statements ...string) {
	t.Helper()
	for _, q := range statements {
		if _, err := s.pool.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func (s *schema) number(t *testing.T, q string) (n int64) {
	t.Helper()
	if err := s.pool.QueryRowContext(t.Context(), q).Scan(&n); err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return n
}

func (s *schema) version(t *testing.T) int64 {
	return s.number(t, "SELECT MAX(version_id) FROM sp_migrations")
}

// shape is every table, column, index and constraint.
func (s *schema) shape(t *testing.T) []string {
	t.Helper()
	q := `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '')
			FROM information_schema.columns WHERE table_schema = 'public'
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
		UNION ALL SELECT conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
			FROM pg_constraint WHERE connamespace = 'public'::regnamespace`
	if s.sqlite {
		q = "SELECT name || ': ' || COALESCE(sql, '') FROM sqlite_master"
	}
	rows, err := s.pool.QueryContext(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// stall makes the step to a version wait at its very end: all of it is done, and
// its version is written, and nothing is committed. inside waits until a process
// is there; after is to be called when it has died.
func (s *schema) stall(t *testing.T, version int64) (inside, after func()) {
	t.Helper()
	eventually := func(there func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !there(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no process got to step %d", version)
			}
		}
	}
	if s.sqlite {
		// It counts for longer than the test lasts.
		var many []string
		for i := range 12 {
			many = append(many, fmt.Sprint("sp_permissions p", i))
		}
		s.exec(t, fmt.Sprintf("CREATE TRIGGER stalled AFTER INSERT ON sp_migrations WHEN NEW.version_id = %d BEGIN SELECT count(*) FROM %s; END", version, strings.Join(many, ", ")))
		previous := slices.Max(slices.DeleteFunc(s.versions(), func(v int64) bool { return v >= version }))
		busy := 0
		return func() {
				t.Helper()
				eventually(func() bool { // somebody writes after the step before, and goes on doing so
					_, err := s.pool.ExecContext(t.Context(), "BEGIN IMMEDIATE; ROLLBACK")
					if err != nil && strings.Contains(err.Error(), "locked") && s.version(t) == previous {
						busy++
					} else {
						busy = 0
					}
					return busy == 3
				})
			}, func() {
				t.Helper()
				s.exec(t, "DROP TRIGGER stalled")
			}
	}
	s.exec(t, fmt.Sprintf(`CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.version_id = %d THEN PERFORM pg_advisory_xact_lock(%d); END IF; RETURN NEW; END $$`, version, stallKey),
		"CREATE TRIGGER stalled BEFORE INSERT ON sp_migrations FOR EACH ROW EXECUTE FUNCTION stall()")
	holder, err := s.pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.ExecContext(t.Context(), "SELECT pg_advisory_lock($1)", stallKey); err != nil {
		t.Fatal(err)
	}
	waiting := fmt.Sprintf(`SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = %d AND NOT l.granted`, stallKey)
	return func() {
			t.Helper()
			eventually(func() bool { return s.number(t, waiting) == 1 })
		}, func() {
			t.Helper()
			if _, err := holder.ExecContext(context.WithoutCancel(t.Context()), "SELECT pg_advisory_unlock($1)", stallKey); err != nil {
				t.Fatal(err)
			}
			holder.Close()
			// The server's process learns that nobody is there any more.
			eventually(func() bool {
				return s.number(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE '%in transaction%'") == 0 && s.number(t, waiting) == 0
			})
			s.exec(t, "DROP TRIGGER stalled ON sp_migrations", "DROP FUNCTION stall()")
		}
}

const stallKey = 7355608

func (s *schema) versions() (out []int64) {
	for _, src := range s.provider.ListSources() {
		out = append(out, src.Version)
	}
	return out
}

// TestF_CrashInAMigration has processes killed while they bring a filled database of
// an old release up to date: at the last moment of a step, and at any moment.
// Nothing of a step that was not committed is there; the next start goes on from
// the one before; and of two that wait, one does each step.
func TestF_CrashInAMigration(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		// What the schema is at each version.
		fresh := newPlace(t)
		if p.databaseURL() != "" {
			fresh = newPostgresPlace(t)
		}
		for _, dir := range []string{p.data, fresh.data} {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		want, s := fresh.openSchema(t), p.openSchema(t)
		shapes, versions := map[int64][]string{}, s.versions()
		latest := versions[len(versions)-1]

		// An old release, with people.
		const old, people = 5, 20_000
		hash, _ := p.cli(t, "hash", "generate", "--password-stdin")["hash"].(string)
		s.upTo(t, old)
		s.exec(t, fmt.Sprintf(`INSERT INTO sp_subjects (id, kind, disabled, version, created_at)
				WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) SELECT 'p' || i, 'user', FALSE, 1, i FROM n`, people),
			`INSERT INTO sp_accounts (id, username, username_key, email, email_key, email_verified, password_hash, created_at, updated_at)
				SELECT id, id, id, id || '@example.com', id || '@example.com', TRUE, '`+hash+`', created_at, created_at FROM sp_subjects`,
			`INSERT INTO sp_sessions SELECT 's' || id, id, '', FALSE, '', 'pwd', FALSE, 1, 1, 1, 1, 1, 1, 'old', '', '', 0, CAST('x' AS `+map[bool]string{true: "BLOB", false: "BYTEA"}[s.sqlite]+`), 1 FROM sp_subjects`,
		)
		whole := func(what string) {
			t.Helper()
			v := s.version(t)
			if _, known := shapes[v]; !known {
				want.upTo(t, v)
				shapes[v] = want.shape(t)
			}
			if got := s.shape(t); !slices.Equal(got, shapes[v]) {
				t.Fatalf("%s: version %d, and not its schema:\n%s", what, v, strings.Join(differ(got, shapes[v]), "\n"))
			}
			if a, b := s.number(t, "SELECT count(*) FROM sp_accounts"), s.number(t, "SELECT count(*) FROM sp_sessions"); a != people || b != people {
				t.Fatalf("%s: %d accounts and %d sessions of %d", what, a, b, people)
			}
			if rows := s.number(t, "SELECT count(*) FROM sp_migrations WHERE version_id > 0"); rows != int64(slices.Index(versions, v)+1) {
				t.Fatalf("%s: %d steps are noted at version %d", what, rows, v)
			}
		}
		whole("before")

		up := func() *running {
			r := &running{cmd: p.command("migrate", "up"), ended: make(chan struct{})}
			out := &strings.Builder{}
			r.cmd.Stdout, r.cmd.Stderr = out, out
			if err := r.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() {
				if r.err = r.cmd.Wait(); r.err != nil {
					r.err = fmt.Errorf("%w: %s", r.err, out)
				}
				close(r.ended)
			}()
			t.Cleanup(r.kill)
			return r
		}
		// The step after the old release; the one that changes its largest table.
		for _, step := range []int64{6, 10} {
			inside, after := s.stall(t, step)
			r := up()
			inside()
			r.kill()
			after()
			if v := s.version(t); v != versions[slices.Index(versions, step)-1] {
				t.Fatalf("killed inside step %d: version %d", step, v)
			}
			whole(fmt.Sprint("killed inside step ", step))
		}
		// At any moment, and never at the end.
		for range 5 {
			_, after := s.stall(t, latest)
			r := up()
			time.Sleep(rand.N(150 * time.Millisecond))
			r.kill()
			after()
			if s.version(t) == latest {
				t.Fatal("the last step was done by a process that was killed before its end")
			}
			whole("killed at some moment")
		}
		// Two wait while a third dies inside the last step.
		inside, after := s.stall(t, latest)
		r := up()
		inside()
		waiting := []*running{up(), up()}
		signal := func(sig os.Signal) {
			for _, r := range waiting {
				if err := r.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
		}
		// On SQLite the next of them would stall as the first did, if it were quicker than
		// what ends the stalling.
		time.Sleep(300 * time.Millisecond) // so that they wait
		signal(syscall.SIGSTOP)
		r.kill()
		after()
		signal(syscall.SIGCONT)
		for _, r := range waiting {
			if <-r.ended; r.err != nil {
				t.Error(r.err)
			}
		}
		whole("after all")
		if v := s.version(t); v != latest {
			t.Errorf("version %d, want %d", v, latest)
		}
		sv := p.serve(t)
		if got := sv.get(t, "/users/me", sv.signIn(t, "p7")); got != http.StatusOK {
			t.Errorf("somebody of the old release: %d", got)
		}
	})
}

// differ lists what only one of two schemas has.
func differ(got, want []string) (out []string) {
	for _, line := range got {
		if !slices.Contains(want, line) {
			out = append(out, "+ "+line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			out = append(out, "- "+line)
		}
	}
	return out
}
