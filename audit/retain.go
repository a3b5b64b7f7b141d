package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
)

// Bounds of retention.
const (
	MinRetention = 24 * time.Hour
	MaxRetention = 10 * 366 * 24 * time.Hour
	// trimBatch is how many events one transaction deletes, about.
	trimBatch = cleanup.Batch
)

// Cleanup returns what becomes old: what happened longer ago than retention; 0 keeps
// everything. It goes by the clock that events have.
func (c *Chain) Cleanup(retention time.Duration) []cleanup.Step {
	if retention == 0 {
		return nil
	}
	return []cleanup.Step{{Table: "sp_audit", Run: func(ctx context.Context) (int64, error) {
		return c.Trim(ctx, time.Now().Add(-retention))
	}}}
}

// Trim deletes the events that happened before a time, in batches, from the old end
// of the chain: whole seals only. What is left verifies from a signed cut on. Of
// several nodes that trim at once one does it. It returns how many events are gone.
func (c *Chain) Trim(ctx context.Context, before time.Time) (all int64, err error) {
	for {
		n, err := c.trimSome(ctx, before)
		all += n
		if errors.Is(err, errBehind) {
			return all, nil
		}
		if err != nil || n == 0 {
			return all, err
		}
	}
}

func (c *Chain) trimSome(ctx context.Context, before time.Time) (n int64, err error) {
	v := c.db.View(ctx)
	old, _, err := readCut(v)
	if err != nil {
		return 0, err
	}
	next := old
	var ids []string
	for len(ids) < trimBatch {
		some, err := seals(v, next.number, 1)
		if err != nil {
			return 0, err
		}
		if len(some) == 0 || some[0].number != next.number+1 { // verifying says what is missing
			break
		}
		s := some[0]
		newest, err := newestOf(v, s.ids())
		if err != nil {
			return 0, err
		}
		// By the clock of the event, unless that was ahead.
		if !db.Time(min(newest, s.sealedAt)).Before(before) {
			break
		}
		next = cut{number: s.number, position: s.last(), sealedAt: s.sealedAt, hash: s.hash}
		ids = append(ids, s.ids()...)
	}
	if next.number == old.number {
		return 0, nil
	}
	next.signature = ed25519.Sign(c.key, next.statement())
	err = c.db.Write(db.Loosely(ctx), func(tx *db.Tx) error {
		free, err := putCut(tx, old.number, next)
		if err != nil {
			return err
		}
		gone, err := deleteSeals(tx, old.number, next.number)
		if err != nil {
			return err
		}
		if !free || gone != next.number-old.number {
			return errBehind
		}
		if n, err = deleteEvents(tx, ids); err != nil {
			return err
		}
		return Append(ctx, tx, Event{Action: "audit.trimmed", Detail: map[string]string{
			"events": strconv.Itoa(len(ids)), "before": before.UTC().Format(time.RFC3339),
		}})
	})
	if err != nil {
		return 0, err
	}
	if n < int64(len(ids)) {
		c.log.Error("events of the audit log that retention was to delete were gone already: somebody has removed them", "events", int64(len(ids))-n)
	}
	return int64(len(ids)), nil
}
