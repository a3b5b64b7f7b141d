package session

import (
	"context"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
)

// VerifyAccess proves an access token and returns its claims. Whether its
// session is alive is for Confirm to say.
//
// A text is read in one form only: nothing that looks like an opaque token is
// ever tried as a JWT.
func (s *Service) VerifyAccess(ctx context.Context, text string) (authn.Verified, error) {
	if strings.HasPrefix(text, accessKind.prefix) {
		return s.verifyOpaque(ctx, text)
	}
	v, err := s.verify(ctx, text)
	if e, ok := errors.AsType[*token.Error](err); ok && e.Reason == token.UnknownKey {
		// A key that another process made: look once.
		changed, serr := s.cfg.Keys.SyncNow(ctx)
		if serr != nil {
			return authn.Verified{}, serr
		}
		if changed {
			v, err = s.verify(ctx, text)
		}
	}
	if e, ok := errors.AsType[*token.Error](err); ok {
		// A key that is not known may have been one of ours that is retired: its tokens
		// were good once, and inventing another is no guess at anything. One that was
		// issued in a time that is yet to come is genuine: the clock was set back.
		known := e.Reason == token.Expired || e.Reason == token.NotYetValid || e.Reason == token.UnknownKey
		return authn.Verified{}, &authn.Refused{Reason: string(e.Reason), Guess: !known}
	}
	return v, err
}

func (s *Service) verify(ctx context.Context, text string) (authn.Verified, error) {
	set, version, until, err := s.cfg.Keys.Current(ctx)
	if err != nil {
		return authn.Verified{}, err
	}
	c, err := s.verifier.Verify(set, text, s.cfg.Now())
	if err != nil {
		return authn.Verified{}, err
	}
	id, err := uuid.Parse(c.Session)
	if err != nil || id.String() != c.Session {
		return authn.Verified{}, &authn.Refused{Reason: "the session does not exist", Subject: c.Subject}
	}
	return authn.Verified{
		Claims: sallyport.Claims{
			Subject: c.Subject, Session: c.Session, Client: c.ClientID, Kind: sallyport.KindBearer,
			Scoped: c.Scoped, Scopes: sallyport.NewSet(c.Scope...), AuthTime: c.AuthTime, Expires: c.Expires,
		},
		Unit: id, KeyID: c.KeyID, Keys: version, Until: until,
	}, nil
}
