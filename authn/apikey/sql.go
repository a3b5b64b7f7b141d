package apikey

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

func insertKey(tx *db.Tx, r Record, digest []byte) error {
	return tx.Later(`INSERT INTO sp_api_keys
		(id, subject_id, name, prefix, digest, scopes, created_at, expires_at, is_active, last_used_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)`,
		r.ID, r.Owner, r.Name, r.Prefix, digest, strings.Join(r.Scopes, " "), db.Micros(r.CreatedAt), optional(r.ExpiresAt), r.Active)
}

// found is what a digest leads to.
type found struct {
	id, owner, scopes string
	expires           int64
}

func readByDigest(rd db.Reader, digest []byte) (f found, ok bool, err error) {
	ok, err = rd.Row("SELECT id, subject_id, scopes, expires_at FROM sp_api_keys WHERE digest = $1", []any{digest}, &f.id, &f.owner, &f.scopes, &f.expires)
	return f, ok, err
}

// readState reads what a key's owner may do if the key is good: one statement,
// so that it is of one moment.
func readState(rd db.Reader, id, owner string, now time.Time) (st authn.State, expires int64, good bool, err error) {
	good, err = rd.Row(`SELECT k.expires_at, `+authn.StateColumns+`
		FROM sp_api_keys k
		JOIN sp_subjects u ON u.id = k.subject_id
		JOIN sp_versions v ON v.id = 1
		WHERE k.id = $1 AND k.subject_id = $2 AND k.is_active AND (k.expires_at = 0 OR k.expires_at > $3) AND NOT u.disabled`,
		[]any{id, owner, db.Micros(now)}, st.Columns(&expires)...)
	return st, expires, good, err
}

// whyRefused tells the operator why a key was refused a moment ago.
func whyRefused(rd db.Reader, id string, now time.Time) (string, error) {
	var active, disabled bool
	var expires int64
	found, err := rd.Row(`SELECT k.is_active, k.expires_at, u.disabled
		FROM sp_api_keys k JOIN sp_subjects u ON u.id = k.subject_id WHERE k.id = $1`, []any{id}, &active, &expires, &disabled)
	switch {
	case err != nil:
		return "", err
	case !found:
		return unknownKey, nil
	case !active:
		return "the API key was deactivated", nil
	case expires != 0 && db.Micros(now) >= expires:
		return "the API key has expired", nil
	case disabled:
		return "the account is disabled", nil
	}
	return "the API key was not good", nil
}

// isPerson reports whether a subject has an account.
func isPerson(rd db.Reader, id string) (found bool, err error) {
	var n int
	_, err = rd.Row("SELECT COUNT(*) FROM sp_accounts WHERE id = $1", []any{id}, &n)
	return n > 0, err
}

// deleteAll deletes every key of an owner.
func deleteAll(tx *db.Tx, owner string) (int64, error) {
	n, err := tx.Exec("DELETE FROM sp_api_keys WHERE subject_id = $1", owner)
	if err != nil || n == 0 {
		return 0, err
	}
	return n, tx.Changed(owner)
}

func countKeys(rd db.Reader, owner string) (n int, err error) {
	_, err = rd.Row("SELECT COUNT(*) FROM sp_api_keys WHERE subject_id = $1", []any{owner}, &n)
	return n, err
}

func readKey(rd db.Reader, id string) (r Record, ok bool, err error) {
	err = rd.Rows(`SELECT id, subject_id, name, prefix, scopes, created_at, expires_at, is_active, last_used_at
		FROM sp_api_keys WHERE id = $1`, []any{id}, func(scan db.Scan) error {
		ok = true
		return r.scan(scan)
	})
	return r, ok, err
}

func listKeys(rd db.Reader, owner string) (out []Record, err error) {
	err = rd.Rows(`SELECT id, subject_id, name, prefix, scopes, created_at, expires_at, is_active, last_used_at
		FROM sp_api_keys WHERE subject_id = $1 ORDER BY id DESC`, []any{owner}, appendTo(&out))
	return out, err
}

func listAll(rd db.Reader, after string, limit int) (out []Record, err error) {
	err = rd.Rows(`SELECT id, subject_id, name, prefix, scopes, created_at, expires_at, is_active, last_used_at
		FROM sp_api_keys WHERE id > $1 ORDER BY id LIMIT $2`, []any{after, limit}, appendTo(&out))
	return out, err
}

func updateKey(tx *db.Tx, r Record) error {
	_, err := tx.Exec("UPDATE sp_api_keys SET name = $2, is_active = $3 WHERE id = $1", r.ID, r.Name, r.Active)
	if err != nil {
		return err
	}
	return tx.Changed(r.Owner)
}

func deleteKey(tx *db.Tx, r Record) error {
	if err := tx.Later("DELETE FROM sp_api_keys WHERE id = $1", r.ID); err != nil {
		return err
	}
	return tx.Changed(r.Owner)
}

// noteUse does nothing for a key that is gone, and never goes back.
func noteUse(tx *db.Tx, id string, at time.Time) error {
	return tx.Later("UPDATE sp_api_keys SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2", id, db.Micros(at))
}

func appendTo(out *[]Record) func(db.Scan) error {
	return func(scan db.Scan) error {
		var r Record
		err := r.scan(scan)
		*out = append(*out, r)
		return err
	}
}

func (r *Record) scan(scan db.Scan) error {
	var scopes string
	var created, expires, used int64
	err := scan(&r.ID, &r.Owner, &r.Name, &r.Prefix, &scopes, &created, &expires, &r.Active, &used)
	r.Scopes = append([]string{}, strings.Fields(scopes)...)
	r.CreatedAt, r.ExpiresAt, r.LastUsedAt = db.Time(created), timeOrNone(expires), timeOrNone(used)
	return err
}

// optional is a time that may be none, as it is stored.
func optional(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return db.Micros(t)
}

func timeOrNone(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return db.Time(micros)
}

// DeactivateEvery deactivates up to limit of all keys, and returns how many. It
// declares no change: whoever calls it lets every node forget everything
// (db.NewFeed).
func DeactivateEvery(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("UPDATE sp_api_keys SET is_active = FALSE WHERE id IN (SELECT id FROM sp_api_keys WHERE is_active LIMIT $1)", limit)
}
