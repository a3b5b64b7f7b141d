package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// The authorisation threats (letter A of the threat list): who may do what,
// and that nobody gets further by any way round.

// handle answers a request in process, for floods.
func (w *world) handle(req *http.Request) reply {
	rec := httptest.NewRecorder()
	w.http.Config.Handler.ServeHTTP(rec, req)
	return reply{rec.Code, rec.Result().Header, rec.Body.Bytes()}
}

// local makes a request for handle. Headers come in pairs.
func local(method, target, token, body string, headers ...string) *http.Request {
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, target, rd)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// permit gives direct permissions as the operator would.
func (w *world) permit(id string, permissions ...string) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error {
		return role.SetPermissions(w.t.Context(), tx, role.Operator(), id, permissions)
	}); err != nil {
		w.t.Fatal(err)
	}
}

// state is everything that authority rests on, as an administrator sees it.
func (w *world) state(admin string) string {
	w.t.Helper()
	var b strings.Builder
	for _, path := range []string{"/users?limit=200", "/roles", "/permissions"} {
		b.Write(w.handle(local("GET", path, admin, "")).want(w.t, 200, "").body)
	}
	return b.String()
}

// unchanged runs an attack and fails if it changed anything, or wrote an audit
// event of a change.
func (w *world) unchanged(t *testing.T, admin string, attack func()) {
	t.Helper()
	changes := func() int {
		t.Helper()
		all, err := audit.Latest(w.db.View(t.Context()), 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range all {
			if e.Result == audit.Success {
				n++
			}
		}
		return n
	}
	before, events := w.state(admin), changes()
	attack()
	if after := w.state(admin); after != before {
		t.Errorf("something was changed.\nbefore: %s\nafter:  %s", before, after)
	}
	if n := changes(); n != events {
		t.Errorf("%d audit events of success for something that was refused", n-events)
	}
}

// noSecretIn fails if the audit log holds one of the secrets.
func (w *world) noSecretIn(t *testing.T, secrets ...string) {
	t.Helper()
	all, err := audit.Latest(w.db.View(t.Context()), 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(secrets, goodPassword, "eyJ", "rt_") {
		if bytes.Contains(text, []byte(s)) {
			t.Errorf("the audit log holds the secret %.12s…", s)
		}
	}
}

// caller is a principal as the test itself understands it.
type caller struct {
	name  string
	token string
	key   string // an API key in the place of a token

	anonymous, bad, everything, scoped, mfa bool
	permissions, roles, scopes              []string
	age                                     time.Duration
}

// expectation is what a rule, read from its JSON, means for a caller: written
// apart from the server's own decision. scope, strong and kind assume that the
// credential listed everything, was fresh and had a second factor, or was of the
// kind that is asked for.
func expectation(rule any, c caller) (status int, code string) {
	var holds func(r any, scope, strong, kind bool) bool
	holds = func(r any, scope, strong, kind bool) bool {
		if c.anonymous {
			return r == "public"
		}
		m, _ := r.(map[string]any)
		switch {
		case r == "public", r == "signed_in":
			return true
		case r == "unscoped":
			return !c.scoped || scope
		case r == "mfa":
			return c.mfa || strong
		case m["role"] != nil:
			name := m["role"].(string)
			return slices.Contains(c.roles, name) && (!c.scoped || scope || slices.Contains(c.scopes, "role:"+name))
		case m["permission"] != nil, m["scope"] != nil:
			name, ok := m["permission"].(string)
			if !ok {
				name = m["scope"].(string)
			}
			return (c.everything || slices.Contains(c.permissions, name)) && (!c.scoped || scope || slices.Contains(c.scopes, name))
		case m["fresh"] != nil:
			return c.key == "" && c.age <= time.Duration(m["fresh"].(float64))*time.Second || strong
		case m["via"] != nil:
			own := "bearer"
			if c.key != "" {
				own = "api_key"
			}
			return slices.Contains(m["via"].([]any), any(own)) || kind
		case m["all"] != nil:
			for _, p := range m["all"].([]any) {
				if !holds(p, scope, strong, kind) {
					return false
				}
			}
			return true
		case m["any"] != nil:
			for _, p := range m["any"].([]any) {
				if holds(p, scope, strong, kind) {
					return true
				}
			}
			return false
		}
		panic(fmt.Sprintf("a rule that the test does not know: %v", r))
	}
	switch {
	case c.bad:
		return 401, "invalid_token"
	case holds(rule, false, false, false):
		return 0, ""
	case c.anonymous:
		return 401, "unauthenticated"
	case holds(rule, false, true, false):
		return 401, "insufficient_user_authentication"
	case holds(rule, true, true, false):
		return 403, "insufficient_scope"
	case holds(rule, true, true, true):
		return 403, "credential_not_accepted"
	}
	return 403, "insufficient_permission"
}

var builtinPermissions = []string{
	"read:users", "write:users", "delete:users", "assign:roles", "write:roles",
	"read:audit", "introspect:tokens", "read:policies", "write:policies", "write:clients",
}

// callers makes one of every kind.
func (w *world) callers() []caller {
	plain := []string{"user", "guest"}
	out := []caller{{name: "anonymous", anonymous: true}, {name: "a made-up token", token: "eyJhbGciOiJub25lIn0.e30.", bad: true}}
	_, tk := w.user("plain")
	out = append(out, caller{name: "plain user", token: tk.access, roles: plain})
	out = append(out, caller{
		name: "plain user who asked for a scope", roles: plain, scoped: true,
		token: w.signIn("plain", goodPassword, "scope", "read:users write:users role:admin").access, // gets none of it
	})
	_, tk = w.user("mod", "moderator")
	mod := append([]string{"moderator"}, plain...)
	out = append(out, caller{name: "moderator", token: tk.access, roles: mod, permissions: []string{"read:users"}})
	out = append(out, caller{
		name: "moderator with scope", token: w.signIn("mod", goodPassword, "scope", "read:users write:roles").access,
		roles: mod, permissions: []string{"read:users"}, scoped: true, scopes: []string{"read:users"},
	})
	admin := append([]string{"admin"}, mod...)
	_, tk = w.user("root", "admin")
	out = append(out, caller{name: "administrator", token: tk.access, roles: admin, everything: true})
	out = append(out, caller{
		name: "administrator with scope role:admin", token: w.signIn("root", goodPassword, "scope", "role:admin").access,
		roles: admin, everything: true, scoped: true, scopes: []string{"role:admin"},
	})
	root := tk
	out = append(
		out,
		caller{name: "a made-up key", key: "sp_" + strings.Repeat("0", 49), bad: true},
		caller{name: "administrator's key without scopes", key: w.key(root).key, roles: admin, everything: true, scoped: true},
		caller{
			name: "administrator's key", key: w.key(root, "read:users", "role:admin").key,
			roles: admin, everything: true, scoped: true, scopes: []string{"read:users", "role:admin"},
		},
	)
	for i, p := range builtinPermissions {
		id, tk := w.user(fmt.Sprintf("single%d", i))
		w.permit(id, p)
		out = append(out, caller{name: "user with " + p, token: tk.access, roles: plain, permissions: []string{p}})
		out = append(out, caller{
			name: "administrator with scope " + p, token: w.signIn("root", goodPassword, "scope", p).access,
			roles: admin, everything: true, scoped: true, scopes: []string{p},
		}, caller{
			name: "administrator's key with " + p, key: w.key(root, p).key,
			roles: admin, everything: true, scoped: true, scopes: []string{p},
		})
	}
	return out
}

// openRoutes look at no credentials: whoever holds a dead one must still reach
// them. All others refuse it, public ones too.
var openRoutes = []string{
	"GET /livez", "GET /readyz", "GET /.well-known/jwks.json", "GET /.well-known/oauth-authorization-server",
	"POST /token", "POST /token/refresh", "POST /token/revoke", "POST /auth/login", "POST /auth/register",
	"POST /auth/request-verify-token", "POST /auth/forgot-password", "POST /auth/reset-password", "POST /auth/accept-invitation",
	"POST /auth/link", "POST /auth/request-link", "POST /auth/setup",
}

// introspection answers in the form of OAuth.
const introspection = "POST /token/introspect"

// oauthError is what an OAuth endpoint says where others say code to a bearer of
// a token.
func oauthError(code string) string {
	switch code {
	case "unauthenticated":
		return "invalid_client"
	case "insufficient_permission", "credential_not_accepted":
		return "access_denied"
	}
	return code
}

// Every route, every kind of caller: the outcome is the one that the document's
// own rule gives.
func TestA_Matrix(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, withMail(&mailbox{}), withMailSignIn)
		callers := w.callers()
		admin := w.signIn("root", goodPassword).access
		ops := w.operations()
		allowed, refused := 0, 0
		w.unchanged(t, admin, func() {
			for _, op := range ops {
				rule := decoded(t, op.Rule)
				for _, c := range callers {
					// The query and the body are refused, but only after the
					// decision, so that nothing is changed by who may.
					req := local(op.method, op.target()+"?no_such_parameter=1", c.token, "")
					if op.accepts(api.FormType) && !op.accepts("application/json") {
						req = local(op.method, op.target(), c.token, "no=field", "Content-Type", api.FormType)
					} else if op.RequestBody != nil {
						req = local(op.method, op.target(), c.token, `{"no_such_member":1}`, "Content-Type", "application/json")
					}
					if c.key != "" {
						req.Header.Set("X-API-Key", c.key)
					}
					r := w.handle(req)
					status, code := expectation(rule, c)
					if c.bad && slices.Contains(openRoutes, op.name()) {
						status = 0
					}
					switch {
					case status != 0:
						refused++
						if r.status != status {
							t.Errorf("%s as %s: status %d, want %d: %.200s", op.name(), c.name, r.status, status, r.body)
							continue
						}
						member := "code"
						if op.name() == introspection {
							member, code = "error", oauthError(code)
						}
						if got := r.text(t, member); got != code {
							t.Errorf("%s as %s: code %s, want %s", op.name(), c.name, got, code)
						}
						if challenge := r.header.Get("Www-Authenticate"); (status == 401 || code == "insufficient_scope") != (challenge != "") {
							t.Errorf("%s as %s: %d with challenge %q", op.name(), c.name, status, challenge)
						}
					case r.status == 401 || r.status == 403 || r.status >= 500:
						t.Errorf("%s as %s: status %d, but rule %s lets them in: %.200s", op.name(), c.name, r.status, op.Rule, r.body)
					default:
						allowed++
					}
				}
			}
		})
		if allowed < 100 || refused < 300 {
			t.Errorf("%d allowed and %d refused: the matrix is too small to tell anything", allowed, refused)
		}
		for _, e := range w.events("access.denied", 1) {
			if e.Result != audit.Denied || e.Reason == "" || e.Actor == "" || e.Detail["rule"] == "" || e.RequestID == "" {
				t.Errorf("the event does not tell enough: %+v", e)
			}
		}
		w.noSecretIn(t)
	})
}

// Somebody else's session is as good as none.
func TestA_ForeignSession(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		_, bob := w.user("bob")
		_, root := w.user("root", "admin")
		sessions := func(token string) (ids []string) {
			t.Helper()
			for _, s := range w.do("GET", "/users/me/sessions", token, nil).want(t, 200, "").json(t)["items"].([]any) {
				ids = append(ids, s.(map[string]any)["id"].(string))
			}
			return ids
		}
		hers := sessions(ada.access)
		if len(hers) != 1 || slices.Contains(sessions(bob.access), hers[0]) || slices.Contains(sessions(root.access), hers[0]) {
			t.Fatalf("sessions of ada: %v; they must be hers alone to see", hers)
		}
		none := w.do("DELETE", "/users/me/sessions/01890000-0000-7000-8000-000000000000", bob.access, nil).want(t, 404, "not_found")
		for _, thief := range []tokens{bob, root} {
			r := w.do("DELETE", "/users/me/sessions/"+hers[0], thief.access, nil).want(t, 404, "not_found")
			if a, b := r.text(t, "detail"), none.text(t, "detail"); a != b {
				t.Errorf("a foreign session is told from none: %q, %q", a, b)
			}
		}
		if !w.alive(ada.access) {
			t.Fatal("somebody else ended the session")
		}
		second := w.signIn("ada", goodPassword)
		w.do("DELETE", "/users/me/sessions/"+hers[0], second.access, nil).want(t, 204, "")
		if w.alive(ada.access) || !w.alive(second.access) {
			t.Fatal("one's own session could not be ended, or the wrong one was")
		}
		w.events("session.ended", 1)
		w.noSecretIn(t, hers[0]+".", ada.access, ada.refresh)
	})
}

// Members that a body should not have change nothing, however they are spelt.
func TestA_MassAssignment(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		ada, adaTokens := w.user("ada")
		_, rootTokens := w.user("root", "admin")
		root := rootTokens.access

		// Members that nobody sets here, and their disguises.
		planted := []string{
			`"roles":["admin"]`, `"Roles":["admin"]`, `"ROLES":["admin"]`, `"\u0072oles":["admin"]`, `"role\u0073":["admin"]`,
			`"role\u017f":["admin"]`, `"roles ":["admin"]`, `"role":"admin"`, `"is_admin":true`, `"permissions":["write:users"]`,
			`"Permissions":["write:users"]`, `"effective_permissions":["write:users"]`, `"id":"x"`, `"password_hash":"x"`,
			`"mfa_enabled":true`, `"created_at":"2020-01-01T00:00:00Z"`, `"__proto__":{"roles":["admin"]}`, `"user":{"roles":["admin"]}`,
			`"roles":["user"],"roles":["admin"]`, `"roles":["user"],"Roles":["admin"]`, `"roles":["user"],"\u0072oles":["admin"]`,
		}
		own := append([]string{
			`"disabled":false`, `"DISABLED":true`, `"Disabled":true`, `"Email":"mallory@example.com"`,
			`"email_verified":true`, `"EMAIL_VERIFIED":true`, `"email\u005fverified":true`, `"password":"` + goodPassword + `"`, `"User\u006eame":"x"`,
			`"full_name":"second"`, `"FULL_NAME":"second"`, `"full\u005fname":"second"`, `"fu\u006Cl_name":"second"`,
		}, planted...)
		refused := func(method, path, token, body string) {
			t.Helper()
			r := w.handle(local(method, path, token, body, "Content-Type", "application/json"))
			if r.status != 400 && r.status != 422 {
				t.Errorf("%s %s %s: status %d, want 400 or 422: %.200s", method, path, body, r.status, r.body)
			}
		}
		w.unchanged(t, root, func() {
			for _, m := range own {
				refused("PATCH", "/users/me", adaTokens.access, `{"full_name":"first",`+m+`}`)
				refused("PATCH", "/users/me", adaTokens.access, `{`+m+`,"full_name":"first"}`)
			}
			// A name in the wrong case is not the member, with nothing beside it either.
			for _, m := range []string{`"FULL_NAME":"x"`, `"Username":"x"`, `"Full_name":null`} {
				refused("PATCH", "/users/me", adaTokens.access, `{`+m+`}`)
			}
			for _, m := range append([]string{`"disabled":true`, `"email_verified":true`, `"Email":"x@example.com"`, `"email":"x@example.com"`}, planted...) {
				refused("POST", "/auth/register", "", `{"email":"mallory@example.com","username":"mallory","password":"`+goodPassword+`",`+m+`}`)
			}
			for _, m := range append([]string{`"password":"` + goodPassword + `"`, `"DISABLED":true`, `"Disabled":true`, `"EMAIL":"x@example.com"`, `"disabled":false,"disabled":true`, `"disabled":false,"DISABLED":true`}, planted...) {
				refused("PATCH", "/users/"+ada, root, `{"full_name":"first",`+m+`}`)
				refused("PATCH", "/users/"+ada, root, `{`+m+`}`)
			}
			for _, m := range []string{`"Roles":["admin"]`, `"roles":["user"],"roleſ":["admin"]`, `"disabled":true`, `"permissions":["write:users"]`} {
				refused("POST", "/users", root, `{"email":"mallory@example.com","password":"`+goodPassword+`",`+m+`}`)
			}
			// A list that is not there, or null, is not an empty list.
			for _, body := range []string{`{}`, `{"roles":null}`, `{"Roles":["user"]}`, `null`, `[]`, `{"roles":["user"],"permissions":[]}`} {
				refused("PUT", "/users/"+ada+"/roles", root, body)
			}
			for _, body := range []string{`{}`, `{"permissions":null}`, `null`} {
				refused("PUT", "/users/"+ada+"/permissions", root, body)
			}
			w.form("/token", "grant_type", "password", "username", "mallory", "password", goodPassword).want(t, 401, "invalid_grant")
		})

		// The same done rightly.
		me := w.do("PATCH", "/users/me", adaTokens.access, `{"full_name":"Ada L."}`).want(t, 200, "").json(t)
		if me["full_name"] != "Ada L." || fmt.Sprint(me["roles"]) != "[user]" || me["disabled"] != false {
			t.Errorf("me: %v", me)
		}
		u := w.do("POST", "/auth/register", "", `{"email":"mallory@example.com","username":"mallory","password":"`+goodPassword+`"}`).want(t, 201, "").json(t)
		if fmt.Sprint(u["roles"]) != "[user]" || fmt.Sprint(u["permissions"]) != "[]" || u["email_verified"] != false {
			t.Errorf("registered: %v", u)
		}
		w.do("PATCH", "/users/"+ada, root, `{"disabled":true}`).want(t, 200, "")
		w.do("PUT", "/users/"+ada+"/roles", root, `{"roles":[]}`).want(t, 200, "")
		w.noSecretIn(t)
	})
}

// Nobody gives, takes or touches more than they hold, by whatever route.
func TestA_NobodyAboveOwnRank(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		rootID, rootTokens := w.user("root", "admin")
		root := rootTokens.access
		w.user("other", "admin")
		vic := w.register("vic")
		modID := w.register("mod")
		w.grant(modID, "moderator")
		w.define("assigner", "assign:roles")
		w.define("auditor", "read:audit")
		assigner, assignerTokens := w.user("assigner", "assigner")
		with := func(name string, permissions ...string) tokens {
			id, tk := w.user(name)
			w.permit(id, permissions...)
			return tk
		}
		writer, deleter, maker := with("writer", "write:users"), with("deleter", "delete:users"), with("maker", "write:users", "assign:roles")
		roler := with("roler", "write:roles")
		w.define("rolers", "write:roles")
		w.user("member", "rolers")
		memberToken := w.signIn("member", goodPassword).access
		scoped := w.signIn("root", goodPassword, "scope", "assign:roles write:users delete:users write:roles read:users role:user role:guest").access

		attacks := []struct{ name, method, path, token, body string }{
			{"assign: admin to another", "PUT", "/users/" + vic + "/roles", assignerTokens.access, `{"roles":["user","admin"]}`},
			{"assign: admin to oneself", "PUT", "/users/" + assigner + "/roles", assignerTokens.access, `{"roles":["user","assigner","admin"]}`},
			{"assign: a role not held", "PUT", "/users/" + vic + "/roles", assignerTokens.access, `{"roles":["user","auditor"]}`},
			{"assign: a permission to oneself", "PUT", "/users/" + assigner + "/permissions", assignerTokens.access, `{"permissions":["write:roles"]}`},
			{"assign: a permission to another", "PUT", "/users/" + vic + "/permissions", assignerTokens.access, `{"permissions":["assign:roles","read:audit"]}`},
			{"assign: take from an administrator", "PUT", "/users/" + rootID + "/roles", assignerTokens.access, `{"roles":[]}`},
			{"assign: take from a moderator", "PUT", "/users/" + modID + "/roles", assignerTokens.access, `{"roles":["user"]}`},
			{"assign: permissions of an administrator", "PUT", "/users/" + rootID + "/permissions", assignerTokens.access, `{"permissions":[]}`},
			{"write: address of an administrator", "PATCH", "/users/" + rootID, writer.access, `{"email":"mine@example.com"}`},
			{"write: disable an administrator", "PATCH", "/users/" + rootID, writer.access, `{"disabled":true}`},
			{"write: rename an administrator", "PATCH", "/users/" + rootID, writer.access, `{"username":"gone"}`},
			{"write: change of nothing", "PATCH", "/users/" + rootID, writer.access, `{}`},
			{"write: a moderator", "PATCH", "/users/" + modID, writer.access, `{"disabled":true}`},
			{"delete: an administrator", "DELETE", "/users/" + rootID, deleter.access, ""},
			{"delete: a moderator", "DELETE", "/users/" + modID, deleter.access, ""},
			{"make: an administrator", "POST", "/users", maker.access, `{"email":"m@example.com","password":"` + goodPassword + `","roles":["admin"]}`},
			{"make: a moderator", "POST", "/users", maker.access, `{"email":"m@example.com","password":"` + goodPassword + `","roles":["user","moderator"]}`},
			{"define: user holds more", "PUT", "/roles/user", roler.access, `{"permissions":["read:users"],"includes":["guest"]}`},
			{"define: guest holds more", "PUT", "/roles/guest", roler.access, `{"permissions":["write:users"]}`},
			{"define: moderator loses", "PUT", "/roles/moderator", roler.access, `{}`},
			{"define: a new role holds more", "PUT", "/roles/mine", roler.access, `{"permissions":["read:audit"]}`},
			{"define: a new role includes admin", "PUT", "/roles/mine", roler.access, `{"includes":["admin"]}`},
			{"define: a new role includes another's", "PUT", "/roles/mine", roler.access, `{"includes":["auditor"]}`},
			{"define: one's own role holds more", "PUT", "/roles/rolers", memberToken, `{"permissions":["write:roles","read:audit"]}`},
			{"define: one's own role includes admin", "PUT", "/roles/rolers", memberToken, `{"permissions":["write:roles"],"includes":["admin"]}`},
			{"define: another's role is emptied", "PUT", "/roles/auditor", roler.access, `{}`},
			{"define: another's role is deleted", "DELETE", "/roles/auditor", roler.access, ""},
			{"scoped administrator: gives admin", "PUT", "/users/" + vic + "/roles", scoped, `{"roles":["user","admin"]}`},
			{"scoped administrator: gives what the scope lacks", "PUT", "/users/" + vic + "/permissions", scoped, `{"permissions":["read:audit"]}`},
			{"scoped administrator: takes from itself", "PUT", "/users/" + rootID + "/roles", scoped, `{"roles":["user"]}`},
			{"scoped administrator: disables an administrator", "PATCH", "/users/" + rootID, scoped, `{"disabled":true}`},
			{"scoped administrator: deletes an administrator", "DELETE", "/users/" + rootID, scoped, ""},
			{"scoped administrator: makes an administrator", "POST", "/users", scoped, `{"email":"m@example.com","password":"` + goodPassword + `","roles":["admin"]}`},
			{"scoped administrator: user holds more", "PUT", "/roles/user", scoped, `{"permissions":["read:audit"]}`},
			{"scoped administrator: a role includes admin", "PUT", "/roles/mine", scoped, `{"includes":["admin"]}`},
		}
		for _, a := range attacks {
			t.Run(a.name, func(t *testing.T) {
				w.unchanged(t, root, func() {
					w.handle(local(a.method, a.path, a.token, a.body, "Content-Type", "application/json")).want(t, 403, "above_own_rights")
				})
			})
		}

		// Within one's own rights each of these succeeds.
		w.do("PUT", "/users/"+vic+"/roles", assignerTokens.access, `{"roles":["user","assigner"]}`).want(t, 200, "")
		w.do("PUT", "/users/"+vic+"/roles", assignerTokens.access, `{"roles":["user"]}`).want(t, 200, "")
		w.do("PUT", "/users/"+vic+"/permissions", assignerTokens.access, `{"permissions":["assign:roles"]}`).want(t, 200, "")
		w.do("PUT", "/users/"+vic+"/permissions", scoped, `{"permissions":["read:users"]}`).want(t, 200, "")
		w.do("PUT", "/users/"+vic+"/permissions", scoped, `{"permissions":[]}`).want(t, 200, "")
		w.do("PATCH", "/users/"+vic, writer.access, `{"full_name":"V"}`).want(t, 200, "")
		w.do("POST", "/users", maker.access, `{"email":"m@example.com","password":"`+goodPassword+`","roles":["user"]}`).want(t, 201, "")
		w.do("PUT", "/roles/mine", roler.access, `{"permissions":["write:roles"],"includes":["guest"]}`).want(t, 200, "")
		w.do("PUT", "/roles/rolers", memberToken, `{"permissions":["write:roles"],"description":"same"}`).want(t, 200, "")
		w.do("DELETE", "/users/"+vic, deleter.access, nil).want(t, 204, "")
		w.do("PUT", "/users/"+modID+"/roles", root, `{"roles":["admin"]}`).want(t, 200, "")
		w.events("grants.changed", 1)
		w.noSecretIn(t)
	})
}

// Without assign:roles nobody chooses roles, with the permission to create
// accounts either.
func TestA_CreatingDoesNotAssign(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	id, writer := w.user("writer")
	w.permit(id, "write:users")
	_, root := w.user("root", "admin")
	scoped := w.signIn("root", goodPassword, "scope", "write:users").access
	body := map[string]any{"email": "m@example.com", "password": goodPassword, "roles": []string{"user"}}
	w.unchanged(t, root.access, func() {
		w.do("POST", "/users", writer.access, body).want(t, 403, "insufficient_permission")
		w.do("POST", "/users", scoped, body).want(t, 403, "insufficient_scope")
	})
	delete(body, "roles")
	u := w.do("POST", "/users", writer.access, body).want(t, 201, "").json(t)
	if fmt.Sprint(u["roles"]) != "[user]" {
		t.Errorf("roles %v", u["roles"])
	}
}

// The last administrator cannot go, by any door.
func TestA_LastAdministratorStays(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, root := w.user("root", "admin")
		frozen := w.register("frozen") // a disabled administrator is none
		w.grant(frozen, "admin")
		w.do("PATCH", "/users/"+frozen, root.access, `{"disabled":true}`).want(t, 200, "")
		refused := func(method, path, body string) {
			t.Helper()
			w.handle(local(method, path, root.access, body, "Content-Type", "application/json")).want(t, 409, "last_administrator")
		}
		w.unchanged(t, root.access, func() {
			refused("DELETE", "/users/me", "")
			refused("DELETE", "/users/"+id, "")
			refused("PATCH", "/users/"+id, `{"disabled":true}`)
			refused("PATCH", "/users/"+id, `{"full_name":"x","disabled":true}`)
			refused("PUT", "/users/"+id+"/roles", `{"roles":[]}`)
			refused("PUT", "/users/"+id+"/roles", `{"roles":["user","moderator"]}`)
			w.do("PUT", "/roles/admin", root.access, `{}`).want(t, 409, "builtin_role")
			w.do("DELETE", "/roles/admin", root.access, nil).want(t, 409, "builtin_role")
		})
		if !w.alive(root.access) {
			t.Fatal("the refused deletion ended the session")
		}

		// The same where administration comes through a role of one's own.
		w.do("PUT", "/roles/boss", root.access, `{"includes":["admin"]}`).want(t, 200, "")
		w.do("PUT", "/roles/chief", root.access, `{"includes":["boss"]}`).want(t, 200, "")
		w.do("PUT", "/users/"+id+"/roles", root.access, `{"roles":["chief"]}`).want(t, 200, "")
		w.unchanged(t, root.access, func() {
			refused("PUT", "/roles/boss", `{}`)
			refused("PUT", "/roles/boss", `{"includes":["moderator"]}`)
			refused("PUT", "/roles/chief", `{}`)
			refused("DELETE", "/roles/boss", "")
			refused("DELETE", "/roles/chief", "")
			refused("PUT", "/users/"+id+"/roles", `{"roles":["user"]}`)
			refused("DELETE", "/users/me", "")
		})

		_, second := w.user("second", "admin")
		w.do("PUT", "/roles/boss", second.access, `{}`).want(t, 200, "")
		w.do("GET", "/users", root.access, nil).want(t, 403, "insufficient_permission")
		w.do("DELETE", "/users/"+id, second.access, nil).want(t, 204, "")
		w.events("account.deleted", 1)
	})
}

// Two last administrators cannot both go at once.
func TestA_LastAdministratorStaysInARace(t *testing.T) {
	t.Parallel()
	const rounds = 20
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		type admin struct {
			id    string
			token string
		}
		appoint := func(name string) admin {
			id, tk := w.user(name, "admin")
			return admin{id, tk.access}
		}
		left := appoint("first")
		for round := range rounds {
			other := appoint(fmt.Sprintf("other%d", round))
			pair := [2]admin{left, other}
			send := func(i int) *http.Request {
				me, them := pair[i], pair[1-i]
				switch round % 5 {
				case 0:
					return w.request("DELETE", "/users/me", me.token, nil)
				case 1:
					return w.request("PUT", "/users/"+me.id+"/roles", me.token, `{"roles":[]}`)
				case 2:
					return w.request("PATCH", "/users/"+me.id, me.token, `{"disabled":true}`)
				case 3:
					return w.request("DELETE", "/users/"+them.id, me.token, nil)
				default:
					return w.request("PUT", "/users/"+them.id+"/roles", me.token, `{"roles":["user"]}`)
				}
			}
			requests, status := [2]*http.Request{send(0), send(1)}, [2]int{}
			start := make(chan struct{})
			var wg sync.WaitGroup
			for i := range requests {
				wg.Go(func() {
					<-start
					res, err := http.DefaultClient.Do(requests[i])
					if err != nil {
						t.Error(err)
						return
					}
					res.Body.Close()
					status[i] = res.StatusCode
				})
			}
			close(start)
			wg.Wait()
			won := 0
			for _, s := range status {
				switch s {
				case 200, 204:
					won++
				case 409: // the last one stays
				case 401, 403, 404: // the other was quicker, and had the right taken or the account deleted
				default:
					t.Fatalf("round %d: statuses %v", round, status)
				}
			}
			if won != 1 {
				t.Fatalf("round %d: %d of two went through: %v", round, won, status)
			}
			survivors := 0
			for _, a := range pair {
				if r := w.do("GET", "/users?role=admin&disabled=false", a.token, nil); r.status == 200 {
					survivors++
					left = a
					if n := len(r.json(t)["items"].([]any)); n != 1 {
						t.Fatalf("round %d: %d administrators are left", round, n)
					}
				}
			}
			if survivors != 1 {
				t.Fatalf("round %d: %d of two administer", round, survivors)
			}
		}
	})
}

// However the path or method is written, nothing opens without credentials.
func TestA_AliasesDecideAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	victim, plain := w.user("plain")
	_, mod := w.user("mod", "moderator")
	_, root := w.user("root", "admin")
	paths := []string{
		"/users", "/users/", "//users", "/./users", "/%75sers", "/users%2f", "/users%2F", "/USERS", "/Users", "/users;", "/users;a=b", "/users.json",
		"/users%00", "/users%20", "/users%09", "/x/../users", "/x/%2e%2e/users", "/livez/../users", "/livez/..%2fusers", "/docs/..%2fusers", "/docs/%2e%2e/users",
		"/users?", "/users?limit=1", "/users#x", "/users/.", "/users/%2e", "/%2e/users", "/%2fusers", `/users%5c`, `/%5cusers`,
		"/users/" + victim, "/users/" + victim + "/", "/users//" + victim, "/users/./" + victim, "/users/%2e/" + victim, "/users/x/../" + victim,
		"/users/me", "/users/me/", "/users//me", "/users/%6de", "/users/ME", "/users/me;x", "/users/me%2f", "/users%2fme", "/users/me/../me", "/users/me/.",
		"/users/me/sessions", "/users/me/sessions/", "/users/me//sessions", "/roles", "/roles/", "//roles", "/permissions", "/permissions/",
	}
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "Get", "GETX"}
	headers := [][]string{
		nil,
		{"X-HTTP-Method-Override", "GET"},
		{"X-HTTP-Method", "GET"},
		{"X-Method-Override", "GET"},
		{"X-Original-URL", "/livez"},
		{"X-Rewrite-URL", "/livez"},
		{"X-Forwarded-Prefix", "/livez"},
		{"X-Forwarded-For", "127.0.0.1"},
		{"X-User", "root"},
		{"X-Remote-User", "root"},
		{"X-Forwarded-User", "root"},
	}
	sent := 0
	w.unchanged(t, root.access, func() {
		for _, path := range paths {
			for _, method := range methods {
				for _, extra := range headers {
					if extra != nil && method != "GET" && method != "POST" {
						continue
					}
					for name, token := range map[string]string{"nobody": "", "a plain user": plain.access} {
						if name != "nobody" && (strings.Contains(path, "/me") || strings.Contains(path, "%6de")) {
							continue // theirs
						}
						r := w.handle(local(method, "http://sallyport.test"+path, token, "", extra...))
						sent++
						if r.status < 300 || r.status >= 500 {
							t.Errorf("%s %s %v as %s: status %d", method, path, extra, name, r.status)
						}
						if bytes.Contains(r.body, []byte("plain@example.com")) {
							t.Errorf("%s %s %v as %s tells an address", method, path, extra, name)
						}
						if loc := r.header.Get("Location"); loc != "" && (!strings.HasPrefix(loc, "/") || strings.HasPrefix(loc, "//") || strings.HasPrefix(loc, `/\`)) {
							t.Errorf("%s %s leads away, to %q", method, path, loc)
						}
					}
				}
			}
		}
	})
	if sent < 1000 {
		t.Errorf("only %d requests", sent)
	}
	// HEAD decides as GET does, for everybody.
	for _, op := range w.operations() {
		if op.method != "GET" {
			continue
		}
		for _, token := range []string{"", plain.access, mod.access, root.access} {
			get, head := w.do("GET", op.target(), token, nil), w.do("HEAD", op.target(), token, nil)
			if get.status != head.status || len(head.body) != 0 {
				t.Errorf("%s: GET %d, HEAD %d with %d bytes", op.path, get.status, head.status, len(head.body))
			}
		}
	}
	// A method in a header is no method.
	for _, h := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"} {
		req := w.request("GET", "/users/"+victim, root.access, nil)
		req.Header.Set(h, "DELETE")
		w.send(req).want(t, 200, "")
		if !w.alive(plain.access) {
			t.Fatalf("%s deleted the account", h)
		}
	}
	w.do("GET", "/users/"+victim+"?_method=DELETE", root.access, nil).want(t, 422, "validation_failed")
	w.do("GET", "/users", mod.access, nil).want(t, 200, "")
	w.do("GET", "/%75sers", mod.access, nil).want(t, 200, "")
}

// A change of rights holds at the next request, both ways.
func TestA_EffectAtTheNextRequest(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, rootTokens := w.user("root", "admin")
		root := rootTokens.access
		id, bob := w.user("bob")
		put := func(path, body string) {
			t.Helper()
			w.do("PUT", path, root, body).want(t, 200, "")
		}
		may := func(what string, want bool) {
			t.Helper()
			status, code := 403, "insufficient_permission"
			if want {
				status, code = 200, ""
			}
			r := w.do("GET", "/users", bob.access, nil)
			if r.status != status {
				t.Fatalf("after %s: status %d, want %d", what, r.status, status)
			}
			r.want(t, status, code)
			held := slices.Contains(w.do("GET", "/users/me", bob.access, nil).want(t, 200, "").json(t)["effective_permissions"].([]any), any("read:users"))
			if held != want {
				t.Fatalf("after %s: effective_permissions says %v", what, held)
			}
		}
		may("nothing", false)
		for range 2 {
			put("/users/"+id+"/roles", `{"roles":["user","moderator"]}`)
			may("the grant of a role", true)
			put("/users/"+id+"/roles", `{"roles":["user"]}`)
			may("the revocation of a role", false)
			put("/users/"+id+"/permissions", `{"permissions":["read:users"]}`)
			may("the grant of a permission", true)
			put("/users/"+id+"/permissions", `{"permissions":[]}`)
			may("the revocation of a permission", false)
		}
		put("/roles/inner", `{}`)
		put("/roles/outer", `{"includes":["inner"]}`)
		put("/users/"+id+"/roles", `{"roles":["user","outer"]}`)
		may("an empty role", false)
		for range 2 {
			put("/roles/outer", `{"permissions":["read:users"],"includes":["inner"]}`)
			may("a permission for the role", true)
			put("/roles/outer", `{"includes":["inner"]}`)
			may("taking it from the role", false)
			put("/roles/inner", `{"permissions":["read:users"]}`)
			may("a permission for an included role", true)
			put("/roles/inner", `{}`)
			may("taking it from the included role", false)
		}
		put("/roles/inner", `{"permissions":["read:users"]}`)
		may("a permission for the included role", true)
		w.do("DELETE", "/roles/inner", root, nil).want(t, 204, "")
		may("deleting the included role", false)
		put("/roles/outer", `{"permissions":["read:users"]}`)
		may("a permission for the role", true)
		w.do("DELETE", "/roles/outer", root, nil).want(t, 204, "")
		may("deleting the role", false)
		put("/roles/outer", `{"permissions":["read:users"]}`)
		may("making a role of that name again", false) // the grant is gone with the role

		// A scoped token does not grow or shrink with the scope it was given.
		put("/users/"+id+"/permissions", `{"permissions":["read:users"]}`)
		scoped := w.signIn("bob", goodPassword, "scope", "read:users").access
		w.do("GET", "/users", scoped, nil).want(t, 200, "")
		put("/users/"+id+"/permissions", `{"permissions":[]}`)
		w.do("GET", "/users", scoped, nil).want(t, 403, "insufficient_permission")

		refreshed := w.signIn("bob", goodPassword)
		w.do("PATCH", "/users/"+id, root, `{"disabled":true}`).want(t, 200, "")
		for _, tk := range []string{bob.access, scoped, refreshed.access} {
			if w.alive(tk) {
				t.Fatal("a disabled account's token is accepted")
			}
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": refreshed.refresh}).want(t, 401, "invalid_token")
		w.do("PATCH", "/users/"+id, root, `{"disabled":false}`).want(t, 200, "")
		if w.alive(bob.access) {
			t.Fatal("enabling the account brought an old session back")
		}
		bob = w.signIn("bob", goodPassword)
		may("enabling", false)
		w.do("DELETE", "/users/"+id, root, nil).want(t, 204, "")
		if w.alive(bob.access) {
			t.Fatal("a deleted account's token is accepted")
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": bob.refresh}).want(t, 401, "invalid_token")
		for _, action := range []string{"grants.changed", "role.put", "role.deleted", "account.disabled", "account.enabled", "account.deleted"} {
			w.events(action, 1)
		}
		w.noSecretIn(t)
	})
}

// A role cannot include itself, over however many others.
func TestA_RoleCycles(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, tk := w.user("root", "admin")
		root := tk.access
		for i := range 5 {
			body := `{}`
			if i > 0 {
				body = fmt.Sprintf(`{"includes":["r%d"]}`, i-1)
			}
			w.do("PUT", fmt.Sprintf("/roles/r%d", i), root, body).want(t, 200, "")
		}
		w.unchanged(t, root, func() {
			for _, a := range [][2]string{
				{"r0", `{"includes":["r0"]}`},
				{"r0", `{"includes":["r1"]}`},
				{"r0", `{"includes":["r4"]}`},
				{"r2", `{"includes":["r1","r3"]}`},
				{"new", `{"includes":["new"]}`},
				{"guest", `{"includes":["user"]}`},
				{"guest", `{"includes":["admin"]}`},
				{"user", `{"includes":["guest","r0","user"]}`},
			} {
				r := w.do("PUT", "/roles/"+a[0], root, a[1]).want(t, 422, "validation_failed")
				if !bytes.Contains(r.body, []byte(`"role_cycle"`)) {
					t.Errorf("%v: %s", a, r.body)
				}
			}
		})
		w.do("PUT", "/roles/r0", root, `{"includes":["guest"]}`).want(t, 200, "")
		w.do("PUT", "/roles/r5", root, `{"includes":["r4","r2","r0"]}`).want(t, 200, "")
	})
}

// A name that looks like the one that is needed is another name.
func TestA_ScopesMatchExactly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("root", "admin")
	id, bob := w.user("bob")
	names := []string{"read:user", "read:users2", "READ:USERS", "Read:users", "read", "read:", "read:users:", "read:users:own", "read:users/1", "read.users", "read-users", "read:user.", "write:users", "users:read", "roles:read:users"}
	for _, name := range names {
		if name != "write:users" {
			w.do("PUT", "/permissions/"+url.PathEscape(name), tk.access, `{"description":"similar"}`).want(t, 200, "")
		}
	}
	for _, name := range names {
		scoped := w.signIn("root", goodPassword, "scope", name).access
		r := w.do("GET", "/users", scoped, nil).want(t, 403, "insufficient_scope")
		if c := r.header.Get("Www-Authenticate"); !strings.Contains(c, `error="insufficient_scope"`) || !strings.Contains(c, `scope="read:users"`) {
			t.Errorf("challenge %q", c)
		}
		w.permit(id, name)
		w.do("GET", "/users", bob.access, nil).want(t, 403, "insufficient_permission")
	}
	w.permit(id, names...)
	w.do("GET", "/users", bob.access, nil).want(t, 403, "insufficient_permission")
	for _, bad := range []string{"*", "read:*", "read:users,write:users", "read:users;", "read:users\twrite:users", "read:users  write:users", " read:users", `"read:users"`, "read:users\x00", "réad:users", "read:nothing"} {
		w.form("/token", "grant_type", "password", "username", "root", "password", goodPassword, "scope", bad).want(t, 400, "invalid_scope")
	}
	w.do("GET", "/users", w.signIn("root", goodPassword, "scope", "read:users").access, nil).want(t, 200, "")
	w.do("GET", "/users", w.signIn("root", goodPassword, "scope", "read:user read:users").access, nil).want(t, 200, "")
	w.permit(id, "read:users")
	w.do("GET", "/users", bob.access, nil).want(t, 200, "")
}

// A cursor that was made up, changed, or made for another list opens nothing.
func TestA_ForgedCursor(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, tk := w.user("root", "admin")
		for i := range 3 {
			w.register(fmt.Sprintf("person%d", i))
		}
		page := func(query string) (string, reply) {
			t.Helper()
			r := w.do("GET", "/users?"+query, tk.access, nil).want(t, 200, "")
			next, _ := r.json(t)["next_cursor"].(string)
			return next, r
		}
		good, _ := page("limit=1")
		filtered, _ := page("limit=1&q=person")
		if good == "" || filtered == "" {
			t.Fatal("no next page")
		}
		forged := []string{
			"x", "0", "null", "{}", "-1", "1", "=", "%00", "%ff", "..", "' OR 1=1 --", good + "A", good + "=", good[:len(good)-1], good[1:], strings.ToUpper(good), good + good, good + "%0a", "eyJjIjowLCJpIjoiIn0", strings.Repeat("A", 500), filtered,
		}
		for i := range len(good) {
			if c := good[i]; i%3 == 0 {
				next := byte('A')
				if c == 'A' {
					next = 'B'
				}
				forged = append(forged, good[:i]+string(next)+good[i+1:])
			}
		}
		for _, c := range forged {
			query := url.QueryEscape(c)
			if strings.Contains(c, "%") {
				query = c
			}
			r := w.do("GET", "/users?limit=1&cursor="+query, tk.access, nil)
			if r.status != 400 {
				t.Errorf("cursor %q: status %d: %.200s", c, r.status, r.body)
			}
			if len(c) > 8 && bytes.Contains(r.body, []byte(c)) {
				t.Errorf("cursor %q is repeated", c)
			}
		}
		w.do("GET", "/users?limit=1&q=person&cursor="+good, tk.access, nil).want(t, 400, "invalid_cursor")
		w.do("GET", "/users?limit=1&role=admin&cursor="+good, tk.access, nil).want(t, 400, "invalid_cursor")
		w.do("GET", "/users?limit=1&disabled=true&cursor="+good, tk.access, nil).want(t, 400, "invalid_cursor")
		w.do("GET", "/users?limit=1&cursor="+strings.Repeat("A", 513), tk.access, nil).want(t, 422, "validation_failed")
		// The right one, to the end: everybody once.
		seen := map[any]bool{}
		for cursor, n := "", 0; ; n++ {
			query := "limit=1"
			if cursor != "" {
				query += "&cursor=" + cursor
			}
			next, r := page(query)
			for _, u := range r.json(t)["items"].([]any) {
				seen[u.(map[string]any)["id"]] = true
			}
			if cursor = next; next == "" || n > 10 {
				break
			}
		}
		if len(seen) != 4 {
			t.Errorf("%d accounts over all pages, want 4", len(seen))
		}
	})
}

// panics reports whether f does, and why.
func panics(f func()) (what string) {
	defer func() {
		if p := recover(); p != nil {
			what = fmt.Sprint(p)
		}
	}()
	f()
	return ""
}

// What nobody declared does not exist, and what has no rule cannot be declared.
func TestA_DefaultDeny(t *testing.T) {
	t.Parallel()
	var tk tokens
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("in")) })
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		var deep sallyport.Rule = sallyport.SignedIn()
		for range sallyport.MaxRuleDepth + 1 {
			deep = sallyport.All(deep)
		}
		for name, rule := range map[string]sallyport.Rule{
			"no rule": {}, "public in all": sallyport.All(sallyport.SignedIn(), sallyport.Public()), "public in any": sallyport.Any(sallyport.Role("admin"), sallyport.Public()),
			"public far inside": sallyport.All(sallyport.Any(sallyport.All(sallyport.Public()))), "none in all": sallyport.All(sallyport.SignedIn(), sallyport.Rule{}),
			"empty all": sallyport.All(), "empty any": sallyport.Any(), "no name": sallyport.Permission(""), "a bad name": sallyport.Role("a b"), "fresh of nothing": sallyport.Fresh(0), "too deep": deep,
		} {
			for way, register := range map[string]func(){
				"Handle":     func() { w.mux.Handle("GET /never", rule, ok) },
				"HandleFunc": func() { w.mux.HandleFunc("GET /never", rule, ok) },
				"Require":    func() { w.sv.Require(rule)(ok) },
				"api.Get": func() {
					api.Get(w.sv.API(), "/never", rule, func(context.Context, *api.None) (*api.None, error) { return nil, nil })
				},
			} {
				if panics(register) == "" {
					t.Errorf("%s with %s is accepted", way, name)
				}
			}
		}
		w.mux.Handle("GET /there", sallyport.SignedIn(), ok)
	})
	if panics(func() { w.sv.Routes().Handle("GET /late", sallyport.Public(), ok) }) == "" {
		t.Error("a route could be added to a Mux that has been mounted: it would be forgotten")
	}
	_, tk = w.user("root", "admin")
	for _, token := range []string{"", tk.access} {
		for _, path := range []string{"/never", "/late", "/", "/admin", "/console/", "/users/x/y", "/.well-known/", "/debug/pprof/", "/metrics", "/.git/config", "/docs/x/y"} {
			for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
				if r := w.do(method, path, token, nil); r.status != 404 && r.status != 405 {
					t.Errorf("%s %s: status %d", method, path, r.status)
				}
			}
		}
	}
	w.do("GET", "/there", "", nil).want(t, 401, "unauthenticated")
	if r := w.do("GET", "/there", tk.access, nil).want(t, 200, ""); string(r.body) != "in" {
		t.Errorf("%s", r.body)
	}
}

// A rule that asks for more than a session has says what, and a new sign-in
// gives it.
func TestA_StepUp(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
			w.mux.Handle("GET /fresh", sallyport.Fresh(5*time.Minute), ok)
			w.mux.Handle("GET /mfa", sallyport.MFA(), ok)
			w.mux.Handle("GET /both", sallyport.All(sallyport.Role("admin"), sallyport.MFA(), sallyport.Fresh(time.Minute)), ok)
			w.mux.Handle("GET /either", sallyport.Any(sallyport.MFA(), sallyport.Fresh(time.Minute)), ok)
		})
		_, plain := w.user("plain")
		_, root := w.user("root", "admin")
		strong := func(path, token string, want ...string) {
			t.Helper()
			r := w.do("GET", path, token, nil).want(t, 401, "insufficient_user_authentication")
			challenge := r.header.Get("Www-Authenticate")
			for _, s := range append(want, "Bearer ", `error="insufficient_user_authentication"`) {
				if !strings.Contains(challenge, s) {
					t.Errorf("%s: challenge %q lacks %s", path, challenge, s)
				}
			}
		}
		w.do("GET", "/fresh", plain.access, nil).want(t, 204, "")
		w.do("GET", "/either", plain.access, nil).want(t, 204, "")
		strong("/mfa", plain.access, `acr_values="mfa"`)
		w.do("GET", "/both", plain.access, nil).want(t, 403, "insufficient_permission") // signing in again would not help
		strong("/both", root.access, `acr_values="mfa"`)
		w.do("GET", "/fresh", "", nil).want(t, 401, "unauthenticated")

		w.clock.advance(4 * time.Minute)
		w.do("GET", "/fresh", plain.access, nil).want(t, 204, "")
		w.clock.advance(61 * time.Second)
		strong("/fresh", plain.access, `max_age="300"`)
		strong("/both", root.access, `acr_values="mfa"`, `max_age="60"`)
		if !w.alive(plain.access) {
			t.Fatal("the session is not dead, only old")
		}
		// A refresh is no sign-in.
		next := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": plain.refresh}).want(t, 200, "").text(t, "access_token")
		strong("/fresh", next, `max_age="300"`)
		w.do("GET", "/fresh", w.signIn("plain", goodPassword).access, nil).want(t, 204, "")
		found := false
		for _, e := range w.events("access.denied", 1) {
			found = found || e.Detail["code"] == "insufficient_user_authentication"
		}
		if !found {
			t.Error("no audit event tells of the refusal")
		}
		w.noSecretIn(t)
	})
}

// A scoped credential has a role only by the scope role:NAME, and that scope
// gives the role and not what is in it.
func TestA_RoleScope(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
			w.mux.Handle("GET /admin-only", sallyport.Role("admin"), ok)
		})
		_, root := w.user("root", "admin")
		_, plain := w.user("plain")
		scoped := func(name, scope string) string { return w.signIn(name, goodPassword, "scope", scope).access }
		w.do("GET", "/admin-only", root.access, nil).want(t, 204, "")
		for _, scope := range []string{"read:users", "role:moderator", "role:user write:users"} {
			r := w.do("GET", "/admin-only", scoped("root", scope), nil).want(t, 403, "insufficient_scope")
			if c := r.header.Get("Www-Authenticate"); !strings.Contains(c, `scope="role:admin"`) {
				t.Errorf("scope %s: challenge %q", scope, c)
			}
		}
		full := scoped("root", "role:admin")
		w.do("GET", "/admin-only", full, nil).want(t, 204, "")
		w.do("GET", "/users", full, nil).want(t, 403, "insufficient_scope")
		w.do("GET", "/admin-only", scoped("plain", "role:admin"), nil).want(t, 403, "insufficient_permission")
		w.do("GET", "/admin-only", plain.access, nil).want(t, 403, "insufficient_permission")
		w.form("/token", "grant_type", "password", "username", "root", "password", goodPassword, "scope", "role:nothing").want(t, 400, "invalid_scope")
		w.form("/token", "grant_type", "password", "username", "root", "password", goodPassword, "scope", "role:").want(t, 400, "invalid_scope")
	})
}

// What cannot be checked is not let in.
func TestA_DenyOnError(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /mine", sallyport.SignedIn(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
		}, func(c *server.Config) { c.Lease = 100 * time.Millisecond })
		_, root := w.user("root", "admin")
		_, plain := w.user("plain")
		w.do("GET", "/mine", plain.access, nil).want(t, 204, "")
		ops := w.operations()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		// What is known may be used until the lease is over.
		for began := time.Now(); w.do("GET", "/mine", plain.access, nil).status != 503; {
			if time.Since(began) > 10*time.Second {
				t.Fatal("requests are let in long after the lease")
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, token := range []string{root.access, plain.access} {
			w.do("GET", "/mine", token, nil).want(t, 503, "unavailable")
			for _, op := range ops {
				if string(op.Rule) == `"public"` {
					continue
				}
				code := "unavailable"
				if op.name() == introspection {
					code = "temporarily_unavailable"
				}
				r := w.do(op.method, op.target(), token, nil).want(t, 503, code)
				if r.header.Get("Retry-After") == "" {
					t.Errorf("%s: 503 without Retry-After", op.name())
				}
			}
		}
		w.do("GET", "/mine", "", nil).want(t, 401, "unauthenticated")
		if r := w.form("/token", "grant_type", "password", "username", "plain", "password", goodPassword); r.status != 503 {
			t.Errorf("a sign-in without a database: %d %s", r.status, r.body)
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": plain.refresh}).want(t, 503, "unavailable")
		w.do("POST", "/auth/register", "", map[string]string{"email": "a@example.com", "password": goodPassword}).want(t, 503, "unavailable")
		w.do("GET", "/livez", "", nil).want(t, 200, "")
		w.do("GET", "/readyz", "", nil).want(t, 503, "")
	})
}

// One rule, enforced in three ways, is one decision.
func TestA_OneRuleThreeWays(t *testing.T) {
	t.Parallel()
	rules := []sallyport.Rule{
		sallyport.Public(), sallyport.SignedIn(), sallyport.Unscoped(), sallyport.Permission("read:users"), sallyport.Scope("read:users"), sallyport.Scope("write:items"),
		sallyport.Role("admin"), sallyport.Role("moderator"), sallyport.Role("user"), sallyport.MFA(), sallyport.Fresh(time.Minute), sallyport.Fresh(time.Hour),
		sallyport.All(sallyport.Role("user"), sallyport.Permission("read:users")),
		sallyport.Any(sallyport.Role("admin"), sallyport.Permission("write:users")),
		sallyport.All(sallyport.Any(sallyport.Role("moderator"), sallyport.Permission("assign:roles")), sallyport.Fresh(time.Hour)),
		sallyport.Any(sallyport.All(sallyport.Permission("read:users"), sallyport.MFA()), sallyport.Permission("write:roles")),
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	plainMux := http.NewServeMux()
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		for i, rule := range rules {
			w.mux.Handle(fmt.Sprintf("GET /mux/%d", i), rule, ok)
			api.Get(w.sv.API(), fmt.Sprintf("/typed/%d", i), rule, func(context.Context, *api.None) (*api.None, error) { return nil, nil }, api.Status(204))
			plainMux.Handle(fmt.Sprintf("GET /plain/%d", i), w.sv.Require(rule)(ok))
		}
	})
	guarded, bare := w.sv.Guard(plainMux), http.Handler(plainMux)
	callers := w.callers()
	w.clock.advance(2 * time.Minute)
	for i := range callers {
		callers[i].age = 2 * time.Minute
	}
	met, unmet := 0, 0
	for i, rule := range rules {
		text, err := json.Marshal(rule)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range callers {
			status, code := expectation(decoded(t, text), c)
			if status == 0 {
				status, met = 204, met+1
			} else {
				unmet++
			}
			get := func(h http.Handler, path string) reply {
				rec := httptest.NewRecorder()
				req := local("GET", fmt.Sprintf("%s/%d", path, i), c.token, "")
				if c.key != "" {
					req.Header.Set("X-API-Key", c.key)
				}
				h.ServeHTTP(rec, req)
				return reply{rec.Code, rec.Result().Header, rec.Body.Bytes()}
			}
			for way, r := range map[string]reply{
				"Mux": get(w.http.Config.Handler, "/mux"), "typed": get(w.http.Config.Handler, "/typed"),
				"Require": get(guarded, "/plain"), "Require without Guard": get(bare, "/plain"),
			} {
				got := ""
				if r.status >= 400 {
					got = r.text(t, "code")
				}
				if r.status != status || got != code {
					t.Errorf("%v as %s by %s: %d %s, want %d %s", rule, c.name, way, r.status, got, status, code)
				}
			}
		}
	}
	if met < 50 || unmet < 50 {
		t.Errorf("%d met, %d not: too few to compare", met, unmet)
	}
}
