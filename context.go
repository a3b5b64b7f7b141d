package sallyport

import "context"

// CarrierKey is the context key under which a request's Carrier is found.
type CarrierKey struct{}

// Carrier carries the principal through a request. The server's own carries
// more (see internal/reqctx); NewContext makes the plain one.
type Carrier interface{ Principal() Principal }

// From returns the principal of a request's context. Without one it returns
// the zero Principal, which is anonymous.
func From(ctx context.Context) Principal {
	if c, ok := ctx.Value(CarrierKey{}).(Carrier); ok {
		return c.Principal()
	}
	return Principal{}
}

type plainCarrier struct {
	context.Context
	p Principal
}

func (c *plainCarrier) Principal() Principal { return c.p }

func (c *plainCarrier) Value(key any) any {
	if key == (CarrierKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// NewContext returns a context in which From finds p.
func NewContext(ctx context.Context, p Principal) context.Context {
	return &plainCarrier{Context: ctx, p: p}
}
