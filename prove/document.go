package prove

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Bounds of a document, which is what somebody else wrote.
const (
	MaxDocument   = 16 << 20 // bytes
	maxDepth      = 128      // of arrays and objects
	maxOperations = 5000
	maxRefs       = 8 // steps from one reference to the next
)

// Scheme is a way to authenticate, as components.securitySchemes has it.
type Scheme struct {
	Name  string `json:"-"`
	Type  string `json:"type"`   // http, oauth2, openIdConnect, apiKey
	HTTP  string `json:"scheme"` // of http: bearer, basic
	In    string `json:"in"`     // of apiKey: header, cookie, query
	Param string `json:"name"`
}

// Kind is what rules call the scheme's credentials. Sallyport's documents name the
// schemes for a browser's session and for machine clients so.
func (s Scheme) Kind() string {
	switch {
	case s.Name == "cookie" && s.Type == "apiKey":
		return "cookie"
	case s.Name == "client" && s.Type == "http":
		return "client"
	case s.Type == "apiKey":
		return "api_key"
	case s.Type == "http" && strings.EqualFold(s.HTTP, "basic"):
		return "basic"
	case s.Type == "oauth2", s.Type == "openIdConnect", s.Type == "http" && strings.EqualFold(s.HTTP, "bearer"):
		return "bearer"
	}
	return ""
}

// Document is as much of an OpenAPI 3 document as says who may call what.
type Document struct {
	Title      string
	Version    string // of what it describes
	Server     string // the first of its servers, as it is written; "" for none
	Schemes    map[string]Scheme
	Operations []*Operation // in order of path and method
	// Sallyport tells that rules are written out (x-sallyport-rule), and that what
	// Sallyport promises of every operation holds: a credential that is not good is
	// refused on public operations too, two are refused, and who is calling is asked
	// before a body is read.
	Sallyport bool
}

// Operation is one method of one path.
type Operation struct {
	Method, Path string
	Rule         Rule
	Schemes      []string // that its security names, sorted
	Ignores      bool     // looks at no credentials
	Setup        bool     // also open to sessions that owe a second factor
	Strict       bool     // refuses a query parameter that it does not know, before it does anything

	// scarce tells that every call counts against a limit of the operation's own,
	// which people need who come from the same address.
	scarce bool
	own    bool        // its rule is written out: it is Sallyport's
	ids    []parameter // of the path
	body   body
	flaw   string // why it cannot be tried; "": it can
}

// Name is the operation as people write it.
func (o *Operation) Name() string { return o.Method + " " + o.Path }

type parameter struct {
	name   string
	schema schema
}

// body is what may be sent to an operation.
type body struct {
	media    string // "" for none
	required bool
	schema   schema
}

// schema is as much of a JSON Schema as tells what it does not accept.
type schema struct {
	Ref       string          `json:"$ref"`
	Type      json.RawMessage `json:"type"` // a name, or a list of names
	Format    string          `json:"format"`
	Enum      []any           `json:"enum"`
	Const     any             `json:"const"`
	Required  []string        `json:"required"`
	MaxLength *int            `json:"maxLength"`
	Maximum   *float64        `json:"maximum"`
}

// types are the names of its types; none if it does not say.
func (s schema) types() []string {
	var one string
	if json.Unmarshal(s.Type, &one) == nil {
		return []string{one}
	}
	var many []string
	_ = json.Unmarshal(s.Type, &many)
	return many
}

type rawDocument struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Title   string `json:"title"`
		Version string `json:"version"`
	} `json:"info"`
	Servers []struct {
		URL string `json:"url"`
	} `json:"servers"`
	Security   []map[string][]string                 `json:"security"`
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemes    map[string]Scheme          `json:"securitySchemes"`
		Schemas    map[string]json.RawMessage `json:"schemas"`
		Parameters map[string]json.RawMessage `json:"parameters"`
		Bodies     map[string]json.RawMessage `json:"requestBodies"`
	} `json:"components"`
}

type rawOperation struct {
	Rule        json.RawMessage `json:"x-sallyport-rule"`
	Credentials string          `json:"x-sallyport-credentials"`
	Strict      bool            `json:"x-sallyport-strict"`
	Setup       bool            `json:"x-sallyport-setup"`
	Limits      []struct {
		For string `json:"for"`
	} `json:"x-sallyport-limits"`
	Security   *[]map[string][]string `json:"security"`
	Parameters []json.RawMessage      `json:"parameters"`
	Body       json.RawMessage        `json:"requestBody"`
}

type rawParameter struct {
	Ref    string `json:"$ref"`
	Name   string `json:"name"`
	In     string `json:"in"`
	Schema schema `json:"schema"`
}

type rawBody struct {
	Ref      string `json:"$ref"`
	Required bool   `json:"required"`
	Content  map[string]struct {
		Schema schema `json:"schema"`
	} `json:"content"`
}

// ReadDocument reads an OpenAPI 3 document in JSON. It follows references within
// the document and no others.
func ReadDocument(r io.Reader) (*Document, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("the document is longer than %d bytes", MaxDocument)
	}
	if err := checkDepth(b); err != nil {
		return nil, fmt.Errorf("the document is not JSON as it should be: %w", err)
	}
	var raw rawDocument
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("this is not an OpenAPI document: %w", err)
	}
	if !strings.HasPrefix(raw.OpenAPI, "3.") {
		return nil, fmt.Errorf("this is not an OpenAPI 3 document: its member openapi is %q", raw.OpenAPI)
	}
	d := &Document{Title: raw.Info.Title, Version: raw.Info.Version, Schemes: raw.Components.Schemes}
	if len(raw.Servers) > 0 {
		d.Server = raw.Servers[0].URL
	}
	for name, s := range d.Schemes {
		s.Name = name
		d.Schemes[name] = s
	}
	for _, path := range slices.Sorted(maps.Keys(raw.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(raw.Paths[path])) {
			if !slices.Contains(methods, strings.ToUpper(method)) {
				continue
			}
			if len(d.Operations) == maxOperations {
				return nil, fmt.Errorf("the document has more than %d operations", maxOperations)
			}
			o, err := raw.operation(d, strings.ToUpper(method), path)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", strings.ToUpper(method), path, err)
			}
			d.Operations = append(d.Operations, o)
		}
		if _, elsewhere := raw.Paths[path]["$ref"]; elsewhere {
			d.Operations = append(d.Operations, &Operation{Method: "*", Path: path, flaw: "its description is not in the document, and references are not followed out of it"})
		}
	}
	if len(d.Operations) == 0 {
		return nil, errors.New("the document has no operations")
	}
	return d, nil
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// checkDepth bounds nesting before anything is built from it.
func checkDepth(b []byte) error {
	dec, depth := json.NewDecoder(bytes.NewReader(b)), 0
	for {
		t, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return fmt.Errorf("it is nested deeper than %d", maxDepth)
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

func (raw *rawDocument) operation(d *Document, method, path string) (*Operation, error) {
	var in rawOperation
	if err := json.Unmarshal(raw.Paths[path][strings.ToLower(method)], &in); err != nil {
		return nil, err
	}
	o := &Operation{Method: method, Path: path, Ignores: in.Credentials == "ignored", Strict: in.Strict, Setup: in.Setup}
	for _, l := range in.Limits {
		o.scarce = o.scarce || l.For == ""
	}
	if !strings.HasPrefix(path, "/") {
		o.flaw = "its path does not begin with a slash"
	}
	security := raw.Security
	if in.Security != nil {
		security = *in.Security
	}
	for _, way := range security {
		for name := range way {
			if _, known := d.Schemes[name]; !known {
				return nil, fmt.Errorf("its security names the scheme %q, which the document does not have", name)
			}
			o.Schemes = append(o.Schemes, name)
		}
	}
	slices.Sort(o.Schemes)
	o.Schemes = slices.Compact(o.Schemes)
	if len(in.Rule) > 0 {
		d.Sallyport, o.own = true, true
		rule, err := parseRule(in.Rule, 0)
		if err != nil {
			return nil, fmt.Errorf("x-sallyport-rule: %w", err)
		}
		o.Rule = rule
	} else {
		o.Rule = ruleOf(security)
	}
	var shared []json.RawMessage
	if p := raw.Paths[path]["parameters"]; len(p) > 0 {
		if err := json.Unmarshal(p, &shared); err != nil {
			return nil, err
		}
	}
	for _, p := range slices.Concat(shared, in.Parameters) {
		var x rawParameter
		for range maxRefs {
			x = rawParameter{}
			if err := json.Unmarshal(p, &x); err != nil {
				return nil, err
			}
			if x.Ref == "" {
				break
			}
			p = raw.Components.Parameters[strings.TrimPrefix(x.Ref, "#/components/parameters/")]
			if p == nil {
				return nil, fmt.Errorf("the reference %q leads out of the document, or nowhere", x.Ref)
			}
		}
		if x.In == "path" {
			o.ids = append(o.ids, parameter{x.Name, raw.resolve(x.Schema)})
		}
	}
	return o, raw.readBody(o, in.Body)
}

func (raw *rawDocument) readBody(o *Operation, b json.RawMessage) error {
	var x rawBody
	for range maxRefs {
		if len(b) == 0 {
			return nil
		}
		x = rawBody{}
		if err := json.Unmarshal(b, &x); err != nil {
			return err
		}
		if x.Ref == "" {
			break
		}
		b = raw.Components.Bodies[strings.TrimPrefix(x.Ref, "#/components/requestBodies/")]
	}
	// JSON first: it can be made unacceptable in the most ways.
	media := slices.SortedFunc(maps.Keys(x.Content), func(a, b string) int {
		return cmp.Or(cmp.Compare(mediaRank(a), mediaRank(b)), strings.Compare(a, b))
	})
	if len(media) > 0 {
		o.body = body{media[0], x.Required, raw.resolve(x.Content[media[0]].Schema)}
	}
	return nil
}

func mediaRank(media string) int {
	switch {
	case isJSON(media):
		return 0
	case media == formType:
		return 1
	case media == multipartType:
		return 2
	}
	return 3
}

const (
	formType      = "application/x-www-form-urlencoded"
	multipartType = "multipart/form-data"
)

func isJSON(media string) bool {
	media, _, _ = strings.Cut(media, ";")
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// resolve follows references to the document's schemas. One that leads elsewhere
// says nothing.
func (raw *rawDocument) resolve(s schema) schema {
	for range maxRefs {
		name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/")
		if !ok {
			break
		}
		var next schema
		if json.Unmarshal(raw.Components.Schemas[name], &next) != nil {
			return schema{}
		}
		s = next
	}
	if s.Ref != "" {
		return schema{}
	}
	return s
}
