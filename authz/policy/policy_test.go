package policy_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// A Monday morning.
var monday = time.Date(2026, 11, 23, 10, 30, 0, 0, time.UTC)

func mustParse(t testing.TB, id, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if id != "" {
		p.ID = id
	}
	return p
}

var known = policy.Known{
	Permissions: map[string]bool{"delete:comments": true, "read:users": true, "approve:orders": true, "read:policies": true, "write:policies": true},
	Roles:       map[string]bool{"admin": true, "moderator": true, "user": true},
	Types:       map[string]bool{"Order": true, "Shop::Item": true, "User": true},
}

// request is one that a test decides, with what it says of itself.
type request struct {
	roles, permissions []string
	everything         bool
	scopes             []string // not nil: scoped
	claims             sallyport.Claims
	at                 time.Time
	addr               string
	method, path       string
	values             map[string]string
}

func (r request) decide(rule sallyport.Rule, set *policy.Set) sallyport.Decision {
	p, f := r.facts(set)
	allowed := rule.Allows(&p, &f)
	d := rule.Explain(&p, &f)
	if d.Allowed != allowed {
		panic("Allows and Explain differ")
	}
	return d
}

func (r request) facts(set *policy.Set) (sallyport.Principal, sallyport.Facts) {
	grants := sallyport.NewGrants
	if r.everything {
		grants = sallyport.NewAdminGrants
	}
	c := r.claims
	if c.Subject == "" {
		c.Subject = "u1"
	}
	if c.Kind == "" {
		c.Kind = sallyport.KindBearer
	}
	c.Scoped, c.Scopes = r.scopes != nil, sallyport.NewSet(r.scopes...)
	if r.at.IsZero() {
		r.at = monday
	}
	if r.method == "" {
		r.method, r.path = "DELETE", "/comments/17"
	}
	req, err := http.NewRequest(r.method, r.path, nil)
	if err != nil {
		panic(err)
	}
	for name, v := range r.values {
		req.SetPathValue(name, v)
	}
	req, carrier := reqctx.Enter(req)
	if r.addr != "" {
		carrier.SetClient(netip.MustParseAddr(r.addr), true)
	}
	return sallyport.NewPrincipal(c, grants(r.roles, r.permissions)), sallyport.Facts{Now: r.at, Policies: set, Request: req}
}

func setOf(t testing.TB, place policy.Place, texts ...string) *policy.Set {
	t.Helper()
	var all []*policy.Policy
	for i, text := range texts {
		p := mustParse(t, "", text)
		if p.ID == "" {
			p.ID = fmt.Sprint("p", i+1)
		}
		if err := p.Check(known); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		all = append(all, p)
	}
	return policy.NewSet(all, []string{"delete:comments", "read:users"}, place)
}

// What policies add to a permission, and take from it (threat A).
func TestPoliciesAndPermissions(t *testing.T) {
	t.Parallel()
	const (
		permit       = `permit(principal, action == Action::"delete:comments", resource) when { context.mfa };`
		forbid       = `forbid(principal, action == Action::"delete:comments", resource) unless { context.mfa };`
		forbidAll    = `forbid(principal, action, resource) when { context.credential == "api_key" };`
		forbidOther  = `forbid(principal, action == Action::"read:users", resource);`
		permitRole   = `permit(principal in Role::"moderator", action == Action::"delete:comments", resource);`
		forbidRole   = `forbid(principal in Role::"moderator", action, resource);`
		needsAddress = `forbid(principal, action == Action::"delete:comments", resource) when { context.ip.isLoopback() };`
		permitHeld   = `permit(principal, action in [Action::"delete:comments", Action::"approve:orders"], resource) when { principal.permissions.contains("delete:comments") };`
		own          = `permit(principal, action == Action::"delete:comments", resource == User::"u1") when { principal == resource };`
	)
	comments, orders := sallyport.Permission("delete:comments"), sallyport.Policy("approve:orders", "Order::{id}")
	held := []string{"delete:comments"}
	mfa, key := sallyport.Claims{MFA: true}, sallyport.Claims{Kind: sallyport.KindAPIKey}
	for name, tt := range map[string]struct {
		texts []string
		rule  sallyport.Rule
		r     request
		code  string // "": allowed
	}{
		"no policy, held":                                {nil, comments, request{permissions: held}, ""},
		"no policy, not held":                            {nil, comments, request{}, "insufficient_permission"},
		"a policy of another action":                     {[]string{forbidOther}, comments, request{permissions: held}, ""},
		"permitted, not held":                            {[]string{permit}, comments, request{claims: mfa}, ""},
		"not permitted, not held; a factor would":        {[]string{permit}, comments, request{}, "insufficient_user_authentication"},
		"not permitted, held":                            {[]string{permit}, comments, request{permissions: held}, ""},
		"forbidden but for a factor, held":               {[]string{forbid}, comments, request{permissions: held}, "insufficient_user_authentication"},
		"not forbidden, held":                            {[]string{forbid}, comments, request{permissions: held, claims: mfa}, ""},
		"not forbidden, not held":                        {[]string{forbid}, comments, request{claims: mfa}, "insufficient_permission"},
		"forbidding wins":                                {[]string{permit, permitRole, forbidRole}, comments, request{roles: []string{"moderator"}, permissions: held, claims: mfa}, "denied_by_policy"},
		"without it":                                     {[]string{permit, permitRole}, comments, request{roles: []string{"moderator"}}, ""},
		"an administrator is forbidden too":              {[]string{forbidAll}, comments, request{everything: true, claims: key, scopes: held}, "denied_by_policy"},
		"an administrator otherwise":                     {[]string{forbidAll}, comments, request{everything: true}, ""},
		"scoped elsewhere, permitted":                    {[]string{permit}, comments, request{claims: mfa, scopes: []string{"read:users"}}, "insufficient_scope"},
		"scoped, permitted":                              {[]string{permit}, comments, request{claims: mfa, scopes: held}, ""},
		"scoped away from the role that is forbidden":    {[]string{forbidRole}, comments, request{roles: []string{"moderator"}, permissions: held, scopes: held}, "denied_by_policy"},
		"as a scope":                                     {[]string{permit}, sallyport.Scope("delete:comments"), request{claims: mfa}, ""},
		"no address where one is needed":                 {[]string{needsAddress}, comments, request{permissions: held}, "denied_by_policy"},
		"an address":                                     {[]string{needsAddress}, comments, request{permissions: held, addr: "192.0.2.1"}, ""},
		"an error denies what another permits":           {[]string{needsAddress, permit}, comments, request{claims: mfa}, "insufficient_permission"},
		"policy alone: none":                             {nil, orders, request{permissions: []string{"approve:orders"}, values: map[string]string{"id": "1"}}, "denied_by_policy"},
		"policy alone: about another":                    {[]string{permit}, orders, request{everything: true, values: map[string]string{"id": "1"}}, "denied_by_policy"},
		"policy alone: permitted by what is held":        {[]string{permitHeld}, orders, request{permissions: held, values: map[string]string{"id": "1"}}, ""},
		"policy alone: an administrator holds it":        {[]string{permitHeld}, orders, request{everything: true, values: map[string]string{"id": "1"}}, ""},
		"policy alone: not held":                         {[]string{permitHeld}, orders, request{values: map[string]string{"id": "1"}}, "denied_by_policy"},
		"policy alone: no id":                            {[]string{permitHeld}, orders, request{permissions: held}, "denied_by_policy"},
		"policy alone: scoped elsewhere":                 {[]string{permitHeld}, orders, request{permissions: held, scopes: held, values: map[string]string{"id": "1"}}, "insufficient_scope"},
		"one's own":                                      {[]string{own}, sallyport.Policy("delete:comments", "User::{id}"), request{values: map[string]string{"id": "u1"}}, ""},
		"another's":                                      {[]string{own}, sallyport.Policy("delete:comments", "User::{id}"), request{values: map[string]string{"id": "u2"}}, "denied_by_policy"},
		"one of two rules":                               {[]string{forbidRole}, sallyport.Any(comments, sallyport.MFA()), request{roles: []string{"moderator"}, permissions: held, claims: mfa}, ""},
		"a machine client is no user":                    {[]string{`permit(principal is User, action == Action::"delete:comments", resource);`}, comments, request{claims: sallyport.Claims{Subject: "c", Client: "c"}}, "insufficient_permission"},
		"a person through a client":                      {[]string{`permit(principal is User, action == Action::"delete:comments", resource);`}, comments, request{claims: sallyport.Claims{Client: "app"}}, ""},
		"the id in another case is another":              {[]string{`permit(principal == User::"U1", action == Action::"delete:comments", resource);`}, comments, request{}, "insufficient_permission"},
		"the id in other Unicode is another":             {[]string{`permit(principal == User::"u１", action == Action::"delete:comments", resource);`}, comments, request{}, "insufficient_permission"},
		"the id itself":                                  {[]string{`permit(principal == User::"u1", action == Action::"delete:comments", resource);`}, comments, request{}, ""},
		"no sign-in has no age, and none is asked about": {[]string{`forbid(principal, action == Action::"delete:comments", resource) unless { context has auth_age && context.auth_age <= 60 };`}, comments, request{permissions: held}, "insufficient_user_authentication"},
	} {
		d := tt.r.decide(tt.rule, setOf(t, policy.Place{}, tt.texts...))
		code := ""
		if e := d.Refusal(); e != nil {
			code = e.Code
		}
		if code != tt.code {
			t.Errorf("%s: %q, want %q: %s", name, code, tt.code, policy.Sentence(d))
		}
	}
}

// What reaches the outside world through a policy: times, addresses, methods, paths.
func TestSurroundings(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	nineToSix := `context.local.hour >= 9 && context.local.hour < 18 && context.local.weekday <= 5`
	office := `context.ip.isInRange(ip("203.0.113.0/24"))`
	utc := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for name, tt := range map[string]struct {
		when  string
		r     request
		allow bool
	}{
		"winter, nine":             {nineToSix, request{at: utc("2026-11-23T08:00:00Z")}, true},
		"winter, before nine":      {nineToSix, request{at: utc("2026-11-23T07:59:59Z")}, false},
		"summer, nine":             {nineToSix, request{at: utc("2026-07-20T07:00:00Z")}, true},
		"summer, six":              {nineToSix, request{at: utc("2026-07-20T16:00:00Z")}, false},
		"a Saturday":               {nineToSix, request{at: utc("2026-11-21T10:00:00Z")}, false},
		"a Sunday":                 {`context.local.weekday == 7`, request{at: utc("2026-11-22T10:00:00Z")}, true},
		"a Saturday there":         {`context.local.date == "2026-11-21" && context.local.weekday == 6`, request{at: utc("2026-11-20T23:30:00Z")}, true},
		"the hour that is twice 1": {`context.local.hour == 2 && context.local.minute == 30`, request{at: utc("2026-10-25T00:30:00Z")}, true},
		"the hour that is twice 2": {`context.local.hour == 2 && context.local.minute == 30`, request{at: utc("2026-10-25T01:30:00Z")}, true},
		"the hour that is not":     {`context.local.hour == 3`, request{at: utc("2026-03-29T01:00:00Z")}, true},
		"another zone's clock":     {`context.time == datetime("2026-11-23T09:00:00+0100")`, request{at: utc("2026-11-23T08:00:00Z")}, true},
		"the office":               {office, request{addr: "203.0.113.9"}, true},
		"the office, mapped":       {office, request{addr: "::ffff:203.0.113.9"}, true},
		"beside the office":        {office, request{addr: "203.0.114.9"}, false},
		"of the sixth version":     {`context.ip.isInRange(ip("2001:db8::/32"))`, request{addr: "2001:db8::7"}, true},
		"with a zone":              {`context.ip.isInRange(ip("fe80::/10"))`, request{addr: "fe80::1%eth0"}, true},
		"HEAD is GET":              {`context.method == "GET"`, request{method: "HEAD", path: "/a"}, true},
		"of any method, too":       {`context.method == "GET"`, request{method: "HEAD", path: "/any"}, true},
		"but a HEAD route's":       {`context.method == "GET"`, request{method: "HEAD", path: "/head"}, false},
		"an escape is what it is":  {`context.path == "/a/b"`, request{method: "GET", path: "/%61/b"}, true},
		"a path is a text":         {`context.path like "/x\"y*"`, request{method: "GET", path: "/x%22yz"}, true},
		"just signed in":           {`context has auth_age && context.auth_age < 60`, request{claims: sallyport.Claims{AuthTime: monday.Add(-59 * time.Second)}}, true},
		"signed in a minute ago":   {`context has auth_age && context.auth_age < 60`, request{claims: sallyport.Claims{AuthTime: monday.Add(-60 * time.Second)}}, false},
		"signed in tomorrow":       {`context has auth_age`, request{claims: sallyport.Claims{AuthTime: monday.Add(time.Hour)}}, false},
		"a country":                {`context has country && context.country == "DE"`, request{addr: "203.0.113.9"}, true},
		"no country":               {`context has country`, request{addr: "192.0.2.1"}, false},
		"whole":                    {`context has mfa && context == context`, request{addr: "192.0.2.1"}, true},
		"who":                      {`principal.id == "u1" && principal.roles.contains("user") && !principal.roles.contains("User")`, request{roles: []string{"user"}}, true},
	} {
		place := policy.Place{Zone: berlin, Country: func(a netip.Addr) string {
			if a.String() == "203.0.113.9" {
				return "DE"
			}
			return ""
		}}
		set := setOf(t, place, `permit(principal, action == Action::"delete:comments", resource) when { `+tt.when+` };`)
		p, f := tt.r.facts(set)
		if tt.r.method == "HEAD" {
			f.Request.Pattern = map[string]string{"/a": "GET /a", "/any": "/any", "/head": "HEAD /head"}[tt.r.path]
		}
		rule := sallyport.Permission("delete:comments")
		if got := rule.Allows(&p, &f); got != tt.allow {
			t.Errorf("%s: %v: %s", name, got, policy.Sentence(rule.Explain(&p, &f)))
		}
	}
}

// What stands in a path becomes the id of a resource and nothing else (threat A).
func TestPathValuesAreValues(t *testing.T) {
	t.Parallel()
	set := setOf(t, policy.Place{},
		`permit(principal, action == Action::"approve:orders", resource == Order::"17");`,
		`permit(principal, action == Action::"approve:orders", resource == Shop::Item::"a/b");`,
		`permit(principal, action == Action::"approve:orders", resource) when { resource is Order && resource.id like "o:*" };`)
	one, two := sallyport.Policy("approve:orders", "Order::{id}"), sallyport.Policy("approve:orders", "Shop::Item::{tenant}/{id}")
	for _, tt := range []struct {
		rule  sallyport.Rule
		a, b  string
		allow bool
	}{
		{one, "", "17", true},
		{one, "", "017", false},
		{one, "", "17 ", false},
		{one, "", `17"`, false},
		{one, "", `x" || true || "`, false},
		{one, "", `Order::"17"`, false},
		{one, "", `17\u0000`, false},
		{one, "", "１７", false},
		{one, "", "o:1", true},
		{one, "", "p:o:1", false},
		{two, "a", "b", true},
		{two, "a/b", "", false},
		{two, "", "a/b", false},
		{two, "a/b", "b", false},
		{two, "a%2Fb", "b", false},
		{two, "a", "b/", false},
	} {
		r := request{values: map[string]string{"tenant": tt.a, "id": tt.b}}
		if d := r.decide(tt.rule, set); d.Allowed != tt.allow {
			t.Errorf("%v with %q, %q: %v: %s", tt.rule, tt.a, tt.b, d.Allowed, policy.Sentence(d))
		}
	}
}

// Policies that would deny by mistake, or never forbid, are not accepted.
func TestPoliciesAreChecked(t *testing.T) {
	t.Parallel()
	scope := `(principal, action == Action::"read:users", resource)`
	for text, want := range map[string][2]string{
		"permit" + scope: {"syntax", "Line 1, column"},
		"permit(principal,\n action, resource) when { context.x == };": {"syntax", "Line 2, column"},
		"perm":       {"syntax", "perm"},
		"":           {"one_policy", "There are 0"},
		"// nothing": {"one_policy", "There are 0"},
		"permit" + scope + ";forbid" + scope + ";":                                                {"one_policy", "There are 2"},
		"permit" + scope + " when { \"a\x00\" == \"\" };":                                         {"invalid_text", ""},
		"permit" + scope + " when { \"\xff\" == \"\" };":                                          {"invalid_text", ""},
		"permit" + scope + " when { " + strings.Repeat("true && ", 3000) + "true };":              {"too_long", ""},
		`permit(principal, action == Action::"read:user", resource);`:                             {"unknown_action", "read:user"},
		`permit(principal, action in [Action::"read:users", Action::"x"], resource);`:             {"unknown_action", ""},
		`permit(principal, action in [], resource);`:                                              {"no_action", ""},
		`forbid(principal, action == Action::"write:policies", resource);`:                        {"exempt_action", ""},
		`forbid(principal, action in [Action::"read:users", Action::"read:policies"], resource);`: {"exempt_action", ""},
		`permit(principal in Role::"admni", action == Action::"read:users", resource);`:           {"unknown_role", "admni"},
		`permit(principal == Usr::"a", action == Action::"read:users", resource);`:                {"unknown_type", "Usr"},
		`permit(principal is Usr, action == Action::"read:users", resource);`:                     {"unknown_type", "Usr"},
		`permit(principal, action == Action::"read:users", resource == Ordr::"1");`:               {"unknown_type", "Ordr"},
		`permit(principal, action == Action::"read:users", resource in Order::"1");`:              {"resource_in", ""},
		"permit" + scope + " when { resource in Order::\"1\" };":                                  {"resource_in", ""},
		"permit" + scope + " when { context.mfaa };":                                              {"unknown_attribute", "context.mfaa"},
		"permit" + scope + " when { context has bogus };":                                         {"unknown_attribute", "context.bogus"},
		"permit" + scope + " when { principal.department == \"x\" };":                             {"unknown_attribute", "principal.department"},
		"permit" + scope + " when { resource.owner == principal };":                               {"unknown_attribute", "resource.owner"},
		"permit" + scope + " when { context.local.day == 1 };":                                    {"type", "day"},
		"permit" + scope + " when { context.mfa == \"true\" };":                                   {"type", ""},
		"permit" + scope + " when { context.country == \"DE\" };":                                 {"type", "country"},
		"permit" + scope + " when { context.auth_age < 60 };":                                     {"type", "auth_age"},
		"permit" + scope + " when { context.ip.isInRange(ip(\"10.0.0.0/33\")) };":                 {"type", "10.0.0.0/33"},
		"permit" + scope + " when { 1 };":                                                         {"type", ""},
		"permit" + scope + " when { unknown(1) };":                                                {"syntax", "unknown"},
		"permit" + scope + " when { action == Action::\"nope\" };":                                {"unknown_action", "nope"},
		`@id("b c") permit` + scope + ";":                                                         {"invalid_name", ""},
		// The controls.
		"permit" + scope + ";": {},
		"forbid(principal, action, resource) unless { context.mfa || principal in Role::\"admin\" };":                           {},
		"permit(principal is User in Role::\"moderator\", action, resource is Order) when { context.local.zone == \"UTC\" };":   {},
		"permit(principal, action, resource == Shop::Item::\"a\\\"b\") when { resource.id == \"1\" };":                          {},
		"permit(principal is Client, action, resource is Route) when { resource == Route::\"GET /x\" };":                        {},
		"permit(principal, action, resource) when { principal == resource };":                                                   {},
		"permit(principal, action, resource) when { context has country && [\"DE\", \"AT\"].contains(context.country) };":       {},
		"forbid(principal, action, resource) when { context.time.toTime() > duration(\"20h\") || context.path like \"/a/*\" };": {},
		"forbid(principal, action, resource) when { context.time > datetime(\"2027-01-01\") };":                                 {},
	} {
		p, err := policy.Parse(text)
		if err == nil {
			err = p.Check(known)
		}
		code, detail := "", ""
		if e, ok := errors.AsType[*sallyport.Error](err); ok && len(e.Fields) > 0 {
			code, detail = e.Fields[0].Code, e.Fields[0].Detail
			if e.Status != 422 {
				t.Errorf("%s: %d", text, e.Status)
			}
		} else if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if code != want[0] || !strings.Contains(detail, want[1]) {
			t.Errorf("%.80q: %q %q, want %q", text, code, detail, want)
		}
	}
}

// A policy that is stored and cannot be read denies what it is about, and nothing
// else.
func TestWhatCannotBeReadDenies(t *testing.T) {
	t.Parallel()
	good := mustParse(t, "good", `permit(principal, action, resource);`)
	set := policy.NewSet([]*policy.Policy{good, policy.Broken("bad", "read:users")}, nil, policy.Place{})
	if d := (request{everything: true}).decide(sallyport.Permission("read:users"), set); d.Allowed || d.Refusal().Code != "denied_by_policy" || !strings.Contains(policy.Sentence(d), "bad") {
		t.Errorf("allowed: %s", policy.Sentence(d))
	}
	if d := (request{}).decide(sallyport.Permission("delete:comments"), set); !d.Allowed {
		t.Errorf("denied: %s", policy.Sentence(d))
	}
}

// The explanation of a refusal reads like a sentence, and tells what it would take.
func TestExplanation(t *testing.T) {
	t.Parallel()
	set := setOf(t, policy.Place{},
		`@id("office-hours") permit(principal in Role::"moderator", action == Action::"delete:comments", resource) when { context.local.hour >= 9 && context.local.hour < 18 && context.ip.isInRange(ip("203.0.113.0/24")) };`,
		`@id("no-keys") forbid(principal, action == Action::"delete:comments", resource) when { context.credential == "api_key" };`)
	r := request{roles: []string{"moderator"}, at: monday.Add(10 * time.Hour), addr: "198.51.100.7"}
	const want = `Denied. permission(delete:comments): Policy office-hours would permit it, but context.local.hour < 18 is false (context.local.hour is 20) and context.ip.isInRange(ip("203.0.113.0/24")) is false (context.ip is 198.51.100.7). It would take context.local.hour < 18 and context.ip.isInRange(ip("203.0.113.0/24")) (policy office-hours).`
	if got := policy.Sentence(r.decide(sallyport.Permission("delete:comments"), set)); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	r.claims.Kind = sallyport.KindAPIKey
	r.permissions = []string{"delete:comments"}
	const forbidden = `Denied. permission(delete:comments): Policy no-keys forbids it, because context.credential == "api_key" is true (context.credential is "api_key"). It would take policy no-keys not to forbid it, which takes that context.credential == "api_key" is false.`
	if got := policy.Sentence(r.decide(sallyport.Permission("delete:comments"), set)); got != forbidden {
		t.Errorf("%s\nwant\n%s", got, forbidden)
	}
	r = request{roles: []string{"moderator"}, addr: "203.0.113.9"}
	if got := policy.Sentence(r.decide(sallyport.Permission("delete:comments"), set)); !strings.HasPrefix(got, "Allowed. ") || !strings.Contains(got, "Policy office-hours permits it, because context.local.hour >= 9 is true") {
		t.Error(got)
	}
}

// What is recorded decides again as it did, and otherwise with a draft.
func TestARecordedDecisionIsDecidedAgain(t *testing.T) {
	t.Parallel()
	set := setOf(t, policy.Place{Country: func(netip.Addr) string { return "DE" }},
		`@id("a") permit(principal in Role::"moderator", action == Action::"approve:orders", resource == Order::"17") when { context.ip.isInRange(ip("203.0.113.0/24")) && context has country && context.country == "DE" };`)
	draft := set.With([]*policy.Policy{mustParse(t, "a", `permit(principal, action == Action::"approve:orders", resource) unless { context.mfa };`)})
	without := set.With(nil, "a")
	rule := sallyport.All(sallyport.Policy("approve:orders", "Order::{id}"), sallyport.Any(sallyport.SignedIn(), sallyport.MFA()), sallyport.Via(sallyport.KindBearer))
	for _, tt := range []struct {
		r                   request
		now, then, withouts bool
	}{
		{request{roles: []string{"moderator"}, addr: "203.0.113.9", values: map[string]string{"id": "17"}}, true, true, false},
		{request{roles: []string{"moderator"}, addr: "203.0.113.9", values: map[string]string{"id": "18"}}, false, true, false},
		{request{roles: []string{"user"}, addr: "203.0.113.9", values: map[string]string{"id": "17"}, claims: sallyport.Claims{MFA: true}}, false, false, false},
		{request{everything: true, addr: "203.0.113.9", values: map[string]string{"id": "17"}, scopes: []string{"x"}}, false, false, false},
	} {
		p, f := tt.r.facts(set)
		c, err := policy.ParseCase(set.Record(rule, &p, &f))
		if err != nil {
			t.Fatal(err)
		}
		if got := rule.Allows(&p, &f); got != tt.now || c.Decide(set).Allowed != got || c.Decide(draft).Allowed != tt.then || c.Decide(without).Allowed != tt.withouts {
			t.Errorf("%+v: %v, again %v, draft %v, without %v", tt.r, got, c.Decide(set).Allowed, c.Decide(draft).Allowed, c.Decide(without).Allowed)
		}
		// Every fact of the answer is the same, too.
		if a, b := policy.Sentence(rule.Explain(&p, &f)), policy.Sentence(c.Decide(set)); a != b {
			t.Errorf("%s\nagain:\n%s", a, b)
		}
	}
}

// What no policy is about costs a look-up and no allocation.
func TestARuleWithoutPoliciesDoesNotAllocate(t *testing.T) {
	set := setOf(t, policy.Place{}, `forbid(principal, action == Action::"read:users", resource);`)
	p, f := (request{roles: []string{"moderator"}, permissions: []string{"delete:comments"}}).facts(set)
	rule := sallyport.All(sallyport.Permission("delete:comments"), sallyport.Scope("delete:comments"), sallyport.Role("moderator"))
	if n := testing.AllocsPerRun(100, func() {
		facts := f
		if !rule.Allows(&p, &facts) {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDraftsHaveNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`@id("a") permit(principal, action, resource);` + "\n// b\n" + `@id("b") forbid(principal, action, resource);`: "a b",
		`permit(principal, action, resource);`:                                                        "id",
		`@id("a") permit(principal, action, resource); @id("a") permit(principal, action, resource);`: "id",
		``: "",
	} {
		all, err := policy.ParseDraft(text)
		var names []string
		for _, p := range all {
			names = append(names, p.ID)
			if again := mustParse(t, "", p.Text); again.ID != p.ID {
				t.Errorf("the text of %s is %q", p.ID, p.Text)
			}
		}
		if e, ok := errors.AsType[*sallyport.Error](err); ok {
			names = []string{e.Fields[0].Code}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// A refusal is words for the policies that decided it, however many there are: its
// cost must not be in the hands of whoever is refused.
func TestExplainWordsWhatItShowsOnly(t *testing.T) {
	const most = 50
	explain := func(count int) (sallyport.PolicyExplanation, float64) {
		texts := make([]string, count)
		for i := range texts {
			texts[i] = fmt.Sprintf(`@id("p%04d") permit(principal in Role::"moderator", action == Action::"delete:comments", resource) when { context.mfa && context.local.hour >= 9 && context.local.hour < 18 };`, i)
		}
		if count > most { // those that decide come last
			texts[count-3] = `@id("applies") permit(principal, action == Action::"delete:comments", resource);`
			texts[count-2] = `@id("forbids") forbid(principal, action == Action::"delete:comments", resource) unless { context.mfa };`
			texts[count-1] = `@id("wrong") forbid(principal, action == Action::"delete:comments", resource) when { context.ip.isLoopback() };`
		}
		set := setOf(t, policy.Place{}, texts...)
		p, f := request{roles: []string{"moderator"}}.facts(set)
		q := sallyport.PolicyQuestion{Principal: &p, Facts: &f, Action: "delete:comments"}
		var x sallyport.PolicyExplanation
		allocs := testing.AllocsPerRun(3, func() { x = set.Explain(q) })
		return x, allocs
	}
	_, few := explain(most)
	x, many := explain(1000)
	if len(x.Policies) != most || x.Policies[0].ID != "wrong" || x.Policies[1].ID != "forbids" || x.Policies[2].ID != "applies" || x.Policies[3].ID != "p0000" || len(x.Errors) != 1 {
		t.Errorf("%d policies: %+v", len(x.Policies), x.Policies[:4])
	}
	// To decide one takes a few allocations, and to put one into words hundreds.
	if perWord := few / most; many > few+950*perWord/4 {
		t.Errorf("%.0f allocations for 1,000 policies and %.0f for %d: all are put into words", many, few, most)
	}
	t.Logf("%.0f allocations for 1,000 policies, %.0f for %d", many, few, most)
}

func BenchmarkDenial(b *testing.B) {
	texts := make([]string, 1000)
	for i := range texts {
		texts[i] = `permit(principal in Role::"moderator", action == Action::"delete:comments", resource) when { context.mfa && context.local.hour >= 9 && context.local.hour < 18 };`
	}
	set := setOf(b, policy.Place{}, texts...)
	r := request{roles: []string{"moderator"}}
	p, f := r.facts(set)
	rule := sallyport.Permission("delete:comments")
	for b.Loop() {
		if rule.Explain(&p, &f).Allowed {
			b.Fatal("allowed")
		}
	}
}
