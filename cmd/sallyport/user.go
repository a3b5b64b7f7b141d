package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

type adminCmd struct {
	Create    adminCreateCmd    `cmd:"" help:"Create an administrator. The database is made if there is none."`
	SetupLink adminSetupLinkCmd `cmd:"" name:"setup-link" help:"Print a link that makes the first administrator: one use, 30 minutes. Links before it are worthless."`
}

type newUser struct {
	Username      string `help:"User name." placeholder:"NAME"`
	Email         string `help:"E-mail address." placeholder:"ADDRESS" required:""`
	FullName      string `help:"Full name." placeholder:"NAME"`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

func (n newUser) create(a *app, o *opened, roles []string, invite bool) error {
	in := account.NewUser{Email: n.Email, EmailVerified: !invite, Roles: roles, Invitation: invite}
	if !invite {
		var err error
		if in.Password, err = a.secret(n.PasswordStdin, "Password"); err != nil {
			return err
		}
	}
	if n.Username != "" {
		in.Username = &n.Username
	}
	if n.FullName != "" {
		in.FullName = &n.FullName
	}
	u, err := o.Accounts.Create(a.ctx, role.Operator(), in)
	if err != nil {
		return err
	}
	if invite {
		a.done("invited %s; the server sends the letter, whose link is good for 30 minutes", show(u))
	} else {
		a.done("created %s", show(u))
	}
	return a.user(u)
}

type adminCreateCmd struct{ newUser }

func (c adminCreateCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	if a.g.DryRun && s.text("database") == "" && !sqlite.Exists(sqliteFile(s)) {
		a.done("made the database %s", sqliteFile(s))
		return a.scratch(s, func(o *opened) error { return c.create(a, o, []string{role.Admin}, false) })
	}
	o, err := a.open(a.ctx, s, a.unlessDry(mayCreate), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer o.Close()
	return c.create(a, o, []string{role.Admin}, false)
}

type adminSetupLinkCmd struct{}

// setupLink is what setup-link prints with --json.
type setupLink struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (adminSetupLinkCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	if !s.bool("portal") {
		return &errUsage{errors.New("portal = false: there is no page that the link could lead to. Use “sallyport admin create”")}
	}
	return a.with(func(o *opened) error {
		token, until, err := o.Accounts.OfferSetup(a.ctx, true)
		if err != nil {
			return err
		}
		if a.g.DryRun {
			a.done("made a link to set the first administrator up")
			return nil
		}
		l := setupLink{server.SetupURL(s.baseURL(), token), until.UTC()}
		return a.answer("setup_link/v1", l, func(w io.Writer) { fmt.Fprintln(w, l.URL) })
	})
}

type userCmd struct {
	List     userListCmd     `cmd:"" help:"List accounts."`
	Get      userGetCmd      `cmd:"" help:"Show an account."`
	Create   userCreateCmd   `cmd:"" help:"Create an account."`
	Set      userSetCmd      `cmd:"" help:"Change an account."`
	Disable  userDisableCmd  `cmd:"" help:"Disable an account and end its sessions."`
	Enable   userEnableCmd   `cmd:"" help:"Enable an account."`
	Export   userExportCmd   `cmd:"" help:"Write everything that is held about a person, as JSON."`
	Delete   userDeleteCmd   `cmd:"" help:"Delete an account."`
	Sessions userSessionsCmd `cmd:"" help:"List an account's sessions."`
	Logout   userLogoutCmd   `cmd:"" help:"End all of an account's sessions."`
	Unlock   userUnlockCmd   `cmd:"" help:"Forget failed sign-ins of an account, or of an address."`
	ResetMFA userResetMFACmd `cmd:"" name:"reset-mfa" help:"Forget an account's second factor and end its sessions."`
}

type userArg struct {
	User string `arg:"" help:"Id, user name or address."`
}

// show names a user for a message.
func show(u account.User) string {
	if u.Username != nil {
		return printable(*u.Username) + " (" + u.ID + ")"
	}
	return printable(u.Email) + " (" + u.ID + ")"
}

func (a *app) user(u account.User) error {
	return a.answer("user/v1", u, func(w io.Writer) {
		last := "never"
		if u.LastLoginAt != nil {
			last = u.LastLoginAt.Format(time.RFC3339)
		}
		for _, line := range [][2]string{
			{"id", u.ID},
			{"username", deref(u.Username)},
			{"email", printable(u.Email)},
			{"email_verified", fmt.Sprint(u.EmailVerified)},
			{"full_name", deref(u.FullName)},
			{"disabled", fmt.Sprint(u.Disabled)},
			{"roles", strings.Join(u.Roles, " ")},
			{"permissions", strings.Join(u.Permissions, " ")},
			{"mfa_enabled", fmt.Sprint(u.MFAEnabled)},
			{"created_at", u.CreatedAt.Format(time.RFC3339)},
			{"last_login_at", last},
		} {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	})
}

// withUser opens the database and finds the user.
func (a *app) withUser(name string, f func(o *opened, u account.User) error) error {
	return a.with(func(o *opened) error {
		u, err := o.Accounts.Find(a.ctx, name)
		if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Status == http.StatusNotFound {
			e.Message = "There is no user “" + printable(name) + "”, by id, name or address. “sallyport user list” lists all."
		}
		if err != nil {
			return err
		}
		return f(o, u)
	})
}

type userListCmd struct {
	Query    string `short:"q" help:"Part of the address or user name."`
	Role     string `help:"Only those who were given this role."`
	Disabled bool   `help:"Only disabled ones."`
}

func (c userListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		f := account.Filter{Query: c.Query, Role: c.Role}
		if c.Disabled {
			f.Disabled = &c.Disabled
		}
		all := []account.User{}
		for cursor := ""; ; {
			users, next, err := o.Accounts.List(a.ctx, f, cursor, 200)
			if err != nil {
				return err
			}
			all = append(all, users...)
			if cursor = next; next == "" {
				break
			}
		}
		return a.answer("users/v1", all, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tUSERNAME\tEMAIL\tROLES\tDISABLED")
			for _, u := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\n", u.ID, deref(u.Username), printable(u.Email), strings.Join(u.Roles, ","), u.Disabled)
			}
		})
	})
}

type userGetCmd struct{ userArg }

func (c userGetCmd) Run(a *app) error {
	return a.withUser(c.User, func(_ *opened, u account.User) error { return a.user(u) })
}

type userCreateCmd struct {
	newUser
	Role   []string `help:"Role to give; may be repeated." default:"user"`
	Invite bool     `help:"Ask for no password: send a letter with whose link the person chooses it."`
}

func (c userCreateCmd) Run(a *app) error {
	if c.Invite && c.PasswordStdin {
		return &errUsage{errors.New("who is invited chooses the password: leave out --invite or --password-stdin")}
	}
	return a.with(func(o *opened) error { return c.create(a, o, c.Role, c.Invite) })
}

type userExportCmd struct{ userArg }

// Run writes JSON in any case: it is to be given to the person.
func (c userExportCmd) Run(a *app) error {
	return a.withUser(c.User, func(o *opened, u account.User) error {
		out, err := o.Accounts.Export(a.ctx, u.ID)
		if err != nil {
			return err
		}
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(out)
	})
}

type userSetCmd struct {
	userArg
	Username      *string `help:"New user name; empty for none."`
	Email         *string `help:"New address."`
	FullName      *string `help:"New full name; empty for none."`
	EmailVerified *bool   `help:"Whether the address is known to be theirs." negatable:""`
	PasswordStdin bool    `help:"Read a new password from standard input. Ends all sessions."`
}

func (c userSetCmd) Run(a *app) error {
	var change account.Change
	for _, m := range []struct {
		flag *string
		to   ***string
	}{{c.Username, &change.Username}, {c.FullName, &change.FullName}} {
		if m.flag == nil {
			continue
		}
		text := m.flag
		if *text == "" {
			text = nil
		}
		*m.to = &text
	}
	change.Email, change.EmailVerified = c.Email, c.EmailVerified
	if change == (account.Change{}) && !c.PasswordStdin {
		return &errUsage{errors.New("say what to change, for example --full-name “Ada Lovelace”")}
	}
	var pw string
	if c.PasswordStdin {
		var err error
		if pw, err = a.secret(true, ""); err != nil {
			return err
		}
	}
	return a.withUser(c.User, func(o *opened, u account.User) error {
		op := role.Operator()
		if change != (account.Change{}) && c.PasswordStdin {
			// Two transactions: nothing is done unless both will be accepted.
			if _, err := o.Accounts.Update(db.DryRun(a.ctx), &op, u.ID, change); err != nil {
				return err
			}
		}
		if c.PasswordStdin {
			if err := o.Accounts.SetPassword(a.ctx, u.ID, pw); err != nil {
				return err
			}
		}
		if change != (account.Change{}) {
			var err error
			if u, err = o.Accounts.Update(a.ctx, &op, u.ID, change); err != nil {
				return err
			}
		}
		a.done("changed %s", show(u))
		return a.user(u)
	})
}

type (
	userDisableCmd struct{ userArg }
	userEnableCmd  struct{ userArg }
)

func (c userDisableCmd) Run(a *app) error { return setDisabled(a, c.User, true, "disabled") }
func (c userEnableCmd) Run(a *app) error  { return setDisabled(a, c.User, false, "enabled") }

func setDisabled(a *app, name string, disabled bool, word string) error {
	return a.withUser(name, func(o *opened, u account.User) error {
		op := role.Operator()
		u, err := o.Accounts.Update(a.ctx, &op, u.ID, account.Change{Disabled: &disabled})
		if err != nil {
			return err
		}
		a.done("%s %s", word, show(u))
		return a.user(u)
	})
}

type userDeleteCmd struct{ userArg }

func (c userDeleteCmd) Run(a *app) error {
	return a.withUser(c.User, func(o *opened, u account.User) error {
		if err := a.confirm("Deleting " + show(u)); err != nil {
			return err
		}
		op := role.Operator()
		if err := o.Accounts.Delete(a.ctx, &op, u.ID); err != nil {
			return err
		}
		a.done("deleted %s", show(u))
		return a.data("deletion/v1", map[string]string{"user": u.ID})
	})
}

type userSessionsCmd struct{ userArg }

type sessionLine struct {
	ID        string    `json:"id"`
	ClientID  string    `json:"client_id"`
	CreatedAt time.Time `json:"created_at"`
	LastUsed  time.Time `json:"last_used_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Address   string    `json:"address"`
	UserAgent string    `json:"user_agent"`
}

func (c userSessionsCmd) Run(a *app) error {
	return a.withUser(c.User, func(o *opened, u account.User) error {
		sessions, err := o.Sessions.List(a.ctx, u.ID)
		if err != nil {
			return err
		}
		lines := make([]sessionLine, 0, len(sessions))
		for _, s := range sessions {
			lines = append(lines, sessionLine{s.ID, s.Client, s.Created, s.LastUsed, s.Expires, s.Address, s.UserAgent})
		}
		return a.answer("sessions/v1", lines, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tSINCE\tLAST USED\tADDRESS\tCLIENT")
			for _, l := range lines {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.ID, l.CreatedAt.Format(time.RFC3339), l.LastUsed.Format(time.RFC3339), l.Address, printable(l.UserAgent))
			}
		})
	})
}

type userLogoutCmd struct{ userArg }

func (c userLogoutCmd) Run(a *app) error {
	return a.withUser(c.User, func(o *opened, u account.User) error {
		err := o.db.Write(a.ctx, func(tx *db.Tx) error {
			return o.Sessions.EndAll(a.ctx, tx, u.ID, "", "ended by the operator")
		})
		if err != nil {
			return err
		}
		a.done("ended all sessions of %s", show(u))
		return a.data("logout/v1", map[string]string{"user": u.ID})
	})
}

type userResetMFACmd struct{ userArg }

func (c userResetMFACmd) Run(a *app) error {
	return a.withUser(c.User, func(o *opened, u account.User) error {
		err := o.SignIn.Reset(a.ctx, u.ID)
		if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Status == http.StatusNotFound {
			e.Message = show(u) + " has no second factor. Nothing was changed."
		}
		if err != nil {
			return err
		}
		a.done("reset the second factor of %s, and ended all its sessions", show(u))
		return a.data("mfa_reset/v1", map[string]string{"user": u.ID})
	})
}

type userUnlockCmd struct {
	User    string `arg:"" optional:"" help:"Id, user name or address."`
	Address string `help:"IP address: forget what counts against its network, over all names, instead." placeholder:"IP"`
}

type clearedLine struct {
	Network     string     `json:"network"`
	Failures    int        `json:"failures"`
	LockedUntil *time.Time `json:"locked_until"`
}

func (c userUnlockCmd) Run(a *app) error {
	if (c.User == "") == (c.Address == "") {
		return &errUsage{errors.New("say whose failed sign-ins to forget: USER, or --address IP")}
	}
	if c.User != "" {
		return a.withUser(c.User, func(o *opened, u account.User) error {
			cleared, err := o.Lockout.Unlock(a.ctx, u.ID)
			if err != nil {
				return err
			}
			return a.unlocked(show(u), cleared)
		})
	}
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return &errUsage{errors.New("--address takes an IP address, for example 203.0.113.7 or 2001:db8::1")}
	}
	return a.with(func(o *opened) error {
		cleared, err := o.Lockout.UnlockAddress(a.ctx, addr)
		if err != nil {
			return err
		}
		return a.unlocked(addr.String(), cleared)
	})
}

func (a *app) unlocked(what string, cleared []lockout.Cleared) error {
	if len(cleared) == 0 {
		a.info("nothing counted against %s", what)
	} else {
		a.done("unlocked %s", what)
	}
	lines := make([]clearedLine, 0, len(cleared))
	for _, c := range cleared {
		l := clearedLine{Network: cmp.Or(c.Network, "all"), Failures: c.Failures}
		if !c.Locked.IsZero() {
			l.LockedUntil = &c.Locked
		}
		lines = append(lines, l)
	}
	return a.answer("unlocked/v1", lines, func(w io.Writer) {
		fmt.Fprintln(w, "NETWORK\tFAILURES\tLOCKED UNTIL")
		for _, l := range lines {
			until := "-"
			if l.LockedUntil != nil {
				until = l.LockedUntil.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\n", l.Network, l.Failures, until)
		}
	})
}

type (
	grantCmd  struct{ grantArgs }
	revokeCmd struct{ grantArgs }
)

type grantArgs struct {
	userArg
	Role       string `arg:"" help:"Name of the role."`
	Permission bool   `help:"The name is a permission's, to be given or taken directly."`
}

func (c grantCmd) Run(a *app) error  { return c.change(a, true, "granted") }
func (c revokeCmd) Run(a *app) error { return c.change(a, false, "revoked") }

func (c grantArgs) change(a *app, give bool, word string) error {
	return a.withUser(c.User, func(o *opened, u account.User) error {
		if !give && !slices.Contains(c.held(u.Roles, u.Permissions), c.Role) {
			return c.notHeld(u)
		}
		err := o.db.Write(a.ctx, func(tx *db.Tx) error {
			if err := c.exists(tx); err != nil {
				return err
			}
			if err := c.apply(give)(a.ctx, tx, role.Operator(), u.ID, c.Role); err != nil {
				return err
			}
			var err error
			u.Roles, u.Permissions, err = role.Direct(tx, u.ID)
			return err
		})
		if err != nil {
			return err
		}
		a.done("%s %s: %s", word, show(u), printable(c.Role))
		return a.user(u)
	})
}

// apply returns what gives or takes the name.
func (c grantArgs) apply(give bool) func(context.Context, *db.Tx, role.Actor, string, string) error {
	switch {
	case give && c.Permission:
		return role.GrantPermission
	case give:
		return role.Grant
	case c.Permission:
		return role.RevokePermission
	}
	return role.Revoke
}

// held returns the names that the command is about.
func (c grantArgs) held(roles, permissions []string) []string {
	if c.Permission {
		return permissions
	}
	return roles
}

// exists returns an error if there is no such role or permission.
func (c grantArgs) exists(tx *db.Tx) error {
	g, err := role.LoadGraph(tx)
	if err != nil {
		return err
	}
	e := sallyport.NotFound("grant")
	switch {
	case c.Permission && g.Permissions[c.Role] == nil:
		e.Message = "There is no permission “" + printable(c.Role) + "”. “sallyport permission list” lists those that exist, “sallyport permission set” makes one."
		return e
	case !c.Permission && g.Roles[c.Role] == nil:
		e.Message = "There is no role “" + printable(c.Role) + "”. “sallyport role list” lists those that exist."
		return e
	}
	return nil
}

// notHeld says that there is nothing to take, and what there is.
func (c grantArgs) notHeld(u account.User) error {
	what, has := "role", strings.Join(u.Roles, ", ")
	if c.Permission {
		what, has = "permission", strings.Join(u.Permissions, ", ")
	}
	if has == "" {
		has = "none"
	}
	e := sallyport.NotFound("grant")
	e.Message = fmt.Sprintf("%s was not given the %s “%s” directly. Given were: %s.", show(u), what, printable(c.Role), has)
	return e
}
