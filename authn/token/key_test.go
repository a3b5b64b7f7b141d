package token

//lint:file-ignore SA1019 Keys that are broken can only be made field by field.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
)

func TestGenerate(t *testing.T) {
	for _, a := range testAlgs {
		k := testKeys()[a]
		other, err := Generate(a)
		if err != nil {
			t.Fatal(err)
		}
		if k.Alg() != a || len(k.ID()) != 43 || k.ID() == other.ID() {
			t.Errorf("%v and %v", k, other)
		}
		sig, err := k.sign([]byte("x"))
		if err != nil || !k.verify([]byte("x"), sig) || k.verify([]byte("y"), sig) || other.verify([]byte("x"), sig) {
			t.Errorf("%v does not verify what it signs, or verifies more (%v)", k, err)
		}
	}
	if bits := testKeys()[RS256].verifier.(*rsa.PublicKey).N.BitLen(); bits != 3072 {
		t.Errorf("the RSA key has %d bits", bits)
	}
	for _, a := range []Alg{"", "none", "None", "eddsa", "HS512", "PS256", "ES384", "Ed25519", "EdDSA "} {
		if _, err := Generate(a); err == nil || a.Check() == nil {
			t.Errorf("algorithm %q is accepted", a)
		}
	}
}

func TestNewKey(t *testing.T) {
	ed := testKeys()[EdDSA].signer.(ed25519.PrivateKey)
	ec := testKeys()[ES256].signer.(*ecdsa.PrivateKey)
	rs := testKeys()[RS256].signer.(*rsa.PrivateKey)
	secret := bytes.Repeat([]byte{7}, 32)

	_, ed2, _ := ed25519.GenerateKey(rand.Reader)
	ec2, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "rsa1024min=0")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	rsaWith := func(change func(k *rsa.PrivateKey)) *rsa.PrivateKey {
		k := &rsa.PrivateKey{
			PublicKey: rsa.PublicKey{N: new(big.Int).Set(rs.N), E: rs.E},
			D:         new(big.Int).Set(rs.D),
			Primes:    []*big.Int{new(big.Int).Set(rs.Primes[0]), new(big.Int).Set(rs.Primes[1])},
		}
		change(k)
		return k
	}

	for _, tt := range []struct {
		name    string
		alg     Alg
		private any
		ok      bool
	}{
		{"EdDSA", EdDSA, ed, true},
		{"ES256", ES256, ec, true},
		{"RS256", RS256, rs, true},
		{"RS256 not precomputed", RS256, rsaWith(func(*rsa.PrivateKey) {}), true},
		{"HS256", HS256, secret, true},
		{"HS256, longest", HS256, make([]byte, 512), true},

		{"EdDSA key for ES256", ES256, ed, false},
		{"EdDSA key for HS256", HS256, ed, false},
		{"ES256 key for EdDSA", EdDSA, ec, false},
		{"ES256 key for RS256", RS256, ec, false},
		{"RSA key for ES256", ES256, rs, false},
		{"RSA key for HS256", HS256, rs, false},
		{"RSA key for PS256", "PS256", rs, false},
		{"secret for EdDSA", EdDSA, secret, false},
		{"secret for none", "none", secret, false},
		{"nothing", EdDSA, nil, false},
		{"public EdDSA key", EdDSA, ed.Public(), false},
		{"public EdDSA key for HS256", HS256, ed.Public(), false},
		{"public ES256 key", ES256, &ec.PublicKey, false},
		{"public RSA key", RS256, &rs.PublicKey, false},
		{"text", HS256, strings.Repeat("x", 32), false},

		{"EdDSA, foreign public half", EdDSA, ed25519.PrivateKey(append(ed.Seed(), ed2[32:]...)), false},
		{"EdDSA, seed only", EdDSA, ed25519.PrivateKey(ed.Seed()), false},
		{"EdDSA, empty", EdDSA, ed25519.PrivateKey(nil), false},
		{"ES256, nil", ES256, (*ecdsa.PrivateKey)(nil), false},
		{"ES256, empty", ES256, &ecdsa.PrivateKey{}, false},
		{"ES256, only a curve", ES256, &ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: elliptic.P256()}}, false},
		{"ES256, no private part", ES256, &ecdsa.PrivateKey{PublicKey: ec.PublicKey}, false},
		{"ES256, P-384", ES256, p384, false},
		{"ES256, foreign public half", ES256, &ecdsa.PrivateKey{PublicKey: ec2.PublicKey, D: ec.D}, false},
		{"ES256, zero", ES256, &ecdsa.PrivateKey{PublicKey: ec.PublicKey, D: new(big.Int)}, false},
		{"ES256, not on the curve", ES256, &ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: elliptic.P256(), X: ec.X, Y: ec.X}, D: ec.D}, false},
		{"RS256, nil", RS256, (*rsa.PrivateKey)(nil), false},
		{"RS256, empty", RS256, &rsa.PrivateKey{}, false},
		{"RS256, 1024 bits", RS256, small, false},
		{"RS256, huge", RS256, rsaWith(func(k *rsa.PrivateKey) { k.N.Lsh(k.N, 8192) }), false},
		{"RS256, exponent 3", RS256, rsaWith(func(k *rsa.PrivateKey) { k.E = 3 }), false},
		{"RS256, exponent 1", RS256, rsaWith(func(k *rsa.PrivateKey) { k.E = 1 }), false},
		{"RS256, even exponent", RS256, rsaWith(func(k *rsa.PrivateKey) { k.E = 65538 }), false},
		{"RS256, other exponent", RS256, rsaWith(func(k *rsa.PrivateKey) { k.E = 65539 }), false},
		{"RS256, wrong private exponent", RS256, rsaWith(func(k *rsa.PrivateKey) { k.D.Add(k.D, big.NewInt(2)) }), false},
		{"RS256, wrong prime", RS256, rsaWith(func(k *rsa.PrivateKey) { k.Primes[0].Add(k.Primes[0], big.NewInt(2)) }), false},
		{"RS256, no primes", RS256, rsaWith(func(k *rsa.PrivateKey) { k.Primes = nil }), false},
		{"RS256, three primes", RS256, rsaWith(func(k *rsa.PrivateKey) { k.Primes = append(k.Primes, big.NewInt(3)) }), false},
		{"HS256, 31 bytes", HS256, secret[:31], false},
		{"HS256, five bytes", HS256, []byte("short"), false},
		{"HS256, empty", HS256, []byte{}, false},
		{"HS256, 513 bytes", HS256, make([]byte, 513), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := NewKey(tt.alg, tt.private)
			if (err == nil) != tt.ok {
				t.Fatalf("NewKey: %v, want accepted: %v", err, tt.ok)
			}
			if err == nil && (k.alg != tt.alg || k.signer == nil) {
				t.Errorf("%v", k)
			}
		})
	}
}

// The key is a copy: what the caller does with its own changes nothing.
func TestNewKeyCopies(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 32)
	k, err := NewKey(HS256, secret)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := k.sign([]byte("x"))
	clear(secret)
	if after, _ := k.sign([]byte("x")); !bytes.Equal(before, after) {
		t.Error("the secret is shared with the caller")
	}

	_, private, _ := ed25519.GenerateKey(rand.Reader)
	if k, err = NewKey(EdDSA, private); err != nil {
		t.Fatal(err)
	}
	before, _ = k.sign([]byte("x"))
	clear(private)
	if after, _ := k.sign([]byte("x")); !bytes.Equal(before, after) {
		t.Error("the Ed25519 key is shared with the caller")
	}

	out, _ := k.MarshalPrivate()
	clear(out)
	if after, _ := k.sign([]byte("x")); !bytes.Equal(before, after) {
		t.Error("MarshalPrivate hands out the key itself")
	}
}

func TestMarshalPrivate(t *testing.T) {
	for _, a := range testAlgs {
		t.Run(string(a), func(t *testing.T) {
			k := testKeys()[a]
			b, err := k.MarshalPrivate()
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParsePrivate(b)
			if err != nil {
				t.Fatal(err)
			}
			if again.ID() != k.ID() || again.Alg() != a {
				t.Errorf("%v became %v", k, again)
			}
			sig, err := again.sign([]byte("x"))
			if err != nil || !k.verify([]byte("x"), sig) {
				t.Errorf("%v does not verify its copy's signature (%v)", k, err)
			}

			body := strings.TrimPrefix(string(b), "v1:"+string(a)+":")
			bad := []string{
				"", "v1", "v1:", "v1:" + string(a), "v1:" + string(a) + ":", body, "v2:" + string(a) + ":" + body, ":" + string(a) + ":" + body,
				"v1:none:" + body, "v1::" + body, "v1:" + strings.ToLower(string(a)) + ":" + body, "v1: " + string(a) + ":" + body,
			}
			for _, other := range testAlgs {
				if other != a && other != HS256 { // any bytes of the right number are an HMAC secret
					bad = append(bad, "v1:"+string(other)+":"+body)
				}
			}
			if a != HS256 {
				bad = append(bad, string(b)+"x", string(b[:len(b)-1]), "v1:HS256:"+body+strings.Repeat("x", maxSecret))
			}
			for _, in := range bad {
				if _, err := ParsePrivate([]byte(in)); err == nil {
					t.Errorf("ParsePrivate accepts %.20q… of %d bytes", in, len(in))
				}
			}
		})
	}
	// A public part that does not belong to the private one is not repaired.
	ec, err := testKeys()[ES256].MarshalPrivate()
	if err != nil {
		t.Fatal(err)
	}
	ec[len(ec)-1] ^= 1
	if _, err := ParsePrivate(ec); err == nil {
		t.Error("ParsePrivate accepts a changed public part")
	}
	k, err := newVerifying(EdDSA, testKeys()[EdDSA].verifier)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.MarshalPrivate(); err == nil {
		t.Error("a key without a private part was marshalled")
	}
	if _, err := k.sign(nil); err == nil {
		t.Error("a key without a private part signs")
	}
}

func FuzzParsePrivate(f *testing.F) {
	for _, a := range testAlgs {
		if b, err := testKeys()[a].MarshalPrivate(); err == nil && a != RS256 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParsePrivate(b)
		if err != nil {
			return
		}
		if again, err := k.MarshalPrivate(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v has two stored forms (%v)", k, err)
		}
	})
}

// secretOf is the part of a key that nobody may see.
func secretOf(t *testing.T, k *Key) []byte {
	t.Helper()
	switch p := k.signer.(type) {
	case ed25519.PrivateKey:
		return p.Seed()
	case *ecdsa.PrivateKey:
		b, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	case *rsa.PrivateKey:
		return p.D.Bytes()
	}
	return k.signer.([]byte)
}

// A key shows neither its private part nor, for HS256, a digest of it.
func TestKeyIsRedacted(t *testing.T) {
	for _, a := range testAlgs {
		k := testKeys()[a]
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "pointer", k, "value", *k)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "pointer", k, "value", *k)
		asJSON, err := json.Marshal(map[string]any{"key": k})
		if err != nil {
			t.Fatal(err)
		}
		s := testSet(t, k)
		shown := log.String() + string(asJSON) +
			fmt.Sprintf("%v %+v %#v %s %v %+v %#v %v %+v %#v", k, k, k, k, *k, *k, *k, s, s, s)
		secret := secretOf(t, k)
		for _, form := range []string{
			string(secret), encode(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%v", secret), strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"),
			fmt.Sprint(secret[0], " ", secret[1], " ", secret[2], " ", secret[3]),
		} {
			if strings.Contains(shown, form) {
				t.Errorf("%v shows its private part: %s", k, shown)
			}
		}
		if !strings.Contains(shown, "token.Key("+string(a)+" "+k.id+")") {
			t.Errorf("%v is not shown at all", k)
		}
	}
}

func TestSecretID(t *testing.T) {
	a, err := NewKey(HS256, bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewKey(HS256, bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if a.ID() == b.ID() || len(a.ID()) != 43 {
		t.Errorf("%v, %v", a, b)
	}
	// HMAC-SHA256(key = 32 × 0x01, "sallyport HS256 key id"): stored keys and
	// live tokens depend on it.
	if want := "IOnxqZbUoJVY5l562dmx0Ff8oYgYU42xwIBucSUskr4"; a.ID() != want {
		t.Errorf("id = %s, want %s", a.ID(), want)
	}
}
