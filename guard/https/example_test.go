package https_test

import (
	"crypto/tls"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/sallyport/sallyport/guard/https"
)

// The two answers to requests in clear, and the one over TLS.
func Example() {
	policy, err := https.New(https.Config{BaseURL: "https://api.example.com"})
	if err != nil {
		log.Fatal(err)
	}
	h := policy.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }))

	page := httptest.NewRequest("GET", "/docs?page=2", nil)
	page.Header.Set("Accept", "text/html,*/*;q=0.8")
	call := httptest.NewRequest("GET", "/items", nil)
	call.Header.Set("Authorization", "Bearer eyJ")
	secure := httptest.NewRequest("GET", "/items", nil)
	secure.TLS = new(tls.ConnectionState)
	for _, r := range []*http.Request{page, call, secure} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Printf("%d %q %q\n", w.Code, w.Header().Get("Location"), w.Header().Get("Strict-Transport-Security"))
	}
	// Output:
	// 307 "https://api.example.com/docs?page=2" ""
	// 403 "" ""
	// 200 "" "max-age=31536000"
}

// A listener whose certificate is renewed by another program.
func ExampleNewCertificates() {
	certs, err := https.NewCertificates(https.CertificatesConfig{
		Pairs:  []https.Pair{{Cert: "/etc/letsencrypt/live/api/fullchain.pem", Key: "/etc/letsencrypt/live/api/privkey.pem"}},
		Report: func(e https.Event) { log.Print(e.Pair.Cert, ": ", e) },
	})
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Addr: ":443", TLSConfig: https.TLSConfig(certs.GetCertificate)}
	log.Fatal(srv.ListenAndServeTLS("", ""))
}
