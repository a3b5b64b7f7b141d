package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/backup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/sqlite"
)

type backupCmd struct {
	Create  backupCreateCmd  `cmd:"" help:"Copy the SQLite database to a file, while it is served. The master key is not in it."`
	Verify  backupVerifyCmd  `cmd:"" help:"Check a backup, without changing anything."`
	Restore backupRestoreCmd `cmd:"" help:"Put a backup in the place of the SQLite database, and end what it brings back."`
	Settle  backupSettleCmd  `cmd:"" help:"End what was brought back in another way: by pg_restore, or by a copy of the file."`
}

type backupCreateCmd struct {
	File string `arg:"" help:"File to write."`
}

// Run makes the copy under another name, reads it through, and gives it its name:
// what has the name is good.
func (c backupCreateCmd) Run(a *app) (err error) {
	s, err := a.settings()
	if err != nil {
		return err
	}
	if err := onlySQLite(s, "create", "pg_dump makes a backup of PostgreSQL"); err != nil {
		return err
	}
	d, err := a.openDB(a.ctx, s, mustExist)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	// A schema that is older is well: a backup is made before an upgrade.
	schema, err := d.Schema(a.ctx)
	if err != nil {
		return err
	}
	if schema.Current == 0 {
		return &db.OpenError{What: d.Name(), Why: "it is empty", Fix: "Start the server once (sallyport serve). Nothing was written."}
	}
	if schema.TooNew() {
		return schema.Newer(d.Name())
	}
	master, err := a.masterFor(s, "", func(m *seal.Master) error { _, err := keyring.Check(d.View(a.ctx), m); return err })
	if err != nil {
		return err
	}
	replace, err := a.mayWrite(c.File)
	if err != nil {
		return err
	}
	if a.g.DryRun {
		a.done("would copy %s to %s", d.Name(), c.File)
		return nil
	}
	dir, base := filepath.Split(c.File)
	f, err := os.CreateTemp(cmp.Or(dir, "."), "."+base+".part-*") // mode 0600
	if err != nil {
		return &errUsage{err}
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
	}()
	m := backup.Manifest{MadeAt: time.Now().UTC(), MadeBy: version, From: d.Name()}
	if abs, err := filepath.Abs(sqliteFile(s)); err == nil {
		m.From = abs
	}
	m.Host, _ = os.Hostname() // for people
	if err := a.copyDatabase(sqliteFile(s), f.Name()); err != nil {
		return err
	}
	if err := a.finish(f, &m, master); err != nil {
		return err
	}
	if err := putInPlace(f.Name(), c.File, replace); err != nil {
		return err
	}
	b, err := backup.Open(a.ctx, c.File)
	if err != nil {
		return err
	}
	defer b.Close()
	if schema.Current == schema.Latest {
		if err := d.Write(a.ctx, func(tx *db.Tx) error {
			return audit.Append(a.ctx, tx, audit.Event{Action: "backup.created", Target: base, Detail: map[string]string{"sha256": b.SHA256}})
		}); err != nil {
			return err
		}
	}
	a.done("wrote %s: %d rows, %d bytes, as of %s", c.File, rowsOf(b.Tables), b.Size, m.MadeAt.Format(time.RFC3339))
	a.info("The master key (%s…) is not in it, and without it the backup is worth little: keep a copy of the key, in another place than the backups.", b.MasterKey[:8])
	return a.data("backup/v1", shown(c.File, b))
}

// onlySQLite refuses a command where the configuration names PostgreSQL.
func onlySQLite(s settings, what, instead string) error {
	if s.text("database") == "" {
		return nil
	}
	return &errUsage{fmt.Errorf("backup %s is for SQLite: %s. See docs/backup.md", what, instead)}
}

// copyDatabase shows how far it is by the size of the copy.
func (a *app) copyDatabase(from, to string) error {
	p := a.newProgress()
	defer p.clear()
	size := func(path string) int64 {
		st, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return st.Size()
	}
	all := size(from) + size(from+"-wal")
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(redraw):
				p.show(size(to), all, size(to), "copied")
			}
		}
	}()
	err := sqlite.Copy(a.ctx, from, to)
	close(stop)
	<-ended
	if err != nil && a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("the copy failed: %w. Nothing was written; the database is as it was", err)
	}
	return nil
}

// finish checks the copy and makes a backup of it.
func (a *app) finish(f *os.File, m *backup.Manifest, master *seal.Master) error {
	copied, err := sqlite.OpenFrozen(f.Name())
	if err != nil {
		return err
	}
	err = m.Describe(a.ctx, copied)
	if err == nil {
		err = m.Check(a.ctx, f.Name(), copied)
	}
	if err == nil {
		_, err = keyring.Check(copied.View(a.ctx), master)
	}
	if err = errors.Join(err, copied.Close()); err != nil {
		return fmt.Errorf("what was copied is not good, so the database itself is damaged: %w", err)
	}
	return backup.Finish(a.ctx, f, *m, master)
}

// mayWrite asks before a file is replaced, and reports whether one is.
func (a *app) mayWrite(path string) (replace bool, err error) {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, &errUsage{err}
	case !st.Mode().IsRegular():
		return false, &errUsage{fmt.Errorf("%s is there already and is no file: give another path", path)}
	}
	return true, a.confirm("Replacing " + printable(path))
}

// putInPlace gives a finished file its name, durably. A file that has appeared there
// meanwhile is not replaced.
func putInPlace(from, to string, replace bool) error {
	var err error
	if replace {
		err = os.Rename(from, to)
	} else if err = os.Link(from, to); err != nil && !errors.Is(err, fs.ErrExist) {
		// Some file systems have no links.
		if _, serr := os.Lstat(to); errors.Is(serr, fs.ErrNotExist) {
			err = os.Rename(from, to)
		}
	}
	if err != nil {
		return err
	}
	d, err := os.Open(cmp.Or(filepath.Dir(to), "."))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func rowsOf(tables []backup.TableRows) (n int64) {
	for _, t := range tables {
		n += t.Rows
	}
	return n
}

type shownBackup struct {
	Path string `json:"path"`
	backup.Manifest
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"`
	Included bool   `json:"master_key_included"`
}

func shown(path string, b *backup.File) shownBackup {
	return shownBackup{path, b.Manifest, b.Size, b.SHA256, false}
}

// masterFor returns the master key with this id ("": any) that fits. It also looks
// where an interrupted rotation, or the last one, has left keys.
func (a *app) masterFor(s settings, id string, fits func(*seal.Master) error) (*seal.Master, error) {
	text, file := s.masterKey()
	var keys []*seal.Master
	if text != "" {
		m, err := seal.Parse(text)
		if err != nil {
			return nil, &errUsage{fmt.Errorf("keys.master: %w", err)}
		}
		keys = append(keys, m)
	} else {
		file = cmp.Or(file, filepath.Join(s.text("data_dir"), "master.key"))
		m, err := seal.ReadFile(file)
		if err != nil {
			return nil, &errUsage{fmt.Errorf("the master key is needed: %w. Name its file with --set keys.master=FILE, or give the key in SALLYPORT_KEYS_MASTER", err)}
		}
		keys = append([]*seal.Master{m}, seal.Candidates(file)...)
	}
	var first error
	for _, m := range keys {
		err := fmt.Errorf("%w: it needs the key %s, and this is %s", seal.ErrWrongKey, id, m.ID())
		if id == "" || m.ID() == id {
			err = fits(m)
		}
		if err == nil {
			return m, nil
		}
		first = cmp.Or(first, err)
	}
	return nil, fmt.Errorf("the master key does not fit: %w. Give the right one, from its backup; nothing was changed", first)
}

type backupVerifyCmd struct {
	File       string `arg:"" help:"Backup to check."`
	WithoutKey bool   `help:"Check what can be checked without the master key, on a machine that must not have it."`
}

func (c backupVerifyCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	b, err := openBackup(a.ctx, c.File)
	if err != nil {
		return err
	}
	defer b.Close()
	var master *seal.Master
	if !c.WithoutKey {
		if master, err = a.masterFor(s, b.MasterKey, b.Authentic); err != nil {
			return err
		}
	}
	if err := checkDatabase(a.ctx, c.File, b, master); err != nil {
		return err
	}
	if master == nil {
		a.info("whole, but whether it was changed by somebody and whether its keys open was not checked: that takes the master key %s", b.MasterKey)
	} else {
		a.info("good: whole, as it was made, and its keys open under the master key that was given")
	}
	return a.answer("backup/v1", shown(c.File, b), func(w io.Writer) {
		for _, line := range [][2]string{
			{"made", b.MadeAt.Format(time.RFC3339)},
			{"from", printable(b.Host + ":" + b.From)},
			{"release", printable(b.MadeBy)},
			{"schema", fmt.Sprint(b.Schema)},
			{"bytes", fmt.Sprint(b.Size)},
			{"sha256", b.SHA256},
			{"master key", b.MasterKey + " (not in it)"},
		} {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
		for _, t := range b.Tables {
			fmt.Fprintf(w, "%s\t%d rows\n", printable(t.Table), t.Rows)
		}
	})
}

func openBackup(ctx context.Context, path string) (*backup.File, error) {
	b, err := backup.Open(ctx, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, &errUsage{err}
	}
	return b, err
}

// checkDatabase reads the database in a file; with a master key also whether the
// keys in it open.
func checkDatabase(ctx context.Context, path string, b *backup.File, master *seal.Master) (err error) {
	d, err := sqlite.OpenFrozen(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := b.Check(ctx, path, d); err != nil || master == nil {
		return err
	}
	_, err = keyring.Check(d.View(ctx), master)
	return err
}

type keepFlag struct {
	Keep []string `help:"Leave these as they are in the backup, although some of them may have been ended since: sessions, api-keys, clients, recovery-codes, signing-keys." placeholder:"WHAT"`
}

type backupRestoreCmd struct {
	keepFlag
	File string `arg:"" help:"Backup to restore."`
}

type restored struct {
	Backup  string           `json:"backup"`
	MadeAt  time.Time        `json:"made_at"`
	Kept    string           `json:"replaced_database"` // "": there was none
	Settled []server.Settled `json:"settled"`
	Undone  map[string]int64 `json:"undone"` // by action: what had happened since
}

func (c backupRestoreCmd) Run(a *app) (err error) {
	s, err := a.settings()
	if err != nil {
		return err
	}
	if err := onlySQLite(s, "restore", "pg_restore brings PostgreSQL back, and then “sallyport backup settle” ends what came with it"); err != nil {
		return err
	}
	b, err := openBackup(a.ctx, c.File)
	if err != nil {
		return err
	}
	defer b.Close()
	master, err := a.masterFor(s, b.MasterKey, b.Authentic)
	if err != nil {
		return err
	}
	path := sqliteFile(s)
	if a.g.DryRun {
		if err := checkDatabase(a.ctx, c.File, b, master); err != nil {
			return err
		}
		a.done("would restore %s, as of %s, to %s", c.File, b.MadeAt.Format(time.RFC3339), path)
		return nil
	}
	if err := makeDataDir(s); err != nil {
		return err
	}
	off, err := sqlite.TakeOffline(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, off.Close()) }()
	if err := a.confirm(fmt.Sprintf("Going back to %s, when this backup was made,", b.MadeAt.Format(time.RFC3339))); err != nil {
		return err
	}
	dir, err := restoreDir(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	made := filepath.Join(dir, "sallyport.db")
	done := restored{Backup: c.File, MadeAt: b.MadeAt}
	if done.Settled, err = a.extract(s, b, made, master, c.Keep); err != nil {
		return fmt.Errorf("%w. The database is as it was", err)
	}
	if done.Kept, err = off.Replace(made, time.Now()); err != nil {
		return err
	}
	done.Undone = a.since(done.Kept, b.MadeAt)
	a.done("restored %s, as of %s, to %s", c.File, b.MadeAt.Format(time.RFC3339), path)
	if done.Kept != "" {
		a.info("the database that it replaces is kept as %s: delete it once you need nothing of it", done.Kept)
	}
	a.settledInfo(done.Settled)
	var list []string
	for _, action := range slices.Sorted(maps.Keys(done.Undone)) {
		switch kind, _, _ := strings.Cut(action, "."); kind {
		case "backup", "session", "sessions", "mail":
			// ended, or nothing that anybody would miss
		default:
			list = append(list, fmt.Sprintf("%s %d", action, done.Undone[action]))
		}
	}
	if len(list) > 0 {
		a.info("what had happened since and is undone: %s", printable(strings.Join(list, ", ")))
		a.info("accounts that were deleted or disabled since, roles that were taken and passwords that were changed are as they were before: see docs/backup.md")
	}
	return a.answer("restore/v1", done, func(io.Writer) {})
}

// restoreDir makes a folder for a database that is not in its place yet, beside
// that place. What an earlier restore left when it was killed goes.
func restoreDir(s settings) (string, error) {
	data := s.text("data_dir")
	entries, err := os.ReadDir(data)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), ".restore-") {
			if err := os.RemoveAll(filepath.Join(data, e.Name())); err != nil {
				return "", err
			}
		}
	}
	return os.MkdirTemp(data, ".restore-*") // mode 0700
}

// extract writes a backup's database to a file, checks it, and ends what it brings
// back, all before anybody can be let in by it.
func (a *app) extract(s settings, b *backup.File, path string, master *seal.Master, keep []string) ([]server.Settled, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(b.Extract(a.ctx, f), f.Close()); err != nil {
		return nil, err
	}
	if err := checkDatabase(a.ctx, path, b, master); err != nil {
		return nil, err
	}
	d, err := sqlite.Open(path)
	if err != nil {
		return nil, err
	}
	settled, err := server.Settle(a.ctx, serverConfig(s, d, slog.New(slog.DiscardHandler)), keep, map[string]string{
		"backup": filepath.Base(b.From), "made_at": b.MadeAt.Format(time.RFC3339), "sha256": b.SHA256,
	})
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	// The last connection moves the log into the file.
	if st, err := os.Stat(path + "-wal"); err == nil && st.Size() > 0 {
		return nil, fmt.Errorf("%s-wal is still there: another program has the copy open", path)
	}
	return settled, nil
}

// since counts what the replaced database says has happened after a backup; it may
// be too damaged to say anything.
func (a *app) since(path string, at time.Time) map[string]int64 {
	if path == "" {
		return nil
	}
	d, err := sqlite.OpenFrozen(path)
	if err != nil {
		return nil
	}
	defer d.Close()
	counts, err := audit.Since(d.View(a.ctx), at)
	if err != nil {
		a.info("what had happened since the backup cannot be read from the replaced database: %v", err)
		return nil
	}
	return counts
}

func (a *app) settledInfo(all []server.Settled) {
	for _, s := range all {
		if s.Done == "kept" {
			a.info("%s: kept (%s)", s.What, s.Why)
		} else {
			a.info("%s: %d ended (%s)", s.What, s.Count, s.Why)
		}
	}
}

type backupSettleCmd struct{ keepFlag }

func (c backupSettleCmd) Run(a *app) (err error) {
	s, err := a.settings()
	if err != nil {
		return err
	}
	if a.g.DryRun {
		return &errUsage{errors.New("settle works in many transactions and has no dry run")}
	}
	d, end, err := a.alone(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if schema, err := d.Schema(a.ctx); err != nil {
		return err
	} else if schema.Current == 0 {
		return &db.OpenError{What: d.Name(), Why: "it is empty", Fix: "Restore the backup first."}
	}
	if err := a.confirm("Ending what the backup brought back"); err != nil {
		return err
	}
	settled, err := server.Settle(a.ctx, serverConfig(s, d, slog.New(slog.DiscardHandler)), c.Keep, nil)
	if err != nil {
		return err
	}
	a.done("settled %s", d.Name())
	a.settledInfo(settled)
	return a.data("restore/v1", restored{Settled: settled})
}

// alone opens the database of the configuration for this process alone.
func (a *app) alone(s settings) (d *db.DB, end func() error, err error) {
	if url := s.text("database"); url != "" {
		if d, err = postgres.OpenAlone(a.ctx, url, s.postgresOptions()); err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	off, err := sqlite.TakeOffline(sqliteFile(s))
	if err != nil {
		return nil, nil, err
	}
	if d, err = off.Open(); err != nil {
		return nil, nil, errors.Join(err, off.Close())
	}
	return d, func() error { return errors.Join(d.Close(), off.Close()) }, nil
}
