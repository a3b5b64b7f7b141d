package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/sallyport/sallyport"
)

// Run is the whole life of a program: it makes a Server, has routes register on mux
// what is the program's own, mounts the server's routes beside them, declares the
// permissions that rules name, and answers on addr, within Guard, until ctx ends or the
// process is told to end (SIGINT, SIGTERM). What has begun is then answered, as with
// Serve; a second signal ends the process at once.
//
// It closes all that it opened, and cfg.DB, whatever it returns: every failure is
// returned, and nil stands for an end that was asked for. Where cfg.Log is nil the log
// is slog.Default.
//
// A program that wants TLS, a listener of its own or routers of another kind does the
// same with New, Routes, Declare, Guard and Serve.
func Run(ctx context.Context, addr string, cfg Config, routes func(sp *Server, mux *sallyport.Mux) error) (err error) {
	if cfg.DB != nil { // New says so if it is
		defer func() { err = errors.Join(err, cfg.DB.Close()) }()
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	sp, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	defer sp.Close()
	mux := sallyport.NewMux(sp)
	if err := routes(sp, mux); err != nil {
		return err
	}
	mux.Mount("/", sp.Routes())
	if err := sp.Declare(ctx); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	cfg.Log.Info("listening", "address", ln.Addr().String(), "url", cfg.BaseURL)
	defer context.AfterFunc(ctx, func() {
		stop() // the next signal is the system's
		sp.Drain()
		cfg.Log.Info("shutting down")
	})()
	return Serve(ctx, ln, sp.Guard(mux), cfg.Log)
}
