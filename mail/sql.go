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
	claim    int64 // what due_at is while we send it
	expires  time.Time
}

func insert(tx *db.Tx, r row, now time.Time) error {
	var subject *string
	if r.subject != "" {
		subject = &r.subject
	}
	return tx.Later(`INSERT INTO sp_outbox (id, subject_id, kind, sealed, attempts, due_at, created_at, expires_at, failure)
		VALUES ($1, $2, $3, $4, 0, $5, $5, $6, '')`, r.id, subject, string(r.kind), r.sealed, db.Micros(now), db.Micros(r.expires))
}

func readDue(rd db.Reader, now time.Time, limit int) ([]row, error) {
	return readRows(func(each func(db.Scan) error) error {
		return rd.Rows(`SELECT id, COALESCE(subject_id, ''), kind, sealed, attempts, due_at, expires_at FROM sp_outbox
			WHERE due_at <= $1 ORDER BY due_at, id LIMIT $2`, []any{db.Micros(now), limit}, each)
	})
}

// readExpired returns those that nobody is sending.
func readExpired(rd db.Reader, now time.Time, limit int) ([]row, error) {
	return readRows(func(each func(db.Scan) error) error {
		return rd.Rows(`SELECT id, COALESCE(subject_id, ''), kind, sealed, attempts, due_at, expires_at FROM sp_outbox
			WHERE expires_at <= $1 AND due_at <= $1 ORDER BY expires_at, id LIMIT $2`, []any{db.Micros(now), limit}, each)
	})
}

func readRows(query func(each func(db.Scan) error) error) (out []row, err error) {
	err = query(func(scan db.Scan) error {
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
	n, err := tx.Exec("UPDATE sp_outbox SET attempts = attempts + 1, claimed = TRUE, due_at = $3 WHERE id = $1 AND due_at = $2", r.id, r.due, db.Micros(until))
	return n == 1, err
}

// release undoes a claim, unless it has run out and is another's.
func release(tx *db.Tx, r row) error {
	return tx.Later("UPDATE sp_outbox SET attempts = attempts - 1, claimed = FALSE, due_at = $3 WHERE id = $1 AND due_at = $2", r.id, r.claim, r.due)
}

// postpone ends a claim after an attempt that failed, unless it is another's.
func postpone(tx *db.Tx, r row, until, now time.Time, failure string) error {
	return tx.Later("UPDATE sp_outbox SET claimed = FALSE, due_at = $3, tried_at = $4, failure = $5 WHERE id = $1 AND due_at = $2",
		r.id, r.claim, db.Micros(until), db.Micros(now), failure)
}

func remove(tx *db.Tx, id string) (bool, error) {
	n, err := tx.Exec("DELETE FROM sp_outbox WHERE id = $1", id)
	return n == 1, err
}

func retry(tx *db.Tx, now time.Time) (int64, error) {
	return tx.Exec("UPDATE sp_outbox SET due_at = $1 WHERE due_at > $1 AND NOT claimed", db.Micros(now))
}

func readStatus(rd db.Reader) (s Status, err error) {
	var oldest, tried *int64
	if _, err = rd.Row("SELECT COUNT(*), COALESCE(SUM(CASE WHEN tried_at > 0 THEN 1 ELSE 0 END), 0), MIN(created_at), NULLIF(MAX(tried_at), 0) FROM sp_outbox",
		nil, &s.Waiting, &s.Failed, &oldest, &tried); err != nil || oldest == nil {
		return s, err
	}
	s.Oldest = db.Time(*oldest)
	if tried == nil {
		return s, nil
	}
	s.Tried = db.Time(*tried)
	_, err = rd.Row("SELECT failure FROM sp_outbox WHERE tried_at = $1 ORDER BY id LIMIT 1", []any{*tried}, &s.Failure)
	return s, err
}

// DiscardEvery deletes up to limit of all letters that wait, and returns how many.
func DiscardEvery(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_outbox WHERE id IN (SELECT id FROM sp_outbox LIMIT $1)", limit)
}

// maxWaiting bounds waiting: letters about one account that have not been sent.
const maxWaiting = 1000

func waiting(rd db.Reader, subject string) (out []Waiting, err error) {
	err = rd.Rows("SELECT kind, attempts, created_at, expires_at FROM sp_outbox WHERE subject_id = $1 ORDER BY created_at DESC, id LIMIT $2",
		[]any{subject, maxWaiting}, func(scan db.Scan) error {
			var w Waiting
			var kind string
			var created, expires int64
			err := scan(&kind, &w.Attempts, &created, &expires)
			w.Kind, w.Written, w.Until = Kind(kind), db.Time(created), db.Time(expires)
			out = append(out, w)
			return err
		})
	return out, err
}
