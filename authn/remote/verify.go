package remote

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/token"
)

// maxVerified is how many tokens are remembered as verified.
const maxVerified = 50_000

// verified remembers tokens whose signature and claims held, so that a
// signature is checked once. Their time is looked at again each time, and they
// count only with the very set of keys that verified them.
type verified struct {
	mu    sync.Mutex
	known *cache[*genuine]
}

// genuine is a token that was verified.
type genuine struct {
	set       *token.Set
	at, until time.Time
	claims    *token.Claims
	principal sallyport.Principal // by the token alone
}

func newVerified() *verified { return &verified{known: newCache[*genuine](maxVerified)} }

func (c *verified) get(k id, set *token.Set, now time.Time) *genuine {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.known.get(k)
	// Before its time it is verified again: the clock was set back.
	if !ok || g.set != set || now.Before(g.at) || !now.Before(g.until) {
		return nil
	}
	return g
}

func (c *verified) put(k id, g *genuine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.put(k, g)
}

// jwt verifies a JWT here, and then, with introspection, at the issuer: what is
// forged or expired never gets as far.
func (v *Verifier) jwt(ctx context.Context, access string) (sallyport.Principal, error) {
	k := idOf(sallyport.KindBearer, access)
	now := v.cfg.Now()
	set := v.keys.current(ctx)
	g := v.verified.get(k, set, now)
	if g == nil {
		var err error
		if g, err = v.verify(ctx, access, set, now); err != nil {
			return sallyport.Principal{}, err
		}
		v.verified.put(k, g)
	}
	if v.asks == nil {
		return g.principal, nil
	}
	return v.asks.ask(ctx, k, access, func(a *answer) (verdict, error) {
		return v.judge(a, sallyport.KindBearer, g.claims)
	})
}

// verify verifies a JWT with the keys there are, and if it names another, with
// those that the issuer publishes now.
func (v *Verifier) verify(ctx context.Context, access string, set *token.Set, now time.Time) (*genuine, error) {
	c, err := v.token.Verify(set, access, now)
	if e, ok := errors.AsType[*token.Error](err); ok && e.Reason == token.UnknownKey {
		if set, err = v.keys.beyond(ctx, set); err != nil {
			return nil, err
		}
		c, err = v.token.Verify(set, access, now)
	}
	if e, ok := errors.AsType[*token.Error](err); ok {
		return nil, &refused{strings.TrimSpace(string(e.Reason) + " " + e.Name)}
	}
	if err != nil {
		return nil, err
	}
	return &genuine{
		set: set, at: now, until: c.Expires.Add(max(v.cfg.Leeway, 0)),
		claims: &c, principal: sallyport.NewPrincipal(claimsOf(&c), grantsOf(&c)),
	}, nil
}

// claimsOf is what the token says of its caller.
func claimsOf(c *token.Claims) sallyport.Claims {
	return sallyport.Claims{
		Subject: c.Subject, Session: c.Session, Client: c.ClientID, Kind: sallyport.KindBearer,
		Scoped: c.Scoped, Scopes: sallyport.NewSet(c.Scope...),
		MFA: twoFactors(c.AMR), AuthTime: c.AuthTime, Expires: c.Expires,
	}
}

// grantsOf is what a token gives by itself. A scope lists what the subject held
// when the issuer gave the token, so a scoped token has exactly that:
// permissions, and roles as "role:NAME". A token without a scope says nothing of
// what its subject may do, and gives nothing.
func grantsOf(c *token.Claims) *sallyport.Grants {
	var roles, permissions []string
	for _, s := range c.Scope {
		if name, isRole := strings.CutPrefix(s, "role:"); isRole {
			roles = append(roles, name)
		} else {
			permissions = append(permissions, s)
		}
	}
	return sallyport.NewGrants(roles, permissions)
}

// factors are the methods of RFC 8176, section 2, by what they prove: that one
// knows something, has something, or is somebody. Those that are missing there
// prove none of it by themselves.
var factors = map[string]string{
	"pwd": "knows", "pin": "knows", "kba": "knows",
	"otp": "has", "hwk": "has", "swk": "has", "pop": "has", "sc": "has", "sms": "has", "tel": "has",
	"face": "is", "fpt": "is", "iris": "is", "retina": "is", "vbm": "is",
}

// twoFactors reports whether amr says "mfa", or names methods of two different
// kinds. One alone, also a one-time code or a hardware key, is one factor.
func twoFactors(amr []string) bool {
	first := ""
	for _, m := range amr {
		kind := factors[m]
		if m == "mfa" || first != "" && kind != "" && kind != first {
			return true
		}
		if first == "" {
			first = kind
		}
	}
	return false
}

// judge decides on an answer of the issuer: about a JWT, whose claims are given,
// or about an opaque token or key. A refused error means that the credential is
// not good here; any other, that the answer cannot be right.
func (v *Verifier) judge(a *answer, kind sallyport.Kind, jwt *token.Claims) (verdict, error) {
	want := map[sallyport.Kind]string{sallyport.KindBearer: "bearer", sallyport.KindAPIKey: "api_key"}[kind]
	until := a.expires
	if !until.IsZero() {
		until = until.Add(max(v.cfg.Leeway, 0))
	}
	switch {
	case !a.active:
		return verdict{}, &refused{"not active"}
	case !strings.EqualFold(a.tokenType, want):
		return verdict{}, &refused{"another type of credential"}
	case a.issuer != "" && a.issuer != v.cfg.Issuer:
		return verdict{}, &refused{string(token.WrongIssuer)}
	case len(a.audience) > 0 && !slices.Contains(a.audience, v.cfg.Audience):
		return verdict{}, &refused{string(token.WrongAudience)}
	case a.subject == "":
		return verdict{}, errors.New("the introspection answer has no sub")
	case jwt != nil && a.subject != jwt.Subject:
		return verdict{}, &refused{"the issuer names another subject"}
	case jwt != nil && a.session != "" && a.session != jwt.Session:
		return verdict{}, &refused{"the issuer names another session"}
	}
	c := sallyport.Claims{
		Subject: a.subject, Session: a.session, Client: a.client, Kind: kind,
		Scoped: a.scoped, Scopes: sallyport.NewSet(a.scope...),
		MFA: a.mfa, AuthTime: a.authTime, Expires: a.expires,
	}
	if jwt != nil {
		c.Session, c.Client, c.Expires = jwt.Session, jwt.ClientID, jwt.Expires
		c.Scoped, c.Scopes = narrower(a, jwt)
	}
	grants := sallyport.NewGrants(a.roles, a.permissions)
	if a.everything {
		grants = sallyport.NewAdminGrants(a.roles, a.permissions)
	}
	return verdict{principal: sallyport.NewPrincipal(c, grants), until: until}, nil
}

// narrower returns the scope that both the answer and the token allow.
func narrower(a *answer, jwt *token.Claims) (scoped bool, scopes sallyport.Set) {
	switch {
	case !jwt.Scoped:
		return a.scoped, sallyport.NewSet(a.scope...)
	case !a.scoped:
		return true, sallyport.NewSet(jwt.Scope...)
	}
	both := slices.DeleteFunc(slices.Clone(jwt.Scope), func(s string) bool { return !slices.Contains(a.scope, s) })
	return true, sallyport.NewSet(both...)
}
