package main

import (
	"net/http"
	"testing"
	"time"

	rs "github.com/rs/cors"

	"github.com/sallyport/sallyport/guard/cors"
)

// BenchmarkCORS measures guard/cors beside rs/cors with the same configuration
// and the same requests, in turns, so that what else the machine does falls on
// both. The figure to look at is the ratio of the times, “of-rs”: below 1 ours is
// the cheaper one.
func BenchmarkCORS(b *testing.B) {
	const origin = "https://app.example.com"
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	c, err := cors.New(cors.Config{Origins: []string{origin}, Credentials: true})
	if err != nil {
		b.Fatal(err)
	}
	ours := c.Handler(nothing)
	theirs := rs.New(rs.Options{
		AllowedOrigins: []string{origin}, AllowCredentials: true, MaxAge: 600,
		AllowedMethods: cors.DefaultMethods(), AllowedHeaders: cors.DefaultRequestHeaders(), ExposedHeaders: cors.DefaultResponseHeaders(),
	}).Handler(nothing)
	for _, bb := range []struct {
		name, method string
		header       http.Header
		answer       string // Access-Control-Allow-Origin of both
	}{
		{"no origin", "GET", http.Header{}, ""},
		{"allowed origin", "GET", http.Header{"Origin": {origin}}, origin},
		{"other origin", "GET", http.Header{"Origin": {"https://evil.example"}}, ""},
		{"preflight", "OPTIONS", http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"PUT"}, "Access-Control-Request-Headers": {"authorization,content-type"}}, origin},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := &http.Request{Method: bb.method, Header: bb.header}
			w := &header{http.Header{}}
			serve := func(h http.Handler, n int) time.Duration {
				began := time.Now()
				for range n {
					clear(w.header)
					h.ServeHTTP(w, r)
				}
				return time.Since(began)
			}
			for name, h := range map[string]http.Handler{"ours": ours, "rs": theirs} {
				serve(h, 1)
				if got := w.header.Get("Access-Control-Allow-Origin"); got != bb.answer {
					b.Fatalf("%s answers %q, want %q", name, got, bb.answer)
				}
			}
			const turn = 1000
			var a, z time.Duration
			n := 0
			for b.Loop() {
				a += serve(ours, turn)
				z += serve(theirs, turn)
				n += turn
			}
			b.ReportMetric(float64(a.Nanoseconds())/float64(n), "ns/ours")
			b.ReportMetric(float64(z.Nanoseconds())/float64(n), "ns/rs")
			b.ReportMetric(float64(a)/float64(z), "of-rs")
			b.ReportMetric(0, "ns/op") // of a turn of both: says nothing
		})
	}
}

// header is a writer that keeps nothing but the header.
type header struct{ header http.Header }

func (h *header) Header() http.Header         { return h.header }
func (h *header) Write(b []byte) (int, error) { return len(b), nil }
func (h *header) WriteHeader(int)             {}
