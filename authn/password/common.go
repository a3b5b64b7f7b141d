package password

import (
	_ "embed"
	"slices"
	"strings"
	"unicode"
)

// The blocklist is zxcvbn's dictionaries: leaked passwords by frequency, words
// of English and of films, first and last names. Only the dictionaries; its
// estimator tries every substring and every substitution, and needs 5 ms for
// 72 characters of a stranger's choice, where a look-up needs none.
//
// common.txt has their entries in lower case, sorted bytewise, one a line, with
// a tab behind the first decorated of the passwords; a licence and an empty line
// before them. TestCommonText makes it of the module's lists and of
// common_extra.txt. It is read where it lies in the program: it takes no time at
// the start, and no memory that the garbage collector would visit. (The module's
// own slices of strings were half of an idle server's heap, and as much of what
// collections cost each request.)
//
//go:embed common.txt
var commonText string

// decorated is how many of the most frequent passwords are also refused with
// up to four digits or signs after them, as in "Summer2026!".
const (
	decorated     = 1000
	maxDecoration = 4
)

// commonWords is commonText without what stands before the words.
var commonWords = commonText[strings.Index(commonText, "\n\n")+2:]

// look reports whether word is on the blocklist, and whether it is one of the
// most frequent passwords.
func look(word string) (listed, most bool) {
	if strings.ContainsAny(word, "\t\n") {
		return false, false
	}
	for text := commonWords; text != ""; {
		// The line at the middle of what is left.
		from := strings.LastIndexByte(text[:len(text)/2], '\n') + 1
		to := from + strings.IndexByte(text[from:], '\n')
		entry, marked := strings.CutSuffix(text[from:to], "\t")
		switch strings.Compare(word, entry) {
		case 0:
			return true, marked
		case -1:
			text = text[:from]
		default:
			text = text[to+1:]
		}
	}
	return false, false
}

func has(word string) bool      { listed, _ := look(word); return listed }
func frequent(word string) bool { _, most := look(word); return most }

// isCommon reports whether pw, in lower case, is on the blocklist as it is,
// read backwards or repeated; or whether it is one short text over and over
// ("abab…"), or characters in sequence ("23456789").
func isCommon(pw string) bool {
	runes := []rune(pw)
	if has(pw) || isSequence(runes) {
		return true
	}
	backwards := slices.Clone(runes)
	slices.Reverse(backwards)
	if has(string(backwards)) {
		return true
	}
	if unit := repeated(runes); len(unit) < len(runes) && (len(unit) <= 4 || has(string(unit))) {
		return true
	}
	return false
}

// isDecorated reports whether pw is one of the most frequent passwords with a
// few digits or signs after it.
func isDecorated(pw string) bool {
	bare := strings.TrimRightFunc(pw, func(r rune) bool { return !unicode.IsLetter(r) })
	if n := len(pw) - len(bare); n == 0 || n > maxDecoration {
		return false
	}
	// Disguised only now, lest the digits at the end become letters.
	return slices.ContainsFunc(disguises(bare), frequent)
}

// isSequence reports whether every character is followed by its successor, or
// every one by its predecessor.
func isSequence(s []rune) bool {
	if len(s) < 2 {
		return false
	}
	step := s[1] - s[0]
	if step != 1 && step != -1 {
		return false
	}
	for i := 2; i < len(s); i++ {
		if s[i]-s[i-1] != step {
			return false
		}
	}
	return true
}

// repeated returns the shortest text that s consists of, repeated: s itself,
// if there is no shorter one. It is linear (Knuth, Morris and Pratt).
func repeated(s []rune) []rune {
	border := make([]int, len(s)) // of s[:i+1]: the longest proper prefix that is a suffix
	for i, n := 1, 0; i < len(s); i++ {
		for n > 0 && s[i] != s[n] {
			n = border[n-1]
		}
		if s[i] == s[n] {
			n++
		}
		border[i] = n
	}
	if len(s) == 0 {
		return s
	}
	if n := len(s) - border[len(s)-1]; len(s)%n == 0 {
		return s[:n]
	}
	return s
}
