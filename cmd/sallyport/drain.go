package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// drain ends an HTTP server so that a request which was read is answered in
// full, always. http.Server.Shutdown does nearly that: it closes connections
// that it takes for idle, among them such as have just sent a request that is
// read but not counted yet. The handler then works for nobody.
//
// Here a connection is closed as idle under the same lock under which what it
// sends is taken in: either the request is never seen, or the connection stays
// until it is answered. HTTP/1.1 only.
type drain struct {
	draining atomic.Bool
	mu       sync.Mutex
	conns    map[*drainConn]bool
}

func newDrain() *drain { return &drain{conns: map[*drainConn]bool{}} }

// attach lets srv be drained. It serves on what listen returns.
func (d *drain) attach(srv *http.Server) {
	next := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		conn, ok := c.(*drainConn)
		if !ok {
			return
		}
		switch state {
		case http.StateIdle:
			conn.mu.Lock()
			conn.quiet, conn.since = true, time.Now()
			conn.mu.Unlock()
		case http.StateActive:
			// Also a request that came together with the one before it, for
			// which nothing is read any more.
			conn.mu.Lock()
			conn.quiet = false
			conn.mu.Unlock()
		case http.StateClosed, http.StateHijacked:
			d.mu.Lock()
			delete(d.conns, conn)
			d.mu.Unlock()
		}
	}
}

func (d *drain) listen(ln net.Listener) net.Listener { return drainListener{ln, d} }

// drainQuiet is how long a connection is quiet before it is taken for idle: what
// a client has just sent may be on its way.
const drainQuiet = 250 * time.Millisecond

// begin makes every answer from now on the last one of its connection.
func (d *drain) begin() { d.draining.Store(true) }

// wait closes idle connections and waits until the others are answered. Nothing
// is accepted any more by then.
func (d *drain) wait(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		d.mu.Lock()
		for c := range d.conns {
			c.closeIfQuiet()
		}
		left := len(d.conns)
		d.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

type drainListener struct {
	net.Listener
	d *drain
}

func (l drainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &drainConn{Conn: c, quiet: true, since: time.Now()}
	l.d.mu.Lock()
	l.d.conns[conn] = true
	l.d.mu.Unlock()
	return conn, nil
}

type drainConn struct {
	net.Conn
	mu     sync.Mutex
	quiet  bool // nothing was read since the connection was made or last answered
	since  time.Time
	closed bool // as idle: what came in at that moment is not passed on
}

func (c *drainConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if n > 0 {
		c.quiet = false
	}
	return n, err
}

// CloseWrite lets net/http end its side first, so that an answer to a request
// whose body was not read arrives before the connection is reset.
func (c *drainConn) CloseWrite() error {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		return t.CloseWrite()
	}
	return nil
}

func (c *drainConn) closeIfQuiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet && !c.closed && time.Since(c.since) > drainQuiet {
		c.closed = true
		_ = c.Conn.Close() // the server learns it by its next read
	}
}
