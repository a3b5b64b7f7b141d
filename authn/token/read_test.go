package token

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func pemOf(t testing.TB, typ string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func pkcs8(t testing.TB, private any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	return pemOf(t, "PRIVATE KEY", der, err)
}

// jwkOf is the private JWK as go-jose writes it.
func jwkOf(t testing.TB, private any) map[string]any {
	t.Helper()
	b, err := jose.JSONWebKey{Key: private}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// written is the JSON of a map with members replaced; nil removes one.
func written(t testing.TB, m map[string]any, more ...any) []byte {
	t.Helper()
	m = maps.Clone(m)
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == nil {
			delete(m, more[i].(string))
		} else {
			m[more[i].(string)] = more[i+1]
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadKey(t *testing.T) {
	keys := testKeys()
	ed := keys[EdDSA].signer.(ed25519.PrivateKey)
	ec := keys[ES256].signer.(*ecdsa.PrivateKey)
	rs := keys[RS256].signer.(*rsa.PrivateKey)
	secret := bytes.Repeat([]byte{200, 10, 13, 7, 1, 2, 3, 4}, 4) // not a random one, which may end in a line end
	keyed, err := NewKey(HS256, secret)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	ecPEM := pemOf(t, "EC PRIVATE KEY", sec1, err)
	hexSecret := []byte(hex.EncodeToString(secret))
	ecParameters := []byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n")

	tests := []struct {
		name string
		file []byte
		say  Alg
		want *Key
	}{
		{"PKCS#8 Ed25519", pkcs8(t, ed), "", keys[EdDSA]},
		{"PKCS#8 P-256", pkcs8(t, ec), "", keys[ES256]},
		{"PKCS#8 RSA", pkcs8(t, rs), "", keys[RS256]},
		{"PKCS#1", pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs), nil), "", keys[RS256]},
		{"SEC 1", ecPEM, "", keys[ES256]},
		{"SEC 1 as openssl ecparam writes it", append(ecParameters, ecPEM...), "", keys[ES256]},
		{"text around PEM, CRLF", bytes.ReplaceAll([]byte("Bag Attributes\n    friendlyName: x\n"+string(ecPEM)+"\n\n"), []byte("\n"), []byte("\r\n")), "", keys[ES256]},
		{"the algorithm said", pkcs8(t, ec), ES256, keys[ES256]},
		{"JWK Ed25519", written(t, jwkOf(t, ed)), "", keys[EdDSA]},
		{"JWK P-256", written(t, jwkOf(t, ec)), "", keys[ES256]},
		{"JWK RSA", written(t, jwkOf(t, rs)), "", keys[RS256]},
		{"JWK with what may stand there", written(t, jwkOf(t, ec), "kid", "theirs", "use", "sig", "key_ops", []string{"verify", "sign"}, "alg", "ES256", "x5c", []string{"AAAA"}, "more", map[string]any{"a": 1}), ES256, keys[ES256]},
		{"JWK with the algorithm of RFC 9864", written(t, jwkOf(t, ed), "alg", "Ed25519"), EdDSA, keys[EdDSA]},
		{"secret", secret, HS256, keyed},
		{"secret and a line end", append(bytes.Clone(secret), '\n'), HS256, keyed},
		{"secret and CRLF", append(bytes.Clone(secret), '\r', '\n'), HS256, keyed},
	}
	for _, tt := range tests {
		k, err := ReadKey(tt.file, tt.say)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if k.Alg() != tt.want.Alg() || k.ID() != tt.want.ID() {
			t.Errorf("%s: %v, want %v", tt.name, k, tt.want)
		}
		sig, err := k.sign([]byte("x"))
		if err != nil || !tt.want.verify([]byte("x"), sig) {
			t.Errorf("%s: the key does not sign as it did (%v)", tt.name, err)
		}
	}
	// A secret in hexadecimal is its own 64 bytes, not the 32 that it may mean.
	if k, err := ReadKey(hexSecret, HS256); err != nil || k.ID() == keyed.ID() || !bytes.Equal(k.signer.([]byte), hexSecret) {
		t.Errorf("a secret in hexadecimal: %v %v", k, err)
	}
	// One line end is dropped and no more.
	if k, err := ReadKey(append(bytes.Clone(hexSecret), "\n\n"...), HS256); err != nil || len(k.signer.([]byte)) != len(hexSecret)+1 {
		t.Errorf("two line ends: %v %v", k, err)
	}
}

func TestReadKeyRefuses(t *testing.T) {
	keys := testKeys()
	ed := keys[EdDSA].signer.(ed25519.PrivateKey)
	ec := keys[ES256].signer.(*ecdsa.PrivateKey)
	rs := keys[RS256].signer.(*rsa.PrivateKey)
	secret := bytes.Repeat([]byte{200, 10, 13, 7, 1, 2, 3, 4}, 4)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	other := jwkOf(t, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)))
	public, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	publicPEM := pemOf(t, "PUBLIC KEY", public, err)
	edJWK, ecJWK, rsJWK := jwkOf(t, ed), jwkOf(t, ec), jwkOf(t, rs)
	ecText := string(written(t, ecJWK))
	good := pkcs8(t, ec)
	legacy := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("x")})
	plusOne := func(name string) string {
		b, err := b64Decode(rsJWK[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		return encode(new(big.Int).Add(new(big.Int).SetBytes(b), big.NewInt(1)).Bytes())
	}
	zeroFirst := func(name string) string {
		b, err := b64Decode(rsJWK[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		return encode(append([]byte{0}, b...))
	}

	tests := []struct {
		name string
		file []byte
		say  Alg
		want string
	}{
		{"nothing", nil, "", "no private key"},
		{"anything", []byte("correct horse battery staple, and then some more words"), "", "no private key"},
		{"DER", mustDER(t, ec), "", "no private key"},
		{"too large", bytes.Repeat([]byte("a"), MaxKeyFile+1), HS256, "larger than"},
		{"an unknown algorithm", good, "PS256", "use EdDSA, ES256, RS256 or HS256"},

		{"another algorithm than said", good, EdDSA, "is for ES256, not for EdDSA"},
		{"another than said, RSA", pkcs8(t, rs), ES256, "is for RS256, not for ES256"},
		{"another than said, JWK", written(t, edJWK), RS256, "is for EdDSA, not for RS256"},
		{"PEM as a secret", good, HS256, "it is PEM and not the secret"},
		{"a public key as a secret", publicPEM, HS256, "it is PEM and not the secret"},
		{"a JWK as a secret", written(t, ecJWK), HS256, "it is JSON and not the secret"},
		{"a JWK of a secret", []byte(`{"kty":"oct","k":"` + encode(secret) + `"}`), "", "JWK of a secret"},
		{"a secret not said", []byte(hex.EncodeToString(secret)), "", "no private key"},
		{"a short secret", secret[:31], HS256, "31 bytes; it must have 32 to 512"},
		{"a secret that is short without its line end", append(bytes.Clone(secret[:31]), '\n'), HS256, "31 bytes"},
		{"a long secret", bytes.Repeat([]byte("ab"), 257), HS256, "514 bytes"},
		{"an empty secret", nil, HS256, "0 bytes"},

		{"a public key", publicPEM, "", "public half only"},
		{"a certificate", pemOf(t, "CERTIFICATE", []byte("x"), nil), "", "public half only"},
		{"OpenSSH", pemOf(t, "OPENSSH PRIVATE KEY", []byte("x"), nil), "", "OpenSSH"},
		{"encrypted", pemOf(t, "ENCRYPTED PRIVATE KEY", []byte("x"), nil), "", "encrypted: decrypt it first"},
		{"encrypted, old form", legacy, "", "encrypted: decrypt it first"},
		{"another kind of block", pemOf(t, "DH PARAMETERS", []byte("x"), nil), "", "no private key"},
		{"two keys", append(bytes.Clone(good), pkcs8(t, ed)...), "", "more than one thing"},
		{"a key and half a key", append(bytes.Clone(good), good[:60]...), "", "damaged"},
		{"half a key", good[:len(good)-30], "", "damaged"},
		{"no DER", pemOf(t, "PRIVATE KEY", []byte("no DER at all"), nil), "", "damaged"},
		{"under another name", pemOf(t, "RSA PRIVATE KEY", mustDER(t, ec), nil), "", "damaged"},
		{"P-384", pkcs8(t, p384), "", "on P-384: use one on P-256"},
		{"X25519", pkcs8(t, x25519), "", "does not sign"},
		{"a short RSA key", pkcs8(t, small), "", "1024 bits; it must have 2048 to 8192"},

		{"torn JSON", []byte(ecText[:len(ecText)-1]), "", "not a JWK"},
		{"a member twice", []byte(`{"d":"AA",` + ecText[1:]), "", "not a JWK"},
		{"a member twice in another case", []byte(`{"D":"AA",` + ecText[1:]), "", "not a JWK"},
		{"a member twice, escaped", []byte(`{"\u0064":"AA",` + ecText[1:]), "", "not a JWK"},
		{"two values", []byte(ecText + ecText), "", "not a JWK"},
		{"a set", []byte(`{"keys":[` + ecText + `]}`), "", "a set of keys"},
		{"no kind", written(t, ecJWK, "kty", nil), "", `"kty" must be`},
		{"another kind", written(t, ecJWK, "kty", "ec"), "", `"kty" must be`},
		{"a kind that is no text", written(t, ecJWK, "kty", 1), "", `"kty" of the JWK is not a text`},
		{"a public JWK", written(t, ecJWK, "d", nil), "", "public half only"},
		{"d is null", []byte(strings.Replace(ecText, `"d":"`+ecJWK["d"].(string)+`"`, `"d":null`, 1)), "", `"d"`},
		{"d is empty", written(t, edJWK, "d", ""), "", `"d"`},
		{"d is short", written(t, edJWK, "d", encode(ed.Seed()[:31])), "", `"d" of the JWK must have 32 bytes`},
		{"d is long", written(t, ecJWK, "d", encode(make([]byte, 33))), "", `"d" of the JWK must have 32 bytes`},
		{"d is zero", written(t, ecJWK, "d", encode(make([]byte, 32))), "", "not valid"},
		{"d is padded", written(t, edJWK, "d", edJWK["d"].(string)+"="), "", `"d"`},
		{"x is missing", written(t, edJWK, "x", nil), "", `"x"`},
		{"x of another key, Ed25519", written(t, edJWK, "x", other["x"]), "", "does not belong"},
		{"x of another key, EC", written(t, ecJWK, "x", other["x"]), "", "does not belong"},
		{"another curve", written(t, ecJWK, "crv", "P-384"), "", "on a curve"},
		{"Ed448", written(t, edJWK, "crv", "Ed448"), "", "on a curve"},
		{"X25519 as a JWK", written(t, edJWK, "crv", "X25519"), "", "on a curve"},
		{"no curve", written(t, edJWK, "crv", nil), "", "on a curve"},
		{"for another algorithm", written(t, rsJWK, "alg", "PS256"), "", `"alg" is not RS256`},
		{"for encryption", written(t, ecJWK, "use", "enc"), "", `"use" is not "sig"`},
		{"for verifying only", written(t, ecJWK, "key_ops", []string{"verify"}), "", `"key_ops"`},
		{"RSA without primes", written(t, rsJWK, "p", nil), "", `"p"`},
		{"RSA with more primes", written(t, rsJWK, "oth", []any{}), "", "more than two primes"},
		{"RSA, another n", written(t, rsJWK, "n", plusOne("n")), "", "cannot be used"},
		{"RSA, another d", written(t, rsJWK, "d", plusOne("d")), "", "cannot be used"},
		{"RSA, another p", written(t, rsJWK, "p", plusOne("p")), "", "cannot be used"},
		{"RSA, another dp", written(t, rsJWK, "dp", plusOne("dp")), "", "dp, dq and qi"},
		{"RSA, another qi", written(t, rsJWK, "qi", plusOne("qi")), "", "dp, dq and qi"},
		{"RSA, n with a zero byte", written(t, rsJWK, "n", zeroFirst("n")), "", `"n" of the JWK begins with a zero byte`},
		{"RSA, e is 3", written(t, rsJWK, "e", "Aw"), "", "exponent"},
		{"RSA, a great e", written(t, rsJWK, "e", encode(bytes.Repeat([]byte{255}, 9))), "", "exponent"},
		{"RSA, too long", written(t, rsJWK, "n", encode(bytes.Repeat([]byte{255}, 2048))), "", "longer than"},
		{"RSA, too short", written(t, jwkOf(t, small)), "", "1024 bits"},
	}
	for _, tt := range tests {
		k, err := ReadKey(tt.file, tt.say)
		if err == nil || k != nil {
			t.Errorf("%s: accepted as %v", tt.name, k)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want something with %q", tt.name, err, tt.want)
		}
		showsNothing(t, tt.file, err)
	}
}

// showsNothing fails if an error holds eight characters of a file that are not
// words of ours.
func showsNothing(t *testing.T, file []byte, err error) {
	t.Helper()
	for line := range bytes.Lines(file) {
		for _, word := range strings.FieldsFunc(string(line), func(r rune) bool { return strings.ContainsRune(" \t\r\n\"{}[]:,-", r) }) {
			for i := 0; i+8 <= len(word); i++ {
				if strings.Contains(err.Error(), word[i:i+8]) {
					t.Fatalf("the error shows %q of the file: %v", word[i:i+8], err)
				}
			}
		}
	}
}

func b64Decode(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

func mustDER(t testing.TB, private any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func FuzzReadKey(f *testing.F) {
	for _, a := range []Alg{EdDSA, ES256} {
		k := testKeys()[a]
		f.Add(pkcs8(f, k.signer), "")
		f.Add(written(f, jwkOf(f, k.signer)), string(a))
	}
	f.Add([]byte(`{"kty":"RSA","n":"AQ","e":"AQAB","d":"AQ","p":"AQ","q":"AQ","dp":"AQ","dq":"AQ","qi":"AQ"}`), "")
	f.Add(bytes.Repeat([]byte("s"), 33), "HS256")
	f.Fuzz(func(t *testing.T, file []byte, alg string) {
		k, err := ReadKey(file, Alg(alg))
		if err != nil {
			return
		}
		if alg != "" && k.Alg() != Alg(alg) {
			t.Fatalf("a key for %s was read as one for %s", k.Alg(), alg)
		}
		b, err := k.MarshalPrivate()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParsePrivate(b); err != nil || again.ID() != k.ID() {
			t.Fatalf("%v cannot be stored (%v)", k, err)
		}
	})
}
