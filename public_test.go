package sallyport_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// public is a package that programs outside of this module can import.
type public struct {
	Dir, ImportPath, Name              string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

// path is the package's folder in the module, "." for the root.
func (p public) path() string { path, _ := inModule(p.ImportPath); return path }

// publicPackages lists them, in order of their paths.
func publicPackages(t *testing.T) (all []public) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=Dir,ImportPath,Name,GoFiles,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p public
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("go list: %v", err)
		}
		first, _, _ := strings.Cut(p.path(), "/")
		if p.Name != "main" && !slices.Contains([]string{"internal", "cmd", "bench", "examples", "deploy", "tools"}, first) {
			all = append(all, p)
		}
	}
	if len(all) < 30 || all[0].path() != "." {
		t.Fatalf("%d public packages: the search misses some", len(all))
	}
	return all
}

// parse reads files of the package.
func (p public) parse(t *testing.T, names []string) (files []*ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	for _, name := range names {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// TestPublicPackagesReadWell holds each public package against what a stranger needs of
// “go doc”: a comment that says where to begin, an example that runs, and a word on
// everything that is exported.
func TestPublicPackagesReadWell(t *testing.T) {
	for _, p := range publicPackages(t) {
		files := p.parse(t, p.GoFiles)
		for _, problem := range append(exampleProblems(p.parse(t, append(p.TestGoFiles, p.XTestGoFiles...))), docProblems(files)...) {
			t.Errorf("%s: %s", p.path(), problem)
		}
		if !slices.ContainsFunc(files, func(f *ast.File) bool { return strings.Contains(f.Doc.Text(), "egin with") }) {
			t.Errorf("%s: the package's comment does not say where to begin (“Begin with …”)", p.path())
		}
	}
}

// exampleProblems returns what is wrong with the examples of a package's test files.
func exampleProblems(files []*ast.File) (problems []string) {
	runs := false
	for _, e := range doc.Examples(files...) {
		runs = runs || e.Output != ""
	}
	if !runs {
		problems = append(problems, "it has no Example with “// Output:” that shows what the package is for")
	}
	return problems
}

// docProblems returns the exported names without a comment: functions, methods of
// exported types, types, and constants and variables where neither they nor their group
// have one.
func docProblems(files []*ast.File) (problems []string) {
	missing := func(name string) { problems = append(problems, fmt.Sprintf("%s has no doc comment", name)) }
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Recv != nil {
					receiver := typeName(d.Recv.List[0].Type)
					if !ast.IsExported(receiver) {
						continue
					}
					name = receiver + "." + name
				}
				if d.Name.IsExported() && d.Doc.Text() == "" {
					missing(name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						if s.Name.IsExported() && d.Doc.Text() == "" && s.Doc.Text() == "" {
							missing(s.Name.Name)
						}
					case *ast.ValueSpec:
						for _, n := range s.Names {
							if n.IsExported() && d.Doc.Text() == "" && s.Doc.Text() == "" && s.Comment.Text() == "" {
								missing(n.Name)
							}
						}
					}
				}
			}
		}
	}
	return problems
}

// typeName is the name of a method's receiver.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func TestPublicPackageProblems(t *testing.T) {
	file := func(text string) []*ast.File {
		f, err := parser.ParseFile(token.NewFileSet(), "x_test.go", "package x_test\n\n"+text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		return []*ast.File{f}
	}
	for _, tt := range []struct{ text, want string }{
		{"func Example() {\n\tprintln()\n\t// Output: 1\n}", ""},
		{"func Example() {\n\tprintln()\n}", "no Example"},
		{"func TestX() {}", "no Example"},
	} {
		if got := strings.Join(exampleProblems(file(tt.text)), "; "); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.text, got, tt.want)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"// F does.\nfunc F() {}", ""},
		{"func F() {}", "F has no doc comment"},
		{"func f() {}", ""},
		{"// T is.\ntype T struct{}\n\nfunc (*T) M() {}", "T.M has no doc comment"},
		{"type t[E any] struct{}\n\nfunc (*t[E]) M() {}", ""},
		{"type T struct{}", "T has no doc comment"},
		{"// Bounds.\nconst (\n\tA = 1\n\tB = 2\n)", ""},
		{"const A = 1", "A has no doc comment"},
		{"var (\n\tA = 1 // one\n\tB = 2\n)", "B has no doc comment"},
	} {
		if got := strings.Join(docProblems(file(tt.text)), "; "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

// packageRow is a row of the table of packages.
var packageRow = regexp.MustCompile("(?m)^\\| \\[`([^`]+)`\\]\\(([^)]+)\\) \\| .{10,} \\|$")

// TestPackageTable keeps the table of docs/README.md what “go list” says.
func TestPackageTable(t *testing.T) {
	b, err := os.ReadFile("docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range packageRow.FindAllStringSubmatch(string(b), -1) {
		name := m[1]
		if name == "sallyport" {
			name = "."
		}
		if listed[name] {
			t.Errorf("docs/README.md has two rows of %s", m[1])
		}
		listed[name] = true
		if st, err := os.Stat(filepath.Join("docs", m[2])); err != nil {
			t.Errorf("docs/README.md: the row of %s leads nowhere: %v", m[1], err)
		} else if name != "." && st.IsDir() && filepath.Clean(filepath.Join("docs", m[2])) != filepath.FromSlash(name) {
			t.Errorf("docs/README.md: the row of %s leads to %s", m[1], m[2])
		}
	}
	for _, p := range publicPackages(t) {
		if !listed[p.path()] {
			t.Errorf("docs/README.md has no row of the package %s", p.path())
		}
		delete(listed, p.path())
	}
	for name := range listed {
		t.Errorf("docs/README.md has a row of %s, which is no public package", name)
	}
}
