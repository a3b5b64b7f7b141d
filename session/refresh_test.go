package session

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/uuid"
)

var testKey = tokenKey(bytes.Repeat([]byte{7}, 32))

func TestRefreshTokensAreTheirOwn(t *testing.T) {
	id := uuid.Must(uuid.NewV7()).String()
	first := testKey.first(id)
	got, ok := testKey.parse(first.String())
	if !ok || got.session.String() != id || got.generation != 0 || got.secret != first.secret {
		t.Fatalf("%v %v", got, ok)
	}
	next, again := first.successor(), got.successor()
	if next.String() != again.String() || next.generation != 1 || next.secret == first.secret {
		t.Error("the successor cannot be said again, or is the same")
	}
	if testKey.first(id).String() == first.String() {
		t.Error("two families begin alike")
	}
	if _, ok := tokenKey(bytes.Repeat([]byte{8}, 32)).parse(first.String()); ok {
		t.Error("another server's key reads it")
	}
}

// Every other spelling is refused: one token, one digest.
func TestForeignRefreshTokens(t *testing.T) {
	good := testKey.first(uuid.NewString()).String()
	raw, err := base64.RawURLEncoding.DecodeString(good[len(refreshPrefix):])
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, ok := testKey.parse(refreshPrefix + base64.RawURLEncoding.EncodeToString(bad)); ok {
			t.Errorf("byte %d changed, and it was read", i)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "prefix": refreshPrefix, "no prefix": good[3:], "padding": good + "=", "line end": good + "\n", "line end inside": good[:20] + "\n" + good[20:],
		"carriage return inside": good[:20] + "\r" + good[20:], "case": strings.ToUpper(good), "longer": good + "AAAA", "shorter": good[:len(good)-4],
		"huge": refreshPrefix + strings.Repeat("A", 1<<20), "standard alphabet": refreshPrefix + base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, refreshSize)),
	} {
		if _, ok := testKey.parse(text); ok {
			t.Errorf("%s was read", name)
		}
	}
	if _, ok := testKey.parse(good); !ok {
		t.Error("the good one was not read")
	}
}

func FuzzParseRefreshToken(f *testing.F) {
	f.Add(testKey.first(uuid.NewString()).String())
	f.Add("rt_AQ")
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := testKey.parse(text); ok && got.String() != text {
			t.Errorf("%q was read as %q", text, got)
		}
	})
}
