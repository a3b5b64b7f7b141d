module github.com/sallyport/sallyport/bench/peers

go 1.26.0

require (
	github.com/go-jose/go-jose/v4 v4.1.8
	github.com/golang-jwt/jwt/v5 v5.3.1
)

require (
	github.com/jub0bs/cors v1.0.1 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

require (
	github.com/rs/cors v1.11.1
	github.com/sallyport/sallyport v0.0.0
)

replace github.com/sallyport/sallyport => ../..
