package policy

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// versions returns the version of all policies and that of the roles.
func versions(rd db.Reader) (policies, roles int64, err error) {
	_, err = rd.Row("SELECT policies, roles FROM sp_versions WHERE id = 1", nil, &policies, &roles)
	return policies, roles, err
}

// Version returns the version of all policies: it grows with every change of one.
func Version(rd db.Reader) (int64, error) {
	v, _, err := versions(rd)
	return v, err
}

// bump makes a new version, which every node hears of.
func bump(tx *db.Tx) (int64, error) {
	if err := tx.Later("UPDATE sp_versions SET policies = policies + 1 WHERE id = 1"); err != nil {
		return 0, err
	}
	if err := tx.Changed(db.ChangedPolicies); err != nil {
		return 0, err
	}
	return Version(tx)
}

const columns = "id, cedar, description, permits, actions, version, updated_at, updated_by"

func scanned(scan db.Scan) (s Stored, err error) {
	var actions string
	var at int64
	err = scan(&s.ID, &s.Cedar, &s.Description, &s.permits, &actions, &s.Version, &at, &s.UpdatedBy)
	s.Actions, s.UpdatedAt = strings.Fields(actions), db.Time(at)
	s.Effect = effect(s.permits)
	return s, err
}

func readPolicy(rd db.Reader, id string) (s Stored, found bool, err error) {
	err = rd.Rows("SELECT "+columns+" FROM sp_policies WHERE id = $1", []any{id}, func(scan db.Scan) (err error) {
		found = true
		s, err = scanned(scan)
		return err
	})
	return s, found, err
}

// listPolicies returns at most limit policies whose names come after one.
func listPolicies(rd db.Reader, after string, limit int) (out []Stored, err error) {
	err = rd.Rows("SELECT "+columns+" FROM sp_policies WHERE id > $1 ORDER BY id LIMIT $2", []any{after, limit}, func(scan db.Scan) error {
		s, err := scanned(scan)
		out = append(out, s)
		return err
	})
	return out, err
}

// eachVersion tells the version of every policy.
func eachVersion(rd db.Reader, f func(id string, version int64)) error {
	return rd.Rows("SELECT id, version FROM sp_policies", nil, func(scan db.Scan) error {
		var id string
		var version int64
		err := scan(&id, &version)
		f(id, version)
		return err
	})
}

// weights tells what each policy weighs: what it is about, and how many bytes it has.
func weights(rd db.Reader, except string, f func(actions []string, size int)) error {
	return rd.Rows("SELECT actions, OCTET_LENGTH(cedar) FROM sp_policies WHERE id <> $1", []any{except}, func(scan db.Scan) error {
		var actions string
		var size int
		err := scan(&actions, &size)
		f(strings.Fields(actions), size)
		return err
	})
}

func upsertPolicy(tx *db.Tx, s Stored) error {
	if err := tx.Later(`INSERT INTO sp_policies (id, cedar, description, permits, actions, version, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET cedar = excluded.cedar, description = excluded.description, permits = excluded.permits, actions = excluded.actions,
		version = excluded.version, updated_at = excluded.updated_at, updated_by = excluded.updated_by`,
		s.ID, s.Cedar, s.Description, s.permits, strings.Join(s.Actions, " "), s.Version, db.Micros(s.UpdatedAt), s.UpdatedBy); err != nil {
		return err
	}
	return insertVersion(tx, s, false)
}

func deletePolicy(tx *db.Tx, s Stored) error {
	if err := tx.Later("DELETE FROM sp_policies WHERE id = $1", s.ID); err != nil {
		return err
	}
	return insertVersion(tx, s, true)
}

// keepVersions is how many versions of one policy are kept.
const keepVersions = 100

func insertVersion(tx *db.Tx, s Stored, deleted bool) error {
	if err := tx.Later("INSERT INTO sp_policy_versions (policy_id, version, cedar, description, deleted, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		s.ID, s.Version, s.Cedar, s.Description, deleted, db.Micros(s.UpdatedAt), s.UpdatedBy); err != nil {
		return err
	}
	return tx.Later(`DELETE FROM sp_policy_versions WHERE policy_id = $1 AND version <=
		(SELECT version FROM sp_policy_versions WHERE policy_id = $1 ORDER BY version DESC LIMIT 1 OFFSET $2)`, s.ID, keepVersions)
}

// history returns what a policy was, the newest first.
func history(rd db.Reader, id string) (out []Revision, err error) {
	err = rd.Rows("SELECT version, cedar, description, deleted, updated_at, updated_by FROM sp_policy_versions WHERE policy_id = $1 ORDER BY version DESC", []any{id}, func(scan db.Scan) error {
		var r Revision
		var at int64
		err := scan(&r.Version, &r.Cedar, &r.Description, &r.Deleted, &at, &r.UpdatedBy)
		r.UpdatedAt = db.Time(at)
		out = append(out, r)
		return err
	})
	return out, err
}

func resourceTypes(rd db.Reader) (map[string]bool, error) {
	out := map[string]bool{}
	err := rd.Rows("SELECT name FROM sp_resource_types", nil, func(scan db.Scan) error {
		var name string
		err := scan(&name)
		out[name] = true
		return err
	})
	return out, err
}

func insertType(tx *db.Tx, name string) error {
	return tx.Later("INSERT INTO sp_resource_types (name) VALUES ($1) ON CONFLICT (name) DO NOTHING", name)
}

func micros(t time.Time) time.Time { return db.Time(db.Micros(t)) } // as it is stored
