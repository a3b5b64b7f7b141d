// Package cleanup deletes what has been of no use for long, so that no table grows
// without end.
//
// It decides whose turn it is: of all processes that serve a database, one at a
// time deletes. It does so in small transactions with pauses between them, so that
// others write meanwhile. What is old is the business of the rooms, each of which
// says it in a Step.
//
// The turn is one row. Whoever has it counts there, in every transaction that
// deletes something; whoever sees the count stand still for long takes the turn
// over. So no two clocks are compared, and one that was only slow finds its next
// transaction undone: an advisory lock of PostgreSQL would be lost with its
// connection while the deleting goes on over another, is not there behind a pooler,
// and has no counterpart on SQLite, where two processes may serve one file.
package cleanup

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
)

const (
	// Batch is the most rows that one transaction deletes: some milliseconds of
	// SQLite's one writer.
	Batch = 500

	// Skew is by how much a clock may be wrong. What is deleted was old that long
	// ago, so that the clock of one node ends nothing that is good on the others.
	Skew = time.Hour

	// patience is how many periods the turn of somebody lasts who does nothing.
	patience = 3

	shortestPause = 5 * time.Millisecond
	longestPause  = time.Second
	letGo         = 2 * time.Second // bounds giving the turn back
)

// Bounds of Config.Every.
const (
	MinEvery     = time.Second
	MaxEvery     = time.Hour
	DefaultEvery = 5 * time.Minute
)

// Step is one table of which rows go once they are old. It has either Delete or
// Run.
type Step struct {
	Table string

	// Delete deletes at most limit rows that have been of no use since before a
	// moment, and returns how many. It is run again while it finds as many as it may.
	Delete func(tx *db.Tx, before time.Time, limit int) (int64, error)

	// Run is for what needs more than a transaction. It keeps to Batch by itself, and
	// any number of nodes may run it at once.
	Run func(ctx context.Context) (int64, error)
}

// Config configures a Cleaner.
type Config struct {
	DB    *db.DB
	Steps []Step
	Every time.Duration    // default DefaultEvery
	Now   func() time.Time // by which rows are old
	Log   *slog.Logger
}

// Cleaner deletes what is old, when it is this process' turn.
type Cleaner struct {
	cfg Config
	me  string

	mu    sync.Mutex // one round at a time
	other turn       // whose turn it was when that last changed
	since time.Time  // when that was seen

	deleted []atomic.Uint64 // by step
	failed  atomic.Uint64
}

// New returns a Cleaner that waits for Run.
func New(cfg Config) *Cleaner {
	if cfg.Every == 0 {
		cfg.Every = DefaultEvery
	}
	return &Cleaner{cfg: cfg, me: uuid.NewString(), deleted: make([]atomic.Uint64, len(cfg.Steps))}
}

// Run has a round again and again until ctx ends, and then gives the turn back.
// The first comes after a tenth to a fifth of the period, so that nodes that start
// together do not all begin at once, and a program that ends soon begins nothing.
func (c *Cleaner) Run(ctx context.Context) {
	wait := time.NewTimer(c.cfg.Every/10 + rand.N(c.cfg.Every/10))
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			c.release(ctx)
			return
		case <-wait.C:
		}
		if _, err := c.Round(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("what is old could not all be deleted; it is tried again", "error", err)
		}
		wait.Reset(c.cfg.Every*9/10 + rand.N(c.cfg.Every/5))
	}
}

// Round deletes everything that is old, if it is this process' turn or it can have
// it, and reports whether it was. What fails keeps nothing else from being deleted.
func (c *Cleaner) Round(ctx context.Context) (mine bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if mine, err := c.take(ctx); err != nil || !mine {
		return false, err
	}
	var errs []error
	for i, s := range c.cfg.Steps {
		n, err := c.step(ctx, s, &c.deleted[i])
		switch {
		case errors.Is(err, errLost):
			return true, errors.Join(errs...)
		case ctx.Err() != nil:
			return true, ctx.Err()
		case err != nil:
			c.failed.Add(1)
			errs = append(errs, &stepError{s.Table, err})
		case n > 0:
			c.cfg.Log.Info("deleted what was old", "table", s.Table, "rows", n)
		}
	}
	if errs == nil {
		err := c.cfg.DB.Write(ctx, func(tx *db.Tx) error { return finish(tx, c.me, c.cfg.Now()) })
		if err != nil && !errors.Is(err, errLost) {
			errs = append(errs, err)
		}
	}
	return true, errors.Join(errs...)
}

type stepError struct {
	table string
	err   error
}

func (e *stepError) Error() string { return e.table + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// errLost is that another process has taken the turn meanwhile.
var errLost = errors.New("it is another node's turn to delete")

// take reports whether it is our turn, if need be after taking it.
func (c *Cleaner) take(ctx context.Context) (bool, error) {
	now, err := readTurn(c.cfg.DB.View(ctx))
	if err != nil {
		return false, err
	}
	if now.holder != "" && now.holder != c.me {
		if now != c.other || c.since.IsZero() {
			c.other, c.since = now, time.Now()
			return false, nil
		}
		if time.Since(c.since) < patience*c.cfg.Every {
			return false, nil
		}
	}
	mine := false
	err = c.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		mine, err = takeTurn(tx, now, c.me)
		return err
	})
	if mine && err == nil && now.holder != c.me {
		c.cfg.Log.Info("deleting what is old is this node's turn", "before", now.holder)
	}
	return mine && err == nil, err
}

// step deletes in batches until there is nothing left to delete.
func (c *Cleaner) step(ctx context.Context, s Step, count *atomic.Uint64) (total int64, err error) {
	if s.Run != nil {
		n, err := s.Run(ctx)
		count.Add(uint64(n))
		return n, err
	}
	before := c.cfg.Now().Add(-Skew)
	for {
		var n int64
		began := time.Now()
		err := c.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
			if n, err = s.Delete(tx, before, Batch); err != nil || n == 0 {
				return err
			}
			return beat(tx, c.me)
		})
		if err != nil {
			return total, err
		}
		total += n
		count.Add(uint64(n))
		if n < Batch {
			return total, nil
		}
		// At least as long as the batch took: no more than half of the writer's time
		// is ours.
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(min(max(time.Since(began), shortestPause), longestPause)):
		}
	}
}

// release lets another process have the turn at once.
func (c *Cleaner) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer cancel()
	if now, err := readTurn(c.cfg.DB.View(ctx)); err != nil || now.holder != c.me {
		return // it was not ours, or it will be taken
	}
	_ = c.cfg.DB.Write(ctx, func(tx *db.Tx) error { return giveTurn(tx, c.me) })
}

// Measure returns what was deleted by this process. rd reads when all was done
// last, by whichever process; nil leaves that out.
func (c *Cleaner) Measure(rd db.Reader) []measure.Family {
	rows := measure.Family{Name: "sallyport_cleanup_deleted_total", Help: "Rows that this process deleted because they were old, by table (docs/database.md).", Kind: measure.Counter, Labels: []string{"table"}}
	for i, s := range c.cfg.Steps {
		rows.Points = append(rows.Points, measure.Point{Labels: []string{s.Table}, Value: float64(c.deleted[i].Load())})
	}
	all := []measure.Family{
		rows,
		measure.One("sallyport_cleanup_failures_total", "How often this process could not delete what was old in a table.", measure.Counter, float64(c.failed.Load())),
	}
	if rd == nil {
		return all
	}
	age := measure.Family{Name: "sallyport_cleanup_age_seconds", Help: "How long ago everything that was old had been deleted, by whichever node; absent if never yet.", Kind: measure.Gauge}
	if at, found, err := readFinished(rd); err == nil && found {
		age.Points = []measure.Point{{Value: max(0, c.cfg.Now().Sub(at).Seconds())}}
	}
	return append(all, age)
}
