package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// This file builds SQL, as no other does: it treats every table alike, also those
// that are not made yet. The text comes from names that the schema itself gives,
// and those must look like ours.

// Table is a table as the schema has it.
type Table struct {
	Name    string
	columns []column // by name
	key     []string // the primary key's columns, in its order
	refers  []string // tables that foreign keys lead to
}

type column struct {
	name string
	kind kind
}

type kind string

// The types that both databases have, by the name that migrations use.
const (
	text    kind = "TEXT"
	bigint  kind = "BIGINT"
	boolean kind = "BOOLEAN"
	bytea   kind = "BYTEA"
)

// own are tables that say something of the database they are in and of no other:
// they are not moved, and their columns may differ.
var own = []string{"sp_migrations", "sp_changes", "sp_moves", "sp_compatible", "sp_cleanup"}

// Tables returns the tables that hold what is kept, each after those that its
// foreign keys lead to.
func (d *DB) Tables(ctx context.Context) ([]Table, error) {
	found := map[string]*Table{}
	var columns, keys, refers query
	if d.dialect == SQLite {
		columns = `SELECT t.name, c.name, c.type FROM sqlite_schema t JOIN pragma_table_info(t.name) c
			WHERE t.type = 'table' AND substr(t.name, 1, 3) = 'sp_' ORDER BY t.name, c.name`
		keys = `SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
			WHERE t.type = 'table' AND substr(t.name, 1, 3) = 'sp_' AND c.pk > 0 ORDER BY t.name, c.pk`
		refers = `SELECT DISTINCT t.name, f."table" FROM sqlite_schema t JOIN pragma_foreign_key_list(t.name) f
			WHERE t.type = 'table' AND substr(t.name, 1, 3) = 'sp_' ORDER BY 1, 2`
	} else {
		columns = `SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns
			WHERE table_schema = current_schema() AND left(table_name, 3) = 'sp_' ORDER BY table_name::text COLLATE "C", column_name::text COLLATE "C"`
		keys = `SELECT t.relname::text, a.attname::text FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
			CROSS JOIN unnest(i.indkey) WITH ORDINALITY k (attnum, nth)
			JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
			WHERE i.indisprimary AND t.relnamespace = current_schema()::regnamespace AND left(t.relname, 3) = 'sp_' ORDER BY t.relname, k.nth`
		refers = `SELECT DISTINCT t.relname::text, f.relname::text FROM pg_constraint c
			JOIN pg_class t ON t.oid = c.conrelid JOIN pg_class f ON f.oid = c.confrelid
			WHERE c.contype = 'f' AND t.relnamespace = current_schema()::regnamespace AND left(t.relname, 3) = 'sp_' ORDER BY 1, 2`
	}
	v := d.View(ctx)
	err := v.Rows(columns, nil, func(scan Scan) error {
		var table, name, typ string
		if err := scan(&table, &name, &typ); err != nil || slices.Contains(own, table) {
			return err
		}
		k := kind(strings.ToUpper(typ))
		if !named(table) || !named(name) || !slices.Contains([]kind{text, bigint, boolean, bytea}, k) {
			return fmt.Errorf("the column %q of %q has the type %q, which cannot be moved", name, table, typ)
		}
		if found[table] == nil {
			found[table] = &Table{Name: table}
		}
		found[table].columns = append(found[table].columns, column{name, k})
		return nil
	})
	add := func(to func(*Table) *[]string) func(Scan) error {
		return func(scan Scan) error {
			var table, name string
			if err := scan(&table, &name); err != nil || found[table] == nil {
				return err
			}
			at := to(found[table])
			*at = append(*at, name)
			return nil
		}
	}
	if err == nil {
		err = v.Rows(keys, nil, add(func(t *Table) *[]string { return &t.key }))
	}
	if err == nil {
		err = v.Rows(refers, nil, add(func(t *Table) *[]string { return &t.refers }))
	}
	if err != nil {
		return nil, err
	}
	return ordered(found)
}

// named reports whether a name can stand in SQL as it is.
func named(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// ordered puts tables after those that they refer to, and otherwise by name.
func ordered(found map[string]*Table) ([]Table, error) {
	var out []Table
	done := map[string]bool{}
	for len(out) < len(found) {
		var ready []string
		for name, t := range found {
			waits := slices.ContainsFunc(t.refers, func(r string) bool { return found[r] != nil && !done[r] })
			if !done[name] && !waits {
				ready = append(ready, name)
			}
		}
		if len(ready) == 0 {
			return nil, errors.New("the foreign keys of the tables lead in a circle")
		}
		slices.Sort(ready)
		for _, name := range ready {
			if len(found[name].key) == 0 {
				return nil, fmt.Errorf("the table %s has no primary key", name)
			}
			done[name] = true
			out = append(out, *found[name])
		}
	}
	return out, nil
}

func (t Table) equal(u Table) bool {
	return t.Name == u.Name && slices.Equal(t.columns, u.columns) && slices.Equal(t.key, u.key)
}

func (t Table) names() string {
	var b []string
	for _, c := range t.columns {
		b = append(b, c.name)
	}
	return strings.Join(b, ", ")
}

// order names the key's columns so that both databases put texts in the order of
// their bytes.
func (t Table) order(d Dialect) string {
	var b []string
	for _, name := range t.key {
		i := slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
		if d == Postgres && t.columns[i].kind == text {
			name += ` COLLATE "C"`
		}
		b = append(b, name)
	}
	return strings.Join(b, ", ")
}

// row has a value for each column: nil, string, int64, bool or []byte.
type row []any

// read returns the rows of a table in the order of their keys, from the one after
// a key on; nil is the beginning. However many there are, it keeps one.
func (d *DB) read(ctx context.Context, t Table, after []any, each func(row) error) error {
	q := "SELECT " + t.names() + " FROM " + t.Name
	if after != nil {
		q += " WHERE (" + t.order(d.dialect) + ") > (" + placeholders(1, len(after)) + ")"
	}
	q += " ORDER BY " + t.order(d.dialect)
	conn, err := d.readers.Conn(ctx)
	if err != nil {
		return wrap("connect", err)
	}
	defer conn.Close()
	if d.dialect == Postgres { // a whole table takes as long as it takes
		if _, err := conn.ExecContext(ctx, "SET statement_timeout = 0"); err != nil {
			return wrap("read", err)
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), "RESET statement_timeout")
	}
	rows, err := conn.QueryContext(ctx, q, after...)
	if err != nil {
		return wrap("read", err)
	}
	return all(rows, func(scan Scan) error {
		r, err := t.scan(scan)
		if err != nil {
			return err
		}
		return each(r)
	}, func(err error) error { return wrap("read", err) })
}

func (t Table) scan(scan Scan) (row, error) {
	dst := make([]any, len(t.columns))
	for i, c := range t.columns {
		switch c.kind {
		case text:
			dst[i] = new(sql.Null[string])
		case bigint:
			dst[i] = new(sql.Null[int64])
		case boolean:
			dst[i] = new(sql.Null[bool])
		case bytea:
			dst[i] = new(sql.Null[[]byte])
		}
	}
	if err := scan(dst...); err != nil {
		return nil, err
	}
	r := make(row, len(dst))
	for i := range dst {
		switch v := dst[i].(type) {
		case *sql.Null[string]:
			if v.Valid {
				r[i] = v.V
			}
		case *sql.Null[int64]:
			if v.Valid {
				r[i] = v.V
			}
		case *sql.Null[bool]:
			if v.Valid {
				r[i] = v.V
			}
		case *sql.Null[[]byte]:
			if v.Valid {
				r[i] = append([]byte{}, v.V...) // one without bytes is not NULL
			}
		}
	}
	return r, nil
}

// keyOf returns the values of the key.
func (t Table) keyOf(r row) []any {
	var out []any
	for _, name := range t.key {
		out = append(out, r[slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })])
	}
	return out
}

// last returns the greatest key of a table; nil if it is empty.
func (d *DB) last(ctx context.Context, t Table) (key []any, err error) {
	order := strings.ReplaceAll(t.order(d.dialect)+",", ",", " DESC,")
	q := "SELECT " + t.names() + " FROM " + t.Name + " ORDER BY " + strings.TrimSuffix(order, ",") + " LIMIT 1"
	err = d.View(ctx).Rows(query(q), nil, func(scan Scan) error {
		r, err := t.scan(scan)
		if err == nil {
			key = t.keyOf(r)
		}
		return err
	})
	return key, err
}

// insert adds rows in one statement.
func (t Table) insert(tx *Tx, rows []row) error {
	var groups []string
	var args []any
	for _, r := range rows {
		groups = append(groups, "("+placeholders(len(args)+1, len(r))+")")
		args = append(args, r...)
	}
	_, err := tx.Exec(query("INSERT INTO "+t.Name+" ("+t.names()+") VALUES "+strings.Join(groups, ", ")), args...)
	return err
}

func placeholders(from, n int) string {
	var b []string
	for i := range n {
		b = append(b, fmt.Sprintf("$%d", from+i))
	}
	return strings.Join(b, ", ")
}

// Count returns how many rows a table has.
func (d *DB) Count(ctx context.Context, t Table) (n int64, err error) {
	_, err = d.View(ctx).Row(query("SELECT COUNT(*) FROM "+t.Name), nil, &n)
	return n, err
}

// Sum says what a table holds, so that two databases can be compared.
type Sum struct {
	Table  string `json:"table"`
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"` // of all rows in the order of their keys
}

// sum reads a whole table.
func (d *DB) sum(ctx context.Context, t Table, each func()) (Sum, error) {
	s := Sum{Table: t.Name}
	h := sha256.New()
	err := d.read(ctx, t, nil, func(r row) error {
		s.Rows++
		r.digest(h)
		each()
		return nil
	})
	s.SHA256 = fmt.Sprintf("%x", h.Sum(nil))
	return s, err
}

// digest writes a row so that no two different ones are written alike.
func (r row) digest(h hash.Hash) {
	field := func(kind byte, b []byte) {
		h.Write(binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(b))))
		h.Write(b)
	}
	for _, v := range r {
		switch v := v.(type) {
		case nil:
			field('0', nil)
		case string:
			field('t', []byte(v))
		case []byte:
			field('b', v)
		case int64:
			field('i', binary.BigEndian.AppendUint64(nil, uint64(v)))
		case bool:
			b := []byte{0}
			if v {
				b[0] = 1
			}
			field('f', b)
		}
	}
}
