package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

// remote is a shared store that fails, or waits, as a test says.
type remote struct {
	Store
	down  atomic.Bool
	slow  atomic.Int64 // how long it takes to fail
	asked atomic.Int64
}

func (r *remote) Take(ctx context.Context, key string, n int, rates ...Rate) (Decision, error) {
	r.asked.Add(1)
	if r.down.Load() {
		time.Sleep(time.Duration(r.slow.Load()))
		return Decision{}, errDown
	}
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	return r.Store.Take(ctx, key, n, rates...)
}

type changes struct {
	sync.Mutex
	list []string
}

func (c *changes) note(err error) {
	c.Lock()
	defer c.Unlock()
	c.list = append(c.list, fmt.Sprint(err))
}

func (c *changes) String() string {
	c.Lock()
	defer c.Unlock()
	return strings.Join(c.list, " ")
}

func newFallback(t *testing.T) (*Fallback, *remote, *changes) {
	t.Helper()
	r, c := &remote{Store: newMemory(t, MemoryConfig{})}, new(changes)
	f, err := NewFallback(FallbackConfig{Shared: r, OnChange: c.note})
	if err != nil {
		t.Fatal(err)
	}
	return f, r, c
}

// readable answers looks and takes nothing, as a replica does, or a Redis that is
// full.
type readable struct{ *remote }

func (r readable) Take(ctx context.Context, key string, n int, rates ...Rate) (Decision, error) {
	if n == 0 {
		return r.Store.Take(ctx, key, 0, rates...)
	}
	return r.remote.Take(ctx, key, n, rates...)
}

// A store that can be read and not written has failed: that it answers a look
// does not mean that limits are shared again.
func TestReadableIsNotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r, c := newFallback(t)
		f.shared = readable{r}
		r.down.Store(true)
		rate := Rate{Count: 2, Per: time.Hour}
		take := func(n int) bool {
			d, err := f.Take(t.Context(), "eve", n, rate)
			if err != nil {
				t.Fatal(err)
			}
			return d.Allowed
		}
		if first, second := take(1), take(1); !first || !second {
			t.Fatal("what the limit allows was refused")
		}
		for range 5 {
			time.Sleep(2 * time.Second)
			if take(0) || take(1) {
				t.Error("more passed than the limit allows")
			}
		}
		if c.String() != "down" || !f.Down() {
			t.Errorf("told of %s", c)
		}
		r.down.Store(false)
		time.Sleep(2 * time.Second)
		take(0)
		if take(1); c.String() != "down <nil>" || f.Down() {
			t.Errorf("told of %s", c)
		}
	})
}

func TestNewFallbackChecks(t *testing.T) {
	_, err := NewFallback(FallbackConfig{Retry: time.Hour})
	if errs, ok := err.(interface{ Unwrap() []error }); !ok || len(errs.Unwrap()) != 2 {
		t.Errorf("%v", err)
	}
	if _, err := NewFallback(FallbackConfig{Shared: newMemory(t, MemoryConfig{}), Retry: 100 * time.Millisecond}); err != nil {
		t.Error(err)
	}
}

// Q: where the shared store fails, limits go on, and the requests do not wait
// for it one after the other.
func TestFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, shared, changed := newFallback(t)
		rate := Rate{10, time.Hour, 0}
		passed := 0
		for range 4 {
			if take(t, f, "ada", 1, rate).Allowed {
				passed++
			}
		}
		if shared.asked.Load() != 4 || passed != 4 || f.Down() || changed.String() != "" {
			t.Fatalf("asked %d, passed %d, %q", shared.asked.Load(), passed, changed)
		}

		shared.down.Store(true)
		shared.slow.Store(int64(100 * time.Millisecond))
		began := time.Now()
		for range 100 {
			if take(t, f, "ada", 1, rate).Allowed {
				passed++
			}
		}
		if passed != 10 {
			t.Errorf("%d of 10 passed: an outage begins the limit anew, or ends it", passed)
		}
		if time.Since(began) != 100*time.Millisecond || shared.asked.Load() != 5 || !f.Down() {
			t.Errorf("100 requests took %v and asked %d times", time.Since(began), shared.asked.Load()-4)
		}

		// Once a second, one of many.
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if take(t, f, "ada", 1, rate).Allowed {
						t.Error("more than the limit passed")
					}
				})
			}
			wg.Wait()
		}
		if n := shared.asked.Load() - 5; n < 2 || n > 3 {
			t.Errorf("asked %d times in 3 s", n)
		}
		if changed.String() != "down" {
			t.Errorf("told %q, want it once", changed)
		}

		shared.down.Store(false)
		time.Sleep(2 * time.Second)
		// The shared one knows nothing of the outage: it counted four.
		for range 100 {
			if take(t, f, "ada", 1, rate).Allowed {
				passed++
			}
		}
		if passed != 16 || f.Down() || changed.String() != "down <nil>" {
			t.Errorf("passed %d, told %q", passed, changed)
		}

		shared.down.Store(true)
		take(t, f, "ada", 1, rate)
		if changed.String() != "down <nil> down" {
			t.Errorf("told %q", changed)
		}
	})
}

// Q: exactly N of many parallel ones pass while the shared store is away.
func TestFallbackExactlyNPass(t *testing.T) {
	f, shared, changed := newFallback(t)
	shared.down.Store(true)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if take(t, f, "ada", 1, Rate{100, time.Hour, 0}).Allowed {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 100 || changed.String() != "down" {
		t.Errorf("%d passed, told %q", passed.Load(), changed)
	}
}

// A caller who goes away, or asks for what never passes, is no failure of the
// store.
func TestFallbackTellsWhoFailed(t *testing.T) {
	f, shared, changed := newFallback(t)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	rate := Rate{2, time.Hour, 0}
	for i := range 4 {
		d, err := f.Take(gone, "ada", 1, rate)
		if err != nil || d.Allowed != (i < 2) {
			t.Errorf("request %d: %+v, %v", i, d, err)
		}
	}
	if _, err := f.Take(context.Background(), "ada", 3, rate); err == nil {
		t.Error("three of two pass")
	}
	if f.Down() || changed.String() != "" || shared.asked.Load() != 4 {
		t.Errorf("down %v, told %q, asked %d", f.Down(), changed, shared.asked.Load())
	}
}

// A failure that comes late, of a request that began before the store was back,
// does not send it away again.
func TestFallbackLateFailure(t *testing.T) {
	f, _, changed := newFallback(t)
	f.fails(0, errDown)
	f.change(1, nil)
	f.fails(0, errDown)
	if f.Down() || changed.String() != "down <nil>" {
		t.Errorf("down %v, told %q", f.Down(), changed)
	}
	f.fails(2, errDown)
	if !f.Down() {
		t.Error("a failure of now counts")
	}
}
