package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
)

// letterWait is when it makes sense to ask for a letter again.
const letterWait = 15 * time.Minute

// registration is an account that somebody asked for and whose address has not
// been shown to be theirs: the payload of a link.Registration. No account is made
// before, so nobody can put anything into an account on somebody else's address,
// nobody takes a user name by it, and nobody keeps the person from registering.
type registration struct {
	Email    string  `json:"email"`
	Username *string `json:"username,omitempty"`
	FullName *string `json:"full_name,omitempty"`
	Hash     string  `json:"hash"` // of the password that was chosen with it
}

func readRegistration(payload string) (reg registration, ok bool) {
	return reg, payload != "" && json.Unmarshal([]byte(payload), &reg) == nil
}

// RegisterSilently takes a registration and sends a letter to the address. Whoever
// registers is told the same, after the same work, whether the address has an
// account or not; who has one is told of it in the letter. The account is made when
// the address is verified (Verify).
//
// A user name that is taken is refused, 409 “username_taken”. That tells nothing of
// addresses, because it is asked whatever the address is, and because a user name is
// taken by an account and never by a registration.
func (s *Service) RegisterSilently(ctx context.Context, in NewUser) error {
	if err := s.mayRegister(); err != nil {
		return err
	}
	in.Invitation = false
	k, err := in.check()
	if err != nil {
		return err
	}
	if !s.cfg.Mail.Enabled() {
		return mailOff()
	}
	hash, err := s.cfg.Passwords.Hash(ctx, in.Password)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(registration{in.Email, in.Username, in.FullName, hash})
	if err != nil {
		return err
	}
	secrets := newSecrets(link.Registration, link.Verify)
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if k.username != nil {
			if taken, err := usernameTaken(tx, *k.username); err != nil {
				return err
			} else if taken {
				return usernameIsTaken()
			}
		}
		a, known, err := readByAddress(tx, k.email)
		if err != nil {
			return err
		}
		p, g := link.Registration, link.Grant{Address: k.email}
		l := mail.Letter{Kind: mail.Verify, Subject: a.ID}
		switch {
		case !known:
			g.Payload, l.To = string(payload), in.Email
		case a.Disabled: // nobody is written to
		case a.Verified:
			l.Kind, l.To = mail.AccountExists, a.Email
		default: // that account is theirs if the address is, and not what they have just chosen
			p, g, l.To = link.Verify, a.grant(link.Verify), a.Email
		}
		l.Facts.Name = a.Name
		if l.Kind == mail.Verify {
			l.Facts.Token = secrets[p].Token
		}
		if _, err := s.send(ctx, tx, secrets[p], g, l); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "registration.requested", Target: a.ID})
	})
}

func usernameIsTaken() error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "username_taken",
		Message: "There is already an account with this user name. Nothing was done. Choose another, or none.",
	}
}

// Verified is an account whose address has been shown to be its person's.
type Verified struct {
	User
	PasswordSet bool `json:"password_set" doc:"The account has a password. If not, the person chooses one with POST /auth/forgot-password"`
}

// Verify takes the token of a letter that asked whether an address is its person's:
// a registration's, an account's, or the new one of an account.
//
// Who has the token reads the mail of the address. That they are also who chose the
// password, and whatever else is there, is shown by the password, or by being signed
// in to the account: signedIn is the id of whoever is. Without either, what is there
// may be somebody else's, who knew the address: it is thrown away (Claim), and a new
// password is chosen with Forgot. A new address of an account needs one of the two.
//
// A password that is sent and wrong is 401 “wrong_password”, counts like one at a
// sign-in, and uses nothing up.
func (s *Service) Verify(ctx context.Context, token, pw, signedIn string) (Verified, error) {
	view := s.cfg.DB.View(ctx)
	// Its prefix tells a token from those of other purposes, without a look into the
	// database.
	for _, kind := range []struct {
		link.Purpose
		verify func(ctx context.Context, token string, g link.Grant, pw, signedIn string) (Verified, error)
	}{{link.Registration, s.verifyRegistration}, {link.Verify, s.verifyAccount}, {link.Address, s.verifyAddress}} {
		g, ok, err := s.cfg.Links.Find(view, kind.Purpose, token)
		if err != nil {
			return Verified{}, err
		}
		if !ok {
			continue
		}
		v, err := kind.verify(ctx, token, g, pw, signedIn)
		if errors.Is(err, errDead) {
			break
		}
		return v, err
	}
	return Verified{}, s.refusedToken(ctx)
}

// errDead says that a token is not good any more.
var errDead = errors.New("the token is not good any more")

// used uses a token up, in a transaction, and returns the account that it is for,
// which must be what it was when the letter was written.
func (s *Service) used(tx *db.Tx, p link.Purpose, token string) (a addressee, g link.Grant, err error) {
	g, ok, err := s.cfg.Links.Use(tx, p, token)
	if err != nil {
		return a, g, err
	}
	if !ok {
		return a, g, errDead
	}
	a, found, err := readAddressee(tx, g.Subject)
	if err == nil && (!found || a.Disabled || !bytes.Equal(g.Bound, a.bound(p))) {
		err = errDead
	}
	return a, g, err
}

// prove tests a password of somebody who has a token, as it is tested at a sign-in.
// A password that is right does not let failures be forgotten: only a whole sign-in
// does.
func (s *Service) prove(ctx context.Context, who lockout.Who, hash, pw string) error {
	try, err := s.cfg.Lockout.Begin(ctx, who)
	if err != nil {
		return err
	}
	defer try.End(ctx)
	res, err := s.cfg.Passwords.Verify(ctx, hash, pw)
	if err != nil || res.OK {
		return err
	}
	if err := try.Failure(ctx, func(tx *db.Tx) error {
		return audit.Append(ctx, tx, audit.Event{Action: "address.verified", Result: audit.Failure, Target: who.Subject, Reason: "the password is wrong"})
	}); err != nil {
		return err
	}
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "wrong_password",
		Message: "The password is not the one that was chosen for this account. Nothing was changed, and the link is still good. Leave the password out if you did not choose one, or do not know it.",
	}
}

// verifyRegistration makes the account. Whose password does not come along did not
// register: of what was registered, the address is theirs and nothing else. Where
// registering has been switched off meanwhile, none is made.
func (s *Service) verifyRegistration(ctx context.Context, token string, g link.Grant, pw, _ string) (Verified, error) {
	if err := s.mayRegister(); err != nil {
		return Verified{}, err
	}
	reg, ok := readRegistration(g.Payload)
	key, valid := EmailKey(reg.Email)
	if !ok || !valid {
		return Verified{}, errDead
	}
	in, k, hash := NewUser{Email: reg.Email, EmailVerified: true}, keys{email: key}, ""
	if pw != "" {
		if err := s.prove(ctx, lockout.Who{Name: LoginName(reg.Email)}, reg.Hash, pw); err != nil {
			return Verified{}, err
		}
		in.Username, in.FullName, hash = reg.Username, reg.FullName, reg.Hash
		if in.Username != nil {
			name, _ := UsernameKey(*in.Username) // checked when it was registered
			k.username = &name
		}
	}
	fresh := s.fresh(in)
	u := fresh
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, ok, err := s.cfg.Links.Use(tx, link.Registration, token); err != nil {
			return err
		} else if !ok {
			return errDead
		}
		if _, taken, err := readByAddress(tx, key); err != nil {
			return err
		} else if taken { // another letter's link was first
			return errDead
		}
		if k.username != nil {
			if taken, err := usernameTaken(tx, *k.username); err != nil {
				return err
			} else if taken {
				return usernameGone()
			}
		}
		if err := s.add(tx, fresh, k, hash); err != nil {
			return err
		}
		if err := s.cfg.Links.VoidAddress(tx, key, link.Registration); err != nil {
			return err
		}
		var err error
		if u, _, err = readUser(tx, fresh.ID); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "account.registered", Target: u.ID, Detail: map[string]string{"roles": "user", "password": yesNo(hash != "")}})
	})
	return Verified{u, hash != ""}, err
}

func usernameGone() error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "username_taken",
		Message: "Somebody else has taken the user name since you registered. Nothing was done. Register again with another, or leave the password out here: then the account has no user name, and you choose a password with the next letter.",
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (s *Service) verifyAccount(ctx context.Context, token string, g link.Grant, pw, signedIn string) (Verified, error) {
	proved, checked, err := s.provedOwn(ctx, g.Subject, pw, signedIn)
	if err != nil {
		return Verified{}, err
	}
	var v Verified
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		a, _, err := s.used(tx, link.Verify, token)
		if err != nil {
			return err
		}
		if proved && checked != "" && a.hash != checked {
			return changedMeanwhile()
		}
		if proved {
			err = s.verified(ctx, tx, a)
		} else {
			err = s.Claim(ctx, tx, a.ID)
		}
		if err != nil {
			return err
		}
		v, err = readVerified(tx, a.ID)
		return err
	})
	return v, err
}

// provedOwn reports whether somebody has shown that an account is theirs, and
// returns the hash that their password was checked against, if it was.
func (s *Service) provedOwn(ctx context.Context, id, pw, signedIn string) (proved bool, checked string, err error) {
	if pw == "" {
		return signedIn == id, "", nil
	}
	a, found, err := readAddressee(s.cfg.DB.View(ctx), id)
	if err != nil {
		return false, "", err
	}
	if !found {
		return false, "", errDead
	}
	return true, a.hash, s.prove(ctx, lockout.Who{Subject: id}, a.hash, pw)
}

func readVerified(tx *db.Tx, id string) (v Verified, err error) {
	l, _, err := ReadLogin(tx, id)
	if err != nil {
		return v, err
	}
	v.PasswordSet = l.Hash != ""
	v.User, _, err = readUser(tx, id)
	return v, err
}

// verified notes that an account's address is its person's, whose everything else is
// too.
func (s *Service) verified(ctx context.Context, tx *db.Tx, a addressee) error {
	if err := s.cfg.Links.Void(tx, a.ID, link.Verify); err != nil || a.Verified {
		return err
	}
	if err := markVerified(tx, a.ID, s.cfg.Now()); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "address.verified", Target: a.ID})
}

// addressChange is a new address that somebody wants for their account.
type addressChange struct {
	email, key string
	secret     link.Secret
}

// askForAddress sends a letter to a new address, and tells the one before. The same
// is done and answered if the new one has an account: its person is told.
func (s *Service) askForAddress(ctx context.Context, tx *db.Tx, u User, c addressChange) error {
	a, found, err := readAddressee(tx, u.ID)
	if err != nil || !found {
		return err
	}
	asked, err := s.cfg.Links.Letters(tx, u.ID)
	if err != nil {
		return err
	}
	n, day := 0, s.cfg.Now().Add(-24*time.Hour)
	for _, l := range asked {
		if l.Purpose == link.Address && l.Created.After(day) {
			n++
		}
	}
	if n >= maxAddressChanges {
		return tooManyLetters()
	}
	holder, taken, err := readByAddress(tx, c.key)
	if err != nil {
		return err
	}
	g := link.Grant{Subject: a.ID, Address: c.key, Bound: a.bound(link.Address), Payload: c.email}
	l := mail.Letter{Kind: mail.ChangeAddress, To: c.email, Subject: a.ID, Facts: mail.Facts{Name: a.Name, Token: c.secret.Token}}
	switch {
	case taken && holder.ID != a.ID && holder.Disabled:
		l = mail.Letter{Kind: mail.AccountExists}
	case taken && holder.ID != a.ID:
		l = mail.Letter{Kind: mail.AccountExists, To: holder.Email, Subject: holder.ID, Facts: mail.Facts{Name: holder.Name}}
	}
	sent, err := s.send(ctx, tx, c.secret, g, l)
	if err == nil && sent {
		err = s.cfg.Mail.Notify(ctx, tx, a.ID, mail.AddressChanging, mail.Facts{Address: c.email})
	}
	if err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "address.change_requested", Target: a.ID})
}

// maxAddressChanges is how many new addresses an account may ask for in a day:
// otherwise it could have any number of strangers written to.
const maxAddressChanges = 10

// verifyAddress changes an account's address to one that has been shown to be
// somebody's. That they are the account's person needs to be shown too: a letter to a
// mistyped address would give the account away.
func (s *Service) verifyAddress(ctx context.Context, token string, g link.Grant, pw, signedIn string) (Verified, error) {
	proved, checked, err := s.provedOwn(ctx, g.Subject, pw, signedIn)
	if err != nil {
		return Verified{}, err
	}
	if !proved {
		return Verified{}, sallyport.Invalid(sallyport.Field{
			Pointer: "/password", Code: "required", Detail: "Send the account's password: whoever gets this letter by mistake must not get the account.",
		})
	}
	var v Verified
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		a, g, err := s.used(tx, link.Address, token)
		if err != nil {
			return err
		}
		if checked != "" && a.hash != checked {
			return changedMeanwhile()
		}
		key, ok := EmailKey(g.Payload)
		if !ok {
			return errDead
		}
		if holder, taken, err := readByAddress(tx, key); err != nil {
			return err
		} else if taken && holder.ID != a.ID {
			return exists()
		}
		yes := true
		change := Change{Email: &g.Payload, EmailVerified: &yes}
		u, _, err := readUser(tx, a.ID)
		if err != nil {
			return err
		}
		before := u
		u.Email, u.EmailVerified, u.UpdatedAt = g.Payload, true, s.cfg.Now()
		if err := updateAccount(tx, u, change, keys{email: key}); err != nil {
			return err
		}
		if err := s.readdressed(ctx, tx, before, u, link.Secret{}); err != nil {
			return err
		}
		if v, err = readVerified(tx, a.ID); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "address.changed", Target: a.ID})
	})
	return v, err
}

// readdressed is what follows when an account has another address: letters to the
// one before are worth nothing, and its person is told there. toVerify is for the
// new one, if it has to be verified.
func (s *Service) readdressed(ctx context.Context, tx *db.Tx, before, u User, toVerify link.Secret) error {
	if err := s.cfg.Links.Void(tx, u.ID); err != nil {
		return err
	}
	r, _, err := Recipient(tx, u.ID)
	if err != nil {
		return err
	}
	if err := s.cfg.Mail.Tell(ctx, tx, mail.Letter{
		Kind: mail.AddressChanged, To: before.Email, Subject: u.ID, Facts: mail.Facts{Name: r.Name, Address: u.Email},
	}); err != nil {
		return err
	}
	if u.EmailVerified || !s.cfg.VerifyAddress {
		return nil
	}
	return s.write(ctx, tx, u.ID, toVerify, mail.Verify)
}

func changedMeanwhile() error {
	return &sallyport.Error{Status: http.StatusConflict, Code: "changed_meanwhile", Message: "The password was changed at the same time by another request. Try again with the new one."}
}
