package token_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/authn/token"
)

func Example() {
	key, err := token.Generate(token.EdDSA)
	if err != nil {
		panic(err)
	}
	keys, err := token.NewSet(key)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	compact, err := keys.Issue(token.Claims{
		Issuer: "https://id.example.com", Audience: []string{"https://api.example.com"},
		Subject: "0198c2f0", ClientID: "docs", ID: "0198c2f1", Session: "0198c2f2",
		IssuedAt: now, Expires: now.Add(15 * time.Minute),
		Scoped: true, Scope: []string{"read:items"},
	})
	if err != nil {
		panic(err)
	}

	v := token.Verifier{Issuer: "https://id.example.com", Audience: "https://api.example.com"}
	claims, err := v.Verify(keys, compact, now)
	fmt.Println(claims.Subject, claims.Scope, err)

	_, err = v.Verify(keys, compact, now.Add(time.Hour))
	refusal, _ := errors.AsType[*token.Error](err)
	fmt.Println(refusal.Reason)
	// Output:
	// 0198c2f0 [read:items] <nil>
	// expired
}
