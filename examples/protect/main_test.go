package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/prove"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

const testPassword = "violet-anchor-97-marmalade"

// service starts the whole service on a database of its own, with an
// administrator, and returns its address.
func service(t *testing.T) string {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	sp, err := server.New(t.Context(), server.Config{DB: db, BaseURL: "http://items.test", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sp.Close)
	if _, err := sp.Accounts.Create(t.Context(), role.Operator(), account.NewUser{
		Email: "ada@example.com", Password: testPassword, EmailVerified: true, Roles: []string{role.Admin},
	}); err != nil {
		t.Fatal(err)
	}
	h := handler(sp, new(items))
	if err := sp.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return ts.URL
}

// do sends a request, fails unless it is answered with status, and returns the
// body and its members.
func do(t *testing.T, method, address, token, body string, status int) (string, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(body, "{") {
		req.Header.Set("Content-Type", "application/json")
	} else if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, address, res.StatusCode, status, b)
	}
	if (status == http.StatusUnauthorized) != (res.Header.Get("Www-Authenticate") != "") && status != http.StatusForbidden {
		t.Errorf("%s %s: status %d with WWW-Authenticate %q", method, address, status, res.Header.Get("Www-Authenticate"))
	}
	var members map[string]any
	if bytes.HasPrefix(b, []byte("{")) {
		if err := json.Unmarshal(b, &members); err != nil {
			t.Fatal(err)
		}
	}
	return string(b), members
}

func signIn(t *testing.T, base, name string) string {
	t.Helper()
	form := url.Values{"grant_type": {"password"}, "username": {name}, "password": {testPassword}}
	_, m := do(t, "POST", base+"/token", "", form.Encode(), http.StatusOK)
	return m["access_token"].(string)
}

func code(t *testing.T, m map[string]any, want string) {
	t.Helper()
	if m["code"] != want {
		t.Errorf("code %v, want %s", m["code"], want)
	}
}

func TestService(t *testing.T) {
	base := service(t)

	// Public, for strangers too.
	if text, _ := do(t, "GET", base+"/hello", "", "", http.StatusOK); text != "hello, stranger\n" {
		t.Errorf("GET /hello: %q", text)
	}
	// Nobody is signed in: 401 on each of the three kinds of route.
	for _, route := range []string{"GET /items", "DELETE /items/1", "GET /reports/daily"} {
		method, path, _ := strings.Cut(route, " ")
		_, m := do(t, method, base+path, "", "", http.StatusUnauthorized)
		code(t, m, "unauthenticated")
	}

	// Bob registers and signs in. He is known now, and not allowed: 403.
	_, bob := do(t, "POST", base+"/auth/register", "", `{"username":"bob","email":"bob@example.com","password":"`+testPassword+`"}`, http.StatusCreated)
	token := signIn(t, base, "bob")
	if text, _ := do(t, "GET", base+"/hello", token, "", http.StatusOK); text != "hello, "+bob["id"].(string)+"\n" {
		t.Errorf("GET /hello: %q", text)
	}
	for _, route := range []string{"GET /items", "DELETE /items/1", "GET /reports/daily"} {
		method, path, _ := strings.Cut(route, " ")
		_, m := do(t, method, base+path, token, "", http.StatusForbidden)
		code(t, m, "insufficient_permission")
	}

	// An administrator makes a role of the permissions that the rules name, and
	// gives it to Bob. It holds at his next request, with the same token.
	admin := signIn(t, base, "ada@example.com")
	do(t, "PUT", base+"/roles/editor", admin, `{"permissions":["read:items","write:items"]}`, http.StatusOK)
	do(t, "PUT", base+"/users/"+bob["id"].(string)+"/roles", admin, `{"roles":["user","editor"]}`, http.StatusOK)
	_, added := do(t, "POST", base+"/items", token, `{"name":"lamp"}`, http.StatusCreated)
	if added["owner"] != bob["id"] {
		t.Errorf("owner %v, want %v", added["owner"], bob["id"])
	}
	if text, _ := do(t, "GET", base+"/items", token, "", http.StatusOK); !strings.Contains(text, "lamp") {
		t.Errorf("GET /items: %s", text)
	}
	_, m := do(t, "POST", base+"/items", token, `{"name":""}`, http.StatusUnprocessableEntity)
	code(t, m, "validation_failed")
	_, m = do(t, "GET", base+"/reports/daily", token, "", http.StatusForbidden)
	code(t, m, "insufficient_permission")
	if text, _ := do(t, "GET", base+"/reports/daily", admin, "", http.StatusOK); text != "items: 1\n" {
		t.Errorf("GET /reports/daily: %q", text)
	}
	_, m = do(t, "DELETE", base+"/items/1", admin, "", http.StatusNotFound) // not hers
	code(t, m, "not_found")
	do(t, "DELETE", base+"/items/1", token, "", http.StatusNoContent)

	// Signed out: the same token is refused at once.
	do(t, "POST", base+"/logout", token, "", http.StatusOK)
	_, m = do(t, "GET", base+"/items", token, "", http.StatusUnauthorized)
	code(t, m, "invalid_token")
}

// What the service declares is what it enforces, as seen from outside. The same is
// “sallyport prove --url … --token-file …” on the command line.
func TestDeclaredIsEnforced(t *testing.T) {
	base := service(t)
	do(t, "POST", base+"/auth/register", "", `{"username":"bob","email":"bob@example.com","password":"`+testPassword+`"}`, http.StatusCreated)
	admin := signIn(t, base, "ada@example.com")
	do(t, "PUT", base+"/roles/editor", admin, `{"permissions":["read:items","write:items"]}`, http.StatusOK)
	_, list := do(t, "GET", base+"/users?q=bob", admin, "", http.StatusOK)
	id := list["items"].([]any)[0].(map[string]any)["id"].(string)
	do(t, "PUT", base+"/users/"+id+"/roles", admin, `{"roles":["user","editor"]}`, http.StatusOK)
	form := url.Values{"grant_type": {"password"}, "username": {"bob"}, "password": {testPassword}, "scope": {"read:items"}}
	_, scoped := do(t, "POST", base+"/token", "", form.Encode(), http.StatusOK)

	document, _ := do(t, "GET", base+"/openapi.json", "", "", http.StatusOK)
	d, err := prove.ReadDocument(strings.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	bob := prove.Holding{Scheme: "bearer", Kind: "bearer", Permissions: []string{"read:items", "write:items"}, Roles: []string{"user", "editor"}}
	limited := bob
	limited.Scoped, limited.Scopes = true, []string{"read:items"}
	given := []prove.Given{
		{Name: "bob", Holding: bob, Value: signIn(t, base, "bob")},
		{Name: "bob, to read", Holding: limited, Value: scoped["access_token"].(string)},
	}
	proof := func() prove.Report {
		t.Helper()
		cases, left := prove.Plan(d, prove.Options{Given: given, Sparing: true})
		r := prove.Runner{Base: at}
		rep, err := r.Run(t.Context(), d, cases)
		if err != nil {
			t.Fatal(err)
		}
		rep.Merge(nil, left)
		return rep
	}
	if rep := proof(); len(rep.Differences)+len(rep.Untried) > 0 || rep.Operations < 50 || rep.Admitted < 10 {
		t.Errorf("%+v", rep)
	}
	// If the rule of POST /items did not let Bob in, that would show.
	given[0].Holding.Permissions = []string{"read:items"}
	given = given[:1]
	d.Operations = slices.DeleteFunc(d.Operations, func(o *prove.Operation) bool { return o.Path != "/items" })
	if rep := proof(); len(rep.Differences) != 1 || rep.Differences[0].Operation != "POST /items" || !strings.HasPrefix(rep.Differences[0].Means, "OPEN") {
		t.Errorf("%+v", rep.Differences)
	}
}
