package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The fields of draft-ietf-httpapi-ratelimit-headers-10, which are lists of
// structured fields (RFC 9651):
//
//	RateLimit-Policy: "api";q=100;w=60
//	RateLimit: "api";r=50;t=1
//
// The draft says (sections 3.1 and 4.1): q is the quota that a policy allocates,
// w a time window in whole seconds, r the quota that remains, and t the seconds
// until additional quota is made available. pk, the partition key, is optional
// and never sent: it would tell the caller how keys are made.
//
// GCRA has no window that begins and ends. So:
//
//   - q is Burst, the most that can remain, and w the time in which so many
//     refill: Burst × Per/Count, rounded up to seconds. Without a burst of its own
//     that is Count and Per. A client that sends q in every w keeps to the rate.
//   - r is what would pass at once, now.
//   - t is when r grows by one, rounded up: exactly what the draft asks for, and
//     when r is 0 the same as Retry-After. (When all is refilled cannot be said in
//     t, and a client that waits for that would wait w.) Left out if nothing is in
//     use.
//
// Where several rates or Limiters hold, RateLimit-Policy lists all of them,
// since it should not change from one response to the next, and RateLimit names
// the tightest one: the least r, and of those the longest t.

const (
	headerRateLimit = "Ratelimit" // canonical, as http.Header has it
	headerPolicy    = "Ratelimit-Policy"
)

// WriteHeader adds to h what RateLimit and RateLimit-Policy say of d. If another
// Limiter has written them before, its policies stay, and the tighter one is in
// RateLimit. It writes nothing for a decision that no Limiter made.
func (d Decision) WriteHeader(h http.Header) {
	if d.limiter == nil {
		return
	}
	if before := h[headerPolicy]; len(before) > 0 {
		h[headerPolicy] = []string{strings.Join(before, ", ") + ", " + d.limiter.header}
	} else {
		h[headerPolicy] = []string{d.limiter.header}
	}
	own := service{remaining: int64(d.Remaining), reset: seconds(d.Reset)}
	if s, ok := parseService(h[headerRateLimit]); ok && s.tighter(own) {
		return
	}
	for i, r := range d.limiter.rates {
		if r == d.Rate {
			own.policy = d.limiter.policies[i]
		}
	}
	h[headerRateLimit] = []string{own.String()}
}

// policyItem is one item of RateLimit-Policy.
func policyItem(name string, r Rate) string {
	b := append(make([]byte, 0, 64), '"')
	b = append(append(b, name...), `";q=`...)
	b = append(strconv.AppendInt(b, int64(r.burst()), 10), ";w="...)
	return string(strconv.AppendInt(b, seconds(r.wait(r.full())), 10))
}

// service is one item of RateLimit. A reset of 0 is left out.
type service struct {
	policy           string
	remaining, reset int64
}

func (s service) String() string {
	b := append(make([]byte, 0, 64), '"')
	b = append(append(b, s.policy...), `";r=`...)
	b = strconv.AppendInt(b, s.remaining, 10)
	if s.reset > 0 {
		b = strconv.AppendInt(append(b, ";t="...), s.reset, 10)
	}
	return string(b)
}

func (s service) tighter(than service) bool {
	return s.remaining < than.remaining || s.remaining == than.remaining && s.reset > than.reset
}

// parseService reads what String wrote. Anything else, which is another
// program's, is not ours to compare with.
func parseService(lines []string) (s service, ok bool) {
	if len(lines) != 1 {
		return s, false
	}
	rest, ok := strings.CutPrefix(lines[0], `"`)
	if !ok {
		return s, false
	}
	s.policy, rest, ok = strings.Cut(rest, `";r=`)
	if !ok || !isName(s.policy, 64) {
		return s, false
	}
	r, t, timed := strings.Cut(rest, ";t=")
	if s.remaining, ok = decimal(r); ok && timed {
		s.reset, ok = decimal(t)
		ok = ok && s.reset > 0
	}
	return s, ok
}

// decimal reads what strconv.FormatInt writes of numbers that are not negative,
// up to ten digits.
func decimal(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && len(s) <= 10 && strconv.FormatInt(n, 10) == s
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
