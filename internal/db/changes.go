package db

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// What a change concerns, besides the id of one subject.
const (
	ChangedRoles    = "*roles"    // what roles contain: the grants of everybody
	ChangedKeys     = "*keys"     // the signing keys: every token must be proven again
	ChangedPolicies = "*policies" // what policies say
)

// Changed declares that the transaction changes somebody's authority: that
// credentials of a subject end, or what it may do. what is the subject's id,
// ChangedRoles, ChangedKeys or ChangedPolicies.
//
// It is stored with the change itself, and told to this process after the
// commit and before Write returns, and to other processes soon after: see
// Changes. Declaring too much costs a look-up; declaring too little would let
// somebody in who must stay out.
func (t *Tx) Changed(what string) error {
	for _, c := range t.changed {
		if c == what {
			return nil
		}
	}
	at := Micros(time.Now())
	t.changed, t.changedAt = append(t.changed, what), append(t.changedAt, at)
	return t.Later("INSERT INTO sp_changes (what, at) VALUES ($1, $2)", what, at)
}

// OnChange has f told of every change that is committed through this handle,
// before the Write that made it returns. f must be quick, and must not write.
// The function that is returned ends it.
func (d *DB) OnChange(f func(what []string)) (stop func()) {
	return d.listen(&listener{changed: f})
}

// OnEvent has f told of every transaction with events of the audit log that is
// committed through this handle, before the Write that made it returns. f must be
// quick, and must not write. The function that is returned ends it.
func (d *DB) OnEvent(f func([]Event)) (stop func()) {
	return d.listen(&listener{happened: f})
}

func (d *DB) listen(l *listener) (stop func()) {
	d.listening.Lock()
	defer d.listening.Unlock()
	d.replaceListeners(append(d.listenersNow(), l))
	return func() {
		d.listening.Lock()
		defer d.listening.Unlock()
		var left []*listener
		for _, other := range d.listenersNow() {
			if other != l {
				left = append(left, other)
			}
		}
		d.replaceListeners(left)
	}
}

// listener is told of one of the two.
type listener struct {
	changed  func([]string)
	happened func([]Event)
}

func (d *DB) listenersNow() []*listener {
	if p := d.listeners.Load(); p != nil {
		return append([]*listener(nil), *p...)
	}
	return nil
}

func (d *DB) replaceListeners(l []*listener) { d.listeners.Store(&l) }

// announce tells this process what a committed transaction changed, and counts
// what happened in it.
func (d *DB) announce(t *Tx) {
	if t == nil {
		return
	}
	for _, e := range t.happened {
		d.counts.happened.Add(e.Action, e.Result)
	}
	if len(t.changed) > 0 && d.history != nil {
		d.history.note(t.changed, t.changedAt)
	}
	p := d.listeners.Load()
	if p == nil {
		return
	}
	for _, l := range *p {
		switch {
		case l.changed != nil && len(t.changed) > 0:
			l.changed(t.changed)
		case l.happened != nil && len(t.happened) > 0:
			l.happened(t.happened)
		}
	}
}

// Cursor is how far the changes have been read. The zero Cursor is the
// beginning of time.
type Cursor struct {
	started  bool
	feed     string // the epoch of the feed
	server   string // PostgreSQL: when the server started
	seq      int64  // SQLite: the last one seen
	snapshot string // PostgreSQL: the snapshot of the last reading
}

// maxChanges bounds one reading; who is further behind has missed everything.
const maxChanges = 10_000

// Changes reads what was committed and had not been visible at the reading that
// gave the cursor. all tells that everything may have changed: at the first
// reading, when the feed has another epoch (a backup was restored) or its order
// runs backwards, and when there is too much to read.
//
// It fails with a *WentBack if changes are missing that this process has seen, and
// with ErrUnsettled until what came back has been ended: nothing that is read of
// the database may be believed meanwhile. On PostgreSQL requests get no connection
// then, and none to a server that was started at another time than the one read
// last: what it has lost is found out first.
func (d *DB) Changes(ctx context.Context, after Cursor) (what []string, all bool, next Cursor, err error) {
	next.started = true
	if d.dialect == SQLite {
		what, err = d.changesSQLite(ctx, after, &next)
	} else {
		what, err = d.changesPostgres(ctx, after, &next)
	}
	if err != nil {
		return nil, false, after, err
	}
	another := next.feed != after.feed || next.server != after.server || next.behind(after)
	if after.started && another && d.history != nil {
		if err := d.wentBack(ctx, after, next); err != nil {
			return nil, false, after, err
		}
	}
	if d.history != nil {
		d.history.expect(next.server)
	}
	all = !after.started || another || len(what) > maxChanges
	if all {
		what = nil
	}
	return what, all, next, nil
}

// behind reports whether a cursor stands before an earlier one: this is not the
// database that was read then.
func (c Cursor) behind(earlier Cursor) bool {
	return c.seq < earlier.seq || snapshotMax(c.snapshot) < snapshotMax(earlier.snapshot)
}

// One writer at a time gives the numbers, so they are committed in their order.
func (d *DB) changesSQLite(ctx context.Context, after Cursor, next *Cursor) (what []string, err error) {
	var unsettled int64
	err = d.View(ctx).Rows(`SELECT v.feed, v.unsettled, COALESCE((SELECT s.seq FROM sqlite_sequence s WHERE s.name = 'sp_changes'), 0), c.what
		FROM sp_versions v LEFT JOIN sp_changes c ON c.seq > $1 AND $2
		WHERE v.id = 1 LIMIT $3`, []any{after.seq, after.started, maxChanges + 1}, func(scan Scan) error {
		var w *string
		err := scan(&next.feed, &unsettled, &next.seq, &w)
		if w != nil {
			what = append(what, *w)
		}
		return err
	})
	if err == nil && unsettled != 0 {
		err = &Error{"read changes", ErrUnsettled}
	}
	return what, err
}

// A transaction was not visible to the snapshot before if its id was not given
// then (from xmax on) or if it was still in progress (xip). Both are looked up
// by index, however long the oldest transaction has been running. The upper bound, the
// orders and limits are there for the planner: of an open range it takes a third of the
// table to be in it, and reads all of that.
//
// When the server started is part of the epoch (Cursor.server). A standby that took
// over without the last commits gives their ids to other transactions, which would
// count as seen.
func (d *DB) changesPostgres(ctx context.Context, after Cursor, next *Cursor) (what []string, err error) {
	snapshot := after.snapshot
	if !after.started {
		snapshot = "1:1:" // no rows are asked for
	}
	var at []int64
	var unsettled int64
	err = View{d, ctx, d.changes}.Rows(`SELECT v.feed, v.unsettled, pg_postmaster_start_time()::text, pg_current_snapshot()::text, c.what, c.at
		FROM sp_versions v LEFT JOIN (
			(SELECT what, at FROM sp_changes WHERE tx BETWEEN pg_snapshot_xmax($1::pg_snapshot) AND '18446744073709551615'::xid8 ORDER BY tx LIMIT $3)
			UNION ALL
			SELECT late.what, late.at FROM pg_snapshot_xip($1::pg_snapshot) x
				CROSS JOIN LATERAL (SELECT what, at FROM sp_changes WHERE tx = x ORDER BY what LIMIT $3) late
		) c ON $2
		WHERE v.id = 1 LIMIT $3`, []any{snapshot, after.started, maxChanges + 1}, func(scan Scan) error {
		var w *string
		var when *int64
		err := scan(&next.feed, &unsettled, &next.server, &next.snapshot, &w, &when)
		if w != nil && when != nil {
			what, at = append(what, *w), append(at, *when)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case unsettled != 0:
		d.history.distrust()
		return nil, &Error{"read changes", ErrUnsettled}
	case snapshotMax(next.snapshot) == 0:
		return nil, &Error{"read changes", fmt.Errorf("a snapshot of the form %q", next.snapshot)}
	}
	if next.server == after.server && next.feed == after.feed { // otherwise these are of another past
		d.history.note(what, at)
	}
	return what, nil
}

// snapshotMax is the xmax of a snapshot, "xmin:xmax:xip,…"; 0 for none.
func snapshotMax(s string) uint64 {
	_, rest, _ := strings.Cut(s, ":")
	xmax, _, _ := strings.Cut(rest, ":")
	n, err := strconv.ParseUint(xmax, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Nudges calls nudge when another process may have changed something, until ctx
// ends. It is a hint that comes early, and not at all while the connection is
// down; on SQLite it never comes, since looking is cheap.
func (d *DB) Nudges(ctx context.Context, nudge func()) {
	if d.nudges != nil {
		d.nudges(ctx, nudge)
	}
}

// RetainChanges is how long changes can be counted on. Who has not read for half
// of it must take it that everything changed.
const RetainChanges = time.Hour

// keepChanges is how long changes are kept: longer, because nodes write the times
// and nodes delete by them, and the clock of one may be an hour ahead and that
// of another an hour behind. What is deleted unread is never heard of.
const keepChanges = RetainChanges + 2*time.Hour

// DeleteChanges deletes at most limit changes that every node has read or given
// up, and returns how many.
func (d *DB) DeleteChanges(tx *Tx, limit int) (int64, error) {
	args := []any{Micros(time.Now().Add(-keepChanges)), limit}
	if d.dialect == SQLite {
		return tx.Exec("DELETE FROM sp_changes WHERE seq IN (SELECT seq FROM sp_changes WHERE at < $1 ORDER BY at LIMIT $2)", args...)
	}
	return tx.Exec("DELETE FROM sp_changes WHERE (tx, what) IN (SELECT tx, what FROM sp_changes WHERE at < $1 ORDER BY at LIMIT $2)", args...)
}

// NewFeed makes every node forget all that it knows: the past has come back, and
// what they know is of another one. Versions are set ahead of all that there can
// have been since.
func NewFeed(tx *Tx) error {
	var old string
	if _, err := tx.Row("SELECT feed FROM sp_versions WHERE id = 1", nil, &old); err != nil {
		return err
	}
	if err := tx.Later("UPDATE sp_versions SET roles = roles + $1, signing_keys = signing_keys + $1, policies = policies + $1 WHERE id = 1", versionLeap); err != nil {
		return err
	}
	return setFeed(tx, laterFeed(old, uuid.Must(uuid.NewV7()).String()))
}

// laterFeed returns a name for a feed that sorts after the one before, whatever
// clocks say: an earlier one is a sign that the database went back.
func laterFeed(old, feed string) string {
	if feed <= old {
		return old + "+"
	}
	return feed
}

// versionLeap is further than versions come between two backups, and fits 4,000
// times into 32 bits.
const versionLeap = 1 << 20

func setFeed(tx *Tx, feed string) error {
	n, err := tx.Exec("UPDATE sp_versions SET feed = $1 WHERE id = 1", feed)
	if err == nil && n != 1 {
		err = errors.New("the database has no row of versions: it is not whole")
	}
	return err
}

// DropChanges deletes about limit changes, and returns how many: after NewFeed
// nobody reads them. Those of another PostgreSQL server would be read again and
// again, if its transactions had higher ids.
func DropChanges(tx *Tx, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_changes WHERE at IN (SELECT at FROM sp_changes ORDER BY at LIMIT $1)", limit)
}
