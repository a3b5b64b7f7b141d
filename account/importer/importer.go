// Package importer takes accounts over from other systems with their passwords:
// from fastapi-users, Django, Auth0, Keycloak, and from a form of our own.
//
// It decides which records of a file become accounts: those that could have
// registered here, whose hash can be verified at a bearable cost, and whose
// names nobody has. It reads a file record by record, writes in batches, and
// stores with each batch how far it came, so that an import that was stopped
// anywhere goes on there. It never changes an account that exists, never makes
// anybody an administrator unless it is told to, and never shows a hash.
//
// Begin with Service.Import.
package importer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// Source is where a file comes from.
type Source string

// The sources.
const (
	FastAPIUsers Source = "fastapi-users"
	Django       Source = "django"
	Auth0        Source = "auth0"
	Keycloak     Source = "keycloak"
	NDJSON       Source = "ndjson"
)

// Options are what an import is told. They are stored with it, for going on.
type Options struct {
	Source Source `json:"-"`
	File   string `json:"-"`
	Admins bool   `json:"admins,omitempty"` // superusers become administrators
	Model  string `json:"model,omitempty"`  // of Django's user; "auth.user" if empty
}

// record is what a file says of one account, in our words.
type record struct {
	email, username, fullName string
	verified, disabled, super bool
	roles, permissions        []string // nil: what everybody is given
	hash                      string   // in a form that password.Identify knows; "" for none
	created                   time.Time
}

// Note is what is to be said of one record: why it was refused, or what of it
// was left out. It holds nothing of the record, which may have a secret in any
// place.
type Note struct {
	Line    int    `json:"line"` // where the record begins in the file, from 1
	Refused bool   `json:"refused"`
	Kind    string `json:"kind"` // stable; see docs/import.md
	Reason  string `json:"reason"`
}

// Kinds of notes that this package makes; the others are those of account's
// fields.
const (
	KindMalformed   = "malformed"          // not a record of this source
	KindTooLong     = "too_long"           // longer than MaxRecord
	KindDuplicate   = "duplicate_member"   // a member stands twice: two readers would read two things
	KindUnknown     = "unknown_member"     // of our own form
	KindType        = "wrong_type"         // a member is of another type
	KindTime        = "invalid_time"       // a time that cannot be read, or is to come
	KindNoPerson    = "not_a_person"       // a program's account
	KindHash        = "hash_refused"       // the hash cannot be verified, or would cost too much
	KindRole        = "unknown_role"       // there is no such role here
	KindPermission  = "unknown_permission" // there is no such permission here
	KindAdmin       = "administrator"      // would be one, and that was not asked for
	KindExists      = "account_exists"     // somebody here has the address or user name
	KindTwice       = "twice_in_file"      // an earlier record has the address or user name
	KindSuper       = "superuser"          // imported, but not as an administrator
	KindNotTaken    = "not_taken_over"     // members that are not imported; said once each
	KindOtherRecord = "other_records"      // records of another kind; said once each
)

// refuse is a record's way out.
type refusal struct{ kind, reason string }

func (r *refusal) Error() string { return r.reason }

func refuse(kind, format string, args ...any) error {
	return &refusal{kind, fmt.Sprintf(format, args...)}
}

// errSkip is of a record that is no account and is not refused either.
var errSkip = errors.New("not an account")

// row is a record on its way to the database.
type row struct {
	line   int
	number int64 // of the record in the file, from 1
	acc    account.Imported
	super  bool
	err    *refusal // or why not
	skip   bool
}

// plain reports whether the account gets the role that everybody gets, and no
// other. A refused record counts as one: it adds nobody.
func (x *row) plain() bool {
	return x.err != nil || x.skip || len(x.acc.Roles) == 1 && x.acc.Roles[0] == role.User
}

// clockSkew is how far the other system's clock, or its idea of its zone, may be
// ahead.
const clockSkew = 24 * time.Hour

// check turns a record into an account that may be inserted, as far as that can
// be told without the database.
func check(rec record, id string, now time.Time) (account.Imported, error) {
	in := account.Imported{
		ID: id, Email: rec.email, EmailVerified: rec.verified, Disabled: rec.disabled,
		Roles: rec.roles, Permissions: rec.permissions, Hash: rec.hash, CreatedAt: rec.created, ImportedAt: now,
	}
	// Copies, so that what is kept of a record until it is written is no more than
	// the account.
	username, fullName := rec.username, strings.Clone(rec.fullName)
	if username != "" {
		in.Username = &username
	}
	// Where the user name is the address, as many sites have it, the address does.
	if strings.Contains(rec.username, "@") {
		if name, ok := account.EmailKey(rec.username); ok {
			if email, ok := account.EmailKey(rec.email); ok && name == email {
				in.Username = nil
			}
		}
	}
	if fullName != "" {
		in.FullName = &fullName
	}
	if in.Roles == nil {
		in.Roles = []string{role.User}
	}
	if in.CreatedAt.After(now.Add(clockSkew)) || !in.CreatedAt.IsZero() && in.CreatedAt.Unix() < 0 {
		return in, refuse(KindTime, "it was made in the future, or before 1970")
	}
	if in.CreatedAt.IsZero() || in.CreatedAt.After(now) {
		in.CreatedAt = now
	}
	if rec.email == "" {
		return in, refuse("invalid_email", "it has no e-mail address, and every account here has one")
	}
	if f := in.Check(); f != nil {
		return in, refuse(f.Code, "%s: %s", strings.TrimPrefix(f.Pointer, "/"), f.Detail)
	}
	if err := checkGrants(in.Roles, in.Permissions); err != nil {
		return in, err
	}
	if in.Hash == "" {
		return in, nil
	}
	if _, err := password.Identify(in.Hash); errors.Is(err, password.ErrUnusable) {
		in.Hash = "" // switched off there, and so here
	} else if err != nil {
		return in, refuse(KindHash, "%s", strings.TrimPrefix(err.Error(), "password: "))
	}
	return in, nil
}

// maxGrants bounds the roles of a record, and its permissions.
const maxGrants = 200

// checkGrants refuses what can be neither roles nor permissions anywhere, before
// it is kept.
func checkGrants(roles, permissions []string) error {
	if len(roles) > maxGrants || len(permissions) > maxGrants {
		return refuse(KindType, "it has more than %d roles or permissions", maxGrants)
	}
	invalid := func(name string) bool { return sallyport.CheckName(name) != nil }
	if slices.ContainsFunc(roles, invalid) {
		return noRole()
	}
	if slices.ContainsFunc(permissions, invalid) {
		return noPermission()
	}
	return nil
}

func noRole() *refusal {
	return &refusal{KindRole, "it has a role that does not exist here: make it first (sallyport role set)"}
}

func noPermission() *refusal {
	return &refusal{KindPermission, "it has a permission that does not exist here: make it first (sallyport permission set)"}
}

// may holds an account against the roles there are, inside the transaction that
// inserts it. It returns whether the account administers.
func may(g role.Graph, r *row, o Options) (admin bool, err *refusal) {
	for _, name := range r.acc.Roles {
		if g.Roles[name] == nil {
			return false, noRole()
		}
	}
	for _, name := range r.acc.Permissions {
		if g.Permissions[name] == nil {
			return false, noPermission()
		}
	}
	admin = g.Resolve(r.acc.Roles, r.acc.Permissions).Everything()
	if admin && !o.Admins {
		return false, &refusal{KindAdmin, "its roles make it an administrator: with --admins it is imported as one"}
	}
	return admin, nil
}

// An import's id is a UUIDv7 whose last six bytes are zero. The account of its
// n-th record has n there. So an import needs no rows to know its accounts, a
// batch that is written again after a crash cannot add anybody twice, and what
// is inserted is in the order of the index. Ids are names and not secrets.
func newID() string {
	id := uuid.Must(uuid.NewV7())
	copy(id[10:], make([]byte, 6))
	return id.String()
}

func accountID(importID string, number int64) string {
	return importID[:len(importID)-12] + fmt.Sprintf("%012x", number)
}

// lastID is the greatest that an account of the import can have.
func lastID(importID string) string { return importID[:len(importID)-12] + "ffffffffffff" }

// numberOf returns which record of the import an account was made from.
func numberOf(importID, id string) (int64, bool) {
	tail, ours := strings.CutPrefix(id, importID[:len(importID)-12])
	b, err := hex.DecodeString(tail)
	if !ours || err != nil || len(b) != 6 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		n = n<<8 | int64(c)
	}
	return n, true
}

// State is how far an import is.
type State string

// The states.
const (
	Running State = "running" // or stopped
	Done    State = "done"
	Undone  State = "undone"
)

// Counts are of what was read so far.
type Counts struct {
	Records         int64 `json:"records"`
	Imported        int64 `json:"imported"`
	Refused         int64 `json:"refused"`
	Administrators  int64 `json:"administrators"`
	WithoutPassword int64 `json:"without_password"`
}

// Import is an import as it is stored.
type Import struct {
	ID        string    `json:"id"`
	Source    Source    `json:"source"`
	File      string    `json:"file"`
	State     State     `json:"state"`
	StartedAt time.Time `json:"started_at"`
	Counts

	options Options
	size    int64
	offset  int64
	digest  string
}

// Progress is how far a run is.
type Progress struct {
	Counts
	Offset, Size int64 // bytes of the file
}

// Service imports.
type Service struct {
	DB  *db.DB
	Now func() time.Time // time.Now if nil
	// Batch is how many records are written at once; 500 if zero.
	Batch int
}

func (s *Service) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// Watch is told what happens, in the goroutine that runs the import.
type Watch struct {
	Began    func(Import)
	Progress func(Progress) // after each batch
	Note     func(Note) error
}
