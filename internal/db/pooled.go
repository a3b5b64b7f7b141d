package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"math/rand/v2"
	"time"
)

// Retries of a serializable transaction: PostgreSQL refuses one of two that
// would not have been possible one after the other, and says "again".
const (
	maxAttempts = 30
	maxBackoff  = 50 * time.Millisecond
	// writeSpare is what one attempt of a transaction may take beyond Pooled.Limit;
	// its statements are few and short, so this is only reached when the server
	// hangs.
	writeSpare = 5 * time.Second
)

// Pooled is what a store gives for a database behind a network.
type Pooled struct {
	Name string
	Pool *sql.DB
	// Begin returns the transaction that the first statement on a connection of Pool or
	// Behind, as its driver has it, is going to begin.
	Begin func(conn any, level sql.IsolationLevel) Remote
	// Changes is a pool of its own for reading changes.
	Changes *sql.DB
	// Retry tells the errors after which a transaction that was rolled back may
	// run again.
	Retry func(error) bool
	// Limit bounds a read, so that a server that hangs does not take every
	// connection with it.
	Limit time.Duration
	// Behind is a pool of its own for ending what came back.
	Behind *sql.DB
	// Expect says that connections of Pool may be used if they lead to the server that
	// was started at this time (pg_postmaster_start_time), and no others from now on.
	Expect func(server string)
	// Listen calls its function whenever a notification comes on NudgeChannel,
	// until its context ends.
	Listen     func(context.Context, func())
	Close      func() error
	Migrations Migrations
}

// Remote is a transaction over the network. A trip there and back costs as much as a
// statement of ours, so it makes as few as it can: it begins with its first statement,
// and ends with its last.
type Remote interface {
	Exec(ctx context.Context, statement string, args []any) (int64, error)
	Query(ctx context.Context, statement string, args []any) (Rows, error)
	// Later has a statement run before the next one, or before Commit, which fails if it
	// does.
	Later(statement string, args []any)
	// Commit fails if its outcome is not known, or if it was rolled back.
	Commit(ctx context.Context) error
	// Rollback undoes what was done. If it fails, the connection must not be used again.
	Rollback(ctx context.Context) error
}

// NewPooled returns a DB over a pool of PostgreSQL connections.
func NewPooled(c Pooled) *DB {
	p := &pooled{pool: c.Pool, begin: c.Begin, retry: c.Retry}
	p.db = &DB{
		dialect: Postgres, name: c.Name, readers: c.Pool, changes: c.Changes,
		write: p.write, close: c.Close, migrate: migrator{c.Migrations}, nudges: c.Listen, limit: c.Limit, history: &history{expect: c.Expect},
	}
	p.db.behind = (&pooled{db: p.db, pool: c.Behind, begin: c.Begin, retry: c.Retry}).write
	p.db.counts.init()
	return p.db
}

// NudgeChannel is the channel on which PostgreSQL notifies of changes.
const NudgeChannel = "sp_changes"

type pooled struct {
	db    *DB
	pool  *sql.DB
	begin func(conn any, level sql.IsolationLevel) Remote
	retry func(error) bool
}

func (p *pooled) write(ctx context.Context, fn func(*Tx) error) error {
	for attempt := 1; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := p.once(ctx, fn)
		if err == nil || attempt == maxAttempts || !p.retry(err) {
			return err
		}
		p.db.counts.again.Add(1)
		backoff := min(time.Millisecond<<min(attempt, 10), maxBackoff)
		time.Sleep(rand.N(backoff) + time.Millisecond/2)
	}
}

func (p *pooled) once(ctx context.Context, fn func(*Tx) error) error {
	// The caller's cancellation ends the wait for a connection, nothing later.
	p.db.counts.commits.Add(1)
	wait, done := context.WithTimeout(ctx, p.db.limit) // where the server hangs, those who wait would become ever more
	conn, err := p.pool.Conn(wait)
	done()
	if err != nil {
		return wrap("connect", err)
	}
	defer conn.Close()
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.db.limit+writeSpare)
	defer cancel()
	var t *Tx
	var panicked any
	spoiled := conn.Raw(func(raw any) error {
		remote := p.begin(raw, isolation(ctx))
		t = &Tx{ctx: bound, remote: remote}
		if panicked, err = t.run(fn); err == nil && len(t.changed) > 0 {
			err = t.Later("SELECT pg_notify('sp_changes', '')") // NudgeChannel
		}
		if err == nil {
			if err = remote.Commit(bound); err == nil {
				return nil
			}
			err = &Error{"commit", err}
		}
		if remote.Rollback(bound) != nil {
			return driver.ErrBadConn
		}
		return nil
	})
	switch {
	case panicked != nil:
		panic(panicked)
	case err != nil:
		return err
	case spoiled != nil:
		return &Error{"begin", spoiled} // it was not run
	}
	p.db.announce(t)
	return nil
}
