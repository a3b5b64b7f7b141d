package signin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/session"
)

// How long a second factor may be due.
const (
	DefaultPending = 5 * time.Minute
	MinPending     = time.Minute
	MaxPending     = 15 * time.Minute
)

const (
	// maxTries is how many codes are looked at for one pending sign-in, and
	// maxPending how many of them an account has at a time; the oldest goes.
	maxTries   = 5
	maxPending = 50
)

// An mfa_token is random, and means nothing but its row.
const (
	mfaPrefix = "mfa_"
	mfaSize   = 32 // bytes
)

// SetUp is the method of MFARequired where a second factor is demanded that is yet
// to be set up.
const SetUp = "setup"

// MFARequired says that the first factor was right and that a second one is due.
type MFARequired struct {
	Token   string // the mfa_token: a secret
	Methods []string
	For     time.Duration // how long it is good
}

// Error says no secret.
func (e *MFARequired) Error() string { return "mfa_required: a second factor is due" }

// Refusal returns what the caller is told.
func (e *MFARequired) Refusal() *sallyport.Error {
	what := "This account has a second factor, which is due now. Send mfa_token with a code to POST /2fa/verify within " + spoken(e.For) + ", or sign in again with the code in “otp”."
	if slices.Contains(e.Methods, SetUp) {
		what = "This account must have a second factor, and has none. Within " + spoken(e.For) + ", send mfa_token to POST /2fa/setup, and then with a code of the app to POST /2fa/verify."
	}
	return &sallyport.Error{Status: http.StatusForbidden, Code: "mfa_required", Message: what}
}

// spoken is a duration for a sentence.
func spoken(d time.Duration) string {
	if d%time.Minute == 0 && d > time.Minute {
		return strconv.Itoa(int(d/time.Minute)) + " minutes"
	}
	return strconv.Itoa(int(d/time.Second)) + " seconds"
}

// WrongCode says that a code of a second factor is not right, or was used before.
type WrongCode struct{ Subject string }

// Error says what the caller is told.
func (e *WrongCode) Error() string { return wrongCode }

const wrongCode = "the code of the second factor is not right"

// codeMessage is what is said of every code that is not good.
const codeMessage = "The code is not right, or was used already. Wait for the next one and check the clock of the device that shows it; a recovery code is good once."

// InvalidCode is the answer to WrongCode where somebody signs in.
func InvalidCode() *sallyport.Error {
	return &sallyport.Error{Status: http.StatusUnauthorized, Code: "invalid_2fa_code", Message: codeMessage}
}

// invalidOwnCode is the answer to WrongCode where somebody is signed in.
func invalidOwnCode() *sallyport.Error {
	return &sallyport.Error{Status: http.StatusBadRequest, Code: "invalid_2fa_code", Message: codeMessage}
}

// overPending is the answer to an mfa_token that is not good, for whatever reason.
func overPending() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_token",
		Message: "This sign-in is over: it took too long or more than five codes, was finished, or never began. Sign in again.",
	}
}

// mfaOff is the answer where something is asked of a second factor that is not
// there.
func mfaOff() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "mfa_off",
		Message: "There is no second factor, or its set-up was not finished within ten minutes. Begin with POST /2fa/setup.",
	}
}

// mfaOn refuses to set up a second one.
func mfaOn() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "mfa_on",
		Message: "The second factor is on already. To set up another device, switch it off first with a code (DELETE /2fa).",
	}
}

// ask makes a pending sign-in, to go on with the second factor, or with setting one
// up. The attempt is given back: it did not fail, and is no success either. Only a
// whole sign-in lets failures be forgotten, or the right password would buy guesses
// at the code.
func (s *Service) ask(ctx context.Context, who proven, a Attempt, setup bool) error {
	if _, err := s.limit(ctx, who.ID, a); err != nil {
		return err
	}
	secret := make([]byte, mfaSize)
	rand.Read(secret)
	token := mfaPrefix + base64.RawURLEncoding.EncodeToString(secret)
	now := s.cfg.Now()
	bound := who.bound()
	if setup && who.method == session.Email {
		bound = setupID(who.EmailKey, who.hashThen())
	}
	p := pending{
		digest: digestOf(token), subject: who.ID, method: who.method, bound: bound, setup: setup,
		client: a.Client, scoped: a.Scoped, scope: a.Scope, cookie: a.Cookie, expires: now.Add(s.cfg.PendingFor),
	}
	due := "second factor"
	if setup {
		due = "set-up of a second factor"
	}
	e := audit.Event{Action: "password.accepted", Target: who.ID, Actor: who.ID, Detail: map[string]string{"by": "password", "due": due}}
	if who.method == session.Email {
		e = audit.Event{Action: "link.accepted", Target: who.ID, Actor: who.ID, Detail: map[string]string{"due": due}}
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.stillThere(ctx, tx, who); err != nil {
			return err
		}
		if err := deleteOldestPending(tx, who.ID, maxPending-1); err != nil {
			return err
		}
		if err := insertPending(tx, p, now); err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return err
	}
	required := &MFARequired{Token: token, Methods: totp.Methods(), For: s.cfg.PendingFor}
	if setup {
		required.Methods = []string{SetUp}
	}
	return required
}

func digestOf(token string) []byte {
	d := sha256.Sum256([]byte(token))
	return d[:]
}

// Continuation is what somebody sends to go on with a sign-in.
type Continuation struct {
	Token string
	Code  string
	// May is asked whether the browser that sends it may get a cookie, if that is
	// what the sign-in was begun for; Replaces is as in Attempt.
	May      func() error
	Replaces string
}

// Continued is what the end of a sign-in gives.
type Continued struct {
	session.Tokens
	// Recovery are the recovery codes of a second factor that was set up on the way;
	// nil if there was one.
	Recovery []string
}

// SecondFactor goes on with a sign-in whose second factor is due, or was set up on
// the way (SetupPending): of any number of attempts one gets the session. It
// returns *authn.Refused for a token that is not good, *WrongCode for a code, what
// May returns, and a *sallyport.Error 429 “too_many_attempts” where the code was
// not looked at, or 409 “mfa_off” where nothing was set up yet.
func (s *Service) SecondFactor(ctx context.Context, c Continuation) (Continued, error) {
	began := time.Now()
	t, err := s.secondFactor(ctx, c)
	s.counts.signIns.Add("second factor", outcome(err))
	s.counts.codes.Add("sign-in", outcome(err))
	s.noteRefusal(ctx, err)
	s.hold(ctx, began, err)
	return t, err
}

func (s *Service) secondFactor(ctx context.Context, c Continuation) (Continued, error) {
	p, err := s.tryPending(ctx, c.Token)
	if err != nil {
		return Continued{}, err
	}
	if p.cookie {
		if err := c.May(); err != nil {
			return Continued{}, err
		}
	} else {
		c.Replaces = ""
	}
	if err := s.cfg.Accounts.Follow(ctx, p.subject); err != nil {
		return Continued{}, err
	}
	try, err := s.cfg.Lockout.Begin(ctx, lockout.Who{Subject: p.subject})
	if err != nil {
		return Continued{}, err
	}
	defer try.End(ctx)
	t, err := s.continued(ctx, try, p, c)
	if failed(err) {
		if ferr := try.Failure(ctx, nil); ferr != nil {
			return Continued{}, ferr
		}
	}
	return t, err
}

// tryPending is findPending where a token that nobody has counts as a guess.
func (s *Service) tryPending(ctx context.Context, token string) (p pending, err error) {
	err = s.cfg.Guesses.Try(ctx, func() (err error) {
		p, err = s.findPending(ctx, token)
		return err
	})
	return p, err
}

// over is why a sign-in cannot go on.
const over = "the sign-in is over"

func (s *Service) findPending(ctx context.Context, token string) (pending, error) {
	body, ok := strings.CutPrefix(token, mfaPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(mfaSize) {
		return pending{}, &authn.Refused{Reason: "not an mfa_token of ours", Guess: true}
	}
	p, found, err := readPending(s.cfg.DB.View(ctx), digestOf(token))
	switch {
	case err != nil:
		return pending{}, err
	case !found:
		return pending{}, &authn.Refused{Reason: "there is no such sign-in, or not any more", Guess: true}
	case p.tries >= maxTries || !s.cfg.Now().Before(p.expires):
		return pending{}, &authn.Refused{Reason: over, Subject: p.subject}
	}
	return p, nil
}

// stands reports whether what a pending sign-in began with still holds.
func (s *Service) stands(p pending, now account.Login) bool {
	if now.Disabled || now.MFA == p.setup {
		return false
	}
	switch p.method {
	case session.Password:
		return account.HashID(now.Hash) == p.bound && (now.Verified || !s.cfg.VerifyAddress)
	case session.Email:
		bound := addressID(now.EmailKey)
		if p.setup {
			bound = setupID(now.EmailKey, now.Hash)
		}
		return now.Verified && bound == p.bound
	}
	return false
}

func (s *Service) continued(ctx context.Context, try *lockout.Attempt, p pending, c Continuation) (Continued, error) {
	code := plain(c.Code)
	factor, err := s.cfg.Factors.Load(ctx, p.subject, code)
	if err != nil {
		return Continued{}, err
	}
	var recovery []string
	if p.setup {
		if !factor.SettingUp() {
			return Continued{}, mfaOff()
		}
		recovery = totp.NewRecoveryCodes()
	}
	// The try is stored before the code is looked at: of any number at once, and
	// through a crash, no more count than may.
	taken := false
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		taken, err = takeTry(tx, p.digest, maxTries, s.cfg.Now())
		return err
	})
	if err != nil {
		return Continued{}, err
	}
	if !taken {
		return Continued{}, &authn.Refused{Reason: over, Subject: p.subject}
	}
	a := Attempt{Client: p.client, Scoped: p.scoped, Scope: p.scope, Cookie: p.cookie, Replaces: c.Replaces}
	t, err := s.begin(ctx, try, p.subject, p.method, true, a, func(tx *db.Tx) error {
		now, found, err := account.ReadLogin(tx, p.subject)
		if err != nil {
			return err
		}
		if !found || !s.stands(p, now) {
			return &authn.Refused{Reason: changed, Subject: p.subject}
		}
		if ok, err := deletePending(tx, p.digest); err != nil {
			return err
		} else if !ok {
			return &authn.Refused{Reason: over, Subject: p.subject}
		}
		if err := s.use(ctx, tx, factor, p.subject, code); err != nil || !p.setup {
			return err
		}
		return s.enrol(ctx, tx, factor, p.subject, "", recovery)
	})
	if err != nil {
		return Continued{}, err
	}
	return Continued{t, recovery}, nil
}

// maxCode bounds what is taken for a code.
const maxCode = 64

// plain returns a code as it is compared: apps show a gap in its middle.
func plain(code string) string {
	if len(code) > maxCode {
		return ""
	}
	return strings.ReplaceAll(code, " ", "")
}

// use uses a code up, or returns *WrongCode.
func (s *Service) use(ctx context.Context, tx *db.Tx, f totp.Factor, subject, code string) error {
	method, err := f.Use(tx, plain(code), s.cfg.Now())
	switch {
	case err != nil:
		return err
	case method == totp.None:
		return &WrongCode{subject}
	case method != totp.RecoveryCode:
		return nil
	}
	left, err := totp.RecoveryCodesLeft(tx, subject)
	if err != nil {
		return err
	}
	if err := s.cfg.Mail.Notify(ctx, tx, subject, mail.RecoveryCodeUsed, mail.Facts{}); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "recovery_code.used", Target: subject, Actor: subject, Detail: map[string]string{"left": strconv.Itoa(left)}})
}

// nameOf returns what an account is called: its user name, or its address.
func (s *Service) nameOf(ctx context.Context, id string) (string, error) {
	name, found, err := account.Label(s.cfg.DB.View(ctx), id)
	if err == nil && !found {
		err = sallyport.NotFound("user") // a machine client, for one, is no account
	}
	return name, err
}

// Setup makes a new secret for somebody who is signed in. The error is 409
// “mfa_on” if the second factor is on.
func (s *Service) Setup(ctx context.Context, id string) (secret []byte, err error) {
	return s.setup(ctx, id, func(tx *db.Tx) error {
		l, found, err := account.ReadLogin(tx, id)
		switch {
		case err != nil:
			return err
		case !found:
			return sallyport.NotFound("user") // a machine client, for one, is no account
		case l.MFA:
			return mfaOn()
		}
		return nil
	})
}

// SetupPending makes a new secret for somebody who is signing in, of whom a second
// factor is demanded: the mfa_token says who. It returns their id too. Errors:
// *authn.Refused for a token that is not good, and 409 “mfa_on” if it is one of an
// account that has a second factor.
func (s *Service) SetupPending(ctx context.Context, token string) (secret []byte, id string, err error) {
	began := time.Now()
	secret, id, err = s.setupPending(ctx, token)
	s.noteRefusal(ctx, err)
	s.hold(ctx, began, err)
	return secret, id, err
}

func (s *Service) setupPending(ctx context.Context, token string) (secret []byte, id string, err error) {
	p, err := s.tryPending(ctx, token)
	if err != nil {
		return nil, "", err
	}
	if !p.setup {
		return nil, "", mfaOn()
	}
	if err := s.cfg.Accounts.Follow(ctx, p.subject); err != nil {
		return nil, "", err
	}
	secret, err = s.setup(ctx, p.subject, func(tx *db.Tx) error {
		if _, found, err := readPending(tx, p.digest); err != nil {
			return err
		} else if !found {
			return &authn.Refused{Reason: over, Subject: p.subject}
		}
		now, found, err := account.ReadLogin(tx, p.subject)
		if err == nil && (!found || !s.stands(p, now)) {
			err = &authn.Refused{Reason: changed, Subject: p.subject}
		}
		return err
	})
	return secret, p.subject, err
}

func (s *Service) setup(ctx context.Context, id string, allowed func(*db.Tx) error) (secret []byte, err error) {
	secret, ok, err := s.cfg.Factors.Setup(ctx, id, func(tx *db.Tx) error {
		if err := allowed(tx); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "mfa.set_up", Target: id, Actor: id})
	})
	if err == nil && !ok {
		err = mfaOn()
	}
	return secret, err
}

// Verify takes a code from somebody who is signed in, in the session that they
// are. If the second factor is being set up, it is on from now on: the recovery
// codes are returned, all other sessions and all sign-ins under way end, and so
// every session of the account has proved it. The session is stepped up. Errors:
// 400 “invalid_2fa_code”, 409 “mfa_off”, 429 “too_many_attempts”.
func (s *Service) Verify(ctx context.Context, id, sessionID, code string) (recovery []string, err error) {
	codes := totp.NewRecoveryCodes()
	err = s.proveOwn(ctx, id, code, true, func(tx *db.Tx, f totp.Factor) error {
		recovery = nil // nothing of an earlier run
		if f.SettingUp() {
			if err := s.enrol(ctx, tx, f, id, sessionID, codes); err != nil {
				return err
			}
			recovery = codes
		}
		alive, err := s.cfg.Sessions.StepUp(ctx, tx, id, sessionID)
		if err == nil && !alive {
			err = authn.InvalidToken()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return recovery, nil
}

func (s *Service) enrol(ctx context.Context, tx *db.Tx, f totp.Factor, id, sessionID string, codes []string) error {
	for _, step := range []func() (bool, error){
		func() (bool, error) { return f.Confirm(tx) },
		func() (bool, error) { return account.SetMFA(tx, id, true, s.cfg.Now()) },
	} {
		if ok, err := step(); err != nil {
			return err
		} else if !ok { // another request was first
			return mfaOn()
		}
	}
	if err := s.cfg.Factors.ReplaceRecoveryCodes(tx, id, codes); err != nil {
		return err
	}
	if err := s.cutOff(ctx, tx, id, sessionID, "a second factor was set up"); err != nil {
		return err
	}
	if err := s.cfg.Mail.Notify(ctx, tx, id, mail.SecondFactorOn, mail.Facts{}); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "mfa.enabled", Target: id, Actor: id})
}

// cutOff ends what stands on how an account was signed in to until now.
func (s *Service) cutOff(ctx context.Context, tx *db.Tx, id, keep, reason string) error {
	if err := deletePendingOf(tx, id); err != nil {
		return err
	}
	return s.cfg.Sessions.EndAll(ctx, tx, id, keep, reason)
}

// NewRecoveryCodes replaces somebody's recovery codes. It needs a code.
func (s *Service) NewRecoveryCodes(ctx context.Context, id, code string) ([]string, error) {
	codes := totp.NewRecoveryCodes()
	err := s.proveOwn(ctx, id, code, false, func(tx *db.Tx, _ totp.Factor) error {
		if err := s.cfg.Factors.ReplaceRecoveryCodes(tx, id, codes); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "mfa.recovery_codes_replaced", Target: id})
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}

// Disable switches somebody's second factor off. It needs a code. All other
// sessions end; the one that asks goes on as what it was, unless a second factor is
// demanded of them: then it is good for setting up another.
func (s *Service) Disable(ctx context.Context, id, sessionID, code string) error {
	return s.proveOwn(ctx, id, code, false, func(tx *db.Tx, _ totp.Factor) error {
		if _, err := s.forget(ctx, tx, id, sessionID, "the second factor was switched off"); err != nil {
			return err
		}
		if owes, err := s.owes(tx, id); err != nil {
			return err
		} else if owes {
			if err := s.cfg.Sessions.StepDown(tx, id, sessionID); err != nil {
				return err
			}
		}
		return audit.Append(ctx, tx, audit.Event{Action: "mfa.disabled", Target: id})
	})
}

// Reset forgets an account's second factor for the operator, and ends all its
// sessions: who has lost a device may have lost more. The error is 404 if there
// is none.
func (s *Service) Reset(ctx context.Context, id string) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		was, err := s.forget(ctx, tx, id, "", "the second factor was reset")
		if err != nil {
			return err
		}
		if !was {
			return sallyport.NotFound("second factor")
		}
		return audit.Append(ctx, tx, audit.Event{Action: "mfa.reset", Target: id})
	})
}

func (s *Service) forget(ctx context.Context, tx *db.Tx, id, keep, reason string) (was bool, err error) {
	if _, err := totp.Delete(tx, id); err != nil {
		return false, err
	}
	if was, err = account.SetMFA(tx, id, false, s.cfg.Now()); err != nil {
		return false, err
	}
	if was {
		if err := s.cfg.Mail.Notify(ctx, tx, id, mail.SecondFactorOff, mail.Facts{}); err != nil {
			return false, err
		}
	}
	return was, s.cutOff(ctx, tx, id, keep, reason)
}

// proveOwn does something for somebody who is signed in and whose code is good,
// in the transaction that uses it up. Codes that fail count as at a sign-in; one
// that is good does not let failures be forgotten, for it is not the password.
func (s *Service) proveOwn(ctx context.Context, id, code string, settingUp bool, do func(*db.Tx, totp.Factor) error) error {
	f, err := s.cfg.Factors.Load(ctx, id, plain(code))
	if err != nil {
		return err
	}
	if !f.Confirmed() && !(settingUp && f.SettingUp()) {
		return mfaOff()
	}
	try, err := s.cfg.Lockout.Begin(ctx, lockout.Who{Subject: id})
	if err != nil {
		s.counts.codes.Add("own", outcome(err))
		return err
	}
	defer try.End(ctx)
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.use(ctx, tx, f, id, code); err != nil {
			return err
		}
		return do(tx, f)
	})
	s.counts.codes.Add("own", outcome(err))
	if _, wrong := err.(*WrongCode); !wrong {
		return err
	}
	if err := try.Failure(ctx, func(tx *db.Tx) error {
		return audit.Append(ctx, tx, audit.Event{Action: "mfa.refused", Result: audit.Failure, Target: id, Reason: wrongCode})
	}); err != nil {
		return err
	}
	return invalidOwnCode()
}

// Cleanup says what is old: sign-ins that were not gone on with, devices that were
// not seen for long, and secrets that were shown and never confirmed.
func (s *Service) Cleanup() []cleanup.Step {
	return append([]cleanup.Step{
		{Table: "sp_pending_signins", Delete: deleteExpiredPending},
		{Table: "sp_devices", Delete: func(tx *db.Tx, before time.Time, limit int) (int64, error) {
			return deleteOldDevices(tx, before.Add(-deviceFor), limit)
		}},
	}, s.cfg.Factors.Cleanup()...)
}
