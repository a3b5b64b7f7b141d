package authtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/role"
)

// T is what the assertions need of a test: *testing.T is one.
type T interface {
	Helper()
	Errorf(format string, args ...any)
}

// Principal returns a principal as the gate would hand it to a handler, for what is
// tested without a server. Roles are taken as they are named: what another role
// includes is not looked up; admin may do everything.
func Principal(id string, as ...As) sallyport.Principal {
	of := identityOf(as)
	if of.roles == nil {
		of.roles = []string{role.User}
	}
	grants := sallyport.NewGrants(of.roles, of.permissions)
	if slices.Contains(of.roles, role.Admin) {
		grants = sallyport.NewAdminGrants(of.roles, of.permissions)
	}
	claims := sallyport.Claims{
		Subject: id, Kind: of.kind, Scoped: of.scoped || of.kind == sallyport.KindAPIKey, Scopes: sallyport.NewSet(of.scopes...),
		MFA: of.mfa, AuthTime: time.Now().Add(-of.ago), Expires: time.Now().Add(time.Hour),
	}
	switch of.kind {
	case sallyport.KindAPIKey:
		claims.Key, claims.AuthTime = "key-of-"+id, time.Time{}
	case sallyport.KindBearer, sallyport.KindCookie:
		claims.Session = "session-of-" + id
	}
	return sallyport.NewPrincipal(claims, grants)
}

// Request returns a request for a handler alone, without a gate: in its context
// sallyport.From finds p. The zero Principal is anonymous.
func Request(p sallyport.Principal, method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	return r.WithContext(sallyport.NewContext(r.Context(), p))
}

// AssertRule reports an error unless the route of a pattern (“DELETE /users/{id}”) has
// exactly this rule.
func AssertRule(t T, mux *sallyport.Mux, pattern string, want sallyport.Rule) {
	t.Helper()
	route, ok := find(t, mux, pattern)
	if !ok {
		return
	}
	if got := route.Rule; text(got) != text(want) {
		t.Errorf("%s: the rule is %s, want %s", pattern, got, want)
	}
}

// AssertAllows reports an error unless the rule of a route lets p in.
//
// It decides the rule and nothing else. Which credentials are read at all (Basic only
// where the rule names it), who owes a second factor and what limits say is decided by
// the gate: send a request to a Server for that.
func AssertAllows(t T, mux *sallyport.Mux, pattern string, p sallyport.Principal) {
	t.Helper()
	route, ok := find(t, mux, pattern)
	if !ok {
		return
	}
	if d := route.Rule.Explain(&p, &sallyport.Facts{Now: time.Now()}); !d.Allowed {
		t.Errorf("%s refuses %s: its rule is %s%s", pattern, nameOf(p), d.Rule, reasons(d))
	}
}

// AssertRefuses reports an error if the rule of a route lets p in. Beside every
// refusal should stand somebody who is let in: a rule that refuses everybody passes
// this, too.
func AssertRefuses(t T, mux *sallyport.Mux, pattern string, p sallyport.Principal) {
	t.Helper()
	route, ok := find(t, mux, pattern)
	if !ok {
		return
	}
	if d := route.Rule.Explain(&p, &sallyport.Facts{Now: time.Now()}); d.Allowed {
		t.Errorf("%s lets %s in: its rule is %s", pattern, nameOf(p), d.Rule)
	}
}

// find returns the route of a pattern. An operation's path that ends in a slash stands
// on a Mux with {$}.
func find(t T, mux *sallyport.Mux, pattern string) (sallyport.Route, bool) {
	t.Helper()
	pattern = strings.Join(strings.Fields(pattern), " ")
	routes := mux.Routes()
	for _, wanted := range []string{pattern, pattern + "{$}"} {
		for _, r := range routes {
			if r.Method+" "+r.Path == wanted || r.Method == "*" && r.Path == wanted {
				return r, true
			}
		}
	}
	var all strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&all, "\n\t%s %s", r.Method, r.Path)
	}
	t.Errorf("there is no route %q on this Mux; it has%s", pattern, all.String())
	return sallyport.Route{}, false
}

// text is the form in which two rules are the same.
func text(r sallyport.Rule) string {
	if r.Check() != nil {
		return "" // the zero Rule, which no route has
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func nameOf(p sallyport.Principal) string {
	if p.Anonymous() {
		return "an anonymous caller"
	}
	return p.ID()
}

// reasons lists what of a rule was not met.
func reasons(d sallyport.Decision) string {
	var b strings.Builder
	for _, r := range d.Reasons {
		if !r.Met {
			fmt.Fprintf(&b, "\n\t%s: %s; it needs %s", r.Rule, r.Why, r.Need)
		}
	}
	return b.String()
}
