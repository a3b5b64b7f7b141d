package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// listening is a log that hands on the address of the line “listening”.
type listening struct {
	slog.Handler
	at chan string
}

func (l listening) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "listening" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "address" {
				l.at <- a.Value.String()
			}
			return true
		})
	}
	return l.Handler.Handle(ctx, r)
}

// TestRun has a program live and end: because its context ends, because the system
// asks for it, and because something fails. However it ends, the database is closed.
func TestRun(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	refused := errors.New("no such role")
	for _, c := range []struct {
		name, addr string
		routes     error
		end        func(context.CancelFunc) // nil: it does not come so far
		want       string                   // of the error
	}{
		{"its context ends", "127.0.0.1:0", nil, func(cancel context.CancelFunc) { cancel() }, ""},
		{"SIGTERM", "127.0.0.1:0", nil, func(context.CancelFunc) { _ = syscall.Kill(syscall.Getpid(), syscall.SIGTERM) }, ""},
		{"an address that is taken", taken.Addr().String(), nil, nil, "address already in use"},
		{"routes that fail", "127.0.0.1:0", refused, nil, refused.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "app.db")
			db, err := sqlite.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			at := make(chan string, 1)
			cfg := server.Config{DB: db, BaseURL: "http://127.0.0.1:8080", Log: slog.New(listening{slog.NewTextHandler(io.Discard, nil), at})}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				ended <- server.Run(ctx, c.addr, cfg, func(_ *server.Server, mux *sallyport.Mux) error {
					mux.HandleFunc("GET /hello", sallyport.SignedIn(), func(http.ResponseWriter, *http.Request) {})
					return c.routes
				})
			}()
			if c.end != nil {
				base := "http://"
				select {
				case addr := <-at:
					base += addr
				case err := <-ended:
					t.Fatalf("Run returned %v and did not listen", err)
				}
				for path, want := range map[string]int{"/hello": http.StatusUnauthorized, "/openapi.json": http.StatusOK, "/readyz": http.StatusOK} {
					res, err := http.Get(base + path)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != want || res.Header.Get("X-Content-Type-Options") != "nosniff" {
						t.Errorf("GET %s: status %d with %v, want %d within the guard", path, res.StatusCode, res.Header, want)
					}
				}
				// A second one is told that the file is in use.
				if offline, err := sqlite.TakeOffline(path); err == nil {
					_ = offline.Close()
					t.Error("the database was not open while the program ran")
				}
				c.end(cancel)
			}
			err = <-ended
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run returned %v, want %q in it", err, c.want)
			}
			offline, err := sqlite.TakeOffline(path)
			if err != nil {
				t.Fatalf("the database was not closed: %v", err)
			}
			_ = offline.Close()
		})
	}
	var mistake *server.ConfigError
	if err := server.Run(t.Context(), "127.0.0.1:0", server.Config{BaseURL: "http://127.0.0.1:8080"}, nil); !errors.As(err, &mistake) {
		t.Errorf("without a database: %v, want a ConfigError", err)
	}
}
