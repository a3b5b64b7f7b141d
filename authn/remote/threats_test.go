package remote_test

import (
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
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/token"
)

var b64 = base64.RawURLEncoding

// part encodes one part of a token: text as it is, anything else as JSON.
func part(v any) string {
	s, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		s = string(b)
	}
	return b64.EncodeToString([]byte(s))
}

// change returns a copy of m with members replaced; nil removes one.
func change(m map[string]any, more ...any) map[string]any {
	m = maps.Clone(m)
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == nil {
			delete(m, more[i].(string))
		} else {
			m[more[i].(string)] = more[i+1]
		}
	}
	return m
}

// signWith makes a token with any key, as its algorithm does.
func signWith(t *testing.T, key, header, payload any) string {
	t.Helper()
	input := part(header) + "." + part(payload)
	digest := sha256.Sum256([]byte(input))
	var sig []byte
	var err error
	switch k := key.(type) {
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(input))
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		r, s, err = ecdsa.Sign(rand.Reader, k, digest[:])
		sig = slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32)))
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(nil, k, 5 /* SHA-256 */, digest[:])
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write([]byte(input))
		sig = m.Sum(nil)
	default:
		t.Fatalf("no signature with a %T", key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64.EncodeToString(sig)
}

// privateKey takes the key out of a set, which no attacker has: with it a test
// says what the signature alone must not be enough for.
func privateKey(t *testing.T, k *token.Key) any {
	t.Helper()
	b, err := k.MarshalPrivate()
	if err != nil {
		t.Fatal(err)
	}
	_, der, _ := strings.Cut(strings.TrimPrefix(string(b), "v1:"), ":")
	key, err := x509.ParsePKCS8PrivateKey([]byte(der))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestThreatsJ: the attacks on tokens that reach a verifier elsewhere. Each
// genuine token is let in beside them, and all refusals are alike.
func TestThreatsJ(t *testing.T) {
	for _, alg := range []token.Alg{token.EdDSA, token.ES256, token.RS256} {
		t.Run(string(alg), func(t *testing.T) { threatsJ(t, alg) })
	}
}

func threatsJ(t *testing.T, alg token.Alg) {
	var calls atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	defer elsewhere.Close()
	is := newIssuer(t)
	is.set = setOf(t, alg)
	v := is.verifier(nil)
	kid := is.set.Active().ID()
	key := privateKey(t, is.set.Active())
	var doc struct{ Keys []map[string]any }
	if err := json.Unmarshal(is.set.JWKS(), &doc); err != nil {
		t.Fatal(err)
	}
	jwk := doc.Keys[0]
	header := map[string]any{"alg": string(alg), "kid": kid, "typ": "at+jwt"}
	now := is.clock.now().Unix()
	claims := map[string]any{
		"iss": is.url(), "aud": is.url(), "sub": "ada", "client_id": "first-party", "jti": "j", "sid": "session-1", "iat": now, "exp": now + 900,
	}
	good := signWith(t, key, header, claims)
	parts := strings.Split(good, ".")
	attacks := map[string]string{}

	// No signature, or one that is not of the key.
	for _, none := range []any{"none", "None", "NONE", "nOnE", "", nil, " none", "none\x00"} {
		h := part(change(header, "alg", none))
		attacks[fmt.Sprintf("alg %q without a signature", none)] = h + "." + parts[1] + "."
		attacks[fmt.Sprintf("alg %q with one", none)] = h + "." + parts[1] + "." + parts[2]
		attacks[fmt.Sprintf("alg %q, really signed", none)] = signWith(t, key, change(header, "alg", none), claims)
	}
	for _, other := range []string{"HS256", "RS256", "ES256", "EdDSA", "PS256", "RS512", "ES384", "Ed25519", strings.ToLower(string(alg))} {
		if other != string(alg) {
			attacks["the right key called "+other] = signWith(t, key, change(header, "alg", other), claims)
		}
	}
	var public any
	var own any
	switch k := key.(type) {
	case ed25519.PrivateKey:
		public = k.Public()
		_, own, _ = ed25519.GenerateKey(rand.Reader)
	case *ecdsa.PrivateKey:
		public = k.Public()
		own, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case *rsa.PrivateKey:
		public = k.Public()
		own, _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(jwk)
	secrets := map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "JWK": text, "JWKS": is.set.JWKS(),
		"kid": []byte(kid), "nothing": {}, "zeros": make([]byte, 32),
	}
	if k, ok := public.(*rsa.PublicKey); ok {
		secrets["PKCS#1"] = x509.MarshalPKCS1PublicKey(k)
	}
	for form, secret := range secrets {
		for _, a := range []string{"HS256", string(alg)} {
			attacks["HMAC with the public key as "+form+" called "+a] = signWith(t, secret, change(header, "alg", a), claims)
		}
	}
	for what, h := range map[string]map[string]any{
		"own key":                header,
		"jwk":                    change(header, "jwk", jwk),
		"jku":                    change(header, "jku", elsewhere.URL+"/jwks.json"),
		"jku, own kid":           change(header, "jku", elsewhere.URL+"/jwks.json", "kid", "mine"),
		"x5u":                    change(header, "x5u", elsewhere.URL+"/cert.pem"),
		"x5c":                    change(header, "x5c", []string{base64.StdEncoding.EncodeToString(der)}),
		"kid is a URL":           change(header, "kid", elsewhere.URL+"/jwks.json"),
		"no kid":                 change(header, "kid", nil),
		"kid is empty":           change(header, "kid", ""),
		"kid is a path":          change(header, "kid", "../../../../dev/null"),
		"kid is SQL":             change(header, "kid", "' OR 1=1 --"),
		"kid is a list":          change(header, "kid", []string{kid}),
		"kid in capital letters": change(header, "kid", strings.ToUpper(kid)+"x"),
		"kid and a NUL":          change(header, "kid", kid+"\x00"),
	} {
		attacks[what] = signWith(t, own, h, claims)
	}
	attacks["another payload"] = parts[0] + "." + part(change(claims, "sub", "root")) + "." + parts[2]
	attacks["a shortened signature"] = good[:len(good)-2]
	attacks["no signature"] = parts[0] + "." + parts[1] + "."
	attacks["two parts"] = parts[0] + "." + parts[1]
	attacks["four parts"] = good + "." + parts[2]
	attacks["a padded part"] = parts[0] + "=." + parts[1] + "." + parts[2]
	attacks["a line end"] = parts[0] + "." + parts[1] + "." + parts[2] + "\n"
	attacks["a space before it"] = " " + good
	attacks["many dots"] = strings.Repeat(".", 100_000)
	attacks["a long one"] = good + strings.Repeat("A", 1<<20)
	attacks["a JWE"] = strings.Repeat("eyJhbGciOiJkaXIifQ.", 4) + "AA"
	attacks["JSON serialisation"] = `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`

	// Signed by the issuer's own key, and wrong all the same.
	genuine := func(what string, header, claims any) { attacks[what] = signWith(t, key, header, claims) }
	for _, typ := range []any{nil, "JWT", "jwt", "AT+JWT", "application/at+jwt", "at+jwt ", "id+jwt", "logout+jwt", "dpop+jwt"} {
		genuine(fmt.Sprintf("typ %v", typ), change(header, "typ", typ), claims)
	}
	for name, value := range map[string]any{
		"crit": []string{"b64"}, "b64": false, "zip": "DEF", "cty": "JWT", "jku": elsewhere.URL, "x5u": elsewhere.URL, "jwk": jwk, "x5c": []string{"AA"}, "nonce": "1",
	} {
		genuine("header "+name, change(header, name, value), claims)
	}
	genuine("alg twice", `{"alg":"`+string(alg)+`","alg":"none","kid":"`+kid+`","typ":"at+jwt"}`, claims)
	genuine("alg in two cases", `{"alg":"`+string(alg)+`","ALG":"none","kid":"`+kid+`","typ":"at+jwt"}`, claims)
	genuine("more behind the header", `{"alg":"`+string(alg)+`","kid":"`+kid+`","typ":"at+jwt"} {}`, claims)
	body := fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"ada","client_id":"","jti":"j","sid":"","iat":%d,"exp":%d`, is.url(), is.url(), now, now+900)
	genuine("sub twice", header, body+`,"sub":"root"}`)
	genuine("sub in two cases", header, body+`,"Sub":"root"}`)
	genuine("scope in capitals only", header, body+`,"SCOPE":""}`)
	genuine("sub by an escape", header, body+`,"\u0073ub":"root"}`)
	genuine("broken UTF-8", header, body+",\"x\":\"\xff\"}")
	genuine("payload null", header, "null")
	genuine("payload a list", header, "["+body+"}]")
	for _, tt := range []struct {
		name   string
		values []any
	}{
		{"iss", []any{nil, "", "https://evil.example", is.url() + "/", is.url() + ".evil.example", strings.ToUpper(is.url()), []string{is.url()}}},
		{"aud", []any{nil, "", "https://other.example", is.url() + "/x", []string{}, []string{"https://other.example"}, map[string]any{}}},
		{"sub", []any{nil, "", 5, []string{"ada"}}},
		{"exp", []any{nil, now - 5, now - 900, 0, -1, 1.5, "9999999999", json.RawMessage("1e400"), json.RawMessage("1e10"), true}},
		{"nbf", []any{now + 6, now + 9999, "x", -1}},
		{"iat", []any{nil, now + 6, now + 600, 1.5}},
		{"jti", []any{nil, ""}},
		{"scope", []any{5, []string{"admin"}, "a  b", "a\tb"}},
		{"amr", []any{"mfa", []any{1}}},
		{"auth_time", []any{"x", -1}},
	} {
		for _, value := range tt.values {
			genuine(fmt.Sprintf("%s %v", tt.name, value), header, change(claims, tt.name, value))
		}
	}
	attacks["opaque"] = "at_" + strings.Repeat("x", 40)
	attacks["a refresh token"] = "rt_AQGiASoz5nyUs2Otn"
	attacks["an API key"] = "sp_" + strings.Repeat("x", 40)

	is.fetches.Store(0)
	get(t, v, sallyport.SignedIn(), good).want(t, "the genuine token", 200, letIn)
	want := ""
	for _, what := range slices.Sorted(maps.Keys(attacks)) {
		r := get(t, v, sallyport.SignedIn(), attacks[what])
		r.want(t, what, 401, "invalid_token")
		if got := fmt.Sprint(r.status, r.header, r.body); want == "" {
			want = got
		} else if got != want {
			t.Errorf("%s is answered\n%s\nand not, as the others,\n%s", what, got, want)
		}
		if a := attacks[what]; len(a) > 8 && strings.Contains(fmt.Sprint(r.header, r.body), a) {
			t.Errorf("%s: the answer gives the token back", what)
		}
	}
	get(t, v, sallyport.SignedIn(), good).want(t, "the genuine token afterwards", 200, letIn)
	if len(attacks) < 120 {
		t.Errorf("only %d attacks", len(attacks))
	}
	if calls.Load() != 0 {
		t.Error("a URL in a token was followed")
	}
	is.fetched("for all of them", 1)

	// Until exp plus the leeway, also from memory, and not a moment longer.
	is.clock.forth(904*time.Second + 999*time.Millisecond)
	get(t, v, sallyport.SignedIn(), good).want(t, "within the leeway", 200, letIn)
	is.clock.forth(time.Millisecond)
	get(t, v, sallyport.SignedIn(), good).want(t, "expired", 401, "invalid_token")
	fresh := is.verifier(nil)
	get(t, fresh, sallyport.SignedIn(), good).want(t, "expired, not from memory", 401, "invalid_token")
}
