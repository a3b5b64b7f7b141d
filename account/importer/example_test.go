package importer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/account/importer"
	"github.com/sallyport/sallyport/internal/testkit/sample"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// The table of another system becomes accounts, passwords included.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	file := filepath.Join(sp.DB.Dir(), "users.csv")
	if err := os.WriteFile(file, []byte(`id,email,hashed_password,is_active,is_superuser,is_verified
1,ada@example.com,$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW,true,false,true
2,grace@example.com,plain text,true,false,true
`), 0o600); err != nil {
		panic(err)
	}
	service := &importer.Service{DB: sp.DB}
	result, err := service.Import(ctx, importer.Options{Source: importer.FastAPIUsers, File: file}, importer.Watch{
		Note: func(n importer.Note) error {
			fmt.Println("line", n.Line, n.Kind)
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(result.State, result.Records, result.Imported, result.Refused)
	_, err = sp.SignIn.Password(ctx, signin.Attempt{Login: "ada@example.com", Password: "U*U", Client: session.FirstParty})
	fmt.Println("signs in with the old password:", err == nil)
	// Output:
	// line 3 hash_refused
	// done 2 1 1
	// signs in with the old password: true
}
