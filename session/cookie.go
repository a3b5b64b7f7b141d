package session

import (
	"context"
	"crypto/subtle"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

// maxLook is how often the session of a cookie is looked at at most while it is
// used, and its use noted.
const maxLook = time.Minute

// VerifyCookie proves the value of a browser's cookie and returns what its session
// was begun as. Whether that is alive is for ConfirmCookie to say.
func (s *Service) VerifyCookie(ctx context.Context, value string) (authn.Verified, error) {
	return s.readCookie(s.cfg.DB.View(ctx), value)
}

func (s *Service) readCookie(rd db.Reader, value string) (authn.Verified, error) {
	id, ok := s.tokens().read(cookieKind, value)
	if !ok {
		return authn.Verified{}, &authn.Refused{Reason: "not a session cookie of ours", Guess: true}
	}
	c := sallyport.Claims{Session: id.String(), Kind: sallyport.KindCookie}
	var scope []string
	digest, err := readCookie(rd, &c, &scope)
	if err != nil {
		return authn.Verified{}, err
	}
	if subtle.ConstantTimeCompare(digest, digestOf(value)) != 1 {
		return authn.Verified{}, &authn.Refused{Reason: "the session does not exist", Guess: true}
	}
	c.Scopes = sallyport.NewSet(scope...)
	return authn.Verified{Claims: c, Unit: id}, nil
}

// ConfirmCookie reads whether the session of a cookie is alive, and what its
// subject may do. A browser does not refresh: each use of the cookie extends the
// time without use. So the session is looked at again while it is used, and the
// use noted; never from inside a transaction, which may be undone.
func (s *Service) ConfirmCookie(rd db.Reader, v authn.Verified) (authn.State, error) {
	now := s.cfg.Now()
	st, err := s.state(rd, v, now)
	if err != nil {
		return st.State, err
	}
	if !now.Before(st.idleUntil) {
		return st.State, &authn.Refused{Reason: "the session was not used for too long", Subject: v.Subject}
	}
	st.Until = earlier(now.Add(s.look), earlier(st.idleUntil, st.Until))
	if _, inside := rd.(*db.Tx); !inside && now.Sub(st.lastUsed) >= s.look {
		s.uses.Note(v.Session, now)
	}
	return st.State, nil
}

// storeUse is what the uses are stored with.
func (s *Service) storeUse(tx *db.Tx, id string, at time.Time) error {
	return storeUse(tx, id, at, at.Add(s.cfg.Refresh))
}

// Flush stores the uses of cookies that were noted so far. It happens by itself
// every few seconds.
func (s *Service) Flush() { s.uses.Flush() }

// EndCookie ends the session of a cookie that gives way to another. A value that
// is not good is as good as none.
func (s *Service) EndCookie(ctx context.Context, tx *db.Tx, value, reason string) error {
	v, err := s.readCookie(tx, value)
	if _, refused := err.(*authn.Refused); refused {
		return nil
	}
	if err == nil {
		_, err = s.End(ctx, tx, v.Subject, v.Session, reason)
	}
	return err
}
