package policy_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/policy"
)

// A rule to which five policies apply, alone and among ten thousand for other
// actions, and one to which none applies.
func BenchmarkRule(b *testing.B) {
	for _, stored := range []int{0, 5, 10_000} {
		var all []*policy.Policy
		for i := range stored {
			action := "delete:comments"
			if i >= 5 {
				action = fmt.Sprintf("act:%d", i/5)
			}
			all = append(all, mustParse(b, fmt.Sprint("p", i), fiveOf(action)[i%5]))
		}
		set := policy.NewSet(all, nil, policy.Place{})
		who := sallyport.NewPrincipal(sallyport.Claims{Subject: "018f0000-0000-7000-8000-000000000001", Kind: sallyport.KindBearer, MFA: true, AuthTime: time.Now()},
			sallyport.NewGrants([]string{"moderator", "user", "guest"}, []string{"delete:comments", "read:users"}))
		r, _ := http.NewRequest("DELETE", "/comments/17", nil)
		rule := sallyport.Permission("delete:comments")
		b.Run(fmt.Sprintf("stored=%d", stored), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				facts := sallyport.Facts{Now: monday, Policies: set, Request: r}
				if !rule.Allows(&who, &facts) {
					b.Fatal("denied")
				}
			}
		})
	}
}

// fiveOf are policies of the kinds that people write.
func fiveOf(action string) []string {
	at := func(rest string) string { return fmt.Sprintf(rest, action) }
	return []string{
		at(`permit(principal in Role::"moderator", action == Action::%q, resource) when { context.local.hour >= 9 && context.local.hour < 18 && context.local.weekday <= 5 };`),
		at(`permit(principal in Role::"admin", action == Action::%q, resource) when { context.mfa };`),
		at(`forbid(principal, action == Action::%q, resource) when { context.credential == "api_key" };`),
		at(`forbid(principal, action == Action::%q, resource) unless { context.mfa };`),
		at(`forbid(principal, action == Action::%q, resource) when { context has auth_age && context.auth_age > 86400 };`),
	}
}
