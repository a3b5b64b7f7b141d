package sallyport_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
)

// limitGate writes into the answer where each limit stands.
type limitGate struct{ gate }

func (limitGate) Limit(route string, limits []sallyport.Limit, through func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	note := func(where string, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, l := range limits {
				if l.Behind() == (where == "behind") {
					w.Header().Add("X-Limit", fmt.Sprint(where, " ", route, ": ", l))
				}
			}
			next.ServeHTTP(w, r)
		})
	}
	return func(next http.Handler) http.Handler {
		return note("before", through(note("behind", next)))
	}
}

func TestMuxLeadsThroughLimits(t *testing.T) {
	m, sub := sallyport.NewMux(limitGate{}), sallyport.NewMux(limitGate{})
	limits := []sallyport.Limit{{Rate: "5/minute"}, {Rate: "50/hour", By: sallyport.ByAccount, Name: "mail"}}
	sub.HandleFunc("POST /mail", sallyport.SignedIn(), hello, limits...)
	m.HandleFunc("GET /free", sallyport.SignedIn(), hello)
	m.Open("GET /open", http.HandlerFunc(hello), sallyport.Limit{Rate: "1/day", By: sallyport.ByRoute}, sallyport.Limit{Rate: "2/day", For: "a colour"})
	m.Mount("/v1", sub)
	limits[0].Rate = "changed afterwards"
	before, behind := "before POST /mail: 5/minute by address", "behind POST /mail: 50/hour by account"
	for _, c := range []struct {
		method, path, user string
		status             int
		want               []string
	}{
		{"POST", "/v1/mail", "ada", 200, []string{before, behind}},
		{"POST", "/v1/mail", "", 401, []string{before}},
		{"GET", "/free", "ada", 200, nil},
		{"GET", "/open", "", 200, []string{"before GET /open: 1/day by route"}},
	} {
		w := call(m, c.method, c.path, c.user)
		if got := w.Header()["X-Limit"]; w.Code != c.status || !slices.Equal(got, c.want) {
			t.Errorf("%s %s as %q: %d %q", c.method, c.path, c.user, w.Code, got)
		}
	}
	b, err := json.Marshal(m.Routes())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"path":"/v1/mail","rule":"signed_in","limits":[{"rate":"5/minute","by":"address"},{"rate":"50/hour","by":"account","name":"mail"}]`,
		`"path":"/open","rule":"public","limits":[{"rate":"1/day","by":"route"},{"rate":"2/day","by":"address","for":"a colour"}]`,
		`{"method":"GET","path":"/free","rule":"signed_in"}`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}

func TestMuxRefusesLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		gate  sallyport.Gate
		limit sallyport.Limit
		want  string
	}{
		"that nobody enforces":    {gate{}, sallyport.Limit{Rate: "5/minute"}, "enforces no limits"},
		"by what is not known":    {limitGate{}, sallyport.Limit{Rate: "5/minute", By: "colour"}, `"colour", which is not known`},
		"with a name like that":   {limitGate{}, sallyport.Limit{Rate: "5/minute", Name: "a b"}, "limit name"},
		"with a bad name for key": {limitGate{}, sallyport.Limit{Rate: "5/minute", By: "a b", Key: func(*http.Request) string { return "" }}, "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, tt.want) {
					t.Errorf("panic %q", got)
				}
			}()
			sallyport.NewMux(tt.gate).HandleFunc("GET /", sallyport.Public(), hello, tt.limit)
		})
	}
	own := sallyport.Limit{Rate: "5/minute", By: "tenant", Key: func(*http.Request) string { return "" }}
	sallyport.NewMux(limitGate{}).HandleFunc("GET /", sallyport.Public(), hello, own)
	if own.String() != "5/minute by tenant" || own.Behind() {
		t.Error(own)
	}
}
