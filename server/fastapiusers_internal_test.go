package server

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/testkit"
)

// Pages speak the server's own API also where the one that is served is that of
// fastapi-users.
func TestPagesFindTheServersOwnOperations(t *testing.T) {
	s, err := New(t.Context(), Config{
		DB: testkit.SQLite(t), BaseURL: "http://sallyport.test", MasterKeyFile: filepath.Join(t.TempDir(), "master.key"), FastAPIUsers: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	const wrong = `{"email":"not an address","password":"short"}`
	for name, want := range map[string]string{"served": `{"detail":[{"loc":["body","email"]`, "own": `"code":"validation_failed"`} {
		mux := s.mux
		if name == "own" {
			mux = s.own
		}
		r := httptest.NewRequest("POST", "/auth/register", strings.NewReader(wrong))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != 422 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want 422 with %s", name, w.Code, w.Body, want)
		}
	}
}
