package db_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// Transactions per second with full durability, alone and with others. What
// must not get worse is the ratio: 64 writers at once make at least 4 times as
// many transactions as one, because they share commits. On one processor (-cpu
// 1) that fails first when the writer no longer lets the others come in.
func BenchmarkGroupedWrites(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			d := scratch(b, testkit.SQLite(b))
			if err := d.Write(b.Context(), put("bench", 0)); err != nil {
				b.Fatal(err)
			}
			bump := func(tx *db.Tx) error {
				_, err := tx.Exec("UPDATE scratch SET version = version + 1 WHERE name = $1", "bench")
				return err
			}
			b.ReportAllocs()
			b.ResetTimer()
			share := make(chan struct{}, writers)
			done := make(chan error, writers)
			for range writers {
				go func() {
					for range share {
						if err := d.Write(b.Context(), bump); err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			for range b.N {
				share <- struct{}{}
			}
			close(share)
			for range writers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}
