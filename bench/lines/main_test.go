package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// Ours is the fewest, also of what is left of the others without their table of users,
// where ours has a database; and the page says what is counted.
func TestOursIsTheFewest(t *testing.T) {
	t.Parallel()
	const tableOfUsers = 10 // lines of it at most
	ours := -1
	for _, p := range programs {
		n, err := total(".", p.files)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d", p.name, n)
		if ours < 0 {
			ours = n
		} else if ours >= n-tableOfUsers {
			t.Errorf("ours has %d lines, and %s %d", ours, p.name, n)
		}
	}
	want, err := table(".")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), want) {
		t.Errorf("docs/performance.md does not have what go run ./bench/lines prints:\n%s", want)
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       int
	}{
		{"a.go", "// Package a.\npackage a\n\nimport \"fmt\"\n\nimport (\n\t\"os\"\n\n\tx \"io\" // why\n)\n\n/* two\nlines */\nfunc f() { // nothing\n\tfmt.Println(os.Args, x.EOF)\n\n\t// alone\n}\n", 4},
		{"a.go", "package a\n\nconst a = `one\n// two\n\nthree`\n", 5},
		{"a.py", "\"\"\"What it is.\n\nfrom here on\n\"\"\"\nimport os\nfrom a import b\n\n# why\n\"\"\"one line\"\"\"\nx = os.name  # what\nif x:\n    pass\n", 3},
		{"a.conf", "[a]\n\n# why\nb = c\n", 2},
	} {
		if got, err := count(tt.name, []byte(tt.text)); err != nil || got != tt.want {
			t.Errorf("%s: %d, %v, want %d\n%s", tt.name, got, err, tt.want, tt.text)
		}
	}
	if _, err := count("a.go", []byte("package")); err == nil {
		t.Error("a file that is not Go was counted")
	}
}

// The three programs do the same. Ours always runs; the others where what they need is
// there, and in CI always.
func TestTheyDoTheSame(t *testing.T) {
	t.Parallel()
	key := "SECRET_KEY=0123456789abcdef0123456789abcdef"
	t.Run("sallyport", func(t *testing.T) {
		t.Parallel()
		addr := freeAddress(t)
		out := new(testkit.Buffer)
		start(t, addr, out, "", nil, build(t, "."), addr, filepath.Join(t.TempDir(), "app.db"))
		const password = "violet-anchor-97-marmalade"
		token := ""
		for until := time.Now().Add(time.Minute); token == ""; time.Sleep(20 * time.Millisecond) {
			if link, whole := strings.CutSuffix(out.String(), "\n"); whole {
				_, token, _ = strings.Cut(link, "#k=")
			}
			if token == "" && time.Now().After(until) {
				t.Fatalf("no link to set it up: %q", out)
			}
		}
		do(t, http.MethodPost, addr, "/auth/setup", "", map[string]string{"token": token, "email": "alice@example.com", "username": "alice", "password": password}, http.StatusCreated)
		admin := signIn(t, addr, "alice", password, "")
		for _, name := range []string{"bob", "carol"} {
			made := do(t, http.MethodPost, addr, "/auth/register", "", map[string]string{"email": name + "@example.com", "username": name, "password": password}, http.StatusCreated)
			if name == "bob" {
				do(t, http.MethodPut, addr, "/users/"+made["id"].(string)+"/permissions", admin, map[string]any{"permissions": []string{"read:items", "write:items"}}, http.StatusOK)
			}
		}
		check(t, addr, password)
	})
	t.Run("fastapi", func(t *testing.T) {
		t.Parallel()
		python := ""
		for _, p := range []string{"python3", "/usr/bin/python3"} {
			if exec.Command(p, "-c", "import bcrypt, fastapi, jwt, multipart, passlib, uvicorn").Run() == nil {
				python = p
				break
			}
		}
		if python == "" {
			without(t, "no Python has fastapi, uvicorn, pyjwt, python-multipart, passlib and bcrypt; on Debian: apt-get install python3-fastapi uvicorn python3-jwt python3-multipart python3-passlib python3-bcrypt")
		}
		addr := freeAddress(t)
		_, port, _ := net.SplitHostPort(addr)
		start(t, addr, new(testkit.Buffer), "fastapi", []string{key, "PYTHONDONTWRITEBYTECODE=1"}, python, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", port, "--log-level", "warning")
		check(t, addr, "secret")
	})
	t.Run("echo", func(t *testing.T) {
		t.Parallel()
		get := exec.Command("go", "mod", "download")
		get.Dir = "echo"
		if said, err := get.CombinedOutput(); err != nil {
			without(t, "the modules cannot be had: "+string(said))
		}
		addr := freeAddress(t)
		start(t, addr, new(testkit.Buffer), "echo", []string{key}, build(t, "echo"), addr)
		check(t, addr, "secret")
	})
}

// without ends a test of another's program that cannot run here.
func without(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// check calls the three routes as each who may and may not.
func check(t *testing.T, addr, password string) {
	t.Helper()
	status, _ := ask(t, http.MethodPost, addr, "/token", "", url.Values{"grant_type": {"password"}, "username": {"bob"}, "password": {"wrong"}})
	if status != http.StatusUnauthorized {
		t.Errorf("a wrong password: status %d, want 401", status)
	}
	alice := signIn(t, addr, "alice", password, "")
	bob := signIn(t, addr, "bob", password, "")
	toRead := signIn(t, addr, "bob", password, "read:items")
	carol := signIn(t, addr, "carol", password, "")
	head, _, _ := strings.Cut(bob, ".")
	forged := head + ".eyJzdWIiOiJhbGljZSJ9." + strings.Repeat("A", 43)
	for _, c := range []struct {
		who, token, route string
		status            int
	}{
		{"nobody", "", "GET /admin", 401},
		{"nobody", "", "GET /items", 401},
		{"nobody", "", "POST /items", 401},
		{"a forged token", forged, "GET /admin", 401},
		{"a forged token", forged, "GET /items", 401},
		{"a forged token", forged, "POST /items", 401},
		{"alice", alice, "GET /admin", 200},
		{"bob", bob, "GET /admin", 403},
		{"bob, to read", toRead, "GET /items", 200},
		{"bob", bob, "POST /items", 200},
		{"carol", carol, "GET /admin", 403},
		{"carol", carol, "GET /items", 403},
		{"carol", carol, "POST /items", 403},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		if status, h := ask(t, method, addr, path, c.token, nil); status != c.status || status == 401 && h.Get("Www-Authenticate") == "" {
			t.Errorf("%s by %s: status %d, want %d; WWW-Authenticate %q", c.route, c.who, status, c.status, h.Get("Www-Authenticate"))
		}
	}
}

func signIn(t *testing.T, addr, name, password, scope string) string {
	t.Helper()
	return do(t, http.MethodPost, addr, "/token", "", url.Values{"grant_type": {"password"}, "username": {name}, "password": {password}, "scope": {scope}}, http.StatusOK)["access_token"].(string)
}

// ask returns status and header.
func ask(t *testing.T, method, addr, path, token string, body any) (int, http.Header) {
	t.Helper()
	res, _ := send(t, method, addr, path, token, body)
	return res.StatusCode, res.Header
}

// do requires a status, and returns the members of the answer.
func do(t *testing.T, method, addr, path, token string, body any, status int) map[string]any {
	t.Helper()
	res, b := send(t, method, addr, path, token, body)
	var members map[string]any
	if err := json.Unmarshal(b, &members); res.StatusCode != status || err != nil {
		t.Fatalf("%s %s: status %d, want %d: %v\n%s", method, path, res.StatusCode, status, err, b)
	}
	return members
}

// send sends a form or JSON.
func send(t *testing.T, method, addr, path, token string, body any) (*http.Response, []byte) {
	t.Helper()
	var text, kind string
	switch body := body.(type) {
	case nil:
	case url.Values:
		text, kind = body.Encode(), "application/x-www-form-urlencoded"
	default:
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text, kind = string(b), "application/json"
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

// build makes the program of a folder, without cgo, as everything here is built.
func build(t *testing.T, module string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	pkg := "."
	if module == "." {
		pkg = "./sallyport"
	}
	c := exec.Command("go", "build", "-o", out, pkg)
	c.Dir = module
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, said)
	}
	return out
}

// start runs a program until the test ends, and waits until it listens.
func start(t *testing.T, addr string, out *testkit.Buffer, folder string, env []string, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir, c.Stdout, c.Stderr = folder, out, out
	c.Env = append(os.Environ(), env...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-ended
	})
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended:\n%s", name, out)
		default:
		}
		if time.Now().After(until) {
			t.Fatalf("%s does not listen on %s after a minute:\n%s", name, addr, out)
		}
	}
}

// freeAddress is where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
}
