package clientip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sallyport/sallyport"
)

// ConfigError is one mistake in a configuration.
type ConfigError = sallyport.ConfigError

// New returns a Resolver. The error joins a *ConfigError for each mistake: a
// network that is not valid, has host bits, is an IPv4 network in IPv6 form, or
// is so wide that clients are in it; a header that is not one of the three.
func New(cfg Config) (*Resolver, error) {
	var errs []error
	for _, p := range cfg.Trusted {
		if err := checkTrusted(p); err != nil {
			errs = append(errs, err)
		}
	}
	switch cfg.Header {
	case "", XForwardedFor, Forwarded, XRealIP:
	default:
		errs = append(errs, sallyport.Mistake(
			"Header", string(cfg.Header), "it is not a header that this package reads",
			"Choose X-Forwarded-For, Forwarded or X-Real-IP: the one that your proxy sets whatever a client sends.",
		))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &Resolver{trusted: slices.Clone(cfg.Trusted), header: cfg.Header}, nil
}

// Networks with names, for ParseTrusted.
var (
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	private  = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918
		netip.MustParsePrefix("fc00::/7"), // RFC 4193
	}
	linkLocal = netip.MustParsePrefix("fe80::/10")
)

// ParseTrusted reads networks for Config.Trusted: “10.0.0.0/8”, a single address
// such as “192.0.2.1”, or a name: “loopback” (127.0.0.0/8, ::1) or “private”
// (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7). With “private”, each
// machine of those networks can pretend to be any client.
//
// The error joins a *ConfigError for each entry that is wrong, by the rules of
// New.
func ParseTrusted(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, s := range list {
		switch s {
		case "loopback":
			out = append(out, loopback...)
			continue
		case "private":
			out = append(out, private...)
			continue
		}
		p, err := parseTrusted(s)
		if err == nil {
			err = checkTrusted(p)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

func parseTrusted(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Prefix{}, sallyport.Mistake("Trusted", s, "it is neither a network nor an address", "Write it as 10.0.0.0/8 or 192.0.2.1, or one of the names loopback and private.")
	case a.Zone() != "":
		return netip.Prefix{}, sallyport.Mistake("Trusted", s, "it has a zone, which other machines do not know", "Write the address without it.")
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func checkTrusted(p netip.Prefix) error {
	bad := func(reason, fix string) error { return sallyport.Mistake("Trusted", p.String(), reason, fix) }
	switch {
	case !p.IsValid():
		return bad("it is not a network", "Make it with ParseTrusted or netip.ParsePrefix.")
	case p.Addr().Is4In6():
		return bad("it is an IPv4 network in IPv6 form, in which no address is found", "Write it in IPv4 form, such as 10.0.0.0/8.")
	case p.Addr() != p.Masked().Addr():
		return bad("it has host bits, so that it could mean one address or the network", fmt.Sprintf("Write %s for the network, or %s for the address.", p.Masked(), p.Addr()))
	}
	least := 8
	if p.Addr().Is6() {
		least = 16
	}
	if p.Bits() >= least || p == private[3] || p == linkLocal {
		return nil
	}
	return bad(fmt.Sprintf("it is wider than /%d, so that clients are in it and could write their own address", least), "List the addresses or networks that your proxies have.")
}
