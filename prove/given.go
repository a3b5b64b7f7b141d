package prove

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// MaxTokenFile bounds a file of credentials, in bytes.
const MaxTokenFile = 1 << 20

const maxGiven = 100

// GivenFile is a file of credentials that somebody else made.
type GivenFile struct {
	Credentials []struct {
		Name       string    `json:"name" toml:"name"`
		Scheme     string    `json:"scheme" toml:"scheme"` // of the document; may be left out if the kind says it
		Kind       string    `json:"kind" toml:"kind"`     // bearer, api_key, cookie, basic, client
		Credential string    `json:"credential" toml:"credential"`
		Perms      []string  `json:"permissions" toml:"permissions"`
		Roles      []string  `json:"roles" toml:"roles"`
		Scopes     *[]string `json:"scopes" toml:"scopes"` // left out: the credential is not limited
		MFA        bool      `json:"mfa" toml:"mfa"`
		AuthTime   time.Time `json:"auth_time" toml:"auth_time"`
		Expired    bool      `json:"expired" toml:"expired"`
		Revoked    bool      `json:"revoked" toml:"revoked"`
		Disposable bool      `json:"disposable" toml:"disposable"`
	} `json:"credentials" toml:"credentials"`
}

// Given checks the file against a document. Credentials are never repeated in
// errors.
func (f *GivenFile) Given(d *Document, now time.Time) (out []Given, err error) {
	if len(f.Credentials) == 0 {
		return nil, fmt.Errorf("it has no credentials")
	}
	if len(f.Credentials) > maxGiven {
		return nil, fmt.Errorf("it has more than %d credentials", maxGiven)
	}
	for i, c := range f.Credentials {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("credential %d (%s): %s", i+1, c.Name, fmt.Sprintf(format, args...))
		}
		if c.Name == "" {
			return nil, bad("it has no name")
		}
		if c.Credential == "" || strings.ContainsAny(c.Credential, "\r\n\x00") {
			return nil, bad("its credential is missing, or not of one line")
		}
		scheme := c.Scheme
		if scheme == "" {
			for _, name := range slices.Sorted(maps.Keys(d.Schemes)) {
				if d.Schemes[name].Kind() == c.Kind && c.Kind != "" {
					scheme = name
					break
				}
			}
		}
		s, ok := d.Schemes[scheme]
		if !ok {
			return nil, bad("the document has no such scheme. It has: %s. Name one as scheme, or say its kind", strings.Join(slices.Sorted(maps.Keys(d.Schemes)), ", "))
		}
		h := Holding{Scheme: scheme, Kind: s.Kind(), Permissions: c.Perms, Roles: c.Roles, MFA: c.MFA, Age: -1}
		if !c.AuthTime.IsZero() {
			h.Age = max(now.Sub(c.AuthTime), 0)
		}
		if c.Expired && c.Revoked {
			return nil, bad("it is expired or revoked, not both: otherwise it would not show which of the two is seen")
		}
		state := Good
		switch {
		case c.Expired:
			state = Expired
		case c.Revoked:
			state = Ended
		}
		if c.Scopes != nil {
			h.Scoped, h.Scopes = true, *c.Scopes
			if c.Perms == nil { // a server that knows scopes only
				h.Permissions = *c.Scopes
			}
		}
		out = append(out, Given{Name: c.Name, Holding: h, Value: c.Credential, State: state, Disposable: c.Disposable})
	}
	return out, nil
}

// Route is a route as a server's own listing has it.
type Route struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Rule   string `json:"-"` // as listings print it; "": not known
}

// UnmarshalJSON reads a route with its rule as x-sallyport-rule has it.
func (r *Route) UnmarshalJSON(b []byte) error {
	var in struct {
		Method string          `json:"method"`
		Path   string          `json:"path"`
		Rule   json.RawMessage `json:"rule"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*r = Route{Method: in.Method, Path: in.Path}
	if len(in.Rule) > 0 {
		rule, err := parseRule(in.Rule, 0)
		if err != nil {
			return fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
		r.Rule = rule.String()
	}
	return nil
}

// ReadRoutes reads a listing: what “sallyport routes --json” prints, or lines of
// method, path and rule.
func ReadRoutes(r io.Reader) ([]Route, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("the list is longer than %d bytes", MaxDocument)
	}
	var out []Route
	if text := strings.TrimSpace(string(b)); strings.HasPrefix(text, "{") {
		var list struct {
			Schema string  `json:"schema"`
			Items  []Route `json:"items"`
		}
		if err := json.Unmarshal(b, &list); err != nil {
			return nil, err
		}
		if list.Schema != "sallyport.routes/v1" {
			return nil, fmt.Errorf("its schema is %q, and sallyport.routes/v1 is what is known here", list.Schema)
		}
		out = list.Items
	} else {
		for line := range strings.SplitSeq(text, "\n") {
			f := strings.Fields(line)
			if len(f) == 0 || strings.HasPrefix(f[0], "#") || f[0] == "METHOD" || f[0] == "*" && len(f) > 1 && f[1] == "*" {
				continue
			}
			if len(f) < 2 || !strings.HasPrefix(f[1], "/") {
				return nil, fmt.Errorf("%q is not method and path", line)
			}
			out = append(out, Route{Method: f[0], Path: f[1], Rule: ruleIn(strings.Join(f[2:], " "))})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the list has no routes")
	}
	return out, nil
}

// ruleIn is the rule at the beginning of a line's rest, which marks and limits
// follow.
func ruleIn(rest string) string {
	depth := 0
	for i, c := range rest {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		case ' ':
			if depth == 0 {
				return rest[:i]
			}
		}
	}
	return rest
}

// CompareRoutes holds a server's listing against its document. The routes of
// except are not meant to be documented: pages, for example.
func CompareRoutes(d *Document, routes []Route, except []string) (out []Difference) {
	documented := map[string]*Operation{}
	for _, o := range d.Operations {
		documented[o.Method+" "+plain(o.Path)] = o
	}
	listed := map[string]bool{}
	for _, r := range routes {
		name := r.Method + " " + r.Path
		key := r.Method + " " + plain(r.Path)
		listed[key] = true
		switch o := documented[key]; {
		case o == nil && !slices.Contains(except, name):
			out = append(out, Difference{name, "the list of routes", "documented", "not documented", "UNDOCUMENTED: nothing says who may call it, and nothing here has tried it"})
		case o != nil && d.Sallyport && r.Rule != "" && len(o.Rule.named(opUnknown)) == 0 && o.Rule.String() != r.Rule:
			out = append(out, Difference{name, "the list of routes", o.Rule.String(), r.Rule, "the rule that is enforced is not the one that is documented"})
		}
	}
	for _, o := range d.Operations {
		if key := o.Method + " " + plain(o.Path); !listed[key] {
			out = append(out, Difference{o.Name(), "the list of routes", "listed", "not listed", "the operation is documented and not registered"})
		}
	}
	return out
}

// plain is a path without the names of its parameters.
func plain(path string) string {
	var b strings.Builder
	for rest := path; ; {
		before, after, ok := strings.Cut(rest, "{")
		b.WriteString(before)
		_, tail, closed := strings.Cut(after, "}")
		if !ok || !closed {
			return b.String()
		}
		if !strings.HasPrefix(rest[len(before):], "{$}") {
			b.WriteString("{}")
		}
		rest = tail
	}
}
