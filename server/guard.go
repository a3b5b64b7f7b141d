package server

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Headers that every response has, errors included. A page that needs another
// policy sets its own.
var (
	noSniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}

	closeConnection = []string{"close"}
)

// Guard is the outermost handler: request ids, security headers, the log, and
// an answer when a handler panics. Everything that is served should be inside
// it.
func (s *Server) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := new(struct {
			carrier  reqctx.Carrier
			recorder recorder
		})
		r, carrier := reqctx.BeginIn(&own.carrier, r)
		h := w.Header()
		h["X-Request-Id"] = carrier.Header()
		h["X-Content-Type-Options"] = noSniff
		h["Referrer-Policy"] = noReferrer
		h["Content-Security-Policy"] = noContent
		if len(r.TransferEncoding) > 0 {
			// It may have had a Content-Length too, which net/http drops unseen:
			// two readers can differ on where such a message ends, so nothing
			// behind it is read (RFC 9112, 6.3).
			h["Connection"] = closeConnection
		}
		if s.undeclared.CompareAndSwap(true, false) {
			s.declareBehind()
		}
		rec := &own.recorder
		rec.ResponseWriter = w
		var began time.Time
		if s.cfg.Log.Enabled(r.Context(), slog.LevelInfo) {
			began = time.Now()
		}
		defer s.finish(rec, r, carrier, began)
		next.ServeHTTP(rec, r)
	})
}

// finish answers for a handler that panicked, and logs.
func (s *Server) finish(rec *recorder, r *http.Request, c *reqctx.Carrier, began time.Time) {
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
	level := slog.LevelInfo
	if rec.status < 400 && (r.Pattern == livez || r.Pattern == readyz) {
		level = slog.LevelDebug // somebody asks every few seconds
	}
	if log := s.cfg.Log; !began.IsZero() && log.Enabled(r.Context(), level) {
		log.Log(r.Context(), level, "request", "method", r.Method, "route", reqctx.Route(r), "status", rec.status,
			"duration_ms", float64(time.Since(began).Microseconds())/1000, "request_id", c.ID(), "address", c.Address(), "subject", c.Principal().ID())
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
