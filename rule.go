package sallyport

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Op is the kind of a rule's node.
type Op uint8

// The kinds of rule. OpNone is the zero Rule, which is refused everywhere.
const (
	OpNone Op = iota
	OpPublic
	OpSignedIn
	OpRole
	OpPermission
	OpScope
	OpMFA
	OpFresh
	OpUnscoped
	OpVia
	OpAll
	OpAny
)

// Rule says who may call a route. It is immutable data without functions: it
// can be printed, written as JSON, documented, listed, decided (Allows) and
// explained (Explain). The zero Rule is not "no rule": it is refused where it
// is declared and denies where it is asked.
type Rule struct {
	op    Op
	name  string
	age   time.Duration
	kinds []Kind
	of    []Rule
}

// Public lets everybody in, signed in or not.
func Public() Rule { return Rule{op: OpPublic} }

// SignedIn requires any valid credential.
func SignedIn() Rule { return Rule{op: OpSignedIn} }

// Role requires a role. A scoped credential satisfies it only if it was
// granted the scope "role:NAME".
func Role(name string) Rule { return Rule{op: OpRole, name: name} }

// Permission requires a permission: the subject must hold it, and a scoped
// credential must list it.
func Permission(name string) Rule { return Rule{op: OpPermission, name: name} }

// Scope requires a scope. Scopes and permissions share one namespace, so it
// decides exactly as Permission does: a scope limits a credential and never
// gives its subject anything.
func Scope(name string) Rule { return Rule{op: OpScope, name: name} }

// MFA requires that a second factor was used in the session.
func MFA() Rule { return Rule{op: OpMFA} }

// Fresh requires that the person proved who they are within the last max.
func Fresh(max time.Duration) Rule { return Rule{op: OpFresh, age: max} }

// Unscoped requires a credential that was not limited to a scope when it was
// issued. It is for what no scope stands for: a token that was given away to
// read one thing must not be able to delete its owner's account.
func Unscoped() Rule { return Rule{op: OpUnscoped} }

// Via requires a credential of one of these kinds. It also lets a route take
// what is not taken everywhere: Basic, and a machine client's own secret, count
// only where a rule names them (Basic also where the configuration does).
func Via(kinds ...Kind) Rule { return Rule{op: OpVia, kinds: slices.Clone(kinds)} }

// All requires every one of the rules.
func All(of ...Rule) Rule { return Rule{op: OpAll, of: slices.Clone(of)} }

// Any requires at least one of the rules.
func Any(of ...Rule) Rule { return Rule{op: OpAny, of: slices.Clone(of)} }

// Op returns the kind of the rule's top node.
func (r Rule) Op() Op { return r.op }

// Name returns the role, permission or scope that the top node names.
func (r Rule) Name() string { return r.name }

// Age returns the duration of a Fresh node.
func (r Rule) Age() time.Duration { return r.age }

// Kinds yields every kind of credential that a Via in the rule names.
func (r Rule) Kinds(yield func(Kind) bool) { r.eachKind(yield) }

func (r *Rule) eachKind(yield func(Kind) bool) bool {
	for _, k := range r.kinds {
		if !yield(k) {
			return false
		}
	}
	for i := range r.of {
		if !r.of[i].eachKind(yield) {
			return false
		}
	}
	return true
}

// Of returns the parts of an All or Any node.
func (r Rule) Of() []Rule { return slices.Clone(r.of) }

// MaxRuleDepth bounds how deep All and Any may be nested.
const MaxRuleDepth = 16

// Check returns an error that says what is wrong with the rule, or nil.
func (r Rule) Check() error { return r.check(0) }

func (r Rule) check(depth int) error {
	if depth > MaxRuleDepth {
		return fmt.Errorf("rule is nested deeper than %d", MaxRuleDepth)
	}
	switch r.op {
	case OpPublic, OpSignedIn, OpMFA, OpUnscoped:
		return nil
	case OpRole, OpPermission, OpScope:
		return CheckName(r.name)
	case OpFresh:
		if r.age < time.Second {
			return fmt.Errorf("fresh(%v): the duration must be at least one second", r.age)
		}
		return nil
	case OpVia:
		if len(r.kinds) == 0 {
			return errors.New("via(): at least one kind of credential must be named")
		}
		for i, k := range r.kinds {
			if !slices.Contains(Kinds(), k) {
				return fmt.Errorf("%v: %q is no kind of credential", r, k)
			}
			if slices.Contains(r.kinds[:i], k) {
				return fmt.Errorf("%v: %q is named twice", r, k)
			}
		}
		return nil
	case OpAll, OpAny:
		if len(r.of) == 0 {
			return fmt.Errorf("%v: at least one rule must be named", r)
		}
		for _, c := range r.of {
			if c.op == OpPublic {
				return fmt.Errorf("%v: public cannot be combined: it would make the other parts meaningless", r)
			}
			if err := c.check(depth + 1); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("no rule: say who may call it, or write sallyport.Public() if everybody may")
}

// CheckName returns an error unless name is usable as a role, permission or
// scope: 1 to 64 of the characters a-z, A-Z, 0-9 and "_-.:/", beginning with a
// letter or digit. It is a subset of RFC 6749's scope-token.
func CheckName(name string) error {
	if name == "" {
		return errors.New("a name must not be empty")
	}
	if len(name) > 64 {
		return errors.New("a name must not be longer than 64 characters")
	}
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_-.:/", rune(c))) {
			return fmt.Errorf("name %q: use 1 to 64 of a-z, A-Z, 0-9 and _ - . : /, beginning with a letter or digit", name)
		}
	}
	return nil
}

// String prints the rule as it stands in listings, for example
// "all(role(admin), mfa)".
func (r Rule) String() string {
	switch r.op {
	case OpPublic:
		return "public"
	case OpSignedIn:
		return "signed-in"
	case OpRole:
		return "role(" + r.name + ")"
	case OpPermission:
		return "permission(" + r.name + ")"
	case OpScope:
		return "scope(" + r.name + ")"
	case OpMFA:
		return "mfa"
	case OpUnscoped:
		return "unscoped"
	case OpFresh:
		return "fresh(" + r.age.String() + ")"
	case OpVia:
		return "via(" + kindNames(r.kinds) + ")"
	case OpAll, OpAny:
		parts := make([]string, len(r.of))
		for i := range r.of {
			parts[i] = r.of[i].String()
		}
		word := "all("
		if r.op == OpAny {
			word = "any("
		}
		return word + strings.Join(parts, ", ") + ")"
	}
	return "none"
}

func kindNames(kinds []Kind) string {
	var b strings.Builder
	for i, k := range kinds {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(k))
	}
	return b.String()
}

// MarshalJSON writes the rule as the OpenAPI extension x-sallyport-rule holds
// it: "public", "signed_in", "unscoped", "mfa", {"role":"admin"}, {"permission":"a:b"},
// {"scope":"a:b"}, {"fresh":300} (seconds), {"via":["api_key"]}, {"all":[…]} or
// {"any":[…]}.
func (r Rule) MarshalJSON() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	switch r.op {
	case OpPublic:
		return []byte(`"public"`), nil
	case OpSignedIn:
		return []byte(`"signed_in"`), nil
	case OpMFA:
		return []byte(`"mfa"`), nil
	case OpUnscoped:
		return []byte(`"unscoped"`), nil
	case OpRole:
		return json.Marshal(map[string]string{"role": r.name})
	case OpPermission:
		return json.Marshal(map[string]string{"permission": r.name})
	case OpScope:
		return json.Marshal(map[string]string{"scope": r.name})
	case OpFresh:
		return []byte(`{"fresh":` + strconv.FormatInt(int64(r.age/time.Second), 10) + `}`), nil
	case OpVia:
		return json.Marshal(map[string][]Kind{"via": r.kinds})
	case OpAll:
		return json.Marshal(map[string][]Rule{"all": r.of})
	default:
		return json.Marshal(map[string][]Rule{"any": r.of})
	}
}

// Names yields every permission and scope that the rule names, for building
// the list of known permissions.
func (r Rule) Names(yield func(string) bool) {
	r.names(yield)
}

func (r *Rule) names(yield func(string) bool) bool {
	if (r.op == OpPermission || r.op == OpScope) && !yield(r.name) {
		return false
	}
	for i := range r.of {
		if !r.of[i].names(yield) {
			return false
		}
	}
	return true
}
