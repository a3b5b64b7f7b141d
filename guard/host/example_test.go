package host_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/sallyport/sallyport/guard/host"
)

func Example() {
	hosts, err := host.New(host.Config{Allowed: []string{"example.com", "*.example.com"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := hosts.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	}))
	for _, name := range []string{"example.com", "api.EXAMPLE.com:8443", "example.com.evil.example"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = name
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 200
	// 400
}

func ExampleNew() {
	_, err := host.New(host.Config{Allowed: []string{"https://example.com", "*"}})
	fmt.Println(err)
	// Output:
	// Allowed = "https://example.com": it holds a scheme. Write the name alone, such as api.example.com: the scheme and the port are not compared.
	// Allowed = "*": it allows every name, as if nothing were checked. List the names under which clients reach the server; *.example.com allows all below one.
}
