package account

import (
	"context"
	"sync"
	"testing"
	"time"
)

// stuck is a table of users that answers nobody until it is told to.
type stuck struct{ free chan struct{} }

func (s stuck) ByLogin(ctx context.Context, _ string) (OwnUser, bool, error) {
	select {
	case <-s.free:
		return OwnUser{}, false, nil
	case <-ctx.Done():
		return OwnUser{}, false, ctx.Err()
	}
}

func (stuck) ByID(context.Context, string) (OwnUser, bool, error) { return OwnUser{}, false, nil }

func (stuck) UpdateHash(context.Context, string, string, string) (bool, error) { return false, nil }

// No more wait for a table of users than may: the next one is refused at once, and does
// not hold a request for as long as the table may take.
func TestOnlySoManyWaitForUsers(t *testing.T) {
	t.Parallel()
	free := make(chan struct{})
	s := New(Config{Users: stuck{free}})
	var all sync.WaitGroup
	var refused sync.Map
	begin := func(n int, there func() int) {
		for range n {
			all.Go(func() {
				if _, err := s.Locate(t.Context(), "nobody"); err != nil {
					refused.Store(n, err)
				}
			})
		}
		for end := time.Now().Add(4 * time.Second); there() < n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d of %d", there(), n)
			}
		}
	}
	begin(maxAsking, func() int { return len(s.asking.permits) })
	begin(maxWaiting, func() int { return int(s.asking.waiting.Load()) })
	began := time.Now()
	if _, err := s.Locate(t.Context(), "nobody"); err == nil || time.Since(began) >= askFor {
		t.Errorf("one too many: %v after %v", err, time.Since(began))
	}
	close(free)
	all.Wait()
	refused.Range(func(_, err any) bool {
		t.Errorf("one who may wait was refused: %v", err)
		return false
	})
	if _, err := s.Locate(t.Context(), "nobody"); err != nil || s.asking.waiting.Load() != 0 || len(s.asking.permits) != 0 {
		t.Errorf("afterwards: %v, %d wait, %d ask", err, s.asking.waiting.Load(), len(s.asking.permits))
	}
}
