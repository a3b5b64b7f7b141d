package live

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// whole checks what every operation must leave: each record that is in use is in
// the list of its subject and found by its hash, and each that is not is free.
func (s *store) whole(t *testing.T) {
	t.Helper()
	listed := map[uint32]bool{}
	for subject, l := range s.lists {
		prev, n := uint32(0), uint32(0)
		for i := l.newest; i != 0; i = s.links[i-1].next {
			n++
			if listed[i-1] {
				t.Fatalf("record %d is listed twice", i-1)
			}
			listed[i-1] = true
			if s.links[i-1].prev != prev || s.subject(i-1) != subject || s.record(i - 1).w[wHash].Load() == 0 {
				t.Fatalf("record %d does not belong into the list", i-1)
			}
			prev = i
		}
		if l.n != n || l.oldest != prev || n == 0 {
			t.Fatalf("the list says %d records up to %d, and has %d up to %d", l.n, l.oldest, n, prev)
		}
	}
	free := map[uint32]bool{}
	for _, i := range s.free {
		if free[i] || listed[i] {
			t.Fatalf("record %d is free twice, or free and in use", i)
		}
		free[i] = true
	}
	hashes := map[uint64]bool{}
	for i := range s.n {
		hash := s.record(i).w[wHash].Load()
		switch {
		case listed[i] == free[i]:
			t.Fatalf("record %d: in use %v, free %v", i, listed[i], free[i])
		case listed[i] && hashes[hash]:
			t.Fatalf("two records of the hash %x", hash)
		}
		if hashes[hash] = true; listed[i] {
			if at, found := s.find(&Key{hash: hash}); !found || at != i {
				t.Fatalf("record %d is not found by its hash", i)
			}
		}
	}
	if taken := s.taken; taken > uint64(len(s.slots.Load().s))/4*3 {
		t.Fatalf("%d of %d slots are taken", taken, len(s.slots.Load().s))
	}
}

// Few records, hashes that meet, subjects that share: nothing is found as another,
// nothing as it was before a change, and the lists stay whole.
func TestCollisionsAndEvictions(t *testing.T) {
	for _, limit := range []int{1, 2, 7, 64} {
		s := newStore(limit)
		type reading struct {
			n      int
			at     int64 // version when it was read
			ticket Ticket
		}
		var under []reading
		version := map[int]int64{}
		who := func(n int) int { return n % 9 }
		key := func(n int) Key {
			k := s.KeyOf(0, credential(n), false)
			k.hash = 1 + uint64(n)%20*minSlots // every one meets others, in one chain
			return k
		}
		for step := range 30_000 {
			n := rand.IntN(40)
			switch op := rand.IntN(40); {
			case op < 15:
				k, p := key(n), proven(n)
				p.Subject, p.Unit = id(who(n)), id(n)
				under = append(under, reading{n, version[who(n)], s.Begin(&k, p)})
			case op < 30 && len(under) > 0:
				i := rand.IntN(len(under))
				r := under[i]
				s.Publish(r.ticket, &State{Subject: r.at, Grants: grants})
				if rand.IntN(2) == 0 {
					under = append(under[:i], under[i+1:]...)
				}
			case op < 35:
				version[who(n)]++
				s.invalidate(uuid.UUID(id(who(n))).String())
			case op == 35:
				s.expireSome(time.Now().Add(2*time.Hour), 3)
			case op == 36 && rand.IntN(20) == 0:
				s.forget()
			case op == 37 && rand.IntN(20) == 0:
				s.forgetStates()
			case op == 38:
				s.rebuild()
			}
			if len(under) > 50 {
				under = under[25:]
			}
			for n := range 40 {
				k := key(n)
				var f Found
				if !s.Get(&k, time.Now(), &f) {
					continue
				}
				if f.Subject != id(who(n)) || f.Unit != id(n) {
					t.Fatalf("limit %d, step %d: %d is found as %+v", limit, step, n, f)
				}
				if f.Alive && f.SubjectVersion != uint32(version[who(n)]) {
					t.Fatalf("limit %d, step %d: %d is found as of version %d, not %d", limit, step, n, f.SubjectVersion, version[who(n)])
				}
			}
			if step%16 == 0 {
				s.whole(t)
			}
		}
		if s.n > uint32(limit) {
			t.Fatalf("%d records", s.n)
		}
	}
}

// Somebody who gets ever new tokens for one account must not make each change of
// it hold the lock, and with it the one writer, for long.
func TestOneSubjectsRecordsAreBounded(t *testing.T) {
	s := newStore(50_000)
	s.know(1)
	const many = 3 * maxEach
	for n := range many {
		k, p := s.KeyOf(0, credential(10+n), false), proven(10+n)
		p.Subject = id(2)
		s.Publish(s.Begin(&k, p), &State{Grants: grants})
	}
	s.whole(t)
	if n := s.lists[id(2)].n; n != maxEach {
		t.Errorf("%d records of one subject", n)
	}
	for n, want := range map[int]bool{1: true, 10 + many - 1: true, 10 + many - maxEach: true, 10 + many - maxEach - 1: false, 10: false} {
		if f, _ := s.look(n); f.Alive != want {
			t.Errorf("%d is known: %v", n, f.Alive)
		}
	}
	s.invalidate(uuid.UUID(id(2)).String())
	if f, _ := s.look(10 + many - 1); f.Alive {
		t.Error("alive after a change")
	}
}

// While a machine sleeps the monotonic clock stands still, and the changes that
// were not read may be deleted meanwhile.
func TestAfterALongSleepEverythingIsForgotten(t *testing.T) {
	c := New(Config{DB: testkit.SQLite(t), Lease: time.Hour, Poll: func(_ context.Context, cur db.Cursor) ([]string, bool, db.Cursor, error) {
		return nil, false, cur, nil
	}})
	defer c.Close()
	if err := c.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.know(1)
	if err := c.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, _ := c.look(1); !f.Alive {
		t.Fatal("the control is not alive")
	}
	c.wall.Add(-int64(2 * time.Hour)) // as if two hours had passed by that clock alone
	if err := c.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, _ := c.look(1); f.Alive {
		t.Error("what was known two hours ago is served although changes since then may be gone")
	}
}

// A poll that panics is the trouble of the request that made it, and of no later.
func TestAPollThatPanicsIsNotTheLast(t *testing.T) {
	broken := true
	c := New(Config{DB: testkit.SQLite(t), Lease: time.Hour, Poll: func(_ context.Context, cur db.Cursor) ([]string, bool, db.Cursor, error) {
		if broken {
			panic("boom")
		}
		return nil, false, cur, nil
	}})
	defer c.Close()
	func() {
		defer func() { _ = recover() }()
		if err := c.Fresh(t.Context(), time.Now()); err == nil {
			t.Error("fresh, without having heard of anything")
		}
	}()
	broken = false
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := c.Fresh(ctx, time.Now()); err != nil {
		t.Errorf("a later poll: %v", err)
	}
}

// After Close nothing of the cache is under way, and it vouches for nothing.
func TestCloseAwaitsPolls(t *testing.T) {
	in, out := make(chan struct{}, 8), make(chan struct{})
	c := New(Config{DB: testkit.SQLite(t), Lease: time.Hour, Poll: func(_ context.Context, cur db.Cursor) ([]string, bool, db.Cursor, error) {
		in <- struct{}{}
		<-out
		return nil, false, cur, nil
	}})
	errs := make(chan error, 2)
	go func() { errs <- c.poll(context.Background()) }()
	<-in
	go func() { errs <- c.poll(context.Background()) }() // waits for the next one
	for waiting := false; !waiting; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		waiting = c.nxt != nil
		c.mu.Unlock()
	}
	closed := make(chan struct{})
	go func() { c.Close(); close(closed) }()
	time.Sleep(20 * time.Millisecond)
	select {
	case <-closed:
		t.Error("closed while a poll was under way")
	default:
	}
	close(out)
	<-closed
	for range 2 {
		if err := <-errs; err != nil && !errors.Is(err, errClosed) {
			t.Error(err)
		}
	}
	if len(in) > 1 {
		t.Errorf("%d polls more", len(in))
	}
	if err := c.Fresh(t.Context(), time.Now()); !errors.Is(err, errClosed) {
		t.Errorf("fresh after Close: %v", err)
	}
}
