// Package reqctx carries what is known about a request from the outermost
// handler to the innermost: its id, the caller's address and, once the first
// door has been passed, the principal. One carrier per request, so that a
// request is copied once and not by every layer.
package reqctx

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/live"
)

// Carrier is the context of one request. The outermost handler makes it, and the
// gate adds who is calling. It is kept small: every request pays for its bytes.
type Carrier struct {
	req      *http.Request // as it came: its context, header and peer
	routed   *http.Request // as it left the gate: its route and path values
	outer    *Carrier      // whose id is this one's
	addr     netip.Addr    // the client's; not valid: the peer's
	named    sync.Once
	id       [1]string   // what a header holds; read it by Header
	https    bool        // the client's connection
	entered  atomic.Bool // a gate has it
	admitted atomic.Bool // and own is complete
	own      Admission
}

var _ context.Context = (*Carrier)(nil)

// Admission is what a gate found: who is calling, and what they are let in by. The
// zero one is anonymous.
type Admission struct {
	live.Found // if Known is set
	// Full is somebody whom the cache cannot know.
	Full   *sallyport.Principal
	By     Checker // nil: there is nothing to look at again
	Scheme int32   // the gate's number of it
	// Applied tells that there was a policy about what was asked for: who gains a role
	// may lose by it.
	Applied bool
	// Policies is the version of the policies that were asked; 0: none were.
	Policies int64
}

// Principal returns who is calling.
func (a *Admission) Principal() sallyport.Principal {
	switch {
	case a.Full != nil:
		return *a.Full
	case a.Known != nil:
		return a.Found.Principal()
	}
	return sallyport.Principal{}
}

// Checker looks again inside a transaction. alone tells that only the credential
// matters, not what its subject may do.
type Checker interface {
	Check(tx *db.Tx, a *Admission, alone bool) error
}

type key struct{}

// Value implements context.Context.
func (c *Carrier) Value(k any) any {
	switch k.(type) {
	case key, sallyport.CarrierKey:
		return c
	case db.GuardKey:
		if c.admitted.Load() && c.own.By != nil {
			return c
		}
		return nil // of this request; not of one around it
	}
	return c.req.Context().Value(k)
}

// Deadline implements context.Context.
func (c *Carrier) Deadline() (time.Time, bool) { return c.req.Context().Deadline() }

// Done implements context.Context.
func (c *Carrier) Done() <-chan struct{} { return c.req.Context().Done() }

// Err implements context.Context.
func (c *Carrier) Err() error { return c.req.Context().Err() }

// Principal implements sallyport.Carrier.
func (c *Carrier) Principal() sallyport.Principal {
	if c.admitted.Load() {
		return c.own.Principal()
	}
	return sallyport.Principal{}
}

// Own is where the gate writes what it finds, and Admit makes it known. A carrier
// admits once: see Enter.
func (c *Carrier) Own() *Admission { return &c.own }

// Admit makes known who is calling and what let them in. r is the request as the
// gate has it.
func (c *Carrier) Admit(r *http.Request) {
	c.routed = r
	c.admitted.Store(true)
}

// Admitted returns the request that a gate has admitted, nil if none has.
func (c *Carrier) Admitted() *http.Request {
	if c.admitted.Load() {
		return c.routed
	}
	return nil
}

// OuterPolicies returns the version of the policies by which the request was let in
// that this one is part of, 0 if none were asked, and whether any applied.
func (c *Carrier) OuterPolicies() (version int64, applied bool) {
	for o := c.outer; o != nil; o = o.outer {
		if o.admitted.Load() && o.own.Policies != 0 {
			return o.own.Policies, o.own.Applied
		}
	}
	return 0, false
}

// Check implements db.Guard: it looks again, inside a transaction that is made
// for this request, whether what let it in still holds. A request may be under
// way for as long as its body takes; what it changes is decided by what its
// caller may do when it is changed.
func (c *Carrier) Check(tx *db.Tx) error {
	return c.own.By.Check(tx, &c.own, false)
}

// leaving is the guard of what gives authority up and needs none.
type leaving struct{ *Carrier }

// Check implements db.Guard.
func (l leaving) Check(tx *db.Tx) error {
	return l.own.By.Check(tx, &l.own, true)
}

// Leaving returns a context for ending one's own sessions: that must not fail
// because roles change meanwhile.
func Leaving(ctx context.Context) context.Context {
	if c, ok := ctx.Value(db.GuardKey{}).(*Carrier); ok {
		return context.WithValue(ctx, db.GuardKey{}, leaving{c})
	}
	return ctx
}

// Stamp returns the stamp under which the caller was found, 0 if there is none:
// what is derived from the caller's account and remembered under a stamp is good
// for as long as requests carry it.
func Stamp(ctx context.Context) uint64 {
	if c := From(ctx); c != nil && c.admitted.Load() {
		return c.own.Stamp
	}
	return 0
}

// From returns the request's carrier, nil if there is none.
func From(ctx context.Context) *Carrier {
	c, _ := ctx.Value(key{}).(*Carrier)
	return c
}

// Begin returns the request with a carrier, making one if it has none that a
// gate could still use: see Enter.
func Begin(r *http.Request) (*http.Request, *Carrier) {
	outer := From(r.Context())
	if outer != nil && !outer.entered.Load() {
		return r, outer
	}
	return begin(r, outer, new(Carrier))
}

// BeginIn returns the request with a carrier of its own, in c, for who makes
// known whose it is (SetClient). One within another request has the id of that, and
// leaves it whose it is: a handler may send requests of its own, several at once.
func BeginIn(c *Carrier, r *http.Request) (*http.Request, *Carrier) {
	return begin(r, From(r.Context()), c)
}

func begin(r *http.Request, outer, c *Carrier) (*http.Request, *Carrier) {
	c.req, c.outer = r, outer
	return r.WithContext(c), c
}

// Enter is Begin for a gate, which writes what it finds into the carrier. Every
// gate has a carrier of its own: a handler that calls another route with its own
// context, or several at once, must not find itself to be the one it called as.
func Enter(r *http.Request) (*http.Request, *Carrier) {
	for {
		r, c := Begin(r)
		if c.entered.CompareAndSwap(false, true) {
			return r, c
		}
	}
}

// Info is what an audit event says about where a change came from.
type Info struct {
	RequestID string
	Address   string // IP without port, "" when it did not come over the network
	UserAgent string
	Session   string // that the request came with
	Actor     string // id of the subject, or what else acted
	ActorKind string // user, api_key (of that user), client, anonymous, operator
	Key       string // id of the API key that the request came with
}

// InfoFrom returns what is known. Without a request it is the operator's doing:
// the command line, or the program itself.
func InfoFrom(ctx context.Context) Info {
	c := From(ctx)
	if c == nil {
		name, _ := ctx.Value(operatorKey{}).(string)
		return Info{Actor: name, ActorKind: "operator"}
	}
	p := c.Principal()
	i := Info{RequestID: c.ID(), Address: c.Address(), Session: p.SessionID(), Actor: p.ID(), ActorKind: "user"}
	if ua := c.req.Header["User-Agent"]; len(ua) > 0 {
		i.UserAgent = clip(ua[0], 256)
	}
	switch {
	case p.Anonymous():
		i.ActorKind = "anonymous"
	case p.Kind() == sallyport.KindAPIKey:
		i.ActorKind, i.Key = "api_key", p.KeyID()
	case p.Claims().Client == i.Actor: // a machine client acts for itself
		i.ActorKind = "client"
	}
	return i
}

type operatorKey struct{}

// AsOperator names the operator that acts without a request.
func AsOperator(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, operatorKey{}, name)
}

// Route names the route of a request for a log: its pattern, because a path is
// what a caller made of it, and may hold a token that was put in the wrong
// place.
func Route(r *http.Request) string {
	if r.Pattern == "" {
		return "(none)"
	}
	return r.Pattern
}

// ID returns the request's id.
func (c *Carrier) ID() string { return c.Header()[0] }

// Header returns the id as the value of a header. It is made when it is first
// asked for: a caller's own if that is 1 to 64 of [A-Za-z0-9._-].
func (c *Carrier) Header() []string {
	c.named.Do(func() {
		asked := c.req.Header[sallyport.RequestIDHeader]
		switch {
		case c.outer != nil:
			c.id[0] = c.outer.ID()
		case len(asked) == 1 && validID(asked[0]):
			c.id[0] = asked[0]
		default:
			c.id[0] = newID()
		}
	})
	return c.id[:]
}

// SetClient makes known what the client's address is, and whether its connection
// is HTTPS. The outermost handler calls it before it hands the request on.
func (c *Carrier) SetClient(a netip.Addr, https bool) { c.addr, c.https = a, https }

// HTTPS reports whether the client's connection is HTTPS, as far as is known.
func (c *Carrier) HTTPS() bool {
	switch {
	case c.addr.IsValid() || c.https:
		return c.https
	case c.outer != nil:
		return c.outer.HTTPS()
	}
	return c.req.TLS != nil
}

// Addr returns the client's IP address: what SetClient was given, otherwise the
// peer's. It is not valid for a request that did not come over the network.
func (c *Carrier) Addr() netip.Addr {
	switch {
	case c.addr.IsValid():
		return c.addr
	case c.outer != nil:
		return c.outer.Addr()
	}
	peer, err := netip.ParseAddrPort(c.req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// AddrOf returns the client's IP address of the request that ctx belongs to. It is
// not valid if there is none.
func AddrOf(ctx context.Context) netip.Addr {
	if c := From(ctx); c != nil {
		return c.Addr()
	}
	return netip.Addr{}
}

// Address returns Addr as text, "" if it is not valid.
func (c *Carrier) Address() string {
	if a := c.Addr(); a.IsValid() {
		return a.String()
	}
	return ""
}

// newID returns 26 random characters. It names a request in logs and is no
// secret: a generator that costs nothing is good enough.
func newID() string {
	const alphabet = "0123456789abcdefghijklmnopqrstuv"
	var id [26]byte
	for i, bits := 0, uint64(0); i < len(id); i++ {
		if i%13 == 0 {
			bits = rand.Uint64()
		}
		id[i] = alphabet[bits&31]
		bits >>= 5
	}
	return string(id[:])
}

func validID(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// clip cuts what a caller sent to n bytes at most, without control characters.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	out := []byte(s)
	for i, c := range out {
		if c < 0x20 || c >= 0x7f {
			out[i] = '?'
		}
	}
	return string(out)
}
