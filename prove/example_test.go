package prove_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/prove"
)

// A service documents that an operation needs a credential, and forgets to ask for one.
func Example() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "DELETE" { // the mistake: only GET looks
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer service.Close()
	document, err := prove.ReadDocument(strings.NewReader(`{
		"openapi": "3.1.0", "info": {"title": "Shop", "version": "1"},
		"components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
		"security": [{"bearer": []}],
		"paths": {"/orders/{id}": {
			"parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}],
			"get": {}, "delete": {}
		}}
	}`))
	if err != nil {
		panic(err)
	}
	cases, _ := prove.Plan(document, prove.Options{Sparing: true})
	base, err := url.Parse(service.URL)
	if err != nil {
		panic(err)
	}
	report, err := (&prove.Runner{Base: base}).Run(context.Background(), document, cases)
	if err != nil {
		panic(err)
	}
	fmt.Println(report.Operations, "operations")
	for _, d := range report.Differences {
		fmt.Printf("%s, %s: expected %s, got %s\n", d.Operation, d.Principal, d.Expected, d.Got)
	}
	// Output:
	// 2 operations
	// DELETE /orders/{id}, nobody: expected 401, got 404
	// DELETE /orders/{id}, a forged token: expected 401, got 404
	// DELETE /orders/{id}, a text that is no token: expected 401, got 404
	// DELETE /orders/{id}, a token with alg none: expected 401, got 404
}
