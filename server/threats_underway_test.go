package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// slow sends a request whose body comes when the test says so.
type slow struct {
	w    *world
	body *io.PipeWriter
	done chan reply
}

func (w *world) slow(method, path, token string) *slow {
	w.t.Helper()
	r, body := io.Pipe()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.http.URL+path, r)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if strings.HasPrefix(token, "sp_") {
		req.Header.Set("X-API-Key", token)
	} else {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	// The server says “continue” when its handler begins to read the body: the
	// gate has decided by then.
	req.Header.Set("Expect", "100-continue")
	decided := make(chan struct{})
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(decided) }}))
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	w.t.Cleanup(transport.CloseIdleConnections)
	s := &slow{w, body, make(chan reply, 1)}
	go func() {
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			s.done <- reply{body: []byte(err.Error())}
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		s.done <- reply{res.StatusCode, res.Header, b}
	}()
	select {
	case <-decided:
	case r := <-s.done:
		w.t.Fatalf("%s %s was answered without its body: %d %s", method, path, r.status, r.body)
	}
	return s
}

func (s *slow) finish(body string) reply {
	s.w.t.Helper()
	if _, err := io.WriteString(s.body, body); err != nil {
		s.w.t.Fatal(err)
	}
	s.body.Close()
	return <-s.done
}

// The rule is decided before the body is read. Whoever loses what it was
// decided by while the body is on its way must not get the change done.
func TestA_AuthorityLostUnderWay(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		crony, _ := w.user("crony")
		_, root := w.user("root", "admin")
		admin, tk := w.user("boss", "admin")
		disable := func(v bool) {
			w.do("PATCH", "/users/"+admin, root.access, map[string]any{"disabled": v}).want(t, 200, "")
		}
		grant := `{"roles":["user","moderator"]}`
		path := "/users/" + crony + "/roles"
		roles := func() string {
			u, err := w.sv.Accounts.Get(t.Context(), crony)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(u.Roles)
		}

		for name, c := range map[string]struct {
			change func()
			back   func()
			status int
			code   string
		}{
			"signed out":   {func() { w.do("POST", "/logout", tk.access, nil).want(t, 200, "") }, func() {}, 401, "invalid_token"},
			"disabled":     {func() { disable(true) }, func() { disable(false) }, 401, "invalid_token"},
			"demoted":      {func() { w.do("PUT", "/users/"+admin+"/roles", root.access, `{"roles":["user"]}`).want(t, 200, "") }, func() { w.grant(admin, "admin") }, 409, "authority_changed"},
			"key retired":  {func() { w.retireKeys() }, func() {}, 401, "invalid_token"},
			"key rotated":  {func() { w.rotateKeys() }, func() {}, 200, ""},
			"another role": {func() { w.define("other") }, func() {}, 200, ""},
			"promoted":     {func() { w.define("extra"); w.grant(admin, "extra") }, func() {}, 200, ""},
			"nothing new":  {func() {}, func() {}, 200, ""},
		} {
			tk, root = w.signIn("boss", goodPassword), w.signIn("root", goodPassword)
			before := roles()
			s := w.slow("PUT", path, tk.access)
			c.change()
			r := s.finish(grant)
			if r.status != c.status || c.code != "" && r.text(t, "code") != c.code {
				t.Errorf("%s: %d %s, want %d %s", name, r.status, r.body, c.status, c.code)
			}
			if changed := roles() != before; changed != (c.status == 200) {
				t.Errorf("%s: roles %s, before %s", name, roles(), before)
			}
			root = w.signIn("root", goodPassword)
			w.do("PUT", path, root.access, `{"roles":["user"]}`).want(t, 200, "")
			c.back()
		}

		// One's own account, too: a password, a name, the account itself.
		id, tk := w.user("ada")
		s := w.slow("PUT", "/users/me/password", tk.access)
		w.do("PATCH", "/users/"+id, root.access, `{"disabled":true}`).want(t, 200, "")
		s.finish(`{"current_password":"`+goodPassword+`","new_password":"another good phrase 71"}`).want(t, 401, "invalid_token")
		w.do("PATCH", "/users/"+id, root.access, `{"disabled":false}`).want(t, 200, "")
		tk = w.signIn("ada", goodPassword)
		s = w.slow("PATCH", "/users/me", tk.access)
		w.do("POST", "/logout/all", tk.access, nil).want(t, 200, "")
		s.finish(`{"full_name":"Somebody Else"}`).want(t, 401, "invalid_token")
		if u, err := w.sv.Accounts.Get(t.Context(), id); err != nil || u.FullName != nil {
			t.Errorf("the name is %v %v", u.FullName, err)
		}
	})
}

func (w *world) rotateKeys() (old []string) {
	w.t.Helper()
	keys, err := w.sv.Keys.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.sv.Keys.Rotate(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for _, k := range keys {
		if k.State == keyring.Active || k.State == keyring.Retiring {
			old = append(old, k.ID)
		}
	}
	return old
}

func (w *world) retireKeys() {
	w.t.Helper()
	for _, kid := range w.rotateKeys() {
		if err := w.sv.Keys.Retire(w.t.Context(), kid); err != nil {
			w.t.Fatal(err)
		}
	}
}

// Signing out gives authority up, and must not wait for roles to hold still.
func TestA_LogoutWhileRolesChange(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.define("clerk", "write:roles", "write:users")
		maker, mk := w.user("maker", "clerk")
		id, tk := w.user("ada", "moderator")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					req := w.request("PUT", "/roles/"+[]string{"guest", fmt.Sprint("r", i)}[n%2], mk.access, map[string]any{"description": fmt.Sprint(n)})
					if res, err := http.DefaultClient.Do(req); err == nil {
						res.Body.Close()
					}
				}
			})
		}
		for range 20 {
			tk = w.signIn("ada", goodPassword)
			w.do("POST", "/logout", tk.access, nil).want(t, 200, "")
		}
		// Nor does it keep others from what they may still do.
		tk = w.signIn("ada", goodPassword)
		for i := range 10 {
			w.do("PATCH", "/users/me", tk.access, map[string]any{"full_name": fmt.Sprint("Ada ", i)}).want(t, 200, "")
		}
		close(stop)
		wg.Wait()
		_, _ = maker, id
	})
}

// A revocation that was acknowledged is not overtaken by a write that began
// before it: PostgreSQL alone would find an order in which it came first.
func TestA_NoWriteOvertakesARevocation(t *testing.T) {
	t.Parallel()
	d := testkit.Postgres(t)
	w := newWorld(t, d, nil)
	_, root := w.user("root", "admin")
	w.define("clerk", "write:users")
	victim := w.register("victim")
	id, tk := w.user("mallory", "clerk")
	hold, held := make(chan struct{}), make(chan struct{})
	done := make(chan reply, 1)
	go func() {
		_ = d.Write(context.Background(), func(tx *db.Tx) error {
			if _, err := tx.Exec("UPDATE sp_accounts SET email_verified = email_verified WHERE id = $1", victim); err != nil {
				return err
			}
			close(held)
			<-hold
			return fmt.Errorf("let go")
		})
	}()
	<-held
	req := w.request("PATCH", "/users/"+victim, tk.access, map[string]any{"full_name": "Somebody Else"})
	go func() { done <- w.send(req) }()
	time.Sleep(200 * time.Millisecond) // for its transaction to wait on the row; either way it must not pass
	w.do("PATCH", "/users/"+id, root.access, map[string]any{"disabled": true}).want(t, 200, "")
	close(hold)
	if r := <-done; r.status == 200 {
		t.Errorf("a write was acknowledged after its author was disabled: %s", r.body)
	}
	if u, err := w.sv.Accounts.Get(t.Context(), victim); err != nil || u.FullName != nil {
		t.Errorf("account: %+v %v", u, err)
	}
}

// Many people register at once: each gets an account of their own.
func TestA_ParallelRegistrations(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				for n := range 8 {
					name := fmt.Sprintf("u%d-%d", g, n)
					r := w.send(w.request("POST", "/auth/register", "", map[string]any{"email": name + "@example.com", "username": name, "password": goodPassword}))
					var u struct{ ID, Email string }
					if err := json.Unmarshal(r.body, &u); r.status == 503 {
						continue // as busy as it may say
					} else if err != nil || r.status != 201 || u.ID == "" || u.Email != name+"@example.com" {
						t.Errorf("%s: %d %s", name, r.status, r.body)
					}
				}
			})
		}
		wg.Wait()
		var n int
		if _, err := d.View(t.Context()).Row("SELECT count(*) FROM sp_accounts WHERE id = '' OR email = ''", nil, &n); err != nil || n != 0 {
			t.Errorf("%d accounts without an id: %v", n, err)
		}
	})
}

// scopeOf reads the scope claim that a resource server would trust.
func scopeOf(t *testing.T, access string) (scope string, there bool) {
	t.Helper()
	part := strings.Split(access, ".")[1]
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Scope *string }
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if c.Scope == nil {
		return "", false
	}
	return *c.Scope, true
}

// A refresh signs no more than its account holds now, whatever it asks for and
// whatever the session was granted.
func TestR_RefreshedScopeIsHeld(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, tk := w.user("ada")
		refresh := func(tok, scope string) reply {
			t.Helper()
			return w.form("/token", "grant_type", "refresh_token", "refresh_token", tok, "scope", scope)
		}
		r := refresh(tk.refresh, "write:users role:admin read:users").want(t, 200, "")
		if s, there := scopeOf(t, r.text(t, "access_token")); s != "" || !there || r.text(t, "scope") != "" {
			t.Fatalf("scope %q of an account that holds none of it", s)
		}
		next := r.text(t, "refresh_token")
		refresh(next, "no:such").want(t, 400, "invalid_scope")
		refresh(next, strings.TrimSpace(strings.Repeat(strings.Repeat("a", 64)+" ", 64))).want(t, 400, "invalid_scope")
		// What was refused has not spent the token.
		w.grant(id, "moderator")
		r = refresh(next, "read:users read:users write:users").want(t, 200, "")
		if s, _ := scopeOf(t, r.text(t, "access_token")); s != "read:users" {
			t.Fatalf("scope %q, want read:users", s)
		}

		// A session that was granted a scope loses what its account loses.
		tk = w.signIn("ada", goodPassword, "scope", "read:users role:moderator")
		if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
			return role.Revoke(t.Context(), tx, role.Operator(), id, "moderator")
		}); err != nil {
			t.Fatal(err)
		}
		r = w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
		if s, there := scopeOf(t, r.text(t, "access_token")); s != "" || !there {
			t.Fatalf("scope %q after the role was taken", s)
		}
	})
}

// However many sessions somebody has made, they end in one statement; and there
// is a bound.
func TestR_ManySessions(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, root := w.user("root", "admin")
		id, first := w.user("ada")
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
				INSERT INTO sp_sessions SELECT s.id || '-' || n.i, s.subject_id, s.client_id, s.scoped, s.scope, s.amr, s.mfa, s.auth_time,
				s.created_at + n.i, s.last_used_at, s.idle_until, s.expires_at, s.ended_at, s.end_reason, s.address, s.user_agent, s.generation, s.refresh, s.refreshed_at
				FROM sp_sessions s, n WHERE s.subject_id = $1`, id)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		live := func() (n int) {
			t.Helper()
			if _, err := d.View(t.Context()).Row("SELECT count(*) FROM sp_sessions WHERE subject_id = $1 AND ended_at = 0", []any{id}, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		tk := w.signIn("ada", goodPassword)
		if n := live(); n >= 3001 {
			t.Errorf("%d live sessions: none was ended", n)
		}
		for range 30 {
			tk = w.signIn("ada", goodPassword)
		}
		if n := live(); n != 500 {
			t.Errorf("%d live sessions, want 500", n)
		}
		if w.alive(first.access) || !w.alive(tk.access) {
			t.Error("the oldest session lives, or the newest does not")
		}
		w.do("PATCH", "/users/"+id, root.access, `{"disabled":true}`).want(t, 200, "")
		if n := live(); n != 0 {
			t.Errorf("%d sessions live on", n)
		}
	})
}

// A token of a retired key is refused even if the ring learned of the
// retirement between the proof of the token and the look at its session.
func TestJ_RetiredBetweenProofAndConfirmation(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, tk := w.user("ada")
		verified, err := w.sv.Sessions.VerifyAccess(t.Context(), tk.access)
		if err != nil {
			t.Fatal(err)
		}
		// The gate uses what was proven only under the same version of the keys.
		if st, err := w.sv.Sessions.Confirm(d.View(t.Context()), verified); err != nil || st.Keys != verified.Keys {
			t.Fatalf("the control: %+v %v", st, err)
		}
		keys, err := w.sv.Keys.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := keys[slices.IndexFunc(keys, func(k keyring.Info) bool { return k.State == "active" })].ID
		if _, err := w.sv.Keys.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.sv.Keys.Retire(t.Context(), old); err != nil { // this ring knows it by now
			t.Fatal(err)
		}
		if st, err := w.sv.Sessions.Confirm(d.View(t.Context()), verified); err == nil && st.Keys == verified.Keys {
			t.Fatal("confirmed although its key is retired")
		}
		if w.alive(tk.access) {
			t.Fatal("a token of a retired key is accepted")
		}
	})
}

// A sign-in or refresh on another node signs with the key that is active now,
// although that node has seen no access token since.
func TestJ_SignsWithTheActiveKey(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		file := filepath.Join(t.TempDir(), "master.key")
		there := func(c *server.Config) { c.MasterKeyFile = file }
		w := newWorld(t, d, nil, there)
		other, err := server.New(t.Context(), server.Config{DB: d, BaseURL: baseURL, MasterKeyFile: file, Password: weakHashes})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.Close)
		_, tk := w.user("ada")
		rotate := func() {
			t.Helper()
			keys, err := other.Keys.List(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.Keys.Rotate(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				if k.State == "active" {
					if err := other.Keys.Retire(context.Background(), k.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		rotate()
		r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
		if !w.alive(r.text(t, "access_token")) {
			t.Error("a refresh signed with a retired key")
		}
		rotate()
		if !w.alive(w.signIn("ada", goodPassword).access) {
			t.Error("a sign-in signed with a retired key")
		}
	})
}

// The role that everybody gets may hold more than who may create accounts.
func TestA_CreatedAccountsHoldNoMoreThanTheirMaker(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, func(c *server.Config) { c.Registration = account.Closed })
		create := func(name string, roles ...string) tokens {
			t.Helper()
			mail := name + "@example.com"
			if _, err := w.sv.Accounts.Create(t.Context(), role.Operator(), account.NewUser{Email: mail, Password: goodPassword, Username: &name, Roles: roles}); err != nil {
				t.Fatal(err)
			}
			return w.signIn(name, goodPassword)
		}
		w.define("clerk", "write:users")
		clerk := create("clerk", "clerk")
		body := func(name string) map[string]any {
			return map[string]any{"email": name + "@example.com", "password": goodPassword}
		}
		w.do("POST", "/users", clerk.access, body("one")).want(t, 201, "")
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			if err := role.PutPermission(t.Context(), tx, "pay:invoices", ""); err != nil {
				return err
			}
			return role.Put(t.Context(), tx, role.Operator(), role.Role{Name: role.User, Permissions: []string{"pay:invoices"}})
		}); err != nil {
			t.Fatal(err)
		}
		w.do("POST", "/users", clerk.access, body("two")).want(t, 403, "above_own_rights")
		w.events("access.denied", 1)
		if _, err := w.sv.Accounts.Find(t.Context(), "two@example.com"); err == nil {
			t.Error("the account was made")
		}
	})
}
