package session

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
)

// A refresh token is
//
//	"rt_" base64url( version | session id (16) | generation (4) | secret (32) | tag (16) )
//
// The first secret of a family is random; each next one is derived from the one
// before under the server's key. So the successor of a token can be said again
// when a response was lost, although only digests are stored. The tag, under
// the same key, proves without a look-up that the token is one of ours:
// nonsense is refused before the database is asked, and nobody who merely
// knows a session's id can end it by pretending to reuse its token.
type refreshToken struct {
	session    uuid.UUID
	generation uint32
	secret     [32]byte
	key        []byte
}

const (
	refreshPrefix  = "rt_"
	refreshVersion = 1
	tagSize        = 16
	refreshSize    = 1 + 16 + 4 + 32 + tagSize
)

type tokenKey []byte

func (s *Service) tokens() tokenKey { return s.cfg.Keys.RefreshKey() }

func (k tokenKey) first(session string) refreshToken {
	t := refreshToken{session: uuid.MustParse(session), key: k}
	rand.Read(t.secret[:])
	return t
}

func (t refreshToken) mac(label string) []byte {
	b := make([]byte, 0, 96)
	b = append(b, label...)
	b = append(b, 0)
	m := hmac.New(sha256.New, t.key)
	m.Write(t.appendTo(b))
	return m.Sum(b[:0])
}

// appendTo appends what the token is besides its tag.
func (t refreshToken) appendTo(b []byte) []byte {
	b = append(b, t.session[:]...)
	b = binary.BigEndian.AppendUint32(b, t.generation)
	return append(b, t.secret[:]...)
}

func (t refreshToken) successor() refreshToken {
	next := refreshToken{session: t.session, generation: t.generation + 1, key: t.key}
	copy(next.secret[:], t.mac("sallyport refresh successor"))
	return next
}

// String returns the token itself: a secret.
func (t refreshToken) String() string {
	b := make([]byte, 0, refreshSize)
	b = append(b, refreshVersion)
	b = t.appendTo(b)
	b = append(b, t.mac("sallyport refresh tag")[:tagSize]...)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// digestOf returns what is stored of a token.
func digestOf(text string) []byte {
	d := sha256.Sum256([]byte(text))
	return d[:]
}

// parse reads a token and checks its tag.
func (k tokenKey) parse(text string) (refreshToken, bool) {
	body, ok := strings.CutPrefix(text, refreshPrefix)
	if !ok || len(text) > maxRefreshTokenLen {
		return refreshToken{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) != refreshSize || b[0] != refreshVersion {
		return refreshToken{}, false
	}
	t := refreshToken{generation: binary.BigEndian.Uint32(b[17:21]), key: k}
	copy(t.session[:], b[1:17])
	copy(t.secret[:], b[21:53])
	// Comparing the whole text also refuses other spellings of the same bytes.
	return t, subtle.ConstantTimeCompare([]byte(t.String()), []byte(text)) == 1
}

// ErrScope says that a refresh asked for more than its session has, or for what
// does not exist.
var ErrScope = errors.New("the scope is not within the session's")

// Refresh rotates a refresh token. The token that was replaced may be sent
// again by the same client for ten seconds and gets the same successor: a lost
// response is not a theft. Later, or any older one, means that two parties hold
// the family: all of it is ended.
//
// scope, if scoped, narrows the new access token and leaves the session as it
// is (RFC 6749, 6). Errors: *authn.Refused, ErrScope, and what authn.Guesses.Try
// returns.
func (s *Service) Refresh(ctx context.Context, text, client string, scoped bool, scope []string) (t Tokens, err error) {
	err = s.cfg.Guesses.Try(ctx, func() (err error) {
		t, err = s.refresh(ctx, text, client, scoped, scope)
		return err
	})
	return t, err
}

func (s *Service) refresh(ctx context.Context, text, client string, scoped bool, scope []string) (Tokens, error) {
	presented, ok := s.tokens().parse(text)
	if !ok {
		return Tokens{}, &authn.Refused{Reason: "not a refresh token of ours", Guess: true}
	}
	if s.cfg.Follow != nil {
		subject, found, err := readOwner(s.cfg.DB.View(ctx), presented.session.String())
		if err == nil && found {
			err = s.cfg.Follow(ctx, subject)
		}
		if err != nil {
			return Tokens{}, err
		}
	}
	next := presented.successor().String()
	digest, nextDigest := digestOf(text), digestOf(next)
	newAccess := s.newAccess(presented.session.String())
	var se Session
	var limited []string
	var keysVersion int64
	var refused *authn.Refused
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		refused = nil
		var disabled, found bool
		var err error
		if se, disabled, keysVersion, found, err = readFamily(tx, presented.session.String()); err != nil {
			return err
		}
		now := s.cfg.Now()
		refuse := func(reason string) error {
			refused = &authn.Refused{Reason: reason, Subject: se.Subject, Guess: !found}
			return nil
		}
		switch {
		case !found:
			return refuse("the session does not exist")
		case se.Client != client:
			return refuse("the refresh token is another client's")
		case !se.Ended.IsZero():
			return refuse("the session has ended")
		case !now.Before(se.Expires) || !now.Before(se.IdleUntil):
			return refuse("the session has expired")
		case disabled:
			return refuse("the account is disabled")
		}
		current := subtle.ConstantTimeCompare(digest, se.refresh) == 1
		again := subtle.ConstantTimeCompare(nextDigest, se.refresh) == 1 && recent(now.Sub(se.refreshedAt))
		if current || again { // a reused token ends the family whatever it asks for
			if limited, err = limit(tx, se, scoped, scope); err != nil {
				return err
			}
			newAccess.issued = now
			if err := s.store(tx, newAccess, se, scoped || se.Scoped, limited); err != nil {
				return err
			}
		}
		switch {
		case current:
			se.IdleUntil = earlier(now.Add(s.cfg.Refresh), se.Expires)
			if err := rotate(tx, se.ID, int64(presented.generation), nextDigest, now, se.IdleUntil); err != nil {
				return err
			}
			return audit.Append(ctx, tx, audit.Event{Action: "session.refreshed", Target: se.ID, Actor: se.Subject})
		case again:
			return nil // the same successor again
		}
		if _, err := s.End(ctx, tx, se.Subject, se.ID, "refresh token reused"); err != nil {
			return err
		}
		if err := s.cfg.Mail.Notify(ctx, tx, se.Subject, mail.RefreshReused, mail.Facts{}); err != nil {
			return err
		}
		if err := refuse("the refresh token was used before"); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "refresh.reused", Result: audit.Failure, Target: se.ID, Actor: se.Subject, Reason: refused.Reason})
	})
	if err != nil {
		return Tokens{}, err
	}
	if refused != nil {
		return Tokens{}, refused
	}
	if newAccess.text == "" {
		if _, err := s.cfg.Keys.Sync(ctx, keysVersion); err != nil {
			return Tokens{}, err
		}
	}
	return s.issue(ctx, se, scoped || se.Scoped, limited, next, newAccess)
}

// recent reports whether a rotation may be repeated. One "in the future" is a
// clock that was set back: not recent.
func recent(age time.Duration) bool { return age >= -time.Second && age <= retryWindow }

// limit returns the scope of the access token that a refresh gives, before the
// refresh token is spent: what is asked for or what the session has, as far as
// the subject holds it now.
func limit(tx *db.Tx, se Session, scoped bool, scope []string) ([]string, error) {
	if !scoped && !se.Scoped {
		return nil, nil
	}
	if !scoped {
		scope = se.Scope
	} else if !within(se, scope) {
		return nil, ErrScope
	}
	held, unknown, err := role.LimitScope(tx, se.Subject, scope)
	if err == nil && unknown && scoped { // in a session's own scope it is a role that was deleted
		err = ErrScope
	}
	return held, err
}

func within(se Session, scope []string) bool {
	if !se.Scoped {
		return true // limited by what the subject may do, at every request
	}
	return !slices.ContainsFunc(scope, func(name string) bool { return !slices.Contains(se.Scope, name) })
}
