package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/sallyport/sallyport/account/importer"
)

type importCmd struct {
	FastAPIUsers importFastAPIUsersCmd `cmd:"" name:"fastapi-users" help:"The table of fastapi-users: CSV with a header, or JSON."`
	Django       importDjangoCmd       `cmd:"" name:"django" help:"Django: dumpdata as JSON or JSON lines, or the table auth_user as CSV."`
	Auth0        importAuth0Cmd        `cmd:"" name:"auth0" help:"Auth0: an export as JSON lines, or the JSON of its import."`
	Keycloak     importKeycloakCmd     `cmd:"" name:"keycloak" help:"Keycloak: a realm's export with users."`
	NDJSON       importNDJSONCmd       `cmd:"" name:"ndjson" help:"JSON lines in the form that docs/import.md describes."`
	Resume       importResumeCmd       `cmd:"" help:"Go on with an import that was stopped."`
	Undo         importUndoCmd         `cmd:"" help:"Delete the accounts of an import that nobody has used."`
	List         importListCmd         `cmd:"" help:"List imports."`
}

type reportFlag struct {
	Report string `help:"Write what was refused, and why, to a new file: CSV if its name ends in .csv, else JSON lines." placeholder:"FILE"`
}

type importFlags struct {
	reportFlag
	File string `arg:"" help:"File to read."`
}

type adminsFlag struct {
	Admins bool `help:"Make administrators of those who were superusers, or have a role that administers."`
}

type importFastAPIUsersCmd struct {
	importFlags
	adminsFlag
}

func (c importFastAPIUsersCmd) Run(a *app) error {
	return c.run(a, importer.Options{Source: importer.FastAPIUsers, Admins: c.Admins})
}

type importDjangoCmd struct {
	importFlags
	adminsFlag
	Model string `help:"Model of the users in dumpdata." default:"auth.user" placeholder:"APP.MODEL"`
}

func (c importDjangoCmd) Run(a *app) error {
	return c.run(a, importer.Options{Source: importer.Django, Admins: c.Admins, Model: c.Model})
}

type importAuth0Cmd struct{ importFlags }

func (c importAuth0Cmd) Run(a *app) error {
	return c.run(a, importer.Options{Source: importer.Auth0})
}

type importKeycloakCmd struct{ importFlags }

func (c importKeycloakCmd) Run(a *app) error {
	return c.run(a, importer.Options{Source: importer.Keycloak})
}

type importNDJSONCmd struct {
	importFlags
	adminsFlag
}

func (c importNDJSONCmd) Run(a *app) error {
	return c.run(a, importer.Options{Source: importer.NDJSON, Admins: c.Admins})
}

func (c importFlags) run(a *app, o importer.Options) error {
	o.File = c.File
	return a.importing(c.Report, false, func(s *importer.Service, w importer.Watch) (importer.Import, error) {
		return s.Import(a.ctx, o, w)
	})
}

type importResumeCmd struct {
	reportFlag
	ID string `arg:"" optional:"" help:"Id of the import; the last one that was stopped if left out."`
}

func (c importResumeCmd) Run(a *app) error {
	return a.importing(c.Report, true, func(s *importer.Service, w importer.Watch) (importer.Import, error) {
		return s.Resume(a.ctx, c.ID, w)
	})
}

// importing runs an import and says how it ended.
func (a *app) importing(report string, again bool, run func(*importer.Service, importer.Watch) (importer.Import, error)) error {
	return a.with(func(o *opened) (err error) {
		r, err := a.newReport(report, again)
		if err != nil {
			return err
		}
		defer r.end(&err)
		p := a.newProgress()
		began := false
		m, err := run(&importer.Service{DB: o.db}, importer.Watch{
			Began: func(importer.Import) { began = true },
			Progress: func(at importer.Progress) {
				p.show(at.Offset, at.Size, at.Records, fmt.Sprintf("%d imported, %d refused", at.Imported, at.Refused))
			},
			Note: func(n importer.Note) error { p.clear(); return r.note(n) },
		})
		p.clear()
		r.rest()
		if broken, ok := errors.AsType[*importer.FileError](err); ok && !began {
			return &errUsage{broken}
		}
		if began || a.g.DryRun && m.Records > 0 {
			a.done("%d imported (%d administrators, %d without a password), %d refused, of %d records", m.Imported, m.Administrators, m.WithoutPassword, m.Refused, m.Records)
		}
		if err != nil && began {
			a.info("import %s has stopped; what was imported stays. “sallyport import resume %s” goes on, “sallyport import undo %s” takes it back.", m.ID, m.ID, m.ID)
		}
		if err != nil {
			return err
		}
		if !a.g.DryRun {
			a.info("“sallyport import undo %s” takes it back.", m.ID)
		}
		if err := a.answer("import/v1", m, func(w io.Writer) {
			if m.ID != "" {
				fmt.Fprintln(w, m.ID)
			}
		}); err != nil {
			return err
		}
		if m.Refused > 0 {
			return errPartly
		}
		return nil
	})
}

type importUndoCmd struct {
	reportFlag
	ID string `arg:"" optional:"" help:"Id of the import; the last one if left out."`
}

func (c importUndoCmd) Run(a *app) error {
	return a.with(func(o *opened) (err error) {
		s := &importer.Service{DB: o.db}
		m, err := s.Find(a.ctx, c.ID)
		if err != nil {
			return err
		}
		if err := a.confirm(fmt.Sprintf("Deleting the unused ones of the %d accounts of import %s (%s, %s)", m.Imported, m.ID, m.Source, printable(filepath.Base(m.File)))); err != nil {
			return err
		}
		r, err := a.newReport(c.Report, false)
		if err != nil {
			return err
		}
		defer r.end(&err)
		p := a.newProgress()
		u, err := s.Undo(a.ctx, m, func(k importer.Kept) error { p.clear(); return r.kept(k) }, func(u importer.Undoing) {
			p.show(u.Deleted+u.Kept, u.Of, u.Deleted+u.Kept, fmt.Sprintf("%d deleted, %d kept", u.Deleted, u.Kept))
		})
		p.clear()
		r.rest()
		a.done("deleted %d accounts, kept %d", u.Deleted, u.Kept)
		if err != nil {
			a.info("the rest is still there. “sallyport import undo %s” goes on.", m.ID)
			return err
		}
		if err := a.data("import_undo/v1", u); err != nil {
			return err
		}
		if u.Kept > 0 {
			return errPartly
		}
		return nil
	})
}

type importListCmd struct{}

func (importListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		all, err := (&importer.Service{DB: o.db}).List(a.ctx)
		if err != nil {
			return err
		}
		return a.answer("imports/v1", all, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tSTARTED\tSTATE\tSOURCE\tRECORDS\tIMPORTED\tREFUSED\tFILE")
			for _, m := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", m.ID, m.StartedAt.Format(time.RFC3339), m.State, m.Source, m.Records, m.Imported, m.Refused, printable(m.File))
			}
		})
	})
}

// report is where refusals go: a file, or the first of them to standard error.
type report struct {
	a       *app
	file    *os.File
	write   func(line, outcome, kind, reason string) error
	shown   map[bool]int // by whether it is a refusal
	dropped int
}

// maxShown is how many are shown without a file.
const maxShown = 20

func (a *app) newReport(path string, again bool) (*report, error) {
	r := &report{a: a, shown: map[bool]int{}}
	if path == "" {
		return r, nil
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if again {
		flags = os.O_RDWR | os.O_CREATE | os.O_APPEND
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, os.ErrExist) {
		err = fmt.Errorf("--report: %s is there already, and is not replaced: give another path", path)
	}
	if err != nil {
		return nil, &errUsage{err}
	}
	head, csvFile := jsonHead, strings.HasSuffix(path, ".csv")
	if csvFile {
		head = csvHead
	}
	if again && !isReport(f, head) {
		_ = f.Close() // nothing was written
		return nil, &errUsage{fmt.Errorf("--report: %s is there already and is no report of this kind, and is not written to: give another path", path)}
	}
	r.file = f
	if !csvFile {
		enc := json.NewEncoder(f)
		enc.SetEscapeHTML(false)
		r.write = func(line, outcome, kind, reason string) error {
			return enc.Encode(map[string]string{"at": line, "outcome": outcome, "kind": kind, "reason": reason})
		}
		return r, nil
	}
	w := csv.NewWriter(f)
	r.write = func(line, outcome, kind, reason string) error {
		_ = w.Write([]string{line, outcome, kind, reason}) // Error has it
		w.Flush()
		return w.Error()
	}
	if st, err := f.Stat(); err == nil && st.Size() == 0 {
		return r, r.write("at", "outcome", "kind", "reason")
	}
	return r, nil
}

// How reports begin; those that are not CSV, on every line.
const (
	csvHead  = "at,outcome,kind,reason\n"
	jsonHead = `{"at":"`
)

// isReport reports whether a file is empty or begins as a report does. Whatever
// else is there must not be written to: the file that is imported would grow with
// what is refused of it.
func isReport(f *os.File, head string) bool {
	b := make([]byte, len(head))
	n, err := f.ReadAt(b, 0)
	return err == io.EOF && n == 0 || string(b[:n]) == head
}

func (r *report) note(n importer.Note) error {
	outcome := "note"
	if n.Refused {
		outcome = "refused"
	}
	return r.add(strconv.Itoa(n.Line), outcome, n.Kind, n.Reason, fmt.Sprintf("line %d: %s: %s", n.Line, outcome, printable(n.Reason)), n.Refused)
}

func (r *report) kept(k importer.Kept) error {
	return r.add(k.ID, "kept", strings.ReplaceAll(k.Reason, " ", "_"), k.Reason, fmt.Sprintf("kept %s: %s", k.ID, k.Reason), true)
}

func (r *report) add(at, outcome, kind, reason, shown string, counts bool) error {
	if r.write != nil {
		return r.write(at, outcome, kind, reason)
	}
	if r.shown[counts]++; r.shown[counts] > maxShown {
		r.dropped++
		return nil
	}
	// Also when quiet: what did not succeed is no chatter.
	if counts || !r.a.g.Quiet {
		fmt.Fprintln(r.a.stderr, shown)
	}
	return nil
}

// rest says how many were not shown.
func (r *report) rest() {
	if r.dropped > 0 {
		r.a.info("… and %d more: --report FILE writes them all", r.dropped)
	}
}

// end closes the report. If that fails, it is the command's error, and not joined
// to another: what is partly done says nothing more.
func (r *report) end(err *error) {
	if failed := r.close(); failed != nil {
		*err = failed
	}
}

func (r *report) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// progress tells how far something is: a bar on a terminal, a line now and then
// elsewhere. It has no colours.
type progress struct {
	a        *app
	terminal bool
	width    int
	began    time.Time
	next     time.Time
	first    int64 // where this run began
	before   int64 // how many things there were then
	ascii    bool
	drawn    bool
}

const (
	redraw   = 200 * time.Millisecond
	sayEvery = 10 * time.Second
)

func (a *app) newProgress() *progress {
	p := &progress{a: a, began: time.Now(), first: -1}
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal = true
		p.width, _, _ = term.GetSize(int(f.Fd()))
	}
	for _, e := range a.env {
		p.ascii = p.ascii || e == "TERM=dumb" || e == "LC_ALL=C"
		p.terminal = p.terminal && e != "TERM=dumb"
	}
	p.next = p.began.Add(redraw)
	if !p.terminal {
		p.next = p.began.Add(sayEvery)
	}
	return p
}

// show draws how far it is: done of all, and how many things that were.
func (p *progress) show(done, all, things int64, what string) {
	now := time.Now()
	if p.first < 0 {
		p.first, p.before, p.began = done, things, now
	}
	if p.a.g.Quiet || now.Before(p.next) {
		return
	}
	line := progressLine(p.first, done, all, things-p.before, now.Sub(p.began), what)
	if !p.terminal {
		p.next = now.Add(sayEvery)
		fmt.Fprintln(p.a.stderr, line)
		return
	}
	p.next = now.Add(redraw)
	const bar = 24
	full := int(min(bar, bar*done/max(all, 1)))
	sign, empty := "█", "░"
	if p.ascii {
		sign, empty = "#", "."
	}
	text := []rune("[" + strings.Repeat(sign, full) + strings.Repeat(empty, bar-full) + "] " + line)
	if p.width > 1 && len(text) > p.width-1 {
		text = text[:p.width-1]
	}
	fmt.Fprintf(p.a.stderr, "\r\x1b[K%s", string(text))
	p.drawn = true
}

// progressLine says how far it is, how quick, and how long it will take.
func progressLine(first, done, all, things int64, took time.Duration, what string) string {
	line := fmt.Sprintf("%d %%, %s", 100*done/max(all, 1), what)
	if took < time.Second || done <= first {
		return line
	}
	left := time.Duration(float64(took) * float64(all-done) / float64(done-first)).Round(time.Second)
	return fmt.Sprintf("%s, %.0f a second, %s left", line, float64(things)/took.Seconds(), left)
}

// clear takes the bar away, before something else is printed.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.a.stderr, "\r\x1b[K")
		p.drawn = false
	}
}
