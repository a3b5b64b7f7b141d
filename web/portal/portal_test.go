package portal_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/web/portal"
)

// asked is a request that the API got.
type asked struct {
	method, target string
	header         http.Header
	host, peer     string
	body           map[string]any
}

// site is the pages over an API that answers what a test wants.
type site struct {
	t      *testing.T
	answer map[string]http.HandlerFunc // "POST /auth/login"
	asked  []asked
	srv    *httptest.Server
}

type openGate struct{}

func (openGate) Require(sallyport.Rule) func(http.Handler) http.Handler {
	panic("a page with a gate refuses who has an old cookie")
}
func (openGate) Open(next http.Handler) http.Handler { return next }

func newSite(t *testing.T, change ...func(*portal.Config)) *site {
	t.Helper()
	s := &site{t: t, answer: map[string]http.HandlerFunc{}}
	protection := http.NewCrossOriginProtection()
	cfg := portal.Config{
		API: http.HandlerFunc(s.api), Service: "Example", Mail: true, MailSignIn: true,
		Restrict: func(r *http.Request) error {
			if protection.Check(r) != nil {
				return &sallyport.Error{Status: 403, Code: "cross_origin", Message: "The form came from elsewhere."}
			}
			return nil
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	p, err := portal.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := sallyport.NewMux(openGate{})
	p.Routes(mux)
	outer := sallyport.NewMux(openGate{})
	outer.Mount("/", mux)
	if cfg.Path != "" {
		outer.Mount(cfg.Path, mux)
	}
	s.srv = httptest.NewServer(outer)
	t.Cleanup(s.srv.Close)
	return s
}

func (s *site) api(w http.ResponseWriter, r *http.Request) {
	a := asked{method: r.Method, target: r.URL.String(), header: r.Header.Clone(), host: r.Host, peer: r.RemoteAddr}
	b, _ := io.ReadAll(r.Body)
	if len(b) > 0 {
		if err := json.Unmarshal(b, &a.body); err != nil {
			s.t.Errorf("%s %s: body %q: %v", r.Method, r.URL, b, err)
		}
	}
	s.asked = append(s.asked, a)
	if h := s.answer[r.Method+" "+r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	sallyport.WriteError(w, sallyport.NotFound("answer in this test"))
}

// says answers with a body.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func refuses(e *sallyport.Error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { sallyport.WriteError(w, e) }
}

// page is an answer to a browser.
type page struct {
	status int
	header http.Header
	text   string
	root   *html.Node
}

func (s *site) send(r *http.Request) page {
	s.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	p := page{status: res.StatusCode, header: res.Header, text: string(b)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		if p.root, err = html.Parse(strings.NewReader(p.text)); err != nil {
			s.t.Fatal(err)
		}
		checkPage(s.t, r.Method+" "+r.URL.Path, p)
	}
	return p
}

func (s *site) request(method, target, body string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.srv.URL+target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if method == "POST" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	return r
}

func (s *site) get(target string) page { s.t.Helper(); return s.send(s.request("GET", target, "")) }

func (s *site) post(target string, fields ...string) page {
	s.t.Helper()
	v := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return s.send(s.request("POST", target, v.Encode()))
}

// last returns the last request to an operation.
func (s *site) last(operation string) asked {
	s.t.Helper()
	for _, a := range slices.Backward(s.asked) {
		if a.method+" "+a.target == operation {
			return a
		}
	}
	s.t.Fatalf("the API was not asked %s, but %v", operation, s.asked)
	return asked{}
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

func (p page) all(match func(*html.Node) bool) (out []*html.Node) {
	for n := range p.root.Descendants() {
		if n.Type == html.ElementNode && match(n) {
			out = append(out, n)
		}
	}
	return out
}

func (p page) elements(a atom.Atom) []*html.Node {
	return p.all(func(n *html.Node) bool { return n.DataAtom == a })
}

// input returns the input of a name, nil if there is none.
func (p page) input(name string) *html.Node {
	found := p.all(func(n *html.Node) bool { return n.DataAtom == atom.Input && attr(n, "name") == name })
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

func words(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// problem returns what the summary of errors says, "" if there is none.
func (p page) problem() string {
	for _, n := range p.all(func(n *html.Node) bool { return attr(n, "id") == "problem" }) {
		return words(n)
	}
	return ""
}

// checkPage holds for every page: what makes it usable for everybody, and what
// would let others' text run.
func checkPage(t *testing.T, name string, p page) {
	t.Helper()
	bad := func(format string, args ...any) { t.Helper(); t.Errorf("%s: "+format, append([]any{name}, args...)...) }
	if h := p.elements(atom.Html); attr(h[0], "lang") != "en" {
		bad("no lang")
	}
	for a, count := range map[atom.Atom]int{atom.Main: 1, atom.H1: 1, atom.Title: 1, atom.Header: 1} {
		if n := p.elements(a); len(n) != count {
			bad("%d elements %v, want %d", len(n), a, count)
		}
	}
	title, heading := words(p.elements(atom.Title)[0]), words(p.elements(atom.H1)[0])
	if heading == "" || !strings.Contains(title, heading) {
		bad("title %q, heading %q", title, heading)
	}
	if failed := p.problem() != ""; failed != strings.HasPrefix(title, "Error: ") {
		bad("the title %q does not say whether there is an error", title)
	}
	ids := map[string]int{}
	for _, n := range p.all(func(n *html.Node) bool { return has(n, "id") }) {
		ids[attr(n, "id")]++
	}
	for id, n := range ids {
		if id == "" || n > 1 {
			bad("id %q stands %d times", id, n)
		}
	}
	labelled := map[string]bool{}
	for _, n := range p.elements(atom.Label) {
		labelled[attr(n, "for")] = words(n) != ""
	}
	for _, n := range p.all(func(*html.Node) bool { return true }) {
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
				bad("<%s %s>: the policy would not let it work", n.Data, a.Key)
			}
			if (a.Key == "href" || a.Key == "src" || a.Key == "action") && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") &&
				!strings.HasPrefix(a.Val, "otpauth:") && !strings.HasPrefix(a.Val, "data:image/png") || strings.HasPrefix(a.Val, "//") {
				bad("<%s %s=%q> leads elsewhere", n.Data, a.Key, a.Val)
			}
		}
		for _, ref := range strings.Fields(attr(n, "aria-describedby")) {
			if ids[ref] == 0 {
				bad("aria-describedby names %q, which is not there", ref)
			}
		}
		switch n.DataAtom {
		case atom.Script:
			if n.FirstChild != nil || attr(n, "src") == "" {
				bad("an inline script")
			}
		case atom.Style:
			bad("an inline style")
		case atom.Img:
			if attr(n, "alt") == "" {
				bad("an image without words")
			}
		case atom.A:
			if h := attr(n, "href"); strings.HasPrefix(h, "#") && ids[h[1:]] == 0 {
				bad("a link to %s, which is not there", h)
			}
			if words(n) == "" {
				bad("a link without words")
			}
		case atom.Form:
			if attr(n, "method") != "post" {
				bad("a form that is not posted would put what is typed into an address")
			}
		case atom.Button:
			if words(n) == "" {
				bad("a button without words")
			}
		case atom.Input:
			if attr(n, "type") == "hidden" || has(n, "hidden") || attr(n, "type") == "checkbox" {
				continue
			}
			if !labelled[attr(n, "id")] {
				bad("input %q has no label", attr(n, "name"))
			}
			if attr(n, "autocomplete") == "" {
				bad("input %q does not say what it is for (WCAG 1.3.5)", attr(n, "name"))
			}
			if secret := attr(n, "type") == "password" || attr(n, "name") == "code"; secret && attr(n, "value") != "" {
				bad("input %q gives a secret back", attr(n, "name"))
			}
			if has(n, "aria-invalid") && !strings.Contains(attr(n, "aria-describedby"), attr(n, "name")+"-error") {
				bad("input %q does not say what is wrong with it", attr(n, "name"))
			}
		}
	}
	for header, want := range map[string]string{
		"Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
	} {
		if got := p.header.Get(header); got != want {
			bad("%s: %q, want %q", header, got, want)
		}
	}
	policy := p.header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
		if !slices.Contains(strings.Split(policy, "; "), part) {
			bad("the policy lacks %s: %s", part, policy)
		}
	}
	if data := strings.Contains(policy, "data:"); data != strings.Contains(p.text, "data:image/png") {
		bad("images may be data: %v", data)
	}
}

const ada = `{"username": "ada", "email": "ada@example.com", "email_verified": true, "full_name": null, "mfa_enabled": false}`

// Every page that can be visited shows without asking the API anything that could
// change something.
func TestPagesAskNothing(t *testing.T) {
	s := newSite(t)
	s.answer["GET /users/me"] = says(200, ada)
	for _, target := range []string{
		"/account/sign-in", "/account/sign-in?next=/app", "/account/sign-in?notice=signed_out", "/account/sign-in?notice=%3Cb%3E", "/account/forgot",
		"/account/reset", "/account/verify", "/account/link", "/account/invitation", "/account/request-link", "/console/setup",
	} {
		if p := s.get(target); p.status != 200 || p.problem() != "" {
			t.Errorf("%s: %d %s", target, p.status, p.problem())
		}
	}
	if len(s.asked) != 0 {
		t.Errorf("without a cookie the API was asked %v", s.asked)
	}
	for _, target := range []string{"/account/", "/account/password", "/account/second-factor"} {
		if p := s.get(target); p.status != 303 || p.header.Get("Location") != "/account/sign-in?next="+url.QueryEscape(target) {
			t.Errorf("%s: %d to %s", target, p.status, p.header.Get("Location"))
		}
		r := s.request("GET", target, "")
		r.Header.Set("Cookie", "a=b")
		if p := s.send(r); p.status != 200 {
			t.Errorf("%s, signed in: %d", target, p.status)
		}
	}
	for _, a := range s.asked {
		if a.method != "GET" || a.target != "/users/me" {
			t.Errorf("asked %s %s", a.method, a.target)
		}
	}
	if p := s.get("/account/nothing/here"); p.status != 404 || p.root == nil {
		t.Errorf("an unknown page: %d %s", p.status, p.text)
	}
	if p := s.get("/.well-known/change-password"); p.status != 302 || p.header.Get("Location") != "/account/password" {
		t.Errorf("change-password: %d %s", p.status, p.header.Get("Location"))
	}
}

// The API sees the browser: its address, cookie, origin and agent, and never a
// header that says who somebody is besides.
func TestRequestsAreTheBrowsers(t *testing.T) {
	s := newSite(t)
	s.answer["GET /users/me"] = says(200, ada)
	s.answer["POST /auth/login"] = func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "new"})
		w.WriteHeader(204)
	}
	r := s.request("POST", "/account/sign-in?mode=x&username=eve", "username=ada&password=p%C3%A4+%26&grant_type=x&scope=admin")
	for name, value := range map[string]string{
		"Cookie": "session=old", "Origin": s.srv.URL, "Accept-Language": "de", "User-Agent": "Test/1", "Authorization": "Bearer stolen",
		"X-Api-Key": "k", "X-Forwarded-For": "203.0.113.9", "Content-Encoding": "identity",
	} {
		r.Header.Set(name, value)
	}
	p := s.send(r)
	if p.status != 303 || p.header.Get("Location") != "/account/" || p.header.Get("Set-Cookie") != "session=new" {
		t.Fatalf("%d, to %q, %q", p.status, p.header.Get("Location"), p.header.Get("Set-Cookie"))
	}
	a := s.last("POST /auth/login?mode=cookie")
	if want := map[string]any{"username": "ada", "password": "pä &"}; !maps.Equal(a.body, want) {
		t.Errorf("body %v", a.body)
	}
	want := http.Header{
		"Cookie": {"session=old"}, "Origin": {s.srv.URL}, "Sec-Fetch-Site": {"same-origin"}, "Accept-Language": {"de"}, "User-Agent": {"Test/1"},
		"Content-Type": {"application/json"},
	}
	if !maps.EqualFunc(a.header, want, slices.Equal[[]string]) {
		t.Errorf("header %v", a.header)
	}
	if !strings.HasPrefix(a.peer, "127.0.0.1:") || "http://"+a.host != s.srv.URL {
		t.Errorf("peer %s, host %s", a.peer, a.host)
	}
}

// A form that another origin's page sends, or that is none, reaches nothing.
func TestFormsThatAreRefused(t *testing.T) {
	s := newSite(t)
	s.answer["POST /auth/login"] = says(204, "")
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"another site":   {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"the same site":  {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		"another origin": {func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.example") }, 403},
		"JSON":           {func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 415},
		"plain text":     {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		"a field twice": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("username=a&username=b")), 21
		}, 400},
		"100 KiB": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("a="+strings.Repeat("b", 100<<10))), 100<<10+2
		}, 413},
		"as it should be": {func(*http.Request) {}, 303},
	} {
		s.asked = nil
		r := s.request("POST", "/account/sign-in", "username=ada&password=p")
		c.change(r)
		p := s.send(r)
		if p.status != c.status {
			t.Errorf("%s: %d, want %d", name, p.status, c.status)
		}
		if refused := c.status != 303; refused && (len(s.asked) > 0 || p.root == nil || p.problem() == "") {
			t.Errorf("%s: the API was asked %v; %s", name, s.asked, p.text)
		}
	}
}

// A cookie that is not good is taken away, and does not keep anybody out.
func TestStaleCookie(t *testing.T) {
	s := newSite(t)
	s.answer["GET /users/me"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "session=; Max-Age=0")
		sallyport.WriteError(w, sallyport.Unauthenticated())
	}
	s.answer["POST /2fa/verify"] = says(204, "")
	r := s.request("POST", "/account/sign-in", "mfa_token=mfa_x&code=123456")
	r.Header.Set("Cookie", "session=old")
	p := s.send(r)
	if p.status != 303 || p.header.Get("Set-Cookie") != "session=; Max-Age=0" {
		t.Errorf("%d %v", p.status, p.header)
	}
	if a := s.last("POST /2fa/verify"); a.header.Get("Cookie") != "" {
		t.Error("the cookie was sent again")
	}
	s.answer["GET /users/me"] = refuses(sallyport.Unavailable())
	p = s.send(r.Clone(t.Context()))
	if p.status != 503 || p.problem() == "" || p.header.Get("Retry-After") == "" {
		t.Errorf("without the database: %d %s", p.status, p.text)
	}
}

func TestRefusalsAreShown(t *testing.T) {
	s := newSite(t)
	s.answer["POST /auth/login"] = refuses(&sallyport.Error{Status: 401, Code: "invalid_credentials", Message: "Incorrect <b>username</b> or password"})
	p := s.post("/account/sign-in", "username", `"><script>alert(1)</script>`, "password", "secret-of-mine", "next", "/app")
	if p.status != 403 || p.header.Get("Www-Authenticate") != "" {
		t.Errorf("status %d, %q: a browser would ask by itself", p.status, p.header.Get("Www-Authenticate"))
	}
	if got := p.problem(); got != "Error: Incorrect <b>username</b> or password" {
		t.Errorf("says %q", got)
	}
	if strings.Contains(p.text, "secret-of-mine") || attr(p.input("username"), "value") != `"><script>alert(1)</script>` || attr(p.input("next"), "value") != "/app" {
		t.Errorf("gives back: %s", p.text)
	}

	s.answer["POST /auth/login"] = refuses(&sallyport.Error{Status: 429, Code: "too_many_attempts", Message: "Too many.", RetryAfter: 90e9})
	if p = s.post("/account/sign-in", "username", "ada", "password", "p"); p.status != 429 || p.header.Get("Retry-After") != "90" || p.problem() != "Error: Too many." {
		t.Errorf("%d %v %q", p.status, p.header, p.problem())
	}

	s.answer["POST /auth/reset-password"] = refuses(sallyport.Invalid(sallyport.Field{Pointer: "/password", Code: "too_short", Detail: "Use more."}))
	p = s.post("/account/reset", "token", "rs_abc", "password", "x")
	in := p.input("password")
	if p.status != 422 || attr(in, "aria-invalid") != "true" || attr(p.input("token"), "value") != "rs_abc" || attr(p.input("token"), "type") != "hidden" {
		t.Errorf("%d %s", p.status, p.text)
	}
	if link := p.all(func(n *html.Node) bool { return n.DataAtom == atom.A && attr(n, "href") == "#password" }); len(link) != 1 || words(link[0]) != "Use more." {
		t.Errorf("the summary does not lead to the field: %s", p.text)
	}

	s.answer["POST /auth/reset-password"] = refuses(&sallyport.Error{Status: 400, Code: "invalid_token", Message: "No."})
	p = s.post("/account/reset", "token", "rs_abc", "password", "x")
	if in := p.input("token"); p.status != 400 || !strings.Contains(p.problem(), "Ask for another letter") || attr(in, "type") != "text" || attr(in, "value") != "" {
		t.Errorf("%d %q %s", p.status, p.problem(), p.text)
	}

	s.answer["POST /auth/forgot-password"] = says(500, "boom")
	if p = s.post("/account/forgot", "email", "ada@example.com"); p.status != 500 || strings.Contains(p.text, "boom") || p.problem() == "" || attr(p.input("email"), "value") != "ada@example.com" {
		t.Errorf("%d %s", p.status, p.text)
	}
	s.answer["POST /auth/forgot-password"] = refuses(&sallyport.Error{Status: 403, Code: "mail_off", Message: "Set smtp.url."})
	if p = s.post("/account/forgot", "email", "ada@example.com"); p.status != 403 || !strings.Contains(p.problem(), "sends no mail") {
		t.Errorf("%d %s", p.status, p.problem())
	}
}

// What each form posts, and where its answer leads.
func TestForms(t *testing.T) {
	const mfa = `{"code": "mfa_required", "detail": "Send it.", "status": 403, "mfa_token": "mfa_t", "mfa_methods": `
	setup := says(200, `{"secret": "ABCDEFGHIJ", "otpauth_uri": "otpauth://totp/x:ada?secret=ABCDEFGHIJ&issuer=x", "qr_png": "data:image/png;base64,AAAA"}`)
	cases := []struct {
		name   string
		api    map[string]http.HandlerFunc
		in     bool // signed in
		target string
		fields []string

		operation string
		body      map[string]any
		status    int
		location  string
		title     string
		hidden    map[string]string
	}{
		{
			name: "a second factor is due", api: map[string]http.HandlerFunc{"POST /auth/login": says(403, mfa+`["totp", "recovery"]}`)},
			target: "/account/sign-in", fields: []string{"username", "ada", "password", "p", "next", "/app?x=1"},
			operation: "POST /auth/login?mode=cookie", body: map[string]any{"username": "ada", "password": "p"},
			status: 200, title: "Second step of signing in", hidden: map[string]string{"mfa_token": "mfa_t", "next": "/app?x=1"},
		},
		{
			name: "a second factor is to be set up", api: map[string]http.HandlerFunc{"POST /auth/login": says(403, mfa+`["setup"]}`), "POST /2fa/setup": setup},
			target: "/account/sign-in", fields: []string{"username", "ada", "password", "p"},
			operation: "POST /2fa/setup", body: map[string]any{"mfa_token": "mfa_t"},
			status: 200, title: "Set up a second factor", hidden: map[string]string{"mfa_token": "mfa_t", "setup": "yes"},
		},
		{
			name: "another QR code", api: map[string]http.HandlerFunc{"POST /2fa/setup": setup},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "setup", "yes"},
			operation: "POST /2fa/setup", body: map[string]any{"mfa_token": "mfa_t"}, status: 200, title: "Set up a second factor",
		},
		{
			name: "another QR code, too often", api: map[string]http.HandlerFunc{"POST /2fa/setup": refuses(&sallyport.Error{Status: 429, Code: "too_many_requests", Message: "Wait."})},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "setup", "yes", "next", "/app"},
			operation: "POST /2fa/setup", body: map[string]any{"mfa_token": "mfa_t"}, status: 429, title: "Set up a second factor",
			hidden: map[string]string{"mfa_token": "mfa_t", "setup": "yes", "next": "/app"},
		},
		{
			name: "the first QR code, without the database", api: map[string]http.HandlerFunc{
				"POST /auth/login": says(403, mfa+`["setup"]}`), "POST /2fa/setup": refuses(sallyport.Unavailable()),
			},
			target: "/account/sign-in", fields: []string{"username", "ada", "password", "p"},
			operation: "POST /2fa/setup", body: map[string]any{"mfa_token": "mfa_t"}, status: 503, title: "Set up a second factor",
			hidden: map[string]string{"mfa_token": "mfa_t", "setup": "yes"},
		},
		{
			name: "a QR code of who has a factor", api: map[string]http.HandlerFunc{"POST /2fa/setup": refuses(&sallyport.Error{Status: 409, Code: "mfa_on", Message: "On."})},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "setup", "yes"},
			operation: "POST /2fa/setup", body: map[string]any{"mfa_token": "mfa_t"}, status: 409, title: "Second step of signing in",
			hidden: map[string]string{"mfa_token": "mfa_t"},
		},
		{
			name: "it is set up", api: map[string]http.HandlerFunc{"POST /2fa/verify": says(200, `{"recovery_codes": ["aaaaa-bbbbb"]}`)},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "setup", "yes", "code", "123456", "next", "/app"},
			operation: "POST /2fa/verify", body: map[string]any{"mfa_token": "mfa_t", "code": "123456"}, status: 200, title: "Your recovery codes",
		},
		{
			name: "a wrong first code", api: map[string]http.HandlerFunc{"POST /2fa/verify": refuses(&sallyport.Error{Status: 401, Code: "invalid_2fa_code", Message: "No."})},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "setup", "yes", "code", "1"},
			operation: "POST /2fa/verify", body: map[string]any{"mfa_token": "mfa_t", "code": "1"}, status: 403, title: "Set up a second factor",
			hidden: map[string]string{"mfa_token": "mfa_t", "setup": "yes"},
		},
		{
			name: "the code", api: map[string]http.HandlerFunc{"POST /2fa/verify": says(204, "")},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "code", "123456", "next", "/app"},
			operation: "POST /2fa/verify", body: map[string]any{"mfa_token": "mfa_t", "code": "123456"}, status: 303, location: "/app",
		},
		{
			name: "a wrong code", api: map[string]http.HandlerFunc{"POST /2fa/verify": refuses(&sallyport.Error{Status: 401, Code: "invalid_2fa_code", Message: "No."})},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "code", "1", "next", "/app"},
			operation: "POST /2fa/verify", body: map[string]any{"mfa_token": "mfa_t", "code": "1"}, status: 403, title: "Second step of signing in",
			hidden: map[string]string{"mfa_token": "mfa_t", "next": "/app"},
		},
		{
			name: "too late", api: map[string]http.HandlerFunc{"POST /2fa/verify": refuses(&sallyport.Error{Status: 401, Code: "invalid_token", Message: "Over."})},
			target: "/account/sign-in", fields: []string{"mfa_token", "mfa_t", "code", "1", "next", "/app"},
			operation: "POST /2fa/verify", body: map[string]any{"mfa_token": "mfa_t", "code": "1"}, status: 403, title: "Sign in", hidden: map[string]string{"next": "/app"},
		},
		{
			name: "elsewhere is not gone", api: map[string]http.HandlerFunc{"POST /auth/login": says(204, "")},
			target: "/account/sign-in", fields: []string{"username", "ada", "password", "p", "next", "//evil.example"},
			operation: "POST /auth/login?mode=cookie", body: map[string]any{"username": "ada", "password": "p"}, status: 303, location: "/account/",
		},
		{
			name: "sign out", api: map[string]http.HandlerFunc{"POST /auth/logout": says(204, "")}, in: true,
			target: "/account/sign-out", operation: "POST /auth/logout", status: 303, location: "/account/sign-in?notice=signed_out",
		},
		{
			name: "forgot", api: map[string]http.HandlerFunc{"POST /auth/forgot-password": says(202, `{"message": "x"}`)},
			target: "/account/forgot", fields: []string{"email", "ada@example.com"},
			operation: "POST /auth/forgot-password", body: map[string]any{"email": "ada@example.com"}, status: 200, title: "Look into your mail",
		},
		{
			name: "reset", api: map[string]http.HandlerFunc{"POST /auth/reset-password": says(200, ada)},
			target: "/account/reset", fields: []string{"token", "rs_x", "password", "new"},
			operation: "POST /auth/reset-password", body: map[string]any{"token": "rs_x", "password": "new"}, status: 303, location: "/account/sign-in?notice=password_reset",
		},
		{
			name: "reset with the whole link", api: map[string]http.HandlerFunc{"POST /auth/reset-password": says(200, ada)},
			target: "/account/reset", fields: []string{"token", " https://x.example/account/reset#token=rs_x ", "password", "new"},
			operation: "POST /auth/reset-password", body: map[string]any{"token": "rs_x", "password": "new"}, status: 303, location: "/account/sign-in?notice=password_reset",
		},
		{
			name: "verify", api: map[string]http.HandlerFunc{"POST /auth/verify": says(200, `{"email": "ada@example.com", "password_set": true}`)},
			target: "/account/verify", fields: []string{"token", "vt_x", "password", "p"},
			operation: "POST /auth/verify", body: map[string]any{"token": "vt_x", "password": "p"}, status: 303, location: "/account/sign-in?notice=address_verified",
		},
		{
			name: "verify, signed in", api: map[string]http.HandlerFunc{"POST /auth/verify": says(200, `{"email": "ada@example.com", "password_set": true}`)}, in: true,
			target: "/account/verify", fields: []string{"token", "vt_x", "password", "p"},
			operation: "POST /auth/verify", body: map[string]any{"token": "vt_x", "password": "p"}, status: 303, location: "/account/?notice=address_verified",
		},
		{
			name: "verify without a password", api: map[string]http.HandlerFunc{"POST /auth/verify": says(200, `{"email": "ada@example.com", "password_set": false}`)},
			target: "/account/verify", fields: []string{"token", "vt_x", "password", "p", "without", "yes"},
			operation: "POST /auth/verify", body: map[string]any{"token": "vt_x"}, status: 200, title: "Your address is confirmed",
		},
		{
			name: "verify with an empty password", target: "/account/verify", fields: []string{"token", "vt_x", "password", ""},
			status: 422, title: "Confirm your address", hidden: map[string]string{"token": "vt_x"},
		},
		{
			name: "ask for a link", api: map[string]http.HandlerFunc{"POST /auth/request-link": says(202, `{"message": "x", "handle": "lh_h"}`)},
			target: "/account/request-link", fields: []string{"email", "ada@example.com", "next", "/app"},
			operation: "POST /auth/request-link", body: map[string]any{"email": "ada@example.com"}, status: 200, title: "Type the code from the letter",
			hidden: map[string]string{"handle": "lh_h", "next": "/app"},
		},
		{
			name: "sign in by code", api: map[string]http.HandlerFunc{"POST /auth/link": says(204, "")},
			target: "/account/link", fields: []string{"handle", "lh_h", "code", " 123 456 ", "next", "/app"},
			operation: "POST /auth/link?mode=cookie", body: map[string]any{"handle": "lh_h", "code": "123456"}, status: 303, location: "/app",
		},
		{
			name: "a wrong code of a letter", api: map[string]http.HandlerFunc{"POST /auth/link": refuses(&sallyport.Error{Status: 401, Code: "invalid_token", Message: "No."})},
			target: "/account/link", fields: []string{"handle", "lh_h", "code", "1"},
			operation: "POST /auth/link?mode=cookie", body: map[string]any{"handle": "lh_h", "code": "1"}, status: 403, title: "Type the code from the letter",
			hidden: map[string]string{"handle": "lh_h"},
		},
		{
			name: "sign in by link", api: map[string]http.HandlerFunc{"POST /auth/link": says(204, "")},
			target: "/account/link", fields: []string{"token", "li_x"},
			operation: "POST /auth/link?mode=cookie", body: map[string]any{"token": "li_x"}, status: 303, location: "/account/",
		},
		{
			name: "sign in by link, a second factor is due", api: map[string]http.HandlerFunc{"POST /auth/link": says(403, mfa+`["totp"]}`)},
			target: "/account/link", fields: []string{"token", "li_x"},
			operation: "POST /auth/link?mode=cookie", body: map[string]any{"token": "li_x"}, status: 200, title: "Second step of signing in",
			hidden: map[string]string{"mfa_token": "mfa_t"},
		},
		{
			name: "invitation", api: map[string]http.HandlerFunc{"POST /auth/accept-invitation": says(200, ada)},
			target: "/account/invitation", fields: []string{"token", "in_x", "password", "p", "username", "ada", "full_name", ""},
			operation: "POST /auth/accept-invitation", body: map[string]any{"token": "in_x", "password": "p", "username": "ada"}, status: 303, location: "/account/sign-in?notice=password_chosen",
		},
		{
			name: "set-up", api: map[string]http.HandlerFunc{"POST /auth/setup": says(201, ada)},
			target: "/console/setup", fields: []string{"token", "http://x/console/setup#k=su_x", "email", "ada@example.com", "password", "p"},
			operation: "POST /auth/setup", body: map[string]any{"token": "su_x", "email": "ada@example.com", "password": "p"}, status: 303, location: "/account/sign-in?notice=set_up",
		},
		{
			name: "set-up with an old link", api: map[string]http.HandlerFunc{"POST /auth/setup": refuses(&sallyport.Error{Status: 400, Code: "invalid_token", Message: "No."})},
			target: "/console/setup", fields: []string{"token", "su_x", "email", "ada@example.com", "password", "p"},
			operation: "POST /auth/setup", body: map[string]any{"token": "su_x", "email": "ada@example.com", "password": "p"}, status: 400, title: "Set up the first administrator",
		},
		{
			name: "change the password", api: map[string]http.HandlerFunc{"PUT /users/me/password": says(204, "")}, in: true,
			target: "/account/password", fields: []string{"current_password", "a", "new_password", "b"},
			operation: "PUT /users/me/password", body: map[string]any{"current_password": "a", "new_password": "b"}, status: 303, location: "/account/?notice=password_changed",
		},
		{
			name: "change the password as nobody", target: "/account/password", fields: []string{"current_password", "a", "new_password", "b"},
			status: 303, location: "/account/sign-in?next=%2Faccount%2Fpassword",
		},
		{
			name: "begin a second factor", api: map[string]http.HandlerFunc{"POST /2fa/setup": setup}, in: true,
			target: "/account/second-factor", fields: []string{"do", "begin"}, operation: "POST /2fa/setup", status: 200, title: "Set up a second factor", hidden: map[string]string{"do": "confirm"},
		},
		{
			name: "begin one too long after signing in", api: map[string]http.HandlerFunc{"POST /2fa/setup": refuses(&sallyport.Error{Status: 401, Code: "insufficient_user_authentication", Message: "No."})}, in: true,
			target: "/account/second-factor", fields: []string{"do", "begin"}, operation: "POST /2fa/setup", status: 403, title: "Sign in", hidden: map[string]string{"next": "/account/second-factor"},
		},
		{
			name: "confirm it", api: map[string]http.HandlerFunc{"POST /2fa/verify": says(200, `{"message": "x", "recovery_codes": ["aaaaa-bbbbb"]}`)}, in: true,
			target: "/account/second-factor", fields: []string{"do", "confirm", "code", "123456"}, operation: "POST /2fa/verify", body: map[string]any{"code": "123456"}, status: 200, title: "Your recovery codes",
		},
		{
			name: "new recovery codes", api: map[string]http.HandlerFunc{"POST /2fa/recovery-codes": says(200, `{"recovery_codes": ["aaaaa-bbbbb"]}`)}, in: true,
			target: "/account/second-factor", fields: []string{"do", "codes", "code", "123456"}, operation: "POST /2fa/recovery-codes", body: map[string]any{"code": "123456"}, status: 200, title: "Your recovery codes",
		},
		{
			name: "switch it off", api: map[string]http.HandlerFunc{"DELETE /2fa": says(204, "")}, in: true,
			target: "/account/second-factor", fields: []string{"do", "off", "code", "123456"}, operation: "DELETE /2fa", body: map[string]any{"code": "123456"}, status: 303, location: "/account/?notice=mfa_off",
		},
		{
			name: "nothing that is known", in: true, target: "/account/second-factor", fields: []string{"do", "x"}, status: 200, title: "Second factor",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.answer = c.api
			if s.answer == nil {
				s.answer = map[string]http.HandlerFunc{}
			}
			s.answer["GET /users/me"] = says(200, ada)
			v := url.Values{}
			for i := 0; i < len(c.fields); i += 2 {
				v.Set(c.fields[i], c.fields[i+1])
			}
			r := s.request("POST", c.target, v.Encode())
			if c.in {
				r.Header.Set("Cookie", "session=x")
			}
			p := s.send(r)
			if p.status != c.status || p.header.Get("Location") != c.location {
				t.Fatalf("%d to %q, want %d to %q\n%s", p.status, p.header.Get("Location"), c.status, c.location, p.text)
			}
			if c.operation != "" {
				if a := s.last(c.operation); !maps.Equal(a.body, c.body) {
					t.Errorf("body %v, want %v", a.body, c.body)
				}
			} else if slices.ContainsFunc(s.asked, func(a asked) bool { return a.method != "GET" }) {
				t.Errorf("the API was asked %v", s.asked)
			}
			if c.title != "" && words(p.elements(atom.H1)[0]) != c.title {
				t.Errorf("page %q, want %q", words(p.elements(atom.H1)[0]), c.title)
			}
			for name, want := range c.hidden {
				if in := p.input(name); in == nil || attr(in, "value") != want || attr(in, "type") != "hidden" {
					t.Errorf("no hidden %s = %q in %s", name, want, p.text)
				}
			}
		})
	}
}

// A page leads to a path of the same origin or nowhere.
func TestWhereToGoOn(t *testing.T) {
	s := newSite(t)
	s.answer["POST /auth/login"] = says(204, "")
	for next, goes := range map[string]bool{
		"/": true, "/app/page?a=b&c=%2F#part": true, "/a//b": true,
		"": false, "app": false, "//evil.example": false, "/\\evil.example": false, "\\\\evil.example": false, "https://evil.example": false,
		"javascript:alert(1)": false, "/\t/evil.example": false, "/\n/evil.example": false, "/a\r\nSet-Cookie: x=y": false, " /app": false, "/ä": false,
		"/" + strings.Repeat("a", 2048): false,
	} {
		want := "/account/"
		if goes {
			want = next
		}
		if p := s.post("/account/sign-in", "username", "a", "password", "b", "next", next); p.header.Get("Location") != want {
			t.Errorf("%q leads to %q", next, p.header.Get("Location"))
		}
		p := s.get("/account/sign-in?next=" + url.QueryEscape(next))
		if in := p.input("next"); (in != nil) != goes || goes && attr(in, "value") != next {
			t.Errorf("%q is carried on: %s", next, p.text)
		}
	}
}

// Pages under a base URL with a path lead there.
func TestUnderAPath(t *testing.T) {
	s := newSite(t, func(c *portal.Config) { c.Path = "/auth" })
	p := s.get("/account/sign-in")
	for _, n := range p.all(func(n *html.Node) bool { return has(n, "href") || has(n, "src") || has(n, "action") }) {
		if to := attr(n, "href") + attr(n, "src") + attr(n, "action"); !strings.HasPrefix(to, "/auth/account/") {
			t.Errorf("<%s> leads to %s", n.Data, to)
		}
	}
	// Whether what is before the server takes that path away, or the routes are
	// mounted under it.
	for _, target := range []string{"/account/", "/auth/account/"} {
		if p := s.get(target); p.header.Get("Location") != "/auth/account/sign-in?next=%2Fauth%2Faccount%2F" {
			t.Errorf("%s leads to %s", target, p.header.Get("Location"))
		}
	}
}

// What is not offered is not shown.
func TestWhatIsOffered(t *testing.T) {
	for _, c := range []struct {
		change                   func(*portal.Config)
		password, forgot, letter bool
	}{
		{func(*portal.Config) {}, true, true, true},
		{func(c *portal.Config) { c.Mail, c.MailSignIn = false, false }, true, false, false},
		{func(c *portal.Config) { c.MailSignIn = false }, true, true, false},
		{func(c *portal.Config) { c.NoPassword = true }, false, false, true},
	} {
		p := newSite(t, c.change).get("/account/sign-in")
		leads := func(to string) bool {
			return len(p.all(func(n *html.Node) bool { return attr(n, "href") == to })) == 1
		}
		if (p.input("password") != nil) != c.password || leads("/account/forgot") != c.forgot || leads("/account/request-link") != c.letter {
			t.Errorf("%+v: %s", c, p.text)
		}
	}
}

func TestAssets(t *testing.T) {
	s := newSite(t)
	for _, n := range s.get("/account/sign-in").all(func(n *html.Node) bool { return n.DataAtom == atom.Link || n.DataAtom == atom.Script }) {
		target := attr(n, "href") + attr(n, "src")
		if p := s.get(target); p.status != 200 || p.text == "" || p.header.Get("Content-Type") == "" {
			t.Errorf("%s: %d", target, p.status)
		}
	}
	for _, name := range []string{"layout.html", "..%2ftemplates%2flayout.html", "nothing"} {
		if p := s.get("/account/assets/" + name); p.status != 404 {
			t.Errorf("%s: %d", name, p.status)
		}
	}
}
