package prove_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/prove"
)

// shop is a small service of somebody else's: three operations behind tokens with
// scopes, one public, and faults that can be switched on.
type shop struct {
	fault string

	mu     sync.Mutex
	damage []string // what was changed
	limits int      // how many requests are refused as too many, yet
}

const shopDocument = `{
  "openapi": "3.1.0", "info": {"title": "Shop", "version": "1"},
  "paths": {
    "/hello": {"get": {"responses": {}}},
    "/items": {
      "get": {"security": [{"oauth": ["read"]}]},
      "post": {"security": [{"oauth": ["write"]}], "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Item"}}}}}
    },
    "/items/{id}": {"parameters": [{"name": "id", "in": "path", "schema": {"type": "integer"}}],
      "delete": {"security": [{"oauth": ["write"]}]}},
    "/empty": {"post": {"security": [{"oauth": ["write"]}]}}
  },
  "components": {
    "securitySchemes": {"oauth": {"type": "oauth2", "flows": {}}},
    "schemas": {"Item": {"type": "object", "required": ["name"]}}
  }
}`

// tokens of the shop, with their scopes.
var shopTokens = map[string][]string{"reader": {"read"}, "writer": {"write"}, "all": {"read", "write"}, "old": {"read", "write"}}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refuse := func(status int) {
		if status == 401 && s.fault != "no challenge" {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		if status == 401 && s.fault == "403 for 401" {
			status = 403
		}
		w.WriteHeader(status)
	}
	if s.limits > 0 {
		s.limits--
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(429)
		return
	}
	scope := map[string]string{"GET /items": "read", "POST /items": "write", "POST /empty": "write"}[r.Method+" "+r.URL.Path]
	if strings.HasPrefix(r.URL.Path, "/items/") {
		scope = "write"
	}
	if scope == "" && r.URL.Path != "/hello" || r.URL.Path == "/items" && s.fault == "not served" {
		w.WriteHeader(404)
		return
	}
	var body any
	berr := json.NewDecoder(r.Body).Decode(&body)
	if s.fault == "body first" && r.Method == "POST" && r.URL.Path == "/items" {
		if _, ok := body.(map[string]any); berr != nil || !ok {
			w.WriteHeader(422)
			return
		}
	}
	if scope != "" && (s.fault != "open" || r.Method != "POST") {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		scopes, known := shopTokens[token]
		switch {
		case s.fault == "unverified" && strings.Count(token, ".") == 2:
			scopes = []string{"read", "write"}
		case !known, token == "old" && s.fault != "expired":
			refuse(401)
			return
		}
		if !slices.Contains(scopes, scope) && s.fault != "no scopes" {
			refuse(403)
			return
		}
	}
	if s.fault == "fails" && r.URL.Path == "/items" {
		w.WriteHeader(500)
		return
	}
	switch {
	case r.Method == "DELETE" && r.URL.Path != "/items/7":
		w.WriteHeader(404)
	case r.Method == "POST" && r.URL.Path == "/items":
		if m, ok := body.(map[string]any); berr != nil || !ok || m["name"] == nil {
			w.WriteHeader(422)
			return
		}
		s.damage = append(s.damage, "made an item")
	case r.Method == "POST", r.Method == "DELETE":
		s.damage = append(s.damage, r.Method+" "+r.URL.Path)
	}
}

func read(t *testing.T, text string) *prove.Document {
	t.Helper()
	d, err := prove.ReadDocument(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// given are the shop's tokens, as --token-file has them.
func given(t *testing.T, d *prove.Document) []prove.Given {
	t.Helper()
	var f prove.GivenFile
	var list []map[string]any
	for _, name := range []string{"reader", "writer", "all", "old"} {
		list = append(list, map[string]any{"name": name, "kind": "bearer", "credential": name, "scopes": shopTokens[name], "expired": name == "old"})
	}
	b, err := json.Marshal(map[string]any{"credentials": list})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	out, err := f.Given(d, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func run(t *testing.T, h http.Handler, d *prove.Document, opt prove.Options) prove.Report {
	t.Helper()
	ts := httptest.NewServer(h)
	defer ts.Close()
	u, err := url.Parse(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	cases, left := prove.Plan(d, opt)
	r := prove.Runner{Base: u}
	rep, err := r.Run(t.Context(), d, cases)
	if err != nil {
		t.Fatal(err)
	}
	rep.Merge(nil, left)
	return rep
}

// A server that does what its document says has no difference, and each fault
// shows as what it is; nothing is changed by any of it.
func TestFaultsAreFound(t *testing.T) {
	for _, tt := range []struct {
		fault string
		want  []string // parts of differences, each in one: operation, principal, got, means
	}{
		{"", nil},
		{"open", []string{"POST /items|nobody|422|OPEN: anybody", "POST /items|reader|422|OPEN: somebody", "POST /items|a forged token|422|OPEN: a credential is not verified"}},
		{"expired", []string{"GET /items|old|200|OPEN: an expired", "DELETE /items/{id}|old|404|OPEN: an expired"}},
		{"unverified", []string{"GET /items|a forged token|200|OPEN: a credential is not verified", "GET /items|a token with alg none|200|OPEN"}},
		{"no scopes", []string{"GET /items|writer|200|OPEN: somebody", "DELETE /items/{id}|reader|404|OPEN: somebody"}},
		{"403 for 401", []string{"GET /items|nobody|403|but with 403"}},
		{"no challenge", []string{"GET /items|nobody|401|without WWW-Authenticate"}},
		{"not served", []string{"GET /items|nobody|404|not served"}},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			s := &shop{fault: tt.fault}
			d := read(t, shopDocument)
			rep := run(t, s, d, prove.Options{Given: given(t, d)})
			var lines []string
			for _, x := range rep.Differences {
				lines = append(lines, fmt.Sprintf("%s|%s|%s|%s", x.Operation, x.Principal, x.Got, x.Means))
			}
			for _, want := range tt.want {
				parts := strings.SplitN(want, "|", 4)
				if !slices.ContainsFunc(lines, func(l string) bool {
					return strings.HasPrefix(l, strings.Join(parts[:3], "|")+"|") && strings.Contains(l, parts[3])
				}) {
					t.Errorf("not found: %s in\n%s", want, strings.Join(lines, "\n"))
				}
			}
			if tt.want == nil && len(lines) > 0 {
				t.Errorf("differences of a server that does as it says:\n%s", strings.Join(lines, "\n"))
			}
			if len(s.damage) > 0 {
				t.Errorf("something was changed: %q", s.damage)
			}
			// What nothing would stop is not called, and said not to be.
			if len(rep.Untried) != 1 || rep.Untried[0].Operation != "POST /empty" || !strings.Contains(rep.Untried[0].Why, "--call") {
				t.Errorf("not tried: %+v", rep.Untried)
			}
			if rep.Calls < 20 || rep.Operations != 4 || tt.fault == "" && rep.Admitted != 6 {
				t.Errorf("%d calls of %d operations, %d let in", rep.Calls, rep.Operations, rep.Admitted)
			}
		})
	}
}

// Answers that say nothing are no differences, and no proof either.
func TestWhatDecidesNothing(t *testing.T) {
	t.Run("the server fails", func(t *testing.T) {
		t.Parallel()
		d := read(t, shopDocument)
		rep := run(t, &shop{fault: "fails"}, d, prove.Options{Given: given(t, d)})
		if len(rep.Differences) > 0 || !slices.ContainsFunc(rep.Untried, func(u prove.Untried) bool {
			return u.Operation == "GET /items" && u.Principal == "reader" && strings.Contains(u.Why, "500")
		}) {
			t.Errorf("%+v", rep)
		}
	})
	t.Run("the body is read first", func(t *testing.T) {
		t.Parallel()
		// Without required members the body is no JSON; the answer is about that.
		d := read(t, strings.Replace(shopDocument, `"required": ["name"]`, `"required": []`, 1))
		rep := run(t, &shop{fault: "body first"}, d, prove.Options{Given: given(t, d)})
		if len(rep.Differences) > 0 || !slices.ContainsFunc(rep.Untried, func(u prove.Untried) bool {
			return u.Operation == "POST /items" && u.Principal == "nobody" && strings.Contains(u.Why, "body")
		}) {
			t.Errorf("%+v", rep)
		}
	})
	t.Run("limits are waited for", func(t *testing.T) {
		t.Parallel()
		d := read(t, shopDocument)
		if rep := run(t, &shop{limits: 2}, d, prove.Options{Given: given(t, d)}); len(rep.Differences) > 0 || rep.Calls < 20 {
			t.Errorf("%+v", rep)
		}
	})
}

// A named operation is called last, and a credential that is not disposable is not
// sent to it.
func TestHarmless(t *testing.T) {
	d := read(t, shopDocument)
	g := given(t, d)
	g[2].Disposable = true // “all”
	s := &shop{}
	rep := run(t, s, d, prove.Options{Given: g, Harmless: []string{"POST /empty"}})
	if len(rep.Untried) > 0 || len(rep.Differences) > 0 || rep.Operations != 5 {
		t.Errorf("%+v", rep)
	}
	if len(s.damage) != 1 {
		t.Errorf("called with success %d times, want once", len(s.damage))
	}
}

// Credentials go to the given origin only, and redirects are not followed.
func TestCredentialsStay(t *testing.T) {
	d := read(t, shopDocument)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	rep := run(t, http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect), d, prove.Options{Given: given(t, d)})
	if !slices.ContainsFunc(rep.Differences, func(x prove.Difference) bool {
		return x.Operation == "GET /items" && strings.Contains(x.Means, "redirect")
	}) {
		t.Errorf("%+v", rep)
	}
}

func TestInterrupted(t *testing.T) {
	d := read(t, shopDocument)
	ts := httptest.NewServer(&shop{})
	defer ts.Close()
	u, err := url.Parse(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	cases, _ := prove.Plan(d, prove.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := prove.Runner{Base: u}
	if _, err := r.Run(ctx, d, cases); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	ts.Close()
	r = prove.Runner{Base: u}
	if _, err := r.Run(t.Context(), d, cases); err == nil || !strings.Contains(err.Error(), prove.ErrUnreachable.Error()) {
		t.Errorf("got %v", err)
	}
}

// The document is what somebody else wrote.
func TestBadDocuments(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no JSON":           {"openapi: 3.1.0", "not JSON"},
		"another thing":     {`{"swagger": "2.0"}`, "not an OpenAPI 3 document"},
		"no operations":     {`{"openapi": "3.1.0", "paths": {}}`, "no operations"},
		"too deep":          {strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200), "deeper than 128"},
		"unknown scheme":    {`{"openapi": "3.1.0", "paths": {"/a": {"get": {"security": [{"x": []}]}}}}`, `scheme "x"`},
		"reference outside": {`{"openapi": "3.1.0", "paths": {"/a": {"get": {"parameters": [{"$ref": "http://evil.example/p.json"}]}}}}`, "leads out"},
		"a rule of nothing": {`{"openapi": "3.1.0", "paths": {"/a": {"get": {"x-sallyport-rule": {"all": []}}}}}`, "no parts"},
		"a rule too deep":   {`{"openapi": "3.1.0", "paths": {"/a": {"get": {"x-sallyport-rule": ` + strings.Repeat(`{"all":[`, 30) + `"public"` + strings.Repeat("]}", 30) + `}}}}`, "nested deeper than 16"},
	} {
		if _, err := prove.ReadDocument(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := prove.ReadDocument(io.LimitReader(endless{}, prove.MaxDocument+100)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a document without end: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestCompareRoutes(t *testing.T) {
	d := read(t, `{"openapi": "3.1.0", "paths": {
		"/a/{id}": {"get": {"x-sallyport-rule": {"all": [{"permission": "x"}, "mfa"]}, "security": []}},
		"/b": {"get": {"x-sallyport-rule": "public", "security": []}}}}`)
	compare := func(list string, except ...string) (out []string) {
		t.Helper()
		routes, err := prove.ReadRoutes(strings.NewReader(list))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range prove.CompareRoutes(d, routes, except) {
			out = append(out, x.Operation+": "+x.Got)
		}
		return out
	}
	for _, tt := range []struct{ list, want string }{
		{"GET /a/{key} all(permission(x), mfa)\nGET /b public +setup", "[]"},
		{"METHOD PATH RULE LIMITS\nGET  /a/{id}  all(permission(x), mfa)  5/minute by address\nGET /b public -\n*  *  -  1/second", "[]"},
		{`{"schema":"sallyport.routes/v1","items":[{"method":"GET","path":"/a/{id}","rule":{"all":[{"permission":"x"},"mfa"]}},{"method":"GET","path":"/b","rule":"public"}]}`, "[]"},
		{"GET /a/{id} signed-in\nGET /b public", "[GET /a/{id}: signed-in]"},
		{"GET /a/{id} all(permission(x), mfa)\nGET /b public\nPOST /debug public", "[POST /debug: not documented]"},
		{"GET /a/{id} all(permission(x), mfa)", "[GET /b: not listed]"},
	} {
		if got := fmt.Sprint(compare(tt.list)); got != tt.want {
			t.Errorf("%s:\ngot %s, want %s", tt.list, got, tt.want)
		}
	}
	if got := compare("GET /a/{id}\nGET /b\nGET /healthz public", "GET /healthz"); got != nil {
		t.Errorf("a route that is meant not to be documented: %q", got)
	}
	for _, list := range []string{"", "what", `{"schema":"other","items":[]}`, `{`} {
		if _, err := prove.ReadRoutes(strings.NewReader(list)); err == nil {
			t.Errorf("%q was taken for a list", list)
		}
	}
}

func TestGivenFile(t *testing.T) {
	d := read(t, shopDocument)
	for text, want := range map[string]string{
		`{}`: "no credentials",
		`{"credentials":[{"name":"a","kind":"bearer"}]}`:                                                      "missing",
		`{"credentials":[{"name":"a","kind":"api_key","credential":"hunter2"}]}`:                              "no such scheme. It has: oauth",
		`{"credentials":[{"name":"a","kind":"bearer","credential":"hunter2","expired":true,"revoked":true}]}`: "not both",
		`{"credentials":[{"kind":"bearer","credential":"hunter2"}]}`:                                          "no name",
	} {
		var f prove.GivenFile
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			t.Fatal(err)
		}
		_, err := f.Given(d, time.Now())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
