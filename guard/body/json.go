package body

import (
	"bytes"
	"hash/maphash"
	"net/http"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// DefaultMaxDepth is how many arrays and objects may stand inside one another
// where the caller names no other bound.
const DefaultMaxDepth = 32

// The codes of a JSONError. They are stable: callers of an API see them.
const (
	CodeInvalidJSON     = "invalid_json"     // not RFC 8259 JSON, or nothing at all
	CodeInvalidUTF8     = "invalid_utf8"     // bytes that are not UTF-8, or half of a surrogate pair as an escape
	CodeDuplicateMember = "duplicate_member" // two names in one object that a decoder could take for one
	CodeTooDeep         = "too_deep"         // nested deeper than allowed
	CodeTrailingData    = "trailing_data"    // something other than white space after the value
)

// JSONError says what is wrong with a JSON text and where. It never holds any
// of the text, which may be a secret.
type JSONError struct {
	Code   string // one of the codes above
	Offset int    // in bytes, from 0: where the offence begins, or the length of a text that ends too soon
}

// Error says the code and where, and nothing of the text.
func (e *JSONError) Error() string {
	return "body: " + e.Code + " at byte " + strconv.Itoa(e.Offset)
}

// Refusal returns the error to answer a request with: status 400 and the same
// code.
func (e *JSONError) Refusal() *sallyport.Error {
	at := " (at byte " + strconv.Itoa(e.Offset) + ")."
	var m string
	switch e.Code {
	case CodeInvalidUTF8:
		m = "The body holds text that is not valid UTF-8" + at + " Send JSON encoded as UTF-8, without unpaired surrogate escapes."
	case CodeDuplicateMember:
		m = "An object in the body has the same member twice" + at + " Names that differ only in case or in escaping count as the same. Send each member once."
	case CodeTooDeep:
		m = "The body is nested too deeply" + at + " Send a flatter document."
	case CodeTrailingData:
		m = "The body goes on after its JSON value" + at + " Send exactly one value."
	default:
		m = "The body is not valid JSON" + at + " Send one JSON value as RFC 8259 defines it, without a byte order mark."
	}
	return &sallyport.Error{Status: http.StatusBadRequest, Code: e.Code, Message: m}
}

// CheckJSON returns nil if b is one JSON value (RFC 8259) that every decoder
// reads alike, and otherwise a *JSONError. Beyond the grammar it demands:
//
//   - valid UTF-8 without a byte order mark, and no escape that is half of a
//     surrogate pair: decoders replace, drop or refuse these;
//   - no two members of one object whose names are equal after unescaping and
//     Unicode simple case folding: encoding/json lets the last one win, matches
//     names to struct fields without regard to case (the Kelvin sign is a k),
//     and others take the first;
//   - at most maxDepth arrays and objects inside one another; below 1 means
//     DefaultMaxDepth;
//   - nothing after the value but white space, and not nothing at all.
//
// Numbers are checked for their grammar only: whether 1e400 fits is for whoever
// decodes it into a type.
//
// It is one pass without recursion. Time is linear in len(b), at the speed of
// json.Valid. Memory is below 200 bytes for each member of the objects that are
// open at one time; a text with no more than 32 of those and 32 levels, with
// names of up to 64 bytes, needs none from the heap.
func CheckJSON(b []byte, maxDepth int) error {
	if maxDepth < 1 {
		maxDepth = DefaultMaxDepth
	}
	c := checker{b: b, maxDepth: maxDepth}
	if code := c.document(); code != "" {
		return &JSONError{Code: code, Offset: c.i}
	}
	return nil
}

// checker is one walk over a text. Its methods return the code of what is
// wrong, with i at the place, or "" with i behind what was read.
type checker struct {
	b        []byte
	i        int
	maxDepth int
	seed     maphash.Seed // drawn when the first name is met
}

// container is one array or object that has been opened and not yet closed.
type container struct {
	object bool
	first  int                 // its names are names[first:]
	index  map[uint64]struct{} // their hashes, once there are linearNames of them
}

// name is one member's name: where its raw text stands between the quotes,
// and the hash of its folded form. The hash is seeded per text, so that nobody
// can prepare names that collide.
type name struct {
	hash       uint64
	start, end int
}

// linearNames is the size up to which an object's names are searched one by
// one; it is a constant, so the whole stays linear.
const linearNames = 32

func (c *checker) document() string {
	// The arrays and objects around i, innermost last, and the names seen in
	// those objects, in the same order. They begin on this function's stack and
	// stay there because no pointer to them is kept anywhere else.
	open := make([]container, 0, DefaultMaxDepth)
	names := make([]name, 0, 48)
	for {
		// Here a value must stand.
		c.space()
		if c.i == len(c.b) {
			return CodeInvalidJSON
		}
		more := false // whether a container goes on behind c.i
		switch ch := c.b[c.i]; ch {
		case '{', '[':
			if len(open) == c.maxDepth {
				return CodeTooDeep
			}
			open = append(open, container{object: ch == '{', first: len(names)})
			c.i++
			c.space()
			more = true
			if c.i < len(c.b) && c.b[c.i] == ch+2 { // ']' is '['+2 and '}' is '{'+2
				c.i++
				open = open[:len(open)-1]
				more = false
			}
		case '"':
			if code := c.text(); code != "" {
				return code
			}
		case 't':
			if !c.literal("true") {
				return CodeInvalidJSON
			}
		case 'f':
			if !c.literal("false") {
				return CodeInvalidJSON
			}
		case 'n':
			if !c.literal("null") {
				return CodeInvalidJSON
			}
		default:
			if ch != '-' && !digit(ch) {
				return c.unexpected()
			}
			if !c.number() {
				return c.unexpected()
			}
		}

		// Behind a value: as many ends of containers as there are, and then a
		// comma, or the end of the text.
		for !more {
			c.space()
			if len(open) == 0 {
				if c.i < len(c.b) {
					return CodeTrailingData
				}
				return ""
			}
			if c.i == len(c.b) {
				return CodeInvalidJSON
			}
			object := open[len(open)-1].object
			switch ch := c.b[c.i]; {
			case ch == ',':
				c.i++
				c.space()
				more = true
			case ch == '}' && object, ch == ']' && !object:
				c.i++
				names = names[:open[len(open)-1].first]
				open = open[:len(open)-1]
			default:
				return c.unexpected()
			}
		}

		// Inside a container, before its next element. An object's begins with
		// a name.
		if o := &open[len(open)-1]; o.object {
			n, code := c.member(o, names[o.first:])
			if code != "" {
				return code
			}
			names = append(names, n)
		}
	}
}

// unexpected is the code for a byte that cannot stand at i.
func (c *checker) unexpected() string {
	if c.i < len(c.b) {
		if r, n := utf8.DecodeRune(c.b[c.i:]); r == utf8.RuneError && n == 1 {
			return CodeInvalidUTF8
		}
	}
	return CodeInvalidJSON
}

func (c *checker) space() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ' ', '\t', '\r', '\n':
			c.i++
		default:
			return
		}
	}
}

func (c *checker) literal(word string) bool {
	if !bytes.HasPrefix(c.b[c.i:], []byte(word)) {
		return false
	}
	c.i += len(word)
	return true
}

// number reads the grammar of RFC 8259, section 6.
func (c *checker) number() bool {
	if c.b[c.i] == '-' {
		c.i++
	}
	if c.i < len(c.b) && c.b[c.i] == '0' {
		c.i++
	} else if !c.digits() {
		return false
	}
	if c.i < len(c.b) && c.b[c.i] == '.' {
		c.i++
		if !c.digits() {
			return false
		}
	}
	if c.i < len(c.b) && c.b[c.i]|0x20 == 'e' {
		c.i++
		if c.i < len(c.b) && (c.b[c.i] == '+' || c.b[c.i] == '-') {
			c.i++
		}
		return c.digits()
	}
	return true
}

func (c *checker) digits() bool {
	start := c.i
	for c.i < len(c.b) && digit(c.b[c.i]) {
		c.i++
	}
	return c.i > start
}

func digit(ch byte) bool { return ch-'0' <= 9 }

// text reads a string from its opening quote to behind its closing one.
func (c *checker) text() string {
	b := c.b
	i := c.i + 1
	for i < len(b) {
		switch ch := b[i]; {
		case ch == '"':
			c.i = i + 1
			return ""
		case ch == '\\':
			r, n := unescape(b[i:])
			if n == 0 {
				c.i = i
				return CodeInvalidJSON
			}
			if r == half {
				c.i = i
				return CodeInvalidUTF8
			}
			i += n
		case ch < ' ':
			c.i = i
			return CodeInvalidJSON
		case ch < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				c.i = i
				return CodeInvalidUTF8
			}
			i += n
		}
	}
	c.i = len(b)
	return CodeInvalidJSON
}

// member reads the next name of the object o and the colon behind it. others
// are the names that o had before.
func (c *checker) member(o *container, others []name) (name, string) {
	if c.i == len(c.b) || c.b[c.i] != '"' {
		return name{}, c.unexpected()
	}
	quote := c.i
	if code := c.text(); code != "" {
		return name{}, code
	}
	n, repeated := c.name(quote+1, c.i-1, o, others)
	if repeated {
		c.i = quote
		return name{}, CodeDuplicateMember
	}
	c.space()
	if c.i == len(c.b) || c.b[c.i] != ':' {
		return name{}, c.unexpected()
	}
	c.i++
	return n, ""
}

// name returns the name b[start:end] and whether it is among the others.
func (c *checker) name(start, end int, o *container, others []name) (name, bool) {
	if c.seed == (maphash.Seed{}) {
		c.seed = maphash.MakeSeed()
	}
	var room [64]byte // larger names go to the heap
	folded := appendFolded(room[:0], c.b[start:end])
	n := name{maphash.Bytes(c.seed, folded), start, end}

	search := true
	if len(others) >= linearNames {
		if o.index == nil {
			o.index = make(map[uint64]struct{}, 2*linearNames)
			for _, other := range others {
				o.index[other.hash] = struct{}{}
			}
		}
		// A hash that is there and yet belongs to another name is an accident
		// of one in 2⁶⁴; then the names are searched once.
		_, search = o.index[n.hash]
		o.index[n.hash] = struct{}{}
	}
	if search {
		for _, other := range others {
			if other.hash == n.hash && bytes.Equal(folded, appendFolded(nil, c.b[other.start:other.end])) {
				return n, true
			}
		}
	}
	return n, false
}

// appendFolded appends to dst the name that raw, a checked text between its
// quotes, stands for, with every rune replaced by the smallest one that differs
// from it only in case. Two names are equal under strings.EqualFold exactly if
// their folded forms are equal.
func appendFolded(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		ch := raw[i]
		if 'a' <= ch && ch <= 'z' {
			ch -= 'a' - 'A'
		}
		if ch < utf8.RuneSelf && ch != '\\' {
			dst = append(dst, ch)
			i++
			continue
		}
		var r rune
		var n int
		if ch == '\\' {
			r, n = unescape(raw[i:])
		} else {
			r, n = utf8.DecodeRune(raw[i:])
		}
		dst = utf8.AppendRune(dst, fold(r))
		i += n
	}
	return dst
}

// fold returns the smallest rune of those that differ from r only in case.
func fold(r rune) rune {
	for {
		next := unicode.SimpleFold(r) // goes up through the set, then back to its smallest
		if next <= r {
			return next
		}
		r = next
	}
}

// half is what unescape returns for an escape that is half of a surrogate pair.
const half rune = -1

// unescape reads the escape sequence at the beginning of b and returns its rune
// and its length in bytes, which is 0 if it is not an escape sequence.
func unescape(b []byte) (rune, int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	}
	r, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := hex4(b[6:])
	if !ok {
		return half, 6
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return half, 6
	}
	return r, 12
}

// hex4 reads an escape of the form \uXXXX at the beginning of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, ch := range b[2:6] {
		d, ok := hexDigit(ch)
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}
