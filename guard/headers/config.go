package headers

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
)

// ConfigError is one mistake in a configuration.
type ConfigError = sallyport.ConfigError

// New returns the headers of cfg. The error joins a *ConfigError for each
// mistake: control characters and separators gone wrong, directives and values
// that browsers do not know and would skip in silence, a policy that limits
// nothing, and what a field named Dangerously… has to allow.
func New(cfg Config) (*Headers, error) {
	cfg.ContentSecurityPolicy = cmp.Or(cfg.ContentSecurityPolicy, APIPolicy)
	cfg.ReferrerPolicy = cmp.Or(cfg.ReferrerPolicy, NoReferrer)
	c := checker{cfg: cfg}
	c.contentSecurityPolicy(cfg.ContentSecurityPolicy)
	c.oneOf("ReferrerPolicy", cfg.ReferrerPolicy, "no-referrer", "same-origin", "origin", "strict-origin", "origin-when-cross-origin", "strict-origin-when-cross-origin")
	c.permissionsPolicy(cfg.PermissionsPolicy)
	c.oneOf("CrossOriginOpenerPolicy", cfg.CrossOriginOpenerPolicy, "same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none")
	c.oneOf("CrossOriginResourcePolicy", cfg.CrossOriginResourcePolicy, "same-origin", "same-site", "cross-origin")
	c.frameOptions(cfg.XFrameOptions)
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	h := new(Headers)
	if pieces := strings.Split(cfg.ContentSecurityPolicy, noncePlace); len(pieces) > 1 {
		h.policy = pieces
		cfg.ContentSecurityPolicy = withoutNonce(cfg.ContentSecurityPolicy)
	}
	h.fields = fields(cfg)
	return h, nil
}

// noncePlace is where SetNonce puts a nonce. It is no source that a browser knows.
const noncePlace = "'nonce'"

// withoutNonce returns a valid policy without the places for a nonce.
func withoutNonce(policy string) string {
	var out []string
	for _, d := range parsePolicy(policy) {
		d.sources = slices.DeleteFunc(d.sources, func(s string) bool { return s == noncePlace })
		if _, isFetch := fetch[d.name]; isFetch && len(d.sources) == 0 {
			d.sources = []string{"'none'"}
		}
		out = append(out, strings.Join(append([]string{d.name}, d.sources...), " "))
	}
	return strings.Join(out, "; ")
}

// directive is one of a policy, as it is written.
type directive struct {
	name    string
	sources []string
}

func parsePolicy(policy string) []directive {
	var out []directive
	for part := range strings.SplitSeq(policy, ";") {
		words := strings.Fields(part)
		if len(words) == 0 {
			words = []string{""}
		}
		out = append(out, directive{words[0], words[1:]})
	}
	return out
}

// fetch are the directives whose values are lists of sources (CSP level 3,
// sections 6.1, 6.3 and 6.4). They are true if a script can come from there.
var fetch = map[string]bool{
	"default-src": true, "script-src": true, "script-src-elem": true, "script-src-attr": true,
	"style-src": false, "style-src-elem": false, "style-src-attr": false, "img-src": false, "font-src": false, "connect-src": false,
	"media-src": false, "object-src": false, "frame-src": false, "child-src": false, "worker-src": false, "manifest-src": false,
	"fenced-frame-src": false, "base-uri": false, "form-action": false, "frame-ancestors": false,
}

// flags are the other directives. They are true if they may stand alone.
var flags = map[string]bool{
	"sandbox": true, "upgrade-insecure-requests": true, "trusted-types": true,
	"report-to": false, "report-uri": false, "require-trusted-types-for": false,
}

// keywords are the sources in quotation marks, but for hashes and nonces.
var keywords = []string{
	"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "'unsafe-hashes'", "'wasm-unsafe-eval'", "'strict-dynamic'", "'report-sample'",
	"'inline-speculation-rules'", "'trusted-types-eval'", noncePlace,
}

type checker struct {
	cfg  Config
	errs []error
}

func (c *checker) bad(key, value, reason, fix string) {
	c.errs = append(c.errs, sallyport.Mistake(key, value, reason, fix))
}

func (c *checker) contentSecurityPolicy(policy string) {
	const key = "ContentSecurityPolicy"
	if strings.ContainsFunc(policy, notText) {
		c.bad(key, policy, "it holds a character that no header may have", "Write it on one line, in ASCII.")
		return
	}
	if strings.Contains(policy, ",") {
		c.bad(key, policy, "it holds a comma, at which a browser begins a second policy", "Separate directives by semicolons, and sources by spaces.")
		return
	}
	seen := map[string]bool{}
	for _, d := range parsePolicy(policy) {
		_, isFetch := fetch[d.name]
		alone, isFlag := flags[d.name]
		switch {
		case d.name == "":
			c.bad(key, policy, "it has a semicolon with no directive behind it", "Separate directives by one semicolon, with none at the end.")
		case seen[d.name]:
			c.bad(key, d.name, "it is there twice, and browsers take the first one only", "Write all its sources behind one.")
		case isFetch:
			c.sources(d)
		case !isFlag:
			c.bad(key, d.name, "browsers know no such directive and skip it", didYouMean(d.name, slices.Concat(sortedKeys(fetch), sortedKeys(flags))))
		case len(d.sources) == 0 && !alone:
			c.bad(key, d.name, "it has no value", "Write one, or leave the directive out.")
		case strings.Contains(strings.Join(d.sources, " "), noncePlace):
			c.bad(key, d.name, "a nonce is for scripts and styles", "Write 'nonce' behind script-src or style-src.")
		}
		seen[d.name] = true
	}
	if !seen["base-uri"] && (strings.Contains(policy, noncePlace) || strings.Contains(policy, "'strict-dynamic'")) {
		c.bad(key, policy, "it has no base-uri, which does not follow default-src: with an injected <base> the page's own scripts would be loaded from elsewhere", "Add: base-uri 'none'.")
	}
	if !seen["frame-ancestors"] {
		c.bad(key, policy, "it has no frame-ancestors, which does not follow default-src: any site could frame the answer", "Add: frame-ancestors 'none'.")
	}
	if !seen["default-src"] && !seen["script-src"] && !c.cfg.DangerouslyAllowUnsafeScripts {
		c.bad(key, policy, "it has neither script-src nor default-src, so that any script may run", "Add: default-src 'none'.")
	}
}

// sources checks a list of sources.
func (c *checker) sources(d directive) {
	bad := func(value, reason, fix string) { c.bad("ContentSecurityPolicy", d.name+" "+value, reason, fix) }
	if len(d.sources) == 0 {
		bad("", "it names no source", "Write 'none' if that is what is meant.")
	}
	for _, s := range d.sources {
		bare := strings.Trim(s, "'")
		quoted := "'" + bare + "'"
		digest, size := cutHash(bare)
		hash := size > 0
		switch {
		case s == "'none'" && len(d.sources) > 1:
			bad(s, "'none' counts only if it stands alone; beside others browsers skip it", "Leave it out, or the others.")
		case s == noncePlace && !slices.Contains([]string{"script-src", "script-src-elem", "style-src", "style-src-elem"}, d.name):
			bad(s, "a nonce is for scripts and styles", "Write it behind script-src or style-src.")
		case strings.HasPrefix(bare, "nonce-"):
			bad(s, "a nonce that is the same in every answer protects nothing, since everybody knows it", "Write 'nonce' in its place, and call SetNonce for each answer.")
		case d.name == "frame-ancestors" && s != "'self'" && s != "'none'" && strings.HasPrefix(s, "'"):
			bad(s, "frame-ancestors takes 'none', 'self', hosts and schemes", "Write 'none', 'self' or origins such as https://app.example.com.")
		case d.name == "frame-ancestors" && isBroad(s) && !c.cfg.DangerouslyAllowFramingByAnyone:
			bad(s, "any site could frame the page and have visitors click on it unknowingly", "Write 'none', or list the origins; DangerouslyAllowFramingByAnyone allows it.")
		case fetch[d.name] && !c.cfg.DangerouslyAllowUnsafeScripts && isUnsafe(s):
			bad(s, "text that somebody injects into a page would run as a script", "Write 'self', 'nonce' or the hash of the script; DangerouslyAllowUnsafeScripts allows it.")
		case s != quoted && (slices.Contains(keywords, quoted) || hash):
			bad(s, "without quotation marks it is the name of a host", "Write "+quoted+".")
		case hash && !isDigest(digest, size):
			bad(s, fmt.Sprintf("the digest is not the base64 of %d bytes", size), "Copy it from the message in the browser's console.")
		case s == quoted && !hash && !slices.Contains(keywords, s):
			bad(s, "it is none of the keywords", didYouMean(s, keywords))
		case s != quoted && strings.Contains(s, "'"):
			bad(s, "it has a quotation mark in the wrong place", "Write keywords as 'self', and hosts and schemes without quotation marks.")
		case s != quoted && strings.ContainsAny(s, `"<>\{}|^`+"`"):
			bad(s, "it holds a character that no source has", "Write a host, an origin or a scheme such as data:.")
		}
	}
}

// isUnsafe tells whether a source of scripts lets injected text run.
func isUnsafe(s string) bool {
	switch strings.ToLower(s) {
	case "'unsafe-inline'", "'unsafe-eval'", "'unsafe-hashes'":
		return true
	}
	return isBroad(s)
}

// isBroad tells whether a source is everybody's: *, every name of a top-level
// domain, or what only names a scheme.
func isBroad(s string) bool {
	_, rest, cut := strings.Cut(s, "://")
	if !cut {
		rest = s
	}
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, ":")
	tld, wild := strings.CutPrefix(host, "*.")
	return host == "*" || wild && !strings.Contains(tld, ".") || !cut && strings.HasSuffix(s, ":")
}

// cutHash returns the digest of a hash source and how many bytes it should have,
// 0 if s is something else.
func cutHash(s string) (digest string, size int) {
	for name, size := range map[string]int{"sha256-": 32, "sha384-": 48, "sha512-": 64} {
		if digest, ok := strings.CutPrefix(s, name); ok {
			return digest, size
		}
	}
	return "", 0
}

func isDigest(s string, size int) bool {
	// CSP takes both alphabets of base64.
	b, err := base64.StdEncoding.Strict().DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(s))
	return err == nil && len(b) == size
}

// frameOptions returns what X-Frame-Options says for a frame-ancestors.
func frameOptions(sources []string) string {
	if len(sources) == 1 {
		switch sources[0] {
		case "'none'":
			return "DENY"
		case "'self'":
			return "SAMEORIGIN"
		}
	}
	return ""
}

// permissionsPolicy checks a list of features (Permissions Policy, section 5.2).
// The features are not compared with a list: browsers differ, and add some.
func (c *checker) permissionsPolicy(policy string) {
	const key = "PermissionsPolicy"
	if policy == "" {
		return
	}
	switch {
	case strings.ContainsFunc(policy, notText):
		c.bad(key, policy, "it holds a character that no header may have", "Write it on one line, in ASCII.")
		return
	case strings.Contains(policy, ";"), strings.Contains(policy, "'"):
		c.bad(key, policy, "it is written like a Feature-Policy or a CSP, and browsers would skip all of it", "Write it as camera=(), geolocation=(self), with commas between.")
		return
	}
	seen := map[string]bool{}
	for item := range strings.SplitSeq(policy, ",") {
		item = strings.Trim(item, " ")
		name, value, _ := strings.Cut(item, "=")
		switch {
		case !isFeature(name) || !isAllowlist(value):
			c.bad(key, item, "it is not a feature with who may use it, and browsers would skip the whole header", `Write it as camera=(), geolocation=(self) or fullscreen=(self "https://app.example.com").`)
		case seen[name]:
			c.bad(key, name, "it is there twice, and browsers take the last one only", "Write all who may use it in one.")
		}
		seen[name] = true
	}
}

// isFeature tells whether s is a key of a structured field (RFC 9651, section
// 3.1.2), as features have them.
func isFeature(s string) bool {
	return s != "" && isLower(rune(s[0])) && !strings.ContainsFunc(s, func(r rune) bool { return !isLower(r) && r != '-' && (r < '0' || r > '9') })
}

func isLower(r rune) bool { return r >= 'a' && r <= 'z' }

// isAllowlist tells whether s is *, self, or a list in parentheses of *, self,
// src and origins in quotation marks.
func isAllowlist(s string) bool {
	if s == "*" || s == "self" {
		return true
	}
	inner, opened := strings.CutPrefix(s, "(")
	inner, closed := strings.CutSuffix(inner, ")")
	if !opened || !closed {
		return false
	}
	for _, word := range strings.Fields(inner) {
		origin := len(word) > 2 && word[0] == '"' && strings.IndexByte(word[1:], '"') == len(word)-2 &&
			strings.Contains(word, "://") && !strings.ContainsAny(word, `\()`)
		if !origin && word != "*" && word != "self" && word != "src" {
			return false
		}
	}
	return true
}

// oneOf checks a value that may also be left out.
func (c *checker) oneOf(key, value string, choices ...string) bool {
	if value == "" || slices.Contains(choices, value) {
		return true
	}
	reason := "it is none of the values"
	if value == "unsafe-url" || value == "no-referrer-when-downgrade" {
		reason = "it sends whole addresses, with what their queries hold, to other sites"
	}
	c.bad(key, value, reason, didYouMean(value, choices))
	return false
}

func (c *checker) frameOptions(value string) {
	const key = "XFrameOptions"
	if !c.oneOf(key, value, "DENY", "SAMEORIGIN") || value == "" {
		return
	}
	for _, d := range parsePolicy(c.cfg.ContentSecurityPolicy) {
		if d.name == "frame-ancestors" && frameOptions(d.sources) != value {
			c.bad(key, value, "it does not say what frame-ancestors says, and clients obey one or the other", "Write DENY beside frame-ancestors 'none', SAMEORIGIN beside 'self', and leave it out beside anything else.")
		}
	}
}

// notText tells whether a character may not stand in these headers.
func notText(r rune) bool { return r < ' ' || r > '~' }

func sortedKeys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// didYouMean returns a sentence with the choice that is most like s, or with all
// of them if none is.
func didYouMean(s string, choices []string) string {
	best, least := "", 4
	for _, choice := range choices {
		if d := distance(strings.ToLower(s), strings.ToLower(choice)); d < least && d <= len(choice)/3 {
			best, least = choice, d
		}
	}
	if best != "" {
		return "Did you mean " + best + "?"
	}
	return "Choose one of: " + strings.Join(choices, ", ") + "."
}

// distance is how many bytes have to be put in, taken out or changed to make b
// of a (Levenshtein), 4 if they are too long or too different to be a mistake in
// typing.
func distance(a, b string) int {
	if len(a) > 64 || max(len(a), len(b))-min(len(a), len(b)) > 3 {
		return 4
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
