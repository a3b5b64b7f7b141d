package oauth_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/authz/role"
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

// A program that acts for itself gets an access token by its own secret.
func Example() {
	ctx := context.Background()
	sp, done := open()
	defer done()
	made, err := sp.Clients.Create(ctx, role.Operator(), "nightly report", []string{"read:users"}, nil)
	if err != nil {
		panic(err)
	}
	// As POST /token does for grant_type=client_credentials.
	tokens, err := sp.Clients.Grant(ctx, made.ID, made.Secret, true, []string{"read:users"})
	if err != nil {
		panic(err)
	}
	fmt.Println(tokens.Scope, tokens.ExpiresIn, tokens.Refresh == "")

	err = sp.Clients.Authenticate(ctx, made.ID, made.Secret+"x")
	fmt.Println(err == nil)
	if err := sp.Clients.SetDisabled(ctx, role.Operator(), made.ID, true); err != nil {
		panic(err)
	}
	err = sp.Clients.Authenticate(ctx, made.ID, made.Secret)
	fmt.Println(err == nil)
	// Output:
	// [read:users] 15m0s true
	// false
	// false
}
