package account_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
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

// Accounts from a program's own code, with the rights of the operator.
func Example() {
	ctx := context.Background()
	sp, done := open()
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
