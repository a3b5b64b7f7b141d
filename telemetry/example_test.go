package telemetry_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
	"github.com/sallyport/sallyport/telemetry"
)

// open returns a server on a database of its own, and what ends both.
func open(change ...func(*server.Config)) (sp *server.Server, done func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	db, err := sqlite.Open(filepath.Join(dir, "app.db"))
	if err != nil {
		panic(err)
	}
	cfg := server.Config{DB: db, BaseURL: "https://id.example.com"}
	for _, f := range change {
		f(&cfg)
	}
	if sp, err = server.New(context.Background(), cfg); err != nil {
		panic(err)
	}
	return sp, func() { sp.Close(); _ = db.Close(); _ = os.RemoveAll(dir) }
}

// Metrics on a listener of their own, which only the monitoring reaches.
func ExampleHandler() {
	sp, done := open(func(cfg *server.Config) { cfg.Metrics = true })
	defer done()
	w := httptest.NewRecorder()
	telemetry.Handler(sp).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "sallyport_database_up ") || strings.HasPrefix(line, "sallyport_signing_keys{") {
			fmt.Print(line)
		}
	}
	// Output:
	// sallyport_database_up 1
	// sallyport_signing_keys{state="active"} 1
	// sallyport_signing_keys{state="next"} 1
	// sallyport_signing_keys{state="retiring"} 0
}
