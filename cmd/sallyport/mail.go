package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// mailMistakes returns what is wrong with mail where single keys are well.
func (s settings) mailMistakes(wrong map[string]bool) (errs []error) {
	bad := func(name, format string, args ...any) {
		v := s[name]
		errs = append(errs, fmt.Errorf("%s = %q (from %s): %s", name, v.text, v.source, fmt.Sprintf(format, args...)))
	}
	for _, need := range []struct{ name, what string }{{"auth.verify_address", "to verify addresses with"}, {"auth.mail_sign_in", "to send links with"}} {
		if s.bool(need.name) && !s.mailOn() && !wrong["dev"] {
			bad(need.name, "there is no mail %s. Set smtp.url; or dev = true, which shows letters at %s", need.what, server.InboxPath)
		}
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

// onThisMachine tells whether a host is localhost or a loopback address.
func onThisMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
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

type mailCmd struct {
	Status mailStatusCmd `cmd:"" help:"Letters that wait, and why."`
	Test   mailTestCmd   `cmd:"" help:"Send a letter now, and say what the mail server answers."`
	Retry  mailRetryCmd  `cmd:"" help:"Let the server try all letters again now."`
}

// outboxStatus is the outbox for programs.
type outboxStatus struct {
	On      bool       `json:"on"` // of this configuration
	Server  string     `json:"server,omitempty"`
	Waiting int64      `json:"waiting"`
	Failed  int64      `json:"failed"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	Tried   *time.Time `json:"tried,omitempty"`
	Failure string     `json:"failure,omitempty"`
}

type mailStatusCmd struct{}

func (mailStatusCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	sender, err := s.smtp()
	if err != nil {
		return err
	}
	return a.with(func(o *opened) error {
		st, err := o.Mail.Status(a.ctx)
		if err != nil {
			return err
		}
		out := outboxStatus{On: s.mailOn(), Waiting: st.Waiting, Failed: st.Failed, Failure: st.Failure}
		if sender != nil {
			out.Server = sender.Address()
		}
		if !st.Oldest.IsZero() {
			out.Oldest = &st.Oldest
		}
		if !st.Tried.IsZero() {
			out.Tried = &st.Tried
		}
		if !out.On {
			a.info("There is no mail here: smtp.url is not set.")
		}
		return a.answer("mail_status/v1", out, func(w io.Writer) {
			if out.Server != "" {
				fmt.Fprintf(w, "server\t%s\n", out.Server)
			}
			fmt.Fprintf(w, "waiting\t%d\ntried without success\t%d\n", out.Waiting, out.Failed)
			if out.Oldest != nil {
				fmt.Fprintf(w, "oldest\t%s\n", out.Oldest.Format(time.RFC3339))
			}
			if out.Tried != nil {
				fmt.Fprintf(w, "last attempt\t%s\nits failure\t%s\n", out.Tried.Format(time.RFC3339), printable(out.Failure))
			}
		})
	})
}

type mailTestCmd struct {
	Address string `arg:"" help:"To whom."`
}

// Run needs no database: the letter does not go through the outbox.
func (c mailTestCmd) Run(a *app) error {
	if _, ok := account.EmailKey(c.Address); !ok {
		return &errUsage{fmt.Errorf("%s is not one e-mail address", c.Address)}
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	sender, err := s.smtp()
	if err != nil {
		return err
	}
	if sender == nil {
		return &errConfig{[]error{errors.New("smtp.url is not set: there is no server to send through. Write it as smtp://USER:PASSWORD@host:587 or smtps://USER:PASSWORD@host:465")}}
	}
	defer sender.Close()
	w, err := mail.NewWriter(mail.WriterConfig{BaseURL: s.baseURL(), From: s.text("mail.from"), Service: s.text("mail.service"), Templates: s.text("mail.templates")})
	if err != nil {
		return err
	}
	m, err := w.Write(uuid.Must(uuid.NewV7()).String(), mail.Test, c.Address, mail.Facts{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, mailPatience)
	defer cancel()
	answer := ""
	if a.g.DryRun {
		_, err = sender.Check(ctx)
	} else {
		answer, err = sender.Submit(ctx, m)
	}
	if err != nil {
		return &errMail{sender.Address(), err}
	}
	if a.g.DryRun {
		a.done("%s takes letters of ours; one from %s to %s would be sent", sender.Address(), m.From, c.Address)
	} else {
		a.done("%s has taken the letter from %s to %s. Look whether it arrives, and not among the spam", sender.Address(), m.From, c.Address)
	}
	return a.answer("mail_test/v1", map[string]any{"server": sender.Address(), "from": m.From, "to": c.Address, "sent": !a.g.DryRun, "answer": answer}, func(w io.Writer) {
		fmt.Fprintln(w, printable(answer))
	})
}

// mailPatience is how long a mail server may take.
const mailPatience = 30 * time.Second

// errMail is what a mail server has against a letter.
type errMail struct {
	server string
	err    error
}

func (e *errMail) Error() string {
	return e.server + " did not take the letter: " + e.err.Error()
}

// Is makes the exit code 6 where it is not about the letter.
func (e *errMail) Is(target error) bool {
	return target == errUnreachable && errors.Is(e.err, mail.ErrAway)
}

type mailRetryCmd struct{}

func (mailRetryCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		n, err := o.Mail.Retry(a.ctx)
		if err != nil {
			return err
		}
		a.done("%d letters that waited for another attempt are due. A running server tries them within a second, or a minute if it has found the mail server away", n)
		return a.data("mail_retry/v1", map[string]int64{"due": n})
	})
}
