package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/testkit"
)

// TestQuickstartAnyLanguage runs the page as it stands there.
func TestQuickstartAnyLanguage(t *testing.T) {
	t.Parallel()
	path := python(t)
	if _, err := exec.LookPath("nginx"); err != nil {
		testkit.Missing(t, "nginx is not here (Debian: apt-get install nginx-light)")
	}
	page, err := os.ReadFile(filepath.Join(docsFolder, "quickstart-any-language.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := transcript(string(page))
	if err != nil {
		t.Fatal(err)
	}
	// The interpreter that has FastAPI goes by the name that the page has for it.
	bin := t.TempDir()
	if err := os.Symlink(path, filepath.Join(bin, "python3")); err != nil {
		t.Fatal(err)
	}
	runTranscriptAt(t, steps, []string{"8000", "8001", "9000"}, "PATH="+filepath.Dir(binary)+string(filepath.ListSeparator)+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "SALLYPORT_LIMITS_DEFAULT=off")
}
