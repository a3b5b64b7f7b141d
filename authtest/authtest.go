// Package authtest is for the tests of a service that Sallyport protects: signing in
// as anybody in one line, a principal for a handler alone, a clock that a test sets,
// and assertions on rules.
//
// A Server is a real one, with the gate, the tokens and the routes of package server,
// on a SQLite file in the test's own folder. Only its password hashes are weak, its
// limits on sign-ins and its lockout off, and its clock the test's. What it lets in
// and refuses is therefore what the service will let in and refuse.
//
// Only test files import this package.
//
// Begin with New and Server.SignIn.
package authtest

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/store/sqlite"
)

// BaseURL is that of a Server whose configuration is not given another.
const BaseURL = "http://service.test"

// Server is a Sallyport server for one test.
type Server struct {
	*server.Server
	// Clock is what the server takes for the time. It stands still until it is moved.
	Clock *Clock
	// URL is where the handler answers, once Serve was called.
	URL string

	t    testing.TB
	cfg  server.Config
	http *httptest.Server
}

// New returns a server with an empty database. It ends with the test. change may set
// what the test needs of its configuration, as its own service does.
func New(t testing.TB, change ...func(*server.Config)) *Server {
	t.Helper()
	s := &Server{t: t, Clock: NewClock(time.Now())}
	cfg := server.Config{
		BaseURL: BaseURL, Now: s.Clock.Now,
		Password:  password.Config{Memory: 64, Time: 1, Threads: 1, Permits: 4, DangerouslyWeak: true},
		NoLockout: true, Limits: server.Limits{Default: server.LimitOff, Login: server.LimitOff},
	}
	for _, f := range change {
		f(&cfg)
	}
	if cfg.DB == nil {
		file, err := sqlite.Open(filepath.Join(t.TempDir(), "service.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		cfg.DB = file
	}
	if u, err := url.Parse(cfg.BaseURL); err == nil && cfg.Hosts == nil {
		cfg.Hosts = []string{u.Hostname(), "127.0.0.1"} // the latter is where Serve listens
	}
	s.cfg = cfg
	var err error
	if s.Server, err = server.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Serve starts a listener on 127.0.0.1 that h answers, over TLS if the base URL is
// https://, and returns its URL. h is the whole handler of the service, as it is
// served: inside of Guard. The permissions that its rules name exist from then on.
func (s *Server) Serve(h http.Handler) string {
	s.t.Helper()
	if s.http != nil {
		s.t.Fatal("authtest: this server serves already. Make another for another handler.")
	}
	if err := s.Declare(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.http = httptest.NewUnstartedServer(h)
	if strings.HasPrefix(s.cfg.BaseURL, "https:") {
		s.http.StartTLS()
	} else {
		s.http.Start()
	}
	s.t.Cleanup(s.http.Close)
	s.URL = s.http.URL
	return s.URL
}

// As says who somebody is, and with what credential they come.
type As func(*identity)

type identity struct {
	roles, permissions []string
	scoped             bool
	scopes             []string
	mfa                bool
	ago                time.Duration
	kind               sallyport.Kind
}

func identityOf(as []As) identity {
	id := identity{kind: sallyport.KindBearer}
	for _, f := range as {
		f(&id)
	}
	return id
}

// Roles gives roles, and takes away the role user that everybody has by default.
func Roles(names ...string) As {
	return func(id *identity) { id.roles = append(id.roles, names...) }
}

// Permissions gives permissions directly.
func Permissions(names ...string) As {
	return func(id *identity) { id.permissions = append(id.permissions, names...) }
}

// Scopes limits the credential to a scope, which may be empty. It gives nothing: what
// the scope lists must also be held, by Roles or Permissions.
func Scopes(names ...string) As {
	return func(id *identity) { id.scoped, id.scopes = true, append(id.scopes, names...) }
}

// MFA says that a second factor was used to sign in.
func MFA() As { return func(id *identity) { id.mfa = true } }

// Ago says how long ago the sign-in was, for rules that ask for a fresh one. Of a
// Server it is at most the life of an unused session (Config.RefreshTTL).
func Ago(d time.Duration) As { return func(id *identity) { id.ago = d } }

// Via says of what kind the credential is. Default: KindBearer. A Server also has
// KindAPIKey, which is always limited to Scopes, and KindBasic.
func Via(k sallyport.Kind) As { return func(id *identity) { id.kind = k } }

// SignIn makes an account of this user name and returns a client that is signed in as
// it. It is called once for each name.
func (s *Server) SignIn(name string, as ...As) *Client {
	s.t.Helper()
	c, err := s.signIn(name, identityOf(as))
	if err != nil {
		s.t.Fatalf("authtest: SignIn(%q): %v", name, err)
	}
	return c
}

// Anonymous returns a client without a credential.
func (s *Server) Anonymous() *Client { return s.client(nil) }

func (s *Server) signIn(name string, id identity) (*Client, error) {
	ctx := s.t.Context()
	pw := rand.Text()
	u, err := s.Accounts.Create(ctx, role.Operator(), account.NewUser{
		Username: &name, Email: strings.ToLower(name) + "@example.com", Password: pw, EmailVerified: true, Roles: id.roles,
	})
	if err != nil {
		return nil, err
	}
	if err := role.Declare(ctx, s.DB, id.permissions); err != nil {
		return nil, err
	}
	if err := s.DB.Write(ctx, func(tx *db.Tx) error {
		return role.SetPermissions(ctx, tx, role.Operator(), u.ID, id.permissions)
	}); err != nil {
		return nil, err
	}
	c := s.client(nil)
	c.ID, c.Name = u.ID, name
	switch id.kind {
	case sallyport.KindBearer:
		c.Token, err = s.session(ctx, u.ID, id)
		c.header = http.Header{"Authorization": {"Bearer " + c.Token}}
	case sallyport.KindAPIKey:
		c.Token, err = s.key(ctx, u.ID, id)
		c.header = http.Header{headerOf(s.cfg): {c.Token}}
	case sallyport.KindBasic:
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(name, pw)
		c.header = r.Header
	default:
		return nil, errKind(id.kind)
	}
	return c, err
}

type errKind sallyport.Kind

func (k errKind) Error() string {
	return "credentials of the kind " + string(k) + " are not made here. Use KindBearer, KindAPIKey or KindBasic."
}

func headerOf(cfg server.Config) string {
	if cfg.APIKeyHeader != "" {
		return http.CanonicalHeaderKey(cfg.APIKeyHeader)
	}
	return "X-Api-Key"
}

// session returns the access token of a session that began as long ago as id says: it
// was begun then, and refreshed now.
func (s *Server) session(ctx context.Context, subject string, id identity) (string, error) {
	start := session.Start{Subject: subject, Client: session.FirstParty, Scoped: id.scoped, Scope: sorted(id.scopes), AMR: []string{"pwd"}, MFA: id.mfa}
	if id.mfa {
		start.AMR = append(start.AMR, session.OTP)
	}
	then := session.New(session.Config{
		DB: s.DB, Keys: s.Keys, Issuer: s.Issuer(), Format: s.cfg.TokenFormat, Mail: s.Mail,
		Access: s.cfg.AccessTTL, Refresh: s.cfg.RefreshTTL, Life: s.cfg.SessionLife,
		Now: func() time.Time { return s.Clock.Now().Add(-id.ago) },
	})
	defer then.Close()
	started := then.Prepare(ctx, start)
	if err := s.DB.Write(ctx, func(tx *db.Tx) error { return then.Insert(ctx, tx, started) }); err != nil {
		return "", err
	}
	tokens, err := then.Issue(ctx, started)
	if err == nil && id.ago > 0 {
		tokens, err = s.Sessions.Refresh(ctx, tokens.Refresh, session.FirstParty, false, nil)
	}
	return tokens.Access, err
}

func (s *Server) key(ctx context.Context, owner string, id identity) (string, error) {
	_, key, err := s.APIKeys.Create(ctx, apikey.NewKey{Owner: owner, Name: "authtest", Scopes: sorted(id.scopes)})
	if err != nil {
		return "", err
	}
	return key.Reveal(), nil
}

func sorted(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// Clock is a clock that a test sets. It may be used concurrently.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at a time.
func NewClock(at time.Time) *Clock { return &Clock{now: at} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
