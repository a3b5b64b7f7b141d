// Package postgres opens a PostgreSQL database as Sallyport's database.
//
// It decides what is worth trying again: transactions that PostgreSQL refused
// as not serializable or deadlocked, and nothing else. It never prints the
// password of a URL.
//
// It stores nothing itself: the tables are those of the packages that use the
// handle, and their names begin with sp_. Begin with Open, for server.Config.DB.
package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3/lock"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// Options are the limits of a handle. The zero value of each is its default.
type Options struct {
	// MaxConnections is how many connections requests may use at once; default 16,
	// 2 to 1000. Two more read what has changed and listen for it.
	MaxConnections int
	// ConnectTimeout ends an attempt to connect to one host; default 5 s, 100 ms to
	// 1 min.
	ConnectTimeout time.Duration
	// StatementTimeout ends a statement on the server, and the wait for a read here;
	// a transaction is given up 5 s later. Default 10 s, 1 s to 10 min; ours take
	// microseconds.
	StatementTimeout time.Duration
	// IdleTimeout closes a connection that nobody uses; default 5 min, 1 s to 24 h.
	IdleTimeout time.Duration
	// MaxLifetime closes a connection that has been open for so long, once nobody
	// uses it; default 1 h, 1 min to 24 h.
	MaxLifetime time.Duration
}

// The bounds of Options.
const (
	MinConnections      = 2
	MaxConnections      = 1000
	MinConnectTimeout   = 100 * time.Millisecond
	MaxConnectTimeout   = time.Minute
	MinStatementTimeout = time.Second
	MaxStatementTimeout = 10 * time.Minute
	MinIdleTimeout      = time.Second
	MaxIdleTimeout      = 24 * time.Hour
	MinMaxLifetime      = time.Minute
	MaxMaxLifetime      = 24 * time.Hour
)

// fill puts in the defaults, and returns every mistake at once.
func (o *Options) fill() error {
	var errs []error
	o.MaxConnections = cmp.Or(o.MaxConnections, 16)
	if o.MaxConnections < MinConnections || o.MaxConnections > MaxConnections {
		errs = append(errs, sallyport.Mistake("postgres.max_connections", fmt.Sprint(o.MaxConnections), fmt.Sprintf("it must be from %d to %d", MinConnections, MaxConnections), "Choose a number in that range."))
	}
	for _, d := range []struct {
		key            string
		value          *time.Duration
		def, low, high time.Duration
	}{
		{"postgres.connect_timeout", &o.ConnectTimeout, 5 * time.Second, MinConnectTimeout, MaxConnectTimeout},
		{"postgres.statement_timeout", &o.StatementTimeout, 10 * time.Second, MinStatementTimeout, MaxStatementTimeout},
		{"postgres.idle_timeout", &o.IdleTimeout, 5 * time.Minute, MinIdleTimeout, MaxIdleTimeout},
		{"postgres.max_lifetime", &o.MaxLifetime, time.Hour, MinMaxLifetime, MaxMaxLifetime},
	} {
		if *d.value = cmp.Or(*d.value, d.def); *d.value < d.low || *d.value > d.high {
			errs = append(errs, sallyport.Mistake(d.key, d.value.String(), fmt.Sprintf("it must be from %v to %v", d.low, d.high), "Choose a time in that range."))
		}
	}
	return errors.Join(errs...)
}

// Open connects to a URL (postgres://user:password@host:port/name) and checks
// that the server answers. Errors are *db.OpenError.
//
// The URL may name several hosts with commas between them. Connections then go to
// the one that can be written to, unless the URL's target_session_attrs says
// otherwise, and to the next one that can be when it has failed.
//
// While the database is being moved or settled (OpenAlone), that is refused.
func Open(ctx context.Context, rawURL string) (*db.DB, error) {
	return OpenWith(ctx, rawURL, Options{})
}

// OpenWith is Open with other limits. What the URL itself sets (connect_timeout,
// statement_timeout) stands above them.
func OpenWith(ctx context.Context, rawURL string, o Options) (*db.DB, error) {
	to, err := parse(rawURL, o)
	if err != nil {
		return nil, err
	}
	return open(ctx, to, nil)
}

// CheckURL returns what Open would say of a URL without connecting.
func CheckURL(rawURL string) error {
	_, err := parse(rawURL, Options{})
	return err
}

// open makes the pools. alone, if not nil, is the connection with the lock that
// the handle holds instead of sharing it; it ends with the handle.
func open(ctx context.Context, to *target, alone *pgx.Conn) (*db.DB, error) {
	with := func(after func(context.Context, *pgx.Conn) error) []stdlib.OptionOpenDB {
		all := []stdlib.OptionOpenDB{stdlib.OptionShouldPing(to.shouldPing), stdlib.OptionResetSession(to.reset)}
		if alone == nil {
			all = append(all, stdlib.OptionAfterConnect(after))
		}
		return all
	}
	sharing := with(func(ctx context.Context, c *pgx.Conn) error {
		_, err := share(ctx, c)
		if err != nil {
			return errors.Join(err, end(c))
		}
		return nil
	})
	pool := sql.OpenDB(to.connector(nil, with(to.admit)...))
	pool.SetMaxOpenConns(to.MaxConnections)
	pool.SetMaxIdleConns(to.MaxConnections)
	pool.SetConnMaxIdleTime(to.IdleTimeout)
	pool.SetConnMaxLifetime(to.MaxLifetime)
	// Changes are read over a connection of their own: whether a request may be
	// answered must not wait for a pool that is busy with answering.
	changes := sql.OpenDB(to.connector(nil, sharing...))
	changes.SetMaxOpenConns(1)
	changes.SetConnMaxLifetime(to.MaxLifetime)
	// So is the schema changed: a step may take as long as it takes, but others
	// queue behind it while it waits for a table.
	migrations := sql.OpenDB(to.connector(map[string]string{
		"statement_timeout": "0", "lock_timeout": fmt.Sprint(lockTimeout.Milliseconds()),
	}, sharing...))
	migrations.SetMaxIdleConns(-1)
	behind := sql.OpenDB(to.connector(nil, sharing...))
	behind.SetMaxOpenConns(1)
	behind.SetMaxIdleConns(-1)
	closeAll := func() error {
		return errors.Join(behind.Close(), migrations.Close(), changes.Close(), pool.Close(), end(alone))
	}
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(unreachable(to.name, err), closeAll())
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	return db.NewPooled(db.Pooled{
		Name: to.name, Pool: pool, Begin: begin, Changes: changes, Close: closeAll, Retry: retry, Limit: to.StatementTimeout,
		Behind: behind, Expect: func(server string) { to.expected.Store(&server) },
		Listen:     func(ctx context.Context, nudge func()) { listenAll(ctx, to, nudge) },
		Migrations: db.Migrations{Pool: migrations, Locker: locker, Busy: busy},
	}), nil
}

// lockTimeout is how long a step of a migration waits for a table. Who wants the
// table meanwhile waits behind it, so it is shorter than what requests can bear,
// and the step is tried again.
const lockTimeout = 250 * time.Millisecond

// ages tells connections that may be dead from newer ones.
//
// Where a database moves away, or a firewall forgets its connections, they stay
// open and nothing on them is ever answered. Each of a full pool would cost
// somebody a whole timeout. So when one does not answer in time, those that are
// as old are not used again.
type ages struct{ now atomic.Int64 }

const ageKey = "sallyport.age"

func ageOf(c *pgconn.PgConn) int64 {
	age, _ := c.CustomData()[ageKey].(int64)
	return age
}

// watch gives every connection its age, and hears when one runs out of time or
// cannot be written to. Of several hosts that one is then not the right one for
// any connection.
func (a *ages) watch(cfg *pgconn.Config, several bool) {
	closes := cfg.OnPgError
	cfg.OnPgError = func(c *pgconn.PgConn, e *pgconn.PgError) bool {
		if e.Code != readOnlyTransaction {
			return closes(c, e)
		}
		if age := ageOf(c); several {
			a.now.CompareAndSwap(age, age+1)
		}
		return false
	}
	build := cfg.BuildContextWatcherHandler
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		age := a.now.Load()
		c.CustomData()[ageKey] = age
		return &ageWatch{build(c), a, age}
	}
}

type ageWatch struct {
	ctxwatch.Handler
	ages *ages
	age  int64
}

// HandleCancel implements ctxwatch.Handler. A caller that goes away says
// nothing about the connection, and one of an earlier age nothing about those
// that came after it.
func (w *ageWatch) HandleCancel(ctx context.Context) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		w.ages.now.CompareAndSwap(w.age, w.age+1)
	}
	w.Handler.HandleCancel(ctx)
}

func (a *ages) current(c *pgconn.PgConn) bool { return ageOf(c) == a.now.Load() }

// usable reports whether a connection may be used again.
func (t *target) usable(c *pgx.Conn) bool { return t.ages.current(c.PgConn()) && t.expects(c.PgConn()) }

// shouldPing is the driver's own rule, for those that are going to be used.
func (t *target) shouldPing(_ context.Context, p stdlib.ShouldPingParams) bool {
	return p.IdleDuration > time.Second && t.usable(p.Conn)
}

func (t *target) reset(_ context.Context, c *pgx.Conn) error {
	if !t.usable(c) {
		return driver.ErrBadConn
	}
	return nil
}

// listenAgain is how long to wait before connecting again.
const listenAgain = time.Second

// listenFor is how long to listen before asking whether anybody is still there: a
// machine that is gone says nothing, and neither does a quiet database.
const listenFor = 30 * time.Second

// listenAll calls nudge for every notification of a change, over a connection
// of its own, until ctx ends.
func listenAll(ctx context.Context, to *target, nudge func()) {
	for ctx.Err() == nil {
		_ = listenOnce(ctx, to, nudge) // whatever it was: changes are read anyway, only later
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
}

func listenOnce(ctx context.Context, to *target, nudge func()) error {
	conn, err := to.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(bound)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+db.NudgeChannel); err != nil {
		return err
	}
	for to.ages.current(conn.PgConn()) {
		nudge() // what came while nobody listened
		if err := wait(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

// wait waits for a notification, or until it is time to look after the
// connection.
func wait(ctx context.Context, conn *pgx.Conn) error {
	quiet, enough := context.WithCancel(ctx) // and no deadline: it would be taken for a dead connection
	defer enough()
	defer time.AfterFunc(listenFor, enough).Stop()
	if _, err := conn.WaitForNotification(quiet); err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, listenPing)
	defer cancel()
	return conn.Ping(bound)
}

// listenPing is how long the answer to that may take.
const listenPing = 5 * time.Second

func redact(err error, u *url.URL) string {
	s := err.Error()
	if pw, ok := u.User.Password(); ok && pw != "" {
		s = strings.ReplaceAll(s, pw, "***")
	}
	if _, after, found := strings.Cut(s, "`: "); found { // pgx quotes the whole URL first
		s = after
	}
	return s
}

// Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	// A statement of ours looks for a duplicate before it writes; two at once
	// can both find none. Run again, the loser finds the winner's row.
	uniqueViolation = "23505"

	readOnlyTransaction = "25006" // the server is a standby, or was made one
	lockNotAvailable    = "55P03"
)

func retry(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == serializationFailure || e.Code == deadlockDetected || e.Code == uniqueViolation)
}

// busy tells that a step of a migration did not get a table in time.
func busy(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == lockNotAvailable
}

func unreachable(name string, err error) error {
	if errors.Is(err, errAlone) {
		return &db.OpenError{
			What: name, Why: "another process is moving or settling this database", Unreachable: true, Err: err,
			Fix: "Wait until it is done, then start again.",
		}
	}
	e := &db.OpenError{
		What: name, Why: "the server does not answer: " + strings.ReplaceAll(err.Error(), "\n", "; "), Unreachable: true, Err: err,
		Fix: "Check that PostgreSQL runs there and that the network lets this machine reach it.",
	}
	if strings.Contains(err.Error(), "read only connection") { // the driver has no other sign of it
		e.Why = "none of the servers can be written to: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		e.Fix = "Promote a standby, or wait until one is; target_session_attrs in the URL says which servers will do."
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		e.Why = "the server refused: " + pg.Message
		switch pg.Code {
		case "28P01", "28000": // invalid_password, invalid_authorization_specification
			e.Unreachable, e.Fix = false, "Check the user and password in the URL, and pg_hba.conf."
		case "3D000": // invalid_catalog_name
			e.Unreachable, e.Fix = false, "Create the database first (createdb NAME), or name another in the URL."
		}
	}
	return e
}
