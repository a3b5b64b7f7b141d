package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
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
