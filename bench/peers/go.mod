module github.com/sallyport/sallyport/bench/peers

go 1.26.0

require (
	github.com/go-chi/httprate v0.15.0
	github.com/go-jose/go-jose/v4 v4.1.8
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/rs/cors v1.11.1
	github.com/sallyport/sallyport v0.0.0
	github.com/ulule/limiter/v3 v3.11.2
)

require (
	github.com/jub0bs/cors v1.0.1 // indirect
	github.com/klauspost/cpuid/v2 v2.2.10 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/zeebo/xxh3 v1.0.2 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/sallyport/sallyport => ../..
