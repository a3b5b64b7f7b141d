package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/internal/testkit"
)

// published returns the members of a key as its own JWKS has them.
func published(t testing.TB, alg Alg) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(testKeys()[alg].jwk), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// jwkWith is that key with members replaced; nil removes one.
func jwkWith(t testing.TB, alg Alg, more ...any) string {
	t.Helper()
	m := published(t, alg)
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
		if more[i+1] == nil {
			delete(m, more[i].(string))
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func jwks(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// What one set publishes, another verifies with, under every algorithm.
func TestParseJWKSReadsOurOwn(t *testing.T) {
	keys := testKeys()
	signing := testSet(t, keys[EdDSA], keys[ES256], keys[RS256], keys[HS256])
	s, err := ParseJWKS(signing.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != 3 || s.Active() != nil {
		t.Errorf("%d keys, active %v; want 3 and none", s.Len(), s.Active())
	}
	if _, err := s.Issue(testClaims()); err == nil {
		t.Error("a set of public keys signs")
	}
	if again, err := ParseJWKS(s.JWKS()); err != nil || !bytes.Equal(again.JWKS(), s.JWKS()) {
		t.Errorf("the set does not read what it publishes: %v", err)
	}
	for _, alg := range testAlgs {
		compact, err := testSet(t, keys[alg]).Issue(testClaims())
		if err != nil {
			t.Fatal(err)
		}
		c, err := testVerifier.Verify(s, compact, testNow)
		if want := map[bool]Reason{true: UnknownKey}[alg == HS256]; reasonOf(t, c, err) != want {
			t.Errorf("%s: %v", alg, err)
		}
		if err == nil && c.KeyID != keys[alg].ID() {
			t.Errorf("%s: verified with %s", alg, c.KeyID)
		}
	}
}

func TestParseJWKS(t *testing.T) {
	ed, ec, rs := jwkWith(t, EdDSA), jwkWith(t, ES256), jwkWith(t, RS256)
	x := published(t, EdDSA)["x"].(string)
	n := published(t, RS256)["n"].(string)
	many := func(count int) string {
		var all []string
		for i := range count {
			all = append(all, jwkWith(t, EdDSA, "kid", fmt.Sprint("k", i)))
		}
		return jwks(all...)
	}
	padded := func(size int) string { return strings.Repeat(" ", size-len(jwks(ed))) + jwks(ed) }
	short, _ := decode(n)
	for _, tt := range []struct {
		name, text string
		keys       int    // if it is read
		want       string // part of the error otherwise
	}{
		{"three", jwks(ed, ec, rs), 3, ""},
		{"none", `{"keys":[]}`, 0, ""},
		{"other members of the set", `{"keys":[` + ed + `],"issuer":"x"}`, 1, ""},
		{"other members of a key", jwks(jwkWith(t, EdDSA, "x5u", "https://x", "x5t", "y", "exp", 5, "ext", true)), 1, ""},
		{"a kid of its own", jwks(jwkWith(t, EdDSA, "kid", "2026-01 “a\"b”")), 1, ""},
		{"without alg", jwks(jwkWith(t, EdDSA, "alg", nil), jwkWith(t, ES256, "alg", nil), jwkWith(t, RS256, "alg", nil)), 3, ""},
		{"without use", jwks(jwkWith(t, EdDSA, "use", nil)), 1, ""},
		{"key_ops verify", jwks(jwkWith(t, EdDSA, "key_ops", []string{"verify"})), 1, ""},
		{"one key twice under two kids", jwks(ed, jwkWith(t, EdDSA, "kid", "b")), 2, ""},
		{"the most keys", many(MaxJWKSKeys), MaxJWKSKeys, ""},
		{"the most bytes", padded(MaxJWKS), 1, ""},

		{"use enc is skipped", jwks(ed, jwkWith(t, ES256, "use", "enc")), 1, ""},
		{"key_ops for another thing is skipped", jwks(ed, jwkWith(t, ES256, "key_ops", []string{"deriveKey"})), 1, ""},
		{"another alg is skipped", jwks(ed, jwkWith(t, RS256, "alg", "PS256")), 1, ""},
		{"alg none is skipped", jwks(jwkWith(t, RS256, "alg", "none")), 0, ""},
		{"another kty is skipped", jwks(ed, `{"kty":"AKP","alg":"ML-DSA-44","kid":"pq","pub":"AA"}`), 1, ""},
		{"another curve is skipped", jwks(ed, `{"kty":"EC","crv":"P-521","kid":"b","x":"AA","y":"AA"}`, `{"kty":"OKP","crv":"X25519","x":"AA"}`), 1, ""},
		{"a skipped key needs no kid of its own", jwks(ed, jwkWith(t, ES256, "use", "enc", "kid", testKeys()[EdDSA].ID())), 1, ""},
		{"a type made of two words", jwks(`{"kty":"EC P-256","crv":"","kid":"b"}`), 0, `member "crv"`},

		{"too long", padded(MaxJWKS + 1), 0, "more than 65536 bytes"},
		{"too many", many(MaxJWKSKeys + 1), 0, "65 keys"},
		{"empty", "", 0, "invalid_json"},
		{"null", "null", 0, "not a JSON object"},
		{"an array", "[" + ed + "]", 0, "not a JSON object"},
		{"a bare key", ed, 0, `no array "keys"`},
		{"keys is null", `{"keys":null}`, 0, `no array "keys"`},
		{"keys is an object", `{"keys":{}}`, 0, `no array "keys"`},
		{"a key is null", `{"keys":[null]}`, 0, "not a JSON object"},
		{"keys twice", `{"keys":[` + ed + `],"keys":[]}`, 0, "duplicate_member"},
		{"keys in two cases", `{"keys":[` + ed + `],"KEYS":[]}`, 0, "duplicate_member"},
		{"kid twice", jwks(strings.Replace(ed, "{", `{"kid":"x",`, 1)), 0, "duplicate_member"},
		{"kid with a Kelvin sign", jwks(strings.Replace(ed, "{", `{"\u212aid":"x",`, 1)), 0, "duplicate_member"},
		{"deep", jwks(jwkWith(t, EdDSA, "z", json.RawMessage(strings.Repeat("[", 9)+strings.Repeat("]", 9)))), 0, "too_deep"},
		{"more behind it", jwks(ed) + "x", 0, "trailing_data"},

		{"no kid", jwks(jwkWith(t, EdDSA, "kid", nil)), 0, "kid"},
		{"empty kid", jwks(jwkWith(t, EdDSA, "kid", "")), 0, "kid"},
		{"kid is a number", jwks(jwkWith(t, EdDSA, "kid", 5)), 0, "kid"},
		{"kid is null", jwks(jwkWith(t, EdDSA, "kid", json.RawMessage("null"))), 0, "kid"},
		{"kid with a line end", jwks(jwkWith(t, EdDSA, "kid", "a\nb")), 0, "kid"},
		{"long kid", jwks(jwkWith(t, EdDSA, "kid", strings.Repeat("k", 256))), 0, "kid"},
		{"two of one kid", jwks(jwkWith(t, EdDSA, "kid", "a"), jwkWith(t, ES256, "kid", "a")), 0, "key 1: another key has the same kid"},
		{"no kty", jwks(jwkWith(t, EdDSA, "kty", nil)), 0, "no kty"},
		{"alg of another type of key", jwks(jwkWith(t, RS256, "alg", "ES256")), 0, "contradict"},
		{"RSA for HMAC", jwks(jwkWith(t, RS256, "alg", "HS256")), 0, "contradict"},
		{"a secret", jwks(`{"kty":"oct","kid":"a","alg":"HS256","k":"` + x + `"}`), 0, `private member "k"`},
		{"a secret without its value", jwks(`{"kty":"oct","kid":"a","alg":"HS256"}`), 0, "no place in a JWKS"},
		{"private OKP", jwks(jwkWith(t, EdDSA, "d", x)), 0, `private member "d"`},
		{"private part of a key that is skipped", jwks(ed, jwkWith(t, ES256, "use", "enc", "d", x)), 0, `private member "d"`},
		{"a prime", jwks(jwkWith(t, RS256, "p", "AQAB")), 0, `private member "p"`},
		{"other primes", jwks(jwkWith(t, RS256, "oth", []string{})), 0, `private member "oth"`},
		{"use is a list", jwks(jwkWith(t, EdDSA, "use", []string{"sig"})), 0, `member "use"`},
		{"key_ops is a text", jwks(jwkWith(t, EdDSA, "key_ops", "verify")), 0, `member "key_ops"`},

		{"x absent", jwks(jwkWith(t, EdDSA, "x", nil)), 0, `member "x"`},
		{"x short", jwks(jwkWith(t, EdDSA, "x", x[:42])), 0, `member "x"`},
		{"x padded", jwks(jwkWith(t, EdDSA, "x", x+"=")), 0, `member "x"`},
		{"x with a line end", jwks(jwkWith(t, EdDSA, "x", x+"\n")), 0, `member "x"`},
		{"y absent", jwks(jwkWith(t, ES256, "y", nil)), 0, `member "y"`},
		{"off the curve", jwks(jwkWith(t, ES256, "y", x)), 0, "not a point"},
		{"1024 bits", jwks(jwkWith(t, RS256, "n", encode(append([]byte{0x80}, short[len(short)-127:]...)))), 0, "1024 bits"},
		{"an even modulus", jwks(jwkWith(t, RS256, "n", encode(append(slices.Clone(short[:len(short)-1]), 2)))), 0, "even"},
		{"a modulus with a zero in front", jwks(jwkWith(t, RS256, "n", encode(append([]byte{0}, short...)))), 0, "zero byte"},
		{"exponent 3", jwks(jwkWith(t, RS256, "e", "Aw")), 0, "exponent"},
		{"exponent 1", jwks(jwkWith(t, RS256, "e", "AQ")), 0, "exponent"},
		{"a huge exponent", jwks(jwkWith(t, RS256, "e", n)), 0, "31 bits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseJWKS([]byte(tt.text))
			switch {
			case tt.want == "" && (err != nil || s.Len() != tt.keys):
				t.Fatalf("%v, %v; want %d keys", s, err, tt.keys)
			case tt.want != "" && (err == nil || s != nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("%v, %v; want an error about %q", s, err, tt.want)
			case err != nil && (strings.Contains(err.Error(), x) || strings.Contains(err.Error(), n)):
				t.Error("the error holds a part of the text")
			}
		})
	}
}

// Sets that go-jose makes, with ids of its users' choice, and tokens that it
// signs.
func TestParseJWKSOfGoJose(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs := testKeys()[RS256].signer
	var doc jose.JSONWebKeySet
	private := map[string]jose.JSONWebKey{
		"ed-1": {Key: ed, KeyID: "ed-1", Algorithm: "EdDSA", Use: "sig"},
		"ec 2": {Key: ec, KeyID: "ec 2", Algorithm: "ES256"},
		"rs/3": {Key: rs, KeyID: "rs/3", Algorithm: "RS256", Use: "sig"},
	}
	for _, kid := range slices.Sorted(maps.Keys(private)) {
		k := private[kid]
		doc.Keys = append(doc.Keys, k.Public())
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseJWKS(b)
	if err != nil || s.Len() != 3 {
		t.Fatal(s, err)
	}
	for kid, k := range private {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k},
			(&jose.SignerOptions{}).WithType("at+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign([]byte(goodPayload))
		if err != nil {
			t.Fatal(err)
		}
		compact, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		if c, err := testVerifier.Verify(s, compact, testNow); err != nil || c.KeyID != kid {
			t.Errorf("%s: %+v, %v", kid, c, err)
		}
	}
	// The other direction: go-jose reads what the set publishes.
	var again jose.JSONWebKeySet
	if err := json.Unmarshal(s.JWKS(), &again); err != nil || len(again.Key("ec 2")) != 1 {
		t.Errorf("%d keys, %v", len(again.Keys), err)
	}
	// The private keys are refused as they are.
	b, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private["ed-1"]}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseJWKS(b); err == nil {
		t.Error("a private key is accepted")
	}
}

// Wycheproof's sets of public keys: with each, its token is accepted or not.
func TestParseJWKSWycheproof(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Public, Private json.RawMessage
			Tests           []struct {
				TcID                 int
				Comment, JWS, Result string
			}
		}
	}
	readVectors(t, "wycheproof/json_web_key_test.json", &file)
	public, private := 0, 0
	for _, g := range file.TestGroups {
		for _, tc := range g.Tests {
			if g.Public == nil { // sets of secrets, valid ones too
				private++
				if _, err := ParseJWKS(g.Private); err == nil {
					t.Errorf("%d %s: a set with secrets is accepted", tc.TcID, tc.Comment)
				}
				continue
			}
			if tc.TcID == 7 { // a weakness of the chip that made the key: not to be seen here
				continue
			}
			public++
			s, err := ParseJWKS(g.Public)
			accepted := false
			if err == nil {
				for _, k := range s.byID {
					if _, err := verifyJWS(k, tc.JWS); err == nil {
						accepted = true
					}
				}
			}
			if accepted != (tc.Result == "valid") {
				t.Errorf("%d %s: accepted %v (%v), want %s", tc.TcID, tc.Comment, accepted, err, tc.Result)
			}
		}
	}
	if public != 10 || private != 15 {
		t.Errorf("%d public and %d private sets, want 10 and 15", public, private)
	}
}

// RFC 7520, section 3, has a key of each kind.
func TestParseJWKSCookbook(t *testing.T) {
	for file, want := range map[string]int{
		"3_1.ec_public_key": 0, "3_3.rsa_public_key": 1, // the first is on P-521
		"3_2.ec_private_key": -1, "3_4.rsa_private_key": -1,
		"3_5.symmetric_key_mac_computation": -1, "3_6.symmetric_key_encryption": -1,
	} {
		b, err := os.ReadFile(testkit.Vectors(t, "jose-cookbook-rfc7520/jwk/"+file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		switch s, err := ParseJWKS([]byte(jwks(string(b)))); {
		case want < 0 && err == nil:
			t.Errorf("%s: accepted", file)
		case want >= 0 && (err != nil || s.Len() != want):
			t.Errorf("%s: %v, want %d keys", file, err, want)
		}
	}
}

func FuzzParseJWKS(f *testing.F) {
	f.Add(jwks(jwkWith(f, EdDSA), jwkWith(f, ES256)))
	f.Add(jwks(jwkWith(f, RS256, "kid", "é")))
	f.Add(jwks(jwkWith(f, EdDSA, "use", "enc")))
	f.Add(`{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Add(`{"keys":[null]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseJWKS([]byte(text))
		if err != nil {
			return
		}
		for kid, k := range s.byID {
			if k.alg == HS256 || k.signer != nil || kid == "" || kid != k.id {
				t.Fatalf("%v under %q", k, kid)
			}
		}
		// An independent reading finds the same keys.
		var doc jose.JSONWebKeySet
		if err := json.Unmarshal(s.JWKS(), &doc); err != nil || len(doc.Keys) != s.Len() {
			t.Fatalf("go-jose reads %d of %d keys: %v", len(doc.Keys), s.Len(), err)
		}
		again, err := ParseJWKS(s.JWKS())
		if err != nil || !bytes.Equal(again.JWKS(), s.JWKS()) {
			t.Fatalf("the set does not read what it publishes: %v", err)
		}
	})
}
