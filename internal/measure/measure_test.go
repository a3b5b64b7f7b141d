package measure_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/measure"
)

func TestCountsAreExactAndBounded(t *testing.T) {
	var c measure.Counts
	var o measure.Often
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				c.Add("password", "success")
				o.Add()
			}
		})
	}
	wg.Wait()
	if p := c.Points(); len(p) != 1 || p[0].Value != 8000 || p[0].Labels[1] != "success" || o.Load() != 8000 {
		t.Errorf("counted %+v and %d", p, o.Load())
	}
	for i := range 10_000 {
		c.Add("password", fmt.Sprint(i))
	}
	points, total := c.Points(), 0.0
	for _, p := range points {
		total += p.Value
	}
	if len(points) > 501 || total != 18_000 {
		t.Errorf("%d combinations, %v in all", len(points), total)
	}
}

func TestDurations(t *testing.T) {
	d := measure.NewDurations(0.01, 0.1, 1)
	for _, ms := range []int{5, 10, 50, 200, 5000} {
		d.Add(time.Duration(ms) * time.Millisecond)
	}
	s := d.Spread()
	if fmt.Sprint(s.Counts) != "[2 3 4]" || s.Count != 5 || s.Sum < 5.264 || s.Sum > 5.266 {
		t.Errorf("%+v", s)
	}
}

func TestRoutesAreBounded(t *testing.T) {
	var r measure.Routes
	for i := range 2000 {
		r.Add(fmt.Sprintf("GET /%d", i), 200, time.Millisecond)
	}
	r.Add("GET /0", 503, time.Second)
	r.Add("GET /0", 9999, time.Second)
	f := r.Families("requests_total", "request_seconds")
	n, total := uint64(0), 0.0
	for _, p := range f[1].Points {
		n += p.Spread.Count
	}
	classes := map[string]float64{}
	for _, p := range f[0].Points {
		total += p.Value
		if p.Labels[0] == "GET /0" {
			classes[p.Labels[1]] = p.Value
		}
	}
	if len(f[1].Points) > 501 || n != 2002 || total != 2002 || fmt.Sprint(classes) != "map[2xx:1 5xx:1 none:1]" {
		t.Errorf("%d routes, %d and %v requests, %v", len(f[1].Points), n, total, classes)
	}
}

func TestSpan(t *testing.T) {
	var told []string
	ctx := measure.WithSpans(t.Context(), func(name string) func() {
		told = append(told, "begin "+name)
		return func() { told = append(told, "end "+name) }
	})
	measure.Span(ctx, "hash")()
	measure.Span(context.Background(), "nobody follows")()
	if fmt.Sprint(told) != "[begin hash end hash]" {
		t.Errorf("%q", told)
	}
}

// What a request pays for being counted. Must not get worse: 50 ns each, no
// allocation.
func BenchmarkCount(b *testing.B) {
	b.Run("often", func(b *testing.B) {
		var o measure.Often
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				o.Add()
			}
		})
	})
	b.Run("route", func(b *testing.B) {
		var r measure.Routes
		for i := range 80 {
			r.Add(fmt.Sprintf("GET /%d", i), 200, time.Millisecond)
		}
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r.Add("GET /42", 200, 300*time.Microsecond)
			}
		})
	})
	b.Run("clock", func(b *testing.B) {
		for b.Loop() {
			_ = time.Since(time.Now())
		}
	})
}
