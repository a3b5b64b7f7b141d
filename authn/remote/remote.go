// Package remote is the first door for a Go service in another process than
// the issuer of its tokens: it has no database, and verifies access tokens with
// the keys that the issuer publishes (JWKS). A Verifier is a sallyport.Gate, so
// routes are declared with the same rules as in the issuer's own process, and
// refused with the same codes.
//
// It decides whether a request's credential is good and what it may do, in one
// of two ways. By itself it believes the token: a logout or a role taken away is
// noticed when the token expires. With Introspection it asks the issuer (RFC
// 7662) and holds an answer for a second at most: then they hold here too, and
// opaque tokens and API keys are accepted.
//
// It stores nothing but what it fetched and verified, in bounded memory.
//
// What it never does: it lets nothing in that it could not check, and answers
// 503 instead; it follows no URL and takes no key from a token; it verifies with
// no shared secret (HS256); it sends a token nowhere but to the issuer's
// introspection endpoint; and it writes none into a log or an error.
//
// Begin with New, and give the Verifier to sallyport.NewMux.
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/token"
)

// Config says whose tokens are accepted. Issuer is required; the zero value of
// everything else is secure.
type Config struct {
	// Issuer is what tokens must name as iss, byte by byte: the issuer's base
	// URL. It must be https, or be on this machine (localhost, 127.0.0.0/8, ::1).
	Issuer string

	// Audience is what tokens must name as aud. Default: Issuer, which is what
	// Sallyport puts into its tokens.
	Audience string

	// JWKSURL is where the issuer publishes its keys. Default: Issuer with
	// “/.well-known/jwks.json”.
	JWKSURL string

	// Introspection, if not nil, has the issuer asked about every credential.
	Introspection *Introspection

	// Client is used for both. Its redirect policy and cookies are not used, and
	// every request ends after 5 seconds. Default: one of the Verifier's own.
	Client *http.Client

	// Leeway is by how much this clock and the issuer's may differ, at most a
	// minute. Zero means 5 seconds; below zero means none.
	Leeway time.Duration

	// DangerouslyPlainHTTP accepts http URLs of other machines. Whoever can
	// change the traffic can then make tokens.
	DangerouslyPlainHTTP bool

	Log *slog.Logger     // default: slog.Default()
	Now func() time.Time // default: time.Now
}

// Introspection is how the issuer is asked about a credential (RFC 7662).
type Introspection struct {
	// URL of the endpoint. Default: Issuer with “/token/introspect”.
	URL string

	// APIKey is the key that this service sends with each question. It is
	// required, and a secret.
	APIKey string `json:"-"`

	// HeaderName is the header that API keys are sent in, this service's to the
	// issuer and its callers' to this service. Default: X-API-Key.
	HeaderName string

	// MaxAge is how long an answer is used, counted from when its question was
	// sent: the longest that a logout needs to hold here. Default 500 ms, at most
	// 1 s.
	MaxAge time.Duration
}

// LogValue keeps the key out of logs.
func (i Introspection) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", i.URL), slog.String("header", i.HeaderName), slog.Duration("max_age", i.MaxAge))
}

// String keeps the key out of texts.
func (i Introspection) String() string { return "remote.Introspection(" + i.URL + ")" }

// GoString keeps the key out of %#v.
func (i Introspection) GoString() string { return i.String() }

// The defaults and bounds of Config.
const (
	defaultHeader = "X-API-Key"
	defaultMaxAge = 500 * time.Millisecond
	maxMaxAge     = time.Second
)

// ConfigError is one mistake in a Config.
type ConfigError struct {
	Key    string // the field: "Issuer", "Introspection.URL"
	Value  string // never a secret
	Reason string
	Fix    string
}

// Error says key, value, reason and fix.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("remote: %s = %q: %s. %s", e.Key, e.Value, e.Reason, e.Fix)
}

// complete fills in the defaults and returns every mistake at once.
func (c *Config) complete() error {
	var errs []error
	bad := func(key, value, reason, fix string) {
		errs = append(errs, &ConfigError{key, value, reason, fix})
	}
	checkURL := func(key, value string) {
		if reason := c.urlProblem(value); reason != "" {
			if u, err := url.Parse(value); err != nil || u.User != nil {
				value = "" // it may hold a password
			}
			bad(key, value, reason, "Write it as https://host or https://host:port, with a path if there is one. http is for this machine only.")
		}
	}
	base := strings.TrimSuffix(c.Issuer, "/")
	checkURL("Issuer", c.Issuer)
	if len(c.Issuer) > 255 {
		bad("Issuer", c.Issuer[:255], "it is longer than the 255 bytes that a token can hold", "Take the issuer's base URL.")
	}
	if c.Audience == "" {
		c.Audience = c.Issuer
	} else if len(c.Audience) > 255 {
		bad("Audience", c.Audience[:255], "it is longer than the 255 bytes that a token can hold", "Take what the issuer writes as aud.")
	}
	if c.JWKSURL == "" {
		c.JWKSURL = base + "/.well-known/jwks.json"
	} else {
		checkURL("JWKSURL", c.JWKSURL)
	}
	if c.Leeway > token.MaxLeeway {
		bad("Leeway", c.Leeway.String(), "every token would live that much longer", "Set the clocks by NTP, and leave at most "+token.MaxLeeway.String()+".")
	}
	switch {
	case c.Leeway == 0:
		c.Leeway = token.DefaultLeeway
	case c.Leeway < 0:
		c.Leeway = -1 // the token package's word for none
	}
	if c.Introspection != nil {
		i := *c.Introspection // the caller's stays as it is
		c.Introspection = &i
		if i.URL == "" {
			c.Introspection.URL = base + "/token/introspect"
		} else {
			checkURL("Introspection.URL", i.URL)
		}
		c.Introspection.complete(bad)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return errors.Join(errs...)
}

func (i *Introspection) complete(bad func(key, value, reason, fix string)) {
	switch {
	case i.APIKey == "":
		bad("Introspection.APIKey", "", "there is none", "Make a key at the issuer that may introspect tokens, and give it here.")
	case !visible(i.APIKey):
		bad("Introspection.APIKey", "", "it has other characters than visible ASCII", "Copy it again, without the line end.")
	}
	if i.HeaderName == "" {
		i.HeaderName = defaultHeader
	}
	if i.HeaderName = http.CanonicalHeaderKey(i.HeaderName); !headerName(i.HeaderName) {
		bad("Introspection.HeaderName", i.HeaderName, "it is no name for a header of one's own", "Write letters, digits and hyphens, such as "+defaultHeader+".")
	}
	if i.MaxAge < 0 || i.MaxAge > maxMaxAge {
		bad("Introspection.MaxAge", i.MaxAge.String(), "a logout must hold here within a second", "Give more than 0 and at most 1s; 0 is "+defaultMaxAge.String()+".")
	}
	if i.MaxAge == 0 {
		i.MaxAge = defaultMaxAge
	}
}

// urlProblem returns what is wrong with a URL, or "".
func (c *Config) urlProblem(s string) string {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return "it is empty"
	case err != nil:
		return "it is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "it does not begin with https://"
	case u.Opaque != "" || u.Hostname() == "":
		return "it names no host"
	case u.User != nil:
		return "it holds a user name"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "it has a query or fragment"
	case u.Scheme == "http" && !c.DangerouslyPlainHTTP && !loopback(u.Hostname()):
		return "over http, whoever is between could make tokens"
	}
	return ""
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func visible(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

// headerName reports whether a header may carry a key: one that means something
// else to HTTP must not.
func headerName(s string) bool {
	switch s {
	case "Authorization", "Cookie", "Host", "Content-Type", "Content-Length", "Accept", "Connection", "Transfer-Encoding":
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != ""
}

// Verifier verifies the credentials of requests and enforces rules. It may be
// used by any number of goroutines.
type Verifier struct {
	cfg      Config
	token    token.Verifier
	life     *life
	idle     func() // closes connections that are the Verifier's own
	keys     *keys
	verified *verified
	asks     *asks // nil without introspection
	outages  outages
}

var _ sallyport.OpenGate = (*Verifier)(nil)

// New returns a Verifier, or every mistake of the configuration at once, each a
// *ConfigError. It does no I/O: the keys are fetched when the first token
// comes, or by Refresh.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	v := &Verifier{
		cfg:   cfg,
		token: token.Verifier{Issuer: cfg.Issuer, Audience: cfg.Audience, Leeway: cfg.Leeway},
		life:  newLife(),
	}
	var client *http.Client
	client, v.idle = newClient(cfg.Client)
	v.keys = &keys{url: cfg.JWKSURL, client: client, life: v.life, now: cfg.Now, log: cfg.Log}
	v.verified = newVerified()
	if cfg.Introspection != nil {
		v.asks = newAsks(*cfg.Introspection, client, v.life, cfg.Now)
	}
	return v, nil
}

// Refresh fetches the keys now, and returns why that failed. A service may call
// it when it starts, to find out early and to spare the first caller the wait.
func (v *Verifier) Refresh(ctx context.Context) error { return v.keys.refresh(ctx) }

// Close ends what runs in the background and waits for it. Afterwards keys are
// not fetched and the issuer is not asked any more.
func (v *Verifier) Close() error {
	v.life.end()
	v.idle()
	return nil
}

// life is how long a Verifier runs, and what runs for it.
type life struct {
	ctx     context.Context
	cancel  context.CancelFunc
	timeout time.Duration // of each thing that runs
	mu      sync.Mutex
	over    bool
	wg      sync.WaitGroup
}

var errClosed = errors.New("the verifier is closed")

func newLife() *life {
	l := &life{timeout: fetchTimeout}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// run calls f in a goroutine, with a context that ends with the life or after
// its timeout. It reports false if the life is over.
func (l *life) run(f func(context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
		defer cancel()
		f(ctx)
	})
	return true
}

func (l *life) end() {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
}
