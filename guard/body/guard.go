package body

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// Defaults of a Config.
const (
	DefaultMax     = 1 << 20 // bytes
	DefaultTimeout = 30 * time.Second
)

// Config says which bodies a handler takes. The zero value takes 1 MiB within 30
// seconds, of any media type, not compressed.
type Config struct {
	// Max is the largest body, in bytes; default 1 MiB. Negative: no body at all.
	Max int64
	// Timeout is how long the whole body may take to arrive, from when the handler
	// is reached; default 30 seconds. Negative: as the server has it.
	Timeout time.Duration
	// Types are the media types that are taken, such as "image/png", without
	// parameters. Empty: all. With any, a body without a type is refused.
	Types []string
	// JSON takes application/json alone, reads all of it, and refuses what two
	// decoders could read in two ways (CheckJSON with DefaultMaxDepth). The handler
	// reads a copy in memory. Types must be empty.
	JSON bool
	// Encoded lets compressed bodies through. They are not decompressed here, and
	// Max bounds what arrives, not what it becomes.
	Encoded bool
}

// ConfigError is one mistake in a Config.
type ConfigError = sallyport.ConfigError

// Guard stands before handlers that read bodies.
type Guard struct{ cfg Config }

// New returns a Guard, or every mistake of the configuration at once, each a
// *ConfigError.
func New(cfg Config) (*Guard, error) {
	var errs []error
	bad := func(key, value, reason, fix string) { errs = append(errs, sallyport.Mistake(key, value, reason, fix)) }
	switch {
	case cfg.Max == 0:
		cfg.Max = DefaultMax
	case cfg.Max < 0:
		cfg.Max = 0
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	cfg.Types = slices.Clone(cfg.Types)
	for _, t := range cfg.Types {
		if parsed, params, err := mime.ParseMediaType(t); err != nil || len(params) > 0 || parsed != t || !strings.Contains(t, "/") || strings.Contains(t, "*") {
			bad("Types", t, "it is no media type", "Write it in lower case and without parameters, such as image/png.")
		}
	}
	if cfg.JSON {
		if len(cfg.Types) > 0 {
			bad("Types", strings.Join(cfg.Types, ", "), "JSON takes application/json alone", "Leave one of the two out.")
		}
		if cfg.Encoded {
			bad("Encoded", "true", "what is compressed cannot be checked as JSON", "Leave one of the two out.")
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return &Guard{cfg}, nil
}

// Check returns what is wrong with a request's body as far as its header tells:
// a *sallyport.Error, 413 "body_too_large" or 415 "unsupported_media_type". It
// reads nothing.
func (g *Guard) Check(r *http.Request) error {
	if r.ContentLength > g.cfg.Max {
		return tooLarge(g.cfg.Max)
	}
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if g.cfg.JSON {
		return MediaType(r, "application/json")
	}
	if !g.cfg.Encoded {
		if err := checkCoding(r); err != nil {
			return err
		}
	}
	if len(g.cfg.Types) == 0 {
		return nil
	}
	if lines := r.Header["Content-Type"]; len(lines) == 1 {
		if t, _, err := mime.ParseMediaType(lines[0]); err == nil && slices.Contains(g.cfg.Types, t) {
			return nil
		}
	}
	return unsupported("This accepts other kinds of body. Send one of " + strings.Join(g.cfg.Types, ", ") + ", with exactly one Content-Type header.")
}

// Handler refuses what Check refuses, and lets next read no more than Max bytes
// and no longer than Timeout: then its reads fail with an error that is a
// *sallyport.Error as ReadAll has it, and an *http.MaxBytesError if it was too
// large. A Guard further in has the last word, but for what is declared to be too large.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, err := g.admit(w, r)
		if err != nil {
			sallyport.WriteError(w, sallyport.AsError(err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *Guard) admit(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	if err := g.Check(r); err != nil {
		return nil, err
	}
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	if g.cfg.Timeout > 0 {
		// Where the connection has no deadlines there is nothing to bound.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.cfg.Timeout))
	}
	r = Bound(r, g.cfg.Max)
	if !g.cfg.JSON {
		return r, nil
	}
	b, err := ReadAll(r, g.cfg.Max)
	if err != nil {
		return nil, err
	}
	if err := CheckJSON(b, DefaultMaxDepth); err != nil {
		if j, ok := errors.AsType[*JSONError](err); ok {
			return nil, j.Refusal()
		}
		return nil, err
	}
	inner := *r
	inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	return &inner, nil
}

// Bound returns a request of whose body no more than limit bytes can be read; if
// more are declared, none. Nothing is refused before the body is read, so that it
// may stand before all handlers of a program: a Guard, ReadAll or Bound further
// in has the last word, and may allow more.
func Bound(r *http.Request, limit int64) *http.Request {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return r
	}
	limit = max(limit, 0)
	b := &bounded{raw: unbound(r.Body), max: limit, left: limit}
	if r.ContentLength > limit {
		b.err = newTooLarge(limit)
	}
	inner := *r
	inner.Body = b
	return &inner
}

// unbound returns the body within a bound that stands further out.
func unbound(body io.ReadCloser) io.ReadCloser {
	if b, ok := body.(*bounded); ok {
		return b.raw
	}
	return body
}

// bounded is a body that ends in an error after max bytes.
type bounded struct {
	raw       io.ReadCloser
	max, left int64
	err       error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	// One byte more tells a body that ends here from one that goes on.
	if int64(len(p))-1 > b.left {
		p = p[:b.left+1]
	}
	n, err := b.raw.Read(p)
	if int64(n) > b.left {
		n, b.left = int(b.left), 0
		b.err = newTooLarge(b.max)
		return n, b.err
	}
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		err = &readError{unreadable(err, b.max), err}
	}
	b.err = err
	return n, err
}

func (b *bounded) Close() error { return b.raw.Close() }

// tooLargeError is what callers may see, and what handlers that know net/http
// look for.
type tooLargeError struct {
	error
	max *http.MaxBytesError
}

func newTooLarge(limit int64) error {
	return &tooLargeError{tooLarge(limit), &http.MaxBytesError{Limit: limit}}
}

func (e *tooLargeError) Unwrap() []error { return []error{e.error, e.max} }

// readError is what callers may see, and what net/http found.
type readError struct {
	error
	cause error
}

func (e *readError) Unwrap() []error { return []error{e.error, e.cause} }
