package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// address answers with the client's address, as limits and the log have it, and
// whether it came over HTTPS.
func address(w http.ResponseWriter, r *http.Request) {
	c := reqctx.From(r.Context())
	fmt.Fprint(w, c.Address(), " ", c.HTTPS())
}

// A handler behind the wall that sends requests of its own through it, several at
// once, stays whose it is, and each of them is its own sender's.
func TestH_GuardInGuardAtOnce(t *testing.T) {
	for _, gated := range []bool{false, true} {
		t.Run(fmt.Sprintf("gated %v", gated), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), func(w *world) {
				w.mux.HandleFunc("GET /address", sallyport.Public(), address)
			}, limited(server.Limits{Default: "1000/hour"}))
			inner := w.sv.Guard(w.mux)
			outer := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				id := rw.Header().Get("X-Request-Id")
				parallel(20, func(i int) {
					sub := httptest.NewRequest("GET", "/address", nil).WithContext(r.Context())
					sub.RemoteAddr = fmt.Sprintf("203.0.113.%d:4711", i)
					rec := httptest.NewRecorder()
					inner.ServeHTTP(rec, sub)
					if got, want := rec.Body.String(), fmt.Sprintf("203.0.113.%d false", i); rec.Code != 200 || got != want {
						t.Errorf("a request within is %d %q, want %q", rec.Code, got, want)
					}
					if got := rec.Header().Get("X-Request-Id"); got != id {
						t.Errorf("a request within has the id %q, want %q", got, id)
					}
				})
				address(rw, r)
			})
			h := http.Handler(outer)
			if gated {
				h = w.sv.Require(sallyport.Public())(outer)
			}
			srv := httptest.NewServer(w.sv.Guard(h))
			t.Cleanup(srv.Close)
			v := w.at("127.0.80.1")
			v.host = srv.Listener.Addr().String()
			if got := string(v.send(w.request("GET", "/", "", nil)).want(t, 200, "").body); got != "127.0.80.1 false" {
				t.Errorf("afterwards the handler's own request is %q", got)
			}
		})
	}
}

// Two servers, one mounted in the other: each has the address that its own
// configuration finds, whichever is outside, and limits by it.
func TestH_ServerInServer(t *testing.T) {
	t.Parallel()
	proxies := func(c *server.Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.81.1/32")} }
	for name, tt := range map[string]struct {
		outer, inner func(*server.Config)
		wantInner    string
	}{
		"the inner one knows the proxy": {func(*server.Config) {}, proxies, "203.0.113.1 true"},
		"the outer one knows the proxy": {proxies, func(*server.Config) {}, "127.0.81.1 false"},
		"both do":                       {proxies, proxies, "203.0.113.1 true"},
	} {
		t.Run(name, func(t *testing.T) {
			in := newWorld(t, testkit.SQLite(t), func(w *world) {
				w.mux.HandleFunc("GET /address", sallyport.SignedIn(), address)
			}, tt.inner)
			_, tk := in.user("ada")
			after := make(chan string, 10)
			inner := in.sv.Guard(in.mux)
			out := newWorld(t, testkit.SQLite(t), func(w *world) {
				w.mux.Open("GET /", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					inner.ServeHTTP(rw, r)
					rec := httptest.NewRecorder()
					address(rec, r)
					after <- rec.Body.String()
				}))
			}, tt.outer)
			req := out.request("GET", "/address", tk.access, nil)
			req.Header.Set("X-Forwarded-For", "203.0.113.1")
			req.Header.Set("X-Forwarded-Proto", "https")
			r := out.at("127.0.81.1").send(req).want(t, 200, "")
			if string(r.body) != tt.wantInner {
				t.Errorf("inside it is %q, want %q", r.body, tt.wantInner)
			}
			want := "127.0.81.1 false"
			if strings.HasPrefix(name, "the outer") || strings.HasPrefix(name, "both") {
				want = "203.0.113.1 true"
			}
			if got := <-after; got != want {
				t.Errorf("outside it is %q afterwards, want %q", got, want)
			}
			// A token of the inner one is nobody's at the outer one, and opens the inner.
			out.do("GET", "/users/me", tk.access, nil).want(t, 401, "invalid_token")
			out.do("GET", "/address", "", nil).want(t, 401, "unauthenticated")
		})
	}
}
