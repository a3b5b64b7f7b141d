package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"log/slog"
	"strings"
)

// The form of a key: a prefix that says what it is, a secret of 256 bits, and a
// checksum of both, all of letters, digits and one underscore. A double click
// selects it, a scanner for leaked secrets finds it by
// \bsp_[0-9A-Za-z]{49}\b and is sure by the checksum, and one that was cut off
// or mistyped is told from one that was revoked without asking the database.
const (
	Prefix    = "sp_"
	Length    = len(Prefix) + secretLen + checkLen
	secretLen = 43 // 43 · log2 62 = 256.03 bits
	checkLen  = 6  // 62^6 > 2^32
	shownLen  = 8
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Key is an API key. It prints as its first characters; Reveal gives all.
type Key struct{ text string }

// Generate returns a new key.
func Generate() Key {
	b := make([]byte, 0, Length)
	b = append(b, Prefix...)
	for len(b) < len(Prefix)+secretLen {
		var random [64]byte
		rand.Read(random[:])
		for _, r := range random {
			// Six bits that are a digit of base 62, or none: all are as likely.
			if r &= 63; int(r) < len(alphabet) && len(b) < len(Prefix)+secretLen {
				b = append(b, alphabet[r])
			}
		}
	}
	return Key{string(append(b, checksum(string(b))...))}
}

// checksum is the CRC-32 (IEEE) of what stands before it, in base 62.
func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var b [checkLen]byte
	for i := checkLen - 1; i >= 0; i-- {
		b[i] = alphabet[sum%uint32(len(alphabet))]
		sum /= uint32(len(alphabet))
	}
	return string(b[:])
}

// What is wrong with a text that is no key, for the operator.
var (
	errLength   = errors.New("not an API key: another length")
	errPrefix   = errors.New("not an API key: another prefix")
	errAlphabet = errors.New("not an API key: another alphabet")
	errChecksum = errors.New("not an API key: the checksum is wrong")
)

// Parse reads a key. It takes exactly what Generate gives: a text that it takes
// was made as a key, but whether anybody was given it is for the database to say.
func Parse(s string) (Key, error) {
	if len(s) != Length {
		return Key{}, errLength
	}
	if !strings.HasPrefix(s, Prefix) {
		return Key{}, errPrefix
	}
	for _, c := range []byte(s[len(Prefix):]) {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return Key{}, errAlphabet
		}
	}
	if at := Length - checkLen; s[at:] != checksum(s[:at]) {
		return Key{}, errChecksum
	}
	return Key{s}, nil
}

// Reveal returns the key itself.
func (k Key) Reveal() string { return k.text }

// Shown returns the first characters, by which a person recognises a key: 5 of
// its 43 secret ones.
func (k Key) Shown() string { return k.text[:min(shownLen, len(k.text))] }

// Digest returns what is stored in a key's place. One round of SHA-256 is
// enough: nobody guesses 256 random bits.
func (k Key) Digest() [sha256.Size]byte { return sha256.Sum256([]byte(k.text)) }

// String implements fmt.Stringer, without the secret.
func (k Key) String() string { return k.Shown() + "…" }

// GoString implements fmt.GoStringer, without the secret.
func (k Key) GoString() string { return "apikey.Key(" + k.String() + ")" }

// LogValue implements slog.LogValuer, without the secret.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// holdsKey reports whether a key stands anywhere in a text.
func holdsKey(s string) bool {
	for {
		i := strings.Index(s, Prefix)
		if i < 0 || len(s)-i < Length {
			return false
		}
		if _, err := Parse(s[i : i+Length]); err == nil {
			return true
		}
		s = s[i+1:]
	}
}
