package mail

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html"
	htmltemplate "html/template"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	texttemplate "text/template"
	"time"

	"github.com/sallyport/sallyport"
)

//go:embed templates
var embedded embed.FS

// written is a pair of templates for one kind of letter.
type written struct {
	subject, text *texttemplate.Template
	html          *htmltemplate.Template
}

// The templates that all kinds share: the frame around “content”, and what stands
// in several letters.
const (
	layoutFile = "layout"
	partsFile  = "parts"
)

// maxTemplate bounds a file, in bytes.
const maxTemplate = 256 << 10

// CheckTemplates returns what is wrong with the templates of a folder.
func CheckTemplates(folder string) error {
	_, err := readTemplates(folder)
	return err
}

// oursOnly are the templates without a folder: they do not change.
var oursOnly = sync.OnceValues(func() (map[Kind]written, error) { return parseTemplates("") })

func readTemplates(folder string) (map[Kind]written, error) {
	if folder == "" {
		return oursOnly()
	}
	return parseTemplates(folder)
}

// parseTemplates parses all templates, those of a folder in place of ours, and
// writes sample letters with them. It returns every mistake, with file and line.
func parseTemplates(folder string) (map[Kind]written, error) {
	var errs []error
	said := map[string]bool{}
	bad := func(reason string) {
		if !said[reason] { // one of the shared files is wrong for every kind
			errs = append(errs, sallyport.Mistake("mail.templates", folder, reason, "Mend the file, or take it away: then ours of that name is used."))
		}
		said[reason] = true
	}
	files, err := filesOf(folder, bad)
	if err != nil {
		return nil, sallyport.Mistake("mail.templates", folder, err.Error(), "Give a folder that the server can read, or leave it out.")
	}
	all := map[Kind]written{}
	for _, k := range Kinds() {
		w, err := parseKind(files, string(k))
		if err == nil {
			err = w.try(k)
		}
		if err != nil {
			bad(plainError(err))
			continue
		}
		all[k] = w
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

// filesOf returns the text of every template. A file of the folder that is no
// template's is a mistake: somebody has mistyped its name.
func filesOf(folder string, bad func(string)) (map[string]string, error) {
	files := map[string]string{}
	for _, name := range fileNames() {
		b, err := embedded.ReadFile("templates/" + name)
		if err != nil {
			return nil, err
		}
		files[name] = string(b)
	}
	if folder == "" {
		return files, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, plainPath(err)
	}
	for _, e := range entries {
		name := e.Name()
		if ext := filepath.Ext(name); ext != ".html" && ext != ".txt" {
			continue
		}
		if _, known := files[name]; !known {
			bad(name + ": there is no letter of that name")
			continue
		}
		f, err := os.Open(filepath.Join(folder, name))
		if err != nil {
			bad(name + ": " + plainPath(err).Error())
			continue
		}
		b, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
		_ = f.Close()
		switch {
		case err != nil:
			bad(name + ": " + plainPath(err).Error())
		case len(b) > maxTemplate:
			bad(fmt.Sprintf("%s: it has more than %d bytes", name, maxTemplate))
		default:
			files[name] = strings.ReplaceAll(strings.TrimPrefix(string(b), "\ufeff"), "\r\n", "\n")
		}
	}
	return files, nil
}

// fileNames returns the name of every template.
func fileNames() (names []string) {
	for _, base := range append([]string{layoutFile, partsFile}, kindNames()...) {
		names = append(names, base+".html", base+".txt")
	}
	return names
}

func kindNames() (names []string) {
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	return names
}

func plainPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// plainError takes away what the template packages put before file and line.
func plainError(err error) string {
	text := strings.TrimPrefix(err.Error(), "html/")
	return oneLine(strings.TrimPrefix(text, "template:"))
}

// parseKind parses the three templates of a letter.
func parseKind(files map[string]string, kind string) (w written, err error) {
	first, rest, _ := strings.Cut(files[kind+".txt"], "\n")
	subject, ok := strings.CutPrefix(first, "Subject: ")
	if !ok {
		return w, fmt.Errorf("%s.txt:1: the first line is not “Subject: ” and the subject", kind)
	}
	if w.subject, err = texttemplate.New(kind + ".txt").Parse(subject); err != nil {
		return w, err
	}
	w.text = texttemplate.New(layoutFile + ".txt")
	for _, f := range [][2]string{{layoutFile, files[layoutFile+".txt"]}, {partsFile, files[partsFile+".txt"]}, {kind, "\n" + rest}} { // and lines count right
		t := w.text
		if f[0] != layoutFile {
			t = t.New(f[0] + ".txt")
		}
		if _, err = t.Parse(f[1]); err != nil {
			return w, err
		}
	}
	if _, err = w.text.AddParseTree("content", w.text.Lookup(kind+".txt").Tree); err != nil {
		return w, err
	}
	w.html = htmltemplate.New(layoutFile + ".html")
	for _, name := range []string{layoutFile, partsFile, kind} {
		t := w.html
		if name != layoutFile {
			t = t.New(name + ".html")
		}
		if _, err = t.Parse(files[name+".html"]); err != nil {
			return w, err
		}
	}
	if _, err = w.html.AddParseTree("content", w.html.Lookup(kind+".html").Tree); err != nil {
		return w, err
	}
	// By itself first: a quote that is not closed would be said to be the frame's.
	alone, err := w.html.Clone()
	if err == nil {
		err = alone.ExecuteTemplate(io.Discard, kind+".html", view{})
	}
	return w, err
}

// view is what templates see. No field can hold more than it says: see facts.go.
type view struct {
	Kind    string
	Service string // what the service is called
	URL     string // where it is
	Subject string // not in the subject itself
	Name    string // of the person; "" if it is not known, or could be taken for something else
	Address string // another mail address, as a***@e***.com
	Client  string // IP address from which it was done
	Device  string // browser and system with which it was done
	At      string // when it was done: 22 November 2026, 10:15 UTC
	Until   string // how long the link is good: 10:45 UTC
	Minutes int    // the same, from At
	Link    string
	Code    string
}

// write makes the three texts of a letter.
func (w written) write(v view) (subject, text, markup string, err error) {
	var b bytes.Buffer
	if err := w.subject.Execute(&b, v); err != nil {
		return "", "", "", err
	}
	subject = clipped(oneLine(b.String()), maxSubject)
	if subject == "" {
		return "", "", "", fmt.Errorf("%s:1: the subject is empty", w.subject.Name())
	}
	v.Subject = subject
	b.Reset()
	if err := w.text.Execute(&b, v); err != nil {
		return "", "", "", err
	}
	text = strings.TrimLeft(b.String(), "\n")
	b.Reset()
	if err := w.html.Execute(&b, v); err != nil {
		return "", "", "", err
	}
	return subject, text, b.String(), nil
}

// maxSubject bounds a subject, in characters.
const maxSubject = 200

const sampleCode = "987654"

// try writes a full and a bare letter, and looks whether link and code are in it.
func (w written) try(k Kind) error {
	bare := view{Kind: string(k), Service: "S", URL: "https://id.example.com", At: "now"}
	if pages[k] != "" {
		bare.Link, bare.Until, bare.Minutes = "https://id.example.com"+pages[k]+"#token=sample-of-a-token", "then", 30
	}
	full := bare
	full.Name, full.Address, full.Client, full.Device = "Ada", "a***@e***.com", "192.0.2.1", "Firefox on Linux"
	if k == SignIn {
		full.Code = sampleCode
	}
	for _, v := range []view{bare, full} {
		_, text, markup, err := w.write(v)
		if err != nil {
			return err
		}
		for _, part := range []struct{ file, has string }{{"txt", text}, {"html", html.UnescapeString(markup)}} {
			if !strings.Contains(part.has, v.Link) {
				return fmt.Errorf("%s.%s: the letter does not hold {{.Link}}, and is worth nothing without it", k, part.file)
			}
			if !strings.Contains(part.has, v.Code) {
				return fmt.Errorf("%s.%s: the letter does not hold {{.Code}}, for which it may have been asked", k, part.file)
			}
		}
	}
	return nil
}

// when writes a moment as people read it, whose time zone is not known.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2 January 2006, 15:04 UTC")
}

// until writes the end of a link's life: the date, too, if that is another.
func until(at, end time.Time) string {
	at, end = at.UTC(), end.UTC()
	if at.Truncate(24 * time.Hour).Equal(end.Truncate(24 * time.Hour)) {
		return end.Format("15:04 UTC")
	}
	return when(end)
}

// Templates returns the names of all files that may stand in mail.templates.
func Templates() []string { return slices.Sorted(slices.Values(fileNames())) }
