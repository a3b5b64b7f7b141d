package mail

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What is told of strangers is not repeated as they wrote it: a letter of ours must
// not carry somebody else's words, and least of all a link, to an address that they
// chose. Names are shown if they can be nothing else, devices as what we recognise
// of them, addresses of mail without what would make a link of them.

// maxName bounds a name that is shown, in characters.
const maxName = 40

// shownName returns a name if mail programs and people take it for nothing else,
// and "" otherwise: letters, marks, few digits, and the signs that names have; no
// domain, no address, no telephone number, no sentence.
func shownName(s string) string {
	s = strings.TrimSpace(s)
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxName || len(strings.Fields(s)) > 5 {
		return ""
	}
	digits, all := 0, []rune(s)
	for i, r := range all {
		switch {
		case unicode.IsDigit(r):
			digits++
		case unicode.IsLetter(r), unicode.IsMark(r), strings.ContainsRune(" '’-,_", r):
		case r == '.':
			// “J. R. Hartley”, “J.R.R.” and “Jr.”, but nothing that ends like a domain.
			if i+2 < len(all) && isWord(all[i+1]) && isWord(all[i+2]) {
				return ""
			}
		default:
			return ""
		}
	}
	if digits > 4 {
		return ""
	}
	return s
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) }

// shownAddress returns a mail address as whoever knows it recognises it, and no
// program makes a link of it: a***@e***.com.
func shownAddress(s string) string {
	at := strings.LastIndexByte(s, '@')
	dot := strings.LastIndexByte(s, '.')
	if at < 1 || dot < at+2 || dot == len(s)-1 || !utf8.ValidString(s) {
		return ""
	}
	local, _ := utf8.DecodeRuneInString(s)
	domain, _ := utf8.DecodeRuneInString(s[at+1:])
	if !isWord(local) {
		local = '*'
	}
	if !isWord(domain) || strings.ContainsFunc(s[dot+1:], func(r rune) bool { return !isWord(r) && r != '-' }) {
		return ""
	}
	return string(local) + "***@" + string(domain) + "***" + s[dot:]
}

// shownClient returns an IP address, and "" for anything else.
func shownClient(s string) string {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Unmap().WithZone("").String()
	}
	return ""
}

// browsers and systems, as user agents have them; of several the first counts.
var (
	browsers = [][2]string{
		{"Edg", "Edge"},
		{"OPR/", "Opera"},
		{"SamsungBrowser/", "Samsung Internet"},
		{"Firefox/", "Firefox"},
		{"FxiOS/", "Firefox"},
		{"CriOS/", "Chrome"},
		{"Chrome/", "Chrome"},
		{"Safari/", "Safari"},
		{"curl/", "curl"},
		{"python", "a Python program"},
		{"Python", "a Python program"},
		{"Go-http-client/", "a Go program"},
		{"okhttp/", "an app"},
		{"Dart/", "an app"},
		{"CFNetwork/", "an app"},
	}
	systems = [][2]string{
		{"Windows", "Windows"},
		{"Android", "Android"},
		{"iPhone", "iPhone"},
		{"iPad", "iPad"},
		{"CrOS", "ChromeOS"},
		{"Macintosh", "Mac"},
		{"Mac OS X", "Mac"},
		{"Linux", "Linux"},
	}
)

// shownDevice returns what a user agent says of browser and system, in our own
// words; "" if it says neither.
func shownDevice(s string) string {
	first := func(of [][2]string) string {
		for _, pair := range of {
			if strings.Contains(s, pair[0]) {
				return pair[1]
			}
		}
		return ""
	}
	switch browser, system := first(browsers), first(systems); {
	case browser == "" && system == "":
		return ""
	case browser == "":
		return "a program on " + system
	case system == "":
		return browser
	default:
		return browser + " on " + system
	}
}

// clipped shortens a text to a number of characters.
func clipped(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}
