// Package sqlite opens a SQLite file as Sallyport's database.
//
// It decides the durability: write-ahead log with synchronous=FULL, so that
// what was acknowledged survives kill -9 and power loss. Other processes (the
// command line, the sqlite3 tool) may use the file at the same time, unless one
// has taken it offline to replace or move it. It never creates a folder and
// never opens a file that is not a SQLite database.
//
// Begin with Open, for server.Config.DB. Offline and Copy are for those who move
// databases and back them up.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/sallyport/sallyport/internal/db"
)

// busyTimeout is how long a statement waits for another process that writes.
const busyTimeout = 5 * time.Second

// Open opens the file, creating it (mode 0600) if its folder exists and it does
// not. The schema is brought up to date by server.New. Errors are
// *db.OpenError and leave everything as it was.
func Open(path string) (*db.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &db.OpenError{What: path, Why: err.Error(), Fix: "Give a path that can be resolved.", Err: err}
	}
	if err := check(abs); err != nil {
		return nil, err
	}
	use, err := lockFile(abs, shared)
	if err != nil {
		return nil, openError(path, err)
	}
	d, err := openHeld(abs, path, use)
	if err != nil {
		return nil, errors.Join(err, use.release())
	}
	return d, nil
}

// openHeld opens under a lock, which ends with the handle.
func openHeld(abs, path string, use *fileLock) (*db.DB, error) {
	fresh, err := create(abs)
	if err != nil {
		return nil, err
	}
	d, err := open(abs, path, use.release)
	if err != nil {
		if fresh {
			os.Remove(abs)
		}
		return nil, openError(path, err)
	}
	return d, nil
}

// Exists reports whether there is a file to open.
func Exists(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() > 0
}

// check says what can be said without the driver, whose messages are terse. A
// file that is not there is well: it can be made.
func check(path string) error {
	dir := filepath.Dir(path)
	switch st, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return &db.OpenError{What: path, Why: "the folder " + dir + " does not exist", Fix: "Create it (mkdir -p " + dir + "), or give another path.", Err: err}
	case err != nil:
		return openError(path, err)
	case !st.IsDir():
		return &db.OpenError{What: path, Why: dir + " is not a folder", Fix: "Give a path inside a folder."}
	}
	switch st, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return openError(path, err)
	case st.IsDir():
		return &db.OpenError{What: path, Why: "it is a folder", Fix: "Give the path of a file in it, for example " + filepath.Join(path, "sallyport.db") + "."}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return openError(path, err)
	}
	defer f.Close()
	head := make([]byte, 16)
	if n, err := f.Read(head); n > 0 && (err != nil || n < 16 || string(head) != "SQLite format 3\x00") {
		return &db.OpenError{What: path, Why: "it is not a SQLite database", Fix: "Give another path, or restore the file from a backup."}
	}
	return nil
}

// create makes the file, if it is not there, with a mode that keeps others out.
func create(path string) (fresh bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, openError(path, err)
	}
	if err := f.Close(); err != nil {
		return true, openError(path, err)
	}
	return true, nil
}

func open(path, shown string, release func() error) (*db.DB, error) {
	writers, err := sql.Open("sqlite", dsn(path, "_txlock=immediate"))
	if err != nil {
		return nil, err
	}
	conn, err := writers.Conn(context.Background())
	if err != nil {
		return nil, errors.Join(err, writers.Close())
	}
	readers, err := sql.Open("sqlite", dsn(path, "_pragma=query_only(1)"))
	if err != nil {
		return nil, errors.Join(err, conn.Close(), writers.Close())
	}
	n := max(4, 2*runtime.GOMAXPROCS(0))
	readers.SetMaxOpenConns(n)
	readers.SetMaxIdleConns(n)
	closeAll := func() error { return errors.Join(readers.Close(), conn.Close(), writers.Close()) }
	closeAndRelease := func() error { return errors.Join(closeAll(), release()) }
	var mode string
	if err := conn.QueryRowContext(context.Background(), "PRAGMA journal_mode").Scan(&mode); err != nil {
		return nil, errors.Join(err, closeAll())
	}
	if mode != "wal" {
		return nil, errors.Join(fmt.Errorf("the file system does not allow SQLite's write-ahead log (journal mode is %q)", mode), closeAll())
	}
	return db.NewGrouped(shown, filepath.Dir(path), conn, readers, closeAndRelease,
		db.Migrations{Pool: writers, Locker: &migrationLock{path: path}}), nil
}

func dsn(path, extra string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	u.RawQuery = fmt.Sprintf("_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&%s",
		busyTimeout.Milliseconds(), extra)
	return u.String()
}

func openError(path string, err error) error {
	if e, ok := errors.AsType[*db.OpenError](err); ok {
		return e
	}
	fix := "Check the file, its folder and the free space, then start again."
	if errors.Is(err, fs.ErrPermission) {
		fix = "Let the user that runs this program read and write the file and its folder (chown, chmod), or give another path."
	}
	return &db.OpenError{What: path, Why: err.Error(), Fix: fix, Err: err}
}

// migrationLock keeps two processes from migrating the same file at once. It is
// an exclusive transaction on an empty SQLite file beside it: SQLite's own
// locks work on every platform and end with the process.
type migrationLock struct {
	path string
	db   *sql.DB
	conn *sql.Conn
}

func (l *migrationLock) file() string { return l.path + "-migrate" }

// SessionLock implements goose's lock.SessionLocker.
func (l *migrationLock) SessionLock(ctx context.Context, _ *sql.Conn) error {
	f, err := os.OpenFile(l.file(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), ownLike(l.file(), filepath.Dir(l.file()))); err != nil {
		return err
	}
	pool, err := sql.Open("sqlite", "file:"+(&url.URL{Path: l.file()}).EscapedPath()+"?_pragma=busy_timeout(60000)")
	if err != nil {
		return err
	}
	conn, err := pool.Conn(ctx)
	if err != nil {
		return errors.Join(err, pool.Close())
	}
	if _, err := conn.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		return errors.Join(fmt.Errorf("another process is migrating this database: %w", err), conn.Close(), pool.Close())
	}
	l.db, l.conn = pool, conn
	return nil
}

// SessionUnlock implements goose's lock.SessionLocker. The lock file stays: to
// remove it would let a third process lock a new file of the same name while a
// second holds the old one.
func (l *migrationLock) SessionUnlock(ctx context.Context, _ *sql.Conn) error {
	_, err := l.conn.ExecContext(ctx, "ROLLBACK")
	return errors.Join(err, l.conn.Close(), l.db.Close())
}
