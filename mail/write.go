package mail

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// WriterConfig is what a Writer needs.
type WriterConfig struct {
	BaseURL string // links are made from it
	From    string // RFC 5322 address; default no-reply at BaseURL's host
	Service string // what the service is called; default BaseURL's host
	Now     func() time.Time
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
		cfg.From = "no-reply@" + u.Hostname()
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
