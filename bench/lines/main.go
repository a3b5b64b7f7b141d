// Command lines counts the lines that a user writes to sign people in and to protect
// three routes, with a role, a scope and a permission: with Sallyport, in the way of
// FastAPI's tutorial, and with echo-jwt and casbin. The programs are in the folders
// beside it, whole, and do the same; its test runs them.
//
//	go run ./bench/lines
//
// Blank lines, comments and imports do not count.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"log"
	"os"
	"path/filepath"
	"strings"
)

// programs are what is compared, and which files a user writes for each.
var programs = []struct {
	name  string
	files []string
}{
	{"Sallyport", []string{"sallyport/main.go"}},
	{"FastAPI, as its tutorial", []string{"fastapi/app.py"}},
	{"echo, echo-jwt, casbin", []string{"echo/main.go", "echo/model.conf", "echo/policy.csv"}},
}

func main() {
	log.SetFlags(0)
	out, err := table("bench/lines")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out)
}

// table is the rows of the table in docs/performance.md.
func table(folder string) (string, error) {
	var out strings.Builder
	for _, p := range programs {
		n, err := total(folder, p.files)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "| %s | %d |\n", p.name, n)
	}
	return out.String(), nil
}

func total(folder string, files []string) (sum int, err error) {
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(folder, f))
		if err != nil {
			return 0, err
		}
		n, err := count(f, text)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// count returns how many lines of a file count.
func count(name string, text []byte) (int, error) {
	switch filepath.Ext(name) {
	case ".go":
		return countGo(name, text)
	case ".py":
		return countPython(string(text)), nil
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n, nil
}

// countGo counts the lines on which some token stands that is not of an import.
func countGo(name string, text []byte) (int, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, 0)
	if err != nil {
		return 0, err
	}
	counts := map[int]bool{}
	var s scanner.Scanner
	file := fset.AddFile(name, fset.Base(), len(text))
	s.Init(file, text, nil, 0)
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			break
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue // nobody wrote it
		}
		at := file.Line(pos)
		for i := range strings.Count(lit, "\n") + 1 { // a text of several lines
			counts[at+i] = true
		}
	}
	for _, d := range f.Decls {
		if d, ok := d.(*ast.GenDecl); ok && d.Tok == token.IMPORT {
			for at := fset.Position(d.Pos()).Line; at <= fset.Position(d.End()).Line; at++ {
				delete(counts, at)
			}
		}
	}
	return len(counts), nil
}

// countPython counts lines that are no import, no comment and not within a text in
// three quotes, which is a comment as these programs have them.
func countPython(text string) (n int) {
	quoted := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		quotes := strings.Count(line, `"""`)
		switch {
		case quoted || quotes > 0:
			quoted = quoted != (quotes%2 == 1)
		case line == "", strings.HasPrefix(line, "#"), strings.HasPrefix(line, "import "), strings.HasPrefix(line, "from "):
		default:
			n++
		}
	}
	return n
}
