package role

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// LoadGraph reads all roles and permissions: a few dozen rows.
func LoadGraph(rd db.Reader) (Graph, error) {
	g := Graph{map[string]*Role{}, map[string]*Permission{}}
	err := rd.Rows("SELECT name, description, builtin FROM sp_roles ORDER BY name", nil, func(scan db.Scan) error {
		r := &Role{Permissions: []string{}, Includes: []string{}}
		if err := scan(&r.Name, &r.Description, &r.Builtin); err != nil {
			return err
		}
		g.Roles[r.Name] = r
		return nil
	})
	if err != nil {
		return g, err
	}
	err = rd.Rows("SELECT role, permission FROM sp_role_permissions ORDER BY role, permission", nil, func(scan db.Scan) error {
		return pair(scan, func(role, permission string) {
			if r := g.Roles[role]; r != nil {
				r.Permissions = append(r.Permissions, permission)
			}
		})
	})
	if err != nil {
		return g, err
	}
	err = rd.Rows("SELECT role, included FROM sp_role_includes ORDER BY role, included", nil, func(scan db.Scan) error {
		return pair(scan, func(role, included string) {
			if r := g.Roles[role]; r != nil {
				r.Includes = append(r.Includes, included)
			}
		})
	})
	if err != nil {
		return g, err
	}
	err = rd.Rows("SELECT name, description, source FROM sp_permissions ORDER BY name", nil, func(scan db.Scan) error {
		p := &Permission{}
		if err := scan(&p.Name, &p.Description, &p.Source); err != nil {
			return err
		}
		g.Permissions[p.Name] = p
		return nil
	})
	return g, err
}

func pair(scan db.Scan, f func(a, b string)) error {
	var a, b string
	err := scan(&a, &b)
	f(a, b)
	return err
}

// Direct returns what was granted to the subject itself, sorted, never nil.
func Direct(rd db.Reader, id string) (roles, permissions []string, err error) {
	roles, permissions = []string{}, []string{}
	err = rd.Rows(`SELECT 'role', role FROM sp_subject_roles WHERE subject_id = $1
		UNION ALL SELECT 'permission', permission FROM sp_subject_permissions WHERE subject_id = $1`, []any{id}, func(scan db.Scan) error {
		return pair(scan, func(kind, name string) {
			if kind == "role" {
				roles = append(roles, name)
			} else {
				permissions = append(permissions, name)
			}
		})
	})
	slices.Sort(roles)
	slices.Sort(permissions)
	return roles, permissions, err
}

func insertSubject(tx *db.Tx, id, kind string, now time.Time, disabled bool) error {
	return tx.Later("INSERT INTO sp_subjects (id, kind, disabled, version, created_at) VALUES ($1, $2, $4, 1, $3)", id, kind, db.Micros(now), disabled)
}

func insertUserRole(tx *db.Tx, first, last string) error {
	return tx.Later("INSERT INTO sp_subject_roles (subject_id, role) SELECT id, 'user' FROM sp_subjects WHERE id >= $1 AND id <= $2", first, last)
}

func discardSubject(tx *db.Tx, id string) error {
	return tx.Later("DELETE FROM sp_subjects WHERE id = $1", id)
}

func subjectExists(rd db.Reader, id string) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_subjects WHERE id = $1", []any{id}, &n)
}

// IsClient reports whether there is a machine client of this id.
func IsClient(rd db.Reader, id string) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_subjects WHERE id = $1 AND kind = 'client'", []any{id}, &n)
}

// isEnabledPerson reports whether the subject is a person, not a machine client,
// and not disabled.
func isEnabledPerson(rd db.Reader, id string) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_subjects WHERE id = $1 AND kind = 'user' AND NOT disabled", []any{id}, &n)
}

func updateDisabled(tx *db.Tx, id string, disabled bool) error {
	n, err := tx.Exec("UPDATE sp_subjects SET disabled = $2, version = version + 1 WHERE id = $1", id, disabled)
	if err == nil && n == 0 {
		err = sallyport.NotFound("user")
	}
	if err != nil {
		return err
	}
	return tx.Changed(id)
}

func deleteSubject(tx *db.Tx, id string) error {
	n, err := tx.Exec("DELETE FROM sp_subjects WHERE id = $1", id)
	if err == nil && n == 0 {
		err = sallyport.NotFound("user")
	}
	if err != nil {
		return err
	}
	return tx.Changed(id)
}

func bumpSubject(tx *db.Tx, id string) error {
	if err := tx.Later("UPDATE sp_subjects SET version = version + 1 WHERE id = $1", id); err != nil {
		return err
	}
	return tx.Changed(id)
}

func bumpRoles(tx *db.Tx) error {
	if err := tx.Later("UPDATE sp_versions SET roles = roles + 1 WHERE id = 1"); err != nil {
		return err
	}
	return tx.Changed(db.ChangedRoles)
}

func rolesVersion(rd db.Reader) (v int64, err error) {
	_, err = rd.Row("SELECT roles FROM sp_versions WHERE id = 1", nil, &v)
	return v, err
}

// anyEnabledWithRole looks among people only.
func anyEnabledWithRole(rd db.Reader, role, except string) (bool, error) {
	var n int
	return rd.Row(`SELECT 1 FROM sp_subject_roles g JOIN sp_subjects s ON s.id = g.subject_id
		WHERE g.role = $1 AND g.subject_id <> $2 AND s.kind = 'user' AND NOT s.disabled LIMIT 1`, []any{role, except}, &n)
}

func replaceRoles(tx *db.Tx, id string, old, roles []string) error {
	for _, r := range old {
		if !slices.Contains(roles, r) {
			if err := tx.Later("DELETE FROM sp_subject_roles WHERE subject_id = $1 AND role = $2", id, r); err != nil {
				return err
			}
		}
	}
	for _, r := range roles {
		if !slices.Contains(old, r) {
			if err := tx.Later("INSERT INTO sp_subject_roles (subject_id, role) VALUES ($1, $2)", id, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func replacePermissions(tx *db.Tx, id string, old, permissions []string) error {
	for _, p := range old {
		if !slices.Contains(permissions, p) {
			if err := tx.Later("DELETE FROM sp_subject_permissions WHERE subject_id = $1 AND permission = $2", id, p); err != nil {
				return err
			}
		}
	}
	for _, p := range permissions {
		if !slices.Contains(old, p) {
			if err := tx.Later("INSERT INTO sp_subject_permissions (subject_id, permission) VALUES ($1, $2)", id, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func upsertRole(tx *db.Tx, r Role) error {
	if err := tx.Later(`INSERT INTO sp_roles (name, description, builtin) VALUES ($1, $2, FALSE)
		ON CONFLICT (name) DO UPDATE SET description = excluded.description`, r.Name, r.Description); err != nil {
		return err
	}
	if err := tx.Later("DELETE FROM sp_role_permissions WHERE role = $1", r.Name); err != nil {
		return err
	}
	if err := tx.Later("DELETE FROM sp_role_includes WHERE role = $1", r.Name); err != nil {
		return err
	}
	for _, p := range r.Permissions {
		if err := tx.Later("INSERT INTO sp_role_permissions (role, permission) VALUES ($1, $2)", r.Name, p); err != nil {
			return err
		}
	}
	for _, in := range r.Includes {
		if err := tx.Later("INSERT INTO sp_role_includes (role, included) VALUES ($1, $2)", r.Name, in); err != nil {
			return err
		}
	}
	return nil
}

func deleteRole(tx *db.Tx, name string) error {
	return tx.Later("DELETE FROM sp_roles WHERE name = $1", name)
}

func upsertPermission(tx *db.Tx, name, description string) error {
	if err := tx.Later(`INSERT INTO sp_permissions (name, description, source) VALUES ($1, $2, 'put')
		ON CONFLICT (name) DO UPDATE SET description = excluded.description`, name, description); err != nil {
		return err
	}
	return bumpRoles(tx) // an administrator holds it now
}

func declarePermission(tx *db.Tx, name string) error {
	n, err := tx.Exec(`INSERT INTO sp_permissions (name, description, source) VALUES ($1, '', 'route')
		ON CONFLICT (name) DO NOTHING`, name)
	if err != nil || n == 0 {
		return err
	}
	return bumpRoles(tx) // an administrator holds it now
}

// DisableClients disables up to limit of all machine clients, and returns how many.
// It declares no change: whoever calls it lets every node forget everything
// (db.NewFeed).
func DisableClients(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("UPDATE sp_subjects SET disabled = TRUE, version = version + 1 WHERE id IN (SELECT id FROM sp_subjects WHERE kind = 'client' AND NOT disabled LIMIT $1)", limit)
}
