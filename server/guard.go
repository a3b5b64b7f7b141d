package server

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/body"
	"github.com/sallyport/sallyport/guard/host"
	"github.com/sallyport/sallyport/internal/reqctx"
)

var closeConnection = []string{"close"}

// Guard is the wall around a whole handler. It gives the request its id, finds
// out whose it is (the client's address, behind declared proxies), sets the
// headers that every answer has, and refuses what is addressed to somebody else,
// came in clear where HTTPS is meant, or comes too often; it lets pages of
// allowed origins read answers, bounds bodies, answers for handlers that panic,
// and logs. It looks at no credential: that is for the gates within.
//
// One Guard may stand within another, as where what is mounted has its own: the
// request keeps its id, each finds the address by its own configuration, and the
// limit on all requests counts it at each.
//
// Health routes are answered whatever their host, to everybody: who asks them is
// on the same machine or in the same cluster, and knows no name.
func (s *Server) Guard(next http.Handler) http.Handler {
	question := s.wall.within(next) // no page reads what a proxy is answered, and a preflight is to be decided on
	within := s.wall.cors.Handler(question)
	var inClear http.Handler // refuses
	if s.wall.policy != nil {
		inClear = s.wall.policy.Handler(http.NotFoundHandler())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := new(struct {
			carrier  reqctx.Carrier
			recorder recorder
		})
		seen := s.wall.clients.Resolve(r)
		var traced func(string, int)
		if s.cfg.Trace != nil && !s.wall.isHealth(r) { // somebody asks every few seconds
			var ctx context.Context
			ctx, traced = s.cfg.Trace(r, s.wall.clients.FromProxy(r))
			r = r.WithContext(ctx)
		}
		r, carrier := reqctx.BeginIn(&own.carrier, r)
		carrier.SetClient(seen.Addr, seen.HTTPS)
		r = body.Bound(r, s.wall.maxBody) // before the log has it, which reads the route that is found for it
		h := w.Header()
		h["X-Request-Id"] = carrier.Header()
		s.wall.headers.Set(h)
		if s.wall.policy != nil && seen.HTTPS {
			s.wall.policy.SetHeader(h)
		}
		if len(r.TransferEncoding) > 0 {
			// It may have had a Content-Length too, which net/http drops unseen:
			// two readers can differ on where such a message ends, so nothing
			// behind it is read (RFC 9112, 6.3).
			h["Connection"] = closeConnection
		}
		if s.undeclared.CompareAndSwap(true, false) {
			s.declareBehind()
		}
		if seen.Ignored != "" {
			s.wall.proxies.note(r, seen, s.cfg.Log)
		}
		rec := &own.recorder
		rec.ResponseWriter = w
		proxy, asked := s.wall.asksForward(r)
		if asked {
			rec.ResponseWriter = &toProxy{ResponseWriter: w, nginx: proxy == "nginx"}
		}
		var began time.Time
		if s.cfg.Metrics || s.cfg.Log.Enabled(r.Context(), slog.LevelInfo) {
			began = time.Now()
		}
		defer s.finish(rec, r, carrier, began, traced)
		switch {
		case s.wall.isHealth(r):
			next.ServeHTTP(rec, r)
		case !s.wall.hosts.Check(r.Host) && !(asked && s.wall.clients.FromProxy(r)):
			sallyport.WriteError(rec, host.Refusal())
		case inClear != nil && !seen.HTTPS && r.Method == http.MethodOptions:
			// A preflight that is allowed is followed by the request, with its
			// credential, in clear.
			inClear.ServeHTTP(rec, r)
		case asked:
			question.ServeHTTP(rec, r)
		default:
			within.ServeHTTP(rec, r)
		}
	})
}

// finish answers for a handler that panicked, counts, and logs.
func (s *Server) finish(rec *recorder, r *http.Request, c *reqctx.Carrier, began time.Time, traced func(string, int)) {
	if traced != nil {
		defer func() { traced(r.Pattern, rec.status) }() // also where the panic goes on
	}
	if p := recover(); p != nil {
		if p == http.ErrAbortHandler {
			panic(p)
		}
		s.cfg.Log.ErrorContext(r.Context(), "a handler panicked", "panic", fmt.Sprint(p), "request_id", c.ID(),
			"method", r.Method, "route", reqctx.Route(r), "stack", string(debug.Stack()))
		if rec.status != 0 {
			panic(http.ErrAbortHandler) // half an answer must not look like a whole one
		}
		sallyport.WriteError(rec, sallyport.Internal())
	}
	if began.IsZero() {
		return
	}
	took := time.Since(began)
	if s.cfg.Metrics {
		s.requests.Add(reqctx.Route(r), rec.status, took)
	}
	level := slog.LevelInfo
	if rec.status < 400 && (r.Pattern == livez || r.Pattern == readyz) {
		level = slog.LevelDebug // somebody asks every few seconds
	}
	if log := s.cfg.Log; log.Enabled(r.Context(), level) {
		log.Log(r.Context(), level, "request", "method", r.Method, "route", reqctx.Route(r), "status", rec.status,
			"duration_ms", float64(took.Microseconds())/1000, "request_id", c.ID(), "address", c.Address(), "subject", c.Principal().ID())
	}
}

// recorder remembers the status of a response. It hides nothing: Unwrap gives
// http.ResponseController the writer beneath.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// FlushError lets http.ResponseController flush, and counts as an answer.
func (r *recorder) FlushError() error {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return http.NewResponseController(r.ResponseWriter).Flush()
}

// Flush implements http.Flusher, which many handlers ask for.
func (r *recorder) Flush() { _ = r.FlushError() }

// Hijack implements http.Hijacker. What follows is no longer HTTP.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.status = http.StatusSwitchingProtocols
	}
	return c, rw, err
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}
