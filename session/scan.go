package session

import (
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// micros scans a stored time; 0 is the zero time.
type micros time.Time

// Scan implements sql.Scanner.
func (m *micros) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", v)
	}
	*m = micros{}
	if n != 0 {
		*m = micros(db.Time(n))
	}
	return nil
}

// stored is a time as micros scans it.
func stored(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return db.Micros(t)
}

// words scans a space-separated list.
type words []string

// Scan implements sql.Scanner.
func (w *words) Scan(v any) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("a list is stored as %T", v)
	}
	*w = strings.Fields(s)
	return nil
}
