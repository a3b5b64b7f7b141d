// Command guard is a plain net/http service with Sallyport's wall around it and
// nothing else of Sallyport: each piece is middleware that works alone.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"

	"github.com/sallyport/sallyport/guard/body"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/guard/headers"
	"github.com/sallyport/sallyport/guard/host"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/guard/sanitize"
)

func main() {
	h := handler("https://api.example.com", "api.example.com", "https://app.example.com", os.Args[1:])
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", h)) // behind a proxy that has the certificates
}

// handler is the service, and around it the wall, from the inside out.
func handler(base, name, page string, proxies []string) http.Handler {
	client := must(clientip.New(clientip.Config{Trusted: must(clientip.ParseTrusted(proxies))}))
	bodies := must(body.New(body.Config{JSON: true, Max: 16 << 10}))
	mux := http.NewServeMux()
	mux.Handle("POST /comments", bodies.Handler(http.HandlerFunc(comment)))

	limit := must(ratelimit.New(ratelimit.Config{Rates: must(ratelimit.ParseAll("5/minute, 100/hour")), Key: ratelimit.ByAddress(client.Addr)}))
	h := limit.Handler(mux)
	h = must(https.New(https.Config{BaseURL: base, Secure: func(r *http.Request) bool { return client.Resolve(r).HTTPS }})).Handler(h)
	h = must(cors.New(cors.Config{Origins: []string{page}})).Handler(h)
	h = must(host.New(host.Config{Allowed: []string{name}})).Handler(h)
	return must(headers.New(headers.Config{})).Handler(h)
}

// comment answers with what is left of a comment: its text, without markup.
func comment(w http.ResponseWriter, r *http.Request) {
	var in struct{ Text string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, "an object with the member text is expected", http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"text": sanitize.Text(in.Text)})
}

// must is for what can only fail by a mistake in this file.
func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
