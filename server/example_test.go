package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// A service that exists is protected: its route beside the server's, within the wall.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server(func(cfg *server.Config) { cfg.Hosts = []string{"127.0.0.1"}; cfg.BaseURL = "http://id.example.com" })
	defer done()
	mux := sallyport.NewMux(sp)
	mux.HandleFunc("GET /hello", sallyport.SignedIn(), func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", sallyport.From(r.Context()).Kind())
	})
	mux.Mount("/", sp.Routes()) // /token, /users/me, /docs …
	service := httptest.NewServer(sp.Guard(mux))
	defer service.Close()

	const pw = "wrong giraffe charger paperclip"
	if _, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{Email: "ada@example.com", Password: pw}); err != nil {
		panic(err)
	}
	tokens, err := sp.SignIn.Password(ctx, signin.Attempt{Login: "ada@example.com", Password: pw, Client: session.FirstParty})
	if err != nil {
		panic(err)
	}
	for _, credential := range []string{"", "Bearer " + tokens.Access} {
		req, _ := http.NewRequest("GET", service.URL+"/hello", nil)
		req.Header.Set("Authorization", credential)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		fmt.Println(res.StatusCode, res.Header.Get("WWW-Authenticate"))
		_ = res.Body.Close()
	}
	// Output:
	// 401 Bearer realm="sallyport"
	// 200
}

// All mistakes of a configuration are reported at once, each with what would be right.
func ExampleNew() {
	_, err := server.New(context.Background(), server.Config{BaseURL: "id.example.com", AccessTTL: time.Second})
	for _, mistake := range sallyport.Mistakes(err) {
		fmt.Println(mistake.Key)
	}
	// Output:
	// database
	// base_url
	// tokens.access_ttl
	// hosts.allowed
}
