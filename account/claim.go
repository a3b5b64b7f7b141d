package account

import (
	"context"
	"strconv"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/db"
)

// Claim makes an account that of whoever reads the mail of its address, and has
// shown it. If that was not known before, somebody else may have registered with
// the address, and everything they put there would let them in later: the
// password, the second factor, sessions, API keys and tokens that were mailed are
// gone. An account whose address was verified stays as it is.
func (s *Service) Claim(ctx context.Context, tx *db.Tx, id string) error {
	l, found, err := ReadLogin(tx, id)
	if err != nil {
		return err
	}
	if !found {
		return sallyport.NotFound("user")
	}
	if l.Verified {
		return nil
	}
	if _, err := claim(tx, id, s.cfg.Now()); err != nil {
		return err
	}
	if _, err := totp.Delete(tx, id); err != nil {
		return err
	}
	keys, err := apikey.DeleteAll(tx, id)
	if err != nil {
		return err
	}
	if err := s.cfg.Links.Void(tx, id); err != nil {
		return err
	}
	if err := s.cfg.Lockout.Forget(tx, id); err != nil { // networks that are familiar are the other's
		return err
	}
	if s.cfg.ForgetDevices != nil { // and so are devices
		if err := s.cfg.ForgetDevices(tx, id); err != nil {
			return err
		}
	}
	if err := s.cfg.Sessions.EndAll(ctx, tx, id, "", "the address was verified by who had not registered"); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "account.claimed", Target: id, Detail: map[string]string{
		"password": strconv.FormatBool(l.Hash != ""), "second_factor": strconv.FormatBool(l.MFA), "api_keys": strconv.FormatInt(keys, 10),
	}})
}
