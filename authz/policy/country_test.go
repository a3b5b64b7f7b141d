package policy_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/internal/testkit"
)

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
	write(testkit.MMDB(203, "DE"))
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
	for _, bad := range [][]byte{nil, []byte("not one"), testkit.MMDB(203, "AT")[:60], bytes.Replace(testkit.MMDB(203, "AT"), []byte("iso_code"), []byte("\xff\xff\xff\xff\xff\xff\xff\xff"), 1)} {
		write(bad)
		if changed, err := c.Refresh(); changed || err == nil {
			t.Errorf("a damaged file of %d bytes was taken: %v", len(bad), err)
		}
		of("203.0.113.9", "DE")
	}
	write(testkit.MMDB(198, "AUT")) // no code of two letters
	if changed, err := c.Refresh(); !changed || err != nil {
		t.Fatalf("%v %v", changed, err)
	}
	of("198.51.100.7", "")
	write(testkit.MMDB(198, "AT"))
	if _, err := c.Refresh(); err != nil {
		t.Fatal(err)
	}
	of("198.51.100.7", "AT")
	of("203.0.113.9", "")
}
