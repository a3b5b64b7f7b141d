package api

import (
	"net/http"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/reqctx"
)

const problemType = "application/problem+json"

// problem is what goes over the wire for an error.
type problem struct {
	sallyport.Problem
	header http.Header
}

var (
	_ huma.StatusError       = (*problem)(nil)
	_ huma.HeadersError      = (*problem)(nil)
	_ huma.ContentTypeFilter = (*problem)(nil)
)

func (p *problem) Error() string             { return p.Code + ": " + p.Detail }
func (p *problem) GetStatus() int            { return p.Problem.Status }
func (p *problem) GetHeaders() http.Header   { return p.header }
func (p *problem) ContentType(string) string { return problemType }

var errorsOnce sync.Once

// replaceErrors puts our errors in the place of Huma's, which repeat the values
// that were sent: an unknown field would give a password back. It also makes
// Huma strict where it is obliging: "DISABLED" is not the member "disabled", and
// null is not an empty list, which would take every role from an account.
func replaceErrors() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false
	huma.NewError = newError
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		p := newError(status, msg, errs...).(*problem)
		if c := reqctx.From(ctx.Context()); c != nil {
			p.RequestID = c.ID()
		}
		return p
	}
}

// maxFields bounds the findings of an answer: a body of nothing but unknown
// members would be answered with many times its size.
const maxFields = 32

func newError(status int, _ string, errs ...error) huma.StatusError {
	e := &sallyport.Error{Status: status}
	switch status {
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		e = sallyport.Invalid()
		for _, err := range errs[:min(len(errs), maxFields)] {
			if d, ok := err.(huma.ErrorDetailer); ok {
				e.Fields = append(e.Fields, field(d.ErrorDetail()))
			}
		}
		if len(e.Fields) == 0 {
			e.Fields = []sallyport.Field{{Code: "invalid", Detail: "The body does not have the shape that this operation documents."}}
		}
	case http.StatusNotAcceptable:
		e.Code, e.Message = "not_acceptable", "This operation answers with application/json. Send “Accept: application/json”, or no Accept header."
	default:
		e = sallyport.Internal()
	}
	return &problem{Problem: e.Problem("")}
}

// field turns one of Huma's findings into ours. Its message is one of a fixed
// list, whose placeholders come from the schema and not from the request; its
// value is left out.
func field(d *huma.ErrorDetail) sallyport.Field {
	f := sallyport.Field{Pointer: pointer(d.Location), Code: "invalid", Detail: "The value is not valid."}
	for _, m := range messages {
		if rest, ok := strings.CutPrefix(d.Message, m.prefix); ok {
			f.Code, f.Detail = m.code, m.detail
			if m.prefix == missingMember {
				name, _, _ := strings.Cut(rest, " ")
				f.Pointer += "/" + name
			} else if strings.HasSuffix(m.detail, " ") {
				f.Detail += rest + "."
			}
			break
		}
	}
	return f
}

// missingMember is followed by the member's name, which is the schema's.
const missingMember = "expected required property "

// messages maps Huma's messages, by their beginning, to codes of ours. A detail
// that ends in a space goes on with the rest of the message: bounds and choices
// of the schema.
var messages = []struct{ prefix, code, detail string }{
	{missingMember, "required", "This member is required."},
	{"required ", "required", "This is required."},
	{"unexpected property", "unknown_member", "This operation does not know this member. Leave it out."},
	{"unknown query parameter", "unknown_member", "This operation does not know this parameter. Leave it out."},
	{"expected string to be RFC 3339", "invalid_format", "Write a time as RFC 3339 does, for example 2026-01-31T12:00:00Z."},
	{"expected string to be ", "invalid_format", "The text does not have the form that this member documents."},
	{"expected string to match", "invalid_format", "The text does not have the form that this member documents."},
	{"expected string", "wrong_type", "A string is expected here."},
	{"expected boolean", "wrong_type", "true or false is expected here."},
	{"expected number >= ", "out_of_range", "The least value is "},
	{"expected number <= ", "out_of_range", "The greatest value is "},
	{"expected number > ", "out_of_range", "The value must be greater than "},
	{"expected number < ", "out_of_range", "The value must be less than "},
	{"expected number to be a multiple of ", "out_of_range", "The value must be a multiple of "},
	{"expected number", "wrong_type", "A number is expected here."},
	{"expected integer", "wrong_type", "A whole number is expected here."},
	{"invalid integer", "wrong_type", "A whole number is expected here."},
	{"invalid float", "wrong_type", "A number is expected here."},
	{"invalid boolean", "wrong_type", "true or false is expected here."},
	{"expected array length <= ", "too_long", "The most entries are "},
	{"expected array length >= ", "too_short", "The fewest entries are "},
	{"expected array items to be unique", "duplicate", "Each entry may stand here once."},
	{"expected array", "wrong_type", "An array is expected here."},
	{"expected object with at least ", "too_short", "The object has too few members."},
	{"expected object with at most ", "too_long", "The object has too many members."},
	{"expected object", "wrong_type", "An object is expected here."},
	{"expected length >= ", "too_short", "The least length in characters is "},
	{"expected length <= ", "too_long", "The greatest length in characters is "},
	{"expected value to be one of ", "invalid_choice", "Choose one of "},
}

// maxShown bounds how much of a name that a caller chose is given back.
const maxShown = 64

// pointer turns "body.a.b[0]" into "/a/b/0" and "query.limit" into "?limit". A
// name that does not look like a name is left out: it may be a secret in the
// wrong place.
func pointer(location string) string {
	if name, ok := strings.CutPrefix(location, "query."); ok {
		return "?" + shown(name)
	}
	rest, ok := strings.CutPrefix(location, "body")
	if !ok {
		if name, ok := strings.CutPrefix(location, "path."); ok {
			return "{" + shown(name) + "}"
		}
		return ""
	}
	rest = strings.NewReplacer("[", ".", "]", "").Replace(rest)
	return strings.ReplaceAll(shown(rest), ".", "/")
}

func shown(name string) string {
	if len(name) > maxShown {
		return ""
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-') {
			return ""
		}
	}
	return name
}
