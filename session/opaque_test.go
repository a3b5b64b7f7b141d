package session

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestOpaqueTokensAreTheirOwn(t *testing.T) {
	id := uuid.Must(uuid.NewV7())
	for _, of := range []kind{accessKind, cookieKind} {
		text := testKey.opaque(of, id.String())
		if got, ok := testKey.read(of, text); !ok || got != id {
			t.Fatalf("%s: %v %v", of.prefix, got, ok)
		}
		if testKey.opaque(of, id.String()) == text {
			t.Errorf("%s: two tokens of a session are alike", of.prefix)
		}
		if _, ok := tokenKey(bytes.Repeat([]byte{8}, 32)).read(of, text); ok {
			t.Errorf("%s: another server's key reads it", of.prefix)
		}
	}
}

// A token of one kind is none of another, whatever prefix it is given.
func TestKindsAreApart(t *testing.T) {
	id := uuid.NewString()
	texts := map[string]string{
		accessKind.prefix: testKey.opaque(accessKind, id), cookieKind.prefix: testKey.opaque(cookieKind, id), refreshPrefix: testKey.first(id).String(),
	}
	for from, text := range texts {
		for to := range texts {
			given := to + strings.TrimPrefix(text, from)
			_, access := testKey.read(accessKind, given)
			_, cookie := testKey.read(cookieKind, given)
			_, refresh := testKey.parse(given)
			for name, got := range map[string]bool{accessKind.prefix: access, cookieKind.prefix: cookie, refreshPrefix: refresh} {
				if want := from == to && name == to; got != want {
					t.Errorf("%s given as %s is read as %s: %v, want %v", from, to, name, got, want)
				}
			}
		}
	}
}

// Every other spelling is refused: one token, one digest.
func TestForeignOpaqueTokens(t *testing.T) {
	good := testKey.opaque(accessKind, uuid.NewString())
	raw, err := base64.RawURLEncoding.DecodeString(good[len(accessKind.prefix):])
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, ok := testKey.read(accessKind, accessKind.prefix+base64.RawURLEncoding.EncodeToString(bad)); ok {
			t.Errorf("byte %d changed, and it was read", i)
		}
	}
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", good[len(good)-1])
	for name, text := range map[string]string{
		"empty": "", "prefix": accessKind.prefix, "no prefix": good[3:], "padding": good + "=", "line end": good + "\n", "line end inside": good[:20] + "\n" + good[21:],
		"case": strings.ToUpper(good), "prefix in capitals": "AT_" + good[3:], "longer": good + "AAAA", "shorter": good[:len(good)-4], "huge": accessKind.prefix + strings.Repeat("A", 1<<20),
		"other last bits": good[:len(good)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last^1]),
	} {
		if _, ok := testKey.read(accessKind, text); ok {
			t.Errorf("%s was read", name)
		}
	}
	if _, ok := testKey.read(accessKind, good); !ok {
		t.Error("the good one was not read")
	}
}

func FuzzReadOpaque(f *testing.F) {
	f.Add(testKey.opaque(accessKind, uuid.NewString()))
	f.Add(testKey.opaque(cookieKind, uuid.NewString()))
	f.Add("at_AQ")
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := testKey.read(accessKind, text)
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, accessKind.prefix))
		if ok && (err != nil || testKey.write(accessKind, id, [32]byte(raw[17:49])) != text) {
			t.Errorf("%q was read as of session %v", text, id)
		}
	})
}
