package signin_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// Signing in with a password: what goes wrong looks the same from outside, and a second
// factor that is set up is asked for.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	const pw = "wrong giraffe charger paperclip"
	ada, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{Email: "ada@example.com", Password: pw})
	if err != nil {
		panic(err)
	}
	try := func(login, pw string) {
		tokens, err := sp.SignIn.Password(ctx, signin.Attempt{Login: login, Password: pw, Client: session.FirstParty})
		if due, ok := errors.AsType[*signin.MFARequired](err); ok {
			fmt.Println("due:", due.Methods)
			return
		}
		_, refused := errors.AsType[*authn.Refused](err)
		fmt.Println("signed in:", tokens.Access != "", "refused:", refused)
	}
	try("ada@example.com", pw)
	try("ada@example.com", "nonsense")
	try("nobody@example.com", pw)

	secret, err := sp.SignIn.Setup(ctx, ada.ID)
	if err != nil {
		panic(err)
	}
	sessions, err := sp.Sessions.List(ctx, ada.ID)
	if err != nil {
		panic(err)
	}
	code := totp.Default.Code(secret, totp.StepAt(time.Now())) // as the app shows it
	recovery, err := sp.SignIn.Verify(ctx, ada.ID, sessions[0].ID, code)
	fmt.Println("recovery codes:", len(recovery), err)
	try("ada@example.com", pw)
	// Output:
	// signed in: true refused: false
	// signed in: false refused: true
	// signed in: false refused: true
	// recovery codes: 10 <nil>
	// due: [totp recovery_code]
}
