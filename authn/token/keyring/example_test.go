package keyring_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/testkit/sample"
)

// Keys are replaced without a restart: the next one is published before it signs, and
// the one before is accepted until its last token has expired.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	show := func() {
		keys, err := sp.Keys.List(ctx)
		if err != nil {
			panic(err)
		}
		var states []string
		for _, k := range keys {
			states = append(states, string(k.State))
		}
		slices.Sort(states)
		fmt.Println(states)
	}
	show()
	active, err := sp.Keys.Rotate(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println(active.Alg, active.State)
	show()
	// Output:
	// [active next]
	// EdDSA active
	// [active next retiring]
}
