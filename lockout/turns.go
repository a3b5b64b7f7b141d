package lockout

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// turns lets as many attempts of one account from one network be under way as may
// fail, and the others wait for them, so that they do not all ask the database
// again and again. The database decides; this only spares it.
type turns struct {
	mu sync.Mutex
	m  map[turnKey]*queue
}

type turnKey struct{ account, network string }

type queue struct {
	slots   chan struct{}
	inside  int           // how many have a slot or wait for one; under turns.mu
	changed chan struct{} // closed when one has left; under turns.mu
}

// turn is a place in a queue.
type turn struct {
	all    *turns
	key    turnKey
	q      *queue
	waited bool
}

// take waits for a turn until the deadline. It returns none if that passes, or if
// too many wait.
func (t *turns) take(ctx context.Context, k keys, deadline time.Time) (*turn, error) {
	key := turnKey{k.account, k.address}
	t.mu.Lock()
	q := t.m[key]
	if q == nil {
		q = &queue{slots: make(chan struct{}, free), changed: make(chan struct{})}
		if t.m == nil {
			t.m = map[turnKey]*queue{}
		}
		t.m[key] = q
	}
	if q.inside >= free+maxTurn {
		t.mu.Unlock()
		return nil, nil
	}
	q.inside++
	t.mu.Unlock()
	select {
	case q.slots <- struct{}{}:
		return &turn{t, key, q, false}, nil
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case q.slots <- struct{}{}:
		return &turn{t, key, q, true}, nil
	case <-timer.C:
		t.gone(key, q)
		return nil, nil
	case <-ctx.Done():
		t.gone(key, q)
		return nil, ctx.Err()
	}
}

func (t *turns) gone(key turnKey, q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(q.changed)
	q.changed = make(chan struct{})
	if q.inside--; q.inside == 0 {
		delete(t.m, key)
	}
}

// changed returns what is closed when another one leaves.
func (t *turn) changed() <-chan struct{} {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	return t.q.changed
}

// leave gives the turn to the next. Nobody's turn can be left too.
func (t *turn) leave() {
	if t == nil {
		return
	}
	<-t.q.slots
	t.all.gone(t.key, t.q)
}

// lanes are locks by name: several names may share one.
type lanes struct {
	seed maphash.Seed
	of   [64]chan struct{}
}

func newLanes() lanes {
	l := lanes{seed: maphash.MakeSeed()}
	for i := range l.of {
		l.of[i] = make(chan struct{}, 1)
	}
	return l
}

func (l *lanes) enter(ctx context.Context, name string) (leave func(), err error) {
	lane := l.of[maphash.String(l.seed, name)%uint64(len(l.of))]
	select {
	case lane <- struct{}{}:
		return func() { <-lane }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
