package sallyport

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
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

	// DecisionID names the decision that this refusal is, in the audit log and in
	// the answer. A 403 that has none is given one when it is answered.
	DecisionID string

	// Quota, with 429, is the quota that is used up until RetryAfter is over, as the
	// header RateLimit-Policy states it: its name in quotes, how many (q), and within
	// how many seconds (w), such as "sign-in";q=5;w=86400
	// (draft-ietf-httpapi-ratelimit-headers-10, section 3).
	Quota string
}

// Field is one member of a request that was refused. It never holds the value.
type Field struct {
	Pointer string `json:"pointer" doc:"JSON pointer (RFC 6901) into the body; “?name” for a query parameter; empty for the whole body" example:"/email"`
	Code    string `json:"code" doc:"Stable name of what is wrong" example:"required"`
	Detail  string `json:"detail" doc:"What would be right"`
}

// Error returns the code and the message, and what is wrong with each member.
func (e *Error) Error() string {
	s := e.Code + ": " + e.Message
	for _, f := range e.Fields {
		s += "\n" + strconv.Quote(f.Pointer) + " " + f.Code + ": " + f.Detail // a caller names members
	}
	return s
}

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

// Unavailable returns the error for something that a decision or a change
// needs and that cannot be reached: nothing is let in that cannot be checked,
// and nothing is acknowledged that is not stored.
func Unavailable() *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: time.Second,
		Message: "The service cannot reach its database. Try again in a moment.",
	}
}

// Invalid returns the 422 that names each member that is not valid.
func Invalid(fields ...Field) *Error {
	return &Error{
		Status: http.StatusUnprocessableEntity, Code: "validation_failed", Fields: fields,
		Message: "The request is not valid. “errors” names each member and what would be right.",
	}
}

// NotFound returns the 404 for a thing, which is also the answer for what the
// caller may not see.
func NotFound(what string) *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is no such " + what + "."}
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

// Problem is an Error as RFC 9457 problem details.
type Problem struct {
	Type      string  `json:"type" doc:"A URI for the code" example:"urn:sallyport:error:validation_failed"`
	Title     string  `json:"title" doc:"The HTTP status in words" example:"Unprocessable Entity"`
	Status    int     `json:"status" doc:"The HTTP status" example:"422"`
	Detail    string  `json:"detail" doc:"What happened and what to do, for a person"`
	Code      string  `json:"code" doc:"Stable name of the error" example:"validation_failed"`
	RequestID string  `json:"request_id,omitempty" doc:"The request's id, as in X-Request-Id"`
	Decision  string  `json:"decision_id,omitempty" doc:"With 403: names the decision in the audit log, where an administrator finds its reasons"`
	Errors    []Field `json:"errors,omitempty" doc:"What is wrong with each member of the request"`
}

// Problem returns e as problem details for the request with this id.
func (e *Error) Problem(requestID string) Problem {
	return Problem{
		Type: "urn:sallyport:error:" + e.Code, Title: http.StatusText(e.Status), Status: e.Status,
		Detail: e.Message, Code: e.Code, RequestID: requestID, Decision: e.Decision(), Errors: e.Fields,
	}
}

// Decision returns DecisionID, or a new one if this is a 403 without.
func (e *Error) Decision() string {
	if e.DecisionID == "" && e.Status == http.StatusForbidden {
		return NewDecisionID()
	}
	return e.DecisionID
}

// Decided returns e with a DecisionID if it is a 403, for whoever records the
// refusal: record and answer then name the same decision. e is not changed.
func (e *Error) Decided() *Error {
	id := e.Decision()
	if id == e.DecisionID {
		return e
	}
	c := *e
	c.DecisionID = id
	return &c
}

// NewDecisionID returns a UUID of version 7 (RFC 9562, section 5.7): ids of later
// decisions sort later.
func NewDecisionID() string {
	var id [16]byte
	_, _ = rand.Read(id[6:]) // it does not fail: crypto/rand
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return uuidText(id)
}

// WriteError answers with e as problem details. Challenges must have been added
// to the header before.
func WriteError(w http.ResponseWriter, e *Error) {
	h := w.Header()
	body, err := json.Marshal(e.Problem(h.Get(RequestIDHeader)))
	if err != nil { // strings and numbers always marshal
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

// SetRetryAfter sets Retry-After in whole seconds, rounded up, if e has one; and
// with a Quota, RateLimit-Policy and RateLimit, which says that none of it is
// left.
func (e *Error) SetRetryAfter(h http.Header) {
	if e.RetryAfter <= 0 {
		return
	}
	seconds := strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10)
	h.Set("Retry-After", seconds)
	if e.Quota != "" {
		name, _, _ := strings.Cut(e.Quota, ";")
		policy := e.Quota
		if before := h.Values("RateLimit-Policy"); len(before) > 0 { // of limits that it has passed
			policy = strings.Join(before, ", ") + ", " + policy
		}
		h.Set("RateLimit-Policy", policy)
		h.Set("RateLimit", name+";r=0;t="+seconds)
	}
}
