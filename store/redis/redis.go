// Package redis shares limits between several processes over Redis or Valkey.
//
// It stores one short-lived entry for each key that is in use: an instant for
// each rate, under a digest of the key, so that neither addresses nor names stand
// there. All rates of a key are decided in one step, by one script, on the clock
// of the Redis server. It never decides by itself: where Redis does not answer in
// time, the error says so, and ratelimit.Fallback goes on locally.
//
// Redis from 6.2 on will do, alone, with Sentinel or as a Cluster, and so will
// Valkey. Nothing needs to be durable there. Errors never contain the
// password.
//
// Begin with Open and Client.Limits, for server.Limits.Share.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/sallyport/sallyport/guard/ratelimit"
)

// Options are what a URL does not say. The zero value is good.
type Options struct {
	// Prefix begins every key: 1 to 64 visible ASCII characters without braces.
	// Default “sallyport:”. Programs that share a Redis and should not share limits
	// have different ones.
	Prefix string

	// Secret keys the digests (HMAC-SHA-256), the same for all processes that
	// share limits: at least 16 bytes. Without it the digests are plain SHA-256:
	// whoever reads Redis cannot read an address there but can try out all of IPv4
	// in minutes. Give one where limits are by address or account.
	Secret []byte

	// Timeout bounds a call, with connecting: 1 ms to 10 s, default 100 ms.
	Timeout time.Duration

	// TLS adds to the configuration of rediss: certificate authorities, a client
	// certificate. Its MinVersion is at least TLS 1.2.
	TLS *tls.Config
}

// OpenError is why Redis cannot be used.
type OpenError struct {
	What string // the server, without password; or the option
	Why  string
	Fix  string
	Err  error // of the connection; nil for a mistake in the configuration
}

// Error says what, why and the fix; no password is in it.
func (e *OpenError) Error() string { return e.What + ": " + e.Why + ". " + e.Fix }

// Unwrap returns the error of the connection, if it is one.
func (e *OpenError) Unwrap() error { return e.Err }

// Client is a connection to Redis. It may be used concurrently.
type Client struct {
	redis   rueidis.Client
	name    string
	prefix  string
	secret  []byte
	timeout time.Duration
}

const (
	defaultPrefix  = "sallyport:"
	defaultTimeout = 100 * time.Millisecond
	openTimeout    = 5 * time.Second
	fixURL         = "Write it as redis://USER:PASSWORD@HOST:6379/0, or rediss:// for TLS."
)

// queries lists the options that a URL may have, with what is right for each.
var queries = map[string]func(scheme, value string) string{
	"addr": func(scheme, v string) string {
		if host, port, err := net.SplitHostPort(v); scheme == "unix" || err != nil || host == "" || port == "" {
			return "HOST:PORT of another node, with redis:// or rediss://"
		}
		return ""
	},
	"master_set": func(scheme, v string) string {
		if scheme == "unix" || v == "" {
			return "the name of a master that Sentinel knows, with redis:// or rediss://"
		}
		return ""
	},
	"db": func(scheme, v string) string {
		if n, err := strconv.Atoi(v); scheme != "unix" || err != nil || n < 0 {
			return "the number of a database, with unix://; with redis:// it is the path"
		}
		return ""
	},
	"client_name": func(_, v string) string {
		if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "visible ASCII without spaces"
		}
		return ""
	},
	"protocol": func(_, v string) string {
		if v != "2" && v != "3" {
			return "2 or 3"
		}
		return ""
	},
}

// Open connects to a URL and checks that the server answers:
//
//	redis://user:password@host:6379/0            rediss:// with TLS
//	redis://host:6379?addr=host2:6379            more nodes of a Cluster
//	redis://host:26379?master_set=mymaster       Sentinel
//	unix:///run/redis.sock?db=0                  a socket
//
// valkey:// and valkeys:// are redis:// and rediss://. Options: addr,
// master_set, db, client_name, protocol; any other is refused. Errors join an
// *OpenError for each mistake.
func Open(rawURL string, o Options) (*Client, error) {
	option, name, errs := parse(rawURL)
	bad := func(what, why, fix string) { errs = append(errs, &OpenError{What: what, Why: why, Fix: fix}) }
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if len(o.Prefix) > 64 || strings.ContainsFunc(o.Prefix, func(r rune) bool { return r <= ' ' || r > '~' || r == '{' || r == '}' }) {
		bad("Prefix", "it is not 1 to 64 visible ASCII characters without braces", "Write it as myapp:, for example.")
	}
	if len(o.Secret) > 0 && len(o.Secret) < 16 {
		bad("Secret", "it is shorter than 16 bytes", "Give 32 random bytes, or leave it out.")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Timeout < time.Millisecond || o.Timeout > 10*time.Second {
		bad("Timeout", "it is not from 1 ms to 10 s", "Leave it out for 100 ms.")
	}
	if o.TLS != nil && option.TLSConfig == nil && len(errs) == 0 {
		bad("TLS", "the URL asks for a connection without TLS", "Write rediss:// or leave TLS out.")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.TLS != nil {
		c := o.TLS.Clone()
		if c.ServerName == "" {
			c.ServerName = option.TLSConfig.ServerName
		}
		c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
		option.TLSConfig = c
	}
	option.DisableCache = true // nothing that is counted may be cached
	option.DisableRetry = true // we retry ourselves, once: see limits.Take
	// One connection, over which concurrent calls are pipelined: that a call comes
	// through says that the next one will, too.
	option.PipelineMultiplex = -1
	option.Dialer.Timeout = openTimeout
	// Of a server that answers nothing any more the connection is given up, so that
	// one to its successor can be made.
	option.ConnWriteTimeout = max(o.Timeout, time.Second)

	client, err := rueidis.NewClient(option)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		if err = client.Do(ctx, client.B().Ping().Build()).Error(); err != nil {
			client.Close()
		}
	}
	if err != nil {
		return nil, unusable(name, option.Password, err)
	}
	return &Client{redis: client, name: name, prefix: o.Prefix, secret: slices.Clone(o.Secret), timeout: o.Timeout}, nil
}

// CheckURL returns what Open would say of a URL without connecting.
func CheckURL(rawURL string) error {
	_, _, errs := parse(rawURL)
	return errors.Join(errs...)
}

// parse checks a URL. Its errors repeat nothing that may be a password: what
// url.Parse says quotes its input.
func parse(rawURL string) (o rueidis.ClientOption, name string, errs []error) {
	bad := func(what, why, fix string) (rueidis.ClientOption, string, []error) {
		return o, name, append(errs, &OpenError{What: what, Why: why, Fix: fix})
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return bad("Redis", "the URL cannot be parsed", fixURL)
	}
	switch u.Scheme {
	case "redis", "rediss", "valkey", "valkeys":
		if u.Hostname() == "" || u.Opaque != "" {
			return bad("Redis", "the URL names no host", fixURL)
		}
		// Whoever forgets a slash, or does not escape one in a password, has it here.
		if db := strings.TrimPrefix(u.Path, "/"); db != "" {
			if n, err := strconv.Atoi(db); err != nil || n < 0 || strconv.Itoa(n) != db {
				return bad("Redis", "the URL's path is not the number of a database", fixURL)
			}
		}
		name = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	case "unix":
		if u.Host != "" || u.Path == "" {
			return bad("Redis", "the URL names no socket", "Write it as unix:///run/redis.sock, with three slashes.")
		}
		name = "unix://" + u.Path
	default:
		return bad("Redis", "the URL's scheme is not redis, rediss, valkey, valkeys or unix", fixURL)
	}
	if u.Fragment != "" {
		return bad(name, "the URL has a fragment", "Write # as %23 in a password.")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad(name, "the URL's options cannot be read", fixURL)
	}
	for _, key := range slices.Sorted(maps.Keys(query)) {
		check, known := queries[key]
		if !known {
			known := strings.Join(slices.Sorted(maps.Keys(queries)), ", ")
			errs = append(errs, &OpenError{What: name, Why: "the URL has an option that is not known", Fix: "Leave out all but " + known + ". Timeouts and TLS are Options; certificates are always checked."})
			continue
		}
		if len(query[key]) > 1 && key != "addr" {
			errs = append(errs, &OpenError{What: name, Why: "the option " + key + " stands there twice", Fix: "Leave one."})
		}
		for _, v := range query[key] {
			if want := check(u.Scheme, v); want != "" {
				errs = append(errs, &OpenError{What: name, Why: "the option " + key + " is not valid", Fix: "It is " + want + "."})
			}
		}
	}
	if len(errs) > 0 {
		return o, name, errs
	}
	if u.Path == "/" {
		u.Path = "" // which the library takes for a database without a number
	}
	o, err = rueidis.ParseURL(u.String())
	if err != nil {
		return bad(name, "the URL is not valid", fixURL)
	}
	return o, name, nil
}

// unusable explains why a server that is there, or not, cannot be used.
func unusable(name, password string, err error) *OpenError {
	e := &OpenError{
		What: name, Why: "the server does not answer: " + redact(err.Error(), password),
		Fix: "Check that Redis runs there and that the network lets this machine reach it.",
	}
	if answer, ok := rueidis.IsRedisErr(err); ok {
		e.Why = "the server refused: " + redact(answer.Error(), password)
		e.Fix = "Check that it is Redis 6.2 or later, or Valkey, and may be written to."
		for _, code := range []string{"WRONGPASS", "NOAUTH", "NOPERM", "ERR invalid password", "ERR AUTH"} {
			if strings.HasPrefix(answer.Error(), code) {
				e.Fix = "Check the user and password in the URL, and what the user may do (ACL LIST): EVAL, EVALSHA, GET, SET, TIME, PING."
			}
		}
	}
	if strings.Contains(err.Error(), password) && password != "" {
		err = errors.New(redact(err.Error(), password))
	}
	e.Err = err
	return e
}

func redact(s, password string) string {
	if password == "" {
		return s
	}
	return strings.ReplaceAll(s, password, "***")
}

// Ping asks whether the server answers, within Options.Timeout.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	defer cancel()
	if err := c.redis.Do(ctx, c.redis.B().Ping().Build()).Error(); err != nil {
		return fmt.Errorf("redis: %s: %w", c.name, err)
	}
	return nil
}

// Close ends the connections. Calls that follow fail.
func (c *Client) Close() { c.redis.Close() }

// Limits returns the store of limits. It fails where Redis does; put it into a
// ratelimit.Fallback.
func (c *Client) Limits() ratelimit.Store { return newLimits(c) }
