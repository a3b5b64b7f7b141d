package password

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/sallyport/sallyport"
)

// Length of a new password, in characters: Unicode code points after
// normalisation, as NIST SP 800-63B counts them. Not in bytes, because then
// the limits would be others in Greek than in English.
const (
	MinLength = 8
	MaxLength = 1024
)

// nameSlack: with fewer different characters than this beside the person's own
// name, the password is the name. "alice1990!" has four.
const nameSlack = 5

// Check returns what is wrong with a new password, or nil. own are the words
// that belong to the person: user name, e-mail address, full name.
//
// Codes are invalid_text (not UTF-8, or with control characters), too_long,
// too_short, contains_name (the person's own name and little more) and common
// (among the first that anybody would guess). The caller sets Pointer. Neither
// the password nor the name is in the answer. There are no rules about digits
// and signs: they make passwords that are hard to remember and easy to guess.
//
// The cost is linear in the length: 4 µs for a usual password, 2 ms for the
// worst that a stranger can send.
func Check(pw string, own ...string) *sallyport.Field {
	if len(pw) > maxBytes {
		return tooLong()
	}
	// U+FFFD is what decoders put where the text was damaged: two passwords
	// that were different would be the same.
	if !utf8.ValidString(pw) || strings.ContainsFunc(pw, unicode.IsControl) || strings.ContainsRune(pw, utf8.RuneError) {
		return &sallyport.Field{Code: "invalid_text", Detail: "The password must be UTF-8 text without control characters. Letters of every script, digits, signs and spaces are fine."}
	}
	switch n := utf8.RuneCountInString(norm.NFC.String(pw)); {
	case n > MaxLength:
		return tooLong()
	case n < MinLength:
		return &sallyport.Field{Code: "too_short", Detail: fmt.Sprintf("The password must have at least %d characters. Three or four words that do not belong together make a good one.", MinLength)}
	}
	forms := disguises(pw)
	if littleMoreThan(forms, own) {
		return &sallyport.Field{Code: "contains_name", Detail: "The password must not be your own name or address, or little more. Choose something that does not follow from who you are."}
	}
	if slices.ContainsFunc(forms, isCommon) || isDecorated(forms[0]) {
		return &sallyport.Field{Code: "common", Detail: "The password is among the first that anybody would guess. Three or four words that do not belong together make a good one."}
	}
	return nil
}

func tooLong() *sallyport.Field {
	return &sallyport.Field{Code: "too_long", Detail: fmt.Sprintf("The password must have at most %d characters.", MaxLength)}
}

// Signs that stand for a letter, in the spellings that cracking rules try
// first. A one is an i or an l.
var (
	leetI = strings.NewReplacer("@", "a", "4", "a", "8", "b", "3", "e", "6", "g", "9", "g", "1", "i", "!", "i", "0", "o", "$", "s", "5", "s", "7", "t", "+", "t", "2", "z")
	leetL = strings.NewReplacer("@", "a", "4", "a", "8", "b", "3", "e", "6", "g", "9", "g", "1", "l", "!", "i", "0", "o", "$", "s", "5", "s", "7", "t", "+", "t", "2", "z")
)

// disguises returns pw without case and width, as it stands and with its signs
// read as letters in two ways. It is for comparing only.
func disguises(pw string) []string {
	plain := strings.ToLower(norm.NFKC.String(pw))
	return []string{plain, leetI.Replace(plain), leetL.Replace(plain)}
}

// littleMoreThan reports whether one of the forms of a password has fewer than
// nameSlack different characters beside the words of its owner.
func littleMoreThan(forms, own []string) bool {
	words := make([][]string, len(forms)) // disguised alike
	for _, o := range own {
		for _, word := range wordsOf(o) {
			for i, w := range disguises(word) {
				// Under three letters a name is in every other password by chance.
				if w = lettersAndDigits(w); utf8.RuneCountInString(w) >= 3 {
					words[i] = append(words[i], w)
				}
			}
		}
	}
	for i, form := range forms {
		slices.SortFunc(words[i], func(a, b string) int { return len(b) - len(a) })
		letters := lettersAndDigits(form)
		rest := letters
		for _, w := range words[i] { // the longest first, so that "ann" does not spoil "anna"
			rest = strings.ReplaceAll(rest, w, "")
		}
		if rest == letters {
			continue
		}
		different := map[rune]bool{}
		for _, r := range rest {
			different[r] = true
		}
		for _, r := range form {
			if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
				different[r] = true
			}
		}
		if len(different) < nameSlack {
			return true
		}
	}
	return false
}

// wordsOf returns s, its parts, and for an address what is before the "@".
func wordsOf(s string) []string {
	// Nothing longer can be in a password that was accepted so far.
	if len(s) > maxBytes {
		return nil
	}
	s = strings.ToLower(s)
	words := []string{s}
	if local, _, ok := strings.Cut(s, "@"); ok {
		words = append(words, local)
		s = local // the parts of the domain are not the person's: "gmail", "com"
	}
	return append(words, strings.FieldsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})...)
}

func lettersAndDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, s)
}
