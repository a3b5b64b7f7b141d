package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/measure"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Limits says how often one client may do what. Rates are written as in
// guard/ratelimit: "5/minute", "100/hour;burst=20", several with commas.
type Limits struct {
	// Default bounds all requests of a client address, health checks aside. Default
	// DefaultLimit; LimitOff for none.
	Default string
	// Login bounds how many passwords a client address may try, right or wrong, on
	// every route that tests one. Default LoginLimit. LimitOff switches that off, and
	// with it Register, Mail and Guesses: for tests and measurements. Lockout is another
	// thing: Config.NoLockout.
	Login string
	// Register bounds how often a client address may ask to register, whether an
	// account comes of it or not. Default RegisterLimit.
	Register string
	// Mail bounds how often a client address may ask for a letter: a link to verify an
	// address, to choose a new password, to sign in. Default MailLimit.
	Mail string
	// Guesses bounds how many credentials that nobody has (API keys, tokens, cookies,
	// client secrets) a client address may send. Beyond it, what is not held in memory
	// is refused unseen. Default GuessLimit.
	Guesses string
	// Nodes is how many servers count for themselves behind one balancer, where Share is
	// nil: each then lets through its part of every limit (ratelimit.Share). Default 1.
	// A ratelimit.Fallback has a Share of its own, which should be the same.
	Nodes int
	// Share, if not nil, opens a store in which nodes count together, such as that of
	// store/redis behind a ratelimit.Fallback. secret is 32 bytes that all servers of
	// the database have, for what should not be read there. Default: the memory of
	// this process.
	Share func(secret []byte) (ratelimit.Store, error)
}

// Defaults of Limits.
const (
	DefaultLimit  = "100/second;burst=1000"
	LoginLimit    = "60/minute"
	RegisterLimit = "60/hour;burst=30"
	MailLimit     = "30/hour;burst=10"
	GuessLimit    = "60/minute"
	LimitOff      = "off"
)

// CheckLimit returns what is wrong with a limit.
func CheckLimit(text string) error {
	if text == "" || text == LimitOff {
		return nil
	}
	_, err := ratelimit.ParseAll(text)
	return err
}

// limits are the limits of a server.
type limits struct {
	cfg    Limits
	shared ratelimit.Store // nil: each node counts for itself
	store  ratelimit.Store

	// By client address. Nil: none.
	all, login, guesses *ratelimit.Limiter

	mu    sync.Mutex
	named map[string]namedLimit // the server's own, and what routes declare

	refusals *audit.Refusals
	told     *ratelimit.Limiter // bounds what is told of those who are refused
	counts   measure.Counts     // of those, by limit
}

type namedLimit struct {
	rate    string
	limiter *ratelimit.Limiter
}

// newLimits takes limits that have been checked, and a secret for Share.
func newLimits(cfg Limits, secret []byte) (*limits, error) {
	fill := func(text *string, def string) {
		switch {
		case cfg.Login == LimitOff && text != &cfg.Default:
			*text = LimitOff
		case *text == "":
			*text = def
		}
	}
	fill(&cfg.Default, DefaultLimit)
	fill(&cfg.Login, LoginLimit)
	fill(&cfg.Register, RegisterLimit)
	fill(&cfg.Mail, MailLimit)
	fill(&cfg.Guesses, GuessLimit)
	l := &limits{cfg: cfg, named: map[string]namedLimit{}}
	var err error
	if cfg.Share != nil {
		l.shared, err = cfg.Share(secret)
		l.store = l.shared
	} else {
		var memory *ratelimit.Memory
		if memory, err = ratelimit.NewMemory(ratelimit.MemoryConfig{}); err == nil {
			l.store, err = ratelimit.Share(memory, cfg.Nodes)
		}
	}
	if err != nil {
		return nil, err
	}
	seen, err := ratelimit.NewMemory(ratelimit.MemoryConfig{MaxKeys: 10_000})
	if err != nil {
		return nil, err
	}
	if l.told, err = ratelimit.New(ratelimit.Config{Name: "told", Rates: []ratelimit.Rate{{Count: 1, Per: time.Minute}}, Store: seen, Key: ratelimit.Global()}); err != nil {
		return nil, err
	}
	for name, rate := range map[string]string{"all": cfg.Default, "sign-in": cfg.Login, "register": cfg.Register, "letters": cfg.Mail, "guesses": cfg.Guesses} {
		if rate == LimitOff {
			continue
		}
		made, err := l.make(name, rate)
		if err != nil {
			return nil, err
		}
		l.named[name] = namedLimit{rate, made}
	}
	l.all, l.login, l.guesses = l.named["all"].limiter, l.named["sign-in"].limiter, l.named["guesses"].limiter
	return l, nil
}

// make returns a limiter whose keys its callers make.
func (l *limits) make(name, rate string) (*ratelimit.Limiter, error) {
	rates, err := ratelimit.ParseAll(rate)
	if err != nil {
		return nil, err
	}
	return ratelimit.New(ratelimit.Config{Name: name, Rates: rates, Store: l.store, Key: ratelimit.Global()})
}

// ofPasswords is how a route declares that it tests passwords, of which attempt
// counts each.
func (l *limits) ofPasswords(which string) []sallyport.Limit {
	return unlessOff(sallyport.Limit{Name: "sign-in", Rate: l.cfg.Login, For: which})
}

// ofRegistration is the limit of the route that makes accounts.
func (l *limits) ofRegistration() []sallyport.Limit {
	return unlessOff(sallyport.Limit{Name: "register", Rate: l.cfg.Register})
}

// ofMail is the limit of the routes that send letters to whom they are asked to.
func (l *limits) ofMail() []sallyport.Limit {
	return unlessOff(sallyport.Limit{Name: "letters", Rate: l.cfg.Mail})
}

func unlessOff(l sallyport.Limit) []sallyport.Limit {
	if l.Rate == LimitOff {
		return nil
	}
	return []sallyport.Limit{l}
}

// ofRoute returns the limiter of a limit that a route declares. One of the
// server's own names is that one.
func (l *limits) ofRoute(route string, number int, declared sallyport.Limit) (*ratelimit.Limiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := declared.Name
	for again := 0; name == ""; again++ {
		// Routes of Muxes that are mounted under different prefixes may be written
		// alike.
		name = nameOf(route, number, again)
		if _, taken := l.named[name]; taken {
			name = ""
		}
	}
	if has, ok := l.named[name]; ok {
		if has.rate != declared.Rate {
			return nil, fmt.Errorf("limit %q is %s here and %s on another route: limits of one name are one", name, declared.Rate, has.rate)
		}
		return has.limiter, nil
	}
	made, err := l.make(name, declared.Rate)
	if err != nil {
		return nil, err
	}
	l.named[name] = namedLimit{declared.Rate, made}
	return made, nil
}

// nameOf makes a name for a route's own limit that is the same on every node, if
// all register the same routes in the same order.
func nameOf(route string, number, again int) string {
	digest := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", route, number, again))
	slug := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(route))
	for strings.Contains(slug, "--") {
		slug = strings.ReplaceAll(slug, "--", "-")
	}
	return strings.Trim(slug[:min(len(slug), 22)], "-") + "-" + hex.EncodeToString(digest[:4])
}

func (l *limits) view(lockout bool) LimitView {
	v := LimitView{Default: l.cfg.Default, Login: l.cfg.Login, Lockout: lockout, Shared: "no", Nodes: max(l.cfg.Nodes, 1)}
	if l.shared != nil {
		v.Shared = "yes"
		if f, ok := l.shared.(interface{ Down() bool }); ok && f.Down() {
			v.Shared = "away"
		}
	}
	return v
}

// refused records that a limit has refused a request, once a minute for each limit
// and client address: the log has all of them.
func (l *limits) refused(ctx context.Context, limit, route string) {
	l.counts.Add(limit)
	if l.refusals == nil {
		return
	}
	if d, err := l.told.Take(ctx, limit+" "+ratelimit.AddressKey(reqctx.AddrOf(ctx))); err != nil || !d.Allowed {
		return
	}
	detail := map[string]string{"limit": limit}
	if route != "" {
		detail["route"] = route
	}
	l.refusals.Note(ctx, audit.Event{Action: "limit.exceeded", Result: audit.Denied, Reason: "more than the limit allows", Detail: detail})
}

// attempt counts a password that is going to be tested (lockout.Config.Limit).
// What the program itself tests, without a request, is not counted.
func (l *limits) attempt(ctx context.Context) error {
	if l.login == nil || reqctx.From(ctx) == nil {
		return nil
	}
	d, err := l.login.TakeAddress(ctx, reqctx.AddrOf(ctx))
	switch {
	case err != nil:
		return ratelimit.Unavailable()
	case !d.Allowed:
		l.refused(ctx, "sign-in", "")
		return ratelimit.TooMany(d)
	}
	return nil
}

var _ sallyport.LimitGate = (*Server)(nil)

// Limit implements sallyport.LimitGate.
func (s *Server) Limit(route string, declared []sallyport.Limit, through func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	var before, behind []counted
	for i, d := range declared {
		limiter, err := s.wall.limits.ofRoute(route, i, d)
		if err != nil {
			panic(fmt.Sprintf("sallyport: route %q: %v", route, err))
		}
		c := counted{limiter, limiter.Name(), keyOf(d)}
		if d.Behind() {
			behind = append(behind, c)
		} else {
			before = append(before, c)
		}
	}
	return func(next http.Handler) http.Handler {
		refuser, _ := next.(authn.Refuser)
		return s.wall.limits.around(before, refuser, through(s.wall.limits.around(behind, refuser, next)))
	}
}

// counted is a limiter with whose requests count together; what key returns ""
// for is not limited.
type counted struct {
	limiter *ratelimit.Limiter
	name    string
	key     func(*http.Request) string
}

func keyOf(l sallyport.Limit) func(*http.Request) string {
	address := func(r *http.Request) string { return ratelimit.AddressKey(reqctx.AddrOf(r.Context())) }
	own := func(id func(sallyport.Principal) string) func(*http.Request) string {
		return func(r *http.Request) string {
			if p := sallyport.From(r.Context()); !p.Anonymous() {
				return "id " + id(p)
			}
			return address(r)
		}
	}
	switch {
	case l.Key != nil:
		return func(r *http.Request) string {
			if k := l.Key(r); k != "" {
				return "key " + k
			}
			return ""
		}
	case l.By == sallyport.ByRoute:
		return func(*http.Request) string { return "all" }
	case l.By == sallyport.ByAccount:
		return own(sallyport.Principal.ID)
	case l.By == sallyport.ByCredential:
		return own(func(p sallyport.Principal) string {
			switch {
			case p.SessionID() != "":
				return "session " + p.SessionID()
			case p.KeyID() != "":
				return "key " + p.KeyID()
			}
			return p.ID()
		})
	}
	return address
}

// around counts requests before next. A handler that words the refusals of its
// gate words these too.
func (l *limits) around(all []counted, refuser authn.Refuser, next http.Handler) http.Handler {
	if len(all) == 0 {
		return next
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A request whose context was not begun by Guard has its address by now, too.
		// One that a gate has entered keeps what the gate found.
		if reqctx.From(r.Context()) == nil {
			r, _ = reqctx.Begin(r)
		}
		for _, c := range all {
			key := c.key(r)
			if key == "" {
				continue
			}
			d, err := c.limiter.Take(r.Context(), key)
			switch {
			case err != nil && refuser != nil:
				refuser.Refuse(w, r, ratelimit.Unavailable())
				return
			case err != nil:
				sallyport.WriteError(w, ratelimit.Unavailable())
				return
			case d.Allowed:
				d.WriteHeader(w.Header())
				continue
			case refuser == nil:
				l.refused(r.Context(), c.name, reqctx.Route(r))
				ratelimit.Refuse(w, d)
			default:
				l.refused(r.Context(), c.name, reqctx.Route(r))
				refuser.Refuse(w, r, ratelimit.TooMany(d))
			}
			return
		}
		next.ServeHTTP(w, r)
	})
	if refuser == nil {
		return h
	}
	return refusing{h, refuser}
}

// refusing is a handler whose refusals another one words.
type refusing struct {
	http.Handler
	by authn.Refuser
}

// Refuse implements authn.Refuser.
func (h refusing) Refuse(w http.ResponseWriter, r *http.Request, e *sallyport.Error) {
	h.by.Refuse(w, r, e)
}
