package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/oauth"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/store/sqlite"
)

// Machine clients and what they use (letters O, J, R and A of the threat list).

// reports adds routes that a machine client may be allowed.
func reports(w *world) {
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
	w.mux.HandleFunc("GET /reports", sallyport.Permission("read:reports"), ok)
	w.mux.HandleFunc("GET /who", sallyport.SignedIn(), ok)
	w.mux.HandleFunc("GET /fresh", sallyport.Fresh(time.Hour), ok)
	w.mux.HandleFunc("GET /machines", sallyport.Via(sallyport.KindClient), ok)
}

// newClientWorld has those routes, and the permissions that they name.
func newClientWorld(t *testing.T, d *db.DB, change ...func(*server.Config)) *world {
	t.Helper()
	w := newWorld(t, d, reports, change...)
	if err := w.sv.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// machine makes a client as the operator would.
func (w *world) machine(scopes []string, roles ...string) oauth.NewClient {
	w.t.Helper()
	c, err := w.sv.Clients.Create(w.t.Context(), role.Operator(), "machine", scopes, roles)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func formOf(fields ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return v
}

// byBasic posts a form with a client's id and secret in the header.
func (w *world) byBasic(path, id, secret string, fields ...string) *http.Request {
	w.t.Helper()
	req := w.typed("POST", path, formType, formOf(fields...).Encode())
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return req
}

// byForm posts them in the body.
func (w *world) byForm(path, id, secret string, fields ...string) *http.Request {
	w.t.Helper()
	return w.typed("POST", path, formType, formOf(append(fields, "client_id", id, "client_secret", secret)...).Encode())
}

// token gets an access token for a client.
func (w *world) token(c oauth.NewClient, more ...string) string {
	w.t.Helper()
	r := w.send(w.byBasic("/token", c.ID, c.Secret, append([]string{"grant_type", "client_credentials"}, more...)...))
	return r.want(w.t, 200, "").text(w.t, "access_token")
}

func (w *world) known(access string) bool {
	w.t.Helper()
	switch r := w.do("GET", "/who", access, nil); r.status {
	case 204:
		return true
	case 401:
		return false
	default:
		w.t.Fatalf("status %d: %s", r.status, r.body)
		return false
	}
}

func (w *world) write(f func(tx *db.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) switchOff(id string, disabled bool) {
	w.t.Helper()
	w.write(func(tx *db.Tx) error { return role.SetDisabled(tx, id, disabled) })
}

// An API key of a machine client is for principals of a program's own, such as prove's:
// it has the client's rights within its scope, and dies with the client.
func TestK_KeyOfAClient(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		c := w.machine([]string{"read:reports", "read:users"})
		in := apikey.NewKey{Owner: c.ID, Name: "own", Scopes: []string{"read:reports"}}
		if _, _, err := w.sv.APIKeys.Create(t.Context(), in); err == nil {
			t.Error("a key was made for a client without a word")
		}
		in.Machine = true
		if _, _, err := w.sv.APIKeys.Create(t.Context(), apikey.NewKey{Owner: c.ID, Machine: true, Name: "own", Scopes: []string{"delete:users"}}); err == nil {
			t.Error("a key was made with a scope that its client does not hold")
		}
		_, key, err := w.sv.APIKeys.Create(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		w.doKeyed("GET", "/reports", key.Reveal(), nil).want(t, 204, "")
		w.doKeyed("GET", "/users", key.Reveal(), nil).want(t, 403, "insufficient_scope")
		w.doKeyed("POST", "/api-keys", key.Reveal(), map[string]any{"name": "more", "scopes": []string{}}).want(t, 403, "credential_not_accepted")
		w.switchOff(c.ID, true)
		w.doKeyed("GET", "/reports", key.Reveal(), nil).want(t, 401, "invalid_token")
		w.switchOff(c.ID, false)
		w.doKeyed("GET", "/reports", key.Reveal(), nil).want(t, 204, "")
		if err := w.sv.Clients.Delete(t.Context(), role.Operator(), c.ID); err != nil {
			t.Fatal(err)
		}
		w.doKeyed("GET", "/reports", key.Reveal(), nil).want(t, 401, "invalid_token")
	})
}

// From nothing to a deleted client.
func TestO_ClientLife(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		rootID, root := w.user("root", "admin")
		w.define("reader", "read:reports")
		made := w.do("POST", "/clients", root.access, map[string]any{"name": "nightly", "scopes": []string{"read:users"}, "roles": []string{"reader"}}).want(t, 201, "")
		m := made.json(t)
		if len(m) != 7 || m["name"] != "nightly" || m["disabled"] != false || fmt.Sprint(m["scopes"], m["roles"]) != "[read:users] [reader]" || made.header.Get("Cache-Control") != "no-store" {
			t.Fatalf("made: %v %v", m, made.header)
		}
		if _, err := time.Parse(time.RFC3339, m["created_at"].(string)); err != nil {
			t.Error(err)
		}
		c := oauth.NewClient{Client: oauth.Client{ID: made.text(t, "client_id")}, Secret: made.text(t, "client_secret")}
		if !strings.HasPrefix(c.Secret, "cs_") || len(c.Secret) != 51 {
			t.Errorf("the secret has another form: %d characters", len(c.Secret))
		}
		bare := w.do("POST", "/clients", root.access, map[string]any{"name": "bare"}).want(t, 201, "").json(t)
		if fmt.Sprint(bare["scopes"], bare["roles"]) != "[] []" {
			t.Errorf("a client was given something by default: %v", bare)
		}

		for what, req := range map[string]*http.Request{
			"Basic":                               w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials"),
			"form":                                w.byForm("/token", c.ID, c.Secret, "grant_type", "client_credentials"),
			"both name the client, one proves it": w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials", "client_id", c.ID),
		} {
			r := w.send(req).want(t, 200, "")
			got := r.json(t)
			if _, there := got["refresh_token"]; there || got["token_type"] != "bearer" || got["expires_in"] != 900.0 || got["scope"] != "" || r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %v", what, got)
			}
			p := payloadOf(t, r.text(t, "access_token"))
			_, amr := p["amr"]
			_, authTime := p["auth_time"]
			if p["sub"] != c.ID || p["client_id"] != c.ID || p["sid"] == nil || amr || authTime || p["exp"].(float64)-p["iat"].(float64) != 900 {
				t.Errorf("%s: claims %v", what, p)
			}
		}
		access := w.token(c)
		w.do("GET", "/reports", access, nil).want(t, 204, "")
		w.do("GET", "/users", access, nil).want(t, 200, "")
		w.do("GET", "/roles", access, nil).want(t, 200, "")
		w.do("DELETE", "/users/"+rootID, access, nil).want(t, 403, "insufficient_permission")
		// Nobody has signed in: what asks for that asks for a person.
		w.do("GET", "/fresh", access, nil).want(t, 401, "insufficient_user_authentication")
		w.do("GET", "/fresh", root.access, nil).want(t, 204, "")
		if n := len(w.do("GET", "/users/me/sessions", access, nil).want(t, 200, "").json(t)["items"].([]any)); n != 4 {
			t.Errorf("%d sessions, want 4", n)
		}

		page := w.do("GET", "/clients?limit=1", root.access, nil).want(t, 200, "")
		if items := page.json(t)["items"].([]any); len(items) != 1 || items[0].(map[string]any)["client_id"] != c.ID || strings.Contains(string(page.body), "secret") {
			t.Errorf("clients: %s", page.body)
		}
		rest := w.do("GET", "/clients?limit=1&cursor="+page.text(t, "next_cursor"), root.access, nil).want(t, 200, "").json(t)
		if items := rest["items"].([]any); len(items) != 1 || rest["next_cursor"] != nil {
			t.Errorf("second page: %v", rest)
		}

		var by string
		if _, err := d.View(t.Context()).Row("SELECT created_by FROM sp_clients WHERE id = $1", []any{c.ID}, &by); err != nil || by != rootID {
			t.Errorf("made by %q, %v", by, err)
		}
		e := w.events("session.started", 1)[0]
		if e.Actor != c.ID || e.ActorKind != "client" {
			t.Errorf("the grant's event: %+v", e)
		}
		w.do("DELETE", "/clients/"+c.ID, root.access, nil).want(t, 204, "")
		w.do("DELETE", "/clients/"+c.ID, root.access, nil).want(t, 404, "not_found")
		w.do("DELETE", "/clients/"+rootID, root.access, nil).want(t, 404, "not_found")
		if w.known(access) {
			t.Error("the token of a deleted client lives")
		}
		w.send(w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials")).want(t, 401, "invalid_client")
		for _, action := range []string{"client.created", "client.deleted"} {
			if e := w.events(action, 1)[0]; e.Target != c.ID && action == "client.deleted" || e.Actor != rootID {
				t.Errorf("%s: %+v", action, e)
			}
		}
		w.noSecretIn(t, c.Secret, access)
	})
}

// Whatever is wrong with a client, at every grant and at every endpoint: one
// answer, and an event that says why.
func TestO_WrongClients(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		w.register("ada")
		good, other := w.machine([]string{"read:reports"}), w.machine(nil)
		disabled, deleted := w.machine([]string{"read:reports"}), w.machine(nil)
		w.switchOff(disabled.ID, true)
		if err := w.sv.Clients.Delete(t.Context(), role.Operator(), deleted.ID); err != nil {
			t.Fatal(err)
		}
		wrong := map[string][2]string{
			"unknown":                 {"0192f3a0-0000-7000-8000-000000000000", good.Secret},
			"wrong secret":            {good.ID, other.Secret},
			"disabled":                {disabled.ID, disabled.Secret},
			"disabled, wrong secret":  {disabled.ID, good.Secret},
			"deleted":                 {deleted.ID, deleted.Secret},
			"no secret of ours":       {good.ID, "hunter22hunter22"},
			"another last character":  {good.ID, good.Secret[:len(good.Secret)-1] + string(good.Secret[len(good.Secret)-1]^1)},
			"cut":                     {good.ID, good.Secret[:len(good.Secret)-4]},
			"longer":                  {good.ID, good.Secret + "AAAA"},
			"a line break":            {good.ID, good.Secret + "\n"},
			"in capitals":             {strings.ToUpper(good.ID), good.Secret},
			"a NUL in the id":         {good.ID + "\x00", good.Secret},
			"an id that is none":      {"ada", goodPassword},
			"first-party":             {"first-party", good.Secret},
			"docs":                    {"docs", good.Secret},
			"its name for its id":     {"machine", good.Secret},
			"the digest for a secret": {good.ID, "cs_" + strings.Repeat("A", 48)},
		}
		requests := func(id, secret string) map[string]*http.Request {
			out := map[string]*http.Request{}
			for grant, fields := range map[string][]string{
				"client_credentials": nil,
				"password":           {"username", "ada", "password", goodPassword},
				"refresh_token":      {"refresh_token", "rt_nonsense"},
				"implicit":           nil,
			} {
				fields = append([]string{"grant_type", grant}, fields...)
				out[grant+" by Basic"] = w.byBasic("/token", id, secret, fields...)
				out[grant+" by form"] = w.byForm("/token", id, secret, fields...)
			}
			out["revoke by Basic"] = w.byBasic("/token/revoke", id, secret, "token", "x")
			out["revoke by form"] = w.byForm("/token/revoke", id, secret, "token", "x")
			return out
		}
		first := w.send(w.byForm("/token", good.ID, other.Secret, "grant_type", "client_credentials")).want(t, 401, "invalid_client")
		if !strings.HasPrefix(first.header.Get("Www-Authenticate"), "Basic ") {
			t.Errorf("challenge %q", first.header.Get("Www-Authenticate"))
		}
		before := w.holdings()
		for what, c := range wrong {
			tr := w.trail()
			for how, req := range requests(c[0], c[1]) {
				alike(t, what+", "+how, tr.send(what+", "+how, req), first)
			}
			tr.audited(audit.SignInRefused, audit.Failure, good.Secret, other.Secret, disabled.Secret, deleted.Secret, goodPassword)
		}
		w.holds(before)
		reasons := map[string]bool{}
		for _, e := range w.events(audit.SignInRefused, 10) {
			reasons[e.Reason] = true
			if e.Actor != "" && e.ActorKind != "client" {
				t.Errorf("event %+v", e)
			}
		}
		for _, want := range []string{"unknown client", "wrong client secret", "the client is disabled", "not a client secret of ours"} {
			if !reasons[want] {
				t.Errorf("no event says %q: %v", want, reasons)
			}
		}
		// The same at the door of introspection, which the gate keeps.
		refused := w.send(w.byBasic("/token/introspect", good.ID, other.Secret, "token", "x")).want(t, 401, "invalid_client")
		for what, c := range wrong {
			alike(t, what, w.send(w.byBasic("/token/introspect", c[0], c[1], "token", "x")), refused)
		}

		if !w.known(w.token(good)) {
			t.Error("the right client is refused")
		}
		w.send(w.byForm("/token/revoke", good.ID, good.Secret, "token", "x")).want(t, 200, "")
		w.switchOff(disabled.ID, false)
		w.token(disabled)
		w.signIn("ada", goodPassword)
	})
}

// What a client may ask for, and what not.
func TestO_ClientGrants(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		_, ada := w.user("ada")
		c := w.machine([]string{"read:reports", "read:users"}, "guest")
		before := w.holdings()
		send := func(fields ...string) reply {
			t.Helper()
			return w.send(w.byBasic("/token", c.ID, c.Secret, fields...))
		}

		// It signs nobody in, and refreshes nobody's tokens.
		send("grant_type", "password", "username", "ada", "password", goodPassword).want(t, 400, "unauthorized_client")
		send("grant_type", "refresh_token", "refresh_token", ada.refresh).want(t, 400, "invalid_grant")
		w.do("POST", "/auth/login", "", map[string]string{"username": c.ID, "password": c.Secret}).want(t, 401, "invalid_credentials")
		w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": goodPassword, "client_id": c.ID, "client_secret": c.Secret}).want(t, 422, "validation_failed")
		w.form("/token", "grant_type", "password", "username", c.ID, "password", c.Secret).want(t, 401, "invalid_grant")
		// It proves itself once.
		w.send(w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials", "client_id", c.ID, "client_secret", c.Secret)).want(t, 400, "invalid_request")
		w.send(w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials", "client_id", w.machine(nil).ID)).want(t, 400, "invalid_request")
		w.send(w.byBasic("/token", c.ID, "", "grant_type", "client_credentials", "client_secret", c.Secret)).want(t, 400, "invalid_request")
		w.form("/token", "grant_type", "client_credentials").want(t, 401, "invalid_client")
		w.form("/token", "grant_type", "client_credentials", "client_id", "docs").want(t, 401, "invalid_client")
		w.form("/token", "grant_type", "client_credentials", "client_id", c.ID).want(t, 401, "invalid_client")
		w.form("/token?client_id="+c.ID, "grant_type", "client_credentials", "client_secret", c.Secret).want(t, 400, "invalid_request")
		two := w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials")
		two.Header.Add("Authorization", two.Header.Get("Authorization"))
		w.send(two).want(t, 400, "invalid_request")
		// It asks for no more than there is, and gets no more than it holds.
		send("grant_type", "client_credentials", "scope", "no:such").want(t, 400, "invalid_scope")
		send("grant_type", "client_credentials", "scope", "a  b").want(t, 400, "invalid_scope")
		w.holds(before)

		for scope, want := range map[string]string{
			"read:reports":              "read:reports",
			"read:reports write:users":  "read:reports",
			"write:users":               "",
			"role:admin role:guest":     "role:guest",
			"read:users read:reports":   "read:users read:reports",
			"read:reports read:reports": "read:reports",
		} {
			r := send("grant_type", "client_credentials", "scope", scope).want(t, 200, "")
			if got := r.text(t, "scope"); got != want {
				t.Errorf("scope %q gave %q, want %q", scope, got, want)
			}
			access := r.text(t, "access_token")
			status := 403
			if slices.Contains(strings.Fields(want), "read:reports") {
				status = 204
			}
			if got := w.do("GET", "/reports", access, nil); got.status != status {
				t.Errorf("scope %q: status %d", scope, got.status)
			}
			if got := w.do("PATCH", "/users/x", access, `{}`); got.status != 403 {
				t.Errorf("scope %q: writes accounts: %d", scope, got.status)
			}
		}
		if !w.alive(w.refresh(ada).access) {
			t.Error("the person's session did not go on")
		}
		w.noSecretIn(t, c.Secret)
	})
}

// Credentials of one kind never work as another.
func TestJ_ClientCrossings(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		_, ada := w.user("ada")
		c := w.machine([]string{"read:reports", "introspect:tokens"})
		access := w.token(c)
		forged := w.do("GET", "/who", "x.y.z", nil).want(t, 401, "invalid_token")
		for what, cred := range map[string]string{
			"client secret": c.Secret, "client id": c.ID, "both": c.ID + ":" + c.Secret, "session id": payloadOf(t, access)["sid"].(string),
			"without prefix": strings.TrimPrefix(c.Secret, "cs_"),
		} {
			alike(t, what, w.do("GET", "/who", cred, nil), forged)
		}
		for what, cred := range map[string]string{"access token": access, "person's refresh token": ada.refresh, "person's access token": ada.access, "id": c.ID} {
			w.send(w.byBasic("/token", c.ID, cred, "grant_type", "client_credentials")).want(t, 401, "invalid_client")
			w.send(w.byBasic("/token/introspect", c.ID, cred, "token", "x")).want(t, 401, "invalid_client")
			_ = what
		}
		for _, cred := range []string{access, c.Secret, c.ID} {
			w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": cred}).want(t, 401, "invalid_token")
			w.send(w.byBasic("/token", c.ID, c.Secret, "grant_type", "refresh_token", "refresh_token", cred)).want(t, 400, "invalid_grant")
		}
		// A client's own secret counts where a rule names it, and nowhere else.
		for path, status := range map[string]int{"/reports": 401, "/who": 401, "/users/me": 401, "/machines": 204} {
			req := w.request("GET", path, "", nil)
			req.SetBasicAuth(c.ID, c.Secret)
			if r := w.send(req); r.status != status {
				t.Errorf("GET %s with the secret: status %d, want %d: %s", path, r.status, status, r.body)
			}
		}
		w.do("GET", "/machines", access, nil).want(t, 403, "credential_not_accepted")
		req := w.request("GET", "/machines", "", nil)
		req.SetBasicAuth("ada", goodPassword)
		w.send(req).want(t, 401, "invalid_token")
		if !w.known(access) || !w.alive(ada.access) {
			t.Error("a genuine token is refused")
		}
	})
}

// What a client loses, its tokens and its secret lose at the next request.
func TestO_DemotedClient(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		c := w.machine([]string{"read:reports"}, "user")
		access, scoped := w.token(c), w.token(c, "scope", "read:reports")
		knock := func() int {
			req := w.request("GET", "/machines", "", nil)
			req.SetBasicAuth(c.ID, c.Secret)
			return w.send(req).status
		}
		for range 2 { // from the database, and from memory
			w.do("GET", "/reports", access, nil).want(t, 204, "")
			w.do("GET", "/reports", scoped, nil).want(t, 204, "")
			if knock() != 204 {
				t.Fatal("the secret is refused")
			}
		}
		w.permit(c.ID)
		w.do("GET", "/reports", access, nil).want(t, 403, "insufficient_permission")
		w.do("GET", "/reports", scoped, nil).want(t, 403, "insufficient_permission")
		w.permit(c.ID, "read:reports")
		w.do("GET", "/reports", scoped, nil).want(t, 204, "")
		w.switchOff(c.ID, true)
		if w.known(access) || w.known(scoped) || knock() != 401 {
			t.Error("a disabled client goes on")
		}
		w.switchOff(c.ID, false)
		if !w.known(access) || knock() != 204 {
			t.Error("an enabled client is refused")
		}
		w.clock.advance(16 * time.Minute)
		if w.known(access) {
			t.Error("an expired token lives")
		}
		if next := w.token(c); !w.known(next) {
			t.Error("the next token is refused")
		}
		if err := w.sv.Clients.Delete(t.Context(), role.Operator(), c.ID); err != nil {
			t.Fatal(err)
		}
		if knock() != 401 {
			t.Error("the secret of a deleted client is good")
		}
	})
}

// A client is no account: nothing about accounts shows it or changes it, not
// even when it asks itself.
func TestA_ClientsAreNoAccounts(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		_, root := w.user("root", "admin")
		c := w.machine(nil, "admin")
		access := w.token(c)
		none := w.do("GET", "/users/01890000-0000-7000-8000-000000000000", root.access, nil).want(t, 404, "not_found")
		for _, token := range []string{root.access, access} {
			for _, r := range []struct{ method, path, body string }{
				{"GET", "/users/" + c.ID, ""},
				{"PATCH", "/users/" + c.ID, `{"disabled":true}`},
				{"DELETE", "/users/" + c.ID, ""},
				{"PUT", "/users/" + c.ID + "/roles", `{"roles":[]}`},
				{"PUT", "/users/" + c.ID + "/permissions", `{"permissions":["read:users"]}`},
			} {
				var body any
				if r.body != "" {
					body = r.body
				}
				got := w.do(r.method, r.path, token, body).want(t, 404, "not_found")
				if got.text(t, "detail") != none.text(t, "detail") {
					t.Errorf("%s %s: %s", r.method, r.path, got.body)
				}
			}
		}
		w.do("GET", "/users/me", access, nil).want(t, 404, "not_found")
		w.do("PATCH", "/users/me", access, `{"full_name":"M"}`).want(t, 404, "not_found")
		w.do("DELETE", "/users/me", access, nil).want(t, 401, "insufficient_user_authentication") // nobody signed in
		w.do("PUT", "/users/me/password", access, map[string]string{"current_password": c.Secret, "new_password": goodPassword + "2"}).want(t, 404, "not_found")
		for _, q := range []string{"", "?role=admin", "?q=machine"} {
			if r := w.do("GET", "/users"+q, root.access, nil).want(t, 200, ""); strings.Contains(string(r.body), c.ID) {
				t.Errorf("GET /users%s shows the client", q)
			}
		}
		if !w.known(access) {
			t.Fatal("the client did not survive")
		}
		w.do("POST", "/logout", access, nil).want(t, 200, "")
		if w.known(access) {
			t.Error("a client cannot end its session")
		}
		w.token(c)
	})
}

// Nobody gives a client more than they hold, or takes one away that holds more.
func TestA_ClientsHoldNoMoreThanTheirMaker(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		rootID, root := w.user("root", "admin")
		w.define("maker", "write:clients", "read:reports")
		w.define("auditor", "read:audit")
		_, maker := w.user("maker", "maker")
		_, plain := w.user("plain")
		great := w.machine(nil, "admin")
		create := func(token string, scopes, roles []string) reply {
			t.Helper()
			return w.do("POST", "/clients", token, map[string]any{"name": "n", "scopes": scopes, "roles": roles})
		}
		none := []string{}
		w.unchanged(t, root.access, func() {
			create(plain.access, none, none).want(t, 403, "insufficient_permission")
			create("", none, none).want(t, 401, "unauthenticated")
			create(maker.access, []string{"read:audit"}, none).want(t, 403, "above_own_rights")
			create(maker.access, []string{"read:reports", "assign:roles"}, none).want(t, 403, "above_own_rights")
			create(maker.access, none, []string{"admin"}).want(t, 403, "above_own_rights")
			create(maker.access, none, []string{"auditor"}).want(t, 403, "above_own_rights")
			if r := create(maker.access, []string{"no:such"}, none).want(t, 422, "validation_failed"); !strings.Contains(string(r.body), `"/scopes/0"`) {
				t.Errorf("the place is not told: %s", r.body)
			}
			create(maker.access, none, []string{"no-such"}).want(t, 422, "validation_failed")
			for _, name := range []string{"", " ", "a\nb", strings.Repeat("é", 101)} {
				w.do("POST", "/clients", root.access, map[string]any{"name": name}).want(t, 422, "validation_failed")
			}
			for _, body := range []string{`{}`, `{"name":"n","client_id":"x"}`, `{"name":"n","client_secret":"x"}`, `{"name":"n","Roles":["admin"]}`} {
				w.do("POST", "/clients", root.access, body).want(t, 422, "validation_failed")
			}
			w.do("DELETE", "/clients/"+great.ID, maker.access, nil).want(t, 403, "above_own_rights")
			w.do("DELETE", "/clients/"+great.ID, plain.access, nil).want(t, 403, "insufficient_permission")
		})
		if n := len(w.do("GET", "/clients", root.access, nil).want(t, 200, "").json(t)["items"].([]any)); n != 1 {
			t.Fatalf("%d clients after nothing but refusals, want 1", n)
		}
		// A credential that is limited gives no more than its scope.
		limited := w.signIn("root", goodPassword, "scope", "write:clients").access
		create(limited, []string{"read:reports"}, none).want(t, 403, "above_own_rights")
		own := create(limited, []string{"write:clients"}, none).want(t, 201, "").text(t, "client_id")
		mine := create(maker.access, []string{"read:reports"}, []string{"maker", "user"}).want(t, 201, "")
		made := oauth.NewClient{Client: oauth.Client{ID: mine.text(t, "client_id")}, Secret: mine.text(t, "client_secret")}

		// Nor does a client itself.
		access := w.token(made)
		create(access, none, []string{"admin"}).want(t, 403, "above_own_rights")
		w.do("DELETE", "/clients/"+great.ID, access, nil).want(t, 403, "above_own_rights")
		w.do("DELETE", "/clients/"+own, access, nil).want(t, 204, "")
		child := create(access, []string{"read:reports"}, none).want(t, 201, "").text(t, "client_id")
		w.do("DELETE", "/clients/"+made.ID, access, nil).want(t, 204, "")
		if w.known(access) {
			t.Error("a client that deleted itself lives")
		}
		w.do("DELETE", "/clients/"+child, root.access, nil).want(t, 204, "")

		// A client that may do everything is nobody who administers.
		w.do("DELETE", "/users/me", root.access, nil).want(t, 409, "last_administrator")
		w.do("PUT", "/users/"+rootID+"/roles", w.token(great), map[string]any{"roles": []string{}}).want(t, 409, "last_administrator")
		w.do("DELETE", "/clients/"+great.ID, root.access, nil).want(t, 204, "")
		w.register("second")
		second := w.signIn("second", goodPassword)
		w.grant(payloadOf(t, second.access)["sub"].(string), "admin")
		w.do("DELETE", "/users/me", root.access, nil).want(t, 204, "")
	})
}

// There are at most 1,000 clients, and a client has at most 5,000 live sessions.
func TestO_ClientBounds(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		_, root := w.user("root", "admin")
		c := w.machine([]string{"read:reports"})
		now := db.Micros(w.clock.now())
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 998)
				INSERT INTO sp_subjects (id, kind, disabled, version, created_at) SELECT 'c' || i, 'client', FALSE, 1, 1 FROM n`)
			return err
		})
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO sp_clients (id, name, secret, created_at, created_by) SELECT id, 'n', $1, 1, '' FROM sp_subjects WHERE created_at = 1", []byte{1})
			return err
		})
		// 4,999 that live, and as many that have expired, unended.
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9998)
				INSERT INTO sp_sessions (id, subject_id, client_id, scoped, scope, amr, mfa, auth_time, created_at, last_used_at, idle_until,
					expires_at, ended_at, end_reason, address, user_agent, generation, refresh, refreshed_at)
				SELECT 's' || i, $1, $1, FALSE, '', '', FALSE, 0, at, at, at + 900000000, at + 900000000, 0, '', '', '', 0, $3, at
				FROM (SELECT i, CAST($2 AS BIGINT) - CASE WHEN i <= 4999 THEN 60000000 ELSE 1800000000 END + i AS at FROM n) x`, c.ID, now, []byte{})
			return err
		})
		ended := func() (n int) {
			if _, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_sessions WHERE ended_at <> 0", nil, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		first := w.token(c)
		if n := ended(); n != 0 {
			t.Errorf("%d sessions ended at the bound", n)
		}
		if !w.known(w.token(c)) || !w.known(first) || ended() != 1 {
			t.Errorf("%d sessions ended beyond the bound, want the oldest", ended())
		}
		w.do("POST", "/clients", root.access, map[string]any{"name": "the last"}).want(t, 201, "")
		w.do("POST", "/clients", root.access, map[string]any{"name": "one more"}).want(t, 409, "too_many_clients")
		w.do("DELETE", "/clients/"+c.ID, root.access, nil).want(t, 204, "")
		w.do("POST", "/clients", root.access, map[string]any{"name": "one more"}).want(t, 201, "")
	})
}

// introspected asks as a client that may.
func (w *world) introspected(as oauth.NewClient, token string, more ...string) reply {
	w.t.Helper()
	return w.send(w.byBasic("/token/introspect", as.ID, as.Secret, append([]string{"token", token}, more...)...))
}

// What each kind of token stands for.
func TestO_Introspection(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		asks := w.machine([]string{"introspect:tokens"})
		w.define("reader", "read:reports")
		id, ada := w.user("ada", "moderator")
		w.permit(id, "read:reports")
		_, root := w.user("root", "admin")
		limited := w.signIn("ada", goodPassword, "scope", "read:users", "client_id", "docs")
		c := w.machine([]string{"read:users"}, "reader")
		access := w.token(c, "scope", "read:users")

		ask := func(token string, more ...string) map[string]any {
			t.Helper()
			var last reply
			for range 2 { // from the database, and from memory
				last = w.introspected(asks, token, more...).want(t, 200, "")
			}
			if last.header.Get("Cache-Control") != "no-store" || last.header.Get("Content-Type") != "application/json" {
				t.Errorf("headers: %v", last.header)
			}
			return last.json(t)
		}
		is := func(what string, got map[string]any, want map[string]any) {
			t.Helper()
			for name, v := range want {
				if g, _ := json.Marshal(got[name]); v == nil && got[name] != nil || v != nil && string(g) != part2(v) {
					t.Errorf("%s: %s is %s, want %v", what, name, g, v)
				}
			}
			for name := range got {
				if _, known := want[name]; !known {
					t.Errorf("%s: unexpected %s", what, name)
				}
			}
		}
		p := payloadOf(t, ada.access)
		common := func(more ...any) map[string]any {
			return change(map[string]any{
				"active": true, "token_type": "bearer", "client_id": "first-party", "username": "ada", "sub": id, "iss": baseURL, "aud": baseURL,
				"exp": p["exp"], "sid": p["sid"], "auth_time": p["auth_time"], "amr": []string{"pwd"}, "mfa": false,
				"roles": []string{"guest", "moderator", "user"}, "permissions": []string{"read:reports", "read:users"}, "all_permissions": false,
			}, more...)
		}
		for _, hint := range []string{"access_token", "refresh_token", "nonsense"} {
			is("access token", ask(ada.access, "token_type_hint", hint), common())
		}
		got := ask(ada.refresh)
		is("refresh token", got, common("token_type", "refresh_token", "exp", got["exp"], "iat", got["iat"]))
		if days := (got["exp"].(float64) - float64(time.Now().Unix())) / 86400; days < 13 || days > 15 {
			t.Errorf("the refresh token expires in %v days", days)
		}
		p = payloadOf(t, limited.access)
		is("limited access token", ask(limited.access), common("scope", "read:users", "client_id", "docs"))
		got = ask(limited.refresh)
		is("limited refresh token", got, common("scope", "read:users", "client_id", "docs", "token_type", "refresh_token", "exp", got["exp"], "iat", got["iat"]))
		p = payloadOf(t, access)
		is("client's token", ask(access), map[string]any{
			"active": true, "token_type": "bearer", "scope": "read:users", "client_id": c.ID, "sub": c.ID, "iss": baseURL, "aud": baseURL,
			"exp": p["exp"], "sid": p["sid"], "amr": []string{}, "mfa": false, "roles": []string{"reader"}, "permissions": []string{"read:reports", "read:users"}, "all_permissions": false,
		})
		if got := ask(root.access); got["all_permissions"] != true {
			t.Errorf("administrator: %v", got)
		}
		if got := ask(w.signIn("root", goodPassword, "scope", "no:such write:users"[8:]).access); got["scope"] != "write:users" {
			t.Errorf("administrator, limited: %v", got)
		}

		// What has changed is seen at the next question.
		w.permit(id)
		if got := ask(ada.access); fmt.Sprint(got["permissions"]) != "[read:users]" {
			t.Errorf("after a permission was taken: %v", got)
		}
		// Asking rotates nothing.
		again := w.refresh(ada)
		if got := ask(ada.refresh); len(got) != 1 || got["active"] != false {
			t.Errorf("a refresh token that was used: %v", got)
		}
		w.clock.advance(time.Minute)
		ask(ada.refresh)
		if !w.alive(again.access) {
			t.Error("asking about a used refresh token ended its session")
		}
		w.refresh(again)
	})
}

func part2(v any) string { b, _ := json.Marshal(v); return string(b) }

// Whatever is wrong with a token, the answer is the same to the byte.
func TestO_IntrospectionOfDeadTokens(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		asks := w.machine([]string{"introspect:tokens"})
		_, root := w.user("root", "admin")
		dead := map[string]string{
			"nonsense": "nonsense", "a blank": " ", "long": strings.Repeat("A", 30000), "NUL": "a\x00b", "not ours": "eyJhbGciOiJub25lIn0.e30.", "an API key": "sp_0123456789",
			"refresh nonsense": "rt_nonsense", "opaque": "at_nonsense", "its own secret": asks.Secret, "its own id": asks.ID,
		}
		pair := func(what string, tk tokens) {
			dead[what+", access"], dead[what+", refresh"] = tk.access, tk.refresh
			for _, text := range []string{tk.access, tk.refresh} {
				if got := w.introspected(asks, text).want(t, 200, "").json(t); got["active"] != true {
					t.Fatalf("%s: %v while it lives", what, got)
				}
			}
		}
		_, out := w.user("out")
		pair("signed out", out)
		w.do("POST", "/logout", out.access, nil).want(t, 200, "")
		id, dis := w.user("dis")
		pair("disabled", dis)
		w.do("PATCH", "/users/"+id, root.access, `{"disabled":true}`).want(t, 200, "")
		id, del := w.user("del")
		pair("deleted", del)
		w.do("DELETE", "/users/"+id, root.access, nil).want(t, 204, "")
		_, used := w.user("used")
		pair("reused", used)
		w.refresh(used)
		w.clock.advance(11 * time.Second)
		w.send(w.refreshRequests(used.refresh)["/token"])
		_, old := w.user("old")
		pair("expired", old)
		c := w.machine([]string{"read:reports"})
		dead["deleted client's"] = w.token(c)
		if err := w.sv.Clients.Delete(t.Context(), role.Operator(), c.ID); err != nil {
			t.Fatal(err)
		}
		c = w.machine([]string{"read:reports"})
		dead["disabled client's"] = w.token(c)
		w.switchOff(c.ID, true)
		good := w.signIn("old", goodPassword)
		forged := []byte(good.access)
		forged[len(forged)-10] ^= 1
		dead["forged"] = string(forged)
		w.clock.advance(15 * 24 * time.Hour)
		good = w.signIn("old", goodPassword)
		before := w.holdings()
		first := w.introspected(asks, "nonsense").want(t, 200, "")
		if string(first.body) != `{"active":false}` {
			t.Fatalf("the answer is %s", first.body)
		}
		for what, text := range dead {
			for _, hint := range []string{"", "access_token", "refresh_token", "x"} {
				alike(t, what, w.introspected(asks, text, "token_type_hint", hint), first)
			}
		}
		w.holds(before)
		pair("good", good)
		w.noSecretIn(t, asks.Secret)
	})
}

// Who may ask, and in what form a refusal is.
func TestO_WhoMayIntrospect(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d, func(c *server.Config) { c.Lease = 50 * time.Millisecond })
		id, ada := w.user("ada")
		may, mayNot := w.machine([]string{"introspect:tokens"}), w.machine([]string{"read:users"}, "moderator")
		bearer := func(access string, fields ...string) reply {
			t.Helper()
			req := w.typed("POST", "/token/introspect", formType, formOf(fields...).Encode())
			if access != "" {
				req.Header.Set("Authorization", "Bearer "+access)
			}
			return w.send(req)
		}
		refused := func(r reply, status int, code string) {
			t.Helper()
			m := r.want(t, status, code).json(t)
			want := 2
			if status == 403 { // names the decision
				want = 3
			}
			if len(m) != want || (m["decision_id"] != nil) != (status == 403) || m["error_description"] == "" || r.header.Get("Content-Type") != "application/json" || r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("not in OAuth's form: %v %v", m, r.header)
			}
			if challenge := strings.Join(r.header["Www-Authenticate"], ", "); (status == 401) != strings.Contains(challenge, "Basic ") {
				t.Errorf("%d with challenge %q", status, challenge)
			}
		}
		refused(bearer("", "token", ada.access), 401, "invalid_client")
		refused(w.form("/token/introspect", "token", ada.access, "client_id", may.ID, "client_secret", may.Secret), 401, "invalid_client")
		refused(bearer("x.y.z", "token", ada.access), 401, "invalid_token")
		// Not even about oneself.
		refused(bearer(ada.access, "token", ada.access), 403, "access_denied")
		refused(w.introspected(mayNot, ada.access), 403, "access_denied")
		refused(w.introspected(mayNot, w.token(mayNot)), 403, "access_denied")
		refused(bearer(w.token(mayNot), "token", ada.access), 403, "access_denied")
		refused(w.introspected(may, ""), 400, "invalid_request")
		refused(w.send(w.byBasic("/token/introspect?token=x", may.ID, may.Secret, "token", "x")), 400, "invalid_request")
		refused(w.send(w.byBasic("/token/introspect", may.ID, may.Secret, "token", strings.Repeat("x", 70_000))), 413, "invalid_request")
		twice := w.typed("POST", "/token/introspect", formType, "token=x&token=y")
		twice.SetBasicAuth(may.ID, may.Secret)
		refused(w.send(twice), 400, "invalid_request")
		odd := w.typed("POST", "/token/introspect", formType, "token=x")
		odd.Header.Set("Authorization", "Basic !")
		refused(w.send(odd), 400, "invalid_request")
		asJSON := w.request("POST", "/token/introspect", "", `{"token":"x"}`)
		asJSON.SetBasicAuth(may.ID, may.Secret)
		refused(w.send(asJSON), 415, "invalid_request")

		w.permit(id, "introspect:tokens")
		bearer(ada.access, "token", ada.access).want(t, 200, "")
		narrow := w.signIn("ada", goodPassword, "scope", "read:users").access
		r := bearer(narrow, "token", ada.access).want(t, 403, "insufficient_scope")
		if !strings.Contains(r.header.Get("Www-Authenticate"), `scope="introspect:tokens"`) {
			t.Errorf("challenge %q", r.header.Get("Www-Authenticate"))
		}
		bearer(w.signIn("ada", goodPassword, "scope", "introspect:tokens").access, "token", ada.access).want(t, 200, "")
		bearer(w.token(may), "token", w.token(mayNot), "unknown", "ignored").want(t, 200, "")
		w.introspected(may, ada.access).want(t, 200, "")
		w.permit(may.ID)
		refused(w.introspected(may, ada.access), 403, "access_denied")
		w.permit(may.ID, "introspect:tokens")
		w.introspected(may, ada.access).want(t, 200, "")

		// Without a database nothing is active, and nothing is said not to be.
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		for _, text := range []string{ada.access, ada.refresh, "nonsense", "rt_nonsense"} {
			r := w.introspected(may, text).want(t, 503, "temporarily_unavailable")
			if r.header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		}
		w.send(w.byBasic("/token", may.ID, may.Secret, "grant_type", "client_credentials")).want(t, 503, "temporarily_unavailable")
	})
}

// Giving a token back ends its session, at once, everywhere and for good.
func TestR_Revoke(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w, other := pair(t, d)
		_, bystander := w.user("bob")
		w.register("ada")
		revoke := func(text string, more ...string) *http.Request {
			return w.typed("POST", "/token/revoke", formType, formOf(append([]string{"token", text}, more...)...).Encode())
		}
		for what, which := range map[string]func(tk, next tokens) string{
			"access":            func(_, next tokens) string { return next.access },
			"refresh":           func(_, next tokens) string { return next.refresh },
			"refresh, replaced": func(tk, _ tokens) string { return tk.refresh },
			"access, earlier":   func(tk, _ tokens) string { return tk.access },
		} {
			for _, hint := range []string{"", "access_token", "refresh_token", "x"} {
				tk := w.signIn("ada", goodPassword)
				next := w.refresh(tk)
				if !other.alive(next.access) {
					t.Fatal("another node does not know the session")
				}
				tr := w.trail()
				if r := tr.send(what, revoke(which(tk, next), "token_type_hint", hint)).want(t, 200, ""); len(r.body) != 0 || r.header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %s %v", what, r.body, r.header)
				}
				tr.audited("session.ended", audit.Success, tk.access, tk.refresh, next.access, next.refresh)
				if e := w.events("session.ended", 1)[0]; e.Reason != "token revoked" {
					t.Errorf("event %+v", e)
				}
				w.dead(what, next)
				w.dead(what, tk)
				if d.Dialect() == db.Postgres {
					time.Sleep(750 * time.Millisecond) // the lease
				}
				other.dead(what+", at another node", next)
				// Dead already, and no error.
				events := len(w.events("session.ended", 0))
				w.send(revoke(next.access)).want(t, 200, "")
				w.send(revoke(next.refresh)).want(t, 200, "")
				if n := len(w.events("session.ended", 0)); n != events {
					t.Errorf("%s: %d events for nothing", what, n-events)
				}
				if testing.Short() || d.Dialect() == db.Postgres {
					break
				}
			}
		}
		before := w.holdings()
		for _, text := range []string{"nonsense", "rt_nonsense", "at_nonsense", "x.y.z", "a\x00b", bystander.access + "x", bystander.refresh + "x", strings.Repeat("A", 60_000)} {
			w.send(revoke(text)).want(t, 200, "")
		}
		for what, c := range map[string]struct {
			req    *http.Request
			status int
			code   string
		}{
			"API key":     {revoke("sp_0123456789"), 400, "unsupported_token_type"},
			"nothing":     {revoke(""), 400, "invalid_request"},
			"twice":       {w.typed("POST", "/token/revoke", formType, "token=a&token=b"), 400, "invalid_request"},
			"address":     {w.typed("POST", "/token/revoke?token="+bystander.access, formType, "token="+bystander.access), 400, "invalid_request"},
			"JSON":        {w.request("POST", "/token/revoke", "", map[string]string{"token": bystander.access}), 415, "invalid_request"},
			"large":       {revoke(strings.Repeat("A", 70_000)), 413, "invalid_request"},
			"a client":    {revoke(bystander.access, "client_id", "somebody"), 401, "invalid_client"},
			"many fields": {w.typed("POST", "/token/revoke", formType, "token=a"+strings.Repeat("&x=", 2)), 400, "invalid_request"},
		} {
			r := w.send(c.req)
			if r.status != c.status || r.json(t)["error"] != c.code {
				t.Errorf("%s: %d %s", what, r.status, r.body)
			}
			quiet(t, what, r, bystander.access)
		}
		w.holds(before)
		// A dead credential in the header does not keep anybody from giving up another.
		_, carol := w.user("carol")
		req := revoke(carol.access, "unknown", "ignored", "client_id", "docs")
		req.Header.Set("Authorization", "Bearer x.y.z")
		w.send(req).want(t, 200, "")
		w.dead("with a dead credential beside it", carol)
		if !w.alive(bystander.access) || !w.alive(w.refresh(bystander).access) {
			t.Error("another session died")
		}
	})
}

// A client's token is given back by that client and nobody else; a key that was
// retired proves nothing.
func TestO_RevokeByClient(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		_, ada := w.user("ada")
		c, thief := w.machine([]string{"read:reports"}), w.machine([]string{"read:reports"})
		access, second := w.token(c), w.token(c)
		before := w.holdings()
		form := func(fields ...string) reply { t.Helper(); return w.form("/token/revoke", fields...) }
		form("token", access).want(t, 401, "invalid_client")
		form("token", access, "client_id", "docs").want(t, 401, "invalid_client")
		form("token", access, "client_id", c.ID).want(t, 401, "invalid_client")
		form("token", access, "client_id", c.ID, "client_secret", thief.Secret).want(t, 401, "invalid_client")
		w.send(w.byBasic("/token/revoke", thief.ID, thief.Secret, "token", access)).want(t, 400, "invalid_grant")
		w.holds(before)
		if !w.known(access) {
			t.Fatal("somebody else ended the session")
		}
		w.send(w.byBasic("/token/revoke", c.ID, c.Secret, "token", access)).want(t, 200, "")
		if w.known(access) || !w.known(second) {
			t.Error("the token lives, or another one died")
		}
		w.send(w.byForm("/token/revoke", c.ID, c.Secret, "token", second, "token_type_hint", "refresh_token")).want(t, 200, "")
		if w.known(second) {
			t.Error("the token lives")
		}
		w.token(c)

		old := w.rotateKeys()
		_ = old
		w.retireKeys()
		form("token", ada.access).want(t, 200, "")
		if fresh := w.refresh(ada); !w.alive(fresh.access) {
			t.Error("a token of a retired key ended a session")
		} else {
			form("token", fresh.access).want(t, 200, "")
			w.dead("first-party's", fresh)
		}
	})
}

// What was revoked is dead after the database is opened anew.
func TestR_RevokedStaysAfterReopening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *db.DB {
		d, err := sqlite.Open(filepath.Join(dir, "s.db"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	key := func(c *server.Config) { c.MasterKeyFile = filepath.Join(dir, "master.key") }
	d := open()
	w := newClientWorld(t, d, key)
	_, ada := w.user("ada")
	stays := w.signIn("ada", goodPassword)
	c := w.machine([]string{"read:reports"})
	access, kept := w.token(c), w.token(c)
	w.form("/token/revoke", "token", ada.access).want(t, 200, "")
	w.send(w.byBasic("/token/revoke", c.ID, c.Secret, "token", access)).want(t, 200, "")
	w.http.Close()
	w.sv.Close()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open()
	defer d.Close()
	w = newClientWorld(t, d, key)
	w.dead("revoked before", ada)
	if w.known(access) {
		t.Error("a client's token came back")
	}
	if !w.known(kept) || !w.alive(w.refresh(stays).access) {
		t.Error("what was not revoked is dead")
	}
	w.token(c)
}

// Where people's names and passwords are taken everywhere, a client's id and
// secret still are what they are, and neither passes for the other.
func TestJ_ClientsBesideBasic(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d, func(c *server.Config) { c.Basic = true })
		id, ada := w.user("ada")
		w.permit(id, "introspect:tokens")
		c := w.machine([]string{"introspect:tokens", "read:reports"})
		knock := func(path, name, pw string) int {
			req := w.request("GET", path, "", nil)
			req.SetBasicAuth(name, pw)
			return w.send(req).status
		}
		for what, c := range map[string]struct {
			path, name, pw string
			status         int
		}{
			"a person where all are taken": {"/who", "ada", goodPassword, 204},
			"a client where all are taken": {"/who", c.ID, c.Secret, 401},
			"a client where it is named":   {"/machines", c.ID, c.Secret, 204},
			"a person where clients are":   {"/machines", "ada", goodPassword, 401},
		} {
			if got := knock(c.path, c.name, c.pw); got != c.status {
				t.Errorf("%s: status %d, want %d", what, got, c.status)
			}
		}
		w.introspected(c, ada.access).want(t, 200, "")
		w.send(w.byBasic("/token/introspect", "ada", goodPassword, "token", ada.access)).want(t, 401, "invalid_client")
		w.send(w.byBasic("/token", "ada", goodPassword, "grant_type", "client_credentials")).want(t, 401, "invalid_client")
		w.token(c)
	})
}

// A grant that runs beside its client's deletion leaves nothing alive.
func TestO_NoGrantOutlivesItsClient(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		granted := 0
		for range 5 {
			c := w.machine([]string{"read:reports"})
			replies := make([]reply, 9)
			parallel(len(replies), func(i int) {
				if i == 4 {
					if err := w.sv.Clients.Delete(t.Context(), role.Operator(), c.ID); err != nil {
						t.Error(err)
					}
					return
				}
				replies[i] = w.send(w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials"))
			})
			for i, r := range replies {
				switch {
				case i == 4:
				case r.status == 200:
					granted++
					if w.known(r.text(t, "access_token")) {
						t.Error("a token of a deleted client lives")
					}
				default:
					r.want(t, 401, "invalid_client")
				}
			}
			var n int
			if _, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_sessions WHERE subject_id = $1", []any{c.ID}, &n); err != nil || n != 0 {
				t.Errorf("%d sessions are left, %v", n, err)
			}
		}
		t.Logf("%d grants came first", granted)
	})
}

// A token of a client is good until it expires: nothing that lasts can be made
// of it.
func TestO_ClientsMakeNoKeys(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d)
		_, root := w.user("root", "admin")
		for _, c := range []oauth.NewClient{w.machine([]string{"read:reports"}), w.machine(nil, "admin")} {
			access := w.token(c)
			before := w.holdings()
			for _, scopes := range [][]string{{}, {"read:reports"}} {
				w.do("POST", "/api-keys", access, map[string]any{"name": "k", "scopes": scopes}).want(t, 404, "not_found")
			}
			w.holds(before)
			if n := len(w.do("GET", "/api-keys", access, nil).want(t, 200, "").json(t)["items"].([]any)); n != 0 {
				t.Errorf("a client has %d keys", n)
			}
		}
		if k := w.key(root, "read:reports"); !w.accepted(k.key) {
			t.Error("a person's key is refused")
		}
	})
}

// Where tokens are opaque, a client's are as well.
func TestO_OpaqueClientTokens(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d, func(c *server.Config) { c.TokenFormat = session.Opaque })
		_, root := w.user("root", "admin")
		c := w.machine([]string{"read:reports", "introspect:tokens"})
		r := w.send(w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials", "scope", "read:reports")).want(t, 200, "")
		access := r.text(t, "access_token")
		if m := r.json(t); !strings.HasPrefix(access, "at_") || m["expires_in"] != 900.0 || m["scope"] != "read:reports" || m["refresh_token"] != nil {
			t.Fatalf("%.12s, %v, %v, %v", access, m["expires_in"], m["scope"], m["refresh_token"] != nil)
		}
		w.do("GET", "/reports", access, nil).want(t, 204, "")
		w.do("GET", "/fresh", access, nil).want(t, 401, "insufficient_user_authentication")
		asked := w.send(w.byBasic("/token/introspect", c.ID, c.Secret, "token", access)).want(t, 200, "").json(t)
		if asked["active"] != true || asked["sub"] != c.ID || asked["client_id"] != c.ID || asked["scope"] != "read:reports" || asked["auth_time"] != nil {
			t.Errorf("introspection: %v", asked)
		}
		w.form("/token/revoke", "token", access).want(t, 401, "invalid_client")
		if !w.known(access) {
			t.Fatal("somebody else revoked it")
		}
		w.send(w.byBasic("/token/revoke", c.ID, c.Secret, "token", access)).want(t, 200, "")
		if w.known(access) {
			t.Error("a revoked token lives")
		}
		late := w.token(c)
		if !w.known(late) {
			t.Fatal("a token is refused")
		}
		w.clock.advance(15*time.Minute + time.Second)
		if w.known(late) {
			t.Error("an expired token lives")
		}
		kept := w.token(c)
		root = w.refresh(root)
		w.do("DELETE", "/clients/"+c.ID, root.access, nil).want(t, 204, "")
		if w.known(kept) {
			t.Error("the token of a deleted client lives")
		}
		w.noSecretIn(t, access, late, kept)
	})
}

// guessAt is a credential with another character, n before the second last: the
// last one may hold bits that are not read.
func guessAt(cred string, n int) string {
	b := []byte(cred)
	at := &b[len(b)-2-n]
	if *at != 'a' {
		*at = 'a'
	} else {
		*at = 'b'
	}
	return string(b)
}

// A resource server hands on whatever strangers send it. Their nonsense is not its
// guesses: it goes on being told which tokens are good.
func TestQ_IntrospectionIsNoGuess(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d, func(c *server.Config) { c.Limits = server.Limits{Guesses: "5/hour"} })
		asks := w.machine([]string{"introspect:tokens"})
		_, ada := w.user("ada")
		var keyed string
		{
			id, _ := w.user("bob")
			_, key, err := w.sv.APIKeys.Create(t.Context(), apikey.NewKey{Owner: id, Name: "bob's"})
			if err != nil {
				t.Fatal(err)
			}
			keyed = key.Reveal()
		}
		for i := range 7 {
			for _, junk := range []string{fmt.Sprint("nonsense-", i), guessAt(keyed, i), guessAt(ada.refresh, i)} {
				if got := w.introspected(asks, junk).want(t, 200, "").json(t); got["active"] != false {
					t.Fatalf("%q: %v", junk, got)
				}
			}
		}
		for what, good := range map[string]string{"access token": ada.access, "refresh token": ada.refresh, "API key": keyed} {
			if got := w.introspected(asks, good).want(t, 200, "").json(t); got["active"] != true {
				t.Errorf("after what strangers sent, a good %s is %v", what, got)
			}
		}
		// What the resource server itself sends to be let in with is: it is refused
		// at the door, and not told that a token is dead.
		bad := asks
		bad.Secret = guessAt(bad.Secret, 0)
		for range 5 {
			w.introspected(bad, ada.access).want(t, 401, "invalid_client")
		}
		w.introspected(bad, ada.access).want(t, 429, "too_many_attempts")
	})
}
