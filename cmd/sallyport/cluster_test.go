package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/netfault"
	"github.com/sallyport/sallyport/internal/testkit"
)

// gated is a path behind the gate and in front of nothing: whoever sends a
// credential there is answered 200, 401 or 503, and no handler reads the
// database afterwards. Without a credential it is public.
const gated = "/docs/page.css"

// answer is how a node answered one request.
type answer struct {
	sent, came time.Time
	status     int // 0: not at all
	code       string
	retryAfter string
	doc        map[string]any
	err        error
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s (sent %s, answered after %v, %v)", a.status, a.code, a.sent.Format("05.000"), a.came.Sub(a.sent).Round(time.Millisecond), a.err)
}

// ask sends one request, with body as JSON if it is not nil.
func (r *running) ask(c *http.Client, method, path, bearer string, body any) (a answer) {
	var b bytes.Buffer
	if body != nil {
		if a.err = json.NewEncoder(&b).Encode(body); a.err != nil {
			return a
		}
	}
	req, err := http.NewRequest(method, r.base+path, &b)
	if err != nil {
		return answer{err: err}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	a.sent = time.Now()
	defer func() { a.came = time.Now() }()
	res, err := c.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		a.err = err
		return a
	}
	a.status, a.retryAfter = res.StatusCode, res.Header.Get("Retry-After")
	if json.Unmarshal(text, &a.doc) == nil { // the gated path is no JSON
		a.code, _ = a.doc["code"].(string)
	}
	return a
}

// must sends a request that must be answered with a status of 2xx.
func (r *running) must(t *testing.T, method, path string, tk tokens, body any) map[string]any {
	t.Helper()
	a := r.ask(r.client, method, path, tk.access, body)
	if a.status/100 != 2 {
		t.Fatalf("%s %s: %v %v", method, path, a, a.doc)
	}
	return a.doc
}

// register makes an account on the node and signs in.
func (r *running) register(t *testing.T, name string) (id string, tk tokens) {
	t.Helper()
	doc := r.must(t, "POST", "/auth/register", tokens{}, map[string]string{"username": name, "email": name + "@example.com", "password": testPassword})
	id, _ = doc["id"].(string)
	return id, r.signIn(t, name)
}

// stream is requests with one credential to one node, one after the other on
// each of its connections, until it is ended.
type stream struct {
	mu      sync.Mutex
	answers []answer // in the order in which they came
	enough  atomic.Bool
	clients sync.WaitGroup
}

func (r *running) stream(t *testing.T, path string, tk tokens, clients int, pause time.Duration) *stream {
	s := &stream{}
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	for range clients {
		s.clients.Go(func() {
			for !s.enough.Load() {
				a := r.ask(c, "GET", path, tk.access, nil)
				s.mu.Lock()
				s.answers = append(s.answers, a)
				s.mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	t.Cleanup(func() { s.end(); c.CloseIdleConnections() })
	return s
}

// end waits for the last answers.
func (s *stream) end() []answer {
	s.enough.Store(true)
	s.clients.Wait()
	return s.answers
}

// until waits until n answers came to requests that were sent after a moment,
// and fit.
func (s *stream) until(t *testing.T, limit time.Duration, n int, after time.Time, fits func(answer) bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		found, last := 0, answer{}
		s.mu.Lock()
		for _, a := range s.answers {
			if a.sent.After(after) {
				last = a
				if fits(a) {
					found++
				}
			}
		}
		s.mu.Unlock()
		if found >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %d answers of %d fit; the last one: %v", limit, found, n, last)
		}
	}
}

func is(status int) func(answer) bool {
	return func(a answer) bool { return a.status == status }
}

// change is one that another process makes.
type change struct {
	name   string
	path   string
	want   int      // the status afterwards
	tokens []tokens // to which it happens
	do     func()
}

// wantHonoured makes changes, one after the other, and requires that a node
// honours each: from limit after its acknowledgement on there is no answer but
// the one that is wanted, and before it was asked for there is none but 200.
//
// A busy machine can only make this more lenient: what counts is when a request
// was sent.
func wantHonoured(t *testing.T, node *running, limit time.Duration, changes ...change) {
	t.Helper()
	type moments struct{ asked, done time.Time }
	when := make([]moments, len(changes))
	streams := make([][]*stream, len(changes))
	for i, c := range changes {
		for _, tk := range c.tokens {
			streams[i] = append(streams[i], node.stream(t, c.path, tk, 1, 2*time.Millisecond))
		}
	}
	for i, c := range changes {
		for _, s := range streams[i] {
			s.until(t, 10*time.Second, 5, time.Time{}, is(http.StatusOK))
		}
		when[i].asked = time.Now()
		c.do()
		when[i].done = time.Now()
	}
	for i, c := range changes {
		for _, s := range streams[i] {
			s.until(t, 20*time.Second, 25, when[i].done.Add(limit), is(c.want))
			var first, last time.Time // refused, accepted
			for _, a := range s.end() {
				accepted := a.status == http.StatusOK
				switch {
				case accepted && a.sent.After(when[i].done.Add(limit)):
					t.Errorf("%s: accepted %v after the acknowledgement", c.name, a.sent.Sub(when[i].done))
				case accepted && !first.IsZero():
					t.Errorf("%s: accepted again, %v after it was refused", c.name, a.sent.Sub(first))
				case accepted:
					last = a.sent
				case a.status != c.want || a.came.Before(when[i].asked):
					t.Errorf("%s: %v, want 200 before and %d afterwards", c.name, a, c.want)
				case first.IsZero():
					first = a.came
				}
				if t.Failed() {
					return // the rest only says so again
				}
			}
			t.Logf("%s: first refused %v after the acknowledgement, last accepted %v", c.name, first.Sub(when[i].done).Round(100*time.Microsecond), last.Sub(when[i].done).Round(100*time.Microsecond))
		}
	}
}

// wantAll ends a stream and requires that all its answers were 200.
func (s *stream) wantAll(t *testing.T) {
	t.Helper()
	for _, a := range s.end() {
		if a.status != http.StatusOK {
			t.Errorf("another user's token: %v, want 200", a)
			return
		}
	}
}

// TestClusterHonoursChanges has two nodes on one database. What one of them, or
// the command line, takes away, the other refuses within a second.
func TestClusterHonoursChanges(t *testing.T) {
	t.Parallel()
	t.Run("notified", func(t *testing.T) {
		t.Parallel()
		p := newPostgresPlace(t)
		testClusterHonoursChanges(t, p, p.serve(t), p.serve(t))
	})
	// Without notifications there is only the polling.
	t.Run("polling alone", func(t *testing.T) {
		t.Parallel()
		p := newPostgresPlace(t)
		through := newProxy(t, &p, true)
		testClusterHonoursChanges(t, p, p.serve(t), through.place.serve(t))
		if n := through.Deafened(); n == 0 {
			t.Error("the node never listened: it could have been notified")
		} else {
			t.Logf("%d attempts to listen were cut off", n)
		}
	})
}

func testClusterHonoursChanges(t *testing.T, p place, a, b *running) {
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")

	_, oldKey := a.register(t, "oldkey")
	active, _ := p.cli(t, "key", "rotate")["kid"].(string)
	root := a.signIn(t, "root")
	a.until(t, soon, "the new key signs", func() bool {
		a.get(t, "/users/me", root)
		root = a.signIn(t, "root")
		return kid(t, root.access) == active
	})
	retired := kid(t, oldKey.access)

	_, leaver := a.register(t, "leaver")
	disabledID, disabled := a.register(t, "disabled")
	demotedID, demoted := a.register(t, "demoted")
	a.must(t, "PUT", "/users/"+demotedID+"/roles", root, map[string]any{"roles": []string{"user", "moderator"}})
	_, ended := a.register(t, "ended")
	endedNow := a.refresh(t, ended.refresh)
	_, stays := a.register(t, "stays")
	b.until(t, 2*soon, "the role holds", func() bool { return b.get(t, "/users", demoted) == http.StatusOK })

	control := b.stream(t, gated, stays, 2, 2*time.Millisecond)
	wantHonoured(t, b, time.Second,
		change{"logout", gated, 401, []tokens{leaver}, func() { a.must(t, "POST", "/logout", leaver, nil) }},
		change{"account disabled", gated, 401, []tokens{disabled}, func() {
			a.must(t, "PATCH", "/users/"+disabledID, root, map[string]any{"disabled": true})
		}},
		change{"role taken", "/users", 403, []tokens{demoted}, func() {
			a.must(t, "PUT", "/users/"+demotedID+"/roles", root, map[string]any{"roles": []string{"user"}})
		}},
		change{"refreshed session ended by a command", gated, 401, []tokens{ended, endedNow}, func() { p.cli(t, "user", "logout", "ended") }},
		change{"key retired by a command", gated, 401, []tokens{oldKey}, func() { p.cli(t, "key", "retire", retired, "--yes") }},
	)
	control.wantAll(t)
	for name, tk := range map[string]tokens{"leaver": leaver, "disabled": disabled, "ended": endedNow} {
		if status, _ := b.call(t, "POST", "/token", "", refreshForm(tk.refresh)); status != http.StatusBadRequest {
			t.Errorf("the refresh token of %s: %d, want 400", name, status)
		}
	}
	b.refresh(t, stays.refresh)
}

// TestCommandHoldsAtTheNextRequest has a server on a SQLite file and the command
// line beside it.
func TestCommandHoldsAtTheNextRequest(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	r := p.serve(t)
	_, oldKey := r.register(t, "oldkey")
	p.cli(t, "key", "rotate")
	for range 3 {
		r.get(t, "/users/me", oldKey)
	}
	_, disabled := r.register(t, "disabled")
	_, demoted := r.register(t, "demoted")
	p.cli(t, "grant", "demoted", "moderator")
	_, ended := r.register(t, "ended")
	endedNow := r.refresh(t, ended.refresh)
	_, streamed := r.register(t, "streamed")
	_, stays := r.register(t, "stays")
	if kid(t, stays.access) == kid(t, oldKey.access) {
		t.Fatal("the new key does not sign")
	}

	// Nothing is asked while a command runs, so that nothing was polled just
	// before it wrote.
	next := func(path string, want int, tks []tokens, args ...string) {
		t.Helper()
		for range 3 {
			for _, tk := range append(tks, stays) {
				if tk != stays && r.get(t, path, tk) != http.StatusOK || r.get(t, "/users/me", tk) != http.StatusOK {
					t.Fatalf("before %v: a token is refused", args)
				}
			}
		}
		p.cli(t, args...)
		for i, tk := range tks {
			if got := r.get(t, path, tk); got != want {
				t.Errorf("after %v, the next request with token %d: %d, want %d", args, i, got, want)
			}
		}
		if got := r.get(t, "/users/me", stays); got != http.StatusOK {
			t.Errorf("after %v, another user's token: %d, want 200", args, got)
		}
	}
	next("/users/me", 401, []tokens{disabled}, "user", "disable", "disabled")
	next("/users", 403, []tokens{demoted}, "revoke", "demoted", "moderator")
	next("/users/me", 401, []tokens{ended, endedNow}, "user", "logout", "ended")
	next("/users/me", 401, []tokens{oldKey}, "key", "retire", kid(t, oldKey.access), "--yes")

	// And under requests all the time: one lease later.
	control := r.stream(t, gated, stays, 2, time.Millisecond)
	wantHonoured(t, r, 5*time.Millisecond, change{"under load", gated, 401, []tokens{streamed}, func() { p.cli(t, "user", "logout", "streamed") }})
	control.wantAll(t)
}

// TestClusterSurvivesAKill kills nodes of a pair.
func TestClusterSurvivesAKill(t *testing.T) {
	t.Parallel()
	p := newPostgresPlace(t)
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	a, b := p.serve(t), p.serve(t)
	stays := a.signIn(t, "root")
	warm := func(tk tokens) {
		t.Helper()
		for range 3 {
			if got := b.get(t, "/users/me", tk); got != http.StatusOK {
				t.Fatalf("on the other node: %d, want 200", got)
			}
		}
	}
	warm(stays)

	before, meanwhile := a.signIn(t, "root"), a.signIn(t, "root")
	warm(before)
	warm(meanwhile)
	a.must(t, "POST", "/logout", before, nil)
	b.kill()
	a.must(t, "POST", "/logout", meanwhile, nil)
	b = p.serve(t)
	b.wantRefused(t, before)
	b.wantRefused(t, meanwhile)
	warm(stays)

	for range 3 {
		last := a.signIn(t, "root")
		warm(last)
		wantHonoured(t, b, time.Second, change{"logout and kill", gated, 401, []tokens{last}, func() {
			a.must(t, "POST", "/logout", last, nil)
			a.kill()
		}})
		b.wantRefused(t, last)
		warm(stays)
		a = p.serve(t)
		a.wantRefused(t, last)
		warm(stays)
	}
}

// TestNodeCutOff takes the database away from one node of a pair, ends a
// session on the other, and gives it back.
func TestNodeCutOff(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name      string
		cut, heal func(*proxy)
	}{
		// The database is down: connections end, and new ones are not made.
		{"refused", (*proxy).Refuse, (*proxy).Forward},
		// The network swallows everything for a while, and delivers it late.
		{"held back", (*proxy).Hold, (*proxy).Forward},
		// The database moves away, as in a failover: connections from before stay
		// open and dead for ever, new ones work.
		{"lost", (*proxy).Hold, (*proxy).ForwardNew},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgresPlace(t)
			through := newProxy(t, &p, false)
			p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
			a := p.serve(t)
			testNodeCutOff(t, a, through, func() { way.cut(through) }, func() { way.heal(through) })
		})
	}
}

// The lease of the node that is cut off, and how soon it must be back.
const (
	cutOffLease = 2 * time.Second
	recovery    = 5 * time.Second
)

func testNodeCutOff(t *testing.T, a *running, through *proxy, cut, heal func()) {
	b := through.place.serve(t, "--set", "auth.lease="+cutOffLease.String())
	_, ended := a.register(t, "ended")
	cold := a.refresh(t, ended.refresh) // of the same session, and never seen by b until it is back
	_, stays := a.register(t, "stays")

	// A busy node has many connections open.
	busy := func() (failed int64) {
		var n atomic.Int64
		var clients sync.WaitGroup
		for range 64 {
			clients.Go(func() {
				if a := b.ask(b.client, "GET", "/readyz", "", nil); a.status != http.StatusOK {
					n.Add(1)
				}
			})
		}
		clients.Wait()
		return n.Load()
	}
	if n := busy(); n > 0 {
		t.Fatalf("%d of 64 reads failed", n)
	}

	endedStream := b.stream(t, gated, ended, 4, 5*time.Millisecond)
	endedReads := b.stream(t, "/users/me/sessions", ended, 4, 5*time.Millisecond)
	staysStream := b.stream(t, gated, stays, 4, 5*time.Millisecond)
	for _, s := range []*stream{endedStream, endedReads, staysStream} {
		s.until(t, 10*time.Second, 20, time.Time{}, is(http.StatusOK))
	}
	before := resourcesOf(t, b)

	cut()
	away := time.Now()
	a.must(t, "POST", "/logout", ended, nil)
	loggedOut := time.Now()
	staysStream.until(t, cutOffLease, 1, away, is(http.StatusOK)) // for the rest of the lease
	over := away.Add(cutOffLease)
	is503 := is(http.StatusServiceUnavailable)
	time.Sleep(time.Until(over)) // what is sent from here on is refused, however late it is
	// Many requests leave nothing behind.
	many := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var burst sync.WaitGroup
	for range 1000 {
		burst.Go(func() {
			if got := b.ask(many, "GET", gated, stays.access, nil); !is503(got) {
				t.Errorf("one of many, cut off: %v, want 503", got)
			}
		})
	}
	// Meanwhile, public routes without a credential.
	for path, want := range map[string]int{
		"/livez": 200, "/docs": 200, "/openapi.json": 200, "/.well-known/oauth-authorization-server": 200, "/.well-known/jwks.json": 200, gated: 200,
		"/readyz": 503,
	} {
		if got := b.ask(b.client, "GET", path, "", nil); got.status != want {
			t.Errorf("cut off, GET %s: %v, want %d", path, got, want)
		}
	}
	burst.Wait()
	for _, s := range []*stream{endedStream, staysStream} {
		s.until(t, 15*time.Second, 4, over, is503)
	}
	var during resources
	b.until(t, 5*time.Second, "what a thousand requests took is given back", func() bool {
		during = resourcesOf(t, b)
		return during.files <= before.files+50
	})
	if during.threads > before.threads+50 {
		t.Errorf("%d threads before, %d while cut off", before.threads, during.threads)
	}

	heal()
	back := time.Now()
	b.until(t, 30*time.Second, "many reads at once are answered", func() bool { return busy() == 0 })
	readsBack := time.Since(back)
	staysStream.until(t, 15*time.Second, 20, back, is(http.StatusOK))
	endedStream.until(t, 15*time.Second, 20, back, is(http.StatusUnauthorized))
	b.wantRefused(t, cold)
	b.refresh(t, stays.refresh)

	var recovered, lastGood time.Time
	for _, a := range staysStream.end() {
		switch {
		case a.status == http.StatusOK && a.sent.After(over) && a.came.Before(back):
			t.Errorf("the good token: %v, later than the lease while cut off", a)
		case a.status == http.StatusOK && a.came.After(back) && recovered.IsZero():
			recovered = a.came
		case a.status == http.StatusOK:
		case !is503(a) || a.code != "unavailable" || a.retryAfter == "":
			t.Errorf("the good token: %v, Retry-After %q, want 200 or 503 unavailable", a, a.retryAfter)
		case !a.came.After(away):
			t.Errorf("the good token: %v, before anything happened", a)
		}
	}
	if took := recovered.Sub(back); took > recovery {
		t.Errorf("it took %v to recover, more than %v", took, recovery)
	}
	if readsBack > recovery {
		t.Errorf("it took %v until reads were answered, more than %v", readsBack, recovery)
	}
	var late []answer
	for i, answers := range [][]answer{endedStream.end(), endedReads.end()} {
		for _, a := range answers {
			switch {
			case a.status == http.StatusOK && a.sent.After(over):
				t.Errorf("the ended session: %v, sent %v after the lease", a, a.sent.Sub(over))
			case a.status == http.StatusOK && a.came.After(back):
				late = append(late, a)
				if i == 0 {
					t.Errorf("the ended session: %v, which was sent before and answered after the node came back", a)
				}
			case a.status == http.StatusOK:
				if i == 0 {
					lastGood = a.sent
				}
			case a.status == http.StatusUnauthorized && a.came.After(back):
			case !is503(a) || a.code != "unavailable" || a.retryAfter == "":
				t.Errorf("the ended session: %v, Retry-After %q, want 503 unavailable, or 401 after the node came back", a, a.retryAfter)
			}
		}
	}
	slowest := time.Duration(0)
	for _, a := range staysStream.answers {
		if is503(a) {
			slowest = max(slowest, a.came.Sub(a.sent))
		}
	}
	t.Logf("cut off for %v; ended session accepted until %v after the logout; 503 after %v at the most; back %v after the database, reads %v; %d reads admitted before and answered late; files %d → %d, threads %d → %d",
		back.Sub(away).Round(time.Millisecond), lastGood.Sub(loggedOut).Round(time.Millisecond), slowest.Round(time.Millisecond), recovered.Sub(back).Round(time.Millisecond), readsBack.Round(time.Millisecond),
		len(late), before.files, during.files, before.threads, during.threads)

	if n := b.goroutines(t); n < 5 || n > 100 {
		t.Errorf("%d goroutines in the end, after a thousand requests while cut off", n)
	} else {
		t.Logf("%d goroutines in the end", n)
	}
}

type resources struct{ files, threads int }

// resourcesOf returns what a process holds.
func resourcesOf(t *testing.T, r *running) (n resources) {
	t.Helper()
	proc := filepath.Join("/proc", fmt.Sprint(r.cmd.Process.Pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if errors.Is(err, os.ErrNotExist) {
		t.Log("no /proc here: files and threads are not counted")
		return n
	}
	threads, err2 := os.ReadDir(filepath.Join(proc, "task"))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return resources{len(files), len(threads)}
}

// goroutines ends the process and counts what ran in it.
func (r *running) goroutines(t *testing.T) int {
	t.Helper()
	before := len(r.output(t))
	if err := r.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-r.ended
	return strings.Count(r.output(t)[before:], "\ngoroutine ")
}

// TestACommitThatIsCutOff ends the connection exactly at a COMMIT. Nobody knows then
// whether it counts, so it is not tried again, the caller is told 503, and what is
// there is all of it or nothing.
func TestACommitThatIsCutOff(t *testing.T) {
	t.Parallel()
	p := newPostgresPlace(t)
	p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off")
	through := newProxy(t, &p, false)
	r := through.place.serve(t)
	account := func(name string) map[string]string {
		return map[string]string{"username": name, "email": name + "@example.com", "password": testPassword}
	}
	r.must(t, "POST", "/auth/register", tokens{}, account("control"))
	for _, c := range []struct {
		name string
		when netfault.Commit
		then int // of the same request once more
	}{
		{"before", netfault.BeforeCommit, http.StatusCreated},
		{"after", netfault.AfterCommit, http.StatusConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			through.CutAt(c.when)
			a := r.ask(r.client, "POST", "/auth/register", "", account(c.name))
			if a.status != http.StatusServiceUnavailable || a.retryAfter == "" {
				t.Fatalf("%v, Retry-After %q, want 503", a, a.retryAfter)
			}
			if through.Cuts() {
				t.Fatal("no connection was cut off")
			}
			status, doc := r.call(t, "POST", "/token", "", passwordForm(c.name))
			if there := status == http.StatusOK; there != (c.then == http.StatusConflict) {
				t.Errorf("sign-in: %d %v", status, doc)
			}
			if a := r.ask(r.client, "POST", "/auth/register", "", account(c.name)); a.status != c.then {
				t.Errorf("once more: %v %v, want %d", a, a.doc, c.then)
			}
			tk := r.signIn(t, c.name)
			through.CutAt(c.when)
			if a := r.ask(r.client, "POST", "/logout", tk.access, nil); a.status != http.StatusServiceUnavailable {
				t.Fatalf("logout: %v, want 503", a)
			}
			want := http.StatusOK
			if c.when == netfault.AfterCommit {
				want = http.StatusUnauthorized
			}
			r.until(t, soon, "what was committed is what holds", func() bool { return r.get(t, "/users/me", tk) == want })
		})
	}
}

func newPostgresPlace(t *testing.T) place {
	p := newPlace(t)
	p.env = append(p.env, "SALLYPORT_DATABASE="+testkit.PostgresURL(t))
	return p
}

// proxy stands between a node and PostgreSQL.
type proxy struct {
	*netfault.Proxy
	place place // as the node sees it
}

// newProxy puts a proxy before the database of a place. If it is deaf, connections
// that listen are cut off.
func newProxy(t *testing.T, p *place, deaf bool) *proxy {
	t.Helper()
	x := &proxy{place: *p}
	x.place.env = nil
	for _, line := range p.env {
		if value, ok := strings.CutPrefix(line, "SALLYPORT_DATABASE="); ok {
			u, err := url.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			if x.Proxy, err = netfault.New(u.Host); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(x.Close)
			x.Deafen(deaf)
			u.Host = x.Addr()
			line = "SALLYPORT_DATABASE=" + u.String()
		}
		x.place.env = append(x.place.env, line)
	}
	return x
}
