package authn

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Demand says of whom a second factor is demanded. The zero Demand demands none.
type Demand struct {
	everybody bool
	roles     []string
}

// Everybody is the name that stands for all roles, and for who has none.
const Everybody = "*"

// NewDemand returns the demand on the members of these roles, which has them
// directly or through other roles.
func NewDemand(roles []string) Demand {
	d := Demand{}
	for _, r := range roles {
		if r == Everybody {
			d.everybody = true
			continue
		}
		d.roles = append(d.roles, r)
	}
	return d
}

// Any reports whether there is a demand on anybody.
func (d Demand) Any() bool { return d.everybody || len(d.roles) > 0 }

// Of reports whether a second factor is demanded of a person with these grants.
// What a credential's scope leaves out does not matter: it is about the account.
func (d Demand) Of(g *sallyport.Grants) bool {
	if d.everybody {
		return true
	}
	for _, r := range d.roles {
		if g.Roles().Has(r) {
			return true
		}
	}
	return false
}

// proved is met by whoever has used a second factor.
var proved = sallyport.MFA()

// owes reports whether a caller is a person of whom a second factor is demanded,
// in a session that has none. An API key was made by somebody who was let in, and
// a machine client is no person.
func (g *Gate) owes(p *sallyport.Principal) bool {
	if !g.cfg.Demand.Any() || p.Anonymous() || proved.Allows(p, &sallyport.Facts{}) {
		return false
	}
	switch p.Kind() {
	case sallyport.KindAPIKey, sallyport.KindClient:
		return false
	}
	if !g.cfg.Demand.Of(p.Grants()) {
		return false
	}
	c := p.Claims()
	return c.Client != c.Subject // a machine client acts for itself
}

// demanded is the answer to who owes a second factor (RFC 9470, section 3).
func demanded() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "insufficient_user_authentication", MFA: true,
		Message: "Your account must have a second factor, and this session was begun without one. Set it up with POST /2fa/setup and POST /2fa/verify, or sign in again, then repeat the request.",
	}
}

// noteDemand records that a session without the factor that is demanded was
// refused.
func (g *Gate) noteDemand(ctx context.Context, r *http.Request, e *sallyport.Error) {
	g.cfg.Refusals.Note(ctx, audit.Event{
		Action: audit.AccessDenied, Result: audit.Denied, Reason: "a second factor is demanded, and the session has none",
		Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r), "code": e.Code},
	})
}
