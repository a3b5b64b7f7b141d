package token_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/authn/token"
)

// One id in 32 would begin with "-" or "_": of 300, about nine.
func TestGeneratedIDsAreNoFlags(t *testing.T) {
	for range 300 {
		k, err := token.Generate(token.EdDSA)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(k.ID()[:1], "-_") {
			t.Fatalf("id %s", k.ID())
		}
	}
}
