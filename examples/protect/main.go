// Command protect is a small service that exists already, protected by
// Sallyport: plain routes with rules, typed operations, and a router of its own
// behind ordinary middleware. All of it is one process and one database file.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, "127.0.0.1:8080", "app.db"); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, file string) error {
	db, err := sqlite.Open(file) // made if it is not there; its folder must be
	if err != nil {
		return err
	}
	defer db.Close()
	sp, err := server.New(ctx, server.Config{DB: db, BaseURL: "http://" + addr, Log: slog.Default()})
	if err != nil {
		return err
	}
	defer sp.Close()
	h := handler(sp, new(items))
	if err := sp.Declare(ctx); err != nil { // the permissions that rules name can be granted from now on
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return server.Serve(ctx, ln, h, slog.Default()) // with time limits; what has begun is answered at the end
}

// handler is the whole service.
func handler(sp *server.Server, all *items) http.Handler {
	// 1. Plain routes. A route without a rule does not compile; with the zero
	// Rule it panics here, before the service listens.
	mux := sallyport.NewMux(sp)
	mux.HandleFunc("GET /hello", sallyport.Public(), hello)
	mux.HandleFunc("DELETE /items/{id}",
		sallyport.All(sallyport.Permission("write:items"), sallyport.Fresh(15*time.Minute)), all.remove)

	// 2. Typed operations: validated, documented at /docs, and enforced by one
	// declaration. They are added before Routes is mounted, which closes it.
	api.Get(sp.API(), "/items", sallyport.Scope("read:items"), all.list,
		api.Doc("Items", "List items", "In order of creation."))
	api.Post(sp.API(), "/items", sallyport.Permission("write:items"), all.add,
		api.Doc("Items", "Add an item", "The caller becomes its owner."), api.Status(http.StatusCreated))
	mux.Mount("/", sp.Routes()) // /token, /users/me, /docs …

	// 3. A router of another kind: ordinary middleware.
	reports := http.NewServeMux()
	reports.Handle("GET /reports/daily", sp.Require(sallyport.Role("admin"))(http.HandlerFunc(all.report)))

	whole := http.NewServeMux()
	whole.Handle("/reports/", reports)
	whole.Handle("/", mux)
	return sp.Guard(whole) // the wall: hosts, origins, limits, headers, request ids, the log
}

func hello(w http.ResponseWriter, r *http.Request) {
	if p := sallyport.From(r.Context()); !p.Anonymous() {
		fmt.Fprintln(w, "hello,", p.ID())
		return
	}
	fmt.Fprintln(w, "hello, stranger")
}

type item struct {
	ID    int    `json:"id"`
	Name  string `json:"name"`
	Owner string `json:"owner" doc:"Id of the account that added it"`
}

type items struct {
	mu   sync.Mutex
	last int
	all  []item
}

type listInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

func (s *items) list(_ context.Context, in *listInput) (*api.Body[api.Page[item]], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &api.Body[api.Page[item]]{Body: api.NewPage(slices.Clone(s.all[:min(in.Limit, len(s.all))]), "")}, nil
}

type addInput struct {
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"100"`
	}
}

func (s *items) add(ctx context.Context, in *addInput) (*api.Body[item], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	it := item{ID: s.last, Name: in.Body.Name, Owner: sallyport.From(ctx).ID()}
	s.all = append(s.all, it)
	return &api.Body[item]{Body: it}, nil
}

func (s *items) remove(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.all, func(it item) bool { return strconv.Itoa(it.ID) == r.PathValue("id") })
	// The rule has said who may call this. Whose item it is, is for the
	// handler; another's is answered as one that does not exist.
	if i < 0 || s.all[i].Owner != sallyport.From(r.Context()).ID() {
		sallyport.WriteError(w, sallyport.NotFound("item"))
		return
	}
	s.all = slices.Delete(s.all, i, i+1)
	w.WriteHeader(http.StatusNoContent)
}

func (s *items) report(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(w, "items:", len(s.all))
}
