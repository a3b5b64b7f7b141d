package oauth

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

func insertClient(tx *db.Tx, c Client, digest []byte, by string) error {
	return tx.Later("INSERT INTO sp_clients (id, name, secret, created_at, created_by) VALUES ($1, $2, $3, $4, $5)",
		c.ID, c.Name, digest, db.Micros(c.CreatedAt), by)
}

func countClients(rd db.Reader) (n int, err error) {
	_, err = rd.Row("SELECT COUNT(*) FROM sp_clients", nil, &n)
	return n, err
}

func readSecret(rd db.Reader, id string) (c credential, found bool, err error) {
	found, err = rd.Row("SELECT c.secret, s.disabled FROM sp_clients c JOIN sp_subjects s ON s.id = c.id WHERE c.id = $1", []any{id}, &c.digest, &c.disabled)
	return c, found, err
}

// readClientState reads what a client may do if it is there and not disabled:
// one statement, so that it is of one moment.
func readClientState(rd db.Reader, id string) (st authn.State, alive bool, err error) {
	alive, err = rd.Row("SELECT "+authn.StateColumns+`
		FROM sp_clients c
		JOIN sp_subjects u ON u.id = c.id
		JOIN sp_versions v ON v.id = 1
		WHERE c.id = $1 AND NOT u.disabled`, []any{id}, st.Columns()...)
	return st, alive, err
}

func listClients(rd db.Reader, after position, limit int) (out []Client, err error) {
	err = rd.Rows(`SELECT c.id, c.name, c.created_at, s.disabled,
			(SELECT COALESCE(string_agg(role, ' '), '') FROM sp_subject_roles WHERE subject_id = c.id),
			(SELECT COALESCE(string_agg(permission, ' '), '') FROM sp_subject_permissions WHERE subject_id = c.id)
		FROM sp_clients c JOIN sp_subjects s ON s.id = c.id WHERE (c.created_at, c.id) > ($1, $2) ORDER BY c.created_at, c.id LIMIT $3`,
		[]any{after.Created, after.ID, limit}, func(scan db.Scan) error {
			var c Client
			var created int64
			var roles, permissions string
			if err := scan(&c.ID, &c.Name, &created, &c.Disabled, &roles, &permissions); err != nil {
				return err
			}
			c.CreatedAt, c.Roles, c.Scopes = db.Time(created), strings.Fields(roles), strings.Fields(permissions) // never nil
			slices.Sort(c.Roles)
			slices.Sort(c.Scopes)
			out = append(out, c)
			return nil
		})
	return out, err
}
