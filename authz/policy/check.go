package policy

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// Question is what somebody asks about: whether a principal may do something.
type Question struct {
	Principal string `json:"principal" minLength:"1" maxLength:"256" doc:"An account or machine client: its id, user name or address"`
	Action    string `json:"action" minLength:"1" maxLength:"64" doc:"A permission"`
	Resource  string `json:"resource,omitempty" maxLength:"512" doc:"What it is done to: Type::id, as a rule with sallyport.Policy names it; or a route, such as DELETE /comments/{id}, as for a rule with a permission"`
	Context   Asked  `json:"context,omitempty"`
}

// Asked is a context that is asked about. What is left out is not known, but for the
// time, which is now.
type Asked struct {
	MFA        bool       `json:"mfa,omitempty" toml:"mfa" doc:"A second factor was used"`
	Time       *time.Time `json:"time,omitempty" toml:"time" doc:"Default: now"`
	IP         string     `json:"ip,omitempty" toml:"ip" maxLength:"45" doc:"The client's address"`
	Country    string     `json:"country,omitempty" toml:"country" maxLength:"2" doc:"Two letters (ISO 3166-1); default: that of the address, if policy.country_file knows it"`
	AuthAge    *int64     `json:"auth_age,omitempty" toml:"auth_age" minimum:"0" maximum:"3153600000" doc:"Seconds since the person signed in"`
	Method     string     `json:"method,omitempty" toml:"method" maxLength:"32"`
	Path       string     `json:"path,omitempty" toml:"path" maxLength:"2000"`
	Credential string     `json:"credential,omitempty" toml:"credential" enum:"bearer,api_key,cookie,basic,client" doc:"Kind of credential; default bearer"`
	Scopes     []string   `json:"scopes,omitempty" toml:"scopes" maxItems:"200" doc:"What the credential is limited to; default: it is not limited"`
}

// Ask decides a question with the policies of a set, and returns the id of its
// principal, too.
func (s *Service) Ask(ctx context.Context, set *Set, q Question) (d sallyport.Decision, id string, err error) {
	id, client, grants, err := s.cfg.Subject(ctx, q.Principal)
	if err != nil {
		return d, "", err
	}
	d, err = s.AskAs(ctx, set, q, PrincipalOf(id, client, grants))
	return d, id, err
}

// PrincipalOf is a principal with these grants.
func PrincipalOf(id string, client bool, g *sallyport.Grants) Principal {
	return Principal{ID: id, Client: client, Roles: g.Roles().Names(), Permissions: g.Permissions().Names(), Everything: g.Everything()}
}

// AskAs decides a question about a principal that need not exist.
func (s *Service) AskAs(ctx context.Context, set *Set, q Question, p Principal) (d sallyport.Decision, err error) {
	k, err := s.known(s.cfg.DB.View(ctx))
	if err != nil {
		return d, err
	}
	c, err := q.as(p, k, set, s.cfg.Now())
	if err != nil {
		return d, err
	}
	return c.Decide(set), nil
}

// Draft reads a file of policies, which are checked as stored ones are.
func (s *Service) Draft(ctx context.Context, text string) ([]*Policy, error) {
	all, err := ParseDraft(text)
	if err != nil {
		return nil, err
	}
	k, err := s.known(s.cfg.DB.View(ctx))
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if err := p.Check(k); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// as makes the case that is asked about.
func (q Question) as(p Principal, k Known, set *Set, now time.Time) (Case, error) {
	wrong := func(pointer, code, detail string) (Case, error) {
		return Case{}, sallyport.Invalid(sallyport.Field{Pointer: pointer, Code: code, Detail: detail})
	}
	if !k.Permissions[q.Action] {
		return wrong("/action", "unknown_action", "There is no such permission. It exists once a route's rule names it, or after PUT /permissions/{name}.")
	}
	c := Case{Rule: sallyport.Permission(q.Action), Route: q.Resource, Principal: p}
	if name, id, ok := strings.Cut(q.Resource, "::"); ok && !strings.Contains(name, " ") {
		// A type may itself have parts; the id is what follows the first that is known.
		for !k.Types[name] {
			more, rest, ok := strings.Cut(id, "::")
			if !ok {
				return wrong("/resource", "unknown_type", "There is no such type of resource. There are those that a rule names with sallyport.Policy. A route begins with its method.")
			}
			name, id = name+"::"+more, rest
		}
		if quoted, ok := strings.CutPrefix(id, `"`); ok {
			id = strings.TrimSuffix(quoted, `"`)
		}
		c.Rule, c.Route, c.Values = sallyport.Policy(q.Action, name+"::{id}"), "", map[string]string{"id": id}
	}
	a := q.Context
	c.Context = Context{MFA: a.MFA, Time: now, Country: a.Country, AuthAge: a.AuthAge, Method: a.Method, Path: a.Path, Credential: sallyport.KindBearer}
	if a.Time != nil {
		c.Context.Time = *a.Time
	}
	if a.Credential != "" {
		c.Context.Credential = sallyport.Kind(a.Credential)
	}
	if a.IP != "" {
		addr, err := netip.ParseAddr(a.IP)
		if err != nil || addr.Zone() != "" {
			return wrong("/context/ip", "invalid_format", "Write an IP address, such as 192.0.2.7 or 2001:db8::7.")
		}
		c.Context.IP = addr.Unmap().String()
		if c.Context.Country == "" && set.place.Country != nil {
			c.Context.Country = set.place.Country(addr.Unmap())
		}
	}
	if a.Scopes != nil {
		c.Principal.Scoped, c.Principal.Scopes = true, a.Scopes
	}
	return c, nil
}

// Sentence says what a decision came to and why, for a person.
func Sentence(d sallyport.Decision) string {
	var why, need []string
	for _, r := range d.Reasons {
		switch {
		case d.Allowed && !r.Met:
		case d.Allowed:
			text := r.Rule + " is met"
			for _, p := range r.Policies {
				if p.Applies && p.Effect == "permit" {
					text += ": " + p.Text
				}
			}
			why = append(why, strings.TrimSuffix(text, "."))
		case !r.Met:
			why = append(why, r.Rule+": "+strings.TrimSuffix(r.Why, "."))
			if r.Need != "" {
				need = append(need, r.Need)
			}
		}
	}
	if d.Allowed {
		return "Allowed. " + strings.Join(why, "; ") + "."
	}
	text := "Denied. " + strings.Join(why, "; ") + "."
	if len(need) > 0 {
		text += " It would take " + strings.Join(need, "; and ") + "."
	}
	return clip(text, 2*maxText)
}
