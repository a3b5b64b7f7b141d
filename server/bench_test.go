package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/guard/headers"
	"github.com/sallyport/sallyport/guard/host"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// These run in one process and without a network: what is measured is ours.
// bench/run measures whole servers. Times depend on the machine; what must not
// get worse is said as allocations and ratios.

// benchServer returns a server on SQLite, its handler with a route of a
// service's own, and ada's account. Limits are off where they are not what is
// measured: requests come from few addresses, as quickly as they are answered.
func benchServer(b *testing.B, hashes password.Config, limits server.Limits, change ...func(*server.Config)) (*server.Server, http.Handler, signin.Attempt) {
	b.Helper()
	cfg := server.Config{
		DB: testkit.SQLite(b), BaseURL: baseURL, MasterKeyFile: filepath.Join(b.TempDir(), "master.key"), Password: hashes,
		Hosts: testHosts, Limits: limits, NoLockout: true,
	}
	for _, f := range change {
		f(&cfg)
	}
	sv, err := server.New(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(sv.Close)
	mux := sallyport.NewMux(sv)
	mux.HandleFunc("GET /items", sallyport.Any(sallyport.Role("user"), sallyport.Permission("read:items")), items)
	mux.Mount("/", sv.Routes())
	name := "ada"
	if _, err := sv.Accounts.Register(b.Context(), account.NewUser{Username: &name, Email: "ada@example.com", Password: goodPassword}); err != nil {
		b.Fatal(err)
	}
	return sv, sv.Guard(mux), signin.Attempt{Login: name, Password: goodPassword, Client: session.FirstParty}
}

// items answers with as many bytes as /users/me does, about.
func items(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(itemsBody)
}

var itemsBody = []byte(`{"items":["` + strings.Repeat("x", 330) + `"]}`)

// discard is a response that nobody reads.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

// Requests through Guard, Mux, gate and rule, beside the same bytes from a bare
// handler. “gate” is a handler behind Require alone: authentication, rule and
// context, to be compared with “handler”, the same without.
//
// Must not get worse: the gate costs 2 allocations and about 400 ns more than the
// handler, half of it the request's copy and its context; 4 allocs/op for a route
// of a service's own, 3 for /users/me; and with an API key not more than with an
// access token. The limit on all requests of an address (“limited” beside
// “route”, and “limit” in turns) costs at most 150 ns and no allocation.
func BenchmarkRequest(b *testing.B) {
	sv, h, ada := benchServer(b, weakHashes, noLimits)
	tk, err := sv.SignIn.Password(b.Context(), ada)
	if err != nil {
		b.Fatal(err)
	}
	// So high that none of the addresses below comes near it.
	limitedServer, limited, _ := benchServer(b, weakHashes, server.Limits{Default: "1000000/second", Login: server.LimitOff})
	limitedTk, err := limitedServer.SignIn.Password(b.Context(), ada)
	if err != nil {
		b.Fatal(err)
	}
	var peers, peers6 [64]string
	for i := range peers {
		peers[i] = fmt.Sprintf("192.0.2.%d:1234", 100+i)
		peers6[i] = fmt.Sprintf("[2001:db8:85a3:%x:1319:8a2e:370:7348]:1234", 0x1000+i)
	}
	bare := http.NewServeMux()
	bare.HandleFunc("GET /items", items)
	me, err := sv.Accounts.Find(b.Context(), "ada")
	if err != nil {
		b.Fatal(err)
	}
	_, key, err := sv.APIKeys.Create(b.Context(), apikey.NewKey{Owner: me.ID, Name: "bench", Scopes: []string{"role:user"}})
	if err != nil {
		b.Fatal(err)
	}
	gate := sv.Require(sallyport.Any(sallyport.Role("user"), sallyport.Permission("read:items")))(http.HandlerFunc(items))
	for _, c := range []struct {
		name, path string
		h          http.Handler
		token, key string // one of them
		peers      *[64]string
	}{
		{"handler", "/items", http.HandlerFunc(items), tk.Access, "", &peers},
		{"gate", "/items", gate, tk.Access, "", &peers},
		{"gate-key", "/items", gate, "", key.Reveal(), &peers},
		{"bare", "/items", bare, tk.Access, "", &peers},
		{"route", "/items", h, tk.Access, "", &peers},
		{"limited", "/items", limited, limitedTk.Access, "", &peers},
		{"route-IPv6", "/items", h, tk.Access, "", &peers6},
		{"limited-IPv6", "/items", limited, limitedTk.Access, "", &peers6},
		{"route-key", "/items", h, "", key.Reveal(), &peers},
		{"me", "/users/me", h, tk.Access, "", &peers},
		{"me-key", "/users/me", h, "", key.Reveal(), &peers},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(b.Context(), "GET", c.path, nil)
			if c.key != "" {
				r.Header.Set("X-API-Key", c.key)
			} else {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				clear(w.header)
				w.status = 0
				r.RemoteAddr = c.peers[i%len(c.peers)]
				c.h.ServeHTTP(w, r)
			}
			if w.status != 0 && w.status != 200 {
				b.Fatalf("status %d", w.status)
			}
		})
	}
	for name, peers := range map[string]*[64]string{"limit": &peers, "limit-IPv6": &peers6} {
		b.Run(name, func(b *testing.B) {
			w := &discard{header: http.Header{}}
			serve := func(h http.Handler, token string) func(int) {
				r := httptest.NewRequestWithContext(b.Context(), "GET", "/items", nil)
				r.Header.Set("Authorization", "Bearer "+token)
				return func(i int) {
					clear(w.header)
					r.RemoteAddr = peers[i%len(peers)]
					h.ServeHTTP(w, r)
				}
			}
			inTurns(b, serve(h, tk.Access), serve(limited, limitedTk.Access))
			if w.status != 0 {
				b.Fatalf("status %d", w.status)
			}
		})
	}
}

// inTurns reports how much longer “with” takes than “without”: they are called in
// turns, so that what else the machine does falls on both, and the figure is the
// median of many.
func inTurns(b *testing.B, without, with func(i int)) {
	b.Helper()
	const turn = 200
	took := func(f func(int)) time.Duration {
		began := time.Now()
		for i := range turn {
			f(i)
		}
		return time.Since(began)
	}
	var more []time.Duration
	for b.Loop() {
		first := took(without)
		more = append(more, took(with)-first)
	}
	slices.Sort(more)
	b.ReportMetric(float64(more[len(more)/2].Nanoseconds())/turn, "ns-more")
	b.ReportMetric(0, "ns/op") // of a turn of both: says nothing
}

// What stands before every route, in the order of Guard: whose the request is,
// behind a declared proxy; the headers of every answer; whether it is addressed to
// this server; and which pages may read the answer. “headers” is a handler that
// writes the same headers and nothing else, with values that are there already.
//
// Must not get worse: at most 600 ns (“more”) and 3 allocations more than “headers”.
func BenchmarkWall(b *testing.B) {
	const origin = "https://app.example.com"
	trusted, err := clientip.ParseTrusted([]string{"10.0.0.0/8"})
	if err != nil {
		b.Fatal(err)
	}
	clients, err := clientip.New(clientip.Config{Trusted: trusted})
	if err != nil {
		b.Fatal(err)
	}
	hosts, err := host.New(host.Config{Allowed: []string{"api.example.com", "*.apps.example.net"}})
	if err != nil {
		b.Fatal(err)
	}
	pages, err := cors.New(cors.Config{Origins: []string{origin, "https://*.example.org"}, Credentials: true})
	if err != nil {
		b.Fatal(err)
	}
	var standard headers.Headers
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	within := pages.Handler(nothing)
	wall := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := clients.Resolve(r)
		standard.Set(w.Header())
		if !seen.HTTPS || !hosts.Check(r.Host) {
			sallyport.WriteError(w, host.Refusal())
			return
		}
		within.ServeHTTP(w, r)
	})
	for _, c := range []struct{ name, origin string }{{"no-origin", ""}, {"origin", origin}} {
		r := httptest.NewRequestWithContext(b.Context(), "GET", "https://api.example.com/items", nil)
		r.RemoteAddr, r.TLS = "10.0.0.1:1234", nil
		for name, value := range map[string]string{
			"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "Authorization": "Bearer x", "Accept": "*/*", "User-Agent": "bench", "Origin": c.origin,
		} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := &discard{header: http.Header{}}
		wall.ServeHTTP(w, r)
		type field struct {
			name  string
			value []string
		}
		var same []field
		for name, value := range w.header {
			same = append(same, field{name, value})
		}
		if want := map[string]int{"": 4, origin: 7}[c.origin]; len(same) != want || w.status != 0 {
			b.Fatalf("%s: status %d, want %d headers: %v", c.name, w.status, want, w.header)
		}
		alone := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			for i := range same {
				h[same[i].name] = same[i].value
			}
		})
		serve := func(h http.Handler) func(int) {
			w := &discard{header: http.Header{}}
			return func(int) {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		}
		for _, v := range []struct {
			name  string
			serve func(int)
		}{{"headers", serve(alone)}, {"wall", serve(wall)}} {
			b.Run(c.name+"/"+v.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					v.serve(0)
				}
			})
		}
		b.Run(c.name+"/more", func(b *testing.B) { inTurns(b, serve(alone), serve(wall)) })
	}
}

// Rotations with full durability, a transaction and an audit event each, from
// 64 clients at once.
//
// Must not get worse: 230 allocs/op, the client's own included.
func BenchmarkRefresh(b *testing.B) {
	const clients = 64
	sv, h, ada := benchServer(b, weakHashes, noLimits)
	tokens := make(chan string, clients)
	for range clients {
		tk, err := sv.SignIn.Password(b.Context(), ada)
		if err != nil {
			b.Fatal(err)
		}
		tokens <- tk.Refresh
	}
	b.SetParallelism(clients / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequestWithContext(b.Context(), "POST", "/token/refresh", strings.NewReader(`{"refresh_token":"`+<-tokens+`"}`))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			_, rest, _ := strings.Cut(w.Body.String(), `"refresh_token":"`)
			next, _, _ := strings.Cut(rest, `"`)
			tokens <- next
			if w.Code != 200 {
				b.Errorf("status %d: %s", w.Code, w.Body)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refreshes/s")
}

// Whole sign-ins with the hashes that a server makes, as many at once as it
// has processors, beside the bare hash just before.
//
// Must not get worse: 0.9 of the bare hash's rate on one processor (-cpu 1).
func BenchmarkSignIn(b *testing.B) {
	sv, _, ada := benchServer(b, password.Config{}, noLimits)
	bare := func() { argon2.IDKey([]byte(goodPassword), make([]byte, 16), 2, 19456, 1, 32) }
	bare()
	const hashes = 30
	began := time.Now()
	for range hashes {
		bare()
	}
	hash := time.Since(began) / hashes
	var failed atomic.Value
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := sv.SignIn.Password(b.Context(), ada); err != nil {
				failed.Store(fmt.Sprint(err))
			}
		}
	})
	if err := failed.Load(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(hash.Seconds()*float64(b.N)/b.Elapsed().Seconds()/float64(runtime.GOMAXPROCS(0)), "of-bare-hash")
}

// What it costs to say what a known token stands for, with a machine client's
// secret as credential: two look-ups in memory, and an answer that is remembered.
// No signature is verified and nothing is hashed slowly. A grant is a transaction
// of its own.
//
// Must not get worse: 44 allocs/op for introspection, the client's own included.
func BenchmarkMachineClients(b *testing.B) {
	sv, h, ada := benchServer(b, weakHashes, noLimits)
	tk, err := sv.SignIn.Password(b.Context(), ada)
	if err != nil {
		b.Fatal(err)
	}
	c, err := sv.Clients.Create(b.Context(), role.Operator(), "bench", []string{"introspect:tokens"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, op := range []struct{ name, path, body string }{
		{"introspect", "/token/introspect", "token=" + tk.Access},
		{"grant", "/token", "grant_type=client_credentials"},
	} {
		b.Run(op.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), "POST", op.path, strings.NewReader(op.body))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				r.SetBasicAuth(c.ID, c.Secret)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != 200 {
					b.Fatalf("status %d: %s", w.Code, w.Body)
				}
			}
		})
	}
}
