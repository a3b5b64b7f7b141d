package reqctx_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/reqctx"
)

func admit(c *reqctx.Carrier, subject string) {
	p := sallyport.NewPrincipal(sallyport.Claims{Subject: subject}, nil)
	c.Own().Full = &p
	c.Admit(nil)
}

func TestOneCarrierARequest(t *testing.T) {
	r, c := reqctx.Begin(httptest.NewRequest("GET", "/", nil))
	again, c2 := reqctx.Begin(r)
	if again != r || c2 != c {
		t.Error("a second carrier was made")
	}
	if p := sallyport.From(r.Context()); !p.Anonymous() {
		t.Errorf("principal before the gate: %v", p)
	}
	admit(c, "u")
	if p := sallyport.From(r.Context()); p.ID() != "u" {
		t.Errorf("principal: %v", p)
	}
	i := reqctx.InfoFrom(r.Context())
	if i.Actor != "u" || i.ActorKind != "user" || i.RequestID != c.ID() || i.Address != "192.0.2.1" {
		t.Errorf("info: %+v", i)
	}
}

// A handler that calls another route in the process, with its own context and
// another's credential, stays who it is.
func TestASubRequestHasACarrierOfItsOwn(t *testing.T) {
	r, c := reqctx.Enter(httptest.NewRequest("GET", "/", nil))
	admit(c, "caller")
	sub, c2 := reqctx.Enter(httptest.NewRequest("GET", "/", nil).WithContext(r.Context()))
	admit(c2, "service")
	if p := sallyport.From(r.Context()); p.ID() != "caller" {
		t.Errorf("the caller became %v", p)
	}
	if p := sallyport.From(sub.Context()); p.ID() != "service" || c2.ID() != c.ID() {
		t.Errorf("the sub-request: %v, id %s and %s", p, c.ID(), c2.ID())
	}
}

// Nor are two that are called at once by a handler without a gate ever one.
func TestEveryGateHasACarrierOfItsOwn(t *testing.T) {
	r, outer := reqctx.Begin(httptest.NewRequest("GET", "/", nil))
	var wg sync.WaitGroup
	seen := make([]*reqctx.Carrier, 50)
	for i := range seen {
		wg.Go(func() {
			sub, c := reqctx.Enter(r)
			admit(c, fmt.Sprint(i))
			seen[i] = c
			if p := sallyport.From(sub.Context()); p.ID() != fmt.Sprint(i) || c.ID() != outer.ID() {
				t.Errorf("%d is %s, id %s and %s", i, p.ID(), c.ID(), outer.ID())
			}
		})
	}
	wg.Wait()
	for i, c := range seen {
		if slices.Contains(seen[:i], c) {
			t.Fatal("two gates share a carrier")
		}
	}
}

func TestRequestIDs(t *testing.T) {
	for id, kept := range map[string]bool{
		"abc-1.2_3": true, strings.Repeat("a", 64): true,
		"": false, strings.Repeat("a", 65): false, "a b": false, "a\r\nX: y": false, "ä": false, "a;b": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Request-Id"] = []string{id}
		_, c := reqctx.Begin(r)
		if (c.ID() == id) != kept || c.ID() == "" {
			t.Errorf("%q: id %q", id, c.ID())
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["X-Request-Id"] = []string{"a", "b"}
	if _, c := reqctx.Begin(r); c.ID() == "a" || c.ID() == "b" {
		t.Error("one of two ids was kept")
	}
}

func TestUserAgentIsFitForALog(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("User-Agent", "a\x1b[31m\r\nb"+strings.Repeat("x", 1000))
	r, _ = reqctx.Begin(r)
	ua := reqctx.InfoFrom(r.Context()).UserAgent
	if len(ua) > 256 || strings.ContainsAny(ua, "\x1b\r\n") || !strings.HasPrefix(ua, "a?[31m??b") {
		t.Errorf("%q", ua)
	}
}

func TestWithoutARequestItIsTheOperator(t *testing.T) {
	i := reqctx.InfoFrom(reqctx.AsOperator(t.Context(), "cli:root"))
	if i.ActorKind != "operator" || i.Actor != "cli:root" {
		t.Errorf("%+v", i)
	}
}
