package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/store/sqlite"
)

// A file is made where there is none, and belongs to whoever has it open.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "app.db")
	db, err := sqlite.Open(path) // for server.Config.DB
	if err != nil {
		panic(err)
	}
	fmt.Println(sqlite.Exists(path))
	_, err = sqlite.TakeOffline(path) // to replace or move it
	fmt.Println("offline while it is open:", err == nil)
	if err := db.Close(); err != nil {
		panic(err)
	}
	offline, err := sqlite.TakeOffline(path)
	fmt.Println("offline afterwards:", err == nil)
	_ = offline.Close()

	_, err = sqlite.Open(filepath.Join(dir, "mistyped", "app.db"))
	fmt.Println("in a folder that is not there:", err == nil)
	// Output:
	// true
	// offline while it is open: false
	// offline afterwards: true
	// in a folder that is not there: false
}
