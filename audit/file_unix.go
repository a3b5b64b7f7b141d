//go:build unix

package audit

import "syscall"

// fileFlags refuse a link in the file's place, and do not wait for the reader of a
// pipe.
const fileFlags = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
