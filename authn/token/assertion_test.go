package token_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/token"
)

// An assertion is no access token, though the same key signs both and the rest of it
// would do: its issuer, its audience and its times.
func TestAnAssertionIsNoAccessToken(t *testing.T) {
	const issuer = "https://id.example.com"
	now := time.Unix(1_700_000_000, 0)
	for _, alg := range []token.Alg{token.EdDSA, token.ES256, token.HS256} {
		key, err := token.Generate(alg)
		if err != nil {
			t.Fatal(err)
		}
		set, err := token.NewSet(key)
		if err != nil {
			t.Fatal(err)
		}
		a := token.Assertion{Issuer: issuer, Audience: issuer, Subject: "u", IssuedAt: now, Expires: now.Add(30 * time.Second), Kind: "bearer", Session: "s", Method: "GET", Rule: "signed-in"}
		compact, err := set.Assert(a)
		if err != nil {
			t.Fatal(err)
		}
		v := token.Verifier{Issuer: issuer, Audience: issuer}
		_, err = v.Verify(set, compact, now)
		if e, ok := errors.AsType[*token.Error](err); !ok || e.Reason != token.WrongType {
			t.Errorf("%s: %v", alg, err)
		}
		access, err := set.Issue(token.Claims{Issuer: issuer, Audience: []string{issuer}, Subject: "u", ID: "j", IssuedAt: now, Expires: now.Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(set, access, now); err != nil {
			t.Errorf("%s: the control: %v", alg, err)
		}
		// The header of one on the claims of the other has no signature that fits.
		parts, other := strings.Split(compact, "."), strings.Split(access, ".")
		if _, err := v.Verify(set, other[0]+"."+parts[1]+"."+parts[2], now); err == nil {
			t.Errorf("%s: with another header it is a token", alg)
		}
		var header map[string]string
		if b, err := json.Marshal(decoded(t, parts[0])); err != nil || json.Unmarshal(b, &header) != nil || len(header) != 3 || header["typ"] != token.AssertionType || header["kid"] != key.ID() {
			t.Errorf("%s: header %v", alg, header)
		}
	}
}

func TestAssertionBounds(t *testing.T) {
	key, err := token.Generate(token.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	set, err := token.NewSet(key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	good := token.Assertion{Issuer: "i", Audience: "a", Subject: "u", IssuedAt: now, Expires: now.Add(token.MaxAssertionLife)}
	if _, err := set.Assert(good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*token.Assertion){
		"no issuer":   func(a *token.Assertion) { a.Issuer = "" },
		"no audience": func(a *token.Assertion) { a.Audience = "" },
		"no subject":  func(a *token.Assertion) { a.Subject = "" },
		"no time":     func(a *token.Assertion) { a.IssuedAt, a.Expires = time.Time{}, time.Time{} },
		"no life":     func(a *token.Assertion) { a.Expires = a.IssuedAt },
		"a long life": func(a *token.Assertion) { a.Expires = a.IssuedAt.Add(token.MaxAssertionLife + time.Second) },
		"too much":    func(a *token.Assertion) { a.Roles = []string{strings.Repeat("r", 9000)} },
	} {
		a := good
		change(&a)
		if compact, err := set.Assert(a); err == nil || compact != "" {
			t.Errorf("%s: %q, %v", what, compact, err)
		}
	}
	if _, err := new(token.Set).Assert(good); err == nil {
		t.Error("signed without a key")
	}
}

// decoded is one part of a token.
func decoded(t *testing.T, part string) (out map[string]any) {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}
