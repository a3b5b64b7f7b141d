package password

import (
	"context"
	"slices"
	"sync"
	"time"
)

// acquire takes n permits, or says why not. Waiters are served in order, so a
// hash that needs many permits is not starved by those that need one.
func (h *Hasher) acquire(ctx context.Context, n int64) error {
	err := h.wait(ctx, n)
	if err == nil && h.onWork != nil {
		h.onWork()
	}
	if err == nil && h.spare {
		processors.enter(h.permits)
	}
	return err
}

func (h *Hasher) release(n int64) {
	if h.spare {
		processors.leave()
	}
	h.sem.Release(n)
}

func (h *Hasher) wait(ctx context.Context, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.sem.TryAcquire(n) {
		return nil
	}
	if h.waiting.Add(1) > h.queue {
		h.waiting.Add(-1)
		return ErrBusy
	}
	defer h.waiting.Add(-1)

	wait, cancel := context.WithTimeout(ctx, h.maxWait)
	defer cancel()
	if h.sem.Acquire(wait, n) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return ErrBusy
}

// weight returns how many permits a computation needs that uses kib of memory
// and this many threads: enough for permits × Memory to stay the bound on
// memory, and permits × Threads the one on cores. What is larger than the
// whole budget takes all of it and runs alone.
func (h *Hasher) weight(kib uint32, threads uint8) int64 {
	ceil := func(a, b int64) int64 { return (a + b - 1) / b }
	n := max(ceil(int64(kib), int64(h.argon.memory)), ceil(int64(threads), int64(h.argon.threads)))
	return min(max(n, 1), h.permits)
}

// matches runs one comparison with a stored hash.
func (h *Hasher) matches(hash verifier, pw string) bool {
	kib, _ := hash.cost()
	h.use(int64(kib))
	defer h.use(-int64(kib))
	return hash.matches(pw)
}

// full computes one argon2id hash at the current cost, and remembers how long
// that took.
func (h *Hasher) full(salt []byte, pw string) []byte {
	h.use(int64(h.argon.memory))
	defer h.use(-int64(h.argon.memory))
	start := time.Now()
	key := h.argon.key(argon2id, pw, salt, keySize)
	h.typical.add(time.Since(start))
	return key
}

// topUp makes what began at start take as long as one hash at the current
// cost. The time of argon2 is proportional to its memory, so the missing part
// of the time is spent on a hash with that part of the memory. Sleeping would
// not do: it ends on time also while the machine is busy, and real hashes do
// not.
//
// It is the time on the clock that is filled up, because that is what a
// stranger can see; on a busy machine both sides of the fraction grow alike.
func (h *Hasher) topUp(start time.Time, pw string) {
	const (
		exact = 0.03 // of the time, half a millisecond, is near enough
		// A hash of another size takes up to a tenth longer than its share,
		// because its memory is not the block that the last one left behind.
		// So approach from below, in steps that become short.
		step   = 0.85
		rounds = 6
	)
	for range rounds {
		missing := 1.0
		if typical := h.typical.median(); typical > 0 {
			missing -= float64(time.Since(start)) / float64(typical)
		}
		if missing < exact {
			return
		}
		if missing > 1-exact { // nothing was done yet, or nothing is known yet
			h.full(dummySalt[:], pw)
			return
		}
		part := h.argon
		part.memory = max(uint32(step*missing*float64(part.memory)), minMemory(part.threads))
		h.use(int64(part.memory))
		part.key(argon2id, pw, dummySalt[:], keySize)
		h.use(-int64(part.memory))
	}
}

// dummySalt is for hashes that are thrown away.
var dummySalt [saltSize]byte

func (h *Hasher) use(delta int64) {
	if h.meter != nil {
		h.meter(delta)
	}
}

// stopwatch remembers the last durations of the same work. Its zero value is
// ready for use.
type stopwatch struct {
	mu   sync.Mutex
	last [31]time.Duration
	n    int // how many were added, at most len(last) + 1 round
}

func (s *stopwatch) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[s.n%len(s.last)] = d
	if s.n++; s.n == 2*len(s.last) {
		s.n = len(s.last)
	}
}

// median returns the middle duration, or 0 if there is none. The median, not
// the mean: a hash that lost its core for a while must not make the next
// hundred dummies longer than real ones.
func (s *stopwatch) median() time.Duration {
	s.mu.Lock()
	last := s.last
	n := min(s.n, len(last))
	s.mu.Unlock()
	if n == 0 {
		return 0
	}
	slices.Sort(last[:n])
	return last[n/2]
}
