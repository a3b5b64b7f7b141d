package sanitize

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// The oracle parses a result anew, as a browser would, in each place where it
// may stand, and says what is there that must not be.

// places are what surrounds a result in a page. Behind each stands a paragraph
// that must not be swallowed.
var places = []struct {
	name, before, after string
	rich                bool // a place for Rich too; Text stands in all of them
}{
	{"body", "", "", true},
	{"div", "<div>", "</div>", true},
	{"td", "<table><tr><td>", "</td></tr></table>", true},
	{"select", "<select><option>", "</option></select>", false},
	{"textarea", "<textarea>", "</textarea>", true},
	{"title", "<title>", "</title>", true},
	{"svg", "<svg><desc>", "</desc></svg>", true},
	{"svg text", "<svg><text>", "</text></svg>", false},
	{"math", "<math><mtext>", "</mtext></math>", false},
	{"noscript", "<noscript>", "</noscript>", false},
}

// own are the elements of the places.
var own = []string{"html", "head", "body", "div", "table", "tbody", "tr", "td", "select", "option", "textarea", "title", "svg", "desc", "text", "math", "mtext", "noscript"}

// findings returns what is wrong with a result. It has only the elements
// allowed, which is none for Text.
func findings(out string, allowed func(string) bool, isRich bool) (found []string) {
	if !utf8.ValidString(out) || strings.Contains(out, "\x00") || len(out) > MaxBytes {
		found = append(found, "not UTF-8, or NUL, or too long")
	}
	for _, p := range places {
		if isRich && !p.rich {
			continue
		}
		complain := func(format string, args ...any) {
			found = append(found, "in "+p.name+": "+fmt.Sprintf(format, args...))
		}
		doc, err := html.Parse(strings.NewReader("<!doctype html><body>" + p.before + out + p.after + `<p id="after">`))
		if err != nil {
			complain("%v", err)
			continue
		}
		after := false
		var walk func(n *html.Node)
		walk = func(n *html.Node) {
			switch n.Type {
			case html.CommentNode:
				complain("a comment")
			case html.ElementNode:
				if n.Data == "p" && len(n.Attr) == 1 && n.Attr[0].Key == "id" {
					after = n.Parent.Data == "body"
					break
				}
				if !slices.Contains(own, n.Data) && !allowed(n.Data) || len(n.Attr) > 0 && n.Data != "a" {
					complain("element %s with %v", n.Data, n.Attr)
				}
				for _, a := range n.Attr {
					if a.Namespace != "" || a.Key != "href" && a.Key != "rel" || a.Key == "rel" && a.Val != "nofollow noopener noreferrer" || a.Key == "href" && !harmless(a.Val) {
						complain("attribute %v", a)
					}
				}
			}
			for c := n.FirstChild; c != nil; c = c.NextSibling {
				walk(c)
			}
		}
		walk(doc)
		if !after {
			complain("what stands behind it is swallowed")
		}
	}
	return found
}

// harmless tells whether an address has a harmless scheme, read as leniently as
// browsers do (URL standard, section 4.4): control characters around it, and tabs
// and newlines anywhere, do not count.
func harmless(address string) bool {
	address = strings.TrimFunc(address, func(r rune) bool { return r <= ' ' })
	address = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(address)
	scheme, _, ok := strings.Cut(address, ":")
	return ok && slices.Contains([]string{"http", "https", "mailto"}, strings.ToLower(scheme))
}

func nothing(string) bool { return false }

func isElement(name string) bool { _, ok := elements[name]; return ok }

// opens are the ways to begin markup.
var opens = regexp.MustCompile(`<[A-Za-z/!?]|<$`)

// leadingNewline is what a parser leaves out.
var leadingNewline = regexp.MustCompile(`<pre>\n([^\n])`)

// reparsed returns HTML as a browser reads and writes it.
func reparsed(t testing.TB, s string) string {
	t.Helper()
	nodes, err := html.ParseFragment(strings.NewReader(s), &html.Node{Type: html.ElementNode, Data: "div", DataAtom: atom.Div})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, n := range nodes {
		if err := html.Render(&b, n); err != nil {
			t.Fatal(err)
		}
	}
	return strings.ReplaceAll(b.String(), "<br/>", "<br>")
}

// check holds both results of a text against everything that is promised of any
// text.
func check(t testing.TB, in string) {
	t.Helper()
	text, rich := Text(in), Rich(in)
	if at := opens.FindStringIndex(text); at != nil {
		t.Fatalf("Text(%q) = %q begins markup at %d", in, text, at[0])
	}
	if again := Text(text); again != text {
		t.Fatalf("Text(%q) = %q, and again %q", in, text, again)
	}
	if f := findings(text, nothing, false); f != nil {
		t.Fatalf("Text(%q) = %q: %q", in, text, f)
	}
	if again := Rich(rich); again != rich {
		t.Fatalf("Rich(%q) = %q, and again %q", in, rich, again)
	}
	if f := findings(rich, isElement, true); f != nil {
		t.Fatalf("Rich(%q) = %q: %q", in, rich, f)
	}
	// A browser that takes it apart and writes it again changes nothing.
	if again := reparsed(t, rich); again != leadingNewline.ReplaceAllString(rich, "<pre>$1") && again != rich {
		t.Fatalf("Rich(%q) = %q, and reparsed %q", in, rich, again)
	}
	for name, f := range map[string]func(string) string{"text": Text, "rich": Rich} {
		out, err := Policy(name).Sanitize(in)
		if out != f(in) || (err != nil) != (len(in) > MaxBytes) && len(in) < MaxBytes/8 {
			t.Fatalf("Policy %s of %q: %q, %v", name, in, out, err)
		}
	}
}

// The oracle finds what it is there to find.
func TestOracle(t *testing.T) {
	for _, bad := range []string{
		"<script>alert(1)</script>", "<p onclick=x>", "<a href=javascript:x rel='nofollow noopener noreferrer'>", "<a href=' java\nscript:x'>", "<svg onload=x>",
		"<style>*{}</style>", "<iframe>", "<b>x", "</div><p>", "<!-- ", "<img src=x onerror=x>", "<p style=x>", "<p id=x>", "<form>", "<base href=x>", "<meta http-equiv=refresh>",
		"<a href=https://example.com>x</a>", "</textarea><script>x</script>", "</title><img>", "\x00", "\xff",
	} {
		if findings(bad, isElement, true) == nil && reparsed(t, bad) == bad {
			t.Errorf("%q is not found", bad)
		}
	}
	for _, good := range []string{"", "a &lt; b", "<p>x</p>", `<a href="https://example.com" rel="nofollow noopener noreferrer">x</a>`, "<ul><li>x</li></ul>"} {
		if f := findings(good, isElement, true); f != nil || reparsed(t, good) != good {
			t.Errorf("%q: %q", good, f)
		}
	}
	if findings("<b>x</b>", nothing, false) == nil || findings("a < b", nothing, false) != nil {
		t.Error("of plain text")
	}
}
