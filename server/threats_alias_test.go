package server_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// A: an operation under a further path decides as under its own: the rule, the
// lockout and the limits of passwords are one, and the document says so.
func TestA_AliasesAreTheirOperation(t *testing.T) {
	t.Parallel()
	aliases := map[string]string{
		"POST /login": "POST /auth/login", "POST /signin/": "POST /token", "POST /logout/": "POST /logout",
		"GET /people/{id}": "GET /users/{id}", "POST /second/": "POST /2fa/setup",
	}
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		for alias, of := range aliases {
			w.sv.API().Alias(alias, of)
		}
	}, func(c *server.Config) { c.Limits.Login, c.Limits.Default = "6/hour", server.LimitOff })
	id := w.register("ada")

	// The rule: without a credential, with one that may not, with one that may.
	w.do("GET", "/people/"+id, "", nil).want(t, 401, "unauthenticated")
	w.do("POST", "/second/", "", nil).want(t, 401, "")
	w.do("POST", "/logout/", "", nil).want(t, 401, "unauthenticated")
	first := w.form("/signin/", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 200, "")
	tk := tokens{first.text(t, "access_token"), first.text(t, "refresh_token")}
	w.do("GET", "/people/"+id, tk.access, nil).want(t, 403, "insufficient_permission")
	w.grant(id, "admin")
	w.do("GET", "/people/"+id, tk.access, nil).want(t, 200, "")

	// The limit: one bucket, whichever path is taken. One of six is used up.
	login := map[string]string{"username": "ada", "password": badPassword}
	for i, path := range []string{"/login", "/auth/login", "/login", "/auth/login"} {
		if r := w.do("POST", path, "", login); r.status != http.StatusUnauthorized {
			t.Fatalf("%d: %s: %d %s", i, path, r.status, r.body)
		}
	}
	login["password"] = goodPassword
	w.do("POST", "/login", "", login).want(t, 200, "")
	for _, path := range []string{"/login", "/auth/login"} {
		if r := w.do("POST", path, "", login).want(t, 429, "rate_limited"); r.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	w.form("/signin/", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 429, "")

	// A logout under the further path is one.
	w.do("POST", "/logout/", tk.access, nil).want(t, 200, "")
	if w.alive(tk.access) {
		t.Error("the token lives on")
	}

	// Routes and document have the alias with the rule of what it stands for.
	listed := map[string]sallyport.Route{}
	for _, r := range w.mux.Routes() {
		listed[r.Method+" "+strings.TrimSuffix(r.Path, "{$}")] = r
	}
	documented := map[string]operation{}
	for _, op := range w.operations() {
		documented[op.name()] = op
	}
	for alias, of := range aliases {
		a, o := listed[alias], listed[of]
		if a.Rule.String() != o.Rule.String() || a.Setup != o.Setup || len(a.Limits) != len(o.Limits) {
			t.Errorf("%s: listed as %v, and %s as %v", alias, a, of, o)
		}
		first, second := documented[of], documented[alias]
		if second.path == "" || string(first.Rule) != string(second.Rule) || !sameWays(*first.Security, *second.Security) {
			t.Errorf("%s: documented with %s %v, and %s with %s %v", alias, second.Rule, second.Security, of, first.Rule, first.Security)
		}
	}
}

// L: lockout holds on every path, and those are paths too.
func TestL_AliasesAreLocked(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) { w.sv.API().Alias("POST /login", "POST /auth/login") })
		w.register("ada")
		login := map[string]string{"username": "ada", "password": badPassword}
		locked := false
		for range 12 {
			if locked = w.do("POST", "/login", "", login).status == http.StatusTooManyRequests; locked {
				break
			}
		}
		if !locked {
			t.Fatal("twelve wrong passwords by the alias lock nothing")
		}
		login["password"] = goodPassword
		for _, path := range []string{"/login", "/auth/login"} {
			w.do("POST", path, "", login).want(t, 429, "")
		}
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 429, "")
	})
}

// A user name is good where an account is read, and never where it is changed; nobody
// becomes another by being called like their id.
func TestA_UserNamesInPaths(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		ada := w.register("ada")
		_, admin := w.user("grace", "admin")
		_, bob := w.user("bob")
		for _, name := range []string{"ada", "ADA", ada} {
			if got := w.do("GET", "/users/"+name, admin.access, nil).want(t, 200, "").text(t, "id"); got != ada {
				t.Errorf("%s is %s, want %s", name, got, ada)
			}
			w.do("GET", "/users/"+name, bob.access, nil).want(t, 403, "insufficient_permission")
		}
		for _, name := range []string{"nobody", "ada@example.com", "ada%40example.com"} {
			w.do("GET", "/users/"+name, admin.access, nil).want(t, 404, "not_found")
		}
		w.do("DELETE", "/users/ada", admin.access, nil).want(t, 404, "not_found")
		w.do("PATCH", "/users/ada", admin.access, map[string]any{"disabled": true}).want(t, 404, "not_found")
		w.do("PUT", "/users/ada/roles", admin.access, map[string]any{"roles": []string{}}).want(t, 404, "not_found")
		w.do("PATCH", "/users/me", bob.access, map[string]any{"username": ada}).want(t, 200, "")
		if got := w.do("GET", "/users/"+ada, admin.access, nil).want(t, 200, "").text(t, "username"); got != "ada" {
			t.Errorf("who is called like an id is taken for its owner: %s", got)
		}
		if !w.alive(w.signIn("ada", goodPassword).access) {
			t.Error("the account was changed")
		}
	})
}

func newRole(name string, permissions ...string) role.Role {
	return role.Role{Name: name, Permissions: permissions}
}

// The title of a service is its own.
func TestTitle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Title = "Items & more" })
	var doc struct{ Info struct{ Title string } }
	if err := json.Unmarshal(w.do("GET", "/openapi.json", "", nil).want(t, 200, "").body, &doc); err != nil {
		t.Fatal(err)
	}
	if page := string(w.do("GET", "/docs", "", nil).want(t, 200, "").body); doc.Info.Title != "Items & more" || !strings.Contains(page, "Items &amp; more") {
		t.Errorf("%q in the document; the page: %.300s", doc.Info.Title, page)
	}
}

// Roles of a program's code: the code decides at every start, and disturbs nobody
// where nothing changes.
func TestPutRole(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.sv.Require(sallyport.Permission("read:menu")) // declared by PutRole
		cook := newRole("cook", "read:menu")
		for range 2 {
			if err := w.sv.PutRole(t.Context(), cook); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(w.events("role.put", 1)); n != 1 {
			t.Errorf("%d events, want one: the second call changes nothing", n)
		}
		if err := w.sv.PutRole(t.Context(), newRole("cook")); err != nil {
			t.Fatal(err)
		}
		_, admin := w.user("grace", "admin")
		var roles struct {
			Items []struct {
				Name        string
				Permissions []string
			}
		}
		if err := json.Unmarshal(w.do("GET", "/roles", admin.access, nil).want(t, 200, "").body, &roles); err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, r := range roles.Items {
			got[r.Name] = len(r.Permissions)
		}
		if n, ok := got["cook"]; !ok || n != 0 {
			t.Errorf("cook has %d permissions: %v", n, maps.Keys(got))
		}
		for name, refused := range map[string]error{
			"validation_failed": w.sv.PutRole(t.Context(), newRole("cook", "read:nothing-of-the-kind")),
			"builtin_role":      w.sv.PutRole(t.Context(), newRole("admin")),
		} {
			if refused == nil || !strings.HasPrefix(refused.Error(), name) {
				t.Errorf("%v, want %s", refused, name)
			}
		}
	})
}

// The link leads to the first administrator, once.
func TestSetupLink(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		link, err := w.sv.SetupLink(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		address, token, ok := strings.Cut(link, "#k=")
		if !ok || address != baseURL+"/console/setup" {
			t.Fatalf("the link is %q", link)
		}
		first := map[string]string{"token": token, "email": "grace@example.com", "password": goodPassword}
		w.do("POST", "/auth/setup", "", map[string]string{"token": token[:len(token)-1] + "!", "email": "eve@example.com", "password": goodPassword}).want(t, 400, "")
		w.do("POST", "/auth/setup", "", first).want(t, 201, "")
		if link, err := w.sv.SetupLink(t.Context()); link != "" || err != nil {
			t.Errorf("with an administrator: %q, %v", link, err)
		}
	})
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.NoPortal = true })
	if link, err := w.sv.SetupLink(t.Context()); link != "" || err != nil {
		t.Errorf("without pages: %q, %v", link, err)
	}
}
