package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

var readme = flag.String("readme", filepath.Join("..", "..", "README.md"), "page whose console blocks TestTranscript runs")

// TestTranscript runs what the README shows, as it stands there: every line of
// a block marked “console” that begins with “$ ” goes to one bash in an empty
// folder, and what it prints must be the lines that follow. “…” within a line
// stands for any text, alone on a line for any lines. A command that ends in
// “&” stays in the background; the lines after it are the first that it prints.
//
// “sallyport” is the built binary, and so is “go run ./cmd/sallyport”. The port
// 8080 becomes one that is free.
func TestTranscript(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(*readme)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := transcript(string(page))
	if err != nil {
		t.Fatalf("%s: %v", *readme, err)
	}
	if i := slices.IndexFunc(steps, func(s step) bool { return strings.Contains(s.command, "oathtool") }); i >= 0 {
		if _, err := exec.LookPath("oathtool"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Logf("there is no oathtool here: line %d and what follows is not run", steps[i].line)
			steps = steps[:i]
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		runTranscript(t, steps)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		runTranscript(t, steps, "SALLYPORT_DATABASE="+testkit.PostgresURL(t))
	})
}

// step is a command and what it must print.
type step struct {
	line    int // in the page
	command string
	want    []string
}

// transcript returns the steps of a page's console blocks.
func transcript(page string) ([]step, error) {
	var steps []step
	inside, more := false, false
	n := 0
	for line := range strings.Lines(page) {
		n++
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case !inside:
			inside = line == "```console"
		case line == "```":
			if more {
				return nil, fmt.Errorf("line %d: the command ends in a backslash", n)
			}
			inside = false
		case more:
			last := &steps[len(steps)-1]
			last.command += "\n" + line
			more = strings.HasSuffix(line, `\`)
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{line: n, command: line[2:]})
			more = strings.HasSuffix(line, `\`)
		case len(steps) == 0:
			return nil, fmt.Errorf("line %d: output before the first command", n)
		default:
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	if inside {
		return nil, fmt.Errorf("the last block is not closed")
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("there is no command in a block marked “console”")
	}
	return steps, nil
}

// matches reports whether the output is what is wanted.
func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "…" {
		return matches(want[1:], got) || len(got) > 0 && matches(want, got[1:])
	}
	return len(got) > 0 && lineMatches(want[0], got[0]) && matches(want[1:], got[1:])
}

func lineMatches(want, got string) bool {
	parts := strings.Split(want, "…")
	if len(parts) == 1 {
		return want == got
	}
	first, last := parts[0], parts[len(parts)-1]
	got, ok := strings.CutPrefix(got, first)
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		if _, got, ok = strings.Cut(got, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(got, last)
}

func TestMatches(t *testing.T) {
	lines := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(s, "/")
	}
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "", false},
		{"a", "a", true},
		{"a", "b", false},
		{"a/b", "a/b", true},
		{"a/b", "a", false},
		{"a", "a/b", false},
		{"id …", "id 7", true},
		{"id …", "id ", true},
		{"id …", "di 7", false},
		{"…7", "id 7", true},
		{"…7", "id 8", false},
		{"a…b…c", "a1b2c", true},
		{"a…b…c", "abc", true},
		{"a…b…c", "a1c2b", false},
		{"ab…ba", "aba", false},
		{"a…b", "a1/2b", false},
		{"…", "", true},
		{"…", "a/b/c", true},
		{"a/…/c", "a/c", true},
		{"a/…/c", "a/b/b/c", true},
		{"a/…/c", "a/b/b", false},
		{"…/c", "a/c/b/c", true},
		{"…/c/…", "a/b", false},
	} {
		if got := matches(lines(c.want), lines(c.got)); got != c.ok {
			t.Errorf("%q against %q: %v, want %v", c.got, c.want, got, c.ok)
		}
	}
}

func TestTranscriptOfAPage(t *testing.T) {
	page := "# Page\n```sh\n$ not this\n```\n```console\n$ one \\\n  more\nout …\n\n$ two\n```\ntext\n```console\n$ three\n…\n```\n"
	steps, err := transcript(page)
	want := []step{{6, "one \\\n  more", []string{"out …", ""}}, {10, "two", nil}, {14, "three", []string{"…"}}}
	if err != nil || !slices.EqualFunc(steps, want, func(a, b step) bool {
		return a.line == b.line && a.command == b.command && slices.Equal(a.want, b.want)
	}) {
		t.Errorf("got %v, %v", steps, err)
	}
	for _, page := range []string{
		"", "# Page\n```sh\n$ command\n```\n", "```console\n```\n", "```console\noutput\n$ command\n```\n",
		"```console\n$ command\n", "```console\n$ command \\\n```\n",
	} {
		if steps, err := transcript(page); err == nil {
			t.Errorf("%q: no error, but %v", page, steps)
		}
	}
}

// stepTimeout bounds one command.
const stepTimeout = 30 * time.Second

// bash is one shell that runs command after command.
type bash struct {
	dir   string
	stdin io.Writer
	lines chan string
	jobs  int
}

func runTranscript(t *testing.T, steps []step, env ...string) {
	runTranscriptAt(t, steps, nil, env...)
}

// runTranscriptAt is runTranscript for a page with more ports than 8080, each of which
// becomes one that is free.
func runTranscriptAt(t *testing.T, steps []step, ports []string, env ...string) {
	sh := startBash(t, env...)
	port := fmt.Sprint(testkit.FreePort(t))
	words := []string{"go run ./cmd/sallyport", "sallyport", ":8080", ":" + port}
	for _, p := range ports {
		words = append(words, p, fmt.Sprint(testkit.FreePort(t)))
	}
	local := strings.NewReplacer(words...).Replace
	sh.run(t, "export SALLYPORT_LISTEN=127.0.0.1:"+port)
	for _, s := range steps {
		want := make([]string, len(s.want))
		for i, line := range s.want {
			want[i] = local(line)
		}
		for len(want) > 0 && want[len(want)-1] == "" { // blank lines between commands are for the eye
			want = want[:len(want)-1]
		}
		var got []string
		if command, ok := strings.CutSuffix(local(s.command), " &"); ok {
			got = sh.background(t, command, append(want, "…"))
			want = append(want, "…")
		} else {
			got = sh.run(t, command)
		}
		if !matches(want, got) {
			t.Fatalf("line %d: $ %s\nprints:\n\t%s\nand should print:\n\t%s", s.line, s.command, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
}

func startBash(t *testing.T, env ...string) *bash {
	t.Helper()
	path, err := exec.LookPath("bash")
	if err == nil {
		_, err = exec.LookPath("curl")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--noprofile", "--norc")
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{
		"PATH=" + filepath.Dir(binary) + string(filepath.ListSeparator) + os.Getenv("PATH"), "HOME=" + cmd.Dir, "LANG=C.UTF-8", "NO_PROXY=127.0.0.1",
	}, env...)
	cmd.Stdout, cmd.Stderr = w, w
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	sh := &bash{dir: cmd.Dir, stdin: stdin, lines: make(chan string, 1024)}
	go func() {
		defer close(sh.lines)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			sh.lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		fmt.Fprintln(stdin, "kill -9 $(jobs -p); exit")
		stdin.Close()
		_ = cmd.Wait() // its last command may have failed
		r.Close()
	})
	return sh
}

const sentinel = "--- end of step ---"

// run runs a command and returns what it prints.
func (sh *bash) run(t *testing.T, command string) []string {
	t.Helper()
	fmt.Fprintf(sh.stdin, "%s\nprintf '\\n%%s\\n' '%s'\n", command, sentinel)
	var out []string
	for timeout := time.After(stepTimeout); ; {
		select {
		case line, ok := <-sh.lines:
			if !ok {
				t.Fatalf("the shell ended at: %s\n%s", command, strings.Join(out, "\n"))
			}
			if line != sentinel {
				out = append(out, strings.TrimRight(line, " \t\r"))
				continue
			}
			for len(out) > 0 && out[len(out)-1] == "" {
				out = out[:len(out)-1]
			}
			return out
		case <-timeout:
			t.Fatalf("no end in %v: %s\n%s", stepTimeout, command, strings.Join(out, "\n"))
		}
	}
}

// background starts a command and waits until it has printed what is wanted.
func (sh *bash) background(t *testing.T, command string, want []string) []string {
	t.Helper()
	sh.jobs++
	file := filepath.Join(sh.dir, fmt.Sprintf(".job-%d", sh.jobs))
	sh.run(t, command+" >"+file+" 2>&1 &")
	for deadline := time.Now().Add(stepTimeout); ; time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(b)) {
			got = append(got, strings.TrimRight(line, " \t\r\n"))
		}
		if matches(want, got) || time.Now().After(deadline) {
			return got
		}
	}
}
