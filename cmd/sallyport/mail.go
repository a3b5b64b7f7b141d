package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// mailMistakes returns what is wrong with mail where single keys are well.
func (s settings) mailMistakes(wrong map[string]bool) (errs []error) {
	bad := func(name, format string, args ...any) {
		v := s[name]
		errs = append(errs, fmt.Errorf("%s = %q (from %s): %s", name, v.text, v.source, fmt.Sprintf(format, args...)))
	}
	if s.bool("auth.verify_address") && !s.mailOn() && !wrong["dev"] {
		bad("auth.verify_address", "there is no mail to verify addresses with. Set smtp.url; or dev = true, which shows letters at /dev/inbox")
	}
	if path := s.text("smtp.roots"); path != "" {
		if s.text("smtp.url") == "" {
			bad("smtp.roots", "it is for smtp.url, which is not set. Set that, or leave this out")
		} else if _, err := readRoots(path); err != nil {
			bad("smtp.roots", "%v. Give a PEM file with the certificates of the authority's roots", err)
		}
	}
	if folder := s.text("mail.templates"); folder != "" {
		for _, e := range sallyport.Mistakes(mail.CheckTemplates(folder)) {
			bad("mail.templates", "%s. %s", e.Reason, strings.TrimSuffix(e.Fix, "."))
		}
	}
	return errs
}

// mailOn tells whether letters are written.
func (s settings) mailOn() bool { return s.text("smtp.url") != "" || s.bool("dev") }

// smtp returns the mail server, nil if there is none.
func (s settings) smtp() (*mail.SMTP, error) {
	text := s.text("smtp.url")
	if text == "" {
		return nil, nil
	}
	cfg := mail.SMTPConfig{URL: text}
	if u, err := url.Parse(s.baseURL()); err == nil {
		cfg.Name = u.Hostname()
	}
	if path := s.text("smtp.roots"); path != "" {
		var err error
		if cfg.Roots, err = readRoots(path); err != nil {
			return nil, err
		}
	}
	return mail.NewSMTP(cfg)
}

// mail adds to a server's configuration how letters are written and sent. A
// command leaves sending to the servers: it may end before a letter is gone.
func (a *app) mail(s settings, c *server.Config, log *slog.Logger) error {
	c.MailFrom, c.MailService, c.MailTemplates = s.text("mail.from"), s.text("mail.service"), s.text("mail.templates")
	c.VerifyAddress, c.QueueOnly = s.bool("auth.verify_address"), !a.serving
	sender, err := s.smtp()
	if err != nil {
		return err
	}
	if sender != nil {
		c.Mail = sender
		a.endMail = sender.Close
	}
	if s.bool("dev") {
		c.Inbox = mail.NewInbox(log, c.Mail)
		c.Mail = c.Inbox
	}
	return nil
}
