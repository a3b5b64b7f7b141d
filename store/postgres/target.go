package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sallyport/sallyport/internal/db"
)

// target is where connections go: one database on one host, or on several of which
// one at a time can be written to.
type target struct {
	Options
	name  string // without the password
	hosts []*pgx.ConnConfig
	last  atomic.Int32 // which of them answered last
	ages  ages
	// expected tells the server whose changes were read by when it was started; nil:
	// none were.
	expected atomic.Pointer[string]
}

const fixURL = "Write it as postgres://USER:PASSWORD@HOST:5432/DATABASE, with several HOST:PORT separated by commas for a primary and its standbys."

// parse reads a URL. Its errors repeat nothing that may be a password: what
// url.Parse says quotes its input.
func parse(rawURL string, o Options) (*target, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	bad := func(what, why string) (*target, error) {
		return nil, &db.OpenError{What: what, Why: why, Fix: fixURL}
	}
	u, err := split(rawURL)
	if err != nil {
		return bad("database", "the URL cannot be parsed")
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return bad("database", fmt.Sprintf("the URL's scheme is %q", u.Scheme))
	}
	name := (&url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}).String()
	if u.Path == "" || u.Path == "/" {
		return bad(name, "the URL names no database")
	}
	cfg, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return bad(name, "the URL is not valid: "+redact(err, u))
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = o.ConnectTimeout
	}
	for key, value := range map[string]string{
		"application_name":  "sallyport",
		"statement_timeout": fmt.Sprint(o.StatementTimeout.Milliseconds()),
		"timezone":          "UTC",
	} {
		if _, set := cfg.RuntimeParams[key]; !set {
			cfg.RuntimeParams[key] = value
		}
	}
	to := &target{Options: o, name: name}
	several := len(each(cfg)) > 1
	if several && !u.Query().Has("target_session_attrs") && os.Getenv("PGTARGETSESSIONATTRS") == "" {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	to.ages.watch(&cfg.Config, several)
	to.hosts = each(cfg)
	return to, nil
}

// split parses a URL that may name several hosts, which no URL elsewhere does.
func split(rawURL string) (*url.URL, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return url.Parse(rawURL)
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	user := authority[:strings.LastIndexByte(authority, '@')+1]
	hosts := authority[len(user):]
	u, err := url.Parse(scheme + "://" + user + rest[len(authority):])
	if err != nil || hosts == "" {
		return u, err
	}
	for host := range strings.SplitSeq(hosts, ",") {
		h, err := url.Parse("//" + host)
		if err != nil || h.Hostname() == "" {
			return nil, errors.New("a host of the URL cannot be parsed")
		}
	}
	u.Host = hosts
	return u, nil
}

// each returns a configuration for each of the hosts, with what the driver would
// try there one after the other (as sslmode says).
func each(cfg *pgx.ConnConfig) (all []*pgx.ConnConfig) {
	ways := append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}}, cfg.Fallbacks...)
	for _, w := range ways {
		if n := len(all); n > 0 && all[n-1].Host == w.Host && all[n-1].Port == w.Port {
			all[n-1].Fallbacks = append(all[n-1].Fallbacks, w)
			continue
		}
		one := cfg.Copy()
		one.Host, one.Port, one.TLSConfig, one.Fallbacks = w.Host, w.Port, w.TLSConfig, nil
		all = append(all, one)
	}
	return all
}

// nextHost is how long to wait for one host before the next is tried beside it. A
// machine that is gone refuses nothing: without that, every connection would first
// wait for it in vain.
const nextHost = 100 * time.Millisecond

// first connects to the host that answered last, or else to the first that can be
// used. Those that come too late are dropped.
func first[C any](ctx context.Context, t *target, connect func(context.Context, int) (C, error), drop func(C)) (c C, err error) {
	if len(t.hosts) == 1 {
		return connect(ctx, 0)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		host int
		c    C
		err  error
	}
	begun, known := 0, int(t.last.Load())
	outcomes := make(chan outcome, len(t.hosts))
	begin := func() {
		host := (known + begun) % len(t.hosts)
		begun++
		go func() {
			c, err := connect(ctx, host)
			outcomes <- outcome{host, c, err}
		}()
	}
	begin()
	errs := make([]error, len(t.hosts))
	for ended := 0; ended < len(t.hosts); {
		var next <-chan time.Time
		if begun < len(t.hosts) {
			next = time.After(nextHost)
		}
		select {
		case o := <-outcomes:
			if o.err == nil {
				t.last.Store(int32(o.host))
				go func() {
					for range begun - ended - 1 {
						if late := <-outcomes; late.err == nil {
							drop(late.c)
						}
					}
				}()
				return o.c, nil
			}
			errs[o.host] = o.err
			if ended++; begun < len(t.hosts) {
				begin()
			}
		case <-next:
			begin()
		}
	}
	return c, errors.Join(errs...)
}

// connect makes a connection that is in no pool.
func (t *target) connect(ctx context.Context) (*pgx.Conn, error) {
	return first(ctx, t, func(ctx context.Context, host int) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, t.hosts[host].Copy())
	}, func(c *pgx.Conn) { _ = end(c) })
}

// connector makes the connections of a pool, with parameters above those of the
// URL.
func (t *target) connector(params map[string]string, options ...stdlib.OptionOpenDB) driver.Connector {
	c := &connector{to: t}
	for _, cfg := range t.hosts {
		own := cfg.Copy()
		for key, value := range params {
			own.RuntimeParams[key] = value
		}
		c.hosts = append(c.hosts, stdlib.GetConnector(*own, options...))
	}
	return c
}

type connector struct {
	to    *target
	hosts []driver.Connector
}

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	return first(ctx, c.to, func(ctx context.Context, host int) (driver.Conn, error) {
		return c.hosts[host].Connect(ctx)
	}, func(late driver.Conn) { _ = late.Close() })
}

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return c.hosts[0].Driver() }

var _ driver.Connector = (*connector)(nil)
