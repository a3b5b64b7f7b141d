package prove

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rule is who may call an operation, as its document declares it. It is decided
// here a second time, apart from the code that a server enforces its rules with:
// what both got wrong in the same way could not be found.
type Rule struct {
	op    string
	name  string
	age   time.Duration
	names []string // kinds of via, schemes of scheme
	of    []Rule
}

// The kinds of rule: those of x-sallyport-rule, and two more.
const (
	opPublic     = "public"
	opSignedIn   = "signed_in"
	opUnscoped   = "unscoped"
	opMFA        = "mfa"
	opRole       = "role"
	opPermission = "permission"
	opScope      = "scope"
	opFresh      = "fresh"
	opVia        = "via"
	opAll        = "all"
	opAny        = "any"
	opScheme     = "scheme"  // a credential of one of these schemes: from OpenAPI's security
	opUnknown    = "unknown" // what cannot be told from outside, such as a policy
)

const maxRuleDepth = 16

// Public reports whether everybody is let in.
func (r Rule) Public() bool { return r.op == opPublic }

// parseRule reads x-sallyport-rule. A part that is not known is kept as such: what
// does not depend on it can be decided all the same.
func parseRule(b json.RawMessage, depth int) (Rule, error) {
	if depth > maxRuleDepth {
		return Rule{}, fmt.Errorf("the rule is nested deeper than %d", maxRuleDepth)
	}
	var word string
	if json.Unmarshal(b, &word) == nil {
		switch word {
		case opPublic, opSignedIn, opUnscoped, opMFA:
			return Rule{op: word}, nil
		}
		return Rule{op: opUnknown, name: word}, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil || len(members) != 1 {
		return Rule{}, errors.New("a rule is a word, or an object with one member")
	}
	for op, v := range members {
		r := Rule{op: op}
		var err error
		switch op {
		case opRole, opPermission, opScope:
			err = json.Unmarshal(v, &r.name)
		case opFresh:
			var seconds int64
			err = json.Unmarshal(v, &seconds)
			r.age = time.Duration(seconds) * time.Second
		case opVia:
			err = json.Unmarshal(v, &r.names)
		case opAll, opAny:
			var of []json.RawMessage
			if err = json.Unmarshal(v, &of); err == nil && len(of) == 0 {
				err = errors.New("it has no parts")
			}
			for _, part := range of {
				p, perr := parseRule(part, depth+1)
				if perr != nil {
					return Rule{}, perr
				}
				r.of = append(r.of, p)
			}
		default:
			r = Rule{op: opUnknown, name: op}
		}
		if err != nil {
			return Rule{}, fmt.Errorf("%s: %w", op, err)
		}
		return r, nil
	}
	panic("unreachable")
}

// ruleOf is what OpenAPI's own words declare: one of the ways, each a scheme and
// its scopes. No way at all is public, and so is an empty one.
func ruleOf(security []map[string][]string) Rule {
	if len(security) == 0 {
		return Rule{op: opPublic}
	}
	r := Rule{op: opAny}
	for _, way := range security {
		if len(way) == 0 {
			return Rule{op: opPublic}
		}
		all := Rule{op: opAll}
		for name, scopes := range way {
			all.of = append(all.of, Rule{op: opScheme, names: []string{name}})
			for _, s := range scopes {
				all.of = append(all.of, Rule{op: opScope, name: s})
			}
		}
		if len(way) > 1 { // credentials that are needed together are nothing that one call here has
			all.of = append(all.of, Rule{op: opUnknown, name: "two schemes at once"})
		}
		r.of = append(r.of, all)
	}
	return r
}

// String prints the rule as listings do.
func (r Rule) String() string {
	switch r.op {
	case opSignedIn:
		return "signed-in"
	case opRole, opPermission, opScope:
		return r.op + "(" + r.name + ")"
	case opFresh:
		return "fresh(" + r.age.String() + ")"
	case opVia, opScheme:
		return r.op + "(" + strings.Join(r.names, ", ") + ")"
	case opAll, opAny:
		parts := make([]string, len(r.of))
		for i, p := range r.of {
			parts[i] = p.String()
		}
		return r.op + "(" + strings.Join(parts, ", ") + ")"
	case opUnknown:
		return r.name + "(…)"
	}
	return r.op
}

// each calls f for every leaf.
func (r Rule) each(f func(Rule)) {
	if r.op != opAll && r.op != opAny {
		f(r)
		return
	}
	for _, p := range r.of {
		p.each(f)
	}
}

// named returns the names of the leaves of these kinds, sorted, each once.
func (r Rule) named(ops ...string) (out []string) {
	r.each(func(leaf Rule) {
		if slices.Contains(ops, leaf.op) {
			out = append(out, leaf.name)
		}
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// Holding is what a credential is and what its holder may do.
type Holding struct {
	Scheme, Kind string   // name in the document, and what rules call it
	Permissions  []string // that the holder has
	Roles        []string // likewise
	Scoped       bool     // the credential is limited
	Scopes       []string // to these, and "role:" and a role
	MFA          bool     // a second factor was used
	// Age is how long ago somebody proved who they are; negative: nobody did.
	Age time.Duration
}

// answer is yes, no, or not to be told from outside.
type answer int8

const (
	no answer = iota
	yes
	unknown
)

func is(b bool) answer {
	if b {
		return yes
	}
	return no
}

// holds decides the rule. strong is “would it be so after signing in again”.
func (r Rule) holds(h *Holding, strong bool) answer {
	switch r.op {
	case opPublic, opSignedIn:
		return yes
	case opUnscoped:
		return is(!h.Scoped)
	case opMFA:
		return is(h.MFA || strong)
	case opFresh:
		return is(h.Age >= 0 && h.Age <= r.age || strong)
	case opRole:
		return is(slices.Contains(h.Roles, r.name) && (!h.Scoped || slices.Contains(h.Scopes, "role:"+r.name)))
	case opPermission, opScope:
		return is(slices.Contains(h.Permissions, r.name) && (!h.Scoped || slices.Contains(h.Scopes, r.name)))
	case opVia:
		return is(slices.Contains(r.names, h.Kind))
	case opScheme:
		return is(slices.Contains(r.names, h.Scheme))
	case opAll:
		out := yes
		for _, p := range r.of {
			switch p.holds(h, strong) {
			case no:
				return no
			case unknown:
				out = unknown
			}
		}
		return out
	case opAny:
		out := no
		for _, p := range r.of {
			switch p.holds(h, strong) {
			case yes:
				return yes
			case unknown:
				out = unknown
			}
		}
		return out
	}
	return unknown
}

// Expected is how an operation should answer.
type Expected struct {
	Admitted bool
	Public   bool   // the operation is: it may have refusals of its own, but none for want of a credential
	Statuses []int  // of a refusal; any of them
	Code     string // of its problem details, where only that tells it apart; "": any
}

// String is the expectation in words.
func (e Expected) String() string {
	switch {
	case e.Admitted && e.Public:
		return "not 401"
	case e.Admitted:
		return "let in"
	}
	parts := make([]string, len(e.Statuses))
	for i, s := range e.Statuses {
		parts[i] = fmt.Sprint(s)
	}
	return strings.TrimSpace(strings.Join(parts, " or ") + " " + e.Code)
}

func refused(statuses ...int) Expected { return Expected{Statuses: statuses} }

// expect returns how the operation should answer a good credential; told is false
// where that cannot be told from outside.
func (o *Operation) expect(h *Holding) (e Expected, told bool) {
	switch o.Rule.holds(h, false) {
	case yes:
		return Expected{Admitted: true}, true
	case unknown:
		return e, false
	}
	// A credential of a kind that the operation does not read is as good as none, or
	// refused. Sallyport reads these kinds everywhere.
	everywhere := o.own && slices.Contains([]string{"bearer", "api_key", "cookie"}, h.Kind)
	if !slices.Contains(o.Schemes, h.Scheme) && !everywhere {
		return refused(401, 403), true
	}
	// RFC 9470: what a new sign-in would mend is a 401, what not a 403.
	switch o.Rule.holds(h, true) {
	case yes:
		return refused(401), true
	case unknown:
		return refused(401, 403), true
	}
	return refused(403), true
}

// way is one of the ways to satisfy a rule: what it takes.
type way struct {
	permissions, roles []string
	mfa, unscoped      bool
}

const maxWays = 16

// ways lists them, at most maxWays.
func (r Rule) ways() []way {
	switch r.op {
	case opPermission, opScope:
		return []way{{permissions: []string{r.name}}}
	case opRole:
		return []way{{roles: []string{r.name}}}
	case opMFA:
		return []way{{mfa: true}}
	case opUnscoped:
		return []way{{unscoped: true}}
	case opAny:
		var out []way
		for _, p := range r.of {
			out = append(out, p.ways()...)
		}
		return out[:min(len(out), maxWays)]
	case opAll:
		out := []way{{}}
		for _, p := range r.of {
			var next []way
			for _, a := range out {
				for _, b := range p.ways() {
					next = append(next, a.and(b))
				}
			}
			out = next[:min(len(next), maxWays)]
		}
		return out
	}
	return []way{{}} // the rest is for the credential to be
}

func (w way) and(other way) way {
	return way{
		permissions: union(w.permissions, other.permissions), roles: union(w.roles, other.roles),
		mfa: w.mfa || other.mfa, unscoped: w.unscoped || other.unscoped,
	}
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func without(names []string, gone ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(gone, n) })
}
