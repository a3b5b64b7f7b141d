package mail

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Config is what an Outbox needs.
type Config struct {
	DB *db.DB
	// Sender sends. Nil: there is no mail, nothing is stored, and Enabled says so.
	Sender Sender
	// Key is a secret of the server of 32 bytes that is used for nothing else: letters
	// that wait are sealed under it.
	Key []byte
	// Writer makes messages of letters.
	Writer *Writer
	// Recipient finds whose account it is.
	Recipient func(rd db.Reader, subject string) (r Recipient, found bool, err error)
	// May counts a notice to an address, and reports whether it may be sent. Nil:
	// always.
	May func(tx *db.Tx, address string, k Kind) (bool, error)
	Log *slog.Logger // default: discarded
	Now func() time.Time
}

// Outbox keeps letters until they have been sent. Any number of nodes on one
// database send from it; each letter is sent by one of them, again if that one
// dies while it does.
type Outbox struct {
	cfg    Config
	aead   cipher.AEAD
	server holding
}

// New returns an Outbox.
func New(cfg Config) (*Outbox, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	block, err := aes.NewCipher(cfg.Key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Outbox{cfg: cfg, aead: aead}, nil
}

// Enabled reports whether letters are sent at all.
func (o *Outbox) Enabled() bool { return o != nil && o.cfg.Sender != nil }

// letter is what is sealed.
type letter struct {
	To    string `json:"to"`
	Facts Facts  `json:"facts"`
}

// Queue stores a letter in the transaction of what it tells of: it is sent if that
// commits. Without mail it does nothing.
func (o *Outbox) Queue(ctx context.Context, tx *db.Tx, l Letter) error {
	if !o.Enabled() {
		return nil
	}
	now := o.cfg.Now()
	if l.Facts.At.IsZero() {
		l.Facts.At = now
	}
	if l.Until.IsZero() {
		l.Until = now.Add(NoticeLife)
	} else if l.Facts.Until.IsZero() {
		l.Facts.Until = l.Until
	}
	if i := reqctx.InfoFrom(ctx); l.Facts.Client == "" {
		l.Facts.Client, l.Facts.Device = i.Address, i.UserAgent
	}
	id := uuid.Must(uuid.NewV7()).String()
	sealed, err := o.seal(id, letter{l.To, l.Facts})
	if err != nil {
		return err
	}
	return insert(tx, row{id: id, subject: l.Subject, kind: l.Kind, sealed: sealed, expires: l.Until}, now)
}

// Notify queues a notice to the person whose account it is. A subject that is no
// person's is told nothing.
func (o *Outbox) Notify(ctx context.Context, tx *db.Tx, subject string, k Kind, f Facts) error {
	if !o.Enabled() {
		return nil
	}
	r, found, err := o.cfg.Recipient(tx, subject)
	if err != nil || !found {
		return err
	}
	f.Name = r.Name
	return o.Tell(ctx, tx, Letter{Kind: k, To: r.Address, Subject: subject, Facts: f})
}

// Tell queues a notice, unless its address has had as many of its kind as it may:
// the address may be that of somebody who has nothing to do with the account. Who has
// no address is told nothing.
func (o *Outbox) Tell(ctx context.Context, tx *db.Tx, l Letter) error {
	if l.To == "" {
		return nil
	}
	if o.Enabled() && o.cfg.May != nil {
		if may, err := o.cfg.May(tx, l.To, l.Kind); err != nil || !may {
			return err
		}
	}
	return o.Queue(ctx, tx, l)
}

func (o *Outbox) seal(id string, l letter) ([]byte, error) {
	plain, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, o.aead.NonceSize(), o.aead.NonceSize()+len(plain)+o.aead.Overhead())
	rand.Read(nonce)
	return o.aead.Seal(nonce, nonce, plain, []byte(id)), nil
}

var errDamaged = errors.New("the letter cannot be opened: it was changed, or sealed by a server with other keys")

func (o *Outbox) open(r row) (l letter, err error) {
	n := o.aead.NonceSize()
	if len(r.sealed) < n {
		return l, errDamaged
	}
	plain, err := o.aead.Open(nil, r.sealed[:n], r.sealed[n:], []byte(r.id))
	if err != nil {
		return l, errDamaged
	}
	return l, json.Unmarshal(plain, &l)
}

const (
	// pollEvery is how often it is looked for letters that are due.
	pollEvery = time.Second
	// batch is how many letters one node takes at a time, of which as many as there
	// are senders are under way at once.
	batch   = 20
	senders = 4
	// sendTimeout bounds one attempt. A letter whose sender died is due again after
	// claimFor, in which a whole batch of slow ones ends.
	sendTimeout = 30 * time.Second
	claimFor    = 5 * time.Minute
	// grace is what letters that are under way get when the server is being stopped:
	// one that was cut could have been sent, and would be sent again.
	grace = 5 * time.Second
	// tooMany failures without a success between them are the mail server's.
	tooMany = 10
)

// backoff is how long after an attempt that failed the next one is made; away is
// the same for all letters together, while the mail server takes none.
var (
	backoff = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}
	away    = []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute}
)

// holding is what a node has found out about the mail server.
type holding struct {
	mu     sync.Mutex
	until  time.Time // nothing is sent before
	times  int       // how often in a row
	failed int       // letters in a row
}

// hold keeps everything back after a failure that is not a letter's. Of those that
// fail together the first counts.
func (h *holding) hold(now time.Time) (until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !now.Before(h.until) {
		h.until = now.Add(away[min(h.times, len(away)-1)])
		h.times++
	}
	return h.until
}

// note takes down how a letter fared.
func (h *holding) note(now time.Time, accepted bool) {
	h.mu.Lock()
	if accepted {
		h.until, h.times, h.failed = time.Time{}, 0, 0
	} else {
		h.failed++
	}
	many := h.failed >= tooMany
	if many {
		h.failed = 0
	}
	h.mu.Unlock()
	if many {
		h.hold(now)
	}
}

// most is how many letters may be tried now. One finds out whether the mail server
// is back.
func (h *holding) most(now time.Time) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case now.Before(h.until):
		return 0
	case h.times > 0:
		return 1
	}
	return batch
}

// Run sends until ctx ends.
func (o *Outbox) Run(ctx context.Context) {
	if !o.Enabled() {
		return
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := o.Deliver(ctx); err != nil && ctx.Err() == nil {
			o.cfg.Log.Error("letters that wait could not be read; it is tried again", "error", err)
		}
	}
}

// Deliver sends what is due now. It returns when every such letter has been tried
// once, or the mail server has turned out to take none.
func (o *Outbox) Deliver(ctx context.Context) error {
	if !o.Enabled() {
		return nil
	}
	if _, err := o.Sweep(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		most := o.server.most(o.cfg.Now())
		if most == 0 {
			return nil
		}
		due, err := readDue(o.cfg.DB.View(ctx), o.cfg.Now(), most)
		if err != nil || len(due) == 0 {
			return err
		}
		mine, err := o.claim(ctx, due)
		if err != nil {
			return err
		}
		if err := o.deliverAll(ctx, mine); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// claim takes letters that were read, to send them: of any number of nodes, one
// gets each.
func (o *Outbox) claim(ctx context.Context, due []row) (mine []row, err error) {
	until := o.cfg.Now().Add(claimFor)
	err = o.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		mine = mine[:0]
		for _, r := range due {
			ok, err := claim(tx, r, until)
			if err != nil {
				return err
			}
			if ok {
				r.attempts++
				r.claim = db.Micros(until)
				mine = append(mine, r)
			}
		}
		return nil
	})
	return mine, err
}

// deliverAll tries letters once each. Those that are left over when the server is
// being stopped, or the mail server takes none, are given back.
func (o *Outbox) deliverAll(ctx context.Context, mine []row) error {
	work := make(chan row, len(mine))
	for _, r := range mine {
		work <- r
	}
	close(work)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var left []row
	for range min(senders, len(mine)) {
		wg.Go(func() {
			for r := range work {
				now := o.cfg.Now()
				late := !now.Add(sendTimeout).Before(db.Time(r.claim)) // another node is about to take it
				if ctx.Err() != nil || o.server.most(now) == 0 || late {
					mu.Lock()
					left = append(left, r)
					mu.Unlock()
					continue
				}
				if err := o.deliver(ctx, r); err != nil {
					o.cfg.Log.Error("a letter could not be kept track of; it may be sent again", "letter", r.id, "error", err)
				}
			}
		})
	}
	wg.Wait()
	if len(left) == 0 {
		return nil
	}
	return o.cfg.DB.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		for _, r := range left {
			if err := release(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// deliver tries one letter once, and stores what came of it even if the server is
// being stopped.
func (o *Outbox) deliver(ctx context.Context, r row) error {
	stored := context.WithoutCancel(ctx)
	l, err := o.open(r)
	switch {
	case err != nil: // as when it is refused: it will not open next time either
		return o.lose(stored, r, err.Error())
	case l.To == "":
		return o.remove(stored, r, nil)
	case !o.cfg.Now().Before(r.expires):
		return o.lose(stored, r, expired)
	}
	secrets, err := o.send(ctx, r, l)
	now := o.cfg.Now()
	if err == nil {
		o.server.note(now, true)
		return o.remove(stored, r, &audit.Event{Action: "mail.sent", Target: r.subject, Detail: map[string]string{"kind": string(r.kind), "letter": r.id}})
	}
	why := scrub(err.Error(), secrets...)
	if errors.Is(err, ErrRefused) {
		o.server.note(now, true) // the server answers
		return o.lose(stored, r, why)
	}
	again := now.Add(backoff[min(int(r.attempts)-1, len(backoff)-1)])
	switch {
	case ctx.Err() != nil: // cut by the end of this server
		again = now
	case errors.Is(err, ErrAway):
		// It goes behind those that have waited for longer: if it is its own fault after
		// all, they are tried before it.
		again = o.server.hold(now)
	default:
		o.server.note(now, false)
	}
	if again.After(r.expires) {
		again = r.expires // when it is given up
	}
	o.cfg.Log.Warn("a letter could not be sent; it is tried again", "letter", r.id, "kind", string(r.kind), "attempt", r.attempts, "at", again, "error", why)
	return o.cfg.DB.Write(stored, func(tx *db.Tx) error { return postpone(tx, r, again, now, why) })
}

// send writes a letter and hands it over. A template or a sender that panics has
// failed, and does not end the server.
func (o *Outbox) send(ctx context.Context, r row, l letter) (secrets []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("whoever writes or sends letters panicked")
			o.cfg.Log.Error("sending a letter panicked", "letter", r.id, "kind", string(r.kind), "stack", string(debug.Stack()))
		}
	}()
	m, err := o.cfg.Writer.Write(r.id, r.kind, l.To, l.Facts)
	if err != nil {
		return Message{To: l.To, Link: l.Facts.Token, Code: l.Facts.Code}.secrets(), err
	}
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()
	return m.secrets(), o.cfg.Sender.Send(sending, m)
}

const expired = "it expired before it could be sent"

// lose gives a letter up, and says so.
func (o *Outbox) lose(ctx context.Context, r row, why string) error {
	o.logLost(r, why)
	return o.remove(ctx, r, r.lost(why))
}

func (o *Outbox) logLost(r row, why string) {
	o.cfg.Log.Error("a letter was given up", "letter", r.id, "kind", string(r.kind), "account", r.subject, "attempts", r.attempts, "error", why)
}

func (r row) lost(why string) *audit.Event {
	return &audit.Event{
		Action: "mail.lost", Result: audit.Failure, Target: r.subject, Reason: why, Detail: map[string]string{"kind": string(r.kind), "letter": r.id},
	}
}

func (o *Outbox) remove(ctx context.Context, r row, e *audit.Event) error {
	return o.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if ok, err := remove(tx, r.id); err != nil || !ok || e == nil {
			return err
		}
		return audit.Append(ctx, tx, *e)
	})
}

// Sweep gives up what has expired, also where there is no mail any more, and
// returns how many letters. Deliver does it, too, and any number of nodes may at once.
func (o *Outbox) Sweep(ctx context.Context) (total int64, err error) {
	for {
		old, err := readExpired(o.cfg.DB.View(ctx), o.cfg.Now(), batch)
		if err != nil || len(old) == 0 {
			return total, err
		}
		var lost []row
		var n int64
		err = o.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			lost, n = lost[:0], 0
			for _, r := range old {
				ok, err := remove(tx, r.id)
				if err != nil {
					return err
				}
				if ok {
					n++
				}
				if l, err := o.open(r); !ok || err == nil && l.To == "" {
					continue
				}
				if err := audit.Append(ctx, tx, *r.lost(expired)); err != nil {
					return err
				}
				lost = append(lost, r)
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		total += n
		for _, r := range lost {
			o.logLost(r, expired)
		}
	}
}

// Cleanup says what of letters is old.
func (o *Outbox) Cleanup() []cleanup.Step { return []cleanup.Step{{Table: "sp_outbox", Run: o.Sweep}} }

// Retry makes all letters due that wait for another attempt, and returns how many.
// Those that are being sent are left alone.
func (o *Outbox) Retry(ctx context.Context) (n int64, err error) {
	err = o.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		n, err = retry(tx, o.cfg.Now())
		return err
	})
	return n, err
}

// Status is how the outbox stands.
type Status struct {
	Waiting int64     // letters that are stored
	Failed  int64     // those of them that were tried
	Oldest  time.Time // when the oldest of them was written; zero: there is none
	Tried   time.Time // when one of them was tried last; zero: never
	Failure string    // what came of that
}

// Measure returns how the outbox stands; nothing where there is no mail. Letters
// that were sent and lost are events of the audit log, mail.sent and mail.lost.
func (o *Outbox) Measure(ctx context.Context) []measure.Family {
	if !o.Enabled() {
		return nil
	}
	s, err := o.Status(ctx)
	if err != nil {
		return nil
	}
	age := 0.0
	if !s.Oldest.IsZero() {
		age = max(o.cfg.Now().Sub(s.Oldest).Seconds(), 0)
	}
	return []measure.Family{
		measure.One("sallyport_mail_waiting", "Letters that are not sent yet, on all nodes.", measure.Gauge, float64(s.Waiting)),
		measure.One("sallyport_mail_failed", "Letters that were tried and could not be sent yet, on all nodes.", measure.Gauge, float64(s.Failed)),
		measure.One("sallyport_mail_oldest_seconds", "For how long the oldest letter that is not sent has been waiting; 0 if there is none.", measure.Gauge, age),
	}
}

// Status returns how the outbox stands.
func (o *Outbox) Status(ctx context.Context) (Status, error) {
	return readStatus(o.cfg.DB.View(ctx))
}

// Waiting is a letter about an account that has not been sent yet.
type Waiting struct {
	Kind           Kind
	Attempts       int64
	Written, Until time.Time
}

// WaitingOf returns the letters about an account that have not been sent, newest
// first.
func WaitingOf(rd db.Reader, subject string) ([]Waiting, error) { return waiting(rd, subject) }
