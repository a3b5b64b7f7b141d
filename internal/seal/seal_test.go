package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/seal"
)

func TestSealOpens(t *testing.T) {
	m, other := seal.Generate(), seal.Generate()
	secret := []byte("a private key")
	box := m.Seal("signing-key:1", secret)
	if got, err := m.Open("signing-key:1", box); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%q %v", got, err)
	}
	if bytes.Contains(box, secret) || bytes.Equal(box, m.Seal("signing-key:1", secret)) {
		t.Error("the secret shows, or the nonce repeats")
	}
	if _, err := other.Open("signing-key:1", box); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := m.Open("signing-key:2", box); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("another purpose: %v", err)
	}
	for i := range box {
		bad := bytes.Clone(box)
		bad[i] ^= 1
		if _, err := m.Open("signing-key:1", bad); err == nil {
			t.Errorf("byte %d changed, and it opened", i)
		}
	}
	for n := range box {
		if _, err := m.Open("signing-key:1", box[:n]); err == nil {
			t.Errorf("%d bytes, and it opened", n)
		}
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	m := seal.Generate()
	if err := m.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st, err)
	}
	if err := seal.Generate().WriteFile(path); err == nil {
		t.Fatal("a key file was replaced")
	}
	read, err := seal.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read.Open("p", m.Seal("p", []byte("x"))); err != nil {
		t.Fatalf("the file holds another key: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ReadFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Fatalf("a file that others may read: %v", err)
	}
}

func TestStagedKeyTakesThePlaceAndTheOldOneStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a[1]*?", "master.key")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	old, next, other := seal.Generate(), seal.Generate(), seal.Generate()
	// Another rotation's staged key is neither taken for one's own nor lost.
	if err := errors.Join(old.WriteFile(path), other.Stage(path), next.Stage(path)); err != nil {
		t.Fatal(err)
	}
	if n := len(seal.Candidates(path)); n != 2 {
		t.Fatalf("%d candidates, want 2", n)
	}
	if err := errors.Join(next.Promote(path), next.Promote(path)); err != nil {
		t.Fatal(err)
	}
	holds := func(file string, want *seal.Master) {
		t.Helper()
		got, err := seal.ReadFile(file)
		if err != nil || got.String() != want.String() {
			t.Errorf("%s: %v %v, want %v", file, got, err, want)
		}
	}
	holds(path, next)
	holds(path+".old", old)
	candidates := seal.Candidates(path)
	if len(candidates) != 2 || candidates[0].String() != other.String() || candidates[1].String() != old.String() {
		t.Errorf("candidates: %v", candidates)
	}
	// The one before can be put back, should the database be sealed under it.
	if err := old.Promote(path); err != nil {
		t.Fatal(err)
	}
	holds(path, old)
	holds(path+".old", next)
	if err := other.Unstage(path); err != nil || len(seal.Candidates(path)) != 1 {
		t.Errorf("unstaging: %v", err)
	}
}

func TestBadKeys(t *testing.T) {
	for _, text := range []string{"", "c2hvcnQ=", "not base64 at all, certainly", strings.Repeat("A", 45)} {
		if _, err := seal.Parse(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestNothingPrintsTheKey(t *testing.T) {
	raw := bytes.Repeat([]byte{0xab}, seal.Size)
	m, err := seal.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(m), fmt.Sprintf("%+v", m), fmt.Sprintf("%#v", m), fmt.Sprintf("%x", m.String())} {
		if strings.Contains(s, "abababab") || strings.Contains(s, "171 171") {
			t.Errorf("printed: %s", s)
		}
	}
}
