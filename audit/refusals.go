package audit

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// Bounds: at most maxBatch events are written every pause, so that somebody
// who is refused all day cannot fill the disk at the rate of the network.
const (
	maxWaiting = 64
	maxBatch   = 64
	pause      = 250 * time.Millisecond
)

// Refusals writes events that belong to no change. Note never blocks: when
// more come than can be written, they are counted, and the count is written.
type Refusals struct {
	db      *db.DB
	log     *slog.Logger
	queue   chan Record
	dropped atomic.Int64
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once
}

// NewRefusals starts the writer. Close ends it.
func NewRefusals(d *db.DB, log *slog.Logger) *Refusals {
	r := &Refusals{db: d, log: log, queue: make(chan Record, maxWaiting), stop: make(chan struct{}), done: make(chan struct{})}
	go r.loop()
	return r
}

// Note records an event soon.
func (r *Refusals) Note(ctx context.Context, e Event) {
	select {
	case r.queue <- record(ctx, e, time.Now()):
	default:
		r.dropped.Add(1)
	}
}

// Close writes what waits and stops.
func (r *Refusals) Close() {
	r.once.Do(func() { close(r.stop) })
	<-r.done
}

func (r *Refusals) loop() {
	defer close(r.done)
	for {
		select {
		case first := <-r.queue:
			timer := time.NewTimer(pause)
			r.write(r.collect(first, timer.C))
			timer.Stop()
		case <-r.stop:
			for {
				select {
				case first := <-r.queue:
					r.write(r.collect(first, nil))
				default:
					return
				}
			}
		}
	}
}

// collect gathers a batch until the pause is over or, while stopping (no
// pause), the queue is empty. A full batch waits for the pause too.
func (r *Refusals) collect(first Record, over <-chan time.Time) []Record {
	batch := append(make([]Record, 0, 16), first)
	for {
		queue := r.queue
		if len(batch) == maxBatch {
			queue = nil
		}
		if over == nil {
			select {
			case e := <-queue:
				batch = append(batch, e)
				continue
			default:
				return batch
			}
		}
		select {
		case e := <-queue:
			batch = append(batch, e)
		case <-over:
			return batch
		case <-r.stop:
			return batch
		}
	}
}

func (r *Refusals) write(batch []Record) {
	if n := r.dropped.Swap(0); n > 0 {
		batch = append(batch, record(context.Background(), Event{
			Action: "audit.dropped", Result: Failure, Reason: "more refusals came than could be written",
			Detail: map[string]string{"events": strconv.FormatInt(n, 10)},
		}, time.Now()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := r.db.Write(ctx, func(tx *db.Tx) error {
		for _, e := range batch {
			if err := insert(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.log.Error("refusals could not be written to the audit log", "events", len(batch), "error", err)
	}
}
