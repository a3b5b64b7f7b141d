package clientip

import (
	"net/http"
	"testing"
)

// Every request pays for this. Nothing may allocate. On a shared EPYC core:
// 51 ns without headers of proxies (59 with IPv6), 30 ns when an undeclared peer
// sends one, 72 ns with X-Real-IP, 99 ns with X-Forwarded-For of one hop, 142 ns
// of three, 164 ns with Forwarded, and 4.5 µs for the most text that is walked.
// It must not exceed 0.1 µs without a proxy and 10 µs at worst.
func BenchmarkResolve(b *testing.B) {
	usual := func(more http.Header) http.Header {
		h := http.Header{"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Authorization": {"Bearer x"}, "User-Agent": {"bench"}}
		for k, v := range more {
			h[k] = v
		}
		return h
	}
	for _, bm := range []struct {
		name   string
		header Header
		r      *http.Request
	}{
		{"direct", "", request("192.0.2.1:1234", usual(nil))},
		{"direct IPv6", "", request("[2001:db8::1]:1234", usual(nil))},
		{"undeclared", "", request("192.0.2.1:1234", usual(http.Header{"X-Forwarded-For": {"1.2.3.4"}}))},
		{"X-Forwarded-For", "", request(proxy, usual(http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}))},
		{"X-Forwarded-For of 3", "", request(proxy, usual(http.Header{"X-Forwarded-For": {"192.0.2.1, 10.0.0.3, 10.0.0.2"}, "X-Forwarded-Proto": {"https"}}))},
		{"Forwarded", Forwarded, request(proxy, usual(http.Header{"Forwarded": {`for="[2001:db8::1]:4711";proto=https`}}))},
		{"X-Real-IP", XRealIP, request(proxy, usual(http.Header{"X-Real-Ip": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}))},
		{"the worst", "", request(proxy, usual(http.Header{"X-Forwarded-For": {worst()}}))},
	} {
		b.Run(bm.name, func(b *testing.B) {
			res := resolver(b, bm.header)
			b.ReportAllocs()
			for b.Loop() {
				res.Resolve(bm.r)
			}
		})
	}
}

// worst is a header that is walked to the end of what is allowed.
func worst() string {
	s := ""
	for range 2 * MaxHops {
		s += "[2001:db8:ffff:1111:2222:3333:4444:5555]:65535, "
	}
	return s[:len(s)-2]
}

// Resolve with X-Forwarded-For, the context and the copy of the request that
// carries it: 148 ns and 2 allocations, which must not become more.
func BenchmarkHandler(b *testing.B) {
	h := resolver(b, "").Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := request(proxy, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}})
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(nil, r)
	}
}
