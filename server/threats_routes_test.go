package server_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
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
		for about, closed := range map[string][]string{
			`resource == Route::"DELETE /comments/{id}")`:  {"DELETE /comments/1", "DELETE /c/1", "DELETE /k/1"},
			`resource == Route::"DELETE /sub/notes/{id}")`: {"DELETE /sub/notes/1", "DELETE /sub/n/1"},
			`resource) when { context.method == "GET" }`:   {"GET /any/1", "HEAD /any/1"},
		} {
			text := `forbid(principal, action == Action::"delete:comments", ` + about + ";"
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

// What is recorded of a refusal has of the path what a policy or the rule looks at,
// and no more: a path may hold a secret, and be as long as the caller likes.
func TestA_RefusalsKeepNoMoreOfAPathThanIsLookedAt(t *testing.T) {
	t.Parallel()
	const secret = "reset-token-0f9a8b7c"
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		comments(w)
		w.mux.HandleFunc("GET /reset/{token}", sallyport.Role("admin"), func(http.ResponseWriter, *http.Request) {})
	})
	_, admin := w.user("root", "admin")
	_, user := w.user("una")
	refused := func(method, path string) audit.Record {
		return w.decision(w.do(method, path, user.access, nil).want(t, 403, "").text(t, "decision_id"))
	}
	facts := func(e audit.Record) policy.Case {
		c, err := policy.ParseCase(e.Detail["facts"])
		if err != nil || c.Route == "" || c.Principal.ID == "" {
			t.Errorf("%v: %s", err, e.Detail["facts"])
		}
		return c
	}
	// A policy about something else looks at paths; those of a plain role's route stay out.
	w.policy(admin.access, "path", `permit(principal, action == Action::"delete:comments", resource) when { context.path like "/comments/public*" };`)
	e := refused("GET", "/reset/"+secret)
	if text := fmt.Sprintf("%+v", e); strings.Contains(text, secret) {
		t.Errorf("the path is recorded: %s", text)
	}
	if c := facts(e); c.Context.Path != "" || c.Values != nil {
		t.Errorf("%+v", c)
	}
	// Where it is looked at, it is there, to decide once more, and cut.
	e = refused("DELETE", "/comments/"+secret)
	if c := facts(e); c.Context.Path != "/comments/"+secret || !strings.Contains(e.Detail["explanation"], secret) {
		t.Errorf("%+v", e)
	}
	long := strings.Repeat("%01", 3000)
	for _, path := range []string{"/comments/" + long, "/orders/" + long + "/approval"} {
		method := map[bool]string{true: "DELETE", false: "POST"}[strings.HasPrefix(path, "/comments")]
		e := refused(method, path)
		if c := facts(e); len(e.Detail["facts"]) > 1500 || (c.Context.Path == "") != (c.Values["id"] != "") {
			t.Errorf("%d bytes: %s", len(e.Detail["facts"]), e.Detail["facts"])
		}
		size := 0
		for _, text := range e.Detail {
			size += len(text)
		}
		if size > 4000 {
			t.Errorf("%s: %d bytes of detail", method, size)
		}
	}
	// A draft that looks at a path that was not kept cannot be evaluated, and denies.
	c, set := facts(refused("POST", "/orders/17/approval")), policy.NewSet([]*policy.Policy{mustPolicy(t, `@id("x") permit(principal, action, resource) unless { context.path like "/x*" };`)}, nil, policy.Place{})
	if d := c.Decide(set); d.Allowed || len(d.Reasons[0].Errors) != 1 {
		t.Errorf("%+v", d)
	}
	if d := c.Decide(set.With([]*policy.Policy{mustPolicy(t, `@id("x") permit(principal, action, resource);`)})); !d.Allowed {
		t.Errorf("%+v", d)
	}
}

// A change under way is made by what policies see when it is made: not if its caller
// gained a role meanwhile that one forbids, not by a key of the configuration that was
// let in by other policies, and not from within a request that was.
func TestA_WhatPoliciesSawUnderWay(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		clerk := apikey.Generate()
		decided, goOn := make(chan struct{}), make(chan struct{})
		w := newWorld(t, d, func(w *world) {
			// It lets the caller change their own account, once it was let in itself.
			w.mux.HandleFunc("POST /outer", sallyport.Permission("rename:self"), func(rw http.ResponseWriter, r *http.Request) {
				decided <- struct{}{}
				<-goOn
				inner := r.Clone(r.Context())
				inner.Method, inner.URL = http.MethodPatch, &url.URL{Path: "/users/me"}
				w.mux.ServeHTTP(rw, inner)
			})
		}, func(c *server.Config) {
			c.APIKeys = []apikey.Static{apikey.NewStatic("clerk", clerk, []string{"write:roles", "assign:roles"})}
		})
		_, admin := w.user("root", "admin")
		bossID, boss := w.user("boss", "admin")
		w.define("trainee", "rename:self")
		put := func(token string) *slow { return w.slow("PUT", "/permissions/x:y", token) }
		body := `{"description":"x"}`

		// A role that is gained.
		w.policy(admin.access, "trainees", `forbid(principal in Role::"trainee", action == Action::"write:roles", resource);`)
		put(boss.access).finish(body).want(t, 200, "")
		change := put(boss.access)
		w.grant(bossID, "trainee")
		change.finish(body).want(t, 409, "authority_changed")
		w.do("PUT", "/permissions/x:y", boss.access, m{"description": "x"}).want(t, 403, "denied_by_policy")

		// A key of the configuration.
		put(clerk.Reveal()).finish(body).want(t, 200, "")
		change = put(clerk.Reveal())
		w.policy(admin.access, "keys", `forbid(principal is Client, action == Action::"write:roles", resource);`)
		change.finish(body).want(t, 409, "authority_changed")
		w.doKeyed("PUT", "/permissions/x:y", clerk.Reveal(), m{"description": "x"}).want(t, 403, "denied_by_policy")

		// A request within another.
		_, una := w.user("una", "trainee")
		for status, meanwhile := range map[int]func(){
			200: func() {},
			409: func() {
				w.policy(admin.access, "names", `forbid(principal, action == Action::"rename:self", resource);`)
			},
		} {
			w.do("DELETE", "/policies/names", admin.access, nil)
			answer := make(chan reply, 1)
			go func() { answer <- w.send(w.request("POST", "/outer", una.access, m{"full_name": "Una"})) }()
			<-decided
			meanwhile()
			goOn <- struct{}{}
			if r := <-answer; r.status != status {
				t.Errorf("a request within another: %d, want %d: %s", r.status, status, r.body)
			}
		}
	})
}
