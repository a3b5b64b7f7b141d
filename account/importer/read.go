package importer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// MaxRecord bounds one record in bytes. Real ones have a few hundred; those of
// Auth0 may carry a person's metadata.
const MaxRecord = 1 << 20

// FileError says why a file cannot be read any further. What came before is
// imported.
type FileError struct {
	Line int
	Why  string
}

// Error says where and why.
func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.Why
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Why)
}

// piece is the text of one record. It is good until the next one is read.
type piece struct {
	text    []byte
	line    int
	tooLong bool
}

// reader cuts a file into records, and keeps the digest of what it has read.
// Nothing is held but one record.
type reader struct {
	r      *bufio.Reader
	digest hash.Hash
	offset int64
	line   int // of the next byte
	taken  []byte
	buf    []byte
	next   func() (piece, error) // io.EOF after the last
}

func newReader(r io.Reader) *reader {
	return &reader{r: bufio.NewReaderSize(r, 64<<10), digest: sha256.New(), line: 1}
}

// sum returns the digest of everything that was read so far.
func (r *reader) sum() string {
	r.settle()
	return hex.EncodeToString(r.digest.Sum(nil))
}

func (r *reader) settle() {
	r.digest.Write(r.taken)
	r.taken = r.taken[:0]
}

func (r *reader) fail(format string, args ...any) error {
	return &FileError{r.line, fmt.Sprintf(format, args...)}
}

// Files that people try, by their first bytes.
var foreign = []struct{ prefix, what string }{
	{"\x1f\x8b", "it is compressed: unpack it first (gunzip)"},
	{"PK\x03\x04", "it is a ZIP archive: unpack it first"},
	{"\xff\xfe", "it is UTF-16: convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)"},
	{"\xfe\xff", "it is UTF-16: convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)"},
	{"SQLite format 3\x00", "it is a SQLite database: export the table of users first (sqlite3 -csv -header FILE 'SELECT * FROM user')"},
	{"PGDMP", "it is a dump of pg_dump: export the table of users first (COPY … TO … CSV HEADER)"},
}

const byteOrderMark = "\xef\xbb\xbf"

// open looks at the beginning of the file and decides how it is cut. columns
// tells that the first record is the header of a CSV.
func (r *reader) open(f format) (columns bool, err error) {
	head, _ := r.r.Peek(16)
	for _, x := range foreign {
		if bytes.HasPrefix(head, []byte(x.prefix)) {
			return false, &FileError{0, x.what}
		}
	}
	if bytes.HasPrefix(head, []byte(byteOrderMark)) {
		for range len(byteOrderMark) {
			if _, err := r.get(); err != nil {
				return false, err
			}
		}
	}
	c, err := r.skipSpace()
	switch {
	case err == io.EOF:
		return false, &FileError{0, "the file is empty"}
	case err != nil:
		return false, err
	case f.nested:
		if c != '{' {
			return false, r.fail("a realm's export begins with {")
		}
		return false, r.openNested("users")
	case c == '[':
		_, err := r.get()
		r.next = r.element(true)
		return false, err
	case c == '{':
		r.next = r.jsonLine
	case f.csv:
		r.next = r.csvRecord
		return true, nil
	default:
		return false, r.fail("the file begins with neither [ nor {")
	}
	return false, nil
}

func (r *reader) get() (byte, error) {
	c, err := r.r.ReadByte()
	if err != nil {
		return 0, err
	}
	r.taken = append(r.taken, c)
	if len(r.taken) >= 64<<10 {
		r.settle()
	}
	r.offset++
	if c == '\n' {
		r.line++
	}
	return c, nil
}

// skipSpace reads over white space and returns the byte that follows, unread.
func (r *reader) skipSpace() (byte, error) {
	for {
		b, err := r.r.Peek(1)
		if len(b) == 0 {
			return 0, err
		}
		if c := b[0]; c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c, nil
		}
		if _, err := r.get(); err != nil {
			return 0, err
		}
	}
}

// readLine adds a line, with its end, to buf. tooLong tells that it does not fit
// and was read over.
func (r *reader) readLine() (part []byte, tooLong bool, err error) {
	from := len(r.buf)
	some := false
	for {
		b, err := r.r.ReadSlice('\n')
		if len(b) > 0 {
			some = true
			r.settle()
			r.digest.Write(b)
			r.offset += int64(len(b))
			if len(r.buf)+len(b) > MaxRecord+2 {
				tooLong = true
			}
			if !tooLong {
				r.buf = append(r.buf, b...)
			}
		}
		switch {
		case err == nil:
			r.line++
			return r.buf[from:], tooLong, nil
		case err == io.EOF && some:
			return r.buf[from:], tooLong, nil
		case err != bufio.ErrBufferFull:
			return nil, tooLong, err
		}
	}
}

func trimLine(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}

// jsonLine returns the next line that is not empty.
func (r *reader) jsonLine() (piece, error) {
	for {
		r.buf = r.buf[:0]
		p := piece{line: r.line}
		text, tooLong, err := r.readLine()
		if err != nil {
			return p, err
		}
		p.text, p.tooLong = bytes.TrimSpace(text), tooLong
		if len(p.text) > 0 || tooLong {
			return p, nil
		}
	}
}

// csvRecord returns the next record of a CSV file: a line, and those after it as
// long as a quote is open.
func (r *reader) csvRecord() (piece, error) {
	for {
		r.buf = r.buf[:0]
		p := piece{line: r.line}
		open := false
		for {
			part, tooLong, err := r.readLine()
			if err == io.EOF && open {
				return p, &FileError{p.line, "a quote that is opened here is never closed"}
			}
			if err != nil {
				return p, err
			}
			if p.tooLong = tooLong; tooLong {
				if open {
					return p, &FileError{p.line, fmt.Sprintf("a quote that is opened here is not closed within %d bytes", MaxRecord)}
				}
				break
			}
			if bytes.Count(part, []byte{'"'})%2 == 1 {
				open = !open
			}
			if !open {
				break
			}
		}
		if p.text = trimLine(r.buf); len(p.text) > 0 || p.tooLong {
			return p, nil
		}
	}
}

// element returns what reads the next object of an array. last tells that
// nothing may follow the array.
func (r *reader) element(last bool) func() (piece, error) {
	first := true
	return func() (piece, error) {
		c, err := r.skipSpace()
		if err == nil && c == ',' && !first {
			if _, err = r.get(); err == nil {
				if c, err = r.skipSpace(); err == nil && c == ']' {
					return piece{}, r.fail("a comma with no element after it")
				}
			}
		} else if err == nil && c != ']' && !first {
			return piece{}, r.fail("two elements without a comma between them")
		}
		if err == io.EOF {
			return piece{}, r.fail("the file ends in the middle of a list")
		}
		if err != nil {
			return piece{}, err
		}
		first = false
		switch c {
		case ']':
			_, _ = r.get() // it was looked at
			if last {
				return piece{}, r.end()
			}
			return piece{}, io.EOF
		case '{':
			return r.object()
		}
		return piece{}, r.fail("an element that is not an object")
	}
}

// end makes sure that nothing follows, and returns io.EOF then.
func (r *reader) end() error {
	if _, err := r.skipSpace(); err != nil {
		return err
	}
	return r.fail("something follows the end of the list")
}

// object reads a balanced object. Whether its inside is JSON is seen later.
func (r *reader) object() (piece, error) {
	p := piece{line: r.line}
	r.buf = r.buf[:0]
	depth, quoted, escaped := 0, false, false
	for {
		c, err := r.get()
		if err == io.EOF {
			return p, &FileError{p.line, "the file ends in the middle of this object"}
		}
		if err != nil {
			return p, err
		}
		if len(r.buf) <= MaxRecord {
			r.buf = append(r.buf, c)
		}
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				p.text, p.tooLong = r.buf, len(r.buf) > MaxRecord
				return p, nil
			}
		}
	}
}

// openNested finds the list that a member of the file's one object holds.
func (r *reader) openNested(name string) error {
	if _, err := r.get(); err != nil {
		return err
	}
	found := false
	members := r.members(name)
	var list func() (piece, error)
	r.next = func() (piece, error) {
		for {
			if list == nil {
				if err := members(); err != nil {
					if err == io.EOF && !found {
						err = &FileError{0, "the file has no list “" + name + "”: export with users"}
					}
					return piece{}, err
				}
				if found {
					return piece{}, r.fail("the list %q is there twice", name)
				}
				found, list = true, r.element(false)
			}
			p, err := list()
			if err != io.EOF {
				return p, err
			}
			list = nil
		}
	}
	return nil
}

// members returns what reads on to behind the opening bracket of the member's
// list, or to the end of the object and the file.
func (r *reader) members(name string) func() error {
	first := true
	return func() error {
		for {
			c, err := r.skipSpace()
			if err == nil && c == ',' && !first {
				if _, err = r.get(); err == nil {
					c, err = r.skipSpace()
				}
			} else if err == nil && c == '}' {
				_, _ = r.get() // it was looked at
				return r.end()
			}
			if err == io.EOF {
				return r.fail("the file ends in the middle of an object")
			}
			if err != nil {
				return err
			}
			if c != '"' {
				return r.fail("the file is not JSON: the name of a member is missing")
			}
			first = false
			key, err := r.skipString()
			if err != nil {
				return err
			}
			if c, err = r.skipSpace(); err != nil || c != ':' {
				return r.fail("the file is not JSON: a colon is missing")
			}
			_, _ = r.get() // it was looked at
			if c, err = r.skipSpace(); err != nil {
				return r.fail("the file ends in the middle of an object")
			}
			if key == `"`+name+`"` {
				if c != '[' {
					return r.fail("%q is not a list", name)
				}
				_, _ = r.get() // it was looked at
				return nil
			}
			if err := r.skipValue(c); err != nil {
				return err
			}
		}
	}
}

// skipString reads over a string and returns it as it stands, cut after 100
// bytes.
func (r *reader) skipString() (string, error) {
	var b []byte
	escaped := false
	for {
		c, err := r.get()
		if err != nil {
			return "", r.fail("the file ends in the middle of a string")
		}
		if len(b) < 100 {
			b = append(b, c)
		}
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"' && len(b) > 1:
			return string(b), nil
		}
	}
}

// skipValue reads over a value of any size.
func (r *reader) skipValue(c byte) error {
	if c == '"' {
		_, err := r.skipString()
		return err
	}
	depth := 0
	for {
		b, err := r.r.Peek(1)
		if len(b) == 0 {
			if err == io.EOF {
				return r.fail("the file ends in the middle of a value")
			}
			return err
		}
		switch c := b[0]; {
		case c == '"':
			if _, err := r.skipString(); err != nil {
				return err
			}
			continue
		case c == '{' || c == '[':
			depth++
		case (c == '}' || c == ',') && depth == 0:
			return nil
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				_, err := r.get()
				return err
			}
			if depth < 0 {
				return r.fail("the file is not JSON: a bracket that was not opened")
			}
		}
		if _, err := r.get(); err != nil {
			return err
		}
	}
}
