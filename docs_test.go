package sallyport_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every direct dependency has its line in docs/dependencies.md, and every line
// its dependency.
func TestDependenciesAreExplained(t *testing.T) {
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	main, tools, found := strings.Cut(string(doc), "\n## Tools\n")
	if !found {
		t.Fatal("docs/dependencies.md has no section “Tools”")
	}
	tools, checks, found := strings.Cut(tools, "\n## Parsers for what is in deploy\n")
	if !found {
		t.Fatal("docs/dependencies.md has no section “Parsers for what is in deploy”")
	}
	checks, routers, found := strings.Cut(checks, "\n## Routers of an example\n")
	if !found {
		t.Fatal("docs/dependencies.md has no section “Routers of an example”")
	}
	for _, part := range []struct{ mod, section string }{
		{"go.mod", main},
		{"tools/go.mod", tools},
		{"deploy/check/go.mod", checks},
		{"examples/adapters/go.mod", routers},
	} {
		direct, all := requirements(t, part.mod)
		delete(direct, modulePath) // an example's own
		for _, p := range dependencyProblems(part.mod, direct, all, part.section) {
			t.Error(p)
		}
	}
}

// requirements returns the modules that a go.mod requires, with versions. Those
// that a tool comes from count as direct, though the go command marks all of a
// tool's modules as indirect.
func requirements(t *testing.T, file string) (direct, all map[string]string) {
	t.Helper()
	if _, err := os.ReadFile(file); err != nil { // so that go test knows on what the result depends
		t.Fatal(err)
	}
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatalf("go mod edit -json %s: %v", file, err)
	}
	var mod struct {
		Require []struct {
			Path, Version string
			Indirect      bool
		}
		Tool []struct{ Path string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	direct, all = map[string]string{}, map[string]string{}
	for _, r := range mod.Require {
		all[r.Path] = r.Version
		if !r.Indirect {
			direct[r.Path] = r.Version
		}
		for _, tool := range mod.Tool {
			if tool.Path == r.Path || strings.HasPrefix(tool.Path, r.Path+"/") {
				direct[r.Path] = r.Version
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s requires nothing, which cannot be", file)
	}
	return direct, all
}

var dependencyLine = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^ |]+) \\|")

// dependencyProblems holds the lines of a document against what is required.
func dependencyProblems(file string, direct, all map[string]string, doc string) []string {
	var found []string
	lines := map[string]string{}
	for _, m := range dependencyLine.FindAllStringSubmatch(doc, -1) {
		path, version := m[1], m[2]
		if _, twice := lines[path]; twice {
			found = append(found, fmt.Sprintf("docs/dependencies.md has two lines for %s. Leave one.", path))
		}
		lines[path] = version
		switch required, ok := all[path]; {
		case !ok:
			found = append(found, fmt.Sprintf("docs/dependencies.md explains %s, which %s does not require. Remove the line.", path, file))
		case required != version:
			found = append(found, fmt.Sprintf("docs/dependencies.md says %s %s, %s says %s. Write what is true, after reading what changed.", path, version, file, required))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(direct)) {
		if _, ok := lines[path]; !ok {
			found = append(found, fmt.Sprintf("%s requires %s %s, which docs/dependencies.md does not explain. Add its line: what it does for us, why this one, what would make us leave it.", file, path, direct[path]))
		}
	}
	return found
}

func TestDependencyProblems(t *testing.T) {
	type mods = map[string]string
	both := mods{"example.org/a": "v1.0.0", "example.org/b": "v2.0.0"}
	const a, b = "| `example.org/a` | v1.0.0 | does | why | leave |\n", "| `example.org/b` | v2.0.0 | does | why | leave |\n"
	tests := []struct {
		name        string
		direct, all mods
		doc         string
		want        string // part of the only problem; "" for none
	}{
		{"all explained", both, both, a + b, ""},
		{"an indirect one explained", mods{"example.org/a": "v1.0.0"}, both, a + b, ""},
		{"an indirect one unexplained", mods{"example.org/a": "v1.0.0"}, both, a, ""},
		{"unexplained", both, both, a, "requires example.org/b v2.0.0"},
		{"another version", both, both, a + strings.Replace(b, "v2", "v3", 1), "says example.org/b v3.0.0"},
		{"no longer required", mods{}, mods{"example.org/a": "v1.0.0"}, a + b, "explains example.org/b"},
		{"explained twice", both, both, a + b + a, "two lines for example.org/a"},
		{"named only in a sentence", both, both, a + "We like `example.org/b` v2.0.0.\n", "requires example.org/b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := dependencyProblems("go.mod", tt.direct, tt.all, tt.doc)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("complained: %q", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("got %q, want one problem that says %q", got, tt.want)
			}
		})
	}
}
