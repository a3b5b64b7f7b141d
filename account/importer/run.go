package importer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// defaultBatch is how many records one transaction writes: enough that a flush
// to disk does not count, and few enough that a server's own writes wait only
// for some tens of milliseconds.
const defaultBatch = 500

var errNone = errors.New("there is none")

// Import reads a file into the database. With an error, or when ctx ends, what
// was written stays, and Resume goes on from there. Under db.DryRun every check
// is made and nothing is written.
func (s *Service) Import(ctx context.Context, o Options, w Watch) (Import, error) {
	if o.Model != "" && o.Source != Django {
		return Import{}, fmt.Errorf("only %s has models", Django)
	}
	path, err := filepath.Abs(o.File)
	if err != nil {
		return Import{}, err
	}
	o.File = path
	m := Import{ID: newID(), Source: o.Source, File: path, State: Running, StartedAt: s.now().Truncate(time.Microsecond).UTC(), options: o}
	f, err := openFile(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	if m.size, err = size(f); err != nil {
		return m, err
	}
	r, err := s.run(&m, f)
	if err != nil {
		return m, err
	}
	m.digest = emptyDigest
	if db.IsDryRun(ctx) {
		m, err = s.rehearse(ctx, r, m, w)
		m.ID = "" // there is none
		return m, err
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := insertImport(tx, m); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "import.started", Target: m.ID, Detail: map[string]string{"source": string(m.Source), "admins": strconv.FormatBool(o.Admins)}})
	})
	if err != nil {
		return m, err
	}
	if w.Began != nil {
		w.Began(m)
	}
	return s.write(ctx, r, m, w)
}

// emptyDigest is that of a file of which nothing was read.
const emptyDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Resume goes on with an import that was stopped, the last one if id is "". The
// file must be the same as far as it was read.
func (s *Service) Resume(ctx context.Context, id string, w Watch) (Import, error) {
	m, found, err := readImport(s.DB.View(ctx), id, Running)
	if err != nil {
		return m, err
	}
	if !found {
		return m, s.notFound(ctx, id, "that was stopped")
	}
	f, err := openFile(m.File)
	if err != nil {
		return m, err
	}
	defer f.Close()
	now, err := size(f)
	if err != nil {
		return m, err
	}
	r, err := s.run(&m, f)
	if err != nil {
		return m, err
	}
	for r.read < m.Records {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		if _, err := r.cut.next(); err != nil {
			return m, changedFile(m)
		}
		r.read++
	}
	if now != m.size || m.Records > 0 && (r.cut.offset != m.offset || r.cut.sum() != m.digest) {
		return m, changedFile(m)
	}
	if db.IsDryRun(ctx) {
		return s.rehearse(ctx, r, m, w)
	}
	if w.Began != nil {
		w.Began(m)
	}
	return s.write(ctx, r, m, w)
}

func changedFile(m Import) error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "file_changed",
		Message: fmt.Sprintf("%s is not the file that was begun with: its size or what was read of it has changed. Nothing was imported. Put it back, or import the new one: accounts that exist are refused, and not changed.", m.File),
	}
}

func (s *Service) notFound(ctx context.Context, id, which string) error {
	e := sallyport.NotFound("import")
	e.Message = "There is no import " + which + ". “sallyport import list” lists all."
	if id != "" {
		if m, found, err := readImport(s.DB.View(ctx), id, ""); err == nil && found {
			e.Message = fmt.Sprintf("This import is %s already.", m.State)
		} else {
			e.Message = "There is no import with this id. “sallyport import list” lists all."
		}
	}
	return e
}

// List returns all imports, the last first; at most 1000.
func (s *Service) List(ctx context.Context) ([]Import, error) { return listImports(s.DB.View(ctx)) }

func openFile(path string) (*os.File, error) {
	st, err := os.Stat(path) // before opening: a pipe would wait for a writer
	if err != nil {
		return nil, &FileError{0, err.Error()}
	}
	if !st.Mode().IsRegular() {
		return nil, &FileError{0, path + " is not a regular file, and going on after a stop needs one"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &FileError{0, err.Error()}
	}
	return f, nil
}

func size(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// run is one pass over a file.
type run struct {
	cut     *reader
	format  format
	o       Options
	header  []string // of CSV
	cells   []string
	read    int64 // records so far
	id      string
	stamp   time.Time
	said    map[string]bool // notes that are made once
	pending []Note
}

func (s *Service) run(m *Import, f io.Reader) (*run, error) {
	form, ok := formats[m.Source]
	if !ok {
		return nil, fmt.Errorf("there is no source %q", string(m.Source))
	}
	r := &run{cut: newReader(f), format: form, o: m.options, id: m.ID, stamp: m.StartedAt, said: map[string]bool{}}
	columns, err := r.cut.open(form)
	if err != nil {
		return nil, err
	}
	if !columns {
		return r, nil
	}
	return r, r.readHeader()
}

// readHeader reads the first line of a CSV file.
func (r *run) readHeader() error {
	p, err := r.cut.next()
	if err != nil {
		return err
	}
	if r.header, err = parseCells(p.text, nil); err != nil || p.tooLong {
		return &FileError{p.line, "the header is not CSV"}
	}
	if len(r.header) > maxMembers {
		return &FileError{p.line, fmt.Sprintf("the header has more than %d columns", maxMembers)}
	}
	for i, name := range r.header {
		if slices.Contains(r.header[:i], name) {
			return &FileError{p.line, "two columns have the same name"}
		}
	}
	for _, name := range r.format.needs {
		if !slices.Contains(r.header, name) {
			return &FileError{p.line, "the header has no column " + name + ": the first line of a CSV names the columns, separated by commas"}
		}
	}
	return nil
}

// next reads a record. A mistake of the record is in the row; an error ends the
// file.
func (r *run) next() (row, error) {
	p, err := r.cut.next()
	if err != nil {
		return row{}, err
	}
	r.read++
	out := row{line: p.line, number: r.read}
	if p.tooLong {
		out.err = &refusal{KindTooLong, fmt.Sprintf("it is longer than %d bytes", MaxRecord)}
		return out, nil
	}
	rec, err := r.decode(p)
	if err == nil {
		out.super = rec.super
		if rec.super && r.o.Admins {
			rec.roles = []string{role.User, role.Admin}
		}
		out.acc, err = check(rec, accountID(r.id, r.read), r.stamp)
	}
	if err == errSkip {
		out.skip = true
	} else if err != nil && !errors.As(err, &out.err) {
		return row{}, err
	}
	if err != nil {
		out.acc = account.Imported{} // it may be as long as the record
	}
	return out, nil
}

func (r *run) decode(p piece) (record, error) {
	f, err := r.fields(p)
	if err != nil {
		return record{}, err
	}
	rec, err := r.format.decode(f, r.o)
	if err == errSkip {
		r.once(p.line, KindOtherRecord, "records of the model", f.str("model"))
		return rec, err
	}
	if err != nil {
		return rec, err
	}
	for _, name := range f.left() {
		if r.format.strict {
			return rec, refuse(KindUnknown, "it has a member that this form does not have; docs/import.md lists them")
		}
		r.once(p.line, KindNotTaken, "not taken over", name)
	}
	return rec, nil
}

func (r *run) fields(p piece) (*fields, error) {
	if r.header == nil {
		return parseObject(p.text)
	}
	var err error
	if r.cells, err = parseCells(p.text, r.cells); err != nil {
		return nil, err
	}
	if len(r.cells) != len(r.header) {
		return nil, refuse(KindMalformed, "it has %d cells, and the header %d", len(r.cells), len(r.header))
	}
	f := &fields{list: make([]field, len(r.header))}
	for i, name := range r.header {
		f.list[i] = field{name: name, text: r.cells[i]}
	}
	return f, nil
}

// maxOnce bounds how many different names are told.
const maxOnce = 50

func (r *run) once(line int, kind, what, name string) {
	if key := kind + name; !r.said[key] && len(r.said) < maxOnce {
		r.said[key] = true
		if len(name) > 64 {
			name = strings.ToValidUTF8(name[:64], "") + "…"
		}
		r.pending = append(r.pending, Note{Line: line, Kind: kind, Reason: fmt.Sprintf("%s: %q", what, name)})
	}
}

// batch is what one transaction writes.
type batch struct {
	rows   []row
	notes  []Note
	read   int64
	offset int64
	digest string
	err    error // io.EOF: the last
}

// batches reads on in a goroutine of its own, until its context ends or the file
// does.
func (r *run) batches(ctx context.Context, n int) <-chan batch {
	out := make(chan batch, 1)
	go func() {
		defer close(out)
		for {
			b := batch{rows: make([]row, 0, n)}
			for len(b.rows) < n && b.err == nil {
				var x row
				if x, b.err = r.next(); b.err == nil {
					b.rows = append(b.rows, x)
				}
			}
			b.read, b.offset, b.digest = r.read, r.cut.offset, r.cut.sum()
			b.notes, r.pending = r.pending, nil
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
			if b.err != nil {
				return
			}
		}
	}()
	return out
}

func (s *Service) batchSize() int {
	if s.Batch > 0 {
		return s.Batch
	}
	return defaultBatch
}

// read begins to read what is left of the file. The reader has left the file alone
// when stop returns.
func (s *Service) read(ctx context.Context, r *run) (batches <-chan batch, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	batches = r.batches(ctx, s.batchSize())
	return batches, func() {
		cancel()
		for range batches {
		}
	}
}

// write imports what is left of the file.
func (s *Service) write(ctx context.Context, r *run, m Import, w Watch) (Import, error) {
	batches, stop := s.read(ctx, r)
	defer stop()
	for b := range batches {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		after, notes, err := s.commit(ctx, m, b)
		if err != nil {
			return m, err
		}
		m = after
		if err := w.tell(m, append(b.notes, notes...)); err != nil {
			return m, err
		}
		if b.err == io.EOF {
			return m, nil
		}
		if b.err != nil {
			return m, b.err
		}
	}
	return m, ctx.Err()
}

func (w Watch) tell(m Import, notes []Note) error {
	slices.SortStableFunc(notes, func(a, b Note) int { return a.Line - b.Line })
	for _, n := range notes {
		if w.Note != nil {
			if err := w.Note(n); err != nil {
				return err
			}
		}
	}
	if w.Progress != nil {
		w.Progress(Progress{m.Counts, m.offset, m.size})
	}
	return nil
}

// commit writes a batch with how far it brings the import: both or neither.
func (s *Service) commit(ctx context.Context, before Import, b batch) (after Import, notes []Note, err error) {
	now := s.now()
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		after, notes = before, nil // nothing of an earlier run
		after.Records, after.offset, after.digest = b.read, b.offset, b.digest
		if b.err == io.EOF {
			after.State = Done
		}
		// First, so that of two who go on with one import the second finds out
		// before it meets the accounts of the first.
		if ok, err := claim(tx, before); err != nil {
			return err
		} else if !ok {
			return &sallyport.Error{
				Status: http.StatusConflict, Code: "import_elsewhere",
				Message: "Another process has gone on with this import, or undone it. This one has stopped.",
			}
		}
		g, err := role.LoadGraph(tx)
		if err != nil {
			return err
		}
		first := 0 // of the rows since the last one with roles of its own
		plain := func(end int) error {
			if first == end {
				return nil
			}
			return role.AdoptPlain(tx, accountID(before.ID, b.rows[first].number), accountID(before.ID, b.rows[end-1].number))
		}
		for i := range b.rows {
			if !b.rows[i].plain() {
				if err := plain(i); err != nil {
					return err
				}
				first = i + 1
			}
			n, err := s.insert(ctx, tx, g, &after, &b.rows[i])
			if err != nil {
				return err
			}
			notes = append(notes, n...)
		}
		if err := plain(len(b.rows)); err != nil {
			return err
		}
		if err := advance(tx, after, now); err != nil || after.State != Done {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "import.finished", Target: after.ID, Detail: map[string]string{
			"imported": strconv.FormatInt(after.Imported, 10), "refused": strconv.FormatInt(after.Refused, 10), "administrators": strconv.FormatInt(after.Administrators, 10),
		}})
	})
	return after, notes, err
}

// insert adds the account of one record, or says why not.
func (s *Service) insert(ctx context.Context, tx *db.Tx, g role.Graph, m *Import, x *row) ([]Note, error) {
	if x.skip {
		return nil, nil
	}
	refused := func(e *refusal) ([]Note, error) {
		m.Refused++
		return []Note{{Line: x.line, Refused: true, Kind: e.kind, Reason: e.reason}}, nil
	}
	if x.err != nil {
		return refused(x.err)
	}
	admin, no := may(g, x, m.options)
	if no != nil {
		return refused(no)
	}
	acc := x.acc
	if x.plain() {
		acc.Roles = nil // commit gives it to all of them at once
	}
	ok, err := acc.Insert(tx)
	if err != nil {
		return nil, err
	}
	if !ok {
		id, byName, err := x.acc.Holder(tx)
		if err != nil {
			return nil, err
		}
		return refused(taken(m.ID, id, byName))
	}
	notes := m.count(x, admin)
	if !x.plain() || len(x.acc.Permissions) > 0 {
		return notes, audit.Append(ctx, tx, audit.Event{Action: "account.imported", Target: x.acc.ID, Detail: map[string]string{
			"import": m.ID, "roles": strings.Join(x.acc.Roles, " "), "permissions": strings.Join(x.acc.Permissions, " "),
		}})
	}
	return notes, nil
}

// count counts an imported record, and returns what is to be said of it.
func (m *Import) count(x *row, admin bool) []Note {
	m.Imported++
	if x.acc.Hash == "" {
		m.WithoutPassword++
	}
	if admin {
		m.Administrators++
	}
	if x.super && !admin {
		return []Note{{Line: x.line, Kind: KindSuper, Reason: "a superuser there, and a user here: make it an administrator with “sallyport grant”, or import with --admins"}}
	}
	return nil
}

func taken(importID, holder string, byName bool) *refusal {
	what := "address"
	if byName {
		what = "user name"
	}
	if n, ours := numberOf(importID, holder); ours {
		return &refusal{KindTwice, fmt.Sprintf("record %d has the same %s", n, what)}
	}
	return &refusal{KindExists, "there is an account with this " + what + ", and it is not changed"}
}

// rehearse checks what is left of the file and writes nothing. Addresses and
// names are remembered by 64 bits of a keyed hash, so that a million of them fit
// in little memory; that two of a million meet has a chance of one in ten
// million.
func (s *Service) rehearse(ctx context.Context, r *run, m Import, w Watch) (Import, error) {
	batches, stop := s.read(ctx, r)
	defer stop()
	seed := maphash.MakeSeed()
	seen := map[uint64]int64{}
	view := s.DB.View(ctx)
	g, err := role.LoadGraph(view)
	if err != nil {
		return m, err
	}
	for b := range batches {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		notes := b.notes
		for i := range b.rows {
			x := &b.rows[i]
			if x.skip {
				continue
			}
			admin := false
			no := x.err
			if no == nil {
				admin, no = may(g, x, m.options)
			}
			if no == nil {
				if no, err = conflict(view, seed, seen, x); err != nil {
					return m, err
				}
			}
			if no != nil {
				m.Refused++
				notes = append(notes, Note{Line: x.line, Refused: true, Kind: no.kind, Reason: no.reason})
				continue
			}
			notes = append(notes, m.count(x, admin)...)
		}
		m.Records, m.offset = b.read, b.offset
		if err := w.tell(m, notes); err != nil {
			return m, err
		}
		if b.err == io.EOF {
			m.State = Done
			return m, nil
		}
		if b.err != nil {
			return m, b.err
		}
	}
	return m, ctx.Err()
}

// conflict looks for whoever has the address or the name, in the file and here.
func conflict(view db.View, seed maphash.Seed, seen map[uint64]int64, x *row) (*refusal, error) {
	email, username := x.acc.Keys()
	keys := []uint64{maphash.String(seed, "e"+email)}
	if username != "" {
		keys = append(keys, maphash.String(seed, "u"+username))
	}
	for i, k := range keys {
		if n, ok := seen[k]; ok {
			return &refusal{KindTwice, fmt.Sprintf("record %d has the same %s", n, []string{"address", "user name"}[i])}, nil
		}
	}
	holder, byName, err := x.acc.Holder(view)
	if err != nil {
		return nil, err
	}
	if holder != "" {
		return taken(x.acc.ID, holder, byName), nil
	}
	for _, k := range keys {
		seen[k] = x.number
	}
	return nil, nil
}
