package keyring

import (
	"context"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
)

// Check opens everything that is sealed in the tables of this package under a
// master key, changes nothing, and returns how many signing keys there are. The
// error is ErrMasterKey if the key is another one, or something is damaged.
func Check(rd db.Reader, m *seal.Master) (keys int, err error) {
	_, rows, refresh, err := load(rd)
	if err != nil {
		return 0, err
	}
	k := &Ring{master: m}
	for _, r := range rows {
		if r.state == Retired {
			continue
		}
		if _, err := k.openKey(r); err != nil {
			return 0, err
		}
		keys++
	}
	if _, err := m.Open(purposeOf(refreshSecret), refresh); err != nil {
		return 0, errSealed(refreshSecret, err)
	}
	return keys, nil
}

// Replace retires every signing key and makes new ones: of keys that a backup
// brought back nobody knows which were retired since, and why. Access tokens are
// dead; sessions live on. Where the configuration holds the secret that signs, it
// is refused: 409 "secret_configured".
func (k *Ring) Replace(ctx context.Context) error {
	if k.configured != nil {
		return errConfigured()
	}
	master, err := k.ready(ctx)
	if err != nil {
		return err
	}
	var made []row
	for _, state := range []State{Active, Next} {
		r, err := k.generate(master, state)
		if err != nil {
			return err
		}
		made = append(made, r)
	}
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		rows, err := loadUnder(tx, master)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.state == Retired {
				continue
			}
			if err := drop(ctx, tx, r.id, "a backup brought it back"); err != nil {
				return err
			}
		}
		for _, r := range made {
			if err := insertKey(tx, r); err != nil {
				return err
			}
			if err := audit.Append(ctx, tx, audit.Event{Action: "key.created", Target: r.id, Detail: map[string]string{"alg": string(r.alg), "state": string(r.state)}}); err != nil {
				return err
			}
		}
		return bumpKeys(tx)
	})
	if err != nil {
		return err
	}
	return k.reload(ctx)
}
