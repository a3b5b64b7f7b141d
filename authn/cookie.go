package authn

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// The names of the session cookie. With the prefix __Host- a browser keeps it only
// if it is Secure, came from this very host, and is for every path (RFC 6265bis,
// 4.1.3.2): no other host can plant one.
const (
	CookieName         = "__Host-sallyport"
	InsecureCookieName = "sallyport"
)

// CookieConfig is what a Cookie needs.
type CookieConfig struct {
	// BaseURL is where browsers reach the server.
	BaseURL string
	// Origin tells whose pages may send requests that change something.
	Origin *SameOrigin
	// InsecureLoopback leaves out Secure and the prefix of the name where BaseURL
	// is http:// on localhost or a loopback address: not every browser keeps
	// Secure cookies there.
	InsecureLoopback bool
	// Token verifies a cookie's value, and Session confirms it.
	Token   func(ctx context.Context, value string) (Verified, error)
	Session func(db.Reader, Verified) (State, error)
}

// Cookie is the scheme of a browser's session. A browser sends cookies by itself,
// also with requests that pages of others have it make. So the cookie is SameSite,
// and it is not enough for a request that may change something and comes from
// another origin, even of the same site (Restrict).
type Cookie struct {
	*SameOrigin
	cfg    CookieConfig
	name   string
	secure bool
	kept   bool // by browsers
}

var (
	_ Scheme     = (*Cookie)(nil)
	_ Restricted = (*Cookie)(nil)
	_ sticky     = (*Cookie)(nil)
)

// NewCookie returns the scheme.
func NewCookie(cfg CookieConfig) (*Cookie, error) {
	u, err := url.Parse(cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	c := &Cookie{SameOrigin: cfg.Origin, cfg: cfg, name: CookieName, secure: true}
	c.kept = u.Scheme == "https" || isLoopback(u.Hostname())
	if cfg.InsecureLoopback && u.Scheme == "http" && c.kept {
		c.name, c.secure = InsecureCookieName, false
	}
	return c, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// Name returns the cookie's name.
func (c *Cookie) Name() string { return c.name }

// Kind implements Scheme.
func (*Cookie) Kind() sallyport.Kind { return sallyport.KindCookie }

// Read implements Scheme. Whatever stands under the cookie's name is taken as
// one: what is no value of ours is for Verify to refuse.
func (c *Cookie) Read(r *http.Request) (value string, found bool, err error) {
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			name, v, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !ok || name != c.name {
				continue
			}
			if found {
				return "", false, &Refused{Reason: "several cookies of one name"}
			}
			value, found = v, true
		}
	}
	return value, found, nil
}

// Verify implements Scheme.
func (c *Cookie) Verify(ctx context.Context, value string) (Verified, error) {
	return c.cfg.Token(ctx, value)
}

// Confirm implements Scheme.
func (c *Cookie) Confirm(rd db.Reader, v Verified) (State, error) { return c.cfg.Session(rd, v) }

// Challenge implements Scheme: there is none for cookies.
func (*Cookie) Challenge(*sallyport.Error) string { return "" }

// CheckKept returns an error if browsers would not keep the cookie.
func (c *Cookie) CheckKept() error {
	if c.kept {
		return nil
	}
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "cookie_needs_https",
		Message: "Browsers keep the session cookie only if the server is reached over https://, and its base_url begins with http://. Put TLS before the server and set base_url, or sign in without mode=cookie for tokens.",
	}
}

// Set has the browser keep a value for as long as a session lives.
func (c *Cookie) Set(h http.Header, value string, life time.Duration) {
	h.Add("Set-Cookie", c.text(value, int(life/time.Second)))
	h.Set("Cache-Control", "no-store")
}

// Removal returns the Set-Cookie value that has the browser forget the cookie.
func (c *Cookie) Removal() string { return c.text("", -1) }

// Discard adds to the header of a refusal what has the browser forget the cookie.
func (c *Cookie) Discard(h http.Header) { h.Add("Set-Cookie", c.Removal()) }

func (c *Cookie) text(value string, maxAge int) string {
	return (&http.Cookie{
		Name: c.name, Value: value, Path: "/", MaxAge: maxAge,
		Secure: c.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}).String()
}
