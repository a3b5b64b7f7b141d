package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
)

// door is a Gate for the example: whoever sends the word "ada" is Ada, who may
// write notes. A service uses the gate of its server.
type door struct{}

func (door) Require(rule sallyport.Rule) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var p sallyport.Principal
			if r.Header.Get("Authorization") == "Bearer ada" {
				p = sallyport.NewPrincipal(sallyport.Claims{Subject: "ada"}, sallyport.NewGrants(nil, []string{"write:notes"}))
			}
			if !rule.Allows(&p, &sallyport.Facts{}) {
				sallyport.WriteError(w, rule.Explain(&p, &sallyport.Facts{}).Refusal())
				return
			}
			next.ServeHTTP(w, r.WithContext(sallyport.NewContext(r.Context(), p)))
		})
	}
}

// putNote is what the operation takes: a part of the path, and a body.
type putNote struct {
	ID   string `path:"id" maxLength:"20" doc:"A name of one's own choice"`
	Body struct {
		Text string   `json:"text" minLength:"1" maxLength:"1000" example:"Buy milk"`
		Tags []string `json:"tags,omitempty" maxItems:"5" doc:"Words to find it by"`
	}
}

// note is what it gives.
type note struct {
	ID    string `json:"id"`
	Owner string `json:"owner" doc:"Who wrote it"`
	Text  string `json:"text"`
}

// One declaration is what is enforced, what is validated and what is documented.
func Example() {
	mux := sallyport.NewMux(door{})
	a := api.New(mux, api.Config{
		Title: "Notes", Version: "1.0",
		Schemes: map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}},
	})
	api.Put(a, "/notes/{id}", sallyport.Permission("write:notes"), func(ctx context.Context, in *putNote) (*api.Body[note], error) {
		if in.ID == "full" {
			return nil, &sallyport.Error{Status: http.StatusConflict, Code: "note_full", Message: "The note is full. Take another id."}
		}
		return &api.Body[note]{Body: note{ID: in.ID, Owner: sallyport.From(ctx).ID(), Text: in.Body.Text}}, nil
	}, api.Doc("Notes", "Write a note", "Replaces the note of that id."), api.BodyLimit(16<<10), api.Errors(409))

	put := func(id, credential, text string) {
		r := httptest.NewRequest("PUT", "/notes/"+id, strings.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", credential)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		var answer struct {
			note
			Code   string
			Errors []sallyport.Field
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			fmt.Println(err)
		}
		fmt.Println(strings.TrimSpace(fmt.Sprint(w.Code, " ", answer.Code, answer.Owner, " ", answer.Text)))
		for _, f := range answer.Errors {
			fmt.Println("   ", f.Pointer, f.Code)
		}
	}
	put("1", "Bearer ada", `{"text":"Buy milk"}`)
	put("1", "", `{"text":"Buy milk"}`)
	put("1", "Bearer ada", `{"text":"","colour":"red"}`)
	put("1", "Bearer ada", `{"text":"Buy milk","text":"Sell milk"}`)
	put("full", "Bearer ada", `{"text":"Buy milk"}`)

	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Summary     string                `json:"summary"`
			Description string                `json:"description"`
			Security    []map[string][]string `json:"security"`
		}
	}
	if err := json.Unmarshal(a.Document(), &doc); err != nil {
		fmt.Println(err)
	}
	op := doc.Paths["/notes/{id}"]["put"]
	fmt.Printf("%s: %s\n%s\n%v\n", op.OperationID, op.Summary, op.Description, op.Security)
	// Output:
	// 200 ada Buy milk
	// 401 unauthenticated
	// 422 validation_failed
	//     /text too_short
	//     /colour unknown_member
	// 400 duplicate_member
	// 409 note_full
	// put-notes-by-id: Write a note
	// Replaces the note of that id.
	//
	// Requires: permission(write:notes).
	// [map[bearer:[write:notes]]]
}

// putComment is an input whose texts lose their markup.
type putComment struct {
	Body struct {
		Author string `json:"author" sanitize:"text" minLength:"1" maxLength:"100"`
		Text   string `json:"text" sanitize:"rich" maxLength:"5000"`
	}
}

// Texts are sanitised before the operation sees them, and must be valid then,
// too.
func Example_sanitize() {
	mux := sallyport.NewMux(door{})
	a := api.New(mux, api.Config{Title: "Comments", Version: "1.0"})
	api.Post(a, "/comments", sallyport.Public(), func(_ context.Context, in *putComment) (*api.None, error) {
		fmt.Println(in.Body.Author)
		fmt.Println(in.Body.Text)
		return nil, nil
	})
	for _, text := range []string{
		`{"author":"<b>Ada</b> & Eve","text":"<p onclick=alert(1)>Hi<script>alert(1)</script>"}`,
		`{"author":"<b></b>","text":"Hi"}`,
	} {
		r := httptest.NewRequest("POST", "/comments", strings.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		var problem sallyport.Problem
		_ = json.Unmarshal(w.Body.Bytes(), &problem) // a 204 has none
		fmt.Println(w.Code, problem.Code, problem.Errors)
	}
	// Output:
	// Ada & Eve
	// <p>Hi</p>
	// 204  []
	// 422 validation_failed [{/author too_short Nothing but markup is in this text, and markup is removed. Write some text.}]
}
