package cors_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/sallyport/sallyport/guard/cors"
)

// Pages of one origin may read; a check against forged requests lets the same
// origin through.
func Example() {
	c, err := cors.New(cors.Config{Origins: []string{"https://app.example.com"}, Credentials: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for _, origin := range []string{"https://app.example.com", "https://app.example.com.evil.example"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Printf("%d %q %v\n", w.Code, w.Header().Get("Access-Control-Allow-Origin"), c.Trusts(origin))
	}
	// Output:
	// 204 "https://app.example.com" true
	// 204 "" false
}

// Every mistake of a configuration is reported at once.
func ExampleNew() {
	_, err := cors.New(cors.Config{
		Origins:     []string{"https://App.example.com", "*"},
		Methods:     []string{"patch"},
		Credentials: true,
	})
	fmt.Println(err)
	// Output:
	// cors.origins = "https://App.example.com": it has capitals, and browsers send origins in lower case. Write https://app.example.com.
	// cors.origins = "*": with cors.credentials every page on the web could act as its visitor. Name the origins, or leave cors.credentials out.
	// cors.origins = "*": it stands for every origin, and there are others beside it. Leave it out, or the others.
	// cors.methods = "patch": methods are compared with regard to case, and all that are in use are in capitals. Write PATCH.
}
