package db

import (
	"context"
	"database/sql"
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

// NewPooled returns a DB over a pool of PostgreSQL connections.
func NewPooled(c Pooled) *DB {
	p := &pooled{pool: c.Pool, retry: c.Retry}
	p.db = &DB{
		dialect: Postgres, name: c.Name, readers: c.Pool, changes: c.Changes,
		write: p.write, close: c.Close, migrate: migrator{c.Migrations}, nudges: c.Listen, limit: c.Limit, history: &history{expect: c.Expect},
	}
	p.db.behind = (&pooled{db: p.db, pool: c.Behind, retry: c.Retry}).write
	p.db.counts.init()
	return p.db
}

// NudgeChannel is the channel on which PostgreSQL notifies of changes.
const NudgeChannel = "sp_changes"

type pooled struct {
	db    *DB
	pool  *sql.DB
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
	tx, err := conn.BeginTx(bound, &sql.TxOptions{Isolation: isolation(ctx)})
	if err != nil {
		return &Error{"begin", err}
	}
	t := &Tx{ctx: bound, c: tx}
	panicked, err := t.run(fn)
	if err == nil && len(t.changed) > 0 {
		_, err = t.Exec("SELECT pg_notify('sp_changes', '')") // NudgeChannel
	}
	if err != nil {
		_ = tx.Rollback()
		if panicked != nil {
			panic(panicked)
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return &Error{"commit", err}
	}
	p.db.announce(t)
	return nil
}
