package testkit

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Authority is Pebble, a certificate authority for tests (RFC 8555). It proves
// hosts over real connections to 127.0.0.1, where every name leads.
type Authority struct {
	Directory string         // URL
	RootsFile string         // PEM, of the connection to the directory
	Issued    *x509.CertPool // the roots of the certificates that it gives

	cmd *exec.Cmd
	log *Buffer
}

// AuthorityConfig says where an Authority looks for the proof.
type AuthorityConfig struct {
	HTTPPort, TLSPort int           // of http-01 and tls-alpn-01
	Life              time.Duration // of certificates; whole seconds
}

// NewAuthority starts a certificate authority of the test's own.
func NewAuthority(t testing.TB, cfg AuthorityConfig) *Authority {
	t.Helper()
	root, dir := moduleRoot(t), t.TempDir()
	program := filepath.Join(dir, "pebble")
	build := exec.Command("go", "build", "-modfile="+filepath.Join(root, "tools", "go.mod"), "-o", program, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build pebble: %v\n%s", err, out)
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	roots := selfSigned(t, certFile, keyFile)
	api, management := FreePort(t), FreePort(t)
	text, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprint("127.0.0.1:", api), "managementListenAddress": fmt.Sprint("127.0.0.1:", management),
		"certificate": certFile, "privateKey": keyFile, "httpPort": cfg.HTTPPort, "tlsPort": cfg.TLSPort,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "test", "validityPeriod": int(cfg.Life / time.Second)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Authority{Directory: fmt.Sprintf("https://127.0.0.1:%d/dir", api), RootsFile: certFile, log: new(Buffer)}
	a.cmd = exec.Command(program, "-config", config, "-dnsserver", everythingIsHere(t))
	a.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Stop)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		root, err := get(client, fmt.Sprintf("https://127.0.0.1:%d/roots/0", management))
		if err == nil {
			if _, err = get(client, a.Directory); err == nil {
				a.Issued = x509.NewCertPool()
				if !a.Issued.AppendCertsFromPEM(root) {
					t.Fatalf("the authority's root is no certificate: %s", root)
				}
				return a
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the authority does not answer: %v\n%s", err, a.log)
		}
	}
}

// Log is what the authority has said.
func (a *Authority) Log() string { return strings.ToValidUTF8(a.log.String(), "?") }

// Stop ends the authority.
func (a *Authority) Stop() {
	_ = a.cmd.Process.Kill() // it may have ended
	_ = a.cmd.Wait()
}

func get(c *http.Client, url string) ([]byte, error) {
	res, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return b, err
}

// FreePort returns a port of 127.0.0.1 that nobody listens on, below the range from
// which systems hand out ports by themselves: until it is taken, no connection gets it.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000)))
		if err == nil {
			defer ln.Close()
			return ln.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// selfSigned writes a certificate for 127.0.0.1.
func selfSigned(t testing.TB, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	cert, key, _ := Certificate(t, time.Now().Add(24*time.Hour), "127.0.0.1")
	for path, text := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

// everythingIsHere starts a DNS server in whose world every name is 127.0.0.1,
// and returns its address.
func everythingIsHere(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}
