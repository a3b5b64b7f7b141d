package server

import (
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/internal/testkit"
)

// What doctor is told of lockout is whether wrong passwords lock, which limits
// that are off do not change.
func TestViewOfLockout(t *testing.T) {
	for _, off := range []bool{false, true} {
		s, err := New(t.Context(), Config{
			DB: testkit.SQLite(t), BaseURL: "http://sallyport.test", MasterKeyFile: filepath.Join(t.TempDir(), "master.key"),
			NoLockout: off, Limits: Limits{Login: LimitOff},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, _ := reqctx.Begin(httptest.NewRequest("GET", "/doctor", nil))
		if v := s.view(r); v.Limits.Lockout == off || v.Limits.Login != LimitOff {
			t.Errorf("NoLockout %v: %+v", off, v.Limits)
		}
	}
}
