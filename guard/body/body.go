// Package body decides whether a request's body may be looked at: its declared
// type (MediaType), its size (ReadAll), and whether its text means the same to
// every reader (CheckJSON, ParseForm). A Guard does it for a whole handler. It is
// for any net/http program.
//
// The checks are there because the usual decoders are obliging. encoding/json
// takes "ALG" for "alg", keeps the last of two members and turns broken text
// into U+FFFD; url.ParseQuery collects repeated fields; and a filter in front
// that reads the same bytes differently can be walked around. A body that two
// decoders could read in two ways is refused here, and what passes may be given
// to encoding/json.
//
// The package stores nothing and keeps no state between calls. It never logs,
// never puts any part of a body into an error, never reads more than it was
// allowed to, and never decodes or decompresses: what a value means is for the
// caller.
//
// Begin with New, and put the Guard that it makes around everything that is served.
// ReadAll, CheckJSON and ParseForm are for handlers.
package body

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
)

// ReadAll reads the body of a request, at most limit bytes of it.
//
// A declared length above limit is refused before a byte is read, so that a
// client that waits for "100 Continue" never sends them; a body of undeclared
// length is cut off at limit+1 bytes. Memory grows with what has arrived, not
// with what was declared, to at most twice limit.
//
// The error is a *sallyport.Error: 413 "body_too_large", 408 "body_timeout" if
// the server's read deadline passed, or 400 "body_unreadable" for everything
// else, such as a connection that ended in the middle. What net/http found is
// not passed on: it may quote the request.
func ReadAll(r *http.Request, limit int64) ([]byte, error) {
	limit = max(limit, 0)
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if r.Body == nil {
		return nil, nil
	}
	in := unbound(r.Body)
	// With the length known, one byte more lets the last read meet the end
	// without growing.
	size := int64(512)
	if r.ContentLength >= 0 {
		size = min(r.ContentLength+1, 16<<10)
	}
	b := make([]byte, 0, size)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		free := b[len(b):cap(b)]
		if left := limit - int64(len(b)); int64(len(free))-1 > left {
			free = free[:left+1]
		}
		n, err := in.Read(free)
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return nil, tooLarge(limit)
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, unreadable(err, limit)
		}
	}
}

func tooLarge(limit int64) error {
	return &sallyport.Error{
		Status: http.StatusRequestEntityTooLarge, Code: "body_too_large",
		Message: "The body is larger than the " + strconv.FormatInt(limit, 10) + " bytes accepted here. Send less at a time.",
	}
}

func unreadable(err error, limit int64) error {
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok { // a stricter bound further out
		return tooLarge(min(e.Limit, limit))
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return &sallyport.Error{
			Status: http.StatusRequestTimeout, Code: "body_timeout",
			Message: "The body did not arrive in time. Send the request again.",
		}
	}
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "body_unreadable",
		Message: "The body could not be read to its end. Send the request again, complete and with the right Content-Length.",
	}
}

// MediaType returns nil if the request declares exactly the media type want,
// such as "application/json", without regard to case, and no content coding.
// The only parameter it accepts is charset=utf-8.
//
// It is stricter than mime.ParseMediaType because the type is a defence: a
// browser sends application/json to another origin only after a CORS preflight,
// while text/plain and forms travel freely. So there must be exactly one
// Content-Type line, and no list, no second parameter, no continuation
// (RFC 2231), nothing that another reader could take for a different type.
// A compressed body is refused since its size says nothing about what it
// becomes.
//
// The error is a *sallyport.Error: 415 "unsupported_media_type", and says what
// would be right. A request without a body is refused as well unless it
// declares the type; whether a body is needed at all is for the caller.
func MediaType(r *http.Request, want string) error {
	if err := checkCoding(r); err != nil {
		return err
	}
	lines := r.Header["Content-Type"]
	if len(lines) == 1 && isType(lines[0], want) {
		return nil
	}
	return unsupported("This accepts one kind of body. Send it as " + want + ", with exactly one header “Content-Type: " + want + "”.")
}

func checkCoding(r *http.Request) error {
	for _, coding := range r.Header["Content-Encoding"] {
		if !equalFold(strings.Trim(coding, " \t"), "identity") {
			return unsupported("The body must not be compressed or otherwise encoded. Send it without Content-Encoding.")
		}
	}
	return nil
}

func isType(line, want string) bool {
	mediaType, param, hasParam := strings.Cut(line, ";")
	if !equalFold(strings.Trim(mediaType, " \t"), want) {
		return false
	}
	if !hasParam {
		return true
	}
	// RFC 9110, section 5.6.6: no white space around "=", the value may be
	// quoted.
	name, value, _ := strings.Cut(strings.Trim(param, " \t"), "=")
	return equalFold(name, "charset") &&
		(equalFold(value, "utf-8") || equalFold(value, `"utf-8"`))
}

// equalFold compares with an ASCII word without regard to ASCII case. The
// lengths keep out the long s and the Kelvin sign, which fold to ASCII but are
// longer.
func equalFold(s, word string) bool { return len(s) == len(word) && strings.EqualFold(s, word) }

func unsupported(message string) error {
	return &sallyport.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: message}
}
