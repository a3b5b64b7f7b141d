package live

import "sync"

// maxMemo bounds a Memo.
const maxMemo = 10_000

// Memo remembers what was made for somebody, under the stamp of what was found of
// their credential (Found.Stamp): whatever changes their account or what they may
// do declares that (db.Tx.Changed), and nobody is found under that stamp any
// more. What is put must have been read after the stamp was given. The zero Memo
// is empty and ready for use.
type Memo[T any] struct {
	mu sync.RWMutex
	m  map[uint64]T
}

// Get returns what is remembered. A stamp of 0 stands for nothing.
func (m *Memo[T]) Get(stamp uint64) (v T, found bool) {
	if stamp == 0 {
		return v, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, found = m.m[stamp]
	return v, found
}

// Put remembers v.
func (m *Memo[T]) Put(stamp uint64, v T) {
	if stamp == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = map[uint64]T{}
	}
	if len(m.m) >= maxMemo {
		for old := range m.m { // any half: most stamps are of the past
			if delete(m.m, old); len(m.m) <= maxMemo/2 {
				break
			}
		}
	}
	m.m[stamp] = v
}
