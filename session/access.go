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
func (s *Service) VerifyAccess(ctx context.Context, text string) (sallyport.Claims, error) {
	set, err := s.cfg.Keys.Set(ctx)
	if err != nil {
		return sallyport.Claims{}, err
	}
	now := s.cfg.Now()
	digest := sha256.Sum256([]byte(text))
	if c, ok := s.verified.get(digest, set, now); ok {
		return c, nil
	}
	c, err := s.verifier.Verify(set, text, now)
	if e, ok := errors.AsType[*token.Error](err); ok && e.Reason == token.UnknownKey {
		// A key that another process made active: look once.
		changed, serr := s.cfg.Keys.SyncNow(ctx)
		if serr != nil {
			return sallyport.Claims{}, serr
		}
		if changed {
			if set, err = s.cfg.Keys.Set(ctx); err != nil {
				return sallyport.Claims{}, err
			}
			c, err = s.verifier.Verify(set, text, now)
		}
	}
	if err != nil {
		if e, ok := errors.AsType[*token.Error](err); ok {
			return sallyport.Claims{}, &authn.Refused{Reason: string(e.Reason)}
		}
		return sallyport.Claims{}, err
	}
	claims := sallyport.Claims{
		Subject: c.Subject, Session: c.Session, Client: c.ClientID, Kind: sallyport.KindBearer,
		Scoped: c.Scoped, Scopes: sallyport.NewSet(c.Scope...), AuthTime: c.AuthTime, Expires: c.Expires,
	}
	s.verified.put(digest, set, claims)
	return claims, nil
}

// verifiedCache remembers which tokens have been proven, by SHA-256, so that a
// signature is checked once and not at every request. It says nothing about
// whether a session is alive. An entry is good only with the very set of keys
// it was verified with.
type verifiedCache struct {
	mu  sync.RWMutex
	set *token.Set
	m   map[[32]byte]sallyport.Claims
}

// maxVerified bounds the cache, in tokens; about 400 bytes each.
const maxVerified = 50_000

func newVerifiedCache() *verifiedCache {
	return &verifiedCache{m: map[[32]byte]sallyport.Claims{}}
}

func (v *verifiedCache) get(digest [32]byte, set *token.Set, now time.Time) (sallyport.Claims, bool) {
	v.mu.RLock()
	c, ok := v.m[digest]
	ok = ok && v.set == set
	v.mu.RUnlock()
	return c, ok && now.Before(c.Expires)
}

func (v *verifiedCache) put(digest [32]byte, set *token.Set, c sallyport.Claims) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.set != set || len(v.m) >= maxVerified {
		clear(v.m)
		v.set = set
	}
	v.m[digest] = c
}
