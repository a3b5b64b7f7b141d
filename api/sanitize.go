package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/sanitize"
)

// A member of an input is tagged with what may stay of its text:
//
//	Name string `json:"name" sanitize:"text" maxLength:"100"`
//	Bio  string `json:"bio" sanitize:"rich" maxLength:"5000"`
//
// The values are those of sanitize.Policy. The tag stands at strings, pointers
// to strings, and lists and maps of both, also within Opt; in a body, at any
// depth, and at parameters. What an operation does is found out once, when it is
// registered; without a tag it costs nothing.
//
// The text is sanitised when it has been decoded and found valid, before the
// operation's function sees it. What has changed is validated again, so that the
// bounds and patterns hold for what was sent and for what is handed on. What
// consists of nothing but markup is refused as too short, whatever the bounds:
// nobody means to send nothing in this way.
const sanitizeTag = "sanitize"

// sanitizeExtension names the policy in the OpenAPI document.
const sanitizeExtension = "x-sallyport-sanitize"

const sanitizeKey = "sallyport.sanitize"

// cleaner is what the tags of an input ask for.
type cleaner struct {
	plan     *plan
	registry huma.Registry
}

// plan lists the fields of a struct that are tagged, or lead to such.
type plan struct {
	of    reflect.Type
	steps []step
}

type step struct {
	index  int
	in     string          // "path", "query", "header", "cookie" for a parameter
	name   string          // in the request; empty for an embedded struct
	policy sanitize.Policy // empty: look into the field
	schema *huma.Schema    // with a policy: what the text must be
	plan   *plan           // without
}

// newCleaner reads the tags of an input, and returns nil if there are none. It
// panics on a tag that cannot hold.
func newCleaner(registry huma.Registry, operation string, input reflect.Type) *cleaner {
	if input.Kind() != reflect.Struct || !isTagged(input, map[reflect.Type]bool{}) {
		return nil
	}
	b := planner{registry: registry, operation: operation, plans: map[planKey]*plan{}}
	return &cleaner{b.plan(input, true), registry}
}

// optional is what Opt is, whatever it is of.
type optional interface{ isOpt() }

// isOptional tells whether a type is an Opt, and does not only embed one.
func isOptional(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.Implements(reflect.TypeFor[optional]()) && !t.Field(0).Anonymous
}

// within returns what is in pointers, lists, maps and Opts.
func within(t reflect.Type) reflect.Type {
	for {
		switch {
		case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice, t.Kind() == reflect.Array, t.Kind() == reflect.Map:
			t = t.Elem()
		case isOptional(t):
			t = t.Field(optIndex).Type
		default:
			return t
		}
	}
}

// optIndex is where an Opt has its Value, a pointer.
const optIndex = 1

// isTagged tells whether a type has a tag, or leads to one.
func isTagged(t reflect.Type, seen map[reflect.Type]bool) bool {
	t = within(t)
	if t.Kind() != reflect.Struct || seen[t] {
		return false
	}
	seen[t] = true
	for f := range t.Fields() {
		if _, ok := f.Tag.Lookup(sanitizeTag); ok || isTagged(f.Type, seen) {
			return true
		}
	}
	return false
}

type planner struct {
	registry  huma.Registry
	operation string
	plans     map[planKey]*plan // also of types that lead to themselves
}

type planKey struct {
	reflect.Type
	input bool
}

// plan makes the plan of a struct; of the input itself, the fields are
// parameters and Body.
func (b *planner) plan(t reflect.Type, input bool) *plan {
	if p := b.plans[planKey{t, input}]; p != nil {
		return p
	}
	p := &plan{of: t}
	b.plans[planKey{t, input}] = p
	for f := range t.Fields() {
		tag, tagged := f.Tag.Lookup(sanitizeTag)
		if !tagged && !isTagged(f.Type, map[reflect.Type]bool{}) {
			continue
		}
		fail := func(format string, args ...any) {
			panic(fmt.Sprintf("sallyport: operation %s: field %s.%s: ", b.operation, t, f.Name) + fmt.Sprintf(format, args...))
		}
		s := step{index: f.Index[0]}
		embedded := f.Anonymous && memberName(f) == ""
		switch {
		case embedded && !tagged:
		case !f.IsExported():
			if tagged {
				fail("it is not exported, so nothing is decoded into it. Take the tag away.")
			}
			continue
		case input:
			if s.in, s.name = parameter(f); s.name == "" && f.Name == "Body" {
				s.name = "body"
			}
		case memberName(f) != "-":
			if s.name = memberName(f); s.name == "" {
				s.name = strings.ToLower(f.Name) // as Huma names it
			}
		}
		if s.name == "" && !embedded {
			if tagged {
				fail("nothing of a request is decoded into it. Take the tag away.")
			}
			continue
		}
		if !tagged {
			s.plan = b.plan(within(f.Type), input && embedded)
			p.steps = append(p.steps, s)
			continue
		}
		if s.policy = sanitize.Policy(tag); s.policy != sanitize.PolicyText && s.policy != sanitize.PolicyRich {
			fail("there is no sanitize:%q. Write sanitize:\"text\" or sanitize:\"rich\".", tag)
		}
		if !isText(f.Type) {
			fail("it is a %s, and only text can be sanitised: a string, or pointers, lists and maps of strings. Tag the strings in it.", f.Type)
		}
		if s.schema = huma.SchemaFromField(b.registry, f, ""); s.schema == nil || s.schema.Ref != "" {
			fail("its type has a schema of its own in the document, which others may share. Use a plain string.")
		}
		p.steps = append(p.steps, s)
	}
	return p
}

// memberName returns the name that a json tag gives.
func memberName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// parameter returns where an input's field comes from, if it is a parameter.
func parameter(f reflect.StructField) (in, name string) {
	for _, in := range []string{"path", "query", "header", "cookie"} {
		if name, _, _ := strings.Cut(f.Tag.Get(in), ","); name != "" {
			return in, name
		}
	}
	return "", ""
}

func isText(t reflect.Type) bool {
	switch {
	case t.Kind() == reflect.String:
		return true
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice, t.Kind() == reflect.Array:
		return isText(t.Elem())
	case t.Kind() == reflect.Map:
		return t.Key().Kind() == reflect.String && isText(t.Elem())
	case isOptional(t):
		return isText(t.Field(optIndex).Type)
	}
	return false
}

// document says in an operation's description what becomes of its texts.
func (c *cleaner) document(op *huma.Operation) {
	var body *huma.Schema
	if op.RequestBody != nil && op.RequestBody.Content["application/json"] != nil {
		body = op.RequestBody.Content["application/json"].Schema
	}
	var input func(p *plan)
	input = func(p *plan) {
		for _, s := range p.steps {
			switch {
			case s.name == "":
				input(s.plan)
			case s.in == "":
				c.documentValue(s, body, map[*huma.Schema]bool{})
			default:
				for _, param := range op.Parameters {
					if param.In == s.in && param.Name == s.name {
						c.documentValue(s, param.Schema, map[*huma.Schema]bool{})
						param.Description = param.Schema.Description
					}
				}
			}
		}
	}
	input(c.plan)
}

// documentValue marks the schema of what a step leads to.
func (c *cleaner) documentValue(s step, schema *huma.Schema, seen map[*huma.Schema]bool) {
	if s.policy != "" {
		markSchema(schema, s.policy)
		return
	}
	for schema != nil { // as within does
		more, isMap := schema.AdditionalProperties.(*huma.Schema)
		switch {
		case schema.Ref != "":
			schema = c.registry.SchemaFromRef(schema.Ref)
		case schema.Items != nil:
			schema = schema.Items
		case isMap:
			schema = more
		default:
			c.documentMembers(s.plan, schema, seen)
			return
		}
	}
}

func (c *cleaner) documentMembers(p *plan, schema *huma.Schema, seen map[*huma.Schema]bool) {
	if seen[schema] {
		return
	}
	seen[schema] = true
	for _, s := range p.steps {
		if s.name == "" {
			c.documentMembers(s.plan, schema, seen)
		} else {
			c.documentValue(s, schema.Properties[s.name], seen)
		}
	}
}

// markSchema adds to a schema, which may be a part of several operations, once.
func markSchema(s *huma.Schema, p sanitize.Policy) {
	if s == nil || s.Extensions[sanitizeExtension] != nil {
		return
	}
	if s.Extensions == nil {
		s.Extensions = map[string]any{}
	}
	s.Extensions[sanitizeExtension] = string(p)
	note := "Markup is removed."
	if p == sanitize.PolicyRich {
		note = "HTML, of which a small safe subset is kept."
	}
	if d := strings.TrimSpace(s.Description); d == "" {
		s.Description = note
	} else {
		s.Description = strings.TrimSuffix(d, ".") + ". " + note
	}
}

// clean sanitises an input in place. The error is a 422 that names every member
// of which nothing remains, or which is not valid any more.
func (c *cleaner) clean(input reflect.Value) error {
	w := cleaning{cleaner: c, path: huma.NewPathBuffer(make([]byte, 0, 64), 0)}
	w.members(input, c.plan)
	if len(w.fields) == 0 {
		return nil
	}
	slices.SortStableFunc(w.fields, func(a, b sallyport.Field) int { return strings.Compare(a.Pointer, b.Pointer) }) // maps have no order
	return sallyport.Invalid(w.fields[:min(len(w.fields), maxFields)]...)
}

// cleaning is one input that is being sanitised.
type cleaning struct {
	*cleaner
	path   *huma.PathBuffer
	fields []sallyport.Field
}

func (w *cleaning) members(v reflect.Value, p *plan) {
	for _, s := range p.steps {
		f := v.Field(s.index)
		if s.in != "" {
			w.path.Push(s.in)
		}
		if s.name != "" {
			w.path.Push(s.name)
		}
		if s.policy == "" {
			w.into(f, s.plan)
		} else {
			w.member(f, s)
		}
		if s.name != "" {
			w.path.Pop()
		}
		if s.in != "" {
			w.path.Pop()
		}
	}
}

// into looks for the structs in a value.
func (w *cleaning) into(v reflect.Value, p *plan) {
	if v.Type() == p.of { // and no Opt of it
		w.members(v, p)
		return
	}
	if isNothing(v) {
		return
	}
	w.each(v, func(v reflect.Value) bool { w.into(v, p); return true })
}

// isNothing tells whether a value has nothing in it; most members are left out
// of most requests.
func isNothing(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return v.IsNil()
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	}
	return false
}

// each calls f with what is directly in a pointer, a list, a map or an Opt. f
// tells whether it changed something.
func (w *cleaning) each(v reflect.Value, f func(reflect.Value) bool) (changed bool) {
	switch v.Kind() {
	case reflect.Pointer:
		return f(v.Elem())
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			w.path.PushIndex(i)
			changed = f(v.Index(i)) || changed
			w.path.Pop()
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			// A value in a map cannot be changed: a copy takes its place.
			own := reflect.New(v.Type().Elem()).Elem()
			own.Set(value)
			w.path.Push(fmt.Sprint(key))
			if f(own) {
				v.SetMapIndex(key, own)
				changed = true
			}
			w.path.Pop()
		}
	case reflect.Struct: // Opt
		return f(v.Field(optIndex))
	}
	return changed
}

// member sanitises the text of one field, and validates it if it has changed.
func (w *cleaning) member(v reflect.Value, s step) {
	before := len(w.fields)
	if !w.text(v, s.policy) || len(w.fields) > before {
		return
	}
	res := &huma.ValidateResult{}
	huma.Validate(w.registry, s.schema, w.path, huma.ModeWriteToServer, asJSON(v), res)
	for _, err := range res.Errors {
		if d, ok := err.(huma.ErrorDetailer); ok {
			w.fields = append(w.fields, field(d.ErrorDetail()))
		}
	}
}

func (w *cleaning) text(v reflect.Value, p sanitize.Policy) (changed bool) {
	if isNothing(v) {
		return false
	}
	if v.Kind() != reflect.String {
		return w.each(v, func(v reflect.Value) bool { return w.text(v, p) })
	}
	in := v.String()
	out, err := p.Sanitize(in)
	switch {
	case err != nil: // the policy is known
		w.fields = append(w.fields, sallyport.Field{
			Pointer: pointer(w.path.String()), Code: "too_long",
			Detail: fmt.Sprintf("The greatest length in bytes, without what is removed and with what is escaped, is %d.", sanitize.MaxBytes),
		})
	case strings.TrimSpace(out) == "" && strings.TrimSpace(in) != "":
		w.fields = append(w.fields, sallyport.Field{
			Pointer: pointer(w.path.String()), Code: "too_short",
			Detail: "Nothing but markup is in this text, and markup is removed. Write some text.",
		})
	case out != in:
		v.SetString(out)
		return true
	}
	return false
}

// asJSON returns text as huma.Validate takes it.
func asJSON(v reflect.Value) any {
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return asJSON(v.Elem())
	case reflect.Slice, reflect.Array:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = asJSON(v.Index(i))
		}
		return out
	case reflect.Map:
		return maps.Collect(func(yield func(string, any) bool) {
			for key, value := range v.Seq2() {
				if !yield(key.String(), asJSON(value)) {
					return
				}
			}
		})
	default: // Opt
		return asJSON(v.Field(optIndex))
	}
}
