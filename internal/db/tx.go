package db

import (
	"context"
	"database/sql"
	"errors"
)

// Tx is a transaction. Its methods take no context on purpose: see DB.Write.
type Tx struct {
	ctx    context.Context // bounds statements over the network; never the caller's
	remote Remote          // nil: it is SQLite's one writer, and of that are
	c      *sql.Conn
	stmts  map[query]*sql.Stmt
	err    error // the first SQL error sticks

	changed   []string // whose authority it changes
	changedAt []int64  // the time of each
	happened  []Event  // what is told if it commits

	count, failAt int // statements run; which one is to fail, of a rehearsal
	trace         func(string)
}

func (t *Tx) stmt(q query) (*sql.Stmt, error) {
	s := t.stmts[q]
	if s == nil {
		var err error
		if s, err = t.c.PrepareContext(t.ctx, string(q)); err != nil {
			return nil, err
		}
		t.stmts[q] = s
	}
	return s, nil
}

// begin counts a statement, and refuses it after an error.
func (t *Tx) begin(q query) error {
	if t.trace != nil {
		t.trace(string(q))
	}
	t.count++
	if t.err == nil && t.count == t.failAt {
		t.err = &Error{"transaction", errRehearsal}
	}
	return t.err
}

func (t *Tx) fail(err error) error {
	if err != nil && t.err == nil {
		t.err = &Error{"transaction", err}
	}
	return t.err
}

// Exec runs a statement and returns how many rows it changed.
func (t *Tx) Exec(q query, args ...any) (int64, error) {
	if err := t.begin(q); err != nil {
		return 0, err
	}
	if t.remote != nil {
		n, err := t.remote.Exec(t.ctx, string(q), args)
		return n, t.fail(err)
	}
	s, err := t.stmt(q)
	if err != nil {
		return 0, t.fail(err)
	}
	res, err := s.Exec(args...)
	if err != nil {
		return 0, t.fail(err)
	}
	n, err := res.RowsAffected()
	return n, t.fail(err)
}

// Later runs a statement of which nothing is to be known but that it succeeds. Over a
// network it travels with the next one, or with the commit, and if it fails, so does
// that: until then args must stay as they are.
func (t *Tx) Later(q query, args ...any) error {
	if t.remote == nil {
		_, err := t.Exec(q, args...)
		return err
	}
	if err := t.begin(q); err != nil {
		return err
	}
	t.remote.Later(string(q), args)
	return nil
}

func (t *Tx) query(q query, args []any) (Rows, error) {
	if t.remote != nil {
		return t.remote.Query(t.ctx, string(q), args)
	}
	s, err := t.stmt(q)
	if err != nil {
		return nil, err
	}
	rows, err := s.Query(args...)
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// Row implements Reader.
func (t *Tx) Row(q query, args []any, dst ...any) (bool, error) {
	if err := t.begin(q); err != nil {
		return false, err
	}
	rows, err := t.query(q, args)
	if err != nil {
		return false, t.fail(err)
	}
	ok, err := first(rows, dst)
	return ok, t.fail(err)
}

// Rows implements Reader.
func (t *Tx) Rows(q query, args []any, each func(Scan) error) error {
	if err := t.begin(q); err != nil {
		return err
	}
	rows, err := t.query(q, args)
	if err != nil {
		return t.fail(err)
	}
	return all(rows, each, t.fail)
}

// run calls fn and makes the sticky error its result. A panic comes back as a
// value, so that the transaction can be undone before it goes on.
func (t *Tx) run(fn func(*Tx) error) (panicked any, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked, err = p, errPanic
		}
	}()
	if err := fn(t); err != nil {
		return nil, err
	}
	return nil, t.err
}

var errPanic = errors.New("the transaction's function panicked")
