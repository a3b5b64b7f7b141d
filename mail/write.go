package mail

import (
	"errors"
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
	Now     func() time.Time
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
type Writer struct{ cfg WriterConfig }

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
	return &Writer{cfg}, nil
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
	if strings.ContainsAny(to, "\r\n") {
		return Message{}, errors.New("an address has no line breaks")
	}
	m := Message{ID: id, Kind: k, From: w.cfg.From, To: to, Link: w.link(k, f.Token), Code: f.Code, Written: w.cfg.Now()}
	m.Subject = string(k)
	m.Text = fmt.Sprintln(m.Link, m.Code)
	return m, nil
}
