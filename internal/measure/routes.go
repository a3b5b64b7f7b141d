package measure

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// requestBounds are seconds: from a request that is answered out of memory, by way
// of a password hash, to one that waits for a queue.
var requestBounds = [...]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// classes are those of status codes: 1xx (a connection that became something else)
// to 5xx, and 0 for an answer that was never begun.
const classes = 6

// route is what is counted of one.
type route struct {
	name   string
	places [spreadOver]place
}

// place counts by class and duration at once: a request is two additions.
type place struct {
	cells [classes][len(requestBounds) + 1]atomic.Uint64
	nanos atomic.Int64
}

// Routes counts requests by the pattern of their route. Its zero value is ready.
type Routes struct {
	mu  sync.Mutex
	all atomic.Pointer[map[string]*route] // copied when one is added
}

// Add counts a request. pattern is its route's, as it was registered.
func (r *Routes) Add(pattern string, status int, took time.Duration) {
	var known *route
	if m := r.all.Load(); m != nil {
		known = (*m)[pattern]
	}
	if known == nil {
		known = r.learn(pattern)
	}
	p := &known.places[rand.Uint32()%spreadOver]
	class := status / 100
	if class < 0 || class >= classes {
		class = 0
	}
	seconds, bound := took.Seconds(), 0
	for bound < len(requestBounds) && seconds > requestBounds[bound] {
		bound++
	}
	p.cells[class][bound].Add(1)
	p.nanos.Add(int64(took))
}

// learn makes a place for a route. Routes are written in the program: the bound is
// for one that makes them up.
func (r *Routes) learn(pattern string) *route {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := map[string]*route{}
	if old := r.all.Load(); old != nil {
		if known := (*old)[pattern]; known != nil {
			return known
		}
		if len(*old) >= maxSeries {
			pattern = other
			if known := (*old)[pattern]; known != nil {
				return known
			}
		}
		for name, known := range *old {
			m[name] = known
		}
	}
	made := &route{name: pattern}
	m[pattern] = made
	r.all.Store(&m)
	return made
}

var classNames = [classes]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// Families returns what was counted, under two names.
func (r *Routes) Families(requests, seconds string) []Family {
	count := Family{Name: requests, Help: "Requests, by the pattern of their route and the class of the answer's status.", Kind: Counter, Labels: []string{"route", "class"}}
	took := Family{Name: seconds, Help: "How long requests took, by the pattern of their route.", Kind: Histogram, Labels: []string{"route"}}
	var all []*route
	if m := r.all.Load(); m != nil {
		for _, known := range *m {
			all = append(all, known)
		}
	}
	slices.SortFunc(all, func(a, b *route) int { return strings.Compare(a.name, b.name) })
	for _, known := range all {
		spread := &Spread{Bounds: requestBounds[:], Counts: make([]uint64, len(requestBounds))}
		for class, name := range classNames {
			n := uint64(0)
			for bound := range len(requestBounds) + 1 {
				for i := range known.places {
					n += known.places[i].cells[class][bound].Load()
				}
				if bound < len(requestBounds) {
					spread.Counts[bound] += n
				}
			}
			if n > 0 {
				spread.Count += n
				count.Points = append(count.Points, Point{Labels: []string{known.name, name}, Value: float64(n)})
			}
		}
		for i := range known.places {
			spread.Sum += time.Duration(known.places[i].nanos.Load()).Seconds()
		}
		took.Points = append(took.Points, Point{Labels: []string{known.name}, Spread: spread})
	}
	return []Family{count, took}
}
