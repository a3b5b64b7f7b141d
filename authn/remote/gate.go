package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/bearer"
)

// refused says why a credential is not good: for the log, never for the caller.
type refused struct{ reason string }

func (r *refused) Error() string { return "credential refused: " + r.reason }

// Require returns the middleware that lets a request through if the rule
// allows it. An invalid rule panics: it is a mistake in the program.
func (v *Verifier) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	if err := rule.Check(); err != nil {
		panic("sallyport: " + err.Error())
	}
	for range rule.Types { // it would never be met
		panic(fmt.Sprintf("sallyport: rule %v: policies are decided by the issuer, and are not known here", rule))
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, err := v.authenticate(r)
			if err != nil {
				v.refuse(w, r, err)
				return
			}
			facts := sallyport.Facts{Now: v.cfg.Now()}
			if !rule.Allows(&p, &facts) {
				v.deny(w, r, &rule, p, &facts)
				return
			}
			next.ServeHTTP(w, r.WithContext(sallyport.NewContext(r.Context(), p)))
		})
	}
}

// Open leads to a handler that looks at no credentials: its principal is
// anonymous, also below middleware that has admitted somebody.
func (v *Verifier) Open(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(sallyport.NewContext(r.Context(), sallyport.Principal{})))
	})
}

// authenticate returns the principal of the request's credential, anonymous if
// there is none. A credential that is sent and not good is refused, on public
// routes too: the caller believes to be signed in and is not.
func (v *Verifier) authenticate(r *http.Request) (sallyport.Principal, error) {
	access, hasToken, err := bearer.Read(r)
	if err != nil {
		return sallyport.Principal{}, err
	}
	if v.asks != nil {
		if values := r.Header[v.cfg.Introspection.HeaderName]; len(values) > 0 {
			if hasToken || len(values) > 1 {
				return sallyport.Principal{}, bearer.Several()
			}
			return v.key(r.Context(), values[0])
		}
	}
	if !hasToken {
		return sallyport.Principal{}, nil
	}
	return v.bearer(r.Context(), access)
}

// refuse answers a request whose credential is not good or could not be
// checked.
func (v *Verifier) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if why, ok := errors.AsType[*refused](err); ok {
		v.cfg.Log.InfoContext(r.Context(), "a credential was refused", "reason", why.reason, "method", r.Method, "route", route(r))
		v.answer(w, bearer.Invalid())
		return
	}
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		v.answer(w, e)
		return
	}
	if r.Context().Err() == nil && v.outages.note(v.cfg.Now()) {
		v.cfg.Log.ErrorContext(r.Context(), "a credential could not be checked", "error", err)
	}
	v.answer(w, unavailable())
}

// unavailable is the answer when the issuer cannot be reached.
func unavailable() *sallyport.Error {
	e := sallyport.Unavailable()
	e.Message = "The service cannot reach the issuer of its credentials, and lets nobody in without. Try again in a moment."
	return e
}

// deny answers a request that the rule does not allow.
func (v *Verifier) deny(w http.ResponseWriter, r *http.Request, rule *sallyport.Rule, p sallyport.Principal, facts *sallyport.Facts) {
	d := rule.Explain(&p, facts)
	e := d.Refusal()
	// What the subject of a scoped token holds is not known without
	// introspection, only that the token does not carry it. So the answer is what
	// the issuer would say of a subject who holds everything: which scope lacks.
	if c := p.Claims(); v.asks == nil && c.Scoped {
		holder := sallyport.NewPrincipal(c, sallyport.NewAdminGrants(rolesOf(*rule), nil))
		if known := rule.Explain(&holder, facts).Refusal(); known != nil {
			e = known
		}
	}
	e = e.Decided()
	if e.Code != "unauthenticated" { // nobody signed in is no event
		v.cfg.Log.InfoContext(r.Context(), "access denied", "principal", p, "rule", d.Rule, "code", e.Code, "decision_id", e.DecisionID, "method", r.Method, "route", route(r))
	}
	v.answer(w, e)
}

// rolesOf returns the roles that a rule names.
func rolesOf(rule sallyport.Rule) []string {
	if rule.Op() == sallyport.OpRole {
		return []string{rule.Name()}
	}
	var out []string
	for _, part := range rule.Of() {
		out = append(out, rolesOf(part)...)
	}
	return out
}

func (v *Verifier) answer(w http.ResponseWriter, e *sallyport.Error) {
	if bearer.Challenged(e) {
		w.Header().Add("Www-Authenticate", bearer.Challenge(e))
		if v.asks != nil {
			w.Header().Add("Www-Authenticate", "ApiKey")
		}
	}
	sallyport.WriteError(w, e)
}

// route is the pattern, because a path is what a caller made of it, and may hold
// a token that was put in the wrong place.
func route(r *http.Request) string {
	if r.Pattern == "" {
		return "(none)"
	}
	return r.Pattern
}

// outages keeps the log readable while the issuer is away: one line a second.
type outages struct {
	mu   sync.Mutex
	last time.Time
}

func (o *outages) note(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if since := now.Sub(o.last); since >= 0 && since < time.Second {
		return false
	}
	o.last = now
	return true
}

// maxCredential is the longest that is looked at, as in package token.
const maxCredential = 8 << 10

// opaque begins every opaque access token.
const opaque = "at_"

// bearer verifies an access token of either form.
func (v *Verifier) bearer(ctx context.Context, access string) (sallyport.Principal, error) {
	if len(access) > maxCredential {
		return sallyport.Principal{}, &refused{"too_long"}
	}
	if !strings.HasPrefix(access, opaque) {
		return v.jwt(ctx, access)
	}
	if v.asks == nil {
		return sallyport.Principal{}, &refused{"opaque token without introspection"}
	}
	if !visible(access) {
		return sallyport.Principal{}, &refused{"malformed"}
	}
	return v.asks.ask(ctx, idOf(sallyport.KindBearer, access), access, func(a *answer) (verdict, error) {
		return v.judge(a, sallyport.KindBearer, nil)
	})
}

// key verifies an API key, which only the issuer can.
func (v *Verifier) key(ctx context.Context, key string) (sallyport.Principal, error) {
	if len(key) > maxCredential || !visible(key) {
		return sallyport.Principal{}, &refused{"malformed"}
	}
	return v.asks.ask(ctx, idOf(sallyport.KindAPIKey, key), key, func(a *answer) (verdict, error) {
		return v.judge(a, sallyport.KindAPIKey, nil)
	})
}
