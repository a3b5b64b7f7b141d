package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
)

const (
	// sinkPoll is how often it is looked whether another node has sealed something.
	sinkPoll = time.Second
	// sinkHold is for how long one node hands on, unless it goes on.
	sinkHold = 30 * time.Second
	// sinkSkew is by how much the clocks of two nodes may differ. If it is more, events
	// come twice.
	sinkSkew = 10 * time.Minute
	// sinkTry bounds one delivery. It is shorter than sinkHold, so that the next node
	// begins when it is over.
	sinkTry = 15 * time.Second
	// sinkBatch is how many events are handed on at once, about.
	sinkBatch = 500
	// Pauses after failures.
	minAgain, maxAgain = time.Second, time.Minute
)

// SinksConfig says where else events go.
type SinksConfig struct {
	Log           bool   // the server's log
	File          string // path; "" for none
	Syslog        string // CheckSyslog; "" for none
	Webhook       string // CheckWebhook; "" for none
	WebhookSecret []byte // that signs; CheckWebhookSecret
}

// Check returns what is wrong with the configuration.
func (c SinksConfig) Check() error {
	var errs []error
	if c.Syslog != "" {
		errs = append(errs, CheckSyslog(c.Syslog))
	}
	if c.Webhook != "" {
		errs = append(errs, CheckWebhook(c.Webhook), CheckWebhookSecret(c.WebhookSecret))
	}
	return errors.Join(errs...)
}

// Sinks hand sealed events on, in order, each at least once. How far they are stands
// in the database, and one node at a time hands on: what could not be delivered is
// tried again, by another node if this one ends.
type Sinks struct {
	db     *db.DB
	log    *slog.Logger
	node   string // this process
	all    []*sink
	cancel context.CancelFunc
	done   sync.WaitGroup
	unhear func()
}

// sink is one place where events go.
type sink struct {
	name    string // with the destination: another one begins anew
	kind    string
	deliver func(ctx context.Context, b batch) error
	close   func()
	wake    chan struct{}

	delivered, failed atomic.Uint64
}

// batch is what is delivered at once: the events of some seals, in order.
type batch struct {
	from, to int64 // numbers of seals
	events   []Record
	head     Head // of the last of them
}

// NewSinks begins to hand on. Close ends it.
func NewSinks(c SinksConfig, d *db.DB, chain *Chain, log *slog.Logger) *Sinks {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sinks{db: d, log: log, node: uuid.NewString(), cancel: cancel}
	if c.Log {
		s.all = append(s.all, &sink{name: "log", kind: "log", deliver: logSink(log)})
	}
	if c.File != "" {
		f := &fileSink{path: c.File, log: log}
		s.all = append(s.all, &sink{name: "file:" + c.File, kind: "file", deliver: f.deliver, close: f.close})
	}
	if c.Syslog != "" {
		f := newSyslog(c.Syslog)
		s.all = append(s.all, &sink{name: "syslog:" + c.Syslog, kind: "syslog", deliver: f.deliver, close: f.close})
	}
	if c.Webhook != "" {
		w := newWebhook(c.Webhook, c.WebhookSecret)
		s.all = append(s.all, &sink{name: "webhook:" + w.name(), kind: "webhook", deliver: w.deliver, close: w.client.CloseIdleConnections})
	}
	for _, k := range s.all {
		k.wake = make(chan struct{}, 1)
		s.done.Go(func() { s.run(ctx, k, chain) })
	}
	s.unhear = chain.onSeal(func() {
		for _, k := range s.all {
			select {
			case k.wake <- struct{}{}:
			default:
			}
		}
	})
	return s
}

// Close stops. What was not delivered is, by the next who runs.
func (s *Sinks) Close() {
	s.cancel()
	s.done.Wait()
	s.unhear()
	ctx, cancel := context.WithTimeout(context.Background(), sinkTry)
	defer cancel()
	// Without it the next would wait until the hold is over.
	err := s.db.Write(db.Loosely(ctx), func(tx *db.Tx) error { return releaseSinks(tx, s.node) })
	if err != nil && len(s.all) > 0 {
		s.log.Warn("sinks of the audit log could not be let go; others go on in half a minute", "error", err)
	}
}

// Measure returns what is known of the sinks here.
func (s *Sinks) Measure() []measure.Family {
	delivered := measure.Family{Name: "sallyport_audit_delivered_total", Help: "Events of the audit log that this process has handed on, by sink.", Kind: measure.Counter, Labels: []string{"sink"}}
	failed := measure.Family{Name: "sallyport_audit_delivery_failures_total", Help: "Deliveries of the audit log that failed, and were tried again, by sink.", Kind: measure.Counter, Labels: []string{"sink"}}
	for _, k := range s.all {
		delivered.Points = append(delivered.Points, measure.Point{Labels: []string{k.kind}, Value: float64(k.delivered.Load())})
		failed.Points = append(failed.Points, measure.Point{Labels: []string{k.kind}, Value: float64(k.failed.Load())})
	}
	return []measure.Family{delivered, failed}
}

func (s *Sinks) run(ctx context.Context, k *sink, chain *Chain) {
	if k.close != nil {
		defer k.close()
	}
	poll := time.NewTicker(sinkPoll)
	defer poll.Stop()
	again, told := minAgain, time.Time{}
	for {
		err := s.handOn(ctx, k, chain)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.failed.Add(1)
			if now := time.Now(); now.Sub(told) >= maxAgain { // not every second
				s.log.Error("events of the audit log could not be handed on; it is tried again until it succeeds", "sink", k.kind, "error", err)
				told = now
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(again):
			}
			again = min(2*again, maxAgain)
			continue
		case again > minAgain:
			s.log.Info("events of the audit log are handed on again", "sink", k.kind)
			again, told = minAgain, time.Time{}
		}
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-poll.C:
		}
	}
}

// handOn delivers everything that is sealed, if this node is the one that does.
func (s *Sinks) handOn(ctx context.Context, k *sink, chain *Chain) error {
	for {
		v := s.db.View(ctx)
		at, found, err := sinkAt(v, k.name) // first, so that no node can have moved it beyond the last seal
		if err != nil {
			return err
		}
		last, any, err := lastSeal(v)
		if err != nil || !any || found && at == last.number {
			return err
		}
		if found && at > last.number {
			chain.damaged.Add(1)
			s.log.Error("somebody has noted of events of the audit log that do not exist that they were handed on; what is sealed from now on is, and what was before may be missing there", "sink", k.kind, "noted", at, "last", last.number)
			if err := s.db.Write(db.Loosely(ctx), func(tx *db.Tx) error { return moveSinkBack(tx, k.name, at, last.number) }); err != nil {
				return err
			}
			continue
		}
		mine := false
		if err := s.db.Write(db.Loosely(ctx), func(tx *db.Tx) (err error) {
			mine, err = holdSink(tx, k.name, s.node, last.number, time.Now())
			return err
		}); err != nil || !mine {
			return err
		}
		// A new sink begins with what comes.
		if at, found, err = sinkAt(v, k.name); err != nil || !found || at >= last.number {
			return err
		}
		b, err := s.batch(v, k, at, chain)
		if err != nil || b.to == at {
			return err
		}
		try, cancel := context.WithTimeout(ctx, sinkTry)
		err = k.deliver(try, b)
		cancel()
		if err != nil {
			return err
		}
		k.delivered.Add(uint64(len(b.events)))
		noting := db.Loosely(context.WithoutCancel(ctx)) // who stops in order leaves nothing to come twice
		if err := s.db.Write(noting, func(tx *db.Tx) error { return moveSink(tx, k.name, s.node, b.to, time.Now()) }); err != nil {
			return err
		}
	}
}

// batch reads what comes behind a seal.
func (s *Sinks) batch(rd db.Reader, k *sink, after int64, chain *Chain) (batch, error) {
	b := batch{from: after + 1, to: after}
	cut, _, err := readCut(rd)
	if err != nil {
		return b, err
	}
	if cut.number > after {
		s.log.Error("events of the audit log were deleted by retention before they could be handed on", "sink", k.kind, "seals", cut.number-after)
		b.from, b.to = cut.number+1, cut.number
	}
	for len(b.events) < sinkBatch {
		some, err := seals(rd, b.to, 1)
		if err != nil || len(some) == 0 {
			return b, err
		}
		events, err := listed(rd, some[0])
		if err != nil {
			return b, err
		}
		b.events, b.to, b.head = append(b.events, events...), some[0].number, some[0].head(chain.Key())
	}
	return b, nil
}

// Line returns an event as one line of JSON, which says what schema it is of. What
// could move a cursor or turn text around is escaped.
func Line(r Record) []byte {
	r.At = sayable(r.At)
	return line(struct {
		Schema string `json:"schema"`
		Record
	}{eventSchema, r})
}

func headLine(h Head) []byte {
	return line(struct {
		Schema string `json:"schema"`
		Head
	}{headSchema, h})
}

// sayable is the time, or the end of what RFC 3339 can say: a time beyond is none that
// a server has written, and whoever put it into the database is not to stop the others
// from being read.
func sayable(t time.Time) time.Time {
	switch {
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	case t.Year() < 0:
		return time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return t
}

func line(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, times and numbers always marshal
	}
	return append(escaped(b), '\n')
}

// escaped writes what is not to be printed as JSON has it escaped; in what is JSON it
// stands in strings only.
func escaped(b []byte) []byte {
	if bytes.IndexFunc(b, unprintable) < 0 {
		return b
	}
	out := make([]byte, 0, len(b)+16)
	for _, r := range string(b) {
		switch {
		case !unprintable(r):
			out = append(out, string(r)...)
		case r > 0xffff:
			out = fmt.Appendf(out, "\\u%04x\\u%04x", 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			out = fmt.Appendf(out, "\\u%04x", r)
		}
	}
	return out
}

// unprintable are control and format characters: among them ESC, those that turn the
// direction of text, and those that nobody sees.
func unprintable(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

// Printable returns a text with what is not to be printed escaped.
func Printable(s string) string { return string(escaped([]byte(s))) }

// lines returns a batch as lines of JSON, its head last.
func (b batch) lines() []byte {
	var out []byte
	for _, r := range b.events {
		out = append(out, Line(r)...)
	}
	return append(out, headLine(b.head)...)
}

// logSink writes events to the server's log.
func logSink(log *slog.Logger) func(context.Context, batch) error {
	return func(ctx context.Context, b batch) error {
		for _, r := range b.events {
			attrs := []slog.Attr{slog.String("id", r.ID), slog.Time("at", r.At), slog.String("result", string(r.Result))}
			for _, a := range [][2]string{
				{"actor", r.Actor},
				{"actor_kind", r.ActorKind},
				{"target", r.Target},
				{"reason", r.Reason},
				{"session", r.Session},
				{"address", r.Address},
				{"user_agent", r.UserAgent},
				{"request_id", r.RequestID},
				{"decision_id", r.DecisionID},
			} {
				if a[1] != "" {
					attrs = append(attrs, slog.String(a[0], Printable(a[1])))
				}
			}
			if len(r.Detail) > 0 {
				detail := make([]any, 0, len(r.Detail))
				for k, v := range r.Detail {
					detail = append(detail, slog.String(Printable(k), Printable(v)))
				}
				attrs = append(attrs, slog.Group("detail", detail...))
			}
			log.LogAttrs(ctx, slog.LevelInfo, "audit: "+r.Action, attrs...)
		}
		return nil
	}
}

var errNotAccepted = errors.New("it was not accepted")
