package ratelimit

import (
	"context"
	"hash/maphash"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
)

// Store remembers what has passed. *Memory keeps it in this process; package
// store/redis shares it between several. Its methods may be called concurrently.
type Store interface {
	// Take decides whether n requests of a key may pass under all of the rates
	// together, and if so charges each of them, in one step: of many callers at
	// once exactly as many pass as one after the other. If one rate refuses, none
	// is charged. n = 0 charges nothing and looks whether one would pass.
	//
	// A key is always used with the same rates, in the same order; what happens
	// otherwise is up to the store, but never that a single rate lets more through
	// than it says. The error is CheckTake's, or says that the store cannot tell.
	Take(ctx context.Context, key string, n int, rates ...Rate) (Decision, error)
}

// MemoryConfig configures a Memory. The zero value is good.
type MemoryConfig struct {
	// MaxKeys is how many keys in use have a place of their own: 1,000 to
	// 50,000,000, default 1<<20. A key is in use until what it has taken has
	// refilled, and it counts once for each rate. Each costs 48 bytes once it has
	// been needed: the default grows to 51 MB and not beyond.
	MaxKeys int

	// Now is the clock; tests set it. Default time.Now, of which the monotonic
	// part counts: setting the machine's clock changes nothing.
	Now func() time.Time
}

// Memory is a Store in the memory of this process. It holds no pointers for the
// garbage collector to follow, has no goroutine, and does not allocate once it
// has grown.
//
// # Keys
//
// A key is not stored, but 96 bits of hash, made by hash/maphash under two random
// seeds that never leave the process. To end up in somebody else's bucket one
// would have to find a key with the same 96 bits without seeing seeds or hashes:
// with a million keys in use, one guess succeeds with a probability below 2^-70,
// and nothing that is answered tells whether another guess is nearer.
//
// # When it is full
//
// Nothing that is in use is ever thrown out, so nobody can reset a counter, his
// own or another's, by making keys, however many. What has refilled is as good as
// never seen, and its place is used again. A new key that finds no such place
// shares a bucket with the other new keys of its rate in the same of at least 16
// parts of the table, until something has refilled: limits become tighter under
// such a flood, never looser, and only for those who come new. Shared counts
// these requests. Whoever can come from very many addresses can bring this about;
// an address here is an IPv6 /64, and keys of longer periods are the cheaper ones
// to fill a table with. MaxKeys moves that point at 48 bytes a key.
type Memory struct {
	seeds    [2]maphash.Seed
	now      func() time.Time
	start    time.Time
	shift    uint // of the hash, to the shard
	maxSlots int  // of a shard
	shards   []shard
	shared   atomic.Uint64
}

// slot is a bucket with the hash of what it belongs to. A slot that was never
// used has at = 0.
type slot struct {
	proof uint64
	at    int64
	tag   uint32
	part  uint32
}

func (e *slot) live(now int64) bool { return Bucket{e.at, int64(e.part)}.live(now) }

// shard is a table by itself: open addressing, linear probing over at most
// window slots, no deletion. A slot that was used stays used, by another key once
// its bucket is not live, so that what was placed behind it is still found.
type shard struct {
	sync.Mutex
	slots []slot
	used  int // slots that are not free
	since int // keys placed since the table was made
	// overflow is where new keys share, by rate; made when it is needed.
	overflow []slot
	_        [64]byte // keeps neighbours' locks out of this one's cache line
}

const (
	window     = 64
	firstSlots = 64
	minShards  = 16
	// shardSlots bounds how long anybody waits for a table to be made anew: some
	// 50 µs for 8192 slots.
	shardSlots = 8192
)

// NewMemory returns an empty Memory. The error is a *ConfigError.
func NewMemory(cfg MemoryConfig) (*Memory, error) {
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = 1 << 20
	}
	if cfg.MaxKeys < 1000 || cfg.MaxKeys > 50_000_000 {
		return nil, sallyport.Mistake("MaxKeys", strconv.Itoa(cfg.MaxKeys), "it is not from 1,000 to 50,000,000", "Leave it out for 1,048,576, which take at most 51 MB.")
	}
	m := &Memory{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, now: cfg.Now, start: time.Now()}
	if m.now != nil {
		m.start = m.now()
	}
	n := minShards
	for 2*cfg.MaxKeys/n > shardSlots {
		n *= 2
	}
	m.shift = uint(64 - bits.TrailingZeros(uint(n)))
	m.shards = make([]shard, n)
	m.maxSlots = max((2*cfg.MaxKeys+len(m.shards)-1)/len(m.shards), window)
	return m, nil
}

// Shared returns how many decisions were made in a bucket that new keys share,
// since there was no place left. If it grows, raise MaxKeys, or see who sends
// from so many addresses.
func (m *Memory) Shared() uint64 { return m.shared.Load() }

// Take implements Store. It never waits for anything outside of the process, and
// does not look at ctx.
func (m *Memory) Take(_ context.Context, key string, n int, rates ...Rate) (Decision, error) {
	if err := CheckTake(n, rates); err != nil {
		return Decision{}, err
	}
	return m.take(m.hashString(key), n, rates), nil
}

// hash stands for a key: where its window begins, and what tells it from others.
type hash struct {
	tag   uint32
	proof uint64
}

func (m *Memory) hashString(key string) hash {
	return hash{uint32(maphash.String(m.seeds[0], key) >> 32), maphash.String(m.seeds[1], key)}
}

// hashBytes is hashString for a key that is nowhere as a string.
func (m *Memory) hashBytes(key []byte) hash {
	return hash{uint32(maphash.Bytes(m.seeds[0], key) >> 32), maphash.Bytes(m.seeds[1], key)}
}

// take is Take for arguments of which CheckTake returns nil.
func (m *Memory) take(key hash, n int, rates []Rate) Decision {
	now := m.micros()

	s := &m.shards[key.proof>>m.shift]
	s.Lock()
	var found [MaxRates]*slot
	if !s.find(key, rates, &found) && !s.place(key, now, m.maxSlots, rates, &found) {
		m.shared.Add(1)
	}
	var buckets [MaxRates]Bucket
	for i := range rates {
		buckets[i] = Bucket{found[i].at, int64(found[i].part)}
	}
	d := Decide(now, n, rates, buckets[:len(rates)])
	for i := range rates {
		found[i].at, found[i].part = buckets[i].At, uint32(buckets[i].Part)
	}
	s.Unlock()
	return d
}

// micros is the time on the store's own clock: at least 2, since an instant of 0
// marks a free slot and one of 1 a slot with nothing in it.
func (m *Memory) micros() int64 {
	var d time.Duration
	if m.now == nil {
		d = time.Since(m.start)
	} else {
		d = m.now().Sub(m.start)
	}
	return max(d.Microseconds(), 0) + 2
}

// A key's rates stand in the same window, which tag points to. What is compared
// is tag, and proof with the rate in it: two rates of one key differ there in any
// case.

// id is different for different rates: 20, 22 and 20 bits.
func (r Rate) id() uint64 {
	return uint64(r.Count) | uint64(r.Per/time.Second)<<20 | uint64(r.burst())<<42
}

// find fills in the slots of a key, and reports whether all are there.
func (s *shard) find(key hash, rates []Rate, found *[MaxRates]*slot) bool {
	all := true
	for i, r := range rates {
		found[i] = s.lookup(key.tag, key.proof^r.id())
		all = all && found[i] != nil
	}
	return all
}

func (s *shard) lookup(tag uint32, proof uint64) *slot {
	e := probe(s.slots, tag, func(e *slot) bool { return e.at == 0 || e.proof == proof && e.tag == tag })
	if e == nil || e.at == 0 {
		return nil
	}
	return e
}

// probe returns the first slot of the window of tag that is good, or nil.
func probe(slots []slot, tag uint32, good func(*slot) bool) *slot {
	n := len(slots)
	j := int(uint64(tag) * uint64(n) >> 32)
	for range min(window, n) {
		if e := &slots[j]; good(e) {
			return e
		}
		if j++; j == n {
			j = 0
		}
	}
	return nil
}

// place makes room for what find did not find, or lets it share: then it
// returns false.
func (s *shard) place(key hash, now int64, maxSlots int, rates []Rate, found *[MaxRates]*slot) bool {
	// A table that is half used is made anew, without what has refilled and larger
	// if need be: that costs every new key a part of a quarter of the table.
	if len(s.slots) == 0 || s.used > len(s.slots)/2 && s.since >= len(s.slots)/4 {
		s.rebuild(now, maxSlots, false)
	}
	for {
		// Slots move when the table is made anew, so all are looked up again.
		s.find(key, rates, found)
		// What has refilled counts as reserved, too: the key's next rate must not
		// take its slot.
		for i := range rates {
			if e := found[i]; e != nil && !e.live(now) {
				e.at, e.part = reserved, 0
			}
		}
		full := false
		for i, r := range rates {
			if found[i] == nil {
				found[i] = s.reserve(key.tag, key.proof^r.id(), now)
				full = full || found[i] == nil
			}
		}
		if !full {
			s.settle(rates, found)
			return true
		}
		if !s.rebuild(now, maxSlots, true) {
			break
		}
	}
	s.settle(rates, found)
	s.overflow = slices.Grow(s.overflow, len(rates)) // so that found is not moved away from
	for i, r := range rates {
		if found[i] == nil {
			found[i] = s.sharing(r)
		}
	}
	return false
}

// reserved is when the buckets end that are being placed: they are live until
// all of a key's are, so that none takes the place of another.
const reserved = 1<<63 - 1

// reserve takes the first slot of a window that is free or no longer live.
func (s *shard) reserve(tag uint32, proof uint64, now int64) *slot {
	e := probe(s.slots, tag, func(e *slot) bool { return !e.live(now) })
	if e == nil {
		return nil
	}
	if e.at == 0 {
		s.used++
	}
	s.since++
	*e = slot{proof: proof, tag: tag, at: reserved}
	return e
}

// settle empties what was reserved.
func (s *shard) settle(rates []Rate, found *[MaxRates]*slot) {
	for i := range rates {
		if e := found[i]; e != nil && e.at == reserved {
			e.at = 1
		}
	}
}

// rebuild makes the table anew with what is live in it, twice as large if that
// is much, or if larger says so. It reports false if the table stayed: it cannot
// grow, or some bucket would find no place.
func (s *shard) rebuild(now int64, maxSlots int, larger bool) bool {
	n := max(len(s.slots), min(firstSlots, maxSlots))
	if larger && n == maxSlots {
		return false
	}
	live := 0
	for i := range s.slots {
		if s.slots[i].live(now) {
			live++
		}
	}
	if larger || live > n/4 {
		n = min(2*n, maxSlots)
	}
	s.since = 0
	fresh := make([]slot, n)
	for i := range s.slots {
		e := &s.slots[i]
		if !e.live(now) {
			continue
		}
		to := probe(fresh, e.tag, func(f *slot) bool { return f.at == 0 })
		if to == nil {
			return false
		}
		*to = *e
	}
	s.slots, s.used = fresh, live
	return true
}

// sharing returns the bucket of a rate for all new keys without a place of their
// own. There are as many as the program has rates, whoever calls.
func (s *shard) sharing(r Rate) *slot {
	id := r.id()
	for i := range s.overflow {
		if s.overflow[i].proof == id {
			return &s.overflow[i]
		}
	}
	s.overflow = append(s.overflow, slot{proof: id, at: 1})
	return &s.overflow[len(s.overflow)-1]
}
