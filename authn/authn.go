// Package authn is the first door: it finds the credential of a request, has
// it verified, and hands the request on with a Principal if the route's rule
// allows it. It is also where every rule is enforced: Gate.Require is the only
// way from a rule to a decision, for plain routes and typed operations alike.
//
// It stores nothing; what it has found out is remembered by internal/live. It
// never tells a caller why a credential was refused; the reason goes to the log
// and the audit log.
//
// Begin with Gate.Require, which a program reaches as server.Server.Require, and
// with Scheme, which every kind of credential implements.
package authn

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/bearer"
	"github.com/sallyport/sallyport/internal/db"
)

// Scheme is one way to say who one is.
type Scheme interface {
	// Kind names the credentials it reads.
	Kind() sallyport.Kind
	// Read finds the credential in the request, without I/O. An error is a
	// *sallyport.Error, for a request that must be refused whatever its credential,
	// or *Refused, for one that cannot be good.
	Read(r *http.Request) (cred string, found bool, err error)
	// Verify proves the credential and returns what it says. A *Refused error
	// means it is not good; any other means it could not be checked.
	Verify(ctx context.Context, cred string) (Verified, error)
	// Confirm reads whether what the credential names is alive now, and what its
	// subject may do. It returns *Refused, ErrAgain, or an error that means it
	// could not look. It is asked again whenever something may have changed, and
	// inside each transaction that is made on behalf of the request.
	Confirm(rd db.Reader, v Verified) (State, error)
	// Challenge returns the WWW-Authenticate value for a refusal, "" for none.
	Challenge(e *sallyport.Error) string
}

// guessable is a Scheme whose credentials a person may have thought of.
type guessable interface{ guessable() }

// Restricted is a Scheme whose credential is not enough on every request, such
// as a cookie, which a browser sends without being asked.
type Restricted interface {
	// Restrict returns a *sallyport.Error if this request may not use it.
	Restrict(r *http.Request) error
}

// sticky is a Scheme whose credential a client goes on sending until it is told
// to stop, such as a cookie. One that is refused is refused on public routes too:
// without Discard, whoever has it would be locked out of those until it expires.
type sticky interface {
	// Discard adds to the header of a refusal what has the client forget it.
	Discard(h http.Header)
}

// Verified is what a credential says.
type Verified struct {
	sallyport.Claims
	// Unit is what Confirm looks up: the session, the API key. Ids in Claims
	// follow from it.
	Unit [16]byte
	// KeyID is the key that a token was signed with, "" if it is none, and Keys
	// the version of the keys then.
	KeyID string
	Keys  int64
	// Until, if not zero, is when it must be proven again.
	Until time.Time
	// Static, if not nil, is what the credential may do: nothing is looked up,
	// and nothing can change it while this process runs.
	Static *sallyport.Grants
}

// State is what Confirm found.
type State struct {
	MFA      bool
	AuthTime time.Time
	// Until is when to look again although nothing changed; zero: never.
	Until                time.Time
	Subject, Roles, Keys int64 // versions
	// RoleNames and Permissions were given to the subject itself, in any order,
	// separated by spaces.
	RoleNames, Permissions string
}

// Refused says why a credential is not good: for the operator, never for the
// caller.
type Refused struct {
	Reason  string // "expired", "session ended" …
	Subject string // if it is known
	Action  string // of the audit event; credential.refused if empty
	Guess   bool   // nobody has ever had it, as far as can be told: see Guesses
}

// Error says the reason: it is for a log, and not for an answer.
func (r *Refused) Error() string { return "credential refused: " + r.Reason }

// ErrAgain tells the gate to verify once more: what the credential was verified
// with has changed meanwhile.
var ErrAgain = errors.New("verify again")

// InvalidToken is the one answer for a credential that is expired, forged,
// revoked or unknown (RFC 6750, 3.1).
func InvalidToken() *sallyport.Error { return bearer.Invalid() }
