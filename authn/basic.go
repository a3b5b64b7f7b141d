package authn

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// Basic is the scheme of RFC 7617: a name and password with every request. It
// counts only where a rule names it (Via), unless it is switched on for all
// routes. A password is hashed once and not at every request.
//
// A browser that was told a password once sends it by itself, as it does cookies.
type Basic struct {
	*SameOrigin
	// Password checks a name and password, and Account confirms who they belong
	// to.
	Password func(ctx context.Context, name, password string) (Verified, error)
	Account  func(db.Reader, Verified) (State, error)
}

var (
	_ Scheme     = Basic{}
	_ guessable  = Basic{}
	_ Restricted = Basic{}
)

// maxBasic bounds the header: a name, the longest password there is, and some.
const maxBasic = 16 << 10

// Kind implements Scheme.
func (Basic) Kind() sallyport.Kind { return sallyport.KindBasic }

// guessable implements the interface of that name: a password may be short.
func (Basic) guessable() {}

// Read implements Scheme.
func (Basic) Read(r *http.Request) (string, bool, error) {
	text, found := BasicHeader(r)
	return text, found, nil // several headers are refused by Bearer, which is read everywhere
}

// BasicHeader returns what stands behind Basic in the Authorization header, if
// there is one header and not several.
func BasicHeader(r *http.Request) (text string, found bool) {
	values := r.Header["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Basic") { // RFC 9110, 11.1: not case-sensitive
		return "", false
	}
	return text, true
}

// parseBasic reads the credentials of RFC 7617, section 2: UTF-8 without control
// characters. The name ends at the first colon.
func parseBasic(text string) (name, password string, ok bool) {
	if len(text) > maxBasic {
		return "", "", false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") || !utf8.Valid(b) || strings.ContainsFunc(string(b), unicode.IsControl) {
		return "", "", false
	}
	return strings.Cut(string(b), ":")
}

// Verify implements Scheme.
func (b Basic) Verify(ctx context.Context, cred string) (Verified, error) {
	name, password, ok := parseBasic(cred)
	if !ok || name == "" || password == "" {
		return Verified{}, &Refused{Reason: "malformed Basic credentials"}
	}
	return b.Password(ctx, name, password)
}

// Confirm implements Scheme.
func (b Basic) Confirm(rd db.Reader, v Verified) (State, error) { return b.Account(rd, v) }

// Challenge implements Scheme: RFC 7617, 2 and 2.1.
func (Basic) Challenge(e *sallyport.Error) string {
	if e.Status != http.StatusUnauthorized {
		return ""
	}
	return BasicChallenge
}

// BasicChallenge is the WWW-Authenticate value that asks for Basic credentials.
const BasicChallenge = `Basic realm="sallyport", charset="UTF-8"`
