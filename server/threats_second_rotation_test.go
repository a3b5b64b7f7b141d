package server_test

import (
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// A code is looked at while the master key is replaced, whichever of the two keys
// its secret was read under.
func TestT_MasterKeyRotationUnderLoad(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		_, ada := w.user("ada")
		a, _ := w.enrol(ada.access)
		wrong := map[string]string{"code": a.wrong()}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if r := w.do("POST", "/2fa/verify", ada.access, wrong); r.status != 400 {
						t.Errorf("status %d: %s", r.status, r.body)
						return
					}
				}
			})
		}
		for range 60 {
			if _, err := w.sv.RotateMaster(t.Context()); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
		w.do("POST", "/2fa/verify", ada.access, map[string]string{"code": a.next()}).want(t, 200, "")
	})
}
