package session

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/db"
)

// Format is the form of access tokens that are issued. Both are always accepted.
type Format string

// The forms of access tokens.
const (
	JWT    Format = "jwt"    // signed; others can verify it with the public keys
	Opaque Format = "opaque" // random; only this server can tell what it is
)

// A token without meaning outside is
//
//	prefix base64url( version | session id (16) | secret (32) | tag (16) )
//
// The tag, under the server's key and a label of the kind's own, proves without
// a look-up that the token is one of ours and of this kind: nonsense, and a
// token of another kind, is refused before the database is asked. Whether it was
// issued, and to whom, is what the database says about its digest.
type kind struct{ prefix, label string }

var (
	accessKind = kind{"at_", "sallyport access token tag"}
	cookieKind = kind{"st_", "sallyport cookie tag"}
)

const (
	opaqueVersion = 1
	opaqueSize    = 1 + 16 + 32 + tagSize
)

// opaque returns a new token for a session.
func (k tokenKey) opaque(of kind, session string) string {
	var secret [32]byte
	rand.Read(secret[:])
	return k.write(of, uuid.MustParse(session), secret)
}

func (k tokenKey) write(of kind, session uuid.UUID, secret [32]byte) string {
	b := make([]byte, 0, opaqueSize)
	b = append(b, opaqueVersion)
	b = append(b, session[:]...)
	b = append(b, secret[:]...)
	m := hmac.New(sha256.New, k)
	m.Write([]byte(of.label))
	m.Write([]byte{0})
	m.Write(b)
	b = append(b, m.Sum(nil)[:tagSize]...)
	return of.prefix + base64.RawURLEncoding.EncodeToString(b)
}

// read returns the session that a token names, if its tag is right.
func (k tokenKey) read(of kind, text string) (session uuid.UUID, ok bool) {
	body, ok := strings.CutPrefix(text, of.prefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(opaqueSize) {
		return session, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) != opaqueSize || b[0] != opaqueVersion {
		return session, false
	}
	session = uuid.UUID(b[1:17])
	// Comparing the whole text also refuses other spellings of the same bytes.
	return session, subtle.ConstantTimeCompare([]byte(k.write(of, session, [32]byte(b[17:49]))), []byte(text)) == 1
}

// access is an opaque access token that is about to be stored. It is made before
// the transaction, whose function may run twice. The zero access stands for a
// JWT, which is signed after the transaction.
type access struct {
	text   string
	issued time.Time
}

func (s *Service) newAccess(session string) access {
	if s.cfg.Format != Opaque {
		return access{}
	}
	return access{text: s.tokens().opaque(accessKind, session)}
}

// store stores the digest of an opaque access token.
func (s *Service) store(tx *db.Tx, a access, se Session, scoped bool, scope []string) error {
	if a.text == "" {
		return nil
	}
	return insertAccess(tx, digestOf(a.text), se.ID, scoped, scope, a.issued, s.accessUntil(a.issued, se))
}

// accessUntil returns when an access token ends that is issued now.
func (s *Service) accessUntil(now time.Time, se Session) time.Time {
	return earlier(now.Add(s.cfg.Access), se.Expires)
}

// verifyOpaque proves an opaque access token.
func (s *Service) verifyOpaque(ctx context.Context, text string) (authn.Verified, error) {
	id, ok := s.tokens().read(accessKind, text)
	if !ok {
		return authn.Verified{}, &authn.Refused{Reason: "not an access token of ours", Guess: true}
	}
	c := sallyport.Claims{Session: id.String(), Kind: sallyport.KindBearer}
	var scope []string
	var issued time.Time
	found, err := readAccess(s.cfg.DB.View(ctx), digestOf(text), &c, &scope, &issued)
	now := s.cfg.Now()
	switch {
	case err != nil:
		return authn.Verified{}, err
	case !found:
		return authn.Verified{}, &authn.Refused{Reason: "the access token is not there any more", Guess: true}
	case !now.Before(c.Expires):
		return authn.Verified{}, &authn.Refused{Reason: string(token.Expired), Subject: c.Subject}
	case issued.After(now.Add(token.DefaultLeeway)): // the clock was set back: as with a JWT
		return authn.Verified{}, &authn.Refused{Reason: string(token.NotYetValid), Subject: c.Subject}
	}
	c.Scopes = sallyport.NewSet(scope...)
	return authn.Verified{Claims: c, Unit: id}, nil
}
