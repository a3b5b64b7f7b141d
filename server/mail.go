package server

import (
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/mail"
)

// openMail makes what writes to people, and what keeps the tokens of their links.
func (s *Server) openMail() (*link.Service, error) {
	key, err := keyFor(s.Keys, "outbox")
	if err != nil {
		return nil, err
	}
	writer, err := mail.NewWriter(mail.WriterConfig{
		BaseURL: s.cfg.BaseURL, From: s.cfg.MailFrom, Service: s.cfg.MailService, Templates: s.cfg.MailTemplates, Now: s.cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	if s.Mail, err = mail.New(mail.Config{
		DB: s.cfg.DB, Sender: s.cfg.Mail, Key: key, Writer: writer, Recipient: account.Recipient, Log: s.cfg.Log, Now: s.cfg.Now,
	}); err != nil {
		return nil, err
	}
	if key, err = keyFor(s.Keys, "mail tokens"); err != nil {
		return nil, err
	}
	return link.New(link.Config{Key: key, Now: s.cfg.Now}), nil
}
