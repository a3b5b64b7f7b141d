package signin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/mail"
)

// A device is the program that somebody signs in with and the network it is in:
// its user agent without the numbers, which change with every update, and the /24
// of an IPv4 address or the /48 of an IPv6 one. It is no proof of anything, and
// nothing depends on it but a letter.
const (
	// deviceFor is how long one is remembered that is not seen.
	deviceFor = 180 * 24 * time.Hour
	// maxDevices bounds what is remembered of an account; those seen last are kept.
	maxDevices = 50
	// maxToldDaily bounds the letters: somebody who travels is not pestered, and who
	// gets in by other ways of knowing the password cannot fill a mailbox.
	maxToldDaily = 5
	// seenEvery is how precisely it is known when a device was seen.
	seenEvery = 24 * time.Hour
)

// deviceOf returns the digest of the device that a request came from, nil without a
// request.
func (s *Service) deviceOf(ctx context.Context, subject string) []byte {
	c := reqctx.From(ctx)
	if c == nil {
		return nil
	}
	network := "none"
	if a := c.Addr(); a.IsValid() {
		network = clientip.Wider(a).String()
	}
	m := hmac.New(sha256.New, s.cfg.DeviceKey)
	m.Write([]byte(subject + "\x00" + family(reqctx.InfoFrom(ctx).UserAgent) + "\x00" + network))
	return m.Sum(nil)
}

// family returns a user agent without what an update of it changes.
func family(userAgent string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '.' || r == '_' {
			return -1
		}
		return r
	}, userAgent)
}

// ForgetDevices forgets where an account was signed in from: somebody else was there.
func ForgetDevices(tx *db.Tx, id string) error { return deleteDevices(tx, id) }

// noteDevice remembers the device that somebody is signing in with, and tells them
// of one that is new, in the transaction of the sign-in. Of the first sign-in of an
// account there is nothing to tell.
func (s *Service) noteDevice(ctx context.Context, tx *db.Tx, subject string, device []byte) error {
	if device == nil {
		return nil
	}
	now := s.cfg.Now()
	seen, found, err := readDevice(tx, subject, device)
	if err != nil {
		return err
	}
	known := found && now.Sub(seen) < deviceFor
	if known && now.Sub(seen) < seenEvery && now.Sub(seen) > -seenEvery {
		return nil
	}
	tell := false
	if !known {
		if tell, err = account.SignedInBefore(tx, subject); err != nil {
			return err
		}
		if err := deleteOldestDevices(tx, subject, maxDevices-1, now.Add(-24*time.Hour)); err != nil {
			return err
		}
	}
	if tell {
		told, err := toldSince(tx, subject, now.Add(-24*time.Hour))
		if err != nil {
			return err
		}
		tell = told < maxToldDaily && s.cfg.Mail.Enabled()
	}
	if err := putDevice(tx, subject, device, tell, now); err != nil || !tell {
		return err
	}
	return s.cfg.Mail.Notify(ctx, tx, subject, mail.NewDevice, mail.Facts{})
}
