//go:build !unix

package sqlite

// ownLike does nothing where files have no such owners.
func ownLike(_, _ string) error { return nil }
