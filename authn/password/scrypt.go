package password

import (
	"encoding/base64"
	"fmt"
	"math/bits"

	"golang.org/x/crypto/scrypt"
)

type scryptParams struct{ n, r, p int }

// newScrypt compares with the caps. It computes in 64 bits: every factor was
// read from at most ten digits, and is bounded before it is multiplied.
func newScrypt(format string, n, r, p uint64) (scryptParams, error) {
	switch {
	case n < 2 || bits.OnesCount64(n) != 1:
		return scryptParams{}, malformed(format, "N must be a power of two greater than 1")
	case r == 0 || p == 0:
		return scryptParams{}, malformed(format, "r and p must be at least 1")
	case n > maxScryptWork || r > maxScryptWork || p > maxScryptWork:
		return scryptParams{}, tooCostly(format, "N, r or p", max(n, r, p), maxScryptWork)
	case r*(n+p+2) > maxMemory<<10/128:
		return scryptParams{}, tooCostly(format, "memory (128 × r × (N + p + 2) bytes)", 128*r*(n+p+2), maxMemory<<10)
	case n*r*p > maxScryptWork:
		return scryptParams{}, tooCostly(format, "N × r × p", n*r*p, maxScryptWork)
	}
	return scryptParams{int(n), int(r), int(p)}, nil
}

// log2 turns the parameter ln into N.
func log2(ln uint64) uint64 {
	if ln > 62 { // 1<<63 and beyond would wrap; 1<<62 is refused as too costly
		ln = 62
	}
	return 1 << ln
}

func (s scryptParams) String() string {
	return fmt.Sprintf("ln=%d,r=%d,p=%d", bits.TrailingZeros(uint(s.n)), s.r, s.p)
}

// cost: the large array, p blocks, and two of working space.
func (s scryptParams) cost() (uint32, uint8) {
	return uint32((128*s.r*(s.n+s.p+2) + 1023) / 1024), 1
}

// key returns nil, which matches nothing, where the library refuses: with
// parameters within the caps it does not.
func (s scryptParams) key(pw string, salt []byte, size int) []byte {
	key, err := scrypt.Key([]byte(pw), salt, s.n, s.r, s.p, size)
	if err != nil {
		return nil
	}
	return key
}

// scryptHash is $scrypt$ln=14,r=8,p=1$salt$key, or Django's
// scrypt$16384$salt$8$1$key.
type scryptHash struct {
	scryptParams
	notation  string
	salt, key []byte
}

// parseScryptPHC reads the PHC form, which is also passlib's.
func parseScryptPHC(rest string) (verifier, error) {
	const format = "scrypt"
	f, err := fields(format, rest, 3)
	if err != nil {
		return nil, err
	}
	n, err := params(format, f[0], "ln", "r", "p")
	if err != nil {
		return nil, err
	}
	s := &scryptHash{notation: notationPHC}
	if s.scryptParams, err = newScrypt(format, log2(n[0]), n[1], n[2]); err != nil {
		return nil, err
	}
	if s.salt, err = decode(format, "salt", base64.RawStdEncoding, f[1], 0, maxSalt); err != nil {
		return nil, err
	}
	if s.key, err = decode(format, "hash", base64.RawStdEncoding, f[2], minKey, maxKey); err != nil {
		return nil, err
	}
	return s, nil
}

// parseScryptDjango reads Django's form, whose salt is text and used as such.
func parseScryptDjango(rest string) (verifier, error) {
	const format = "scrypt"
	f, err := fields(format, rest, 5)
	if err != nil {
		return nil, err
	}
	var v [3]uint64
	for i, field := range []string{f[0], f[2], f[3]} {
		var ok bool
		if v[i], ok = number(field); !ok {
			return nil, malformed(format, "N, r or p is not a decimal number")
		}
	}
	s := &scryptHash{notation: notationDjango, salt: []byte(f[1])}
	if s.scryptParams, err = newScrypt(format, v[0], v[1], v[2]); err != nil {
		return nil, err
	}
	if len(s.salt) > maxSalt {
		return nil, malformed(format, "its salt is too long")
	}
	if s.key, err = decode(format, "hash", base64.StdEncoding, f[4], minKey, maxKey); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *scryptHash) info() Info {
	return Info{Format: "scrypt", Notation: s.notation, Params: s.scryptParams.String()}
}

func (s *scryptHash) matches(pw string) bool {
	return equal(s.key, s.scryptParams.key(pw, s.salt, len(s.key)))
}
