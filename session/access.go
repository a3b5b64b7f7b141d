package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
)

// VerifyAccess proves an access token and returns its claims. Whether its
// session is alive is for Confirm to say.
func (s *Service) VerifyAccess(ctx context.Context, text string) (authn.Verified, error) {
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
		return authn.Verified{}, &authn.Refused{Reason: string(e.Reason)}
	}
	return v, err
}

func (s *Service) verify(ctx context.Context, text string) (authn.Verified, error) {
	set, version, err := s.cfg.Keys.Current(ctx)
	if err != nil {
		return authn.Verified{}, err
	}
	now := s.cfg.Now()
	digest := sha256.Sum256([]byte(text))
	if v, ok := s.verified.get(digest, set, now); ok {
		v.Keys = version
		return v, nil
	}
	c, err := s.verifier.Verify(set, text, now)
	if err != nil {
		return authn.Verified{}, err
	}
	claims := sallyport.Claims{
		Subject: c.Subject, Session: c.Session, Client: c.ClientID, Kind: sallyport.KindBearer,
		Scoped: c.Scoped, Scopes: sallyport.NewSet(c.Scope...), AuthTime: c.AuthTime, Expires: c.Expires,
	}
	v := authn.Verified{Claims: claims, KeyID: c.KeyID, Keys: version}
	s.verified.put(digest, set, v)
	return v, nil
}

// verifiedCache remembers which tokens have been proven, by SHA-256, so that a
// signature is checked once and not at every request. It says nothing about
// whether a session is alive. An entry is good only with the very set of keys
// it was verified with.
type verifiedCache struct {
	mu  sync.RWMutex
	set *token.Set
	m   map[[32]byte]authn.Verified
}

// Bounds of the cache: about 600 bytes for each token. One with a longer scope
// is verified each time instead of taking ten times the room.
const (
	maxVerified      = 50_000
	maxVerifiedScope = 8
)

func newVerifiedCache() *verifiedCache {
	return &verifiedCache{m: map[[32]byte]authn.Verified{}}
}

func (v *verifiedCache) get(digest [32]byte, set *token.Set, now time.Time) (authn.Verified, bool) {
	v.mu.RLock()
	c, ok := v.m[digest]
	ok = ok && v.set == set
	v.mu.RUnlock()
	return c, ok && now.Before(c.Expires)
}

func (v *verifiedCache) put(digest [32]byte, set *token.Set, c authn.Verified) {
	if c.Scopes.Len() > maxVerifiedScope {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.set != set || len(v.m) >= maxVerified {
		clear(v.m)
		v.set = set
	}
	v.m[digest] = c
}
