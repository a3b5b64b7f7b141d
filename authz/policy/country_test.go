package policy_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/authz/policy"
)

// mmdb writes a file in MaxMind's format (version 2.0) that knows the country of one
// IPv4 network of 8 bits: eight nodes of 24-bit records, a data section, metadata.
func mmdb(network byte, country string) []byte {
	text := func(s string) []byte { return append([]byte{2<<5 | byte(len(s))}, s...) }
	number := func(kind byte, n uint64) []byte { // of up to 8 bytes, of a kind above 7 extended
		b := binary.BigEndian.AppendUint64(nil, n)
		for len(b) > 0 && b[0] == 0 {
			b = b[1:]
		}
		if kind > 7 {
			return append([]byte{byte(len(b)), kind - 7}, b...)
		}
		return append([]byte{kind<<5 | byte(len(b))}, b...)
	}
	object := func(pairs ...[]byte) []byte {
		return append([]byte{7<<5 | byte(len(pairs)/2)}, bytes.Join(pairs, nil)...)
	}
	const nodes = 8
	var tree []byte
	record := func(n uint32) { tree = append(tree, byte(n>>16), byte(n>>8), byte(n)) }
	for i := range uint32(nodes) {
		next := i + 1
		if next == nodes {
			next = nodes + 16 // the first entry of the data section
		}
		for bit := range byte(2) {
			if network>>(7-i)&1 == bit {
				record(next)
			} else {
				record(nodes) // nothing is known
			}
		}
	}
	data := object(text("country"), object(text("iso_code"), text(country)))
	meta := object(
		text("binary_format_major_version"), number(5, 2), text("binary_format_minor_version"), number(5, 0),
		text("build_epoch"), number(9, 1), text("database_type"), text("Country"), text("description"), object(text("en"), text("test")),
		text("ip_version"), number(5, 4), text("languages"), append([]byte{1, 11 - 7}, text("en")...),
		text("node_count"), number(6, nodes), text("record_size"), number(5, 24))
	return bytes.Join([][]byte{tree, make([]byte, 16), data, []byte("\xab\xcd\xefMaxMind.com"), meta}, nil)
}

// Countries come from a file, which may be replaced while it is used. One that is
// damaged is not taken.
func TestCountries(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "country.mmdb")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := policy.OpenCountries(path); err == nil {
		t.Error("no file was opened")
	}
	write(mmdb(203, "DE"))
	c, err := policy.OpenCountries(path)
	if err != nil {
		t.Fatal(err)
	}
	of := func(addr, want string) {
		t.Helper()
		if got := c.Of(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is in %q, want %q", addr, got, want)
		}
	}
	of("203.0.113.9", "DE")
	of("::ffff:203.0.113.9", "DE")
	of("198.51.100.7", "")
	of("2001:db8::1", "") // the file knows none of that version
	if changed, err := c.Refresh(); changed || err != nil {
		t.Errorf("the same file: %v %v", changed, err)
	}
	for _, bad := range [][]byte{nil, []byte("not one"), mmdb(203, "AT")[:60], bytes.Replace(mmdb(203, "AT"), []byte("iso_code"), []byte("\xff\xff\xff\xff\xff\xff\xff\xff"), 1)} {
		write(bad)
		if changed, err := c.Refresh(); changed || err == nil {
			t.Errorf("a damaged file of %d bytes was taken: %v", len(bad), err)
		}
		of("203.0.113.9", "DE")
	}
	write(mmdb(198, "AUT")) // no code of two letters
	if changed, err := c.Refresh(); !changed || err != nil {
		t.Fatalf("%v %v", changed, err)
	}
	of("198.51.100.7", "")
	write(mmdb(198, "AT"))
	if _, err := c.Refresh(); err != nil {
		t.Fatal(err)
	}
	of("198.51.100.7", "AT")
	of("203.0.113.9", "")
}
