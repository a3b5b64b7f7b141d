// Package backup is the form of a backup: one file, which is a SQLite database
// with a manifest behind it.
//
// It decides what a good one is: whole, as it was made, by somebody who had the
// master key. The master key is never in it. The database is readable by whoever
// has the file: it holds addresses and password hashes, but no secret of the
// server that is not sealed.
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
)

// A backup is
//
//	database | manifest (JSON) | proof | lengths of the three (8 bytes each) | magic | SHA-256
//
// SQLite reads the database and does not look behind its last page. The proof is
// the SHA-256 of database and manifest, sealed under the master key: whoever could
// change a backup could else make an administrator in it. The last 32 bytes are the
// SHA-256 of all before them, which needs no key.
const (
	magic       = "sallyport-backup"
	footer      = 3*8 + len(magic) + sha256.Size
	maxManifest = 1 << 20
	purpose     = "backup"
)

// Manifest says what a backup holds.
type Manifest struct {
	Format    string      `json:"format"`
	MadeAt    time.Time   `json:"made_at"` // everything that was acknowledged before is in it
	MadeBy    string      `json:"made_by"` // release
	Host      string      `json:"host"`
	From      string      `json:"from"` // path of the database
	Schema    int64       `json:"schema_version"`
	Tables    []TableRows `json:"tables"`
	MasterKey string      `json:"master_key"` // id of the key that is needed, which is not in the backup
}

// TableRows is how many rows a table has.
type TableRows struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

const format = "sallyport.backup-file/v1"

// Damaged says that a file is no backup, or not as it was made.
type Damaged struct {
	Path, Why string
}

func (e *Damaged) Error() string {
	return fmt.Sprintf("%s: %s. It cannot be restored; take another backup", e.Path, e.Why)
}

// Describe fills in what the database itself says.
func (m *Manifest) Describe(ctx context.Context, d *db.DB) error {
	s, err := d.Schema(ctx)
	if err != nil {
		return err
	}
	m.Format, m.Schema, m.Tables = format, s.Current, nil
	tables, err := d.Tables(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		n, err := d.Count(ctx, t)
		if err != nil {
			return err
		}
		m.Tables = append(m.Tables, TableRows{t.Name, n})
	}
	return nil
}

// Finish makes a backup of a file that is a database, and flushes it to disk.
func Finish(ctx context.Context, f *os.File, m Manifest, master *seal.Master) error {
	m.MasterKey = master.ID()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	size, err := io.Copy(h, until(ctx, f))
	if err != nil {
		return err
	}
	tail := &tail{h: h}
	tail.write(text)
	proof := master.Seal(purpose, h.Sum(nil))
	tail.write(proof)
	for _, n := range []int{int(size), len(text), len(proof)} {
		tail.write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	}
	tail.write([]byte(magic))
	tail.write(h.Sum(nil))
	if _, err := f.Write(tail.b); err != nil {
		return err
	}
	return f.Sync()
}

// tail is what stands behind the database, counted into the sum.
type tail struct {
	b []byte
	h hash.Hash
}

func (t *tail) write(b []byte) {
	t.b = append(t.b, b...)
	t.h.Write(b)
}

// File is a backup that is whole.
type File struct {
	Manifest
	Size   int64  // of the database
	SHA256 string // of the whole file but its last 32 bytes
	path   string
	f      *os.File
	sum    [sha256.Size]byte // of database and manifest
	proof  []byte
}

// Open reads a backup through and checks that it is whole. The error is *Damaged
// if it is not.
func Open(ctx context.Context, path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b := &File{path: path, f: f}
	if err := b.read(ctx, io.Discard); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// Close closes the file.
func (b *File) Close() error { return b.f.Close() }

func (b *File) damaged(why string, args ...any) error {
	return &Damaged{b.path, fmt.Sprintf(why, args...)}
}

// read reads the file through once, and writes the database to w.
func (b *File) read(ctx context.Context, w io.Writer) error {
	st, err := b.f.Stat()
	if err != nil {
		return err
	}
	end := make([]byte, footer)
	if n := st.Size() - int64(footer); !st.Mode().IsRegular() || n < 0 {
		return b.damaged("it is no backup of Sallyport, or the end of it is missing")
	} else if _, err := b.f.ReadAt(end, n); err != nil {
		return err
	}
	if string(end[3*8:3*8+len(magic)]) != magic {
		return b.damaged("it is no backup of Sallyport, or the end of it is missing")
	}
	var size [3]int64
	total := int64(footer)
	for i := range size {
		n := binary.BigEndian.Uint64(end[8*i:])
		if n > uint64(st.Size()) || i > 0 && n > maxManifest {
			return b.damaged("its end is damaged")
		}
		size[i] = int64(n)
		total += size[i]
	}
	if total != st.Size() {
		return b.damaged("its length is not what it says: something was cut off or added")
	}
	h := sha256.New()
	from := until(ctx, io.NewSectionReader(b.f, 0, st.Size()-sha256.Size))
	if _, err := io.CopyN(io.MultiWriter(h, w), from, size[0]); err != nil {
		return err
	}
	text, proof, rest := make([]byte, size[1]), make([]byte, size[2]), make([]byte, footer-sha256.Size)
	if _, err := io.ReadFull(io.TeeReader(from, h), text); err != nil {
		return err
	}
	h.Sum(b.sum[:0])
	for _, part := range [][]byte{proof, rest} {
		if _, err := io.ReadFull(io.TeeReader(from, h), part); err != nil {
			return err
		}
	}
	b.SHA256 = fmt.Sprintf("%x", h.Sum(nil))
	if b.SHA256 != fmt.Sprintf("%x", end[footer-sha256.Size:]) {
		return b.damaged("its SHA-256 is not what it says: it was damaged or changed since it was made")
	}
	b.Size, b.proof = size[0], proof
	if err := json.Unmarshal(text, &b.Manifest); err != nil || b.Format != format {
		return b.damaged("its manifest is of a form that this release does not know")
	}
	return nil
}

// Authentic reports whether the backup was made by somebody who had this master
// key. The error is seal.ErrWrongKey if the key is another one, and *Damaged if the
// proof is not one.
func (b *File) Authentic(master *seal.Master) error {
	sum, err := master.Open(purpose, b.proof)
	if errors.Is(err, seal.ErrWrongKey) {
		return err
	}
	if err != nil || string(sum) != string(b.sum[:]) {
		return b.damaged("its proof does not fit: it was changed by somebody who did not have the master key")
	}
	return nil
}

// Extract writes the database to a file, checks once more what it writes, and
// flushes it to disk.
func (b *File) Extract(ctx context.Context, to *os.File) error {
	before := b.sum
	if err := b.read(ctx, to); err != nil {
		return err
	}
	if b.sum != before {
		return b.damaged("it was changed meanwhile")
	}
	return to.Sync()
}

// Check reads the database of a backup through: the structure that SQLite gives it,
// foreign keys, its schema version and what its tables hold.
func (m Manifest) Check(ctx context.Context, path string, d *db.DB) error {
	damaged := func(why string, args ...any) error { return &Damaged{path, fmt.Sprintf(why, args...)} }
	s, err := d.Schema(ctx)
	if err != nil {
		return damaged("its database cannot be read: %v", err)
	}
	if s.Current != m.Schema {
		return damaged("its schema is version %d, and its manifest says %d", s.Current, m.Schema)
	}
	if s.TooNew() {
		return s.Newer(path)
	}
	v := d.View(ctx)
	var first string
	if _, err := v.Row("PRAGMA integrity_check(1)", nil, &first); err != nil || first != "ok" {
		return damaged("its database is damaged: %s", first)
	}
	broken := ""
	if err := v.Rows("SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1", nil, func(scan db.Scan) error { return scan(&broken) }); err != nil || broken != "" {
		return damaged("rows of %s refer to others that are not there", broken)
	}
	now := Manifest{}
	if err := now.Describe(ctx, d); err != nil {
		return damaged("its database cannot be read: %v", err)
	}
	if len(now.Tables) != len(m.Tables) {
		return damaged("it has %d tables, and its manifest says %d", len(now.Tables), len(m.Tables))
	}
	for i, t := range now.Tables {
		if t != m.Tables[i] {
			return damaged("%s has %d rows, and its manifest says %d of %s", t.Table, t.Rows, m.Tables[i].Rows, m.Tables[i].Table)
		}
	}
	return nil
}

// until reads until ctx ends.
func until(ctx context.Context, r io.Reader) io.Reader { return &reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
