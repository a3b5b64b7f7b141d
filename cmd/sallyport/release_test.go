package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nextMigration is what the next release might bring: a column of a table that
// every request reads and every sign-in writes, and a table with an index.
const nextMigration = `-- +goose Up
ALTER TABLE sp_sessions ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey';
ALTER TABLE sp_changes ADD COLUMN colour TEXT;
CREATE TABLE sp_colours (name TEXT PRIMARY KEY, seen_at BIGINT NOT NULL);
CREATE INDEX sp_colours_by_age ON sp_colours (seen_at);
INSERT INTO sp_compatible (version, oldest) VALUES (9001, 21);
`

// buildNext builds this program with one migration more.
func buildNext(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	here, err := filepath.Abs("../../internal/db/migrations/9001_next.sql")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "next.sql")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here: file}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{file: []byte(nextMigration), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := filepath.Join(dir, "sallyport")
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", next, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return next
}

// TestNextReleaseBesideThisOne has the next release bring the schema up to date
// while this one serves, with a transaction in the way that holds a table for
// seconds. No request fails, and this release can be started again afterwards:
// unless a step says nothing of it.
func TestNextReleaseBesideThisOne(t *testing.T) {
	t.Parallel()
	p := newPostgresPlace(t)
	p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off")
	next := buildNext(t)
	r := p.serve(t)
	_, stays := r.register(t, "stays")
	var db *sql.DB
	for _, line := range p.env {
		if url, ok := strings.CutPrefix(line, "SALLYPORT_DATABASE="); ok {
			var err error
			if db, err = sql.Open("pgx", url); err != nil {
				t.Fatal(err)
			}
			defer db.Close()
		}
	}

	// Load that reads and writes what the migration changes; none of it may fail.
	reads := r.stream(t, "/users/me", stays, 2, 5*time.Millisecond)
	writes := &stream{}
	writes.clients.Go(func() {
		for i := 0; !writes.enough.Load(); i++ {
			began := time.Now()
			status, doc, err := r.try("POST", "/token", "", passwordForm("stays"))
			a := answer{sent: began, came: time.Now(), status: status, doc: doc, err: err}
			if tk := tokensOf(doc); tk.access != "" {
				a = r.ask(r.client, "POST", "/logout", tk.access, nil)
			}
			writes.mu.Lock()
			writes.answers = append(writes.answers, a)
			writes.mu.Unlock()
		}
	})
	t.Cleanup(func() { writes.end() })

	blocker, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec("SELECT COUNT(*) FROM sp_sessions"); err != nil {
		t.Fatal(err)
	}
	up := exec.Command(next, "migrate", "up", "--data", p.data)
	up.Env = p.env
	upErr := make(chan error, 1)
	began := time.Now()
	go func() {
		out, err := up.CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		upErr <- err
	}()
	waited := false
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var waiting bool
		if err := db.QueryRow("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'sp_sessions'::regclass AND mode = 'AccessExclusiveLock')").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		waited = waited || waiting
	}
	if !waited {
		t.Error("the migration never waited for the table: this has shown nothing")
	}
	select {
	case err := <-upErr:
		t.Fatalf("the migration ended while the table was held: %v", err)
	default:
	}
	if err := blocker.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-upErr; err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	reads.until(t, 10*time.Second, 20, time.Now(), is(http.StatusOK))
	slowest := time.Duration(0)
	for name, answers := range map[string][]answer{"read": reads.end(), "write": writes.end()} {
		for _, a := range answers {
			slowest = max(slowest, a.came.Sub(a.sent))
			if a.status != http.StatusOK {
				t.Errorf("%s: %v %v", name, a, a.doc)
			}
		}
		if len(answers) < 20 {
			t.Errorf("%d answers to a %s", len(answers), name)
		}
	}
	t.Logf("migrated in %v; %d reads and %d sign-ins with logout without a failure, the slowest %v", took.Round(time.Millisecond), len(reads.answers), len(writes.answers), slowest.Round(time.Millisecond))

	// This release beside the next one, and after it.
	status := p.cli(t, "migrate", "status")
	if status["version"] != 9001.0 || status["oldest"] != 21.0 || status["served"] != true {
		t.Errorf("migrate status: %v", status)
	}
	serveNext := exec.Command(next, "serve", "--listen", "127.0.0.1:0", "--data", p.data)
	serveNext.Env = p.env
	n := p.serveCommand(t, serveNext)
	r.terminate(t)
	r = p.serve(t)
	for _, node := range []*running{r, n} {
		if got := node.get(t, "/users/me", stays); got != http.StatusOK {
			t.Errorf("a session: %d", got)
		}
		tk := node.signIn(t, "stays")
		node.must(t, "POST", "/logout", tk, nil)
		node.wantRefused(t, tk)
	}
	p.cli(t, "user", "get", "stays")
	p.cli(t, "grant", "stays", "moderator")
	p.cli(t, "migrate", "up")
	n.terminate(t)

	// A step that says nothing has a schema that needs its own release.
	if _, err := db.Exec("INSERT INTO sp_migrations (version_id, is_applied) VALUES (9002, TRUE)"); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("its schema (version 9002) is newer than this program knows (version %v). Run the release that wrote it, or a later one; nothing was changed", status["latest"])
	for _, args := range [][]string{{"user", "list"}, {"serve", "--listen", "127.0.0.1:0"}, {"migrate", "up"}} {
		p.wantCLI(t, exitUsage, want, args...)
	}
}
