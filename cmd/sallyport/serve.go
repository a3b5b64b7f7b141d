package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/server"
)

const (
	// drainPause is how long the server goes on accepting after /readyz has
	// begun to say no, so that balancers and kept connections turn away.
	drainPause = 500 * time.Millisecond
	// acceptPause is how long connections that have been made are still accepted
	// then, while new ones are overlooked.
	acceptPause     = 100 * time.Millisecond
	shutdownTimeout = 30 * time.Second
)

type serveCmd struct{}

func (serveCmd) Run(a *app) error {
	if a.g.DryRun {
		return &errUsage{errors.New("serve has no dry run. “sallyport config validate” checks the configuration")}
	}
	s, err := a.settings(tlsFiles)
	if err != nil {
		return err
	}
	log := a.logger(s)
	front, err := loadTLS(s, reportTo(log))
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(spare())
	a.serving = true
	o, err := a.open(a.ctx, s, mayCreate, log)
	if err != nil {
		return err
	}
	for _, end := range []func(){a.endShared, a.endMail} {
		if end != nil {
			defer end()
		}
	}
	if a.traces != nil {
		defer a.traces.end()
	}
	defer o.Close() // first: it still sends
	mux := sallyport.NewMux(o)
	mux.Mount("/", o.Routes())
	doors, err := a.doors(s, o, front, mux, log)
	if err != nil {
		return err
	}
	if s.text("metrics.listen") != "" {
		d, err := metricsDoor(s, o, log)
		if err != nil {
			return errors.Join(err, closeAll(doors))
		}
		doors = append(doors, d)
	}
	if err := o.Declare(a.ctx); err != nil {
		return errors.Join(err, closeAll(doors))
	}
	failed := make(chan error, len(doors))
	for _, d := range doors {
		go func() { failed <- d.serve() }()
	}
	background, stop := context.WithCancel(context.WithoutCancel(a.ctx))
	defer stop()
	if front != nil {
		if front.certs != nil {
			o.ShowCertificates(front.certs.Leaves)
		}
		front.warnOfNames(s, log)
		front.run(background)
	}
	a.banner(s, o, doors)
	select {
	case err := <-failed:
		return errors.Join(err, closeAll(doors))
	case <-a.ctx.Done():
	}
	log.Info("shutting down")
	o.Drain()
	for _, d := range doors {
		d.drain.begin()
	}
	time.Sleep(drainPause)
	for _, d := range doors {
		if err := d.holdNew(); err != nil {
			log.Debug("new connections are refused, some perhaps after they were made", "error", err)
		}
	}
	time.Sleep(acceptPause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), shutdownTimeout)
	defer cancel()
	if err := closeAll(doors); err != nil {
		return err
	}
	for range doors {
		<-failed // nothing is accepted any more
	}
	var waiting sync.WaitGroup
	var cut atomic.Bool
	for _, d := range doors {
		waiting.Go(func() {
			if d.drain.wait(ctx) != nil {
				cut.Store(true)
			}
		})
	}
	waiting.Wait()
	if cut.Load() {
		return fmt.Errorf("requests that took longer than %v were cut off", shutdownTimeout)
	}
	log.Info("stopped")
	return nil
}

// door is a listener with what answers on it.
type door struct {
	net.Listener
	srv     *http.Server
	drain   *drain
	withTLS bool
}

func (d *door) attach(srv *http.Server) {
	d.srv, d.drain, d.withTLS = srv, drained(srv), srv.TLSConfig != nil
}

// holdNew is the door's holdNew, below the PROXY protocol if there is one.
func (d *door) holdNew() error {
	ln := d.Listener
	if p, ok := ln.(*proxyListener); ok {
		ln = p.Listener.Listener
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("%T is no TCP listener", ln)
	}
	return holdNew(tcp)
}

// serve ends with the listener.
func (d *door) serve() error {
	ln := d.drain.listen(d.Listener, d.withTLS)
	if d.withTLS {
		return d.srv.ServeTLS(ln, "", "")
	}
	return d.srv.Serve(ln)
}

func closeAll(doors []*door) error {
	var errs []error
	for _, d := range doors {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// doors listens: for the service, and for what still comes in clear.
func (a *app) doors(s settings, o *opened, front *tlsFront, h http.Handler, log *slog.Logger) (doors []*door, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(doors))
		}
	}()
	main, err := listenOn(s, "listen", log)
	if err != nil {
		return nil, err
	}
	doors = []*door{{Listener: main}}
	h = o.Guard(h)
	if s.bool("proxy.protocol") {
		h = nothingForwarded(h)
	}
	if front == nil {
		doors[0].attach(server.HTTPServer(h, log))
		return doors, nil
	}
	var cfg *tls.Config
	inClear := h // the guard redirects and refuses
	if front.certs != nil {
		cfg = https.TLSConfig(front.certs.GetCertificate)
	} else {
		front.acme, err = o.ACME(server.ACMEConfig{
			Hosts: s.acmeHosts(), Directory: s.text("tls.acme_directory"), Email: s.text("tls.acme_email"), Roots: front.roots,
		})
		if err != nil {
			return doors, err
		}
		cfg = front.acme.TLSConfig()
		if s.text("tls.redirect") != "" {
			inClear = front.acme.Challenges(inClear)
		}
	}
	srv := server.HTTPServer(h, log)
	srv.TLSConfig = cfg
	doors[0].attach(srv)
	if s.text("tls.redirect") == "" {
		return doors, nil
	}
	clear, err := listenOn(s, "tls.redirect", log)
	if err != nil {
		return doors, err
	}
	doors = append(doors, &door{Listener: clear})
	doors[1].attach(server.HTTPServer(inClear, log))
	return doors, nil
}

// listen listens for plain TCP: the sockets of Multipath TCP, Go's default, take no
// filters, which holdNew needs.
func listen(addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp", addr)
}

// listenOn listens on the address that a key holds.
func listenOn(s settings, key string, log *slog.Logger) (net.Listener, error) {
	ln, err := listen(s.text(key))
	if err != nil {
		flag := ""
		if key == "listen" {
			flag = " with --listen"
		}
		return nil, &errConfig{[]error{fmt.Errorf("%s = %q: %w. Give another address%s, or end what listens there", key, s.text(key), err, flag)}}
	}
	if s.bool("proxy.protocol") {
		ln = behindProxies(ln, s.trusted(), proxyHeaderTimeout, log)
	}
	return ln, nil
}

// baseOn is the base URL of a server that listens on addr.
func baseOn(s settings, addr net.Addr) string {
	base := s.baseURL()
	if s.text("base_url") == "" {
		if _, port, err := net.SplitHostPort(s.text("listen")); err == nil && port == "0" {
			scheme, _, _ := strings.Cut(base, "://")
			return scheme + "://" + addr.String()
		}
	}
	return base
}

// banner tells what is where.
func (a *app) banner(s settings, o *opened, doors []*door) {
	base := baseOn(s, doors[0].Addr())
	tick := "ok"
	if utf8Terminal(a.env) {
		tick = "✔"
	}
	state := ""
	if o.created {
		state = "  (created)"
	}
	a.info("%s Database   %s%s", tick, o.db.Name(), state)
	if keys, err := o.Keys.List(a.ctx); err == nil {
		for _, k := range keys {
			if k.State == "active" {
				a.info("%s Signing    %s  kid %s…", tick, k.Alg, k.ID[:min(8, len(k.ID))])
			}
		}
	}
	if doors[0].withTLS {
		from := "files"
		if s.bool("tls.acme") {
			from = cmp.Or(s.text("tls.acme_directory"), server.DefaultACMEDirectory)
		}
		a.info("  HTTPS      on %s, certificates from %s", doors[0].Addr(), from)
	}
	if s.text("tls.redirect") != "" && doors[0].withTLS {
		a.info("  HTTP       on %s, leads to HTTPS", doors[1].Addr())
	}
	a.info("  API        %s", base)
	a.info("  Docs       %s/docs", base)
	if s.bool("dev") {
		a.info("  Inbox      %s%s", base, server.InboxPath)
		if u, err := url.Parse(base); err == nil && !onThisMachine(u.Hostname()) {
			a.info("warning: dev is on, and %s is not this machine: links of letters, which open accounts, stand in the log. Leave dev out where people use it.", u.Host)
		}
	}
	if s.text("metrics.listen") != "" {
		a.info("  Metrics    http://%s/metrics", doors[len(doors)-1].Addr())
	}
	if has, err := role.HasAdministrator(o.db.View(a.ctx)); err == nil && !has {
		way := "In"
		if a.offerSetup(s, o, base) {
			way = "Open the set-up link, or in"
		}
		where, with := "", ""
		switch {
		case a.g.Config != "":
			where = " --config " + a.g.Config
		case o.db.Dialect() == db.Postgres:
			with = ", with the same configuration"
		case s.isSet("data_dir"):
			where = " --data " + s.text("data_dir")
		}
		a.info("\nThere is no administrator yet. %s another terminal%s:\n  %s admin create%s --username NAME --email ADDRESS", way, with, program(), where)
	}
}

// offerSetup prints a link to make the first administrator with. Links of earlier
// starts are worthless then. Not on PostgreSQL: of several servers that start
// together, the links of all but one would be, and each is good for half an hour
// only.
func (a *app) offerSetup(s settings, o *opened, base string) bool {
	if a.g.Quiet || !s.bool("portal") {
		return false
	}
	token, _, err := o.Accounts.OfferSetup(a.ctx, o.db.Dialect() == db.SQLite)
	if err != nil {
		a.info("warning: the link to set the first administrator up could not be made: %v", err)
		return false
	}
	a.info("  Set-up     %s   one use, 30 minutes", server.SetupURL(base, token))
	return true
}

// program is how the operator started it, as far as it can be told.
func program() string {
	exe, err := os.Executable()
	switch {
	case err != nil:
		return "sallyport"
	case strings.Contains(exe, string(os.PathSeparator)+"go-build"): // where “go run” puts it
		return "go run ./cmd/sallyport"
	case len(os.Args) > 0 && os.Args[0] != exe:
		return os.Args[0]
	}
	return "sallyport"
}

func utf8Terminal(env []string) bool {
	get := func(name string) string {
		for _, line := range env {
			if len(line) > len(name) && line[:len(name)+1] == name+"=" {
				return line[len(name)+1:]
			}
		}
		return ""
	}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := get(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}
