package fastapiusers

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/guard/body"
)

// The library's messages, which are pydantic's.
const (
	missing      = "Field required"
	notString    = "Input should be a valid string"
	notBoolean   = "Input should be a valid boolean"
	notObject    = "Input should be a valid dictionary or object to extract fields from"
	notGrantType = "String should match pattern '^password$'"
)

// input is the body of a request: what the library knows of it is asked for by
// name, and the rest is ignored, as the library does. Names match exactly.
type input struct {
	members map[string]json.RawMessage
	faults  faults
}

// readInput reads a JSON object.
func readInput(r *http.Request) (*input, error) {
	b, err := api.ReadJSON(r, api.MaxAuthBody)
	if e, ok := err.(*sallyport.Error); ok && e.Status == http.StatusBadRequest && e.Code != "body_unreadable" {
		return nil, faults{{Loc: []any{"body"}, Msg: "JSON decode error", Type: "json_invalid"}}
	}
	if err != nil {
		return nil, err
	}
	in := &input{}
	if json.Unmarshal(b, &in.members) != nil || in.members == nil {
		return nil, faults{{Loc: []any{"body"}, Msg: notObject, Type: "model_attributes_type"}}
	}
	return in, nil
}

func (in *input) fault(name, msg, kind string) {
	in.faults = append(in.faults, fault{Loc: []any{"body", name}, Msg: msg, Type: kind})
}

// text returns a member that must be there.
func (in *input) text(name string) string {
	raw, there := in.members[name]
	if !there {
		in.fault(name, missing, "missing")
		return ""
	}
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil {
		in.fault(name, notString, "string_type")
		return ""
	}
	return *s
}

// change returns a member that may be left out. null is left out too: the library
// has nothing that could be emptied.
func change[T any](in *input, name, msg, kind string) *T {
	raw, there := in.members[name]
	if !there {
		return nil
	}
	var v *T
	if json.Unmarshal(raw, &v) != nil {
		in.fault(name, msg, kind)
		return nil
	}
	return v
}

func (in *input) changeText(name string) *string {
	return change[string](in, name, notString, "string_type")
}

func (in *input) changeFlag(name string) *bool {
	return change[bool](in, name, notBoolean, "bool_type")
}

// err returns what was wrong with the members that were asked for.
func (in *input) err() error {
	if len(in.faults) > 0 {
		return in.faults
	}
	return nil
}

// readForm reads the form of a sign-in, as OAuth2PasswordRequestForm does: of
// either type, because the library's own examples send the one and its
// documentation names the other.
func readForm(r *http.Request) (map[string]string, error) {
	var form map[string]string
	var err error
	if body.IsMultipart(r) {
		form, err = readMultipart(r)
	} else {
		form, err = api.ReadForm(r, api.MaxAuthBody)
	}
	if err != nil {
		return nil, err
	}
	in := &input{}
	if g := form["grant_type"]; g != "" && g != "password" {
		in.fault("grant_type", notGrantType, "string_pattern_mismatch")
	}
	for _, name := range []string{"username", "password"} {
		if form[name] == "" {
			in.fault(name, missing, "missing")
		}
	}
	return form, in.err()
}

func readMultipart(r *http.Request) (map[string]string, error) {
	boundary, err := body.MultipartBoundary(r)
	if err != nil {
		return nil, err
	}
	b, err := body.ReadAll(r, api.MaxAuthBody)
	if err != nil {
		return nil, err
	}
	return body.ParseMultipart(b, boundary)
}

// isID reports whether a part of a path can be an id, which is then for the
// database to find. PostgreSQL answers some texts with an error.
func isID(s string) bool {
	return s != "" && len(s) <= 64 && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c <= ' ' || c >= 0x7f })
}
