package link

import (
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

type row struct {
	digest           []byte
	purpose          Purpose
	subject          string
	address, bound   []byte
	familiar         bool
	payload          string
	code, handle     []byte
	tries            int64
	used             bool
	created, expires time.Time
}

func (r row) grant() Grant { return Grant{Subject: r.subject, Bound: r.bound, Payload: r.payload} }

func insert(tx *db.Tx, r row) error {
	var subject *string
	if r.subject != "" {
		subject = &r.subject
	}
	return tx.Later(`INSERT INTO sp_mail_tokens (digest, purpose, subject_id, address, bound, payload, code, handle, familiar, tries, used, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, FALSE, $10, $11)`,
		r.digest, string(r.purpose), subject, r.address, r.bound, r.payload, r.code, r.handle, r.familiar, db.Micros(r.created), db.Micros(r.expires))
}

// count returns how many letters an address was sent since two moments.
func count(rd db.Reader, address []byte, p Purpose, familiar bool, recently, long time.Time) (recent, all int64, err error) {
	_, err = rd.Row(`SELECT COALESCE(SUM(CASE WHEN created_at > $3 THEN 1 ELSE 0 END), 0), COUNT(*) FROM sp_mail_tokens
		WHERE address = $1 AND purpose = $2 AND familiar = $5 AND created_at > $4`,
		[]any{address, string(p), db.Micros(recently), db.Micros(long), familiar}, &recent, &all)
	return recent, all, err
}

func (r *row) columns(expires *int64) []any {
	return []any{&r.digest, &r.subject, &r.bound, &r.payload, &r.code, &r.tries, &r.used, expires}
}

func find(rd db.Reader, digest []byte, p Purpose) (r row, found bool, err error) {
	var expires int64
	found, err = rd.Row("SELECT digest, COALESCE(subject_id, ''), bound, payload, code, tries, used, expires_at FROM sp_mail_tokens WHERE digest = $1 AND purpose = $2",
		[]any{digest, string(p)}, r.columns(&expires)...)
	r.purpose, r.expires = p, db.Time(expires)
	return r, found, err
}

func findByHandle(rd db.Reader, handle []byte, p Purpose) (r row, found bool, err error) {
	var expires int64
	found, err = rd.Row("SELECT digest, COALESCE(subject_id, ''), bound, payload, code, tries, used, expires_at FROM sp_mail_tokens WHERE handle = $1 AND purpose = $2",
		[]any{handle, string(p)}, r.columns(&expires)...)
	r.purpose, r.expires = p, db.Time(expires)
	return r, found, err
}

// markUsed uses a token up; exactly one caller can. What came with it is not
// needed any more.
func markUsed(tx *db.Tx, digest []byte) (bool, error) {
	n, err := tx.Exec("UPDATE sp_mail_tokens SET used = TRUE, payload = '' WHERE digest = $1 AND NOT used", digest)
	return n == 1, err
}

func takeTry(tx *db.Tx, digest []byte, most int64, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_mail_tokens SET tries = tries + 1 WHERE digest = $1 AND tries < $2 AND NOT used AND expires_at > $3",
		digest, most, db.Micros(now))
	return n == 1, err
}

func voidAll(tx *db.Tx, subject string) error {
	return tx.Later("UPDATE sp_mail_tokens SET used = TRUE, payload = '' WHERE subject_id = $1 AND NOT used", subject)
}

// detach is voidAll for a subject whose rows would go with it.
func detach(tx *db.Tx, subject string) error {
	return tx.Later("UPDATE sp_mail_tokens SET subject_id = NULL, used = TRUE, payload = '', code = NULL, handle = NULL WHERE subject_id = $1", subject)
}

func void(tx *db.Tx, subject string, p Purpose) error {
	return tx.Later("UPDATE sp_mail_tokens SET used = TRUE, payload = '' WHERE subject_id = $1 AND purpose = $2 AND NOT used", subject, string(p))
}

// voidPurpose is for a purpose of which there are few rows.
func voidPurpose(tx *db.Tx, p Purpose) error {
	return tx.Later("UPDATE sp_mail_tokens SET used = TRUE WHERE purpose = $1 AND NOT used", string(p))
}

func voidAddress(tx *db.Tx, address []byte, p Purpose) error {
	return tx.Later("UPDATE sp_mail_tokens SET used = TRUE, payload = '' WHERE address = $1 AND purpose = $2 AND NOT used", address, string(p))
}

func latest(rd db.Reader, address []byte, p Purpose, after time.Time) (payload string, err error) {
	_, err = rd.Row(`SELECT payload FROM sp_mail_tokens WHERE address = $1 AND purpose = $2 AND created_at > $3 AND payload <> '' AND NOT used
		ORDER BY created_at DESC LIMIT 1`, []any{address, string(p), db.Micros(after)}, &payload)
	return payload, err
}

// maxLetters bounds letters: a subject's rows are a few dozen, being counted.
const maxLetters = 1000

func letters(rd db.Reader, subject string) (out []Letter, err error) {
	err = rd.Rows("SELECT purpose, used, created_at, expires_at FROM sp_mail_tokens WHERE subject_id = $1 ORDER BY created_at DESC, digest LIMIT $2",
		[]any{subject, maxLetters}, func(scan db.Scan) error {
			var l Letter
			var purpose string
			var created, expires int64
			err := scan(&purpose, &l.Used, &created, &expires)
			l.Purpose, l.Created, l.Expires = Purpose(purpose), db.Time(created), db.Time(expires)
			out = append(out, l)
			return err
		})
	return out, err
}

func deleteOld(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec(`DELETE FROM sp_mail_tokens WHERE digest IN (
		SELECT digest FROM sp_mail_tokens WHERE created_at < $1 ORDER BY created_at LIMIT $2)`, db.Micros(before), limit)
}

// VoidEvery makes up to limit of all tokens worthless, and returns how many. They
// still count as letters that were sent.
func VoidEvery(tx *db.Tx, limit int) (int64, error) {
	return tx.Exec("UPDATE sp_mail_tokens SET used = TRUE WHERE digest IN (SELECT digest FROM sp_mail_tokens WHERE NOT used LIMIT $1)", limit)
}
