package sallyport_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sallyport/sallyport"
)

// A rule is data: it prints, decides, and says why.
func Example() {
	rule := sallyport.All(sallyport.Permission("delete:items"), sallyport.MFA())
	fmt.Println(rule)

	// The first door makes principals; here it is a test that does.
	ada := sallyport.NewPrincipal(
		sallyport.Claims{Subject: "ada", Kind: sallyport.KindBearer},
		sallyport.NewGrants([]string{"editor"}, []string{"delete:items"}))
	facts := &sallyport.Facts{Now: time.Now()}
	fmt.Println(rule.Allows(&ada, facts))
	for _, r := range rule.Explain(&ada, facts).Reasons {
		fmt.Printf("%t %s %q\n", r.Met, r.Rule, r.Need)
	}
	// Output:
	// all(permission(delete:items), mfa)
	// false
	// true permission(delete:items) ""
	// false mfa "a second factor"
}

// door is a Gate for the example. A service uses its server, which looks for
// credentials and decides the rule.
type door struct{}

func (door) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			sallyport.WriteError(w, sallyport.Unauthenticated())
		})
	}
}

// Every route has a rule, and the list of them is what is enforced.
func ExampleNewMux() {
	items := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "items of", sallyport.From(r.Context()).ID())
	}
	mux := sallyport.NewMux(door{})
	mux.HandleFunc("GET /items", sallyport.Scope("read:items"), items)
	mux.HandleFunc("DELETE /items/{id}", sallyport.All(sallyport.Role("admin"), sallyport.Fresh(10*time.Minute)), items)
	for _, r := range mux.Routes() {
		fmt.Println(r.Method, r.Path, r.Rule)
	}

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/items", nil))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	// Output:
	// GET /items scope(read:items)
	// DELETE /items/{id} all(role(admin), fresh(10m0s))
	// 401 application/problem+json
}
