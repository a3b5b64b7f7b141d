package account

import (
	"context"
	"crypto/sha256"
	"net/http"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
)

// mailOff is the answer to everything that takes a letter, where there are none.
func mailOff() error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "mail_off",
		Message: "This server sends no mail, so this cannot be done here. Ask the operator.",
	}
}

// invalidToken is the one answer to a token of a letter that is not good.
func invalidToken() error {
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "invalid_token",
		Message: "This link is not good, or not any more: each is good once and for half an hour at most, and not after the address or the password was changed. Ask for another.",
	}
}

// tooManyLetters is the answer to who is known and would have more letters sent
// than may be.
func tooManyLetters() error {
	return &sallyport.Error{
		Status: http.StatusTooManyRequests, Code: "too_many_letters", RetryAfter: letterWait, Quota: `"letters-of-address";q=3;w=900`,
		Message: "As many letters as may be were sent already: to one address three in a quarter of an hour, and ten a day. Nothing was changed. Look for them, or try again later.",
	}
}

// addressee is an account as letters and their tokens need it.
type addressee struct {
	ID       string
	Email    string
	Name     string
	Verified bool
	Disabled bool

	key  string // EmailKey of Email
	hash string
}

// bound names what of an account must be as it was when a token is used: the
// address that it was sent to or for and, where it sets a password, the password.
func (a addressee) bound(p link.Purpose) []byte {
	text := string(p) + "\x00" + a.key
	if p == link.Reset || p == link.Invitation {
		text += "\x00" + a.hash
	}
	d := sha256.Sum256([]byte(text))
	return d[:]
}

// newSecrets makes tokens before the transaction that decides which of them is
// stored.
func newSecrets(purposes ...link.Purpose) map[link.Purpose]link.Secret {
	out := map[link.Purpose]link.Secret{}
	for _, p := range purposes {
		out[p] = link.Make(p)
	}
	return out
}

// send stores a token and queues the letter with it or, if the address has had as
// many as it may, a decoy of the same cost. Every way to a letter that a stranger
// may ask for ends here, so that it does the same work whether there is an account
// or not.
func (s *Service) send(ctx context.Context, tx *db.Tx, secret link.Secret, g link.Grant, l mail.Letter) (sent bool, err error) {
	l.Until = s.cfg.Now().Add(link.MaxLife)
	if sent, err = s.cfg.Links.Store(tx, secret, g, link.MaxLife); err != nil {
		return false, err
	}
	if !sent {
		l.To, l.Subject, l.Facts = "", "", mail.Facts{}
	}
	return sent, s.cfg.Mail.Queue(ctx, tx, l)
}

// write sends a letter with a token to an account's own address; without mail it
// does nothing.
func (s *Service) write(ctx context.Context, tx *db.Tx, id string, secret link.Secret, k mail.Kind) error {
	if !s.cfg.Mail.Enabled() {
		return nil
	}
	_, err := s.writeTo(ctx, tx, id, secret, k)
	return err
}

// mustWrite is write for somebody who is to know if nothing is sent.
func (s *Service) mustWrite(ctx context.Context, tx *db.Tx, id string, secret link.Secret, k mail.Kind) error {
	sent, err := s.writeTo(ctx, tx, id, secret, k)
	if err == nil && !sent {
		err = tooManyLetters()
	}
	return err
}

func (s *Service) writeTo(ctx context.Context, tx *db.Tx, id string, secret link.Secret, k mail.Kind) (sent bool, err error) {
	a, found, err := readAddressee(tx, id)
	if err != nil || !found {
		return false, err
	}
	return s.send(ctx, tx, secret, a.grant(secret.Purpose), a.letter(k, secret))
}

func (a addressee) grant(p link.Purpose) link.Grant {
	return link.Grant{Subject: a.ID, Address: a.key, Bound: a.bound(p)}
}

func (a addressee) letter(k mail.Kind, secret link.Secret) mail.Letter {
	return mail.Letter{Kind: k, To: a.Email, Subject: a.ID, Facts: mail.Facts{Name: a.Name, Token: secret.Token}}
}

// RequestVerify sends a letter that asks whether an address is its person's, if
// there is an account, or a registration, with it that waits for that. The answer
// is nil for every address, after the same work.
func (s *Service) RequestVerify(ctx context.Context, email string) error {
	return s.request(ctx, email, audit.Event{Action: "verification.requested"}, mail.Verify, newSecrets(link.Verify, link.Registration),
		func(tx *db.Tx, a addressee, key string) (p link.Purpose, g link.Grant, to string, err error) {
			payload, err := s.cfg.Links.Latest(tx, key)
			if err != nil {
				return "", g, "", err
			}
			reg, registered := readRegistration(payload)
			switch {
			case a.ID != "" && !a.Verified:
				return link.Verify, a.grant(link.Verify), a.Email, nil
			case a.ID == "" && registered && s.mayRegister() == nil:
				return link.Registration, link.Grant{Address: key, Payload: payload}, reg.Email, nil
			}
			return link.Verify, link.Grant{Address: key}, "", nil
		})
}

// Forgot sends a letter with which a new password can be chosen, if there is an
// account. The answer is nil for every address, after the same work.
func (s *Service) Forgot(ctx context.Context, email string) error {
	return s.request(ctx, email, audit.Event{Action: "password.reset_requested"}, mail.Reset, newSecrets(link.Reset),
		func(_ *db.Tx, a addressee, key string) (link.Purpose, link.Grant, string, error) {
			if a.ID == "" {
				return link.Reset, link.Grant{Address: key}, "", nil
			}
			return link.Reset, a.grant(link.Reset), a.Email, nil
		})
}

// request is how a stranger has a letter sent to an address. choose says what the
// token is for, what it grants, and to whom it goes: "" for nobody.
func (s *Service) request(ctx context.Context, email string, event audit.Event, k mail.Kind, secrets map[link.Purpose]link.Secret,
	choose func(tx *db.Tx, a addressee, key string) (link.Purpose, link.Grant, string, error),
) error {
	key, f := checkEmail(email)
	if f != nil {
		return sallyport.Invalid(*f)
	}
	if !s.cfg.Mail.Enabled() {
		return mailOff()
	}
	began := time.Now()
	who, err := s.Locate(ctx, email)
	if err != nil {
		return err
	}
	if who.own {
		defer settle(ctx, began)
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		a, err := who.reachable(tx, key)
		if err != nil {
			return err
		}
		p, g, to, err := choose(tx, a, key)
		if err != nil {
			return err
		}
		who := lockout.Who{Subject: a.ID}
		if a.ID == "" {
			who.Name = LoginName(email)
		}
		familiar, err := s.cfg.Lockout.Familiar(ctx, tx, who)
		if err != nil {
			return err
		}
		g.Familiar = familiar && a.Verified // otherwise the address may be a stranger's
		l := mail.Letter{Kind: k, To: to, Subject: a.ID, Facts: mail.Facts{Name: a.Name, Token: secrets[p].Token}}
		if _, err := s.send(ctx, tx, secrets[p], g, l); err != nil {
			return err
		}
		event.Target = a.ID
		return audit.Append(ctx, tx, event)
	})
}

// readReachable returns the account of an address. One that is disabled is as good
// as none: nobody writes to it.
func readReachable(rd db.Reader, key string) (addressee, error) {
	a, _, err := readByAddress(rd, key)
	if a.Disabled {
		a = addressee{}
	}
	return a, err
}

// refusedToken records that a token was not good, and returns the answer.
func (s *Service) refusedToken(ctx context.Context) error {
	s.cfg.Refusals.Note(ctx, audit.Event{Action: "mail_token.refused", Result: audit.Failure, Reason: "there is no such token, or not any more"})
	return invalidToken()
}
