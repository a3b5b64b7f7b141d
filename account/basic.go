package account

import (
	"crypto/sha256"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

// HashID names a stored password hash without telling it. A password that was
// checked against a hash counts for as long as that is the one stored.
func HashID(hash string) (id [16]byte) {
	d := sha256.Sum256([]byte(hash))
	copy(id[:], d[:])
	return id
}

// ConfirmPassword reads what somebody may do whose password was checked before:
// authn.Basic.
func (s *Service) ConfirmPassword(rd db.Reader, v authn.Verified) (authn.State, error) {
	hash, st, found, err := passwordState(rd, v.Subject, s.cfg.VerifyAddress)
	switch {
	case err != nil:
		return authn.State{}, err
	case !found:
		return authn.State{}, &authn.Refused{Reason: "the account is gone, disabled, not verified, or has a second factor", Subject: v.Subject}
	case HashID(hash) != v.Unit:
		return authn.State{}, authn.ErrAgain // the password was changed, or hashed anew
	}
	return st, nil
}
