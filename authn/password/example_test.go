package password_test

import (
	"context"
	"fmt"
	"log"

	"github.com/sallyport/sallyport/authn/password"
)

// A sign-in: the same work whether or not there is an account, and a hash that
// came from elsewhere is replaced once the password is known to be right.
func ExampleHasher_Verify() {
	hasher, err := password.New(password.Config{})
	if err != nil {
		log.Fatal(err)
	}
	accounts := map[string]string{ // imported from Django
		"ada": "pbkdf2_sha256$10000$kjVJaVz6qsnJ$5yPHw3rwJGECpUf70daLGhOrQ5+AMxIJdz1c3bqK1Rs=",
	}
	signIn := func(ctx context.Context, name, pw string) error {
		stored, known := accounts[name]
		result, err := hasher.Verify(ctx, stored, pw) // "" for an unknown name costs the same
		if err != nil {
			return err // busy, or the caller has left
		}
		if !known || !result.OK {
			fmt.Println(name, "refused")
			return nil
		}
		if result.Upgrade {
			if accounts[name], err = hasher.Hash(ctx, pw); err != nil {
				return err
			}
		}
		fmt.Println(name, "signed in, upgraded:", result.Upgrade)
		return nil
	}

	for _, try := range [][2]string{
		{"bob", "not a password"},
		{"ada", "a wrong password"},
		{"ada", "not a password"},
		{"ada", "not a password"},
	} {
		if err := signIn(context.Background(), try[0], try[1]); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// bob refused
	// ada refused
	// ada signed in, upgraded: true
	// ada signed in, upgraded: false
}

func ExampleCheck() {
	for _, pw := range []string{"P@ssw0rd2026", "lovelace1815", "marzipan under the piano"} {
		if field := password.Check(pw, "ada", "ada.lovelace@example.com"); field != nil {
			fmt.Println(field.Code)
		} else {
			fmt.Println("accepted")
		}
	}
	// Output:
	// common
	// contains_name
	// accepted
}
