package main

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

func main() {
	db, err := sqlite.Open("sallyport.db") // made if it is not there
	if err != nil {
		log.Fatal(err)
	}
	cfg := server.Config{DB: db, BaseURL: "http://127.0.0.1:8080"}
	if err := server.Run(context.Background(), "127.0.0.1:8080", cfg, func(_ *server.Server, mux *sallyport.Mux) error {
		mux.HandleFunc("GET /hello", sallyport.SignedIn(), func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello,", sallyport.From(r.Context()).ID())
		})
		return nil
	}); err != nil {
		log.Fatal(err)
	}
}
