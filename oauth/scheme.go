package oauth

import (
	"context"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/bearer"
	"github.com/sallyport/sallyport/internal/db"
)

// Scheme is a machine client's own id and secret as a credential (RFC 6749,
// 2.3.1): HTTP Basic, both parts form-encoded. It is read only where a rule
// names it, because it bypasses the token endpoint: no scope limits it.
func (c *Clients) Scheme() authn.Scheme { return scheme{c} }

type scheme struct{ c *Clients }

// Kind implements authn.Scheme.
func (scheme) Kind() sallyport.Kind { return sallyport.KindClient }

// Read implements authn.Scheme. The credential is in one spelling, whatever
// the header's.
func (scheme) Read(r *http.Request) (string, bool, error) {
	if len(r.Header["Authorization"]) > 1 {
		return "", false, bearer.SeveralHeaders()
	}
	text, found := authn.BasicHeader(r)
	if !found {
		return "", false, nil
	}
	id, secret, err := basicClient(text)
	if err != nil {
		return "", false, &sallyport.Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: notBasic}
	}
	return id + ":" + secret, true, nil
}

// Verify implements authn.Scheme. The gate counts what is refused.
func (s scheme) Verify(ctx context.Context, cred string) (authn.Verified, error) {
	id, secret, _ := strings.Cut(cred, ":")
	if err := s.c.authenticate(ctx, id, secret); err != nil {
		return authn.Verified{}, err
	}
	return authn.Verified{
		Claims: sallyport.Claims{Subject: id, Client: id, Kind: sallyport.KindClient},
		Unit:   uuid.MustParse(id),
	}, nil
}

// Confirm implements authn.Scheme.
func (s scheme) Confirm(rd db.Reader, v authn.Verified) (authn.State, error) {
	st, alive, err := readClientState(rd, v.Subject)
	if err == nil && !alive {
		err = &authn.Refused{Reason: "the client is disabled or deleted", Subject: v.Subject}
	}
	return st, err
}

// Challenge implements authn.Scheme: RFC 7617.
func (scheme) Challenge(e *sallyport.Error) string {
	if e.Status != http.StatusUnauthorized {
		return ""
	}
	return authn.BasicChallenge
}
