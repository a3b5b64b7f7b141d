package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
)

// The chain.
//
// An event is recorded in the transaction of its change, and takes part in no
// chain there: that would let one writer wait for the other. It is sealed behind
// that, within a tenth of a second, together with others. A seal lists the ids and
// digests of its events, in order; its hash is over that list and the hash of the
// seal before, and it is signed. The digest of an event is over all its columns,
// those that can be erased by way of a commitment, so that an erasure breaks
// nothing.
//
// There is one chain for a database, whichever node seals: two that try at once
// find that one of them was first.

// row is an event as the database has it.
type row struct {
	Record
	at         int64
	detail     string // JSON
	salt       []byte // nil: erased
	commitment []byte
	odd        bool // a column is of another type than the server writes
}

const saltSize = 16

// digester writes fields so that no two different lists are written alike.
type digester struct{ b []byte }

func digestOf(purpose string) *digester {
	d := &digester{make([]byte, 0, 512)} // an event's, as a rule
	d.text("sallyport audit " + purpose + " v1")
	return d
}

func (d *digester) bytes(b []byte) {
	d.number(int64(len(b)))
	d.b = append(d.b, b...)
}

func (d *digester) text(s string) {
	d.number(int64(len(s)))
	d.b = append(d.b, s...)
}

func (d *digester) number(n int64) { d.b = binary.BigEndian.AppendUint64(d.b, uint64(n)) }

func (d *digester) sum() []byte {
	h := sha256.Sum256(d.b)
	return h[:]
}

// private returns the fields that an erasure takes.
func (r *row) private() [7]string {
	return [...]string{r.Reason, r.Session, r.Address, r.UserAgent, r.RequestID, r.DecisionID, r.detail}
}

// commit makes the commitment to what can be erased.
func (r *row) commit() {
	r.salt = make([]byte, saltSize)
	rand.Read(r.salt)
	r.commitment = r.committed()
}

// committed computes the commitment. Without the salt nobody can find out by
// trying what was erased.
func (r *row) committed() []byte {
	d := digestOf("private")
	d.bytes(r.salt)
	for _, s := range r.private() {
		d.text(s)
	}
	return d.sum()
}

// erased reports whether what can be erased of the event is gone.
func (r *row) erased() bool {
	return len(r.salt) == 0 && r.private() == [...]string{"", "", "", "", "", "", "{}"}
}

// digest is over all of an event but what its commitment stands for.
func (r *row) digest() [sha256.Size]byte {
	d := digestOf("event")
	d.text(r.ID)
	d.number(r.at)
	for _, s := range [...]string{r.Action, string(r.Result), r.Actor, r.ActorKind, r.Target} {
		d.text(s)
	}
	d.bytes(r.commitment)
	return [sha256.Size]byte(d.sum())
}

// entry is an event in a seal. The zero digest is an event that was gone before it
// could be sealed.
type entry struct {
	id     uuid.UUID
	digest [sha256.Size]byte
}

const entrySize = len(uuid.UUID{}) + sha256.Size

func packed(entries []entry) []byte {
	out := make([]byte, 0, len(entries)*entrySize)
	for _, e := range entries {
		out = append(append(out, e.id[:]...), e.digest[:]...)
	}
	return out
}

func unpacked(b []byte) (out []entry, whole bool) {
	for ; len(b) >= entrySize; b = b[entrySize:] {
		out = append(out, entry{uuid.UUID(b[:16]), [sha256.Size]byte(b[16:entrySize])})
	}
	return out, len(b) == 0
}

// seal is a link of the chain.
type seal struct {
	number, first, sealedAt int64
	events                  []byte
	node                    string
	hash, signature         []byte
	odd                     bool // as of a row
}

func (s *seal) last() int64 { return s.first + int64(len(s.events)/entrySize) - 1 }

// link computes the hash that the seal has behind another.
func (s *seal) link(previous []byte) []byte {
	d := digestOf("seal")
	d.number(s.number)
	d.number(s.first)
	d.bytes(s.events)
	d.number(s.sealedAt)
	d.text(s.node)
	d.bytes(previous)
	return d.sum()
}

// Head is the end of the chain at a time, signed. Who keeps one elsewhere can show
// later that everything up to it is still there.
type Head struct {
	Number    int64     `json:"number"`   // of the seal
	Position  int64     `json:"position"` // of its last event
	SealedAt  time.Time `json:"sealed_at"`
	Hash      []byte    `json:"hash"`
	Key       []byte    `json:"public_key"` // Ed25519
	Signature []byte    `json:"signature"`
}

func (s *seal) head(key ed25519.PublicKey) Head {
	return Head{Number: s.number, Position: s.last(), SealedAt: db.Time(s.sealedAt), Hash: s.hash, Key: key, Signature: s.signature}
}

// statement is what is signed of a head, or of a cut.
func statement(purpose string, number, position, at int64, hash []byte) []byte {
	d := digestOf(purpose)
	d.number(number)
	d.number(position)
	d.number(at)
	d.bytes(hash)
	return d.sum()
}

func (s *seal) statement() []byte {
	return statement("head", s.number, s.last(), s.sealedAt, s.hash)
}

// Genuine reports whether the head was signed with the key.
func (h Head) Genuine(key ed25519.PublicKey) bool {
	return bytes.Equal(h.Key, key) && ed25519.Verify(key, statement("head", h.Number, h.Position, db.Micros(h.SealedAt), h.Hash), h.Signature)
}

// cut is the last seal that retention has deleted.
type cut struct {
	number, position, sealedAt int64
	hash, signature            []byte
	odd                        bool // as of a row
}

func (c *cut) statement() []byte {
	return statement("cut", c.number, c.position, c.sealedAt, c.hash)
}

// KeyName names a public key for people.
func KeyName(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// ids returns the ids of a seal's events.
func (s *seal) ids() (out []string) {
	entries, _ := unpacked(s.events)
	for _, e := range entries {
		out = append(out, e.id.String())
	}
	return out
}
