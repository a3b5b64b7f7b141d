package sallyport

import (
	"encoding/hex"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of credential: how a caller proved who it is.
type Kind string

// The kinds of credential a principal may have come with.
const (
	KindNone   Kind = ""        // anonymous
	KindBearer Kind = "bearer"  // an access token (RFC 6750)
	KindAPIKey Kind = "api_key" // a key of a person, or of the configuration
	KindCookie Kind = "cookie"  // a browser's session
	KindBasic  Kind = "basic"   // a name and password (RFC 7617)
	KindClient Kind = "client"  // a machine client's id and secret (RFC 6749, 2.3.1)
)

// Kinds lists every kind of credential.
func Kinds() []Kind {
	return []Kind{KindBearer, KindAPIKey, KindCookie, KindBasic, KindClient}
}

// Set is an immutable set of names. Its zero value is empty.
type Set struct{ m map[string]struct{} }

// NewSet returns the set of the given names.
func NewSet(names ...string) Set {
	if len(names) == 0 {
		return Set{}
	}
	m := make(map[string]struct{}, len(names))
	for _, n := range names {
		m[n] = struct{}{}
	}
	return Set{m}
}

// Has reports whether name is in the set. Names match exactly: no wildcards,
// no folding of case.
func (s Set) Has(name string) bool { _, ok := s.m[name]; return ok }

// Len returns the number of names.
func (s Set) Len() int { return len(s.m) }

// All yields the names in no particular order.
func (s Set) All() iter.Seq[string] { return maps.Keys(s.m) }

// Names returns the names in sorted order, never nil.
func (s Set) Names() []string {
	out := slices.AppendSeq(make([]string, 0, len(s.m)), maps.Keys(s.m))
	slices.Sort(out)
	return out
}

// String returns the names in sorted order, separated by spaces, as a scope is
// written (RFC 6749, 3.3).
func (s Set) String() string { return strings.Join(s.Names(), " ") }

// Claims is what one verified credential says. It is made by the first door
// (package authn), only after verification, and is never changed afterwards.
type Claims struct {
	Subject string // id of the account or machine client
	Session string // id of the session, if the credential belongs to one
	Key     string // id of the API key, if it is one
	Client  string // OAuth client the credential was issued to, if any
	Kind    Kind

	// Scoped tells whether the credential was limited to Scopes when it was
	// issued. An unscoped credential may do what its subject may do.
	Scoped bool
	Scopes Set

	MFA      bool      // a second factor was used in this session
	AuthTime time.Time // when the person last proved who they are (OpenID Connect auth_time)
	Expires  time.Time
}

// Grants is what a subject may do: its roles and permissions, with those that
// come through roles resolved. It is immutable and shared between requests.
type Grants struct {
	everything  bool
	roles       Set
	permissions Set

	directRoles, directPermissions []string
}

// NewGrants returns grants of exactly these roles and permissions.
func NewGrants(roles, permissions []string) *Grants {
	return &Grants{roles: NewSet(roles...), permissions: NewSet(permissions...)}
}

// NewAdminGrants returns grants that include every permission there is or will
// be, and these roles.
func NewAdminGrants(roles, permissions []string) *Grants {
	g := NewGrants(roles, permissions)
	g.everything = true
	return g
}

// WithDirect returns the same grants, and remembers which of them were given to
// the subject itself, in sorted order. The slices are kept.
func (g *Grants) WithDirect(roles, permissions []string) *Grants {
	c := *g
	c.directRoles, c.directPermissions = roles, permissions
	return &c
}

// Direct returns what was given to the subject itself and not through roles.
func (g *Grants) Direct() (roles, permissions []string) {
	if g == nil {
		return nil, nil
	}
	return slices.Clone(g.directRoles), slices.Clone(g.directPermissions)
}

// Everything reports whether every permission is held.
func (g *Grants) Everything() bool { return g != nil && g.everything }

// Roles returns the roles held, directly or through other roles.
func (g *Grants) Roles() Set {
	if g == nil {
		return Set{}
	}
	return g.roles
}

// Permissions returns the named permissions held. With Everything it is not
// the whole truth: ask Holds.
func (g *Grants) Permissions() Set {
	if g == nil {
		return Set{}
	}
	return g.permissions
}

// Includes reports whether everything in other is in g.
func (g *Grants) Includes(other *Grants) bool {
	if other.Everything() && !g.Everything() {
		return false
	}
	for name := range other.Permissions().All() {
		if !g.Holds(name) {
			return false
		}
	}
	for name := range other.Roles().All() {
		if !g.Roles().Has(name) {
			return false
		}
	}
	return true
}

// Holds reports whether the permission is held.
func (g *Grants) Holds(permission string) bool {
	return g != nil && (g.everything || g.permissions.Has(permission))
}

// Principal is who is calling: the claims of one verified credential and the
// current grants of its subject. It is a value, opaque and immutable; the zero
// Principal is anonymous and may do nothing that is not public.
type Principal struct {
	claims Claims
	grants *Grants

	// If compact, the ids are here and not in claims: subject, and unit, which
	// is the session or the API key.
	compact       bool
	subject, unit [16]byte
}

// NewPrincipal returns the principal of a verified credential. Only code that
// has verified c may call it: the first door, and tests.
func NewPrincipal(c Claims, g *Grants) Principal { return Principal{claims: c, grants: g} }

// NewCompactPrincipal is NewPrincipal for ids that are UUIDs: their text is made
// when it is asked for, and a request whose handler does not ask pays nothing.
// Subject, Session and Key of c are ignored; unit is the session, or the key
// of an API key.
func NewCompactPrincipal(c Claims, subject, unit [16]byte, g *Grants) Principal {
	return Principal{claims: c, grants: g, compact: true, subject: subject, unit: unit}
}

// Anonymous reports whether nobody was authenticated.
func (p Principal) Anonymous() bool { return p.claims.Subject == "" && !p.compact }

// ID returns the subject's id, or "" for an anonymous principal.
func (p Principal) ID() string {
	if p.compact {
		return uuidText(p.subject)
	}
	return p.claims.Subject
}

// SessionID returns the id of the session the credential belongs to, or "".
func (p Principal) SessionID() string {
	if p.compact && (p.claims.Kind == KindBearer || p.claims.Kind == KindCookie) {
		return uuidText(p.unit)
	}
	return p.claims.Session
}

// KeyID returns the id of the API key, or "" if the credential is none.
func (p Principal) KeyID() string {
	if p.compact && p.claims.Kind == KindAPIKey {
		return uuidText(p.unit)
	}
	return p.claims.Key
}

// Kind returns the kind of credential.
func (p Principal) Kind() Kind { return p.claims.Kind }

// Claims returns what the credential said.
func (p Principal) Claims() Claims {
	c := p.claims
	c.Subject, c.Session, c.Key = p.ID(), p.SessionID(), p.KeyID()
	return c
}

// uuidText is a UUID as RFC 9562, section 4, writes it.
func uuidText(id [16]byte) string {
	var b [36]byte
	hex.Encode(b[:8], id[:4])
	b[8] = '-'
	hex.Encode(b[9:13], id[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], id[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], id[8:10])
	b[23] = '-'
	hex.Encode(b[24:], id[10:])
	return string(b[:])
}

// Grants returns the subject's grants; nil for an anonymous principal. They
// are not limited by the credential's scope: use Can and HasRole to decide.
func (p Principal) Grants() *Grants { return p.grants }

// Can reports whether the principal may use a permission with this credential:
// the subject holds it, and the credential's scope, if it has one, lists it.
func (p *Principal) Can(permission string) bool {
	return p.grants.Holds(permission) && (!p.claims.Scoped || p.claims.Scopes.Has(permission))
}

// HasRole reports whether the principal has a role with this credential. A
// scoped credential has a role only if it was granted the scope "role:NAME".
func (p *Principal) HasRole(name string) bool {
	return p.grants.Roles().Has(name) && (!p.claims.Scoped || p.claims.Scopes.Has(roleScope(name)))
}

func roleScope(name string) string { return "role:" + name }

// LogValue implements slog.LogValuer: identity only.
func (p Principal) LogValue() slog.Value {
	if p.Anonymous() {
		return slog.StringValue("anonymous")
	}
	return slog.GroupValue(
		slog.String("id", p.ID()),
		slog.String("session", p.SessionID()),
		slog.String("kind", string(p.claims.Kind)),
	)
}
