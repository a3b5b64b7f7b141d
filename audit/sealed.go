package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/db"
)

// A sealed export is a file that shows by itself that nobody has changed it: seals,
// each with its events behind it, and the head at the end. Who has it and the public
// key needs neither the database nor the server.
//
// With an event goes the salt of its commitment. It lets one try what stood in the
// columns that can be erased, and those stand beside it.

const (
	eventSchema = "sallyport.audit_event/v1"
	sealSchema  = "sallyport.audit_seal/v1"
	headSchema  = "sallyport.audit_head/v1"
)

// sealedSeal is a seal as a line. Its events are entries: 16 bytes of an id and 32 of
// a digest each.
type sealedSeal struct {
	Schema    string    `json:"schema"`
	Number    int64     `json:"number"`
	First     int64     `json:"first"`
	SealedAt  time.Time `json:"sealed_at"`
	Node      string    `json:"node"`
	Events    []byte    `json:"events"`
	Previous  []byte    `json:"previous"`
	Hash      []byte    `json:"hash"`
	Key       []byte    `json:"public_key"`
	Signature []byte    `json:"signature"`
}

// sealedEvent is an event as a line. Bytes are the columns that JSON cannot say.
type sealedEvent struct {
	Schema string `json:"schema"`
	Record
	Salt       []byte            `json:"salt,omitempty"`
	Commitment []byte            `json:"commitment"`
	Bytes      map[string][]byte `json:"bytes,omitempty"`
}

func sealLine(s seal, previous []byte, key ed25519.PublicKey) []byte {
	return line(sealedSeal{sealSchema, s.number, s.first, db.Time(s.sealedAt), s.node, s.events, previous, s.hash, key, s.signature})
}

// texts returns the columns that are texts, by their names.
func (r *Record) texts() map[string]*string {
	return map[string]*string{
		"id": &r.ID, "action": &r.Action, "result": (*string)(&r.Result), "actor": &r.Actor, "actor_kind": &r.ActorKind, "target": &r.Target,
		"reason": &r.Reason, "session": &r.Session, "address": &r.Address, "user_agent": &r.UserAgent, "request_id": &r.RequestID, "decision_id": &r.DecisionID,
	}
}

// sealedLine writes a row so that every byte of it can be read again. What JSON cannot
// say, no server of ours has written, but for texts that are not UTF-8.
func sealedLine(r row) []byte {
	e := sealedEvent{Schema: eventSchema, Record: r.Record, Salt: r.salt, Commitment: r.commitment}
	raw := func(name string, b []byte) {
		if e.Bytes == nil {
			e.Bytes = map[string][]byte{}
		}
		e.Bytes[name] = b
	}
	for name, s := range e.texts() {
		if !utf8.ValidString(*s) {
			raw(name, []byte(*s))
			*s = strings.ToValidUTF8(*s, "\ufffd")
		}
	}
	if e.At = db.Time(r.at).UTC(); e.At.Year() < 0 || e.At.Year() > 9999 {
		raw("at", strconv.AppendInt(nil, r.at, 10))
		e.At = time.Time{}
	}
	e.Detail = nil
	if err := json.Unmarshal([]byte(r.detail), &e.Detail); err != nil || e.encoded() != r.detail {
		raw("detail", []byte(r.detail))
		e.Detail = nil
	}
	return line(e)
}

// row is what the line was written from, if it was written by sealedLine.
func (e sealedEvent) row() row {
	r := row{Record: e.Record, at: db.Micros(e.At), detail: e.encoded(), salt: e.Salt, commitment: e.Commitment}
	for name, s := range r.texts() {
		if b, ok := e.Bytes[name]; ok {
			*s = string(b)
		}
	}
	if b, ok := e.Bytes["at"]; ok {
		r.at, _ = strconv.ParseInt(string(b), 10, 64)
	}
	if b, ok := e.Bytes["detail"]; ok {
		r.detail = string(b)
	}
	return r
}

// Export writes a sealed export: all that was sealed at a time or after it, whole
// seals. It returns how many events that are.
func (c *Chain) Export(ctx context.Context, since time.Time, w io.Writer) (events int64, err error) {
	view := c.db.View(ctx)
	cut, _, err := readCut(view)
	if err != nil {
		return 0, err
	}
	last := seal{number: cut.number, hash: cut.hash}
	written := false
	var accounts erasures
	for rounds := 0; ; {
		if err := ctx.Err(); err != nil {
			return events, err
		}
		some, err := seals(view, last.number, 16)
		if err != nil {
			return events, err
		}
		if len(some) == 0 {
			// An event that was erased is here, and the deletion that tells why may
			// wait to be sealed.
			if len(accounts.unexplained()) == 0 || rounds == 3 {
				break
			}
			rounds++
			if err := c.Seal(ctx); err != nil {
				return events, err
			}
			continue
		}
		for _, s := range some {
			if !written && !since.IsZero() && s.sealedAt < db.Micros(since) {
				last = s
				continue
			}
			rows, err := rowsOf(view, s.ids())
			if err != nil {
				return events, err
			}
			if cut, _, err = readCut(view); err != nil {
				return events, err
			}
			switch { // retention, meanwhile
			case cut.number > last.number && written:
				return events, errTrimmed
			case cut.number > last.number:
				last = seal{number: cut.number, hash: cut.hash}
			}
			if s.number <= last.number {
				continue
			}
			n, err := c.exportSeal(rows, s, last.hash, &accounts, w)
			if events += n; err != nil {
				return events, err
			}
			written, last = true, s
		}
	}
	if !written {
		return 0, nil
	}
	_, err = w.Write(headLine(last.head(c.Key())))
	return events, err
}

// errTrimmed is for a file that would have a hole.
var errTrimmed = errors.New("retention has deleted events while they were exported. Export again")

func (c *Chain) exportSeal(rows []row, s seal, previous []byte, accounts *erasures, w io.Writer) (n int64, err error) {
	byID := make(map[string]row, len(rows))
	for _, r := range rows {
		byID[r.ID] = r
	}
	out := sealLine(s, previous, c.Key())
	for i, id := range s.ids() {
		if r, ok := byID[id]; ok { // else it is gone, which the seal shows
			out = append(out, sealedLine(r)...)
			accounts.saw(&r, place{seal: s.number, position: s.first + int64(i)})
			n++
		}
	}
	_, err = w.Write(out)
	return n, err
}

// erasures are events without what can be erased, the first of each account whose they
// were, and the accounts that were deleted.
type erasures struct {
	after   int64 // of events before, the deletion may be in what is not read
	emptied map[string]place
	deleted map[string]bool
}

func (e *erasures) saw(r *row, at place) {
	if e.deleted == nil {
		e.emptied, e.deleted = map[string]place{}, map[string]bool{}
	}
	if r.deletion() {
		e.deleted[r.Target] = true
	}
	if subject := cmp.Or(r.Actor, r.Target); r.erased() && r.at > e.after {
		if _, ok := e.emptied[subject]; !ok {
			at.at = r.at
			e.emptied[subject] = at
		}
	}
}

// unexplained returns the first of the events that no deletion explains, by account.
func (e *erasures) unexplained() (out []place) {
	for subject, at := range e.emptied {
		if _, ours := parseID(subject); !(ours && e.deleted[subject]) {
			out = append(out, at)
		}
	}
	return out
}

// maxLine bounds a line of a sealed export: an event is a hundredth of it.
const maxLine = 16 << 20

// ErrNotSealed is returned for a file that is no sealed export.
var ErrNotSealed = errors.New("it is no sealed export of the audit log")

// VerifyExport reads a sealed export and compares it with its seals, those with the
// key that the server signs with, and with heads that were kept. Verdict.Cut is how
// many events came before those in the file.
func VerifyExport(in io.Reader, key ed25519.PublicKey, kept ...Head) (Verdict, error) {
	x := &reading{key: key, kept: kept}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	for lines.Scan() {
		x.line++
		x.read(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		return Verdict{}, fmt.Errorf("line %d: %w", x.line+1, err)
	}
	if x.Head == nil {
		return Verdict{}, ErrNotSealed
	}
	x.endSeal()
	if !x.ended {
		x.find(Finding{Damage: Truncated, Seal: x.last.number, Position: x.last.last(), What: "the file has no last line, which is a head: it was not written to its end, or cut off"})
	}
	for _, at := range x.accounts.unexplained() {
		x.find(at.finding(Erased, "what can be erased of it is empty, and no account.deleted in the file tells why"))
	}
	for _, h := range kept {
		x.compare(h)
	}
	x.conclude()
	return x.Verdict, nil
}

// wholeLines splits off lines with their ends, so that a last one without is seen.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// reading is one reading of a sealed export.
type reading struct {
	findings
	key      ed25519.PublicKey
	kept     []Head
	accounts erasures

	line   int
	last   seal
	due    []entry // events of the last seal that have not come
	at     int64   // position of the first of them
	ended  bool    // a head has come
	hashes map[int64][]byte
}

func (x *reading) odd(d Damage, what string) {
	x.find(Finding{Damage: d, Seal: x.last.number, Position: x.at, What: fmt.Sprintf("line %d: %s", x.line, what)})
}

func (x *reading) read(text []byte) {
	var what struct {
		Schema string `json:"schema"`
	}
	err := json.Unmarshal(text, &what)
	switch {
	case err != nil:
		x.odd(Changed, "it is not JSON: it was changed, or the file is cut off there")
	case x.ended:
		x.odd(Inserted, "it stands behind the head, which is the end")
	case what.Schema == sealSchema:
		x.seal(text)
	case x.Head == nil: // what comes before the first seal is in none
		x.odd(Inserted, "it stands before the first seal")
	case what.Schema == eventSchema:
		x.event(text)
	case what.Schema == headSchema:
		x.ended = true
		if !bytes.Equal(text, headLine(*x.Head)) {
			x.odd(Changed, "the head is not that of the last seal in the file")
		}
	default:
		x.odd(Inserted, "it is neither a seal nor an event nor a head")
	}
}

func (x *reading) seal(text []byte) {
	x.endSeal()
	var in sealedSeal
	if err := json.Unmarshal(text, &in); err != nil {
		x.odd(Changed, "it is no seal as the program writes it")
		return
	}
	s := seal{
		number: in.Number, first: in.First, sealedAt: db.Micros(in.SealedAt), events: in.Events,
		node: in.Node, hash: in.Hash, signature: in.Signature,
	}
	entries, whole := unpacked(s.events)
	broken := func(what string) {
		x.find(Finding{Damage: Broken, Seal: s.number, Position: s.first, What: fmt.Sprintf("line %d: %s", x.line, what)})
	}
	signed := whole && ed25519.Verify(x.key, s.statement(), s.signature) && bytes.Equal(s.link(in.Previous), s.hash)
	switch follows := x.Head == nil || s.number == x.last.number+1; {
	case !bytes.Equal(text, sealLine(s, in.Previous, x.key)):
		broken("the seal is not as the program writes it, or another key signed it")
	case !follows && s.number <= x.last.number:
		broken("the seal stands behind one that it came before")
	case !follows:
		x.find(Finding{Damage: Removed, Seal: x.last.number + 1, Position: x.last.last() + 1, What: fmt.Sprintf("line %d: seals %d to %d are missing, with the events between positions %d and %d", x.line, x.last.number+1, s.number-1, x.last.last()+1, s.first-1)})
		if !signed {
			broken("the seal is not what was signed: it was changed, or made by somebody without the server's key")
		}
	case !signed:
		broken("the seal is not what was signed: it was changed, or made by somebody without the server's key")
	case x.Head != nil && (!bytes.Equal(in.Previous, x.last.hash) || s.first != x.last.last()+1):
		broken("the seal does not fit the one before")
	}
	if x.Head == nil {
		x.Cut = s.first - 1
		if x.Cut > 0 {
			x.accounts.after = s.sealedAt + 2*late.Microseconds()
		}
		x.hashes = map[int64][]byte{s.number - 1: in.Previous}
	}
	x.Seals++
	for _, h := range x.kept {
		if h.Number == s.number {
			x.hashes[s.number] = s.hash
		}
	}
	h := s.head(x.key)
	x.Head, x.last, x.due, x.at = &h, s, entries, s.first
}

// event takes the next event of the last seal.
func (x *reading) event(text []byte) {
	var in sealedEvent
	if err := json.Unmarshal(text, &in); err != nil {
		x.odd(Changed, "it is no event as the program writes it")
		return
	}
	r := in.row()
	id, _ := parseID(r.ID)
	i := slices.IndexFunc(x.due, func(e entry) bool { return e.id == id })
	if i < 0 {
		x.find(Finding{Damage: Inserted, Seal: x.last.number, ID: r.ID, What: fmt.Sprintf("line %d: the seal before it does not list it, or listed it earlier", x.line)})
		return
	}
	x.missing(i)
	want := x.due[0]
	at := place{x.last.number, x.at, want.id, r.at}
	x.due, x.at = x.due[1:], x.at+1
	x.Events++
	switch {
	case !bytes.Equal(text, sealedLine(r)):
		x.find(at.finding(Changed, fmt.Sprintf("line %d: it is not as the program writes it", x.line)))
	case r.digest() != want.digest:
		x.find(at.finding(Changed, fmt.Sprintf("line %d: it is not what was sealed", x.line)))
	case r.erased():
		x.Erased++
		x.accounts.saw(&r, at)
	case !bytes.Equal(r.committed(), r.commitment):
		x.find(at.finding(Changed, fmt.Sprintf("line %d: it is not what was sealed: one of reason, session, address, user agent, request id, decision id, detail, or their salt", x.line)))
	default:
		x.accounts.saw(&r, at)
	}
}

// missing notes that the next n events of the last seal do not come.
func (x *reading) missing(n int) {
	for _, e := range x.due[:n] {
		what := "it was sealed, and is not in the file"
		if e.digest == [32]byte{} {
			what = "it was gone before it could be sealed"
		}
		x.find(place{x.last.number, x.at, e.id, 0}.finding(Removed, what))
		x.at++
	}
	x.due = x.due[n:]
}

func (x *reading) endSeal() { x.missing(len(x.due)) }

// compare looks for a head that was kept.
func (x *reading) compare(h Head) {
	f := Finding{Seal: h.Number, Position: h.Position}
	hash, known := x.hashes[h.Number]
	switch {
	case !h.Genuine(x.key):
		f.Damage, f.What = Broken, "the head that was given was not signed with this key, or was changed"
	case h.Number > x.last.number:
		f.Damage, f.What = Truncated, fmt.Sprintf("the file ends at position %d, and the log went on to %d at least", x.last.last(), h.Position)
	case known && !bytes.Equal(hash, h.Hash):
		f.Damage, f.What = Rewritten, "the file has another seal there: it is of a log that was cut back and went on anew"
	default:
		return
	}
	x.find(f)
}
