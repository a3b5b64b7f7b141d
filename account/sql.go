package account

import (
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
)

func insertAccount(tx *db.Tx, u User, k keys, hash string) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_accounts
		(id, username, username_key, email, email_key, email_verified, full_name, password_hash, created_at, updated_at, last_login_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, NULL)
		ON CONFLICT DO NOTHING`,
		u.ID, u.Username, k.username, u.Email, k.email, u.EmailVerified, u.FullName, hash, db.Micros(u.CreatedAt))
	return n == 1, err
}

func insertImported(tx *db.Tx, in *Imported) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_accounts
		(id, username, username_key, email, email_key, email_verified, full_name, password_hash, created_at, updated_at, last_login_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL)
		ON CONFLICT DO NOTHING`,
		in.ID, in.Username, in.keys.username, in.Email, in.keys.email, in.EmailVerified, in.FullName, in.Hash, db.Micros(in.CreatedAt), db.Micros(in.ImportedAt))
	return n == 1, err
}

func readHolder(rd db.Reader, k keys) (id string, byName bool, err error) {
	found, err := rd.Row("SELECT id FROM sp_accounts WHERE email_key = $1", []any{k.email}, &id)
	if found || err != nil || k.username == nil {
		return id, false, err
	}
	_, err = rd.Row("SELECT id FROM sp_accounts WHERE username_key = $1", []any{*k.username}, &id)
	return id, true, err
}

// userColumns are what scanUser scans, of sp_accounts a and sp_subjects s. With
// the grants it is one read and not two: names hold no spaces.
const userColumns = `a.id, a.username, a.email, a.email_verified, a.full_name, s.disabled, a.mfa, a.created_at, a.updated_at, a.last_login_at,
	(SELECT COALESCE(string_agg(role, ' '), '') FROM sp_subject_roles WHERE subject_id = a.id),
	(SELECT COALESCE(string_agg(permission, ' '), '') FROM sp_subject_permissions WHERE subject_id = a.id)`

func scanUser(scan db.Scan, u *User) error {
	var created, updated int64
	var login *int64
	var roles, permissions string
	if err := scan(&u.ID, &u.Username, &u.Email, &u.EmailVerified, &u.FullName, &u.Disabled, &u.MFAEnabled, &created, &updated, &login, &roles, &permissions); err != nil {
		return err
	}
	u.Roles, u.Permissions = strings.Fields(roles), strings.Fields(permissions) // never nil
	slices.Sort(u.Roles)
	slices.Sort(u.Permissions)
	u.complete(created, updated, login)
	return nil
}

func readUser(rd db.Reader, id string) (u User, found bool, err error) {
	err = scanUser(func(dst ...any) (err error) {
		found, err = rd.Row("SELECT "+userColumns+" FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id WHERE a.id = $1", []any{id}, dst...)
		return err
	}, &u)
	if !found {
		return User{}, false, err
	}
	return u, true, err
}

// complete sets the times, which are stored in another form.
func (u *User) complete(created, updated int64, login *int64) {
	u.CreatedAt, u.UpdatedAt = db.Time(created), db.Time(updated)
	if login != nil {
		t := db.Time(*login)
		u.LastLoginAt = &t
	}
}

// readOwn reads the account of whoever is signed in, with the grants that the
// request was let in with: nothing is read that is known already, because no
// request is made more often.
func readOwn(rd db.Reader, id string, g *sallyport.Grants) (u User, found bool, err error) {
	var created, updated int64
	var login *int64
	found, err = rd.Row(`SELECT username, email, email_verified, full_name, mfa, created_at, updated_at, last_login_at
		FROM sp_accounts WHERE id = $1`, []any{id}, &u.Username, &u.Email, &u.EmailVerified, &u.FullName, &u.MFAEnabled, &created, &updated, &login)
	u.ID = id
	u.complete(created, updated, login)
	u.Roles, u.Permissions = g.Direct()
	return u, found, err
}

// Login is what signing in needs to know of an account.
type Login struct {
	ID       string
	Hash     string // '' if there is no password
	Disabled bool
	MFA      bool   // has a second factor
	Verified bool   // the address was shown to be theirs
	EmailKey string // the address as it is compared
}

// loginColumns are where Login's columns go: of sp_accounts a and sp_subjects s.
const loginColumns = "a.id, a.password_hash, s.disabled, a.mfa, a.email_verified, a.email_key"

func (l *Login) columns() []any {
	return []any{&l.ID, &l.Hash, &l.Disabled, &l.MFA, &l.Verified, &l.EmailKey}
}

// FindLogin returns the account of a login name: an address or a user name.
func FindLogin(rd db.Reader, login string) (l Login, found bool, err error) {
	email, username := loginKeys(login)
	found, err = rd.Row("SELECT "+loginColumns+` FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id
		WHERE a.email_key = $1 OR a.username_key = $2`, []any{email, username}, l.columns()...)
	return l, found, err
}

// Username returns the user name of an account, "" if it has none or there is no
// such account.
func Username(rd db.Reader, id string) (name string, err error) {
	_, err = rd.Row("SELECT COALESCE(username, '') FROM sp_accounts WHERE id = $1", []any{id}, &name)
	return name, err
}

// Label returns what an account is called: its user name, or else its address. One of
// a users table may have neither.
func Label(rd db.Reader, id string) (label string, found bool, err error) {
	found, err = rd.Row("SELECT COALESCE(username, NULLIF(email, ''), id) FROM sp_accounts WHERE id = $1", []any{id}, &label)
	return label, found, err
}

// Recipient returns to whom letters about an account go.
func Recipient(rd db.Reader, id string) (r mail.Recipient, found bool, err error) {
	found, err = rd.Row("SELECT email, COALESCE(full_name, username, '') FROM sp_accounts WHERE id = $1", []any{id}, &r.Address, &r.Name)
	return r, found, err
}

const addresseeColumns = "a.id, a.email, COALESCE(a.full_name, a.username, ''), a.email_verified, s.disabled, a.email_key, a.password_hash"

func (a *addressee) columns() []any {
	return []any{&a.ID, &a.Email, &a.Name, &a.Verified, &a.Disabled, &a.key, &a.hash}
}

func readAddressee(rd db.Reader, id string) (a addressee, found bool, err error) {
	found, err = rd.Row("SELECT "+addresseeColumns+" FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id WHERE a.id = $1", []any{id}, a.columns()...)
	a.key = plainKey(a.key)
	return a, found, err
}

func readByAddress(rd db.Reader, key string) (a addressee, found bool, err error) {
	found, err = rd.Row("SELECT "+addresseeColumns+" FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id WHERE a.email_key = $1", []any{key}, a.columns()...)
	return a, found, err
}

func usernameTaken(rd db.Reader, key string) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_accounts WHERE username_key = $1", []any{key}, &n)
}

func markVerified(tx *db.Tx, id string, now time.Time) error {
	if err := tx.Later("UPDATE sp_accounts SET email_verified = TRUE, updated_at = $2 WHERE id = $1", id, db.Micros(now)); err != nil {
		return err
	}
	return tx.Changed(id)
}

// setHash stores a hash, whatever was there: who may do that has shown it by
// something else than the password. "" is no password.
func setHash(tx *db.Tx, id, hash string, now time.Time) error {
	if err := tx.Later("UPDATE sp_accounts SET password_hash = $2, updated_at = $3 WHERE id = $1", id, hash, db.Micros(now)); err != nil {
		return err
	}
	if err := settleHash(tx, id); err != nil {
		return err
	}
	return tx.Changed(id)
}

// ReadLogin returns the same by id, for looking again inside a transaction.
func ReadLogin(rd db.Reader, id string) (l Login, found bool, err error) {
	found, err = rd.Row("SELECT "+loginColumns+` FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id
		WHERE a.id = $1`, []any{id}, l.columns()...)
	l.EmailKey = plainKey(l.EmailKey)
	return l, found, err
}

// passwordState reads what somebody may do whose password was checked, and the
// hash that it must have been checked against. verified tells that only who has
// shown the address to be theirs may do anything.
func passwordState(rd db.Reader, id string, verified bool) (hash string, st authn.State, found bool, err error) {
	found, err = rd.Row(`SELECT a.password_hash, `+authn.StateColumns+`
		FROM sp_accounts a
		JOIN sp_subjects u ON u.id = a.id
		JOIN sp_versions v ON v.id = 1
		WHERE a.id = $1 AND NOT u.disabled AND NOT a.mfa AND (a.email_verified OR NOT $2)`, []any{id, verified}, st.Columns(&hash)...)
	return hash, st, found, err
}

// ReplaceHash stores a new hash if the old one is still there.
func ReplaceHash(tx *db.Tx, id, old, hash string, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_accounts SET password_hash = $3, updated_at = $4 WHERE id = $1 AND password_hash = $2",
		id, old, hash, db.Micros(now))
	if err != nil || n != 1 {
		return false, err
	}
	if err := settleHash(tx, id); err != nil {
		return false, err
	}
	return true, tx.Changed(id)
}

// UpgradeHash stores the same password under a current hash; it is no change
// that the person made.
func UpgradeHash(tx *db.Tx, id, old, hash string) error {
	if err := tx.Later("UPDATE sp_accounts SET password_hash = $3 WHERE id = $1 AND password_hash = $2", id, old, hash); err != nil {
		return err
	}
	return settleHash(tx, id)
}

// SetMFA stores whether an account has a second factor, and reports whether that
// is a change. Only package signin, which keeps the factor, calls it.
func SetMFA(tx *db.Tx, id string, on bool, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_accounts SET mfa = $2, updated_at = $3 WHERE id = $1 AND mfa <> $2", id, on, db.Micros(now))
	if err != nil || n != 1 {
		return false, err
	}
	return true, tx.Changed(id)
}

// SignedInBefore reports whether somebody has ever signed in to an account.
func SignedInBefore(rd db.Reader, id string) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_accounts WHERE id = $1 AND last_login_at IS NOT NULL", []any{id}, &n)
}

// claim marks an address as its reader's and takes away what let another in: the
// password and the second factor's mark.
func claim(tx *db.Tx, id string, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_accounts SET email_verified = TRUE, password_hash = '', mfa = FALSE, updated_at = $2 WHERE id = $1 AND NOT email_verified",
		id, db.Micros(now))
	if err != nil || n != 1 {
		return false, err
	}
	return true, tx.Changed(id)
}

// TouchLogin records a sign-in.
func TouchLogin(tx *db.Tx, id string, now time.Time) error {
	if err := tx.Later("UPDATE sp_accounts SET last_login_at = $2 WHERE id = $1", id, db.Micros(now)); err != nil {
		return err
	}
	return tx.Changed(id)
}

func namesTaken(rd db.Reader, id string, c Change, k keys) (bool, error) {
	var n int
	if c.Email != nil {
		if taken, err := rd.Row("SELECT 1 FROM sp_accounts WHERE email_key = $1 AND id <> $2", []any{k.email, id}, &n); taken || err != nil {
			return taken, err
		}
	}
	if k.username != nil {
		return rd.Row("SELECT 1 FROM sp_accounts WHERE username_key = $1 AND id <> $2", []any{*k.username, id}, &n)
	}
	return false, nil
}

func updateAccount(tx *db.Tx, u User, c Change, k keys) error {
	if c.Username != nil {
		if err := tx.Later("UPDATE sp_accounts SET username = $2, username_key = $3 WHERE id = $1", u.ID, u.Username, k.username); err != nil {
			return err
		}
	}
	if c.Email != nil {
		if err := tx.Later("UPDATE sp_accounts SET email = $2, email_key = $3 WHERE id = $1", u.ID, u.Email, k.email); err != nil {
			return err
		}
	}
	if err := tx.Later("UPDATE sp_accounts SET full_name = $2, email_verified = $3, updated_at = $4 WHERE id = $1",
		u.ID, u.FullName, u.EmailVerified, db.Micros(u.UpdatedAt)); err != nil {
		return err
	}
	return tx.Changed(u.ID)
}

// Filter narrows a list of accounts.
type Filter struct {
	Query    string // part of the address or user name, without regard to case
	Role     string // given directly
	Disabled *bool
}

type position struct {
	Created int64  `json:"c"`
	ID      string `json:"i"`
}

func listUsers(rd db.Reader, f Filter, after position, limit int) (out []User, err error) {
	disabled := -1
	if f.Disabled != nil {
		disabled = 0
		if *f.Disabled {
			disabled = 1
		}
	}
	err = rd.Rows("SELECT "+userColumns+` FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id
		WHERE (a.created_at, a.id) > ($1, $2)
		AND ($3 = '' OR replace(a.email_key, $3, '') <> a.email_key OR replace(COALESCE(a.username_key, ''), $3, '') <> COALESCE(a.username_key, ''))
		AND ($4 = '' OR EXISTS (SELECT 1 FROM sp_subject_roles g WHERE g.subject_id = a.id AND g.role = $4))
		AND ($5 = -1 OR ($5 = 1 AND s.disabled) OR ($5 = 0 AND NOT s.disabled))
		ORDER BY a.created_at, a.id LIMIT $6`,
		[]any{after.Created, after.ID, f.Query, f.Role, disabled, limit}, func(scan db.Scan) error {
			var u User
			err := scanUser(scan, &u)
			out = append(out, u)
			return err
		})
	return out, err
}

func readShadow(rd db.Reader, ownID string) (sh shadow, found bool, err error) {
	found, err = rd.Row(`SELECT o.subject_id, o.version, o.disabled, o.blocked, o.next_hash,
		COALESCE(a.username, ''), COALESCE(a.full_name, ''), a.email, a.email_verified, a.password_hash
		FROM sp_own_users o JOIN sp_accounts a ON a.id = o.subject_id WHERE o.own_id = $1`, []any{ownID},
		&sh.subject, &sh.version, &sh.disabled, &sh.blocked, &sh.next, &sh.username, &sh.fullName, &sh.email, &sh.verified, &sh.hash)
	return sh, found, err
}

func readOwnID(rd db.Reader, subject string) (ownID string, found bool, err error) {
	found, err = rd.Row("SELECT own_id FROM sp_own_users WHERE subject_id = $1", []any{subject}, &ownID)
	return ownID, found, err
}

func listOwn(rd db.Reader, after string, limit int) (ids []string, err error) {
	err = rd.Rows("SELECT own_id FROM sp_own_users WHERE own_id > $1 ORDER BY own_id LIMIT $2", []any{after, limit}, func(scan db.Scan) error {
		var id string
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

func insertOwn(tx *db.Tx, ownID, subject string, disabled bool) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_own_users (own_id, subject_id, version, disabled, blocked, next_hash, next_at)
		VALUES ($1, $2, 1, $3, FALSE, $4, 0) ON CONFLICT DO NOTHING`, ownID, subject, disabled, []byte{})
	return n == 1, err
}

// updateOwn notes what a users table says over a version of what it said; it reports
// false if something else was noted since.
func updateOwn(tx *db.Tx, ownID string, version int64, disabled bool) (bool, error) {
	n, err := tx.Exec("UPDATE sp_own_users SET version = version + 1, disabled = $3 WHERE own_id = $1 AND version = $2", ownID, version, disabled)
	return n == 1, err
}

func bumpOwn(tx *db.Tx, ownID string) (known bool, err error) {
	n, err := tx.Exec("UPDATE sp_own_users SET version = version + 1 WHERE own_id = $1", ownID)
	return n == 1, err
}

// noteBlocked notes that an administrator has disabled or enabled somebody, and returns
// what is to be: whoever is disabled in a users table stays so. noted is false if there
// is nothing new to note of a user of that table.
func noteBlocked(tx *db.Tx, subject string, blocked bool) (disabled, noted bool, err error) {
	n, err := tx.Exec("UPDATE sp_own_users SET version = version + 1, blocked = $2 WHERE subject_id = $1 AND blocked <> $2", subject, blocked)
	if err != nil {
		return false, false, err
	}
	_, err = tx.Row("SELECT disabled FROM sp_own_users WHERE subject_id = $1", []any{subject}, &disabled)
	return disabled || blocked, n == 1, err
}

// announceHash notes a hash that is about to take the place of one of the same
// password, unless another one has been since a moment ago.
func announceHash(tx *db.Tx, ownID string, hash []byte, now, since time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_own_users SET version = version + 1, next_hash = $2, next_at = $3 WHERE own_id = $1 AND (next_hash = $5 OR next_at <= $4)",
		ownID, hash, db.Micros(now), db.Micros(since), []byte{})
	return n == 1, err
}

// settleHash notes that what is stored of a password is what was to be.
func settleHash(tx *db.Tx, subject string) error {
	return tx.Later("UPDATE sp_own_users SET version = version + 1, next_hash = $2 WHERE subject_id = $1", subject, []byte{})
}

// followAccount stores what a users table says of somebody.
func followAccount(tx *db.Tx, id string, p profile, k keys, now time.Time) error {
	if err := tx.Later(`UPDATE sp_accounts SET username = $2, username_key = $3, email = $4, email_key = $5, email_verified = $6, full_name = $7,
		password_hash = $8, updated_at = $9 WHERE id = $1`,
		id, unlessEmpty(p.username), k.username, p.email, k.email, p.verified, unlessEmpty(p.fullName), p.hash, db.Micros(now)); err != nil {
		return err
	}
	return tx.Changed(id)
}
