package server

import (
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/internal/db"
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
	tokens, err := keyFor(s.Keys, "mail tokens")
	if err != nil {
		return nil, err
	}
	links := link.New(link.Config{Key: tokens, Now: s.cfg.Now})
	s.Mail, err = mail.New(mail.Config{
		DB: s.cfg.DB, Sender: s.cfg.Mail, Key: key, Writer: writer, Recipient: account.Recipient, Log: s.cfg.Log, Now: s.cfg.Now,
		May: func(tx *db.Tx, address string, k mail.Kind) (bool, error) {
			name, _ := account.EmailKey(address)
			return links.Notice(tx, name, string(k))
		},
	})
	return links, err
}
