package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/oauth"
)

type clientCmd struct {
	Create  clientCreateCmd  `cmd:"" help:"Make a machine client. Its secret is shown once."`
	List    clientListCmd    `cmd:"" help:"List machine clients."`
	Disable clientDisableCmd `cmd:"" help:"Refuse a machine client's secret. Its tokens are dead."`
	Enable  clientEnableCmd  `cmd:"" help:"Take a machine client's secret again."`
	Delete  clientDeleteCmd  `cmd:"" help:"Delete a machine client. Its tokens are dead."`
}

type clientCreateCmd struct {
	Name  string   `arg:"" help:"What it is called, for people."`
	Scope []string `help:"Permission that it holds; may be repeated." placeholder:"NAME"`
	Role  []string `help:"Role that it has; may be repeated." placeholder:"NAME"`
}

func (c clientCreateCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		made, err := o.Clients.Create(a.ctx, role.Operator(), c.Name, c.Scope, c.Role)
		if err != nil {
			return err
		}
		if a.g.DryRun {
			made.Secret = "" // it would open nothing
		}
		a.done("made machine client %s (%s); its secret is shown this once", printable(made.Name), made.ID)
		return a.answer("client/v1", made, func(w io.Writer) {
			fmt.Fprintf(w, "client_id\t%s\nclient_secret\t%s\n", made.ID, made.Secret)
		})
	})
}

type clientListCmd struct{}

func (clientListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		clients, _, err := o.Clients.List(a.ctx, "", oauth.MaxClients)
		if err != nil {
			return err
		}
		if clients == nil {
			clients = []oauth.Client{}
		}
		return a.answer("clients/v1", clients, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tNAME\tSCOPES\tROLES\tDISABLED\tCREATED")
			for _, c := range clients {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\t%s\n", c.ID, printable(c.Name), strings.Join(c.Scopes, ","), strings.Join(c.Roles, ","), c.Disabled, c.CreatedAt.Format(time.RFC3339))
			}
		})
	})
}

type clientArg struct {
	ID string `arg:"" name:"id" help:"Its client_id (sallyport client list)."`
}

func (c clientArg) setDisabled(a *app, disabled bool, done string) error {
	return a.with(func(o *opened) error {
		if err := o.Clients.SetDisabled(a.ctx, role.Operator(), c.ID, disabled); err != nil {
			return err
		}
		a.done("%s machine client %s", done, c.ID)
		return a.data("client_state/v1", map[string]any{"client": c.ID, "disabled": disabled})
	})
}

type clientDisableCmd struct{ clientArg }

func (c clientDisableCmd) Run(a *app) error { return c.setDisabled(a, true, "disabled") }

type clientEnableCmd struct{ clientArg }

func (c clientEnableCmd) Run(a *app) error { return c.setDisabled(a, false, "enabled") }

type clientDeleteCmd struct{ clientArg }

func (c clientDeleteCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		if err := a.confirm("Deleting machine client " + printable(c.ID)); err != nil {
			return err
		}
		if err := o.Clients.Delete(a.ctx, role.Operator(), c.ID); err != nil {
			return err
		}
		a.done("deleted machine client %s", c.ID)
		return a.data("deletion/v1", map[string]string{"client": c.ID})
	})
}
