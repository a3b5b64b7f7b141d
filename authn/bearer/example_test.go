package bearer_test

import (
	"fmt"
	"net/http/httptest"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/bearer"
)

// How a request carries an access token, and what a refusal asks for.
func Example() {
	r := httptest.NewRequest("GET", "/items", nil)
	_, found, err := bearer.Read(r)
	fmt.Println(found, err)
	fmt.Println(bearer.Challenge(sallyport.Unauthenticated()))

	r.Header.Set("Authorization", "Bearer eyJhbGciOi")
	token, found, err := bearer.Read(r)
	fmt.Println(token, found, err)
	fmt.Println(bearer.Challenge(bearer.Invalid()))

	r.Header.Add("Authorization", "Bearer another")
	_, _, err = bearer.Read(r)
	fmt.Println(err)
	// Output:
	// false <nil>
	// Bearer realm="sallyport"
	// eyJhbGciOi true <nil>
	// Bearer realm="sallyport", error="invalid_token"
	// several_credentials: The request has more than one Authorization header. Send exactly one.
}
