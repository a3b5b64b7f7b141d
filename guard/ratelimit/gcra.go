package ratelimit

import (
	"fmt"
	"math/bits"
	"time"
)

// The algorithm is GCRA, the generic cell rate algorithm of ITU-T I.371, in its
// form with a theoretical arrival time (TAT). It is a leaky bucket that stores
// one instant: when the bucket will have run empty. A request costs Per/Count.
// It passes if, with its cost added, the bucket runs empty no later than
// Burst × Per/Count from now.
//
// Per/Count is seldom a whole number of microseconds: 7/second costs 142,857 µs
// and one seventh. So an instant has a remainder, counted in 1/Count of a
// microsecond, and nothing is ever rounded in what is stored.

// Bucket is all that is remembered of one key under one rate: the instant at
// which nothing of it is in use any more. A bucket whose instant has passed, the
// zero Bucket among them, is as good as none.
type Bucket struct {
	At   int64 // microseconds, on the clock of the store
	Part int64 // and so many 1/Count of a microsecond: 0 to Count−1
}

// live reports whether the bucket differs from an unused one.
func (b Bucket) live(now int64) bool { return b.At > now || b.At == now && b.Part > 0 }

// Decision is what a store or a limiter says of one request.
type Decision struct {
	// Allowed tells whether it may pass. For a look that takes nothing (n = 0),
	// whether one would.
	Allowed bool
	// Rate is the tightest one: of a refusal the one to wait longest for,
	// otherwise the one with the least remaining.
	Rate Rate
	// Remaining is how many more would pass at once under Rate.
	Remaining int
	// Reset is how long until Remaining grows by one; 0 if nothing is in use.
	Reset time.Duration
	// RetryAfter is how long until the same would pass, if nothing else is taken
	// meanwhile: to the microsecond, not one too early. 0 if it was allowed.
	RetryAfter time.Duration

	limiter *Limiter
}

// CheckTake returns an error if n and rates cannot be used with a Store: one to
// MaxRates valid rates, and n from 0 to the smallest burst, since more would
// never pass.
func CheckTake(n int, rates []Rate) error {
	if len(rates) == 0 || len(rates) > MaxRates {
		return fmt.Errorf("ratelimit: %d rates, not 1 to %d", len(rates), MaxRates)
	}
	for _, r := range rates {
		if !r.valid() {
			return r.Validate()
		}
		if n < 0 || n > r.burst() {
			return fmt.Errorf("ratelimit: %d at once can never pass %s", n, r)
		}
	}
	return nil
}

// Decide decides whether n requests may pass at the instant now (microseconds,
// not negative), and changes the buckets, one for each of rates, accordingly. It
// is pure: a store reads buckets, calls it, and writes them. What does not pass
// is charged to none of the buckets; n = 0 charges nothing and looks whether one
// would pass.
//
// The arguments must be such that CheckTake returns nil.
//
// A clock that has been set back finds buckets that are fuller than they can
// be. They count as full, and are stored so even by a refusal, so that a refused
// caller waits for Per/Count as usual and not until the clock has caught up;
// nothing that was in use becomes free.
func Decide(now int64, n int, rates []Rate, buckets []Bucket) Decision {
	var used [MaxRates]int64
	d := Decision{Allowed: true}
	need := int64(max(n, 1))
	for i, r := range rates {
		var stale bool
		used[i], stale = buckets[i].used(now, r)
		if stale {
			buckets[i] = bucketOf(now, used[i], r)
		}
		d.Allowed = d.Allowed && used[i]+need*r.cost() <= r.full()
	}
	for i, r := range rates {
		if d.Allowed && n > 0 {
			used[i] += int64(n) * r.cost()
			buckets[i] = bucketOf(now, used[i], r)
		}
		remaining := (r.full() - used[i]) / r.cost()
		var reset, retry time.Duration
		if used[i] > 0 {
			reset = r.wait(used[i] + (remaining+1)*r.cost() - r.full())
		}
		if !d.Allowed {
			retry = r.wait(used[i] + need*r.cost() - r.full())
		}
		tighter := i == 0 || retry > d.RetryAfter
		if retry == d.RetryAfter && !tighter {
			tighter = int(remaining) < d.Remaining || int(remaining) == d.Remaining && reset > d.Reset
		}
		if tighter {
			d.Rate, d.Remaining, d.Reset, d.RetryAfter = r, int(remaining), reset, retry
		}
	}
	return d
}

// Fillings are counted in units of 1/Count of a microsecond, of which a request
// takes cost. By the bounds of Rate none is above 2.6e18, a quarter of what int64
// holds.

func (r Rate) cost() int64 { return int64(r.Per / time.Microsecond) }
func (r Rate) full() int64 { return int64(r.burst()) * r.cost() }

// wait is how long it takes to empty by so much, rounded up to microseconds.
func (r Rate) wait(units int64) time.Duration {
	if units <= 0 {
		return 0
	}
	return time.Duration((units+int64(r.Count)-1)/int64(r.Count)) * time.Microsecond
}

// used returns how full a bucket is now, and whether that is less than what it
// says, which no clock that only goes forward can bring about.
func (b Bucket) used(now int64, r Rate) (units int64, stale bool) {
	if !b.live(now) {
		return 0, false
	}
	high, low := bits.Mul64(uint64(b.At-now), uint64(r.Count))
	full := r.full()
	part := min(max(b.Part, 0), int64(r.Count)-1) // whatever a store has read
	if high != 0 || low > uint64(full) || int64(low)+part > full {
		return full, true
	}
	return int64(low) + part, false
}

func bucketOf(now, used int64, r Rate) Bucket {
	count := int64(r.Count)
	return Bucket{now + used/count, used % count}
}
