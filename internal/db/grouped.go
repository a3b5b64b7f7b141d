package db

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"strings"
	"sync"
)

// maxGroup bounds how many transactions share one commit. Measured with
// synchronous=FULL on one core: groups of 32 about seven times the rate of
// single commits, 64 about ten times.
const maxGroup = 64

// grouped is SQLite's one writer: concurrent transactions, a savepoint each,
// share one durable commit.
type grouped struct {
	db    *DB
	conn  *sql.Conn
	stmts map[query]*sql.Stmt
	queue chan *job
	done  chan struct{}

	mu     sync.RWMutex // held for reading while sending, so that Close can be sure
	closed bool
}

type job struct {
	ctx      context.Context
	fn       func(*Tx) error
	tx       *Tx // of its last run
	err      error
	panicked any
	done     chan struct{}
}

func (j *job) finish() { close(j.done) }

// NewGrouped returns a DB over a SQLite file: writer is its one connection
// that writes, readers its pool that only reads. name and dir describe it.
func NewGrouped(name, dir string, writer *sql.Conn, readers *sql.DB, closeAll func() error, m Migrations) *DB {
	g := &grouped{
		conn: writer, stmts: map[query]*sql.Stmt{},
		queue: make(chan *job, 4*maxGroup), done: make(chan struct{}),
	}
	g.db = &DB{
		dialect: SQLite, name: name, dir: dir, readers: readers,
		write: g.write, stmts: &stmtCache{db: readers},
		close: func() error {
			if !g.stop() {
				return nil
			}
			return closeAll()
		},
		migrate: migrator{m}, queued: func() int { return len(g.queue) },
	}
	g.db.counts.init()
	go g.loop()
	return g.db
}

func (g *grouped) write(ctx context.Context, fn func(*Tx) error) error {
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	if err := g.enqueue(j); err != nil {
		return err
	}
	<-j.done
	if j.panicked != nil {
		panic(j.panicked)
	}
	return j.err
}

func (g *grouped) enqueue(j *job) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return &Error{"write", ErrClosed}
	}
	select {
	case g.queue <- j:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

func (g *grouped) stop() bool {
	g.mu.Lock()
	first := !g.closed
	if first {
		g.closed = true
		close(g.queue)
	}
	g.mu.Unlock()
	<-g.done
	return first
}

func (g *grouped) loop() {
	defer close(g.done)
	group := make([]*job, 0, maxGroup)
	for j := range g.queue {
		group = append(group[:0], j)
		// Let those who are about to write come in. A send to a waiting
		// goroutine runs it next: on one processor every group would be one job.
		runtime.Gosched()
	fill:
		for len(group) < maxGroup {
			select {
			case k, ok := <-g.queue:
				if !ok {
					break fill
				}
				group = append(group, k)
			default:
				break fill
			}
		}
		g.commit(group)
	}
	for _, s := range g.stmts {
		s.Close()
	}
}

func (g *grouped) tx() *Tx {
	return &Tx{ctx: context.Background(), c: g.conn, stmts: g.stmts}
}

func (g *grouped) exec(q query) error {
	_, err := g.tx().Exec(q)
	return err
}

func (g *grouped) run(j *job) error {
	if j.err = j.ctx.Err(); j.err == nil {
		j.tx = g.tx()
		j.panicked, j.err = j.tx.run(j.fn)
	}
	return j.err
}

// commit runs a group in one transaction. When the engine has ended the whole
// transaction under one job (a full disk does that), that job fails and the
// others run again, each alone, so that one cannot take the others with it.
func (g *grouped) commit(group []*job) {
	if len(group) == 1 {
		g.single(group[0])
		return
	}
	g.db.counts.commits.Add(1)
	if err := g.exec("BEGIN IMMEDIATE"); err != nil {
		fail(group, err)
		return
	}
	for i, j := range group {
		if g.savepoint(j) {
			continue
		}
		_ = g.exec("ROLLBACK") // it may be gone already
		for k, other := range group {
			if k == i {
				other.finish()
				continue
			}
			other.panicked = nil
			g.single(other)
		}
		return
	}
	err := g.unsealed(group)
	if err == nil {
		err = g.exec("COMMIT")
	}
	if err != nil {
		_ = g.exec("ROLLBACK")
		// All of them: an error that one found may rest on what another wrote
		// and what is not there now.
		for _, j := range group {
			j.err = err
		}
	}
	for _, j := range group {
		if j.err == nil {
			g.db.announce(j.tx)
		}
		j.finish()
	}
}

// savepoint runs one job of a group and reports whether the group's
// transaction is still whole.
func (g *grouped) savepoint(j *job) bool {
	if err := g.exec("SAVEPOINT job"); err != nil {
		j.err = err
		return false
	}
	if g.run(j) != nil {
		if err := g.exec("ROLLBACK TO job"); err != nil {
			return false
		}
	}
	if err := g.exec("RELEASE job"); err != nil {
		j.err = errors.Join(j.err, err)
		return false
	}
	return true
}

func (g *grouped) single(j *job) {
	defer j.finish()
	g.db.counts.commits.Add(1)
	if err := g.exec("BEGIN IMMEDIATE"); err != nil {
		j.err = err
		return
	}
	if g.run(j) == nil {
		if j.err = g.unsealed([]*job{j}); j.err == nil {
			j.err = g.exec("COMMIT")
		}
		if j.err == nil {
			g.db.announce(j.tx)
			return
		}
	}
	_ = g.exec("ROLLBACK")
}

// unsealed puts the events of a group on the list of those that wait to be sealed.
func (g *grouped) unsealed(group []*job) error {
	var ids []string
	for _, j := range group {
		if j.err != nil {
			continue
		}
		for _, e := range j.tx.happened {
			if e.ID != "" {
				ids = append(ids, e.ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := g.tx().Exec("INSERT INTO sp_audit_waiting (id, more) VALUES ($1, $2)", ids[0], strings.Join(ids[1:], ""))
	return err
}

func fail(group []*job, err error) {
	for _, j := range group {
		j.err = err
		j.finish()
	}
}

// NewFrozen returns a DB over a SQLite file that is only read: its writes fail.
func NewFrozen(name string, readers *sql.DB, closeAll func() error, m Migrations) *DB {
	d := &DB{
		dialect: SQLite, name: name, readers: readers, stmts: &stmtCache{db: readers}, close: closeAll,
		write:   func(context.Context, func(*Tx) error) error { return &Error{"write", errFrozen} },
		migrate: migrator{m},
	}
	d.counts.init()
	return d
}

var errFrozen = errors.New("it was opened for reading only")
