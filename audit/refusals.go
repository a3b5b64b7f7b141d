package audit

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
)

// Bounds: at once maxBurst events are taken, and perSecond of them again and again, so
// that somebody who is refused all day cannot fill the disk at the rate of the
// network. What is taken is written when the pause is over.
const (
	maxBurst  = 128
	perSecond = 256
	pause     = 50 * time.Millisecond
)

// Refusals writes events that belong to no change. Note never blocks: when
// more come than can be written, they are counted, and the count is written.
//
// Sign-ins that failed have a queue of their own, and so has what somebody known
// was refused: a flood of nonsense that says nothing about anybody must not
// hide that a password is being guessed. What was allowed or asked has another, so
// that nobody hides a refusal behind requests that are in order.
type Refusals struct {
	signIns, known, allowed, nonsense *writer
	dropped                           atomic.Uint64
}

// NewRefusals starts the writers. Close ends them.
func NewRefusals(d *db.DB, log *slog.Logger) *Refusals {
	return &Refusals{signIns: newWriter(d, log), known: newWriter(d, log), allowed: newWriter(d, log), nonsense: newWriter(d, log)}
}

// Note records an event soon.
func (r *Refusals) Note(ctx context.Context, e Event) {
	rec := record(ctx, e, time.Now())
	w := r.nonsense
	switch {
	case rec.Action == SignInRefused:
		w = r.signIns
	case rec.Action == AccessAllowed, rec.Action == PolicyChecked:
		w = r.allowed
	case rec.Actor != "":
		w = r.known
	}
	if !w.note(rec) {
		r.dropped.Add(1)
	}
}

// Measure returns how many refusals were not written one by one.
func (r *Refusals) Measure() []measure.Family {
	return []measure.Family{
		measure.One("sallyport_audit_dropped_total", "Refusals that came faster than they could be written: the audit log has their number only.", measure.Counter, float64(r.dropped.Load())),
	}
}

// Close writes what waits and stops.
func (r *Refusals) Close() {
	r.signIns.close()
	r.known.close()
	r.allowed.close()
	r.nonsense.close()
}

// Actions that are told apart.
const (
	CredentialRefused = "credential.refused" // a request whose credential was not good
	SignInRefused     = "signin.refused"
	AccessDenied      = "access.denied"  // somebody known was not let in
	AccessAllowed     = "access.allowed" // somebody was, and that was to be recorded
	PolicyChecked     = "policy.checked" // somebody asked what would be decided
)

type writer struct {
	db      *db.DB
	log     *slog.Logger
	queue   chan Record
	mu      sync.Mutex
	budget  float64   // how many may be taken now
	since   time.Time // when that was so
	dropped atomic.Int64
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once
}

func newWriter(d *db.DB, log *slog.Logger) *writer {
	w := &writer{db: d, log: log, queue: make(chan Record, 2*maxBurst), budget: maxBurst, since: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	go w.loop()
	return w
}

// take reports whether another event may be taken.
func (w *writer) take(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if passed := now.Sub(w.since).Seconds(); passed > 0 {
		w.budget, w.since = min(maxBurst, w.budget+passed*perSecond), now
	}
	if w.budget < 1 {
		return false
	}
	w.budget--
	return true
}

func (w *writer) note(e Record) bool {
	if !w.take(time.Now()) {
		w.dropped.Add(1)
		return false
	}
	select {
	case w.queue <- e:
		return true
	default:
		w.dropped.Add(1)
		return false
	}
}

func (w *writer) close() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

func (w *writer) loop() {
	defer close(w.done)
	for {
		select {
		case first := <-w.queue:
			timer := time.NewTimer(pause)
			w.write(w.collect(first, timer.C))
			timer.Stop()
		case <-w.stop:
			for {
				select {
				case first := <-w.queue:
					w.write(w.collect(first, nil))
				default:
					if w.dropped.Load() > 0 {
						w.write(nil)
					}
					return
				}
			}
		}
	}
}

// collect gathers a batch until the pause is over or, while stopping (no
// pause), the queue is empty.
func (w *writer) collect(first Record, over <-chan time.Time) []Record {
	batch := append(make([]Record, 0, 16), first)
	if over != nil {
		select {
		case <-over:
		case <-w.stop:
		}
	}
	for len(batch) < 2*maxBurst {
		select {
		case e := <-w.queue:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

func (w *writer) write(batch []Record) {
	if n := w.dropped.Swap(0); n > 0 {
		batch = append(batch, record(context.Background(), Event{
			Action: "audit.dropped", Result: Failure, Reason: "more refusals came than could be written",
			Detail: map[string]string{"events": strconv.FormatInt(n, 10)},
		}, time.Now()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := w.db.Write(ctx, func(tx *db.Tx) error {
		for _, e := range batch {
			if err := insert(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.log.Error("refusals could not be written to the audit log", "events", len(batch), "error", err)
	}
}
