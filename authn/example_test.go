package authn_test

import (
	"fmt"
	"net/http/httptest"

	"github.com/sallyport/sallyport/authn"
)

// A browser sends its cookie with what any page asks for. What changes something must
// come from a page of one's own.
func ExampleSameOrigin_Restrict() {
	own, err := authn.NewSameOrigin("https://id.example.com", nil)
	if err != nil {
		panic(err)
	}
	ask := func(method, site string) {
		r := httptest.NewRequest(method, "https://id.example.com/users/me", nil)
		r.Header.Set("Sec-Fetch-Site", site)
		fmt.Println(method, site, own.Restrict(r) == nil)
	}
	ask("DELETE", "same-origin")
	ask("DELETE", "same-site") // a neighbour's page
	ask("DELETE", "cross-site")
	ask("GET", "cross-site")
	// Output:
	// DELETE same-origin true
	// DELETE same-site false
	// DELETE cross-site false
	// GET cross-site true
}

// The rule of what only a person may do, in a session of their own, soon after they
// have signed in.
func ExampleFreshSession() {
	fmt.Println(authn.FreshSession())
	// Output:
	// all(unscoped, via(bearer, cookie), fresh(10m0s))
}
