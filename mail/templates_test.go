package mail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/mail"
)

const base = "https://id.example.test/auth"

func writer(t *testing.T, folder string) *mail.Writer {
	t.Helper()
	w, err := mail.NewWriter(mail.WriterConfig{BaseURL: base, Service: "Example & Söhne", Templates: folder})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

var at = time.Date(2026, 11, 22, 23, 50, 0, 0, time.FixedZone("", 3600))

func full() mail.Facts {
	return mail.Facts{
		Name: "Ada Lovelace", Token: "tk_0123456789-_abc", Code: "012345", Address: "grace@navy.example", Client: "192.0.2.7",
		Device: "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", At: at, Until: at.Add(30 * time.Minute),
	}
}

// pages are where links lead; the portal has them.
var pages = map[mail.Kind]string{
	mail.Verify: "/account/verify", mail.Reset: "/account/reset", mail.ChangeAddress: "/account/verify",
	mail.SignIn: "/account/link", mail.Invitation: "/account/invitation",
}

// elements returns every element of a page with its attributes, and its words.
func elements(t *testing.T, page string) (all []html.Token, words string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return all, words
		case html.StartTagToken, html.SelfClosingTagToken:
			all = append(all, z.Token())
		case html.TextToken:
			words += z.Token().Data
		}
	}
}

// TestEveryLetter: each has a subject of one line, both parts are whole, the HTML
// can be read without pictures, loads nothing and leads to nobody else.
func TestEveryLetter(t *testing.T) {
	w := writer(t, "")
	for _, k := range mail.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			m, err := w.Write("id", k, "ada@example.com", full())
			if err != nil {
				t.Fatal(err)
			}
			link := ""
			if pages[k] != "" {
				link = base + pages[k] + "#token=tk_0123456789-_abc"
			}
			if m.Link != link || m.ID != "id" || m.Kind != k || m.To != "ada@example.com" || m.From != "=?utf-8?b?RXhhbXBsZSAmIFPDtmhuZQ==?= <no-reply@id.example.test>" || !m.Written.Equal(at) {
				t.Errorf("%+v", m)
			}
			if strings.ContainsAny(m.Subject, "\r\n") || !strings.Contains(m.Subject, "Example & Söhne") {
				t.Errorf("subject %q", m.Subject)
			}
			all, words := elements(t, m.HTML)
			var names []string
			for _, e := range all {
				names = append(names, e.Data)
				for _, a := range e.Attr {
					switch {
					case a.Key == "href" && (a.Val == base || link != "" && a.Val == link):
					case a.Key == "href" || a.Key == "src" || a.Key == "background" || strings.Contains(a.Val, "url("):
						t.Errorf("%s has %s=%q", e.Data, a.Key, a.Val)
					}
				}
				if slices.Contains([]string{"img", "script", "link", "iframe", "form", "object", "style"}, e.Data) {
					t.Errorf("there is a %s", e.Data)
				}
				if e.Data == "html" && (len(e.Attr) != 1 || e.Attr[0].Key != "lang") {
					t.Errorf("html has %v", e.Attr)
				}
			}
			if !slices.Contains(names, "title") || !slices.Contains(names, "main") {
				t.Errorf("elements: %v", names)
			}
			for _, part := range []string{m.Text, words} {
				if !strings.Contains(part, link) || !strings.Contains(part, "Example & Söhne") {
					t.Errorf("a part is not whole: %s", part)
				}
				if k == mail.SignIn && !strings.Contains(part, "012345") {
					t.Error("there is no code")
				}
				if link != "" && (!strings.Contains(part, "30 minutes") || !strings.Contains(part, "23:20 UTC")) {
					t.Errorf("it does not say for how long: %s", part)
				}
				if k != mail.Invitation && !strings.Contains(part, "22 November 2026, 22:50 UTC") {
					t.Errorf("it does not say when: %s", part)
				}
				if strings.Contains(part, "<no value>") || strings.Contains(part, "{{") {
					t.Errorf("a hole: %s", part)
				}
			}
			if k == mail.NewDevice && !(strings.Contains(m.Text, "192.0.2.7") && strings.Contains(words, "Firefox on Linux") && strings.Contains(m.Text, "Hello Ada Lovelace,")) {
				t.Errorf("it does not say from where: %s", m.Text)
			}
			if k == mail.AddressChanging && !strings.Contains(m.Text, "g***@n***.example") {
				t.Errorf("it does not say to what: %s", m.Text)
			}
			bare, err := w.Write("id", k, "ada@example.com", mail.Facts{At: at})
			if err != nil || strings.Contains(bare.Text, "From:") || strings.Contains(bare.Text, "token=") {
				t.Errorf("%v: %s", err, bare.Text)
			}
		})
	}
}

// TestE_StrangersWriteNothingIntoOurLetters: whatever somebody is called, comes
// with or asks for, no word of theirs can be clicked, and no line is theirs.
func TestE_StrangersWriteNothingIntoOurLetters(t *testing.T) {
	w := writer(t, "")
	for _, evil := range []string{
		"http://evil.example/win", "https://evil.example", "evil.example", "Visit evil.example now", "www.evil.example", "//evil.example", "evil．example", "evil。example",
		"evil.\u0301example", "<a href=https://evil.example>", `"><script>evil</script>`, "Ada\r\nevil: line", "Ada\nevil", "Ada\u2028evil", "\u202eevil", "evil\x00", "{{.Link}} evil",
		"javascript:evil", "mailto:evil@evil.example", "evil@evil.example", "Call evil 0800 555 1234", strings.Repeat("evil ", 200), "tel:+1555evil", "evil\u200b.example", "[evil](https://e.example)",
	} {
		f := full()
		f.Name, f.Client, f.Device, f.Address = evil, evil, evil, evil
		for _, k := range mail.Kinds() {
			m, err := w.Write("id", k, "ada@example.com", f)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{m.Subject, m.Text, m.HTML} {
				if strings.Contains(strings.ToLower(part), "evil") {
					t.Errorf("%s with %q holds it: %s", k, evil, part)
				}
			}
			if strings.ContainsAny(m.Subject, "\r\n") {
				t.Errorf("%q", m.Subject)
			}
		}
	}
	// What is shown of a device is ours, whatever stands beside it.
	f := full()
	f.Device = "Firefox/1 https://evil.example Windows"
	if m, err := w.Write("id", mail.NewDevice, "ada@example.com", f); err != nil || strings.Contains(m.Text, "evil") || !strings.Contains(m.Text, "Firefox on Windows") {
		t.Errorf("%v: %s", err, m.Text)
	}
	for _, good := range []string{"Ada Lovelace", "Jean-Luc O’Neill", "J.R.R. Tolkien", "Müller, Max", "李小龍", "ada_42", "Sammy Davis Jr.", "மணி"} {
		f := full()
		f.Name = good
		if m, err := w.Write("id", mail.NewDevice, "ada@example.com", f); err != nil || !strings.Contains(m.Text, "Hello "+good+",") || !strings.Contains(m.HTML, "Hello "+good+",") {
			t.Errorf("%q is not shown: %v", good, err)
		}
	}
}

// TestOperatorsTemplates stand in place of ours, one by one.
func TestOperatorsTemplates(t *testing.T) {
	folder := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("reset.txt", "Subject: Neues Passwort für {{.Name}}\r\nHallo {{.Name}},\r\nhier: {{.Link}}, {{.Minutes}} Minuten\r\n")
	put("README.md", "not a template")
	w := writer(t, folder)
	m, err := w.Write("id", mail.Reset, "ada@example.com", full())
	if err != nil || m.Subject != "Neues Passwort für Ada Lovelace" || !strings.HasPrefix(m.Text, "Hallo Ada Lovelace,\nhier: "+m.Link+", 30 Minuten\n") || !strings.Contains(m.HTML, "choose one") {
		t.Fatalf("%v: %+v", err, m)
	}
	f := full()
	f.Name = "Ada\r\nBcc: eve@example.com"
	if m, err := w.Write("id", mail.Reset, "ada@example.com", f); err != nil || m.Subject != "Neues Passwort für" {
		t.Fatalf("%v: %q", err, m.Subject)
	}
	if m, err := w.Write("id", mail.Verify, "ada@example.com", full()); err != nil || !strings.Contains(m.Text, "Confirm") && !strings.Contains(m.Text, "confirm") {
		t.Fatalf("%v: %s", err, m.Text)
	}
	put("layout.html", `<!doctype html><html lang="de"><title>{{.Subject}}</title>{{template "content" .}}<footer>Ours & yours</footer></html>`)
	if m, err := writer(t, folder).Write("id", mail.NewDevice, "ada@example.com", full()); err != nil || !strings.Contains(m.HTML, `lang="de"`) || !strings.Contains(m.HTML, "Firefox on Linux") {
		t.Fatalf("%v: %s", err, m.HTML)
	}
}

// TestMistakesInTemplates are all reported at once, with file and line.
func TestMistakesInTemplates(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{
		"verify.txt":           "Subject: x\n\n\n{{.Link}} {{.Nmae}}\n",
		"reset.html":           "<p>\n{{if}}\n",
		"sign_in.txt":          "Subject: x\n{{.Link}}\n",
		"invitation.html":      "<p>come in</p>",
		"account_exists.txt":   "Hello,\n",
		"password_changed.txt": "Subject: {{.Name}}\nx\n",
		"new_device.html":      "\n\n<a href='{{.Link}}>{{.Name}}",
		"welcome.txt":          "Subject: x\n",
		"test.txt":             "Subject: x\n{{template \"nowhere\" .}}",
		"address_changed.html": strings.Repeat("x", 300<<10),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := mail.CheckTemplates(folder)
	all := sallyport.Mistakes(err)
	for _, want := range []string{
		"verify.txt:4:", "reset.html:2:", "sign_in.txt: the letter does not hold {{.Code}}", "invitation.html: the letter does not hold {{.Link}}", "account_exists.txt:1:",
		"password_changed.txt:1: the subject is empty", "new_device.html", "welcome.txt: there is no letter", "test.txt:2:", "address_changed.html: it has more than",
	} {
		if !slices.ContainsFunc(all, func(e *sallyport.ConfigError) bool {
			return e.Key == "mail.templates" && e.Value == folder && strings.HasPrefix(e.Reason, want) && e.Fix != ""
		}) {
			t.Errorf("nothing of %s in %v", want, err)
		}
	}
	if len(all) != 10 {
		t.Errorf("%d mistakes: %v", len(all), err)
	}
	if err := os.WriteFile(filepath.Join(folder, "layout.txt"), []byte("{{template \"content\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(fmt.Sprint(mail.CheckTemplates(folder)), "layout.txt:1"); n != 1 {
		t.Errorf("a mistake of all letters is reported %d times", n)
	}
	if err := mail.CheckTemplates(filepath.Join(folder, "nowhere")); err == nil {
		t.Error("a folder that is not there is no mistake")
	}
	if err := mail.CheckTemplates(t.TempDir()); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestFromAndService(t *testing.T) {
	for text, ok := range map[string]bool{
		"no-reply@example.com": true, "Example <no-reply@example.com>": true, `"Example, Inc." <no-reply@example.com>`: true, "Größe <a@example.com>": true,
		"": false, "example.com": false, "a@example.com, b@example.com": false, "a@example.com\r\nBcc: b@example.com": false, "Ex\x00ample <a@example.com>": false,
	} {
		if err := mail.CheckFrom(text); (err == nil) != ok {
			t.Errorf("from %q: %v", text, err)
		}
	}
	for text, ok := range map[string]bool{"Example": true, "Example & Söhne": true, "": false, "a\nb": false, " a": false, strings.Repeat("x", 81): false, "a\u2028b": false} {
		if err := mail.CheckService(text); (err == nil) != ok {
			t.Errorf("service %q: %v", text, err)
		}
	}
}
