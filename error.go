package sallyport

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Error is a refusal that a caller may see: a stable code and a message fit
// for anybody. The real reason, where it differs, goes to the audit log and
// the operator's log. Any other error is answered as "internal".
type Error struct {
	Status  int    // HTTP status
	Code    string // stable, snake_case; listed in docs/errors.md
	Message string // a sentence or two: what happened, and what to do
	Fields  []Field

	// What a retry needs, for the challenge (RFC 6750, RFC 9470) and headers.
	Scope      []string      // scopes the credential lacks
	MFA        bool          // a second factor
	MaxAge     time.Duration // a sign-in not older than this
	RetryAfter time.Duration // with 429 and 503
}

// Field is one member of a request that was refused. It never holds the value.
type Field struct {
	Pointer string `json:"pointer"` // RFC 6901, "" is the whole body
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// GetStatus returns the HTTP status; it lets typed operations return an Error.
func (e *Error) GetStatus() int { return e.Status }

// Unauthenticated returns the one 401 for a credential that is missing,
// malformed, expired, forged, revoked or unknown: nobody learns which.
func Unauthenticated() *Error {
	return &Error{
		Status: http.StatusUnauthorized, Code: "unauthenticated",
		Message: "A valid credential is required. Sign in and send the access token as “Authorization: Bearer …”.",
	}
}

// Internal returns the error for everything that is not the caller's fault.
func Internal() *Error {
	return &Error{
		Status: http.StatusInternalServerError, Code: "internal",
		Message: "Something went wrong on our side. Nothing was changed. Try again, and give the request_id to the operator if it stays.",
	}
}

// AsError returns err as an *Error, or Internal for any other error.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Internal()
}

// RequestIDHeader is the response header that carries the request's id.
const RequestIDHeader = "X-Request-Id"

type problem struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail"`
	Code      string  `json:"code"`
	RequestID string  `json:"request_id,omitempty"`
	Errors    []Field `json:"errors,omitempty"`
}

// WriteError answers with e as RFC 9457 problem details. Challenges must have
// been added to the header before.
func WriteError(w http.ResponseWriter, e *Error) {
	h := w.Header()
	body, err := json.Marshal(problem{
		Type:      "urn:sallyport:error:" + e.Code,
		Title:     http.StatusText(e.Status),
		Status:    e.Status,
		Detail:    e.Message,
		Code:      e.Code,
		RequestID: h.Get(RequestIDHeader),
		Errors:    e.Fields,
	})
	if err != nil { // strings and an int always marshal
		panic(err)
	}
	e.SetRetryAfter(h)
	h.Del("Etag")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	_, _ = w.Write(body)
}

// SetRetryAfter sets Retry-After in whole seconds, rounded up, if e has one.
func (e *Error) SetRetryAfter(h http.Header) {
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
}
