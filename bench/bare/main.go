// Command bare answers GET /users/me with the bytes of a file and nothing else:
// what net/http alone costs, to measure the server against.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` to listen on")
	file := flag.String("body", "", "`file` with the answer's body")
	flag.Parse()
	body, err := os.ReadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/me", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
	// The same with the headers that every answer of the server has.
	mux.HandleFunc("GET /headers", func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["X-Request-Id"] = []string{"00000000000000000000000000"}
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["Referrer-Policy"] = []string{"no-referrer"}
		h["Content-Security-Policy"] = []string{"default-src 'none'; frame-ancestors 'none'"}
		h.Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
	log.Fatal(http.ListenAndServe(*listen, mux))
}
