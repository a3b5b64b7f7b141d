package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// eventually waits until f is true. Ten seconds are many times what anything here
// takes.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// targets returns the targets of events in lines of JSON, and how many heads there
// are.
func targets(t *testing.T, b []byte) (out []string, heads int) {
	t.Helper()
	for _, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var e struct{ Schema, Target string }
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch e.Schema {
		case "sallyport.audit_event/v1":
			out = append(out, e.Target)
		case "sallyport.audit_head/v1":
			heads++
		default:
			t.Fatalf("%s", line)
		}
	}
	return out, heads
}

// receiver is a webhook that fails when it is told to, and checks signatures.
type receiver struct {
	mu         sync.Mutex
	status     int
	got        []string
	deliveries map[string]bool
	refused    int
	bad        string
}

var secret = bytes.Repeat([]byte("s"), 32)

func (r *receiver) serve(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		h := req.Header.Get(audit.SignatureHeader)
		now := time.Now()
		if !audit.VerifySignature(secret, h, b, now, time.Minute) || audit.VerifySignature(secret, h, append(b, 'x'), now, time.Minute) ||
			audit.VerifySignature(secret[1:], h, b, now, time.Minute) || audit.VerifySignature(secret, h, b, now.Add(time.Hour), time.Minute) ||
			audit.VerifySignature(secret, strings.ToUpper(h), b, now, time.Minute) {
			r.bad = "signature " + h
		}
		if req.Header.Get("Content-Type") != "application/x-ndjson" || req.Method != "POST" || req.Header.Get("Authorization") != "" {
			r.bad = fmt.Sprint(req.Method, req.Header)
		}
		if r.status != 200 {
			r.refused++
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(r.status)
			return
		}
		r.deliveries[req.Header.Get(audit.DeliveryHeader)] = true
		got, heads := targets(t, b)
		if heads != 1 {
			r.bad = fmt.Sprintf("%d heads", heads)
		}
		r.got = append(r.got, got...)
	})
}

// What is sealed goes to every sink, in order, also after the webhook was away and
// another process goes on; nothing is left out.
func TestSinks(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		hook := &receiver{status: 200, deliveries: map[string]bool{}}
		srv := httptest.NewServer(hook.serve(t))
		defer srv.Close()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		messages := make(chan string, 100)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					r := bufio.NewReader(conn)
					for {
						n, err := r.ReadString(' ')
						if err != nil {
							return
						}
						size, err := strconv.Atoi(strings.TrimSpace(n))
						b := make([]byte, size)
						if err != nil {
							t.Errorf("not a length: %q", n)
							return
						}
						if _, err := io.ReadFull(r, b); err != nil {
							return
						}
						messages <- string(b)
					}
				}()
			}
		}()
		file := filepath.Join(t.TempDir(), "audit.ndjson")
		var logged testkit.Buffer
		log := slog.New(slog.NewTextHandler(&logged, nil))
		cfg := audit.SinksConfig{Log: true, File: file, Syslog: "tcp://" + ln.Addr().String(), Webhook: srv.URL, WebhookSecret: secret}
		if err := cfg.Check(); err != nil {
			t.Fatal(err)
		}

		c := brief(t, d)
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: "before"})
		sealed(t, c)
		sinks := audit.NewSinks(cfg, d, c, log)
		// They begin with what is sealed after they were first seen in the database.
		eventually(t, "all four begin", func() bool {
			var n int
			_, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_audit_sinks", nil, &n)
			return err == nil && n == 4
		})
		record := func(from, to int) {
			t.Helper()
			for i := from; i < to; i++ {
				appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: strconv.Itoa(i), Result: audit.Denied, Reason: "\x1b[31m\u202eevil\nline"})
				sealed(t, c)
			}
		}
		wanted := func(n int) string {
			var out []string
			for i := range n {
				out = append(out, strconv.Itoa(i))
			}
			return strings.Join(out, " ")
		}
		hookHas := func(n int) func() bool {
			return func() bool {
				hook.mu.Lock()
				defer hook.mu.Unlock()
				return strings.Join(hook.got, " ") == wanted(n)
			}
		}
		fileHas := func(path, want string) func() bool {
			return func() bool {
				b, err := os.ReadFile(path)
				if err != nil || len(b) > 0 && b[len(b)-1] != '\n' {
					return false
				}
				got, _ := targets(t, b)
				return strings.Join(got, " ") == want
			}
		}
		record(0, 3)
		eventually(t, "the webhook has 3", hookHas(3))
		eventually(t, "the file has 3", fileHas(file, wanted(3)))
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", st, err)
		}
		for i := range 3 {
			select {
			case m := <-messages:
				if !strings.HasPrefix(m, "<84>1 20") || !strings.Contains(m, " x.done - {") || !strings.Contains(m, `"target":"`+strconv.Itoa(i)+`"`) || strings.ContainsAny(m, "\x1b\n\u202e") {
					t.Errorf("%q", m)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no syslog")
			}
		}
		eventually(t, "the log has 3", func() bool { return strings.Count(logged.String(), "audit: x.done") == 3 })
		if text := logged.String(); strings.ContainsAny(text, "\x1b\u202e") || !strings.Contains(text, "evil") {
			t.Errorf("%q", text)
		}

		// The webhook is away, and the file is renamed.
		hook.mu.Lock()
		hook.status = 307 // a redirect is no yes, and is not followed
		hook.mu.Unlock()
		if err := os.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		record(3, 5)
		eventually(t, "the new file has 2", fileHas(file, "3 4"))
		eventually(t, "the webhook refuses", func() bool {
			hook.mu.Lock()
			defer hook.mu.Unlock()
			return hook.refused > 0
		})
		if !hookHas(3)() || !fileHas(file+".1", wanted(3))() {
			t.Error("delivered to the wrong place")
		}
		// This process ends, and another goes on where it was.
		sinks.Close()
		record(5, 6)
		hook.mu.Lock()
		hook.status = 200
		hook.mu.Unlock()
		sinks = audit.NewSinks(cfg, d, c, log)
		defer sinks.Close()
		eventually(t, "the webhook has 6", hookHas(6))
		eventually(t, "the file has 6", fileHas(file, "3 4 5"))
		hook.mu.Lock()
		defer hook.mu.Unlock()
		if hook.bad != "" || hook.deliveries["/elsewhere"] {
			t.Error(hook.bad)
		}
	})
}

// Of two processes one hands on.
func TestOneNodeHandsOn(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		file := filepath.Join(t.TempDir(), "audit.ndjson")
		log := slog.New(slog.DiscardHandler)
		for _, n := range []*db.DB{d, testkit.Again(t, d)} {
			c := brief(t, n)
			c.Run(false)
			s := audit.NewSinks(audit.SinksConfig{File: file}, n, c, log)
			defer s.Close()
		}
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: "first"}) // a sink begins behind what is there
		eventually(t, "it begins", func() bool {
			var n int
			_, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_audit_sinks", nil, &n)
			return err == nil && n == 1
		})
		for i := range 100 {
			appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: strconv.Itoa(i)})
		}
		var got []string
		eventually(t, "all are there", func() bool {
			b, err := os.ReadFile(file)
			if err != nil || len(b) == 0 || b[len(b)-1] != '\n' {
				return false
			}
			got, _ = targets(t, b)
			return got[len(got)-1] == "99"
		})
		if len(got) < 100 || len(got) > 101 {
			t.Errorf("%d events, want 100 (101 with the first)", len(got))
		}
	})
}

// A syslog server and a webhook have addresses of the right form, and nothing goes
// over the network in clear.
func TestSinksCheck(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://hook.example.com/x?y=z": true, "http://127.0.0.1:8081/": true, "http://[::1]/": true, "http://localhost:1/": true,
		"http://hook.example.com/": false, "ftp://x/": false, "https://": false, "https://u:p@x/": false, "https://x/#f": false, "x": false,
		"http://127.0.0.1.example.com/": false, "http://localhost.example.com/": false,
	} {
		if err := audit.CheckWebhook(address); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	for address, ok := range map[string]bool{
		"udp://10.0.0.1:514": true, "tcp://logs.example.com:601": true, "unix:///dev/log": true,
		"udp://10.0.0.1": false, "tcp://:601": false, "tcp://x:0": false, "unix://dev/log": false, "unix:dev": false, "http://x:1": false, "tcp://x:1/y": false, "tcp://u@x:1": false,
	} {
		if err := audit.CheckSyslog(address); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := (audit.SinksConfig{Webhook: "https://x/", WebhookSecret: secret[:31]}).Check(); err == nil {
		t.Error("a short secret was taken")
	}
}

// Syslog in datagrams, over UDP and to a Unix socket.
func TestSyslogDatagrams(t *testing.T) {
	d := testkit.SQLite(t)
	c := brief(t, d)
	socket := filepath.Join(t.TempDir(), "log")
	u, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for address, conn := range map[string]net.PacketConn{"unix://" + socket: u, "udp://" + p.LocalAddr().String(): p} {
		s := audit.NewSinks(audit.SinksConfig{Syslog: address}, d, c, slog.New(slog.DiscardHandler))
		appendEvents(t, d, 1, audit.Event{Action: "x.first"})
		sealed(t, c)
		eventually(t, "it begins", func() bool {
			var n int
			_, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_audit_sinks WHERE name = $1", []any{"syslog:" + address}, &n)
			return err == nil && n == 1
		})
		long := strings.Repeat("x", 30<<10)
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Detail: map[string]string{"a": long, "b": long}})
		sealed(t, c)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 128<<10)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				t.Fatal(address, err)
			}
			if m := string(b[:n]); strings.Contains(m, " x.done ") {
				if n > 33<<10 || !strings.Contains(m, `"omitted":"yes"`) || !strings.HasPrefix(m, "<86>1 ") {
					t.Errorf("%d bytes: %.200s", n, m)
				}
				break
			}
		}
		s.Close()
	}
}

// Retention deletes from the old end, in batches, and what is left verifies.
func TestTrimKeepsTheChain(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		for range 3 {
			appendEvents(t, d, 900, audit.Event{Action: "x.old", Actor: "ada", ActorKind: "user", Reason: "r"})
			sealed(t, c)
		}
		early := head(t, c)
		time.Sleep(2 * time.Millisecond) // so that the limit lies between
		limit := time.Now()
		time.Sleep(2 * time.Millisecond)
		for range 2 {
			appendEvents(t, d, 10, audit.Event{Action: "x.new"})
			sealed(t, c)
		}
		late := head(t, c)
		if n, err := c.Trim(t.Context(), limit.Add(-time.Hour)); err != nil || n != 0 {
			t.Fatal(n, err)
		}
		// Two nodes at once.
		done := make(chan int64, 2)
		other := brief(t, testkit.Again(t, d))
		for _, x := range []*audit.Chain{c, other} {
			go func() {
				n, err := x.Trim(context.Background(), limit)
				if err != nil {
					t.Error(err)
				}
				done <- n
			}()
		}
		sum := <-done + <-done
		if n, err := c.Trim(t.Context(), limit); err != nil || sum+n != 2700 {
			t.Fatal(sum, n, err)
		}
		sealed(t, c) // what tells of it
		var batches, counted int
		all, err := audit.Latest(d.View(t.Context()), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.Action == "audit.trimmed" {
				batches++
				n, err := strconv.Atoi(e.Detail["events"])
				if err != nil || n > 2000 {
					t.Error(e.Detail)
				}
				counted += n
			}
		}
		if batches < 2 || counted != 2700 || len(all) != 20+batches {
			t.Errorf("%d events left, %d batches of %d", len(all), batches, counted)
		}
		v := whole(t, c, int64(20+batches), early, late)
		if v.Cut != 2700 {
			t.Errorf("%+v", v)
		}
		// The cut is signed: every column.
		for name, do := range map[string]func(tx *db.Tx) (int64, error){
			"number":    func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit_cuts SET number = number + 1") },
			"position":  func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit_cuts SET position = position + 1") },
			"hash":      func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit_cuts SET hash = signature") },
			"sealed_at": func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit_cuts SET sealed_at = sealed_at + 1") },
			"signature": func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit_cuts SET signature = hash") },
			"id":        func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit_cuts SET id = 2") },
			"all of it": func(tx *db.Tx) (int64, error) { return tx.Exec("DELETE FROM sp_audit_cuts") },
			"a seal more": func(tx *db.Tx) (int64, error) {
				return tx.Exec("DELETE FROM sp_audit_seals WHERE number = (SELECT MIN(number) FROM sp_audit_seals)")
			},
		} {
			err := d.Write(t.Context(), func(tx *db.Tx) error {
				if n, err := do(tx); err != nil || n != 1 {
					t.Errorf("%s: %d %v", name, n, err)
				}
				v, err := audit.VerifyIn(t.Context(), tx, c.Key(), late)
				if err == nil && v.Whole {
					t.Errorf("%s was not found", name)
				}
				return errUndo
			})
			if err != errUndo {
				t.Errorf("%s: %v", name, err)
			}
		}
		whole(t, c, int64(20+batches), early, late)
	})
}

// Retention deletes nothing that somebody has touched to make it look old, or to
// have it deleted: its cut would say that all was well.
func TestU_RetentionHidesNothing(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		for range 3 {
			appendEvents(t, d, 10, audit.Event{Action: "x.done"})
			sealed(t, c)
		}
		kept := head(t, c)
		exec := func(do func(tx *db.Tx) (int64, error)) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				n, err := do(tx)
				if err == nil && n == 0 {
					t.Error("nothing was changed")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		day := time.Now().Add(-24 * time.Hour)
		for _, tt := range []struct {
			name     string
			do, undo func(tx *db.Tx) (int64, error)
			limit    time.Time
			refused  bool // else it is not old
		}{
			{"events that look old", func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit SET at = at - 1000000000000")
			}, func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit SET at = at + 1000000000000") }, day, false},
			{"seals that look old", func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET sealed_at = sealed_at - 1000000000000")
			}, func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET sealed_at = sealed_at + 1000000000000")
			}, day, true},
			{"another place", func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET first = first + 1 WHERE number = 1")
			}, func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET first = first - 1 WHERE number = 1")
			}, time.Now().Add(time.Hour), true},
			{"another node", func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET node = node || 'x' WHERE number = 1")
			}, func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET node = substr(node, 1, length(node) - 1) WHERE number = 1")
			}, time.Now().Add(time.Hour), true},
			{"a cut that nobody signed", func(tx *db.Tx) (int64, error) {
				return tx.Exec("INSERT INTO sp_audit_cuts (id, number, position, sealed_at, hash, signature) SELECT 1, number, 10, sealed_at, hash, signature FROM sp_audit_seals WHERE number = 1")
			}, func(tx *db.Tx) (int64, error) { return tx.Exec("DELETE FROM sp_audit_cuts") }, time.Now().Add(time.Hour), true},
			{"a first seal that is gone", func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET number = 9 WHERE number = 1")
			}, func(tx *db.Tx) (int64, error) {
				return tx.Exec("UPDATE sp_audit_seals SET number = 1 WHERE number = 9")
			}, time.Now().Add(time.Hour), true},
		} {
			exec(tt.do)
			if n, err := c.Trim(t.Context(), tt.limit); n != 0 || (err != nil) != tt.refused {
				t.Errorf("%s: %d events were deleted (%v)", tt.name, n, err)
			}
			if v, err := c.Verify(t.Context(), kept); err != nil || v.Whole {
				t.Errorf("%s: hidden: %+v %v", tt.name, v, err)
			}
			exec(tt.undo)
			whole(t, c, 30, kept)
		}
		// Events that are gone are no old ones.
		exec(func(tx *db.Tx) (int64, error) {
			return tx.Exec("DELETE FROM sp_audit WHERE id = (SELECT MAX(id) FROM sp_audit)")
		})
		if n, err := c.Trim(t.Context(), day); n != 0 || err != nil {
			t.Error(n, err)
		}
		if v, err := c.Verify(t.Context(), kept); err != nil || v.Whole || v.Findings[0].Damage != audit.Removed {
			t.Errorf("%+v %v", v, err)
		}
		// And what is sound goes, to the seal before what is not.
		exec(func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET node = 'x' WHERE number = 2")
		})
		if n, err := c.Trim(t.Context(), time.Now().Add(time.Hour)); n != 10 || err == nil {
			t.Error(n, err)
		}
	})
}

// U. Who moves what was noted of a sink beyond the end, or lets somebody hold it for
// ever, does not switch it off, and the log tells.
func TestU_NobodySwitchesASinkOff(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		file := filepath.Join(t.TempDir(), "audit.ndjson")
		c := brief(t, d)
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: "before"})
		sealed(t, c)
		at := func() (n int64) {
			if _, err := d.View(t.Context()).Row("SELECT number FROM sp_audit_sinks", nil, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		s := audit.NewSinks(audit.SinksConfig{File: file}, d, c, slog.New(slog.DiscardHandler))
		eventually(t, "it begins", func() bool { return at() == 1 })
		s.Close()
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_audit_sinks SET number = 1000000, holder = 'nobody', held_until = $1", int64(1)<<62)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var logged testkit.Buffer
		s = audit.NewSinks(audit.SinksConfig{File: file}, d, c, slog.New(slog.NewTextHandler(&logged, nil)))
		defer s.Close()
		eventually(t, "it is put right", func() bool { return at() == 1 })
		if text := logged.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "noted=1000000 last=1") {
			t.Error(text)
		}
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: "after"})
		sealed(t, c)
		eventually(t, "it goes on", func() bool {
			b, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(b), `"target":"after"`)
		})
		var damaged float64
		for _, f := range c.Measure() {
			if f.Name == "sallyport_audit_damage_total" {
				damaged = f.Points[0].Value
			}
		}
		if damaged != 1 {
			t.Errorf("%v counted", damaged)
		}
	})
}

// U. The address of a webhook is in no log and not in the database.
func TestU_TheAddressOfAWebhookIsASecret(t *testing.T) {
	d := testkit.SQLite(t)
	c := brief(t, d)
	appendEvents(t, d, 1, audit.Event{Action: "x.done"})
	sealed(t, c)
	srv := httptest.NewServer(http.NotFoundHandler())
	address := srv.URL + "/PLANTED?x=PLANTED"
	srv.Close() // nobody is there
	var logged testkit.Buffer
	s := audit.NewSinks(audit.SinksConfig{Webhook: address, WebhookSecret: secret}, d, c, slog.New(slog.NewTextHandler(&logged, nil)))
	name := ""
	eventually(t, "it begins", func() bool {
		_, err := d.View(t.Context()).Row("SELECT name FROM sp_audit_sinks", nil, &name)
		return err == nil && name != ""
	})
	appendEvents(t, d, 1, audit.Event{Action: "x.done"})
	sealed(t, c)
	eventually(t, "it fails", func() bool { return strings.Contains(logged.String(), "level=ERROR") })
	s.Close()
	if text := logged.String() + name; strings.Contains(text, "PLANTED") || !strings.Contains(text, "connection refused") {
		t.Error(text)
	}
}

// U. Events go into a regular file only, one whose last line a crash has torn goes on
// with a new one, and one that others can read is told of.
func TestU_TheFile(t *testing.T) {
	d := testkit.SQLite(t)
	c := brief(t, d)
	appendEvents(t, d, 1, audit.Event{Action: "x.done"})
	sealed(t, c)
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	for name, tt := range map[string]struct {
		do       func(path string) error
		says     string
		accepted bool
	}{
		"link": {func(path string) error { return os.Symlink(victim, path) }, "is a symbolic link", false},
		"pipe": {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "is no regular file", false},
		"torn": {func(path string) error { return os.WriteFile(path, []byte(`{"schema":"sallyp`), 0o644) }, "chmod 600", true},
		"good": {func(path string) error { return os.WriteFile(path, []byte("{}\n"), 0o600) }, "", true},
	} {
		path := filepath.Join(dir, name)
		if err := tt.do(path); err != nil {
			t.Fatal(err)
		}
		var logged testkit.Buffer
		s := audit.NewSinks(audit.SinksConfig{File: path}, d, c, slog.New(slog.NewTextHandler(&logged, nil)))
		eventually(t, "it begins", func() bool {
			var n int
			found, err := d.View(t.Context()).Row("SELECT 1 FROM sp_audit_sinks WHERE name = $1", []any{"file:" + path}, &n)
			return err == nil && found
		})
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: name})
		sealed(t, c)
		if !tt.accepted {
			eventually(t, "it fails", func() bool { return strings.Contains(logged.String(), "level=ERROR") })
		} else {
			eventually(t, "it is there", func() bool {
				b, err := os.ReadFile(path)
				lines := strings.Split(string(b), "\n")
				return err == nil && len(lines) == 4 && strings.HasPrefix(lines[1], `{"schema":"sallyport.audit_event/v1"`) && lines[3] == ""
			})
		}
		s.Close()
		if text := logged.String(); !strings.Contains(text, tt.says) || tt.says == "" && text != "" {
			t.Errorf("%s: %s", name, text)
		}
	}
	if _, err := os.Stat(victim); err == nil {
		t.Error("a link was followed")
	}
}
