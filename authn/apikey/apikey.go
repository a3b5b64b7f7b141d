// Package apikey decides who calls with an API key, and who may have one: keys
// that people make for their own programs, and keys of services that stand in
// the configuration.
//
// It stores a key as the SHA-256 digest of its text, with its owner, scopes and
// expiry. It never stores, logs or shows a key again after it was made, and no
// key does more than its owner may do at that moment: scopes only limit. A key
// is always scoped, so what needs an unscoped credential (one's own account,
// sessions, keys) is never open to it.
//
// Begin with Service for people's keys (server.Server.APIKeys), and with NewStatic
// for keys of the configuration.
package apikey

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/touch"
)

// Bounds of keys.
const (
	MaxKeys   = 100 // of one owner, deactivated and expired ones too
	maxScopes = 64  // of one key
	maxName   = 100 // characters
	maxYears  = 10
	// lookAgain is how long a key is used without its use being noted; at the
	// same time it is read again, though every change of it is heard of.
	lookAgain = time.Minute
)

// Config is what a Service needs.
type Config struct {
	DB *db.DB
	// Header, Cookie and Query name where a key may stand. Header defaults to
	// X-API-Key; without a name, cookies and queries are not read.
	Header, Cookie, Query string
	Static                []Static
	// Standing reports which of the names, by their places, stand for nothing
	// that there is, and which for something that the subject does not hold.
	Standing func(rd db.Reader, subject string, scopes []string) (unknown, above []int, err error)
	// Used is told whose key is used, about once a minute; nil: nobody is.
	Used func(subject string)
	Log  *slog.Logger
	Now  func() time.Time
	// Origin tells whose pages may send a key in a cookie with requests that
	// change something.
	Origin *authn.SameOrigin
}

// Service keeps API keys, and is the scheme that reads them.
type Service struct {
	cfg     Config
	header  string // canonical
	static  map[[32]byte]Static
	touches *touch.Touches
}

// New returns a Service. Names and static keys must be such that CheckHeader,
// CheckCookie, CheckQuery and CheckStatics find nothing wrong. Close ends it.
func New(cfg Config) *Service {
	if cfg.Header == "" {
		cfg.Header = DefaultHeader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg, header: http.CanonicalHeaderKey(cfg.Header), static: map[[32]byte]Static{}}
	for _, k := range cfg.Static {
		if d, ok := k.digest(); ok {
			s.static[d] = k
		}
	}
	s.touches = touch.New(cfg.DB, cfg.Log, noteUse)
	return s
}

// Close stores what was noted of the use of keys.
func (s *Service) Close() { s.touches.Close() }

// Flush stores it now.
func (s *Service) Flush() { s.touches.Flush() }

// Record is a key without the key.
type Record struct {
	ID         string
	Owner      string
	Name       string
	Prefix     string
	Scopes     []string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	Active     bool
	LastUsedAt time.Time // zero: not yet; to the minute
}

// NewKey is what a key is made of.
type NewKey struct {
	Owner   string
	Name    string
	Scopes  []string
	Expires time.Time // zero: never
	// Machine lets the owner be a machine client, whose one lasting credential is
	// otherwise its secret. No request sets it: it is for principals of a program's own.
	Machine bool
}

// Create makes a key. Every scope must exist and be held by the owner now.
func (s *Service) Create(ctx context.Context, in NewKey) (Record, Key, error) {
	now := s.cfg.Now()
	if fields := in.check(now); fields != nil {
		return Record{}, Key{}, sallyport.Invalid(fields...)
	}
	key := Generate()
	digest := key.Digest()
	r := Record{
		ID: uuid.Must(uuid.NewV7()).String(), Owner: in.Owner, Name: in.Name, Prefix: key.Shown(), Scopes: append([]string{}, in.Scopes...),
		CreatedAt: asStored(now), ExpiresAt: asStored(in.Expires), Active: true,
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if person, err := isPerson(tx, in.Owner); err != nil {
			return err
		} else if !person && !in.Machine {
			return sallyport.NotFound("user")
		}
		if err := s.checkScopes(tx, in.Owner, in.Scopes); err != nil {
			return err
		}
		n, err := countKeys(tx, in.Owner)
		if err != nil {
			return err
		}
		if n >= MaxKeys {
			return &sallyport.Error{
				Status: http.StatusConflict, Code: "too_many_api_keys",
				Message: "There are as many API keys of this account as there may be (" + strconv.Itoa(MaxKeys) + "). Delete one that is not needed; deactivated and expired ones count too.",
			}
		}
		if err := insertKey(tx, r, digest[:]); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "apikey.created", Target: r.ID, Detail: map[string]string{
			"owner": r.Owner, "prefix": r.Prefix, "scopes": strings.Join(r.Scopes, " "), "expires_at": timeText(r.ExpiresAt),
		}})
	})
	if err != nil {
		return Record{}, Key{}, err
	}
	return r, key, nil
}

func (in *NewKey) check(now time.Time) (fields []sallyport.Field) {
	fields = checkName(in.Name)
	if len(in.Scopes) > maxScopes {
		fields = append(fields, sallyport.Field{Pointer: "/scopes", Code: "too_long", Detail: fmt.Sprintf("The most entries are %d.", maxScopes)})
		return fields
	}
	for i, scope := range in.Scopes {
		pointer := fmt.Sprintf("/scopes/%d", i)
		switch {
		case sallyport.CheckName(scope) != nil: // nothing has such a name
			fields = append(fields, unknownScope(pointer))
		case slices.Contains(in.Scopes[:i], scope):
			fields = append(fields, sallyport.Field{Pointer: pointer, Code: "duplicate", Detail: "Each scope may stand here once."})
		}
	}
	if !in.Expires.IsZero() && (!in.Expires.After(now) || in.Expires.After(now.AddDate(maxYears, 0, 0))) {
		fields = append(fields, sallyport.Field{Pointer: "/expires_at", Code: "out_of_range", Detail: fmt.Sprintf("Choose a time in the future, at most %d years from now.", maxYears)})
	}
	return fields
}

func checkName(name string) []sallyport.Field {
	switch n := utf8.RuneCountInString(name); {
	case n == 0:
		return []sallyport.Field{{Pointer: "/name", Code: "too_short", Detail: "The least length in characters is 1."}}
	case n > maxName:
		return []sallyport.Field{{Pointer: "/name", Code: "too_long", Detail: fmt.Sprintf("The greatest length in characters is %d.", maxName)}}
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || holdsKey(name):
		return []sallyport.Field{{Pointer: "/name", Code: "invalid_text", Detail: "Use text on one line, without control characters, and without a key."}}
	}
	return nil
}

func unknownScope(pointer string) sallyport.Field {
	return sallyport.Field{Pointer: pointer, Code: "unknown_scope", Detail: "There is no such permission, nor “role:” and a role. GET /permissions and GET /roles list those that exist."}
}

func (s *Service) checkScopes(rd db.Reader, owner string, scopes []string) error {
	unknown, above, err := s.cfg.Standing(rd, owner, scopes)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		var fields []sallyport.Field
		for _, i := range unknown {
			fields = append(fields, unknownScope(fmt.Sprintf("/scopes/%d", i)))
		}
		return sallyport.Invalid(fields...)
	}
	if len(above) > 0 {
		return &sallyport.Error{
			Status: http.StatusForbidden, Code: "above_own_rights",
			Message: fmt.Sprintf("An API key cannot be given more than its owner holds, and its owner does not hold /scopes/%d. Leave it out, or have it granted first.", above[0]),
		}
	}
	return nil
}

// Change is what to change of a key; nil leaves a member as it is.
type Change struct {
	Name   *string
	Active *bool
}

// Update changes a key of an owner. A key that is deactivated is refused from
// the next request on.
func (s *Service) Update(ctx context.Context, owner, id string, c Change) (r Record, err error) {
	if c.Name != nil {
		if fields := checkName(*c.Name); fields != nil {
			return r, sallyport.Invalid(fields...)
		}
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if r, err = own(tx, owner, id); err != nil {
			return err
		}
		before := r
		var members []string
		if c.Name != nil && *c.Name != r.Name {
			r.Name, members = *c.Name, append(members, "name")
		}
		if c.Active != nil && *c.Active != r.Active {
			r.Active, members = *c.Active, append(members, "is_active")
		}
		if members == nil {
			return nil
		}
		if before.Active && !r.Active {
			if err := audit.Watch(tx, r.Owner, time.Now()); err != nil {
				return err
			}
		}
		if err := updateKey(tx, r); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "apikey.changed", Target: r.ID, Detail: map[string]string{
			"owner": r.Owner, "prefix": r.Prefix, "members": strings.Join(members, " "), "is_active": strconv.FormatBool(r.Active),
		}})
	})
	return r, err
}

// Delete deletes a key, which is refused from the next request on. Without an
// owner it is the operator that deletes it.
func (s *Service) Delete(ctx context.Context, owner, id string) (r Record, err error) {
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if r, err = own(tx, owner, id); err != nil {
			return err
		}
		if err := audit.Watch(tx, r.Owner, time.Now()); err != nil {
			return err
		}
		if err := deleteKey(tx, r); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "apikey.deleted", Target: r.ID, Detail: map[string]string{
			"owner": r.Owner, "prefix": r.Prefix,
		}})
	})
	return r, err
}

// DeleteAll deletes every key of an owner, within a change that says why, and
// returns how many there were.
func DeleteAll(tx *db.Tx, owner string) (int64, error) { return deleteAll(tx, owner) }

// own reads a key of an owner; another's is not there.
func own(rd db.Reader, owner, id string) (Record, error) {
	r, ok, err := readKey(rd, id)
	if err == nil && (!ok || owner != "" && r.Owner != owner) {
		return Record{}, sallyport.NotFound("API key")
	}
	return r, err
}

// Of returns an owner's keys, newest first.
func Of(rd db.Reader, owner string) ([]Record, error) { return listKeys(rd, owner) }

// Get returns any key.
func (s *Service) Get(ctx context.Context, id string) (Record, error) {
	return own(s.cfg.DB.View(ctx), "", id)
}

// List returns the keys of an owner, newest first.
func (s *Service) List(ctx context.Context, owner string) ([]Record, error) {
	return listKeys(s.cfg.DB.View(ctx), owner)
}

// All yields every key of everybody, in order of creation.
func (s *Service) All(ctx context.Context) (all []Record, err error) {
	const step = 500
	for after := ""; ; {
		part, err := listAll(s.cfg.DB.View(ctx), after, step)
		all = append(all, part...)
		if err != nil || len(part) < step {
			return all, err
		}
		after = part[len(part)-1].ID
	}
}

// asStored is a time as it is read back.
func asStored(t time.Time) time.Time { return timeOrNone(optional(t)) }

func timeText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}
