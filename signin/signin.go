// Package signin is the whole sign-in as one state machine: identify, verify,
// session. Every way to a session goes through it, so that what is asked of one
// is asked of all.
//
// It decides whether a person has proved who they are. It stores nothing of its
// own; the session it ends in is package session's, and how often somebody may
// try is package lockout's. It never tells an unknown
// name, a wrong password and a disabled account apart, by what it says or by
// how long it takes.
package signin

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/session"
)

// answerGrid: a refusal is answered at a whole multiple of this after it began,
// so that what was done for it does not show. Half a typical hash would do; a
// person does not notice a tenth of a second.
const answerGrid = 100 * time.Millisecond

// Config is what a Service needs.
type Config struct {
	DB        *db.DB
	Passwords *password.Hasher
	Sessions  *session.Service
	Refusals  *audit.Refusals
	Lockout   *lockout.Guard
	// PasswordLimit is how the documentation tells of what Lockout.Limit counts.
	PasswordLimit []sallyport.Limit
	Cookie        *authn.Cookie // of browsers' sessions
	// NoPasswordGrant switches POST /auth/login off, as it does the grant.
	NoPasswordGrant bool
	Now             func() time.Time
}

// Service signs people in.
type Service struct {
	cfg     Config
	flights flights
}

// errAborted is what those get who waited for a check that did not end.
var errAborted = errors.New("the password check was aborted")

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg}
}

// Attempt is what somebody sends to sign in.
type Attempt struct {
	Login    string // user name or address
	Password string
	Client   string // OAuth client; session.FirstParty for none
	Scoped   bool   // a scope was asked for
	Scope    []string

	// Cookie asks for a browser's session: a cookie in place of tokens. Replaces
	// is the value of the one that the browser has: its session ends, whoever's it
	// was, so that nobody goes on in a session that another one began.
	Cookie   bool
	Replaces string
}

// Bounds of a scope parameter.
const (
	maxScopes = 64
	maxScope  = 2048 // bytes
)

// ParseScope reads a scope parameter (RFC 6749, 3.3). An empty one is as good
// as none; ok tells whether it is well-formed.
func ParseScope(text string) (scope []string, scoped, ok bool) {
	if strings.Trim(text, " ") == "" {
		return nil, false, true
	}
	scope = strings.Split(text, " ")
	if len(scope) > maxScopes || len(text) > maxScope {
		return nil, false, false
	}
	for _, name := range scope {
		if sallyport.CheckName(name) != nil {
			return nil, false, false
		}
	}
	return scope, true, true
}

// ScopeSyntax says what ParseScope takes.
const ScopeSyntax = "The scope is a list of at most 64 names and 2,048 bytes, separated by single spaces."

// Password signs in with a password. It returns *authn.Refused for everything
// that must look the same from outside, session.ErrScope for a scope that does
// not exist, and a *sallyport.Error 429 “too_many_attempts” where the password
// was not looked at (package lockout).
func (s *Service) Password(ctx context.Context, a Attempt) (session.Tokens, error) {
	began := time.Now()
	t, err := s.password(ctx, a)
	if refused, ok := err.(*authn.Refused); ok {
		s.cfg.Refusals.Note(ctx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject})
	}
	s.hold(ctx, began, err)
	return t, err
}

// hold answers a refusal on the grid. One that was locked out has hashed nothing,
// but looked for the account.
func (s *Service) hold(ctx context.Context, began time.Time, err error) {
	if _, ok := err.(*authn.Refused); ok || lockout.IsRefusal(err) {
		wait(ctx, answerGrid-time.Since(began)%answerGrid)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// changed is why somebody is refused whose account is not what it was when the
// password was checked.
const changed = "the account changed during the sign-in"

func (s *Service) password(ctx context.Context, a Attempt) (t session.Tokens, err error) {
	err = s.tried(ctx, a.Login, a.Password, func(p proven) (err error) {
		t, err = s.admit(ctx, p, a)
		return err
	})
	return t, err
}

// proven is somebody whose password is right, and the attempt that showed it.
type proven struct {
	identified
	upgraded string // the hash to store in place of theirs, if any
	try      *lockout.Attempt
}

// tried is the one way to have a password tested: it counts before it hashes, and
// whatever is going to be answered as a wrong password is counted as one. admit
// is called for who is proven, with their attempt, whose Success is theirs.
func (s *Service) tried(ctx context.Context, login, pw string, admit func(proven) error) error {
	who, err := s.identify(ctx, login)
	if err != nil {
		return err
	}
	try, err := s.cfg.Lockout.Begin(ctx, who.counted(login))
	if err != nil {
		return err
	}
	defer try.End(ctx)
	err = s.attempt(ctx, who, pw, try, admit)
	if refused, ok := err.(*authn.Refused); ok && refused.Reason == changed {
		// As a rule another sign-in has replaced an imported hash. The new one is
		// current, so once more is enough.
		if who, err = s.identify(ctx, login); err == nil {
			err = s.attempt(ctx, who, pw, try, admit)
		}
	}
	if _, refused := err.(*authn.Refused); refused {
		if ferr := try.Failure(ctx, nil); ferr != nil {
			return ferr
		}
	}
	return err
}

func (s *Service) attempt(ctx context.Context, who identified, pw string, try *lockout.Attempt, admit func(proven) error) error {
	upgraded, err := s.verify(ctx, who, pw)
	if err != nil {
		return err
	}
	if who.MFA { // no way to ask for it yet, and none round it
		return &authn.Refused{Reason: "the account has a second factor", Subject: who.ID}
	}
	return admit(proven{who, upgraded, try})
}

// identified is who somebody says to be; unknown has no account.
type identified struct {
	account.Login
	unknown bool
}

// counted is whose failures they are. A name that is no account's has its own.
func (who identified) counted(login string) lockout.Who {
	if who.unknown {
		return lockout.Who{Name: account.LoginName(login)}
	}
	return lockout.Who{Subject: who.ID}
}

func (s *Service) identify(ctx context.Context, login string) (identified, error) {
	l, found, err := account.FindLogin(s.cfg.DB.View(ctx), login)
	return identified{l, !found}, err
}

// verify checks the password, at the same cost whoever it is. It returns a new
// hash if the stored one should be replaced.
func (s *Service) verify(ctx context.Context, who identified, pw string) (upgraded string, err error) {
	if who.unknown {
		if err := s.cfg.Passwords.Dummy(ctx, pw); err != nil {
			return "", err
		}
		return "", &authn.Refused{Reason: "unknown name"}
	}
	res, err := s.cfg.Passwords.Verify(ctx, who.Hash, pw)
	switch {
	case err != nil:
		return "", err
	case !res.OK:
		return "", &authn.Refused{Reason: "wrong password", Subject: who.ID}
	case who.Disabled:
		return "", &authn.Refused{Reason: "the account is disabled", Subject: who.ID}
	case res.Upgrade:
		return s.cfg.Passwords.Hash(ctx, pw)
	}
	return "", nil
}

// admit begins the session, unless the account changed while the password was
// being checked.
func (s *Service) admit(ctx context.Context, who proven, a Attempt) (_ session.Tokens, err error) {
	var scope []string
	if a.Scoped {
		var unknown bool
		if scope, unknown, err = role.LimitScope(s.cfg.DB.View(ctx), who.ID, a.Scope); err != nil {
			return session.Tokens{}, err
		}
		if unknown {
			// The password was right: whoever tried knows that now, and so does
			// the log.
			s.cfg.Refusals.Note(ctx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: "an unknown scope was asked for", Actor: who.ID})
			return session.Tokens{}, session.ErrScope
		}
	}
	started := s.cfg.Sessions.Prepare(ctx, session.Start{
		Subject: who.ID, Client: a.Client, Scoped: a.Scoped, Scope: scope, AMR: []string{"pwd"}, Cookie: a.Cookie,
	})
	err = who.try.Success(ctx, func(tx *db.Tx) error {
		if err := s.stillThere(ctx, tx, who); err != nil {
			return err
		}
		if a.Replaces != "" {
			if err := s.cfg.Sessions.EndCookie(ctx, tx, a.Replaces, "replaced by another sign-in"); err != nil {
				return err
			}
		}
		return s.cfg.Sessions.Insert(ctx, tx, started)
	})
	if err != nil {
		return session.Tokens{}, err
	}
	return s.cfg.Sessions.Issue(ctx, started)
}

// stillThere refuses somebody whose account is not what it was when the password
// was checked; otherwise it stores the new hash, if there is one, and the
// sign-in.
func (s *Service) stillThere(ctx context.Context, tx *db.Tx, who proven) error {
	now, found, err := account.ReadLogin(tx, who.ID)
	if err != nil {
		return err
	}
	if !found || now.Disabled || now.Hash != who.Hash || now.MFA != who.MFA {
		return &authn.Refused{Reason: changed, Subject: who.ID}
	}
	if who.upgraded != "" {
		if err := account.UpgradeHash(tx, who.ID, who.Hash, who.upgraded); err != nil {
			return err
		}
		if err := audit.Append(ctx, tx, audit.Event{Action: "password.upgraded", Target: who.ID, Actor: who.ID}); err != nil {
			return err
		}
	}
	return account.TouchLogin(tx, who.ID, s.cfg.Now())
}

// WrongCredentials is the one answer to a sign-in that failed.
func WrongCredentials() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_credentials",
		Message: "Incorrect username or password",
	}
}
