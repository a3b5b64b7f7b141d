package server_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// algOf returns the header's alg of a token, and its kid.
func algOf(t *testing.T, access string) (alg token.Alg, kid string) {
	t.Helper()
	head, _, _ := strings.Cut(access, ".")
	b, err := b64.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var h struct {
		Alg token.Alg
		Kid string
	}
	if err := json.Unmarshal(b, &h); err != nil {
		t.Fatal(err)
	}
	return h.Alg, h.Kid
}

// proves fails unless go-jose, which shares nothing with us, verifies the token
// with the published key of its kid.
func (w *world) proves(access string) {
	w.t.Helper()
	alg, kid := algOf(w.t, access)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.do("GET", "/.well-known/jwks.json", "", nil).want(w.t, 200, "").body, &set); err != nil {
		w.t.Fatal(err)
	}
	found := set.Key(kid)
	if len(found) != 1 || !found[0].IsPublic() || found[0].Algorithm != string(alg) {
		w.t.Fatalf("%d published keys of kid %s", len(found), kid)
	}
	sig, err := jose.ParseSignedCompact(access, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		w.t.Fatal(err)
	}
	if payload, err := sig.Verify(found[0]); err != nil || !strings.Contains(string(payload), `"`+baseURL+`"`) {
		w.t.Fatalf("go-jose refuses the token: %v", err)
	}
}

// The life of a session under each algorithm: sign in, ask, rotate, go on.
func TestEveryAlgorithm(t *testing.T) {
	t.Parallel()
	allowed := map[token.Alg][]string{
		token.EdDSA: {"alg", "crv", "kid", "kty", "use", "x"},
		token.ES256: {"alg", "crv", "kid", "kty", "use", "x", "y"},
		token.RS256: {"alg", "e", "kid", "kty", "n", "use"},
	}
	for _, alg := range []token.Alg{token.EdDSA, token.ES256, token.RS256, token.HS256} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Algorithm = alg })
			published := func() {
				t.Helper()
				keys := w.jwks()
				if alg == token.HS256 {
					if len(keys) != 0 {
						t.Fatalf("keys of HS256 are published: %d", len(keys))
					}
					return
				}
				if len(keys) < 2 {
					t.Fatalf("%d keys are published", len(keys))
				}
				for _, k := range keys {
					if got := slices.Sorted(maps.Keys(k)); !slices.Equal(got, allowed[alg]) {
						t.Fatalf("members %q, want %q", got, allowed[alg])
					}
					if n, ok := k["n"].(string); ok {
						if b, err := b64.DecodeString(n); err != nil || len(b) != 384 || b[0] < 0x80 {
							t.Errorf("the modulus has %d bytes, want 3072 bits: %v", len(b), err)
						}
					}
				}
			}
			good := func(what, access string) {
				t.Helper()
				if got, _ := algOf(t, access); got != alg {
					t.Errorf("%s: alg %s", what, got)
				}
				if !w.alive(access) {
					t.Fatalf("%s is refused", what)
				}
				if alg != token.HS256 {
					w.proves(access)
				}
			}

			_, tk := w.user("ada")
			good("the token", tk.access)
			published()
			_, first := algOf(t, tk.access)

			if _, err := w.sv.Keys.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			published()
			good("the token from before the rotation", tk.access)
			r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
			after := r.text(t, "access_token")
			good("the refreshed token", after)
			if _, kid := algOf(t, after); kid == first {
				t.Error("the old key signs after the rotation")
			}
			good("a token of a new sign-in", w.signIn("ada", goodPassword).access)

			// The same claims under the name of every other algorithm, with the
			// signature there was, and with HMAC under everything that is public.
			parts := strings.Split(after, ".")
			for _, other := range []token.Alg{token.EdDSA, token.ES256, token.RS256, token.HS256, "none"} {
				if other == alg {
					continue
				}
				_, kid := algOf(t, after)
				head := part(map[string]any{"alg": other, "kid": kid, "typ": "at+jwt"})
				if w.alive(head + "." + parts[1] + "." + parts[2]) {
					t.Errorf("re-headed as %s, it is accepted", other)
				}
				if w.alive(head + "." + parts[1] + ".") {
					t.Errorf("re-headed as %s without a signature, it is accepted", other)
				}
			}
			public := [][]byte{[]byte(first), w.do("GET", "/.well-known/jwks.json", "", nil).body}
			for _, k := range w.jwks() {
				text, _ := json.Marshal(k)
				public = append(public, text, []byte(k["kid"].(string)))
				for _, name := range []string{"x", "n"} {
					if s, ok := k[name].(string); ok {
						b, _ := b64.DecodeString(s)
						public = append(public, []byte(s), b)
					}
				}
			}
			_, kid := algOf(t, after)
			for _, secret := range public {
				if w.alive(sign(t, secret, map[string]any{"alg": "HS256", "kid": kid, "typ": "at+jwt"}, payloadOf(t, after))) {
					t.Error("HMAC under something public is accepted")
				}
			}
			// What is done above is how a good token is made.
			if again := part(map[string]any{"alg": alg, "kid": kid, "typ": "at+jwt"}) + "." + parts[1] + "." + parts[2]; again != after || !w.alive(again) {
				t.Error("a token with the header it had is refused, or the header is another")
			}
		})
	}
}

// A secret of the configuration signs, its bytes as they are, and is never
// published.
func TestConfiguredSecret(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		file := filepath.Join(t.TempDir(), "master.key")
		start := func(change func(*server.Config)) *world {
			return newWorld(t, d, nil, func(c *server.Config) { c.MasterKeyFile = file }, change)
		}
		with := func(secret []byte) *world {
			return start(func(c *server.Config) { c.Algorithm, c.Secret = token.HS256, secret })
		}
		secret := make([]byte, 32)
		rand.Read(secret)

		before := start(func(*server.Config) {})
		_, old := before.user("ada")
		w := with(secret)
		tk := w.signIn("ada", goodPassword)
		if alg, _ := algOf(t, tk.access); alg != token.HS256 {
			t.Fatalf("alg %s", alg)
		}
		parts := strings.Split(tk.access, ".")
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(parts[0] + "." + parts[1]))
		if want := b64.EncodeToString(mac.Sum(nil)); parts[2] != want {
			t.Fatal("the signature is not the HMAC under the secret's bytes")
		}
		for what, node := range map[string]*world{"the node with the secret": w, "the node before": before} {
			if !node.alive(tk.access) || !node.alive(old.access) {
				t.Errorf("%s refuses a token", what)
			}
			if got, _ := algOf(t, node.signIn("ada", goodPassword).access); got != token.HS256 {
				t.Errorf("%s signs with %s", what, got)
			}
			body := string(node.do("GET", "/.well-known/jwks.json", "", nil).want(t, 200, "").body)
			_, kid := algOf(t, tk.access)
			for _, form := range []string{kid, `"oct"`, `"k"`, b64.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), fmt.Sprintf("%x", secret)} {
				if strings.Contains(body, form) {
					t.Errorf("%s publishes the secret, or that there is one: %s", what, form)
				}
			}
			// The control: the key before is there.
			if _, kid := algOf(t, old.access); !strings.Contains(body, kid) {
				t.Errorf("%s does not publish the key before", what)
			}
		}
		noSecretsIn(t, w.events("key.imported", 1), string(secret), b64.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), fmt.Sprintf("%x", secret))

		// Nodes that start at once with another one.
		other := []byte("a secret that comes out of openssl rand -hex 32")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				sv, err := server.New(t.Context(), server.Config{DB: d, BaseURL: baseURL, MasterKeyFile: file, Algorithm: token.HS256, Secret: other, Password: weakHashes})
				if err != nil {
					t.Error(err)
					return
				}
				sv.Close()
			})
		}
		wg.Wait()
		if n := len(w.events("key.imported", 2)); n != 2 {
			t.Errorf("%d events key.imported, want 2", n)
		}
		r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
		if after := r.text(t, "access_token"); !w.alive(after) || !w.alive(tk.access) || len(after) != len(tk.access) {
			t.Error("a token is refused after the change of the secret")
		}
		if _, err := with(other).sv.Keys.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "Change tokens.secret there and restart") {
			t.Errorf("rotate: %v", err)
		}
	})
}

func TestConfigMistakesOfKeys(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	good := server.Config{DB: d, BaseURL: baseURL, MasterKeyFile: filepath.Join(t.TempDir(), "master.key"), Password: weakHashes}
	secret := []byte(strings.Repeat("topsecret", 4))
	tests := []struct {
		name   string
		change func(*server.Config)
		want   map[string]string // key → part of its message
	}{
		{"a secret", func(c *server.Config) { c.Algorithm, c.Secret = token.HS256, secret }, nil},
		{"a schedule", func(c *server.Config) { c.RotateEvery = time.Hour }, nil},
		{"a short secret", func(c *server.Config) { c.Algorithm, c.Secret = token.HS256, secret[:31] }, map[string]string{"tokens.secret": "openssl rand -hex 32"}},
		{"a long secret", func(c *server.Config) {
			c.Algorithm, c.Secret = token.HS256, []byte(strings.Repeat("topsecret", 60))
		}, map[string]string{"tokens.secret": "540 bytes"}},
		{"a secret for another algorithm", func(c *server.Config) { c.Algorithm, c.Secret = token.ES256, secret }, map[string]string{"tokens.secret": "tokens.alg is ES256"}},
		{"a secret for the default algorithm", func(c *server.Config) { c.Secret = secret }, map[string]string{"tokens.secret": "tokens.alg is EdDSA"}},
		{"a secret on a schedule", func(c *server.Config) {
			c.Algorithm, c.Secret, c.RotateEvery = token.HS256, secret, time.Hour
		}, map[string]string{"keys.rotate_every": "does not rotate by itself"}},
		{"too often", func(c *server.Config) { c.RotateEvery = time.Minute }, map[string]string{"keys.rotate_every": "from 1h0m0s to 8784h0m0s"}},
		{"backwards", func(c *server.Config) { c.RotateEvery = -time.Hour }, map[string]string{"keys.rotate_every": "from 1h0m0s"}},
		{"too seldom", func(c *server.Config) { c.RotateEvery = 8785 * time.Hour }, map[string]string{"keys.rotate_every": "8784h"}},
	}
	for _, tt := range tests {
		cfg := good
		tt.change(&cfg)
		sv, err := server.New(t.Context(), cfg)
		if tt.want == nil {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			sv.Close()
			continue
		}
		if err == nil {
			sv.Close()
			t.Errorf("%s: accepted", tt.name)
			continue
		}
		for key, part := range tt.want {
			e, ok := errors.AsType[*server.ConfigError](err)
			if !ok || e.Key != key || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

// Keys rotate on schedule, in a server that runs and at the start of one.
func TestRotationOnSchedule(t *testing.T) {
	t.Parallel()
	const every = time.Hour
	synctest.Test(t, func(t *testing.T) {
		d := testkit.SQLite(t)
		start := func(every time.Duration) *server.Server {
			sv, err := server.New(t.Context(), server.Config{
				DB: d, BaseURL: baseURL, MasterKeyFile: filepath.Join(d.Dir(), "master.key"), Password: weakHashes, RotateEvery: every,
			})
			if err != nil {
				t.Fatal(err)
			}
			return sv
		}
		states := func(sv *server.Server) map[keyring.State]int {
			t.Helper()
			keys, err := sv.Keys.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out := map[keyring.State]int{}
			for _, k := range keys {
				out[k.State]++
			}
			return out
		}
		rest := func(n time.Duration) {
			time.Sleep(n)
			synctest.Wait()
		}
		nodes := []*server.Server{start(every), start(every)}
		sv := nodes[0]
		rest(every - 5*time.Minute)
		if s := states(sv); s[keyring.Retiring]+s[keyring.Retired] != 0 {
			t.Fatalf("rotated too early: %v", s)
		}
		rest(10 * time.Minute)
		if s := states(sv); s[keyring.Retiring] != 1 || s[keyring.Active] != 1 || s[keyring.Next] != 1 {
			t.Fatalf("not rotated once, when it was due: %v", s)
		}
		rest(5 * every)
		if s := states(sv); s[keyring.Retired]+s[keyring.Retiring] != 6 && s[keyring.Retired]+s[keyring.Retiring] != 5 {
			t.Fatalf("rotations in six periods: %v", s)
		}
		for _, sv := range nodes {
			sv.Close()
		}

		// Switched off, nothing rotates; switched on, the start does.
		time.Sleep(3 * every)
		off := start(0)
		before := states(off)
		rest(2 * every)
		after := states(off)
		off.Close()
		if before[keyring.Retired]+before[keyring.Retiring] != after[keyring.Retired]+after[keyring.Retiring] {
			t.Fatalf("rotated though it is off: %v, before %v", after, before)
		}
		on := start(every)
		defer on.Close()
		if s := states(on); s[keyring.Retiring] != 1 || s[keyring.Retired] != after[keyring.Retired]+after[keyring.Retiring] {
			t.Fatalf("not rotated at the start: %v, before %v", s, after)
		}
	})
}

// TestKeysWithoutADatabase: who verifies tokens gets the keys for as long as a cache
// would have had them, and not longer.
func TestKeysWithoutADatabase(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		ask := func() (reply, int) {
			t.Helper()
			r := w.do("GET", "/.well-known/jwks.json", "", nil)
			age := -1
			if _, err := fmt.Sscanf(r.header.Get("Cache-Control"), "public, max-age=%d", &age); err != nil {
				age = -1
			}
			return r, age
		}
		w.clock.advance(time.Hour)
		good, age := ask()
		good.want(t, 200, "")
		if age != 300 {
			t.Errorf("with a database, max-age is %d", age)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(3 * time.Minute)
		r, age := ask()
		if r.want(t, 200, ""); string(r.body) != string(good.body) || age > 120 || age < 60 { // the clock moves on
			t.Errorf("three minutes without a database: max-age=%d, %s", age, r.body)
		}
		w.clock.advance(2 * time.Minute)
		r, _ = ask()
		if r.want(t, 503, "unavailable"); r.header.Get("Retry-After") == "" || strings.Contains(r.header.Get("Cache-Control"), "public") {
			t.Errorf("five minutes without a database: %v", r.header)
		}
	})
}
