package account

import (
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"

	"github.com/sallyport/sallyport"
)

// Bounds of names.
const (
	maxEmail     = 254 // octets; RFC 5321, 4.5.3.1.3, less the angle brackets
	maxLocalPart = 64  // octets; RFC 5321, 4.5.3.1.1
	maxUsername  = 64  // characters
	maxFullName  = 200 // characters
)

// EmailKey returns the normalised copy under which an address is compared:
// without regard to case, with the domain in its ASCII form.
func EmailKey(address string) (string, bool) {
	if len(address) > maxEmail || !utf8.ValidString(address) || strings.ContainsFunc(address, unicode.IsControl) || strings.Contains(address, `"`) {
		return "", false
	}
	a, err := mail.ParseAddress(address)
	if err != nil || a.Name != "" || a.Address != address { // a display name, brackets, comments, folding
		return "", false
	}
	at := strings.LastIndexByte(address, '@')
	local, domain := address[:at], address[at+1:]
	if len(local) > maxLocalPart {
		return "", false
	}
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil || !strings.Contains(ascii, ".") || strings.HasSuffix(ascii, ".") {
		return "", false
	}
	return strings.ToLower(norm.NFKC.String(local)) + "@" + strings.ToLower(ascii), true
}

// UsernameKey returns the normalised copy under which a user name is compared:
// the PRECIS profile UsernameCaseMapped (RFC 8265), without the characters that
// would make it look like an address or a path.
func UsernameKey(name string) (string, bool) {
	if n := utf8.RuneCountInString(name); n == 0 || n > maxUsername {
		return "", false
	}
	key, err := precis.UsernameCaseMapped.String(name)
	if err != nil || key == "" || utf8.RuneCountInString(key) > maxUsername {
		return "", false
	}
	for i, c := range key {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && (i == 0 || !strings.ContainsRune("._-", c) && !unicode.IsMark(c)) {
			return "", false
		}
	}
	return key, true
}

// loginKeys returns what a login name, an address or a user name, may be found
// under; "" where it cannot be one.
func loginKeys(login string) (emailKey, usernameKey string) {
	if strings.Contains(login, "@") {
		emailKey, _ = EmailKey(login)
	} else {
		usernameKey, _ = UsernameKey(login)
	}
	return emailKey, usernameKey
}

// LoginName returns the form of a login name in which two are the same if they
// can only name the same account: for what must be told apart without one.
func LoginName(login string) string {
	switch email, username := loginKeys(login); {
	case email != "":
		return "email:" + email
	case username != "":
		return "username:" + username
	}
	// It names no account here, now or later. A users table may compare it as it does
	// others: without regard to case.
	return "none:" + strings.ToLower(norm.NFKC.String(login))
}

func fullNameOK(name string) bool {
	return utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxFullName && !strings.ContainsFunc(name, unicode.IsControl)
}

func checkEmail(address string) (key string, f *sallyport.Field) {
	key, ok := EmailKey(address)
	if !ok {
		return "", &sallyport.Field{Pointer: "/email", Code: "invalid_email", Detail: "Write one e-mail address, for example name@example.com."}
	}
	return key, nil
}

func checkUsername(name string) (key string, f *sallyport.Field) {
	key, ok := UsernameKey(name)
	if !ok {
		return "", &sallyport.Field{Pointer: "/username", Code: "invalid_username", Detail: "Use 1 to 64 letters and digits of any language, and “.”, “_”, “-” after the first."}
	}
	return key, nil
}

func checkFullName(name string) *sallyport.Field {
	if !fullNameOK(name) {
		return &sallyport.Field{Pointer: "/full_name", Code: "invalid_text", Detail: "Use at most 200 characters on one line, without control characters."}
	}
	return nil
}
