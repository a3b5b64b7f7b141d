package signin

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// pending is a sign-in whose password was right and whose second factor is due.
type pending struct {
	digest   []byte // of the token
	subject  string
	password [16]byte // account.HashID of the hash that the password was right for
	client   string
	scoped   bool
	scope    []string // as it was asked for
	cookie   bool
	tries    int
	expires  time.Time
}

func insertPending(tx *db.Tx, p pending, now time.Time) error {
	_, err := tx.Exec(`INSERT INTO sp_pending_signins
		(digest, subject_id, password, client_id, scoped, scope, cookie, tries, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9)`,
		p.digest, p.subject, p.password[:], p.client, p.scoped, strings.Join(p.scope, " "), p.cookie, db.Micros(now), db.Micros(p.expires))
	return err
}

func readPending(rd db.Reader, digest []byte) (p pending, found bool, err error) {
	var password []byte
	var scope string
	var expires int64
	found, err = rd.Row(`SELECT subject_id, password, client_id, scoped, scope, cookie, tries, expires_at FROM sp_pending_signins WHERE digest = $1`, []any{digest},
		&p.subject, &password, &p.client, &p.scoped, &scope, &p.cookie, &p.tries, &expires)
	p.digest, p.scope, p.expires = digest, strings.Fields(scope), db.Time(expires)
	copy(p.password[:], password)
	return p, found, err
}

// takeTry counts a code that is going to be looked at, before it is; no more than
// most ever are.
func takeTry(tx *db.Tx, digest []byte, most int, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_pending_signins SET tries = tries + 1 WHERE digest = $1 AND tries < $2 AND expires_at > $3", digest, most, db.Micros(now))
	return n == 1, err
}

// deletePending ends a pending sign-in; exactly one caller can.
func deletePending(tx *db.Tx, digest []byte) (bool, error) {
	n, err := tx.Exec("DELETE FROM sp_pending_signins WHERE digest = $1", digest)
	return n == 1, err
}

// deletePendingOf ends all those of a subject.
func deletePendingOf(tx *db.Tx, subject string) error {
	_, err := tx.Exec("DELETE FROM sp_pending_signins WHERE subject_id = $1", subject)
	return err
}

// deleteOldestPending leaves a subject the newest ones.
func deleteOldestPending(tx *db.Tx, subject string, keep int) error {
	_, err := tx.Exec(`DELETE FROM sp_pending_signins WHERE digest IN (
		SELECT digest FROM sp_pending_signins WHERE subject_id = $1 ORDER BY created_at DESC, digest LIMIT 100 OFFSET $2)`, subject, keep)
	return err
}

func deleteExpiredPending(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_pending_signins WHERE digest IN (
		SELECT digest FROM sp_pending_signins WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, db.Micros(before), limit)
}

// ForgetEvery deletes up to limit of all pending sign-ins, and returns how many.
func ForgetEvery(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_pending_signins WHERE digest IN (SELECT digest FROM sp_pending_signins LIMIT $1)", limit)
}
