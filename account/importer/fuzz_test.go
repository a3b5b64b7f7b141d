package importer

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sallyport/sallyport/authn/password"
)

// FuzzFile reads any file as every source: nothing panics or goes on for ever,
// what is accepted could have registered and has a hash that can be verified,
// and reading in other pieces, or twice, cuts the same records.
func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"", "[", "[{}]", "{}\n{}", `{"users":[{"username":"a","email":"a@example.com"}]}`, `{"a":"\"}","users":[{}],"b":[[{}]]}`,
		"email,hashed_password\na@example.com,\"" + bcryptHash + "\"\n", "email,password,username\r\n\"a\r\nb\",,\r\n",
		`{"email":"a@example.com","password_hash":"` + bcryptHash + `","roles":["user"]}`,
		`[{"model":"auth.user","pk":1,"fields":{"email":"a@example.com","password":"!"}}]`, "\xef\xbb\xbf[]", "{\"a\":", "[{}{}]", "[{},]",
		`{"email":"a@example.com","custom_password_hash":{"algorithm":"pbkdf2","hash":{"value":"$pbkdf2-sha256$i=1,l=1$a$b"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, source := range slices.Sorted(maps.Keys(formats)) {
			whole, end, sum := readAll(t, source, bytes.NewReader(text))
			again, endAgain, sumAgain := readAll(t, source, iotest.OneByteReader(bytes.NewReader(text)))
			if !slices.Equal(whole, again) || end != endAgain || sum != sumAgain {
				t.Fatalf("%s: %q %s %s in one piece, %q %s %s in many", source, whole, end, sum, again, endAgain, sumAgain)
			}
		}
	})
}

// readAll returns what became of each record, how the file ended, and its
// digest.
func readAll(t *testing.T, source Source, r io.Reader) (out []string, end, sum string) {
	m := &Import{ID: "01a20299-9fdc-7292-801e-000000000000", Source: source, StartedAt: time.Unix(1_700_000_000, 0), options: Options{Source: source}}
	pass, err := (&Service{}).run(m, r)
	if err != nil {
		return nil, err.Error(), ""
	}
	for {
		x, err := pass.next()
		if err != nil {
			if _, ok := errors.AsType[*FileError](err); !ok && err != io.EOF {
				t.Fatalf("%s: %v", source, err)
			}
			return out, err.Error(), pass.cut.sum()
		}
		switch {
		case x.skip:
			out = append(out, "skipped")
		case x.err != nil:
			if x.err.kind == "" || x.err.reason == "" {
				t.Fatalf("%s: refused without a reason", source)
			}
			out = append(out, x.err.kind)
		default:
			if f := x.acc.Check(); f != nil {
				t.Fatalf("%s: %s could not register: %v", source, x.acc.Email, f)
			}
			if _, err := password.Identify(x.acc.Hash); x.acc.Hash != "" && err != nil {
				t.Fatalf("%s: %q cannot be verified: %v", source, x.acc.Hash, err)
			}
			if slices.Contains(x.acc.Roles, "admin") && source != NDJSON {
				t.Fatalf("%s: an administrator unasked", source)
			}
			out = append(out, x.acc.Email)
		}
	}
}

// FuzzCells holds our cells against encoding/csv, which is laxer about nothing
// but line ends.
func FuzzCells(f *testing.F) {
	for _, s := range []string{`a,b`, `"a","b"`, `"a""b",`, `,`, `"`, `a"b`, `"a"b`, "\"a\nb\",c", `""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "\r") || strings.HasPrefix(text, "\n") || strings.HasSuffix(text, "\n") || text == "" || strings.ToValidUTF8(text, "") != text {
			t.Skip("line ends are cut before, and encoding/csv has rules of its own for them")
		}
		got, err := parseCells([]byte(text), nil)
		r := csv.NewReader(strings.NewReader(text))
		r.FieldsPerRecord = -1
		want, wantErr := r.ReadAll()
		if wantErr == nil && len(want) != 1 {
			t.Skip("several records")
		}
		if (err == nil) != (wantErr == nil) {
			if err == nil && strings.Contains(text, "\n") {
				return // a line feed outside of quotes never reaches us
			}
			t.Fatalf("%q: %v, encoding/csv: %v", text, err, wantErr)
		}
		if err == nil && !slices.Equal(got, want[0]) {
			t.Fatalf("%q: %q, encoding/csv: %q", text, got, want[0])
		}
	})
}

// FuzzObject holds our objects against encoding/json: the same members, and none
// twice.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":{"b":[1,"}"]}}`, `[]`, `null`, `{"a":1}x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseObject([]byte(text))
		var want map[string]json.RawMessage
		valid := json.Unmarshal([]byte(text), &want) == nil && want != nil
		if err != nil {
			if r, ok := errors.AsType[*refusal](err); !ok {
				t.Fatal(err)
			} else if valid && strings.ToValidUTF8(text, "") == text && r.kind != KindDuplicate && len(want) <= maxMembers && strings.HasPrefix(text, "{") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if !valid || len(got.list) != len(want) {
			t.Fatalf("%q: %d members, encoding/json %d", text, len(got.list), len(want))
		}
		for _, m := range got.list {
			if string(want[m.name]) != string(m.json) {
				t.Fatalf("%q: %s is %s, encoding/json: %s", text, m.name, m.json, want[m.name])
			}
		}
	})
}

// A record, a line and a member outside of records may be of any size: what is
// kept of them is bounded.
func TestNothingIsKeptOfWhatIsTooLong(t *testing.T) {
	long := strings.Repeat("x", 3*MaxRecord)
	for _, tt := range []struct {
		source Source
		text   string
		want   []string
	}{
		{NDJSON, `{"email":"` + long + "\"}\n" + `{"email":"a@example.com"}`, []string{KindTooLong, "a@example.com"}},
		{NDJSON, `[{"email":"` + long + `"},{"email":"a@example.com"}]`, []string{KindTooLong, "a@example.com"}},
		{Keycloak, `{"` + long + `":"` + long + `","l":[["` + long + `"]],"users":[{"email":"` + long + `"},{"email":"a@example.com"}]}`, []string{KindTooLong, "a@example.com"}},
		{FastAPIUsers, "email,hashed_password\n" + long + ",\na@example.com,\n", []string{KindTooLong, "a@example.com"}},
	} {
		m := &Import{ID: newID(), Source: tt.source, StartedAt: time.Now(), options: Options{Source: tt.source}}
		pass, err := (&Service{}).run(m, strings.NewReader(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			x, err := pass.next()
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
			if x.err != nil {
				got = append(got, x.err.kind)
			} else {
				got = append(got, x.acc.Email)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.source, got, tt.want)
		}
		if kept := cap(pass.cut.buf) + cap(pass.cut.taken); kept > 3*MaxRecord-1 {
			t.Errorf("%s: %d bytes are kept", tt.source, kept)
		}
	}
}
