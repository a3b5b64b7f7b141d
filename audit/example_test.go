package audit_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit/sample"
)

// What was done is recorded with it, sealed in a chain, and found again.
func Example() {
	ctx := context.Background()
	sp, done := sample.Server()
	defer done()
	if _, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{
		Email: "ada@example.com", Password: "wrong giraffe charger paperclip",
	}); err != nil {
		panic(err)
	}
	if err := sp.Audit.Each(ctx, audit.Filter{Action: "account.created"}, func(r audit.Record) error {
		fmt.Println(r.Action, r.Result, "by", r.ActorKind)
		return nil
	}); err != nil {
		panic(err)
	}
	if err := sp.Chain.Seal(ctx); err != nil { // it happens by itself, a tenth of a second later
		panic(err)
	}
	verdict, err := sp.Chain.Verify(ctx)
	fmt.Println(verdict.Whole, len(verdict.Findings), err)
	// Output:
	// account.created success by operator
	// true 0 <nil>
}

// Who receives the webhook takes nothing that was not signed, and nothing old.
func ExampleVerifySignature() {
	secret, body := []byte("a secret that both sides have"), []byte(`{"action":"account.created"}`)
	at := time.Unix(1795348800, 0)
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%d.%s", at.Unix(), body)
	header := fmt.Sprintf("t=%d,v1=%x", at.Unix(), mac.Sum(nil)) // audit.SignatureHeader

	fmt.Println(audit.VerifySignature(secret, header, body, at.Add(time.Minute), 5*time.Minute))
	fmt.Println(audit.VerifySignature(secret, header, append(body, ' '), at.Add(time.Minute), 5*time.Minute))
	fmt.Println(audit.VerifySignature(secret, header, body, at.Add(time.Hour), 5*time.Minute))
	// Output:
	// true
	// false
	// false
}
