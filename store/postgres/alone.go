package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/db"
)

// Every connection of a process that uses the database shares an advisory lock,
// and whoever moves or settles the database holds it alone. It ends with the
// connection, and so with a process that dies.
const lockKey = 0x73616c6c79706f72 // “sallypor”, as a number

var errAlone = errors.New("another process has the database for itself")

// share takes part in the lock, without waiting, and returns when the server was
// started.
func share(ctx context.Context, c *pgx.Conn) (server string, err error) {
	var ok bool
	if err := c.QueryRow(ctx, "SELECT pg_try_advisory_lock_shared($1), pg_postmaster_start_time()::text", int64(lockKey)).Scan(&ok, &server); err != nil {
		return "", err
	}
	if !ok {
		return "", errAlone
	}
	return server, nil
}

// errAnother is why a connection is not used yet. What requests know of may be
// missing where it leads to; the next reading of changes finds out.
var errAnother = errors.New("the server was started anew, or is another one, and whether it has lost anything is being found out")

const serverKey = "sallyport.server"

// admit shares the lock, and keeps connections from being used that lead to another
// server than the one whose changes were read.
func (t *target) admit(ctx context.Context, c *pgx.Conn) error {
	server, err := share(ctx, c)
	c.PgConn().CustomData()[serverKey] = server
	if err == nil && !t.expects(c.PgConn()) {
		err = errAnother
	}
	if err != nil {
		return errors.Join(err, end(c))
	}
	return nil
}

func (t *target) expects(c *pgconn.PgConn) bool {
	expected := t.expected.Load()
	server, known := c.CustomData()[serverKey].(string)
	return expected == nil || !known || *expected == server
}

// OpenAlone does what OpenWith does, for this process alone: while another has the
// database open, it is refused with a *db.OpenError, and until Close no other
// can open it.
func OpenAlone(ctx context.Context, rawURL string, o Options) (*db.DB, error) {
	to, err := parse(rawURL, o)
	if err != nil {
		return nil, err
	}
	c, err := to.connect(ctx)
	if err != nil {
		return nil, unreachable(to.name, err)
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
		return nil, errors.Join(unreachable(to.name, err), end(c))
	}
	if !ok {
		return nil, errors.Join(&db.OpenError{
			What: to.name, Why: "another process has it open",
			Fix: "Stop every server and command that uses the database, and begin again. Nothing was changed.",
		}, end(c))
	}
	return open(ctx, to, c)
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
