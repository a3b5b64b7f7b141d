// Command bare is the service of examples/bearer without protection, to weigh it.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	log.Fatal(http.ListenAndServe("127.0.0.1:9000", handler(os.Args[1])))
}

func handler(name string) http.Handler {
	mux := http.NewServeMux()
	hello := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello,", name) }
	mux.HandleFunc("GET /items", hello)
	mux.HandleFunc("DELETE /items/{id}", hello)
	return mux
}
