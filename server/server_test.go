package server_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// A resource server finds the keys by the issuer alone (RFC 8414).
func TestMetadataLeadsToTheKeys(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.NoPasswordGrant = off })
		m := w.do("GET", "/.well-known/oauth-authorization-server", "", nil).want(t, 200, "").json(t)
		if m["issuer"] != baseURL || m["token_endpoint"] != baseURL+"/token" || slices.Contains(m["grant_types_supported"].([]any), any("password")) == off {
			t.Errorf("metadata: %v", m)
		}
		path, ok := strings.CutPrefix(m["jwks_uri"].(string), baseURL)
		if !ok || len(w.do("GET", path, "", nil).want(t, 200, "").json(t)["keys"].([]any)) != 2 {
			t.Errorf("no keys at %v", m["jwks_uri"])
		}
	}
}

// The main path from nothing to a dead session, on both databases.
func TestFromRegistrationToLogout(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, tk := w.user("ada")
		me := w.do("GET", "/users/me", tk.access, nil).want(t, 200, "").json(t)
		if me["id"] != id || me["username"] != "ada" || me["email"] != "ada@example.com" || me["last_login_at"] == nil {
			t.Fatalf("me: %v", me)
		}
		w.do("GET", "/users", tk.access, nil).want(t, 403, "insufficient_permission")
		w.grant(id, "moderator")
		w.do("GET", "/users", tk.access, nil).want(t, 200, "")

		r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
		next := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		if next.refresh == tk.refresh || !w.alive(next.access) {
			t.Fatal("the refresh gave nothing new")
		}
		w.clock.advance(11 * time.Second)
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 401, "invalid_token")
		if w.alive(next.access) {
			t.Fatal("a reused refresh token left the family alive")
		}
		w.events("refresh.reused", 1)

		tk = w.signIn("ada@example.com", goodPassword)
		w.do("POST", "/logout", tk.access, nil).want(t, 200, "")
		if w.alive(tk.access) {
			t.Fatal("the access token lives after logout")
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 401, "invalid_token")
	})
}
