package page_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/page"
)

type position struct {
	At int64
	ID string
}

func TestCursors(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	want := position{42, "x"}
	c := page.Encode(key, "users", want)
	var got position
	if err := page.Decode(key, "users", c, &got); err != nil || got != want {
		t.Fatalf("%+v %v", got, err)
	}
	forged := base64.RawURLEncoding.EncodeToString(append(make([]byte, 12), `{"At":1,"ID":"y"}`...))
	for name, bad := range map[string]string{
		"forged": forged, "garbage": "!!", "empty tag": "AAAA", "cut": c[:len(c)-2], "longer": c + "AAAA", "huge": strings.Repeat("A", 1000), "another case": strings.ToLower(c),
	} {
		if err := page.Decode(key, "users", bad, &got); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := page.Decode(key, "sessions", c, &got); err == nil {
		t.Error("another list's cursor was accepted")
	}
	if err := page.Decode([]byte("another key"), "users", c, &got); err == nil {
		t.Error("another server's cursor was accepted")
	}
}
