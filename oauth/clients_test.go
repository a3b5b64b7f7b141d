package oauth

import (
	"encoding/base64"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// A secret has one spelling, and a slip of the pen is seen without a look-up.
func TestSecretForm(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		s := newSecret()
		if !wellFormed(s) || len(s) != 51 || seen[s] || url.QueryEscape(s) != s {
			t.Fatalf("not a good secret, or the same again (%d characters)", len(s))
		}
		seen[s] = true
		for i := range s {
			for _, x := range []byte{1, 2, 32} {
				b := []byte(s)
				b[i] ^= x
				if wellFormed(string(b)) {
					t.Fatalf("another character at %d is not noticed", i)
				}
			}
		}
		body := strings.TrimPrefix(s, secretPrefix)
		for what, other := range map[string]string{
			"empty": "", "no prefix": body, "another prefix": "sp_" + body, "cut": s[:len(s)-1], "longer": s + "A", "padded": s + "=",
			"a line break": s[:20] + "\n" + s[20:], "a line break for a character": s[:20] + "\n" + s[21:], "blank": s + " ", "capitals": strings.ToUpper(s),
		} {
			if wellFormed(other) {
				t.Errorf("%s: taken for a secret", what)
			}
		}
	}
	if b := make([]byte, secretSize); wellFormed(secretPrefix + base64.RawURLEncoding.EncodeToString(b)) {
		t.Error("zeros are taken for a secret")
	}
}

// What the header gives is what stood in it, or is refused; nothing panics.
func FuzzBasic(f *testing.F) {
	for _, s := range []string{"", "Basic", "Basic Og==", "basic YTpi", "Basic !", "Bearer YTpi", "Basic YSUzYTpi", "Basic YSUyOmI=", "Basic YTpi\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("POST", "/token", nil)
		r.Header.Set("Authorization", header)
		cred, found, err := scheme{}.Read(r)
		if err != nil && (found || cred != "") || !found && cred != "" {
			t.Fatalf("%q found %v, error %v", cred, found, err)
		}
		if !found {
			return
		}
		id, secret, ok := strings.Cut(cred, ":")
		if !ok {
			t.Fatalf("%q has no parts", cred)
		}
		if wellFormed(secret) && !strings.Contains(id, ":") {
			again := httptest.NewRequest("POST", "/token", nil)
			again.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
			if c, _, _ := (scheme{}).Read(again); c != cred {
				t.Fatalf("%q is read as %q", cred, c)
			}
		}
	})
}
