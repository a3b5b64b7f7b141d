package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/server"
)

// tlsOn reports whether the server serves HTTPS itself.
func (s settings) tlsOn() bool { return s.text("tls.cert") != "" || s.bool("tls.acme") }

// list returns the parts of a list.
func (s settings) list(name string) (out []string) {
	for part := range strings.SplitSeq(s.text(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// acmeHosts are the names to have certificates for: that of base_url, and those
// of tls.hosts.
func (s settings) acmeHosts() []string {
	u, err := url.Parse(s.text("base_url"))
	if err != nil || u.Hostname() == "" {
		return s.list("tls.hosts")
	}
	hosts := []string{u.Hostname()}
	for _, host := range s.list("tls.hosts") {
		if !strings.EqualFold(host, hosts[0]) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// trusted are the networks of proxy.trusted.
func (s settings) trusted() (out []netip.Prefix) {
	out, _ = clientip.ParseTrusted(s.list("proxy.trusted")) // checked
	return out
}

// tlsMistakes returns what is wrong with the keys of TLS and of the PROXY
// protocol beside each other. Files are not looked at: most commands have no
// business with them. wrong names the keys that are mistaken by themselves.
func (s settings) tlsMistakes(wrong map[string]bool) (errs []error) {
	bad := func(name, format string, args ...any) {
		v := s[name]
		errs = append(errs, fmt.Errorf("%s = %q (from %s): %s", name, v.text, v.source, fmt.Sprintf(format, args...)))
	}
	acme := s.bool("tls.acme")
	certs, keys := s.list("tls.cert"), s.list("tls.key")
	switch {
	case len(certs) > 0 && len(keys) == 0:
		bad("tls.cert", "there is no private key beside it. Name its file in tls.key")
	case len(keys) > 0 && len(certs) == 0:
		bad("tls.key", "there is no certificate beside it. Name its file in tls.cert")
	case len(certs) != len(keys):
		bad("tls.key", "there are %d keys for %d certificates. Name one for each, in the same order", len(keys), len(certs))
	}
	if acme && len(certs) > 0 {
		bad("tls.cert", "tls.acme (from %s) has certificates of its own. Leave one of the two out", s["tls.acme"].source)
	}
	base, baseErr := url.Parse(s.text("base_url"))
	hasBase := s.text("base_url") != "" && baseErr == nil && !wrong["base_url"]
	if s.tlsOn() && hasBase && base.Scheme != "https" {
		bad("base_url", "the server serves HTTPS, and this does not begin with https://. Write it as https://%s, or leave tls.cert and tls.acme out if a proxy in front ends TLS", base.Host)
	}
	if acme {
		if s.text("base_url") == "" {
			bad("base_url", "tls.acme needs the name that the certificate is for. Write it as https://id.example.com")
		}
		if hasBase {
			if e, ok := errors.AsType[*server.ConfigError](server.CheckACMEHost(base.Hostname(), s.text("tls.acme_directory"))); ok {
				bad("base_url", "%s. %s", e.Reason, strings.TrimSuffix(e.Fix, "."))
			}
		}
		for _, host := range s.list("tls.hosts") {
			if e, ok := errors.AsType[*server.ConfigError](server.CheckACMEHost(host, s.text("tls.acme_directory"))); ok {
				bad("tls.hosts", "%s: %s. %s", host, e.Reason, strings.TrimSuffix(e.Fix, "."))
			}
		}
	} else {
		for _, name := range []string{"tls.hosts", "tls.acme_email", "tls.acme_directory", "tls.acme_roots"} {
			if s.text(name) != "" && !wrong["tls.acme"] {
				bad(name, "it is for tls.acme, which is not set. Set tls.acme = true, or leave this out")
			}
		}
	}
	if !s.tlsOn() && !wrong["tls.acme"] && len(keys) == 0 {
		if s.text("tls.redirect") != "" {
			bad("tls.redirect", "this server does not serve HTTPS. Set tls.cert and tls.key, or tls.acme; or leave this to the proxy that ends TLS")
		}
		for _, name := range []string{"tls.hsts", "tls.hsts_subdomains", "tls.hsts_preload"} {
			if k, _ := keyNamed(name); s.text(name) != k.def && !(hasBase && base.Scheme == "https") {
				bad(name, "clients do not reach this server over HTTPS. Set base_url to an https:// address; or leave this out")
			}
		}
	}
	if at := s.text("tls.redirect"); at != "" && at == s.text("listen") && !strings.HasSuffix(at, ":0") {
		bad("tls.redirect", "it is the address of “listen”. Give another, such as :80")
	}
	if s.bool("proxy.protocol") && len(s.list("proxy.trusted")) == 0 {
		bad("proxy.protocol", "it needs to know whose header to believe. List the networks of the proxies in proxy.trusted")
	}
	return errs
}

// tlsFront is where certificates come from.
type tlsFront struct {
	certs *https.Certificates // nil with tls.acme
	acme  *server.ACME        // nil with files
	roots *x509.CertPool      // of tls.acme_roots, with the system's
}

// run keeps the certificates current until ctx ends.
func (f *tlsFront) run(ctx context.Context) {
	if f.acme != nil {
		go f.acme.Run(ctx)
		return
	}
	go f.certs.Watch(ctx)
}

// tlsFiles returns what is wrong with the files of certificates.
func tlsFiles(s settings) []error {
	_, err := loadTLS(s, nil)
	if e, ok := errors.AsType[*errConfig](err); ok {
		return e.errs
	}
	return nil
}

// loadTLS reads the files of certificates. The error is an *errConfig. It
// returns nil for a server without TLS.
func loadTLS(s settings, report func(https.Event)) (*tlsFront, error) {
	if !s.tlsOn() {
		return nil, nil
	}
	f := new(tlsFront)
	var errs []error
	var err error
	certs, keys := s.list("tls.cert"), s.list("tls.key")
	if len(certs) == len(keys) && len(certs) > 0 {
		pairs := make([]https.Pair, len(certs))
		for i := range certs {
			pairs[i] = https.Pair{Cert: certs[i], Key: keys[i]}
		}
		f.certs, err = https.NewCertificates(https.CertificatesConfig{Pairs: pairs, Report: report})
		for _, e := range sallyport.Mistakes(err) {
			name := map[string]string{"Cert": "tls.cert", "Key": "tls.key"}[e.Key]
			errs = append(errs, fmt.Errorf("%s = %q (from %s): %s. %s", name, e.Value, s[name].source, e.Reason, strings.TrimSuffix(e.Fix, ".")))
		}
	}
	if path := s.text("tls.acme_roots"); path != "" {
		if f.roots, err = readRoots(path); err != nil {
			errs = append(errs, fmt.Errorf("tls.acme_roots = %q (from %s): %w. Give a PEM file with the certificates of the authority's roots", path, s["tls.acme_roots"].source, err))
		}
	}
	if errs != nil {
		return nil, &errConfig{errs}
	}
	return f, nil
}

// maxRoots bounds what is read of a file with roots.
const maxRoots = 1 << 20

// readRoots returns the system's roots with those of a file.
func readRoots(paths ...string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a container may have none
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(f, maxRoots))
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, errors.New("it holds no certificate in PEM")
		}
	}
	return pool, nil
}

// reportTo returns how an operator learns of certificates.
func reportTo(log *slog.Logger) func(https.Event) {
	levels := map[https.EventKind]slog.Level{
		https.Reloaded: slog.LevelInfo, https.Expiring: slog.LevelWarn, https.Exposed: slog.LevelWarn, https.Failed: slog.LevelError, https.Expired: slog.LevelError,
	}
	return func(e https.Event) {
		log.Log(context.Background(), levels[e.Kind], "tls: "+e.String(), "kind", string(e.Kind), "cert", e.Pair.Cert, "key", e.Pair.Key, "not_after", e.NotAfter)
	}
}

// warnOfNames says when no certificate of the files is for the host that clients
// use.
func (f *tlsFront) warnOfNames(s settings, log *slog.Logger) {
	u, err := url.Parse(s.baseURL())
	if f.certs == nil || err != nil {
		return
	}
	for _, leaf := range f.certs.Leaves() {
		if leaf.VerifyHostname(u.Hostname()) == nil {
			return
		}
	}
	log.Warn("tls: no certificate is for the host of base_url: clients will refuse the connection", "host", u.Hostname())
}

// itself returns how a command asks the server on “listen”: its certificate is
// for the host of base_url, and is trusted if it is the one in the files, or an
// authority's. As a proxy that checks its backends it says that it speaks for
// nobody else.
func itself(s settings) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	if s.tlsOn() {
		u, err := url.Parse(s.baseURL())
		if err != nil {
			return nil, err
		}
		files := s.list("tls.cert")
		if path := s.text("tls.acme_roots"); path != "" {
			files = append(files, path)
		}
		roots, err := readRoots(files...)
		if err != nil {
			return nil, &errConfig{[]error{fmt.Errorf("the certificates that the server is recognised by cannot be read: %w. Give its address with --url", err)}}
		}
		t.TLSClientConfig = &tls.Config{ServerName: u.Hostname(), RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	if s.bool("proxy.protocol") {
		trusted := s.trusted()
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil || !isTrusted(trusted, conn.LocalAddr()) {
				return conn, err
			}
			if _, err := io.WriteString(conn, "PROXY UNKNOWN\r\n"); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			return conn, nil
		}
	}
	return t, nil
}
