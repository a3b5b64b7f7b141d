package body_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/body"
)

// A handler that decodes nothing it has not checked.
func Example() {
	read := func(r *http.Request, to any) error {
		if err := body.MediaType(r, "application/json"); err != nil {
			return err
		}
		b, err := body.ReadAll(r, 1<<20)
		if err != nil {
			return err
		}
		if err := body.CheckJSON(b, body.DefaultMaxDepth); err != nil {
			return err.(*body.JSONError).Refusal()
		}
		return json.Unmarshal(b, to)
	}
	for _, text := range []string{`{"name":"Ada"}`, `{"name":"Ada","NAME":"Eve"}`} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
		var in struct{ Name string }
		if err := read(r, &in); err != nil {
			fmt.Println(sallyport.AsError(err).Status, sallyport.AsError(err).Code)
			continue
		}
		fmt.Println(in.Name)
	}
	// Output:
	// Ada
	// 400 duplicate_member
}
