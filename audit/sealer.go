package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
)

const (
	// sealAfter is how long an event waits for others before it is sealed.
	sealAfter = 50 * time.Millisecond
	// sealOthers is how often it is looked whether others have left something: a
	// command, or a node that is gone.
	sealOthers = time.Second
	// sealSize is when a seal is full. It may have more: what was committed at once
	// is sealed at once.
	sealSize = 512
	// tellHead is how often the head is written to the log.
	tellHead = time.Hour
)

// Chain seals what is recorded, and verifies it.
type Chain struct {
	db   *db.DB
	key  ed25519.PrivateKey
	node string
	log  *slog.Logger

	one    sync.Mutex // seals at a time
	seen   seal       // the last that this process has made or found: number and hash
	own    recent     // what this process has recorded
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{} // nil: it does not run
	once   sync.Once
	unhear func()
	dirty  atomic.Bool // this process has recorded something since it last sealed

	sealed, failed, damaged atomic.Uint64

	hearing sync.Mutex
	heard   func() // when something was sealed; nil: nobody
}

// ChainConfig is what a Chain needs.
type ChainConfig struct {
	DB *db.DB
	// Seed is that of the key which signs: 32 bytes that all nodes of the database
	// share and that are not in the database.
	Seed []byte
	Log  *slog.Logger
}

// NewChain returns the chain of a database. What is recorded from now on through its
// handle is sealed by Close at the latest, and behind itself after Run.
func NewChain(c ChainConfig) *Chain {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	x := &Chain{
		db: c.DB, key: ed25519.NewKeyFromSeed(c.Seed), node: clip(host, maxText), log: c.Log,
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	x.unhear = c.DB.OnEvent(func(events []db.Event) {
		x.own.add(events)
		x.dirty.Store(true)
		select {
		case x.wake <- struct{}{}:
		default:
		}
	})
	return x
}

// Run begins to seal behind what is recorded, by whichever process. A program that
// ends soon (briefly) seals its own events when it ends, and leaves those of others
// to the servers.
func (c *Chain) Run(briefly bool) {
	if briefly {
		return
	}
	c.done = make(chan struct{})
	go c.loop()
}

// Key returns the public key.
func (c *Chain) Key() ed25519.PublicKey { return c.key.Public().(ed25519.PublicKey) }

// Close seals what this process has recorded, and stops.
func (c *Chain) Close() {
	c.once.Do(func() {
		close(c.stop)
		if c.done != nil {
			<-c.done
		}
		c.unhear()
		if c.dirty.Load() {
			c.sealNow()
		}
	})
}

// Measure returns what is known of the chain here.
func (c *Chain) Measure() []measure.Family {
	return []measure.Family{
		measure.One("sallyport_audit_sealed_total", "Events of the audit log that this process has sealed.", measure.Counter, float64(c.sealed.Load())),
		measure.One("sallyport_audit_seal_failures_total", "How often events could not be sealed, and were tried again.", measure.Counter, float64(c.failed.Load())),
		measure.One("sallyport_audit_damage_total", "How often this process has met what somebody else has done to the audit log or its chain, or a chain that went back with its database.", measure.Counter, float64(c.damaged.Load())),
	}
}

func (c *Chain) loop() {
	defer close(c.done)
	others, head := time.NewTicker(sealOthers), time.NewTicker(tellHead)
	defer others.Stop()
	defer head.Stop()
	c.sealNow() // what was left when the last one ended
	for {
		select {
		case <-c.stop:
			return
		case <-head.C:
			c.tell()
			continue
		case <-others.C:
		case <-c.wake:
			select {
			case <-time.After(sealAfter):
			case <-c.stop:
				return
			}
		}
		c.sealNow()
	}
}

// sealNow seals everything that waits.
func (c *Chain) sealNow() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Seal(ctx); err != nil {
		c.failed.Add(1)
		c.log.Error("events of the audit log could not be sealed; it is tried again", "error", err)
	}
}

// tell writes the head to the log: a log that is kept elsewhere shows later where
// the chain was.
func (c *Chain) tell() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	h, found, err := c.Head(ctx)
	if err != nil {
		c.log.Error("the head of the audit log could not be read", "error", err)
		return
	}
	if found {
		c.log.Info("head of the audit log", "number", h.Number, "position", h.Position, "sealed_at", h.SealedAt, "hash", h.Hash, "public_key", h.Key, "signature", h.Signature)
	}
}

// Head returns the end of the chain; found is false while there is none.
func (c *Chain) Head(ctx context.Context) (h Head, found bool, err error) {
	s, found, err := lastSeal(c.db.View(ctx))
	if err != nil || !found {
		return Head{}, false, err
	}
	return s.head(c.Key()), true, nil
}

// errBehind says that another was first.
var errBehind = errors.New("another node was first")

// Seal seals everything that waits, and returns when it is sealed.
func (c *Chain) Seal(ctx context.Context) error {
	c.one.Lock()
	defer c.one.Unlock()
	for tries := 0; ctx.Err() == nil; {
		c.dirty.Store(false)
		n, err := c.sealSome(ctx)
		switch {
		case errors.Is(err, errBehind) && tries < 20:
			tries++
			continue
		case err != nil:
			c.dirty.Store(true)
			return err
		case n < sealSize:
			c.own.age()
			return nil
		}
	}
	return ctx.Err()
}

// sealSome makes one seal and returns how many events it found. What is work is
// done before the transaction, which finds out whether it is still right: the number
// is free, and all events still wait.
func (c *Chain) sealSome(ctx context.Context) (int, error) {
	v := c.db.View(ctx)
	list, err := waiting(v, sealSize)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	s, previous, err := c.next(v)
	if err != nil {
		return 0, err
	}
	if err := c.remember(v, s.number-1, previous); err != nil {
		return 0, err
	}
	var keys, ids, odd []string
	for _, a := range list {
		if a.ids == nil {
			odd = append(odd, a.key)
			continue
		}
		keys, ids = append(keys, a.key), append(ids, a.ids...)
	}
	if len(odd) > 0 {
		return sealSize, c.dropOdd(ctx, odd) // and then the others
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	entries, err := c.entries(ctx, v, ids)
	if err != nil {
		return 0, err
	}
	s.events, s.node, s.sealedAt = packed(entries), c.node, db.Micros(time.Now())
	s.hash = s.link(previous)
	s.signature = ed25519.Sign(c.key, s.statement())
	err = c.db.Write(db.Loosely(ctx), func(tx *db.Tx) error {
		free, err := insertSeal(tx, s)
		if err != nil {
			return err
		}
		n, err := endWaiting(tx, keys)
		if err == nil && (!free || n != int64(len(keys))) {
			err = errBehind
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	c.seen = s
	c.sealed.Add(uint64(len(ids)))
	c.hearing.Lock()
	defer c.hearing.Unlock()
	if c.heard != nil {
		c.heard()
	}
	return len(ids), nil
}

// dropOdd takes from the list of what waits what no server has put there.
func (c *Chain) dropOdd(ctx context.Context, odd []string) error {
	c.log.Error("somebody has written into the audit log what is no event of ours: it is not sealed", "rows", len(odd))
	return c.db.Write(ctx, func(tx *db.Tx) error {
		for _, key := range odd {
			if err := forgetWaiting(tx, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// next returns where the next seal stands, and the hash before it.
func (c *Chain) next(rd db.Reader) (s seal, previous []byte, err error) {
	last, found, err := lastSeal(rd)
	if err != nil {
		return seal{}, nil, err
	}
	if found {
		return seal{number: last.number + 1, first: last.last() + 1}, last.hash, nil
	}
	cut, found, err := readCut(rd)
	if found {
		return seal{number: cut.number + 1, first: cut.position + 1}, cut.hash, err
	}
	return seal{number: 1, first: 1}, nil, err
}

// remember takes note of the end of the chain before something is sealed behind it. If
// the chain is not the one any more that this process knew, its next seal would vouch
// for what somebody else has put there, and without a head that was kept elsewhere
// nothing would show: so it is said now.
func (c *Chain) remember(rd db.Reader, number int64, hash []byte) error {
	was := c.seen
	c.seen = seal{number: number, hash: hash}
	if number > was.number && was.number > 0 {
		there, err := seals(rd, was.number-1, 1)
		if err != nil {
			c.seen = was
			return err
		}
		if len(there) == 0 || there[0].number > was.number { // retention may have deleted it
			old, _, err := readCut(rd)
			if err != nil {
				c.seen = was
				return err
			}
			if old.number > was.number && ed25519.Verify(c.Key(), old.statement(), old.signature) {
				return nil
			}
			there = []seal{{number: old.number, hash: old.hash}}
		}
		number, hash = there[0].number, there[0].hash
	}
	if was.number == 0 || number == was.number && bytes.Equal(hash, was.hash) {
		return nil
	}
	c.damaged.Add(1)
	c.log.Error("the chain of the audit log is not the one any more that this process has seen: it was cut back or written anew, unless the database went back, which the event database.went_back tells; compare it with a head that was kept: sallyport audit verify --head FILE", "seen", was.number, "seen_hash", was.hash, "last", c.seen.number)
	return nil
}

// entries returns what a seal says of events. What this process has recorded it knows;
// others are read. One that waits and is not there was removed by somebody: that is
// sealed, too.
func (c *Chain) entries(ctx context.Context, v db.View, ids []string) ([]entry, error) {
	digests, unknown := c.own.of(ids)
	if len(unknown) > 0 {
		rows, err := rowsOf(v, unknown)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(rows, func(r row) bool { return len(r.commitment) == 0 }) {
			if err := c.db.Write(ctx, func(tx *db.Tx) error { return commitOld(tx, unknown) }); err != nil {
				return nil, err
			}
			if rows, err = rowsOf(v, unknown); err != nil {
				return nil, err
			}
		}
		for i := range rows {
			digests[rows[i].ID] = rows[i].digest()
		}
	}
	out := make([]entry, 0, len(ids))
	for _, id := range ids {
		digest, there := digests[id]
		if !there {
			c.log.Error("an event of the audit log was removed before it was sealed", "event", id)
		}
		out = append(out, entry{uuid.MustParse(id), digest})
	}
	return out, nil
}

// recent holds digests of events from their commit until they are sealed, so that what
// is sealed is what was recorded, whatever has become of the row since, and need not be
// read again. What is not in here is only slower.
type recent struct {
	mu         sync.Mutex
	young, old map[string][sha256.Size]byte
}

// maxRecent is how many are held of one age. A process that records for longer than it
// can seal reads the rest.
const maxRecent = 32 << 10

func (r *recent) add(events []db.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil {
		r.young = map[string][sha256.Size]byte{}
	}
	for _, e := range events {
		if e.ID != "" && len(r.young) < maxRecent {
			r.young[e.ID] = e.Digest
		}
	}
}

// of returns the digests of events that are in here, and the ids of the others.
func (r *recent) of(ids []string) (digests map[string][sha256.Size]byte, unknown []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	digests = make(map[string][sha256.Size]byte, len(ids))
	for _, id := range ids {
		digest, there := r.young[id]
		if !there {
			digest, there = r.old[id]
		}
		if there {
			digests[id] = digest
		} else {
			unknown = append(unknown, id)
		}
	}
	return digests, unknown
}

// age forgets what was in here at the last call already: everything that waited was
// sealed twice since, by whichever node.
func (r *recent) age() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old, r.young = r.young, nil
}

// onSeal has f told of what this process seals. There is one who hears.
func (c *Chain) onSeal(f func()) (stop func()) {
	set := func(f func()) {
		c.hearing.Lock()
		defer c.hearing.Unlock()
		c.heard = f
	}
	set(f)
	return func() { set(nil) }
}
