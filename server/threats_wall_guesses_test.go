package server_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// Looking for credentials: API keys, tokens, cookies and client secrets (letters
// K, J, R and O of the threat list).

// guessing has a server that lets an address look for five credentials. Its
// visitors all come over HTTPS, from proxies that say nothing of clients.
func guessing(c *server.Config) {
	limited(server.Limits{Guesses: "5/hour"})(c)
	overHTTPS(c)
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// hunt is a way to send a credential.
type hunt struct {
	name string
	req  func(cred string) *http.Request
	none func(i int) string // credentials that nobody has
	good func() string      // one that is good and that no server has seen yet
	bad  int                // the status of a bad one
	ok   int
	held bool // a good one is held in memory
}

// hunts are all of them.
func hunts(w *world, owner tokens) []hunt {
	c := w.machine([]string{"introspect:tokens"})
	other := made()[len(apikey.Prefix):]
	fresh := func() tokens { return w.signIn("ada", goodPassword) }
	text := func(prefix string) func(int) string {
		return func(i int) string { return fmt.Sprint(prefix, i, other) }
	}
	client := func(cred string) (id, secret string) {
		id, secret, _ = strings.Cut(cred, ":")
		return id, secret
	}
	secretOf := func() string { c := w.machine([]string{"introspect:tokens"}); return c.ID + ":" + c.Secret }
	noSecret := func(i int) string {
		if i%2 == 0 {
			return c.ID + ":" + c.Secret[:len(c.Secret)-4] + fmt.Sprintf("%04d", i)
		}
		return fmt.Sprintf("00000000-0000-7000-8000-00000000000%d:%s", i, c.Secret)
	}
	bearer := func(access string) *http.Request { return w.request("GET", "/users/me", access, nil) }
	return []hunt{
		{"API keys", func(k string) *http.Request { return w.keyed("GET", "/users/me", k, nil) }, func(int) string { return made() }, func() string { return w.key(owner).key }, 401, 200, true},
		{"malformed API keys", func(k string) *http.Request { return w.keyed("GET", "/users/me", k, nil) }, text("sp_"), func() string { return w.key(owner).key }, 401, 200, true},
		{"access tokens", bearer, text("x.y."), func() string { return fresh().access }, 401, 200, true},
		{"cookies", func(v string) *http.Request { return w.browse("GET", "/users/me", v, nil) }, text("x"), func() string { return w.cookie("ada") }, 401, 200, true},
		{"refresh tokens at /token", func(v string) *http.Request {
			return w.typed("POST", "/token", api.FormType, formOf("grant_type", "refresh_token", "refresh_token", v).Encode())
		}, text("rt_"), func() string { return fresh().refresh }, 400, 200, false},
		{"refresh tokens at /token/refresh", func(v string) *http.Request {
			return w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": v})
		}, text("rt_"), func() string { return fresh().refresh }, 401, 200, false},
		{"secrets at /token", func(cred string) *http.Request {
			id, secret := client(cred)
			return w.byBasic("/token", id, secret, "grant_type", "client_credentials")
		}, noSecret, secretOf, 401, 200, false},
		{"secrets in the form", func(cred string) *http.Request {
			id, secret := client(cred)
			return w.byForm("/token", id, secret, "grant_type", "client_credentials")
		}, noSecret, secretOf, 401, 200, false},
		{"secrets at /token/introspect", func(cred string) *http.Request {
			id, secret := client(cred)
			return w.byBasic("/token/introspect", id, secret, "token", "x")
		}, noSecret, secretOf, 401, 200, true},
		{"secrets at /token/revoke", func(cred string) *http.Request {
			id, secret := client(cred)
			return w.byForm("/token/revoke", id, secret, "token", "x")
		}, noSecret, secretOf, 401, 200, false},
	}
}

// Who sends credentials that nobody has is refused after a few, and then told the
// same of good ones; what a server holds in memory goes on, and so do others.
func TestK_Scanning(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"jwt", "opaque"} {
		t.Run(format, func(t *testing.T) {
			testkit.EachDB(t, func(t *testing.T, d *db.DB) {
				w := newWorld(t, d, nil, guessing, func(c *server.Config) {
					if format == "opaque" {
						opaque(c)
					}
				})
				_, ada := w.user("ada")
				for n, h := range hunts(w, ada) {
					t.Run(h.name, func(t *testing.T) {
						v := w.at(fmt.Sprintf("127.0.60.%d", n+1))
						known := h.good()
						if h.held {
							v.send(h.req(known)).want(t, h.ok, "")
						}
						for range 12 { // good ones, and what carries none, cost nothing
							v.send(h.req(h.good())).want(t, h.ok, "")
							v.send(w.request("GET", "/users/me", "", nil)).want(t, 401, "unauthenticated")
						}
						var secrets []string
						for i := range 5 {
							secrets = append(secrets, h.none(i))
							v.send(h.req(secrets[i])).want(t, h.bad, "")
						}
						good, bad := h.good(), h.none(9)
						before := w.holdings()
						first := v.send(h.req(bad))
						tooMany(t, "a bad one", first, "guesses", 5, 720)
						second := v.send(h.req(good))
						tooMany(t, "a good one", second, "guesses", 5, 720)
						for _, r := range []reply{first, second} { // a second may have gone by
							r.header.Del("Retry-After")
							r.header.Del("Ratelimit")
						}
						alike(t, "a good one", second, first)
						quiet(t, "a good one", second, append(secrets, good, bad)...)
						w.holds(before)
						if h.held {
							for range 10 {
								v.send(h.req(known)).want(t, h.ok, "")
							}
						}
						v.send(w.request("GET", "/docs", "", nil)).want(t, 200, "")
						elsewhere := w.at(fmt.Sprintf("127.0.61.%d", n+1))
						elsewhere.send(h.req(bad)).want(t, h.bad, "")
						elsewhere.send(h.req(good)).want(t, h.ok, "")
					})
				}
			})
		})
	}
}

// All kinds of them count together, and passwords apart.
func TestK_ScanningCountsTogether(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, guessing)
	_, ada := w.user("ada")
	all := hunts(w, ada)
	v := w.at("127.0.62.1")
	for i, n := range []int{0, 2, 3, 4, 6} {
		v.send(all[n].req(all[n].none(i))).want(t, all[n].bad, "")
	}
	for _, h := range all {
		tooMany(t, h.name, v.send(h.req(h.good())), "guesses", 5, 720)
	}
	v.token("ada", badPassword).want(t, 401, "")
	v.token("ada", goodPassword).want(t, 200, "")
}

// Who had a credential once is told that it is over as often as they ask: a
// program that nobody told must not shut out everybody behind its address.
func TestK_WhatWasGoodIsNoGuess(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, guessing)
		_, ada := w.user("ada")
		_, bob := w.user("bob")
		inactive, expired, demoted := w.key(ada), w.keyWith(ada, map[string]any{
			"name": "k", "scopes": []string{}, "expires_at": w.clock.now().Add(30 * time.Minute).UTC().Format(time.RFC3339),
		}), w.key(bob)
		w.do("PATCH", "/api-keys/"+inactive.id, ada.access, map[string]any{"is_active": false}).want(t, 200, "")
		out := w.signIn("ada", goodPassword)
		w.do("POST", "/logout", out.access, nil).want(t, 200, "")
		c := w.machine(nil)
		w.switchOff(c.ID, true)
		w.disable(w.do("GET", "/users/me", bob.access, nil).text(t, "id"))
		ended := w.cookie("ada")
		w.send(w.browse("POST", "/auth/logout", ended, nil)).want(t, 204, "")
		w.clock.advance(40 * time.Minute) // and access tokens are over
		v := w.at("127.0.63.1")
		for what, c := range map[string]struct {
			req    func() *http.Request
			status int
		}{
			"a key that is switched off":  {func() *http.Request { return w.keyed("GET", "/users/me", inactive.key, nil) }, 401},
			"a key that has expired":      {func() *http.Request { return w.keyed("GET", "/users/me", expired.key, nil) }, 401},
			"a key of a disabled account": {func() *http.Request { return w.keyed("GET", "/users/me", demoted.key, nil) }, 401},
			"an expired access token":     {func() *http.Request { return w.request("GET", "/users/me", ada.access, nil) }, 401},
			"a refresh token signed out":  {func() *http.Request { return w.refreshRequests(out.refresh)["/token/refresh"] }, 401},
			"a disabled client":           {func() *http.Request { return w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials") }, 401},
			"a cookie signed out":         {func() *http.Request { return w.browse("GET", "/users/me", ended, nil) }, 401},
		} {
			for range 8 {
				if r := v.send(c.req()); r.status != c.status {
					t.Errorf("%s: status %d, want %d: %s", what, r.status, c.status, r.body)
					break
				}
			}
		}
		for range 5 {
			v.send(w.keyed("GET", "/users/me", made(), nil)).want(t, 401, "")
		}
		tooMany(t, "and what nobody had", v.send(w.keyed("GET", "/users/me", made(), nil)), "guesses", 5, 720)
		tooMany(t, "then a good one, too", v.send(w.request("GET", "/users/me", w.signIn("ada", goodPassword).access, nil)), "guesses", 5, 720)
	})
}

// A service that asks about what its own callers send is not the one that
// guesses: a good token must not be called inactive because of others' bad ones.
func TestO_IntrospectionIsNoGuess(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, guessing)
		_, ada := w.user("ada")
		c := w.machine([]string{"introspect:tokens"})
		v := w.at("127.0.64.1")
		ask := func(token string) map[string]any {
			t.Helper()
			return v.send(w.byBasic("/token/introspect", c.ID, c.Secret, "token", token)).want(t, 200, "").json(t)
		}
		for i := range 12 {
			for _, token := range []string{made(), fmt.Sprint("x.y.", i), fmt.Sprint("rt_", i)} {
				if m := ask(token); m["active"] != false {
					t.Fatalf("%v", m)
				}
			}
		}
		for what, token := range map[string]string{"an access token": w.signIn("ada", goodPassword).access, "a key": w.key(ada).key, "a refresh token": ada.refresh} {
			if m := ask(token); m["active"] != true {
				t.Errorf("%s is called %v", what, m)
			}
		}
		// Its own secret is another matter.
		for range 5 {
			v.send(w.byBasic("/token/introspect", c.ID, c.Secret+"x", "token", "x")).want(t, 401, "invalid_client")
		}
		tooMany(t, "secrets", v.send(w.byBasic("/token/introspect", c.ID, c.Secret+"x", "token", "x")), "guesses", 5, 720)
	})
}
