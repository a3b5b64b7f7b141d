// Package keyring keeps the signing keys of an issuer: sealed in the database,
// shared by all its nodes, and replaced without a restart or a logout.
//
// It decides which key signs and which are still accepted. It never stores or
// shows a private key that is not sealed under the master key.
//
// Begin with Ring: a program has its server's, server.Server.Keys.
package keyring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	db         *db.DB
	master     *seal.Master
	again      func() []*seal.Master
	alg        token.Alg
	configured *token.Key // of Config.Secret, or nil
	grace      time.Duration
	now        func() time.Time

	mu      sync.Mutex // one reload at a time
	current atomic.Pointer[snapshot]
	asOf    atomic.Int64 // Unix nanoseconds
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
	Alg         token.Alg // of keys that are made; EdDSA if empty
	// Secret, if not empty, is the key that signs, with HS256, which Alg must
	// be. Open makes it the active key; no other can be made or imported.
	Secret []byte
	Grace  time.Duration // how long a replaced key is accepted: the life of an access token and some
	Now    func() time.Time
}

// refreshKeyBytes is the size of the key under which refresh tokens are
// derived.
const refreshKeyBytes = 32

// ErrMasterKey says that the keys of the database cannot be opened.
var ErrMasterKey = errors.New("the master key does not fit the database")

// Open reads the keys, making them in a database that has none, and sees to it
// that a configured secret is the one that signs.
func Open(ctx context.Context, cfg Config) (*Ring, error) {
	if cfg.Alg == "" {
		cfg.Alg = token.EdDSA
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	k := &Ring{db: cfg.DB, master: cfg.Master, again: cfg.MasterAgain, alg: cfg.Alg, grace: cfg.Grace, now: cfg.Now}
	if len(cfg.Secret) > 0 {
		if cfg.Alg != token.HS256 {
			return nil, fmt.Errorf("a secret is for HS256, and the algorithm is %s", cfg.Alg)
		}
		var err error
		if k.configured, err = token.NewKey(token.HS256, cfg.Secret); err != nil {
			return nil, err
		}
	}
	if err := k.create(ctx); err != nil {
		return nil, err
	}
	if err := k.reload(ctx); err != nil {
		return nil, err
	}
	if err := k.adopt(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// HasKeys reports whether the database holds keys sealed under some master key.
func HasKeys(rd db.Reader) (bool, error) { return hasSecrets(rd) }

// create makes the first keys: one that signs and one that will be next. A
// configured secret has no next one.
func (k *Ring) create(ctx context.Context) error {
	if exists, err := hasSecrets(k.db.View(ctx)); err != nil || exists {
		return err
	}
	var first []row
	if k.configured != nil {
		r, err := k.row(k.configured, k.master, Active)
		if err != nil {
			return err
		}
		first = []row{r}
	} else {
		for _, state := range []State{Active, Next} {
			r, err := k.generate(k.master, state)
			if err != nil {
				return err
			}
			first = append(first, r)
		}
	}
	refresh := make([]byte, refreshKeyBytes)
	rand.Read(refresh)
	return k.db.Write(ctx, func(tx *db.Tx) error {
		if exists, err := hasSecrets(tx); err != nil || exists { // another node was first
			return err
		}
		for _, row := range first {
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
	return k.row(key, master, state)
}

// row is what is stored of a key from now on.
func (k *Ring) row(key *token.Key, master *seal.Master, state State) (row, error) {
	private, err := key.MarshalPrivate()
	if err != nil {
		return row{}, err
	}
	r := row{id: key.ID(), alg: key.Alg(), state: state, sealed: master.Seal(purposeOfKey(key.ID()), private), created: db.Time(db.Micros(k.now()))}
	if state == Active {
		r.activated = r.created
	}
	return r, nil
}

func errSealed(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrMasterKey, what, err)
}

func (k *Ring) openKey(r row) (*token.Key, error) {
	private, err := k.master.Open(purposeOfKey(r.id), r.sealed)
	if err != nil {
		return nil, errSealed("signing key "+r.id, err)
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

// reload reads the keys again.
func (k *Ring) reload(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.readKeys(ctx)
	if !errors.Is(err, seal.ErrWrongKey) || k.again == nil {
		return err
	}
	held := k.master
	for _, k.master = range k.again() {
		if err = k.readKeys(ctx); !errors.Is(err, seal.ErrWrongKey) {
			return err
		}
	}
	k.master = held
	return err
}

func (k *Ring) readKeys(ctx context.Context) error {
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
		return errSealed(refreshSecret, err)
	}
	k.current.Store(s)
	k.asOf.Store(now.UnixNano())
	return nil
}

// Set returns the keys in use. A retiring key is left out from the moment it
// is retired.
func (k *Ring) Set(ctx context.Context) (*token.Set, error) {
	set, _, _, err := k.Current(ctx)
	return set, err
}

// Current returns the keys in use, their version, and when what was proven with
// them must be proven again: a retiring key is not accepted from then on. Zero:
// none is retiring.
func (k *Ring) Current(ctx context.Context) (set *token.Set, version int64, until time.Time, err error) {
	s := k.current.Load()
	if !s.until.IsZero() && !k.now().Before(s.until) {
		if err := k.reload(ctx); err != nil {
			return nil, 0, time.Time{}, err
		}
		s = k.current.Load()
	}
	return s.set, s.version, s.until, nil
}

// RefreshKey returns the key under which refresh tokens are derived.
func (k *Ring) RefreshKey() []byte { return k.current.Load().refresh }

// Sync reloads the keys if the database has another version than they were
// read at, and reports whether it did.
func (k *Ring) Sync(ctx context.Context, version int64) (bool, error) {
	if k.current.Load().version == version {
		k.asOf.Store(k.now().UnixNano())
		return false, nil
	}
	return true, k.reload(ctx)
}

// AsOf returns when the keys were last known to be those of the database.
func (k *Ring) AsOf() time.Time { return time.Unix(0, k.asOf.Load()) }

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

// errConfigured refuses to change which key signs where the configuration says
// it.
func errConfigured() error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "secret_configured",
		Message: "The key that signs is the secret of the configuration. Change tokens.secret there and restart: the new one signs then, and the one before is accepted until its tokens have expired.",
	}
}

// ready reads the keys again, because another process may have changed the
// master key, and returns the one to seal under.
func (k *Ring) ready(ctx context.Context) (*seal.Master, error) {
	if err := k.reload(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.master, nil
}

// loadUnder loads the rows for a change. Nothing may be stored under a master
// key that the rest is not under.
func loadUnder(tx *db.Tx, master *seal.Master) ([]row, error) {
	_, rows, refresh, err := load(tx)
	if err != nil {
		return nil, err
	}
	if _, err := master.Open(purposeOf(refreshSecret), refresh); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMasterKey, err)
	}
	return rows, nil
}

// replace lets the active key retire.
func (k *Ring) replace(tx *db.Tx, r row, now time.Time) error {
	return setState(tx, r.id, Retiring, r.activated, now.Add(k.grace))
}

// drop retires a key that never signed.
func drop(ctx context.Context, tx *db.Tx, id, reason string) error {
	if err := retire(tx, id); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "key.retired", Target: id, Reason: reason})
}

// Rotate makes the next key the active one, lets the one before retire, and
// makes a new next key. Tokens stay good: the replaced key is accepted until
// the last of them has expired. Where the configuration holds the secret that
// signs, it is refused: 409 "secret_configured".
func (k *Ring) Rotate(ctx context.Context) (active Info, err error) {
	active, _, err = k.rotate(ctx, func([]row) bool { return true })
	return active, err
}

// RotateIfDue does the same if the active key has signed for as long as every,
// and reports whether it did; 0 is never. That is decided in the transaction: of
// several nodes that ask at once, one rotates.
func (k *Ring) RotateIfDue(ctx context.Context, every time.Duration) (active Info, rotated bool, err error) {
	if every <= 0 {
		return Info{}, false, nil
	}
	now := k.now()
	due := func(rows []row) bool {
		for _, r := range rows {
			if r.state == Active {
				return !now.Before(r.activated.Add(every))
			}
		}
		return true
	}
	// To make keys is work: not for nothing.
	_, rows, _, err := load(k.db.View(ctx))
	if err != nil || !due(rows) {
		return Info{}, false, err
	}
	return k.rotate(ctx, due)
}

func (k *Ring) rotate(ctx context.Context, due func([]row) bool) (active Info, rotated bool, err error) {
	if k.configured != nil {
		return Info{}, false, errConfigured()
	}
	master, err := k.ready(ctx)
	if err != nil {
		return Info{}, false, err
	}
	next, err := k.generate(master, Next)
	if err != nil {
		return Info{}, false, err
	}
	spare, err := k.generate(master, Active) // used if there is no next one, or of another algorithm
	if err != nil {
		return Info{}, false, err
	}
	now := k.now()
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		active, rotated = Info{}, false
		rows, err := loadUnder(tx, master)
		if err != nil || !due(rows) {
			return err
		}
		var to *row
		for _, r := range rows {
			switch {
			case r.state == Active:
				if err := k.replace(tx, r, now); err != nil {
					return err
				}
			case r.state == Next && r.alg == k.alg && to == nil:
				to = &r
			case r.state == Next:
				if err := drop(ctx, tx, r.id, "never signed: keys are for "+string(k.alg)+" now"); err != nil {
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
		active, rotated = to.info(now), true
		return audit.Append(ctx, tx, audit.Event{Action: "key.rotated", Target: to.id, Detail: map[string]string{"alg": string(to.alg)}})
	})
	if err != nil {
		return Info{}, false, err
	}
	return active, rotated, k.reload(ctx)
}

// Import stores a key that was made elsewhere. It becomes the next one: known
// to verifiers from now on, and signing after the next rotation; the next key
// there was is retired, having signed nothing. If activate is set, the key signs
// at once, the active one before it retires as in a rotation, and the next one
// stays.
//
// Refused are a key that is here already, in whatever state (409 "key_exists"),
// a key of another algorithm than keys are made for here, which the next
// rotation would pass over (422 "key_algorithm"), and every key where the
// configuration holds the secret that signs (409 "secret_configured").
func (k *Ring) Import(ctx context.Context, key *token.Key, activate bool) (Info, error) {
	if k.configured != nil {
		return Info{}, errConfigured()
	}
	if key.Alg() != k.alg {
		return Info{}, &sallyport.Error{
			Status: http.StatusUnprocessableEntity, Code: "key_algorithm",
			Message: fmt.Sprintf("The key is for %s, but tokens.alg is %s: the next rotation would pass it over. Set tokens.alg = %[1]s for the server and this command, then import it.", key.Alg(), k.alg),
		}
	}
	master, err := k.ready(ctx)
	if err != nil {
		return Info{}, err
	}
	state := Next
	if activate {
		state = Active
	}
	imported, err := k.row(key, master, state)
	if err != nil {
		return Info{}, err
	}
	now := imported.created
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		rows, err := loadUnder(tx, master)
		if err != nil {
			return err
		}
		for _, r := range rows {
			switch {
			case r.id == imported.id:
				return errExists(r.info(now))
			case r.state == Active && activate:
				err = k.replace(tx, r, now)
			case r.state == Next && !activate:
				err = drop(ctx, tx, r.id, "never signed: another key was imported in its place")
			}
			if err != nil {
				return err
			}
		}
		if err := insertKey(tx, imported); err != nil {
			return err
		}
		if err := bumpKeys(tx); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{
			Action: "key.imported", Target: imported.id,
			Detail: map[string]string{"alg": string(imported.alg), "state": string(state), "source": "import"},
		})
	})
	if err != nil {
		return Info{}, err
	}
	return imported.info(now), k.reload(ctx)
}

func errExists(i Info) error {
	m := fmt.Sprintf("The key is here already: %s is %s. Nothing was changed.", i.ID, i.State)
	if i.State == Retired {
		m = fmt.Sprintf("The key was here before: %s is retired, and a retired key does not come back. Import another one. Nothing was changed.", i.ID)
	}
	return &sallyport.Error{Status: http.StatusConflict, Code: "key_exists", Message: m}
}

// adopt makes the configured secret the active key unless it is that already.
// It may be one that was active before: whoever writes the configuration may
// return to it. Of several nodes that start at once, one does it.
func (k *Ring) adopt(ctx context.Context) error {
	if k.configured == nil || k.current.Load().set.Active().ID() == k.configured.ID() {
		return nil
	}
	master, err := k.ready(ctx)
	if err != nil {
		return err
	}
	secret, err := k.row(k.configured, master, Active)
	if err != nil {
		return err
	}
	now := secret.created
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		rows, err := loadUnder(tx, master)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(rows, func(r row) bool { return r.id == secret.id })
		if i >= 0 && rows[i].state == Active { // another node was first
			return nil
		}
		for _, r := range rows {
			switch {
			case r.id == secret.id:
			case r.state == Active:
				err = k.replace(tx, r, now)
			case r.state == Next:
				err = drop(ctx, tx, r.id, "never signed: the secret of the configuration signs")
			}
			if err != nil {
				return err
			}
		}
		if i >= 0 {
			if err := reseal(tx, secret.id, secret.sealed); err != nil {
				return err
			}
			err = setState(tx, secret.id, Active, now, time.Time{})
		} else {
			err = insertKey(tx, secret)
		}
		if err != nil {
			return err
		}
		if err := bumpKeys(tx); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{
			Action: "key.imported", Target: secret.id,
			Detail: map[string]string{"alg": string(secret.alg), "state": string(Active), "source": "configuration"},
		})
	})
	if err != nil {
		return err
	}
	return k.reload(ctx)
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
			if r.state == Active && k.configured != nil {
				return errConfigured()
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
	return k.reload(ctx)
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

// StoreSealed seals another secret of the server under the master key, for one
// purpose, and has store write it in a transaction in which that key is the one
// that the database is sealed under. Whoever stores such a secret takes part in
// Rewrap.
func (k *Ring) StoreSealed(ctx context.Context, purpose string, secret []byte, store func(tx *db.Tx, sealed []byte) error) error {
	master, err := k.ready(ctx)
	if err != nil {
		return err
	}
	sealed := master.Seal(purpose, secret)
	return k.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := loadUnder(tx, master); err != nil {
			return err
		}
		return store(tx, sealed)
	})
}

// Unseal returns what StoreSealed sealed for the same purpose. It reads the
// master key again if it must. The error is ErrMasterKey if this process has not
// the master key of the database; seal.ErrWrongKey or seal.ErrDamaged without it
// say that it has, and that the secret is lost.
func (k *Ring) Unseal(ctx context.Context, purpose string, sealed []byte) ([]byte, error) {
	k.mu.Lock()
	master := k.master
	k.mu.Unlock()
	secret, err := master.Open(purpose, sealed)
	if !errors.Is(err, seal.ErrWrongKey) {
		return secret, err
	}
	if master, err = k.ready(ctx); err != nil {
		return nil, err
	}
	return master.Open(purpose, sealed)
}

// Reseal returns a sealed secret as it is under the next master key, or an error
// if it is not sealed under the one before.
type Reseal func(purpose string, sealed []byte) ([]byte, error)

// Rewrap seals everything under another master key, in one transaction, in which
// each of others does the same for what it stores. The keys themselves stay:
// nobody is logged out.
func (k *Ring) Rewrap(ctx context.Context, to *seal.Master, others ...func(*db.Tx, Reseal) error) error {
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
		for _, other := range others {
			if err := other(tx, func(purpose string, sealed []byte) ([]byte, error) {
				secret, err := master.Open(purpose, sealed)
				if err != nil {
					return nil, err
				}
				return to.Seal(purpose, secret), nil
			}); err != nil {
				return err
			}
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
