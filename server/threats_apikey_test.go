package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// The threats to API keys (letter K of the threat list).

// apiKey is an API key that was made over HTTP.
type apiKey struct{ id, key, prefix string }

// key makes a key as the owner of a token would.
func (w *world) key(owner tokens, scopes ...string) apiKey {
	w.t.Helper()
	return w.keyWith(owner, map[string]any{"name": "k", "scopes": append([]string{}, scopes...)})
}

func (w *world) keyWith(owner tokens, body map[string]any) apiKey {
	w.t.Helper()
	r := w.do("POST", "/api-keys", owner.access, body).want(w.t, 201, "")
	return apiKey{r.text(w.t, "id"), r.text(w.t, "key"), r.text(w.t, "prefix")}
}

// keyed returns a request that carries a key.
func (w *world) keyed(method, path, key string, body any) *http.Request {
	w.t.Helper()
	req := w.request(method, path, "", body)
	req.Header.Set("X-API-Key", key)
	return req
}

func (w *world) doKeyed(method, path, key string, body any) reply {
	w.t.Helper()
	return w.send(w.keyed(method, path, key, body))
}

// accepted reports whether a key is accepted.
func (w *world) accepted(key string) bool {
	w.t.Helper()
	switch r := w.doKeyed("GET", "/users/me", key, nil); r.status {
	case 200:
		return true
	case 401:
		return false
	default:
		w.t.Fatalf("status %d: %s", r.status, r.body)
		return false
	}
}

// keys returns an owner's keys as they are listed.
func (w *world) keys(owner tokens) (out []map[string]any) {
	w.t.Helper()
	for _, k := range w.do("GET", "/api-keys", owner.access, nil).want(w.t, 200, "").json(w.t)["items"].([]any) {
		out = append(out, k.(map[string]any))
	}
	return out
}

// made returns a text with a right checksum that nobody was given.
func made() string { return apikey.Generate().Reveal() }

// A key from its making to its deletion, as the contract has it.
func TestK_Life(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, ada := w.user("ada", "moderator")
		expires := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
		r := w.do("POST", "/api-keys", ada.access, map[string]any{
			"name": "nightly “report” 🔑", "scopes": []string{"read:users", "role:moderator"}, "expires_at": expires,
		}).want(t, 201, "")
		body := r.json(t)
		if got, want := slices.Sorted(maps.Keys(body)), []string{"created_at", "expires_at", "id", "is_active", "key", "name", "prefix", "scopes"}; !slices.Equal(got, want) {
			t.Errorf("members %v, want %v", got, want)
		}
		key, prefix := r.text(t, "key"), r.text(t, "prefix")
		if r.header.Get("Cache-Control") != "no-store" || len(key) != 52 || key[:8] != prefix || !strings.HasPrefix(key, "sp_") ||
			body["is_active"] != true || body["name"] != "nightly “report” 🔑" || body["expires_at"] != expires.Format(time.RFC3339) || fmt.Sprint(body["scopes"]) != "[read:users role:moderator]" {
			t.Errorf("%v %s", r.header, r.body)
		}
		if got := w.doKeyed("GET", "/users/me", key, nil).want(t, 200, "").text(t, "id"); got != id {
			t.Errorf("the key is %s's", got)
		}
		w.doKeyed("GET", "/users", key, nil).want(t, 200, "")
		w.doKeyed("POST", "/users", key, map[string]any{"email": "x@example.com", "password": goodPassword}).want(t, 403, "insufficient_permission")

		list := w.do("GET", "/api-keys", ada.access, nil).want(t, 200, "")
		quiet(t, "the list", list, key, key[8:])
		quiet(t, "another answer", w.do("PATCH", "/api-keys/"+body["id"].(string), ada.access, map[string]any{"name": "renamed"}).want(t, 200, ""), key, key[8:])
		all := w.keys(ada)
		if len(all) != 1 || all[0]["id"] != body["id"] || all[0]["name"] != "renamed" || all[0]["prefix"] != prefix || list.json(t)["next_cursor"] != nil {
			t.Errorf("%v", all)
		}
		if !w.accepted(key) {
			t.Error("renaming ended it")
		}
		w.do("DELETE", "/api-keys/"+body["id"].(string), ada.access, nil).want(t, 204, "")
		if w.accepted(key) || len(w.keys(ada)) != 0 {
			t.Error("a deleted key is there")
		}
		w.do("DELETE", "/api-keys/"+body["id"].(string), ada.access, nil).want(t, 404, "not_found")
		for _, action := range []string{"apikey.created", "apikey.changed", "apikey.deleted"} {
			e := w.events(action, 1)
			if len(e) != 1 || e[0].Target != body["id"] || e[0].Actor != id || e[0].Detail["owner"] != id || e[0].Detail["prefix"] != prefix {
				t.Errorf("%s: %+v", action, e)
			}
		}
		w.noSecretIn(t, key, key[8:20])
		// Without scopes it says whose it is, and nothing else.
		bare := w.key(ada).key
		w.doKeyed("GET", "/users/me", bare, nil).want(t, 200, "")
		w.doKeyed("GET", "/users", bare, nil).want(t, 403, "insufficient_scope")
		w.doKeyed("GET", "/livez", bare, nil).want(t, 200, "")
	})
}

// What nobody can make, and whose keys nobody can touch.
func TestK_Making(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		victim, bob := w.user("bob")
		_, ada := w.user("ada", "moderator")
		_, root := w.user("root", "admin")
		his := w.key(bob)
		good := func() map[string]any { return map[string]any{"name": "n", "scopes": []any{"read:users"}} }
		with := func(name string, v any) map[string]any { b := good(); b[name] = v; return b }
		many := make([]any, 65)
		for i := range many {
			many[i] = fmt.Sprintf("s%d", i)
		}
		before := w.holdings()
		for what, c := range map[string]struct {
			body   any
			status int
			code   string // of the refusal, or of the only member
		}{
			"a foreign owner":          {with("owner", victim), 422, "unknown_member"},
			"a foreign subject":        {with("subject_id", victim), 422, "unknown_member"},
			"a key of one's choice":    {with("key", made()), 422, "unknown_member"},
			"an id of one's choice":    {with("id", his.id), 422, "unknown_member"},
			"active":                   {with("is_active", true), 422, "unknown_member"},
			"more than one's own":      {with("scopes", []any{"read:users", "write:users"}), 403, "above_own_rights"},
			"a role that is not held":  {with("scopes", []any{"role:admin"}), 403, "above_own_rights"},
			"what does not exist":      {with("scopes", []any{"read:users", "no:such"}), 422, "unknown_scope"},
			"a role that is none":      {with("scopes", []any{"role:nosuch"}), 422, "unknown_scope"},
			"no name at all":           {with("scopes", []any{"read:users write:users"}), 422, "unknown_scope"},
			"everything":               {with("scopes", []any{"*"}), 422, "unknown_scope"},
			"in another case":          {with("scopes", []any{"Read:Users"}), 422, "unknown_scope"},
			"twice the same":           {with("scopes", []any{"read:users", "read:users"}), 422, "duplicate"},
			"65 scopes":                {with("scopes", many), 422, "too_long"},
			"no scopes":                {map[string]any{"name": "n"}, 422, "required"},
			"scopes that are null":     {with("scopes", nil), 422, "wrong_type"},
			"scopes as text":           {with("scopes", "read:users"), 422, "wrong_type"},
			"no name":                  {map[string]any{"scopes": []any{}}, 422, "required"},
			"an empty name":            {with("name", ""), 422, "too_short"},
			"101 characters":           {with("name", strings.Repeat("ä", 101)), 422, "too_long"},
			"a control character":      {with("name", "a\nb"), 422, "invalid_text"},
			"NUL":                      {with("name", "a\x00b"), 422, "invalid_text"},
			"a key as its name":        {with("name", "it is "+made()), 422, "invalid_text"},
			"expired":                  {with("expires_at", time.Now().Add(-time.Second)), 422, "out_of_range"},
			"in eleven years":          {with("expires_at", time.Now().AddDate(11, 0, 0)), 422, "out_of_range"},
			"in the year 1":            {with("expires_at", "0001-01-01T00:00:00Z"), 422, "out_of_range"},
			"a time that is none":      {with("expires_at", "tomorrow"), 422, "invalid_format"},
			"a time as a number":       {with("expires_at", 4102444800), 422, ""},
			"a member in another case": {with("Scopes", []any{}), 400, ""},
		} {
			r := w.do("POST", "/api-keys", ada.access, c.body)
			got, _ := r.json(t)["code"].(string)
			if errs, ok := r.json(t)["errors"].([]any); ok && c.status == 422 && len(errs) == 1 {
				got = errs[0].(map[string]any)["code"].(string)
			}
			// A member in another case is a duplicate, or unknown.
			if status := r.status; status != c.status && (what != "a member in another case" || status != 422) || c.code != "" && got != c.code {
				t.Errorf("%s: %d %s, want %d %s: %s", what, r.status, got, c.status, c.code, r.body)
			}
		}
		for _, member := range []string{"scopes", "expires_at", "owner", "key", "prefix"} {
			w.do("PATCH", "/api-keys/"+his.id, bob.access, map[string]any{member: "x"}).want(t, 422, "")
		}
		w.do("PATCH", "/api-keys/"+his.id, bob.access, map[string]any{"name": "a\tb"}).want(t, 422, "")
		// Another's key is as good as none, for administrators too.
		none := w.do("DELETE", "/api-keys/01890000-0000-7000-8000-000000000000", ada.access, nil).want(t, 404, "not_found")
		for _, thief := range []tokens{ada, root} {
			alike(t, "DELETE of another's", w.do("DELETE", "/api-keys/"+his.id, thief.access, nil), none)
			w.do("PATCH", "/api-keys/"+his.id, thief.access, map[string]any{"is_active": false}).want(t, 404, "not_found")
			w.do("PATCH", "/api-keys/"+his.id, thief.access, `{}`).want(t, 404, "not_found")
			if len(w.keys(thief)) != 0 {
				t.Error("another's keys are listed")
			}
		}
		// A limited token makes none, and nobody does.
		scoped := w.signIn("ada", goodPassword, "scope", "read:users")
		w.do("POST", "/api-keys", scoped.access, good()).want(t, 403, "insufficient_scope")
		w.do("GET", "/api-keys", scoped.access, nil).want(t, 403, "insufficient_scope")
		w.do("POST", "/api-keys", "", good()).want(t, 401, "unauthenticated")
		after := strings.Split(w.holdings(), "\n")
		for _, line := range after {
			if strings.HasPrefix(line, "API key") && !strings.Contains(before, line) {
				t.Errorf("there is %s", line)
			}
		}
		if !w.accepted(his.key) {
			t.Error("somebody ended bob's key")
		}
		if e := w.events("access.denied", 1); e[0].Detail["code"] == "" {
			t.Errorf("%+v", e[0])
		}
		// Rightly: all bounds are reached, and kept exactly.
		k := w.keyWith(ada, map[string]any{"name": strings.Repeat("ä", 100), "scopes": []any{"read:users", "role:moderator", "role:user"}, "expires_at": time.Now().AddDate(9, 11, 0)})
		if !w.accepted(k.key) || w.keys(ada)[0]["name"] != strings.Repeat("ä", 100) {
			t.Error("what is allowed was not made")
		}
	})
}

// Nobody has more than a hundred, however many are asked for at once.
func TestK_AtMostAHundred(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id, ada := w.user("ada")
		_, bob := w.user("bob")
		for range 95 {
			if _, _, err := w.sv.APIKeys.Create(t.Context(), apikey.NewKey{Owner: id, Name: "n"}); err != nil {
				t.Fatal(err)
			}
		}
		first := w.keys(ada)[94]["id"].(string)
		w.do("PATCH", "/api-keys/"+first, ada.access, map[string]any{"is_active": false}).want(t, 200, "")
		statuses := make([]int, 12)
		parallel(len(statuses), func(i int) {
			statuses[i] = w.do("POST", "/api-keys", ada.access, map[string]any{"name": "n", "scopes": []any{}}).status
		})
		slices.Sort(statuses)
		if fmt.Sprint(statuses) != "[201 201 201 201 201 409 409 409 409 409 409 409]" || len(w.keys(ada)) != 100 {
			t.Errorf("%v, and %d keys", statuses, len(w.keys(ada)))
		}
		w.do("POST", "/api-keys", ada.access, map[string]any{"name": "n", "scopes": []any{}}).want(t, 409, "too_many_api_keys")
		w.key(bob)
		w.do("DELETE", "/api-keys/"+first, ada.access, nil).want(t, 204, "")
		w.key(ada)
	})
}

// A key that is not good is refused for whatever reason in the same words; the
// audit log has the reason.
func TestK_RefusedAlike(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada", "moderator")
		adas := w.key(ada, "read:users").key
		_, bob := w.user("bob")
		expired := w.keyWith(bob, map[string]any{"name": "n", "scopes": []any{}, "expires_at": time.Now().Add(time.Hour)})
		inactive, deleted, disabled, gone := w.key(bob), w.key(bob), apiKey{}, apiKey{}
		id, carl := w.user("carl")
		disabled = w.key(carl)
		id2, dora := w.user("dora")
		gone = w.key(dora)
		for _, k := range []apiKey{expired, inactive, deleted, disabled, gone} {
			if !w.accepted(k.key) { // and so it is known, in memory
				t.Fatal("a new key is refused")
			}
		}
		w.do("PATCH", "/api-keys/"+inactive.id, bob.access, map[string]any{"is_active": false}).want(t, 200, "")
		w.do("DELETE", "/api-keys/"+deleted.id, bob.access, nil).want(t, 204, "")
		w.disable(id)
		w.do("DELETE", "/users/me", dora.access, nil).want(t, 204, "")
		_ = id2
		w.clock.advance(2 * time.Hour)

		body := adas[3:46]
		swapped := func(s string) string {
			return strings.Map(func(r rune) rune {
				switch {
				case r >= 'a' && r <= 'z':
					return r - 32
				case r >= 'A' && r <= 'Z':
					return r + 32
				}
				return r
			}, s)
		}
		reasons := map[string]string{ // key → what the audit log says of it
			expired.key: "the API key has expired", inactive.key: "the API key was deactivated", deleted.key: "the API key does not exist",
			disabled.key: "the account is disabled", gone.key: "the API key does not exist", made(): "the API key does not exist",
			adas[:51]: "not an API key: another length", adas + "0": "not an API key: another length", "": "not an API key: another length", "nonsense": "not an API key: another length",
			"SP_" + adas[3:]:                            "not an API key: another prefix",
			adas[:51] + "!":                             "not an API key: another alphabet",
			"sp_" + swapped(body) + adas[46:]:           "not an API key: the checksum is wrong",
			adas[:46] + swapped(adas[46:]) + "":         "not an API key: the checksum is wrong",
			adas[:46] + made()[46:]:                     "not an API key: the checksum is wrong",
			made()[:8] + adas[8:]:                       "not an API key: the checksum is wrong",
			adas[:8] + made()[8:]:                       "not an API key: the checksum is wrong",
			adas[:46] + adas[46:51] + "\u00e9"[:1] + "": "not an API key: another alphabet",
		}
		delete(reasons, adas)
		want := w.doKeyed("GET", "/users/me", made(), nil).want(t, 401, "invalid_token")
		if c := want.header["Www-Authenticate"]; len(c) != 2 || !slices.Contains(c, `ApiKey realm="sallyport", header="X-API-Key"`) {
			t.Errorf("challenges %q", c)
		}
		before := w.holdings()
		tr := w.trail()
		secrets := []string{adas[8:46]}
		n := 0
		for key := range reasons {
			if strings.ContainsFunc(key, func(r rune) bool { return r > 126 }) {
				continue // no client sends it
			}
			n++
			r := tr.send(key, w.keyed("GET", "/users/me", key, nil))
			alike(t, key, r, want)
			quiet(t, key, r, key)
			if len(key) > 20 {
				secrets = append(secrets, key[8:46])
			}
		}
		tr.audited("credential.refused", audit.Failure, secrets...)
		all := w.events("credential.refused", n)
		for _, e := range all {
			if key, ours := tr.ids[e.RequestID]; ours && e.Reason != reasons[key] {
				t.Errorf("%.12s…: the reason is %q, want %q", key, e.Reason, reasons[key])
			}
		}
		w.holds(before)
		if !w.accepted(adas) {
			t.Error("the genuine key is refused")
		}
		// On public routes too: who sends one believes to be known.
		w.doKeyed("GET", "/openapi.json", made(), nil).want(t, 401, "invalid_token")
		w.doKeyed("GET", "/openapi.json", adas, nil).want(t, 200, "")
	})
}

// What ends a key ends it at the next request, on every node, although both know
// the key.
func TestK_DeadAtOnce(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w, w2 := pair(t, d)
		_, root := w.user("root", "admin")
		_, bystander := w.user("bob", "moderator")
		bobs := w.key(bystander, "read:users").key
		for name, c := range map[string]struct {
			end    func(id string, owner tokens, k apiKey)
			back   func(id string, owner tokens, k apiKey) // nil: there is no way
			status int
			code   string
		}{
			"deactivated": {
				func(_ string, o tokens, k apiKey) {
					w.do("PATCH", "/api-keys/"+k.id, o.access, map[string]any{"is_active": false}).want(t, 200, "")
				}, func(_ string, o tokens, k apiKey) {
					w.do("PATCH", "/api-keys/"+k.id, o.access, map[string]any{"is_active": true}).want(t, 200, "")
				}, 401, "invalid_token",
			},
			"deleted": {func(_ string, o tokens, k apiKey) { w.do("DELETE", "/api-keys/"+k.id, o.access, nil).want(t, 204, "") }, nil, 401, "invalid_token"},
			"revoked by the operator": {func(_ string, _ tokens, k apiKey) {
				if _, err := w.sv.APIKeys.Delete(t.Context(), "", k.id); err != nil {
					t.Fatal(err)
				}
			}, nil, 401, "invalid_token"},
			"owner disabled": {
				func(id string, _ tokens, _ apiKey) {
					w.do("PATCH", "/users/"+id, root.access, map[string]any{"disabled": true}).want(t, 200, "")
				}, func(id string, _ tokens, _ apiKey) {
					w.do("PATCH", "/users/"+id, root.access, map[string]any{"disabled": false}).want(t, 200, "")
				}, 401, "invalid_token",
			},
			"owner deleted": {func(id string, _ tokens, _ apiKey) { w.do("DELETE", "/users/"+id, root.access, nil).want(t, 204, "") }, nil, 401, "invalid_token"},
			"owner demoted": {
				func(id string, _ tokens, _ apiKey) {
					w.do("PUT", "/users/"+id+"/roles", root.access, map[string]any{"roles": []string{"user"}}).want(t, 200, "")
				}, func(id string, _ tokens, _ apiKey) {
					w.do("PUT", "/users/"+id+"/roles", root.access, map[string]any{"roles": []string{"user", "moderator"}}).want(t, 200, "")
				}, 403, "insufficient_permission",
			},
		} {
			login := strings.ReplaceAll(name, " ", "-")
			id, tk := w.user(login, "moderator")
			k := w.key(tk, "read:users")
			for _, node := range []*world{w, w2, w, w2} {
				node.doKeyed("GET", "/users", k.key, nil).want(t, 200, "")
			}
			c.end(id, tk, k)
			for i, node := range []*world{w, w2, w, w2} {
				if r := node.doKeyed("GET", "/users", k.key, nil); i == 1 && r.status == 200 && d.Dialect() == db.Postgres {
					// The other node may answer from memory within the lease.
					deadline := time.Now().Add(time.Second)
					for r.status == 200 && time.Now().Before(deadline) {
						time.Sleep(10 * time.Millisecond)
						r = node.doKeyed("GET", "/users", k.key, nil)
					}
					r.want(t, c.status, c.code)
				} else {
					r.want(t, c.status, c.code)
				}
			}
			if c.back != nil {
				c.back(id, tk, k)
				w.doKeyed("GET", "/users", k.key, nil).want(t, 200, "")
			}
		}
		if !w.accepted(bobs) || !w2.accepted(bobs) {
			t.Error("another's key ended too")
		}
		// A role loses a permission: everybody's keys do.
		w.define("reader", "read:users")
		id, tk := w.user("rita", "reader")
		_ = id
		k := w.key(tk, "read:users", "role:reader").key
		w.doKeyed("GET", "/users", k, nil).want(t, 200, "")
		w.do("PUT", "/roles/reader", root.access, map[string]any{"permissions": []string{}}).want(t, 200, "")
		w.doKeyed("GET", "/users", k, nil).want(t, 403, "insufficient_permission")
		// What the owner is given later is not the key's.
		w.grant(id, "admin")
		w.doKeyed("GET", "/users", k, nil).want(t, 200, "")
		w.doKeyed("GET", "/roles", k, nil).want(t, 200, "") // read:users is enough there
		w.doKeyed("PUT", "/permissions/x", k, map[string]any{"description": ""}).want(t, 403, "insufficient_scope")
		// Signing out everywhere and another password end sessions, and no keys.
		w.do("POST", "/logout/all", tk.access, nil).want(t, 200, "")
		if w.alive(tk.access) || !w.accepted(k) {
			t.Error("signing out everywhere does not do what is documented")
		}
	})
}

// A key expires to the second, though it is known.
func TestK_Expiry(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /until", sallyport.SignedIn(), func(rw http.ResponseWriter, r *http.Request) {
				fmt.Fprint(rw, sallyport.From(r.Context()).Claims().Expires.Unix())
			})
		})
		_, ada := w.user("ada")
		short := w.keyWith(ada, map[string]any{"name": "n", "scopes": []any{}, "expires_at": w.clock.now().Add(30 * time.Second)})
		long := w.keyWith(ada, map[string]any{"name": "n", "scopes": []any{}, "expires_at": w.clock.now().Add(90 * time.Minute)})
		never := w.key(ada)
		alive := func(want ...bool) {
			t.Helper()
			for i, k := range []apiKey{short, long, never} {
				if got := w.accepted(k.key); got != want[i] {
					t.Errorf("key %d is accepted: %v", i, got)
				}
			}
		}
		alive(true, true, true)
		for range 2 {
			n, err := strconv.ParseInt(string(w.doKeyed("GET", "/until", long.key, nil).want(t, 200, "").body), 10, 64)
			if until := time.Until(time.Unix(n, 0)); err != nil || until < 89*time.Minute || until > 91*time.Minute {
				t.Errorf("a handler is told that the key expires in %v", until)
			}
		}
		w.clock.advance(25 * time.Second)
		alive(true, true, true)
		w.clock.advance(6 * time.Second)
		alive(false, true, true)
		w.clock.advance(89 * time.Minute)
		alive(false, true, true)
		w.clock.advance(time.Minute)
		alive(false, false, true)
		w.clock.advance(20 * 365 * 24 * time.Hour)
		alive(false, false, true)
	})
}

// A key makes no keys and changes no credentials, whoever's it is and whatever
// its scopes.
func TestK_ChangesNoCredentials(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, root := w.user("root", "admin")
		every := append([]string{"role:admin", "role:user", "role:moderator"}, builtinPermissions...)
		k := w.key(root, every...)
		session := w.do("GET", "/users/me/sessions", root.access, nil).want(t, 200, "").json(t)["items"].([]any)[0].(map[string]any)["id"].(string)
		before := w.holdings()
		tr := w.trail()
		for what, c := range map[string]struct {
			method, path string
			body         any
		}{
			"make a key":            {"POST", "/api-keys", map[string]any{"name": "n", "scopes": []any{}}},
			"list keys":             {"GET", "/api-keys", nil},
			"change itself":         {"PATCH", "/api-keys/" + k.id, map[string]any{"name": "n"}},
			"delete itself":         {"DELETE", "/api-keys/" + k.id, nil},
			"change the password":   {"PUT", "/users/me/password", map[string]any{"current_password": goodPassword, "new_password": goodPassword + "2"}},
			"change the account":    {"PATCH", "/users/me", map[string]any{"full_name": "x"}},
			"delete the account":    {"DELETE", "/users/me", nil},
			"list sessions":         {"GET", "/users/me/sessions", nil},
			"end a session":         {"DELETE", "/users/me/sessions/" + session, nil},
			"sign out":              {"POST", "/logout", nil},
			"sign out, of fastapi":  {"POST", "/auth/logout", nil},
			"sign out everywhere":   {"POST", "/logout/all", nil},
			"rights of its own id":  {"POST", "/api-keys", map[string]any{"name": "n", "scopes": every}},
			"delete a key not here": {"DELETE", "/api-keys/01890000-0000-7000-8000-000000000000", nil},
		} {
			r := tr.send(what, w.keyed(c.method, c.path, k.key, c.body))
			if code := r.text(t, "code"); r.status != 403 || code != "insufficient_scope" && code != "credential_not_accepted" {
				t.Errorf("%s: %d %s", what, r.status, r.body)
			}
		}
		tr.audited("access.denied", audit.Denied, k.key[8:])
		w.holds(before)
		for _, e := range w.events("access.denied", 1) {
			if e.ActorKind != "api_key" || e.Actor == "" || e.Detail["api_key"] != k.id {
				t.Errorf("%+v", e)
			}
		}
		// The same key does what it may.
		w.doKeyed("PUT", "/permissions/a:b", k.key, map[string]any{"description": "x"}).want(t, 200, "")
		if e := w.events("permission.put", 1)[0]; e.ActorKind != "api_key" || e.Detail["api_key"] != k.id {
			t.Errorf("%+v", e)
		}
		w.do("PATCH", "/api-keys/"+k.id, root.access, map[string]any{"name": "n"}).want(t, 200, "")
	})
}

// One credential of one kind is none of another.
func TestK_Crossings(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		k := w.key(ada).key
		// As an access token: refused as any that is bad.
		want := w.do("GET", "/users/me", "x.y.z", nil).want(t, 401, "invalid_token")
		alike(t, "a key as a bearer token", w.do("GET", "/users/me", k, nil), want)
		want = w.doKeyed("GET", "/users/me", made(), nil).want(t, 401, "invalid_token")
		for what, s := range map[string]string{"access token": ada.access, "refresh token": ada.refresh, "password": goodPassword, "bearer header": "Bearer " + k} {
			alike(t, what+" as a key", w.doKeyed("GET", "/users/me", s, nil), want)
		}
		// As a refresh token, and as a password.
		for way, req := range w.refreshRequests(k) {
			alike(t, "a key at "+way, w.send(req), w.send(w.refreshRequests("rt_nonsense")[way]))
		}
		w.form("/token", "grant_type", "password", "username", "ada", "password", k).want(t, 401, "invalid_grant")
		w.form("/token", "grant_type", "api_key", "api_key", k).want(t, 400, "")
		for _, scheme := range []string{"ApiKey ", "Basic ", "sp_ ", ""} {
			w.send(w.with("GET", "/users/me", scheme+k)).want(t, 401, "")
		}
		req := w.request("GET", "/users/me", "", nil)
		req.Header.Set("Cookie", "X-API-Key="+k+"; api_key="+k+"; session="+k)
		w.send(req).want(t, 401, "unauthenticated")
		if !w.accepted(k) || !w.alive(ada.access) {
			t.Error("one of the two ended")
		}
		// A key of one kind of id is none of another: its session is not there.
		w.do("DELETE", "/users/me/sessions/"+w.key(ada).id, ada.access, nil).want(t, 404, "")
		w.do("DELETE", "/api-keys/"+sessionOf(t, ada.access), ada.access, nil).want(t, 404, "")
	})
}

// Two credentials are none.
func TestK_SeveralCredentials(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, ada := w.user("ada")
	k, other := w.key(ada).key, w.key(ada).key
	for name, change := range map[string]func(*http.Request){
		"a token as well":       func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+ada.access) },
		"a bad token":           func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") },
		"the same twice":        func(r *http.Request) { r.Header.Add("X-API-Key", k) },
		"another":               func(r *http.Request) { r.Header.Add("X-Api-Key", other) },
		"an empty one":          func(r *http.Request) { r.Header.Add("X-Api-Key", "") },
		"with an empty bearer":  func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
		"two and a bad one too": func(r *http.Request) { r.Header["X-Api-Key"] = []string{k, "x", other} },
	} {
		req := w.keyed("GET", "/users/me", k, nil)
		change(req)
		r := w.send(req)
		if r.status != 400 || r.text(t, "code") != "several_credentials" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
		quiet(t, name, r, k, other)
	}
	if !w.accepted(k) {
		t.Error("alone, it is refused")
	}
}

// A key in an address is refused and is in no log, wherever it stands and
// whether it is good.
func TestK_InTheQuery(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		log := new(testkit.Buffer)
		w := newWorld(t, d, nil, func(c *server.Config) {
			c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		_, ada := w.user("ada", "moderator")
		good, bad := w.key(ada, "read:users").key, made()
		before := w.holdings()
		for _, k := range []string{good, bad} {
			for _, query := range []string{"X-API-Key=" + k, "api_key=" + k, "apikey=" + k, "key=" + k[:51], "q=" + k, "q=a&limit=" + k, k, "q=" + url.QueryEscape("https://x/?a="+k), "a=%73%70_" + k[3:]} {
				for _, path := range []string{"/users", "/users/me", "/openapi.json", "/nowhere", "/api-keys"} {
					for how, req := range map[string]*http.Request{
						"alone": w.request("GET", path+"?"+query, "", nil), "with a token": w.request("GET", path+"?"+query, ada.access, nil), "with a key": w.keyed("GET", path+"?"+query, good, nil),
					} {
						r := w.send(req)
						switch {
						case path == "/nowhere" && r.status == 404: // no route, no gate
						case r.status != 400 || r.text(t, "code") != "credential_in_query":
							t.Errorf("%s?%.20s… %s: %d %s", path, query, how, r.status, r.body)
						}
						quiet(t, query, r, k, k[8:40])
					}
				}
			}
			if strings.Contains(log.String(), k[8:40]) {
				t.Error("a key is in the log")
			}
		}
		// Routes that look at no credentials log no address either.
		w.do("GET", "/livez?api_key="+good, "", nil)
		w.sv.APIKeys.Flush()
		if text := log.String(); strings.Contains(text, good[8:40]) || !strings.Contains(text, "GET /users") {
			t.Errorf("the key is in the log, or nothing is: %.300s", text)
		}
		w.noSecretIn(t, good[8:40], bad[8:40])
		w.holds(before)
		w.doKeyed("GET", "/users?q=ada&limit=1", good, nil).want(t, 200, "")
	})
}

// When a key was last used is known to the minute, and writing it down neither
// costs a request a write nor changes anything else.
func TestK_LastUsed(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		k, idle := w.key(ada), w.key(ada)
		used := func(k apiKey) string {
			t.Helper()
			w.sv.APIKeys.Flush()
			for _, v := range w.keys(ada) {
				if v["id"] == k.id {
					s, _ := v["last_used_at"].(string)
					return s
				}
			}
			t.Fatal("the key is not listed")
			return ""
		}
		if used(k) != "" {
			t.Error("used before its use")
		}
		w.doKeyed("GET", "/users/me", k.key, nil).want(t, 200, "")
		first := used(k)
		at, err := time.Parse(time.RFC3339, first)
		if err != nil || w.clock.now().Sub(at).Abs() > 10*time.Second {
			t.Fatalf("used at %q: %v", first, err)
		}
		for range 20 {
			w.doKeyed("GET", "/users/me", k.key, nil).want(t, 200, "")
		}
		if again := used(k); again != first {
			t.Errorf("within a minute it was noted again: %s, %s", first, again)
		}
		w.clock.advance(61 * time.Second)
		w.doKeyed("GET", "/users/me", k.key, nil).want(t, 200, "")
		if again := used(k); again <= first {
			t.Errorf("a minute later it was not noted: %s, %s", first, again)
		}
		// It is the request that counts, and not when its change is made.
		_, boss := w.user("boss", "admin")
		writer := w.key(boss, "write:roles")
		s := w.slow("PUT", "/permissions/a:b", writer.key)
		w.clock.advance(30 * time.Second)
		s.finish(`{"description":"x"}`).want(t, 200, "")
		w.sv.APIKeys.Flush()
		at, err = time.Parse(time.RFC3339, w.keys(boss)[0]["last_used_at"].(string))
		if err != nil || w.clock.now().Sub(at) < 29*time.Second {
			t.Errorf("noted at %v, %v after the request: %v", at, w.clock.now().Sub(at), err)
		}
		// A refused use is none.
		later := used(k)
		w.do("PATCH", "/api-keys/"+k.id, ada.access, map[string]any{"is_active": false}).want(t, 200, "")
		w.clock.advance(time.Hour)
		w.doKeyed("GET", "/users/me", k.key, nil).want(t, 401, "")
		ada = w.signIn("ada", goodPassword)
		if used(k) != later || used(idle) != "" {
			t.Error("a refused use was noted, or that of another key")
		}
	})
}

// What a key was let in by is looked at again when its change is made.
func TestK_LostUnderWay(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		crony, _ := w.user("crony")
		_, root := w.user("root", "admin")
		for name, c := range map[string]struct {
			change func(id string, owner tokens, k apiKey)
			status int
			code   string
		}{
			"nothing": {func(string, tokens, apiKey) {}, 200, ""},
			"deactivated": {func(_ string, o tokens, k apiKey) {
				w.do("PATCH", "/api-keys/"+k.id, o.access, map[string]any{"is_active": false}).want(t, 200, "")
			}, 401, "invalid_token"},
			"deleted":    {func(_ string, o tokens, k apiKey) { w.do("DELETE", "/api-keys/"+k.id, o.access, nil).want(t, 204, "") }, 401, "invalid_token"},
			"disabled":   {func(id string, _ tokens, _ apiKey) { w.disable(id) }, 401, "invalid_token"},
			"demoted":    {func(id string, _ tokens, _ apiKey) { w.permit(id) }, 409, "authority_changed"},
			"signed out": {func(_ string, o tokens, _ apiKey) { w.do("POST", "/logout/all", o.access, nil).want(t, 200, "") }, 200, ""},
		} {
			id, _ := w.user("u" + strings.ReplaceAll(name, " ", ""))
			w.permit(id, "write:users")
			owner := w.signIn("u"+strings.ReplaceAll(name, " ", ""), goodPassword)
			k := w.key(owner, "write:users")
			s := w.slow("PATCH", "/users/"+crony, k.key)
			c.change(id, owner, k)
			r := s.finish(`{"full_name":"` + name + `"}`)
			if r.status != c.status || c.code != "" && r.text(t, "code") != c.code {
				t.Errorf("%s: %d %s, want %d %s", name, r.status, r.body, c.status, c.code)
			}
			got := w.do("GET", "/users/"+crony, root.access, nil).want(t, 200, "").json(t)["full_name"]
			if changed := got == name; changed != (c.status == 200) {
				t.Errorf("%s: the name is %v", name, got)
			}
		}
	})
}

// The end of a key that was acknowledged is not overtaken by a write that began
// before it.
func TestK_NoWriteOvertakesItsEnd(t *testing.T) {
	t.Parallel()
	d := testkit.Postgres(t)
	w := newWorld(t, d, nil)
	w.define("clerk", "write:users")
	for _, way := range []string{"deactivated", "deleted"} {
		victim := w.register("victim-of-" + way)
		_, tk := w.user("mallory-"+way, "clerk")
		k := w.key(tk, "write:users")
		hold, held := make(chan struct{}), make(chan struct{})
		done := make(chan reply, 1)
		go func() {
			_ = d.Write(context.Background(), func(tx *db.Tx) error {
				if _, err := tx.Exec("UPDATE sp_accounts SET email_verified = email_verified WHERE id = $1", victim); err != nil {
					return err
				}
				close(held)
				<-hold
				return errors.New("let go")
			})
		}()
		<-held
		req := w.keyed("PATCH", "/users/"+victim, k.key, map[string]any{"full_name": "Somebody Else"})
		go func() { done <- w.send(req) }()
		time.Sleep(200 * time.Millisecond) // for its transaction to wait on the row; either way it must not pass
		if way == "deleted" {
			w.do("DELETE", "/api-keys/"+k.id, tk.access, nil).want(t, 204, "")
		} else {
			w.do("PATCH", "/api-keys/"+k.id, tk.access, map[string]any{"is_active": false}).want(t, 200, "")
		}
		close(hold)
		if r := <-done; r.status != 401 {
			t.Errorf("a write was answered %d after its key was %s: %s", r.status, way, r.body)
		}
		if u, err := w.sv.Accounts.Get(t.Context(), victim); err != nil || u.FullName != nil {
			t.Errorf("account: %+v %v", u, err)
		}
	}
}

// A cookie and a parameter are read only where the configuration names them, and
// then as the header is.
func TestK_CookieAndQuery(t *testing.T) {
	log := new(testkit.Buffer)
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) {
		c.APIKeyHeader, c.APIKeyCookie, c.APIKeyQuery = "X-Secret", "ck", "auth"
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	_, root := w.user("root", "admin")
	k := w.key(root, "write:roles", "read:users").key
	cookie := func(method, path string, body any, headers ...string) reply {
		req := w.request(method, path, "", body)
		req.Header.Set("Cookie", "ck="+k)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		return w.send(req)
	}
	cookie("GET", "/users/me", nil).want(t, 200, "")
	cookie("PUT", "/permissions/a:b", map[string]any{"description": "x"}).want(t, 200, "")
	cookie("PUT", "/permissions/a:c", map[string]any{"description": "x"}, "Sec-Fetch-Site", "cross-site").want(t, 403, "cross_origin")
	cookie("PUT", "/permissions/a:c", map[string]any{"description": "x"}, "Origin", "https://evil.example").want(t, 403, "cross_origin")
	cookie("PUT", "/permissions/a:c", map[string]any{"description": "x"}, "Sec-Fetch-Site", "same-origin").want(t, 200, "")
	w.do("GET", "/users/me?auth="+k, "", nil).want(t, 200, "")
	w.do("GET", "/users?limit=1&auth="+k+"&q=root", "", nil).want(t, 200, "")
	w.do("GET", "/users?auth="+made(), "", nil).want(t, 401, "invalid_token")
	w.do("GET", "/users?auth="+k+"&nosuch=1", "", nil).want(t, 422, "")
	w.do("GET", "/users?api_key="+k, "", nil).want(t, 400, "credential_in_query")
	w.do("GET", "/users?auth="+k, root.access, nil).want(t, 400, "several_credentials")
	w.doKeyed("GET", "/users/me", k, nil).want(t, 401, "unauthenticated") // the header has another name
	req := w.request("GET", "/users/me", "", nil)
	req.Header.Set("X-Secret", k)
	w.send(req).want(t, 200, "")
	if c := w.do("GET", "/users/me", "", nil).header["Www-Authenticate"]; len(c) != 2 || !strings.Contains(c[1], `header="X-Secret"`) {
		t.Errorf("challenges %q", c)
	}
	described, _ := w.do("GET", "/openapi.json", "", nil).json(t)["components"].(map[string]any)["securitySchemes"].(map[string]any)
	for name, want := range map[string][2]string{"apiKey": {"header", "X-Secret"}, "apiKeyCookie": {"cookie", "ck"}, "apiKeyQuery": {"query", "auth"}} {
		if m, _ := described[name].(map[string]any); m["in"] != want[0] || m["name"] != want[1] || m["type"] != "apiKey" {
			t.Errorf("%s: %v", name, m)
		}
	}
	if strings.Contains(log.String(), k[8:40]) {
		t.Error("the key is in the log")
	}
}

// Keys of the configuration: exactly their permissions, no owner, no row.
func TestK_Static(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		reader, none, clerk := apikey.Generate(), apikey.Generate(), apikey.Generate()
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /whoami", sallyport.Via(sallyport.KindAPIKey), func(rw http.ResponseWriter, r *http.Request) {
				p := sallyport.From(r.Context())
				fmt.Fprintf(rw, "%s %s %s", p.ID(), p.KeyID(), p.Grants().Permissions())
			})
		}, func(c *server.Config) {
			c.APIKeys = []apikey.Static{apikey.NewStatic("reader", reader, []string{"read:users", "assign:roles", "read:ledger"}), apikey.NewStatic("none", none, nil), apikey.NewStatic("clerk", clerk, []string{"write:users"})}
		})
		id, ada := w.user("ada", "moderator")
		boss, _ := w.user("boss", "admin")
		k := reader.Reveal()
		for range 2 { // never remembered
			if got := string(w.doKeyed("GET", "/whoami", k, nil).want(t, 200, "").body); got != "config:reader config:reader assign:roles read:ledger read:users" {
				t.Errorf("it is %q", got)
			}
		}
		w.doKeyed("GET", "/users", k, nil).want(t, 200, "")
		w.doKeyed("GET", "/users", none.Reveal(), nil).want(t, 403, "insufficient_permission")
		w.doKeyed("GET", "/whoami", none.Reveal(), nil).want(t, 200, "")
		w.doKeyed("GET", "/users/me", k, nil).want(t, 404, "not_found")
		w.doKeyed("POST", "/api-keys", k, map[string]any{"name": "n", "scopes": []any{}}).want(t, 403, "")
		w.doKeyed("POST", "/users", k, map[string]any{"email": "x@example.com", "password": goodPassword}).want(t, 403, "")
		// It gives nobody more than it has, and touches nobody who has more.
		w.doKeyed("PUT", "/users/"+boss+"/roles", k, map[string]any{"roles": []string{"user"}}).want(t, 403, "above_own_rights")
		w.doKeyed("PUT", "/users/"+id+"/permissions", k, map[string]any{"permissions": []string{"write:users"}}).want(t, 403, "above_own_rights")
		plain := w.register("plain")
		w.doKeyed("PUT", "/users/"+plain+"/permissions", k, map[string]any{"permissions": []string{"read:ledger"}}).want(t, 200, "") // which exists by it
		if e := w.events("grants.changed", 1)[0]; e.Actor != "config:reader" || e.ActorKind != "api_key" {
			t.Errorf("%+v", e)
		}
		w.doKeyed("GET", "/users/me", made(), nil).want(t, 401, "invalid_token")
		newcomer := w.doKeyed("POST", "/users", clerk.Reveal(), map[string]any{"email": "x@example.com", "password": goodPassword}).want(t, 201, "").text(t, "id")
		w.doKeyed("PATCH", "/users/"+newcomer, clerk.Reveal(), map[string]any{"full_name": "X"}).want(t, 200, "")
		w.doKeyed("PATCH", "/users/"+boss, clerk.Reveal(), map[string]any{"full_name": "X"}).want(t, 403, "above_own_rights")
		if !w.alive(ada.access) {
			t.Error("a session ended")
		}
		// Without a database nothing is decided, though this needs none.
		w.doKeyed("GET", "/whoami", k, nil).want(t, 200, "")
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			r := w.doKeyed("GET", "/whoami", k, nil)
			if r.status == 503 {
				break
			}
			if r.want(t, 200, ""); time.Now().After(deadline) {
				t.Fatal("it is let in beyond the lease")
			}
		}
	})
}

// All mistakes of the configuration are reported at once, and none repeats a key.
func TestK_ConfigurationMistakes(t *testing.T) {
	k := apikey.Generate()
	_, err := server.New(t.Context(), server.Config{
		DB: testkit.SQLite(t), BaseURL: baseURL, APIKeyHeader: "Cookie", APIKeyCookie: "a b", APIKeyQuery: "access_token",
		APIKeys: []apikey.Static{{Name: "a", Digest: k.Reveal(), Scopes: []string{"role:admin"}}, {Name: "a", Digest: "12"}},
	})
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, part := range []string{"auth.api_key_header", "auth.api_key_cookie", "auth.api_key_query", "it holds a key", "is a role", "stands twice", "its digest is not"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
	if strings.Contains(err.Error(), k.Reveal()[8:]) {
		t.Error("the key is repeated")
	}
	// The session cookie is no place for keys: whoever signs in would be refused.
	for name, good := range map[string]bool{cookieName: false, "sallyport": false, "sallyport-key": true} {
		sv, err := server.New(t.Context(), server.Config{DB: testkit.SQLite(t), BaseURL: baseURL, APIKeyCookie: name})
		if sv != nil {
			sv.Close()
		}
		if taken := err == nil || !strings.Contains(err.Error(), "auth.api_key_cookie"); taken != good {
			t.Errorf("the cookie %s: %v", name, err)
		}
	}
}

// No permission has a name that reads as a role in a scope: a credential that was
// limited to the permission would count as having the role once there is one, and
// with services that only read the scope at once.
func TestK_NoPermissionReadsAsARole(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /ghosts", sallyport.Role("ghost"), func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) })
		})
		_, root := w.user("root", "admin")
		id, ada := w.user("ada")
		w.do("PUT", "/permissions/role:ghost", root.access, map[string]any{"description": "x"}).want(t, 422, "validation_failed")
		w.do("PUT", "/permissions/roles:ghost", root.access, map[string]any{"description": "x"}).want(t, 200, "")
		w.do("PUT", "/users/"+id+"/permissions", root.access, map[string]any{"permissions": []string{"role:ghost"}}).want(t, 422, "")
		w.do("PUT", "/users/"+id+"/permissions", root.access, map[string]any{"permissions": []string{"roles:ghost"}}).want(t, 200, "")
		w.do("POST", "/api-keys", ada.access, map[string]any{"name": "k", "scopes": []string{"role:ghost"}}).want(t, 422, "")
		early := w.key(ada, "roles:ghost")
		w.define("ghost")
		w.grant(id, "ghost")
		w.doKeyed("GET", "/ghosts", early.key, nil).want(t, 403, "")
		w.doKeyed("GET", "/ghosts", w.key(ada, "role:ghost").key, nil).want(t, 204, "")
		w.do("GET", "/ghosts", ada.access, nil).want(t, 204, "")
	})
}
