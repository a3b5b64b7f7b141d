package totp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"strings"
)

// RecoveryCodes is how many recovery codes there are at a time.
const RecoveryCodes = 10

// Of the letters and digits, these cannot be taken for each other (Crockford's
// base 32). Ten of them are 50 bits: far more than can be tried here, where guesses
// are counted. It would not be enough for who has a copy of the database and tries
// offline, and so the digests are under a key of the server.
const (
	recoveryAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	recoveryLen      = 10
)

// newRecoveryCode returns a random recovery code: xxxxx-xxxxx.
func newRecoveryCode() string {
	b := make([]byte, recoveryLen)
	rand.Read(b)
	for i := range b {
		b[i] = recoveryAlphabet[b[i]%32] // 256 is a multiple of 32: all are as likely
	}
	return string(b[:recoveryLen/2]) + "-" + string(b[recoveryLen/2:])
}

// readRecoveryCode returns a code as it is digested, however it was typed: without
// regard to case, spaces and hyphens, and with what looks like another character
// for that. ok tells whether it can be one.
func readRecoveryCode(text string) (code string, ok bool) {
	var b strings.Builder
	for _, c := range strings.ToLower(text) {
		switch {
		case c == ' ' || c == '-':
			continue
		case c == 'o':
			c = '0'
		case c == 'i' || c == 'l':
			c = '1'
		case c > 'z' || !strings.ContainsRune(recoveryAlphabet, c):
			return "", false
		}
		if b.Len() == recoveryLen {
			return "", false
		}
		b.WriteByte(byte(c))
	}
	return b.String(), b.Len() == recoveryLen
}

// digest is what is stored of a recovery code.
func digest(key []byte, subject, code string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(subject))
	m.Write([]byte{0})
	m.Write([]byte(code))
	return m.Sum(nil)
}
