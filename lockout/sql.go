package lockout

import (
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// record is what is known of an attempt's account and networks.
type record struct {
	pair    pair
	account tally
	address tally
	wider   tally
}

// row is a row of sp_attempts.
type row struct {
	account, network string
	failures         int64
	lastAt, until    int64
	held             string
	seenAt           int64
}

func (r *row) pair() pair {
	p := pair{failures: int(r.failures), last: moment(r.lastAt), until: moment(r.until), seen: moment(r.seenAt)}
	for text := range strings.FieldsSeq(r.held) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			p.held = append(p.held, db.Time(n))
		}
	}
	return p
}

func (r *row) tally() tally { return tally{until: moment(r.until), noted: moment(r.lastAt)} }

// micros is db.Micros with 0 for the zero time, and moment is it backwards.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return db.Micros(t)
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return db.Time(n)
}

// read reads what is known, in one statement. What is not there is zero.
func read(rd db.Reader, k keys) (rec record, err error) {
	err = rd.Rows(`SELECT account, network, failures, last_at, until, held, seen_at FROM sp_attempts
		WHERE account = $1 AND network = $2 OR account = $1 AND network = '' OR account = '' AND network = $2 OR account = '' AND network = $3`,
		[]any{k.account, k.address, k.wider}, func(scan db.Scan) error {
			var r row
			if err := scan(&r.account, &r.network, &r.failures, &r.lastAt, &r.until, &r.held, &r.seenAt); err != nil {
				return err
			}
			switch {
			case r.account != "" && r.network != "":
				rec.pair = r.pair()
			case r.account != "":
				rec.account = r.tally()
			case r.network == k.address:
				rec.address = r.tally()
			default:
				rec.wider = r.tally()
			}
			return nil
		})
	return rec, err
}

// readPair reads what is known of one account from one network.
func readPair(rd db.Reader, k keys) (pair, error) {
	var r row
	_, err := rd.Row("SELECT failures, last_at, until, held, seen_at FROM sp_attempts WHERE account = $1 AND network = $2",
		[]any{k.account, k.address}, &r.failures, &r.lastAt, &r.until, &r.held, &r.seenAt)
	return r.pair(), err
}

// day is to what forget_at is rounded up, so that the index on it is not written
// at every attempt.
const day = 24 * time.Hour

func forgetAt(t time.Time) int64 { return micros(t.Truncate(day).Add(day)) }

func putPair(tx *db.Tx, k keys, p pair) error {
	held := make([]string, len(p.held))
	for i, end := range p.held {
		held[i] = heldText(end)
	}
	return put(tx, row{k.account, k.address, int64(p.failures), micros(p.last), micros(p.until), strings.Join(held, " "), micros(p.seen)}, p.over())
}

func heldText(end time.Time) string { return strconv.FormatInt(db.Micros(end), 10) }

func putTally(tx *db.Tx, account, network string, t tally) error {
	return put(tx, row{account: account, network: network, lastAt: micros(t.noted), until: micros(t.until)}, t.until)
}

func put(tx *db.Tx, r row, over time.Time) error {
	return tx.Later(`INSERT INTO sp_attempts (account, network, failures, last_at, until, held, seen_at, forget_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (account, network) DO UPDATE SET failures = $3, last_at = $4, until = $5, held = $6, seen_at = $7, forget_at = $8`,
		r.account, r.network, r.failures, r.lastAt, r.until, r.held, r.seenAt, forgetAt(over))
}

// forgetOldest leaves an account no more familiar networks than are remembered.
// What else their rows say matters for less than the time after which failures
// are forgotten, and so the rows go then.
func forgetOldest(tx *db.Tx, account string, now time.Time) error {
	return tx.Later(`UPDATE sp_attempts SET seen_at = 0, forget_at = $3 WHERE account = $1 AND network IN
		(SELECT network FROM sp_attempts WHERE account = $1 AND seen_at > 0 ORDER BY seen_at DESC, network LIMIT 1000 OFFSET $2)`,
		account, maxFamiliar, forgetAt(now.Add(quiet)))
}

// deleteOver deletes rows of which nothing matters any more.
func deleteOver(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_attempts WHERE (account, network) IN
		(SELECT account, network FROM sp_attempts WHERE forget_at <= $1 ORDER BY forget_at LIMIT $2)`, micros(before), limit)
}

// pairsOf reads the networks from which an account's password was tried in vain.
func pairsOf(rd db.Reader, account string) (out map[string]pair, err error) {
	out = map[string]pair{}
	err = rd.Rows(`SELECT network, failures, last_at, until, held, seen_at FROM sp_attempts
		WHERE account = $1 AND network <> '' AND failures > 0`, []any{account}, func(scan db.Scan) error {
		var r row
		err := scan(&r.network, &r.failures, &r.lastAt, &r.until, &r.held, &r.seenAt)
		out[r.network] = r.pair()
		return err
	})
	return out, err
}

func readTally(rd db.Reader, account, network string) (t tally, found bool, err error) {
	var r row
	found, err = rd.Row("SELECT last_at, until FROM sp_attempts WHERE account = $1 AND network = $2", []any{account, network}, &r.lastAt, &r.until)
	return r.tally(), found, err
}

func deleteTally(tx *db.Tx, account, network string) error {
	return tx.Later("DELETE FROM sp_attempts WHERE account = $1 AND network = $2", account, network)
}

// maxNetworks bounds networksSeen: what is remembered of one account is swept.
const maxNetworks = 1000

func networksSeen(rd db.Reader, account string) (out []Network, err error) {
	err = rd.Rows(`SELECT network, failures, seen_at FROM sp_attempts WHERE account = $1 AND network <> '' AND (failures > 0 OR seen_at > 0)
		ORDER BY seen_at DESC, network LIMIT $2`, []any{account, maxNetworks}, func(scan db.Scan) error {
		var n Network
		var failures, seen int64
		err := scan(&n.Network, &failures, &seen)
		n.Failures, n.Seen = int(failures), moment(seen)
		out = append(out, n)
		return err
	})
	return out, err
}

func deleteAccount(tx *db.Tx, account string) error {
	return tx.Later("DELETE FROM sp_attempts WHERE account = $1", account)
}
