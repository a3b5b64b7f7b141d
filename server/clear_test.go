package server_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// What comes in clear, where HTTPS is meant. H.
func TestThreatsInClear(t *testing.T) {
	sv, err := server.New(t.Context(), server.Config{
		DB: testkit.SQLite(t), BaseURL: "https://id.example.test", MasterKeyFile: filepath.Join(t.TempDir(), "master.key"), Password: weakHashes,
		APIKeyQuery: "key", CORS: cors.Config{Origins: []string{"http://localhost:3000"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sv.Close)
	h := sv.Guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	const origin = "http://localhost:3000"
	for _, tt := range []struct {
		name, method, url string
		headers           []string
		status            int
		readable          bool // by a page of the origin
	}{
		// A browser that is allowed the preflight sends the credential next.
		{"preflight in clear", "OPTIONS", "http://id.example.test/users/me", []string{"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization"}, 403, false},
		{"preflight", "OPTIONS", "https://id.example.test/users/me", []string{"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization"}, 204, true},
		{"OPTIONS in clear", "OPTIONS", "http://id.example.test/users/me", nil, 403, false},
		{"OPTIONS", "OPTIONS", "https://id.example.test/users/me", nil, 418, true},
		{"GET in clear", "GET", "http://id.example.test/users/me", []string{"Authorization", "Bearer x"}, 403, true},
		{"page in clear", "GET", "http://id.example.test/docs", []string{"Accept", "text/html"}, 307, true},
		{"page in clear with a key in the query", "GET", "http://id.example.test/docs?key=x", []string{"Accept", "text/html"}, 403, true},
		{"GET", "GET", "https://id.example.test/users/me", []string{"Authorization", "Bearer x"}, 418, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.url, nil)
			r.Header.Set("Origin", origin)
			for i := 0; i+1 < len(tt.headers); i += 2 {
				r.Header.Set(tt.headers[i], tt.headers[i+1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if readable := w.Header().Get("Access-Control-Allow-Origin") == origin; w.Code != tt.status || readable != tt.readable {
				t.Errorf("%d, readable %v; want %d, %v", w.Code, readable, tt.status, tt.readable)
			}
		})
	}
}
