package policy

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"github.com/sallyport/sallyport"
)

// Bounds of an explanation.
const (
	maxReasons = 50   // policies; those that decided come first
	maxText    = 2000 // bytes of a sentence
	maxValue   = 200  // bytes of one value
)

func noResource(written string) sallyport.PolicyExplanation {
	return sallyport.PolicyExplanation{
		PolicyAnswer: sallyport.PolicyAnswer{Forbidden: true},
		Why:          "the request has no value for the resource " + written, Need: "a resource with an id",
	}
}

// explain decides as decide does, and tells what each policy came to.
func (s *Set) explain(a *asked) sallyport.PolicyExplanation {
	out := sallyport.PolicyExplanation{PolicyAnswer: s.decide(a)}
	b := s.bucket(a.action)
	if b == nil {
		return out
	}
	env := eval.Env{
		Principal: a.principal, Action: actionUID(a.action), Resource: a.resource,
		Context: s.context(&a.around, useContext), Entities: &entities{a, s.view(a.grants), useID},
	}
	// What decided comes first. Every policy is evaluated for that, and only those that
	// are shown are put into words, which takes many times as long.
	found := make([]outcome, len(b.list))
	for i, p := range b.list {
		found[i] = p.outcome(env)
	}
	slices.SortStableFunc(found, func(x, y outcome) int { return x.rank() - y.rank() })
	found = found[:min(len(found), maxReasons)]
	var why, need []string
	for _, o := range found {
		r := o.reason(env)
		out.Policies = append(out.Policies, r)
		if r.Error != "" {
			out.Errors = append(out.Errors, r.ID+": "+r.Error)
		}
		switch n := o.rank(); {
		case n == 0, n == 1:
			why = append(why, r.Text)
			need = append(need, "policy "+r.ID+" not to forbid it")
			if r.Error != "" {
				need[len(need)-1] = "policy " + r.ID + " to be mended"
			} else if c := unmet(r, true); c != "" {
				need[len(need)-1] += ", which takes " + c
			}
		case n == 3 && !out.Forbidden:
			why = append(why, r.Text)
			if c := unmet(r, false); c != "" && r.Conditions[0].Met {
				need = append(need, c+" (policy "+r.ID+")")
			}
		}
	}
	if out.Permitted && !out.Forbidden {
		return out
	}
	out.Why, out.Need = clip(strings.Join(why, " "), maxText), clip(strings.Join(need, "; or "), maxText)
	if out.Forbidden {
		out.Need = clip(strings.Join(need, "; and "), maxText)
	}
	if out.Why == "" {
		out.Why = "no policy permits " + a.action
	}
	if out.Need == "" {
		out.Need = "permission " + a.action + ", or a policy that permits it"
	}
	return out
}

// unmet words what would turn a policy: of one that forbids, that one of its
// conditions does not hold; of one that permits, that those do which do not.
func unmet(r sallyport.PolicyReason, forbids bool) string {
	var parts []string
	for _, c := range r.Conditions {
		if c.Kind == "scope" || c.Met != forbids {
			continue
		}
		wanted := c.Kind == "when"
		if forbids {
			wanted = !wanted
		}
		if wanted {
			parts = append(parts, c.Text)
		} else {
			parts = append(parts, "that "+c.Text+" is false")
		}
	}
	if forbids {
		return strings.Join(parts, " or ")
	}
	return strings.Join(parts, " and ")
}

// outcome is what one policy came to.
type outcome struct {
	*Policy
	applies bool
	wrong   string // "": it can be evaluated
}

func (p *Policy) outcome(env eval.Env) outcome {
	if p.broken != nil {
		return outcome{p, false, p.broken.Error()}
	}
	applies, wrong := matches(p.cedar, env)
	return outcome{p, applies, wrong}
}

// rank orders policies by what they had to do with a decision.
func (o outcome) rank() int {
	switch {
	case o.wrong != "":
		return 0
	case o.applies && !o.Permits:
		return 1
	case o.applies:
		return 2
	case o.Permits:
		return 3
	}
	return 4
}

// reason puts it into words.
func (o outcome) reason(env eval.Env) sallyport.PolicyReason {
	p := o.Policy
	r := sallyport.PolicyReason{ID: p.ID, Effect: p.Effect(), Applies: o.applies}
	if p.broken != nil {
		r.Error = "it cannot be read: " + p.broken.Error()
		r.Text = fmt.Sprintf("Policy %s cannot be read, which denies.", p.ID)
		return r
	}
	r.Error = clip(o.wrong, maxValue)
	scope := *p.ast
	scope.Conditions, scope.Annotations = nil, nil
	inScope, _ := matches(cedar.NewPolicyFromAST((*publicast.Policy)(&scope)), env)
	r.Conditions = append(r.Conditions, condition(env, "scope", scopeText(&scope), types.Boolean(inScope), "", bareVariables(&scope)))
	r.Conditions[0].Met = inScope
	for _, cond := range p.ast.Conditions {
		kind, split := "when", conjuncts
		if !cond.Condition {
			kind, split = "unless", disjuncts
		}
		over := !inScope // from here on nothing matters any more
		for _, part := range split(cond.Body) {
			v, err := eval.Eval(part, env)
			if err != nil && over {
				r.Conditions = append(r.Conditions, sallyport.PolicyCondition{Kind: kind, Text: textOf(part), Value: "not looked at"})
				continue
			}
			text := ""
			if err != nil {
				text = clip(err.Error(), maxValue)
			}
			c := condition(env, kind, textOf(part), v, text, part)
			over = over || !c.Met
			r.Conditions = append(r.Conditions, c)
		}
	}
	r.Text = clip(sentence(p, r), maxText)
	return r
}

func condition(env eval.Env, kind, text string, v types.Value, err string, looked ast.IsNode) sallyport.PolicyCondition {
	c := sallyport.PolicyCondition{Kind: kind, Text: text, Saw: saw(looked, env)}
	if err != "" {
		c.Value = "error: " + err
		return c
	}
	c.Value = shown(v)
	c.Met = c.Value == "true"
	if kind == "unless" {
		c.Met = c.Value == "false"
	}
	return c
}

// sentence says the same for a person.
func sentence(p *Policy, r sallyport.PolicyReason) string {
	verb := "permits"
	if !p.Permits {
		verb = "forbids"
	}
	described := func(c sallyport.PolicyCondition) string {
		text := c.Text + " is " + c.Value
		var parts []string
		for _, name := range sortedKeys(c.Saw) {
			if name != c.Text {
				parts = append(parts, name+" is "+c.Saw[name])
			}
		}
		if len(parts) > 0 {
			text += " (" + strings.Join(parts, ", ") + ")"
		}
		return text
	}
	var met, unmet []string
	for _, c := range r.Conditions[1:] {
		switch {
		case strings.HasPrefix(c.Value, "error: "):
			return fmt.Sprintf("Policy %s cannot be evaluated, which denies: %s: %s.", p.ID, c.Text, strings.TrimPrefix(c.Value, "error: "))
		case c.Met:
			met = append(met, described(c))
		case c.Value != "not looked at":
			unmet = append(unmet, described(c))
		}
	}
	switch {
	case r.Error != "":
		return fmt.Sprintf("Policy %s cannot be evaluated, which denies: %s.", p.ID, r.Error)
	case r.Applies && len(met) > 0:
		return fmt.Sprintf("Policy %s %s it, because %s.", p.ID, verb, strings.Join(met, " and "))
	case r.Applies:
		return fmt.Sprintf("Policy %s %s it.", p.ID, verb)
	case !r.Conditions[0].Met:
		return fmt.Sprintf("Policy %s does not apply: it is about %s.", p.ID, described(r.Conditions[0]))
	case p.Permits:
		return fmt.Sprintf("Policy %s would permit it, but %s.", p.ID, strings.Join(unmet, " and "))
	}
	return fmt.Sprintf("Policy %s does not forbid it, because %s.", p.ID, strings.Join(unmet, " and "))
}

// one is a set of one policy.
type one struct{ p *cedar.Policy }

// All implements cedar.PolicyIterator.
func (o one) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) { yield("", o.p) }
}

// matches reports whether a policy applies, or what is wrong with it.
func matches(p *cedar.Policy, env eval.Env) (applies bool, wrong string) {
	_, found := cedar.Authorize(one{p}, env.Entities, cedar.Request{Principal: env.Principal.(types.EntityUID), Action: env.Action.(types.EntityUID), Resource: env.Resource.(types.EntityUID), Context: env.Context.(types.Record)})
	if len(found.Errors) > 0 {
		return false, found.Errors[0].Message
	}
	return len(found.Reasons) > 0, ""
}

func conjuncts(n ast.IsNode) []ast.IsNode {
	if and, ok := n.(ast.NodeTypeAnd); ok {
		return append(conjuncts(and.Left), conjuncts(and.Right)...)
	}
	return []ast.IsNode{n}
}

func disjuncts(n ast.IsNode) []ast.IsNode {
	if or, ok := n.(ast.NodeTypeOr); ok {
		return append(disjuncts(or.Left), disjuncts(or.Right)...)
	}
	return []ast.IsNode{n}
}

// textOf writes an expression in Cedar. The library writes whole policies only.
func textOf(n ast.IsNode) string {
	p := ast.Permit().When(ast.NewNode(n))
	text := string(cedar.NewPolicyFromAST((*publicast.Policy)(p)).MarshalCedar())
	_, text, _ = strings.Cut(text, "when { ")
	text = strings.TrimSuffix(text, " };")
	return clip(strings.ReplaceAll(text, "\n", " "), maxText)
}

// scopeText is what a policy is about, without what says nothing.
func scopeText(p *ast.Policy) string {
	text := strings.ReplaceAll(string(cedar.NewPolicyFromAST((*publicast.Policy)(p)).MarshalCedar()), "\n", " ")
	_, text, _ = strings.Cut(text, "(")
	text = strings.TrimSuffix(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), ";")), ")")
	return clip(strings.Join(strings.Fields(text), " "), maxText)
}

// bareVariables is an expression that looks at what the scope compares.
func bareVariables(p *ast.Policy) ast.IsNode {
	set := ast.NodeTypeSet{}
	add := func(s ast.IsScopeNode, n ast.NodeTypeVariable) {
		if _, all := s.(ast.ScopeTypeAll); !all {
			set.Elements = append(set.Elements, n)
		}
	}
	add(p.Principal, ast.NewPrincipalNode())
	add(p.Resource, ast.NewResourceNode())
	return set
}

// saw returns the values of what an expression looks at.
func saw(n ast.IsNode, env eval.Env) map[string]string {
	out := map[string]string{}
	note := func(n ast.IsNode) {
		name := textOf(n)
		v, err := eval.Eval(n, env)
		if err != nil {
			out[name] = "not known"
			return
		}
		out[name] = shown(v)
	}
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		switch n := n.(type) {
		case ast.NodeTypeAccess:
			if rooted(n.Arg) {
				note(n)
				return false
			}
		case ast.NodeTypeHas:
			return !rooted(n.Arg)
		case ast.NodeTypeVariable:
			if n.Name == ofPrincipal {
				note(n)
				// What it is in shows by its roles.
				note(ast.NodeTypeAccess{StrOpNode: ast.StrOpNode{Arg: n, Value: "roles"}})
			} else if n.Name == ofResource {
				note(n)
			}
		}
		return true
	})
	if len(out) == 0 {
		return nil
	}
	return out
}

// rooted reports whether an expression is a variable, or a member of one.
func rooted(n ast.IsNode) bool {
	switch n := n.(type) {
	case ast.NodeTypeVariable:
		return true
	case ast.NodeTypeAccess:
		return rooted(n.Arg)
	}
	return false
}

// shown writes a value as a person reads it: an address without its constructor.
func shown(v types.Value) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case types.IPAddr:
		return v.String()
	case types.Datetime:
		return v.String()
	}
	return clip(string(v.MarshalCedar()), maxValue)
}

func clip(s string, limit int) string {
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
