package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
)

// Alg is a signature algorithm by its JOSE name (RFC 7518, section 3.1; RFC
// 8037, section 3.1).
type Alg string

// The algorithms there are. Every key has exactly one. EdDSA is the one to
// choose; ES256 and RS256 are for resource servers that know nothing else, and
// HS256 for an issuer that is also the only verifier.
const (
	EdDSA Alg = "EdDSA" // Ed25519; signatures of 64 bytes
	ES256 Alg = "ES256" // ECDSA on P-256 with SHA-256; 64 bytes
	RS256 Alg = "RS256" // RSASSA-PKCS1-v1_5 with SHA-256; as long as the modulus
	HS256 Alg = "HS256" // HMAC with SHA-256; 32 bytes; not in the JWKS
)

// Check returns an error unless a is one of the algorithms above, in exactly
// this spelling.
func (a Alg) Check() error {
	switch a {
	case EdDSA, ES256, RS256, HS256:
		return nil
	}
	return fmt.Errorf("token: algorithm %q: use EdDSA, ES256, RS256 or HS256", string(a))
}

// The sizes that keys must have. RSA keys from 2048 bits are accepted because
// such keys are in use (NIST SP 800-131A allows them); above 8192 bits a
// verification costs an attacker nothing and us milliseconds. An HMAC secret
// shorter than the hash is weaker than the algorithm (RFC 7518, section 3.2).
const (
	generatedRSABits = 3072
	minRSABits       = 2048
	maxRSABits       = 8192
	minRSAExponent   = 65537 // FIPS 186-5, appendix A.1.1
	minSecret        = 32
	maxSecret        = 512
)

// Key is a key that signs tokens and verifies them, with one algorithm and an
// id that follows from the key itself. It is immutable and may be used by any
// number of goroutines. Printed or logged it shows its algorithm and id only.
type Key struct {
	alg Alg
	id  string

	// What verifies: an ed25519.PublicKey, *ecdsa.PublicKey, *rsa.PublicKey,
	// or, for HS256, the secret.
	verifier any
	// What signs: an ed25519.PrivateKey, *ecdsa.PrivateKey, *rsa.PrivateKey,
	// or, for HS256, the secret. Nil in a key that can only verify.
	signer any

	jwk     string // the public JWK; "" for HS256
	header  string // the protected header of every token this key signs, encoded
	sigSize int    // in bytes
}

// Generate makes a new key. RSA keys have 3072 bits, HMAC secrets 32 random
// bytes. An RSA key takes some tenths of a second, the others microseconds.
//
// Its id never begins with "-" or "_", as one in 32 would: people name keys on
// a command line, where that would be a flag.
func Generate(alg Alg) (*Key, error) {
	for {
		k, err := generate(alg)
		if err != nil || !strings.ContainsAny(k.ID()[:1], "-_") {
			return k, err
		}
	}
}

func generate(alg Alg) (*Key, error) {
	var private any
	var err error
	switch alg {
	case EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256:
		private, err = rsa.GenerateKey(rand.Reader, generatedRSABits)
	case HS256:
		secret := make([]byte, minSecret)
		_, err = rand.Read(secret)
		private = secret
	default:
		return nil, alg.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("token: generate %s key: %w", alg, err)
	}
	return NewKey(alg, private)
}

// NewKey returns a key made elsewhere, as a copy:
//
//   - EdDSA: an ed25519.PrivateKey whose two halves belong together (a signature
//     under a foreign public half gives the private one away);
//   - ES256: an *ecdsa.PrivateKey on P-256;
//   - RS256: an *rsa.PrivateKey with two primes, 2048 to 8192 bits and a public
//     exponent of at least 65537;
//   - HS256: 32 to 512 random bytes. A password is not a secret: whoever has a
//     token can try words against it.
//
// Any other combination, and any key that is not valid in itself, is an error,
// which never shows the key.
func NewKey(alg Alg, private any) (*Key, error) {
	if err := alg.Check(); err != nil {
		return nil, err
	}
	signer, verifier, err := adopt(alg, private)
	if err != nil {
		return nil, fmt.Errorf("token: %s key: %w", alg, err)
	}
	k, err := newVerifying(alg, verifier)
	if err != nil {
		return nil, err
	}
	k.signer = signer
	return k, nil
}

// adopt checks a private key, copies it, and derives what verifies from the
// copy.
func adopt(alg Alg, private any) (signer, verifier any, err error) {
	switch p := private.(type) {
	case ed25519.PrivateKey:
		if alg != EdDSA {
			break
		}
		if len(p) != ed25519.PrivateKeySize {
			return nil, nil, fmt.Errorf("an Ed25519 private key has %d bytes, this one %d", ed25519.PrivateKeySize, len(p))
		}
		own := ed25519.NewKeyFromSeed(p.Seed())
		if !own.Equal(p) {
			return nil, nil, errors.New("the public half does not belong to the private one")
		}
		return own, own.Public(), nil

	case *ecdsa.PrivateKey:
		if alg != ES256 {
			break
		}
		if p == nil || p.Curve != elliptic.P256() {
			return nil, nil, errors.New("ES256 needs a key on P-256")
		}
		//lint:ignore SA1019 Bytes would panic; there is no other way to see that a part is missing.
		if p.X == nil || p.Y == nil || p.D == nil {
			return nil, nil, errors.New("the key is incomplete")
		}
		raw, err := p.Bytes()
		if err != nil {
			return nil, nil, err
		}
		own, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
		if err != nil {
			return nil, nil, err
		}
		if !own.PublicKey.Equal(&p.PublicKey) {
			return nil, nil, errors.New("the public half does not belong to the private one")
		}
		return own, &own.PublicKey, nil

	case *rsa.PrivateKey:
		if alg != RS256 {
			break
		}
		if p == nil || p.N == nil || p.D == nil || len(p.Primes) != 2 || p.Primes[0] == nil || p.Primes[1] == nil {
			return nil, nil, errors.New("the key is incomplete or has not two primes")
		}
		// Before the validation below: its cost grows with the size.
		if err := checkRSA(&p.PublicKey); err != nil {
			return nil, nil, err
		}
		own := &rsa.PrivateKey{
			PublicKey: rsa.PublicKey{N: new(big.Int).Set(p.N), E: p.E},
			D:         new(big.Int).Set(p.D),
			Primes:    []*big.Int{new(big.Int).Set(p.Primes[0]), new(big.Int).Set(p.Primes[1])},
		}
		own.Precompute()
		if err := own.Validate(); err != nil {
			return nil, nil, err
		}
		return own, &own.PublicKey, nil

	case []byte:
		if alg != HS256 {
			break
		}
		if len(p) < minSecret || len(p) > maxSecret {
			return nil, nil, fmt.Errorf("the secret has %d bytes; it must have %d to %d", len(p), minSecret, maxSecret)
		}
		own := bytes.Clone(p)
		return own, own, nil
	}
	return nil, nil, fmt.Errorf("a %T is not a private key of this algorithm", private)
}

func checkRSA(p *rsa.PublicKey) error {
	if n := p.N.BitLen(); n < minRSABits || n > maxRSABits {
		return fmt.Errorf("the RSA key has %d bits; it must have %d to %d", n, minRSABits, maxRSABits)
	}
	if p.E < minRSAExponent || p.E%2 == 0 {
		return fmt.Errorf("the RSA public exponent must be odd and at least %d", minRSAExponent)
	}
	return nil
}

// newVerifying returns a key that verifies and does not sign. The verifier is
// of one of the types that Key.verifier names.
func newVerifying(alg Alg, verifier any) (*Key, error) { return newNamed(alg, verifier, "") }

// newNamed is newVerifying for a public key that its issuer calls by an id of
// its own; "" is the key's thumbprint.
func newNamed(alg Alg, verifier any, kid string) (*Key, error) {
	k := &Key{alg: alg, verifier: verifier}
	// The members of a JWK that its thumbprint covers, in the order and form of
	// RFC 7638, section 3. None of the values needs escaping.
	var members string
	switch v := verifier.(type) {
	case ed25519.PublicKey:
		if alg != EdDSA || len(v) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("token: %s key: wrong kind or size of public key", alg)
		}
		k.sigSize = ed25519.SignatureSize
		members = `"crv":"Ed25519","kty":"OKP","x":"` + encode(v) + `"`
	case *ecdsa.PublicKey:
		if alg != ES256 || v.Curve != elliptic.P256() {
			return nil, fmt.Errorf("token: %s key: wrong kind or curve of public key", alg)
		}
		point, err := v.Bytes() // 4, X, Y; refuses points that are not on the curve
		if err != nil {
			return nil, fmt.Errorf("token: %s key: %w", alg, err)
		}
		k.sigSize = 64
		members = `"crv":"P-256","kty":"EC","x":"` + encode(point[1:33]) + `","y":"` + encode(point[33:]) + `"`
	case *rsa.PublicKey:
		if alg != RS256 {
			return nil, fmt.Errorf("token: %s key: wrong kind of public key", alg)
		}
		if err := checkRSA(v); err != nil {
			return nil, fmt.Errorf("token: %s key: %w", alg, err)
		}
		k.sigSize = v.Size()
		members = `"e":"` + encode(big.NewInt(int64(v.E)).Bytes()) + `","kty":"RSA","n":"` + encode(v.N.Bytes()) + `"`
	case []byte:
		if alg != HS256 || len(v) < minSecret {
			return nil, fmt.Errorf("token: %s key: wrong kind or size of secret", alg)
		}
		k.sigSize = sha256.Size
	default:
		return nil, fmt.Errorf("token: %s key: a %T cannot verify", alg, verifier)
	}

	switch k.id = kid; {
	case alg == HS256:
		k.id = secretID(verifier.([]byte))
	case kid == "":
		digest := sha256.Sum256([]byte("{" + members + "}"))
		k.id = encode(digest[:])
	}
	id, err := json.Marshal(k.id) // a foreign id may need escaping
	if err == nil {
		k.header, err = k.headerFor(typ)
	}
	if err != nil {
		return nil, fmt.Errorf("token: %s key: %w", alg, err)
	}
	if alg != HS256 {
		k.jwk = `{"alg":"` + string(alg) + `","kid":` + string(id) + `,"use":"sig",` + members + "}"
	}
	return k, nil
}

// headerFor returns the protected header of a token of a type, encoded.
func (k *Key) headerFor(typ string) (string, error) {
	id, err := json.Marshal(k.id)
	return encode([]byte(`{"alg":"` + string(k.alg) + `","kid":` + string(id) + `,"typ":"` + typ + `"}`)), err
}

// secretID is the id of an HMAC secret. RFC 7638 would hash the bare secret
// into it, and every token and log line would then carry a fast oracle for
// guessing it and a value that other systems with the same secret could
// compute as well. An HMAC under the secret is a value as good as random to
// whoever has not got it, and tells no more than each token's signature does.
// It cannot be taken for a signature: the label is no signing input, which
// begins with a base64url header and holds a dot.
func secretID(secret []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("sallyport HS256 key id"))
	return encode(mac.Sum(nil))
}

// ID returns the key's id, 43 characters of base64url: the SHA-256 thumbprint
// of the public key (RFC 7638), so that one key has one id everywhere and two
// keys never share one. For HS256 it is an HMAC of a constant under the secret.
// A key that ParseJWKS read has the id that the JWKS states.
func (k *Key) ID() string { return k.id }

// Alg returns the key's algorithm.
func (k *Key) Alg() Alg { return k.alg }

// String shows algorithm and id.
func (k Key) String() string { return "token.Key(" + string(k.alg) + " " + k.id + ")" }

// GoString keeps %#v from printing the private key.
func (k Key) GoString() string { return k.String() }

// LogValue implements slog.LogValuer: algorithm and id.
func (k Key) LogValue() slog.Value {
	return slog.GroupValue(slog.String("alg", string(k.alg)), slog.String("kid", k.id))
}

// sign signs the input and returns the signature as JWS has it.
func (k *Key) sign(input []byte) ([]byte, error) {
	switch p := k.signer.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(p, input), nil
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, p, digest[:])
		if err != nil {
			return nil, err
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return sig, nil
	case *rsa.PrivateKey:
		digest := sha256.Sum256(input)
		return rsa.SignPKCS1v15(nil, p, crypto.SHA256, digest[:])
	case []byte:
		return sum(p, input), nil
	}
	return nil, errors.New("token: the key can only verify")
}

// verify reports whether sig is the signature of the input. The algorithm is
// the key's own: nothing that came with the token chooses it.
func (k *Key) verify(input, sig []byte) bool {
	// Fixed lengths, so that there is one encoding of a signature and no work
	// for others. For ECDSA it is r and s of 32 bytes each (RFC 7518, section
	// 3.4), never ASN.1.
	if len(sig) != k.sigSize {
		return false
	}
	switch p := k.verifier.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(p, input, sig) // refuses S not below the group's order
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(input)
		r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		return ecdsa.Verify(p, digest[:], r, s) // refuses r and s outside 1 to n-1
	case *rsa.PublicKey:
		digest := sha256.Sum256(input)
		return rsa.VerifyPKCS1v15(p, crypto.SHA256, digest[:], sig) == nil
	case []byte:
		return hmac.Equal(sum(p, input), sig)
	}
	return false
}

func sum(secret, input []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write(input)
	return mac.Sum(nil)
}

// The form of a private key at rest, before it is sealed: "v1:", the algorithm,
// ":", and then PKCS#8 DER (RFC 5958), or for HS256 the bare secret. The
// algorithm is stored because a key is for one algorithm only and DER does not
// say which.
const privateVersion = "v1"

// MarshalPrivate returns the private key for storage. It is a secret: seal it
// before it leaves the process.
func (k *Key) MarshalPrivate() ([]byte, error) {
	var body []byte
	switch p := k.signer.(type) {
	case nil:
		return nil, errors.New("token: the key can only verify: it has no private part to store")
	case []byte:
		body = p
	default:
		var err error
		if body, err = x509.MarshalPKCS8PrivateKey(p); err != nil {
			return nil, fmt.Errorf("token: %s key: %w", k.alg, err)
		}
	}
	return slices.Concat([]byte(privateVersion+":"+string(k.alg)+":"), body), nil
}

// ParsePrivate reads what MarshalPrivate returned, with all checks of NewKey.
// There is one form of each key: anything appended or encoded otherwise is an
// error.
func ParsePrivate(b []byte) (*Key, error) {
	version, rest, ok := bytes.Cut(b, []byte{':'})
	alg, body, ok2 := bytes.Cut(rest, []byte{':'})
	if !ok || !ok2 || string(version) != privateVersion {
		return nil, errors.New("token: stored key: unknown form or version")
	}
	a := Alg(alg)
	if a.Check() != nil {
		return nil, errors.New("token: stored key: unknown algorithm")
	}
	if a == HS256 {
		return NewKey(a, body)
	}
	private, err := x509.ParsePKCS8PrivateKey(body)
	if err != nil {
		return nil, fmt.Errorf("token: stored %s key: not PKCS#8", a) // x509's error might show parts of it
	}
	k, err := NewKey(a, private)
	if err != nil {
		return nil, err
	}
	if again, err := k.MarshalPrivate(); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("token: stored %s key: not in the form it was stored in", a)
	}
	return k, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
