package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// Limits that routes declare (letter Q of the threat list).

// tooMany fails unless a reply is the refusal of the limit of this name, whose
// whole quota is used up and of which one takes perUnit seconds to come back.
func tooMany(t *testing.T, what string, r reply, name string, quota, perUnit int) {
	t.Helper()
	wait, err := strconv.Atoi(r.header.Get("Retry-After"))
	if r.status != 429 || err != nil || wait < 1 || wait > perUnit || wait < perUnit-20 {
		t.Errorf("%s: status %d, Retry-After %q, want 429 and at most %d: %.300s", what, r.status, r.header.Get("Retry-After"), perUnit, r.body)
		return
	}
	if got, want := r.header["Ratelimit"], fmt.Sprintf(`"%s";r=0;t=%d`, name, wait); len(got) != 1 || got[0] != want {
		t.Errorf("%s: RateLimit %q, want %q", what, got, want)
	}
	if got, want := r.header["Ratelimit-Policy"], fmt.Sprintf(`"%s";q=%d;w=%d`, name, quota, quota*perUnit); len(got) != 1 || got[0] != want {
		t.Errorf("%s: RateLimit-Policy %q, want %q", what, got, want)
	}
	if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Www-Authenticate") != "" || r.header.Get("X-Request-Id") == "" {
		t.Errorf("%s: %v", what, r.header)
	}
	switch m := r.json(t); {
	case r.header.Get("Content-Type") == "application/json": // RFC 6749's form
		if m["error"] != "too_many_attempts" || m["error_description"] == "" || m["code"] != nil {
			t.Errorf("%s: %s", what, r.body)
		}
	case r.header.Get("Content-Type") != "application/problem+json" || m["code"] != "rate_limited" || m["status"] != 429.0:
		t.Errorf("%s: %v %s", what, r.header, r.body)
	}
}

// whoami answers with the id of its caller, “-” for nobody.
func whoami(w http.ResponseWriter, r *http.Request) {
	id := sallyport.From(r.Context()).ID()
	if id == "" {
		id = "-"
	}
	fmt.Fprint(w, id)
}

type whoOutput struct {
	ID string `json:"id"`
}

func typedWho(ctx context.Context, _ *struct{}) (*api.Body[whoOutput], error) {
	return &api.Body[whoOutput]{Body: whoOutput{sallyport.From(ctx).ID()}}, nil
}

// each runs a test against a plain route and a typed operation with the same
// rule and limits, GET /limited.
func each(t *testing.T, rule sallyport.Rule, limits []sallyport.Limit, f func(t *testing.T, w *world)) {
	for _, kind := range []string{"plain", "typed"} {
		t.Run(kind, func(t *testing.T) {
			f(t, newWorld(t, testkit.SQLite(t), func(w *world) {
				if kind == "plain" {
					w.mux.HandleFunc("GET /limited", rule, whoami, limits...)
				} else {
					api.Get(w.sv.API(), "/limited", rule, typedWho, api.Doc("Test", "Who", ""), api.Limit(limits...))
				}
			}))
		})
	}
}

// By address: before a credential is looked at. Who guesses them uses the limit
// up, and then a good one does not help; elsewhere it does.
func TestQ_RouteByAddress(t *testing.T) {
	t.Parallel()
	each(t, sallyport.SignedIn(), []sallyport.Limit{{Rate: "4/hour", Name: "narrow"}}, func(t *testing.T, w *world) {
		id, tk := w.user("ada")
		eve, home := w.at("127.0.31.1"), w.at("127.0.31.2")
		for i, token := range []string{"", "x", tk.access, tk.access + "x"} {
			r := eve.send(w.request("GET", "/limited", token, nil))
			if want := map[bool]int{true: 200, false: 401}[token == tk.access]; r.status != want {
				t.Errorf("request %d: status %d, want %d: %s", i, r.status, want, r.body)
			}
			if got, want := r.header.Get("RateLimit"), fmt.Sprintf(`"narrow";r=%d;t=`, 3-i); !strings.HasPrefix(got, want) {
				t.Errorf("request %d: RateLimit %q, want %s…", i, got, want)
			}
			if got := r.header.Get("RateLimit-Policy"); got != `"narrow";q=4;w=3600` {
				t.Errorf("request %d: RateLimit-Policy %q", i, got)
			}
		}
		w.events("credential.refused", 2)
		for what, token := range map[string]string{"a good credential": tk.access, "none": "", "a bad one": "y"} {
			tooMany(t, what, eve.send(w.request("GET", "/limited", token, nil)), "narrow", 4, 900)
		}
		if n := len(w.events("credential.refused", 2)); n != 2 {
			t.Errorf("%d credentials were refused, want 2: one was looked at behind the limit", n)
		}
		// The other routes do not know of it.
		eve.send(w.request("GET", "/users/me", tk.access, nil)).want(t, 200, "")
		if r := home.send(w.request("GET", "/limited", tk.access, nil)).want(t, 200, ""); !strings.Contains(string(r.body), id) {
			t.Errorf("elsewhere: %s", r.body)
		}
	})
}

// By account: behind the credential. What is not let in does not count; all
// credentials of an account do, from everywhere, and the handler knows its caller.
func TestQ_RouteByAccount(t *testing.T) {
	each(t, sallyport.SignedIn(), []sallyport.Limit{{Rate: "4/hour", By: sallyport.ByAccount, Name: "each"}}, func(t *testing.T, w *world) {
		ada, tk := w.user("ada")
		bob, other := w.user("bob")
		second, key := w.signIn("ada", goodPassword), w.key(tk)
		v, elsewhere := w.at("127.0.32.1"), w.at("127.0.32.2")
		for range 10 {
			for _, token := range []string{"", "x"} {
				if r := v.send(w.request("GET", "/limited", token, nil)).want(t, 401, ""); r.header.Get("RateLimit") != "" {
					t.Errorf("who is not let in is told of a limit: %v", r.header)
				}
			}
		}
		for i, req := range []*http.Request{
			w.request("GET", "/limited", tk.access, nil), w.request("GET", "/limited", second.access, nil), w.keyed("GET", "/limited", key.key, nil), w.request("GET", "/limited", tk.access, nil),
		} {
			from := []*visitor{v, elsewhere}[i%2]
			if r := from.send(req).want(t, 200, ""); !strings.Contains(string(r.body), ada) {
				t.Errorf("request %d: the handler knows %s, and not %s", i, r.body, ada)
			} else if got := r.header.Get("RateLimit"); !strings.HasPrefix(got, fmt.Sprintf(`"each";r=%d;t=`, 3-i)) {
				t.Errorf("request %d: RateLimit %q", i, got)
			}
		}
		for what, req := range map[string]*http.Request{
			"a session": w.request("GET", "/limited", tk.access, nil), "another": w.request("GET", "/limited", second.access, nil), "a key": w.keyed("GET", "/limited", key.key, nil),
		} {
			tooMany(t, what, elsewhere.send(req), "each", 4, 900)
		}
		if r := v.send(w.request("GET", "/limited", other.access, nil)).want(t, 200, ""); !strings.Contains(string(r.body), bob) {
			t.Errorf("somebody else at the same address: %s", r.body)
		}
		v.send(w.request("GET", "/limited", "x", nil)).want(t, 401, "") // a bad credential is told so, still
	})
}

// By credential: sessions and keys of one account have a limit each; a new access
// token of a session has none of its own.
func TestQ_RouteByCredential(t *testing.T) {
	each(t, sallyport.SignedIn(), []sallyport.Limit{{Rate: "2/hour", By: sallyport.ByCredential, Name: "each"}}, func(t *testing.T, w *world) {
		_, tk := w.user("ada")
		second, key, otherKey := w.signIn("ada", goodPassword), w.key(tk), w.key(tk)
		bearer := func(access string) func() *http.Request {
			return func() *http.Request { return w.request("GET", "/limited", access, nil) }
		}
		byKey := func(key string) func() *http.Request {
			return func() *http.Request { return w.keyed("GET", "/limited", key, nil) }
		}
		for what, req := range map[string]func() *http.Request{
			"a session": bearer(tk.access), "another": bearer(second.access), "a key": byKey(key.key), "another key": byKey(otherKey.key),
		} {
			for range 2 {
				w.send(req()).want(t, 200, "")
			}
			tooMany(t, what, w.send(req()), "each", 2, 1800)
		}
		renewed := w.refresh(tk)
		tooMany(t, "a new token of a session", w.do("GET", "/limited", renewed.access, nil), "each", 2, 1800)
		w.do("GET", "/limited", w.signIn("ada", goodPassword).access, nil).want(t, 200, "")
	})
}

// Nobody has no account: on a public route a limit by account counts those
// without one by address.
func TestQ_RouteByAccountOfNobody(t *testing.T) {
	each(t, sallyport.Public(), []sallyport.Limit{{Rate: "2/hour", By: sallyport.ByAccount, Name: "each"}}, func(t *testing.T, w *world) {
		ada, tk := w.user("ada")
		v := w.at("127.0.33.1")
		for range 2 {
			v.send(w.request("GET", "/limited", "", nil)).want(t, 200, "")
		}
		tooMany(t, "nobody", v.send(w.request("GET", "/limited", "", nil)), "each", 2, 1800)
		w.at("127.0.33.2").send(w.request("GET", "/limited", "", nil)).want(t, 200, "")
		if r := v.send(w.request("GET", "/limited", tk.access, nil)).want(t, 200, ""); !strings.Contains(string(r.body), ada) {
			t.Errorf("somebody: %s", r.body)
		}
	})
}

// By route: everybody together, wherever they are.
func TestQ_RouteByRoute(t *testing.T) {
	each(t, sallyport.Public(), []sallyport.Limit{{Rate: "3/hour", By: sallyport.ByRoute, Name: "together"}}, func(t *testing.T, w *world) {
		for i := range 3 {
			w.at(fmt.Sprintf("127.0.34.%d", i+1)).send(w.request("GET", "/limited", "", nil)).want(t, 200, "")
		}
		tooMany(t, "a fourth one", w.at("127.0.34.9").send(w.request("GET", "/limited", "", nil)), "together", 3, 1200)
	})
}

// By a function: one that says nothing limits nothing, and its key is nobody
// else's, whatever a caller writes.
func TestQ_RouteByKey(t *testing.T) {
	tenant := func(r *http.Request) string { return r.URL.Query().Get("tenant") }
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		shared := sallyport.Limit{Rate: "2/hour", Key: tenant, Name: "tenants"}
		w.mux.HandleFunc("GET /limited", sallyport.Public(), whoami, shared)
		w.mux.HandleFunc("GET /also", sallyport.Public(), whoami, sallyport.Limit{Rate: "2/hour", Name: "tenants"})
		w.mux.HandleFunc("GET /all", sallyport.Public(), whoami, sallyport.Limit{Rate: "2/hour", By: sallyport.ByRoute, Name: "tenants"})
	})
	get := func(path string) reply { return w.do("GET", path, "", nil) }
	for range 10 {
		get("/limited").want(t, 200, "")
	}
	for _, name := range []string{"a", "b", "127.0.0.1", "all", "unknown"} {
		for range 2 {
			get("/limited?tenant="+name).want(t, 200, "")
		}
		tooMany(t, "tenant "+name, get("/limited?tenant="+name), "tenants", 2, 1800)
	}
	// A tenant that is called like an address, or like the whole route, is neither.
	get("/also").want(t, 200, "")
	get("/all").want(t, 200, "")
}

// Limits of one name are one, over plain routes, typed operations and a Mux that
// is mounted; a limit without a name is its route's own.
func TestQ_OneNameOneLimit(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		shared := sallyport.Limit{Rate: "3/hour", By: sallyport.ByAccount, Name: "shared"}
		own := sallyport.Limit{Rate: "3/hour"}
		w.mux.HandleFunc("GET /one", sallyport.SignedIn(), whoami, shared)
		api.Get(w.sv.API(), "/two", sallyport.SignedIn(), typedWho, api.Doc("Test", "Who", ""), api.Limit(shared))
		sub := sallyport.NewMux(w.sv)
		sub.HandleFunc("GET /three", sallyport.SignedIn(), whoami, shared)
		w.mux.Mount("/sub", sub)
		w.mux.HandleFunc("GET /own", sallyport.SignedIn(), whoami, own)
		w.mux.HandleFunc("GET /own2", sallyport.SignedIn(), whoami, own, own)
	})
	_, tk := w.user("ada")
	for _, path := range []string{"/one", "/two", "/sub/three"} {
		w.do("GET", path, tk.access, nil).want(t, 200, "")
	}
	for _, path := range []string{"/one", "/two", "/sub/three"} {
		tooMany(t, path, w.do("GET", path, tk.access, nil), "shared", 3, 1200)
	}
	for _, path := range []string{"/own", "/own2"} {
		for range 3 {
			w.do("GET", path, tk.access, nil).want(t, 200, "")
		}
		w.do("GET", path, tk.access, nil).want(t, 429, "rate_limited")
	}
}

// Mistakes in limits are the program's, and show when it starts.
func TestQ_MistakesInLimits(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Limits = server.Limits{Login: "7/minute"} })
	handle := func(l ...sallyport.Limit) func() {
		return func() {
			sallyport.NewMux(w.sv).HandleFunc("GET /x", sallyport.Public(), whoami, l...)
		}
	}
	for name, tt := range map[string]struct {
		f    func()
		want string
	}{
		"no rate":                   {handle(sallyport.Limit{}), "GET /x"},
		"nonsense":                  {handle(sallyport.Limit{Rate: "often"}), "often"},
		"none a minute":             {handle(sallyport.Limit{Rate: "0/minute"}), "0/minute"},
		"off":                       {handle(sallyport.Limit{Rate: "off"}), "off"},
		"a name that is none":       {handle(sallyport.Limit{Rate: "1/minute", Name: "A b"}), "limit name"},
		"by what is not known":      {handle(sallyport.Limit{Rate: "1/minute", By: "moon"}), "moon"},
		"one name, two rates":       {handle(sallyport.Limit{Rate: "1/minute", Name: "two"}, sallyport.Limit{Rate: "2/minute", Name: "two"}), `limit "two"`},
		"the server's name":         {handle(sallyport.Limit{Rate: "2/minute", Name: "sign-in"}), `limit "sign-in"`},
		"the server's, of accounts": {handle(sallyport.Limit{Rate: "2/minute", Name: "register"}), `limit "register"`},
		"a typed operation": {func() {
			api.Get(w.sv.API(), "/y", sallyport.Public(), typedWho, api.Limit(sallyport.Limit{Rate: "often"}))
		}, "often"},
	} {
		if got := panics(tt.f); !strings.Contains(got, tt.want) {
			t.Errorf("%s: panicked with %q, want %q in it", name, got, tt.want)
		}
	}
	for name, f := range map[string]func(){
		"one name, one rate": handle(sallyport.Limit{Rate: "1/hour", Name: "same"}, sallyport.Limit{Rate: "1/hour", By: sallyport.ByRoute, Name: "same"}),
		"the server's own":   handle(sallyport.Limit{Rate: "7/minute", Name: "sign-in"}),
		"several rates":      handle(sallyport.Limit{Rate: "1/second, 20/minute;burst=3"}),
	} {
		if got := panics(f); got != "" {
			t.Errorf("%s: panicked: %s", name, got)
		}
	}
}

// A limit of the server's own names counts with the server's: a program's route
// that tests passwords in its own way, say.
func TestQ_TheServersOwnNames(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		w.mux.HandleFunc("POST /old-login", sallyport.Public(), whoami, sallyport.Limit{Rate: "4/hour", Name: "sign-in"})
	}, noLockout, func(c *server.Config) { c.Limits = server.Limits{Default: server.LimitOff, Login: "4/hour"} })
	w.register("ada")
	v := w.at("127.0.35.1")
	for range 2 {
		v.token("ada", badPassword).want(t, 401, "")
		v.send(w.request("POST", "/old-login", "", nil)).want(t, 200, "")
	}
	tooMany(t, "the server's route", v.token("ada", goodPassword), "sign-in", 4, 900)
	tooMany(t, "the program's", v.send(w.request("POST", "/old-login", "", nil)), "sign-in", 4, 900)
	w.at("127.0.35.2").token("ada", goodPassword).want(t, 200, "")
}

// A limit that says for what is listed and documented, and the handler counts it.
func TestQ_LimitsAreDeclared(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		limits := []sallyport.Limit{
			{Rate: "5/minute"},
			{Rate: "100/hour;burst=20", By: sallyport.ByAccount, Name: "own"},
			{Rate: "9/day", Key: func(*http.Request) string { return "" }, By: "tenant"},
			{Rate: "1/day", For: "what=everything", Name: "listed"},
		}
		w.mux.HandleFunc("GET /plain", sallyport.Public(), whoami, limits...)
		api.Get(w.sv.API(), "/typed", sallyport.Public(), typedWho, api.Doc("Test", "Who", ""), api.Limit(limits[:2]...), api.Limit(limits[2:]...))
		api.Get(w.sv.API(), "/free", sallyport.Public(), typedWho, api.Doc("Test", "Free", ""))
		w.mux.HandleFunc("GET /only-listed", sallyport.Public(), whoami, limits[3])
	}, func(c *server.Config) {
		c.Limits = server.Limits{Default: server.LimitOff, Login: "41/minute", Register: "42/hour"}
	})
	for range 10 {
		if r := w.do("GET", "/only-listed", "", nil).want(t, 200, ""); r.header.Get("RateLimit") != "" {
			t.Errorf("a limit that is only listed is counted: %v", r.header)
		}
	}
	const own = `[{"rate":"5/minute","by":"address"},{"rate":"100/hour;burst=20","by":"account","name":"own"},{"rate":"9/day","by":"tenant"},{"rate":"1/day","by":"address","for":"what=everything","name":"listed"}]`
	want := map[string]string{
		"GET /plain": own, "GET /typed": own, "GET /free": "null",
		"GET /only-listed":         `[{"rate":"1/day","by":"address","for":"what=everything","name":"listed"}]`,
		"POST /token":              `[{"rate":"41/minute","by":"address","for":"grant_type=password","name":"sign-in"}]`,
		"POST /auth/login":         `[{"rate":"41/minute","by":"address","for":"a password","name":"sign-in"}]`,
		"PUT /users/me/password":   `[{"rate":"41/minute","by":"address","for":"the current password","name":"sign-in"}]`,
		"POST /auth/verify":        `[{"rate":"41/minute","by":"address","for":"a password","name":"sign-in"}]`,
		"POST /2fa/verify":         `[{"rate":"41/minute","by":"address","for":"a code","name":"sign-in"}]`,
		"POST /2fa/recovery-codes": `[{"rate":"41/minute","by":"address","for":"a code","name":"sign-in"}]`,
		"DELETE /2fa":              `[{"rate":"41/minute","by":"address","for":"a code","name":"sign-in"}]`,
		"POST /auth/register":      `[{"rate":"42/hour","by":"address","name":"register"}]`,
		"POST /auth/setup":         `[{"rate":"42/hour","by":"address","name":"register"}]`,

		"POST /auth/forgot-password":      `[{"rate":"30/hour;burst=10","by":"address","name":"letters"}]`,
		"POST /auth/request-link":         `[{"rate":"30/hour;burst=10","by":"address","name":"letters"}]`,
		"POST /auth/link":                 `[{"rate":"41/minute","by":"address","for":"a code","name":"sign-in"}]`,
		"POST /auth/request-verify-token": `[{"rate":"30/hour;burst=10","by":"address","name":"letters"}]`,
	}
	listed := map[string]string{}
	for _, r := range w.mux.Routes() {
		b, err := json.Marshal(r.Limits)
		if err != nil {
			t.Fatal(err)
		}
		listed[r.Method+" "+r.Path] = string(b)
	}
	for route, limits := range listed {
		if expected, ok := want[route]; limits != expected && (ok || limits != "null") {
			t.Errorf("Routes: %s has %s, want %s", route, limits, expected)
		}
	}
	for route := range want {
		if listed[route] == "" {
			t.Errorf("%s is not listed", route)
		}
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]any
			Limits    json.RawMessage `json:"x-sallyport-limits"`
		}
	}
	if err := json.Unmarshal(w.do("GET", "/openapi.json", "", nil).want(t, 200, "").body, &doc); err != nil {
		t.Fatal(err)
	}
	documented := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			route := strings.ToUpper(method) + " " + path
			limits := "null"
			if op.Limits != nil {
				var compact bytes.Buffer
				if err := json.Compact(&compact, op.Limits); err != nil {
					t.Fatal(err)
				}
				limits = compact.String()
			}
			if limits != listed[route] {
				t.Errorf("the document has %s for %s, and it is %s", limits, route, listed[route])
			}
			if limits != "null" {
				documented++
				if op.Responses["429"] == nil {
					t.Errorf("%s has limits and no 429", route)
				}
			}
		}
	}
	if documented != 14 {
		t.Errorf("%d operations have limits in the document, want 14", documented)
	}
}

// Exactly as many as the limit says pass, however many come at once, whatever
// they are counted by.
func TestQ_ExactlyN(t *testing.T) {
	limits := map[string]sallyport.Limit{
		"/address": {Rate: "20/hour"}, "/account": {Rate: "20/hour", By: sallyport.ByAccount},
		"/route": {Rate: "20/hour", By: sallyport.ByRoute}, "/key": {Rate: "20/hour", Key: func(*http.Request) string { return "k" }},
	}
	var handled atomic.Int64
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		for path, l := range limits {
			w.mux.HandleFunc("GET "+path, sallyport.SignedIn(), func(http.ResponseWriter, *http.Request) { handled.Add(1) }, l)
		}
	})
	_, tk := w.user("ada")
	v := w.at("127.0.36.1")
	for path := range limits {
		var passed, refused atomic.Int64
		handled.Store(0)
		parallel(200, func(int) {
			switch r := v.send(w.request("GET", path, tk.access, nil)); r.status {
			case 200:
				passed.Add(1)
			case 429:
				refused.Add(1)
			default:
				t.Errorf("%s: status %d: %s", path, r.status, r.body)
			}
		})
		if passed.Load() != 20 || refused.Load() != 180 || handled.Load() != 20 {
			t.Errorf("%s: %d passed, %d were refused, %d were handled", path, passed.Load(), refused.Load(), handled.Load())
		}
	}
}

// What a handler behind a limit writes is still decided by what its caller may
// do when it is written.
func TestQ_LimitKeepsTheGuardOfWrites(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		by := []sallyport.By{sallyport.ByAddress, sallyport.ByAccount, sallyport.ByCredential}
		w := newWorld(t, d, func(w *world) {
			for _, by := range by {
				w.mux.HandleFunc("POST /"+string(by), sallyport.SignedIn(), func(rw http.ResponseWriter, r *http.Request) {
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						t.Error(err)
					}
					if err := w.db.Write(r.Context(), func(*db.Tx) error { return nil }); err != nil {
						sallyport.WriteError(rw, sallyport.AsError(err))
					}
				}, sallyport.Limit{Rate: "100/hour", By: by})
			}
		})
		for _, by := range by {
			path := "/" + string(by)
			id, tk := w.user("ada-" + string(by))
			w.do("POST", path, tk.access, "{}").want(t, 200, "")
			s := w.slow("POST", path, tk.access)
			w.disable(id)
			if r := s.finish("{}"); r.status != 401 {
				t.Errorf("by %s: status %d of a write by an account that was disabled meanwhile: %s", by, r.status, r.body)
			}
		}
	})
}

// An address's limit stands before the account's, and both are told.
func TestQ_LimitsTogether(t *testing.T) {
	each(t, sallyport.SignedIn(), []sallyport.Limit{
		{Rate: "3/hour", By: sallyport.ByAccount, Name: "inner"}, {Rate: "5/hour", Name: "outer"},
	}, func(t *testing.T, w *world) {
		_, tk := w.user("ada")
		v := w.at("127.0.37.1")
		get := func() reply { return v.send(w.request("GET", "/limited", tk.access, nil)) }
		policy := []string{`"outer";q=5;w=3600, "inner";q=3;w=3600`}
		for i := range 3 {
			r := get().want(t, 200, "")
			if !slices.Equal(r.header["Ratelimit-Policy"], policy) || !strings.HasPrefix(r.header.Get("RateLimit"), fmt.Sprintf(`"inner";r=%d;`, 2-i)) {
				t.Errorf("request %d: %v", i, r.header)
			}
		}
		for range 2 { // refused by the inner one, charged to the outer one
			r := get().want(t, 429, "rate_limited")
			if !slices.Equal(r.header["Ratelimit-Policy"], policy) || !strings.HasPrefix(r.header.Get("RateLimit"), `"inner";r=0;`) {
				t.Errorf("the account's: %v", r.header)
			}
		}
		if r := get().want(t, 429, "rate_limited"); !strings.HasPrefix(r.header.Get("RateLimit"), `"outer";r=0;`) {
			t.Errorf("the address's: %v", r.header)
		}
	})
}

// An operation that words its refusals in a form of its own words that of a limit,
// too, wherever it stands; Retry-After and the quota are told in any form.
func TestQ_RefusalsInTheirOwnForm(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		for path, by := range map[string]sallyport.By{"/before": sallyport.ByAddress, "/behind": sallyport.ByAccount} {
			w.sv.API().Raw(huma.Operation{
				Method: "GET", Path: path, Summary: "Who", Tags: []string{"Test"}, Responses: map[string]*huma.Response{"200": {Description: "OK"}},
			}, sallyport.SignedIn(), whoami, api.Limit(sallyport.Limit{Rate: "2/hour", By: by, Name: "own"}),
				api.RefuseWith(func(rw http.ResponseWriter, _ *http.Request, e *sallyport.Error) {
					e.SetRetryAfter(rw.Header())
					rw.WriteHeader(e.Status)
					fmt.Fprint(rw, "refused: ", e.Code)
				}))
		}
	})
	_, tk := w.user("ada")
	for _, path := range []string{"/before", "/behind"} {
		for range 2 {
			w.do("GET", path, tk.access, nil).want(t, 200, "")
		}
		r := w.do("GET", path, tk.access, nil).want(t, 429, "")
		if string(r.body) != "refused: rate_limited" || r.header.Get("Retry-After") == "" || r.header.Get("RateLimit-Policy") != `"own";q=2;w=3600` {
			t.Errorf("%s: %v %s", path, r.header, r.body)
		}
	}
	if r := w.do("GET", "/behind", "", nil).want(t, 401, ""); string(r.body) != "refused: unauthenticated" {
		t.Errorf("the gate's refusal: %s", r.body)
	}
}
