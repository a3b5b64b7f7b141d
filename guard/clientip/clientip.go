// Package clientip decides which address a request comes from, and whether its
// client used HTTPS, where proxies may stand between. It is for any net/http
// program.
//
// Anybody can send X-Forwarded-For. What makes it worth reading is who handed
// the request over: a proxy that was declared. So the headers of proxies are
// read only if the connection comes from a declared address, only the one
// header that was chosen is read, and it is walked from right to left, because
// each proxy appends at the right what it has seen itself. The first address
// that is not a declared proxy is the client; what stands left of it is the
// client's own invention. Where the text stops making sense the walk ends, and
// the client is the last address that was established: at worst a proxy's, never
// one that an attacker wrote.
//
// The package stores nothing and keeps no state between calls. It never changes
// the request or its RemoteAddr, never looks names up, never logs, and never
// reads the PROXY protocol (that is the listener's) or X-Forwarded-Host.
//
// Begin with New.
package clientip

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
)

// The most that is read of a header, however much of it there is.
const (
	// MaxHops is how many elements of a header are looked at, from the right.
	MaxHops = 64
	// maxElement is how long one of them may be, in bytes. A Forwarded element
	// may name four things, one of them a host of 253.
	maxElement = 512
	// maxNode is how long an address with brackets, port and zone may be.
	maxNode = 80
)

// Header is the header that the declared proxies write.
type Header string

const (
	// XForwardedFor is a list of addresses, to which each proxy appends the one
	// that the request came to it from. Whether that was over HTTPS is taken from
	// X-Forwarded-Proto. It is the default.
	XForwardedFor Header = "X-Forwarded-For"
	// Forwarded is RFC 7239: a list of elements such as
	// for="[2001:db8::1]:4711";proto=https, one of each proxy.
	Forwarded Header = "Forwarded"
	// XRealIP is one address, which the outermost proxy sets and the others leave
	// alone. HTTPS is taken from X-Forwarded-Proto.
	XRealIP Header = "X-Real-IP"
)

// Config says which proxies there are. The zero value is secure: there are
// none, and no header is believed.
type Config struct {
	// Trusted holds the addresses of the proxies: those that connections come
	// from, and those that proxies further out have. Every one of them must append
	// to the header (or set it, for XRealIP) truthfully. Default: none.
	//
	// Whoever can connect from one of these addresses can pretend to be any client.
	// So declare proxies and not the network that other programs or people share
	// with them. IPv4 networks wider than /8 are refused, and IPv6 networks wider
	// than /16, but for the whole of fc00::/7 and fe80::/10.
	Trusted []netip.Prefix

	// Header is the header that they write. Default: XForwardedFor. Proxies hand on
	// what they do not know, so any other header is the client's own text.
	Header Header
}

// Client is where a request comes from.
type Client struct {
	// Addr is the client's address: an IPv4 address also where it was written as
	// ::ffff:192.0.2.1, and without a zone. It is not valid if the connection has no
	// IP address, as with a Unix socket.
	Addr netip.Addr

	// HTTPS tells whether the client's own connection was HTTPS. A declared proxy
	// decides it, if it says anything; otherwise it is whether this connection is.
	// Where the proxies' words leave room for doubt it is false.
	HTTPS bool

	// Ignored is the name of a header of proxies that was there although the
	// connection does not come from a declared one: X-Forwarded-For, Forwarded,
	// X-Real-IP, X-Forwarded-Proto or X-Forwarded-Host. Usually it is empty. A
	// client may have sent it, or a proxy was not declared: worth telling the
	// operator once.
	Ignored string
}

// Resolver finds a request's client. It is immutable and may be used by several
// goroutines. The zero value believes no header.
type Resolver struct {
	trusted []netip.Prefix
	header  Header
}

// Resolve returns where r comes from.
//
// X-Forwarded-For and Forwarded may stand on several lines, which are one list.
// An address may have a port and, if it is IPv6, brackets. A Forwarded element
// that is not well formed, has a parameter twice or names no address (“unknown”,
// “_hidden”), an empty element, one of more than 512 bytes, and the end of
// MaxHops elements end the walk. X-Real-IP must be there exactly once, with
// exactly one address.
//
// HTTPS is, with Forwarded, the proto of the element that the walk ended at. Who
// wrote which value of X-Forwarded-Proto cannot be told from it. So of several
// values as many from the right as X-Forwarded-For had hops must all be “https”
// (all of them, where no such number is known): one of these was written by the
// proxy that the client talked to. A client that sends “https” itself is then
// contradicted by the proxy.
//
// It allocates nothing, unless a Forwarded address is written with escapes or
// an address is malformed.
func (res *Resolver) Resolve(r *http.Request) Client {
	peer := peerAddr(r.RemoteAddr)
	c := Client{Addr: peer, HTTPS: r.TLS != nil}
	if !res.trusts(peer) {
		c.Ignored = forwardedHeader(r.Header)
		return c
	}
	said := nothing
	switch res.header {
	case Forwarded:
		c.Addr, said = res.walkForwarded(r.Header["Forwarded"], peer)
	case XRealIP:
		if lines := r.Header["X-Real-Ip"]; len(lines) == 1 {
			if a, ok := parseNode(trimSpace(lines[0])); ok {
				c.Addr = a
			}
		}
		said = schemeOf(r.Header["X-Forwarded-Proto"], 0)
	default:
		var hops int
		c.Addr, hops = res.walk(r.Header["X-Forwarded-For"], peer)
		said = schemeOf(r.Header["X-Forwarded-Proto"], hops)
	}
	if said != nothing {
		c.HTTPS = said == https
	}
	return c
}

// FromProxy reports whether a declared proxy handed r over.
func (res *Resolver) FromProxy(r *http.Request) bool { return res.trusts(peerAddr(r.RemoteAddr)) }

// Addr is Resolve(r).Addr.
func (res *Resolver) Addr(r *http.Request) netip.Addr { return res.Resolve(r).Addr }

// Handler puts the Client of each request into its context, for From, and calls
// next.
func (res *Resolver) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(&clientContext{r.Context(), res.Resolve(r)}))
	})
}

type clientKey struct{}

// clientContext holds a Client without boxing it once more.
type clientContext struct {
	context.Context
	client Client
}

func (c *clientContext) Value(key any) any {
	if key == (clientKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// From returns the Client that Handler put into a request's context. ok is
// false if no Handler did.
func From(ctx context.Context) (c Client, ok bool) {
	if holder, ok := ctx.Value(clientKey{}).(*clientContext); ok {
		return holder.client, true
	}
	return Client{}, false
}

// Network returns what a client can be told by, for limits: an IPv4 address
// itself (/32), and the /64 that an IPv6 address is in, since everybody has at
// least one of those with all its addresses. It is the zero Prefix if a is not
// valid.
func Network(a netip.Addr) netip.Prefix { return network(a, 32, 64) }

// Wider returns the network around Network: the /24 of an IPv4 address and the
// /48 of an IPv6 address, which is what one customer usually gets. It is for
// noticing one that tries many addresses.
func Wider(a netip.Addr) netip.Prefix { return network(a, 24, 48) }

func network(a netip.Addr, bits4, bits6 int) netip.Prefix {
	a = a.Unmap()
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	p, _ := a.Prefix(bits) // fails only for an address that is not valid
	return p
}

func (res *Resolver) trusts(a netip.Addr) bool {
	for _, p := range res.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// saying is what proxies said about the client's connection.
type saying int8

const (
	nothing saying = iota
	https
	otherwise // plain HTTP, or nothing that could be relied on
)

// walk goes through X-Forwarded-For. hops is how many proxies the request came
// through, the peer included, 0 if that is not known.
func (res *Resolver) walk(lines []string, peer netip.Addr) (client netip.Addr, hops int) {
	client = peer
	list := fromRight{lines: lines}
	for hops < MaxHops {
		s, ok := list.next(cutLast)
		if !ok {
			return client, hops
		}
		a, ok := parseNode(s)
		if !ok {
			return client, 0
		}
		client = a
		hops++
		if !res.trusts(a) {
			return client, hops
		}
	}
	return client, 0
}

// walkForwarded goes through Forwarded.
func (res *Resolver) walkForwarded(lines []string, peer netip.Addr) (client netip.Addr, said saying) {
	client = peer
	list := fromRight{lines: lines}
	for range MaxHops {
		s, ok := list.next(cutLastQuoted)
		if !ok { // all of them are proxies, and the last one's word stands
			return client, said
		}
		node, scheme, ok := parseElement(s)
		if !ok {
			return client, otherwise
		}
		said = scheme
		a, ok := parseNode(node)
		if !ok {
			return client, said
		}
		client = a
		if !res.trusts(a) {
			return client, said
		}
	}
	return client, otherwise
}

// schemeOf reads the last hops values of X-Forwarded-Proto, or all of them if
// hops is 0.
func schemeOf(lines []string, hops int) saying {
	if len(lines) == 0 {
		return nothing
	}
	list := fromRight{lines: lines}
	for n := 0; hops == 0 || n < hops; n++ {
		s, ok := list.next(cutLast)
		if !ok {
			break
		}
		if n == MaxHops || !equalFold(s, "https") {
			return otherwise
		}
	}
	return https
}

// forwardedHeader returns the name of a header that proxies write, if there is
// one.
func forwardedHeader(h http.Header) string {
	// Named one by one: for constants the compiler's map access is quicker.
	switch {
	case h["X-Forwarded-For"] != nil:
		return "X-Forwarded-For"
	case h["Forwarded"] != nil:
		return "Forwarded"
	case h["X-Real-Ip"] != nil:
		return "X-Real-IP"
	case h["X-Forwarded-Proto"] != nil:
		return "X-Forwarded-Proto"
	case h["X-Forwarded-Host"] != nil:
		return "X-Forwarded-Host"
	}
	return ""
}

// peerAddr returns the address in RemoteAddr, as net/http writes it: host:port,
// with brackets around IPv6.
func peerAddr(s string) netip.Addr {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 { // a Unix socket has "@" or nothing
		return netip.Addr{}
	}
	host := s[:colon]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
		host, _, _ = strings.Cut(host, "%")
	} else if strings.IndexByte(host, ':') >= 0 {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}
