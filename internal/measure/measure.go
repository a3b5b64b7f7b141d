// Package measure counts what happens in a process, for whoever asks later, and
// marks what takes time, for whoever follows a request.
//
// It decides what a count is and how it stays bounded: label values are words of
// the code or patterns of routes, never what a caller sent. It knows no format and
// no system of monitoring: package telemetry turns what is read here into one, so
// that a program which wants none carries none.
//
// A count begins at zero with the process. What is known elsewhere anyway, such as
// the length of a queue, is read when it is asked for and counted nowhere.
package measure

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is how a family behaves.
type Kind string

// The kinds.
const (
	Counter   Kind = "counter" // only grows; its name ends in _total
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Family is all that is told under one name.
type Family struct {
	Name   string // in the units of OpenMetrics: seconds, bytes
	Help   string // one sentence
	Kind   Kind
	Labels []string
	Points []Point
}

// Point is one value, with as many label values as its family has labels.
type Point struct {
	Labels []string
	Value  float64
	Spread *Spread // of a Histogram, in place of Value
}

// Spread is what a histogram holds.
type Spread struct {
	Bounds []float64 // upper bounds, in order
	Counts []uint64  // up to each bound, those below included
	Count  uint64
	Sum    float64
}

// One returns a family with one point and no labels.
func One(name, help string, kind Kind, value float64) Family {
	return Family{Name: name, Help: help, Kind: kind, Points: []Point{{Value: value}}}
}

// Bool is how a gauge says yes and no.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// spreadOver is over how many places a count of the hot path is spread: cores that
// count in one place wait for each other.
const spreadOver = 8

// Often counts what happens with every request. Its zero value is ready.
type Often struct {
	places [spreadOver]struct {
		n atomic.Uint64
		_ [56]byte // a cache line each
	}
}

// Add counts one.
func (o *Often) Add() { o.places[rand.Uint32()%spreadOver].n.Add(1) }

// Load returns the count.
func (o *Often) Load() (n uint64) {
	for i := range o.places {
		n += o.places[i].n.Load()
	}
	return n
}

// maxSeries bounds the combinations of label values that a Counts holds.
const maxSeries = 500

// other is under which the combinations beyond the bound are counted.
const other = "(other)"

// Counts is counts by label values. Its zero value is ready.
type Counts struct {
	mu sync.Mutex
	m  map[string]uint64
}

const between = "\x1f" // of label values in a key

// Add counts one under these label values.
func (c *Counts) Add(labels ...string) {
	key := strings.Join(labels, between)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]uint64{}
	}
	if _, known := c.m[key]; !known && len(c.m) >= maxSeries {
		key = strings.Join(slices.Repeat([]string{other}, len(labels)), between)
	}
	c.m[key]++
}

// Points returns the counts, in order of their labels.
func (c *Counts) Points() []Point {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Point, 0, len(c.m))
	for key, n := range c.m {
		out = append(out, Point{Labels: strings.Split(key, between), Value: float64(n)})
	}
	slices.SortFunc(out, func(a, b Point) int { return slices.CompareFunc(a.Labels, b.Labels, cmp.Compare[string]) })
	return out
}

// Durations is how long something took, by upper bounds in seconds.
type Durations struct {
	bounds []float64
	counts []atomic.Uint64 // one for each bound, and one for what is above
	nanos  atomic.Int64
}

// NewDurations returns an empty one with these bounds, which are in order.
func NewDurations(bounds ...float64) *Durations {
	return &Durations{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Add counts one.
func (d *Durations) Add(took time.Duration) {
	i, _ := slices.BinarySearch(d.bounds, took.Seconds())
	d.counts[i].Add(1)
	d.nanos.Add(int64(took))
}

// Since counts what began then.
func (d *Durations) Since(began time.Time) { d.Add(time.Since(began)) }

// Spread returns what was counted.
func (d *Durations) Spread() *Spread {
	s := &Spread{Bounds: d.bounds, Counts: make([]uint64, len(d.bounds)), Sum: time.Duration(d.nanos.Load()).Seconds()}
	for i := range d.counts {
		s.Count += d.counts[i].Load()
		if i < len(s.Counts) {
			s.Counts[i] = s.Count
		}
	}
	return s
}
