package db

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestCompatibleMigrations holds the rules of docs/database.md for a migration that
// says programs of an older schema go on working.
func TestCompatibleMigrations(t *testing.T) {
	for _, d := range []Dialect{SQLite, Postgres} {
		files, err := fs.ReadDir(migrationsFor(d), ".")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := fs.ReadFile(migrationsFor(d), f.Name())
			if err == nil {
				err = additive(f.Name(), string(b))
			}
			if err != nil {
				t.Errorf("%s: %v", f.Name(), err)
			}
		}
	}
	says := "INSERT INTO sp_compatible (version, oldest) VALUES (30, 21);\n"
	for _, good := range []string{
		"ALTER TABLE sp_sessions DROP COLUMN amr;", // says nothing: it is of its release alone
		says + "CREATE TABLE sp_x (id TEXT PRIMARY KEY, s TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE); CREATE UNIQUE INDEX sp_x_by_s ON sp_x (s);\nINSERT INTO sp_x (id, s) VALUES ('a', 'b');",
		says + "ALTER TABLE sp_sessions ADD COLUMN x TEXT NOT NULL DEFAULT 'a; b'; -- why; and how\nALTER TABLE sp_sessions ADD COLUMN y BIGINT;\nCREATE INDEX sp_sessions_by_x ON sp_sessions (x);",
	} {
		if err := additive("0030_x.sql", "-- +goose Up\n"+good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"ALTER TABLE sp_sessions DROP COLUMN amr;",
		"ALTER TABLE sp_sessions RENAME COLUMN amr TO x;",
		"ALTER TABLE sp_sessions ADD COLUMN x TEXT NOT NULL;",
		"ALTER TABLE sp_sessions ADD COLUMN x TEXT UNIQUE;",
		"ALTER TABLE sp_sessions ADD COLUMN x TEXT CHECK (x <> '');",
		"ALTER TABLE sp_sessions ADD COLUMN x TEXT DEFAULT 'a', DROP COLUMN amr;",
		"CREATE UNIQUE INDEX sp_sessions_x ON sp_sessions (amr);",
		"CREATE TABLE sp_x (id TEXT PRIMARY KEY, s TEXT REFERENCES sp_subjects (id));",
		"UPDATE sp_sessions SET amr = '';",
		"DELETE FROM sp_sessions;",
		"INSERT INTO sp_roles (name, description, builtin) VALUES ('x', 'x', TRUE);",
		"INSERT INTO sp_compatible (version, oldest) VALUES (31, 21);",
	} {
		if err := additive("0030_x.sql", says+bad); err == nil {
			t.Errorf("it may stand there: %s", bad)
		}
	}
	for _, claim := range []string{"(31, 21)", "(30, 30)", "(30, 20)"} { // another step's, none, and before there was sp_compatible
		if err := additive("0030_x.sql", "INSERT INTO sp_compatible (version, oldest) VALUES "+claim+";"); err == nil {
			t.Errorf("it may say %s", claim)
		}
	}
}

var (
	comments = regexp.MustCompile(`--[^\n]*`)
	strs     = regexp.MustCompile(`'[^']*'`)
	spaces   = regexp.MustCompile(`\s+`)

	claims     = regexp.MustCompile(`^INSERT INTO sp_compatible \(version, oldest\) VALUES \((\d+), (\d+)\)$`)
	newTable   = regexp.MustCompile(`^CREATE TABLE (sp_\w+) \(`)
	newIndex   = regexp.MustCompile(`^CREATE (UNIQUE )?INDEX \w+ ON (sp_\w+) \(`)
	newColumn  = regexp.MustCompile(`^ALTER TABLE sp_\w+ ADD COLUMN \w+ (TEXT|BIGINT|BOOLEAN|BYTEA)( NOT NULL DEFAULT \S+| DEFAULT \S+)?$`)
	newRows    = regexp.MustCompile(`^INSERT INTO (sp_\w+) `)
	references = regexp.MustCompile(`REFERENCES \w+ \([^)]*\)( ON DELETE (CASCADE|SET NULL))?`)
)

// additive returns why a migration may not say what it says.
func additive(name, text string) error {
	if !strings.Contains(text, "INSERT INTO sp_compatible") {
		return nil
	}
	number, _, _ := strings.Cut(name, "_")
	version, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	text = strs.ReplaceAllString(comments.ReplaceAllString(text, ""), "''")
	made, claimed := map[string]bool{}, false
	for statement := range strings.SplitSeq(text, ";") {
		statement = strings.TrimSpace(spaces.ReplaceAllString(statement, " "))
		for _, r := range references.FindAllStringSubmatch(statement, -1) {
			if r[1] == "" {
				return errors.New("a row of the new table would keep an older program from deleting what it refers to: ON DELETE CASCADE or SET NULL")
			}
		}
		if m := claims.FindStringSubmatch(statement); m != nil {
			v, _ := strconv.Atoi(m[1])
			if oldest, _ := strconv.Atoi(m[2]); v != version || oldest >= version || oldest < 21 || claimed {
				return fmt.Errorf("it is step %d, and says (%s, %s)", version, m[1], m[2])
			}
			claimed = true
			continue
		}
		if m := newTable.FindStringSubmatch(statement); m != nil {
			made[m[1]] = true
			continue
		}
		if m := newIndex.FindStringSubmatch(statement); m != nil && (m[1] == "" || made[m[2]]) {
			continue
		}
		if m := newRows.FindStringSubmatch(statement); m != nil && made[m[1]] {
			continue
		}
		if statement != "" && !newColumn.MatchString(statement) {
			return fmt.Errorf("%q is nothing that an older program does not notice", statement)
		}
	}
	return nil
}
