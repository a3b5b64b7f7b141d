package live

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
)

// UUID is an id in binary.
type UUID = [16]byte

// Proven is what a credential was proven to be. It does not change; whether it
// still counts is another question.
type Proven struct {
	Subject UUID
	Unit    UUID // what can be ended: the session, the API key …
	Expires time.Time
	Profile Profile
}

// Profile is what many credentials have in common. The cache keeps each once.
type Profile struct {
	Kind    sallyport.Kind
	Client  string
	Scoped  bool
	Scope   string // names in order, separated by spaces
	KeyID   string // that a token was signed with
	Version int64  // of the keys then
}

// Known is a Profile with what follows from it.
type Known struct {
	Profile
	Scopes sallyport.Set
}

// NewKnown returns a profile that the cache does not keep.
func NewKnown(p Profile) *Known { return &Known{p, sallyport.NewSet(strings.Fields(p.Scope)...)} }

// State is what the database said of a credential.
type State struct {
	MFA      bool
	AuthTime time.Time
	Until    time.Time // when to look again although nothing changed; zero: never
	Subject  int64     // version of the subject
	Roles    int64     // version of the roles
	Grants   *sallyport.Grants
}

// Found is what is known of a credential: it is as small as can be, because every
// request carries one.
type Found struct {
	Known         *Known
	Subject, Unit UUID
	Expires       int64 // Unix seconds; 0: never

	// Alive tells that the rest is known too. Otherwise the credential is
	// genuine, and its state must be read.
	Alive, MFA                   bool
	SubjectVersion, RolesVersion uint32
	AuthTime                     int64 // Unix seconds; 0: nobody signed in
	Grants                       *sallyport.Grants
	// Stamp is never the same again once the subject's authority has changed:
	// what was derived under a stamp is good as long as the stamp is met.
	Stamp uint64
}

// Principal returns who that is.
func (f *Found) Principal() sallyport.Principal {
	return sallyport.NewCompactPrincipal(sallyport.Claims{
		Client: f.Known.Client, Kind: f.Known.Kind, Scoped: f.Known.Scoped, Scopes: f.Known.Scopes,
		MFA: f.MFA, AuthTime: timeOf(f.AuthTime), Expires: timeOf(f.Expires),
	}, f.Subject, f.Unit, f.Grants)
}

func timeOf(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// Seconds is a time as Found has it; 0 for none.
func Seconds(t time.Time) int64 { return int64(seconds(t, 0)) }

// The store is a slab of records without pointers, because the garbage collector
// follows pointers: a million entries with some would cost every request
// microseconds. Records are read without a lock and written under one.
//
// A record is found by a keyed hash of the credential and confirmed by the
// credential's last 32 bytes, which is most of a signature or secret; of a
// credential that may be short, by a keyed digest. Whoever does not have the
// credential does not have those. What is served is what the record says, never
// what was presented.
const (
	wVersion = iota // odd: being written
	wHash
	wProof0
	wProof1
	wProof2
	wProof3
	wSubject0
	wSubject1
	wUnit0
	wUnit1
	wTimes   // when the credential expires and when its person signed in, in seconds
	wUntil   // when the state must be read again, in microseconds
	wHandles // profile and grants
	wVersions
	wEpochs // of profile and grants
	wState  // 0: unknown; see below
	words
)

// A state is unknown (0), being read (pendingBit and a number that is never used
// again), or known (aliveBit, such a number, and flags).
const (
	pendingBit = 1 << 63
	aliveBit   = 1 << 62
	mfaBit     = 1
	stateShift = 1 // of the number
)

type record struct {
	w [words]atomic.Uint64
}

// A chunk is 8.6 MB, of which what is not used yet takes no memory of the machine.
// It counts as live for the garbage collector, which therefore runs a quarter as
// often in a program that holds little else, and each request pays less of it.
const (
	chunkBits = 16
	chunkSize = 1 << chunkBits
)

type chunk struct {
	records [chunkSize]record
	used    [chunkSize]atomic.Bool // since the clock's hand came by
}

// link joins the records of one subject; indices are one more than the record's.
type link struct{ next, prev uint32 }

// list is the records of one subject, from the newest on.
type list struct{ newest, oldest, n uint32 }

// maxEach bounds the records of one subject, all of which a change of it walks
// under the lock: twice as many as a machine client has sessions. Somebody with
// one account does not crowd out everybody else, either.
const maxEach = 10_000

// slots is an open-addressing table from hashes to records. A slot whose record
// has another hash by now counts as taken; rebuilding frees it.
type slots struct {
	mask uint64
	s    []atomic.Uint32 // index of a record and one; 0: free
}

// tables hold what records refer to. A record is good with tables of its own
// epochs only: to forget all of a kind is to make new tables.
type tables struct {
	proofs, states uint32 // epochs
	profiles       []*Known
	grants         []*sallyport.Grants
}

// Bounds of the tables. Credentials beyond them are not kept.
const (
	maxProfiles = 1 << 14
	maxGrants   = 1 << 17
	refill      = time.Minute // a table that is full begins anew, not more often
)

type store struct {
	seeds  [8]maphash.Seed // by scheme
	secret [32]byte        // of digests

	slots  atomic.Pointer[slots]
	tables atomic.Pointer[tables]
	chunks []atomic.Pointer[chunk]

	lock      sync.Mutex // of all below, and of every write of a record
	max       uint32
	n         uint32 // records that have been made
	free      []uint32
	taken     uint64 // slots
	hand      uint32
	swept     uint32
	links     []link
	lists     map[UUID]list // of each subject
	profileOf map[Profile]uint32
	grantsOf  map[*sallyport.Grants]uint32
	number    uint64
	emptied   time.Time
}

func (s *store) init(limit int) {
	for i := range s.seeds {
		s.seeds[i] = maphash.MakeSeed()
	}
	rand.Read(s.secret[:])
	s.max = uint32(limit)
	s.chunks = make([]atomic.Pointer[chunk], (limit+chunkSize-1)/chunkSize)
	s.slots.Store(newSlots(minSlots))
	s.tables.Store(&tables{})
	s.lists = map[UUID]list{}
	s.profileOf, s.grantsOf = map[Profile]uint32{}, map[*sallyport.Grants]uint32{}
}

const minSlots = 1 << 12

func newSlots(n uint64) *slots { return &slots{n - 1, make([]atomic.Uint32, n)} }

func (s *store) record(i uint32) *record {
	return &s.chunks[i>>chunkBits].Load().records[i&(chunkSize-1)]
}

// Key finds a credential.
type Key struct {
	hash  uint64
	proof [4]uint64
}

// KeyOf returns the key of a credential. Each scheme has a number below 8 of its
// own, so that no credential is found as one of another kind. Of one that a
// person may have thought of, guessable tells that its end is no proof.
func (s *store) KeyOf(scheme int, credential string, guessable bool) (k Key) {
	k.hash = max(maphash.String(s.seeds[scheme], credential), 1) // 0 is a free record
	var proof [32]byte
	if guessable || len(credential) < len(proof) {
		proof = s.digest(credential)
	} else {
		copy(proof[:], credential[len(credential)-len(proof):])
	}
	for i := range k.proof {
		k.proof[i] = binary.LittleEndian.Uint64(proof[8*i:])
	}
	return k
}

func (s *store) digest(credential string) (d [32]byte) {
	m := hmac.New(sha256.New, s.secret[:])
	m.Write([]byte(credential))
	copy(d[:], m.Sum(nil))
	return d
}

// matches compares in constant time.
func (k *Key) matches(w *[words]uint64) bool {
	return w[wHash] == k.hash &&
		(w[wProof0]^k.proof[0])|(w[wProof1]^k.proof[1])|(w[wProof2]^k.proof[2])|(w[wProof3]^k.proof[3]) == 0
}

// Get fills f with what is known of a credential, and reports whether it is
// known to be genuine and has not expired. What it finds may be used if Fresh
// was called before.
func (s *store) Get(k *Key, now time.Time, f *Found) bool {
	t, table := s.tables.Load(), s.slots.Load()
	for j := k.hash & table.mask; ; j = (j + 1) & table.mask {
		i := table.s[j].Load()
		if i == 0 {
			return false
		}
		c := s.chunks[(i-1)>>chunkBits].Load()
		r := &c.records[(i-1)&(chunkSize-1)]
		if r.w[wHash].Load() != k.hash {
			continue
		}
		var w [words]uint64
		for n := range w {
			w[n] = r.w[n].Load()
		}
		if w[wVersion]&1 == 1 || r.w[wVersion].Load() != w[wVersion] {
			return false // being written: to be read from the database
		}
		if !k.matches(&w) || !f.read(&w, t, now) {
			return false
		}
		if u := &c.used[(i-1)&(chunkSize-1)]; !u.Load() {
			u.Store(true)
		}
		return true
	}
}

// read takes a record apart. It may be newer than the tables: then it is a miss.
func (f *Found) read(w *[words]uint64, t *tables, now time.Time) bool {
	p := uint32(w[wHandles] >> 32)
	expires := int64(w[wTimes] >> 32)
	if uint32(w[wEpochs]>>32) != t.proofs || p >= uint32(len(t.profiles)) || now.Unix() >= expires {
		return false
	}
	binary.BigEndian.PutUint64(f.Subject[:8], w[wSubject0])
	binary.BigEndian.PutUint64(f.Subject[8:], w[wSubject1])
	binary.BigEndian.PutUint64(f.Unit[:8], w[wUnit0])
	binary.BigEndian.PutUint64(f.Unit[8:], w[wUnit1])
	f.Expires = expires
	if expires == noSeconds {
		f.Expires = 0
	}
	f.Known = t.profiles[p]
	g := uint32(w[wHandles])
	f.Alive = w[wState]&aliveBit != 0 && uint32(w[wEpochs]) == t.states && g < uint32(len(t.grants)) && uint64(now.UnixMicro()) < w[wUntil]
	if !f.Alive {
		return true
	}
	f.MFA = w[wState]&mfaBit != 0
	f.AuthTime = int64(uint32(w[wTimes]))
	f.SubjectVersion, f.RolesVersion = uint32(w[wVersions]>>32), uint32(w[wVersions])
	f.Grants = t.grants[g]
	f.Stamp = w[wState]
	return true
}

const noSeconds = 1<<32 - 1 // never expires

func seconds(t time.Time, none uint64) uint64 {
	if t.IsZero() {
		return none
	}
	return uint64(min(max(t.Unix(), 1), noSeconds-1))
}

// Ticket is the right to publish what is about to be read. The zero Ticket
// publishes nothing.
type Ticket struct {
	index  uint32 // of the record, and one
	number uint64
}

// Begin notes that a credential is genuine and that its state is about to be
// read. It is called before the reading, so that a change that comes in between
// finds it.
func (s *store) Begin(k *Key, p *Proven) Ticket {
	s.lock.Lock()
	defer s.lock.Unlock()
	handle, ok := s.profile(p.Profile)
	if !ok {
		return Ticket{}
	}
	i, found := s.find(k)
	if found && s.subject(i) != p.Subject { // two credentials of one hash
		s.release(i)
		found = false
	}
	if !found {
		if l := s.lists[p.Subject]; l.n >= maxEach {
			s.release(l.oldest - 1)
		}
		i = s.allocate()
	}
	s.number++
	t := s.tables.Load()
	s.write(i, func(w *record) {
		w.w[wHash].Store(k.hash)
		for n, v := range k.proof {
			w.w[wProof0+n].Store(v)
		}
		w.w[wSubject0].Store(binary.BigEndian.Uint64(p.Subject[:8]))
		w.w[wSubject1].Store(binary.BigEndian.Uint64(p.Subject[8:]))
		w.w[wUnit0].Store(binary.BigEndian.Uint64(p.Unit[:8]))
		w.w[wUnit1].Store(binary.BigEndian.Uint64(p.Unit[8:]))
		w.w[wTimes].Store(seconds(p.Expires, noSeconds) << 32)
		w.w[wHandles].Store(uint64(handle) << 32)
		w.w[wEpochs].Store(uint64(t.proofs)<<32 | uint64(t.states))
		w.w[wState].Store(pendingBit | s.number)
	})
	if !found {
		s.join(i, p.Subject)
		s.place(i, k.hash)
	}
	return Ticket{i + 1, s.number}
}

// Publish makes what was read known, unless something has changed since Begin.
// It returns the stamp under which it will be found, 0 if it will not.
func (s *store) Publish(t Ticket, st *State) (stamp uint64) {
	if t.index == 0 {
		return 0
	}
	i := t.index - 1
	s.lock.Lock()
	defer s.lock.Unlock()
	handle, ok := s.grantsHandle(st.Grants)
	r, tabs := s.record(i), s.tables.Load()
	if !ok || r.w[wState].Load() != pendingBit|t.number || r.w[wEpochs].Load() != uint64(tabs.proofs)<<32|uint64(tabs.states) {
		return 0
	}
	s.number++
	state := aliveBit | s.number<<stateShift
	if st.MFA {
		state |= mfaBit
	}
	until := uint64(1<<63 - 1)
	if !st.Until.IsZero() {
		until = uint64(max(st.Until.UnixMicro(), 0))
	}
	s.write(i, func(r *record) {
		r.w[wTimes].Store(r.w[wTimes].Load()&^noSeconds | seconds(st.AuthTime, 0))
		r.w[wUntil].Store(until)
		r.w[wHandles].Store(r.w[wHandles].Load()&^noSeconds | uint64(handle))
		r.w[wVersions].Store(uint64(uint32(st.Subject))<<32 | uint64(uint32(st.Roles)))
		r.w[wState].Store(state)
	})
	return state
}

// write changes a record. Readers see all of it or a miss.
func (s *store) write(i uint32, change func(*record)) {
	r := s.record(i)
	r.w[wVersion].Add(1)
	change(r)
	r.w[wVersion].Add(1)
}

func (s *store) subject(i uint32) (id UUID) {
	r := s.record(i)
	binary.BigEndian.PutUint64(id[:8], r.w[wSubject0].Load())
	binary.BigEndian.PutUint64(id[8:], r.w[wSubject1].Load())
	return id
}

func (s *store) find(k *Key) (uint32, bool) {
	table := s.slots.Load()
	for j := k.hash & table.mask; ; j = (j + 1) & table.mask {
		i := table.s[j].Load()
		if i == 0 {
			return 0, false
		}
		if s.record(i - 1).w[wHash].Load() == k.hash {
			return i - 1, true
		}
	}
}

// maxSteps bounds how long the clock's hand looks for a record that nobody used.
const maxSteps = 256

func (s *store) allocate() uint32 {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i
	}
	if s.n < s.max {
		if s.n&(chunkSize-1) == 0 {
			s.chunks[s.n>>chunkBits].Store(new(chunk))
		}
		s.links = append(s.links, link{})
		s.n++
		return s.n - 1
	}
	for step := 0; ; step++ {
		s.hand = (s.hand + 1) % s.n
		used := &s.chunks[s.hand>>chunkBits].Load().used[s.hand&(chunkSize-1)]
		if step == maxSteps || !used.Load() {
			s.release(s.hand)
			return s.allocate()
		}
		used.Store(false)
	}
}

// release frees a record. Its slot stays until the next rebuilding.
func (s *store) release(i uint32) {
	s.leave(i)
	s.write(i, func(r *record) {
		r.w[wHash].Store(0)
		r.w[wState].Store(0)
	})
	s.free = append(s.free, i)
}

// join and leave keep the list of a subject's records.
func (s *store) join(i uint32, subject UUID) {
	l := s.lists[subject]
	s.links[i] = link{next: l.newest}
	if l.newest != 0 {
		s.links[l.newest-1].prev = i + 1
	} else {
		l.oldest = i + 1
	}
	l.newest = i + 1
	l.n++
	s.lists[subject] = l
}

func (s *store) leave(i uint32) {
	subject, at := s.subject(i), s.links[i]
	l := s.lists[subject]
	if at.next != 0 {
		s.links[at.next-1].prev = at.prev
	} else {
		l.oldest = at.prev
	}
	if at.prev != 0 {
		s.links[at.prev-1].next = at.next
	} else {
		l.newest = at.next
	}
	s.links[i] = link{}
	if l.n--; l.n == 0 {
		delete(s.lists, subject)
		return
	}
	s.lists[subject] = l
}

// place puts a record into the table, which is rebuilt when three quarters of it
// are taken.
func (s *store) place(i uint32, hash uint64) {
	table := s.slots.Load()
	if s.taken >= (table.mask+1)/4*3 {
		s.rebuild() // with this record
		return
	}
	table.put(i, hash)
	s.taken++
}

func (t *slots) put(i uint32, hash uint64) {
	j := hash & t.mask
	for t.s[j].Load() != 0 {
		j = (j + 1) & t.mask
	}
	t.s[j].Store(i + 1)
}

func (s *store) rebuild() {
	size := uint64(minSlots)
	live := uint64(s.n) - uint64(len(s.free))
	for size < 2*live {
		size *= 2
	}
	table := newSlots(size)
	s.taken = 0
	for i := range s.n {
		if hash := s.record(i).w[wHash].Load(); hash != 0 {
			table.put(i, hash)
			s.taken++
		}
	}
	s.slots.Store(table)
}

// profile returns the handle of a profile.
func (s *store) profile(p Profile) (uint32, bool) {
	if h, ok := s.profileOf[p]; ok {
		return h, true
	}
	if len(s.profileOf) >= maxProfiles {
		if !s.mayEmpty() {
			return 0, false
		}
		s.emptyAll()
	}
	t := *s.tables.Load()
	h := uint32(len(t.profiles))
	t.profiles = append(t.profiles, NewKnown(p))
	s.profileOf[p] = h
	s.tables.Store(&t)
	return h, true
}

// grantsHandle returns the handle of grants.
func (s *store) grantsHandle(g *sallyport.Grants) (uint32, bool) {
	if h, ok := s.grantsOf[g]; ok {
		return h, true
	}
	if len(s.grantsOf) >= maxGrants {
		if s.mayEmpty() {
			s.emptyStates()
		}
		return 0, false // the state that was read is of the epoch before
	}
	t := *s.tables.Load()
	h := uint32(len(t.grants))
	t.grants = append(t.grants, g)
	s.grantsOf[g] = h
	s.tables.Store(&t)
	return h, true
}

// mayEmpty keeps somebody who can fill a table from emptying the cache all the
// time.
func (s *store) mayEmpty() bool {
	now := time.Now()
	if now.Sub(s.emptied) < refill {
		return false
	}
	s.emptied = now
	return true
}

// emptyStates makes every state unknown: states of the epoch before are none.
func (s *store) emptyStates() {
	t := *s.tables.Load()
	t.states++
	t.grants = nil
	clear(s.grantsOf)
	s.tables.Store(&t)
}

// emptyAll forgets every credential.
func (s *store) emptyAll() {
	t := *s.tables.Load()
	t.proofs++
	t.states++
	t.profiles, t.grants = nil, nil
	clear(s.profileOf)
	clear(s.grantsOf)
	s.tables.Store(&t)
}

func (s *store) forgetStates() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.emptyStates()
}

func (s *store) forget() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.emptyAll()
}

// invalidate makes the state of all credentials of a subject unknown.
func (s *store) invalidate(subject string) {
	id, err := uuid.Parse(subject)
	if err != nil {
		return // such a subject is never kept
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	for i := s.lists[id].newest; i != 0; i = s.links[i-1].next {
		s.record(i - 1).w[wState].Store(0)
	}
}

// expire throws out some of what has expired, so that all of it has been looked
// at within a few minutes.
func (s *store) expire(now time.Time) {
	const batch = 4096
	s.lock.Lock()
	todo := max(s.n/16, batch)
	s.lock.Unlock()
	for ; todo > 0; todo -= min(todo, batch) {
		s.expireSome(now, batch)
	}
}

func (s *store) expireSome(now time.Time, batch uint32) {
	s.lock.Lock()
	defer s.lock.Unlock()
	proofs := s.tables.Load().proofs
	for range min(batch, s.n) {
		s.swept = (s.swept + 1) % s.n
		r := s.record(s.swept)
		if r.w[wHash].Load() == 0 {
			continue
		}
		if uint32(r.w[wEpochs].Load()>>32) != proofs || now.Unix() >= int64(r.w[wTimes].Load()>>32) {
			s.release(s.swept)
		}
	}
}
