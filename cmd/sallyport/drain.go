package main

import (
	"context"
	"crypto/tls"
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
// until it is answered. That holds below TLS, too: the bytes are others, the
// moments are the same.
//
// HTTP/2 can say what was read and what was not (GOAWAY, RFC 9113, 6.8), so its
// connections are not closed but told, and end themselves. That part is
// Shutdown's, which leaves them alone otherwise. It comes when no HTTP/1.1
// connection is left that it could take for idle.
type drain struct {
	srv      *http.Server
	draining atomic.Bool
	mu       sync.Mutex
	conns    map[*drainConn]bool
}

// drained attaches a drain to a server, which serves on what listen returns.
func drained(srv *http.Server) *drain {
	d := &drain{srv: srv, conns: map[*drainConn]bool{}}
	next := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.draining.Load() {
			if c, ok := r.Context().Value(drainKey{}).(*drainConn); ok && c.isClosed() {
				panic(http.ErrAbortHandler) // closed as idle before the request was put together: nobody waits for it
			}
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, drainKey{}, below(c))
	}
	srv.ConnState = d.state
	return d
}

type drainKey struct{}

// below returns the connection under TLS, or c itself; nil if it is not a
// drain's.
func below(c net.Conn) *drainConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	conn, _ := c.(*drainConn)
	return conn
}

func (d *drain) state(c net.Conn, state http.ConnState) {
	conn := below(c)
	if conn == nil {
		return
	}
	switch state {
	case http.StateIdle, http.StateActive:
		// Active also with a request that came together with the one before it,
		// for which nothing is read any more.
		conn.mu.Lock()
		if t, ok := c.(*tls.Conn); ok && conn.handshaking {
			conn.http2 = t.ConnectionState().NegotiatedProtocol == "h2"
		}
		conn.handshaking = false
		conn.quiet, conn.since = state == http.StateIdle, time.Now()
		conn.mu.Unlock()
	case http.StateClosed, http.StateHijacked:
		d.mu.Lock()
		delete(d.conns, conn)
		d.mu.Unlock()
	}
}

// listen returns a listener whose connections are counted. With TLS on them, the
// handshake's bytes are not taken for a request's.
func (d *drain) listen(ln net.Listener, withTLS bool) net.Listener {
	return drainListener{ln, d, withTLS}
}

// drainQuiet is how long a connection is quiet before it is taken for idle: what
// a client has just sent may be on its way.
const drainQuiet = 250 * time.Millisecond

// begin makes every answer from now on the last one of its connection.
func (d *drain) begin() { d.draining.Store(true) }

// wait closes idle connections and waits until the others are answered. Nothing
// is accepted any more by then.
func (d *drain) wait(ctx context.Context) error {
	if err := d.waitHTTP1(ctx); err != nil {
		return err
	}
	return d.srv.Shutdown(ctx)
}

func (d *drain) waitHTTP1(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		d.mu.Lock()
		left := 0
		for c := range d.conns {
			if !c.closeIfQuiet() {
				left++
			}
		}
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
	d       *drain
	withTLS bool
}

func (l drainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &drainConn{Conn: c, quiet: true, since: time.Now(), handshaking: l.withTLS}
	l.d.mu.Lock()
	l.d.conns[conn] = true
	l.d.mu.Unlock()
	return conn, nil
}

type drainConn struct {
	net.Conn
	mu          sync.Mutex
	quiet       bool // nothing was read since the connection was made or last answered
	since       time.Time
	closed      bool // as idle: what came in at that moment is not passed on
	handshaking bool // TLS, until the first request: what is read may be the handshake's
	http2       bool // ends itself
}

func (c *drainConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	switch {
	case n > 0 && c.handshaking:
		c.since = time.Now()
	case n > 0:
		c.quiet = false
	}
	return n, err
}

// CloseWrite lets net/http end its side first, so that an answer to a request
// whose body was not read arrives before the connection is reset.
func (c *drainConn) CloseWrite() error {
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}

func (c *drainConn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// closeIfQuiet reports whether the connection need not be waited for: HTTP/2
// takes care of itself. One that it closes counts until the server has learned
// it.
func (c *drainConn) closeIfQuiet() (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http2 {
		return true
	}
	if c.quiet && !c.closed && time.Since(c.since) > drainQuiet {
		c.closed = true
		_ = c.Conn.Close() // the server learns it by its next read
	}
	return false
}
