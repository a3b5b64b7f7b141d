package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// AssertionType is the typ of assertions. It is what keeps them apart from access
// tokens, which the same keys sign: Verify takes nothing but at+jwt.
const AssertionType = "sallyport-assertion+jwt"

// Assertion says who a request was made by that a proxy asked about, and what was
// required of them, for the service behind the proxy. It is no credential: no
// Verifier takes it for an access token.
type Assertion struct {
	Issuer   string // iss: the issuer's URL; required
	Audience string // aud: the host that was asked for, such as app.example.com; required
	Subject  string // sub: id of the account or machine client; required

	IssuedAt time.Time // iat; required
	Expires  time.Time // exp: at most MaxAssertionLife after IssuedAt

	Kind        string   // kind of credential
	Session     string   // sid; "" if there is none
	ClientID    string   // client_id; "" if there is none
	Username    string   // preferred_username
	Email       string   // email, which is verified
	Roles       []string // roles
	Permissions []string // permissions; "*" stands for all
	Omitted     []string // which of roles, permissions and username were left out, because they are too long
	Method      string   // method of the request
	URI         string   // its path and query, as they were sent; the token has their SHA-256 (uri_sha256)
	Rule        string   // that was required
}

// MaxAssertionLife bounds how long an assertion is good: it is for one request.
const MaxAssertionLife = time.Minute

// assertion is the form of an Assertion in a token.
type assertion struct {
	Issuer      string   `json:"iss"`
	Audience    string   `json:"aud"`
	Subject     string   `json:"sub"`
	IssuedAt    int64    `json:"iat"`
	Expires     int64    `json:"exp"`
	Kind        string   `json:"kind"`
	Session     string   `json:"sid,omitempty"`
	ClientID    string   `json:"client_id,omitempty"`
	Username    string   `json:"preferred_username,omitempty"`
	Email       string   `json:"email,omitempty"`
	Roles       []string `json:"roles"`
	Permissions []string `json:"permissions"`
	Omitted     []string `json:"omitted,omitempty"`
	Method      string   `json:"method"`
	URI         string   `json:"uri_sha256"` // base64url
	Rule        string   `json:"rule"`
}

// Assert signs an assertion with the active key.
func (s *Set) Assert(a Assertion) (string, error) {
	if s == nil || s.active == nil {
		return "", errors.New("token: assert: no key to sign with")
	}
	a.IssuedAt, a.Expires = whole(a.IssuedAt), whole(a.Expires)
	life := a.Expires.Sub(a.IssuedAt)
	uri := sha256.Sum256([]byte(a.URI))
	if a.Issuer == "" || a.Audience == "" || a.Subject == "" || !inRange(a.IssuedAt) || life <= 0 || life > MaxAssertionLife {
		return "", errors.New("token: assert: iss, aud, sub or exp is missing or out of bounds")
	}
	claims, err := json.Marshal(assertion{
		Issuer: a.Issuer, Audience: a.Audience, Subject: a.Subject, IssuedAt: a.IssuedAt.Unix(), Expires: a.Expires.Unix(),
		Kind: a.Kind, Session: a.Session, ClientID: a.ClientID, Username: a.Username, Email: a.Email,
		Roles: append([]string{}, a.Roles...), Permissions: append([]string{}, a.Permissions...), Omitted: a.Omitted, Method: a.Method, URI: base64.RawURLEncoding.EncodeToString(uri[:]), Rule: a.Rule,
	})
	if err != nil { // strings and integers always marshal
		return "", fmt.Errorf("token: assert: %w", err)
	}
	header, err := s.active.headerFor(AssertionType)
	if err != nil {
		return "", fmt.Errorf("token: assert: %w", err)
	}
	compact, err := s.active.compact(header, claims)
	if err != nil {
		return "", fmt.Errorf("token: assert: %w", err)
	}
	return compact, nil
}
