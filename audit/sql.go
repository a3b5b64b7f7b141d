package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
)

// chained is whether what is recorded is announced to the chain: always, but in the
// measurement of what that costs.
var chained = true

const columns = "id, at, action, result, actor, actor_kind, target, reason, session, address, user_agent, request_id, decision_id, detail"

func insert(tx *db.Tx, r Record) error {
	e := row{Record: r, at: db.Micros(r.At), detail: r.encoded()}
	e.commit()
	told := db.Event{Action: r.Action, Result: string(r.Result)}
	if chained {
		told.ID, told.Digest = e.ID, e.digest()
	}
	if err := tx.Later("INSERT INTO sp_audit ("+columns+`, salt, commitment)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		e.ID, e.at, e.Action, string(e.Result), e.Actor, e.ActorKind, e.Target,
		e.Reason, e.Session, e.Address, e.UserAgent, e.RequestID, e.DecisionID, e.detail, e.salt, e.commitment); err != nil {
		return err
	}
	if tx.Happened(told) || !chained {
		return nil
	}
	return tx.Later("INSERT INTO sp_audit_waiting (id, more) VALUES ($1, '')", e.ID)
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
	err = rd.Rows(`SELECT `+columns+` FROM sp_audit ORDER BY at DESC, id DESC LIMIT $1`, []any{n}, appendTo(&out))
	return out, err
}

// Decisions calls each for every recorded decision of a time, the oldest first: what
// was refused, and what of the allowed was recorded.
func Decisions(rd db.Reader, from, to time.Time, each func(Record) error) error {
	var one []Record
	read := appendTo(&one)
	return rd.Rows(`SELECT `+columns+` FROM sp_audit WHERE at >= $1 AND at < $2 AND action IN ('access.denied', 'access.allowed', 'policy.checked') ORDER BY at, id`, []any{db.Micros(from), db.Micros(to)}, func(scan db.Scan) error {
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
	err = rd.Rows(`SELECT `+columns+` FROM sp_audit WHERE id IN (
			SELECT id FROM (SELECT id FROM sp_audit WHERE actor = $1 ORDER BY at DESC, id DESC LIMIT $2) a
			UNION SELECT id FROM (SELECT id FROM sp_audit WHERE target = $1 ORDER BY at DESC, id DESC LIMIT $2) b)
		ORDER BY at DESC, id DESC LIMIT $2`, []any{subject, n}, appendTo(&out))
	return out, err
}

func appendTo(out *[]Record) func(db.Scan) error {
	return func(scan db.Scan) error {
		var r row
		if err := scan(r.fields()...); err != nil {
			return err
		}
		if err := r.decode(); err != nil {
			return err
		}
		*out = append(*out, r.Record)
		return nil
	}
}

// fields are where columns are scanned to; what is stored otherwise than a Record has
// it, decode puts there.
func (r *row) fields() []any {
	return []any{
		&r.ID, &r.at, &r.Action, (*string)(&r.Result), &r.Actor, &r.ActorKind, &r.Target,
		&r.Reason, &r.Session, &r.Address, &r.UserAgent, &r.RequestID, &r.DecisionID, &r.detail,
	}
}

func (r *row) decode() error {
	r.At = db.Time(r.at)
	return json.Unmarshal([]byte(r.detail), &r.Detail)
}

func insertErasure(tx *db.Tx, subject string, now time.Time) error {
	return tx.Later("INSERT INTO sp_erasures (subject_id, created_at, erased_to) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING", subject, db.Micros(now))
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
	if err := tx.Later("UPDATE sp_audit SET reason = '', session = '', address = '', user_agent = '', request_id = '', decision_id = '', detail = '{}', salt = $4 WHERE actor = $1 AND at > $2 AND at <= $3", subject, from, to, []byte{}); err != nil {
		return err
	}
	return tx.Later("UPDATE sp_audit SET reason = '', session = '', address = '', user_agent = '', request_id = '', decision_id = '', detail = '{}', salt = $4 WHERE target = $1 AND actor = '' AND at > $2 AND at <= $3", subject, from, to, []byte{})
}

func moveErasure(tx *db.Tx, subject string, to int64) error {
	return tx.Later("UPDATE sp_erasures SET erased_to = $2 WHERE subject_id = $1", subject, to)
}

func deleteErasure(tx *db.Tx, subject string) error {
	return tx.Later("DELETE FROM sp_erasures WHERE subject_id = $1", subject)
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

// announced is a row of the list of events that wait.
type announced struct {
	key string   // the first of them
	ids []string // nil: it is none of ours
}

// waiting returns rows of that list, the oldest first, up to about n events.
func waiting(rd db.Reader, n int) (out []announced, err error) {
	events := 0
	err = rd.Rows("SELECT id, more FROM sp_audit_waiting ORDER BY id LIMIT $1", []any{n}, func(scan db.Scan) error {
		var id, more string
		if err := scan(&id, &more); err != nil {
			return err
		}
		a := announced{key: id}
		for all := id + more; len(all) > 0; all = all[min(len(all), idSize):] {
			one := all[:min(len(all), idSize)]
			if _, ours := parseID(one); !ours || len(id) != idSize {
				a.ids = nil
				break
			}
			a.ids = append(a.ids, one)
		}
		if events < n {
			out = append(out, a)
		}
		events += len(a.ids)
		return nil
	})
	return out, err
}

func parseID(s string) (id uuid.UUID, ours bool) {
	id, err := uuid.Parse(s)
	return id, err == nil && id.String() == s
}

func forgetWaiting(tx *db.Tx, id string) error {
	return tx.Later("DELETE FROM sp_audit_waiting WHERE id = $1", id)
}

// rowsOf returns events by their ids, as far as they are there.
func rowsOf(rd db.Reader, ids []string) (out []row, err error) {
	err = rd.Rows("SELECT "+columns+", salt, commitment FROM sp_audit WHERE"+amongIDs, among(ids), appendRow(&out))
	return out, err
}

func readRow(rd db.Reader, id string) (r row, found bool, err error) {
	odd := false
	found, err = rd.Row("SELECT "+columns+", salt, commitment FROM sp_audit WHERE id = $1", []any{id}, strict(&odd, append(r.fields(), &r.salt, &r.commitment))...)
	r.odd = odd
	return r, found, err
}

// nameless reports whether there is an event without an id.
func nameless(rd db.Reader) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_audit WHERE id = '' OR id IS NULL LIMIT 1", nil, &n)
}

// subjectThere reports whether an account or machine client is still there.
func subjectThere(rd db.Reader, id string) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_subjects WHERE id = $1", []any{id}, &n)
}

// stored is where a column goes whose type matters. SQLite keeps whatever it is given
// in any column: a text as a BLOB reads the same, and no comparison finds it.
type stored struct {
	into any
	odd  *bool
}

// strict has odd set if a column is of another type than the server writes.
func strict(odd *bool, into []any) []any {
	all, out := make([]stored, len(into)), make([]any, len(into))
	for i, dst := range into {
		all[i] = stored{dst, odd}
		out[i] = &all[i]
	}
	return out
}

// Scan takes what the driver has read.
func (s *stored) Scan(v any) error {
	good := false
	switch into := s.into.(type) {
	case *string:
		*into, good = v.(string)
		if b, ok := v.([]byte); ok {
			*into = string(b)
		}
	case *int64:
		*into, good = v.(int64)
		if b, ok := v.([]byte); ok {
			*into, _ = strconv.ParseInt(string(b), 10, 64) // only to say where it is
		}
	case *[]byte:
		var b []byte
		if b, good = v.([]byte); good {
			*into = bytes.Clone(b) // the driver's own
		} else {
			*into, good = nil, v == "" // the default of the column
		}
	default:
		panic(fmt.Sprintf("%T", into)) // of those that there are
	}
	if !good {
		*s.odd = true
	}
	return nil
}

func appendRow(out *[]row) func(db.Scan) error {
	return func(scan db.Scan) error {
		var r row
		err := scan(append(r.fields(), &r.salt, &r.commitment)...)
		*out = append(*out, r)
		return err
	}
}

// commitOld makes the commitments of events that were recorded by a release that
// made none.
func commitOld(tx *db.Tx, ids []string) error {
	rows, err := rowsOf(tx, ids)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if len(r.commitment) > 0 {
			continue
		}
		r.commit()
		if err := tx.Later("UPDATE sp_audit SET salt = $2, commitment = $3 WHERE id = $1", r.ID, r.salt, r.commitment); err != nil {
			return err
		}
	}
	return nil
}

const sealColumns = "number, first, events, sealed_at, node, hash, signature"

func (s *seal) fields() []any {
	return []any{&s.number, &s.first, &s.events, &s.sealedAt, &s.node, &s.hash, &s.signature}
}

func lastSeal(rd db.Reader) (s seal, found bool, err error) {
	found, err = rd.Row("SELECT "+sealColumns+" FROM sp_audit_seals WHERE number = (SELECT MAX(number) FROM sp_audit_seals)", nil, strict(&s.odd, s.fields())...)
	return s, found, err
}

// seals returns n seals after a number, in order.
func seals(rd db.Reader, after int64, n int) (out []seal, err error) {
	err = rd.Rows("SELECT "+sealColumns+" FROM sp_audit_seals WHERE number > $1 ORDER BY number LIMIT $2", []any{after, n}, func(scan db.Scan) error {
		var s seal
		err := scan(strict(&s.odd, s.fields())...)
		out = append(out, s)
		return err
	})
	return out, err
}

func insertSeal(tx *db.Tx, s seal) (free bool, err error) {
	n, err := tx.Exec("INSERT INTO sp_audit_seals ("+sealColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
		s.number, s.first, s.events, s.sealedAt, s.node, s.hash, s.signature)
	return n == 1, err
}

// idSize is the length of an id.
const idSize = 36

// amongIDs takes a list of ids as one value: the members of a JSON object, which
// both databases take apart with the same words. What was recorded together has ids
// close together; their bounds have the index used, whatever the database knows of
// the table.
const amongIDs = " id BETWEEN $2 AND $3 AND id IN (SELECT key FROM json_each($1))"

// among makes what amongIDs takes of ids, which are well-formed: nothing in them is
// special in JSON.
func among(ids []string) []any {
	if len(ids) == 0 {
		return []any{"{}", "", ""}
	}
	return []any{`{"` + strings.Join(ids, `":0,"`) + `":0}`, slices.Min(ids), slices.Max(ids)}
}

func endWaiting(tx *db.Tx, keys []string) (int64, error) {
	return tx.Exec("DELETE FROM sp_audit_waiting WHERE"+amongIDs, among(keys)...)
}

func readCut(rd db.Reader) (c cut, found bool, err error) {
	found, err = rd.Row("SELECT number, position, sealed_at, hash, signature FROM sp_audit_cuts WHERE id = 1", nil,
		strict(&c.odd, []any{&c.number, &c.position, &c.sealedAt, &c.hash, &c.signature})...)
	return c, found, err
}

// rowsAfter reads events in the order of their ids.
func rowsAfter(rd db.Reader, id string, n int, each func(db.Scan) error) error {
	return rd.Rows("SELECT "+columns+", salt, commitment FROM sp_audit WHERE id > $1 ORDER BY id LIMIT $2", []any{id, n}, each)
}

func eachWaiting(rd db.Reader, each func(id string)) error {
	return rd.Rows("SELECT id, more FROM sp_audit_waiting", nil, func(scan db.Scan) error {
		var id, more string
		if err := scan(&id, &more); err != nil {
			return err
		}
		each(id)
		for ; len(more) >= idSize; more = more[idSize:] {
			each(more[:idSize])
		}
		return nil
	})
}

// Events that a filter lets pass. One of its parts leads: the one that its index
// makes the fewest of. Everything else is compared then.
const (
	selectEvents = "SELECT " + columns + " FROM sp_audit WHERE "
	downwards    = "(at, id) < ($1, $2) AND at >= $3"
	upwards      = "(at, id) > ($1, $2) AND at < $3"
	compared     = ` AND ($4 = '' OR action = $4) AND ($5 = '' OR actor = $5) AND ($6 = '' OR target = $6) AND ($7 = '' OR result = $7)
		AND ($8 = '' OR address = $8) AND ($9 = '' OR request_id = $9) AND ($10 = '' OR decision_id = $10)`
	newestFirst = " ORDER BY at DESC, id DESC LIMIT $11"
	oldestFirst = " ORDER BY at, id LIMIT $11"

	byRequest  = " AND request_id = $9 AND request_id <> ''"
	byDecision = " AND decision_id = $10 AND decision_id <> ''"
	byActor    = " AND actor = $5"
	byTarget   = " AND target = $6"
	byAddress  = " AND address = $8 AND address <> ''"
	byAction   = " AND action = $4"
	byRefusal  = " AND result = $7 AND result <> 'success'"
)

func (f Filter) args(from position, bound int64, limit int) []any {
	return []any{from.At, from.ID, bound, f.Action, f.Actor, f.Target, string(f.Result), f.Address, f.RequestID, f.DecisionID, limit}
}

// list returns events below a position, and not before a time, newest first.
func list(rd db.Reader, f Filter, from position, since int64, limit int, out *[]Record) error {
	args, each := f.args(from, since, limit), appendTo(out)
	const with, end = selectEvents + downwards, compared + newestFirst
	switch {
	case f.RequestID != "":
		return rd.Rows(with+byRequest+end, args, each)
	case f.DecisionID != "":
		return rd.Rows(with+byDecision+end, args, each)
	case f.Actor != "":
		return rd.Rows(with+byActor+end, args, each)
	case f.Target != "":
		return rd.Rows(with+byTarget+end, args, each)
	case f.Address != "":
		return rd.Rows(with+byAddress+end, args, each)
	case f.Action != "":
		return rd.Rows(with+byAction+end, args, each)
	case f.Result != "" && f.Result != Success:
		return rd.Rows(with+byRefusal+end, args, each)
	}
	return rd.Rows(with+end, args, each)
}

// listUp returns events above a position, and before a time, oldest first.
func listUp(rd db.Reader, f Filter, from position, until int64, limit int, out *[]Record) error {
	args, each := f.args(from, until, limit), appendTo(out)
	const with, end = selectEvents + upwards, compared + oldestFirst
	switch {
	case f.RequestID != "":
		return rd.Rows(with+byRequest+end, args, each)
	case f.DecisionID != "":
		return rd.Rows(with+byDecision+end, args, each)
	case f.Actor != "":
		return rd.Rows(with+byActor+end, args, each)
	case f.Target != "":
		return rd.Rows(with+byTarget+end, args, each)
	case f.Address != "":
		return rd.Rows(with+byAddress+end, args, each)
	case f.Action != "":
		return rd.Rows(with+byAction+end, args, each)
	case f.Result != "" && f.Result != Success:
		return rd.Rows(with+byRefusal+end, args, each)
	}
	return rd.Rows(with+end, args, each)
}

// listed returns the events of a seal in its order; one that is gone is left out.
func listed(rd db.Reader, s seal) (out []Record, err error) {
	err = rd.Rows("SELECT "+columns+" FROM sp_audit WHERE"+amongIDs+" ORDER BY id", among(s.ids()), appendTo(&out))
	return out, err
}

func deleteEvents(tx *db.Tx, ids []string) (int64, error) {
	return tx.Exec("DELETE FROM sp_audit WHERE"+amongIDs, among(ids)...)
}

func deleteSeals(tx *db.Tx, after, to int64) (int64, error) {
	return tx.Exec("DELETE FROM sp_audit_seals WHERE number > $1 AND number <= $2", after, to)
}

// putCut replaces the cut if it is still the one before.
func putCut(tx *db.Tx, before int64, c cut) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_audit_cuts (id, number, position, hash, sealed_at, signature) VALUES (1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET number = excluded.number, position = excluded.position, hash = excluded.hash,
			sealed_at = excluded.sealed_at, signature = excluded.signature WHERE sp_audit_cuts.number = $1`,
		before, c.number, c.position, c.hash, c.sealedAt, c.signature)
	return n == 1, err
}

func sinkAt(rd db.Reader, name string) (number int64, found bool, err error) {
	found, err = rd.Row("SELECT number FROM sp_audit_sinks WHERE name = $1", []any{name}, &number)
	return number, found, err
}

// moveSinkBack puts right what nobody can have reached.
func moveSinkBack(tx *db.Tx, name string, wrong, number int64) error {
	return tx.Later("UPDATE sp_audit_sinks SET number = $3 WHERE name = $1 AND number = $2", name, wrong, number)
}

// holdSink reports whether a node hands on, which it does until it has not for a
// while. A hold that ends later than any node holds is none. number is where a sink
// begins that is new.
func holdSink(tx *db.Tx, name, node string, number int64, now time.Time) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_audit_sinks (name, number, holder, held_until) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
			WHERE sp_audit_sinks.holder = excluded.holder OR sp_audit_sinks.held_until < $5 OR sp_audit_sinks.held_until > $6`,
		name, number, node, db.Micros(now.Add(sinkHold)), db.Micros(now), db.Micros(now.Add(sinkHold+sinkSkew)))
	return n == 1, err
}

func moveSink(tx *db.Tx, name, node string, number int64, now time.Time) error {
	return tx.Later("UPDATE sp_audit_sinks SET number = $3, held_until = $4 WHERE name = $1 AND holder = $2 AND number < $3",
		name, node, number, db.Micros(now.Add(sinkHold)))
}

func releaseSinks(tx *db.Tx, node string) error {
	return tx.Later("UPDATE sp_audit_sinks SET held_until = 0 WHERE holder = $1", node)
}
