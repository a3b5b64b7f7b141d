package host

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/sallyport/sallyport"
)

// ConfigError is one mistake in a configuration.
type ConfigError = sallyport.ConfigError

// New returns the list. The error joins a *ConfigError for each entry that is
// not what Config.Allowed describes, or says that there is none.
func New(cfg Config) (*Hosts, error) {
	h := &Hosts{names: map[string]struct{}{}, addrs: map[netip.Addr]struct{}{}}
	var errs []error
	for _, entry := range cfg.Allowed {
		if reason, fix := h.add(entry); reason != "" {
			errs = append(errs, sallyport.Mistake("Allowed", entry, reason, fix))
		}
	}
	if len(cfg.Allowed) == 0 {
		errs = append(errs, sallyport.Mistake("Allowed", "", "the list is empty, so that every request would be refused", "List the names under which clients reach the server, such as api.example.com."))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return h, nil
}

// isShared tells whether a top-level domain is for private networks, so that no
// registry sells names in it (RFC 6761, RFC 6762; .internal is reserved by
// ICANN).
func isShared(tld string) bool {
	switch tld {
	case "localhost", "test", "local", "internal":
		return true
	}
	return false
}

// add adds an entry, or says what is wrong with it.
func (h *Hosts) add(entry string) (reason, fix string) {
	s := strings.ToLower(entry)
	base, wildcard := strings.CutPrefix(s, "*.")
	bare, _ := netip.ParseAddr(strings.Trim(s, "[]"))
	switch {
	case s == "":
		return "it is empty", "Write a name such as api.example.com, or leave the entry out."
	case strings.ContainsFunc(s, func(r rune) bool { return r > '~' }):
		return "it is not ASCII, and browsers send names in other scripts in their ASCII form", "Write each label in that form (the A-label, xn--…), as the browser's developer tools show it."
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == ',' }):
		return "it holds a space, a comma or a control character", "Write one name for each entry."
	case strings.Contains(s, "://"):
		return "it holds a scheme", "Write the name alone, such as api.example.com: the scheme and the port are not compared."
	case strings.ContainsAny(s, "/?#"):
		return "it holds a path", "Write the name alone, such as api.example.com."
	case strings.Contains(s, "@"):
		return "it holds a user name", "Write the name alone, such as api.example.com."
	case s == "*" || s == "*.":
		return "it allows every name, as if nothing were checked", "List the names under which clients reach the server; *.example.com allows all below one."
	case strings.Contains(base, "*"):
		return "the asterisk stands for whole labels, and only at the beginning", "Write it as *.example.com, or list the names."
	case bare.Zone() != "":
		return "it has a zone, which means nothing to other machines", "Write the address without it."
	case bare.Is6() && !strings.HasPrefix(s, "["):
		return "it is an IPv6 address without brackets", "Write it as [" + bare.String() + "]."
	case strings.HasPrefix(s, "["):
		inner, ok := strings.CutSuffix(s[1:], "]")
		if _, port, cut := strings.Cut(s, "]:"); cut && isPort(":"+port) {
			return "it holds a port", "Leave the port out: every port is allowed."
		}
		a, valid := parseIPv6(inner)
		if !ok || !valid {
			return "it is not an IPv6 address in brackets", "Write it as [2001:db8::1]."
		}
		h.addrs[a] = struct{}{}
		return "", ""
	case strings.Contains(s, ":"):
		if _, port, _ := strings.Cut(s, ":"); port != "" && isPort(":"+port) {
			return "it holds a port", "Leave the port out: every port is allowed."
		}
		return "it holds a colon", "Write a name, or an IPv6 address in brackets."
	case strings.HasSuffix(s, "."):
		return "it ends in a dot", "Leave the dot out: a Host that has one is always refused."
	case !isName(base):
		return "it is not a host name: labels of 1 to 63 letters, digits, hyphens (not at their ends) and underscores, 253 in all", "Write it as api.example.com, *.example.com, 192.0.2.1 or [2001:db8::1]."
	case endsInNumber(base):
		if wildcard || !bare.Is4() {
			return "clients take what ends in a number for an IPv4 address, and this is none", "Write an address as four decimal numbers without zeros in front, such as 192.0.2.1."
		}
	case wildcard && !strings.Contains(base, ".") && !isShared(base):
		return "it allows every name of a top-level domain, and anybody can have one", "Write it as *.example.com, or list the names."
	}
	if wildcard {
		h.below = append(h.below, "."+base)
	} else {
		h.names[s] = struct{}{}
	}
	return "", ""
}

// endsInNumber tells whether a name is read as an IPv4 address by browsers (URL
// Standard, section 3.5): its last label is decimal or begins with 0x.
func endsInNumber(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	if digits, hex := strings.CutPrefix(last, "0x"); hex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}
