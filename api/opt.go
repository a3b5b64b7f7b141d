package api

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// Opt is a member of a PATCH: left out, null, or a value.
type Opt[T any] struct {
	Set   bool
	Value *T // nil: null
}

// UnmarshalJSON implements json.Unmarshaler. It is called only for a member
// that is there.
func (o *Opt[T]) UnmarshalJSON(b []byte) error {
	o.Set, o.Value = true, nil
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	o.Value = new(T)
	return json.Unmarshal(b, o.Value)
}

// Schema implements huma.SchemaProvider: T or null.
func (o Opt[T]) Schema(r huma.Registry) *huma.Schema {
	s := huma.SchemaFromType(r, reflect.TypeFor[T]())
	if s.Ref != "" { // a reference cannot be nullable: the schema itself
		s = r.SchemaFromRef(s.Ref)
	}
	nullable := *s
	nullable.Nullable = true
	return &nullable
}

func (Opt[T]) isOpt() {}

// Change returns what to hand on: nil if left out.
func (o Opt[T]) Change() **T {
	if !o.Set {
		return nil
	}
	return &o.Value
}

// Page is one page of a list.
type Page[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor" doc:"Give it as “cursor” for the next page; null after the last"`
}

// NewPage returns a page; next is "" after the last.
func NewPage[T any](items []T, next string) Page[T] {
	p := Page[T]{Items: items}
	if p.Items == nil {
		p.Items = []T{}
	}
	if next != "" {
		p.NextCursor = &next
	}
	return p
}

// Message is the body of an answer that only says what was done.
type Message struct {
	Message string `json:"message"`
}

// Body is an output with a JSON body.
type Body[T any] struct {
	Body T
}

// None is the input of an operation that takes nothing, and the output of one
// that answers 204.
type None struct{}
