package remote_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// A whole server, and a service that has nothing but its address.
func TestWithTheServer(t *testing.T) {
	const password = "violet-anchor-97-marmalade"
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ts := httptest.NewUnstartedServer(nil)
	base := "http://" + ts.Listener.Addr().String()
	sp, err := server.New(t.Context(), server.Config{DB: db, BaseURL: base, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	ts.Config.Handler = sp.Guard(sp.Routes())
	ts.Start()
	defer ts.Close()
	if err := sp.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin, err := sp.Accounts.Create(t.Context(), role.Operator(), account.NewUser{
		Email: "ada@example.com", Password: password, EmailVerified: true, Roles: []string{role.Admin},
	})
	if err != nil {
		t.Fatal(err)
	}
	signIn := func(scope string) string {
		t.Helper()
		form := url.Values{"grant_type": {"password"}, "username": {"ada@example.com"}, "password": {password}}
		if scope != "" {
			form.Set("scope", scope)
		}
		resp, err := http.PostForm(base+"/token", form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var m struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil || m.AccessToken == "" {
			t.Fatal(resp.Status, err)
		}
		return m.AccessToken
	}

	v, err := remote.New(remote.Config{Issuer: base, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	id := func(r reply) string { return r.body[1 : 1+len(admin.ID)] }
	plain, reads := signIn(""), signIn("read:users role:admin")
	for _, access := range []string{plain, reads} {
		if r := get(t, v, sallyport.SignedIn(), access); r.status != 200 || id(r) != admin.ID {
			t.Errorf("%d %s, want %s", r.status, r.body, admin.ID)
		}
	}
	for _, tt := range []struct {
		what, access string
		rule         sallyport.Rule
		status       int
	}{
		{"its scope", reads, sallyport.Permission("read:users"), 200},
		{"its role", reads, sallyport.Role(role.Admin), 200},
		{"another scope", reads, sallyport.Permission("write:users"), 403},
		{"unscoped", plain, sallyport.Permission("read:users"), 403},
		{"one factor", plain, sallyport.MFA(), 401},
		{"changed", plain[:len(plain)-4] + "AAAA", sallyport.SignedIn(), 401},
	} {
		if r := get(t, v, tt.rule, tt.access); r.status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.what, r.status, r.body, tt.status)
		}
	}
	// A token for another service is not one for this.
	other, err := remote.New(remote.Config{Issuer: base, Audience: "https://other.example", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	get(t, other, sallyport.SignedIn(), plain).want(t, "another audience", 401, "invalid_token")
}
