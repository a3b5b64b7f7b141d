package https

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// made is a certificate with its key, as files hold them.
type made struct {
	cert, key []byte
	serial    string
}

type template struct {
	names    []string
	from, to time.Time
	useRSA   bool
}

func makeCert(t testing.TB, tpl template) made {
	t.Helper()
	if tpl.from.IsZero() {
		tpl.from = time.Now().Add(-time.Hour)
	}
	if tpl.to.IsZero() {
		tpl.to = time.Now().Add(365 * 24 * time.Hour)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test"}, DNSNames: tpl.names, NotBefore: tpl.from, NotAfter: tpl.to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	var key, public any
	if tpl.useRSA {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, public, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return made{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		serial.String(),
	}
}

// write replaces a file by renaming, as careful programs do.
func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (m made) store(t testing.TB, dir, name string) Pair {
	t.Helper()
	p := Pair{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	write(t, p.Cert, m.cert)
	write(t, p.Key, m.key)
	return p
}

// reports collects events.
type reports struct {
	mu  sync.Mutex
	all []Event
}

func (r *reports) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *reports) kinds() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.all {
		out = append(out, string(e.Kind))
	}
	return strings.Join(out, " ")
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newCertificates(t testing.TB, cfg CertificatesConfig) *Certificates {
	t.Helper()
	c, err := NewCertificates(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serial returns the serial number of the certificate for a name.
func serial(t *testing.T, c *Certificates, name string) string {
	t.Helper()
	cert, err := c.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.String()
}

func TestNewCertificatesReportsEveryMistake(t *testing.T) {
	dir := t.TempDir()
	a, b := makeCert(t, template{names: []string{"a.example"}}), makeCert(t, template{names: []string{"b.example"}})
	good := a.store(t, dir, "a")
	other := b.store(t, dir, "b")
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		return path
	}
	text := file("text", []byte("nothing"))
	torn := file("torn", a.cert[:len(a.cert)/2])
	tornKey := file("tornkey", []byte("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"))
	secret := file("encrypted", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("sealed")}))
	large := file("large", make([]byte, maxPEM+1))
	for _, tt := range []struct {
		name  string
		cfg   CertificatesConfig
		want  string
		value string // in the first mistake
	}{
		{"good", CertificatesConfig{Pairs: []Pair{good, other}}, "", ""},
		{"no pair", CertificatesConfig{}, "Pairs", ""},
		{"missing certificate", CertificatesConfig{Pairs: []Pair{{dir + "/none", good.Key}}}, "Cert", dir + "/none"},
		{"missing key", CertificatesConfig{Pairs: []Pair{{good.Cert, dir + "/none"}}}, "Key", dir + "/none"},
		{"a folder", CertificatesConfig{Pairs: []Pair{{dir, good.Key}}}, "Cert", dir},
		{"no PEM", CertificatesConfig{Pairs: []Pair{{text, good.Key}}}, "Cert", text},
		{"torn", CertificatesConfig{Pairs: []Pair{{torn, good.Key}}}, "Cert", torn},
		{"too large", CertificatesConfig{Pairs: []Pair{{large, good.Key}}}, "Cert", large},
		{"no key in it", CertificatesConfig{Pairs: []Pair{{good.Cert, good.Cert}}}, "Key", good.Cert},
		{"torn key", CertificatesConfig{Pairs: []Pair{{good.Cert, tornKey}}}, "Key", tornKey},
		{"encrypted key", CertificatesConfig{Pairs: []Pair{{good.Cert, secret}}}, "Key", secret},
		{"another's key", CertificatesConfig{Pairs: []Pair{{good.Cert, other.Key}}}, "Key", other.Key},
		{"interval", CertificatesConfig{Pairs: []Pair{good}, Interval: time.Millisecond}, "Interval", "1ms"},
		{"all at once", CertificatesConfig{Pairs: []Pair{{text, good.Key}, good, {good.Cert, other.Key}}, Interval: 2 * time.Hour}, "Interval Cert Key", "2h0m0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := NewCertificates(tt.cfg)
			if got := strings.Join(mistakes(t, err), " "); got != tt.want {
				t.Fatalf("mistakes in %q, want %q: %v", got, tt.want, err)
			}
			if (c == nil) != (err != nil) {
				t.Errorf("certificates %v beside error %v", c, err)
			}
			if err == nil {
				return
			}
			if e := err.(interface{ Unwrap() []error }).Unwrap()[0].(*ConfigError); e.Value != tt.value {
				t.Errorf("value %q, want %q", e.Value, tt.value)
			}
			if strings.Contains(err.Error(), string(a.key[40:60])) {
				t.Error("the mistake shows a part of the key")
			}
		})
	}
}

// Looks happen once in an interval; what cannot be used is reported once, at
// the second look, and the certificate before is served meanwhile.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	names := template{names: []string{"a.example"}}
	one, two, three := makeCert(t, names), makeCert(t, names), makeCert(t, names)
	pair := one.store(t, dir, "a")
	now, events := &clock{now: time.Now()}, new(reports)
	c := newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Report: events.add, Now: now.Now})
	want := func(step string, m made, kinds string) {
		t.Helper()
		if got := serial(t, c, "a.example"); got != m.serial {
			t.Errorf("%s: another certificate is served", step)
		}
		if got := events.kinds(); got != kinds {
			t.Errorf("%s: reported %q, want %q", step, got, kinds)
		}
	}
	look := func() { now.pass(DefaultInterval); serial(t, c, "a.example") }

	want("at the start", one, "")
	two.store(t, dir, "a")
	now.pass(DefaultInterval - time.Second)
	want("before the interval is over", one, "")
	now.pass(time.Second)
	serial(t, c, "a.example")
	want("after it", two, "reloaded")
	look()
	want("unchanged", two, "reloaded")

	// The certificate is there before its key: no alarm.
	write(t, pair.Cert, three.cert)
	look()
	want("half replaced", two, "reloaded")
	write(t, pair.Key, three.key)
	look()
	want("replaced", three, "reloaded reloaded")

	// It stays so: one alarm.
	write(t, pair.Key, one.key)
	look()
	want("mismatched", three, "reloaded reloaded")
	for range 3 {
		look()
		want("still mismatched", three, "reloaded reloaded failed")
	}
	if e := events.all[2]; e.Err == nil || !strings.Contains(e.String(), "still served") || !strings.Contains(e.String(), pair.Key) {
		t.Errorf("reported: %v", e)
	}
	// Back as it was: nothing to report.
	write(t, pair.Key, three.key)
	look()
	want("mended", three, "reloaded reloaded failed")
	// Another way to be broken is another alarm.
	if err := os.Remove(pair.Cert); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		look()
	}
	want("removed", three, "reloaded reloaded failed failed")
	one.store(t, dir, "a")
	lookAt := func(at time.Time) {
		c.mu.Lock()
		defer c.mu.Unlock()
		now.now = at
		c.look()
	}
	lookAt(time.Now())
	want("at last", one, "reloaded reloaded failed failed reloaded")

	// In place, with the same size and time: contents decide while a file is new.
	info, err := os.Stat(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{pair.Cert: two.cert, pair.Key: two.key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	lookAt(time.Now())
	want("in place", two, "reloaded reloaded failed failed reloaded reloaded")
}

// Kubernetes replaces the link to a folder; files keep names and the same size.
func TestReloadThroughALink(t *testing.T) {
	dir := t.TempDir()
	names := template{names: []string{"a.example"}}
	one, two := makeCert(t, names), makeCert(t, names)
	at := time.Now().Add(-time.Hour)
	for i, m := range []made{one, two} {
		sub := filepath.Join(dir, fmt.Sprint("..", i))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		p := m.store(t, sub, "tls")
		for _, path := range []string{p.Cert, p.Key} {
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(to string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..0")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	now := &clock{now: time.Now()}
	c := newCertificates(t, CertificatesConfig{Pairs: []Pair{{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}}, Now: now.Now})
	if got := serial(t, c, ""); got != one.serial {
		t.Fatal("not the first certificate")
	}
	link("..1")
	now.pass(DefaultInterval)
	if got := serial(t, c, ""); got != two.serial {
		t.Error("the new link was not seen")
	}
}

func TestExpiry(t *testing.T) {
	const day = 24 * time.Hour
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		life time.Duration
		want map[int]string // by days that are left, what was reported until then
	}{
		{"a year", 365 * day, map[int]string{31: "", 30: "expiring", 8: "expiring", 7: "expiring expiring", 2: "expiring expiring", 1: "expiring expiring expiring", 0: "expiring expiring expiring expired", -9: "expiring expiring expiring expired"}},
		{"90 days, renewed at 30", 90 * day, map[int]string{30: "", 8: "", 7: "expiring", 1: "expiring expiring", 0: "expiring expiring expired"}},
		{"6 days", 6 * day, map[int]string{2: "", 1: "expiring", 0: "expiring expired"}},
		{"2 days", 2 * day, map[int]string{1: "", 0: "expired"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			pair := makeCert(t, template{names: []string{"a.example"}, from: begin, to: begin.Add(tt.life)}).store(t, dir, "a")
			now, events := &clock{now: begin}, new(reports)
			c := newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Report: events.add, Now: now.Now})
			for left := int(tt.life / day); left >= -10; left-- {
				serial(t, c, "a.example")
				if want, ok := tt.want[left]; ok && events.kinds() != want {
					t.Errorf("with %d days left: reported %q, want %q", left, events.kinds(), want)
				}
				now.pass(day)
			}
			// It is served all the same, also by a new process, which says so.
			events.all = nil
			c = newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Report: events.add, Now: now.Now})
			if events.kinds() != "expired" || !strings.Contains(events.all[0].String(), "Renew it") {
				t.Errorf("at the start: %v", events.all)
			}
			makeCert(t, template{names: []string{"a.example"}, from: now.now, to: now.now.Add(tt.life)}).store(t, dir, "a")
			now.pass(DefaultInterval)
			serial(t, c, "a.example")
			if events.kinds() != "expired reloaded" {
				t.Errorf("renewed: %v", events.all)
			}
		})
	}
}

func TestExposedKey(t *testing.T) {
	dir := t.TempDir()
	pair := makeCert(t, template{}).store(t, dir, "a")
	now, events := &clock{now: time.Now()}, new(reports)
	c := newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Report: events.add, Now: now.Now})
	for _, step := range []struct {
		mode os.FileMode
		want string
	}{{0o600, ""}, {0o640, ""}, {0o644, "exposed"}, {0o644, "exposed"}, {0o600, "exposed"}, {0o604, "exposed exposed"}} {
		if err := os.Chmod(pair.Key, step.mode); err != nil {
			t.Fatal(err)
		}
		now.pass(DefaultInterval)
		serial(t, c, "")
		if got := events.kinds(); got != step.want {
			t.Errorf("mode %04o: reported %q, want %q", step.mode, got, step.want)
		}
	}
}

// Watch looks though nobody connects, and ends with its context.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	from := time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC) // synctest's clock begins in 2000
	pair := makeCert(t, template{from: from, to: from.Add(365 * 24 * time.Hour)}).store(t, dir, "a")
	synctest.Test(t, func(t *testing.T) {
		events := new(reports)
		c := newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Report: events.add, Interval: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() { c.Watch(ctx); close(done) }()
		time.Sleep(400 * 24 * time.Hour)
		synctest.Wait()
		if got := events.kinds(); got != "expiring expiring expiring expired" {
			t.Errorf("reported %q", got)
		}
		cancel()
		<-done
	})
}

// listen serves HTTPS on a port of its own.
func listen(t *testing.T, c *Certificates) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Proto, " ", tls.VersionName(r.TLS.Version))
		}),
		TLSConfig: TLSConfig(c.GetCertificate), ErrorLog: log.New(io.Discard, "", 0),
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// dial makes a handshake. What is served is in its state.
func dial(addr string, cfg *tls.Config) (*tls.Conn, error) {
	cfg.InsecureSkipVerify = true // the serial number is looked at
	return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, cfg)
}

func servedBy(t *testing.T, addr string, cfg *tls.Config) string {
	t.Helper()
	conn, err := dial(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestVersionsAndProtocols(t *testing.T) {
	pair := makeCert(t, template{names: []string{"a.example"}}).store(t, t.TempDir(), "a")
	addr := listen(t, newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}}))
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if conn, err := dial(addr, &tls.Config{MinVersion: version, MaxVersion: version}); err == nil {
			conn.Close()
			t.Errorf("%s was accepted", tls.VersionName(version))
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conn, err := dial(addr, &tls.Config{MinVersion: version, MaxVersion: version})
		if err != nil {
			t.Errorf("%s: %v", tls.VersionName(version), err)
			continue
		}
		if got := conn.ConnectionState().Version; got != version {
			t.Errorf("negotiated %s, want %s", tls.VersionName(got), tls.VersionName(version))
		}
		conn.Close()
	}
	conn, err := dial(addr, &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().Version; got != tls.VersionTLS13 {
		t.Errorf("of its own a client gets %s", tls.VersionName(got))
	}
	conn.Close()
	if conn, err := dial(addr, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}}); err == nil {
		conn.Close()
		t.Error("a suite that Go does not choose was accepted")
	}
	for _, h2 := range []bool{true, false} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}
		res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		tr.CloseIdleConnections()
		want := map[bool]string{true: "HTTP/2.0 TLS 1.3", false: "HTTP/1.1 TLS 1.3"}[h2]
		if err != nil || string(body) != want {
			t.Errorf("%q (%v), want %q", body, err, want)
		}
	}
}

func TestSNI(t *testing.T) {
	dir := t.TempDir()
	first := makeCert(t, template{names: []string{"first.example"}})
	ec := makeCert(t, template{names: []string{"A.example", "also.example"}})
	rsa := makeCert(t, template{names: []string{"a.example"}, useRSA: true})
	wild := makeCert(t, template{names: []string{"*.wild.example"}})
	exact := makeCert(t, template{names: []string{"x.wild.example"}})
	var pairs []Pair
	for i, m := range []made{first, ec, rsa, wild, exact} {
		pairs = append(pairs, m.store(t, dir, fmt.Sprint(i)))
	}
	c := newCertificates(t, CertificatesConfig{Pairs: pairs})
	if got := len(c.Leaves()); got != len(pairs) {
		t.Errorf("%d leaves of %d pairs", got, len(pairs))
	}
	addr := listen(t, c)
	onlyRSA := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	for _, tt := range []struct {
		what string
		cfg  *tls.Config
		want made
	}{
		{"the first", &tls.Config{ServerName: "first.example"}, first},
		{"no name", &tls.Config{}, first},
		{"a name that none has", &tls.Config{ServerName: "other.example"}, first},
		{"the second", &tls.Config{ServerName: "a.example"}, ec},
		{"in another case", &tls.Config{ServerName: "ALSO.Example"}, ec},
		{"for a client that has no ECDSA", &tls.Config{ServerName: "a.example", MaxVersion: tls.VersionTLS12, CipherSuites: onlyRSA}, rsa},
		{"a wildcard", &tls.Config{ServerName: "y.wild.example"}, wild},
		{"before a wildcard", &tls.Config{ServerName: "x.wild.example"}, exact},
		{"two labels below a wildcard", &tls.Config{ServerName: "a.b.wild.example"}, first},
	} {
		if got := servedBy(t, addr, tt.cfg); got != tt.want.serial {
			t.Errorf("%s: another certificate", tt.what)
		}
	}
}

// A new certificate is served within seconds, by its files alone; connections
// that are open stay open.
func TestReloadUnderConnections(t *testing.T) {
	dir := t.TempDir()
	names := template{names: []string{"a.example"}}
	one, two := makeCert(t, names), makeCert(t, names)
	pair := one.store(t, dir, "a")
	events := new(reports)
	addr := listen(t, newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Interval: MinInterval, Report: events.add}))
	kept, err := dial(addr, &tls.Config{ServerName: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	get := func() string {
		t.Helper()
		fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		b := make([]byte, 1024)
		n, err := kept.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	until := func(what string, cond func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(MinInterval) {
			if time.Now().After(deadline) {
				t.Fatalf("not within 10 seconds: %s", what)
			}
		}
	}
	current := func() string { return servedBy(t, addr, &tls.Config{ServerName: "a.example"}) }
	if current() != one.serial || !strings.HasPrefix(get(), "HTTP/1.1 200") {
		t.Fatal("not the first certificate")
	}
	two.store(t, dir, "a")
	until("the new certificate", func() bool { return current() == two.serial })
	write(t, pair.Key, []byte("broken"))
	until("the report", func() bool { current(); return events.kinds() == "reloaded failed" })
	if current() != two.serial {
		t.Error("the broken pair is served")
	}
	if !strings.HasPrefix(get(), "HTTP/1.1 200") {
		t.Error("the open connection is broken")
	}
	one.store(t, dir, "a")
	until("the mended pair", func() bool { return current() == one.serial })
}

// The certificate is chosen without allocation: 0 allocs/op.
func BenchmarkGetCertificate(b *testing.B) {
	pair := makeCert(b, template{names: []string{"a.example"}}).store(b, b.TempDir(), "a")
	c := newCertificates(b, CertificatesConfig{Pairs: []Pair{pair}, Interval: MaxInterval})
	hello := &tls.ClientHelloInfo{ServerName: "a.example"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.GetCertificate(hello); err != nil {
			b.Fatal(err)
		}
	}
}

// A chain of which a part is written yet is not served: crypto/tls would take
// the leaf that is whole, and clients would refuse it for want of the rest.
func TestReloadTornChain(t *testing.T) {
	names := template{names: []string{"a.example"}}
	one, two, authority := makeCert(t, names), makeCert(t, names), makeCert(t, template{})
	chain := string(two.cert) + string(authority.cert)
	for _, tt := range []struct {
		name, cert string
		served     made
	}{
		{"whole", chain, two},
		{"cut off in the second", chain[:len(chain)-100], one},
		{"cut off before its last line", chain[:strings.LastIndex(chain, "-----END")], one},
		{"with a note", "-- of 2026 --\n" + chain + "\n-- end --\n", two},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			pair := one.store(t, dir, "a")
			now, events := &clock{now: time.Now()}, new(reports)
			c := newCertificates(t, CertificatesConfig{Pairs: []Pair{pair}, Report: events.add, Now: now.Now})
			write(t, pair.Key, two.key)
			write(t, pair.Cert, []byte(tt.cert))
			now.pass(DefaultInterval)
			if got := serial(t, c, "a.example"); got != tt.served.serial {
				t.Errorf("served: %s, want %s (%s)", got, tt.served.serial, events.kinds())
			}
			if tt.served.serial != two.serial {
				write(t, pair.Cert, []byte(chain))
				now.pass(DefaultInterval)
				if got := serial(t, c, "a.example"); got != two.serial {
					t.Error("the whole chain is not served")
				}
			}
			if got := events.kinds(); got != "reloaded" {
				t.Errorf("reported: %s", got)
			}
		})
	}
}
