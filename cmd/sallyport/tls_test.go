package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// pair is a certificate of its own authority, in files.
type pair struct {
	cert, key string
	roots     *x509.CertPool
	serial    string
}

func newPair(t testing.TB, hosts ...string) *pair {
	t.Helper()
	dir := t.TempDir()
	p := &pair{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	p.renew(t, time.Now().Add(24*time.Hour*365), hosts...)
	return p
}

// flags tell a server to use it.
func (p *pair) flags() []string {
	return []string{"--set", "tls.cert=" + p.cert, "--set", "tls.key=" + p.key}
}

// renew replaces certificate and key, and trusts the new one too.
func (p *pair) renew(t testing.TB, until time.Time, hosts ...string) {
	t.Helper()
	cert, key, serial := testkit.Certificate(t, until, hosts...)
	if p.roots == nil {
		p.roots = x509.NewCertPool()
	}
	p.roots.AppendCertsFromPEM(cert)
	p.serial = serial.String()
	replace(t, p.cert, cert)
	replace(t, p.key, key)
}

func replace(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

var plainLine = regexp.MustCompile(`(?m)^  HTTP +on (\S+), leads to HTTPS$`)

func TestHTTPS(t *testing.T) {
	t.Parallel()
	const host = "id.example.test"
	p, files := newPlace(t), newPair(t, host, "127.0.0.1")
	p.roots, p.http2 = files.roots, true
	port := fmt.Sprint(testkit.FreePort(t))
	p.at = "127.0.0.1:" + port
	r := p.serve(t, append([]string{
		"--set", "tls.redirect=127.0.0.1:0", "--base-url", "https://" + host + ":" + port, "--listen", "127.0.0.1:" + port, "--set", "tls.hsts_subdomains=true",
		"--set", "metrics.listen=127.0.0.1:0",
	}, files.flags()...)...)
	if !strings.HasPrefix(r.base, "https://") {
		t.Fatalf("API at %s", r.base)
	}
	plain := plainLine.FindStringSubmatch(r.output(t))
	if plain == nil {
		t.Fatalf("no second listener:\n%s", r.output(t))
	}

	t.Run("over TLS", func(t *testing.T) {
		for path, want := range map[string]int{"/livez": 200, "/users/me": 401, "/nothing": 404} {
			res, err := r.client.Get(r.base + path)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want || res.ProtoMajor != 2 || res.Header.Get("Strict-Transport-Security") != "max-age=31536000; includeSubDomains" {
				t.Errorf("%s: %d over %s with HSTS %q", path, res.StatusCode, res.Proto, res.Header.Get("Strict-Transport-Security"))
			}
		}
	})
	t.Run("in clear", func(t *testing.T) {
		client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for _, tt := range []struct {
			name, method, path string
			header             http.Header
			status             int
			to                 string
		}{
			{"page", "GET", "/docs?a=%2F", http.Header{"Accept": {"text/html,*/*;q=0.8"}}, 307, "https://" + host + ":" + port + "/docs?a=%2F"},
			{"page, towards another host", "GET", "//evil.example/", http.Header{"Accept": {"text/html"}}, 307, "https://" + host + ":" + port + "//evil.example/"},
			{"page of another host", "GET", "/docs", http.Header{"Accept": {"text/html"}, "X-Test-Host": {"evil.example"}}, 400, ""},
			{"API", "GET", "/users/me", nil, 403, ""},
			{"credential", "GET", "/docs", http.Header{"Accept": {"text/html"}, "Authorization": {"Bearer x"}}, 403, ""},
			{"API key", "GET", "/docs", http.Header{"Accept": {"text/html"}, "X-Api-Key": {"x"}}, 403, ""},
			{"password", "POST", "/token", nil, 403, ""},
			{"challenge without ACME", "GET", "/.well-known/acme-challenge/abc", nil, 403, ""},
		} {
			req, err := http.NewRequest(tt.method, "http://"+plain[1]+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.header != nil {
				req.Header = tt.header
			}
			req.Host = cmp.Or(tt.header.Get("X-Test-Host"), host)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != tt.status || res.Header.Get("Location") != tt.to {
				t.Errorf("%s: %d to %q (%v)", tt.name, res.StatusCode, res.Header.Get("Location"), err)
			}
			if tt.status == 403 && (!strings.Contains(string(body), `"code":"https_required"`) || !strings.Contains(string(body), res.Header.Get("X-Request-Id"))) {
				t.Errorf("%s: %s", tt.name, body)
			}
			if res.Header.Get("Strict-Transport-Security") != "" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: header %v", tt.name, res.Header)
			}
		}
	})
	dial := func(cfg *tls.Config) (*tls.Conn, error) {
		cfg.RootCAs, cfg.ServerName = files.roots, host
		return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", "127.0.0.1:"+port, cfg)
	}
	t.Run("versions", func(t *testing.T) {
		if conn, err := dial(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
			conn.Close()
			t.Error("TLS 1.1 was accepted")
		}
		conn, err := dial(&tls.Config{MaxVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	t.Run("renewed and broken", func(t *testing.T) {
		serial := func() string {
			t.Helper()
			conn, err := dial(&tls.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		if serial() != files.serial {
			t.Fatal("another certificate is served")
		}
		expires := func(at time.Time) {
			t.Helper()
			line := fmt.Sprintf("sallyport_certificate_expires_timestamp_seconds{name=%q} ", host)
			_, rest, _ := strings.Cut((&running{log: r.log, client: http.DefaultClient}).metrics(t), line) // in clear, at its own address
			value, _, _ := strings.Cut(rest, "\n")
			got, err := strconv.ParseFloat(value, 64)
			if err != nil || math.Abs(got-float64(at.Unix())) > 600 { // a slow machine
				t.Errorf("%s%v (%v), want %d", line, value, err, at.Unix())
			}
		}
		expires(time.Now().Add(365 * 24 * time.Hour))
		files.renew(t, time.Now().Add(time.Hour), host, "127.0.0.1")
		r.until(t, 20*time.Second, "the new certificate is served", func() bool { return serial() == files.serial })
		expires(time.Now().Add(time.Hour))
		replace(t, files.key, []byte("broken"))
		r.until(t, 30*time.Second, "the broken key is reported", func() bool { return strings.Contains(r.output(t), `"kind":"failed"`) })
		if serial() != files.serial {
			t.Error("the broken pair is served")
		}
		if !strings.Contains(r.output(t), `"kind":"reloaded"`) {
			t.Error("the new certificate was not reported")
		}
	})
	t.Run("healthcheck", func(t *testing.T) {
		files.renew(t, time.Now().Add(time.Hour), host)
		r.until(t, 20*time.Second, "the check succeeds", func() bool {
			c := p.command(append([]string{"healthcheck", "--listen", "127.0.0.1:" + port, "--base-url", "https://" + host + ":" + port}, files.flags()...)...)
			out, err := c.Output()
			return err == nil && string(out) == "ok\n"
		})
		other := newPair(t, host)
		c := p.command(append([]string{"healthcheck", "--listen", "127.0.0.1:" + port, "--base-url", "https://" + host + ":" + port}, other.flags()...)...)
		if err := c.Run(); err == nil {
			t.Error("a server with another certificate passed for this one")
		}
	})
	r.terminate(t)
}

// What ends soon or has ended is served, and said.
func TestHTTPSWarnings(t *testing.T) {
	t.Parallel()
	p, files := newPlace(t), newPair(t, "elsewhere.example.test")
	files.renew(t, time.Now().Add(-time.Hour), "elsewhere.example.test")
	if err := os.Chmod(files.key, 0o644); err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(testkit.FreePort(t))
	flags := append([]string{"--listen", "127.0.0.1:" + port, "--base-url", "https://id.example.test:" + port}, files.flags()...)
	out, err := p.command(append([]string{"config", "validate"}, flags...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the certificate ended at") || !strings.Contains(string(out), "every user of this machine") || !strings.Contains(string(out), "is valid") {
		t.Errorf("config validate: %v\n%s", err, out)
	}
	c := p.command(append([]string{"serve"}, flags...)...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if s := string(text); strings.Contains(s, `"kind":"expired"`) && strings.Contains(s, `"kind":"exposed"`) && strings.Contains(s, "no certificate is for the host") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not warned:\n%s", text)
		}
	}
	if _, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Errorf("a server with an ended certificate does not serve: %v", err)
	}
}

// A client that does not get on with its handshake is cut off by the limit for
// headers.
func TestSlowHandshake(t *testing.T) {
	files := newPair(t, "a.example")
	certs, err := https.NewCertificates(https.CertificatesConfig{Pairs: []https.Pair{{Cert: files.cert, Key: files.key}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := server.HTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if srv.ReadHeaderTimeout != 10*time.Second {
		t.Errorf("the limit is %v", srv.ReadHeaderTimeout)
	}
	srv.ReadHeaderTimeout = 100 * time.Millisecond
	srv.TLSConfig = https.TLSConfig(certs.GetCertificate)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := drained(srv)
	go srv.ServeTLS(d.listen(ln, true), "", "")
	defer srv.Close()
	for name, sent := range map[string]string{"nothing": "", "a part of a record": "\x16\x03\x01\x02\x00\x01\x00"} {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is still open", name)
		}
		conn.Close()
	}
	// In clear to the TLS port: told so, in clear.
	res, err := http.Get("http://" + ln.Addr().String())
	if err != nil || res.StatusCode != 400 {
		t.Errorf("HTTP to the HTTPS port: %v, %v", res, err)
	}
}

// Connections that have sent no request end with the server, whether they are
// new, in their handshake, kept, or HTTP/2.
func TestShutdownWithIdleConnections(t *testing.T) {
	t.Parallel()
	p, files := newPlace(t), newPair(t, "127.0.0.1")
	p.roots = files.roots
	r := p.serve(t, files.flags()...)
	addr := strings.TrimPrefix(r.base, "https://")
	tcp, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: files.roots, NextProtos: protos})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	h2 := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: files.roots}, ForceAttemptHTTP2: true}}
	res, err := h2.Get(r.base + "/livez")
	if err != nil || res.ProtoMajor != 2 {
		t.Fatalf("%v, %v", res, err)
	}
	res.Body.Close()
	began := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-r.ended
	if r.err != nil {
		t.Errorf("the server ended with %v\n%s", r.err, r.output(t))
	}
	t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
}
