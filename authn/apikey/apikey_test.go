package apikey

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
)

// scanner is what the documentation tells scanners for leaked secrets.
var scanner = regexp.MustCompile(`\bsp_[0-9A-Za-z]{49}\b`)

func TestGenerate(t *testing.T) {
	seen := map[string]bool{}
	var digits [256]int
	const n = 2000
	for range n {
		k := Generate()
		text := k.Reveal()
		if seen[text] || len(text) != Length || scanner.FindString("key="+text+"\n") != text {
			t.Fatalf("%q", text)
		}
		seen[text] = true
		if again, err := Parse(text); err != nil || again != k {
			t.Fatalf("%q: %v", text, err)
		}
		for _, c := range []byte(text[len(Prefix) : Length-checkLen]) {
			digits[c]++
		}
	}
	// Every digit is as likely: 86,000 in 62 classes, 1387 each, standard deviation 37.
	for _, c := range []byte(alphabet) {
		if d := digits[c]; d < 1387-7*37 || d > 1387+7*37 {
			t.Errorf("digit %c stands %d times, want about 1387", c, d)
		}
	}
}

// The checksum is written down for scanners, so it must not change.
func TestChecksum(t *testing.T) {
	const body = "sp_0000000000000000000000000000000000000000000"
	sum, want := crc32.ChecksumIEEE([]byte(body)), ""
	for range 6 {
		want = string("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[sum%62]) + want
		sum /= 62
	}
	if got := checksum(body); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := Parse(body + want); err != nil {
		t.Error(err)
	}
	if len(checksum("")) != 6 {
		t.Error("a small checksum is not filled up")
	}
}

func TestParseRefuses(t *testing.T) {
	k := Generate().Reveal()
	other := func(i int) string {
		c := byte('a')
		if k[i] == c {
			c = 'b'
		}
		return k[:i] + string(c) + k[i+1:]
	}
	if _, err := Parse(k); err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty": "", "prefix alone": Prefix, "cut": k[:Length-1], "longer": k + "0", "space before": " " + k, "space after": k + " ", "line": k + "\n",
		"no prefix": "xx_" + k[3:], "prefix in another case": "SP_" + k[3:], "upper": strings.ToUpper(k), "lower": strings.ToLower(k),
		"NUL": k[:20] + "\x00" + k[21:], "underscore": k[:20] + "_" + k[21:], "not ASCII": k[:20] + "é" + k[22:], "quoted": `"` + k[1:],
	}
	for i := len(Prefix); i < Length; i++ {
		bad[fmt.Sprintf("character %d", i)] = other(i)
	}
	for i := len(Prefix); i < Length-1; i++ {
		if k[i] != k[i+1] {
			bad[fmt.Sprintf("%d and its neighbour", i)] = k[:i] + string(k[i+1]) + string(k[i]) + k[i+2:]
		}
	}
	for name, s := range bad {
		if s == k {
			continue
		}
		if _, err := Parse(s); err == nil {
			t.Errorf("%s: %q was taken", name, s)
		}
	}
}

// What is taken is exactly what is made: no other text stands for the same key.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", Prefix, Generate().Reveal(), strings.Repeat("0", Length), Prefix + strings.Repeat("0", 49), "sp_é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := Parse(s)
		if err != nil {
			if k != (Key{}) {
				t.Errorf("%q was refused and returned", s)
			}
			return
		}
		if k.Reveal() != s || scanner.FindString(s) != s || checksum(s[:46]) != s[46:] {
			t.Errorf("%q was taken", s)
		}
		if !holdsKey("x" + s + "y") {
			t.Errorf("%q is not seen within a text", s)
		}
	})
}

// The cache confirms a key by its last 32 characters: 26 of the secret's, which
// are 154 bits. What is shown of a key is none of them.
func TestTheEndOfAKeyIsSecret(t *testing.T) {
	const proof = 32
	secret := proof - checkLen
	if bits := secret * 5954 / 1000; bits < 128 {
		t.Errorf("%d bits", bits)
	}
	if Length-proof < shownLen {
		t.Error("the shown characters are part of the proof")
	}
	if shownLen-len(Prefix) > 5 {
		t.Error("more is shown than documented")
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := Generate()
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "key", k, "in", struct{ Key Key }{k}, "pointer", &k)
	b, _ := json.Marshal(map[string]any{"key": k})
	all := fmt.Sprintf("%v %+v %#v %s %q %v %s %s", k, k, k, k, k, struct{ K Key }{k}, b, &log)
	if strings.Contains(all, k.Reveal()[shownLen:shownLen+6]) {
		t.Errorf("a key prints: %s", all)
	}
	if !strings.Contains(all, k.Shown()) {
		t.Errorf("nothing to recognise it by: %s", all)
	}
}

func request(target string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	_, r.URL.RawQuery, _ = strings.Cut(target, "?")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestRead(t *testing.T) {
	k := Generate().Reveal()
	damaged := k[:30] + "!" + k[31:]
	plain := &Service{cfg: Config{Header: "X-API-Key"}, header: "X-Api-Key"}
	open := &Service{cfg: Config{Header: "X-Secret", Cookie: "ck", Query: "auth"}, header: "X-Secret"}
	for name, c := range map[string]struct {
		s     *Service
		r     *http.Request
		cred  string
		found bool
		code  string
	}{
		"none":                        {plain, request("/?q=1"), "", false, ""},
		"header":                      {plain, request("/", "x-api-key", k), k, true, ""},
		"empty header":                {plain, request("/", "X-API-Key", ""), "", true, ""},
		"two headers":                 {plain, request("/", "X-API-Key", k, "X-API-Key", k), "", false, "several_credentials"},
		"another header":              {plain, request("/", "X-Secret", k), "", false, ""},
		"renamed header":              {open, request("/", "X-Secret", k), k, true, ""},
		"the header's former name":    {open, request("/", "X-API-Key", k), "", false, ""},
		"cookie, off":                 {plain, request("/", "Cookie", "ck="+k), "", false, ""},
		"cookie":                      {open, request("/", "Cookie", "a=b; ck="+k), k, true, ""},
		"two cookies":                 {open, request("/", "Cookie", "ck="+k+"; ck="+k), "", false, "several_credentials"},
		"header and cookie":           {open, request("/", "X-Secret", k, "Cookie", "ck="+k), "", false, "several_credentials"},
		"query":                       {open, request("/?auth=" + k + "&q=1"), k, true, ""},
		"empty query":                 {open, request("/?auth="), "", true, ""},
		"two in the query":            {open, request("/?auth=" + k + "&auth=" + k), "", false, "several_credentials"},
		"header and query":            {open, request("/?auth="+k, "X-Secret", k), "", false, "several_credentials"},
		"cookie and query":            {open, request("/?auth="+k, "Cookie", "ck="+k), "", false, "several_credentials"},
		"another parameter":           {open, request("/?api_key=" + k), "", false, "credential_in_query"},
		"query, off":                  {plain, request("/?api_key=" + k), "", false, "credential_in_query"},
		"under any name":              {plain, request("/?anything=" + k), "", false, "credential_in_query"},
		"as a name":                   {plain, request("/?" + k), "", false, "credential_in_query"},
		"within a value":              {plain, request("/?next=%2Fa%3Fkey%3D" + k + "%26b"), "", false, "credential_in_query"},
		"escaped":                     {plain, request("/?a=%73p_" + k[3:]), "", false, "credential_in_query"},
		"behind a semicolon":          {plain, request("/?a=1;api_key=" + k), "", false, "credential_in_query"},
		"with a broken escape":        {plain, request("/?a=%zz" + k), "", false, "credential_in_query"},
		"damaged, under its name":     {plain, request("/?X-API-Key=" + damaged), "", false, "credential_in_query"},
		"damaged, under another name": {plain, request("/?apikey=" + k[:40]), "", false, "credential_in_query"},
		"damaged, under key":          {plain, request("/?key=" + damaged), "", false, "credential_in_query"},
		"something else under key":    {plain, request("/?key=sp_abc"), "", false, ""},
		"damaged, under no such name": {plain, request("/?q=" + damaged), "", false, ""},
		"in the header as well":       {plain, request("/?q="+k, "X-API-Key", k), "", false, "credential_in_query"},
	} {
		cred, found, err := c.s.Read(c.r)
		e, _ := err.(*sallyport.Error)
		if cred != c.cred || found != c.found || (e == nil) != (c.code == "") || e != nil && (e.Code != c.code || e.Status != 400) || err != nil && strings.Contains(err.Error(), k[10:20]) {
			t.Errorf("%s: %q %v %v", name, cred, found, err)
		}
	}
	r := request("/", "X-API-Key", k)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = plain.Read(r) }); n != 0 {
		t.Errorf("reading the header takes %v allocations", n)
	}
}

// Whatever a query holds, no key comes out of it while it is off, and none that
// stands in it goes unnoticed.
func FuzzReadQuery(f *testing.F) {
	k := Generate().Reveal()
	for _, s := range []string{"", "a=b", "api_key=" + k, "a=%73p_" + k[3:], "a=%zz" + k, ";;&&==%", "auth=" + k + "&auth=", k + k} {
		f.Add(s)
	}
	off := &Service{cfg: Config{Header: DefaultHeader}}
	on := &Service{cfg: Config{Header: DefaultHeader, Query: "auth"}}
	f.Fuzz(func(t *testing.T, raw string) {
		cred, found, err := off.readQuery(raw)
		if cred != "" || found || err == nil && scanner.MatchString(raw) && holdsKey(raw) && !strings.ContainsAny(raw, "&=") {
			t.Errorf("%q: %q %v %v", raw, cred, found, err)
		}
		if cred, found, err := on.readQuery(raw); err != nil && (found || cred != "") {
			t.Errorf("%q: %q %v %v", raw, cred, found, err)
		}
	})
}

// A cookie is not enough where another site's page asks.
func TestRestrict(t *testing.T) {
	k := Generate().Reveal()
	origin, err := authn.NewSameOrigin("https://example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{cfg: Config{Header: "X-API-Key", Cookie: "ck", Origin: origin}, header: "X-Api-Key"}
	for name, c := range map[string]struct {
		method  string
		headers []string
		refused bool
	}{
		"header, from another site":     {"POST", []string{"X-API-Key", k, "Sec-Fetch-Site", "cross-site"}, false},
		"cookie, no browser":            {"POST", []string{"Cookie", "ck=" + k}, false},
		"cookie, same site":             {"POST", []string{"Cookie", "ck=" + k, "Sec-Fetch-Site", "same-origin"}, false},
		"cookie, another site":          {"POST", []string{"Cookie", "ck=" + k, "Sec-Fetch-Site", "cross-site"}, true},
		"cookie, a neighbour":           {"DELETE", []string{"Cookie", "ck=" + k, "Sec-Fetch-Site", "same-site"}, true},
		"cookie, another origin":        {"POST", []string{"Cookie", "ck=" + k, "Origin", "https://evil.example"}, true},
		"cookie, no origin":             {"POST", []string{"Cookie", "ck=" + k, "Origin", "null"}, true},
		"cookie, own origin":            {"POST", []string{"Cookie", "ck=" + k, "Origin", "https://example.com"}, false},
		"cookie, reading":               {"GET", []string{"Cookie", "ck=" + k, "Sec-Fetch-Site", "cross-site"}, false},
		"no cookie, from another site":  {"POST", []string{"Cookie", "a=b", "Sec-Fetch-Site", "cross-site"}, false},
		"empty cookie, of another site": {"POST", []string{"Cookie", "ck=", "Sec-Fetch-Site", "cross-site"}, true},
	} {
		r := request("/", c.headers...)
		r.Method, r.Host = c.method, "example.com"
		err := s.Restrict(r)
		if (err != nil) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
		if e, ok := err.(*sallyport.Error); err != nil && (!ok || e.Status != 403 || e.Code != "cross_origin") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChallenge(t *testing.T) {
	s := &Service{cfg: Config{Header: "X-API-Key"}}
	for _, c := range []struct {
		e    sallyport.Error
		want string
	}{
		{sallyport.Error{Status: 401, Code: "unauthenticated"}, `ApiKey realm="sallyport", header="X-API-Key"`},
		{sallyport.Error{Status: 401, Code: "invalid_token"}, `ApiKey realm="sallyport", header="X-API-Key"`},
		{sallyport.Error{Status: 401, Code: "insufficient_user_authentication"}, ""},
		{sallyport.Error{Status: 401, Code: "wrong_password"}, ""},
		{sallyport.Error{Status: 403, Code: "insufficient_scope"}, ""},
	} {
		if got := s.Challenge(&c.e); got != c.want {
			t.Errorf("%d %s: %q", c.e.Status, c.e.Code, got)
		}
	}
}

func TestStatics(t *testing.T) {
	k := Generate()
	line := NewStatic("billing", k, []string{"read:users", "write:x"}).String()
	s, err := ParseStatic("  " + line + " ")
	if err != nil || s.Name != "billing" || !slices.Equal(s.Scopes, []string{"read:users", "write:x"}) || CheckStatics([]Static{s}) != nil {
		t.Fatalf("%+v %v %v", s, err, CheckStatics([]Static{s}))
	}
	if d, ok := s.digest(); !ok || d != k.Digest() {
		t.Error("another digest")
	}
	if strings.Contains(line, k.Reveal()[3:12]) {
		t.Error("the line holds the key")
	}
	for _, bad := range []string{"", "billing", "billing=", "billing= ", "=", strings.ReplaceAll(line, "=", ":")} {
		if _, err := ParseStatic(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	digest := NewStatic("", Generate(), nil).Digest
	other := NewStatic("", Generate(), nil).Digest
	many := make([]string, maxScopes+1)
	for i := range many {
		many[i] = fmt.Sprintf("s%d", i)
	}
	for name, c := range map[string]struct {
		in   []Static
		want []string // parts of the mistakes, in order
	}{
		"good":                     {[]Static{{"a", digest, nil}, {"b", other, []string{"x"}}}, nil},
		"no name":                  {[]Static{{"", digest, nil}}, []string{"entry 1: its name"}},
		"name of two words":        {[]Static{{"a b", digest, nil}}, []string{"entry 1: its name"}},
		"a key as the name":        {[]Static{{k.Reveal(), digest, nil}}, []string{"entry 1: its name"}},
		"no digest":                {[]Static{{"a", "", nil}}, []string{"a: its digest"}},
		"short digest":             {[]Static{{"a", digest[2:], nil}}, []string{"a: its digest"}},
		"no hex":                   {[]Static{{"a", "g" + digest[1:], nil}}, []string{"a: its digest"}},
		"the key":                  {[]Static{{"a", k.Reveal(), nil}}, []string{"a: it holds a key"}},
		"one name":                 {[]Static{{"a", digest, nil}, {"a", other, nil}}, []string{"a: the name stands twice"}},
		"one digest":               {[]Static{{"a", digest, nil}, {"b", strings.ToUpper(digest), nil}}, []string{"b: it has the digest of a"}},
		"a bad scope":              {[]Static{{"a", digest, []string{"x", "a b"}}}, []string{"a: scope 2 is not usable"}},
		"a role":                   {[]Static{{"a", digest, []string{"role:admin"}}}, []string{"a: scope 1 is a role"}},
		"one scope":                {[]Static{{"a", digest, []string{"x", "x"}}}, []string{"a: scope 2 stands twice"}},
		"scopes":                   {[]Static{{"a", digest, many}}, []string{"a: it has more than 64"}},
		"everything wrong at once": {[]Static{{"-", "1", []string{"!"}}, {"b", k.Reveal(), nil}}, []string{"entry 1: its name", "entry 1: its digest", "entry 1: scope 1", "b: it holds a key"}},
	} {
		got := CheckStatics(c.in)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", name, got)
			continue
		}
		for i, m := range got {
			if !strings.HasPrefix(m.Error(), c.want[i]) || m.Fix == "" || strings.Contains(m.Error(), k.Reveal()) {
				t.Errorf("%s: %v, want %s", name, m, c.want[i])
			}
		}
	}
	if got := CheckStatics(make([]Static, maxStatics+1)); len(got) == 0 || !strings.Contains(got[0].Error(), "at most 1000") {
		t.Error("there is no bound")
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		check func(string) error
		name  string
		ok    bool
	}{
		{CheckHeader, "X-API-Key", true},
		{CheckHeader, "x-secret", true},
		{CheckHeader, "", false},
		{CheckHeader, "a b", false},
		{CheckHeader, "authorization", false},
		{CheckHeader, "Cookie", false},
		{CheckHeader, "Sec-Fetch-Site", false},
		{CheckHeader, "a:b", false},
		{CheckHeader, "a\r\nb", false},
		{CheckHeader, strings.Repeat("a", 65), false},
		{CheckHeader, "host", false},
		{CheckCookie, "api_key", true},
		{CheckCookie, "__Host-key", true},
		{CheckCookie, "a=b", false},
		{CheckCookie, "a;b", false},
		{CheckQuery, "api_key", true},
		{CheckQuery, "access_token", false},
		{CheckQuery, "limit", false},
		{CheckQuery, "a&b", false},
		{CheckQuery, "a%20", false},
	} {
		if err := c.check(c.name); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.name, err)
		}
	}
}
