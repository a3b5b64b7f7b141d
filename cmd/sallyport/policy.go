package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // for policy.time_zone, where the system has no database of zones

	"github.com/BurntSushi/toml"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/role"
)

type policyCmd struct {
	List   policyListCmd   `cmd:"" help:"List policies."`
	Show   policyShowCmd   `cmd:"" help:"Print a policy, or what it was."`
	Put    policyPutCmd    `cmd:"" help:"Create or replace a policy."`
	Delete policyDeleteCmd `cmd:"" help:"Delete a policy."`
	Check  policyCheckCmd  `cmd:"" help:"Tell whether somebody may do something, and why."`
	Test   policyTestCmd   `cmd:"" help:"Decide a table of questions, and compare with what is expected."`
	Replay policyReplayCmd `cmd:"" help:"Decide again what was decided, with a draft in place, and list what would change."`
	Why    policyWhyCmd    `cmd:"" help:"Tell why a request was decided as it was."`
}

func checkZone(s string) error {
	if _, err := time.LoadLocation(s); err != nil || s == "Local" || s == "" {
		return errors.New("there is no such time zone. Write it as UTC or Europe/Berlin")
	}
	return nil
}

// text reads a file, or standard input for “-”.
func (a *app) text(path string, limit int64) (string, error) {
	var r io.Reader = a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", &errUsage{err}
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &errUsage{fmt.Errorf("%s is longer than %d bytes", path, limit)}
	}
	return string(b), err
}

type policyListCmd struct{}

func (policyListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		all, err := o.Policies.All(a.ctx)
		if err != nil {
			return err
		}
		if all == nil {
			all = []policy.Stored{}
		}
		return a.answer("policies/v1", all, func(w io.Writer) {
			fmt.Fprintln(w, "POLICY\tEFFECT\tACTIONS\tUPDATED\tDESCRIPTION")
			for _, p := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.ID, p.Effect, cmp.Or(strings.Join(p.Actions, ","), "(all)"), p.UpdatedAt.Format(time.RFC3339), printable(p.Description))
			}
		})
	})
}

type policyShowCmd struct {
	Name    string `arg:"" help:"Name of the policy."`
	History bool   `help:"Every version that is kept, the newest first; also of a policy that is deleted."`
}

func (c policyShowCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		if c.History {
			all, err := o.Policies.History(a.ctx, c.Name)
			if err != nil {
				return err
			}
			return a.answer("policy-versions/v1", all, func(w io.Writer) {
				for _, r := range all {
					what := "written"
					if r.Deleted {
						what = "deleted"
					}
					fmt.Fprintf(w, "// Version %d, %s %s by %s. %s\n%s\n\n", r.Version, what, r.UpdatedAt.Format(time.RFC3339), printable(r.UpdatedBy), printable(r.Description), printableLines(r.Cedar))
				}
			})
		}
		p, err := o.Policies.Get(a.ctx, c.Name)
		if err != nil {
			return err
		}
		return a.answer("policy/v1", p, func(w io.Writer) { fmt.Fprintln(w, printableLines(p.Cedar)) })
	})
}

type policyPutCmd struct {
	Name        string `arg:"" help:"Name of the policy."`
	File        string `arg:"" help:"File with one policy in Cedar; - is standard input."`
	Description string `help:"What the policy is for."`
}

func (c policyPutCmd) Run(a *app) error {
	text, err := a.text(c.File, policy.MaxText)
	if err != nil {
		return err
	}
	return a.with(func(o *opened) error {
		p, err := o.Policies.Put(a.ctx, policy.Operator(), c.Name, text, c.Description, 0)
		if err != nil {
			return err
		}
		a.done("set policy %s", c.Name)
		return a.data("policy/v1", p)
	})
}

type policyDeleteCmd struct {
	Name string `arg:"" help:"Name of the policy."`
}

func (c policyDeleteCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		if err := a.confirm("Deleting policy " + c.Name); err != nil {
			return err
		}
		if err := o.Policies.Delete(a.ctx, policy.Operator(), c.Name, 0); err != nil {
			return err
		}
		a.done("deleted policy %s", c.Name)
		return a.data("deletion/v1", map[string]string{"policy": c.Name})
	})
}

// drafts are policies that are not stored.
type drafts struct {
	With    []string `help:"File of policies, each named by @id, that stand in place of the stored ones; may be repeated." placeholder:"FILE"`
	Without []string `help:"Stored policy to leave out; may be repeated." placeholder:"NAME"`
}

// on returns the stored policies, and the same with the drafts.
func (c drafts) on(a *app, o *opened) (stored, draft *policy.Set, err error) {
	if stored, err = o.Policies.Read(a.ctx); err != nil {
		return nil, nil, err
	}
	for _, name := range c.Without {
		if !slices.ContainsFunc(stored.Policies(), func(p *policy.Policy) bool { return p.ID == name }) {
			return nil, nil, sallyport.NotFound("policy: " + name)
		}
	}
	var all []*policy.Policy
	for _, file := range c.With {
		text, err := a.text(file, policy.MaxTotal)
		if err != nil {
			return nil, nil, err
		}
		some, err := o.Policies.Draft(a.ctx, text)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, some...)
	}
	return stored, stored.With(all, c.Without...), nil
}

type policyCheckCmd struct {
	Principal  string     `required:"" help:"Account or machine client: id, user name or address."`
	Action     string     `required:"" help:"Permission."`
	Resource   string     `help:"What it is done to: Type::id, or a route such as 'DELETE /comments/{id}'."`
	MFA        bool       `name:"mfa" help:"As if a second factor had been used."`
	Time       *time.Time `help:"When, as RFC 3339 writes it; default now."`
	IP         string     `name:"ip" help:"Address of the client."`
	Country    string     `help:"Two letters; default that of the address."`
	AuthAge    *int64     `help:"Seconds since the sign-in."`
	Method     string     `help:"Method of the request."`
	Path       string     `help:"Path of the request."`
	Credential string     `help:"Kind of credential: bearer, api_key, cookie, basic or client." enum:"bearer,api_key,cookie,basic,client" default:"bearer"`
	Scope      []string   `help:"What the credential is limited to; may be repeated."`
	drafts
}

func (c policyCheckCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		_, set, err := c.on(a, o)
		if err != nil {
			return err
		}
		d, _, err := o.Policies.Ask(a.ctx, set, policy.Question{Principal: c.Principal, Action: c.Action, Resource: c.Resource, Context: policy.Asked{
			MFA: c.MFA, Time: c.Time, IP: c.IP, Country: c.Country, AuthAge: c.AuthAge, Method: c.Method, Path: c.Path, Credential: c.Credential, Scopes: c.Scope,
		}})
		if err != nil {
			return err
		}
		answer := policy.AnswerOf(d)
		return a.answer("policy-decision/v1", answer, func(w io.Writer) {
			fmt.Fprintln(w, printable(answer.Explanation))
			for _, r := range d.Reasons {
				for _, p := range r.Policies {
					fmt.Fprintf(w, "- %s\n", printable(p.Text))
				}
			}
		})
	})
}

// policyTable is a file of questions with their answers.
type policyTable struct {
	Case []policyCase `toml:"case"`
}

type policyCase struct {
	Name        string       `toml:"name"`
	Principal   string       `toml:"principal"`
	Roles       []string     `toml:"roles"`
	Permissions []string     `toml:"permissions"`
	Action      string       `toml:"action"`
	Resource    string       `toml:"resource"`
	Context     policy.Asked `toml:"context"`
	Expect      string       `toml:"expect"`
	Policies    []string     `toml:"policies"`
}

func parseTable(text string) (policyTable, error) {
	var t policyTable
	meta, err := toml.Decode(text, &t)
	if err != nil {
		if pe, ok := errors.AsType[toml.ParseError](err); ok {
			return t, fmt.Errorf("line %d: %s", pe.Position.Line, pe.Message)
		}
		return t, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return t, fmt.Errorf("there is no member %s", unknown[0])
	}
	for i, c := range t.Case {
		if c.Expect != "allow" && c.Expect != "deny" {
			return t, fmt.Errorf("case %d: expect is %q, and must be allow or deny", i+1, c.Expect)
		}
	}
	if len(t.Case) == 0 {
		return t, errors.New("there is no [[case]]")
	}
	return t, nil
}

type policyTestCmd struct {
	File string `arg:"" help:"Table of questions in TOML; - is standard input."`
	drafts
}

// testOutcome is how one case came out.
type testOutcome struct {
	Name        string   `json:"name"`
	OK          bool     `json:"ok"`
	Expected    string   `json:"expected"`
	Decision    string   `json:"decision"`
	Policies    []string `json:"policies"`
	Explanation string   `json:"explanation"`
}

func (c policyTestCmd) Run(a *app) error {
	text, err := a.text(c.File, policy.MaxTotal)
	if err != nil {
		return err
	}
	table, err := parseTable(text)
	if err != nil {
		return &errUsage{fmt.Errorf("%s: %w", c.File, err)}
	}
	return a.with(func(o *opened) error {
		_, set, err := c.on(a, o)
		if err != nil {
			return err
		}
		graph, err := role.LoadGraph(o.db.View(a.ctx))
		if err != nil {
			return err
		}
		var out []testOutcome
		failed := 0
		for i, tc := range table.Case {
			d, err := tc.decide(a, o, set, graph)
			if err != nil {
				return fmt.Errorf("case %d, %s: %s", i+1, tc.Name, describe(err))
			}
			r := testOutcome{Name: cmp.Or(tc.Name, fmt.Sprint("case ", i+1)), Expected: tc.Expect, Decision: policy.AnswerOf(d).Decision, Policies: decided(d), Explanation: policy.Sentence(d)}
			slices.Sort(tc.Policies)
			r.OK = r.Decision == r.Expected && (len(tc.Policies) == 0 || slices.Equal(tc.Policies, r.Policies))
			if !r.OK {
				failed++
			}
			out = append(out, r)
		}
		if err := a.answer("policy-test/v1", out, func(w io.Writer) {
			for _, r := range out {
				if !r.OK {
					fmt.Fprintf(w, "FAILED\t%s: %s (policies: %s), expected %s. %s\n", printable(r.Name), r.Decision, strings.Join(r.Policies, ", "), r.Expected, printable(r.Explanation))
				}
			}
		}); err != nil {
			return err
		}
		a.info("%d of %d as expected", len(out)-failed, len(out))
		if failed > 0 {
			return errSilent
		}
		return nil
	})
}

func (c policyCase) decide(a *app, o *opened, set *policy.Set, graph role.Graph) (d sallyport.Decision, err error) {
	q := policy.Question{Principal: c.Principal, Action: c.Action, Resource: c.Resource, Context: c.Context}
	if c.Roles == nil && c.Permissions == nil {
		d, _, err = o.Policies.Ask(a.ctx, set, q)
		return d, err
	}
	for _, r := range c.Roles {
		if graph.Roles[r] == nil {
			return d, sallyport.NotFound("role: " + r)
		}
	}
	return o.Policies.AskAs(a.ctx, set, q, policy.PrincipalOf(cmp.Or(c.Principal, "somebody"), false, graph.Resolve(c.Roles, c.Permissions)))
}

// decided returns the policies that made a decision what it is, in order.
func decided(d sallyport.Decision) []string {
	out := []string{}
	for _, r := range d.Reasons {
		for _, p := range r.Policies {
			if p.Error != "" || p.Applies && (p.Effect == "permit") == d.Allowed {
				out = append(out, p.ID)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

type policyReplayCmd struct {
	Since time.Duration `default:"24h" help:"How far back."`
	drafts
}

// replayed is one decision that would be another.
type replayed struct {
	DecisionID  string    `json:"decision_id"`
	Time        time.Time `json:"time"`
	Principal   string    `json:"principal"`
	Rule        string    `json:"rule"`
	Was         string    `json:"was"`
	Would       string    `json:"would"`
	Explanation string    `json:"explanation"`
}

// maxReplayed bounds the list.
const maxReplayed = 10_000

func (c policyReplayCmd) Run(a *app) error {
	if len(c.With) == 0 && len(c.Without) == 0 {
		return &errUsage{errors.New("name a draft with --with, or a policy with --without")}
	}
	return a.with(func(o *opened) error {
		_, draft, err := c.on(a, o)
		if err != nil {
			return err
		}
		now := time.Now()
		var differ []replayed
		asked, lost := 0, 0
		err = audit.Decisions(o.db.View(a.ctx), now.Add(-c.Since), now, func(e audit.Record) error {
			if e.Action == "policy.checked" || e.Detail["rule"] == "" {
				return nil // nobody was let in or kept out by a rule
			}
			pc, err := policy.ParseCase(e.Detail["facts"])
			if err != nil {
				lost++
				return nil
			}
			asked++
			was, d := e.Action == audit.AccessAllowed, pc.Decide(draft)
			if d.Allowed == was || len(differ) == maxReplayed {
				return nil
			}
			word := map[bool]string{true: "allow", false: "deny"}
			differ = append(differ, replayed{e.DecisionID, e.At, pc.Principal.ID, d.Rule, word[was], word[d.Allowed], policy.Sentence(d)})
			return nil
		})
		if err != nil {
			return err
		}
		if differ == nil {
			differ = []replayed{}
		}
		if err := a.answer("policy-replay/v1", differ, func(w io.Writer) {
			for _, r := range differ {
				fmt.Fprintf(w, "%s\t%s\t%s → %s\t%s\n", r.Time.Format(time.RFC3339), r.Principal, r.Was, r.Would, printable(r.Explanation))
			}
		}); err != nil {
			return err
		}
		a.info("%d decisions replayed, %d would be others; %d were recorded without their facts", asked, len(differ), lost)
		return nil
	})
}

type policyWhyCmd struct {
	DecisionID string `arg:"" help:"decision_id of an answer."`
}

func (c policyWhyCmd) Run(a *app) error {
	id, err := uuid.Parse(c.DecisionID)
	if err != nil || id.Version() != 7 {
		return &errUsage{errors.New("this is no decision_id")}
	}
	return a.with(func(o *opened) error {
		var found *audit.Record
		err := o.Audit.Each(a.ctx, audit.Filter{DecisionID: id.String()}, func(e audit.Record) error {
			found = &e
			return nil
		})
		if err == nil && found == nil {
			err = sallyport.NotFound("decision: it may not have been recorded yet, or there were too many at once")
		}
		if err != nil {
			return err
		}
		return a.answer("decision/v1", found, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s by %s at %s, %s\n%s\n", found.Action, found.Result, printable(found.Actor), found.At.Format(time.RFC3339), printable(found.Detail["rule"]), printable(cmp.Or(found.Detail["explanation"], found.Reason)))
		})
	})
}
