package sanitize

import (
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/microcosm-cc/bluemonday"
)

// MaxDepth is how deep elements are nested in what Rich returns.
const MaxDepth = 64

// elements are those that Rich keeps, in lower case. Of the value true are the
// blocks, before which an open p ends.
var elements = map[string]bool{
	"p": true, "blockquote": true, "pre": true, "ul": true, "ol": true, "li": true,
	"h1": true, "h2": true, "h3": true, "h4": true, "h5": true, "h6": true,
	"br": false, "strong": false, "em": false, "b": false, "i": false, "u": false, "s": false, "code": false, "a": false,
}

// library is the policy for bluemonday, which reads what strangers wrote as
// browsers do. It is made at its first use.
var library = sync.OnceValue(func() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	for name := range elements {
		if name != "a" {
			p.AllowElements(name)
		}
	}
	p.AllowAttrs("href").OnElements("a")
	p.RequireParseableURLs(true)
	p.AllowURLSchemeWithCustomPolicy("https", isWeb)
	p.AllowURLSchemeWithCustomPolicy("http", isWeb)
	p.AllowURLSchemeWithCustomPolicy("mailto", isMail)
	for name := range dropped {
		p.SkipElementsContent(name)
	}
	p.AllowElementsContent("frame", "frameset", "nostyle", "title")
	return p
})

// isWeb tells whether an http or https address is whole. One with a user name
// looks like another's: https://bank.example@evil.example.
func isWeb(u *url.URL) bool {
	return u.Hostname() != "" && u.User == nil && u.Opaque == "" && isStable(u)
}

func isMail(u *url.URL) bool { return u.Opaque != "" && isStable(u) }

// isStable tells whether an address stays what it is when it is read and
// written again.
func isStable(u *url.URL) bool {
	s := u.String()
	again, err := url.Parse(s)
	return err == nil && again.String() == s && !strings.ContainsAny(s, "\"'<>\\` \t\r\n")
}

// rich reduces HTML in two steps. bluemonday takes it apart and writes tags that
// are allowed and escaped text; then every tag is written anew from the names
// above, closed and nested. So neither a tag nor an attribute that is not in this
// file can be in the result, whatever the first step makes of its input.
func rich(s string) string {
	if strings.IndexByte(s, '\r') >= 0 { // which parsers of HTML read as a newline
		s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	}
	if !strings.ContainsAny(s, "<>&\"'") {
		return s
	}
	return balance(library().Sanitize(s))
}

// balance writes well-formed HTML from what bluemonday wrote, in which “<” and
// “>” stand for nothing but tags.
func balance(s string) string {
	w := nest{out: make([]byte, 0, len(s)+len(s)/8)}
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			w.text(s)
			break
		}
		w.text(s[:i])
		n := strings.IndexByte(s[i:], '>')
		if n < 0 {
			break
		}
		inside := s[i+1 : i+n]
		s = s[i+n+1:]
		if name, ok := strings.CutPrefix(inside, "/"); ok {
			w.close(name)
			continue
		}
		name, attributes, _ := strings.Cut(strings.TrimSuffix(inside, "/"), " ")
		w.open(name, attributes)
	}
	w.pop(0)
	return string(w.out)
}

// nest is HTML that is being written, with the elements that are open.
type nest struct {
	out   []byte
	stack []string
}

// text writes what is escaped already. Nothing in it can be markup; should it be,
// it is left out.
func (w *nest) text(s string) {
	if !strings.ContainsAny(s, "<>\"'") {
		w.out = append(w.out, s...)
	}
}

func (w *nest) open(name, attributes string) {
	block, known := elements[name]
	if !known {
		return
	}
	if name == "br" {
		w.out = append(w.out, "<br>"...)
		return
	}
	if name == "li" {
		list := -1 // the innermost; its entry that is still open ends here
		for i, e := range w.stack {
			if e == "ul" || e == "ol" {
				list = i
			}
		}
		if list < 0 {
			return
		}
		if i := slices.Index(w.stack[list:], "li"); i >= 0 {
			w.pop(list + i)
		}
	}
	if block {
		if i := slices.Index(w.stack, "p"); i >= 0 {
			w.pop(i)
		}
	}
	if n := len(w.stack); n > 0 && isHeading(name) && isHeading(w.stack[n-1]) {
		w.pop(n - 1)
	}
	if len(w.stack) >= MaxDepth {
		return
	}
	if name != "a" {
		w.out = append(append(append(w.out, '<'), name...), '>')
		w.stack = append(w.stack, name)
		return
	}
	address, ok := href(attributes)
	if !ok || slices.Contains(w.stack, "a") {
		return
	}
	w.out = append(append(append(w.out, `<a href="`...), address...), `" rel="nofollow noopener noreferrer">`...)
	w.stack = append(w.stack, "a")
}

func isHeading(name string) bool { return len(name) == 2 && name[0] == 'h' }

// close closes an element and what is open within it; the end of what is not
// open is left out.
func (w *nest) close(name string) {
	for i := len(w.stack) - 1; i >= 0; i-- {
		if w.stack[i] == name {
			w.pop(i)
			return
		}
	}
}

// pop closes elements until n are open.
func (w *nest) pop(n int) {
	for len(w.stack) > n {
		last := w.stack[len(w.stack)-1]
		w.out = append(append(append(w.out, "</"...), last...), '>')
		w.stack = w.stack[:len(w.stack)-1]
	}
}

// href returns the first address of escaped attributes, for of repeated ones the
// first counts.
func href(attributes string) (string, bool) {
	rest, ok := strings.CutPrefix(attributes, `href="`)
	if !ok {
		return "", false
	}
	address, _, ok := strings.Cut(rest, `"`)
	for _, scheme := range []string{"https://", "http://", "mailto:"} {
		if ok && strings.HasPrefix(address, scheme) && !strings.ContainsAny(address, "<>'") {
			return address, true
		}
	}
	return "", false
}
