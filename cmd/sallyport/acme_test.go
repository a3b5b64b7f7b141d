package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// The whole program with a real authority: two listeners, no files, and a
// restart while the authority is away.
func TestACME(t *testing.T) {
	t.Parallel()
	const host = "id.example.test"
	port, plain := testkit.FreePort(t), testkit.FreePort(t)
	a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: plain, TLSPort: port, Life: time.Hour})
	p := newPlace(t)
	p.roots, p.http2, p.at = a.Issued, true, fmt.Sprint("127.0.0.1:", port)
	flags := []string{
		"--listen", p.at, "--base-url", fmt.Sprintf("https://%s:%d", host, port), "--set", "tls.acme=true", "--set", "tls.acme_directory=" + a.Directory,
		"--set", "tls.acme_roots=" + a.RootsFile, "--set", "tls.acme_email=ops@example.test", "--set", "tls.hosts=also.example.test", "--set", fmt.Sprint("tls.redirect=127.0.0.1:", plain),
	}
	var serial string
	for _, step := range []string{"at first", "again, without the authority"} {
		c := p.command(append([]string{"serve"}, flags...)...)
		log := new(testkit.Buffer)
		c.Stderr = log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill() })
		served := func(name string) (*tls.Conn, error) {
			return tls.Dial("tcp", p.at, &tls.Config{RootCAs: a.Issued, ServerName: name})
		}
		for _, name := range []string{host, "also.example.test"} {
			for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				conn, err := served(name)
				if err == nil {
					if name == host {
						got := conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
						if serial != "" && got != serial {
							t.Errorf("%s: another certificate", step)
						}
						serial = got
					}
					conn.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: no certificate for %s: %v\n%s\n%s", step, name, err, log, a.Log())
				}
			}
		}
		if conn, err := served("evil.example.test"); err == nil {
			conn.Close()
			t.Error("a certificate for a host that is not ours")
		}
		for path, want := range map[string]string{"/users/me": `"code":"https_required"`, "/livez": `"status":"ok"`, "/.well-known/acme-challenge/abc": "certificate cache miss"} {
			req, err := http.NewRequest("GET", fmt.Sprint("http://127.0.0.1:", plain, path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !strings.Contains(string(body), want) {
				t.Errorf("%s in clear: %d %q (%v)", path, res.StatusCode, body, err)
			}
		}
		if text := log.String(); !strings.Contains(text, "certificates from "+a.Directory) || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("the log:\n%s", text)
		}
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("%s: ended with %v\n%s", step, err, log)
		}
		a.Stop()
	}
}
