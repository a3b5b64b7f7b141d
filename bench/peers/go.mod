module github.com/sallyport/sallyport/bench/peers

go 1.26

require (
	github.com/go-jose/go-jose/v4 v4.1.8
	github.com/golang-jwt/jwt/v5 v5.3.1
)
