// Package bearer is how an access token travels (RFC 6750): where it is read
// from a request, and what the answer says when it is missing, not good or not
// enough.
//
// It decides whether a request carries a token, and never whether the token is
// good. It stores nothing and does no I/O. It is a package of its own so that
// the gate of a server and that of another service (package remote) read and
// refuse alike.
//
// Begin with Read and Challenge.
package bearer

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// Read finds the access token in the Authorization header. Another
// authorization scheme is no credential of this one. The two other places that
// RFC 6750 allows, the form body and the query string, are not read: they end
// up in logs and histories.
//
// An error is a *sallyport.Error: a request that must be refused whatever its
// token.
func Read(r *http.Request) (token string, found bool, err error) {
	if r.URL.RawQuery != "" && r.URL.Query().Has("access_token") {
		return "", false, &sallyport.Error{
			Status: http.StatusBadRequest, Code: "credential_in_query",
			Message: "A credential in the address ends up in logs and histories: it must be taken as known to others. End that session, and send the token as “Authorization: Bearer …”.",
		}
	}
	values := r.Header["Authorization"]
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
	default:
		return "", false, SeveralHeaders()
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110, 11.1: not case-sensitive
		return "", false, nil
	}
	return token, true, nil
}

// Challenge returns the WWW-Authenticate value for a refusal: RFC 6750 section
// 3, RFC 9470 section 3.
func Challenge(e *sallyport.Error) string {
	s := `Bearer realm="sallyport"`
	switch {
	case e.Code == "insufficient_scope":
		s += `, error="insufficient_scope"`
		if len(e.Scope) > 0 {
			s += `, scope="` + strings.Join(e.Scope, " ") + `"`
		}
	case e.Code == "invalid_token":
		s += `, error="invalid_token"`
	case e.Code == "insufficient_user_authentication":
		s += `, error="insufficient_user_authentication"`
		if e.MFA {
			s += `, acr_values="mfa"`
		}
		if e.MaxAge > 0 {
			s += `, max_age="` + strconv.FormatInt(int64(e.MaxAge/time.Second), 10) + `"`
		}
	}
	return s
}

// Challenged reports whether the answer for e carries challenges: for a 401 and
// for a missing scope, not for others.
func Challenged(e *sallyport.Error) bool {
	return e.Status == http.StatusUnauthorized || e.Code == "insufficient_scope"
}

// Invalid is the one answer for a credential that is expired, forged, revoked
// or unknown (RFC 6750, 3.1).
func Invalid() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusUnauthorized, Code: "invalid_token",
		Message: "The credential is not valid, or not any more. Get a new access token with the refresh token, sign in again, or use another API key.",
	}
}

// SeveralHeaders is the answer for a request with more than one Authorization
// header.
func SeveralHeaders() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "several_credentials",
		Message: "The request has more than one Authorization header. Send exactly one.",
	}
}

// Several is the answer for a request with credentials of more than one kind.
func Several() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "several_credentials",
		Message: "The request carries more than one credential. Send exactly one.",
	}
}
