// Package adapters shows Sallyport's rules in front of the routes of other routers,
// and of gRPC methods. It is an example: copy the file that you need.
//
// A Sallyport server makes ordinary middleware of a rule (server.Server.Require), so
// that routers of net/http need nothing: chi's With and Use take it as it is, and echo
// wraps it (echo.WrapMiddleware). Gin and gRPC, whose handlers are others, need a few
// lines, which are here.
//
// These routers let a route stand without a rule. Put a rule on each group
// (SignedIn, say), or mount the router as one route of a sallyport.Mux.
package adapters
