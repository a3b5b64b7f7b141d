package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// Keepable lists what Settle ends unless it is told to keep it.
func Keepable() []string {
	return []string{"sessions", "api-keys", "clients", "recovery-codes", "signing-keys"}
}

// Settled is what Settle did with one kind of thing.
type Settled struct {
	What  string `json:"what"`
	Done  string `json:"done"`  // ended, kept
	Count int64  `json:"count"` // how many were ended
	Why   string `json:"why"`
}

// settleBatch bounds one transaction.
const settleBatch = 2000

// Settle ends what a backup brings back: what was over, used up or revoked since
// it was made, and would be good again. It brings the schema up to date, and lets
// every node forget what it knows. It may be run again; what is named in keep
// (see Keepable) is left as it is. detail goes to the audit log.
//
// No server may use the database meanwhile.
func Settle(ctx context.Context, cfg Config, keep []string, detail map[string]string) ([]Settled, error) {
	for _, name := range keep {
		if !slices.Contains(Keepable(), name) {
			return nil, sallyport.Mistake("--keep", name, "there is no such kind", fmt.Sprintf("Choose of %v.", Keepable()))
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	now := cfg.Now()
	if _, err := cfg.DB.Migrate(ctx); err != nil {
		return nil, err
	}
	keys, err := openKeys(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// Before and after: a node that runs against the rules forgets what it knows
	// now, and what it learns while things end.
	if err := cfg.DB.Write(ctx, db.NewFeed); err != nil {
		return nil, err
	}
	if _, err := inBatches(ctx, cfg.DB.Write, func(tx *db.Tx) (int64, error) { return db.DropChanges(tx, settleBatch) }); err != nil {
		return nil, err
	}
	var done []Settled
	for _, s := range []struct {
		what, name, why string // name: of Keepable
		end             func(tx *db.Tx) (int64, error)
	}{
		{"waiting letters", "", "they would be sent twice", func(tx *db.Tx) (int64, error) { return mail.DiscardEvery(tx, settleBatch) }},
		{"links sent by mail", "", "those that were used would be good again", func(tx *db.Tx) (int64, error) { return link.VoidEvery(tx, settleBatch) }},
		{"sign-ins under way", "", "their tries would be counted anew", func(tx *db.Tx) (int64, error) { return signin.ForgetEvery(tx, settleBatch) }},
		{"one-time codes of this minute", "", "those that were used would be good again", func(tx *db.Tx) (int64, error) { return totp.UseEvery(tx, now, settleBatch) }},
		{"recovery codes", "recovery-codes", "those that were used would be good again", func(tx *db.Tx) (int64, error) { return totp.UseEveryRecovery(tx, now, settleBatch) }},
		{"sessions", "sessions", "those that were ended would be alive, with old refresh tokens", func(tx *db.Tx) (int64, error) {
			return session.EndEvery(tx, "a backup was restored", now, settleBatch)
		}},
		{"API keys", "api-keys", "those that were deleted or deactivated would be good again", func(tx *db.Tx) (int64, error) { return apikey.DeactivateEvery(tx, settleBatch) }},
		{"machine clients", "clients", "those that were deleted would be good again", func(tx *db.Tx) (int64, error) { return role.DisableClients(tx, settleBatch) }},
	} {
		at := Settled{What: s.what, Done: "ended", Why: s.why}
		if s.name != "" && slices.Contains(keep, s.name) {
			at.Done = "kept"
		} else if at.Count, err = inBatches(ctx, cfg.DB.Write, s.end); err != nil {
			return nil, err
		}
		done = append(done, at)
	}
	signing := Settled{What: "signing keys", Done: "ended", Why: "those that were retired would be accepted again"}
	switch {
	case len(cfg.Secret) > 0:
		signing.Done, signing.Why = "kept", "tokens.secret is the key that signs: change it there if it is known to others"
	case slices.Contains(keep, "signing-keys"):
		signing.Done = "kept"
	default:
		list, err := keys.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, k := range list {
			if k.State != "retired" {
				signing.Count++
			}
		}
		if err := keys.Replace(ctx); err != nil {
			return nil, err
		}
	}
	done = append(done, signing)
	return done, cfg.DB.Write(ctx, func(tx *db.Tx) error {
		marked, err := db.Settled(tx)
		if err == nil && !marked {
			err = db.NewFeed(tx)
		}
		if err != nil {
			return err
		}
		e := audit.Event{Action: "database.restored", Detail: map[string]string{}}
		for k, v := range detail {
			e.Detail[k] = v
		}
		for _, s := range done {
			e.Detail[s.What] = s.Done
			if s.Done == "ended" {
				e.Detail[s.What] += " " + strconv.FormatInt(s.Count, 10)
			}
		}
		return audit.Append(ctx, tx, e)
	})
}

// inBatches repeats a step until it finds less than a batch, and returns how many
// there were.
func inBatches(ctx context.Context, write func(context.Context, func(*db.Tx) error) error, step func(tx *db.Tx) (int64, error)) (all int64, err error) {
	for {
		var n int64
		err := write(ctx, func(tx *db.Tx) (err error) {
			n, err = step(tx)
			return err
		})
		if all += n; err != nil || n < settleBatch {
			return all, err
		}
	}
}
