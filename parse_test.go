package sallyport_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
)

func TestParseRule(t *testing.T) {
	for text, want := range map[string]sallyport.Rule{
		"public": sallyport.Public(), " signed-in ": sallyport.SignedIn(), "mfa": sallyport.MFA(), "unscoped": sallyport.Unscoped(),
		"role(admin)": sallyport.Role("admin"), "permission( read:items )": sallyport.Permission("read:items"), "scope(a/b.c)": sallyport.Scope("a/b.c"),
		"fresh(10m)": sallyport.Fresh(10 * time.Minute), "fresh(10m0s)": sallyport.Fresh(10 * time.Minute),
		"via(bearer,api_key)":                   sallyport.Via(sallyport.KindBearer, sallyport.KindAPIKey),
		"policy(a:b, Shop::Order::x/{id})":      sallyport.Policy("a:b", "Shop::Order::x/{id}"),
		"all(role(admin), mfa)":                 sallyport.All(sallyport.Role("admin"), sallyport.MFA()),
		"any(all(role(a),mfa), scope(b:c),mfa)": sallyport.Any(sallyport.All(sallyport.Role("a"), sallyport.MFA()), sallyport.Scope("b:c"), sallyport.MFA()),
	} {
		got, err := sallyport.ParseRule(text)
		if err != nil || got.String() != want.String() || got.Op() != want.Op() {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestParseRuleMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "at byte 1 of the rule: write public",
		"admin":                   "at byte 1",
		"Public":                  "at byte 1",
		"signed_in":               "at byte 1",
		"none":                    "at byte 1",
		"role(admin":              "at byte 11 of the rule: write ) to end role(…)",
		"role(admin))":            "at byte 12 of the rule: the rule is complete",
		"role(admin) mfa":         "at byte 13 of the rule: the rule is complete",
		"role()":                  "at byte 6 of the rule: something is missing",
		"role(a,b)":               "takes one name",
		"role(a b)":               "at byte 6",
		"role(a\tb)":              "at byte 6",
		"role(ä)":                 "at byte 6",
		"role(-a)":                "at byte 6",
		"public()":                "at byte 1",
		"mfa(x)":                  "at byte 1",
		"all()":                   "at byte 5",
		"all(mfa,)":               "at byte 9",
		"all(mfa mfa)":            "at byte 9 of the rule: write a comma",
		"all(public, mfa)":        "public cannot be combined",
		"all(role(a), rolle(b))":  "at byte 14",
		"fresh(1)":                "at byte 7 of the rule: write a duration",
		"fresh(500ms)":            "at byte 7",
		"fresh(-1h)":              "at byte 7",
		"fresh(9999999h)":         "at byte 7",
		"via()":                   "at byte 5",
		"via(bearer, bearer)":     "named twice",
		"via(password)":           "at byte 5 of the rule: this is no kind",
		"policy(a:b)":             "takes an action and a resource",
		"policy(a:b, Order)":      "has no type",
		"policy(a:b, O::x, O::y)": "takes an action",
		strings.Repeat("all(", 17) + "mfa" + strings.Repeat(")", 17): "nested deeper than 16",
		strings.Repeat(" ", 1025):                                    "longer than 1024 bytes",
		"role(admin)\n":                                              "at byte 12",
		"role(admin)\x00":                                            "at byte 12",
		`{"role":"admin"}`:                                           "at byte 1",
		"signed-in,public":                                           "at byte 10",
		"any(signed-in,role(x)":                                      "at byte 22",
		"all(all(all(role(a))),via(x))":                              "at byte 27",
	} {
		r, err := sallyport.ParseRule(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, %v; want %q", text, r, err, want)
		}
		if r.Op() != sallyport.OpNone {
			t.Errorf("%.60q: a rule beside the error", text)
		}
	}
	deep := strings.Repeat("all(", 16) + "mfa" + strings.Repeat(")", 16)
	if _, err := sallyport.ParseRule(deep); err != nil {
		t.Error(err)
	}
}

// anyRule draws a rule that passes Check.
func anyRule(depth int) *rapid.Generator[sallyport.Rule] {
	return rapid.Custom(func(t *rapid.T) sallyport.Rule {
		name := rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_.:/-]{0,12}`)
		kinds := 9
		if depth > 0 {
			kinds = 11
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return sallyport.SignedIn()
		case 1:
			return sallyport.MFA()
		case 2:
			return sallyport.Unscoped()
		case 3:
			return sallyport.Role(name.Draw(t, "role"))
		case 4:
			return sallyport.Permission(name.Draw(t, "permission"))
		case 5:
			return sallyport.Scope(name.Draw(t, "scope"))
		case 6:
			return sallyport.Policy(name.Draw(t, "action"), "Shop::Order::"+rapid.SampledFrom([]string{"daily", "{id}", "{tenant}/{id}", "a/{b}/c"}).Draw(t, "id"))
		case 7:
			return sallyport.Fresh(time.Duration(rapid.Int64Range(1, 1e6).Draw(t, "age")) * time.Second)
		case 8:
			return sallyport.Via(rapid.SliceOfNDistinct(rapid.SampledFrom(sallyport.Kinds()), 1, 5, rapid.ID).Draw(t, "via")...)
		case 9:
			return sallyport.All(rapid.SliceOfN(anyRule(depth-1), 1, 3).Draw(t, "all")...)
		default:
			return sallyport.Any(rapid.SliceOfN(anyRule(depth-1), 1, 3).Draw(t, "any")...)
		}
	})
}

// What is printed is read as the same rule, and a printed rule with one byte changed
// is another rule or none.
func TestParseRuleIsTheInverseOfString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRule(3).Draw(t, "rule")
		text := r.String()
		if len(text) > sallyport.MaxRuleText {
			t.Skip("too long")
		}
		got, err := sallyport.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", r) {
			t.Fatalf("%s is read as %s", text, got)
		}
		tight, err := sallyport.ParseRule(strings.ReplaceAll(text, " ", ""))
		if err != nil || tight.String() != text {
			t.Fatalf("%s without spaces: %s, %v", text, tight, err)
		}
	})
}

// FuzzParseRule: no text panics, and what is taken is a rule that prints and reads
// the same, in both forms.
func FuzzParseRule(f *testing.F) {
	for _, text := range []string{"public", "all(role(admin), mfa)", "any(scope(a:b),via(bearer, cookie))", "policy(a:b, T::{x}/y)", "fresh(1h1m1s)", "all((", "role(\xff)"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := sallyport.ParseRule(text)
		if err != nil {
			return
		}
		if err := r.Check(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := sallyport.ParseRule(r.String())
		if err != nil && len(r.String()) <= sallyport.MaxRuleText || err == nil && again.String() != r.String() {
			t.Fatalf("%q: %v, then %v, %v", text, r, again, err)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
