package authn

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/bearer"
	"github.com/sallyport/sallyport/internal/db"
)

// Bearer is the scheme of RFC 6750: an access token in the Authorization
// header, as package bearer reads it.
type Bearer struct {
	// Token verifies an access token, and Session confirms it.
	Token   func(ctx context.Context, token string) (Verified, error)
	Session func(db.Reader, Verified) (State, error)
}

var _ Scheme = Bearer{}

// Kind implements Scheme.
func (Bearer) Kind() sallyport.Kind { return sallyport.KindBearer }

// Read implements Scheme.
func (Bearer) Read(r *http.Request) (string, bool, error) { return bearer.Read(r) }

// Verify implements Scheme.
func (b Bearer) Verify(ctx context.Context, cred string) (Verified, error) {
	return b.Token(ctx, cred)
}

// Confirm implements Scheme.
func (b Bearer) Confirm(rd db.Reader, v Verified) (State, error) { return b.Session(rd, v) }

// Challenge implements Scheme.
func (Bearer) Challenge(e *sallyport.Error) string { return bearer.Challenge(e) }
