package db

import "context"

// MigrateTo brings the schema up to a version and no further.
func (d *DB) MigrateTo(ctx context.Context, version int64) error {
	p, err := d.provider()
	if err == nil {
		_, err = p.UpTo(ctx, version)
	}
	return err
}

// AnotherServer makes a cursor one of a server that was started at another time.
func AnotherServer(c *Cursor) { c.server = "1970-01-01 00:00:00+00" }
