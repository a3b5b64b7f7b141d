package server_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// Another service, which asks this server about every credential: it decides by
// the same rules, and what ends or changes here holds there within its MaxAge.
func TestAnotherServiceThatIntrospects(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"jwt", "opaque"} {
		t.Run(format, func(t *testing.T) {
			testkit.EachDB(t, func(t *testing.T, d *db.DB) {
				w := newWorld(t, d, nil, func(c *server.Config) { c.TokenFormat = session.Format(format) })
				w.define("reader", "read:items")
				asker := w.register("asker")
				w.define("introspector", "introspect:tokens")
				w.grant(asker, "introspector")
				_, key, err := w.sv.APIKeys.Create(t.Context(), apikey.NewKey{Owner: asker, Name: "orders", Scopes: []string{"introspect:tokens"}})
				if err != nil {
					t.Fatal(err)
				}
				const maxAge = 200 * time.Millisecond
				verifier, err := remote.New(remote.Config{
					Issuer: baseURL, JWKSURL: w.http.URL + "/.well-known/jwks.json", DangerouslyPlainHTTP: true,
					Introspection: &remote.Introspection{URL: w.http.URL + "/token/introspect", APIKey: key.Reveal(), MaxAge: maxAge},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer verifier.Close()
				mux := sallyport.NewMux(verifier)
				mux.HandleFunc("GET /items", sallyport.Permission("read:items"), func(w http.ResponseWriter, r *http.Request) {
					_, _ = w.Write([]byte(sallyport.From(r.Context()).ID()))
				})
				orders := httptest.NewServer(mux)
				defer orders.Close()
				ask := func(header, value string) (int, string) {
					r, err := http.NewRequestWithContext(t.Context(), "GET", orders.URL+"/items", nil)
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set(header, value)
					res := w.send(r)
					return res.status, string(res.body)
				}
				id, tk := w.user("ada")
				bearer := "Bearer " + tk.access
				want := func(status int) {
					t.Helper()
					time.Sleep(maxAge)
					if got, body := ask("Authorization", bearer); got != status || status == 200 && body != id {
						t.Fatalf("status %d, want %d: %s", got, status, body)
					}
				}
				want(403)
				w.grant(id, "reader")
				want(200)
				scoped := w.signIn("ada", goodPassword, "scope", "read:items").access
				narrow := w.signIn("ada", goodPassword, "scope", "role:user").access
				if got, body := ask("Authorization", "Bearer "+scoped); got != 200 {
					t.Errorf("scoped to it: %d %s", got, body)
				}
				if got, body := ask("Authorization", "Bearer "+narrow); got != 403 {
					t.Errorf("scoped to something else: %d %s", got, body)
				}
				_, own, err := w.sv.APIKeys.Create(t.Context(), apikey.NewKey{Owner: id, Name: "hers", Scopes: []string{"read:items"}})
				if err != nil {
					t.Fatal(err)
				}
				if got, body := ask("X-API-Key", own.Reveal()); got != 200 || body != id {
					t.Errorf("with her API key: %d %s", got, body)
				}
				w.do("POST", "/logout", tk.access, nil).want(t, 200, "")
				want(401)
				if got, body := ask("Authorization", "Bearer "+scoped); got != 200 {
					t.Errorf("her other session: %d %s", got, body)
				}
			})
		})
	}
}
