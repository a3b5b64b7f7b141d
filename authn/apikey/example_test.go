package apikey_test

import (
	"fmt"

	"github.com/sallyport/sallyport/authn/apikey"
)

// A text that was cut off is told from a key without asking anybody, and a key
// does not print.
func ExampleParse() {
	key := apikey.Generate()
	text := key.Reveal() // this once, for whoever is to have it
	_, err := apikey.Parse(text[:40])
	fmt.Println(err)
	again, err := apikey.Parse(text)
	fmt.Println(again == key, err)
	fmt.Println(len(fmt.Sprint(key)) < len(text))
	// Output:
	// not an API key: another length
	// true <nil>
	// true
}

// A service's key for server.Config.APIKeys: the program that calls gets the
// key, the server's configuration the digest.
func ExampleNewStatic() {
	key := apikey.Generate()
	static := apikey.NewStatic("billing", key, []string{"read:users"})
	fmt.Println(static.Name, static.Scopes, len(static.Digest))
	fmt.Println(apikey.CheckStatics([]apikey.Static{static}))
	// Output:
	// billing [read:users] 64
	// []
}
