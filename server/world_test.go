package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// baseURL is the issuer in tests; requests go to the test's own address.
const baseURL = "http://sallyport.test"

// goodPassword passes the policy and belongs to nobody.
const goodPassword = "violet-anchor-97-marmalade"

// weakHashes makes sign-ins cheap, so that tests are quick.
var weakHashes = password.Config{Memory: 64, Time: 1, Threads: 1, Permits: 4, DangerouslyWeak: true}

// noLockout is for tests whose subject are many refusals, and not how many there
// may be.
func noLockout(c *server.Config) { c.NoLockout = true }

// Requests go to a test's own address, and many come from there.
var (
	testHosts = []string{"sallyport.test", "127.0.0.1", "localhost", "x", "example.com"}
	noLimits  = server.Limits{Default: server.LimitOff, Login: server.LimitOff}
)

// behindTLS is what a declared proxy that ends TLS makes of requests, where the
// base URL is https://.
func behindTLS(base string, next http.Handler) http.Handler {
	if !strings.HasPrefix(base, "https:") {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-Proto") == "" {
			r.Header.Set("X-Forwarded-Proto", "https")
		}
		next.ServeHTTP(w, r)
	})
}

// clock is a settable clock that moves with time, until it is stopped.
type clock struct {
	mu      sync.Mutex
	offset  time.Duration
	stopped time.Time // zero: it moves
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped.IsZero() {
		return c.stopped.Add(c.offset)
	}
	return time.Now().Add(c.offset)
}

// stop lets the clock move by advance only, for what is about single steps of it.
func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = time.Now()
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// world is a whole server over real HTTP.
type world struct {
	t     *testing.T
	db    *db.DB
	sv    *server.Server
	mux   *sallyport.Mux // where a test may add routes before serve is called
	http  *httptest.Server
	clock *clock
	cfg   server.Config // as it was given, for another server like it
}

// newWorld returns a server that answers. extra adds routes of a service.
func newWorld(t *testing.T, d *db.DB, extra func(w *world), change ...func(*server.Config)) *world {
	t.Helper()
	w := &world{t: t, db: d, clock: &clock{}}
	if d.Dialect() == db.SQLite {
		d.Rerun() // what keeps something from an earlier run shows
	}
	cfg := server.Config{
		DB: d, BaseURL: baseURL, MasterKeyFile: filepath.Join(t.TempDir(), "master.key"),
		Password: weakHashes, Now: w.clock.now,
		Hosts: testHosts, Limits: noLimits,
		CleanEvery: cleanup.MaxEvery, // not meanwhile: cleanUp does
	}
	for _, f := range change {
		f(&cfg)
	}
	if strings.HasPrefix(cfg.BaseURL, "https:") && cfg.TrustedProxies == nil {
		cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	}
	w.cfg = cfg
	var err error
	if w.sv, err = server.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.sv.Close)
	w.mux = sallyport.NewMux(w.sv)
	if extra != nil {
		extra(w)
	}
	w.mux.Mount("/", w.sv.Routes())
	if err := w.sv.Declare(t.Context()); err != nil { // and not behind the first request: tests compare what there is
		t.Fatal(err)
	}
	w.http = httptest.NewServer(behindTLS(cfg.BaseURL, w.sv.Guard(w.mux)))
	t.Cleanup(w.http.Close)
	return w
}

// cleanUp deletes what is old.
func (w *world) cleanUp() {
	w.t.Helper()
	if mine, err := w.sv.CleanUp(w.t.Context()); err != nil || !mine {
		w.t.Fatalf("what is old was not deleted: %v (its turn: %v)", err, mine)
	}
}

// reply is a response that has been read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// json returns the body as an object.
func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(r.body, &m); err != nil {
		t.Fatalf("not a JSON object (status %d): %.300s", r.status, r.body)
	}
	return m
}

func (r reply) text(t *testing.T, name string) string {
	t.Helper()
	s, ok := r.json(t)[name].(string)
	if !ok {
		t.Fatalf("no text %q in (status %d) %.300s", name, r.status, r.body)
	}
	return s
}

// want fails unless the reply has the status and, if not empty, the code.
func (r reply) want(t *testing.T, status int, code string) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %.400s", r.status, status, r.body)
	}
	if code != "" {
		m := r.json(t)
		got, _ := m["code"].(string)
		if got == "" {
			got, _ = m["error"].(string)
		}
		if got != code {
			t.Fatalf("code %q, want %q: %.400s", got, code, r.body)
		}
	}
	return r
}

// send sends a request as it is.
func (w *world) send(req *http.Request) reply {
	w.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, b}
}

// request makes a request to the server; body may be nil, a string, or
// anything that marshals to JSON.
func (w *world) request(method, path, token string, body any) *http.Request {
	w.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		rd = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.http.URL+path, rd)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

func (w *world) do(method, path, token string, body any) reply {
	w.t.Helper()
	return w.send(w.request(method, path, token, body))
}

// form posts fields as a form: name, value, name, value …
func (w *world) form(path string, fields ...string) reply {
	w.t.Helper()
	v := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	req := w.request("POST", path, "", v.Encode())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.send(req)
}

// tokens is what a sign-in gives.
type tokens struct{ access, refresh string }

func (w *world) signIn(name, pw string, more ...string) tokens {
	w.t.Helper()
	r := w.form("/token", append([]string{"grant_type", "password", "username", name, "password", pw}, more...)...).want(w.t, 200, "")
	return tokens{r.text(w.t, "access_token"), r.text(w.t, "refresh_token")}
}

// register makes an account NAME (NAME@example.com, goodPassword) and returns
// its id.
func (w *world) register(name string) string {
	w.t.Helper()
	return w.do("POST", "/auth/register", "", map[string]any{
		"username": name, "email": name + "@example.com", "password": goodPassword,
	}).want(w.t, 201, "").text(w.t, "id")
}

// user registers NAME, grants roles as the operator would, and signs in.
func (w *world) user(name string, roles ...string) (id string, tk tokens) {
	w.t.Helper()
	id = w.register(name)
	w.grant(id, roles...)
	return id, w.signIn(name, goodPassword)
}

func (w *world) grant(id string, roles ...string) {
	w.t.Helper()
	for _, r := range roles {
		if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error {
			return role.Grant(w.t.Context(), tx, role.Operator(), id, r)
		}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// define makes a role of its own with these permissions.
func (w *world) define(name string, permissions ...string) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error {
		for _, p := range permissions {
			if err := role.PutPermission(w.t.Context(), tx, p, ""); err != nil {
				return err
			}
		}
		return role.Put(w.t.Context(), tx, role.Operator(), role.Role{Name: name, Permissions: permissions})
	}); err != nil {
		w.t.Fatal(err)
	}
}

// alive reports whether an access token is accepted.
func (w *world) alive(access string) bool {
	w.t.Helper()
	switch r := w.do("GET", "/users/me", access, nil); r.status {
	case 200:
		return true
	case 401:
		return false
	default:
		w.t.Fatalf("status %d: %s", r.status, r.body)
		return false
	}
}

// events returns the newest audit events of an action, waiting until there are
// at least n: refusals are written behind the request.
func (w *world) events(action string, n int) []audit.Record {
	w.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		all, err := audit.Latest(w.db.View(w.t.Context()), 500)
		if err != nil {
			w.t.Fatal(err)
		}
		var out []audit.Record
		for _, e := range all {
			if e.Action == action {
				out = append(out, e)
			}
		}
		if len(out) >= n {
			return out
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d events %q, want %d or more", len(out), action, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// mailbox takes every letter of a server. It is its mail server.
type mailbox struct {
	mu   sync.Mutex
	got  []mail.Message
	fail error // what Send returns
}

func (m *mailbox) Send(_ context.Context, msg mail.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.got = append(m.got, msg)
	}
	return m.fail
}

// withMail gives a server mail that ends in the box.
func withMail(box *mailbox) func(*server.Config) {
	return func(c *server.Config) { c.Mail = box }
}

// withMailSignIn lets people sign in by mail.
func withMailSignIn(c *server.Config) { c.MailSignIn = true }

// to returns the letters of a kind to an address so far, oldest first, once
// everything that waits has been delivered.
func (m *mailbox) to(w *world, address string, k mail.Kind) (out []mail.Message) {
	w.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := w.sv.Mail.Deliver(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		st, err := w.sv.Mail.Status(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if st.Waiting == 0 { // nor is the server's own delivery under way
			break
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d letters wait: %s", st.Waiting, st.Failure)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range m.got {
		if msg.To == address && msg.Kind == k {
			out = append(out, msg)
		}
	}
	return out
}

// token returns the token of the newest letter of a kind to an address.
func (m *mailbox) token(w *world, address string, k mail.Kind) string {
	w.t.Helper()
	got := m.to(w, address, k)
	if len(got) == 0 {
		w.t.Fatalf("no letter %s to %s", k, address)
	}
	_, token, ok := strings.Cut(got[len(got)-1].Link, "#token=")
	if !ok {
		w.t.Fatalf("no token in the letter: %s", got[len(got)-1].Text)
	}
	return token
}
