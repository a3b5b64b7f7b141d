package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/guard/body"
)

// The most that a JWKS may be.
const (
	MaxJWKS     = 64 << 10 // bytes
	MaxJWKSKeys = 64       // keys, those that are skipped included
)

// ParseJWKS reads the public keys of another issuer from a JSON Web Key Set
// (RFC 7517, section 5). The set verifies and does not sign. Its keys are found
// by the "kid" that they state, which need not be a thumbprint.
//
// Keys that could never verify a token here are skipped, as section 5 asks for:
// another kty than OKP, EC and RSA, another curve than Ed25519 and P-256,
// another alg than EdDSA, ES256 and RS256, a use other than "sig", key_ops
// without "verify". So the set may be empty: see Len. Members that are not
// known are ignored; certificates and URLs in a key are not looked at.
//
// Everything else is an error, which holds no part of the text: more than
// MaxJWKS bytes or MaxJWKSKeys keys; JSON that two decoders could read in two
// ways; a secret key, or a private member of any key, since what was published
// is not secret any more; a key that is used and has no kid, one that another
// has, an alg that is not its kty's, a value in another form than RFC 7518 has
// it, or less strength than NewKey asks for.
//
// The algorithm of each key is fixed by its "alg", and without one by its type.
// HS256 is never one of them: a public text that could name a secret would let
// everybody sign.
func ParseJWKS(b []byte) (*Set, error) {
	if len(b) > MaxJWKS {
		return nil, fmt.Errorf("token: JWKS: more than %d bytes", MaxJWKS)
	}
	if err := body.CheckJSON(b, maxDepth); err != nil {
		return nil, fmt.Errorf("token: JWKS: %w", err)
	}
	document, err := object(b, maxDepth)
	if err != nil {
		return nil, errors.New("token: JWKS: not a JSON object")
	}
	var list []json.RawMessage
	if raw := document["keys"]; len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return nil, errors.New(`token: JWKS: no array "keys"`)
	}
	if len(list) > MaxJWKSKeys {
		return nil, fmt.Errorf("token: JWKS: %d keys, more than %d", len(list), MaxJWKSKeys)
	}
	s := &Set{byID: make(map[string]*Key, len(list))}
	var keys []*Key
	for i, raw := range list {
		k, err := parseJWK(raw)
		switch {
		case err != nil:
			return nil, fmt.Errorf("token: JWKS: key %d: %w", i, err)
		case k == nil:
			continue
		case s.byID[k.id] != nil:
			return nil, fmt.Errorf("token: JWKS: key %d: another key has the same kid", i)
		}
		s.byID[k.id] = k
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b *Key) int { return strings.Compare(a.id, b.id) })
	s.jwks = jwksOf(keys)
	return s, nil
}

// privateMembers are those that hold a secret (RFC 7518, sections 6.2.2, 6.3.2
// and 6.4.1; RFC 8037, section 2).
var privateMembers = [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// parseJWK reads one key; nil without an error is one to skip.
func parseJWK(raw json.RawMessage) (*Key, error) {
	members, err := object(raw, maxDepth)
	if err != nil {
		return nil, errors.New("not a JSON object")
	}
	for _, name := range privateMembers {
		if _, there := members[name]; there {
			return nil, fmt.Errorf("it has the private member %q, so the key is not secret any more", name)
		}
	}
	r := jwkReader{members: members}
	kty, crv, alg, use := r.text("kty"), r.text("crv"), Alg(r.text("alg")), r.text("use")
	verifies := r.verifies()
	switch {
	case r.err != nil:
		return nil, r.err
	case kty == "":
		return nil, errors.New("no kty")
	case kty == "oct":
		return nil, errors.New("a secret key has no place in a JWKS")
	}
	own := map[[2]string]Alg{{"OKP", "Ed25519"}: EdDSA, {"EC", "P-256"}: ES256, {"RSA", ""}: RS256}[[2]string{kty, crv}]
	switch {
	case own == "", use != "" && use != "sig", !verifies, alg != "" && alg.Check() != nil:
		return nil, nil
	case alg != "" && alg != own:
		return nil, errors.New("alg and kty contradict each other")
	}
	kid := r.text("kid")
	if kid == "" || !plain(kid) {
		return nil, fmt.Errorf("a kid of 1 to %d bytes without control characters is required", maxText)
	}
	verifier := r.verifier(own)
	if r.err != nil {
		return nil, r.err
	}
	return newNamed(own, verifier, kid)
}

// jwkReader reads members by name and keeps the first error.
type jwkReader struct {
	members map[string]json.RawMessage
	err     error
}

func (r *jwkReader) fail(name, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("member %q: %s", name, want)
	}
}

// text reads a string; "" if it is absent.
func (r *jwkReader) text(name string) string {
	raw, there := r.members[name]
	if !there {
		return ""
	}
	s, ok := text(raw)
	if !ok || s == "" {
		r.fail(name, "not a string, or an empty one")
	}
	return s
}

// verifies reports whether key_ops, if it is there, lists "verify".
func (r *jwkReader) verifies() bool {
	raw, there := r.members["key_ops"]
	if !there {
		return true
	}
	var ops []json.RawMessage
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &ops) != nil {
		r.fail("key_ops", "not an array")
	}
	return slices.ContainsFunc(ops, func(op json.RawMessage) bool {
		s, ok := text(op)
		return ok && s == "verify"
	})
}

// bytes reads base64url of exactly n bytes, or of any number if n is 0.
func (r *jwkReader) bytes(name string, n int) []byte {
	b, ok := decode(r.text(name))
	if !ok || len(b) == 0 || n > 0 && len(b) != n {
		r.fail(name, "missing, not base64url, or of the wrong length")
		return make([]byte, n)
	}
	return b
}

// integer reads a Base64urlUInt (RFC 7518, section 2): no leading zeros.
func (r *jwkReader) integer(name string) *big.Int {
	b := r.bytes(name, 0)
	if len(b) > 0 && b[0] == 0 {
		r.fail(name, "it begins with a zero byte")
	}
	return new(big.Int).SetBytes(b)
}

// verifier reads the public key itself.
func (r *jwkReader) verifier(alg Alg) any {
	switch alg {
	case EdDSA:
		return ed25519.PublicKey(r.bytes("x", ed25519.PublicKeySize))
	case ES256:
		point := slices.Concat([]byte{4}, r.bytes("x", 32), r.bytes("y", 32))
		p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			r.fail("x", "not a point on P-256")
		}
		return p
	default:
		n, e := r.integer("n"), r.integer("e")
		if n.Bit(0) == 0 {
			r.fail("n", "an even number is no modulus")
		}
		if !e.IsInt64() || e.Int64() >= 1<<31 {
			r.fail("e", "more than 31 bits")
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}
	}
}
