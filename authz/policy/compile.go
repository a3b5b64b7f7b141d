package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/sallyport/sallyport"
)

// Bounds. Cedar has no loops: how long a policy takes to read, to check and to
// decide is bounded by its length.
const (
	MaxText      = 16 << 10 // bytes of one policy
	MaxPolicies  = 10_000
	MaxTotal     = 8 << 20 // bytes of all policies
	MaxForAction = 1_000   // policies that one decision evaluates
	maxActions   = 100     // that one policy names
)

// The types of entities that are not a service's own.
const (
	typeAction = "Action" // a permission
	typeUser   = "User"
	typeClient = "Client" // a machine client, or a key of the configuration
	typeRole   = "Role"
	typeRoute  = "Route" // the resource where a rule names none: "DELETE /comments/{id}"
)

// The variables of Cedar.
const (
	ofPrincipal = "principal"
	ofAction    = "action"
	ofResource  = "resource"
	ofContext   = "context"
)

// ownTypes are those that every policy may name.
var ownTypes = []types.EntityType{typeUser, typeClient, typeRole, typeRoute}

// attribute is one thing that a policy can look at.
type attribute struct {
	name     types.String
	kind     resolved.IsType
	optional bool
}

var local = resolved.RecordType{
	"hour": {Type: resolved.LongType{}}, "minute": {Type: resolved.LongType{}}, "weekday": {Type: resolved.LongType{}},
	"date": {Type: resolved.StringType{}}, "zone": {Type: resolved.StringType{}},
}

// attributesOf says what policies can look at. In the context, an attribute's place
// is its bit in uses.
var attributesOf = map[types.String][]attribute{
	ofContext: {
		{"mfa", resolved.BoolType{}, false},
		{"time", resolved.ExtensionType("datetime"), false},
		{"local", local, false},
		{"ip", resolved.ExtensionType("ipaddr"), false},
		{"country", resolved.StringType{}, true},
		{"auth_age", resolved.LongType{}, true},
		{"method", resolved.StringType{}, false},
		{"path", resolved.StringType{}, false},
		{"credential", resolved.StringType{}, false},
	},
	ofPrincipal: {
		{"id", resolved.StringType{}, false},
		{"roles", resolved.SetType{Element: resolved.StringType{}}, false},
		{"permissions", resolved.SetType{Element: resolved.StringType{}}, false},
	},
	ofResource: {{"id", resolved.StringType{}, false}},
}

// uses is what of the context a policy looks at, a bit for each attribute. What
// nothing looks at is not made.
type uses uint16

const (
	useMFA uses = 1 << iota
	useTime
	useLocal
	useIP
	useCountry
	useAuthAge
	useMethod
	usePath
	useCredential
	useContext = 1<<iota - 1
	useID      = 1 << (iota - 1) // of the principal
)

// Policy is one policy that has been read.
type Policy struct {
	// ID is its name: that of the annotation @id, if it has one, until it is stored.
	ID string
	// Text is the policy in Cedar, as it was written.
	Text string
	// Permits tells a permit from a forbid.
	Permits bool
	// Actions are the permissions that it is about, sorted; none: all.
	Actions []string

	version  int64
	uses     uses
	cedar    *cedar.Policy
	ast      *ast.Policy
	entities []types.EntityUID  // that it names
	types    []types.EntityType // that it names without an id
	unknown  []sallyport.Field  // attributes that there are not
	broken   error              // why it cannot be evaluated; such a policy denies
}

// Effect returns permit or forbid.
func (p *Policy) Effect() string {
	if p.Permits {
		return "permit"
	}
	return "forbid"
}

// place finds line and column in the parser's messages.
var place = regexp.MustCompile(`^(?:parser error: )?(?:parse error at )?<input>:(\d+):(\d+)(?: ".*?")?: `)

// Parse reads one policy. Its errors are *sallyport.Error and say where.
func Parse(text string) (*Policy, error) {
	all, err := parse(text, MaxText)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fault("one_policy", fmt.Sprintf("Write one policy, which begins with permit or forbid and ends in a semicolon. There are %d.", len(all)))
	}
	return all[0], nil
}

// ParseDraft reads a file of policies, each with a name of its own in the annotation
// @id("…").
func ParseDraft(text string) ([]*Policy, error) {
	all, err := parse(text, MaxTotal)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i, p := range all {
		if p.ID == "" {
			return nil, fault("id", fmt.Sprintf("Policy %d has no name. Write @id(\"name\") before it: a stored policy of that name is replaced.", i+1))
		}
		if seen[p.ID] {
			return nil, fault("id", fmt.Sprintf("Two policies have the name %s.", p.ID))
		}
		seen[p.ID] = true
	}
	return all, nil
}

func parse(text string, limit int) ([]*Policy, error) {
	switch {
	case len(text) > limit:
		return nil, fault("too_long", fmt.Sprintf("The text may have %d bytes.", limit))
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r' }):
		return nil, fault("invalid_text", "Use text without control characters.")
	}
	list, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		why := err.Error()
		if at := place.FindStringSubmatch(why); at != nil {
			why = fmt.Sprintf("Line %s, column %s: %s", at[1], at[2], why[len(at[0]):])
		}
		return nil, fault("syntax", strings.TrimPrefix(why, "parser error: ")+".")
	}
	out := make([]*Policy, 0, len(list))
	for i, c := range list {
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1].Position().Offset
		}
		p := compile(c)
		p.Text = strings.TrimSpace(text[:end])
		if i > 0 {
			p.Text = strings.TrimSpace(text[c.Position().Offset:end])
		}
		if p.ID != "" {
			if err := checkID(p.ID); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// checkID returns an error unless id can be a policy's name.
func checkID(id string) error {
	if sallyport.CheckName(id) != nil || strings.Contains(id, "/") {
		return sallyport.Invalid(sallyport.Field{Pointer: "{id}", Code: "invalid_name", Detail: "Use 1 to 64 of a-z, A-Z, 0-9 and _ - . :, beginning with a letter or digit."})
	}
	return nil
}

const maxShown = 200

// fault is what is wrong with a policy. It may repeat what its author wrote: a name
// that is mistyped is not found without.
func fault(code, detail string) error { return sallyport.Invalid(faultField(code, detail)) }

func faultField(code, detail string) sallyport.Field {
	if len(detail) > maxShown {
		detail = strings.ToValidUTF8(detail[:maxShown], "") + "…"
	}
	return sallyport.Field{Pointer: "/cedar", Code: code, Detail: detail}
}

// compile learns what a policy is about and looks at.
func compile(c *cedar.Policy) *Policy {
	p := &Policy{cedar: c, ast: (*ast.Policy)(c.AST()), Permits: c.Effect() == cedar.Permit}
	p.ID = string(c.Annotations()["id"])
	switch scope := p.ast.Action.(type) {
	case ast.ScopeTypeEq:
		p.about(scope.Entity)
	case ast.ScopeTypeIn:
		p.about(scope.Entity)
	case ast.ScopeTypeInSet:
		p.about(scope.Entities...)
	}
	p.scope(p.ast.Principal)
	p.scope(p.ast.Resource)
	switch p.ast.Resource.(type) {
	case ast.ScopeTypeIn, ast.ScopeTypeIsIn:
		p.inNothing()
	}
	for _, cond := range p.ast.Conditions {
		p.look(cond.Body)
	}
	return p
}

func (p *Policy) about(actions ...types.EntityUID) {
	for _, a := range actions {
		p.entities = append(p.entities, a)
		p.Actions = append(p.Actions, string(a.ID))
	}
	slices.Sort(p.Actions)
	p.Actions = slices.Compact(p.Actions)
	if len(actions) == 0 { // “in []” is about nothing, and not about everything
		p.unknown = append(p.unknown, faultField("no_action", "The list of actions is empty: the policy would never apply. Name one, or write action alone for all."))
	}
}

func (p *Policy) scope(s ast.IsScopeNode) {
	switch scope := s.(type) {
	case ast.ScopeTypeEq:
		p.entities = append(p.entities, scope.Entity)
	case ast.ScopeTypeIn:
		p.entities = append(p.entities, scope.Entity)
	case ast.ScopeTypeIs:
		p.types = append(p.types, scope.Type)
	case ast.ScopeTypeIsIn:
		p.types = append(p.types, scope.Type)
		p.entities = append(p.entities, scope.Entity)
	}
}

// look learns what an expression names.
func (p *Policy) look(n ast.IsNode) {
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		switch n := n.(type) {
		case ast.NodeTypeAccess:
			return p.access(n.StrOpNode)
		case ast.NodeTypeHas:
			return p.access(n.StrOpNode)
		case ast.NodeTypeVariable:
			if n.Name == ofContext {
				p.uses |= useContext
			}
		case ast.NodeTypeIs:
			p.types = append(p.types, n.EntityType)
		case ast.NodeTypeIsIn:
			p.types = append(p.types, n.EntityType)
			p.in(n.Left)
		case ast.NodeTypeIn:
			p.in(n.Left)
		case ast.NodeValue:
			if uid, ok := n.Value.(types.EntityUID); ok {
				p.entities = append(p.entities, uid)
			}
		}
		return true
	})
}

// in refuses to ask what a resource is in: it would be false of every one, because
// what they belong to is not known here.
func (p *Policy) in(left ast.IsNode) {
	if v, ok := left.(ast.NodeTypeVariable); ok && v.Name == ofResource {
		p.inNothing()
	}
}

func (p *Policy) inNothing() {
	p.unknown = append(p.unknown, faultField("resource_in", "What a resource belongs to is not known here, only its type and id: write resource == or resource is."))
}

// access notes that an attribute is looked at, and reports whether to look further
// into the expression.
func (p *Policy) access(n ast.StrOpNode) bool {
	of, ok := n.Arg.(ast.NodeTypeVariable)
	if !ok {
		return true
	}
	for i, a := range attributesOf[of.Name] {
		if a.name == n.Value {
			if of.Name == ofContext {
				p.uses |= 1 << i
			} else if n.Value == "id" {
				p.uses |= useID
			}
			return false
		}
	}
	var names []string
	for _, a := range attributesOf[of.Name] {
		names = append(names, string(of.Name+"."+a.name))
	}
	known := "it has none"
	if len(names) > 0 {
		known = "there are " + strings.Join(names, ", ")
	}
	p.unknown = append(p.unknown, faultField("unknown_attribute", fmt.Sprintf("There is no %s.%s: %s.", of.Name, n.Value, known)))
	return false
}

// Known is what policies may name.
type Known struct {
	Permissions, Roles, Types map[string]bool
}

// Check returns an error unless everything that the policy names exists and its
// types fit: what cannot be evaluated would deny, and a name that is mistyped would
// never forbid.
func (p *Policy) Check(k Known) error {
	if err := p.names(k); err != nil {
		return err
	}
	// The validator tells of one mistake once for each combination of types.
	var fields []sallyport.Field
	seen := map[string]bool{}
	for _, e := range flat(p.typecheck(k)) {
		if text := e.Error(); !seen[text] {
			seen[text] = true
			fields = append(fields, faultField("type", strings.ReplaceAll(text, ` in context for Action::"`+string(standIn.ID)+`"`, " of the context")+"."))
		}
	}
	return invalid(fields)
}

func invalid(fields []sallyport.Field) error {
	if len(fields) == 0 {
		return nil
	}
	return sallyport.Invalid(fields[:min(len(fields), 32)]...)
}

// names returns an error unless everything that the policy names exists.
func (p *Policy) names(k Known) error {
	fields := slices.Clone(p.unknown)
	bad := func(code, format string, args ...any) {
		fields = append(fields, faultField(code, fmt.Sprintf(format, args...)))
	}
	if len(p.Actions) > maxActions {
		bad("too_many_actions", "A policy may name %d actions. Divide it, or write action alone for all.", maxActions)
	}
	knownType := func(t types.EntityType) bool {
		return slices.Contains(ownTypes, t) || k.Types[string(t)]
	}
	for _, e := range p.entities {
		switch {
		case e.Type == typeAction && !k.Permissions[string(e.ID)]:
			bad("unknown_action", "There is no permission %s. It exists once a route's rule names it, or after PUT /permissions/{name}.", e.ID)
		case e.Type == typeAction && !sallyport.Governed(string(e.ID)):
			bad("exempt_action", "Policies never apply to %s, so that they cannot lock out who could mend them.", e.ID)
		case e.Type == typeRole && !k.Roles[string(e.ID)]:
			bad("unknown_role", "There is no role %s.", e.ID)
		case e.Type != typeAction && !knownType(e.Type):
			bad("unknown_type", "There is no type %s. There are User, Client, Role, Route, and those that a rule names with sallyport.Policy.", e.Type)
		}
	}
	for _, t := range p.types {
		if !knownType(t) {
			bad("unknown_type", "There is no type %s. There are User, Client, Role, Route, and those that a rule names with sallyport.Policy.", t)
		}
	}
	return invalid(fields)
}

func flat(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range many.Unwrap() {
			out = append(out, flat(e)...)
		}
		return out
	}
	return []error{err}
}

// standIn is the action that a policy is checked with. All actions see the same,
// so that one is enough, however many the policy is about.
var standIn = types.NewEntityUID(typeAction, "any")

// typecheck has Cedar's validator look at the policy, with a schema of what it
// names.
func (p *Policy) typecheck(k Known) error {
	record := func(of types.String) resolved.RecordType {
		out := resolved.RecordType{}
		for _, a := range attributesOf[of] {
			out[a.name] = resolved.Attribute{Type: a.kind, Optional: a.optional}
		}
		return out
	}
	who := []types.EntityType{typeUser, typeClient}
	schema := &resolved.Schema{
		Entities: map[types.EntityType]resolved.Entity{typeRole: {Name: typeRole}},
		Actions:  map[types.EntityUID]resolved.Action{},
	}
	for _, t := range who {
		schema.Entities[t] = resolved.Entity{Name: t, ParentTypes: []types.EntityType{typeRole}, Shape: record(ofPrincipal)}
	}
	resources := []types.EntityType{typeRoute}
	named := slices.Clone(p.types)
	for _, e := range p.entities {
		named = append(named, e.Type)
	}
	for _, t := range named {
		if !slices.Contains(ownTypes, t) && t != typeAction && !slices.Contains(resources, t) {
			resources = append(resources, t)
		}
	}
	for _, t := range resources {
		schema.Entities[t] = resolved.Entity{Name: t, Shape: record(ofResource)}
	}
	for _, t := range who { // a rule may be about accounts: "User::{id}"
		if k.Types[string(t)] {
			resources = append(resources, t)
		}
	}
	actions := []types.EntityUID{standIn}
	for _, e := range p.entities {
		if e.Type == typeAction && !slices.Contains(actions, e) {
			actions = append(actions, e)
		}
	}
	for i, a := range actions {
		schema.Actions[a] = resolved.Action{Entity: types.Entity{UID: a}}
		if i == 0 { // the others exist, and nobody is tried with them
			schema.Actions[a] = resolved.Action{Entity: types.Entity{UID: a}, AppliesTo: &resolved.AppliesTo{Principals: who, Resources: resources, Context: record(ofContext)}}
		}
	}
	c := *p.ast
	c.Action = ast.ScopeTypeAll{}
	return validate.New(schema, validate.WithStrict()).Policy("", &c)
}

// brokenPolicy stands for one that is stored and cannot be read: it denies what it
// was about.
func brokenPolicy(id string, permits bool, actions []string, err error) *Policy {
	return &Policy{ID: id, Permits: permits, Actions: actions, broken: err}
}

// load reads a policy as it is stored.
func load(id, text string, version int64, permits bool, actions []string) *Policy {
	p, err := Parse(text)
	if err == nil && (p.Permits != permits || !slices.Equal(p.Actions, actions)) {
		err = errors.New("its text is not what it was stored with")
	}
	if err == nil && len(p.unknown) > 0 {
		err = sallyport.Invalid(p.unknown...)
	}
	if err != nil {
		p = brokenPolicy(id, permits, actions, err)
		p.Text = text
	}
	p.ID, p.version = id, version
	return p
}

func sortedByID(m map[string]*Policy) []*Policy {
	return slices.SortedFunc(maps.Values(m), func(a, b *Policy) int { return cmp.Compare(a.ID, b.ID) })
}
