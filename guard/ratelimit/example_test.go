package ratelimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/sallyport/sallyport/guard/ratelimit"
)

// Two requests a minute for each address, on a server without a proxy.
func Example() {
	rates, err := ratelimit.ParseAll("2/minute, 100/day")
	if err != nil {
		fmt.Println(err)
		return
	}
	limiter, err := ratelimit.New(ratelimit.Config{
		Name:  "api",
		Rates: rates,
		Key: ratelimit.ByAddress(func(r *http.Request) netip.Addr {
			client, _ := netip.ParseAddrPort(r.RemoteAddr) // no valid address: one bucket for all such
			return client.Addr()
		}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello")
	}))

	for range 3 {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Printf("%d %s %q\n", w.Code, w.Header().Get("RateLimit"), w.Header().Get("Retry-After"))
	}
	// Output:
	// 200 "api-minute";r=1;t=30 ""
	// 200 "api-minute";r=0;t=30 ""
	// 429 "api-minute";r=0;t=30 "30"
}
