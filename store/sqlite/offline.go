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
	"time"

	driver "modernc.org/sqlite"

	"github.com/sallyport/sallyport/internal/db"
)

// Whoever opens a database holds a lock on a file beside it, shared with
// everybody else who does, and whoever replaces the database holds it alone. It
// is not the database's own lock, because that one goes away with the file: a
// process that waited for it would write into the write-ahead log of the file
// that took its place.
type fileLock struct {
	pool *sql.DB
	conn *sql.Conn
}

type lockKind string

const (
	shared    lockKind = "BEGIN; SELECT COUNT(*) FROM sqlite_schema"
	exclusive lockKind = "BEGIN EXCLUSIVE"
)

// lockFile takes the lock. It is a transaction on an empty SQLite file, as that
// of migrations is: see migrationLock.
func lockFile(path string, kind lockKind) (*fileLock, error) {
	file := path + "-lock"
	// Not opened if it is there: to close a file ends the locks that the same
	// process holds on it (POSIX, fcntl).
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), ownLike(file, filepath.Dir(file)))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	wait := busyTimeout
	if kind == exclusive {
		wait = time.Second // for a command that is about to end
	}
	u := url.URL{Path: file}
	pool, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)", u.EscapedPath(), wait.Milliseconds()))
	if err != nil {
		return nil, err
	}
	conn, err := pool.Conn(context.Background())
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	l := &fileLock{pool, conn}
	if _, err := conn.ExecContext(context.Background(), string(kind)); err != nil {
		err = errors.Join(err, l.release())
		if kind == exclusive {
			return nil, inUse(path, err)
		}
		return nil, &db.OpenError{
			What: path, Why: "another process is replacing or moving this database", Unreachable: true, Err: err,
			Fix: "Wait until it is done, then start again.",
		}
	}
	return l, nil
}

func (l *fileLock) release() error { return errors.Join(l.conn.Close(), l.pool.Close()) }

func inUse(path string, err error) error {
	return &db.OpenError{
		What: path, Why: "another process has it open", Err: err,
		Fix: "Stop the server, and every other program that uses the database, and begin again. Nothing was changed.",
	}
}

// Offline is a database file that no other process has open or can open.
type Offline struct {
	path, shown string
	lock        *fileLock
}

// TakeOffline keeps every other process from a database file, which need not be
// there, until Close. While one has it open, that is refused with a
// *db.OpenError: another program of ours holds the lock beside the file, and any
// other, as the sqlite3 tool, a lock of SQLite's.
func TakeOffline(path string) (*Offline, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if st, err := os.Stat(filepath.Dir(abs)); err != nil || !st.IsDir() {
		return nil, check(abs)
	}
	lock, err := lockFile(abs, exclusive)
	if err != nil {
		return nil, openError(path, err)
	}
	o := &Offline{abs, path, lock}
	if err := o.settleLog(); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	return o, nil
}

// settleLog moves what is in the write-ahead log into the file, which nobody can
// who is not alone with it. A file that is damaged may be replaced all the same.
func (o *Offline) settleLog() error {
	if !Exists(o.path) {
		return nil
	}
	pool, err := sql.Open("sqlite", "file:"+(&url.URL{Path: o.path}).EscapedPath()+"?_pragma=synchronous(FULL)")
	if err != nil {
		return err
	}
	defer pool.Close()
	var mode string
	err = pool.QueryRow("PRAGMA journal_mode=DELETE").Scan(&mode)
	if e, ok := errors.AsType[*driver.Error](err); ok && e.Code()&0xff == sqliteBusy {
		return inUse(o.shown, err)
	}
	return nil
}

const sqliteBusy = 5 // SQLITE_BUSY

// Open opens the database, which must be there, for this process alone. The
// handle is closed before Close.
func (o *Offline) Open() (*db.DB, error) {
	if !Exists(o.path) {
		return nil, &db.OpenError{What: o.shown, Why: "there is no database there", Fix: "Give another path."}
	}
	return o.Create()
}

// Create does the same, and makes the database if it is not there.
func (o *Offline) Create() (*db.DB, error) {
	if err := check(o.path); err != nil {
		return nil, err
	}
	fresh, err := create(o.path)
	if err != nil {
		return nil, err
	}
	d, err := open(o.path, o.shown, func() error { return nil })
	if err != nil {
		if fresh {
			os.Remove(o.path)
		}
		return nil, openError(o.shown, err)
	}
	return d, nil
}

// Replace puts another database, which is closed, in the place of this one, and
// returns where this one is kept; "" if there was none. At every moment there is
// one of the two, so that no server that starts after a crash makes a new one.
func (o *Offline) Replace(with string, now time.Time) (kept string, err error) {
	if err := syncPath(with); err != nil {
		return "", err
	}
	like := filepath.Dir(o.path)
	if _, err := os.Stat(o.path); err == nil {
		like = o.path
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := ownLike(with, like); err != nil {
		return "", err
	}
	if like == o.path {
		if kept, err = o.keep(now); err != nil {
			return "", err
		}
	}
	if err := os.Rename(with, o.path); err != nil {
		return "", errors.Join(err, o.moveLog(kept, o.path))
	}
	return kept, syncPath(filepath.Dir(o.path))
}

// keep gives the database another name beside the one it has. A log that could
// not be moved into the file goes along: it must not be found beside another.
func (o *Offline) keep(now time.Time) (kept string, err error) {
	stem := o.path + ".replaced-" + now.UTC().Format("20060102T150405Z")
	kept = stem
	for n := 2; ; n++ {
		if err = os.Link(o.path, kept); !errors.Is(err, fs.ErrExist) {
			break
		}
		kept = fmt.Sprintf("%s-%d", stem, n)
	}
	if err != nil {
		return "", err
	}
	return kept, o.moveLog(o.path, kept)
}

func (o *Offline) moveLog(from, to string) error {
	for _, end := range []string{"-wal", "-shm"} {
		if err := os.Rename(from+end, to+end); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close lets others open the database again.
func (o *Offline) Close() error { return o.lock.release() }

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Copy writes a copy of the database in path, as it is at one moment, to a file
// that is empty or not there. The database stays in use: readers and writers go
// on, and only its write-ahead log grows meanwhile. The caller has the database
// open, and flushes the copy to disk.
func Copy(ctx context.Context, path, to string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return openError(path, err)
	}
	pool, err := sql.Open("sqlite", dsn(abs, ""))
	if err != nil {
		return openError(path, err)
	}
	defer pool.Close()
	_, err = pool.ExecContext(ctx, "VACUUM INTO $1", to)
	return err
}

// OpenFrozen opens a database file that nobody changes, for reading. It writes
// nothing, not even beside the file, and takes no locks.
func OpenFrozen(path string) (*db.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, openError(path, err)
	}
	u := url.URL{Path: abs}
	pool, err := sql.Open("sqlite", "file:"+u.EscapedPath()+"?immutable=1&mode=ro&_pragma=query_only(1)&_pragma=trusted_schema(0)")
	if err != nil {
		return nil, openError(path, err)
	}
	return db.NewFrozen(path, pool, pool.Close, db.Migrations{Pool: pool, Locker: &migrationLock{path: abs}}), nil
}
