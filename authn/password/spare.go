package password

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// spare gives the Go scheduler a processor more for each hash that may run, while
// any does.
//
// A hash keeps its thread busy for tens of milliseconds. Once there are as many
// hashes as processors, Go looks at the network only every ten milliseconds,
// and whatever waits for it several times takes a tenth of a second. With a
// thread left for everything else, the operating system decides who runs, and
// it favours those that were waiting.
//
// The number of processors is the process's, so there is one spare for all.
type spare struct {
	mu      sync.Mutex
	running int64
	base    int // before it was raised; 0: it is not
	raised  int
	lower   *time.Timer
}

var processors spare

// calm is how long after the last hash the number of processors is lowered
// again: changing it stops the world for some microseconds.
const calm = 5 * time.Second

// enter is called before a hash; at most permits run.
func (s *spare) enter(permits int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running++
	if s.lower != nil {
		s.lower.Stop()
		s.lower = nil
	}
	if s.base == 0 {
		s.base = runtime.GOMAXPROCS(0)
		s.raised = s.base + int(min(permits, int64(s.base)))
		runtime.GOMAXPROCS(s.raised)
	}
}

func (s *spare) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running--; s.running == 0 {
		s.lower = time.AfterFunc(calm, s.restore)
	}
}

// restore lowers the number again, unless somebody else has set it meanwhile.
func (s *spare) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running > 0 || s.base == 0 {
		return
	}
	if runtime.GOMAXPROCS(0) == s.raised {
		if os.Getenv("GOMAXPROCS") == "" {
			runtime.SetDefaultGOMAXPROCS() // which follows the container's limits
		} else {
			runtime.GOMAXPROCS(s.base)
		}
	}
	s.base, s.raised, s.lower = 0, 0, nil
}
