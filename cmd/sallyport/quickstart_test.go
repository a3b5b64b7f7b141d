package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestQuickstartGo does what docs/quickstart-go.md says, to the letter, in an empty
// folder: its program becomes main.go where it stands, and is built and run as a module
// of its own. “go get” finds this checkout, and the module proxy is off: every other
// module is in the cache, or the tests themselves could not have been built.
func TestQuickstartGo(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(docsFolder, "quickstart-go.md"))
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), "\n```go\n")
	program, after, found := strings.Cut(rest, "\n```\n")
	if !found || strings.Contains(after, "```go") {
		t.Fatal("docs/quickstart-go.md holds one program")
	}
	lines := 0
	for line := range strings.Lines(program) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	if lines > 25 {
		t.Errorf("the program has %d lines, blank ones aside; the page promises 25", lines)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	// From nothing this takes longer than a step may; from here on it is in the cache.
	build := exec.Command("go", "build", "-o", os.DevNull, "./examples/quickstart", "./cmd/sallyport")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	steps := stepsOf(t, before)
	if last := steps[len(steps)-1]; !strings.HasPrefix(last.command, "go mod init ") {
		t.Fatalf("the module is made before the program, and the last command is: %s", last.command)
	}
	steps = append(steps,
		step{command: "go mod edit -replace github.com/sallyport/sallyport='" + root + "'"},
		step{command: "cat >main.go <<'END OF FILE'\n" + program + "\nEND OF FILE"})
	passed := strings.Count(before, "\n") + strings.Count(program, "\n") + 3 // lines of the page
	for _, s := range stepsOf(t, after) {
		s.line += passed
		steps = append(steps, s)
	}
	env := []string{"GOPROXY=off", "GOSUMDB=off", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local", "CGO_ENABLED=0"}
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, fmt.Sprintf("%s=%s", name, strings.TrimSpace(string(out))))
	}
	runTranscript(t, steps, env...)
}

func stepsOf(t *testing.T, page string) []step {
	t.Helper()
	steps, err := transcript(page)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}
