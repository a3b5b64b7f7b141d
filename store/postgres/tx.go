package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sallyport/sallyport/internal/db"
)

// transaction is a db.Remote. What waits in next (begin, and what was put off) goes to
// the server with the statement that comes, in one message.
type transaction struct {
	conn *pgx.Conn
	next *pgx.Batch // nil: nothing waits
	sent bool       // something has gone to the server
}

func begin(conn any, level sql.IsolationLevel) db.Remote {
	t := &transaction{conn: conn.(*stdlib.Conn).Conn(), next: &pgx.Batch{}}
	switch level {
	case sql.LevelSerializable:
		t.next.Queue("begin isolation level serializable")
	case sql.LevelReadCommitted:
		t.next.Queue("begin isolation level read committed")
	default:
		panic(fmt.Sprintf("no transaction of ours is %v", level))
	}
	return t
}

// Later implements db.Remote.
func (t *transaction) Later(statement string, args []any) {
	if t.next == nil {
		t.next = &pgx.Batch{}
	}
	t.next.Queue(statement, args...)
}

// Exec implements db.Remote.
func (t *transaction) Exec(ctx context.Context, statement string, args []any) (int64, error) {
	tag, err := t.exec(ctx, statement, args)
	return tag.RowsAffected(), err
}

func (t *transaction) exec(ctx context.Context, statement string, args []any) (pgconn.CommandTag, error) {
	if t.next == nil {
		return t.conn.Exec(ctx, statement, args...)
	}
	results, err := t.send(ctx, statement, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	if closing := results.Close(); err == nil {
		err = closing
	}
	return tag, err
}

// Query implements db.Remote.
func (t *transaction) Query(ctx context.Context, statement string, args []any) (db.Rows, error) {
	if t.next == nil {
		found, err := t.conn.Query(ctx, statement, args...)
		return rows{found, nil}, err
	}
	results, err := t.send(ctx, statement, args)
	if err != nil {
		return nil, err
	}
	found, _ := results.Query() // found has the error, too
	return rows{found, results}, nil
}

// send sends what waits and a statement after it, whose result comes next.
func (t *transaction) send(ctx context.Context, statement string, args []any) (pgx.BatchResults, error) {
	batch, waited := t.next, t.next.Len()
	batch.Queue(statement, args...)
	t.next, t.sent = nil, true
	results := t.conn.SendBatch(ctx, batch)
	for range waited {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // says the same
			return nil, err
		}
	}
	return results, nil
}

// Commit implements db.Remote. Where nothing was asked of the server, nothing is.
func (t *transaction) Commit(ctx context.Context) error {
	if !t.sent && t.next.Len() == 1 {
		return nil
	}
	tag, err := t.exec(ctx, "commit", nil)
	if err == nil && tag.String() != "COMMIT" {
		err = pgx.ErrTxCommitRollback
	}
	return err
}

// Rollback implements db.Remote.
func (t *transaction) Rollback(ctx context.Context) error {
	if t.conn.PgConn().IsBusy() {
		return errUnread // and what it says of the transaction is from before
	}
	if t.conn.IsClosed() || t.conn.PgConn().TxStatus() == 'I' {
		return nil // it is over, or never began
	}
	_, err := t.conn.Exec(ctx, "rollback")
	return err
}

var errUnread = errors.New("the answer to a statement was not read")

// rows is a db.Rows.
type rows struct {
	pgx.Rows
	results pgx.BatchResults // nil: it was sent alone
}

// Close implements db.Rows.
func (r rows) Close() error {
	r.Rows.Close()
	if r.results == nil {
		return nil
	}
	return r.results.Close()
}
