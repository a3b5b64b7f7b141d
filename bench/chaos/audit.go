package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// audit compares the whole ledger with the service, at every node. Nobody else is
// at work, and no fault is on.
func (s *service) audit(l *ledger, strict bool) {
	l.setCalm(strict, everywhere)
	work := make(chan func(*client))
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			c := newClient(patience)
			defer c.close()
			for f := range work {
				f(c)
			}
		})
	}
	// What was done last is heard of by the others within the lease.
	time.Sleep(s.lease)
	// ask asks until there is an answer: without one, nothing is said.
	ask := func(c *client, n *node, r call, judge func(answer)) {
		var a answer
		for range 40 {
			a = c.do(n, r)
			l.enter(a)
			if a.certain() {
				judge(a)
				return
			}
			time.Sleep(2 * again)
		}
		l.blame("no fault is on, and nothing is answered: %v", a)
	}
	for _, e := range l.ended {
		work <- func(c *client) {
			nodes := s.nodes
			if e.call.form.Get("grant_type") == "password" {
				nodes = []*node{s.some()}
			}
			for _, n := range nodes {
				ask(c, n, e.call, func(a answer) { s.judge(l, e, a) })
			}
		}
	}
	for _, acct := range l.accounts {
		work <- func(c *client) {
			there := func(n *node, r call, what string) {
				ask(c, n, r, func(a answer) {
					if !a.ok() {
						l.lose(what+" of "+acct.name, a)
					}
				})
			}
			for _, n := range s.nodes {
				for _, ss := range acct.sessions {
					there(n, me(ss.access), "a session")
					ask(c, n, listUsers(ss.access), func(a answer) {
						switch {
						case acct.moderator && !a.ok():
							l.lose("a role of "+acct.name, a)
						case !acct.moderator && a.status != http.StatusForbidden:
							l.resurrect("a role that "+acct.name+" has not", a)
						}
					})
				}
				for _, k := range acct.keys {
					there(n, meByKey(k.secret), "an API key")
				}
			}
			there(s.some(), signIn(acct.name, acct.password), "the password")
			if len(acct.sessions) == 0 {
				return
			}
			ss := acct.sessions[rand.IntN(len(acct.sessions))]
			ask(c, s.some(), refresh(ss.refresh), func(first answer) {
				if !first.ok() {
					l.lose("a refresh token of "+acct.name, first)
					return
				}
				began := time.Now()
				ask(c, s.some(), refresh(ss.refresh), func(again answer) {
					if again.text("refresh_token") != first.text("refresh_token") && again.came.Sub(began) < grace {
						l.lose("the successor of a refresh token of "+acct.name, again)
					}
				})
			})
		}
	}
	close(work)
	workers.Wait()
}

// recover does everything once at a node, each thing until it is done, and notes
// how long that took since the fault was over.
func (r *run) recover(n *node, since time.Time) {
	s, l := r.s, r.l
	c := newClient(2 * time.Second)
	defer c.close()
	ctx, cancel := context.WithDeadline(context.Background(), since.Add(2*r.goal+20*time.Second))
	defer cancel()
	until := func(r call, good func(answer) bool) (a answer) {
		for ctx.Err() == nil {
			if a = c.do(n, r); good(a) {
				return a
			}
			sleep(ctx, again/2)
		}
		return a
	}
	is := func(status int) func(answer) bool { return func(a answer) bool { return a.status == status } }
	name := "r" + time.Now().Format("150405.000000000")
	old, next := password+" old", password+" next"
	// A first answer may have been lost, so that the name is taken.
	until(register(name, old), func(a answer) bool { return a.ok() || a.status == http.StatusConflict })
	first := until(signIn(name, old), answer.ok)
	id := until(me(first.text("access_token")), answer.ok).text("id")
	ss := until(refresh(first.text("refresh_token")), answer.ok)
	access := ss.text("access_token")
	k := until(makeKey(access), answer.ok)
	until(meByKey(k.text("key")), answer.ok)
	until(setRoles(s.admin, id, "user", "moderator"), answer.ok)
	until(listUsers(access), answer.ok)
	until(deleteKey(access, k.text("id")), func(a answer) bool { return a.ok() || a.status == http.StatusNotFound })
	until(changePassword(access, old, next), func(a answer) bool { return a.ok() || a.code() == "wrong_password" })
	until(signIn(name, next), answer.ok)
	until(logout(access), func(a answer) bool { return a.ok() || a.status == http.StatusUnauthorized })
	last := until(me(access), is(http.StatusUnauthorized))
	took := time.Since(since)
	l.recovered(took)
	if took > r.goal {
		l.blame("%v until everything worked again at %s, more than %v; the last answer: %v", took.Round(time.Millisecond), n.name, r.goal, last)
	}
}

// recoverAll does the same at all nodes at once.
func (r *run) recoverAll(since time.Time) {
	var wg sync.WaitGroup
	for _, n := range r.s.nodes {
		wg.Go(func() { r.recover(n, since) })
	}
	wg.Wait()
}
