package live

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// truth is the database of the model: a version for each subject and for the
// roles, and everything that was changed, in the order of commits.
type truth struct {
	subject [3]int64
	roles   int64
	log     []string
	by      []*node // who changed it
	down    bool
}

// node is a cache over the truth, and the readings that are under way on it.
type node struct {
	cache   *Cache
	heard   int // of truth.log, when it last polled
	loading []*loading
}

// loading is a reader between Begin and Publish.
type loading struct {
	who    int
	ticket Ticket
	read   bool
	state  State
}

const people, credentialsEach = 3, 2

func modelProven(c int) *Proven {
	p := proven(c)
	p.Subject = id(c / credentialsEach)
	return p
}

var noGrants = sallyport.NewGrants(nil, nil)

// modelCache is a Cache whose polls read the truth. Its own goroutine does not
// get to poll within the test.
func modelCache(d *db.DB, tr *truth, heard *int) *Cache {
	return New(Config{DB: d, Lease: time.Hour, Poll: func(_ context.Context, c db.Cursor) ([]string, bool, db.Cursor, error) {
		if tr.down {
			return nil, false, c, errors.New("the database is away")
		}
		what := tr.log[*heard:]
		*heard = len(tr.log)
		return what, false, c, nil
	}})
}

// Whatever the order in which credentials are read, changed, forgotten and asked
// for, on one node or on two: what a node finds is what the database says, as of
// its last successful poll or its own last change. A reading that was overtaken
// by a change is never found.
func TestModel(t *testing.T) {
	d := testkit.SQLite(t)
	rapid.Check(t, func(t *rapid.T) {
		tr := &truth{}
		nodes := make([]*node, rapid.IntRange(1, 2).Draw(t, "nodes"))
		for i := range nodes {
			n := &node{}
			n.cache = modelCache(d, tr, &n.heard)
			if err := n.cache.poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer n.cache.Close()
			nodes[i] = n
		}
		anyNode := func() *node { return nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "node")] }
		// changes what one node writes: it hears of it before the write returns.
		change := func(n *node, what string) {
			tr.log, tr.by = append(tr.log, what), append(tr.by, n)
			n.cache.apply([]string{what})
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				n, c := anyNode(), rapid.IntRange(0, people*credentialsEach-1).Draw(t, "credential")
				k := n.cache.KeyOf(0, credential(c), false)
				n.loading = append(n.loading, &loading{who: c, ticket: n.cache.Begin(&k, modelProven(c))})
			},
			"know": func(t *rapid.T) { // all of it, undisturbed
				n := anyNode()
				for c := range people * credentialsEach {
					if rapid.Bool().Draw(t, "this") {
						k := n.cache.KeyOf(0, credential(c), false)
						n.cache.Publish(n.cache.Begin(&k, modelProven(c)), &State{Subject: tr.subject[c/credentialsEach], Roles: tr.roles, Grants: noGrants})
					}
				}
			},
			"read": func(t *rapid.T) {
				n := anyNode()
				for _, l := range n.loading {
					if !l.read && rapid.Bool().Draw(t, "this") {
						l.read = true
						l.state = State{Subject: tr.subject[l.who/credentialsEach], Roles: tr.roles, Grants: noGrants}
					}
				}
			},
			"publish": func(t *rapid.T) {
				n := anyNode()
				n.loading = slices.DeleteFunc(n.loading, func(l *loading) bool {
					publish := l.read && rapid.Bool().Draw(t, "this")
					if publish {
						n.cache.Publish(l.ticket, &l.state)
					}
					return publish
				})
			},
			"change a subject": func(t *rapid.T) {
				s := rapid.IntRange(0, people-1).Draw(t, "subject")
				tr.subject[s]++
				change(anyNode(), uuid.UUID(id(s)).String())
			},
			"change roles": func(t *rapid.T) {
				tr.roles++
				change(anyNode(), db.ChangedRoles)
			},
			"change keys": func(t *rapid.T) { change(anyNode(), db.ChangedKeys) },
			"poll": func(t *rapid.T) {
				n := anyNode()
				before := n.cache.asOf.Load()
				if err := n.cache.poll(t.Context()); (err != nil) != tr.down {
					t.Fatalf("poll: %v, the database is away: %v", err, tr.down)
				}
				if tr.down && n.cache.asOf.Load() != before {
					t.Fatal("a poll that failed renewed the lease")
				}
			},
			"away":      func(*rapid.T) { tr.down = !tr.down },
			"throw out": func(t *rapid.T) { anyNode().cache.expireSome(time.Now().Add(2*time.Hour), 2) },
			"": func(t *rapid.T) { // after every step
				for i, n := range nodes {
					for c := range people * credentialsEach {
						k := n.cache.KeyOf(0, credential(c), false)
						var f Found
						if !n.cache.Get(&k, time.Now(), &f) {
							continue
						}
						if f.Subject != id(c/credentialsEach) || f.Unit != id(c+1_000_000) {
							t.Fatalf("node %d finds credential %d as %+v", i, c, f)
						}
						if !f.Alive {
							continue
						}
						subject := id(c / credentialsEach)
						current := f.SubjectVersion == uint32(tr.subject[c/credentialsEach]) && f.RolesVersion == uint32(tr.roles)
						if !current && !tr.unheard(n, uuid.UUID(subject).String()) {
							t.Fatalf("node %d, which has heard of everything, finds credential %d as of versions %d, %d; the database says %d, %d",
								i, c, f.SubjectVersion, f.RolesVersion, tr.subject[c/credentialsEach], tr.roles)
						}
					}
				}
			},
		})
	})
}

// unheard reports whether another node has changed something that concerns a
// subject, and n has not polled since.
func (tr *truth) unheard(n *node, subject string) bool {
	for i := n.heard; i < len(tr.log); i++ {
		if tr.by[i] != n && (tr.log[i] == subject || tr.log[i] == db.ChangedRoles) {
			return true
		}
	}
	return false
}

// The lease: what was heard long ago is not used, all who wait share one poll,
// and each waits for one that begins after it came.
func TestFresh(t *testing.T) {
	d := testkit.SQLite(t)
	polls, fail := 0, false
	c := New(Config{DB: d, Lease: time.Hour, Poll: func(_ context.Context, c db.Cursor) ([]string, bool, db.Cursor, error) {
		if polls++; fail {
			return nil, false, c, errors.New("away")
		}
		return nil, false, c, nil
	}})
	defer c.Close()
	now := time.Now()
	for range 3 {
		if err := c.Fresh(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	if polls != 1 {
		t.Errorf("%d polls within the lease", polls)
	}
	fail = true
	if err := c.Fresh(t.Context(), now.Add(time.Hour)); err != nil {
		t.Errorf("within the lease, the database away: %v", err)
	}
	if err := c.Fresh(t.Context(), now.Add(2*time.Hour)); err == nil {
		t.Error("fresh after the lease although the database is away")
	}
	fail = false
	if err := c.Fresh(t.Context(), now.Add(2*time.Hour)); err != nil {
		t.Errorf("the database is back: %v", err)
	}
	// A machine that slept: the monotonic clock did not see it.
	fail = true
	slept := now
	slept = time.Unix(0, slept.UnixNano()+int64(2*time.Hour)) // no monotonic reading: only the wall clock has moved
	c.base = time.Unix(0, c.base.UnixNano()+int64(2*time.Hour))
	if err := c.Fresh(t.Context(), slept); err == nil {
		t.Error("fresh after the machine slept")
	}
}

func TestWaitersShareAPollThatBeginsAfterThem(t *testing.T) {
	d := testkit.SQLite(t)
	began, goOn := make(chan int, 10), make(chan struct{})
	polls := 0
	c := New(Config{DB: d, Lease: time.Hour, Poll: func(_ context.Context, c db.Cursor) ([]string, bool, db.Cursor, error) {
		polls++
		began <- polls
		<-goOn
		return nil, false, c, nil
	}})
	defer c.Close()
	done := make(chan error, 100)
	var came atomic.Int64
	wait := func() { go func() { came.Add(1); done <- c.poll(context.Background()) }() }
	wait()
	<-began // the first poll runs
	for range 50 {
		wait()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		c.mu.Lock()
		waiting := c.nxt != nil
		c.mu.Unlock()
		if waiting && came.Load() == 51 {
			time.Sleep(20 * time.Millisecond) // the last of them is about to wait
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
		time.Sleep(time.Millisecond)
	}
	goOn <- struct{}{}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("somebody who came while a poll was running took it for theirs")
	case <-began:
	}
	// Everybody who came meanwhile waits for the second, or a third at most.
	close(goOn)
	for range 50 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if polls > 3 {
		t.Errorf("%d polls for 51 who waited", polls)
	}
	// Who gives up does not take the others with them.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.mu.Lock()
	c.cur = &round{done: make(chan struct{})}
	c.mu.Unlock()
	if err := c.poll(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("gave up: %v", err)
	}
	c.mu.Lock()
	c.cur, c.nxt = nil, nil
	c.mu.Unlock()
}

// Real writers and readers at once: once a Write has returned, nobody finds what
// was before it, on this node.
func TestAWriteIsHeardBeforeItReturns(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("CREATE TABLE scratch (name TEXT PRIMARY KEY, version BIGINT NOT NULL)")
			if err == nil {
				_, err = tx.Exec("INSERT INTO scratch VALUES ('x', 0)")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		c := New(Config{DB: d})
		defer c.Close()
		subject := uuid.UUID(id(0)).String()
		read := func() uint32 {
			var f Found
			k := c.KeyOf(0, credential(0), false)
			if err := c.Fresh(t.Context(), time.Now()); err != nil {
				t.Error(err)
			}
			if c.Get(&k, time.Now(), &f) && f.Alive {
				return f.SubjectVersion
			}
			ticket := c.Begin(&k, modelProven(0))
			st := State{Grants: noGrants}
			if _, err := d.View(context.Background()).Row("SELECT version FROM scratch", nil, &st.Subject); err != nil {
				t.Error(err)
			}
			c.Publish(ticket, &st)
			return uint32(st.Subject)
		}
		stop := make(chan struct{})
		stopped := make(chan struct{})
		for range 4 {
			go func() {
				defer func() { stopped <- struct{}{} }()
				for {
					select {
					case <-stop:
						return
					default:
						read()
					}
				}
			}()
		}
		for v := range 300 {
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				_, err := tx.Exec("UPDATE scratch SET version = $1", v+1)
				return errors.Join(err, tx.Changed(subject))
			}); err != nil {
				t.Fatal(err)
			}
			if got := read(); got != uint32(v+1) {
				t.Errorf("after the write of version %d, version %d is found", v+1, got)
				break
			}
		}
		close(stop)
		for range 4 {
			<-stopped
		}
	})
}

// Two nodes with a handle each: what one writes, the other has heard of once the
// lease is over, whether or not a notification came.
func TestAnotherNodeHearsWithinTheLease(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		other := testkit.Again(t, d)
		const lease = 100 * time.Millisecond
		c := New(Config{DB: other, Lease: lease})
		defer c.Close()
		k := c.KeyOf(0, credential(0), false)
		for i := range 10 {
			if err := c.Fresh(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			c.Publish(c.Begin(&k, modelProven(0)), &State{Grants: noGrants})
			var f Found
			if !c.Get(&k, time.Now(), &f) || !f.Alive {
				t.Fatal("the control is not alive")
			}
			if err := d.Write(t.Context(), func(tx *db.Tx) error { return tx.Changed(uuid.UUID(id(0)).String()) }); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lease)
			if err := c.Fresh(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			if c.Get(&k, time.Now(), &f) && f.Alive {
				t.Fatal("round " + strconv.Itoa(i) + ": found as it was, a lease after the change")
			}
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lease)
		if err := c.Fresh(t.Context(), time.Now().Add(lease)); err == nil {
			t.Error("fresh although the database is closed")
		}
	})
}
