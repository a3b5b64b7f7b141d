// Package host decides whether a request is addressed to this server: whether
// its Host is one of a list of names. It is for any net/http program.
//
// The Host of a request is the caller's text, and two attacks live from servers
// that answer whatever it says. In DNS rebinding a page of the attacker's domain
// has that domain point to 127.0.0.1 or an address in the visitor's network: the
// browser then takes the server there for the page's own origin, and only the
// Host tells that it is not. In cache poisoning a Host that ends up in a link, a
// redirect or a cached answer sends other people to the attacker, with the token
// of a reset link for example.
//
// The package stores nothing and keeps no state between calls. It never looks
// names up, never reads X-Forwarded-Host or any other header, never logs, and
// never repeats what the caller sent.
//
// Begin with New.
package host

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/sallyport/sallyport"
)

// Config says by which names the server may be addressed.
type Config struct {
	// Allowed holds at least one entry, each of them one of
	//
	//	example.com      this name alone
	//	*.example.com    every name below, of one or more labels, but not
	//	                 example.com itself: list both if both are meant
	//	192.0.2.1        an IPv4 address
	//	[2001:db8::1]    an IPv6 address, with brackets as in a URL
	//
	// without a scheme, a port or a dot at the end. Case does not matter. Names are
	// in ASCII: those in other scripts are written as browsers send them
	// (xn--…). Whoever can have a name below *.example.com point elsewhere can carry
	// out the attacks above, so list names where there are few of them.
	Allowed []string
}

// Hosts is a list of names. It is immutable and may be used by several
// goroutines. The zero value allows none.
type Hosts struct {
	names map[string]struct{}     // in lower case
	below []string                // ".example.com" for *.example.com
	addrs map[netip.Addr]struct{} // IPv6; IPv4 has one form and is among names
}

// maxName is how long a name may be (RFC 1035, section 2.3.4), less the dot at
// the end that is not written.
const maxName = 253

// Check tells whether host, as in a request's Host field, is allowed: a name or
// an address of the list, with or without a port from 1 to 65535.
//
// It is false for everything that is not exactly that (RFC 9110, section 7.2):
// no host at all, a user name, a dot at the end, an empty port, one with a sign,
// spaces or zeros in front, and characters that no host name has. Underscores
// are taken, since names in private networks do have them. IPv6 addresses
// compare by value, so that [0:0:0:0:0:0:0:1] is [::1].
//
// It allocates nothing, unless what stands in brackets is no address.
func (h *Hosts) Check(host string) bool {
	if _, ok := h.names[host]; ok { // as browsers send it, on the usual port
		return true
	}
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 || !isPort(host[end+1:]) {
			return false
		}
		a, ok := parseIPv6(host[1:end])
		if !ok {
			return false
		}
		_, ok = h.addrs[a]
		return ok
	}
	if colon := strings.IndexByte(host, ':'); colon >= 0 {
		if !isPort(host[colon:]) {
			return false
		}
		host = host[:colon]
	}
	var lower [maxName]byte
	if !isName(host) {
		return false
	}
	for i := range len(host) {
		ch := host[i]
		if ch >= 'A' && ch <= 'Z' {
			ch |= 0x20
		}
		lower[i] = ch
	}
	name := lower[:len(host)]
	if _, ok := h.names[string(name)]; ok {
		return true
	}
	for _, suffix := range h.below {
		if len(name) > len(suffix) && string(name[len(name)-len(suffix):]) == suffix {
			return true
		}
	}
	return false
}

// Refusal returns what Handler answers: 400 "host_not_allowed".
func Refusal() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "host_not_allowed",
		Message: "The request names a host that this server does not answer for. Use the address that you were given for it; its operator lists the names in hosts.allowed.",
	}
}

// Handler answers requests whose Host is not allowed with Refusal, as problem
// details, and hands the others to next unchanged.
//
// What it looks at is Request.Host, in which net/http has put the host of an
// absolute request target or the :authority of HTTP/2 if there is one, and the
// Host field otherwise. A request with several Host fields, and one of HTTP/1.1
// with none, net/http has refused before.
func (h *Hosts) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.Check(r.Host) {
			sallyport.WriteError(w, Refusal())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isName tells whether s could be a host name or an IPv4 address: labels of 1 to
// 63 letters, digits, hyphens and underscores, separated by dots, with no hyphen
// at either end (RFC 1123, section 2.1), 253 bytes in all.
func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	label := 0 // where it begins
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == '.':
			if n := i - label; n == 0 || n > 63 || s[label] == '-' || s[i-1] == '-' {
				return false
			}
			label = i + 1
		case !isLetter(s[i]) && !isDigit(s[i]) && s[i] != '-' && s[i] != '_':
			return false
		}
	}
	return true
}

// isPort tells whether s is empty, or ":" and a port without zeros in front.
func isPort(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) < 2 || len(s) > 6 || s[1] == '0' {
		return false
	}
	n := 0
	for i := 1; i < len(s); i++ {
		if !isDigit(s[i]) {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// maxIPv6 is how long an IPv6 address may be, as eight groups or with an IPv4
// address at the end.
const maxIPv6 = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

// parseIPv6 reads what stands in brackets. Zones mean nothing to another machine.
func parseIPv6(s string) (netip.Addr, bool) {
	if len(s) > maxIPv6 || strings.IndexByte(s, ':') < 0 || strings.IndexByte(s, '%') >= 0 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil
}

func isDigit(ch byte) bool { return ch >= '0' && ch <= '9' }

func isLetter(ch byte) bool { return ch|0x20 >= 'a' && ch|0x20 <= 'z' }
