package account_test

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
)

// Accounts from a program's own code, with the rights of the operator.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	name := "ada"
	made, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{
		Username: &name, Email: "Ada@Example.com", Password: "wrong giraffe charger paperclip", EmailVerified: true,
	})
	if err != nil {
		panic(err)
	}
	found, err := sp.Accounts.Find(ctx, "ADA@example.com") // names and addresses compare without regard to case
	if err != nil {
		panic(err)
	}
	fmt.Println(found.ID == made.ID, found.Email, found.Roles)

	_, err = sp.Accounts.Create(ctx, role.Operator(), account.NewUser{Email: "grace@example.com", Password: "password1"})
	for _, f := range sallyport.AsError(err).Fields {
		fmt.Println(f.Pointer, f.Code)
	}

	operator := role.Operator()
	disabled := true
	if _, err := sp.Accounts.Update(ctx, &operator, made.ID, account.Change{Disabled: &disabled}); err != nil {
		panic(err)
	}
	found, err = sp.Accounts.Get(ctx, made.ID)
	fmt.Println(found.Disabled, err)
	// Output:
	// true Ada@Example.com [user]
	// /password common
	// true <nil>
}
