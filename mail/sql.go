package mail

import (
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

type row struct {
	id       string
	subject  string
	kind     Kind
	sealed   []byte
	attempts int64
	due      int64
	expires  time.Time
}

// target names what an event about a letter is about.
func (r row) target() string { return r.subject }

func insert(tx *db.Tx, r row, now time.Time) error {
	var subject *string
	if r.subject != "" {
		subject = &r.subject
	}
	_, err := tx.Exec(`INSERT INTO sp_outbox (id, subject_id, kind, sealed, attempts, due_at, created_at, expires_at, failure)
		VALUES ($1, $2, $3, $4, 0, $5, $5, $6, '')`, r.id, subject, string(r.kind), r.sealed, db.Micros(now), db.Micros(r.expires))
	return err
}

func readDue(rd db.Reader, now time.Time, limit int) (out []row, err error) {
	err = rd.Rows(`SELECT id, COALESCE(subject_id, ''), kind, sealed, attempts, due_at, expires_at FROM sp_outbox
		WHERE due_at <= $1 ORDER BY due_at, id LIMIT $2`, []any{db.Micros(now), limit}, func(scan db.Scan) error {
		var r row
		var kind string
		var expires int64
		err := scan(&r.id, &r.subject, &kind, &r.sealed, &r.attempts, &r.due, &expires)
		r.kind, r.expires = Kind(kind), db.Time(expires)
		out = append(out, r)
		return err
	})
	return out, err
}

// claim takes a letter that was read, to send it; of any number of nodes one can.
func claim(tx *db.Tx, r row, until time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_outbox SET attempts = attempts + 1, due_at = $3 WHERE id = $1 AND due_at = $2", r.id, r.due, db.Micros(until))
	return n == 1, err
}

func postpone(tx *db.Tx, id string, until time.Time, failure string) error {
	_, err := tx.Exec("UPDATE sp_outbox SET due_at = $2, failure = $3 WHERE id = $1", id, db.Micros(until), failure)
	return err
}

func remove(tx *db.Tx, id string) (bool, error) {
	n, err := tx.Exec("DELETE FROM sp_outbox WHERE id = $1", id)
	return n == 1, err
}

func readStatus(rd db.Reader) (s Status, err error) {
	var oldest *int64
	if _, err = rd.Row("SELECT COUNT(*), MIN(created_at) FROM sp_outbox", nil, &s.Waiting, &oldest); err != nil || oldest == nil {
		return s, err
	}
	s.Oldest = db.Time(*oldest)
	_, err = rd.Row("SELECT failure FROM sp_outbox ORDER BY created_at, id LIMIT 1", nil, &s.Failure)
	return s, err
}

// DiscardEvery deletes up to limit of all letters that wait, and returns how many.
func DiscardEvery(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_outbox WHERE id IN (SELECT id FROM sp_outbox LIMIT $1)", limit)
}
