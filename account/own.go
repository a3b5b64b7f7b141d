package account

import (
	"context"
	"net/http"
	"sync"

	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// maxBodies bounds ownBodies: about 500 bytes each.
const maxBodies = 10_000

// ownBodies remembers answers of GET /users/me, which is asked more often than
// everything else together. An answer is kept under the stamp of the request
// that it was made for: whatever changes an account or its grants declares that
// (db.Tx.Changed), and no request carries the stamp after that.
type ownBodies struct {
	mu sync.RWMutex
	m  map[uint64][]byte
}

// serve answers a request whose answer is known.
func (b *ownBodies) serve(w http.ResponseWriter, r *http.Request) bool {
	stamp := reqctx.Stamp(r.Context())
	if stamp == 0 {
		return false
	}
	b.mu.RLock()
	body := b.m[stamp]
	b.mu.RUnlock()
	if body == nil {
		return false
	}
	api.WriteJSON(w, body)
	return true
}

// keep remembers the answer to the request of ctx.
func (b *ownBodies) keep(ctx context.Context, m Me) {
	stamp := reqctx.Stamp(ctx)
	if stamp == 0 {
		return
	}
	body, err := api.EncodeJSON(m)
	if err != nil {
		return // the operation will find out
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.m == nil {
		b.m = map[uint64][]byte{}
	}
	if len(b.m) >= maxBodies {
		left := maxBodies / 2
		for old := range b.m { // any half: most stamps are of the past
			if delete(b.m, old); len(b.m) <= left {
				break
			}
		}
	}
	b.m[stamp] = body
}
