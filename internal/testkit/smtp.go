package testkit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// MailServer is a mail server inside the test, over real connections. What it
// takes is in Got. The functions may be set and changed while it runs (Change);
// what they return is what the client is told, nil for yes.
type MailServer struct {
	MailServerConfig
	Addr      string
	RootsFile string // PEM: who vouches for its certificate
	Roots     *x509.CertPool

	t     testing.TB
	tls   *tls.Config
	mu    sync.Mutex
	ln    net.Listener
	srv   *smtp.Server
	got   []Mail
	rules MailRules
	conns int
}

// MailServerConfig says how it is reached. The zero value takes letters of
// everybody over STARTTLS.
type MailServerConfig struct {
	User, Password string // must be used, if not empty
	NoTLS          bool   // offers no STARTTLS
	Implicit       bool   // TLS from the beginning
	NoUTF8         bool   // offers no SMTPUTF8
}

// MailRules are what it refuses. An error that is Drop cuts the connection.
type MailRules struct {
	From, To func(address string) error
	Data     func(m Mail) error // after the letter has been read
}

// ErrDropped cuts the connection without an answer.
var ErrDropped = errors.New("cut")

// Refusal is an answer of a mail server: 550 5.1.1 with a text.
func Refusal(code int, enhanced [3]int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}

// Mail is a letter as it arrived.
type Mail struct {
	From, To string // of the envelope
	Raw      []byte
	TLS      bool
	User     string // who signed in
	UTF8     bool
}

// NewMailServer starts one, which ends with the test.
func NewMailServer(t testing.TB, cfg MailServerConfig) *MailServer {
	t.Helper()
	cert, key, _ := Certificate(t, time.Now().Add(time.Hour), "127.0.0.1", "localhost", "mail.example.test")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := &MailServer{MailServerConfig: cfg, t: t, tls: &tls.Config{Certificates: []tls.Certificate{pair}}, Roots: x509.NewCertPool()}
	s.Roots.AppendCertsFromPEM(cert)
	s.RootsFile = filepath.Join(t.TempDir(), "mail-roots.pem")
	if err := os.WriteFile(s.RootsFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Addr = "127.0.0.1:0"
	s.Back()
	t.Cleanup(s.Away)
	return s
}

// URL is how it stands in smtp.url; more is a query.
func (s *MailServer) URL(more string) string {
	u := url.URL{Scheme: "smtp", Host: s.Addr, RawQuery: more}
	if s.Implicit {
		u.Scheme = "smtps"
	}
	if s.User != "" {
		u.User = url.UserPassword(s.User, s.Password)
	}
	return u.String()
}

// Back lets it listen, again at the address that it had.
func (s *MailServer) Back() {
	s.t.Helper()
	ln, err := net.Listen("tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns++
		return &mailSession{s: s, c: c}, nil
	}))
	srv.Domain, srv.MaxMessageBytes, srv.MaxRecipients, srv.EnableSMTPUTF8 = "mail.example.test", 1<<20, 1, !s.NoUTF8
	srv.ReadTimeout, srv.WriteTimeout = time.Minute, time.Minute
	srv.ErrorLog = log.New(io.Discard, "", 0)
	srv.AllowInsecureAuth = s.NoTLS
	if !s.NoTLS && !s.Implicit {
		srv.TLSConfig = s.tls
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Addr, s.ln, s.srv = ln.Addr().String(), ln, srv
	if s.Implicit {
		ln = tls.NewListener(ln, s.tls)
	}
	go func() { _ = srv.Serve(ln) }()
}

// Away ends it: connections are refused from then on, and those that are open are
// cut.
func (s *MailServer) Away() {
	s.mu.Lock()
	srv, ln := s.srv, s.ln
	s.mu.Unlock()
	_ = srv.Close()
	_ = ln.Close()
}

// Change sets what it refuses.
func (s *MailServer) Change(r MailRules) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = r
}

// Got returns what it has taken, oldest first.
func (s *MailServer) Got() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.got...)
}

// Connections returns how many sessions there have been; STARTTLS begins another.
func (s *MailServer) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

func (s *MailServer) now() MailRules {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rules
}

type mailSession struct {
	s    *MailServer
	c    *smtp.Conn
	mail Mail
	user string
}

func (m *mailSession) AuthMechanisms() []string {
	if m.s.User == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (m *mailSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != m.s.User || password != m.s.Password {
			return smtp.ErrAuthFailed
		}
		m.user = user
		return nil
	}), nil
}

// said is what a rule says, and cuts the connection if that is it.
func (m *mailSession) said(err error) error {
	if errors.Is(err, ErrDropped) {
		_ = m.c.Conn().Close()
	}
	return err
}

func (m *mailSession) Mail(from string, o *smtp.MailOptions) error {
	if m.s.User != "" && m.user == "" {
		return smtp.ErrAuthRequired
	}
	_, secure := m.c.TLSConnectionState()
	m.mail = Mail{From: from, TLS: secure, User: m.user, UTF8: o.UTF8}
	if f := m.s.now().From; f != nil {
		return m.said(f(from))
	}
	return nil
}

func (m *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	m.mail.To = to
	if f := m.s.now().To; f != nil {
		return m.said(f(to))
	}
	return nil
}

func (m *mailSession) Data(r io.Reader) (err error) {
	if m.mail.Raw, err = io.ReadAll(r); err != nil {
		return err
	}
	if f := m.s.now().Data; f != nil {
		if err := f(m.mail); err != nil {
			return m.said(err)
		}
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.got = append(m.s.got, m.mail)
	return nil
}

func (m *mailSession) Reset()        {}
func (m *mailSession) Logout() error { return nil }
