package fastapiusers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// open returns a server on a database of its own, and what ends both.
func open(change ...func(*server.Config)) (sp *server.Server, done func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	db, err := sqlite.Open(filepath.Join(dir, "app.db"))
	if err != nil {
		panic(err)
	}
	cfg := server.Config{DB: db, BaseURL: "https://id.example.com"}
	for _, f := range change {
		f(&cfg)
	}
	if sp, err = server.New(context.Background(), cfg); err != nil {
		panic(err)
	}
	return sp, func() { sp.Close(); _ = db.Close(); _ = os.RemoveAll(dir) }
}

// A front end that was written for fastapi-users signs in as it always has.
func Example() {
	sp, done := open(func(cfg *server.Config) { cfg.FastAPIUsers = true })
	defer done()
	h := sp.Guard(sp.Routes())
	post := func(path, kind, body string) {
		r := httptest.NewRequest("POST", "https://id.example.com"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			panic(err)
		}
		fmt.Println(w.Code, slices.Sorted(maps.Keys(answer)))
	}
	post("/auth/register", "application/json", `{"email": "ada@example.com", "password": "wrong giraffe charger paperclip"}`)
	post("/auth/jwt/login", "application/x-www-form-urlencoded", "username=ada%40example.com&password=wrong+giraffe+charger+paperclip")
	post("/auth/jwt/login", "application/x-www-form-urlencoded", "username=ada%40example.com&password=nonsense")
	// Output:
	// 201 [email id is_active is_superuser is_verified]
	// 200 [access_token token_type]
	// 400 [detail]
}
