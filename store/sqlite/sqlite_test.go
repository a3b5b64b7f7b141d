package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/store/sqlite"
)

func TestOpenSaysWhatIsWrongAndTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte("these are not the bytes of a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, want string }{
		{"missing folder", filepath.Join(dir, "no", "such", "x.db"), "does not exist"},
		{"folder", dir, "it is a folder"},
		{"parent is a file", filepath.Join(text, "x.db"), "not a"},
		{"another format", text, "not a SQLite database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sqlite.Open(c.path)
			e, ok := errors.AsType[*db.OpenError](err)
			if !ok || !strings.Contains(err.Error(), c.want) || e.Fix == "" {
				t.Fatalf("got %v, want an *OpenError with %q and a fix", err, c.want)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("something was created: %v %v", entries, err)
	}
	if b, _ := os.ReadFile(text); string(b) != "these are not the bytes of a database" {
		t.Error("the file was changed")
	}
	// The control: a path that can be opened, with a mode that keeps others out.
	good := filepath.Join(dir, "a b%20?.db")
	d, err := sqlite.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(good)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() == 0 {
		t.Errorf("the file: %v %v", st, err)
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root reads everything: the nearest to it is a file that cannot be opened for writing.
		t.Skip("runs as root, which no file mode keeps out")
	}
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(path)
	if e, ok := errors.AsType[*db.OpenError](err); !ok || !strings.Contains(e.Fix, "chmod") {
		t.Fatalf("got %v", err)
	}
}

func TestParallelMigrationsOfOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			d, err := sqlite.Open(path)
			if err != nil {
				errs[i] = err
				return
			}
			defer d.Close()
			_, errs[i] = d.Migrate(t.Context())
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
