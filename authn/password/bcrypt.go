package password

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// bcryptHash is bcrypt over the password, or over a SHA-256 of it.
type bcryptHash struct {
	format, notation string
	rounds           int    // a power of two
	salt             string // 22 characters of bcrypt's own base64
	stored           string // in crypt notation, spelled as the library spells it
	prepare          func(salt, pw string) (key []byte, ok bool)
}

const (
	bcryptSalt   = 22 // characters, 128 bits
	bcryptDigest = 31 // characters, 184 bits
	bcryptMax    = 72 // bytes of the password that count

	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// newBcrypt checks the parts that all notations share.
func newBcrypt(format, notation, minor string, cost uint64, salt, digest string) (*bcryptHash, error) {
	if cost < minBcryptCost {
		return nil, malformed(format, "its cost is under bcrypt's minimum of 4")
	}
	if cost > maxBcryptCost {
		return nil, tooCostly(format, "cost", cost, maxBcryptCost)
	}
	// The last characters carry 4 and 2 bits that mean nothing. Old passlib
	// filled them with chance; without clearing them the comparison, which is
	// one of text, would refuse the right password.
	salt, ok := clearTail(salt, bcryptSalt, 4)
	if !ok {
		return nil, malformed(format, "its salt is not 22 characters of bcrypt's alphabet")
	}
	digest, ok = clearTail(digest, bcryptDigest, 2)
	if !ok {
		return nil, malformed(format, "its hash is not 31 characters of bcrypt's alphabet")
	}
	return &bcryptHash{
		format: format, notation: notation, rounds: int(cost), salt: salt,
		stored: fmt.Sprintf("$2%s$%02d$%s%s", minor, cost, salt, digest),
	}, nil
}

// clearTail checks length and alphabet of s and zeroes its last unused bits.
func clearTail(s string, length, unused int) (string, bool) {
	if len(s) != length {
		return "", false
	}
	for i := range len(s) {
		if strings.IndexByte(bcryptAlphabet, s[i]) < 0 {
			return "", false
		}
	}
	last := strings.IndexByte(bcryptAlphabet, s[length-1]) >> unused << unused
	return s[:length-1] + bcryptAlphabet[last:last+1], true
}

// parseCrypt reads "b$12$" and 53 characters, the part after "$2".
func parseCrypt(format, notation, rest string) (*bcryptHash, error) {
	f := strings.Split(rest, "$")
	if len(f) != 3 || len(f[1]) != 2 || len(f[2]) != bcryptSalt+bcryptDigest {
		return nil, malformed(format, "it is not $2b$, two digits, $ and 53 characters")
	}
	switch f[0] {
	case "a", "b", "y": // the same function in every library but the oldest
	case "x", "":
		// $2x$ marks hashes of a PHP bug that drops bits, $2$ is a version
		// that did not hash the end of the password.
		return nil, fmt.Errorf("%w: bcrypt of the defective versions $2$ and $2x$", ErrUnsupported)
	default:
		return nil, fmt.Errorf("%w: an unknown version of bcrypt", ErrUnsupported)
	}
	cost, ok := number(strings.TrimPrefix(f[1], "0")) // "06", and no "6"
	if !ok {
		return nil, malformed(format, "its cost is not a number")
	}
	return newBcrypt(format, notation, f[0], cost, f[2][:bcryptSalt], f[2][bcryptSalt:])
}

// parseBcryptCrypt reads $2b$12$… as every crypt(3) writes it.
func parseBcryptCrypt(rest string) (verifier, error) { return plainBcrypt(notationCrypt, rest) }

// parseBcryptDjango reads bcrypt$$2b$12$….
func parseBcryptDjango(rest string) (verifier, error) {
	rest, ok := strings.CutPrefix(rest, "$2")
	if !ok {
		return nil, malformed("bcrypt", "Django's bcrypt$ is not followed by $2")
	}
	return plainBcrypt(notationDjango, rest)
}

// plainBcrypt is bcrypt over the password itself. It does not match a password
// of more than 72 bytes or with a NUL in it, even the one that the hash was
// made from: those who made it cut the password there without a word, so that
// everything beginning with the same 72 bytes, or the same bytes up to the
// NUL, opens the account. (In Go, where NUL does not end the text, bcrypt
// repeats its key, and "a" would match "a\x00a".) A person with such a
// password asks for a new one once; the others are not worse off for it.
func plainBcrypt(notation, rest string) (verifier, error) {
	b, err := parseCrypt("bcrypt", notation, rest)
	if err != nil {
		return nil, err
	}
	b.prepare = func(_, pw string) ([]byte, bool) {
		return []byte(pw), len(pw) <= bcryptMax && strings.IndexByte(pw, 0) < 0
	}
	return b, nil
}

// parseBcryptSHA256Django reads bcrypt_sha256$$2b$12$…: bcrypt over the
// SHA-256 in hexadecimal.
func parseBcryptSHA256Django(rest string) (verifier, error) {
	const format = "bcrypt-sha256"
	rest, ok := strings.CutPrefix(rest, "$2")
	if !ok {
		return nil, malformed(format, "Django's bcrypt_sha256$ is not followed by $2")
	}
	b, err := parseCrypt(format, notationDjango, rest)
	if err != nil {
		return nil, err
	}
	b.prepare = func(_, pw string) ([]byte, bool) {
		sum := sha256.Sum256([]byte(pw))
		return hex.AppendEncode(nil, sum[:]), true
	}
	return b, nil
}

// parseBcryptSHA256Passlib reads passlib's two versions, which are both bcrypt
// over base64: $bcrypt-sha256$2b,12$salt$digest is over the SHA-256, and
// $bcrypt-sha256$v=2,t=2b,r=12$salt$digest over an HMAC keyed with the salt,
// so that unsalted SHA-256 sums stolen elsewhere cannot be tried on it.
func parseBcryptSHA256Passlib(rest string) (verifier, error) {
	const format = "bcrypt-sha256"
	f, err := fields(format, rest, 3)
	if err != nil {
		return nil, err
	}
	kind, rounds, _ := strings.Cut(f[0], ",")
	prepare, minor := bcryptSHA256v1, strings.TrimPrefix(kind, "2")
	if kind == "v=2" {
		kind, rounds, _ = strings.Cut(rounds, ",")
		rounds, _ = strings.CutPrefix(rounds, "r=")
		prepare, minor = bcryptSHA256v2, strings.TrimPrefix(kind, "t=2")
	}
	// In the same order as above, so that only whole spellings pass.
	v1 := f[0] == "2"+minor+","+rounds && (minor == "a" || minor == "b")
	v2 := f[0] == "v=2,t=2"+minor+",r="+rounds && minor == "b"
	cost, ok := number(rounds)
	if !ok || !v1 && !v2 {
		return nil, malformed(format, "its parameters are neither 2b,12 nor v=2,t=2b,r=12")
	}
	b, err := newBcrypt(format, notationPasslib, minor, cost, f[1], f[2])
	if err != nil {
		return nil, err
	}
	b.prepare = prepare
	return b, nil
}

func bcryptSHA256v1(_, pw string) ([]byte, bool) {
	sum := sha256.Sum256([]byte(pw))
	return base64.StdEncoding.AppendEncode(nil, sum[:]), true
}

func bcryptSHA256v2(salt, pw string) ([]byte, bool) {
	mac := hmac.New(sha256.New, []byte(salt))
	mac.Write([]byte(pw))
	return base64.StdEncoding.AppendEncode(nil, mac.Sum(nil)), true
}

func (b *bcryptHash) info() Info {
	return Info{Format: b.format, Notation: b.notation, Params: "cost=" + strconv.Itoa(b.rounds)}
}

// cost: the four S-boxes and the rest of Blowfish's state.
func (b *bcryptHash) cost() (uint32, uint8) { return 5, 1 }

func (b *bcryptHash) matches(pw string) bool {
	key, ok := b.prepare(b.salt, pw)
	// The library compares in constant time.
	return ok && bcrypt.CompareHashAndPassword([]byte(b.stored), key) == nil
}
