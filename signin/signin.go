// Package signin is the whole sign-in as one state machine: identify, verify,
// second factor, session. Every way to a person's session goes through it, so
// that what is asked of one is asked of all.
//
// It decides whether a person has proved who they are. It stores sign-ins whose
// second factor is due, as the digest of the token that goes on with them; the
// session it ends in is package session's, the factor package totp's, and how
// often somebody may try is package lockout's. It never tells an unknown
// name, a wrong password and a disabled account apart, by what it says or by
// how long it takes.
//
// Begin with Service.Password: a program has its server's, server.Server.SignIn.
package signin

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
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
	Factors   *totp.Service
	Guesses   *authn.Guesses // of mfa_tokens
	Issuer    string         // whose codes an authenticator app shows them to be
	// PasswordLimit and CodeLimit are how the documentation tells of what
	// Lockout.Limit counts. MailLimit bounds how often letters are asked for.
	PasswordLimit, CodeLimit, MailLimit []sallyport.Limit
	Cookie                              *authn.Cookie // of browsers' sessions
	Mail                                *mail.Outbox
	Links                               *link.Service
	VerifyAddress                       bool // as account.Config's
	Accounts                            *account.Service
	// MailSignIn lets people sign in with a link or code that is mailed to them.
	MailSignIn bool
	// DeviceKey is a secret of the server, of 16 bytes or more, that is used for
	// nothing else: where somebody has signed in before is stored as digests under it.
	DeviceKey []byte
	// Demand is on whom a second factor is demanded.
	Demand authn.Demand
	// PendingFor is how long a second factor may be due; default DefaultPending.
	PendingFor time.Duration
	// NoPasswordGrant switches POST /auth/login off, as it does the grant.
	NoPasswordGrant bool
	Now             func() time.Time
}

// Service signs people in.
type Service struct {
	cfg     Config
	flights flights
	counts  counts
}

// errAborted is what those get who waited for a check that did not end.
var errAborted = errors.New("the password check was aborted")

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.PendingFor == 0 {
		cfg.PendingFor = DefaultPending
	}
	return &Service{cfg: cfg}
}

// Attempt is what somebody sends to sign in.
type Attempt struct {
	Login    string // user name or address
	Password string
	OTP      string // code of the second factor, if it comes along
	Client   string // OAuth client; session.FirstParty for none
	Scoped   bool   // a scope was asked for
	Scope    []string

	// Cookie asks for a browser's session: a cookie in place of tokens. Replaces
	// is the value of the one that the browser has: its session ends, whoever's it
	// was, so that nobody goes on in a session that another one began.
	Cookie   bool
	Replaces string

	// Brief asks for an access token alone, for a client that keeps no refresh
	// token: the session ends with it.
	Brief bool

	// Whole is for a client that cannot go on with half a sign-in and is told of none:
	// a second factor that is due, and did not come along, is refused and counted as a
	// wrong password is.
	Whole bool
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
// was not looked at (package lockout). Of an account with a second factor it
// returns *MFARequired where the password was right and no code came along, and
// *WrongCode where the code was not.
func (s *Service) Password(ctx context.Context, a Attempt) (session.Tokens, error) {
	began := time.Now()
	t, err := s.password(ctx, a)
	s.counts.signIns.Add("password", outcome(err))
	s.noteRefusal(ctx, err)
	s.hold(ctx, began, err)
	return t, err
}

// noteRefusal records why a sign-in was refused, if it was.
func (s *Service) noteRefusal(ctx context.Context, err error) {
	e := audit.Event{Action: audit.SignInRefused, Result: audit.Failure}
	switch err := err.(type) {
	case *authn.Refused:
		e.Reason, e.Actor = err.Reason, err.Subject
	case *WrongCode:
		e.Reason, e.Actor = wrongCode, err.Subject
	default:
		return
	}
	s.cfg.Refusals.Note(ctx, e)
}

// failed reports whether an attempt counts as one that failed.
func failed(err error) bool {
	switch err.(type) {
	case *authn.Refused, *WrongCode:
		return true
	}
	return false
}

// hold answers a refusal on the grid. One that was locked out has hashed nothing,
// but looked for the account.
func (s *Service) hold(ctx context.Context, began time.Time, err error) {
	if failed(err) || lockout.IsRefusal(err) {
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
		t, err = s.proceed(ctx, p, a)
		return err
	})
	return t, err
}

// proven is somebody who has proved the first factor, and the attempt that showed
// it.
type proven struct {
	identified
	method   string // session.Password, session.Email
	upgraded string // the hash to store in place of theirs, if any
	try      *lockout.Attempt
	// use uses up what was proved with, if that is good once: it reports whether it
	// still was.
	use func(*db.Tx) (bool, error)
}

// bound names what must be as it was for the proof to count: what was proved.
func (p proven) bound() [16]byte {
	if p.method == session.Email {
		return addressID(p.EmailKey)
	}
	return account.HashID(p.hashThen())
}

// hashThen returns the stored hash as stillThere leaves it.
func (p proven) hashThen() string {
	if p.claims() {
		return ""
	}
	return cmp.Or(p.upgraded, p.Hash)
}

// claims reports whether the sign-in is the first that shows the address to be the
// person's. Whatever was there before may be another's, the second factor too.
func (p proven) claims() bool { return p.method == session.Email && !p.Verified }

// mfa reports whether there is a second factor to be proved.
func (p proven) mfa() bool { return p.MFA && !p.claims() }

// proceed goes on with whoever has proved the first factor: to the second one, to
// setting one up where that is demanded, or to the session.
func (s *Service) proceed(ctx context.Context, p proven, a Attempt) (session.Tokens, error) {
	if p.mfa() {
		switch {
		case a.OTP == "" && a.Whole:
			return session.Tokens{}, &authn.Refused{Reason: hasFactor, Subject: p.ID}
		case a.OTP == "":
			return session.Tokens{}, s.ask(ctx, p, a, false)
		}
		t, err := s.admit(ctx, p, a)
		s.counts.codes.Add("sign-in", outcome(err))
		return t, err
	}
	owes, err := s.owes(s.cfg.DB.View(ctx), p.ID)
	if err != nil {
		return session.Tokens{}, err
	}
	switch {
	case owes && a.Whole:
		return session.Tokens{}, &authn.Refused{Reason: mustHaveFactor, Subject: p.ID}
	case owes:
		return session.Tokens{}, s.ask(ctx, p, a, true)
	}
	return s.admit(ctx, p, a)
}

// Why somebody is refused whose password is right, where it is all that there is.
const (
	hasFactor      = "the account has a second factor"
	mustHaveFactor = "a second factor is demanded of the account"
)

// owes reports whether a second factor is demanded of an account.
func (s *Service) owes(rd db.Reader, subject string) (bool, error) {
	if !s.cfg.Demand.Any() {
		return false, nil
	}
	g, err := role.GrantsOf(rd, subject)
	return err == nil && s.cfg.Demand.Of(g), err
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
	if failed(err) {
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
	return admit(proven{identified: who, method: session.Password, upgraded: upgraded, try: try})
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
	who, err := s.cfg.Accounts.Locate(ctx, login)
	if err != nil {
		return identified{}, err
	}
	l, found, err := who.Login(s.cfg.DB.View(ctx))
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
		return "", &authn.Refused{Reason: disabled, Subject: who.ID}
	case s.cfg.VerifyAddress && !who.Verified:
		return "", &authn.Refused{Reason: "the address is not verified", Subject: who.ID}
	case res.Upgrade:
		return s.upgrade(ctx, who, pw)
	}
	return "", nil
}

// upgrade returns a current hash of a password that was right, once it is stored
// wherever others decide on passwords.
func (s *Service) upgrade(ctx context.Context, who identified, pw string) (string, error) {
	hash, err := s.cfg.Passwords.Hash(ctx, pw)
	if err != nil {
		return "", err
	}
	hash, same, err := s.cfg.Accounts.Upgrade(ctx, who.Login, hash)
	if err == nil && !same {
		err = &authn.Refused{Reason: changed, Subject: who.ID}
	}
	return hash, err
}

// disabled is why somebody is refused whose account is.
const disabled = "the account is disabled"

// admit begins the session, unless the account changed while the first factor was
// being checked, or has a second one and the code is not right.
func (s *Service) admit(ctx context.Context, who proven, a Attempt) (session.Tokens, error) {
	var factor totp.Factor
	if who.mfa() {
		var err error
		if factor, err = s.cfg.Factors.Load(ctx, who.ID, plain(a.OTP)); err != nil {
			return session.Tokens{}, err
		}
	}
	return s.begin(ctx, who.try, who.ID, who.method, who.mfa(), a, func(tx *db.Tx) error {
		if err := s.stillThere(ctx, tx, who); err != nil || !who.mfa() {
			return err
		}
		return s.use(ctx, tx, factor, who.ID, a.OTP)
	})
}

// begin begins the session of somebody who has proved whatever is asked of them,
// if proved, in the transaction that stores it, finds that so. It is the only
// place that does.
func (s *Service) begin(ctx context.Context, try *lockout.Attempt, subject, method string, mfa bool, a Attempt, proved func(*db.Tx) error) (session.Tokens, error) {
	scope, err := s.limit(ctx, subject, a)
	if err != nil {
		return session.Tokens{}, err
	}
	in := session.Start{Subject: subject, Client: a.Client, Scoped: a.Scoped, Scope: scope, AMR: []string{method}, MFA: mfa, Cookie: a.Cookie, Brief: a.Brief}
	if mfa {
		in.AMR = append(in.AMR, session.OTP)
	}
	started, from := s.cfg.Sessions.Prepare(ctx, in), s.deviceOf(ctx, subject)
	err = try.Success(ctx, func(tx *db.Tx) error {
		if err := proved(tx); err != nil {
			return err
		}
		if !mfa {
			if owes, err := s.owes(tx, subject); err != nil {
				return err
			} else if owes { // since a moment ago
				return &authn.Refused{Reason: changed, Subject: subject}
			}
		}
		if err := s.noteDevice(ctx, tx, subject, from); err != nil {
			return err
		}
		if err := account.TouchLogin(tx, subject, s.cfg.Now()); err != nil {
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

// limit returns what of the scope that was asked for a subject holds.
func (s *Service) limit(ctx context.Context, subject string, a Attempt) ([]string, error) {
	if !a.Scoped {
		return nil, nil
	}
	scope, unknown, err := role.LimitScope(s.cfg.DB.View(ctx), subject, a.Scope)
	if err != nil || !unknown {
		return scope, err
	}
	// The password was right: whoever tried knows that now, and so does the log.
	s.cfg.Refusals.Note(ctx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: "an unknown scope was asked for", Actor: subject})
	return nil, session.ErrScope
}

// stillThere refuses somebody whose account is not what it was when the first
// factor was checked. Otherwise it uses that up if it is good once, makes the
// account theirs if they are the first to read its mail, and stores the new hash of
// the password, if there is one.
func (s *Service) stillThere(ctx context.Context, tx *db.Tx, who proven) error {
	now, found, err := account.ReadLogin(tx, who.ID)
	if err != nil {
		return err
	}
	same := now.Hash == who.Hash
	if who.method == session.Email {
		same = now.EmailKey == who.EmailKey
	}
	if !found || now.Disabled || !same || now.MFA != who.MFA || now.Verified != who.Verified {
		return &authn.Refused{Reason: changed, Subject: who.ID}
	}
	if who.use != nil {
		if good, err := who.use(tx); err != nil {
			return err
		} else if !good {
			return &authn.Refused{Reason: notGood, Subject: who.ID}
		}
	}
	if who.claims() {
		return s.cfg.Accounts.Claim(ctx, tx, who.ID)
	}
	if who.upgraded == "" {
		return nil
	}
	if err := account.UpgradeHash(tx, who.ID, who.Hash, who.upgraded); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "password.upgraded", Target: who.ID, Actor: who.ID})
}

// WrongCredentials is the one answer to a sign-in that failed.
func WrongCredentials() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_credentials",
		Message: "Incorrect username or password",
	}
}
