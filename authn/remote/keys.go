package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/authn/token"
)

// How long keys are used and how often they are fetched.
const (
	defaultKeyAge = 5 * time.Minute // without Cache-Control: max-age
	minKeyAge     = time.Minute
	maxKeyAge     = time.Hour
	staleFor      = 24 * time.Hour   // while the issuer cannot be reached
	fetchGap      = 10 * time.Second // between fetches that requests cause
	emptyGap      = time.Second      // the same as long as there are no keys at all
)

// keys is the issuer's key set as it was fetched last. Nothing runs between
// requests: what is due is fetched when somebody asks.
type keys struct {
	url    string
	client *http.Client
	life   *life
	now    func() time.Time
	log    *slog.Logger

	state atomic.Pointer[keyState] // nil until the first good fetch

	mu      sync.Mutex
	running *keyFetch // nil if none is
	began   time.Time // of the last fetch
	failure error     // of the last fetch that ended
}

type keyState struct {
	set    *token.Set
	digest [sha256.Size]byte // of the text
	began  time.Time         // when it was asked for
	maxAge time.Duration
}

type keyFetch struct {
	done chan struct{}
	set  *token.Set
	err  error
}

var errNoKey = errors.New("the issuer publishes no key that could be used here (EdDSA, ES256 or RS256, for signatures); keys of HS256 are never published")

// current returns the set to verify with, nil if there is none that may still
// be used.
//
// Keys past their age are used while new ones are fetched in the background. If
// nobody asked for so long that they are past twice their age, the fetch is
// waited for, unless the last one failed: an issuer that is away must not make
// everybody wait.
func (k *keys) current(ctx context.Context) *token.Set {
	s := k.state.Load()
	if s == nil {
		return nil
	}
	now := k.now()
	age := now.Sub(s.began)
	if age >= 0 && age < s.maxAge {
		return s.set
	}
	if age >= staleFor {
		return nil
	}
	k.mu.Lock()
	f := k.startUnlessRecent(now, fetchGap)
	wait := f != nil && k.failure == nil && age >= 2*s.maxAge
	k.mu.Unlock()
	if wait {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		s = k.state.Load()
	}
	return s.set
}

// beyond returns a set that may have a key that have has not. The error means
// that it cannot be known: nothing could be fetched.
func (k *keys) beyond(ctx context.Context, have *token.Set) (*token.Set, error) {
	gap := fetchGap
	if have == nil {
		gap = emptyGap
	}
	now := k.now()
	k.mu.Lock()
	if s := k.state.Load(); s != nil && s.set != have && now.Sub(s.began) < staleFor {
		k.mu.Unlock()
		return s.set, nil // somebody else was faster
	}
	f, failure := k.startUnlessRecent(now, gap), k.failure
	k.mu.Unlock()
	if f == nil {
		return have, failure
	}
	return f.wait(ctx)
}

func (k *keys) refresh(ctx context.Context) error {
	k.mu.Lock()
	f := k.start(k.now())
	k.mu.Unlock()
	_, err := f.wait(ctx)
	return err
}

func (f *keyFetch) wait(ctx context.Context) (*token.Set, error) {
	select {
	case <-f.done:
		return f.set, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// startUnlessRecent returns the fetch that runs, or begins one if the last one
// began gap ago; otherwise nil. A clock that was set back does not count as
// recent. The mutex is held.
func (k *keys) startUnlessRecent(now time.Time, gap time.Duration) *keyFetch {
	since := now.Sub(k.began)
	if k.running == nil && !k.began.IsZero() && since >= 0 && since < gap {
		return nil
	}
	return k.start(now)
}

// start returns the fetch that runs, or begins one. The mutex is held.
func (k *keys) start(now time.Time) *keyFetch {
	if k.running != nil {
		return k.running
	}
	f := &keyFetch{done: make(chan struct{})}
	if !k.life.run(func(ctx context.Context) { k.finish(f, now, k.fetch(ctx, f, now)) }) {
		f.err = errClosed
		close(f.done)
		return f
	}
	k.running, k.began = f, now
	return f
}

// finish records how a fetch ended and wakes who waits.
func (k *keys) finish(f *keyFetch, began time.Time, err error) {
	if err != nil && !errors.Is(err, errClosed) {
		k.log.Error("the issuer's keys could not be fetched; those that are known are used for up to 24 hours", "url", k.url, "error", err)
	}
	f.err = err
	k.mu.Lock()
	k.running, k.failure = nil, err
	k.mu.Unlock()
	close(f.done)
}

// fetch replaces the state by what the issuer publishes now. A set without a
// usable key replaces it too: what is not published any more is not trusted.
func (k *keys) fetch(ctx context.Context, f *keyFetch, began time.Time) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return err
	}
	header, b, err := fetch(k.client, req, token.MaxJWKS)
	if err != nil {
		return withContext(ctx, err)
	}
	next := &keyState{digest: sha256.Sum256(b), began: began, maxAge: keyAge(header)}
	if s := k.state.Load(); s != nil && s.digest == next.digest {
		next.set = s.set // the same keys: what was verified with them stays so
	} else if next.set, err = token.ParseJWKS(b); err != nil {
		return fmt.Errorf("GET %s: %w", k.url, err)
	}
	k.state.Store(next)
	f.set = next.set
	if next.set.Len() == 0 {
		return fmt.Errorf("GET %s: %w", k.url, errNoKey)
	}
	return nil
}

// keyAge is how long an answer says that it may be used (RFC 9111, section
// 5.2.2), within our bounds.
func keyAge(h http.Header) time.Duration {
	age := defaultKeyAge
	for part := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return minKeyAge
		case "max-age":
			if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32); err == nil && n >= 0 {
				age = time.Duration(n) * time.Second
			}
		}
	}
	return min(max(age, minKeyAge), maxKeyAge)
}
