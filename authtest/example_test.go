package authtest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authtest"
	"github.com/sallyport/sallyport/server"
)

// routes is the service that the examples test.
func routes(sp *server.Server) *sallyport.Mux {
	mux := sallyport.NewMux(sp)
	mux.HandleFunc("GET /items", sallyport.Scope("read:items"), list)
	mux.HandleFunc("DELETE /items/{id}", sallyport.All(sallyport.Role("admin"), sallyport.Fresh(10*time.Minute)), list)
	mux.Mount("/", sp.Routes())
	return mux
}

func list(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "items of %s\n", sallyport.From(r.Context()).ID())
}

var t *testing.T // of the test that an example stands for

// A test of the whole service over HTTP, signed in as three people.
func Example() {
	sp := authtest.New(t)
	sp.Serve(sp.Guard(routes(sp.Server)))

	reader := sp.SignIn("ada", authtest.Permissions("read:items"))
	reader.Call("GET", "/items", nil).Want(200, "")
	reader.Call("DELETE", "/items/1", nil).Want(403, "insufficient_permission")

	admin := sp.SignIn("grace", authtest.Roles("admin"))
	admin.Call("DELETE", "/items/1", nil).Want(200, "")
	sp.Clock.Advance(11 * time.Minute)
	admin.Call("DELETE", "/items/1", nil).Want(401, "insufficient_user_authentication")

	sp.Anonymous().Call("GET", "/items", nil).Want(401, "unauthenticated")
}

// A handler alone: no server, no database, no gate.
func ExampleRequest() {
	w := httptest.NewRecorder()
	list(w, authtest.Request(authtest.Principal("ada"), "GET", "/items", nil))
	fmt.Print(w.Body)
	// Output: items of ada
}

// Who may do what, without a request.
func ExampleAssertRefuses() {
	mux := routes(authtest.New(t).Server)

	authtest.AssertRule(t, mux, "GET /items", sallyport.Scope("read:items"))

	admin := authtest.Roles("admin")
	authtest.AssertAllows(t, mux, "DELETE /items/{id}", authtest.Principal("grace", admin))
	authtest.AssertRefuses(t, mux, "DELETE /items/{id}", authtest.Principal("grace", admin, authtest.Ago(time.Hour)))
	authtest.AssertRefuses(t, mux, "DELETE /items/{id}", authtest.Principal("ada"))
}
