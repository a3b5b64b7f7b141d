// Package db is the one way to the database: a handle with transactions,
// reads, and migrations, over one SQL text for SQLite and PostgreSQL.
//
// It decides how work becomes transactions: on SQLite one writer groups
// concurrent transactions into one durable commit; on PostgreSQL each runs
// serializable and is retried. It stores nothing of its own but the schema
// version and what it knows of moves, and it never builds SQL but where every
// table is treated alike (tables.go): statements are compile-time constants.
//
// The text both databases accept: TEXT, BIGINT, BOOLEAN and BYTEA columns; $1
// placeholders; ON CONFLICT, RETURNING, row-value comparison. Times are Unix
// microseconds (see Micros), ids lower-case text. Uniqueness is ON CONFLICT DO
// NOTHING and zero rows.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/measure"
)

// query is unexported so that other packages can only pass constants.
type query string

// Dialect tells the two databases apart in the few spots where they differ.
type Dialect string

// The databases.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// Error is a failure of the database, not of the caller's request: callers
// over HTTP answer 503.
type Error struct {
	Op  string
	Err error
}

func (e *Error) Error() string { return "database: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the database handle is closed")

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &Error{op, err}
}

// DB is an open database. Package store/sqlite and store/postgres open it.
type DB struct {
	dialect Dialect
	name    string
	dir     string
	readers *sql.DB
	changes *sql.DB // reads what has changed; nil: readers do
	write   func(context.Context, func(*Tx) error) error
	behind  func(context.Context, func(*Tx) error) error // nil: write
	close   func() error
	stmts   *stmtCache // nil: the driver caches statements itself
	migrate migrator
	limit   time.Duration // of a read over the network
	history *history      // nil: the database cannot go back while it is open
	rerun   atomic.Bool
	trace   atomic.Pointer[func(string)]

	nudges    func(context.Context, func()) // nil: there are none
	counts    counts
	queued    func() int // nil: each waits in the pool
	listening sync.Mutex
	listeners atomic.Pointer[[]*listener]
}

// Dialect returns which database it is.
func (d *DB) Dialect() Dialect { return d.dialect }

// Name returns what to call the database in messages: a path, or a URL without
// its password.
func (d *DB) Name() string { return d.name }

// Dir returns the folder of a SQLite file, "" for PostgreSQL.
func (d *DB) Dir() string { return d.dir }

// Close waits for the transactions that have begun and closes the database.
func (d *DB) Close() error { return d.close() }

// Write runs fn in a transaction and returns when its outcome is known and
// durable.
//
// The contract: fn may run more than once, so it does no hashing, no I/O and
// keeps no state from an earlier run; it sees a serializable database; the
// first SQL error sticks, and the transaction is then rolled back whatever fn
// returns; an error or panic of fn undoes its work alone. ctx is checked before
// fn runs and not afterwards: a write that has begun is awaited, because a
// committed write must be reported as such.
func (d *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	if g, ok := ctx.Value(GuardKey{}).(Guard); ok && g != nil {
		inner := fn
		fn = func(tx *Tx) error {
			if err := g.Check(tx); err != nil {
				return err
			}
			return inner(tx)
		}
	}
	if f := d.trace.Load(); f != nil {
		inner := fn
		fn = func(tx *Tx) error {
			(*f)("begin")
			tx.trace = *f
			return inner(tx)
		}
	}
	if d.rerun.Load() {
		d.rehearse(ctx, fn)
	}
	defer measure.Span(ctx, "database write")()
	if !IsDryRun(ctx) {
		return d.counts.write(func() error { return d.write(ctx, fn) })
	}
	err := d.write(ctx, func(tx *Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if _, err := tx.Exec("SELECT 1"); err != nil { // and what was put off before it
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// WriteBehind is Write for what must be done before the database is believed (see
// Changes): while requests get no connection, too.
func (d *DB) WriteBehind(ctx context.Context, fn func(*Tx) error) error {
	if d.behind == nil {
		return d.Write(ctx, fn)
	}
	return d.counts.write(func() error { return d.behind(ctx, fn) })
}

// Rerun makes every Write run its function three times, for tests: once and
// undone, once with its last statement failing, and then in earnest. It shows
// whether a function keeps something from an earlier run.
func (d *DB) Rerun() { d.rerun.Store(true) }

// Trace calls f with the text of every statement that is run from now on, and with
// “begin” for every transaction, for tests. f must be safe for concurrent use; nil
// ends it.
func (d *DB) Trace(f func(statement string)) {
	if f == nil {
		d.trace.Store(nil)
		return
	}
	d.trace.Store(&f)
}

func (d *DB) rehearse(ctx context.Context, fn func(*Tx) error) {
	statements := 0
	run := func(failAt int) {
		defer func() { _ = recover() }() // it will again, in earnest
		_ = d.write(ctx, func(tx *Tx) error {
			tx.failAt = failAt
			err := fn(tx)
			statements = tx.count
			return errors.Join(err, errRehearsal)
		})
	}
	run(0)
	run(statements)
}

var errRehearsal = errors.New("a rehearsal is undone")

// Guard is asked at the beginning of every transaction that is made on behalf
// of a request, inside it: does what the request was allowed by still hold? A
// body that takes its time, or a queue, must not let a change through that
// would be refused by now.
type Guard interface{ Check(*Tx) error }

// GuardKey is the context key under which Write finds a request's Guard.
type GuardKey struct{}

// View returns a Reader whose statements each see the latest committed state.
func (d *DB) View(ctx context.Context) View { return View{d: d, ctx: ctx} }

// Ping reports whether the database answers.
func (d *DB) Ping(ctx context.Context) error {
	var one int
	_, err := d.View(ctx).Row("SELECT 1", nil, &one)
	return err
}

// Reader reads: a Tx inside a transaction, a View outside.
type Reader interface {
	// Row scans the first row into dst and reports whether there was one.
	Row(q query, args []any, dst ...any) (bool, error)
	// Rows calls each for every row, in order. An error of each ends it.
	Rows(q query, args []any, each func(scan func(dst ...any) error) error) error
}

// Rows is what a query found. *sql.Rows is one.
type Rows interface {
	Next() bool
	Scan(dst ...any) error
	// Err is what there is to say after Close.
	Err() error
	Close() error
}

// Scan is what Reader.Rows hands to its callback.
type Scan = func(dst ...any) error

// View reads outside a transaction.
type View struct {
	d    *DB
	ctx  context.Context
	from *sql.DB // nil: the readers
}

var (
	_ Reader = View{}
	_ Reader = (*Tx)(nil)
)

// query runs a read; done must be called when its rows have been read. SQLite's
// are local and short, and a cancellable context would cost a goroutine each:
// there the context is only checked first.
func (v View) query(q query, args []any) (rows Rows, done func(), err error) {
	if err := v.ctx.Err(); err != nil {
		return nil, func() {}, err
	}
	if f := v.d.trace.Load(); f != nil {
		(*f)(string(q))
	}
	if v.d.stmts == nil {
		ctx, cancel := context.WithTimeout(v.ctx, v.d.limit)
		from := v.from
		if from == nil {
			from = v.d.readers
		}
		rows, err = from.QueryContext(ctx, string(q), args...)
		return rows, cancel, err
	}
	s, err := v.d.stmts.get(q)
	if err != nil {
		return nil, func() {}, err
	}
	rows, err = s.Query(args...)
	return rows, func() {}, err
}

// Row implements Reader.
func (v View) Row(q query, args []any, dst ...any) (bool, error) {
	rows, done, err := v.query(q, args)
	defer done()
	if err != nil {
		return false, wrap("read", err)
	}
	ok, err := first(rows, dst)
	return ok, wrap("read", err)
}

// Rows implements Reader.
func (v View) Rows(q query, args []any, each func(Scan) error) error {
	rows, done, err := v.query(q, args)
	defer done()
	if err != nil {
		return wrap("read", err)
	}
	return all(rows, each, func(err error) error { return wrap("read", err) })
}

func first(rows Rows, dst []any) (bool, error) {
	defer rows.Close() // also if it panics
	ok := rows.Next()
	if ok {
		if err := rows.Scan(dst...); err != nil {
			return false, err
		}
	}
	return ok, end(rows)
}

// end closes rows and returns what went wrong with them.
func end(rows Rows) error {
	closing := rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	return closing
}

// all tells the callback's errors from the database's: only the latter go
// through dbErr.
func all(rows Rows, each func(Scan) error, dbErr func(error) error) error {
	defer rows.Close() // also if it panics
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return dbErr(end(rows))
}

// stmtCache prepares each constant once per connection; database/sql does the
// second half.
type stmtCache struct {
	db *sql.DB
	m  sync.Map // query → *sql.Stmt
}

func (c *stmtCache) get(q query) (*sql.Stmt, error) {
	if s, ok := c.m.Load(q); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := c.db.Prepare(string(q))
	if err != nil {
		return nil, err
	}
	if old, loaded := c.m.LoadOrStore(q, s); loaded {
		s.Close()
		return old.(*sql.Stmt), nil
	}
	return s, nil
}

// Micros returns t as the database stores it.
func Micros(t time.Time) int64 { return t.UnixMicro() }

// Time returns a stored time, in UTC.
func Time(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// OpenError says why a database could not be opened and what to do. Nothing
// was changed.
type OpenError struct {
	What        string // which database
	Why         string
	Fix         string
	Unreachable bool // it may be there later; otherwise the configuration is wrong
	Err         error
}

func (e *OpenError) Error() string { return fmt.Sprintf("%s: %s. %s", e.What, e.Why, e.Fix) }
func (e *OpenError) Unwrap() error { return e.Err }

type dryRunKey struct{}

// DryRun returns a context under which Write runs its function, undoes it, and
// reports what it would have reported.
func DryRun(ctx context.Context) context.Context { return context.WithValue(ctx, dryRunKey{}, true) }

// IsDryRun reports whether ctx is DryRun's.
func IsDryRun(ctx context.Context) bool { return ctx.Value(dryRunKey{}) != nil }

var errDryRun = errors.New("dry run")

type looseKey struct{}

// Loosely returns a context under which Write is READ COMMITTED on PostgreSQL, and
// makes no other transaction run again. Its function must find out by its
// statements alone (a key that is taken, rows that are gone) whether it comes too
// late.
func Loosely(ctx context.Context) context.Context { return context.WithValue(ctx, looseKey{}, true) }

func isolation(ctx context.Context) sql.IsolationLevel {
	if ctx.Value(looseKey{}) != nil {
		return sql.LevelReadCommitted
	}
	return sql.LevelSerializable
}
