package server_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// withInbox gives a server the inbox of development.
func withInbox(c *server.Config) {
	c.Inbox = mail.NewInbox(nil, nil)
	c.Mail = c.Inbox
}

// queue has a letter of a kind sent.
func (w *world) queue(l mail.Letter) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error { return w.sv.Mail.Queue(w.t.Context(), tx, l) }); err != nil {
		w.t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := w.sv.Mail.Deliver(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		st, err := w.sv.Mail.Status(w.t.Context())
		if err != nil || time.Now().After(end) {
			w.t.Fatalf("%+v %v", st, err)
		}
		if st.Waiting == 0 {
			return
		}
	}
}

func (w *world) get(path string, headers ...string) reply {
	w.t.Helper()
	req := w.request("GET", path, "", nil)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	return w.send(req)
}

// TestInboxOfDevelopment shows the letters with their links, newest first, as pages
// and as JSON.
func TestInboxOfDevelopment(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, withInbox)
	if r := w.get("/dev/inbox").want(t, 200, ""); !strings.Contains(string(r.body), "There are no letters") {
		t.Errorf("%s", r.body)
	}
	if r := w.get("/dev/inbox", "Accept", "application/json").want(t, 200, ""); strings.TrimSpace(string(r.body)) != `{"items":[]}` {
		t.Errorf("%s", r.body)
	}
	w.queue(mail.Letter{Kind: mail.SignIn, To: "ada@example.com", Facts: mail.Facts{Token: "li_first", Code: "135790"}, Until: w.clock.now().Add(time.Minute)})
	w.queue(mail.Letter{Kind: mail.Reset, To: "<b>o'hara</b>@example.com", Facts: mail.Facts{Token: "rs_second"}, Until: w.clock.now().Add(time.Minute)})
	var got struct{ Items []server.InboxLetter }
	r := w.get("/dev/inbox", "Accept", "application/json").want(t, 200, "")
	if err := json.Unmarshal(r.body, &got); err != nil || len(got.Items) != 2 || r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%v: %s", err, r.body)
	}
	first := got.Items[1]
	if got.Items[0].Link != baseURL+"/account/reset#token=rs_second" || first.Link != baseURL+"/account/link#token=li_first" || first.Code != "135790" ||
		first.To != "ada@example.com" || first.Kind != "sign_in" || first.Subject == "" || !strings.Contains(first.Text, "135790") || !strings.Contains(first.HTML, "<html") {
		t.Errorf("%+v", got.Items)
	}
	list := w.get("/dev/inbox", "Accept", "text/html").want(t, 200, "")
	csp := list.header.Get("Content-Security-Policy")
	if !strings.Contains(string(list.body), `href="/dev/inbox/`+first.ID+`"`) || strings.Contains(string(list.body), "<b>") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "script-src 'none'") || !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("%s: %s", csp, list.body)
	}
	one := w.get("/dev/inbox/"+first.ID).want(t, 200, "")
	if !strings.Contains(string(one.body), `href="`+first.Link+`"`) || !strings.Contains(string(one.body), "135790") || !strings.Contains(string(one.body), `sandbox="allow-popups allow-popups-to-escape-sandbox"`) {
		t.Errorf("%s", one.body)
	}
	if r := w.get("/dev/inbox/"+first.ID, "Accept", "application/json").want(t, 200, ""); r.text(t, "id") != first.ID {
		t.Errorf("%s", r.body)
	}
	framed := w.get("/dev/inbox/"+first.ID+"/html").want(t, 200, "")
	if csp := framed.header.Get("Content-Security-Policy"); string(framed.body) != first.HTML || !strings.Contains(csp, "sandbox") || !strings.Contains(csp, "script-src 'none'") || !strings.Contains(csp, "frame-ancestors 'self'") {
		t.Errorf("%s", csp)
	}
	if r := w.get("/dev/inbox/page.css").want(t, 200, ""); r.header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("%v", r.header)
	}
	w.get("/dev/inbox/nowhere").want(t, 404, "not_found")
	w.get("/dev/inbox", "Authorization", "Bearer stale").want(t, 200, "") // a browser's old session is no matter
}

// TestE_TheInboxIsForThisMachine: nobody else sees it, directly, through a proxy or
// through a page in the browser of somebody here; and without --dev there is none.
func TestE_TheInboxIsForThisMachine(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, withInbox, func(c *server.Config) { c.Hosts = []string{"127.0.0.1"} })
	w.queue(mail.Letter{Kind: mail.Reset, To: "ada@example.com", Facts: mail.Facts{Token: "rs_planted"}, Until: w.clock.now().Add(time.Minute)})
	behind := newWorld(t, testkit.SQLite(t), nil, withInbox, func(c *server.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	behind.queue(mail.Letter{Kind: mail.Reset, To: "ada@example.com", Facts: mail.Facts{Token: "rs_planted"}, Until: w.clock.now().Add(time.Minute)})
	id := w.cfg.Inbox.All()[0].ID
	for _, tt := range []struct {
		name    string
		w       *world
		headers []string
		status  int
		code    string
	}{
		{"this machine", w, nil, 200, ""},
		{"a proxy that is not declared", w, []string{"X-Forwarded-For", "127.0.0.1"}, 403, "this_machine_only"},
		{"another proxy that is not declared", w, []string{"Forwarded", "for=127.0.0.1"}, 403, "this_machine_only"},
		{"a proxy that says nothing but that it is one", w, []string{"Via", "1.1 proxy"}, 403, "this_machine_only"},
		{"another machine behind a declared proxy", behind, []string{"X-Forwarded-For", "203.0.113.9"}, 403, "this_machine_only"},
		{"this machine behind a declared proxy", behind, []string{"X-Forwarded-For", "127.0.0.1"}, 200, ""},
		{"a page of another site", w, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403, "this_machine_only"},
		{"a page of another port", w, []string{"Sec-Fetch-Site", "same-site"}, 403, "this_machine_only"},
		{"its own page", w, []string{"Sec-Fetch-Site", "same-origin"}, 200, ""},
		{"typed", w, []string{"Sec-Fetch-Site", "none"}, 200, ""},
		{"a name that leads here", w, []string{"Host", "rebound.evil.example"}, 400, "host_not_allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"", "/" + id, "/" + id + "/html"} {
				if tt.w == behind && path != "" {
					continue
				}
				for _, accept := range []string{"text/html", "application/json"} {
					r := tt.w.get("/dev/inbox"+path, append([]string{"Accept", accept}, tt.headers...)...).want(t, tt.status, tt.code)
					if tt.status != 200 && strings.Contains(string(r.body), "planted") {
						t.Errorf("%s tells it: %s", path, r.body)
					}
				}
			}
		})
	}
	newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Mail = &mailbox{} }).get("/dev/inbox").want(t, 404, "")
}

// TestInboxInABrowser: the link of a letter leads to its page with its token, from
// the page and from the letter in its frame; what the letter holds does not run.
func TestInboxInABrowser(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, withInbox)
	own := w.http.URL
	if err := w.cfg.Inbox.Send(t.Context(), mail.Message{
		ID: "one", Kind: mail.Reset, From: "a@example.com", To: "ada@example.com", Subject: "Hello", Text: "text", Link: own + "/account/reset#token=rs_clicked",
		HTML: `<!doctype html><html lang="en"><title>x</title><body><script>parent.document.title = "ran"</script><p style="color:red">red</p></body></html>`,
	}); err != nil {
		t.Fatal(err)
	}
	b := newTab(t, own)
	b.visit(own + "/dev/inbox")
	b.script(`document.querySelector("table a").click()`)
	if text := b.shown(own + "/dev/inbox/one"); !strings.Contains(text, "Hello") {
		t.Errorf("%s", text)
	}
	if title := b.script(`return document.title`); title != "Hello" {
		t.Errorf("the title is %q", title)
	}
	b.script(`document.querySelector("#link").click()`)
	if text := b.shown(own + "/account/reset"); !strings.Contains(text, "Choose a new password") {
		t.Errorf("%s", text)
	}
	if token := b.script(`return document.querySelector('input[name="token"]').value`); token != "rs_clicked" {
		t.Errorf("the page has the token %q", token)
	}
}
