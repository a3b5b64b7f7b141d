package forward_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/forward"
)

// everybody is a gate that knows nobody and lets everybody pass; a server has
// authn.Gate.
type everybody struct{}

func (everybody) Require(sallyport.Rule) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return h }
}

// A proxy asks whether a request may pass. What the service is told of its caller is
// whole, also where it is empty: nobody's own headers are left standing.
func Example() {
	door, err := forward.New(forward.Config{
		Issuer: "https://id.example.com",
		Ask: func(rule sallyport.Rule) (func(http.Handler) http.Handler, error) {
			fmt.Println("asked for", rule)
			return everybody{}.Require(rule), nil
		},
		FromProxy: func(r *http.Request) bool { return r.RemoteAddr == "192.0.2.1:1234" },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := sallyport.NewMux(everybody{})
	door.Routes(mux)

	question := httptest.NewRequest("GET", "/forward-auth/nginx?require=all(role(admin),mfa)", nil)
	question.Header.Set("X-Original-Method", "POST")
	question.Header.Set("X-Original-URI", "/orders")
	question.Header.Set("X-Forwarded-Host", "app.example.com")
	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, question)
	_, told := answer.Header()["X-Sallyport-Subject"]
	fmt.Println(answer.Code, told, len(forward.IdentityHeaders))
	// Output:
	// asked for all(role(admin), mfa)
	// 200 true 10
}
