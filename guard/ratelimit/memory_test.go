package ratelimit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// clock is a clock that tests move.
type clock struct{ micros atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMicro(c.micros.Load()) }
func (c *clock) advance(d time.Duration) { c.micros.Add(d.Microseconds()) }

func newClock() *clock {
	c := new(clock)
	c.micros.Store(1 << 50)
	return c
}

func newMemory(t testing.TB, cfg MemoryConfig) *Memory {
	t.Helper()
	m, err := NewMemory(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func take(t testing.TB, s Store, key string, n int, rates ...Rate) Decision {
	t.Helper()
	d, err := s.Take(context.Background(), key, n, rates...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNewMemoryChecks(t *testing.T) {
	for _, n := range []int{-1, 1, 999, 50_000_001} {
		m, err := NewMemory(MemoryConfig{MaxKeys: n})
		if e, ok := err.(*ConfigError); !ok || m != nil || e.Key != "MaxKeys" || e.Reason == "" || e.Fix == "" {
			t.Errorf("MaxKeys %d: %v", n, err)
		}
	}
	for _, n := range []int{0, 1000, 50_000_000} {
		if _, err := NewMemory(MemoryConfig{MaxKeys: n}); err != nil {
			t.Errorf("MaxKeys %d: %v", n, err)
		}
	}
}

// The store adds nothing to Decide and takes nothing from it, whatever tables
// grow or are made anew in between.
func TestMemoryIsDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		m, err := NewMemory(MemoryConfig{MaxKeys: 5000, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		rates := [][]Rate{
			{{3, time.Second, 0}},
			{{7, 3 * time.Second, 2}, {20, time.Minute, 0}},
			{{1, time.Second, 0}, {2, time.Minute, 0}, {5, time.Hour, 0}},
		}
		keys := rapid.IntRange(1, 600).Draw(t, "keys")
		want := make([][MaxRates]Bucket, keys)
		random := uint64(rapid.Uint32().Draw(t, "seed")) + 1
		draw := func(n int) int { // faster than rapid's
			random ^= random << 13
			random ^= random >> 7
			random ^= random << 17
			return int(random % uint64(n))
		}
		for range rapid.IntRange(1, 3000).Draw(t, "requests") {
			if draw(10) == 0 {
				c.advance(time.Duration(draw(3_000_000)) * time.Microsecond)
			}
			k, n := draw(keys), draw(3)
			r := rates[k%len(rates)]
			if n > 1 && k%len(rates) == 2 {
				n = 1
			}
			got, err := m.Take(context.Background(), "key"+strconv.Itoa(k), n, r...)
			if err != nil {
				t.Fatal(err)
			}
			if d := Decide(m.micros(), n, r, want[k][:len(r)]); d != got {
				t.Fatalf("key %d, %d of %v: %+v, want %+v", k, n, r, got, d)
			}
		}
		if m.Shared() != 0 {
			t.Fatalf("%d shared", m.Shared())
		}
	})
}

// Q: exactly N of many parallel ones pass, under one rate and under several of
// which each would let another number through.
func TestMemoryExactlyNPass(t *testing.T) {
	for _, rates := range [][]Rate{
		{{100, time.Hour, 0}},
		{{1000, time.Minute, 0}, {100, time.Hour, 0}, {500, 24 * time.Hour, 0}},
	} {
		c := newClock()
		m := newMemory(t, MemoryConfig{Now: c.now})
		var passed, refused atomic.Int64
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 20 {
					if take(t, m, "ada", 1, rates...).Allowed {
						passed.Add(1)
					} else {
						refused.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if passed.Load() != 100 || refused.Load() != 900 {
			t.Errorf("%v: %d passed, %d refused, want 100 and 900", rates, passed.Load(), refused.Load())
		}
		// What was refused was charged to no rate: of the first 900 are left.
		if len(rates) > 1 {
			c.advance(36 * time.Second)
			if d := take(t, m, "ada", 1, rates...); !d.Allowed {
				t.Error("refused after the wait")
			}
			d := take(t, m, "ada", 0, rates...)
			if d.Allowed || d.Rate != rates[1] || d.RetryAfter != 36*time.Second {
				t.Errorf("%+v, want to wait 36 s for %v", d, rates[1])
			}
		}
		if !take(t, m, "eve", 1, rates...).Allowed {
			t.Error("another key is refused")
		}
	}
}

func TestMemoryPeekTakesNothing(t *testing.T) {
	m := newMemory(t, MemoryConfig{Now: newClock().now})
	r := Rate{2, time.Minute, 0}
	for range 10 {
		if d := take(t, m, "ada", 0, r); !d.Allowed || d.Remaining != 2 || d.Reset != 0 || d.RetryAfter != 0 {
			t.Fatalf("%+v", d)
		}
	}
	if d := take(t, m, "ada", 2, r); !d.Allowed || d.Remaining != 0 || d.Reset != 30*time.Second {
		t.Errorf("%+v", d)
	}
	for range 10 {
		if d := take(t, m, "ada", 0, r); d.Allowed || d.RetryAfter != 30*time.Second {
			t.Fatalf("%+v", d)
		}
	}
}

func TestMemoryRefusesWhatNeverPasses(t *testing.T) {
	m := newMemory(t, MemoryConfig{})
	for _, tt := range []struct {
		n     int
		rates []Rate
	}{{3, []Rate{{2, time.Minute, 0}}}, {1, nil}, {1, []Rate{{}}}} {
		if d, err := m.Take(context.Background(), "ada", tt.n, tt.rates...); err == nil || d.Allowed {
			t.Errorf("%d of %v: %+v", tt.n, tt.rates, d)
		}
	}
}

// Q: keys are not taken for each other, however near they are, and one key
// under two rates is two buckets.
func TestMemoryKeysAreNotAliased(t *testing.T) {
	m := newMemory(t, MemoryConfig{Now: newClock().now})
	keys := []string{"", "a", "A", "a ", "a.", "a\x00", "\x00a", "ä", "a\u0308", strings.Repeat("a", 1000), strings.Repeat("a", 1001), "ab", "ba"}
	rates := []Rate{{1, time.Second, 0}, {1, time.Minute, 0}, {1, time.Hour, 0}, {2, time.Hour, 1}, {4, time.Hour, 1}}
	for _, k := range keys {
		for _, r := range rates {
			if !take(t, m, k, 1, r).Allowed {
				t.Errorf("%q under %v shares with another", k, r)
			}
			if take(t, m, k, 1, r).Allowed {
				t.Errorf("%q under %v passes twice", k, r)
			}
		}
	}
	// A burst that is the count is no other rate.
	if take(t, m, "a", 1, Rate{1, time.Second, 1}).Allowed {
		t.Error("the same rate in other words has its own bucket")
	}
}

// Q: a million keys in bounded memory, each with a place of its own; and ten
// times as many in no more.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	c := newClock()
	m := newMemory(t, MemoryConfig{MaxKeys: 1_000_000, Now: c.now})
	r := Rate{2, time.Hour, 0}
	b := make([]byte, 0, 32)
	key := func(i int) string {
		b = strconv.AppendInt(b[:0], int64(i), 36)
		return string(b)
	}
	for i := range 1_000_000 {
		if d := take(t, m, key(i), 1, r); !d.Allowed || d.Remaining != 1 {
			t.Fatalf("key %d shares with another: %+v", i, d)
		}
	}
	if n := m.Shared(); n > 0 {
		t.Errorf("%d of a million keys share", n)
	}
	const bound = 52 << 20
	million := heap() - before
	if million > bound {
		t.Errorf("a million keys take %d bytes, want at most %d", million, bound)
	}
	t.Logf("a million keys take %.1f MB", float64(million)/1e6)

	// A flood of new ones. Those that are there are not forgotten.
	for i := range 4_000_000 {
		take(t, m, key(1_000_000+i), 1, r)
	}
	if n := m.Shared(); n == 0 {
		t.Error("five million keys have a place each")
	}
	if after := heap() - before; after > bound {
		t.Errorf("five million keys take %d bytes, want at most %d", after, bound)
	}
	for i := range 1_000_000 {
		if d := take(t, m, key(i), 0, r); d.Remaining != 1 {
			t.Fatalf("key %d was forgotten: %+v", i, d)
		}
	}
	// New ones share, and are limited; those that were there before are not
	// limited by that.
	refused := 0
	for i := range 1000 {
		if !take(t, m, "new"+key(i), 1, r).Allowed {
			refused++
		}
	}
	if refused < 900 {
		t.Errorf("%d of 1000 new keys in a full table are refused", refused)
	}
	for i := range 1000 {
		if d := take(t, m, key(i), 1, r); !d.Allowed {
			t.Fatalf("key %d is refused: %+v", i, d)
		}
	}
	// When all has refilled, everything is as at first.
	c.advance(3 * time.Hour)
	shared := m.Shared()
	for i := range 100_000 {
		if d := take(t, m, key(7_000_000+i), 1, r); !d.Allowed || d.Remaining != 1 {
			t.Fatalf("key %d: %+v", i, d)
		}
	}
	if m.Shared() != shared {
		t.Errorf("%d share although all have refilled", m.Shared()-shared)
	}
	runtime.KeepAlive(m)
}

// Several rates of a new key are placed together, or share together, and a
// refusal by one leaves the others uncharged even there.
func TestMemorySharesSeveralRates(t *testing.T) {
	c := newClock()
	m := newMemory(t, MemoryConfig{MaxKeys: 1000, Now: c.now})
	long := Rate{1, 24 * time.Hour, 0}
	for i := range 200_000 {
		take(t, m, strconv.Itoa(i), 1, long)
	}
	rates := []Rate{{1, time.Minute, 0}, {100_000, time.Hour, 0}}
	before, passed := m.Shared(), 0
	for i := range 1000 {
		if take(t, m, "new"+strconv.Itoa(i), 1, rates...).Allowed {
			passed++
		}
	}
	if m.Shared() == before || passed == 0 || passed > minShards {
		t.Errorf("%d passed in %d shards, %d shared", passed, minShards, m.Shared()-before)
	}
	for i := range 1000 {
		d := take(t, m, "new"+strconv.Itoa(i), 0, rates[1])
		if d.Remaining < 100_000-1000 {
			t.Fatalf("%d remaining: what was refused was charged", d.Remaining)
		}
	}
}

func TestMemoryAllocatesNothing(t *testing.T) {
	m := newMemory(t, MemoryConfig{})
	rates := []Rate{{5, time.Minute, 0}, {100, time.Hour, 0}}
	var s Store = m
	take(t, s, "ada", 1, rates...)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Take(context.Background(), "ada", 1, rates...); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzMemory makes keys of whatever, and holds them against a plain map.
func FuzzMemory(f *testing.F) {
	f.Add("a\x00b", uint16(3))
	f.Add(strings.Repeat("key ", 100), uint16(1000))
	f.Fuzz(func(t *testing.T, text string, n uint16) {
		m, want := newMemory(t, MemoryConfig{MaxKeys: 1000, Now: newClock().now}), map[string]int{}
		r := Rate{3, time.Hour, 0}
		for i := range min(int(n), 500) {
			key := ""
			if len(text) > 0 {
				at := i % len(text)
				key = text[at:min(len(text), at+1+i%3)]
			}
			want[key]++
			if d := take(t, m, key, 1, r); d.Allowed != (want[key] <= 3) {
				t.Fatalf("%q, number %d: %+v", key, want[key], d)
			}
		}
	})
}

// At a million keys on two goroutines (-cpu 2) at most 150 ns, and no
// allocation. Keys are parts of one text, since a server has just made its key:
// what is measured is the store.
func BenchmarkMemory(b *testing.B) {
	for _, keys := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			m := newMemory(b, MemoryConfig{})
			rate := []Rate{{Count: 100, Per: time.Minute}}
			random := make([]byte, keys/2+16)
			if _, err := rand.Read(random); err != nil {
				b.Fatal(err)
			}
			text := hex.EncodeToString(random)
			for i := range keys {
				take(b, m, text[i:i+16], 1, rate...)
			}
			var start atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				i := int(start.Add(1)) * 7919
				for pb.Next() {
					i = (i + 514_229) % keys
					if _, err := m.Take(context.Background(), text[i:i+16], 1, rate...); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
