// Package cors decides which pages of other origins may read what a service
// answers (the Fetch standard, section 3.3, "CORS protocol"). It is for any
// net/http program: give a Config to New and put Handler around everything that
// is served.
//
// A browser keeps a page from reading what another origin answers unless the
// answer allows it. So this package takes a protection away, for those origins
// that are named and for nobody else; without a name it does nothing at all. It
// protects nothing by itself: a request that is not allowed to be read may still
// have been carried out, and what is no browser ignores all of it. Requests that
// act with a cookie need a check of their own, such as
// http.CrossOriginProtection, and Trusts tells that check whom to let through.
//
// Origins are compared whole, as browsers write them: no suffix, no prefix, no
// other port or scheme stands for another. A mistake in the configuration is an
// error of New, and a configuration that could not be meant (every origin with
// credentials, "null", every subdomain of a public suffix) cannot be made.
//
// The package stores nothing, keeps no state between requests, and never puts
// what a request asked for into a message. The rules are those of
// github.com/jub0bs/cors, made narrower in a few places that Config names.
//
// Begin with New and the Handler of what it returns.
package cors

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jub0bs/cors"

	"github.com/sallyport/sallyport"
)

// Bounds and default of Config.MaxAge.
const (
	DefaultMaxAge = 10 * time.Minute
	MinMaxAge     = time.Second
	MaxMaxAge     = 24 * time.Hour
)

// DefaultMethods returns what is allowed where Config.Methods is empty.
func DefaultMethods() []string {
	return []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
}

// DefaultRequestHeaders returns what is allowed where Config.RequestHeaders is
// empty.
func DefaultRequestHeaders() []string {
	return []string{"Authorization", "Content-Type", "X-API-Key", "X-Request-Id"}
}

// DefaultResponseHeaders returns what is exposed where Config.ResponseHeaders is
// empty.
func DefaultResponseHeaders() []string {
	return []string{"X-Request-Id", "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"}
}

// Config says whose pages may read, and what. The zero value allows nobody.
type Config struct {
	// Origins are whose pages may read, each as browsers send it in the header
	// Origin (RFC 6454, section 6.2): "https://app.example.com", with the port
	// unless it is the scheme's own, in lower case, without a path or a slash at
	// the end. Empty: nobody's, and Handler adds nothing.
	//
	// "https://*.example.com" stands for every subdomain at any depth, but not for
	// example.com itself. Whoever gets hold of one forgotten subdomain can then
	// read too: prefer names. It is refused above a public suffix, whose subdomains
	// belong to strangers ("https://*.github.io"). ":*" in the place of a port
	// stands for any, and is taken for localhost and loopback addresses only, where
	// a development server's port changes.
	//
	// "*" alone stands for everybody, "null" included, and cannot stand together
	// with Credentials or other origins. It is for what anybody may read, and for
	// tokens that pages send by themselves.
	Origins []string
	// Methods are what pages may ask for, in capitals. Default: DefaultMethods.
	// GET, HEAD and POST are always among them: browsers ask nobody before they
	// send these.
	Methods []string
	// RequestHeaders are the headers that pages may set, beside those that
	// browsers let any page set. Default: DefaultRequestHeaders. "*" is refused: it
	// means different things with and without credentials, and never Authorization.
	RequestHeaders []string
	// ResponseHeaders are the headers that pages may read, beside Cache-Control,
	// Content-Language, Content-Length, Content-Type, Expires, Last-Modified and
	// Pragma, which they always may. Default: DefaultResponseHeaders. "*" is
	// refused as in RequestHeaders.
	ResponseHeaders []string
	// Credentials lets these pages send what the browser adds by itself (cookies,
	// HTTP Basic, client certificates) and read what is answered then: they can do
	// what their visitor can do. A token that a page puts into Authorization is no
	// credential in this sense and needs no switch.
	Credentials bool
	// MaxAge is how long a browser may remember what a preflight allowed, in whole
	// seconds from MinMaxAge to MaxMaxAge. 0: DefaultMaxAge, which is also the most
	// that Safari takes; Chromium takes 2 hours. Whether an answer may be read is
	// not remembered: an origin that is taken away loses that at once.
	MaxAge time.Duration
	// DangerouslyAllowInsecureOrigins lets Origins have another scheme than https
	// outside of localhost and loopback addresses. Whoever stands between such a
	// page and its visitor writes the page, and then reads what the page may read.
	DangerouslyAllowInsecureOrigins bool
}

// CORS is a compiled Config. It does not change and may be used by many
// goroutines at once. The zero value allows nobody.
type CORS struct {
	lib         *cors.Middleware
	decide      http.Handler // lib around nothing
	everybody   bool
	credentials bool
}

// New compiles a Config. It reports every mistake at once, each as a
// *ConfigError, joined (errors.Join).
func New(cfg Config) (*CORS, error) {
	out, err := cfg.compile()
	if err != nil {
		return nil, err
	}
	if len(cfg.Origins) == 0 {
		return new(CORS), nil
	}
	lib, err := cors.NewMiddleware(out)
	if err != nil {
		return nil, translate(err) // compile let through what the library does not
	}
	return &CORS{
		lib:         lib,
		decide:      lib.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})),
		everybody:   slices.Contains(cfg.Origins, everybody),
		credentials: cfg.Credentials,
	}, nil
}

// Names of headers as they stand in a http.Header.
const (
	headerOrigin           = "Origin"
	headerRequestMethod    = "Access-Control-Request-Method"
	headerAllowOrigin      = "Access-Control-Allow-Origin"
	headerAllowCredentials = "Access-Control-Allow-Credentials"
)

// Allows tells whether pages of an origin, as it stands in the header Origin,
// may read answers.
func (c *CORS) Allows(origin string) bool {
	return c.answer(origin).Get(headerAllowOrigin) != ""
}

// Trusts tells whether pages of an origin may act with what their visitor's
// browser adds by itself, and read the answer: a check against forged requests
// lets the same origins through. It is false for everybody unless
// Config.Credentials is set.
func (c *CORS) Trusts(origin string) bool {
	return c.credentials && c.answer(origin).Get(headerAllowCredentials) == "true"
}

// answer returns the headers that a GET with this Origin is answered with. It
// asks what also answers requests, so that the two cannot differ.
func (c *CORS) answer(origin string) http.Header {
	if c.lib == nil || !c.readable([]string{origin}) {
		return nil
	}
	w := &verdict{header: http.Header{}}
	c.decide.ServeHTTP(w, &http.Request{Method: http.MethodGet, Header: http.Header{headerOrigin: {origin}}})
	return w.header
}

// Handler lets pages of the allowed origins read what next answers, errors
// included, and answers preflights itself: put it around everything that is
// served, inside of what adds request ids and outside of what can refuse.
//
// Without origins it returns next. To a request without Origin it only adds
// "Vary: Origin", so that no cache gives its answer to a page. It adds to Vary and
// never takes away; a handler must do the same (Header().Add).
//
// A preflight (OPTIONS with Origin and Access-Control-Request-Method) does not
// reach next, for browsers send it without credentials. It is answered with 204,
// or with 403 "cross_origin" and without any header of CORS if its origin, its
// method or one of its headers is not allowed. There is no header that lets pages
// into a private network. A refused origin's other requests go on to next, which
// decides by itself; browsers keep the answer from the page.
func (c *CORS) Handler(next http.Handler) http.Handler {
	if c.lib == nil {
		return next
	}
	wrapped := c.lib.Wrap(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header[headerOrigin]
		readable := c.readable(origin)
		switch {
		case len(origin) > 0 && r.Method == http.MethodOptions && len(r.Header[headerRequestMethod]) > 0:
			v := &verdict{header: w.Header()}
			if readable {
				c.decide.ServeHTTP(v, r)
			}
			if v.status != http.StatusNoContent {
				sallyport.WriteError(w, refused())
				return
			}
			w.WriteHeader(v.status)
		case readable:
			wrapped.ServeHTTP(w, r)
		default: // no page asked, or nobody's
			h := w.Header()
			h["Vary"] = append(h["Vary"], headerOrigin)
			next.ServeHTTP(w, r)
		}
	})
}

func refused() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "cross_origin",
		Message: "A page of another origin asked whether it may send a request (a CORS preflight), and it may not: its origin, the method or one of the headers is not allowed here. The operator of this service can allow them.",
	}
}

// verdict takes what the library says to a preflight. No handler sees it.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(status int)      { v.status = status }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }

// readable tells whether the lines of Origin are one origin as browsers write
// it. The library takes an origin apart without looking at every byte, and would
// take "https://x/.example.com" for a subdomain and "https://[example.com]" for
// example.com. No browser sends either; nothing here shall depend on that.
func (c *CORS) readable(lines []string) bool {
	return c.everybody || len(lines) == 1 && wellFormed(lines[0])
}

// wellFormed tells whether an origin has the form scheme://host[:port], whose
// host is in lower case or an IPv6 address in brackets.
func wellFormed(origin string) bool {
	_, host, ok := strings.Cut(origin, "://") // the library compares the scheme whole
	if !ok {
		return false
	}
	if rest, ok := strings.CutPrefix(host, "["); ok {
		address, port, ok := strings.Cut(rest, "]")
		return ok && strings.Contains(address, ":") && only(address, 'a', 'f', ":.") && isPort(port)
	}
	port := ""
	if i := strings.IndexByte(host, ':'); i >= 0 {
		host, port = host[:i], host[i:]
	}
	return host != "" && only(host, 'a', 'z', "-._") && isPort(port)
}

// isPort tells whether s is empty, or a colon and digits; the library has the
// bounds.
func isPort(s string) bool {
	return s == "" || len(s) > 1 && s[0] == ':' && only(s[1:], '0', '9', "")
}

// only tells whether s has no byte but digits, those from first to last, and
// those of more.
func only(s string, first, last byte, more string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= first && c <= last || c >= '0' && c <= '9' || strings.IndexByte(more, c) >= 0) {
			return false
		}
	}
	return true
}
