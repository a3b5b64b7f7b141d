// Package portal is the small pages that people need around their account: where
// they sign in, where the links of letters lead, and where the first administrator
// is made.
//
// It decides nothing and stores nothing. A form that a browser posts here becomes a
// JSON request to the public API, in process and as that browser's: with its
// address, its cookie and its origin, so that rules, limits, lockout and the audit
// log see what they would see without these pages. A GET changes nothing: a link
// that a mail scanner opens is as good afterwards as before. Tokens of letters stand
// behind the # of an address, which browsers do not send.
//
// Begin with New; a server has the pages unless server.Config.NoPortal is set.
package portal

import (
	"html/template"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/headers"
)

// Config is what a Portal needs.
type Config struct {
	// API answers the JSON requests: the server's own routes, behind their gates.
	API http.Handler
	// Path is the path of the base URL, under which browsers reach the routes; ""
	// for none.
	Path string
	// Service is what people call the service.
	Service string
	// Restrict refuses a form that comes from a page of another origin.
	Restrict func(*http.Request) error
	// Mail: letters are sent, so that a forgotten password can be replaced.
	Mail bool
	// MailSignIn: people can sign in with a letter.
	MailSignIn bool
	// NoPassword: nobody can sign in with a password.
	NoPassword bool
	// OwnUsers: the service keeps its users itself. Addresses are not verified here,
	// nobody is invited, and nobody is made the first administrator.
	OwnUsers bool
}

// Portal is the pages.
type Portal struct {
	cfg          Config
	pages        map[string]*template.Template
	version      string // of the assets
	own, picture *headers.Headers
}

// New returns a Portal.
func New(cfg Config) (*Portal, error) {
	p := &Portal{cfg: cfg, version: assetsVersion()}
	var err error
	if p.pages, err = parse(); err != nil {
		return nil, err
	}
	// A page loads its own script and style and posts to its own origin, and nothing
	// else: no inline script or style, no request of a script, no frame around it.
	if p.own, err = policy(); err != nil {
		return nil, err
	}
	// Where a QR code is shown, images may be data, too: it is a secret, and has no
	// address of its own from which it could be loaded a second time.
	p.picture, err = policy("img-src 'self' data:")
	return p, err
}

func policy(more ...string) (*headers.Headers, error) {
	c := headers.Page(append([]string{"form-action 'self'"}, more...)...)
	// Not no-referrer: browsers then send “Origin: null” with a form, also to their
	// own origin (Fetch, 3.2), and those that do not send Sec-Fetch-Site would be
	// refused. What follows # is in no referrer.
	c.ReferrerPolicy = "same-origin"
	return headers.New(c)
}

// Routes registers the pages. They look at no credentials themselves: a cookie
// whose session has ended must not keep anybody from the page to sign in on.
func (p *Portal) Routes(mux *sallyport.Mux) {
	page := func(pattern string, h func(*exchange)) {
		mux.Open(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(&exchange{p: p, w: w, r: r}) }))
	}
	form := func(path string, get, post func(*exchange)) {
		page("GET "+path, get)
		page("POST "+path, func(x *exchange) {
			if x.read() {
				post(x)
			}
		})
	}
	form("/account/sign-in", (*exchange).signInPage, (*exchange).signIn)
	form("/account/forgot", shows("forgot"), (*exchange).forgot)
	form("/account/reset", shows("reset"), (*exchange).reset)
	form("/account/request-link", shows("request-link"), (*exchange).requestLink)
	form("/account/link", shows("link"), (*exchange).link)
	form("/account/password", signedIn("password"), (*exchange).password)
	form("/account/second-factor", signedIn("second-factor"), (*exchange).secondFactor)
	if !p.cfg.OwnUsers {
		form("/account/verify", shows("verify"), (*exchange).verify)
		form("/account/invitation", shows("invitation"), (*exchange).invitation)
		form("/console/setup", shows("setup"), (*exchange).setup)
	}
	page("GET /account/{$}", signedIn("account"))
	page("POST /account/sign-out", func(x *exchange) {
		if x.read() {
			x.signOut()
		}
	})
	page("GET /account/{rest...}", func(x *exchange) {
		x.refuse(http.StatusNotFound, "There is no such page", "Nothing is at this address. The link may be incomplete.")
	})
	// https://www.w3.org/TR/change-password-url/
	page("GET /.well-known/change-password", func(x *exchange) { x.lead(http.StatusFound, "/account/password") })
	mux.Open("GET /account/assets/{file}", http.HandlerFunc(serveAsset))
}
