// Package forward answers the reverse proxies of other services, which ask about
// each request whether it may pass (nginx's auth_request, Traefik's ForwardAuth,
// Caddy's forward_auth, Envoy's ext_authz over HTTP).
//
// It decides nothing about callers: it makes of the proxy's question the request
// that the client sent, and has the gate of all routes decide on that. Who passes is
// named to the service in headers, each of which is always there, so that the proxy
// puts it in place of what the client sent under that name, and in a signed
// assertion.
//
// What the client sent is known from headers that anybody could write. So questions
// are answered only to declared proxies (package clientip), and one that leaves
// something open is answered no.
//
// Begin with Door, which server.Server has; IdentityHeaders is what a service is told.
package forward

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Prefix is where the routes are.
const Prefix = "/forward-auth/"

// Config is what a Door needs.
type Config struct {
	// Ask leads through the gate (authn.Gate.Ask).
	Ask func(sallyport.Rule) (func(http.Handler) http.Handler, error)
	// FromProxy reports whether a declared proxy sent the request; Undeclared is told
	// of those that others sent.
	FromProxy  func(*http.Request) bool
	Undeclared func(*http.Request)
	// Person returns the name and the verified address of an account, "" for each that
	// there is not.
	Person func(ctx context.Context, id string) (username, email string, err error)
	// Keys returns the keys that sign.
	Keys func(context.Context) (*token.Set, error)
	// Issuer is the base URL; SignIn the path of the page where people sign in, "" if
	// there is none.
	Issuer, SignIn string
	Refusals       *audit.Refusals
	Log            *slog.Logger
	Now            func() time.Time
}

// Door is what proxies ask.
type Door struct {
	cfg   Config
	base  *url.URL
	noted atomic.Int64 // when a mistake was logged last, Unix nanoseconds
}

// New returns a Door.
func New(cfg Config) (*Door, error) {
	base, err := url.Parse(cfg.Issuer)
	if err != nil {
		return nil, err
	}
	return &Door{cfg: cfg, base: base}, nil
}

// proxy is one kind of reverse proxy.
type proxy struct {
	name string
	// read returns what the client sent; ok is false if the question does not say it.
	read func(r *http.Request) (method, uri, host string, ok bool)
	// rules returns the rules that the question requires.
	rules func(r *http.Request) ([]string, error)
	// appends tells that the proxy writes the client's path after that of the route.
	appends bool
	// upgrades tells that the proxy takes Upgrade from the answer, and not from the client.
	upgrades bool
	// hands tells that our refusals reach the client as they are.
	hands bool
	// needs says what the proxy must be told to send.
	needs string
}

// Routes registers the routes. They are no operations: who may ask is no matter of a
// rule, and what is answered is about the rule that was asked with.
func (d *Door) Routes(mux *sallyport.Mux) {
	forwarded := func(name string) proxy {
		return proxy{
			name: name, hands: true, rules: inQuery,
			read: func(r *http.Request) (method, uri, host string, ok bool) {
				return headers(r, "X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host")
			},
			needs: "X-Forwarded-Method, X-Forwarded-Uri and X-Forwarded-Host, each once",
		}
	}
	nginx := proxy{
		name: "nginx", rules: inQuery,
		read: func(r *http.Request) (method, uri, host string, ok bool) {
			return headers(r, "X-Original-Method", "X-Original-Uri", "X-Forwarded-Host")
		},
		needs: "X-Original-Method, X-Original-URI and X-Forwarded-Host, each once",
	}
	traefik := forwarded("traefik")
	traefik.upgrades = true
	for _, p := range []proxy{nginx, traefik, forwarded("caddy")} {
		mux.Open("GET "+Prefix+p.name, d.handler(p))
	}
	envoy := proxy{
		name: "envoy", hands: true, appends: true, rules: inHeader,
		read: func(r *http.Request) (method, uri, host string, ok bool) {
			// As it was sent, and not as it was decoded.
			_, uri, ok = strings.Cut(r.RequestURI, strings.TrimSuffix(Prefix, "/")+"/envoy")
			return r.Method, uri, r.Host, ok
		},
		needs: "the path after path_prefix, and the header " + RequireHeader + " once",
	}
	// Each by its name, so that it stands beside a service's own routes for all paths of
	// a method.
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		mux.Open(method+" "+Prefix+envoy.name+"/{path...}", d.handler(envoy))
	}
}

// RequireHeader is where Envoy sends the rule: the address that it asks at ends in
// the client's own query.
const RequireHeader = "X-Sallyport-Require"

var errNoRule = errors.New("there is no rule")

// inQuery returns the rules of the query, which the proxy's configuration writes.
func inQuery(r *http.Request) ([]string, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errors.New("the query is not valid: write the rule percent-encoded")
	}
	for name := range q {
		if name != "require" {
			return nil, errors.New("the query holds something else than require")
		}
	}
	if rules := q["require"]; len(rules) > 0 {
		return rules, nil
	}
	return []string{sallyport.SignedIn().String()}, nil
}

// inHeader returns the rule of RequireHeader. It must be there: Envoy writes it over a
// client's own only if it is told to write one.
func inHeader(r *http.Request) ([]string, error) {
	if lines := r.Header[RequireHeader]; len(lines) == 1 {
		return lines, nil
	}
	return nil, errNoRule
}

// headers returns three headers that must stand there once each.
func headers(r *http.Request, names ...string) (method, uri, host string, ok bool) {
	values := make([]string, len(names))
	for i, name := range names {
		lines := r.Header[name]
		if len(lines) != 1 {
			return "", "", "", false
		}
		values[i] = lines[0]
	}
	return values[0], values[1], values[2], true
}

func (d *Door) handler(p proxy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		a := &answer{d: d, p: p}
		if !d.cfg.FromProxy(r) {
			d.cfg.Undeclared(r)
			a.refuse(w, r, undeclared())
			return
		}
		rule, err := ruleOf(p, r)
		if err != nil {
			d.mistake(w, r, a, "the rule that is required cannot be read: "+err.Error())
			return
		}
		method, uri, host, ok := p.read(r)
		if !ok {
			d.mistake(w, r, a, "the request does not say what the client sent: the proxy must send "+p.needs)
			return
		}
		if a.client, err = original(r, method, uri, host); err != nil {
			a.refuse(w, r, badTarget(err.Error()))
			return
		}
		if p.appends && climbs(a.client.URL.Path) {
			// Another proxy, which hands clients on to us, can have read such an address as
			// one of our pages: then it is the client who asks.
			a.refuse(w, r, badTarget("its path goes up, by “..”"))
			return
		}
		if rule.Governed() {
			if err := onePath(a.client.URL); err != nil {
				a.refuse(w, r, badTarget(err.Error()))
				return
			}
		}
		for range rule.Values {
			d.mistake(w, r, a, "the rule names a path value, and the paths of the service have no names here")
			return
		}
		through, err := d.cfg.Ask(rule)
		if err != nil {
			d.mistake(w, r, a, err.Error())
			return
		}
		a.rule = rule.String()
		through(a).ServeHTTP(w, a.client)
	})
}

// ruleOf returns what a question requires: all of its rules.
func ruleOf(p proxy, r *http.Request) (sallyport.Rule, error) {
	texts, err := p.rules(r)
	if err != nil {
		return sallyport.Rule{}, err
	}
	var rules []sallyport.Rule
	total := 0
	for _, text := range texts {
		if total += len(text); total > sallyport.MaxRuleText {
			return sallyport.Rule{}, errors.New("the rules are too long: name a role that stands for them")
		}
		rule, err := sallyport.ParseRule(text)
		if err != nil {
			return sallyport.Rule{}, err
		}
		rules = append(rules, rule)
	}
	if len(rules) == 1 {
		return rules[0], nil
	}
	rule := sallyport.All(rules...)
	return rule, rule.Check()
}

// original makes the client's request of a question.
func original(r *http.Request, method, uri, host string) (*http.Request, error) {
	if !isToken(method) || len(method) > 32 {
		return nil, errors.New("its method is not valid")
	}
	if !isHost(host) {
		return nil, errors.New("its host is not valid")
	}
	if !strings.HasPrefix(uri, "/") {
		return nil, errors.New("it has no path")
	}
	if strings.Contains(uri, "#") { // what some services cut off, and some do not
		return nil, errors.New("its address has a fragment")
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil || u.Host != "" {
		return nil, errors.New("its path is not valid")
	}
	o := r.WithContext(r.Context())
	o.Method, o.URL, o.RequestURI, o.Host = method, u, uri, strings.ToLower(host)
	o.Body, o.ContentLength = http.NoBody, 0
	// What policies and the audit log know as its route, as a pattern of http.ServeMux
	// for all of a host.
	o.Pattern = o.Host + "/"
	// Proxies keep Upgrade to themselves. What opens a WebSocket is told by its other
	// headers, and is no safe method (authn.SameOrigin).
	for name := range r.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") {
			o.Header = r.Header.Clone()
			o.Header["Upgrade"] = []string{"websocket"}
			break
		}
	}
	return o, nil
}

// climbs reports whether a path, read as loosely as can be, leaves the one that it
// stands behind.
func climbs(path string) bool {
	for part := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if part == ".." {
			return true
		}
	}
	return false
}

// onePath makes sure that a path that policies may look at means one thing: servers
// and proxies differ on what they make of dots, of escaped slashes and of what follows
// a semicolon (RFC 3986, 3.3), which Java's take out. Several slashes in a row count as
// one.
func onePath(u *url.URL) error {
	escaped := strings.ToLower(u.EscapedPath())
	for _, c := range []string{"%2f", "%5c", "%00", `\`, ";", "%3b"} {
		if strings.Contains(escaped, c) {
			return errors.New("its path has an escaped slash, a backslash, a semicolon or a NUL byte, and can be read in more than one way")
		}
	}
	if strings.ContainsFunc(u.Path, func(c rune) bool { return c < ' ' || c == 0x7f || c == '�' }) {
		return errors.New("its path has control characters, or is not UTF-8")
	}
	var parts []string
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == "." || part == ".." {
			return errors.New("its path goes up or stays, by “..” or “.”, and can be read in more than one way")
		}
		parts = append(parts, part)
	}
	last := len(parts) - 1
	n := 0
	parts = slices.DeleteFunc(parts, func(part string) bool { // but for the first and the last
		n++
		return part == "" && n > 1 && n <= last
	})
	u.Path, u.RawPath = strings.Join(parts, "/"), ""
	return nil
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// isHost reports whether a text can be a Host: a name or an address, and maybe a port.
func isHost(s string) bool {
	for _, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && strings.IndexByte("-._:[]", c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= 260
}

func undeclared() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "proxy_not_declared",
		Message: "Only a declared proxy may ask here, and this connection does not come from one. The operator declares it: proxy.trusted = [ADDRESS]; the log has the address.",
	}
}

func badTarget(why string) *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "bad_target",
		Message: "The request that the proxy asks about is refused: " + why + ". Send it in its plain form.",
	}
}

// mistakeEvery is how often a mistake of a proxy's configuration is logged: each of
// its requests has it.
const mistakeEvery = time.Minute

// mistake refuses a question that is not asked as it should be, and tells the operator.
func (d *Door) mistake(w http.ResponseWriter, r *http.Request, a *answer, what string) {
	now, noted := time.Now().UnixNano(), d.noted.Load()
	if now-noted >= int64(mistakeEvery) && d.noted.CompareAndSwap(noted, now) {
		d.cfg.Log.WarnContext(r.Context(), "a proxy does not ask as it should, and everything is refused to it; more of the kind are not logged for a minute",
			"proxy", a.p.name, "peer", r.RemoteAddr, "mistake", what, "fix", "sallyport snippet "+a.p.name)
	}
	a.refuse(w, r, &sallyport.Error{
		Status: http.StatusForbidden, Code: "proxy_misconfigured",
		Message: "The proxy before this service is not set up as it should be: " + what + ". Its operator finds the right lines with: sallyport snippet " + a.p.name + ".",
	})
}

// answer is what the gate lets pass to, and words its refusals.
type answer struct {
	d      *Door
	p      proxy
	client *http.Request // nil: it is not known
	rule   string
}

var _ authn.Refuser = (*answer)(nil)

// refuse refuses a question that does not come as far as the gate, which records its
// own refusals.
func (a *answer) refuse(w http.ResponseWriter, r *http.Request, e *sallyport.Error) {
	e = e.Decided()
	a.d.cfg.Refusals.Note(r.Context(), audit.Event{
		Action: audit.AccessDenied, Result: audit.Denied, Reason: e.Message, DecisionID: e.DecisionID,
		Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r), "code": e.Code},
	})
	a.Refuse(w, r, e)
}

// The headers of a refusal that tell the proxy of it, for its own log and pages.
const (
	CodeHeader     = "X-Sallyport-Code"
	DecisionHeader = "X-Sallyport-Decision"
	// SignInHeader says where a person can sign in.
	SignInHeader = "X-Sallyport-Sign-In"
)

// Refuse implements authn.Refuser.
func (a *answer) Refuse(w http.ResponseWriter, r *http.Request, e *sallyport.Error) {
	e = e.Decided()
	h := w.Header()
	h.Set(CodeHeader, e.Code)
	h.Set(DecisionHeader, e.DecisionID)
	page := a.signIn(e)
	switch {
	case page == "":
	case a.p.hands:
		h.Set("Location", page)
		w.WriteHeader(http.StatusFound)
		return
	default:
		h.Set(SignInHeader, page)
	}
	sallyport.WriteError(w, e)
}

// signIn returns where a browser that asks for a page is sent to sign in, "" if it is
// not. A session's cookie is of the server's own host, so it is sent there from no
// other, and comes back to where it was.
func (a *answer) signIn(e *sallyport.Error) string {
	r := a.client
	if r == nil || a.d.cfg.SignIn == "" || e.Code != "unauthenticated" && e.Code != "invalid_token" {
		return ""
	}
	https := false
	if c := reqctx.From(r.Context()); c != nil {
		https = c.HTTPS()
	}
	if !strings.EqualFold(r.Host, a.d.base.Host) || https != (a.d.base.Scheme == "https") {
		return ""
	}
	// A program is told 401, and so is what sends a credential of its own.
	navigates := r.Header.Get("Sec-Fetch-Mode") == "navigate" ||
		len(r.Header["Sec-Fetch-Mode"]) == 0 && strings.Contains(r.Header.Get("Accept"), "text/html")
	if r.Method != http.MethodGet || !navigates || len(r.Header["Authorization"]) > 0 {
		return ""
	}
	page := a.d.base.Scheme + "://" + a.d.base.Host + a.d.cfg.SignIn
	// The page takes none that browsers would read as another host's.
	if len(r.RequestURI) > 2048 || strings.HasPrefix(r.RequestURI, "//") {
		return page
	}
	return page + "?next=" + url.QueryEscape(r.RequestURI)
}
