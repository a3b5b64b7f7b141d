package password

import (
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

const (
	argon2id = "argon2id"
	argon2i  = "argon2i"

	// argon2MinSalt is RFC 9106's minimum.
	argon2MinSalt = 8
)

type argon2Params struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// minMemory is RFC 9106's minimum: 8 KiB for every thread.
func minMemory(threads uint8) uint32 { return 8 * uint32(threads) }

// check compares with the caps. The library panics without threads or passes,
// and raises too small a memory silently, which would compute another hash
// than the one that was meant.
func (p argon2Params) check() error {
	return checkArgon2(argon2id, uint64(p.memory), uint64(p.time), uint64(p.threads))
}

func checkArgon2(variant string, m, t, p uint64) error {
	switch {
	case p == 0 || t == 0:
		return malformed(variant, "t and p must be at least 1")
	case p > maxThreads:
		return tooCostly(variant, "p (threads)", p, maxThreads)
	case m < uint64(minMemory(uint8(p))):
		return malformed(variant, "m must be at least 8 × p")
	case m > maxMemory:
		return tooCostly(variant, "m (KiB)", m, maxMemory)
	case t > maxTime:
		return tooCostly(variant, "t (passes)", t, maxTime)
	case m*t > maxArgon2Work:
		return tooCostly(variant, "m × t", m*t, maxArgon2Work)
	}
	return nil
}

func (p argon2Params) String() string {
	return fmt.Sprintf("m=%d,t=%d,p=%d", p.memory, p.time, p.threads)
}

func (p argon2Params) key(variant, pw string, salt []byte, size int) []byte {
	if variant == argon2i {
		return argon2.Key([]byte(pw), salt, p.time, p.memory, p.threads, uint32(size))
	}
	return argon2.IDKey([]byte(pw), salt, p.time, p.memory, p.threads, uint32(size))
}

// argon2Hash is $argon2id$v=19$m=…,t=…,p=…$salt$key, and the same with argon2i
// or after Django's "argon2".
type argon2Hash struct {
	argon2Params
	variant, notation string
	salt, key         []byte
}

func parseArgon2PHC(rest string) (verifier, error)    { return parseArgon2(notationPHC, rest) }
func parseArgon2Django(rest string) (verifier, error) { return parseArgon2(notationDjango, rest) }

// parseArgon2 reads what follows "argon2".
func parseArgon2(notation, rest string) (verifier, error) {
	kind, rest, _ := strings.Cut(rest, "$")
	variant := "argon2" + kind
	switch variant {
	case argon2id, argon2i:
	case "argon2d":
		// Its memory access depends on the password, which is why nobody
		// should use it for one, and why the library does not have it.
		return nil, fmt.Errorf("%w: argon2d", ErrUnsupported)
	default:
		return nil, fmt.Errorf("%w: an unknown variant of argon2", ErrUnsupported)
	}
	version, _, _ := strings.Cut(rest, "$")
	// Version 16 (1.0) is also what no version means. It is another function.
	if version == "v=16" || strings.HasPrefix(version, "m=") {
		return nil, fmt.Errorf("%w: %s of version 1.0 (of 2015); only 1.3 (v=19) is", ErrUnsupported, variant)
	}
	if version != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, malformed(variant, "its version is not v=19")
	}
	f, err := fields(variant, rest, 4)
	if err != nil {
		return nil, err
	}
	n, err := params(variant, f[1], "m", "t", "p")
	if err != nil {
		return nil, err
	}
	if err := checkArgon2(variant, n[0], n[1], n[2]); err != nil {
		return nil, err
	}
	a := &argon2Hash{
		argon2Params: argon2Params{memory: uint32(n[0]), time: uint32(n[1]), threads: uint8(n[2])},
		variant:      variant,
		notation:     notation,
	}
	if a.salt, err = decode(variant, "salt", base64.RawStdEncoding, f[2], argon2MinSalt, maxSalt); err != nil {
		return nil, err
	}
	if a.key, err = decode(variant, "hash", base64.RawStdEncoding, f[3], minKey, maxKey); err != nil {
		return nil, err
	}
	return a, nil
}

// String returns the form that is stored. It never meets a log: the type does
// not leave the package.
func (a *argon2Hash) String() string {
	b64 := base64.RawStdEncoding
	s := fmt.Sprintf("$%s$v=%d$%s$%s$%s", a.variant, argon2.Version, a.argon2Params,
		b64.EncodeToString(a.salt), b64.EncodeToString(a.key))
	if a.notation == notationDjango {
		s = "argon2" + s
	}
	return s
}

// current reports whether Hash would make a with p.
func (a *argon2Hash) current(p argon2Params) bool {
	return a.argon2Params == p && a.variant == argon2id && a.notation == notationPHC &&
		len(a.salt) == saltSize && len(a.key) == keySize
}

func (a *argon2Hash) info() Info {
	return Info{Format: a.variant, Notation: a.notation, Params: a.argon2Params.String()}
}

func (a *argon2Hash) cost() (uint32, uint8) { return a.memory, a.threads }

func (a *argon2Hash) matches(pw string) bool {
	return equal(a.key, a.argon2Params.key(a.variant, pw, a.salt, len(a.key)))
}
