package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// Never stale, whole servers: a random sequence of everything that gives and
// takes authority, on one node and on two, against a model that knows who may
// do what. After every step every credential is presented to every node: the node
// that made the change answers by it at once, another once the lease is over.
//
//	go test ./server -run TestNeverStale -rapid.checks=10000
func TestNeverStale(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		lease := time.Millisecond
		if d.Dialect() == db.Postgres {
			lease = 20 * time.Millisecond
		}
		file := filepath.Join(t.TempDir(), "master.key")
		start := func(d *db.DB) *node {
			n := &node{lease: lease, db: d}
			var err error
			if n.Server, err = server.New(t.Context(), server.Config{DB: d, BaseURL: baseURL, MasterKeyFile: file, Password: weakHashes, Lease: lease, Hosts: testHosts, Limits: noLimits}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(n.Close)
			mux := sallyport.NewMux(n)
			mux.HandleFunc("GET /probe", sallyport.Permission("read:probe"), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
			mux.Mount("/", n.Routes())
			if err := n.Declare(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.handler = n.Guard(mux)
			return n
		}
		both := []*node{start(d), start(testkit.Again(t, d))}
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			return role.Put(t.Context(), tx, role.Operator(), role.Role{Name: "prober", Permissions: []string{"read:probe"}})
		}); err != nil {
			t.Fatal(err)
		}
		number := 0
		rapid.Check(t, func(rt *rapid.T) {
			number++
			m := &stale{T: rt, t: t, nodes: both[:rapid.IntRange(1, 2).Draw(rt, "nodes")]}
			m.setProber(m.nodes[0], true)
			for i := range 2 {
				m.newPerson(fmt.Sprintf("p%d-%d-%d", number, i, time.Now().UnixNano()))
			}
			rt.Repeat(map[string]func(*rapid.T){
				"sign in":        m.signIn,
				"refresh":        m.refresh,
				"log out":        m.logout,
				"log out by all": m.logoutAll,
				"disable":        m.disable,
				"grant":          m.grant,
				"redefine":       m.redefine,
				"retire key":     m.retireKey,
				"make API key":   m.makeKey,
				"switch API key": m.switchKey,
				"delete API key": m.deleteKey,
				"":               m.check,
			})
		})
	})
}

// node is one server of a cluster.
type node struct {
	*server.Server
	db      *db.DB
	handler http.Handler
	lease   time.Duration
}

// ask presents an access token and returns the status.
func (n *node) ask(method, path, header, value string) int {
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set(header, value)
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, r)
	return w.Code
}

// The model: who there is, and what should be so.
type stale struct {
	*rapid.T
	t           *testing.T
	nodes       []*node
	people      []*person
	prober      bool // the role holds the permission
	keys        int  // generation of the signing key
	credentials []*credential
	last        *node // that made the last change
}

type person struct {
	id, name string
	disabled bool
	granted  bool // the role prober
}

// credential is something that can be presented, of a session or a key.
type credential struct {
	header, value string
	refresh       string
	who           *person
	ended         *bool  // shared by all of one session
	keys          int    // generation of the key that signed it
	apiKey        string // id, if it is an API key
	off           bool   // it was deactivated
}

func (m *stale) fail(format string, args ...any) { m.T.Helper(); m.Fatalf(format, args...) }

func (m *stale) must(err error) {
	if err != nil {
		m.T.Helper()
		m.fail("%v", err)
	}
}

func (m *stale) node(t *rapid.T) *node {
	m.last = m.nodes[rapid.IntRange(0, len(m.nodes)-1).Draw(t, "node")]
	return m.last
}

func (m *stale) person(t *rapid.T) *person {
	return m.people[rapid.IntRange(0, len(m.people)-1).Draw(t, "person")]
}

// credential picks one, nil if there is none.
func (m *stale) pick(t *rapid.T) *credential {
	if len(m.credentials) == 0 {
		t.Skip("there are no credentials")
	}
	return m.credentials[rapid.IntRange(0, len(m.credentials)-1).Draw(t, "credential")]
}

func (m *stale) newPerson(name string) {
	u, err := m.nodes[0].Accounts.Register(m.t.Context(), account.NewUser{Username: &name, Email: name + "@example.com", Password: goodPassword})
	m.must(err)
	m.people = append(m.people, &person{id: u.ID, name: name})
}

func (m *stale) signIn(t *rapid.T) {
	n, p := m.node(t), m.person(t)
	if p.disabled || len(m.credentials) > 12 {
		t.Skip("disabled, or enough")
	}
	tk, err := n.SignIn.Password(m.t.Context(), signin.Attempt{Login: p.name, Password: goodPassword, Client: session.FirstParty})
	m.must(err)
	m.credentials = append(m.credentials, &credential{
		header: "Authorization", value: "Bearer " + tk.Access, refresh: tk.Refresh, who: p, ended: new(bool), keys: m.keys,
	})
}

func (m *stale) refresh(t *rapid.T) {
	n, c := m.node(t), m.pick(t)
	if c.refresh == "" {
		t.Skip("no refresh token")
	}
	tk, err := n.Sessions.Refresh(m.t.Context(), c.refresh, session.FirstParty, false, nil)
	if *c.ended || c.who.disabled {
		if err == nil {
			m.fail("a session that has ended was refreshed")
		}
		return
	}
	m.must(err)
	next := *c
	next.value, next.refresh, next.keys = "Bearer "+tk.Access, tk.Refresh, m.keys
	c.refresh = ""
	m.credentials = append(m.credentials, &next)
}

func (m *stale) logout(t *rapid.T) {
	n, c := m.node(t), m.pick(t)
	if c.apiKey != "" {
		t.Skip("it has no session")
	}
	m.settle(n)
	want := http.StatusOK
	if !m.alive(c) {
		want = http.StatusUnauthorized
	}
	if got := n.ask("POST", "/logout", c.header, c.value); got != want {
		m.fail("logout: status %d, want %d", got, want)
	}
	if want == http.StatusOK {
		*c.ended = true
	}
}

func (m *stale) logoutAll(t *rapid.T) {
	n, p := m.node(t), m.person(t)
	m.must(n.db.Write(m.t.Context(), func(tx *db.Tx) error { return n.Sessions.EndAll(m.t.Context(), tx, p.id, "", "test") }))
	m.endSessions(p)
}

// endSessions is what ends with a person's sessions: API keys go on.
func (m *stale) endSessions(p *person) {
	for _, c := range m.credentials {
		if c.who == p && c.apiKey == "" {
			*c.ended = true
		}
	}
}

func (m *stale) disable(t *rapid.T) {
	n, p := m.node(t), m.person(t)
	p.disabled = !p.disabled
	operator := role.Operator()
	_, err := n.Accounts.Update(m.t.Context(), &operator, p.id, account.Change{Disabled: &p.disabled})
	m.must(err)
	if p.disabled {
		m.endSessions(p)
	}
}

func (m *stale) grant(t *rapid.T) {
	n, p := m.node(t), m.person(t)
	p.granted = !p.granted
	m.must(n.db.Write(m.t.Context(), func(tx *db.Tx) error {
		if p.granted {
			return role.Grant(m.t.Context(), tx, role.Operator(), p.id, "prober")
		}
		return role.Revoke(m.t.Context(), tx, role.Operator(), p.id, "prober")
	}))
}

func (m *stale) redefine(t *rapid.T) { m.setProber(m.node(t), !m.prober) }

func (m *stale) setProber(n *node, holds bool) {
	m.prober = holds
	r := role.Role{Name: "prober"}
	if holds {
		r.Permissions = []string{"read:probe"}
	}
	m.must(n.db.Write(m.t.Context(), func(tx *db.Tx) error { return role.Put(m.t.Context(), tx, role.Operator(), r) }))
}

// retireKey takes the signing key away: what it signed is dead, sessions live on.
func (m *stale) retireKey(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
		t.Skip("it takes long")
	}
	n := m.node(t)
	_, err := n.Keys.Rotate(m.t.Context())
	m.must(err)
	keys, err := n.Keys.List(m.t.Context())
	m.must(err)
	for _, k := range keys {
		if k.State == keyring.Retiring {
			m.must(n.Keys.Retire(m.t.Context(), k.ID))
		}
	}
	m.keys++
}

// makeKey makes an API key for a scope that its owner must hold at that moment.
func (m *stale) makeKey(t *rapid.T) {
	n, p := m.node(t), m.person(t)
	if p.disabled || !p.granted || !m.prober || len(m.credentials) > 12 {
		t.Skip("it could not be made, or enough")
	}
	r, key, err := n.APIKeys.Create(m.t.Context(), apikey.NewKey{Owner: p.id, Name: "test", Scopes: []string{"read:probe"}})
	m.must(err)
	m.credentials = append(m.credentials, &credential{header: "X-Api-Key", value: key.Reveal(), who: p, ended: new(bool), apiKey: r.ID})
}

func (m *stale) pickKey(t *rapid.T) *credential {
	c := m.pick(t)
	if c.apiKey == "" || *c.ended {
		t.Skip("no API key")
	}
	return c
}

func (m *stale) switchKey(t *rapid.T) {
	n, c := m.node(t), m.pickKey(t)
	c.off = !c.off
	on := !c.off
	_, err := n.APIKeys.Update(m.t.Context(), c.who.id, c.apiKey, apikey.Change{Active: &on})
	m.must(err)
}

func (m *stale) deleteKey(t *rapid.T) {
	n, c := m.node(t), m.pickKey(t)
	_, err := n.APIKeys.Delete(m.t.Context(), c.who.id, c.apiKey)
	m.must(err)
	*c.ended = true
}

func (m *stale) alive(c *credential) bool {
	if *c.ended || c.who.disabled {
		return false
	}
	if c.apiKey != "" {
		return !c.off
	}
	return c.keys == m.keys
}

// settle waits until a node must have heard of what another did.
func (m *stale) settle(n *node) {
	if m.last != nil && m.last != n {
		time.Sleep(n.lease)
	}
}

// check presents every credential to every node, the one that made the change
// first.
func (m *stale) check(*rapid.T) {
	if m.last == nil {
		return
	}
	for _, n := range append([]*node{m.last}, m.nodes...) {
		m.settle(n)
		for i, c := range m.credentials {
			want := http.StatusNoContent
			switch {
			case !m.alive(c):
				want = http.StatusUnauthorized
			case !c.who.granted || !m.prober:
				want = http.StatusForbidden
			}
			if got := n.ask("GET", "/probe", c.header, c.value); got != want {
				m.fail("credential %d: status %d, want %d (the node that made the change: %v)", i, got, want, n == m.last)
			}
		}
	}
}
