package main

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// postgresServer is a server of PostgreSQL that may die.
type postgresServer struct{ dir, url string }

func (s *postgresServer) script(t *testing.T, command string, more ...string) string {
	t.Helper()
	out, err := exec.Command("../../scripts/postgres", append([]string{command, s.dir}, more...)...).Output()
	if err != nil {
		stderr := ""
		if e, ok := err.(*exec.ExitError); ok {
			stderr = string(e.Stderr)
		}
		t.Fatalf("scripts/postgres %s: %v\n%s", command, err, stderr)
	}
	return strings.TrimSpace(string(out))
}

// newReplicated starts a primary and a standby that follows it, and returns a place whose
// database is both.
func newReplicated(t *testing.T) (primary, standby *postgresServer, p place) {
	t.Helper()
	if os.Getenv(testkit.PostgresEnv) == "" {
		testkit.Missing(t, "%s is not set: run scripts/postgres, or make test", testkit.PostgresEnv)
	}
	above, err := os.MkdirTemp("", "sallyport-pair-") // t.TempDir may be closed to the servers' user
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(above, 0o755); err != nil {
		t.Fatal(err)
	}
	primary, standby = &postgresServer{dir: filepath.Join(above, "a")}, &postgresServer{dir: filepath.Join(above, "b")}
	t.Cleanup(func() {
		standby.script(t, "stop")
		primary.script(t, "stop")
		os.RemoveAll(above)
	})
	primary.url = primary.script(t, "start")
	standby.url = standby.script(t, "standby", primary.dir)
	a, errA := url.Parse(primary.url)
	b, errB := url.Parse(standby.url)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	p = newPlace(t)
	// The one that is not to be written to comes first.
	p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off", "SALLYPORT_DATABASE="+strings.Replace(primary.url, a.Host, b.Host+","+a.Host, 1))
	return primary, standby, p
}

// do runs statements, each in a transaction of its own.
func (s *postgresServer) do(t *testing.T, statements ...string) {
	t.Helper()
	d, err := sql.Open("pgx", s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, q := range statements {
		if _, err := d.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// ask returns the one value of a query.
func (s *postgresServer) ask(t *testing.T, query string, args ...any) (out string) {
	t.Helper()
	d, err := sql.Open("pgx", s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.QueryRow(query, args...).Scan(&out); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// eventually waits until a query answers.
func (s *postgresServer) eventually(t *testing.T, want, query string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := s.ask(t, query, args...)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %q, want %q", query, got, want)
		}
	}
}

// ledger is what was acknowledged to clients.
type ledger struct {
	mu       sync.Mutex
	accounts []string
	gone     []tokens // of sessions that were ended
	last     tokens   // of a chain of refreshes
	lastAck  time.Time
	resumed  time.Time // the first write that was acknowledged after ...
	after    time.Time // ... this moment
}

func (l *ledger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	l.lastAck = time.Now()
	if !l.after.IsZero() && l.resumed.IsZero() {
		l.resumed = l.lastAck
	}
}

// TestFailoverLosesNothing kills the primary of a pair with synchronous replication
// under load, and promotes the standby.
func TestFailoverLosesNothing(t *testing.T) {
	t.Parallel()
	primary, standby, p := newReplicated(t)
	primary.do(t, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	primary.eventually(t, "sync", "SELECT COALESCE(max(sync_state), '') FROM pg_stat_replication")
	r := p.serve(t)
	_, chain := r.register(t, "chain")
	_, stays := r.register(t, "stays")
	l := &ledger{last: chain}

	var enough atomic.Bool
	var clients sync.WaitGroup
	expect := func(what string, a answer, want ...int) (acknowledged bool) {
		if a.status == 0 || a.status == http.StatusServiceUnavailable && a.retryAfter != "" {
			return false // it is not known what became of it
		}
		for _, w := range want {
			if a.status == w {
				return true
			}
		}
		t.Errorf("%s: %v %v", what, a, a.doc)
		return false
	}
	again := func(f func(i int)) {
		clients.Go(func() {
			for i := 0; !enough.Load(); i++ {
				f(i)
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	again(func(i int) {
		name := fmt.Sprintf("new%d", i)
		if expect("register", r.ask(r.client, "POST", "/auth/register", "", map[string]string{"username": name, "email": name + "@example.com", "password": testPassword}), 201) {
			l.note(func() { l.accounts = append(l.accounts, name) })
		}
	})
	again(func(int) {
		status, doc, err := r.try("POST", "/token", "", refreshForm(l.last.refresh))
		switch {
		case err != nil || status == http.StatusServiceUnavailable:
		case status == http.StatusOK:
			l.note(func() { l.last = tokensOf(doc) })
		default:
			t.Errorf("refresh: %d %v", status, doc)
			enough.Store(true)
		}
	})
	again(func(int) {
		status, doc, err := r.try("POST", "/token", "", passwordForm("stays"))
		if err != nil || status != http.StatusOK {
			if err == nil && status != http.StatusServiceUnavailable {
				t.Errorf("sign-in: %d %v", status, doc)
			}
			return
		}
		tk := tokensOf(doc)
		r.ask(r.client, "GET", gated, tk.access, nil) // so that the node remembers it
		if expect("logout", r.ask(r.client, "POST", "/logout", tk.access, nil), 200, 204) {
			l.note(func() { l.gone = append(l.gone, tk) })
		}
	})
	again(func(int) {
		l.mu.Lock()
		var tk tokens
		if n := len(l.gone); n > 0 {
			tk = l.gone[rand.IntN(n)]
		}
		l.mu.Unlock()
		if tk.access != "" {
			expect("an ended session", r.ask(r.client, "GET", gated, tk.access, nil), 401)
		}
	})
	good := r.stream(t, gated, stays, 1, 5*time.Millisecond)
	time.Sleep(1500 * time.Millisecond) // of load

	primary.script(t, "crash")
	killed := time.Now()
	good.until(t, 10*time.Second, 1, killed, is(http.StatusServiceUnavailable))
	standby.script(t, "promote")
	promoted := time.Now()
	l.mu.Lock()
	l.after = promoted
	before := len(l.accounts) + len(l.gone)
	l.mu.Unlock()
	// A client waits for a second at the most between two attempts.
	const back = 10 * time.Second
	good.until(t, back, 5, promoted, is(http.StatusOK))
	r.until(t, back, "writes are acknowledged again", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.resumed.IsZero()
	})
	time.Sleep(500 * time.Millisecond)
	enough.Store(true)
	clients.Wait()
	if before < 10 {
		t.Errorf("%d operations were acknowledged before: too few to tell", before)
	}
	for _, a := range good.end() {
		if a.status != http.StatusOK && (a.status != http.StatusServiceUnavailable || a.retryAfter == "") {
			t.Errorf("a good token: %v", a)
		}
	}
	for _, name := range l.accounts {
		r.signIn(t, name)
	}
	for _, tk := range l.gone {
		r.wantRefused(t, tk)
	}
	r.refresh(t, l.last.refresh)
	if strings.Contains(r.output(t), "the database has lost changes") {
		t.Errorf("nothing was lost:\n%s", r.output(t))
	}
	t.Logf("%d registrations and %d logouts acknowledged, %d of both before the primary died; writes again %v after the promotion, which took %v",
		len(l.accounts), len(l.gone), before, l.resumed.Sub(promoted).Round(time.Millisecond), promoted.Sub(killed).Round(time.Millisecond))
}

// TestFailoverThatLosesALogout promotes a standby that was behind: asynchronous
// replication has lost a logout. The nodes that had heard of it end every session.
// A server that is started again has lost nothing, and nothing happens.
func TestFailoverThatLosesALogout(t *testing.T) {
	t.Parallel()
	primary, standby, p := newReplicated(t)
	a, b := p.serve(t), p.serve(t)
	_, stays := a.register(t, "stays")
	_, leaver := a.register(t, "leaver")
	works := func(r *running, tk tokens) func() bool {
		return func() bool { return r.get(t, "/users/me", tk) == http.StatusOK }
	}
	for range 3 {
		b.until(t, soon, "the other node knows both", func() bool { return works(b, stays)() && works(b, leaver)() })
	}
	events := func(s *postgresServer) string {
		t.Helper()
		return s.ask(t, "SELECT COALESCE(string_agg(action, ' ' ORDER BY at, id), '') FROM sp_audit WHERE action IN ('database.went_back', 'database.settled')")
	}

	primary.script(t, "restart")
	for _, r := range []*running{a, b} {
		r.until(t, 10*time.Second, "it is back", works(r, stays))
		a.must(t, "POST", "/logout", a.signIn(t, "stays"), nil) // a change that is known
	}
	primary.script(t, "restart")
	for _, r := range []*running{a, b} {
		r.until(t, 10*time.Second, "it is back", works(r, stays))
		r.until(t, 10*time.Second, "the other is still signed in", works(r, leaver)) // a connection from before may cost a 503
		if strings.Contains(r.output(t), "the database has lost changes") {
			t.Fatalf("a restart was taken for a loss:\n%s", r.output(t))
		}
	}
	if got := events(primary); got != "" {
		t.Fatalf("a restart: %s", got)
	}

	standby.eventually(t, primary.ask(t, "SELECT max(id) FROM sp_audit"), "SELECT max(id) FROM sp_audit")
	standby.do(t, "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'", "SELECT pg_reload_conf()")
	primary.eventually(t, "0", "SELECT count(*)::text FROM pg_stat_replication")
	a.must(t, "POST", "/logout", leaver, nil)
	over := time.Now()
	b.until(t, soon, "the other node has heard of it", func() bool {
		return b.ask(b.client, "GET", gated, leaver.access, nil).status == http.StatusUnauthorized
	})
	streams := []*stream{a.stream(t, gated, leaver, 1, 5*time.Millisecond), b.stream(t, gated, leaver, 1, 5*time.Millisecond)}
	primary.script(t, "crash")
	if got := standby.ask(t, "SELECT count(*)::text FROM sp_sessions WHERE ended_at = 0 AND subject_id = (SELECT id FROM sp_accounts WHERE username = 'leaver')"); got != "1" {
		t.Fatalf("%s sessions of the leaver on the standby, want the one that has come back", got)
	}
	standby.script(t, "promote")
	promoted := time.Now()
	var tk tokens
	a.until(t, 10*time.Second, "people sign in again", func() bool {
		status, doc, err := a.try("POST", "/token", "", passwordForm("stays"))
		tk = tokensOf(doc)
		return err == nil && status == http.StatusOK && works(a, tk)() && strings.HasSuffix(events(standby), "database.settled")
	})
	t.Logf("signed in again %v after the promotion", time.Since(promoted).Round(time.Millisecond))
	for _, r := range []*running{a, b} {
		r.until(t, 10*time.Second, "the new session holds", works(r, tk))
		r.wantRefused(t, leaver)
		r.wantRefused(t, stays)
	}
	heard := 0
	for i, s := range streams {
		unavailable := 0
		for _, x := range s.end() {
			switch {
			case x.status == http.StatusOK && x.sent.After(over):
				t.Errorf("node %d let the ended session in: %v", i, x)
			case x.status == http.StatusServiceUnavailable:
				unavailable++
			}
		}
		if unavailable == 0 {
			t.Errorf("node %d was never without its database", i)
		}
	}
	for _, r := range []*running{a, b} {
		if strings.Contains(r.output(t), "the database has lost changes") {
			heard++
		}
	}
	if heard == 0 {
		t.Error("no node has said anything")
	}
	if got := events(standby); got != "database.went_back database.settled" {
		t.Errorf("events: %s", got)
	}
}
