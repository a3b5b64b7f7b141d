package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/sqlite"
)

type migrateCmd struct {
	Status migrateStatusCmd `cmd:"" help:"Say which version the schema has."`
	Up     migrateUpCmd     `cmd:"" help:"Bring the schema up to date."`
	Move   migrateMoveCmd   `cmd:"" help:"Move everything to another database, SQLite to PostgreSQL or back. Nobody is signed out."`
}

type schemaStatus struct {
	Database string `json:"database"`
	Version  int64  `json:"version"`
	Latest   int64  `json:"latest"` // that this program knows
	Oldest   int64  `json:"oldest"` // whose programs work with it
	Served   bool   `json:"served"` // by this program: not moved away, not on the way, and not too new
}

func (a *app) schemaStatus(d *db.DB) (schemaStatus, error) {
	s, err := d.Schema(a.ctx)
	out := schemaStatus{d.Name(), s.Current, s.Latest, s.Oldest, !s.TooNew()}
	if err != nil || s.Current < s.Latest || s.TooNew() {
		return out, err
	}
	err = d.Served(a.ctx)
	if _, ok := errors.AsType[*db.OpenError](err); ok {
		a.info("%v", err)
		out.Served, err = false, nil
	}
	return out, err
}

// existing opens the database of the configuration, whatever schema it has.
func (a *app) existing(f func(d *db.DB) error) (err error) {
	s, err := a.settings()
	if err != nil {
		return err
	}
	d, err := a.openDB(a.ctx, s, mustExist)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return f(d)
}

type migrateStatusCmd struct{}

func (migrateStatusCmd) Run(a *app) error {
	return a.existing(func(d *db.DB) error {
		s, err := a.schemaStatus(d)
		if err != nil {
			return err
		}
		return a.answer("schema/v1", s, func(w io.Writer) {
			fmt.Fprintf(w, "database\t%s\nversion\t%d\nlatest\t%d\noldest\t%d\nserved\t%v\n", printable(s.Database), s.Version, s.Latest, s.Oldest, s.Served)
		})
	})
}

type migrateUpCmd struct{}

func (migrateUpCmd) Run(a *app) error {
	return a.existing(func(d *db.DB) error {
		before, err := d.Schema(a.ctx)
		if err != nil {
			return err
		}
		if !a.g.DryRun {
			if _, err := d.Migrate(a.ctx); err != nil {
				return err
			}
		}
		if before.Current < before.Latest {
			a.done("brought the schema from version %d to %d", before.Current, before.Latest)
		}
		s, err := a.schemaStatus(d)
		if err != nil {
			return err
		}
		return a.data("schema/v1", s)
	})
}

type migrateMoveCmd struct {
	To     string `help:"Where to: postgres://…, or sqlite:DIR for a data folder. With a password, --to-file." placeholder:"URL"`
	ToFile string `help:"File that holds the URL." placeholder:"FILE"`
	Undo   bool   `help:"Serve this database again, which was being moved away or was: what the other one has learned since is not in it."`
}

func (c migrateMoveCmd) Run(a *app) (err error) {
	s, err := a.settings()
	if err != nil {
		return err
	}
	to, err := c.target(a)
	if err != nil {
		return err
	}
	from, end, err := a.alone(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if c.Undo {
		return a.undoMove(from)
	}
	fits := func(d *db.DB) func(*seal.Master) error {
		return func(m *seal.Master) error { _, err := keyring.Check(d.View(a.ctx), m); return err }
	}
	schema, err := from.Schema(a.ctx)
	if err != nil {
		return err
	}
	if schema.Current != 0 {
		if _, err := a.masterFor(s, "", fits(from)); err != nil {
			return err
		}
	}
	target, endTarget, err := a.openTarget(s, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, endTarget()) }()
	p := a.newProgress()
	m := &db.Mover{
		From: from, To: target, Now: time.Now,
		Progress: func(what string, done, all int64) { p.show(done, all, done, what) },
		Record: func(tx *db.Tx, sums []db.Sum) error {
			return audit.Append(a.ctx, tx, audit.Event{Action: "database.moved", Detail: map[string]string{
				"from": from.Name(), "to": target.Name(), "rows": strconv.FormatInt(total(sums), 10),
			}})
		},
	}
	already := func() error {
		a.done("%s was moved to %s before; nothing is left to do", from.Name(), target.Name())
		return a.moved([]db.Sum{})
	}
	if a.g.DryRun {
		sums, err := m.Plan(a.ctx)
		if errors.Is(err, db.ErrMoved) {
			return already()
		}
		if err != nil {
			return err
		}
		a.done("would move %d rows from %s to %s", total(sums), from.Name(), target.Name())
		return a.moved(sums)
	}
	sums, err := m.Run(a.ctx)
	p.clear()
	if errors.Is(err, context.Canceled) {
		a.info("the move has stopped. The same command goes on with it; until it is done, neither database is served. “sallyport migrate move --undo” gives it up.")
	}
	if err != nil && !errors.Is(err, db.ErrMoved) {
		return err
	}
	if _, err := a.masterFor(s, "", fits(target)); err != nil {
		return err
	}
	if err != nil {
		return already()
	}
	a.done("moved %s to %s; both sides were compared, and nobody is signed out", from.Name(), target.Name())
	a.info("%s is kept, and no server starts on it any more.", from.Name())
	a.info("The master key goes along: name the same one in the new configuration (keys.master), or put its file where that looks for it.")
	return a.moved(sums)
}

func total(sums []db.Sum) (n int64) {
	for _, s := range sums {
		n += s.Rows
	}
	return n
}

func (a *app) moved(sums []db.Sum) error {
	return a.answer("move/v1", sums, func(w io.Writer) {
		fmt.Fprintln(w, "TABLE\tROWS\tSHA256")
		for _, s := range sums {
			fmt.Fprintf(w, "%s\t%d\t%s\n", s.Table, s.Rows, cmp.Or(s.SHA256, "-"))
		}
	})
}

func (a *app) undoMove(from *db.DB) error {
	if err := a.confirm("Serving " + printable(from.Name()) + " again, without what the other database has learned since,"); err != nil {
		return err
	}
	undone, err := from.UndoMove(a.ctx)
	if err != nil {
		return err
	}
	if !undone {
		return &errUsage{fmt.Errorf("%s was not moved and is not being moved", from.Name())}
	}
	a.done("%s is served again. Empty the other database before anything is moved there", from.Name())
	return a.data("move_undo/v1", map[string]string{"database": from.Name()})
}

// target returns where to, from the flag or the file that it names.
func (c migrateMoveCmd) target(a *app) (string, error) {
	switch {
	case c.Undo && c.To == "" && c.ToFile == "":
		return "", nil
	case c.Undo || (c.To == "") == (c.ToFile == ""):
		return "", &errUsage{errors.New("one of --to URL, --to-file FILE and --undo is needed")}
	}
	to := c.To
	if c.ToFile != "" {
		var err error
		if to, err = readLineOf(c.ToFile); err != nil {
			return "", &errUsage{fmt.Errorf("--to-file: %w", err)}
		}
	}
	if strings.HasPrefix(to, "sqlite:") && to != "sqlite:" {
		return to, nil
	}
	if err := checkPostgres(to); err != nil {
		return "", &errUsage{errors.New("--to: it is no such URL. It takes postgres://…, or sqlite:DIR")}
	}
	if k, _ := keyNamed("database"); c.To != "" && k.inFlag(value{to, "flag --to"}) {
		a.info("warning: a password in --to can be seen by everybody on this machine. Use --to-file.")
	}
	return to, nil
}

// openTarget opens the database to move to, for this process alone. A dry run makes
// none.
func (a *app) openTarget(s settings, to string) (d *db.DB, end func() error, err error) {
	dir, isFile := strings.CutPrefix(to, "sqlite:")
	if !isFile {
		if d, err = postgres.OpenAlone(a.ctx, to, s.postgresOptions()); err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	path := filepath.Join(dir, "sallyport.db")
	remove := func() error { return nil }
	if a.g.DryRun && !sqlite.Exists(path) {
		scratch, err := os.MkdirTemp("", "sallyport-")
		if err != nil {
			return nil, nil, err
		}
		path, remove = filepath.Join(scratch, "sallyport.db"), func() error { return os.RemoveAll(scratch) } // for what would be made
	} else if err := makeDataDir(settings{"data_dir": value{dir, "flag --to"}}); err != nil {
		return nil, nil, err
	}
	off, err := sqlite.TakeOffline(path)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	if d, err = off.Create(); err != nil {
		return nil, nil, errors.Join(err, off.Close(), remove())
	}
	return d, func() error { return errors.Join(d.Close(), off.Close(), remove()) }, nil
}
