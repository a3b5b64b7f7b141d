package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Mover moves everything that one database holds to another of the other kind.
//
// It marks the source first, and from then on nothing serves it, so that what was
// copied before an interruption is still what there is. Rows go over in the order
// of their keys, in transactions: how far it is stands in the target itself, and
// Run begins where the one before was ended. At the end every table is read once
// more on both sides.
type Mover struct {
	From, To *DB // both for this process alone
	Now      func() time.Time
	// Progress, if not nil, is told how many rows have been gone through of all.
	Progress func(what string, done, all int64)
	// Record adds to the target's audit log, in the transaction that ends the move.
	Record func(tx *Tx, sums []Sum) error
}

// batchRows is how many rows are written in one statement and transaction.
const batchRows = 256

type mark struct{ id, side, other, state string }

// Served returns an *OpenError if the database was moved away, or has not yet
// arrived as a whole: of two databases that both let people in, neither would know
// who was shut out by the other.
func (d *DB) Served(ctx context.Context) error {
	marks, err := marksOf(d.View(ctx))
	if err != nil {
		return err
	}
	for _, m := range marks {
		switch {
		case m.side == "to" && m.state == "running":
			return &OpenError{What: d.name, Why: "it is the target of a move that is not finished", Fix: "Go on with “sallyport migrate move” from " + m.other + "."}
		case m.side == "from" && m.state == "running":
			return &OpenError{What: d.name, Why: "it is being moved to " + m.other, Fix: "Go on with “sallyport migrate move”, or give it up with “sallyport migrate move --undo”."}
		case m.side == "from":
			return &OpenError{What: d.name, Why: "it was moved to " + m.other, Fix: "Use that one. To serve this one again, as it was then: “sallyport migrate move --undo”."}
		}
	}
	return nil
}

func marksOf(rd Reader) (out []mark, err error) {
	err = rd.Rows("SELECT id, side, other, state FROM sp_moves ORDER BY started_at, id, side", nil, func(scan Scan) error {
		var m mark
		err := scan(&m.id, &m.side, &m.other, &m.state)
		out = append(out, m)
		return err
	})
	return out, err
}

func putMark(tx *Tx, m mark, now time.Time) error {
	_, err := tx.Exec(`INSERT INTO sp_moves (id, side, other, state, started_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)
		ON CONFLICT (id, side) DO UPDATE SET state = excluded.state, other = excluded.other, updated_at = excluded.updated_at`, m.id, m.side, m.other, m.state, Micros(now))
	return err
}

// UndoMove lets a database be served again that was being moved away, or was, and
// reports whether there was anything to undo. The target is left as it is.
func (d *DB) UndoMove(ctx context.Context) (undone bool, err error) {
	err = d.Write(ctx, func(tx *Tx) error {
		n, err := tx.Exec("DELETE FROM sp_moves WHERE side = 'from'")
		undone = n > 0
		return err
	})
	return undone, err
}

// Plan checks both sides and counts what there is to move. It changes nothing.
func (m *Mover) Plan(ctx context.Context) ([]Sum, error) {
	tables, _, err := m.check(ctx)
	if err != nil {
		return nil, err
	}
	var out []Sum
	for _, t := range tables {
		n, err := m.From.Count(ctx, t)
		if err != nil {
			return nil, err
		}
		out = append(out, Sum{Table: t.Name, Rows: n})
	}
	return out, nil
}

// check returns the tables of the source, and the move that is under way; a new id
// if there is none.
func (m *Mover) check(ctx context.Context) (tables []Table, id string, err error) {
	if m.From.dialect == m.To.dialect {
		return nil, "", &OpenError{What: m.To.name, Why: "it is of the same kind as the source", Fix: "Move from SQLite to PostgreSQL or back. For a copy of the same kind: backup and restore, or pg_dump."}
	}
	schema, err := m.From.Schema(ctx)
	if err != nil {
		return nil, "", err
	}
	if schema.Current != schema.Latest {
		return nil, "", &OpenError{What: m.From.name, Why: fmt.Sprintf("its schema is version %d, and this program's is %d", schema.Current, schema.Latest), Fix: "Bring it up to date with “sallyport migrate up”, or use the release that it is of."}
	}
	if tables, err = m.From.Tables(ctx); err != nil {
		return nil, "", err
	}
	id = uuid.Must(uuid.NewV7()).String()
	marks, err := marksOf(m.From.View(ctx))
	if err != nil {
		return nil, "", err
	}
	for _, at := range marks {
		switch {
		case at.side == "to" && at.state == "running":
			return nil, "", &OpenError{What: m.From.name, Why: "it is itself the target of a move that is not finished", Fix: "Finish that one first."}
		case at.side == "from" && at.state == "done":
			switch arrived, err := m.arrived(ctx, at.id); {
			case err != nil:
				return nil, "", err
			case arrived:
				return nil, "", ErrMoved
			}
			return nil, "", &OpenError{What: m.From.name, Why: "it was moved to " + at.other + " already", Fix: "To move it once more: “sallyport migrate move --undo” first."}
		case at.side == "from":
			id = at.id
		}
	}
	if schema, err = m.To.Schema(ctx); err != nil || schema.Current == 0 {
		return tables, id, err
	}
	return tables, id, m.checkTarget(ctx, tables, id, schema)
}

// arrived reports whether the target is where a move has ended.
func (m *Mover) arrived(ctx context.Context, id string) (bool, error) {
	if schema, err := m.To.Schema(ctx); err != nil || schema.Current == 0 {
		return false, err
	}
	marks, err := marksOf(m.To.View(ctx))
	return slices.Contains(marks, mark{id, "to", m.From.name, "done"}), err
}

// checkTarget refuses a target that holds anything but a part of this move, and
// what migrations put there; they may have been interrupted too.
func (m *Mover) checkTarget(ctx context.Context, tables []Table, id string, schema Schema) error {
	if schema.TooNew() {
		return schema.Newer(m.To.name)
	}
	there, err := m.To.Tables(ctx)
	if err != nil {
		return err
	}
	if schema.Current == schema.Latest {
		if !slices.EqualFunc(tables, there, Table.equal) {
			return &OpenError{What: m.To.name, Why: "its tables are not those of the source", Fix: "Give an empty database."}
		}
		marks, err := marksOf(m.To.View(ctx))
		if err != nil {
			return err
		}
		for _, at := range marks {
			if at.id == id && at.side == "to" {
				return nil
			}
			if at.side == "to" && at.state == "running" {
				return &OpenError{What: m.To.name, Why: "it holds a part of another move, from " + at.other, Fix: "Finish that one, or give an empty database."}
			}
		}
	}
	for _, t := range there {
		// A server makes its keys before anything else.
		if !slices.Contains([]string{"sp_secrets", "sp_subjects", "sp_audit"}, t.Name) {
			continue
		}
		if n, err := m.To.Count(ctx, t); err != nil {
			return err
		} else if n > 0 {
			return &OpenError{What: m.To.name, Why: "it is in use already, or was", Fix: "Give an empty database; nothing is merged or replaced."}
		}
	}
	return nil
}

// ErrMoved is the answer of Plan and Run when the source was moved to this very
// target before: a run that was killed at its very end did not live to say so.
var ErrMoved = errors.New("everything was moved there already")

// Run moves, or goes on moving. Interrupted, it returns ctx's error.
func (m *Mover) Run(ctx context.Context) (sums []Sum, err error) {
	tables, id, err := m.check(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := m.To.Migrate(ctx); err != nil {
		return nil, err
	}
	schema, err := m.To.Schema(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.checkTarget(ctx, tables, id, schema); err != nil { // now that it has all tables
		return nil, err
	}
	from := mark{id, "from", m.To.name, "running"}
	if err := m.From.Write(ctx, func(tx *Tx) error { return putMark(tx, from, m.Now()) }); err != nil {
		return nil, err
	}
	arrived, err := m.begin(ctx, tables, id)
	if err != nil {
		return nil, err
	}
	if !arrived {
		if err := m.copyAll(ctx, tables); err != nil {
			return nil, err
		}
		if sums, err = m.compare(ctx, tables); err != nil {
			return nil, err
		}
		if err := m.arrive(ctx, id, sums); err != nil {
			return nil, err
		}
	}
	from.state = "done"
	return sums, m.From.Write(ctx, func(tx *Tx) error { return putMark(tx, from, m.Now()) })
}

// begin marks the target, and takes out what migrations put there. It reports
// whether everything has arrived already.
func (m *Mover) begin(ctx context.Context, tables []Table, id string) (arrived bool, err error) {
	err = m.To.Write(ctx, func(tx *Tx) error {
		arrived = false
		marks, err := marksOf(tx)
		if err != nil {
			return err
		}
		for _, at := range marks {
			if at.id == id && at.side == "to" {
				arrived = at.state == "done"
				return nil
			}
		}
		for i := range tables {
			t := tables[len(tables)-1-i]
			if err := tx.Later(query("DELETE FROM " + t.Name)); err != nil {
				return err
			}
		}
		return putMark(tx, mark{id, "to", m.From.name, "running"}, m.Now())
	})
	return arrived, err
}

func (m *Mover) copyAll(ctx context.Context, tables []Table) error {
	var done, all int64
	for _, t := range tables {
		n, err := m.From.Count(ctx, t)
		if err != nil {
			return err
		}
		all += n
		if n, err = m.To.Count(ctx, t); err != nil {
			return err
		}
		done += n
	}
	for _, t := range tables {
		if err := m.copy(ctx, t, func(n int) { done += int64(n); m.progress(t.Name, done, all) }); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return nil
}

func (m *Mover) progress(what string, done, all int64) {
	if m.Progress != nil {
		m.Progress(what, done, all)
	}
}

// copy moves the rows of a table that are not there yet.
func (m *Mover) copy(ctx context.Context, t Table, each func(n int)) error {
	after, err := m.To.last(ctx, t)
	if err != nil {
		return err
	}
	batch := make([]row, 0, batchRows)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := m.To.Write(ctx, func(tx *Tx) error {
			if len(batch) == batchRows {
				return t.insert(tx, batch)
			}
			for _, r := range batch { // so that a table takes two statements, not as many as there are lengths
				if err := t.insert(tx, []row{r}); err != nil {
					return err
				}
			}
			return nil
		})
		each(len(batch))
		batch = batch[:0]
		return err
	}
	if err := m.From.read(ctx, t, after, func(r row) error {
		if batch = append(batch, r); len(batch) < batchRows {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	return flush()
}

// compare reads every table on both sides.
func (m *Mover) compare(ctx context.Context, tables []Table) (sums []Sum, err error) {
	var done, all int64
	for _, t := range tables {
		n, err := m.From.Count(ctx, t)
		if err != nil {
			return nil, err
		}
		all += 2 * n
	}
	each := func() { done++; m.progress("comparing", done, all) }
	for _, t := range tables {
		from, err := m.From.sum(ctx, t, each)
		if err != nil {
			return nil, err
		}
		to, err := m.To.sum(ctx, t, each)
		if err != nil {
			return nil, err
		}
		if from != to {
			return nil, fmt.Errorf("%s: the two sides differ after the move (%d rows with SHA-256 %s, and %d with %s): empty the target, and begin again", t.Name, from.Rows, from.SHA256, to.Rows, to.SHA256)
		}
		sums = append(sums, from)
	}
	return sums, nil
}

// arrive lets the target be served. Its feed of changes is another one: who has
// heard the other's must not go on from there.
func (m *Mover) arrive(ctx context.Context, id string, sums []Sum) error {
	feed := uuid.Must(uuid.NewV7()).String()
	return m.To.Write(ctx, func(tx *Tx) error {
		if err := setFeed(tx, feed); err != nil {
			return err
		}
		if m.Record != nil {
			if err := m.Record(tx, sums); err != nil {
				return err
			}
		}
		return putMark(tx, mark{id, "to", m.From.name, "done"}, m.Now())
	})
}
