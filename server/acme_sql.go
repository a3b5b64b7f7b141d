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

func putCertificate(tx *db.Tx, directory, name string, sealed []byte, transient bool, now time.Time) error {
	return tx.Later(`INSERT INTO sp_certificates (directory, name, sealed, transient, updated_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (directory, name) DO UPDATE SET sealed = excluded.sealed, transient = excluded.transient, updated_at = excluded.updated_at`,
		directory, name, sealed, transient, db.Micros(now))
}

func deleteCertificate(tx *db.Tx, directory, name string) error {
	return tx.Later("DELETE FROM sp_certificates WHERE directory = $1 AND name = $2", directory, name)
}

// deleteChallenges deletes those that a crash left behind. There are few rows.
func deleteChallenges(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_certificates WHERE (directory, name) IN (
		SELECT directory, name FROM sp_certificates WHERE transient AND updated_at < $1 ORDER BY updated_at LIMIT $2)`, db.Micros(before), limit)
}

// deleteTurns deletes what is known of hosts for which nobody has asked for long.
func deleteTurns(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_certificate_orders WHERE (directory, host) IN (
		SELECT directory, host FROM sp_certificate_orders WHERE until < $1 ORDER BY until LIMIT $2)`, db.Micros(before), limit)
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

// order is whose turn it is to ask for a host's certificate, or was.
type order struct {
	holder   string // a node; empty after a failure
	until    time.Time
	attempts int64 // since there was a certificate
}

// orderOf returns the zero order if there is none.
func orderOf(rd db.Reader, directory, host string) (o order, err error) {
	var until int64
	_, err = rd.Row("SELECT holder, until, attempts FROM sp_certificate_orders WHERE directory = $1 AND host = $2", []any{directory, host}, &o.holder, &until, &o.attempts)
	o.until = db.Time(until)
	return o, err
}

// takeTurn reports whether this node may ask for a host's certificate until then.
func takeTurn(tx *db.Tx, directory, host, holder string, now, until time.Time) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_certificate_orders (directory, host, holder, until, attempts) VALUES ($1, $2, $3, $4, 1)
		ON CONFLICT (directory, host) DO UPDATE SET holder = excluded.holder, until = excluded.until,
			attempts = sp_certificate_orders.attempts + CASE WHEN sp_certificate_orders.holder = excluded.holder THEN 0 ELSE 1 END
		WHERE sp_certificate_orders.holder = excluded.holder OR sp_certificate_orders.until <= $5`,
		directory, host, holder, db.Micros(until), db.Micros(now))
	return n == 1, err
}

// endTurn also forgets earlier failures.
func endTurn(tx *db.Tx, directory, host, holder string) error {
	return tx.Later("DELETE FROM sp_certificate_orders WHERE directory = $1 AND host = $2 AND holder = $3", directory, host, holder)
}

// failTurn keeps every node from asking again until then.
func failTurn(tx *db.Tx, directory, host, holder string, until time.Time) error {
	return tx.Later("UPDATE sp_certificate_orders SET holder = '', until = $4 WHERE directory = $1 AND host = $2 AND holder = $3", directory, host, holder, db.Micros(until))
}
