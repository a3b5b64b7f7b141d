package authn_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/live"
	"github.com/sallyport/sallyport/internal/testkit"
)

// header is a scheme that reads a name from a header.
type header struct {
	name    string
	verify  func(cred string) (authn.Verified, error)
	confirm func(authn.Verified) (authn.State, error)
}

func (h header) Kind() sallyport.Kind { return sallyport.Kind(h.name) }
func (h header) Read(r *http.Request) (string, bool, error) {
	v := r.Header.Get(h.name)
	return v, v != "", nil
}

func (h header) Verify(_ context.Context, cred string) (authn.Verified, error) { return h.verify(cred) }

func (h header) Confirm(_ db.Reader, v authn.Verified) (authn.State, error) { return h.confirm(v) }
func (h header) Challenge(*sallyport.Error) string                          { return h.name }

func knows(cred string) (authn.Verified, error) {
	switch cred {
	case "bad":
		return authn.Verified{}, &authn.Refused{Reason: "unknown"}
	case "broken":
		return authn.Verified{}, errors.New("the database is on fire")
	}
	return authn.Verified{Claims: sallyport.Claims{Subject: cred}}, nil
}

func TestGate(t *testing.T) {
	d := testkit.SQLite(t)
	cache := live.New(live.Config{DB: d})
	defer cache.Close()
	refusals := audit.NewRefusals(d, slog.New(slog.DiscardHandler))
	defer refusals.Close()
	again := 0
	confirm := func(v authn.Verified) (authn.State, error) {
		switch {
		case v.Subject == "gone":
			return authn.State{}, &authn.Refused{Reason: "gone"}
		case v.Subject == "turning" && again < 1, v.Subject == "spinning":
			again++
			return authn.State{}, authn.ErrAgain
		}
		return authn.State{RoleNames: "user"}, nil
	}
	g := authn.NewGate(authn.Config{
		Schemes: []authn.Scheme{header{"X-One", knows, confirm}, header{"X-Two", knows, confirm}},
		DB:      d, Live: cache,
		Resolve: func(_ context.Context, _ int64, roles, _ string) (*sallyport.Grants, error) {
			return sallyport.NewGrants([]string{roles}, nil), nil
		},
		Refusals: refusals, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Unix(0, 0) },
	}, nil)
	for name, c := range map[string]struct {
		headers string
		rule    sallyport.Rule
		status  int
		body    string
	}{
		"nothing":                     {"", sallyport.SignedIn(), 401, "unauthenticated"},
		"nothing, public":             {"", sallyport.Public(), 200, "[]"},
		"one":                         {"X-One: ada", sallyport.SignedIn(), 200, "[ada]"},
		"another":                     {"X-Two: ada", sallyport.SignedIn(), 200, "[ada]"},
		"two schemes":                 {"X-One: ada,X-Two: ada", sallyport.Public(), 400, "several_credentials"},
		"bad":                         {"X-One: bad", sallyport.SignedIn(), 401, "invalid_token"},
		"bad, public":                 {"X-One: bad", sallyport.Public(), 401, "invalid_token"},
		"gone":                        {"X-One: gone", sallyport.SignedIn(), 401, "invalid_token"},
		"cannot be checked":           {"X-One: broken", sallyport.SignedIn(), 503, "unavailable"},
		"not allowed":                 {"X-One: ada", sallyport.Role("admin"), 403, "insufficient_permission"},
		"keys change meanwhile":       {"X-One: turning", sallyport.SignedIn(), 200, "[turning]"},
		"keys change without an end":  {"X-One: spinning", sallyport.SignedIn(), 503, "unavailable"},
		"a second factor that is not": {"X-One: ada", sallyport.MFA(), 401, "insufficient_user_authentication"},
	} {
		t.Run(name, func(t *testing.T) {
			again = 0
			r := httptest.NewRequest("GET", "/", nil)
			for h := range strings.SplitSeq(c.headers, ",") {
				if k, v, ok := strings.Cut(h, ": "); ok {
					r.Header.Set(k, v)
				}
			}
			w := httptest.NewRecorder()
			g.Require(c.rule)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte("[" + sallyport.From(r.Context()).ID() + "]"))
			})).ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if challenged := slices.Equal(w.Header()["Www-Authenticate"], []string{"X-One", "X-Two"}); challenged != (c.status == 401) {
				t.Errorf("challenges: %v", w.Header()["Www-Authenticate"])
			}
		})
	}
}

func TestGateRefusesInvalidRules(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the zero rule was accepted")
		}
	}()
	authn.NewGate(authn.Config{}, nil).Require(sallyport.Rule{})
}
