package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

const acmeHost = "id.example.test"

// acmeNode is a server of a cluster that has certificates from an authority.
type acmeNode struct {
	t    *testing.T
	sv   *server.Server
	acme *server.ACME
	port int // with TLS
	log  *testkit.Buffer
}

func rootsOf(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("no roots")
	}
	return pool
}

// newACMENode starts a server on d. It does not ask for certificates before run.
func newACMENode(t *testing.T, d *db.DB, master string, a *testkit.Authority, port int, renewBefore time.Duration) *acmeNode {
	t.Helper()
	n := &acmeNode{t: t, log: new(testkit.Buffer)}
	var err error
	n.sv, err = server.New(t.Context(), server.Config{
		DB: d, BaseURL: "https://" + acmeHost, MasterKeyFile: master, Password: weakHashes, Log: slog.New(slog.NewTextHandler(n.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.sv.Close)
	n.acme, err = n.sv.ACME(server.ACMEConfig{
		Hosts: []string{acmeHost}, Directory: a.Directory, Email: "ops@example.test", Roots: rootsOf(t, a.RootsFile), RenewBefore: renewBefore,
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		t.Fatal(err)
	}
	n.port = ln.Addr().(*net.TCPAddr).Port
	srv := server.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }), slog.New(slog.DiscardHandler))
	srv.TLSConfig = n.acme.TLSConfig()
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return n
}

// expires is what the metrics say.
func (n *acmeNode) expires() float64 {
	n.t.Helper()
	for _, f := range n.sv.Metrics(n.t.Context()) {
		if f.Name == "sallyport_certificate_expires_timestamp_seconds" && len(f.Points) == 1 && f.Points[0].Labels[0] == acmeHost {
			return f.Points[0].Value
		}
	}
	n.t.Fatal("nothing says when the certificate expires")
	return 0
}

func (n *acmeNode) run() {
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan bool)
	go func() { n.acme.Run(ctx); close(done) }()
	n.t.Cleanup(func() { cancel(); <-done })
}

// served makes a handshake and returns the certificate, which must be good.
func (n *acmeNode) served(roots *x509.CertPool, name string) (*x509.Certificate, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", fmt.Sprint("127.0.0.1:", n.port), &tls.Config{RootCAs: roots, ServerName: name})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func (n *acmeNode) mustServe(a *testkit.Authority) *x509.Certificate {
	n.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		cert, err := n.served(a.Issued, acmeHost)
		if err == nil {
			return cert
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("no certificate: %v\n%s\n%s", err, n.log, a.Log())
		}
	}
}

// sealedRow is what the database holds under a name.
func sealedRow(t *testing.T, d *db.DB, name string) (sealed []byte) {
	t.Helper()
	if _, err := d.View(t.Context()).Row("SELECT sealed FROM sp_certificates WHERE name = $1", []any{name}, &sealed); err != nil {
		t.Fatal(err)
	}
	return sealed
}

// Issued over tls-alpn-01 (nobody listens for http-01), kept sealed, used by a second node and after a new
// master key without asking again, and asked for anew when what is kept is lost.
func TestACMECertificateIsShared(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		master := filepath.Join(t.TempDir(), "master.key")
		port := testkit.FreePort(t)
		a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: testkit.FreePort(t), TLSPort: port, Life: time.Hour})
		one := newACMENode(t, d, master, a, port, 0)
		if _, err := one.served(a.Issued, acmeHost); err == nil {
			t.Fatal("a certificate before anybody asked")
		}
		if strings.Contains(a.Log(), "Added order") {
			t.Fatal("a handshake ordered a certificate")
		}
		if got := one.expires(); got != 0 {
			t.Errorf("there is no certificate, and it expires at %v", got)
		}
		one.run()
		cert := one.mustServe(a)
		for end := time.Now().Add(20 * time.Second); one.expires() != float64(cert.NotAfter.Unix()); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it expires at %v, want %v", one.expires(), cert.NotAfter.Unix())
			}
		}
		if !strings.Contains(one.log.String(), "its terms are accepted by the configuration") || !strings.Contains(one.log.String(), "terms=") {
			t.Errorf("the terms are not in the log:\n%s", one.log)
		}
		for _, name := range []string{acmeHost, "acme_account+key"} {
			sealed := sealedRow(t, d, name)
			if len(sealed) < 100 || bytes.Contains(sealed, []byte("PRIVATE")) || bytes.Contains(sealed, []byte("BEGIN")) {
				t.Errorf("%s is kept as %d bytes, in clear: %q", name, len(sealed), sealed)
			}
		}
		for _, name := range []string{"other.example.test", "sub." + acmeHost} {
			if _, err := one.served(a.Issued, name); err == nil {
				t.Errorf("there is a certificate for %s", name)
			}
		}
		// Without a name: the first host's.
		conn, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", port), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().PeerCertificates[0].SerialNumber; got.Cmp(cert.SerialNumber) != 0 {
			t.Error("a client that names no host gets another certificate")
		}
		conn.Close()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Issued, ServerName: acmeHost}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(fmt.Sprint("https://127.0.0.1:", port))
		if err != nil || res.ProtoMajor != 2 {
			t.Errorf("over HTTP/2: %v, %v", res, err)
		} else {
			res.Body.Close()
		}

		a.Stop() // from here on nobody can be asked
		two := newACMENode(t, testkit.Again(t, d), master, a, 0, 0)
		two.run()
		if got := two.mustServe(a); got.SerialNumber.Cmp(cert.SerialNumber) != 0 {
			t.Error("the second node has another certificate")
		}
		if _, err := one.sv.RotateMaster(t.Context()); err != nil {
			t.Fatal(err)
		}
		three := newACMENode(t, testkit.Again(t, d), master, a, 0, 0)
		three.run()
		if got := three.mustServe(a); got.SerialNumber.Cmp(cert.SerialNumber) != 0 {
			t.Error("after a new master key there is another certificate")
		}

		// Sealed under a key that nobody has any more.
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_certificates SET sealed = $1, directory = $2", append([]byte{1}, bytes.Repeat([]byte("x"), 200)...), "https://other.example.test/dir")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		port = testkit.FreePort(t)
		b := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: testkit.FreePort(t), TLSPort: port, Life: time.Hour})
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_certificates SET directory = $1", b.Directory)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		four := newACMENode(t, testkit.Again(t, d), master, b, port, 0)
		four.run()
		if got := four.mustServe(b); got.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			t.Error("the lost certificate is back")
		}
		if !strings.Contains(four.log.String(), "cannot be opened, and a new one is asked for") {
			t.Errorf("that it was lost is not in the log:\n%s", four.log)
		}
	})
}

// Where tls-alpn-01 is not reached, http-01 is; and the log says what the
// authority had against the first.
func TestACMEOverHTTP(t *testing.T) {
	httpPort := testkit.FreePort(t)
	a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: httpPort, TLSPort: testkit.FreePort(t), Life: time.Hour})
	n := newACMENode(t, testkit.SQLite(t), filepath.Join(t.TempDir(), "master.key"), a, 0, 0)
	var asked []string
	var mu sync.Mutex
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.Path)
		mu.Unlock()
		w.WriteHeader(http.StatusTeapot)
	})
	srv := server.HTTPServer(n.acme.Challenges(next), slog.New(slog.DiscardHandler))
	ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", httpPort))
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	n.run()
	n.mustServe(a)
	if !strings.Contains(n.log.String(), "the certificate authority refuses") || !strings.Contains(n.log.String(), "challenge=tls-alpn-01") {
		t.Errorf("the reason is not in the log:\n%s", n.log)
	}
	if len(asked) > 0 {
		t.Errorf("challenges went through to the handler: %q", asked)
	}
	// Nothing else is answered, and a token that is not there says nothing.
	for path, want := range map[string]int{
		"/": 418, "/.well-known/acme-challenge/": 418, "/.well-known/acme-challenge/a/b": 418, "/.well-known/acme-challenge/a+b": 418,
		"/.well-known/acme-challenge/" + strings.Repeat("a", 129): 418, "/.well-known/acme-challenge/" + strings.Repeat("a", 128): 404,
	} {
		for host, want := range map[string]int{acmeHost: want, acmeHost + ":8080": want, "evil.example": 418} {
			req, err := http.NewRequest("GET", "http://"+ln.Addr().String()+path, nil)
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
			if err != nil || res.StatusCode != want || strings.Contains(string(body), "aaa") {
				t.Errorf("%s of %s: %d %q (%v), want %d", path, host, res.StatusCode, body, err, want)
			}
		}
	}
}

// A certificate that ends soon is renewed, and served, while the server runs;
// connections do not notice. Another node takes the new one from the database.
func TestACMERenewal(t *testing.T) {
	t.Parallel()
	port := testkit.FreePort(t)
	a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: testkit.FreePort(t), TLSPort: port, Life: 60 * time.Second})
	d, master := testkit.SQLite(t), filepath.Join(t.TempDir(), "master.key")
	n := newACMENode(t, d, master, a, port, 55*time.Second)
	n.run()
	first := n.mustServe(a)
	open, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", port), &tls.Config{RootCAs: a.Issued, ServerName: acmeHost})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	answers := bufio.NewReader(open)
	ask := func() {
		t.Helper()
		fmt.Fprintf(open, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", acmeHost)
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("on an open connection: %v", err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("on an open connection: %s, %v", res.Status, err)
		}
	}
	before := sealedRow(t, d, acmeHost)
	for deadline := time.Now().Add(50 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ask()
		if cert := n.mustServe(a); cert.SerialNumber.Cmp(first.SerialNumber) != 0 {
			if !cert.NotAfter.After(first.NotAfter) {
				t.Error("the new certificate does not last longer")
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not renewed:\n%s\n%s", n.log, a.Log())
		}
	}
	ask()
	if bytes.Equal(before, sealedRow(t, d, acmeHost)) {
		t.Error("the database still holds the first certificate")
	}
}

// A renewed certificate that cannot be stored is served all the same: the
// authority would not give another for the asking.
func TestACMERenewalWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	port := testkit.FreePort(t)
	a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: testkit.FreePort(t), TLSPort: port, Life: 60 * time.Second})
	d := testkit.SQLite(t)
	n := newACMENode(t, d, filepath.Join(t.TempDir(), "master.key"), a, port, 55*time.Second)
	n.run()
	first := n.mustServe(a)
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec("CREATE TRIGGER full BEFORE INSERT ON sp_certificates BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := sealedRow(t, d, acmeHost)
	for deadline := time.Now().Add(50 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if cert := n.mustServe(a); cert.SerialNumber.Cmp(first.SerialNumber) != 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the renewed certificate is not served:\n%s\n%s", n.log, a.Log())
		}
	}
	if !bytes.Equal(before, sealedRow(t, d, acmeHost)) || !strings.Contains(n.log.String(), "could not be stored") {
		t.Errorf("it was stored:\n%s", n.log)
	}
}

// Of several nodes that start at once one asks.
func TestACMEOneNodeAsks(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		port := testkit.FreePort(t)
		a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: testkit.FreePort(t), TLSPort: port, Life: time.Hour})
		master := filepath.Join(t.TempDir(), "master.key")
		nodes := []*acmeNode{newACMENode(t, d, master, a, port, 0)}
		for range 2 {
			nodes = append(nodes, newACMENode(t, testkit.Again(t, d), master, a, 0, 0))
		}
		for _, n := range nodes {
			n.run()
		}
		// Whichever asks, the proof is asked of the first: the challenge is in the
		// database too.
		serial := nodes[0].mustServe(a).SerialNumber
		for _, n := range nodes[1:] {
			if got := n.mustServe(a).SerialNumber; got.Cmp(serial) != 0 {
				t.Error("two nodes have different certificates")
			}
		}
		if got := strings.Count(a.Log(), "Issued certificate serial"); got != 1 {
			t.Errorf("%d certificates were issued, want 1\n%s", got, a.Log())
		}
	})
}

// What fails is not asked for again at once: not by another node, and not after a
// restart. Authorities allow few failures in an hour.
func TestACMEFailuresAreShared(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		// Nobody listens where the authority looks for the proof.
		a := testkit.NewAuthority(t, testkit.AuthorityConfig{HTTPPort: testkit.FreePort(t), TLSPort: testkit.FreePort(t), Life: time.Hour})
		master := filepath.Join(t.TempDir(), "master.key")
		start := func(d *db.DB) (*acmeNode, func()) {
			n := newACMENode(t, d, master, a, 0, 0)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan bool)
			go func() { n.acme.Run(ctx); close(done) }()
			end := sync.OnceFunc(func() { cancel(); <-done })
			t.Cleanup(end)
			return n, end
		}
		const failed = "there is no certificate for a host"
		wait := func(n *acmeNode) {
			t.Helper()
			for deadline := time.Now().Add(60 * time.Second); !strings.Contains(n.log.String(), failed); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("no failure is logged:\n%s\n%s", n.log, a.Log())
				}
			}
		}
		one, end := start(d)
		wait(one)
		end()
		orders := strings.Count(a.Log(), "Added order") // the manager makes two of one attempt
		if orders == 0 {
			t.Fatal("nothing was asked for")
		}
		for range 2 { // restarts, or other nodes
			n, _ := start(testkit.Again(t, d))
			wait(n)
			if !strings.Contains(n.log.String(), "asked in vain before") {
				t.Errorf("the log does not say why nothing is asked for:\n%s", n.log)
			}
		}
		if got := strings.Count(a.Log(), "Added order"); got != orders {
			t.Errorf("%d orders, want %d\n%s", got, orders, a.Log())
		}
		if text := one.log.String(); !strings.Contains(text, "again_in=1m5s") && !strings.Contains(text, "again_in=1m4s") {
			t.Errorf("logged:\n%s", text)
		}
	})
}

func TestACMEReportsEveryMistake(t *testing.T) {
	sv, err := server.New(t.Context(), server.Config{DB: testkit.SQLite(t), BaseURL: "https://" + acmeHost, MasterKeyFile: filepath.Join(t.TempDir(), "m"), Password: weakHashes})
	if err != nil {
		t.Fatal(err)
	}
	defer sv.Close()
	for _, tt := range []struct {
		name string
		cfg  server.ACMEConfig
		want string
	}{
		{"good", server.ACMEConfig{Hosts: []string{"id.example.com", "bücher.example.com"}, Email: "ops@example.com"}, ""},
		{"private authority", server.ACMEConfig{Hosts: []string{"id.corp"}, Directory: "https://ca.corp/dir"}, ""},
		{"nothing", server.ACMEConfig{}, "tls.hosts"},
		{"address", server.ACMEConfig{Hosts: []string{"192.0.2.1", "[::1]", "::1"}}, "tls.hosts tls.hosts tls.hosts"},
		{"one label", server.ACMEConfig{Hosts: []string{"localhost"}, Directory: "https://ca.corp/dir"}, "tls.hosts"},
		{"private name, public authority", server.ACMEConfig{Hosts: []string{"id.corp", "a.localhost", "id.internal"}}, "tls.hosts tls.hosts tls.hosts"},
		{"wildcard", server.ACMEConfig{Hosts: []string{"*.example.com"}}, "tls.hosts"},
		{"no name", server.ACMEConfig{Hosts: []string{"", "a b.example.com", "a.example.com:443", "a.example.com."}}, "tls.hosts tls.hosts tls.hosts tls.hosts"},
		{"all at once", server.ACMEConfig{Hosts: []string{"x"}, Directory: "http://ca.corp", Email: "Ops <ops@example.com>", RenewBefore: -1}, "tls.hosts tls.acme_directory tls.acme_email tls.renew_before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sv.ACME(tt.cfg)
			var keys []string
			if err != nil {
				for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
					e, ok := errors.AsType[*server.ConfigError](err)
					if !ok || e.Reason == "" || e.Fix == "" {
						t.Fatalf("%v is no complete mistake", err)
					}
					keys = append(keys, e.Key)
				}
			}
			if got := strings.Join(keys, " "); got != tt.want {
				t.Errorf("mistakes in %q, want %q: %v", got, tt.want, err)
			}
		})
	}
}

// What a stranger can do to a server that has no certificate yet: nothing that
// costs more than a handshake.
func TestACMEStrangers(t *testing.T) {
	sv, err := server.New(t.Context(), server.Config{DB: testkit.SQLite(t), BaseURL: "https://" + acmeHost, MasterKeyFile: filepath.Join(t.TempDir(), "m"), Password: weakHashes})
	if err != nil {
		t.Fatal(err)
	}
	defer sv.Close()
	var asked int
	directory := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++; w.WriteHeader(500) }))
	defer directory.Close()
	a, err := sv.ACME(server.ACMEConfig{Hosts: []string{acmeHost}, Directory: directory.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, hello := range []*tls.ClientHelloInfo{
		{ServerName: acmeHost, CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256}},
		{ServerName: acmeHost, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}},
		{ServerName: strings.ToUpper(acmeHost)},
		{ServerName: ""},
		{ServerName: "evil.example"},
		{ServerName: "evil.example", SupportedProtos: []string{acme.ALPNProto}},
		{ServerName: acmeHost, SupportedProtos: []string{acme.ALPNProto}},
		{ServerName: "../" + acmeHost},
		{ServerName: acmeHost + "+token"},
	} {
		if cert, err := a.GetCertificate(hello); err == nil {
			t.Errorf("%q: a certificate %v", hello.ServerName, cert.Leaf.DNSNames)
		}
	}
	if asked > 0 {
		t.Errorf("the authority was asked %d times", asked)
	}
}
