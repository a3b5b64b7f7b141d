package server_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// Several processes rotate the master key at once: one of them does it, and the
// file and the database fit afterwards.
func TestParallelMasterRotations(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		file := filepath.Join(t.TempDir(), "master.key")
		open := func() *server.Server {
			t.Helper()
			sv, err := server.New(t.Context(), server.Config{DB: d, BaseURL: baseURL, MasterKeyFile: file, Password: weakHashes})
			if err != nil {
				t.Fatal(err)
			}
			return sv
		}
		for range 8 {
			nodes := []*server.Server{open(), open(), open()}
			var wg sync.WaitGroup
			var mu sync.Mutex
			done := 0
			for _, sv := range nodes {
				wg.Go(func() {
					if _, err := sv.RotateMaster(context.Background()); err == nil {
						mu.Lock()
						done++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if done == 0 {
				t.Error("nobody rotated")
			}
			// Those that were open follow, and can store keys.
			for _, sv := range nodes {
				if _, err := sv.Keys.Rotate(t.Context()); err != nil {
					t.Fatal(err)
				}
				sv.Close()
			}
		}
		open().Close()
	})
}
