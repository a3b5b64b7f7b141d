package password

import (
	"context"
	"runtime"
	"sync"
	"testing"
)

// While passwords are hashed there is a processor for everything else, and
// afterwards as many as before.
func TestProcessorsAreSparedAndGivenBack(t *testing.T) {
	h, err := New(Config{Memory: 8192, Time: 1, Permits: 1, DangerouslyWeak: true, SpareProcessor: true})
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.GOMAXPROCS(0)
	var during int
	var once sync.Once
	h.meter = func(int64) { once.Do(func() { during = runtime.GOMAXPROCS(0) }) }
	for range 3 {
		if _, err := h.Hash(context.Background(), "violet-anchor-97-marmalade"); err != nil {
			t.Fatal(err)
		}
	}
	if during != before+1 {
		t.Errorf("%d processors while hashing, %d before", during, before)
	}
	processors.restore()
	if after := runtime.GOMAXPROCS(0); after != before {
		t.Errorf("%d processors afterwards, %d before", after, before)
	}
	// Somebody who sets the number meanwhile is not overruled.
	if _, err := h.Hash(context.Background(), "violet-anchor-97-marmalade"); err != nil {
		t.Fatal(err)
	}
	runtime.GOMAXPROCS(before + 3)
	processors.restore()
	if after := runtime.GOMAXPROCS(0); after != before+3 {
		t.Errorf("%d processors, %d were set meanwhile", after, before+3)
	}
	runtime.GOMAXPROCS(before)
	// Nor is anything changed by a Hasher that was not asked to.
	quiet, err := New(Config{Memory: 8192, Time: 1, Permits: 1, DangerouslyWeak: true})
	if err != nil {
		t.Fatal(err)
	}
	quiet.meter = func(int64) {
		if n := runtime.GOMAXPROCS(0); n != before {
			t.Errorf("%d processors while hashing", n)
		}
	}
	if _, err := quiet.Hash(context.Background(), "violet-anchor-97-marmalade"); err != nil {
		t.Fatal(err)
	}
}
