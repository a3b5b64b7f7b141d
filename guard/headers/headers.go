// Package headers sets the response headers that tell a browser what it may do
// with an answer. It is for any net/http program.
//
// An answer of an API is data: a browser should neither run it, nor take it for
// another type, nor show it in a frame, nor tell other sites its address. Three
// headers say that (see Config), and they are on every answer, also on refusals
// and errors, since those are what an attacker can provoke. An HTML page needs
// more, and its handler sets it over them (see Page).
//
// The package stores nothing and keeps no state between calls. It never wraps a
// ResponseWriter, never looks at the request, and never removes a header. It
// leaves Strict-Transport-Security to what terminates TLS, and Cache-Control to
// the handler, which knows whether an answer may be kept.
//
// Begin with New.
package headers

import (
	"crypto/rand"
	"net/http"
	"strings"
)

// The defaults of Config.
const (
	// APIPolicy lets an answer load and run nothing and be framed by nobody, if a
	// browser ever shows it as a page.
	APIPolicy = "default-src 'none'; frame-ancestors 'none'"
	// NoReferrer keeps addresses, which may hold ids and tokens, from the sites
	// that are linked to.
	NoReferrer = "no-referrer"
)

// Config is what is sent. The zero value is right for an API. Each header costs
// a request some 15 ns here and its bytes on the wire, so that what does nothing for
// data is left to pages.
//
// “X-Content-Type-Options: nosniff” is always sent: an answer is of the type that
// it says, and an upload or an error is never run as a script.
//
// Never sent are X-XSS-Protection, whose filters browsers have removed because
// they could be used to attack pages, and headers that a browser has dropped
// (Expect-CT, Feature-Policy, X-Download-Options).
type Config struct {
	// ContentSecurityPolicy is the policy of CSP level 3. Default: APIPolicy. Its
	// frame-ancestors is needed, and so is script-src or default-src: without them
	// there would be no limit. In script-src and style-src the word 'nonce' stands
	// for a nonce that SetNonce makes for each answer; base-uri is needed then.
	ContentSecurityPolicy string

	// ReferrerPolicy is one of no-referrer, same-origin, origin, strict-origin,
	// origin-when-cross-origin and strict-origin-when-cross-origin. Default:
	// NoReferrer. The others send whole addresses to other sites and are refused.
	ReferrerPolicy string

	// PermissionsPolicy says which abilities of the browser a page has: camera=(),
	// geolocation=(self). Default: not sent, since data uses none.
	PermissionsPolicy string

	// CrossOriginOpenerPolicy cuts the tie between a page and the window that opened
	// it: same-origin, same-origin-allow-popups, noopener-allow-popups or
	// unsafe-none. Default: not sent, since it concerns pages only.
	CrossOriginOpenerPolicy string

	// CrossOriginResourcePolicy says who may embed an answer without CORS, as an
	// image or script: same-origin, same-site or cross-origin. Requests with CORS
	// are not concerned. Default: not sent. JSON with nosniff is blocked there
	// anyway, and an image that another origin of the same service shows would break.
	CrossOriginResourcePolicy string

	// XFrameOptions says in the words of old clients what frame-ancestors says: DENY
	// for 'none', SAMEORIGIN for 'self'. It must agree with it. Default: not sent,
	// since every browser of the last ten years knows frame-ancestors and prefers it.
	XFrameOptions string

	// DangerouslyAllowUnsafeScripts permits sources in script-src (or default-src)
	// that let injected text run: 'unsafe-inline', 'unsafe-eval', 'unsafe-hashes',
	// *, and whole schemes such as https: and data:.
	DangerouslyAllowUnsafeScripts bool

	// DangerouslyAllowFramingByAnyone permits * and whole schemes in
	// frame-ancestors: any site may lay its own page over this one and have visitors
	// click on it unknowingly.
	DangerouslyAllowFramingByAnyone bool
}

// Headers is a set of headers. It is immutable and may be used by several
// goroutines. The zero value is that of the zero Config.
type Headers struct {
	fields []field  // nil: standard
	policy []string // the CSP, cut where a nonce belongs; nil if there is no such place
}

// field is one header. Its value is shared by all answers and as long as its
// capacity, so that Header.Add copies it.
type field struct {
	name  string
	value []string
}

var standard = fields(Config{ContentSecurityPolicy: APIPolicy, ReferrerPolicy: NoReferrer})

func fields(c Config) []field {
	var out []field
	for _, f := range [...]struct{ name, value string }{
		{"X-Content-Type-Options", "nosniff"},
		{policyHeader, c.ContentSecurityPolicy},
		{"Referrer-Policy", c.ReferrerPolicy},
		{"Permissions-Policy", c.PermissionsPolicy},
		{"Cross-Origin-Opener-Policy", c.CrossOriginOpenerPolicy},
		{"Cross-Origin-Resource-Policy", c.CrossOriginResourcePolicy},
		{"X-Frame-Options", c.XFrameOptions},
	} {
		if f.value != "" {
			out = append(out, field{f.name, []string{f.value}})
		}
	}
	return out
}

const policyHeader = "Content-Security-Policy"

// Set sets the headers, over those that were set before. Headers that are not
// among them stay. A policy with a place for a nonce is sent without one: what
// needs it does not run.
//
// The values are shared: change one with Header.Set or Header.Add, never in
// place. It allocates nothing but what the map needs.
func (s *Headers) Set(h http.Header) {
	list := s.fields
	if list == nil {
		list = standard
	}
	for i := range list {
		h[list[i].name] = list[i].value
	}
}

// SetNonce is Set with a new nonce of 130 random bits in the policy's places for
// one. It returns the nonce, for the nonce attribute of the page's own scripts
// and styles. If the policy has no such place it returns "".
//
// An answer with a nonce must not be cached: the nonce would be known.
func (s *Headers) SetNonce(h http.Header) (nonce string) {
	s.Set(h)
	if s.policy == nil {
		return ""
	}
	nonce = rand.Text()
	h[policyHeader] = []string{strings.Join(s.policy, "'nonce-"+nonce+"'")}
	return nonce
}

// Handler sets the headers of every answer and calls next, which may change
// them. They are set before, so that an error, a redirect and a panic that a
// handler further out turns into an answer have them too.
//
// What net/http answers before any handler is called has none of them: requests
// that are not HTTP, 431, and 400 for a bad Host.
func (s *Headers) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Set(w.Header())
		next.ServeHTTP(w, r)
	})
}

// Page returns a Config for HTML pages of one's own: PageCSP with directives, and
// what else concerns pages:
//
//	Permissions-Policy             none of the abilities that a page rarely needs
//	Cross-Origin-Opener-Policy     same-origin: other windows cannot reach into it
//	Cross-Origin-Resource-Policy   same-origin: other sites cannot embed it
//	X-Frame-Options                as frame-ancestors, if that is 'none' or 'self'
//
// A page that signs in through a window of another origin needs
// same-origin-allow-popups. Give the Config to New when the program starts, and
// call Set or SetNonce in the page's handler.
func Page(directives ...string) Config {
	c := Config{
		ContentSecurityPolicy:     PageCSP(directives...),
		PermissionsPolicy:         "camera=(), display-capture=(), geolocation=(), hid=(), microphone=(), payment=(), serial=(), usb=()",
		CrossOriginOpenerPolicy:   "same-origin",
		CrossOriginResourcePolicy: "same-origin",
	}
	for _, d := range parsePolicy(c.ContentSecurityPolicy) {
		if d.name == "frame-ancestors" {
			c.XFrameOptions = frameOptions(d.sources)
		}
	}
	return c
}

// PageCSP returns a policy for an HTML page that loads scripts, styles and images
// from its own origin and nothing else: no inline script or style, no evaluated
// text, no form, no request, no <base>, no frame around it:
//
//	default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';
//	form-action 'none'; base-uri 'none'; frame-ancestors 'none'
//
// Each of directives, such as “connect-src 'self'” or “script-src 'nonce'”,
// takes the place of the one of its name, or is added. New says what is wrong
// with them.
func PageCSP(directives ...string) string {
	policy := []string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'",
		"form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'",
	}
	replaced := make([]bool, len(policy))
next:
	for _, d := range directives {
		name, _, _ := strings.Cut(d, " ")
		for i, old := range policy[:len(replaced)] {
			if oldName, _, _ := strings.Cut(old, " "); oldName == name && !replaced[i] {
				policy[i], replaced[i] = d, true
				continue next
			}
		}
		policy = append(policy, d)
	}
	return strings.Join(policy, "; ")
}
