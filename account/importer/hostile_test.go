package importer

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// What is kept of records until they are written is little, however long they
// are: those that are refused, and those that hold little in much space.
func TestMemoryStaysBounded(t *testing.T) {
	const size = MaxRecord - 1000
	names := strings.TrimSuffix(strings.Repeat(`"user",`, size/7), ",")
	for name, record := range map[string]string{
		"a hash":      `"password_hash":"` + strings.Repeat("x", size) + `"`,
		"no password": `"username":"ada","password_hash":"!` + strings.Repeat("x", size) + `"`,
		"a user name": `"username":"` + strings.Repeat("x", size) + `"`,
		"a full name": `"full_name":"Ada` + strings.Repeat(" ", size) + `"`,
		"roles":       `"roles":[` + names + `]`,
		"permissions": `"permissions":["` + strings.Repeat("x", size) + `"]`,
	} {
		t.Run(name, func(t *testing.T) {
			const n = 20
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, `{"email":"u%d@example.com",%s}`+"\n", i, record)
			}
			m := Import{ID: newID(), Source: NDJSON, StartedAt: time.Now()}
			r, err := (&Service{}).run(&m, strings.NewReader(b.String()))
			if err != nil {
				t.Fatal(err)
			}
			heap := func() int64 {
				runtime.GC()
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				return int64(s.HeapAlloc)
			}
			var rows []row
			var before int64
			for range n {
				x, err := r.next()
				if err != nil {
					t.Fatal(err)
				}
				if rows = append(rows, x); len(rows) == 2 { // its own buffers have grown
					before = heap()
				}
			}
			if kept := heap() - before; kept > 4<<20 {
				t.Errorf("%d records keep %d KiB", n, kept>>10)
			}
			runtime.KeepAlive(rows)
			runtime.KeepAlive(r)
		})
	}
}

// A header of very many columns is refused before they are held against each
// other.
func TestManyColumns(t *testing.T) {
	var b strings.Builder
	b.WriteString("email,hashed_password")
	for i := 0; b.Len() < MaxRecord-10; i++ {
		fmt.Fprintf(&b, ",%d", i)
	}
	began := time.Now()
	_, _, err := collect(t, t.Context(), testkit.SQLite(t), Options{Source: FastAPIUsers, File: write(t, b.String()+"\na@example.com,\n")})
	if err == nil || !strings.Contains(err.Error(), "columns") {
		t.Errorf("a header of very many columns: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}
