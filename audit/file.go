package audit

import (
	"context"
	"errors"
	"os"
)

// fileSink appends lines of JSON to a file. When the file is another than it was (it
// was renamed, as logrotate does, or deleted), a new one is made, with mode 0600.
type fileSink struct {
	path string
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
	if err != nil && before.Mode().IsRegular() {
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
		if there, err := os.Stat(s.path); err == nil && os.SameFile(held, there) {
			return nil
		}
		s.close()
	}
	f, err := os.OpenFile(s.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.f = f
	return nil
}

func (s *fileSink) close() {
	if s.f != nil {
		_ = s.f.Close() // it was synced
		s.f = nil
	}
}
