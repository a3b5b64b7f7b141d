package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// heapGoal is how large the heap may become before the collector runs.
func heapGoal() uint64 {
	runtime.GC()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(goal)
	return goal[0].Value.Uint64()
}

func TestSpareHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	before := heapGoal()
	block := spare()
	if after := heapGoal(); after < before+spareHeap || after > before+3*spareHeap {
		t.Errorf("the heap may grow to %d MB, and to %d MB before", after>>20, before>>20)
	}
	runtime.KeepAlive(block)

	t.Setenv("GOGC", "100")
	if spare() != nil {
		t.Error("it is given to somebody who has set GOGC")
	}
	t.Setenv("GOGC", "")
	debug.SetMemoryLimit(spareFrom - 1)
	if spare() != nil {
		t.Error("it is given where memory is tight")
	}
	debug.SetMemoryLimit(spareFrom)
	if spare() == nil {
		t.Error("it is not given from the limit on")
	}
}
