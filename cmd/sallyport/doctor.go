package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

type doctorCmd struct {
	URL       string `help:"Where clients reach the server; the default is base_url." placeholder:"URL"`
	TokenFile string `name:"token-file" help:"File with an access token or API key that has the permission read:server. Without it one is made in the database, for a minute." placeholder:"FILE"`
}

// finding is what doctor says of one thing.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // ok, warning, problem, skipped
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // a line of configuration, or what to do
}

const (
	fine    = "ok"
	warning = "warning"
	problem = "problem"
	skipped = "skipped"
)

// examination is one run of doctor.
type examination struct {
	a        *app
	base     *url.URL
	client   *http.Client
	findings []finding
	answer   *http.Response // of the first request, without its body
	own      string         // this end of the last connection
	issuer   string         // what the server calls itself
	itself   bool           // what answers has shown that it is the server of this address
}

func (e *examination) note(check, status, fix, detail string, args ...any) {
	e.findings = append(e.findings, finding{check, status, fmt.Sprintf(detail, args...), fix})
}

// patience is how long one question of doctor may take.
const patience = 10 * time.Second

// forgedAddress is one of those that are for documentation (RFC 5737): no client
// has it.
const forgedAddress = "203.0.113.77"

// Run asks a running server from outside, as its clients do.
func (c doctorCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	if c.URL == "" {
		c.URL = s.baseURL()
	}
	if err := server.CheckBaseURL(c.URL); err != nil {
		return &errUsage{fmt.Errorf("--url: %w", err)}
	}
	base, err := url.Parse(c.URL)
	if err != nil {
		return &errUsage{err}
	}
	e := &examination{a: a, base: base, client: &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: nil, ForceAttemptHTTP2: true},
	}}
	if err := e.reach(); err != nil {
		return fmt.Errorf("%s is %w: %w. Check that the server runs, the address is right and no firewall stands between", c.URL, errUnreachable, err)
	}
	e.headers()
	e.tls()
	e.hosts()
	e.mail(s)
	if !e.itself {
		e.note("proxies", skipped, "what is said of the address above", "no credential is sent to what has not shown that it is the server of %s", c.URL)
	} else if err := e.inside(s, c.TokenFile); err != nil {
		return err
	}
	problems := 0
	for _, f := range e.findings {
		if f.Status == problem {
			problems++
		}
	}
	err = a.answer("doctor/v1", map[string]any{"url": c.URL, "problems": problems, "findings": e.findings}, func(w io.Writer) {
		for _, f := range e.findings {
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.Status, f.Check, printable(f.Detail))
			if f.Fix != "" {
				fmt.Fprintf(w, "\t\t→ %s\n", printable(f.Fix))
			}
		}
	})
	if err == nil && problems > 0 {
		a.info("%d of %d checks found a problem.", problems, len(e.findings))
		return errSilent
	}
	return err
}

// ask sends one request, as changed, and reads the answer.
func (e *examination) ask(path string, change func(*http.Request)) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(e.a.ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base.String()+path, nil)
	if err != nil {
		return nil, nil, err
	}
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { e.own = i.Conn.LocalAddr().String() },
	}))
	req.Header.Set("Accept", "application/json")
	if change != nil {
		change(req)
	}
	res, err := e.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res, b, err
}

// reach looks whether it is Sallyport that answers, and under which name.
func (e *examination) reach() error {
	began := time.Now()
	res, b, err := e.ask("/.well-known/oauth-authorization-server", nil)
	trusted := true
	if _, bad := errors.AsType[*tls.CertificateVerificationError](err); bad {
		e.note("certificate", problem, "tls.cert and tls.key, or tls.acme = true", "it is not trusted: %v", errors.Unwrap(err))
		t := e.client.Transport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // to look at the rest, without a credential
		trusted = false
		e.client.Transport = t
		res, b, err = e.ask("/.well-known/oauth-authorization-server", nil)
	}
	if err != nil {
		return err
	}
	e.answer = res
	took := time.Since(began)
	var meta struct {
		Issuer string `json:"issuer"`
	}
	if res.StatusCode == http.StatusOK && json.Unmarshal(b, &meta) == nil {
		e.issuer = meta.Issuer
	}
	switch {
	case res.StatusCode/100 == 3:
		e.note("reached", problem, "--url "+res.Header.Get("Location"), "it redirects to %s", res.Header.Get("Location"))
	case res.StatusCode == http.StatusBadRequest && strings.Contains(string(b), `"host_not_allowed"`):
		e.note("hosts", problem, "hosts.allowed = ["+quote(e.base.Hostname())+"], and base_url = "+quote(e.base.String()), "the server does not take requests for %s", e.base.Hostname())
	case res.StatusCode == http.StatusForbidden && strings.Contains(string(b), `"https_required"`):
		e.note("https", problem, "the address of the proxy in proxy.trusted; or tls.cert and tls.key", "the server believes that this request came without HTTPS, and refuses it")
	case e.issuer == "":
		e.note("reached", problem, "the address of the server, or the path that a proxy hands on", "what answers there is not Sallyport: %s", res.Status)
	case meta.Issuer != e.base.String():
		e.note("base_url", problem, "base_url = "+quote(e.base.String())+" (it makes the access tokens that are out worthless)", "the server calls itself %s", meta.Issuer)
	default:
		e.itself = trusted
		e.note("reached", fine, "", "%s answers as itself in %v", e.base, took.Round(time.Millisecond))
	}
	return nil
}

// headers looks at the headers of an answer and of a refusal.
func (e *examination) headers() {
	refused, _, err := e.ask("/users/me", nil)
	if err != nil {
		e.note("headers", problem, "", "a request that should be refused was not answered: %v", err)
		return
	}
	if refused.StatusCode != http.StatusUnauthorized && refused.StatusCode != http.StatusForbidden && refused.StatusCode != http.StatusBadRequest {
		e.note("refusal", problem, "what stands between client and server", "/users/me answers %s to nobody", refused.Status)
	}
	var missing []string
	for _, res := range []*http.Response{e.answer, refused} {
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors", "Referrer-Policy": "", "X-Request-Id": ""} {
			if got := res.Header.Get(name); (got == "" || !strings.Contains(got, want)) && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
		}
	}
	if slices.Sort(missing); missing != nil {
		e.note("headers", problem, "a proxy that removes response headers", "missing or changed: %s", strings.Join(missing, ", "))
		return
	}
	e.note("headers", fine, "", "on answers and refusals")
}

// tls looks at the connection.
func (e *examination) tls() {
	if e.base.Scheme != "https" {
		if onThisMachine(e.base.Hostname()) {
			e.note("https", warning, "", "this URL is for this machine only: passwords go over it in clear")
			return
		}
		e.note("https", problem, "base_url = "+quote("https://"+e.base.Host)+" with tls.cert and tls.key, or tls.acme = true, or a proxy that has certificates", "passwords and tokens go over the network in clear")
		return
	}
	if state := e.answer.TLS; state != nil {
		leaf := state.PeerCertificates[0]
		left := time.Until(leaf.NotAfter)
		switch {
		case left < 0:
			e.note("certificate", problem, "renew it; with tls.cert it is read again when the file changes", "it expired on %s", leaf.NotAfter.Format(time.DateOnly))
		case left < 14*24*time.Hour && left < leaf.NotAfter.Sub(leaf.NotBefore)/4:
			e.note("certificate", warning, "renew it; with tls.cert it is read again when the file changes", "it expires on %s", leaf.NotAfter.Format(time.DateOnly))
		default:
			e.note("certificate", fine, "", "%s, until %s", nameOf(leaf), leaf.NotAfter.Format(time.DateOnly))
		}
		e.note("tls", fine, "", "%s, %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
	}
	if v, ok := e.handshake(tls.VersionTLS10, tls.VersionTLS11); ok {
		e.note("tls", problem, "the TLS versions of whoever holds the certificate", "%s is accepted, which is broken", tls.VersionName(v))
	}
	if hsts := e.answer.Header.Get("Strict-Transport-Security"); hsts == "" {
		if _, err := netip.ParseAddr(e.base.Hostname()); err != nil && e.base.Hostname() != "localhost" {
			e.note("hsts", warning, "the address of the proxy in proxy.trusted, so that the server knows of HTTPS; or tls.hsts", "browsers are not told to stay with HTTPS")
		}
	} else {
		e.note("hsts", fine, "", "%s", hsts)
	}
	e.plain()
}

func nameOf(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.Subject.CommonName
}

// handshake reports whether the server takes one of these versions.
func (e *examination) handshake(low, high uint16) (uint16, bool) {
	port := e.base.Port()
	if port == "" {
		port = "443"
	}
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{MinVersion: low, MaxVersion: high, ServerName: e.base.Hostname(), InsecureSkipVerify: true}}
	conn, err := d.DialContext(e.a.ctx, "tcp", net.JoinHostPort(e.base.Hostname(), port))
	if err != nil {
		return 0, false
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().Version, true
}

// plain looks at what port 80 says, where there is one.
func (e *examination) plain() {
	if e.base.Port() != "" {
		return // nobody knows where its redirect would be
	}
	target := "http://" + e.base.Host + e.base.Path + "/docs?from=doctor"
	ctx, cancel := context.WithTimeout(e.a.ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return
	}
	req.Header.Set("Accept", "text/html")
	res, err := e.client.Do(req)
	if err != nil {
		e.note("redirect", skipped, "", "nothing answers on port 80")
		return
	}
	defer res.Body.Close()
	to, err := url.Parse(res.Header.Get("Location"))
	switch {
	case res.StatusCode/100 != 3:
		e.note("redirect", problem, "tls.redirect, or the proxy's redirect to HTTPS", "pages are answered without HTTPS: %s", res.Status)
	case err != nil || to.Scheme != "https" || to.Host != e.base.Host:
		e.note("redirect", problem, "the proxy's redirect to HTTPS", "it leads elsewhere: %s", res.Header.Get("Location"))
	case to.RequestURI() != e.base.Path+"/docs?from=doctor":
		e.note("redirect", warning, "a redirect that keeps path and query", "it forgets the path: %s", res.Header.Get("Location"))
	default:
		e.note("redirect", fine, "", "pages are led to HTTPS")
	}
}

// hosts asks for a host that is somebody else's.
func (e *examination) hosts() {
	res, _, err := e.ask("/livez/x", func(r *http.Request) { r.Host = "sallyport-doctor.invalid" })
	switch {
	case err != nil:
		e.note("hosts", fine, "", "a request for another host is not answered")
	case res.StatusCode == http.StatusBadRequest, res.StatusCode == http.StatusMisdirectedRequest, res.StatusCode == http.StatusForbidden:
		e.note("hosts", fine, "", "a request for another host is refused")
	case res.Header.Get("X-Request-Id") == "":
		e.note("hosts", fine, "", "a request for another host does not reach the server")
	default:
		e.note("hosts", problem, "hosts.allowed without that name; a proxy that hands on the Host header as it came", "a request for sallyport-doctor.invalid is answered: %s", res.Status)
	}
}

// inside asks the server what it sees, with a credential for that.
func (e *examination) inside(s settings, tokenFile string) error {
	if tokenFile != "" {
		token, err := e.a.lineOf(tokenFile)
		if err != nil {
			return &errUsage{fmt.Errorf("--token-file: %w", err)}
		}
		e.compare(s, token)
		return nil
	}
	if server.CheckBaseURL(e.issuer) != nil {
		return nil // what answers is not Sallyport
	}
	s["base_url"] = value{e.issuer, "default"} // tokens are for what the server calls itself
	o, err := e.a.open(e.a.ctx, s, mustExist, slog.New(slog.DiscardHandler))
	if err != nil {
		e.note("proxies", skipped, "the server's own configuration with this command (--config, --data, --database), or --token-file", "the database cannot be opened here, and the server tells only who has the permission %s: %s", server.ReadServer, describe(err))
		return nil
	}
	defer o.Close()
	// A client of its own, gone when this returns: nobody's account is used.
	made, err := o.Clients.Create(e.a.ctx, role.Operator(), "sallyport doctor", []string{server.ReadServer}, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err := o.Clients.Delete(context.WithoutCancel(e.a.ctx), role.Operator(), made.ID); err != nil {
			e.a.info("warning: the machine client %s, which doctor made, could not be deleted: %s. Delete it: sallyport client delete %[1]s", made.ID, describe(err))
		}
	}()
	t, err := o.Clients.Grant(e.a.ctx, made.ID, made.Secret, false, nil)
	if err != nil {
		return err
	}
	e.compare(s, t.Access)
	st, err := o.Mail.Status(e.a.ctx)
	if err == nil {
		e.letters(st)
	}
	return err
}

// mail asks the mail server whether it takes letters of ours. None is sent.
func (e *examination) mail(s settings) {
	sender, err := s.smtp()
	switch {
	case err != nil:
		e.note("mail", problem, "smtp.url", "%s", describe(err))
		return
	case sender == nil && s.bool("dev"):
		e.note("mail", warning, "smtp.url", "letters are shown at %s and sent to nobody: this is development", server.InboxPath)
		return
	case sender == nil:
		e.note("mail", skipped, "smtp.url", "there is no mail server: nobody can choose a new password by themselves, or is told what happens to their account")
		return
	}
	ctx, cancel := context.WithTimeout(e.a.ctx, patience)
	defer cancel()
	how, err := sender.Check(ctx)
	if err != nil {
		e.note("mail", problem, "smtp.url, smtp.roots, or the mail server", "%s takes no letters: %v", sender.Address(), err)
		return
	}
	secure := "in clear"
	if how.TLS != 0 {
		secure = tls.VersionName(how.TLS)
	}
	if how.SignIn != "" {
		secure += ", signed in with " + how.SignIn
	}
	e.note("mail", fine, "", "%s takes letters: %s", sender.Address(), secure)
	from := s.text("mail.from")
	if from == "" && (e.base.Hostname() == "localhost" || net.ParseIP(e.base.Hostname()) != nil) {
		e.note("mail", warning, `mail.from = "no-reply@your.domain"`, "letters come from an address at localhost, which other servers refuse")
	}
}

// lettersLate is from when on a letter that was tried waits for too long.
const lettersLate = 5 * time.Minute

// letters looks at those that wait.
func (e *examination) letters(st mail.Status) {
	switch late := time.Since(st.Oldest).Round(time.Second); {
	case st.Waiting == 0:
		e.note("letters", fine, "", "none wait")
	case late > lettersLate && st.Failure != "":
		e.note("letters", warning, "what it says; then sallyport mail retry", "%d wait, the oldest for %v, because: %s", st.Waiting, late, st.Failure)
	case late > lettersLate:
		e.note("letters", problem, "a running server with smtp.url: nobody sends them", "%d wait, the oldest for %v, and were not tried", st.Waiting, late)
	default:
		e.note("letters", fine, "", "%d wait, the oldest for %v", st.Waiting, late)
	}
}

// compare compares what the server sees with what was sent.
func (e *examination) compare(s settings, token string) {
	look := func(forged bool) (v server.View, ok bool) {
		res, b, err := e.ask("/doctor", func(r *http.Request) {
			if strings.HasPrefix(token, apikey.Prefix) {
				r.Header.Set(s.text("auth.api_key_header"), token)
			} else {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			if forged {
				r.Header.Set("X-Forwarded-For", forgedAddress)
				r.Header.Set("X-Real-IP", forgedAddress)
				r.Header.Set("Forwarded", "for="+forgedAddress)
			}
		})
		switch {
		case err != nil:
			e.note("proxies", problem, "", "the server did not answer: %v", err)
		case res.StatusCode != http.StatusOK:
			e.note("proxies", problem, "another token, or the server's own configuration; a proxy that hands on the Authorization header", "the server does not accept the credential: %s", res.Status)
		case json.Unmarshal(b, &v) != nil:
			e.note("proxies", problem, "an equal version of this command", "the server's answer is not understood")
		default:
			ok = true
		}
		return v, ok
	}
	began := time.Now()
	v, ok := look(false)
	took := time.Since(began)
	if !ok {
		return
	}
	forged, ok := look(true)
	if !ok {
		return
	}
	e.proxies(v, forged)
	if e.base.Scheme == "https" && !v.HTTPS {
		e.note("https", problem, "proxy.trusted = ["+quote(v.Peer)+"], and a proxy that sends X-Forwarded-Proto", "the server does not know that this request came over HTTPS")
	}
	off := v.Time.Sub(began.Add(took / 2))
	if off = off.Round(time.Millisecond); off.Abs() > 5*time.Second+took {
		e.note("clock", problem, "time synchronisation (NTP) on both", "the server's clock and this machine's differ by %v", off)
	} else {
		e.note("clock", fine, "", "differs by %v", off)
	}
	if v.Cookies {
		e.note("cookies", fine, "", "browsers keep %s under %s", v.Cookie, v.BaseURL)
	} else {
		e.note("cookies", warning, "base_url = "+quote("https://"+e.base.Host), "browsers would not keep session cookies under %s; tokens work", v.BaseURL)
	}
	e.limits(v)
}

func (e *examination) proxies(v, forged server.View) {
	trust := func(addr string) string { return "proxy.trusted = [" + quote(addr) + "]" }
	direct := e.own == net.JoinHostPort(forged.Peer, fmt.Sprint(forged.PeerPort))
	last := strings.TrimSpace(forged.Received[strings.LastIndexByte(forged.Received, ',')+1:])
	switch believed := forged.Address == forgedAddress; {
	case direct && believed:
		e.note("proxies", warning, "the URL of the proxy with --url", "this machine (%s) is in proxy.trusted and asked the server directly: it may say who it is", v.Peer)
	case direct && v.Undeclared != "" && v.Undeclared != v.Peer:
		e.note("proxies", warning, trust(v.Undeclared)+", if that is a proxy of yours", "forwarded headers came from %s, which is not declared, and were ignored", v.Undeclared)
	case direct:
		e.note("proxies", fine, "", "none; the server sees this client as %s", v.Address)
	case forged.Forwarded == "ignored":
		e.note("proxies", problem, trust(v.Peer), "a proxy at %s is not declared: its %s is ignored, and all its clients count as one", v.Peer, forged.Ignored)
	case strings.Contains(last, forgedAddress): // and not what the proxy has appended
		e.note("proxies", problem, "a proxy that appends to the header of proxy.header, or sets it (nginx: $proxy_add_x_forwarded_for)", "the proxy at %s hands on what a client writes into forwarded headers", v.Peer)
	case believed:
		e.note("proxies", fine, "", "the proxy at %s is declared, and so is this machine (%s): whether clients are, a machine of theirs can tell", v.Peer, v.Address)
	case v.Forwarded == "none" && v.Address == v.Peer && forged.Received == "":
		e.note("proxies", warning, "a proxy that says who its clients are (nginx: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for), and "+trust(v.Peer), "a proxy at %s says nothing of its clients: all of them count as one", v.Peer)
	default:
		e.note("proxies", fine, "", "the server sees this client as %s, through %s", v.Address, v.Peer)
	}
}

func (e *examination) limits(v server.View) {
	l := v.Limits
	if !l.Lockout {
		e.note("lockout", problem, "limits.login without off", "wrong passwords do not lock: they can be tried without end")
	}
	switch {
	case l.Login == "off" && l.Default == "off":
		e.note("limits", problem, "limits.login and limits.default without off", "there are none")
	case l.Shared == "away":
		e.note("limits", problem, "redis", "Redis does not answer: each node counts for itself%s", part(l.Nodes))
	default:
		shared := "in memory of each node" + part(l.Nodes)
		if l.Shared == "yes" {
			shared = "shared by all nodes"
		}
		e.note("limits", fine, "", "sign-ins %s, all requests %s, %s", l.Login, l.Default, shared)
	}
}

// part says what a node that counts for itself lets through.
func part(nodes int) string {
	if nodes > 1 {
		return fmt.Sprintf(", which lets through its part, one of %d (limits.nodes)", nodes)
	}
	return ""
}

func quote(s string) string { return `"` + s + `"` }
