package password

import (
	_ "embed"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/trustelem/zxcvbn/frequency"
)

// The blocklist is zxcvbn's dictionaries: leaked passwords by frequency, words
// of English and of films, first and last names. Only the dictionaries; its
// estimator tries every substring and every substitution, and needs 5 ms for
// 72 characters of a stranger's choice, where a look-up needs none.

// commonExtra are leaked passwords that the Go port of zxcvbn leaves out of
// its lists, which end at the 30,000th.
//
//go:embed common_extra.txt
var commonExtra string

// decorated is how many of the most frequent passwords are also refused with
// up to four digits or signs after them, as in "Summer2026!".
const (
	decorated     = 1000
	maxDecoration = 4
)

type blocklist struct {
	all  words
	most words // the first of the passwords, of any length
}

// words is a set of words by a hash under a random seed: that one of 100,000
// equals a good password's is no more likely than a guess. A map without
// pointers costs the garbage collector nothing; the texts cost a sign-in 1.5 %,
// because the memory of every hash is one collection.
type words map[uint64]struct{}

var wordSeed = maphash.MakeSeed()

func (w words) add(s string)      { w[maphash.String(wordSeed, s)] = struct{}{} }
func (w words) has(s string) bool { _, ok := w[maphash.String(wordSeed, s)]; return ok }

// common is built when first needed: milliseconds and 2 MB that a service
// without registrations does not pay for.
var common = sync.OnceValue(func() blocklist {
	b := blocklist{all: make(words, 96_000), most: make(words, decorated)}
	add := func(word string) {
		// Four and not MinLength, for passwords that repeat one of them.
		if len(word) >= 4 {
			b.all.add(strings.ToLower(word))
		}
	}
	for _, words := range frequency.FrequencyLists {
		for _, word := range words {
			add(word)
		}
	}
	for line := range strings.Lines(commonExtra) {
		if !strings.HasPrefix(line, "# ") { // the license; no entry has a space in it
			add(strings.TrimSuffix(line, "\n"))
		}
	}
	for _, word := range frequency.FrequencyLists["passwords"][:decorated] {
		b.most.add(strings.ToLower(word))
	}
	return b
})

// isCommon reports whether pw, in lower case, is on the blocklist as it is,
// read backwards or repeated; or whether it is one short text over and over
// ("abab…"), or characters in sequence ("23456789").
func isCommon(pw string) bool {
	has := common().all.has

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
	return slices.ContainsFunc(disguises(bare), common().most.has)
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
