package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// The input threats (letter V of the threat list): whatever is sent, it is
// refused in words of ours or kept exactly, and never repeated.

// inputs is a server with an administrator and somebody to work on, and a valid
// body for every operation that takes one.
type inputs struct {
	*world
	root   string // access token
	victim string // id
	key    string // id of an API key of the administrator's
	ops    []operation
	bodies map[string]map[string]any
	fresh  atomic.Int64
}

func newInputs(t *testing.T, d *db.DB) *inputs {
	t.Helper()
	in := &inputs{world: newWorld(t, d, nil, withMail(&mailbox{}), withMailSignIn)}
	_, tk := in.user("root", "admin")
	in.root, in.victim = tk.access, in.register("victim")
	in.do("PUT", "/roles/suite", in.root, `{}`).want(t, 200, "")
	in.key = in.world.key(tk).id
	in.bodies = map[string]map[string]any{
		"POST /auth/login":                {"username": "victim", "password": "not-the-password-41", "otp": "000000", "grant_type": "password", "scope": "", "client_id": "", "client_secret": ""},
		"POST /auth/request-verify-token": {"email": "new@example.com"}, "POST /auth/forgot-password": {"email": "new@example.com"},
		"POST /auth/verify": {"token": "vt_x", "password": goodPassword}, "POST /auth/reset-password": {"token": "rs_x", "password": goodPassword},
		"POST /auth/accept-invitation": {"token": "in_x", "password": goodPassword, "username": "new", "full_name": "N"},
		"POST /auth/register":          {"email": "new@example.com", "password": goodPassword, "username": "new", "full_name": "N"},
		"POST /auth/setup":             {"token": "su_none", "email": "new@example.com", "password": goodPassword, "username": "new"},
		"POST /auth/request-link":      {"email": "new@example.com"},
		"POST /auth/link":              {"token": "li_none", "handle": "lh_none", "code": "000000", "scope": "", "otp": "000000"},
		"POST /token/refresh":          {"refresh_token": "rt_none"},
		"POST /2fa/setup":              {"mfa_token": "mfa_none"},
		"POST /2fa/verify":             {"code": "000000", "mfa_token": "mfa_none"},
		"POST /2fa/recovery-codes":     {"code": "000000"},
		"DELETE /2fa":                  {"code": "000000"},
		"PATCH /users/me":              {"email": "root@example.com", "username": "root", "full_name": "R"},
		"PUT /users/me/password":       {"current_password": "not-the-password-41", "new_password": goodPassword + "2"},
		"POST /clients":                {"name": "suite", "scopes": []any{"read:users"}, "roles": []any{"guest"}},
		"POST /users":                  {"email": "new@example.com", "invitation": false, "password": goodPassword, "username": "new", "full_name": "N", "email_verified": true, "roles": []any{"user"}},
		"PATCH /users/{id}":            {"username": "victim", "full_name": "V", "email": "victim@example.com", "email_verified": false, "disabled": false},
		"PUT /users/{id}/roles":        {"roles": []any{"user"}},
		"PUT /users/{id}/permissions":  {"permissions": []any{"read:users"}},
		"PUT /roles/{name}":            {"description": "d", "permissions": []any{"read:users"}, "includes": []any{"guest"}},
		"PUT /permissions/{name}":      {"description": "d"},
		"PUT /policies/{id}":           {"cedar": `permit(principal, action == Action::"read:users", resource);`, "description": "d"},
		"POST /policies/check":         {"principal": "root", "action": "read:users", "resource": "GET /users", "context": map[string]any{"ip": "192.0.2.1"}},
		"POST /api-keys":               {"name": "n", "scopes": []any{"read:users"}, "expires_at": "2030-01-01T00:00:00Z"},
		"PATCH /api-keys/{id}":         {"name": "n", "is_active": true},
	}
	for _, op := range in.operations() {
		if !op.accepts("application/json") {
			continue
		}
		in.ops = append(in.ops, op)
		body, ok := in.bodies[op.name()]
		if !ok {
			t.Fatalf("%s takes a body that these tests do not know: give an example", op.name())
		}
		if a, b := slices.Sorted(maps.Keys(body)), slices.Sorted(maps.Keys(op.RequestBody.Content["application/json"].Schema.Properties)); !slices.Equal(a, b) {
			t.Fatalf("%s: the example has the members %v, the document %v", op.name(), a, b)
		}
	}
	return in
}

// path is where the operation works on something that exists.
func (in *inputs) path(op operation) string {
	if strings.Contains(op.path, "{name}") {
		return op.target("suite")
	}
	if strings.HasPrefix(op.path, "/api-keys/") {
		return op.target(in.key)
	}
	return op.target(in.victim)
}

// post sends a body in process, as the administrator.
func (in *inputs) post(op operation, body string, headers ...string) reply {
	if headers == nil {
		headers = []string{"Content-Type", "application/json"}
	}
	return in.handle(local(op.method, in.path(op), in.root, body, headers...))
}

// example is the valid body with one member replaced. Addresses and user names
// are new ones.
func (in *inputs) example(op operation, member string, value any) map[string]any {
	body := maps.Clone(in.bodies[op.name()])
	if op.path == "/users" || op.path == "/auth/register" {
		n := in.fresh.Add(1)
		body["email"], body["username"] = fmt.Sprintf("n%d@example.com", n), fmt.Sprintf("n%d", n)
	}
	if op.path == "/auth/link" { // takes one of the two
		if member == "token" {
			delete(body, "handle")
			delete(body, "code")
		} else {
			delete(body, "token")
		}
	}
	if member != "" {
		body[member] = value
	}
	return body
}

func text(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// refusedInWords fails unless the reply is a problem of ours.
func refusedInWords(t *testing.T, what string, r reply, statuses ...int) bool {
	t.Helper()
	var p struct {
		Code   string
		Status int
	}
	err := json.Unmarshal(r.body, &p)
	if !slices.Contains(statuses, r.status) || err != nil || p.Code == "" || p.Status != r.status || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: status %d (%s), want a problem of %v: %.200s", what, r.status, r.header.Get("Content-Type"), statuses, r.body)
		return false
	}
	return true
}

// Every text of JSONTestSuite to every operation.
func TestV_JSONTestSuite(t *testing.T) {
	t.Parallel()
	dir := testkit.Vectors(t, "json/JSONTestSuite")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) < 300 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	in := newInputs(t, testkit.SQLite(t))
	suite := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		suite[filepath.Base(f)] = string(b)
	}
	in.unchanged(t, in.root, func() {
		for _, op := range in.ops {
			for name, body := range suite {
				if name[0] == 'n' && (body != "" || op.RequestBody.Required) {
					r := in.post(op, body)
					refusedInWords(t, op.name()+" "+name, r, 400, 413)
				}
			}
			if !op.RequestBody.Required {
				continue
			}
			if r := in.post(op, ""); r.status != 400 {
				t.Errorf("%s without a body: status %d", op.name(), r.status)
			}
		}
	})
	accepted := 0
	for _, op := range in.ops {
		for name, body := range suite {
			switch r := in.post(op, body); {
			case name[0] == 'n':
			case r.status >= 200 && r.status < 300:
				accepted++
				// Nothing is required there, and the text is an empty object or one of nothing we know.
				if required := op.RequestBody.Content["application/json"].Schema.Required; len(required) > 0 {
					t.Errorf("%s took %s: %.200s", op.name(), name, r.body)
				}
			default:
				refusedInWords(t, op.name()+" "+name, r, 400, 401, 413, 422)
			}
		}
		// The same operation with a right body works as ever.
		if r := in.post(op, text(t, in.example(op, "", nil))); r.status >= 300 && r.status != 401 && !strings.Contains(string(r.body), `"mfa_off"`) && !strings.Contains(string(r.body), `"invalid_token"`) {
			t.Errorf("%s after the suite: %d %.200s", op.name(), r.status, r.body)
		}
	}
	if accepted == 0 {
		t.Error("not even {} was accepted anywhere: the operations were not reached")
	}
	// Some of it over a real connection.
	for _, name := range []string{"n_structure_null-byte-outside-string.json", "n_structure_100000_opening_arrays.json", "n_string_invalid_utf8_after_escape.json", "y_object_duplicated_key.json"} {
		if r := in.do("PATCH", "/users/me", in.root, suite[name]); r.status != 400 {
			t.Errorf("%s over a socket: status %d", name, r.status)
		}
	}
}

func naughtyStrings(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(testkit.Vectors(t, "fuzz/blns.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil || len(list) < 500 {
		t.Fatalf("%d strings, %v", len(list), err)
	}
	return append(list, "a\u0000b", "\u0000", "\u001b[31mred", "a\r\nb: c", "\u202e", "\ufffd", "\U0010ffff", "\ue000", "é", "e\u0301", "'; DROP TABLE sp_accounts; --", "%", "_", "\\")
}

// Every naughty string in every member that is text: refused, or kept as it is.
func TestV_NaughtyStringsInBodies(t *testing.T) {
	t.Parallel()
	naughty := naughtyStrings(t)
	in := newInputs(t, testkit.SQLite(t))
	type job struct {
		op     operation
		member string
		list   bool
		value  string
	}
	jobs := make(chan job)
	var wg sync.WaitGroup
	var accepted, refused atomic.Int64
	for range 8 {
		wg.Go(func() {
			for j := range jobs {
				var v any = j.value
				if j.list {
					v = []any{j.value}
				}
				r := in.post(j.op, text(t, in.example(j.op, j.member, v)))
				switch {
				case r.status >= 500:
					t.Errorf("%s %s=%q: status %d: %.200s", j.op.name(), j.member, j.value, r.status, r.body)
				case r.status >= 400:
					refused.Add(1)
				default:
					accepted.Add(1)
					var got map[string]any
					_ = json.Unmarshal(r.body, &got)
					if g, there := got[j.member]; there && j.member != "password" && text(t, g) != text(t, v) {
						t.Errorf("%s %s=%q came back as %q", j.op.name(), j.member, j.value, g)
					}
				}
			}
		})
	}
	for _, op := range in.ops {
		for name, s := range op.RequestBody.Content["application/json"].Schema.Properties {
			list := s.kind() == "array"
			if s.kind() != "string" && !list {
				continue
			}
			for i, v := range naughty {
				// All of them where all names are changed (full_name comes below);
				// elsewhere, where every attempt costs a hash, a commit or a tenth
				// of a second, a part.
				if op.path == "/auth/login" && i%20 != 0 || (op.path != "/users/{id}" || name == "full_name") && (i+len(name)+len(op.path))%10 != 0 {
					continue
				}
				jobs <- job{op, name, list, v}
			}
		}
	}
	close(jobs)
	wg.Wait()
	if accepted.Load() < 200 || refused.Load() < 500 {
		t.Errorf("%d accepted, %d refused: too few to tell", accepted.Load(), refused.Load())
	}
	// One after the other, what was accepted is read back from the database.
	for _, v := range naughty {
		r := in.post(operation{method: "PATCH", path: "/users/{id}"}, text(t, map[string]any{"full_name": v}))
		if r.status != 200 {
			continue
		}
		got := in.handle(local("GET", "/users/"+in.victim, in.root, "")).want(t, 200, "").json(t)
		if got["full_name"] != v {
			t.Errorf("full_name %q reads back as %q", v, got["full_name"])
		}
	}
	in.do("GET", "/users", in.root, nil).want(t, 200, "")
	in.post(operation{method: "PATCH", path: "/users/{id}"}, `{"username":"victim","email":"victim@example.com","disabled":false}`).want(t, 200, "")
	in.signIn("victim", goodPassword)
}

// The same in paths and queries.
func TestV_NaughtyStringsInAddresses(t *testing.T) {
	t.Parallel()
	list := append(naughtyStrings(t), "\xff", "\xc3\x28", "\x00", "..", ".", "a/../b", strings.Repeat("a", 65), strings.Repeat("ä", 64), strings.Repeat("a", 5000))
	in := newInputs(t, testkit.SQLite(t))
	places := 0
	for _, op := range in.operations() {
		for _, p := range op.Parameters {
			places++
			for i, v := range list {
				if i < 500 && (i+places)%8 != 0 && (op.method != "GET" || !slices.Contains([]string{"id", "q"}, p.Name)) {
					continue // a transaction each, or a closed set of values
				}
				target := op.target(url.PathEscape(v))
				if p.In == "query" {
					target = op.target() + "?" + url.QueryEscape(p.Name) + "=" + url.QueryEscape(v)
				}
				req := local(op.method, target, in.root, "")
				if body, ok := in.bodies[op.name()]; ok {
					req = local(op.method, target, in.root, text(t, body), "Content-Type", "application/json")
				}
				r := in.handle(req)
				if r.status >= 500 {
					t.Errorf("%s: status %d: %.200s", target, r.status, r.body)
				}
				if len(v) > 12 && p.In == "path" && r.status >= 400 && bytes.Contains(r.body, []byte(v)) {
					t.Errorf("%s repeats the value: %.300s", target, r.body)
				}
			}
		}
	}
	if places < 10 {
		t.Errorf("only %d parameters", places)
	}
	in.handle(local("GET", "/users?q=victim", in.root, "")).want(t, 200, "")
	// A part of a name is text too, not a pattern.
	for q, want := range map[string]int{"victim": 1, "%": 0, "_": 0, "v%m": 0, "VICTIM": 1, "@example.com": 2, "": 2} {
		items := in.handle(local("GET", "/users?q="+url.QueryEscape(q), in.root, "")).want(t, 200, "").json(t)["items"].([]any)
		n := 0
		for _, u := range items {
			if name := u.(map[string]any)["username"]; name == "root" || name == "victim" {
				n++
			}
		}
		if n != want {
			t.Errorf("q=%s finds %d of the two, want %d", q, n, want)
		}
	}
}

// What a database cannot store is the caller's mistake and not the database's,
// on either database.
func TestV_UnstorableText(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		in := newInputs(t, d)
		for _, v := range []string{"%00", "a%00b", "%ff", "%C3%28", "%ED%A0%80"} {
			for _, a := range [][2]string{
				{"GET", "/users/" + v},
				{"DELETE", "/users/" + v},
				{"DELETE", "/users/me/sessions/" + v},
				{"DELETE", "/roles/" + v},
				{"GET", "/users?q=" + v},
				{"GET", "/users?role=" + v},
				{"GET", "/users?cursor=" + v},
				{"GET", "/users?limit=" + v},
				{"GET", "/users?" + v + "=1"},
			} {
				refusedInWords(t, a[0]+" "+a[1], in.do(a[0], a[1], in.root, nil), 400, 404, 422)
			}
			for _, a := range []string{"/users/" + v + "/roles", "/users/" + v + "/permissions", "/roles/" + v, "/permissions/" + v} {
				refusedInWords(t, "PUT "+a, in.do("PUT", a, in.root, `{}`), 400, 404, 422)
			}
			refusedInWords(t, "GET /docs/"+v, in.do("GET", "/docs/"+v, "", nil), 400, 404)
		}
		_, plain := in.user("plain")
		in.do("GET", "/users/%00%ff", plain.access, nil).want(t, 403, "insufficient_permission")
		in.events("access.denied", 1) // the event could be stored
		for _, op := range in.ops {
			for name, s := range op.RequestBody.Content["application/json"].Schema.Properties {
				var values []any
				for _, v := range []string{"\x00", "a\x00b@example.com", "a\x00"} {
					values = append(values, v)
				}
				if s.kind() == "array" {
					values = []any{[]any{"\x00"}, []any{"user\x00"}}
				} else if s.kind() != "string" {
					continue
				}
				for _, v := range values {
					r := in.post(op, text(t, in.example(op, name, v)))
					if r.status >= 500 {
						t.Errorf("%s %s=%q: status %d: %.200s", op.name(), name, v, r.status, r.body)
					}
				}
			}
		}
		for _, pw := range []string{"a%00b", "%00", "%ff"} {
			req := in.request("POST", "/token", "", "grant_type=password&username="+pw+"&password="+pw)
			req.Header.Set("Content-Type", api.FormType)
			if r := in.send(req); r.status != 400 && r.status != 401 {
				t.Errorf("%s as name and password: %d", pw, r.status)
			}
		}
		in.do("GET", "/users?q=victim", in.root, nil).want(t, 200, "")
		in.do("GET", "/users/"+in.victim, in.root, nil).want(t, 200, "")
	})
}

// Statements in texts stay texts.
func TestV_SQLStaysText(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		in := newInputs(t, d)
		for _, v := range []string{
			`'; DROP TABLE sp_accounts; --`, `' OR '1'='1`, `" OR ""="`, `$1`, `\'; DELETE FROM sp_subjects; --`, `') UNION SELECT password_hash FROM sp_accounts --`, "x'||(SELECT pg_sleep(5))||'",
		} {
			for _, op := range in.ops {
				for name, s := range op.RequestBody.Content["application/json"].Schema.Properties {
					var value any = v
					if s.kind() == "array" {
						value = []any{v}
					} else if s.kind() != "string" || op.path == "/auth/login" {
						continue
					}
					if r := in.post(op, text(t, in.example(op, name, value))); r.status >= 500 {
						t.Errorf("%s %s=%q: status %d: %.200s", op.name(), name, v, r.status, r.body)
					}
				}
			}
			for _, query := range []string{"q", "role", "cursor", "limit", "disabled"} {
				if r := in.do("GET", "/users?"+query+"="+url.QueryEscape(v), in.root, nil); r.status >= 500 || query != "q" && query != "role" && r.status < 400 {
					t.Errorf("%s=%s: %d", query, v, r.status)
				} else if r.status == 200 && len(r.json(t)["items"].([]any)) != 0 {
					t.Errorf("%s=%s finds accounts: %s", query, v, r.body)
				}
			}
			in.do("GET", "/users/"+url.PathEscape(v), in.root, nil).want(t, 404, "not_found")
			in.form("/token", "grant_type", "password", "username", v, "password", v).want(t, 401, "invalid_grant")
		}
		in.register("afterwards")
		in.do("GET", "/users?q=victim@", in.root, nil).want(t, 200, "")
		in.signIn("afterwards", goodPassword)
	})
}

// authLimited are the operations that stand before or beside a password hash.
var authLimited = []string{"POST /auth/login", "POST /auth/register", "POST /auth/setup", "POST /auth/request-verify-token", "POST /auth/verify", "POST /auth/forgot-password", "POST /auth/reset-password", "POST /auth/accept-invitation", "POST /token/refresh", "PUT /users/me/password", "POST /users", "POST /2fa/setup", "POST /2fa/verify", "POST /2fa/recovery-codes", "POST /auth/link", "POST /auth/request-link", "DELETE /2fa"}

// Bodies that are too large, too deep, or not what they say they are.
func TestV_SizeDepthAndType(t *testing.T) {
	t.Parallel()
	in := newInputs(t, testkit.SQLite(t))
	in.unchanged(t, in.root, func() {
		for _, op := range in.ops {
			limit := api.MaxBody
			if slices.Contains(authLimited, op.name()) {
				limit = api.MaxAuthBody
			}
			fill := func(n int) string { return `{"` + strings.Repeat("x", n-6) + `":1}` }
			if r := in.post(op, fill(limit)); r.status != 422 {
				t.Errorf("%s with %d bytes: status %d, want 422", op.name(), limit, r.status)
			}
			refusedInWords(t, op.name()+" one byte too many", in.post(op, fill(limit+1)), 413)
			chunked := local(op.method, in.path(op), in.root, fill(limit+1), "Content-Type", "application/json")
			chunked.ContentLength = -1
			refusedInWords(t, op.name()+" one byte too many, undeclared", in.handle(chunked), 413)
			chunked = local(op.method, in.path(op), in.root, fill(limit), "Content-Type", "application/json")
			chunked.ContentLength = -1
			refusedInWords(t, op.name()+" undeclared length", in.handle(chunked), 422)
			refusedInWords(t, op.name()+" no body is read of a foreign type", in.post(op, fill(limit+1), "Content-Type", "text/plain"), 415)

			for depth, status := range map[int]int{31: 422, 32: 400, 10_000: 400} {
				body := `{"x":` + strings.Repeat(`[`, depth) + strings.Repeat(`]`, depth) + `}`
				if r := in.post(op, body); r.status != status {
					t.Errorf("%s with depth %d: status %d, want %d", op.name(), depth+1, r.status, status)
				}
			}
			valid := text(t, in.bodies[op.name()])
			for _, headers := range [][]string{
				{"X", "no content type"},
				{"Content-Type", ""},
				{"Content-Type", "text/plain"},
				{"Content-Type", "text/json"},
				{"Content-Type", "multipart/form-data; boundary=x"},
				{"Content-Type", "application/json; charset=utf-16"},
				{"Content-Type", "application/json; charset=utf-8; x=y"},
				{"Content-Type", "application/json, text/plain"},
				{"Content-Type", "application/jsonp"},
				{"Content-Type", "application/vnd.api+json"},
				{"Content-Type", "application/json/"},
				{"Content-Type", "text/plain; x=application/json"},
				{"Content-Type", "application/json", "Content-Encoding", "gzip"},
				{"Content-Type", "application/yaml"},
				{"Content-Type", "application/cbor"},
				{"Content-Type", "*/*"},
			} {
				refusedInWords(t, fmt.Sprintf("%s with %v", op.name(), headers), in.post(op, valid, headers...), 415)
			}
			if !op.accepts(api.FormType) {
				refusedInWords(t, op.name()+" as a form", in.post(op, "a=b", "Content-Type", api.FormType), 415)
			}
			two := local(op.method, in.path(op), in.root, valid)
			two.Header["Content-Type"] = []string{"application/json", "text/plain"}
			refusedInWords(t, op.name()+" with two types", in.handle(two), 415)
			// Without credentials it is 401 whatever the body.
			if string(op.Rule) != `"public"` {
				for _, body := range []string{fill(limit + 1), "{", ""} {
					r := in.handle(local(op.method, in.path(op), "", body, "Content-Type", "text/plain"))
					refusedInWords(t, op.name()+" without credentials", r, 401)
				}
			}
		}
		// Forms.
		for what, a := range map[string]struct {
			body, contentType string
			status            int
		}{
			"JSON":                   {`{"grant_type":"password"}`, "application/json", 415},
			"nothing":                {"", "", 415},
			"too much":               {"grant_type=" + strings.Repeat("x", api.MaxAuthBody), api.FormType, 413},
			"a field twice":          {"grant_type=password&grant_type=password", api.FormType, 400},
			"an unknown field twice": {"grant_type=password&x=1&x=2", api.FormType, 400},
			"broken escapes":         {"grant_type=%zz", api.FormType, 400},
			"broken text":            {"grant_type=%ff", api.FormType, 400},
			"too many fields":        {strings.Repeat("a=1&", 100), api.FormType, 400},
		} {
			r := in.handle(local("POST", "/token", "", a.body, "Content-Type", a.contentType))
			var e struct {
				Error string `json:"error"`
			}
			if err := json.Unmarshal(r.body, &e); err != nil || r.status != a.status || e.Error == "" {
				t.Errorf("/token with %s: status %d, want %d with an OAuth error: %.200s", what, r.status, a.status, r.body)
			}
		}
	})
	for _, ct := range []string{"application/json; charset=utf-8", `application/json;charset="UTF-8"`, "Application/JSON"} {
		in.post(operation{method: "PATCH", path: "/users/{id}"}, `{"full_name":"V"}`, "Content-Type", ct).want(t, 200, "")
	}
	// Over a socket the same, with the connection's own limits.
	in.do("PATCH", "/users/me", in.root, `{"`+strings.Repeat("x", api.MaxBody)+`":1}`).want(t, 413, "body_too_large")
	in.do("POST", "/auth/register", "", `{"`+strings.Repeat("x", api.MaxAuthBody)+`":1}`).want(t, 413, "body_too_large")
	in.do("PATCH", "/users/me", in.root, `{"full_name":"R"}`).want(t, 200, "")
}

// Members of the wrong type, unknown, repeated.
func TestV_TypeJuggling(t *testing.T) {
	t.Parallel()
	in := newInputs(t, testkit.SQLite(t))
	wrong := map[string][]string{
		"string":  {`1`, `-0.5`, `true`, `false`, `[]`, `["x"]`, `{}`, `{"$ne":""}`, `[[]]`},
		"boolean": {`1`, `0`, `"true"`, `""`, `[]`, `{}`, `[true]`},
		"array":   {`1`, `true`, `"user"`, `""`, `{}`, `{"0":"user"}`},
		"":        {`1`, `true`, `"x"`, `[]`, `{"no_such_member":1}`, `{"ip":1}`, `{"mfa":"true"}`, `{"scopes":"x"}`}, // an object, by reference
	}
	tried := 0
	in.unchanged(t, in.root, func() {
		for _, op := range in.ops {
			s := op.RequestBody.Content["application/json"].Schema
			for name, member := range s.Properties {
				values := wrong[member.kind()]
				if values == nil {
					t.Fatalf("%s: a kind that the test does not know: %v", op.name(), member.Type)
				}
				if slices.Contains(s.Required, name) && !member.nullable() {
					values = append([]string{`null`}, values...)
				}
				for _, v := range values {
					tried++
					what := fmt.Sprintf("%s with %s = %s", op.name(), name, v)
					r := in.post(op, text(t, in.example(op, name, json.RawMessage(v))))
					if refusedInWords(t, what, r, 422) && !bytes.Contains(r.body, []byte(`"pointer":"/`+name)) {
						t.Errorf("%s: no pointer to the member: %s", what, r.body)
					}
				}
				if member.kind() == "array" {
					for _, v := range []string{`[1]`, `[true]`, `[null]`, `[[]]`, `[{}]`, `["user",1]`} {
						what := fmt.Sprintf("%s with %s = %s", op.name(), name, v)
						r := in.post(op, text(t, in.example(op, name, json.RawMessage(v))))
						if refusedInWords(t, what, r, 422) && !bytes.Contains(r.body, []byte(`"pointer":"/`+name+`/`)) {
							t.Errorf("%s: no pointer to the entry: %s", what, r.body)
						}
					}
				}
				for _, number := range []string{`1e400`, `-1e400`, `9223372036854775808`, `1e-400`} {
					refusedInWords(t, op.name()+" with "+name+" = "+number, in.post(op, text(t, in.example(op, name, json.RawMessage(number)))), 422)
				}
				// Twice, in every disguise.
				value, there := in.bodies[op.name()][name]
				valid := strings.TrimSuffix(strings.TrimSpace(text(t, in.example(op, name, value))), "}")
				escaped := fmt.Sprintf(`\u%04x`, name[0]) + name[1:]
				for _, again := range []string{name, strings.ToUpper(name), escaped} {
					if there {
						refusedInWords(t, op.name()+" with "+again+" twice", in.post(op, valid+`,"`+again+`":null}`), 400)
					}
				}
				// A name in another case is another name.
				body := in.example(op, "", nil)
				body[strings.ToUpper(name)] = body[name]
				delete(body, name)
				refusedInWords(t, op.name()+" with "+strings.ToUpper(name), in.post(op, text(t, body)), 422)
			}
			for _, unknown := range []string{"no_such_member", "constructor", "__proto__", "ID", "$ref", "$schema", "a.b", "a/b", "0"} {
				refusedInWords(t, op.name()+" with an unknown member", in.post(op, text(t, in.example(op, unknown, 1))), 422)
			}
			refusedInWords(t, op.name()+" with a member without a name", in.post(op, `{"":1,`+strings.TrimPrefix(text(t, in.example(op, "", nil)), "{")), 422)
			for _, whole := range []string{`null`, `1`, `true`, `"x"`, `[]`, `[{}]`} {
				refusedInWords(t, op.name()+" with "+whole, in.post(op, whole), 422)
			}
		}
	})
	if tried < 100 {
		t.Errorf("only %d", tried)
	}
	// null in a member that may be left out leaves it as it is.
	in.post(operation{method: "PATCH", path: "/users/{id}"}, `{"full_name":"V","disabled":true,"email_verified":true}`).want(t, 200, "")
	u := in.post(operation{method: "PATCH", path: "/users/{id}"}, `{"disabled":null,"email_verified":null,"email":null}`)
	if u.status == 200 {
		if m := u.json(t); m["disabled"] != true || m["email_verified"] != true || m["email"] != "victim@example.com" {
			t.Errorf("null changed something: %s", u.body)
		}
	}
}

// No answer repeats what was sent: it may be a secret in the wrong place.
func TestV_NoEcho(t *testing.T) {
	t.Parallel()
	const secret = "sekrit-7f3a9c51e0d24b86"
	in := newInputs(t, testkit.SQLite(t))
	silent := func(what string, r reply) {
		t.Helper()
		if r.status < 400 {
			return // what was stored may be shown
		}
		if r.status >= 500 {
			t.Errorf("%s: status %d", what, r.status)
		}
		var h bytes.Buffer
		_ = r.header.Write(&h)
		for _, part := range []string{secret, url.QueryEscape(secret), strings.ToUpper(secret)} {
			if bytes.Contains(r.body, []byte(part)) || bytes.Contains(h.Bytes(), []byte(part)) {
				t.Errorf("%s: the answer repeats the value: %s%s", what, h.String(), r.body)
			}
		}
	}
	long := strings.Repeat(secret, 4)
	refused := 0
	for _, op := range in.ops {
		s := op.RequestBody.Content["application/json"].Schema
		for name := range s.Properties {
			for _, v := range []any{secret, []any{secret}, map[string]any{secret: secret}, map[string]any{"x": secret}, []any{[]any{secret}}, secret + "\x00", secret + " " + secret, long + long} {
				if object, ok := v.(map[string]any); ok && object[secret] != nil && s.Properties[name].kind() == "" {
					continue // a name that is unknown is told where it stands, as below
				}
				r := in.post(op, text(t, in.example(op, name, v)))
				if r.status >= 400 {
					refused++
				}
				silent(fmt.Sprintf("%s %s=%v", op.name(), name, v), r)
			}
		}
		for _, unknown := range []string{"no_such_member", "pass word", "key"} {
			silent(op.name()+" unknown member", in.post(op, text(t, in.example(op, unknown, secret))))
		}
		for _, unknown := range []string{long, secret + " " + secret, secret + "=" + secret, secret + "/x", secret + "é"} {
			silent(op.name()+" unknown name", in.post(op, text(t, in.example(op, unknown, 1))))
		}
		for _, broken := range []string{`{"password":"` + secret, `{"password":"` + secret + `",}`, secret, `{"password":"` + secret + `"}{"x":"` + secret + `"}`, `{"x":"` + secret + `","x":"` + secret + `"}`, `{"x":"` + secret + "\xff\"}"} {
			silent(op.name()+" broken", in.post(op, broken))
		}
		silent(op.name()+" as another type", in.post(op, secret, "Content-Type", "text/"+secret))
		silent(op.name()+" with another credential", in.handle(local(op.method, in.path(op), secret, `{}`, "Content-Type", "application/json")))
		silent(op.name()+" with a query", in.handle(local(op.method, in.path(op)+"?x="+secret, in.root, `{}`, "Content-Type", "application/json")))
		silent(op.name()+" with a name in the query", in.handle(local(op.method, in.path(op)+"?"+long+"=1", in.root, `{}`, "Content-Type", "application/json")))
	}
	for _, op := range in.operations() {
		for _, p := range op.Parameters {
			target := op.target(secret)
			if p.In == "query" {
				target = op.target() + "?" + p.Name + "=" + secret
			}
			silent(target, in.handle(local(op.method, target, in.root, "")))
		}
	}
	for _, fields := range []string{"grant_type=" + secret, "grant_type=password&username=" + secret + "&password=" + secret, "grant_type=refresh_token&refresh_token=" + secret, "grant_type=password&username=a&password=b&scope=" + secret, "grant_type=password&client_id=" + secret + "&client_secret=" + secret, secret + "=1&" + secret + "=2"} {
		silent("/token "+fields, in.handle(local("POST", "/token", "", fields, "Content-Type", api.FormType)))
	}
	silent("/token?password=", in.handle(local("POST", "/token?password="+secret, "", "grant_type=password", "Content-Type", api.FormType)))
	silent("?access_token=", in.handle(local("GET", "/users/me?access_token="+secret, "", "")))
	silent("/docs/", in.handle(local("GET", "/docs/"+secret, "", "")))
	silent("/", in.handle(local("GET", "/"+secret, "", "")))
	if refused < 100 {
		t.Errorf("only %d refused", refused)
	}
	in.events("credential.refused", 1)
	// The name that was tried at a sign-in may be a password that went into the wrong field.
	in.noSecretIn(t, `"password":"`+secret, secret+" "+secret)
	in.do("PATCH", "/users/me", in.root, `{"full_name":"R"}`).want(t, 200, "")
}

// A body where none is expected does nothing.
func TestV_BodyOnGet(t *testing.T) {
	t.Parallel()
	in := newInputs(t, testkit.SQLite(t))
	in.unchanged(t, in.root, func() {
		for _, op := range in.operations() {
			if op.method != "GET" || op.path == "/users/me/export" { // that it was asked for is recorded
				continue
			}
			without := in.do("GET", op.target(), in.root, nil)
			for _, body := range []string{`{"roles":["admin"]}`, `{`, strings.Repeat("x", 100_000), "_method=DELETE"} {
				if r := in.do("GET", op.target(), in.root, body); r.status != without.status {
					t.Errorf("%s with a body: status %d, without %d", op.name(), r.status, without.status)
				}
			}
		}
	})
}

// Bounds of list parameters.
func TestV_ListParameters(t *testing.T) {
	t.Parallel()
	in := newInputs(t, testkit.SQLite(t))
	for _, v := range []string{"0", "201", "-1", "abc", "1e9", "1.0", "0x10", "+1", " 1", "1 ", "1,2", "99999999999999999999", "-9223372036854775809", "NaN", "null", "1;2", "٣", "1%00"} {
		query := url.QueryEscape(v)
		if strings.Contains(v, "%") {
			query = v
		}
		r := in.do("GET", "/users?limit="+query, in.root, nil)
		if v == "+1" && r.status == 200 {
			continue // a sign is no other number
		}
		if v == "1%00" {
			refusedInWords(t, "limit="+v, r, 400)
			continue
		}
		if refusedInWords(t, "limit="+v, r, 422) && !bytes.Contains(r.body, []byte(`"pointer":"?limit"`)) {
			t.Errorf("limit=%s: no pointer: %s", v, r.body)
		}
	}
	for _, query := range []string{"Limit=1", "limit[]=1", "offset=1", "page=2", "sort=password_hash", "fields=*", "disabled=maybe", "disabled=TRUE", "disabled=1"} {
		refusedInWords(t, query, in.do("GET", "/users?"+query, in.root, nil), 422)
	}
	for _, v := range []string{"1", "50", "200"} {
		in.do("GET", "/users?limit="+v, in.root, nil).want(t, 200, "")
	}
	if n := len(in.do("GET", "/users?limit=1&disabled=false&q=victim&role=user", in.root, nil).want(t, 200, "").json(t)["items"].([]any)); n != 1 {
		t.Errorf("%d items", n)
	}
	if got := in.do("GET", "/users?q="+strings.Repeat("a", 255), in.root, nil); got.status != http.StatusUnprocessableEntity {
		t.Errorf("q of 255: status %d", got.status)
	}
}
