package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
)

// Damage is what was done to the log.
type Damage string

// The kinds of damage.
const (
	Changed   Damage = "changed"   // a row is not what was sealed
	Removed   Damage = "removed"   // a row that was sealed is gone
	Inserted  Damage = "inserted"  // a row that was never recorded by us
	Erased    Damage = "erased"    // emptied like a deleted account's, without a deletion
	Broken    Damage = "broken"    // a seal is not what was signed
	Truncated Damage = "truncated" // the chain ends before a head that was kept
	Rewritten Damage = "rewritten" // the chain has another seal where that head was
)

// Finding is one place where the log is not what was recorded.
type Finding struct {
	Damage   Damage     `json:"damage"`
	Seal     int64      `json:"seal,omitempty"`     // number
	Position int64      `json:"position,omitempty"` // in the whole log; of a seal: of its first event
	ID       string     `json:"id,omitempty"`       // of the event
	At       *time.Time `json:"at,omitempty"`
	What     string     `json:"what"`
}

// Verdict is what verifying has found.
type Verdict struct {
	Whole    bool      `json:"whole"`
	Events   int64     `json:"events"` // that were compared with their seals
	Seals    int64     `json:"seals"`
	Erased   int64     `json:"erased"`  // events of accounts that were deleted
	Waiting  int64     `json:"waiting"` // events that are not sealed yet
	Cut      int64     `json:"cut"`     // events that retention has deleted
	Head     *Head     `json:"head"`    // nil: nothing was sealed
	Findings []Finding `json:"findings"`
	More     int64     `json:"more"` // findings beyond those
}

// maxFindings bounds what is listed: from there on the number says enough.
const maxFindings = 100

// verifyPage is how many events are read at a time.
const verifyPage = 2000

// Verify reads the whole log once and compares it with its chain, and the chain with
// heads that were kept. What is recorded and sealed meanwhile is no harm. Findings
// stand in the order of the chain; what was inserted has no place in it and comes
// last.
func (c *Chain) Verify(ctx context.Context, kept ...Head) (Verdict, error) {
	return verify(ctx, c.db.View(ctx), c.Key(), kept)
}

func verify(ctx context.Context, rd db.Reader, key ed25519.PublicKey, kept []Head) (Verdict, error) {
	p := &proof{
		ctx: ctx, rd: rd, key: key,
		unseen: map[uuid.UUID]expected{}, unsealed: map[uuid.UUID]*row{}, emptied: map[string]place{}, deleted: map[string]bool{},
	}
	err := p.run(kept)
	return p.Verdict, err
}

// findings are what one reading has found.
type findings struct {
	Verdict
	found []Finding
}

// proof is one reading of the log.
type proof struct {
	findings
	ctx context.Context
	rd  db.Reader
	key ed25519.PublicKey

	after    string // id of the last event that was read
	met      string // the same, if it is one of ours
	end      bool   // there is no other
	unseen   map[uuid.UUID]expected
	unsealed map[uuid.UUID]*row // read, and in no seal so far
	emptied  map[string]place   // by the subject that must have been deleted: the first
	deleted  map[string]bool    // subjects
	cut      cut
}

type place struct {
	seal, position int64
	id             uuid.UUID
	at             int64
}

type expected struct {
	digest [32]byte
	place
}

func (p *proof) run(kept []Head) error {
	cut, wasCut, err := readCut(p.rd)
	if err != nil {
		return err
	}
	if wasCut && !ed25519.Verify(p.key, cut.statement(), cut.signature) {
		p.find(Finding{Damage: Broken, Seal: cut.number, Position: cut.position, What: "what retention noted of the events it deleted was not signed by this server: it may hide that others were"})
	}
	p.cut, p.Cut = cut, cut.position
	if wasCut && cut.odd {
		p.find(Finding{Damage: Broken, Seal: cut.number, Position: cut.position, What: "a column of what retention noted has a value of another type than the server writes"})
	}
	if nameless, err := nameless(p.rd); err != nil {
		return err
	} else if nameless {
		p.find(Finding{Damage: Inserted, What: "an event without an id: the server gives every event one"})
	}
	end, any, err := lastSeal(p.rd)
	if err != nil {
		return err
	}
	if end.odd { // SQLite has such a number behind all others
		p.find(Finding{Damage: Broken, Seal: end.number, Position: end.first, What: "a column of the last seal has a value of another type than the server writes"})
	}
	last, err := p.seals(seal{number: cut.number, first: cut.position + 1, hash: cut.hash}, end.number)
	if err != nil {
		return err
	}
	if err := p.read(uuid.Max); err != nil {
		return err
	}
	if any {
		h := last.head(p.key)
		p.Head = &h
	}
	if err := p.rest(last); err != nil {
		return err
	}
	for subject, at := range p.emptied {
		gone, err := p.gone(subject)
		if err != nil {
			return err
		}
		if !gone {
			p.find(at.finding(Erased, "what can be erased of it is empty, and no account.deleted tells why"))
		}
	}
	for _, h := range kept {
		if err := p.compare(h); err != nil {
			return err
		}
	}
	p.conclude()
	return nil
}

// conclude makes the verdict of what was found.
func (v *findings) conclude() {
	slices.SortStableFunc(v.found, func(a, b Finding) int {
		if (a.Seal == 0) != (b.Seal == 0) {
			return cmp.Compare(b.Seal, a.Seal)
		}
		return cmp.Or(cmp.Compare(a.Seal, b.Seal), cmp.Compare(a.Position, b.Position))
	})
	v.Whole = len(v.found) == 0
	v.Findings = append([]Finding{}, v.found[:min(len(v.found), maxFindings)]...)
	v.More = int64(len(v.found) - len(v.Findings))
}

// maxKept bounds what is remembered of findings, so that a log which is all wrong
// does not fill the memory.
const maxKept = 100_000

func (v *findings) find(f Finding) {
	if len(v.found) < maxKept {
		v.found = append(v.found, f)
	}
}

func (at place) finding(d Damage, what string) Finding {
	f := Finding{Damage: d, Seal: at.seal, Position: at.position, ID: at.id.String(), What: what}
	if at.at != 0 {
		t := sayable(db.Time(at.at))
		f.At = &t
	}
	return f
}

// seals goes along the chain behind a seal to the one with a number, and returns the
// last.
func (p *proof) seals(before seal, end int64) (seal, error) {
	for before.number < end {
		batch, err := seals(p.rd, before.number, 64)
		if err != nil {
			return before, err
		}
		for _, s := range batch {
			if s.number > end {
				return before, nil
			}
			if err := p.seal(before, s); err != nil {
				return before, err
			}
			before = s
		}
		if len(batch) == 0 {
			return before, nil
		}
	}
	return before, nil
}

// seal looks at one seal, and reads the events that it lists.
func (p *proof) seal(before, s seal) error {
	p.Seals++
	broken := func(what string, args ...any) {
		p.find(Finding{Damage: Broken, Seal: s.number, Position: s.first, What: fmt.Sprintf(what, args...)})
	}
	entries, whole := unpacked(s.events)
	if s.odd {
		broken("a column of the seal has a value of another type than the server writes")
	}
	switch signed := ed25519.Verify(p.key, s.statement(), s.signature); {
	case s.number != before.number+1:
		p.find(Finding{Damage: Removed, Seal: before.number + 1, Position: before.last() + 1, What: fmt.Sprintf("seals %d to %d are gone, with what they say of the events between positions %d and %d", before.number+1, s.number-1, before.last()+1, s.first-1)})
		if !signed || !whole {
			broken("the seal is not what was signed: it was changed, or made by somebody without the server's key")
		}
	case !signed || !whole:
		broken("the seal is not what was signed: it was changed, or made by somebody without the server's key")
	case !bytes.Equal(s.link(before.hash), s.hash) || s.first != before.last()+1:
		broken("the seal does not fit the one before: what it lists was changed or put into another order, or the one before is another than it was sealed behind")
	}
	highest := uuid.UUID{}
	for i, e := range entries {
		at := place{s.number, s.first + int64(i), e.id, 0}
		if bytes.Compare(e.id[:], highest[:]) > 0 {
			highest = e.id
		}
		// Somebody can have an event sealed again that was sealed before: that adds
		// nothing, as long as it is the same.
		if before, twice := p.unseen[e.id]; twice {
			if before.digest != e.digest {
				p.find(at.finding(Changed, "it was sealed twice, and was another then"))
			}
			continue
		}
		want := expected{e.digest, at}
		if r := p.unsealed[e.id]; r != nil {
			delete(p.unsealed, e.id)
			p.event(want, r)
		} else {
			p.unseen[e.id] = want
		}
	}
	return p.read(highest)
}

// read goes on through the events until it has met an id.
func (p *proof) read(until uuid.UUID) error {
	for !p.end && p.met < until.String() {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		var r *row
		n, last := 0, false
		err := rowsAfter(p.rd, p.after, verifyPage, func(scan db.Scan) error {
			if r == nil {
				r = new(row)
			}
			oddID, odd := false, false
			into := append(r.fields(), &r.salt, &r.commitment)
			if err := scan(append(strict(&oddID, into[:1]), strict(&odd, into[1:])...)...); err != nil {
				return err
			}
			n++
			if oddID { // SQLite has them behind all texts
				last = true
				p.find(Finding{Damage: Inserted, ID: r.ID, What: "its id is of another type than the server gives"})
				return nil
			}
			p.after, r.odd = r.ID, odd
			id, ours := parseID(r.ID)
			if !ours {
				t := sayable(db.Time(r.at))
				p.find(Finding{Damage: Inserted, ID: r.ID, At: &t, What: "its id is none that the server gives"})
				return nil
			}
			p.met = r.ID
			if want, ok := p.unseen[id]; ok {
				delete(p.unseen, id)
				p.event(want, r)
			} else {
				p.unsealed[id] = r
				r = nil
			}
			return nil
		})
		if err != nil {
			return err
		}
		p.end = last || n < verifyPage
	}
	return nil
}

// gone reports whether a subject was an account and was deleted. Only accounts are,
// and no id of theirs is given twice.
func (p *proof) gone(subject string) (bool, error) {
	if _, ours := parseID(subject); !ours || !p.deleted[subject] {
		return false, nil
	}
	there, err := subjectThere(p.rd, subject)
	return !there, err
}

// deletion reports whether the event tells that an account was deleted.
func (r *row) deletion() bool { return !r.odd && r.Action == accountDeleted && r.Result == Success }

// event compares an event with what was sealed of it.
func (p *proof) event(want expected, r *row) {
	p.Events++
	want.at = r.at
	same := !r.odd && r.digest() == want.digest
	switch {
	case r.odd:
		p.find(want.finding(Changed, "a column has a value of another type than the server writes: some readers do not find the event any more"))
	case !same:
		p.find(want.finding(Changed, "it is not what was sealed"))
	case r.erased():
		p.Erased++
		subject := r.Actor
		if subject == "" {
			subject = r.Target
		}
		// The deletion itself may be deleted by retention before the last event of
		// the account, which is written late.
		if first, ok := p.emptied[subject]; r.at > p.cut.sealedAt+2*late.Microseconds() && (!ok || want.position < first.position) {
			p.emptied[subject] = want.place
		}
	case !bytes.Equal(r.committed(), r.commitment):
		p.find(want.finding(Changed, "it is not what was sealed: one of reason, session, address, user agent, request id, decision id, detail, or their salt"))
	}
	if same && r.deletion() {
		p.deleted[r.Target] = true
	}
}

// rest is what only one side has, now that both were read.
func (p *proof) rest(last seal) error {
	// What was recorded meanwhile waits, or was sealed. It is looked for in this
	// order, in which nothing slips through.
	if len(p.unsealed) > 0 {
		if err := eachWaiting(p.rd, func(id string) {
			u, ours := parseID(id)
			r := p.unsealed[u]
			if !ours || r == nil {
				return
			}
			if r.deletion() { // what it erased may be sealed
				p.deleted[r.Target] = true
			}
			delete(p.unsealed, u)
			p.Waiting++
		}); err != nil {
			return err
		}
		now, _, err := lastSeal(p.rd)
		if err != nil {
			return err
		}
		newest, err := p.seals(last, now.number)
		if err != nil {
			return err
		}
		if newest.number > last.number {
			h := newest.head(p.key)
			p.Head = &h
		}
	}
	now, _, err := readCut(p.rd)
	if err != nil {
		return err
	}
	for id, want := range p.unseen {
		if want.position <= now.position && want.position > p.cut.position { // retention, meanwhile
			continue
		}
		if r, found, err := readRow(p.rd, id.String()); err != nil {
			return err
		} else if found { // recorded behind what was read
			p.event(want, &r)
			continue
		}
		what := "it was sealed, and is gone"
		if want.digest == [32]byte{} {
			what = "it was gone before it could be sealed"
		}
		p.find(want.finding(Removed, what))
	}
	for id, r := range p.unsealed {
		p.find(place{id: id, at: r.at}.finding(Inserted, "it is in no seal, and does not wait for one: it was inserted, or the seal that lists it was removed"))
	}
	return nil
}

// compare looks for a head that was kept.
func (p *proof) compare(h Head) error {
	f := Finding{Seal: h.Number, Position: h.Position}
	found, err := seals(p.rd, h.Number-1, 1)
	if err != nil {
		return err
	}
	switch {
	case !h.Genuine(p.key):
		f.Damage, f.What = Broken, "the head that was given was not signed by this server, or was changed"
	case h.Number < p.cut.number: // retention has deleted it
		return nil
	case h.Number == p.cut.number:
		if bytes.Equal(h.Hash, p.cut.hash) {
			return nil
		}
		f.Damage, f.What = Rewritten, "retention has deleted another seal than the head that was given"
	case len(found) == 0:
		last := int64(0)
		if p.Head != nil {
			last = p.Head.Position
		}
		f.Damage, f.What = Truncated, fmt.Sprintf("the chain ends at position %d, and it went on to %d at least: what came after was removed, or an older backup was restored", last, h.Position)
	case found[0].number != h.Number || !bytes.Equal(found[0].hash, h.Hash):
		f.Damage, f.What = Rewritten, "the chain has another seal there: it was cut back and went on anew, or an older backup was restored"
	default:
		return nil
	}
	p.find(f)
	return nil
}
