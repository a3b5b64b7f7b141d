package role_test

import (
	"context"
	"fmt"
	"net/http"
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

// Roles that a program has in its code, and what somebody holds through them.
func Example() {
	ctx := context.Background()
	sp, done := open()
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
