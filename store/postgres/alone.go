package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/db"
)

// Every connection of a process that uses the database shares an advisory lock,
// and whoever moves or settles the database holds it alone. It ends with the
// connection, and so with a process that dies.
const lockKey = 0x73616c6c79706f72 // “sallypor”, as a number

var errAlone = errors.New("another process has the database for itself")

// share takes part in the lock, without waiting.
func share(ctx context.Context, c *pgx.Conn) error {
	var ok bool
	if err := c.QueryRow(ctx, "SELECT pg_try_advisory_lock_shared($1)", int64(lockKey)).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return errAlone
	}
	return nil
}

// OpenAlone does what Open does, for this process alone: while another has the
// database open, it is refused with a *db.OpenError, and until Close no other
// can open it.
func OpenAlone(ctx context.Context, rawURL string) (*db.DB, error) {
	cfg, name, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	c, err := pgx.ConnectConfig(ctx, cfg.Copy())
	if err != nil {
		return nil, unreachable(name, err)
	}
	ok := false
	// A command that ends at this moment may still be connected.
	for deadline := time.Now().Add(time.Second); !ok && err == nil; time.Sleep(50 * time.Millisecond) {
		err = c.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(lockKey)).Scan(&ok)
		if time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(unreachable(name, err), end(c))
	}
	if !ok {
		return nil, errors.Join(&db.OpenError{
			What: name, Why: "another process has it open",
			Fix: "Stop every server and command that uses the database, and begin again. Nothing was changed.",
		}, end(c))
	}
	return open(ctx, cfg, name, c)
}

// end closes the connection that holds a lock; nil is none.
func end(c *pgx.Conn) error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.Close(ctx)
}
