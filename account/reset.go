package account

import (
	"context"
	"errors"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
)

// Reset chooses a new password with the token of a letter. All sessions and all
// other letters end, and the address is verified. What somebody else may have put
// into an account whose address was not is removed, as by Claim. A second factor of
// one whose address was verified stays: a letter is no way round it.
func (s *Service) Reset(ctx context.Context, token, pw string) (User, error) {
	if s.cfg.Users != nil {
		return s.resetOwn(ctx, token, pw)
	}
	return s.choose(ctx, link.Reset, token, pw, Change{})
}

// Acceptance is what somebody who was invited makes of the account.
type Acceptance struct {
	Token, Password    string
	Username, FullName *string // nil: as the invitation has it
}

// Accept takes the token of an invitation: its person chooses the password, and the
// address is verified.
func (s *Service) Accept(ctx context.Context, in Acceptance) (User, error) {
	var c Change
	if in.Username != nil {
		c.Username = &in.Username
	}
	if in.FullName != nil {
		c.FullName = &in.FullName
	}
	return s.choose(ctx, link.Invitation, in.Token, in.Password, c)
}

// choose sets the password of an account with a token that is for that.
func (s *Service) choose(ctx context.Context, p link.Purpose, token, pw string, c Change) (User, error) {
	view := s.cfg.DB.View(ctx)
	g, ok, err := s.cfg.Links.Find(view, p, token)
	if err != nil {
		return User{}, err
	}
	var u User
	if ok {
		if u, ok, err = readUser(view, g.Subject); err != nil {
			return User{}, err
		}
	}
	if !ok {
		return User{}, s.refusedToken(ctx)
	}
	var k keys
	var fields []sallyport.Field
	if c.Username != nil {
		key, f := checkUsername(**c.Username)
		if k.username = &key; f != nil {
			fields = append(fields, *f)
		}
		u.Username = *c.Username
	}
	if c.FullName != nil {
		if f := checkFullName(**c.FullName); f != nil {
			fields = append(fields, *f)
		}
		u.FullName = *c.FullName
	}
	if f := checkPassword("/password", pw, u.own()...); f != nil {
		fields = append(fields, *f)
	}
	if fields != nil {
		return User{}, sallyport.Invalid(fields...)
	}
	hash, err := s.cfg.Passwords.Hash(ctx, pw)
	if err != nil {
		return User{}, err
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		a, _, err := s.used(tx, p, token)
		if err != nil {
			return err
		}
		if taken, err := namesTaken(tx, a.ID, c, k); err != nil {
			return err
		} else if taken {
			return usernameIsTaken()
		}
		if c != (Change{}) {
			now, _, err := readUser(tx, a.ID)
			if err != nil {
				return err
			}
			now.UpdatedAt = s.cfg.Now()
			if c.Username != nil {
				now.Username = *c.Username
			}
			if c.FullName != nil {
				now.FullName = *c.FullName
			}
			if err := updateAccount(tx, now, c, k); err != nil {
				return err
			}
		}
		if u, err = s.chosen(ctx, tx, a, hash); err != nil {
			return err
		}
		action := audit.Event{Action: "password.changed", Target: a.ID, Detail: map[string]string{"by": "letter"}}
		if p == link.Invitation {
			action = audit.Event{Action: "invitation.accepted", Target: a.ID}
		}
		return audit.Append(ctx, tx, action)
	})
	if errors.Is(err, errDead) {
		return User{}, s.refusedToken(ctx)
	}
	return u, err
}

// chosen stores the password that was chosen with a letter, and ends what stands on
// the one before.
func (s *Service) chosen(ctx context.Context, tx *db.Tx, a addressee, hash string) (u User, err error) {
	if a.Verified {
		if err := s.cfg.Sessions.EndAll(ctx, tx, a.ID, "", "password changed"); err != nil {
			return u, err
		}
		if err := s.cfg.Links.Void(tx, a.ID); err != nil {
			return u, err
		}
	} else if err := s.Claim(ctx, tx, a.ID); err != nil {
		return u, err
	}
	if err := setHash(tx, a.ID, hash, s.cfg.Now()); err != nil {
		return u, err
	}
	if a.hash != "" { // who was invited, or claimed the account, had none
		if err := s.cfg.Mail.Notify(ctx, tx, a.ID, mail.PasswordChanged, mail.Facts{}); err != nil {
			return u, err
		}
	}
	u, _, err = readUser(tx, a.ID)
	return u, err
}

// mayInvite returns why nobody can be invited.
func (s *Service) mayInvite() error {
	switch {
	case s.cfg.Registration == Closed:
		return invitationsClosed()
	case !s.cfg.Mail.Enabled():
		return mailOff()
	}
	return nil
}

func invitationsClosed() error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "registration_closed",
		Message: "Nobody is invited here: the server is configured with registration = closed. Make the account with a password, or ask the operator.",
	}
}
