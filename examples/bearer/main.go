// Command bearer is a service that accepts the access tokens of a Sallyport elsewhere,
// and has no database of its own: the rules and the verification, and nothing else.
//
//	go run ./examples/bearer https://id.example.com
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/remote"
)

func main() {
	verifier, err := remote.New(remote.Config{Issuer: os.Args[1]})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:9000", handler(verifier)))
}

// handler is the whole service.
func handler(gate sallyport.Gate) http.Handler {
	mux := sallyport.NewMux(gate)
	mux.HandleFunc("GET /items", sallyport.Scope("read:items"), hello)
	mux.HandleFunc("DELETE /items/{id}", sallyport.All(sallyport.Role("admin"), sallyport.MFA()), hello)
	return mux
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "hello,", sallyport.From(r.Context()).ID())
}
