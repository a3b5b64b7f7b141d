package role_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

type fixture struct {
	*testing.T
	db *db.DB
}

func (f fixture) write(fn func(*db.Tx) error) error { return f.db.Write(context.Background(), fn) }

func (f fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f fixture) code(err error, want string) {
	f.Helper()
	e, ok := errors.AsType[*sallyport.Error](err)
	if want == "" && err == nil || ok && (e.Code == want || len(e.Fields) == 1 && e.Fields[0].Code == want) {
		return
	}
	f.Fatalf("got %v, want %q", err, want)
}

func (f fixture) subject(id string, roles ...string) {
	f.Helper()
	f.must(f.write(func(tx *db.Tx) error { return role.Create(tx, id, "user", time.Now(), roles...) }))
}

func (f fixture) put(actor role.Actor, name string, perms, includes []string) error {
	return f.write(func(tx *db.Tx) error {
		return role.Put(context.Background(), tx, actor, role.Role{Name: name, Permissions: perms, Includes: includes})
	})
}

func (f fixture) setRoles(actor role.Actor, id string, roles ...string) error {
	return f.write(func(tx *db.Tx) error { return role.SetRoles(context.Background(), tx, actor, id, roles) })
}

func (f fixture) grants(id string) *sallyport.Grants {
	f.Helper()
	view := f.db.View(f.Context())
	g, err := role.LoadGraph(view)
	f.must(err)
	roles, perms, err := role.Direct(view, id)
	f.must(err)
	return g.Resolve(roles, perms)
}

// as acts with what a subject holds now, scoped if names are given.
func (f fixture) as(id string, scope ...string) role.Actor {
	f.Helper()
	c := sallyport.Claims{Subject: id, Scoped: scope != nil, Scopes: sallyport.NewSet(scope...)}
	return role.ByPrincipal(sallyport.NewPrincipal(c, f.grants(id)))
}

func each(t *testing.T, f func(fixture)) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) { f(fixture{t, d}) })
}

func TestRolesContainRolesAndPermissions(t *testing.T) {
	each(t, func(f fixture) {
		f.must(f.write(func(tx *db.Tx) error { return role.PutPermission(context.Background(), tx, "read:items", "") }))
		f.must(f.put(role.Operator(), "clerk", []string{"read:items"}, []string{"guest"}))
		f.must(f.put(role.Operator(), "chief", nil, []string{"clerk"}))
		f.subject("a", "chief")
		g := f.grants("a")
		if !g.Holds("read:items") || g.Holds("read:users") || !g.Roles().Has("clerk") || !g.Roles().Has("guest") || g.Everything() {
			f.Errorf("grants: %v %v", g.Roles().Names(), g.Permissions().Names())
		}
		f.subject("root", role.Admin)
		if g := f.grants("root"); !g.Everything() || !g.Holds("anything:at-all") || !g.Roles().Has("user") {
			f.Error("an administrator does not hold everything")
		}
	})
}

func TestNames(t *testing.T) {
	each(t, func(f fixture) {
		f.subject("a", "user")
		op := role.Operator()
		f.code(f.setRoles(op, "a", "no-such"), "unknown_role")
		f.code(f.setRoles(op, "nobody", "user"), "not_found")
		f.code(f.put(op, "x", []string{"no:such"}, nil), "unknown_permission")
		f.code(f.put(op, "x", nil, []string{"no-such"}), "unknown_role")
		f.code(f.put(op, "a b", nil, nil), "invalid_name")
		f.code(f.put(op, role.Admin, nil, nil), "builtin_role")
		f.code(f.write(func(tx *db.Tx) error { return role.Remove(context.Background(), tx, op, "user") }), "builtin_role")
		f.code(f.write(func(tx *db.Tx) error { return role.Remove(context.Background(), tx, op, "x") }), "not_found")
		// A role that is declared by a rule can be granted afterwards.
		f.must(role.Declare(f.Context(), f.db, []string{"read:things", "read:users"}))
		f.code(f.put(op, "x", []string{"read:things"}, nil), "")
	})
}

func TestCyclesAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		op := role.Operator()
		f.code(f.put(op, "a", nil, []string{"a"}), "role_cycle")
		f.must(f.put(op, "a", nil, nil))
		f.must(f.put(op, "b", nil, []string{"a"}))
		f.must(f.put(op, "c", nil, []string{"b"}))
		f.code(f.put(op, "a", nil, []string{"c"}), "role_cycle")
		f.code(f.put(op, "guest", nil, []string{"user"}), "role_cycle")
		f.code(f.put(op, "a", nil, []string{"guest"}), "")
	})
}

func TestNobodyReachesAboveThemselves(t *testing.T) {
	each(t, func(f fixture) {
		op := role.Operator()
		f.must(f.put(op, "granter", []string{"assign:roles", "write:roles", "write:users"}, nil))
		f.must(f.put(op, "reader", []string{"read:users"}, nil))
		f.subject("root", role.Admin)
		f.subject("g", "granter")
		f.subject("both", "granter", "reader")
		f.subject("x")

		f.code(f.setRoles(f.as("g"), "x", role.Admin), "above_own_rights")
		f.code(f.setRoles(f.as("g"), "x", "reader"), "above_own_rights")
		f.code(f.setRoles(f.as("g"), "g", "granter", role.Admin), "above_own_rights")
		f.code(f.setRoles(f.as("g"), "root"), "above_own_rights")
		f.code(f.setRoles(f.as("g"), "both", "granter"), "above_own_rights") // would take what g has not
		f.code(f.put(f.as("g"), "granter", []string{"assign:roles", "write:roles", "write:users", "read:audit"}, nil), "above_own_rights")
		f.code(f.put(f.as("g"), "mine", nil, []string{role.Admin}), "above_own_rights")
		f.code(f.put(f.as("g"), "mine", []string{"read:users"}, nil), "above_own_rights")
		f.code(f.put(f.as("g"), "reader", nil, nil), "above_own_rights") // another's role
		f.code(f.setRoles(f.as("root", "assign:roles"), "x", role.Admin), "above_own_rights")
		f.must(f.put(op, "badge", nil, nil)) // a role that routes ask for by name
		f.code(f.put(f.as("g"), role.User, nil, []string{role.Guest, "badge"}), "above_own_rights")
		f.code(role.CheckTouch(f.db.View(f.Context()), f.as("g"), "root"), "above_own_rights")
		f.code(role.CheckTouch(f.db.View(f.Context()), f.as("root", "write:users"), "root"), "above_own_rights")

		// The controls: what they do hold, they may give and define.
		f.code(f.setRoles(f.as("g"), "x", "granter"), "")
		f.code(f.put(f.as("g"), "mine", []string{"assign:roles"}, nil), "")
		f.code(f.setRoles(f.as("both"), "x", "reader"), "")
		f.code(f.setRoles(f.as("root"), "x", role.Admin), "")
		f.code(role.CheckTouch(f.db.View(f.Context()), f.as("g"), "g"), "")
		f.subject("plain", role.User)
		f.code(role.CheckTouch(f.db.View(f.Context()), f.as("root", "write:users"), "plain"), "")
	})
}

func TestTheLastAdministratorStays(t *testing.T) {
	each(t, func(f fixture) {
		op := role.Operator()
		ctx := context.Background()
		f.must(f.put(op, "boss", nil, []string{role.Admin}))
		f.subject("one", "boss")
		f.subject("off", role.Admin)
		f.must(f.write(func(tx *db.Tx) error { return role.SetDisabled(tx, "off", true) }))
		for name, fn := range map[string]func(*db.Tx) error{
			"delete":      func(tx *db.Tx) error { return role.Delete(tx, "one") },
			"disable":     func(tx *db.Tx) error { return role.SetDisabled(tx, "one", true) },
			"take roles":  func(tx *db.Tx) error { return role.SetRoles(ctx, tx, op, "one", nil) },
			"take role":   func(tx *db.Tx) error { return role.Revoke(ctx, tx, op, "one", "boss") },
			"redefine":    func(tx *db.Tx) error { return role.Put(ctx, tx, op, role.Role{Name: "boss"}) },
			"remove role": func(tx *db.Tx) error { return role.Remove(ctx, tx, op, "boss") },
		} {
			if err := f.write(fn); err == nil {
				f.Errorf("%s: went through", name)
			} else {
				f.code(err, "last_administrator")
			}
		}
		f.subject("two", role.Admin)
		f.must(f.write(func(tx *db.Tx) error { return role.Delete(tx, "one") }))
		has, err := role.HasAdministrator(f.db.View(f.Context()))
		if err != nil || !has {
			f.Errorf("HasAdministrator: %v %v", has, err)
		}
	})
}

// Two administrators who each dismiss the other at once.
// A machine client that may do everything administers nothing: it neither lets
// the last person go, nor has to stay itself.
func TestMachinesAreNoAdministrators(t *testing.T) {
	each(t, func(f fixture) {
		machine := func(id string) {
			f.must(f.write(func(tx *db.Tx) error { return role.Create(tx, id, role.Client, time.Now(), role.Admin) }))
		}
		has := func(want bool) {
			f.Helper()
			got, err := role.HasAdministrator(f.db.View(f.Context()))
			f.must(err)
			if got != want {
				f.Errorf("HasAdministrator is %v, want %v", got, want)
			}
		}
		machine("m1")
		machine("m2")
		has(false)
		f.must(f.write(func(tx *db.Tx) error { return role.Delete(tx, "m2") }))
		f.subject("root", role.Admin)
		has(true)
		op := role.Operator()
		f.code(f.setRoles(op, "root"), "last_administrator")
		f.code(f.write(func(tx *db.Tx) error { return role.SetDisabled(tx, "root", true) }), "last_administrator")
		f.code(f.write(func(tx *db.Tx) error { return role.Delete(tx, "root") }), "last_administrator")
		f.must(f.setRoles(op, "m1"))
		f.must(f.setRoles(op, "m1", role.Admin))
		f.must(f.write(func(tx *db.Tx) error { return role.SetDisabled(tx, "m1", true) }))
		f.must(f.write(func(tx *db.Tx) error { return role.Delete(tx, "m1") }))
		// Through a role of one's own it is the same.
		f.must(f.put(op, "chief", nil, []string{role.Admin}))
		f.must(f.write(func(tx *db.Tx) error { return role.Create(tx, "m3", role.Client, time.Now(), "chief") }))
		f.code(f.setRoles(op, "root"), "last_administrator")
		f.subject("second", "chief")
		f.must(f.setRoles(op, "root"))
		f.code(f.write(func(tx *db.Tx) error { return role.Remove(context.Background(), tx, op, "chief") }), "last_administrator")
	})
}

func TestTheLastAdministratorStaysUnderRace(t *testing.T) {
	each(t, func(f fixture) {
		for round := range 10 {
			a, b := fmt.Sprint("a", round), fmt.Sprint("b", round)
			f.subject(a, role.Admin)
			f.subject(b, role.Admin)
			var wg sync.WaitGroup
			for _, id := range []string{a, b} {
				wg.Go(func() { _ = f.write(func(tx *db.Tx) error { return role.Delete(tx, id) }) })
			}
			wg.Wait()
			has, err := role.HasAdministrator(f.db.View(f.Context()))
			f.must(err)
			if !has {
				f.Fatalf("round %d: no administrator is left", round)
			}
			// Make room for the next round.
			for _, id := range []string{a, b} {
				f.must(f.write(func(tx *db.Tx) error {
					_, err := tx.Exec("DELETE FROM sp_subjects WHERE id = $1", id)
					return err
				}))
			}
		}
	})
}

func TestTheCacheIsNeverStale(t *testing.T) {
	each(t, func(f fixture) {
		c := role.NewCache(f.db)
		f.must(f.put(role.Operator(), "r", []string{"read:users"}, nil))
		f.subject("a", "r")
		read := func() *sallyport.Grants {
			var version int64
			var roles, permissions string
			_, err := f.db.View(f.Context()).Row(`SELECT v.roles,
				(SELECT COALESCE(string_agg(role, ' '), '') FROM sp_subject_roles WHERE subject_id = 'a'),
				(SELECT COALESCE(string_agg(permission, ' '), '') FROM sp_subject_permissions WHERE subject_id = 'a')
				FROM sp_versions v WHERE v.id = 1`, nil, &version, &roles, &permissions)
			f.must(err)
			g, err := c.Resolve(f.Context(), version, roles, permissions)
			f.must(err)
			return g
		}
		first, second := read(), read()
		if !first.Holds("read:users") || first != second {
			f.Fatal("not cached, or not right")
		}
		f.must(f.put(role.Operator(), "r", nil, nil))
		if read().Holds("read:users") {
			f.Fatal("a role's change is not seen")
		}
		f.must(f.setRoles(role.Operator(), "a", role.Moderator))
		if !read().Holds("read:users") {
			f.Fatal("a grant is not seen")
		}
		f.must(f.write(func(tx *db.Tx) error {
			return role.Revoke(context.Background(), tx, role.Operator(), "a", role.Moderator)
		}))
		if read().Holds("read:users") {
			f.Fatal("a revocation is not seen")
		}
	})
}

func TestChangesAreAudited(t *testing.T) {
	each(t, func(f fixture) {
		f.subject("a", "user")
		f.must(f.setRoles(role.Operator(), "a", "user", "moderator"))
		f.must(f.setRoles(role.Operator(), "a", "moderator", "user")) // the same: no event
		_ = f.setRoles(role.Operator(), "a", "no-such")
		events, err := audit.Latest(f.db.View(f.Context()), 10)
		f.must(err)
		var seen []string
		for _, e := range events {
			seen = append(seen, e.Action+" "+e.Detail["roles_before"]+" > "+e.Detail["roles"])
		}
		if !slices.Equal(seen, []string{"grants.changed user > moderator user"}) {
			f.Errorf("events: %v", seen)
		}
	})
}
