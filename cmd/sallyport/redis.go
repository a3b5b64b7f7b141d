package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/store/redis"
)

// sharedLimits returns what opens the store of limits that nodes share: Redis,
// with the memory of this process where Redis does not answer. A server starts
// without it, too. done ends what it starts.
func sharedLimits(ctx context.Context, url string, nodes int, log *slog.Logger) (share func(secret []byte) (ratelimit.Store, error), done func()) {
	ctx, done = context.WithCancel(context.WithoutCancel(ctx))
	return func(secret []byte) (ratelimit.Store, error) {
		c := &connecting{}
		open := func() error {
			client, err := redis.Open(url, redis.Options{Secret: secret})
			if err == nil {
				context.AfterFunc(ctx, client.Close)
				c.store.Store(&opener{client.Limits()})
			}
			return err
		}
		if err := open(); err != nil {
			if e, ok := errors.AsType[*redis.OpenError](err); ok && e.Err == nil {
				return nil, err // it will not get better
			}
			log.Warn("redis does not answer: limits are counted by each node for itself until it does", "error", err)
			go c.keepTrying(ctx, open)
		}
		return ratelimit.NewFallback(ratelimit.FallbackConfig{Shared: c, Share: nodes, OnChange: func(err error) {
			switch {
			case err == nil:
				log.Info("redis answers again: limits are shared")
			case !errors.Is(err, errConnecting):
				log.Warn("redis does not answer: limits are counted by each node for itself until it does", "error", err)
			}
		}})
	}, done
}

const redisRetry = time.Second

var errConnecting = errors.New("redis has not been reached yet")

// connecting is a store that may not have been reached yet.
type connecting struct{ store atomic.Pointer[opener] }

type opener struct{ ratelimit.Store }

// Take implements ratelimit.Store.
func (c *connecting) Take(ctx context.Context, key string, n int, rates ...ratelimit.Rate) (ratelimit.Decision, error) {
	if s := c.store.Load(); s != nil {
		return s.Take(ctx, key, n, rates...)
	}
	return ratelimit.Decision{}, errConnecting
}

func (c *connecting) keepTrying(ctx context.Context, open func() error) {
	tick := time.NewTicker(redisRetry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if open() == nil {
				return
			}
		}
	}
}
