package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testAlgs = []Alg{EdDSA, ES256, RS256, HS256}

// testKeys are made once: an RSA key takes a while.
var testKeys = sync.OnceValue(func() map[Alg]*Key {
	m := make(map[Alg]*Key)
	for _, a := range testAlgs {
		k, err := Generate(a)
		if err != nil {
			panic(err)
		}
		m[a] = k
	}
	return m
})

func testSet(t testing.TB, active *Key, others ...*Key) *Set {
	t.Helper()
	s, err := NewSet(active, others...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	testIssuer   = "https://id.example.com"
	testAudience = "https://api.example.com"
)

var (
	testNow      = time.Unix(1_800_000_000, 0).UTC()
	testVerifier = Verifier{Issuer: testIssuer, Audience: testAudience}
)

func testClaims() Claims {
	return Claims{
		Issuer: testIssuer, Subject: "0198c2f0-user", Audience: []string{testAudience},
		ClientID: "docs", ID: "0198c2f0-token", Session: "0198c2f0-session",
		IssuedAt: testNow, Expires: testNow.Add(15 * time.Minute), AuthTime: testNow.Add(-time.Hour),
		Scoped: true, Scope: []string{"read:items", "write:items"}, AMR: []string{"pwd", "otp"},
	}
}

// goodHeader and goodPayload are the texts of a valid token.
func goodHeader(k *Key) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, k.alg, k.id)
}

const goodPayload = `{"iss":"https://id.example.com","sub":"u","aud":"https://api.example.com","client_id":"c","jti":"j","sid":"s","iat":1800000000,"exp":1800000900}`

// signed returns a token of any header and payload with a genuine signature.
func signed(t testing.TB, k *Key, header, payload string) string {
	t.Helper()
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	sig, err := k.sign([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + encode(sig)
}

func reasonOf(t testing.TB, c Claims, err error) Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	if !reflect.DeepEqual(c, Claims{}) {
		t.Errorf("claims come with an error: %+v", c)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error is a %T: %v", err, err)
	}
	return e.Reason
}

// eachAlg runs f with every algorithm's key, alone in a set, after checking
// that a token made rightly with it is accepted.
func eachAlg(t *testing.T, f func(t *testing.T, k *Key, s *Set)) {
	for _, a := range testAlgs {
		t.Run(string(a), func(t *testing.T) {
			k := testKeys()[a]
			s := testSet(t, k)
			if _, err := testVerifier.Verify(s, signed(t, k, goodHeader(k), goodPayload), testNow); err != nil {
				t.Fatalf("the positive control is refused: %v", err)
			}
			f(t, k, s)
		})
	}
}

func TestIssue(t *testing.T) {
	eachAlg(t, func(t *testing.T, k *Key, s *Set) {
		want := testClaims()
		compact, err := s.Issue(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := testVerifier.Verify(s, compact, testNow)
		if err != nil {
			t.Fatal(err)
		}
		want.KeyID = s.Active().ID()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("claims = %+v, want %+v", got, want)
		}
		parts := strings.Split(compact, ".")
		header, _ := decode(parts[0])
		if string(header) != goodHeader(k) {
			t.Errorf("header = %s", header)
		}
		payload, _ := decode(parts[1])
		const wantPayload = `{"iss":"https://id.example.com","sub":"0198c2f0-user","aud":"https://api.example.com","client_id":"docs","jti":"0198c2f0-token","sid":"0198c2f0-session","iat":1800000000,"exp":1800000900,"auth_time":1799996400,"scope":"read:items write:items","amr":["pwd","otp"]}`
		if string(payload) != wantPayload {
			t.Errorf("payload = %s, want %s", payload, wantPayload)
		}
	})
}

func TestIssueVariants(t *testing.T) {
	s := testSet(t, testKeys()[EdDSA])
	for _, tt := range []struct {
		name   string
		change func(c *Claims)
		want   func(c *Claims) // what differs after the round trip
	}{
		{"not scoped", func(c *Claims) { c.Scoped, c.Scope = false, nil }, nil},
		{"scoped to nothing", func(c *Claims) { c.Scope = nil }, nil},
		{"several audiences", func(c *Claims) { c.Audience = []string{"a", testAudience, "b"} }, nil},
		{"never signed in", func(c *Claims) { c.AuthTime = time.Time{} }, nil},
		{"no client and no session", func(c *Claims) { c.ClientID, c.Session = "", "" }, nil},
		{"text that JSON escapes", func(c *Claims) { c.Subject = `"\/<ü>😀&` + "\u2028" }, nil},
		{
			"parts of a second", func(c *Claims) {
				c.IssuedAt = c.IssuedAt.Add(999 * time.Millisecond)
				c.Expires = c.Expires.Add(time.Nanosecond)
			},
			func(c *Claims) { c.IssuedAt, c.Expires = testNow, testNow.Add(15*time.Minute) },
		},
		{"another time zone", func(c *Claims) { c.Expires = c.Expires.In(time.FixedZone("x", 3600)) }, func(c *Claims) { c.Expires = c.Expires.UTC() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testClaims()
			tt.change(&c)
			compact, err := s.Issue(c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := testVerifier.Verify(s, compact, testNow)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want != nil {
				tt.want(&c)
			}
			c.KeyID = s.Active().ID()
			if !reflect.DeepEqual(got, c) {
				t.Errorf("claims = %+v, want %+v", got, c)
			}
		})
	}
}

func TestIssueRefuses(t *testing.T) {
	s := testSet(t, testKeys()[EdDSA])
	many := func(n int, f string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(f, i))
		}
		return list
	}
	for _, tt := range []struct {
		claim  string
		change func(c *Claims)
	}{
		{"iss", func(c *Claims) { c.Issuer = "" }},
		{"iss", func(c *Claims) { c.Issuer = strings.Repeat("x", 256) }},
		{"sub", func(c *Claims) { c.Subject = "" }},
		{"sub", func(c *Claims) { c.Subject = "a\xff" }},
		{"sub", func(c *Claims) { c.Subject = "a\nb" }},
		{"sub", func(c *Claims) { c.Subject = "a\u0085b" }},
		{"aud", func(c *Claims) { c.Audience = nil }},
		{"aud", func(c *Claims) { c.Audience = []string{""} }},
		{"aud", func(c *Claims) { c.Audience = []string{"a", "a"} }},
		{"aud", func(c *Claims) { c.Audience = many(17, "a%d") }},
		{"client_id", func(c *Claims) { c.ClientID = "a\x00" }},
		{"jti", func(c *Claims) { c.ID = "" }},
		{"sid", func(c *Claims) { c.Session = strings.Repeat("x", 256) }},
		{"iat", func(c *Claims) { c.IssuedAt = time.Time{} }},
		{"iat", func(c *Claims) { c.IssuedAt = time.Unix(0, 0) }},
		{"exp", func(c *Claims) { c.Expires = time.Time{} }},
		{"exp", func(c *Claims) { c.Expires = c.IssuedAt }},
		{"exp", func(c *Claims) { c.Expires = c.IssuedAt.Add(time.Second - 1) }},
		{"exp", func(c *Claims) { c.Expires = time.Unix(maxSeconds+1, 0) }},
		{"auth_time", func(c *Claims) { c.AuthTime = time.Unix(-1, 0) }},
		{"scope", func(c *Claims) { c.Scoped = false }},
		{"scope", func(c *Claims) { c.Scope = []string{""} }},
		{"scope", func(c *Claims) { c.Scope = []string{"a b"} }},
		{"scope", func(c *Claims) { c.Scope = []string{`a"b`} }},
		{"scope", func(c *Claims) { c.Scope = []string{`a\b`} }},
		{"scope", func(c *Claims) { c.Scope = []string{"ä"} }},
		{"scope", func(c *Claims) { c.Scope = many(1000, "scope%d") }},
		{"amr", func(c *Claims) { c.AMR = []string{"pwd", ""} }},
		{"amr", func(c *Claims) { c.AMR = many(17, "m%d") }},
	} {
		c := testClaims()
		tt.change(&c)
		if _, err := s.Issue(c); err == nil || !strings.Contains(err.Error(), "claim "+tt.claim+" ") {
			t.Errorf("%+v: error = %v, want one about %s", c, err, tt.claim)
		}
	}
	c := testClaims()
	c.Audience = many(16, strings.Repeat("<", 250)+"%d") // JSON writes six characters for each
	if _, err := s.Issue(c); err == nil || !strings.Contains(err.Error(), "characters") {
		t.Errorf("error = %v, want one about the length", err)
	}
	for _, s := range []*Set{nil, {}} {
		if _, err := s.Issue(testClaims()); err == nil {
			t.Error("a set without keys issues")
		}
		if c, err := testVerifier.Verify(s, signed(t, testKeys()[EdDSA], goodHeader(testKeys()[EdDSA]), goodPayload), testNow); reasonOf(t, c, err) != UnknownKey {
			t.Errorf("a set without keys verifies: %v", err)
		}
	}
}

// Property: what was issued is what is verified, whatever it says and whichever
// algorithm signs.
func TestRoundTrip(t *testing.T) {
	text := rapid.StringOfN(rapid.Rune(), 0, 20, 80).Filter(plain)
	full := text.Filter(func(s string) bool { return s != "" })
	list := func(min int) *rapid.Generator[[]string] {
		return rapid.SliceOfNDistinct(full, min, 4, rapid.ID[string])
	}
	eachAlg(t, func(t *testing.T, k *Key, s *Set) {
		rapid.Check(t, func(t *rapid.T) {
			iat := rapid.Int64Range(1, maxSeconds-2).Draw(t, "iat")
			c := Claims{
				Issuer: full.Draw(t, "iss"), Subject: full.Draw(t, "sub"), Audience: list(1).Draw(t, "aud"),
				ClientID: text.Draw(t, "client_id"), ID: full.Draw(t, "jti"), Session: text.Draw(t, "sid"),
				IssuedAt: time.Unix(iat, 0).UTC(),
				Expires:  time.Unix(rapid.Int64Range(iat+1, maxSeconds).Draw(t, "exp"), 0).UTC(),
				Scoped:   rapid.Bool().Draw(t, "scoped"),
			}
			if rapid.Bool().Draw(t, "signed in") {
				c.AuthTime = time.Unix(rapid.Int64Range(1, maxSeconds).Draw(t, "auth_time"), 0).UTC()
			}
			if c.Scoped {
				c.Scope = emptyAsNil(rapid.SliceOfN(rapid.StringMatching(`[!#-\[\]-~]{1,20}`), 0, 5).Draw(t, "scope"))
			}
			c.AMR = emptyAsNil(list(0).Draw(t, "amr"))
			compact, err := s.Issue(c)
			if err != nil {
				t.Fatal(err)
			}
			v := Verifier{Issuer: c.Issuer, Audience: c.Audience[len(c.Audience)-1]}
			got, err := v.Verify(s, compact, c.IssuedAt)
			if err != nil {
				t.Fatal(err)
			}
			c.KeyID = s.Active().ID()
			if !reflect.DeepEqual(got, c) {
				t.Fatalf("claims = %+v, want %+v", got, c)
			}
		})
	})
}

func emptyAsNil(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// J: headers, every one with a genuine signature of the key that verifies, so
// that nothing but the rule under test refuses it.
func TestHeader(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer srv.Close()
	eachAlg(t, func(t *testing.T, k *Key, s *Set) {
		alg, kid := string(k.alg), k.id
		with := func(member string) string { return strings.TrimSuffix(goodHeader(k), "}") + "," + member + "}" }
		jwk := k.jwk
		if jwk == "" {
			jwk = `{"kty":"oct","k":"` + encode(k.verifier.([]byte)) + `"}`
		}
		type tc struct {
			name, header string
			want         Reason
		}
		tests := []tc{
			{"other order and white space", fmt.Sprintf("{ \"typ\" : \"at+jwt\",\r\n \"kid\":%q,\t\"alg\":%q }", kid, alg), ""},
			{"escaped", strings.Replace(goodHeader(k), `"alg"`, `"\u0061lg"`, 1), ""},

			{"alg missing", fmt.Sprintf(`{"kid":%q,"typ":"at+jwt"}`, kid), WrongAlgorithm},
			{"kid missing", fmt.Sprintf(`{"alg":%q,"typ":"at+jwt"}`, alg), UnknownKey},
			{"typ missing", fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, kid), WrongType},
			{"jwk", with(`"jwk":` + jwk), Malformed}, // an object is deeper than a header may be
			{"jwk as text", with(fmt.Sprintf(`"jwk":%q`, jwk)), UnexpectedHeader},
			{"jku", with(`"jku":"` + srv.URL + `/jwks.json"`), UnexpectedHeader},
			{"x5u", with(`"x5u":"` + srv.URL + `/cert.pem"`), UnexpectedHeader},
			{"x5c", with(`"x5c":["MIIB"]`), Malformed},
			{"x5t", with(`"x5t":"AAAA"`), UnexpectedHeader},
			{"crit", with(`"crit":["exp"]`), Malformed},
			{"crit empty", with(`"crit":[]`), Malformed},
			{"crit as text", with(`"crit":"b64"`), UnexpectedHeader},
			{"b64 false", with(`"b64":false`), UnexpectedHeader},
			{"b64 true", with(`"b64":true`), UnexpectedHeader},
			{"zip", with(`"zip":"DEF"`), UnexpectedHeader},
			{"cty", with(`"cty":"JWT"`), UnexpectedHeader},
			{"enc", with(`"enc":"A256GCM"`), UnexpectedHeader},
			{"empty name", with(`"":""`), UnexpectedHeader},
			{"claim in the header", with(`"iss":"` + testIssuer + `"`), UnexpectedHeader},

			{"duplicate alg", with(`"alg":"none"`), Malformed},
			{"duplicate alg, the same", with(fmt.Sprintf(`"alg":%q`, alg)), Malformed},
			{"case variant of alg added", with(`"ALG":"none"`), Malformed},
			{"case variant of kid added", with(`"Kid":"x"`), Malformed},
			{"Kelvin sign added", with(`"` + "\u212a" + `id":"x"`), Malformed},
			{"escaped duplicate", with(`"\u0061lg":"none"`), Malformed},
			{"case variant of alg instead", strings.Replace(goodHeader(k), "alg", "Alg", 1), UnexpectedHeader},
			{"Kelvin sign instead", strings.Replace(goodHeader(k), "kid", "\u212aid", 1), UnexpectedHeader},
			{"case variant of typ instead", strings.Replace(goodHeader(k), "typ", "Typ", 1), UnexpectedHeader},

			{"empty", ``, Malformed},
			{"empty object", `{}`, WrongType},
			{"array", `["alg"]`, Malformed},
			{"array of the header", `[` + goodHeader(k) + `]`, Malformed},
			{"null", `null`, Malformed},
			{"text", `"at+jwt"`, Malformed},
			{"number", `1`, Malformed},
			{"byte order mark", "\ufeff" + goodHeader(k), Malformed},
			{"trailing data", goodHeader(k) + "{}", Malformed},
			{"trailing NUL", goodHeader(k) + "\x00", Malformed},
			{"invalid UTF-8", with("\"x\":\"\xff\""), Malformed},
			{"lone surrogate", with(`"x":"\ud800"`), Malformed},
			{"cut off", strings.TrimSuffix(goodHeader(k), "}"), Malformed},
			{"just short enough", goodHeader(k) + strings.Repeat(" ", maxHeader-len(goodHeader(k))), ""},
			{"too long", goodHeader(k) + strings.Repeat(" ", maxHeader+1-len(goodHeader(k))), TooLong},
		}
		for _, bad := range []string{
			"none", "None", "NONE", "nOnE", "none ", " none", "non\u0000e", "", "null", strings.ToLower(alg), alg + " ", alg + "\u0000",
			"HS384", "HS512", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256K", "ES384", "ES512", "Ed25519", "Ed448", "RSA1_5", "dir", "A256GCM",
			"EdDSA", "ES256", "RS256", "HS256",
		} {
			if bad != alg {
				quoted, _ := json.Marshal(bad)
				tests = append(tests, tc{"alg " + string(quoted), fmt.Sprintf(`{"alg":%s,"kid":%q,"typ":"at+jwt"}`, quoted, kid), WrongAlgorithm})
			}
		}
		for _, bad := range []string{
			"", " ", kid + " ", " " + kid, kid[:len(kid)-1], kid + "A", strings.ToUpper(kid), "../../../../dev/null", "..\\..\\key", "/dev/null", "/proc/self/environ",
			"file:///etc/passwd", srv.URL + "/key", "' OR '1'='1", "x' UNION SELECT 'AAAA' --", "$(id)", "\u0000", kid + "\u0000", "0", "active", "*", "%", "_",
		} {
			quoted, _ := json.Marshal(bad)
			tests = append(tests, tc{"kid " + string(quoted), fmt.Sprintf(`{"alg":%q,"kid":%s,"typ":"at+jwt"}`, alg, quoted), UnknownKey})
		}
		for _, bad := range []string{"", "JWT", "jwt", "at+JWT", "AT+JWT", "application/at+jwt", "at+jwt ", "at", "id+jwt", "dpop+jwt", "logout+jwt", "token-introspection+jwt", "JOSE", "secevent+jwt", "mfa+jwt"} {
			tests = append(tests, tc{"typ " + bad, fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":%q}`, alg, kid, bad), WrongType})
		}
		for _, name := range []string{"alg", "kid", "typ"} {
			for _, value := range []string{"null", "1", "true", "[]", "{}", `["` + alg + `"]`} {
				m := map[string]json.RawMessage{"alg": json.RawMessage(`"` + alg + `"`), "kid": json.RawMessage(`"` + kid + `"`), "typ": json.RawMessage(`"at+jwt"`)}
				m[name] = json.RawMessage(value)
				header, _ := json.Marshal(m)
				tests = append(tests, tc{name + " is " + value, string(header), Malformed})
			}
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				c, err := testVerifier.Verify(s, signed(t, k, tt.header, goodPayload), testNow)
				if got := reasonOf(t, c, err); got != tt.want {
					t.Errorf("header %s: reason %q, want %q", tt.header, got, tt.want)
				}
			})
		}
		// The same alg values without a signature at all.
		for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
			header := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, alg, kid)
			for _, sig := range []string{"", "AA", encode(make([]byte, k.sigSize))} {
				compact := encode([]byte(header)) + "." + encode([]byte(goodPayload)) + "." + sig
				if c, err := testVerifier.Verify(s, compact, testNow); reasonOf(t, c, err) != WrongAlgorithm {
					t.Errorf("alg %q and signature %q: %v", alg, sig, err)
				}
			}
		}
	})
	if n := hits.Load(); n != 0 {
		t.Errorf("%d outbound requests were made", n)
	}
}

// J: payloads, every one genuinely signed.
func TestPayload(t *testing.T) {
	type m map[string]string // claim → JSON; "" takes it away
	change := func(changes m) string {
		claims := map[string]json.RawMessage{}
		if err := json.Unmarshal([]byte(goodPayload), &claims); err != nil {
			t.Fatal(err)
		}
		for name, value := range changes {
			if value == "" {
				delete(claims, name)
			} else {
				claims[name] = json.RawMessage(value)
			}
		}
		b, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	with := func(member string) string { return strings.TrimSuffix(goodPayload, "}") + "," + member + "}" }

	type tc struct {
		name, payload string
		want          Reason
	}
	tests := []tc{
		{"unchanged", change(nil), ""},
		{"unknown claims", with(`"email":"a@b.c","nested":{"a":[1,2.5,null]}`), ""},
		{"claim with an escaped name", strings.Replace(goodPayload, `"exp"`, `"\u0065xp"`, 1), ""},
		{"not scoped", change(m{"scope": ""}), ""},
		{"scope empty", change(m{"scope": `""`}), ""},
		{"aud as an array", change(m{"aud": `["x","` + testAudience + `"]`}), ""},
		{"client_id and sid empty", change(m{"client_id": `""`, "sid": `""`}), ""},
		{"nbf in the past", change(m{"nbf": "1799999999"}), ""},
		{"auth_time", change(m{"auth_time": "1"}), ""},

		{"empty", ``, Malformed},
		{"array", `[` + goodPayload + `]`, Malformed},
		{"empty array", `[]`, Malformed},
		{"null", `null`, Malformed},
		{"text", `"x"`, Malformed},
		{"number", `1`, Malformed},
		{"true", `true`, Malformed},
		{"empty object", `{}`, MissingClaim},
		{"trailing data", goodPayload + goodPayload, Malformed},
		{"byte order mark", "\ufeff" + goodPayload, Malformed},
		{"invalid UTF-8", with("\"x\":\"\xff\""), Malformed},
		{"invalid UTF-8 in sub", change(m{"sub": ""})[:1] + "\"sub\":\"a\xc3\"," + change(m{"sub": ""})[1:], Malformed},
		{"UTF-16", "\xff\xfe{\x00}\x00", Malformed},
		{"lone surrogate in sub", change(m{"sub": `"\ud800"`}), Malformed},
		{"nested too deeply", with(`"x":` + strings.Repeat("[", 8) + strings.Repeat("]", 8)), Malformed},
		{"a JWT in itself", signed(t, testKeys()[EdDSA], goodHeader(testKeys()[EdDSA]), goodPayload), Malformed},

		{"duplicate exp", with(`"exp":1900000000`), Malformed},
		{"duplicate sub", with(`"sub":"admin"`), Malformed},
		{"escaped duplicate", with(`"\u0073ub":"admin"`), Malformed},
		{"case variant of sub added", with(`"SUB":"admin"`), Malformed},
		{"long s added", with(`"` + "\u017f" + `ub":"admin"`), Malformed},
		{"case variant of exp instead", strings.Replace(goodPayload, `"exp"`, `"EXP"`, 1), InvalidClaim},
		{"case variant of an absent claim", with(`"NBF":1900000000`), InvalidClaim},
		{"long s in an absent claim", with(`"` + "\u017f" + `cope":""`), InvalidClaim},
		{"case variant of scope", with(`"Scope":""`), InvalidClaim},

		{"iss is a prefix of ours", change(m{"iss": `"https://id.example"`}), WrongIssuer},
		{"iss begins with ours", change(m{"iss": `"https://id.example.com.evil.net"`}), WrongIssuer},
		{"iss with a slash", change(m{"iss": `"https://id.example.com/"`}), WrongIssuer},
		{"iss in other case", change(m{"iss": `"https://ID.example.com"`}), WrongIssuer},
		{"iss as an array", change(m{"iss": `["https://id.example.com"]`}), InvalidClaim},
		{"iss as an array with ours", change(m{"iss": `["https://evil.net","https://id.example.com"]`}), InvalidClaim},
		{"iss empty", change(m{"iss": `""`}), InvalidClaim},

		{"aud is another", change(m{"aud": `"https://other.example.com"`}), WrongAudience},
		{"aud is a prefix of ours", change(m{"aud": `"https://api.example"`}), WrongAudience},
		{"aud begins with ours", change(m{"aud": `"https://api.example.com.evil.net"`}), WrongAudience},
		{"aud holds ours and more", change(m{"aud": `"https://api.example.com https://other.example.com"`}), WrongAudience},
		{"aud without ours", change(m{"aud": `["a","b"]`}), WrongAudience},
		{"aud empty", change(m{"aud": `""`}), InvalidClaim},
		{"aud an empty array", change(m{"aud": `[]`}), InvalidClaim},
		{"aud with a number", change(m{"aud": `["` + testAudience + `",1]`}), InvalidClaim},
		{"aud with null", change(m{"aud": `[null,"` + testAudience + `"]`}), InvalidClaim},
		{"aud nested", change(m{"aud": `[["` + testAudience + `"]]`}), InvalidClaim},
		{"aud an object", change(m{"aud": `{"` + testAudience + `":1}`}), InvalidClaim},
		{"aud with 17", change(m{"aud": `["` + testAudience + `"` + strings.Repeat(`,"x"`, 16) + `]`}), InvalidClaim},

		{"sub empty", change(m{"sub": `""`}), InvalidClaim},
		{"sub with NUL", change(m{"sub": `"a\u0000"`}), InvalidClaim},
		{"sub too long", change(m{"sub": `"` + strings.Repeat("x", 256) + `"`}), InvalidClaim},
		{"jti empty", change(m{"jti": `""`}), InvalidClaim},

		{"scope an array", change(m{"scope": `["read:items"]`}), InvalidClaim},
		{"scope null", change(m{"scope": `null`}), InvalidClaim},
		{"scope with two spaces", change(m{"scope": `"a  b"`}), InvalidClaim},
		{"scope with a space in front", change(m{"scope": `" a"`}), InvalidClaim},
		{"scope with a tab", change(m{"scope": `"a\tb"`}), InvalidClaim},
		{"amr a text", change(m{"amr": `"pwd"`}), InvalidClaim},
		{"amr with a number", change(m{"amr": `[1]`}), InvalidClaim},
		{"amr null", change(m{"amr": `null`}), InvalidClaim},

		{"exp at iat", change(m{"exp": "1800000000"}), InvalidClaim},
		{"exp before iat", change(m{"exp": "1799999999"}), InvalidClaim},
		{"expired", change(m{"iat": "1799990000", "exp": "1799990900"}), Expired},
		{"iat in the future", change(m{"iat": "1800000006"}), NotYetValid},
		{"nbf in the future", change(m{"nbf": "1800000006"}), NotYetValid},
	}
	for _, name := range []string{"iss", "sub", "aud", "client_id", "jti", "sid", "iat", "exp"} {
		tests = append(tests, tc{name + " missing", change(m{name: ""}), MissingClaim})
	}
	for _, name := range []string{"iss", "sub", "client_id", "jti", "sid"} {
		for _, value := range []string{"null", "1", "true", "[]", "{}", `["x"]`} {
			tests = append(tests, tc{name + " is " + value, change(m{name: value}), InvalidClaim})
		}
	}
	for _, name := range []string{"exp", "iat", "nbf", "auth_time"} {
		for _, value := range []string{
			"null", "true", `"1800000900"`, `""`, "[1800000900]", "{}", "1800000900.0", "1800000900.5", "1.8000009e9", "18e8", "1e400", "1E400", "-1", "-0", "0",
			"253402300800", "9223372036854775807", "9223372036854775808", "18446744073709551616", "99999999999999999999999999", "1" + strings.Repeat("0", 400),
		} {
			tests = append(tests, tc{name + " is " + value, change(m{name: value}), InvalidClaim})
		}
	}
	eachAlg(t, func(t *testing.T, k *Key, s *Set) {
		for _, tt := range tests {
			if k.alg == RS256 && strings.Contains(tt.name, " is ") {
				continue // signing is slow and these are the same for every key
			}
			t.Run(tt.name, func(t *testing.T) {
				c, err := testVerifier.Verify(s, signed(t, k, goodHeader(k), tt.payload), testNow)
				if got := reasonOf(t, c, err); got != tt.want {
					t.Errorf("payload %.200s: reason %q (%v), want %q", tt.payload, got, err, tt.want)
				}
			})
		}
	})
}

func TestTimes(t *testing.T) {
	k := testKeys()[EdDSA]
	s := testSet(t, k)
	compact := signed(t, k, goodHeader(k), strings.TrimSuffix(goodPayload, "}")+`,"nbf":1800000100}`)
	at := func(seconds float64) time.Time { return testNow.Add(time.Duration(seconds * float64(time.Second))) }
	for _, tt := range []struct {
		leeway time.Duration
		at     float64 // seconds after iat; nbf is 100 and exp 900
		want   Reason
	}{
		{0, 100, ""},
		{0, 95, ""},
		{0, 94.999, NotYetValid},
		{0, 904.999, ""},
		{0, 905, Expired},
		{0, 1e9, Expired},
		{0, -1e9, NotYetValid},
		{-1, 100, ""},
		{-1, 99.999, NotYetValid},
		{-1, 899.999, ""},
		{-1, 900, Expired},
		{time.Minute, 40, ""},
		{time.Minute, 959.999, ""},
		{time.Minute, 960, Expired},
		{time.Hour, 959.999, ""}, // capped
		{time.Hour, 960, Expired},
		{time.Hour, 39.999, NotYetValid},
	} {
		v := testVerifier
		v.Leeway = tt.leeway
		if c, err := v.Verify(s, compact, at(tt.at)); reasonOf(t, c, err) != tt.want {
			t.Errorf("leeway %v, %v s after iat: %v, want %q", tt.leeway, tt.at, err, tt.want)
		}
	}
	// iat counts of itself, where there is no nbf.
	compact = signed(t, k, goodHeader(k), goodPayload)
	for _, tt := range []struct {
		at   float64
		want Reason
	}{{-5, ""}, {-5.001, NotYetValid}} {
		if c, err := testVerifier.Verify(s, compact, at(tt.at)); reasonOf(t, c, err) != tt.want {
			t.Errorf("%v s after iat: %v, want %q", tt.at, err, tt.want)
		}
	}
}

func TestZeroVerifier(t *testing.T) {
	k := testKeys()[EdDSA]
	s := testSet(t, k)
	compact := signed(t, k, goodHeader(k), goodPayload)
	for _, tt := range []struct {
		v    Verifier
		want Reason
	}{
		{testVerifier, ""},
		{Verifier{}, WrongIssuer},
		{Verifier{Audience: testAudience}, WrongIssuer},
		{Verifier{Issuer: testIssuer}, WrongAudience},
	} {
		if c, err := tt.v.Verify(s, compact, testNow); reasonOf(t, c, err) != tt.want {
			t.Errorf("%+v: %v, want %q", tt.v, err, tt.want)
		}
	}
}

// J: things that are no compact JWS of ours in their form.
func TestForm(t *testing.T) {
	eachAlg(t, func(t *testing.T, k *Key, s *Set) {
		good := signed(t, k, goodHeader(k), goodPayload)
		p := strings.Split(good, ".")
		flat := fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, p[1], p[0], p[2])
		for _, tt := range []struct {
			name, compact string
			want          Reason
		}{
			{"empty", "", Malformed},
			{"one dot", ".", Malformed},
			{"two dots", "..", Malformed},
			{"three dots", "...", Malformed},
			{"without a signature", p[0] + "." + p[1], Malformed},
			{"with an empty signature", p[0] + "." + p[1] + ".", BadSignature},
			{"with an empty payload", p[0] + ".." + p[2], BadSignature},
			{"with an empty header", "." + p[1] + "." + p[2], Malformed},
			{"with a dot behind", good + ".", Malformed},
			{"with a dot in front", "." + good, Malformed},
			{"with a fourth part", good + ".AAAA", Malformed},
			{"twice", good + "." + good, Malformed},
			{"a JWE", p[0] + ".AAAA.BBBB.CCCC.DDDD", Malformed},
			{"a JWE with direct encryption", encode([]byte(`{"alg":"dir","enc":"A256GCM","zip":"DEF"}`)) + "..BBBB.CCCC.DDDD", Malformed},
			{"JSON serialization, flattened", flat, Malformed},
			{"JSON serialization, general", fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, p[1], p[0], p[2]), Malformed},
			{"JSON serialization with two dots", strings.Replace(flat, `"payload"`, `"..":"","payload"`, 1), Malformed},
			{"a text of JSON", `"` + good + `"`, Malformed},
			{"with the scheme", "Bearer " + good, Malformed},
			{"space in front", " " + good, Malformed},
			{"space behind", good + " ", BadSignature},
			{"line end behind", good + "\n", BadSignature},
			{"NUL behind", good + "\x00", BadSignature},
			{"padded header", p[0] + "=." + p[1] + "." + p[2], Malformed},
			{"percent-encoded", strings.ReplaceAll(good, ".", "%2E"), Malformed},
			{"an opaque token", "spt_0198c2f0a1b2c3d4", Malformed},
			{"plus in the signature", p[0] + "." + p[1] + ".+" + p[2][1:], Malformed},
			{"solidus in the signature", p[0] + "." + p[1] + "./" + p[2][1:], Malformed},
		} {
			t.Run(tt.name, func(t *testing.T) {
				c, err := testVerifier.Verify(s, tt.compact, testNow)
				if got := reasonOf(t, c, err); got != tt.want {
					t.Errorf("reason %q, want %q", got, tt.want)
				}
			})
		}
	})
}

// J: no character of a token can be changed, and none added, in any place.
// HS256 is the cheapest; the parser is the same for all.
func TestNoOtherSpelling(t *testing.T) {
	k := testKeys()[HS256]
	s := testSet(t, k)
	good := signed(t, k, goodHeader(k), goodPayload)
	const interesting = "\r\n\t =+/-_.A~\x00\x80\xff"
	for i := range len(good) {
		for _, ch := range []byte(interesting) {
			if changed := good[:i] + string([]byte{ch}) + good[i+1:]; changed != good {
				if _, err := testVerifier.Verify(s, changed, testNow); err == nil {
					t.Fatalf("accepted with byte %d changed to %q", i, ch)
				}
			}
			if _, err := testVerifier.Verify(s, good[:i]+string([]byte{ch})+good[i:], testNow); err == nil {
				t.Fatalf("accepted with %q inserted at %d", ch, i)
			}
		}
		if _, err := testVerifier.Verify(s, good[:i]+good[i+1:], testNow); err == nil {
			t.Fatalf("accepted without byte %d", i)
		}
	}
	for _, ch := range []byte(interesting) {
		if _, err := testVerifier.Verify(s, good+string([]byte{ch}), testNow); err == nil {
			t.Fatalf("accepted with %q appended", ch)
		}
	}
}

func TestDecode(t *testing.T) {
	if b, ok := decode("AAEC_-8"); !ok || !bytes.Equal(b, []byte{0, 1, 2, 0xff, 0xef}) {
		t.Errorf("decode = %v, %v", b, ok)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for ch := range 256 {
		in := "AA" + string([]byte{byte(ch)}) + "A"
		if _, ok := decode(in); ok != strings.Contains(alphabet, string([]byte{byte(ch)})) {
			t.Errorf("decode(%q): %v", in, ok)
		}
	}
	for _, in := range []string{"A", "AAAAA", "AB", "AAB", "AA==", "AAA=", "AA\n", "\r\nAA", "A\rA", "A A"} {
		if _, ok := decode(in); ok {
			t.Errorf("decode(%q) accepts", in)
		}
	}
}

// J: HMAC under something public. The header names the real key, or an HS256
// key that is in the set as well.
func TestHMACWithPublicKey(t *testing.T) {
	hs := testKeys()[HS256]
	for _, a := range []Alg{EdDSA, ES256, RS256} {
		k := testKeys()[a]
		s := testSet(t, k, hs)
		der, err := x509.MarshalPKIXPublicKey(k.verifier)
		if err != nil {
			t.Fatal(err)
		}
		block := func(kind string, b []byte) []byte {
			return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
		}
		secrets := map[string][]byte{
			"DER": der, "PEM": block("PUBLIC KEY", der), "PEM without line end": bytes.TrimSpace(block("PUBLIC KEY", der)),
			"JWK": []byte(k.jwk), "JWKS": s.JWKS(), "kid": []byte(k.id), "nothing": {},
		}
		switch p := k.verifier.(type) {
		case ed25519.PublicKey:
			secrets["raw"] = p
			secrets["raw, base64"] = []byte(encode(p))
		case *ecdsa.PublicKey:
			point, _ := p.Bytes()
			secrets["raw"] = point
			secrets["raw, x and y"] = point[1:]
			secrets["raw, x"] = point[1:33]
			secrets["raw, compressed"] = append([]byte{2 + point[64]&1}, point[1:33]...)
		case *rsa.PublicKey:
			secrets["raw"] = p.N.Bytes()
			secrets["raw, base64"] = []byte(encode(p.N.Bytes()))
			secrets["PKCS#1"] = x509.MarshalPKCS1PublicKey(p)
			secrets["PKCS#1 PEM"] = block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(p))
		}
		for form, secret := range secrets {
			forger := &Key{alg: HS256, signer: secret}
			for _, tt := range []struct {
				kid  string
				want Reason
			}{{k.id, WrongAlgorithm}, {hs.id, BadSignature}} {
				compact := signed(t, forger, fmt.Sprintf(`{"alg":"HS256","kid":%q,"typ":"at+jwt"}`, tt.kid), goodPayload)
				if c, err := testVerifier.Verify(s, compact, testNow); reasonOf(t, c, err) != tt.want {
					t.Errorf("%s, HMAC with %s: %v, want %s", a, form, err, tt.want)
				}
			}
		}
		for _, good := range []*Key{k, hs} {
			if _, err := testVerifier.Verify(s, signed(t, good, goodHeader(good), goodPayload), testNow); err != nil {
				t.Errorf("%v: %v", good, err)
			}
		}
	}
}

// J: signatures at the edges of the groups.
func TestSignatureEdges(t *testing.T) {
	eachAlg(t, func(t *testing.T, k *Key, s *Set) {
		good := signed(t, k, goodHeader(k), goodPayload)
		input, encoded, _ := cutLast(good)
		sig, _ := decode(encoded)
		bad := map[string][]byte{
			"nothing":           {},
			"all zero":          make([]byte, len(sig)),
			"all ones":          bytes.Repeat([]byte{0xff}, len(sig)),
			"one byte short":    sig[:len(sig)-1],
			"one byte long":     append(slices.Clone(sig), 0),
			"zero in front":     append([]byte{0}, sig...),
			"twice":             append(slices.Clone(sig), sig...),
			"first bit":         flip(sig, 0),
			"last bit":          flip(sig, len(sig)-1),
			"reversed":          reversed(sig),
			"of another":        otherSignature(t, k),
			"of the payload":    mustSign(t, k, goodPayload),
			"of the whole":      mustSign(t, k, good),
			"of the input, cut": mustSign(t, k, input[:len(input)-1]),
		}
		want := map[string]bool{} // accepted
		switch p := k.verifier.(type) {
		case ed25519.PublicKey:
			order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
			plus := func(n int64) []byte {
				sum := new(big.Int).Add(little(sig[32:]), new(big.Int).Mul(order, big.NewInt(n)))
				return append(slices.Clone(sig[:32]), reversed(sum.FillBytes(make([]byte, 32)))...)
			}
			bad["s+L"], bad["s+2L"], bad["s+7L"] = plus(1), plus(2), plus(7)
			bad["s+0"], want["s+0"] = plus(0), true
			bad["identity and zero"] = append([]byte{1}, make([]byte, 63)...)
			bad["R with the sign flipped"] = flip(sig, 31)
		case *ecdsa.PublicKey:
			n := p.Params().N
			r, sv := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
			pair := func(r, s *big.Int) []byte {
				return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
			}
			zero, one := new(big.Int), big.NewInt(1)
			less := new(big.Int).Sub(n, one)
			bad["r=0"], bad["s=0"], bad["r=s=0"] = pair(zero, sv), pair(r, zero), pair(zero, zero)
			bad["r=n"], bad["s=n"], bad["r=s=n"] = pair(n, sv), pair(r, n), pair(n, n)
			bad["r=1"], bad["s=1"], bad["r=s=1"] = pair(one, sv), pair(r, one), pair(one, one)
			bad["r=n-1"], bad["s=n-1"] = pair(less, sv), pair(r, less)
			bad["swapped"] = pair(sv, r)
			bad["r negated"] = pair(new(big.Int).Sub(n, r), sv)
			// ECDSA itself accepts this one, and nothing here relies on there
			// being one signature: a token is told apart by its jti.
			bad["s negated"], want["s negated"] = pair(r, new(big.Int).Sub(n, sv)), true
			der, err := ecdsa.SignASN1(zeroReader{}, k.signer.(*ecdsa.PrivateKey), make([]byte, 32))
			if err != nil {
				t.Fatal(err)
			}
			bad["ASN.1"] = der
			bad["zero in front of s"] = slices.Concat(sig[:32], []byte{0}, sig[32:])
			bad["three halves"] = append(slices.Clone(sig), sig[:32]...)
		case *rsa.PublicKey:
			bad["plus N"] = new(big.Int).Add(new(big.Int).SetBytes(sig), p.N).FillBytes(make([]byte, len(sig)+1))
			bad["N"] = p.N.FillBytes(make([]byte, len(sig)))
			bad["one"] = one(len(sig))
		case []byte:
			bad["half"] = sig[:16] // a truncated MAC
			bad["sixty-four"] = append(slices.Clone(sig), make([]byte, 32)...)
		}
		for name, sig := range bad {
			c, err := testVerifier.Verify(s, input+"."+encode(sig), testNow)
			if got := reasonOf(t, c, err); want[name] != (err == nil) || err != nil && got != BadSignature {
				t.Errorf("%s: %v, want accepted: %v", name, err, want[name])
			}
			if k.verify([]byte(input), sig) != want[name] {
				t.Errorf("%s: verify says otherwise", name)
			}
		}
	})
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func cutLast(compact string) (before, after string, ok bool) {
	i := strings.LastIndexByte(compact, '.')
	return compact[:i], compact[i+1:], i >= 0
}

func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 0x80
	return b
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

func little(b []byte) *big.Int { return new(big.Int).SetBytes(reversed(b)) }

func one(n int) []byte {
	b := make([]byte, n)
	b[n-1] = 1
	return b
}

func mustSign(t *testing.T, k *Key, input string) []byte {
	t.Helper()
	sig, err := k.sign([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// otherSignature is one of the right form for the same input, by another key.
func otherSignature(t *testing.T, k *Key) []byte {
	t.Helper()
	other, err := Generate(k.alg)
	if err != nil {
		t.Fatal(err)
	}
	return mustSign(t, other, encode([]byte(goodHeader(k)))+"."+encode([]byte(goodPayload)))
}

// J: a retired key, a key of somebody else, and ten thousand that nobody has.
func TestKeysOfTheSet(t *testing.T) {
	active, err := Generate(EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	retiring, next, retired := testKeys()[ES256], testKeys()[RS256], testKeys()[EdDSA]
	s := testSet(t, active, retiring, next)
	for _, tt := range []struct {
		k    *Key
		want Reason
	}{{active, ""}, {retiring, ""}, {next, ""}, {retired, UnknownKey}} {
		if c, err := testVerifier.Verify(s, signed(t, tt.k, goodHeader(tt.k), goodPayload), testNow); reasonOf(t, c, err) != tt.want {
			t.Errorf("%v: %v, want %q", tt.k, err, tt.want)
		}
	}
	// A token of one key under the name of another.
	for _, other := range []*Key{retiring, next, retired} {
		if c, err := testVerifier.Verify(s, signed(t, other, goodHeader(active), goodPayload), testNow); reasonOf(t, c, err) != BadSignature {
			t.Errorf("%v as %v: %v", other, active, err)
		}
	}
	tail := signed(t, retired, goodHeader(retired), goodPayload)
	tail = tail[strings.IndexByte(tail, '.'):]
	size := len(s.byID)
	for i := range 10_000 {
		header := fmt.Sprintf(`{"alg":"EdDSA","kid":"%043d","typ":"at+jwt"}`, i)
		if c, err := testVerifier.Verify(s, encode([]byte(header))+tail, testNow); reasonOf(t, c, err) != UnknownKey {
			t.Fatal(err)
		}
	}
	if len(s.byID) != size {
		t.Error("unknown keys were kept")
	}
}

// J: size. What is refused by its length is not looked at, and nothing is
// allocated for it but the error.
func TestHugeTokens(t *testing.T) {
	k := testKeys()[EdDSA]
	s := testSet(t, k)
	good := signed(t, k, goodHeader(k), goodPayload)
	for _, tt := range []struct{ name, compact string }{
		{"ten million dots", strings.Repeat(".", 10_000_000)},
		{"100 MiB", strings.Repeat("A", 100<<20)},
		{"100 MiB behind a valid token", good + strings.Repeat("A", 100<<20)},
		{"one character too many", good + strings.Repeat("A", maxToken+1-len(good))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			for range 1000 {
				if c, err := testVerifier.Verify(s, tt.compact, testNow); reasonOf(t, c, err) != TooLong {
					t.Fatal(err)
				}
			}
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if took > 100*time.Millisecond {
				t.Errorf("1000 refusals took %v", took)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("1000 refusals allocated %d bytes", n)
			}
		})
	}
	// Within the bound, dots and garbage cost no more than looking at them.
	for _, compact := range []string{strings.Repeat(".", maxToken), strings.Repeat("A", maxToken)} {
		if n := testing.AllocsPerRun(100, func() { _, _ = testVerifier.Verify(s, compact, testNow) }); n > 1 {
			t.Errorf("%.10s…: %v allocations, want the error only", compact, n)
		}
	}
	// The longest token that is accepted.
	for pad := 0; ; pad++ {
		compact := signed(t, k, goodHeader(k), goodPayload+strings.Repeat(" ", maxToken*3/4-len(good)*3/4+pad))
		c, err := testVerifier.Verify(s, compact, testNow)
		if got := reasonOf(t, c, err); (got == "") != (len(compact) <= maxToken) {
			t.Fatalf("%d characters: %v", len(compact), err)
		}
		if len(compact) > maxToken {
			break
		}
	}
}

// Errors are for logs, and a token is not.
func TestErrorsHoldNoToken(t *testing.T) {
	k := testKeys()[HS256]
	s := testSet(t, k)
	const planted = "planted-secret"
	for _, compact := range []string{
		planted,
		planted + "." + planted + "." + planted,
		signed(t, k, `{"alg":"`+planted+`","kid":"`+k.id+`","typ":"at+jwt"}`, goodPayload),
		signed(t, k, `{"alg":"HS256","kid":"`+planted+`","typ":"at+jwt"}`, goodPayload),
		signed(t, k, `{"alg":"HS256","`+planted+`":"","typ":"at+jwt"}`, goodPayload),
		signed(t, k, goodHeader(k), `{"`+planted+`":1}`),
		signed(t, k, goodHeader(k), strings.Replace(goodPayload, testIssuer, planted, 1)),
		signed(t, k, goodHeader(k), strings.Replace(goodPayload, testAudience, planted, 1)),
		signed(t, k, goodHeader(k), strings.Replace(goodPayload, `1800000900`, `"`+planted+`"`, 1)),
	} {
		_, err := testVerifier.Verify(s, compact, testNow)
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), planted) {
			t.Errorf("error = %#v", err)
		}
	}
	if got := refuse(MissingClaim, "exp").Error(); got != "token: missing_claim: exp" {
		t.Error(got)
	}
}

// Anything that is accepted was signed by us and says the same when it is
// issued again.
func checkAccepted(t testing.TB, s *Set, c Claims) {
	t.Helper()
	again, err := s.Issue(c)
	if err != nil {
		if strings.Contains(err.Error(), "characters") {
			return // JSON has shorter spellings than ours
		}
		t.Fatalf("accepted claims cannot be issued: %v: %+v", err, c)
	}
	got, err := testVerifier.Verify(s, again, testNow)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Fatalf("issued again: %+v, %v, want %+v", got, err, c)
	}
}

// fuzzKey is the same in every process, so that the corpus stays meaningful.
func fuzzKey(t testing.TB) *Key {
	k, err := NewKey(HS256, bytes.Repeat([]byte("fuzz"), 8))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func FuzzVerify(f *testing.F) {
	k := fuzzKey(f)
	s := testSet(f, k)
	good := signed(f, k, goodHeader(k), goodPayload)
	f.Add(good)
	f.Add("")
	f.Add("..")
	f.Add(good + ".")
	f.Add("." + good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(signed(f, k, `{"alg":"none"}`, goodPayload))
	f.Add(signed(f, k, goodHeader(k), `{}`))
	f.Fuzz(func(t *testing.T, compact string) {
		c, err := testVerifier.Verify(s, compact, testNow)
		if reasonOf(t, c, err) == "" {
			checkAccepted(t, s, c)
		}
	})
}

// FuzzSigned gets behind the signature: any header and payload, genuinely
// signed.
func FuzzSigned(f *testing.F) {
	k := fuzzKey(f)
	s := testSet(f, k)
	f.Add(goodHeader(k), goodPayload)
	f.Add(goodHeader(k), `{"iss":"https://id.example.com","sub":"u","aud":["https://api.example.com","x"],"client_id":"","jti":"j","sid":"","iat":1800000000,"exp":1800000900,"nbf":1,"auth_time":5,"scope":"a b","amr":["pwd"],"x":{"y":[null]}}`)
	f.Add(`{"ALG":"HS256"}`, `[]`)
	f.Add(goodHeader(k), `{"exp":1e400}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		c, err := testVerifier.Verify(s, signed(t, k, header, payload), testNow)
		if reasonOf(t, c, err) != "" {
			return
		}
		checkAccepted(t, s, c)
		// An independent reading of the payload agrees on what matters.
		var m map[string]any
		if err := json.Unmarshal([]byte(payload), &m); err != nil {
			t.Fatalf("accepted, but not JSON: %v", err)
		}
		if m["sub"] != c.Subject || m["iss"] != c.Issuer || m["jti"] != c.ID || m["exp"] != float64(c.Expires.Unix()) {
			t.Fatalf("claims %+v of %s", c, payload)
		}
	})
}

func BenchmarkVerifyEdDSA(b *testing.B) { benchmarkVerify(b, EdDSA) }
func BenchmarkVerifyES256(b *testing.B) { benchmarkVerify(b, ES256) }
func BenchmarkVerifyRS256(b *testing.B) { benchmarkVerify(b, RS256) }
func BenchmarkVerifyHS256(b *testing.B) { benchmarkVerify(b, HS256) }

func benchmarkVerify(b *testing.B, a Alg) {
	s := testSet(b, testKeys()[a])
	compact, err := s.Issue(testClaims())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := testVerifier.Verify(s, compact, testNow); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueEdDSA(b *testing.B) { benchmarkIssue(b, EdDSA) }
func BenchmarkIssueES256(b *testing.B) { benchmarkIssue(b, ES256) }
func BenchmarkIssueRS256(b *testing.B) { benchmarkIssue(b, RS256) }
func BenchmarkIssueHS256(b *testing.B) { benchmarkIssue(b, HS256) }

func benchmarkIssue(b *testing.B, a Alg) {
	s := testSet(b, testKeys()[a])
	c := testClaims()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Issue(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRefuseUnknownKey(b *testing.B) {
	k := testKeys()[EdDSA]
	s := testSet(b, testKeys()[HS256])
	compact := signed(b, k, goodHeader(k), goodPayload)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := testVerifier.Verify(s, compact, testNow); err == nil {
			b.Fatal("accepted")
		}
	}
}
