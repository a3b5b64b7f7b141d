package server

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/guard/headers"
	"github.com/sallyport/sallyport/guard/host"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// wall is what Guard is made of.
type wall struct {
	clients *clientip.Resolver
	hosts   *host.Hosts
	headers headers.Headers
	cors    *cors.CORS
	policy  *https.Policy
	limits  *limits
	maxBody int64
	names   []string // that hosts has
	health  [2]string
	forward string // where proxies ask
	proxies undeclared
}

// undeclared are peers that sent forwarded headers and are not declared proxies.
type undeclared struct {
	last atomic.Pointer[netip.Addr]
	mu   sync.Mutex
	told map[netip.Addr]bool
}

// maxTold bounds how many peers the log names: anybody can send such a header.
const maxTold = 16

// newWall builds the wall, but for its limits. It reports every mistake, by the names of
// configuration files.
func newWall(cfg *Config) (*wall, error) {
	var errs []error
	w := &wall{names: cfg.hosts(), maxBody: cfg.MaxBody}
	if w.maxBody == 0 {
		w.maxBody = api.MaxBody
	}
	var err error
	if w.clients, err = clientip.New(clientip.Config{Trusted: cfg.TrustedProxies, Header: cfg.ProxyHeader}); err != nil {
		errs = append(errs, renamed(err, map[string]string{"Trusted": "proxy.trusted", "Header": "proxy.header"}))
	}
	if w.hosts, err = host.New(host.Config{Allowed: w.names}); err != nil {
		errs = append(errs, renamed(err, map[string]string{"Allowed": "hosts.allowed"}))
	}
	pages := cfg.CORS
	if len(pages.RequestHeaders) == 0 && cfg.APIKeyHeader != "" {
		pages.RequestHeaders = slices.DeleteFunc(cors.DefaultRequestHeaders(), func(name string) bool { return strings.EqualFold(name, apikey.DefaultHeader) })
		pages.RequestHeaders = append(pages.RequestHeaders, cfg.APIKeyHeader)
	}
	if w.cors, err = cors.New(pages); err != nil {
		errs = append(errs, renamed(err, map[string]string{"cors.request_headers": "cors.headers"}))
	}
	base, perr := url.Parse(cfg.BaseURL)
	if perr == nil {
		for i, path := range []string{livezPath, readyzPath} {
			w.health[i] = base.Path + path
		}
		w.forward = base.Path + forward.Prefix
	}
	if perr == nil && base.Scheme == "https" {
		var query []string
		if cfg.APIKeyQuery != "" {
			query = []string{cfg.APIKeyQuery}
		}
		w.policy, err = https.New(https.Config{
			BaseURL: "https://" + strings.TrimSuffix(base.Host, ":0"), // a listener's port that is not known yet
			HSTS:    cfg.HSTS, HSTSSubdomains: cfg.HSTSSubdomains, HSTSPreload: cfg.HSTSPreload,
			CredentialHeaders: []string{cmp.Or(cfg.APIKeyHeader, apikey.DefaultHeader)}, CredentialQuery: query,
			Secure: func(r *http.Request) bool { return reqctx.From(r.Context()).HTTPS() },
		})
		if err != nil {
			errs = append(errs, renamed(err, map[string]string{"BaseURL": "base_url", "HSTS": "tls.hsts", "HSTSSubdomains": "tls.hsts_subdomains", "HSTSPreload": "tls.hsts_preload"}))
		}
	}
	return w, errors.Join(errs...)
}

// hosts returns the names under which the server may be addressed.
func (c *Config) hosts() []string {
	if len(c.Hosts) > 0 {
		return c.Hosts
	}
	u, err := url.Parse(c.BaseURL)
	if err != nil {
		return nil
	}
	name := u.Hostname()
	if ip, err := netip.ParseAddr(name); name == "localhost" || err == nil && ip.IsLoopback() {
		return []string{"localhost", "127.0.0.1", "[::1]"}
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return []string{name}
}

// within is what stands between CORS and the handler: its refusals can be read
// by the pages that may.
func (w *wall) within(next http.Handler) http.Handler {
	if w.limits.all != nil {
		next = w.limited(next)
	}
	if w.policy != nil {
		next = w.policy.Handler(next)
	}
	return next
}

// limited bounds all requests of a client. What passes is told nothing: the
// headers of limits would cost every answer more than the limit does.
func (w *wall) limited(next http.Handler) http.Handler {
	all := w.limits.all
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		d, err := all.TakeAddress(r.Context(), reqctx.From(r.Context()).Addr())
		switch {
		case err != nil:
			sallyport.WriteError(rw, ratelimit.Unavailable())
		case !d.Allowed:
			w.limits.refused(r.Context(), "all", "")
			ratelimit.Refuse(rw, d)
		default:
			next.ServeHTTP(rw, r)
		}
	})
}

// isHealth tells whether a request is for a health route. Another method there
// is for another handler, if for any.
func (w *wall) isHealth(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && len(r.URL.Path) >= len(w.health[0]) && (r.URL.Path == w.health[0] || r.URL.Path == w.health[1])
}

// note tells the operator, once for each peer, that forwarded headers came from
// one that is not declared.
func (u *undeclared) note(r *http.Request, seen clientip.Client, log *slog.Logger) {
	if last := u.last.Load(); last != nil && *last == seen.Addr {
		return
	}
	u.last.Store(&seen.Addr)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.told[seen.Addr] || len(u.told) >= maxTold {
		return
	}
	if u.told == nil {
		u.told = map[netip.Addr]bool{}
	}
	u.told[seen.Addr] = true
	log.WarnContext(r.Context(), "forwarded headers came from a peer that is not a declared proxy, and are ignored: if it is a proxy of yours, all its clients count as one until it is declared",
		"header", seen.Ignored, "peer", seen.Addr.String(), "fix", fmt.Sprintf("proxy.trusted = [%q]", seen.Addr.String()))
}

// renamed gives mistakes of a part of the wall the names that they have in
// configuration files.
func renamed(err error, names map[string]string) error {
	var out []error
	var words []string
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(names))) { // the longer ones first
		words = append(words, name, names[name])
	}
	text := strings.NewReplacer(words...).Replace
	for _, m := range sallyport.Mistakes(err) {
		out = append(out, sallyport.Mistake(cmp.Or(names[m.Key], m.Key), m.Value, text(m.Reason), text(m.Fix)))
	}
	return errors.Join(out...)
}

// CheckWall returns every mistake of what stands around the routes: proxies,
// hosts, CORS and HTTPS.
func CheckWall(cfg Config) []*ConfigError {
	_, err := newWall(&cfg)
	return sallyport.Mistakes(err)
}
