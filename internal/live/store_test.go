package live

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
)

func newStore(limit int) *store {
	s := &store{}
	s.init(limit)
	return s
}

var grants = sallyport.NewGrants([]string{"user"}, nil)

func credential(n int) string {
	return fmt.Sprintf("a credential that is long enough for the test %032d", n)
}

func id(n int) (u UUID) {
	u[0], u[1], u[2], u[3] = byte(n), byte(n>>8), byte(n>>16), 1
	return u
}

func proven(n int) *Proven {
	return &Proven{
		Subject: id(n), Unit: id(n + 1_000_000), Expires: time.Now().Add(time.Hour),
		Profile: Profile{Kind: sallyport.KindBearer, Client: "first-party"},
	}
}

func (s *store) know(n int) {
	k := s.KeyOf(0, credential(n), false)
	s.Publish(s.Begin(&k, proven(n)), &State{AuthTime: time.Now(), Subject: int64(n), Grants: grants})
}

func (s *store) look(n int) (f Found, found bool) {
	k := s.KeyOf(0, credential(n), false)
	found = s.Get(&k, time.Now(), &f)
	return f, found
}

func TestWhatIsPublishedIsFound(t *testing.T) {
	s := newStore(100)
	if _, found := s.look(1); found {
		t.Fatal("found in an empty cache")
	}
	k := s.KeyOf(0, credential(1), false)
	ticket := s.Begin(&k, proven(1))
	if f, found := s.look(1); !found || f.Alive || f.Subject != id(1) || f.Unit != id(1_000_001) || f.Known.Kind != sallyport.KindBearer {
		t.Fatalf("while its state is read: %+v %v", f, found)
	}
	at := time.Now().Truncate(time.Second)
	s.Publish(ticket, &State{MFA: true, AuthTime: at, Subject: 7, Roles: 8, Grants: grants})
	f, found := s.look(1)
	if !found || !f.Alive || !f.MFA || f.AuthTime != at.Unix() || f.SubjectVersion != 7 || f.RolesVersion != 8 || f.Grants != grants {
		t.Fatalf("%+v %v", f, found)
	}
	s.invalidate(uuid.UUID(id(2)).String())
	s.invalidate("no id")
	if f, _ := s.look(1); !f.Alive {
		t.Fatal("another subject's change took it")
	}
	s.invalidate(uuid.UUID(id(1)).String())
	if f, found := s.look(1); !found || f.Alive {
		t.Fatalf("after a change: %+v %v", f, found)
	}
	s.know(1)
	again, _ := s.look(1)
	if !again.Alive || again.Stamp == f.Stamp {
		t.Fatal("the stamp is the same after a change")
	}
	s.forgetStates()
	if f, found := s.look(1); !found || f.Alive {
		t.Fatalf("after a change of roles: %+v %v", f, found)
	}
	s.know(1)
	s.forget()
	if _, found := s.look(1); found {
		t.Fatal("found after everything was forgotten")
	}
}

// What comes between Begin and Publish wins.
func TestAChangeWhileReadingIsNotOverwritten(t *testing.T) {
	for name, change := range map[string]func(*store){
		"of the subject": func(s *store) { s.invalidate(uuid.UUID(id(1)).String()) },
		"of roles":       func(s *store) { s.forgetStates() },
		"of keys":        func(s *store) { s.forget() },
		"another reader": func(s *store) {
			k := s.KeyOf(0, credential(1), false)
			s.Begin(&k, proven(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(100)
			k := s.KeyOf(0, credential(1), false)
			ticket := s.Begin(&k, proven(1))
			change(s)
			s.Publish(ticket, &State{Grants: grants})
			if f, _ := s.look(1); f.Alive {
				t.Fatal("what was read before the change was published after it")
			}
			s.know(1)
			if f, _ := s.look(1); !f.Alive {
				t.Fatal("the control is not alive")
			}
		})
	}
}

func TestExpiryAndUntil(t *testing.T) {
	s := newStore(100)
	s.know(1)
	k := s.KeyOf(0, credential(1), false)
	var f Found
	if s.Get(&k, time.Now().Add(time.Hour+time.Second), &f) {
		t.Error("found after it expired")
	}
	ticket := s.Begin(&k, proven(1))
	s.Publish(ticket, &State{Grants: grants, Until: time.Now().Add(time.Minute)})
	if !s.Get(&k, time.Now(), &f) || !f.Alive {
		t.Error("not alive before it must be looked at again")
	}
	if !s.Get(&k, time.Now().Add(time.Minute), &f) || f.Alive {
		t.Error("alive after it must be looked at again")
	}
	p := proven(2)
	p.Expires = time.Time{}
	k = s.KeyOf(0, credential(2), false)
	s.Publish(s.Begin(&k, p), &State{Grants: grants})
	if !s.Get(&k, time.Now().Add(24*365*time.Hour), &f) || !f.Alive || f.Expires != 0 {
		t.Error("one that never expires expired")
	}
}

// Neither the end of a credential nor its kind finds it, only all of it.
func TestOnlyTheWholeCredentialFindsIt(t *testing.T) {
	s := newStore(100)
	s.know(1)
	for name, k := range map[string]Key{
		"another beginning": s.KeyOf(0, "x"+credential(1), false),
		"another kind":      s.KeyOf(1, credential(1), false),
		"as if guessable":   s.KeyOf(0, credential(1), true),
		"its end":           s.KeyOf(0, credential(1)[10:], false),
		"empty":             s.KeyOf(0, "", false),
	} {
		var f Found
		if s.Get(&k, time.Now(), &f) {
			t.Errorf("%s: found", name)
		}
	}
	// The hash alone is not enough, nor is the end alone.
	k := s.KeyOf(0, credential(1), false)
	for i := range k.proof {
		other := k
		other.proof[i] ^= 1
		var f Found
		if s.Get(&other, time.Now(), &f) {
			t.Errorf("found with another proof %d", i)
		}
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	const limit = 3000
	s := newStore(limit)
	for n := range 5 * limit {
		s.know(n)
		if n%3 == 0 {
			s.know(0)
			s.look(0) // somebody who comes all the time
		}
	}
	if f, found := s.look(0); !found || !f.Alive {
		t.Error("what is used all the time was thrown out")
	}
	alive := 0
	for n := range 5 * limit {
		if f, found := s.look(n); found && f.Alive {
			if alive++; f.Subject != id(n) {
				t.Fatalf("%d is found as %v", n, f.Subject)
			}
		}
	}
	if alive != limit || s.n != limit {
		t.Errorf("%d are known (of %d records), want %d", alive, s.n, limit)
	}
	if len(s.lists) != limit {
		t.Errorf("%d subjects are listed", len(s.lists))
	}
}

func TestExpiredRecordsAreFreed(t *testing.T) {
	s := newStore(5000)
	for n := range 5000 {
		s.know(n)
	}
	for range 20 {
		s.expire(time.Now().Add(2 * time.Hour))
	}
	if len(s.free) != 5000 || len(s.lists) != 0 {
		t.Errorf("%d are free, %d subjects are listed", len(s.free), len(s.lists))
	}
	for n := range 5000 {
		s.know(n)
	}
	if s.n != 5000 {
		t.Errorf("%d records", s.n)
	}
	s.forget()
	for range 20 {
		s.expire(time.Now())
	}
	if len(s.free) != 5000 {
		t.Errorf("%d are free after everything was forgotten", len(s.free))
	}
}

func TestAFullTableOfProfilesBeginsAnew(t *testing.T) {
	s := newStore(100_000)
	know := func(n int) {
		k := s.KeyOf(0, credential(n), false)
		p := proven(n)
		p.Profile.Scope = fmt.Sprint(n)
		s.Publish(s.Begin(&k, p), &State{Grants: grants})
	}
	for n := range maxProfiles + 10 {
		know(n)
	}
	if f, found := s.look(maxProfiles + 5); !found || !f.Alive || !f.Known.Scopes.Has(fmt.Sprint(maxProfiles+5)) {
		t.Errorf("%+v %v", f, found)
	}
	if len(s.tables.Load().profiles) > maxProfiles {
		t.Error("the table is not bounded")
	}
	// Not again within the minute: then they are not kept.
	for n := range maxProfiles + 10 {
		know(n + 1_000_000)
	}
	if f, _ := s.look(maxProfiles + 5); !f.Alive {
		t.Error("the table began anew at once")
	}
}

// Readers see one credential's record or none, whatever writers do.
func TestRecordsAreNeverMixed(t *testing.T) {
	const people, limit = 400, 256
	s := newStore(limit)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var hits atomic.Int64
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				n := rand.IntN(people)
				f, found := s.look(n)
				if !found {
					continue
				}
				if f.Subject != id(n) || f.Unit != id(n+1_000_000) || f.Alive && (f.SubjectVersion != uint32(n) || f.Grants != grants) {
					t.Errorf("%d is found as %+v", n, f)
					return
				}
				hits.Add(1)
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 30_000 {
				n := rand.IntN(people)
				switch rand.IntN(8) {
				case 0:
					s.invalidate(uuid.UUID(id(n)).String())
				case 1:
					s.expireSome(time.Now(), 8)
				default:
					s.know(n)
				}
				if rand.IntN(5000) == 0 {
					s.forget()
				}
			}
		})
	}
	time.AfterFunc(3*time.Second, func() { stop.Store(true) })
	wg.Wait()
	if hits.Load() == 0 {
		t.Error("nothing was ever found: the test proves nothing")
	}
}

// Must not get worse: no allocations; a million records cost no more than a
// thousand but for the processor's caches.
func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStore(n)
			for i := range n {
				s.know(i)
			}
			creds := make([]string, 4096)
			for i := range creds {
				creds[i] = credential(rand.IntN(n))
			}
			var f Found
			now := time.Now()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				k := s.KeyOf(0, creds[i&4095], false)
				if !s.Get(&k, now, &f) || !f.Alive {
					b.Fatal("not found")
				}
				i++
			}
		})
	}
}
