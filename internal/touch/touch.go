// Package touch remembers when things were last used, without a write for each
// use: uses are gathered and stored together every few seconds, each thing once.
//
// What was gathered when the process is killed is lost. It is for what a person
// looks at, and for times that are only ever extended; nothing else.
package touch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// Bounds of what is gathered.
const (
	every   = 5 * time.Second
	maxHeld = 50_000 // things; a use of another one is noted the next time
	group   = 500    // in one transaction
)

// Touches gathers uses.
type Touches struct {
	db    *db.DB
	log   *slog.Logger
	store func(tx *db.Tx, id string, at time.Time) error

	mu   sync.Mutex
	used map[string]time.Time
	stop chan struct{}
	done chan struct{}
	once sync.Once
}

// New begins to gather. store writes one; it must do nothing for a thing that is
// gone. Close ends it.
func New(d *db.DB, log *slog.Logger, store func(tx *db.Tx, id string, at time.Time) error) *Touches {
	t := &Touches{
		db: d, log: log, store: store, used: map[string]time.Time{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go t.loop()
	return t
}

// Note records a use. It never blocks on the database.
func (t *Touches) Note(id string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.used[id]; ok && !at.After(last) || !ok && len(t.used) >= maxHeld {
		return
	}
	t.used[id] = at
}

// Close stores what was gathered and stops.
func (t *Touches) Close() {
	t.once.Do(func() { close(t.stop) })
	<-t.done
}

func (t *Touches) loop() {
	defer close(t.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.Flush()
		case <-t.stop:
			t.Flush()
			return
		}
	}
}

// Flush stores what was gathered so far.
func (t *Touches) Flush() {
	t.mu.Lock()
	used := t.used
	t.used = map[string]time.Time{}
	t.mu.Unlock()
	ids := make([]string, 0, len(used))
	for id := range used {
		ids = append(ids, id)
	}
	for len(ids) > 0 {
		part := ids[:min(group, len(ids))]
		ids = ids[len(part):]
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := t.db.Write(ctx, func(tx *db.Tx) error {
			for _, id := range part {
				if err := t.store(tx, id, used[id]); err != nil {
					return err
				}
			}
			return nil
		})
		cancel()
		if err != nil {
			t.log.Error("times of last use could not be stored", "number", len(part), "error", err)
		}
	}
}
