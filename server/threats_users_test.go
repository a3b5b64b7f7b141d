package server_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// alteredTable is a table of users of which ByID is answered otherwise where by is
// set.
type alteredTable struct {
	*ownTable
	by atomic.Pointer[func(ctx context.Context, id string) (account.OwnUser, bool, error)]
	// updated, if set, happens once, right after a hash was replaced.
	updated atomic.Pointer[func()]
}

func (a *alteredTable) UpdateHash(ctx context.Context, id, old, hash string) (bool, error) {
	ok, err := a.ownTable.UpdateHash(ctx, id, old, hash)
	if updated := a.updated.Swap(nil); updated != nil {
		(*updated)()
	}
	return ok, err
}

func (a *alteredTable) ByID(ctx context.Context, id string) (account.OwnUser, bool, error) {
	if by := a.by.Load(); by != nil {
		return (*by)(ctx, id)
	}
	return a.ownTable.ByID(ctx, id)
}

// A table that forgets to say that it gave up, as rows.Next does without rows.Err, has
// not said that there is nobody: nobody is deleted or disabled for it.
func TestF_OwnUsersGivingUpIsNoAnswer(t *testing.T) {
	t.Parallel()
	p := &alteredTable{ownTable: table(ownUser(t, "1", "ada"), ownUser(t, "2", "bob"))}
	w := newWorld(t, testkit.SQLite(t), ownRoutes, func(c *server.Config) { c.Users = p })
	tk, bob := w.signIn("ada", goodPassword), w.signIn("bob", goodPassword)
	key := w.key(tk).key
	gone, leave := context.WithCancel(t.Context())
	forgetful := func(ctx context.Context, id string) (account.OwnUser, bool, error) {
		if id == "2" {
			leave() // who asked goes away meanwhile
		}
		<-ctx.Done()
		return account.OwnUser{}, false, nil
	}
	p.by.Store(&forgetful)
	if err := w.sv.UserChanged(t.Context(), "1"); err == nil {
		t.Error("UserChanged says that it is done")
	}
	if _, err := w.sv.SubjectOf(gone, "2"); code(err) != "unavailable" {
		t.Errorf("who left before there was an answer is told %v", err)
	}
	p.by.Store(nil)
	if !w.alive(tk.access) || !w.accepted(key) || !w.alive(bob.access) {
		t.Error("somebody was shut out by a table that gave up")
	}
	// Who is really gone, is.
	p.remove("1")
	w.changed("1")
	if w.alive(tk.access) || w.accepted(key) {
		t.Error("somebody who is gone is let in")
	}
}

// One user of whom the table cannot be asked keeps nobody else from being asked about.
func TestA_OwnUsersOneBrokenRow(t *testing.T) {
	t.Parallel()
	p := &alteredTable{ownTable: table()}
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}
	for _, name := range names {
		p.add(ownUser(t, name, name))
	}
	w := newWorld(t, testkit.SQLite(t), ownRoutes, func(c *server.Config) { c.Users = p }, overHTTPS, noLockout)
	cookies := make([]string, len(names))
	for i, name := range names {
		cookies[i] = w.cookie(name)
	}
	broken := func(ctx context.Context, id string) (account.OwnUser, bool, error) {
		if id < "d" {
			return account.OwnUser{}, false, errors.New("a column is NULL")
		}
		return p.ownTable.ByID(ctx, id)
	}
	p.by.Store(&broken)
	for _, name := range names {
		p.change(name, func(u *account.OwnUser) { u.Disabled = true })
	}
	for _, c := range cookies {
		w.lives(c) // noted, once in a minute
	}
	for i, name := range names {
		if name >= "d" {
			refusedSoon(t, name, func() bool { return w.lives(cookies[i]) })
		}
	}
}

// However many sign in at once, the table of users is asked by a bounded number of them,
// and those who are known go on.
func TestL_OwnUsersAskedAtOnce(t *testing.T) {
	t.Parallel()
	p := table(ownUser(t, "1", "ada"))
	w := newWorld(t, testkit.SQLite(t), ownRoutes, withUsers(p), noLockout)
	tk := w.signIn("ada", goodPassword)
	const bound, strangers = 32, 80
	var within, most atomic.Int64
	slow, full := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.fails(func(ctx context.Context, method string) error {
		if method != "ByLogin" {
			return nil
		}
		n := within.Add(1)
		defer within.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		if n == bound {
			once.Do(func() { close(full) })
		}
		select {
		case <-slow:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	done := make(chan int, strangers)
	go parallel(strangers, func(int) {
		done <- w.form("/token", "grant_type", "password", "username", "nobody", "password", goodPassword).status
	})
	select {
	case <-full:
	case <-time.After(30 * time.Second):
		t.Fatal("the table was not asked")
	}
	w.refresh(tk) // while strangers wait
	w.changed("1")
	close(slow)
	for range strangers {
		// Where the machine is busy, the table's five seconds may be over.
		if got := <-done; got != http.StatusUnauthorized && got != http.StatusServiceUnavailable {
			t.Errorf("a stranger who waited was answered %d", got)
		}
	}
	if n := most.Load(); n > bound {
		t.Errorf("the table was asked by %d at once", n)
	}
	w.signIn("ada", goodPassword)
}

// Who changes a password does not store it over one that the service has chosen since,
// and of which the server was told.
func TestR_OwnUsersPasswordOvertaken(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p, box := &alteredTable{ownTable: table(ownUser(t, "1", "ada"))}, &mailbox{}
		w := newWorld(t, d, ownRoutes, func(c *server.Config) { c.Users = p }, withMail(box))
		latest := goodPassword
		overtaken := func(by string) {
			latest = by
			f := func() {
				p.change("1", func(u *account.OwnUser) { u.Hash = bcryptOf(t, by) })
				w.changed("1")
			}
			p.updated.Store(&f)
		}
		tk := w.signIn("ada", goodPassword)
		id := w.subject("1")
		same := func(what string) {
			t.Helper()
			if w.hash(id) != p.hash("1") {
				t.Errorf("%s: what is here is not what the table has", what)
			}
			w.dead(what, tk)
			w.form("/token", "grant_type", "password", "username", "ada", "password", "granite-pelican-48-tangerine").want(t, 401, "invalid_grant")
			tk = w.signIn("ada", latest)
		}
		overtaken("walnut-harbour-31-quilt")
		w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "granite-pelican-48-tangerine"})
		same("changed")
		w.forgot("ada@example.com").want(t, 202, "")
		token := box.token(w, "ada@example.com", mail.Reset)
		overtaken("copper-lantern-62-meadow")
		w.reset(token, "granite-pelican-48-tangerine")
		same("reset")

		// An operator can give a password to whom the table has none that can be verified.
		p.change("1", func(u *account.OwnUser) { u.Hash = "!" })
		w.form("/token", "grant_type", "password", "username", "ada", "password", latest).want(t, 401, "invalid_grant")
		if err := w.sv.Accounts.SetPassword(t.Context(), w.subject("1"), "granite-pelican-48-tangerine"); err != nil {
			t.Error(err)
		}
		w.signIn("ada", "granite-pelican-48-tangerine")
	})
}

// foldedTable compares names as a table does whose query is lower(name) = lower($1).
type foldedTable struct{ *ownTable }

func (f foldedTable) ByLogin(ctx context.Context, login string) (account.OwnUser, bool, error) {
	return f.ownTable.ByLogin(ctx, strings.ToLower(login))
}

// Two spellings of a name are one when failures are counted, whether somebody has it or
// not, also where our own rules know no such names.
func TestL_OwnUsersSpellings(t *testing.T) {
	t.Parallel()
	p := foldedTable{table(ownUser(t, "1", "ada lovelace"), ownUser(t, "2", "bob"))}
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Users = p })
	v := w.at("203.0.113.7")
	for _, name := range []string{"ada lovelace", "nobody at all", "bob", "nobody"} {
		for i := range 5 {
			v.token([]string{name, strings.ToUpper(name)}[i%2], badPassword).want(t, 401, "invalid_grant")
		}
		locked(t, name, v.token(name, badPassword), time.Second, time.Hour)
	}
	v.token("somebody else", badPassword).want(t, 401, "invalid_grant")
}

// Who shuts somebody out here whom the table has shut out already has changed something:
// the audit log says what.
func TestU_OwnUsersBlockedTwice(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p := table(ownUser(t, "1", "root"), ownUser(t, "2", "ada"))
		w := newWorld(t, d, nil, withUsers(p))
		if err := w.sv.SetRoles(t.Context(), w.subject("1"), "admin"); err != nil {
			t.Fatal(err)
		}
		root, path := w.signIn("root", goodPassword).access, "/users/"+w.subject("2")
		p.change("2", func(u *account.OwnUser) { u.Disabled = true })
		w.changed("2")
		for _, tt := range []struct {
			disabled bool
			members  string
		}{{true, "disabled"}, {true, ""}, {false, "disabled"}} {
			w.do("PATCH", path, root, map[string]bool{"disabled": tt.disabled}).want(t, 200, "")
			all, err := audit.Latest(w.db.View(t.Context()), 1)
			if err != nil || len(all) != 1 || all[0].Action != "account.changed" || all[0].Detail["members"] != tt.members {
				t.Errorf("disabled = %v: the last event is %+v, %v", tt.disabled, all, err)
			}
		}
	})
}
