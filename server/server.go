// Package server is where everything meets: a configuration becomes one
// http.Handler with all routes, their rules, and the guard around them.
//
// It wires, and decides and stores nothing itself. It never picks a database driver: the caller opens one from store/sqlite or
// store/postgres.
//
// Begin with Run, which is a whole program; or with New, and the Require, Routes,
// Guard and Serve that Run is made of, for a service that exists.
package server

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/compat/fastapiusers"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/live"
	"github.com/sallyport/sallyport/internal/measure"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/oauth"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// Config is what a Server needs. Only DB and BaseURL must be set; the zero
// value of everything else is secure and works.
type Config struct {
	// DB is an open database: sqlite.Open or postgres.Open. New brings its
	// schema up to date. The server does not close it.
	DB *db.DB
	// BaseURL is where clients reach the server, for example
	// https://api.example.com. It is the issuer and audience of tokens:
	// changing it makes the access tokens that are out worthless.
	BaseURL string

	// MasterKey is the base64 of 32 bytes under which signing keys are sealed
	// in the database. If it is empty, MasterKeyFile is read.
	MasterKey string
	// MasterKeyFile is the file that holds it, made with mode 0600 for a
	// database that is new. The default is master.key beside a SQLite file.
	MasterKeyFile string

	// Users is the service's own table of users (docs/own-users.md): people sign in with
	// what it has, and everything else (sessions, roles, keys, second factors) is kept
	// here. Registration, verifying addresses, and changing or deleting accounts are then
	// the service's own business, and their routes are not served. Default: none; people
	// have accounts here.
	Users account.Users

	Registration    account.Registration // default account.Open; with Users, account.Closed
	AccessTTL       time.Duration        // default 15 minutes; 10 s to 24 h
	RefreshTTL      time.Duration        // without use; default 14 days
	SessionLife     time.Duration        // in all; default 30 days
	TokenFormat     session.Format       // of access tokens that are issued; default session.JWT
	Algorithm       token.Alg            // of new signing keys; default EdDSA
	NoPasswordGrant bool                 // switches signing in with a password off
	Basic           bool                 // takes HTTP Basic on every route, not only where a rule names it
	Password        password.Config
	// NoLockout lets a password be tried as often as anybody likes: for tests and
	// measurements. Otherwise a name and a network are locked for a time after
	// failures (docs/lockout.md).
	NoLockout bool

	// APIKeyHeader is the header of API keys; default X-API-Key.
	APIKeyHeader string
	// APIKeyCookie names a cookie in which API keys are taken too; default none.
	// Requests of other sites' pages are then refused by Sec-Fetch-Site or Origin.
	APIKeyCookie string
	// APIKeyQuery names a query parameter in which API keys are taken too; default
	// none: a key in an address ends up in logs and histories of others.
	APIKeyQuery string
	// APIKeys are keys of services that need no account; at most 1,000.
	APIKeys []apikey.Static
	// InsecureLoopbackCookie is for development: where BaseURL is http:// on
	// localhost or a loopback address, the session cookie is named sallyport and is
	// not Secure, because not every browser keeps Secure cookies there. Elsewhere it
	// has no effect: the cookie is __Host-sallyport, and Secure.
	InsecureLoopbackCookie bool

	// TrustedProxies are the proxies whose forwarded headers are believed
	// (clientip.ParseTrusted). Default: none, and every client is its connection's
	// peer.
	TrustedProxies []netip.Prefix
	// ProxyHeader is the header that they write; default clientip.XForwardedFor.
	ProxyHeader clientip.Header
	// Hosts are the names under which the server may be addressed, exact or
	// *.domain. Default: BaseURL's host; if that is this machine, all its names.
	Hosts []string
	// CORS says whose pages may read answers; default nobody's. With Credentials
	// those pages may also act with the session cookie.
	CORS cors.Config
	// HSTS is for how long browsers stay with HTTPS, where BaseURL is https://.
	// Default a year; negative: browsers are told to forget it. See https.Config.
	HSTS                        time.Duration
	HSTSSubdomains, HSTSPreload bool
	// Limits say how often one client may do what.
	Limits Limits
	// MaxBody is the largest body, in bytes, that a plain handler can read, if it
	// does not say otherwise (body.Guard, body.Bound). Default 1 MiB; negative: none.
	MaxBody int64

	// Lease is the longest that a change which another node made may go
	// unnoticed, and how long requests are answered while the database is away:
	// then 503. Default 5 ms on SQLite, 750 ms on PostgreSQL; 1 ms to 1 min.
	Lease time.Duration
	// Remember is how many credentials are held in memory at most, 200 bytes
	// each. Default 1,000,000; 1 to 16,000,000.
	Remember int
	// Secret is the key that signs access tokens, its bytes as they are, 32 to
	// 512 random ones; Algorithm must be HS256. New makes it the active key, and
	// the one before retires as in a rotation. If it is empty, keys are made.
	Secret []byte
	// RotateEvery is how long a signing key signs before the next one takes
	// over: 1 h to 8784 h. 0 is never. Of the nodes on one database one rotates.
	// It cannot stand beside Secret.
	RotateEvery time.Duration

	// OnLostHistory is what happens when a failover of PostgreSQL has lost changes
	// that this server had seen (docs/database.md). Default EndSessions.
	OnLostHistory LostHistory

	// CleanEvery is how often what is old is deleted, by one server of the database at a
	// time (docs/database.md). Default 5 minutes; 1 s to 1 h.
	CleanEvery time.Duration

	// Mail hands letters to whoever delivers them: mail.NewSMTP, or a service's own.
	// Nil: there is no mail, and what needs it answers 403 mail_off.
	Mail mail.Sender
	// MailFrom is the address that letters come from, with a display name if wanted;
	// default no-reply at BaseURL's host. MailService is what they call the service;
	// default BaseURL's host.
	MailFrom, MailService string
	// MailTemplates is a folder whose files stand in place of our templates of letters
	// (docs/mail.md); default none.
	MailTemplates string
	// Inbox is for development: GET /dev/inbox shows the letters that it has taken,
	// with their links, to whoever is on this machine. It is usually Mail, too.
	Inbox *mail.Inbox
	// QueueOnly leaves letters, what others have recorded, and the deletion of what is
	// old to other servers of the database: for programs that end soon, such as
	// commands. Mail is then not called.
	QueueOnly bool
	// VerifyAddress lets nobody in before they have shown that their address is
	// theirs, and keeps from whoever registers whether an address has an account. It
	// needs Mail.
	VerifyAddress bool
	// MailSignIn lets people sign in with a link or a code that is mailed to them
	// (POST /auth/request-link and /auth/link). It needs Mail. Whoever does so shows
	// that the address is theirs: an account that was registered with it and never
	// verified loses its password, second factor, sessions and API keys.
	MailSignIn bool
	// MFARequired names roles whose members must have a second factor, directly or
	// through other roles; "*" is everybody. Who has none sets one up on the way in,
	// and sessions without one are refused everywhere but where it is set up
	// (sallyport.Mux.HandleSetup). API keys and machine clients go on.
	MFARequired []string
	// MFATTL is how long a sign-in waits for its second factor: the life of an
	// mfa_token. Default 5 minutes; 1 to 15 minutes.
	MFATTL time.Duration
	// TOTPIssuer is whose codes an authenticator app shows them to be; default
	// BaseURL's host. At most 64 characters, no colon.
	TOTPIssuer string
	// NoPortal switches the pages under /account/ and /console/ off (docs/pages.md).
	NoPortal bool

	// PolicyZone is the time zone of context.local in policies; default UTC.
	PolicyZone *time.Location
	// CountryFile is a file in MaxMind's format with the countries of addresses, for
	// context.country in policies. It is read again when it changes; default none.
	CountryFile string
	// RecordAllowed is how many of the requests that a permission, scope or policy let
	// in are recorded with what was decided on, from 0 (the default) to 1. Refusals
	// always are.
	RecordAllowed float64

	// FastAPIUsers serves the routes of the Python library fastapi-users in place of
	// the server's own on the same paths, for a front end that was written for it
	// (docs/fastapi-users.md).
	FastAPIUsers bool

	// AuditSinks says where else events of the audit log go (docs/audit.md).
	AuditSinks audit.SinksConfig
	// AuditRetention is how long events are kept: audit.MinRetention to
	// audit.MaxRetention. 0 is for ever.
	AuditRetention time.Duration

	// Metrics counts requests by route, for Server.Metrics. Everything else that it
	// tells is counted or known anyway.
	Metrics bool
	// Trace, if not nil, is told of every request that begins, health checks aside, and whether a declared
	// proxy handed it over. It returns the request's context and what is told of its
	// end: the pattern of the route, "" for none, and the status, 0 if nothing was
	// answered. Package telemetry makes one.
	Trace func(r *http.Request, fromProxy bool) (ctx context.Context, end func(route string, status int))

	Log     *slog.Logger // default: discarded
	Title   string       // of the OpenAPI document and the docs page; default Sallyport
	Version string       // shown in the OpenAPI document

	// Now is the clock; tests set it. Default time.Now.
	Now func() time.Time
}

// ConfigError is one mistake in a configuration.
type ConfigError = sallyport.ConfigError

// check returns every mistake at once.
func (c *Config) check() error {
	var errs []error
	bad := func(key, value, reason, fix string) {
		errs = append(errs, &ConfigError{Key: key, Value: value, Reason: reason, Fix: fix})
	}
	if c.DB == nil {
		bad("database", "", "there is none", "Open one with sqlite.Open or postgres.Open.")
	}
	if err := CheckBaseURL(c.BaseURL); err != nil {
		errs = append(errs, err)
	}
	within := func(key string, d, low, high time.Duration) {
		if d != 0 && (d < low || d > high) {
			bad(key, d.String(), fmt.Sprintf("it must be from %v to %v", low, high), "Choose a time in that range.")
		}
	}
	within("tokens.access_ttl", c.AccessTTL, 10*time.Second, session.MaxAccessTTL)
	within("tokens.refresh_ttl", c.RefreshTTL, time.Minute, 366*24*time.Hour)
	within("tokens.session_ttl", c.SessionLife, time.Minute, 366*24*time.Hour)
	within("auth.lease", c.Lease, time.Millisecond, time.Minute)
	if c.Remember < 0 || c.Remember > 16_000_000 {
		bad("auth.remember", fmt.Sprint(c.Remember), "it must be from 1 to 16000000", "Choose a number in that range, or leave it out.")
	}
	for _, name := range []struct {
		key, value string
		check      func(string) error
	}{
		{"auth.api_key_header", c.APIKeyHeader, apikey.CheckHeader},
		{"auth.api_key_cookie", c.APIKeyCookie, apikey.CheckCookie},
		{"auth.api_key_query", c.APIKeyQuery, apikey.CheckQuery},
	} {
		if name.value == "" {
			continue
		}
		if err := name.check(name.value); err != nil {
			bad(name.key, name.value, err.Error(), "Choose another name, or leave it out.")
		}
	}
	for _, m := range apikey.CheckStatics(c.APIKeys) {
		bad("auth.api_keys", m.Value, m.Reason, m.Fix)
	}
	switch c.Registration {
	case "", account.Open, account.Invite, account.Closed:
	default:
		bad("registration", string(c.Registration), "it is not known", "Choose open, invite or closed.")
	}
	if c.Users != nil {
		if c.Registration != "" && c.Registration != account.Closed {
			bad("registration", string(c.Registration), "people are made in the service's own table of users", "Leave it out, or leave Users out.")
		}
		if c.FastAPIUsers {
			bad("compat.fastapi_users", "true", "its routes change accounts, and these are in the service's own table of users", "Leave it out, or leave Users out.")
		}
	}
	switch c.OnLostHistory {
	case "", EndSessions, OnlyLog:
	default:
		bad("postgres.on_lost_history", string(c.OnLostHistory), "it is not known", "Choose end_sessions or log.")
	}
	switch c.TokenFormat {
	case "", session.JWT, session.Opaque:
	default:
		bad("tokens.format", string(c.TokenFormat), "it is not known", "Choose jwt or opaque.")
	}
	if c.Algorithm != "" {
		if err := c.Algorithm.Check(); err != nil {
			bad("tokens.alg", string(c.Algorithm), "it is not known", "Choose EdDSA, ES256, RS256 or HS256.")
		}
	}
	if n := len(c.Secret); n > 0 {
		if c.Algorithm != token.HS256 {
			bad("tokens.secret", "", "it is the secret of HS256, and tokens.alg is "+string(cmp.Or(c.Algorithm, token.EdDSA)), "Set tokens.alg = HS256, or leave the secret out.")
		}
		if err := CheckSecret(c.Secret); err != nil {
			errs = append(errs, err)
		}
		if c.RotateEvery != 0 {
			bad("keys.rotate_every", c.RotateEvery.String(), "the key that signs is tokens.secret, which does not rotate by itself", "Leave one of the two out.")
		}
	}
	for _, m := range []struct {
		value string
		check func(string) error
	}{{c.MailFrom, mail.CheckFrom}, {c.MailService, mail.CheckService}} {
		if err := m.check(m.value); m.value != "" && err != nil {
			errs = append(errs, err)
		}
	}
	if err := mail.CheckTemplates(c.MailTemplates); err != nil {
		errs = append(errs, err)
	}
	if c.VerifyAddress && c.Mail == nil {
		bad("auth.verify_address", "true", "there is no mail to verify addresses with", "Set smtp.url, or leave it out.")
	}
	if c.MailSignIn && c.Mail == nil {
		bad("auth.mail_sign_in", "true", "there is no mail to send links with", "Set smtp.url, or leave it out.")
	}
	for _, name := range c.MFARequired {
		if name != authn.Everybody && sallyport.CheckName(name) != nil {
			bad("auth.mfa_required", name, "it is no name of a role", "Name roles, or * for everybody.")
		}
	}
	if err := CheckTOTPIssuer(c.TOTPIssuer); err != nil {
		errs = append(errs, err)
	}
	if !(c.RecordAllowed >= 0 && c.RecordAllowed <= 1) {
		bad("policy.record_allowed", fmt.Sprint(c.RecordAllowed), "it must be from 0 to 1", "Choose a share in that range, or leave it out.")
	}
	within("tokens.mfa_ttl", c.MFATTL, signin.MinPending, signin.MaxPending)
	within("cleanup.every", c.CleanEvery, cleanup.MinEvery, cleanup.MaxEvery)
	within("audit.retention", c.AuditRetention, audit.MinRetention, audit.MaxRetention)
	if err := c.AuditSinks.Check(); err != nil {
		errs = append(errs, err)
	}
	within("keys.rotate_every", c.RotateEvery, MinRotateEvery, MaxRotateEvery)
	if err := ratelimit.CheckShare(c.Limits.Nodes); err != nil {
		bad("limits.nodes", fmt.Sprint(c.Limits.Nodes), fmt.Sprintf("it must be from 1 to %d", ratelimit.MaxShare), "Give the number of servers behind the balancer, or leave it out.")
	}
	for _, l := range []struct{ key, value string }{
		{"limits.default", c.Limits.Default}, {"limits.login", c.Limits.Login}, {"limits.register", c.Limits.Register}, {"limits.mail", c.Limits.Mail}, {"limits.guesses", c.Limits.Guesses},
	} {
		if err := CheckLimit(l.value); err != nil {
			bad(l.key, l.value, err.Error(), "Write it as 10/minute or 100/hour;burst=20, or off.")
		}
	}
	return errors.Join(errs...)
}

// The bounds of Config.RotateEvery.
const (
	MinRotateEvery = time.Hour
	MaxRotateEvery = 366 * 24 * time.Hour
)

// CheckSecret returns what is wrong with a secret for HS256.
func CheckSecret(secret []byte) error {
	if _, err := token.NewKey(token.HS256, secret); err != nil {
		return sallyport.Mistake(
			"tokens.secret", "", fmt.Sprintf("it has %d bytes, and HS256 needs 32 to 512: whoever has a token can try shorter ones against it", len(secret)),
			"Make one with: openssl rand -hex 32.",
		)
	}
	return nil
}

// CheckTOTPIssuer returns what is wrong with an issuer of one-time codes; "" is the
// default. In otpauth:// addresses a colon ends it.
func CheckTOTPIssuer(s string) error {
	if utf8.ValidString(s) && utf8.RuneCountInString(s) <= 64 && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r == ':' || unicode.IsControl(r) }) {
		return nil
	}
	return sallyport.Mistake("auth.totp_issuer", s, "it is longer than 64 characters, has a colon or a control character, or begins or ends with a space", "Write the name of the service as its users know it.")
}

// CheckBaseURL returns what is wrong with a base URL.
func CheckBaseURL(s string) error {
	bad := func(reason string) error {
		return sallyport.Mistake("base_url", s, reason, "Write it as https://host or https://host:port, with a path only if the server is mounted under one.")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return sallyport.Mistake("base_url", "", "it is not a URL", "Write it as https://host.")
	case u.User != nil:
		return sallyport.Mistake("base_url", "", "it holds a user name", "Write it as https://host.")
	case s == "":
		return bad("it is empty")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("it does not begin with http:// or https://")
	case u.Host == "" || u.Hostname() == "":
		return bad("it names no host")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return bad("it has a query or fragment")
	case strings.HasSuffix(u.Path, "/"):
		return bad("it ends in a slash")
	}
	return nil
}

// Services are the parts of a Server, for programs that call them directly: the
// command line, and services that manage accounts in their own code.
type Services struct {
	DB       *db.DB
	Accounts *account.Service
	Sessions *session.Service
	SignIn   *signin.Service
	Lockout  *lockout.Guard
	Mail     *mail.Outbox
	APIKeys  *apikey.Service
	Clients  *oauth.Clients
	Keys     *keyring.Ring
	Refusals *audit.Refusals
	Chain    *audit.Chain
	Audit    audit.Log
	Policies *policy.Service
}

// Server is Sallyport, ready to be mounted or served.
type Server struct {
	Services
	cfg    Config
	live   *live.Cache
	cookie *authn.Cookie
	gate   *authn.Gate
	roles  *role.Cache
	sinks  *audit.Sinks
	wall   *wall
	mux    *sallyport.Mux
	api    *api.API
	// own is where pages find the server's own operations: mux, unless that serves
	// another system's in their place.
	own *sallyport.Mux

	ownIDs ownIDs
	used   used

	requests  measure.Routes
	passwords *password.Hasher
	countries *policy.Countries // nil: there is no file

	mu           sync.Mutex
	rules        []sallyport.Rule
	closed       bool
	certificates []expiries // of the listeners
	undeclared   atomic.Bool

	draining   atomic.Bool
	settling   bool            // what the database has brought back; under mu
	background context.Context // of what runs behind requests; until stop
	stop       context.CancelFunc
	stopped    sync.WaitGroup

	cleaner *cleanup.Cleaner
}

// New brings the schema up to date, reads or makes the keys, and registers the
// routes. It reports all mistakes of the configuration at once. Close ends what
// it starts.
func New(ctx context.Context, cfg Config) (*Server, error) {
	outer, err := newWall(&cfg)
	if err = errors.Join(cfg.check(), err); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	clock := cfg.Now
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	hasher, err := password.New(cfg.Password)
	if err != nil {
		return nil, err
	}
	if _, err := cfg.DB.Migrate(ctx); err != nil {
		return nil, err
	}
	if err := cfg.DB.Served(ctx); err != nil {
		return nil, err
	}
	keys, err := openKeys(ctx, cfg)
	if err != nil {
		return nil, err
	}
	secret, err := keyFor(keys, "limits")
	if err != nil {
		return nil, err
	}
	if outer.limits, err = newLimits(cfg.Limits, secret, clock); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, wall: outer, passwords: hasher}
	guesses := authn.NewGuesses(outer.limits.guesses, func(ctx context.Context) { outer.limits.refused(ctx, "guesses", "") })
	origin, err := authn.NewSameOrigin(cfg.BaseURL, outer.cors.Trusts)
	if err != nil {
		return nil, sallyport.Mistake("base_url", cfg.BaseURL, "browsers have no origin like that", "Write it as https://host.")
	}
	if s.cookie, err = authn.NewCookie(authn.CookieConfig{
		BaseURL: cfg.BaseURL, Origin: origin, InsecureLoopback: cfg.InsecureLoopbackCookie,
		Token: func(ctx context.Context, value string) (authn.Verified, error) {
			return s.Sessions.VerifyCookie(ctx, value)
		},
		Session: func(rd db.Reader, v authn.Verified) (authn.State, error) {
			return s.noteUsed(v)(s.Sessions.ConfirmCookie(rd, v))
		},
	}); err != nil {
		return nil, sallyport.Mistake("base_url", cfg.BaseURL, "browsers have no origin like that", "Write it as https://host.")
	}
	s.DB, s.Keys = cfg.DB, keys
	if err := s.rotateIfDue(ctx); err != nil {
		return nil, err
	}
	lockoutKey, err := keyFor(keys, "lockout")
	if err != nil {
		return nil, err
	}
	chainSeed, err := keyFor(keys, "audit chain")
	if err != nil {
		return nil, err
	}
	s.Chain = audit.NewChain(audit.ChainConfig{DB: cfg.DB, Seed: chainSeed, Log: cfg.Log})
	s.Audit = audit.Log{DB: cfg.DB, CursorKey: keys.RefreshKey()}
	s.Refusals = audit.NewRefusals(cfg.DB, cfg.Log)
	outer.limits.refusals = s.Refusals
	links, err := s.openMail()
	if err != nil {
		return nil, err
	}
	s.background, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if due, err := db.Unsettled(cfg.DB.View(ctx)); err != nil {
		return nil, err
	} else if due { // whoever began it has not come to the end
		if err := s.settleHistory(nil); err != nil {
			return nil, err
		}
	}
	s.live = live.New(live.Config{DB: cfg.DB, Lease: cfg.Lease, Max: cfg.Remember, Distrusted: s.settleBehind})
	s.Sessions = session.New(session.Config{
		DB: cfg.DB, Keys: keys, Issuer: cfg.BaseURL, Log: cfg.Log,
		Access: cfg.AccessTTL, Refresh: cfg.RefreshTTL, Life: cfg.SessionLife, Format: cfg.TokenFormat, Guesses: guesses, Mail: s.Mail, Now: cfg.Now,
		Follow: s.follow(),
	})
	s.Lockout = lockout.New(lockout.Config{DB: cfg.DB, Key: lockoutKey, Refusals: s.Refusals, Limit: outer.limits.attempt, Off: cfg.NoLockout, Now: cfg.Now})
	s.Accounts = account.New(account.Config{
		DB: cfg.DB, Passwords: hasher, Sessions: s.Sessions, Lockout: s.Lockout, Mail: s.Mail, Links: links, Refusals: s.Refusals, Devices: signin.Devices,
		Registration: cfg.Registration, VerifyAddress: cfg.VerifyAddress, CursorKey: keys.RefreshKey(), Now: cfg.Now, Users: cfg.Users, Log: cfg.Log,
		ForgetDevices: signin.ForgetDevices,
		Decide:        func(ctx context.Context, rule sallyport.Rule) error { return s.gate.Decide(ctx, rule) },
		RegisterLimit: outer.limits.ofRegistration(), MailLimit: outer.limits.ofMail(), PasswordLimit: outer.limits.ofPasswords("the current password"),
	})
	recoveryKey, err := keyFor(keys, "recovery codes")
	if err != nil {
		return nil, err
	}
	deviceKey, err := keyFor(keys, "devices")
	if err != nil {
		return nil, err
	}
	demand := authn.NewDemand(cfg.MFARequired)
	if err := s.warnOfDemand(ctx); err != nil {
		return nil, err
	}
	s.SignIn = signin.New(signin.Config{
		Factors: totp.New(totp.Config{DB: cfg.DB, Keys: keys, RecoveryKey: recoveryKey, Now: cfg.Now}), Guesses: guesses, Issuer: cmp.Or(cfg.TOTPIssuer, hostOf(cfg.BaseURL)),
		DB: cfg.DB, Passwords: hasher, Sessions: s.Sessions, Refusals: s.Refusals, Lockout: s.Lockout, Cookie: s.cookie, NoPasswordGrant: cfg.NoPasswordGrant, Now: cfg.Now,
		Mail: s.Mail, Links: links, VerifyAddress: cfg.VerifyAddress, Accounts: s.Accounts, MailSignIn: cfg.MailSignIn,
		DeviceKey: deviceKey, Demand: demand, PendingFor: cfg.MFATTL,
		PasswordLimit: outer.limits.ofPasswords("a password"), CodeLimit: outer.limits.ofPasswords("a code"), MailLimit: outer.limits.ofMail(),
	})
	s.APIKeys = apikey.New(apikey.Config{
		DB: cfg.DB, Header: cfg.APIKeyHeader, Cookie: cfg.APIKeyCookie, Query: cfg.APIKeyQuery, Static: cfg.APIKeys, Origin: origin,
		Standing: role.Standing, Used: s.use, Log: cfg.Log, Now: cfg.Now,
	})
	for _, k := range cfg.APIKeys {
		for _, scope := range k.Scopes {
			s.declareLater(sallyport.Permission(scope))
		}
	}
	s.Clients = &oauth.Clients{DB: cfg.DB, Sessions: s.Sessions, Guesses: guesses, CursorKey: keys.RefreshKey(), Now: cfg.Now}
	s.cleaner = cleanup.New(cleanup.Config{DB: cfg.DB, Steps: s.cleanup(), Every: cfg.CleanEvery, Now: cfg.Now, Log: cfg.Log})
	s.roles = role.NewCache(cfg.DB)
	if err := s.openPolicies(keys.RefreshKey()); err != nil {
		return nil, err
	}
	schemes := []authn.Scheme{authn.Bearer{Token: s.Sessions.VerifyAccess, Session: s.Sessions.Confirm}, s.APIKeys, s.cookie}
	named := []authn.Scheme{s.Clients.Scheme()}
	basic := authn.Basic{SameOrigin: origin, Password: s.SignIn.Basic, Account: s.confirmPassword}
	if cfg.Basic {
		schemes = append(schemes, basic)
	} else {
		named = append(named, basic)
	}
	s.gate = authn.NewGate(authn.Config{
		Schemes: schemes, Named: named,
		DB: cfg.DB, Live: s.live, Keys: keys, Resolve: s.roles.Resolve, GrantsOf: role.GrantsOf, Demand: demand,
		Policies: s.currentPolicies, PoliciesVersion: policy.Version, Record: s.record, RecordAllowed: cfg.RecordAllowed,
		Guesses: guesses, Refusals: s.Refusals, Log: cfg.Log, Now: clock,
	}, s.declareLater)
	s.mux = sallyport.NewMux(s)
	if err := s.routes(); err != nil {
		return nil, err
	}
	background := s.background
	s.Chain.Run(cfg.QueueOnly)
	if !cfg.QueueOnly {
		s.sinks = audit.NewSinks(cfg.AuditSinks, cfg.DB, s.Chain, cfg.Log)
	}
	s.stopped.Go(func() { repeat(background, retireEvery, s.retireKeys) })
	s.stopped.Go(func() { repeat(background, eraseEvery, s.erase) })
	if !cfg.QueueOnly {
		s.stopped.Go(func() { s.Mail.Run(background) })
		s.stopped.Go(func() { s.cleaner.Run(background) })
	}
	if cfg.Users != nil && !cfg.QueueOnly {
		s.stopped.Go(func() { repeat(background, followEvery, s.followUsed) })
	}
	if s.countries != nil {
		s.stopped.Go(func() { repeat(background, countryEvery, s.refreshCountries) })
	}
	if cfg.RotateEvery > 0 {
		s.stopped.Go(func() {
			repeat(background, rotateTick(cfg.RotateEvery), func(ctx context.Context) {
				if err := s.rotateIfDue(ctx); err != nil && ctx.Err() == nil {
					cfg.Log.Error("the signing key is due for rotation and could not be rotated; it is tried again", "error", err)
				}
			})
		})
	}
	return s, nil
}

// warnOfDemand tells of roles of which a second factor is demanded and which do not
// exist: a name that is mistyped demands it of nobody.
func (s *Server) warnOfDemand(ctx context.Context) error {
	if len(s.cfg.MFARequired) == 0 {
		return nil
	}
	g, err := role.LoadGraph(s.cfg.DB.View(ctx))
	if err != nil {
		return err
	}
	for _, name := range s.cfg.MFARequired {
		if name != authn.Everybody && g.Roles[name] == nil {
			s.cfg.Log.Warn("a second factor is demanded of a role that does not exist; if the name is mistyped, nobody is asked for one", "role", name)
		}
	}
	return nil
}

// keyFor derives 32 bytes for one purpose from the secret that all servers of the
// database share.
func keyFor(keys *keyring.Ring, purpose string) ([]byte, error) {
	return hkdf.Expand(sha256.New, keys.RefreshKey(), "sallyport "+purpose, sha256.Size)
}

// Close stops what runs in the background and writes what waits.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.stopped.Wait()
	s.live.Close()
	s.APIKeys.Close()
	s.Sessions.Close()
	s.Refusals.Close()
	s.Chain.Close() // it seals what the others have written
	if s.sinks != nil {
		s.sinks.Close()
	}
}

// Require returns ordinary middleware that enforces a rule, for any router.
func (s *Server) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	return s.gate.Require(rule)
}

// RequireSetup is Require for what people need who are yet to set up a second
// factor that is demanded of them (Config.MFARequired).
func (s *Server) RequireSetup(rule sallyport.Rule) func(http.Handler) http.Handler {
	return s.gate.RequireSetup(rule)
}

// Open leads to a handler that looks at no credentials.
func (s *Server) Open(next http.Handler) http.Handler { return s.gate.Open(next) }

var (
	_ sallyport.OpenGate  = (*Server)(nil)
	_ sallyport.SetupGate = (*Server)(nil)
)

// Routes returns the server's own routes, to be mounted.
func (s *Server) Routes() *sallyport.Mux { return s.mux }

// API returns the typed operations of the server. Operations that are added to
// it before Routes is mounted stand in the same document.
func (s *Server) API() *api.API { return s.api }

// schemes are the ways to authenticate, for the document.
func (s *Server) schemes() (schemes map[string]*huma.SecurityScheme, kinds map[string]sallyport.Kind) {
	const ofKeys = "A key that was made with POST /api-keys, or stands in the server's configuration."
	schemes = map[string]*huma.SecurityScheme{
		"bearer": {
			Type: "oauth2", Description: "Sign in with user name and password (RFC 6749, 4.3); the access token is sent as Authorization: Bearer (RFC 6750).",
			Flows: &huma.OAuthFlows{Password: &huma.OAuthFlow{TokenURL: s.path("/token"), RefreshURL: s.path("/token"), Scopes: map[string]string{}}},
		},
		"apiKey": {Type: "apiKey", In: "header", Name: cmp.Or(s.cfg.APIKeyHeader, apikey.DefaultHeader), Description: ofKeys},
	}
	kinds = map[string]sallyport.Kind{"bearer": sallyport.KindBearer, "apiKey": sallyport.KindAPIKey}
	for _, place := range [][3]string{{"apiKeyCookie", "cookie", s.cfg.APIKeyCookie}, {"apiKeyQuery", "query", s.cfg.APIKeyQuery}} {
		if place[2] != "" {
			schemes[place[0]] = &huma.SecurityScheme{Type: "apiKey", In: place[1], Name: place[2], Description: ofKeys}
			kinds[place[0]] = sallyport.KindAPIKey
		}
	}
	schemes["cookie"] = &huma.SecurityScheme{
		Type: "apiKey", In: "cookie", Name: s.cookie.Name(),
		Description: "The session of a browser, after POST /auth/login?mode=cookie. What may change something must come from a page of the server's own origin.",
	}
	schemes["basic"] = &huma.SecurityScheme{Type: "http", Scheme: "basic", Description: "User name and password with every request (RFC 7617)."}
	schemes["client"] = &huma.SecurityScheme{Type: "http", Scheme: "basic", Description: "A machine client's id and secret (RFC 6749, 2.3.1)."}
	kinds["cookie"], kinds["basic"], kinds["client"] = sallyport.KindCookie, sallyport.KindBasic, sallyport.KindClient
	return schemes, kinds
}

// named returns the schemes that count only where a rule names their kind.
func (s *Server) named() []string {
	if s.cfg.Basic {
		return []string{"client"}
	}
	return []string{"basic", "client"}
}

func (s *Server) routes() error {
	s.api = s.newAPI(s.mux)
	s.own = s.mux
	if s.cfg.FastAPIUsers {
		s.api.Without(fastapiusers.Replaced(), func() { s.operations(s.api) })
		s.fastAPIUsers().Routes(s.api)
		s.own = sallyport.NewMux(s)
		s.operations(s.newAPI(s.own))
	} else {
		s.operations(s.api)
	}
	s.keyRoutes()
	s.healthRoutes()
	s.doctorRoutes()
	if err := s.forwardRoutes(); err != nil {
		return err
	}
	if s.cfg.Inbox != nil {
		s.inboxRoutes()
	}
	s.api.Docs(api.DocsConfig{ClientID: oauth.DocsClient})
	return s.pageRoutes()
}

func (s *Server) newAPI(mux *sallyport.Mux) *api.API {
	schemes, kinds := s.schemes()
	return api.New(mux, api.Config{
		Title: cmp.Or(s.cfg.Title, "Sallyport"), Version: s.cfg.Version,
		Description: "Two doors for an API: who are you, and may you.", Path: s.path(""),
		Schemes: schemes, Kinds: kinds, Named: s.named(),
		CredentialQuery: s.cfg.APIKeyQuery, Limited: s.wall.limits.all != nil || s.wall.limits.guesses != nil,
		Challenges: s.gate.Challenges, Refused: s.noteRefusal, Log: s.cfg.Log,
	})
}

// operations registers what people and programs do with accounts and sessions.
func (s *Server) operations(a *api.API) {
	tokens := &oauth.Endpoint{
		SignIn: s.SignIn, Sessions: s.Sessions, Clients: s.Clients, Refusals: s.Refusals, Issuer: s.cfg.BaseURL,
		Inspect: s.gate.Inspect, Resolve: s.roles.Resolve, NoPasswordGrant: s.cfg.NoPasswordGrant, Log: s.cfg.Log,
		PasswordLimit: s.wall.limits.ofPasswords("grant_type=password"),
	}
	tokens.Routes(a)
	tokens.IntrospectRoutes(a)
	tokens.RevokeRoutes(a)
	tokens.MetadataRoutes(a)
	s.SignIn.Routes(a)
	s.Sessions.Routes(a, s.Refusals, s.cookie)
	s.Accounts.Routes(a)
	s.APIKeys.Routes(a)
	role.Routes(a, s.DB)
	s.Policies.Routes(a)
	s.Clients.Routes(a)
	audit.Routes(a, s.Audit, s.Chain)
}

// fastAPIUsers returns the operations of fastapi-users.
func (s *Server) fastAPIUsers() *fastapiusers.Endpoint {
	return &fastapiusers.Endpoint{
		Accounts: s.Accounts, SignIn: s.SignIn, Sessions: s.Sessions, NoPasswordGrant: s.cfg.NoPasswordGrant,
		RegisterLimit: s.wall.limits.ofRegistration(), PasswordLimit: s.wall.limits.ofPasswords("a password"), MailLimit: s.wall.limits.ofMail(),
	}
}

// noteRefusal records that an operation refused what its rule had let in: a
// grant above the caller's own rights, the last administrator.
func (s *Server) noteRefusal(ctx context.Context, operation string, e *sallyport.Error) {
	s.Refusals.Note(ctx, audit.Event{
		Action: audit.AccessDenied, Result: audit.Denied, Reason: e.Message,
		DecisionID: e.DecisionID, Detail: map[string]string{"route": operation, "code": e.Code},
	})
}

// Lease returns the longest that a change which one node made may go unnoticed
// on another.
func (s *Server) Lease() time.Duration { return s.live.Lease() }

// Issuer returns the iss and aud of access tokens: the base URL.
func (s *Server) Issuer() string { return s.cfg.BaseURL }

// hostOf returns the host of a base URL without its port: what people know the
// service by.
func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base // New has checked it
	}
	return u.Hostname()
}

// path returns a path as clients see it, under the base URL's own path.
func (s *Server) path(p string) string {
	u, err := url.Parse(s.cfg.BaseURL)
	if err != nil {
		return p // New has checked it
	}
	return u.Path + p
}

// declareLater remembers a rule until the permissions that it names are made to
// exist: rules are declared while a program starts, and the database is not
// asked there once for each.
func (s *Server) declareLater(r sallyport.Rule) {
	s.mu.Lock()
	s.rules = append(s.rules, r)
	s.mu.Unlock()
	s.undeclared.Store(true)
}

// Declare makes every permission that a rule names exist, so that it can be
// granted, and every type of resource, so that policies can be about it. The guard
// does it behind the first request; a program that wants it done before it listens
// calls it once its routes are registered.
func (s *Server) Declare(ctx context.Context) error {
	s.undeclared.Store(false)
	s.mu.Lock()
	rules := s.rules
	s.mu.Unlock()
	var names, types []string
	for _, r := range rules {
		for name := range r.Names {
			names = append(names, name)
		}
		for name := range r.Types {
			types = append(types, name)
		}
	}
	err := role.Declare(ctx, s.DB, names)
	if err == nil {
		err = policy.Declare(ctx, s.DB, types)
	}
	if err != nil {
		s.undeclared.Store(true)
	}
	return err
}

// PutRole makes a role, or makes the role of this name hold exactly this: for roles
// that a program has in its code, at every start once its routes are registered. The
// code then decides; what somebody changed of the role meanwhile is undone. A role
// that is as it should be is left alone. The permissions of all rules are declared
// before.
//
// It refuses with a *sallyport.Error what PUT /roles/{name} refuses an administrator:
// an unknown permission or role, a cycle, the role admin.
func (s *Server) PutRole(ctx context.Context, r role.Role) error {
	if s.undeclared.Load() {
		if err := s.Declare(ctx); err != nil {
			return err
		}
	}
	return s.DB.Write(ctx, func(tx *db.Tx) error { return role.Put(ctx, tx, role.Operator(), r) })
}

// declareTimeout bounds the work behind a request.
const declareTimeout = 10 * time.Second

// declareBehind does it behind the request that came first, unless the server
// is being closed.
func (s *Server) declareBehind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.stopped.Go(s.declareNow)
	}
}

func (s *Server) declareNow() {
	ctx, cancel := context.WithTimeout(context.Background(), declareTimeout)
	defer cancel()
	if err := s.Declare(ctx); err != nil {
		s.cfg.Log.Error("the permissions that rules name could not be stored; it is tried again", "error", err)
	}
}

const (
	retireEvery = time.Hour
	eraseEvery  = time.Minute
)

// erase goes on with what is left to erase of accounts that were deleted.
func (s *Server) erase(ctx context.Context) {
	if err := s.Accounts.Erase(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("what the audit log holds of deleted accounts could not be erased; it is tried again", "error", err)
	}
}

// repeat runs f again and again, the first time after one period, until ctx
// ends.
func repeat(ctx context.Context, every time.Duration, f func(context.Context)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f(ctx)
	}
}

// CleanUp has everything deleted that is old, if it is this server's turn or it can
// have it, and reports whether it was (docs/database.md). The server does it by itself,
// every Config.CleanEvery.
func (s *Server) CleanUp(ctx context.Context) (mine bool, err error) { return s.cleaner.Round(ctx) }

// keepTurns is how long it is remembered how often a certificate was asked for in
// vain, after anybody did.
const keepTurns = 30 * 24 * time.Hour

// cleanup puts together what becomes old.
func (s *Server) cleanup() []cleanup.Step {
	return slices.Concat(
		s.Sessions.Cleanup(), s.SignIn.Cleanup(), s.Accounts.Cleanup(), s.Lockout.Cleanup(), s.Mail.Cleanup(),
		[]cleanup.Step{
			{Table: "sp_changes", Delete: func(tx *db.Tx, _ time.Time, limit int) (int64, error) { return s.DB.DeleteChanges(tx, limit) }},
			{Table: "sp_certificates", Delete: deleteChallenges},
			{Table: "sp_certificate_orders", Delete: func(tx *db.Tx, before time.Time, limit int) (int64, error) {
				return deleteTurns(tx, before.Add(-keepTurns), limit)
			}},
		},
		s.Chain.Cleanup(s.cfg.AuditRetention), // last: a log that is long takes long
	)
}

// retireKeys forgets the private parts of keys whose grace is over.
func (s *Server) retireKeys(ctx context.Context) {
	if n, err := s.Keys.Sweep(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("keys whose grace is over could not be retired; it is tried again", "error", err)
	} else if n > 0 {
		s.cfg.Log.Info("retired signing keys", "keys", n)
	}
}
