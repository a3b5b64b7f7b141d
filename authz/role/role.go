// Package role decides what a subject may do: roles, the permissions and other
// roles they contain, and what was granted to whom.
//
// It stores subjects, roles, permissions and grants. It never lets anybody
// give, take or touch more than they hold themselves, and it never lets the
// last administrator go.
//
// Begin with Role and server.Server.PutRole, for roles that a program has in its
// code, and with GrantsOf, which tells what somebody holds.
package role

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
)

// The built-in roles. Admin holds every permission there is or will be.
const (
	Admin     = "admin"
	Moderator = "moderator"
	User      = "user"
	Guest     = "guest"
)

// Role is a named set of permissions and other roles.
type Role struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Builtin     bool     `json:"builtin"`
	Permissions []string `json:"permissions"`
	Includes    []string `json:"includes"`
}

// Permission is a permission that exists: built in, named by a route's rule, or
// put.
type Permission struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Source      string `json:"source"`
}

// Graph is all roles at one moment.
type Graph struct {
	Roles       map[string]*Role
	Permissions map[string]*Permission
}

// closure returns roles and all roles they include.
func (g Graph) closure(roles []string) map[string]bool {
	seen := map[string]bool{}
	var walk func(string)
	walk = func(name string) {
		r := g.Roles[name]
		if r == nil || seen[name] {
			return
		}
		seen[name] = true
		for _, in := range r.Includes {
			walk(in)
		}
	}
	for _, r := range roles {
		walk(r)
	}
	return seen
}

// everybodys returns the role that everybody is given and those it includes.
func (g Graph) everybodys() map[string]bool { return g.closure([]string{User}) }

// Resolve returns what these roles and direct permissions amount to.
func (g Graph) Resolve(roles, permissions []string) *sallyport.Grants {
	all := g.closure(roles)
	names := make([]string, 0, len(all))
	perms := slices.Clone(permissions)
	for name := range all {
		names = append(names, name)
		perms = append(perms, g.Roles[name].Permissions...)
	}
	if all[Admin] {
		return sallyport.NewAdminGrants(names, perms)
	}
	return sallyport.NewGrants(names, perms)
}

// cycle returns a path from role back to itself, nil if there is none.
func (g Graph) cycle(role string) []string {
	var path []string
	seen := map[string]bool{}
	var walk func(string) bool
	walk = func(name string) bool {
		path = append(path, name)
		if name == role && len(path) > 1 {
			return true
		}
		if r := g.Roles[name]; r != nil && !seen[name] {
			seen[name] = true
			if slices.ContainsFunc(r.Includes, walk) {
				return true
			}
		}
		path = path[:len(path)-1]
		return false
	}
	if walk(role) {
		return path
	}
	return nil
}

// LimitScope returns what of a scope the subject holds now, each name once: a
// token never says more than its subject may. unknown tells whether a name is
// neither a permission nor "role:" and a role.
func LimitScope(rd db.Reader, subject string, scope []string) (held []string, unknown bool, err error) {
	strange, above, err := Standing(rd, subject, scope)
	if err != nil {
		return nil, false, err
	}
	held = []string{}
	for i, name := range scope {
		if !slices.Contains(strange, i) && !slices.Contains(above, i) && !slices.Contains(held, name) {
			held = append(held, name)
		}
	}
	return held, len(strange) > 0, nil
}

// Standing returns the places of those names of a scope that are neither a
// permission nor "role:" and a role, and of those that the subject does not hold
// now.
func Standing(rd db.Reader, subject string, scope []string) (unknown, above []int, err error) {
	g, err := LoadGraph(rd)
	if err != nil {
		return nil, nil, err
	}
	roles, perms, err := Direct(rd, subject)
	if err != nil {
		return nil, nil, err
	}
	grants := g.Resolve(roles, perms)
	for i, name := range scope {
		r, isRole := strings.CutPrefix(name, "role:")
		known, holds := g.Permissions[name] != nil, grants.Holds(name)
		if isRole && g.Roles[r] != nil {
			known, holds = true, grants.Roles().Has(r)
		}
		switch {
		case !known:
			unknown = append(unknown, i)
		case !holds:
			above = append(above, i)
		}
	}
	return unknown, above, nil
}

// GrantsOf resolves what a subject holds now.
func GrantsOf(rd db.Reader, subject string) (*sallyport.Grants, error) {
	g, err := LoadGraph(rd)
	if err != nil {
		return nil, err
	}
	roles, perms, err := Direct(rd, subject)
	if err != nil {
		return nil, err
	}
	return g.Resolve(roles, perms), nil
}

// Actor is who makes a change and how far their own rights reach.
type Actor struct {
	operator  bool
	principal sallyport.Principal
}

// Operator is the command line on the server's own database: it may do
// everything.
func Operator() Actor { return Actor{operator: true} }

// ByPrincipal acts with the rights of a request's credential.
func ByPrincipal(p sallyport.Principal) Actor { return Actor{principal: p} }

// Principal returns whose credential it is, nobody's of the operator.
func (a Actor) Principal() sallyport.Principal { return a.principal }

// covers reports whether all these grants are within the actor's own rights.
// The role that everybody is given, and what it includes, counts by its
// permissions alone: a credential that is scoped to write:users may see to
// plain users without being scoped to their role.
func (a Actor) covers(everybodys map[string]bool, g *sallyport.Grants) bool {
	if a.operator {
		return true
	}
	p := &a.principal
	if g.Everything() && !(p.Grants().Everything() && !p.Claims().Scoped) {
		return false
	}
	for name := range g.Permissions().All() {
		if !p.Can(name) {
			return false
		}
	}
	if p.Grants().Everything() && !p.Claims().Scoped {
		return true // holds what every role gives, also those it has not
	}
	for name := range g.Roles().All() {
		if !p.HasRole(name) && !everybodys[name] {
			return false
		}
	}
	return true
}

func aboveOwn() error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "above_own_rights",
		Message: "You cannot give, take or touch more than you may do yourself. Ask somebody who holds all the roles and permissions concerned.",
	}
}

func lastAdministrator() error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "last_administrator",
		Message: "This would leave nobody who administers the service. Make another account an administrator first.",
	}
}

func invalid(pointer, code, detail string) error {
	return sallyport.Invalid(sallyport.Field{Pointer: pointer, Code: code, Detail: detail})
}

// CheckTouch returns an error unless the actor's rights cover the subject's:
// who may change accounts may not thereby take over a greater one.
func CheckTouch(rd db.Reader, actor Actor, subject string) error {
	g, err := LoadGraph(rd)
	if err != nil {
		return err
	}
	roles, perms, err := Direct(rd, subject)
	if err != nil {
		return err
	}
	if !actor.covers(g.everybodys(), g.Resolve(roles, perms)) {
		return aboveOwn()
	}
	return nil
}

// Kinds of subjects.
const (
	Person = "user"
	Client = "client" // a machine client
)

// Create adds a subject with these direct roles, and no others.
func Create(tx *db.Tx, id, kind string, now time.Time, roles ...string) error {
	if err := insertSubject(tx, id, kind, now, false); err != nil {
		return err
	}
	return replaceRoles(tx, id, nil, roles)
}

// Adopt adds a subject that another system knew, with all it has: it may be
// disabled from the beginning. Roles and permissions must exist.
func Adopt(tx *db.Tx, id string, now time.Time, disabled bool, roles, permissions []string) error {
	if err := insertSubject(tx, id, Person, now, disabled); err != nil {
		return err
	}
	if err := replaceRoles(tx, id, nil, normal(roles)); err != nil {
		return err
	}
	return replacePermissions(tx, id, nil, normal(permissions))
}

// AdoptPlain gives the role User to all subjects with ids from first to last,
// which were adopted without roles in the same transaction: one statement for
// many of them.
func AdoptPlain(tx *db.Tx, first, last string) error { return insertUserRole(tx, first, last) }

// Discard takes back what Create or Adopt added in the same transaction:
// nobody has seen it.
func Discard(tx *db.Tx, id string) error { return discardSubject(tx, id) }

// SetDisabled disables or enables a subject. Its sessions are refused at the
// next request.
func SetDisabled(tx *db.Tx, id string, disabled bool) error {
	if err := audit.Watch(tx, id, time.Now()); err != nil {
		return err
	}
	if disabled {
		if err := keepAdministrator(tx, id); err != nil {
			return err
		}
	}
	return updateDisabled(tx, id, disabled)
}

// SetDisabledAnyway is SetDisabled also for the last administrator: where a table of
// the service's own decides who there is.
func SetDisabledAnyway(tx *db.Tx, id string, disabled bool) error {
	if err := audit.Watch(tx, id, time.Now()); err != nil {
		return err
	}
	return updateDisabled(tx, id, disabled)
}

// DeleteAnyway is Delete also for the last administrator, as SetDisabledAnyway is.
func DeleteAnyway(tx *db.Tx, id string) error { return deleteSubject(tx, id) }

// Delete removes a subject with all that refers to it.
func Delete(tx *db.Tx, id string) error {
	if err := keepAdministrator(tx, id); err != nil {
		return err
	}
	return deleteSubject(tx, id)
}

// keepAdministrator returns an error if id is the only enabled administrator.
// Machine clients do not count: a program with every right is nobody who could
// let a person in again.
func keepAdministrator(tx *db.Tx, id string) error {
	g, err := LoadGraph(tx)
	if err != nil {
		return err
	}
	roles, perms, err := Direct(tx, id)
	if err != nil || !g.Resolve(roles, perms).Everything() {
		return err
	}
	if person, err := isEnabledPerson(tx, id); err != nil || !person {
		return err
	}
	left, err := hasAdministrator(tx, g, id)
	if err == nil && !left {
		err = lastAdministrator()
	}
	return err
}

// HasAdministrator reports whether an enabled person administers the service.
func HasAdministrator(rd db.Reader) (bool, error) {
	g, err := LoadGraph(rd)
	if err != nil {
		return false, err
	}
	return hasAdministrator(rd, g, "")
}

// hasAdministrator looks for an enabled person, other than except, who is an
// administrator under g.
func hasAdministrator(rd db.Reader, g Graph, except string) (bool, error) {
	for name := range g.Roles {
		if g.closure([]string{name})[Admin] {
			if found, err := anyEnabledWithRole(rd, name, except); found || err != nil {
				return found, err
			}
		}
	}
	return false, nil
}

// SetRoles makes roles the subject's direct roles.
func SetRoles(ctx context.Context, tx *db.Tx, actor Actor, id string, roles []string) error {
	return regrant(ctx, tx, actor, id, func(_, perms []string) ([]string, []string) { return roles, perms })
}

// SetPermissions makes permissions the subject's direct permissions.
func SetPermissions(ctx context.Context, tx *db.Tx, actor Actor, id string, permissions []string) error {
	return regrant(ctx, tx, actor, id, func(roles, _ []string) ([]string, []string) { return roles, permissions })
}

// Grant adds one role to a subject.
func Grant(ctx context.Context, tx *db.Tx, actor Actor, id, name string) error {
	return regrant(ctx, tx, actor, id, func(roles, perms []string) ([]string, []string) { return with(roles, name), perms })
}

// Revoke takes one role from a subject.
func Revoke(ctx context.Context, tx *db.Tx, actor Actor, id, name string) error {
	return regrant(ctx, tx, actor, id, func(roles, perms []string) ([]string, []string) { return without(roles, name), perms })
}

// GrantPermission adds one permission to a subject.
func GrantPermission(ctx context.Context, tx *db.Tx, actor Actor, id, name string) error {
	return regrant(ctx, tx, actor, id, func(roles, perms []string) ([]string, []string) { return roles, with(perms, name) })
}

// RevokePermission takes one permission from a subject.
func RevokePermission(ctx context.Context, tx *db.Tx, actor Actor, id, name string) error {
	return regrant(ctx, tx, actor, id, func(roles, perms []string) ([]string, []string) { return roles, without(perms, name) })
}

func with(names []string, name string) []string { return append(slices.Clone(names), name) }

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

// regrant is the one place where grants change.
func regrant(ctx context.Context, tx *db.Tx, actor Actor, id string, change func(roles, perms []string) ([]string, []string)) error {
	if err := audit.Watch(tx, id, time.Now()); err != nil {
		return err
	}
	exists, err := subjectExists(tx, id)
	if err != nil {
		return err
	}
	if !exists {
		return sallyport.NotFound("user")
	}
	g, err := LoadGraph(tx)
	if err != nil {
		return err
	}
	oldRoles, oldPerms, err := Direct(tx, id)
	if err != nil {
		return err
	}
	roles, perms := change(oldRoles, oldPerms)
	if err := g.knowRoles("/roles", roles, ""); err != nil {
		return err
	}
	if err := g.knowPermissions(perms); err != nil {
		return err
	}
	roles, perms = normal(roles), normal(perms)
	before, after := g.Resolve(oldRoles, oldPerms), g.Resolve(roles, perms)
	if !actor.covers(g.everybodys(), before) || !actor.covers(g.everybodys(), after) {
		return aboveOwn()
	}
	if before.Everything() && !after.Everything() {
		if err := keepAdministrator(tx, id); err != nil {
			return err
		}
	}
	if slices.Equal(roles, oldRoles) && slices.Equal(perms, oldPerms) {
		return nil
	}
	if err := replaceRoles(tx, id, oldRoles, roles); err != nil {
		return err
	}
	if err := replacePermissions(tx, id, oldPerms, perms); err != nil {
		return err
	}
	if err := bumpSubject(tx, id); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "grants.changed", Target: id, Detail: map[string]string{
		"roles_before": strings.Join(oldRoles, " "), "roles": strings.Join(roles, " "),
		"permissions_before": strings.Join(oldPerms, " "), "permissions": strings.Join(perms, " "),
	}})
}

// knowRoles returns an error unless all these roles exist; self counts as one
// that does. It names the place and not the name, which may be a secret that
// was put in the wrong member.
func (g Graph) knowRoles(pointer string, names []string, self string) error {
	for i, name := range names {
		if g.Roles[name] == nil && (self == "" || name != self) {
			return invalid(fmt.Sprintf("%s/%d", pointer, i), "unknown_role", "There is no such role. GET /roles lists those that exist.")
		}
	}
	return nil
}

// knowPermissions is knowRoles for permissions.
func (g Graph) knowPermissions(names []string) error {
	for i, name := range names {
		if g.Permissions[name] == nil {
			return invalid(fmt.Sprintf("/permissions/%d", i), "unknown_permission", "There is no such permission. It exists once a route's rule names it, or after PUT /permissions/{name}.")
		}
	}
	return nil
}

func normal(names []string) []string {
	out := append([]string{}, names...)
	slices.Sort(out)
	return slices.Compact(out)
}

// Bounds of the graph: it is read and walked inside transactions.
const (
	maxRoles       = 1000
	maxPermissions = 2000
)

// Put creates or replaces a role.
func Put(ctx context.Context, tx *db.Tx, actor Actor, r Role) error {
	if err := sallyport.CheckName(r.Name); err != nil {
		return invalid("/name", "invalid_name", "Use 1 to 64 of a-z, A-Z, 0-9 and _ - . : /, beginning with a letter or digit.")
	}
	if r.Name == Admin {
		return &sallyport.Error{Status: http.StatusConflict, Code: "builtin_role", Message: "The role admin means everything and cannot be redefined. Define a role of your own instead."}
	}
	if err := checkDescription(r.Description); err != nil {
		return err
	}
	g, err := LoadGraph(tx)
	if err != nil {
		return err
	}
	if err := g.knowPermissions(r.Permissions); err != nil {
		return err
	}
	if err := g.knowRoles("/includes", r.Includes, r.Name); err != nil {
		return err
	}
	r.Permissions, r.Includes = normal(r.Permissions), normal(r.Includes)
	everybodys := g.everybodys() // as it is, not as the change would make it
	old := g.Roles[r.Name]
	if old != nil {
		r.Builtin = old.Builtin
		if !actor.covers(everybodys, g.Resolve([]string{r.Name}, nil)) {
			return aboveOwn()
		}
	}
	had, err := hasAdministrator(tx, g, "")
	if err != nil {
		return err
	}
	g.Roles[r.Name] = &r
	if path := g.cycle(r.Name); path != nil {
		return invalid("/includes", "role_cycle", "A role cannot include itself: "+strings.Join(path, " → ")+".")
	}
	after := g.Resolve([]string{r.Name}, nil)
	if old == nil && len(g.Roles) > maxRoles {
		return &sallyport.Error{
			Status: http.StatusConflict, Code: "too_many_roles",
			Message: "There are as many roles as there may be (1,000). Delete one that is not needed, or give permissions directly.",
		}
	}
	if old == nil && !actor.operator {
		// Nobody holds a role that does not exist yet: what counts is what it contains.
		after = g.Resolve(r.Includes, r.Permissions)
	}
	if !actor.covers(everybodys, after) {
		return aboveOwn()
	}
	if has, err := hasAdministrator(tx, g, ""); err != nil {
		return err
	} else if had && !has {
		return lastAdministrator()
	}
	if old != nil && old.Description == r.Description && slices.Equal(old.Permissions, r.Permissions) && slices.Equal(old.Includes, r.Includes) {
		return nil // as it is: nobody's requests are disturbed
	}
	if err := upsertRole(tx, r); err != nil {
		return err
	}
	if err := bumpRoles(tx); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "role.put", Target: r.Name, Detail: map[string]string{
		"permissions": strings.Join(r.Permissions, " "), "includes": strings.Join(r.Includes, " "),
	}})
}

// Remove deletes a role of one's own, and with it every grant of it.
func Remove(ctx context.Context, tx *db.Tx, actor Actor, name string) error {
	g, err := LoadGraph(tx)
	if err != nil {
		return err
	}
	r := g.Roles[name]
	if r == nil {
		return sallyport.NotFound("role")
	}
	if r.Builtin {
		return &sallyport.Error{Status: http.StatusConflict, Code: "builtin_role", Message: "A built-in role cannot be deleted. It can be taken from those who have it."}
	}
	if !actor.covers(g.everybodys(), g.Resolve([]string{name}, nil)) {
		return aboveOwn()
	}
	had, err := hasAdministrator(tx, g, "")
	if err != nil {
		return err
	}
	if err := deleteRole(tx, name); err != nil {
		return err
	}
	if g, err = LoadGraph(tx); err != nil {
		return err
	}
	if has, err := hasAdministrator(tx, g, ""); err != nil {
		return err
	} else if had && !has {
		return lastAdministrator()
	}
	if err := bumpRoles(tx); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "role.deleted", Target: name})
}

// checkDescription keeps out what would not survive a terminal or PostgreSQL.
func checkDescription(text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return invalid("/description", "invalid_text", "Use text on one line, without control characters.")
	}
	return nil
}

// PutPermission creates a permission of one's own or describes one.
func PutPermission(ctx context.Context, tx *db.Tx, name, description string) error {
	if err := sallyport.CheckName(name); err != nil {
		return invalid("/name", "invalid_name", "Use 1 to 64 of a-z, A-Z, 0-9 and _ - . : /, beginning with a letter or digit.")
	}
	if strings.HasPrefix(name, "role:") { // a scope of that name would be the role's, here later and elsewhere now
		return invalid("/name", "invalid_name", "In scopes “role:” and a name is a role. Begin with another word.")
	}
	if err := checkDescription(description); err != nil {
		return err
	}
	g, err := LoadGraph(tx)
	if err != nil {
		return err
	}
	if p := g.Permissions[name]; p != nil && p.Description == description {
		return nil
	} else if p == nil && len(g.Permissions) >= maxPermissions {
		return &sallyport.Error{
			Status: http.StatusConflict, Code: "too_many_permissions",
			Message: "There are as many permissions as there may be (2,000).",
		}
	}
	if err := upsertPermission(tx, name, description); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "permission.put", Target: name})
}

// Declare makes the permissions that rules name exist.
func Declare(ctx context.Context, d *db.DB, names []string) error {
	g, err := LoadGraph(d.View(ctx))
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(normal(names), func(n string) bool { return g.Permissions[n] != nil })
	if len(names) == 0 {
		return nil
	}
	return d.Write(ctx, func(tx *db.Tx) error {
		for _, n := range names {
			if err := declarePermission(tx, n); err != nil {
				return err
			}
		}
		return nil
	})
}
