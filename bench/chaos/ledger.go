package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// ledger is what clients know to be so: what was acknowledged, and what ended.
type ledger struct {
	mu       sync.Mutex
	counts   counts
	failures []string // the first of them, in words
	accounts []*account
	ended    []ending
	calm     func(*node) bool // no request may fail there
	strict   bool             // not even for want of the machine
}

type counts struct {
	faults       int // that were made
	operations   int
	acknowledged int
	refused      int // as they should be
	unknown      int // no answer, or one that does not say what became of it
	lost         int // acknowledged and not there
	resurrected  int // ended and there
	wrong        int // answers that nothing excuses
	endings      int // of which it was tried whether they hold
	slowest      time.Duration
}

func (c *counts) add(o counts) {
	c.faults += o.faults
	c.operations += o.operations
	c.acknowledged += o.acknowledged
	c.refused += o.refused
	c.unknown += o.unknown
	c.lost += o.lost
	c.resurrected += o.resurrected
	c.wrong += o.wrong
	c.endings += o.endings
	c.slowest = max(c.slowest, o.slowest)
}

// account is one that was made. Its client alone changes it, until the audit.
type account struct {
	id, name  string
	password  string
	before    []string // passwords that were replaced
	moderator bool
	since     time.Time // of the last change of that
	fixed     bool      // a change's outcome was not known: it is made once more, and no other
	sessions  []*session
	keys      []*key
}

type session struct {
	access, refresh string
}

type key struct{ id, secret string }

// ending is something that an acknowledgement ended.
type ending struct {
	what string
	call call
	at   time.Time
	by   *node // which refuses at the next request, others a lease later; nil: not known
}

// enter counts a request and judges what can be judged without knowing what it
// was for.
func (l *ledger) enter(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.operations++
	switch {
	case a.ok():
		l.counts.acknowledged++
	case a.certain():
		l.counts.refused++
	default:
		l.counts.unknown++
		later := a.status == http.StatusServiceUnavailable && a.retryAfter != ""
		switch {
		case l.calm != nil && l.calm(a.at) && (l.strict || !later):
			l.counts.wrong++
			l.say("wrong: no request may fail here, and this did: %v", a)
		case a.status >= 500 && !later:
			l.counts.wrong++
			l.say("wrong: neither 503 nor Retry-After: %v", a)
		}
	}
}

func (l *ledger) say(format string, args ...any) {
	if len(l.failures) < 20 {
		l.failures = append(l.failures, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

func (l *ledger) lose(why string, a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.lost++
	l.say("lost: %s: %v", why, a)
}

func (l *ledger) resurrect(why string, a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.resurrected++
	l.say("resurrected: %s: %v", why, a)
}

func (l *ledger) blame(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.wrong++
	l.say("wrong: "+format, args...)
}

func (l *ledger) fault() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.faults++
}

func (l *ledger) recovered(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.slowest = max(l.counts.slowest, took)
}

func (l *ledger) made(a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts = append(l.accounts, a)
}

func (l *ledger) end(e ...ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = append(l.ended, e...)
}

// setCalm says at which nodes no request may fail from now on. If that is not meant
// strictly, they may say that they are busy.
func (l *ledger) setCalm(strict bool, where func(*node) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calm, l.strict = where, strict
}

func everywhere(*node) bool { return true }

func endings(what string, a answer, s *session) []ending {
	return []ending{
		{what + ", access token", me(s.access), a.came, a.at},
		{what + ", refresh token", refresh(s.refresh), a.came, a.at},
	}
}
