package backup_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/backup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/store/sqlite"
)

// made returns the path of a backup of an empty database, and its bytes.
func made(t *testing.T, master *seal.Master) (path string, b []byte) {
	t.Helper()
	d := testkit.SQLite(t)
	path = filepath.Join(t.TempDir(), "b")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := sqlite.Copy(t.Context(), filepath.Join(d.Dir(), "sallyport.db"), path); err != nil {
		t.Fatal(err)
	}
	m := backup.Manifest{MadeAt: time.Now(), From: "test"}
	copied := frozen(t, path)
	if err := errors.Join(m.Describe(t.Context(), copied), backup.Finish(t.Context(), f, m, master)); err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, b
}

func frozen(t *testing.T, path string) *db.DB {
	t.Helper()
	d, err := sqlite.OpenFrozen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// try does with some bytes what verify does.
func try(t *testing.T, b []byte, master *seal.Master) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "b")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := backup.Open(t.Context(), path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Authentic(master); err != nil {
		return err
	}
	return f.Check(t.Context(), path, frozen(t, path))
}

func wantDamaged(t *testing.T, what string, err error) {
	t.Helper()
	if _, ok := errors.AsType[*backup.Damaged](err); !ok {
		t.Errorf("%s: %v, want *Damaged", what, err)
	}
}

func TestADamagedByteIsFoundWhereverItIs(t *testing.T) {
	master := seal.Generate()
	_, good := made(t, master)
	if err := try(t, good, master); err != nil {
		t.Fatal(err)
	}
	places := []int{0, 16, len(good) - 1, len(good) - 32, len(good) - 33, len(good) - 48, len(good) - 49, len(good) - 72, len(good) - 73, len(good) - 150, len(good) - 600}
	for range 200 {
		places = append(places, rand.IntN(len(good)))
	}
	for _, at := range places {
		b := append([]byte{}, good...)
		b[at] ^= 1 << rand.IntN(8)
		wantDamaged(t, fmt.Sprintf("byte %d of %d", at, len(good)), try(t, b, master))
	}
	for range 50 {
		n := rand.IntN(len(good))
		wantDamaged(t, fmt.Sprintf("cut at %d of %d", n, len(good)), try(t, good[:n], master))
	}
	wantDamaged(t, "a byte more", try(t, append(append([]byte{}, good...), 0), master))
	wantDamaged(t, "nothing", try(t, nil, master))
	wantDamaged(t, "a footer alone", try(t, good[len(good)-72:], master))
	wantDamaged(t, "a database that is no backup", try(t, good[:len(good)-2000], master))
}

// Whoever has no master key makes no backup, however right its sums are.
func TestAForgedBackupIsRefused(t *testing.T) {
	master := seal.Generate()
	path, good := made(t, master)
	forged := append([]byte{}, good...)
	at := strings.Index(string(forged), "May do everything")
	if at < 0 {
		t.Fatal("the database does not hold what was to be changed")
	}
	copy(forged[at:], "MAY")
	sum := sha256.Sum256(forged[:len(forged)-32])
	copy(forged[len(forged)-32:], sum[:])
	err := try(t, forged, master)
	wantDamaged(t, "a forged one", err)
	if !strings.Contains(fmt.Sprint(err), "did not have the master key") {
		t.Errorf("it says %v", err)
	}
	if err := try(t, good, seal.Generate()); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("under another key: %v", err)
	}
	// A proof of another backup, made under the same key, does not fit either.
	_, other := made(t, master)
	f, err := backup.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const proof = 1 + 8 + 12 + 32 + 16
	mixed := append([]byte{}, good...)
	copy(mixed[len(mixed)-72-proof:len(mixed)-72], other[len(other)-72-proof:])
	sum = sha256.Sum256(mixed[:len(mixed)-32])
	copy(mixed[len(mixed)-32:], sum[:])
	wantDamaged(t, "another's proof", try(t, mixed, master))
}

func TestExtractGivesTheDatabaseAlone(t *testing.T) {
	master := seal.Generate()
	path, good := made(t, master)
	f, err := backup.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	to, err := os.Create(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := f.Extract(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to.Name())
	if err != nil || string(b) != string(good[:f.Size]) || f.Size%512 != 0 {
		t.Fatalf("%d bytes of %d: %v", len(b), f.Size, err)
	}
	if strings.Contains(string(good), master.GoString()) || len(f.MasterKey) != 16 {
		t.Error("the manifest holds more of the master key than its id")
	}
	// Changed between the two readings.
	changed := append([]byte{}, good...)
	changed[5000] ^= 1
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	wantDamaged(t, "changed meanwhile", f.Extract(t.Context(), to))
}
