package sallyport

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Limit bounds how often one caller calls a route: it is declared with the
// route, and what is declared is what is enforced and documented. It takes a
// LimitGate, such as server.Server.
type Limit struct {
	// Rate is how often, as in "5/minute" or "100/hour;burst=20". The notation is
	// that of guard/ratelimit.
	Rate string
	// By is whose calls count together; the default is ByAddress.
	By By
	// Key, if not nil, says it instead of By: calls with the same text count
	// together, and one for which it is empty is not limited. It is called before
	// the credential is looked at. By then is the name that documents show.
	Key func(*http.Request) string
	// For, if not empty, says which of the calls count: “grant_type=password”. Such a
	// limit is listed and documented, and counted by the handler itself.
	For string
	// Name is shown to callers in RateLimit headers. Limits of the same name are one
	// limit: what is called on all routes that name it counts together. A limit
	// without a name is its route's own.
	Name string
}

// By is whose calls count together.
type By string

// What a Limit counts by. ByAddress and ByRoute are counted before the
// credential is looked at, the others when it has been found good.
const (
	ByAddress    By = "address"    // the client's IP address; of IPv6 its /64 network
	ByAccount    By = "account"    // the caller, whatever credential is sent; an anonymous one by address
	ByCredential By = "credential" // the session or API key; an anonymous caller by address
	ByRoute      By = "route"      // all callers together
)

// Check returns what is wrong with l, but for Rate, which the gate reads.
func (l Limit) Check() error {
	if l.Name != "" {
		if err := CheckName(l.Name); err != nil {
			return fmt.Errorf("limit name %q: %w", l.Name, err)
		}
	}
	switch l.By {
	case "", ByAddress, ByAccount, ByCredential, ByRoute:
		return nil
	}
	if l.Key == nil {
		return fmt.Errorf("limit %q counts by %q, which is not known: use ByAddress, ByAccount, ByCredential or ByRoute, or give a Key", l.Rate, l.By)
	}
	return CheckName(string(l.By))
}

// Behind reports whether the limit is counted when the credential has been found
// good, and not before.
func (l Limit) Behind() bool { return l.Key == nil && (l.By == ByAccount || l.By == ByCredential) }

// by returns what documents show.
func (l Limit) by() By {
	switch {
	case l.By != "":
		return l.By
	case l.Key != nil:
		return "key"
	}
	return ByAddress
}

// String returns the limit as lists show it: "5/minute by address".
func (l Limit) String() string {
	s := l.Rate + " by " + string(l.by())
	if l.For != "" {
		s += " for " + l.For
	}
	return s
}

// MarshalJSON implements json.Marshaler.
func (l Limit) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Rate string `json:"rate"`
		By   By     `json:"by"`
		For  string `json:"for,omitempty"`
		Name string `json:"name,omitempty"`
	}{l.Rate, l.by(), l.For, l.Name})
}

// LimitGate is a Gate that can also bound how often a route is called.
type LimitGate interface {
	Gate
	// Limit returns middleware that counts the calls of a route and leads through
	// the gate: what is counted by address comes before it, what is counted by
	// caller behind it. An invalid limit panics: it is a mistake in the program.
	Limit(route string, limits []Limit, through func(http.Handler) http.Handler) func(http.Handler) http.Handler
}
