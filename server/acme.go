package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
)

// DefaultACMEDirectory is Let's Encrypt's.
const DefaultACMEDirectory = autocert.DefaultACMEDirectory

// ACMEConfig is what certificates from an authority need (RFC 8555).
//
// To use it is to accept the authority's terms of service: their address goes to
// the log when the account is made.
type ACMEConfig struct {
	// Hosts are the names to have certificates for, and no others. Clients that
	// name no host get the first one's.
	Hosts []string
	// Directory is the authority's URL. Default DefaultACMEDirectory.
	Directory string
	// Email is where the authority may write to. It may be empty.
	Email string
	// Roots are trusted for the connection to the directory, beside the
	// system's, as a private authority needs it. It may be nil.
	Roots *x509.CertPool
	// RenewBefore is how long before its end a certificate is renewed, at most
	// 30 days. Default: a third of its life.
	RenewBefore time.Duration
}

func (c *ACMEConfig) check() error {
	var errs []error
	bad := func(key, value, reason, fix string) {
		errs = append(errs, sallyport.Mistake(key, value, reason, fix))
	}
	if len(c.Hosts) == 0 {
		bad("tls.hosts", "", "there is no host to have a certificate for", "Set base_url to https://HOST.")
	}
	for _, host := range c.Hosts {
		if err := CheckACMEHost(host, c.Directory); err != nil {
			errs = append(errs, err)
		}
	}
	if err := CheckACMEDirectory(c.Directory); c.Directory != "" && err != nil {
		errs = append(errs, err)
	}
	if err := CheckACMEEmail(c.Email); c.Email != "" && err != nil {
		errs = append(errs, err)
	}
	if c.RenewBefore < 0 || c.RenewBefore > 30*24*time.Hour {
		bad("tls.renew_before", c.RenewBefore.String(), "it must be from 0s to 720h", "Leave it out.")
	}
	return errors.Join(errs...)
}

// CheckACMEHost returns why the authority at a directory ("": the default) gives
// no certificate for a host.
func CheckACMEHost(host, directory string) error {
	bad := func(reason, fix string) error { return sallyport.Mistake("tls.hosts", host, reason, fix) }
	const files = "Give certificate and key in files (tls.cert, tls.key)"
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return bad("certificates are asked for by name, and this is an address", files+", or use a name.")
	}
	if strings.Contains(host, "*") {
		return bad("a wildcard is proven through DNS, which this server does not write to", "List the names, or give certificate and key in files (tls.cert, tls.key).")
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil || ascii == "" || strings.HasSuffix(ascii, ".") {
		return bad("it is not the name of a host", "Write it as id.example.com, without a port.")
	}
	labels := strings.Split(ascii, ".")
	if len(labels) < 2 {
		return bad("a name without a dot is known on your network only", files+", or use a full name.")
	}
	private := []string{"localhost", "local", "internal", "test", "example", "invalid", "lan", "home", "corp"}
	if (directory == "" || directory == DefaultACMEDirectory) && slices.Contains(private, labels[len(labels)-1]) {
		return bad("a public authority gives no certificates for names that are not public", files+", or name the directory of a private authority in tls.acme_directory.")
	}
	return nil
}

// CheckACMEDirectory returns what is wrong with the URL of a directory.
func CheckACMEDirectory(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return sallyport.Mistake("tls.acme_directory", "", "it is not an https:// URL", "Give the URL of the authority's directory, such as "+DefaultACMEDirectory+".")
	}
	return nil
}

// CheckACMEEmail returns what is wrong with an address for the authority.
func CheckACMEEmail(s string) error {
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
		return sallyport.Mistake("tls.acme_email", s, "it is not one e-mail address", "Write it as ops@example.com, or leave it out.")
	}
	return nil
}

// ACME has certificates from an authority for a listener, and renews them. They
// are kept in the database, sealed under the master key: every node on it serves
// the same, and of several nodes one asks.
//
// The proof that a host is ours goes over the listener itself (tls-alpn-01, RFC
// 8737), or over a plain one that has Challenges (http-01).
type ACME struct {
	cfg     ACMEConfig
	db      *db.DB
	log     *slog.Logger
	now     func() time.Time
	node    string
	manager *autocert.Manager
	cache   certificateCache
	hosts   map[string]*acmeHost // by ASCII name
	first   string
}

type acmeHost struct {
	hello *tls.ClientHelloInfo // what the manager is asked with
	ready atomic.Bool          // it holds a certificate
	until atomic.Int64         // Unix seconds; 0: none yet
}

// ACME returns certificates for this configuration. Nothing is asked for before
// Run. The error joins every mistake, each a *ConfigError.
func (s *Server) ACME(cfg ACMEConfig) (*ACME, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Directory == "" {
		cfg.Directory = DefaultACMEDirectory
	}
	a := &ACME{cfg: cfg, db: s.DB, log: s.cfg.Log, now: s.cfg.Now, node: rand.Text(), hosts: map[string]*acmeHost{}}
	a.cache = certificateCache{s.Keys, s.DB, cfg.Directory, a.log, a.now, new(sync.Map)}
	for _, host := range cfg.Hosts {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return nil, err // checked
		}
		if a.first == "" {
			a.first = ascii
		}
		// Always a key for ECDSA, whatever clients offer: otherwise a stranger's
		// handshake could order a second certificate.
		a.hosts[ascii] = &acmeHost{hello: &tls.ClientHelloInfo{ServerName: ascii, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if cfg.Roots != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}
	}
	a.manager = &autocert.Manager{
		Prompt: func(terms string) bool {
			a.log.Info("an account is made with the certificate authority; its terms are accepted by the configuration", "directory", cfg.Directory, "terms", terms)
			return true
		},
		Cache: a.cache, HostPolicy: a.policy, Email: cfg.Email, RenewBefore: cfg.RenewBefore,
		Client: &acme.Client{
			DirectoryURL: cfg.Directory, UserAgent: "sallyport/" + s.cfg.Version,
			HTTPClient: &http.Client{Transport: acmeLog{transport, a.log}, Timeout: time.Minute},
		},
	}
	s.showExpiries(func(until func(string, time.Time)) {
		for name, h := range a.hosts {
			var at time.Time
			if seconds := h.until.Load(); seconds > 0 {
				at = time.Unix(seconds, 0)
			}
			until(name, at)
		}
	})
	return a, nil
}

var errOtherHost = errors.New("there are no certificates for this host")

// policy lets the manager ask for the configured hosts and no other.
func (a *ACME) policy(_ context.Context, host string) error {
	if a.host(host) == nil {
		return errOtherHost
	}
	return nil
}

// host returns what is known of a host, named with or without a port.
func (a *ACME) host(name string) *acmeHost {
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	if h := a.hosts[strings.ToLower(name)]; h != nil {
		return h
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return nil
	}
	return a.hosts[ascii]
}

var errNoCertificate = errors.New("there is no certificate for this host yet")

// GetCertificate is for tls.Config. It answers from memory, except challenges of
// the authority, and orders nothing: while a host has no certificate its
// handshakes fail at once.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := hello.ServerName
	if name == "" {
		name = a.first
	}
	h := a.host(name)
	switch {
	case h == nil:
		return nil, errOtherHost
	case len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto:
		return a.manager.GetCertificate(hello)
	case !h.ready.Load():
		return nil, errNoCertificate
	}
	return a.manager.GetCertificate(h.hello)
}

// TLSConfig returns the configuration of the listener that serves the hosts, and
// answers challenges.
func (a *ACME) TLSConfig() *tls.Config {
	cfg := https.TLSConfig(a.GetCertificate)
	cfg.NextProtos = append(cfg.NextProtos, acme.ALPNProto)
	return cfg
}

const challengePath = "/.well-known/acme-challenge/"

// Challenges returns a handler for a plain listener, which the authority reaches
// on port 80: it answers challenges for the hosts, and leads everything else to
// next. Without it only tls-alpn-01 is tried.
func (a *ACME) Challenges(next http.Handler) http.Handler {
	answers := a.manager.HTTPHandler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.URL.Path, challengePath)
		if ok && isChallengeToken(token) && r.Method == http.MethodGet && a.host(r.Host) != nil {
			w.Header().Set("Cache-Control", "no-store")
			answers.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isChallengeToken reports whether s is base64url without padding (RFC 8555,
// 8.3), of a length that authorities use.
func isChallengeToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 128
}

const (
	// Authorities allow few failures in an hour (Let's Encrypt five, and one more
	// every 12 minutes), and the manager remembers one for a minute.
	firstRetry = 65 * time.Second
	lastRetry  = 15 * time.Minute

	turnLength = 90 * time.Second // taken again while the authority is asked
	turnPause  = 2 * time.Second  // how often the other nodes look

	watchEvery = time.Minute
	nagEvery   = 24 * time.Hour
)

// Run sees to it that every host has a certificate, until ctx ends. Call it when
// the listeners accept: the authority connects to them. Failures are logged with
// the authority's reason and tried again, after about a minute at first and
// a quarter of an hour at last. That holds for all nodes together, and across
// restarts.
func (a *ACME) Run(ctx context.Context) {
	var all sync.WaitGroup
	for name, h := range a.hosts {
		all.Go(func() { a.keep(ctx, name, h) })
	}
	all.Wait()
}

func (a *ACME) keep(ctx context.Context, name string, h *acmeHost) {
	var told time.Time
	for {
		err := a.obtain(ctx, name, h)
		if err == nil {
			break
		}
		pause := turnPause // another node may have it by then
		switch later, ok := errors.AsType[*laterError](err); {
		case errors.Is(err, errOthersTurn):
		case !ok: // nobody was asked
			pause = firstRetry
			a.log.Error("there is no certificate for a host; it is tried again", "host", name, "error", err, "again_in", pause.String())
		case !later.until.Equal(told):
			told = later.until
			a.log.Error("there is no certificate for a host; it is tried again", "host", name, "error", err, "again_in", told.Sub(a.now()).Round(time.Second).String())
		}
		if !sleep(ctx, pause) {
			return
		}
	}
	a.watch(ctx, name, h)
}

// watch tells when a certificate was renewed, and when it should have been: the
// manager tries in silence. It also stores what could not be stored before.
func (a *ACME) watch(ctx context.Context, name string, h *acmeHost) {
	var serial string
	var nagged time.Time
	for {
		cert, err := a.manager.GetCertificate(h.hello)
		if err == nil {
			leaf, now := cert.Leaf, a.now()
			h.until.Store(leaf.NotAfter.Unix())
			if s := leaf.SerialNumber.String(); s != serial {
				serial = s
				a.log.Info("a certificate is served", "host", name, "not_after", leaf.NotAfter)
			}
			if now.After(late(leaf, a.cfg.RenewBefore)) && now.Sub(nagged) >= nagEvery {
				nagged = now
				a.log.Error("a certificate should have been renewed, and the authority's answers above say why it is not", "host", name, "not_after", leaf.NotAfter)
			}
		}
		if !sleep(ctx, watchEvery) {
			return
		}
		a.cache.storeAgain(ctx, name)
	}
}

// late returns from when a certificate should have been renewed: a third of the
// time that there was for it has passed.
func late(leaf *x509.Certificate, before time.Duration) time.Time {
	if before == 0 {
		before = min(leaf.NotAfter.Sub(leaf.NotBefore)/3, 30*24*time.Hour)
	}
	return leaf.NotAfter.Add(-before * 2 / 3)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

var errOthersTurn = errors.New("another node is asking the authority")

// laterError says that the authority was asked in vain, and is not asked again
// until then.
type laterError struct {
	until time.Time
	why   error // nil: it was another process that asked
}

func (e *laterError) Error() string {
	if e.why == nil {
		return "the authority was asked in vain before; the reason is in the log of the process that asked"
	}
	return e.why.Error()
}

// retryAfter returns how long the authority is not asked again after so many
// times in vain.
func retryAfter(attempts int64) time.Duration {
	wait := firstRetry
	for ; attempts > 1 && wait < lastRetry; attempts-- {
		wait *= 4
	}
	return min(wait, lastRetry)
}

// obtain takes the certificate from the database, or asks the authority if it is
// this node's turn.
func (a *ACME) obtain(ctx context.Context, name string, h *acmeHost) error {
	stored, err := a.stored(ctx, name)
	if err != nil {
		return err
	}
	if stored {
		_, err = a.manager.GetCertificate(h.hello)
	} else {
		err = a.order(ctx, name, h)
	}
	if err == nil {
		h.ready.Store(true)
	}
	return err
}

// order asks the authority.
func (a *ACME) order(ctx context.Context, name string, h *acmeHost) error {
	attempts, err := a.turn(ctx, name)
	if err != nil {
		return err
	}
	held, release := context.WithCancel(ctx)
	var holding sync.WaitGroup
	holding.Go(func() {
		for sleep(held, turnLength/3) {
			_, _ = a.turn(held, name) // another node may take over; then two ask
		}
	})
	_, err = a.manager.GetCertificate(h.hello)
	release()
	holding.Wait()
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		_ = a.db.Write(ctx, func(tx *db.Tx) error { return endTurn(tx, a.cfg.Directory, name, a.node) }) // it ends by itself
		return nil
	}
	later := &laterError{db.Time(db.Micros(a.now().Add(retryAfter(attempts)))), err}
	if ferr := a.db.Write(ctx, func(tx *db.Tx) error { return failTurn(tx, a.cfg.Directory, name, a.node, later.until) }); ferr != nil {
		return errors.Join(err, ferr)
	}
	return later
}

// stored reports whether the database holds a certificate that is good now.
func (a *ACME) stored(ctx context.Context, name string) (bool, error) {
	text, err := a.cache.Get(ctx, name)
	if errors.Is(err, autocert.ErrCacheMiss) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return false, nil
		}
		if block.Type == "CERTIFICATE" { // the leaf comes first
			leaf, err := x509.ParseCertificate(block.Bytes)
			return err == nil && a.now().Before(leaf.NotAfter), nil
		}
		text = rest
	}
}

// turn takes the turn, or keeps it, and returns how often one was taken since
// there was a certificate. Of a process that dies meanwhile it is not free before
// one that failed would be.
func (a *ACME) turn(ctx context.Context, name string) (attempts int64, err error) {
	now := a.now()
	o, err := orderOf(a.db.View(ctx), a.cfg.Directory, name)
	if err != nil {
		return 0, err
	}
	attempts = o.attempts
	if o.holder != a.node {
		if now.Before(o.until) {
			if o.holder == "" {
				return 0, &laterError{until: o.until}
			}
			return 0, errOthersTurn
		}
		attempts++
	}
	until := now.Add(max(turnLength, retryAfter(attempts)))
	err = a.db.Write(ctx, func(tx *db.Tx) error {
		ours, err := takeTurn(tx, a.cfg.Directory, name, a.node, now, until)
		if err == nil && !ours {
			err = errOthersTurn
		}
		return err
	})
	return attempts, err
}

// certificateCache is the manager's memory, in the database.
type certificateCache struct {
	keys      *keyring.Ring
	db        *db.DB
	directory string
	log       *slog.Logger
	now       func() time.Time
	unstored  *sync.Map // certificates that could not be stored, by name
}

var _ autocert.Cache = certificateCache{}

func certificatePurpose(directory, name string) string {
	return "certificate:" + directory + " " + name
}

// Get implements autocert.Cache. What was sealed under a master key that is
// lost, or damaged, counts as not there: it can be had anew. But if it is this
// process that has not the right master key, nothing is asked for.
//
// The manager writes errors of the answers to http-01 to whoever asks: such an
// answer is there or it is not.
func (c certificateCache) Get(ctx context.Context, name string) ([]byte, error) {
	if text, ok := c.unstored.Load(name); ok {
		return text.([]byte), nil
	}
	text, err := c.get(ctx, name)
	if err != nil && err != autocert.ErrCacheMiss && strings.HasSuffix(name, "+http-01") {
		c.log.Debug("a challenge cannot be answered", "error", err)
		return nil, autocert.ErrCacheMiss
	}
	return text, err
}

func (c certificateCache) get(ctx context.Context, name string) ([]byte, error) {
	sealed, found, err := sealedCertificate(c.db.View(ctx), c.directory, name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, autocert.ErrCacheMiss
	}
	text, err := c.keys.Unseal(ctx, certificatePurpose(c.directory, name), sealed)
	if err == nil || errors.Is(err, keyring.ErrMasterKey) {
		return text, err
	}
	if errors.Is(err, seal.ErrWrongKey) || errors.Is(err, seal.ErrDamaged) {
		c.log.Warn("a stored certificate cannot be opened, and a new one is asked for", "name", name, "error", err)
		return nil, autocert.ErrCacheMiss
	}
	return nil, err
}

// Put implements autocert.Cache. A certificate that cannot be stored is kept in
// memory until it can: of a failure, the manager would let go of what it has
// just been given, serve the old one on, and order another every half hour, of
// which authorities give few in a week.
func (c certificateCache) Put(ctx context.Context, name string, text []byte) error {
	transient := strings.HasSuffix(name, "+token") || strings.HasSuffix(name, "+http-01")
	err := c.keys.StoreSealed(ctx, certificatePurpose(c.directory, name), text, func(tx *db.Tx, sealed []byte) error {
		return putCertificate(tx, c.directory, name, sealed, transient, c.now())
	})
	if err == nil {
		c.unstored.Delete(name)
		return nil
	}
	c.log.Error("a certificate could not be stored: other nodes do not have it, and it is lost at the next start", "name", name, "error", err)
	if strings.Contains(name, "+") { // of a challenge, or the account's key
		return err
	}
	c.unstored.Store(name, text)
	return nil
}

// storeAgain stores a certificate that could not be stored before.
func (c certificateCache) storeAgain(ctx context.Context, name string) {
	if text, ok := c.unstored.Load(name); ok {
		_ = c.Put(ctx, name, text.([]byte))
	}
}

// Delete implements autocert.Cache.
func (c certificateCache) Delete(ctx context.Context, name string) error {
	return c.db.Write(ctx, func(tx *db.Tx) error { return deleteCertificate(tx, c.directory, name) })
}

// acmeLog logs what the authority has against us: the manager says only that
// nothing worked.
type acmeLog struct {
	next http.RoundTripper
	log  *slog.Logger
}

const maxACMEAnswer = 1 << 20

// RoundTrip implements http.RoundTripper.
func (t acmeLog) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err != nil {
		t.log.Warn("the certificate authority cannot be reached", "url", r.URL.String(), "error", err)
		return nil, err
	}
	if !strings.Contains(res.Header.Get("Content-Type"), "json") {
		return res, nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxACMEAnswer+1))
	_ = res.Body.Close()
	if err == nil && len(body) > maxACMEAnswer {
		err = fmt.Errorf("an answer of the certificate authority is larger than %d bytes", maxACMEAnswer)
	}
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	for _, p := range complaints(res.StatusCode, body) {
		t.log.Warn("the certificate authority refuses", "url", r.URL.String(), "status", res.StatusCode, "challenge", p.challenge, "type", p.Type, "reason", p.Detail)
	}
	return res, nil
}

type complaint struct {
	challenge    string
	Type, Detail string
}

// complaints returns the problems in an answer: its own (RFC 7807), and those of
// challenges that failed (RFC 8555, 8).
func complaints(status int, body []byte) (all []complaint) {
	var doc struct {
		Type, Detail string
		Challenges   []struct {
			Type, Status string
			Error        complaint
		}
	}
	if json.Unmarshal(body, &doc) != nil {
		return nil
	}
	// Nonces run out in the best of circumstances; the client takes another.
	if status >= 400 && doc.Type != "urn:ietf:params:acme:error:badNonce" {
		all = append(all, complaint{"", doc.Type, doc.Detail})
	}
	for _, c := range doc.Challenges {
		if c.Status == "invalid" {
			all = append(all, complaint{c.Type, c.Error.Type, c.Error.Detail})
		}
	}
	return all
}
