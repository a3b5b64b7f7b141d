package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/bearer"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/live"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Config is what a Gate needs.
type Config struct {
	// Schemes are read on every route. Named ones are read only where a rule
	// names their kind (Via); there are at most 8 in all.
	Schemes, Named []Scheme
	DB             *db.DB
	Live           *live.Cache
	Keys           *keyring.Ring // nil if no scheme takes tokens that are signed
	// Resolve returns what these roles and permissions amount to under a version
	// of the roles, or a later one.
	Resolve func(ctx context.Context, version int64, roles, permissions string) (*sallyport.Grants, error)
	// GrantsOf reads what a subject may do, inside a transaction.
	GrantsOf func(rd db.Reader, subject string) (*sallyport.Grants, error)
	// Demand is on whom a second factor is demanded: their sessions without one are
	// refused everywhere but on routes that say so (RequireSetup).
	Demand Demand
	// Policies returns what stored policies say now, and their version; nil: there are
	// none. It is asked where a rule needs them, after the credential was found good.
	Policies func(ctx context.Context) (set sallyport.Policies, version int64, err error)
	// PoliciesVersion reads their version, inside a transaction.
	PoliciesVersion func(rd db.Reader) (int64, error)
	// Record writes down all that a decision depends on, "" if it is too much.
	Record func(ctx context.Context, rule sallyport.Rule, p *sallyport.Principal, f *sallyport.Facts) string
	// RecordAllowed is how many of all requests that are let in are recorded, from 0 to 1.
	RecordAllowed float64
	Guesses       *Guesses // of credentials that have to be looked up
	Refusals      *audit.Refusals
	Log           *slog.Logger
	Now           func() time.Time // the clock of what is decided; nil: time.Now
}

// Gate authenticates requests and enforces rules.
type Gate struct {
	cfg     Config
	schemes []numbered // all
	onRules func(sallyport.Rule)
	latest  atomic.Int64 // by which anything was decided so far, in Unix seconds
}

// numbered is a scheme with its number in the cache.
type numbered struct {
	Scheme
	n         int
	guessable bool
	restrict  Restricted // nil: on every request
}

// maxSchemes is how many kinds the cache tells apart.
const maxSchemes = 8

// NewGate returns a gate. onRule, if not nil, is told of every rule that is
// declared.
func NewGate(cfg Config, onRule func(sallyport.Rule)) *Gate {
	g := &Gate{cfg: cfg, onRules: onRule}
	for _, s := range slices.Concat(cfg.Schemes, cfg.Named) {
		n := numbered{Scheme: s, n: len(g.schemes)}
		_, n.guessable = s.(guessable)
		n.restrict, _ = s.(Restricted)
		g.schemes = append(g.schemes, n)
	}
	if len(g.schemes) > maxSchemes {
		panic("sallyport: a gate takes at most 8 schemes")
	}
	return g
}

var (
	_ sallyport.OpenGate  = (*Gate)(nil)
	_ sallyport.SetupGate = (*Gate)(nil)
)

// Refuser is a handler that words the refusals of the gate before it. Challenges
// are in the header already.
type Refuser interface {
	http.Handler
	Refuse(w http.ResponseWriter, r *http.Request, e *sallyport.Error)
}

// Require returns the middleware that lets a request through if the rule
// allows it. An invalid rule panics: it is a mistake in the program.
func (g *Gate) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	return g.require(rule, false)
}

// RequireSetup is Require for a route that a person needs of whom a second factor
// is demanded and who has none yet.
func (g *Gate) RequireSetup(rule sallyport.Rule) func(http.Handler) http.Handler {
	return g.require(rule, true)
}

func (g *Gate) require(rule sallyport.Rule, setup bool) func(http.Handler) http.Handler {
	through, err := g.through(rule, setup)
	if err != nil {
		panic("sallyport: " + err.Error())
	}
	if g.onRules != nil {
		g.onRules(rule)
	}
	return through
}

// Ask is Require for a rule that came with a request, from a proxy that asks for
// another service: one that cannot be enforced is an error, and nothing that it
// names is made to exist.
func (g *Gate) Ask(rule sallyport.Rule) (func(http.Handler) http.Handler, error) {
	return g.through(rule, false)
}

func (g *Gate) through(rule sallyport.Rule, setup bool) (func(http.Handler) http.Handler, error) {
	if err := rule.Check(); err != nil {
		return nil, err
	}
	schemes, err := g.schemesFor(rule)
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		d := &door{g: g, rule: rule, setup: setup, schemes: schemes, next: next, governed: g.cfg.Policies != nil && rule.Governed(), names: slices.Collect(rule.Names)}
		d.refuser, _ = next.(Refuser)
		return d
	}, nil
}

// schemesFor returns the schemes that are read on a route: those that are read
// everywhere, and those that its rule names. A machine client's secret and a
// person's password stand in the same header: where clients are named, people
// are not looked for.
func (g *Gate) schemesFor(rule sallyport.Rule) (out []numbered, err error) {
	named := slices.Collect(rule.Kinds)
	has := func(k sallyport.Kind) bool { return slices.Contains(named, k) }
	if has(sallyport.KindClient) && has(sallyport.KindBasic) {
		return nil, fmt.Errorf("rule %v: basic and client cannot be told apart on one route: name one of them", rule)
	}
	for i, s := range g.schemes {
		everywhere := i < len(g.cfg.Schemes)
		if has(s.Kind()) || everywhere && !(s.Kind() == sallyport.KindBasic && has(sallyport.KindClient)) {
			out = append(out, s)
		}
	}
	return out, nil
}

// door is the gate before one handler.
type door struct {
	g       *Gate
	rule    sallyport.Rule
	setup   bool // also for who owes a second factor
	schemes []numbered
	next    http.Handler
	refuser Refuser // nil: problem details
	// governed tells that policies can matter to the rule.
	governed bool
	names    []string // of the permissions, scopes and actions that the rule names
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r, carrier := reqctx.Enter(r)
	now := time.Now()
	a := carrier.Own()
	if err := d.g.authenticate(r, d.schemes, now, a); err != nil {
		d.refuse(w, r, err)
		return
	}
	carrier.Admit(r)
	p, facts := a.Principal(), sallyport.Facts{Now: d.g.wall(now), Request: r}
	if !d.setup && d.g.owes(&p) {
		e := demanded()
		d.g.noteDemand(r.Context(), r, e)
		d.answer(w, r, e)
		return
	}
	if d.governed && !p.Anonymous() {
		var err error
		if facts.Policies, a.Policies, err = d.g.policies(r.Context()); err != nil {
			d.answer(w, r, sallyport.AsError(err))
			return
		}
		a.Applied = applies(facts.Policies, d.names)
	}
	if v, applied := carrier.OuterPolicies(); v != 0 { // what is done here was let in by those, too
		a.Policies, a.Applied = v, a.Applied || applied
	}
	if !d.rule.Allows(&p, &facts) {
		d.deny(w, r, facts, carrier)
		return
	}
	if share := d.g.cfg.RecordAllowed; share > 0 && d.governed && rand.Float64() < share {
		d.noteAllowed(r, facts, carrier)
	}
	d.next.ServeHTTP(w, r)
}

// policies returns what is stored and its version. While it cannot be read, nothing
// is let in that it might forbid.
func (g *Gate) policies(ctx context.Context) (sallyport.Policies, int64, error) {
	set, version, err := g.cfg.Policies(ctx)
	if err == nil {
		return set, version, nil
	}
	if ctx.Err() == nil {
		g.cfg.Log.ErrorContext(ctx, "the policies could not be read", "error", err)
	}
	return nil, 0, sallyport.Unavailable()
}

// applies reports whether there is a policy about one of these actions.
func applies(set sallyport.Policies, actions []string) bool {
	for _, name := range actions {
		if set.Apply(name) {
			return true
		}
	}
	return false
}

// Decide decides a rule inside an operation that a gate has let in, for what only some
// of its uses need: with the policies and the facts of the request, and recorded as
// the gate records. It returns the refusal, nil if the rule allows it. What follows it
// in a transaction is refused if the policies change meanwhile.
func (g *Gate) Decide(ctx context.Context, rule sallyport.Rule) error {
	c := reqctx.From(ctx)
	if c == nil || c.Admitted() == nil {
		return sallyport.Unauthenticated()
	}
	r, p := c.Admitted(), c.Principal()
	facts := sallyport.Facts{Now: g.wall(time.Now()), Request: r}
	if g.cfg.Policies != nil && rule.Governed() && !p.Anonymous() {
		set, version, err := g.policies(ctx)
		if err != nil {
			return err
		}
		own := c.Own()
		if own.Policies != 0 && own.Policies != version {
			return policiesChanged()
		}
		if facts.Policies = set; own.Policies == 0 {
			own.Policies = version
		}
		if !own.Applied && applies(set, slices.Collect(rule.Names)) {
			own.Applied = true
		}
	}
	if rule.Allows(&p, &facts) {
		return nil
	}
	return g.denied(r, &rule, &p, &facts)
}

// noteAllowed records one of the requests that are let in, so that a draft of a
// policy can be tried on them.
func (d *door) noteAllowed(r *http.Request, facts sallyport.Facts, c *reqctx.Carrier) {
	p := c.Principal()
	d.g.cfg.Refusals.Note(r.Context(), audit.Event{
		Action: audit.AccessAllowed, DecisionID: sallyport.NewDecisionID(), Detail: map[string]string{
			"method": r.Method, "route": reqctx.Route(r), "rule": d.rule.String(),
			"facts": d.g.cfg.Record(r.Context(), d.rule, &p, &facts),
		},
	})
}

// wall returns the time by which things expire, at the moment now. Reading the
// clock once for each request is enough.
func (g *Gate) wall(now time.Time) time.Time {
	if g.cfg.Now != nil {
		return g.cfg.Now()
	}
	return now
}

// stepBack is by how many seconds the clock may go back unnoticed: those by which
// clocks of nodes may differ (token.DefaultLeeway).
const stepBack = 5

// noteTime makes everything be proven again when the clock was set back. What was
// proven by a later time would be good until then, and for its whole life after
// that; a token that was issued in a time that is yet to come is refused.
func (g *Gate) noteTime(wall time.Time) {
	now, latest := wall.Unix(), g.latest.Load()
	switch {
	case now > latest:
		g.latest.CompareAndSwap(latest, now)
	case latest-now > stepBack:
		g.cfg.Live.Forget() // before anybody can think that it was done
		if g.latest.CompareAndSwap(latest, now) {
			g.cfg.Log.Warn("the clock was set back; every credential is proven again, and tokens from later than now are refused", "seconds", latest-now)
		}
	}
}

// Open leads to a handler that looks at no credentials: its principal is
// anonymous, also below middleware that has admitted somebody.
func (g *Gate) Open(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, carrier := reqctx.Enter(r)
		carrier.Admit(r)
		next.ServeHTTP(w, r)
	})
}

// authenticate finds out whose the request's credential is, anonymous if there is
// none. A credential that is sent and not good is refused, on public routes too:
// the caller believes to be signed in and is not.
func (g *Gate) authenticate(r *http.Request, schemes []numbered, now time.Time, a *reqctx.Admission) error {
	var scheme *numbered
	var cred string
	for i := range schemes {
		c, found, err := schemes[i].Read(r)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if scheme != nil {
			return bearer.Several()
		}
		scheme, cred = &schemes[i], c
	}
	if scheme == nil {
		return nil
	}
	if scheme.restrict != nil {
		if err := scheme.restrict.Restrict(r); err != nil {
			return err
		}
	}
	return g.admit(r.Context(), g.cfg.Guesses, scheme, cred, now, a)
}

// Inspect finds out whose a credential is, as if a request carried it. stamp is
// for a live.Memo. What is not known counts as nobody's guess: who asks has been
// let in, and asks about what others sent. A session that owes a second factor is
// no good anywhere, and so it is not here.
func (g *Gate) Inspect(ctx context.Context, kind sallyport.Kind, cred string) (p sallyport.Principal, stamp uint64, err error) {
	for i := range g.schemes {
		if g.schemes[i].Kind() == kind {
			var a reqctx.Admission
			if err := g.admit(ctx, nil, &g.schemes[i], cred, time.Now(), &a); err != nil {
				return p, 0, err
			}
			if p = a.Principal(); g.owes(&p) {
				return sallyport.Principal{}, 0, &Refused{Reason: "a second factor is demanded, and the session has none", Subject: p.ID()}
			}
			return p, a.Stamp, nil
		}
	}
	return p, 0, &Refused{Reason: "no scheme takes " + string(kind)}
}

// admit writes into a whose credential it is; with an error, nobody's.
func (g *Gate) admit(ctx context.Context, guesses *Guesses, s *numbered, cred string, now time.Time, a *reqctx.Admission) error {
	err := g.find(ctx, guesses, s, cred, now, a)
	if err != nil {
		*a = reqctx.Admission{}
	}
	return err
}

func (g *Gate) find(ctx context.Context, guesses *Guesses, s *numbered, cred string, now time.Time, a *reqctx.Admission) error {
	// First: what is found below is then not older than the lease.
	if err := g.cfg.Live.Fresh(ctx, now); err != nil {
		return err
	}
	wall := g.wall(now)
	g.noteTime(wall)
	key := g.cfg.Live.KeyOf(s.n, cred, s.guessable)
	if g.cfg.Live.Get(&key, wall, &a.Found) && a.Known.Kind == s.Kind() {
		a.By, a.Scheme = g, int32(s.n)
		if a.Alive {
			return nil
		}
		if err := g.confirm(ctx, s, &key, verifiedAs(a), a); !errors.Is(err, ErrAgain) {
			return err
		}
	}
	for attempt := 1; ; attempt++ {
		var v Verified
		err := guesses.Try(ctx, func() (err error) {
			v, err = s.Verify(ctx, cred)
			return err
		})
		if err != nil {
			return err
		}
		if v.Static != nil {
			p := sallyport.NewPrincipal(v.Claims, v.Static)
			*a = reqctx.Admission{Full: &p, By: g} // which has the policies looked at again
			return nil
		}
		if err = g.confirm(ctx, s, &key, v, a); !errors.Is(err, ErrAgain) || attempt == 3 {
			return err
		}
	}
}

// confirm reads the state of a credential that has been proven, and remembers
// both.
func (g *Gate) confirm(ctx context.Context, s *numbered, key *live.Key, v Verified, a *reqctx.Admission) error {
	proven, keep := v.proven()
	var ticket live.Ticket
	if keep {
		ticket = g.cfg.Live.Begin(key, &proven)
	}
	st, err := s.Confirm(g.cfg.DB.View(ctx), v)
	if err != nil {
		return err
	}
	if v.KeyID != "" && st.Keys != v.Keys {
		// Keys have changed since the token was proven. Whatever the ring knows
		// by now, this token must be proven with it.
		if _, err := g.cfg.Keys.Sync(ctx, st.Keys); err != nil {
			return err
		}
		return ErrAgain
	}
	grants, err := g.cfg.Resolve(ctx, st.Roles, st.RoleNames, st.Permissions)
	if err != nil {
		return err
	}
	stamp := g.cfg.Live.Publish(ticket, &live.State{MFA: st.MFA, AuthTime: st.AuthTime, Until: st.Until, Subject: st.Subject, Roles: st.Roles, Grants: grants})
	*a = reqctx.Admission{By: g, Scheme: int32(s.n), Found: live.Found{
		Known: &live.Known{Profile: proven.Profile, Scopes: v.Scopes}, Unit: v.Unit, Subject: proven.Subject, Expires: live.Seconds(v.Expires),
		Alive: true, MFA: st.MFA, AuthTime: live.Seconds(st.AuthTime),
		SubjectVersion: uint32(st.Subject), RolesVersion: uint32(st.Roles), Grants: grants, Stamp: stamp,
	}}
	if !keep {
		c := v.Claims
		c.MFA, c.AuthTime = st.MFA, st.AuthTime
		p := sallyport.NewPrincipal(c, grants)
		a.Full = &p
	}
	return nil
}

// Check implements reqctx.Checker.
func (g *Gate) Check(tx *db.Tx, a *reqctx.Admission, alone bool) error {
	if a.Known == nil { // it stands in the configuration: as long as this process runs
		if alone {
			return nil
		}
		return g.samePolicies(tx, a)
	}
	v := verifiedAs(a)
	st, err := g.schemes[a.Scheme].Confirm(tx, v)
	if _, refused := errors.AsType[*Refused](err); refused || errors.Is(err, ErrAgain) {
		return InvalidToken()
	}
	if err != nil {
		return err
	}
	if v.KeyID != "" && st.Keys != v.Keys {
		refused, err := g.cfg.Keys.Refused(tx, v.KeyID)
		if err != nil {
			return err
		}
		if refused {
			return InvalidToken()
		}
	}
	if !v.Expires.IsZero() && !g.wall(time.Now()).Before(v.Expires) {
		return InvalidToken()
	}
	if !alone {
		if err := g.samePolicies(tx, a); err != nil {
			return err
		}
	}
	if alone || uint32(st.Subject) == a.SubjectVersion && uint32(st.Roles) == a.RolesVersion {
		return nil
	}
	// Something changed. What matters is whether this caller has lost anything; where
	// there is a policy, also whether they gained what it may forbid.
	p := a.Principal()
	now, err := g.cfg.GrantsOf(tx, v.Subject)
	if err != nil || now.Includes(p.Grants()) && (!a.Applied || p.Grants().Includes(now)) {
		return err
	}
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "authority_changed",
		Message: "Your roles or permissions changed while this request was under way. Nothing was done. Send it again.",
	}
}

// samePolicies returns an error if other policies hold than those that were asked.
func (g *Gate) samePolicies(tx *db.Tx, a *reqctx.Admission) error {
	if a.Policies == 0 {
		return nil
	}
	v, err := g.cfg.PoliciesVersion(tx)
	if err == nil && v != a.Policies {
		err = policiesChanged()
	}
	return err
}

// policiesChanged is the answer to a change that was let in by policies which are
// not those of now. Whether they would let it in is not decided here: the request
// has to be read again for that.
func policiesChanged() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "authority_changed",
		Message: "The policies changed while this request was under way. Nothing was done. Send it again.",
	}
}

// refuse answers a request whose credential is not good or could not be
// checked.
func (d *door) refuse(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	if refused, ok := errors.AsType[*Refused](err); ok {
		e := audit.Event{
			Action: audit.CredentialRefused, Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject,
			Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r)},
		}
		if refused.Action != "" {
			e.Action = refused.Action
		}
		d.g.cfg.Refusals.Note(ctx, e)
		answer := InvalidToken()
		if d.discard(w, r) {
			answer.Message = "The session is not valid, or not any more. Its cookie is taken away with this answer. Sign in again."
		}
		d.answer(w, r, answer)
		return
	}
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		if e.Status == http.StatusForbidden { // where the scheme is restricted
			e = e.Decided()
			d.g.cfg.Refusals.Note(ctx, audit.Event{
				Action: audit.AccessDenied, Result: audit.Denied, Reason: e.Message, DecisionID: e.DecisionID,
				Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r), "code": e.Code},
			})
		}
		d.answer(w, r, e)
		return
	}
	if ctx.Err() == nil { // a caller who went away is no fault of ours
		d.g.cfg.Log.ErrorContext(ctx, "a credential could not be checked", "error", err)
	}
	d.answer(w, r, sallyport.Unavailable())
}

// discard has the client forget a credential that is not good, if it is of a kind
// that would come again and again, and reports whether it is.
func (d *door) discard(w http.ResponseWriter, r *http.Request) (done bool) {
	for _, s := range d.schemes {
		sticky, ok := s.Scheme.(sticky)
		if !ok {
			continue
		}
		if _, found, err := s.Read(r); found || err != nil {
			sticky.Discard(w.Header())
			done = true
		}
	}
	return done
}

// deny answers a request that the rule does not allow.
func (d *door) deny(w http.ResponseWriter, r *http.Request, facts sallyport.Facts, c *reqctx.Carrier) {
	p := c.Principal()
	d.answer(w, r, d.g.denied(r, &d.rule, &p, &facts))
}

// denied records that a rule is not met, and returns what to answer.
func (g *Gate) denied(r *http.Request, rule *sallyport.Rule, p *sallyport.Principal, facts *sallyport.Facts) *sallyport.Error {
	decision := rule.Explain(p, facts)
	e := decision.Refusal()
	if e.Code != "unauthenticated" { // nobody signed in is no event
		e = e.Decided()
		detail := map[string]string{"method": r.Method, "route": reqctx.Route(r), "rule": decision.Rule, "code": e.Code}
		id := e.DecisionID
		if id == "" { // the answer asks for another sign-in
			id = sallyport.NewDecisionID()
		}
		if g.cfg.Record != nil {
			detail["facts"] = g.cfg.Record(r.Context(), *rule, p, facts)
		}
		if why := explanation(decision); why != "" {
			detail["explanation"] = why
		}
		g.cfg.Refusals.Note(r.Context(), audit.Event{Action: audit.AccessDenied, Result: audit.Denied, Reason: reasons(decision), DecisionID: id, Detail: detail})
	}
	return e
}

// maxExplanation bounds what the audit log keeps of one, in bytes.
const maxExplanation = 8 << 10

// explanation is what policies had to say, whole: a Reason of the audit log is short.
func explanation(d sallyport.Decision) string {
	var text []string
	for _, r := range d.Reasons {
		if !r.Met && len(r.Policies) > 0 {
			text = append(text, r.Rule+": "+r.Why+" It would take "+r.Need+".")
		}
	}
	s := strings.Join(text, " ")
	if len(s) > maxExplanation {
		s = strings.ToValidUTF8(s[:maxExplanation], "")
	}
	return s
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

func (d *door) answer(w http.ResponseWriter, r *http.Request, e *sallyport.Error) {
	for _, c := range challenges(d.schemes, e) {
		w.Header().Add("Www-Authenticate", c)
	}
	if d.refuser != nil {
		d.refuser.Refuse(w, r, e)
		return
	}
	sallyport.WriteError(w, e)
}

// Challenges returns the WWW-Authenticate values that belong to an error: those
// of the schemes that are read everywhere for a 401 and for a missing scope,
// none for others.
func (g *Gate) Challenges(e *sallyport.Error) []string {
	return challenges(g.schemes[:len(g.cfg.Schemes)], e)
}

func challenges(schemes []numbered, e *sallyport.Error) (out []string) {
	if !bearer.Challenged(e) {
		return nil
	}
	for _, s := range schemes {
		if c := s.Challenge(e); c != "" {
			out = append(out, c)
		}
	}
	return out
}

// proven returns what the cache keeps of v; keep tells whether it can: ids must
// be UUIDs, which all ids of ours are.
func (v *Verified) proven() (p live.Proven, keep bool) {
	id, err := uuid.Parse(v.Subject)
	p = live.Proven{Subject: id, Unit: v.Unit, Expires: v.Expires, Profile: live.Profile{
		Kind: v.Kind, Client: v.Client, Scoped: v.Scoped, Scope: v.Scopes.String(), KeyID: v.KeyID, Version: v.Keys,
	}}
	if err != nil || id.String() != v.Subject {
		return p, false
	}
	if !v.Until.IsZero() && (p.Expires.IsZero() || v.Until.Before(p.Expires)) {
		p.Expires = v.Until
	}
	return p, true
}

// verifiedAs is proven backwards.
func verifiedAs(a *reqctx.Admission) Verified {
	p := a.Principal()
	return Verified{Claims: p.Claims(), Unit: a.Unit, KeyID: a.Known.KeyID, Keys: a.Known.Version}
}
