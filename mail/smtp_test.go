package mail_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
)

const secretPassword = "correct-horse/45%@x"

func smtpFor(t *testing.T, s *testkit.MailServer, query string) *mail.SMTP {
	t.Helper()
	c, err := mail.NewSMTP(mail.SMTPConfig{URL: s.URL(query), Roots: s.Roots, Name: "id.example.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func letter(to string) mail.Message {
	return mail.Message{
		ID: "0190a0a0-0000-7000-8000-000000000001", Kind: mail.Reset, From: "Example Ünlü <no-reply@example.test>", To: to,
		Subject: "Choose a new password – Größe", Text: "Hello,\n\n.\nhttps://id.example.test/account/reset#token=rs_secret-secret-secret\n", HTML: "<p>Grüße</p>",
		Link: "https://id.example.test/account/reset#token=rs_secret-secret-secret", Code: "123456", Written: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
	}
}

// parsed is a letter as another program reads it.
type parsed struct {
	header     netmail.Header
	subject    string
	text, html string
}

func parse(t *testing.T, raw []byte) (p parsed) {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	p.header = m.Header
	if p.subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/alternative" {
		t.Fatalf("Content-Type %q: %v", m.Header.Get("Content-Type"), err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		if enc := part.Header.Get("Content-Transfer-Encoding"); enc != "quoted-printable" {
			t.Fatalf("encoding %q", enc)
		}
		b, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		switch typ := part.Header.Get("Content-Type"); {
		case strings.HasPrefix(typ, "text/plain;"):
			p.text = strings.ReplaceAll(string(b), "\r\n", "\n")
		case strings.HasPrefix(typ, "text/html;"):
			p.html = string(b)
		default:
			t.Fatalf("a part is %s", typ)
		}
	}
}

func TestSMTPSends(t *testing.T) {
	for _, tt := range []struct {
		name, query string
		cfg         testkit.MailServerConfig
		secure      bool
	}{
		{"STARTTLS with a user", "tls=starttls", testkit.MailServerConfig{User: "us er@example.test", Password: secretPassword}, true},
		{"TLS from the beginning", "", testkit.MailServerConfig{Implicit: true, User: "u", Password: secretPassword}, true},
		{"this machine in clear", "", testkit.MailServerConfig{NoTLS: true}, false},
		{"this machine in clear with a user", "tls=off", testkit.MailServerConfig{NoTLS: true, User: "u", Password: secretPassword}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := testkit.NewMailServer(t, tt.cfg)
			c := smtpFor(t, srv, tt.query)
			if _, err := c.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(srv.Got()) != 0 {
				t.Fatal("a check sends nothing")
			}
			if err := c.Send(t.Context(), letter("ada@example.com")); err != nil {
				t.Fatal(err)
			}
			got := srv.Got()
			if len(got) != 1 || got[0].To != "ada@example.com" || got[0].From != "no-reply@example.test" || got[0].TLS != tt.secure || got[0].User != tt.cfg.User || got[0].UTF8 {
				t.Fatalf("got %+v", got)
			}
			p := parse(t, got[0].Raw)
			from, err := netmail.ParseAddress(p.header.Get("From"))
			if err != nil || from.Name != "Example Ünlü" || from.Address != "no-reply@example.test" {
				t.Errorf("From %q: %v", p.header.Get("From"), err)
			}
			for name, want := range map[string]string{
				"To": "<ada@example.com>", "Message-Id": "<0190a0a0-0000-7000-8000-000000000001@example.test>",
				"Auto-Submitted": "auto-generated", "Mime-Version": "1.0", "Date": "Sun, 22 Nov 2026 10:00:00 +0000", "User-Agent": "", "X-Mailer": "",
			} {
				if p.header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, p.header.Get(name), want)
				}
			}
			if m := letter(""); p.subject != m.Subject || p.text != m.Text || p.html != m.HTML {
				t.Errorf("subject %q, text %q, HTML %q", p.subject, p.text, p.html)
			}
		})
	}
}

// TestSMTPGoesOnWithTLSOnly: what is said is heard by nobody but the server that
// was meant, whatever stands between.
func TestSMTPGoesOnWithTLSOnly(t *testing.T) {
	t.Run("STARTTLS is not offered", func(t *testing.T) {
		srv := testkit.NewMailServer(t, testkit.MailServerConfig{NoTLS: true, User: "u", Password: secretPassword})
		if err := smtpFor(t, srv, "tls=starttls").Send(t.Context(), letter("ada@example.com")); !errors.Is(err, mail.ErrAway) || !strings.Contains(err.Error(), "STARTTLS") {
			t.Fatalf("got %v", err)
		}
		if len(srv.Got()) != 0 {
			t.Error("it was sent in clear")
		}
		// The same server takes it where that was asked for.
		if err := smtpFor(t, srv, "").Send(t.Context(), letter("ada@example.com")); err != nil {
			t.Fatal(err)
		}
	})
	for _, implicit := range []bool{false, true} {
		t.Run(fmt.Sprint("another's certificate, implicit ", implicit), func(t *testing.T) {
			srv := testkit.NewMailServer(t, testkit.MailServerConfig{Implicit: implicit, User: "u", Password: secretPassword})
			query := "tls=starttls"
			if implicit {
				query = ""
			}
			c, err := mail.NewSMTP(mail.SMTPConfig{URL: srv.URL(query)})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Send(t.Context(), letter("ada@example.com")); !errors.Is(err, mail.ErrAway) || !strings.Contains(err.Error(), "certificate is not trusted") {
				t.Fatalf("got %v", err)
			}
			if err := smtpFor(t, srv, query).Send(t.Context(), letter("ada@example.com")); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("an old TLS", func(t *testing.T) {
		cert, key, _ := testkit.Certificate(t, time.Now().Add(time.Hour), "127.0.0.1")
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, "220 old\r\n")
				conn.Close()
			}
		}()
		c, err := mail.NewSMTP(mail.SMTPConfig{URL: "smtps://" + ln.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(t.Context(), letter("ada@example.com")); !errors.Is(err, mail.ErrAway) || !strings.Contains(err.Error(), "version") {
			t.Fatalf("got %v", err)
		}
	})
}

// TestSMTPFailures: what is tried again, what is not, and that no text of a failure
// holds an address or a secret, though the server says them.
func TestSMTPFailures(t *testing.T) {
	const rude = "<ada.lovelace@example.com> said https://id.example.test/account/reset#token=rs_secret-secret-secret and rs_secret-secret-secret and 123456 to ada.lovelace"
	all := func(err error) func(string) error { return func(string) error { return err } }
	for _, tt := range []struct {
		name          string
		rules         testkit.MailRules
		refused, away bool
		says          string
	}{
		{"550 5.1.1 at the recipient", testkit.MailRules{To: all(testkit.Refusal(550, [3]int{5, 1, 1}, rude))}, true, false, "550 5.1.1"},
		{"551 without an enhanced code", testkit.MailRules{To: all(testkit.Refusal(551, [3]int{-1, -1, -1}, rude))}, true, false, "551"},
		{"553 without an enhanced code", testkit.MailRules{To: all(testkit.Refusal(553, [3]int{-1, -1, -1}, rude))}, true, false, "553"},
		{"550 5.2.1, the mailbox is closed", testkit.MailRules{To: all(testkit.Refusal(550, [3]int{5, 2, 1}, rude))}, true, false, "550 5.2.1"},
		{"550 5.1.1 after the letter", testkit.MailRules{Data: func(testkit.Mail) error { return testkit.Refusal(550, [3]int{5, 1, 1}, rude) }}, true, false, "550 5.1.1"},
		{"550 5.7.1, of our reputation", testkit.MailRules{To: all(testkit.Refusal(550, [3]int{5, 7, 1}, rude))}, false, false, "550 5.7.1"},
		{"554 without an enhanced code, no relaying", testkit.MailRules{To: all(testkit.Refusal(554, [3]int{-1, -1, -1}, rude))}, false, false, "554"},
		{"554 after the letter, called spam", testkit.MailRules{Data: func(testkit.Mail) error { return testkit.Refusal(554, [3]int{5, 7, 1}, rude) }}, false, false, "554 5.7.1"},
		{"451 at the recipient, greylisting", testkit.MailRules{To: all(testkit.Refusal(451, [3]int{4, 7, 1}, rude))}, false, false, "451 4.7.1"},
		{"452 at the recipient, the mailbox is full", testkit.MailRules{To: all(testkit.Refusal(452, [3]int{4, 2, 2}, rude))}, false, false, "452 4.2.2"},
		{"451 after the letter", testkit.MailRules{Data: func(testkit.Mail) error { return testkit.Refusal(451, [3]int{4, 3, 0}, rude) }}, false, false, "451 4.3.0"},
		{"421", testkit.MailRules{To: all(testkit.Refusal(421, [3]int{4, 3, 2}, rude))}, false, true, "421 4.3.2"},
		{"550 of the sender", testkit.MailRules{From: all(testkit.Refusal(550, [3]int{5, 1, 8}, rude))}, false, true, "550 5.1.8"},
		{"cut after the letter", testkit.MailRules{Data: func(testkit.Mail) error { return testkit.ErrDropped }}, false, false, "the connection failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := testkit.NewMailServer(t, testkit.MailServerConfig{})
			srv.Change(tt.rules)
			c := smtpFor(t, srv, "tls=starttls")
			err := c.Send(t.Context(), letter("ada.lovelace@example.com"))
			if err == nil || errors.Is(err, mail.ErrRefused) != tt.refused || errors.Is(err, mail.ErrAway) != tt.away || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("refused %v, away %v: %v", errors.Is(err, mail.ErrRefused), errors.Is(err, mail.ErrAway), err)
			}
			for _, secret := range []string{"ada", "example.com", "rs_secret", "123456", "://"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the failure holds %q: %v", secret, err)
				}
			}
			if len(srv.Got()) != 0 {
				t.Fatal("it was taken")
			}
			srv.Change(testkit.MailRules{})
			if err := c.Send(t.Context(), letter("ada.lovelace@example.com")); err != nil {
				t.Fatalf("the next letter: %v", err)
			}
		})
	}
	t.Run("535", func(t *testing.T) {
		srv := testkit.NewMailServer(t, testkit.MailServerConfig{User: "u", Password: secretPassword})
		url := srv.URL("tls=starttls")
		srv.Password = "another"
		c, err := mail.NewSMTP(mail.SMTPConfig{URL: url, Roots: srv.Roots})
		if err != nil {
			t.Fatal(err)
		}
		_, checked := c.Check(t.Context())
		for _, err := range []error{c.Send(t.Context(), letter("ada@example.com")), checked} {
			if !errors.Is(err, mail.ErrAway) || errors.Is(err, mail.ErrRefused) || !strings.Contains(err.Error(), "535") || strings.Contains(err.Error(), secretPassword) {
				t.Fatalf("got %v", err)
			}
		}
		srv.Password = secretPassword
		if err := c.Send(t.Context(), letter("ada@example.com")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("away", func(t *testing.T) {
		srv := testkit.NewMailServer(t, testkit.MailServerConfig{})
		c := smtpFor(t, srv, "tls=starttls")
		srv.Away()
		if err := c.Send(t.Context(), letter("ada@example.com")); !errors.Is(err, mail.ErrAway) || errors.Is(err, mail.ErrRefused) {
			t.Fatalf("got %v", err)
		}
		srv.Back()
		if err := c.Send(t.Context(), letter("ada@example.com")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never says a word
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := mail.NewSMTP(mail.SMTPConfig{URL: "smtp://" + ln.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := c.Send(ctx, letter("ada@example.com")); !errors.Is(err, mail.ErrAway) || !strings.Contains(err.Error(), "in time") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("slow after the letter", func(t *testing.T) {
		srv := testkit.NewMailServer(t, testkit.MailServerConfig{})
		hold := make(chan struct{})
		srv.Change(testkit.MailRules{Data: func(testkit.Mail) error { <-hold; return testkit.ErrDropped }})
		defer close(hold)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := smtpFor(t, srv, "").Send(ctx, letter("ada@example.com")); !errors.Is(err, mail.ErrAway) || !strings.Contains(err.Error(), "in time") {
			t.Fatalf("got %v", err)
		}
	})
}

// TestE_NothingIsInjectedIntoALetter: whatever stands in a name, a subject or an
// address, there is one recipient, and no header that we did not write.
func TestE_NothingIsInjectedIntoALetter(t *testing.T) {
	srv := testkit.NewMailServer(t, testkit.MailServerConfig{})
	c := smtpFor(t, srv, "tls=starttls")
	for _, address := range []string{
		"ada@example.com\r\nRCPT TO:<eve@example.com>", "ada@example.com\nBcc: eve@example.com", "ada@example.com, eve@example.com",
		"ada@example.com> SIZE=1\r\n", "<ada@example.com>", "Ada <ada@example.com>", "ada@example.com\x00", "ada", "@example.com", "ada@", "",
		"ada@example.com;eve@example.com", "ada@exam ple.com", "\"a\r\nb\"@example.com",
	} {
		if err := c.Send(t.Context(), letter(address)); !errors.Is(err, mail.ErrRefused) {
			t.Errorf("%q: %v", address, err)
		}
	}
	if len(srv.Got()) != 0 {
		t.Fatalf("%d letters were sent", len(srv.Got()))
	}
	m := letter("ada@example.com")
	m.Subject = "Hello\r\nBcc: eve@example.com\r\n\r\nbody\u2028x"
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got := parse(t, srv.Got()[0].Raw)
	if got.subject != "Hello Bcc: eve@example.com body x" || got.header.Get("Bcc") != "" || got.text != m.Text {
		t.Errorf("subject %q, headers %v", got.subject, got.header)
	}
	m.Subject = strings.Repeat("Größe ", 30) + "end" // is folded, and one line again
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if long := parse(t, srv.Got()[1].Raw); long.subject != m.Subject {
		t.Errorf("subject %q", long.subject)
	}
	for name := range got.header {
		switch name {
		case "From", "To", "Subject", "Date", "Message-Id", "Mime-Version", "Content-Type", "Auto-Submitted", "X-Auto-Response-Suppress":
		default:
			t.Errorf("a header %s", name)
		}
	}
}

// TestSMTPAddressesOfTheWorld: a domain has a form for every server; the part
// before the @ needs a server that says it can.
func TestSMTPAddressesOfTheWorld(t *testing.T) {
	can, cannot := testkit.NewMailServer(t, testkit.MailServerConfig{}), testkit.NewMailServer(t, testkit.MailServerConfig{NoUTF8: true})
	for _, srv := range []*testkit.MailServer{can, cannot} {
		if err := smtpFor(t, srv, "tls=starttls").Send(t.Context(), letter("ada@bücher.example")); err != nil {
			t.Fatal(err)
		}
		if got := srv.Got()[0]; got.To != "ada@xn--bcher-kva.example" || got.UTF8 {
			t.Errorf("%+v", got)
		}
	}
	if err := smtpFor(t, can, "tls=starttls").Send(t.Context(), letter("грета@example.com")); err != nil {
		t.Fatal(err)
	}
	if got := can.Got()[1]; got.To != "грета@example.com" || !got.UTF8 {
		t.Errorf("%+v", got)
	}
	if err := smtpFor(t, cannot, "tls=starttls").Send(t.Context(), letter("грета@example.com")); !errors.Is(err, mail.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// TestSMTPUsesAConnectionAgain for letters that follow each other, and notices when
// it is gone.
func TestSMTPUsesAConnectionAgain(t *testing.T) {
	srv := testkit.NewMailServer(t, testkit.MailServerConfig{NoTLS: true})
	c := smtpFor(t, srv, "")
	send := func() {
		t.Helper()
		if err := c.Send(t.Context(), letter("ada@example.com")); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		send()
	}
	if n := srv.Connections(); n != 1 {
		t.Errorf("%d connections for letters one after the other", n)
	}
	srv.Away()
	srv.Back()
	send()
	if n := srv.Connections(); n != 2 || len(srv.Got()) != 6 {
		t.Errorf("%d connections, %d letters", n, len(srv.Got()))
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				if err := c.Send(t.Context(), letter("ada@example.com")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if len(srv.Got()) != 46 || srv.Connections() > 11 {
		t.Errorf("%d letters over %d connections", len(srv.Got()), srv.Connections())
	}
}

// TestSMTPClosesWhatFails: signing in that fails leaves no connection open.
func TestSMTPClosesWhatFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	closed := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			closed <- err
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		fmt.Fprint(conn, "220 here\r\n")
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				closed <- nil
				return
			case strings.HasPrefix(line, "EHLO"):
				fmt.Fprint(conn, "250-here\r\n250 AUTH PLAIN\r\n")
			default: // also QUIT: a server that does not let go
				fmt.Fprint(conn, "535 5.7.8 no\r\n")
			}
		}
	}()
	c, err := mail.NewSMTP(mail.SMTPConfig{URL: "smtp://u:p@" + ln.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), letter("ada@example.com")); !errors.Is(err, mail.ErrAway) {
		t.Fatal(err)
	}
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is still open")
	}
}

func TestSMTPURL(t *testing.T) {
	for _, tt := range []struct{ url, wrong string }{
		{"smtp://mail.example.com", ""},
		{"smtp://user:pass@mail.example.com:587", ""},
		{"smtp://user%40example.com:p%2Fa%40ss@mail.example.com:2525/", ""},
		{"smtps://user:pass@mail.example.com", ""},
		{"smtp://127.0.0.1:1025", ""},
		{"smtp://user:pass@[::1]:1025?tls=off", ""},
		{"smtp://user:pass@localhost?tls=starttls", ""},
		{"smtp://relay.internal?tls=off", ""},
		{"smtp://user:pass@relay.internal?tls=off", "in clear"},
		{"smtps://mail.example.com?tls=off", "from the beginning"},
		{"smtp://mail.example.com?tls=maybe", "neither off nor starttls"},
		{"smtp://mail.example.com?tls=off&tls=starttls", "other than tls"},
		{"smtp://mail.example.com?insecure=1", "other than tls"},
		{"smtp://user@mail.example.com", "one is missing"},
		{"smtp://:pass@mail.example.com", "one is missing"},
		{"smtp://us%0Aer:pass@mail.example.com", "control character"},
		{"smtp://mail.example.com/inbox", "behind the host"},
		{"smtp://mail.example.com#x", "behind the host"},
		{"smtp://mail.example.com:0", "port"},
		{"smtp://", "no host"},
		{"https://mail.example.com", "neither smtp:// nor smtps://"},
		{"smtp://user:hunter2%zz@mail.example.com", "not a URL"},
		{"smtp://user:hunter2/x@mail.example.com", ""},
	} {
		err := mail.CheckURL(tt.url)
		switch {
		case tt.url == "smtp://user:hunter2/x@mail.example.com": // the password begins to look like a port
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", tt.url, err)
			}
		case tt.wrong == "" && err != nil:
			t.Errorf("%s: %v", tt.url, err)
		case tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: %v, want %q", tt.url, err, tt.wrong)
		}
	}
}
