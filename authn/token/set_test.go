package token

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestNewSet(t *testing.T) {
	k, other := testKeys()[EdDSA], testKeys()[ES256]
	same, err := NewKey(EdDSA, k.signer)
	if err != nil {
		t.Fatal(err)
	}
	public, err := newVerifying(EdDSA, k.verifier)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		active *Key
		others []*Key
		ok     bool
	}{
		{"one", k, nil, true},
		{"two", k, []*Key{other}, true},
		{"one that only verifies", other, []*Key{public}, true},
		{"none", nil, nil, false},
		{"none active", nil, []*Key{k}, false},
		{"nil among the others", k, []*Key{nil}, false},
		{"twice", k, []*Key{k}, false},
		{"twice as a copy", k, []*Key{same}, false},
		{"twice among the others", k, []*Key{other, other}, false},
		{"active only verifies", public, nil, false},
		{"zero key", &Key{}, nil, false},
	} {
		s, err := NewSet(tt.active, tt.others...)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want accepted: %v", tt.name, err, tt.ok)
		}
		if err == nil && s.Active() != tt.active {
			t.Errorf("%s: active is %v", tt.name, s.Active())
		}
	}
}

func TestJWKS(t *testing.T) {
	keys := testKeys()
	s := testSet(t, keys[ES256], keys[RS256], keys[HS256], keys[EdDSA])
	if !bytes.Equal(s.JWKS(), testSet(t, keys[ES256], keys[EdDSA], keys[HS256], keys[RS256]).JWKS()) {
		t.Error("the order of the others matters")
	}
	s.JWKS()[0] = 'x'
	var doc struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(s.JWKS(), &doc); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range doc.Keys {
		ids = append(ids, k["kid"])
		want := []string{"alg", "kid", "kty", "use"}
		switch k["kty"] {
		case "OKP":
			want = append(want, "crv", "x")
		case "EC":
			want = append(want, "crv", "x", "y")
		case "RSA":
			want = append(want, "e", "n")
		default:
			t.Errorf("kty %q", k["kty"])
		}
		var got []string
		for name := range k {
			got = append(got, name)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || k["use"] != "sig" || k["alg"] != string(s.byID[k["kid"]].alg) {
			t.Errorf("%v has members %v, want %v", k["kty"], got, want)
		}
	}
	if len(ids) != 3 || ids[0] != keys[ES256].id || !slices.IsSorted(ids[1:]) || slices.Contains(ids, keys[HS256].id) {
		t.Errorf("ids = %v", ids)
	}
	// J: never private parts, by name or by value.
	for _, a := range testAlgs {
		if strings.Contains(string(s.JWKS()), encode(secretOf(t, keys[a]))) {
			t.Errorf("the private part of %v is in the JWKS", keys[a])
		}
	}
	if got := string(testSet(t, keys[HS256]).JWKS()); got != `{"keys":[]}` {
		t.Errorf("JWKS of an HS256 key: %s", got)
	}
}
