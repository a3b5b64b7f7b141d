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
// actions, and one to which none applies: at most 8 µs, 1.2 times that, and 120 ns
// without allocating. They are measured in turns of 100 calls, and the least turn of
// each counts (least-ns/op): what else the machine does only ever adds.
func BenchmarkRule(b *testing.B) {
	stored := []int{0, 5, 10_000}
	sets := make([]*policy.Set, len(stored))
	for n, count := range stored {
		var all []*policy.Policy
		for i := range count {
			action := "delete:comments"
			if i >= 5 {
				action = fmt.Sprintf("act:%d", i/5)
			}
			all = append(all, mustParse(b, fmt.Sprint("p", i), fiveOf(action)[i%5]))
		}
		sets[n] = policy.NewSet(all, nil, policy.Place{})
	}
	who := sallyport.NewPrincipal(sallyport.Claims{Subject: "018f0000-0000-7000-8000-000000000001", Kind: sallyport.KindBearer, MFA: true, AuthTime: monday},
		sallyport.NewGrants([]string{"moderator", "user", "guest"}, []string{"delete:comments", "read:users"}))
	r, err := http.NewRequest("DELETE", "/comments/17", nil)
	if err != nil {
		b.Fatal(err)
	}
	rule := sallyport.Permission("delete:comments")
	const turn = 100
	least := make([]time.Duration, len(stored))
	b.ReportAllocs()
	for b.Loop() {
		for n, set := range sets {
			began := time.Now()
			for range turn {
				facts := sallyport.Facts{Now: monday, Policies: set, Request: r}
				if !rule.Allows(&who, &facts) {
					b.Fatal("denied")
				}
			}
			if took := time.Since(began); least[n] == 0 || took < least[n] {
				least[n] = took
			}
		}
	}
	for n, count := range stored {
		b.ReportMetric(float64(least[n])/turn, fmt.Sprintf("least-ns/op-of-%d", count))
	}
	b.ReportMetric(float64(least[2])/float64(least[1]), "of-10000/of-5")
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
