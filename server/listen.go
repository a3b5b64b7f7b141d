package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of a listener.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 32 << 10
	shutdownTimeout   = 30 * time.Second
)

// HTTPServer returns an http.Server for h whose limits are fit for the open
// internet: headers within 10 seconds and 32 KiB, a request within 30 seconds,
// an answer within 60, two minutes between two requests. What net/http has to
// say about connections, most of which is strangers' doing, goes to log at level
// debug.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// “OPTIONS *” is answered by h, with the headers that every answer has.
		DisableGeneralOptionsHandler: true,
	}
}

// Serve answers on ln, with the limits of HTTPServer, until ctx ends. Then it accepts
// nothing more, answers what has begun, within 30 seconds, and returns nil. It closes
// ln.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	srv := HTTPServer(h, log)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return srv.Shutdown(ctx)
}
