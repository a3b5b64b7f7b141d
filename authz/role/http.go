package role

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/internal/db"
)

type roleInput struct {
	Name string `path:"name" doc:"Name of the role" maxLength:"64"`
	Body struct {
		Description string   `json:"description" required:"false" maxLength:"200" doc:"What the role is for"`
		Permissions []string `json:"permissions" required:"false" maxItems:"200" doc:"Permissions that the role holds"`
		Includes    []string `json:"includes" required:"false" maxItems:"50" doc:"Roles whose permissions the role holds too"`
	}
}

type nameInput struct {
	Name string `path:"name" maxLength:"64"`
}

type permissionInput struct {
	Name string `path:"name" doc:"Name of the permission, for example read:items" maxLength:"64"`
	Body struct {
		Description string `json:"description" maxLength:"200" doc:"What the permission allows"`
	}
}

// Routes registers the operations on roles and permissions.
func Routes(a *api.API, d *db.DB) {
	read := sallyport.Any(sallyport.Permission("write:roles"), sallyport.Permission("assign:roles"), sallyport.Permission("read:users"))
	write := sallyport.Permission("write:roles")

	api.Get(a, "/roles", read, func(ctx context.Context, _ *api.None) (*api.Body[api.Page[Role]], error) {
		g, err := LoadGraph(d.View(ctx))
		if err != nil {
			return nil, err
		}
		return &api.Body[api.Page[Role]]{Body: api.NewPage(sorted(g.Roles, func(r Role) string { return r.Name }), "")}, nil
	}, api.Doc("Roles", "List roles", "Every role with what it contains."))

	api.Put(a, "/roles/{name}", write, func(ctx context.Context, in *roleInput) (*api.Body[Role], error) {
		r := Role{Name: in.Name, Description: in.Body.Description, Permissions: in.Body.Permissions, Includes: in.Body.Includes}
		var out *Role
		err := d.Write(ctx, func(tx *db.Tx) error {
			if err := Put(ctx, tx, ByPrincipal(sallyport.From(ctx)), r); err != nil {
				return err
			}
			g, err := LoadGraph(tx)
			out = g.Roles[r.Name]
			return err
		})
		if err != nil {
			return nil, err
		}
		return &api.Body[Role]{Body: *out}, nil
	}, api.Doc("Roles", "Create or replace a role", "A role holds permissions and includes other roles. Nobody can define more than they hold. The change holds at the next request of everybody who has the role."), api.Errors(409))

	api.Delete(a, "/roles/{name}", write, func(ctx context.Context, in *nameInput) (*api.None, error) {
		return nil, d.Write(ctx, func(tx *db.Tx) error {
			return Remove(ctx, tx, ByPrincipal(sallyport.From(ctx)), in.Name)
		})
	}, api.Doc("Roles", "Delete a role", "Takes the role from everybody who has it. Built-in roles stay."), api.Status(204), api.Errors(404, 409))

	api.Get(a, "/permissions", read, func(ctx context.Context, _ *api.None) (*api.Body[api.Page[Permission]], error) {
		g, err := LoadGraph(d.View(ctx))
		if err != nil {
			return nil, err
		}
		return &api.Body[api.Page[Permission]]{Body: api.NewPage(sorted(g.Permissions, func(p Permission) string { return p.Name }), "")}, nil
	}, api.Doc("Roles", "List permissions", "Every permission that exists: built in, named by a route's rule, or put."))

	api.Put(a, "/permissions/{name}", write, func(ctx context.Context, in *permissionInput) (*api.Body[Permission], error) {
		var out *Permission
		err := d.Write(ctx, func(tx *db.Tx) error {
			if err := PutPermission(ctx, tx, in.Name, in.Body.Description); err != nil {
				return err
			}
			g, err := LoadGraph(tx)
			out = g.Permissions[in.Name]
			return err
		})
		if err != nil {
			return nil, err
		}
		return &api.Body[Permission]{Body: *out}, nil
	}, api.Doc("Roles", "Create or describe a permission", "A permission that is put can be granted although no route of this server names it."))
}

func sorted[T any](m map[string]*T, name func(T) string) []T {
	out := make([]T, 0, len(m))
	for v := range maps.Values(m) {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b T) int { return cmp.Compare(name(a), name(b)) })
	return out
}
