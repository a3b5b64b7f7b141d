package password

import (
	"bufio"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/trustelem/zxcvbn/frequency"

	"github.com/sallyport/sallyport/internal/testkit"
)

func TestCheck(t *testing.T) {
	own := []string{"ada_l", "ada.lovelace+work@example.com", "Augusta Ada King, Countess of Lovelace"}
	tests := []struct {
		name, pw string
		want     string // code; "": accepted
	}{
		{"a phrase", "correct horse battery staple", ""},
		{"random", "x7Kq-w2Zp", ""},
		{"8 characters", "kX9#qLv2", ""},
		{"7 characters", "kX9#qLv", "too_short"},
		{"7 characters, 14 bytes", "жЩФыЪёЙ", "too_short"},
		{"8 characters of which accents are not counted", "ze\u0301q\u0308x\u030ck", "too_short"},
		{"8 characters in Greek", "ωμφξζηθβ", ""},
		{"empty", "", "too_short"},
		{"1024 characters", strings.Repeat("qzjxkvwb", 127) + "12345678", ""},
		{"1024 characters of 3 bytes", strings.Repeat("漢字仮名交り文章", 127) + "12345678", ""},
		{"1024 characters, decomposed", strings.Repeat("각난닫랄맘밥삿앙", 127) + "12345678", ""},
		{"1025 characters", strings.Repeat("qzjxkvwb", 127) + "123456789", "too_long"},
		{"10 MiB", strings.Repeat("qzjxkvwb", 10<<17), "too_long"},

		{"emoji", "🦊🌵🚲🎻🧊🪁🥝🐙", ""},
		{"spaces around", "  qzj kvw  ", ""},
		{"not UTF-8", "qzjxkvwb\xff", "invalid_text"},
		{"surrogate in UTF-8", "qzjxkvwb\xed\xa0\x80", "invalid_text"},
		{"damaged before", "qzjxkvwb\ufffd", "invalid_text"},
		{"NUL", "qzjx\x00kvwb", "invalid_text"},
		{"line feed", "qzjxkvwb\n", "invalid_text"},
		{"escape", "qzjx\x1b[2Jkvwb", "invalid_text"},
		{"C1 control", "qzjxkvwb\u0085", "invalid_text"},

		{"common", "password", "common"},
		{"common in capitals", "PassWord", "common"},
		{"common in leet, i", "1l0vey0u", "common"},
		{"common in leet, l", "p@$$w0rd", "common"},
		{"common in wide letters", "ｐａｓｓｗｏｒｄ", "common"},
		{"common, decorated", "Password1!", "common"},
		{"common in leet, decorated", "P@ssw0rd2026", "common"},
		{"common and short, decorated", "Qwerty!99", "common"},
		{"common, more than decorated", "Password-w7x", ""},
		{"rare, decorated", "marzipan2026", ""},
		{"common, backwards", "drowssap", "common"},
		{"a word", "elephant", "common"},
		{"two words", "elephant marzipan", ""},
		{"a word twice", "elephantelephant", "common"},
		{"two letters", "abababababab", "common"},
		{"one letter", strings.Repeat("x", 500), "common"},
		{"repeated but long", "kX9#qkX9#q", ""},
		{"sequence", "3456789:;<", "common"},
		{"sequence, down", "zyxwvutsr", "common"},
		{"keyboard", "qwertyuiop", "common"},

		{"user name", "ada_lada_l", "contains_name"},
		{"address", "ada.lovelace+work@example.com", "contains_name"},
		{"local part", "ada.lovelace", "contains_name"},
		{"local part in capitals", "ADA.LOVELACE", "contains_name"},
		{"local part and a year", "AdaLovelace1815", "contains_name"},
		{"local part in leet", "@d4.l0v3l4c3", "contains_name"},
		{"parts of the name", "lovelace-ada-king", "contains_name"},
		{"a part and signs", "Lovelace!!!!!!!!", "contains_name"},
		{"a part and a year", "King 1815!", "contains_name"},
		{"a part in a phrase", "lovelace met babbage", ""},
		{"the domain", "example com qz", ""},
		{"letters of a short part", "often of use", ""}, // "of"
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := Check(tt.pw, own...)
			switch {
			case f == nil && tt.want == "":
				return
			case f == nil || f.Code != tt.want:
				t.Fatalf("%+v, want %q", f, tt.want)
			case f.Pointer != "" || f.Detail == "":
				t.Errorf("%+v", f)
			}
			if tt.pw != "" && tt.pw != "password" && strings.Contains(f.Detail, tt.pw) {
				t.Errorf("%q repeats the password", f.Detail)
			}
		})
	}
	if f := Check("ada.lovelace.1815"); f != nil {
		t.Errorf("control, somebody else's name: %+v", f)
	}
	if f := Check("correct horse battery staple", "", " ", "a", "@", strings.Repeat("x", 1<<20)); f != nil {
		t.Errorf("odd names: %+v", f)
	}
}

// What Check accepts can be hashed, however it is spelled.
func TestLongestCanBeHashed(t *testing.T) {
	h := newTest(t, nil)
	for _, pw := range []string{
		strings.Repeat("각난닫랄맘밥삿앙", 128),                 // nine bytes each, decomposed
		strings.Repeat("\u1f82\u1f83\u1fa2\u1fa3", 256), // four characters each
		strings.Repeat("🦊🌵🚲🎻🧊🪁🥝🐙", 128),
	} {
		if f := Check(pw); f != nil && f.Code != "common" {
			t.Errorf("%+v", f)
		}
		if got := mustVerify(t, h, mustHash(t, h, pw), pw); got != matched {
			t.Errorf("%+v", got)
		}
	}
}

// common.txt is what it says it is; -update writes it anew.
func TestCommonText(t *testing.T) {
	extra, err := os.ReadFile("common_extra.txt")
	if err != nil {
		t.Fatal(err)
	}
	marks := map[string]string{} // what stands behind each entry
	add := func(word string) {
		// Four and not MinLength, for passwords that repeat one of them.
		if len(word) >= 4 {
			marks[strings.ToLower(word)] = ""
		}
	}
	for _, words := range frequency.FrequencyLists {
		for _, word := range words {
			add(word)
		}
	}
	var licence strings.Builder
	for line := range strings.Lines(string(extra)) {
		switch {
		case !strings.HasPrefix(line, "#"):
			add(strings.TrimSuffix(line, "\n"))
		case strings.HasPrefix(line, "# Copyright"), licence.Len() > 0:
			licence.WriteString(line)
		}
	}
	for _, word := range frequency.FrequencyLists["passwords"][:decorated] {
		if word = strings.ToLower(word); len(word) >= 4 {
			marks[word] = "\t"
		}
	}
	want := "# The dictionaries of zxcvbn; see common.go.\n#\n" + licence.String() + "\n"
	for _, word := range slices.Sorted(maps.Keys(marks)) {
		if strings.ContainsAny(word, "\t\n") {
			t.Fatalf("%q cannot stand on a line", word)
		}
		want += word + marks[word] + "\n"
	}
	if *updateCommon {
		if err := os.WriteFile("common.txt", []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if commonText != want {
		t.Fatal("common.txt is not what the lists make; run go test ./authn/password -run TestCommonText -update")
	}
	for word, mark := range marks {
		if listed, most := look(word); !listed || most != (mark != "") {
			t.Errorf("%q: listed %v, most %v", word, listed, most)
		}
	}
	for _, word := range []string{"", "\t", "\n", "dragon\t", "dragon\ndragons", "0", "\xff", "not on any list"} {
		if has(word) {
			t.Errorf("%q is listed", word)
		}
	}
}

var updateCommon = flag.Bool("update", false, "write common.txt anew")

func TestVectorsCommon(t *testing.T) {
	file, err := os.Open(testkit.Vectors(t, "passwords/common_zxcvbn_all.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		word := lines.Text()
		if utf8.RuneCountInString(word) < MinLength {
			continue
		}
		n++
		for _, pw := range []string{word, strings.ToUpper(word)} {
			if f := Check(pw); f == nil || f.Code != "common" {
				t.Errorf("%q: %+v", pw, f)
			}
		}
	}
	atLeast(t, "common passwords", n, 15_769)
}

// The cost must not grow faster than the length: whoever registers chooses
// both the password and the names.
func TestCheckIsBounded(t *testing.T) {
	Check("builds the list", "once")
	const limit = 150 * time.Millisecond // 2 ms, and ten times that under the race detector
	for name, pw := range map[string]string{
		"letters":  strings.Repeat("a", 1024),
		"almost":   strings.Repeat("a", 1023) + "b",
		"leet":     strings.Repeat("4@30!$7+", 128),
		"accents":  strings.Repeat("e\u0301", 1024),
		"expands":  strings.Repeat("\ufdfa", 1024), // to 18 characters each
		"combines": "a" + strings.Repeat("\u0301\u0323", 511),
	} {
		var s stopwatch
		for range 5 {
			start := time.Now()
			Check(pw, strings.Repeat("aab ", 80), strings.Repeat("a.", 100)+"@example.com")
			s.add(time.Since(start))
		}
		t.Logf("%-9s %v", name, s.median())
		if s.median() > limit {
			t.Errorf("%s takes %v", name, s.median())
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("correct horse battery staple", "ada", "ada@example.com")
	f.Add("P@ssw0rd1!", "", "@")
	f.Add("\xff\x00", "\xff", "@@@")
	h := newTest(f, nil)
	f.Fuzz(func(t *testing.T, pw, name, address string) {
		field := Check(pw, name, address)
		if field != nil {
			if field.Code == "" || field.Detail == "" {
				t.Errorf("%+v", field)
			}
			return
		}
		if utf8.RuneCountInString(pw) < MinLength || len(pw) > maxBytes || !utf8.ValidString(pw) {
			t.Errorf("accepted %q", pw)
		}
		if got := mustVerify(t, h, mustHash(t, h, pw), pw); got != matched {
			t.Errorf("accepted, but %+v", got)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Check("correct horse battery staple", "ada", "ada.lovelace@example.com", "Ada Lovelace")
	}
}
