package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/prove"
)

const (
	adasPassword = "violet-anchor-97-marmalade"
	bobsPassword = "granite-pelican-48-tangerine"
)

// start starts the service as main does, on a table that was there before, in which
// ada's password is hashed with bcrypt and bob's in no known way. It returns its
// address and the table.
func start(t *testing.T) (address string, table *sql.DB) {
	t.Helper()
	dir := t.TempDir()
	table, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "service.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	hash, err := bcrypt.GenerateFromPassword([]byte(adasPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{schema, "INSERT INTO users (id, name, email, password) VALUES (41, 'ada', 'Ada@example.com', '" + string(hash) + "'), (42, 'odd', NULL, '{md5}5f4dcc')"} {
		if _, err := table.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	addr := fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, addr, dir, "41") }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get("http://" + addr + "/livez")
		if err == nil {
			res.Body.Close()
			return "http://" + addr, table
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// do sends a request, fails unless it is answered with the status, and returns the body.
func do(t *testing.T, method, address, token, body string, status int) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if strings.HasPrefix(body, "grant_type") {
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
	if err != nil || res.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s %v", method, address, res.StatusCode, status, b, err)
	}
	return b
}

type session struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func signIn(t *testing.T, address, name, pw string, status int) (s session) {
	t.Helper()
	form := url.Values{"grant_type": {"password"}, "username": {name}, "password": {pw}}.Encode()
	if err := json.Unmarshal(do(t, "POST", address+"/token", "", form, status), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func hashOf(t *testing.T, table *sql.DB, name string) (hash string) {
	t.Helper()
	if err := table.QueryRow("SELECT password FROM users WHERE name = ?", name).Scan(&hash); err != nil {
		t.Fatal(err)
	}
	return hash
}

// TestService: people of a table that was there sign in with what stands in it, and
// what the service decides of them holds at the next request.
func TestService(t *testing.T) {
	t.Parallel()
	at, table := start(t)
	signIn(t, at, "ada", "wrong", 401)
	signIn(t, at, "odd", "password", 401)
	ada := signIn(t, at, "ADA", adasPassword, 200)
	if !strings.HasPrefix(hashOf(t, table, "ada"), "$argon2id$") {
		t.Error("the bcrypt hash was not replaced in the table")
	}
	signIn(t, at, "ada@example.com", adasPassword, 200)

	// The service's own ids, in its own tables.
	do(t, "POST", at+"/notes", ada.Access, `{"text":"engines"}`, 204)
	var id int64
	if err := table.QueryRow("SELECT user_id FROM notes").Scan(&id); err != nil || id != 41 {
		t.Errorf("the note is that of %d: %v", id, err)
	}
	if got := do(t, "GET", at+"/notes", ada.Access, "", 200); string(bytes.TrimSpace(got)) != `["engines"]` {
		t.Errorf("notes %s", got)
	}

	// Somebody new, by the service's own sign-up.
	do(t, "POST", at+"/sign-up", "", `{"name":"bob","password":"short"}`, 422)
	do(t, "POST", at+"/sign-up", "", `{"name":"bob","password":"`+bobsPassword+`"}`, 201)
	do(t, "POST", at+"/sign-up", "", `{"name":"BOB","password":"`+bobsPassword+`"}`, 409)
	bob := signIn(t, at, "bob", bobsPassword, 200)
	do(t, "PUT", at+"/people/41/active", bob.Access, `{"active":false}`, 403)
	do(t, "PUT", at+"/people/43/active", ada.Access, `{"active":false}`, 204) // --admin 41
	do(t, "GET", at+"/notes", bob.Access, "", 401)
	signIn(t, at, "bob", bobsPassword, 401)
	do(t, "PUT", at+"/people/43/active", ada.Access, `{"active":true}`, 204)
	bob = signIn(t, at, "bob", bobsPassword, 200)

	// Another password, by Sallyport's own route, into the table.
	before := hashOf(t, table, "bob")
	do(t, "PUT", at+"/users/me/password", bob.Access, `{"current_password":"`+bobsPassword+`","new_password":"walnut-harbour-31-quilt"}`, 204)
	if hashOf(t, table, "bob") == before {
		t.Error("the new password is not in the table")
	}
	signIn(t, at, "bob", bobsPassword, 401)
	bob = signIn(t, at, "bob", "walnut-harbour-31-quilt", 200)

	// What is not Sallyport's business here is not there.
	do(t, "POST", at+"/auth/register", "", `{"email":"eve@example.com","password":"`+bobsPassword+`"}`, 404)

	do(t, "DELETE", at+"/me", bob.Access, "", 204)
	do(t, "GET", at+"/notes", bob.Access, "", 401)
	do(t, "POST", at+"/token/refresh", "", `{"refresh_token":"`+bob.Refresh+`"}`, 401)
	signIn(t, at, "bob", "walnut-harbour-31-quilt", 401)
	do(t, "GET", at+"/notes", ada.Access, "", 200)
}

// What the service declares is what it enforces, as seen from outside.
func TestDeclaredIsEnforced(t *testing.T) {
	t.Parallel()
	address, _ := start(t)
	do(t, "POST", address+"/sign-up", "", `{"name":"bob","password":"`+bobsPassword+`"}`, 201)
	bob := signIn(t, address, "bob", bobsPassword, 200)
	d, err := prove.ReadDocument(bytes.NewReader(do(t, "GET", address+"/openapi.json", "", "", 200)))
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	cases, left := prove.Plan(d, prove.Options{Sparing: true, Given: []prove.Given{
		{Name: "bob", Value: bob.Access, Holding: prove.Holding{Scheme: "bearer", Kind: "bearer", Roles: []string{"user"}}},
	}})
	rep, err := (&prove.Runner{Base: at}).Run(t.Context(), d, cases)
	if err != nil {
		t.Fatal(err)
	}
	rep.Merge(nil, left)
	if len(rep.Differences)+len(rep.Untried) > 0 || rep.Operations < 40 || rep.Admitted < 10 {
		t.Errorf("%+v", rep)
	}
}
