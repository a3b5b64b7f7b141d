package sallyport_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func facts() *sallyport.Facts { return &sallyport.Facts{Now: now} }

// who makes a principal that signed in a minute ago.
func who(g *sallyport.Grants, change ...func(*sallyport.Claims)) *sallyport.Principal {
	c := sallyport.Claims{Subject: "u", Session: "s", Kind: sallyport.KindBearer, AuthTime: now.Add(-time.Minute)}
	for _, f := range change {
		f(&c)
	}
	p := sallyport.NewPrincipal(c, g)
	return &p
}

func scoped(names ...string) func(*sallyport.Claims) {
	return func(c *sallyport.Claims) { c.Scoped, c.Scopes = true, sallyport.NewSet(names...) }
}

func mfa(c *sallyport.Claims) { c.MFA = true }

func TestDecisions(t *testing.T) {
	nobody := &sallyport.Principal{}
	plain := who(sallyport.NewGrants([]string{"user"}, nil))
	reader := who(sallyport.NewGrants([]string{"user"}, []string{"read:items"}))
	admin := who(sallyport.NewAdminGrants([]string{"admin"}, nil))
	read, write := sallyport.Permission("read:items"), sallyport.Permission("write:items")
	for _, c := range []struct {
		name string
		rule sallyport.Rule
		p    *sallyport.Principal
		code string // "" is allowed
	}{
		{"zero rule", sallyport.Rule{}, admin, "insufficient_permission"},
		{"zero rule, nobody", sallyport.Rule{}, nil, "unauthenticated"},
		{"public, nobody", sallyport.Public(), nil, ""},
		{"public, anonymous", sallyport.Public(), nobody, ""},
		{"signed in, nobody", sallyport.SignedIn(), nil, "unauthenticated"},
		{"signed in, anonymous", sallyport.SignedIn(), nobody, "unauthenticated"},
		{"signed in", sallyport.SignedIn(), plain, ""},
		{"role", sallyport.Role("user"), plain, ""},
		{"role not held", sallyport.Role("admin"), plain, "insufficient_permission"},
		{"role of another case", sallyport.Role("User"), plain, "insufficient_permission"},
		{"role, scoped", sallyport.Role("user"), who(plain.Grants(), scoped("read:items")), "insufficient_scope"},
		{"role, scoped to it", sallyport.Role("user"), who(plain.Grants(), scoped("role:user")), ""},
		{"role scope without the role", sallyport.Role("admin"), who(plain.Grants(), scoped("role:admin")), "insufficient_permission"},
		{"permission", read, reader, ""},
		{"permission not held", write, reader, "insufficient_permission"},
		{"permission by prefix", sallyport.Permission("read:item"), reader, "insufficient_permission"},
		{"permission of the administrator", write, admin, ""},
		{"scope decides as permission", sallyport.Scope("read:items"), reader, ""},
		{"held, outside the scope", read, who(reader.Grants(), scoped("other")), "insufficient_scope"},
		{"held, inside the scope", read, who(reader.Grants(), scoped("read:items")), ""},
		{"in the scope, not held", write, who(reader.Grants(), scoped("write:items")), "insufficient_permission"},
		{"empty scope", read, who(reader.Grants(), scoped()), "insufficient_scope"},
		{"administrator, scoped", write, who(admin.Grants(), scoped("read:items")), "insufficient_scope"},
		{"unscoped", sallyport.Unscoped(), plain, ""},
		{"unscoped, scoped", sallyport.Unscoped(), who(plain.Grants(), scoped("x")), "insufficient_scope"},
		{"unscoped, limited to nothing", sallyport.Unscoped(), who(admin.Grants(), scoped()), "insufficient_scope"},
		{"second factor missing", sallyport.MFA(), plain, "insufficient_user_authentication"},
		{"second factor", sallyport.MFA(), who(plain.Grants(), mfa), ""},
		{"fresh", sallyport.Fresh(2 * time.Minute), plain, ""},
		{"fresh, to the second", sallyport.Fresh(time.Minute), plain, ""},
		{"stale", sallyport.Fresh(time.Minute - time.Second), plain, "insufficient_user_authentication"},
		{"signed in tomorrow", sallyport.Fresh(time.Hour), who(plain.Grants(), func(c *sallyport.Claims) { c.AuthTime = now.Add(time.Hour) }), "insufficient_user_authentication"},
		{"no time of sign-in", sallyport.Fresh(time.Hour), who(plain.Grants(), func(c *sallyport.Claims) { c.AuthTime = time.Time{} }), "insufficient_user_authentication"},
		{"all", sallyport.All(read, sallyport.Role("user")), reader, ""},
		{"all, one missing", sallyport.All(read, write), reader, "insufficient_permission"},
		{"any, one held", sallyport.Any(write, read), reader, ""},
		{"any, none held", sallyport.Any(write, sallyport.Role("admin")), reader, "insufficient_permission"},
		{"a permission lacks before a factor does", sallyport.All(write, sallyport.MFA()), reader, "insufficient_permission"},
		{"via", sallyport.Via(sallyport.KindBearer), plain, ""},
		{"via one of several", sallyport.Via(sallyport.KindBasic, sallyport.KindBearer), plain, ""},
		{"via another", sallyport.Via(sallyport.KindCookie), plain, "credential_not_accepted"},
		{"via, nobody", sallyport.Via(sallyport.KindCookie), nobody, "unauthenticated"},
		{"what lacks for good comes before the kind", sallyport.All(write, sallyport.Via(sallyport.KindCookie)), reader, "insufficient_permission"},
		{"another kind, and a scope", sallyport.All(read, sallyport.Via(sallyport.KindCookie)), who(reader.Grants(), scoped("x")), "credential_not_accepted"},
		{"a scope lacks before a factor does", sallyport.All(read, sallyport.MFA()), who(reader.Grants(), scoped("x")), "insufficient_scope"},
		{"only the factor lacks", sallyport.All(read, sallyport.MFA()), reader, "insufficient_user_authentication"},
		{"either way out", sallyport.Any(write, sallyport.All(read, sallyport.MFA())), reader, "insufficient_user_authentication"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.rule.Allows(c.p, facts()); got != (c.code == "") {
				t.Fatalf("Allows: %v", got)
			}
			d := c.rule.Explain(c.p, facts())
			if d.Allowed != (c.code == "") {
				t.Fatalf("Explain decides otherwise: %+v", d)
			}
			if c.code == "" {
				if d.Refusal() != nil {
					t.Fatalf("allowed and refused: %v", d.Refusal())
				}
				return
			}
			e := d.Refusal()
			if e == nil || e.Code != c.code {
				t.Fatalf("refusal %v, want %s", e, c.code)
			}
			want := 403
			if c.code == "unauthenticated" || c.code == "insufficient_user_authentication" {
				want = 401
			}
			if e.Status != want {
				t.Fatalf("status %d, want %d", e.Status, want)
			}
		})
	}
}

func TestRefusalsSayWhatIsNeeded(t *testing.T) {
	p := who(sallyport.NewGrants([]string{"user"}, []string{"a", "b"}), scoped("x"))
	e := sallyport.All(sallyport.Scope("a"), sallyport.Permission("b"), sallyport.Role("user")).Explain(p, facts()).Refusal()
	if !slices.Equal(e.Scope, []string{"a", "b", "role:user"}) {
		t.Errorf("scope: %v", e.Scope)
	}
	e = sallyport.Any(sallyport.Permission("nobody"), sallyport.Scope("b")).Explain(p, facts()).Refusal()
	if !slices.Equal(e.Scope, []string{"b"}) {
		t.Errorf("scope of the alternative that is open: %v", e.Scope)
	}
	e = sallyport.All(sallyport.MFA(), sallyport.Fresh(30*time.Second), sallyport.Fresh(10*time.Second)).Explain(who(p.Grants()), facts()).Refusal()
	if !e.MFA || e.MaxAge != 10*time.Second {
		t.Errorf("strength: %+v", e)
	}
}

func TestExplainGivesEveryReason(t *testing.T) {
	p := who(sallyport.NewGrants(nil, []string{"a"}))
	d := sallyport.All(sallyport.Permission("a"), sallyport.Any(sallyport.Role("r"), sallyport.MFA()), sallyport.Permission("c")).Explain(p, facts())
	var met []bool
	for _, r := range d.Reasons {
		met = append(met, r.Met)
		if r.Met == (r.Why != "" || r.Need != "") {
			t.Errorf("reason without cause or with too many: %+v", r)
		}
	}
	if !slices.Equal(met, []bool{true, false, false, false}) {
		t.Errorf("reasons: %+v", d.Reasons)
	}
}

func TestPrintedForms(t *testing.T) {
	r := sallyport.All(sallyport.Role("admin"), sallyport.Any(sallyport.Scope("read:items"), sallyport.Permission("p")), sallyport.MFA(), sallyport.Fresh(5*time.Minute))
	if got, want := r.String(), "all(role(admin), any(scope(read:items), permission(p)), mfa, fresh(5m0s))"; got != want {
		t.Errorf("String: %s, want %s", got, want)
	}
	b, err := json.Marshal(r)
	if want := `{"all":[{"role":"admin"},{"any":[{"scope":"read:items"},{"permission":"p"}]},"mfa",{"fresh":300}]}`; err != nil || string(b) != want {
		t.Errorf("JSON: %s %v, want %s", b, err, want)
	}
	if _, err := json.Marshal(sallyport.Rule{}); err == nil {
		t.Error("the zero rule was written")
	}
	if got := slices.Collect(r.Names); !slices.Equal(got, []string{"read:items", "p"}) {
		t.Errorf("Names: %v", got)
	}
}

func TestInvalidRules(t *testing.T) {
	deep := sallyport.SignedIn()
	for range sallyport.MaxRuleDepth + 1 {
		deep = sallyport.All(deep)
	}
	for name, r := range map[string]sallyport.Rule{
		"none": {}, "empty all": sallyport.All(), "empty any": sallyport.Any(), "public inside": sallyport.Any(sallyport.Public()),
		"public deep inside": sallyport.All(sallyport.Any(sallyport.SignedIn(), sallyport.Public())), "zero inside": sallyport.All(sallyport.Rule{}),
		"empty name": sallyport.Role(""), "space": sallyport.Permission("a b"), "quote": sallyport.Scope(`a"`), "line": sallyport.Scope("a\nb"),
		"long": sallyport.Role(strings.Repeat("a", 65)), "fresh for ever": sallyport.Fresh(0), "too deep": deep,
	} {
		if r.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, r := range []sallyport.Rule{sallyport.Public(), sallyport.SignedIn(), sallyport.MFA(), sallyport.Scope("read:items"), sallyport.Role("a.b-c/d_e")} {
		if err := r.Check(); err != nil {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// What a rule was made of may change afterwards; the rule may not.
func TestRulesDoNotShareMemory(t *testing.T) {
	parts := []sallyport.Rule{sallyport.Role("a")}
	r := sallyport.All(parts...)
	parts[0] = sallyport.Public()
	r.Of()[0] = sallyport.Public()
	if r.String() != "all(role(a))" {
		t.Fatalf("the rule was changed from outside: %v", r)
	}
}

// Whatever the rule and the principal, the three ways to decide agree: Allows,
// Explain, and the complete reasons put together by hand.
func FuzzDecisionsAgree(f *testing.F) {
	f.Add([]byte{8, 3, 0, 4, 1}, uint8(7))
	f.Add([]byte{9, 8, 6, 7, 9, 3, 3}, uint8(0))
	f.Fuzz(func(t *testing.T, program []byte, bits uint8) {
		r := build(&program, 0)
		if r.Check() != nil {
			return
		}
		names := []string{"a", "b"}
		g := sallyport.NewGrants(names[:bits&1], names[:(bits>>1)&1])
		p := who(g, func(c *sallyport.Claims) {
			c.MFA = bits&4 != 0
			if bits&8 != 0 {
				scoped(names[(bits>>4)&1])(c)
			}
			if bits&32 != 0 {
				c.Subject = ""
			}
		})
		d := r.Explain(p, facts())
		if d.Allowed != r.Allows(p, facts()) || d.Allowed != byHand(r, p) || d.Allowed != (d.Refusal() == nil) {
			t.Fatalf("%v: Explain %v, Allows %v, by hand %v", r, d.Allowed, r.Allows(p, facts()), byHand(r, p))
		}
		if e := d.Refusal(); e != nil && e.Code == "insufficient_scope" && len(e.Scope) == 0 && !strings.Contains(r.String(), "unscoped") {
			t.Fatalf("%v: no scope is named", r)
		}
	})
}

func build(program *[]byte, depth int) sallyport.Rule {
	if len(*program) == 0 || depth > 6 {
		return sallyport.SignedIn()
	}
	op := (*program)[0] % 12
	*program = (*program)[1:]
	name := []string{"a", "b"}[op%2]
	switch op {
	case 0, 1:
		return sallyport.Role(name)
	case 2, 3:
		return sallyport.Permission(name)
	case 4:
		return sallyport.Scope(name)
	case 5:
		return sallyport.MFA()
	case 6:
		return sallyport.Fresh(time.Hour)
	case 7:
		return sallyport.Fresh(time.Second)
	case 9:
		return sallyport.Via(sallyport.KindBearer, sallyport.KindAPIKey)
	case 10:
		return sallyport.Via(sallyport.KindCookie)
	case 8:
		return sallyport.All(build(program, depth+1), build(program, depth+1))
	}
	return sallyport.Any(build(program, depth+1), build(program, depth+1))
}

// byHand is the definition, written as plainly as possible.
func byHand(r sallyport.Rule, p *sallyport.Principal) bool {
	if p.Anonymous() {
		return r.Op() == sallyport.OpPublic
	}
	c, g := p.Claims(), p.Grants()
	listed := func(n string) bool { return !c.Scoped || c.Scopes.Has(n) }
	switch r.Op() {
	case sallyport.OpRole:
		return g.Roles().Has(r.Name()) && listed("role:"+r.Name())
	case sallyport.OpPermission, sallyport.OpScope:
		return g.Holds(r.Name()) && listed(r.Name())
	case sallyport.OpVia:
		return slices.Contains(slices.Collect(r.Kinds), c.Kind)
	case sallyport.OpMFA:
		return c.MFA
	case sallyport.OpFresh:
		return now.Sub(c.AuthTime) <= r.Age()
	case sallyport.OpAll:
		return !slices.ContainsFunc(r.Of(), func(x sallyport.Rule) bool { return !byHand(x, p) })
	case sallyport.OpAny:
		return slices.ContainsFunc(r.Of(), func(x sallyport.Rule) bool { return byHand(x, p) })
	}
	return true
}

// A principal whose ids are kept as bytes is the same principal.
func TestCompactPrincipal(t *testing.T) {
	subject := [16]byte{0x01, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x7a, 0xbc, 0x8d, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab}
	unit := [16]byte{15: 1}
	const subjectText, unitText = "019abcde-f012-7abc-8def-0123456789ab", "00000000-0000-0000-0000-000000000001"
	for kind, want := range map[sallyport.Kind]sallyport.Claims{
		sallyport.KindBearer: {Subject: subjectText, Session: unitText},
		sallyport.KindCookie: {Subject: subjectText, Session: unitText},
		sallyport.KindAPIKey: {Subject: subjectText, Key: unitText},
		sallyport.KindBasic:  {Subject: subjectText},
	} {
		p := sallyport.NewCompactPrincipal(sallyport.Claims{Kind: kind, Subject: "ignored"}, subject, unit, nil)
		c := p.Claims()
		if c.Kind != kind || c.Subject != want.Subject || c.Session != want.Session || c.Key != want.Key || p.ID() != want.Subject || p.SessionID() != want.Session || p.KeyID() != want.Key || p.Anonymous() {
			t.Errorf("%s: %+v", kind, c)
		}
		signedIn := sallyport.SignedIn()
		if !signedIn.Allows(&p, facts()) {
			t.Errorf("%s: nobody is signed in", kind)
		}
	}
}

func TestAllowsDoesNotAllocate(t *testing.T) {
	p := who(sallyport.NewGrants([]string{"user"}, []string{"a", "b", "c"}))
	f := facts()
	r := sallyport.All(sallyport.Permission("a"), sallyport.Scope("b"), sallyport.Any(sallyport.Role("admin"), sallyport.Permission("c")), sallyport.Fresh(time.Hour))
	if n := testing.AllocsPerRun(100, func() {
		if !r.Allows(p, f) {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A rule of five leaves: 100 ns or less, no allocation.
func BenchmarkAllows(b *testing.B) {
	p := who(sallyport.NewGrants([]string{"user"}, []string{"a", "b", "c"}))
	f := facts()
	r := sallyport.All(sallyport.Permission("a"), sallyport.Scope("b"), sallyport.Any(sallyport.Role("admin"), sallyport.Permission("c")), sallyport.Fresh(time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		r.Allows(p, f)
	}
}
