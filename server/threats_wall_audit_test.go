package server_test

import (
	"net/http"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// What a limit refuses is an event, with the limit's name, once a minute however
// many come; what it lets pass is none.
func TestQ_RefusalsAreAudited(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("GET /dear", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
				sallyport.Limit{Rate: "2/hour", Name: "dear"})
		}, noLockout, func(c *server.Config) {
			c.Limits = server.Limits{Default: "1000/second", Login: "3/hour", Guesses: "3/hour"}
		})
		_, tk := w.user("ada")
		for i := range 6 {
			want := 204
			if i >= 2 {
				want = 429
			}
			w.do("GET", "/dear", tk.access, nil).want(t, want, "")
		}
		for i := range 6 {
			want := 401
			if i >= 3 {
				want = 429
			}
			w.do("GET", "/users/me", "at_"+string(rune('a'+i)), nil).want(t, want, "")
		}
		for range 6 {
			w.do("POST", "/auth/login", "", map[string]any{"username": "ada", "password": "wrong"})
		}
		limits := map[string]int{}
		for _, e := range w.events("limit.exceeded", 3) {
			limits[e.Detail["limit"]]++
			if e.Result != audit.Denied || e.Address != "127.0.0.1" || e.RequestID == "" {
				t.Errorf("%+v", e)
			}
		}
		if limits["dear"] != 1 || limits["guesses"] != 1 || limits["sign-in"] != 1 || len(limits) != 3 {
			t.Errorf("events: %v", limits)
		}
	})
}
