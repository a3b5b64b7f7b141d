package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/internal/testkit"
)

const testPassword = "correct horse battery staple"

// place is a server's data, on which processes start, die and start again.
type place struct {
	data  string
	env   []string
	roots *x509.CertPool // what its clients trust
	http2 bool           // and whether they speak HTTP/2
	at    string         // where they connect to whatever the URL says; "": as it says
	files int            // how many files its processes may open; 0: as many as the test
}

// eachPlace runs a test with the server's data in SQLite and in PostgreSQL.
func eachPlace(t *testing.T, f func(t *testing.T, p place)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, newPlace(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		p.env = append(p.env, "SALLYPORT_DATABASE="+testkit.PostgresURL(t))
		f(t, p)
	})
}

func newPlace(t *testing.T) place {
	return place{
		data: filepath.Join(t.TempDir(), "data"),
		// All requests of a test come from one address.
		env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(), "SALLYPORT_LIMITS_DEFAULT=off"},
	}
}

func (p place) command(args ...string) *exec.Cmd {
	args = append(args, "--data", p.data)
	c := exec.Command(binary, args...)
	if p.files > 0 {
		c = exec.Command("sh", append([]string{"-c", `ulimit -n "$0" && exec "$@"`, fmt.Sprint(p.files), binary}, args...)...)
	}
	c.Env = p.env
	return c
}

// cli runs a command that must succeed, with the test password on standard
// input, and returns the members of its JSON.
func (p place) cli(t *testing.T, args ...string) map[string]any {
	t.Helper()
	c := p.command(append(args, "--json")...)
	c.Stdin = strings.NewReader(testPassword + "\n")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("sallyport %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	var doc map[string]any
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatalf("sallyport %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return doc
}

// running is a process that serves.
type running struct {
	cmd    *exec.Cmd
	base   string
	log    string // path of what it wrote to standard error
	ended  chan struct{}
	err    error // once ended
	client *http.Client
}

var apiLine = regexp.MustCompile(`(?m)^  API +(https?://\S+)$`)

// serve starts the server on a port of its own and waits until it is ready.
func (p place) serve(t *testing.T, flags ...string) *running {
	t.Helper()
	return p.serveCommand(t, p.command(append([]string{"serve", "--listen", "127.0.0.1:0"}, flags...)...))
}

// serveCommand does that with a command that serves.
func (p place) serveCommand(t *testing.T, c *exec.Cmd) *running {
	t.Helper()
	return p.serveCommandAt(t, "", c)
}

// serveCommandAt is serveCommand for a server that is not reached where it says: base
// is where it is; "" for where it says.
func (p place) serveCommandAt(t *testing.T, base string, c *exec.Cmd) *running {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := &running{cmd: c, log: log.Name(), ended: make(chan struct{})}
	r.cmd.Stderr = log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() { r.kill(); r.client.CloseIdleConnections() })
	r.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 16, TLSClientConfig: &tls.Config{RootCAs: p.roots}, ForceAttemptHTTP2: p.http2,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, cmp.Or(p.at, addr))
		},
	}}
	r.until(t, 10*time.Second, "the server is ready", func() bool {
		select {
		case <-r.ended:
			t.Fatalf("the server ended: %v\n%s", r.err, r.output(t))
		default:
		}
		if m := apiLine.FindStringSubmatch(r.output(t)); m != nil {
			r.base = cmp.Or(base, m[1])
		}
		if r.base == "" {
			return false
		}
		status, _ := r.call(t, "GET", "/readyz", "", nil)
		return status == http.StatusOK
	})
	return r
}

func (r *running) output(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// kill ends the process as a power failure would.
func (r *running) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.ended
}

// terminate asks the process to end, and requires exit code 0.
func (r *running) terminate(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the server did not end in 20 seconds")
	}
	if r.err != nil {
		t.Fatalf("the server ended with %v\n%s", r.err, r.output(t))
	}
}

// until waits for a condition.
func (r *running) until(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s\n%s", limit, what, r.output(t))
		}
	}
}

// call sends a request, with a form if there is one, and returns the status and
// the members of the answer.
func (r *running) call(t *testing.T, method, path, bearer string, form url.Values) (int, map[string]any) {
	t.Helper()
	status, doc, err := r.try(method, path, bearer, form)
	if err != nil {
		t.Fatal(err)
	}
	return status, doc
}

func (r *running) try(method, path, bearer string, form url.Values) (int, map[string]any, error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, r.base+path, body)
	if err != nil {
		return 0, nil, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, err
	}
	var doc map[string]any
	if len(b) > 0 {
		if err := json.Unmarshal(b, &doc); err != nil {
			return 0, nil, err
		}
	}
	return res.StatusCode, doc, nil
}

// tokens are what a sign-in or a refresh gives.
type tokens struct{ access, refresh string }

func tokensOf(doc map[string]any) tokens {
	access, _ := doc["access_token"].(string)
	refresh, _ := doc["refresh_token"].(string)
	return tokens{access, refresh}
}

func passwordForm(name string) url.Values {
	return url.Values{"grant_type": {"password"}, "username": {name}, "password": {testPassword}}
}

func refreshForm(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

func (r *running) signIn(t *testing.T, name string) tokens {
	t.Helper()
	status, doc := r.call(t, "POST", "/token", "", passwordForm(name))
	if status != http.StatusOK {
		t.Fatalf("sign-in of %s: %d %v", name, status, doc)
	}
	return tokensOf(doc)
}

// refresh must work.
func (r *running) refresh(t *testing.T, token string) tokens {
	t.Helper()
	status, doc := r.call(t, "POST", "/token", "", refreshForm(token))
	if status != http.StatusOK {
		t.Fatalf("refresh: %d %v", status, doc)
	}
	return tokensOf(doc)
}

// get returns the status of a GET with an access token.
func (r *running) get(t *testing.T, path string, tk tokens) int {
	t.Helper()
	status, _ := r.call(t, "GET", path, tk.access, nil)
	return status
}

// wantRefused requires that neither token is good for anything.
func (r *running) wantRefused(t *testing.T, tk tokens) {
	t.Helper()
	if status := r.get(t, "/users/me", tk); status != http.StatusUnauthorized {
		t.Errorf("the access token: %d, want 401", status)
	}
	if status, _ := r.call(t, "POST", "/token", "", refreshForm(tk.refresh)); status != http.StatusBadRequest {
		t.Errorf("the refresh token: %d, want 400", status)
	}
}

// kid returns the id of the key that signed a token.
func kid(t *testing.T, access string) string {
	t.Helper()
	head, _, _ := strings.Cut(access, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	var h struct{ KID string }
	if err := errors.Join(err, json.Unmarshal(b, &h)); err != nil || h.KID == "" {
		t.Fatalf("header of an access token: %v", err)
	}
	return h.KID
}

// soon is how long a change by the command line may take to be seen.
const soon = time.Second

func TestCommandsBesideARunningServer(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		r := p.serve(t)
		p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
		p.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
		tk := r.signIn(t, "ada")
		becomes := func(path string, tk tokens, status int, after ...string) {
			t.Helper()
			p.cli(t, after...)
			r.until(t, soon, fmt.Sprintf("GET %s is answered %d after %v", path, status, after), func() bool { return r.get(t, path, tk) == status })
		}

		if got := r.get(t, "/users", tk); got != http.StatusForbidden {
			t.Fatalf("GET /users: %d, want 403", got)
		}
		becomes("/users", tk, 200, "grant", "ada", "moderator")
		becomes("/users", tk, 403, "revoke", "ada", "moderator")
		becomes("/users", tk, 200, "grant", "ada", "read:users", "--permission")
		becomes("/users", tk, 403, "revoke", "ada", "read:users", "--permission")
		p.cli(t, "role", "set", "editor")
		p.cli(t, "grant", "ada", "editor")
		becomes("/users", tk, 200, "role", "set", "editor", "--permission", "read:users")
		becomes("/users", tk, 403, "role", "set", "editor")
		p.cli(t, "role", "set", "editor", "--permission", "read:users")
		becomes("/users", tk, 403, "role", "delete", "editor", "--yes")

		// A new signing key: nobody is signed out.
		old := kid(t, tk.access)
		active, _ := p.cli(t, "key", "rotate")["kid"].(string)
		r.until(t, soon, "the new key signs", func() bool { r.get(t, "/users/me", tk); return kid(t, r.signIn(t, "ada").access) == active })
		if got := r.get(t, "/users/me", tk); got != http.StatusOK {
			t.Errorf("after key rotate, a token of the old key: %d, want 200", got)
		}
		becomes("/users/me", tk, 401, "key", "retire", old, "--yes")
		tk = r.refresh(t, tk.refresh)
		if got := r.get(t, "/users/me", tk); got != http.StatusOK {
			t.Errorf("after a refresh: %d, want 200", got)
		}

		if items, _ := p.cli(t, "user", "sessions", "ada")["items"].([]any); len(items) < 2 {
			t.Errorf("user sessions lists %d sessions, want all of them", len(items))
		}
		becomes("/users/me", tk, 401, "user", "logout", "ada")
		r.wantRefused(t, tk)
		tk = r.signIn(t, "ada")
		becomes("/users/me", tk, 401, "user", "disable", "ada")
		if status, _ := r.call(t, "POST", "/token", "", passwordForm("ada")); status != http.StatusUnauthorized {
			t.Errorf("sign-in of a disabled account: %d, want 401", status)
		}
		p.cli(t, "user", "enable", "ada")
		r.wantRefused(t, tk)
		tk = r.signIn(t, "ada")
		becomes("/users/me", tk, 401, "user", "set", "ada", "--password-stdin")
		r.wantRefused(t, tk)
		tk = r.signIn(t, "ada")
		becomes("/users/me", tk, 401, "user", "delete", "ada", "--yes")
		r.terminate(t)
	})
}

// TestStart says how long it takes from nothing to the first answer.
func TestStart(t *testing.T) {
	began := time.Now()
	r := newPlace(t).serve(t)
	t.Logf("from nothing to /readyz in %v", time.Since(began).Round(time.Millisecond))
	r.terminate(t)
}

// TestShutdownUnderLoad ends the server while clients with kept connections
// send all they can. Each request has an id, which the server logs when it has
// handled it. The proof: every request that the server handled is one whose
// whole answer a client has, and none was handled twice.
//
// What clients may see beside whole answers is a refused connection, and the
// end of a kept or waiting connection from which the server never read the
// request: HTTP/1.1 has no way to exclude it (RFC 9112, 9.6), and clients send
// such a request again. Those are counted.
func TestShutdownUnderLoad(t *testing.T) {
	for _, over := range []struct {
		name   string
		rounds int
		http2  bool
	}{{"plain", 5, false}, {"tls", 3, false}, {"http2", 3, true}} {
		p := newPlace(t)
		p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off")
		var flags []string
		if over.name != "plain" {
			pair := newPair(t, "127.0.0.1")
			p.roots, p.http2 = pair.roots, over.http2
			flags = pair.flags()
		}
		p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
		for round := range over.rounds {
			t.Run(fmt.Sprint(over.name, round), func(t *testing.T) { shutdownUnderLoad(t, p, flags) })
		}
	}
}

func shutdownUnderLoad(t *testing.T, p place, flags []string) {
	r := p.serve(t, append([]string{"--set", "log.level=debug"}, flags...)...) // health checks are in the log then
	tk := r.signIn(t, "root")
	l := load{r: r, answers: map[string]int{}, failures: map[string]int{}}
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			if i%2 == 0 {
				l.run(fmt.Sprintf("livez-%d", i), "GET", "/livez", "", nil)
				return
			}
			l.run(fmt.Sprintf("me-%d", i), "GET", "/users/me", tk.access, nil)
		})
	}
	// Slow ones, that are being handled when the signal comes.
	clients.Go(func() { l.run("sign-in", "POST", "/token", "", passwordForm("root")) })
	time.Sleep(300 * time.Millisecond)
	r.terminate(t)
	clients.Wait()

	handled := map[string]bool{}
	for line := range strings.Lines(r.output(t)) {
		var e struct {
			Msg    string
			ID     string `json:"request_id"`
			Status int
		}
		if json.Unmarshal([]byte(line), &e) != nil || e.Msg != "request" || !strings.HasPrefix(e.ID, "load-") {
			continue
		}
		if handled[e.ID] {
			t.Errorf("%s was handled twice", e.ID)
		}
		handled[e.ID] = true
		if got, ok := l.answers[e.ID]; !ok || got != e.Status {
			t.Errorf("%s was handled with status %d; the client has %d (0: no whole answer)", e.ID, e.Status, got)
		}
	}
	for id, status := range l.answers {
		if !handled[id] || status != http.StatusOK {
			t.Errorf("%s: answer %d, in the log: %v", id, status, handled[id])
		}
	}
	closed := -l.failures["connection refused"]
	for _, n := range l.failures {
		closed += n
	}
	if closed > 2*9 {
		t.Errorf("%d connections were closed on 9 clients: %v", closed, l.failures)
	}
	if len(handled) < 100 {
		t.Errorf("only %d requests were handled: that is no load", len(handled))
	}
	t.Logf("%d requests handled and answered; failures: %v", len(handled), l.failures)
}

type load struct {
	r        *running
	mu       sync.Mutex
	answers  map[string]int // status by request id, of whole answers
	failures map[string]int
}

// run sends requests until the server's port is closed.
func (l *load) run(name, method, path, bearer string, form url.Values) {
	for n := 0; ; n++ {
		id := fmt.Sprintf("load-%s-%d", name, n)
		status, err := l.send(id, method, path, bearer, form)
		l.mu.Lock()
		if err == nil {
			l.answers[id] = status
		} else {
			l.failures[kindOf(err)]++
		}
		l.mu.Unlock()
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
	}
}

func (l *load) send(id, method, path, bearer string, form url.Values) (int, error) {
	req, err := http.NewRequest(method, l.r.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Request-Id", id)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := l.r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && !json.Valid(b) {
		err = errors.New("half an answer")
	}
	return res.StatusCode, err
}

func kindOf(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return "connection closed before the request was read"
	}
	return err.Error()
}

func TestLogoutSurvivesAKill(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
		r := p.serve(t)
		out, stays := r.signIn(t, "root"), r.signIn(t, "root")
		if status, doc := r.call(t, "POST", "/logout", out.access, nil); status != http.StatusOK {
			t.Fatalf("logout: %d %v", status, doc)
		}
		r.kill()
		r = p.serve(t)
		r.wantRefused(t, out)
		if got := r.get(t, "/users/me", stays); got != http.StatusOK {
			t.Errorf("another session: %d, want 200", got)
		}
		r.refresh(t, stays.refresh)
	})
}

// TestRefreshSurvivesAKill kills the server while clients refresh. What a
// client was given is good afterwards, and nothing older is.
func TestRefreshSurvivesAKill(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
		r := p.serve(t)
		type family struct {
			before, last string // the last two that the client was given
			rotations    int
		}
		families := make([]family, 8)
		for i := range families {
			first := r.signIn(t, "root").refresh
			families[i] = family{first, r.refresh(t, first).refresh, 1}
		}
		idle := family{before: r.signIn(t, "root").refresh}
		idle.last = r.refresh(t, idle.before).refresh

		var clients sync.WaitGroup
		for i := range families {
			clients.Go(func() {
				f := &families[i]
				for {
					status, doc, err := r.try("POST", "/token", "", refreshForm(f.last))
					if err != nil {
						return // killed
					}
					if status != http.StatusOK {
						t.Errorf("refresh under load: %d %v", status, doc)
						return
					}
					f.before, f.last = f.last, tokensOf(doc).refresh
					f.rotations++
				}
			})
		}
		time.Sleep(400 * time.Millisecond)
		r.kill()
		clients.Wait()
		r = p.serve(t)

		// A response that was lost: the same successor again.
		if got := r.refresh(t, idle.before).refresh; got != idle.last {
			t.Error("the token before did not get the same successor")
		}
		r.refresh(t, idle.last)

		rotations := 0
		for _, f := range families {
			rotations += f.rotations
			// Whether or not the refresh that was under way was written: the last
			// token that was acknowledged is good, and its successor is the newest.
			next := r.refresh(t, f.last)
			if got := r.get(t, "/users/me", next); got != http.StatusOK {
				t.Errorf("the new access token: %d, want 200", got)
			}
			if again := r.refresh(t, f.last); again.refresh != next.refresh {
				t.Error("the last acknowledged token has two successors")
			}
			// The one before it has been used twice over: somebody stole it.
			if status, _ := r.call(t, "POST", "/token", "", refreshForm(f.before)); status != http.StatusBadRequest {
				t.Errorf("an older token: %d, want 400", status)
			}
			r.wantRefused(t, next)
		}
		t.Logf("%d acknowledged rotations before the kill", rotations)
	})
}

func TestMasterKeyRotationBesideARunningServer(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	r := p.serve(t)
	tk := r.signIn(t, "root")
	for range 2 {
		p.cli(t, "key", "rotate-master")
		active, _ := p.cli(t, "key", "rotate")["kid"].(string)
		r.until(t, soon, "the server signs with a key that is sealed under the new master key", func() bool {
			r.get(t, "/users/me", tk)
			return kid(t, r.signIn(t, "root").access) == active
		})
		if got := r.get(t, "/users/me", tk); got != http.StatusOK {
			t.Errorf("a token from before: %d, want 200", got)
		}
		tk = r.refresh(t, tk.refresh)
	}
	r.terminate(t)
}

// TestMasterKeyRotationInterrupted starts with the files as a crash leaves them.
func TestMasterKeyRotationInterrupted(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	r := p.serve(t)
	tk := r.signIn(t, "root")
	r.terminate(t)
	file := filepath.Join(p.data, "master.key")
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	// staged is where a rotation puts a key before it is needed.
	staged := func(text string) string {
		m, err := seal.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return file + ".new-" + strings.TrimPrefix(m.String(), "master key ")
	}
	works := func() {
		t.Helper()
		r := p.serve(t)
		if got := r.get(t, "/users/me", tk); got != http.StatusOK {
			t.Errorf("a token from before: %d, want 200", got)
		}
		tk = r.refresh(t, tk.refresh)
		r.terminate(t)
	}

	// After the database was sealed anew, before the new key was put in place:
	// the server, and any command, ends what was begun.
	for _, mend := range []func(){works, func() { p.cli(t, "key", "list") }} {
		p.cli(t, "key", "rotate-master")
		sealed := read(file)
		rename(file, staged(sealed))
		rename(file+".old", file)
		mend()
		if read(file) != sealed {
			t.Error("the staged key was not put in its place")
		}
		if _, err := os.Stat(staged(sealed)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the staged key is still there: %v", err)
		}
		works()
	}

	// Before the database was sealed anew: the staged key is worth nothing.
	const worthless = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
	if err := os.WriteFile(staged(worthless), []byte(worthless), 0o600); err != nil {
		t.Fatal(err)
	}
	sealed := read(file)
	works()
	if read(file) != sealed {
		t.Error("the key in use was replaced")
	}
	p.cli(t, "key", "rotate-master")
	works()
}
