package forward

import (
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/token"
)

// IdentityHeaders are the headers that say who passes. Each is in every answer that
// lets pass, even if it is empty: what the client sent under the name is replaced.
var IdentityHeaders = []string{
	"X-Sallyport-Subject", "X-Sallyport-Username", "X-Sallyport-Email", "X-Sallyport-Roles", "X-Sallyport-Permissions",
	"X-Sallyport-Kind", "X-Sallyport-Session", "X-Sallyport-Client", "X-Sallyport-Omitted", "X-Sallyport-Assertion",
}

const (
	// maxList is how long the roles, the permissions or a user name may be, in bytes;
	// longer ones are left out whole. Half a list of what somebody may do looks like a list.
	maxList = 1 << 10
	// maxIdentity is how long all headers may be together, with their names, in bytes:
	// what the tightest of common services take.
	maxIdentity = 8 << 10
	// assertionLife is how long an assertion is good: the service is asked at once, and
	// clocks differ.
	assertionLife = 30 * time.Second
)

// ServeHTTP names who passes.
func (a *answer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := sallyport.From(r.Context())
	h := w.Header()
	for _, name := range IdentityHeaders {
		h[name] = []string{""}
	}
	if !p.Anonymous() {
		values, err := a.identity(r, p)
		if err != nil {
			if r.Context().Err() == nil {
				a.d.cfg.Log.ErrorContext(r.Context(), "who passes could not be named to a proxy", "error", err)
			}
			for _, name := range IdentityHeaders {
				delete(h, name)
			}
			a.Refuse(w, r, sallyport.Unavailable())
			return
		}
		for name, value := range values {
			h[name] = []string{value}
		}
	}
	if a.p.upgrades && len(r.Header["Upgrade"]) > 0 { // a WebSocket (original)
		h["Upgrade"] = []string{"websocket"}
	}
	w.WriteHeader(http.StatusOK)
}

// identity returns the headers of somebody.
func (a *answer) identity(r *http.Request, p sallyport.Principal) (map[string]string, error) {
	c := p.Claims()
	username, email := "", ""
	if c.Client != c.Subject { // a machine client has no account
		var err error
		if username, email, err = a.d.cfg.Person(r.Context(), c.Subject); err != nil {
			return nil, err
		}
	}
	keys, err := a.d.cfg.Keys(r.Context())
	if err != nil {
		return nil, err
	}
	now := a.d.cfg.Now()
	as := token.Assertion{
		Issuer: a.d.cfg.Issuer, Audience: r.Host, Subject: c.Subject, IssuedAt: now, Expires: now.Add(assertionLife),
		Kind: string(c.Kind), Session: c.Session, ClientID: c.Client, Username: username, Email: email,
		Roles: usableRoles(&p), Permissions: usablePermissions(&p), Method: r.Method, URI: r.RequestURI, Rule: a.rule,
	}
	// A service's own table may have names of any kind.
	if len(visible(username)) > maxList {
		as.Omitted, as.Username, username = append(as.Omitted, "username"), "", ""
	}
	leaveOut := func(name string, list *[]string) {
		if len(*list) > 0 {
			as.Omitted, *list = append(as.Omitted, name), nil
		}
	}
	for {
		if size(as.Roles) > maxList {
			leaveOut("roles", &as.Roles)
		}
		if size(as.Permissions) > maxList {
			leaveOut("permissions", &as.Permissions)
		}
		signed, err := keys.Assert(as)
		if err != nil {
			return nil, err
		}
		values := map[string]string{
			"X-Sallyport-Subject": visible(as.Subject), "X-Sallyport-Username": visible(username), "X-Sallyport-Email": visible(email),
			"X-Sallyport-Roles": strings.Join(as.Roles, " "), "X-Sallyport-Permissions": strings.Join(as.Permissions, " "),
			"X-Sallyport-Kind": as.Kind, "X-Sallyport-Session": visible(as.Session), "X-Sallyport-Client": visible(as.ClientID),
			"X-Sallyport-Omitted": strings.Join(as.Omitted, " "), "X-Sallyport-Assertion": signed,
		}
		total := 0
		for name, value := range values {
			total += len(name) + len(": ") + len(value) + len("\r\n")
		}
		if total <= maxIdentity || len(as.Roles)+len(as.Permissions) == 0 {
			return values, nil
		}
		leaveOut("roles", &as.Roles)
		leaveOut("permissions", &as.Permissions)
	}
}

func size(list []string) (n int) {
	for _, s := range list {
		n += len(s) + 1
	}
	return n
}

// usableRoles returns the roles that count with this credential, sorted.
func usableRoles(p *sallyport.Principal) (out []string) {
	for _, name := range p.Grants().Roles().Names() {
		if p.HasRole(name) {
			out = append(out, name)
		}
	}
	return out
}

// usablePermissions returns the permissions that count with this credential, sorted;
// “*” are all that there are or will be.
func usablePermissions(p *sallyport.Principal) (out []string) {
	c := p.Claims()
	if p.Grants().Everything() && !c.Scoped {
		return []string{"*"}
	}
	names := p.Grants().Permissions()
	if c.Scoped {
		names = c.Scopes
	}
	for _, name := range names.Names() {
		if p.Can(name) && !strings.HasPrefix(name, "role:") {
			out = append(out, name)
		}
	}
	return out
}

// visible writes a text in visible ASCII: every other byte, and %, is
// percent-encoded (RFC 3986, section 2.1).
func visible(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
