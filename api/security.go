package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
)

// maxAlternatives bounds the disjunctive form of a rule in the document.
const maxAlternatives = 16

// describe adds a rule to an operation's documentation: its scopes as security
// requirements, and the whole rule as x-sallyport-rule, because OpenAPI has no
// words for roles, second factors and alternatives.
func (a *API) describe(op *huma.Operation, rule sallyport.Rule) {
	if rule.Check() != nil {
		return // Mux refuses it with a message
	}
	if op.Extensions == nil {
		op.Extensions = map[string]any{}
	}
	op.Extensions["x-sallyport-rule"] = rule
	if op.Metadata[openKey] != nil {
		op.Extensions["x-sallyport-credentials"] = "ignored"
	}
	if limits := limitsOf(op); len(limits) > 0 {
		op.Extensions["x-sallyport-limits"] = limits
	}
	op.Security = a.security(rule)
	doc := a.huma.OpenAPI()
	for _, name := range op.Tags {
		if !slices.ContainsFunc(doc.Tags, func(t *huma.Tag) bool { return t.Name == name }) {
			doc.Tags = append(doc.Tags, &huma.Tag{Name: name}) // in the order of registration
		}
	}
	note := "Requires: " + rule.String() + "."
	if rule.Op() == sallyport.OpPublic {
		note = "Public."
	}
	op.Description = strings.TrimSpace(op.Description + "\n\n" + note)
}

func (a *API) security(rule sallyport.Rule) []map[string][]string {
	if rule.Op() == sallyport.OpPublic {
		return []map[string][]string{}
	}
	if out := a.requirements(rule, func(scheme string) sallyport.Kind { return a.cfg.Kinds[scheme] }); len(out) > 0 {
		return out
	}
	// No scheme of the document can meet it. An empty list would say “public”.
	return a.requirements(rule, func(string) sallyport.Kind { return sallyport.KindNone })
}

// requirements lists, for each way to satisfy a rule, the schemes that can with
// the scopes that it takes.
func (a *API) requirements(rule sallyport.Rule, kindOf func(scheme string) sallyport.Kind) []map[string][]string {
	ways := make([][][]string, len(a.schemes))
	most := 0
	named := slices.Collect(rule.Kinds)
	for i, scheme := range a.schemes {
		if slices.Contains(a.cfg.Named, scheme) && !slices.Contains(named, a.cfg.Kinds[scheme]) {
			continue
		}
		ways[i] = alternatives(rule, kindOf(scheme))
		most = max(most, len(ways[i]))
	}
	var out []map[string][]string
	seen := map[string]bool{}
	for n := range most {
		for i, scheme := range a.schemes {
			if n >= len(ways[i]) {
				continue
			}
			scopes := slices.Clone(ways[i][n])
			slices.Sort(scopes)
			scopes = slices.Compact(scopes)
			if key := fmt.Sprint(scheme, scopes); !seen[key] {
				seen[key] = true
				out = append(out, map[string][]string{scheme: scopes})
			}
			for _, s := range scopes {
				a.addScope(s)
			}
		}
	}
	return out
}

// addScope makes a scope known to the OAuth2 schemes of the document.
func (a *API) addScope(name string) {
	if a.scopes[name] {
		return
	}
	a.scopes[name] = true
	for _, s := range a.huma.OpenAPI().Components.SecuritySchemes {
		if s.Flows != nil && s.Flows.Password != nil {
			if s.Flows.Password.Scopes == nil {
				s.Flows.Password.Scopes = map[string]string{}
			}
			s.Flows.Password.Scopes[name] = "Permission " + name
		}
	}
}

// alternatives is the rule's scopes in disjunctive form: what each way in which a
// credential of this kind can satisfy it needs. There is none if it never can.
func alternatives(r sallyport.Rule, kind sallyport.Kind) [][]string {
	switch r.Op() {
	case sallyport.OpScope, sallyport.OpPermission, sallyport.OpPolicy:
		return [][]string{{r.Name()}}
	case sallyport.OpUnscoped, sallyport.OpMFA, sallyport.OpFresh:
		if kind == sallyport.KindAPIKey { // always scoped, and nobody signs in with one
			return nil
		}
	case sallyport.OpVia:
		if kind != sallyport.KindNone && !slices.Contains(slices.Collect(r.Kinds), kind) {
			return nil
		}
	case sallyport.OpAny:
		var out [][]string
		for _, part := range r.Of() {
			out = append(out, alternatives(part, kind)...)
		}
		return bounded(r, out)
	case sallyport.OpAll:
		out := [][]string{{}}
		for _, part := range r.Of() {
			var next [][]string
			for _, left := range out {
				for _, right := range alternatives(part, kind) {
					next = append(next, slices.Concat(left, right))
				}
			}
			out = bounded(r, next)
		}
		return out
	}
	return [][]string{{}}
}

func bounded(r sallyport.Rule, alternatives [][]string) [][]string {
	if len(alternatives) > maxAlternatives {
		panic(fmt.Sprintf("sallyport: rule %v has more than %d alternatives: define a permission or role for them", r, maxAlternatives))
	}
	return alternatives
}

// ErrorResponses returns documentation of refusals for Raw operations.
func ErrorResponses(a *API, statuses ...int) map[string]*huma.Response {
	out := map[string]*huma.Response{}
	for _, s := range statuses {
		status := strconv.Itoa(s)
		out[status] = &huma.Response{
			Description: http.StatusText(s),
			Content:     map[string]*huma.MediaType{problemType: {Schema: Schema[problem](a)}},
		}
		describeHeaders(status, out[status])
	}
	return out
}

// describeHeaders names the headers that go with a status.
func describeHeaders(status string, res *huma.Response) {
	name, h := "", &huma.Param{}
	switch status {
	case "401":
		name, h.Description, h.Schema = "WWW-Authenticate", "How to authenticate, and what is missing (RFC 6750, RFC 9470)", &huma.Schema{Type: huma.TypeString}
	case "429", "503":
		name, h.Description, h.Schema = "Retry-After", "Seconds after which to try again", &huma.Schema{Type: huma.TypeInteger}
	default:
		return
	}
	if res.Headers == nil {
		res.Headers = map[string]*huma.Param{}
	}
	res.Headers[name] = h
}
