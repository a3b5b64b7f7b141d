package body

import (
	"bytes"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// MaxFields is how many fields ParseForm accepts.
const MaxFields = 64

// ParseForm reads a body of type application/x-www-form-urlencoded by the rules
// of OAuth (RFC 6749, section 3.2 and appendix B) and returns its fields.
//
// No field may occur twice, not even the unknown ones that an OAuth endpoint
// ignores. A field without a value counts as omitted and is not in the map. At
// most MaxFields are accepted. Percent-encoding must be complete, names must
// not be empty, and names and values must be valid UTF-8; an encoded control
// character is part of the value (a password may hold it), a bare one is
// refused, since no encoder leaves it. Fields are separated by “&” only: “;” is
// a character like any other, as in the URL standard.
//
// The error is a *sallyport.Error: 400 "invalid_request". It gives the number
// of the field, and neither names nor values.
func ParseForm(b []byte) (map[string]string, error) {
	form := make(map[string]string)
	var empty map[string]struct{} // names without a value, which repeat as well as others
	for count := 0; len(b) > 0; {
		var pair []byte
		pair, b, _ = bytes.Cut(b, []byte{'&'})
		if len(pair) == 0 { // as in "a=1&", which some clients send
			continue
		}
		if count++; count > MaxFields {
			return nil, invalidForm("The form has more than " + strconv.Itoa(MaxFields) + " fields.")
		}

		rawName, rawValue, _ := bytes.Cut(pair, []byte{'='})
		name, ok := unescapeForm(rawName)
		value, ok2 := unescapeForm(rawValue)
		switch {
		case !ok || !ok2:
			return nil, invalidField(count, "is not correctly percent-encoded UTF-8.")
		case name == "":
			return nil, invalidField(count, "has no name.")
		}
		_, repeated := form[name]
		_, repeatedEmpty := empty[name]
		if repeated || repeatedEmpty {
			return nil, invalidField(count, "has the name of an earlier one. Send each field once.")
		}
		if value != "" {
			form[name] = value
			continue
		}
		if empty == nil {
			empty = make(map[string]struct{})
		}
		empty[name] = struct{}{}
	}
	return form, nil
}

// unescapeForm decodes a name or a value. It copies, so that the result does
// not keep the body alive.
func unescapeForm(raw []byte) (string, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		switch ch := raw[i]; {
		case ch == '+':
			out = append(out, ' ')
		case ch == '%':
			if i+2 >= len(raw) {
				return "", false
			}
			high, ok := hexDigit(raw[i+1])
			low, ok2 := hexDigit(raw[i+2])
			if !ok || !ok2 {
				return "", false
			}
			out = append(out, high<<4|low)
			i += 2
		case ch < ' ' || ch == 0x7f:
			return "", false
		default:
			out = append(out, ch)
		}
	}
	if !utf8.Valid(out) {
		return "", false
	}
	return string(out), true
}

func hexDigit(ch byte) (byte, bool) {
	switch {
	case digit(ch):
		return ch - '0', true
	case ch|0x20 >= 'a' && ch|0x20 <= 'f':
		return ch | 0x20 - 'a' + 10, true
	}
	return 0, false
}

func invalidField(count int, what string) error {
	return invalidForm("Field " + strconv.Itoa(count) + " of the form " + what)
}

func invalidForm(message string) error {
	return &sallyport.Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: message}
}
