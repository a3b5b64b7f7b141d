package server_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// A policy about a route holds on every way to it: under an alias, by HEAD, and where
// the Mux was mounted.
func TestA_PoliciesAboutARouteHoldOnEveryWayToIt(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		ok := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
		w := newWorld(t, d, func(w *world) {
			comments(w)
			w.mux.Alias("DELETE /c/{id}", "DELETE /comments/{id}")
			w.mux.Alias("DELETE /k/{id}", "DELETE /c/{id}") // of the alias
			w.mux.Handle("/any/{id}", sallyport.Permission("delete:comments"), ok)
			sub := sallyport.NewMux(w.sv)
			sub.Handle("DELETE /notes/{id}", sallyport.Permission("delete:comments"), ok)
			sub.Alias("DELETE /n/{id}", "DELETE /notes/{id}")
			w.mux.Mount("/sub", sub)
		})
		_, admin := w.user("root", "admin")
		all := []string{
			"DELETE /comments/1", "DELETE /c/1", "DELETE /k/1", "DELETE /sub/notes/1", "DELETE /sub/n/1",
			"GET /any/1", "HEAD /any/1", "POST /any/1",
		}
		for policy, closed := range map[string][]string{
			`resource == Route::"DELETE /comments/{id}")`:  {"DELETE /comments/1", "DELETE /c/1", "DELETE /k/1"},
			`resource == Route::"DELETE /sub/notes/{id}")`: {"DELETE /sub/notes/1", "DELETE /sub/n/1"},
			`resource) when { context.method == "GET" }`:   {"GET /any/1", "HEAD /any/1"},
		} {
			text := `forbid(principal, action == Action::"delete:comments", ` + policy + ";"
			w.policy(admin.access, "closed", text)
			for _, call := range all {
				status := http.StatusNoContent
				if slices.Contains(closed, call) {
					status = http.StatusForbidden
				}
				method, path, _ := strings.Cut(call, " ")
				if r := w.do(method, path, admin.access, nil); r.status != status {
					t.Errorf("%s\n%s: %d, want %d", text, call, r.status, status)
				}
			}
		}
	})
}

// Giving roles along with something else takes what giving them alone takes, policies
// and all, and is recorded as the gate records it.
func TestA_PoliciesAboutRolesHoldWhereverRolesAreGiven(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		w := newWorld(t, d, nil)
		_, admin := w.user("root", "admin")
		create := func(name string, more m) reply {
			body := m{"email": name + "@example.com", "username": name, "password": goodPassword}
			maps.Copy(body, more)
			return w.do("POST", "/users", admin.access, body)
		}
		roles := m{"roles": []string{"moderator"}}
		w.policy(admin.access, "frozen", `forbid(principal, action == Action::"assign:roles", resource == Route::"POST /users") when { context.ip.isLoopback() && context.method == "POST" };`)
		id := create("ada", roles).want(t, 403, "denied_by_policy").text(t, "decision_id")
		if e := w.decision(id); !strings.Contains(e.Detail["explanation"], "Policy frozen forbids it") || e.Detail["route"] != "POST /users" || e.Detail["facts"] == "" {
			t.Errorf("%+v", e)
		}
		create("ada", nil).want(t, 201, "")
		w.do("DELETE", "/policies/frozen", admin.access, nil).want(t, 204, "")
		create("bob", roles).want(t, 201, "")
		if n := len(w.events("access.denied", 1)); n != 1 {
			t.Errorf("%d events of one refusal", n)
		}
	})
}

func TestA_PoliciesAboutRolesHoldForSuperusers(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		w := newWorld(t, d, nil, asFastAPIUsers)
		ada, _ := w.member("ada")
		_, admin := w.member("boss", "admin")
		patch := func(body m) reply { return w.do("PATCH", "/users/"+ada, admin, body) }
		w.policy(admin, "frozen", `forbid(principal, action == Action::"assign:roles", resource);`)
		patch(m{"is_superuser": true, "is_verified": true}).want(t, 403, "denied_by_policy")
		patch(m{"is_superuser": false, "is_verified": true}).is(t, 200, userBody(ada, "ada@example.com", true, false, true)) // nothing is given
		w.do("DELETE", "/policies/frozen", admin, nil).want(t, 204, "")
		patch(m{"is_superuser": true}).is(t, 200, userBody(ada, "ada@example.com", true, true, true))
		w.policy(admin, "frozen", `forbid(principal, action == Action::"assign:roles", resource);`)
		patch(m{"is_superuser": false}).want(t, 403, "denied_by_policy")
	})
}

// decision waits for the event of a refusal, and returns it.
func (w *world) decision(id string) audit.Record {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for _, e := range w.events("access.denied", 1) {
			if e.DecisionID == id {
				return e
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the decision %s is in no event", id)
		}
	}
}
