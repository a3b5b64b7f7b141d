package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
	"golang.org/x/net/idna"

	"github.com/sallyport/sallyport"
)

// SMTPConfig is what an SMTP needs.
type SMTPConfig struct {
	// URL is smtp://user:password@host:587, which goes on with TLS before anything is
	// said (STARTTLS), or smtps://user:password@host:465, TLS from the beginning. User
	// and password may be missing. What is special in a URL is written %40.
	//
	// ?tls=off goes without TLS, which is the default for this machine (localhost and
	// loopback addresses) and is refused with a password for any other;
	// ?tls=starttls demands it for this machine, too.
	URL string
	// Roots are the authorities that may vouch for the server; nil: the system's.
	Roots *x509.CertPool
	// Name is what we call ourselves (EHLO); default localhost.
	Name string
}

// SMTP hands messages to a mail server (RFC 5321): what most services have, their
// own or a provider's. It never goes on without the TLS that it was told to use.
type SMTP struct {
	target
	cfg SMTPConfig
	tls *tls.Config

	mu     sync.Mutex
	idle   []*connection
	closed bool
}

// target is what an URL says.
type target struct {
	host, port     string
	user, password string
	implicit       bool // TLS from the beginning
	clear          bool // no TLS
}

// How long things may take, and connections are kept.
const (
	dialTimeout   = 15 * time.Second // connect, TLS, EHLO, AUTH
	letterTimeout = 60 * time.Second // one message, if the context allows more
	keepIdle      = 5 * time.Second
	maxUses       = 100 // messages on one connection
)

// NewSMTP returns an SMTP. It connects when there is something to send.
func NewSMTP(cfg SMTPConfig) (*SMTP, error) {
	t, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "localhost"
	}
	if ip, err := netip.ParseAddr(cfg.Name); err == nil { // RFC 5321, 4.1.3
		cfg.Name = "[" + ip.String() + "]"
		if ip.Is6() {
			cfg.Name = "[IPv6:" + ip.String() + "]"
		}
	}
	return &SMTP{target: t, cfg: cfg, tls: &tls.Config{ServerName: t.host, RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}}, nil
}

// CheckURL returns what is wrong with a URL of a mail server.
func CheckURL(text string) error {
	_, err := parseURL(text)
	return err
}

// parseURL returns a mistake that does not hold the text: there is a password in
// it.
func parseURL(text string) (t target, err error) {
	bad := func(reason, fix string) (target, error) {
		return target{}, sallyport.Mistake("smtp.url", "", reason, fix)
	}
	const written = "Write it as smtp://USER:PASSWORD@host:587 or smtps://USER:PASSWORD@host:465."
	u, err := url.Parse(text)
	if err != nil {
		return bad("it is not a URL", "Write what is special in user and password as in URLs: @ is %40, / is %2F, % is %25.")
	}
	t = target{host: u.Hostname(), port: u.Port(), implicit: u.Scheme == "smtps"}
	switch {
	case u.Scheme != "smtp" && u.Scheme != "smtps":
		return bad("it begins with neither smtp:// nor smtps://", written)
	case t.host == "":
		return bad("it names no host", written)
	case strings.Trim(u.Path, "/") != "" || u.Fragment != "" || u.Opaque != "":
		return bad("there is something behind the host", written)
	}
	if t.port == "" {
		t.port = "587"
		if t.implicit {
			t.port = "465"
		}
	}
	if n, err := strconv.Atoi(t.port); err != nil || n < 1 || n > 65535 {
		return bad("its port is none", "A port is from 1 to 65535.")
	}
	if u.User != nil {
		t.user = u.User.Username()
		t.password, _ = u.User.Password()
		if t.user == "" || t.password == "" {
			return bad("of user and password one is missing", "Give both, or neither.")
		}
		if strings.ContainsFunc(t.user+t.password, unicode.IsControl) {
			return bad("user or password has a control character", written)
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || len(query) > 1 || len(query) == 1 && len(query["tls"]) != 1 {
		return bad("behind the ? there is something other than tls", "Write tls=off, tls=starttls, or nothing.")
	}
	ip, ipErr := netip.ParseAddr(t.host)
	here := t.host == "localhost" || ipErr == nil && ip.IsLoopback()
	switch mode := query.Get("tls"); {
	case mode != "" && t.implicit:
		return bad("smtps:// is TLS from the beginning, and tls says something else", "Leave tls out, or write smtp://.")
	case mode == "off":
		t.clear = true
		if t.user != "" && !here {
			return bad("the password would go over the network in clear", "Leave tls=off out, or user and password.")
		}
	case mode == "":
		t.clear = here && !t.implicit
	case mode != "starttls":
		return bad("tls is neither off nor starttls", "Write tls=off, tls=starttls, or nothing.")
	}
	return t, nil
}

// Address returns host and port of the server.
func (s *SMTP) Address() string { return net.JoinHostPort(s.host, s.port) }

// connection is one to the server, signed in.
type connection struct {
	raw     net.Conn
	client  *smtp.Client
	timer   *time.Timer // closes it when it is idle
	uses    int
	signIn  string // the mechanism; "" for none
	version uint16 // of TLS; 0: none
}

// dial connects and signs in. Every failure is the server's, and no letter's.
func (s *SMTP) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, mine := &connection{}, ctx
	stop := func() bool { return true }
	policy := gomail.TLSMandatory
	if s.clear || s.implicit {
		policy = gomail.NoTLS
	}
	options := []gomail.Option{
		gomail.WithHELO(s.cfg.Name), gomail.WithTimeout(dialTimeout), gomail.WithTLSConfig(s.tls), gomail.WithTLSPolicy(policy),
		gomail.WithDialContextFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, s.Address())
			if err != nil {
				return nil, err
			}
			c.raw = conn // closed by us: the library leaves it open when what follows fails
			stop = context.AfterFunc(mine, func() { conn.Close() })
			if !s.implicit {
				return conn, nil
			}
			secure := tls.Client(conn, s.tls)
			return secure, secure.HandshakeContext(ctx)
		}),
	}
	auth := &anyAuth{target: s.target}
	if s.user != "" {
		options = append(options, gomail.WithSMTPAuthCustom(auth))
	}
	client, err := gomail.NewClient(s.host, options...)
	if err == nil {
		c.client, err = client.DialToSMTPClientWithContext(ctx)
	}
	if !stop() { // the connection is cut, and that is why
		err = ctx.Err()
	}
	if err != nil {
		if c.raw != nil {
			c.raw.Close()
		}
		return nil, &sendError{step: "connecting", err: err, away: true}
	}
	if state, err := c.client.GetTLSConnectionState(); err == nil {
		c.version = state.Version
	}
	c.signIn = auth.mechanism
	return c, nil
}

// anyAuth signs in by the best of what the server offers. TLS has been dealt with
// by then: over a clear connection there is a password only on this machine.
type anyAuth struct {
	target
	mechanism string
	chosen    smtp.Auth
}

// Start implements smtp.Auth.
func (a *anyAuth) Start(server *smtp.ServerInfo) (string, []byte, error) {
	offered := map[string]bool{}
	for _, name := range server.Auth {
		offered[strings.ToUpper(name)] = true
	}
	switch {
	case offered["PLAIN"]: // RFC 4616
		a.mechanism, a.chosen = "PLAIN", smtp.PlainAuth("", a.user, a.password, a.host, true)
	case offered["LOGIN"]:
		a.mechanism, a.chosen = "LOGIN", smtp.LoginAuth(a.user, a.password, a.host, true)
	case offered["SCRAM-SHA-256"]: // RFC 7677
		a.mechanism, a.chosen = "SCRAM-SHA-256", smtp.ScramSHA256Auth(a.user, a.password)
	default:
		return "", nil, errors.New("the server takes no user and password by PLAIN, LOGIN or SCRAM-SHA-256")
	}
	return a.chosen.Start(server)
}

// Next implements smtp.Auth.
func (a *anyAuth) Next(fromServer []byte, more bool) ([]byte, error) {
	return a.chosen.Next(fromServer, more)
}

// take returns a connection that has answered just now.
func (s *SMTP) take(ctx context.Context) (*connection, error) {
	for {
		s.mu.Lock()
		if s.closed || len(s.idle) == 0 {
			s.mu.Unlock()
			return s.dial(ctx)
		}
		c := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		s.mu.Unlock()
		c.timer.Stop()
		release := c.within(ctx, dialTimeout)
		err := c.client.Reset()
		release()
		if err == nil {
			return c, nil
		}
		c.raw.Close()
	}
}

// within bounds what is done with a connection, until release is called.
func (c *connection) within(ctx context.Context, most time.Duration) (release func()) {
	_ = c.raw.SetDeadline(time.Now().Add(most))
	stop := context.AfterFunc(ctx, func() { _ = c.raw.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// keep puts a connection back, to be used again soon.
func (s *SMTP) keep(c *connection) {
	c.uses++
	s.mu.Lock()
	if s.closed || c.uses >= maxUses {
		s.mu.Unlock()
		c.quit()
		return
	}
	defer s.mu.Unlock()
	s.idle = append(s.idle, c)
	c.timer = time.AfterFunc(keepIdle, func() {
		s.mu.Lock()
		for i, has := range s.idle {
			if has == c {
				s.idle = append(s.idle[:i], s.idle[i+1:]...)
				s.mu.Unlock()
				c.quit()
				return
			}
		}
		s.mu.Unlock()
	})
}

func (c *connection) quit() {
	_ = c.raw.SetDeadline(time.Now().Add(time.Second))
	_ = c.client.Quit()
	c.raw.Close()
}

// Close ends connections that are kept.
func (s *SMTP) Close() {
	s.mu.Lock()
	idle := s.idle
	s.idle, s.closed = nil, true
	s.mu.Unlock()
	for _, c := range idle {
		c.timer.Stop()
		c.quit()
	}
}

// Send implements Sender.
func (s *SMTP) Send(ctx context.Context, m Message) error {
	_, err := s.Submit(ctx, m)
	return err
}

// Submit is Send, and returns what the server answered.
func (s *SMTP) Submit(ctx context.Context, m Message) (answer string, err error) {
	secrets := append(m.secrets(), s.password)
	defer func() {
		if e, ok := errors.AsType[*sendError](err); ok {
			e.text = scrub(e.plain(), secrets...)
		}
	}()
	e, err := addressed(m)
	if err != nil {
		return "", err
	}
	c, err := s.take(ctx)
	if err != nil {
		return "", err
	}
	release := c.within(ctx, letterTimeout)
	defer release()
	answer, err = c.send(m, e)
	if failed, ok := errors.AsType[*sendError](err); ok {
		if ctx.Err() != nil { // and not what the cut connection says
			failed.err = ctx.Err()
		}
		if failed.code() == 0 || failed.code() == 421 || c.client.Reset() != nil {
			c.raw.Close()
			return "", err
		}
	}
	s.keep(c)
	return scrub(answer, secrets...), err
}

// Connected is how a server was reached.
type Connected struct {
	TLS    uint16 // its version, as in crypto/tls; 0: none
	SignIn string // the mechanism (RFC 4954); "" if there is no user
}

// Check connects and signs in, and sends nothing.
func (s *SMTP) Check(ctx context.Context) (Connected, error) {
	c, err := s.dial(ctx)
	if err != nil {
		if e, ok := errors.AsType[*sendError](err); ok {
			e.text = scrub(e.plain(), s.password)
		}
		return Connected{}, err
	}
	c.quit()
	return Connected{c.version, c.signIn}, nil
}

// envelope is from whom and to whom, as SMTP has it.
type envelope struct {
	from, to *netmail.Address
	utf8     bool // there are letters before the @ that only RFC 6531 can carry
}

// addressed reads the addresses of a message. An error is a mistake of ours or an
// address that is none.
func addressed(m Message) (e envelope, err error) {
	if e.from, err = netmail.ParseAddress(m.From); err != nil {
		return e, errors.New("the sender's address is none: see mail.from")
	}
	if e.to, err = netmail.ParseAddress(m.To); err != nil || e.to.Address != m.To { // a name, several, a quoted one
		return e, fmt.Errorf("%w: it is none", ErrRefused)
	}
	for _, a := range []*netmail.Address{e.from, e.to} {
		at := strings.LastIndexByte(a.Address, '@')
		if at < 1 || strings.ContainsFunc(a.Address+a.Name, unicode.IsControl) {
			return e, fmt.Errorf("%w: it is none", ErrRefused)
		}
		if domain := a.Address[at+1:]; !isASCII(domain) {
			ascii, err := idna.Lookup.ToASCII(domain)
			if err != nil {
				return e, fmt.Errorf("%w: its domain is none", ErrRefused)
			}
			a.Address = a.Address[:at+1] + ascii
		}
		e.utf8 = e.utf8 || !isASCII(a.Address)
	}
	return e, nil
}

// path is an address in its brackets, quoted where it must be.
func path(a *netmail.Address) string { return (&netmail.Address{Address: a.Address}).String() }

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// send sends one message.
func (c *connection) send(m Message, e envelope) (answer string, err error) {
	c.client.SkipSMTPUTF8(!e.utf8)
	if has, _ := c.client.Extension("SMTPUTF8"); e.utf8 && !has {
		return "", fmt.Errorf("%w: the server cannot write to addresses like this one (SMTPUTF8)", ErrRefused)
	}
	if err := c.client.Mail(path(e.from)); err != nil {
		return "", &sendError{step: "the sender", err: err, away: true}
	}
	if err := c.client.Rcpt(path(e.to)); err != nil {
		f := &sendError{step: "the recipient", err: err}
		f.refused = f.aboutRecipient(true)
		return "", f
	}
	w, err := c.client.Data()
	if err != nil {
		return "", &sendError{step: "the letter", err: err}
	}
	if _, err := m.rendered(e).WriteTo(w); err != nil {
		return "", &sendError{step: "the letter", err: err}
	}
	if err := w.Close(); err != nil {
		f := &sendError{step: "the letter", err: err}
		f.refused = f.aboutRecipient(false)
		return "", f
	}
	if d, ok := w.(*smtp.DataCloser); ok {
		answer = d.ServerResponse()
	}
	return answer, nil
}

// rendered is a message in its Internet format (RFC 5322, RFC 2045).
func (m Message) rendered(e envelope) *gomail.Msg {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(e.from)
	msg.ToMailAddress(e.to)
	msg.Subject(oneLine(m.Subject))
	host := e.from.Address[strings.LastIndexByte(e.from.Address, '@')+1:]
	msg.SetMessageIDWithValue(m.ID + "@" + strings.Trim(host, "[]"))
	msg.SetDateWithValue(m.Written)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holidays answer
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")  // the same for Exchange
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	}
	return msg
}

// sendError is why a message was not accepted.
type sendError struct {
	step    string // what the server was told when it failed
	err     error
	away    bool // it is about the server or the sender, and not about this message
	refused bool // it is about the recipient, and for good
	text    string
}

func (f *sendError) code() int {
	if e, ok := errors.AsType[*textproto.Error](f.err); ok {
		return e.Code
	}
	return 0
}

// aboutRecipient tells whether a refusal says that nobody reads mail at that
// address. Refusals for what the sender is or does (5.7.1 and the like) are not
// that: an operator can mend them. The enhanced code (RFC 3463) is believed before
// the other.
func (f *sendError) aboutRecipient(atRecipient bool) bool {
	e, ok := errors.AsType[*textproto.Error](f.err)
	if !ok || e.Code < 500 || e.Code > 599 {
		return false
	}
	word, _, _ := strings.Cut(e.Msg, " ")
	if class := strings.Split(word, "."); len(class) == 3 && class[0] == "5" {
		switch class[1] {
		case "1":
			return class[2] != "7" && class[2] != "8" // those are the sender's address
		case "2":
			return true
		}
		return false
	}
	switch e.Code {
	case 550, 551, 553, 556:
		return atRecipient
	}
	return false
}

// plain is the error as it came, with what an operator can do about it.
func (f *sendError) plain() string {
	code, at, said := f.code(), "the connection failed: ", f.err.Error()
	if e, ok := errors.AsType[*textproto.Error](f.err); ok {
		said = fmt.Sprintf("%d %s", e.Code, e.Msg)
	}
	switch {
	case code == 535 || code == 534 || code == 530:
		return "the server does not accept user and password (see smtp.url): " + said
	case code != 0:
		at = "the server refused "
		if f.step == "connecting" {
			at = "the server refused us while "
		}
	default:
		if _, bad := errors.AsType[*tls.CertificateVerificationError](f.err); bad {
			return "the server's certificate is not trusted (see smtp.roots): " + said
		}
		if errors.Is(f.err, context.DeadlineExceeded) || isTimeout(f.err) {
			return "the server did not answer in time: " + f.step
		}
	}
	return at + f.step + ": " + said
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Error holds no address, and nothing of the letter.
func (f *sendError) Error() string { return f.text }

// Is makes it what a Sender returns.
func (f *sendError) Is(target error) bool {
	switch target {
	case ErrRefused:
		return f.refused
	case ErrAway:
		return f.away || f.code() == 421 || f.code() == 0 && (errors.Is(f.err, context.DeadlineExceeded) || isTimeout(f.err))
	}
	return false
}

// Unwrap leads to what the context says.
func (f *sendError) Unwrap() error {
	if errors.Is(f.err, context.Canceled) {
		return context.Canceled
	}
	return nil
}
