package session

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

func insertSession(tx *db.Tx, s Session) error {
	return tx.Later(`INSERT INTO sp_sessions
		(id, subject_id, client_id, scoped, scope, amr, mfa, auth_time, created_at, last_used_at, idle_until,
		 expires_at, ended_at, end_reason, address, user_agent, generation, refresh, refreshed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, '', $13, $14, 0, $15, $16)`,
		s.ID, s.Subject, s.Client, s.Scoped, strings.Join(s.Scope, " "), strings.Join(s.AMR, " "), s.MFA,
		stored(s.AuthTime), db.Micros(s.Created), db.Micros(s.LastUsed), db.Micros(s.IdleUntil), db.Micros(s.Expires),
		s.Address, s.UserAgent, s.refresh, db.Micros(s.refreshedAt))
}

// state is what a session says at a request.
type state struct {
	authn.State
	lastUsed, idleUntil time.Time
}

// readState reads the state of a session if it is alive: one statement, so that
// it is of one moment. Whether it is alive is the statement's business, and why
// not is asked only then.
func readState(rd db.Reader, id, subject string, now time.Time) (st state, alive bool, err error) {
	alive, err = rd.Row(`SELECT s.mfa, s.auth_time, s.expires_at, s.last_used_at, s.idle_until, `+authn.StateColumns+`
		FROM sp_sessions s
		JOIN sp_subjects u ON u.id = s.subject_id
		JOIN sp_versions v ON v.id = 1
		WHERE s.id = $1 AND s.subject_id = $2 AND s.ended_at = 0 AND s.expires_at > $3 AND NOT u.disabled`,
		[]any{id, subject, db.Micros(now)},
		st.Columns(&st.MFA, (*micros)(&st.AuthTime), (*micros)(&st.Until), (*micros)(&st.lastUsed), (*micros)(&st.idleUntil))...)
	return st, alive, err
}

// whyDead tells the operator why a session was refused a moment ago.
func whyDead(rd db.Reader, id, subject string, now time.Time) (string, error) {
	var owner string
	var expires, ended int64
	var disabled bool
	found, err := rd.Row(`SELECT s.subject_id, s.expires_at, s.ended_at, u.disabled
		FROM sp_sessions s JOIN sp_subjects u ON u.id = s.subject_id WHERE s.id = $1`, []any{id}, &owner, &expires, &ended, &disabled)
	switch {
	case err != nil:
		return "", err
	case !found:
		return "the session does not exist", nil
	case owner != subject:
		return "the session is another subject's", nil
	case ended != 0:
		return "the session has ended", nil
	case db.Micros(now) >= expires:
		return "the session has expired", nil
	case disabled:
		return "the account is disabled", nil
	}
	return "the session was not alive", nil
}

// readOwner returns whose a session is.
func readOwner(rd db.Reader, id string) (subject string, found bool, err error) {
	found, err = rd.Row("SELECT subject_id FROM sp_sessions WHERE id = $1", []any{id}, &subject)
	return subject, found, err
}

// readFamily reads what a refresh needs of its session. Every column costs: it
// is the writer that reads them, while others wait.
func readFamily(rd db.Reader, id string) (s Session, disabled bool, keysVersion int64, found bool, err error) {
	s.ID = id
	found, err = rd.Row(`SELECT s.subject_id, s.client_id, s.scoped, s.scope, s.amr, s.auth_time, s.idle_until, s.expires_at, s.ended_at,
		s.refresh, s.refreshed_at, u.disabled, v.signing_keys
		FROM sp_sessions s JOIN sp_subjects u ON u.id = s.subject_id JOIN sp_versions v ON v.id = 1 WHERE s.id = $1`, []any{id},
		&s.Subject, &s.Client, &s.Scoped, (*words)(&s.Scope), (*words)(&s.AMR), (*micros)(&s.AuthTime), (*micros)(&s.IdleUntil), (*micros)(&s.Expires), (*micros)(&s.Ended),
		&s.refresh, (*micros)(&s.refreshedAt), &disabled, &keysVersion)
	return s, disabled, keysVersion, found, err
}

// rotate replaces the refresh token that readFamily has found in the same transaction;
// exactly one caller can. It need not be looked at whether it did: transactions are
// serializable, so if somebody else has changed the session since, this one fails.
func rotate(tx *db.Tx, id string, generation int64, digest []byte, now, idleUntil time.Time) error {
	return tx.Later(`UPDATE sp_sessions SET refresh = $3, generation = generation + 1, refreshed_at = $4, last_used_at = $4, idle_until = $5
		WHERE id = $1 AND generation = $2 AND ended_at = 0`, id, generation, digest, db.Micros(now), db.Micros(idleUntil))
}

func endSession(tx *db.Tx, subject, id, reason string, now time.Time) (int64, error) {
	n, err := tx.Exec("UPDATE sp_sessions SET ended_at = $3, end_reason = $4 WHERE id = $1 AND subject_id = $2 AND ended_at = 0",
		id, subject, db.Micros(now), reason)
	return n, ended(tx, subject, n, err)
}

// endSessions ends also those that have expired: a clock that was ahead may be
// set back.
func endSessions(tx *db.Tx, subject, except, reason string, now time.Time) (int64, error) {
	n, err := tx.Exec("UPDATE sp_sessions SET ended_at = $3, end_reason = $4 WHERE subject_id = $1 AND id <> $2 AND ended_at = 0",
		subject, except, db.Micros(now), reason)
	return n, ended(tx, subject, n, err)
}

// endOldest leaves a subject no more than keep live sessions that began after
// since.
func endOldest(tx *db.Tx, subject string, keep int, since, now time.Time) (int64, error) {
	n, err := tx.Exec(`UPDATE sp_sessions SET ended_at = $3, end_reason = $4 WHERE id IN (
		SELECT id FROM sp_sessions WHERE subject_id = $1 AND ended_at = 0 AND created_at > $5 ORDER BY created_at DESC, id DESC LIMIT 100 OFFSET $2)`,
		subject, keep, db.Micros(now), tooMany, stored(since))
	return n, ended(tx, subject, n, err)
}

// ended declares that n sessions of a subject have ended, or may do something else.
func ended(tx *db.Tx, subject string, n int64, err error) error {
	if err != nil || n == 0 {
		return err
	}
	return tx.Changed(subject)
}

func listSessions(rd db.Reader, subject string, now time.Time) (out []Session, err error) {
	err = rd.Rows(`SELECT s.id, s.subject_id, s.client_id, s.scoped, s.scope, s.amr, s.mfa, s.auth_time, s.created_at, s.last_used_at,
		s.idle_until, s.expires_at, s.ended_at, s.end_reason, s.address, s.user_agent
		FROM sp_sessions s WHERE s.subject_id = $1 AND s.ended_at = 0 AND s.expires_at > $2 AND s.idle_until > $2
		ORDER BY s.created_at DESC, s.id DESC LIMIT $3`, []any{subject, db.Micros(now), maxSessions}, func(scan db.Scan) error {
		var s Session
		err := scan(&s.ID, &s.Subject, &s.Client, &s.Scoped, (*words)(&s.Scope), (*words)(&s.AMR), &s.MFA, (*micros)(&s.AuthTime), (*micros)(&s.Created), (*micros)(&s.LastUsed),
			(*micros)(&s.IdleUntil), (*micros)(&s.Expires), (*micros)(&s.Ended), &s.EndReason, &s.Address, &s.UserAgent)
		out = append(out, s)
		return err
	})
	return out, err
}

func insertAccess(tx *db.Tx, digest []byte, session string, scoped bool, scope []string, issued, expires time.Time) error {
	return tx.Later(`INSERT INTO sp_access_tokens (digest, session_id, scoped, scope, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		digest, session, scoped, strings.Join(scope, " "), db.Micros(issued), db.Micros(expires))
}

// readAccess reads what an access token of the session in c was issued as, and when.
func readAccess(rd db.Reader, digest []byte, c *sallyport.Claims, scope *[]string, issued *time.Time) (bool, error) {
	return rd.Row(`SELECT s.subject_id, s.client_id, s.auth_time, a.scoped, a.scope, a.expires_at, a.issued_at
		FROM sp_access_tokens a JOIN sp_sessions s ON s.id = a.session_id WHERE a.digest = $1 AND a.session_id = $2`,
		[]any{digest, c.Session}, &c.Subject, &c.Client, (*micros)(&c.AuthTime), &c.Scoped, (*words)(scope), (*micros)(&c.Expires), (*micros)(issued))
}

// readCookie reads what the session in c was begun as, and the digest of its
// refresh token or cookie.
func readCookie(rd db.Reader, c *sallyport.Claims, scope *[]string) (digest []byte, err error) {
	_, err = rd.Row(`SELECT subject_id, client_id, auth_time, scoped, scope, expires_at, refresh FROM sp_sessions WHERE id = $1`, []any{c.Session},
		&c.Subject, &c.Client, (*micros)(&c.AuthTime), &c.Scoped, (*words)(scope), (*micros)(&c.Expires), &digest)
	return digest, err
}

// storeUse notes the use of a session: only ever forward, only while it is alive,
// and never beyond its time in all.
func storeUse(tx *db.Tx, id string, at, idleUntil time.Time) error {
	return tx.Later(`UPDATE sp_sessions SET last_used_at = $2,
		idle_until = CASE WHEN expires_at < $3 THEN expires_at WHEN idle_until > $3 THEN idle_until ELSE $3 END
		WHERE id = $1 AND ended_at = 0 AND last_used_at < $2 AND idle_until > $2`, id, db.Micros(at), db.Micros(idleUntil))
}

// deleteAccess deletes access tokens that have expired.
func deleteAccess(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_access_tokens WHERE digest IN (SELECT digest FROM sp_access_tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
		db.Micros(before), limit)
}

func readAMR(rd db.Reader, id string) (amr []string, found bool, err error) {
	found, err = rd.Row("SELECT amr FROM sp_sessions WHERE id = $1", []any{id}, (*words)(&amr))
	return amr, found, err
}

func deleteExpired(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_sessions WHERE id IN (SELECT id FROM sp_sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
		db.Micros(before), limit)
}

// deleteEnded deletes sessions that were ended before a moment.
func deleteEnded(tx *db.Tx, before time.Time, limit int) (int64, error) {
	return tx.Exec("DELETE FROM sp_sessions WHERE id IN (SELECT id FROM sp_sessions WHERE ended_at > 0 AND ended_at < $1 ORDER BY ended_at LIMIT $2)",
		db.Micros(before), limit)
}

// strengthen notes that a second factor was used in a session.
func strengthen(tx *db.Tx, subject, id string, amr []string, now time.Time) (bool, error) {
	n, err := tx.Exec("UPDATE sp_sessions SET mfa = TRUE, amr = $3, auth_time = $4 WHERE id = $1 AND subject_id = $2 AND ended_at = 0",
		id, subject, strings.Join(amr, " "), db.Micros(now))
	return n == 1, ended(tx, subject, n, err)
}

// EndEvery ends up to limit of all sessions that are alive, and returns how many.
// It declares no change: whoever calls it lets every node forget everything
// (db.NewFeed).
func EndEvery(tx *db.Tx, reason string, now time.Time, limit int) (int64, error) {
	return tx.Exec("UPDATE sp_sessions SET ended_at = $1, end_reason = $2 WHERE id IN (SELECT id FROM sp_sessions WHERE ended_at = 0 LIMIT $3)",
		db.Micros(now), reason, limit)
}

// weaken notes that a session has no second factor any more.
func weaken(tx *db.Tx, subject, id string, amr []string) error {
	n, err := tx.Exec("UPDATE sp_sessions SET mfa = FALSE, amr = $3 WHERE id = $1 AND subject_id = $2 AND ended_at = 0", id, subject, strings.Join(amr, " "))
	return ended(tx, subject, n, err)
}
