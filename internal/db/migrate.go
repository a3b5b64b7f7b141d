package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations
var migrationFiles embed.FS

// migrationsFor are the files of migrations/ and those of the folder that is
// for one database only.
type migrationsFor Dialect

// Open implements fs.FS.
func (d migrationsFor) Open(name string) (fs.File, error) {
	f, err := migrationFiles.Open("migrations/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return migrationFiles.Open("migrations/" + string(d) + "/" + name)
	}
	return f, err
}

// ReadDir implements fs.ReadDirFS.
func (d migrationsFor) ReadDir(name string) ([]fs.DirEntry, error) {
	both, err := migrationFiles.ReadDir("migrations")
	if err != nil || name != "." {
		return nil, errors.Join(fs.ErrNotExist, err)
	}
	own, err := migrationFiles.ReadDir("migrations/" + string(d))
	if err != nil {
		return nil, err
	}
	files := slices.DeleteFunc(append(both, own...), fs.DirEntry.IsDir)
	slices.SortFunc(files, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return files, nil
}

const migrationTable = "sp_migrations"

// Migrations is what a store gives so that the schema can be brought up to
// date: a pool that may change it, and a lock that keeps other processes out
// meanwhile.
type Migrations struct {
	Pool   *sql.DB
	Locker lock.SessionLocker
}

type migrator struct{ Migrations }

func (d *DB) provider() (*goose.Provider, error) {
	dialect := goose.DialectPostgres
	if d.dialect == SQLite {
		dialect = goose.DialectSQLite3
	}
	return goose.NewProvider(dialect, d.migrate.Pool, migrationsFor(d.dialect),
		goose.WithTableName(migrationTable),
		goose.WithSessionLocker(d.migrate.Locker),
		goose.WithDisableGlobalRegistry(true))
}

// Schema is a database's schema version beside this program's.
type Schema struct {
	Current int64 // 0: empty
	Latest  int64
}

// Schema reads the version without changing anything.
func (d *DB) Schema(ctx context.Context) (Schema, error) {
	p, err := d.provider()
	if err != nil {
		return Schema{}, err
	}
	sources := p.ListSources()
	s := Schema{Latest: sources[len(sources)-1].Version}
	exists, err := d.hasMigrationTable(ctx)
	if err != nil || !exists {
		return s, err
	}
	if _, err := d.View(ctx).Row("SELECT COALESCE(MAX(version_id), 0) FROM sp_migrations WHERE is_applied", nil, &s.Current); err != nil {
		return s, err
	}
	return s, nil
}

func newer(name string, s Schema) error {
	return &OpenError{
		What: name,
		Why:  fmt.Sprintf("its schema (version %d) is newer than this program knows (version %d)", s.Current, s.Latest),
		Fix:  "Run the release that wrote it, or a later one; nothing was changed.",
	}
}

func (d *DB) hasMigrationTable(ctx context.Context) (bool, error) {
	var n int
	if d.dialect == SQLite {
		return d.View(ctx).Row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'sp_migrations'", nil, &n)
	}
	return d.View(ctx).Row("SELECT 1 WHERE to_regclass('sp_migrations') IS NOT NULL", nil, &n)
}

// Migrate brings the schema up to date and reports whether the database was
// empty before. Only one process does it at a time; each step is a transaction,
// so that a crash leaves the step before it. A schema newer than this program
// is refused and not touched.
func (d *DB) Migrate(ctx context.Context) (created bool, err error) {
	s, err := d.Schema(ctx)
	if err != nil {
		return false, err
	}
	if s.Current > s.Latest {
		return false, newer(d.name, s)
	}
	if s.Current == s.Latest {
		return false, nil
	}
	p, err := d.provider()
	if err != nil {
		return false, err
	}
	if _, err := p.Up(ctx); err != nil {
		return false, fmt.Errorf("%s: the schema could not be brought up to date: %w. The step that failed was undone; mend the cause and start again", d.name, err)
	}
	return s.Current == 0, nil
}
