package lockout

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sallyport/sallyport/guard/clientip"
)

// The rule for one account from one network: free failures in a row cost
// nothing, each one more costs a delay that doubles from firstDelay to maxDelay.
// A success ends the row, and so does quiet.
//
// Somebody who goes on as soon as they may has 34 guesses on the first day, 5 at
// once and 7 while the delays grow, and then one an hour. A person who has
// forgotten which password it was has five tries, then waits for less time than
// it takes to look it up, and never longer than an hour.
const (
	free       = 5
	firstDelay = 30 * time.Second
	maxDelay   = time.Hour
	quiet      = 24 * time.Hour
)

// A network is familiar to an account that has signed in from there within
// familiarFor; the last maxFamiliar of them are remembered.
const (
	familiarFor = 90 * 24 * time.Hour
	maxFamiliar = 20
)

// holdFor is how long an attempt may be under way: longer than the wait for a
// permit to hash and the hash together. After a crash it is how long attempts
// count that will never end.
const holdFor = time.Minute

// skew is how far a stored time may lie ahead of the clock before the clock is
// taken to have been set back. Clocks of nodes differ by less.
const skew = time.Minute

// pair is what is known of one account from one network.
type pair struct {
	failures int
	last     time.Time   // the last failure
	until    time.Time   // locked until then
	held     []time.Time // attempts under way: when each is given up
	seen     time.Time   // the last success
}

// delay returns how long the account is locked after so many failures in a row.
func delay(failures int) time.Duration {
	if failures < free {
		return 0
	}
	doublings := min(failures-free, 16)
	return min(firstDelay<<doublings, maxDelay)
}

// at returns the pair as it is now: what is over is forgotten. mended tells that
// the clock was set back, and that times were moved to where they can have been:
// then the pair should be stored, or a lock would end by the clock as it was.
func (p pair) at(now time.Time) (_ pair, mended bool) {
	if p.last.After(now.Add(skew)) {
		p.last, p.until, mended = now, now.Add(delay(p.failures)), true
	}
	if p.failures > 0 && now.Sub(p.last) >= quiet {
		p.failures, p.until = 0, time.Time{}
	}
	if p.seen.After(now.Add(skew)) {
		p.seen = now
	}
	p.held = slices.DeleteFunc(slices.Clone(p.held), func(end time.Time) bool {
		return !now.Before(end) || end.After(now.Add(holdFor+skew))
	})
	return p, mended
}

// familiar reports whether the account has signed in from the network.
func (p pair) familiar(now time.Time) bool {
	return !p.seen.IsZero() && now.Sub(p.seen) < familiarFor
}

// wait returns how long the account is locked from there, 0 if it is not. full
// tells that it is not, but that as many attempts are under way as may fail.
func (p pair) wait(now time.Time) (locked time.Duration, full bool) {
	if now.Before(p.until) {
		return p.until.Sub(now), false
	}
	return 0, len(p.held) >= max(free-p.failures, 1)
}

// hold begins an attempt.
func (p pair) hold(now time.Time) (_ pair, end time.Time) {
	end = now.Add(holdFor)
	p.held = append(slices.Clone(p.held), end)
	return p, end
}

// release ends the attempt that would have been given up at end.
func (p pair) release(end time.Time) pair {
	if i := slices.IndexFunc(p.held, end.Equal); i >= 0 {
		p.held = slices.Delete(slices.Clone(p.held), i, i+1)
	}
	return p
}

// fail ends an attempt that failed. locked is how long the lock lasts that
// begins with it, 0 if none does.
func (p pair) fail(now, end time.Time) (_ pair, locked time.Duration) {
	p = p.release(end)
	p.failures++
	p.last = now
	if locked = delay(p.failures); locked > 0 {
		p.until = now.Add(locked)
	}
	return p, locked
}

// succeed ends an attempt that succeeded.
func (p pair) succeed(now, end time.Time) pair {
	p = p.release(end)
	p.failures, p.last, p.until = 0, time.Time{}, time.Time{}
	p.seen = now
	return p
}

// over returns when nothing of the pair matters any more.
func (p pair) over() time.Time {
	end := p.until
	later := func(t time.Time) {
		if t.After(end) {
			end = t
		}
	}
	if !p.last.IsZero() {
		later(p.last.Add(quiet))
	}
	if !p.seen.IsZero() {
		later(p.seen.Add(familiarFor))
	}
	for _, t := range p.held {
		later(t)
	}
	return end
}

// A budget is how many failures there may be at once, and how long until one of
// them is forgotten. In any time t there are at most size + t/every.
type budget struct {
	size  int
	every time.Duration
}

// The budgets. They count failures from networks that are not familiar to the
// account, and bind those only.
//
//   - An account, over all networks: at most 100 in any 24 hours, the number at
//     which NIST SP 800-63B, section 5.2.2 draws the line, for 24 hours rather
//     than until a success.
//   - An address, over all names: many people may sit behind one.
//   - The wider network. Who has an IPv6 site has 65,536 networks in it, and who
//     rents addresses gets neighbouring ones.
var (
	ofAccount = budget{50, 24 * time.Hour / 50}
	ofAddress = budget{100, 3 * time.Minute}
	ofWider   = budget{400, 45 * time.Second}
)

// tally is what is known of one budget: when it is whole again.
type tally struct {
	until time.Time
	noted time.Time // when it was last noted that it is used up
}

// at returns the tally as it is now; mended as for a pair.
func (t tally) at(now time.Time, b budget) (_ tally, mended bool) {
	full := now.Add(time.Duration(b.size) * b.every)
	if t.until.After(full.Add(skew)) {
		t.until, mended = full, true
	}
	if t.noted.After(now) {
		t.noted = now
	}
	return t, mended
}

// wait returns how long until an attempt may be made, 0 if it may be now.
func (t tally) wait(now time.Time, b budget) time.Duration {
	if !t.until.After(now) {
		return 0 // also where there never was one: its distance from now is no duration
	}
	return max(0, t.until.Sub(now)-time.Duration(b.size-1)*b.every)
}

// take counts an attempt, as if it had failed.
func (t tally) take(now time.Time, b budget) tally {
	if t.until.Before(now) {
		t.until = now
	}
	t.until = t.until.Add(b.every)
	return t
}

// giveBack takes an attempt out of the count, unless it has been forgotten.
func (t tally) giveBack(now time.Time, b budget) tally {
	if t.until.After(now) {
		t.until = t.until.Add(-b.every)
	}
	return t
}

// noteEvery is how often it is noted that one budget is used up: it is again and
// again while somebody goes on.
const noteEvery = time.Hour

// used notes that the budget is used up, if that is news.
func (t tally) used(now time.Time, b budget) (_ tally, news bool) {
	if t.wait(now, b) == 0 || !t.noted.IsZero() && now.Sub(t.noted) < noteEvery {
		return t, false
	}
	t.noted = now
	return t, true
}

// translated is where a translator shows IPv4 to hosts that have IPv6 alone.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// networks are the two that an address belongs to, as they are stored.
type networks struct{ address, wider string }

// networksOf returns an address's networks. IPv4 addresses count singly and by
// /24, IPv6 ones by /64, which is the least that anybody is given, and by /48. An
// IPv4 address that is written as an IPv6 one is the IPv4 address, also as a
// translator writes it (RFC 6052): all of IPv4 is in one /64 there, and everybody
// in it would be familiar to everybody. Whatever has no address, such as what
// comes over a Unix socket, is one network.
func networksOf(a netip.Addr) networks {
	if !a.IsValid() {
		return networks{"none", "none/0"}
	}
	a = a.WithZone("")
	if translated.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return networks{clientip.Network(a).String(), clientip.Wider(a).String()}
}
