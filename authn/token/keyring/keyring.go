// Package keyring keeps the signing keys of an issuer: sealed in the database,
// shared by all its nodes, and replaced without a restart or a logout.
//
// It decides which key signs and which are still accepted. It never stores or
// shows a private key that is not sealed under the master key.
package keyring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
)

// State is where a signing key is in its life. A key is published before it
// signs (next), signs (active), is still accepted while tokens that it signed
// live (retiring), and is then refused (retired).
type State string

// The states of a key.
const (
	Next     State = "next"
	Active   State = "active"
	Retiring State = "retiring"
	Retired  State = "retired"
)

// Info is what may be told of a key.
type Info struct {
	ID        string     `json:"kid"`
	Alg       token.Alg  `json:"alg"`
	State     State      `json:"state"`
	Created   time.Time  `json:"created_at"`
	Activated *time.Time `json:"activated_at"`
	RetireAt  *time.Time `json:"retire_at"` // of a retiring key
}

// Ring holds the signing keys of the database, as of the version it last
// read. It is shared by all requests of a process.
type Ring struct {
	db     *db.DB
	master *seal.Master
	again  func() []*seal.Master
	alg    token.Alg
	grace  time.Duration
	now    func() time.Time

	mu      sync.Mutex // one reload at a time
	current atomic.Pointer[snapshot]
}

type snapshot struct {
	version int64
	set     *token.Set
	refresh []byte
	until   time.Time // when the first retiring key must be left out; zero: never
}

// Config is what a Ring needs.
type Config struct {
	DB     *db.DB
	Master *seal.Master
	// MasterAgain, if not nil, reads the master key again, with the one that is
	// staged: another process may be rotating it, or have done so.
	MasterAgain func() []*seal.Master
	Alg         token.Alg     // of keys that are made; EdDSA if empty
	Grace       time.Duration // how long a replaced key is accepted: the life of an access token and some
	Now         func() time.Time
}

// refreshKeyBytes is the size of the key under which refresh tokens are
// derived.
const refreshKeyBytes = 32

// ErrMasterKey says that the keys of the database cannot be opened.
var ErrMasterKey = errors.New("the master key does not fit the database")

// Open reads the keys, making them in a database that has none.
func Open(ctx context.Context, cfg Config) (*Ring, error) {
	if cfg.Alg == "" {
		cfg.Alg = token.EdDSA
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	k := &Ring{db: cfg.DB, master: cfg.Master, again: cfg.MasterAgain, alg: cfg.Alg, grace: cfg.Grace, now: cfg.Now}
	if err := k.create(ctx); err != nil {
		return nil, err
	}
	return k, k.Reload(ctx)
}

// HasKeys reports whether the database holds keys sealed under some master key.
func HasKeys(rd db.Reader) (bool, error) { return hasSecrets(rd) }

// create makes the first keys: one that signs and one that will be next.
func (k *Ring) create(ctx context.Context) error {
	if exists, err := hasSecrets(k.db.View(ctx)); err != nil || exists {
		return err
	}
	active, err := k.generate(k.master, Active)
	if err != nil {
		return err
	}
	next, err := k.generate(k.master, Next)
	if err != nil {
		return err
	}
	refresh := make([]byte, refreshKeyBytes)
	rand.Read(refresh)
	return k.db.Write(ctx, func(tx *db.Tx) error {
		if exists, err := hasSecrets(tx); err != nil || exists { // another node was first
			return err
		}
		for _, row := range []row{active, next} {
			if err := insertKey(tx, row); err != nil {
				return err
			}
			if err := audit.Append(ctx, tx, audit.Event{Action: "key.created", Target: row.id, Detail: map[string]string{"alg": string(row.alg), "state": string(row.state)}}); err != nil {
				return err
			}
		}
		if err := insertSecret(tx, refreshSecret, k.master.Seal(purposeOf(refreshSecret), refresh), k.now()); err != nil {
			return err
		}
		return bumpKeys(tx)
	})
}

const refreshSecret = "refresh-tokens"

func purposeOf(secret string) string { return "secret:" + secret }
func purposeOfKey(kid string) string { return "signing-key:" + kid }

func (k *Ring) generate(master *seal.Master, state State) (row, error) {
	key, err := token.Generate(k.alg)
	if err != nil {
		return row{}, err
	}
	private, err := key.MarshalPrivate()
	if err != nil {
		return row{}, err
	}
	r := row{id: key.ID(), alg: key.Alg(), state: state, sealed: master.Seal(purposeOfKey(key.ID()), private), created: k.now()}
	if state == Active {
		r.activated = r.created
	}
	return r, nil
}

func (k *Ring) openKey(r row) (*token.Key, error) {
	private, err := k.master.Open(purposeOfKey(r.id), r.sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: signing key %s: %w", ErrMasterKey, r.id, err)
	}
	key, err := token.ParsePrivate(private)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", r.id, err)
	}
	if key.ID() != r.id {
		return nil, fmt.Errorf("signing key %s: the sealed key is another one", r.id)
	}
	return key, nil
}

// Reload reads the keys again.
func (k *Ring) Reload(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.reload(ctx)
	if !errors.Is(err, seal.ErrWrongKey) || k.again == nil {
		return err
	}
	held := k.master
	for _, k.master = range k.again() {
		if err = k.reload(ctx); !errors.Is(err, seal.ErrWrongKey) {
			return err
		}
	}
	k.master = held
	return err
}

func (k *Ring) reload(ctx context.Context) error {
	version, rows, refresh, err := load(k.db.View(ctx))
	if err != nil {
		return err
	}
	now := k.now()
	s := &snapshot{version: version}
	var active *token.Key
	var others []*token.Key
	for _, r := range rows {
		if r.state == Retired || r.state == Retiring && !now.Before(r.retireAt) {
			continue
		}
		key, err := k.openKey(r)
		if err != nil {
			return err
		}
		if r.state == Active {
			active = key
			continue
		}
		if r.state == Retiring && (s.until.IsZero() || r.retireAt.Before(s.until)) {
			s.until = r.retireAt
		}
		others = append(others, key)
	}
	if active == nil {
		return errors.New("the database has no active signing key: run “sallyport key rotate”")
	}
	if s.set, err = token.NewSet(active, others...); err != nil {
		return err
	}
	if s.refresh, err = k.master.Open(purposeOf(refreshSecret), refresh); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMasterKey, refreshSecret, err)
	}
	k.current.Store(s)
	return nil
}

// Set returns the keys in use. A retiring key is left out from the moment it
// is retired.
func (k *Ring) Set(ctx context.Context) (*token.Set, error) {
	set, _, err := k.Current(ctx)
	return set, err
}

// Current returns the keys in use and their version.
func (k *Ring) Current(ctx context.Context) (*token.Set, int64, error) {
	s := k.current.Load()
	if !s.until.IsZero() && !k.now().Before(s.until) {
		if err := k.Reload(ctx); err != nil {
			return nil, 0, err
		}
		s = k.current.Load()
	}
	return s.set, s.version, nil
}

// Until returns when what was proven with the keys in use must be proven again: a
// retiring key is not accepted from then on. Zero: none is retiring.
func (k *Ring) Until() time.Time { return k.current.Load().until }

// RefreshKey returns the key under which refresh tokens are derived.
func (k *Ring) RefreshKey() []byte { return k.current.Load().refresh }

// Sync reloads the keys if the database has another version than they were
// read at, and reports whether it did.
func (k *Ring) Sync(ctx context.Context, version int64) (bool, error) {
	if k.current.Load().version == version {
		return false, nil
	}
	return true, k.Reload(ctx)
}

// SyncNow asks the database for the version first.
func (k *Ring) SyncNow(ctx context.Context) (bool, error) {
	version, err := keysVersion(k.db.View(ctx))
	if err != nil {
		return false, err
	}
	return k.Sync(ctx, version)
}

// Refused reports whether a key is not accepted any more, inside a transaction.
func (k *Ring) Refused(rd db.Reader, kid string) (bool, error) {
	state, retireAt, found, err := keyState(rd, kid)
	return !found || state == Retired || state == Retiring && !k.now().Before(retireAt), err
}

// List returns all keys, newest first.
func (k *Ring) List(ctx context.Context) ([]Info, error) {
	_, rows, _, err := load(k.db.View(ctx))
	if err != nil {
		return nil, err
	}
	out := make([]Info, 0, len(rows))
	for _, r := range rows {
		out = append(out, r.info(k.now()))
	}
	return out, nil
}

// Rotate makes the next key the active one, lets the one before retire, and
// makes a new next key. Tokens stay good: the replaced key is accepted until
// the last of them has expired.
func (k *Ring) Rotate(ctx context.Context) (active Info, err error) {
	// Another process may have changed the master key: reading again finds out.
	if err := k.Reload(ctx); err != nil {
		return Info{}, err
	}
	k.mu.Lock()
	master := k.master
	k.mu.Unlock()
	next, err := k.generate(master, Next)
	if err != nil {
		return Info{}, err
	}
	spare, err := k.generate(master, Active) // used if there is no next one, or of another algorithm
	if err != nil {
		return Info{}, err
	}
	now := k.now()
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		_, rows, refresh, err := load(tx)
		if err != nil {
			return err
		}
		// Nothing may be stored under a master key that the rest is not under.
		if _, err := master.Open(purposeOf(refreshSecret), refresh); err != nil {
			return fmt.Errorf("%w: %w", ErrMasterKey, err)
		}
		var to *row
		for _, r := range rows {
			switch {
			case r.state == Active:
				if err := setState(tx, r.id, Retiring, r.activated, now.Add(k.grace)); err != nil {
					return err
				}
			case r.state == Next && r.alg == k.alg && to == nil:
				to = &r
			case r.state == Next:
				if err := retire(tx, r.id); err != nil {
					return err
				}
			}
		}
		if to == nil {
			r := spare
			to = &r
			if err := insertKey(tx, r); err != nil {
				return err
			}
		} else {
			if err := setState(tx, to.id, Active, now, time.Time{}); err != nil {
				return err
			}
			to.state, to.activated = Active, now
		}
		if err := insertKey(tx, next); err != nil {
			return err
		}
		if err := bumpKeys(tx); err != nil {
			return err
		}
		active = to.info(now)
		return audit.Append(ctx, tx, audit.Event{Action: "key.rotated", Target: to.id, Detail: map[string]string{"alg": string(to.alg)}})
	})
	if err != nil {
		return Info{}, err
	}
	return active, k.Reload(ctx)
}

// Retire refuses a key from now on and forgets its private part. Tokens that it
// signed are dead; sessions live on through their refresh tokens.
func (k *Ring) Retire(ctx context.Context, kid string) error {
	err := k.db.Write(ctx, func(tx *db.Tx) error {
		_, rows, _, err := load(tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.id != kid {
				continue
			}
			if r.state == Active {
				return &sallyport.Error{Status: http.StatusConflict, Code: "key_active", Message: "This key signs now. Rotate first (sallyport key rotate), then retire it."}
			}
			if r.state == Retired {
				return nil
			}
			if err := retire(tx, kid); err != nil {
				return err
			}
			if err := bumpKeys(tx); err != nil {
				return err
			}
			return audit.Append(ctx, tx, audit.Event{Action: "key.retired", Target: kid})
		}
		return &sallyport.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is no such key."}
	})
	if err != nil {
		return err
	}
	return k.Reload(ctx)
}

// Sweep forgets the private parts of keys whose grace is over, and reports how
// many.
func (k *Ring) Sweep(ctx context.Context) (n int, err error) {
	now := k.now()
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		n = 0
		_, rows, _, err := load(tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.state != Retiring || now.Before(r.retireAt) {
				continue
			}
			if err := retire(tx, r.id); err != nil {
				return err
			}
			if err := audit.Append(ctx, tx, audit.Event{Action: "key.retired", Target: r.id, Reason: "its grace is over"}); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

// Rewrap seals everything under another master key, in one transaction. The
// keys themselves stay: nobody is logged out.
func (k *Ring) Rewrap(ctx context.Context, to *seal.Master) error {
	k.mu.Lock()
	master := k.master
	k.mu.Unlock()
	err := k.db.Write(ctx, func(tx *db.Tx) error {
		_, rows, refresh, err := load(tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.state == Retired {
				continue
			}
			private, err := master.Open(purposeOfKey(r.id), r.sealed)
			if err != nil {
				return fmt.Errorf("%w: signing key %s: %w", ErrMasterKey, r.id, err)
			}
			if err := reseal(tx, r.id, to.Seal(purposeOfKey(r.id), private)); err != nil {
				return err
			}
		}
		secret, err := master.Open(purposeOf(refreshSecret), refresh)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrMasterKey, refreshSecret, err)
		}
		if err := resealSecret(tx, refreshSecret, to.Seal(purposeOf(refreshSecret), secret)); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "key.master_rotated"})
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.master = to
	k.mu.Unlock()
	return nil
}

// SealedUnder reports whether the database is sealed under this master key.
func (k *Ring) SealedUnder(ctx context.Context, m *seal.Master) (bool, error) {
	_, _, refresh, err := load(k.db.View(ctx))
	if err != nil {
		return false, err
	}
	_, err = m.Open(purposeOf(refreshSecret), refresh)
	return err == nil, nil
}
