package policy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// maxCountryFile bounds the file, in bytes: it is held in memory.
const maxCountryFile = 512 << 20

// Countries knows the countries of addresses, from a file in MaxMind's format: the
// member country.iso_code of its records. It is read into memory, so that a file
// that is replaced or cut short under it does no harm.
type Countries struct {
	path string
	db   atomic.Pointer[countries]
}

type countries struct {
	*maxminddb.Reader
	size int64
	at   time.Time
}

// OpenCountries reads the file.
func OpenCountries(path string) (*Countries, error) {
	c := &Countries{path: path}
	_, err := c.Refresh()
	return c, err
}

// Refresh reads the file again if its size or time is another than before. With an
// error the countries stay as they were.
func (c *Countries) Refresh() (changed bool, err error) {
	f, err := os.Open(c.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if now := c.db.Load(); now != nil && now.size == info.Size() && now.at.Equal(info.ModTime()) {
		return false, nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCountryFile+1))
	if err != nil {
		return false, err
	}
	if len(b) > maxCountryFile {
		return false, fmt.Errorf("it is longer than %d bytes", maxCountryFile)
	}
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return false, err
	}
	if err := r.Verify(); err != nil {
		return false, err
	}
	// One record shows whether it is about countries at all.
	if r.Metadata.NodeCount == 0 {
		return false, errors.New("it has no records")
	}
	c.db.Store(&countries{r, info.Size(), info.ModTime()})
	return true, nil
}

// Of returns the country of an address, "" if it is not known.
func (c *Countries) Of(addr netip.Addr) string {
	var code string
	err := c.db.Load().Lookup(addr.Unmap()).DecodePath(&code, "country", "iso_code")
	if err != nil || len(code) != 2 {
		return ""
	}
	return code
}
