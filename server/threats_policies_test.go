package server_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// comments adds routes of a service: one with a permission, one that only policies
// decide, and one that asks neither.
func comments(w *world) {
	ok := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
	w.mux.Handle("DELETE /comments/{id}", sallyport.Permission("delete:comments"), ok)
	w.mux.Handle("POST /orders/{id}/approval", sallyport.Policy("approve:orders", "Order::{id}"), ok)
	w.mux.Handle("GET /plain", sallyport.SignedIn(), ok)
}

// behindOffice declares this machine a proxy, so that a test can come from anywhere.
func behindOffice(c *server.Config) {
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

// from sends a request as the declared proxy would for a client at addr.
func (w *world) from(addr, method, path, token string) reply {
	w.t.Helper()
	req := w.request(method, path, token, nil)
	if addr != "" {
		req.Header.Set("X-Forwarded-For", addr)
	}
	return w.send(req)
}

// at moves the clock on to the next Monday at an hour (UTC).
func (w *world) onMonday(hour int) {
	now := w.clock.now().UTC()
	at := time.Date(now.Year(), now.Month(), now.Day(), hour, 30, 0, 0, time.UTC)
	for at.Weekday() != time.Monday || !at.After(now) {
		at = at.AddDate(0, 0, 1)
	}
	w.clock.advance(at.Sub(now))
}

// write stores a policy as an administrator.
func (w *world) policy(admin, id, cedar string) {
	w.t.Helper()
	w.do("PUT", "/policies/"+id, admin, map[string]string{"cedar": cedar}).want(w.t, 200, "")
}

const (
	officeHours = `permit(principal in Role::"moderator", action == Action::"delete:comments", resource) when {
	context.local.weekday <= 5 && context.local.hour >= 9 && context.local.hour < 18 && context.ip.isInRange(ip("203.0.113.0/24")) };`
	secondFactor = `forbid(principal in Role::"admin", action == Action::"delete:comments", resource) unless { context.mfa };`
	office       = "203.0.113.9"
)

// The example of docs/policies.md: moderators may delete comments only in working
// hours from the office network, administrators with a second factor always. The
// reason of a refusal is a sentence.
func TestA_ModeratorsInWorkingHours(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, comments, behindOffice, noLockout)
		w.onMonday(10)
		_, admin := w.user("root", "admin")
		w.policy(admin.access, "office-hours", officeHours)
		w.policy(admin.access, "second-factor", secondFactor)
		_, mod := w.user("mo", "moderator")
		_, user := w.user("una")
		del := func(addr, token string) reply { return w.from(addr, "DELETE", "/comments/17", token) }

		del(office, mod.access).want(t, 204, "")
		del("::ffff:"+office, mod.access).want(t, 204, "")
		del(office, user.access).want(t, 403, "insufficient_permission")
		del("198.51.100.7", mod.access).want(t, 403, "insufficient_permission")
		// What is allowed is in the token's hands only as far as its scope goes.
		del(office, w.signIn("mo", goodPassword, "scope", "read:users").access).want(t, 403, "insufficient_scope")

		// An administrator holds the permission, and is asked for a second factor.
		r := del(office, admin.access).want(t, 401, "insufficient_user_authentication")
		if c := r.header.Get("Www-Authenticate"); !strings.Contains(c, `acr_values="mfa"`) {
			t.Errorf("challenge %q", c)
		}
		w.enrol(admin.access)
		del("198.51.100.7", admin.access).want(t, 204, "")

		w.onMonday(20)
		mod, admin2 := w.signIn("mo", goodPassword), w.signIn("una", goodPassword)
		r = del("198.51.100.7", mod.access).want(t, 403, "insufficient_permission")
		del(office, admin2.access).want(t, 403, "insufficient_permission")
		// Its reasons are found under its id, and are not in the answer.
		id := r.text(t, "decision_id")
		if strings.Contains(string(r.body), "203.0.113") || strings.Contains(string(r.body), "office") {
			t.Errorf("the answer tells what the policy looks at: %s", r.body)
		}
		const want = `permission(delete:comments): Policy office-hours would permit it, but context.local.hour < 18 is false (context.local.hour is 20) and context.ip.isInRange(ip("203.0.113.0/24")) is false (context.ip is 198.51.100.7). It would take context.local.hour < 18 and context.ip.isInRange(ip("203.0.113.0/24")) (policy office-hours).`
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			var found bool
			for _, e := range w.events("access.denied", 1) {
				if e.DecisionID == id {
					found = true
					if e.Detail["explanation"] != want {
						t.Errorf("the explanation is\n%s\nwant\n%s", e.Detail["explanation"], want)
					}
					c, err := policy.ParseCase(e.Detail["facts"])
					set, err2 := w.sv.Policies.Read(t.Context())
					if err != nil || err2 != nil || c.Decide(set).Allowed || !c.Decide(set.With(nil, "office-hours").With([]*policy.Policy{mustPolicy(t, `@id("x") permit(principal, action, resource);`)})).Allowed {
						t.Errorf("the facts do not decide again: %v %v %s", err, err2, e.Detail["facts"])
					}
				}
			}
			if found {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the decision is in no event")
			}
		}
	})
}

func mustPolicy(t *testing.T, text string) *policy.Policy {
	t.Helper()
	all, err := policy.ParseDraft(text)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// A client that nobody vouches for cannot say where it is.
func TestA_PoliciesBelieveDeclaredProxiesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), comments)
	_, admin := w.user("root", "admin")
	w.policy(admin.access, "office", `permit(principal, action == Action::"delete:comments", resource) when { context.ip.isInRange(ip("203.0.113.0/24")) };`)
	_, user := w.user("una")
	for _, header := range []string{"X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP"} {
		req := w.request("DELETE", "/comments/1", user.access, nil)
		req.Header.Set(header, map[bool]string{true: "for=" + office, false: office}[header == "Forwarded"])
		w.send(req).want(t, 403, "insufficient_permission")
	}
	w.policy(admin.access, "office", `permit(principal, action == Action::"delete:comments", resource) when { context.ip.isLoopback() };`)
	w.do("DELETE", "/comments/1", user.access, nil).want(t, 204, "")
}

// A country comes from the file that the configuration names, by the address that a
// declared proxy tells of.
func TestA_PoliciesOnCountries(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "country.mmdb")
	if err := os.WriteFile(file, testkit.MMDB(203, "DE"), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile := func(c *server.Config) { c.CountryFile = file }
	const inGermany = `forbid(principal, action == Action::"delete:comments", resource) unless { context has country && context.country == "DE" };`
	const where = "198.51.100.7"
	for _, tt := range []struct {
		name       string
		change     []func(*server.Config)
		in, out    int // from an address that the file knows, and from one that it does not
		fromV6, no int
	}{
		{"with a file, behind a proxy", []func(*server.Config){fromFile, behindOffice}, 204, 403, 204, 403},
		{"nobody declared a proxy", []func(*server.Config){fromFile}, 403, 403, 403, 403},
		{"without a file", []func(*server.Config){behindOffice}, 403, 403, 403, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.SQLite(t), comments, append(tt.change, noLockout)...)
			if err := w.sv.Declare(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, admin := w.user("root", "admin")
			del := func(addr string) reply { return w.from(addr, "DELETE", "/comments/17", admin.access) }
			del(where).want(t, 204, "") // it is the policy that refuses
			w.policy(admin.access, "germany", inGermany)
			for addr, want := range map[string]int{office: tt.in, "::ffff:" + office: tt.fromV6, where: tt.out, "2001:db8::1": tt.no} {
				code := ""
				if want == 403 {
					code = "denied_by_policy"
				}
				del(addr).want(t, want, code)
			}
			if tt.in == 403 {
				return
			}
			for _, e := range w.events("access.denied", 2) {
				if !strings.Contains(e.Detail["explanation"], "context has country") || !strings.Contains(e.Detail["explanation"], "germany") {
					t.Errorf("the explanation does not name the country: %q", e.Detail["explanation"])
				}
			}
		})
	}
}

// How many policies there may be, and how long: the last one that fits is taken and
// works, the next is refused, and what there is can still be replaced and deleted.
func TestA_PoliciesHaveLimits(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, comments, noLockout)
		if err := w.sv.Declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, admin := w.user("root", "admin")
		put := func(id, cedar string) reply {
			t.Helper()
			return w.do("PUT", "/policies/"+id, admin.access, map[string]string{"cedar": cedar})
		}
		full := func(r reply, says string) {
			t.Helper()
			if r.want(t, 409, "too_many_policies"); !strings.Contains(r.text(t, "detail"), says) {
				t.Errorf("%s, want %q", r.body, says)
			}
		}
		const mine = `permit(principal in Role::"moderator", action == Action::"delete:comments", resource);`
		const refuse = `forbid(principal, action == Action::"delete:comments", resource);`

		// Of others there are all but one, each about an action of its own.
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec(`INSERT INTO sp_policies (id, cedar, description, permits, actions, version, updated_at, updated_by)
				WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
				SELECT 'p' || i, 'permit(principal, action == Action::"a' || i || '", resource);', '', TRUE, 'a' || i, 0, 0, 'test' FROM n`, policy.MaxPolicies-1)
			return err
		})
		put("last", refuse).want(t, 200, "")
		w.do("DELETE", "/comments/17", admin.access, nil).want(t, 403, "denied_by_policy")
		full(put("more", mine), "10000")
		put("last", mine).want(t, 200, "")
		w.do("DELETE", "/comments/17", admin.access, nil).want(t, 204, "")
		w.do("DELETE", "/policies/p1", admin.access, nil).want(t, 204, "")
		put("more", mine).want(t, 200, "")

		// All but one of the longest policies that fill 8 MiB to the byte, which are
		// counted as bytes and not as letters.
		longest := func(cedar string) string {
			cedar += " //"
			return cedar + strings.Repeat("é", (policy.MaxText-len(cedar))/2) + strings.Repeat("e", (policy.MaxText-len(cedar))%2)
		}
		w.write(func(tx *db.Tx) error {
			if _, err := tx.Exec("DELETE FROM sp_policies"); err != nil {
				return err
			}
			_, err := tx.Exec(`INSERT INTO sp_policies (id, cedar, description, permits, actions, version, updated_at, updated_by)
				WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
				SELECT 'p' || i, CAST($2 AS TEXT), '', TRUE, 'a', 0, 0, 'test' FROM n`,
				policy.MaxTotal/policy.MaxText-1, longest(`permit(principal, action == Action::"a", resource);`))
			return err
		})
		put("last", longest(refuse)).want(t, 200, "")
		w.do("DELETE", "/comments/17", admin.access, nil).want(t, 403, "denied_by_policy")
		full(put("more", mine), "8388608 bytes")
		put("last", longest(mine)+"e").want(t, 422, "validation_failed")
		put("last", mine).want(t, 200, "")
		put("more", mine).want(t, 200, "")
	})
}

// Of each policy the last hundred versions are kept, and of another nothing is lost.
func TestPolicyVersionsArePruned(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, comments)
		if err := w.sv.Declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, admin := w.user("root", "admin")
		const kept = 100
		text := func(i int) string {
			return fmt.Sprintf(`forbid(principal, action == Action::"delete:comments", resource) when { context has auth_age && context.auth_age == %d };`, i)
		}
		w.policy(admin.access, "other", text(0))
		for i := range kept + 5 {
			w.policy(admin.access, "mine", text(i))
		}
		history := func(id string, n int, newest, oldest string) {
			t.Helper()
			h, err := w.sv.Policies.History(t.Context(), id)
			if err != nil || len(h) != n || h[0].Cedar != newest || h[n-1].Cedar != oldest {
				t.Fatalf("%s: %d versions, %v", id, len(h), err)
			}
		}
		history("mine", kept, text(kept+4), text(5))
		history("other", 1, text(0), text(0))
		// A deletion is a version, too.
		w.do("DELETE", "/policies/mine", admin.access, nil).want(t, 204, "")
		history("mine", kept, text(kept+4), text(6))
	})
}

// Paths lead to resources as they are, whatever stands in them.
func TestA_ResourcesOfPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), comments)
	_, admin := w.user("root", "admin")
	w.do("POST", "/orders/17/approval", admin.access, nil).want(t, 403, "denied_by_policy") // not even an administrator
	w.policy(admin.access, "seventeen", `permit(principal, action == Action::"approve:orders", resource == Order::"17");`)
	_, user := w.user("una")
	w.do("POST", "/orders/17/approval", user.access, nil).want(t, 204, "")
	w.do("POST", "/orders/%31%37/approval", user.access, nil).want(t, 204, "") // the same path
	for _, id := range []string{"18", `17" || true || "`, `Order::"17"`, "17 ", "17/x", "１７", "17\x01"} {
		w.do("POST", "/orders/"+url.PathEscape(id)+"/approval", user.access, nil).want(t, 403, "denied_by_policy")
	}
	w.do("POST", "/orders/17/approval", "", nil).want(t, 401, "unauthenticated")
	// The document names the action as a scope.
	doc := w.do("GET", "/openapi.json", "", nil)
	if !strings.Contains(string(doc.body), `"/policies/check"`) {
		t.Error("the operations are not in the document")
	}
}

// Reading and writing policies, and who may.
func TestA_PoliciesAreWrittenWithinOnesRights(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, comments)
		_, admin := w.user("root", "admin")
		w.define("author", "read:policies", "write:policies", "delete:comments")
		_, author := w.user("ann", "author")
		_, user := w.user("una")
		put := func(token, id, cedar string, headers ...string) reply {
			req := w.request("PUT", "/policies/"+id, token, map[string]string{"cedar": cedar, "description": "x"})
			for i := 0; i < len(headers); i += 2 {
				req.Header.Set(headers[i], headers[i+1])
			}
			return w.send(req)
		}
		const mine, above, all = `permit(principal, action == Action::"delete:comments", resource);`, `permit(principal, action in [Action::"delete:comments", Action::"delete:users"], resource);`, `forbid(principal, action, resource);`

		put(user.access, "a", mine).want(t, 403, "insufficient_permission")
		w.do("GET", "/policies", user.access, nil).want(t, 403, "insufficient_permission")
		w.do("POST", "/policies/check", user.access, map[string]string{"principal": "root", "action": "read:users"}).want(t, 403, "insufficient_permission")
		put(author.access, "a", above).want(t, 403, "above_own_rights")
		put(author.access, "a", all).want(t, 403, "above_own_rights")
		first := put(author.access, "a", mine).want(t, 200, "")
		if first.text(t, "effect") != "permit" || first.header.Get("Etag") == "" {
			t.Errorf("%s", first.body)
		}
		put(w.signIn("ann", goodPassword, "scope", "write:policies").access, "b", mine).want(t, 403, "above_own_rights")
		put(w.signIn("ann", goodPassword, "scope", "write:policies delete:comments").access, "b", mine).want(t, 200, "")
		// What an administrator wrote about more stays out of reach.
		put(admin.access, "c", above).want(t, 200, "")
		put(author.access, "c", mine).want(t, 403, "above_own_rights")
		w.do("DELETE", "/policies/c", author.access, nil).want(t, 403, "above_own_rights")

		// Versions.
		second := put(admin.access, "a", `forbid(principal, action == Action::"delete:comments", resource);`, "If-Match", first.header.Get("Etag")).want(t, 200, "")
		put(admin.access, "a", mine, "If-Match", first.header.Get("Etag")).want(t, 412, "version_conflict")
		put(admin.access, "none", mine, "If-Match", first.header.Get("Etag")).want(t, 412, "version_conflict")
		put(admin.access, "a", mine, "If-Match", "7").want(t, 422, "validation_failed")
		same := put(admin.access, "a", `forbid(principal, action == Action::"delete:comments", resource);`).want(t, 200, "")
		if same.header.Get("Etag") != second.header.Get("Etag") {
			t.Error("the same policy is a new version")
		}
		history, err := w.sv.Policies.History(t.Context(), "a")
		if err != nil || len(history) != 2 || history[1].Cedar != mine {
			t.Errorf("%+v %v", history, err)
		}

		// What is wrong is named where it is.
		for cedar, code := range map[string]string{
			"permit(principal, action, resource": "syntax", strings.Replace(mine, "comments", "comment", 1): "unknown_action",
			`permit(principal, action == Action::"write:policies", resource);`: "exempt_action",
		} {
			m := put(admin.access, "d", cedar).want(t, 422, "validation_failed").json(t)
			e := m["errors"].([]any)[0].(map[string]any)
			if e["pointer"] != "/cedar" || e["code"] != code {
				t.Errorf("%s: %v", cedar, e)
			}
		}
		put(admin.access, "no%20name", mine).want(t, 422, "validation_failed")
		w.do("GET", "/policies/d", admin.access, nil).want(t, 404, "not_found")

		// Pages.
		page := w.do("GET", "/policies?limit=2", author.access, nil).want(t, 200, "").json(t)
		rest := w.do("GET", "/policies?limit=2&cursor="+url.QueryEscape(page["next_cursor"].(string)), author.access, nil).want(t, 200, "").json(t)
		if len(page["items"].([]any)) != 2 || len(rest["items"].([]any)) != 1 || rest["next_cursor"] != nil {
			t.Errorf("%v, then %v", page, rest)
		}
		w.do("GET", "/policies?cursor=x", author.access, nil).want(t, 400, "invalid_cursor")

		// Whoever shuts everybody out can undo it, and nobody else's permissions help.
		put(admin.access, "all", all).want(t, 200, "")
		w.do("GET", "/users", admin.access, nil).want(t, 403, "denied_by_policy")
		w.do("GET", "/plain", user.access, nil).want(t, 204, "")
		w.do("DELETE", "/policies/all", author.access, nil).want(t, 403, "above_own_rights")
		w.do("DELETE", "/policies/all", admin.access, nil).want(t, 204, "")
		w.do("DELETE", "/policies/all", admin.access, nil).want(t, 404, "not_found")
		w.do("GET", "/users", admin.access, nil).want(t, 200, "")
		if n := len(w.events("policy.put", 4)); n != 5 {
			t.Errorf("%d events of policies that were written", n)
		}
		w.events("policy.deleted", 1)
	})
}

// POST /policies/check decides as the gate does.
func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), comments)
	_, admin := w.user("root", "admin")
	w.policy(admin.access, "office-hours", officeHours)
	w.policy(admin.access, "own", `permit(principal is Client, action == Action::"approve:orders", resource == Order::"17");`)
	w.user("mo", "moderator")
	client := w.machine([]string{"approve:orders"})
	ask := func(q map[string]any) map[string]any {
		return w.do("POST", "/policies/check", admin.access, q).want(t, 200, "").json(t)
	}
	q := func(ip string) map[string]any {
		return map[string]any{"principal": "mo", "action": "delete:comments", "context": map[string]any{"ip": ip, "time": "2026-11-23T10:00:00Z"}}
	}
	if a := ask(q(office)); a["decision"] != "allow" || a["decision_id"] == "" {
		t.Errorf("%v", a)
	}
	a := ask(q("198.51.100.7"))
	if a["decision"] != "deny" || !strings.Contains(a["explanation"].(string), "context.ip is 198.51.100.7") || len(a["reasons"].([]any)) != 1 {
		t.Errorf("%v", a)
	}
	for _, e := range w.events("policy.checked", 2)[:1] {
		if e.DecisionID != a["decision_id"] || e.Detail["decision"] != "deny" {
			t.Errorf("%+v", e)
		}
	}
	for resource, want := range map[string]string{"Order::17": "allow", `Order::"17"`: "allow", "Order::18": "deny", `Order::"17" || true`: "deny"} {
		if a := ask(map[string]any{"principal": client.ID, "action": "approve:orders", "resource": resource}); a["decision"] != want {
			t.Errorf("%s: %v", resource, a)
		}
	}
	// It is not known where somebody is who does not say: that denies, and is told.
	if a := ask(map[string]any{"principal": "mo@example.com", "action": "delete:comments", "context": map[string]any{"time": "2026-11-23T10:00:00Z"}}); a["decision"] != "deny" || len(a["errors"].([]any)) != 1 {
		t.Errorf("%v", a)
	}
	for what, wrong := range map[string]map[string]any{
		"/action":     {"principal": "mo", "action": "delete:comment"},
		"/resource":   {"principal": "mo", "action": "delete:comments", "resource": "Nothing::1"},
		"/context/ip": {"principal": "mo", "action": "delete:comments", "context": map[string]any{"ip": "x"}},
	} {
		m := w.do("POST", "/policies/check", admin.access, wrong).want(t, 422, "validation_failed").json(t)
		if p := m["errors"].([]any)[0].(map[string]any)["pointer"]; p != what {
			t.Errorf("%v, want %s", m, what)
		}
	}
	w.do("POST", "/policies/check", admin.access, map[string]string{"principal": "nobody", "action": "delete:comments"}).want(t, 404, "not_found")
}

// What one node is told holds on the other within a second, and what a node cannot
// read it does not pass over.
func TestA_PoliciesOnTwoNodes(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, comments)
		other := newWorld(t, testkit.Again(t, d), comments, func(c *server.Config) { c.MasterKeyFile, c.Now = w.cfg.MasterKeyFile, w.clock.now })
		_, admin := w.user("root", "admin")
		_, user := w.user("una")
		del := func(w *world) reply { return w.do("DELETE", "/comments/17", user.access, nil) }
		del(w).want(t, 403, "insufficient_permission")
		del(other).want(t, 403, "insufficient_permission")
		for round := range 3 {
			w.policy(admin.access, "p", fmt.Sprintf(`permit(principal, action == Action::"delete:comments", resource) when { %d == %[1]d };`, round))
			del(w).want(t, 204, "")
			time.Sleep(other.sv.Lease()) // no longer: a change is heard of within it
			del(other).want(t, 204, "")
			w.do("DELETE", "/policies/p", admin.access, nil).want(t, 204, "")
			del(w).want(t, 403, "insufficient_permission")
			time.Sleep(other.sv.Lease())
			del(other).want(t, 403, "insufficient_permission")
		}
		// A policy that was tampered with denies what it was about, and nothing else.
		w.policy(admin.access, "p", `permit(principal, action == Action::"delete:comments", resource);`)
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_policies SET cedar = 'permit(principal, action, resource);', version = version + 1")
			if err == nil {
				_, err = tx.Exec("UPDATE sp_versions SET policies = policies + 1")
			}
			if err != nil {
				return err
			}
			return tx.Changed(db.ChangedPolicies)
		})
		del(w).want(t, 403, "insufficient_permission")
		w.do("DELETE", "/comments/17", admin.access, nil).want(t, 403, "denied_by_policy")
		w.do("GET", "/users", admin.access, nil).want(t, 200, "")
		// Policies that are away.
		w.write(func(tx *db.Tx) error {
			if _, err := tx.Exec("ALTER TABLE sp_policies RENAME TO sp_gone"); err != nil {
				return err
			}
			if _, err := tx.Exec("UPDATE sp_versions SET policies = policies + 1"); err != nil {
				return err
			}
			return tx.Changed(db.ChangedPolicies)
		})
		time.Sleep(other.sv.Lease())
		for _, w := range []*world{w, other} {
			del(w).want(t, 503, "unavailable")
			w.do("GET", "/plain", user.access, nil).want(t, 204, "")
		}
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec("ALTER TABLE sp_gone RENAME TO sp_policies")
			return err
		})
		for _, w := range []*world{w, other} {
			del(w).want(t, 403, "insufficient_permission")
		}
	})
}

// A change that policies let in is not made once they are others.
func TestA_PoliciesUnderWay(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, comments)
		_, admin := w.user("root", "admin")
		change := w.slow("PUT", "/permissions/x:y", admin.access)
		w.policy(admin.access, "none", `forbid(principal, action == Action::"write:roles", resource);`)
		change.finish(`{"description":"x"}`).want(t, 409, "authority_changed")
		w.do("PUT", "/permissions/x:y", admin.access, map[string]string{"description": "x"}).want(t, 403, "denied_by_policy")
		w.do("DELETE", "/policies/none", admin.access, nil).want(t, 204, "")
		w.do("PUT", "/permissions/x:y", admin.access, map[string]string{"description": "x"}).want(t, 200, "")
	})
}

// Every 403 names a decision, whoever says it.
func TestEvery403NamesADecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), comments, noLockout)
	_, admin := w.user("root", "admin")
	_, user := w.user("una")
	w.define("author", "assign:roles", "write:users", "read:users")
	_, author := w.user("ann", "author")
	id, _ := w.user("eve")
	w.enrol(w.signIn("eve", goodPassword).access)
	scoped := w.signIn("root", goodPassword, "scope", "read:policies").access
	for what, r := range map[string]reply{
		"a permission":     w.do("GET", "/users", user.access, nil),
		"a policy":         w.do("POST", "/orders/1/approval", admin.access, nil),
		"a scope":          w.do("GET", "/users", scoped, nil),
		"above one's own":  w.do("PUT", "/users/"+id+"/roles", author.access, map[string]any{"roles": []string{"admin"}}),
		"a second factor":  w.form("/token", "grant_type", "password", "username", "eve", "password", goodPassword),
		"a second factor.": w.do("POST", "/auth/login", "", map[string]string{"username": "eve", "password": goodPassword}),
		"introspection":    w.send(w.introspect(user.access)),
		"mail that is off": w.do("POST", "/auth/request-link", "", map[string]string{"email": "una@example.com"}),
	} {
		if r.status != 403 {
			t.Errorf("%s: %d %s", what, r.status, r.body)
			continue
		}
		if id, _ := r.json(t)["decision_id"].(string); !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
			t.Errorf("%s: decision_id %q: %s", what, id, r.body)
		}
	}
	// Those that are events name the same.
	r := w.do("PUT", "/users/"+id+"/roles", author.access, map[string]any{"roles": []string{"admin"}}).want(t, 403, "above_own_rights")
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for _, e := range w.events("access.denied", 1) {
			if e.DecisionID == r.text(t, "decision_id") {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the decision is in no event")
		}
	}
}

// introspect asks about a token with another.
func (w *world) introspect(token string) *http.Request {
	req := w.request("POST", "/token/introspect", token, "token=x")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}
