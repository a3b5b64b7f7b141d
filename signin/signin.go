// Package signin is the whole sign-in as one state machine: identify, verify,
// session. Every way to a session goes through it, so that what is asked of one
// is asked of all.
//
// It decides whether a person has proved who they are. It stores nothing of its
// own; the session it ends in is package session's. It never tells an unknown
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
// that must look the same from outside, and session.ErrScope for a scope
// that does not exist.
func (s *Service) Password(ctx context.Context, a Attempt) (session.Tokens, error) {
	began := time.Now()
	t, err := s.password(ctx, a)
	if refused, ok := err.(*authn.Refused); ok {
		s.cfg.Refusals.Note(ctx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject})
		wait(ctx, answerGrid-time.Since(began)%answerGrid)
	}
	return t, err
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

func (s *Service) password(ctx context.Context, a Attempt) (session.Tokens, error) {
	t, err := s.attempt(ctx, a)
	if refused, ok := err.(*authn.Refused); ok && refused.Reason == changed {
		// As a rule another sign-in has replaced an imported hash. The new one is
		// current, so once more is enough.
		t, err = s.attempt(ctx, a)
	}
	return t, err
}

func (s *Service) attempt(ctx context.Context, a Attempt) (session.Tokens, error) {
	who, err := s.identify(ctx, a.Login)
	if err != nil {
		return session.Tokens{}, err
	}
	upgraded, err := s.verify(ctx, who, a.Password)
	if err != nil {
		return session.Tokens{}, err
	}
	if who.MFA { // no way to ask for it yet, and none round it
		return session.Tokens{}, &authn.Refused{Reason: "the account has a second factor", Subject: who.ID}
	}
	return s.admit(ctx, who, upgraded, a)
}

// identified is who somebody says to be; unknown has no account.
type identified struct {
	account.Login
	unknown bool
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
func (s *Service) admit(ctx context.Context, who identified, upgraded string, a Attempt) (_ session.Tokens, err error) {
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
		Subject: who.ID, Client: a.Client, Scoped: a.Scoped, Scope: scope, AMR: []string{"pwd"},
	})
	var refused *authn.Refused
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var err error
		if refused, err = s.stillThere(ctx, tx, who, upgraded); refused != nil || err != nil {
			return err
		}
		return s.cfg.Sessions.Insert(ctx, tx, started)
	})
	if err != nil {
		return session.Tokens{}, err
	}
	if refused != nil {
		return session.Tokens{}, refused
	}
	return s.cfg.Sessions.Issue(ctx, started)
}

// stillThere refuses somebody whose account is not what it was when the password
// was checked; otherwise it stores the new hash, if there is one, and the
// sign-in.
func (s *Service) stillThere(ctx context.Context, tx *db.Tx, who identified, upgraded string) (*authn.Refused, error) {
	now, found, err := account.ReadLogin(tx, who.ID)
	if err != nil {
		return nil, err
	}
	if !found || now.Disabled || now.Hash != who.Hash || now.MFA != who.MFA {
		return &authn.Refused{Reason: changed, Subject: who.ID}, nil
	}
	if upgraded != "" {
		if err := account.UpgradeHash(tx, who.ID, who.Hash, upgraded); err != nil {
			return nil, err
		}
		if err := audit.Append(ctx, tx, audit.Event{Action: "password.upgraded", Target: who.ID, Actor: who.ID}); err != nil {
			return nil, err
		}
	}
	return nil, account.TouchLogin(tx, who.ID, s.cfg.Now())
}

// WrongCredentials is the one answer to a sign-in that failed.
func WrongCredentials() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_credentials",
		Message: "Incorrect username or password",
	}
}
