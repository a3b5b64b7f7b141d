package password

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Caps on what a stored hash may ask for. Whoever can write a stored hash, by
// an import or a foothold in the database, could otherwise stop the server by
// one sign-in. Each is well above what the frameworks we import from have ever
// used by default; the slowest that all of them allow takes a few seconds.
const (
	// maxStored bounds the whole string. The longest real one, Firebase's
	// with its signer key, has about 250 bytes.
	maxStored = 1024

	// maxMemory is in KiB, for argon2 and scrypt. libsodium's "moderate" and
	// OWASP's largest scrypt need 256 and 128 MiB.
	maxMemory = 256 << 10

	// maxTime and maxArgon2Work (KiB × passes) bound argon2's time to about a
	// second. libsodium's "moderate" asks for 768 MiB-passes.
	maxTime       = 16
	maxArgon2Work = 1 << 20
	// maxThreads: Django and argon2-cffi use 8 and 4.
	maxThreads = 16

	// bcrypt doubles with every step: 4 is its own minimum and takes under a
	// millisecond, 12 is common, 16 takes about three seconds.
	minBcryptCost, maxBcryptCost = 4, 16

	// maxScryptWork is N × r × p, about two seconds; OWASP's choices are a
	// quarter of it.
	maxScryptWork = 1 << 22

	// maxIterations bounds PBKDF2's rounds, times the blocks of its output:
	// Django uses 1.2 million and raises it with every release.
	maxIterations = 10_000_000

	// A digest under 16 bytes could be matched by chance, or by an attacker
	// who stores one of a single byte. A longer one than 128 costs PBKDF2
	// more time and adds nothing.
	minKey, maxKey = 16, 128
	// maxSalt: real ones have 8 to 64 bytes.
	maxSalt = 128
)

// Why a stored string cannot be used. Identify and the From functions return
// errors that wrap one of these.
var (
	ErrUnusable    = errors.New("no password can match")   // empty, or begins with "!" or "*"
	ErrUnsupported = errors.New("format is not supported") // known or not, it cannot be verified
	ErrMalformed   = errors.New("hash is malformed")       // does not follow its format
	ErrTooCostly   = errors.New("hash asks for too much")  // over a cap; see docs/passwords.md
)

// Info describes a stored hash. It holds nothing secret.
type Info struct {
	Format   string `json:"format"`           // algorithm: "argon2id", "bcrypt", "pbkdf2-sha256" …
	Notation string `json:"notation"`         // who writes it so: "phc", "crypt", "passlib", "django", "firebase"
	Params   string `json:"params,omitempty"` // cost, such as "m=19456,t=2,p=1"
	Memory   uint32 `json:"memory_kib"`       // what one verification uses
	Current  bool   `json:"current"`          // what Hash makes with the default Config
}

// Notations.
const (
	notationPHC      = "phc"
	notationCrypt    = "crypt"
	notationPasslib  = "passlib"
	notationDjango   = "django"
	notationFirebase = "firebase"
)

// verifier is a stored hash that was parsed and is within the caps.
type verifier interface {
	info() Info
	// cost returns the KiB and threads that matches uses.
	cost() (kib uint32, threads uint8)
	// matches compares in constant time.
	matches(pw string) bool
}

// Identify says what stored is. The error wraps ErrUnusable, ErrUnsupported,
// ErrMalformed or ErrTooCostly and holds no part of the salt or digest; with
// it, Verify never answers OK.
func Identify(stored string) (Info, error) {
	hash, err := parse(stored)
	if err != nil {
		return Info{}, fmt.Errorf("password: %w", err)
	}
	info := hash.info()
	if a, ok := hash.(*argon2Hash); ok {
		info.Current = a.current(argon2Params{memory: defaultMemory, time: defaultTime, threads: defaultThreads})
	}
	kib, _ := hash.cost()
	info.Memory = kib
	return info, nil
}

// formats are tried in order; the first prefix decides. The parser gets what
// follows the prefix.
var formats = []struct {
	prefix string
	parse  func(rest string) (verifier, error)
}{
	{"$argon2", parseArgon2PHC},
	{"argon2$argon2", parseArgon2Django},
	{"$2", parseBcryptCrypt},
	{"bcrypt$", parseBcryptDjango},
	{"bcrypt_sha256$", parseBcryptSHA256Django},
	{"$bcrypt-sha256$", parseBcryptSHA256Passlib},
	{"$scrypt$", parseScryptPHC},
	{"scrypt$", parseScryptDjango},
	{"$pbkdf2$", parsePBKDF2("sha1")},
	{"$pbkdf2-sha256$", parsePBKDF2("sha256")},
	{"$pbkdf2-sha512$", parsePBKDF2("sha512")},
	{"pbkdf2_sha1$", parsePBKDF2Django("sha1")},
	{"pbkdf2_sha256$", parsePBKDF2Django("sha256")},
	{"$firebase-scrypt$", parseFirebase},
}

// unsupported are formats that importers meet and that are too weak to keep,
// or that have no maintained implementation in Go. Naming them says more than
// "unknown".
var unsupported = []struct{ prefix, name string }{
	{"$1$", "md5-crypt"},
	{"$apr1$", "Apache md5-crypt"},
	{"$5$", "sha256-crypt"},
	{"$6$", "sha512-crypt"},
	{"$7$", "scrypt in crypt notation"},
	{"$y$", "yescrypt"},
	{"$P$", "phpass"},
	{"$H$", "phpass"},
	{"$S$", "Drupal 7"},
	{"md5$", "Django salted MD5"},
	{"sha1$", "Django salted SHA-1"},
	{"crypt$", "DES crypt"},
	{"{", "an LDAP scheme"},
}

func parse(stored string) (verifier, error) {
	switch {
	case stored == "":
		return nil, fmt.Errorf("%w: the account has no password", ErrUnusable)
	case stored[0] == '!' || stored[0] == '*': // Django, passlib, /etc/shadow
		return nil, fmt.Errorf("%w: the password was switched off", ErrUnusable)
	case len(stored) > maxStored:
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxStored)
	}
	// Also here because package base64 skips CR and LF, even when strict.
	for i := range len(stored) {
		if stored[i] <= ' ' || stored[i] > '~' {
			return nil, fmt.Errorf("%w: a byte that is not visible ASCII", ErrMalformed)
		}
	}
	for _, f := range formats {
		if rest, ok := strings.CutPrefix(stored, f.prefix); ok {
			return f.parse(rest)
		}
	}
	for _, u := range unsupported {
		if strings.HasPrefix(stored, u.prefix) {
			return nil, fmt.Errorf("%w: %s", ErrUnsupported, u.name)
		}
	}
	return nil, fmt.Errorf("%w: unknown prefix", ErrUnsupported)
}

func malformed(format, why string) error {
	return fmt.Errorf("%w: %s: %s", ErrMalformed, format, why)
}

func tooCostly(format, what string, got, limit uint64) error {
	return fmt.Errorf("%w: %s: %s is %d, at most %d is accepted", ErrTooCostly, format, what, got, limit)
}

// fields splits s at dollar signs into exactly n fields.
func fields(format, s string, n int) ([]string, error) {
	if strings.Count(s, "$") != n-1 {
		return nil, malformed(format, fmt.Sprintf("needs %d fields after its name", n))
	}
	return strings.Split(s, "$"), nil
}

// number reads a decimal in its one spelling: no sign, no leading zero. Two
// spellings of one hash would be two strings for one thing.
func number(s string) (uint64, bool) {
	if s == "" || len(s) > 10 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// params reads "a=1,b=2": these names, in this order, as the PHC string format
// demands.
func params(format, s string, names ...string) ([]uint64, error) {
	parts := strings.Split(s, ",")
	wrong := malformed(format, "its parameters are not "+strings.Join(names, "=…,")+"=… in decimal")
	if len(parts) != len(names) {
		return nil, wrong
	}
	values := make([]uint64, len(names))
	for i, part := range parts {
		value, ok := strings.CutPrefix(part, names[i]+"=")
		if !ok {
			return nil, wrong
		}
		if values[i], ok = number(value); !ok {
			return nil, wrong
		}
	}
	return values, nil
}

// decode reads base64 in its one spelling and checks the length.
func decode(format, what string, enc *base64.Encoding, s string, least, most int) ([]byte, error) {
	b, err := enc.Strict().DecodeString(s)
	if err != nil {
		// Not err: it tells an offset, which is harmless, but "what" is all
		// that helps.
		return nil, malformed(format, what+" is not base64 of this format")
	}
	if len(b) < least || len(b) > most {
		return nil, malformed(format, fmt.Sprintf("%s has %d bytes, not %d to %d", what, len(b), least, most))
	}
	return b, nil
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
