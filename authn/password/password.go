// Package password turns a password into a string that can be stored, and
// tells later whether a password is the one.
//
// It decides three things: how a new password is hashed (argon2id, at the cost
// the Config says), whether a presented password matches a stored hash of any
// of the supported formats, and whether a new password is acceptable ([Check]).
//
// It stores nothing. What the caller stores is one string that names its own
// format and cost. When Verify reports Upgrade, the caller has the password at
// hand, hashes it anew and replaces the string.
//
// Work is bounded. A hash takes a permit, memory is the number of permits times
// the cost of one hash, and the callers that wait for a permit are counted and
// wait a limited time. Whatever asks for work was written by somebody else (an
// import, a restored backup, an attacker with a foothold in the database), so
// every cost in a stored hash is compared with a cap before any work is done.
//
// It never truncates a password, never stops at a NUL, never logs, and never
// puts a password, a salt or a digest into an error. It does not wipe memory:
// Go's collector may have copied it already, and a wipe that works only
// sometimes is a promise that cannot be kept.
//
// Begin with New, and the Hash and Verify of the Hasher that it returns.
package password

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/text/unicode/norm"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/measure"
)

// Config says what a new hash costs and how many are computed at a time. The
// zero value is secure and works.
type Config struct {
	// Memory is what one hash uses, in KiB. Default 19456 (19 MiB), which
	// with the defaults of Time and Threads is OWASP's recommendation and
	// takes about 16 ms on a 2025 server core.
	Memory uint32

	// Time is the number of passes over the memory. Default 2.
	Time uint32

	// Threads is how many cores one hash uses. Default 1: under load, cores
	// are better spent on different sign-ins.
	Threads uint8

	// Permits is how many hashes are computed at a time. Default GOMAXPROCS.
	// Hashing uses at most Permits × Memory, or what the one costliest stored
	// hash needs, where that alone is more (at most 256 MiB). That is memory
	// in use; the collector may let the process hold about as much again
	// until it has run, which GOMEMLIMIT limits.
	Permits int

	// Queue is how many callers may wait for a permit; those beyond get
	// ErrBusy at once. Default 32 × Permits, and at least 64: about a second
	// of work.
	Queue int

	// MaxWait is how long a caller waits for a permit before it gets ErrBusy.
	// Default 5 s.
	MaxWait time.Duration

	// SpareProcessor raises GOMAXPROCS by the number of permits, at most to its
	// double, while passwords are hashed and for five seconds after, so that
	// other requests do not wait for hashes. It is a setting of the whole
	// process, and a program should decide it: the server does.
	SpareProcessor bool

	// OnWork, if not nil, is called for each password that is hashed or verified,
	// whatever comes of it. It must be safe for concurrent use.
	OnWork func()

	// DangerouslyWeak accepts a cost below OWASP's floor. It is for tests,
	// where thousands of hashes must not take minutes.
	DangerouslyWeak bool
}

const (
	defaultMemory  = 19456
	defaultTime    = 2
	defaultThreads = 1
	defaultMaxWait = 5 * time.Second

	maxPermits = 1024
	maxQueue   = 1 << 16
	maxMaxWait = time.Minute

	saltSize = 16 // RFC 9106, section 3.1: 16 bytes are recommended for passwords
	keySize  = 32

	// maxBytes is the longest password that is looked at. It is more than
	// 1024 characters can take in any spelling, so that nothing Check accepts
	// is refused here, and little enough that normalising it costs nothing
	// beside a hash.
	maxBytes = 16 << 10
)

// owaspFloor is the least memory, in KiB, that OWASP's Password Storage Cheat
// Sheet accepts for 1, 2, 3, 4, and 5 or more passes.
var owaspFloor = [...]uint32{47104, 19456, 12288, 9216, 7168}

// ErrBusy is returned when too many callers wait for a permit, or one has
// waited too long. It is a *sallyport.Error.
var ErrBusy error = &sallyport.Error{
	Status: http.StatusServiceUnavailable, Code: "busy",
	Message: "The server is handling as many sign-ins as it can. Nothing was changed. Try again in a moment.",
	// A full queue of the default length is worked off in about this time.
	RetryAfter: time.Second,
}

// Result is the answer of Verify.
type Result struct {
	OK bool // the password is the one

	// Upgrade is set only with OK: the stored hash is not what Hash would
	// make now, so the caller should store what Hash returns for the same
	// password.
	Upgrade bool
}

// Hasher hashes and verifies passwords. It is safe for concurrent use. A
// process needs one: two have two budgets.
type Hasher struct {
	argon   argon2Params
	spare   bool
	permits int64
	queue   int64
	maxWait time.Duration

	sem     *semaphore.Weighted
	waiting atomic.Int64
	typical stopwatch
	onWork  func()

	using          atomic.Int64 // permits
	busy           atomic.Uint64
	waited, hashed *measure.Durations

	// meter, when a test sets it, is told the KiB that begin and end to be
	// in use.
	meter func(delta int64)
}

// New checks c, fills in the defaults and returns a Hasher. The error joins
// everything that is wrong with c.
func New(c Config) (*Hasher, error) {
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.Time == 0 {
		c.Time = defaultTime
	}
	if c.Threads == 0 {
		c.Threads = defaultThreads
	}
	if c.Permits == 0 {
		c.Permits = min(runtime.GOMAXPROCS(0), maxPermits)
	}
	if c.Queue == 0 {
		c.Queue = max(64, 32*c.Permits)
	}
	if c.MaxWait == 0 {
		c.MaxWait = defaultMaxWait
	}

	var problems []error
	bad := func(key string, value any, why, fix string) {
		problems = append(problems, fmt.Errorf("password: %s is %v: %s; %s", key, value, why, fix))
	}
	// Hash must never make what Verify refuses, so the caps are the same.
	p := argon2Params{memory: c.Memory, time: c.Time, threads: c.Threads}
	switch err := p.check(); {
	case err != nil:
		_, why, _ := strings.Cut(err.Error(), ": ") // without "hash is malformed": nothing is stored yet
		bad("Memory, Time, Threads", p, why, "choose values within the caps, or leave them at 0 for the default")
	case !c.DangerouslyWeak && c.Memory < owaspFloor[min(int(c.Time), len(owaspFloor))-1]:
		bad("Memory", c.Memory, "with that Time a stolen database would be guessed too cheaply",
			fmt.Sprintf("with Time %d it must be at least %d KiB (in a test, set DangerouslyWeak)",
				c.Time, owaspFloor[min(int(c.Time), len(owaspFloor))-1]))
	}
	if c.Permits < 0 || c.Permits > maxPermits {
		bad("Permits", c.Permits, "that is not a number of hashes a machine can compute at a time",
			fmt.Sprintf("choose 1 to %d, or 0 for one per core", maxPermits))
	}
	if c.Queue < 0 || c.Queue > maxQueue {
		bad("Queue", c.Queue, "callers must wait in a bounded queue", fmt.Sprintf("choose 1 to %d, or 0 for the default", maxQueue))
	}
	if c.MaxWait < 0 || c.MaxWait > maxMaxWait {
		bad("MaxWait", c.MaxWait, "a caller must be answered before it gives up",
			fmt.Sprintf("choose up to %v, or 0 for %v", maxMaxWait, defaultMaxWait))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return &Hasher{
		argon:   p,
		permits: int64(c.Permits),
		spare:   c.SpareProcessor,
		queue:   int64(c.Queue),
		maxWait: c.MaxWait,
		onWork:  c.OnWork,
		sem:     semaphore.NewWeighted(int64(c.Permits)),
		waited:  measure.NewDurations(.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5),
		hashed:  measure.NewDurations(.005, .01, .015, .02, .025, .03, .04, .05, .075, .1, .15, .25, .5, 1, 2.5),
	}, nil
}

// Hash returns what to store for pw: an argon2id hash as a PHC string. Every
// byte of pw counts, after Unicode normalisation (NFC), so that the same
// password typed on another system is the same password.
//
// Hash does not judge pw; see [Check]. It returns ErrBusy, ctx.Err() where ctx
// ended before the work began, and a *sallyport.Error for a password longer
// than 16 KiB.
func (h *Hasher) Hash(ctx context.Context, pw string) (string, error) {
	if len(pw) > maxBytes {
		f := tooLong()
		return "", &sallyport.Error{Status: http.StatusUnprocessableEntity, Code: f.Code, Message: f.Detail}
	}
	if err := h.acquire(ctx, 1); err != nil {
		return "", err
	}
	defer h.release(1)
	defer h.work(ctx)()

	a := &argon2Hash{argon2Params: h.argon, variant: argon2id, notation: notationPHC, salt: make([]byte, saltSize)}
	rand.Read(a.salt) // never fails: the runtime ends the process instead
	a.key = h.full(a.salt, norm.NFC.String(pw))
	return a.String(), nil
}

// Verify reports whether pw is the password that stored was made from. stored
// may be of any supported format.
//
// A stored string that is empty, malformed, unsupported or too costly is the
// same as a wrong password, in the answer and in time; [Identify] says what is
// wrong with it. The error is ErrBusy or, where ctx ended before the work
// began, ctx.Err().
//
// A wrong password takes the time of a current hash, though the stored one be
// cheaper: the rest is spent on a hash that is thrown away. Where the stored
// hash costs more than a current one, that does show, until the person's next
// sign-in upgrades it; to hide it, everybody would have to pay for it.
func (h *Hasher) Verify(ctx context.Context, stored, pw string) (Result, error) {
	hash, _ := parse(stored) // nil: nothing to compare with, but the same work
	weight := int64(1)
	if hash != nil {
		weight = h.weight(hash.cost())
	}
	if err := h.acquire(ctx, weight); err != nil {
		return Result{}, err
	}
	defer h.release(weight)
	defer h.work(ctx)()

	if len(pw) > maxBytes {
		hash, pw = nil, ""
	}
	nfc := norm.NFC.String(pw)

	if a, ok := hash.(*argon2Hash); ok && a.current(h.argon) {
		// Only the normalised spelling: we made this hash. A second attempt
		// would cost a second hash, and a stranger could tell accounts from
		// unknown names by sending passwords that are not normalised.
		return Result{OK: equal(h.full(a.salt, nfc), a.key)}, nil
	}

	start := time.Now()
	// Others hashed the bytes as they came. So try both spellings.
	if hash != nil && (h.matches(hash, nfc) || nfc != pw && h.matches(hash, pw)) {
		return Result{OK: true, Upgrade: true}, nil
	}
	h.topUp(start, nfc)
	return Result{}, nil
}

// Dummy takes the time of Verify with a current hash and pw. Call it where
// there is no account, so that its absence does not show. The error is as
// Verify's.
func (h *Hasher) Dummy(ctx context.Context, pw string) error {
	_, err := h.Verify(ctx, "", pw)
	return err
}

// Current reports whether stored is what Hash would make now, apart from salt
// and password.
func (h *Hasher) Current(stored string) bool {
	hash, err := parse(stored)
	a, ok := hash.(*argon2Hash)
	return err == nil && ok && a.current(h.argon)
}
