// Package netfault is a TCP proxy that does what networks and servers do when
// they fail: it holds bytes back, delays them, loses connections, refuses new
// ones, and keeps PostgreSQL's notifications to itself. For tests and bench/chaos.
package netfault

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy passes the bytes of connections on, until it is told otherwise.
type Proxy struct {
	ln     net.Listener
	to     string
	deaf   atomic.Bool
	mute   atomic.Bool
	delay  atomic.Int64
	cutOff atomic.Int64 // connections that listened
	kept   atomic.Int64 // notifications
	trips  atomic.Int64
	commit atomic.Int32 // what becomes of the next COMMIT: a Commit

	mu     sync.Mutex
	state  state
	moved  chan struct{} // closed when the state changes
	age    int           // of connections; older ones are lost
	conns  map[*conn]struct{}
	ended  context.Context
	end    context.CancelFunc
	closed sync.WaitGroup
}

type state int

const (
	forwarding state = iota
	holding
	refusing
)

type conn struct {
	client, server net.Conn // server is nil until it is connected
	age            int
	cutting        atomic.Bool // once the server answers
	asked          atomic.Bool // and the server has not answered yet
}

// Commit is a moment at which a connection is cut off: before the server gets the
// COMMIT, or after it has answered and before the client hears of that.
type Commit int32

// The moments.
const (
	BeforeCommit Commit = 1 + iota
	AfterCommit
	committing // of AfterCommit: the COMMIT is on its way
)

// New returns a proxy on a free port of this machine.
func New(to string) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &Proxy{ln: ln, to: to, conns: map[*conn]struct{}{}, moved: make(chan struct{})}
	x.ended, x.end = context.WithCancel(context.Background())
	x.closed.Go(x.accept)
	return x, nil
}

// Addr is where it listens.
func (x *Proxy) Addr() string { return x.ln.Addr().String() }

// Close ends it, and all connections.
func (x *Proxy) Close() {
	x.end()
	x.ln.Close()
	x.Refuse()
	x.closed.Wait()
}

// Forward passes on everything, also what was held.
func (x *Proxy) Forward() { x.set(forwarding, false) }

// ForwardNew passes on what new connections send. Those that there are stay open
// and dead, as after a failover.
func (x *Proxy) ForwardNew() { x.set(forwarding, true) }

// Hold swallows everything for a while: a network that is gone.
func (x *Proxy) Hold() { x.set(holding, false) }

// Refuse ends connections, and new ones as they come.
func (x *Proxy) Refuse() { x.set(refusing, false) }

// Delay makes what clients send arrive later by d, so that each round trip takes
// as much longer.
func (x *Proxy) Delay(d time.Duration) { x.delay.Store(int64(d)) }

// Deafen cuts off connections that send PostgreSQL's LISTEN.
func (x *Proxy) Deafen(on bool) { x.deaf.Store(on) }

// Deafened is how many connections were cut off for it.
func (x *Proxy) Deafened() int64 { return x.cutOff.Load() }

// Mute keeps PostgreSQL's notifications from its clients, who believe that they
// listen. Connections may not be encrypted.
func (x *Proxy) Mute(on bool) { x.mute.Store(on) }

// Muted is how many notifications were kept back.
func (x *Proxy) Muted() int64 { return x.kept.Load() }

// CutAt ends the connection that sends the next COMMIT of a serializable transaction, at
// that moment.
func (x *Proxy) CutAt(c Commit) { x.commit.Store(int32(c)) }

// Cuts tells whether that is still to come.
func (x *Proxy) Cuts() bool { return x.commit.Load() != 0 }

// Trips returns how many messages clients have sent so far: what is sent without
// waiting for an answer is one.
func (x *Proxy) Trips() int64 { return x.trips.Load() }

func (x *Proxy) set(s state, lose bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.state = s
	if lose {
		x.age++
	}
	if s == refusing {
		for c := range x.conns {
			c.cut()
		}
	}
	close(x.moved)
	x.moved = make(chan struct{})
}

// cut ends a connection without a farewell.
func (c *conn) cut() {
	for _, conn := range []net.Conn{c.client, c.server} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			tcp.Close()
		}
	}
}

func (x *Proxy) accept() {
	for {
		client, err := x.ln.Accept()
		if err != nil {
			return
		}
		x.mu.Lock()
		c := &conn{client: client, age: x.age}
		x.conns[c] = struct{}{}
		x.mu.Unlock()
		x.closed.Go(func() { x.serve(c) })
	}
}

func (x *Proxy) serve(c *conn) {
	defer func() {
		x.mu.Lock()
		delete(x.conns, c)
		c.cut()
		x.mu.Unlock()
	}()
	if !x.passes(c) {
		return
	}
	server, err := net.Dial("tcp", x.to)
	if err != nil {
		return
	}
	x.mu.Lock()
	c.server = server
	x.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() {
		var m messages
		x.copy(c, c.client, c.server, func(b []byte) ([]byte, bool) {
			c.asked.Store(false)
			if c.cutting.Load() {
				x.commit.Store(0)
				return nil, false
			}
			return m.without(b, x.mute.Load(), &x.kept), true
		})
	})
	var named prepared
	serializable := false // the transaction that is open
	x.copy(c, c.server, c.client, func(b []byte) ([]byte, bool) {
		if len(b) > 0 && !c.asked.Swap(true) {
			x.trips.Add(1)
		}
		if x.deaf.Load() && bytes.Contains(b, []byte("LISTEN ")) {
			x.cutOff.Add(1)
			return nil, false
		}
		// What runs behind requests may be looser, and commits in between.
		switch {
		case named.in(b, "begin isolation level serializable"):
			serializable = true
		case named.in(b, "begin isolation level read committed"):
			serializable = false
		}
		if named.in(b, "commit") && serializable {
			if x.commit.CompareAndSwap(int32(BeforeCommit), 0) {
				return nil, false
			}
			if x.commit.CompareAndSwap(int32(AfterCommit), int32(committing)) {
				c.cutting.Store(true)
			}
		}
		if d := time.Duration(x.delay.Load()); d > 0 {
			select {
			case <-time.After(d):
			case <-x.ended.Done():
			}
		}
		return b, true
	})
	back.Wait()
}

// prepared are the names of statements that a connection has prepared.
type prepared map[string]string // statement → name

// preparation is a message that prepares one: a letter, four bytes of length, the name
// and the text.
var preparation = regexp.MustCompile(`(?s)P.{4}([a-z]+_[0-9a-f]+)\x00(commit|begin isolation level [a-z ]+)\x00`)

// in reports whether b runs a statement, by its text or by its name, and remembers what b
// prepares.
func (p *prepared) in(b []byte, statement string) bool {
	for _, m := range preparation.FindAllSubmatch(b, -1) {
		if *p == nil {
			*p = prepared{}
		}
		(*p)[string(m[2])] = string(m[1])
	}
	b = preparation.ReplaceAll(b, nil)
	name, known := (*p)[statement]
	return bytes.Contains(b, []byte(statement+"\x00")) || known && bytes.Contains(b, []byte("\x00"+name+"\x00")) // where it is bound, not where it is described
}

// passes waits until what a connection sends may go on; false is never.
func (x *Proxy) passes(c *conn) bool {
	for {
		x.mu.Lock()
		state, moved, lost := x.state, x.moved, c.age < x.age
		x.mu.Unlock()
		switch {
		case state == refusing || x.ended.Err() != nil:
			return false
		case state == forwarding && !lost:
			return true
		}
		select {
		case <-moved:
		case <-x.ended.Done():
		}
	}
}

// copy passes on what edit leaves of each piece, until edit says no.
func (x *Proxy) copy(c *conn, to, from net.Conn, edit func([]byte) ([]byte, bool)) {
	defer func() {
		x.mu.Lock()
		c.cut()
		x.mu.Unlock()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		rest, ok := edit(b[:n])
		if !ok || !x.passes(c) { // neither bytes nor the end of them
			return
		}
		if _, werr := to.Write(rest); err != nil || werr != nil {
			return
		}
	}
}

// messages follows PostgreSQL's protocol from the server: a letter, four bytes of
// length that count themselves, and the rest.
type messages struct {
	head []byte // of a message whose length is not known yet
	left int    // bytes of a message that are still to come
	drop bool   // and are not passed on
}

// without returns what is in b but notifications, if these are to be kept back.
func (m *messages) without(b []byte, notifications bool, kept *atomic.Int64) []byte {
	out := make([]byte, 0, len(b)+5)
	for len(b) > 0 {
		if m.left > 0 {
			n := min(m.left, len(b))
			if !m.drop {
				out = append(out, b[:n]...)
			}
			b, m.left = b[n:], m.left-n
			continue
		}
		n := min(5-len(m.head), len(b))
		m.head, b = append(m.head, b[:n]...), b[n:]
		if len(m.head) < 5 {
			break
		}
		h := m.head
		m.left = int(h[1])<<24 | int(h[2])<<16 | int(h[3])<<8 | int(h[4]) - 4
		if m.drop = notifications && h[0] == 'A'; m.drop {
			kept.Add(1)
		} else {
			out = append(out, h...)
		}
		m.head = m.head[:0]
	}
	return out
}
