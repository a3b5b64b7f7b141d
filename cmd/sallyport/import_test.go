package main

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tryImport runs a command of import and returns its exit code, -1 if it was
// killed, and the members of its answer.
func (p place) tryImport(t *testing.T, after time.Duration, args ...string) (int, map[string]any) {
	t.Helper()
	c := p.command(append([]string{"import"}, append(args, "--json", "--quiet")...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		defer time.AfterFunc(after, func() { _ = c.Process.Kill() }).Stop() // it may have ended
	}
	err := c.Wait()
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if code == 0 || code == exitPartly {
		if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil {
			t.Fatalf("%v\n%s\n%s", err, &stdout, &stderr)
		}
	} else if code == exitFailed || code == exitUsage {
		t.Fatalf("import %v: exit code %d\n%s", args, code, &stderr)
	}
	return code, doc
}

// An import that is killed again and again leaves every account once.
func TestImportSurvivesKills(t *testing.T) {
	eachPlace(t, func(t *testing.T, p place) {
		p.cli(t, "admin", "create", "--email", "root@example.com", "--password-stdin")
		n := 12_000
		if testing.Short() {
			n = 3000
		}
		var file strings.Builder
		refused := 0
		for i := range n {
			who := i
			if i%100 == 99 {
				who = i - 50
				refused++
			}
			fmt.Fprintf(&file, "{\"email\":\"p%d@example.com\"}\n", who)
		}
		path := filepath.Join(t.TempDir(), "users.ndjson")
		if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		kills := 0
		code, doc := p.tryImport(t, 30*time.Millisecond+rand.N(time.Duration(n)*15*time.Microsecond), "ndjson", path)
		for code == -1 {
			kills++
			pause := 30*time.Millisecond + rand.N(300*time.Millisecond)
			if kills > 12 {
				pause = 0
			}
			args := []string{"resume"}
			if len(p.cli(t, "import", "list")["items"].([]any)) == 0 { // killed before it began
				args = []string{"ndjson", path}
			}
			code, doc = p.tryImport(t, pause, args...)
			// Killed after its last batch: there is nothing to go on with.
			if items := p.cli(t, "import", "list")["items"].([]any); code != exitPartly && len(items) > 0 && items[0].(map[string]any)["state"] == "done" {
				code, doc = exitPartly, items[0].(map[string]any)
			}
		}
		if code != exitPartly || int(doc["refused"].(float64)) != refused || int(doc["imported"].(float64)) != n-refused || int(doc["records"].(float64)) != n {
			t.Fatalf("exit code %d after %d kills: %v", code, kills, doc)
		}
		if kills == 0 {
			t.Error("it was never killed")
		}
		seen := map[string]int{}
		for _, u := range p.cli(t, "user", "list")["items"].([]any) {
			seen[u.(map[string]any)["email"].(string)]++
		}
		for i := range n {
			want := 1
			if i%100 == 99 {
				want = 0
			}
			if got := seen[fmt.Sprintf("p%d@example.com", i)]; got != want {
				t.Fatalf("p%d is there %d times after %d kills, want %d", i, got, kills, want)
			}
		}
		t.Logf("%d kills", kills)
	})
}

// Ctrl-C stops between two batches, with exit code 130, and says how to go on.
func TestImportIsInterrupted(t *testing.T) {
	p := newPlace(t)
	p.cli(t, "admin", "create", "--email", "root@example.com", "--password-stdin")
	const n = 60_000
	var file strings.Builder
	for i := range n {
		fmt.Fprintf(&file, "{\"email\":\"p%d@example.com\"}\n", i)
	}
	path := filepath.Join(t.TempDir(), "users.ndjson")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c := p.command("import", "ndjson", path)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); len(p.cli(t, "import", "list")["items"].([]any)) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the import does not begin")
		}
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != exitInterrupted {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	m := p.cli(t, "import", "list")["items"].([]any)[0].(map[string]any)
	if done := m["records"].(float64); m["state"] != "running" || done >= n || int(done)%500 != 0 {
		t.Errorf("it stopped at %v", m)
	}
	if want := fmt.Sprintf("“sallyport import resume %s” goes on", m["id"]); !strings.Contains(stderr.String(), want) {
		t.Errorf("nobody was told %s:\n%s", want, &stderr)
	}
	if code, doc := p.tryImport(t, 0, "resume"); code != 0 || doc["imported"].(float64) != n {
		t.Errorf("exit code %d, %v", code, doc)
	}
}

func TestProgress(t *testing.T) {
	if got, want := progressLine(50, 100, 200, 1000, 2*time.Second, "9 imported"), "50 %, 9 imported, 500 a second, 4s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := progressLine(0, 0, 0, 0, time.Minute, "nothing"), "0 %, nothing"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, tt := range []struct {
		p    progress
		want string
	}{
		{progress{terminal: true, width: 80}, "\r\x1b[K[████████████░░░░░░░░░░░░] 50 %, half\r\x1b[K"},
		{progress{terminal: true, width: 80, ascii: true}, "\r\x1b[K[############............] 50 %, half\r\x1b[K"},
		{progress{terminal: true, width: 12}, "\r\x1b[K[██████████\r\x1b[K"},
		{progress{}, "50 %, half\n"},
	} {
		for _, quiet := range []bool{false, true} {
			var out bytes.Buffer
			p := tt.p
			p.a, p.first = &app{g: &globals{Quiet: quiet}, stderr: &out}, -1
			p.show(100, 200, 1000, "half")
			p.clear()
			want := tt.want
			if quiet {
				want = ""
			}
			if out.String() != want {
				t.Errorf("quiet %v: %q, want %q", quiet, out.String(), want)
			}
		}
	}
}

// People sign in with their old passwords, and their hashes are argon2id then.
func TestImportedPeopleSignIn(t *testing.T) {
	p := newPlace(t)
	p.cli(t, "admin", "create", "--email", "root@example.com", "--password-stdin")
	key, err := pbkdf2.Key(sha256.New, testPassword, []byte("seasalt"), 1000, 32)
	if err != nil {
		t.Fatal(err)
	}
	hash := "pbkdf2_sha256$1000$seasalt$" + base64.StdEncoding.EncodeToString(key)
	dump := fmt.Sprintf(`[{"model":"auth.user","pk":1,"fields":{"username":"ada","email":"ada@example.com","password":%q,"is_active":true}},
		{"model":"auth.user","pk":2,"fields":{"username":"bob","email":"bob@example.com","password":%q,"is_active":false}}]`, hash, hash)
	path := filepath.Join(t.TempDir(), "users.json")
	if err := os.WriteFile(path, []byte(dump), 0o600); err != nil {
		t.Fatal(err)
	}
	r := p.serve(t) // an import beside a running server
	if code, doc := p.tryImport(t, 0, "django", path); code != 0 || doc["imported"].(float64) != 2 {
		t.Fatalf("exit code %d, %v", code, doc)
	}
	stored := func(name string) (hash string) {
		d, err := sql.Open("sqlite", filepath.Join(p.data, "sallyport.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := d.QueryRow("SELECT password_hash FROM sp_accounts WHERE username_key = ?", name).Scan(&hash); err != nil {
			t.Fatal(err)
		}
		return hash
	}
	if stored("ada") != hash {
		t.Fatalf("stored is %s", stored("ada"))
	}
	wrong := passwordForm("ada")
	wrong.Set("password", "wrong "+testPassword)
	if status, _ := r.call(t, "POST", "/token", "", wrong); status != http.StatusUnauthorized && status != http.StatusBadRequest {
		t.Errorf("a wrong password: %d", status)
	}
	r.signIn(t, "ada")
	if h := stored("ada"); !strings.HasPrefix(h, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("after the sign-in, stored is %s", h)
	}
	r.signIn(t, "ada@example.com") // with the new hash
	if status, doc := r.call(t, "POST", "/token", "", passwordForm("bob")); status == http.StatusOK {
		t.Errorf("somebody signed in who was not active there: %v", doc)
	}
	if h := stored("bob"); h != hash {
		t.Errorf("bob's hash was changed: %s", h)
	}
	// The undo leaves who has signed in.
	if code, doc := p.tryImport(t, 0, "undo", "--yes"); code != exitPartly || doc["deleted"].(float64) != 1 || doc["kept"].(float64) != 1 {
		t.Errorf("undo: exit code %d, %v", code, doc)
	}
	r.signIn(t, "ada")
}
