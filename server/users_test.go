package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// ownTable is a service's own table of users. It is asked over no network; a table in a
// real file is in examples/own-users.
type ownTable struct {
	mu  sync.Mutex
	all map[string]account.OwnUser
	// asked is how often ByID was asked for an id.
	asked map[string]int
	// fault, if set, is what a call does in place of answering.
	fault func(ctx context.Context, method string) error
}

func table(users ...account.OwnUser) *ownTable {
	p := &ownTable{all: map[string]account.OwnUser{}, asked: map[string]int{}}
	for _, u := range users {
		p.all[u.ID] = u
	}
	return p
}

func (p *ownTable) enter(ctx context.Context, method string) error {
	p.mu.Lock()
	fault := p.fault
	p.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(ctx, method)
}

func (p *ownTable) fails(fault func(ctx context.Context, method string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

func (p *ownTable) ByLogin(ctx context.Context, login string) (account.OwnUser, bool, error) {
	if err := p.enter(ctx, "ByLogin"); err != nil {
		return account.OwnUser{}, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []account.OwnUser
	for _, u := range p.all {
		if login != "" && (u.Username == login || strings.EqualFold(u.Email, login)) {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return account.OwnUser{}, false, nil
	}
	return found[0], true, nil
}

func (p *ownTable) ByID(ctx context.Context, id string) (account.OwnUser, bool, error) {
	p.mu.Lock()
	u, found := p.all[id]
	p.asked[id]++
	p.mu.Unlock()
	// What happens now, happens after the table was read.
	if err := p.enter(ctx, "ByID"); err != nil {
		return account.OwnUser{}, false, err
	}
	return u, found, nil
}

func (p *ownTable) UpdateHash(ctx context.Context, id, old, hash string) (bool, error) {
	if err := p.enter(ctx, "UpdateHash"); err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u, found := p.all[id]
	ok := found && u.Hash == old
	if ok {
		u.Hash = hash
		p.all[id] = u
	}
	return ok, nil
}

// change changes a user in the table and tells nobody.
func (p *ownTable) change(id string, f func(u *account.OwnUser)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.all[id]
	f(&u)
	p.all[id] = u
}

func (p *ownTable) add(u account.OwnUser) { p.change(u.ID, func(v *account.OwnUser) { *v = u }) }

func (p *ownTable) remove(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, id)
}

// count is how often it was asked for an id.
func (p *ownTable) count(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[id]
}

// followed does something, and waits until the server has asked about a user behind it.
func (p *ownTable) followed(t *testing.T, id string, use func()) {
	t.Helper()
	before := p.count(id)
	use()
	for end := time.Now().Add(10 * time.Second); p.count(id) == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nobody has asked about %s", id)
		}
	}
}

func (p *ownTable) hash(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[id].Hash
}

// ownUser is NAME with NAME@example.com and goodPassword, hashed cheaply, so that it is
// to be upgraded.
func ownUser(t *testing.T, id, name string) account.OwnUser {
	return account.OwnUser{ID: id, Username: name, Email: name + "@example.com", EmailVerified: true, Hash: bcryptOf(t, goodPassword)}
}

func withUsers(p *ownTable) func(*server.Config) {
	return func(c *server.Config) { c.Users = p }
}

// changed tells a server of a change.
func (w *world) changed(ownID string) {
	w.t.Helper()
	gone, leave := context.WithCancel(w.t.Context())
	leave() // whoever asked the service for the change does not wait for the answer
	if err := w.sv.UserChanged(gone, ownID); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) subject(ownID string) string {
	w.t.Helper()
	id, err := w.sv.SubjectOf(w.t.Context(), ownID)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// node is another server on the same database, as another process would be.
func (w *world) node(extra func(w *world)) *world {
	w.t.Helper()
	return newWorld(w.t, testkit.Again(w.t, w.db), extra, func(c *server.Config) {
		d, now := c.DB, c.Now
		*c = w.cfg
		c.DB, c.Now = d, now
	})
}

// refusedSoon fails unless something is refused within ten seconds: for another node,
// which hears of a change within its lease, on a machine that may be busy.
func refusedSoon(t *testing.T, what string, accepted func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); accepted(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still accepted", what)
		}
	}
}

func ownRoutes(w *world) {
	probes(w)
	w.mux.HandleFunc("GET /own-id", sallyport.SignedIn(), func(rw http.ResponseWriter, r *http.Request) {
		id, err := w.sv.OwnID(r.Context())
		if err != nil {
			sallyport.WriteError(rw, sallyport.AsError(err))
			return
		}
		rw.Write([]byte(id))
	})
	w.mux.HandleFunc("GET /strong", sallyport.MFA(), func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) })
}

// Whoever is in the table has all that others have.
func TestOwnUsers(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p, box := table(ownUser(t, "7", "ada"), ownUser(t, "8", "bob")), &mailbox{}
		w := newWorld(t, d, ownRoutes, withUsers(p), withMail(box), withMailSignIn, overHTTPS)

		tk := w.signIn("ada", goodPassword)
		me := w.do("GET", "/users/me", tk.access, nil).want(t, 200, "")
		id := me.text(t, "id")
		if m := me.json(t); m["username"] != "ada" || m["email"] != "ada@example.com" || m["email_verified"] != true || fmt.Sprint(m["roles"]) != "[user]" {
			t.Errorf("ada is %s", me.body)
		}
		for range 2 { // read, and remembered
			if r := w.do("GET", "/own-id", tk.access, nil).want(t, 200, ""); string(r.body) != "7" {
				t.Errorf("own id %q", r.body)
			}
		}
		if got := w.subject("7"); got != id {
			t.Errorf("SubjectOf gives %s, /users/me %s", got, id)
		}
		// The cheap hash has been replaced there and here, and nobody was signed out.
		if now := p.hash("7"); !strings.HasPrefix(now, "$argon2id$") || w.hash(id) != now {
			t.Errorf("the table has %.12s…, here is %.12s…", now, w.hash(id))
		}
		tk = w.refresh(tk)
		if by := w.signIn("ADA@example.com", goodPassword); !w.alive(by.access) || !w.alive(tk.access) {
			t.Error("signing in by address, or the session before it, is dead")
		}

		w.do("GET", "/users", tk.access, nil).want(t, 403, "insufficient_permission")
		if err := w.sv.SetRoles(t.Context(), id, "user", "admin"); err != nil {
			t.Fatal(err)
		}
		if r := w.do("GET", "/users?q=ADA", tk.access, nil).want(t, 200, ""); len(r.json(t)["items"].([]any)) != 1 {
			t.Errorf("found by a search: %s", r.body)
		}
		w.do("GET", "/users/ada", tk.access, nil).want(t, 200, "")
		// Who has not signed in yet can be given a role; looking them up makes nothing.
		w.do("GET", "/users/bob", tk.access, nil).want(t, 404, "not_found")
		bob := w.subject("8")
		w.do("PUT", "/users/"+bob+"/roles", tk.access, map[string]any{"roles": []string{"user", "moderator"}}).want(t, 200, "")
		w.do("GET", "/users", w.signIn("bob", goodPassword).access, nil).want(t, 200, "")

		k := w.key(tk, "read:users")
		w.doKeyed("GET", "/users", k.key, nil).want(t, 200, "")
		if r := w.doKeyed("GET", "/own-id", k.key, nil).want(t, 200, ""); string(r.body) != "7" {
			t.Errorf("a key's own id %q", r.body)
		}
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 204, "")
		cookie := w.cookie("ada")
		if !w.lives(cookie) {
			t.Error("the cookie is not accepted")
		}

		handle, _, code := box.letter(w, "ada@example.com")
		linked := w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 200, "").text(t, "access_token")
		if !w.alive(linked) {
			t.Error("signed in by mail, and not accepted")
		}

		// A second factor, stepping up, and no way round it.
		w.do("GET", "/strong", tk.access, nil).want(t, 401, "insufficient_user_authentication")
		a, _ := w.enrol(tk.access)
		w.do("GET", "/strong", tk.access, nil).want(t, 204, "")
		w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 401, "invalid_token")
		w.verify(w.due("ada"), a.next()).want(t, 200, "")

		// Another password: in the table, and everywhere else signed out.
		other := w.signIn("ada", goodPassword, "otp", a.next())
		const next = "granite-pelican-48-tangerine"
		w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": badPassword, "new_password": next}).want(t, 401, "wrong_password")
		before := p.hash("7")
		w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": next}).want(t, 204, "")
		if p.hash("7") == before || w.hash(id) != p.hash("7") || !w.alive(tk.access) || w.alive(other.access) {
			t.Error("a new password is not stored, or the wrong sessions live")
		}
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 401, "invalid_grant")
		w.form("/token", "grant_type", "password", "username", "ada", "password", next).want(t, 403, "mfa_required")

		// And by a letter.
		w.forgot("ada@example.com").want(t, 202, "")
		token := box.token(w, "ada@example.com", mail.Reset)
		w.reset(token, goodPassword).want(t, 200, "")
		w.reset(token, next).want(t, 400, "invalid_token")
		if w.alive(tk.access) || w.hash(id) != p.hash("7") {
			t.Error("after a reset, a session lives, or the hashes differ")
		}
		tk = w.signIn("ada", goodPassword, "otp", a.next())
		w.do("POST", "/logout", tk.access, nil).want(t, 200, "")
		w.dead("signed out", tk)
		w.noSecretIn(t, goodPassword, next, p.hash("7"))
		w.events("account.adopted", 2)
	})
}

// What the service says of a user holds at the next request, on every node.
func TestA_OwnUserChanged(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p := table(ownUser(t, "0", "control"))
		for _, name := range []string{"disabled", "deleted", "rehashed"} {
			p.add(ownUser(t, name, name))
		}
		w := newWorld(t, d, ownRoutes, withUsers(p), overHTTPS)
		v := w.node(ownRoutes)
		type holder struct {
			tk     tokens
			key    apiKey
			cookie string
		}
		hold := func(name string) holder {
			return holder{w.signIn(name, goodPassword), apiKey{}, w.cookie(name)}
		}
		control := hold("control")
		for name, change := range map[string]func(){
			"disabled": func() { p.change("disabled", func(u *account.OwnUser) { u.Disabled = true }) },
			"deleted":  func() { p.remove("deleted") },
			"rehashed": func() {
				p.change("rehashed", func(u *account.OwnUser) { u.Hash = bcryptOf(t, "walnut-harbour-31-quilt") })
			},
		} {
			h := hold(name)
			h.key = w.key(h.tk)
			basic := basicValue(name, goodPassword)
			byBasic := func(w *world) bool { return w.as("GET", "/by-basic", basic, nil).status == 204 }
			if !v.alive(h.tk.access) || !v.lives(h.cookie) || !v.accepted(h.key.key) || !byBasic(v) || !byBasic(w) {
				t.Fatalf("%s: not accepted to begin with", name)
			}
			change()
			w.changed(name)
			w.dead(name, h.tk)
			if w.lives(h.cookie) || byBasic(w) {
				t.Errorf("%s: the cookie or Basic lives", name)
			}
			w.form("/token", "grant_type", "password", "username", name, "password", goodPassword).want(t, 401, "invalid_grant")
			refusedSoon(t, name+" on another node", func() bool { return v.alive(h.tk.access) })
			refusedSoon(t, name+" on another node, by cookie", func() bool { return v.lives(h.cookie) })
			refusedSoon(t, name+" on another node, by Basic", func() bool { return byBasic(v) })
			// A new password ends no keys, as a new password here does not.
			if got := w.accepted(h.key.key); got != (name == "rehashed") {
				t.Errorf("%s: the API key is accepted: %v", name, got)
			}
		}
		if !w.alive(control.tk.access) || !w.lives(control.cookie) || !v.alive(w.refresh(control.tk).access) {
			t.Error("somebody else was signed out")
		}
		w.form("/token", "grant_type", "password", "username", "rehashed", "password", "walnut-harbour-31-quilt").want(t, 200, "")

		// Enabled there again, and what was there is there.
		p.change("disabled", func(u *account.OwnUser) { u.Disabled = false })
		w.signIn("disabled", goodPassword)

		// An id that comes back after it was told of is somebody new.
		p.add(ownUser(t, "deleted", "deleted"))
		tk := w.signIn("deleted", goodPassword)
		if keys := w.keys(tk); len(keys) != 0 {
			t.Errorf("a new user has the keys of an old one: %v", keys)
		}
		w.events("account.deleted", 1)
	})
}

// Of what the service did not tell, each way in hears by itself.
func TestA_OwnUserChangedInSilence(t *testing.T) {
	t.Parallel()
	p := table(ownUser(t, "0", "control"))
	for _, name := range []string{"sign-in", "refresh", "second factor", "cookie", "key", "basic", "password", "reset", "link", "compared"} {
		p.add(ownUser(t, name, strings.ReplaceAll(name, " ", "")))
	}
	box := &mailbox{}
	w := newWorld(t, testkit.SQLite(t), ownRoutes, withUsers(p), withMail(box), withMailSignIn, overHTTPS)
	off := func(id string) { p.change(id, func(u *account.OwnUser) { u.Disabled = true }) }

	tk := w.signIn("sign-in", goodPassword)
	off("sign-in")
	if !w.alive(tk.access) {
		t.Error("a change that nobody has heard of holds: then the page says too little")
	}
	w.form("/token", "grant_type", "password", "username", "sign-in", "password", goodPassword).want(t, 401, "invalid_grant")
	w.dead("after the next sign-in", tk)

	tk = w.signIn("refresh", goodPassword)
	p.remove("refresh")
	for _, req := range w.refreshRequests(tk.refresh) {
		if r := w.send(req); r.status != 400 && r.status != 401 {
			t.Errorf("a user who is gone refreshes: %d %s", r.status, r.body)
		}
	}
	w.dead("after the next refresh", tk)

	tk = w.signIn("secondfactor", goodPassword)
	a, _ := w.enrol(tk.access)
	due := w.due("secondfactor")
	off("second factor")
	w.verify(due, a.next()).want(t, 401, "")
	w.dead("after a second factor", tk)

	tk = w.signIn("password", goodPassword)
	off("password")
	w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "granite-pelican-48-tangerine"}).want(t, 401, "invalid_token")

	w.signIn("reset", goodPassword)
	w.forgot("reset@example.com").want(t, 202, "")
	token := box.token(w, "reset@example.com", mail.Reset)
	p.change("reset", func(u *account.OwnUser) { u.Email = "new@example.com" })
	hash := p.hash("reset")
	w.reset(token, "granite-pelican-48-tangerine").want(t, 400, "invalid_token")
	if p.hash("reset") != hash {
		t.Error("a letter to an address that is not theirs any more has set a password")
	}

	handle, _, code := box.letter(w, "link@example.com")
	p.change("link", func(u *account.OwnUser) { u.EmailVerified = false })
	w.byLink(map[string]string{"handle": handle, "code": code}).want(t, 401, "invalid_token")
	n := len(box.to(w, "link@example.com", mail.SignIn))
	w.ask("link@example.com")
	w.forgot("link@example.com").want(t, 202, "")
	if len(box.to(w, "link@example.com", mail.SignIn)) != n || len(box.to(w, "link@example.com", mail.Reset)) != 0 {
		t.Error("an address that is nobody's for certain was sent a letter that lets in")
	}

	// What is not refreshed is looked at again after a minute, behind the request.
	cookie, control := w.cookie("cookie"), w.cookie("control")
	key := w.key(w.signIn("key", goodPassword)).key
	basic := basicValue("basic", goodPassword)
	byBasic := func() bool { return w.as("GET", "/by-basic", basic, nil).status == 204 }
	compared := w.signIn("compared", goodPassword)
	for id, accepted := range map[string]func() bool{
		"cookie": func() bool { return w.lives(cookie) }, "key": func() bool { return w.accepted(key) }, "basic": byBasic, "0": func() bool { return w.lives(control) },
	} {
		p.followed(t, id, func() {
			if !accepted() {
				t.Fatalf("%s: not accepted to begin with", id)
			}
		})
	}
	for id, accepted := range map[string]func() bool{
		"cookie": func() bool { return w.lives(cookie) }, "key": func() bool { return w.accepted(key) }, "basic": byBasic,
	} {
		asked := p.count(id)
		off(id)
		if !accepted() && p.count(id) == asked { // on a machine that is slow they may be asked about right now
			t.Errorf("%s: a change that nobody has heard of holds at once: then the page says too little", id)
		}
	}
	w.clock.advance(time.Minute + time.Second)
	refusedSoon(t, "cookie", func() bool { return w.lives(cookie) })
	refusedSoon(t, "key", func() bool { return w.accepted(key) })
	refusedSoon(t, "basic", byBasic)
	if !w.lives(control) {
		t.Error("somebody else's cookie is dead")
	}

	p.remove("compared")
	if _, err := w.sv.CompareUsers(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.dead("after a comparison", compared)
	// It has deleted nothing: the user may be there again.
	p.add(ownUser(t, "compared", "compared"))
	w.signIn("compared", goodPassword)
}

// The table decides who somebody is, however names change hands and whatever they look
// like.
func TestA_OwnUsersNames(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		one, two := ownUser(t, "1", "ada"), ownUser(t, "2", "bob")
		two.Hash = bcryptOf(t, "walnut-harbour-31-quilt")
		p := table(one, two)
		w := newWorld(t, d, ownRoutes, withUsers(p))
		ada, bob := w.signIn("ada", goodPassword), w.signIn("bob", "walnut-harbour-31-quilt")
		// They swap names and addresses: each is who they were, by the other's name.
		p.change("1", func(u *account.OwnUser) { u.Username, u.Email = "bob", "bob@example.com" })
		p.change("2", func(u *account.OwnUser) { u.Username, u.Email = "ada", "ada@example.com" })
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 401, "invalid_grant")
		for _, login := range []string{"bob", "bob@example.com"} {
			if r := w.do("GET", "/own-id", w.signIn(login, goodPassword).access, nil).want(t, 200, ""); string(r.body) != "1" {
				t.Errorf("%s is %s", login, r.body)
			}
		}
		if r := w.do("GET", "/own-id", w.signIn("ada", "walnut-harbour-31-quilt").access, nil); string(r.body) != "2" {
			t.Errorf("ada is %s", r.body)
		}
		if !w.alive(ada.access) || !w.alive(bob.access) {
			t.Error("another name has ended a session")
		}

		// Ids and names that our rules would refuse, and that would collide.
		ids := []string{"' OR 1=1 --", "名前", "a b", "..", "/", "%", "0", "00", strings.Repeat("x", 255), "{id}", "💥"}
		for _, id := range ids {
			u := ownUser(t, id, "login "+id)
			u.Email, u.FullName = "", "Same <b>Name</b>\r\nX: y \x00\xff"
			p.add(u)
		}
		for i, email := range []string{"Same@example.com", "same@EXAMPLE.com", "not an address"} {
			u := ownUser(t, fmt.Sprint("same", i), fmt.Sprint("SAME", i))
			u.Email = email
			p.add(u)
			ids = append(ids, u.ID)
		}
		subjects := map[string]bool{}
		for _, id := range ids {
			login := "login " + id
			if strings.HasPrefix(id, "same") {
				login = strings.ToUpper(id)
			}
			tk := w.signIn(login, goodPassword)
			if r := w.do("GET", "/own-id", tk.access, nil).want(t, 200, ""); string(r.body) != id {
				t.Errorf("%q is %q", id, r.body)
			}
			subjects[w.subject(id)] = true
			w.changed(id)
			w.refresh(tk)
		}
		if len(subjects) != len(ids) {
			t.Errorf("%d users have %d accounts", len(ids), len(subjects))
		}

		// Ids that cannot be one are no sign-in, and lock nobody else out.
		for _, id := range []string{"", strings.Repeat("x", 256), "a\x00", "\xff"} {
			u := ownUser(t, id, "broken")
			p.change("broken", func(v *account.OwnUser) { *v = u })
			w.form("/token", "grant_type", "password", "username", "broken", "password", goodPassword).want(t, 503, "temporarily_unavailable")
		}
		w.signIn("bob", goodPassword)
	})
}

// A table that is slow, fails or panics lets nobody in and says nothing of who there
// is; those who are signed in go on.
func TestF_OwnUsersTable(t *testing.T) {
	t.Parallel()
	p, box, out := table(ownUser(t, "1", "ada")), &mailbox{}, new(testkit.Buffer)
	w := newWorld(t, testkit.SQLite(t), ownRoutes, withUsers(p), withMail(box), withMailSignIn, func(c *server.Config) {
		c.Log = slog.New(slog.NewTextHandler(out, nil))
	})
	tk := w.signIn("ada", goodPassword)
	w.forgot("ada@example.com").want(t, 202, "")
	token := box.token(w, "ada@example.com", mail.Reset)
	for name, fault := range map[string]func(ctx context.Context, method string) error{
		"failing":   func(context.Context, string) error { return errors.New("planted-reason") },
		"panicking": func(context.Context, string) error { panic("planted-panic") },
		"slow": func(ctx context.Context, _ string) error {
			<-ctx.Done() // until it is given up
			return ctx.Err()
		},
	} {
		p.fails(fault)
		reqs := map[string]*http.Request{
			"unknown": w.typed("POST", "/token", formType, "grant_type=password&username=nobody&password=x"),
			"cookie":  w.request("POST", "/auth/login", "", map[string]string{"username": "ada", "password": goodPassword}),
			"basic":   w.request("GET", "/by-basic", "", nil),
			"refresh": w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}),
			"link":    w.request("POST", "/auth/request-link", "", map[string]string{"email": "ada@example.com"}),
			"forgot":  w.request("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"}),
			"reset":   w.request("POST", "/auth/reset-password", "", map[string]string{"token": token, "password": "granite-pelican-48-tangerine"}),
			"change":  w.request("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "granite-pelican-48-tangerine"}),
		}
		reqs["basic"].Header.Set("Authorization", basicValue("ada", goodPassword))
		names := slices.Sorted(func(yield func(string) bool) {
			for n := range reqs {
				if !yield(n) {
					return
				}
			}
		})
		parallel(len(names), func(i int) {
			r := w.send(reqs[names[i]])
			if r.status != 503 || r.header.Get("Retry-After") == "" || strings.Contains(string(r.body), "planted") {
				t.Errorf("%s, %s: status %d, Retry-After %q: %.300s", name, names[i], r.status, r.header.Get("Retry-After"), r.body)
			}
		})
		if !w.alive(tk.access) {
			t.Errorf("%s: who is signed in is refused", name)
		}
		if name == "slow" {
			continue
		}
		if err := w.sv.UserChanged(t.Context(), "1"); err == nil {
			t.Errorf("%s: UserChanged says that it is done", name)
		}
	}
	for _, want := range []string{"planted-reason", "planted-panic", "ByLogin", "ByID"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not have %q", want)
		}
	}
	// Nothing was used up and nothing counted.
	p.fails(nil)
	tk = w.refresh(tk)
	w.reset(token, "granite-pelican-48-tangerine").want(t, 200, "")

	// A better hash that cannot be stored is no reason to keep anybody out.
	p.change("1", func(u *account.OwnUser) { u.Hash = bcryptOf(t, goodPassword) })
	p.fails(func(_ context.Context, method string) error {
		if method == "UpdateHash" {
			return errors.New("read only")
		}
		return nil
	})
	tk = w.signIn("ada", goodPassword)
	w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "granite-pelican-48-tangerine"}).want(t, 503, "unavailable")
	p.fails(nil)
	w.refresh(tk)
	w.signIn("ada", goodPassword)
	if !strings.HasPrefix(p.hash("1"), "$2") {
		t.Error("a better hash was stored while another one may be under way")
	}
	w.clock.advance(upgradeFor + time.Second)
	tk = w.signIn("ada", goodPassword)
	if !strings.HasPrefix(p.hash("1"), "$argon2id$") {
		t.Error("a better hash is not tried again")
	}
	w.refresh(tk)
}

// upgradeFor is how long whoever stores a better hash has for it.
const upgradeFor = time.Minute

// Of any number of first sign-ins at once there is one account, all are let in, the
// hash is replaced once, and nobody is signed out by another's better hash.
func TestL_OwnUsersFirstSignInsInARace(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p := table(ownUser(t, "1", "ada"))
		w := newWorld(t, d, nil, withUsers(p), noLockout)
		got := make([]tokens, 50)
		parallel(len(got), func(i int) { got[i] = w.signIn("ada", goodPassword) })
		var accounts, users int
		for _, q := range []struct {
			n    *int
			read func(n *int) (bool, error)
		}{
			{&accounts, func(n *int) (bool, error) {
				return d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_accounts", nil, n)
			}},
			{&users, func(n *int) (bool, error) {
				return d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_own_users", nil, n)
			}},
		} {
			if _, err := q.read(q.n); err != nil {
				t.Fatal(err)
			}
		}
		if accounts != 1 || users != 1 {
			t.Errorf("%d accounts and %d users", accounts, users)
		}
		if !strings.HasPrefix(p.hash("1"), "$argon2id$") || w.hash(w.subject("1")) != p.hash("1") {
			t.Error("the hash was not replaced on both sides")
		}
		for i, tk := range got {
			if !w.alive(tk.access) {
				t.Fatalf("sign-in %d of those at once is dead", i)
			}
		}
		for i := range 5 {
			w.refresh(got[i*10])
		}
	})
}

// A process that dies after it has stored a better hash in the table, and before it
// has here, signs nobody out. Another password in the table does.
func TestF_OwnUsersCrashBetween(t *testing.T) {
	t.Parallel()
	p := table(ownUser(t, "1", "ada"))
	w := newWorld(t, testkit.SQLite(t), nil, withUsers(p))
	id := w.subject("1")
	earlier := p.hash("1")
	tk := w.signIn("ada", goodPassword)
	better := p.hash("1")
	// As it is between the two: announced, stored there, and not here.
	digest := account.HashID(better)
	w.write(func(tx *db.Tx) error {
		if _, err := tx.Exec("UPDATE sp_accounts SET password_hash = $2 WHERE id = $1", id, earlier); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE sp_own_users SET next_hash = $2, next_at = $3 WHERE subject_id = $1", id, digest[:], db.Micros(w.clock.now()))
		return err
	})
	tk = w.refresh(tk)
	if w.hash(id) != better || !w.alive(tk.access) {
		t.Error("a better hash of the same password was taken for a new one, or not taken over")
	}
	// It was announced for once: the hash before coming back is another password.
	p.change("1", func(u *account.OwnUser) { u.Hash = earlier })
	w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 401, "invalid_token")
	tk = w.signIn("ada", goodPassword)
	p.change("1", func(u *account.OwnUser) { u.Hash = better })
	w.changed("1")
	w.dead("a hash that was announced once, and comes back", tk)
}

// A sign-in that has read the table before a change does not bring back what was there.
func TestR_OwnUsersOvertaken(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p := table(ownUser(t, "1", "ada"))
		w := newWorld(t, d, nil, withUsers(p))
		tk := w.signIn("ada", goodPassword)
		// The sign-in finds a new name, which it must store; before it does, the password
		// is changed, and the server told.
		p.change("1", func(u *account.OwnUser) { u.FullName = "Ada Lovelace" })
		var once sync.Once
		overtake := make(chan struct{})
		p.fails(func(_ context.Context, method string) error {
			if method == "ByID" {
				once.Do(func() {
					p.fails(nil)
					p.change("1", func(u *account.OwnUser) { u.Hash = bcryptOf(t, "walnut-harbour-31-quilt") })
					if err := w.sv.UserChanged(t.Context(), "1"); err != nil {
						t.Error(err)
					}
					close(overtake)
				})
			}
			return nil
		})
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 401, "invalid_grant")
		<-overtake
		w.dead("after the change", tk)
		if got := w.hash(w.subject("1")); got != p.hash("1") {
			t.Error("what was there before was stored again")
		}
		w.signIn("ada", "walnut-harbour-31-quilt")
	})
}

// Who has been signed out while they change their password does not change it in the
// table either.
func TestR_OwnUsersPasswordUnderWay(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p := table(ownUser(t, "1", "ada"))
		w := newWorld(t, d, nil, withUsers(p))
		tk, other := w.signIn("ada", goodPassword), w.signIn("ada", goodPassword)
		change := func() reply {
			return w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "granite-pelican-48-tangerine"})
		}
		before := p.hash("1")
		var once sync.Once
		p.fails(func(_ context.Context, method string) error {
			if method == "ByID" {
				once.Do(func() { w.do("POST", "/logout/all", other.access, nil).want(t, 200, "") })
			}
			return nil
		})
		change().want(t, 401, "invalid_token")
		if p.hash("1") != before {
			t.Error("the table has a new password by a session that was over")
		}
		tk = w.signIn("ada", goodPassword)
		change().want(t, 204, "")
		if p.hash("1") == before {
			t.Error("the table has the old password")
		}
	})
}

// A reset that cannot have been meant any more changes nothing; of many at once with
// one letter, one sets the password.
func TestE_OwnUsersResetRace(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p, box := table(ownUser(t, "1", "ada")), &mailbox{}
		w := newWorld(t, d, nil, withUsers(p), withMail(box))
		w.forgot("ada@example.com").want(t, 202, "")
		token := box.token(w, "ada@example.com", mail.Reset)
		var done atomic.Int64
		var winner atomic.Value
		parallel(20, func(i int) {
			pw := fmt.Sprintf("granite-pelican-%d-tangerine", i)
			if r := w.reset(token, pw); r.status == 200 {
				done.Add(1)
				winner.Store(pw)
			}
		})
		if done.Load() != 1 {
			t.Fatalf("%d of 20 have set a password with one letter", done.Load())
		}
		w.signIn("ada", winner.Load().(string))
	})
}

// Unknown, wrong, disabled, without a password, with one that cannot be verified, new
// here or known: answered alike, in the same time, and locked alike.
func TestL_OwnUsersRefusalsAreAlike(t *testing.T) {
	out := new(testkit.Buffer)
	current, err := password.New(password.Config{})
	if err != nil {
		t.Fatal(err)
	}
	known, err := current.Hash(t.Context(), goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	p := table()
	for id, hash := range map[string]string{
		"ada": bcryptOf(t, "something else altogether"), "disabled": known, "none": "", "off": "!", "odd": "$9$planted-salt$planted-digest", "md5": "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
	} {
		u := ownUser(t, id, id)
		u.Hash, u.Disabled = hash, id == "disabled"
		p.add(u)
	}
	w := newWorld(t, testkit.SQLite(t), ownRoutes, withUsers(p), noLockout, func(c *server.Config) {
		c.Password, c.Log = password.Config{Permits: 7}, slog.New(slog.NewTextHandler(out, nil))
	})
	classes := []string{"nobody", "ada", "disabled", "none", "off", "odd", "md5"}
	const rounds, grid = 6, 100 * time.Millisecond
	for attempt := 1; ; attempt++ {
		times := make([][]time.Duration, len(classes))
		answers := make([]reply, len(classes))
		for round := range rounds {
			parallel(len(classes), func(i int) {
				i = (i + round) % len(classes)
				began := time.Now()
				answers[i] = w.form("/token", "grant_type", "password", "username", classes[i], "password", goodPassword).want(t, 401, "invalid_grant")
				times[i] = append(times[i], time.Since(began))
			})
		}
		least, most := time.Hour, time.Duration(0)
		for i := range classes {
			if a, b := anonymise(answers[0]), anonymise(answers[i]); a != b {
				t.Errorf("%s is answered %s, nobody %s", classes[i], b, a)
			}
			slices.Sort(times[i])
			if times[i][0] < grid {
				t.Errorf("%s was refused after %v, before the grid of %v", classes[i], times[i][0], grid)
			}
			t.Logf("%-10s median %v", classes[i], times[i][rounds/2].Round(100*time.Microsecond))
			least, most = min(least, times[i][rounds/2]), max(most, times[i][rounds/2])
		}
		if float64(most) < 1.5*float64(least) {
			break
		}
		if attempt == 5 {
			t.Fatalf("medians from %v to %v, five times in a row", least, most)
		}
	}
	if s := out.String(); !strings.Contains(s, "own_id=odd") || !strings.Contains(s, "own_id=md5") || strings.Contains(s, "own_id=off") || strings.Contains(s, "planted") {
		t.Errorf("the log does not say whose hash cannot be verified, or has it: %.2000s", s)
	}
	// Letters are asked for alike, too: of nobody, of a user whose address is not known to
	// be theirs, and of one who may have them.
	p.add(ownUser(t, "ada", "ada"))
	box := &mailbox{}
	w = newWorld(t, testkit.SQLite(t), nil, withUsers(p), withMail(box), withMailSignIn)
	p.change("off", func(u *account.OwnUser) { u.EmailVerified = false })
	for _, path := range []string{"/auth/forgot-password", "/auth/request-link"} {
		var want string
		for _, name := range []string{"nobody", "off", "disabled", "ada"} {
			began := time.Now()
			r := w.post(path, map[string]string{"email": name + "@example.com"}).want(t, 202, "")
			if took := time.Since(began); took < grid {
				t.Errorf("%s of %s was answered after %v, before the grid of %v", path, name, took, grid)
			}
			m := r.json(t)
			delete(m, "handle") // random
			if got := fmt.Sprint(m); want == "" {
				want = got
			} else if got != want {
				t.Errorf("%s: %s is answered %s, nobody %s", path, name, got, want)
			}
		}
	}
	for _, name := range []string{"nobody", "off", "disabled"} {
		if n := len(box.to(w, name+"@example.com", mail.Reset)) + len(box.to(w, name+"@example.com", mail.SignIn)); n != 0 {
			t.Errorf("%s was sent %d letters", name, n)
		}
	}
	if len(box.to(w, "ada@example.com", mail.Reset)) != 1 || len(box.to(w, "ada@example.com", mail.SignIn)) != 1 {
		t.Error("who may have letters was sent none")
	}

	w.signIn("ada", goodPassword)
	for _, login := range []string{strings.Repeat("a", 5000), "ada\x00", "@", "' OR '1'='1"} {
		w.form("/token", "grant_type", "password", "username", login, "password", goodPassword).want(t, 401, "invalid_grant")
	}
}

// Failures of a user count together by whichever name, those of nobody by the name, and
// a user who signs in for the first time is locked as any other.
func TestL_OwnUsersAreLocked(t *testing.T) {
	t.Parallel()
	p := table(ownUser(t, "1", "ada"))
	w := newWorld(t, testkit.SQLite(t), nil, withUsers(p))
	v := w.at("203.0.113.7")
	for i := range 5 {
		v.token([]string{"ada", "ada@example.com", "ADA@example.com"}[i%3], badPassword).want(t, 401, "invalid_grant")
		v.token("nobody", badPassword).want(t, 401, "invalid_grant")
	}
	for _, name := range []string{"ada", "ada@example.com", "nobody"} {
		locked(t, name, v.token(name, goodPassword), time.Second, time.Hour)
	}
	w.at("198.51.100.7").token("ada", goodPassword).want(t, 200, "")
}

// An administrator here can disable whom the table has not, and not enable whom it has.
func TestA_OwnUsersBlockedHere(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		p := table(ownUser(t, "1", "root"), ownUser(t, "2", "ada"))
		w := newWorld(t, d, nil, withUsers(p))
		root := w.signIn("root", goodPassword).access
		if err := w.sv.SetRoles(t.Context(), w.subject("1"), "admin"); err != nil {
			t.Fatal(err)
		}
		ada := w.signIn("ada", goodPassword)
		path := "/users/" + w.subject("2")
		patch := func(disabled bool) any {
			return w.do("PATCH", path, root, map[string]bool{"disabled": disabled}).want(t, 200, "").json(t)["disabled"]
		}
		in := func(want int) {
			t.Helper()
			w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, want, "")
		}
		there := func(disabled bool) {
			p.change("2", func(u *account.OwnUser) { u.Disabled = disabled })
			w.changed("2")
		}
		w.do("PATCH", path, ada.access, map[string]bool{"disabled": true}).want(t, 403, "insufficient_permission")
		w.do("PATCH", path, root, map[string]any{"username": "eve"}).want(t, 422, "validation_failed")
		if patch(true) != true {
			t.Error("not disabled")
		}
		w.dead("disabled here", ada)
		in(401)
		there(true)
		there(false)
		in(401) // here, still
		if n := len(w.events("account.enabled", 0)); n != 0 {
			t.Errorf("%d events say that they were enabled", n)
		}
		there(true)
		if patch(false) != true {
			t.Error("an administrator has enabled whom the table has not")
		}
		in(401)
		if patch(true) != true { // disabled there, and now here too
			t.Error("not disabled")
		}
		there(false)
		in(401)
		if patch(false) != false {
			t.Error("not enabled")
		}
		in(200)

		// The rest is the table's, also for programs.
		if _, err := w.sv.Accounts.Create(t.Context(), role.Operator(), account.NewUser{Email: "x@example.com", Password: goodPassword}); code(err) != "kept_elsewhere" {
			t.Errorf("an account past the table: %v", err)
		}
		name := "eve"
		to := &name
		if _, err := w.sv.Accounts.Update(t.Context(), nil, w.subject("2"), account.Change{Username: &to}); code(err) != "kept_elsewhere" {
			t.Errorf("another name: %v", err)
		}
		// The last administrator, too, is let in or not by the table alone.
		p.change("1", func(u *account.OwnUser) { u.Disabled = true })
		w.changed("1")
		if w.alive(root) {
			t.Error("the last administrator is disabled in the table, and let in")
		}
	})
}

// code is that of an error that a caller may see.
func code(err error) string {
	if err == nil {
		return ""
	}
	return sallyport.AsError(err).Code
}

// Accounts that were there before are nobody's of the table: no way in finds them.
func TestA_OwnUsersAndAccountsFromBefore(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		plain := newWorld(t, d, nil)
		_, before := plain.user("ada")
		p := table(ownUser(t, "1", "bob"))
		w := another(t, plain, withUsers(p))
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 401, "invalid_grant")
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": before.refresh}).want(t, 401, "invalid_token")
		w.do("PUT", "/users/me/password", before.access, map[string]string{"current_password": goodPassword, "new_password": "granite-pelican-48-tangerine"}).want(t, 401, "invalid_token")
		// The table may have the same name, and it is somebody else.
		u := ownUser(t, "2", "ada")
		u.Hash = bcryptOf(t, "walnut-harbour-31-quilt")
		p.change("2", func(v *account.OwnUser) { *v = u })
		tk := w.signIn("ada", "walnut-harbour-31-quilt")
		if id := w.do("GET", "/users/me", tk.access, nil).text(t, "id"); id == plain.do("GET", "/users/me", before.access, nil).text(t, "id") {
			t.Error("a user of the table is an account from before")
		}
		// And a server without the table finds nobody of it.
		plain.form("/token", "grant_type", "password", "username", "bob", "password", goodPassword).want(t, 401, "invalid_grant")
		plain.signIn("ada", goodPassword)
		if err := plain.sv.Accounts.SetPassword(t.Context(), w.subject("2"), "granite-pelican-48-tangerine"); code(err) != "kept_elsewhere" {
			t.Errorf("a password set past the table: %v", err)
		}
	})
}

// Who may call what where the users are the service's own.
func TestOwnUsersRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, withUsers(table()))
	w.golden("routes-own-users.txt")
	declaredAreDocumented(t, w)
	if link, err := w.sv.SetupLink(t.Context()); link != "" || err != nil {
		t.Errorf("a link for the first administrator: %q, %v", link, err)
	}
}

func TestOwnUsersConfiguration(t *testing.T) {
	t.Parallel()
	for key, change := range map[string]func(*server.Config){
		"":                     func(c *server.Config) { c.Registration = account.Closed },
		"registration":         func(c *server.Config) { c.Registration = account.Open },
		"compat.fastapi_users": func(c *server.Config) { c.FastAPIUsers = true },
	} {
		cfg := server.Config{DB: testkit.SQLite(t), BaseURL: baseURL, MasterKeyFile: filepath.Join(t.TempDir(), "master.key"), Password: weakHashes, Users: table()}
		change(&cfg)
		s, err := server.New(t.Context(), cfg)
		if err == nil {
			s.Close()
		}
		e, _ := errors.AsType[*server.ConfigError](err)
		if key == "" && err != nil || key != "" && (e == nil || e.Key != key) {
			t.Errorf("%q: %v", key, err)
		}
	}
	// Whose address is verified is for the table to say.
	bob := ownUser(t, "2", "bob")
	bob.EmailVerified = false
	v := newWorld(t, testkit.SQLite(t), nil, withUsers(table(ownUser(t, "1", "ada"), bob)), withMail(&mailbox{}), func(c *server.Config) { c.VerifyAddress = true })
	v.signIn("ada", goodPassword)
	v.form("/token", "grant_type", "password", "username", "bob", "password", goodPassword).want(t, 401, "invalid_grant")

	// What is there for such a table says so where there is none.
	w := newWorld(t, testkit.SQLite(t), ownRoutes)
	if err := w.sv.UserChanged(t.Context(), "1"); err == nil {
		t.Error("UserChanged without a table")
	}
	_, tk := w.user("ada")
	w.do("GET", "/own-id", tk.access, nil).want(t, 404, "not_found")
	w.do("GET", "/own-id", "", nil).want(t, 401, "unauthenticated")
}

// ownUsersPlans runs what is run for a table of users only, in a database of its own.
func ownUsersPlans(t *testing.T, dialect db.Dialect, note func(statement string)) {
	t.Helper()
	d := testkit.SQLite(t)
	if dialect == db.Postgres {
		d = testkit.Postgres(t)
	}
	p := table(ownUser(t, "1", "ada"))
	w := newWorld(t, d, nil, withUsers(p))
	d.Trace(note)
	defer d.Trace(nil)
	tk := w.signIn("ada", goodPassword) // made, and the hash replaced
	p.change("1", func(u *account.OwnUser) { u.FullName = "Ada" })
	w.refresh(tk)
	if n, err := w.sv.CompareUsers(t.Context()); n != 1 || err != nil {
		t.Errorf("%d users compared: %v", n, err)
	}
	if err := w.sv.SetRoles(t.Context(), w.subject("1"), "user", "admin"); err != nil {
		t.Error(err)
	}
	p.remove("1")
	w.changed("1")
}
