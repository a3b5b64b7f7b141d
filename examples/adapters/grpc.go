package adapters

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport"
)

// GRPC enforces rules in front of gRPC methods. The credential is read from the
// metadata authorization (“Bearer …”) and x-api-key. A method without a rule is
// refused. Handlers find who calls with sallyport.From(ctx).
//
// A refusal is Unauthenticated, PermissionDenied, InvalidArgument (two credentials),
// ResourceExhausted (too many guesses) or Unavailable, with an ErrorInfo whose reason
// is the stable code.
type GRPC struct {
	through map[string]func(http.Handler) http.Handler // by full method
}

// NewGRPC takes rules by full method, as in “/grpc.health.v1.Health/Check”. Like a Mux
// it panics on a rule that is not valid.
func NewGRPC(gate sallyport.Gate, rules map[string]sallyport.Rule) *GRPC {
	g := &GRPC{through: map[string]func(http.Handler) http.Handler{}}
	for method, rule := range rules {
		if err := rule.Check(); err != nil {
			panic(fmt.Sprintf("the rule of %s: %v", method, err))
		}
		g.through[method] = gate.Require(rule)
	}
	return g
}

// Check returns an error that names every method of s without a rule, and every rule
// without a method. Call it when all services are registered, before s serves.
func (g *GRPC) Check(s *grpc.Server) error {
	var errs []error
	served := map[string]bool{}
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			if served[name] = true; g.through[name] == nil {
				errs = append(errs, fmt.Errorf("%s has no rule", name))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.through)) {
		if !served[name] {
			errs = append(errs, fmt.Errorf("there is a rule for %s, which is not served", name))
		}
	}
	return errors.Join(errs...)
}

// Unary is for grpc.UnaryInterceptor.
func (g *GRPC) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	err = g.call(ctx, info.FullMethod, func(ctx context.Context) error {
		answer, err = handler(ctx, req)
		return err
	})
	return answer, err
}

// Stream is for grpc.StreamInterceptor. It decides when the stream begins: one that
// lasts goes on when its caller is signed out, until it ends.
func (g *GRPC) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return g.call(ss.Context(), info.FullMethod, func(ctx context.Context) error {
		return handler(srv, stream{ss, ctx})
	})
}

// stream is a stream whose context has the principal.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// credentialsIn is where a credential may stand in the metadata.
var credentialsIn = []string{"authorization", "x-api-key"}

// call leads a call through the gate, which is one for HTTP: it is shown the caller's
// address and credentials, and runs f or words a refusal.
func (g *GRPC) call(ctx context.Context, method string, f func(context.Context) error) error {
	through := g.through[method]
	if through == nil {
		return status.Error(codes.PermissionDenied, "This method has no rule, so that nobody may call it.")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, method, nil)
	if err != nil {
		return status.Error(codes.InvalidArgument, "The method is not valid.")
	}
	r.Pattern = method // what the audit log calls the route
	md, _ := metadata.FromIncomingContext(ctx)
	for _, name := range credentialsIn {
		if values := md.Get(name); len(values) > 0 {
			r.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			r.TLS = new(tls.ConnectionState)
			*r.TLS = info.State
		}
	}
	c := &call{f: f, err: status.Error(codes.Internal, "The gate gave no answer.")}
	through(c).ServeHTTP(nowhere{}, r)
	return c.err
}

// call is what the gate stands before. It words refusals itself (authn.Refuser).
type call struct {
	f   func(context.Context) error
	err error
}

func (c *call) ServeHTTP(_ http.ResponseWriter, r *http.Request) { c.err = c.f(r.Context()) }

// Refuse is called in place of ServeHTTP.
func (c *call) Refuse(_ http.ResponseWriter, _ *http.Request, e *sallyport.Error) {
	code, ok := map[int]codes.Code{
		http.StatusUnauthorized: codes.Unauthenticated, http.StatusForbidden: codes.PermissionDenied, http.StatusBadRequest: codes.InvalidArgument,
		http.StatusTooManyRequests: codes.ResourceExhausted, http.StatusServiceUnavailable: codes.Unavailable,
	}[e.Status]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, e.Message)
	if with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: e.Code, Domain: "sallyport"}); err == nil {
		st = with
	}
	c.err = st.Err()
}

// nowhere takes the headers that a gate for HTTP would answer with.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}
