package password

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"hash"
	"strings"
)

// pbkdf2Hash is PBKDF2 with HMAC (RFC 8018), in one of these notations:
//
//	$pbkdf2-sha256$29000$salt$key            passlib; base64 with "." for "+"
//	pbkdf2_sha256$1200000$salt$key           Django; the salt is text
//	$pbkdf2-sha256$i=27500$salt$key          PHC; what FromKeycloak returns
type pbkdf2Hash struct {
	digest, notation string
	iterations       int
	salt, key        []byte
}

// passlibBase64 is passlib's "adapted base64".
var passlibBase64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./").WithPadding(base64.NoPadding)

func newDigest(name string) func() hash.Hash {
	switch name {
	case "sha1": // no collision matters here; it is the weakest we import
		return sha1.New
	case "sha512":
		return sha512.New
	default:
		return sha256.New
	}
}

// parsePBKDF2 reads what follows "$pbkdf2-sha256$" in passlib's or PHC
// notation. Without a digest's name passlib means SHA-1.
func parsePBKDF2(digest string) func(rest string) (verifier, error) {
	format := "pbkdf2-" + digest
	return func(rest string) (verifier, error) {
		f, err := fields(format, rest, 3)
		if err != nil {
			return nil, err
		}
		notation, enc, rounds := notationPasslib, passlibBase64, f[0]
		if value, ok := strings.CutPrefix(f[0], "i="); ok {
			notation, enc, rounds = notationPHC, base64.RawStdEncoding, value
		}
		salt, err := decode(format, "salt", enc, f[1], 0, maxSalt)
		if err != nil {
			return nil, err
		}
		return newPBKDF2(digest, notation, rounds, salt, enc, f[2])
	}
}

// parsePBKDF2Django reads what follows "pbkdf2_sha256$".
func parsePBKDF2Django(digest string) func(rest string) (verifier, error) {
	format := "pbkdf2-" + digest
	return func(rest string) (verifier, error) {
		f, err := fields(format, rest, 3)
		if err != nil {
			return nil, err
		}
		if len(f[1]) > maxSalt {
			return nil, malformed(format, "its salt is too long")
		}
		return newPBKDF2(digest, notationDjango, f[0], []byte(f[1]), base64.StdEncoding, f[2])
	}
}

func newPBKDF2(digest, notation, rounds string, salt []byte, enc *base64.Encoding, key string) (verifier, error) {
	format := "pbkdf2-" + digest
	n, ok := number(rounds)
	if !ok || n == 0 {
		return nil, malformed(format, "its rounds are not a positive decimal number")
	}
	p := &pbkdf2Hash{digest: digest, notation: notation, salt: salt}
	var err error
	if p.key, err = decode(format, "hash", enc, key, minKey, maxKey); err != nil {
		return nil, err
	}
	// Every block of the output costs all the rounds again: n has at most ten
	// digits and the output seven blocks, so nothing overflows.
	size := newDigest(digest)().Size()
	blocks := uint64((len(p.key) + size - 1) / size)
	if n*blocks > maxIterations {
		return nil, tooCostly(format, "rounds × blocks", n*blocks, maxIterations)
	}
	p.iterations = int(n)
	return p, nil
}

func (p *pbkdf2Hash) info() Info {
	return Info{Format: "pbkdf2-" + p.digest, Notation: p.notation, Params: fmt.Sprintf("i=%d", p.iterations)}
}

func (p *pbkdf2Hash) cost() (uint32, uint8) { return 1, 1 }

func (p *pbkdf2Hash) matches(pw string) bool {
	// It fails only where FIPS 140 is enforced and an imported salt or digest
	// is outside of it. Then the hash cannot be verified.
	key, err := pbkdf2.Key(newDigest(p.digest), pw, p.salt, p.iterations, len(p.key))
	return err == nil && equal(p.key, key)
}
