package keyring

import (
	"errors"
	"time"

	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/db"
)

type row struct {
	id        string
	alg       token.Alg
	state     State
	sealed    []byte
	created   time.Time
	activated time.Time // zero: not yet
	retireAt  time.Time // zero: not set
}

func (r row) info(now time.Time) Info {
	i := Info{ID: r.id, Alg: r.alg, State: r.state, Created: r.created}
	if !r.activated.IsZero() {
		i.Activated = &r.activated
	}
	if r.state == Retiring {
		i.RetireAt = &r.retireAt
		if !now.Before(r.retireAt) {
			i.State = Retired
		}
	}
	return i
}

func hasSecrets(rd db.Reader) (bool, error) {
	var n int
	return rd.Row("SELECT 1 FROM sp_secrets LIMIT 1", nil, &n)
}

func keysVersion(rd db.Reader) (v int64, err error) {
	_, err = rd.Row("SELECT signing_keys FROM sp_versions WHERE id = 1", nil, &v)
	return v, err
}

// load reads the version first: what is read after it may be newer, never
// older.
func load(rd db.Reader) (version int64, rows []row, refresh []byte, err error) {
	if version, err = keysVersion(rd); err != nil {
		return 0, nil, nil, err
	}
	err = rd.Rows(`SELECT id, alg, state, sealed, created_at, activated_at, retire_at
		FROM sp_signing_keys ORDER BY created_at DESC, id`, nil, func(scan db.Scan) error {
		var r row
		var alg, state string
		var created, activated, retireAt int64
		if err := scan(&r.id, &alg, &state, &r.sealed, &created, &activated, &retireAt); err != nil {
			return err
		}
		r.alg, r.state, r.created = token.Alg(alg), State(state), db.Time(created)
		if activated != 0 {
			r.activated = db.Time(activated)
		}
		if retireAt != 0 {
			r.retireAt = db.Time(retireAt)
		}
		rows = append(rows, r)
		return nil
	})
	if err != nil {
		return 0, nil, nil, err
	}
	found, err := rd.Row("SELECT sealed FROM sp_secrets WHERE name = 'refresh-tokens'", nil, &refresh)
	if err == nil && !found {
		err = errors.New("the database has no key for refresh tokens: it is not whole; restore it from a backup")
	}
	return version, rows, refresh, err
}

func keyState(rd db.Reader, kid string) (s State, retireAt time.Time, found bool, err error) {
	var state string
	var at int64
	found, err = rd.Row("SELECT state, retire_at FROM sp_signing_keys WHERE id = $1", []any{kid}, &state, &at)
	return State(state), db.Time(at), found, err
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return db.Micros(t)
}

func insertKey(tx *db.Tx, r row) error {
	return tx.Later(`INSERT INTO sp_signing_keys (id, alg, state, sealed, created_at, activated_at, retire_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		r.id, string(r.alg), string(r.state), r.sealed, micros(r.created), micros(r.activated), micros(r.retireAt))
}

func setState(tx *db.Tx, id string, s State, activated, retireAt time.Time) error {
	return tx.Later("UPDATE sp_signing_keys SET state = $2, activated_at = $3, retire_at = $4 WHERE id = $1",
		id, string(s), micros(activated), micros(retireAt))
}

// retire also forgets the sealed private key.
func retire(tx *db.Tx, id string) error {
	return tx.Later("UPDATE sp_signing_keys SET state = 'retired', retire_at = 0, sealed = $2 WHERE id = $1", id, []byte{})
}

func reseal(tx *db.Tx, id string, sealed []byte) error {
	return tx.Later("UPDATE sp_signing_keys SET sealed = $2 WHERE id = $1", id, sealed)
}

func insertSecret(tx *db.Tx, name string, sealed []byte, now time.Time) error {
	return tx.Later("INSERT INTO sp_secrets (name, sealed, created_at) VALUES ($1, $2, $3)", name, sealed, db.Micros(now))
}

func resealSecret(tx *db.Tx, name string, sealed []byte) error {
	return tx.Later("UPDATE sp_secrets SET sealed = $2 WHERE name = $1", name, sealed)
}

func bumpKeys(tx *db.Tx) error {
	if err := tx.Later("UPDATE sp_versions SET signing_keys = signing_keys + 1 WHERE id = 1"); err != nil {
		return err
	}
	return tx.Changed(db.ChangedKeys)
}
