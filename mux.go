package sallyport

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Gate enforces a rule in front of a handler: it authenticates the request,
// decides, and hands on a request whose context holds the Principal.
type Gate interface {
	Require(Rule) func(http.Handler) http.Handler
}

// OpenGate is a Gate that can also lead past itself: to a handler whose
// principal is anonymous, whatever a gate further out has found.
type OpenGate interface {
	Gate
	Open(http.Handler) http.Handler
}

// SetupGate is a Gate that may demand a second factor of people. RequireSetup is
// Require for what they need who do not have it yet.
type SetupGate interface {
	Gate
	RequireSetup(Rule) func(http.Handler) http.Handler
}

// Route is one registered route.
type Route struct {
	Method string `json:"method"` // "*" if the pattern names none
	Path   string `json:"path"`   // with the host, if the pattern names one
	Rule   Rule   `json:"rule"`
	// Setup tells that the route is also open to sessions that are refused elsewhere,
	// because a second factor is demanded of their person.
	Setup bool `json:"setup,omitempty"`
	// Limits bound how often it is called; beside them there may be one on all
	// routes of a server.
	Limits []Limit `json:"limits,omitempty"`
}

// Mux routes requests as http.ServeMux does, with one difference: a route
// cannot be registered without a Rule, and the rule is what is enforced. There
// is no way to add a bare handler. Unknown paths and methods are answered with
// problem details.
type Mux struct {
	gate    Gate
	mux     *http.ServeMux
	entries []entry
	mounted bool
}

type entry struct {
	route   Route
	handler http.Handler // behind its gate
	of      string       // of an alias: the path of the route that it stands for
}

// NewMux returns an empty Mux whose rules g enforces.
func NewMux(g Gate) *Mux {
	if g == nil {
		panic("sallyport: NewMux needs a Gate")
	}
	return &Mux{gate: g, mux: http.NewServeMux()}
}

// Handle registers a handler under a pattern of http.ServeMux and a rule, and
// bounds how often it is called. Like ServeMux it panics on a mistake that the
// programmer must mend: no rule, an invalid rule or limit, an invalid or
// conflicting pattern.
func (m *Mux) Handle(pattern string, rule Rule, h http.Handler, limits ...Limit) {
	if err := rule.Check(); err != nil {
		panic(fmt.Sprintf("sallyport: route %q: %v", pattern, err))
	}
	if h == nil {
		panic(fmt.Sprintf("sallyport: route %q: nil handler", pattern))
	}
	m.enter(pattern, rule, false, m.gate.Require(rule), h, limits)
}

// HandleSetup is Handle for a route that a person needs to set up a second factor
// that is demanded of them, or to sign out. Sessions that owe one are refused on
// every other route, public ones too. The rule holds as ever. A gate that demands
// none (it is no SetupGate) takes it as Handle.
func (m *Mux) HandleSetup(pattern string, rule Rule, h http.Handler, limits ...Limit) {
	if err := rule.Check(); err != nil {
		panic(fmt.Sprintf("sallyport: route %q: %v", pattern, err))
	}
	if h == nil {
		panic(fmt.Sprintf("sallyport: route %q: nil handler", pattern))
	}
	require := m.gate.Require
	if g, ok := m.gate.(SetupGate); ok {
		require = g.RequireSetup
	}
	m.enter(pattern, rule, true, require(rule), h, limits)
}

// HandleFunc is Handle for a function.
func (m *Mux) HandleFunc(pattern string, rule Rule, f func(http.ResponseWriter, *http.Request), limits ...Limit) {
	m.Handle(pattern, rule, http.HandlerFunc(f), limits...)
}

// enter adds a route that leads through the gate to h.
func (m *Mux) enter(pattern string, rule Rule, setup bool, through func(http.Handler) http.Handler, h http.Handler, limits []Limit) {
	for _, l := range limits {
		if err := l.Check(); err != nil {
			panic(fmt.Sprintf("sallyport: route %q: %v", pattern, err))
		}
	}
	if enforced := slices.DeleteFunc(slices.Clone(limits), func(l Limit) bool { return l.For != "" }); len(enforced) > 0 {
		g, ok := m.gate.(LimitGate)
		if !ok {
			panic(fmt.Sprintf("sallyport: route %q: this gate enforces no limits", pattern))
		}
		through = g.Limit(pattern, enforced, through)
	}
	method, p := splitPattern(pattern)
	for name := range rule.Values {
		if !strings.Contains(p, "{"+name+"}") && !strings.Contains(p, "{"+name+"...}") {
			panic(fmt.Sprintf("sallyport: route %q: %v names the path value %q, and the pattern has none of that name", pattern, rule, name))
		}
	}
	m.add(entry{route: Route{Method: method, Path: p, Rule: rule, Setup: setup, Limits: slices.Clone(limits)}, handler: through(h)})
}

// Open registers a handler for everybody that looks at no credentials: the gate
// is not asked, and the principal is always anonymous. With Public, a caller
// who sends a credential that is not good is refused; a client that has an
// expired token must still be able to reach the route that gives it a new one,
// and a health check must not wait for a database. The route is listed as
// public.
func (m *Mux) Open(pattern string, h http.Handler, limits ...Limit) {
	if h == nil {
		panic(fmt.Sprintf("sallyport: route %q: nil handler", pattern))
	}
	through := func(h http.Handler) http.Handler { return h }
	if g, ok := m.gate.(OpenGate); ok {
		through = g.Open
	}
	m.enter(pattern, Public(), false, through, h, limits)
}

// Alias serves a route that is registered already under one more pattern, for
// clients that know it by another path: “POST /login” for “POST /auth/login”. It is
// the same handler behind the same gate: its rule, and what its limits have counted,
// are one, and so is its name: for policies, the audit log and Request.Pattern it is
// the route that it stands for.
//
// It panics if there is no such route, if the patterns differ in method or in the
// names of their wildcards, and if another route serves the path already: an alias
// takes no requests from it.
func (m *Mux) Alias(pattern, of string) {
	method, p := splitPattern(pattern)
	ofMethod, ofPath := splitPattern(of)
	i := slices.IndexFunc(m.entries, func(e entry) bool { return e.route.Method == ofMethod && e.route.Path == ofPath })
	switch {
	case i < 0:
		panic(fmt.Sprintf("sallyport: alias %q: there is no route %q on this Mux", pattern, of))
	case method != ofMethod:
		panic(fmt.Sprintf("sallyport: alias %q: its method is not that of %q", pattern, of))
	case !slices.Equal(wildcards(p), wildcards(ofPath)):
		panic(fmt.Sprintf("sallyport: alias %q: its wildcards are not those of %q", pattern, of))
	}
	if by := m.servedBy(method, p); by != "" {
		panic(fmt.Sprintf("sallyport: alias %q: %q serves this path already", pattern, by))
	}
	e := m.entries[i]
	if e.of == "" {
		e.of = e.route.Path
	}
	e.route.Path = p
	m.add(e)
}

var wildcard = regexp.MustCompile(`\{([^{}]*)\}`)

// wildcards returns the names of a path's wildcards, sorted; {$} is none.
func wildcards(path string) (names []string) {
	for _, w := range wildcard.FindAllStringSubmatch(path, -1) {
		if w[1] != "$" {
			names = append(names, w[1])
		}
	}
	slices.Sort(names)
	return names
}

// servedBy returns the pattern that serves a path of this form, or "".
func (m *Mux) servedBy(method, path string) string {
	methods := []string{method}
	if method == "*" {
		methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}
	}
	host, rest, _ := strings.Cut(path, "/")
	target := &url.URL{Path: wildcard.ReplaceAllStringFunc("/"+rest, func(w string) string {
		if w == "{$}" {
			return ""
		}
		return "-"
	})}
	for _, method := range methods {
		_, by := m.mux.Handler(&http.Request{Method: method, Host: host, URL: target})
		if slices.ContainsFunc(m.entries, func(e entry) bool { return e.pattern() == by }) {
			return by
		}
	}
	return ""
}

// pattern returns what ServeMux knows the route by.
func (e entry) pattern() string { return joinPattern(e.route.Method, e.route.Path) }

func joinPattern(method, path string) string {
	if method == "*" {
		return path
	}
	return method + " " + path
}

// Mount adds every route of sub under a prefix ("/" for none). It takes a Mux
// and nothing else, so that what is mounted has rules too. Afterwards sub is
// closed: registering on it panics instead of being forgotten.
func (m *Mux) Mount(prefix string, sub *Mux) {
	if !strings.HasPrefix(prefix, "/") || path.Clean(prefix) != prefix && prefix != "/" {
		panic(fmt.Sprintf("sallyport: mount prefix %q: must begin with / and be clean", prefix))
	}
	sub.mounted = true
	for _, e := range sub.entries {
		if prefix != "/" {
			if !strings.HasPrefix(e.route.Path, "/") {
				panic(fmt.Sprintf("sallyport: route %q names a host and cannot be mounted under %q", e.route.Path, prefix))
			}
			e.route.Path = prefix + e.route.Path
			if e.of != "" {
				e.of = prefix + e.of
			}
		}
		m.add(e)
	}
}

func (m *Mux) add(e entry) {
	if m.mounted {
		panic(fmt.Sprintf("sallyport: route %q: this Mux has been mounted and is closed", e.route.Path))
	}
	h, of := e.handler, ""
	if e.of != "" {
		of = joinPattern(e.route.Method, e.of)
	}
	m.mux.HandleFunc(e.pattern(), func(w http.ResponseWriter, r *http.Request) {
		if of != "" {
			r.Pattern = of // before the gate: what is forbidden on a route is forbidden by its alias
		}
		h.ServeHTTP(w.(*missWriter).ResponseWriter, r)
	})
	m.entries = append(m.entries, e)
}

// Routes returns every route in order of path and method.
func (m *Mux) Routes() []Route {
	out := make([]Route, len(m.entries))
	for i, e := range m.entries {
		out[i] = e.route
	}
	slices.SortFunc(out, func(a, b Route) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Method, b.Method)
	})
	return out
}

// ServeHTTP routes the request.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mw := missWriters.Get().(*missWriter)
	mw.ResponseWriter = w
	m.mux.ServeHTTP(mw, r)
	// Not before: in the pool it is another request's, which may run by now.
	mw.ResponseWriter, mw.replaced = nil, false
	missWriters.Put(mw)
}

// missWriter stands between ServeMux and the client only for ServeMux's own
// answers (404, 405, redirects to the clean path): a registered handler takes
// the real writer out before it runs.
type missWriter struct {
	http.ResponseWriter
	replaced bool
}

var missWriters = sync.Pool{New: func() any { return new(missWriter) }}

func (w *missWriter) WriteHeader(status int) {
	var e *Error
	switch status {
	case http.StatusNotFound:
		e = &Error{Status: status, Code: "not_found", Message: "There is nothing at this path. The list of operations is at /openapi.json."}
	case http.StatusMethodNotAllowed:
		e = &Error{Status: status, Code: "method_not_allowed", Message: "This path does not accept this method. The Allow header lists those that it does."}
	case http.StatusBadRequest:
		e = &Error{Status: status, Code: "bad_request", Message: "The request target is not valid."}
	default:
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.replaced = true
	WriteError(w.ResponseWriter, e)
}

func (w *missWriter) Write(b []byte) (int, error) {
	if w.replaced {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

func splitPattern(pattern string) (method, rest string) {
	if i := strings.IndexAny(pattern, " \t"); i >= 0 {
		return pattern[:i], strings.TrimLeft(pattern[i:], " \t")
	}
	return "*", pattern
}
