package telemetry_test

import (
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/sallyport/sallyport/internal/testkit/sample"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/telemetry"
)

// Metrics on a listener of their own, which only the monitoring reaches.
func ExampleHandler() {
	sp, done := sample.Server(func(cfg *server.Config) { cfg.Metrics = true })
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
