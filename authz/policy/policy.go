// Package policy decides what stored policies say, in the language Cedar: who may
// do what depending on time, place, strength of sign-in and the resource. It keeps
// the policies, checks them before they are stored, and explains every decision.
//
// Roles, permissions and scopes are decided without it (package sallyport). A policy
// applies where its permission is required: one that permits lets in who does not
// hold the permission, one that forbids keeps out who does, and forbidding wins. A
// policy that cannot be evaluated denies. A credential's scope limits what policies
// give as it limits everything else.
//
// It never lets anybody write a policy about a permission that they do not hold.
//
// Begin with Service.Put and Service.Ask: a program has its server's,
// server.Server.Policies. Parse and NewSet decide without a database.
package policy

import (
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Set is all policies at one moment. It is immutable and decides for any number of
// requests at once.
type Set struct {
	version int64
	roles   int64 // the version of the roles that permissions belongs to
	stamp   uint64
	byID    map[string]*Policy
	index   map[string]*bucket // by action; each holds those about all actions too
	rest    *bucket            // those about all actions; nil: there are none
	// permissions are all that exist: who may do everything holds them.
	permissions []string
	place       Place

	minute    atomic.Pointer[minute]
	views     sync.Map // *sallyport.Grants → *view
	held      atomic.Int64
	resources sync.Map // string → sallyport.Resource
}

var _ sallyport.Policies = (*Set)(nil)

// Place says where it is what time, and where an address is.
type Place struct {
	// Zone is that of context.local; nil: UTC.
	Zone *time.Location
	// Country returns the country of an address as two letters (ISO 3166-1), "" if it
	// is not known; nil: none is.
	Country func(netip.Addr) string
}

// bucket is the policies that one decision evaluates.
type bucket struct {
	list   []*Policy
	uses   uses
	broken bool // one of them cannot be evaluated
}

// All implements cedar.PolicyIterator.
func (b *bucket) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, p := range b.list {
			if p.broken == nil && !yield(cedar.PolicyID(p.ID), p.cedar) {
				return
			}
		}
	}
}

func (b *bucket) add(p *Policy) {
	b.list = append(b.list, p)
	b.uses |= p.uses
	b.broken = b.broken || p.broken != nil
}

// NewSet returns the set of these policies. permissions are all that exist.
func NewSet(policies []*Policy, permissions []string, place Place) *Set {
	s := &Set{byID: make(map[string]*Policy, len(policies)), index: map[string]*bucket{}, permissions: permissions, place: place}
	if s.place.Zone == nil {
		s.place.Zone = time.UTC
	}
	for _, p := range policies {
		s.byID[p.ID] = p
	}
	var everywhere []*Policy
	for _, p := range sortedByID(s.byID) {
		if len(p.Actions) == 0 {
			everywhere = append(everywhere, p)
			continue
		}
		for _, a := range p.Actions {
			b := s.index[a]
			if b == nil {
				b = &bucket{}
				s.index[a] = b
			}
			b.add(p)
		}
	}
	if len(everywhere) > 0 {
		s.rest = &bucket{}
		for _, p := range everywhere {
			s.rest.add(p)
			for _, b := range s.index {
				b.add(p)
			}
		}
	}
	return s
}

// With returns the set with these policies in the place of those of their names,
// and without those that are named in without.
func (s *Set) With(drafts []*Policy, without ...string) *Set {
	all := make([]*Policy, 0, len(s.byID)+len(drafts))
	for id, p := range s.byID {
		if !slices.Contains(without, id) && !slices.ContainsFunc(drafts, func(d *Policy) bool { return d.ID == id }) {
			all = append(all, p)
		}
	}
	return NewSet(append(all, drafts...), s.permissions, s.place)
}

// Version returns the version of the policies.
func (s *Set) Version() int64 { return s.version }

// Policies returns all policies in the order of their names.
func (s *Set) Policies() []*Policy { return sortedByID(s.byID) }

func (s *Set) bucket(action string) *bucket {
	if b := s.index[action]; b != nil {
		return b
	}
	return s.rest
}

// Apply reports whether there is a policy for an action.
func (s *Set) Apply(action string) bool {
	return s.bucket(action) != nil && sallyport.Governed(action)
}

// Decide implements sallyport.Policies, for the request in the question's facts.
func (s *Set) Decide(q sallyport.PolicyQuestion) sallyport.PolicyAnswer {
	a, ok := s.ask(q)
	if !ok {
		return sallyport.PolicyAnswer{Forbidden: true}
	}
	return s.decide(&a)
}

// Explain implements sallyport.Policies.
func (s *Set) Explain(q sallyport.PolicyQuestion) sallyport.PolicyExplanation {
	a, ok := s.ask(q)
	if !ok {
		return noResource(q.Resource)
	}
	return s.explain(&a)
}

// asked is one question, with all that an answer depends on.
type asked struct {
	action    string
	principal types.EntityUID
	grants    *sallyport.Grants
	resource  types.EntityUID
	around    surroundings
}

// surroundings is what a context is made of.
type surroundings struct {
	now        time.Time
	mfa        bool
	signedIn   time.Time // zero: nobody did
	fresh      bool      // as if it had been just now
	addr       netip.Addr
	country    *string // nil: it is looked up
	method     string
	path       string
	credential sallyport.Kind
}

// ask finds out what a question is about. It is false if the resource has no id.
func (s *Set) ask(q sallyport.PolicyQuestion) (asked, bool) {
	c := q.Principal.Claims()
	a := asked{
		action: q.Action, principal: principalOf(c), grants: q.Principal.Grants(),
		around: surroundings{now: q.Facts.Now, mfa: c.MFA || q.MFA, signedIn: c.AuthTime, fresh: q.Fresh, credential: c.Kind},
	}
	value := func(string) string { return "" }
	route := ""
	if r := q.Facts.Request; r != nil {
		a.around.method, a.around.path = methodOf(r), r.URL.Path
		if c := reqctx.From(r.Context()); c != nil {
			a.around.addr = c.Addr()
		}
		value, route = r.PathValue, r.Pattern
	}
	var ok bool
	a.resource, ok = s.resource(q.Resource, value, route)
	return a, ok
}

// methodOf returns the method of the route: what serves GET serves HEAD too, and a
// policy about GET must not be passed by with HEAD. Only a route for HEAD alone is
// something else.
func methodOf(r *http.Request) string {
	if r.Method == http.MethodHead && !strings.HasPrefix(r.Pattern, http.MethodHead+" ") {
		return http.MethodGet
	}
	return r.Method
}

func principalOf(c sallyport.Claims) types.EntityUID {
	kind := types.EntityType(typeUser)
	if c.Client != "" && c.Client == c.Subject || c.Kind == sallyport.KindAPIKey && c.Key == c.Subject {
		kind = typeClient // it acts for itself, and so does a key of the configuration
	}
	return types.EntityUID{Type: kind, ID: types.String(c.Subject)}
}

// resource makes the entity of a resource. What the path says becomes a value,
// never a part of the language.
func (s *Set) resource(written string, value func(string) string, route string) (types.EntityUID, bool) {
	if written == "" {
		return types.EntityUID{Type: typeRoute, ID: types.String(route)}, true
	}
	known, ok := s.resources.Load(written)
	if !ok {
		r, err := sallyport.ParseResource(written)
		if err != nil {
			return types.EntityUID{}, false
		}
		known, _ = s.resources.LoadOrStore(written, r)
	}
	r := known.(sallyport.Resource)
	id, ok := r.ID(value)
	return types.EntityUID{Type: types.EntityType(r.Type), ID: types.String(id)}, ok
}

// view is what policies see of a principal's grants. Whose they are is not in it:
// many share one.
type view struct {
	roles      types.EntityUIDSet
	attributes types.Record
}

// of returns the attributes with an id.
func (v *view) of(id types.String) types.Record {
	m := v.attributes.Map()
	m["id"] = id
	return types.NewRecord(m)
}

// maxViews bounds how many are remembered.
const maxViews = 10_000

func (s *Set) view(g *sallyport.Grants) *view {
	if v, ok := s.views.Load(g); ok {
		return v.(*view)
	}
	var roles []types.EntityUID
	var roleNames, permissions []types.Value
	for _, name := range g.Roles().Names() {
		roles = append(roles, types.EntityUID{Type: typeRole, ID: types.String(name)})
		roleNames = append(roleNames, types.String(name))
	}
	for name := range g.Permissions().All() {
		permissions = append(permissions, types.String(name))
	}
	if g.Everything() {
		for _, name := range s.permissions {
			permissions = append(permissions, types.String(name))
		}
	}
	v := &view{
		roles: types.NewEntityUIDSet(roles...),
		attributes: types.NewRecord(types.RecordMap{
			"roles": types.NewSet(roleNames...), "permissions": types.NewSet(permissions...),
		}),
	}
	if s.held.Add(1) <= maxViews {
		s.views.Store(g, v)
	}
	return v
}

// entities is what Cedar can look up: the principal and the resource.
type entities struct {
	a    *asked
	view *view
	uses uses
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(uid types.EntityUID) (types.Entity, bool) {
	switch uid {
	case e.a.principal:
		found := types.Entity{UID: uid, Parents: e.view.roles, Attributes: e.view.attributes}
		if e.uses&useID != 0 {
			found.Attributes = e.view.of(uid.ID)
		}
		return found, true
	case e.a.resource:
		return types.Entity{UID: uid, Attributes: types.NewRecord(types.RecordMap{"id": uid.ID})}, true
	}
	return types.Entity{}, false
}

func actionUID(action string) types.EntityUID {
	return types.EntityUID{Type: typeAction, ID: types.String(action)}
}

// decide asks Cedar. Where Cedar passes over a policy that cannot be evaluated, we
// deny: it may be the one that forbids.
func (s *Set) decide(a *asked) sallyport.PolicyAnswer {
	b := s.bucket(a.action)
	if b == nil {
		return sallyport.PolicyAnswer{}
	}
	if b.broken {
		return sallyport.PolicyAnswer{Forbidden: true}
	}
	return authorize(b, &entities{a, s.view(a.grants), b.uses}, cedar.Request{
		Principal: a.principal, Action: actionUID(a.action), Resource: a.resource,
		Context: s.context(&a.around, b.uses),
	})
}

// authorize turns Cedar's answer into ours.
func authorize(policies cedar.PolicyIterator, e cedar.EntityGetter, r cedar.Request) sallyport.PolicyAnswer {
	decision, found := cedar.Authorize(policies, e, r)
	allowed := decision == cedar.Allow
	return sallyport.PolicyAnswer{
		Permitted: allowed && len(found.Errors) == 0,
		Forbidden: len(found.Errors) > 0 || !allowed && len(found.Reasons) > 0,
	}
}

// context makes as much of the context as is looked at. What is not known is left
// out: a policy that needs it cannot be evaluated, and denies.
func (s *Set) context(a *surroundings, want uses) types.Record {
	m := make(types.RecordMap, 9)
	if want&useMFA != 0 {
		m["mfa"] = types.Boolean(a.mfa)
	}
	if want&useTime != 0 {
		m["time"] = types.NewDatetime(a.now)
	}
	if want&useLocal != 0 {
		m["local"] = s.local(a.now)
	}
	// An IPv4 address is one in whatever form it came.
	addr := a.addr.Unmap().WithZone("")
	if want&useIP != 0 && addr.IsValid() {
		m["ip"] = types.IPAddr(netip.PrefixFrom(addr, addr.BitLen()))
	}
	if want&useCountry != 0 {
		country := ""
		switch {
		case a.country != nil:
			country = *a.country
		case s.place.Country != nil && addr.IsValid():
			country = s.place.Country(addr)
		}
		if country != "" {
			m["country"] = types.String(country)
		}
	}
	if want&useAuthAge != 0 {
		if age, ok := a.age(); ok {
			m["auth_age"] = types.Long(age)
		}
	}
	if want&useMethod != 0 {
		m["method"] = types.String(a.method)
	}
	if want&usePath != 0 && a.path != "" {
		m["path"] = types.String(a.path)
	}
	if want&useCredential != 0 {
		m["credential"] = types.String(a.credential)
	}
	return types.NewRecord(m)
}

// minute is what a clock on the wall shows, for one minute.
type minute struct {
	unix   int64 // in minutes
	record types.Record
}

// local returns the time as a clock in the zone shows it. Zones differ from UTC by
// whole minutes, nowadays: what it shows is the same for a minute.
func (s *Set) local(now time.Time) types.Record {
	unix := now.Unix() / 60
	if m := s.minute.Load(); m != nil && m.unix == unix {
		return m.record
	}
	t := now.In(s.place.Zone)
	m := &minute{unix, types.NewRecord(types.RecordMap{
		"hour": types.Long(t.Hour()), "minute": types.Long(t.Minute()), "weekday": types.Long((int(t.Weekday())+6)%7 + 1),
		"date": types.String(t.Format(time.DateOnly)), "zone": types.String(s.place.Zone.String()),
	})}
	s.minute.Store(m)
	return m.record
}

// age returns the seconds since the person signed in. A sign-in in the future is a
// clock that was set back: there is no age.
func (a *surroundings) age() (int64, bool) {
	if a.fresh {
		return 0, true
	}
	age := a.now.Sub(a.signedIn)
	if a.signedIn.IsZero() || age < -time.Second {
		return 0, false
	}
	return int64(max(age, 0) / time.Second), true
}
