package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

type roleCmd struct {
	List   roleListCmd   `cmd:"" help:"List roles."`
	Set    roleSetCmd    `cmd:"" help:"Create or replace a role."`
	Delete roleDeleteCmd `cmd:"" help:"Delete a role, and take it from everybody."`
}

type roleListCmd struct{}

func (roleListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		g, err := role.LoadGraph(o.db.View(a.ctx))
		if err != nil {
			return err
		}
		roles := make([]*role.Role, 0, len(g.Roles))
		for _, r := range g.Roles {
			roles = append(roles, r)
		}
		slices.SortFunc(roles, func(x, y *role.Role) int { return cmp.Compare(x.Name, y.Name) })
		return a.answer("roles/v1", roles, func(w io.Writer) {
			fmt.Fprintln(w, "ROLE\tPERMISSIONS\tINCLUDES\tDESCRIPTION")
			for _, r := range roles {
				perms := strings.Join(r.Permissions, ",")
				if r.Name == role.Admin {
					perms = "(everything)"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, perms, strings.Join(r.Includes, ","), printable(r.Description))
			}
		})
	})
}

type roleSetCmd struct {
	Name        string   `arg:"" help:"Name of the role."`
	Permission  []string `help:"Permission that the role holds; may be repeated."`
	Include     []string `help:"Role whose permissions it holds too; may be repeated."`
	Description string   `help:"What the role is for."`
}

func (c roleSetCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		var r role.Role
		err := o.db.Write(a.ctx, func(tx *db.Tx) error {
			want := role.Role{Name: c.Name, Description: c.Description, Permissions: c.Permission, Includes: c.Include}
			if err := role.Put(a.ctx, tx, role.Operator(), want); err != nil {
				return err
			}
			g, err := role.LoadGraph(tx)
			if err == nil {
				r = *g.Roles[c.Name]
			}
			return err
		})
		if err != nil {
			return err
		}
		a.done("set role %s", c.Name)
		return a.data("role/v1", r)
	})
}

type roleDeleteCmd struct {
	Name string `arg:"" help:"Name of the role."`
}

func (c roleDeleteCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		if err := a.confirm("Deleting role " + c.Name); err != nil {
			return err
		}
		if err := o.db.Write(a.ctx, func(tx *db.Tx) error { return role.Remove(a.ctx, tx, role.Operator(), c.Name) }); err != nil {
			return err
		}
		a.done("deleted role %s", c.Name)
		return a.data("deletion/v1", map[string]string{"role": c.Name})
	})
}

type permissionCmd struct {
	List permissionListCmd `cmd:"" help:"List permissions."`
	Set  permissionSetCmd  `cmd:"" help:"Create or describe a permission."`
}

type permissionListCmd struct{}

func (permissionListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		g, err := role.LoadGraph(o.db.View(a.ctx))
		if err != nil {
			return err
		}
		perms := make([]*role.Permission, 0, len(g.Permissions))
		for _, p := range g.Permissions {
			perms = append(perms, p)
		}
		slices.SortFunc(perms, func(x, y *role.Permission) int { return cmp.Compare(x.Name, y.Name) })
		return a.answer("permissions/v1", perms, func(w io.Writer) {
			fmt.Fprintln(w, "PERMISSION\tSOURCE\tDESCRIPTION")
			for _, p := range perms {
				fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Source, printable(p.Description))
			}
		})
	})
}

type permissionSetCmd struct {
	Name        string `arg:"" help:"Name of the permission, for example read:items."`
	Description string `help:"What it allows."`
}

func (c permissionSetCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		var p role.Permission
		err := o.db.Write(a.ctx, func(tx *db.Tx) error {
			if err := role.PutPermission(a.ctx, tx, c.Name, c.Description); err != nil {
				return err
			}
			g, err := role.LoadGraph(tx)
			if err == nil {
				p = *g.Permissions[c.Name]
			}
			return err
		})
		if err != nil {
			return err
		}
		a.done("set permission %s", c.Name)
		return a.data("permission/v1", p)
	})
}
