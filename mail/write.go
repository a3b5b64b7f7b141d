package mail

import (
	"fmt"
	netmail "net/mail"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// WriterConfig is what a Writer needs.
type WriterConfig struct {
	BaseURL string // links are made from it
	From    string // RFC 5322 address; default no-reply at BaseURL's host
	Service string // what the service is called; default BaseURL's host
	// Templates is a folder whose files stand in place of ours; "" for none.
	Templates string
	Now       func() time.Time
}

// CheckFrom returns what is wrong with an address that letters shall come from.
func CheckFrom(text string) error {
	a, err := netmail.ParseAddress(text)
	if err != nil || len(text) > 320 || strings.ContainsFunc(text, unicode.IsControl) || strings.ContainsFunc(a.Name, unicode.IsControl) {
		return sallyport.Mistake("mail.from", text, "it is not one e-mail address", "Write it as no-reply@example.com or Example <no-reply@example.com>.")
	}
	return nil
}

// maxService bounds the name of a service, in characters.
const maxService = 80

// CheckService returns what is wrong with the name of a service.
func CheckService(text string) error {
	if text != oneLine(text) || text == "" || utf8.RuneCountInString(text) > maxService || !utf8.ValidString(text) {
		return sallyport.Mistake("mail.service", text, "it is not a name of 1 to 80 characters on one line", "Write what people call the service, such as Example.")
	}
	return nil
}

// Writer makes messages of letters.
type Writer struct {
	cfg       WriterConfig
	templates map[Kind]written
}

// NewWriter returns a Writer.
func NewWriter(cfg WriterConfig) (*Writer, error) {
	u, err := url.Parse(cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	if cfg.Service == "" {
		cfg.Service = u.Hostname()
	}
	if cfg.From == "" {
		host := u.Hostname()
		if _, err := netip.ParseAddr(host); err == nil {
			host = "localhost"
		}
		cfg.From = (&netmail.Address{Name: cfg.Service, Address: "no-reply@" + host}).String()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	all, err := readTemplates(cfg.Templates)
	return &Writer{cfg, all}, err
}

// pages are where the links of letters lead, under the base URL. The token stands
// behind the #: browsers do not send that, so it is in no log of a server or a
// proxy, and the page posts it.
var pages = map[Kind]string{
	Verify: "/account/verify", Reset: "/account/reset", ChangeAddress: "/account/verify",
	SignIn: "/account/link", Invitation: "/account/invitation",
}

func (w *Writer) link(k Kind, token string) string {
	if token == "" || pages[k] == "" {
		return ""
	}
	return w.cfg.BaseURL + pages[k] + "#token=" + url.QueryEscape(token)
}

// Write makes the message of a letter.
func (w *Writer) Write(id string, k Kind, to string, f Facts) (Message, error) {
	t, known := w.templates[k]
	if !known {
		return Message{}, fmt.Errorf("there is no letter %q", k)
	}
	at := f.At
	if at.IsZero() {
		at = w.cfg.Now()
	}
	m := Message{ID: id, Kind: k, From: w.cfg.From, To: to, Link: w.link(k, f.Token), Code: f.Code, Written: at}
	v := view{
		Kind: string(k), Service: w.cfg.Service, URL: w.cfg.BaseURL, At: when(at), Link: m.Link, Code: m.Code,
		Name: shownName(f.Name), Address: shownAddress(f.Address), Client: shownClient(f.Client), Device: shownDevice(f.Device),
	}
	if m.Link != "" && !f.Until.IsZero() {
		v.Until, v.Minutes = until(at, f.Until), int(f.Until.Sub(at).Round(time.Minute)/time.Minute)
	}
	var err error
	m.Subject, m.Text, m.HTML, err = t.write(v)
	return m, err
}
