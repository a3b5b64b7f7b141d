// Package token issues and verifies access tokens: JWTs of the profile of RFC
// 9068, signed with the keys of a Set.
//
// It decides whether a text is a token that this issuer signed, for this
// audience, and that is valid now. It does not decide whether the session or
// account behind it still exists: that is asked for each request elsewhere.
//
// It is pure: it reads no clock (the time is passed in), does no I/O and keeps
// nothing. Package keyring below it stores the signing keys.
//
// What it never does: it stores no token; it takes no key and no algorithm from a token; it follows
// no URL in one; it does not look at claims before the signature held; it knows
// neither encryption nor compression nor unsigned tokens; it returns no claims
// with an error; and its errors hold no part of a token.
//
// Signatures are verified with the standard library directly. A JOSE library
// would parse the token a second time by rules of its own, and where two parsers
// read one token there is room between them. After the strict parser here, which
// is needed in any case, what is left of JWS is one call to crypto per
// algorithm. Tests check both directions against go-jose.
//
// Begin with Set, which issues, and Verifier.
package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// typ is the header parameter that says what a token is (RFC 9068, section
// 2.1). It must match exactly. RFC 9068 lets a verifier of many issuers' tokens
// take "application/at+jwt" too, and media types ignore case; but every token
// that a key here signed says "at+jwt", so another spelling is never ours, and
// an ID token, a log-out token or whatever else may be signed some day is kept
// apart by comparing bytes.
const typ = "at+jwt"

// Claims is what an access token says.
//
// Texts are valid UTF-8 without control characters, at most 255 bytes each.
// Times are whole seconds in UTC, between 1970 and 9999.
type Claims struct {
	Issuer   string   // iss: the issuer's URL; required
	Subject  string   // sub: id of the account or machine client; required
	Audience []string // aud: 1 to 16 resource servers, each once
	ClientID string   // client_id: the client it was issued to; "" if none
	ID       string   // jti: id of this token; required
	Session  string   // sid: the session it belongs to; "" if none

	IssuedAt time.Time // iat; required
	Expires  time.Time // exp: it is valid before this time; required, after IssuedAt
	AuthTime time.Time // auth_time: when the person last proved who they are; zero if never

	// Scoped says that the token is limited to Scope, which may be empty: then
	// it only authenticates. A token that is not scoped may do what its subject
	// may do. Scopes follow RFC 6749, section 3.3, in all at most 4096 bytes.
	Scoped bool
	Scope  []string

	AMR []string // amr: how the person proved who they are (RFC 8176); at most 16
	ACR string   // acr: what that amounts to (RFC 9470); "mfa", or empty

	// KeyID is the key that the token was verified with. Issue ignores it.
	KeyID string
}

// Bounds of claims.
const (
	maxText    = 255
	maxList    = 16
	maxScope   = 4096
	maxSeconds = 253402300799 // the end of the year 9999
)

// check returns the name of the first claim that is out of bounds, or "". It is
// the one rule for both sides: what may be issued, and what is believed.
func (c *Claims) check() string {
	switch {
	case c.Issuer == "" || !plain(c.Issuer):
		return "iss"
	case c.Subject == "" || !plain(c.Subject):
		return "sub"
	case len(c.Audience) == 0 || !plainList(c.Audience):
		return "aud"
	case !plain(c.ClientID):
		return "client_id"
	case c.ID == "" || !plain(c.ID):
		return "jti"
	case !plain(c.Session):
		return "sid"
	case !inRange(c.IssuedAt):
		return "iat"
	case !inRange(c.Expires) || !c.Expires.After(c.IssuedAt):
		return "exp"
	case !c.AuthTime.IsZero() && !inRange(c.AuthTime):
		return "auth_time"
	case !c.Scoped && len(c.Scope) > 0, !scopes(c.Scope):
		return "scope"
	case !plainList(c.AMR):
		return "amr"
	case !plain(c.ACR):
		return "acr"
	}
	return ""
}

func plain(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// plainList reports whether all are plain, not empty, and there once.
func plainList(list []string) bool {
	if len(list) > maxList {
		return false
	}
	for i, s := range list {
		if s == "" || !plain(s) || slices.Contains(list[:i], s) {
			return false
		}
	}
	return true
}

// scopes checks the grammar of RFC 6749, section 3.3, for every scope-token.
func scopes(list []string) bool {
	total := 0
	for _, s := range list {
		total += len(s) + 1
		if s == "" || total > maxScope+1 {
			return false
		}
		for _, ch := range []byte(s) {
			if ch <= ' ' || ch >= 0x7f || ch == '"' || ch == '\\' {
				return false
			}
		}
	}
	return true
}

func inRange(t time.Time) bool { return t.Unix() > 0 && t.Unix() <= maxSeconds }

// Issue signs a token that says c. Parts of a second are dropped. The error
// names the claim that is missing or out of bounds; scopes on claims that are
// not Scoped are an error too, since the token would be wider than whoever
// wrote them meant. A token is at most 8192 characters.
func (s *Set) Issue(c Claims) (string, error) {
	if s == nil || s.active == nil {
		return "", errors.New("token: issue: no key to sign with")
	}
	c.IssuedAt, c.Expires = whole(c.IssuedAt), whole(c.Expires)
	if !c.AuthTime.IsZero() {
		c.AuthTime = whole(c.AuthTime)
	}
	if name := c.check(); name != "" {
		return "", fmt.Errorf("token: issue: claim %s is missing or out of bounds", name)
	}
	p := payload{
		Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, ClientID: c.ClientID,
		ID: c.ID, Session: c.Session, IssuedAt: c.IssuedAt.Unix(), Expires: c.Expires.Unix(), AMR: c.AMR, ACR: c.ACR,
	}
	if len(c.Audience) == 1 { // the form that every verifier understands
		p.Audience = c.Audience[0]
	}
	if !c.AuthTime.IsZero() {
		p.AuthTime = c.AuthTime.Unix()
	}
	if c.Scoped {
		scope := strings.Join(c.Scope, " ")
		p.Scope = &scope
	}
	claims, err := json.Marshal(p)
	if err != nil { // strings and integers always marshal
		return "", fmt.Errorf("token: issue: %w", err)
	}

	compact, err := s.active.compact(s.active.header, claims)
	if err != nil {
		return "", fmt.Errorf("token: issue: %w", err)
	}
	return compact, nil
}

// compact signs claims under an encoded header.
func (k *Key) compact(header string, claims []byte) (string, error) {
	enc := base64.RawURLEncoding
	size := len(header) + 1 + enc.EncodedLen(len(claims)) + 1 + enc.EncodedLen(k.sigSize)
	if size > maxToken {
		return "", fmt.Errorf("the token would have %d characters, more than the %d that are accepted", size, maxToken)
	}
	b := make([]byte, 0, size)
	b = append(b, header...)
	b = append(b, '.')
	b = enc.AppendEncode(b, claims)
	sig, err := k.sign(b)
	if err != nil {
		return "", err
	}
	b = append(b, '.')
	b = enc.AppendEncode(b, sig)
	return string(b), nil
}

func whole(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// payload is the form of the claims in a token that is issued. Verification
// does not use it: encoding/json would match its names without regard to case.
type payload struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience any      `json:"aud"`
	ClientID string   `json:"client_id"`
	ID       string   `json:"jti"`
	Session  string   `json:"sid"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	AuthTime int64    `json:"auth_time,omitempty"`
	Scope    *string  `json:"scope,omitempty"`
	AMR      []string `json:"amr,omitempty"`
	ACR      string   `json:"acr,omitempty"`
}

// Reason is why a token was refused. It is for the audit log and the operator:
// the caller gets one answer for all of them.
type Reason string

// The reasons, in the order in which they are found.
const (
	TooLong          Reason = "too_long"          // more than is looked at
	Malformed        Reason = "malformed"         // not a compact JWS, or JSON that is not strict
	UnexpectedHeader Reason = "unexpected_header" // a header parameter other than alg, kid and typ
	WrongType        Reason = "wrong_typ"         // not an access token
	UnknownKey       Reason = "unknown_kid"       // no key of the set has this id
	WrongAlgorithm   Reason = "wrong_alg"         // not the algorithm of the key
	BadSignature     Reason = "bad_signature"     // forged or damaged
	MissingClaim     Reason = "missing_claim"     // a required claim is absent
	InvalidClaim     Reason = "invalid_claim"     // a claim has the wrong type or is out of bounds
	WrongIssuer      Reason = "wrong_issuer"      // another iss
	WrongAudience    Reason = "wrong_audience"    // not for this aud
	Expired          Reason = "expired"           // exp has passed
	NotYetValid      Reason = "not_yet_valid"     // iat or nbf has not come yet
)

// Error is the error of Verify.
type Error struct {
	Reason Reason
	Name   string // the claim or header parameter concerned, if it is one of ours; never a value
}

// Error says the reason and what it is about, and nothing of the token.
func (e *Error) Error() string {
	if e.Name == "" {
		return "token: " + string(e.Reason)
	}
	return "token: " + string(e.Reason) + ": " + e.Name
}

func refuse(r Reason, name string) error { return &Error{r, name} }

// The leeway for clocks that differ.
const (
	DefaultLeeway = 5 * time.Second
	MaxLeeway     = time.Minute
)

// Verifier is what tokens are verified against. The zero Verifier accepts none.
type Verifier struct {
	Issuer   string // iss must equal it byte by byte
	Audience string // aud must name it

	// Leeway is by how much exp may have passed and iat and nbf may lie ahead.
	// Zero means DefaultLeeway; more than MaxLeeway means MaxLeeway, since a
	// leeway is an extension of every token's life; below zero means none.
	Leeway time.Duration
}

// Verify returns the claims of a token in compact serialization if one of the
// keys of s signed it and it is valid at now. Otherwise the error is an *Error
// and the claims are zero.
//
// Garbage is refused before any cryptography: by length, number of dots,
// alphabet, header and key id, with work bounded by 8192 characters. A token
// that names a key costs one verification: on one core of 2025 about 10 µs for
// HS256, 40 for EdDSA, 55 for ES256, and 110 for RS256 with 3072 bits; garbage
// below 2 µs.
//
// Claims that are not in Claims are ignored, except for nbf, which is honoured,
// and names that differ from a known one only by case, which are refused. RFC
// 7519 asks for that; here it lets nodes of two versions accept each other's
// tokens during an upgrade.
func (v Verifier) Verify(s *Set, compact string, now time.Time) (Claims, error) {
	t, err := parse(compact)
	if err != nil {
		return Claims{}, err
	}
	if t.typ != typ {
		return Claims{}, refuse(WrongType, "")
	}
	var k *Key
	if s != nil {
		k = s.byID[t.kid]
	}
	if k == nil {
		return Claims{}, refuse(UnknownKey, "")
	}
	raw, err := k.open(t)
	if err != nil {
		return Claims{}, err
	}
	c, notBefore, err := parseClaims(raw)
	if err != nil {
		return Claims{}, err
	}
	if err := v.accept(&c, notBefore, now); err != nil {
		return Claims{}, err
	}
	c.KeyID = k.ID()
	return c, nil
}

// accept decides on claims that are genuine.
func (v Verifier) accept(c *Claims, notBefore, now time.Time) error {
	leeway := v.Leeway
	switch {
	case leeway == 0:
		leeway = DefaultLeeway
	case leeway < 0:
		leeway = 0
	case leeway > MaxLeeway:
		leeway = MaxLeeway
	}
	switch {
	case c.Issuer != v.Issuer:
		return refuse(WrongIssuer, "")
	case !slices.Contains(c.Audience, v.Audience):
		return refuse(WrongAudience, "")
	case !now.Before(c.Expires.Add(leeway)): // exp itself is too late (RFC 7519, section 4.1.4)
		return refuse(Expired, "")
	case c.IssuedAt.After(now.Add(leeway)):
		return refuse(NotYetValid, "iat")
	case notBefore.After(now.Add(leeway)):
		return refuse(NotYetValid, "nbf")
	}
	return nil
}

// knownClaims are the names that parseClaims reads.
var knownClaims = [...]string{"iss", "sub", "aud", "client_id", "jti", "sid", "iat", "exp", "nbf", "auth_time", "scope", "amr", "acr"}

// parseClaims reads a payload. Every claim has one type.
func parseClaims(b []byte) (c Claims, notBefore time.Time, err error) {
	members, err := object(b, maxDepth)
	if err != nil {
		return Claims{}, time.Time{}, err
	}
	for name := range members {
		if slices.Contains(knownClaims[:], name) {
			continue
		}
		for _, known := range knownClaims {
			if strings.EqualFold(name, known) {
				return Claims{}, time.Time{}, refuse(InvalidClaim, known)
			}
		}
	}
	r := claimReader{members: members}
	c = Claims{
		Issuer:   r.text("iss"),
		Subject:  r.text("sub"),
		Audience: r.audience("aud"),
		ClientID: r.text("client_id"),
		ID:       r.text("jti"),
		Session:  r.text("sid"),
		IssuedAt: r.seconds("iat", true),
		Expires:  r.seconds("exp", true),
		AuthTime: r.seconds("auth_time", false),
	}
	notBefore = r.seconds("nbf", false)
	if _, c.Scoped = members["scope"]; c.Scoped {
		if scope := r.text("scope"); scope != "" {
			c.Scope = strings.Split(scope, " ")
		}
	}
	if raw, ok := members["amr"]; ok {
		c.AMR = r.list("amr", raw)
	}
	if _, ok := members["acr"]; ok {
		c.ACR = r.text("acr")
	}
	if r.err == nil {
		if name := c.check(); name != "" {
			r.err = refuse(InvalidClaim, name)
		}
	}
	if r.err != nil {
		return Claims{}, time.Time{}, r.err
	}
	return c, notBefore, nil
}

// claimReader reads claims by name and keeps the first error.
type claimReader struct {
	members map[string]json.RawMessage
	err     error
}

func (r *claimReader) fail(reason Reason, name string) {
	if r.err == nil {
		r.err = refuse(reason, name)
	}
}

// raw returns a required claim.
func (r *claimReader) raw(name string) json.RawMessage {
	raw, ok := r.members[name]
	if !ok {
		r.fail(MissingClaim, name)
	}
	return raw
}

// text reads a required string.
func (r *claimReader) text(name string) string {
	s, ok := text(r.raw(name))
	if !ok {
		r.fail(InvalidClaim, name)
	}
	return s
}

// audience reads a required string or array of strings (RFC 7519, section
// 4.1.3).
func (r *claimReader) audience(name string) []string {
	raw := r.raw(name)
	if s, ok := text(raw); ok {
		return []string{s}
	}
	return r.list(name, raw)
}

func (r *claimReader) list(name string, raw json.RawMessage) []string {
	var items []json.RawMessage
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &items) != nil {
		r.fail(InvalidClaim, name)
		return nil
	}
	var list []string
	for _, item := range items {
		s, ok := text(item)
		if !ok {
			r.fail(InvalidClaim, name)
			return nil
		}
		list = append(list, s)
	}
	return list
}

// seconds reads a time. RFC 7519 lets it have a fraction or an exponent; ours
// never do, and 1e400 or 1.5 reads differently in different decoders, so it must
// be a positive integer in plain digits.
func (r *claimReader) seconds(name string, required bool) time.Time {
	raw, ok := r.members[name]
	if !ok {
		if required {
			r.fail(MissingClaim, name)
		}
		return time.Time{}
	}
	n, err := strconv.ParseUint(string(raw), 10, 63)
	if err != nil || n == 0 || n > maxSeconds {
		r.fail(InvalidClaim, name)
		return time.Time{}
	}
	return time.Unix(int64(n), 0).UTC()
}
