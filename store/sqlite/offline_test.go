package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/store/sqlite"
)

// made makes a database at path, in which name is a role.
func made(t *testing.T, path, name string) {
	t.Helper()
	d, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec("INSERT INTO sp_roles (name, description, builtin) VALUES ($1, '', FALSE)", name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, path, name string) bool {
	t.Helper()
	d, err := sqlite.OpenFrozen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var n int
	found, err := d.View(t.Context()).Row("SELECT 1 FROM sp_roles WHERE name = $1", []any{name}, &n)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), func(*db.Tx) error { return nil }); err == nil {
		t.Error("what was opened for reading can be written")
	}
	return found
}

func TestReplaceKeepsWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "sallyport.db"), filepath.Join(t.TempDir(), "sallyport.db")
	made(t, path, "old")
	made(t, other, "new")
	root := os.Geteuid() == 0
	if root {
		if err := os.Chown(path, 1234, 1235); err != nil {
			t.Fatal(err)
		}
	}
	off, err := sqlite.TakeOffline(path)
	if err != nil {
		t.Fatal(err)
	}
	defer off.Close()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if _, err := off.Replace(filepath.Join(dir, "missing"), at); !errors.Is(err, os.ErrNotExist) || !holds(t, path, "old") {
		t.Fatalf("with a file that is not there: %v", err)
	}
	kept, err := off.Replace(other, at)
	if err != nil || kept != path+".replaced-20260102T030405Z" {
		t.Fatalf("%q, %v", kept, err)
	}
	if !holds(t, path, "new") || holds(t, path, "old") || !holds(t, kept, "old") {
		t.Error("one is not where it should be")
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", st.Mode(), err)
	} else if s := st.Sys().(*syscall.Stat_t); root && (s.Uid != 1234 || s.Gid != 1235) {
		t.Errorf("it belongs to %d:%d, not to the owner of the one before", s.Uid, s.Gid)
	}
	// Twice in a second: none is lost.
	made(t, other, "newer")
	if again, err := off.Replace(other, at); err != nil || again != kept+"-2" || !holds(t, kept, "old") || !holds(t, again, "new") {
		t.Errorf("%q, %v", again, err)
	}
}
