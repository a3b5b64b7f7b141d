// Package session decides how long a sign-in lasts: sessions, their access
// tokens, their families of refresh tokens, and logout.
//
// It stores a session as one row, with the digest of the one refresh token, or
// cookie, that is good now, and the digests of access tokens that are opaque.
// Ending a session is a write to that row, declared as a change of its subject's
// authority: a logout holds at the next request and after a crash, and needs no
// list of revoked tokens. It never stores a token, and never decides who may sign in
// (package signin does).
//
// Begin with Service: a program has its server's, server.Server.Sessions, and
// sessions begin with package signin.
package session

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/internal/touch"
	"github.com/sallyport/sallyport/mail"
)

// Defaults and bounds of a session's times.
const (
	DefaultAccessTTL   = 15 * time.Minute
	DefaultRefreshTTL  = 14 * 24 * time.Hour // without use
	DefaultLifetime    = 30 * 24 * time.Hour // in all
	MaxAccessTTL       = 24 * time.Hour
	retryWindow        = 10 * time.Second // in which a refresh may be repeated
	maxRefreshTokenLen = 256
	// maxSessions bounds the live sessions of a subject; the oldest is ended
	// when another begins.
	maxSessions = 500
	// maxMachineSessions is the same for a machine client, each of whose tokens
	// is a session that lives no longer than the token.
	maxMachineSessions = 5000
	tooMany            = "more sessions than are kept"
)

// FirstParty is the client of a sign-in that names none: the service's own.
const FirstParty = "first-party"

// How a person proved who they are (RFC 8176, 2). A recovery code is a one-time
// password too.
const (
	Password = "pwd"
	OTP      = "otp"
	// Email is reading the mail of the account's address. RFC 8176 has no name for
	// it.
	Email = "email"
)

// Config is what a Service needs.
type Config struct {
	DB      *db.DB
	Keys    *keyring.Ring
	Issuer  string // also the audience: the base URL
	Access  time.Duration
	Refresh time.Duration
	Life    time.Duration
	Format  Format         // of access tokens that are issued; default JWT
	Guesses *authn.Guesses // of refresh tokens
	Mail    *mail.Outbox   // tells of what only a thief would do
	// Follow brings what is known of a subject up to date before one of its refresh
	// tokens is looked at, where others decide who there is; nil: nobody does.
	Follow func(ctx context.Context, subject string) error
	Log    *slog.Logger
	Now    func() time.Time
}

// Service keeps sessions.
type Service struct {
	cfg      Config
	verifier token.Verifier
	uses     *touch.Touches // of cookies
	look     time.Duration  // after which a cookie's session is looked at again
}

// New returns a Service; zero durations are the defaults. Close ends what it
// starts.
func New(cfg Config) *Service {
	if cfg.Access == 0 {
		cfg.Access = DefaultAccessTTL
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = DefaultRefreshTTL
	}
	if cfg.Life == 0 {
		cfg.Life = DefaultLifetime
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg:      cfg,
		verifier: token.Verifier{Issuer: cfg.Issuer, Audience: cfg.Issuer},
		look:     min(maxLook, cfg.Refresh/4),
	}
	s.uses = touch.New(cfg.DB, cfg.Log, s.storeUse)
	return s
}

// Close stores the uses of cookies that wait to be stored.
func (s *Service) Close() { s.uses.Close() }

// Session is one sign-in.
type Session struct {
	ID        string
	Subject   string
	Client    string
	Scoped    bool
	Scope     []string
	AMR       []string // RFC 8176: "pwd", "otp"
	MFA       bool
	AuthTime  time.Time
	Created   time.Time
	LastUsed  time.Time
	IdleUntil time.Time
	Expires   time.Time
	Ended     time.Time // zero: alive
	EndReason string
	Address   string
	UserAgent string

	refresh     []byte
	refreshedAt time.Time
}

// Tokens is what a client gets.
type Tokens struct {
	Access    string
	Refresh   string
	ExpiresIn time.Duration
	Scoped    bool
	Scope     []string

	Cookie string // in place of the tokens: what a browser keeps for ExpiresIn
}

// Start is what a sign-in has established. Only package signin makes one, and
// package oauth for machine clients.
type Start struct {
	Subject string
	Client  string
	Scoped  bool
	Scope   []string
	AMR     []string
	MFA     bool
	Cookie  bool // for a browser: a cookie in place of tokens
	// Brief is for a client that keeps no refresh token: there is none, and the
	// session ends with its only access token.
	Brief bool
	// Machine tells that a machine client proved itself, and no person. Its
	// session is one access token long, has no refresh token, since the secret
	// gets the next one (RFC 6749, 4.4.3), and no time at which a person signed
	// in: a rule that asks for a fresh sign-in means a person.
	Machine bool
}

// Started is a session that begins when its transaction commits. It holds the
// first tokens, which are stored nowhere else.
type Started struct {
	session Session
	refresh string // or the cookie; "" of one that is a single access token long
	access  access
	cookie  bool
	machine bool
}

// Prepare makes a session without storing it. It is apart from Insert because
// a transaction's function may run twice.
func (s *Service) Prepare(ctx context.Context, in Start) Started {
	now := s.cfg.Now()
	info := reqctx.InfoFrom(ctx)
	se := Session{
		ID: uuid.Must(uuid.NewV7()).String(), Subject: in.Subject, Client: in.Client,
		Scoped: in.Scoped, Scope: in.Scope, AMR: in.AMR, MFA: in.MFA,
		AuthTime: now, Created: now, LastUsed: now,
		Expires: now.Add(s.cfg.Life), Address: info.Address, UserAgent: info.UserAgent, refreshedAt: now,
	}
	a := s.newAccess(se.ID)
	a.issued = now
	if in.Machine {
		se.AuthTime = time.Time{}
	}
	if in.Machine || in.Brief {
		se.Expires, se.refresh = earlier(now.Add(s.cfg.Access), se.Expires), []byte{}
		se.IdleUntil = se.Expires
		return Started{session: se, access: a, machine: in.Machine}
	}
	se.IdleUntil = earlier(now.Add(s.cfg.Refresh), se.Expires)
	if in.Cookie {
		value := s.tokens().opaque(cookieKind, se.ID)
		se.refresh = digestOf(value)
		return Started{session: se, refresh: value, cookie: true}
	}
	first := s.tokens().first(se.ID).String()
	se.refresh = digestOf(first)
	return Started{session: se, refresh: first, access: a}
}

// Insert stores the session.
func (s *Service) Insert(ctx context.Context, tx *db.Tx, st Started) error {
	if err := insertSession(tx, st.session); err != nil {
		return err
	}
	if err := s.store(tx, st.access, st.session, st.session.Scoped, st.session.Scope); err != nil {
		return err
	}
	keep, since, kind := maxSessions, time.Time{}, ""
	if st.machine {
		// Older ones have expired: they are not counted, and not looked at.
		keep, since, kind = maxMachineSessions, st.session.Created.Add(-s.cfg.Access), "client"
	}
	if n, err := endOldest(tx, st.session.Subject, keep, since, s.cfg.Now()); err != nil {
		return err
	} else if n > 0 {
		if err := audit.Append(ctx, tx, audit.Event{Action: "sessions.ended", Target: st.session.Subject, Reason: tooMany, Detail: map[string]string{"sessions": strconv.FormatInt(n, 10)}}); err != nil {
			return err
		}
	}
	return audit.Append(ctx, tx, audit.Event{
		Action: "session.started", Target: st.session.ID, Actor: st.session.Subject, ActorKind: kind,
		Detail: map[string]string{"client": st.session.Client, "amr": strings.Join(st.session.AMR, " ")},
	})
}

// Issue returns the tokens, or the cookie, of a session that has been stored.
func (s *Service) Issue(ctx context.Context, st Started) (Tokens, error) {
	if st.cookie {
		return Tokens{
			Cookie: st.refresh, ExpiresIn: st.session.Expires.Sub(st.session.Created),
			Scoped: st.session.Scoped, Scope: st.session.Scope,
		}, nil
	}
	if st.access.text == "" {
		if _, err := s.cfg.Keys.SyncNow(ctx); err != nil {
			return Tokens{}, err
		}
	}
	return s.issue(ctx, st.session, st.session.Scoped, st.session.Scope, st.refresh, st.access)
}

// issue gives an opaque token that has been stored, or signs. Its callers have
// synced the keys: another process may have rotated them, and what is signed
// from now on is signed with the one that is active now.
func (s *Service) issue(ctx context.Context, se Session, scoped bool, scope []string, refresh string, a access) (Tokens, error) {
	if a.text != "" {
		in := s.accessUntil(a.issued, se).Sub(a.issued).Truncate(time.Second)
		return Tokens{Access: a.text, Refresh: refresh, ExpiresIn: in, Scoped: scoped, Scope: scope}, nil
	}
	now := s.cfg.Now()
	if refresh == "" {
		now = se.Created // its only token lives as long as the session
	}
	expires := s.accessUntil(now, se)
	set, err := s.cfg.Keys.Set(ctx)
	if err != nil {
		return Tokens{}, err
	}
	access, err := set.Issue(token.Claims{
		Issuer: s.cfg.Issuer, Audience: []string{s.cfg.Issuer}, Subject: se.Subject, ClientID: se.Client,
		ID: uuid.Must(uuid.NewV7()).String(), Session: se.ID,
		IssuedAt: now, Expires: expires, AuthTime: se.AuthTime, Scoped: scoped, Scope: scope, AMR: se.AMR, ACR: acrOf(se.AMR),
	})
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{Access: access, Refresh: refresh, ExpiresIn: expires.Sub(now).Truncate(time.Second), Scoped: scoped, Scope: scope}, nil
}

// acrOf returns what challenges ask for as acr_values (RFC 9470), if that is what
// these methods amount to.
func acrOf(amr []string) string {
	if (slices.Contains(amr, Password) || slices.Contains(amr, Email)) && slices.Contains(amr, OTP) {
		return "mfa"
	}
	return ""
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Confirm reads whether the session that an access token names is alive, and
// what its subject may do.
func (s *Service) Confirm(rd db.Reader, v authn.Verified) (authn.State, error) {
	st, err := s.state(rd, v, s.cfg.Now())
	return st.State, err
}

// state reads the state of a session that is alive, or returns *authn.Refused.
func (s *Service) state(rd db.Reader, v authn.Verified, now time.Time) (state, error) {
	st, alive, err := readState(rd, v.Session, v.Subject, now)
	if err == nil && !alive {
		var reason string
		if reason, err = whyDead(rd, v.Session, v.Subject, now); err == nil {
			err = &authn.Refused{Reason: reason, Subject: v.Subject}
		}
	}
	return st, err
}

// End ends one session of a subject. It reports whether there was a live one.
func (s *Service) End(ctx context.Context, tx *db.Tx, subject, id, reason string) (bool, error) {
	if err := audit.Watch(tx, subject, time.Now()); err != nil {
		return false, err
	}
	n, err := endSession(tx, subject, id, reason, s.cfg.Now())
	if err != nil || n == 0 {
		return false, err
	}
	return true, audit.Append(ctx, tx, audit.Event{Action: "session.ended", Target: id, Reason: reason, Detail: map[string]string{"subject": subject}})
}

// EndAll ends every session of a subject except one ("" for none): one
// statement, however many there are.
func (s *Service) EndAll(ctx context.Context, tx *db.Tx, subject, except, reason string) error {
	if err := audit.Watch(tx, subject, time.Now()); err != nil {
		return err
	}
	n, err := endSessions(tx, subject, except, reason, s.cfg.Now())
	if err != nil || n == 0 {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{
		Action: "sessions.ended", Target: subject, Reason: reason,
		Detail: map[string]string{"sessions": strconv.FormatInt(n, 10), "except": except},
	})
}

// StepUp notes in a live session that its person has just proved a second factor:
// from the next request on it has one, and is fresh. Its tokens stay as they are;
// those that the next refresh gives say so. It reports whether there was such a
// session. Only package signin, which has seen the proof, calls it.
func (s *Service) StepUp(ctx context.Context, tx *db.Tx, subject, id string) (bool, error) {
	amr, found, err := readAMR(tx, id)
	if err != nil || !found {
		return false, err
	}
	if !slices.Contains(amr, OTP) {
		amr = append(amr, OTP)
	}
	if ok, err := strengthen(tx, subject, id, amr, s.cfg.Now()); err != nil || !ok {
		return false, err
	}
	return true, audit.Append(ctx, tx, audit.Event{Action: "session.stepped_up", Target: id, Actor: subject})
}

// StepDown takes back what StepUp noted: the second factor is gone, and another
// one is demanded. Only package signin calls it.
func (s *Service) StepDown(tx *db.Tx, subject, id string) error {
	amr, found, err := readAMR(tx, id)
	if err != nil || !found {
		return err
	}
	return weaken(tx, subject, id, slices.DeleteFunc(amr, func(m string) bool { return m == OTP }))
}

// List returns the subject's live sessions, newest first.
func (s *Service) List(ctx context.Context, subject string) ([]Session, error) {
	return listSessions(s.cfg.DB.View(ctx), subject, s.cfg.Now())
}

// keepDead is how much longer than its tokens a session is kept.
const keepDead = 24 * time.Hour

// Cleanup says what of sessions is old: opaque access tokens that have expired, and
// sessions a day after the last of their refresh tokens has expired or would have.
// Until then the reuse of a token is told apart from nonsense. Access tokens come
// first: a session takes its own along, however many, and by then it has none.
func (s *Service) Cleanup() []cleanup.Step {
	return []cleanup.Step{
		{Table: "sp_access_tokens", Delete: deleteAccess},
		{Table: "sp_sessions", Delete: func(tx *db.Tx, before time.Time, limit int) (int64, error) {
			n, err := deleteExpired(tx, before.Add(-keepDead), limit)
			if err != nil || n == int64(limit) {
				return n, err
			}
			ended, err := deleteEnded(tx, before.Add(-keepDead-s.cfg.Refresh), limit-int(n))
			return n + ended, err
		}},
	}
}
