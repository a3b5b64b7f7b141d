package authn

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// Bearer is the scheme of RFC 6750: an access token in the Authorization
// header. The two other places that RFC 6750 allows, the form body and the
// query string, are not read: they end up in logs and histories.
type Bearer struct {
	// Token verifies an access token, and Session confirms it.
	Token   func(ctx context.Context, token string) (Verified, error)
	Session func(db.Reader, Verified) (State, error)
}

var _ Scheme = Bearer{}

// Kind implements Scheme.
func (Bearer) Kind() sallyport.Kind { return sallyport.KindBearer }

// Read implements Scheme. Another authorization scheme is no credential of
// this one.
func (Bearer) Read(r *http.Request) (string, bool, error) {
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
		return "", false, &sallyport.Error{
			Status: http.StatusBadRequest, Code: "several_credentials",
			Message: "The request has more than one Authorization header. Send exactly one.",
		}
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110, 11.1: not case-sensitive
		return "", false, nil
	}
	return token, true, nil
}

// Verify implements Scheme.
func (b Bearer) Verify(ctx context.Context, cred string) (Verified, error) {
	return b.Token(ctx, cred)
}

// Confirm implements Scheme.
func (b Bearer) Confirm(rd db.Reader, v Verified) (State, error) { return b.Session(rd, v) }

// Challenge implements Scheme: RFC 6750 section 3, RFC 9470 section 3.
func (Bearer) Challenge(e *sallyport.Error) string {
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
