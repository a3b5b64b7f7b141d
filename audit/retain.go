package audit

import (
	"bytes"
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

// Cleanup returns what becomes old: what was sealed longer ago than retention; 0 keeps
// everything. It goes by the clock that events have.
func (c *Chain) Cleanup(retention time.Duration) []cleanup.Step {
	if retention == 0 {
		return nil
	}
	return []cleanup.Step{{Table: "sp_audit", Run: func(ctx context.Context) (int64, error) {
		return c.Trim(ctx, time.Now().Add(-retention))
	}}}
}

// Trim deletes the events that were sealed before a time, in batches, from the old end
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
	old, wasCut, err := readCut(v)
	if err != nil {
		return 0, err
	}
	if wasCut && !ed25519.Verify(c.Key(), old.statement(), old.signature) {
		return 0, c.touched(v, old)
	}
	next := old
	var ids []string
	for len(ids) < trimBatch {
		some, err := seals(v, next.number, 1)
		if err != nil {
			return 0, err
		}
		if len(some) == 0 {
			break
		}
		// The cut vouches for all that it takes the place of: what is not as it was
		// signed stays, so that verifying can name it.
		s := some[0]
		if !s.genuine(next, c.Key()) {
			if next.number == old.number {
				return 0, c.touched(v, old)
			}
			break // what is before it is good
		}
		// Only the seal's time is signed. It is later than that of its events.
		if !db.Time(s.sealedAt).Before(before) {
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
		c.damaged.Add(1)
		c.log.Error("events of the audit log that retention was to delete were gone already: somebody has removed them", "events", int64(len(ids))-n)
	}
	return int64(len(ids)), nil
}

// genuine reports whether a seal is signed and stands directly behind another.
func (s *seal) genuine(before cut, key ed25519.PublicKey) bool {
	return s.number == before.number+1 && s.first == before.position+1 && bytes.Equal(s.link(before.hash), s.hash) && ed25519.Verify(key, s.statement(), s.signature)
}

// errTouched says that retention has met what somebody else has written.
var errTouched = errors.New("the chain of the audit log is not what was signed: retention deletes nothing before somebody has looked at it with sallyport audit verify")

// touched tells of damage behind a cut, unless another node has moved the cut.
func (c *Chain) touched(rd db.Reader, old cut) error {
	now, _, err := readCut(rd)
	if err != nil {
		return err
	}
	if now.number != old.number {
		return errBehind
	}
	c.damaged.Add(1)
	c.log.Error("the chain of the audit log is not what was signed: retention stops here; see what it is with: sallyport audit verify", "seal", old.number+1)
	return errTouched
}
