package account

import (
	"context"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// Replacement is what is changed of an account together: all of it or nothing.
type Replacement struct {
	Change
	Password *string
	Admin    *bool // whether it was given the role admin; only with an actor
	// Keep is the session that goes on when a new password ends all others.
	Keep string
}

// Replace changes an account as Update does, and with it its password, without
// asking for the one before: who calls it has made sure that somebody signed in a
// moment ago. actor is nil for the account's own person.
func (s *Service) Replace(ctx context.Context, actor *role.Actor, id string, in Replacement) (User, error) {
	write := func(ctx context.Context, last func(*db.Tx) error) error {
		_, err := s.update(ctx, actor, id, in.Change, func(tx *db.Tx) error {
			if err := setAdmin(ctx, tx, actor, id, in.Admin); err != nil {
				return err
			}
			return last(tx)
		})
		return err
	}
	if in.Password == nil {
		if err := write(ctx, func(*db.Tx) error { return nil }); err != nil {
			return User{}, err
		}
		return s.Get(ctx, id)
	}
	if in.Email != nil { // before the password is, and before anything is hashed
		if _, f := checkEmail(*in.Email); f != nil {
			return User{}, sallyport.Invalid(*f)
		}
	}
	u, stored, err := s.passwordOf(ctx, id)
	if err != nil {
		return User{}, err
	}
	if err := s.setPassword(ctx, write, u, stored, in.Keep, "/password", *in.Password); err != nil {
		return User{}, err
	}
	return s.Get(ctx, id)
}

// setAdmin gives or takes the role admin, if that is asked for.
func setAdmin(ctx context.Context, tx *db.Tx, actor *role.Actor, id string, admin *bool) error {
	switch {
	case actor == nil || admin == nil:
		return nil
	case *admin:
		return role.Grant(ctx, tx, *actor, id, role.Admin)
	}
	return role.Revoke(ctx, tx, *actor, id, role.Admin)
}
