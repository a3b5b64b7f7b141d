package api

import (
	"bytes"
	"compress/gzip"
	"embed"
	"html/template"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/swaggest/swgui/v5/static"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/headers"
)

//go:embed docs/index.html docs/init.js docs/page.css
var docsFiles embed.FS

var docsPage = template.Must(template.ParseFS(docsFiles, "docs/index.html"))

// DocsConfig describes the docs page.
type DocsConfig struct {
	// ClientID is the public OAuth client that the Authorize dialog signs in as.
	ClientID string
}

// Docs registers GET /openapi.json and the docs page, GET /docs: Swagger UI
// from the binary, with a dialog that signs in.
func (a *API) Docs(cfg DocsConfig) {
	a.Raw(huma.Operation{
		Method: http.MethodGet, Path: "/openapi.json", Tags: []string{"Documentation"}, Summary: "This document",
		Description: "The description of every operation, as OpenAPI 3.1.",
		Responses:   map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}}}},
	}, sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(a.Document())
	})
	var page bytes.Buffer
	if err := docsPage.Execute(&page, map[string]string{"Title": a.cfg.Title, "Client": cfg.ClientID}); err != nil {
		panic(err) // a template of ours with two strings
	}
	// The page loads its own scripts and styles and talks to its own server, and to
	// nothing else: no inline script or style, no evaluated text, no outside address.
	// Icons of Swagger UI's style sheet are data.
	own, err := headers.New(headers.Page("img-src 'self' data:", "connect-src 'self'"))
	if err != nil {
		panic(err) // a policy of ours
	}
	a.mux.HandleFunc("GET /docs", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		own.Set(h)
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(page.Bytes())
	})
	a.mux.HandleFunc("GET /docs/{file}", sallyport.Public(), serveDocsFile)
}

// docsTypes are the files of the page. Their types are written here because
// what mime finds depends on the machine, and nosniff is strict about scripts.
var docsTypes = map[string]string{
	"init.js":              "text/javascript; charset=utf-8",
	"page.css":             "text/css; charset=utf-8",
	"swagger-ui-bundle.js": "text/javascript; charset=utf-8",
	"swagger-ui.css":       "text/css; charset=utf-8",
	"favicon-32x32.png":    "image/png",
}

func serveDocsFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	var content []byte
	var err error
	compressed := false
	switch {
	case docsTypes[name] == "":
		sallyport.WriteError(w, sallyport.NotFound("file"))
		return
	case name == "init.js", name == "page.css":
		content, err = docsFiles.ReadFile("docs/" + name)
	case path.Ext(name) == ".png":
		content, err = static.FS.ReadFile(name)
	default:
		content, err = static.FS.ReadFile(name + ".gz")
		compressed = true
	}
	h := w.Header()
	if compressed && err == nil {
		h.Add("Vary", "Accept-Encoding") // beside Origin, where CORS is on
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
		} else {
			content, err = gunzip(content)
		}
	}
	if err != nil {
		sallyport.WriteError(w, sallyport.Internal())
		return
	}
	h.Set("Content-Type", docsTypes[name])
	h.Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(content)
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
