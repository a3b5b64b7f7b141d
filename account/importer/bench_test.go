package importer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/testkit"
)

// BenchmarkImport is one record of fastapi-users: cut, checked, and written with
// its subject and its role. What it takes beside a bare insert is what bench/import
// prints. Without the database it must stay under a quarter of the whole.
func BenchmarkImport(b *testing.B) {
	file := func(n int) string {
		var text strings.Builder
		text.WriteString("id,email,hashed_password,is_active,is_superuser,is_verified\n")
		for i := range n {
			fmt.Fprintf(&text, "%d,user%d@mail%d.example.com,%s,t,f,t\n", i, i, i%977, bcryptHash)
		}
		return write(b, text.String())
	}
	b.Run("whole", func(b *testing.B) {
		d := testkit.SQLite(b)
		path := file(b.N)
		b.ReportAllocs()
		b.ResetTimer()
		m, err := (&Service{DB: d}).Import(b.Context(), Options{Source: FastAPIUsers, File: path}, Watch{})
		if err != nil || m.Imported != int64(b.N) {
			b.Fatalf("%+v, %v", m, err)
		}
	})
	b.Run("reading alone", func(b *testing.B) {
		f, err := openFile(file(b.N))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		pass, err := (&Service{}).run(&Import{ID: newID(), Source: FastAPIUsers}, f)
		if err != nil {
			b.Fatal(err)
		}
		pass.stamp = pass.stamp.AddDate(2025, 0, 0)
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			if x, err := pass.next(); err != nil || x.err != nil {
				b.Fatal(err, x.err)
			}
		}
	})
}
