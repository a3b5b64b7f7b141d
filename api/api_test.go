package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// gate lets everybody into public routes, and into others whoever sends a
// credential.
type gate struct{}

func (gate) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if rule.Op() != sallyport.OpPublic && r.Header.Get("Authorization") == "" {
				sallyport.WriteError(w, sallyport.Unauthenticated())
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func newAPI(change ...func(*Config)) (*API, *sallyport.Mux) {
	mux := sallyport.NewMux(gate{})
	cfg := Config{Title: "Test", Version: "1", Schemes: map[string]*huma.SecurityScheme{
		"bearer": {Type: "oauth2", Flows: &huma.OAuthFlows{Password: &huma.OAuthFlow{TokenURL: "/token"}}},
		"apiKey": {Type: "apiKey", In: "header", Name: "X-API-Key"},
	}}
	for _, f := range change {
		f(&cfg)
	}
	return New(mux, cfg), mux
}

// nothing answers 204.
func nothing[I any](context.Context, *I) (*None, error) { return nil, nil }

type answer struct {
	*httptest.ResponseRecorder
	sallyport.Problem
}

// ask sends a request with a JSON body, or with none if it is "".
func ask(t *testing.T, h http.Handler, method, target, text string, header ...string) answer {
	t.Helper()
	var body io.Reader
	if text != "" {
		body = strings.NewReader(text)
	}
	r := httptest.NewRequest(method, target, body)
	if text != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return serve(t, h, r)
}

func serve(t *testing.T, h http.Handler, r *http.Request) answer {
	t.Helper()
	a := answer{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(a, r)
	if a.ResponseRecorder.Code >= 400 {
		if got := a.Header().Get("Content-Type"); got != "application/problem+json" {
			t.Fatalf("status %d with content type %q", a.ResponseRecorder.Code, got)
		}
		if got := a.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("an error may be cached: %q", got)
		}
		if err := json.Unmarshal(a.Body.Bytes(), &a.Problem); err != nil {
			t.Fatalf("%v: %s", err, a.Body)
		}
		if a.Status != a.ResponseRecorder.Code || a.Problem.Code == "" || a.Detail == "" || a.Title == "" || a.Type == "" {
			t.Errorf("not whole: %s", a.Body)
		}
	}
	return a
}

// String is the status, the code, and the findings as "pointer code".
func (a answer) String() string {
	out := strconv.Itoa(a.ResponseRecorder.Code)
	if a.Problem.Code != "" {
		out += " " + a.Problem.Code
	}
	var fields []string
	for _, f := range a.Errors {
		fields = append(fields, strings.TrimSpace(f.Pointer+" "+f.Code))
	}
	slices.Sort(fields)
	return strings.TrimSpace(out + " " + strings.Join(fields, ", "))
}

// panics returns what f panics with, as text.
func panics(t *testing.T, f func()) (text string) {
	t.Helper()
	defer func() {
		p := recover()
		if p == nil {
			t.Fatal("no panic")
		}
		text = fmt.Sprint(p)
	}()
	f()
	return ""
}

// No operation comes into being without a rule.
func TestARuleMustBeGiven(t *testing.T) {
	var none sallyport.Rule
	for _, bad := range []sallyport.Rule{none, sallyport.All(), sallyport.Role("no name"), sallyport.Any(sallyport.Public())} {
		for name, register := range map[string]func(*API){
			"typed": func(a *API) { Get(a, "/a", bad, nothing[None]) },
			"raw": func(a *API) {
				a.Raw(huma.Operation{Method: "GET", Path: "/a"}, bad, func(http.ResponseWriter, *http.Request) {})
			},
		} {
			a, mux := newAPI()
			if text := panics(t, func() { register(a) }); !strings.Contains(text, `route "GET /a"`) {
				t.Errorf("%s: the panic does not name the route: %s", name, text)
			}
			if len(mux.Routes()) != 0 {
				t.Errorf("%s: the route was registered nevertheless", name)
			}
		}
	}
	a, mux := newAPI()
	Get(a, "/a", sallyport.Public(), nothing[None])
	if len(mux.Routes()) != 1 || ask(t, mux, "GET", "/a", "").String() != "204" {
		t.Error("a route with a rule does not answer")
	}
}

// watched is a body that remembers being read.
type watched struct {
	io.Reader
	read bool
}

func (b *watched) Read(p []byte) (int, error) { b.read = true; return b.Reader.Read(p) }

type nameInput struct {
	Body struct {
		Name string `json:"name"`
	}
}

// The gate answers before a byte of the body is read, and before anything is
// said about the body.
func TestTheRuleComesBeforeTheBody(t *testing.T) {
	a, mux := newAPI()
	Post(a, "/a", sallyport.SignedIn(), nothing[nameInput])
	for _, tt := range []struct {
		name, credential, contentType, text string
		want                                string
		read                                bool
	}{
		{"nobody", "", "application/json", `{"name":"x"}`, "401 unauthenticated", false},
		{"nobody with nonsense", "", "text/plain", `nonsense`, "401 unauthenticated", false},
		{"nobody with a bomb", "", "application/json", strings.Repeat("[", 1<<16), "401 unauthenticated", false},
		{"somebody with another type", "yes", "text/plain", `{"name":"x"}`, "415 unsupported_media_type", false},
		{"somebody", "yes", "application/json", `{"name":"x"}`, "204", true},
	} {
		b := &watched{Reader: strings.NewReader(tt.text)}
		r := httptest.NewRequest("POST", "/a", b)
		r.Header.Set("Content-Type", tt.contentType)
		if tt.credential != "" {
			r.Header.Set("Authorization", tt.credential)
		}
		if got := serve(t, mux, r).String(); got != tt.want || b.read != tt.read {
			t.Errorf("%s: %s, body read: %v; want %s, %v", tt.name, got, b.read, tt.want, tt.read)
		}
	}
}

type everything struct {
	ID    string    `path:"id" maxLength:"20"`
	Limit int       `query:"limit" minimum:"1" maximum:"10"`
	Order string    `query:"order" enum:"up,down"`
	Deep  bool      `query:"deep"`
	Ratio float64   `query:"ratio"`
	Since time.Time `query:"since"`
	Count int       `header:"X-Count"`
	Body  struct {
		Name  string         `json:"name" minLength:"2" maxLength:"20" pattern:"^[a-z3-]*$"`
		Age   int            `json:"age,omitempty" minimum:"1" maximum:"150"`
		Score float64        `json:"score,omitempty" exclusiveMinimum:"0" exclusiveMaximum:"9" multipleOf:"0.5"`
		On    bool           `json:"on,omitempty"`
		Mail  string         `json:"mail,omitempty" format:"email"`
		UUID  string         `json:"uuid,omitempty" format:"uuid"`
		URL   string         `json:"url,omitempty" format:"uri"`
		IP    string         `json:"ip,omitempty" format:"ipv4"`
		When  *time.Time     `json:"when,omitempty"`
		Bytes []byte         `json:"bytes,omitempty"`
		Kind  string         `json:"kind,omitempty" enum:"cat,dog"`
		List  []string       `json:"list,omitempty" minItems:"1" maxItems:"3" uniqueItems:"true"`
		Sub   *sub           `json:"sub,omitempty"`
		Map   map[string]int `json:"map,omitempty" minProperties:"1" maxProperties:"2"`
		Opt   Opt[int]       `json:"opt,omitzero"`
		At    Opt[time.Time] `json:"at,omitzero"`
	}
}

type sub struct {
	A string `json:"a"`
}

// secret stands in every refused place.
const secret = "hunter2-s3cr3t"

// Every kind of refusal names the place and what would be right, and repeats
// nothing of what was sent.
func TestErrorsRepeatNoValue(t *testing.T) {
	a, mux := newAPI()
	Put(a, "/a/{id}", sallyport.Public(), nothing[everything])
	const ok = `{"name":"ada"}`
	for _, tt := range []struct{ target, body, want string }{
		{"/a/1", ok, "204"},
		{"/a/1?limit=3&order=up&deep=true&ratio=1.5&since=2026-01-31T12:00:00Z", `{"name":"ada","age":3,"list":["a"],"sub":{"a":"b"},"opt":null}`, "204"},

		{"/a/" + secret + secret, ok, "422 {id} too_long"},
		{"/a/1?limit=" + secret, ok, "422 ?limit wrong_type"},
		{"/a/1?limit=4711", ok, "422 ?limit out_of_range"},
		{"/a/1?limit=-4711", ok, "422 ?limit out_of_range"},
		{"/a/1?order=" + secret, ok, "422 ?order invalid_choice"},
		{"/a/1?deep=" + secret, ok, "422 ?deep wrong_type"},
		{"/a/1?ratio=" + secret, ok, "422 ?ratio wrong_type"},
		{"/a/1?since=" + secret, ok, "422 ?since invalid"},
		{"/a/1?unknown=" + secret, ok, "422 ?unknown unknown_member"},
		{"/a/1?" + secret + "%20in%20a%20name=1", ok, "422 ? unknown_member"},
		{"/a/1?LIMIT=3", ok, "422 ?LIMIT unknown_member"},

		{"/a/1", `{}`, "422 /name required"},
		{"/a/1", `"` + secret + `"`, "422 wrong_type"},
		{"/a/1", `["` + secret + `"]`, "422 wrong_type"},
		{"/a/1", `null`, "422 wrong_type"},
		{"/a/1", `{"name":"ada","extra":"` + secret + `"}`, "422 /extra unknown_member"},
		{"/a/1", `{"name":"ada","` + secret + ` in a name":1}`, "422 unknown_member"},
		{"/a/1", `{"name":"ada","Age":4711}`, "422 /Age unknown_member"},
		{"/a/1", `{"name":["` + secret + `"]}`, "422 /name wrong_type"},
		{"/a/1", `{"name":null}`, "422 /name wrong_type"},
		{"/a/1", `{"name":"x"}`, "422 /name too_short"},
		{"/a/1", `{"name":"` + secret + secret + `"}`, "422 /name invalid_format, /name too_long"},
		{"/a/1", `{"name":"` + secret + `!"}`, "422 /name invalid_format"},
		{"/a/1", `{"name":"ada","age":"` + secret + `"}`, "422 /age wrong_type"},
		{"/a/1", `{"name":"ada","age":4711}`, "422 /age out_of_range"},
		{"/a/1", `{"name":"ada","age":-4711}`, "422 /age out_of_range"},
		{"/a/1", `{"name":"ada","age":4711.5}`, "422 /age out_of_range, /age wrong_type"},
		{"/a/1", `{"name":"ada","age":47110000000000000000000000}`, "422 /age out_of_range"},
		{"/a/1", `{"name":"ada","score":4711}`, "422 /score out_of_range"},
		{"/a/1", `{"name":"ada","score":-4711}`, "422 /score out_of_range"},
		{"/a/1", `{"name":"ada","score":4.711}`, "422 /score out_of_range"},
		{"/a/1", `{"name":"ada","score":"` + secret + `"}`, "422 /score wrong_type"},
		{"/a/1", `{"name":"ada","on":"` + secret + `"}`, "422 /on wrong_type"},
		{"/a/1", `{"name":"ada","mail":"` + secret + `"}`, "422 /mail invalid_format"},
		{"/a/1", `{"name":"ada","uuid":"` + secret + `"}`, "422 /uuid invalid_format"},
		{"/a/1", `{"name":"ada","url":"%` + secret + `"}`, "422 /url invalid_format"},
		{"/a/1", `{"name":"ada","ip":"` + secret + `"}`, "422 /ip invalid_format"},
		{"/a/1", `{"name":"ada","when":"` + secret + `"}`, "422 /when invalid_format"},
		{"/a/1", `{"name":"ada","bytes":"` + secret + `!"}`, "422 /bytes invalid_format"},
		{"/a/1", `{"name":"ada","kind":"` + secret + `"}`, "422 /kind invalid_choice"},
		{"/a/1", `{"name":"ada","list":"` + secret + `"}`, "422 /list wrong_type"},
		{"/a/1", `{"name":"ada","list":[]}`, "422 /list too_short"},
		{"/a/1", `{"name":"ada","list":["a","b","c","` + secret + `"]}`, "422 /list too_long"},
		{"/a/1", `{"name":"ada","list":["` + secret + `","` + secret + `"]}`, "422 /list duplicate"},
		{"/a/1", `{"name":"ada","list":["a",4711]}`, "422 /list/1 wrong_type"},
		{"/a/1", `{"name":"ada","sub":"` + secret + `"}`, "422 /sub wrong_type"},
		{"/a/1", `{"name":"ada","sub":{}}`, "422 /sub/a required"},
		{"/a/1", `{"name":"ada","sub":{"a":"b","c":"` + secret + `"}}`, "422 /sub/c unknown_member"},
		{"/a/1", `{"name":"ada","map":{}}`, "422 /map too_short"},
		{"/a/1", `{"name":"ada","map":{"a":1,"b":1,"c":4711}}`, "422 /map too_long"},
		{"/a/1", `{"name":"ada","map":{"a":"` + secret + `"}}`, "422 /map/a wrong_type"},
		{"/a/1", `{"name":"ada","opt":"` + secret + `"}`, "422 /opt wrong_type"},
		{"/a/1", `{"name":"ada","at":"` + secret + `"}`, "422 /at invalid_format"},
		{"/a/1?limit=4711&deep=" + secret, `{"age":4711}`, "422 /age out_of_range, /name required, ?deep wrong_type, ?limit out_of_range"},

		// What CheckJSON refuses.
		{"/a/1", `{"name":"` + secret, "400 invalid_json"},
		{"/a/1", secret, "400 invalid_json"},
		{"/a/1", ok + secret, "400 trailing_data"},
	} {
		r := ask(t, mux, "PUT", tt.target, tt.body)
		got := strings.Replace(r.String(), " validation_failed", "", 1)
		if got != tt.want {
			t.Errorf("%s %s:\n got %s\nwant %s", tt.target, tt.body, got, tt.want)
		}
		for _, s := range []string{secret, "hunter2", "4711", "4.711"} {
			if strings.Contains(r.Body.String(), s) || strings.Contains(fmt.Sprint(r.Header()), s) {
				t.Errorf("%s %s: the answer repeats %q: %s", tt.target, tt.body, s, r.Body)
			}
		}
		for _, f := range r.Errors {
			if f.Code == "" || f.Detail == "" || strings.HasSuffix(f.Detail, " ") {
				t.Errorf("%s %s: %+v", tt.target, tt.body, f)
			}
		}
	}
	if got := ask(t, mux, "PUT", "/a/1", ok, "X-Count", secret); got.String() != "422 validation_failed wrong_type" || strings.Contains(got.Body.String(), secret) {
		t.Errorf("header: %s: %s", got, got.Body)
	}
}

// Bounds and choices, which are the schema's, are told.
func TestDetailsSayWhatWouldBeRight(t *testing.T) {
	a, mux := newAPI()
	Put(a, "/a/{id}", sallyport.Public(), nothing[everything])
	r := ask(t, mux, "PUT", "/a/1?limit=11", `{"name":"x","score":9,"kind":"cow"}`)
	var all string
	for _, f := range r.Errors {
		all += f.Pointer + ": " + f.Detail + "\n"
	}
	for _, want := range []string{
		"?limit: The greatest value is 10.", "/name: The least length in characters is 2.",
		"/score: The value must be less than 9.", `/kind: Choose one of "cat, dog".`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not among\n%s", want, all)
		}
	}
}

// A required parameter is named, and nothing is hung onto its name.
func TestRequiredParameter(t *testing.T) {
	type input struct {
		Q string `query:"q" required:"true"`
		H string `header:"X-H" required:"true"`
	}
	a, mux := newAPI()
	Get(a, "/a", sallyport.Public(), nothing[input])
	if got := ask(t, mux, "GET", "/a", "").String(); got != "422 validation_failed ?q required, required" {
		t.Error(got)
	}
	if got := ask(t, mux, "GET", "/a?q=1", "", "X-H", "1").String(); got != "204" {
		t.Error(got)
	}
}

// A body of nothing but mistakes is not answered with many times its size.
func TestFindingsAreBounded(t *testing.T) {
	a, mux := newAPI()
	Post(a, "/a", sallyport.Public(), nothing[nameInput])
	var b strings.Builder
	b.WriteString(`{"name":"x"`)
	for i := range 1000 {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	b.WriteString("}")
	if r := ask(t, mux, "POST", "/a", b.String()); r.Status != 422 || len(r.Errors) != maxFields {
		t.Errorf("%d findings, status %d", len(r.Errors), r.Status)
	}
}

// A list that must be there must be a list.
func TestListsAreNotNull(t *testing.T) {
	type input struct {
		Body struct {
			Roles []string `json:"roles"`
			Maybe []string `json:"maybe" nullable:"true"`
		}
	}
	a, mux := newAPI()
	Put(a, "/a", sallyport.Public(), nothing[input])
	for text, want := range map[string]string{
		`{"roles":[],"maybe":[]}`:     "204",
		`{"roles":[],"maybe":null}`:   "204",
		`{"roles":null,"maybe":null}`: "422 validation_failed /roles wrong_type",
		`{"maybe":[]}`:                "422 validation_failed /roles required",
	} {
		if got := ask(t, mux, "PUT", "/a", text).String(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestUnknownQueryParameters(t *testing.T) {
	a, mux := newAPI()
	Get(a, "/a", sallyport.Public(), nothing[None])
	for target, want := range map[string]string{
		"/a": "204", "/a?": "204", "/a?x=1": "422 validation_failed ?x unknown_member", "/a?x": "422 validation_failed ?x unknown_member",
		"/a?x=1&y=2": "422 validation_failed ?x unknown_member, ?y unknown_member",
	} {
		if got := ask(t, mux, "GET", target, "").String(); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// A path that ends in a slash is that path and nothing below it, and is documented as
// it is called.
func TestPathsThatEndInASlash(t *testing.T) {
	a, mux := newAPI()
	Get(a, "/", sallyport.Public(), nothing[None])
	Post(a, "/items/", sallyport.Public(), nothing[None])
	for target, want := range map[string]int{"GET /": 204, "GET /x": 404, "POST /items/": 204, "POST /items/1": 404} {
		method, path, _ := strings.Cut(target, " ")
		if got := ask(t, mux, method, path, "").ResponseRecorder.Code; got != want {
			t.Errorf("%s: %d, want %d", target, got, want)
		}
	}
	doc := parse(t, a)
	if dig(doc, "paths", "/", "get", "operationId") != "get-index" || dig(doc, "paths", "/items/", "post", "operationId") != "post-items-index" {
		t.Errorf("documented: %v", doc["paths"])
	}
}

// An alias is the same operation, documented beside the first.
func TestAlias(t *testing.T) {
	a, mux := newAPI()
	Post(a, "/auth/login", sallyport.SignedIn(), func(_ context.Context, in *nameInput) (*Body[Message], error) {
		return &Body[Message]{Body: Message{in.Body.Name}}, nil
	}, Doc("Own account", "Sign in", "It begins a session."))
	a.Alias("POST /login", "POST /auth/login")
	a.Alias("POST /login/", "POST /login")
	for _, path := range []string{"/auth/login", "/login", "/login/"} {
		if got := ask(t, mux, "POST", path, `{"name":"ada"}`); got.ResponseRecorder.Code != 401 {
			t.Errorf("%s without a credential: %s", path, got)
		}
		if got := ask(t, mux, "POST", path, `{"name":"ada"}`, "Authorization", "x"); got.ResponseRecorder.Code != 200 || !strings.Contains(got.Body.String(), `"message":"ada"`) {
			t.Errorf("%s: %s %s", path, got, got.Body)
		}
		if got := ask(t, mux, "POST", path, `{"name":"ada","x":1}`, "Authorization", "x"); got.ResponseRecorder.Code != 422 {
			t.Errorf("%s with an unknown member: %s", path, got)
		}
	}
	if got := ask(t, mux, "POST", "/login/x", `{"name":"ada"}`, "Authorization", "x").ResponseRecorder.Code; got != 404 {
		t.Errorf("below an alias: %d", got)
	}
	if panicked := recovered(func() { a.Alias("POST /x", "POST /nowhere") }); !strings.Contains(panicked, "there is no route") {
		t.Errorf("an alias of nothing: %q", panicked)
	}
	doc := parse(t, a)
	first, _ := dig(doc, "paths", "/auth/login", "post").(map[string]any)
	for path, id := range map[string]string{"/login": "post-login", "/login/": "post-login-index"} {
		op, _ := dig(doc, "paths", path, "post").(map[string]any)
		if op["operationId"] != id || !strings.HasPrefix(fmt.Sprint(op["description"]), "The same as POST /") {
			t.Errorf("%s: %v, %v", path, op["operationId"], op["description"])
		}
		for _, name := range []string{"x-sallyport-rule", "security", "requestBody", "responses", "tags"} {
			if want := first[name]; want == nil || !reflect.DeepEqual(op[name], want) {
				t.Errorf("%s: %s is %v, want %v", path, name, op[name], want)
			}
		}
	}
}

func recovered(f func()) (said string) {
	defer func() { said = fmt.Sprint(recover()) }()
	f()
	return ""
}

// What a body must be before anything looks at its meaning.
func TestBodies(t *testing.T) {
	a, mux := newAPI()
	Post(a, "/a", sallyport.Public(), nothing[nameInput], BodyLimit(1000))
	Post(a, "/deep", sallyport.Public(), nothing[struct{ Body any }])
	const ok = `{"name":"x"}`
	for _, tt := range []struct{ name, path, contentType, text, want string }{
		{"right", "/a", "application/json", ok, "204"},
		{"with charset", "/a", "application/json; charset=utf-8", ok, "204"},
		{"no type", "/a", "", ok, "415 unsupported_media_type"},
		{"no type, no body", "/a", "", "", "415 unsupported_media_type"},
		{"no body", "/a", "application/json", "", "400 invalid_json"},
		{"form", "/a", FormType, "name=x", "415 unsupported_media_type"},
		{"simple type", "/a", "text/plain", ok, "415 unsupported_media_type"},
		{"multipart", "/a", "multipart/form-data; boundary=x", ok, "415 unsupported_media_type"},
		{"another charset", "/a", "application/json; charset=utf-16", ok, "415 unsupported_media_type"},
		{"CBOR", "/a", "application/cbor", ok, "415 unsupported_media_type"},
		{"at the limit", "/a", "application/json", ok + strings.Repeat(" ", 1000-len(ok)), "204"},
		{"over the limit", "/a", "application/json", ok + strings.Repeat(" ", 1001-len(ok)), "413 body_too_large"},
		{"twice", "/a", "application/json", `{"name":"x","name":"y"}`, "400 duplicate_member"},
		{"twice in another case", "/a", "application/json", `{"name":"x","NAME":"y"}`, "400 duplicate_member"},
		{"two values", "/a", "application/json", ok + ok, "400 trailing_data"},
		{"broken text", "/a", "application/json", "{\"name\":\"\xff\"}", "400 invalid_utf8"},
		{"deep", "/deep", "application/json", strings.Repeat("[", 32) + strings.Repeat("]", 32), "204"},
		{"too deep", "/deep", "application/json", strings.Repeat("[", 33) + strings.Repeat("]", 33), "400 too_deep"},
	} {
		r := httptest.NewRequest("POST", tt.path, strings.NewReader(tt.text))
		if tt.contentType != "" {
			r.Header.Set("Content-Type", tt.contentType)
		}
		if got := serve(t, mux, r).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// The default limit.
	Post(a, "/b", sallyport.Public(), nothing[nameInput])
	for n, want := range map[int]string{MaxBody: "204", MaxBody + 1: "413 body_too_large"} {
		if got := ask(t, mux, "POST", "/b", ok+strings.Repeat(" ", n-len(ok))).String(); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
}

// A body that need not be there may be left out, type and all.
func TestOptionalBody(t *testing.T) {
	type input struct {
		Body *struct {
			Name string `json:"name"`
		}
	}
	a, mux := newAPI()
	var got string
	Post(a, "/a", sallyport.Public(), func(_ context.Context, in *input) (*None, error) {
		got = "none"
		if in.Body != nil {
			got = in.Body.Name
		}
		return nil, nil
	})
	for text, want := range map[string]string{"": "none", `{"name":"x"}`: "x"} {
		if r := ask(t, mux, "POST", "/a", text); r.String() != "204" || got != want {
			t.Errorf("%q: %s, handler saw %q", text, r, got)
		}
	}
	if r := ask(t, mux, "POST", "/a", `{"name":"x"}`, "Content-Type", "text/plain"); r.Status != 415 {
		t.Errorf("text/plain: %s", r)
	}
}

func TestReadForm(t *testing.T) {
	read := func(contentType, text string) (map[string]string, error) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		r.Header.Set("Content-Type", contentType)
		return ReadForm(r, 100)
	}
	if m, err := read(FormType, "a=1&b=%20"); err != nil || !maps.Equal(m, map[string]string{"a": "1", "b": " "}) {
		t.Errorf("%v, %v", m, err)
	}
	for _, tt := range [][3]string{
		{"application/json", "a=1", "415"}, {FormType, "a=1&a=2", "400"}, {FormType, strings.Repeat("a", 101), "413"},
	} {
		_, err := read(tt[0], tt[1])
		if e, ok := errors.AsType[*sallyport.Error](err); !ok || strconv.Itoa(e.Status) != tt[2] {
			t.Errorf("%v: %v", tt, err)
		}
	}
}

func TestOpt(t *testing.T) {
	type patch struct {
		Name Opt[string] `json:"name,omitzero"`
		Sub  Opt[sub]    `json:"sub,omitzero"`
	}
	for text, want := range map[string]string{
		`{}`: "left out", `{"name":null}`: "null", `{"name":""}`: `""`, `{"name":"x"}`: `"x"`,
	} {
		var p patch
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		got := "left out"
		if c := p.Name.Change(); c != nil && *c == nil {
			got = "null"
		} else if c != nil {
			got = strconv.Quote(**c)
		}
		if got != want || p.Name.Set != (want != "left out") {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	var p patch
	if err := json.Unmarshal([]byte(`{"name":1}`), &p); err == nil {
		t.Error("a number was taken for a text")
	}

	// As documented, and as enforced.
	type input struct{ Body patch }
	a, mux := newAPI()
	Patch(a, "/a", sallyport.Public(), nothing[input])
	for text, want := range map[string]string{
		`{}`: "204", `{"name":null}`: "204", `{"name":"x"}`: "204", `{"sub":null}`: "204", `{"sub":{"a":"b"}}`: "204",
		`{"name":1}`:             "422 validation_failed /name wrong_type",
		`{"sub":{}}`:             "422 validation_failed /sub/a required",
		`{"sub":1}`:              "422 validation_failed /sub wrong_type",
		`{"name":{}}`:            "422 validation_failed /name wrong_type",
		`{"sub":{"b":1,"a":""}}`: "422 validation_failed /sub/b unknown_member",
	} {
		if got := ask(t, mux, "PATCH", "/a", text).String(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	doc := parse(t, a)
	for name, want := range map[string]string{"name": "[string null]", "sub": "[object null]"} {
		if got := fmt.Sprint(dig(doc, "components", "schemas", "Patch", "properties", name, "type")); got != want {
			t.Errorf("%s: type %s, want %s", name, got, want)
		}
	}
	if r := dig(doc, "components", "schemas", "Patch", "required"); r != nil {
		t.Errorf("members of a patch are required: %v", r)
	}
}

func TestPage(t *testing.T) {
	for _, tt := range []struct {
		page Page[int]
		want string
	}{
		{NewPage[int](nil, ""), `{"items":[],"next_cursor":null}`},
		{NewPage([]int{1}, "x"), `{"items":[1],"next_cursor":"x"}`},
	} {
		if b, err := json.Marshal(tt.page); err != nil || string(b) != tt.want {
			t.Errorf("%s, %v; want %s", b, err, tt.want)
		}
	}
}

func TestAlternatives(t *testing.T) {
	p, s := sallyport.Permission, sallyport.Scope
	for _, tt := range []struct {
		rule sallyport.Rule
		want string
	}{
		{sallyport.SignedIn(), "[[]]"},
		{sallyport.MFA(), "[[]]"},
		{sallyport.Role("admin"), "[[]]"},
		{sallyport.Fresh(time.Minute), "[[]]"},
		{p("a"), "[[a]]"},
		{s("a"), "[[a]]"},
		{sallyport.All(p("a"), s("b"), sallyport.MFA()), "[[a b]]"},
		{sallyport.Any(p("a"), s("b")), "[[a] [b]]"},
		{sallyport.Any(sallyport.Role("admin"), p("a")), "[[] [a]]"},
		{sallyport.All(p("a"), sallyport.Any(p("b"), p("c"))), "[[a b] [a c]]"},
		{sallyport.All(sallyport.Any(p("a"), p("b")), sallyport.Any(p("c"), p("d"))), "[[a c] [a d] [b c] [b d]]"},
		{sallyport.Any(sallyport.All(p("a"), p("b")), p("c")), "[[a b] [c]]"},
	} {
		if got := fmt.Sprint(alternatives(tt.rule, sallyport.KindBearer)); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.rule, got, tt.want)
		}
	}
}

// A rule that would fill the document is refused where it is declared.
func TestAlternativesAreBounded(t *testing.T) {
	two := func(i int) sallyport.Rule {
		return sallyport.Any(sallyport.Permission(fmt.Sprintf("a%d", i)), sallyport.Permission(fmt.Sprintf("b%d", i)))
	}
	many := func(n int) (of []sallyport.Rule) {
		for i := range n {
			of = append(of, sallyport.Permission(fmt.Sprintf("p%d", i)))
		}
		return of
	}
	for _, rule := range []sallyport.Rule{sallyport.All(two(0), two(1), two(2), two(3)), sallyport.Any(many(16)...)} {
		if n := len(alternatives(rule, sallyport.KindNone)); n != 16 {
			t.Errorf("%v: %d alternatives", rule, n)
		}
	}
	for _, rule := range []sallyport.Rule{sallyport.All(two(0), two(1), two(2), two(3), two(4)), sallyport.Any(many(17)...)} {
		a, _ := newAPI()
		text := panics(t, func() { Get(a, "/a", rule, nothing[None]) })
		if !strings.Contains(text, "more than 16 alternatives") || !strings.Contains(text, rule.String()) || !strings.Contains(text, "define a permission or role") {
			t.Errorf("the panic does not say which rule and what to do: %s", text)
		}
	}
}

// parse returns the document.
func parse(t *testing.T, a *API) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(a.Document(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// dig follows names into a document; nil where there is nothing.
func dig(v any, names ...string) any {
	for _, n := range names {
		m, _ := v.(map[string]any)
		v = m[n]
	}
	return v
}

func TestSecurityOfOperations(t *testing.T) {
	p := sallyport.Permission
	a, _ := newAPI()
	rules := map[string]sallyport.Rule{
		"/public":    sallyport.Public(),
		"/signed-in": sallyport.SignedIn(),
		"/one":       p("read:a"),
		"/all":       sallyport.All(p("write:a"), p("read:a"), p("read:a"), sallyport.MFA()),
		"/any":       sallyport.Any(p("read:a"), sallyport.All(p("read:b"), sallyport.Role("admin"))),
		"/same":      sallyport.Any(sallyport.Role("admin"), sallyport.MFA(), sallyport.Fresh(5*time.Minute)),
	}
	for path, rule := range rules {
		Get(a, path, rule, nothing[None])
		a.Raw(huma.Operation{Method: "POST", Path: path}, rule, func(http.ResponseWriter, *http.Request) {})
	}
	doc := parse(t, a)
	for path, want := range map[string]string{
		"/public":    `[]`,
		"/signed-in": `[{"apiKey":[]},{"bearer":[]}]`,
		"/one":       `[{"apiKey":["read:a"]},{"bearer":["read:a"]}]`,
		"/all":       `[{"apiKey":["read:a","write:a"]},{"bearer":["read:a","write:a"]}]`,
		"/any":       `[{"apiKey":["read:a"]},{"bearer":["read:a"]},{"apiKey":["read:b"]},{"bearer":["read:b"]}]`,
		"/same":      `[{"apiKey":[]},{"bearer":[]}]`,
	} {
		for _, method := range []string{"get", "post"} {
			op := dig(doc, "paths", path, method)
			if got, _ := json.Marshal(dig(op, "security")); string(got) != want {
				t.Errorf("%s %s: security %s, want %s", method, path, got, want)
			}
			// The extension is the rule itself.
			got, _ := json.Marshal(dig(op, "x-sallyport-rule"))
			rule, _ := json.Marshal(rules[path])
			var same any
			if json.Unmarshal(rule, &same) != nil {
				t.Fatal(string(rule))
			}
			if rule, _ = json.Marshal(same); !bytes.Equal(got, rule) {
				t.Errorf("%s %s: x-sallyport-rule %s, want %s", method, path, got, rule)
			}
			text, _ := dig(op, "description").(string)
			want := "Requires: " + rules[path].String() + "."
			if path == "/public" {
				want = "Public."
			}
			if text != want {
				t.Errorf("%s %s: description %q, want %q", method, path, text, want)
			}
		}
	}
	// Scopes of all rules can be chosen when signing in.
	scopes, _ := dig(doc, "components", "securitySchemes", "bearer", "flows", "password", "scopes").(map[string]any)
	if got := fmt.Sprint(slices.Sorted(maps.Keys(scopes))); got != "[read:a read:b write:a]" {
		t.Errorf("scopes: %s", got)
	}
}

// A scheme that can never meet a rule is not named at its operation, and one
// whose kind is not said is.
func TestSchemesThatCannotMeetARule(t *testing.T) {
	p, via := sallyport.Permission, sallyport.Via
	const bearer, key, cookie = sallyport.KindBearer, sallyport.KindAPIKey, sallyport.KindCookie
	known := map[string]sallyport.Kind{"bearer": bearer, "apiKey": key}
	for _, tt := range []struct {
		rule  sallyport.Rule
		kinds map[string]sallyport.Kind
		want  string
	}{
		{sallyport.Public(), known, `[]`},
		{sallyport.SignedIn(), known, `[{"apiKey":[]},{"bearer":[]}]`},
		{sallyport.Role("admin"), known, `[{"apiKey":[]},{"bearer":[]}]`},
		{sallyport.Unscoped(), known, `[{"bearer":[]}]`},
		{sallyport.MFA(), known, `[{"bearer":[]}]`},
		{sallyport.Fresh(time.Minute), known, `[{"bearer":[]}]`},
		{via(bearer), known, `[{"bearer":[]}]`},
		{via(key), known, `[{"apiKey":[]}]`},
		{via(key, bearer), known, `[{"apiKey":[]},{"bearer":[]}]`},
		{sallyport.All(p("a"), via(key)), known, `[{"apiKey":["a"]}]`},
		{sallyport.All(p("a"), sallyport.Unscoped()), known, `[{"bearer":["a"]}]`},
		{sallyport.All(p("a"), sallyport.Any(sallyport.MFA(), via(key))), known, `[{"apiKey":["a"]},{"bearer":["a"]}]`},
		{sallyport.Any(sallyport.MFA(), p("a")), known, `[{"apiKey":["a"]},{"bearer":[]},{"bearer":["a"]}]`},
		{sallyport.Any(sallyport.All(p("a"), via(bearer)), sallyport.All(p("b"), via(key))), known, `[{"apiKey":["b"]},{"bearer":["a"]}]`},
		// What none of the document's schemes can meet is not public for that.
		{via(cookie), known, `[{"apiKey":[]},{"bearer":[]}]`},
		{sallyport.All(via(cookie), p("a")), known, `[{"apiKey":["a"]},{"bearer":["a"]}]`},
		{sallyport.Unscoped(), nil, `[{"apiKey":[]},{"bearer":[]}]`},
		{via(key), map[string]sallyport.Kind{"bearer": bearer}, `[{"apiKey":[]}]`},
		{via(bearer), map[string]sallyport.Kind{"bearer": bearer}, `[{"apiKey":[]},{"bearer":[]}]`},
	} {
		a, _ := newAPI(func(c *Config) { c.Kinds = tt.kinds })
		Get(a, "/a", tt.rule, nothing[None])
		if got, _ := json.Marshal(dig(parse(t, a), "paths", "/a", "get", "security")); string(got) != tt.want {
			t.Errorf("%v: security %s, want %s", tt.rule, got, tt.want)
		}
	}
}

// A credential in the query, where that is switched on, is not a parameter of
// the operation; all others are what they were.
func TestCredentialInQueryIsNoParameter(t *testing.T) {
	type in struct {
		Q string `query:"q"`
	}
	var got string
	for name, c := range map[string]struct {
		credential, query string
		status            int
		q                 string
	}{
		"none":              {"key", "q=a", 204, "a"},
		"alone":             {"key", "key=x", 204, ""},
		"with another":      {"key", "key=x&q=a%26b", 204, "a&b"},
		"escaped":           {"key", "%6bey=x&q=a", 204, "a"},
		"another parameter": {"key", "key=x&z=1", 422, ""},
		"switched off":      {"", "key=x&q=a", 422, ""},
	} {
		a, mux := newAPI(func(cfg *Config) { cfg.CredentialQuery = c.credential })
		Get(a, "/a", sallyport.Public(), func(_ context.Context, i *in) (*None, error) { got = i.Q; return nil, nil })
		got = ""
		r := httptest.NewRequest("GET", "/a?"+c.query, nil)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != c.status || got != c.q || r.URL.RawQuery != c.query {
			t.Errorf("%s: status %d, q %q, the request's own query %q", name, w.Code, got, r.URL.RawQuery)
		}
	}
}

func TestOperationID(t *testing.T) {
	for _, tt := range [][3]string{
		{"GET", "/users", "get-users"},
		{"GET", "/users/{id}", "get-users-by-id"},
		{"DELETE", "/users/{id}/sessions/{session_id}", "delete-users-by-id-sessions-by-session-id"},
		{"GET", "/.well-known/jwks.json", "get-well-known-jwks-json"},
		{"GET", "/files/{path...}", "get-files-by-path"},
		{"GET", "/items/", "get-items-index"},
		{"GET", "/", "get-index"},
	} {
		if got := operationID(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

// The document names every operation once, with all that can come back.
func TestDocument(t *testing.T) {
	type listInput struct {
		Limit int `query:"limit"`
	}
	build := func() *API {
		a, _ := newAPI(func(c *Config) { c.Path = "/identity" })
		Post(a, "/b", sallyport.SignedIn(), func(context.Context, *nameInput) (*Body[Message], error) { return &Body[Message]{}, nil },
			Doc("Second", "Make", "It is made."), Status(201), Errors(409, 409, 404))
		Get(a, "/a", sallyport.Public(), func(context.Context, *listInput) (*Body[Page[Message]], error) { return nil, nil }, Doc("First", "List", ""))
		Delete(a, "/a/{id}", sallyport.Permission("delete:a"), nothing[struct {
			ID string `path:"id"`
		}], Doc("First", "Delete", ""))
		a.Raw(huma.Operation{
			Method: "GET", Path: "/raw", OperationID: "my-own", Tags: []string{"Third"},
			Responses: map[string]*huma.Response{"200": {Description: "OK"}, "403": {Description: "Another"}},
		}, sallyport.SignedIn(), func(http.ResponseWriter, *http.Request) {})
		a.Docs(DocsConfig{ClientID: "docs"})
		return a
	}
	a := build()
	doc := parse(t, a)
	if dig(doc, "openapi") != "3.1.0" || dig(doc, "info", "title") != "Test" {
		t.Errorf("%v %v", doc["openapi"], doc["info"])
	}
	if got, _ := json.Marshal(doc["servers"]); string(got) != `[{"url":"/identity"}]` {
		t.Errorf("servers: %s", got)
	}
	if got, _ := json.Marshal(doc["tags"]); string(got) != `[{"name":"Second"},{"name":"First"},{"name":"Third"},{"name":"Documentation"}]` {
		t.Errorf("tags: %s", got)
	}
	for at, want := range map[string]string{
		"post /b":           "[201 400 401 403 404 409 413 415 422 500 503] post-b",
		"get /a":            "[200 422 500 503] get-a",
		"delete /a/{id}":    "[204 401 403 422 500 503] delete-a-by-id",
		"get /raw":          "[200 401 403] my-own",
		"get /openapi.json": "[200] get-openapi-json",
	} {
		method, path, _ := strings.Cut(at, " ")
		op := dig(doc, "paths", path, method)
		responses, _ := dig(op, "responses").(map[string]any)
		if got := fmt.Sprint(slices.Sorted(maps.Keys(responses)), " ", dig(op, "operationId")); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
		for status, res := range responses {
			switch {
			case status >= "400" && (path != "/raw" || status != "403"):
				if got, _ := json.Marshal(dig(res, "content")); string(got) != `{"application/problem+json":{"schema":{"$ref":"#/components/schemas/Problem"}}}` {
					t.Errorf("%s %s: %s", at, status, got)
				}
				if status == "401" && dig(res, "headers", "WWW-Authenticate") == nil || status == "503" && dig(res, "headers", "Retry-After") == nil {
					t.Errorf("%s %s: headers %v", at, status, dig(res, "headers"))
				}
			case status == "204" && dig(res, "content") != nil:
				t.Errorf("%s: 204 with content", at)
			case status == "403" && dig(res, "description") != "Another":
				t.Errorf("%s: its own response was replaced", at)
			}
			if dig(res, "description") == "" {
				t.Errorf("%s %s: no description", at, status)
			}
		}
	}
	if n := len(doc["paths"].(map[string]any)); n != 5 {
		t.Errorf("%d paths", n)
	}
	// A list is a list, and a text that may be missing is nullable as 3.1 says it.
	page := dig(doc, "components", "schemas", "PageMessage", "properties")
	if dig(page, "items", "type") != "array" || fmt.Sprint(dig(page, "next_cursor", "type")) != "[string null]" {
		t.Errorf("page: %v", page)
	}
	for _, left := range []string{`"$schema"`, `"nullable"`, `"default":`, "ErrorModel", "ErrorDetail"} {
		if bytes.Contains(a.Document(), []byte(left)) {
			t.Errorf("the document contains %s", left)
		}
	}
	// The same at every start.
	for range 10 {
		if !bytes.Equal(build().Document(), a.Document()) {
			t.Fatal("the same program has two documents")
		}
	}
}

// H: Many ask at once for the document that nobody has made yet.
func TestDocumentAtOnce(t *testing.T) {
	a, mux := newAPI()
	Post(a, "/b", sallyport.Permission("write:b"), nothing[everything2])
	a.Docs(DocsConfig{})
	docs := make([]string, 20)
	var wg sync.WaitGroup
	for i := range docs {
		wg.Go(func() {
			if i%2 == 0 {
				docs[i] = string(a.Document())
				return
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
			docs[i] = w.Body.String()
			mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/b", nil))
		})
	}
	wg.Wait()
	for _, d := range docs {
		if d != docs[0] || !json.Valid([]byte(d)) {
			t.Fatal("two documents")
		}
	}
}

type everything2 struct {
	Body struct {
		Name string   `json:"name"`
		Opt  Opt[sub] `json:"opt,omitzero"`
	}
}

// What a handler returns becomes what the caller may know.
func TestErrorsOfHandlers(t *testing.T) {
	a, mux := newAPI(func(c *Config) {
		c.Challenges = func(e *sallyport.Error) []string {
			if e.Status == 401 {
				return []string{"Bearer", `ApiKey realm="x"`}
			}
			return nil
		}
	})
	var give error
	Get(a, "/typed", sallyport.Public(), func(context.Context, *None) (*None, error) { return nil, give })
	a.Raw(huma.Operation{Method: "GET", Path: "/raw"}, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) { a.WriteError(w, r, give) })
	for _, tt := range []struct {
		err                    error
		want, retry, challenge string
	}{
		{sallyport.NotFound("thing"), "404 not_found", "", "[]"},
		{fmt.Errorf("around: %w", sallyport.NotFound("thing")), "404 not_found", "", "[]"},
		{sallyport.Unauthenticated(), "401 unauthenticated", "", `[Bearer ApiKey realm="x"]`},
		{&sallyport.Error{Status: 429, Code: "slow_down", Message: "Wait.", RetryAfter: 1500 * time.Millisecond}, "429 slow_down", "2", "[]"},
		{sallyport.Invalid(sallyport.Field{Pointer: "/a", Code: "bad", Detail: "x"}), "422 validation_failed /a bad", "", "[]"},
		{&db.Error{}, "503 unavailable", "1", "[]"},
		{context.DeadlineExceeded, "503 unavailable", "1", "[]"},
		{context.Canceled, "503 unavailable", "1", "[]"},
		{errors.New(secret), "500 internal", "", "[]"},
	} {
		give = tt.err
		for _, path := range []string{"/typed", "/raw"} {
			r := ask(t, mux, "GET", path, "")
			if got := r.String(); got != tt.want {
				t.Errorf("%s: %v: %s, want %s", path, tt.err, got, tt.want)
			}
			if got := r.Header().Get("Retry-After"); got != tt.retry {
				t.Errorf("%s: %v: Retry-After %q, want %q", path, tt.err, got, tt.retry)
			}
			if got := fmt.Sprint(r.Header().Values("WWW-Authenticate")); got != tt.challenge {
				t.Errorf("%s: %v: challenges %s, want %s", path, tt.err, got, tt.challenge)
			}
			if strings.Contains(r.Body.String(), secret) {
				t.Errorf("%s: %v: the cause is told: %s", path, tt.err, r.Body)
			}
		}
	}
}

// An answer may not be cached unless its operation says so.
func TestAnswersAreNotStored(t *testing.T) {
	type cached struct {
		CacheControl string `header:"Cache-Control"`
		Body         Message
	}
	a, mux := newAPI()
	Get(a, "/a", sallyport.Public(), func(context.Context, *None) (*Body[Message], error) { return &Body[Message]{}, nil })
	Get(a, "/b", sallyport.Public(), func(context.Context, *None) (*cached, error) { return &cached{CacheControl: "max-age=60"}, nil })
	for path, want := range map[string]string{"/a": "[no-store]", "/b": "[max-age=60]"} {
		if got := fmt.Sprint(ask(t, mux, "GET", path, "").Header().Values("Cache-Control")); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// The files of the docs page, each with a type of its own, compressed or not.
func TestDocsFiles(t *testing.T) {
	a, mux := newAPI(func(c *Config) { c.Title = `A <b>"title"</b>` })
	a.Docs(DocsConfig{ClientID: "docs"})
	r := ask(t, mux, "GET", "/docs", "")
	if r.Header().Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(r.Body.String(), `data-client="docs"`) || strings.Contains(r.Body.String(), "<b>") {
		t.Errorf("%v %s", r.Header(), r.Body)
	}
	policy := r.Header().Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("policy: %s", policy)
	}
	for name, want := range docsTypes {
		plain := ask(t, mux, "GET", "/docs/"+name, "")
		packed := ask(t, mux, "GET", "/docs/"+name, "", "Accept-Encoding", "br, gzip")
		if plain.ResponseRecorder.Code != 200 || plain.Header().Get("Content-Type") != want || plain.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: %d %v", name, plain.ResponseRecorder.Code, plain.Header())
		}
		content := packed.Body.Bytes()
		if packed.Header().Get("Content-Encoding") == "gzip" {
			var err error
			if content, err = gunzip(content); err != nil {
				t.Fatal(err)
			}
			if plain.Header().Get("Vary") != "Accept-Encoding" || packed.Header().Get("Vary") != "Accept-Encoding" {
				t.Errorf("%s: a cache would mix the two forms", name)
			}
		}
		if len(content) == 0 || !bytes.Equal(content, plain.Body.Bytes()) {
			t.Errorf("%s: %d and %d bytes", name, len(content), plain.Body.Len())
		}
	}
	for _, name := range []string{"embed.go", "oauth2-redirect.html", "index.html", "..%2fdocs.go"} {
		if got := ask(t, mux, "GET", "/docs/"+name, "").String(); got != "404 not_found" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestPointer(t *testing.T) {
	for location, want := range map[string]string{
		"": "", "body": "", "body.a": "/a", "body.a.b[0]": "/a/b/0", "body[3].x": "/3/x", "query.limit": "?limit", "path.id": "{id}",
		"header.X": "", "query.a b": "?", "body.pass word": "", "body.é": "", "query." + strings.Repeat("a", 64): "?" + strings.Repeat("a", 64),
		"query." + strings.Repeat("a", 65): "?", "body." + strings.Repeat("a", 63): "/" + strings.Repeat("a", 63), "body." + strings.Repeat("a", 64): "",
	} {
		if got := pointer(location); got != want {
			t.Errorf("%q: %q, want %q", location, got, want)
		}
	}
}

// Of what a caller wrote into a name, at most maxShown harmless bytes come back.
func FuzzPointer(f *testing.F) {
	for _, s := range []string{"", "a", "a.b[0]", "body", "<script>", strings.Repeat("a", 64), strings.Repeat("[", 200), "é\x00\n", secret + " " + secret} {
		f.Add("body."+s, uint(0), s)
		f.Add("query."+s, uint(1), s)
		f.Add("path."+s, uint(2), s)
		f.Add(s, uint(30), s)
	}
	f.Fuzz(func(t *testing.T, location string, message uint, value string) {
		check := func(got string) {
			inner := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(got, "?"), "{"), "}")
			if len(inner) > maxShown {
				t.Errorf("%q: %d bytes come back", location, len(inner))
			}
			for _, c := range []byte(inner) {
				if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/", rune(c)) {
					t.Errorf("%q: %q comes back", location, got)
				}
			}
		}
		check(pointer(location))
		// A finding of Huma's: its message is of the schema, its value the caller's.
		m := messages[message%uint(len(messages))]
		d := &huma.ErrorDetail{Location: location, Message: m.prefix + "10", Value: value}
		got := field(d)
		check(strings.TrimSuffix(got.Pointer, "/10"))
		d.Value, d.Location = nil, ""
		if without := field(d); without.Code != got.Code || without.Detail != got.Detail {
			t.Errorf("code and detail depend on what was sent: %+v, %+v", got, without)
		}
		// A message that is not known is not passed on, whatever is in it.
		if got := field(&huma.ErrorDetail{Message: "\x00" + value}); got != (sallyport.Field{Code: "invalid", Detail: "The value is not valid."}) {
			t.Errorf("%+v", got)
		}
	})
}
