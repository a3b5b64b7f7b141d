package audit

import (
	"context"
	"crypto/ed25519"
	"hash"

	"github.com/sallyport/sallyport/internal/db"
)

// VerifyIn verifies what a transaction sees, so that a test can undo what it does.
func VerifyIn(ctx context.Context, rd db.Reader, key ed25519.PublicKey, kept ...Head) (Verdict, error) {
	return verify(ctx, rd, key, kept)
}

// Unchained leaves the chain out of what is recorded, for the measurement of what it
// costs.
func Unchained(yes bool) { chained = !yes }

// SealSize is how many events a seal has at most.
const SealSize = sealSize

// BareScan reads all events and writes their bytes to h.
func BareScan(ctx context.Context, d *db.DB, h hash.Hash) error {
	var r row
	return d.View(ctx).Rows("SELECT "+columns+", salt, commitment FROM sp_audit ORDER BY id", nil, func(scan db.Scan) error {
		if err := scan(append(r.fields(), &r.salt, &r.commitment)...); err != nil {
			return err
		}
		for _, s := range []string{r.ID, r.Action, string(r.Result), r.Actor, r.ActorKind, r.Target, r.Reason, r.Session, r.Address, r.UserAgent, r.RequestID, r.DecisionID, r.detail} {
			h.Write([]byte(s))
		}
		h.Write(r.salt)
		h.Write(r.commitment)
		return nil
	})
}
