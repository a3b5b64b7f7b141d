package server_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// A disk that is full or read-only (letter F of the threat list).

// disk is a way in which a SQLite file can no longer be written, while it is open.
type disk struct {
	name  string
	whole bool // every write fails; otherwise those that still find room do not
	dir   func(t *testing.T) string
	fail  func(t *testing.T, d *db.DB, dir string)
	heal  func(t *testing.T, d *db.DB, dir string)
}

// pages sets how many there may be.
func pages(t *testing.T, d *db.DB, set func(tx *db.Tx) error) {
	t.Helper()
	if err := d.Write(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}

func tempDir(t *testing.T) string { return t.TempDir() }

// immutable makes the files of the database such that writes to them fail even for
// those who have them open, or undoes it.
func immutable(t *testing.T, dir, flag string) {
	t.Helper()
	if out, err := exec.Command("chattr", flag, filepath.Join(dir, "x.db"), filepath.Join(dir, "x.db-wal")).CombinedOutput(); err != nil {
		testkit.Missing(t, "files cannot be made immutable here: %v %s", err, out)
	}
}

var disks = []disk{
	{
		"full file system", true,
		func(t *testing.T) string {
			dir := t.TempDir()
			if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", dir).CombinedOutput(); err != nil {
				testkit.Missing(t, "no small file system can be mounted: %v %s", err, out)
			}
			t.Cleanup(func() {
				if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
					t.Errorf("%v %s", err, out)
				}
			})
			return dir
		},
		func(t *testing.T, _ *db.DB, dir string) {
			// The write-ahead log has no room left that it would use again.
			raw, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "x.db")+"?_pragma=busy_timeout(5000)")
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			var busy, size, moved int
			if err := raw.QueryRowContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &size, &moved); err != nil || busy != 0 {
				t.Fatalf("busy %d, %v", busy, err)
			}
			f, err := os.Create(filepath.Join(dir, "ballast"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for b := make([]byte, 4096); err == nil; {
				_, err = f.Write(b)
			}
		},
		func(t *testing.T, _ *db.DB, dir string) {
			if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
				t.Fatal(err)
			}
		},
	},
	{
		"full database", false, tempDir,
		func(t *testing.T, d *db.DB, _ string) {
			pages(t, d, func(tx *db.Tx) error {
				var now int
				_, err := tx.Row("PRAGMA max_page_count = 1", nil, &now) // as many as there are
				return err
			})
		},
		func(t *testing.T, d *db.DB, _ string) {
			pages(t, d, func(tx *db.Tx) error {
				var now int
				_, err := tx.Row("PRAGMA max_page_count = 1000000", nil, &now)
				return err
			})
		},
	},
	{
		"read-only files", true, tempDir,
		func(t *testing.T, _ *db.DB, dir string) {
			t.Cleanup(func() {
				_ = exec.Command("chattr", "-i", filepath.Join(dir, "x.db"), filepath.Join(dir, "x.db-wal")).Run()
			}) // or nothing could remove them
			immutable(t, dir, "+i")
		},
		func(t *testing.T, _ *db.DB, dir string) { immutable(t, dir, "-i") },
	},
}

// counter counts the lines of a log.
type counter struct{ n atomic.Int64 }

func (c *counter) Enabled(context.Context, slog.Level) bool      { return true }
func (c *counter) Handle(_ context.Context, _ slog.Record) error { c.n.Add(1); return nil }
func (c *counter) WithAttrs([]slog.Attr) slog.Handler            { return c }
func (c *counter) WithGroup(string) slog.Handler                 { return c }

// Where nothing can be written, what must be stored or used up is refused and stays
// good, and what only reads goes on. When there is room again everything does,
// without a restart, and nothing is lost.
func TestF_Disk(t *testing.T) {
	for _, way := range disks {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			dir := way.dir(t)
			d, err := sqlite.Open(filepath.Join(dir, "x.db"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			var box mailbox
			var lines counter
			w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout, func(c *server.Config) { c.Log = slog.New(&lines) })
			testDisk(t, w, &box, &lines, way, dir)
		})
	}
}

func testDisk(t *testing.T, w *world, box *mailbox, lines *counter, way disk, dir string) {
	_, ada := w.user("ada")
	_, bob := w.user("bob")
	authenticator, recovery := w.enrol(bob.access)
	w.person("eve", true)
	w.forgot("eve@example.com").want(t, 202, "")
	reset := box.token(w, "eve@example.com", mail.Reset)
	_, link, _ := box.letter(w, "eve@example.com")
	leaver, everywhere, third := w.signIn("ada", goodPassword), w.signIn("ada", goodPassword), w.signIn("ada", goodPassword)
	code := authenticator.next()
	byCode, byRecovery := w.due("bob"), w.due("bob")

	// Each is done once, in this order.
	type attempt struct {
		name string
		want int // when it can be done
		req  func() *http.Request
	}
	attempts := []attempt{
		{"sign-in", 200, func() *http.Request { return w.signInRequests("ada", goodPassword)["/token"] }},
		{"registration", 201, func() *http.Request {
			return w.request("POST", "/auth/register", "", map[string]string{"username": "new", "email": "new@example.com", "password": goodPassword})
		}},
		{"refresh", 200, func() *http.Request { return w.refreshRequests(third.refresh)["/token"] }},
		{"TOTP code", 200, func() *http.Request {
			return w.request("POST", "/2fa/verify", "", map[string]string{"mfa_token": byCode, "code": code})
		}},
		{"recovery code", 200, func() *http.Request {
			return w.request("POST", "/2fa/verify", "", map[string]string{"mfa_token": byRecovery, "code": recovery[0]})
		}},
		{"sign-in by mail", 200, func() *http.Request { return w.request("POST", "/auth/link", "", map[string]string{"token": link}) }},
		{"reset", 200, func() *http.Request {
			return w.request("POST", "/auth/reset-password", "", map[string]string{"token": reset, "password": "marzipan under the piano"})
		}},
		{"letter", 202, func() *http.Request {
			return w.request("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"})
		}},
		{"API key", 201, func() *http.Request {
			return w.request("POST", "/api-keys", ada.access, map[string]any{"name": "k", "scopes": []string{}})
		}},
		{"logout", 200, func() *http.Request { return w.request("POST", "/logout", leaver.access, nil) }},
		{"logout everywhere", 200, func() *http.Request { return w.request("POST", "/logout/all", everywhere.access, nil) }},
	}
	way.fail(t, w.db, dir)
	if !way.whole { // until no page is left
		for n := 0; ; n++ {
			r := w.send(attempts[0].req())
			if r.status == 503 {
				break
			}
			if r.want(t, 200, ""); n == 5000 {
				t.Fatal("it is never full")
			}
		}
	}
	before := w.holdings()
	refused := map[string]bool{}
	for _, a := range attempts {
		r := w.send(a.req())
		switch {
		case r.status == 503:
			refused[a.name] = true
			if r.header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", a.name)
			}
			for _, inner := range []string{"disk", "full", "readonly", "SQL", "sp_", dir} {
				if strings.Contains(string(r.body), inner) {
					t.Errorf("%s: the answer tells of the inside: %s", a.name, r.body)
				}
			}
		case way.whole || r.status != a.want:
			t.Errorf("%s: status %d: %.200s", a.name, r.status, r.body)
		}
	}
	if len(refused) == 0 {
		t.Fatal("everything could be done")
	}
	if way.whole {
		w.holds(before)
		// Longer than what is known of a session is good for without looking.
		time.Sleep(time.Second)
		for _, tk := range []tokens{ada, bob, leaver, everywhere, third} {
			if !w.alive(tk.access) {
				t.Error("a session was half ended")
			}
		}
	}
	for _, path := range []string{"/.well-known/jwks.json", "/openapi.json", "/livez"} {
		w.do("GET", path, "", nil).want(t, 200, "")
	}
	// Nobody asks: nothing is tried again and again.
	said := lines.n.Load()
	time.Sleep(500 * time.Millisecond)
	if n := lines.n.Load() - said; n > 10 {
		t.Errorf("%d lines in the log within half a second of silence", n)
	}

	way.heal(t, w.db, dir)
	for _, a := range attempts {
		if r := w.send(a.req()); refused[a.name] && r.status != a.want {
			t.Errorf("%s, when there is room again: status %d, want %d: %.200s", a.name, r.status, a.want, r.body)
		}
	}
	for _, tk := range []tokens{ada, leaver, everywhere} {
		w.dead("ended when there was room again", tk)
	}
	if !w.alive(bob.access) || !w.signsIn("eve", "marzipan under the piano") || !w.signsIn("new", goodPassword) {
		t.Error("something was lost")
	}
	// Once more: what was used up is.
	for _, a := range attempts {
		switch a.name {
		case "TOTP code", "recovery code", "sign-in by mail", "reset", "refresh", "logout":
			if r := w.send(a.req()); r.status/100 != 4 {
				t.Errorf("%s, again: status %d", a.name, r.status)
			}
		}
	}
	var sound string
	if _, err := w.db.View(t.Context()).Row("PRAGMA integrity_check", nil, &sound); err != nil || sound != "ok" {
		t.Error(errors.Join(err, errors.New(sound)))
	}
}
