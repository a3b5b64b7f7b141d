package sanitize

import "strings"

// text removes markup. It reads s once from left to right: every search either
// finds something, and goes on behind it, or ends the text.
func text(s string) string {
	if strings.IndexByte(s, '<') < 0 {
		return s
	}
	w := plain{out: make([]byte, 0, len(s))}
	lastEnd := strings.LastIndexByte(s, '>') // behind it, nothing is a tag
	skipping, depth := "", 0                 // the dropped element we are in
	for len(s) > 0 {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			i = len(s)
		}
		if skipping == "" {
			w.write(s[:i])
		}
		s, lastEnd = s[i:], lastEnd-i
		if s == "" {
			break
		}
		length := 1
		switch m := markup(s); {
		case m == none || lastEnd < 0:
			if skipping == "" {
				w.write("<")
			}
		case m == comment:
			length = commentLength(s)
		case m == declaration:
			length = strings.IndexByte(s, '>') + 1
		default:
			name, empty, n := tag(s)
			length = n
			unparsed, drop := dropped[name]
			switch {
			case !drop:
			case m == endTag:
				if name == skipping {
					if depth--; depth == 0 {
						skipping = ""
					}
				}
			case unparsed:
				length += contentLength(s[n:], name)
			case empty && (name == "svg" || name == "math"): // elsewhere “/>” means nothing
			case skipping == "":
				skipping, depth = name, 1
			case skipping == name:
				depth++
			}
		}
		s, lastEnd = s[length:], lastEnd-length
	}
	return w.end()
}

// plain is plain text that is being written. It never holds “<” before what
// would make markup of it, whatever is written in how many pieces, so long as
// “<” comes alone.
type plain struct{ out []byte }

func (w *plain) write(s string) {
	if s == "" {
		return
	}
	if n := len(w.out); n > 0 && w.out[n-1] == '<' && markup("<"+s[:1]) != none {
		w.out = append(w.out, ' ')
	}
	w.out = append(w.out, s...)
}

func (w *plain) end() string {
	if n := len(w.out); n > 0 && w.out[n-1] == '<' {
		w.out = append(w.out, ' ')
	}
	return string(w.out)
}

// What a “<” can begin (HTML standard, section 13.2.5.6, "Tag open state").
const (
	none = iota
	startTag
	endTag
	comment
	declaration // <!DOCTYPE>, <?xml?>, </3>: what browsers make empty comments of
)

// markup says what s, whose first byte is “<”, begins.
func markup(s string) int {
	switch {
	case len(s) < 2:
		return none
	case isLetter(s[1]):
		return startTag
	case s[1] == '/' && len(s) > 2 && isLetter(s[2]):
		return endTag
	case strings.HasPrefix(s, "<!--"):
		return comment
	case s[1] == '!', s[1] == '?', s[1] == '/':
		return declaration
	}
	return none
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r' }

// tag takes a tag apart: its name in lower case, whether it ends in “/>”, and
// its length. A “>” in a quoted value is not its end; a quote that is never
// closed goes to the end of the text, as in browsers.
func tag(s string) (name string, empty bool, length int) {
	i := 1
	if s[1] == '/' {
		i = 2
	}
	from := i
	for i < len(s) && !isSpace(s[i]) && s[i] != '/' && s[i] != '>' {
		i++
	}
	name = lower(s[from:i])
	for ; i < len(s); i++ {
		switch s[i] {
		case '>':
			return name, s[i-1] == '/', i + 1
		case '=':
			v := i + 1
			for v < len(s) && isSpace(s[v]) {
				v++
			}
			if v < len(s) && (s[v] == '"' || s[v] == '\'') {
				n := strings.IndexByte(s[v+1:], s[v])
				if n < 0 {
					return name, false, len(s)
				}
				i = v + 1 + n
			}
		}
	}
	return name, false, len(s)
}

// lower is the name of an element; those that matter are short and ASCII.
func lower(name string) string {
	if len(name) > len("noframes") {
		return ""
	}
	return strings.ToLower(name)
}

// commentLength is the length of the comment that s begins (HTML standard,
// section 13.2.5.43 and after).
func commentLength(s string) int {
	const open = len("<!--")
	for _, short := range []string{">", "->"} {
		if strings.HasPrefix(s[open:], short) {
			return open + len(short)
		}
	}
	for i := open; ; {
		n := strings.Index(s[i:], "--")
		if n < 0 {
			return len(s)
		}
		i += n + 1
		rest := s[i+1:]
		if strings.HasPrefix(rest, ">") {
			return i + 2
		}
		if strings.HasPrefix(rest, "!>") {
			return i + 3
		}
	}
}

// contentLength is how far it is to the end tag of an element whose content is
// not parsed.
func contentLength(s, name string) int {
	for i := 0; ; {
		n := strings.Index(s[i:], "</")
		if n < 0 {
			return len(s)
		}
		i += n
		rest := s[i+2:]
		if len(rest) > len(name) && strings.EqualFold(rest[:len(name)], name) && (isSpace(rest[len(name)]) || rest[len(name)] == '/' || rest[len(name)] == '>') {
			return i
		}
		i += 2
	}
}
