package server_test

import (
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/store/postgres"
)

// opaque has the server issue access tokens that are no JWTs.
func opaque(c *server.Config) { c.TokenFormat = session.Opaque }

// current returns the id of the session of an access token of any form.
func (w *world) current(access string) string {
	w.t.Helper()
	for _, item := range w.do("GET", "/users/me/sessions", access, nil).want(w.t, 200, "").json(w.t)["items"].([]any) {
		if m := item.(map[string]any); m["current"] == true {
			return m["id"].(string)
		}
	}
	w.t.Fatal("no session is the current one")
	return ""
}

// count returns how many opaque access tokens are stored.
func (w *world) count() (n int) {
	w.t.Helper()
	if _, err := w.db.View(w.t.Context()).Row("SELECT count(*) FROM sp_access_tokens", nil, &n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// The whole life of a session is the same with opaque access tokens.
func TestR_OpaqueLife(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, opaque)
		w.user("ada", "admin")
		r := w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 200, "")
		first := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		if !strings.HasPrefix(first.access, "at_") || len(first.access) != 90 || r.text(t, "token_type") != "bearer" || r.json(t)["expires_in"] != 900.0 || r.text(t, "scope") != "" {
			t.Fatalf("%s", r.body)
		}
		if got := w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": goodPassword}).want(t, 200, "").text(t, "access_token"); !strings.HasPrefix(got, "at_") || !w.alive(got) {
			t.Errorf("POST /auth/login gave %.20s", got)
		}
		if !w.alive(first.access) {
			t.Fatal("a fresh access token is refused")
		}
		sid := w.current(first.access)

		// A refresh, and a lost response.
		second := w.refresh(first)
		w.clock.advance(9 * time.Second)
		again := w.refresh(first)
		if again.refresh != second.refresh || again.access == second.access {
			t.Error("the repeated refresh gave another successor, or the same access token")
		}
		for what, access := range map[string]string{"first": first.access, "second": second.access, "again": again.access} {
			if !w.alive(access) || w.current(access) != sid {
				t.Errorf("the %s access token is dead, or of another session", what)
			}
		}

		// Reuse ends all.
		w.clock.advance(time.Minute)
		w.send(w.refreshRequests(first.refresh)["/token"]).want(t, 400, "invalid_grant")
		for _, tk := range []tokens{first, second, again} {
			w.dead("after the reuse", tk)
		}

		// Logout, and the other ways to end a session.
		for what, end := range map[string]func(tk tokens){
			"logout":         func(tk tokens) { w.do("POST", "/logout", tk.access, nil).want(t, 200, "") },
			"logout without": func(tk tokens) { w.do("POST", "/auth/logout", tk.access, nil).want(t, 204, "") },
			"by its id": func(tk tokens) {
				w.do("DELETE", "/users/me/sessions/"+w.current(tk.access), tk.access, nil).want(t, 204, "")
			},
			"logout from all": func(tk tokens) { w.do("POST", "/logout/all", tk.access, nil).want(t, 200, "") },
			"by another of it": func(tk tokens) {
				w.do("DELETE", "/users/me/sessions/"+w.current(tk.access), w.signIn("ada", goodPassword).access, nil).want(t, 204, "")
			},
		} {
			tk := w.signIn("ada", goodPassword)
			if !w.alive(tk.access) {
				t.Fatal("a fresh access token is refused")
			}
			end(tk)
			w.dead(what, tk)
		}

		// A changed password ends the others and not this one.
		here, other := w.signIn("ada", goodPassword), w.signIn("ada", goodPassword)
		if !w.alive(other.access) {
			t.Fatal("a fresh access token is refused")
		}
		w.do("PUT", "/users/me/password", here.access, map[string]string{"current_password": goodPassword, "new_password": "marzipan under the piano"}).want(t, 204, "")
		w.dead("after the password changed", other)
		if !w.alive(here.access) {
			t.Error("the session that changed the password ended")
		}

		// Its time.
		w.clock.advance(15*time.Minute - 2*time.Second)
		if !w.alive(here.access) {
			t.Error("an access token died before its time")
		}
		w.clock.advance(3 * time.Second)
		if w.alive(here.access) {
			t.Error("an access token lives longer than its time")
		}
		if !w.alive(w.refresh(here).access) {
			t.Error("the session does not go on")
		}
		for _, e := range w.events("session.started", 8) {
			noSecretsIn(t, []audit.Record{e}, here.access, here.refresh)
		}
	})
}

// A narrower scope is that of the one access token.
func TestR_OpaqueScope(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, opaque)
		w.user("ada", "admin")
		tk := w.signIn("ada", goodPassword, "scope", "read:users write:users")
		r := w.form("/token", "grant_type", "refresh_token", "refresh_token", tk.refresh, "scope", "write:users").want(t, 200, "")
		narrow := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		if r.text(t, "scope") != "write:users" {
			t.Errorf("scope %q", r.text(t, "scope"))
		}
		none := w.signIn("ada", goodPassword, "scope", "") // as good as none
		for range 2 {                                      // from the database, and from memory
			w.do("GET", "/users", tk.access, nil).want(t, 200, "")
			w.do("GET", "/users", narrow.access, nil).want(t, 403, "insufficient_scope")
			w.do("GET", "/users", none.access, nil).want(t, 200, "")
			w.do("GET", "/users/me/sessions", tk.access, nil).want(t, 403, "insufficient_scope")
		}
		w.form("/token", "grant_type", "refresh_token", "refresh_token", narrow.refresh, "scope", "read:audit").want(t, 400, "invalid_scope")
		wide := w.refresh(narrow)
		w.do("GET", "/users", wide.access, nil).want(t, 200, "")
	})
}

// Both forms are accepted whatever is issued: who switches logs nobody out.
func TestR_SwitchingTheFormat(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		jwts, opaques := pair(t, d, opaque)
		_, a := jwts.user("ada")
		b := opaques.signIn("ada", goodPassword)
		if strings.Count(a.access, ".") != 2 || !strings.HasPrefix(b.access, "at_") {
			t.Fatalf("%.12s, %.12s", a.access, b.access)
		}
		for _, w := range []*world{jwts, opaques} {
			if !w.alive(a.access) || !w.alive(b.access) {
				t.Error("a form is refused")
			}
		}
		a2, b2 := opaques.refresh(a), jwts.refresh(b)
		if !strings.HasPrefix(a2.access, "at_") || strings.Count(b2.access, ".") != 2 {
			t.Errorf("after the switch: %.12s, %.12s", a2.access, b2.access)
		}
		for _, tk := range []tokens{a2, b2} {
			if !jwts.alive(tk.access) || !opaques.alive(tk.access) {
				t.Error("a form is refused after the switch")
			}
		}
		jwts.do("POST", "/logout", a2.access, nil).want(t, 200, "")
		opaques.dead("logged out at another node", a2)
		if jwts.alive(a.access) || opaques.alive(a.access) {
			t.Error("the JWT of the session lives")
		}
	})
}

// Fifty refreshes at once: one chain, fifty access tokens that are good.
func TestR_OpaqueParallelRefresh(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, opaque)
		_, tk := w.user("ada")
		var mu sync.Mutex
		refreshes, accesses := map[string]bool{}, map[string]bool{}
		parallel(50, func(int) {
			r := w.send(w.refreshRequests(tk.refresh)["/token"]).want(t, 200, "")
			mu.Lock()
			defer mu.Unlock()
			refreshes[r.text(t, "refresh_token")], accesses[r.text(t, "access_token")] = true, true
		})
		if len(refreshes) != 1 || len(accesses) != 50 || w.count() != 51 {
			t.Errorf("%d successors, %d access tokens, %d stored", len(refreshes), len(accesses), w.count())
		}
		for a := range accesses {
			if !w.alive(a) {
				t.Fatal("an access token of the chain is dead")
			}
		}
	})
}

// What is expired is deleted, in steps; what is not, stays.
func TestR_OpaqueSweep(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, opaque)
		_, tk := w.user("ada")
		const many = 1100 // more than two steps
		session := w.current(tk.access)
		// A hundred in a transaction: on a busy machine more would not be through in time.
		for first := 0; first < many; first += 100 {
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				for i := first; i < first+100; i++ {
					digest := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
					if _, err := tx.Exec("INSERT INTO sp_access_tokens (digest, session_id, scoped, scope, issued_at, expires_at) VALUES ($1, $2, FALSE, '', 0, $3)",
						digest[:], session, db.Micros(w.clock.now().Add(-time.Second-cleanup.Skew))); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if w.cleanUp(); w.count() != 1 {
			t.Errorf("%d access tokens left", w.count())
		}
		if !w.alive(tk.access) {
			t.Error("a token that is good was deleted")
		}
		// With the session its tokens go too.
		w.clock.advance(32 * 24 * time.Hour)
		if w.cleanUp(); w.count() != 0 {
			t.Errorf("%d access tokens left", w.count())
		}
		w.signIn("ada", goodPassword)
		w.do("DELETE", "/users/me", w.signIn("ada", goodPassword).access, nil).want(t, 204, "")
		if w.count() != 0 {
			t.Errorf("%d access tokens of an account that is gone", w.count())
		}
	})
}

// Forged, changed, expired and unknown ones get one answer; the tag refuses
// nonsense before the database is asked.
func TestJ_ForgedOpaque(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, opaque)
		_, tk := w.user("ada")
		_, eve := w.user("eve")
		raw, err := b64.DecodeString(tk.access[3:])
		if err != nil {
			t.Fatal(err)
		}
		evil, _ := b64.DecodeString(eve.access[3:])
		forged := map[string]string{"only the prefix": "at_", "nonsense": "at_nonsense", "long": "at_" + strings.Repeat("A", 5000), "no prefix": tk.access[3:], "as a JWT": "at_x.y.z", "padded": tk.access + "="}
		for name, i := range map[string]int{"version": 0, "session": 9, "secret": 20, "tag": 64} {
			c := append([]byte{}, raw...)
			c[i] ^= 1
			forged["another "+name] = "at_" + b64.EncodeToString(c)
		}
		copy(evil[1:17], raw[1:17])
		forged["eve's for ada's session"] = "at_" + b64.EncodeToString(evil)
		digest := sha256.Sum256([]byte(tk.access))
		forged["the digest"] = "at_" + b64.EncodeToString(digest[:])
		nonsense := w.do("GET", "/users/me", "x.y.z", nil).want(t, 401, "invalid_token")
		gone := w.signIn("ada", goodPassword).access
		before, stored := w.holdings(), w.count()
		tr := w.trail()
		for what, text := range forged {
			alike(t, what, tr.send(what, w.with("GET", "/users/me", "Bearer "+text)), nonsense)
		}
		// One that was good and is gone, with a right tag.
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			digest := sha256.Sum256([]byte(gone))
			_, err := tx.Exec("DELETE FROM sp_access_tokens WHERE digest = $1", digest[:])
			return err
		}); err != nil || w.count() != stored-1 {
			t.Fatalf("%v; %d tokens left of %d", err, w.count(), stored)
		}
		alike(t, "gone", tr.send("gone", w.with("GET", "/users/me", "Bearer "+gone)), nonsense)
		tr.audited("credential.refused", audit.Failure, tk.access, eve.access, gone)
		w.holds(before)
		if !w.alive(tk.access) || !w.alive(eve.access) {
			t.Error("the genuine one is refused")
		}
	})
}

// Whoever steals the database holds no access token: neither a digest nor
// anything else of a row is accepted.
func TestR_OpaqueStoredHashed(t *testing.T) {
	run := func(t *testing.T, d *db.DB, raw *sql.DB, tablesQuery string) {
		w := newWorld(t, d, nil, opaque)
		_, tk := w.user("ada")
		b, err := b64.DecodeString(tk.access[3:])
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte(tk.access))
		seen, values := 0, map[string]bool{}
		everyValue(t, raw, tablesQuery, func(where string, value []byte) {
			for what, secret := range map[string][]byte{"token": []byte(tk.access), "token without its prefix": []byte(tk.access[3:]), "secret": b[17:49], "tag": b[49:]} {
				if strings.Contains(string(value), string(secret)) {
					t.Errorf("%s holds the %s", where, what)
				}
			}
			if string(value) == string(digest[:]) {
				seen++
			}
			if strings.HasPrefix(where, "sp_sessions.") || strings.HasPrefix(where, "sp_access_tokens.") {
				for _, text := range []string{string(value), hex.EncodeToString(value), b64.EncodeToString(value), base64.StdEncoding.EncodeToString(value)} {
					values[text] = true
				}
			}
		})
		if seen != 1 || len(values) < 10 {
			t.Fatalf("the digest was seen %d times among %d values: the search is blind", seen, len(values))
		}
		tr := w.trail()
		for text := range values {
			if strings.ContainsAny(text, "\x00\r\n") || !isPrintable(text) {
				continue
			}
			for _, try := range []string{text, "at_" + text, "at_" + b64.EncodeToString(append(append([]byte{}, b[:17]...), digest[:]...))} {
				tr.send(try, w.with("GET", "/users/me", "Bearer "+try)).want(t, 401, "invalid_token")
			}
		}
		if !w.alive(tk.access) {
			t.Error("the genuine one is refused")
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		d := testkit.SQLite(t)
		raw, err := sql.Open("sqlite", "file:"+filepath.Join(d.Dir(), "sallyport.db")+"?mode=ro")
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		run(t, d, raw, "SELECT name FROM sqlite_master WHERE type = 'table'")
	})
	t.Run("postgres", func(t *testing.T) {
		address := testkit.PostgresURL(t)
		d, err := postgres.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		raw, err := sql.Open("pgx", address)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		run(t, d, raw, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
	})
}

func isPrintable(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}
