// Package sallyport holds the words that every other package of this module
// speaks: who is calling (Principal), what a route requires (Rule), what a
// refusal says (Error), and the router that does not accept a route without a
// rule (Mux).
//
// The package decides one thing: whether a principal satisfies a rule. It
// stores nothing, does no I/O, reads no clock and imports the standard library
// only, so that a service may depend on it without depending on a database
// driver, a token library or a web framework.
package sallyport
