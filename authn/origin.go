package authn

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport"
)

// SameOrigin refuses what pages of other origins ask for with a credential that a
// browser adds by itself: a cookie, or a name and password that it remembers. Any
// page could otherwise act for whoever visits it.
type SameOrigin struct {
	origin string
	tls    bool // the pages come over https
	p      *http.CrossOriginProtection
	trusts func(origin string) bool
}

// NewSameOrigin returns what lets the pages of a base URL's origin through, and
// those of other origins that trusts, if not nil, knows.
func NewSameOrigin(baseURL string, trusts func(origin string) bool) (*SameOrigin, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, err
	}
	o := &SameOrigin{originOf(u), u.Scheme == "https", http.NewCrossOriginProtection(), trusts}
	return o, o.p.AddTrustedOrigin(o.origin)
}

// originOf returns a URL's origin as browsers write it (RFC 6454, 6.2).
func originOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}

// Restrict implements Restricted: a request that may change something must come
// from a page of the server's own origin, or from no page at all. Browsers say so
// in Sec-Fetch-Site, and old ones in Origin. What opens another protocol, such as
// a WebSocket, is no safe method even if it is a GET.
func (o *SameOrigin) Restrict(r *http.Request) error {
	if len(r.Header["Upgrade"]) > 0 {
		unsafe := *r
		unsafe.Method = http.MethodPost
		r = &unsafe
	}
	if o.p.Check(r) == nil && !(o.tls && fromPlainHTTP(r)) {
		return nil
	}
	if lines := r.Header["Origin"]; len(lines) == 1 && o.trusts != nil && o.trusts(lines[0]) {
		return nil
	}
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "cross_origin",
		Message: "The request comes from a page of another origin, with a credential that browsers send by themselves, so that any page could act for whoever visits it. Nothing was done. " +
			"Send the request from a page of " + o.origin + ", or with an access token and without that credential.",
	}
}

// fromPlainHTTP reports whether a request that may change something comes from a
// page that came without TLS, which anybody on the way can have written. Where
// there is only Origin to tell, CrossOriginProtection compares hosts and not
// schemes.
func fromPlainHTTP(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return r.Header.Get("Sec-Fetch-Site") == "" && strings.HasPrefix(r.Header.Get("Origin"), "http:")
}
