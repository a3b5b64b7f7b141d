package mail

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/audit"
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
	Log       *slog.Logger // default: discarded
	Now       func() time.Time
}

// Outbox keeps letters until they have been sent. Any number of nodes on one
// database send from it; each letter is sent by one of them, again if that one
// dies while it does.
type Outbox struct {
	cfg  Config
	aead cipher.AEAD
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
	return &Outbox{cfg, aead}, nil
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
	return o.Queue(ctx, tx, Letter{Kind: k, To: r.Address, Subject: subject, Facts: f})
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
	batch     = 20
	senders   = 4
	// sendTimeout bounds one attempt; a letter whose sender died is due again after
	// claimFor.
	sendTimeout = 30 * time.Second
	claimFor    = 2 * time.Minute
)

// backoff is how long after an attempt that failed the next one is made.
var backoff = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}

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
// once.
func (o *Outbox) Deliver(ctx context.Context) error {
	for {
		due, err := readDue(o.cfg.DB.View(ctx), o.cfg.Now(), batch)
		if err != nil || len(due) == 0 {
			return err
		}
		work := make(chan row)
		var wg sync.WaitGroup
		for range min(senders, len(due)) {
			wg.Go(func() {
				for r := range work {
					if err := o.deliver(ctx, r); err != nil && ctx.Err() == nil {
						o.cfg.Log.Error("a letter could not be kept track of; it may be sent again", "letter", r.id, "error", err)
					}
				}
			})
		}
		for _, r := range due {
			work <- r
		}
		close(work)
		wg.Wait()
		if ctx.Err() != nil || len(due) < batch {
			return ctx.Err()
		}
	}
}

// deliver tries one letter once.
func (o *Outbox) deliver(ctx context.Context, r row) error {
	now := o.cfg.Now()
	claimed := false
	err := o.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		claimed, err = claim(tx, r, now.Add(claimFor))
		return err
	})
	if err != nil || !claimed {
		return err
	}
	l, err := o.open(r)
	if err == nil && l.To == "" {
		return o.remove(ctx, r, nil)
	}
	switch {
	case err != nil: // as when it is refused: it will not open next time either
		return o.lose(ctx, r, err)
	case !now.Before(r.expires):
		return o.lose(ctx, r, errors.New("it expired before it could be sent"))
	}
	m, err := o.cfg.Writer.Write(r.id, r.kind, l.To, l.Facts)
	if err == nil {
		sending, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		err = o.cfg.Sender.Send(sending, m)
	}
	switch {
	case err == nil:
		// Noted even if the server is being stopped: it has been sent.
		return o.remove(context.WithoutCancel(ctx), r, &audit.Event{Action: "mail.sent", Target: r.target(), Detail: map[string]string{"kind": string(r.kind), "letter": r.id}})
	case errors.Is(err, ErrRefused):
		return o.lose(ctx, r, err)
	}
	again := backoff[min(int(r.attempts), len(backoff)-1)]
	o.cfg.Log.Warn("a letter could not be sent; it is tried again", "letter", r.id, "kind", r.kind, "attempt", r.attempts+1, "in", again, "error", err)
	return o.cfg.DB.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		return postpone(tx, r.id, o.cfg.Now().Add(again), err.Error())
	})
}

// lose gives a letter up, and says so.
func (o *Outbox) lose(ctx context.Context, r row, why error) error {
	o.cfg.Log.Error("a letter was given up", "letter", r.id, "kind", r.kind, "account", r.subject, "attempts", r.attempts+1, "error", why)
	return o.remove(context.WithoutCancel(ctx), r, &audit.Event{
		Action: "mail.lost", Result: audit.Failure, Target: r.target(), Reason: why.Error(), Detail: map[string]string{"kind": string(r.kind), "letter": r.id},
	})
}

func (o *Outbox) remove(ctx context.Context, r row, e *audit.Event) error {
	return o.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if ok, err := remove(tx, r.id); err != nil || !ok || e == nil {
			return err
		}
		return audit.Append(ctx, tx, *e)
	})
}

// Status is how the outbox stands.
type Status struct {
	Waiting int64     // letters that are stored
	Oldest  time.Time // when the oldest of them was written; zero: there is none
	Failure string    // why the last attempt at that one failed; "" if none did
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
		measure.One("sallyport_mail_waiting", "Letters that wait to be sent, on all nodes.", measure.Gauge, float64(s.Waiting)),
		measure.One("sallyport_mail_oldest_seconds", "For how long the oldest of them has been waiting; 0 if there is none.", measure.Gauge, age),
	}
}

// Status returns how the outbox stands.
func (o *Outbox) Status(ctx context.Context) (Status, error) {
	return readStatus(o.cfg.DB.View(ctx))
}
