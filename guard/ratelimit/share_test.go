package ratelimit

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Parts are valid, at least one, together no less than the whole and by less than
// one for each process more.
func TestParts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{
			Count: rapid.OneOf(rapid.IntRange(1, 12), rapid.IntRange(1, MaxCount)).Draw(t, "count"),
			Per:   time.Duration(rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 2_592_000)).Draw(t, "per")) * time.Second,
			Burst: rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 200), rapid.IntRange(1, MaxCount)).Draw(t, "burst"),
		}
		if r.Validate() != nil {
			t.Skip("not a rate")
		}
		n := rapid.IntRange(1, MaxShare).Draw(t, "processes")
		p := r.part(n)
		if err := p.Validate(); err != nil || p.Count < 1 || p.burst() < 1 || p.Per != r.Per {
			t.Fatalf("%s among %d is %v: %v", r, n, p, err)
		}
		if p.Count*n < r.Count || p.Count*n >= r.Count+n || p.burst()*n >= r.burst()+n {
			t.Fatalf("%s among %d is %s", r, n, p)
		}
		if n == 1 && p != r {
			t.Fatalf("%s alone is %s", r, p)
		}
	})
	// The longest there is: rounded up it would take 390 days.
	if r, p := (Rate{10, MaxPer, 122}), (Rate{1, MaxPer, 12}); r.part(10) != p {
		t.Errorf("%s among 10 is %s, want %s", r, r.part(10), p)
	}
}

func TestShare(t *testing.T) {
	t.Parallel()
	if _, err := Share(newMemory(t, MemoryConfig{}), MaxShare+1); err == nil {
		t.Error("a limit is divided among 1001")
	}
	if _, err := Share(newMemory(t, MemoryConfig{}), -1); err == nil {
		t.Error("a limit is divided among less than none")
	}
	m := newMemory(t, MemoryConfig{})
	if s, err := Share(m, 1); err != nil || s != Store(m) {
		t.Errorf("%v, %v", s, err)
	}
	const nodes = 3
	rates := []Rate{{10, time.Hour, 0}, {100, 24 * time.Hour, 50}}
	passed := 0
	for range nodes {
		s, err := Share(newMemory(t, MemoryConfig{}), nodes)
		if err != nil {
			t.Fatal(err)
		}
		own := 0
		for range 20 {
			d := take(t, s, "ada", 1, rates...)
			if d.Rate != rates[0] {
				t.Fatalf("the rate that is told is %v", d.Rate)
			}
			if d.Allowed {
				own++
			}
		}
		if own != 4 { // a third of ten, rounded up
			t.Errorf("%d of 10 passed on one of three", own)
		}
		passed += own
		if d := take(t, s, "eve", 10, rates...); !d.Allowed || d.Remaining != 0 {
			t.Errorf("ten at once: %+v", d)
		}
	}
	if passed != 12 {
		t.Errorf("%d passed on three nodes, want 12", passed)
	}
}

// While the shared store is away each process lets through its part, less what it
// has let through before; when it is back, the whole is shared again.
func TestFallbackShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &remote{Store: newMemory(t, MemoryConfig{})}
		const nodes = 3
		var all []*Fallback
		for range nodes {
			f, err := NewFallback(FallbackConfig{Shared: shared, Share: nodes})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, f)
		}
		rate := Rate{30, time.Hour, 0}
		pass := func(f *Fallback, key string, requests int) (passed int) {
			for range requests {
				if take(t, f, key, 1, rate).Allowed {
					passed++
				}
			}
			return passed
		}
		// Shared: one node may use all of it.
		if n := pass(all[0], "eve", 40); n != 30 {
			t.Errorf("%d of 30 passed on one node", n)
		}
		if n := pass(all[0], "ada", 4); n != 4 {
			t.Errorf("%d of 4 passed", n)
		}
		shared.down.Store(true)
		if n := fmt.Sprint(pass(all[0], "ada", 40), pass(all[1], "ada", 40), pass(all[2], "ada", 40), pass(all[1], "bob", 40)); n != "6 10 10 10" {
			t.Errorf("%s passed on three nodes, want 6 10 10, and 10 of another", n)
		}
		if n := pass(all[0], "eve", 40); n != 0 {
			t.Errorf("%d more passed of somebody whose limit was used up here", n)
		}
		shared.down.Store(false)
		time.Sleep(2 * time.Second)
		if n := pass(all[2], "zoe", 40); n != 30 || all[2].Down() {
			t.Errorf("%d of 30 passed when it was back", n)
		}
	})
	if _, err := NewFallback(FallbackConfig{Shared: newMemory(t, MemoryConfig{}), Share: 1001}); err == nil {
		t.Error("a limit is divided among 1001")
	}
}
