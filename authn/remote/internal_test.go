package remote

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

func TestTwoFactors(t *testing.T) {
	for amr, want := range map[string]bool{
		"": false, "pwd": false, "otp": false, "hwk": false, "user": false, "pwd pwd": false, "pwd kba": false,
		"otp sms": false, "mca": false, "pwd user": false, "PWD OTP": false, "unknown otp": false, "pwd geo wia": false,
		"mfa": true, "pwd mfa": true, "pwd otp": true, "otp pwd": true, "hwk pin": true, "user hwk fpt": true, "pwd kba sms": true,
	} {
		if got := twoFactors(strings.Fields(amr)); got != want {
			t.Errorf("%q: %v, want %v", amr, got, want)
		}
	}
}

func TestKeyAge(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 5 * time.Minute, "public": 5 * time.Minute, "max-age=x": 5 * time.Minute, "max-age=-5": 5 * time.Minute, "max-age": 5 * time.Minute,
		"max-age=99999999999999999999": 5 * time.Minute,
		"public, max-age=600":          10 * time.Minute, "Max-Age=600": 10 * time.Minute, `max-age="600"`: 10 * time.Minute,
		"max-age=0": time.Minute, "max-age=59": time.Minute, "max-age=86400": time.Hour, "s-maxage=600": 5 * time.Minute,
		"no-store": time.Minute, "max-age=600, no-cache": time.Minute,
	} {
		h := http.Header{}
		if value != "" {
			h.Set("Cache-Control", value)
		}
		if got := keyAge(h); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache[int](10)
	kept := idOf(sallyport.KindBearer, "kept")
	c.put(kept, 42)
	for i := range 1000 {
		c.put(idOf(sallyport.KindBearer, fmt.Sprint(i)), i)
		if v, ok := c.get(kept); !ok || v != 42 {
			t.Fatalf("after %d others, what is in use is gone", i)
		}
		if c.len() > 10 {
			t.Fatalf("%d values, want at most 10", c.len())
		}
	}
	if _, ok := c.get(idOf(sallyport.KindBearer, "5")); ok {
		t.Error("what is not in use stays")
	}
	if _, ok := c.get(idOf(sallyport.KindAPIKey, "kept")); ok {
		t.Error("a credential of another kind is found")
	}
}

func TestParseAnswer(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{ // want: part of the error
		{"inactive", `{"active":false}`, ""},
		{"active", `{"active":true,"sub":"u","token_type":"bearer","scope":"a b","exp":5,"roles":["r"],"aud":["x","y"],"x":null}`, ""},
		{"nothing", ``, "strict JSON"},
		{"null", `null`, "not a JSON object"},
		{"a list", `[]`, "not a JSON object"},
		{"no active", `{"sub":"u"}`, `no "active"`},
		{"another case", `{"ACTIVE":true,"sub":"u"}`, `no "active"`},
		{"active twice", `{"active":false,"active":true}`, "strict JSON"},
		{"active twice in two cases", `{"active":false,"Active":true}`, "strict JSON"},
		{"active is a text", `{"active":"true"}`, `"active"`},
		{"active is a number", `{"active":1}`, `"active"`},
		{"active is null", `{"active":null}`, `"active"`},
		{"sub is a number", `{"active":true,"sub":5}`, `"sub"`},
		{"scope is null", `{"active":true,"sub":"u","scope":null}`, `"scope"`},
		{"scope is a list", `{"active":true,"sub":"u","scope":["a"]}`, `"scope"`},
		{"mfa is a text", `{"active":true,"mfa":"true"}`, `"mfa"`},
		{"exp is zero", `{"active":true,"exp":0}`, `"exp"`},
		{"exp is past all", `{"active":true,"exp":-5}`, `"exp"`},
		{"exp is a fraction", `{"active":true,"exp":1.5}`, `"exp"`},
		{"exp is 1e400", `{"active":true,"exp":1e400}`, `"exp"`},
		{"exp is too far", `{"active":true,"exp":9223372036854775807}`, `"exp"`},
		{"exp is null", `{"active":true,"exp":null}`, `"exp"`},
		{"roles is a text", `{"active":true,"roles":"admin"}`, `"roles"`},
		{"all_permissions is a number", `{"active":true,"all_permissions":1}`, `"all_permissions"`},
		{"deep", `{"active":true,"x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`, "strict JSON"},
	} {
		_, err := parseAnswer([]byte(tt.text))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	a, err := parseAnswer([]byte(`{"active":true,"sub":"u","aud":"x","scope":"","auth_time":7}`))
	if err != nil || !a.scoped || len(a.scope) != 0 || len(a.audience) != 1 || !a.expires.IsZero() || a.authTime.Unix() != 7 {
		t.Errorf("%+v, %v", a, err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(`{"active":true,"sub":"u","token_type":"bearer","scope":"a b","exp":5,"roles":["r"],"aud":["x","y"]}`)
	f.Add(`{"active":false}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAnswer([]byte(text))
		if err == nil && a.active && !strings.Contains(text, "true") {
			t.Fatal("active, and nothing says so")
		}
	})
}
