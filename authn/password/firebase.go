package password

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
)

// FirebaseParams are the parameters of a Firebase project, as its console
// shows them ("Password hash parameters"). The signer key is a secret of the
// project: without it no exported hash can be verified.
type FirebaseParams struct {
	SignerKey     string // base64
	SaltSeparator string // base64
	Rounds        int
	MemCost       int
}

// String, GoString and LogValue leave out the signer key.
func (p FirebaseParams) String() string {
	return fmt.Sprintf("firebase rounds=%d mem_cost=%d signer_key=[redacted]", p.Rounds, p.MemCost)
}

// GoString is String.
func (p FirebaseParams) GoString() string { return p.String() }

// LogValue is String.
func (p FirebaseParams) LogValue() slog.Value { return slog.StringValue(p.String()) }

// FromFirebase returns what to store for a user that Firebase exported. salt
// and hash are base64 of either alphabet, with or without padding: Firebase's
// tools differ.
//
// The string is $firebase-scrypt$ln=14,r=8$salt$separator$signer key$hash. It
// carries the signer key, which Verify needs; the key leaves the database with
// the last imported hash, as each is replaced at its owner's next sign-in.
func FromFirebase(p FirebaseParams, salt, hash string) (string, error) {
	const format = "firebase-scrypt"
	if p.Rounds < 1 || p.MemCost < 1 {
		return "", fmt.Errorf("password: %w", malformed(format, "rounds and mem_cost must be at least 1"))
	}
	b64 := base64.RawStdEncoding
	parts := [4]string{}
	for i, in := range []struct{ what, text string }{
		{"salt", salt}, {"salt separator", p.SaltSeparator}, {"signer key", p.SignerKey}, {"hash", hash},
	} {
		text := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(in.text, "="))
		if strings.ContainsAny(text, "\r\n") || len(text) > maxStored {
			return "", fmt.Errorf("password: %w", malformed(format, in.what+" is not base64"))
		}
		b, err := decode(format, in.what, b64, text, 0, maxKey)
		if err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		parts[i] = b64.EncodeToString(b)
	}
	stored := fmt.Sprintf("$%s$ln=%d,r=%d$%s", format, p.MemCost, p.Rounds, strings.Join(parts[:], "$"))
	if _, err := parse(stored); err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return stored, nil
}

// firebaseHash is Firebase's modified scrypt: the scrypt of the password is an
// AES key, and what is stored is the project's signer key encrypted with it.
type firebaseHash struct {
	scryptParams
	salt   []byte // followed by the separator
	signer []byte
	hash   []byte
}

func parseFirebase(rest string) (verifier, error) {
	const format = "firebase-scrypt"
	f, err := fields(format, rest, 5)
	if err != nil {
		return nil, err
	}
	n, err := params(format, f[0], "ln", "r")
	if err != nil {
		return nil, err
	}
	h := new(firebaseHash)
	if h.scryptParams, err = newScrypt(format, log2(n[0]), n[1], 1); err != nil {
		return nil, err
	}
	if h.salt, err = decode(format, "salt", base64.RawStdEncoding, f[1], 0, maxSalt); err != nil {
		return nil, err
	}
	sep, err := decode(format, "salt separator", base64.RawStdEncoding, f[2], 0, maxSalt)
	if err != nil {
		return nil, err
	}
	h.salt = append(h.salt, sep...)
	if h.signer, err = decode(format, "signer key", base64.RawStdEncoding, f[3], minKey, maxKey); err != nil {
		return nil, err
	}
	if h.hash, err = decode(format, "hash", base64.RawStdEncoding, f[4], minKey, maxKey); err != nil {
		return nil, err
	}
	if len(h.hash) != len(h.signer) {
		return nil, malformed(format, "hash and signer key differ in length")
	}
	return h, nil
}

func (h *firebaseHash) info() Info {
	return Info{Format: "firebase-scrypt", Notation: notationFirebase, Params: h.scryptParams.String()}
}

func (h *firebaseHash) matches(pw string) bool {
	key := h.key(pw, h.salt, 32)
	block, err := aes.NewCipher(key)
	if err != nil { // key is nil
		return false
	}
	out := make([]byte, len(h.signer))
	// The zero IV is Firebase's. It is not reused: every salt makes a key of
	// its own.
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(out, h.signer)
	return equal(h.hash, out)
}
