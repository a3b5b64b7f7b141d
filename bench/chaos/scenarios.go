package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// scenario is one kind of fault under load.
type scenario struct {
	name, what string
	on         *place
	run        func(*run) error
	brief      bool // it is part of the short form
}

// run is a scenario on a service.
type run struct {
	options
	s *service
	l *ledger
	w *load
}

// begin sets clients to work and waits until there is something to lose.
func (r *run) begin() {
	r.w = r.s.start(r.l, r.clients, r.pause)
	r.until(20*time.Second, func() bool {
		r.l.mu.Lock()
		defer r.l.mu.Unlock()
		return len(r.l.ended) >= r.clients && r.l.counts.acknowledged > 20*r.clients
	})
}

func (r *run) until(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}

// finish ends the load and compares everything.
func (r *run) finish() {
	r.w.end()
	r.s.audit(r.l, r.strict)
}

// overdue ends nodes of a scenario that does not end, each of which says what it was
// doing, and keeps that.
func (r *run) overdue(name string) {
	r.l.blame("%s has not ended after all this time", name)
	for _, n := range r.s.nodes {
		n.mu.Lock()
		if n.cmd != nil {
			_ = n.cmd.Process.Signal(syscall.SIGQUIT)
		}
		n.mu.Unlock()
	}
	time.Sleep(time.Second)
	for _, n := range r.s.nodes {
		kept := filepath.Join(os.TempDir(), fmt.Sprintf("chaos-%s-%s.log", name, strings.ReplaceAll(n.name, " ", "")))
		if b, err := os.ReadFile(n.log); err == nil && os.WriteFile(kept, b, 0o600) == nil {
			r.say("what %s was doing is at the end of %s", n.name, kept)
		}
	}
}

// between returns a length of time at random.
func between(from, to time.Duration) time.Duration { return from + rand.N(to-from) }

// kill kills a node at a random moment, and starts it again at once.
func (r *run) kill() error {
	r.begin()
	for range r.kills {
		time.Sleep(between(50*time.Millisecond, 600*time.Millisecond))
		n := r.s.some()
		n.kill()
		since := time.Now()
		r.l.fault()
		if err := n.up(); err != nil {
			return err
		}
		r.recover(n, since)
	}
	r.finish()
	return nil
}

// terminate ends a node with SIGTERM, and starts it again.
func (r *run) terminate() error {
	r.begin()
	left, handled := 0, 0
	for range r.terms {
		n := r.s.some()
		at := n.open()
		time.Sleep(between(50*time.Millisecond, 400*time.Millisecond))
		r.l.fault()
		if err := n.terminate(); err != nil {
			r.l.blame("%s at SIGTERM: %v\n%s", n.name, err, tail(n.log))
		}
		since := time.Now()
		time.Sleep(20 * time.Millisecond) // for the clients to note the last answers
		h, u, err := n.compare(at, r.l.blame)
		if err != nil {
			return err
		}
		left, handled = left+u, handled+h
		if err := n.up(); err != nil {
			return err
		}
		r.recover(n, since)
	}
	if handled < r.terms {
		r.l.blame("only %d requests were handled: that is no load", handled)
	}
	r.say("%d requests were handled around the signals and answered; %d were sent and not read", handled, left)
	r.finish()
	return nil
}

// standing has PostgreSQL stand still, every process of it.
func (r *run) standing() error {
	return r.outage(func() error { r.s.pg.signal(syscall.SIGSTOP); return nil }, func() error { r.s.pg.signal(syscall.SIGCONT); return nil })
}

// stopped ends PostgreSQL as a crash would, and starts it again.
func (r *run) stopped() error { return r.outage(r.s.pg.stop, r.s.pg.again) }

func (r *run) outage(begin, end func() error) error {
	r.begin()
	// Should this fail in between, the next scenario has its database all the same.
	over := sync.OnceValue(end)
	defer over()
	r.l.fault()
	if err := begin(); err != nil {
		return err
	}
	away := time.Now()
	r.without(away, away.Add(r.outages), r.s.nodes...)
	if err := over(); err != nil {
		return err
	}
	r.recoverAll(time.Now())
	r.finish()
	return nil
}

// refusedBy is how long a request with a credential waits at the most until it is
// refused: a reading of what has changed is given a second, and what comes while one
// is on waits for the next.
const refusedBy = 4 * time.Second

// without watches nodes that have no database until a moment: what needs it is
// refused with 503 and Retry-After, soon, and the rest goes on.
func (r *run) without(since, until time.Time, nodes ...*node) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			c := newClient(patience)
			defer c.close()
			refused := false
			for {
				sent := time.Now()
				if sent.After(until) && (refused || sent.After(until.Add(r.goal))) {
					break
				}
				for _, path := range []string{"/livez", "/docs", "/openapi.json", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
					a := c.do(n, call{method: "GET", path: path})
					r.l.enter(a)
					if took := a.came.Sub(a.sent); a.status != http.StatusOK || took > r.goal {
						r.l.blame("this needs no database: %v", a)
					}
				}
				a := c.do(n, me(r.s.admin))
				r.l.enter(a)
				switch {
				case a.ok() && a.sent.After(since.Add(r.s.lease)):
					r.l.blame("answered without a database, after the lease: %v", a)
				case a.ok():
				case a.status != http.StatusServiceUnavailable || a.retryAfter == "":
					r.l.blame("want 503 with Retry-After: %v", a)
				case a.came.Sub(a.sent) > max(refusedBy, r.goal):
					r.l.blame("that is late: %v", a)
				default:
					refused = true
				}
				time.Sleep(50 * time.Millisecond)
			}
			if !refused {
				r.l.blame("%s refused nothing: it was not cut off", n.name)
			}
		})
	}
	wg.Wait()
}

// slow has the network to PostgreSQL take longer and longer, lose everything, and
// come back.
func (r *run) slow() error {
	r.begin()
	all := func(f func(n *node)) {
		for _, n := range r.s.nodes {
			f(n)
		}
	}
	defer all(func(n *node) { n.proxy.Delay(0); n.proxy.Forward() })
	r.l.fault()
	all(func(n *node) { n.proxy.Delay(200 * time.Millisecond) })
	// Within the lease: slow, and nothing is refused that has a session.
	c := newClient(patience)
	defer c.close()
	for end := time.Now().Add(r.outages / 2); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, n := range r.s.nodes {
			a := c.do(n, me(r.s.admin))
			r.l.enter(a)
			if !a.ok() {
				r.l.blame("with 200 ms to the database: %v", a)
			}
		}
	}
	r.l.fault()
	all(func(n *node) { n.proxy.Delay(2 * time.Second) })
	away := time.Now()
	r.without(away.Add(time.Second), away.Add(r.outages), r.s.nodes...)
	r.l.fault()
	all(func(n *node) { n.proxy.Hold() })
	r.without(away, time.Now().Add(r.outages), r.s.nodes...)
	all(func(n *node) { n.proxy.Delay(0); n.proxy.Forward() })
	r.recoverAll(time.Now())
	r.finish()
	return nil
}

// cutOff keeps one node from hearing of changes: first only the notifications, and
// nothing fails; then everything, and that node refuses.
func (r *run) cutOff() error {
	n := r.s.nodes[len(r.s.nodes)-1]
	defer func() { n.proxy.Mute(false); n.proxy.Forward() }()
	r.begin()
	r.l.setCalm(r.strict, everywhere)
	r.l.fault()
	n.proxy.Mute(true)
	time.Sleep(r.outages / 2)
	if n.proxy.Muted() == 0 {
		r.l.blame("no notification was kept back")
	}
	r.l.setCalm(r.strict, func(o *node) bool { return o != n })
	r.l.fault()
	n.proxy.Hold()
	away := time.Now()
	r.without(away, away.Add(r.outages), n)
	n.proxy.Forward()
	n.proxy.Mute(false)
	r.recover(n, time.Now())
	r.finish()
	return nil
}

// limits has Redis emptied, standing still, killed and started again. Nothing fails,
// and there always is a limit.
func (r *run) limits() error {
	rd := r.s.redis
	defer func() { _ = rd.signal(syscall.SIGCONT) }()
	r.l.setCalm(r.strict, everywhere)
	r.begin()
	shared := func(when string) {
		since, passed := time.Now(), 0
		exact := func() bool {
			if !r.sharing(1) {
				return false
			}
			r.l.recovered(time.Since(since))
			passed = r.knock(addressLimit)
			return passed == addressLimit || passed == addressLimit+1 // one refills in 36 s
		}
		if !r.until(r.goal, exact) {
			r.l.blame("%s, nodes do not count together within %v: %d requests of one address passed a limit of %d", when, r.goal, passed, addressLimit)
		}
	}
	alone := func(when string) {
		nodes := len(r.s.nodes)
		passed := r.knock(addressLimit)
		if passed == 0 || passed > nodes*(addressLimit+1) { // by configuration a node lets its share pass, or all
			r.l.blame("%s, %d requests of one address passed a limit of %d for each of %d nodes", when, passed, addressLimit, nodes)
		}
		if !r.until(r.goal, func() bool { return r.sharing(0) }) {
			r.l.blame("%s, nodes say that they count together", when)
		}
	}
	shared("at first")
	r.l.fault()
	if err := rd.flush(); err != nil {
		return err
	}
	shared("flushed")
	r.l.fault()
	if err := rd.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	alone("standing still")
	if err := rd.signal(syscall.SIGCONT); err != nil {
		return err
	}
	shared("going on")
	r.l.fault()
	if err := rd.signal(syscall.SIGKILL); err != nil {
		return err
	}
	alone("killed")
	if err := rd.again(); err != nil {
		return err
	}
	shared("started again")
	r.finish()
	return nil
}

// sharing tells whether all nodes count together, or none.
func (r *run) sharing(want float64) bool {
	for _, n := range r.s.nodes {
		if got, err := n.metric("sallyport_limits_shared"); err != nil || got != want {
			return false
		}
	}
	return true
}

// knock sends more requests from one address than each node lets through by itself,
// and returns how many passed. Other answers than 200 and 429 are failures.
func (r *run) knock(limit int) int {
	from := fmt.Sprintf("198.51.100.%d", 1+requests.Add(1)%250)
	var mu sync.Mutex
	passed := 0
	var wg sync.WaitGroup
	for _, n := range r.s.nodes {
		for range 4 {
			wg.Go(func() {
				c := newClient(patience)
				defer c.close()
				for range limit/4 + 10 {
					a := c.do(n, call{method: "GET", path: "/docs/page.css", from: from})
					r.l.enter(a)
					mu.Lock()
					switch a.status {
					case http.StatusOK:
						passed++
					case http.StatusTooManyRequests:
					default:
						r.l.blame("at the limit: %v", a)
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return passed
}

// keys rotates the signing key every second. Nobody notices.
func (r *run) keys() error {
	r.l.setCalm(r.strict, everywhere)
	r.begin()
	seen := map[string]bool{}
	for range r.rotations {
		tick := time.After(time.Second)
		doc, err := r.s.cli("key", "rotate")
		if err != nil {
			return err
		}
		r.l.fault()
		kid, _ := doc["kid"].(string)
		seen[kid] = true
		<-tick
	}
	if len(seen) != r.rotations {
		r.l.blame("%d rotations, and %d keys", r.rotations, len(seen))
	}
	r.finish()
	return nil
}

// soak is the load alone, for long: nothing grows.
func (r *run) soak() error {
	r.l.setCalm(r.strict, everywhere)
	r.begin()
	type gauge struct {
		name   string
		read   func(*node) (float64, error)
		spare  float64 // that it may grow, beside a tenth
		series [][]float64
	}
	gauges := []*gauge{
		{name: "memory", read: (*node).resident, spare: r.spare},
		{name: "goroutines", read: func(n *node) (float64, error) { return n.metric("go_goroutines") }, spare: 25},
		{name: "descriptors", read: (*node).descriptors, spare: 25},
	}
	for _, g := range gauges {
		g.series = make([][]float64, len(r.s.nodes))
	}
	every := min(time.Second, r.soaks/15)
	for end := time.Now().Add(r.soaks); time.Now().Before(end); time.Sleep(every) {
		for i, n := range r.s.nodes {
			for _, g := range gauges {
				v, err := g.read(n)
				if err != nil {
					return err
				}
				g.series[i] = append(g.series[i], v)
			}
		}
	}
	for i, n := range r.s.nodes {
		var said []string
		for _, g := range gauges {
			third := len(g.series[i]) / 3
			before, after := median(g.series[i][third:2*third]), median(g.series[i][2*third:])
			said = append(said, fmt.Sprintf("%s %.0f → %.0f", g.name, before, after))
			if after > before*1.1+g.spare {
				r.l.blame("%s: %s grew from %.0f to %.0f", n.name, g.name, before, after)
			}
		}
		r.say("%s, second third → last third: %s", n.name, strings.Join(said, ", "))
	}
	r.finish()
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// cluster starts three nodes behind nginx.
func (w *world) cluster() (*service, error) {
	dir, err := os.MkdirTemp("/tmp", "sallyport-rolling.")
	if err != nil {
		return nil, err
	}
	w.later(func() { _, _ = w.script("cluster", nil, "stop", dir) })
	base, err := w.script("cluster", settings, "start", dir)
	if err != nil {
		return nil, err
	}
	s := &service{
		database: "PostgreSQL, nginx", bin: filepath.Join(dir, "sallyport"), lease: 750*time.Millisecond + margin,
		flags: []string{"--config", filepath.Join(dir, "sallyport.toml")}, env: os.Environ(), front: true,
		doors: []*node{{name: "nginx", base: base}},
	}
	for i := range 3 {
		at, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("node%d.url", i+1)))
		if err != nil {
			return nil, err
		}
		n := &node{name: fmt.Sprintf("node %d", i+1), base: strings.TrimSpace(string(at)), log: filepath.Join(dir, fmt.Sprintf("node%d.log", i+1))}
		n.start = func() (*exec.Cmd, error) {
			_, err := w.script("cluster", settings, "restart", dir, strconv.Itoa(i+1))
			return nil, err
		}
		s.nodes = append(s.nodes, n)
	}
	if _, err := s.cli("admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin"); err != nil {
		return nil, err
	}
	return s, s.enter()
}

// rolling restarts all nodes, one after the other. Clients that ask nginx notice
// nothing, and no request is handled twice.
func (r *run) rolling() error {
	r.l.setCalm(r.strict, everywhere)
	r.begin()
	for range r.rolls {
		for _, n := range r.s.nodes {
			r.l.fault()
			if _, err := n.start(); err != nil {
				return err
			}
			time.Sleep(between(100*time.Millisecond, 500*time.Millisecond))
		}
	}
	r.w.end()
	if r.l.counts.wrong > 0 {
		r.say("nginx says: %s", tail(filepath.Join(filepath.Dir(r.s.nodes[0].log), "nginx", "error.log")))
	}
	handled := map[string]int{}
	for _, n := range r.s.nodes {
		ids, err := n.handled()
		if err != nil {
			return err
		}
		for _, id := range ids {
			handled[id]++
		}
	}
	if len(handled) < 100 {
		return errors.New("the nodes' logs do not tell what they handled")
	}
	for id, times := range handled {
		if times > 1 {
			r.l.blame("%s was handled %d times", id, times)
		}
	}
	r.s.audit(r.l, r.strict)
	return nil
}
