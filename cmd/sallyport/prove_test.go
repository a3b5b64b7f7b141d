package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/prove"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// proof is what prove --json prints.
type proof struct {
	Schema      string             `json:"schema"`
	Declared    int                `json:"declared"`
	Operations  int                `json:"operations"`
	Calls       int                `json:"calls"`
	Admitted    int                `json:"admitted"`
	Differences []prove.Difference `json:"differences"`
	Untried     []prove.Untried    `json:"not_tried"`
}

// has reports whether there is a difference of an operation and a principal whose
// meaning begins so.
func (p proof) has(operation, principal, means string) bool {
	return slices.ContainsFunc(p.Differences, func(x prove.Difference) bool {
		return x.Operation == operation && x.Principal == principal && strings.HasPrefix(x.Means, means)
	})
}

// calledItself is the base URL of servers that are started on any port.
const calledItself = "http://127.0.0.1:0"

// prove runs the command and requires an exit code.
func (p place) prove(t *testing.T, exit int, args ...string) (out proof, stderr string) {
	t.Helper()
	c := p.command(append([]string{"prove", "--json", "--base-url", calledItself}, args...)...)
	var b, e bytes.Buffer
	c.Stdout, c.Stderr = &b, &e
	if err := c.Run(); c.ProcessState == nil || c.ProcessState.ExitCode() != exit {
		t.Fatalf("%v, want exit code %d\n%s%s", err, exit, &b, &e)
	}
	if exit <= 1 || exit == exitPartly {
		if err := json.Unmarshal(b.Bytes(), &out); err != nil {
			t.Fatalf("%v\n%s%s", err, &b, &e)
		}
	}
	return out, e.String()
}

// left lists principals of prove's that are in the database.
func (p place) left(t *testing.T) (out []string) {
	t.Helper()
	for _, what := range []string{"user", "client"} {
		items, _ := p.cli(t, what, "list")["items"].([]any)
		for _, x := range items {
			if s := fmt.Sprint(x); strings.Contains(s, "prove-") {
				out = append(out, s)
			}
		}
	}
	return out
}

// TestProve has the command prove the server itself, whole processes on both
// databases, and then copies of it that do not do what their document says.
func TestProve(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off")
		r := p.serve(t)
		p.cli(t, "user", "create", "--email", "ada@example.com", "--password-stdin")
		before := p.cli(t, "user", "list")

		// The server does what it declares.
		got, stderr := p.prove(t, exitOK, "--url", r.base)
		if got.Schema != "sallyport.proof/v1" || got.Declared < 50 || got.Operations != got.Declared || got.Calls < 500 || got.Admitted < 150 || len(got.Differences)+len(got.Untried) > 0 {
			t.Errorf("%+v\n%s", got, stderr)
		}
		// Nobody's data was changed, and nothing is left.
		if after := p.cli(t, "user", "list"); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("accounts before:\n%v\nafter:\n%v", before, after)
		}
		if left := p.left(t); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}

		t.Run("copies with faults", func(t *testing.T) {
			copy := faulty(t, r.base)
			got, _ := p.prove(t, exitFailed, "--url", copy)
			for _, want := range [][3]string{
				// One rule removed: whoever is signed in is let in.
				{"GET /users/me/sessions", "a session with everything but read:users", "OPEN: somebody is let in"},
				{"GET /users/me/sessions", "a token whose scope is everything", "refused although"},
				// One that is not documented.
				{"GET /clients", "the list of routes", "UNDOCUMENTED"},
				// 403 where 401 belongs.
				{"GET /api-keys", "nobody", "refused, but with 403"},
				// Expired and forged tokens are taken.
				{"GET /roles", "an expired token", "OPEN: an expired credential"},
				{"GET /roles", "a forged token", "OPEN: a credential is not verified"},
				{"GET /roles", "the token of a session that was ended", "OPEN: a credential is taken that was revoked"},
				// One that is documented and not served.
				{"GET /nowhere", "nobody", "the operation is documented and not served"},
			} {
				if !got.has(want[0], want[1], want[2]) {
					t.Errorf("not found: %q", want)
				}
			}
			for _, x := range got.Differences {
				if !slices.Contains([]string{"GET /users/me/sessions", "GET /clients", "GET /api-keys", "GET /roles", "GET /nowhere"}, x.Operation) {
					t.Errorf("a difference where there is none: %+v", x)
				}
			}
			if left := p.left(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})

		t.Run("a list with one more route", func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "routes.txt")
			golden, err := os.ReadFile(filepath.Join("..", "..", "server", "testdata", "routes.txt"))
			if err != nil {
				t.Fatal(err)
			}
			write := func(more string) {
				if err := os.WriteFile(list, append(slices.Clone(golden), more...), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("")
			if got, _ := p.prove(t, exitOK, "--url", r.base, "--routes", list, "--token-file", aToken(t)); len(got.Differences) > 0 {
				t.Errorf("%+v", got.Differences)
			}
			write("POST /debug/reset public\n")
			if got, _ := p.prove(t, exitFailed, "--url", r.base, "--routes", list, "--token-file", aToken(t)); len(got.Differences) != 1 || !got.has("POST /debug/reset", "the list of routes", "UNDOCUMENTED") {
				t.Errorf("%+v", got.Differences)
			}
		})

		t.Run("interrupted, and killed", func(t *testing.T) {
			for _, tt := range []struct {
				signal syscall.Signal
				exit   int
				left   bool
			}{{os.Interrupt.(syscall.Signal), exitInterrupted, false}, {syscall.SIGKILL, -1, true}} {
				stuck, reached := stalling(t, r.base)
				c := p.command("prove", "--url", stuck, "--base-url", calledItself)
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				select {
				case <-reached:
				case <-time.After(20 * time.Second):
					t.Error("prove did not get as far")
				}
				if len(p.left(t)) == 0 {
					t.Error("there are no principals to remove: the test shows nothing")
				}
				if err := c.Process.Signal(tt.signal); err != nil {
					t.Fatal(err)
				}
				err := c.Wait()
				if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != tt.exit {
					t.Errorf("%v ended it with %v, want exit code %d", tt.signal, err, tt.exit)
				}
				if left := p.left(t); len(left) > 0 != tt.left {
					t.Errorf("after %v: %q", tt.signal, left)
				}
			}
			// The next run removes what the killed one has left, and nobody else's.
			p.cli(t, "user", "create", "--email", "prove-0123-1-0123456789abcdef@prove.invalid", "--password-stdin")
			if _, stderr := p.prove(t, exitOK, "--url", r.base); !strings.Contains(stderr, "an earlier run has left") {
				t.Error(stderr)
			}
			if left := p.left(t); len(left) != 1 || !strings.Contains(left[0], "prove-0123-1-") {
				t.Errorf("%q, want the account of that name which is nobody's of prove's", left)
			}
		})

		t.Run("mistakes", func(t *testing.T) {
			other := newPlace(t)
			other.env = append(other.env, "SALLYPORT_LIMITS_LOGIN=off")
			other.cli(t, "admin", "create", "--email", "eve@example.com", "--password-stdin")
			if _, stderr := other.prove(t, exitUsage, "--url", r.base); !strings.Contains(stderr, "does not know a session of this database") {
				t.Error(stderr)
			}
			if left := other.left(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if _, stderr := p.prove(t, exitUsage, "--url", r.base, "--base-url", "http://127.0.0.1:1"); !strings.Contains(stderr, "calls itself "+calledItself) {
				t.Error(stderr)
			}
			if _, stderr := p.prove(t, exitUnreachable, "--url", "http://127.0.0.1:1"); !strings.Contains(stderr, "unreachable") {
				t.Error(stderr)
			}
			for _, url := range []string{"127.0.0.1:8080", "ftp://a", "http://u:p@a", "http://a?b"} {
				p.prove(t, exitUsage, "--url", url)
			}
		})
	})
}

// aToken is a --token-file with a credential that the server does not know, so that
// the database is not used.
func aToken(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens.toml")
	if err := os.WriteFile(file, []byte("[[credentials]]\nname = \"an old token\"\nkind = \"bearer\"\ncredential = \"gone\"\nrevoked = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// faulty is a copy of the server that does not do what its document says.
func faulty(t *testing.T, base string) string {
	t.Helper()
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = to.Host
		},
		ModifyResponse: func(res *http.Response) error {
			switch res.Request.URL.Path {
			case "/openapi.json":
				if res.StatusCode == http.StatusOK {
					return mislead(res)
				}
			case "/api-keys":
				if res.StatusCode == http.StatusUnauthorized && res.Request.Method == http.MethodGet {
					res.StatusCode = http.StatusForbidden
				}
			case "/roles": // a token is taken without a look at it
				if res.StatusCode == http.StatusUnauthorized && res.Request.Header.Get("Authorization") != "" {
					res.StatusCode = http.StatusOK
				}
			}
			return nil
		},
	}
	ts := httptest.NewServer(proxy)
	t.Cleanup(ts.Close)
	return ts.URL
}

// mislead changes the document: an operation has a rule that nothing enforces, one
// is missing, one does not exist.
func mislead(res *http.Response) error {
	var doc map[string]any
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
		return err
	}
	paths := doc["paths"].(map[string]any)
	get := func(path string) map[string]any { return paths[path].(map[string]any)["get"].(map[string]any) }
	get("/users/me/sessions")["x-sallyport-rule"] = map[string]any{"permission": "read:users"}
	paths["/nowhere"] = map[string]any{"get": get("/users")}
	delete(paths["/clients"].(map[string]any), "get")
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	res.Body = io.NopCloser(bytes.NewReader(b))
	res.ContentLength = int64(len(b))
	res.Header.Set("Content-Length", fmt.Sprint(len(b)))
	return nil
}

// stalling is the server behind something that stops answering after 200 requests.
func stalling(t *testing.T, base string) (address string, reached <-chan struct{}) {
	t.Helper()
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = to.Host
	}}
	var n atomic.Int32
	full, end := make(chan struct{}), make(chan struct{})
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 200 {
			close(full)
			<-end
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { close(end); ts.Close() })
	return ts.URL, full
}

// A service that mounts the server, with rules of its own: roles, a second factor,
// alternatives, credentials of one kind, and an operation that nothing would stop.
func TestProveALibrarysService(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := os.Mkdir(p.data, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := sqlite.Open(filepath.Join(p.data, "sallyport.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sp, err := server.New(t.Context(), server.Config{
		DB: d, BaseURL: calledItself, Version: version, MasterKeyFile: filepath.Join(p.data, "master.key"),
		Limits: server.Limits{Default: server.LimitOff, Login: server.LimitOff},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	var called atomic.Int32
	do := func(context.Context, *api.None) (*api.None, error) { called.Add(1); return nil, nil }
	administers := sallyport.Role("admin")
	api.Post(sp.API(), "/reports", administers, do)
	api.Post(sp.API(), "/purge", sallyport.All(administers, sallyport.MFA(), sallyport.Fresh(5*time.Minute)), do)
	api.Post(sp.API(), "/edit", sallyport.Any(sallyport.All(sallyport.Permission("write:items"), sallyport.Scope("read:items")), sallyport.Role("moderator")), do)
	api.Post(sp.API(), "/machines", sallyport.All(sallyport.Via(sallyport.KindClient, sallyport.KindAPIKey), sallyport.Permission("read:items")), do)
	sp.API().Raw(huma.Operation{Method: "POST", Path: "/rebuild"}, sallyport.SignedIn(), func(http.ResponseWriter, *http.Request) { called.Add(1) })
	if err := sp.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(sp.Guard(sp.Routes()))
	defer ts.Close()

	p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off")
	got, stderr := p.prove(t, exitPartly, "--url", ts.URL)
	if len(got.Differences) > 0 || len(got.Untried) == 0 {
		t.Errorf("%+v\n%s", got, stderr)
	}
	for _, u := range got.Untried {
		if u.Operation != "POST /rebuild" {
			t.Errorf("not tried: %+v", u)
		}
	}
	if n := called.Load(); n > 0 {
		t.Errorf("operations ran %d times", n)
	}
	administered, err := role.HasAdministrator(d.View(t.Context()))
	if err != nil || administered {
		t.Errorf("there is an administrator: %v %v", administered, err)
	}
	if left := p.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	keys := -1
	if _, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_api_keys", nil, &keys); err != nil || keys != 0 {
		t.Errorf("left behind: %d API keys, %v", keys, err)
	}
	// What may be called is called, by principals that nobody misses.
	p.prove(t, exitOK, "--url", ts.URL, "--call", "POST /rebuild")
	if called.Load() == 0 {
		t.Error("what may be called was not")
	}
}

// The application of the tutorials, whole, as its README starts it, with its limits:
// all that it declares is tried, and enforced.
func TestProveTheTutorial(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	program := filepath.Join(t.TempDir(), "tutorial")
	build := exec.Command("go", "build", "-o", program, "../../examples/tutorial")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, said)
	}
	c := exec.Command(program, "--listen", "127.0.0.1:0", "--data", p.data)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	base := ""
	for lines := bufio.NewScanner(out); base == "" && lines.Scan(); {
		base, _ = strings.CutPrefix(lines.Text(), "Listening on ")
		if !strings.HasPrefix(base, "http") {
			base = ""
		}
	}
	if base == "" {
		t.Fatal("the tutorial does not listen")
	}
	got, stderr := p.prove(t, exitOK, "--url", base, "--base-url", base)
	t.Logf("%d of %d operations, %d calls, %d let in", got.Operations, got.Declared, got.Calls, got.Admitted)
	if got.Declared < 76 || got.Operations != got.Declared || got.Calls < 900 || got.Admitted < 300 || len(got.Differences)+len(got.Untried) > 0 {
		t.Errorf("%+v\n%s", got, stderr)
	}
	if left := p.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
