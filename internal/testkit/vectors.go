package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// VectorsEnv names the environment variable with the folder of the published
// test vectors.
const VectorsEnv = "TEST_VECTORS"

// Vectors returns the path of a file or folder of the published test vectors,
// which are data from elsewhere and not part of this repository: under the
// folder that VectorsEnv names, or else under ../shared/vectors beside the
// repository. Where it is missing the test is skipped; under CI it fails.
func Vectors(t testing.TB, rel string) string {
	t.Helper()
	dir := os.Getenv(VectorsEnv)
	if dir == "" {
		dir = filepath.Join(moduleRoot(t), "..", "shared", "vectors")
	}
	path := filepath.Join(dir, filepath.FromSlash(rel))
	if _, err := os.Stat(path); err != nil {
		Missing(t, "test vectors %s are not here: set %s to their folder", rel, VectorsEnv)
	}
	return path
}

// moduleRoot returns the nearest folder upwards that holds go.mod. Tests run in
// the folder of their package.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}
