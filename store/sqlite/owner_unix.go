//go:build unix

package sqlite

import (
	"os"
	"syscall"
)

// ownLike gives a file the owner that another has, if root made it: the server,
// which is not root, has to open it.
func ownLike(path, other string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	st, err := os.Stat(other)
	if err != nil {
		return err
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok || s.Uid == 0 && s.Gid == 0 {
		return nil
	}
	return os.Chown(path, int(s.Uid), int(s.Gid))
}
