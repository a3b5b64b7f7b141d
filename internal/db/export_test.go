package db

// AnotherServer makes a cursor one of a server that was started at another time.
func AnotherServer(c *Cursor) { c.server = "1970-01-01 00:00:00+00" }
