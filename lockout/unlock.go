package lockout

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
)

// Cleared is what Unlock took back.
type Cleared struct {
	// Network is where the failures came from, such as 203.0.113.7/32; "" for the
	// budget of an account over all networks that are not familiar to it.
	Network  string
	Failures int
	// Locked is until when nothing could be tried; zero if something could.
	Locked time.Time
}

// Unlock forgets the failed attempts of an account, from all networks, and
// returns what there was; an event records it if there was anything. What is
// familiar to the account stays so, and attempts that are under way count on.
//
// The budgets of networks are not the account's: see UnlockAddress.
func (g *Guard) Unlock(ctx context.Context, subject string) (out []Cleared, err error) {
	account := g.account(Who{Subject: subject})
	err = g.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		out = nil // nothing of an earlier run
		now := g.now()
		pairs, err := pairsOf(tx, account)
		if err != nil {
			return err
		}
		for _, network := range slices.Sorted(maps.Keys(pairs)) {
			p, _ := pairs[network].at(now)
			if p.failures > 0 {
				c := Cleared{Network: network, Failures: p.failures}
				if now.Before(p.until) {
					c.Locked = p.until
				}
				out = append(out, c)
			}
			p.failures, p.last, p.until = 0, time.Time{}, time.Time{}
			if err := putPair(tx, keys{account, networks{address: network}}, p); err != nil {
				return err
			}
		}
		c, err := clearTally(tx, account, "", ofAccount, now)
		if err != nil {
			return err
		}
		out = append(out, c...)
		return noteUnlock(ctx, tx, subject, out)
	})
	return out, err
}

// UnlockAddress forgets the failed attempts that count against the network of an
// address and the wider one around it, over all names, and returns what there
// was; an event records it if there was anything. The failures of single accounts
// from there stay: see Unlock.
func (g *Guard) UnlockAddress(ctx context.Context, a netip.Addr) (out []Cleared, err error) {
	n := networksOf(a)
	err = g.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		out = nil // nothing of an earlier run
		now := g.now()
		address, err := clearTally(tx, "", n.address, ofAddress, now)
		if err != nil {
			return err
		}
		wider, err := clearTally(tx, "", n.wider, ofWider, now)
		if err != nil {
			return err
		}
		out = slices.Concat(address, wider)
		return noteUnlock(ctx, tx, n.address, out)
	})
	return out, err
}

// clearTally deletes a budget's row and returns what it said, if anything.
func clearTally(tx *db.Tx, account, network string, b budget, now time.Time) ([]Cleared, error) {
	t, found, err := readTally(tx, account, network)
	if err != nil || !found {
		return nil, err
	}
	if err := deleteTally(tx, account, network); err != nil {
		return nil, err
	}
	t, _ = t.at(now, b)
	if !t.until.After(now) {
		return nil, nil
	}
	c := Cleared{Network: network, Failures: int((t.until.Sub(now) + b.every - 1) / b.every)}
	if d := t.wait(now, b); d > 0 {
		c.Locked = now.Add(d)
	}
	return []Cleared{c}, nil
}

func noteUnlock(ctx context.Context, tx *db.Tx, target string, cleared []Cleared) error {
	if len(cleared) == 0 {
		return nil
	}
	names := make([]string, len(cleared))
	for i, c := range cleared {
		names[i] = cmp.Or(c.Network, "account")
	}
	return audit.Append(ctx, tx, audit.Event{Action: "signin.unlocked", Target: target, Detail: map[string]string{"networks": strings.Join(names, " ")}})
}

// Network is one from which an account was signed in to, or tried to be.
type Network struct {
	Network  string
	Failures int
	Seen     time.Time // the last sign-in that succeeded; zero: none
}

// NetworksOf returns what is remembered of an account by network.
func (g *Guard) NetworksOf(rd db.Reader, subject string) ([]Network, error) {
	return networksSeen(rd, g.account(Who{Subject: subject}))
}

// Forget deletes what is remembered of an account: it is gone, or in other hands.
// What counts against networks stays.
func (g *Guard) Forget(tx *db.Tx, subject string) error {
	return deleteAccount(tx, g.account(Who{Subject: subject}))
}
