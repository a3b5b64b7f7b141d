// Package sallyport holds the words that every other package of this module
// speaks, and the two doors in them: who are you, and may you.
//
//	request → the wall → who are you → may you → your handler
//	           Guard      Principal      Rule     From(r.Context())
//
// Begin with a whole program, in package server:
//
//	db, err := sqlite.Open("app.db")
//	if err != nil {
//		return err
//	}
//	cfg := server.Config{DB: db, BaseURL: "https://api.example.com"}
//	return server.Run(ctx, "127.0.0.1:8080", cfg, func(sp *server.Server, mux *sallyport.Mux) error {
//		mux.HandleFunc("GET /items", sallyport.Scope("read:items"), list)
//		mux.HandleFunc("DELETE /items/{id}",
//			sallyport.All(sallyport.Role("admin"), sallyport.Fresh(10*time.Minute)), remove)
//		return nil
//	})
//
// A route without a rule does not compile. What is declared is what is enforced, what
// Mux.Routes lists and, of typed operations (package api), what /docs says.
//
// # The words
//
//   - [Principal] is who is calling: the Claims of one verified credential, and the
//     Grants that its subject has now. From finds it in a handler. The zero Principal
//     is anonymous.
//   - [Rule] is what a route requires: Public, SignedIn, Role, Permission, Scope, MFA,
//     Fresh, Via, Unscoped, Policy, and All and Any of these. It is data: it prints, is
//     JSON, decides (Allows) and explains (Explain). The zero Rule is refused.
//   - Role is a name for what people do, Permission for one thing that may be done.
//     Scope limits a credential to some permissions, and gives nobody any.
//   - [Kind] is the kind of credential: an access token, an API key, a browser's cookie,
//     a name and password, a machine client's secret.
//   - [Gate] is the first door and enforces a Rule in front of a handler. server.Server is
//     one; remote.Verifier is one for another service, without a database.
//   - [Mux] routes as http.ServeMux does, and takes no route without a Rule.
//   - [Limit] bounds how often a route is called; it is declared with the route.
//   - [Error] is a refusal that a caller may see: a status, a stable code, a sentence or
//     two. Every other error is answered as “internal”.
//   - [Decision] is a rule's answer with all its reasons; its id is in every 403.
//
// # What it decides
//
// The package decides one thing: whether a Principal satisfies a Rule. It never looks
// at a credential; whoever makes a Principal has. It stores nothing, does no I/O, is
// told the time, and imports the standard library only, so that a service may depend on it
// without depending on a database driver, a token library or a web framework.
package sallyport
