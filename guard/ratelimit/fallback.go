package ratelimit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
)

// FallbackConfig configures a Fallback. Shared is required.
type FallbackConfig struct {
	// Shared is the store to ask: one with a time limit of its own, such as that of
	// package store/redis.
	Shared Store

	// Local decides while Shared does not. Default: a Memory of its own.
	Local *Memory

	// Retry is how long after a failure Shared is asked again, by one request that
	// takes something:
	// 100 ms to 1 min, default 1 s.
	Retry time.Duration

	// Share is how many processes count for themselves while Shared is away: each lets
	// through its part of the limit, rounded up and at least one. 1 to MaxShare,
	// default 1: each lets through the whole.
	Share int

	// OnChange is called once when Shared fails, with its error, and once when it is
	// back, with nil; never twice at a time. It must not block: a request waits for
	// it.
	OnChange func(err error)
}

// Fallback is a Store that several processes share, and a Memory that goes on
// where it fails.
//
// While Shared answers, it decides, and what it lets pass is noted in Local as
// well. When it fails, the same request is decided by Local, and so are all that
// follow; once in each Retry a single request tries Shared again and the others
// do not wait for it.
//
// So there is never no limit. During an outage each process lets through its Share
// of what the limit says, less what it has let through before; all together at most
// the limit, rounded up for each, if Share is how many there are, and as many times
// the limit as there are if it is not given. When Shared is back, it knows nothing
// of the outage, and at most once the limit is added.
type Fallback struct {
	shared   Store
	local    Store
	retry    time.Duration
	onChange func(error)

	turn  sync.Mutex    // of changes
	epoch atomic.Uint64 // odd: Shared has failed
	next  atomic.Int64  // when it may be asked again, since start
	start time.Time
}

// NewFallback checks a configuration. The error joins a *ConfigError for each
// mistake.
func NewFallback(cfg FallbackConfig) (*Fallback, error) {
	var errs []error
	if cfg.Shared == nil {
		errs = append(errs, sallyport.Mistake("Shared", "", "there is none", "Give a store that is shared, or use a Memory alone."))
	}
	if cfg.Retry == 0 {
		cfg.Retry = time.Second
	}
	if cfg.Retry < 100*time.Millisecond || cfg.Retry > time.Minute {
		errs = append(errs, sallyport.Mistake("Retry", cfg.Retry.String(), "it is not from 100 ms to 1 min", "Leave it out for 1 s."))
	}
	if cfg.Local == nil {
		m, err := NewMemory(MemoryConfig{})
		if err != nil {
			errs = append(errs, err)
		}
		cfg.Local = m
	}
	local, err := Share(cfg.Local, cfg.Share)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(error) {}
	}
	return &Fallback{shared: cfg.Shared, local: local, retry: cfg.Retry, onChange: cfg.OnChange, start: time.Now()}, nil
}

// Take implements Store. Its error is CheckTake's; there is no other.
func (f *Fallback) Take(ctx context.Context, key string, n int, rates ...Rate) (Decision, error) {
	if err := CheckTake(n, rates); err != nil {
		return Decision{}, err
	}
	epoch := f.epoch.Load()
	if epoch%2 == 1 {
		at := f.next.Load()
		now := time.Since(f.start)
		// Only what writes can find out: a replica, or a server that is full, still
		// answers who looks.
		if n == 0 || int64(now) < at || !f.next.CompareAndSwap(at, int64(now+f.retry)) {
			return f.local.Take(ctx, key, n, rates...)
		}
	}
	d, err := f.shared.Take(ctx, key, n, rates...)
	if err != nil {
		// A caller who goes away says nothing about the store.
		if ctx.Err() == nil {
			f.fails(epoch, err)
		}
		return f.local.Take(ctx, key, n, rates...)
	}
	if epoch%2 == 1 {
		f.change(epoch, nil)
	}
	if d.Allowed && n > 0 {
		// Whether Local would have refused does not count: Shared decides.
		if _, err := f.local.Take(ctx, key, n, rates...); err != nil {
			return Decision{}, err
		}
	}
	return d, nil
}

// Down reports whether limits are local at the moment.
func (f *Fallback) Down() bool { return f.epoch.Load()%2 == 1 }

// fails notes a failure of a request that began in epoch. One that began before
// the last change says nothing about now.
func (f *Fallback) fails(epoch uint64, err error) {
	f.next.Store(int64(time.Since(f.start) + f.retry))
	if epoch%2 == 0 {
		f.change(epoch, err)
	}
}

func (f *Fallback) change(epoch uint64, err error) {
	f.turn.Lock()
	defer f.turn.Unlock()
	if f.epoch.CompareAndSwap(epoch, epoch+1) {
		f.onChange(err)
	}
}
