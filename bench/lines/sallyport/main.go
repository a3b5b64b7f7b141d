// Command sallyport signs people in and protects three routes, with a role, a scope
// and a permission. bench/lines counts its lines beside others that do the same.
//
//	go run ./bench/lines/sallyport 127.0.0.1:8000 app.db
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

func main() {
	log.Fatal(run(context.Background(), os.Args[1], os.Args[2]))
}

func run(ctx context.Context, addr, file string) error {
	db, err := sqlite.Open(file)
	if err != nil {
		return err
	}
	defer db.Close()
	sp, err := server.New(ctx, server.Config{DB: db, BaseURL: "http://" + addr})
	if err != nil {
		return err
	}
	defer sp.Close()

	mux := sallyport.NewMux(sp)
	mux.HandleFunc("GET /admin", sallyport.Role("admin"), hello)
	mux.HandleFunc("GET /items", sallyport.Scope("read:items"), hello)
	mux.HandleFunc("POST /items", sallyport.Permission("write:items"), hello)
	mux.Mount("/", sp.Routes()) // /token and the rest

	if err := sp.Declare(ctx); err != nil {
		return err
	}
	link, err := sp.SetupLink(ctx) // where the first administrator is made
	if err != nil {
		return err
	}
	fmt.Println(link)
	return http.ListenAndServe(addr, sp.Guard(mux))
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "hello,", sallyport.From(r.Context()).ID())
}
