package server_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// Rows of the tables that are cleaned: those up to $3 are old ($1), as many more are
// not ($2).
const (
	numbers = `WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 2 * CAST($3 AS BIGINT)),
		n AS (SELECT i, CASE WHEN i <= CAST($3 AS BIGINT) THEN CAST($1 AS BIGINT) ELSE CAST($2 AS BIGINT) END AS at FROM r) `
	bytesOfPostgres = `decode(lpad(to_hex(i), 16, '0'), 'hex')`
	bytesOfSQLite   = `CAST(printf('%016x', i) AS BLOB)`

	someSubjects = `INSERT INTO sp_subjects (id, kind, disabled, version, created_at) ` + numbers + `SELECT 'old-' || i, 'user', FALSE, 1, at FROM n`
	someSessions = `INSERT INTO sp_sessions (id, subject_id, client_id, scoped, scope, amr, mfa, auth_time, created_at, last_used_at, idle_until,
		expires_at, ended_at, end_reason, address, user_agent, generation, refresh, refreshed_at) ` + numbers
	expiredSessions = someSessions + `SELECT 'expired-' || i, 'old-1', '', FALSE, '', 'pwd', FALSE, 0, 0, 0, at, at, 0, '', '', '', 0, '', 0 FROM n`
	endedSessions   = someSessions + `SELECT 'ended-' || i, 'old-1', '', FALSE, '', 'pwd', FALSE, 0, 0, 0, at, 9000000000000000, at, 'logout', '', '', 0, '', 0 FROM n`
	someChanges     = `INSERT INTO sp_changes (what, at) ` + numbers + `SELECT 'change-' || i, at FROM n`
	someAttempts    = `INSERT INTO sp_attempts (account, network, failures, last_at, until, held, seen_at, forget_at) ` + numbers + `SELECT 'account', 'n' || i, 1, 0, 0, '', 0, at FROM n`
	someTurns       = `INSERT INTO sp_certificate_orders (directory, host, holder, until, attempts) ` + numbers + `SELECT 'd', 'h' || i, '', at, 1 FROM n`

	tokensHead  = `INSERT INTO sp_access_tokens (digest, session_id, scoped, scope, issued_at, expires_at) ` + numbers + `SELECT `
	tokensTail  = `, 'ended-' || (CAST($3 AS BIGINT) * 2), FALSE, '', 0, at FROM n`
	pendingHead = `INSERT INTO sp_pending_signins (digest, subject_id, bound, client_id, scoped, scope, cookie, tries, created_at, expires_at) ` + numbers + `SELECT `
	pendingTail = `, 'old-1', '', '', FALSE, '', FALSE, 0, 0, at FROM n`
	devicesHead = `INSERT INTO sp_devices (subject_id, device, seen_at, told_at) ` + numbers + `SELECT 'old-1', `
	devicesTail = `, at, 0 FROM n`
	lettersHead = `INSERT INTO sp_mail_tokens (digest, purpose, address, bound, payload, familiar, tries, used, created_at, expires_at) ` + numbers + `SELECT `
	lettersTail = `, 'verify', '', '', '', FALSE, 0, FALSE, at, at FROM n`
	totpHead    = `INSERT INTO sp_totp (subject_id, enrolment, sealed, confirmed, last_step, created_at) ` + numbers + `SELECT 'old-' || i, 'e', `
	totpTail    = `, i % 2 = 0, 0, at FROM n` // every other one is confirmed
	outboxHead  = `INSERT INTO sp_outbox (id, kind, sealed, attempts, due_at, created_at, expires_at, failure) ` + numbers + `SELECT 'l' || i, 'verify', `
	outboxTail  = `, 0, at, 0, at, '' FROM n`
	certsHead   = `INSERT INTO sp_certificates (directory, name, sealed, transient, updated_at) ` + numbers + `SELECT 'd', 'c' || i, `
	certsTail   = `, i % 2 = 0, at FROM n` // every other one is a challenge
)

// Of each table that is cleaned what is old goes and what is not stays, in
// transactions that are small and those of the one whose turn it is.
func TestCleanUp(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, func(c *server.Config) { c.CleanEvery = time.Hour }) // not by itself
		now := w.clock.now()
		ago := func(d time.Duration) int64 { return db.Micros(now.Add(-d)) }
		const day, many, moment = 24 * time.Hour, 2100, 20 * time.Minute
		exec := func(q func(tx *db.Tx, sqlite bool) error) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error { return q(tx, d.Dialect() == db.SQLite) }); err != nil {
				t.Fatal(err)
			}
		}
		// fill adds rows that were old for a moment when they are deleted, and such as
		// will be in a moment.
		fill := func(many int, age time.Duration, insert func(tx *db.Tx, sqlite bool, args ...any) error) {
			t.Helper()
			exec(func(tx *db.Tx, sqlite bool) error { return insert(tx, sqlite, ago(age+moment), ago(age-moment), many) })
		}
		done := func(_ int64, err error) error { return err }
		fill(many, 0, func(tx *db.Tx, _ bool, args ...any) error { return done(tx.Exec(someSubjects, args...)) })
		fill(many, cleanup.Skew+day, func(tx *db.Tx, _ bool, args ...any) error { return done(tx.Exec(expiredSessions, args...)) })
		fill(many, cleanup.Skew+15*day, func(tx *db.Tx, _ bool, args ...any) error { return done(tx.Exec(endedSessions, args...)) })
		fill(many, 3*time.Hour, func(tx *db.Tx, _ bool, args ...any) error { return done(tx.Exec(someChanges, args...)) })
		fill(many, cleanup.Skew, func(tx *db.Tx, _ bool, args ...any) error { return done(tx.Exec(someAttempts, args...)) })
		fill(many, cleanup.Skew+30*day, func(tx *db.Tx, _ bool, args ...any) error { return done(tx.Exec(someTurns, args...)) })
		fill(many, cleanup.Skew, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(tokensHead+bytesOfSQLite+tokensTail, args...))
			}
			return done(tx.Exec(tokensHead+bytesOfPostgres+tokensTail, args...))
		})
		fill(many, cleanup.Skew, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(pendingHead+bytesOfSQLite+pendingTail, args...))
			}
			return done(tx.Exec(pendingHead+bytesOfPostgres+pendingTail, args...))
		})
		fill(many, cleanup.Skew+180*day, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(devicesHead+bytesOfSQLite+devicesTail, args...))
			}
			return done(tx.Exec(devicesHead+bytesOfPostgres+devicesTail, args...))
		})
		fill(many, cleanup.Skew+day, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(lettersHead+bytesOfSQLite+lettersTail, args...))
			}
			return done(tx.Exec(lettersHead+bytesOfPostgres+lettersTail, args...))
		})
		fill(many, cleanup.Skew+10*time.Minute, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(totpHead+bytesOfSQLite+totpTail, args...))
			}
			return done(tx.Exec(totpHead+bytesOfPostgres+totpTail, args...))
		})
		fill(many/4, 0, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(outboxHead+bytesOfSQLite+outboxTail, args...))
			}
			return done(tx.Exec(outboxHead+bytesOfPostgres+outboxTail, args...))
		})
		fill(many, cleanup.Skew, func(tx *db.Tx, sqlite bool, args ...any) error {
			if sqlite {
				return done(tx.Exec(certsHead+bytesOfSQLite+certsTail, args...))
			}
			return done(tx.Exec(certsHead+bytesOfPostgres+certsTail, args...))
		})

		// Triggers note what is deleted in which transaction: each counts in sp_cleanup.
		exec(func(tx *db.Tx, sqlite bool) error {
			if _, err := tx.Exec("CREATE TABLE t_deleted (beat BIGINT)"); err != nil {
				return err
			}
			if !sqlite {
				_, err := tx.Exec(`CREATE FUNCTION t_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; RETURN NULL; END $$;
					DO $$ DECLARE x text; BEGIN
						FOR x IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND left(tablename, 3) = 'sp_' AND tablename NOT IN ('sp_cleanup', 'sp_outbox', 'sp_audit_waiting') LOOP
							EXECUTE format('CREATE TRIGGER t_note AFTER DELETE ON %I FOR EACH ROW EXECUTE FUNCTION t_note()', x);
						END LOOP; END $$`)
				return err
			}
			for _, create := range []func() (int64, error){
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_1 AFTER DELETE ON sp_sessions BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_2 AFTER DELETE ON sp_access_tokens BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_3 AFTER DELETE ON sp_changes BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_4 AFTER DELETE ON sp_attempts BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_5 AFTER DELETE ON sp_certificate_orders BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_6 AFTER DELETE ON sp_certificates BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_7 AFTER DELETE ON sp_pending_signins BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_8 AFTER DELETE ON sp_devices BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_9 AFTER DELETE ON sp_mail_tokens BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
				func() (int64, error) {
					return tx.Exec("CREATE TRIGGER t_10 AFTER DELETE ON sp_totp BEGIN INSERT INTO t_deleted SELECT beat FROM sp_cleanup; END")
				},
			} {
				if _, err := create(); err != nil {
					return err
				}
			}
			return nil
		})
		var mu sync.Mutex
		letters, most := 0, 0 // of one transaction
		d.Trace(func(statement string) {
			mu.Lock()
			defer mu.Unlock()
			if statement == "begin" {
				letters = 0
			} else if strings.HasPrefix(statement, "DELETE FROM sp_outbox") {
				letters++
				most = max(most, letters)
			}
		})
		w.cleanUp()
		d.Trace(nil)

		var got string
		count := func(name string, want, n int) {
			t.Helper()
			if n != want {
				t.Errorf("%s: %d rows are left, want %d", name, n, want)
			}
			got += name + " "
		}
		rd := d.View(t.Context())
		read := func(name string, want int, q func(n *int) (bool, error)) {
			t.Helper()
			var n int
			if _, err := q(&n); err != nil {
				t.Fatal(err)
			}
			count(name, want, n)
		}
		read("sp_sessions", 2*many, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_sessions", nil, n) })
		read("sp_access_tokens", many, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_access_tokens", nil, n) })
		read("sp_pending_signins", many, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_pending_signins", nil, n) })
		read("sp_devices", many, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_devices", nil, n) })
		read("sp_mail_tokens", many, func(n *int) (bool, error) {
			return rd.Row("SELECT COUNT(*) FROM sp_mail_tokens WHERE purpose = 'verify'", nil, n)
		})
		read("sp_attempts", many, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_attempts", nil, n) })
		read("sp_changes", many, func(n *int) (bool, error) {
			return rd.Row("SELECT COUNT(*) FROM sp_changes WHERE substr(what, 1, 7) = 'change-'", nil, n)
		})
		read("sp_totp", many+many/2, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_totp", nil, n) })
		read("sp_outbox", many/4, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_outbox", nil, n) })
		read("sp_certificates", many+many/2, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_certificates", nil, n) })
		read("sp_certificate_orders", many, func(n *int) (bool, error) { return rd.Row("SELECT COUNT(*) FROM sp_certificate_orders", nil, n) })
		cleaned := w.cleaned()
		for _, name := range cleaned {
			if !strings.Contains(got, name+" ") {
				t.Errorf("%s is cleaned, and nothing tries it", name)
			}
		}

		var largest, transactions, rows int
		if _, err := rd.Row("SELECT MAX(n), COUNT(*), SUM(n) FROM (SELECT COUNT(*) AS n FROM t_deleted GROUP BY beat) c", nil, &largest, &transactions, &rows); err != nil {
			t.Fatal(err)
		}
		if want := 9*many + 2*(many/2); largest > cleanup.Batch || rows != want || most == 0 || most > cleanup.Batch {
			t.Errorf("%d rows in %d transactions, the largest of %d; %d letters at most; want %d rows", rows, transactions, largest, most, want)
		}
		t.Logf("%d rows in %d transactions, the largest of %d", rows, transactions, largest)

		s := w.scrape(openMetrics)
		s.want(t, `sallyport_cleanup_deleted_total{table="sp_sessions"}`, 2*many)
		s.want(t, `sallyport_cleanup_deleted_total{table="sp_outbox"}`, many/4)
		s.want(t, `sallyport_cleanup_failures_total`, 0)
		if age, ok := s.values["sallyport_cleanup_age_seconds"]; !ok || age > 600 {
			t.Errorf("cleaned %v s ago (told: %v)", age, ok)
		}
	})
}

// cleaned names the tables of which the server deletes what is old.
func (w *world) cleaned() (names []string) {
	w.t.Helper()
	for _, f := range w.sv.Metrics(w.t.Context()) {
		if f.Name == "sallyport_cleanup_deleted_total" {
			for _, p := range f.Points {
				names = append(names, p.Labels[0])
			}
		}
	}
	return names
}

// A reused refresh token is told from nonsense for as long as it would have been
// good, however soon its session was ended.
func TestCleanUpKeepsWhatReuseIsSeenBy(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, func(c *server.Config) { c.RefreshTTL = 2 * time.Hour })
		_, tk := w.user("ada")
		w.do("POST", "/auth/logout", tk.access, nil).want(t, 204, "")
		sessions := func() (n int) {
			if _, err := d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_sessions", nil, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		reuse := func() {
			w.form("/token", "grant_type", "refresh_token", "refresh_token", tk.refresh).want(t, 400, "invalid_grant")
		}
		w.clock.advance(26 * time.Hour)
		if w.cleanUp(); sessions() != 1 {
			t.Error("a session went before its tokens were a day old")
		}
		reuse()
		w.clock.advance(2 * time.Hour)
		if w.cleanUp(); sessions() != 0 {
			t.Error("a session that was ended long ago is kept")
		}
		reuse()
	})
}

// Every table is either cleaned or written down in docs/database.md with the reason
// why it does not grow without end.
func TestEveryTableIsCleanedOrExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/database.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## What is deleted, and when\n")
	if !ok {
		t.Fatal("docs/database.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	goes, stays, ok := strings.Cut(section, "\n### What stays\n")
	if !ok {
		t.Fatal("docs/database.md does not say what stays")
	}
	named := func(text string) (names []string) {
		for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \| [^|]{20,} \|$`).FindAllStringSubmatch(text, -1) {
			for _, name := range regexp.MustCompile("`(sp_\\w+)`").FindAllStringSubmatch(m[1], -1) {
				names = append(names, name[1])
			}
		}
		slices.Sort(names)
		return names
	}
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, func(c *server.Config) { c.AuditRetention = 48 * time.Hour })
		var all []string
		each := func(scan db.Scan) error {
			var name string
			err := scan(&name)
			all = append(all, name)
			return err
		}
		if d.Dialect() == db.SQLite {
			err = d.View(t.Context()).Rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 3) = 'sp_'", nil, each)
		} else {
			err = d.View(t.Context()).Rows("SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND left(tablename, 3) = 'sp_'", nil, each)
		}
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		cleaned := w.cleaned()
		slices.Sort(cleaned)
		if got := named(goes); !slices.Equal(got, cleaned) {
			t.Errorf("docs/database.md says that these are cleaned:\n%v\nand these are:\n%v", got, cleaned)
		}
		both := append(named(goes), named(stays)...)
		slices.Sort(both)
		if !slices.Equal(both, all) {
			t.Errorf("every table needs a clean-up (Server.cleanup) or a reason why it does not grow without end, in docs/database.md. There are:\n%v\nand these are written down:\n%v", all, both)
		}
	})
}
