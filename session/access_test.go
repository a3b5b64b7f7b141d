package session

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
)

func TestVerifiedCache(t *testing.T) {
	now := time.Now()
	c := newVerifiedCache()
	set, other := new(token.Set), new(token.Set)
	text := "header.payload." + strings.Repeat("s", 86)
	v := authn.Verified{Claims: sallyport.Claims{Subject: "ada", Expires: now.Add(time.Minute)}, KeyID: "k"}
	c.put(text, set, v)
	if got, ok := c.get(text, set, now); !ok || got.Subject != "ada" || got.KeyID != "k" {
		t.Fatalf("not found: %+v %v", got, ok)
	}
	for name, ok := range map[string]bool{
		"another payload":   found(c, "header.forged."+strings.Repeat("s", 86), set, now),
		"another signature": found(c, text[:len(text)-1]+"t", set, now),
		"cut":               found(c, text[1:], set, now),
		"too short":         found(c, "short", set, now),
		"empty":             found(c, "", set, now),
		"other keys":        found(c, text, other, now),
		"expired":           found(c, text, set, now.Add(time.Minute)),
	} {
		if ok {
			t.Errorf("%s was found", name)
		}
	}
	// The same hash is not enough: the end of the token is compared too.
	for hash, p := range c.m {
		p.end[0] ^= 1
		c.m[hash] = p
	}
	if found(c, text, set, now) {
		t.Error("found by its hash alone")
	}
	c.put(text, other, v)
	if len(c.m) != 1 || found(c, text, set, now) || !found(c, text, other, now) {
		t.Error("what was proven with other keys is kept")
	}
	names := strings.Fields(strings.Repeat("x ", 3) + "a b c d e f g h i")
	v.Scopes = sallyport.NewSet(names...)
	c.put("long"+text, other, v)
	if found(c, "long"+text, other, now) {
		t.Error("a token with a long scope takes room")
	}
}

func found(c *verifiedCache, text string, set *token.Set, now time.Time) bool {
	_, ok := c.get(text, set, now)
	return ok
}
