// Package lockout decides how often a password may be tried, for every way of
// trying one: the token endpoint, POST /auth/login, HTTP Basic, the change of a
// password. An attempt is reserved before anything is hashed (Guard.Begin) and
// ends in Success or Failure, so that of any number at once no more are tested
// than may fail.
//
// Three things are counted: the failures of one account from one network, which
// cost growing delays; those of one account over all networks that are not
// familiar to it; and those of a network and the wider one around it, over all
// names. From a network where somebody has signed in before only the first
// counts, so that nobody elsewhere can lock them out.
//
// It stores counters, in the database: they are shared by nodes and survive a
// crash. What it keeps in memory only lets attempts wait for each other. A name
// that is no account's counts like one, and is stored as a keyed digest alone,
// because people type passwords where names belong. It never sees a password.
//
// Begin with Guard.Begin.
package lockout

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Config is what a Guard needs.
type Config struct {
	DB *db.DB
	// Key is a secret of the server, of 16 bytes or more, that is used for nothing
	// else: accounts are named by digests under it.
	Key      []byte
	Refusals *audit.Refusals
	// Limit, if not nil, refuses an attempt beyond how many passwords may be tested
	// at all, right or wrong. It is asked first, also with Off.
	Limit func(ctx context.Context) error
	// Off lets every attempt through and counts none: for tests and measurements.
	Off bool
	Now func() time.Time // default time.Now
}

// Guard reserves attempts. It is safe for concurrent use.
type Guard struct {
	cfg   Config
	turns turns
	// Transactions that change the same budget go one at a time here: on PostgreSQL
	// all but one of those that run at once would be refused and run again.
	accounts, widers lanes
}

// New returns a Guard.
func New(cfg Config) *Guard {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Guard{cfg: cfg, accounts: newLanes(), widers: newLanes()}
}

// now is the time as the database can store it.
func (g *Guard) now() time.Time { return g.cfg.Now().Truncate(time.Microsecond) }

// Who is whose password is tried.
type Who struct {
	Subject string // id of the account, if there is one
	Name    string // otherwise the name, in the form in which names are compared
	Key     string // otherwise what Key returned: for an attempt that goes on without the name
}

// keys are the names of the rows that count an attempt.
type keys struct {
	account string
	networks
}

// Key names whoever is counted, without telling who that is.
func (g *Guard) Key(w Who) string { return g.account(w) }

func (g *Guard) account(w Who) string {
	if w.Subject == "" && w.Key != "" {
		return w.Key
	}
	m := hmac.New(sha256.New, g.cfg.Key)
	if w.Subject != "" {
		m.Write([]byte("subject\x00" + w.Subject))
	} else {
		m.Write([]byte("name\x00" + w.Name))
	}
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// Bounds of waiting for attempts that are under way. They bind those who know the
// password and sign in many times at once: a guess that fails brings the lock
// closer for all that wait.
const (
	maxWait = 5 * time.Second
	maxTurn = 64 // waiting for one account from one network
	// pollEvery is how often it is looked whether another node's attempt has ended.
	pollEvery = 100 * time.Millisecond
)

// quotaPolicy is what the answer to an attempt that is refused says of the rule
// (draft-ietf-httpapi-ratelimit-headers-10): five failures, within the time after
// which they are forgotten. It is the same whatever is used up.
const quotaPolicy = `"sign-in";q=5;w=86400`

// refusal is the one answer to an attempt that may not be made.
func refusal(after time.Duration) *sallyport.Error {
	return &sallyport.Error{
		Status: http.StatusTooManyRequests, Code: "too_many_attempts", RetryAfter: max(after, time.Second), Quota: quotaPolicy,
		Message: "Too many sign-ins with this name, or from this network, have failed. The password was not looked at. Wait for as long as Retry-After says, or ask the operator.",
	}
}

// IsRefusal reports whether err is a refusal of Begin.
func IsRefusal(err error) bool {
	e, ok := err.(*sallyport.Error)
	return ok && e.Status == http.StatusTooManyRequests
}

// Attempt is the permission to test one password. It ends in one of Success and
// Failure; End gives it back if it did not.
type Attempt struct {
	g     *Guard
	who   Who
	keys  keys
	end   time.Time // when it is given up
	taken bool      // out of the budgets too: the network is not familiar
	turn  *turn
	done  bool
}

// Begin reserves an attempt to test somebody's password, from where the request
// of ctx came, before it is tested. The error is a *sallyport.Error 429
// "too_many_attempts" with RetryAfter if there may be none now, the same for
// every reason, whether there is such an account or not; then the refusal is
// recorded. Before that it is what Config.Limit returns, if anything. Any other
// error means that it could not be counted, and then the password must not be
// tested either.
//
// Where as many attempts are under way as may fail, it waits for them, at most
// 5 s: many sign-ins at once with the right password are all let in.
//
// Call End, always.
func (g *Guard) Begin(ctx context.Context, who Who) (*Attempt, error) {
	if g.cfg.Limit != nil {
		if err := g.cfg.Limit(ctx); err != nil {
			return nil, err
		}
	}
	a := &Attempt{g: g, who: who}
	if g.cfg.Off {
		a.done = true
		return a, nil
	}
	a.keys.account = g.account(who)
	a.keys.networks = networksOf(reqctx.AddrOf(ctx))
	wait, err := g.begin(ctx, a)
	if err == nil && wait > 0 {
		g.cfg.Refusals.Note(ctx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: "too many attempts have failed", Actor: who.Subject})
		err = refusal(wait)
	}
	if err != nil {
		a.turn.leave()
		return nil, err
	}
	return a, nil
}

// begin reserves, or returns for how long nothing may be.
func (g *Guard) begin(ctx context.Context, a *Attempt) (time.Duration, error) {
	deadline := time.Now().Add(maxWait)
	v, err := g.look(g.cfg.DB.View(ctx), a.keys)
	if err != nil || v.final() {
		return v.locked, err
	}
	if a.turn, err = g.turns.take(ctx, a.keys, deadline); a.turn == nil || err != nil {
		return time.Second, err
	}
	for again := a.turn.waited || v.full; ; again = true {
		changed := a.turn.changed()
		if again {
			if v, err = g.look(g.cfg.DB.View(ctx), a.keys); err != nil || v.final() {
				return v.locked, err
			}
		}
		if !v.full {
			if v, err = g.reserve(ctx, a, v.familiar); err != nil || v.locked > 0 {
				return v.locked, err
			}
			if !v.full {
				return 0, nil
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			return time.Second, nil
		}
		timer := time.NewTimer(min(left, pollEvery))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, ctx.Err()
		}
		timer.Stop()
	}
}

// Familiar reports whether somebody has signed in to an account, within the time
// for which that is remembered, from the network that the request of ctx came from.
// For a name that is no account's it does the same work.
func (g *Guard) Familiar(ctx context.Context, rd db.Reader, who Who) (bool, error) {
	p, err := readPair(rd, keys{g.account(who), networksOf(reqctx.AddrOf(ctx))})
	return p.familiar(g.now()), err
}

// verdict is what a look at what is known says.
type verdict struct {
	now      time.Time
	locked   time.Duration // nothing may be tried for as long
	full     bool          // not now, but it is not locked
	familiar bool
	mended   bool // the clock was set back: what is known should be stored anew
}

// final reports whether somebody can be refused without a transaction.
func (v verdict) final() bool { return v.locked > 0 && !v.mended }

func (g *Guard) look(rd db.Reader, k keys) (verdict, error) {
	rec, err := read(rd, k)
	if err != nil {
		return verdict{}, err
	}
	_, v := rec.judge(g.now())
	return v, nil
}

// judge returns the record as it is now, and whether an attempt may be made.
func (r record) judge(now time.Time) (record, verdict) {
	v := verdict{now: now}
	var m [4]bool
	r.pair, m[0] = r.pair.at(now)
	v.familiar = r.pair.familiar(now)
	v.locked, v.full = r.pair.wait(now)
	v.mended = m[0]
	if v.familiar {
		return r, v
	}
	r.account, m[1] = r.account.at(now, ofAccount)
	r.address, m[2] = r.address.at(now, ofAddress)
	r.wider, m[3] = r.wider.at(now, ofWider)
	v.locked = max(v.locked, r.account.wait(now, ofAccount), r.address.wait(now, ofAddress), r.wider.wait(now, ofWider))
	v.mended = m[0] || m[1] || m[2] || m[3]
	return r, v
}

// reserve counts an attempt, unless there may be none.
func (g *Guard) reserve(ctx context.Context, a *Attempt, familiar bool) (v verdict, err error) {
	if !familiar {
		leave, err := g.enter(ctx, a.keys)
		if err != nil {
			return v, err
		}
		defer leave()
	}
	var end time.Time
	err = g.cfg.DB.Write(withoutGuard(ctx), func(tx *db.Tx) error {
		rec, err := read(tx, a.keys)
		if err != nil {
			return err
		}
		rec, v = rec.judge(g.now())
		may := v.locked == 0 && !v.full
		if !may && !v.mended {
			return nil
		}
		if may {
			rec.pair, end = rec.pair.hold(v.now)
		}
		if err := putPair(tx, a.keys, rec.pair); err != nil || v.familiar {
			return err
		}
		for _, b := range rec.budgets(a.keys) {
			if may {
				var news bool
				if *b.tally, news = b.take(v.now, b.budget).used(v.now, b.budget); news {
					if err := g.noteLock(ctx, tx, a.who, b.what, b.wait(v.now, b.budget)); err != nil {
						return err
					}
				}
			}
			if err := putTally(tx, b.account, b.network, *b.tally); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && v.locked == 0 && !v.full {
		a.end, a.taken = end, !v.familiar
	}
	return v, err
}

// counted is a budget with its tally and the row that holds it.
type counted struct {
	*tally
	budget
	account, network, what string
}

func (r *record) budgets(k keys) [3]counted {
	return [3]counted{
		{&r.account, ofAccount, k.account, "", "account"},
		{&r.address, ofAddress, "", k.address, "network"},
		{&r.wider, ofWider, "", k.wider, "wider network"},
	}
}

// noteLock records that a lock begins, in the transaction in which it does.
func (g *Guard) noteLock(ctx context.Context, tx *db.Tx, who Who, what string, d time.Duration) error {
	return audit.Append(ctx, tx, audit.Event{
		Action: "signin.locked", Result: audit.Failure, Target: who.Subject, Reason: "too many attempts have failed",
		Detail: map[string]string{"bucket": what, "seconds": seconds(d)},
	})
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// Success runs fn in a transaction, and ends the attempt in the same one: the
// password was right, and what it was for is done. The failures of the account
// from there are forgotten, and the network is familiar from now on. If fn
// returns an error, that is returned, and nothing was done. fn may run more than
// once, as with db.DB.Write.
func (a *Attempt) Success(ctx context.Context, fn func(*db.Tx) error) error {
	if a.done {
		return a.g.cfg.DB.Write(ctx, fn)
	}
	if a.taken {
		leave, err := a.g.enter(ctx, a.keys)
		if err != nil {
			return err
		}
		defer leave()
	}
	err := a.g.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return a.giveBack(tx, true)
	})
	if err == nil {
		a.settled()
	}
	return err
}

// Failure ends the attempt: the answer is that it failed. with, if not nil, runs
// in the same transaction, and ctx may have ended. Do not answer before it has
// returned, and if it returns an error, do not say that the password was wrong:
// then the attempt counts for a minute only.
//
// It is not for the wrong password alone. Every reason that is answered like one
// must count like one, or the count would tell them apart.
func (a *Attempt) Failure(ctx context.Context, with func(*db.Tx) error) error {
	if a.done && with == nil {
		return nil
	}
	done := a.done
	err := a.g.cfg.DB.Write(detached(ctx), func(tx *db.Tx) error {
		if with != nil {
			if err := with(tx); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
		p, err := readPair(tx, a.keys)
		if err != nil {
			return err
		}
		now := a.g.now()
		p, _ = p.at(now)
		p, locked := p.fail(now, a.end)
		if err := putPair(tx, a.keys, p); err != nil || locked == 0 {
			return err
		}
		return a.g.noteLock(ctx, tx, a.who, "account from a network", locked)
	})
	a.settled() // also if it failed: what was tested and not counted is not given back
	return err
}

// End gives the attempt back if it has not ended: nothing was tested, or nobody
// was told what came of it. It does what it can; what it cannot give back now
// counts for a minute.
func (a *Attempt) End(ctx context.Context) {
	if a.done {
		return
	}
	_ = a.g.cfg.DB.Write(detached(ctx), func(tx *db.Tx) error { return a.giveBack(tx, false) })
	a.settled()
}

// settled lets the next one begin.
func (a *Attempt) settled() {
	a.done = true
	a.turn.leave()
	a.turn = nil
}

func (a *Attempt) giveBack(tx *db.Tx, success bool) error {
	now := a.g.now()
	var rec record
	var err error
	if a.taken {
		rec, err = read(tx, a.keys)
	} else {
		rec.pair, err = readPair(tx, a.keys)
	}
	if err != nil {
		return err
	}
	p, _ := rec.pair.at(now)
	isNew := success && !p.familiar(now)
	if success {
		p = p.succeed(now, a.end)
	} else {
		p = p.release(a.end)
	}
	if err := putPair(tx, a.keys, p); err != nil {
		return err
	}
	if isNew {
		if err := forgetOldest(tx, a.keys.account, now); err != nil {
			return err
		}
	}
	if !a.taken {
		return nil
	}
	for _, b := range rec.budgets(a.keys) {
		if err := putTally(tx, b.account, b.network, b.giveBack(now, b.budget)); err != nil {
			return err
		}
	}
	return nil
}

// enter waits until no other transaction of this process changes the budgets.
func (g *Guard) enter(ctx context.Context, k keys) (leave func(), err error) {
	account, err := g.accounts.enter(ctx, k.account)
	if err != nil {
		return nil, err
	}
	wider, err := g.widers.enter(ctx, k.wider)
	if err != nil {
		account()
		return nil, err
	}
	return func() { wider(); account() }, nil
}

// detached is for what must be written though the caller has gone.
func detached(ctx context.Context) context.Context {
	return withoutGuard(context.WithoutCancel(ctx))
}

// withoutGuard is for counting, which does not depend on what the caller may do.
func withoutGuard(ctx context.Context) context.Context {
	return context.WithValue(ctx, db.GuardKey{}, nil)
}

// Cleanup says what of attempts is old: what has not mattered for up to a day.
func (g *Guard) Cleanup() []cleanup.Step {
	return []cleanup.Step{{Table: "sp_attempts", Delete: deleteOver}}
}
