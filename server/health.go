package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
)

// The health routes.
const (
	livezPath  = "/livez"
	readyzPath = "/readyz"
	livez      = "GET " + livezPath
	readyz     = "GET " + readyzPath
)

// readyTimeout bounds what /readyz waits for the database.
const readyTimeout = 2 * time.Second

// Drain makes /readyz answer 503, so that a balancer sends no more requests.
// Everything else goes on.
func (s *Server) Drain() { s.draining.Store(true) }

type health struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks,omitempty"`
}

func (s *Server) healthRoutes() {
	answer := func(description string) *huma.Response {
		return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: api.Schema[health](s.api)}}}
	}
	doc := func(path, summary, description string) huma.Operation {
		return huma.Operation{
			Method: http.MethodGet, Path: path, Tags: []string{"Health"}, Summary: summary, Description: description,
			Responses: map[string]*huma.Response{"200": answer("OK")},
		}
	}
	s.api.Raw(doc(livezPath, "Is the process alive", "Depends on nothing. A process that does not answer should be restarted."), sallyport.Public(),
		func(w http.ResponseWriter, _ *http.Request) { writeHealth(w, http.StatusOK, health{Status: "ok"}) }, api.IgnoreCredentials())

	ready := doc(readyzPath, "Is the server ready", "Whether requests should be sent here: the database answers, and no shutdown has begun. ?verbose lists the checks.")
	ready.Parameters = []*huma.Param{{Name: "verbose", In: "query", AllowEmptyValue: true, Description: "List the checks; the value does not matter", Schema: &huma.Schema{Type: huma.TypeString}}}
	ready.Responses["503"] = answer("Not ready")
	s.api.Raw(ready, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		status, h := s.ready(r.Context())
		if !r.URL.Query().Has("verbose") {
			h.Checks = nil
		}
		writeHealth(w, status, h)
	}, api.IgnoreCredentials())
}

func (s *Server) ready(ctx context.Context) (int, health) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	h := health{Status: "ok", Checks: map[string]string{"database": "ok", "shutdown": "no"}}
	status := http.StatusOK
	fail := func(check, what string) {
		status, h.Status, h.Checks[check] = http.StatusServiceUnavailable, "not ready", what
	}
	if err := s.DB.Ping(ctx); err != nil {
		s.cfg.Log.Error("the database does not answer", "error", err)
		fail("database", "does not answer")
	}
	if s.draining.Load() {
		fail("shutdown", "has begun")
	}
	return status, h
}

func writeHealth(w http.ResponseWriter, status int, h health) {
	b, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
