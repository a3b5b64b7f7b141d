package main

import (
	"bufio"
	"bytes"
	"cmp"
	"database/sql"
	"encoding/json"
	"errors"
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
		location /forward-auth/ {
			return 404;
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
			// A question is the proxy's to ask, and a client's is not handed on.
			for target, want := range map[string]int{"/forward-auth/nginx?require=public": 404, "/forward-auth/%65nvoy/x": 404, "//forward-auth/caddy": 404} {
				question := []string{"X-Original-Method", "GET", "X-Original-Uri", "/", "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/", "X-Sallyport-Require", "public"}
				if a := ask(t, "GET", base+target, question...); a.status != want || a.header.Get("X-Sallyport-Code") != "" {
					t.Errorf("%s: %d %v", target, a.status, a.header)
				}
				if a := ask(t, "GET", "http://"+backend+"/forward-auth/caddy?require=public", append(question, "X-Forwarded-Host", front, "X-Forwarded-For", "198.51.100.200")...); (a.status == 200) != declared {
					t.Errorf("a proxy's own question, declared %v: %d", declared, a.status)
				}
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

// raisedFiles is how many files may be open here: the Go runtime raises the soft
// limit to the hard one, in the test and in the server.
func raisedFiles(t *testing.T) uint64 {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return limit.Max
}

// TestH_TenThousandConnections: each of ten thousand asks in turn and is kept, then
// half of them begin a request and do not go on. Nobody else waits for that, it
// costs little memory, also while people sign in, and who does not go on is closed.
func TestH_TenThousandConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 10,000 connections")
	}
	if files := raisedFiles(t); files < 12_000 {
		testkit.Missing(t, "only %d files may be open here, and 12,000 are needed (ulimit -Hn)", files)
	}
	p := newPlace(t)
	// What docs/running.md says to set for it.
	p.env = append(p.env, "SALLYPORT_LIMITS_LOGIN=off", "GOMEMLIMIT=180MiB")
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	r := p.serve(t)
	addr := strings.TrimPrefix(r.base, "http://")
	before := resident(t, r)
	const many = 10_000
	type client struct {
		net.Conn
		in *bufio.Reader
	}
	clients := make([]client, many)
	defer func() {
		for _, c := range clients {
			if c.Conn != nil {
				c.Close()
			}
		}
	}()
	// each does something with every client, eight at a time.
	each := func(f func(i int, c *client) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for n := range errs {
			wg.Go(func() {
				for i := n; i < many && errs[n] == nil; i += len(errs) {
					errs[n] = f(i, &clients[i])
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(_ int, c *client) error {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		if res.StatusCode != http.StatusOK || res.Close {
			err = fmt.Errorf("status %d, closed %v", res.StatusCode, res.Close)
		}
		return errors.Join(err, res.Body.Close())
	}
	began := time.Now()
	each(func(i int, c *client) error {
		// Several local addresses, as one has not many more ports than that.
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%4))}}
		conn, err := d.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		c.Conn, c.in = conn, bufio.NewReaderSize(conn, 1024)
		return ask(i, c)
	})
	opened := time.Since(began)
	each(ask) // on the connections that were kept
	asked := time.Since(began) - opened
	kept := resident(t, r)

	half := func(i int) bool { return i%2 == 0 }
	each(func(i int, c *client) (err error) {
		if half(i) {
			_, err = io.WriteString(c, "GET /livez HTTP/1.1\r\n")
		}
		return err
	})
	var signIns sync.WaitGroup
	var signedIn atomic.Int64
	for range 16 {
		signIns.Go(func() {
			switch status, _, err := r.try("POST", "/token", "", passwordForm("root")); {
			case err == nil && status == http.StatusOK:
				signedIn.Add(1)
			case err != nil || status != http.StatusServiceUnavailable: // a busy machine
				t.Errorf("sign-in: %d, %v", status, err)
			}
		})
	}
	for range 20 {
		if status, _ := r.call(t, "GET", "/readyz", "", nil); status != http.StatusOK {
			t.Errorf("/readyz: %d", status)
		}
	}
	signIns.Wait()
	if signedIn.Load() == 0 {
		t.Error("nobody could sign in")
	}
	most := resident(t, r)
	t.Logf("%d MB before, %d MB with %d kept connections, %d MB at the end; opened and asked in %v, once more in %v", before>>20, kept>>20, many, most>>20, opened.Round(time.Millisecond), asked.Round(time.Millisecond))
	if most > 300<<20 { // what docs/running.md states
		t.Errorf("%d connections and sign-ins take %d MB", many, most>>20)
	}
	// Whoever began and did not go on is closed, within ten seconds; the others stay.
	each(func(i int, c *client) error {
		if !half(i) {
			return ask(i, c)
		}
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, c.in); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("a request that was only begun: %w", err)
		}
		return nil
	})
	// What they took is free for others.
	r.until(t, 10*time.Second, "the descriptors are closed", func() bool { return resourcesOf(t, r).files < many/2+200 })
}

// TestF_Descriptors has a server run out of file descriptors: what is open is
// served, nothing spins, and it is back when there are some again.
func TestF_Descriptors(t *testing.T) {
	t.Parallel()
	const files = 100
	p := newPlace(t)
	p.files = files
	p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	r := p.serve(t)
	tk := r.signIn(t, "root")
	addr := strings.TrimPrefix(r.base, "http://")
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 2 * files { // the system takes them, the server does not
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	r.until(t, 5*time.Second, "no descriptor is left", func() bool { return resourcesOf(t, r).files >= files })
	used := processorTime(t, r)
	const silence = 2 * time.Second
	for until := time.Now().Add(silence); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		// A connection that was open before.
		if status := r.get(t, "/users/me", tk); status != http.StatusOK {
			t.Fatalf("a connection that is open: %d\n%s", status, r.output(t))
		}
	}
	more := r.signIn(t, "root") // what writes works, too
	if used := processorTime(t, r) - used; used > silence/2 {
		t.Errorf("%v of processor time within %v in which next to nothing was asked", used, silence)
	}
	lines := r.output(t)
	if n := strings.Count(lines, "no new connection can be taken"); n != 1 {
		t.Errorf("it was told %d times that no connection can be taken", n)
	}
	if n := strings.Count(lines, "\n") - strings.Count(lines, `"msg":"request"`); n > 20 {
		t.Errorf("%d lines in the log", n)
	}
	for _, c := range conns {
		c.Close()
	}
	fresh := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r.until(t, 5*time.Second, "new connections are served again", func() bool {
		return r.ask(fresh, "GET", "/users/me", tk.access, nil).status == http.StatusOK
	})
	r.refresh(t, more.refresh)
	r.must(t, "POST", "/logout", tk, nil)
	r.wantRefused(t, tk)
	r.terminate(t)
}

// processorTime returns what a process has used.
func processorTime(t *testing.T, r *running) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		testkit.Missing(t, "there is no /proc here")
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third on, of proc_pid_stat(5)
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
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
