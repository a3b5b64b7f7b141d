// Package ratelimit decides how often something may happen: how many requests of
// an address, an account or everybody may pass in how long. It is for any
// net/http program.
//
// A Limiter is ordinary middleware; Check and Take give its decision to programs
// with routing of their own. The algorithm (Decide) is GCRA in exact integers:
// after a rest exactly Burst pass at once, and then one each Per/Count, with no
// window at whose edge twice as many would.
//
// What it remembers stands in a Store: for each key one instant, and not the key
// itself. Memory is for one process. Package store/redis is for several, and
// Fallback puts a Memory behind it, so that limits go on where Redis does not.
//
// The package never wraps a ResponseWriter, reads no address from a header by
// itself, starts no goroutine, and never lets a request pass because it cannot
// tell: what is not limited is only what was said not to be.
//
// Begin with New.
package ratelimit

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// Config configures a Limiter. Rates and Key are required.
type Config struct {
	// Name tells limits apart, in a Store that several share and in the headers: 1
	// to 32 of a–z, 0–9, “-” and “_”. It is required beside Store, and “default”
	// otherwise. Two Limiters of one name on one Store share their counters where
	// their rates are the same.
	Name string

	// Rates hold together: a request passes if all of them allow it, and is charged
	// to all or none. 1 to MaxRates, each with another Per. ParseAll reads them from
	// text.
	Rates []Rate

	// Store remembers. Default: a Memory of its own.
	Store Store

	// Key says whose requests are counted together: ByAddress, Global, or any
	// function of the request. Where it returns false the request is not limited.
	//
	// A key is compared byte by byte. If it comes from the caller, it must be
	// something that the caller cannot choose freely (an address, an account that
	// was verified), and in one spelling: lower case, no trailing dot. Otherwise
	// whoever varies it is not limited.
	Key func(*http.Request) (key string, limited bool)
}

// ConfigError is one mistake in a configuration.
type ConfigError = sallyport.ConfigError

// Limiter limits the requests of each key. It does not change once it is made,
// and may be used concurrently. A nil *Limiter limits nothing.
type Limiter struct {
	rates    []Rate
	store    Store
	memory   *Memory // store, if it is one
	key      func(*http.Request) (string, bool)
	prefix   string   // of keys in the store
	policies []string // names, as in the headers, one for each rate
	header   string   // RateLimit-Policy
}

// New checks a configuration. The error joins a *ConfigError for each mistake.
func New(cfg Config) (*Limiter, error) {
	var errs []error
	bad := func(key, value, reason, fix string) {
		errs = append(errs, sallyport.Mistake(key, value, reason, fix))
	}
	switch {
	case cfg.Name == "" && cfg.Store != nil:
		bad("Name", "", "a store that others may use as well needs to know whose counters these are", "Give each limit a name of its own.")
	case cfg.Name == "":
		cfg.Name = "default"
	case !isName(cfg.Name, 32):
		bad("Name", shorten(cfg.Name), "it is not 1 to 32 of a–z, 0–9, “-” and “_”", "Write it as per-address, for example.")
	}
	if err := checkRates(cfg.Rates); err != nil {
		var words []string
		for _, r := range cfg.Rates {
			words = append(words, r.String())
		}
		reason, fix := err.Error(), fixForm
		if e, ok := errors.AsType[*RateError](err); ok {
			reason, fix = e.Reason, e.Fix
			if len(cfg.Rates) > 1 {
				reason = e.Value + ": " + reason
			}
		}
		bad("Rates", shorten(strings.Join(words, ", ")), reason, fix)
	}
	if cfg.Key == nil {
		bad("Key", "", "nothing says whose requests are counted together", "Give ByAddress(…), Global(), or a function.")
	}
	if cfg.Store == nil {
		m, err := NewMemory(MemoryConfig{})
		if err != nil {
			errs = append(errs, err)
		}
		cfg.Store = m
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l := &Limiter{rates: append([]Rate(nil), cfg.Rates...), store: cfg.Store, key: cfg.Key, prefix: cfg.Name + ":"}
	l.memory, _ = cfg.Store.(*Memory)
	var items []string
	for _, r := range l.rates {
		name := cfg.Name
		if len(l.rates) > 1 {
			name += "-" + period(r.Per)
		}
		l.policies = append(l.policies, name)
		items = append(items, policyItem(name, r))
	}
	l.header = strings.Join(items, ", ")
	return l, nil
}

func isName(s string, longest int) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= longest
}

// Name returns the limit's name; "" for a nil Limiter.
func (l *Limiter) Name() string {
	if l == nil {
		return ""
	}
	return strings.TrimSuffix(l.prefix, ":")
}

// Check takes one for a request, under the key that Config.Key says. A request
// without one is allowed, and so is every request by a nil Limiter: then nothing
// is to be said in headers, and Decision.WriteHeader says nothing.
//
// The error is the store's: it could not tell. Such a request must not pass;
// Unavailable is the answer to it.
func (l *Limiter) Check(r *http.Request) (Decision, error) {
	if l == nil {
		return Decision{Allowed: true}, nil
	}
	key, limited := l.key(r)
	if !limited {
		return Decision{Allowed: true}, nil
	}
	return l.Take(r.Context(), key)
}

// Take takes one under a key, if all rates allow it.
func (l *Limiter) Take(ctx context.Context, key string) (Decision, error) {
	return l.take(ctx, key, 1)
}

// Peek tells whether Take would be allowed, and takes nothing.
func (l *Limiter) Peek(ctx context.Context, key string) (Decision, error) {
	return l.take(ctx, key, 0)
}

// TakeAddress is Take under AddressKey(a). With a Memory it allocates nothing.
func (l *Limiter) TakeAddress(ctx context.Context, a netip.Addr) (Decision, error) {
	if l == nil {
		return Decision{Allowed: true}, nil
	}
	var space [keySpace]byte
	return l.charge(ctx, appendAddressKey(append(space[:0], l.prefix...), a), 1)
}

func (l *Limiter) take(ctx context.Context, key string, n int) (Decision, error) {
	if l == nil {
		return Decision{Allowed: true}, nil
	}
	var space [keySpace]byte
	return l.charge(ctx, append(append(space[:0], l.prefix...), key...), n)
}

// keySpace is for a prefix of 33 bytes and the usual keys: addresses, ids. Longer
// ones are put on the heap.
const keySpace = 96

// charge asks the store. A Memory keeps no key, so that none is made for it; and
// what CheckTake checks, New has: there are rates, and each lets one pass.
func (l *Limiter) charge(ctx context.Context, key []byte, n int) (d Decision, err error) {
	if m := l.memory; m != nil {
		d = m.take(m.hashBytes(key), n, l.rates)
	} else if d, err = l.store.Take(ctx, string(key), n, l.rates...); err != nil {
		return Decision{}, err
	}
	d.limiter = l
	return d, nil
}

// Handler limits the requests to next. One too many is answered with 429
// "rate_limited" and Retry-After; where the store cannot tell, with 503
// "unavailable". Both as problem details (RFC 9457). RateLimit and
// RateLimit-Policy are in every answer to a limited request but that 503.
//
// Limiters may stand around each other. A request that an inner one refuses has
// been charged to the outer one.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	if l == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, err := l.Check(r)
		switch {
		case err != nil:
			sallyport.WriteError(w, Unavailable())
		case !d.Allowed:
			Refuse(w, d)
		default:
			d.WriteHeader(w.Header())
			next.ServeHTTP(w, r)
		}
	})
}

// Refuse answers a request that was not allowed: the headers of d, and
// TooMany(d). If another Limiter has written into the headers that nothing
// remains there for longer, Retry-After is that.
func Refuse(w http.ResponseWriter, d Decision) {
	e := TooMany(d)
	e.Quota = "" // written below, with what other Limiters have written
	d.WriteHeader(w.Header())
	if s, ok := parseService(w.Header()[headerRateLimit]); ok && s.remaining == 0 {
		e.RetryAfter = max(e.RetryAfter, time.Duration(s.reset)*time.Second)
	}
	sallyport.WriteError(w, e)
}

// TooMany returns the 429 for a decision that was not allowed, for programs that
// answer by themselves: with Retry-After, rounded up to whole seconds, and what
// WriteHeader would have written.
func TooMany(d Decision) *sallyport.Error {
	e := &sallyport.Error{
		Status: http.StatusTooManyRequests, Code: "rate_limited",
		Message:    "There were too many requests of this kind in too short a time. Wait for as many seconds as Retry-After says, then send it again.",
		RetryAfter: max(d.RetryAfter, time.Second),
	}
	if d.limiter != nil {
		e.Quota = d.limiter.header
	}
	return e
}

// Unavailable returns the 503 for a request whose limit could not be checked.
func Unavailable() *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusServiceUnavailable, Code: "unavailable",
		Message:    "Whether this request is within its limit cannot be checked at the moment. Try again in a moment.",
		RetryAfter: time.Second,
	}
}

// Global is the key that all requests share.
func Global() func(*http.Request) (string, bool) {
	return func(*http.Request) (string, bool) { return "all", true }
}

// ByAddress makes a key of the caller's address as client gives it, for example
// guard/clientip, or RemoteAddr where no proxy stands in front.
//
// An IPv4 address is a key by itself, however it is written: as IPv4-mapped IPv6
// (RFC 4291, section 2.5.5.2) or translated (64:ff9b::/96, RFC 6052), too. Of an
// IPv6 address the first 64 bits count, which is the least that one customer is
// given: who has one address there has 2^64. Where client returns no valid
// address, all such requests share one key: a request whose address is not known
// is no reason to let it pass.
func ByAddress(client func(*http.Request) netip.Addr) func(*http.Request) (string, bool) {
	return func(r *http.Request) (string, bool) { return AddressKey(client(r)), true }
}

// translated is the well-known prefix under which a translator shows IPv4.
var translated = [12]byte{0x00, 0x64, 0xff, 0x9b}

// AddressKey is the key that ByAddress makes of an address.
func AddressKey(a netip.Addr) string {
	var space [keySpace]byte
	return string(appendAddressKey(space[:0], a))
}

// appendAddressKey writes c0000201 for 192.0.2.1 and 20010db885a308d3 for what is
// in 2001:db8:85a3:8d3::/64: the usual forms take longer to write than the limit
// to check.
func appendAddressKey(key []byte, a netip.Addr) []byte {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		return hex.AppendEncode(key, b[:])
	case a.Is6():
		b := a.As16() // without a zone
		if [12]byte(b[:12]) == translated {
			return hex.AppendEncode(key, b[12:])
		}
		return hex.AppendEncode(key, b[:8])
	}
	return append(key, "unknown"...)
}
