// Package https decides what happens to a request that came in clear, and keeps
// a TLS listener's certificates current. It is for any net/http program.
//
// A browser that asks for a page in clear is sent to the configured https://
// address; every other request in clear is refused, and told that what it
// carried is known to others now (Policy). Answers over TLS carry
// Strict-Transport-Security (RFC 6797). Certificates reads pairs from files and
// reads them again when they change.
//
// The package stores nothing and logs nothing: what an operator should know goes
// to a callback. It never builds an address from what a client sent except path
// and query, never redirects a credential, and never serves a certificate whose
// key does not fit.
//
// Begin with New for requests, and NewCertificates for a listener.
package https

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// The bounds of Config.HSTS, and its default.
const (
	DefaultHSTS = 365 * 24 * time.Hour
	MinHSTS     = time.Second
	MaxHSTS     = 10 * DefaultHSTS
)

// Config is what a Policy needs. Only BaseURL must be set.
type Config struct {
	// BaseURL is where clients reach the service: https://host or
	// https://host:port. A path below it is not added to redirects, which keep
	// the path that was sent.
	BaseURL string
	// Secure reports whether a request came over TLS. The default is
	// r.TLS != nil. Behind a proxy that ends TLS it must say what the proxy
	// reported, and believe only a proxy that was declared: a header alone is
	// anybody's to send.
	Secure func(*http.Request) bool
	// Page reports whether a request is a browser's for a page, which is
	// redirected instead of refused. The default is a GET or HEAD whose Accept
	// prefers text/html. Whatever it says, other methods and requests with a
	// credential are refused.
	Page func(*http.Request) bool
	// CredentialHeaders name request headers that carry credentials, beside
	// Authorization, Proxy-Authorization and X-API-Key.
	CredentialHeaders []string
	// CredentialQuery names query parameters that carry credentials. Default: none.
	CredentialQuery []string

	// HSTS is for how long browsers shall use https:// only, from 1 second to
	// ten years, sent in whole seconds; the default is one year. A negative
	// value sends max-age=0, with which browsers forget it (RFC 6797, 6.1.1).
	// It is never sent where BaseURL's host is an IP address or localhost.
	HSTS time.Duration
	// HSTSSubdomains extends HSTS to all names below the host. All of them must
	// be served over HTTPS by then, those of other teams included.
	HSTSSubdomains bool
	// HSTSPreload agrees to be built into browsers (hstspreload.org), which
	// takes months to undo. It needs HSTSSubdomains and at least one year.
	HSTSPreload bool
}

// ConfigError is one mistake in a configuration.
type ConfigError = sallyport.ConfigError

// Policy decides by a Config. It is immutable and safe for concurrent use.
type Policy struct {
	base    string // https://host[:port]
	secure  func(*http.Request) bool
	page    func(*http.Request) bool
	headers []string // canonical
	query   []string
	hsts    []string // nil: not sent
	refusal *sallyport.Error
}

// New compiles a Config. The error joins every mistake in it, each a
// *ConfigError.
func New(cfg Config) (*Policy, error) {
	var errs []error
	bad := func(key, value, reason, fix string) {
		errs = append(errs, sallyport.Mistake(key, value, reason, fix))
	}
	host, base, err := parseBase(cfg.BaseURL)
	if err != nil {
		errs = append(errs, err)
	}
	p := &Policy{base: base, secure: cfg.Secure, page: cfg.Page, headers: []string{"Authorization", "Proxy-Authorization", "X-Api-Key"}}
	if p.secure == nil {
		p.secure = func(r *http.Request) bool { return r.TLS != nil }
	}
	if p.page == nil {
		p.page = isPage
	}
	for _, name := range cfg.CredentialHeaders {
		if !isToken(name) {
			bad("CredentialHeaders", name, "it is not the name of a header", "Give a name such as X-API-Key.")
			continue
		}
		p.headers = append(p.headers, http.CanonicalHeaderKey(name))
	}
	for _, name := range cfg.CredentialQuery {
		if name == "" {
			bad("CredentialQuery", name, "it is empty", "Give the name of a parameter, or leave it out.")
			continue
		}
		p.query = append(p.query, name)
	}
	age := cfg.HSTS
	switch {
	case age == 0:
		age = DefaultHSTS
	case age > 0 && age < MinHSTS, age > MaxHSTS:
		bad("HSTS", age.String(), "it must be from 1s to 87600h", "Leave it out for one year, or give a negative value to make browsers forget it.")
	}
	if cfg.HSTSPreload && !cfg.HSTSSubdomains {
		bad("HSTSPreload", "true", "browsers' lists take only hosts that include their subdomains", "Set HSTSSubdomains too, once every name below the host is served over HTTPS; or leave HSTSPreload out.")
	}
	if cfg.HSTSPreload && age < DefaultHSTS {
		bad("HSTSPreload", "true", "browsers' lists take only hosts with HSTS for at least one year, and HSTS is "+age.String(), "Set HSTS to 8760h or more; or leave HSTSPreload out.")
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	if keepsHSTS(host) {
		p.hsts = []string{hstsValue(age, cfg)}
	}
	p.refusal = &sallyport.Error{
		Status: http.StatusForbidden, Code: "https_required",
		Message: "This came in clear, where anybody on the way can read it. Use " + base + " instead. If a credential was sent, take it as known to others: replace it. " +
			"For the operator: behind a proxy that ends TLS, declare the proxy in proxy.trusted.",
	}
	return p, nil
}

func hstsValue(age time.Duration, cfg Config) string {
	value := "max-age=" + strconv.FormatInt(int64(max(age, 0)/time.Second), 10)
	if cfg.HSTSSubdomains {
		value += "; includeSubDomains"
	}
	if cfg.HSTSPreload {
		value += "; preload"
	}
	return value
}

// parseBase returns the host of a base URL, and scheme and authority in the one
// form that is written into redirects.
func parseBase(s string) (host, base string, _ error) {
	bad := func(value, reason string) (string, string, error) {
		return "", "", sallyport.Mistake("BaseURL", value, reason, "Write it as https://host or https://host:port, an international name in its xn-- form.")
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("", "it is not a URL")
	}
	host = strings.ToLower(u.Hostname())
	switch {
	case u.User != nil:
		return bad("", "it holds a user name")
	case u.Scheme != "https":
		return bad(s, "it does not begin with https://")
	case !isHost(host):
		return bad(s, "it names no host that a URL can hold")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return bad(s, "it has a query or fragment")
	}
	port := u.Port()
	if n, err := strconv.ParseUint(port, 10, 16); strings.HasSuffix(u.Host, ":") || port != "" && (err != nil || n == 0) {
		return bad(s, "its port is not from 1 to 65535")
	}
	base = "https://" + host
	if strings.Contains(host, ":") {
		base = "https://[" + host + "]"
	}
	if port != "" && port != "443" {
		base += ":" + port
	}
	return host, base, nil
}

// isHost reports whether host is an IP address without a zone or a name in
// letters, digits, hyphens, underscores and dots: what every reader of a URL
// takes for the same host.
func isHost(host string) bool {
	if strings.Contains(host, ":") {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Zone() == ""
	}
	for i := range len(host) {
		c := host[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return host != "" && len(host) <= 253
}

// keepsHSTS reports whether HSTS is any use for a host: not for addresses (RFC
// 6797, 8.1.1), and for localhost it would follow the developer to every other
// program on the machine.
func keepsHSTS(host string) bool {
	host = strings.TrimSuffix(host, ".")
	return net.ParseIP(host) == nil && host != "localhost" && !strings.HasSuffix(host, ".localhost")
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// Check returns nil for a request that came over TLS, and otherwise a
// *sallyport.Error: 403 "https_required". A page's request may be redirected
// instead: see Redirect.
func (p *Policy) Check(r *http.Request) error {
	if p.secure(r) {
		return nil
	}
	return p.refusal
}

// Redirect returns where a request in clear is to be sent, and whether it may:
// only a page's request without a credential, by GET or HEAD. The target is the
// configured scheme and host with path and query as they were sent; bytes that
// no URL may hold are percent-encoded.
//
// A request with a credential is not redirected: its client would learn nothing
// and leak it again. Cookies count where their name begins with __Host- or
// __Secure-, which no browser sends in clear; others may be anybody's, and a
// browser with one could otherwise not be led to https:// at all.
func (p *Policy) Redirect(r *http.Request) (target string, ok bool) {
	if p.secure(r) || r.Method != http.MethodGet && r.Method != http.MethodHead || p.hasCredential(r) || !p.page(r) {
		return "", false
	}
	path, ok := requestTarget(r)
	if !ok {
		return "", false
	}
	return p.base + path, true
}

func (p *Policy) hasCredential(r *http.Request) bool {
	for _, name := range p.headers {
		if len(r.Header[name]) > 0 {
			return true
		}
	}
	if len(p.query) > 0 && r.URL != nil {
		for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
			name, _, _ := strings.Cut(part, "=")
			if plain, err := url.QueryUnescape(name); err == nil {
				name = plain
			}
			if slices.Contains(p.query, name) {
				return true
			}
		}
	}
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			name := strings.ToLower(strings.TrimLeft(pair, " \t"))
			if strings.HasPrefix(name, "__host-") || strings.HasPrefix(name, "__secure-") {
				return true
			}
		}
	}
	return false
}

// requestTarget returns path and query of a request, beginning with a slash:
// behind scheme and authority nothing that begins so can name another host.
func requestTarget(r *http.Request) (string, bool) {
	s := r.RequestURI
	if !strings.HasPrefix(s, "/") { // absolute-form (RFC 9112, 3.2.2), “*”, or not from a server
		if r.URL == nil || r.URL.Opaque != "" {
			return "", false
		}
		if s = r.URL.EscapedPath(); s == "" {
			s = "/"
		}
		if r.URL.RawQuery != "" || r.URL.ForceQuery {
			s += "?" + r.URL.RawQuery
		}
	}
	if !strings.HasPrefix(s, "/") {
		return "", false
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f:
			return "", false // net/http lets none through: somebody else made this request
		case c >= 0x80 || c == '#':
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

// SetHeader adds HSTS to the header of an answer to a request that came over TLS,
// for programs that answer some requests before Handler.
func (p *Policy) SetHeader(h http.Header) {
	if p.hsts != nil {
		h["Strict-Transport-Security"] = p.hsts
	}
}

// Handler lets requests over TLS through, with HSTS on their answers, and
// answers the others: 307 to the https:// address for pages, 403
// "https_required" for everything else.
//
// It stands outside of everything that answers, so that refusals have HSTS too.
func (p *Policy) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.secure(r) {
			p.SetHeader(w.Header())
			next.ServeHTTP(w, r)
			return
		}
		if target, ok := p.Redirect(r); ok {
			h := w.Header()
			h["Location"] = []string{target}
			h["Content-Length"] = []string{"0"}
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		sallyport.WriteError(w, p.refusal)
	})
}

// isPage reports whether a request is what browsers send for a page: a GET or
// HEAD whose Accept names text/html, no type more gladly, and none as gladly
// before it.
func isPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	html, before, after := 0, 0, 0
	for _, line := range r.Header["Accept"] {
		for part := range strings.SplitSeq(line, ",") {
			mediaType, params, _ := strings.Cut(part, ";")
			q := weight(params)
			switch {
			case strings.EqualFold(strings.Trim(mediaType, " \t"), "text/html"):
				html = max(html, q)
			case html == 0:
				before = max(before, q)
			default:
				after = max(after, q)
			}
		}
	}
	return html > before && html >= after
}

// weight returns the q parameter in thousandths (RFC 9110, 12.4.2): 1000 if
// there is none, 0 if it is not well formed.
func weight(params string) int {
	for param := range strings.SplitSeq(params, ";") {
		name, value, found := strings.Cut(strings.Trim(param, " \t"), "=")
		if !found || !strings.EqualFold(name, "q") {
			continue
		}
		whole, frac, _ := strings.Cut(value, ".")
		n, err := strconv.ParseUint("0"+frac+"000"[:3-min(len(frac), 3)], 10, 16)
		if len(frac) > 3 || err != nil {
			return 0
		}
		switch {
		case whole == "0":
			return int(n)
		case whole == "1" && n == 0:
			return 1000
		}
		return 0
	}
	return 1000
}
