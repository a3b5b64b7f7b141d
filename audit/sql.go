package audit

import (
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

func insert(tx *db.Tx, r Record) error {
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
		FROM sp_audit ORDER BY at DESC, id DESC LIMIT $1`, []any{n}, func(scan db.Scan) error {
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
		out = append(out, r)
		return nil
	})
	return out, err
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
