package clientip

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

// resolver trusts 10.0.0.0/8 and 2001:db8:ffff::/48.
func resolver(t testing.TB, h Header) *Resolver {
	t.Helper()
	trusted, err := ParseTrusted([]string{"10.0.0.0/8", "2001:db8:ffff::/48"})
	if err != nil {
		t.Fatal(err)
	}
	res, err := New(Config{Trusted: trusted, Header: h})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func request(peer string, h http.Header) *http.Request {
	return &http.Request{RemoteAddr: peer, Header: h}
}

const proxy = "10.0.0.1:4711" // a declared peer

func TestPeer(t *testing.T) {
	res := resolver(t, "")
	for _, tt := range []struct{ remote, want string }{
		{"192.0.2.1:1234", "192.0.2.1"},
		{"[2001:db8::1]:1234", "2001:db8::1"},
		{"[::ffff:192.0.2.1]:1234", "192.0.2.1"},
		{"[fe80::1%eth0]:1234", "fe80::1"},
		{"10.0.0.1:1", "10.0.0.1"},
		{"", ""},
		{"@", ""},
		{"@/run/app.sock", ""},
		{"/run/app.sock", ""},
		{"/run/app:1", ""},
		{"192.0.2.1", ""},
		{"2001:db8::1:80", ""},
		{"[192.0.2.1", ""},
		{"pipe:1", ""},
	} {
		if got := res.Addr(request(tt.remote, nil)); got != addr(tt.want) {
			t.Errorf("RemoteAddr %q: %v, want %q", tt.remote, got, tt.want)
		}
	}
}

// H: a Unix socket is nobody's address, so nothing that comes from it is
// believed.
func TestUnixSocket(t *testing.T) {
	res := resolver(t, "")
	got := res.Resolve(request("@", http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}))
	if want := (Client{Ignored: "X-Forwarded-For"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if Network(got.Addr) != (netip.Prefix{}) || Wider(got.Addr) != (netip.Prefix{}) {
		t.Error("no address has a network")
	}
}

// H: forwarded headers only from declared proxies, none by default.
func TestUndeclaredPeer(t *testing.T) {
	none, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, res := range map[string]*Resolver{
		"none": none, "the zero value": {}, "others": resolver(t, ""),
		"others, Forwarded": resolver(t, Forwarded), "others, X-Real-IP": resolver(t, XRealIP),
	} {
		for _, tt := range []struct {
			header  http.Header
			ignored string
		}{
			{http.Header{"Accept": {"*/*"}}, ""},
			{http.Header{"X-Forwarded-For": {"192.0.2.1"}}, "X-Forwarded-For"},
			{http.Header{"X-Forwarded-For": {""}}, "X-Forwarded-For"},
			{http.Header{"Forwarded": {"for=192.0.2.1;proto=https"}}, "Forwarded"},
			{http.Header{"X-Real-Ip": {"192.0.2.1"}}, "X-Real-IP"},
			{http.Header{"X-Forwarded-Proto": {"https"}}, "X-Forwarded-Proto"},
			{http.Header{"X-Forwarded-Host": {"evil.example"}}, "X-Forwarded-Host"},
			{http.Header{"X-Forwarded-Host": {"a"}, "X-Forwarded-Proto": {"https"}, "X-Real-Ip": {"192.0.2.1"}}, "X-Real-IP"},
		} {
			got := res.Resolve(request("198.51.100.7:1", tt.header))
			if want := (Client{Addr: addr("198.51.100.7"), Ignored: tt.ignored}); got != want {
				t.Errorf("%s: %v: %+v, want %+v", name, tt.header, got, want)
			}
		}
	}
	// The same from a declared one is believed, and nothing is reported.
	got := resolver(t, "").Resolve(request(proxy, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"a"}}))
	if want := (Client{Addr: addr("192.0.2.1"), HTTPS: true}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestXForwardedFor(t *testing.T) {
	res := resolver(t, XForwardedFor)
	chain := func(n int) string { return "192.0.2.1" + strings.Repeat(", 10.0.0.2", n) }
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"one", []string{"192.0.2.1"}, "192.0.2.1"},
		{"IPv6", []string{"2001:db8::1"}, "2001:db8::1"},
		{"not canonical", []string{"2001:DB8:0:0:0:0:0:1"}, "2001:db8::1"},
		{"IPv6 in brackets", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"with port", []string{"192.0.2.1:567"}, "192.0.2.1"},
		{"IPv6 with port", []string{"[2001:db8::1]:567"}, "2001:db8::1"},
		{"mapped", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{"link-local with zone", []string{"fe80::1%eth0"}, "fe80::1"},
		{"spaces and tabs", []string{" \t192.0.2.1 "}, "192.0.2.1"},
		{"through two proxies", []string{"192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		{"through two proxies, mapped", []string{"192.0.2.1,::ffff:10.0.0.2"}, "192.0.2.1"},
		{"through an IPv6 proxy", []string{"192.0.2.1, 2001:db8:ffff::9"}, "192.0.2.1"},
		{"a line of each proxy", []string{"192.0.2.1", "10.0.0.2"}, "192.0.2.1"},
		{"a client within the network of proxies", []string{"10.9.9.9, 10.0.0.2"}, "10.9.9.9"},
		{"the last hop that is looked at", []string{chain(MaxHops - 1)}, "192.0.2.1"},

		{"what the client wrote", []string{"203.0.113.9, 192.0.2.1"}, "192.0.2.1"},
		{"what the client wrote on its own line", []string{"203.0.113.9, 127.0.0.1", "192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		{"the client says it is a proxy", []string{"203.0.113.9, 10.0.0.3, 192.0.2.1"}, "192.0.2.1"},
		{"the client wrote nonsense", []string{"\x00\xff, <script>, 192.0.2.1"}, "192.0.2.1"},
		{"the client opened a quotation mark", []string{`"`, "192.0.2.1"}, "192.0.2.1"},

		{"none", nil, "10.0.0.1"},
		{"empty line", []string{""}, "10.0.0.1"},
		{"empty line, then one", []string{"192.0.2.1", ""}, "10.0.0.1"},
		{"empty element", []string{"192.0.2.1, , 10.0.0.2"}, "10.0.0.2"},
		{"comma at the end", []string{"192.0.2.1,"}, "10.0.0.1"},
		{"only commas", []string{",,,"}, "10.0.0.1"},
		{"unknown", []string{"192.0.2.1, unknown"}, "10.0.0.1"},
		{"unknown behind a proxy", []string{"192.0.2.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"obfuscated", []string{"192.0.2.1, _hidden"}, "10.0.0.1"},
		{"a name", []string{"client.example"}, "10.0.0.1"},
		{"quoted", []string{`"192.0.2.1"`}, "10.0.0.1"},
		{"leading zero", []string{"192.0.2.01"}, "10.0.0.1"},
		{"decimal", []string{"3221225985"}, "10.0.0.1"},
		{"hexadecimal", []string{"0xc0.0.2.1"}, "10.0.0.1"},
		{"short", []string{"192.0.513"}, "10.0.0.1"},
		{"a network", []string{"192.0.2.1/32"}, "10.0.0.1"},
		{"space within", []string{"192.0.2.1 192.0.2.2"}, "10.0.0.1"},
		{"semicolons", []string{"192.0.2.1; 192.0.2.2"}, "10.0.0.1"},
		{"no port after colon", []string{"192.0.2.1:"}, "10.0.0.1"},
		{"port too large", []string{"192.0.2.1:65536"}, "10.0.0.1"},
		{"port too long", []string{"192.0.2.1:000080"}, "10.0.0.1"},
		{"port with sign", []string{"192.0.2.1:+80"}, "10.0.0.1"},
		{"two ports", []string{"[2001:db8::1]:80:81"}, "10.0.0.1"},
		{"bracket not closed", []string{"[2001:db8::1"}, "10.0.0.1"},
		{"bracket not opened", []string{"2001:db8::1]"}, "10.0.0.1"},
		{"text behind bracket", []string{"[2001:db8::1]x"}, "10.0.0.1"},
		{"IPv4 in brackets", []string{"[192.0.2.1]"}, "10.0.0.1"},
		{"nothing in brackets", []string{"[]"}, "10.0.0.1"},
		{"zone of a global address", []string{"2001:db8::1%eth0"}, "10.0.0.1"},
		{"empty zone", []string{"fe80::1%"}, "10.0.0.1"},
		{"zone of an IPv4 address", []string{"169.254.0.1%eth0"}, "10.0.0.1"},
		{"unspecified", []string{"0.0.0.0"}, "10.0.0.1"},
		{"unspecified, IPv6", []string{"::"}, "10.0.0.1"},
		{"unspecified, mapped", []string{"::ffff:0.0.0.0"}, "10.0.0.1"},
		{"multicast", []string{"224.0.0.1"}, "10.0.0.1"},
		{"multicast, IPv6", []string{"ff02::1"}, "10.0.0.1"},
		{"fullwidth digits", []string{"１９２.0.2.1"}, "10.0.0.1"},
		{"too long for an address", []string{"fe80::1%" + strings.Repeat("x", maxNode)}, "10.0.0.1"},
		{"an element that is too long", []string{"192.0.2.1," + strings.Repeat(" ", maxElement+1) + "10.0.0.2"}, "10.0.0.1"},
		{"an element that is too long, alone", []string{strings.Repeat(" ", maxElement+1) + "192.0.2.1"}, "10.0.0.1"},
		{"an element that is as long as may be", []string{strings.Repeat(" ", maxElement-9) + "192.0.2.1"}, "192.0.2.1"},
		{"a long line of one element", []string{strings.Repeat("1", 1<<20)}, "10.0.0.1"},
		{"too many hops", []string{chain(MaxHops)}, "10.0.0.2"},
		{"far too many hops", []string{chain(100_000)}, "10.0.0.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{"X-Forwarded-For": tt.lines, "Forwarded": {"for=203.0.113.1"}, "X-Real-Ip": {"203.0.113.2"}}
			got := res.Resolve(request(proxy, h))
			if want := (Client{Addr: addr(tt.want)}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

func TestForwarded(t *testing.T) {
	res := resolver(t, Forwarded)
	const first, last = `for=203.0.113.9;proto=https`, `for=10.0.0.2;proto=https`
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
		https bool
	}{
		{"one", []string{"for=192.0.2.1"}, "192.0.2.1", false},
		{"http", []string{"for=192.0.2.1;proto=http"}, "192.0.2.1", false},
		{"https", []string{"for=192.0.2.1;proto=https"}, "192.0.2.1", true},
		{"RFC 7239, section 4, example 1", []string{`for="_gazonk"`}, "10.0.0.1", false},
		{"example 2", []string{`For="[2001:db8:cafe::17]:4711"`}, "2001:db8:cafe::17", false},
		{"example 3", []string{`for=192.0.2.60;proto=http;by=203.0.113.43`}, "192.0.2.60", false},
		{"example 4", []string{`for=192.0.2.43, for=198.51.100.17`}, "198.51.100.17", false},
		{"section 7.1", []string{`for=192.0.2.43, for="[2001:db8:ffff::17]"`}, "192.0.2.43", false},
		{"section 6.3", []string{`for="192.0.2.43:_port-1"`}, "192.0.2.43", false},
		{"names and scheme in other case", []string{"FOR=192.0.2.1;Proto=HTTPS"}, "192.0.2.1", true},
		{"order", []string{"proto=https;host=a.example;by=_b;for=192.0.2.1"}, "192.0.2.1", true},
		{"spaces", []string{" for=192.0.2.1 ; proto=https ; host=a.example "}, "192.0.2.1", true},
		{"empty pairs", []string{";for=192.0.2.1;;proto=https;"}, "192.0.2.1", true},
		{"other parameters", []string{`for=192.0.2.1;ext=1;ext=2;secret="a,b;c=\"d\""`}, "192.0.2.1", false},
		{"quoted", []string{`for="192.0.2.1:567";proto="https"`}, "192.0.2.1", true},
		{"escapes", []string{`for="\192.0.\2.1";proto="htt\ps"`}, "192.0.2.1", true},
		{"quoted, without brackets", []string{`for="2001:db8::1"`}, "2001:db8::1", false},
		{"without quotation marks", []string{`for=[2001:db8::1]:567`}, "2001:db8::1", false},
		{"a line of each proxy", []string{"for=192.0.2.1;proto=https", "for=10.0.0.2;proto=http"}, "192.0.2.1", true},
		{"TLS ends at the outer proxy", []string{"for=192.0.2.1;proto=https, for=10.0.0.2;proto=http"}, "192.0.2.1", true},
		{"TLS between proxies only", []string{"for=192.0.2.1;proto=http, for=10.0.0.2;proto=https"}, "192.0.2.1", false},
		{"only proxies", []string{"for=10.0.0.3;proto=https, for=10.0.0.2;proto=http"}, "10.0.0.3", true},

		{"what the client wrote", []string{first + ", for=192.0.2.1;proto=http"}, "192.0.2.1", false},
		{"an open quotation mark", []string{`for="203.0.113.9, for=192.0.2.1`}, "192.0.2.1", false},
		{"an open quotation mark before quoted text", []string{`for=", for="[2001:db8::1]:567";proto=https`}, "2001:db8::1", true},
		{"an open quotation mark on its own line", []string{`for="`, `for="192.0.2.1"`}, "192.0.2.1", false},
		{"an escaped quotation mark", []string{`for="\"`, `for="192.0.2.1"`}, "192.0.2.1", false},
		{"a backslash before the comma", []string{`for=203.0.113.9\,for="192.0.2.1"`}, "192.0.2.1", false},
		{"escaped backslashes", []string{`for="203.0.113.9\\", for=192.0.2.1;x="\\", for="10.0.0.2";x="\\\",\\"`}, "192.0.2.1", false},
		{"a comma in quotation marks", []string{`for="203.0.113.9,for=10.0.0.2", for=192.0.2.1`}, "192.0.2.1", false},
		{"a client that quotes a proxy", []string{`for=203.0.113.9;x="a, for=10.0.0.2", for=192.0.2.1`}, "192.0.2.1", false},

		{"hidden", []string{first + ", for=_hidden"}, "10.0.0.1", false},
		{"hidden, https", []string{first + ", for=_hidden;proto=https"}, "10.0.0.1", true},
		{"unknown", []string{first + ", for=unknown;proto=http," + last}, "10.0.0.2", false},
		{"no for", []string{first + ", proto=https"}, "10.0.0.1", true},
		{"obfuscated port with a slash", []string{`for="192.0.2.1:_a/b"`}, "10.0.0.1", false},
		{"obfuscated port of nothing", []string{`for="192.0.2.1:_"`}, "10.0.0.1", false},
		{"for twice", []string{"for=192.0.2.1;for=10.0.0.2;proto=https"}, "10.0.0.1", false},
		{"for twice, the same", []string{"for=192.0.2.1;For=192.0.2.1"}, "10.0.0.1", false},
		{"proto twice", []string{"for=192.0.2.1;proto=https;proto=https"}, "10.0.0.1", false},
		{"host twice", []string{"for=192.0.2.1;host=a;host=b"}, "10.0.0.1", false},
		{"by twice", []string{"for=192.0.2.1;by=a;by=b"}, "10.0.0.1", false},
		{"malformed behind a proxy", []string{first + ", for=," + last}, "10.0.0.2", false},
		{"empty element", []string{first + ", ," + last}, "10.0.0.2", false},
		{"empty line", []string{first, ""}, "10.0.0.1", false},
		{"only semicolons", []string{";;"}, "10.0.0.1", false},
		{"no value", []string{"for=;proto=https"}, "10.0.0.1", false},
		{"no equals sign", []string{"for"}, "10.0.0.1", false},
		{"no name", []string{"=192.0.2.1"}, "10.0.0.1", false},
		{"as in X-Forwarded-For", []string{"192.0.2.1"}, "10.0.0.1", false},
		{"space before the equals sign", []string{"for =192.0.2.1"}, "10.0.0.1", false},
		{"space after the equals sign", []string{"for= 192.0.2.1"}, "10.0.0.1", false},
		{"two values", []string{"for=192.0.2.1 192.0.2.2"}, "10.0.0.1", false},
		{"text behind quoted text", []string{`for="192.0.2.1"x;proto=https`}, "10.0.0.1", false},
		{"quotation mark not closed", []string{`for="192.0.2.1;proto=https`}, "10.0.0.1", false},
		{"quotation mark not opened", []string{`for=192.0.2.1"`}, "10.0.0.1", false},
		{"backslash at the end", []string{`for="192.0.2.1\"`}, "10.0.0.1", false},
		{"control character", []string{"for=\"192.0.2.1\x01\""}, "10.0.0.1", false},
		{"escaped control character", []string{"for=\"192.0.2.1\\\x01\""}, "10.0.0.1", false},
		{"slash", []string{"for=192.0.2.1;x=a/b"}, "10.0.0.1", false},
		{"long", []string{"for=192.0.2.1;x=" + strings.Repeat("x", maxElement)}, "10.0.0.1", false},
		{"long, quoted", []string{`for=192.0.2.1;x="` + strings.Repeat(",", maxElement) + `"`}, "10.0.0.1", false},
		{"too many hops", []string{"for=192.0.2.1;proto=https" + strings.Repeat(", "+last, MaxHops)}, "10.0.0.2", false},
		{"none", nil, "10.0.0.1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{"Forwarded": tt.lines, "X-Forwarded-For": {"203.0.113.1"}, "X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-Proto": {"https"}}
			got := res.Resolve(request(proxy, h))
			if want := (Client{Addr: addr(tt.want), HTTPS: tt.https}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

func TestXRealIP(t *testing.T) {
	res := resolver(t, XRealIP)
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"one", []string{"192.0.2.1"}, "192.0.2.1"},
		{"IPv6", []string{" 2001:db8::1 "}, "2001:db8::1"},
		{"with port", []string{"[2001:db8::1]:567"}, "2001:db8::1"},
		{"a proxy's", []string{"10.0.0.7"}, "10.0.0.7"},
		{"none", nil, "10.0.0.1"},
		{"empty", []string{""}, "10.0.0.1"},
		{"two lines", []string{"192.0.2.1", "192.0.2.1"}, "10.0.0.1"},
		{"list", []string{"192.0.2.1, 192.0.2.2"}, "10.0.0.1"},
		{"a name", []string{"client.example"}, "10.0.0.1"},
		{"long", []string{strings.Repeat("1", 1<<20)}, "10.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{"X-Real-Ip": tt.lines, "X-Forwarded-For": {"203.0.113.1"}, "Forwarded": {"for=203.0.113.2;proto=https"}}
			if got, want := res.Resolve(request(proxy, h)), (Client{Addr: addr(tt.want)}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// What X-Forwarded-Proto says, beside X-Forwarded-For and X-Real-IP.
func TestHTTPS(t *testing.T) {
	const one, two, bad = "192.0.2.1", "192.0.2.1, 10.0.0.2", "192.0.2.1, unknown"
	many := func(n int) []string { return []string{strings.TrimSuffix(strings.Repeat("https,", n), ",")} }
	for _, tt := range []struct {
		name        string
		xff         string
		tls         bool
		proto       []string
		want, xreal bool // with X-Forwarded-For, with X-Real-IP
	}{
		{"nothing said", one, false, nil, false, false},
		{"nothing said, TLS here", one, true, nil, true, true},
		{"https", one, false, []string{"https"}, true, true},
		{"other case", one, false, []string{" HTTPS "}, true, true},
		{"https, and TLS here", one, true, []string{"https"}, true, true},
		{"the proxy encrypts again what came without", one, true, []string{"http"}, false, false},
		{"something else", one, true, []string{"wss"}, false, false},
		{"empty", one, true, []string{""}, false, false},
		{"long s", one, false, []string{"http\u017f"}, false, false},
		{"with text behind", one, false, []string{"https;"}, false, false},

		// One proxy, which appends.
		{"the client wrote https", one, false, []string{"https, http"}, false, false},
		{"the client wrote https on its own line", one, false, []string{"https", "http"}, false, false},
		{"the client wrote http", one, false, []string{"http, https"}, true, false},
		{"the client wrote nonsense", one, false, []string{",\x00,https"}, true, false},

		// Two proxies.
		{"the outer one sets, the inner one leaves it", two, false, []string{"https"}, true, true},
		{"both append", two, false, []string{"https, https"}, true, true},
		{"both append, the client wrote http", two, false, []string{"http, https, https"}, true, false},
		{"both append, the client wrote https", two, false, []string{"https, http, http"}, false, false},
		{"TLS between the proxies only", two, false, []string{"http, https"}, false, false},
		{"TLS ends at the outer one, or the client wrote it and only the outer one appends", two, false, []string{"https, http"}, false, false},

		// The number of hops is not known.
		{"the walk broke off", bad, false, []string{"http, https"}, false, false},
		{"the walk broke off, all agree", bad, false, []string{"https, https"}, true, true},
		{"no address", "", false, []string{"http, https"}, false, false},
		{"no address, one value", "", false, []string{"https"}, true, true},
		{"as many values as hops may be", "", false, many(MaxHops), true, true},
		{"one more", "", false, many(MaxHops + 1), false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{"X-Real-Ip": {"192.0.2.1"}, "X-Forwarded-Proto": tt.proto, "Forwarded": {"for=203.0.113.1;proto=https"}}
			if tt.xff != "" {
				h["X-Forwarded-For"] = []string{tt.xff}
			}
			if tt.proto == nil {
				delete(h, "X-Forwarded-Proto")
			}
			r := request(proxy, h)
			if tt.tls {
				r.TLS = new(tls.ConnectionState)
			}
			if got := resolver(t, XForwardedFor).Resolve(r).HTTPS; got != tt.want {
				t.Errorf("with X-Forwarded-For: %v", got)
			}
			if got := resolver(t, XRealIP).Resolve(r).HTTPS; got != tt.xreal {
				t.Errorf("with X-Real-IP: %v", got)
			}
			// From anybody else only this connection counts.
			r.RemoteAddr = "198.51.100.7:1"
			if got := resolver(t, XForwardedFor).Resolve(r).HTTPS; got != tt.tls {
				t.Errorf("from an undeclared peer: %v", got)
			}
		})
	}
	r := request(proxy, http.Header{"Forwarded": {"for=192.0.2.1;proto=http"}})
	r.TLS = new(tls.ConnectionState)
	if got := resolver(t, Forwarded).Resolve(r); got.HTTPS {
		t.Error("Forwarded: the proxy encrypts again what came without")
	}
	r.Header["Forwarded"] = []string{"for=192.0.2.1"}
	if got := resolver(t, Forwarded).Resolve(r); !got.HTTPS {
		t.Error("Forwarded: nothing said, TLS here")
	}
}

func TestNetworks(t *testing.T) {
	for _, tt := range []struct{ addr, network, wider string }{
		{"192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"},
		{"::ffff:192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::/64", "fe80::/48"},
	} {
		if got := Network(addr(tt.addr)).String(); got != tt.network {
			t.Errorf("Network(%s) = %s, want %s", tt.addr, got, tt.network)
		}
		if got := Wider(addr(tt.addr)).String(); got != tt.wider {
			t.Errorf("Wider(%s) = %s, want %s", tt.addr, got, tt.wider)
		}
	}
}

// mistakes returns the values of joined ConfigErrors, and checks that each says
// what is wrong and what to do.
func mistakes(t *testing.T, err error) (keys, values []string) {
	t.Helper()
	if err == nil {
		return nil, nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T is not a joined error: %v", err, err)
	}
	for _, err := range joined.Unwrap() {
		e, ok := errors.AsType[*ConfigError](err)
		if !ok {
			t.Fatalf("%T: %v", err, err)
		}
		if e.Reason == "" || e.Fix == "" || !strings.Contains(e.Error(), e.Reason) || !strings.Contains(e.Error(), e.Fix) {
			t.Errorf("incomplete: %v", e)
		}
		keys, values = append(keys, e.Key), append(values, e.Value)
	}
	return keys, values
}

func TestParseTrusted(t *testing.T) {
	got, err := ParseTrusted([]string{"loopback", "10.0.0.0/8", "192.0.2.1", "2001:db8::1", "2001:db8::/32", "::ffff:192.0.2.7", "private", "fe80::/10", "0.0.0.0/32"})
	want := []string{
		"127.0.0.0/8", "::1/128", "10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128", "2001:db8::/32", "192.0.2.7/32",
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10", "0.0.0.0/32",
	}
	var texts []string
	for _, p := range got {
		texts = append(texts, p.String())
	}
	if err != nil || !slices.Equal(texts, want) {
		t.Errorf("%q, %v; want %q", texts, err, want)
	}
	if _, err := New(Config{Trusted: got}); err != nil {
		t.Errorf("New refuses what ParseTrusted returned: %v", err)
	}
	if got, err := ParseTrusted(nil); got != nil || err != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}

	bad := []string{
		"", " 10.0.0.0/8", "10.0.0.0/8,", "10.0.0.0/33", "10.0.0.0/", "10.1.2.3/8", "0.0.0.0/0", "::/0", "0.0.0.0/1", "10.0.0.0/7",
		"2000::/3", "fc00::/6", "2001::/15", "::ffff:10.0.0.0/104", "fe80::1%eth0", "proxy.example", "*", "Loopback", "10.0.0.1:80", "[::1]",
	}
	got, err = ParseTrusted(append([]string{"192.0.2.1"}, bad...))
	if got != nil {
		t.Errorf("networks beside mistakes: %v", got)
	}
	if keys, values := mistakes(t, err); !slices.Equal(values, bad) || slices.ContainsFunc(keys, func(k string) bool { return k != "Trusted" }) {
		t.Errorf("mistakes %q, want %q", values, bad)
	}
}

func TestNewReportsEveryMistake(t *testing.T) {
	p := netip.MustParsePrefix
	_, err := New(Config{
		Trusted: []netip.Prefix{{}, p("192.0.2.1/24"), p("10.0.0.0/8"), p("0.0.0.0/0"), p("::/0"), p("::ffff:10.0.0.0/104")},
		Header:  "X-Client-IP",
	})
	keys, values := mistakes(t, err)
	if want := []string{"Trusted", "Trusted", "Trusted", "Trusted", "Trusted", "Header"}; !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
	if want := []string{"invalid Prefix", "192.0.2.1/24", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/104", "X-Client-IP"}; !slices.Equal(values, want) {
		t.Errorf("values %q, want %q", values, want)
	}
	for _, h := range []Header{"", XForwardedFor, Forwarded, XRealIP} {
		if _, err := New(Config{Trusted: []netip.Prefix{p("10.0.0.0/8"), p("fc00::/7")}, Header: h}); err != nil {
			t.Errorf("%q: %v", h, err)
		}
	}
}

// What the caller does with the list afterwards changes nothing.
func TestNewCopiesTheList(t *testing.T) {
	list := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}
	res, err := New(Config{Trusted: list})
	if err != nil {
		t.Fatal(err)
	}
	list[0] = netip.MustParsePrefix("198.51.100.0/24")
	for peer, want := range map[string]string{"198.51.100.7:1": "198.51.100.7", "10.0.0.1:1": "192.0.2.1"} {
		if got := res.Addr(request(peer, http.Header{"X-Forwarded-For": {"192.0.2.1"}})); got != addr(want) {
			t.Errorf("from %s: %v, want %s", peer, got, want)
		}
	}
}

func TestHandler(t *testing.T) {
	if _, ok := From(context.Background()); ok {
		t.Error("a client without a Handler")
	}
	type other struct{}
	var got Client
	var ok bool
	h := resolver(t, "").Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, ok = From(r.Context())
		if r.Context().Value(other{}) != "kept" || r.RemoteAddr != proxy || r.Header.Get("X-Forwarded-For") != "192.0.2.1" {
			t.Error("the request was changed")
		}
	}))
	r := httptest.NewRequest("GET", "/", nil).WithContext(context.WithValue(t.Context(), other{}, "kept"))
	r.RemoteAddr = proxy
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if want := (Client{Addr: addr("192.0.2.1")}); !ok || got != want {
		t.Errorf("%+v, %v; want %+v", got, ok, want)
	}
}

// What net/http makes of a connection is what Resolve expects.
func TestOverTheNetwork(t *testing.T) {
	trusted, err := ParseTrusted([]string{"loopback"})
	if err != nil {
		t.Fatal(err)
	}
	res, err := New(Config{Trusted: trusted})
	if err != nil {
		t.Fatal(err)
	}
	var got Client
	srv := httptest.NewServer(res.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, _ = From(r.Context()) })))
	defer srv.Close()
	for _, tt := range []struct {
		headers string
		want    Client
	}{
		{"", Client{Addr: addr("127.0.0.1")}},
		{"x-forwarded-for: 203.0.113.9\r\nX-FORWARDED-FOR: 192.0.2.1\r\nx-forwarded-proto: https\r\n", Client{Addr: addr("192.0.2.1"), HTTPS: true}},
		{"X_Forwarded_For: 192.0.2.1\r\n", Client{Addr: addr("127.0.0.1")}},
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got = Client{}
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + tt.headers + "\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // answered: the handler has returned
			t.Fatal(err)
		}
		conn.Close()
		if got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.headers, got, tt.want)
		}
	}
}

func TestAllocations(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    Header
		r    *http.Request
		most float64
	}{
		{"no proxy", "", request("192.0.2.1:1234", http.Header{"Accept": {"*/*"}}), 0},
		{"no proxy, IPv6", "", request("[2001:db8::1]:1234", http.Header{"Accept": {"*/*"}}), 0},
		{"undeclared", "", request("192.0.2.1:1234", http.Header{"X-Forwarded-For": {"1.2.3.4"}}), 0},
		{"X-Forwarded-For", "", request(proxy, http.Header{"X-Forwarded-For": {"1.2.3.4, [2001:db8::1]:4711, 10.0.0.2"}, "X-Forwarded-Proto": {"https"}}), 0},
		{"unknown", "", request(proxy, http.Header{"X-Forwarded-For": {"unknown"}}), 0},
		{"malformed", "", request(proxy, http.Header{"X-Forwarded-For": {"1.2.3.400"}}), 1},
		{"Forwarded", Forwarded, request(proxy, http.Header{"Forwarded": {`for="[2001:db8::1]:4711";proto=https;host="a.example:1", for=10.0.0.2`}}), 0},
		{"escapes", Forwarded, request(proxy, http.Header{"Forwarded": {`for="[2001:db8::\1]"`}}), 1},
		{"X-Real-IP", XRealIP, request(proxy, http.Header{"X-Real-Ip": {"1.2.3.4"}}), 0},
	} {
		res := resolver(t, tt.h)
		if n := testing.AllocsPerRun(100, func() { res.Resolve(tt.r) }); n > tt.most {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, n, tt.most)
		}
	}
}

// hop is an address that may be a proxy's or a client's.
func hop(t *rapid.T, name string, trusted bool) netip.Addr {
	var b [16]byte
	copy(b[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name))
	if rapid.Bool().Draw(t, name+" is IPv4") {
		if trusted {
			b[0] = 10
		} else {
			b[0] = []byte{8, 100, 192, 198, 203}[b[0]%5] // none of 10/8, multicast or 0/8
		}
		return netip.AddrFrom4([4]byte(b[:]))
	}
	b[0], b[1], b[2], b[3] = 0x20, 0x01, 0x0d, 0xb8
	if trusted {
		b[4], b[5] = 0xff, 0xff
	} else {
		b[4] &= 0x7f
	}
	return netip.AddrFrom16(b)
}

// form writes an address in one of the ways that proxies do.
func form(t *rapid.T, a netip.Addr, h Header) string {
	s := a.String()
	if a.Is4() {
		s = rapid.SampledFrom([]string{s, s + ":4711", netip.AddrFrom16(a.As16()).String()}).Draw(t, "form")
	} else {
		s = rapid.SampledFrom([]string{s, "[" + s + "]", "[" + s + "]:4711", strings.ToUpper(s), a.StringExpanded()}).Draw(t, "form")
	}
	if h == Forwarded {
		s = `for="` + s + `"`
	}
	return s
}

// naughty is text such as an attacker sends, with pieces that mean something.
func naughty() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		piece := rapid.OneOf(
			rapid.SampledFrom([]string{
				",", ", ", `"`, `\`, `\"`, ";", "=", "for=", `for="`, "proto=https", "https", "http", "10.0.0.1", "192.0.2.1", "127.0.0.1", "::1",
				"[::1]:80", "unknown", "_hidden", " ", "\t", "\x00", "%", "[", "]", ":", "10.0.0.1, 10.0.0.2", strings.Repeat(" ", 600), strings.Repeat("10.0.0.9,", 70),
			}),
			rapid.String(),
		)
		return strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "")
	})
}

// H: with any number of proxies that append truthfully, the client is who
// connected to the outermost one, whatever it sent.
func TestTruthfulProxies(t *testing.T) {
	for _, header := range []Header{XForwardedFor, Forwarded} {
		res := resolver(t, header)
		t.Run(string(header), rapid.MakeCheck(func(t *rapid.T) {
			name := string(header)
			h := http.Header{}
			set := func(name string, lines []string) {
				if len(lines) > 0 {
					h[name] = lines
				}
			}
			set(name, rapid.SliceOfN(naughty(), 0, 3).Draw(t, "the client's lines"))
			set("X-Forwarded-Proto", rapid.SliceOfN(naughty(), 0, 3).Draw(t, "the client's schemes"))
			set("X-Real-Ip", rapid.SliceOfN(naughty(), 0, 2).Draw(t, "the client's X-Real-IP"))

			client := hop(t, "client", false)
			https := rapid.Bool().Draw(t, "https")
			scheme := map[bool]string{true: "https", false: "http"}
			from := client
			for i := range rapid.IntRange(1, 20).Draw(t, "proxies") {
				said := scheme[https]
				if i > 0 {
					said = scheme[https && rapid.Bool().Draw(t, "TLS between proxies")]
				}
				element := form(t, from, header)
				if header == Forwarded {
					element += ";proto=" + said
				}
				add := func(name, element string) {
					if lines := h[name]; len(lines) > 0 && rapid.Bool().Draw(t, "same line") {
						lines[len(lines)-1] += ", " + element
						return
					}
					h[name] = append(h[name], element)
				}
				add(name, element)
				if header == XForwardedFor && (i == 0 || rapid.Bool().Draw(t, "appends the scheme")) {
					add("X-Forwarded-Proto", scheme[https]) // proxies within hand on what the outermost saw
				}
				from = hop(t, "proxy", true)
			}
			got := res.Resolve(request(netip.AddrPortFrom(from, 4711).String(), h))
			if got.Addr != client || got.Ignored != "" {
				t.Fatalf("%+v, want %v; header %q", got, client, h)
			}
			// X-Forwarded-Proto may leave doubt, as the client may have written some of
			// the values. Plain HTTP is never taken for HTTPS.
			if got.HTTPS && !https || header == Forwarded && got.HTTPS != https {
				t.Fatalf("HTTPS %v, want %v; header %q", got.HTTPS, https, h)
			}
		}))
	}
}

// simple is the walk as one would write it down without a thought for cost. It
// is for text without quotation marks.
func simple(lines []string, peer netip.Addr, trusts func(netip.Addr) bool, node func(string) (netip.Addr, bool)) netip.Addr {
	client := peer
	elements := strings.Split(strings.Join(lines, ","), ",")
	slices.Reverse(elements)
	for i, e := range elements {
		if len(lines) == 0 || i == MaxHops || len(e) > maxElement {
			break
		}
		a, ok := node(strings.Trim(e, " \t"))
		if !ok {
			break
		}
		client = a
		if !trusts(a) {
			break
		}
	}
	return client
}

func FuzzXForwardedFor(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "192.0.2.1, 10.0.0.2", "a\n10.0.0.1,10.0.0.2", ",,", "[::1]:1,10.0.0.1:1", "::ffff:10.0.0.1", strings.Repeat("10.0.0.1,", 80)} {
		f.Add(s)
	}
	res := resolver(f, XForwardedFor)
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		want := simple(lines, addr("10.0.0.1"), res.trusts, parseNode)
		if got := res.Addr(request(proxy, http.Header{"X-Forwarded-For": lines})); got != want {
			t.Fatalf("%q: %v, want %v", lines, got, want)
		}
		untouched(t, text)
	})
}

func FuzzForwarded(f *testing.F) {
	for _, s := range []string{"", "for=192.0.2.1", `for="[2001:db8::1]:4711";proto=https, for=10.0.0.2`, `for="`, `for="\",for=10.0.0.1`, `for="\\", for="10.0.0.1"`, ";;", "for=_hidden;proto=https"} {
		f.Add(s)
	}
	res := resolver(f, Forwarded)
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		got := res.Resolve(request(proxy, http.Header{"Forwarded": lines}))
		check(t, got)
		if !strings.ContainsAny(text, `"`) {
			node := func(s string) (netip.Addr, bool) {
				n, _, ok := parseElement(s)
				if !ok {
					return netip.Addr{}, false
				}
				return parseNode(n)
			}
			if want := simple(lines, addr("10.0.0.1"), res.trusts, node); got.Addr != want {
				t.Fatalf("%q: %v, want %v", lines, got.Addr, want)
			}
		}
		// What a declared proxy appends is found behind any text, on the same line
		// and on the next.
		const element = `for="[2001:db8::77]:1";by="_\"x,\\";proto=https`
		want := Client{Addr: addr("2001:db8::77"), HTTPS: true}
		for _, lines := range [][]string{append(slices.Clone(lines), element), {text + ", " + element}} {
			if got := res.Resolve(request(proxy, http.Header{"Forwarded": lines})); got != want {
				t.Fatalf("%q: %+v, want %+v", lines, got, want)
			}
		}
		untouched(t, text)
	})
}

func FuzzNode(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "192.0.2.1:1", "::1", "[::1]", "[::1]:1", "[::1]:_x", "fe80::1%a", "::ffff:1.2.3.4", "_hidden", "[::1%]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := parseNode(s)
		if ok {
			check(t, Client{Addr: a})
		}
		// The standard library's reading, where both know the form.
		if std, err := netip.ParseAddrPort(s); err == nil && std.Addr().Zone() == "" && len(s) <= maxNode && !std.Addr().IsUnspecified() && !std.Addr().IsMulticast() {
			std := std.Addr().Unmap()
			if std.IsUnspecified() || std.IsMulticast() {
				return
			}
			// ParseAddrPort takes more than five digits for a port.
			if _, port, _ := net.SplitHostPort(s); len(port) <= 5 && (!ok || a != std) {
				t.Fatalf("%q: %v, %v; netip has %v", s, a, ok, std)
			}
		}
	})
}

// check says what must hold for any address that is returned.
func check(t *testing.T, c Client) {
	t.Helper()
	a := c.Addr
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || !Network(a).Contains(a) || !Wider(a).Contains(a) {
		t.Fatalf("%v is no client's address", a)
	}
}

// H: nothing that comes from somebody else than a declared proxy is believed,
// whatever it says.
func untouched(t *testing.T, text string) {
	t.Helper()
	for _, header := range []Header{XForwardedFor, Forwarded, XRealIP} {
		h := http.Header{}
		for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			h[name] = []string{text}
		}
		got := resolver(t, header).Resolve(request("198.51.100.7:1", h))
		if want := (Client{Addr: addr("198.51.100.7"), Ignored: "X-Forwarded-For"}); got != want {
			t.Fatalf("%s, %q: %+v, want %+v", header, text, got, want)
		}
	}
}
