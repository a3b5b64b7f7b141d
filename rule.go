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
	OpPolicy
)

// Rule says who may call a route. It is immutable data without functions: it
// can be printed, written as JSON, documented, listed, decided (Allows) and
// explained (Explain). The zero Rule is not "no rule": it is refused where it
// is declared and denies where it is asked.
type Rule struct {
	op       Op
	name     string
	resource string
	age      time.Duration
	kinds    []Kind
	of       []Rule
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

// Policy requires that a stored policy permits the action on the resource, and
// that none forbids it. Holding the permission of that name is neither needed nor
// enough: policies see what the principal holds and decide alone. A scoped
// credential must list the action, as for a permission.
//
// The resource is a type and an id: "Order::{id}" takes the id from the path
// value of that name. An id may be of several parts with slashes between,
// "Item::{tenant}/{id}"; then a slash within a value is written %2F, so that no
// two resources have one id.
func Policy(action, resource string) Rule {
	return Rule{op: OpPolicy, name: action, resource: resource}
}

// All requires every one of the rules.
func All(of ...Rule) Rule { return Rule{op: OpAll, of: slices.Clone(of)} }

// Any requires at least one of the rules.
func Any(of ...Rule) Rule { return Rule{op: OpAny, of: slices.Clone(of)} }

// Op returns the kind of the rule's top node.
func (r Rule) Op() Op { return r.op }

// Name returns the role, permission, scope or action that the top node names.
func (r Rule) Name() string { return r.name }

// Resource returns the resource of a Policy node, as it was written.
func (r Rule) Resource() string { return r.resource }

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
	case OpPolicy:
		if err := CheckName(r.name); err != nil {
			return err
		}
		if _, err := ParseResource(r.resource); err != nil {
			return fmt.Errorf("%v: %w", r, err)
		}
		return nil
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
	case OpPolicy:
		return "policy(" + r.name + ", " + r.resource + ")"
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
// {"scope":"a:b"}, {"fresh":300} (seconds), {"via":["api_key"]},
// {"policy":{"action":"a:b","resource":"Order::{id}"}}, {"all":[…]} or
// {"any":[…]}. UnmarshalJSON reads it.
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
	case OpPolicy:
		return json.Marshal(map[string]policyJSON{"policy": {r.name, r.resource}})
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

type policyJSON struct {
	Action   string `json:"action"`
	Resource string `json:"resource"`
}

// UnmarshalJSON reads what MarshalJSON writes, and nothing else.
func (r *Rule) UnmarshalJSON(b []byte) error {
	read, err := ruleFromJSON(b, 0)
	if err == nil {
		err = read.Check()
	}
	if err != nil {
		return err
	}
	*r = read
	return nil
}

func ruleFromJSON(b []byte, depth int) (Rule, error) {
	if depth > MaxRuleDepth {
		return Rule{}, fmt.Errorf("rule is nested deeper than %d", MaxRuleDepth)
	}
	var word string
	if json.Unmarshal(b, &word) == nil {
		for _, r := range []Rule{Public(), SignedIn(), MFA(), Unscoped()} {
			if text, err := r.MarshalJSON(); err == nil && string(text) == `"`+word+`"` {
				return r, nil
			}
		}
		return Rule{}, fmt.Errorf("%q is no rule", word)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil || len(members) != 1 {
		return Rule{}, errors.New("a rule is a word, or an object of one member")
	}
	for kind, b := range members {
		switch kind {
		case "role", "permission", "scope":
			var name string
			err := json.Unmarshal(b, &name)
			op := map[string]Op{"role": OpRole, "permission": OpPermission, "scope": OpScope}[kind]
			return Rule{op: op, name: name}, err
		case "fresh":
			var seconds int64
			err := json.Unmarshal(b, &seconds)
			if err == nil && (seconds < 1 || seconds > int64(maxAge/time.Second)) {
				err = fmt.Errorf("fresh: %d seconds are out of range", seconds)
			}
			return Fresh(time.Duration(seconds) * time.Second), err
		case "via":
			var kinds []Kind
			err := json.Unmarshal(b, &kinds)
			return Via(kinds...), err
		case "policy":
			var p policyJSON
			err := json.Unmarshal(b, &p)
			return Policy(p.Action, p.Resource), err
		case "all", "any":
			var parts []json.RawMessage
			if err := json.Unmarshal(b, &parts); err != nil {
				return Rule{}, err
			}
			r := Rule{op: OpAll}
			if kind == "any" {
				r.op = OpAny
			}
			for _, b := range parts {
				part, err := ruleFromJSON(b, depth+1)
				if err != nil {
					return Rule{}, err
				}
				r.of = append(r.of, part)
			}
			return r, nil
		}
	}
	return Rule{}, errors.New("the rule is of no kind that is known")
}

// maxAge bounds what UnmarshalJSON takes for Fresh: a hundred years.
const maxAge = 100 * 366 * 24 * time.Hour

// Types yields every type of resource that a Policy in the rule names.
func (r Rule) Types(yield func(string) bool) {
	r.eachPolicy(func(p *Rule) bool { return yield(typeOf(p.resource)) })
}

// Values yields every path value that a Policy in the rule names.
func (r Rule) Values(yield func(string) bool) {
	r.eachPolicy(func(p *Rule) bool {
		res, err := ParseResource(p.resource)
		for name := range res.Values {
			if err == nil && !yield(name) {
				return false
			}
		}
		return true
	})
}

func (r *Rule) eachPolicy(yield func(*Rule) bool) bool {
	if r.op == OpPolicy && !yield(r) {
		return false
	}
	for i := range r.of {
		if !r.of[i].eachPolicy(yield) {
			return false
		}
	}
	return true
}

// Governed reports whether stored policies apply to an action. To reading and
// writing policies they never do: whoever holds these permissions can mend a
// policy that shuts everybody out.
func Governed(action string) bool { return action != "read:policies" && action != "write:policies" }

// Governed reports whether stored policies can matter to the rule: it asks for a
// permission, a scope or a policy to which they apply.
func (r Rule) Governed() bool {
	for name := range r.Names {
		if Governed(name) {
			return true
		}
	}
	return false
}

// Names yields every permission, scope and action that the rule names, for
// building the list of known permissions.
func (r Rule) Names(yield func(string) bool) {
	r.names(yield)
}

func (r *Rule) names(yield func(string) bool) bool {
	if (r.op == OpPermission || r.op == OpScope || r.op == OpPolicy) && !yield(r.name) {
		return false
	}
	for i := range r.of {
		if !r.of[i].names(yield) {
			return false
		}
	}
	return true
}
