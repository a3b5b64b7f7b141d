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
	// Policies is what stored policies say; nil: there are none, and no Policy is met.
	Policies Policies
	// Request is what is asked for: policies see its method, path and address, and
	// resources take their ids from its path values.
	Request *http.Request
}

// Policies decides what stored policies say: package authz/policy of a request, and
// of one that was recorded. It is asked about an action only if a policy applies to
// it.
type Policies interface {
	// Apply reports whether there is a policy for the action.
	Apply(action string) bool
	// Decide tells what the policies for an action say.
	Decide(q PolicyQuestion) PolicyAnswer
	// Explain decides as Decide does, and tells why.
	Explain(q PolicyQuestion) PolicyExplanation
}

// PolicyQuestion is what policies are asked.
type PolicyQuestion struct {
	Principal *Principal
	Facts     *Facts
	Action    string
	Resource  string // of a Policy, as it is written there; "": the route itself
	// As if a second factor had been used, and the person had just signed in.
	MFA, Fresh bool
}

// PolicyAnswer is what policies say. A policy that cannot be evaluated forbids.
type PolicyAnswer struct{ Permitted, Forbidden bool }

// PolicyExplanation is an answer with its reasons.
type PolicyExplanation struct {
	PolicyAnswer
	// Why and Need are as in Reason, if the answer is not to let in.
	Why, Need string
	Policies  []PolicyReason
	Errors    []string
}

// PolicyReason is how one policy decided.
type PolicyReason struct {
	ID      string `json:"id"`
	Effect  string `json:"effect"`  // permit, forbid
	Applies bool   `json:"applies"` // to this principal, action and resource, with all conditions met
	// Text tells the same as a sentence.
	Text       string            `json:"text"`
	Conditions []PolicyCondition `json:"conditions,omitempty"`
	Error      string            `json:"error,omitempty"`
}

// PolicyCondition is what one part of a policy came to.
type PolicyCondition struct {
	Kind string `json:"kind"` // scope, when, unless
	Text string `json:"text"` // in Cedar
	// Value is what it came to: true, false, or "error: " and what is wrong.
	Value string `json:"value"`
	// Met tells whether the policy can apply, as far as this condition goes.
	Met bool `json:"met"`
	// Saw is what it looked at: "context.mfa" is "false".
	Saw map[string]string `json:"saw,omitempty"`
}

// assumption answers "would it be allowed if …", which tells apart the kinds
// of refusal: a caller that only has to sign in again is told so.
type assumption uint8

const (
	assumeStrong assumption = 1 << iota // second factor used, just signed in
	assumeScope                         // the credential's scope lists everything
	assumeKind                          // the credential is of the kind that is asked for
	assumePolicy                        // policies allow it
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
		if f != nil && f.Policies != nil && f.Policies.Apply(r.name) {
			return r.permitted(p, f, a)
		}
		return p.Can(r.name) || a&assumeScope != 0 && p.grants.Holds(r.name)
	case OpPolicy:
		return f != nil && f.Policies != nil && (a&assumePolicy != 0 || f.Policies.Apply(r.name)) && r.permitted(p, f, a)
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

// permitted decides a leaf to which policies apply. A credential's scope limits
// what they give as it limits everything else; a permission that is held needs no
// policy that permits it; and what one forbids nothing gives back.
func (r *Rule) permitted(p *Principal, f *Facts, a assumption) bool {
	if p.claims.Scoped && !p.claims.Scopes.Has(r.name) && a&assumeScope == 0 {
		return false
	}
	if a&assumePolicy != 0 {
		return r.op == OpPolicy || p.grants.Holds(r.name)
	}
	strong := a&assumeStrong != 0
	answer := f.Policies.Decide(r.question(p, f, strong, strong))
	return !answer.Forbidden && (answer.Permitted || r.op != OpPolicy && p.grants.Holds(r.name))
}

// question copies what it is about: whoever answers it may keep that, and a rule
// to which no policy applies must not allocate.
func (r *Rule) question(p *Principal, f *Facts, mfa, fresh bool) PolicyQuestion {
	who, facts := *p, *f
	return PolicyQuestion{Principal: &who, Facts: &facts, Action: r.name, Resource: r.resource, MFA: mfa, Fresh: fresh}
}

// Reason is how one leaf of a rule was decided.
type Reason struct {
	Rule string `json:"rule"`           // the leaf, as Rule.String prints it
	Met  bool   `json:"met"`            //
	Why  string `json:"why,omitempty"`  // what was found
	Need string `json:"need,omitempty"` // what would have met it
	// Policies are those that apply to the action, and Errors what is wrong with them.
	Policies []PolicyReason `json:"policies,omitempty"`
	Errors   []string       `json:"errors,omitempty"`
}

// Decision is a rule's answer with all its reasons.
type Decision struct {
	// ID names the decision; whoever records it sets it.
	ID      string   `json:"decision_id,omitempty"`
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
	if r.governed(p, f) {
		e := f.Policies.Explain(r.question(p, f, false, false))
		x.Policies, x.Errors = e.Policies, e.Errors
		if !x.Met && (!p.claims.Scoped || p.claims.Scopes.Has(r.name)) {
			x.Why, x.Need = e.Why, e.Need
		}
	}
	*out = append(*out, x)
}

// governed reports whether policies decide this leaf for this principal.
func (r *Rule) governed(p *Principal, f *Facts) bool {
	asks := r.op == OpPermission || r.op == OpScope || r.op == OpPolicy
	return asks && p != nil && !p.Anonymous() && f != nil && f.Policies != nil && f.Policies.Apply(r.name)
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
	case r.op == OpPolicy && p.claims.Scoped && !p.claims.Scopes.Has(r.name):
		return "the credential's scope does not list the action", "a credential with scope " + r.name
	case r.op == OpPolicy:
		return "no policy is about the action", "a policy that permits " + r.name
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
	if r.holds(p, f, assumeStrong|assumeScope|assumeKind|assumePolicy) {
		return &Error{
			Status: http.StatusForbidden, Code: "denied_by_policy",
			Message: "A policy does not allow this, for you and at this moment. An administrator finds the reasons under the decision_id.",
		}
	}
	return &Error{
		Status: http.StatusForbidden, Code: "insufficient_permission",
		Message: "You are signed in, but not allowed to do this. It requires " + r.String() + ".",
	}
}

// policyAge is how recent a sign-in must be that a policy asks for: which age it
// compares with is not known here.
const policyAge = time.Minute

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
	case OpPermission, OpScope, OpPolicy:
		if !r.governed(p, f) {
			return
		}
		// Which of the two would do is found by asking.
		mfa, fresh := f.Policies.Decide(r.question(p, f, true, false)), f.Policies.Decide(r.question(p, f, false, true))
		met := func(a PolicyAnswer) bool {
			return !a.Forbidden && (a.Permitted || r.op != OpPolicy && p.grants.Holds(r.name))
		}
		e.MFA = e.MFA || met(mfa) || !met(fresh)
		if !met(mfa) && (e.MaxAge == 0 || e.MaxAge > policyAge) {
			e.MaxAge = policyAge
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
	case OpPermission, OpScope, OpPolicy:
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
