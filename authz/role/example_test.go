package role_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
)

// Roles that a program has in its code, and what somebody holds through them.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	sallyport.NewMux(sp).HandleFunc("PUT /items/{id}", sallyport.Permission("write:items"), http.NotFound)
	for _, r := range []role.Role{
		{Name: "editor", Includes: []string{role.User}, Permissions: []string{"write:items"}},
		{Name: "chief", Includes: []string{"editor"}, Permissions: []string{"write:itmes"}},
	} {
		if err := sp.PutRole(ctx, r); err != nil {
			fmt.Println(r.Name, "refused:", sallyport.AsError(err).Code)
		}
	}
	ada, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{
		Email: "ada@example.com", Password: "wrong giraffe charger paperclip", Roles: []string{"editor"},
	})
	if err != nil {
		panic(err)
	}
	grants, err := role.GrantsOf(sp.DB.View(ctx), ada.ID)
	if err != nil {
		panic(err)
	}
	fmt.Println(grants.Roles(), "/", grants.Permissions())
	// Output:
	// chief refused: validation_failed
	// editor guest user / write:items
}
