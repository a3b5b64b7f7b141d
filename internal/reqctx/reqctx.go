// Package reqctx carries what is known about a request from the outermost
// handler to the innermost: its id, the caller's address and, once the first
// door has been passed, the principal. One carrier per request, so that a
// request is copied once and not by every layer.
package reqctx

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// Carrier is the context of one request. The outermost handler makes it, and the
// gate adds who is calling.
type Carrier struct {
	context.Context
	id        string
	address   string
	userAgent string
	admitted  atomic.Pointer[admission] // nil, or &own: a gate has been passed
	own       admission
}

// admission is what a gate found: a principal, and what confirms it.
type admission struct {
	principal sallyport.Principal
	guard     db.Guard
}

type key struct{}

// Value implements context.Context.
func (c *Carrier) Value(k any) any {
	switch k.(type) {
	case key, sallyport.CarrierKey:
		return c
	case db.GuardKey:
		if a := c.admitted.Load(); a != nil && a.guard != nil {
			return a.guard
		}
		return nil // of this request; not of one around it
	}
	return c.Context.Value(k)
}

// Principal implements sallyport.Carrier.
func (c *Carrier) Principal() sallyport.Principal {
	if a := c.admitted.Load(); a != nil {
		return a.principal
	}
	return sallyport.Principal{}
}

// Admit records who is calling, and what confirms it again inside a
// transaction. A carrier admits once: see Begin.
func (c *Carrier) Admit(p sallyport.Principal, g db.Guard) {
	c.own = admission{p, g}
	c.admitted.Store(&c.own)
}

// From returns the request's carrier, nil if there is none.
func From(ctx context.Context) *Carrier {
	c, _ := ctx.Value(key{}).(*Carrier)
	return c
}

// Begin returns the request with a carrier, making one if it has none, or if
// the one it has belongs to a request that passed a gate already: a handler
// that calls another route with its own context must not find itself to be the
// one it called as.
func Begin(r *http.Request) (*http.Request, *Carrier) {
	outer := From(r.Context())
	if outer != nil && outer.admitted.Load() == nil {
		return r, outer
	}
	c := &Carrier{Context: r.Context(), address: address(r), userAgent: clip(r.UserAgent(), 256)}
	if outer != nil {
		c.id = outer.id
	} else {
		c.id = requestID(r)
	}
	return r.WithContext(c), c
}

// Info is what an audit event says about where a change came from.
type Info struct {
	RequestID string
	Address   string // IP without port, "" when it did not come over the network
	UserAgent string
	Actor     string // id of the subject, or what else acted
	ActorKind string // user, anonymous, operator
}

// InfoFrom returns what is known. Without a request it is the operator's doing:
// the command line, or the program itself.
func InfoFrom(ctx context.Context) Info {
	c := From(ctx)
	if c == nil {
		name, _ := ctx.Value(operatorKey{}).(string)
		return Info{Actor: name, ActorKind: "operator"}
	}
	i := Info{RequestID: c.id, Address: c.address, UserAgent: c.userAgent, Actor: c.Principal().ID(), ActorKind: "user"}
	if i.Actor == "" {
		i.ActorKind = "anonymous"
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
func (c *Carrier) ID() string { return c.id }

// Address returns the peer's IP address.
func (c *Carrier) Address() string { return c.address }

// requestID keeps a caller's own id when it is 1 to 64 of [A-Za-z0-9._-].
func requestID(r *http.Request) string {
	if v := r.Header[sallyport.RequestIDHeader]; len(v) == 1 && validID(v[0]) {
		return v[0]
	}
	return newID()
}

// newID returns a UUIDv7. It names a request in logs and is no secret: a
// generator that costs nothing is good enough.
func newID() string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(time.Now().UnixMilli())<<16|rand.Uint64()>>48)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = 0x70 | id[6]&0x0f // version, RFC 9562
	id[8] = 0x80 | id[8]&0x3f // variant
	return id.String()
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

func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
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
