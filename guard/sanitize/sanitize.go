// Package sanitize takes markup out of text that strangers wrote. It decides
// what stays: Text keeps no markup at all, Rich a small safe subset of HTML. It
// is for any program.
//
// It is the second line. The first is that whoever writes text into a page
// escapes it for the place where it stands, as html/template does, and text that
// is escaped needs no sanitiser. Use Text for text that must look right where
// nobody expects markup (a name in a mail, a title in a list of somebody else's
// client), and Rich for text that is to be put into a page as HTML, such as what
// an editor in a browser makes. Neither makes a value safe within a script, a
// style sheet, an address, or an attribute.
//
// Both take time in proportion to the length, do not recurse, and are
// idempotent: Text(Text(s)) is Text(s), and so for Rich. Neither looks at what it
// removes, and neither result depends on having understood it: what is written
// is only what is known to be harmless. Bytes that are not UTF-8 become U+FFFD,
// NUL is removed, and what is longer than MaxBytes, before or after, becomes
// nothing.
//
// The package stores nothing and puts no part of a text into an error.
//
// Begin with Text.
package sanitize

import (
	"errors"
	"fmt"
	"strings"
)

// MaxBytes is how long a text and what becomes of it may be.
const MaxBytes = 1 << 20

// ErrTooLarge is the error for a text that is longer than MaxBytes, or becomes so.
var ErrTooLarge = fmt.Errorf("sanitize: the text is longer than %d bytes", MaxBytes)

// Policy names what stays of a text, as configuration and struct tags do.
type Policy string

// The policies there are.
const (
	PolicyText Policy = "text" // Text
	PolicyRich Policy = "rich" // Rich
)

// Sanitize is Text or Rich, with ErrTooLarge where these return nothing for a
// text that is too long. An unknown policy, the empty one too, is an error.
func (p Policy) Sanitize(s string) (string, error) {
	var f func(string) string
	switch p {
	case PolicyText:
		f = text
	case PolicyRich:
		f = rich
	default:
		return "", errors.New("sanitize: there is no such policy. Use “text” or “rich”")
	}
	if len(s) > MaxBytes {
		return "", ErrTooLarge
	}
	out := f(clean(s))
	if len(out) > MaxBytes {
		return "", ErrTooLarge
	}
	return out, nil
}

// Text removes all markup and returns plain text, which is to be escaped where
// it is shown, like any text.
//
// Everything that is no markup stays byte for byte: “a < b & c” stays as it is,
// and so does “&lt;script&gt;”, for character references are no markup, and
// decoding them would make some. Tags and comments are removed; of script, style,
// iframe, noembed, noframes, noscript, object, template, svg and math also what
// stands between the tags, to the end if they are not closed. A tag that never
// ends is no tag: “x<y” becomes “x< y”.
//
// In the result no “<” is followed by a letter, “/”, “!” or “?”, and it does not
// end in “<”: where that would be, a space is put behind it. So even where
// somebody forgets to escape, it begins no element, comment or end tag between
// the tags of a page, nor in a title or textarea. In an attribute, a forgotten
// escape is a hole all the same: quotes stay.
//
// The result is empty if s or the result is longer than MaxBytes.
func Text(s string) string {
	out, _ := PolicyText.Sanitize(s)
	return out
}

// Rich returns HTML of a small subset, which is to be put into a page as it is:
// between the tags of a block such as div, not in an attribute, a script or a
// comment.
//
// The elements are p, br, strong, em, b, i, u, s, blockquote, code, pre, ul, ol,
// li, h1 to h6, and a. The only attribute is href, of a, with an absolute http,
// https or mailto address without a user name; rel="nofollow noopener noreferrer"
// is added. Other tags are removed and what stands between them stays, except for
// the elements whose content Text removes too. No style, class, id, image, form or
// table stays; an a without an address, and a li outside of a list, are removed.
//
// The result is well-formed: every element is closed within it, the tags of p and
// li that HTML lets one leave out are there, and elements are nested at most
// MaxDepth deep; tags beyond that are removed. In text, <, >, & and quotes are
// escaped: “a < b” becomes “a &lt; b”.
//
// The result is empty if s or the result is longer than MaxBytes.
func Rich(s string) string {
	out, _ := PolicyRich.Sanitize(s)
	return out
}

// clean makes UTF-8 without NUL of a text: browsers, databases and parsers differ
// on both.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

// dropped are the elements whose content is nothing to read: code, and what is
// shown only where something else cannot be. Of the value true are those whose
// content is not parsed: it goes to the first end tag of that name.
var dropped = map[string]bool{
	"script": true, "style": true, "iframe": true, "noembed": true, "noframes": true, "noscript": true,
	"object": false, "template": false, "svg": false, "math": false,
}
