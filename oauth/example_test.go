package oauth_test

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
)

// A program that acts for itself gets an access token by its own secret.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
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
