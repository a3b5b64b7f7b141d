package keyring_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// open returns a server on a database of its own, and what ends both.
func open(change ...func(*server.Config)) (sp *server.Server, done func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	db, err := sqlite.Open(filepath.Join(dir, "app.db"))
	if err != nil {
		panic(err)
	}
	cfg := server.Config{DB: db, BaseURL: "https://id.example.com"}
	for _, f := range change {
		f(&cfg)
	}
	if sp, err = server.New(context.Background(), cfg); err != nil {
		panic(err)
	}
	return sp, func() { sp.Close(); _ = db.Close(); _ = os.RemoveAll(dir) }
}

// Keys are replaced without a restart: the next one is published before it signs, and
// the one before is accepted until its last token has expired.
func Example() {
	ctx := context.Background()
	sp, done := open()
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
