package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/testkit"
)

// codeOf returns the code of a *JSONError, "" for nil, and fails for any other
// error.
func codeOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*JSONError](err)
	if !ok {
		t.Fatalf("error is a %T: %v", err, err)
	}
	return e.Code
}

func TestCheckJSON(t *testing.T) {
	for _, tt := range []struct {
		name, in, code string
		offset         int
	}{
		{"object", `{"a":1,"b":[true,false,null,-0.5e+3,"x"],"c":{}}`, "", 0},
		{"white space", " \t\r\n{ \"a\" : [ 1 , 2 ] , \"b\" : { } } \n", "", 0},
		{"scalar", `"x"`, "", 0},
		{"zero", `0`, "", 0},
		{"number of any size", `[1e400,-1E-400,123456789012345678901234567890]`, "", 0},
		{"escapes", `"\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00\ufffd\u0000"`, "", 0},
		{"U+FFFD itself", `"` + "\ufffd" + `"`, "", 0},
		{"noncharacters", `"` + "\uffff\U0010ffff" + `"`, "", 0},
		{"same name in different objects", `{"a":{"a":[{"a":1},{"a":2}]},"b":{"a":1}}`, "", 0},
		{"name and value alike", `{"a":"a","b":"a"}`, "", 0},
		{"accents are not case", `{"e":1,"é":2,"è":3}`, "", 0},
		{"name seen after a nested object", `{"a":{"b":1,"c":2},"b":1}`, "", 0},

		{"empty", ``, CodeInvalidJSON, 0},
		{"only white space", "  \n", CodeInvalidJSON, 3},
		{"byte order mark", "\ufeff{}", CodeInvalidJSON, 0},
		{"truncated object", `{"a":1`, CodeInvalidJSON, 6},
		{"truncated name", `{"a`, CodeInvalidJSON, 3},
		{"truncated array", `[1,`, CodeInvalidJSON, 3},
		{"trailing comma in object", `{"a":1,}`, CodeInvalidJSON, 7},
		{"trailing comma in array", `[1,]`, CodeInvalidJSON, 3},
		{"only a comma", `[,]`, CodeInvalidJSON, 1},
		{"no colon", `{"a" 1}`, CodeInvalidJSON, 5},
		{"no value", `{"a":}`, CodeInvalidJSON, 5},
		{"name is no string", `{1:2}`, CodeInvalidJSON, 1},
		{"crossed brackets", `[{"a":1]}`, CodeInvalidJSON, 7},
		{"crossed brackets 2", `{"a":[1}]`, CodeInvalidJSON, 7},
		{"leading zero", `[01]`, CodeInvalidJSON, 2},
		{"leading plus", `[+1]`, CodeInvalidJSON, 1},
		{"bare minus", `[-]`, CodeInvalidJSON, 2},
		{"no fraction", `[1.]`, CodeInvalidJSON, 3},
		{"no exponent", `[1e]`, CodeInvalidJSON, 3},
		{"NaN", `[NaN]`, CodeInvalidJSON, 1},
		{"capital literal", `[True]`, CodeInvalidJSON, 1},
		{"cut literal", `tru`, CodeInvalidJSON, 0},
		{"single quotes", `{'a':1}`, CodeInvalidJSON, 1},
		{"comment", `/**/{}`, CodeInvalidJSON, 0},
		{"control character", "\"a\nb\"", CodeInvalidJSON, 2},
		{"NUL", "\"a\x00b\"", CodeInvalidJSON, 2},
		{"unknown escape", `"\x41"`, CodeInvalidJSON, 1},
		{"cut escape", `"\u00e"`, CodeInvalidJSON, 1},
		{"bad hexadecimal", `"\u00g0"`, CodeInvalidJSON, 1},
		{"other white space", "\u00a01", CodeInvalidJSON, 0},

		{"invalid UTF-8", "\"a\xff\"", CodeInvalidUTF8, 2},
		{"invalid UTF-8 outside of a string", "[\xff]", CodeInvalidUTF8, 1},
		{"invalid UTF-8 in a name", "{\"\xc3\x28\":1}", CodeInvalidUTF8, 2},
		{"overlong", "\"\xc0\xaf\"", CodeInvalidUTF8, 1},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", CodeInvalidUTF8, 1},
		{"lone high surrogate", `"x\uD83D"`, CodeInvalidUTF8, 2},
		{"lone low surrogate", `"\uDE00"`, CodeInvalidUTF8, 1},
		{"high surrogate and another escape", `"\uD83D\u0041"`, CodeInvalidUTF8, 1},
		{"surrogates the wrong way round", `"\uDE00\uD83D"`, CodeInvalidUTF8, 1},
		{"lone surrogate in a name", `{"\ud800":1}`, CodeInvalidUTF8, 2},

		{"duplicate", `{"a":1,"b":2,"a":3}`, CodeDuplicateMember, 13},
		{"duplicate with the same value", `{"a":1,"a":1}`, CodeDuplicateMember, 7},
		{"duplicate empty name", `{"":1,"":1}`, CodeDuplicateMember, 6},
		{"duplicate by case", `{"alg":"ES256","ALG":"none"}`, CodeDuplicateMember, 15},
		{"duplicate by escape", `{"alg":1,"\u0061lg":2}`, CodeDuplicateMember, 9},
		{"duplicate by escape and case", `{"alg":1,"\u0041LG":2}`, CodeDuplicateMember, 9},
		{"duplicate by escaped solidus", `{"a/b":1,"a\/b":2}`, CodeDuplicateMember, 9},
		{"Kelvin sign", `{"kid":1,"` + "\u212a" + `id":2}`, CodeDuplicateMember, 9},
		{"Kelvin sign escaped", `{"\u212Aid":1,"kid":2}`, CodeDuplicateMember, 14},
		{"long s", `{"scope":1,"` + "\u017f" + `cope":2}`, CodeDuplicateMember, 11},
		{"Greek with three forms", `{"σ":1,"ς":2}`, CodeDuplicateMember, 8},
		{"pair escaped and plain", `{"😀":1,"\ud83d\ude00":2}`, CodeDuplicateMember, 10},
		{"duplicate in a nested object", `[{"x":{"a":1,"A":2}}]`, CodeDuplicateMember, 13},
		{"duplicate around a nested object", `{"a":{"b":1},"a":2}`, CodeDuplicateMember, 13},

		{"two values", `{} {}`, CodeTrailingData, 3},
		{"trailing letter", `[1]x`, CodeTrailingData, 3},
		{"trailing bracket", `[1]]`, CodeTrailingData, 3},
		{"trailing NUL", "{}\x00", CodeTrailingData, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckJSON([]byte(tt.in), 0)
			if code := codeOf(t, err); code != tt.code {
				t.Fatalf("code = %q, want %q", code, tt.code)
			}
			if e, ok := errors.AsType[*JSONError](err); ok {
				if e.Offset != tt.offset {
					t.Errorf("offset = %d, want %d", e.Offset, tt.offset)
				}
				if r := e.Refusal(); r.Status != 400 || r.Code != tt.code || r.Message == "" {
					t.Errorf("Refusal() = %+v", r)
				}
			}
		})
	}
}

func TestCheckJSONDepth(t *testing.T) {
	nested := func(n int) []byte {
		return []byte(strings.Repeat(`[{"a":`, n/2) + strings.Repeat("[", n%2) + strings.Repeat("]", n%2) + map[bool]string{true: "", false: "1"}[n%2 == 1] + strings.Repeat("}]", n/2))
	}
	for _, tt := range []struct{ depth, max int }{{1, 1}, {2, 2}, {5, 5}, {32, 0}, {32, -1}, {100, 100}, {1000, 1000}} {
		max := tt.max
		if err := CheckJSON(nested(tt.depth), max); err != nil {
			t.Errorf("depth %d with bound %d: %v", tt.depth, max, err)
		}
		if code := codeOf(t, CheckJSON(nested(tt.depth+1), max)); code != CodeTooDeep {
			t.Errorf("depth %d with bound %d: code %q, want too_deep", tt.depth+1, max, code)
		}
	}
	if err := CheckJSON([]byte("1"), 1); err != nil {
		t.Errorf("a scalar has depth 0: %v", err)
	}
}

// V: bombs. None may cost memory out of proportion to its size, whatever the
// bound.
func TestCheckJSONBombs(t *testing.T) {
	const size = 1 << 20
	wide := func(n int, member func(i int) string) []byte {
		var b bytes.Buffer
		b.WriteByte('{')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(member(i))
		}
		b.WriteByte('}')
		return b.Bytes()
	}
	many := wide(100_000, func(i int) string { return fmt.Sprintf(`"%x":0`, i) })
	for _, tt := range []struct {
		name string
		in   []byte
		max  int
		code string
	}{
		{"open arrays", bytes.Repeat([]byte("["), size), 0, CodeTooDeep},
		{"open arrays without a bound", bytes.Repeat([]byte("["), size), size + 1, CodeInvalidJSON},
		{"open objects", bytes.Repeat([]byte(`{"a":`), size/5), 0, CodeTooDeep},
		{"100,000 members", many, 0, ""},
		{"100,000 members and a duplicate", append(many[:len(many)-1:len(many)-1], `,"0":1}`...), 0, CodeDuplicateMember},
		{"100,000 members and a case variant", append(many[:len(many)-1:len(many)-1], `,"A":1}`...), 0, CodeDuplicateMember},
		{"many objects of more members than are searched one by one", []byte("[" + strings.Repeat(string(wide(40, func(i int) string { return fmt.Sprintf(`"%d":0`, i) }))+",", 2500) + "0]"), 0, ""},
		{"one long string", []byte(`"` + strings.Repeat("a", size) + `"`), 0, ""},
		{"one long name", []byte(`{"` + strings.Repeat("a", size) + `":1}`), 0, ""},
		{"one long number", bytes.Repeat([]byte("1"), size), 0, ""},
		{"escapes", []byte(`"` + strings.Repeat(`\u00e9`, size/6) + `"`), 0, ""},
		{"white space", bytes.Repeat([]byte(" "), size), 0, CodeInvalidJSON},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if code := codeOf(t, CheckJSON(tt.in, tt.max)); code != tt.code {
				t.Errorf("code = %q, want %q", code, tt.code)
			}
		})
	}
}

// Around the size at which names go into an index, each name repeated at each
// place is found.
func TestCheckJSONDuplicateAnywhere(t *testing.T) {
	for n := 1; n <= linearNames+4; n++ {
		for again := range n {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, `%c"name%d":{"x":1}`, "{,"[min(i, 1)], i)
			}
			if err := CheckJSON([]byte(b.String()+"}"), 0); err != nil {
				t.Fatalf("%d members: %v", n, err)
			}
			fmt.Fprintf(&b, `,"NAME%d":1}`, again)
			if code := codeOf(t, CheckJSON([]byte(b.String()), 0)); code != CodeDuplicateMember {
				t.Fatalf("%d members and number %d again: code %q", n, again, code)
			}
		}
	}
}

// The folding is that of strings.EqualFold, which is what encoding/json
// matches names by, for every rune there is.
func TestFoldIsEqualFold(t *testing.T) {
	for r := range rune(unicode.MaxRune + 1) {
		if !utf8.ValidRune(r) {
			continue
		}
		f := fold(r)
		if f > r || !strings.EqualFold(string(r), string(f)) {
			t.Fatalf("fold(%U) = %U", r, f)
		}
		if next := fold(unicode.SimpleFold(r)); next != f {
			t.Fatalf("%U and %U differ only in case but fold to %U and %U", r, unicode.SimpleFold(r), f, next)
		}
	}
}

// JSONTestSuite (nst/JSONTestSuite): what must be accepted is, but for those
// named here; what must be refused is; and what the RFC leaves open is decided
// here.
func TestJSONTestSuite(t *testing.T) {
	stricter := map[string]string{ // y_ files that we refuse
		"y_object_duplicated_key.json":           CodeDuplicateMember,
		"y_object_duplicated_key_and_value.json": CodeDuplicateMember,
	}
	open := map[string]string{ // i_ files
		// Grammar only: the range of a number is for whoever decodes it.
		"i_number_double_huge_neg_exp.json":   "",
		"i_number_huge_exp.json":              "",
		"i_number_neg_int_huge_exp.json":      "",
		"i_number_pos_double_huge_exp.json":   "",
		"i_number_real_neg_overflow.json":     "",
		"i_number_real_pos_overflow.json":     "",
		"i_number_real_underflow.json":        "",
		"i_number_too_big_neg_int.json":       "",
		"i_number_too_big_pos_int.json":       "",
		"i_number_very_big_negative_int.json": "",
		// Half a surrogate pair stands for no text.
		"i_object_key_lone_2nd_surrogate.json":                CodeInvalidUTF8,
		"i_string_1st_surrogate_but_2nd_missing.json":         CodeInvalidUTF8,
		"i_string_1st_valid_surrogate_2nd_invalid.json":       CodeInvalidUTF8,
		"i_string_incomplete_surrogate_and_escape_valid.json": CodeInvalidUTF8,
		"i_string_incomplete_surrogate_pair.json":             CodeInvalidUTF8,
		"i_string_incomplete_surrogates_escape_valid.json":    CodeInvalidUTF8,
		"i_string_invalid_lonely_surrogate.json":              CodeInvalidUTF8,
		"i_string_invalid_surrogate.json":                     CodeInvalidUTF8,
		"i_string_inverted_surrogates_U+1D11E.json":           CodeInvalidUTF8,
		"i_string_lone_second_surrogate.json":                 CodeInvalidUTF8,
		// RFC 8259, section 8.1: UTF-8 and nothing else.
		"i_string_UTF-16LE_with_BOM.json":              CodeInvalidUTF8,
		"i_string_UTF-8_invalid_sequence.json":         CodeInvalidUTF8,
		"i_string_UTF8_surrogate_U+D800.json":          CodeInvalidUTF8,
		"i_string_invalid_utf-8.json":                  CodeInvalidUTF8,
		"i_string_iso_latin_1.json":                    CodeInvalidUTF8,
		"i_string_lone_utf8_continuation_byte.json":    CodeInvalidUTF8,
		"i_string_not_in_unicode_range.json":           CodeInvalidUTF8,
		"i_string_overlong_sequence_2_bytes.json":      CodeInvalidUTF8,
		"i_string_overlong_sequence_6_bytes.json":      CodeInvalidUTF8,
		"i_string_overlong_sequence_6_bytes_null.json": CodeInvalidUTF8,
		"i_string_truncated-utf-8.json":                CodeInvalidUTF8,
		"i_string_utf16BE_no_BOM.json":                 CodeInvalidJSON,
		"i_string_utf16LE_no_BOM.json":                 CodeInvalidJSON,
		"i_structure_UTF-8_BOM_empty_object.json":      CodeInvalidJSON,
		// Deeper than anybody needs.
		"i_structure_500_nested_arrays.json": CodeTooDeep,
	}
	files, err := filepath.Glob(filepath.Join(testkit.Vectors(t, "json/JSONTestSuite"), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	count := map[byte]int{}
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(file)
		code := codeOf(t, CheckJSON(in, 0))
		count[base[0]]++
		switch base[0] {
		case 'y':
			if want := stricter[base]; code != want {
				t.Errorf("%s: code %q, want %q", base, code, want)
			}
		case 'n':
			if code == "" {
				t.Errorf("%s: accepted", base)
			}
		case 'i':
			if want, ok := open[base]; !ok || code != want {
				t.Errorf("%s: code %q, want %q (decided: %v)", base, code, want, ok)
			}
		default:
			t.Errorf("%s: neither y_, n_ nor i_", base)
		}
		if code == "" {
			mustDecode(t, in)
		}
	}
	if count['y'] != 95 || count['n'] != 188 || count['i'] != 35 {
		t.Errorf("found %d y_, %d n_ and %d i_ files, want 95, 188 and 35", count['y'], count['n'], count['i'])
	}
}

// mustDecode fails unless encoding/json accepts a text that CheckJSON accepted,
// all of it, and reads the same text back.
func mustDecode(t testing.TB, b []byte) {
	t.Helper()
	if !json.Valid(b) {
		t.Fatalf("CheckJSON accepts what json.Valid refuses: %q", b)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // the range of numbers is not checked
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("CheckJSON accepts what encoding/json refuses: %v: %q", err, b)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("something is left behind the value: %v: %q", err, b)
	}
	again, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckJSON(again, 1<<20); err != nil {
		t.Fatalf("decoded and encoded again: %v: %q", err, again)
	}
	var w any
	dec = json.NewDecoder(bytes.NewReader(again))
	dec.UseNumber()
	if err := dec.Decode(&w); err != nil || fmt.Sprint(v) != fmt.Sprint(w) {
		t.Fatalf("encoding/json reads another value the second time: %q and %q", b, again)
	}
}

// slowCheck decides a text in the plainest way there is: encoding/json's
// grammar, and a walk over its tokens that compares every two names.
func slowCheck(b []byte, maxDepth int) bool {
	if !utf8.Valid(b) || !json.Valid(b) || lonely(b) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	type level struct {
		object, value bool
		names         []string
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if err != nil {
			return err == io.EOF
		}
		top := len(stack) - 1
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			stack = stack[:top]
			continue
		}
		if top >= 0 && stack[top].object {
			if !stack[top].value {
				for _, n := range stack[top].names {
					if strings.EqualFold(n, tok.(string)) {
						return false
					}
				}
				stack[top].names = append(stack[top].names, tok.(string))
			}
			stack[top].value = !stack[top].value
		}
		if d, ok := tok.(json.Delim); ok {
			if len(stack) == maxDepth {
				return false
			}
			stack = append(stack, level{object: d == '{'})
		}
	}
}

// lonely reports whether a valid JSON text has an unpaired surrogate escape.
// Only a pair makes a decoder produce one rune from twelve bytes; an unpaired
// one becomes U+FFFD, which the text did not hold otherwise.
func lonely(b []byte) bool {
	rest := string(b)
	for {
		i := strings.IndexByte(rest, '\\')
		if i < 0 {
			return false
		}
		rest = rest[i:]
		if rest[1] != 'u' {
			rest = rest[2:]
			continue
		}
		if !strings.EqualFold(rest[2:6], "fffd") {
			var one string
			if json.Unmarshal([]byte(`"`+rest[:6]+`"`), &one) == nil && one == "\ufffd" {
				var two string
				if len(rest) < 12 || rest[6] != '\\' || rest[7] != 'u' ||
					json.Unmarshal([]byte(`"`+rest[:12]+`"`), &two) != nil || utf8.RuneCountInString(two) != 1 {
					return true
				}
				rest = rest[12:]
				continue
			}
		}
		rest = rest[6:]
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `{"a":1,"A":2}`, `{"a":[{"b":"\u0061"}]}`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ud83d\ud83d\ude00"`, `[1e400,-0.0]`,
		`{"k":1,"` + "\u212a" + `":2}`, `{"k":1,"\u212a":2}`, "\ufeff{}", `{"":{"":0},"a":0}`, `[[[[]]]]`, `1 1`, `{"a":"\ufffd"}`, "\"\xff\"",
	} {
		f.Add([]byte(s), 4)
	}
	f.Fuzz(func(t *testing.T, b []byte, maxDepth int) {
		if maxDepth < 1 || maxDepth > 1000 {
			maxDepth = DefaultMaxDepth
		}
		err := CheckJSON(b, maxDepth)
		if err == nil {
			mustDecode(t, b)
		} else if e := err.(*JSONError); e.Offset < 0 || e.Offset > len(b) {
			t.Fatalf("offset %d in a text of %d bytes", e.Offset, len(b))
		}
		if want := slowCheck(b, maxDepth); want != (err == nil) {
			t.Fatalf("CheckJSON = %v, but the plain check says %v: %q", err, want, b)
		}
	})
}

func TestCheckJSONAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if CheckJSON(smallBody, 0) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("a small body costs %v allocations, want 0", n)
	}
	var err error
	if n := testing.AllocsPerRun(100, func() { err = CheckJSON(bomb, 0) }); n > 1 {
		t.Errorf("1 MiB of brackets costs %v allocations, want the error only", n)
	}
	if codeOf(t, err) != CodeTooDeep {
		t.Error(err)
	}
}

var (
	smallBody = []byte(`{"email":"ada@example.com","password":"correct horse battery staple","full_name":"Ada Lovelace","tags":["a","b"],"address":{"city":"London","zip":"W1"}}`)
	bomb      = bytes.Repeat([]byte("["), 1<<20)
)

func BenchmarkCheckJSON(b *testing.B) {
	var large bytes.Buffer
	large.WriteByte('[')
	for large.Len() < 1<<20 {
		large.Write(smallBody)
		large.WriteByte(',')
	}
	large.WriteString("0]")
	var wide bytes.Buffer
	wide.WriteByte('{')
	for i := range 50_000 {
		fmt.Fprintf(&wide, `"member%d":%d,`, i, i)
	}
	wide.WriteString(`"x":0}`)
	for _, bm := range []struct {
		name string
		in   []byte
		code string
	}{
		{"small", smallBody, ""},
		{"1MiB", large.Bytes(), ""},
		{"wide", wide.Bytes(), ""},
		{"bomb", bomb, CodeTooDeep},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bm.in)))
			for b.Loop() {
				if code := codeOf(b, CheckJSON(bm.in, 0)); code != bm.code {
					b.Fatal(code)
				}
			}
		})
	}
}

// The yardstick: encoding/json's own check of the grammar alone.
func BenchmarkJSONValid(b *testing.B) {
	b.SetBytes(int64(len(smallBody)))
	for b.Loop() {
		if !json.Valid(smallBody) {
			b.Fatal("refused")
		}
	}
}
