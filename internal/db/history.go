package db

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A failover to a standby that lacks the last commits brings the past back:
// sessions that were ended are alive. No server can know what it lacks, but
// processes that were there before can: they have seen changes that are gone.

// history is what this process knows to have been committed, lately.
type history struct {
	mu   sync.Mutex
	rows [remembered]known
	next int

	expect func(server string) // Pooled.Expect
}

// remembered is enough to hold what came last: a standby lacks an end of the
// history and never a middle.
const remembered = 256

type known struct {
	what string
	at   int64
	seen time.Time
}

// note remembers changes that were read, or that this process has committed.
func (h *history) note(what []string, at []int64) {
	if len(what) == 0 {
		return
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := max(0, len(what)-remembered); i < len(what); i++ {
		h.rows[h.next] = known{what[i], at[i], now}
		h.next = (h.next + 1) % remembered
	}
}

// lately returns those that must be there: not even a clock that is wrong by an hour
// has had them swept away.
func (h *history) lately() (what []string, at []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.rows {
		if k.what != "" && time.Since(k.seen) < RetainChanges {
			what, at = append(what, k.what), append(at, k.at)
		}
	}
	return what, at
}

func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows = [remembered]known{}
}

// distrust keeps every connection from being used for requests.
func (h *history) distrust() { h.expect("") }

// WentBack says that the database has lost changes which this process had seen.
type WentBack struct {
	Change string    // one that is missing: what Changed was told; "" if the whole feed is an earlier one
	At     time.Time // when it was made
	feed   string    // which the database has now
	seen   string    // a later one that this process has seen; "" for none
}

func (e *WentBack) Error() string {
	if e.Change == "" {
		return "the database has gone back to before it was last settled"
	}
	return fmt.Sprintf("the database has gone back: the change of %s at %s is missing", e.Change, e.At.Format(time.RFC3339Nano))
}

// ErrUnsettled is why nothing is believed of a database that went back, until what
// came back has been ended.
var ErrUnsettled = errors.New("the database went back, and what that brought back is being ended")

// wentBack looks for what this process has seen, where the database is not the one
// that was read before: a server that was started anew, or another one.
func (d *DB) wentBack(ctx context.Context, before, now Cursor) error {
	switch {
	case now.feed > before.feed: // settled, which drops changes
		d.history.forget()
		return nil
	case now.feed < before.feed:
		d.history.distrust()
		return &Error{"read changes", &WentBack{feed: now.feed, seen: before.feed}}
	}
	what, at := d.history.lately()
	lost := &WentBack{feed: now.feed}
	var server string
	var when *int64
	var change *string
	if _, err := (View{d, ctx, d.changes}).Row(`SELECT pg_postmaster_start_time()::text, k.what, k.at FROM (SELECT 1) one LEFT JOIN (
			SELECT u.what, u.at FROM unnest($1::text[], $2::bigint[]) u (what, at)
			WHERE NOT EXISTS (SELECT 1 FROM sp_changes c WHERE c.at = u.at AND c.what = u.what)
		) k ON TRUE ORDER BY k.at LIMIT 1`, []any{what, at}, &server, &change, &when); err != nil {
		return err
	}
	if server != now.server {
		return &Error{"read changes", errors.New("it is another server than a moment ago")}
	}
	if change == nil || when == nil {
		return nil
	}
	d.history.distrust()
	lost.Change, lost.At = *change, Time(*when)
	return &Error{"read changes", lost}
}

// CountWentBack counts what a WentBack tells of.
func (d *DB) CountWentBack() { d.counts.wentBack.Add(1) }

// Unsettle marks the database that a WentBack tells of as one that nobody believes
// until Settled. It reports false if another node has seen to it. What comes next
// sorts after all that this process has seen: to it, an earlier feed is a sign that
// the database went back once more.
func Unsettle(tx *Tx, lost *WentBack, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_versions SET unsettled = $1, feed = $3 WHERE id = 1 AND unsettled = 0 AND feed = $2", Micros(now), lost.feed, max(lost.feed, lost.seen))
	return n == 1, err
}

// Unsettled reports whether the database is so marked.
func Unsettled(rd Reader) (bool, error) {
	var since int64
	_, err := rd.Row("SELECT unsettled FROM sp_versions WHERE id = 1", nil, &since)
	return since != 0, err
}

// Settled ends that, and makes every node forget what it knows. It reports false, and
// does neither, if the database is not marked: nodes would believe that what they
// look for has been seen to.
func Settled(tx *Tx) (bool, error) {
	n, err := tx.Exec("UPDATE sp_versions SET unsettled = 0 WHERE id = 1 AND unsettled <> 0")
	if err != nil || n == 0 {
		return false, err
	}
	return true, NewFeed(tx)
}
