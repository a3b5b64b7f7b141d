package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
)

// Pair names the PEM files of a certificate with its chain, and of its private
// key.
type Pair struct{ Cert, Key string }

// The bounds of CertificatesConfig.Interval, and its default.
const (
	DefaultInterval = 5 * time.Second
	MinInterval     = 10 * time.Millisecond
	MaxInterval     = time.Hour
)

// CertificatesConfig is what Certificates need. Only Pairs must be set.
type CertificatesConfig struct {
	// Pairs are served by the name that the client asks for (SNI); the first
	// serves clients that ask for none, or for one that no certificate has.
	Pairs []Pair
	// Interval is how often files are looked at, at most: 10 ms to 1 h, default
	// 5 s.
	Interval time.Duration
	// Report is told what an operator should know: see Event. Calls do not
	// overlap; a handshake may wait for one. The default is to tell nobody.
	Report func(Event)
	// Now is the clock; tests set it. Default time.Now.
	Now func() time.Time
}

// EventKind is what an Event is about.
type EventKind string

// The kinds of Event. Only Reloaded is good news.
const (
	Reloaded EventKind = "reloaded" // a new pair is served
	Failed   EventKind = "failed"   // a new pair cannot be used; the old one is still served
	Expiring EventKind = "expiring" // 30, 7 or 1 days are left
	Expired  EventKind = "expired"  // clients refuse the certificate
	Exposed  EventKind = "exposed"  // every user of the machine may read the private key
)

// Event is something that an operator should know of a pair. Each is reported
// once: a broken pair when it has been seen twice in the same state (files of a
// pair are seldom replaced at the same instant), an expiry at 30, 7 and 1 days
// and when it has come. Of these days only such as are less than a third of the
// certificate's life are reported: those that live for 90 days are renewed when
// 30 are left.
type Event struct {
	Kind     EventKind
	Pair     Pair
	NotAfter time.Time // of the certificate that is served
	Err      error     // of Failed; a *ConfigError
}

// String tells an operator what happened, and what to do about it.
func (e Event) String() string {
	until := e.NotAfter.UTC().Format(time.RFC3339)
	switch e.Kind {
	case Reloaded:
		return "a new certificate is served; it is valid until " + until
	case Failed:
		return "the new certificate cannot be used, and the one before, valid until " + until + ", is still served: " + e.Err.Error()
	case Expiring:
		return "the certificate ends at " + until + " and has not been renewed"
	case Expired:
		return "the certificate ended at " + until + ": clients refuse it. Renew it"
	case Exposed:
		return "every user of this machine may read the private key: run chmod o-r on the file"
	}
	return string(e.Kind)
}

// Certificates serves certificates from files, and reads the files again when
// they have changed, also by a symbolic link that was moved (Kubernetes,
// certbot). Connections that are open keep theirs.
//
// Files are looked at in a handshake, when Interval has passed since the last
// time; Watch looks without one. It is safe for concurrent use.
type Certificates struct {
	interval time.Duration
	report   func(Event)
	now      func() time.Time
	next     atomic.Int64 // Unix nanoseconds from which files are looked at again

	mu      sync.Mutex // held while files are looked at
	pairs   []*pairState
	current atomic.Pointer[served]
}

// pairState is what is known of a pair's files.
type pairState struct {
	Pair
	cert    *tls.Certificate // served
	text    []byte           // of both files, as they are served
	seen    [2]fs.FileInfo   // when they were read
	settled bool             // they were old enough then for the next change to show

	failing  error // why what the files hold now cannot be used
	reported bool  // and that this was reported
	warned   int   // least number of days that was reported; 0: expired
	exposed  bool
}

// served is what handshakes choose from.
type served struct {
	all    []*tls.Certificate
	byName map[string][]*tls.Certificate
}

// NewCertificates reads all pairs. The error joins every mistake, each a
// *ConfigError. A certificate that has ended is served and reported: a service
// that does not start is no help to whoever renews it.
func NewCertificates(cfg CertificatesConfig) (*Certificates, error) {
	c := &Certificates{interval: cfg.Interval, report: cfg.Report, now: cfg.Now}
	if c.interval == 0 {
		c.interval = DefaultInterval
	}
	if c.report == nil {
		c.report = func(Event) {}
	}
	if c.now == nil {
		c.now = time.Now
	}
	var errs []error
	if c.interval < MinInterval || c.interval > MaxInterval {
		errs = append(errs, sallyport.Mistake("Interval", c.interval.String(), "it must be from 10ms to 1h", "Leave it out for 5s."))
	}
	if len(cfg.Pairs) == 0 {
		errs = append(errs, sallyport.Mistake("Pairs", "", "there is none", "Name the files of a certificate and its private key."))
	}
	now := c.now()
	for _, pair := range cfg.Pairs {
		p := &pairState{Pair: pair, warned: never}
		err := p.read(now)
		for tries := 0; errors.Is(err, errMoving) && tries < 10; tries++ {
			err = p.read(now)
		}
		if errors.Is(err, errMoving) {
			err = sallyport.Mistake("Cert", pair.Cert, "the files of this pair change all the time", "Replace files by renaming new ones.")
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.pairs = append(c.pairs, p)
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	c.publish()
	for _, p := range c.pairs {
		c.warn(p, now)
	}
	c.next.Store(now.Add(c.interval).UnixNano())
	return c, nil
}

// GetCertificate is for tls.Config.
func (c *Certificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.now().UnixNano() >= c.next.Load() && c.mu.TryLock() { // one handshake looks, the others go on
		c.look()
		c.mu.Unlock()
	}
	return c.current.Load().choose(hello), nil
}

// Watch looks at the files at every interval until ctx ends, so that changes
// and expiries are reported though nobody connects.
func (c *Certificates) Watch(ctx context.Context) {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.mu.Lock()
			c.look()
			c.mu.Unlock()
		}
	}
}

// Leaves returns the certificates that are served, without their chains, in the
// order of the pairs.
func (c *Certificates) Leaves() []*x509.Certificate {
	var out []*x509.Certificate
	for _, cert := range c.current.Load().all {
		out = append(out, cert.Leaf)
	}
	return out
}

// look reads what has changed, and what cannot be used every time: its owner or
// a folder's rights may have changed, which files do not show.
func (c *Certificates) look() {
	now := c.now()
	c.next.Store(now.Add(c.interval).UnixNano())
	for _, p := range c.pairs {
		if p.failing != nil || !p.settled || !same(p.seen, p.stat()) {
			c.again(p, now)
		}
		c.warn(p, now)
	}
}

// again reads a pair that is served already.
func (c *Certificates) again(p *pairState, now time.Time) {
	before := p.cert
	err := p.read(now)
	switch {
	case errors.Is(err, errMoving): // the next look will see
	case err == nil:
		p.failing, p.reported = nil, false
		if p.cert != before {
			c.publish()
			c.report(Event{Kind: Reloaded, Pair: p.Pair, NotAfter: p.cert.Leaf.NotAfter})
		}
	case p.failing == nil || p.failing.Error() != err.Error():
		p.failing, p.reported = err, false
	case !p.reported: // the second time
		p.reported = true
		c.report(Event{Kind: Failed, Pair: p.Pair, NotAfter: p.cert.Leaf.NotAfter, Err: err})
	}
}

func (c *Certificates) publish() {
	s := &served{byName: map[string][]*tls.Certificate{}}
	for _, p := range c.pairs {
		s.all = append(s.all, p.cert)
		for _, name := range p.cert.Leaf.DNSNames {
			name = strings.ToLower(name)
			s.byName[name] = append(s.byName[name], p.cert)
		}
	}
	c.current.Store(s)
}

// choose returns the first certificate for the name that the client can use: of
// the name itself, of a wildcard, of any.
func (s *served) choose(hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(s.all) == 1 {
		return s.all[0]
	}
	name := strings.ToLower(hello.ServerName)
	candidates := s.byName[name]
	if len(candidates) == 0 {
		if _, parent, ok := strings.Cut(name, "."); ok {
			candidates = s.byName["*."+parent]
		}
	}
	if len(candidates) == 0 {
		candidates = s.all
	}
	for _, cert := range candidates {
		if hello.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	return candidates[0]
}

// never is more days than are ever warned of.
const never = 1 << 30

// warn reports an expiry that comes near, and a key that is open to all.
func (c *Certificates) warn(p *pairState, now time.Time) {
	event := Event{Pair: p.Pair, NotAfter: p.cert.Leaf.NotAfter}
	if days, kind := daysLeft(p.cert.Leaf, now); days < p.warned {
		p.warned = days
		event.Kind = kind
		c.report(event)
	}
	if open := p.seen[1].Mode().Perm()&0o004 != 0; open != p.exposed {
		if p.exposed = open; open {
			event.Kind = Exposed
			c.report(event)
		}
	}
}

// daysLeft returns which warning is due: of 30, 7 or 1 days, or 0 for a
// certificate that has ended; never if none is.
func daysLeft(leaf *x509.Certificate, now time.Time) (days int, kind EventKind) {
	left, life := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
	if left <= 0 {
		return 0, Expired
	}
	for _, days := range []int{1, 7, 30} {
		if threshold := time.Duration(days) * 24 * time.Hour; left <= threshold && threshold < life/3 {
			return days, Expiring
		}
	}
	return never, ""
}

// maxPEM bounds what is read of a file.
const maxPEM = 1 << 20

// errMoving says that a file changed while it was read.
var errMoving = errors.New("the files are being replaced")

func (p *pairState) paths() [2]string { return [2]string{p.Cert, p.Key} }

// stat follows symbolic links. The result is nil for a file that cannot be seen.
func (p *pairState) stat() (out [2]fs.FileInfo) {
	for i, path := range p.paths() {
		if info, err := os.Stat(path); err == nil {
			out[i] = info
		}
	}
	return out
}

func same(a, b [2]fs.FileInfo) bool {
	for i := range a {
		switch {
		case a[i] == nil && b[i] == nil:
		case a[i] == nil || b[i] == nil:
			return false
		case !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() || a[i].Mode() != b[i].Mode():
			return false
		}
	}
	return true
}

// settleTime is for how long after a change another may leave the same time on
// a file.
const settleTime = 2 * time.Second

// read takes the pair from its files. If it cannot be used, what is served
// stays. Contents are compared, because files that were just written can change
// again without showing it.
func (p *pairState) read(now time.Time) error {
	seen := p.stat()
	var texts [2][]byte
	for i, path := range p.paths() {
		b, err := readFile(path)
		if err != nil {
			return sallyport.Mistake([...]string{"Cert", "Key"}[i], path, "it cannot be read: "+reason(err), "Check the path, and that the user of this process may read the file.")
		}
		texts[i] = b
	}
	if seen[0] == nil || seen[1] == nil || !same(seen, p.stat()) {
		return errMoving
	}
	text := bytes.Join(texts[:], []byte{0})
	if p.cert == nil || !bytes.Equal(text, p.text) {
		cert, err := tls.X509KeyPair(texts[0], texts[1])
		if err != nil {
			return p.mistake(texts, err)
		}
		if isCut(texts[0]) {
			return sallyport.Mistake("Cert", p.Cert, "a part of the chain is cut off or damaged", "Give the PEM file of a certificate with its whole chain, the leaf first.")
		}
		p.cert, p.text, p.warned = &cert, text, never
	}
	p.seen, p.settled = seen, true
	for _, info := range seen {
		p.settled = p.settled && now.Sub(info.ModTime()).Abs() >= settleTime
	}
	return nil
}

// isCut reports whether a block of PEM begins that cannot be read: crypto/tls
// leaves it out, and a chain without it is none that clients can verify.
func isCut(text []byte) bool {
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		begun--
	}
	return begun > 0
}

// mistake says which of the two texts is wrong, without repeating any of it.
func (p *pairState) mistake(texts [2][]byte, err error) error {
	fix := "Give the PEM files of a certificate with its chain, the leaf first, and of its unencrypted private key."
	switch text := err.Error(); {
	case !bytes.Contains(texts[0], []byte("-----BEGIN CERTIFICATE-----")):
		return sallyport.Mistake("Cert", p.Cert, "it holds no certificate in PEM", fix)
	case bytes.Contains(texts[1], []byte("ENCRYPTED")):
		return sallyport.Mistake("Key", p.Key, "the private key is encrypted", "Decrypt it (openssl pkey), and let only the user of this process read the file.")
	case !bytes.Contains(texts[1], []byte("PRIVATE KEY-----")):
		return sallyport.Mistake("Key", p.Key, "it holds no private key in PEM", fix)
	case strings.Contains(text, "does not match"):
		return sallyport.Mistake("Key", p.Key, "the private key is not that of the certificate in "+p.Cert, "Give the two files of one certificate.")
	case strings.Contains(text, "private key"):
		return sallyport.Mistake("Key", p.Key, "the private key cannot be read", fix)
	}
	return sallyport.Mistake("Cert", p.Cert, "the certificate cannot be read", fix)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(b) > maxPEM {
		err = fmt.Errorf("it is larger than %d bytes", maxPEM)
	}
	return b, err
}

// reason leaves the path out, which stands beside it.
func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// TLSConfig returns a configuration for a server: TLS 1.2 and 1.3, HTTP/2 and
// HTTP/1.1, and the suites and curves that Go chooses and keeps current. get is
// (*Certificates).GetCertificate, or another source's.
func TLSConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		GetCertificate: get,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}
