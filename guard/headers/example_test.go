package headers_test

import (
	"fmt"
	"html/template"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sallyport/sallyport/guard/headers"
)

func Example() {
	api, err := headers.New(headers.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	page, err := headers.New(headers.Page("form-action 'self'"))
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sign-in", func(w http.ResponseWriter, r *http.Request) {
		page.Set(w.Header()) // over those of the API
		fmt.Fprint(w, "<!doctype html>…")
	})
	handler := api.Handler(mux)
	for _, path := range []string{"/items", "/sign-in"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(w.Code, w.Header().Get("Content-Security-Policy"))
	}
	// Output:
	// 404 default-src 'none'; frame-ancestors 'none'
	// 200 default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'
}

// A page with an inline script.
func ExampleHeaders_SetNonce() {
	page, err := headers.New(headers.Page("script-src 'nonce'"))
	if err != nil {
		fmt.Println(err)
		return
	}
	text := template.Must(template.New("").Parse(`<script nonce="{{.}}">start()</script>`))
	handler := func(w http.ResponseWriter, r *http.Request) {
		nonce := page.SetNonce(w.Header())
		w.Header().Set("Cache-Control", "no-store")
		_ = text.Execute(w, nonce)
	}
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest("GET", "/", nil))
	_, rest, _ := strings.Cut(w.Body.String(), `"`)
	nonce, _, _ := strings.Cut(rest, `"`)
	fmt.Println(strings.ReplaceAll(w.Header().Get("Content-Security-Policy"), nonce, "…"))
	// Output:
	// default-src 'none'; script-src 'nonce-…'; style-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
}

func ExampleNew() {
	_, err := headers.New(headers.Config{ContentSecurityPolicy: "default-src 'none'; script-scr 'self'; style-src 'unsafe-inline'; frame-ancestors self"})
	fmt.Println(err)
	// Output:
	// ContentSecurityPolicy = "script-scr": browsers know no such directive and skip it. Did you mean script-src?
	// ContentSecurityPolicy = "frame-ancestors self": without quotation marks it is the name of a host. Write 'self'.
}
