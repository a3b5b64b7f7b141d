package main

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/httprate"
	"github.com/ulule/limiter/v3"
	"github.com/ulule/limiter/v3/drivers/store/memory"

	"github.com/sallyport/sallyport/guard/ratelimit"
)

// BenchmarkLimit takes one under 100/minute in memory, for each of many keys that
// have been seen before, as each library's documentation shows. httprate counts in
// windows of a fixed length and weighs the one before; ulule/limiter counts in
// windows that begin with the first request; ours is GCRA.
//
//	go test -run - -bench Limit -cpu 1,2 -benchmem
func BenchmarkLimit(b *testing.B) {
	const perMinute = 100
	for _, keys := range []int{1000, 1_000_000} {
		names := make([]string, keys)
		for i := range names {
			names[i] = "192.0." + strconv.Itoa(i)
		}
		for _, peer := range []struct {
			name string
			make func(b *testing.B) func(key string) error
		}{
			{"sallyport", func(b *testing.B) func(string) error {
				m, err := ratelimit.NewMemory(ratelimit.MemoryConfig{})
				if err != nil {
					b.Fatal(err)
				}
				rates := []ratelimit.Rate{{Count: perMinute, Per: time.Minute}}
				return func(key string) error {
					_, err := m.Take(context.Background(), key, 1, rates...)
					return err
				}
			}},
			{"httprate", func(*testing.B) func(string) error {
				l := httprate.NewRateLimiter(perMinute, time.Minute)
				return func(key string) error {
					if ok, _, err := l.Status(key); err != nil || !ok {
						return err
					}
					return l.Counter().Increment(key, time.Now().UTC().Truncate(time.Minute))
				}
			}},
			{"ulule", func(*testing.B) func(string) error {
				l := limiter.New(memory.NewStore(), limiter.Rate{Period: time.Minute, Limit: perMinute})
				return func(key string) error {
					_, err := l.Get(context.Background(), key)
					return err
				}
			}},
		} {
			b.Run(peer.name+"/"+strconv.Itoa(keys), func(b *testing.B) {
				take := peer.make(b)
				for _, name := range names {
					if err := take(name); err != nil {
						b.Fatal(err)
					}
				}
				var start atomic.Int64
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					i := int(start.Add(1)) * 7919
					for pb.Next() {
						i = (i + 514_229) % keys
						if err := take(names[i]); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
