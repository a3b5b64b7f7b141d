package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// proxyHeaderTimeout is how long a connection may take for its PROXY header, or
// for its first byte if it has none. The header comes in one segment, which may
// be lost once.
const proxyHeaderTimeout = 5 * time.Second

// behindProxies reads the PROXY protocol's header (version 1 or 2): a peer from the
// networks must send one, and becomes the client that it names; any other peer
// must not, and is the client. Whoever breaks the rule is cut off before
// anything else is read.
//
// A header that names no client (LOCAL, UNKNOWN) is how proxies check their
// backends: the peer is the client then. One that names something else than TCP
// over IP is refused.
func behindProxies(ln net.Listener, networks []netip.Prefix, timeout time.Duration, log *slog.Logger) net.Listener {
	return &proxyListener{log: log, Listener: proxyproto.Listener{
		Listener: ln, ReadHeaderTimeout: timeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if isTrusted(networks, o.Upstream) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.REJECT, nil
		},
		ValidateHeader: func(h *proxyproto.Header) error {
			if _, _, ok := h.TCPAddrs(); !ok && !h.Command.IsLocal() {
				return errNotTCP
			}
			return nil
		},
	}}
}

var errNotTCP = errors.New("the PROXY header is not of a TCP connection")

// isTrusted reports whether an address is in one of the networks.
func isTrusted(networks []netip.Prefix, a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := t.AddrPort().Addr().Unmap().WithZone("")
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// nothingForwarded takes the headers of proxies from requests on a connection of
// which the proxy named no client. It comes from an address that is trusted with
// these headers, and the proxy passes on what it is sent: whoever it did not name
// (the client of a socket, say) could pretend to be anybody.
func nothingForwarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(drainKey{}).(*drainConn); ok && c != nil {
			if p, ok := c.Conn.(*proxyConn); ok && p.namesNobody() {
				for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Forwarded-Proto"} {
					delete(r.Header, name)
				}
			}
		}
		next.ServeHTTP(w, r)
	})
}

type proxyListener struct {
	proxyproto.Listener
	log   *slog.Logger
	noted atomic.Int64 // when a refusal was logged last, Unix nanoseconds
}

func (l *proxyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*proxyproto.Conn)
	if !ok { // no policy of ours is SKIP
		return nil, errors.Join(errors.New("a connection without a PROXY policy"), c.Close())
	}
	return &proxyConn{Conn: conn, l: l}, nil
}

type proxyConn struct {
	*proxyproto.Conn
	l *proxyListener
}

func (c *proxyConn) namesNobody() bool {
	h := c.ProxyHeader()
	return h != nil && h.Command.IsLocal()
}

// noteEvery is how often a refusal is logged: a proxy that is set up wrongly is
// refused with everything it sends, and so is every stranger who tries.
const noteEvery = time.Minute

func (c *proxyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	why := ""
	switch {
	case errors.Is(err, proxyproto.ErrSuperfluousProxyHeader):
		why = "it sent a PROXY header, and proxy.trusted does not list it"
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		why = "proxy.trusted lists it, and it sent no PROXY header"
	case errors.Is(err, errNotTCP):
		why = errNotTCP.Error()
	default:
		return n, err
	}
	now, noted := time.Now().UnixNano(), c.l.noted.Load()
	if now-noted >= int64(noteEvery) && c.l.noted.CompareAndSwap(noted, now) {
		c.l.log.Warn("a connection was refused; more of the kind are not logged for a minute", "peer", c.Raw().RemoteAddr().String(), "reason", why)
	}
	return n, err
}

// CloseWrite lets net/http end its side first.
func (c *proxyConn) CloseWrite() error {
	if t, ok := c.TCPConn(); ok {
		return t.CloseWrite()
	}
	return nil
}
