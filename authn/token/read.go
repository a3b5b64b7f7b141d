package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
)

// MaxKeyFile is the size of the largest file that ReadKey looks at, in bytes.
// An RSA key of 8192 bits takes about 6,500.
const MaxKeyFile = 64 << 10

// ReadKey reads a private key that was made elsewhere, from a file's bytes:
//
//   - PEM (RFC 7468) with one private key: PKCS#8 ("PRIVATE KEY"), PKCS#1 ("RSA
//     PRIVATE KEY") or SEC 1 ("EC PRIVATE KEY"), not encrypted. "EC PARAMETERS"
//     may stand beside it, and text around it, as OpenSSL writes them;
//   - a private JWK (RFC 7517): Ed25519, EC on P-256, or RSA with its primes.
//     No member may stand twice; "alg", "use" and "key_ops" must not speak
//     against signing; "kid" and others are not looked at, since the id of a key
//     follows from the key;
//   - for HS256, the secret's bare bytes. One line end behind them is dropped.
//
// The algorithm follows from the key, and alg, if not empty, must be the same.
// Only HS256 has to be said, because a secret can look like anything; a file
// that is PEM or a JSON object is no secret.
//
// The key then meets all conditions of NewKey. Errors say what is wrong with
// the file and what would be right, and never show any of it.
func ReadKey(file []byte, alg Alg) (*Key, error) {
	if alg != "" {
		if err := alg.Check(); err != nil {
			return nil, err
		}
	}
	if len(file) > MaxKeyFile {
		return nil, fmt.Errorf("it is larger than %d KiB, which is no key", MaxKeyFile>>10)
	}
	found, private, err := readPrivate(file, alg)
	if err != nil {
		return nil, err
	}
	if alg != "" && alg != found {
		return nil, fmt.Errorf("the key in it is for %s, not for %s", found, alg)
	}
	signer, verifier, err := adopt(found, private)
	if err != nil {
		return nil, fmt.Errorf("the %s key in it cannot be used: %w", found, err)
	}
	k, err := newVerifying(found, verifier)
	if err != nil {
		return nil, err
	}
	k.signer = signer
	// What is stored must be readable again.
	b, err := k.MarshalPrivate()
	if err == nil {
		_, err = ParsePrivate(b)
	}
	if err != nil {
		return nil, fmt.Errorf("the %s key in it cannot be stored: it is not in a common form", found)
	}
	return k, nil
}

var errNoKey = errors.New("it holds no private key that can be read: give PEM (PKCS#8, PKCS#1 or SEC 1) or a private JWK; the bytes of a secret are read for the algorithm HS256 only, which has to be said")

// readPrivate finds the key in a file, and the algorithm that it is for.
func readPrivate(file []byte, alg Alg) (Alg, any, error) {
	text := bytes.TrimSpace(file)
	isPEM := bytes.Contains(text, []byte("-----BEGIN "))
	isJSON := len(text) > 0 && text[0] == '{' && json.Valid(text)
	switch {
	case alg == HS256 && (isPEM || isJSON):
		what := "PEM"
		if isJSON {
			what = "JSON"
		}
		return "", nil, fmt.Errorf("it is %s and not the secret of HS256: give a file with the secret's bytes and nothing else, or leave the algorithm out", what)
	case alg == HS256:
		secret, cut := bytes.CutSuffix(file, []byte("\n"))
		if cut {
			secret = bytes.TrimSuffix(secret, []byte("\r"))
		}
		return HS256, secret, nil
	case isPEM:
		return readPEM(text)
	case len(text) > 0 && text[0] == '{':
		return readJWK(text)
	}
	return "", nil, errNoKey
}

func readPEM(text []byte) (Alg, any, error) {
	var found *pem.Block
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type == "EC PARAMETERS" { // the curve's name, which the key has too
			continue
		}
		if found != nil {
			return "", nil, errors.New("it holds more than one thing in PEM: give a file with the private key alone")
		}
		found = block
	}
	if found == nil || bytes.Contains(text, []byte("-----BEGIN ")) {
		return "", nil, errors.New("its PEM is damaged: a block does not end, or is not base64")
	}
	var private any
	var err error
	switch typ := found.Type; {
	case typ == "ENCRYPTED PRIVATE KEY" || found.Headers["Proc-Type"] != "" || found.Headers["DEK-Info"] != "":
		return "", nil, errors.New("the key in it is encrypted: decrypt it first (openssl pkey -in FILE -out PLAIN)")
	case typ == "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(found.Bytes)
	case typ == "RSA PRIVATE KEY":
		private, err = x509.ParsePKCS1PrivateKey(found.Bytes)
	case typ == "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(found.Bytes)
	case typ == "PUBLIC KEY" || typ == "RSA PUBLIC KEY" || typ == "CERTIFICATE":
		return "", nil, errors.New("it holds the public half only: give the file with the private key")
	case typ == "OPENSSH PRIVATE KEY":
		return "", nil, errors.New("it is in OpenSSH's own form: make a copy and convert that to PKCS#8 (ssh-keygen -p -N '' -m PKCS8 -f COPY; not for Ed25519)")
	default:
		return "", nil, errNoKey
	}
	if err != nil { // x509's error might show parts of it
		return "", nil, errors.New("the key in its PEM is damaged, too short, or of a kind that signs no tokens here: use Ed25519, EC on P-256, or RSA with 2048 to 8192 bits")
	}
	alg, err := algOf(private)
	return alg, private, err
}

// algOf returns the algorithm that a private key is for.
func algOf(private any) (Alg, error) {
	switch p := private.(type) {
	case ed25519.PrivateKey:
		return EdDSA, nil
	case *ecdsa.PrivateKey:
		if p.Curve != elliptic.P256() {
			return "", fmt.Errorf("the EC key in it is on %s: use one on P-256, for ES256", p.Curve.Params().Name)
		}
		return ES256, nil
	case *rsa.PrivateKey:
		return RS256, nil
	}
	return "", errors.New("the key in it does not sign: use Ed25519, EC on P-256, or RSA")
}

// readJWK reads a private JWK (RFC 7518, section 6; RFC 8037, section 2).
func readJWK(text []byte) (Alg, any, error) {
	members, err := object(text, 8)
	if err != nil {
		return "", nil, errors.New("it is not a JWK: not one JSON object that all readers read alike (a member stands twice, or the JSON is damaged)")
	}
	if _, ok := members["keys"]; ok {
		return "", nil, errors.New("it is a set of keys: give a file with one of them")
	}
	j := privateJWK{members: members}
	alg, private := j.private()
	if j.err != nil {
		return "", nil, j.err
	}
	if err := j.mayBe(alg); err != nil {
		return "", nil, err
	}
	return alg, private, nil
}

// privateJWK reads members and keeps the first mistake.
type privateJWK struct {
	members map[string]json.RawMessage
	err     error
}

func (j *privateJWK) wrong(format string, args ...any) {
	if j.err == nil {
		j.err = fmt.Errorf(format, args...)
	}
}

// text returns a member that is a string; "" if it is missing.
func (j *privateJWK) text(name string) string {
	raw, ok := j.members[name]
	if !ok {
		return ""
	}
	s, ok := text(raw)
	if !ok {
		j.wrong("the member %q of the JWK is not a text", name)
	}
	return s
}

// bytes returns a member that is base64url.
func (j *privateJWK) bytes(name string) []byte {
	s := j.text(name)
	b, ok := decode(s)
	if s == "" || !ok {
		j.wrong("the member %q of the JWK is missing or is not base64url without padding", name)
	}
	return b
}

// octets returns a member of exactly n bytes.
func (j *privateJWK) octets(name string, n int) []byte {
	b := j.bytes(name)
	if len(b) != n {
		j.wrong("the member %q of the JWK must have %d bytes", name, n)
		b = make([]byte, n)
	}
	return b
}

// number returns a member that is a Base64urlUInt: without leading zeros.
func (j *privateJWK) number(name string) *big.Int {
	b := j.bytes(name)
	if len(b) > 0 && b[0] == 0 {
		j.wrong("the member %q of the JWK begins with a zero byte (RFC 7518, section 2)", name)
	}
	if len(b) > maxRSABits/8 {
		j.wrong("the member %q of the JWK is longer than RSA with %d bits has", name, maxRSABits)
		b = nil
	}
	return new(big.Int).SetBytes(b)
}

func (j *privateJWK) private() (Alg, any) {
	kty, crv := j.text("kty"), j.text("crv")
	_, has := j.members["d"]
	switch kty {
	case "oct":
		j.wrong("it is the JWK of a secret: write the secret's own bytes into a file, and say that the algorithm is HS256")
		return "", nil
	case "OKP", "EC", "RSA":
		if !has {
			j.wrong("the JWK is the public half only: give the private one, which has the member \"d\"")
			return "", nil
		}
	default:
		j.wrong("the JWK is of an unknown kind: \"kty\" must be OKP, EC or RSA")
		return "", nil
	}
	switch {
	case kty == "OKP" && crv == "Ed25519":
		// NewKey finds out whether the halves belong together.
		return EdDSA, append(ed25519.PrivateKey(j.octets("d", 32)), j.octets("x", 32)...)
	case kty == "EC" && crv == "P-256":
		d, x, y := j.octets("d", 32), j.octets("x", 32), j.octets("y", 32)
		if j.err != nil {
			return "", nil
		}
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
		if err != nil {
			j.wrong("the EC key in the JWK is not valid")
			return "", nil
		}
		point, err := private.PublicKey.Bytes()
		if err != nil || !bytes.Equal(point[1:33], x) || !bytes.Equal(point[33:], y) {
			j.wrong("the public half of the JWK does not belong to the private one")
			return "", nil
		}
		return ES256, private
	case kty == "RSA":
		return RS256, j.rsa()
	}
	j.wrong("the JWK is on a curve that signs no tokens here: use Ed25519, or EC on P-256")
	return "", nil
}

func (j *privateJWK) rsa() *rsa.PrivateKey {
	if _, ok := j.members["oth"]; ok {
		j.wrong("the RSA key in the JWK has more than two primes")
		return nil
	}
	p := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: j.number("n")}, D: j.number("d"), Primes: []*big.Int{j.number("p"), j.number("q")}}
	e, dp, dq, qi := j.number("e"), j.number("dp"), j.number("dq"), j.number("qi")
	if j.err != nil {
		return nil
	}
	if !e.IsInt64() || e.Int64() > math.MaxInt32 {
		j.wrong("the RSA public exponent in the JWK is too large: it is usually 65537")
		return nil
	}
	p.E = int(e.Int64())
	signer, _, err := adopt(RS256, p) // before anything is calculated with it
	if err != nil {
		j.wrong("the RS256 key in it cannot be used: %w", err)
		return nil
	}
	own := signer.(*rsa.PrivateKey)
	if c := own.Precomputed; c.Dp.Cmp(dp) != 0 || c.Dq.Cmp(dq) != 0 || c.Qinv.Cmp(qi) != 0 {
		j.wrong("the members dp, dq and qi of the JWK do not belong to its primes")
	}
	return own
}

// mayBe returns an error if the JWK says that it is for something else.
func (j *privateJWK) mayBe(alg Alg) error {
	if said := j.text("alg"); said != "" && said != string(alg) && (alg != EdDSA || said != "Ed25519") { // RFC 9864
		j.wrong("the JWK's own \"alg\" is not %s, which is what its key is for here", alg)
	}
	if use := j.text("use"); use != "" && use != "sig" {
		j.wrong("the JWK's \"use\" is not \"sig\": its key is not for signing")
	}
	if raw, ok := j.members["key_ops"]; ok {
		var ops []string
		if json.Unmarshal(raw, &ops) != nil || !slices.Contains(ops, "sign") {
			j.wrong("the JWK's \"key_ops\" does not hold \"sign\": its key is not for signing")
		}
	}
	return j.err
}
