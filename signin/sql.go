package signin

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// pending is a sign-in whose first factor was proved and whose second one is due.
type pending struct {
	digest  []byte // of the token
	subject string
	method  string   // how the first factor was proved: session.Password, session.Email
	bound   [16]byte // what must be as it was for that to count
	setup   bool     // the second factor is yet to be set up
	client  string
	scoped  bool
	scope   []string // as it was asked for
	cookie  bool
	tries   int
	expires time.Time
}

func insertPending(tx *db.Tx, p pending, now time.Time) error {
	return tx.Later(`INSERT INTO sp_pending_signins
		(digest, subject_id, method, bound, setup, client_id, scoped, scope, cookie, tries, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11)`,
		p.digest, p.subject, p.method, p.bound[:], p.setup, p.client, p.scoped, strings.Join(p.scope, " "), p.cookie, db.Micros(now), db.Micros(p.expires))
}

func readPending(rd db.Reader, digest []byte) (p pending, found bool, err error) {
	var bound []byte
	var scope string
	var expires int64
	found, err = rd.Row(`SELECT subject_id, method, bound, setup, client_id, scoped, scope, cookie, tries, expires_at FROM sp_pending_signins WHERE digest = $1`, []any{digest},
		&p.subject, &p.method, &bound, &p.setup, &p.client, &p.scoped, &scope, &p.cookie, &p.tries, &expires)
	p.digest, p.scope, p.expires = digest, strings.Fields(scope), db.Time(expires)
	copy(p.bound[:], bound)
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
	return tx.Later("DELETE FROM sp_pending_signins WHERE subject_id = $1", subject)
}

// deleteOldestPending leaves a subject the newest ones.
func deleteOldestPending(tx *db.Tx, subject string, keep int) error {
	return tx.Later(`DELETE FROM sp_pending_signins WHERE digest IN (
		SELECT digest FROM sp_pending_signins WHERE subject_id = $1 ORDER BY created_at DESC, digest LIMIT 100 OFFSET $2)`, subject, keep)
}

func deleteExpiredPending(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_pending_signins WHERE digest IN (
		SELECT digest FROM sp_pending_signins WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, db.Micros(before), limit)
}

// ForgetEvery deletes up to limit of all pending sign-ins, and returns how many.
func ForgetEvery(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_pending_signins WHERE digest IN (SELECT digest FROM sp_pending_signins LIMIT $1)", limit)
}

// readDevice reads when a device of a subject was last seen, to the day.
func readDevice(rd db.Reader, subject string, device []byte) (seen time.Time, found bool, err error) {
	var at int64
	found, err = rd.Row("SELECT seen_at FROM sp_devices WHERE subject_id = $1 AND device = $2", []any{subject, device}, &at)
	return db.Time(at), found, err
}

// Devices returns when each device of a subject was last seen, newest first, for
// an export.
func Devices(rd db.Reader, subject string) (seen []time.Time, err error) {
	err = rd.Rows("SELECT seen_at FROM sp_devices WHERE subject_id = $1 ORDER BY seen_at DESC, device LIMIT 1000", []any{subject}, func(scan db.Scan) error {
		var at int64
		err := scan(&at)
		seen = append(seen, db.Time(at))
		return err
	})
	return seen, err
}

// putDevice notes that a device was seen, and if told that its person is told of
// it.
func putDevice(tx *db.Tx, subject string, device []byte, told bool, now time.Time) error {
	at := int64(0)
	if told {
		at = db.Micros(now)
	}
	return tx.Later(`INSERT INTO sp_devices (subject_id, device, seen_at, told_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (subject_id, device) DO UPDATE SET seen_at = excluded.seen_at,
			told_at = CASE WHEN excluded.told_at = 0 THEN sp_devices.told_at ELSE excluded.told_at END`,
		subject, device, db.Micros(now), at)
}

// toldSince returns of how many devices a person was told since a moment.
func toldSince(rd db.Reader, subject string, since time.Time) (n int, err error) {
	_, err = rd.Row("SELECT COUNT(*) FROM sp_devices WHERE subject_id = $1 AND told_at > $2", []any{subject, db.Micros(since)}, &n)
	return n, err
}

// deleteOldestDevices leaves a subject those that were seen last, and those that
// still count for how many letters there were.
func deleteOldestDevices(tx *db.Tx, subject string, keep int, told time.Time) error {
	return tx.Later(`DELETE FROM sp_devices WHERE subject_id = $1 AND told_at <= $3 AND device IN (
		SELECT device FROM sp_devices WHERE subject_id = $1 ORDER BY seen_at DESC, device LIMIT 100 OFFSET $2)`, subject, keep, db.Micros(told))
}

// deleteDevices deletes all those of a subject.
func deleteDevices(tx *db.Tx, subject string) error {
	return tx.Later("DELETE FROM sp_devices WHERE subject_id = $1", subject)
}

func deleteOldDevices(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_devices WHERE (subject_id, device) IN (
		SELECT subject_id, device FROM sp_devices WHERE seen_at < $1 ORDER BY seen_at LIMIT $2)`, db.Micros(before), limit)
}
