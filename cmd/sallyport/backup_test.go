package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// Backups and moves of the database, with the program as it is delivered.

// tryCLI runs a command, killed after a time if that is not 0, and returns its exit
// code (-1: killed) and what it said.
func (p place) tryCLI(t *testing.T, after time.Duration, args ...string) (code int, said string) {
	t.Helper()
	ctx := t.Context()
	if after > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, after) // SIGKILL
		defer cancel()
	}
	c := exec.CommandContext(ctx, binary, append(args, "--data", p.data)...)
	c.Env = p.env
	out, err := c.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode(), string(out)
	}
	if err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	if err != nil {
		return -1, string(out)
	}
	return 0, string(out)
}

func (p place) wantCLI(t *testing.T, code int, words string, args ...string) {
	t.Helper()
	got, said := p.tryCLI(t, 0, args...)
	if got != code || !strings.Contains(said, words) {
		t.Fatalf("sallyport %s: exit code %d, want %d and %q:\n%s", strings.Join(args, " "), got, code, words, said)
	}
}

// emails returns the addresses in a SQLite database, or in a backup, which is one.
func emails(t *testing.T, path string) (out []string) {
	t.Helper()
	d, err := sql.Open("sqlite", "file:"+path+"?mode=ro&immutable=1")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	rows, err := d.Query("SELECT email FROM sp_accounts ORDER BY email")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// TestF_BackupUnderLoad: while people register, backups are made that hold all who
// were told, before each began, that they have an account.
func TestF_BackupUnderLoad(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.env = append(p.env, "SALLYPORT_LIMITS_REGISTER=off", "SALLYPORT_PASSWORD_MEMORY=8192", "SALLYPORT_PASSWORD_TIME=5")
	r := p.serve(t)
	var mu sync.Mutex
	var told []string
	var stop atomic.Bool
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				email := fmt.Sprintf("p%d-%d@example.com", i, n)
				body, _ := json.Marshal(map[string]string{"email": email, "password": testPassword})
				res, err := r.client.Post(r.base+"/auth/register", "application/json", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				if res.StatusCode != http.StatusCreated {
					t.Errorf("register during a backup: %d", res.StatusCode)
					return
				}
				mu.Lock()
				told = append(told, email)
				mu.Unlock()
			}
		})
	}
	dir := t.TempDir()
	atLeast := func(n int) []string {
		r.until(t, 20*time.Second, "people register", func() bool { mu.Lock(); defer mu.Unlock(); return len(told) >= n })
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(told)
	}
	for i := range 5 {
		before := atLeast(5 * (i + 1))
		path := filepath.Join(dir, fmt.Sprint(i))
		p.cli(t, "backup", "create", path)
		got := emails(t, path)
		for _, email := range before {
			if !slices.Contains(got, email) {
				t.Errorf("backup %d does not hold %s, who registered before it", i, email)
			}
		}
		p.cli(t, "backup", "verify", path)
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v: %v", st.Mode(), err)
		}
	}
	stop.Store(true)
	writers.Wait()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 5 {
		t.Errorf("%d files beside five backups: %v", len(files)-5, err)
	}
}

// client is somebody with one of every credential.
type client struct {
	tokens
	key          string
	id, secret   string // of a machine client
	clientAccess string
	cookies      http.CookieJar
}

func newClient(t *testing.T, p place, r *running, name string) *client {
	t.Helper()
	c := &client{tokens: r.signIn(t, name)}
	c.key, _ = p.cli(t, "apikey", "create", name, "k")["key"].(string)
	made := p.cli(t, "client", "create", "machine")
	c.id, _ = made["client_id"].(string)
	c.secret, _ = made["client_secret"].(string)
	c.clientAccess = c.fromMachine(t, r)
	c.cookies, _ = cookiejar.New(nil) // never fails
	if got := c.byCookie(t, r, "POST", "/auth/login?mode=cookie", passwordForm(name)); got != http.StatusNoContent {
		t.Fatalf("sign-in with a cookie: %d", got)
	}
	return c
}

func (c *client) byCookie(t *testing.T, r *running, method, path string, form url.Values) int {
	t.Helper()
	req, err := http.NewRequest(method, r.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	// The jar looks at the host and not at the port, so that it outlives a restart.
	res, err := (&http.Client{Jar: c.cookies}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func (c *client) fromMachine(t *testing.T, r *running) string {
	t.Helper()
	status, doc := r.call(t, "POST", "/token", "", url.Values{"grant_type": {"client_credentials"}, "client_id": {c.id}, "client_secret": {c.secret}})
	if status != http.StatusOK {
		return ""
	}
	return tokensOf(doc).access
}

// good returns which of the credentials are.
func (c *client) good(t *testing.T, r *running) (out []string) {
	t.Helper()
	add := func(what string, good bool) {
		if good {
			out = append(out, what)
		}
	}
	add("access token", r.get(t, "/users/me", c.tokens) == http.StatusOK)
	req, err := http.NewRequest("GET", r.base+"/users/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", c.key)
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	add("API key", res.StatusCode == http.StatusOK)
	add("cookie", c.byCookie(t, r, "GET", "/users/me", nil) == http.StatusOK)
	add("machine client", c.fromMachine(t, r) != "")
	add("its token", r.get(t, "/users/me/sessions", tokens{access: c.clientAccess}) == http.StatusOK)
	status, doc := r.call(t, "POST", "/token", "", refreshForm(c.refresh))
	add("refresh token", status == http.StatusOK)
	if status == http.StatusOK {
		c.tokens = tokensOf(doc)
	}
	return out
}

var everything = []string{"access token", "API key", "cookie", "machine client", "its token", "refresh token"}

// TestF_RestoreBringsNothingRevokedBack: the whole way of a backup, with a server
// that runs before and after.
func TestF_RestoreBringsNothingRevokedBack(t *testing.T) {
	t.Parallel()
	p, listen := newPlace(t).fixed(t)
	r := p.serve(t, listen...)
	p.cli(t, "admin", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
	ada := newClient(t, p, r, "ada")
	if got := ada.good(t, r); !slices.Equal(got, everything) {
		t.Fatalf("before: %q", got)
	}
	file := filepath.Join(t.TempDir(), "backup")
	p.cli(t, "backup", "create", file)

	// What is ended after the backup.
	revoked := newClient(t, p, r, "ada")
	p.cli(t, "user", "logout", "ada")
	p.cli(t, "client", "delete", ada.id, "--yes")
	p.cli(t, "user", "create", "--username", "late", "--email", "late@example.com", "--password-stdin")

	p.wantCLI(t, exitUsage, "another process has it open", "backup", "restore", file, "--yes")
	p.wantCLI(t, exitUsage, "another process has it open", "migrate", "move", "--to", "postgres://127.0.0.1:1/x")
	if got := r.get(t, "/readyz", tokens{}); got != http.StatusOK {
		t.Errorf("the server that stood in the way: %d", got)
	}
	r.terminate(t)
	p.wantCLI(t, exitUsage, "add --yes", "backup", "restore", file)
	code, said := p.tryCLI(t, 0, "backup", "restore", file, "--yes")
	if code != 0 || !strings.Contains(said, "account.created 1, ") || !strings.Contains(said, "client.deleted 1") || !strings.Contains(said, "sessions: 4 ended") {
		t.Fatalf("restore: exit code %d\n%s", code, said)
	}
	kept, err := filepath.Glob(filepath.Join(p.data, "sallyport.db.replaced-*"))
	if err != nil || len(kept) != 1 || !slices.Contains(emails(t, kept[0]), "late@example.com") {
		t.Errorf("the database that was replaced is kept as %q: %v", kept, err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.data, ".restore-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	r = p.serve(t, listen...)
	for name, c := range map[string]*client{"of before the backup": ada, "of after it": revoked} {
		if got := c.good(t, r); len(got) > 0 {
			t.Errorf("%s, good again: %q", name, got)
		}
	}
	r.signIn(t, "ada")
	p.cli(t, "client", "enable", ada.id)
	r.until(t, soon, "the client is enabled", func() bool { return ada.fromMachine(t, r) != "" })
	r.terminate(t)

	// With everything kept, what was good when the backup was made is good, and what
	// is younger is not.
	ada2 := func() *client {
		r := p.serve(t, listen...)
		defer r.terminate(t)
		return newClient(t, p, r, "ada")
	}()
	p.cli(t, "backup", "create", file, "--yes")
	p.cli(t, "backup", "restore", file, "--yes", "--keep", "sessions,api-keys,clients,recovery-codes,signing-keys")
	r = p.serve(t, listen...)
	if got := ada2.good(t, r); !slices.Equal(got, everything) {
		t.Errorf("kept: %q, want %q", got, everything)
	}
}

// fixed gives a place an address that it keeps over restarts, as its base URL, and
// cookies on it.
func (p place) fixed(t *testing.T) (fixed place, flags []string) {
	t.Helper()
	addr := fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
	p.env = append(slices.Clone(p.env), "SALLYPORT_BASE_URL=http://"+addr, "SALLYPORT_DEV=true")
	return p, []string{"--listen", addr}
}

// TestF_PostgresIsRestoredBySettling: the same with PostgreSQL's own tools.
func TestF_PostgresIsRestoredBySettling(t *testing.T) {
	t.Parallel()
	p, listen := newPlace(t).fixed(t)
	from, to := testkit.PostgresURL(t), testkit.PostgresURL(t)
	q := p
	p.env = append(slices.Clone(p.env), "SALLYPORT_DATABASE="+from)
	q.env = append(slices.Clone(q.env), "SALLYPORT_DATABASE="+to)
	tool := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
			testkit.Missing(t, "there is no %s", name)
		} else if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	r := p.serve(t, listen...)
	p.cli(t, "admin", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
	ada := newClient(t, p, r, "ada")
	dump := filepath.Join(t.TempDir(), "dump")
	tool("pg_dump", "--format=custom", "--no-owner", "--file="+dump, from)
	p.wantCLI(t, exitUsage, "another process has it open", "backup", "settle", "--yes")
	if got := ada.good(t, r); !slices.Equal(got, everything) {
		t.Fatalf("before: %q", got)
	}
	r.terminate(t)
	tool("pg_restore", "--no-owner", "--exit-on-error", "--dbname="+to, dump)
	q.wantCLI(t, 0, "sessions: 3 ended", "backup", "settle", "--yes")
	r = q.serve(t, listen...)
	if got := ada.good(t, r); len(got) > 0 {
		t.Errorf("good again: %q", got)
	}
	r.signIn(t, "ada")
}

// TestF_RestoreSurvivesKills: at every moment there is a database, the one before
// or the one of the backup, and neither a part nor a new one.
func TestF_RestoreSurvivesKills(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.cli(t, "admin", "create", "--username", "old", "--email", "old@example.com", "--password-stdin")
	file := filepath.Join(t.TempDir(), "backup")
	p.cli(t, "backup", "create", file)
	p.cli(t, "user", "create", "--username", "new", "--email", "new@example.com", "--password-stdin")
	began := time.Now()
	p.cli(t, "backup", "restore", file, "--yes")
	whole := 5 * time.Since(began) / 4
	kills := 0
	for range 25 {
		code, said := p.tryCLI(t, 1+rand.N(whole), "backup", "restore", file, "--yes")
		if code == -1 {
			kills++
		} else if code != 0 {
			t.Fatalf("exit code %d: %s", code, said)
		}
		if code, said := p.tryCLI(t, 0, "user", "get", "old", "--json"); code != 0 {
			t.Fatalf("after a kill: exit code %d: %s", code, said)
		}
	}
	if kills == 0 {
		t.Error("it was never killed")
	}
	p.cli(t, "backup", "restore", file, "--yes")
	if got := p.cli(t, "user", "list")["items"].([]any); len(got) != 1 {
		t.Errorf("%d accounts, want the one of the backup", len(got))
	}
	if left, _ := filepath.Glob(filepath.Join(p.data, ".restore-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	t.Logf("%d kills", kills)
}

// TestF_BackupOnAFullDisk: nothing is left, and nothing is lost.
func TestF_BackupOnAFullDisk(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.cli(t, "admin", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
	file := filepath.Join(t.TempDir(), "backup")
	p.cli(t, "backup", "create", file)
	small := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=200k,mode=700", "tmpfs", small).CombinedOutput(); err != nil {
		testkit.Missing(t, "no small file system can be mounted: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	p.wantCLI(t, exitFailed, "the copy failed", "backup", "create", filepath.Join(small, "b"))
	if files, err := os.ReadDir(small); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v %v", files, err)
	}
	// A data folder that is full: what is there stays.
	key, err := os.ReadFile(filepath.Join(p.data, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	full := p
	full.data = filepath.Join(small, "data")
	if err := errors.Join(os.Mkdir(full.data, 0o700), os.WriteFile(filepath.Join(full.data, "master.key"), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	full.wantCLI(t, exitFailed, "The database is as it was", "backup", "restore", file, "--yes")
	files, err := os.ReadDir(full.data)
	for _, f := range files {
		if f.Name() != "master.key" && f.Name() != "sallyport.db-lock" {
			t.Errorf("left behind: %s", f.Name())
		}
	}
	if err != nil {
		t.Error(err)
	}
	p.cli(t, "backup", "restore", file, "--yes")
	p.cli(t, "user", "get", "ada")
}

// TestF_MoveSignsNobodyOut: SQLite to PostgreSQL and back, killed on the way, with a
// client that goes on with what it has.
func TestF_MoveSignsNobodyOut(t *testing.T) {
	t.Parallel()
	p, listen := newPlace(t).fixed(t)
	q := p // the same folder, and so the same master key
	postgresURL := testkit.PostgresURL(t)
	q.env = append(slices.Clone(p.env), "SALLYPORT_DATABASE="+postgresURL)
	urlFile := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(urlFile, []byte(postgresURL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := p.serve(t, listen...)
	p.cli(t, "admin", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
	ada := newClient(t, p, r, "ada")
	if got := ada.good(t, r); !slices.Equal(got, everything) {
		t.Fatalf("before: %q", got)
	}
	old := ada.tokens
	r.terminate(t)
	var people strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&people, "{\"email\":\"p%d@example.com\"}\n", i)
	}
	file := filepath.Join(t.TempDir(), "people.ndjson")
	if err := os.WriteFile(file, []byte(people.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cli(t, "import", "ndjson", file)

	// The way back is to a folder of its own; the master key goes along.
	back := p
	back.data = filepath.Join(t.TempDir(), "back")
	for _, leg := range []struct {
		name     string
		from, to place
		flags    []string
	}{
		{"there", p, q, []string{"--to-file", urlFile}},
		{"back", q, back, []string{"--to", "sqlite:" + back.data}},
	} {
		kills := 0
		args := append([]string{"migrate", "move", "--json"}, leg.flags...)
		code, said := -1, ""
		for pause := 100 * time.Millisecond; code == -1; pause = pause * 3 / 2 {
			if code, said = leg.from.tryCLI(t, pause, args...); code == -1 {
				kills++
			}
			// What is half-way is not served, nor made anew.
			if code == -1 && kills%2 == 0 {
				if got, said := leg.from.tryCLI(t, 0, "user", "get", "ada"); got != 0 && !strings.Contains(said, "move") {
					t.Fatalf("%s: half-way, the source says %s", leg.name, said)
				}
			}
		}
		if code != 0 || kills == 0 {
			t.Fatalf("%s: exit code %d after %d kills: %s", leg.name, code, kills, said)
		}
		if strings.Contains(said, "postgres:") && strings.Contains(said, ":"+passwordOf(t, postgresURL)+"@") {
			t.Errorf("the password of the database was printed: %s", said)
		}
		leg.from.wantCLI(t, 0, "nothing is left to do", append([]string{"migrate", "move"}, leg.flags...)...)
		leg.from.wantCLI(t, exitUsage, "it was moved to", "user", "list")
		leg.from.wantCLI(t, exitUsage, "it was moved to", "serve", "--listen", "127.0.0.1:0")
		if leg.name == "back" {
			leg.to.wantCLI(t, exitUsage, "the file does not exist, but the database holds keys", "user", "list")
			key, err := os.ReadFile(filepath.Join(p.data, "master.key"))
			if err := errors.Join(err, os.WriteFile(filepath.Join(back.data, "master.key"), key, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		r = leg.to.serve(t, listen...)
		if got := ada.good(t, r); !slices.Equal(got, everything) {
			t.Errorf("%s: %q, want %q", leg.name, got, everything)
		}
		if got := len(leg.to.cli(t, "user", "list")["items"].([]any)); got != 4001 {
			t.Errorf("%s: %d accounts", leg.name, got)
		}
		t.Logf("%s: %d kills", leg.name, kills)
		if leg.name == "there" {
			r.terminate(t)
		}
	}
	// And a token that was exchanged long ago is still seen to be used.
	if status, _ := r.call(t, "POST", "/token", "", refreshForm(old.refresh)); status != http.StatusBadRequest {
		t.Errorf("a used refresh token: %d, want 400", status)
	}
}

func passwordOf(t *testing.T, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	pw, _ := u.User.Password()
	return pw
}
