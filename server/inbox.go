package server

import (
	"bytes"
	"embed"
	"html/template"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/guard/headers"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/mail"
)

//go:embed inbox
var inboxFiles embed.FS

var inboxPages = template.Must(template.ParseFS(inboxFiles, "inbox/*.html"))

// InboxPath is where the inbox of development is, under the base URL.
const InboxPath = "/dev/inbox"

// InboxLetter is a letter as GET /dev/inbox gives it to programs.
type InboxLetter struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Subject string    `json:"subject"`
	Link    string    `json:"link,omitempty"`
	Code    string    `json:"code,omitempty"`
	Text    string    `json:"text"`
	HTML    string    `json:"html"`
	Written time.Time `json:"written"`
}

func inboxLetter(m mail.Message) InboxLetter {
	return InboxLetter{m.ID, string(m.Kind), m.From, m.To, m.Subject, m.Link, m.Code, m.Text, m.HTML, m.Written.UTC()}
}

// inboxRoutes shows letters to whoever is on this machine. They open accounts: no
// address of another machine gets them, no page of another site, and nobody behind
// a proxy that is not declared, who looks like this machine and is not.
func (s *Server) inboxRoutes() {
	page, err := headers.New(headers.Page("frame-src 'self'", "script-src 'none'", "img-src 'none'"))
	if err != nil {
		panic(err) // a policy of ours
	}
	// The letter itself: nothing in it runs, and nothing is loaded.
	letter, err := headers.New(headers.Page("script-src 'none'", "img-src 'none'", "style-src 'unsafe-inline'", "frame-ancestors 'self'", "sandbox allow-popups allow-popups-to-escape-sandbox"))
	if err != nil {
		panic(err)
	}
	base := s.path(InboxPath)
	show := func(w http.ResponseWriter, name string, data map[string]any) {
		var b bytes.Buffer
		data["Base"] = base
		if err := inboxPages.ExecuteTemplate(&b, name, data); err != nil {
			panic(err) // templates of ours
		}
		page.Set(w.Header())
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(b.Bytes())
	}
	open := func(path string, f func(http.ResponseWriter, *http.Request)) {
		s.mux.Open("GET "+InboxPath+path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			if e := s.refuseInbox(r); e != nil {
				sallyport.WriteError(w, e)
				return
			}
			f(w, r)
		}))
	}
	find := func(w http.ResponseWriter, r *http.Request) (mail.Message, bool) {
		m, found := s.cfg.Inbox.Find(r.PathValue("id"))
		if !found {
			sallyport.WriteError(w, sallyport.NotFound("letter"))
		}
		return m, found
	}
	open("", func(w http.ResponseWriter, r *http.Request) {
		all := s.cfg.Inbox.All()
		w.Header().Add("Vary", "Accept")
		if !asksForJSON(r) {
			show(w, "list.html", map[string]any{"Letters": all})
			return
		}
		items := make([]InboxLetter, 0, len(all))
		for _, m := range all {
			items = append(items, inboxLetter(m))
		}
		writeAll(w, map[string]any{"items": items})
	})
	open("/{id}", func(w http.ResponseWriter, r *http.Request) {
		m, found := find(w, r)
		if !found {
			return
		}
		w.Header().Add("Vary", "Accept")
		if asksForJSON(r) {
			writeAll(w, inboxLetter(m))
			return
		}
		from, err := new(mime.WordDecoder).DecodeHeader(m.From)
		if err != nil {
			from = m.From
		}
		show(w, "letter.html", map[string]any{"Letter": m, "From": from})
	})
	open("/{id}/html", func(w http.ResponseWriter, r *http.Request) {
		if m, found := find(w, r); found {
			letter.Set(w.Header())
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(m.HTML))
		}
	})
	open("/page.css", func(w http.ResponseWriter, _ *http.Request) {
		css, err := inboxFiles.ReadFile("inbox/page.css")
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(css)
	})
}

func writeAll(w http.ResponseWriter, v any) {
	b, err := api.EncodeJSON(v)
	if err != nil {
		panic(err) // texts and times always marshal
	}
	api.WriteJSON(w, b)
}

// asksForJSON tells whether a program asks, and not a browser.
func asksForJSON(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// refuseInbox returns why a request is not shown the inbox.
func (s *Server) refuseInbox(r *http.Request) *sallyport.Error {
	refused := &sallyport.Error{
		Status: http.StatusForbidden, Code: "this_machine_only",
		Message: "The inbox of development is shown to whoever is on the server's own machine, and to no page of another site. Open it there, by its own address.",
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case !reqctx.AddrOf(r.Context()).IsLoopback(), s.wall.clients.Resolve(r).Ignored != "":
		return refused
	case r.Header["Via"] != nil && len(s.cfg.TrustedProxies) == 0: // says nothing of the client, and is a proxy all the same (RFC 9110, 7.6.3)
		return refused
	case site != "" && site != "none" && site != "same-origin":
		return refused
	case !s.wall.hosts.Check(r.Host): // also without Guard
		return refused
	}
	return nil
}
