package totp

import (
	"time"

	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
)

type row struct {
	enrolment string
	sealed    []byte
	confirmed bool
	created   time.Time
}

// putSecret stores a new secret, unless there is one that is confirmed.
func putSecret(tx *db.Tx, subject, enrolment string, sealed []byte, now time.Time) (bool, error) {
	n, err := tx.Exec(`INSERT INTO sp_totp (subject_id, enrolment, sealed, confirmed, last_step, created_at) VALUES ($1, $2, $3, FALSE, -1, $4)
		ON CONFLICT (subject_id) DO UPDATE SET enrolment = excluded.enrolment, sealed = excluded.sealed, last_step = -1, created_at = excluded.created_at
		WHERE NOT sp_totp.confirmed`, subject, enrolment, sealed, db.Micros(now))
	return n == 1, err
}

func readSecret(rd db.Reader, subject string) (r row, found bool, err error) {
	var created int64
	found, err = rd.Row("SELECT enrolment, sealed, confirmed, created_at FROM sp_totp WHERE subject_id = $1", []any{subject},
		&r.enrolment, &r.sealed, &r.confirmed, &created)
	r.created = db.Time(created)
	return r, found, err
}

func readLastStep(rd db.Reader, subject, enrolment string) (step int64, found bool, err error) {
	found, err = rd.Row("SELECT last_step FROM sp_totp WHERE subject_id = $1 AND enrolment = $2", []any{subject, enrolment}, &step)
	return step, found, err
}

// useStep uses a time step up; exactly one caller can, and none that is as early.
func useStep(tx *db.Tx, subject, enrolment string, step int64) (bool, error) {
	n, err := tx.Exec("UPDATE sp_totp SET last_step = $3 WHERE subject_id = $1 AND enrolment = $2 AND last_step < $3", subject, enrolment, step)
	return n == 1, err
}

// confirm turns a secret on; exactly one caller can.
func confirm(tx *db.Tx, subject, enrolment string) (bool, error) {
	n, err := tx.Exec("UPDATE sp_totp SET confirmed = TRUE WHERE subject_id = $1 AND enrolment = $2 AND NOT confirmed", subject, enrolment)
	return n == 1, err
}

func deleteSecret(tx *db.Tx, subject string) (bool, error) {
	n, err := tx.Exec("DELETE FROM sp_totp WHERE subject_id = $1", subject)
	return n == 1, err
}

func deleteUnconfirmed(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_totp WHERE subject_id IN (
		SELECT subject_id FROM sp_totp WHERE NOT confirmed AND created_at < $1 ORDER BY created_at LIMIT $2)`, db.Micros(before), limit)
}

func insertRecovery(tx *db.Tx, subject string, digest []byte) error {
	return tx.Later("INSERT INTO sp_recovery_codes (subject_id, digest, used_at) VALUES ($1, $2, 0)", subject, digest)
}

// useRecovery uses a recovery code up; exactly one caller can.
func useRecovery(tx *db.Tx, subject string, digest []byte, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_recovery_codes SET used_at = $3 WHERE subject_id = $1 AND digest = $2 AND used_at = 0", subject, digest, db.Micros(now))
	return n == 1, err
}

func deleteRecovery(tx *db.Tx, subject string) error {
	return tx.Later("DELETE FROM sp_recovery_codes WHERE subject_id = $1", subject)
}

func recoveryLeft(rd db.Reader, subject string) (n int, err error) {
	_, err = rd.Row("SELECT COUNT(*) FROM sp_recovery_codes WHERE subject_id = $1 AND used_at = 0", []any{subject}, &n)
	return n, err
}

// Reseal takes part in a rotation of the master key (keyring.Ring.Rewrap). What
// cannot be opened stays as it is: it is of no use before or after, and must not
// keep a master key from being replaced. Its owner signs in with a recovery code.
func Reseal(tx *db.Tx, reseal keyring.Reseal) error {
	type secret struct {
		subject string
		sealed  []byte
	}
	var all []secret
	err := tx.Rows("SELECT subject_id, sealed FROM sp_totp ORDER BY subject_id", nil, func(scan db.Scan) error {
		var s secret
		err := scan(&s.subject, &s.sealed)
		all = append(all, s)
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range all {
		sealed, err := reseal(purpose(s.subject), s.sealed)
		if err != nil {
			continue
		}
		if err := tx.Later("UPDATE sp_totp SET sealed = $2 WHERE subject_id = $1", s.subject, sealed); err != nil {
			return err
		}
	}
	return nil
}

// UseEvery uses up, for up to limit of all secrets, the codes of every time step
// that one may be accepted for at this moment, and returns how many secrets.
func UseEvery(tx *db.Tx, now time.Time, limit int) (int64, error) {
	return tx.Exec("UPDATE sp_totp SET last_step = $1 WHERE subject_id IN (SELECT subject_id FROM sp_totp WHERE last_step < $1 LIMIT $2)", StepAt(now)+1, limit)
}

// UseEveryRecovery uses up to limit of all recovery codes up, and returns how many.
func UseEveryRecovery(tx *db.Tx, now time.Time, limit int) (int64, error) {
	return tx.Exec("UPDATE sp_recovery_codes SET used_at = $1 WHERE (subject_id, digest) IN (SELECT subject_id, digest FROM sp_recovery_codes WHERE used_at = 0 LIMIT $2)",
		db.Micros(now), limit)
}
