package audit

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

// After returns the events of the seal behind a number, and its own number; the same
// number and nothing while there is none.
func (c *Chain) After(ctx context.Context, number int64) (int64, []Record, error) {
	v := c.db.View(ctx)
	some, err := seals(v, number, 1)
	if err != nil || len(some) == 0 {
		return number, nil, err
	}
	events, err := listed(v, some[0])
	return some[0].number, events, err
}

// CSVHeader names the columns of Record.CSV.
func CSVHeader() []string {
	return strings.Split(columns, ", ")
}

// CSV returns an event as cells that no spreadsheet takes for a formula.
func (r Record) CSV() []string {
	detail, err := json.Marshal(r.Detail)
	if err != nil {
		panic(err) // strings always marshal
	}
	if len(r.Detail) == 0 {
		detail = nil
	}
	cells := []string{
		r.ID, r.At.UTC().Format(time.RFC3339Nano), r.Action, string(r.Result), r.Actor, r.ActorKind, r.Target,
		r.Reason, r.Session, r.Address, r.UserAgent, r.RequestID, r.DecisionID, string(detail),
	}
	for i, s := range cells {
		cells[i] = cell(s)
	}
	return cells
}

// cell makes a text harmless: spreadsheets calculate what begins like a formula, and
// some strip what comes before (OWASP, CSV injection). Where a cell ends depends on
// the reader's country: behind ; and | another may begin. What cannot be printed is
// escaped, line breaks too.
func cell(s string) string {
	var out strings.Builder
	begins := true
	for i, r := range s {
		switch {
		case begins && strings.ContainsRune("=+-@＝＋－＠", r), i == 0 && strings.ContainsRune("\t\r\n", r):
			out.WriteString("'")
			begins = false
		case strings.ContainsRune(";|\t", r):
			begins = true
		case r != ' ' && r != '"':
			begins = false
		}
		out.WriteRune(r)
	}
	return Printable(out.String())
}
