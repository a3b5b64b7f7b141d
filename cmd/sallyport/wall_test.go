package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// nginx starts one with this configuration of its server, and returns where it
// listens. PORT and UPSTREAM in the text are filled in.
func nginx(t *testing.T, upstream, location string) string {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		testkit.Missing(t, "nginx is not here (Debian: apt-get install nginx-light)")
	}
	dir := t.TempDir()
	addr := freeAddress(t)
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; error_log %[1]s/error.log; pid %[1]s/pid;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server {
		listen %[2]s;
		location / {
			proxy_pass http://%[3]s;
			%[4]s
		}
	}
}
`, dir, addr, upstream, location)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-e", filepath.Join(dir, "error.log"), "-p", dir, "-c", conf)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			t.Fatalf("nginx does not listen: %v\n%s%s", err, &out, log)
		}
	}
}

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
}

// from is a client with an address of its own.
func from(t *testing.T, ip string) *http.Client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: d.DialContext}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// asDocumented is what nginx is told by those who follow docs/proxies.md.
const asDocumented = `proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;`

// Behind nginx with one line of configuration, limits see real clients. Without
// it they see nginx, the log says so once, and doctor says what to do.
func TestQ_BehindNginx(t *testing.T) {
	const limit = "5/hour"
	status := func(c *http.Client, base, forged string) int {
		t.Helper()
		req, err := http.NewRequest("GET", base+"/users/me", nil)
		if err != nil {
			t.Fatal(err)
		}
		if forged != "" {
			req.Header.Set("X-Forwarded-For", forged)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	for _, declared := range []bool{true, false} {
		t.Run(fmt.Sprintf("declared_%v", declared), func(t *testing.T) {
			p := newPlace(t)
			backend, front := freeAddress(t), ""
			front = nginx(t, backend, asDocumented)
			base := "http://" + front
			flags := []string{"--listen", backend, "--base-url", base, "--set", "limits.default=" + limit}
			if declared {
				flags = append(flags, "--set", "proxy.trusted=127.0.0.1")
			}
			r := p.serve(t, flags...)
			ada, eve := from(t, "127.0.0.5"), from(t, "127.0.0.6")
			for i := range 5 {
				if got := status(eve, base, fmt.Sprintf("198.51.100.%d", i)); got != http.StatusUnauthorized {
					t.Fatalf("request %d: %d", i, got)
				}
			}
			if got := status(eve, base, "198.51.100.99"); got != http.StatusTooManyRequests {
				t.Errorf("the sixth, with another forged address: %d", got)
			}
			want := http.StatusUnauthorized
			if !declared {
				want = http.StatusTooManyRequests
			}
			if got := status(ada, base, ""); got != want {
				t.Errorf("another client: %d, want %d", got, want)
			}
			if got := strings.Count(r.output(t), "not a declared proxy"); got != map[bool]int{true: 0, false: 1}[declared] {
				t.Errorf("the log speaks of it %d times\n%s", got, r.output(t))
			}
		})
	}
}

// doctor runs the command against a URL and returns its findings.
func (p place) doctor(t *testing.T, args ...string) (findings map[string][]finding, code int) {
	t.Helper()
	c := p.command(append([]string{"doctor", "--json"}, args...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Findings []finding }
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &stderr)
	}
	findings = map[string][]finding{}
	for _, f := range doc.Findings {
		findings[f.Check] = append(findings[f.Check], f)
	}
	return findings, code
}

func TestDoctorBehindNginx(t *testing.T) {
	for _, tt := range []struct {
		name, nginx, trusted string
		status, fix          string
	}{
		{"declared", asDocumented, "127.0.0.1", fine, ""},
		{"not declared", asDocumented, "", problem, `proxy.trusted = ["127.0.0.1"]`},
		{"passes on what clients send", `proxy_set_header Host $http_host;`, "127.0.0.1", problem, "a proxy that appends to"},
		{"says nothing", `proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For ""; proxy_set_header X-Real-IP ""; proxy_set_header Forwarded "";`, "127.0.0.1", warning, "$proxy_add_x_forwarded_for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			backend := freeAddress(t)
			base := "http://" + nginx(t, backend, tt.nginx)
			flags := []string{"--base-url", base}
			if tt.trusted != "" {
				flags = append(flags, "--set", "proxy.trusted="+tt.trusted)
			}
			r := p.serve(t, append([]string{"--listen", backend}, flags...)...)
			r.base = base
			found, code := p.doctor(t, append([]string{"--url", base}, flags...)...)
			if code != map[bool]int{true: 1}[tt.status == problem] {
				t.Errorf("exit code %d: %v", code, found)
			}
			if f := found["proxies"]; len(f) != 1 || f[0].Status != tt.status || !strings.Contains(f[0].Fix, tt.fix) {
				t.Errorf("proxies: %+v", f)
			}
			for _, check := range []string{"reached", "headers", "hosts", "clock", "cookies", "limits"} {
				if f := found[check]; len(f) != 1 || f[0].Status != fine {
					t.Errorf("%s: %+v", check, f)
				}
			}
			if clients := p.cli(t, append([]string{"client", "list"}, flags...)...); len(clients["items"].([]any)) != 0 {
				t.Errorf("doctor left a machine client: %v", clients)
			}
		})
	}
}

func TestDoctorElsewhere(t *testing.T) {
	p := newPlace(t)
	r := p.serve(t)
	t.Run("as another", func(t *testing.T) {
		_, port, err := net.SplitHostPort(strings.TrimPrefix(r.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		found, code := p.doctor(t, "--url", "http://localhost:"+port)
		if f := found["base_url"]; code != 1 || len(f) != 1 || f[0].Fix != `base_url = "http://localhost:`+port+`" (it makes the access tokens that are out worthless)` {
			t.Errorf("%d %+v", code, found)
		}
	})
	t.Run("without a database", func(t *testing.T) {
		found, _ := newPlace(t).doctor(t, "--url", r.base)
		if f := found["proxies"]; len(f) != 1 || f[0].Status != skipped {
			t.Errorf("%+v", found)
		}
	})
	t.Run("not Sallyport", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.NotFoundHandler()}
		go func() { _ = srv.Serve(ln) }()
		defer srv.Close()
		found, code := p.doctor(t, "--url", "http://"+ln.Addr().String())
		if f := found["reached"]; code != 1 || len(f) != 1 || f[0].Status != problem {
			t.Errorf("%d %+v", code, found)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		c := p.command("doctor", "--url", "http://"+freeAddress(t))
		if err := c.Run(); c.ProcessState.ExitCode() != exitUnreachable {
			t.Errorf("%v", err)
		}
	})
}

// TestDoctorOfMail connects to the mail server and signs in, sends nothing, and
// tells of letters that wait.
func TestDoctorOfMail(t *testing.T) {
	p := newPlace(t)
	base := "http://" + freeAddress(t)
	p.serve(t, "--listen", strings.TrimPrefix(base, "http://"), "--base-url", base)
	one := func(check, status, says string, code int, args ...string) {
		t.Helper()
		found, got := p.doctor(t, append([]string{"--url", base, "--base-url", base}, args...)...)
		if f := found[check]; got != code || len(f) == 0 || f[0].Status != status || !strings.Contains(f[0].Detail, says) {
			t.Errorf("%v: exit code %d, %+v", args, got, found)
		}
		for _, all := range found {
			for _, f := range all {
				if strings.Contains(f.Detail+f.Fix, "top-secret") {
					t.Errorf("it says the password: %+v", f)
				}
			}
		}
	}
	one("mail", skipped, "there is no mail server", 0)
	one("mail", warning, "this is development", 0, "--dev")
	srv := testkit.NewMailServer(t, testkit.MailServerConfig{User: "mailer", Password: "top-secret"})
	good := []string{"--set", "smtp.url=" + srv.URL("tls=starttls"), "--set", "smtp.roots=" + srv.RootsFile}
	one("mail", fine, "TLS 1.3, signed in with PLAIN", 0, good...)
	one("letters", fine, "none wait", 0, good...)
	one("mail", problem, "certificate is not trusted", 1, good[:2]...)
	one("mail", problem, "535", 1, append([]string{"--set", "smtp.url=" + strings.Replace(srv.URL("tls=starttls"), "top-secret", "top-secret2", 1)}, good[2:]...)...)
	d, err := sql.Open("sqlite", filepath.Join(p.data, "sallyport.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Exec(`INSERT INTO sp_outbox (id, subject_id, kind, sealed, attempts, due_at, created_at, expires_at, failure, tried_at)
		VALUES ('1', NULL, 'reset', x'00', 3, 9000000000000000, 1000000, 9000000000000000, '451 later', 2000000)`); err != nil {
		t.Fatal(err)
	}
	one("letters", warning, "because: 451 later", 0, good...)
	if _, err := d.Exec("UPDATE sp_outbox SET failure = '', tried_at = 0"); err != nil {
		t.Fatal(err)
	}
	one("letters", problem, "were not tried", 1, good...)
	srv.Away()
	one("mail", problem, "the connection failed", 1, good...)
	if n := len(srv.Got()); n != 0 {
		t.Errorf("doctor sent %d letters", n)
	}
}

// A credential goes to the server that it is for, over a connection that nobody
// else can read, or nowhere; and what answers writes nothing into the terminal.
func TestDoctorKeepsItsCredential(t *testing.T) {
	const token = "sp_planted-for-doctor"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, issuer string // "": its own
		secure       bool
		told         bool
	}{
		{"itself", "", false, true},
		{"untrusted certificate", "", true, false},
		{"another", "http://id.example.com", false, false},
		{"hostile", "\x1b]0;owned\a\x1b[2J", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scheme := map[bool]string{false: "http", true: "https"}[tt.secure]
			var told atomic.Bool
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for _, lines := range r.Header {
					told.Store(told.Load() || strings.Contains(strings.Join(lines, " "), token))
				}
				_ = json.NewEncoder(w).Encode(map[string]string{"issuer": cmp.Or(tt.issuer, scheme+"://"+r.Host)})
			})
			srv := httptest.NewUnstartedServer(h)
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			if tt.secure {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			c := newPlace(t).command("doctor", "--url", srv.URL, "--token-file", file)
			out, _ := c.CombinedOutput()
			if told.Load() != tt.told {
				t.Errorf("the credential was sent: %v\n%q", told.Load(), out)
			}
			if bytes.ContainsAny(out, "\x1b\a") {
				t.Errorf("the terminal gets %q", out)
			}
		})
	}
	// Nor is one made for what could be anybody, although it is the server.
	p, files := newPlace(t), newPair(t, "127.0.0.1")
	p.roots = files.roots
	addr := freeAddress(t)
	base := "https://" + addr
	p.serve(t, append(files.flags(), "--listen", addr, "--base-url", base)...)
	found, code := p.doctor(t, "--url", base, "--base-url", base)
	if f := found["proxies"]; code != 1 || len(f) != 1 || f[0].Status != skipped || len(found["certificate"]) == 0 || found["certificate"][0].Status != problem {
		t.Errorf("%d %+v", code, found)
	}
}

// Clients that send their headers or their body slowly are cut off: by their
// connection, which nobody else waits for.
func TestH_SlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	r := newPlace(t).serve(t)
	addr := strings.TrimPrefix(r.base, "http://")
	const many = 200
	var cut, body atomic.Int32
	var wg sync.WaitGroup
	began := time.Now()
	for i := range many {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(50 * time.Second))
			head := "GET /users/me HTTP/1.1\r\nHost: " + addr + "\r\n"
			if i%2 == 0 {
				head = "POST /auth/login HTTP/1.1\r\nHost: " + addr + "\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
			}
			if _, err := io.WriteString(c, head); err != nil {
				t.Error(err)
				return
			}
			stop := make(chan struct{})
			defer close(stop)
			go func() { // a byte now and then, as slowloris does
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(2 * time.Second):
					}
					drip := "X-" + fmt.Sprint(n) + ": 1\r\n"
					if i%2 == 0 {
						drip = " "
					}
					if _, err := io.WriteString(c, drip); err != nil {
						return
					}
				}
			}()
			answer, _ := io.ReadAll(c) // until the server closes
			if i%2 == 0 && bytes.Contains(answer, []byte("body_timeout")) {
				body.Add(1)
			}
			if i%2 == 1 {
				cut.Add(1)
			}
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("connection %d was kept for %v", i, took)
			}
		})
	}
	// Meanwhile others are served.
	for range 50 {
		if status, _ := r.call(t, "GET", "/livez", "", nil); status != http.StatusOK {
			t.Errorf("/livez: %d", status)
		}
		time.Sleep(20 * time.Millisecond)
	}
	wg.Wait()
	if cut.Load() != many/2 || body.Load() != many/2 {
		t.Errorf("%d of %d slow headers and %d of %d slow bodies were cut off", cut.Load(), many/2, body.Load(), many/2)
	}
}

// Ten thousand connections that do nothing keep nobody else from being served,
// and cost little memory.
func TestH_TenThousandConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 10,000 connections")
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 12_000 {
		testkit.Missing(t, "only %d files may be open here, and 12,000 are needed (ulimit -Hn)", limit.Max)
	}
	r := newPlace(t).serve(t)
	addr := strings.TrimPrefix(r.base, "http://")
	before := resident(t, r)
	const many = 10_000
	conns := make([]net.Conn, 0, many)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Several local addresses, as one has not many more ports than that.
	for i := range many {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%4))}}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
		if i%2 == 0 { // half of them have begun a request
			if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 20 {
		if status, _ := r.call(t, "GET", "/readyz", "", nil); status != http.StatusOK {
			t.Errorf("/readyz: %d", status)
		}
	}
	// The last one that was opened is as good as any.
	c := conns[many-1]
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%v %v", res, err)
	}
	grown := resident(t, r) - before
	t.Logf("%d connections take %d MB", many, grown>>20)
	if grown > 256<<20 {
		t.Errorf("%d connections take %d MB", many, grown>>20)
	}
}

// resident returns the memory of the process in bytes.
func resident(t *testing.T, r *running) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.cmd.Process.Pid))
	if err != nil {
		testkit.Missing(t, "there is no /proc here")
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
