package server_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// trail sends requests under ids of its own, so that their audit events can be
// told from others. The ids are as long as the server's, so that answers can be
// compared with their Content-Length.
type trail struct {
	w   *world
	mu  sync.Mutex
	ids map[string]string // request id → what it tried
}

var attacks atomic.Int64

func (w *world) trail() *trail { return &trail{w: w, ids: map[string]string{}} }

func (tr *trail) send(what string, req *http.Request) reply {
	tr.w.t.Helper()
	id := fmt.Sprintf("attack.%019d", attacks.Add(1))
	tr.mu.Lock()
	tr.ids[id] = what
	tr.mu.Unlock()
	req.Header.Set("X-Request-Id", id)
	return tr.w.send(req)
}

// audited fails unless each request has left exactly one event of the action
// with this result, and if an audit row holds one of the secrets. At most about
// a hundred refusals in a quarter of a second are certain to be recorded.
func (tr *trail) audited(action string, result audit.Result, secrets ...string) {
	t := tr.w.t
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		all, err := audit.Latest(tr.w.db.View(t.Context()), 500)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, e := range all {
			if e.Action == action && e.Result == result {
				found[e.RequestID]++
			}
		}
		missing := ""
		for id, what := range tr.ids {
			switch n := found[id]; {
			case n == 0:
				missing = what
			case n > 1:
				t.Errorf("%s: %d events %q, want 1", what, n, action)
			}
		}
		if missing == "" {
			noSecretsIn(t, all, secrets...)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: no event %q with result %q", missing, action, result)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// noSecretsIn fails if an audit row holds one of the secrets.
func noSecretsIn(t *testing.T, records []audit.Record, secrets ...string) {
	t.Helper()
	for _, e := range records {
		text := fmt.Sprintf("%+v", e)
		for _, s := range secrets {
			if len(s) >= 6 && strings.Contains(text, s) {
				t.Errorf("the audit row of %q holds a secret (%.12s…)", e.Action, s)
			}
		}
	}
}

// plainly returns all of an answer that a caller can see but its date and id.
func plainly(r reply) string {
	h := r.header.Clone()
	h.Del("Date")
	h.Del("X-Request-Id")
	body := string(r.body)
	var m map[string]any
	if json.Unmarshal(r.body, &m) == nil {
		delete(m, "request_id")
		b, _ := json.Marshal(m)
		body = string(b)
	}
	var head strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&head, "%s: %s\n", name, strings.Join(h[name], ", "))
	}
	return fmt.Sprintf("%d\n%s\n%s", r.status, &head, body)
}

// alike fails unless two answers differ in nothing but date and id.
func alike(t *testing.T, what string, got, want reply) {
	t.Helper()
	if g, w := plainly(got), plainly(want); g != w {
		t.Errorf("%s is answered\n%s\nand not, as the others,\n%s", what, g, w)
	}
}

// quiet fails if an answer gives one of the secrets back.
func quiet(t *testing.T, what string, r reply, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if len(s) >= 6 && strings.Contains(plainly(r), s) {
			t.Errorf("%s: the answer gives a secret back: %.300s", what, r.body)
		}
	}
}

// holdings is everything an attack on accounts or sessions could have changed.
func (w *world) holdings() string {
	w.t.Helper()
	var out strings.Builder
	rows := func(err error) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	view := w.db.View(w.t.Context())
	rows(view.Rows(`SELECT id, subject_id, client_id, scope, ended_at, generation, idle_until, expires_at FROM sp_sessions ORDER BY id`, nil, func(scan db.Scan) error {
		var id, subject, client, scope string
		var n [4]int64
		err := scan(&id, &subject, &client, &scope, &n[0], &n[1], &n[2], &n[3])
		fmt.Fprintln(&out, "session", id, subject, client, scope, n)
		return err
	}))
	rows(view.Rows(`SELECT a.id, a.email, COALESCE(a.username, ''), a.password_hash, a.updated_at, COALESCE(a.last_login_at, 0), s.disabled, s.version
		FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id ORDER BY a.id`, nil, func(scan db.Scan) error {
		var text [4]string
		var n [3]int64
		var disabled bool
		err := scan(&text[0], &text[1], &text[2], &text[3], &n[0], &n[1], &disabled, &n[2])
		fmt.Fprintln(&out, "account", text, n, disabled)
		return err
	}))
	rows(view.Rows(`SELECT id, subject_id, name, scopes, expires_at, is_active FROM sp_api_keys ORDER BY id`, nil, func(scan db.Scan) error {
		var text [4]string
		var expires int64
		var active bool
		err := scan(&text[0], &text[1], &text[2], &text[3], &expires, &active)
		fmt.Fprintln(&out, "API key", text, expires, active)
		return err
	}))
	rows(view.Rows(`SELECT subject_id, role FROM sp_subject_roles ORDER BY subject_id, role`, nil, func(scan db.Scan) error {
		var id, role string
		err := scan(&id, &role)
		fmt.Fprintln(&out, "role", id, role)
		return err
	}))
	return out.String()
}

// holds fails if the state is not what it was.
func (w *world) holds(before string) {
	w.t.Helper()
	after := w.holdings()
	for line := range strings.Lines(before) {
		if !strings.Contains(after, line) {
			w.t.Errorf("gone or changed: %s", line)
		}
	}
	for line := range strings.Lines(after) {
		if !strings.Contains(before, line) {
			w.t.Errorf("new or changed: %s", line)
		}
	}
}

// parallel runs f n times at once.
func parallel(n int, f func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// with returns a request that carries an Authorization header as it is.
func (w *world) with(method, path, authorization string) *http.Request {
	req := w.request(method, path, "", nil)
	req.Header.Set("Authorization", authorization)
	return req
}

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

// payloadOf returns the claims of a token.
func payloadOf(t *testing.T, access string) map[string]any {
	t.Helper()
	parts := strings.Split(access, ".")
	if len(parts) != 3 {
		t.Fatal("not a JWS")
	}
	b, err := b64.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// sessionOf returns the id of the session that an access token belongs to.
func sessionOf(t *testing.T, access string) string {
	t.Helper()
	return payloadOf(t, access)["sid"].(string)
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

type raw = json.RawMessage

// sign makes a token with any key, as its algorithm does.
func sign(t *testing.T, key any, header, payload any) string {
	t.Helper()
	input := part(header) + "." + part(payload)
	digest := sha256.Sum256([]byte(input))
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return input + "." + b64.EncodeToString(ed25519.Sign(k, []byte(input)))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return input + "." + b64.EncodeToString(sig)
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write([]byte(input))
		return input + "." + b64.EncodeToString(m.Sum(nil))
	}
	t.Fatalf("no signature with a %T", key)
	return ""
}

// signingKey returns the server's active key, which no attacker has: with it a
// test says what the signature alone must not be enough for.
func (w *world) signingKey() (kid string, key any) {
	w.t.Helper()
	set, err := w.sv.Keys.Set(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := set.Active().MarshalPrivate()
	if err != nil {
		w.t.Fatal(err)
	}
	_, der, _ := strings.Cut(strings.TrimPrefix(string(b), "v1:"), ":")
	if key, err = x509.ParsePKCS8PrivateKey([]byte(der)); err != nil {
		w.t.Fatal(err)
	}
	return set.Active().ID(), key
}

// jwks returns the published keys.
func (w *world) jwks() []map[string]any {
	w.t.Helper()
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	r := w.do("GET", "/.well-known/jwks.json", "", nil).want(w.t, 200, "")
	if err := json.Unmarshal(r.body, &set); err != nil {
		w.t.Fatal(err)
	}
	return set.Keys
}

// publicKey rebuilds a published key.
func publicKey(t *testing.T, jwk map[string]any) crypto.PublicKey {
	t.Helper()
	member := func(name string) []byte {
		b, err := b64.DecodeString(jwk[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if jwk["kty"] == "OKP" {
		return ed25519.PublicKey(member("x"))
	}
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, member("x"), member("y")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// forgeries returns tokens that were made without the signing key.
func forgeries(t *testing.T, w *world, alg token.Alg, genuine, elsewhere string) map[string]string {
	t.Helper()
	jwk := w.jwks()[0]
	kid := jwk["kid"].(string)
	claims := payloadOf(t, genuine)
	header := map[string]any{"alg": string(alg), "kid": kid, "typ": "at+jwt"}
	parts := strings.Split(genuine, ".")
	out := map[string]string{}

	for _, none := range []any{"none", "None", "NONE", "nOnE", "", nil, raw("null"), " none", "none\x00"} {
		h := part(change(header, "alg", none))
		out[fmt.Sprintf("alg %q without a signature", none)] = h + "." + parts[1] + "."
		out[fmt.Sprintf("alg %q with one", none)] = h + "." + parts[1] + "." + parts[2]
	}
	out["no signature"] = parts[0] + "." + parts[1] + "."
	out["no signature and no dot"] = parts[0] + "." + parts[1]

	// HMAC with what is public.
	public := publicKey(t, jwk)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(jwk)
	rawKey := der
	if k, ok := public.(ed25519.PublicKey); ok {
		rawKey = k
	} else if k, err := public.(*ecdsa.PublicKey).Bytes(); err == nil {
		rawKey = k
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for form, secret := range map[string][]byte{
		"PEM": pemKey, "PEM without its last line end": []byte(strings.TrimSpace(string(pemKey))),
		"PKCS#1 PEM": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: der}),
		"DER":        der, "raw": rawKey, "JWK": text, "JWKS": w.do("GET", "/.well-known/jwks.json", "", nil).body,
		"x": []byte(jwk["x"].(string)), "kid": []byte(kid), "nothing": {}, "an empty key": make([]byte, 32),
	} {
		for _, a := range []string{"HS256", string(alg)} {
			out["HMAC with the public key as "+form+" called "+a] = sign(t, secret, change(header, "alg", a), claims)
		}
	}
	m := hmac.New(sha512.New, rawKey)
	m.Write([]byte(part(change(header, "alg", "HS512")) + "." + parts[1]))
	out["HS512"] = part(change(header, "alg", "HS512")) + "." + parts[1] + "." + b64.EncodeToString(m.Sum(nil))

	// An own key, and every way to point to it.
	mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	myPublic, mySecret, _ := ed25519.GenerateKey(rand.Reader)
	own := map[token.Alg]any{token.ES256: mine, token.EdDSA: mySecret}[alg]
	myJWK := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64.EncodeToString(myPublic), "kid": kid}
	if alg == token.ES256 {
		point, _ := mine.PublicKey.Bytes()
		myJWK = map[string]any{"kty": "EC", "crv": "P-256", "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:]), "kid": kid}
	}
	for what, h := range map[string]map[string]any{
		"own key":              header,
		"jwk":                  change(header, "jwk", myJWK),
		"jwk and no kid":       change(header, "jwk", myJWK, "kid", nil),
		"jku":                  change(header, "jku", elsewhere+"/jwks.json"),
		"jku and another kid":  change(header, "jku", elsewhere+"/jwks.json", "kid", "mine"),
		"x5u":                  change(header, "x5u", elsewhere+"/cert.pem"),
		"x5c":                  change(header, "x5c", []string{base64.StdEncoding.EncodeToString(der)}),
		"kid is a URL":         change(header, "kid", elsewhere+"/jwks.json"),
		"kid is a path":        change(header, "kid", "../../../../../../dev/null"),
		"kid is SQL":           change(header, "kid", "' OR '1'='1' --"),
		"kid is SQL that ends": change(header, "kid", kid+"'; DROP TABLE sp_sessions; --"),
		"kid is an array":      change(header, "kid", []string{kid}),
		"kid is an object":     change(header, "kid", map[string]string{"$ne": ""}),
		"kid is null":          change(header, "kid", raw("null")),
		"kid is empty":         change(header, "kid", ""),
		"kid with NUL":         change(header, "kid", kid+"\x00"),
		"kid is long":          change(header, "kid", strings.Repeat("k", 6000)),
		"crit":                 change(header, "crit", []string{"exp"}),
		"b64":                  change(header, "b64", false, "crit", []string{"b64"}),
		"zip":                  change(header, "zip", "DEF"),
		"cty":                  change(header, "cty", "JWT"),
	} {
		out["own key: "+what] = sign(t, own, h, claims)
	}
	out["own key named by iss"] = sign(t, own, header, change(claims, "iss", elsewhere))
	for _, a := range []string{"ES384", "ES512", "ES256K", "PS256", "RS256", "HS256", "Ed25519", "Ed448", strings.ToLower(string(alg)), string(alg) + " "} {
		out["genuine, called "+a] = part(change(header, "alg", a)) + "." + parts[1] + "." + parts[2]
	}

	// The genuine one, changed.
	for what, p := range map[string]any{
		"subject": change(claims, "sub", "00000000-0000-7000-8000-000000000000"), "expiry": change(claims, "exp", 4102444800),
		"scope": change(claims, "scope", "role:admin"), "array": []any{claims}, "null": "null",
	} {
		out["changed: "+what] = parts[0] + "." + part(p) + "." + parts[2]
	}
	zeros := b64.EncodeToString(make([]byte, 64))
	for what, text := range map[string]string{
		"zero signature": parts[0] + "." + parts[1] + "." + zeros, "signature cut": genuine[:len(genuine)-1],
		"one more": genuine + "A", "padding": genuine + "==", "a dot more": genuine + ".", "dot before": "." + genuine,
		"three dots": "...", "dots": strings.Repeat(".", 5000), "nothing": "", "a word": "null", "quoted": `"` + genuine + `"`,
		"twice": genuine + "," + genuine, "blank inside": parts[0] + ". " + parts[1] + "." + parts[2],
		"other base64": strings.NewReplacer("-", "+", "_", "/").Replace(parts[0]) + "." + parts[1] + "." + parts[2] + "=",
		"JSON":         `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"nested":       part(header) + "." + part(genuine) + "." + parts[2],
		"JWE":          part(`{"alg":"dir","enc":"A256GCM","zip":"DEF"}`) + "..AAAA.AAAA.AAAA",
		"deep header":  part(strings.Repeat(`{"a":`, 100)+"1"+strings.Repeat("}", 100)) + "." + parts[1] + "." + parts[2],
		"deep arrays":  b64.EncodeToString([]byte(strings.Repeat("[", 700))) + "." + parts[1] + "." + parts[2],
		"duplicate":    part(`{"alg":"none","alg":"`+string(alg)+`","kid":"`+kid+`","typ":"at+jwt"}`) + "." + parts[1] + "." + parts[2],
		"other case":   part(`{"ALG":"none","alg":"`+string(alg)+`","kid":"`+kid+`","typ":"at+jwt"}`) + "." + parts[1] + ".",
		"not UTF-8":    part("{\"alg\":\"\xff\"}") + "." + parts[1] + "." + parts[2],
		"8193 bytes":   genuine + strings.Repeat("A", 8193-len(genuine)),
	} {
		out["form: "+what] = text
	}
	return out
}

// Whatever a token is, if it was not signed with the key it is refused, and
// every refusal is the same as the one of an expired token. Nothing in it makes
// the server call somebody.
func TestJ_Forged(t *testing.T) {
	t.Parallel()
	for _, alg := range []token.Alg{token.EdDSA, token.ES256} {
		t.Run(string(alg), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Algorithm = alg })
			_, tk := w.user("ada")
			var calls atomic.Int64
			elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
			defer elsewhere.Close()
			before := w.holdings()

			w.clock.advance(16 * time.Minute)
			expired := w.do("GET", "/users/me", tk.access, nil).want(t, 401, "invalid_token")
			if c := expired.header["Www-Authenticate"]; len(c) != 2 || !strings.Contains(c[0], `error="invalid_token"`) || !strings.HasPrefix(c[1], "ApiKey ") {
				t.Errorf("challenge of an expired token: %q", c)
			}
			w.clock.advance(-16 * time.Minute)
			if !w.alive(tk.access) {
				t.Fatal("the genuine token is refused")
			}

			all := forgeries(t, w, alg, tk.access, elsewhere.URL)
			secrets := []string{strings.Split(tk.access, ".")[2]}
			for batch := range slices.Chunk(slices.Sorted(maps.Keys(all)), 50) {
				tr := w.trail()
				for _, what := range batch {
					r := tr.send(what, w.with("GET", "/users/me", "Bearer "+all[what]))
					alike(t, what, r, expired)
				}
				tr.audited("credential.refused", audit.Failure, append(secrets, "Bearer ")...)
			}
			if n := calls.Load(); n != 0 {
				t.Errorf("the server called a URL out of a token %d times", n)
			}
			w.holds(before)
			if !w.alive(tk.access) {
				t.Error("the genuine token is refused")
			}
		})
	}
}

// A signature with the right key is not enough: the claims must be those of an
// access token of this issuer, for this audience, of a session of its subject,
// valid now.
func TestJ_GenuineKeyWrongClaims(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	ada, tk := w.user("ada")
	bob, other := w.user("bob")
	kid, key := w.signingKey()
	header := map[string]any{"alg": "EdDSA", "kid": kid, "typ": "at+jwt"}
	claims := payloadOf(t, tk.access)
	now := w.clock.now().Unix()
	forged := w.do("GET", "/users/me", "x.y.z", nil).want(t, 401, "invalid_token")
	before := w.holdings()

	good := sign(t, key, header, claims)
	w.do("GET", "/users/me", good, nil).want(t, 200, "")

	tr := w.trail()
	for what, c := range map[string]any{
		"no exp": change(claims, "exp", nil), "exp in the past": change(claims, "iat", now-900, "exp", now-60),
		"exp is a fraction": change(claims, "exp", float64(now)+900.5), "exp is 1e400": change(claims, "exp", raw("1e400")),
		"exp has an exponent": change(claims, "exp", raw("2e9")), "exp is text": change(claims, "exp", fmt.Sprint(now+900)),
		"exp is negative": change(claims, "exp", -1), "exp is zero": change(claims, "exp", 0), "exp before iat": change(claims, "exp", now-1000, "iat", now),
		"exp in the year 292277026596": change(claims, "exp", raw("9223372036854775807")), "exp beyond int64": change(claims, "exp", raw("18446744073709551616")),
		"no iat": change(claims, "iat", nil), "iat in the future": change(claims, "iat", now+600, "exp", now+900),
		"nbf in the future": change(claims, "nbf", now+600), "nbf is text": change(claims, "nbf", "0"), "nbf is null": change(claims, "nbf", raw("null")),
		"no iss": change(claims, "iss", nil), "iss is a prefix": change(claims, "iss", baseURL[:len(baseURL)-1]), "iss goes on": change(claims, "iss", baseURL+".evil"),
		"iss with a slash": change(claims, "iss", baseURL+"/"), "iss in capitals": change(claims, "iss", strings.ToUpper(baseURL)),
		"iss is an array": change(claims, "iss", []string{baseURL}), "iss is empty": change(claims, "iss", ""), "iss is null": change(claims, "iss", raw("null")),
		"no aud": change(claims, "aud", nil), "aud is another": change(claims, "aud", "https://other.example"), "aud holds ours as a part": change(claims, "aud", baseURL+" https://x.example"),
		"aud is empty": change(claims, "aud", []string{}), "aud is an object": change(claims, "aud", map[string]any{baseURL: true}), "aud nests": change(claims, "aud", []any{[]string{baseURL}}),
		"no sub": change(claims, "sub", nil), "sub is a number": change(claims, "sub", 1), "sub is an array": change(claims, "sub", []string{ada}), "sub is another's": change(claims, "sub", bob),
		"no sid": change(claims, "sid", nil), "sid is empty": change(claims, "sid", ""), "sid is another's": change(claims, "sid", sessionOf(t, other.access)),
		"sid in capitals": change(claims, "sid", strings.ToUpper(sessionOf(t, tk.access))), "sid unknown": change(claims, "sid", ada), "sid with NUL": change(claims, "sid", "\x00"),
		"sid is SQL": change(claims, "sid", "' OR 1=1 --"), "no jti": change(claims, "jti", nil),
		"scope is an array": change(claims, "scope", []string{"role:admin"}), "scope with two blanks": change(claims, "scope", "read:users  write:users"),
		"an array": []any{claims}, "null": "null", "text": `"x"`, "nothing": "", "trailing data": part(claims) + "{}",
		"EXP beside exp":     change(claims, "EXP", now+9000),
		"exp twice":          strings.TrimSuffix(string(mustJSON(claims)), "}") + `,"exp":4102444800}`,
		"sub twice, escaped": strings.TrimSuffix(string(mustJSON(claims)), "}") + `,"s\u0075b":"` + bob + `"}`,
		"not UTF-8":          strings.Replace(string(mustJSON(claims)), baseURL, baseURL+"\xff", 1),
		"deep":               strings.TrimSuffix(string(mustJSON(claims)), "}") + `,"x":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + "}",
	} {
		alike(t, what, tr.send(what, w.with("GET", "/users/me", "Bearer "+sign(t, key, header, c))), forged)
	}
	tr.audited("credential.refused", audit.Failure, good, tk.access, other.access)

	tr = w.trail()
	for _, typ := range []any{nil, "", "JWT", "AT+JWT", "application/at+jwt", "id+jwt", "rt+jwt", "logout+jwt", "mfa+jwt", raw("null"), []string{"at+jwt"}} {
		what := fmt.Sprintf("typ %v", typ)
		alike(t, what, tr.send(what, w.with("GET", "/users/me", "Bearer "+sign(t, key, change(header, "typ", typ), claims))), forged)
	}
	tr.audited("credential.refused", audit.Failure, good)
	w.holds(before)
	if !w.alive(good) || !w.alive(tk.access) || !w.alive(other.access) {
		t.Error("a genuine token is refused")
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Thousands of key ids that nobody knows neither fill memory nor the audit log,
// and nobody else notices.
func TestJ_UnknownKeyIDs(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("ada")
	_, mine, _ := ed25519.GenerateKey(rand.Reader)
	claims := payloadOf(t, tk.access)
	forged := w.do("GET", "/users/me", "x.y.z", nil)
	goroutines := runtime.NumGoroutine()

	const each, workers = 500, 4
	var tokens [workers][each]string
	for n := range workers {
		for i := range each {
			tokens[n][i] = sign(t, mine, map[string]any{"alg": "EdDSA", "kid": fmt.Sprintf("unknown-%d-%d", n, i), "typ": "at+jwt"}, claims)
		}
	}
	began := time.Now()
	parallel(workers, func(n int) {
		for i, token := range tokens[n] {
			if r := w.do("GET", "/users/me", token, nil); plainly(r) != plainly(forged) {
				t.Errorf("%d-%d: %s", n, i, plainly(r))
				return
			}
		}
	})
	// What the budget lets through meanwhile (docs/audit.md); a busy machine sends no more.
	most := 128 + 256*int(time.Since(began).Seconds()+1)
	if !w.alive(tk.access) {
		t.Error("the genuine token is refused")
	}
	if each*workers > most {
		noSecretsIn(t, w.events("audit.dropped", 1), tk.access)
	}
	n := -1
	if _, err := w.db.View(t.Context()).Row("SELECT COUNT(*) FROM sp_audit WHERE action = 'credential.refused'", nil, &n); err != nil || n < 1 || n > most {
		t.Errorf("%v; %d refusals out of %d were written: nothing bounds them", err, n, each*workers)
	}
	http.DefaultClient.CloseIdleConnections()
	if n := settle(goroutines + 8); n > goroutines+8 {
		t.Errorf("%d goroutines, before %d", n, goroutines)
	}
}

// settle waits until there are at most limit goroutines, and returns how many
// there are.
func settle(limit int) int {
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > limit && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	return runtime.NumGoroutine()
}

// A credential in more than one place, or in the address, is a bad request,
// whether or not it is good.
func TestJ_SeveralOrMisplaced(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("ada")
	_, other := w.user("bob")
	before := w.holdings()
	for _, headers := range [][]string{
		{"Bearer " + tk.access, "Bearer " + tk.access},
		{"Bearer " + tk.access, "Bearer " + other.access},
		{"Bearer " + tk.access, "Bearer forged"},
		{"Bearer " + tk.access, "Basic Og=="},
		{"Basic Og==", "Bearer " + tk.access},
		{"Bearer " + tk.access, ""},
	} {
		for _, route := range []string{"GET /users/me", "POST /logout", "POST /token"} {
			method, path, _ := strings.Cut(route, " ")
			req := w.typed(method, path, formType, url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {goodPassword}}.Encode())
			req.Header["Authorization"] = headers
			r := w.send(req).want(t, 400, "")
			if path != "/token" { // whose errors are RFC 6749's
				r.want(t, 400, "several_credentials")
			}
			quiet(t, path, r, tk.access, other.access, goodPassword)
		}
	}
	for _, query := range []string{
		"?access_token=" + tk.access, "?x=1&access_token=" + tk.access, "?access_token=", "?access_token",
		"?access%5Ftoken=" + tk.access, "?%61ccess_token=" + tk.access,
	} {
		for _, header := range []string{"", tk.access} {
			for _, path := range []string{"/users/me", "/users/me/sessions"} {
				r := w.do("GET", path+query, header, nil)
				if r.status != 400 {
					t.Errorf("GET %s%.24s… with a header: %t: status %d, want 400", path, query, header != "", r.status)
					continue
				}
				r.want(t, 400, "credential_in_query")
				quiet(t, path, r, tk.access)
			}
		}
	}
	// RFC 6750's third place, the form body, is no place here either.
	req := w.request("POST", "/logout", "", url.Values{"access_token": {tk.access}}.Encode())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w.send(req).want(t, 401, "unauthenticated")
	for _, header := range []string{"X-Access-Token", "X-Auth-Token", "Cookie", "Proxy-Authorization", "X-Forwarded-Authorization"} {
		req := w.request("GET", "/users/me", "", nil)
		req.Header.Set(header, "Bearer "+tk.access)
		if header == "Cookie" {
			req.Header.Set(header, "access_token="+tk.access+"; session="+tk.access)
		}
		w.send(req).want(t, 401, "unauthenticated")
	}
	w.holds(before)
	if !w.alive(tk.access) || !w.alive(other.access) {
		t.Error("a genuine token is refused")
	}
}

// Odd spellings of the header are read in one way or not at all.
func TestJ_AuthorizationSyntax(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("ada")
	before := w.holdings()
	for _, ok := range []string{"Bearer ", "bearer ", "BEARER ", "bEaReR "} {
		w.send(w.with("GET", "/users/me", ok+tk.access)).want(t, 200, "")
	}
	deep := strings.Repeat("Bearer ", 1000)
	for what, header := range map[string]string{
		"no token": "Bearer", "a blank": "Bearer ", "two blanks": "Bearer  " + tk.access, "a tab": "Bearer\t" + tk.access,
		"token alone": tk.access, "no blank": "Bearer" + tk.access, "colon": "Bearer: " + tk.access, "equals": "Bearer=" + tk.access,
		"quoted": `Bearer "` + tk.access + `"`, "brackets": "Bearer <" + tk.access + ">", "a parameter": "Bearer token=" + tk.access,
		"a list": "Bearer " + tk.access + ", Bearer " + tk.access, "a comma": "Bearer " + tk.access + ",", "before": ", Bearer " + tk.access,
		"two words": "Bearer " + tk.access + " x", "Token": "Token " + tk.access, "JWT": "JWT " + tk.access, "DPoP": "DPoP " + tk.access,
		"Basic": "Basic " + base64.StdEncoding.EncodeToString([]byte(tk.access+":")), "Basic with the password": "Basic " + base64.StdEncoding.EncodeToString([]byte("ada:"+goodPassword)),
		"Negotiate": "Negotiate " + tk.access, "Digest": `Digest username="ada", response="` + tk.access + `"`,
		"deep": deep + tk.access, "semicolon": "Bearer;" + tk.access, "escaped": "Bearer%20" + tk.access, "long s": "Bearer\u017f " + tk.access,
		"Latin-1": "Bearer " + tk.access + "\xff", "Kelvin": "\u212aearer " + tk.access, "no-break blank": "Bearer\u00a0" + tk.access,
		"100 KiB": "Bearer " + strings.Repeat("A", 100<<10), "100 KiB of dots": "Bearer " + strings.Repeat(".", 100<<10),
		"genuine and 100 KiB": "Bearer " + tk.access + strings.Repeat("A", 100<<10), "100 KiB of blanks": "Bearer" + strings.Repeat(" ", 100<<10) + tk.access,
		"100 KiB of scheme": strings.Repeat("B", 100<<10) + " " + tk.access,
	} {
		began := time.Now()
		r := w.send(w.with("GET", "/users/me", header))
		if r.status != 401 && (len(header) < 16<<10 || r.status != 431) {
			t.Errorf("%s: status %d, want 401: %.200s", what, r.status, r.body)
		}
		if r.status == 401 && len(r.header["Www-Authenticate"]) == 0 {
			t.Errorf("%s: no WWW-Authenticate", what)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("%s: took %v", what, d)
		}
		quiet(t, what, r, tk.access, goodPassword)
	}
	w.holds(before)
	if !w.alive(tk.access) {
		t.Error("the genuine token is refused")
	}
}

// Ids and tokens of one kind never work as another, at no route.
func TestJ_Crossings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	id, tk := w.user("ada", "admin")
	sid := sessionOf(t, tk.access)
	jti := payloadOf(t, tk.access)["jti"].(string)
	kid := w.jwks()[0]["kid"].(string)
	forged := w.do("GET", "/users/me", "x.y.z", nil).want(t, 401, "invalid_token")
	before := w.holdings()

	// As access token, at every route that wants one.
	routes := 0
	for _, r := range w.sv.Routes().Routes() {
		if r.Rule.Op() == sallyport.OpPublic || r.Method == "*" {
			continue
		}
		routes++
		path := strings.NewReplacer("{id}", id, "{name}", "user").Replace(r.Path)
		for what, cred := range map[string]string{"refresh token": tk.refresh, "session id": sid, "account id": id, "kid": kid} {
			got := w.send(w.with(r.Method, path, "Bearer "+cred))
			got.want(t, 401, "invalid_token")
			want := forged
			if r.Method+" "+r.Path == introspection {
				want = w.send(w.with(r.Method, path, "Bearer x.y.z"))
			}
			alike(t, what+" at "+r.Method+" "+r.Path, got, want)
		}
	}
	if routes < 10 {
		t.Fatalf("only %d routes want a credential", routes)
	}
	time.Sleep(300 * time.Millisecond) // more refusals than are certain to be recorded at once
	tr := w.trail()
	for what, cred := range map[string]string{"refresh token": tk.refresh, "session id": sid, "account id": id, "jti": jti, "kid": kid, "password": goodPassword} {
		alike(t, what, tr.send(what, w.with("GET", "/users/me", "Bearer "+cred)), forged)
	}
	tr.audited("credential.refused", audit.Failure, tk.refresh, goodPassword, tk.access)

	// As refresh token, at both places.
	nonsense := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": "rt_nonsense"}).want(t, 401, "invalid_token")
	nonsenseForm := w.form("/token", "grant_type", "refresh_token", "refresh_token", "rt_nonsense").want(t, 400, "invalid_grant")
	tr = w.trail()
	for what, cred := range map[string]string{
		"access token": tk.access, "session id": sid, "session id with the prefix": "rt_" + sid, "account id": id, "jti": jti, "password": goodPassword,
		"access token with the prefix": "rt_" + strings.ReplaceAll(tk.access, ".", ""), "refresh token without the prefix": strings.TrimPrefix(tk.refresh, "rt_"),
		"refresh token padded": tk.refresh + "=", "refresh token and a blank": tk.refresh + " ", "in capitals": strings.ToUpper(tk.refresh),
	} {
		alike(t, what, tr.send(what, w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": cred})), nonsense)
		req := w.request("POST", "/token", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {cred}}.Encode())
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		alike(t, what, tr.send(what, req), nonsenseForm)
	}
	tr.audited("refresh.refused", audit.Failure, tk.refresh, tk.access, goodPassword)

	// As password, and as session or account id.
	for _, cred := range []string{tk.access, tk.refresh, sid, id} {
		w.form("/token", "grant_type", "password", "username", "ada", "password", cred).want(t, 401, "invalid_grant")
	}
	for _, p := range []string{"/users/me/sessions/" + id, "/users/me/sessions/" + jti, "/users/" + sid, "/users/" + jti} {
		w.do("DELETE", p, tk.access, nil).want(t, 404, "not_found")
	}
	for _, p := range []string{"/users/me/sessions/" + tk.refresh, "/users/me/sessions/" + tk.access, "/users/" + tk.refresh} {
		if r := w.do("DELETE", p, tk.access, nil); r.status != 404 && r.status != 422 {
			t.Errorf("DELETE %.30s…: status %d: %s", p, r.status, r.body)
		} else {
			quiet(t, "a token in the path", r, tk.refresh, tk.access)
		}
	}
	w.holds(before)
	if !w.alive(tk.access) {
		t.Error("the genuine token is refused")
	}
	w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
}

// The token of an account that was deleted or disabled is dead at once, and
// refused as a forged one is.
func TestJ_DeletedAndDisabled(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, admin := w.user("root", "admin")
		_, ada := w.user("ada")
		bobID, bob := w.user("bob")
		eveID, eve := w.user("eve")
		forged := w.do("GET", "/users/me", "x.y.z", nil)
		noGrant := w.form("/token", "grant_type", "refresh_token", "refresh_token", "rt_nonsense")

		w.do("DELETE", "/users/me", ada.access, nil).want(t, 204, "")
		w.do("DELETE", "/users/"+bobID, admin.access, nil).want(t, 204, "")
		w.do("PATCH", "/users/"+eveID, admin.access, map[string]any{"disabled": true}).want(t, 200, "")
		w.events("account.deleted", 2)
		tr := w.trail()
		for name, tk := range map[string]tokens{"ada": ada, "bob": bob, "eve": eve} {
			alike(t, name, tr.send(name, w.with("GET", "/users/me", "Bearer "+tk.access)), forged)
			alike(t, name, w.form("/token", "grant_type", "refresh_token", "refresh_token", tk.refresh), noGrant)
			w.form("/token", "grant_type", "password", "username", name, "password", goodPassword).want(t, 401, "invalid_grant")
		}
		tr.audited("credential.refused", audit.Failure, ada.access, ada.refresh, bob.access, bob.refresh, eve.access, eve.refresh, goodPassword)

		// Enabling does not bring the session back, and a name given anew is
		// another account.
		w.do("PATCH", "/users/"+eveID, admin.access, map[string]any{"disabled": false}).want(t, 200, "")
		w.register("ada")
		for name, tk := range map[string]tokens{"ada": ada, "eve": eve} {
			if w.alive(tk.access) {
				t.Errorf("%s's old token came back", name)
			}
			if again := w.signIn(name, goodPassword); !w.alive(again.access) {
				t.Errorf("%s cannot sign in", name)
			}
		}
		if !w.alive(admin.access) {
			t.Error("the administrator's token is refused")
		}
	})
}

// pair returns two servers on one database, as two nodes or as one that was
// started again.
func pair(t *testing.T, d *db.DB, second ...func(*server.Config)) (w1, w2 *world) {
	t.Helper()
	master := filepath.Join(t.TempDir(), "master.key")
	shared := func(c *server.Config) { c.MasterKeyFile = master }
	w1 = newWorld(t, d, nil, shared)
	w2 = newWorld(t, d, nil, append([]func(*server.Config){shared, func(c *server.Config) { c.Now = w1.clock.now }}, second...)...)
	w2.clock = w1.clock
	return w1, w2
}

// A token of another issuer is refused although it has the same keys, the same
// accounts and a live session.
func TestJ_AnotherIssuer(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w1, w2 := pair(t, d, func(c *server.Config) { c.BaseURL = "http://other.test" })
		_, tk1 := w1.user("ada")
		tk2 := w2.signIn("ada", goodPassword)
		if !w1.alive(tk1.access) || !w2.alive(tk2.access) {
			t.Fatal("a token is refused by its own issuer")
		}
		forged := w1.do("GET", "/users/me", "x.y.z", nil)
		tr := w1.trail()
		alike(t, "another issuer", tr.send("another issuer", w1.with("GET", "/users/me", "Bearer "+tk2.access)), forged)
		tr.audited("credential.refused", audit.Failure, tk1.access, tk2.access)
		if w2.alive(tk1.access) || !w1.alive(tk1.access) || !w2.alive(tk2.access) {
			t.Error("issuers are mixed up")
		}
	})
}

// A retired key is refused at the next request, by the node that retired it and
// by others; a retiring one is good. Sessions live on by their refresh tokens.
func TestJ_RetiredKey(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w1, w2 := pair(t, d)
		_, old := w1.user("ada")
		first := w1.jwks()[0]["kid"].(string)
		if !w2.alive(old.access) {
			t.Fatal("the second node refuses the first's token")
		}
		if _, err := w1.sv.Keys.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		recent := w1.signIn("ada", goodPassword)
		for _, w := range []*world{w1, w2} {
			for what, tk := range map[string]tokens{"retiring": old, "active": recent} {
				if !w.alive(tk.access) {
					t.Errorf("a token of the %s key is refused", what)
				}
			}
		}
		if k := w2.jwks()[0]["kid"]; k == first {
			t.Error("the second node publishes the old key first")
		}
		if err := w1.sv.Keys.Retire(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		tr1, tr2 := w1.trail(), w2.trail()
		r2 := tr2.send("other node", w2.with("GET", "/users/me", "Bearer "+old.access)).want(t, 401, "invalid_token")
		alike(t, "this node", tr1.send("this node", w1.with("GET", "/users/me", "Bearer "+old.access)), r2)
		alike(t, "forged", w2.do("GET", "/users/me", "x.y.z", nil), r2)
		for _, w := range []*world{w1, w2} {
			if !w.alive(recent.access) {
				t.Error("a token of the active key is refused")
			}
			for _, k := range w.jwks() {
				if k["kid"] == first {
					t.Error("the retired key is still published")
				}
			}
		}
		r := w2.do("POST", "/token/refresh", "", map[string]string{"refresh_token": old.refresh}).want(t, 200, "")
		if again := r.text(t, "access_token"); !w1.alive(again) || !w2.alive(again) {
			t.Error("the session did not live on by its refresh token")
		}
		w1.events("key.retired", 1)
		noSecretsIn(t, w1.events("key.rotated", 1), old.access, recent.access)

		// The retired key cannot be used again, also not from the database.
		var sealed []byte
		if _, err := d.View(t.Context()).Row("SELECT sealed FROM sp_signing_keys WHERE id = $1", []any{first}, &sealed); err != nil || len(sealed) != 0 {
			t.Errorf("the private part of a retired key is kept: %d bytes, %v", len(sealed), err)
		}
	})
}

// A key that is not retired by hand is refused once the last of its tokens has
// expired, though the clock be set back no further than that.
func TestJ_ReplacedKeyEnds(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, old := w.user("ada")
	first := w.jwks()[0]["kid"].(string)
	if _, err := w.sv.Keys.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(14 * time.Minute)
	if !w.alive(old.access) {
		t.Error("a token of a retiring key is refused before it expires")
	}
	w.clock.advance(time.Hour)
	if w.alive(old.access) {
		t.Error("an expired token is accepted")
	}
	for _, k := range w.jwks() {
		if k["kid"] == first {
			t.Error("the key is published after its time")
		}
	}
}

// The published keys hold nothing private, whatever the algorithm.
func TestJ_PublishedKeys(t *testing.T) {
	t.Parallel()
	for alg, members := range map[token.Alg][]string{
		token.EdDSA: {"alg", "crv", "kid", "kty", "use", "x"},
		token.ES256: {"alg", "crv", "kid", "kty", "use", "x", "y"},
		token.RS256: {"alg", "e", "kid", "kty", "n", "use"},
		token.HS256: nil,
	} {
		t.Run(string(alg), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Algorithm = alg })
			_, tk := w.user("ada")
			if !w.alive(tk.access) {
				t.Fatal("a genuine token is refused")
			}
			check := func() {
				t.Helper()
				keys := w.jwks()
				if members == nil && len(keys) != 0 || members != nil && len(keys) < 2 {
					t.Fatalf("%d keys are published", len(keys))
				}
				for _, k := range keys {
					if got := slices.Sorted(maps.Keys(k)); !reflect.DeepEqual(got, members) {
						t.Errorf("members %q, want %q", got, members)
					}
					// RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1; RFC 8037.
					for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
						if _, ok := k[private]; ok {
							t.Errorf("the private member %q is published", private)
						}
					}
				}
			}
			check()
			if alg != token.RS256 { // making its keys takes long
				if _, err := w.sv.Keys.Rotate(t.Context()); err != nil {
					t.Fatal(err)
				}
				check()
			}
			for _, path := range []string{"/.well-known/jwks.json?private=true", "/openapi.json", "/readyz?verbose"} {
				r := w.do("GET", path, "", nil)
				for _, mark := range []string{`"d":`, `"k":`, "PRIVATE"} {
					if strings.Contains(string(r.body), mark) {
						t.Errorf("GET %s holds %s", path, mark)
					}
				}
			}
		})
	}
}

// A scope that was asked for bounds the token, and cannot be widened by asking
// for it elsewhere.
func TestJ_ScopeBinds(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, whole := w.user("ada", "admin")
	narrow := w.signIn("ada", goodPassword, "scope", "read:audit")
	w.do("GET", "/users", whole.access, nil).want(t, 200, "")
	tr := w.trail()
	r := tr.send("narrow", w.with("GET", "/users?scope=read:users", "Bearer "+narrow.access))
	if r.status == 422 { // unknown query parameter: the rule came first or not, the list did not
		t.Fatalf("parameters are read before the rule: %s", r.body)
	}
	r.want(t, 403, "")
	if c := r.header.Get("Www-Authenticate"); !strings.Contains(c, "insufficient_scope") || !strings.Contains(c, "read:users") {
		t.Errorf("challenge %q", c)
	}
	tr.audited("access.denied", audit.Denied, narrow.access, narrow.refresh)
	if s, _ := payloadOf(t, narrow.access)["client_id"].(string); s != session.FirstParty {
		t.Errorf("client %q", s)
	}
}

// Many callers at once: each gets its own answer, and none another's.
func TestJ_AnswersAreNotMixedUp(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	const users = 8
	var ids [users]string
	var tk [users]tokens
	for i := range users {
		ids[i], tk[i] = w.user(fmt.Sprintf("user%d", i))
	}
	var wrong atomic.Int64
	parallel(2*users, func(n int) {
		for i := range 60 {
			who := (n + i) % users
			req := w.with("GET", "/users/me", "Bearer "+tk[who].access)
			id := fmt.Sprintf("%d.%d", n, i)
			req.Header.Set("X-Request-Id", id)
			switch i % 4 {
			case 1:
				req.URL.Path = "/nothing"
			case 2:
				req.Method = "TRACE"
			case 3:
				req.Header.Set("Authorization", "Bearer x.y.z")
			}
			r := w.send(req)
			ok := r.header.Get("X-Request-Id") == id
			switch i % 4 {
			case 0:
				ok = ok && r.status == 200 && strings.Contains(string(r.body), ids[who])
			case 1:
				ok = ok && r.status == 404
			case 2:
				ok = ok && r.status == 405
			case 3:
				ok = ok && r.status == 401 && strings.Contains(string(r.body), id)
			}
			if !ok {
				wrong.Add(1)
			}
		}
	})
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d answers were not the caller's own", n)
	}
}
