package body

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMultipartBoundary(t *testing.T) {
	const refused = "415 unsupported_media_type"
	type h = http.Header
	for _, tt := range []struct {
		name     string
		header   h
		boundary string
	}{
		{"Chromium", h{"Content-Type": {"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"}}, "----WebKitFormBoundary7MA4YWxkTrZu0gW"},
		{"curl", h{"Content-Type": {"multipart/form-data; boundary=------------------------6b8f1e2d3c4a5b6c"}}, "------------------------6b8f1e2d3c4a5b6c"},
		{"quoted", h{"Content-Type": {`Multipart/Form-Data;Boundary="a=b"`}}, "a=b"},

		{"no boundary", h{"Content-Type": {"multipart/form-data"}}, ""},
		{"empty boundary", h{"Content-Type": {"multipart/form-data; boundary="}}, ""},
		{"empty quoted boundary", h{"Content-Type": {`multipart/form-data; boundary=""`}}, ""},
		{"two boundaries", h{"Content-Type": {"multipart/form-data; boundary=a; boundary=b"}}, ""},
		{"another parameter", h{"Content-Type": {"multipart/form-data; charset=utf-8"}}, ""},
		{"continued", h{"Content-Type": {"multipart/form-data; boundary*0=a"}}, ""},
		{"too long", h{"Content-Type": {"multipart/form-data; boundary=" + strings.Repeat("a", 71)}}, ""},
		{"line break", h{"Content-Type": {"multipart/form-data; boundary=\"a\r\nb\""}}, ""},
		{"mixed", h{"Content-Type": {"multipart/mixed; boundary=a"}}, ""},
		{"two lines", h{"Content-Type": {"multipart/form-data; boundary=a", "multipart/form-data; boundary=a"}}, ""},
		{"compressed", h{"Content-Type": {"multipart/form-data; boundary=a"}, "Content-Encoding": {"gzip"}}, ""},
		{"none", h{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := MultipartBoundary(&http.Request{Header: tt.header})
			want := ""
			if tt.boundary == "" {
				want = refused
			}
			if got != tt.boundary || refusal(t, err) != want {
				t.Errorf("%q, %v; want %q %s", got, err, tt.boundary, want)
			}
		})
	}
}

// part is a field as browsers write it.
func part(name, value string) string {
	return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
}

func TestParseMultipart(t *testing.T) {
	type form = map[string]string
	many := func(n int) (s string) {
		for i := range n {
			s += part("f"+strings.Repeat("x", i), "1")
		}
		return s + "--b--\r\n"
	}
	const disposition = "--b\r\nContent-Disposition: form-data; name=\"a\""
	for _, tt := range []struct {
		name, in string
		want     form // nil: refused
	}{
		{"sign-in", part("username", "ada@example.com") + part("password", "a b+c%41&=\r\n--\r\n--B") + "--b--\r\n", form{"username": "ada@example.com", "password": "a b+c%41&=\r\n--\r\n--B"}},
		{"no line behind the end", part("a", "1") + "--b--", form{"a": "1"}},
		{"nothing", "--b--\r\n", form{}},
		{"without a value", part("a", "") + part("b", "1") + "--b--\r\n", form{"b": "1"}},
		{"typed", disposition + "\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nä\r\n--b--\r\n", form{"a": "ä"}},
		{"header in small letters", "--b\r\ncontent-disposition:form-data;name=\"a\"\r\n\r\n1\r\n--b--\r\n", form{"a": "1"}},

		{"empty", "", nil},
		{"another boundary", "--c\r\n\r\n--c--\r\n", nil},
		{"something before", "x\r\n" + part("a", "1") + "--b--\r\n", nil},
		{"something behind", part("a", "1") + "--b--\r\nx", nil},
		{"a second form behind", part("a", "1") + "--b--\r\n" + part("a", "2") + "--b--\r\n", nil},
		{"no end", part("a", "1"), nil},
		{"no end, cut off", disposition + "\r\n\r\n1", nil},
		{"no header", "--b\r\n\r\n1\r\n--b--\r\n", nil},
		{"repeated", part("a", "1") + part("a", "2") + "--b--\r\n", nil},
		{"repeated without a value", part("a", "") + part("a", "2") + "--b--\r\n", nil},
		{"too many", many(MaxFields + 1), nil},
		{"a file", disposition + "; filename=\"x\"\r\n\r\n1\r\n--b--\r\n", nil},
		{"two names", disposition + "; name=\"b\"\r\n\r\n1\r\n--b--\r\n", nil},
		{"two headers with a name", disposition + "\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n1\r\n--b--\r\n", nil},
		{"no name", "--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n", nil},
		{"empty name", part("", "1") + "--b--\r\n", nil},
		{"escaped name", part(`a\`, "1") + "--b--\r\n", nil},
		{"line break in a name", part("a\nb", "1") + "--b--\r\n", nil},
		{"attachment", "--b\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--b--\r\n", nil},
		{"encoded", disposition + "\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41\r\n--b--\r\n", nil},
		{"another type", disposition + "\r\nContent-Type: application/json\r\n\r\n{}\r\n--b--\r\n", nil},
		{"another charset", disposition + "\r\nContent-Type: text/plain; charset=latin1\r\n\r\n1\r\n--b--\r\n", nil},
		{"two types", disposition + "\r\nContent-Type: text/plain\r\nContent-Type: text/plain\r\n\r\n1\r\n--b--\r\n", nil},
		{"bare line feeds", strings.ReplaceAll(part("a", "1")+"--b--\r\n", "\r\n", "\n"), nil},
		{"boundary with a space behind", "--b \r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--\r\n", nil},
		{"longer boundary", strings.Replace(part("a", "1"), "--b", "--bc", 1) + "--b--\r\n", nil},
		{"not UTF-8", part("a", "\xff") + "--b--\r\n", nil},
		{"name not UTF-8", part("\xff", "1") + "--b--\r\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseMultipart([]byte(tt.in), "b")
			want := ""
			if tt.want == nil {
				want = "400 invalid_request"
			}
			if refusal(t, err) != want || !maps.Equal(got, tt.want) {
				t.Errorf("%q, %v; want %q %s", got, err, tt.want, want)
			}
		})
	}
	if got, err := ParseMultipart([]byte(many(MaxFields)), "b"); err != nil || len(got) != MaxFields {
		t.Errorf("%d fields: %d, %v", MaxFields, len(got), err)
	}
	if _, err := ParseMultipart([]byte(part("hunter2", "hunter2")+part("hunter2", "hunter2")), "b"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error holds what was sent: %v", err)
	}
}

// What is accepted, the standard library reads alike.
func FuzzParseMultipart(f *testing.F) {
	for _, s := range []string{part("a", "1") + "--b--", part("a", "\r\n--bx") + "--b--\r\n", part("a", "1") + part("b", "") + "--b--\r\n", "--b--"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseMultipart(b, "b")
		if err != nil {
			return
		}
		if len(got) > MaxFields {
			t.Fatalf("%d fields", len(got))
		}
		want := map[string]string{}
		for in := multipart.NewReader(bytes.NewReader(b), "b"); ; {
			p, err := in.NextPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("mime/multipart refuses %q: %v", b, err)
			}
			value, err := io.ReadAll(p)
			if err != nil || p.FileName() != "" {
				t.Fatalf("%q: %v, file %q", b, err, p.FileName())
			}
			if len(value) > 0 {
				want[p.FormName()] = string(value)
			}
			if !utf8.Valid(value) {
				t.Fatalf("%q is not UTF-8", value)
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("%q: %q, mime/multipart has %q", b, got, want)
		}
	})
}
