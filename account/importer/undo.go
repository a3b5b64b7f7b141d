package importer

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// Kept is an account that an undo left alone.
type Kept struct {
	ID     string `json:"id"`
	Reason string `json:"reason"` // signed in, changed, the last administrator
}

// Undoing is what an undo has done so far.
type Undoing struct {
	ID      string `json:"id"`
	Deleted int64  `json:"deleted"`
	Kept    int64  `json:"kept"`
	Of      int64  `json:"imported"`
}

// Find returns an import, the last one that is not undone if id is "".
func (s *Service) Find(ctx context.Context, id string) (Import, error) {
	m, found, err := readImport(s.DB.View(ctx), id, present)
	if err == nil && !found {
		err = s.notFound(ctx, id, "to undo")
	}
	return m, err
}

// Undo deletes the accounts that an import made and that nobody has used or
// changed since. each is told of those that are kept. It can be stopped and
// called again; an import that is being undone cannot be gone on with.
func (s *Service) Undo(ctx context.Context, m Import, each func(Kept) error, progress func(Undoing)) (Undoing, error) {
	u := Undoing{ID: m.ID, Of: m.Imported}
	// First, so that an import that still runs stops: it could else add accounts
	// behind.
	if err := s.DB.Write(ctx, func(tx *db.Tx) error { return stopImport(tx, m.ID, s.now()) }); err != nil {
		return u, err
	}
	after, last := m.ID, lastID(m.ID)
	for {
		if err := ctx.Err(); err != nil {
			return u, err
		}
		var kept []Kept
		var deleted int64
		var next string
		err := s.DB.Write(ctx, func(tx *db.Tx) error {
			kept, deleted, next = nil, 0, ""
			some, err := readUsed(tx, after, last, m.StartedAt, s.batchSize())
			if err != nil {
				return err
			}
			g, err := role.LoadGraph(tx)
			if err != nil {
				return err
			}
			everybody := g.Resolve([]string{role.User}, nil).Everything() // administers, somebody decided
			for _, a := range some {
				next = a.id
				a.plain = a.plain && !everybody
				why, err := remove(tx, a)
				if err != nil {
					return err
				}
				if why != "" {
					kept = append(kept, Kept{a.id, why})
				} else {
					deleted++
				}
			}
			if next != "" {
				return nil
			}
			if err := setUndone(tx, m.ID, s.now()); err != nil {
				return err
			}
			return audit.Append(ctx, tx, audit.Event{Action: "import.undone", Target: m.ID, Detail: map[string]string{
				"deleted": strconv.FormatInt(u.Deleted, 10), "kept": strconv.FormatInt(u.Kept, 10),
			}})
		})
		if err != nil {
			return u, err
		}
		u.Deleted += deleted
		u.Kept += int64(len(kept))
		for _, k := range kept {
			if err := each(k); err != nil {
				return u, err
			}
		}
		if next == "" {
			return u, nil
		}
		if progress != nil {
			progress(u)
		}
		after = next
	}
}

// remove deletes an account, unless it is used.
func remove(tx *db.Tx, a used) (why string, err error) {
	if a.why != "" {
		return a.why, nil
	}
	if a.plain { // and so nobody whom the service would be left without
		if err := role.Discard(tx, a.id); err != nil {
			return "", err
		}
		return "", tx.Changed(a.id)
	}
	err = role.Delete(tx, a.id)
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Status == http.StatusConflict {
		return "the last administrator", nil
	}
	return "", err
}
