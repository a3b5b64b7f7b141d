package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an error says of a file, or of the command line, moves no cursor.
func TestErrorsMoveNoCursor(t *testing.T) {
	p := filepath.Join(t.TempDir(), "users\x1b[2J.ndjson")
	if err := os.WriteFile(p, []byte("PK\x03\x04"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"import", "ndjson", p, "--report", p},
		{"import", "ndjson", p, "--data", p},
		{"import", "users\x1b[2J"},
	} {
		var stdout, stderr bytes.Buffer
		if err := run(t.Context(), args, nil, strings.NewReader(""), &stdout, &stderr); err == nil {
			t.Errorf("%q succeeded", args)
		}
		if text := stderr.String(); text == "" || strings.Contains(text, "\x1b") {
			t.Errorf("%q: %q", args, text)
		}
	}
}
