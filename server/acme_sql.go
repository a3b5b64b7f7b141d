package server

import (
	"time"

	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
)

func sealedCertificate(rd db.Reader, directory, name string) (sealed []byte, found bool, err error) {
	found, err = rd.Row("SELECT sealed FROM sp_certificates WHERE directory = $1 AND name = $2", []any{directory, name}, &sealed)
	return sealed, found, err
}

// putCertificate also forgets challenges that a crash left behind.
func putCertificate(tx *db.Tx, directory, name string, sealed []byte, transient bool, now time.Time) error {
	if _, err := tx.Exec("DELETE FROM sp_certificates WHERE transient AND updated_at < $1", db.Micros(now.Add(-time.Hour))); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO sp_certificates (directory, name, sealed, transient, updated_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (directory, name) DO UPDATE SET sealed = excluded.sealed, transient = excluded.transient, updated_at = excluded.updated_at`,
		directory, name, sealed, transient, db.Micros(now))
	return err
}

func deleteCertificate(tx *db.Tx, directory, name string) error {
	_, err := tx.Exec("DELETE FROM sp_certificates WHERE directory = $1 AND name = $2", directory, name)
	return err
}

// resealCertificates takes part in a rotation of the master key. What cannot be
// opened is of no use to anybody and goes: certificates can be asked for again,
// and must not keep a master key from being replaced.
func resealCertificates(tx *db.Tx, reseal keyring.Reseal) error {
	type row struct {
		directory, name string
		sealed          []byte
	}
	var rows []row
	err := tx.Rows("SELECT directory, name, sealed FROM sp_certificates ORDER BY directory, name", nil, func(scan db.Scan) error {
		var r row
		err := scan(&r.directory, &r.name, &r.sealed)
		rows = append(rows, r)
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		sealed, err := reseal(certificatePurpose(r.directory, r.name), r.sealed)
		if err != nil {
			err = deleteCertificate(tx, r.directory, r.name)
		} else {
			_, err = tx.Exec("UPDATE sp_certificates SET sealed = $3 WHERE directory = $1 AND name = $2", r.directory, r.name, sealed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeTurn reports whether this node may ask for a host's certificate until then.
func takeTurn(tx *db.Tx, host, holder string, now, until time.Time) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_certificate_orders (host, holder, until) VALUES ($1, $2, $3)
		ON CONFLICT (host) DO UPDATE SET holder = excluded.holder, until = excluded.until
		WHERE sp_certificate_orders.holder = excluded.holder OR sp_certificate_orders.until <= $4`,
		host, holder, db.Micros(until), db.Micros(now))
	return n == 1, err
}

func endTurn(tx *db.Tx, host, holder string) error {
	_, err := tx.Exec("DELETE FROM sp_certificate_orders WHERE host = $1 AND holder = $2", host, holder)
	return err
}
