package clientip

import (
	"net/netip"
	"strings"
)

// fromRight hands out the elements of a list that may stand on several lines,
// the last one first. Lines are never joined: a quotation mark that a client
// left open on its own line cannot swallow what a proxy wrote on the next.
type fromRight struct {
	lines []string // what is left, but for the current line
	line  string   // what is left of the current line
	more  bool     // there is an element left in line, if only an empty one
}

// next returns an element without the spaces around it. An element that cannot
// be told from what stands left of it is returned as "", which is no address.
func (l *fromRight) next(cut func(string) (before, element string, more bool)) (element string, ok bool) {
	if !l.more {
		if len(l.lines) == 0 {
			return "", false
		}
		last := len(l.lines) - 1
		l.lines, l.line = l.lines[:last], l.lines[last]
	}
	l.line, element, l.more = cut(l.line)
	return trimSpace(element), true
}

// cutLast cuts s at its last comma. An element that is too long is cut as "".
func cutLast(s string) (before, element string, more bool) {
	low := max(0, len(s)-maxElement-1)
	if comma := strings.LastIndexByte(s[low:], ','); comma >= 0 {
		return s[:low+comma], s[low+comma+1:], true
	}
	if low > 0 {
		return "", "", false
	}
	return "", s, false
}

// cutLastQuoted is cutLast where a comma may stand inside of a quoted string.
//
// It reads from the right, so that how an element is delimited depends on
// nothing that stands left of it: that may be the client's text.
func cutLastQuoted(s string) (before, element string, more bool) {
	low := max(0, len(s)-maxElement-1)
	quoted := false
	for i := len(s) - 1; i >= low; i-- {
		switch {
		case s[i] == '"':
			// A mark within a quoted string has a backslash before it; the one at its left
			// end has an equals sign, or parseElement refuses the element.
			if !quoted || i == 0 || s[i-1] != '\\' {
				quoted = !quoted
			}
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	if low > 0 {
		return "", "", false
	}
	return "", s, false
}

// parseElement reads a forwarded-element (RFC 7239, section 4): parameters that
// are separated by semicolons. It returns what “for” says, "" if it is not
// there, and what “proto” says.
//
// Spaces around the semicolons are taken, as in the examples of section 4,
// which the grammar does not allow. So are the colons and brackets of an address
// without quotation marks, which proxies do leave out.
func parseElement(s string) (node string, scheme saying, ok bool) {
	var seen [4]bool
	pairs := 0
	for {
		s = strings.TrimLeft(s, " \t")
		if s != "" && s[0] == ';' { // an empty pair, which the grammar allows
			s = s[1:]
			continue
		}
		if s == "" {
			return node, scheme, pairs > 0
		}
		n := 0
		for n < len(s) && isToken(s[n]) {
			n++
		}
		if n == 0 || n == len(s) || s[n] != '=' {
			return "", otherwise, false
		}
		name := s[:n]
		value, rest, ok := cutValue(s[n+1:])
		if !ok {
			return "", otherwise, false
		}
		pairs++
		which := -1
		switch {
		case equalFold(name, "for"):
			which, node = 0, value
		case equalFold(name, "proto"):
			which, scheme = 1, otherwise
			if equalFold(value, "https") {
				scheme = https
			}
		case equalFold(name, "by"):
			which = 2
		case equalFold(name, "host"):
			which = 3
		}
		if which >= 0 {
			if seen[which] {
				return "", otherwise, false
			}
			seen[which] = true
		}
		s = strings.TrimLeft(rest, " \t")
		if s != "" && s[0] != ';' {
			return "", otherwise, false
		}
	}
}

// cutValue reads a token or a quoted string (RFC 9110, section 5.6) from the
// beginning of s.
func cutValue(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		n := 0
		for n < len(s) && (isToken(s[n]) || s[n] == ':' || s[n] == '[' || s[n] == ']') {
			n++
		}
		return s[:n], s[n:], n > 0
	}
	escapes := false
	for i := 1; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '"':
			value = s[1:i]
			if escapes {
				value = unescape(value)
			}
			return value, s[i+1:], true
		case ch == '\\':
			escapes = true
			if i++; i == len(s) || !isText(s[i]) {
				return "", "", false
			}
		case !isText(ch):
			return "", "", false
		}
	}
	return "", "", false
}

func unescape(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++ // cutValue saw that there is one more
		}
		b = append(b, s[i])
	}
	return string(b)
}

// parseNode reads an address as proxies write it: 192.0.2.1, 192.0.2.1:4711,
// 2001:db8::1, [2001:db8::1], [2001:db8::1]:4711; a port may also be obfuscated
// (RFC 7239, section 6.3: _x). An IPv6 address without brackets has no port.
// A link-local address may have a zone, which says nothing here and is dropped.
// What is not one host's address is refused: 0.0.0.0, ::, multicast.
func parseNode(s string) (netip.Addr, bool) {
	if s == "" || len(s) > maxNode {
		return netip.Addr{}, false
	}
	host, port, six := s, "", true
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return netip.Addr{}, false
		}
		host, port = s[1:end], s[end+1:]
	} else if colon := strings.IndexByte(s, ':'); colon < 0 || colon == strings.LastIndexByte(s, ':') {
		six = false
		if colon >= 0 {
			host, port = s[:colon], s[colon:]
		}
	}
	if port != "" && !isPort(port) {
		return netip.Addr{}, false
	}
	if host == "" || !isHex(host[0]) && host[0] != ':' { // spares unknown and _hidden an error's allocation
		return netip.Addr{}, false
	}
	host, zone, zoned := strings.Cut(host, "%")
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil, a.Is4() == six, a.IsUnspecified(), a.IsMulticast():
		return netip.Addr{}, false
	case zoned && (zone == "" || !a.IsLinkLocalUnicast() || a.Is4()):
		return netip.Addr{}, false
	}
	a = a.Unmap()
	return a, !a.IsUnspecified() && !a.IsMulticast() // what an IPv4 address in IPv6 form may turn out to be
}

// isPort tells whether s is ":" and a port.
func isPort(s string) bool {
	if len(s) < 2 || s[0] != ':' {
		return false
	}
	s = s[1:]
	if s[0] == '_' {
		for i := 1; i < len(s); i++ {
			if ch := s[i] | 0x20; (ch < 'a' || ch > 'z') && !isDigit(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-' {
				return false
			}
		}
		return len(s) > 1
	}
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) || i == 5 {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

func isDigit(ch byte) bool { return ch >= '0' && ch <= '9' }

func isHex(ch byte) bool { return isDigit(ch) || ch|0x20 >= 'a' && ch|0x20 <= 'f' }

// isText tells whether ch may stand in a quoted string, alone or behind a
// backslash.
func isText(ch byte) bool { return ch >= ' ' && ch != 0x7f || ch == '\t' }

// isToken tells whether ch may stand in a token (RFC 9110, section 5.6.2).
func isToken(ch byte) bool {
	return isDigit(ch) || ch|0x20 >= 'a' && ch|0x20 <= 'z' || strings.IndexByte("!#$%&'*+-.^_`|~", ch) >= 0
}

func trimSpace(s string) string { return strings.Trim(s, " \t") }

// equalFold compares with an ASCII word without regard to ASCII case. The
// lengths keep out the long s and the Kelvin sign, which fold to ASCII but are
// longer.
func equalFold(s, word string) bool { return len(s) == len(word) && strings.EqualFold(s, word) }
