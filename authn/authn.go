// Package authn is the first door: it finds the credential of a request, has
// it verified, and hands the request on with a Principal if the route's rule
// allows it. It is also where every rule is enforced: Gate.Require is the only
// way from a rule to a decision, for plain routes and typed operations alike.
//
// It stores nothing. It never tells a caller why a credential was refused; the
// reason goes to the log and the audit log.
package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Scheme is one way to say who one is.
type Scheme interface {
	// Kind names the credentials it reads.
	Kind() sallyport.Kind
	// Read finds the credential in the request, without I/O. An error is a
	// *sallyport.Error: a request that must be refused whatever its credential.
	Read(r *http.Request) (cred string, found bool, err error)
	// Verify proves the credential and returns what it says. A *Refused error
	// means it is not good; any other means it could not be checked.
	Verify(ctx context.Context, cred string) (Verified, error)
	// Challenge returns the WWW-Authenticate value for a refusal.
	Challenge(e *sallyport.Error) string
}

// Verified is what a credential says, the key it was proven with, and the
// version of the keys then: Confirm returns ErrAgain if that is not the current
// one.
type Verified struct {
	sallyport.Claims
	KeyID string
	Keys  int64
}

// Confirmed is a principal that was alive when it was looked at, and what looks
// again inside a transaction.
type Confirmed struct {
	Principal sallyport.Principal
	Guard     db.Guard
}

// Refused says why a credential is not good: for the operator, never for the
// caller.
type Refused struct {
	Reason  string // "expired", "session ended" …
	Subject string // if it is known
}

func (r *Refused) Error() string { return "credential refused: " + r.Reason }

// ErrAgain tells the gate to verify once more: what the credential was verified
// with has changed meanwhile.
var ErrAgain = errors.New("verify again")

// Config is what a Gate needs.
type Config struct {
	Schemes []Scheme
	// Confirm looks whether the session and subject that verified claims name
	// are alive now, and returns the principal with its current grants. It
	// returns *Refused, ErrAgain, or an error that means it could not look.
	Confirm  func(context.Context, Verified) (Confirmed, error)
	Refusals *audit.Refusals
	Log      *slog.Logger
	Now      func() time.Time
}

// Gate authenticates requests and enforces rules.
type Gate struct {
	cfg     Config
	onRules func(sallyport.Rule)
}

// NewGate returns a gate. onRule, if not nil, is told of every rule that is
// declared.
func NewGate(cfg Config, onRule func(sallyport.Rule)) *Gate {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Gate{cfg, onRule}
}

var _ sallyport.OpenGate = (*Gate)(nil)

// Require returns the middleware that lets a request through if the rule
// allows it. An invalid rule panics: it is a mistake in the program.
func (g *Gate) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	if err := rule.Check(); err != nil {
		panic("sallyport: " + err.Error())
	}
	if g.onRules != nil {
		g.onRules(rule)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r, carrier := reqctx.Begin(r)
			c, err := g.authenticate(r)
			if err != nil {
				g.refuse(w, r, err)
				return
			}
			p := c.Principal
			carrier.Admit(p, c.Guard)
			facts := sallyport.Facts{Now: g.cfg.Now()}
			if !rule.Allows(&p, &facts) {
				g.deny(w, r, rule.Explain(&p, &facts))
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Open leads to a handler that looks at no credentials: its principal is
// anonymous, also below middleware that has admitted somebody.
func (g *Gate) Open(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, carrier := reqctx.Begin(r)
		carrier.Admit(sallyport.Principal{}, nil)
		next.ServeHTTP(w, r)
	})
}

// authenticate returns the principal of the request's credential, anonymous if
// there is none. A credential that is sent and not good is refused, on public
// routes too: the caller believes to be signed in and is not.
func (g *Gate) authenticate(r *http.Request) (Confirmed, error) {
	var scheme Scheme
	var cred string
	for _, s := range g.cfg.Schemes {
		c, found, err := s.Read(r)
		if err != nil {
			return Confirmed{}, err
		}
		if !found {
			continue
		}
		if scheme != nil {
			return Confirmed{}, &sallyport.Error{
				Status: http.StatusBadRequest, Code: "several_credentials",
				Message: "The request carries more than one credential. Send exactly one.",
			}
		}
		scheme, cred = s, c
	}
	if scheme == nil {
		return Confirmed{}, nil
	}
	ctx := r.Context()
	for attempt := 1; ; attempt++ {
		verified, err := scheme.Verify(ctx, cred)
		if err != nil {
			return Confirmed{}, err
		}
		c, err := g.cfg.Confirm(ctx, verified)
		if errors.Is(err, ErrAgain) && attempt < 3 {
			continue
		}
		return c, err
	}
}

// refuse answers a request whose credential is not good or could not be
// checked.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	if refused, ok := errors.AsType[*Refused](err); ok {
		g.cfg.Refusals.Note(ctx, audit.Event{
			Action: audit.CredentialRefused, Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject,
			Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r)},
		})
		g.answer(w, InvalidToken())
		return
	}
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		g.answer(w, e)
		return
	}
	g.cfg.Log.ErrorContext(ctx, "a credential could not be checked", "error", err)
	g.answer(w, sallyport.Unavailable())
}

// deny answers a request that the rule does not allow.
func (g *Gate) deny(w http.ResponseWriter, r *http.Request, d sallyport.Decision) {
	e := d.Refusal()
	if e.Code != "unauthenticated" { // nobody signed in is no event
		g.cfg.Refusals.Note(r.Context(), audit.Event{
			Action: "access.denied", Result: audit.Denied, Reason: reasons(d),
			Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r), "rule": d.Rule, "code": e.Code},
		})
	}
	g.answer(w, e)
}

func reasons(d sallyport.Decision) string {
	var s string
	for _, r := range d.Reasons {
		if !r.Met {
			if s != "" {
				s += "; "
			}
			s += fmt.Sprintf("%s: %s", r.Rule, r.Why)
		}
	}
	return s
}

func (g *Gate) answer(w http.ResponseWriter, e *sallyport.Error) {
	for _, c := range g.Challenges(e) {
		w.Header().Add("Www-Authenticate", c)
	}
	sallyport.WriteError(w, e)
}

// Challenges returns the WWW-Authenticate values that belong to an error: one
// of each scheme for a 401 and for a missing scope, none for others.
func (g *Gate) Challenges(e *sallyport.Error) []string {
	if e.Status != http.StatusUnauthorized && e.Code != "insufficient_scope" {
		return nil
	}
	out := make([]string, 0, len(g.cfg.Schemes))
	for _, s := range g.cfg.Schemes {
		out = append(out, s.Challenge(e))
	}
	return out
}

// InvalidToken is the one answer for a credential that is expired, forged,
// revoked or unknown (RFC 6750, 3.1).
func InvalidToken() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_token",
		Message: "The access token is not valid, or not any more. Get a new one with the refresh token, or sign in again.",
	}
}
