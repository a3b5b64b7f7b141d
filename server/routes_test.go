package server_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/internal/testkit"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// isPage reports whether a route is a page for people or part of one, or what proxies
// ask, and no operation.
func isPage(r sallyport.Route) bool {
	return strings.HasPrefix(r.Path+"/", "/docs/") || ofPortal(r) || strings.HasPrefix(r.Path, forward.Prefix)
}

// ofPortal reports whether a route is a page that looks at no credentials itself: it
// asks the API in its browser's name.
func ofPortal(r sallyport.Route) bool {
	return strings.HasPrefix(r.Path, "/account/") || r.Path == "/console/setup" || r.Path == "/.well-known/change-password"
}

// schema is as much of a JSON Schema as the tests read.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       any                `json:"type"` // a name, or a list of names
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	MaxLength  int                `json:"maxLength"`
}

// nullable reports whether null is documented.
func (s *schema) nullable() bool {
	l, _ := s.Type.([]any)
	return slices.Contains(l, any("null"))
}

// kind is the type without null.
func (s *schema) kind() string {
	if l, ok := s.Type.([]any); ok {
		for _, v := range l {
			if v != "null" {
				return v.(string)
			}
		}
	}
	k, _ := s.Type.(string)
	return k
}

// operation is one operation as the OpenAPI document tells it.
type operation struct {
	method, path string

	Rule       json.RawMessage        `json:"x-sallyport-rule"`
	Security   *[]map[string][]string `json:"security"`
	Parameters []struct {
		Name   string  `json:"name"`
		In     string  `json:"in"`
		Schema *schema `json:"schema"`
	} `json:"parameters"`
	RequestBody *struct {
		Required bool `json:"required"`
		Content  map[string]struct {
			Schema *schema `json:"schema"`
		} `json:"content"`
	} `json:"requestBody"`
	Responses map[string]any `json:"responses"`
}

func (o operation) name() string { return o.method + " " + o.path }

// target is the path with these values, or else ones that belong to nothing.
func (o operation) target(values ...string) string {
	p := o.path
	for strings.Contains(p, "{") {
		v := "00000000-0000-7000-8000-000000000000"
		if len(values) > 0 {
			v, values = values[0], values[1:]
		}
		from, to := strings.IndexByte(p, '{'), strings.IndexByte(p, '}')
		p = p[:from] + v + p[to+1:]
	}
	return p
}

// accepts reports whether the operation documents a body of the type.
func (o operation) accepts(mediaType string) bool {
	return o.RequestBody != nil && o.RequestBody.Content[mediaType].Schema != nil
}

// operations reads /openapi.json, in the order of path and method. Schemas of
// bodies are resolved.
func (w *world) operations() []operation {
	w.t.Helper()
	var doc struct {
		Paths      map[string]map[string]operation `json:"paths"`
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	r := w.do("GET", "/openapi.json", "", nil).want(w.t, 200, "")
	if err := json.Unmarshal(r.body, &doc); err != nil {
		w.t.Fatal(err)
	}
	var out []operation
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			op.method, op.path = strings.ToUpper(method), path
			if op.RequestBody != nil {
				for mediaType, c := range op.RequestBody.Content {
					if name, ok := strings.CutPrefix(c.Schema.Ref, "#/components/schemas/"); ok {
						c.Schema = doc.Components.Schemas[name]
						op.RequestBody.Content[mediaType] = c
					}
				}
			}
			out = append(out, op)
		}
	}
	if len(out) < 20 {
		w.t.Fatalf("the document has only %d operations", len(out))
	}
	return out
}

// Who may call what is in version control: a change of exposure shows in
// review.
func TestRoutesGolden(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.golden("routes.txt")
}

// golden compares who may call what with a file of testdata.
func (w *world) golden(name string) {
	t := w.t
	t.Helper()
	var b strings.Builder
	for _, r := range w.sv.Routes().Routes() {
		setup := ""
		if r.Setup {
			setup = " +setup"
		}
		fmt.Fprintf(&b, "%s %s %s%s\n", r.Method, r.Path, r.Rule, setup)
	}
	file := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("routes or rules changed. If that is meant, run go test ./server -run %s -update and have the diff of %s reviewed.\ngot:\n%s\nwant:\n%s", t.Name(), file, got, want)
	}
}

// What is enforced is what is documented, for every route and nothing besides.
func TestRoutesDeclaredAreDocumented(t *testing.T) {
	declaredAreDocumented(t, newWorld(t, testkit.SQLite(t), nil))
}

func declaredAreDocumented(t *testing.T, w *world) {
	t.Helper()
	documented := map[string]operation{}
	for _, op := range w.operations() {
		documented[op.name()] = op
		if op.Security == nil {
			t.Errorf("%s has no security member: the document's default would be taken for its rule", op.name())
		}
		if len(op.Rule) == 0 {
			t.Errorf("%s has no x-sallyport-rule", op.name())
		}
	}
	for _, r := range w.sv.Routes().Routes() {
		name := r.Method + " " + r.Path
		op, ok := documented[name]
		delete(documented, name)
		if isPage(r) {
			if ok || r.Rule.String() != "public" {
				t.Errorf("%s: a page is documented as an operation, or not public", name)
			}
			continue
		}
		if !ok {
			t.Errorf("%s is served and not documented", name)
			continue
		}
		declared, err := json.Marshal(r.Rule)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := decoded(t, declared), decoded(t, op.Rule); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: enforced %s, documented %s", name, declared, op.Rule)
		}
		if op.Security == nil {
			continue
		}
		var want []map[string][]string
		for scheme, kind := range map[string]string{"bearer": "bearer", "apiKey": "api_key", "cookie": "cookie", "client": "client", "basic": "basic"} {
			if named := scheme == "client" || scheme == "basic"; named && !strings.Contains(string(op.Rule), strconv.Quote(kind)) {
				continue // it counts only where a rule names it
			}
			for _, names := range waysIn(decoded(t, op.Rule), kind) {
				want = append(want, map[string][]string{scheme: names})
			}
		}
		if got := *op.Security; !sameWays(got, want) {
			t.Errorf("%s: security %v does not follow from rule %s: want %v", name, got, op.Rule, want)
		}
	}
	for name := range documented {
		t.Errorf("%s is documented and not served", name)
	}
}

func decoded(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %.200s", err, b)
	}
	return v
}

// waysIn is which scopes each way to satisfy a rule needs, from the rule's JSON,
// of a credential of one kind; none at all for public.
func waysIn(rule any, kind string) [][]string {
	if rule == "public" {
		return nil
	}
	if kind == "api_key" && (rule == "unscoped" || rule == "mfa") {
		return nil
	}
	m, _ := rule.(map[string]any)
	for _, key := range []string{"permission", "scope"} {
		if name, ok := m[key].(string); ok {
			return [][]string{{name}}
		}
	}
	if m["fresh"] != nil && kind == "api_key" {
		return nil
	}
	if kinds, ok := m["via"].([]any); ok && !slices.Contains(kinds, any(kind)) {
		return nil
	}
	if parts, ok := m["any"].([]any); ok {
		var out [][]string
		for _, p := range parts {
			out = append(out, waysIn(p, kind)...)
		}
		return out
	}
	out := [][]string{{}}
	parts, _ := m["all"].([]any)
	for _, p := range parts {
		var next [][]string
		for _, left := range out {
			for _, right := range waysIn(p, kind) {
				next = append(next, slices.Concat(left, right))
			}
		}
		out = next
	}
	return out
}

func sameWays(a, b []map[string][]string) bool {
	text := func(ways []map[string][]string) (out []string) {
		for _, way := range ways {
			for scheme, names := range way {
				out = append(out, scheme+" "+strings.Join(slices.Sorted(slices.Values(names)), " "))
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(text(a), text(b))
}
