package remote_test

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/live"
	"github.com/sallyport/sallyport/internal/testkit"
)

// The gate of the server and a Verifier with introspection refuse alike: status,
// body and headers, byte by byte.
func TestSameAnswersAsTheServersGate(t *testing.T) {
	is := newIssuer(t)
	holds := []string{"read:items", "write:items"}
	is.answers(active("bearer", "auth_time", is.clock.now().Add(-time.Minute).Unix()))
	v := is.verifier(nil)
	asking := is.verifier(introspecting)

	d := testkit.SQLite(t)
	cache := live.New(live.Config{DB: d})
	defer cache.Close()
	refusals := audit.NewRefusals(d, slog.New(slog.DiscardHandler))
	defer refusals.Close()
	tv := token.Verifier{Issuer: is.url(), Audience: is.url()}
	server := authn.NewGate(authn.Config{
		Schemes: []authn.Scheme{authn.Bearer{
			Token: func(_ context.Context, access string) (authn.Verified, error) {
				c, err := tv.Verify(is.set, access, is.clock.now())
				if err != nil {
					return authn.Verified{}, &authn.Refused{Reason: err.Error()}
				}
				return authn.Verified{Claims: sallyport.Claims{
					Subject: c.Subject, Session: c.Session, Kind: sallyport.KindBearer, Scoped: c.Scoped, Scopes: sallyport.NewSet(c.Scope...),
				}}, nil
			},
			Session: func(db.Reader, authn.Verified) (authn.State, error) {
				return authn.State{AuthTime: is.clock.now().Add(-time.Minute)}, nil
			},
		}},
		DB: d, Live: cache,
		Resolve: func(context.Context, int64, string, string) (*sallyport.Grants, error) {
			return sallyport.NewGrants([]string{"editor"}, holds), nil
		},
		Refusals: refusals, Log: slog.New(slog.DiscardHandler), Now: is.clock.now,
	}, nil)

	plain, items := "Authorization: Bearer "+is.issue(nil), "Authorization: Bearer "+is.issue(scoped("read:items"))
	compared := 0
	for what, header := range map[string][]string{
		"nobody": nil, "a token": {plain}, "a scoped token": {items}, "a bad token": {plain + "x"}, "an empty token": {"Authorization: Bearer"},
		"Basic": {"Authorization: Basic YTpi"}, "two": {plain, items}, "another scheme": {"Authorization: Digest x"},
	} {
		for _, target := range []string{"/", "/?access_token=x"} {
			for _, rule := range []sallyport.Rule{
				sallyport.Public(), sallyport.SignedIn(), sallyport.Unscoped(), sallyport.MFA(), sallyport.Fresh(time.Second), sallyport.Fresh(time.Hour),
				sallyport.Permission("read:items"), sallyport.Scope("write:items"), sallyport.Permission("x"), sallyport.Role("editor"), sallyport.Role("admin"),
				sallyport.Via(sallyport.KindAPIKey), sallyport.Via(sallyport.KindBearer), sallyport.All(sallyport.Permission("write:items"), sallyport.MFA()),
			} {
				want := call(t, server, rule, target, header...)
				got := call(t, asking, rule, target, header...)
				if c := got.header["Www-Authenticate"]; len(c) == 2 { // the server's gate here has no scheme for keys
					got.header["Www-Authenticate"] = c[:1]
				}
				same(t, fmt.Sprint(what, " ", target, " ", rule), got, want)
				compared++
				// A token alone tells less of what its subject holds, so that more is
				// 403; all else is the same.
				alone := call(t, v, rule, target, header...)
				if alone.status != want.status && alone.status != 403 {
					t.Errorf("%s %s %v: %d alone, %d at the server", what, target, rule, alone.status, want.status)
				}
				if alone.status == 200 && want.status != 200 {
					t.Errorf("%s %s %v: let in alone, %d at the server", what, target, rule, want.status)
				}
				if alone.status == want.status && alone.code == want.code {
					same(t, fmt.Sprint("alone: ", what, " ", target, " ", rule), alone, want)
				}
			}
		}
	}
	if compared != 8*2*14 {
		t.Errorf("%d comparisons", compared)
	}
}

var decisionID = regexp.MustCompile(`"decision_id":"[0-9a-f-]{36}"`)

func same(t *testing.T, what string, got, want reply) {
	t.Helper()
	// Each decision has an id of its own.
	body := func(r reply) string { return decisionID.ReplaceAllString(fmt.Sprint(r.body), `"decision_id":"…"`) }
	if g, w := fmt.Sprint(got.status, got.header, body(got)), fmt.Sprint(want.status, want.header, body(want)); g != w {
		t.Errorf("%s is answered\n%s\nand at the server\n%s", what, g, w)
	}
}
