package session

import (
	"context"
	"crypto/subtle"
	"errors"
	"hash/maphash"
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
	if v, ok := s.verified.get(text, set, now); ok {
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
	s.verified.put(text, set, v)
	return v, nil
}

// verifiedCache remembers which tokens have been proven, so that a signature is
// checked once and not at every request. It says nothing about whether a session
// is alive. An entry is good only with the very set of keys it was verified
// with.
//
// A token is found by a hash under a seed that nobody outside knows, and
// confirmed by its end, which is most of its signature: who does not have the
// token does not have that either.
type verifiedCache struct {
	seed maphash.Seed
	mu   sync.RWMutex
	set  *token.Set
	m    map[uint64]proven
}

type proven struct {
	end      [proofSize]byte
	verified authn.Verified
}

// proofSize is how much of a token's end is compared: 240 bits of the signature.
const proofSize = 40

// Bounds of the cache: about 600 bytes for each token. One with a longer scope
// is verified each time instead of taking ten times the room.
const (
	maxVerified      = 50_000
	maxVerifiedScope = 8
)

func newVerifiedCache() *verifiedCache {
	return &verifiedCache{seed: maphash.MakeSeed(), m: map[uint64]proven{}}
}

// end returns the last bytes of a token; a shorter one is none.
func end(text string) (b [proofSize]byte, ok bool) {
	if len(text) < proofSize {
		return b, false
	}
	copy(b[:], text[len(text)-proofSize:])
	return b, true
}

func (v *verifiedCache) get(text string, set *token.Set, now time.Time) (authn.Verified, bool) {
	proof, ok := end(text)
	if !ok {
		return authn.Verified{}, false
	}
	hash := maphash.String(v.seed, text)
	v.mu.RLock()
	p, found := v.m[hash]
	found = found && v.set == set
	v.mu.RUnlock()
	if !found || subtle.ConstantTimeCompare(p.end[:], proof[:]) != 1 || !now.Before(p.verified.Expires) {
		return authn.Verified{}, false
	}
	return p.verified, true
}

func (v *verifiedCache) put(text string, set *token.Set, c authn.Verified) {
	proof, ok := end(text)
	if !ok || c.Scopes.Len() > maxVerifiedScope {
		return
	}
	hash := maphash.String(v.seed, text)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.set != set || len(v.m) >= maxVerified {
		clear(v.m)
		v.set = set
	}
	v.m[hash] = proven{proof, c}
}
