package body

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MultipartType is the media type of forms that browsers make of a FormData.
const MultipartType = "multipart/form-data"

// IsMultipart reports whether a request declares a multipart form, so that the
// caller can choose between MultipartBoundary and MediaType. It decides nothing.
func IsMultipart(r *http.Request) bool {
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return equalFold(strings.Trim(mediaType, " \t"), MultipartType)
}

// maxBoundary is RFC 2046, section 5.1.1.
const maxBoundary = 70

// MultipartBoundary returns the boundary of a request that declares exactly the
// type multipart/form-data (RFC 7578), with a boundary and no other parameter, and
// no content coding. The error is MediaType's: 415 "unsupported_media_type".
func MultipartBoundary(r *http.Request) (string, error) {
	if err := checkCoding(r); err != nil {
		return "", err
	}
	if lines := r.Header["Content-Type"]; len(lines) == 1 && IsMultipart(r) {
		_, param, _ := strings.Cut(lines[0], ";")
		name, value, _ := strings.Cut(strings.Trim(param, " \t"), "=")
		if n := len(value); n > 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		if equalFold(name, "boundary") && isBoundary(value) {
			return value, nil
		}
	}
	return "", unsupported("This accepts a form. Send it as multipart/form-data, with exactly one header Content-Type whose only parameter is the boundary.")
}

// isBoundary takes the characters of RFC 2046 but for the space.
func isBoundary(s string) bool {
	if s == "" || len(s) > maxBoundary {
		return false
	}
	for _, ch := range []byte(s) {
		if !(ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || digit(ch) || strings.IndexByte("'()+_,-./:=?", ch) >= 0) {
			return false
		}
	}
	return true
}

// ParseMultipart reads a body of type multipart/form-data that holds texts and no
// files, and returns its fields by the rules of ParseForm: none twice, one without
// a value counts as omitted, at most MaxFields, all UTF-8.
//
// It takes what browsers, curl and the HTTP libraries write of texts, and is
// stricter than mime/multipart: nothing before the first boundary or behind the
// last; of a part, the header Content-Disposition with a name and nothing else,
// and at most a Content-Type text/plain. Names hold no quotes, backslashes and
// control characters.
//
// The error is a *sallyport.Error: 400 "invalid_request". It gives the number of
// the field, and neither names nor values.
func ParseMultipart(b []byte, boundary string) (map[string]string, error) {
	form, seen := map[string]string{}, map[string]struct{}{}
	delimiter := []byte("\r\n--" + boundary)
	rest, ok := bytes.CutPrefix(b, delimiter[2:])
	if !ok {
		return nil, invalidForm("The form does not begin with its boundary.")
	}
	for count := 1; ; count++ {
		if end, ok := bytes.CutPrefix(rest, []byte("--")); ok {
			if len(end) != 0 && string(end) != "\r\n" {
				return nil, invalidForm("There is something behind the end of the form.")
			}
			return form, nil
		}
		if count > MaxFields {
			return nil, invalidForm("The form has more than " + strconv.Itoa(MaxFields) + " fields.")
		}
		if rest, ok = bytes.CutPrefix(rest, []byte("\r\n")); !ok {
			return nil, invalidField(count, "does not begin on a line of its own.")
		}
		var part []byte
		if part, rest, ok = bytes.Cut(rest, delimiter); !ok {
			return nil, invalidForm("The form does not end with its boundary.")
		}
		name, value, err := parsePart(part, count)
		if err != nil {
			return nil, err
		}
		if _, repeated := seen[name]; repeated {
			return nil, invalidField(count, "has the name of an earlier one. Send each field once.")
		}
		seen[name] = struct{}{}
		if value != "" {
			form[name] = value
		}
	}
}

func parsePart(part []byte, count int) (name, value string, err error) {
	header, text, ok := bytes.Cut(part, []byte("\r\n\r\n"))
	if !ok {
		return "", "", invalidField(count, "has no header.")
	}
	if !utf8.Valid(text) {
		return "", "", invalidField(count, "is not UTF-8.")
	}
	typed := false
	for line := range strings.SplitSeq(string(header), "\r\n") {
		key, content, _ := strings.Cut(line, ":")
		content = strings.Trim(content, " \t")
		switch {
		case equalFold(key, "Content-Disposition") && name == "":
			if name, ok = fieldName(content); !ok {
				return "", "", invalidField(count, "is a file, or has no name. Send texts only.")
			}
		case equalFold(key, "Content-Type") && !typed && isType(content, "text/plain"):
			typed = true
		default:
			return "", "", invalidField(count, "has a header that a text does not need.")
		}
	}
	if name == "" {
		return "", "", invalidField(count, "has no name.")
	}
	return name, string(text), nil
}

// fieldName reads form-data; name="…".
func fieldName(disposition string) (string, bool) {
	kind, param, _ := strings.Cut(disposition, ";")
	rest, ok := strings.CutPrefix(strings.TrimLeft(param, " \t"), `name="`)
	if !equalFold(kind, "form-data") || !ok {
		return "", false
	}
	name, after, ok := strings.Cut(rest, `"`)
	if !ok || name == "" || after != "" || !utf8.ValidString(name) {
		return "", false
	}
	bad := func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }
	return name, !strings.ContainsFunc(name, bad)
}
