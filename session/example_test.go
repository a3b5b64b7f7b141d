package session_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// A sign-in is a session: a refresh token that is good once, and an end that holds.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	const pw = "wrong giraffe charger paperclip"
	ada, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{Email: "ada@example.com", Password: pw})
	if err != nil {
		panic(err)
	}
	first, err := sp.SignIn.Password(ctx, signin.Attempt{Login: "ada@example.com", Password: pw, Client: session.FirstParty})
	if err != nil {
		panic(err)
	}
	next, err := sp.Sessions.Refresh(ctx, first.Refresh, session.FirstParty, false, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println("another refresh token:", next.Refresh != first.Refresh)
	sessions, err := sp.Sessions.List(ctx, ada.ID)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(sessions), sessions[0].AMR, sessions[0].MFA)

	named, err := sp.Sessions.Find(ctx, next.Refresh)
	if err != nil {
		panic(err)
	}
	if err := sp.Sessions.Revoke(ctx, named); err != nil {
		panic(err)
	}
	_, err = sp.Sessions.Refresh(ctx, next.Refresh, session.FirstParty, false, nil)
	refused, ok := errors.AsType[*authn.Refused](err)
	fmt.Println(ok, refused.Reason)
	// Output:
	// another refresh token: true
	// 1 [pwd] false
	// true the session has ended
}
