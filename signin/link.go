package signin

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/session"
)

// Whoever reads the mail of an account's address may sign in with what is sent
// there: a link, or on another device the six digits beside it. The digits need the
// handle that the one who asked was given, so that they cannot be guessed by
// somebody else.

// mailSignInOff is the answer where it is not configured.
func mailSignInOff() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "mail_sign_in_off",
		Message: "Signing in by mail is switched off here. Sign in with a password.",
	}
}

// invalidLink is the answer to a link, or a handle and code, that is not good, for
// whatever reason.
func invalidLink() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_token",
		Message: "The link or code is not right, was used already, or is older than ten minutes; of five wrong codes in a row, none is looked at any more. Ask for another with POST /auth/request-link.",
	}
}

const notGood = "the link is not one of ours, was used, or is over"

// addressID names an address without telling it, as account.HashID does a hash:
// what was proved by reading its mail counts as long as it is the account's.
func addressID(emailKey string) (id [16]byte) {
	d := sha256.Sum256([]byte("address\x00" + emailKey))
	copy(id[:], d[:])
	return id
}

// setupID is addressID where a second factor is yet to be set up on the way. A new
// password ends that, too: who chose one has ended what others began with the mail,
// and there is no factor to keep them out.
func setupID(emailKey, hash string) (id [16]byte) {
	address, of := addressID(emailKey), account.HashID(hash)
	d := sha256.Sum256(append(address[:], of[:]...))
	copy(id[:], d[:])
	return id
}

// RequestLink has a link and a code sent to an address, if it is that of an account
// that may sign in, and returns the handle that the code is sent with. For every
// other address it does the same, and sends nothing. Errors: 403
// “mail_sign_in_off”, 422 “invalid_email”.
func (s *Service) RequestLink(ctx context.Context, email string) (handle string, err error) {
	if !s.cfg.MailSignIn {
		return "", mailSignInOff()
	}
	key, ok := account.EmailKey(email)
	if !ok {
		return "", sallyport.Invalid(sallyport.Field{Pointer: "/email", Code: "invalid_email", Detail: "Write one e-mail address, for example name@example.com."})
	}
	began := time.Now()
	secret := link.MakeWithCode(link.SignIn)
	who, err := s.cfg.Accounts.Locate(ctx, email)
	if err != nil {
		return "", err
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error { return s.sendLink(ctx, tx, secret, email, key, who) })
	if err != nil {
		return "", err
	}
	wait(ctx, answerGrid-time.Since(began)%answerGrid)
	return secret.Handle, nil
}

func (s *Service) sendLink(ctx context.Context, tx *db.Tx, secret link.Secret, email, key string, located account.Located) error {
	l, found, err := located.Login(tx)
	if err != nil {
		return err
	}
	// To the address as the account has it: the one that was written here may be
	// another, which is only compared as the same.
	r, _, err := account.Recipient(tx, l.ID)
	if err != nil {
		return err
	}
	who := identified{l, !found}
	familiar, err := s.cfg.Lockout.Familiar(ctx, tx, who.counted(email))
	if err != nil {
		return err
	}
	if found {
		key = l.EmailKey // a table of users may know them by another address, too
	}
	bound := addressID(key)
	g := link.Grant{Address: key, Familiar: familiar && l.Verified, Bound: bound[:], Payload: s.cfg.Lockout.Key(who.counted(email))}
	if found && !l.Disabled && s.mayProve(l) {
		g.Subject = l.ID
	}
	stored, err := s.cfg.Links.Store(tx, secret, g, link.CodeLife)
	if err != nil {
		return err
	}
	letter := mail.Letter{Kind: mail.SignIn, Facts: mail.Facts{Name: r.Name, Token: secret.Token, Code: secret.Code}, Until: s.cfg.Now().Add(link.CodeLife)}
	if stored && g.Subject != "" {
		letter.To, letter.Subject = r.Address, g.Subject
	}
	if err := s.cfg.Mail.Queue(ctx, tx, letter); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "link.requested", Target: l.ID})
}

// mayProve reports whether somebody can show by a letter that an address is theirs. In
// a table of users it is the table that knows whose it is.
func (s *Service) mayProve(l account.Login) bool { return l.Verified || !s.cfg.Accounts.OwnUsers() }

// LinkAttempt is what somebody sends who was sent a letter: the token of the link,
// or the code with its handle.
type LinkAttempt struct {
	Token        string
	Handle, Code string
	// Attempt is the rest of it; Login and Password are not looked at.
	Attempt
}

// Link signs in with what was mailed. It returns *authn.Refused for everything that
// must look the same from outside, and otherwise what Password does.
func (s *Service) Link(ctx context.Context, a LinkAttempt) (session.Tokens, error) {
	if !s.cfg.MailSignIn {
		return session.Tokens{}, mailSignInOff()
	}
	began := time.Now()
	t, err := s.link(ctx, a)
	s.counts.signIns.Add("mail", outcome(err))
	s.noteRefusal(ctx, err)
	s.hold(ctx, began, err)
	return t, err
}

// mailed is what was found of what somebody sent.
type mailed struct {
	link.Grant
	pending link.Pending // with a code
}

func (s *Service) link(ctx context.Context, a LinkAttempt) (session.Tokens, error) {
	var m mailed
	err := s.cfg.Guesses.Try(ctx, func() (err error) {
		m, err = s.findMailed(ctx, a)
		return err
	})
	if err != nil {
		return session.Tokens{}, err
	}
	try, err := s.cfg.Lockout.Begin(ctx, lockout.Who{Subject: m.Subject, Key: m.Payload})
	if err != nil {
		return session.Tokens{}, err
	}
	defer try.End(ctx)
	t, err := s.linked(ctx, try, m, a)
	if failed(err) {
		if ferr := try.Failure(ctx, nil); ferr != nil {
			return session.Tokens{}, ferr
		}
	}
	return t, err
}

func (s *Service) findMailed(ctx context.Context, a LinkAttempt) (m mailed, err error) {
	ok := false
	if a.Token != "" {
		m.Grant, ok, err = s.cfg.Links.Find(s.cfg.DB.View(ctx), link.SignIn, a.Token)
	} else {
		m.pending, ok, err = s.cfg.Links.FindByHandle(s.cfg.DB.View(ctx), link.SignIn, a.Handle)
		m.Grant = m.pending.Grant
	}
	if err == nil && !ok {
		err = &authn.Refused{Reason: notGood, Guess: true}
	}
	return m, err
}

// linked goes on as whoever reads the mail.
func (s *Service) linked(ctx context.Context, try *lockout.Attempt, m mailed, a LinkAttempt) (session.Tokens, error) {
	use := func(tx *db.Tx) (ok bool, err error) {
		_, ok, err = s.cfg.Links.Use(tx, link.SignIn, a.Token)
		return ok, err
	}
	if a.Token == "" {
		if err := s.checkCode(ctx, m, a); err != nil {
			return session.Tokens{}, err
		}
		use = func(tx *db.Tx) (ok bool, err error) {
			_, ok, err = s.cfg.Links.UsePending(tx, m.pending)
			return ok, err
		}
	}
	if err := s.cfg.Accounts.Follow(ctx, m.Subject); err != nil {
		return session.Tokens{}, err
	}
	l, found, err := account.ReadLogin(s.cfg.DB.View(ctx), m.Subject)
	if err != nil {
		return session.Tokens{}, err
	}
	bound := addressID(l.EmailKey)
	switch {
	case !found || string(bound[:]) != string(m.Bound):
		return session.Tokens{}, &authn.Refused{Reason: "the address is not the account's any more", Subject: m.Subject}
	case l.Disabled:
		return session.Tokens{}, &authn.Refused{Reason: disabled, Subject: l.ID}
	case !s.mayProve(l):
		return session.Tokens{}, &authn.Refused{Reason: "the address is not verified", Subject: l.ID}
	}
	return s.proceed(ctx, proven{identified: identified{Login: l}, method: session.Email, try: try, use: use}, a.Attempt)
}

// checkCode looks at a code, of as many as may be looked at. The try is stored
// before.
func (s *Service) checkCode(ctx context.Context, m mailed, a LinkAttempt) error {
	taken := false
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		taken, err = s.cfg.Links.TakeTry(tx, m.pending)
		return err
	})
	switch {
	case err != nil:
		return err
	case !taken:
		return &authn.Refused{Reason: over, Subject: m.Subject}
	case !s.cfg.Links.Matches(m.pending, a.Handle, strings.ReplaceAll(a.Code, " ", "")):
		return &authn.Refused{Reason: "the code of the letter is not right", Subject: m.Subject}
	}
	return nil
}
