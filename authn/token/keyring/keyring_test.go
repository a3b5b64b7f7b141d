package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/internal/testkit"
)

const issuer = "https://ring.example"

// ring is a keyring with a clock that a test can move.
type ring struct {
	*keyring.Ring
	t   *testing.T
	now *time.Time
}

func openRing(t *testing.T, d *db.DB, m *seal.Master, alg token.Alg, now *time.Time) ring {
	t.Helper()
	k, err := keyring.Open(t.Context(), keyring.Config{
		DB: d, Master: m, Alg: alg, Grace: 20 * time.Minute, Now: func() time.Time { return *now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return ring{k, t, now}
}

func (r ring) issue() string {
	r.t.Helper()
	set, err := r.Set(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := set.Issue(token.Claims{
		Issuer: issuer, Audience: []string{issuer}, Subject: "u", ClientID: "c", ID: "j", Session: "s",
		IssuedAt: *r.now, AuthTime: *r.now, Expires: r.now.Add(15 * time.Minute),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// good reports whether the ring accepts a token that has not expired.
func (r ring) good(tok string) bool {
	r.t.Helper()
	set, err := r.Set(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = token.Verifier{Issuer: issuer, Audience: issuer}.Verify(set, tok, *r.now)
	return err == nil
}

func (r ring) states() map[keyring.State]int {
	r.t.Helper()
	keys, err := r.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[keyring.State]int{}
	for _, k := range keys {
		out[k.State]++
	}
	return out
}

func TestRotationSignsNobodyOut(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		here, there := openRing(t, d, m, token.EdDSA, &now), openRing(t, d, m, token.EdDSA, &now)
		old := here.issue()
		if !there.good(old) {
			t.Fatal("the second node does not accept the first one's token")
		}
		if s := here.states(); s[keyring.Active] != 1 || s[keyring.Next] != 1 {
			t.Fatalf("states: %v", s)
		}
		if _, err := here.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := here.states(); s[keyring.Active] != 1 || s[keyring.Next] != 1 || s[keyring.Retiring] != 1 {
			t.Fatalf("states after rotation: %v", s)
		}
		fresh := here.issue()
		if !here.good(old) || !here.good(fresh) {
			t.Fatal("a rotation refused a token")
		}
		// The next key was published before it signed: the other node knows it
		// without having looked.
		if !there.good(fresh) {
			t.Fatal("the other node does not know the next key")
		}
		if changed, err := there.SyncNow(t.Context()); err != nil || !changed {
			t.Fatalf("the other node saw no change: %v", err)
		}
		// The replaced key is refused once the last token that it signed is dead.
		now = now.Add(19 * time.Minute)
		if s := here.states(); s[keyring.Retiring] != 1 {
			t.Fatalf("states: %v", s)
		}
		now = now.Add(2 * time.Minute)
		if s := here.states(); s[keyring.Retiring] != 0 || s[keyring.Retired] != 1 {
			t.Fatalf("states when the grace is over: %v", s)
		}
		set, err := here.Set(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = token.Verifier{Issuer: issuer, Audience: issuer}.Verify(set, old, now)
		if e, ok := errors.AsType[*token.Error](err); !ok || e.Reason != token.UnknownKey {
			t.Fatalf("a retired key: %v", err)
		}
	})
}

func TestRetire(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		r := openRing(t, d, seal.Generate(), token.EdDSA, &now)
		set, err := r.Set(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first, old := set.Active().ID(), r.issue()
		if err := r.Retire(t.Context(), first); codeOf(err) != "key_active" {
			t.Fatalf("the key that signs was retired: %v", err)
		}
		if err := r.Retire(t.Context(), "no-such-key"); codeOf(err) != "not_found" {
			t.Fatal(err)
		}
		if _, err := r.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Retire(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if r.good(old) {
			t.Fatal("a token of a retired key was accepted")
		}
		if !r.good(r.issue()) {
			t.Fatal("the active key was lost")
		}
		var sealed []byte
		if _, err := d.View(t.Context()).Row("SELECT sealed FROM sp_signing_keys WHERE id = $1", []any{first}, &sealed); err != nil || len(sealed) != 0 {
			t.Errorf("the private key of a retired key is kept: %d bytes %v", len(sealed), err)
		}
	})
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestRotationToAnotherAlgorithm(t *testing.T) {
	d := testkit.SQLite(t)
	now := time.Now()
	m := seal.Generate()
	old := openRing(t, d, m, token.EdDSA, &now).issue()
	r := openRing(t, d, m, token.ES256, &now)
	k, err := r.Rotate(t.Context())
	if err != nil || k.Alg != token.ES256 {
		t.Fatalf("%+v %v", k, err)
	}
	if !r.good(old) || !r.good(r.issue()) {
		t.Fatal("a token was refused")
	}
}

func TestParallelFirstStart(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = keyring.Open(context.Background(), keyring.Config{DB: d, Master: m, Now: func() time.Time { return now }})
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if s := openRing(t, d, m, "", &now).states(); s[keyring.Active] != 1 || s[keyring.Next] != 1 {
			t.Fatalf("states: %v", s)
		}
	})
}

func TestParallelRotations(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		r := openRing(t, d, m, "", &now)
		old := r.issue()
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := r.Rotate(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		again := openRing(t, d, m, "", &now)
		if s := again.states(); s[keyring.Active] != 1 || s[keyring.Next] != 1 || s[keyring.Retiring] != 6 {
			t.Fatalf("states: %v", s)
		}
		if !again.good(old) || !again.good(r.issue()) {
			t.Fatal("a token was refused")
		}
	})
}

func TestMasterKey(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m, next := seal.Generate(), seal.Generate()
		r := openRing(t, d, m, "", &now)
		old := r.issue()
		_, err := keyring.Open(t.Context(), keyring.Config{DB: d, Master: next})
		if !errors.Is(err, keyring.ErrMasterKey) || !errors.Is(err, seal.ErrWrongKey) {
			t.Fatalf("another master key: %v", err)
		}
		if err := r.Rewrap(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		if !openRing(t, d, next, "", &now).good(old) {
			t.Fatal("the keys changed with the master key")
		}
		if _, err := keyring.Open(t.Context(), keyring.Config{DB: d, Master: m}); !errors.Is(err, keyring.ErrMasterKey) {
			t.Fatalf("the old master key still opens: %v", err)
		}
		// One that was open meanwhile stores nothing under the old one.
		before := openRing(t, d, next, "", &now).states()
		held, err := keyring.Open(t.Context(), keyring.Config{DB: d, Master: next, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Rewrap(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if _, err := held.Rotate(t.Context()); !errors.Is(err, keyring.ErrMasterKey) {
			t.Fatalf("a rotation under the wrong master key: %v", err)
		}
		if after := openRing(t, d, m, "", &now).states(); !maps.Equal(before, after) {
			t.Fatalf("states: %v, before %v", after, before)
		}
		if err := r.Rewrap(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		// A process that holds the old one reads it again when it must.
		stale, err := keyring.Open(t.Context(), keyring.Config{
			DB: d, Master: m, MasterAgain: func() []*seal.Master { return []*seal.Master{seal.Generate(), next} },
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stale.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// events counts the audit events of an action.
func events(t *testing.T, d *db.DB, action string) (n int) {
	t.Helper()
	all, err := audit.Latest(d.View(t.Context()), 500)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Action == action {
			n++
		}
	}
	return n
}

// jwksIDs returns the ids of the published keys.
func (r ring) jwksIDs() (ids []string) {
	r.t.Helper()
	set, err := r.Set(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var doc struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(set.JWKS(), &doc); err != nil {
		r.t.Fatal(err)
	}
	for _, k := range doc.Keys {
		ids = append(ids, k.ID)
	}
	return ids
}

func (r ring) stateOf(kid string) keyring.State {
	r.t.Helper()
	keys, err := r.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, k := range keys {
		if k.ID == kid {
			return k.State
		}
	}
	return ""
}

func (r ring) active() string {
	r.t.Helper()
	set, err := r.Set(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return set.Active().ID()
}

func generated(t *testing.T, alg token.Alg) *token.Key {
	t.Helper()
	k, err := token.Generate(alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestImport(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		r := openRing(t, d, m, token.ES256, &now)
		first, old := r.active(), r.issue()
		var madeNext string
		for _, id := range r.jwksIDs() {
			if id != first {
				madeNext = id
			}
		}
		key := generated(t, token.ES256)
		info, err := r.Import(t.Context(), key, false)
		if err != nil || info.ID != key.ID() || info.State != keyring.Next || info.Alg != token.ES256 || info.Activated != nil {
			t.Fatalf("%+v %v", info, err)
		}
		// It is published and does not sign; the next key there was is gone.
		if ids := r.jwksIDs(); !slices.Equal(ids, []string{first, key.ID()}) {
			t.Fatalf("published: %v", ids)
		}
		if r.active() != first || r.stateOf(madeNext) != keyring.Retired {
			t.Fatalf("active %s, the next before is %s", r.active(), r.stateOf(madeNext))
		}
		if n := events(t, d, "key.retired"); n != 1 {
			t.Errorf("%d events key.retired, want 1", n)
		}
		// It signs after a rotation, here and on a node that opens the database.
		if k, err := r.Rotate(t.Context()); err != nil || k.ID != key.ID() {
			t.Fatalf("%+v %v", k, err)
		}
		there := openRing(t, d, m, token.ES256, &now)
		fresh := there.issue()
		if there.active() != key.ID() || !r.good(fresh) || !r.good(old) || !there.good(old) {
			t.Fatal("a token was refused, or another key signs")
		}

		// At once.
		at := generated(t, token.ES256)
		waiting := r.states()[keyring.Next]
		if info, err = r.Import(t.Context(), at, true); err != nil || info.State != keyring.Active || info.Activated == nil {
			t.Fatalf("%+v %v", info, err)
		}
		if r.active() != at.ID() || r.stateOf(key.ID()) != keyring.Retiring || r.states()[keyring.Next] != waiting {
			t.Fatalf("active %s, before %s, states %v", r.active(), r.stateOf(key.ID()), r.states())
		}
		if !r.good(fresh) || !r.good(old) || !r.good(r.issue()) {
			t.Fatal("a token was refused")
		}
		if changed, err := there.SyncNow(t.Context()); err != nil || !changed || there.active() != at.ID() {
			t.Fatalf("the other node does not see it: %v", err)
		}
		if n := events(t, d, "key.imported"); n != 2 {
			t.Errorf("%d events key.imported, want 2", n)
		}

		// What is refused changes nothing, in whatever state the key is.
		before, published := r.states(), r.jwksIDs()
		for _, again := range []*token.Key{key, at} {
			for _, activate := range []bool{false, true} {
				if _, err := r.Import(t.Context(), again, activate); codeOf(err) != "key_exists" {
					t.Errorf("%v again: %v", again, err)
				}
			}
		}
		if _, err := r.Import(t.Context(), generated(t, token.EdDSA), false); codeOf(err) != "key_algorithm" {
			t.Errorf("another algorithm: %v", err)
		}
		if !maps.Equal(before, r.states()) || !slices.Equal(published, r.jwksIDs()) {
			t.Errorf("a refused import changed the keys: %v, before %v", r.states(), before)
		}
		if err := r.Retire(t.Context(), key.ID()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Import(t.Context(), key, true); codeOf(err) != "key_exists" || r.good(fresh) {
			t.Errorf("a retired key came back: %v", err)
		}
	})
}

// A dry run of an import leaves everything as it is.
func TestImportDry(t *testing.T) {
	d := testkit.SQLite(t)
	now := time.Now()
	r := openRing(t, d, seal.Generate(), "", &now)
	first, before := r.active(), r.states()
	key := generated(t, token.EdDSA)
	if info, err := r.Import(db.DryRun(t.Context()), key, true); err != nil || info.ID != key.ID() {
		t.Fatalf("%+v %v", info, err)
	}
	if r.active() != first || !maps.Equal(before, r.states()) || events(t, d, "key.imported") != 0 {
		t.Error("a dry run changed the keys")
	}
}

// Imports of one key at once: one of them does it.
func TestParallelImports(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		rings := make([]ring, 6)
		for i := range rings {
			rings[i] = openRing(t, d, m, "", &now)
		}
		key := generated(t, token.EdDSA)
		var wg sync.WaitGroup
		errs := make([]error, len(rings))
		for i, r := range rings {
			wg.Go(func() { _, errs[i] = r.Import(context.Background(), key, i%2 == 0) })
		}
		wg.Wait()
		done := 0
		for _, err := range errs {
			switch {
			case err == nil:
				done++
			case codeOf(err) != "key_exists":
				t.Error(err)
			}
		}
		if s := openRing(t, d, m, "", &now).states(); done != 1 || s[keyring.Active] != 1 || s[keyring.Next] != 1 || events(t, d, "key.imported") != 1 {
			t.Errorf("%d imports, states %v", done, s)
		}
	})
}

func openWith(t *testing.T, d *db.DB, m *seal.Master, secret []byte, now *time.Time) ring {
	t.Helper()
	k, err := keyring.Open(t.Context(), keyring.Config{
		DB: d, Master: m, Alg: token.HS256, Secret: secret, Grace: 20 * time.Minute, Now: func() time.Time { return *now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return ring{k, t, now}
}

func TestConfiguredSecret(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		a, b := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 64)
		keyOf := func(secret []byte) string {
			k, err := token.NewKey(token.HS256, secret)
			if err != nil {
				t.Fatal(err)
			}
			return k.ID()
		}

		// A database that signed with a key of its own.
		before := openRing(t, d, m, token.EdDSA, &now)
		old := before.issue()
		r := openWith(t, d, m, a, &now)
		if r.active() != keyOf(a) || !r.good(old) || !r.good(r.issue()) {
			t.Fatalf("active %s, want %s", r.active(), keyOf(a))
		}
		if s := r.states(); s[keyring.Active] != 1 || s[keyring.Next] != 0 || s[keyring.Retiring] != 1 {
			t.Fatalf("states: %v", s)
		}
		// The key before is published as long as it is accepted; the secret never.
		if ids := r.jwksIDs(); len(ids) != 1 || ids[0] == keyOf(a) {
			t.Fatalf("published: %v", ids)
		}
		if changed, err := before.SyncNow(t.Context()); err != nil || !changed || before.active() != keyOf(a) {
			t.Fatalf("a running node does not follow: %v", err)
		}

		// Nothing else can take its place.
		if _, err := r.Rotate(t.Context()); codeOf(err) != "secret_configured" {
			t.Errorf("rotate: %v", err)
		}
		if err := r.Retire(t.Context(), keyOf(a)); codeOf(err) != "secret_configured" {
			t.Errorf("retire: %v", err)
		}
		if _, err := r.Import(t.Context(), generated(t, token.HS256), true); codeOf(err) != "secret_configured" {
			t.Errorf("import: %v", err)
		}
		later := now.Add(24 * time.Hour)
		if _, _, err := openWith(t, d, m, a, &later).RotateIfDue(t.Context(), time.Hour); codeOf(err) != "secret_configured" {
			t.Errorf("rotate when due: %v", err)
		}
		if openWith(t, d, m, a, &now).active() != keyOf(a) || events(t, d, "key.imported") != 1 {
			t.Error("the next start changed the keys")
		}

		// Another secret, and back: the one before is accepted meanwhile, and the
		// first one can sign again though it was retired.
		byA := r.issue()
		r = openWith(t, d, m, b, &now)
		if r.active() != keyOf(b) || !r.good(byA) {
			t.Fatal("the new secret does not sign, or the one before is refused")
		}
		byB := r.issue()
		if err := r.Retire(t.Context(), keyOf(a)); err != nil || r.good(byA) {
			t.Fatalf("a retired secret is accepted: %v", err)
		}
		r = openWith(t, d, m, a, &now)
		if r.active() != keyOf(a) || !r.good(byB) || !r.good(r.issue()) {
			t.Fatal("the secret did not come back")
		}
		if s := r.states(); s[keyring.Active] != 1 {
			t.Fatalf("states: %v", s)
		}

		// Without it the next rotation makes a key again.
		r = openRing(t, d, m, token.EdDSA, &now)
		byA = r.issue()
		if k, err := r.Rotate(t.Context()); err != nil || k.Alg != token.EdDSA || !r.good(byA) || !r.good(r.issue()) {
			t.Fatalf("%+v %v", k, err)
		}
	})
}

func TestConfiguredSecretOfANewDatabase(t *testing.T) {
	d := testkit.SQLite(t)
	now := time.Now()
	r := openWith(t, d, seal.Generate(), bytes.Repeat([]byte{1}, 32), &now)
	if s := r.states(); !maps.Equal(s, map[keyring.State]int{keyring.Active: 1}) || !r.good(r.issue()) || len(r.jwksIDs()) != 0 {
		t.Fatalf("states: %v", s)
	}
	for _, secret := range []string{"short", strings.Repeat("a", 31), strings.Repeat("a", 513)} {
		if _, err := keyring.Open(t.Context(), keyring.Config{DB: d, Master: seal.Generate(), Alg: token.HS256, Secret: []byte(secret)}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("a secret of %d bytes: %v", len(secret), err)
		}
	}
	if _, err := keyring.Open(t.Context(), keyring.Config{DB: d, Master: seal.Generate(), Secret: make([]byte, 32)}); err == nil {
		t.Error("a secret for EdDSA is accepted")
	}
}

// Nodes that start at once with a new secret: it is made active once.
func TestParallelStartsWithASecret(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		m := seal.Generate()
		start := func(secret []byte) {
			t.Helper()
			var wg sync.WaitGroup
			errs := make([]error, 8)
			for i := range errs {
				wg.Go(func() {
					_, errs[i] = keyring.Open(context.Background(), keyring.Config{DB: d, Master: m, Alg: token.HS256, Secret: secret, Grace: time.Hour, Now: func() time.Time { return now }})
				})
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
		}
		start(bytes.Repeat([]byte{1}, 32)) // on a new database
		start(bytes.Repeat([]byte{2}, 32))
		start(bytes.Repeat([]byte{1}, 32)) // one that was there before
		s := openWith(t, d, m, bytes.Repeat([]byte{1}, 32), &now).states()
		if s[keyring.Active] != 1 || s[keyring.Retiring] != 1 || s[keyring.Next] != 0 || events(t, d, "key.imported") != 2 || events(t, d, "key.created") != 1 {
			t.Fatalf("states %v, %d events key.imported", s, events(t, d, "key.imported"))
		}
	})
}

func TestRotateIfDue(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now().Truncate(time.Microsecond)
		m := seal.Generate()
		const every = 24 * time.Hour
		rings := make([]ring, 8)
		for i := range rings {
			rings[i] = openRing(t, d, m, "", &now)
		}
		all := func() (done int) {
			t.Helper()
			var wg sync.WaitGroup
			var n atomic.Int32
			for _, r := range rings {
				wg.Go(func() {
					k, rotated, err := r.RotateIfDue(context.Background(), every)
					if err != nil {
						t.Error(err)
					}
					if rotated {
						n.Add(1)
					}
					if rotated != (k.State == keyring.Active) {
						t.Errorf("rotated: %v, %+v", rotated, k)
					}
				})
			}
			wg.Wait()
			return int(n.Load())
		}
		r := rings[0]
		first := r.active()
		now = now.Add(every - time.Microsecond)
		if n := all(); n != 0 || r.active() != first {
			t.Fatalf("%d rotations before the time", n)
		}
		if _, rotated, err := r.RotateIfDue(t.Context(), 0); rotated || err != nil {
			t.Fatalf("rotated though it is off: %v", err)
		}
		now = now.Add(time.Microsecond)
		for round := range 3 {
			old := r.issue()
			before := r.active()
			if n := all(); n != 1 {
				t.Fatalf("round %d: %d rotations, want 1", round, n)
			}
			if n := all(); n != 0 {
				t.Fatalf("round %d: %d rotations after it", round, n)
			}
			for _, r := range rings {
				if _, err := r.SyncNow(t.Context()); err != nil {
					t.Fatal(err)
				}
				if r.active() == before || !r.good(old) || !r.good(r.issue()) {
					t.Fatalf("round %d: a token was refused, or the old key signs", round)
				}
			}
			if s := r.states(); s[keyring.Active] != 1 || s[keyring.Next] != 1 || s[keyring.Retiring] != 1 || events(t, d, "key.rotated") != round+1 {
				t.Fatalf("round %d: states %v, %d events", round, s, events(t, d, "key.rotated"))
			}
			now = now.Add(every)
		}
		// A rotation by hand counts as well.
		if _, err := r.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(every - time.Minute)
		if n := all(); n != 0 {
			t.Fatalf("%d rotations after one by hand", n)
		}
	})
}
