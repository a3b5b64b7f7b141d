package main

import (
	"bytes"
	"go/build"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authtest"
	"github.com/sallyport/sallyport/server"
)

// The service with a whole issuer, each at its own address.
func TestService(t *testing.T) {
	t.Parallel()
	issuer := httptest.NewUnstartedServer(nil)
	base := "http://" + issuer.Listener.Addr().String()
	sp := authtest.New(t, func(c *server.Config) { c.BaseURL = base })
	issuer.Config.Handler = sp.Guard(sp.Routes())
	issuer.Start()
	t.Cleanup(issuer.Close)
	sp.Serve(handler(sp)) // the issuer has to know the permissions that the rules name

	verifier, err := remote.New(remote.Config{Issuer: base, Now: sp.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = verifier.Close() })
	service := httptest.NewServer(handler(verifier))
	t.Cleanup(service.Close)

	reader := sp.SignIn("ada", authtest.Permissions("read:items"), authtest.Scopes("read:items"))
	admin := sp.SignIn("grace", authtest.Roles("admin"), authtest.Scopes("role:admin"), authtest.MFA())
	weak := sp.SignIn("joan", authtest.Roles("admin"), authtest.Scopes("role:admin"))
	for _, c := range []struct {
		who, token, route string
		status            int
	}{
		{"nobody", "", "GET /items", 401},
		{"nobody", "", "DELETE /items/1", 401},
		{"half a token", reader.Token[:len(reader.Token)/2], "GET /items", 401},
		{"a reader", reader.Token, "GET /items", 200},
		{"a reader", reader.Token, "DELETE /items/1", 403},
		{"an administrator", admin.Token, "DELETE /items/1", 200},
		{"an administrator without a second factor", weak.Token, "DELETE /items/1", 401},
		{"an administrator, who may not read as one", admin.Token, "GET /items", 403},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, service.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status || c.status == 401 && res.Header.Get("Www-Authenticate") == "" {
			t.Errorf("%s by %s: status %d, want %d; WWW-Authenticate %q", c.route, c.who, res.StatusCode, c.status, res.Header.Get("Www-Authenticate"))
		}
	}
}

// What the service carries: its few lines, no library of anybody else's, and so no
// database driver.
func TestWhatItCarries(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > 40 {
		t.Errorf("main.go has %d lines, want 40 at most", n)
	}
	foreign := func(pkg string) (out []string) {
		t.Helper()
		list, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range strings.Fields(string(list)) {
			if !strings.HasPrefix(path, "github.com/sallyport/sallyport") || strings.Contains(path, "/store/") || strings.HasSuffix(path, "/internal/db") {
				out = append(out, path)
			}
		}
		return out
	}
	if got := foreign("."); len(got) > 0 {
		t.Errorf("it carries %q", got)
	}
	// The same look at a service with a database finds one.
	if got := strings.Join(foreign("../protect"), " "); !strings.Contains(got, "modernc.org/sqlite") {
		t.Errorf("examples/protect carries %q, and no driver among them: the test sees nothing", got)
	}
}

// The binary with and without protection, without symbols, as it is shipped.
func TestWeight(t *testing.T) {
	t.Parallel()
	if _, err := build.ImportDir(filepath.Join("testdata", "bare"), 0); err != nil {
		t.Fatal(err) // go test does not see what go build reads
	}
	weigh := func(pkg string) int64 {
		t.Helper()
		out := filepath.Join(t.TempDir(), "service")
		c := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := c.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", pkg, err, said)
		}
		info, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	const most = 9_000_000
	bare, ours := weigh("./testdata/bare"), weigh(".")
	t.Logf("%d bytes, %d without protection: %d more", ours, bare, ours-bare)
	if ours-bare <= 0 || ours-bare >= most {
		t.Errorf("the service has %d bytes, and %d without protection: %d more, want above 0 and under %d", ours, bare, ours-bare, most)
	}
}
