package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
)

// fileSink appends lines of JSON to a file. When the file is another than it was (it
// was renamed, as logrotate does, or deleted), a new one is made, with mode 0600. It
// is a regular file: behind a link would be a file of somebody else's choice, and
// behind a pipe nobody who keeps anything.
type fileSink struct {
	path string
	log  *slog.Logger
	f    *os.File
}

func (s *fileSink) deliver(_ context.Context, b batch) error {
	if err := s.open(); err != nil {
		return err
	}
	before, err := s.f.Stat()
	if err != nil {
		return err
	}
	if _, err = s.f.Write(b.lines()); err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		// A disk that is full takes a part. It would be there twice, the first time
		// without its end.
		err = errors.Join(err, s.f.Truncate(before.Size()))
	}
	return err
}

func (s *fileSink) open() error {
	if s.f != nil {
		held, err := s.f.Stat()
		if err != nil {
			return err
		}
		if there, err := os.Lstat(s.path); err == nil && os.SameFile(held, there) {
			return nil
		}
		s.close()
	}
	f, err := os.OpenFile(s.path, os.O_APPEND|os.O_CREATE|os.O_RDWR|fileFlags, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("%s is a symbolic link, and events go into a file only: name the file itself", s.path)
	}
	if err != nil {
		return err
	}
	if err := s.prepare(f); err != nil {
		return errors.Join(err, f.Close())
	}
	s.f = f
	return nil
}

// prepare looks at a file that was opened, and ends a line that a crash has left
// without its end: what comes next is a line of its own, and the events of the torn
// one come again.
func (s *fileSink) prepare(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file, and events go into a file only", s.path)
	}
	if st.Mode().Perm()&0o077 != 0 {
		s.log.Warn("others can read or write the file of the audit log: chmod 600", "file", s.path, "mode", st.Mode().Perm().String())
	}
	if st.Size() == 0 {
		return nil
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, st.Size()-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err = f.WriteString("\n")
	return err
}

func (s *fileSink) close() {
	if s.f != nil {
		_ = s.f.Close() // it was synced
		s.f = nil
	}
}
