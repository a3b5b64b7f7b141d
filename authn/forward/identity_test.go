package forward_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Whatever a service's own table calls somebody, the headers stay within what services
// take, and are visible ASCII.
func TestIdentityIsBounded(t *testing.T) {
	key, err := token.Generate(token.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	set, err := token.NewSet(key)
	if err != nil {
		t.Fatal(err)
	}
	var roles []string
	for i := range 20 {
		roles = append(roles, fmt.Sprintf("role-%02d-%s", i, strings.Repeat("x", 30)))
	}
	p := sallyport.NewPrincipal(sallyport.Claims{Subject: strings.Repeat("s", 36), Session: strings.Repeat("t", 36), Kind: sallyport.KindBearer}, sallyport.NewGrants(roles, roles))
	for name, want := range map[string]struct{ username, omitted string }{
		"ada": {"ada", ""}, "a\r\nX-Sallyport-Roles: admin %": {"a%0D%0AX-Sallyport-Roles:%20admin%20%25", ""},
		strings.Repeat("漢", 254): {"", "username"}, strings.Repeat("a", 254): {strings.Repeat("a", 254), ""},
	} {
		door, err := forward.New(forward.Config{
			Issuer: "https://id.example.com", FromProxy: func(*http.Request) bool { return true }, Now: time.Now,
			Person: func(context.Context, string) (username, email string, err error) {
				return name, strings.Repeat("e", 254), nil
			},
			Keys: func(context.Context) (*token.Set, error) { return set, nil },
			Ask: func(sallyport.Rule) (func(http.Handler) http.Handler, error) {
				return func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						r, c := reqctx.Enter(r)
						c.Own().Full = &p
						c.Admit(r)
						next.ServeHTTP(w, r)
					})
				}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		mux := sallyport.NewMux(everybody{})
		door.Routes(mux)
		q := httptest.NewRequest("GET", "/forward-auth/caddy?require=any("+strings.Repeat("mfa,", 200)+"mfa)", nil)
		q.Header.Set("X-Forwarded-Method", "GET")
		q.Header.Set("X-Forwarded-Uri", "/")
		q.Header.Set("X-Forwarded-Host", strings.Repeat("h", 255))
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, q)
		total := 0
		for _, h := range forward.IdentityHeaders {
			value := w.Header().Get(h)
			total += len(h) + len(value) + 4
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("%s: %q", h, value)
			}
		}
		if w.Code != 200 || total > 8<<10 || w.Header().Get("X-Sallyport-Username") != want.username || w.Header().Get("X-Sallyport-Omitted") != want.omitted {
			t.Errorf("%.20q: %d, %d bytes, %v", name, w.Code, total, w.Header())
		}
	}
}
