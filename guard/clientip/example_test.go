package clientip_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/sallyport/sallyport/guard/clientip"
)

func Example() {
	trusted, err := clientip.ParseTrusted([]string{"10.0.0.5", "10.0.1.0/24"})
	if err != nil {
		fmt.Println(err)
		return
	}
	clients, err := clientip.New(clientip.Config{Trusted: trusted})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := clients.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _ := clientip.From(r.Context())
		fmt.Printf("%v %v %q\n", client.Addr, client.HTTPS, client.Ignored)
	}))

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Forwarded-For", "127.0.0.1, 203.0.113.9") // the client wrote the first
	r.Header.Set("X-Forwarded-Proto", "https")
	for _, peer := range []string{"10.0.0.5:4711", "198.51.100.7:4711"} {
		r.RemoteAddr = peer
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	// Output:
	// 203.0.113.9 true ""
	// 198.51.100.7 false "X-Forwarded-For"
}

func ExampleNew() {
	trusted, err := clientip.ParseTrusted([]string{"10.0.0.5/8", "0.0.0.0/0"})
	fmt.Println(trusted)
	fmt.Println(err)
	// Output:
	// []
	// Trusted = "10.0.0.5/8": it has host bits, so that it could mean one address or the network. Write 10.0.0.0/8 for the network, or 10.0.0.5 for the address.
	// Trusted = "0.0.0.0/0": it is wider than /8, so that clients are in it and could write their own address. List the addresses or networks that your proxies have.
}
