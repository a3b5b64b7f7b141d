package link_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/store/sqlite"
)

// A token goes into a letter, is stored as a digest, and is good once, for one thing.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	d, err := sqlite.Open(filepath.Join(dir, "app.db"))
	if err != nil {
		panic(err)
	}
	defer d.Close()
	ctx := context.Background()
	if _, err := d.Migrate(ctx); err != nil {
		panic(err)
	}
	links := link.New(link.Config{Key: []byte("a secret of the server")})

	secret := link.Make(link.Registration) // before the transaction, which may run twice
	write := func(fn func(tx *db.Tx) error) {
		if err := d.Write(ctx, fn); err != nil {
			panic(err)
		}
	}
	write(func(tx *db.Tx) error {
		_, err := links.Store(tx, secret, link.Grant{Address: "ada@example.com", Payload: "ada"}, link.MaxLife)
		return err
	})
	fmt.Println("printed:", secret)
	for _, p := range []link.Purpose{link.Reset, link.Registration, link.Registration} {
		write(func(tx *db.Tx) error {
			g, ok, err := links.Use(tx, p, secret.Token)
			fmt.Printf("%s %t %q\n", p, ok, g.Payload)
			return err
		})
	}
	// Output:
	// printed: registration token
	// reset false ""
	// registration true "ada"
	// registration false ""
}
