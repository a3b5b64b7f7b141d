package cors

import (
	"cmp"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jub0bs/cors"
	"github.com/jub0bs/cors/cfgerrors"

	"github.com/sallyport/sallyport"
)

// ConfigError is one mistake in a Config.
type ConfigError = sallyport.ConfigError

// everybody stands for every origin.
const everybody = "*"

const (
	keyOrigins         = "cors.origins"
	keyMethods         = "cors.methods"
	keyRequestHeaders  = "cors.request_headers"
	keyResponseHeaders = "cors.response_headers"
	keyMaxAge          = "cors.max_age"
)

// compile returns the library's configuration, or every mistake.
func (c *Config) compile() (cors.Config, error) {
	or := func(list, otherwise []string) []string {
		if len(list) == 0 {
			return otherwise
		}
		return slices.Clone(list)
	}
	maxAge := cmp.Or(c.MaxAge, DefaultMaxAge)
	out := cors.Config{
		Origins:                            slices.Clone(c.Origins),
		Credentialed:                       c.Credentials,
		Methods:                            or(c.Methods, DefaultMethods()),
		RequestHeaders:                     or(c.RequestHeaders, DefaultRequestHeaders()),
		ResponseHeaders:                    or(c.ResponseHeaders, DefaultResponseHeaders()),
		MaxAgeInSeconds:                    int(maxAge / time.Second),
		DangerouslyTolerateInsecureOrigins: c.DangerouslyAllowInsecureOrigins,
	}
	errs := c.checkOrigins(nil)
	errs = append(errs, checkNames(out)...)
	if maxAge < MinMaxAge || maxAge > MaxMaxAge || maxAge%time.Second != 0 {
		errs = append(errs, sallyport.Mistake(keyMaxAge, c.MaxAge.String(), "it is not a number of whole seconds from 1s to 24h", "Write 10m, for example, or leave it out."))
	}
	return out, errors.Join(errs...)
}

// checkOrigins is stricter than the library where there are no credentials: a
// page that holds a token is as open to whoever can write it.
func (c *Config) checkOrigins(errs []error) []error {
	for _, o := range c.Origins {
		bad := func(reason, fix string) { errs = append(errs, sallyport.Mistake(keyOrigins, o, reason, fix)) }
		if o == everybody {
			if c.Credentials {
				bad("with cors.credentials every page on the web could act as its visitor", "Name the origins, or leave cors.credentials out.")
			}
			if len(c.Origins) > 1 {
				bad("it stands for every origin, and there are others beside it", "Leave it out, or the others.")
			}
			continue
		}
		_, err := cors.NewMiddleware(cors.Config{
			Origins: []string{o}, Credentialed: true,
			DangerouslyTolerateInsecureOrigins: c.DangerouslyAllowInsecureOrigins,
		})
		if err != nil {
			errs = append(errs, translate(err))
			continue
		}
		if host, ok := strings.CutSuffix(o, ":*"); ok && !isLocal(host) {
			bad("any port is taken for localhost and loopback addresses only: on other hosts, other ports can be other people's", "Name the port.")
		}
	}
	return errs
}

// isLocal tells whether an origin that the library took, without its port, is
// on the machine that the browser runs on (RFC 6761, section 6.3).
func isLocal(origin string) bool {
	_, host, _ := strings.Cut(origin, "://")
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && address.IsLoopback()
}

// checkNames has the library judge each name alone, so that every mistake is
// found.
func checkNames(out cors.Config) (errs []error) {
	const anyOrigin = "https://example.com"
	for _, list := range []struct {
		key   string
		names []string
		with  func(names []string) cors.Config
	}{
		{keyMethods, out.Methods, func(n []string) cors.Config { return cors.Config{Origins: []string{anyOrigin}, Methods: n} }},
		{keyRequestHeaders, out.RequestHeaders, func(n []string) cors.Config { return cors.Config{Origins: []string{anyOrigin}, RequestHeaders: n} }},
		{keyResponseHeaders, out.ResponseHeaders, func(n []string) cors.Config { return cors.Config{Origins: []string{anyOrigin}, ResponseHeaders: n} }},
	} {
		for _, name := range list.names {
			bad := func(reason, fix string) { errs = append(errs, sallyport.Mistake(list.key, name, reason, fix)) }
			switch {
			case name == everybody && list.key == keyMethods:
				bad("it would allow every method that there will ever be", "Name the methods.")
			case name == everybody:
				bad("browsers take it for every header without cors.credentials, for a header of that name with it, and never for Authorization", "Name the headers.")
			case list.key == keyMethods && name != strings.ToUpper(name):
				bad("methods are compared with regard to case, and all that are in use are in capitals", "Write "+strings.ToUpper(name)+".")
			default:
				if _, err := cors.NewMiddleware(list.with([]string{name})); err != nil {
					errs = append(errs, translate(err))
				}
			}
		}
	}
	return errs
}

// translate words the library's findings.
func translate(err error) error {
	var errs []error
	for e := range cfgerrors.All(err) {
		errs = append(errs, translateOne(e))
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func translateOne(err error) error {
	switch e := err.(type) {
	case *cfgerrors.UnacceptableOriginPatternError:
		return unacceptable(e.Value)
	case *cfgerrors.IncompatibleOriginPatternError:
		out := &ConfigError{Key: keyOrigins, Value: e.Value}
		switch e.Reason {
		case "insecure":
			out.Reason = "it is not https, so whoever stands between a page and its visitor can write the page"
			out.Fix = "Serve the page over https. Only http://localhost and loopback addresses go without, or everything with the danger taken on (DangerouslyAllowInsecureOrigins)."
		case "psl":
			out.Reason = "its subdomains belong to whoever registers them (publicsuffix.org)"
			out.Fix = "Name the origins, or a pattern under a domain of your own, such as https://*.app.example.com."
		default:
			out.Reason, out.Fix = "it cannot stand together with cors.credentials", "Name the origins."
		}
		return out
	case *cfgerrors.UnacceptableMethodError:
		if e.Reason == "forbidden" {
			return sallyport.Mistake(keyMethods, e.Value, "browsers let no page send it", "Leave it out.")
		}
		return sallyport.Mistake(keyMethods, e.Value, "it is not a method (RFC 9110, section 9.1)", "Write it as GET or PATCH is written.")
	case *cfgerrors.UnacceptableHeaderNameError:
		out := &ConfigError{Key: keyRequestHeaders, Value: e.Value}
		if e.Type == "response" {
			out.Key = keyResponseHeaders
		}
		switch e.Reason {
		case "invalid":
			out.Reason, out.Fix = "it is not the name of a header (RFC 9110, section 5.1)", "Write it as X-Request-Id is written."
		case "forbidden":
			out.Reason, out.Fix = "browsers let no page set it", "Leave it out."
			if e.Type == "response" {
				out.Reason = "browsers let no page read it"
			}
		default:
			out.Reason, out.Fix = "it belongs to CORS itself, and is sent in the other direction", "Leave it out."
		}
		return out
	default: // what the library may add; it names the value itself
		return sallyport.Mistake(keyOrigins, "", strings.TrimSuffix(err.Error(), "."), "See the documentation of github.com/jub0bs/cors.")
	}
}

// unacceptable says what kept an origin from being one.
func unacceptable(origin string) error {
	e := &ConfigError{Key: keyOrigins, Value: origin, Fix: "Write it as browsers do: https://app.example.com, or https://app.example.com:8443."}
	lower := strings.ToLower(origin)
	u, err := url.Parse(lower)
	switch {
	case strings.Contains(origin, "@"):
		e.Value, e.Reason = "", "it holds a user name"
	case origin == "null":
		e.Reason, e.Fix = "every page can make itself one of origin null, in a frame without rights", "Leave it out, and give the page an origin."
	case strings.HasPrefix(lower, "file:"):
		e.Reason, e.Fix = "pages that come from files have the origin null", "Serve the page over http on localhost."
	case !strings.Contains(origin, "://"):
		e.Reason = "it has no scheme"
	case strings.ContainsAny(origin, " \t\r\n,"):
		e.Reason, e.Fix = "it holds a space or a comma", "Make one entry of each origin."
	case err != nil && !strings.Contains(origin, "*"):
		e.Reason = "it is not an origin (scheme://host, scheme://host:port)"
	case err == nil && u.RawQuery+u.Fragment != "":
		e.Reason = "it has a query or a fragment, and an origin has none"
	case err == nil && u.Path != "":
		e.Reason = "it has a path or a slash at the end, and an origin has neither"
		if u.Host != "" && origin == lower {
			e.Fix = "Write " + u.Scheme + "://" + u.Host + "."
		}
	case !isASCII(origin):
		e.Reason, e.Fix = "it is not ASCII, and browsers send such a name encoded", "Write the name's ASCII form (xn--…)."
	case origin != lower:
		e.Reason, e.Fix = "it has capitals, and browsers send origins in lower case", "Write "+lower+"."
	case err == nil && (u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80"):
		e.Reason, e.Fix = "browsers leave out the port that is the scheme's own", "Write "+u.Scheme+"://"+strings.TrimSuffix(strings.TrimSuffix(u.Host, ":443"), ":80")+"."
	case strings.Contains(origin, "*"):
		e.Reason, e.Fix = "“*” may stand only for all subdomains, or for any port of localhost", "Write https://*.example.com, or name the origins."
	default:
		e.Reason = "it is not an origin (scheme://host, scheme://host:port) with a valid host and port"
	}
	return e
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
