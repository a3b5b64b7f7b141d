package portal

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
)

//go:embed templates assets
var files embed.FS

// titles are the pages, each a template of its name. One without a title is given
// it where it is shown.
var titles = map[string]string{
	"account": "Your account", "sign-in": "Sign in", "code": "Second step of signing in", "enrol": "Set up a second factor",
	"recovery": "Your recovery codes", "second-factor": "Second factor", "password": "Change your password",
	"forgot": "Forgot your password?", "sent": "Look into your mail", "reset": "Choose a new password",
	"verify": "Confirm your address", "verified": "Your address is confirmed", "request-link": "Sign in by mail", "typed-code": "Type the code from the letter",
	"link": "Sign in with the link from your letter", "invitation": "Accept your invitation", "setup": "Set up the first administrator", "refused": "",
}

// parse reads the templates.
func parse() (map[string]*template.Template, error) {
	pages := map[string]*template.Template{}
	for name := range titles {
		var err error
		if pages[name], err = template.ParseFS(files, "templates/layout.html", "templates/"+name+".html"); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// view is what a page shows.
type view struct {
	Config
	Title   string
	Version string // of the assets
	Person  *person
	Problem *problem
	Notice  string
	Values  map[string]string // what was typed, and may be shown again
	Token   string            // of a letter
	Next    string            // where to go on

	MFAToken string // of the sign-in whose second factor is due
	Setup    bool   // that is to be set up first
	Handle   string // of a sign-in by code
	QR       template.URL
	AppLink  template.URL
	Secret   string
	Recovery []string
	GoOn     string
}

// problem is what was wrong, for a person.
type problem struct {
	Detail    string
	Fields    []wrong
	RequestID string
}

// wrong is what was wrong with one field.
type wrong struct{ Name, Detail string }

// field is an input with its label, and what was wrong with it.
type field struct {
	Name, Label, Type, Autocomplete, Hint, Value, Error string
	Optional, Shown                                     bool
}

// Field returns a field that must be filled in.
func (v view) Field(name, label, kind, autocomplete, hint string) field {
	f := field{Name: name, Label: label, Type: kind, Autocomplete: autocomplete, Hint: hint, Value: v.Values[name]}
	if v.Problem != nil {
		for _, w := range v.Problem.Fields {
			if w.Name == name {
				f.Error = strings.TrimSpace(f.Error + " " + w.Detail)
			}
		}
	}
	return f
}

// OptionalField returns one that may be left empty.
func (v view) OptionalField(name, label, kind, autocomplete, hint string) field {
	f := v.Field(name, label, kind, autocomplete, hint)
	f.Optional = true
	return f
}

// shown are the fields that a page gives back as they were typed. Never a password
// or a code.
var shown = []string{"username", "email", "full_name"}

// show answers with a page.
func (x *exchange) show(status int, name string, v view) {
	v.Config, v.Version = x.p.cfg, x.p.version
	if v.Title == "" {
		v.Title = titles[name]
	}
	v.Person = x.person
	if v.Next == "" {
		v.Next = x.asksNext()
	}
	if v.Values == nil {
		v.Values = x.pick(shown...)
	}
	var b bytes.Buffer
	if err := x.p.pages[name].ExecuteTemplate(&b, "layout", v); err != nil {
		sallyport.WriteError(x.w, sallyport.Internal()) // a template of ours
		return
	}
	h := x.w.Header()
	if v.QR != "" {
		x.p.picture.Set(h)
	} else {
		x.p.own.Set(h)
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	x.w.WriteHeader(pageStatus(status))
	_, _ = x.w.Write(b.Bytes())
}

// pageStatus is the status of a page for one of the API. 401 needs a challenge
// (RFC 9110, 15.5.2), and a page has none: a browser would ask for a password in a
// window of its own.
func pageStatus(status int) int {
	if status == http.StatusUnauthorized {
		return http.StatusForbidden
	}
	return status
}

// fail shows a page again with what the API had against it. words are better ones
// than the API's for some codes: those speak to programs.
//
// Where the sign-in is too old or too weak for what was asked, it is the page to
// sign in on, which leads back.
func (x *exchange) fail(a answer, name string, v view, words map[string]string) {
	f := a.failure()
	if f.Code == "insufficient_user_authentication" {
		name, v.Next = "sign-in", x.here()
	}
	v.Problem = &problem{Detail: f.Detail}
	if a.status >= 500 { // what the person can mend needs nobody's help
		v.Problem.RequestID = f.RequestID
	}
	if text := words[f.Code]; text != "" {
		v.Problem.Detail = text
	} else if text := everywhere[f.Code]; text != "" {
		v.Problem.Detail = text
	}
	for _, e := range f.Errors {
		v.Problem.Fields = append(v.Problem.Fields, wrong{strings.TrimPrefix(e.Pointer, "/"), e.Detail})
	}
	x.show(a.status, name, v)
}

// everywhere is what a person is told for codes of any page.
var everywhere = map[string]string{
	"insufficient_user_authentication": "This needs to be sure that it is you, by a sign-in of the last ten minutes, with your second factor if there is one. Sign in again.",

	"validation_failed":  "Something is missing or not right.",
	"wrong_password":     "The password is not right. Nothing was changed.",
	"cookie_needs_https": "Browsers keep a session only over HTTPS, and this service is reached without it. Tell its operator.",

	"mail_off": "This service sends no mail, so this cannot be done here. Ask its operator.",
}

// refuse answers with a page that has nothing but a problem.
func (x *exchange) refuse(status int, title, detail string) {
	p := &problem{Detail: detail}
	if status >= 500 {
		p.RequestID = x.w.Header().Get(sallyport.RequestIDHeader)
	}
	x.show(status, "refused", view{Title: title, Problem: p})
}

// assetTypes are the files that pages load. Their types are written here because
// what mime finds depends on the machine, and nosniff is strict about them.
var assetTypes = map[string]string{
	"portal.css": "text/css; charset=utf-8",
	"portal.js":  "text/javascript; charset=utf-8",
	"icon.svg":   "image/svg+xml",
}

// assetsVersion stands in the addresses of assets, so that a page does not meet
// those of another release in a browser's cache.
func assetsVersion() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(assetTypes)) {
		h.Write(asset(name))
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func asset(name string) []byte {
	b, err := files.ReadFile(path.Join("assets", name))
	if err != nil {
		panic(err) // embedded
	}
	return b
}

func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if assetTypes[name] == "" {
		sallyport.WriteError(w, sallyport.NotFound("file"))
		return
	}
	w.Header().Set("Content-Type", assetTypes[name])
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(asset(name))
}
