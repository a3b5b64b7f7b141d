package headers_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/headers"
	"github.com/sallyport/sallyport/guard/host"
)

// chain is the three parts of the wall that stand in front of every route, in
// the order in which they belong: what refuses answers with the headers too.
func chain(t testing.TB, next http.Handler) http.Handler {
	t.Helper()
	trusted, err := clientip.ParseTrusted([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := clientip.New(clientip.Config{Trusted: trusted})
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := host.New(host.Config{Allowed: []string{"api.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	return new(headers.Headers).Handler(hosts.Handler(clients.Handler(next)))
}

func proxied(hostname string) *http.Request {
	r := httptest.NewRequest("GET", "/items", nil)
	r.Host = hostname
	r.RemoteAddr = "10.0.0.1:4711"
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("X-Forwarded-Proto", "https")
	return r
}

func TestChain(t *testing.T) {
	var got clientip.Client
	h := chain(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, _ = clientip.From(r.Context()) }))
	for hostname, status := range map[string]int{"api.example.com": 200, "evil.example": 400} {
		got = clientip.Client{}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, proxied(hostname))
		if w.Code != status || w.Header().Get("Content-Security-Policy") != headers.APIPolicy || (got.Addr.String() == "192.0.2.1" && got.HTTPS) != (status == 200) {
			t.Errorf("%s: %d, %v, %+v; want %d", hostname, w.Code, w.Header(), got, status)
		}
	}
}

type headerOnly struct {
	http.ResponseWriter
	h http.Header
}

func (w *headerOnly) Header() http.Header { return w.h }

// The client's address behind a proxy, the host and the headers in one chain.
// Its 2 allocations are the context and the copy of the request; where a program
// has a context of its own it calls Resolve, and there are none. 183 ns on an
// EPYC core that is idle otherwise, up to 0.4 µs on a busy one. It must not
// exceed 0.3 µs on an idle one.
func BenchmarkChain(b *testing.B) {
	h := chain(b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := &headerOnly{h: http.Header{}}, proxied("api.example.com")
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}
}
