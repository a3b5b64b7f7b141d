package db

import (
	"crypto/sha256"
	"errors"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/measure"
)

// counts is what is counted of the database, in this process.
type counts struct {
	commits, again atomic.Uint64
	failed         atomic.Uint64
	wentBack       atomic.Uint64
	took           *measure.Durations
	happened       measure.Counts
}

func (c *counts) init() {
	c.took = measure.NewDurations(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
}

// write counts a write. Only the database's own failures count as such: that a
// function refuses is its business.
func (c *counts) write(do func() error) error {
	began := time.Now()
	defer c.took.Since(began)
	err := do()
	if _, failed := errors.AsType[*Error](err); failed {
		c.failed.Add(1)
	}
	return err
}

// Event is what is told of an event of the audit log.
type Event struct {
	Action, Result string
	ID             string            // "": it is not to be sealed
	Digest         [sha256.Size]byte // of what was written
}

// Happened has an event of the audit log counted, and told to who hears of events, if
// the transaction commits. SQLite's one writer then puts it on the list of those that
// wait to be sealed, in one row for all of a group. It reports whether that will be
// done: on PostgreSQL there are no groups, and the caller does it.
func (t *Tx) Happened(e Event) (listed bool) {
	t.happened = append(t.happened, e)
	return t.stmts != nil && e.ID != ""
}

// Measure returns what is known of the database here.
func (d *DB) Measure() []measure.Family {
	read := d.readers.Stats()
	connections := measure.Family{
		Name: "sallyport_database_connections", Help: "Connections of the pool that requests read with (on PostgreSQL also write with), by state.",
		Kind: measure.Gauge, Labels: []string{"state"}, Points: []measure.Point{
			{Labels: []string{"idle"}, Value: float64(read.Idle)}, {Labels: []string{"used"}, Value: float64(read.InUse)},
		},
	}
	queued := 0
	if d.queued != nil {
		queued = d.queued()
	}
	return []measure.Family{
		connections,
		measure.One("sallyport_database_connections_max", "The most connections that the pool of sallyport_database_connections has.", measure.Gauge, float64(read.MaxOpenConnections)),
		measure.One("sallyport_database_connection_waits_total", "How often somebody waited for one of these connections.", measure.Counter, float64(read.WaitCount)),
		measure.One("sallyport_database_connection_wait_seconds_total", "For how long they waited for these connections, together.", measure.Counter, read.WaitDuration.Seconds()),
		measure.One("sallyport_database_write_queue", "Transactions that wait for SQLite's one writer; always 0 on PostgreSQL.", measure.Gauge, float64(queued)),
		{
			Name: "sallyport_database_write_seconds", Help: "How long transactions that write took, with waiting and being tried again.",
			Kind: measure.Histogram, Points: []measure.Point{{Spread: d.counts.took.Spread()}},
		},
		measure.One("sallyport_database_write_failures_total", "Transactions that the database failed; those that were refused for what they wanted do not count.", measure.Counter, float64(d.counts.failed.Load())),
		measure.One("sallyport_database_transactions_total", "Transactions that were begun in the database: on SQLite one for a group of writes, on PostgreSQL one for each attempt.", measure.Counter, float64(d.counts.commits.Load())),
		measure.One("sallyport_database_retries_total", "Transactions that PostgreSQL could not serialise, and that were tried again.", measure.Counter, float64(d.counts.again.Load())),
		measure.One("sallyport_database_went_back_total", "How often this process found that the database had lost changes which it had seen: after a failover to a standby that was behind, or a restore.", measure.Counter, float64(d.counts.wentBack.Load())),
		{
			Name: "sallyport_audit_events_total", Help: "Events that this process wrote to the audit log, by action and result (docs/audit.md).",
			Kind: measure.Counter, Labels: []string{"action", "result"}, Points: d.counts.happened.Points(),
		},
	}
}
