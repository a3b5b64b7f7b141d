package server_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/postgres"
)

// refreshRequests are the two ways to refresh.
func (w *world) refreshRequests(refresh string) map[string]*http.Request {
	w.t.Helper()
	return map[string]*http.Request{
		"/token":         w.typed("POST", "/token", formType, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}.Encode()),
		"/token/refresh": w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": refresh}),
	}
}

// refresh exchanges a refresh token that is good.
func (w *world) refresh(tk tokens) tokens {
	w.t.Helper()
	r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(w.t, 200, "")
	return tokens{r.text(w.t, "access_token"), r.text(w.t, "refresh_token")}
}

// dead fails unless nothing of a session is good any more.
func (w *world) dead(what string, tk tokens) {
	w.t.Helper()
	if w.alive(tk.access) {
		w.t.Errorf("%s: the access token lives", what)
	}
	for way, req := range w.refreshRequests(tk.refresh) {
		want := map[string]int{"/token": 400, "/token/refresh": 401}[way]
		if r := w.send(req); r.status != want {
			w.t.Errorf("%s: the refresh token at %s: status %d, want %d: %.200s", what, way, r.status, want, r.body)
		}
	}
}

// A refresh token that was used before ends all that came of it, whichever of
// them it is, and nothing else.
func TestR_Reuse(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, bystander := w.user("bob")
		w.register("ada")
		sibling := w.signIn("ada", goodPassword)
		nonsense := map[string]reply{}
		for way, req := range w.refreshRequests("rt_nonsense") {
			nonsense[way] = w.send(req)
		}
		reused := 0
		for _, way := range []string{"/token", "/token/refresh"} {
			for _, which := range []string{"first", "second", "parent, late"} {
				what := which + " at " + way
				first := w.signIn("ada", goodPassword)
				second := w.refresh(first)
				third := w.refresh(second)
				old := map[string]tokens{"first": first, "second": second, "parent, late": second}[which]
				if which != "first" {
					w.clock.advance(11 * time.Second)
				}
				tr := w.trail()
				r := tr.send(what, w.refreshRequests(old.refresh)[way])
				alike(t, what, r, nonsense[way])
				tr.audited("refresh.reused", audit.Failure, first.refresh, second.refresh, third.refresh, first.access, third.access)
				reused++
				for _, tk := range []tokens{first, second, third} {
					w.dead(what, tk)
				}
				// The second attempt is no second theft.
				if n := len(w.events("refresh.reused", reused)); n != reused {
					t.Errorf("%s: %d events, want %d", what, n, reused)
				}
			}
		}
		if !w.alive(sibling.access) || !w.alive(bystander.access) {
			t.Error("another session died")
		}
		w.refresh(sibling)
		w.refresh(bystander)
	})
}

// A forged refresh token ends nobody's session: only the server makes them.
func TestR_ForgedReuse(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("ada")
	_, eve := w.user("eve")
	tk = w.refresh(tk)
	body, err := b64.DecodeString(strings.TrimPrefix(tk.refresh, "rt_"))
	if err != nil {
		t.Fatal(err)
	}
	evesBody, _ := b64.DecodeString(strings.TrimPrefix(eve.refresh, "rt_"))
	before := w.holdings()
	want := map[string]reply{}
	for way, req := range w.refreshRequests("rt_nonsense") {
		want[way] = w.send(req)
	}
	forged := map[string]string{"nothing": "rt_", "no prefix": strings.TrimPrefix(tk.refresh, "rt_"), "long": "rt_" + strings.Repeat("A", 1000), "eve's with ada's session": ""}
	at := func(b []byte, i int, x byte) string {
		c := bytes.Clone(b)
		c[i] ^= x
		return "rt_" + b64.EncodeToString(c)
	}
	for name, i := range map[string]int{"version": 0, "session": 3, "generation": 20, "secret": 30, "tag": len(body) - 1} {
		forged["another "+name] = at(body, i, 1)
	}
	mixed := bytes.Clone(evesBody)
	copy(mixed[1:17], body[1:17])
	forged["eve's with ada's session"] = "rt_" + b64.EncodeToString(mixed)
	forged["cut"] = "rt_" + b64.EncodeToString(body[:len(body)-1])
	forged["longer"] = "rt_" + b64.EncodeToString(append(bytes.Clone(body), 0))
	forged["other alphabet"] = "rt_" + base64.RawStdEncoding.EncodeToString(body) + "="
	last := tk.refresh[len(tk.refresh)-1]
	forged["other last bits"] = tk.refresh[:len(tk.refresh)-1] + string(rune(last+1))
	tr := w.trail()
	for what, text := range forged {
		for way, req := range w.refreshRequests(text) {
			alike(t, what, tr.send(what+" at "+way, req), want[way])
		}
	}
	tr.audited("refresh.refused", audit.Failure, tk.refresh, eve.refresh)
	w.holds(before)
	if len(w.events("refresh.reused", 0)) != 0 {
		t.Error("a forged token counts as a reuse")
	}
	w.refresh(tk)
}

// Within ten seconds the same client gets the same successor again: a lost
// response is no theft. The successor, once used, ends that.
func TestR_LostResponse(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, first := w.user("ada")
		second := w.refresh(first)
		w.clock.advance(9 * time.Second)
		before := w.holdings()
		for way, req := range w.refreshRequests(first.refresh) {
			r := w.send(req).want(t, 200, "")
			if r.text(t, "refresh_token") != second.refresh {
				t.Errorf("%s gave another successor", way)
			}
			if !w.alive(r.text(t, "access_token")) {
				t.Errorf("%s gave a dead access token", way)
			}
		}
		w.holds(before) // in particular the ten seconds do not begin again
		third := w.refresh(second)
		w.send(w.refreshRequests(first.refresh)["/token"]).want(t, 400, "invalid_grant")
		w.dead("after the successor was used", third)

		// The eleventh second is too late, however often it was repeated before.
		_, first = w.user("bob")
		second = w.refresh(first)
		for range 3 {
			w.clock.advance(3 * time.Second)
			w.refresh(first)
		}
		w.clock.advance(2 * time.Second)
		w.send(w.refreshRequests(first.refresh)["/token"]).want(t, 400, "invalid_grant")
		w.dead("after eleven seconds", second)
	})
}

// Fifty at once with one refresh token get one chain, and everything of it is
// good.
func TestR_ParallelRefresh(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, tk := w.user("ada")
		sid := sessionOf(t, tk.access)
		var mu sync.Mutex
		refreshes, accesses := map[string]bool{}, []string{}
		parallel(50, func(i int) {
			way := []string{"/token", "/token/refresh"}[i%2]
			r := w.send(w.refreshRequests(tk.refresh)[way])
			if r.status != 200 {
				t.Errorf("status %d: %s", r.status, r.body)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			refreshes[r.text(t, "refresh_token")] = true
			accesses = append(accesses, r.text(t, "access_token"))
		})
		if len(refreshes) != 1 || refreshes[tk.refresh] {
			t.Fatalf("%d different successors, want 1 that is new", len(refreshes))
		}
		for _, a := range append(accesses, tk.access) {
			if !w.alive(a) || sessionOf(t, a) != sid {
				t.Error("an access token of the chain is dead, or of another session")
			}
		}
		if n := len(w.events("session.refreshed", 1)); n != 1 {
			t.Errorf("rotated %d times, want once", n)
		}
		for refresh := range refreshes {
			if next := w.refresh(tokens{refresh: refresh}); !w.alive(next.access) {
				t.Error("the chain does not go on")
			}
		}
		if n := len(w.events("refresh.reused", 0)); n != 0 {
			t.Errorf("%d reuses", n)
		}
	})
}

// What was used or ended stays so after a restart, and for another node; what
// was not, goes on.
func TestR_Restart(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w1, w2 := pair(t, d)
		_, first := w1.user("ada")
		second := w1.refresh(first)
		out := w1.signIn("ada", goodPassword)
		stays := w1.signIn("ada", goodPassword)
		w1.do("POST", "/logout", out.access, nil).want(t, 200, "")
		w2.dead("logged out at another node", out)
		if !w2.alive(second.access) || !w2.alive(stays.access) {
			t.Fatal("another node does not know the session")
		}
		w1.http.Close()
		w1.sv.Close()

		w2.dead("logged out before the restart", out)
		if again := w2.refresh(first); again.refresh != second.refresh {
			t.Error("the successor is another after a restart")
		}
		w1.clock.advance(11 * time.Second)
		w2.send(w2.refreshRequests(first.refresh)["/token/refresh"]).want(t, 401, "invalid_token")
		w2.dead("reused after the restart", second)
		noSecretsIn(t, w2.events("refresh.reused", 1), first.refresh, second.refresh)
		if !w2.alive(w2.refresh(stays).access) {
			t.Error("a session did not survive the restart")
		}
	})
}

// A refresh token is good for the client it was issued to; another one's
// attempt changes nothing.
func TestR_AnotherClient(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, own := w.user("ada")
	docs := w.signIn("ada", goodPassword, "client_id", "docs")
	used := docs
	r := w.form("/token", "grant_type", "refresh_token", "refresh_token", docs.refresh, "client_id", "docs").want(t, 200, "")
	docs = tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
	w.clock.advance(time.Minute)
	nonsense := w.form("/token", "grant_type", "refresh_token", "refresh_token", "rt_nonsense")
	before := w.holdings()
	tr := w.trail()
	for what, v := range map[string]url.Values{
		"docs's by us":                    {"refresh_token": {docs.refresh}},
		"docs's by us by name":            {"refresh_token": {docs.refresh}, "client_id": {"first-party"}},
		"docs's used one by us":           {"refresh_token": {used.refresh}},
		"ours by docs":                    {"refresh_token": {own.refresh}, "client_id": {"docs"}},
		"ours by docs with a wider scope": {"refresh_token": {own.refresh}, "client_id": {"docs"}, "scope": {"role:admin"}},
	} {
		v.Set("grant_type", "refresh_token")
		alike(t, what, tr.send(what, w.typed("POST", "/token", formType, v.Encode())), nonsense)
	}
	w.send(w.refreshRequests(docs.refresh)["/token/refresh"]).want(t, 401, "invalid_token") // which is for our own client
	w.holds(before)
	tr.audited("refresh.refused", audit.Failure, own.refresh, docs.refresh, used.refresh)
	if !w.alive(docs.access) || !w.alive(own.access) {
		t.Error("a session died of another client's attempt")
	}
	w.refresh(own)
	w.form("/token", "grant_type", "refresh_token", "refresh_token", docs.refresh, "client_id", "docs").want(t, 200, "")
}

// A refresh may narrow the scope of the access token, and never widen it.
func TestR_Scope(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.user("ada", "admin")
		tk := w.signIn("ada", goodPassword, "scope", "read:users write:users")
		ask := func(refresh, scope string) reply {
			return w.form("/token", "grant_type", "refresh_token", "refresh_token", refresh, "scope", scope)
		}
		before := w.holdings()
		for _, scope := range []string{
			"read:users write:users delete:users", "delete:users", "role:admin", "no:such", "READ:USERS", "read:users  write:users", "*", strings.Repeat("a ", 70) + "a",
		} {
			quiet(t, scope, ask(tk.refresh, scope).want(t, 400, "invalid_scope"), tk.refresh)
		}
		w.holds(before)
		if !w.alive(tk.access) {
			t.Fatal("asking for more ended the session")
		}
		r := ask(tk.refresh, "read:users").want(t, 200, "")
		narrow := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		if got := r.text(t, "scope"); got != "read:users" {
			t.Errorf("scope %q", got)
		}
		w.do("GET", "/users", narrow.access, nil).want(t, 200, "")
		w.do("POST", "/users", narrow.access, map[string]any{"email": "x@example.com", "password": goodPassword}).want(t, 403, "")
		// The session keeps what was granted (RFC 6749, 6), and no more.
		r = ask(narrow.refresh, "").want(t, 200, "")
		if got := r.text(t, "scope"); got != "read:users write:users" {
			t.Errorf("scope %q after the narrow one", got)
		}
		ask(r.text(t, "refresh_token"), "delete:users").want(t, 400, "invalid_scope")

		// A used token ends the session whatever it asks for.
		stolen := w.signIn("ada", goodPassword, "scope", "read:users")
		next := w.refresh(stolen)
		ask(stolen.refresh, "delete:users").want(t, 400, "invalid_scope") // within ten seconds it is the same request again
		w.clock.advance(11 * time.Second)
		ask(stolen.refresh, "delete:users").want(t, 400, "invalid_grant")
		w.dead("reused with a wider scope", next)

		// A session without a scope may be narrowed, and not to what is not a scope.
		whole := w.signIn("ada", goodPassword)
		r = ask(whole.refresh, "read:audit").want(t, 200, "")
		w.do("GET", "/users", r.text(t, "access_token"), nil).want(t, 403, "")
		again := w.refresh(tokens{refresh: r.text(t, "refresh_token")})
		w.do("GET", "/users", again.access, nil).want(t, 200, "")
	})
}

// A session ends when it was not used, and after its time in all, however it
// was used.
func TestR_Lifetimes(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, func(c *server.Config) {
			c.AccessTTL, c.RefreshTTL, c.SessionLife = 5*time.Minute, 20*time.Minute, time.Hour
		})
		_, idle := w.user("ada")
		used := w.signIn("ada", goodPassword)
		for minute := 0; minute < 45; minute += 15 {
			w.clock.advance(15 * time.Minute)
			if w.alive(used.access) {
				t.Fatal("an access token lives longer than its time")
			}
			used = w.refresh(used)
			if !w.alive(used.access) {
				t.Fatalf("dead after %d minutes", minute+15)
			}
		}
		w.dead("idle for 45 minutes", idle)
		w.clock.advance(13 * time.Minute) // 58
		r := w.send(w.refreshRequests(used.refresh)["/token"]).want(t, 200, "")
		if n := r.json(t)["expires_in"].(float64); n > 121 {
			t.Errorf("an access token lives %v s, beyond its session", n)
		}
		used = tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		w.clock.advance(3 * time.Minute) // 61
		before := w.holdings()
		w.dead("after its time in all", used)
		if items := w.do("GET", "/users/me/sessions", w.signIn("ada", goodPassword).access, nil).want(t, 200, "").json(t)["items"].([]any); len(items) != 1 {
			t.Errorf("%d sessions are listed, want the new one", len(items))
		}
		// Refused, not reused: nothing was written.
		if n := len(w.events("refresh.reused", 0)); n != 0 {
			t.Errorf("%d reuses", n)
		}
		for line := range strings.Lines(before) {
			if strings.HasPrefix(line, "session") && !strings.Contains(w.holdings(), line) {
				t.Errorf("changed: %s", line)
			}
		}
	})
}

// Every way to end a session holds at the next request, for what it names and
// nothing else.
func TestR_Ending(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, bob := w.user("bob")
		w.register("ada")
		keep := w.signIn("ada", goodPassword)
		for what, end := range map[string]func(tk tokens) *http.Request{
			"/logout":      func(tk tokens) *http.Request { return w.request("POST", "/logout", tk.access, nil) },
			"/auth/logout": func(tk tokens) *http.Request { return w.request("POST", "/auth/logout", tk.access, nil) },
			"by id": func(tk tokens) *http.Request {
				return w.request("DELETE", "/users/me/sessions/"+sessionOf(t, tk.access), keep.access, nil)
			},
		} {
			old := w.signIn("ada", goodPassword)
			tk := w.refresh(old)
			tr := w.trail()
			if r := tr.send(what, end(tk)); r.status != 200 && r.status != 204 {
				t.Errorf("%s: status %d: %s", what, r.status, r.body)
			}
			tr.audited("session.ended", audit.Success, tk.access, tk.refresh)
			w.dead(what, tk)
			w.dead(what+", before the refresh", old)
			w.do("POST", "/logout", tk.access, nil).want(t, 401, "invalid_token")
			if !w.alive(keep.access) || !w.alive(bob.access) {
				t.Fatalf("%s ended another session", what)
			}
		}
		more := []tokens{w.signIn("ada", goodPassword), w.signIn("ada", goodPassword, "client_id", "docs")}
		w.do("POST", "/logout/all", more[0].access, nil).want(t, 200, "")
		for _, tk := range append(more, keep) {
			w.dead("everywhere", tk)
		}
		if !w.alive(bob.access) {
			t.Error("/logout/all ended another user's session")
		}
		w.do("POST", "/logout", "", nil).want(t, 401, "unauthenticated")
		w.signIn("ada", goodPassword)
	})
}

// A session that could not be ended is never reported as ended: neither when
// the database is gone, nor when it can be read and not written.
func TestR_FailingStore(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, tk := w.user("ada")
		second := w.signIn("ada", goodPassword)
		script := func(statements ...func(tx *db.Tx) error) {
			t.Helper()
			for _, f := range statements {
				if err := d.Write(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			}
		}
		if d.Dialect() == db.SQLite {
			script(func(tx *db.Tx) error {
				_, err := tx.Exec("CREATE TRIGGER full BEFORE UPDATE ON sp_sessions BEGIN SELECT RAISE(ABORT, 'disk full'); END")
				return err
			})
		} else {
			script(func(tx *db.Tx) error {
				_, err := tx.Exec("CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full'; END $$")
				return err
			}, func(tx *db.Tx) error {
				_, err := tx.Exec("CREATE TRIGGER full_disk BEFORE UPDATE ON sp_sessions FOR EACH ROW EXECUTE FUNCTION full_disk()")
				return err
			})
		}
		before := w.holdings()
		ended := len(w.events("session.ended", 0))
		requests := func() map[string]*http.Request {
			return map[string]*http.Request{
				"/logout": w.request("POST", "/logout", tk.access, nil), "/auth/logout": w.request("POST", "/auth/logout", tk.access, nil), "/logout/all": w.request("POST", "/logout/all", tk.access, nil),
				"by id": w.request("DELETE", "/users/me/sessions/"+sessionOf(t, second.access), tk.access, nil), "/token/refresh": w.refreshRequests(tk.refresh)["/token/refresh"],
				"/token":                 w.refreshRequests(tk.refresh)["/token"],
				"/token/revoke, access":  w.typed("POST", "/token/revoke", formType, url.Values{"token": {tk.access}}.Encode()),
				"/token/revoke, refresh": w.typed("POST", "/token/revoke", formType, url.Values{"token": {tk.refresh}}.Encode()),
				"password":               w.request("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": "marzipan under the piano"}),
			}
		}
		refused := func(what string, r reply) {
			t.Helper()
			if r.status != 503 || r.header.Get("Retry-After") == "" {
				t.Errorf("%s: status %d, Retry-After %q: %.200s", what, r.status, r.header.Get("Retry-After"), r.body)
			}
			for _, inner := range []string{"disk full", "sp_sessions", "SQL", "trigger", "closed"} {
				if strings.Contains(string(r.body), inner) {
					t.Errorf("%s: the answer tells of the inside: %s", what, r.body)
				}
			}
		}
		for what, req := range requests() {
			refused(what, w.send(req))
		}
		w.holds(before)
		if n := len(w.events("session.ended", 0)); n != ended {
			t.Errorf("%d sessions are said to have ended", n-ended)
		}
		if !w.alive(tk.access) || !w.alive(second.access) {
			t.Error("a session was half ended")
		}
		if d.Dialect() == db.SQLite {
			script(func(tx *db.Tx) error { _, err := tx.Exec("DROP TRIGGER full"); return err })
		} else {
			script(func(tx *db.Tx) error { _, err := tx.Exec("DROP TRIGGER full_disk ON sp_sessions"); return err })
		}
		w.do("POST", "/logout", second.access, nil).want(t, 200, "")
		w.dead("after the store came back", second)

		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for what, req := range requests() {
			refused(what+", database closed", w.send(req))
		}
		for way, req := range w.signInRequests("ada", goodPassword) {
			refused("sign-in at "+way, w.send(req))
		}
		refused("/users/me", w.do("GET", "/users/me", tk.access, nil))
	})
}

// A refresh that races a logout leaves nothing alive, whichever is first.
func TestR_RefreshRacingLogout(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.register("ada")
		refreshed := 0
		for round := range 100 {
			tk := w.signIn("ada", goodPassword)
			var out, again reply
			parallel(2, func(i int) {
				if i == round%2 {
					out = w.do("POST", []string{"/logout", "/logout/all"}[round/2%2], tk.access, nil)
				} else {
					again = w.send(w.refreshRequests(tk.refresh)["/token/refresh"])
				}
			})
			out.want(t, 200, "")
			all := []tokens{tk}
			if again.status == 200 {
				refreshed++
				all = append(all, tokens{again.text(t, "access_token"), again.text(t, "refresh_token")})
			} else {
				again.want(t, 401, "invalid_token")
			}
			for _, tk := range all {
				if w.alive(tk.access) {
					t.Fatalf("round %d: an access token lives", round)
				}
				w.send(w.refreshRequests(tk.refresh)["/token/refresh"]).want(t, 401, "invalid_token")
			}
		}
		t.Logf("the refresh was first in %d of 100 rounds", refreshed)
		w.refresh(w.signIn("ada", goodPassword))
	})
}

// Another user's session is a session that does not exist.
func TestR_AnothersSession(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_, ada := w.user("ada")
		_, eve := w.user("eve")
		_, admin := w.user("root", "admin")
		target := sessionOf(t, ada.access)
		unknown := w.do("DELETE", "/users/me/sessions/00000000-0000-7000-8000-000000000000", eve.access, nil).want(t, 404, "not_found")
		before := w.holdings()
		ended := len(w.events("session.ended", 0))
		for what, tk := range map[string]tokens{"eve": eve, "an administrator": admin} {
			tr := w.trail()
			alike(t, what, tr.send(what, w.request("DELETE", "/users/me/sessions/"+target, tk.access, nil)), unknown)
		}
		for _, id := range []string{
			strings.ToUpper(target), target + "%20", "%27%20OR%20%271%27%3D%271", "%25", "*", strings.ReplaceAll(target, "-", ""), "{" + target + "}", "..%2f" + target, strings.Repeat("a", 300), "%00", "%ff",
		} {
			if r := w.do("DELETE", "/users/me/sessions/"+id, eve.access, nil); r.status != 404 && r.status != 422 && r.status != 400 {
				t.Errorf("%.40s: status %d: %.200s", id, r.status, r.body)
			}
		}
		w.holds(before)
		if n := len(w.events("session.ended", 0)); n != ended {
			t.Errorf("%d sessions are said to have ended", n-ended)
		}
		for _, tk := range []tokens{eve, admin} {
			if r := w.do("GET", "/users/me/sessions", tk.access, nil).want(t, 200, ""); strings.Contains(string(r.body), target) {
				t.Error("another user's session is listed")
			}
		}
		if !w.alive(ada.access) {
			t.Fatal("the session did not survive")
		}
		w.do("DELETE", "/users/me/sessions/"+target, ada.access, nil).want(t, 204, "")
		w.dead("ended by its user", ada)
	})
}

// secretsOf returns a secret as it is, and in the forms that a careless program
// would keep it in.
func secretsOf(t *testing.T, tk tokens, passwords ...string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for i, pw := range passwords {
		sum := sha256.Sum256([]byte(pw))
		out[fmt.Sprintf("password %d", i)] = []byte(pw)
		out[fmt.Sprintf("password %d in base64", i)] = []byte(base64.StdEncoding.EncodeToString([]byte(pw)))
		out[fmt.Sprintf("bare digest of password %d", i)] = sum[:]
		out[fmt.Sprintf("bare digest of password %d in hex", i)] = []byte(hex.EncodeToString(sum[:]))
	}
	out["access token"] = []byte(tk.access)
	out["signature"] = []byte(tk.access[strings.LastIndexByte(tk.access, '.')+1:])
	out["refresh token"] = []byte(tk.refresh)
	out["refresh token without its prefix"] = []byte(strings.TrimPrefix(tk.refresh, "rt_"))
	b, err := b64.DecodeString(strings.TrimPrefix(tk.refresh, "rt_"))
	if err != nil || len(b) < 53 {
		t.Fatalf("a refresh token of %d bytes: %v", len(b), err)
	}
	out["secret of the refresh token"] = b[21:53]
	out["secret of the refresh token in hex"] = []byte(hex.EncodeToString(b[21:53]))
	out["tag of the refresh token"] = b[53:]
	return out
}

// everyValue calls each with every value of text and blobs in a database.
func everyValue(t *testing.T, raw *sql.DB, tablesQuery string, each func(where string, value []byte)) {
	t.Helper()
	names, err := raw.Query(tablesQuery)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for names.Next() {
		var name string
		if err := names.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := names.Err(); err != nil || len(tables) < 10 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	for _, table := range tables {
		rows, err := raw.Query(`SELECT * FROM "` + table + `"`)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			for i, v := range values {
				switch v := (*v.(*any)).(type) {
				case string:
					each(table+"."+columns[i], []byte(v))
				case []byte:
					each(table+"."+columns[i], v)
				}
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever steals the database holds no token and no password.
func TestR_StoredHashed(t *testing.T) {
	run := func(t *testing.T, d *db.DB, raw *sql.DB, tablesQuery string) {
		masterFile := filepath.Join(t.TempDir(), "elsewhere.key")
		w := newWorld(t, d, nil, func(c *server.Config) { c.MasterKeyFile = masterFile })
		_, tk := w.user("ada")
		second := w.refresh(tk)
		scoped := w.signIn("ada", goodPassword, "scope", "read:users", "client_id", "docs")
		const next, wrong = "marzipan under the piano", "carousel-oatmeal-63-dirigible"
		w.do("PUT", "/users/me/password", second.access, map[string]string{"current_password": wrong, "new_password": next}).want(t, 401, "")
		w.do("PUT", "/users/me/password", second.access, map[string]string{"current_password": goodPassword, "new_password": next}).want(t, 204, "")
		w.form("/token", "grant_type", "password", "username", "ada", "password", wrong).want(t, 401, "")
		w.clock.advance(time.Minute)
		w.send(w.refreshRequests(tk.refresh)["/token"]).want(t, 400, "")
		last := w.signIn("ada", next)
		w.events("signin.refused", 1)
		master, err := os.ReadFile(masterFile)
		if err != nil {
			t.Fatal(err)
		}

		key := w.key(last).key
		w.doKeyed("GET", "/users/me", key, nil).want(t, 200, "")
		w.doKeyed("GET", "/users/me", key[:51]+"!", nil).want(t, 401, "")
		w.sv.APIKeys.Flush()

		secrets := map[string][]byte{"master key": bytes.TrimSpace(master), "API key": []byte(key), "secret of the API key": []byte(key[8:46])}
		for name, tk := range map[string]tokens{"first": tk, "second": second, "scoped": scoped, "last": last} {
			for what, s := range secretsOf(t, tk, goodPassword, next, wrong) {
				secrets[name+" "+what] = s
			}
		}
		_, signing := w.signingKey()
		secrets["signing key"] = signing.(ed25519.PrivateKey).Seed()
		values, digests := 0, 0
		digest := sha256.Sum256([]byte(last.refresh))
		everyValue(t, raw, tablesQuery, func(where string, value []byte) {
			values++
			if bytes.Equal(value, digest[:]) {
				digests++
			}
			for what, s := range secrets {
				if bytes.Contains(value, s) {
					t.Errorf("%s holds the %s", where, what)
				}
			}
		})
		// What the search would find is there: the digest of the current token.
		if digests != 1 || values < 100 {
			t.Errorf("%d values and %d digests were seen: the search is blind", values, digests)
		}
		if d.Dialect() == db.SQLite {
			for _, suffix := range []string{"", "-wal"} {
				b, err := os.ReadFile(filepath.Join(d.Dir(), "sallyport.db"+suffix))
				if err != nil {
					t.Fatal(err)
				}
				for what, s := range secrets {
					if bytes.Contains(b, s) {
						t.Errorf("the file sallyport.db%s holds the %s", suffix, what)
					}
				}
			}
		}
		if !w.alive(last.access) {
			t.Error("the last session is dead")
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

// Secrets are planted wherever a caller can put them, rightly or by mistake.
// None comes out in the log, in an audit row, or in an answer.
func TestR_PlantedSecrets(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var log testkit.Buffer
		w := newWorld(t, d, nil, func(c *server.Config) {
			c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		id, tk := w.user("ada", "admin")
		second := w.refresh(tk)
		const planted = "planted,secret 4711" // not what looks like a name: see the unknown members
		secrets := []string{goodPassword, planted, tk.refresh, second.refresh, tk.access, second.access, url.QueryEscape(planted), "planted"}
		for _, s := range []string{tk.access, second.access} {
			secrets = append(secrets, s[strings.LastIndexByte(s, '.')+1:])
		}
		check := func(what string, r reply) {
			t.Helper()
			if r.status >= 500 {
				t.Errorf("%s: status %d: %s", what, r.status, r.body)
			}
			quiet(t, what, r, secrets...)
		}
		var jobs []func()
		try := func(what string, req *http.Request) { jobs = append(jobs, func() { check(what, w.send(req)) }) }
		q := url.QueryEscape(planted)
		forms := map[string]string{
			"wrong password": "grant_type=password&username=ada&password=" + q, "as name": "grant_type=password&username=" + q + "&password=" + q, "as grant": "grant_type=" + q,
			"as scope": "grant_type=password&username=ada&password=" + goodPassword + "&scope=" + q, "as client": "grant_type=password&username=ada&password=x&client_id=" + q, "as secret": "grant_type=password&username=ada&password=x&client_secret=" + q,
			"as field": q + "=" + q + "&" + q + "=" + q, "cut": "grant_type=password&password=%" + planted, "as refresh token": "grant_type=refresh_token&refresh_token=" + q, "refresh token as field": "grant_type=password&" + tk.refresh + "=1",
			"refresh token as scope": "grant_type=refresh_token&refresh_token=" + tk.refresh + "&scope=" + tk.refresh, "access token as refresh token": "grant_type=refresh_token&refresh_token=" + tk.access,
		}
		for what, body := range forms {
			try(what+" at /token", w.typed("POST", "/token", formType, body))
			try(what+" at /auth/login", w.typed("POST", "/auth/login", formType, body))
		}
		routes := []string{"POST /auth/login", "POST /auth/register", "POST /token/refresh", "PUT /users/me/password", "PATCH /users/me", "POST /users", "PATCH /users/" + id, "PUT /users/" + id + "/roles", "PUT /roles/x", "PUT /permissions/x"}
		for _, s := range []string{planted, tk.refresh, tk.access} {
			for what, body := range map[string]string{
				"member": `{"` + s + `":"x"}`, "value": `{"x":"` + s + `"}`, "text": `"` + s + `"`, "cut": `{"password":"` + s, "twice": `{"` + s + `":1,"` + s + `":2}`, "trailing": `{} "` + s + `"`, "array": `["` + s + `"]`,
				"as every member": `{"username":"` + s + `","email":"` + s + `","full_name":["` + s + `"],"password":{"` + s + `":1},"refresh_token":["` + s + `"],"current_password":7,"new_password":["` + s + `"],"roles":["` + s + `"],"permissions":["` + s + `"],"disabled":"` + s + `","description":["` + s + `"]}`,
				"as names":        `{"username":"` + s + `","email":"` + s + `","password":"` + s + `"}`, "roles": `{"roles":["` + s + `"]}`, "passwords": `{"current_password":"` + s + `","new_password":"` + s + `"}`, "includes": `{"permissions":["` + s + `"],"includes":["` + s + `"]}`,
			} {
				for _, route := range routes {
					method, path, _ := strings.Cut(route, " ")
					req := w.typed(method, path, "application/json", body)
					if !strings.Contains(path, "auth") && path != "/token/refresh" {
						req.Header.Set("Authorization", "Bearer "+second.access)
					}
					try(what+" at "+route, req)
				}
			}
			for _, header := range []string{"Bearer " + s + "x", "Basic " + base64.StdEncoding.EncodeToString([]byte(s+":"+s)), "Basic " + s, s, "Digest username=\"" + s + "\""} {
				try("header", w.with("GET", "/users/me", header))
				req := w.typed("POST", "/token", formType, "grant_type=password&username=ada&password="+goodPassword)
				req.Header.Set("Authorization", header)
				if r := w.send(req); r.status >= 500 { // a 200 holds tokens, which are not the planted ones
					t.Errorf("a header at /token: status %d", r.status)
				} else {
					quiet(t, "a header at /token", r, secrets...)
				}
			}
			req := w.request("GET", "/users/me", second.access, nil)
			for _, name := range []string{"User-Agent", "Referer", "X-Request-Id", "Cookie", "X-Api-Key", "X-Forwarded-For", "Origin", "Accept-Language", "If-None-Match"} {
				req.Header.Set(name, s)
			}
			try("other headers", req)
			signIn := w.signInRequests("ada", "wrong "+planted)["/token"]
			signIn.Header.Set("User-Agent", s)
			try("user agent", signIn)
			for _, route := range []string{"GET /users/me", "POST /token", "POST /auth/login", "GET /users", "GET /livez", "GET /nothing", "POST /auth/register", "POST /token/refresh"} {
				method, path, _ := strings.Cut(route, " ")
				for _, name := range []string{"password", "access_token", "refresh_token", "x", "q", "cursor"} {
					try("query", w.request(method, path+"?"+name+"="+url.QueryEscape(s), second.access, nil))
				}
			}
			try("query name", w.request("GET", "/users?"+url.QueryEscape(s)+"=1", second.access, nil))
		}
		const workers = 12
		parallel(workers, func(n int) {
			for i := n; i < len(jobs); i += workers {
				jobs[i]()
			}
		})
		w.clock.advance(time.Minute)
		check("reuse", w.send(w.refreshRequests(tk.refresh)["/token/refresh"]))
		w.dead("reused", second)
		third := w.signIn("ada", goodPassword)
		secrets = append(secrets, third.access, third.refresh)
		w.do("POST", "/logout", third.access, nil).want(t, 200, "")
		w.sv.Close() // what waits is written

		all, err := audit.Latest(d.View(t.Context()), 100_000)
		if err != nil || len(all) < 20 {
			t.Fatalf("%d audit rows, %v", len(all), err)
		}
		noSecretsIn(t, all, secrets...)
		lines := log.String()
		if strings.Count(lines, "\n") < 300 || !strings.Contains(lines, "/users/me") {
			t.Errorf("the log has %d lines: the search is blind", strings.Count(lines, "\n"))
		}
		for _, s := range secrets {
			if i := strings.Index(lines, s); i >= 0 {
				t.Errorf("the log holds a secret (%.12s…): …%.300s", s, lines[max(0, i-150):])
			}
		}
	})
}

// One session's access token ends with it even if others of the same user go
// on, and the list says which is which.
func TestR_List(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.register("ada")
	var all []tokens
	for range 3 {
		all = append(all, w.signIn("ada", goodPassword))
	}
	r := w.do("GET", "/users/me/sessions", all[1].access, nil).want(t, 200, "")
	for _, tk := range all {
		quiet(t, "the list", r, tk.access, tk.refresh)
	}
	if r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control %q", r.header.Get("Cache-Control"))
	}
	current := 0
	for _, item := range r.json(t)["items"].([]any) {
		m := item.(map[string]any)
		if m["current"] == true {
			current++
			if m["id"] != sessionOf(t, all[1].access) {
				t.Error("another session is called the current one")
			}
		}
	}
	if current != 1 {
		t.Errorf("%d current sessions", current)
	}
	var gone atomic.Int32
	parallel(10, func(int) { // ended ten times at once, it ends once
		if r := w.do("DELETE", "/users/me/sessions/"+sessionOf(t, all[0].access), all[1].access, nil); r.status == 204 {
			gone.Add(1)
		} else {
			r.want(t, 404, "not_found")
		}
	})
	if gone.Load() != 1 || len(w.events("session.ended", 1)) != 1 {
		t.Errorf("a session ended %d times", gone.Load())
	}
	w.dead("ended by id", all[0])
	if !w.alive(all[1].access) || !w.alive(all[2].access) {
		t.Error("another session ended")
	}
}
