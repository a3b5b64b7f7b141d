package testkit

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Check has a file of deploy/ read by the parser of whoever it is for
// (deploy/check), and fills into with what that found. stdin may be empty.
func Check(t testing.TB, into any, stdin string, args ...string) error {
	t.Helper()
	if testing.Short() {
		t.Skip("the parsers of others take a minute to build")
	}
	root := moduleRoot(t)
	program := filepath.Join(t.TempDir(), "check")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join(root, "deploy", "check")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build deploy/check: %v\n%s", err, out)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = filepath.Join(root, "deploy")
	cmd.Stdin = strings.NewReader(stdin)
	var said strings.Builder
	cmd.Stderr = io.MultiWriter(&said)
	out, err := cmd.Output()
	if err != nil {
		return &CheckError{said.String()}
	}
	return json.Unmarshal(out, into)
}

// CheckError is what a parser has against a file.
type CheckError struct{ Text string }

func (e *CheckError) Error() string { return e.Text }
