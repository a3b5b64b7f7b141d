package portal_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/web/portal"
)

// The pages stand beside the API that they speak. A program gets them with its server;
// here the API is made up.
func Example() {
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sallyport.WriteError(w, sallyport.Unauthenticated())
	})
	pages, err := portal.New(portal.Config{API: api, Service: "Example", Mail: true, Restrict: func(*http.Request) error { return nil }})
	if err != nil {
		panic(err)
	}
	mux := sallyport.NewMux(everybody{})
	pages.Routes(mux)
	for _, r := range mux.Routes() {
		if r.Method == "GET" {
			fmt.Println(r.Path, r.Rule)
		}
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "https://id.example.com/account/sign-in", nil))
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "<form"))
	// Output:
	// /.well-known/change-password public
	// /account/assets/{file} public
	// /account/forgot public
	// /account/invitation public
	// /account/link public
	// /account/password public
	// /account/request-link public
	// /account/reset public
	// /account/second-factor public
	// /account/sign-in public
	// /account/verify public
	// /account/{$} public
	// /account/{rest...} public
	// /console/setup public
	// 200 true
}

// everybody is a Gate that the pages, which are for everybody, are content with.
type everybody struct{}

func (everybody) Require(sallyport.Rule) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return next }
}

func (everybody) Open(next http.Handler) http.Handler { return next }
