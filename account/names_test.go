package account

import (
	"encoding/xml"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/testkit"
)

func TestEmailKey(t *testing.T) {
	for address, want := range map[string]string{
		"ada@example.com":                        "ada@example.com",
		"Ada.Lovelace@EXAMPLE.com":               "ada.lovelace@example.com",
		"ada+tag@example.com":                    "ada+tag@example.com",
		"ADA@Bücher.example":                     "ada@xn--bcher-kva.example",
		"ada@xn--bcher-kva.example":              "ada@xn--bcher-kva.example",
		"":                                       "",
		"ada":                                    "",
		"ada@":                                   "",
		"@example.com":                           "",
		"ada@localhost":                          "",
		"ada@example.com.":                       "",
		"ada@@example.com":                       "",
		"ada@example..com":                       "",
		"Ada <ada@example.com>":                  "",
		"<ada@example.com>":                      "",
		"ada@example.com, b@c.de":                "",
		"ada@example.com\r\nBcc: x":              "",
		"ada@example.com\n":                      "",
		" ada@example.com":                       "",
		"ada@example.com (a note)":               "",
		`"ada"@example.com`:                      "",
		"ada@[127.0.0.1]":                        "",
		"a\x00da@example.com":                    "",
		"ada\xff@example.com":                    "",
		"ada@exa mple.com":                       "",
		strings.Repeat("a", 65) + "@example.com": "",
		"ada@" + strings.Repeat("a.", 130) + "example.com": "",
	} {
		got, ok := EmailKey(address)
		if got != want || ok != (want != "") {
			t.Errorf("%.60q: %q %v, want %q", address, got, ok, want)
		}
	}
}

func TestUsernameKey(t *testing.T) {
	for name, want := range map[string]string{
		"ada": "ada", "Ada": "ada", "ada.lovelace-1_x": "ada.lovelace-1_x", "Ÿves": "ÿves", "ｆｕｌｌ": "full", "élan": "élan", "e\u0301lan": "élan",
		"": "", "a b": "", "a@b": "", "a/b": "", ".ada": "", "-x": "", "a\nb": "", "a\u200bb": "", "a\u202eb": "", "<b>": "", "☃": "", "a\x00": "",
		strings.Repeat("a", 64): strings.Repeat("a", 64), strings.Repeat("a", 65): "",
	} {
		got, ok := UsernameKey(name)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", name, got, ok, want)
		}
	}
}

// The isemail collection: whatever its verdict, ours is stable, is a key that
// is its own key, and never holds what could break a header.
func TestEmailVectors(t *testing.T) {
	b, err := os.ReadFile(testkit.Vectors(t, "email/isemail_tests.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests []struct {
			Address string `xml:"address"`
		} `xml:"test"`
	}
	if err := xml.Unmarshal(b, &suite); err != nil || len(suite.Tests) < 100 {
		t.Fatalf("%d tests, %v", len(suite.Tests), err)
	}
	accepted := 0
	for _, c := range suite.Tests {
		if checkEmailKey(t, c.Address) {
			accepted++
		}
	}
	if accepted == 0 || accepted == len(suite.Tests) {
		t.Errorf("accepted %d of %d", accepted, len(suite.Tests))
	}
}

func checkEmailKey(t *testing.T, address string) bool {
	t.Helper()
	key, ok := EmailKey(address)
	if !ok {
		return false
	}
	if again, ok := EmailKey(key); !ok || again != key {
		t.Errorf("%q: its key %q has the key %q", address, key, again)
	}
	if strings.ContainsAny(key, "\r\n\x00 <>\",;") || strings.Count(key, "@") != 1 || !utf8.ValidString(key) {
		t.Errorf("%q: key %q", address, key)
	}
	return true
}

func FuzzEmailKey(f *testing.F) {
	for _, s := range []string{"ada@example.com", "ADA@Bücher.example", "İ@example.com", "ﬁ@example.com", "a@ß.de"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkEmailKey(t, s) })
}

func FuzzUsernameKey(f *testing.F) {
	for _, s := range []string{"ada", "Ÿ", "ｆ", "İ", "ǅ", "e\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, ok := UsernameKey(s)
		if !ok {
			return
		}
		if again, ok := UsernameKey(key); !ok || again != key {
			t.Errorf("%q: its key %q has the key %q %v", s, key, again, ok)
		}
	})
}
