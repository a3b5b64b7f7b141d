package audit

import (
	"context"
	"crypto/ed25519"

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
