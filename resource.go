package sallyport

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Resource is what a Policy is about, as it is written: a type, and an id whose
// parts are text or path values.
type Resource struct {
	Type  string // "Order", "Shop::Order"
	parts []resourcePart
}

type resourcePart struct{ text, value string }

// ParseResource reads "Order::{id}", "Item::{tenant}/{id}" or "Report::daily".
func ParseResource(s string) (Resource, error) {
	i := strings.LastIndex(s, "::")
	if i < 0 {
		return Resource{}, fmt.Errorf("the resource %q has no type: write a type and an id with :: between, or Type::{value} for a path value", s)
	}
	r := Resource{Type: s[:i]}
	if len(s) > 256 {
		return Resource{}, errors.New("the resource is longer than 256 characters")
	}
	for name := range strings.SplitSeq(r.Type, "::") {
		if !isIdent(name) {
			return Resource{}, fmt.Errorf("the type %q is not made of names of letters, digits and _, with :: between them", r.Type)
		}
	}
	for text := range strings.SplitSeq(s[i+2:], "/") {
		part := resourcePart{text: text}
		if inner, ok := strings.CutPrefix(text, "{"); ok {
			part.text = ""
			if part.value, ok = strings.CutSuffix(inner, "}"); !ok || !isIdent(part.value) {
				return Resource{}, fmt.Errorf("%q is no path value: write {name}", text)
			}
		} else if CheckName(text) != nil {
			return Resource{}, fmt.Errorf("%q is no part of an id: write a name, or {name} for a path value", text)
		}
		r.parts = append(r.parts, part)
	}
	return r, nil
}

// ID returns the resource's id, with the values that value returns. ok is false if
// one of them is empty: there is no such resource.
func (r Resource) ID(value func(name string) string) (id string, ok bool) {
	var b strings.Builder
	for i, p := range r.parts {
		if i > 0 {
			b.WriteByte('/')
		}
		v := p.text
		if p.value != "" {
			if v = value(p.value); v == "" {
				return "", false
			}
			if len(r.parts) > 1 {
				v = url.PathEscape(v)
			}
		}
		if len(r.parts) == 1 {
			return v, true
		}
		b.WriteString(v)
	}
	return b.String(), true
}

// Values yields the names of the path values.
func (r Resource) Values(yield func(string) bool) {
	for _, p := range r.parts {
		if p.value != "" && !yield(p.value) {
			return
		}
	}
}

// typeOf returns the type of a resource that has been checked.
func typeOf(s string) string { return s[:max(strings.LastIndex(s, "::"), 0)] }

func isIdent(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
