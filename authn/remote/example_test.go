package remote_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authn/token"
)

// A service that protects its routes with tokens of an issuer elsewhere. Here
// the issuer is made of its keys alone.
func Example() {
	key, err := token.Generate(token.EdDSA)
	if err != nil {
		panic(err)
	}
	keys, err := token.NewSet(key)
	if err != nil {
		panic(err)
	}
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(keys.JWKS())
	}))
	defer issuer.Close()

	verifier, err := remote.New(remote.Config{Issuer: issuer.URL})
	if err != nil {
		panic(err)
	}
	defer verifier.Close()
	mux := sallyport.NewMux(verifier)
	mux.HandleFunc("GET /items", sallyport.Scope("read:items"), func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", sallyport.From(r.Context()).ID())
	})
	mux.HandleFunc("DELETE /items", sallyport.Scope("write:items"), func(http.ResponseWriter, *http.Request) {})
	service := httptest.NewServer(mux)
	defer service.Close()

	now := time.Now()
	access, err := keys.Issue(token.Claims{
		Issuer: issuer.URL, Audience: []string{issuer.URL}, Subject: "ada", ID: "1", IssuedAt: now, Expires: now.Add(time.Minute),
		Scoped: true, Scope: []string{"read:items"},
	})
	if err != nil {
		panic(err)
	}
	for _, method := range []string{"GET", "DELETE"} {
		req, _ := http.NewRequest(method, service.URL+"/items", nil)
		req.Header.Set("Authorization", "Bearer "+access)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body = []byte(resp.Header.Get("WWW-Authenticate") + "\n")
		}
		fmt.Printf("%d %s", resp.StatusCode, body)
	}
	// Output:
	// 200 hello, ada
	// 403 Bearer realm="sallyport", error="insufficient_scope", scope="write:items"
}
