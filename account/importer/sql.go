package importer

import (
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

func insertImport(tx *db.Tx, m Import) error {
	options, err := json.Marshal(m.options)
	if err != nil {
		return err
	}
	return tx.Later(`INSERT INTO sp_imports
		(id, source, file, size, options, state, records, offset_at, digest, imported, refused, admins, no_password, started_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, 0, 0, 0, 0, $8, $8)`,
		m.ID, string(m.Source), m.File, m.size, string(options), string(m.State), m.digest, db.Micros(m.StartedAt))
}

// claim reports whether an import is where it was, and makes whoever else looks
// at it meanwhile wait or run again.
func claim(tx *db.Tx, m Import) (bool, error) {
	n, err := tx.Exec("UPDATE sp_imports SET records = $2 WHERE id = $1 AND state = 'running' AND records = $2", m.ID, m.Records)
	return n == 1, err
}

// advance stores how far an import came that was claimed.
func advance(tx *db.Tx, m Import, now time.Time) error {
	return tx.Later(`UPDATE sp_imports SET state = $2, records = $3, offset_at = $4, digest = $5,
		imported = $6, refused = $7, admins = $8, no_password = $9, updated_at = $10
		WHERE id = $1`,
		m.ID, string(m.State), m.Records, m.offset, m.digest,
		m.Imported, m.Refused, m.Administrators, m.WithoutPassword, db.Micros(now))
}

// stopImport ends an import that was stopped, or still runs, for good.
func stopImport(tx *db.Tx, id string, now time.Time) error {
	return tx.Later("UPDATE sp_imports SET state = 'done', updated_at = $2 WHERE id = $1 AND state = 'running'", id, db.Micros(now))
}

func setUndone(tx *db.Tx, id string, now time.Time) error {
	return tx.Later("UPDATE sp_imports SET state = 'undone', updated_at = $2 WHERE id = $1", id, db.Micros(now))
}

func scanImport(scan db.Scan, m *Import) error {
	var source, options, state string
	var started int64
	if err := scan(&m.ID, &source, &m.File, &m.size, &options, &state, &m.Records, &m.offset, &m.digest,
		&m.Imported, &m.Refused, &m.Administrators, &m.WithoutPassword, &started); err != nil {
		return err
	}
	m.Source, m.State, m.StartedAt = Source(source), State(state), db.Time(started)
	m.options = Options{}
	if err := json.Unmarshal([]byte(options), &m.options); err != nil {
		return err
	}
	m.options.Source, m.options.File = m.Source, m.File
	return nil
}

// present stands for every state but Undone, where readImport is asked.
const present State = "present"

// readImport returns an import, or with id "" the last one, that is in this
// state; with state "", in any.
func readImport(rd db.Reader, id string, state State) (m Import, found bool, err error) {
	err = scanImport(func(dst ...any) (err error) {
		found, err = rd.Row(`SELECT id, source, file, size, options, state, records, offset_at, digest, imported, refused, admins, no_password, started_at
			FROM sp_imports WHERE ($1 = '' OR id = $1) AND ($2 = '' OR state = $2 OR ($2 = 'present' AND state <> 'undone')) ORDER BY started_at DESC, id DESC LIMIT 1`,
			[]any{id, string(state)}, dst...)
		if err == nil && !found {
			err = errNone
		}
		return err
	}, &m)
	if err == errNone {
		return Import{}, false, nil
	}
	return m, found, err
}

func listImports(rd db.Reader) (all []Import, err error) {
	all = []Import{}
	err = rd.Rows(`SELECT id, source, file, size, options, state, records, offset_at, digest, imported, refused, admins, no_password, started_at
		FROM sp_imports ORDER BY started_at DESC, id DESC LIMIT 1000`, nil, func(scan db.Scan) error {
		var m Import
		err := scanImport(scan, &m)
		all = append(all, m)
		return err
	})
	return all, err
}

// used is one account of an import, and why it is not to be deleted, "" if it
// is.
type used struct {
	id, why string
	plain   bool // has no other role than everybody
}

// readUsed returns the accounts of an import after one of them, in order. What
// somebody did with an account leaves a trace here: in the account itself, in
// its subject's version, or in an event of theirs or about them.
func readUsed(rd db.Reader, after, last string, imported time.Time, limit int) (out []used, err error) {
	err = rd.Rows(`SELECT a.id, CASE
			WHEN a.last_login_at IS NOT NULL THEN 'signed in'
			WHEN EXISTS (SELECT 1 FROM sp_sessions t WHERE t.subject_id = a.id) THEN 'signed in'
			WHEN EXISTS (SELECT 1 FROM sp_audit e WHERE e.actor = a.id AND e.result = 'success') THEN 'signed in'
			WHEN a.updated_at <> $3 OR s.version <> 1 OR a.mfa THEN 'changed'
			WHEN EXISTS (SELECT 1 FROM sp_api_keys k WHERE k.subject_id = a.id) THEN 'changed'
			WHEN EXISTS (SELECT 1 FROM sp_audit e WHERE e.target = a.id AND e.result = 'success' AND e.action <> 'account.imported') THEN 'changed'
			ELSE '' END,
			NOT EXISTS (SELECT 1 FROM sp_subject_roles g WHERE g.subject_id = a.id AND g.role <> 'user')
		FROM sp_accounts a JOIN sp_subjects s ON s.id = a.id
		WHERE a.id > $1 AND a.id <= $2 ORDER BY a.id LIMIT $4`,
		[]any{after, last, db.Micros(imported), limit}, func(scan db.Scan) error {
			var u used
			err := scan(&u.id, &u.why, &u.plain)
			out = append(out, u)
			return err
		})
	return out, err
}
