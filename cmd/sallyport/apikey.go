package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/apikey"
)

type apikeyCmd struct {
	Create apikeyCreateCmd `cmd:"" help:"Make a key, of a user or for the configuration, and print it this once."`
	List   apikeyListCmd   `cmd:"" help:"List keys, of a user or all."`
	Revoke apikeyRevokeCmd `cmd:"" help:"Delete a key."`
}

type apikeyCreateCmd struct {
	User    string   `arg:"" optional:"" help:"Id, user name or address of its owner."`
	Name    string   `arg:"" optional:"" help:"What the key is for."`
	Scope   []string `help:"Permission, or “role:” and a role, that the key may use; may be repeated." placeholder:"NAME"`
	Expires string   `help:"When it expires: 90d, 12h, or a time as RFC 3339 writes it. Default: never." placeholder:"WHEN"`
	Static  string   `help:"Make a key of this name that stands in the configuration, without a user and without a database." placeholder:"NAME"`
}

// keyView is a key as --json has it.
type keyView struct {
	ID         string     `json:"id"`
	Owner      string     `json:"owner"`
	Name       string     `json:"name"`
	Key        string     `json:"key,omitempty"`
	Prefix     string     `json:"prefix"`
	Scopes     []string   `json:"scopes"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	Active     bool       `json:"is_active"`
	LastUsedAt *time.Time `json:"last_used_at"`
}

func viewKey(r apikey.Record) keyView {
	v := keyView{ID: r.ID, Owner: r.Owner, Name: r.Name, Prefix: r.Prefix, Scopes: r.Scopes, CreatedAt: r.CreatedAt, Active: r.Active}
	if !r.ExpiresAt.IsZero() {
		v.ExpiresAt = &r.ExpiresAt
	}
	if !r.LastUsedAt.IsZero() {
		v.LastUsedAt = &r.LastUsedAt
	}
	return v
}

func (c apikeyCreateCmd) Run(a *app) error {
	if c.Static != "" {
		return c.static(a)
	}
	if c.User == "" || c.Name == "" {
		return &errUsage{errors.New("say whose the key is and what it is for, for example: sallyport apikey create ada “nightly report” --scope read:users. With --static NAME it belongs to nobody and stands in the configuration")}
	}
	expires, err := parseExpiry(c.Expires, time.Now())
	if err != nil {
		return err
	}
	return a.withUser(c.User, func(o *opened, u account.User) error {
		r, key, err := o.APIKeys.Create(a.ctx, apikey.NewKey{Owner: u.ID, Name: c.Name, Scopes: c.Scope, Expires: expires})
		if err != nil {
			return err
		}
		a.done("made the API key %s… (%s) of %s", r.Prefix, r.ID, show(u))
		v := viewKey(r)
		if a.g.DryRun { // there is no such key
			return a.data("api_key/v1", v)
		}
		a.info("This is the only time that it is shown:")
		v.Key = key.Reveal()
		return a.answer("api_key/v1", v, func(w io.Writer) { fmt.Fprintln(w, v.Key) })
	})
}

// static makes a key for the configuration; nothing is stored.
func (c apikeyCreateCmd) static(a *app) error {
	if c.User != "" || c.Name != "" || c.Expires != "" {
		return &errUsage{errors.New("a key of the configuration has no user and does not expire: leave out USER, NAME and --expires, or leave out --static")}
	}
	key := apikey.Generate()
	s := apikey.NewStatic(c.Static, key, c.Scope)
	if mistakes := apikey.CheckStatics([]apikey.Static{s}); mistakes != nil {
		var errs []error
		for _, m := range mistakes {
			errs = append(errs, m)
		}
		return &errUsage{errors.Join(errs...)}
	}
	a.info("The line belongs into the list auth.api_keys of the configuration. The key itself is not shown again.")
	return a.answer("static_api_key/v1", map[string]any{"name": s.Name, "key": key.Reveal(), "line": s.String()}, func(w io.Writer) {
		fmt.Fprintf(w, "key\t%s\nline\t%s\n", key.Reveal(), s)
	})
}

// parseExpiry reads a number of days, a duration, or a time.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if n, err := strconv.ParseUint(strings.TrimSuffix(s, "d"), 10, 16); err == nil && strings.HasSuffix(s, "d") && n > 0 {
		return now.AddDate(0, 0, int(n)), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && !t.IsZero() {
		return t, nil
	}
	return time.Time{}, &errUsage{fmt.Errorf("--expires %q is no time: write 90d, 12h, or 2027-01-31T12:00:00Z", printable(s))}
}

type apikeyListCmd struct {
	User string `arg:"" optional:"" help:"Id, user name or address; without it, everybody's."`
}

func (c apikeyListCmd) Run(a *app) error {
	if c.User != "" {
		return a.withUser(c.User, func(o *opened, u account.User) error {
			keys, err := o.APIKeys.List(a.ctx, u.ID)
			if err != nil {
				return err
			}
			return a.keys(keys)
		})
	}
	return a.with(func(o *opened) error {
		keys, err := o.APIKeys.All(a.ctx)
		if err != nil {
			return err
		}
		return a.keys(keys)
	})
}

func (a *app) keys(all []apikey.Record) error {
	views := make([]keyView, 0, len(all))
	for _, r := range all {
		views = append(views, viewKey(r))
	}
	return a.answer("api_keys/v1", views, func(w io.Writer) {
		when := func(t *time.Time) string {
			if t == nil {
				return "never"
			}
			return t.Format(time.RFC3339)
		}
		fmt.Fprintln(w, "ID\tPREFIX\tOWNER\tNAME\tSCOPES\tACTIVE\tEXPIRES\tLAST USED")
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%v\t%s\t%s\n", v.ID, v.Prefix, v.Owner, printable(v.Name), strings.Join(v.Scopes, ","), v.Active, when(v.ExpiresAt), when(v.LastUsedAt))
		}
	})
}

type apikeyRevokeCmd struct {
	ID string `arg:"" help:"Id of the key, which “sallyport apikey list” shows."`
}

func (c apikeyRevokeCmd) Run(a *app) error {
	if _, err := apikey.Parse(c.ID); err == nil {
		return &errUsage{errors.New("that is a key and not its id. Arguments can be seen by everybody on this machine: revoke the key, by the id that “sallyport apikey list” shows for its first characters")}
	}
	return a.with(func(o *opened) error {
		r, err := o.APIKeys.Get(a.ctx, c.ID)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("the API key %s… “%s” (%s)", r.Prefix, printable(r.Name), r.ID)
		if err := a.confirm("Deleting " + what); err != nil {
			return err
		}
		if _, err := o.APIKeys.Delete(a.ctx, "", r.ID); err != nil {
			return err
		}
		a.done("deleted %s", what)
		return a.data("deletion/v1", map[string]string{"api_key": r.ID})
	})
}
