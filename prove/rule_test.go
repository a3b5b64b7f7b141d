package prove

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

// The two decisions, the gate's and the one here, were written apart. On rules and
// principals at random they agree, and so do the statuses of a refusal.
func TestDecidesAsTheGateDoes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c"}
	some := func(prefix string) (out []string) {
		for _, n := range names {
			if rnd.IntN(2) == 0 {
				out = append(out, prefix+n)
			}
		}
		return out
	}
	var rule func(depth int) sallyport.Rule
	rule = func(depth int) sallyport.Rule {
		n := names[rnd.IntN(len(names))]
		of := func() (out []sallyport.Rule) {
			for range 1 + rnd.IntN(3) {
				out = append(out, rule(depth-1))
			}
			return out
		}
		k := rnd.IntN(10)
		if depth == 0 {
			k = rnd.IntN(8)
		}
		switch k {
		case 0:
			return sallyport.SignedIn()
		case 1:
			return sallyport.Unscoped()
		case 2:
			return sallyport.MFA()
		case 3:
			return sallyport.Role(n)
		case 4:
			return sallyport.Permission(n)
		case 5:
			return sallyport.Scope(n)
		case 6:
			return sallyport.Fresh(10 * time.Minute)
		case 7:
			return sallyport.Via([][]sallyport.Kind{{"bearer"}, {"bearer", "cookie"}, {"api_key"}}[rnd.IntN(3)]...)
		case 8:
			return sallyport.All(of()...)
		default:
			return sallyport.Any(of()...)
		}
	}
	now := time.Now()
	allowed := 0
	const rounds = 5_000
	for range rounds {
		r := rule(2)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		declared, err := parseRule(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		h := Holding{Scheme: "s", Kind: []string{"bearer", "api_key", "cookie"}[rnd.IntN(3)], Permissions: some(""), Roles: some(""), MFA: rnd.IntN(2) == 0, Age: time.Duration(rnd.IntN(3)-1) * 11 * time.Minute}
		if h.Scoped = rnd.IntN(2) == 0; h.Scoped {
			h.Scopes = slices.Concat(some(""), some("role:"))
		}
		c := sallyport.Claims{Subject: "x", Kind: sallyport.Kind(h.Kind), Scoped: h.Scoped, Scopes: sallyport.NewSet(h.Scopes...), MFA: h.MFA}
		if h.Age >= 0 {
			c.AuthTime = now.Add(-h.Age)
		}
		p := sallyport.NewPrincipal(c, sallyport.NewGrants(h.Roles, h.Permissions))
		d := r.Explain(&p, &sallyport.Facts{Now: now})
		o := Operation{Rule: declared, Schemes: []string{"s"}}
		e, told := o.expect(&h)
		if !told || declared.String() != r.String() || e.Admitted != d.Allowed {
			t.Fatalf("%v, read as %v, with %+v: expected %v, the gate: %v", r, declared, h, e, d.Allowed)
		}
		if d.Allowed {
			allowed++
		} else if !slices.Equal(e.Statuses, []int{d.Refusal().Status}) {
			t.Fatalf("%v with %+v: expected %v, the gate: %d %s", r, h, e, d.Refusal().Status, d.Refusal().Code)
		}
	}
	if allowed < rounds/10 || allowed > rounds*9/10 {
		t.Errorf("%d of %d allowed: the draw says little", allowed, rounds)
	}
}

// What is not known leaves open what depends on it, and nothing else.
func TestPartsThatAreNotKnown(t *testing.T) {
	r, err := parseRule(json.RawMessage(`{"all":[{"permission":"a"},{"policy":{"action":"x","resource":"Y::{id}"}}]}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	o := Operation{Rule: r, Schemes: []string{"s"}}
	if e, told := o.expect(&Holding{Scheme: "s"}); !told || e.Admitted {
		t.Errorf("without the permission: %v %v", e, told)
	}
	if _, told := o.expect(&Holding{Scheme: "s", Permissions: []string{"a"}}); told {
		t.Error("what a policy says was told from outside")
	}
	if r.String() != "all(permission(a), policy(…))" {
		t.Error(r)
	}
}

// The plan of a rule has each part missing, and exactly what suffices.
func TestPlanOfARule(t *testing.T) {
	d, err := ReadDocument(strings.NewReader(`{"openapi": "3.1.0", "paths": {"/a/{id}": {"delete": {
		"x-sallyport-rule": {"all": [{"any": [{"permission": "a"}, {"role": "r"}]}, "mfa", {"fresh": 600}]},
		"security": [{"bearer": ["a"]}, {"bearer": []}], "x-sallyport-strict": true}},
		"/z": {"get": {"x-sallyport-rule": {"permission": "z"}, "security": [{"bearer": ["z"]}]}}},
		"components": {"securitySchemes": {"bearer": {"type": "oauth2"}, "apiKey": {"type": "apiKey", "in": "header", "name": "X"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	cases, left := Plan(d, Options{Make: []string{"apiKey", "bearer"}, Implied: func(string) ([]string, []string, bool) { return nil, nil, false }})
	got := map[string]string{}
	for _, c := range cases {
		if c.Op.Path == "/z" {
			continue
		}
		got[c.Principal] = c.Expected.String()
	}
	for principal, want := range map[string]string{
		"nobody": "401", "an expired token": "401", "a forged token": "401", "a token with alg none": "401",
		"the token of a session that was ended": "401", "an API key that was switched off": "401",
		"a session with everything":            "let in",
		"a session with a alone":               "let in",
		"a session with role r alone":          "let in",
		"a token whose scope is role:r":        "let in",
		"a session with everything but a":      "let in", // by the role
		"a session with everything but role r": "let in", // by the permission
		"a session with nothing":               "403",
		"a session without a second factor":    "401",
		"a session that was begun 11m0s ago":   "401",
		"an API key with everything":           "401",
		"a session and an API key at once":     "400 several_credentials",
	} {
		if got[principal] != want {
			t.Errorf("%s: expected %q, want %q", principal, got[principal], want)
		}
	}
	if len(left) > 0 || t.Failed() {
		t.Errorf("left %v of %s", left, fmt.Sprint(got))
	}
}
