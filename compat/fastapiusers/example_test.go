package fastapiusers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/testkit/sample"
	"github.com/sallyport/sallyport/server"
)

// A front end that was written for fastapi-users signs in as it always has.
func Example() {
	sp, done := sample.Server(func(cfg *server.Config) { cfg.FastAPIUsers = true })
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
