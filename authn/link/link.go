// Package link keeps the single-use tokens that are sent by mail: who brings one
// reads the mail of its address.
//
// It decides whether a token, or the code beside it, is good, for what, and that
// it is good once. It stores digests; a token is shown once, to whoever makes the
// letter. What a token is good for is decided by who uses it: packages account
// and signin. For an address that is no account's it does the same work, so that
// nobody learns by asking who has one.
//
// Begin with Make, before the transaction, and Service.Store and Service.Use within
// it.
package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
)

// Purpose is what a token is good for. A token of one is worth nothing for
// another.
type Purpose string

// The purposes.
const (
	Verify     Purpose = "verify"     // the address is the person's
	Reset      Purpose = "reset"      // a new password
	Address    Purpose = "address"    // another address
	SignIn     Purpose = "sign_in"    // a session
	Invitation Purpose = "invitation" // the first password
	// Registration is for an account that is made when its address has been proved:
	// what it is to be is the payload, and there is no subject yet.
	Registration Purpose = "registration"
	// Setup makes the first administrator. It is of no account and is sent to nobody:
	// the operator is shown it (StoreSetup).
	Setup Purpose = "setup"
)

// none is the purpose of what is worth nothing.
const none Purpose = ""

// Bounds.
const (
	// MaxLife is the longest that a token may live.
	MaxLife = 30 * time.Minute
	// CodeLife is the same for a code of six digits.
	CodeLife = 10 * time.Minute
	// maxTries is how many codes are looked at for one handle.
	maxTries = 5
	// remember is how long a row is kept, for counting.
	remember = 24 * time.Hour
)

// How many letters one address gets for one purpose: beyond that nothing is sent,
// and the ones before are still good.
const (
	burst       = 3
	burstWindow = 15 * time.Minute
	daily       = 10
)

// Config is what a Service needs.
type Config struct {
	// Key is a secret of the server, of 16 bytes or more, that is used for nothing
	// else: addresses and codes are stored as digests under it.
	Key []byte
	Now func() time.Time // default time.Now
}

// Service keeps tokens.
type Service struct{ cfg Config }

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg}
}

const tokenSize = 32 // bytes

// prefixes let a person, and a scanner of leaked secrets, tell what a token is.
var prefixes = map[Purpose]string{Verify: "vt_", Reset: "rs_", Address: "ca_", SignIn: "li_", Invitation: "in_", Registration: "rg_", Setup: "su_"}

const handlePrefix = "lh_"

// Secret is a token that has been made, with what may come beside it. It is shown
// in the letter, and to nobody else but Handle: that is for whoever asked.
type Secret struct {
	Purpose Purpose
	Token   string
	Code    string // six digits; "" if none was asked for
	Handle  string // what the code is sent with
}

// String keeps secrets out of what is printed.
func (s Secret) String() string { return string(s.Purpose) + " token" }

// GoString does the same for %#v.
func (s Secret) GoString() string { return s.String() }

// Make makes a token, before the transaction that stores it.
func Make(p Purpose) Secret {
	return Secret{Purpose: p, Token: random(prefixes[p])}
}

// MakeWithCode makes a token with a code beside it: for a person who reads the
// letter on one device and goes on on another.
func MakeWithCode(p Purpose) Secret {
	s := Make(p)
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		panic(err) // the system's generator does not fail
	}
	s.Code, s.Handle = fmt.Sprintf("%06d", n), random(handlePrefix)
	return s
}

func random(prefix string) string {
	b := make([]byte, tokenSize)
	rand.Read(b)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// wellFormed reports whether a text could be ours.
func wellFormed(prefix, text string) bool {
	body, ok := strings.CutPrefix(text, prefix)
	return ok && prefix != "" && len(body) == base64.RawURLEncoding.EncodedLen(tokenSize)
}

func digestOf(text string) []byte {
	d := sha256.Sum256([]byte(text))
	return d[:]
}

func (s *Service) keyed(label, text string) []byte {
	m := hmac.New(sha256.New, s.cfg.Key)
	m.Write([]byte(label + "\x00" + text))
	return m.Sum(nil)
}

// codeDigest binds a code to the handle that it is sent with.
func (s *Service) codeDigest(handle, code string) []byte {
	return s.keyed("code", handle+"\x00"+code)
}

// Grant is what a token is good for.
type Grant struct {
	Subject string // "" of an address that is no account's: good for nothing
	Address string // its normalised form; not read back
	// Bound names what of the account must be as it was when the token is used; the
	// one who uses it compares.
	Bound   []byte
	Payload string
	// Familiar tells that it was asked for from a network from which somebody has
	// signed in to the account (package lockout). Such letters are counted apart, so
	// that strangers who ask for letters do not keep a person's own from them. Not
	// read back.
	Familiar bool
}

// Store stores a token, unless its address has had as many letters as it may: then
// ok is false, what is stored is worth nothing and counts for nothing, so that the
// work is the same, and nothing must be sent; whoever asked is told the same. life is at most MaxLife, with a code CodeLife.
func (s *Service) Store(tx *db.Tx, secret Secret, g Grant, life time.Duration) (ok bool, err error) {
	most := MaxLife
	if secret.Code != "" {
		most = CodeLife
	}
	now := s.cfg.Now()
	r := row{
		digest: digestOf(secret.Token), purpose: secret.Purpose, subject: g.Subject, address: s.keyed("address", g.Address),
		bound: g.Bound, payload: g.Payload, familiar: g.Familiar, created: now, expires: now.Add(min(life, most)),
	}
	if r.bound == nil {
		r.bound = []byte{}
	}
	if secret.Code != "" {
		r.code, r.handle = s.codeDigest(secret.Handle, secret.Code), digestOf(secret.Handle)
	}
	recent, today, err := count(tx, r.address, r.purpose, r.familiar, now.Add(-burstWindow), now.Add(-remember))
	if err != nil {
		return false, err
	}
	ok = recent < burst && today < daily
	if !ok {
		r = row{digest: r.digest, purpose: none, address: r.address, bound: r.bound, familiar: r.familiar, created: r.created, expires: r.expires}
	}
	return ok, insert(tx, r)
}

// Notice counts a notice of a kind to an address, and reports whether it may be
// sent: ten a day may.
func (s *Service) Notice(tx *db.Tx, address, kind string) (ok bool, err error) {
	now := s.cfg.Now()
	r := row{
		digest: digestOf(random("")), purpose: Purpose("notice " + kind), address: s.keyed("address", address), bound: []byte{}, created: now, expires: now,
	}
	_, today, err := count(tx, r.address, r.purpose, false, now, now.Add(-remember))
	if err != nil || today >= daily {
		return false, err
	}
	return true, insert(tx, r)
}

// StoreSetup stores a token of the purpose Setup. It counts with no letters.
func (s *Service) StoreSetup(tx *db.Tx, secret Secret, life time.Duration) error {
	now := s.cfg.Now()
	return insert(tx, row{
		digest: digestOf(secret.Token), purpose: Setup, address: []byte{}, bound: []byte{}, created: now, expires: now.Add(min(life, MaxLife)),
	})
}

// VoidSetup makes all tokens of the purpose Setup worthless.
func (s *Service) VoidSetup(tx *db.Tx) error { return voidPurpose(tx, Setup) }

// Find returns what a token is good for, without using it: for what must be done
// before the transaction. ok is false for one that is not good, for whatever
// reason.
func (s *Service) Find(rd db.Reader, p Purpose, token string) (g Grant, ok bool, err error) {
	if !wellFormed(prefixes[p], token) {
		return Grant{}, false, nil
	}
	r, found, err := find(rd, digestOf(token), p)
	if err != nil || !found || !s.good(r) {
		return Grant{}, false, err
	}
	return r.grant(), true, nil
}

func (s *Service) good(r row) bool {
	somebodys := r.subject != "" || r.purpose == Registration && r.payload != "" || r.purpose == Setup
	return !r.used && somebodys && s.cfg.Now().Before(r.expires)
}

// Latest returns the payload of the newest registration with an address that has
// been neither used nor forgotten, for a letter that is asked for again; "" if
// there is none.
func (s *Service) Latest(rd db.Reader, address string) (payload string, err error) {
	return latest(rd, s.keyed("address", address), Registration, s.cfg.Now().Add(-remember))
}

// VoidAddress makes the tokens of a purpose that went to an address worthless.
func (s *Service) VoidAddress(tx *db.Tx, address string, p Purpose) error {
	return voidAddress(tx, s.keyed("address", address), p)
}

// Letter is what is known of a token that was sent, but for what it is.
type Letter struct {
	Purpose Purpose
	Used    bool // or worthless for another reason
	Created time.Time
	Expires time.Time
}

// Letters returns what is remembered of a subject's tokens, newest first: those of
// the last day.
func (s *Service) Letters(rd db.Reader, subject string) ([]Letter, error) {
	return letters(rd, subject)
}

// Use uses a token up: of any number at once, one caller gets ok. If the
// transaction is undone, it is good again.
func (s *Service) Use(tx *db.Tx, p Purpose, token string) (g Grant, ok bool, err error) {
	if !wellFormed(prefixes[p], token) {
		return Grant{}, false, nil
	}
	return s.use(tx, digestOf(token), p)
}

func (s *Service) use(tx *db.Tx, digest []byte, p Purpose) (Grant, bool, error) {
	r, found, err := find(tx, digest, p)
	if err != nil || !found || !s.good(r) {
		return Grant{}, false, err
	}
	ok, err := markUsed(tx, digest)
	if err != nil || !ok {
		return Grant{}, false, err
	}
	return r.grant(), true, nil
}

// Pending is a token as who has its handle refers to it.
type Pending struct {
	Grant
	digest  []byte
	purpose Purpose
	code    []byte
}

// FindByHandle returns what a handle refers to, also if that is an address of no
// account: a code is tried for both alike.
func (s *Service) FindByHandle(rd db.Reader, p Purpose, handle string) (pending Pending, ok bool, err error) {
	if !wellFormed(handlePrefix, handle) {
		return Pending{}, false, nil
	}
	r, found, err := findByHandle(rd, digestOf(handle), p)
	if err != nil || !found || r.used || r.tries >= maxTries || !s.cfg.Now().Before(r.expires) {
		return Pending{}, false, err
	}
	return Pending{Grant: r.grant(), digest: r.digest, purpose: p, code: r.code}, true, nil
}

// TakeTry counts a code that is going to be looked at, in a transaction of its own
// that commits before: of any number at once, and through a crash, no more count
// than may. taken is false if there are none left.
func (s *Service) TakeTry(tx *db.Tx, p Pending) (taken bool, err error) {
	return takeTry(tx, p.digest, maxTries, s.cfg.Now())
}

// Matches reports whether a code is that of the handle.
func (s *Service) Matches(p Pending, handle, code string) bool {
	return hmac.Equal(p.code, s.codeDigest(handle, code)) && p.Subject != ""
}

// UsePending is Use for what was found by its handle.
func (s *Service) UsePending(tx *db.Tx, p Pending) (g Grant, ok bool, err error) {
	return s.use(tx, p.digest, p.purpose)
}

// Void makes a subject's tokens of these purposes worthless; without any, all.
func (s *Service) Void(tx *db.Tx, subject string, purposes ...Purpose) error {
	if len(purposes) == 0 {
		return voidAll(tx, subject)
	}
	for _, p := range purposes {
		if err := void(tx, subject, p); err != nil {
			return err
		}
	}
	return nil
}

// Forget makes a subject's tokens worthless and nobody's, because it is being
// deleted. That its addresses were written to still counts: otherwise whoever makes
// and deletes accounts could have one written to without end.
func (s *Service) Forget(tx *db.Tx, subject string) error { return detach(tx, subject) }

// Cleanup says what is old: tokens that do not count any more as letters that were
// sent. They were worthless before.
func (s *Service) Cleanup() []cleanup.Step {
	return []cleanup.Step{{Table: "sp_mail_tokens", Delete: func(tx *db.Tx, before time.Time, limit int) (int64, error) {
		return deleteOld(tx, before.Add(-remember), limit)
	}}}
}
