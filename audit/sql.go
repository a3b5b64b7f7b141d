package audit

import (
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

func insert(tx *db.Tx, r Record) error {
	tx.Happened(r.Action, string(r.Result))
	_, err := tx.Exec(`INSERT INTO sp_audit
		(id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		r.ID, db.Micros(r.At), r.Action, string(r.Result), r.Actor, r.ActorKind, r.Target, r.Reason, r.Address, r.RequestID, r.detail())
	return err
}

// watched is how far back Watch looks: longer than any transaction lives.
const watched = time.Minute

// Watch makes a transaction that takes authority from somebody depend on what
// they are writing meanwhile. PostgreSQL would else allow a transaction of
// theirs, begun before, to commit after the revocation was acknowledged: there
// would be an order in which it came first. Every such transaction adds an
// event, so reading theirs lets the database see that only one of the two can
// stand, and the other runs again.
func Watch(tx *db.Tx, actor string, now time.Time) error {
	var n int
	_, err := tx.Row("SELECT 1 FROM sp_audit WHERE actor = $1 AND at > $2 LIMIT 1", []any{actor, db.Micros(now.Add(-watched))}, &n)
	return err
}

// Latest returns the last n events, newest first.
func Latest(rd db.Reader, n int) (out []Record, err error) {
	err = rd.Rows(`SELECT id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail
		FROM sp_audit ORDER BY at DESC, id DESC LIMIT $1`, []any{n}, appendTo(&out))
	return out, err
}

// Decisions calls each for every recorded decision of a time, the oldest first: what
// was refused, and what of the allowed was recorded.
func Decisions(rd db.Reader, from, to time.Time, each func(Record) error) error {
	var one []Record
	read := appendTo(&one)
	return rd.Rows(`SELECT id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail
		FROM sp_audit WHERE at >= $1 AND at < $2 AND action IN ('access.denied', 'access.allowed', 'policy.checked') ORDER BY at, id`, []any{db.Micros(from), db.Micros(to)}, func(scan db.Scan) error {
		one = one[:0]
		if err := read(scan); err != nil {
			return err
		}
		return each(one[0])
	})
}

// About returns the last n events of what a subject did, and of what was done to
// it, newest first.
func About(rd db.Reader, subject string, n int) (out []Record, err error) {
	// Each half reads its own index, and no more of it than is wanted.
	err = rd.Rows(`SELECT id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail FROM sp_audit WHERE id IN (
			SELECT id FROM (SELECT id FROM sp_audit WHERE actor = $1 ORDER BY at DESC, id DESC LIMIT $2) a
			UNION SELECT id FROM (SELECT id FROM sp_audit WHERE target = $1 ORDER BY at DESC, id DESC LIMIT $2) b)
		ORDER BY at DESC, id DESC LIMIT $2`, []any{subject, n}, appendTo(&out))
	return out, err
}

func appendTo(out *[]Record) func(db.Scan) error {
	return func(scan db.Scan) error {
		var r Record
		var at int64
		var result, detail string
		if err := scan(&r.ID, &at, &r.Action, &result, &r.Actor, &r.ActorKind, &r.Target, &r.Reason, &r.Address, &r.RequestID, &detail); err != nil {
			return err
		}
		r.At, r.Result = db.Time(at), Result(result)
		if err := json.Unmarshal([]byte(detail), &r.Detail); err != nil {
			return err
		}
		*out = append(*out, r)
		return nil
	}
}

func insertErasure(tx *db.Tx, subject string, now time.Time) error {
	_, err := tx.Exec("INSERT INTO sp_erasures (subject_id, created_at, erased_to) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING", subject, db.Micros(now))
	return err
}

func nextErasure(rd db.Reader) (e erasure, found bool, err error) {
	found, err = rd.Row("SELECT subject_id, created_at, erased_to FROM sp_erasures ORDER BY erased_to, subject_id LIMIT 1", nil, &e.subject, &e.created, &e.to)
	return e, found, err
}

func readErasure(rd db.Reader, subject string) (e erasure, found bool, err error) {
	e.subject = subject
	found, err = rd.Row("SELECT created_at, erased_to FROM sp_erasures WHERE subject_id = $1", []any{subject}, &e.created, &e.to)
	return e, found, err
}

// batchEnd returns the time of the last event of a whole batch, if there is one.
func batchEnd(rd db.Reader, e erasure, size int) (to int64, whole bool, err error) {
	var at *int64
	_, err = rd.Row(`SELECT MIN(at) FROM (
		SELECT at FROM (SELECT at FROM sp_audit WHERE actor = $1 AND at > $2 ORDER BY at LIMIT 1 OFFSET $3) a
		UNION ALL SELECT at FROM (SELECT at FROM sp_audit WHERE target = $1 AND at > $2 ORDER BY at LIMIT 1 OFFSET $3) b) c`,
		[]any{e.subject, e.to, size - 1}, &at)
	if err != nil || at == nil {
		return 0, false, err
	}
	return *at, true, nil
}

// erase leaves of a subject's events within a time who, what and when: of those
// that it caused, and of those about it that nobody known did.
func erase(tx *db.Tx, subject string, from, to int64) error {
	if _, err := tx.Exec("UPDATE sp_audit SET reason = '', address = '', request_id = '', detail = '{}' WHERE actor = $1 AND at > $2 AND at <= $3", subject, from, to); err != nil {
		return err
	}
	_, err := tx.Exec("UPDATE sp_audit SET reason = '', address = '', request_id = '', detail = '{}' WHERE target = $1 AND actor = '' AND at > $2 AND at <= $3", subject, from, to)
	return err
}

func moveErasure(tx *db.Tx, subject string, to int64) error {
	_, err := tx.Exec("UPDATE sp_erasures SET erased_to = $2 WHERE subject_id = $1", subject, to)
	return err
}

func deleteErasure(tx *db.Tx, subject string) error {
	_, err := tx.Exec("DELETE FROM sp_erasures WHERE subject_id = $1", subject)
	return err
}

// Since counts what succeeded after a moment, by action.
func Since(rd db.Reader, after time.Time) (counts map[string]int64, err error) {
	counts = map[string]int64{}
	err = rd.Rows("SELECT action, COUNT(*) FROM sp_audit WHERE at > $1 AND result = 'success' GROUP BY action", []any{db.Micros(after)}, func(scan db.Scan) error {
		var action string
		var n int64
		err := scan(&action, &n)
		counts[action] = n
		return err
	})
	return counts, err
}
