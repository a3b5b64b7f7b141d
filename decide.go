package sallyport

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Facts is what a decision may depend on besides the principal.
type Facts struct {
	Now time.Time
}

// assumption answers "would it be allowed if …", which tells apart the kinds
// of refusal: a caller that only has to sign in again is told so.
type assumption uint8

const (
	assumeStrong assumption = 1 << iota // second factor used, just signed in
	assumeScope                         // the credential's scope lists everything
	assumeKind                          // the credential is of the kind that is asked for
)

// Allows decides the rule. It does not allocate. A nil or anonymous principal
// satisfies only Public.
func (r *Rule) Allows(p *Principal, f *Facts) bool { return r.holds(p, f, 0) }

func (r *Rule) holds(p *Principal, f *Facts, a assumption) bool {
	if r.op == OpPublic {
		return true
	}
	if p == nil || p.Anonymous() {
		return false
	}
	switch r.op {
	case OpSignedIn:
		return true
	case OpRole:
		return p.HasRole(r.name) || a&assumeScope != 0 && p.grants.Roles().Has(r.name)
	case OpPermission, OpScope:
		return p.Can(r.name) || a&assumeScope != 0 && p.grants.Holds(r.name)
	case OpUnscoped:
		return !p.claims.Scoped || a&assumeScope != 0
	case OpVia:
		return slices.Contains(r.kinds, p.claims.Kind) || a&assumeKind != 0
	case OpMFA:
		return p.claims.MFA || a&assumeStrong != 0
	case OpFresh:
		// A sign-in "in the future" is a clock that was set back: not fresh.
		age := f.Now.Sub(p.claims.AuthTime)
		return age >= -time.Second && age <= r.age || a&assumeStrong != 0
	case OpAll:
		for i := range r.of {
			if !r.of[i].holds(p, f, a) {
				return false
			}
		}
		return len(r.of) > 0
	case OpAny:
		for i := range r.of {
			if r.of[i].holds(p, f, a) {
				return true
			}
		}
	}
	return false
}

// Reason is how one leaf of a rule was decided.
type Reason struct {
	Rule string `json:"rule"`           // the leaf, as Rule.String prints it
	Met  bool   `json:"met"`            //
	Why  string `json:"why,omitempty"`  // what was found
	Need string `json:"need,omitempty"` // what would have met it
}

// Decision is a rule's answer with all its reasons.
type Decision struct {
	Allowed bool     `json:"allowed"`
	Rule    string   `json:"rule"`
	Reasons []Reason `json:"reasons"`

	refusal *Error
}

// Refusal returns the error to answer with, nil if allowed. It names what the
// route needs and never what the subject holds.
func (d Decision) Refusal() *Error { return d.refusal }

// Explain decides as Allows does and gives every leaf's reason, not only the
// first.
func (r Rule) Explain(p *Principal, f *Facts) Decision {
	d := Decision{Allowed: r.Allows(p, f), Rule: r.String()}
	r.reasons(p, f, &d.Reasons)
	if !d.Allowed {
		d.refusal = r.refuse(p, f)
	}
	return d
}

func (r *Rule) reasons(p *Principal, f *Facts, out *[]Reason) {
	if r.op == OpAll || r.op == OpAny {
		for i := range r.of {
			r.of[i].reasons(p, f, out)
		}
		return
	}
	x := Reason{Rule: r.String(), Met: r.Allows(p, f)}
	if !x.Met {
		x.Why, x.Need = r.why(p, f)
	}
	*out = append(*out, x)
}

// why tells, for a leaf that is not met, what was found and what is needed.
func (r *Rule) why(p *Principal, f *Facts) (why, need string) {
	switch {
	case r.op == OpNone:
		return "the rule is empty", "a rule"
	case p == nil || p.Anonymous():
		return "nobody is signed in", "a valid credential"
	case r.op == OpRole && p.grants.Roles().Has(r.name):
		return "the role is held, but the credential is scoped and does not list " + roleScope(r.name), "a credential with scope " + roleScope(r.name) + ", or an unscoped one"
	case r.op == OpRole:
		return "the role is not held", "role " + r.name
	case (r.op == OpPermission || r.op == OpScope) && p.grants.Holds(r.name):
		return "the permission is held, but the credential's scope does not list it", "a credential with scope " + r.name
	case r.op == OpPermission || r.op == OpScope:
		return "the permission is not held", "permission " + r.name
	case r.op == OpUnscoped:
		return "the credential is limited to a scope", "a credential that is not"
	case r.op == OpVia:
		return "the credential is of kind " + string(p.claims.Kind), "a credential of kind " + kindNames(r.kinds)
	case r.op == OpMFA:
		return "no second factor was used in this session", "a second factor"
	case r.op == OpFresh && p.claims.AuthTime.IsZero():
		return "the credential has no time of sign-in", "a sign-in within " + r.age.String()
	case r.op == OpFresh:
		return fmt.Sprintf("signed in %v ago", f.Now.Sub(p.claims.AuthTime).Truncate(time.Second)), "a sign-in within " + r.age.String()
	}
	return "not met", r.String()
}

// refuse turns an unmet rule into the error a caller gets. What the subject
// lacks for good comes first; what another or a wider credential would mend
// comes next;
// what signing in again would mend is last, and is a 401 (RFC 9470).
func (r *Rule) refuse(p *Principal, f *Facts) *Error {
	if p == nil || p.Anonymous() {
		return Unauthenticated()
	}
	if r.holds(p, f, assumeStrong) {
		e := &Error{
			Status: http.StatusUnauthorized, Code: "insufficient_user_authentication",
			Message: "This needs a stronger or more recent sign-in. Sign in again as asked for in WWW-Authenticate, then repeat the request.",
		}
		r.strength(p, f, e)
		return e
	}
	if r.holds(p, f, assumeStrong|assumeScope) {
		e := &Error{
			Status: http.StatusForbidden, Code: "insufficient_scope",
			Scope: r.missingScope(p, f, nil),
		}
		e.Message = "The credential's scope does not cover this. Use one that was issued with the scope named in WWW-Authenticate."
		if len(e.Scope) == 0 {
			e.Message = "This is not open to a credential that is limited to a scope. Sign in without asking for one."
		}
		return e
	}
	if r.holds(p, f, assumeStrong|assumeScope|assumeKind) {
		var kinds []Kind
		for k := range r.Kinds {
			if !slices.Contains(kinds, k) {
				kinds = append(kinds, k)
			}
		}
		return &Error{
			Status: http.StatusForbidden, Code: "credential_not_accepted",
			Message: "This is not open to this kind of credential. Use one of: " + kindNames(kinds) + ".",
		}
	}
	return &Error{
		Status: http.StatusForbidden, Code: "insufficient_permission",
		Message: "You are signed in, but not allowed to do this. It requires " + r.String() + ".",
	}
}

// strength collects what a new sign-in must bring.
func (r *Rule) strength(p *Principal, f *Facts, e *Error) {
	if r.Allows(p, f) {
		return
	}
	switch r.op {
	case OpMFA:
		e.MFA = true
	case OpFresh:
		if e.MaxAge == 0 || r.age < e.MaxAge {
			e.MaxAge = r.age
		}
	case OpAll:
		for i := range r.of {
			r.of[i].strength(p, f, e)
		}
	case OpAny:
		for i := range r.of {
			if r.of[i].holds(p, f, assumeStrong) {
				r.of[i].strength(p, f, e)
				return
			}
		}
	}
}

// missingScope collects the scopes that a credential would need besides its
// own.
func (r *Rule) missingScope(p *Principal, f *Facts, out []string) []string {
	if r.holds(p, f, assumeStrong) {
		return out
	}
	add := func(n string) {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	switch r.op {
	case OpRole:
		add(roleScope(r.name))
	case OpPermission, OpScope:
		add(r.name)
	case OpAll:
		for i := range r.of {
			out = r.of[i].missingScope(p, f, out)
		}
	case OpAny:
		for i := range r.of {
			if r.of[i].holds(p, f, assumeStrong|assumeScope) {
				return r.of[i].missingScope(p, f, out)
			}
		}
	}
	return out
}
