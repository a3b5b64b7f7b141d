package audit

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/page"
)

// Filter says which events are wanted. What is empty does not matter.
type Filter struct {
	Action, Actor, Target string
	Result                Result
	Address               string
	RequestID, DecisionID string
	Since, Until          time.Time // from Since on, and before Until
}

// Check returns the mistakes in a filter that was typed, and puts an address into the
// form in which it is stored.
func (f *Filter) Check() error {
	var wrong []sallyport.Field
	switch f.Result {
	case "", Success, Failure, Denied:
	default:
		wrong = append(wrong, sallyport.Field{Pointer: "?result", Code: "invalid_choice", Detail: "Write success, failure or denied."})
	}
	if f.Address != "" {
		a, err := netip.ParseAddr(f.Address)
		if err != nil {
			wrong = append(wrong, sallyport.Field{Pointer: "?address", Code: "invalid_format", Detail: "Write one IP address, for example 192.0.2.7 or 2001:db8::7."})
		} else {
			f.Address = a.Unmap().WithZone("").String()
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		wrong = append(wrong, sallyport.Field{Pointer: "?until", Code: "out_of_range", Detail: "“until” must be later than “since”."})
	}
	if wrong != nil {
		return sallyport.Invalid(wrong...)
	}
	return nil
}

// position is where a page begins.
type position struct {
	At int64  `json:"a"`
	ID string `json:"i"`
}

func (f Filter) bounds() (since, until int64) {
	since, until = math.MinInt64, math.MaxInt64
	if !f.Since.IsZero() {
		since = db.Micros(f.Since)
	}
	if !f.Until.IsZero() {
		until = db.Micros(f.Until)
	}
	return since, until
}

// Log answers questions about what was recorded.
type Log struct {
	DB        *db.DB
	CursorKey []byte
}

// List returns a page of events, newest first, and the cursor of the next page, ""
// after the last.
func (l Log) List(ctx context.Context, f Filter, cursor string, limit int) ([]Record, string, error) {
	since, until := f.bounds()
	name := fmt.Sprintf("audit %q %q %q %q %q %q %q %d %d", f.Action, f.Actor, f.Target, f.Result, f.Address, f.RequestID, f.DecisionID, since, until)
	from := position{At: until}
	if cursor != "" {
		if err := page.Decode(l.CursorKey, name, cursor, &from); err != nil {
			return nil, "", err
		}
	}
	var out []Record
	err := list(l.DB.View(ctx), f, from, since, limit+1, &out)
	if err != nil || len(out) <= limit {
		return out, "", err
	}
	out = out[:limit]
	last := out[limit-1]
	return out, page.Encode(l.CursorKey, name, position{db.Micros(last.At), last.ID}), nil
}

// Each calls each for every event, oldest first.
func (l Log) Each(ctx context.Context, f Filter, each func(Record) error) error {
	const size = 1000
	since, until := f.bounds()
	from := position{At: since}
	for {
		var out []Record
		if err := listUp(l.DB.View(ctx), f, from, until, size, &out); err != nil {
			return err
		}
		for _, r := range out {
			if err := each(r); err != nil {
				return err
			}
		}
		if len(out) < size {
			return nil
		}
		from = position{db.Micros(out[size-1].At), out[size-1].ID}
	}
}
