// Package live holds, in this process, what was found out about credentials:
// that one is genuine, whose it is, and what its subject may do now. It makes
// authenticating a request a look-up in memory, and is never stale beyond the
// lease.
//
// It decides how long something found may be used: until a change of that
// authority is heard of, and never without having heard of all changes within
// the lease. It stores nothing on disk and knows no credential that was not
// proven by whoever calls it.
//
// How it stays right:
//
//   - Every change of authority is a row, written with the change (db.Tx.Changed).
//     What this process writes is applied here before the Write returns; what
//     others write is read by polling.
//   - Something found is used only if the last successful poll began within the
//     lease; otherwise the request waits for one that begins after it. If that
//     fails, the caller must refuse with 503.
//   - Whoever reads the state of a credential publishes first that it is
//     reading. A change that comes in between takes that away, and what was read
//     is used for that one request and not kept.
package live

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
)

// The times that bound staleness. On SQLite a poll is a read of the local file
// that takes microseconds: it is done whenever the last is older than the lease,
// and nothing runs while nobody asks. Over a network it is done all the time,
// so that requests hardly ever wait for it.
const (
	sqliteLease   = 5 * time.Millisecond
	postgresLease = 750 * time.Millisecond
	postgresPoll  = 250 * time.Millisecond
	pollTimeout   = time.Second
	// tend is how often what has expired is thrown out, and SQLite is polled
	// although nobody asks, so that the reading never falls behind.
	tend = 10 * time.Second
)

// Config is what a Cache needs.
type Config struct {
	DB *db.DB
	// Lease is the longest that a change which another process made may go
	// unnoticed; 0 means 5 ms on SQLite and 750 ms on PostgreSQL.
	Lease time.Duration
	// Max is how many credentials are held; 0 means 1,000,000. Each takes about
	// 200 bytes once it is there.
	Max int
	// Poll reads changes; nil means DB.Changes. Tests replace it.
	Poll func(context.Context, db.Cursor) ([]string, bool, db.Cursor, error)
	// Distrusted is told when a poll fails because the database went back
	// (*db.WentBack, db.ErrUnsettled): from then on nothing is fresh until one
	// succeeds. nil: nobody is.
	Distrusted func(error)
}

// Cache is what this process knows. It is safe for concurrent use.
type Cache struct {
	store
	cfg   Config
	base  time.Time
	asOf  atomic.Int64 // ns since base when the last successful poll began; minInt64: none
	wall  atomic.Int64 // the same by the wall clock, in ns since 1970
	lease int64

	mu       sync.Mutex
	cur, nxt *round
	ended    bool      // by Close: no round begins
	cursor   db.Cursor // of the round that runs

	hits, misses           measure.Often
	polls, failed, emptied atomic.Uint64

	deaf   func()
	stop   context.CancelFunc
	closed sync.WaitGroup
}

// New returns an empty Cache that hears of the changes of d. Close ends it.
func New(cfg Config) *Cache {
	every := time.Duration(0)
	if cfg.DB.Dialect() == db.Postgres {
		every = postgresPoll
	}
	if cfg.Lease == 0 {
		cfg.Lease = sqliteLease
		if every > 0 {
			cfg.Lease = postgresLease
		}
	}
	if every > 0 {
		every = min(every, cfg.Lease/3)
	}
	if cfg.Max == 0 {
		cfg.Max = 1_000_000
	}
	if cfg.Poll == nil {
		cfg.Poll = cfg.DB.Changes
	}
	c := &Cache{cfg: cfg, base: time.Now(), lease: int64(cfg.Lease)}
	c.asOf.Store(never)
	c.store.init(cfg.Max)
	c.deaf = cfg.DB.OnChange(c.apply)
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.closed.Go(func() { c.run(ctx, every) })
	if every > 0 {
		c.closed.Go(func() { cfg.DB.Nudges(ctx, func() { _ = c.poll(ctx) }) })
	}
	return c
}

const never = -1 << 63

// Lease returns the longest that a change of another process may go unnoticed.
func (c *Cache) Lease() time.Duration { return c.cfg.Lease }

// Close ends the polling, and waits for the poll that is under way. Nothing is
// fresh any more.
func (c *Cache) Close() {
	c.stop()
	c.mu.Lock()
	c.ended = true
	last := c.cur
	c.mu.Unlock()
	if last != nil {
		<-last.done
	}
	c.closed.Wait()
	c.asOf.Store(never) // before it is deaf
	c.deaf()
}

var (
	errClosed = errors.New("the cache of credentials is closed")
	errPanic  = errors.New("the poll panicked")
)

func (c *Cache) run(ctx context.Context, every time.Duration) {
	clean := time.NewTicker(tend)
	defer clean.Stop()
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			_ = c.poll(ctx) // requests find out by the lease
		case <-clean.C:
			_ = c.poll(ctx)
			c.store.expire(time.Now())
		}
	}
}

// Fresh returns nil if every change that was committed the lease ago or earlier
// has been heard of; it polls if need be. It is called before Get, so that Get
// finds what was heard. now is time.Now, read when the request arrived.
func (c *Cache) Fresh(ctx context.Context, now time.Time) error {
	// By both clocks: the monotonic one stands still while the machine sleeps, and
	// the other can be set back.
	if int64(now.Sub(c.base))-c.lease <= c.asOf.Load() && now.UnixNano()-c.lease <= c.wall.Load() {
		return nil
	}
	return c.poll(ctx)
}

// Get fills f with what is known of a credential, as store.Get, and counts
// whether that spared the database.
func (c *Cache) Get(k *Key, now time.Time, f *Found) bool {
	known := c.store.Get(k, now, f)
	if known && f.Alive {
		c.hits.Add()
	} else {
		c.misses.Add()
	}
	return known
}

// Forget makes every credential be proven again.
func (c *Cache) Forget() {
	c.store.forget()
	c.emptied.Add(1)
}

// Measure returns how the cache does.
func (c *Cache) Measure() []measure.Family {
	c.lock.Lock()
	held := int(c.n) - len(c.free)
	c.lock.Unlock()
	lag := math.Inf(1)
	if asOf := c.asOf.Load(); asOf != never {
		lag = (time.Since(c.base) - time.Duration(asOf)).Seconds()
	}
	polls, failed := c.polls.Load(), c.failed.Load()
	return []measure.Family{
		{
			Name: "sallyport_credential_cache_lookups_total", Help: "Credentials that were looked up in memory, by whether the database was spared (hit) or asked (miss).",
			Kind: measure.Counter, Labels: []string{"result"}, Points: []measure.Point{
				{Labels: []string{"hit"}, Value: float64(c.hits.Load())}, {Labels: []string{"miss"}, Value: float64(c.misses.Load())},
			},
		},
		measure.One("sallyport_credential_cache_entries", "Credentials held in memory.", measure.Gauge, float64(held)),
		measure.One("sallyport_credential_cache_entries_max", "The most that are held (auth.remember).", measure.Gauge, float64(c.max)),
		measure.One("sallyport_feed_lag_seconds", "How long ago the last reading of other nodes' changes began. On SQLite it is read when a request needs it, so that it may be 10 s while nobody asks. +Inf: never yet.", measure.Gauge, lag),
		measure.One("sallyport_feed_lease_seconds", "The lag beyond which a request waits for a reading, and is answered 503 if that fails (auth.lease).", measure.Gauge, c.cfg.Lease.Seconds()),
		{
			Name: "sallyport_feed_polls_total", Help: "Readings of changes, by result.",
			Kind: measure.Counter, Labels: []string{"result"}, Points: []measure.Point{
				{Labels: []string{"failed"}, Value: float64(failed)}, {Labels: []string{"read"}, Value: float64(polls - min(failed, polls))},
			},
		},
		measure.One("sallyport_feed_resets_total", "How often everything in memory was forgotten because changes could have been missed: once at the start, and after a restore, a failover, a long time away or a clock that was set back.", measure.Counter, float64(c.emptied.Load())),
	}
}

// round is one poll that any number wait for.
type round struct {
	done chan struct{}
	err  error
}

// poll waits for a poll that begins after the call. All who call meanwhile
// share it; one of them does it.
func (c *Cache) poll(ctx context.Context) error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return errClosed
	}
	if c.cur == nil {
		r := &round{done: make(chan struct{})}
		c.cur = r
		c.mu.Unlock()
		c.do(r)
		return r.err
	}
	if c.nxt == nil { // the one that runs may have begun before
		c.nxt = &round{done: make(chan struct{})}
	}
	r := c.nxt
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// do polls for a round, and sees to it that the one that waits is done next, also
// if the poll panics.
func (c *Cache) do(r *round) {
	r.err = errPanic
	defer func() {
		c.mu.Lock()
		next := c.nxt
		if c.nxt = nil; c.ended && next != nil {
			next.err = errClosed
			close(next.done)
			next = nil
		}
		c.cur = next
		c.mu.Unlock()
		close(r.done)
		if next != nil {
			go c.do(next)
		}
	}()
	r.err = c.read()
}

// read applies what has changed. Only one runs at a time.
func (c *Cache) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), pollTimeout)
	defer cancel()
	now := time.Now()
	began := int64(now.Sub(c.base))
	what, all, next, err := c.cfg.Poll(ctx, c.cursor)
	c.polls.Add(1)
	if err != nil {
		c.failed.Add(1)
		if _, wentBack := errors.AsType[*db.WentBack](err); wentBack || errors.Is(err, db.ErrUnsettled) {
			c.asOf.Store(never)
			if c.cfg.Distrusted != nil {
				c.cfg.Distrusted(err)
			}
		}
		return err
	}
	// By both clocks: see Fresh.
	last, gone := c.asOf.Load(), int64(db.RetainChanges/2)
	if all || last == never || began-last > gone || now.UnixNano()-c.wall.Load() > gone {
		c.Forget()
	} else {
		c.apply(what)
	}
	c.cursor = next
	c.wall.Store(now.UnixNano())
	c.asOf.Store(began)
	return nil
}

// apply throws out what a change may have made untrue.
func (c *Cache) apply(what []string) {
	for _, w := range what {
		switch w {
		case db.ChangedRoles:
			c.store.forgetStates()
		case db.ChangedKeys:
			c.store.forget()
		default:
			c.store.invalidate(w)
		}
	}
}
