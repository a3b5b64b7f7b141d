package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// fields are the members of a JSON object, or the cells of a CSV line under
// their header. The first mistake sticks, so that a record is read in one go.
type fields struct {
	list []field
	err  error
}

type field struct {
	name string
	json []byte // the value, or
	text string // a cell
	used bool
}

// parseObject reads a JSON object whose members all have different names: of
// two, one reader takes the first and another the last.
func parseObject(text []byte) (*fields, error) {
	if !utf8.Valid(text) {
		return nil, refuse(KindMalformed, "it is not UTF-8")
	}
	if !json.Valid(text) || len(text) == 0 || text[0] != '{' {
		return nil, refuse(KindMalformed, "it is not a JSON object")
	}
	f := &fields{}
	dec := json.NewDecoder(bytes.NewReader(text))
	_, _ = dec.Token() // the bracket; the text is valid
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, refuse(KindMalformed, "it is not a JSON object")
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, refuse(KindMalformed, "it is not a JSON object")
		}
		if f.find(name) != nil {
			return nil, refuse(KindDuplicate, "a member stands twice in it")
		}
		if len(f.list) == maxMembers {
			return nil, refuse(KindMalformed, "it has more than %d members", maxMembers)
		}
		f.list = append(f.list, field{name: name, json: value})
	}
	return f, nil
}

// maxMembers bounds the search for a member.
const maxMembers = 200

// parseCells reads the cells of a CSV record: RFC 4180, and quotes nowhere but
// around a whole cell.
func parseCells(text []byte, cells []string) ([]string, error) {
	cells = cells[:0]
	if !utf8.Valid(text) {
		return nil, refuse(KindMalformed, "it is not UTF-8")
	}
	for {
		var cell string
		if len(text) > 0 && text[0] == '"' {
			var b strings.Builder
			rest := text[1:]
			for {
				i := bytes.IndexByte(rest, '"')
				if i < 0 {
					return nil, refuse(KindMalformed, "a quote is not closed")
				}
				b.Write(rest[:i])
				if rest = rest[i+1:]; len(rest) == 0 || rest[0] != '"' {
					break
				}
				b.WriteByte('"')
				rest = rest[1:]
			}
			cell, text = b.String(), rest
			if len(text) > 0 && text[0] != ',' {
				return nil, refuse(KindMalformed, "something follows a closing quote")
			}
		} else {
			i := bytes.IndexByte(text, ',')
			if i < 0 {
				i = len(text)
			}
			if bytes.IndexByte(text[:i], '"') >= 0 {
				return nil, refuse(KindMalformed, "a quote in the middle of a cell")
			}
			cell, text = string(text[:i]), text[i:]
		}
		if cells = append(cells, cell); len(text) == 0 {
			return cells, nil
		}
		text = text[1:]
	}
}

func (f *fields) find(name string) *field {
	for i := range f.list {
		if f.list[i].name == name {
			return &f.list[i]
		}
	}
	return nil
}

// take returns a member that is there and not null.
func (f *fields) take(name string) *field {
	m := f.find(name)
	if m == nil {
		return nil
	}
	m.used = true
	if m.empty() {
		return nil
	}
	return m
}

func (m *field) empty() bool { return m.json == nil && m.text == "" || string(m.json) == "null" }

func (f *fields) wrong(name, want string) {
	if f.err == nil {
		f.err = refuse(KindType, "%s is not %s", name, want)
	}
}

// str returns a text, "" where there is none.
func (f *fields) str(name string) (s string) {
	m := f.take(name)
	switch {
	case m == nil:
	case m.json == nil:
		return m.text
	case json.Unmarshal(m.json, &s) != nil:
		f.wrong(name, "a text")
	}
	return s
}

// flag returns a truth value, as databases write them.
func (f *fields) flag(name string, otherwise bool) bool {
	m := f.take(name)
	if m == nil {
		return otherwise
	}
	text := m.text
	if m.json != nil {
		text = string(m.json)
	}
	switch text {
	case "true", "t", "True", "TRUE", "1":
		return true
	case "false", "f", "False", "FALSE", "0":
		return false
	}
	f.wrong(name, "true or false")
	return otherwise
}

// active returns a truth value that is true for a table without the column; NULL
// in one that has it is not true, there as little as here.
func (f *fields) active(name string) bool { return f.flag(name, f.find(name) == nil) }

// strs returns a list of texts, nil where there is none.
func (f *fields) strs(name string) (list []string) {
	if m := f.take(name); m != nil && json.Unmarshal(m.json, &list) != nil {
		f.wrong(name, "a list of texts")
	}
	return list
}

// inner returns an object within, nil where there is none.
func (f *fields) inner(name string) *fields {
	m := f.take(name)
	if m == nil {
		return nil
	}
	in, err := parseObject(m.json)
	if err != nil {
		if r, ok := errors.AsType[*refusal](err); ok && r.kind == KindDuplicate && f.err == nil {
			f.err = err
		}
		f.wrong(name, "an object")
		return nil
	}
	return in
}

// Times as databases and serialisers write them; without a zone they are UTC.
var timeForms = []string{
	time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07", "2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999",
}

func (f *fields) time(name string) time.Time {
	text := f.str(name)
	if text == "" {
		return time.Time{}
	}
	for _, form := range timeForms {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC()
		}
	}
	if f.err == nil {
		f.err = refuse(KindTime, "%s is not a time such as 2026-01-31T12:00:00Z", name)
	}
	return time.Time{}
}

// millis returns a time that is written as milliseconds since 1970.
func (f *fields) millis(name string) time.Time {
	m := f.take(name)
	if m == nil {
		return time.Time{}
	}
	n, err := strconv.ParseInt(string(m.json), 10, 64)
	if err != nil || n < 0 || n > 1<<48 {
		f.wrong(name, "milliseconds since 1970")
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

// ignore marks members as known and not wanted.
func (f *fields) ignore(names ...string) {
	for _, n := range names {
		if m := f.find(n); m != nil {
			m.used = true
		}
	}
}

// left returns the names of members that nobody took and that hold something.
func (f *fields) left() (names []string) {
	for i := range f.list {
		m := &f.list[i]
		if !m.used && !m.empty() && !slices.Contains([]string{"[]", "{}", `""`}, string(m.json)) {
			names = append(names, m.name)
		}
	}
	return names
}
