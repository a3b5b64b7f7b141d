package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How a client goes on.
const (
	again     = 25 * time.Millisecond // before it sends one again of which it does not know
	life      = 90                    // steps with one account
	grace     = 8 * time.Second       // in which a refresh may be sent again: two less than the server's
	untilLost = 60 * time.Second      // after which it gives up
)

// load is clients at work.
type load struct {
	s      *service
	l      *ledger
	stop   context.CancelFunc
	wait   sync.WaitGroup
	client []*client
}

var names atomic.Int64

// start sets clients to work, and beside them, for each node, one that tries
// what has ended.
func (s *service) start(l *ledger, clients int, pause time.Duration) *load {
	ctx, cancel := context.WithCancel(context.Background())
	w := &load{s: s, l: l, stop: cancel}
	for range clients {
		a := &actor{s: s, l: l, c: newClient(patience), ctx: ctx, pause: pause}
		w.client = append(w.client, a.c)
		w.wait.Go(a.run)
	}
	for _, n := range s.doors {
		c := newClient(patience)
		w.client = append(w.client, c)
		w.wait.Go(func() { s.watch(ctx, l, c, n, pause) })
	}
	return w
}

// end waits until all know what became of their last request.
func (w *load) end() {
	w.stop()
	w.wait.Wait()
	for _, c := range w.client {
		c.close()
	}
}

// actor is one client. It follows one account at a time.
type actor struct {
	s    *service
	l    *ledger
	c    *client
	ctx  context.Context
	acct *account

	pause time.Duration
}

func (a *actor) run() {
	for a.ctx.Err() == nil {
		if !a.begin() {
			return
		}
		for step := 0; step < life && a.ctx.Err() == nil; step++ {
			a.step()
			sleep(a.ctx, a.pause)
		}
	}
}

// sleep waits, less if there is no use in it any more.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ask sends a request to some node until it is known what became of it. before is
// how many times it was sent and that was not known, and since when.
func (a *actor) ask(r call) (last answer, before int, since time.Time) {
	since = time.Now()
	for {
		last = a.c.do(a.s.doors[rand.IntN(len(a.s.doors))], r)
		a.l.enter(last)
		switch {
		case time.Since(since) > untilLost:
			return last, before, since
		case last.code() == "authority_changed" && a.acct != nil && last.sent.Before(a.acct.since.Add(a.s.lease)):
			// A role was taken at another node, of which this one had not heard.
			// Nothing was done.
		case last.certain():
			return last, before, since
		default:
			before++
		}
		time.Sleep(again)
	}
}

// begin makes an account and signs in.
func (a *actor) begin() bool {
	name := fmt.Sprintf("u%d", names.Add(1))
	acct := &account{name: name, password: password + " " + name}
	last, before, _ := a.ask(register(name, acct.password))
	switch {
	case last.ok():
		acct.id = last.text("id")
	case last.status == http.StatusConflict && before > 0: // it had been made
	case !last.certain():
		a.l.blame("nothing was answered for %v: %v", untilLost, last)
		return false
	default:
		a.l.blame("registering: %v", last)
		sleep(a.ctx, time.Second)
		return true
	}
	a.acct = acct
	a.l.made(acct)
	s := a.signIn()
	if s != nil && acct.id == "" {
		if last, _, _ := a.ask(me(s.access)); last.ok() {
			acct.id = last.text("id")
		}
	}
	return true
}

func (a *actor) signIn() *session {
	last, _, _ := a.ask(signIn(a.acct.name, a.acct.password))
	if !last.ok() {
		a.l.lose("the password of "+a.acct.name, last)
		return nil
	}
	s := &session{last.text("access_token"), last.text("refresh_token")}
	a.acct.sessions = append(a.acct.sessions, s)
	return s
}

// some returns one of the account's sessions.
func (a *actor) some() *session {
	if len(a.acct.sessions) == 0 {
		return a.signIn()
	}
	return a.acct.sessions[rand.IntN(len(a.acct.sessions))]
}

// forget removes a session from those that must work.
func (a *actor) forget(s *session) {
	a.acct.sessions = slices.DeleteFunc(a.acct.sessions, func(o *session) bool { return o == s })
}

// step does one thing of those that people and programs do.
func (a *actor) step() {
	s := a.some()
	if s == nil {
		return
	}
	switch n := rand.IntN(100); {
	case n < 40:
		if last, _, _ := a.ask(me(s.access)); !last.ok() {
			a.l.lose("a session of "+a.acct.name, last)
			a.forget(s)
		}
	case n < 55:
		a.refresh(s)
	case n < 63:
		a.role(s)
	case n < 68:
		a.grant()
	case n < 78:
		a.makeKey(s)
	case n < 86:
		if len(a.acct.keys) > 0 {
			k := a.acct.keys[rand.IntN(len(a.acct.keys))]
			if last, _, _ := a.ask(meByKey(k.secret)); !last.ok() {
				a.l.lose("an API key of "+a.acct.name, last)
			}
		}
	case n < 91:
		a.deleteKey(s)
	case n < 95:
		a.logout(s)
	case n < 98:
		if len(a.acct.sessions) < 4 {
			a.signIn()
		}
	default:
		a.changePassword(s)
	}
}

func (a *actor) refresh(s *session) {
	last, before, since := a.ask(refresh(s.refresh))
	switch {
	case last.ok():
		s.access, s.refresh = last.text("access_token"), last.text("refresh_token")
	case before > 0 && last.sent.Sub(since) > grace:
		// It may have been done, and the answer lost, more than ten seconds ago:
		// then this was a token that was used before, and the session is over.
		a.forget(s)
	default:
		a.l.lose("a refresh token of "+a.acct.name, last)
		a.forget(s)
	}
}

// role asks for what only a moderator may see.
func (a *actor) role(s *session) {
	acct := a.acct
	last, _, _ := a.ask(listUsers(s.access))
	settled := last.sent.After(acct.since.Add(a.s.lease))
	switch {
	case acct.moderator && !last.ok() && settled:
		a.l.lose("a role of "+acct.name, last)
	case !acct.moderator && last.ok() && settled:
		a.l.resurrect("a role that "+acct.name+" has not", last)
	case !last.ok() && last.status != http.StatusForbidden:
		a.l.lose("a session of "+acct.name, last)
		a.forget(s)
	}
}

// grant gives a role, or takes it. If it was not known for a while what became of
// that, the account stays as it was to be: whatever comes late says the same.
func (a *actor) grant() {
	acct := a.acct
	if acct.fixed || acct.id == "" {
		return
	}
	roles := []string{"user", "moderator"}
	if acct.moderator {
		roles = roles[:1]
	}
	last, before, _ := a.ask(setRoles(a.s.admin, acct.id, roles...))
	if !last.ok() {
		a.l.lose("the administrator's session, or "+acct.name, last)
		return
	}
	acct.moderator, acct.since, acct.fixed = !acct.moderator, last.came, before > 0
}

func (a *actor) makeKey(s *session) {
	if len(a.acct.keys) >= 4 {
		return
	}
	last, _, _ := a.ask(makeKey(s.access))
	if !last.ok() {
		a.l.lose("a session of "+a.acct.name, last)
		return
	}
	a.acct.keys = append(a.acct.keys, &key{last.text("id"), last.text("key")})
}

func (a *actor) deleteKey(s *session) {
	acct := a.acct
	if len(acct.keys) == 0 {
		return
	}
	k := acct.keys[0]
	last, before, _ := a.ask(deleteKey(s.access, k.id))
	if !last.ok() && (last.status != http.StatusNotFound || before == 0) {
		a.l.lose("an API key of "+acct.name+", or a session", last)
		return
	}
	acct.keys = acct.keys[1:]
	a.l.end(ending{"an API key of " + acct.name, meByKey(k.secret), last.came, last.at})
}

func (a *actor) logout(s *session) {
	last, before, _ := a.ask(logout(s.access))
	a.forget(s)
	switch {
	case last.ok(), last.status == http.StatusUnauthorized && before > 0:
		a.l.end(endings("a session of "+a.acct.name, last, s)...)
	default:
		a.l.lose("a session of "+a.acct.name, last)
	}
}

func (a *actor) changePassword(s *session) {
	acct := a.acct
	next := fmt.Sprintf("%s %s %d", password, acct.name, len(acct.before)+1)
	for {
		last, before, _ := a.ask(changePassword(s.access, acct.password, next))
		switch {
		case last.ok():
		case before > 0 && last.code() == "wrong_password": // it had been changed
		case before > 0 && last.code() == "changed_meanwhile":
			continue
		default:
			a.l.lose("a session or the password of "+acct.name, last)
			a.forget(s)
			return
		}
		acct.before = append(acct.before, acct.password)
		a.l.end(ending{"a password of " + acct.name, signIn(acct.name, acct.password), last.came, last.at})
		acct.password = next
		for _, other := range acct.sessions {
			if other != s {
				a.l.end(endings("another session of "+acct.name, last, other)...)
			}
		}
		acct.sessions = []*session{s}
		return
	}
}

// watch tries at one node what has ended, over and over: the latest and any.
func (s *service) watch(ctx context.Context, l *ledger, c *client, n *node, pause time.Duration) {
	for ; ctx.Err() == nil; sleep(ctx, pause) {
		l.mu.Lock()
		var e ending
		if k := len(l.ended); k > 0 {
			from := 0
			if rand.IntN(2) == 0 {
				from = max(0, k-8)
			}
			e = l.ended[from+rand.IntN(k-from)]
		}
		l.mu.Unlock()
		// A password costs both sides more than all the rest.
		if e.what == "" || e.call.form.Get("grant_type") == "password" && rand.IntN(20) > 0 {
			continue
		}
		a := c.do(n, e.call)
		l.enter(a)
		s.judge(l, e, a)
	}
}

// judge holds an answer to what has ended against what is promised.
func (s *service) judge(l *ledger, e ending, a answer) {
	from := e.at
	if e.by != a.at || s.front { // behind a balancer nobody knows which it was
		from = from.Add(s.lease)
	}
	switch {
	case a.ok() && a.sent.After(from):
		l.resurrect(fmt.Sprintf("%s, which ended %v before", e.what, a.sent.Sub(e.at).Round(time.Millisecond)), a)
	case a.ok(), !a.certain():
	case a.status != http.StatusUnauthorized && a.status != http.StatusBadRequest:
		l.blame("%s, which ended: %v", e.what, a)
	}
	if a.certain() && !a.ok() {
		l.mu.Lock()
		l.counts.endings++
		l.mu.Unlock()
	}
}
