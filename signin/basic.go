package signin

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Basic checks a name and password that came with a request (authn.Basic). It is
// a sign-in without a session, on the same way as every other. An account with a
// second factor, or of which one is demanded, is refused: a password alone does not
// open it.
func (s *Service) Basic(ctx context.Context, name, pw string) (authn.Verified, error) {
	// Many requests may come at once before the first is known. What one network
	// tries counts there: it does not share what another one is told.
	from := ""
	if c := reqctx.From(ctx); c != nil {
		from = c.Address()
	}
	return s.flights.do(ctx, sha256.Sum256([]byte(from+" "+name+":"+pw)), func(ctx context.Context) (authn.Verified, error) {
		began := time.Now()
		v, err := s.basic(ctx, name, pw)
		s.counts.signIns.Add("basic", outcome(err))
		if refused, ok := err.(*authn.Refused); ok {
			refused.Action = audit.SignInRefused // a guess, and not nonsense
		}
		s.hold(ctx, began, err)
		return v, err
	})
}

func (s *Service) basic(ctx context.Context, name, pw string) (v authn.Verified, err error) {
	err = s.tried(ctx, name, pw, func(who proven) error {
		if who.MFA { // a password alone does not open it
			return &authn.Refused{Reason: hasFactor, Subject: who.ID}
		}
		if owes, err := s.owes(s.cfg.DB.View(ctx), who.ID); err != nil {
			return err
		} else if owes {
			return &authn.Refused{Reason: mustHaveFactor, Subject: who.ID}
		}
		v = authn.Verified{Claims: sallyport.Claims{Subject: who.ID, Kind: sallyport.KindBasic}, Unit: who.bound()}
		return who.try.Success(ctx, func(tx *db.Tx) error {
			if err := s.stillThere(ctx, tx, who); err != nil {
				return err
			}
			if err := account.TouchLogin(tx, who.ID, s.cfg.Now()); err != nil {
				return err
			}
			return audit.Append(ctx, tx, audit.Event{Action: "password.accepted", Target: who.ID, Actor: who.ID, Detail: map[string]string{"by": "basic"}})
		})
	})
	if err != nil {
		return authn.Verified{}, err
	}
	return v, nil
}

// flights lets those who send the same name and password at the same time share
// one hash. It goes on, and is answered at its own time, as long as one of them
// waits, whoever was the first: when all have gone, it gives its place to others.
type flights struct {
	mu sync.Mutex
	m  map[[32]byte]*flight
}

type flight struct {
	done    chan struct{}
	v       authn.Verified
	err     error
	waiting int // under flights.mu
	cancel  context.CancelFunc
}

func (f *flights) do(ctx context.Context, key [32]byte, work func(context.Context) (authn.Verified, error)) (authn.Verified, error) {
	f.mu.Lock()
	fl, first := f.m[key], false
	var workCtx context.Context
	if fl == nil {
		first = true
		fl = &flight{done: make(chan struct{}), err: errAborted} // if work panics
		workCtx, fl.cancel = context.WithCancel(context.WithoutCancel(ctx))
		if f.m == nil {
			f.m = map[[32]byte]*flight{}
		}
		f.m[key] = fl
	}
	fl.waiting++
	f.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { f.leave(key, fl) })
	defer stop()
	if !first {
		select {
		case <-fl.done:
			return fl.v, fl.err
		case <-ctx.Done():
			return authn.Verified{}, ctx.Err()
		}
	}
	defer func() {
		f.mu.Lock()
		f.remove(key, fl)
		f.mu.Unlock()
		fl.cancel()
		close(fl.done)
	}()
	fl.v, fl.err = work(workCtx)
	return fl.v, fl.err
}

// leave ends what nobody waits for any more.
func (f *flights) leave(key [32]byte, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting == 0 {
		f.remove(key, fl) // who comes now begins anew
		fl.cancel()
	}
}

func (f *flights) remove(key [32]byte, fl *flight) {
	if f.m[key] == fl {
		delete(f.m, key)
	}
}
