package main

import (
	"os"
	"runtime/debug"
)

const (
	// spareHeap is how much a server may leave to be collected before the collector
	// runs, besides as much again as is in use. What is in use are a few megabytes, so
	// that under load it would run many times a second: of a refresh that took a
	// twentieth of the processor time.
	spareHeap = 32 << 20
	// spareFrom is the memory limit (GOMEMLIMIT, in bytes) from which on that is given.
	spareFrom = 256 << 20
)

// spare makes the collector run later, by a block that nothing is written to: it counts
// as in use and takes no memory. It must be kept for as long as that is to be. Who has
// set GOGC, or has little memory, has what they set: then it returns nil.
func spare() []byte {
	if os.Getenv("GOGC") != "" || debug.SetMemoryLimit(-1) < spareFrom {
		return nil
	}
	return make([]byte, spareHeap)
}
