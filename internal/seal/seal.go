// Package seal encrypts the server's secrets under the master key before they
// go into the database, so that a copy of the database alone signs nothing.
//
// It stores nothing. It uses AES-256-GCM with random nonces: in a key's life
// a few secrets of the server are sealed, and one whenever somebody sets up a
// second factor, far below the 2^32 that random 96-bit nonces allow (NIST SP
// 800-38D, 8.3).
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Size is the length of a master key in bytes.
const Size = 32

// ErrWrongKey says that a secret was sealed under another master key.
var ErrWrongKey = errors.New("it was sealed under another master key")

// ErrDamaged says that a sealed secret was changed.
var ErrDamaged = errors.New("the sealed secret is damaged")

// Master is a master key.
type Master struct {
	aead cipher.AEAD
	id   [8]byte
	raw  [Size]byte
}

// String implements fmt.Stringer and reveals nothing but the key's id.
func (m *Master) String() string { return fmt.Sprintf("master key %x", m.id) }

// ID names the key without telling anything of it.
func (m *Master) ID() string { return fmt.Sprintf("%x", m.id) }

// GoString keeps %#v from printing the key.
func (m *Master) GoString() string { return m.String() }

// New returns the master key with these 32 bytes.
func New(raw []byte) (*Master, error) {
	if len(raw) != Size {
		return nil, fmt.Errorf("a master key has %d bytes, this has %d", Size, len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	m := &Master{aead: aead}
	copy(m.raw[:], raw)
	sum := sha256.Sum256(append([]byte("sallyport master key id\x00"), raw...))
	copy(m.id[:], sum[:])
	return m, nil
}

// Generate returns a new random master key.
func Generate() *Master {
	raw := make([]byte, Size)
	rand.Read(raw) // never fails
	m, err := New(raw)
	if err != nil {
		panic(err) // a 32-byte key is valid
	}
	return m
}

// Parse reads a key as files and the environment hold it: base64 of 32 bytes.
func Parse(text string) (*Master, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != Size {
		return nil, fmt.Errorf("a master key is the base64 of %d bytes (make one with: openssl rand -base64 %d)", Size, Size)
	}
	return New(raw)
}

// ReadFile reads a key file. A file that others than its owner may read is
// refused.
func ReadFile(path string) (*Master, error) {
	b, err := ReadPrivate(path, 1<<10)
	if exposed, ok := errors.AsType[*ExposedError](err); ok {
		return nil, fmt.Errorf("%w, and rotate the master key if somebody did", exposed)
	}
	if err != nil {
		return nil, err
	}
	m, err := Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// ExposedError says that a file with a secret may be read by others than its
// owner.
type ExposedError struct {
	Path string
	Mode fs.FileMode
}

func (e *ExposedError) Error() string {
	return fmt.Sprintf("%s may be read by others (mode %04o): run chmod 600 %[1]s", e.Path, e.Mode)
}

// ReadPrivate reads a file that holds a secret, up to one byte more than limit,
// so that the caller sees when there is more. A file that others than its owner
// may read is refused with an *ExposedError, unread.
func ReadPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, &ExposedError{path, mode}
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// WriteFile writes a new key file with mode 0600, durably: it is there whole or
// not at all. It never replaces one (fs.ErrExist): losing a master key loses
// what is sealed under it.
func (m *Master) WriteFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".master-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(m.raw[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// A new master key waits in a file of its own while secrets are sealed under
// it: written before the database changes and promoted after, so that a crash
// in between loses neither. Its name holds the key's id, so that two rotations
// at once cannot take each other's key away.
func (m *Master) stagedFile(path string) string { return fmt.Sprintf("%s.new-%x", path, m.id) }

// Stage writes the key beside path, durably.
func (m *Master) Stage(path string) error { return m.WriteFile(m.stagedFile(path)) }

// Unstage removes the staged key: nothing was sealed under it.
func (m *Master) Unstage(path string) error { return os.Remove(m.stagedFile(path)) }

// Candidates returns the keys beside path that a database may be sealed under
// when the one in path does not fit: staged ones, and the one before.
func Candidates(path string) []*Master {
	files, err := filepath.Glob(globQuote(path) + ".new-*")
	if err != nil {
		files = nil // the pattern is well-formed
	}
	var out []*Master
	for _, f := range append(files, path+".old") {
		if m, err := ReadFile(f); err == nil {
			out = append(out, m)
		}
	}
	return out
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// Promote puts the key in the place of path, atomically and durably, and keeps
// the one before as path + ".old". The caller has found that the database is
// sealed under it. When another process has done it already, that is well too.
func (m *Master) Promote(path string) error {
	current, err := ReadFile(path)
	if err == nil && current.id == m.id {
		return nil
	}
	if serr := m.Stage(path); serr != nil && !errors.Is(serr, fs.ErrExist) {
		return serr
	}
	if err == nil {
		old := path + ".old"
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Link(path, old); err != nil {
			return err
		}
	}
	if err := os.Rename(m.stagedFile(path), path); err != nil {
		if again, rerr := ReadFile(path); rerr == nil && again.id == m.id {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const version = 1

// Seal encrypts secret for one purpose ("signing-key:KID"); only Open with the
// same purpose returns it.
func (m *Master) Seal(purpose string, secret []byte) []byte {
	out := make([]byte, 0, 1+len(m.id)+m.aead.NonceSize()+len(secret)+m.aead.Overhead())
	out = append(out, version)
	out = append(out, m.id[:]...)
	nonce := make([]byte, m.aead.NonceSize())
	rand.Read(nonce)
	out = append(out, nonce...)
	return m.aead.Seal(out, nonce, secret, []byte(purpose))
}

// Open decrypts. It returns ErrWrongKey or ErrDamaged.
func (m *Master) Open(purpose string, sealed []byte) ([]byte, error) {
	head := 1 + len(m.id)
	if len(sealed) < head+m.aead.NonceSize()+m.aead.Overhead() || sealed[0] != version {
		return nil, ErrDamaged
	}
	if subtle.ConstantTimeCompare(sealed[1:head], m.id[:]) != 1 {
		return nil, ErrWrongKey
	}
	nonce, box := sealed[head:head+m.aead.NonceSize()], sealed[head+m.aead.NonceSize():]
	secret, err := m.aead.Open(nil, nonce, box, []byte(purpose))
	if err != nil {
		return nil, ErrDamaged
	}
	return secret, nil
}
