// Package postgres opens a PostgreSQL database as Sallyport's database.
//
// It decides what is worth trying again: transactions that PostgreSQL refused
// as not serializable or deadlocked, and nothing else. It never prints the
// password of a URL.
package postgres

import (
	"context"
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

	"github.com/sallyport/sallyport/internal/db"
)

// Limits of the pool and of single operations.
const (
	maxConns       = 16
	connectTimeout = 5 * time.Second
	// statementTimeout ends a statement on the server; ours take microseconds.
	statementTimeout = 10 * time.Second
)

// Open connects to a URL (postgres://user:password@host:port/name) and checks
// that the server answers. Errors are *db.OpenError.
//
// While the database is being moved or settled (OpenAlone), that is refused.
func Open(ctx context.Context, rawURL string) (*db.DB, error) {
	cfg, name, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	return open(ctx, cfg, name, nil, stdlib.OptionAfterConnect(share))
}

// open makes the pools. alone, if not nil, is the connection with the lock that
// the handle holds instead of sharing it; it ends with the handle.
func open(ctx context.Context, cfg *pgx.ConnConfig, name string, alone *pgx.Conn, more ...stdlib.OptionOpenDB) (*db.DB, error) {
	var a ages
	a.watch(&cfg.Config)
	pool := stdlib.OpenDB(*cfg, append(more, stdlib.OptionShouldPing(a.shouldPing), stdlib.OptionResetSession(a.reset))...)
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	// Changes are read over a connection of their own: whether a request may be
	// answered must not wait for a pool that is busy with answering.
	changes := stdlib.OpenDB(*cfg, append(more, stdlib.OptionShouldPing(a.shouldPing), stdlib.OptionResetSession(a.reset))...)
	changes.SetMaxOpenConns(1)
	closeAll := func() error { return errors.Join(changes.Close(), pool.Close(), end(alone)) }
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(unreachable(name, err), closeAll())
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	return db.NewPooled(db.Pooled{
		Name: name, Pool: pool, Changes: changes, Close: closeAll, Retry: retry,
		Listen:     func(ctx context.Context, nudge func()) { listenAll(ctx, cfg, nudge) },
		Migrations: db.Migrations{Pool: pool, Locker: locker},
	}), nil
}

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

// watch gives every connection its age, and hears when one runs out of time.
func (a *ages) watch(cfg *pgconn.Config) {
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

// shouldPing is the driver's own rule, for those that are going to be used.
func (a *ages) shouldPing(_ context.Context, p stdlib.ShouldPingParams) bool {
	return p.IdleDuration > time.Second && ageOf(p.Conn.PgConn()) == a.now.Load()
}

func (a *ages) reset(_ context.Context, c *pgx.Conn) error {
	if ageOf(c.PgConn()) != a.now.Load() {
		return driver.ErrBadConn
	}
	return nil
}

// listenAgain is how long to wait before connecting again.
const listenAgain = time.Second

// listenAll calls nudge for every notification of a change, over a connection
// of its own, until ctx ends.
func listenAll(ctx context.Context, cfg *pgx.ConnConfig, nudge func()) {
	for ctx.Err() == nil {
		_ = listenOnce(ctx, cfg.Copy(), nudge) // whatever it was: changes are read anyway, only later
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
}

func listenOnce(ctx context.Context, cfg *pgx.ConnConfig, nudge func()) error {
	conn, err := pgx.ConnectConfig(ctx, cfg)
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
	for {
		nudge() // what came while nobody listened
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

func parse(rawURL string) (*pgx.ConnConfig, string, error) {
	const want = "Write it as postgres://USER:PASSWORD@HOST:5432/DATABASE."
	u, err := url.Parse(rawURL)
	if err != nil {
		// url.Error quotes its input, which may hold a password.
		return nil, "", &db.OpenError{What: "database", Why: "the URL cannot be parsed", Fix: want}
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, "", &db.OpenError{What: "database", Why: fmt.Sprintf("the URL's scheme is %q", u.Scheme), Fix: want}
	}
	name := (&url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}).String()
	if u.Path == "" || u.Path == "/" {
		return nil, "", &db.OpenError{What: name, Why: "the URL names no database", Fix: want}
	}
	cfg, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return nil, "", &db.OpenError{What: name, Why: "the URL is not valid: " + redact(err, u), Fix: want}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	for key, value := range map[string]string{
		"application_name":  "sallyport",
		"statement_timeout": fmt.Sprint(statementTimeout.Milliseconds()),
		"timezone":          "UTC",
	} {
		if _, set := cfg.RuntimeParams[key]; !set {
			cfg.RuntimeParams[key] = value
		}
	}
	return cfg, name, nil
}

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
)

func retry(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == serializationFailure || e.Code == deadlockDetected || e.Code == uniqueViolation)
}

func unreachable(name string, err error) error {
	if errors.Is(err, errAlone) {
		return &db.OpenError{
			What: name, Why: "another process is moving or settling this database", Unreachable: true, Err: err,
			Fix: "Wait until it is done, then start again.",
		}
	}
	e := &db.OpenError{
		What: name, Why: "the server does not answer: " + err.Error(), Unreachable: true, Err: err,
		Fix: "Check that PostgreSQL runs there and that the network lets this machine reach it.",
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
