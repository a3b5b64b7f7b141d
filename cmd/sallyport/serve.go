package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/server"
)

const (
	// drainPause is how long the server goes on accepting after /readyz has
	// begun to say no, so that balancers and kept connections turn away.
	drainPause      = 500 * time.Millisecond
	shutdownTimeout = 30 * time.Second
)

type serveCmd struct{}

func (serveCmd) Run(a *app) error {
	if a.g.DryRun {
		return &errUsage{errors.New("serve has no dry run. “sallyport config validate” checks the configuration")}
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	log := a.logger(s)
	for _, k := range keys {
		if k.pending != "" && s.isSet(k.name) && s.text(k.name) != k.def {
			a.info("warning: %s is set, but this release has no %s yet: it has no effect.", k.name, k.pending)
		}
	}
	a.serving = true
	o, err := a.open(a.ctx, s, mayCreate, log)
	if err != nil {
		return err
	}
	defer o.Close()
	ln, err := net.Listen("tcp", s.text("listen"))
	if err != nil {
		return &errConfig{[]error{fmt.Errorf("listen = %q: %w. Give another address with --listen, or end what listens there", s.text("listen"), err)}}
	}
	mux := sallyport.NewMux(o)
	mux.Mount("/", o.Routes())
	if err := o.Declare(a.ctx); err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := server.HTTPServer(o.Guard(mux), log)
	d := newDrain()
	d.attach(srv)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(d.listen(ln)) }()
	a.banner(s, o, ln.Addr().String())
	select {
	case err := <-failed:
		return err
	case <-a.ctx.Done():
	}
	log.Info("shutting down")
	o.Drain()
	d.begin()
	time.Sleep(drainPause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), shutdownTimeout)
	defer cancel()
	if err := ln.Close(); err != nil {
		return err
	}
	<-failed // nothing is accepted any more
	if d.wait(ctx) != nil {
		return fmt.Errorf("requests that took longer than %v were cut off", shutdownTimeout)
	}
	log.Info("stopped")
	return nil
}

// banner tells what is where.
func (a *app) banner(s settings, o *opened, addr string) {
	base := s.baseURL()
	if s.text("base_url") == "" {
		if _, port, err := net.SplitHostPort(s.text("listen")); err == nil && port == "0" {
			base = "http://" + addr
		}
	}
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
	a.info("  API        %s", base)
	a.info("  Docs       %s/docs", base)
	if has, err := role.HasAdministrator(o.db.View(a.ctx)); err == nil && !has {
		where, with := "", ""
		switch {
		case a.g.Config != "":
			where = " --config " + a.g.Config
		case o.db.Dialect() == db.Postgres:
			with = ", with the same configuration"
		case s.isSet("data_dir"):
			where = " --data " + s.text("data_dir")
		}
		a.info("\nThere is no administrator yet. In another terminal%s:\n  %s admin create%s --username NAME --email ADDRESS", with, program(), where)
	}
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
