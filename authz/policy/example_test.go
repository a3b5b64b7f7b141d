package policy_test

import (
	"fmt"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/policy"
)

// A policy narrows what a permission allows, and says why it did.
func Example() {
	office, err := policy.Parse(`@id("office")
forbid(principal, action == Action::"delete:comments", resource)
unless { context.ip.isInRange(ip("203.0.113.0/24")) };`)
	if err != nil {
		panic(err)
	}
	set := policy.NewSet([]*policy.Policy{office}, []string{"delete:comments"}, policy.Place{})

	ada := policy.PrincipalOf("ada", false, sallyport.NewGrants(nil, []string{"delete:comments"}))
	for _, ip := range []string{"203.0.113.7", "198.51.100.7"} {
		decision := (&policy.Case{
			Rule: sallyport.Permission("delete:comments"), Principal: ada,
			Context: policy.Context{IP: ip, Time: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), Credential: sallyport.KindBearer},
		}).Decide(set)
		fmt.Println(ip, decision.Allowed)
		for _, r := range decision.Reasons {
			for _, p := range r.Policies {
				fmt.Println("  ", p.ID, p.Effect, p.Applies)
			}
		}
	}
	// Output:
	// 203.0.113.7 true
	//    office forbid false
	// 198.51.100.7 false
	//    office forbid true
}
