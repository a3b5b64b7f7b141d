package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/page"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/session"
)

// Bounds of machine clients.
const (
	MaxClients = 1000
	maxName    = 100 // characters
)

// Clients keeps machine clients: programs that act for themselves, with a
// secret of their own.
type Clients struct {
	DB        *db.DB
	Sessions  *session.Service
	CursorKey []byte
	Guesses   *authn.Guesses // of secrets
	Now       func() time.Time
}

// Client is a machine client as those who may see it see it.
type Client struct {
	ID        string    `json:"client_id" doc:"Opaque id (UUIDv7)"`
	Name      string    `json:"name" doc:"For people; need not be unique"`
	Scopes    []string  `json:"scopes" doc:"Permissions that were given directly"`
	Roles     []string  `json:"roles" doc:"Roles that were given directly"`
	Disabled  bool      `json:"disabled" doc:"Its secret is refused"`
	CreatedAt time.Time `json:"created_at"`
}

// NewClient is a client that has just been made.
type NewClient struct {
	Client
	Secret string `json:"client_secret" doc:"Shown this once; only a digest is kept"`
}

// A client secret is
//
//	"cs_" base64url( secret (32) | CRC-32 of the prefix and the secret (4) )
//
// The prefix and the checksum are for programs that look for secrets where none
// should be. They protect nothing: the 256 random bits do, and no slow hash is
// needed for those.
const (
	secretPrefix = "cs_"
	secretSize   = 32 + 4
)

func newSecret() string {
	b := make([]byte, 32, secretSize)
	rand.Read(b)
	return secretPrefix + base64.RawURLEncoding.EncodeToString(withChecksum(b))
}

func withChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Update(crc32.ChecksumIEEE([]byte(secretPrefix)), crc32.IEEETable, b))
}

// wellFormed reports whether a text could be a secret of ours: it is in the one
// spelling that newSecret gives, and the checksum is right.
func wellFormed(secret string) bool {
	body, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(secretSize) {
		return false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	// Go's decoder skips line breaks, so that the length tells too.
	return err == nil && len(b) == secretSize && string(withChecksum(b[:32:32])) == string(b)
}

func digestOf(secret string) []byte {
	d := sha256.Sum256([]byte(secret))
	return d[:]
}

func checkName(name string) error {
	if strings.TrimSpace(name) == "" || !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, unicode.IsControl) {
		return sallyport.Invalid(sallyport.Field{Pointer: "/name", Code: "invalid_text", Detail: "Use 1 to 100 characters on one line, without control characters."})
	}
	return nil
}

// Create makes a machine client that holds these permissions and roles and no
// others. Nobody can give one more than they hold.
func (c *Clients) Create(ctx context.Context, actor role.Actor, name string, scopes, roles []string) (NewClient, error) {
	if err := checkName(name); err != nil {
		return NewClient{}, err
	}
	out := NewClient{
		Client: Client{ID: uuid.Must(uuid.NewV7()).String(), Name: name, CreatedAt: db.Time(db.Micros(c.Now()))}, // as it is stored
		Secret: newSecret(),
	}
	by := reqctx.InfoFrom(ctx).Actor
	err := c.DB.Write(ctx, func(tx *db.Tx) error {
		if n, err := countClients(tx); err != nil {
			return err
		} else if n >= MaxClients {
			return &sallyport.Error{
				Status: http.StatusConflict, Code: "too_many_clients",
				Message: "There are as many machine clients as there may be (1,000). Delete one that is not needed.",
			}
		}
		if err := role.Create(tx, out.ID, role.Client, out.CreatedAt); err != nil {
			return err
		}
		if err := insertClient(tx, out.Client, digestOf(out.Secret), by); err != nil {
			return err
		}
		if err := role.SetRoles(ctx, tx, actor, out.ID, roles); err != nil {
			return err
		}
		if err := role.SetPermissions(ctx, tx, actor, out.ID, scopes); err != nil {
			return asScopes(err)
		}
		if err := role.CheckTouch(tx, actor, out.ID); err != nil {
			return err
		}
		var err error
		if out.Roles, out.Scopes, err = role.Direct(tx, out.ID); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "client.created", Target: out.ID, Detail: map[string]string{
			"roles": strings.Join(out.Roles, " "), "permissions": strings.Join(out.Scopes, " "),
		}})
	})
	if err != nil {
		return NewClient{}, err
	}
	return out, nil
}

// asScopes says of an unknown permission where it stood in the request.
func asScopes(err error) error {
	e, ok := err.(*sallyport.Error)
	if !ok {
		return err
	}
	c := *e
	c.Fields = nil
	for _, f := range e.Fields {
		if at, found := strings.CutPrefix(f.Pointer, "/permissions/"); found {
			f.Pointer = "/scopes/" + at
		}
		c.Fields = append(c.Fields, f)
	}
	return &c
}

// Delete removes a client. Its secret and its tokens are refused at the next
// request. The audit log keeps its id.
func (c *Clients) Delete(ctx context.Context, actor role.Actor, id string) error {
	return c.DB.Write(ctx, func(tx *db.Tx) error {
		if _, found, err := readSecret(tx, id); err != nil {
			return err
		} else if !found {
			return sallyport.NotFound("client")
		}
		if err := role.CheckTouch(tx, actor, id); err != nil {
			return err
		}
		if err := c.Sessions.EndAll(ctx, tx, id, "", "client deleted"); err != nil {
			return err
		}
		if err := role.Delete(tx, id); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "client.deleted", Target: id})
	})
}

// SetDisabled refuses a client's secret and tokens from the next request on, or
// takes its secret again.
func (c *Clients) SetDisabled(ctx context.Context, actor role.Actor, id string, disabled bool) error {
	return c.DB.Write(ctx, func(tx *db.Tx) error {
		if is, found, err := readSecret(tx, id); err != nil {
			return err
		} else if !found {
			return sallyport.NotFound("client")
		} else if is.disabled == disabled {
			return nil
		}
		if err := role.CheckTouch(tx, actor, id); err != nil {
			return err
		}
		if err := role.SetDisabled(tx, id, disabled); err != nil {
			return err
		}
		if !disabled {
			return audit.Append(ctx, tx, audit.Event{Action: "client.enabled", Target: id})
		}
		if err := c.Sessions.EndAll(ctx, tx, id, "", "client disabled"); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "client.disabled", Target: id})
	})
}

type position struct {
	Created int64  `json:"c"`
	ID      string `json:"i"`
}

// List returns a page of clients in order of creation, and the cursor of the
// next page, "" after the last.
func (c *Clients) List(ctx context.Context, cursor string, limit int) ([]Client, string, error) {
	var after position
	if cursor != "" {
		if err := page.Decode(c.CursorKey, "clients", cursor, &after); err != nil {
			return nil, "", err
		}
	}
	out, err := listClients(c.DB.View(ctx), after, limit+1)
	if err != nil || len(out) <= limit {
		return out, "", err
	}
	out = out[:limit]
	last := out[limit-1]
	return out, page.Encode(c.CursorKey, "clients", position{db.Micros(last.CreatedAt), last.ID}), nil
}

// credential is what is compared when a client says who it is.
type credential struct {
	digest   []byte
	disabled bool
}

// nobody is compared where there is no such client: no digest is all zeros.
var nobody = make([]byte, sha256.Size)

// Authenticate proves a client's secret. It returns *authn.Refused for all that
// must look the same from outside: an unknown id, a wrong secret, a client that
// is disabled.
func (c *Clients) Authenticate(ctx context.Context, id, secret string) error {
	return c.Guesses.Try(ctx, func() error { return c.authenticate(ctx, id, secret) })
}

func (c *Clients) authenticate(ctx context.Context, id, secret string) error {
	// What cannot be one of ours is not looked up; whether an id exists does not
	// show by that.
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return &authn.Refused{Reason: "unknown client", Guess: true}
	}
	if !wellFormed(secret) {
		return &authn.Refused{Reason: "not a client secret of ours", Guess: true}
	}
	return c.check(c.DB.View(ctx), id, digestOf(secret))
}

func (c *Clients) check(rd db.Reader, id string, digest []byte) error {
	is, found, err := readSecret(rd, id)
	if err != nil {
		return err
	}
	if !found {
		is.digest = nobody
	}
	same := subtle.ConstantTimeCompare(is.digest, digest) == 1
	switch {
	case !found:
		return &authn.Refused{Reason: "unknown client", Guess: true}
	case !same:
		return &authn.Refused{Reason: "wrong client secret", Subject: id, Guess: true}
	case is.disabled:
		return &authn.Refused{Reason: "the client is disabled", Subject: id}
	}
	return nil
}

// Grant begins a session of a client that has proved itself (RFC 6749, 4.4). It
// returns *authn.Refused, and session.ErrScope for a scope that does not exist.
func (c *Clients) Grant(ctx context.Context, id, secret string, scoped bool, scope []string) (session.Tokens, error) {
	if scoped {
		held, unknown, err := role.LimitScope(c.DB.View(ctx), id, scope)
		if err != nil {
			return session.Tokens{}, err
		}
		if unknown {
			return session.Tokens{}, session.ErrScope
		}
		scope = held
	}
	started := c.Sessions.Prepare(ctx, session.Start{Subject: id, Client: id, Scoped: scoped, Scope: scope, Machine: true})
	digest := digestOf(secret)
	err := c.DB.Write(ctx, func(tx *db.Tx) error {
		if err := c.check(tx, id, digest); err != nil { // it may be gone by now
			return err
		}
		return c.Sessions.Insert(ctx, tx, started)
	})
	if err != nil {
		return session.Tokens{}, err
	}
	return c.Sessions.Issue(ctx, started)
}
