package server

import (
	"log"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of a listener.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 32 << 10
)

// HTTPServer returns an http.Server for h whose limits are fit for the open
// internet: headers within 10 seconds and 32 KiB, a request within 30 seconds,
// an answer within 60, two minutes between two requests. What net/http has to
// say about connections, most of which is strangers' doing, goes to log at level
// debug; that none can be taken any more is an error, told every ten seconds.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: connectionLog(log),
		// “OPTIONS *” is answered by h, with the headers that every answer has.
		DisableGeneralOptionsHandler: true,
	}
}

// acceptErrors is how often it is told that no connection can be taken: net/http
// tries, and says so, once a second.
const acceptErrors = 10 * time.Second

// connectionLog takes what net/http has to say.
func connectionLog(to *slog.Logger) *log.Logger { return log.New(&connectionLines{to: to}, "", 0) }

type connectionLines struct {
	to   *slog.Logger
	told atomic.Int64 // when it was told last that no connection can be taken, in Unix nanoseconds
}

// Write implements io.Writer, for a line at a time.
func (c *connectionLines) Write(b []byte) (int, error) {
	line := strings.TrimSuffix(string(b), "\n")
	if why, ok := strings.CutPrefix(line, "http: Accept error: "); ok {
		now, told := time.Now().UnixNano(), c.told.Load()
		if now-told >= int64(acceptErrors) && c.told.CompareAndSwap(told, now) {
			c.to.Error("no new connection can be taken; those that are open are served, and it is tried again every second. If the files are too many, raise their limit (LimitNOFILE), or look who keeps connections open", "error", why)
			return len(b), nil
		}
	}
	c.to.Debug(line)
	return len(b), nil
}
