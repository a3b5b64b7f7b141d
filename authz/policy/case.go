package policy

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Case is one decision with everything that it depends on: as it is recorded, and
// as it can be asked about. It decides the same at any time, until policies change,
// but for what was too long to keep (maxRecorded).
type Case struct {
	Rule      sallyport.Rule    `json:"rule"`
	Principal Principal         `json:"principal"`
	Context   Context           `json:"context"`
	Route     string            `json:"route,omitempty"`  // its pattern
	Values    map[string]string `json:"values,omitempty"` // of its path that the rule names
}

// Principal is who asks. Permissions are those that are held, directly or through
// roles.
type Principal struct {
	ID          string   `json:"id"`
	Client      bool     `json:"client,omitempty"` // a program that acts for itself
	Roles       []string `json:"roles"`
	Permissions []string `json:"permissions"`
	Everything  bool     `json:"everything,omitempty"`
	Scoped      bool     `json:"scoped,omitempty"`
	Scopes      []string `json:"scopes,omitempty"`
}

// Context is what policies see besides.
type Context struct {
	MFA        bool           `json:"mfa"`
	Time       time.Time      `json:"time"`
	IP         string         `json:"ip,omitempty"`
	Country    string         `json:"country,omitempty"`
	AuthAge    *int64         `json:"auth_age,omitempty"` // seconds; none: nobody signed in
	Method     string         `json:"method,omitempty"`
	Path       string         `json:"path,omitempty"`
	Credential sallyport.Kind `json:"credential"`
}

// Bounds of what is recorded of one decision, in bytes.
const (
	maxCase     = 16 << 10
	maxRecorded = 256 // of a text that the caller chose, as JSON
)

// Record returns the case that a request is, as JSON; "" if it would be too long.
func (s *Set) Record(rule sallyport.Rule, p *sallyport.Principal, f *sallyport.Facts) string {
	claims := p.Claims()
	c := Case{
		Rule: rule,
		Principal: Principal{
			ID: claims.Subject, Client: principalOf(claims).Type == typeClient, Roles: p.Grants().Roles().Names(), Permissions: p.Grants().Permissions().Names(),
			Everything: p.Grants().Everything(), Scoped: claims.Scoped, Scopes: claims.Scopes.Names(),
		},
		Context: Context{MFA: claims.MFA, Time: f.Now.UTC(), Credential: claims.Kind},
	}
	around := surroundings{now: f.Now, signedIn: claims.AuthTime}
	if age, ok := around.age(); ok {
		c.Context.AuthAge = &age
	}
	if r := f.Request; r != nil {
		c.Context.Method, c.Route = methodOf(r), r.Pattern
		if s.looksAtPath(rule) {
			c.Context.Path = recordable(r.URL.Path)
		}
		if carrier := reqctx.From(r.Context()); carrier != nil {
			if addr := carrier.Addr().Unmap(); addr.IsValid() {
				c.Context.IP = addr.String()
				if s.place.Country != nil {
					c.Context.Country = s.place.Country(addr)
				}
			}
		}
		c.Values = valuesOf(rule, r)
	}
	b, err := json.Marshal(c)
	if err != nil || len(b) > maxCase {
		return ""
	}
	return string(b)
}

// looksAtPath reports whether a policy that applies to the rule does. Otherwise the
// path is nobody's business: it may hold a secret that was put in it.
func (s *Set) looksAtPath(rule sallyport.Rule) bool {
	for action := range rule.Names {
		if b := s.bucket(action); b != nil && b.uses&usePath != 0 && sallyport.Governed(action) {
			return true
		}
	}
	return false
}

// recordable cuts what a caller sent to maxRecorded bytes, counted as JSON has them.
func recordable(text string) string {
	n := 0
	for i, r := range text {
		switch {
		case r < ' ', r == utf8.RuneError, strings.ContainsRune("\"\\<>&\u2028\u2029", r):
			n += len(`\u0000`)
		default:
			n += utf8.RuneLen(r)
		}
		if n > maxRecorded {
			return text[:i] + "…"
		}
	}
	return text
}

func valuesOf(rule sallyport.Rule, r *http.Request) map[string]string {
	out := map[string]string{}
	for name := range rule.Values {
		out[name] = recordable(r.PathValue(name))
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// ParseCase reads a recorded case.
func ParseCase(text string) (c Case, err error) {
	err = json.Unmarshal([]byte(text), &c)
	return c, err
}

// Decide decides a case with the policies of a set.
func (c *Case) Decide(s *Set) sallyport.Decision {
	claims := sallyport.Claims{
		Subject: c.Principal.ID, Kind: c.Context.Credential, Scoped: c.Principal.Scoped, Scopes: sallyport.NewSet(c.Principal.Scopes...), MFA: c.Context.MFA,
	}
	if c.Principal.Client {
		claims.Client = c.Principal.ID
	}
	if c.Context.AuthAge != nil {
		claims.AuthTime = c.Context.Time.Add(-time.Duration(*c.Context.AuthAge) * time.Second)
	}
	grants := sallyport.NewGrants
	if c.Principal.Everything {
		grants = sallyport.NewAdminGrants
	}
	p := sallyport.NewPrincipal(claims, grants(c.Principal.Roles, c.Principal.Permissions))
	return c.Rule.Explain(&p, &sallyport.Facts{Now: c.Context.Time, Policies: recorded{s, c}})
}

// recorded decides what was asked before, or what might be.
type recorded struct {
	*Set
	c *Case
}

var _ sallyport.Policies = recorded{}

// Decide implements sallyport.Policies.
func (r recorded) Decide(q sallyport.PolicyQuestion) sallyport.PolicyAnswer {
	a, ok := r.ask(q)
	if !ok {
		return sallyport.PolicyAnswer{Forbidden: true}
	}
	return r.Set.decide(&a)
}

// Explain implements sallyport.Policies.
func (r recorded) Explain(q sallyport.PolicyQuestion) sallyport.PolicyExplanation {
	a, ok := r.ask(q)
	if !ok {
		return noResource(q.Resource)
	}
	return r.explain(&a)
}

func (r recorded) ask(q sallyport.PolicyQuestion) (asked, bool) {
	a, _ := r.Set.ask(q)
	around := &a.around
	around.method, around.path, around.country = r.c.Context.Method, r.c.Context.Path, &r.c.Context.Country
	around.addr, _ = netip.ParseAddr(r.c.Context.IP) // none is not valid
	var ok bool
	a.resource, ok = r.resource(q.Resource, func(name string) string { return r.c.Values[name] }, r.c.Route)
	return a, ok
}
