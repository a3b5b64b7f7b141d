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
	"time"

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
	// Busy tells that a step gave up waiting for a table that others use; it is tried
	// again. nil: nothing does.
	Busy func(error) bool
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
	// Oldest is the oldest version whose programs work with the database as it is:
	// Current, unless every step from there on has said so (sp_compatible).
	Oldest int64
}

// TooNew reports whether the database needs a later program.
func (s Schema) TooNew() bool { return s.Oldest > s.Latest }

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
	v := d.View(ctx)
	if _, err := v.Row("SELECT COALESCE(MAX(version_id), 0) FROM sp_migrations WHERE is_applied", nil, &s.Current); err != nil {
		return s, err
	}
	if s.Oldest = s.Current; s.Current <= s.Latest { // also where there is no sp_compatible yet
		return s, nil
	}
	_, err = v.Row(`SELECT MAX(COALESCE(c.oldest, m.version_id)) FROM sp_migrations m LEFT JOIN sp_compatible c ON c.version = m.version_id
		WHERE m.is_applied AND m.version_id > $1`, []any{s.Latest}, &s.Oldest)
	return s, err
}

// Newer returns what to say of a database whose schema is TooNew.
func (s Schema) Newer(name string) error {
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
// so that a crash leaves the step before it. A schema newer than this program is
// not touched, and refused unless it works with this program.
func (d *DB) Migrate(ctx context.Context) (created bool, err error) {
	s, err := d.Schema(ctx)
	if err != nil {
		return false, err
	}
	if s.TooNew() {
		return false, s.Newer(d.name)
	}
	if s.Current >= s.Latest {
		return false, nil
	}
	p, err := d.provider()
	if err != nil {
		return false, err
	}
	for began := time.Now(); ; {
		_, err := p.Up(ctx)
		if err == nil {
			return s.Current == 0, nil
		}
		if d.migrate.Busy == nil || !d.migrate.Busy(err) || time.Since(began) > busyPatience || !sleep(ctx, busyPause) {
			return false, fmt.Errorf("%s: the schema could not be brought up to date: %w. The step that failed was undone; mend the cause and start again", d.name, err)
		}
	}
}

// A step that does not get its table is tried again after a pause, in which those
// who queued behind it get on.
const (
	busyPause    = time.Second
	busyPatience = 5 * time.Minute
)

// sleep reports whether ctx has let it.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
