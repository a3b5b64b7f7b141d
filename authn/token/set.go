package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Set is the keys of one issuer at one time: one that signs, and any number
// that only verify, because they will sign next or because tokens they signed
// are still alive. A set that ParseJWKS read has none that signs. It is
// immutable: rotation makes a new Set.
type Set struct {
	active *Key
	byID   map[string]*Key
	jwks   string
}

// NewSet returns the set of an active key and others. The active one must be
// able to sign, and no key may be in the set twice.
func NewSet(active *Key, others ...*Key) (*Set, error) {
	if active == nil {
		return nil, errors.New("token: a set needs an active key")
	}
	if active.signer == nil {
		return nil, fmt.Errorf("token: %v cannot be active: it can only verify", active)
	}
	others = slices.Clone(others)
	s := &Set{active: active, byID: make(map[string]*Key, 1+len(others))}
	for _, k := range append([]*Key{active}, others...) {
		if k == nil {
			return nil, errors.New("token: a set cannot hold a nil key")
		}
		if s.byID[k.id] != nil {
			return nil, fmt.Errorf("token: %v is in the set twice", k)
		}
		s.byID[k.id] = k
	}
	slices.SortFunc(others, func(a, b *Key) int { return strings.Compare(a.id, b.id) })
	s.jwks = jwksOf(append([]*Key{active}, others...))
	return s, nil
}

func jwksOf(keys []*Key) string {
	var public []string
	for _, k := range keys {
		if k.jwk != "" {
			public = append(public, k.jwk)
		}
	}
	return `{"keys":[` + strings.Join(public, ",") + `]}`
}

// Active returns the key that signs; nil in a set that ParseJWKS read.
func (s *Set) Active() *Key { return s.active }

// Len returns the number of keys.
func (s *Set) Len() int { return len(s.byID) }

// JWKS returns the JSON Web Key Set (RFC 7517, section 5) with the public parts
// of all keys: first the active one, then the others by id, each with kid, alg
// and "use":"sig". HS256 keys have no public part and are never in it; a set of
// nothing else has no keys. The bytes are the same for the same keys, so that
// they can be cached by their digest.
func (s *Set) JWKS() []byte { return []byte(s.jwks) }
