package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	alertName   = regexp.MustCompile(`(?m)^\s*- alert: (\w+)$`)
	alertLevel  = regexp.MustCompile(`severity: (\w+)`)
	alertRow    = regexp.MustCompile("(?m)^\\| `(Sallyport\\w+)` \\| (page|ticket) \\| .+ \\| .+ \\|$")
	inlineShell = regexp.MustCompile("`(sallyport [^`]+)`")
)

// TestOperatePage holds the page for the person who is awake: each alert that may have
// woken them has its row, with the severity that it has, and each command between
// backticks is one that there is. Those in blocks are read by TestCommandsInThePages.
func TestOperatePage(t *testing.T) {
	read := func(path string) string {
		b, err := os.ReadFile(filepath.Join("..", "..", path))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	page := read("docs/operate.md")
	rows := map[string]string{}
	for _, m := range alertRow.FindAllStringSubmatch(page, -1) {
		rows[m[1]] = m[2]
	}
	rules := read("deploy/prometheus/alerts.yaml")
	names := alertName.FindAllStringSubmatchIndex(rules, -1)
	if len(names) < 15 {
		t.Fatalf("only %d alerts were found", len(names))
	}
	for i, m := range names {
		end := len(rules)
		if i+1 < len(names) {
			end = names[i+1][0]
		}
		name, level := rules[m[2]:m[3]], alertLevel.FindStringSubmatch(rules[m[0]:end])
		if level == nil || rows[name] != level[1] {
			t.Errorf("docs/operate.md: %s stands there as %q, and in alerts.yaml as %q", name, rows[name], level)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("docs/operate.md has a row of %s, which is no alert", name)
	}
	n := 0
	for _, m := range inlineShell.FindAllStringSubmatch(page, -1) {
		words := commandsIn(m[1])
		if len(words) != 1 {
			t.Errorf("docs/operate.md: %s: %d commands", m[1], len(words))
			continue
		}
		// “…” stands for what was said before.
		if slices.Contains(words[0], "…") {
			words[0][slices.Index(words[0], "…")] = "FILE"
		}
		n++
		if err := checkCommand(words[0]); err != nil && !isGroup(words[0]) {
			t.Errorf("docs/operate.md: %s: %v", m[1], err)
		}
	}
	if n < 20 {
		t.Errorf("only %d commands between backticks: the search misses some", n)
	}
	if err := checkCommand(strings.Fields("user unlok ada")); err == nil {
		t.Error("a command that there is not was accepted")
	}
}

// isGroup reports whether nothing but a command's name is there, as where a sentence
// speaks of the command: with --help in place of its arguments it is one.
func isGroup(words []string) bool {
	return len(words) <= 2 && checkCommand(append(slices.Clone(words), "--help")) == nil
}
