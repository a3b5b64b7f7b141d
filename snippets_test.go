package sallyport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/sallyport/sallyport/authz/policy"
)

// block is one fenced block of a page.
type block struct {
	file  string
	line  int    // of the opening fence
	info  string // "go", "json", "sh" …
	note  string // of an HTML comment on the line above the fence: “snippet: body”
	lines []string
}

func (b block) text() string  { return strings.Join(b.lines, "\n") + "\n" }
func (b block) where() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

var comment = regexp.MustCompile(`^<!-- (.*) -->$`)

// blocks takes the fenced blocks out of a page.
func blocks(file, text string) (found []block, err error) {
	var open *block
	fence, before := "", ""
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case open == nil && strings.HasPrefix(trimmed, "```"):
			rest := strings.TrimLeft(trimmed, "`")
			fence = trimmed[:len(trimmed)-len(rest)]
			open = &block{file: file, line: i + 1, info: rest}
			if m := comment.FindStringSubmatch(before); m != nil {
				open.note = m[1]
			}
		case open != nil && trimmed == fence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.lines = append(open.lines, line)
		}
		if trimmed != "" {
			before = trimmed
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block is not closed", open.where())
	}
	return found, nil
}

// pages reads README.md, if it is there, and everything in docs.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d pages in docs: %v", len(files), err)
	}
	out := map[string]string{}
	for _, f := range append(files, "README.md") {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) && f == "README.md" {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		out[f] = string(b)
	}
	return out
}

func allBlocks(t *testing.T) (out []block) {
	t.Helper()
	texts := pages(t)
	for _, f := range slices.Sorted(maps.Keys(texts)) {
		found, err := blocks(f, texts[f])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

// transcripts are the pages whose console blocks cmd/sallyport runs.
var transcripts = []string{"README.md", "docs/quickstart-go.md", "docs/quickstart-any-language.md"}

// TestBlocksOfPages checks what can be checked without a compiler.
func TestBlocksOfPages(t *testing.T) {
	for _, b := range allBlocks(t) {
		switch b.info {
		case "go": // TestGoSnippetsCompile
		case "json":
			if !json.Valid([]byte(b.text())) {
				t.Errorf("%s: the block is not JSON", b.where())
			}
		case "sh":
			cmd := exec.Command("bash", "-n")
			cmd.Stdin = strings.NewReader(b.text())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", b.where(), err, out)
			}
		case "cedar":
			if _, err := policy.Parse(b.text()); err != nil {
				t.Errorf("%s: %v", b.where(), err)
			}
		case "toml": // cmd/sallyport
		case "js": // server: run in a browser
		case "console":
			if !slices.Contains(transcripts, b.file) {
				t.Errorf("%s: console blocks are for pages that a test runs line by line (%s); use sh", b.where(), strings.Join(transcripts, ", "))
			}
		case "", "text", "ini", "python", "http", "sql":
		default:
			t.Errorf("%s: no test knows blocks of %q", b.where(), b.info)
		}
	}
}

// wrappers is what a fragment stands in. It says which one it needs in a
// comment before the block: <!-- snippet: body -->.
var wrappers = map[string][2]string{
	// Declarations of a file.
	"file": {"", ""},
	// Statements of a function in a program that has all of these.
	"body": {
		"func snippet(ctx context.Context, sp *server.Server, mux *sallyport.Mux, handler http.Handler, w http.ResponseWriter, r *http.Request) error {\n",
		"\nreturn nil\n}\n",
	},
}

// snippetImports are the packages that a fragment may name without importing
// them.
var snippetImports = []string{
	"context", "errors", "fmt", "log", "log/slog", "net/http", "net/http/httptest", "os", "path/filepath", "testing", "time",
	modulePath, modulePath + "/account", modulePath + "/api", modulePath + "/audit", modulePath + "/authtest", modulePath + "/authn/password", modulePath + "/authn/remote", modulePath + "/authn/token",
	modulePath + "/authz/role", modulePath + "/guard/body", modulePath + "/guard/cors", modulePath + "/guard/ratelimit", modulePath + "/mail", modulePath + "/server", modulePath + "/store/postgres", modulePath + "/store/redis", modulePath + "/store/sqlite",
}

// program makes a compilable file of a block.
func program(b block) (string, error) {
	text := b.text()
	if strings.Contains(text, modulePath+"/internal") {
		return "", fmt.Errorf("%s: nobody outside of this module can import its internal packages", b.where())
	}
	if _, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(text, "package ") {
		return "package snippet\n" + rest, nil // compiled and not linked
	}
	name, ok := strings.CutPrefix(b.note, "snippet: ")
	w, known := wrappers[name]
	if !ok || !known {
		return "", fmt.Errorf("%s: a Go block is a complete file, is quoted (<!-- from: FILE [NAME] -->), or says what it stands in (<!-- snippet: %s -->)",
			b.where(), strings.Join(slices.Sorted(maps.Keys(wrappers)), " or "))
	}
	body := w[0] + text + w[1]
	var imports strings.Builder
	for _, path := range snippetImports {
		pkg := path[strings.LastIndexByte(path, '/')+1:]
		if regexp.MustCompile(`\b` + pkg + `\.[A-Z]`).MatchString(body) {
			fmt.Fprintf(&imports, "import %q\n", path)
		}
	}
	return "package snippet\n\n" + imports.String() + body, nil
}

// TestGoSnippetsCompile holds every Go block against the compiler, or against
// the file that it is quoted from.
func TestGoSnippetsCompile(t *testing.T) {
	programs, where, quoted := map[string]string{}, map[string]string{}, 0
	for i, b := range allBlocks(t) {
		if b.info != "go" {
			continue
		}
		if source, ok := strings.CutPrefix(b.note, "from: "); ok {
			quoted++
			if err := sameAs(source, b.text()); err != nil {
				t.Errorf("%s: %v", b.where(), err)
			}
			continue
		}
		text, err := program(b)
		if err != nil {
			t.Error(err)
			continue
		}
		name := fmt.Sprintf("snippet%d", i)
		programs[name], where[name] = text, b.where()
	}
	if quoted == 0 || len(programs) < 5 {
		t.Errorf("%d blocks are quoted and %d compiled: the search misses some", quoted, len(programs))
	}
	if out, err := compile(t, programs); err != nil {
		t.Errorf("%v\n%s\nwhere the packages stand: %v", err, out, where)
	}
	broken := map[string]string{"broken": "package snippet\n\nimport _ \"" + modulePath + "\"\n\nvar x int = true\n"}
	if out, err := compile(t, broken); err == nil || !strings.Contains(out, "cannot use true") {
		t.Errorf("a program that is wrong was accepted: %v %s", err, out)
	}
}

// compile compiles programs as packages of this module and links nothing. They
// stand in an overlay: the go command sees them, and nothing is written into the
// tree.
func compile(t *testing.T, programs map[string]string) (string, error) {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir, overlay := t.TempDir(), map[string]string{}
	args := []string{"build", "-overlay=" + filepath.Join(dir, "overlay.json")}
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		overlay[filepath.Join(root, "examples", name, "snippet.go")] = write(name+".go", []byte(programs[name]))
		args = append(args, "./examples/"+name)
	}
	b, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	write("overlay.json", b)
	out, err := exec.Command("go", args...).CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// sameAs compares a block with a file, or with one declaration of it: “FILE
// NAME”.
func sameAs(source, text string) error {
	file, name, part := strings.Cut(source, " ")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if part {
		if b, err = declaration(file, b, name); err != nil {
			return err
		}
	}
	if strings.TrimSpace(string(b)) != strings.TrimSpace(text) {
		return fmt.Errorf("the block differs from %s. Copy it again", source)
	}
	return nil
}

// declaration returns a top-level function or type with its comment.
func declaration(file string, src []byte, name string) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, d := range f.Decls {
		from := d.Pos()
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.Name != name {
				continue
			}
			if d.Doc != nil {
				from = d.Doc.Pos()
			}
		case *ast.GenDecl:
			ts, ok := d.Specs[0].(*ast.TypeSpec)
			if !ok || ts.Name.Name != name {
				continue
			}
			if d.Doc != nil {
				from = d.Doc.Pos()
			}
		default:
			continue
		}
		return src[fset.Position(from).Offset:fset.Position(d.End()).Offset], nil
	}
	return nil, fmt.Errorf("%s has no declaration %s", file, name)
}

// TestGoSnippetsAreFormatted keeps the blocks as gofmt would write them.
func TestGoSnippetsAreFormatted(t *testing.T) {
	for _, b := range allBlocks(t) {
		if b.info != "go" {
			continue
		}
		got, err := format.Source([]byte(b.text()))
		if err != nil {
			t.Errorf("%s: %v", b.where(), err)
		} else if string(got) != b.text() {
			t.Errorf("%s: gofmt would write\n%s", b.where(), got)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	fences  = regexp.MustCompile("(?ms)^```.*?^```")
	codes   = regexp.MustCompile("`[^`\n]*`")
)

// anchor is how the address of a heading is made of its text.
func anchor(text string) string {
	text = strings.ToLower(strings.ReplaceAll(text, "`", ""))
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return r
		}
		return -1
	}, text)
}

// linkProblems returns what is wrong with the links of a page.
func linkProblems(file, text string, read func(string) (string, error)) (problems []string) {
	text = codes.ReplaceAllString(fences.ReplaceAllString(text, ""), "")
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		target := m[1]
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		path, fragment, _ := strings.Cut(target, "#")
		to := file
		if path != "" {
			to = filepath.Join(filepath.Dir(file), path)
		}
		there, err := read(to)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: the link %s leads nowhere: %v", file, target, err))
			continue
		}
		if fragment == "" {
			continue
		}
		known := heading.FindAllStringSubmatch(fences.ReplaceAllString(there, ""), -1)
		if !slices.ContainsFunc(known, func(h []string) bool { return anchor(h[1]) == fragment }) {
			problems = append(problems, fmt.Sprintf("%s: the link %s names no heading of %s", file, target, to))
		}
	}
	return problems
}

func TestLinksBetweenPages(t *testing.T) {
	read := func(path string) (string, error) {
		st, err := os.Stat(path)
		if err != nil || st.IsDir() {
			return "", err
		}
		b, err := os.ReadFile(path)
		return string(b), err
	}
	texts := pages(t)
	for _, f := range slices.Sorted(maps.Keys(texts)) {
		for _, p := range linkProblems(f, texts[f], read) {
			t.Error(p)
		}
		// Every page can be found from the index.
		if base := filepath.Base(f); strings.HasPrefix(f, "docs/") && base != "README.md" && !strings.Contains(texts["docs/README.md"], "("+base+")") {
			t.Errorf("docs/README.md does not list %s", base)
		}
	}
}

func TestLinkProblems(t *testing.T) {
	read := func(path string) (string, error) {
		if path == "docs/b.md" {
			return "# B\n\n## The `one` heading: here\n", nil
		}
		return "", fs.ErrNotExist
	}
	tests := []struct{ text, want string }{
		{"see [b](b.md)", ""},
		{"see [b](b.md#the-one-heading-here)", ""},
		{"see [b](https://example.org/nowhere)", ""},
		{"see `[b](c.md)`", ""},
		{"see [c](c.md)", "leads nowhere"},
		{"see [b](b.md#another)", "names no heading"},
	}
	for _, tt := range tests {
		got := linkProblems("docs/a.md", tt.text, read)
		if (tt.want == "") != (len(got) == 0) || len(got) > 0 && !strings.Contains(got[0], tt.want) {
			t.Errorf("%s: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestProgramOfABlock(t *testing.T) {
	tests := []struct {
		name, text, note, want string // want: part of the program, or of the error after "!"
	}{
		{"complete", "package main\n\nfunc main() {}", "", "func main() {}"},
		{"statements", "fmt.Println(ctx)", "snippet: body", "import \"fmt\""},
		{"declarations", "var rule = sallyport.Public()", "snippet: file", "import \"" + modulePath + "\""},
		{"without a word", "fmt.Println()", "", "!says what it stands in"},
		{"in something unknown", "fmt.Println()", "snippet: thing", "!says what it stands in"},
		{"with what others cannot import", "package main\n\nimport _ \"" + modulePath + "/internal/db\"", "", "!internal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := program(block{file: "a.md", line: 1, note: tt.note, lines: strings.Split(tt.text, "\n")})
			if want, refused := strings.CutPrefix(tt.want, "!"); refused {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			} else if err != nil || !strings.Contains(got, want) {
				t.Errorf("got %q, %v; want %q in it", got, err, want)
			}
		})
	}
}

func TestBlocks(t *testing.T) {
	got, err := blocks("a.md", "text\n\n<!-- snippet: body -->\n```go\na()\n```\n\n```\nplain\n```\n")
	if err != nil || len(got) != 2 || got[0].info != "go" || got[0].note != "snippet: body" || got[0].text() != "a()\n" || got[0].line != 4 || got[1].note != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := blocks("a.md", "```go\n"); err == nil {
		t.Error("a block that is not closed was accepted")
	}
}

var (
	namedTest    = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	declaredTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// The tests that docs/security.md leans on exist.
func TestNamedTestsExist(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range declaredTest.FindAllSubmatch(b, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := namedTest.FindAllStringSubmatch(string(b), -1)
	if len(named) < 20 {
		t.Errorf("docs/security.md names only %d tests: the search misses some", len(named))
	}
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("docs/security.md names %s, which does not exist", m[1])
		}
	}
}
