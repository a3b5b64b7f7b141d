package api

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/sanitize"
)

// entry leads to itself.
type entry struct {
	Title   string           `json:"title" sanitize:"text" maxLength:"40" doc:"What it is called"`
	Plain   string           `json:"plain,omitempty"`
	Entries []entry          `json:"entries,omitempty"`
	ByName  map[string]entry `json:"by_name,omitempty"`
	Next    *entry           `json:"next,omitempty"`
}

// Dimensions is embedded.
type Dimensions struct {
	Unit string `json:"unit,omitempty" sanitize:"text" pattern:"^[<>/a-z]*$"`
}

type word string

type sanitized struct {
	ID   string `path:"id" sanitize:"text" maxLength:"20"`
	Q    string `query:"q" sanitize:"text" minLength:"2"`
	Body struct {
		Dimensions
		Name    string            `json:"name,omitempty" sanitize:"text" minLength:"2" maxLength:"20"`
		Bio     string            `json:"bio,omitempty" sanitize:"rich" maxLength:"60"`
		Nick    *string           `json:"nick,omitempty" sanitize:"text"`
		Word    word              `json:"word,omitempty" sanitize:"text" enum:"up,down"`
		Tags    []string          `json:"tags,omitempty" sanitize:"text" minLength:"2" uniqueItems:"true"`
		Labels  map[string]string `json:"labels,omitempty" sanitize:"text"`
		Change  Opt[string]       `json:"change,omitempty" sanitize:"text"`
		Replace Opt[entry]        `json:"replace,omitempty"`
		Plain   string            `json:"plain,omitempty"`
		Number  int               `json:"number,omitempty"`
		Entry   entry             `json:"entry,omitempty"`
		List    []*entry          `json:"list,omitempty"`
	}
}

// sanitizedAPI gives back what its operation saw.
func sanitizedAPI(t *testing.T) (*API, *sallyport.Mux, *sanitized) {
	t.Helper()
	a, mux := newAPI()
	seen := new(sanitized)
	Post(a, "/a/{id}", sallyport.Public(), func(_ context.Context, in *sanitized) (*None, error) {
		*seen = *in
		return nil, nil
	})
	return a, mux, seen
}

func TestSanitizedMembers(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       string // what the operation saw, by the function below
		see        func(*sanitized) any
	}{
		{"text", `{"name":"<b>Ada</b> & <3"}`, `"Ada & <3"`, func(in *sanitized) any { return in.Body.Name }},
		{"text that is clean", `{"name":"a < b &lt;"}`, `"a < b &lt;"`, func(in *sanitized) any { return in.Body.Name }},
		{"rich", `{"bio":"<p onclick=x>a<script>x</script>"}`, `"<p>a</p>"`, func(in *sanitized) any { return in.Body.Bio }},
		{"pointer", `{"nick":"<i>ada</i>"}`, `"ada"`, func(in *sanitized) any { return in.Body.Nick }},
		{"pointer left out", `{}`, `null`, func(in *sanitized) any { return in.Body.Nick }},
		{"own type", `{"word":"up"}`, `"up"`, func(in *sanitized) any { return in.Body.Word }},
		{"list", `{"tags":["<b>one</b>","two"]}`, `["one","two"]`, func(in *sanitized) any { return in.Body.Tags }},
		{"map", `{"labels":{"<b>":"<b>x</b>","k":"v"}}`, `{"<b>":"x","k":"v"}`, func(in *sanitized) any { return in.Body.Labels }},
		{"optional", `{"change":"<b>x</b>"}`, `"x"`, func(in *sanitized) any { return in.Body.Change.Value }},
		{"optional null", `{"change":null}`, `true`, func(in *sanitized) any { return in.Body.Change.Set && in.Body.Change.Value == nil }},
		{"optional left out", `{}`, `false`, func(in *sanitized) any { return in.Body.Change.Set }},
		{"optional struct", `{"replace":{"title":"<b>x</b>"}}`, `"x"`, func(in *sanitized) any { return in.Body.Replace.Value.Title }},
		{"embedded", `{"unit":"<b>cm</b>"}`, `"cm"`, func(in *sanitized) any { return in.Body.Unit }},
		{"empty stays", `{"bio":"","nick":""}`, `""`, func(in *sanitized) any { return in.Body.Nick }},
		{"white space stays", `{"nick":" "}`, `" "`, func(in *sanitized) any { return in.Body.Nick }},
		{"without a tag", `{"plain":"<b>x</b>"}`, `"<b>x</b>"`, func(in *sanitized) any { return in.Body.Plain }},
		{"struct", `{"entry":{"title":"<b>x</b>","plain":"<b>y</b>"}}`, `["x","<b>y</b>"]`, func(in *sanitized) any { return []string{in.Body.Entry.Title, in.Body.Entry.Plain} }},
		{"list of pointers", `{"list":[{"title":"<b>x</b>"},{"title":"y"}]}`, `["x","y"]`, func(in *sanitized) any { return []string{in.Body.List[0].Title, in.Body.List[1].Title} }},
		{"map of structs", `{"entry":{"title":"x","by_name":{"k":{"title":"<b>y</b>"},"l":{"title":"z"}}}}`, `["y","z"]`, func(in *sanitized) any {
			return []string{in.Body.Entry.ByName["k"].Title, in.Body.Entry.ByName["l"].Title}
		}},
		{"far down", `{"entry":{"title":"x","entries":[{"title":"y","next":{"title":"z","by_name":{"k":{"title":"<b>w</b>"}}}}]}}`, `"w"`, func(in *sanitized) any {
			return in.Body.Entry.Entries[0].Next.ByName["k"].Title
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, mux, seen := sanitizedAPI(t)
			if got := ask(t, mux, "POST", "/a/x", withEntry(tt.body)).String(); got != "204" {
				t.Fatal(got)
			}
			b := new(strings.Builder)
			enc := json.NewEncoder(b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(tt.see(seen)); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(b.String()); got != tt.want {
				t.Errorf("the operation saw %s, want %s", got, tt.want)
			}
		})
	}

	_, mux, seen := sanitizedAPI(t)
	if got := ask(t, mux, "POST", "/a/%3Cb%3Eid%3C%2Fb%3E?q=%3Ci%3Eabc%3C/i%3E", withEntry("{}")).String(); got != "204" || seen.ID != "id" || seen.Q != "abc" {
		t.Errorf("parameters: %s %q %q", got, seen.ID, seen.Q)
	}
}

// withEntry adds the required member.
func withEntry(body string) string {
	if strings.Contains(body, `"entry"`) {
		return body
	}
	return strings.Replace(strings.Replace(body, "{", `{"entry":{"title":"t"},`, 1), ",}", "}", 1)
}

// The bounds hold for what was sent and for what is handed on; beside each
// refusal the nearest that passes.
func TestSanitizedMembersAreValid(t *testing.T) {
	const invalid = "422 validation_failed "
	for _, tt := range []struct{ name, body, want string }{
		{"long enough", `{"name":"<b>xy</b>"}`, "204"},
		{"too short after it", `{"name":"<b>x</b>"}`, invalid + "/name too_short"},
		{"nothing remains", `{"name":"<b></b>"}`, invalid + "/name too_short"},
		{"white space remains", `{"nick":" <b> </b>"}`, invalid + "/nick too_short"},
		{"nothing remains, without a bound", `{"nick":"<script>alert(1)</script>"}`, invalid + "/nick too_short"},
		{"nothing remains of HTML", `{"bio":"<img src=x>"}`, invalid + "/bio too_short"},
		{"too long before it", `{"name":"<b>x</b><b>x</b><b>x</b>"}`, invalid + "/name too_long"},
		{"long enough for what is escaped", `{"bio":"&&&&&&&&&&&&"}`, "204"},
		{"too long after it", `{"bio":"&&&&&&&&&&&&&"}`, invalid + "/bio too_long"},
		{"a choice after it", `{"word":"<b>up</b>"}`, invalid + "/word invalid_choice"},
		{"list", `{"tags":["xy","<b>x</b>"]}`, invalid + "/tags/1 too_short"},
		{"list, nothing remains", `{"tags":["xy","<b></b>"]}`, invalid + "/tags/1 too_short"},
		{"list, twice the same after it", `{"tags":["xy","<b>xy</b>"]}`, invalid + "/tags duplicate"},
		{"map", `{"labels":{"k":"<b></b>","l":"x"}}`, invalid + "/labels/k too_short"},
		{"optional", `{"change":"<b></b>"}`, invalid + "/change too_short"},
		{"far down", `{"entry":{"title":"x","entries":[{"title":"y","next":{"title":"<b></b>"}}]}}`, invalid + "/entry/entries/0/next/title too_short"},
		{"map of structs", `{"entry":{"title":"x","by_name":{"k":{"title":"<b></b>"}}}}`, invalid + "/entry/by_name/k/title too_short"},
		{"several at once", `{"name":"<b>x</b>","nick":"<b></b>","bio":"<b></b>ok"}`, invalid + "/name too_short, /nick too_short"},
		{"what was wrong before", `{"name":1,"nick":"<b></b>"}`, invalid + "/name wrong_type"},
		{"a pattern before it", `{"unit":"<b>cm</b>!"}`, invalid + "/unit invalid_format"},
		{"a pattern after it", `{"unit":"a<b"}`, invalid + "/unit invalid_format"}, // a space is put in
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, mux, _ := sanitizedAPI(t)
			got := ask(t, mux, "POST", "/a/x", withEntry(tt.body))
			if got.String() != tt.want {
				t.Errorf("%s, want %s: %s", got, tt.want, got.Body)
			}
			if strings.Contains(got.Body.String(), "alert(1)") {
				t.Error("the refusal repeats what was sent")
			}
		})
	}
	_, mux, _ := sanitizedAPI(t)
	if got := ask(t, mux, "POST", "/a/x?q=%3Cb%3Ex%3C/b%3E", withEntry("{}")).String(); got != invalid+"?q too_short" {
		t.Error(got)
	}
	if got := ask(t, mux, "POST", "/a/%3Cb%3E%3C%2Fb%3E", withEntry("{}")).String(); got != invalid+"{id} too_short" {
		t.Error(got)
	}
}

// What is longer than the sanitiser takes is refused, and not made nothing of.
func TestSanitizedMembersThatAreTooLarge(t *testing.T) {
	type in struct {
		Body struct {
			HTML string `json:"html" sanitize:"rich"`
		}
	}
	a, mux := newAPI()
	Post(a, "/a", sallyport.Public(), nothing[in], BodyLimit(4<<20))
	for n, want := range map[int]string{
		sanitize.MaxBytes / 5:   "204",
		sanitize.MaxBytes / 4:   "422 validation_failed /html too_long", // as &amp;
		sanitize.MaxBytes + 100: "422 validation_failed /html too_long",
	} {
		if got := ask(t, mux, "POST", "/a", `{"html":"`+strings.Repeat("&", n)+`"}`).String(); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// The document says what becomes of a text, once, however many operations
// share a type.
func TestSanitizedMembersAreDocumented(t *testing.T) {
	a, _, _ := sanitizedAPI(t)
	Put(a, "/b/{id}", sallyport.Public(), nothing[sanitized])
	doc := string(a.Document())
	var d struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Description string
					Policy      string `json:"x-sallyport-sanitize"`
				}
			}
		}
		Paths map[string]map[string]struct {
			Parameters []struct {
				Name, Description string
				Schema            struct {
					Policy string `json:"x-sallyport-sanitize"`
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		t.Fatal(err)
	}
	for schema, properties := range map[string]map[string][2]string{
		"Entry": {"title": {"text", "What it is called. Markup is removed."}, "plain": {"", ""}},
		"SanitizedBody": {
			"name": {"text", "Markup is removed."}, "bio": {"rich", "HTML, of which a small safe subset is kept."}, "nick": {"text", "Markup is removed."},
			"tags": {"text", "Markup is removed."}, "labels": {"text", "Markup is removed."}, "change": {"text", "Markup is removed."}, "plain": {"", ""}, "number": {"", ""},
		},
	} {
		got, ok := d.Components.Schemas[schema]
		if !ok {
			t.Fatalf("no schema %s in %s", schema, doc)
		}
		for name, want := range properties {
			if p := got.Properties[name]; p.Policy != want[0] || p.Description != want[1] {
				t.Errorf("%s.%s: %q %q, want %q", schema, name, p.Policy, p.Description, want)
			}
		}
	}
	for _, p := range d.Paths["/a/{id}"]["post"].Parameters {
		if p.Schema.Policy != "text" || p.Description != "Markup is removed." {
			t.Errorf("parameter %s: %+v", p.Name, p)
		}
	}
	if len(d.Paths["/a/{id}"]["post"].Parameters) != 2 {
		t.Error("the parameters are not documented")
	}
}

// A tag that cannot hold is a mistake in the program.
func TestSanitizeTagsThatCannotHold(t *testing.T) {
	for name, tt := range map[string]struct {
		register func(*API)
		want     string
	}{
		"unknown": {func(a *API) {
			type in struct {
				Body struct {
					X string `json:"x" sanitize:"html"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, `there is no sanitize:"html"`},
		"empty": {func(a *API) {
			type in struct {
				Body struct {
					X string `json:"x" sanitize:""`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, `there is no sanitize:""`},
		"number": {func(a *API) {
			type in struct {
				Body struct {
					X int `json:"x" sanitize:"text"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "it is a int, and only text"},
		"bytes": {func(a *API) {
			type in struct {
				Body struct {
					X []byte `json:"x" sanitize:"text"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "only text"},
		"anything": {func(a *API) {
			type in struct {
				Body struct {
					X any `json:"x" sanitize:"text"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "only text"},
		"struct": {func(a *API) {
			type in struct {
				Body struct {
					X entry `json:"x" sanitize:"text"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "Tag the strings in it"},
		"not exported": {func(a *API) {
			type in struct {
				Body struct {
					x string `sanitize:"text"` //nolint
				}
			}
			_ = in{}.Body.x
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "not exported"},
		"not decoded": {func(a *API) {
			type in struct {
				Body struct {
					X string `json:"-" sanitize:"text"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "nothing of a request"},
		"no parameter": {func(a *API) {
			type in struct {
				X string `sanitize:"text"`
			}
			Get(a, "/a", sallyport.Public(), nothing[in])
		}, "nothing of a request"},
		"far down": {func(a *API) {
			type in struct {
				Body struct {
					X []map[string]struct {
						Y *bool `json:"y" sanitize:"text"`
					} `json:"x"`
				}
			}
			Post(a, "/a", sallyport.Public(), nothing[in])
		}, "only text"},
	} {
		t.Run(name, func(t *testing.T) {
			a, mux := newAPI()
			text := panics(t, func() { tt.register(a) })
			if !strings.Contains(text, tt.want) || !strings.Contains(text, "/a: field ") {
				t.Errorf("the panic says %q, want %q", text, tt.want)
			}
			if len(mux.Routes()) != 0 {
				t.Error("the route was registered nevertheless")
			}
		})
	}
}

// Without a tag there is nothing to do, and nothing is done.
func TestWithoutSanitizeTags(t *testing.T) {
	a, _ := newAPI()
	registry := a.huma.OpenAPI().Components.Schemas
	for _, in := range []reflect.Type{reflect.TypeFor[None](), reflect.TypeFor[nameInput](), reflect.TypeFor[everything]()} {
		if c := newCleaner(registry, "GET /", in); c != nil {
			t.Errorf("%s: %+v", in, c.plan)
		}
	}
	if newCleaner(registry, "GET /", reflect.TypeFor[sanitized]()) == nil {
		t.Error("with tags there is nothing either")
	}
}

// The figure that must not get worse: an input of 16 tagged members, three of them
// there and without markup, costs 7 allocations and 0.5 µs.
func BenchmarkClean(b *testing.B) {
	a, _ := newAPI()
	c := newCleaner(a.huma.OpenAPI().Components.Schemas, "POST /a/{id}", reflect.TypeFor[sanitized]())
	in := new(sanitized)
	in.ID, in.Body.Name, in.Body.Bio = "id", "Ada Lovelace", "wrote 1,000 lines"
	v := reflect.ValueOf(in).Elem()
	b.ReportAllocs()
	for b.Loop() {
		if err := c.clean(v); err != nil {
			b.Fatal(err)
		}
	}
}
