package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authtest"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/server"
)

const pass = "violet-anchor-97-marmalade"

type m = map[string]any

// service starts the whole service with the options of a command line.
func service(t *testing.T, args ...string) *authtest.Server {
	t.Helper()
	o, err := read(args)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	sp := authtest.New(t, func(c *server.Config) {
		if o.url != "" {
			c.BaseURL = o.url
		}
		c.Title, c.CORS, c.APIKeys, c.Hosts, c.TrustedProxies, c.TokenFormat = cfg.Title, cfg.CORS, cfg.APIKeys, cfg.Hosts, cfg.TrustedProxies, cfg.TokenFormat
	})
	sp.Serve(handler(sp.Server))
	if err := putRoles(t.Context(), sp.Server); err != nil {
		t.Fatal(err)
	}
	return sp
}

// Who may call what: nobody signed in, a guest, a user, a moderator, an administrator.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	sp := service(t)
	guest := sp.SignIn("gus", authtest.Roles(role.Guest))
	user := sp.SignIn("ada")
	moderator := sp.SignIn("max", authtest.Roles(role.Moderator))
	admin := sp.SignIn("grace", authtest.Roles(role.Admin))
	callers := []*authtest.Client{sp.Anonymous(), guest, user, moderator, admin}
	lamp := m{"name": "lamp", "price": 9.5}
	for _, c := range []struct {
		route  string
		body   any
		status [5]int // of each caller
	}{
		{"GET /", nil, [5]int{200, 200, 200, 200, 200}},
		{"GET /protected", nil, [5]int{401, 200, 200, 200, 200}},
		{"GET /protected/", nil, [5]int{401, 200, 200, 200, 200}},
		{"GET /users/me", nil, [5]int{401, 200, 200, 200, 200}},
		{"GET /admin", nil, [5]int{401, 403, 403, 403, 200}},
		{"GET /user", nil, [5]int{401, 403, 200, 200, 200}},
		{"POST /moderate/", nil, [5]int{401, 403, 403, 200, 200}},
		{"GET /read", nil, [5]int{401, 200, 200, 200, 200}},
		{"GET /write", nil, [5]int{401, 403, 200, 200, 200}},
		{"GET /items/", nil, [5]int{401, 403, 200, 200, 200}},
		{"POST /items/", lamp, [5]int{401, 403, 201, 201, 201}},
		{"POST /comments/", m{"text": "hi"}, [5]int{401, 201, 201, 201, 201}},
		{"GET /users/ada", nil, [5]int{401, 403, 403, 403, 200}},
		{"GET /users/" + user.ID, nil, [5]int{401, 403, 403, 403, 200}},
		{"GET /users/nobody", nil, [5]int{401, 403, 403, 403, 404}},
		{"DELETE /users/" + guest.ID, nil, [5]int{401, 403, 403, 403, 204}},
		{"GET /nowhere", nil, [5]int{404, 404, 404, 404, 404}},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		for i, caller := range callers {
			r := caller.Call(method, path, c.body)
			if r.Status != c.status[i] {
				t.Errorf("%s by %q: status %d, want %d: %s", c.route, caller.Name, r.Status, c.status[i], r.Body)
			}
			want := map[int]string{401: "unauthenticated", 403: "insufficient_permission", 404: "not_found"}[c.status[i]]
			if r.Code() != want || (r.Status == 401) != (r.Header.Get("Www-Authenticate") != "") {
				t.Errorf("%s by %q: code %q, want %q, challenge %q", c.route, caller.Name, r.Code(), want, r.Header.Get("Www-Authenticate"))
			}
			secure(t, c.route, r)
		}
	}
	guest.Call("GET", "/protected", nil).Want(401, "invalid_token") // deleted

	// What delete:users permits, its holder may without being an administrator, within
	// their own rights.
	janitor := sp.SignIn("jan", authtest.Roles(role.User), authtest.Permissions("delete:users"))
	victim := sp.SignIn("vic")
	janitor.Call("DELETE", "/users/"+admin.ID, nil).Want(403, "above_own_rights")
	janitor.Call("DELETE", "/users/"+victim.ID, nil).Want(204, "")
	admin.Call("GET", "/users/"+victim.ID, nil).Want(404, "not_found")
}

// secure checks the headers that every answer has.
func secure(t *testing.T, what string, r authtest.Reply) {
	t.Helper()
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors 'none'", "Referrer-Policy": "no-referrer"} {
		if !strings.Contains(r.Header.Get(name), want) {
			t.Errorf("%s (%d): %s: %q", what, r.Status, name, r.Header.Get(name))
		}
	}
	if r.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s (%d) has no request id", what, r.Status)
	}
}

// Registering, signing in by both paths, refreshing, signing out.
func TestSignIn(t *testing.T) {
	t.Parallel()
	sp := service(t)
	nobody := sp.Anonymous()
	ada := m{"username": "ada", "email": "ada@example.com", "password": pass}
	nobody.Call("POST", "/auth/register", ada).Want(201, "")
	nobody.Call("POST", "/auth/register", ada).Want(409, "account_exists")
	nobody.Call("POST", "/auth/register", m{"username": "bob", "email": "bob@example.com", "password": "password"}).Want(422, "validation_failed")
	nobody.Call("POST", "/auth/register", m{"username": "eve", "email": "eve@example.com", "password": pass, "roles": []string{"admin"}}).Want(422, "validation_failed")

	form := url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {pass}}
	wrong := url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {"wrong"}}
	r := nobody.Call("POST", "/token", wrong).Want(401, "invalid_grant")
	if r.Text("error_description") != "Incorrect username or password" || !strings.HasPrefix(r.Header.Get("Www-Authenticate"), "Bearer") {
		t.Errorf("%s %v", r.Body, r.Header)
	}
	nobody.Call("POST", "/login", wrong).Want(401, "")
	byForm, byLogin := nobody.Call("POST", "/token", form).Want(200, ""), nobody.Call("POST", "/login", m{"username": "ada@example.com", "password": pass}).Want(200, "")
	for _, r := range []authtest.Reply{byForm, byLogin} {
		if r.Text("token_type") != "bearer" || r.Text("refresh_token") == "" || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %v", r.Body, r.Header)
		}
		if me := nobody.Call("GET", "/users/me", nil, "Authorization", "Bearer "+r.Text("access_token")).Want(200, ""); me.Text("username") != "ada" || strings.Contains(me.Body, "hash") {
			t.Errorf("%s", me.Body)
		}
	}

	// A refresh gives a new pair; the one before is used up. What is no refresh token
	// is refused.
	next := nobody.Call("POST", "/token/refresh", m{"refresh_token": byForm.Text("refresh_token")}).Want(200, "")
	bearer := "Bearer " + next.Text("access_token")
	nobody.Call("GET", "/users/me", nil, "Authorization", bearer).Want(200, "")
	nobody.Call("POST", "/token/refresh", m{"refresh_token": next.Text("access_token")}).Want(401, "")

	// Signed out, both are dead; the other session goes on.
	nobody.Call("POST", "/logout/", nil).Want(401, "unauthenticated")
	out := nobody.Call("POST", "/logout/", nil, "Authorization", bearer).Want(200, "")
	if out.Text("message") != "Successfully logged out" {
		t.Errorf("%s", out.Body)
	}
	nobody.Call("GET", "/users/me", nil, "Authorization", bearer).Want(401, "invalid_token")
	nobody.Call("POST", "/token/refresh", m{"refresh_token": next.Text("refresh_token")}).Want(401, "")
	nobody.Call("GET", "/users/me", nil, "Authorization", "Bearer "+byLogin.Text("access_token")).Want(200, "")
}

// /protected takes four forms, and none of them wrong.
func TestFourForms(t *testing.T) {
	t.Parallel()
	key := apikey.Generate()
	static := apikey.NewStatic("billing", key, []string{"read:items"}).String()
	sp, opaque := service(t, "--api-key", static), service(t, "--opaque")
	bearer := sp.SignIn("ada", authtest.Permissions("read:items"))
	made := bearer.Call("POST", "/api-keys", m{"name": "laptop", "scopes": []string{"read:items"}}).Want(201, "")
	hidden := opaque.SignIn("ada")
	if strings.Count(bearer.Token, ".") != 2 || strings.Contains(hidden.Token, ".") {
		t.Errorf("tokens %s and %s", bearer.Token, hidden.Token)
	}
	nobody := sp.Anonymous()
	basic := sp.SignIn("basil", authtest.Via(sallyport.KindBasic))
	for name, c := range map[string]struct {
		client     *authtest.Client
		header     []string
		id, kind   string
		items      int // what /items/ answers: Basic is no credential there
		wrongValue string
	}{
		"basic":                    {basic, nil, basic.ID, "basic", 401, "Basic YWRhOndyb25n"},
		"bearer":                   {bearer, nil, bearer.ID, "bearer", 200, bearer.Token[:len(bearer.Token)-2]},
		"opaque":                   {hidden, nil, hidden.ID, "bearer", 200, "x"},
		"key of the database":      {nobody, []string{"X-API-Key", made.Text("key")}, bearer.ID, "api_key", 200, ""},
		"key of the configuration": {nobody, []string{"X-API-Key", key.Reveal()}, "config:billing", "api_key", 200, ""},
	} {
		for _, path := range []string{"/protected", "/protected/"} {
			if r := c.client.Call("GET", path, nil, c.header...).Want(200, ""); r.Text("id") != c.id || r.Text("credential") != c.kind {
				t.Errorf("%s: %s", name, r.Body)
			}
		}
		if r := c.client.Call("GET", "/items/", nil, c.header...); r.Status != c.items {
			t.Errorf("%s: /items/ %d, want %d: %s", name, r.Status, c.items, r.Body)
		}
		if c.wrongValue != "" {
			value := c.wrongValue
			if c.kind == "bearer" {
				value = "Bearer " + value
			}
			c.client.Call("GET", "/protected", nil, "Authorization", value).Want(401, "")
		}
	}
	nobody.Call("GET", "/protected", nil, "X-API-Key", apikey.Generate().Reveal()).Want(401, "invalid_token")
	nobody.Call("POST", "/items/", m{"name": "lamp", "price": 1}, "X-API-Key", made.Text("key")).Want(403, "insufficient_scope")
	nobody.Call("GET", "/protected?x_api_key="+made.Text("key"), nil).Want(400, "credential_in_query")
	bearer.Call("GET", "/protected", nil, "X-API-Key", made.Text("key")).Want(400, "several_credentials")
	bearer.Call("DELETE", "/api-keys/"+made.Text("id"), nil).Want(204, "")
	nobody.Call("GET", "/protected", nil, "X-API-Key", made.Text("key")).Want(401, "invalid_token")
}

// A token limited to a scope does no more than that, and says what is missing.
func TestScopes(t *testing.T) {
	t.Parallel()
	sp := service(t)
	reader := sp.SignIn("ada", authtest.Scopes("read:items"))
	reader.Call("GET", "/items/", nil).Want(200, "")
	r := reader.Call("POST", "/items/", m{"name": "lamp", "price": 1}).Want(403, "insufficient_scope")
	if challenge := r.Header.Get("Www-Authenticate"); !strings.Contains(challenge, `scope="write:items"`) {
		t.Errorf("challenge %q", challenge)
	}
}

// A body is validated, and what is wrong is named.
func TestBodies(t *testing.T) {
	t.Parallel()
	sp := service(t)
	ada := sp.SignIn("ada")
	for body, pointer := range map[string]string{
		`{"name": "", "price": 1}`:                                "/name",
		`{"name": "lamp", "price": 0}`:                            "/price",
		`{"name": "lamp", "price": "1"}`:                          "/price",
		`{"name": "lamp"}`:                                        "/price",
		`{"name": "lamp", "price": 1, "owner": "eve"}`:            "/owner",
		`{"name": "lamp", "price": 1, "tags": [1]}`:               "/tags/0",
		`{"name": "` + strings.Repeat("x", 51) + `", "price": 1}`: "/name",
	} {
		r := ada.Call("POST", "/items/", body).Want(422, "validation_failed")
		if !strings.Contains(r.Body, `"pointer":"`+pointer+`"`) {
			t.Errorf("%s: %s", body, r.Body)
		}
	}
	ada.Call("POST", "/items/", `{"name": "a", "name": "b", "price": 1}`).Want(400, "duplicate_member")
	ada.Call("POST", "/items/", url.Values{"name": {"lamp"}}).Want(415, "unsupported_media_type")
	ada.Call("POST", "/items/", `{"name": "`+strings.Repeat("x", 1<<20)+`"}`).Want(413, "body_too_large")
	if r := ada.Call("POST", "/items/", m{"name": "lamp", "price": 9.5, "tags": []string{"light"}}).Want(201, ""); r.Text("owner") != ada.ID || r.Text("id") != "1" {
		t.Errorf("%s", r.Body)
	}
	if r := ada.Call("GET", "/items/", nil).Want(200, ""); strings.Count(r.Body, `"name"`) != 1 {
		t.Errorf("%s", r.Body)
	}
	r := ada.Call("POST", "/comments/", m{"text": `I <b>like</b> it<script>alert(1)</script> & 1 < 2`}).Want(201, "")
	if r.Text("text") != "I like it & 1 < 2" {
		t.Errorf("%s", r.Body)
	}
	ada.Call("POST", "/comments/", m{"text": "<img src=x onerror=alert(1)>"}).Want(422, "validation_failed")
}

// Five in a minute, whoever calls; then 429 until the minute lets another through.
func TestLimited(t *testing.T) {
	t.Parallel()
	sp := service(t)
	nobody, ada := sp.Anonymous(), sp.SignIn("ada")
	for i := range 5 {
		if r := nobody.Call("GET", "/limited/", nil).Want(200, ""); r.Header.Get("RateLimit") == "" {
			t.Errorf("call %d: %v", i, r.Header)
		}
	}
	for _, c := range []*authtest.Client{nobody, ada} {
		r := c.Call("GET", "/limited/", nil).Want(429, "rate_limited")
		secure(t, "GET /limited/", r)
		if after := r.Header.Get("Retry-After"); after != "12" { // 5 in 60 seconds
			t.Errorf("Retry-After: %q", after)
		}
	}
	nobody.Call("GET", "/", nil).Want(200, "")
	sp.Clock.Advance(12 * time.Second)
	nobody.Call("GET", "/limited/", nil).Want(200, "")
	nobody.Call("GET", "/limited/", nil).Want(429, "rate_limited")
}

// Setting a second factor up, and signing in with it.
func TestSecondFactor(t *testing.T) {
	t.Parallel()
	sp := service(t)
	ada := sp.SignIn("ada")
	nobody := sp.Anonymous()
	nobody.Call("POST", "/2fa/setup/", nil).Want(401, "")
	setup := ada.Call("POST", "/2fa/setup/", nil).Want(200, "")
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(setup.Text("secret"))
	if err != nil || !strings.HasPrefix(setup.Text("qr_png"), "data:image/png;base64,") {
		t.Fatalf("%v: %s", err, setup.Body)
	}
	code := func() m {
		sp.Clock.Advance(totp.Period) // each code is good once
		return m{"code": totp.Default.Code(secret, totp.StepAt(sp.Clock.Now()))}
	}
	wrong := code()
	wrong["code"] = wrong["code"].(string)[1:] + "x"
	ada.Call("POST", "/2fa/verify/", wrong).Want(400, "invalid_2fa_code")
	on := ada.Call("POST", "/2fa/verify/", code()).Want(200, "")
	if on.Text("message") != "2FA verified successfully" || !strings.Contains(on.Body, "recovery_codes") {
		t.Errorf("%s", on.Body)
	}
	ada.Call("POST", "/2fa/setup/", nil).Want(409, "mfa_on")
	ada.Call("POST", "/2fa/verify", code()).Want(200, "")

	if err := sp.Accounts.SetPassword(t.Context(), ada.ID, pass); err != nil {
		t.Fatal(err)
	}
	pending := nobody.Call("POST", "/login", m{"username": "ada", "password": pass}).Want(403, "mfa_required")
	if pending.Text("access_token") != "" || pending.Text("mfa_token") == "" {
		t.Fatalf("%s", pending.Body)
	}
	nobody.Call("GET", "/users/me", nil, "Authorization", "Bearer "+pending.Text("mfa_token")).Want(401, "invalid_token")
	second := code()
	second["mfa_token"] = pending.Text("mfa_token")
	in := nobody.Call("POST", "/2fa/verify/", second).Want(200, "")
	nobody.Call("GET", "/users/me", nil, "Authorization", "Bearer "+in.Text("access_token")).Want(200, "")
	nobody.Call("POST", "/2fa/verify/", second).Want(401, "") // used up
}

// Pages of one other origin may read answers, refusals too, and nobody else's.
func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	sp := service(t, "--origin", "https://app.example.com")
	nobody := sp.Anonymous()
	for origin, may := range map[string]bool{
		"https://app.example.com": true, "https://evil.example": false, "https://app.example.com.evil.example": false,
		"http://app.example.com": false, "null": false,
	} {
		for _, path := range []string{"/", "/users/me", "/nowhere"} {
			r := nobody.Call("GET", path, nil, "Origin", origin)
			if got := r.Header.Get("Access-Control-Allow-Origin"); (got == origin) != may || got != "" && !may {
				t.Errorf("%s from %s (%d): %q", path, origin, r.Status, got)
			}
		}
		r := nobody.Call("OPTIONS", "/items/", nil, "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
		if got := r.Header.Get("Access-Control-Allow-Origin"); (got == origin) != may {
			t.Errorf("preflight from %s: %d %v", origin, r.Status, r.Header)
		}
		secure(t, "a preflight from "+origin, r)
	}
}

// Where the URL says https://, what comes in clear is led there, or refused; other
// hosts are refused.
func TestHTTPSAndHosts(t *testing.T) {
	t.Parallel()
	sp := service(t, "--url", "https://api.example.com", "--hosts", "api.example.com,*.example.org", "--proxies", "127.0.0.1")
	nobody := sp.Anonymous()
	const clear = "http"
	call := func(path, host, proto string, header ...string) authtest.Reply {
		r := nobody.Call("GET", path, nil, append([]string{"Host", host, "X-Forwarded-Proto", proto}, header...)...)
		secure(t, path+" of "+host, r)
		return r
	}
	if r := call("/", "api.example.com", "https").Want(200, ""); !strings.Contains(r.Header.Get("Strict-Transport-Security"), "max-age=") {
		t.Errorf("%v", r.Header)
	}
	call("/", "eu.example.org", "https").Want(200, "")
	for _, host := range []string{"evil.example", "example.org", "api.example.com.evil.example"} {
		call("/", host, "https").Want(400, "host_not_allowed")
	}
	r := call("/docs?x=1", "api.example.com", clear, "Accept", "text/html")
	if r.Status != http.StatusTemporaryRedirect || r.Header.Get("Location") != "https://api.example.com/docs?x=1" {
		t.Errorf("%d %q %s", r.Status, r.Header.Get("Location"), r.Body)
	}
	call("/users/me", "api.example.com", clear, "Authorization", "Bearer x").Want(403, "https_required")
}

// The document has every operation with its rule, and the page has Authorize.
func TestDocs(t *testing.T) {
	t.Parallel()
	sp := service(t)
	nobody := sp.Anonymous()
	var doc struct {
		Info  struct{ Title string }
		Paths map[string]map[string]struct {
			Security []map[string][]string
			Rule     json.RawMessage `json:"x-sallyport-rule"`
			Limits   []any           `json:"x-sallyport-limits"`
		}
	}
	if err := json.Unmarshal([]byte(nobody.Call("GET", "/openapi.json", nil).Want(200, "").Body), &doc); err != nil {
		t.Fatal(err)
	}
	for route, rule := range map[string]string{
		"GET /": `"public"`, "GET /protected": `{"via":["basic","bearer","api_key"]}`, "GET /protected/": `{"via":["basic","bearer","api_key"]}`,
		"GET /admin": `{"role":"admin"}`, "GET /user": `{"any":[{"role":"user"},{"role":"admin"}]}`, "POST /moderate/": `{"any":[{"role":"moderator"},{"role":"admin"}]}`,
		"GET /read": `{"permission":"read"}`, "GET /write": `{"permission":"write"}`,
		"GET /items/": `{"scope":"read:items"}`, "POST /items/": `{"scope":"write:items"}`, "POST /comments/": `"signed_in"`, "GET /limited/": `"public"`,
		"POST /login": `"public"`, "POST /token": `"public"`, "POST /token/refresh": `"public"`, "POST /logout/": `{"via":["bearer","cookie"]}`,
		"POST /2fa/setup/": `"public"`, "POST /2fa/verify/": `"public"`, "POST /auth/register": `"public"`,
		"GET /users/me": `"signed_in"`, "GET /users/{id}": `{"permission":"read:users"}`, "DELETE /users/{id}": `{"permission":"delete:users"}`,
	} {
		method, path, _ := strings.Cut(route, " ")
		op, ok := doc.Paths[path][strings.ToLower(method)]
		if got := new(bytes.Buffer); !ok || json.Compact(got, op.Rule) != nil || got.String() != rule {
			t.Errorf("%s: documented %t with rule %s, want %s", route, ok, op.Rule, rule)
		}
		if (rule == `"public"`) != (len(op.Security) == 0) {
			t.Errorf("%s: security %v", route, op.Security)
		}
	}
	if len(doc.Paths["/limited/"]["get"].Limits) != 1 || doc.Info.Title != "Tutorial" {
		t.Errorf("%q, limits %v", doc.Info.Title, doc.Paths["/limited/"]["get"].Limits)
	}
	page := nobody.Call("GET", "/docs", nil).Want(200, "")
	if !strings.Contains(page.Body, "Tutorial") || !strings.Contains(page.Body, "swagger-ui-bundle.js") {
		t.Errorf("%.300s", page.Body)
	}
	secure(t, "GET /docs", page)
	nobody.Call("GET", "/docs/swagger-ui-bundle.js", nil).Want(200, "")
}

// start runs the program as its user does, and returns its address, what it said
// before, and what ends it.
func start(t *testing.T, data string) (address, said string, end func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	rd, wr := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"--listen", "127.0.0.1:0", "--data", data}, wr)
		_ = wr.CloseWithError(err)
		ended <- err
	}()
	for lines := bufio.NewScanner(rd); address == ""; {
		if !lines.Scan() {
			t.Fatal(<-ended)
		}
		if after, ok := strings.CutPrefix(lines.Text(), "Listening on "); ok {
			address = after
		} else {
			said += lines.Text()
		}
	}
	return address, said, func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// The program as its user runs it: README.md's transcript, to the letter; and what was
// stored is there after a restart.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(quoted) < 15 {
		t.Errorf("README.md quotes %d times: the search misses some", len(quoted))
	}
	squeeze := func(b []byte) string { return strings.Join(strings.Fields(string(b)), " ") }
	for _, q := range quoted {
		for part := range bytes.SplitSeq(q[1], []byte("…\n")) {
			if !strings.Contains(squeeze(source), squeeze(part)) {
				t.Errorf("README.md quotes what main.go has not:\n%s", part)
			}
		}
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl here to run the transcript with")
	}
	data := filepath.Join(t.TempDir(), "data")
	address, said, end := start(t, data)
	_, token, ok := strings.Cut(said, address+"/console/setup#k=")
	if !ok {
		t.Fatalf("no link to make the first administrator: %q", said)
	}
	_, transcript, _ := strings.Cut(string(readme), "```console\n")
	transcript, _, _ = strings.Cut(transcript, "```")
	transcript = strings.NewReplacer("http://127.0.0.1:8000", address, "su_…", token).Replace(transcript)
	follow(t, transcript)
	end()

	again, said, end := start(t, data)
	defer end()
	if said != "" {
		t.Errorf("with an administrator it says %q", said)
	}
	res, err := http.PostForm(again+"/token", url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {pass}})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("after a restart: %s", res.Status)
	}
}

// follow runs the commands of a transcript, the lines that begin with $, in one shell,
// and holds what they print against the lines below them, where … stands for anything.
func follow(t *testing.T, transcript string) {
	t.Helper()
	const mark = "--- next ---"
	var script strings.Builder
	var commands, want []string
	for line := range strings.Lines(transcript) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			fmt.Fprintf(&script, "echo; echo '%s'\n%s", mark, command)
			commands, want = append(commands, strings.TrimSpace(command)), append(want, "")
		} else if len(want) > 0 {
			want[len(want)-1] += line
		}
	}
	if len(commands) < 10 {
		t.Fatalf("the transcript has %d commands", len(commands))
	}
	shell := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := strings.Split(string(out), mark+"\n")[1:]
	for i, command := range commands {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want[i])), "…", ".*")
		if !regexp.MustCompile("^(?s)" + pattern + "$").MatchString(strings.TrimSpace(strings.ReplaceAll(got[i], "\r", ""))) {
			t.Errorf("$ %s\nprints\n%s\nwant\n%s", command, got[i], want[i])
		}
	}
}
