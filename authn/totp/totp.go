// Package totp is the second factor that an authenticator app gives: one-time
// codes from a shared secret and the time (RFC 6238), and recovery codes for when
// the app is lost.
//
// It decides whether a code is right and makes sure that it is good once. It
// stores the secret, sealed under the master key; the time step of the last code
// that was used; and keyed digests of the recovery codes. It never stores or logs
// a code, shows a secret once, and does not decide when a second factor is asked
// for (package signin does).
//
// Begin with Params for codes alone, and with Service for factors that are stored.
package totp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // RFC 6238's own; HMAC does not rest on what SHA-1 has lost
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Alg is the hash function that codes are made with (RFC 6238, 1.2).
type Alg string

// The algorithms, as otpauth addresses name them.
const (
	SHA1   Alg = "SHA1"
	SHA256 Alg = "SHA256"
	SHA512 Alg = "SHA512"
)

func (a Alg) hash() func() hash.Hash {
	switch a {
	case SHA1:
		return sha1.New
	case SHA256:
		return sha256.New
	case SHA512:
		return sha512.New
	}
	return nil
}

// Period is the length of a time step.
const Period = 30 * time.Second

// SecretSize is the length of a secret in bytes: 160 bits, as RFC 4226, 4 (R6),
// recommends.
const SecretSize = 20

// Params is what app and server agree on.
type Params struct {
	Alg    Alg
	Digits int // 6 or 8
}

// Default is what every authenticator app understands. Several take any other
// for this one without saying so, and then show codes that are wrong.
var Default = Params{Alg: SHA1, Digits: 6}

// Check returns what is wrong with the parameters, or nil.
func (p Params) Check() error {
	if p.Alg.hash() == nil {
		return fmt.Errorf("totp: %q is no algorithm: use SHA1, SHA256 or SHA512", p.Alg)
	}
	if p.Digits != 6 && p.Digits != 8 {
		return fmt.Errorf("totp: codes have 6 or 8 digits, not %d", p.Digits)
	}
	return nil
}

// StepAt returns the time step of a moment. Moments before 1970 have none: they
// count as the first.
func StepAt(at time.Time) int64 {
	return max(at.Unix(), 0) / int64(Period/time.Second)
}

// Code returns the code of a time step (RFC 4226, 5.3). It panics on parameters
// that Check refuses.
func (p Params) Code(secret []byte, step int64) string {
	if err := p.Check(); err != nil {
		panic(err)
	}
	m := hmac.New(p.Alg.hash(), secret)
	_ = binary.Write(m, binary.BigEndian, uint64(step)) // a hash does not fail
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 0x0f
	n := binary.BigEndian.Uint32(sum[at:at+4]) & 0x7fffffff
	mod := uint32(1_000_000)
	if p.Digits == 8 {
		mod = 100_000_000
	}
	return fmt.Sprintf("%0*d", p.Digits, n%mod)
}

// Match returns the time step whose code this is: that of the moment, or a
// neighbour, for clocks that differ and people who are slow (RFC 6238, 5.2). Of
// several it is the latest. Steps up to after are used up and match nothing; pass
// -1 if none is. It takes as long for a wrong code as for a right one.
//
// Whoever accepts the code must store the step, on the condition that none as
// late has been stored: until then the code is good again.
func (p Params) Match(secret []byte, code string, at time.Time, after int64) (step int64, ok bool) {
	now := StepAt(at)
	for s := now - 1; s <= now+1; s++ {
		if s < 0 {
			continue
		}
		same := subtle.ConstantTimeCompare([]byte(p.Code(secret, s)), []byte(code)) == 1
		if same && s > after {
			step, ok = s, true
		}
	}
	return step, ok
}

// NewSecret returns a random secret.
func NewSecret() []byte {
	secret := make([]byte, SecretSize)
	rand.Read(secret)
	return secret
}

// Base32 writes a secret as apps take it, for typing it in.
func Base32(secret []byte) string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
}

// URI returns the otpauth address that apps read from a QR code. issuer is whose
// codes they are and account whom they are for: what the app shows.
func (p Params) URI(secret []byte, issuer, account string) string {
	return "otpauth://totp/" + escape(issuer) + ":" + escape(account) + "?secret=" + Base32(secret) + "&issuer=" + escape(issuer) +
		"&algorithm=" + string(p.Alg) + "&digits=" + strconv.Itoa(p.Digits) + "&period=" + strconv.Itoa(int(Period/time.Second))
}

// escape escapes everything but RFC 3986's unreserved characters. Apps differ in
// what they make of the rest: a plus is a plus to some, and a colon would end the
// issuer.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
