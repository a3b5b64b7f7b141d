package server_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// A policy about a route holds on every way to it: under an alias, by HEAD, and where
// the Mux was mounted.
func TestA_PoliciesAboutARouteHoldOnEveryWayToIt(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		ok := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
		w := newWorld(t, d, func(w *world) {
			comments(w)
			w.mux.Alias("DELETE /c/{id}", "DELETE /comments/{id}")
			w.mux.Alias("DELETE /k/{id}", "DELETE /c/{id}") // of the alias
			w.mux.Handle("/any/{id}", sallyport.Permission("delete:comments"), ok)
			sub := sallyport.NewMux(w.sv)
			sub.Handle("DELETE /notes/{id}", sallyport.Permission("delete:comments"), ok)
			sub.Alias("DELETE /n/{id}", "DELETE /notes/{id}")
			w.mux.Mount("/sub", sub)
		})
		_, admin := w.user("root", "admin")
		all := []string{
			"DELETE /comments/1", "DELETE /c/1", "DELETE /k/1", "DELETE /sub/notes/1", "DELETE /sub/n/1",
			"GET /any/1", "HEAD /any/1", "POST /any/1",
		}
		for policy, closed := range map[string][]string{
			`resource == Route::"DELETE /comments/{id}")`:  {"DELETE /comments/1", "DELETE /c/1", "DELETE /k/1"},
			`resource == Route::"DELETE /sub/notes/{id}")`: {"DELETE /sub/notes/1", "DELETE /sub/n/1"},
			`resource) when { context.method == "GET" }`:   {"GET /any/1", "HEAD /any/1"},
		} {
			text := `forbid(principal, action == Action::"delete:comments", ` + policy + ";"
			w.policy(admin.access, "closed", text)
			for _, call := range all {
				status := http.StatusNoContent
				if slices.Contains(closed, call) {
					status = http.StatusForbidden
				}
				method, path, _ := strings.Cut(call, " ")
				if r := w.do(method, path, admin.access, nil); r.status != status {
					t.Errorf("%s\n%s: %d, want %d", text, call, r.status, status)
				}
			}
		}
	})
}
