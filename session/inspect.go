package session

import (
	"context"
	"crypto/subtle"
	"strings"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

// IsRefresh reports whether a text has the beginning of a refresh token.
func IsRefresh(text string) bool { return strings.HasPrefix(text, refreshPrefix) }

// InspectRefresh returns the session of a refresh token that is good now, and
// what its subject may do. It changes nothing: a token that was used before is
// refused, and its session goes on. Errors: *authn.Refused, or what kept it from
// looking.
func (s *Service) InspectRefresh(ctx context.Context, text string) (Session, authn.State, error) {
	presented, ok := s.tokens().parse(text)
	if !ok {
		return Session{}, authn.State{}, &authn.Refused{Reason: "not a refresh token of ours", Guess: true}
	}
	view, now := s.cfg.DB.View(ctx), s.cfg.Now()
	se, _, _, found, err := readFamily(view, presented.session.String())
	if err != nil {
		return Session{}, authn.State{}, err
	}
	if !found || subtle.ConstantTimeCompare(digestOf(text), se.refresh) != 1 {
		return Session{}, authn.State{}, &authn.Refused{Reason: "the refresh token is not the session's", Subject: se.Subject}
	}
	st, alive, err := readState(view, se.ID, se.Subject, now)
	if err == nil && (!alive || !now.Before(se.IdleUntil)) {
		err = &authn.Refused{Reason: "the session has ended or expired", Subject: se.Subject}
	}
	return se, st.State, err
}

// Issued returns when the session's current refresh token was given out.
func (se Session) Issued() int64 { return se.refreshedAt.Unix() }

// AMR returns how the person of a session signed in (RFC 8176); found tells
// whether there is such a session.
func (s *Service) AMR(ctx context.Context, id string) (amr []string, found bool, err error) {
	return readAMR(s.cfg.DB.View(ctx), id)
}

// Named is the session that a token names, for who holds the token.
type Named struct{ Session, Subject, Client string }

// Find returns the session that an access token or a refresh token names. Of a
// refresh token it is any that the session ever had: whoever holds one could end
// the session by using it. Errors: *authn.Refused for what is not a valid token,
// or what kept it from looking.
func (s *Service) Find(ctx context.Context, text string) (Named, error) {
	if !IsRefresh(text) {
		// A key that was retired must not prove anything by now.
		if _, err := s.cfg.Keys.SyncNow(ctx); err != nil {
			return Named{}, err
		}
		v, err := s.VerifyAccess(ctx, text)
		return Named{v.Session, v.Subject, v.Client}, err
	}
	t, ok := s.tokens().parse(text)
	if !ok {
		return Named{}, &authn.Refused{Reason: "not a refresh token of ours", Guess: true}
	}
	se, _, _, found, err := readFamily(s.cfg.DB.View(ctx), t.session.String())
	if err == nil && !found {
		err = &authn.Refused{Reason: "the session does not exist"}
	}
	return Named{se.ID, se.Subject, se.Client}, err
}

// Revoke ends a session because its token was given back. One that has ended is
// left as it is.
func (s *Service) Revoke(ctx context.Context, n Named) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := s.End(ctx, tx, n.Subject, n.Session, "token revoked")
		return err
	})
}
