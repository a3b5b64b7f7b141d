package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/testkit"
)

// TestQuickstartGo does what docs/quickstart-go.md says, to the letter, in an empty
// folder: its program becomes main.go where it stands, and is built and run as a module
// of its own. “go get” finds this checkout, whether or not it is published. What else
// the go command wants to know of modules is in the cache, or comes from where it
// always comes from.
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
	// From nothing, compiling takes longer than a step may; from here on it is in the cache.
	compile := exec.Command("go", "list", "-export", "-deps", "./examples/quickstart", "./cmd/sallyport")
	compile.Dir, compile.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("go list -export: %v\n%s", err, out)
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
	env := append(goEnv(t), "GOPROXY="+ownProxy(t)+","+goVariable(t, "GOPROXY"))
	canTidy(t, root, program, env)
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

// goVariable returns what the go command says of a variable.
func goVariable(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// goEnv is what a go command needs that runs in an empty home: the caches. Checksums are
// those of our own go.sum, which the tests' own build has held everything against.
func goEnv(t *testing.T) []string {
	env := []string{"GOSUMDB=off", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local", "CGO_ENABLED=0"}
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
		env = append(env, name+"="+goVariable(t, name))
	}
	return env
}

// ownProxy is a module proxy that knows one module, ours, and has no release of it: the
// go command then takes the one that replaces it, and asks nobody else.
func ownProxy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const version = "v0.0.0-00010101000000-000000000000" // of what is replaced by a folder
	info := `{"Version": "` + version + `", "Time": "0001-01-01T00:00:00Z"}`
	for name, text := range map[string]string{"@latest": info, "@v/" + version + ".info": info, "@v/list": ""} {
		path := filepath.Join(dir, "github.com", "sallyport", "sallyport", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + filepath.ToSlash(dir)
}

// canTidy leaves the test out where modules that the go command wants to look at are
// neither in the cache nor to be had.
func canTidy(t *testing.T, root, program string, env []string) {
	t.Helper()
	dir := t.TempDir()
	module := "module example.com/probe\n\ngo 1.26\n\nreplace github.com/sallyport/sallyport => " + root +
		"\n\ntool github.com/sallyport/sallyport/cmd/sallyport\n"
	for name, text := range map[string]string{"go.mod": module, "main.go": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tidy := exec.Command("go", "mod", "tidy")
	tidy.Dir, tidy.Env = dir, append(os.Environ(), env...)
	if out, err := tidy.CombinedOutput(); err != nil {
		testkit.Missing(t, "the go command cannot have the modules that it wants to look at: %v\n%s", err, out)
	}
}
