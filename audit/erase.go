package audit

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

const (
	// eraseBatch is how many events one transaction erases: an account may have a
	// million of them, and the writer is everybody's.
	eraseBatch = 500
	// late is how long an event may be written after it happened. Until that is over
	// an erasure is not done.
	late = 2 * time.Minute
	// accountDeleted is the event that an erasure must have.
	accountDeleted = "account.deleted"
)

// erasure is the events of a subject that is gone, as far as they have been
// erased.
type erasure struct {
	subject string
	created int64
	to      int64
}

// Erase takes from the events of a subject that is being deleted everything but
// who, what and when: addresses, user agents, sessions, request ids, reasons,
// details. The chain keeps a commitment to them, which tells nothing without its
// salt, and that goes too. What others did to
// it stays as it is: that is about them. A first batch is erased in this
// transaction; if there is more, EraseNext goes on with it, after a crash too.
func Erase(tx *db.Tx, subject string) error {
	now := time.Now() // events have no other clock
	if err := insertErasure(tx, subject, now); err != nil {
		return err
	}
	return step(tx, subject, now)
}

// EraseNext erases what deletions have left, a batch in each transaction, and
// returns when there is nothing to do at present. now is time.Now, but for tests.
func EraseNext(ctx context.Context, d *db.DB, now func() time.Time) error {
	for ctx.Err() == nil {
		e, found, err := nextErasure(d.View(ctx))
		if err != nil || !found || !e.due(now()) {
			return err
		}
		if err := d.Write(ctx, func(tx *db.Tx) error { return step(tx, e.subject, now()) }); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// due reports whether there may be something to erase: a batch was full, or
// nothing can come late any more.
func (e erasure) due(now time.Time) bool {
	return e.to < e.created-late.Microseconds() || !now.Before(db.Time(e.created).Add(late))
}

func step(tx *db.Tx, subject string, now time.Time) error {
	e, found, err := readErasure(tx, subject)
	if err != nil || !found { // another node was first
		return err
	}
	to, whole, err := batchEnd(tx, e, eraseBatch)
	if err != nil {
		return err
	}
	if whole {
		if err := erase(tx, subject, e.to, to); err != nil {
			return err
		}
		return moveErasure(tx, subject, to)
	}
	if err := erase(tx, subject, e.to, forever); err != nil {
		return err
	}
	if !now.Before(db.Time(e.created).Add(late)) {
		return deleteErasure(tx, subject)
	}
	// What comes late is dated before now.
	return moveErasure(tx, subject, e.created-late.Microseconds())
}

const forever = 1<<63 - 1
