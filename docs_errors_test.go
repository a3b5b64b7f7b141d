package sallyport_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The kinds of code, by the section of docs/errors.md that lists them.
const (
	problemCodes = "Codes of a refusal"
	fieldCodes   = "What is wrong with a member"
	oauthCodes   = "Errors of the token endpoint"
)

// found is what the product's source says: names, by kind, with where they are
// and the statuses beside them.
type found map[string]map[string]*sighting

type sighting struct {
	where    string
	statuses []int
}

func (f found) add(kind, name, where string, status int) {
	if f[kind] == nil {
		f[kind] = map[string]*sighting{}
	}
	s := f[kind][name]
	if s == nil {
		s = &sighting{where: where}
		f[kind][name] = s
	}
	if status != 0 && !slices.Contains(s.statuses, status) {
		s.statuses = append(s.statuses, status)
	}
}

// productFiles parses everything that is built, except examples and tools.
func productFiles(t *testing.T, each func(fset *token.FileSet, path string, f *ast.File)) {
	t.Helper()
	skip := []string{".git", ".cache", "bin", "docs", "examples", "bench", "scripts", "tools", "internal/testkit", "authtest"}
	fset, n := token.NewFileSet(), 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains(skip, path) || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err == nil {
			each(fset, filepath.ToSlash(path), f)
			n++
		}
		return err
	})
	if err != nil || n < 50 {
		t.Fatalf("%d files of the product were read: %v", n, err)
	}
}

// last returns the last name of an expression: Error of &sallyport.Error.
func last(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func literal(e ast.Expr) (string, bool) {
	b, ok := e.(*ast.BasicLit)
	if !ok || b.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(b.Value)
	return s, err == nil
}

// statuses of the names in net/http that refusals use.
var statuses = map[string]int{
	"StatusBadRequest": http.StatusBadRequest, "StatusUnauthorized": http.StatusUnauthorized, "StatusForbidden": http.StatusForbidden,
	"StatusNotFound": http.StatusNotFound, "StatusMethodNotAllowed": http.StatusMethodNotAllowed, "StatusNotAcceptable": http.StatusNotAcceptable,
	"StatusRequestTimeout": http.StatusRequestTimeout, "StatusConflict": http.StatusConflict, "StatusPreconditionFailed": http.StatusPreconditionFailed, "StatusRequestEntityTooLarge": http.StatusRequestEntityTooLarge,
	"StatusUnsupportedMediaType": http.StatusUnsupportedMediaType, "StatusUnprocessableEntity": http.StatusUnprocessableEntity,
	"StatusTooManyRequests": http.StatusTooManyRequests, "StatusInternalServerError": http.StatusInternalServerError, "StatusServiceUnavailable": http.StatusServiceUnavailable,
}

// member returns the value of a keyed member of a composite literal.
func member(lit *ast.CompositeLit, name string) ast.Expr {
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok && last(kv.Key) == name {
			return kv.Value
		}
	}
	return nil
}

// codesOf collects the codes of one file.
func codesOf(fset *token.FileSet, path string, f *ast.File, out found) (problems []string) {
	dir := filepath.ToSlash(filepath.Dir(path))
	kindOf := func(lit *ast.CompositeLit) string {
		switch typ := lit.Type.(type) {
		case nil: // an element of a []Field
			return fieldCodes
		case *ast.Ident:
			if dir == "oauth" { // its own errors; it hands on those of others
				return oauthCodes
			}
			if typ.Name == "Field" {
				return fieldCodes
			}
		case *ast.SelectorExpr:
			if typ.Sel.Name == "Field" {
				return fieldCodes
			}
		}
		return problemCodes
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if n == nil {
			return true
		}
		where := fset.Position(n.Pos()).String()
		switch n := n.(type) {
		case *ast.CompositeLit:
			value := member(n, "Code")
			if value == nil || last(n.Type) == "JSONError" || last(n.Type) == "Problem" {
				return true
			}
			code, ok := literal(value)
			if !ok {
				if last(value) != "Code" && last(value) != "code" {
					problems = append(problems, where+": write the code as a literal, so that it can be found")
				}
				return true
			}
			out.add(kindOf(n), code, where, statuses[last(member(n, "Status"))])
		case *ast.AssignStmt:
			for i, to := range n.Lhs {
				if i >= len(n.Rhs) {
					break
				}
				code, ok := literal(n.Rhs[i])
				sel, isMember := to.(*ast.SelectorExpr)
				switch {
				case ok && isMember && sel.Sel.Name == "Code":
					out.add(problemCodes, code, where, 0)
				case ok && last(to) == "code" && dir == "oauth":
					out.add(oauthCodes, code, where, 0)
				}
			}
		case *ast.CallExpr:
			kind, at := "", 1
			switch name := last(n.Fun); {
			case dir == "authz/policy" && (name == "fault" || name == "faultField" || name == "bad"):
				if last(n.Args[0]) == "code" { // one of them calls another
					return true
				}
				kind, at = fieldCodes, 0
			case dir == "authz/policy" && name == "wrong":
				kind = fieldCodes
			case name == "refuse" && dir == "oauth":
				kind = oauthCodes
			case name == "invalid" && dir == "authz/role":
				kind = fieldCodes
			default:
				return true
			}
			code, ok := literal(n.Args[at])
			if !ok {
				problems = append(problems, where+": write the code as a literal, so that it can be found")
				return true
			}
			status := 0
			if kind == oauthCodes {
				status = statuses[last(n.Args[0])]
			}
			out.add(kind, code, where, status)
		case *ast.ValueSpec:
			for i, name := range n.Names {
				if i >= len(n.Values) {
					break
				}
				if code, ok := literal(n.Values[i]); ok && dir == "guard/body" && strings.HasPrefix(name.Name, "Code") {
					out.add(problemCodes, code, where, http.StatusBadRequest)
				}
				if lit, ok := n.Values[i].(*ast.CompositeLit); ok && dir == "api" && name.Name == "messages" {
					for _, e := range lit.Elts {
						code, ok := literal(e.(*ast.CompositeLit).Elts[1])
						if !ok {
							problems = append(problems, where+": the table has a code that is no literal")
						}
						out.add(fieldCodes, code, fset.Position(e.Pos()).String(), 0)
					}
				}
			}
		}
		return true
	})
	return problems
}

var documentedRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\|([^|\n]*)")

// documented returns the names that the tables under a heading list, with the
// second cell of each.
func documented(text, section string) (map[string]string, error) {
	_, rest, ok := strings.Cut(text, "\n## "+section+"\n")
	if !ok {
		return nil, fmt.Errorf("there is no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	out := map[string]string{}
	for _, m := range documentedRow.FindAllStringSubmatch(rest, -1) {
		if _, twice := out[m[1]]; twice {
			return nil, fmt.Errorf("section %q lists %s twice", section, m[1])
		}
		out[m[1]] = strings.TrimSpace(m[2])
	}
	return out, nil
}

// codeProblems holds the source against the page.
func codeProblems(f found, text string) (problems []string) {
	for _, kind := range []string{problemCodes, fieldCodes, oauthCodes} {
		listed, err := documented(text, kind)
		if err != nil {
			problems = append(problems, "docs/errors.md: "+err.Error())
			continue
		}
		for _, code := range slices.Sorted(maps.Keys(f[kind])) {
			cell, ok := listed[code]
			if !ok {
				problems = append(problems, fmt.Sprintf("docs/errors.md does not list %s under %q (it is in %s)", code, kind, f[kind][code].where))
				continue
			}
			for _, status := range f[kind][code].statuses {
				if !strings.Contains(cell, strconv.Itoa(status)) {
					problems = append(problems, fmt.Sprintf("docs/errors.md says %q of %s, the source %d", cell, code, status))
				}
			}
		}
		for _, code := range slices.Sorted(maps.Keys(listed)) {
			if f[kind][code] == nil {
				problems = append(problems, fmt.Sprintf("docs/errors.md lists %s under %q, which the source does not have", code, kind))
			}
		}
	}
	return problems
}

// Every code that a caller may see has its line in docs/errors.md, with its
// status, and every line its code.
func TestErrorCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	out := found{}
	productFiles(t, func(fset *token.FileSet, path string, f *ast.File) {
		for _, p := range codesOf(fset, path, f, out) {
			t.Error(p)
		}
	})
	for kind, least := range map[string]int{problemCodes: 25, fieldCodes: 15, oauthCodes: 6} {
		if len(out[kind]) < least {
			t.Errorf("only %d codes found for %q: the search misses some", len(out[kind]), kind)
		}
	}
	for _, p := range codeProblems(out, string(doc)) {
		t.Error(p)
	}
}

// Every action of the audit log has its line in docs/audit.md, with the members
// of its detail, and every line its action.
func TestAuditActionsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]string{} // action → where
	details := map[string][]string{}
	constants := map[string]string{} // of package audit
	productFiles(t, func(_ *token.FileSet, path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(path, "audit/") && len(v.Values) == len(v.Names) {
				for i, name := range v.Names {
					if text, ok := literal(v.Values[i]); ok {
						constants[name.Name] = text
					}
				}
			}
			return true
		})
	})
	productFiles(t, func(fset *token.FileSet, path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if last(n.Type) != "Event" {
					return true
				}
				value := member(n, "Action")
				action, ok := literal(value)
				if !ok {
					action, ok = constants[last(value)]
				}
				if !ok {
					return true // handed to a function; its callers are found below
				}
				actions[action] = fset.Position(n.Pos()).String()
				if lit, ok := member(n, "Detail").(*ast.CompositeLit); ok {
					for _, e := range lit.Elts {
						if name, ok := literal(e.(*ast.KeyValueExpr).Key); ok {
							details[action] = append(details[action], name)
						}
					}
				}
			case *ast.CallExpr:
				if path == "account/account.go" && last(n.Fun) == "create" {
					if action, ok := literal(n.Args[len(n.Args)-1]); ok {
						actions[action] = fset.Position(n.Pos()).String()
						details[action] = []string{"roles"}
					}
				}
			}
			return true
		})
	})
	if len(actions) < 15 {
		t.Fatalf("only %d actions found: the search misses some", len(actions))
	}
	listed, err := documented(string(doc), "Actions")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range slices.Sorted(maps.Keys(actions)) {
		if _, ok := listed[a]; !ok {
			t.Errorf("docs/audit.md does not list %s (it is in %s)", a, actions[a])
			continue
		}
		row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(a) + "` .*$").FindString(string(doc))
		for _, name := range details[a] {
			if !strings.Contains(row, "`"+name+"`") {
				t.Errorf("docs/audit.md: the line of %s does not name its detail %q", a, name)
			}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(listed)) {
		if _, ok := actions[a]; !ok {
			t.Errorf("docs/audit.md lists %s, which the source does not have", a)
		}
	}
}

// Every detail string of fastapi-users that the source has stands in its section of
// docs/errors.md, and every line there in the source.
func TestDetailsOfFastAPIUsersAreDocumented(t *testing.T) {
	name := regexp.MustCompile("^[A-Z]+(_[A-Z]+)+$")
	source := map[string]bool{}
	productFiles(t, func(_ *token.FileSet, path string, f *ast.File) {
		if !strings.HasPrefix(path, "compat/fastapiusers/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if b, ok := n.(*ast.BasicLit); ok {
				if text, ok := literal(b); ok && name.MatchString(text) {
					source[text] = true
				}
			}
			return true
		})
	})
	doc, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## Details of fastapi-users\n")
	if !ok {
		t.Fatal("docs/errors.md has no section on the details of fastapi-users")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(section, -1) {
		listed[m[1]] = true
	}
	if len(source) < 9 || !maps.Equal(source, listed) {
		t.Errorf("docs/errors.md lists %v, the source has %v", slices.Sorted(maps.Keys(listed)), slices.Sorted(maps.Keys(source)))
	}
}

func TestCodeProblems(t *testing.T) {
	const page = "# E\n\n## " + problemCodes + "\n\n| `a` | 400 | x |\n\n## " + fieldCodes + "\n\n| `f` | x |\n\n## " + oauthCodes + "\n\n| `o` | 400 | x |\n"
	source := func(more string) string {
		return "package oauth\n\nvar a, f = &sallyport.Error{Status: http.StatusBadRequest, Code: \"a\"}, sallyport.Field{Code: \"f\"}\n" +
			"var o = refuse(http.StatusBadRequest, \"o\", \"\")\n" + more
	}
	tests := []struct{ name, more, page, want string }{
		{"in step", "", page, ""},
		{"a code without a line", "var b = &sallyport.Error{Code: \"b\"}", page, "does not list b"},
		{"an assigned code without a line", "func g() { e.Code = \"c\" }", page, "does not list c"},
		{"a member's code without a line", "var b = sallyport.Field{Code: \"b\"}", page, "does not list b"},
		{"an OAuth code without a line", "var b = refuse(400, \"b\", \"\")", page, "does not list b"},
		{"a line without a code", "", strings.Replace(page, "| `a`", "| `old` | 400 | x |\n| `a`", 1), "lists old"},
		{"another status", "", strings.Replace(page, "| 400", "| 409", 1), "says \"409\" of a, the source 400"},
		{"a section that is missing", "", strings.Replace(page, "\n## "+fieldCodes+"\n\n| `f` | x |\n", "", 1), "no section"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, "oauth/x.go", source(tt.more), parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			out := found{}
			got := append(codesOf(fset, "oauth/x.go", f, out), codeProblems(out, tt.page)...)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("got %q, want none", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("got %q, want one that says %q", got, tt.want)
			}
		})
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "x/x.go", "package x\n\nvar b = &sallyport.Error{Code: build()}", parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := codesOf(fset, "x/x.go", f, found{}); len(got) != 1 {
		t.Errorf("a code that is no literal: got %q, want one problem", got)
	}
}
