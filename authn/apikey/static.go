package apikey

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport"
)

// Static is a key that stands in the configuration, for a service. It has no
// owner and no row: its scopes are all that it may do, as long as a process runs
// with them.
type Static struct {
	Name   string
	Digest string // hexadecimal SHA-256 of the key
	Scopes []string
}

// StaticPrefix stands before the name of a Static in its principal's id.
const StaticPrefix = "config:"

// maxStatics bounds the keys of a configuration.
const maxStatics = 1000

// NewStatic returns the Static of a key.
func NewStatic(name string, k Key, scopes []string) Static {
	d := k.Digest()
	return Static{Name: name, Digest: hex.EncodeToString(d[:]), Scopes: scopes}
}

// ParseStatic reads the form of configuration files, NAME=DIGEST SCOPE SCOPE….
// Whether name, digest and scopes are good is for CheckStatics to say.
func ParseStatic(s string) (Static, error) {
	name, rest, ok := strings.Cut(strings.TrimSpace(s), "=")
	words := strings.Fields(rest)
	if !ok || len(words) == 0 {
		return Static{}, fmt.Errorf("it does not have the form NAME=DIGEST SCOPE SCOPE…")
	}
	return Static{Name: strings.TrimSpace(name), Digest: words[0], Scopes: words[1:]}, nil
}

// String returns the form that ParseStatic reads.
func (s Static) String() string {
	return strings.Join(append([]string{s.Name + "=" + s.Digest}, s.Scopes...), " ")
}

// Mistake is something wrong with a configured key.
type Mistake struct {
	Value       string // the key's name, or its place in the list; nothing secret
	Reason, Fix string
}

// Error says value, reason and fix.
func (m *Mistake) Error() string { return fmt.Sprintf("%s: %s. %s", m.Value, m.Reason, m.Fix) }

const makeOne = "“sallyport apikey create --static NAME” makes a key and its line"

// CheckStatics returns everything that is wrong with the keys of a
// configuration.
func CheckStatics(all []Static) (mistakes []*Mistake) {
	if len(all) > maxStatics {
		mistakes = append(mistakes, &Mistake{fmt.Sprintf("%d keys", len(all)), fmt.Sprintf("there may be at most %d", maxStatics), "Give services accounts with keys of their own."})
	}
	names, digests := map[string]bool{}, map[string]string{}
	for i, s := range all {
		what := s.Name
		wrong := func(reason, fix string) { mistakes = append(mistakes, &Mistake{what, reason, fix}) }
		if err := sallyport.CheckName(s.Name); err != nil || holdsKey(s.Name) {
			what = fmt.Sprintf("entry %d", i+1)
			wrong("its name is not usable", "Use 1 to 64 of a-z, A-Z, 0-9 and _ - . : /, beginning with a letter or digit.")
		} else if names[s.Name] {
			wrong("the name stands twice", "Give each key a name of its own.")
		}
		names[s.Name] = true
		b, err := hex.DecodeString(s.Digest)
		switch digest := strings.ToLower(s.Digest); {
		case strings.HasPrefix(s.Digest, Prefix):
			wrong("it holds a key where the key's digest belongs", "Take that key as known to others: "+makeOne+".")
		case err != nil || len(b) != sha256.Size:
			wrong("its digest is not the hexadecimal SHA-256 of a key", makeOne+".")
		case digests[digest] != "":
			wrong("it has the digest of "+digests[digest], "Make another key: "+makeOne+".")
		default:
			digests[digest] = what
		}
		if len(s.Scopes) > maxScopes {
			wrong(fmt.Sprintf("it has more than %d scopes", maxScopes), "Leave out those that it does not need.")
		}
		seen := map[string]bool{}
		for n, scope := range s.Scopes {
			switch {
			case sallyport.CheckName(scope) != nil || holdsKey(scope):
				wrong(fmt.Sprintf("scope %d is not usable as a name", n+1), "Use 1 to 64 of a-z, A-Z, 0-9 and _ - . : /, beginning with a letter or digit.")
			case strings.HasPrefix(scope, "role:"):
				wrong(fmt.Sprintf("scope %d is a role", n+1), "A key of the configuration has no roles: name the permissions that it needs.")
			case seen[scope]:
				wrong(fmt.Sprintf("scope %d stands twice", n+1), "Leave it out.")
			}
			seen[scope] = true
		}
	}
	return mistakes
}
