package server_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

const badPassword = "carousel-oatmeal-63-dirigible"

// visitor is a client with an address of its own.
type visitor struct {
	w      *world
	host   string // of the server, where it is reached from there
	addr   string
	client *http.Client
}

// at returns a client that has an address: one of 127.0.0.0/8 as it is, and any
// other as if the connection had come from there.
func (w *world) at(addr string) *visitor {
	w.t.Helper()
	v := &visitor{w: w, addr: addr, host: w.http.Listener.Addr().String()}
	dialer := &net.Dialer{}
	if strings.HasPrefix(addr, "127.") {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(addr)}
	} else {
		front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = net.JoinHostPort(addr, "4711")
			w.http.Config.Handler.ServeHTTP(rw, r)
		}))
		w.t.Cleanup(front.Close)
		v.host = front.Listener.Addr().String()
	}
	tr := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64}
	w.t.Cleanup(tr.CloseIdleConnections)
	v.client = &http.Client{Transport: tr}
	return v
}

func (v *visitor) send(req *http.Request) reply {
	v.w.t.Helper()
	req.URL.Host = v.host
	res, err := v.client.Do(req)
	if err != nil {
		v.w.t.Error(err)
		return reply{}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		v.w.t.Error(err)
	}
	return reply{res.StatusCode, res.Header, b}
}

// token asks for one with a name and a password.
func (v *visitor) token(name, pw string) reply {
	v.w.t.Helper()
	return v.send(v.w.typed("POST", "/token", formType, url.Values{"grant_type": {"password"}, "username": {name}, "password": {pw}}.Encode()))
}

// guess tries a wrong password n times; each must be tested.
func (v *visitor) guess(name string, n int) {
	v.w.t.Helper()
	for range n {
		v.token(name, badPassword).want(v.w.t, 401, "invalid_grant")
	}
}

// locked fails unless a reply is the refusal of a locked sign-in, with a wait
// between least and most; it returns the reply without what depends on the second.
func locked(t *testing.T, what string, r reply, least, most time.Duration) reply {
	t.Helper()
	n, err := strconv.Atoi(r.header.Get("Retry-After"))
	wait := time.Duration(n) * time.Second
	if r.status != 429 || err != nil || wait < least || wait > most {
		t.Errorf("%s: status %d, Retry-After %q, want 429 and %v to %v: %.200s", what, r.status, r.header.Get("Retry-After"), least, most, r.body)
		return r
	}
	if p, l := r.header.Get("RateLimit-Policy"), r.header.Get("RateLimit"); p != `"sign-in";q=5;w=86400` || l != fmt.Sprintf(`"sign-in";r=0;t=%d`, n) {
		t.Errorf("%s: RateLimit-Policy %q, RateLimit %q", what, p, l)
	}
	if !strings.Contains(string(r.body), "too_many_attempts") || r.header.Get("Www-Authenticate") != "" || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: %v %.300s", what, r.header, r.body)
	}
	r.header = r.header.Clone()
	r.header.Del("Retry-After")
	r.header.Del("RateLimit")
	return r
}

// A locked sign-in is one answer, whether there is such an account and whether
// the password is right, and tests none.
func TestL_LockedAlike(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id := w.register("ada")
		w.disable(w.register("disabled"))
		eve := w.at("127.0.1.1")
		names := []string{"ada", "nobody", "disabled"}
		for _, name := range names {
			eve.guess(name, 5)
		}
		before := w.holdings()
		want := map[string]reply{}
		for _, name := range names {
			for _, pw := range []string{badPassword, goodPassword} {
				for way, req := range w.signInRequests(name, pw) {
					what := name + " at " + way
					r := locked(t, what, eve.send(req), 20*time.Second, 30*time.Second)
					quiet(t, what, r, pw)
					if want[way].header == nil {
						want[way] = r
					}
					alike(t, what, r, want[way])
				}
			}
		}
		w.holds(before)
		events := w.events("signin.refused", 15+18)
		n := map[string]int{}
		for _, e := range events {
			n[e.Reason]++
		}
		if n["too many attempts have failed"] != 18 || n["wrong password"] != 10 || n["unknown name"] != 5 {
			t.Errorf("refusals: %v", n)
		}
		noSecretsIn(t, events, goodPassword, badPassword, "nobody")
		locks := w.events("signin.locked", 3)
		targets := map[string]int{}
		for _, e := range locks {
			targets[e.Target]++
			if e.Result != audit.Failure || e.Address != "127.0.1.1" || e.Detail["seconds"] != "30" {
				t.Errorf("%+v", e)
			}
		}
		if len(locks) != 3 || targets[id] != 1 || targets[""] != 1 {
			t.Errorf("locks of %v", targets)
		}
		noSecretsIn(t, locks, badPassword, "nobody")

		// Elsewhere, and afterwards.
		w.at("127.0.2.1").token("ada", goodPassword).want(t, 200, "")
		w.clock.advance(31 * time.Second)
		if r := eve.token("nobody", goodPassword); r.status != 401 {
			t.Errorf("after the lock: status %d", r.status)
		}
		locked(t, "and the next lock", eve.token("nobody", goodPassword), 50*time.Second, time.Minute)
		eve.token("ada", goodPassword).want(t, 200, "")
		eve.guess("ada", 5)
		locked(t, "ada, again", eve.token("ada", goodPassword), 20*time.Second, 30*time.Second)
	})
}

// Five hundred guesses at once count five hundred: five are tested. As many
// sign-ins with the right password are all let in, and nothing is a 5xx.
func TestL_ParallelGuesses(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id := w.register("ada")
		eve := w.at("127.0.1.1")
		var tested, refused atomic.Int64
		parallel(500, func(i int) {
			switch r := eve.token([]string{"ada", "ADA", "ada@example.com", "ａｄａ"}[i%4], fmt.Sprint("guess number ", i)); r.status {
			case 401:
				tested.Add(1)
			case 429:
				refused.Add(1)
			default:
				t.Errorf("status %d: %s", r.status, r.body)
			}
		})
		var failures int
		if _, err := d.View(t.Context()).Row("SELECT SUM(failures) FROM sp_attempts WHERE network <> ''", nil, &failures); err != nil {
			t.Fatal(err)
		}
		if tested.Load() != 5 || refused.Load() != 495 || failures != 5 {
			t.Errorf("%d guesses were tested, %d refused, %d counted", tested.Load(), refused.Load(), failures)
		}
		if e := w.events("signin.locked", 1); len(e) != 1 || e[0].Target != id {
			t.Errorf("locks: %+v", e)
		}
		locked(t, "the right password", eve.token("ada", goodPassword), 15*time.Second, 30*time.Second)

		home := w.at("127.0.2.1")
		parallel(64, func(int) {
			if r := home.token("ada", goodPassword); r.status != 200 {
				t.Errorf("the right password, at once: status %d: %s", r.status, r.body)
			}
		})
	})
}

// All names of an account and all ways of testing its password are one bucket.
func TestL_OneBucket(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, func(c *server.Config) { c.Basic = true })
		_, tk := w.user("ada")
		_, bob := w.user("bob")
		v := w.at("127.0.1.1")
		ways := map[string]func(name, pw string) reply{
			"/token": v.token,
			"/auth/login": func(name, pw string) reply {
				return v.send(w.request("POST", "/auth/login", "", map[string]string{"username": name, "password": pw}))
			},
			"Basic": func(name, pw string) reply {
				req := w.request("GET", "/users/me", "", nil)
				req.SetBasicAuth(name, pw)
				return v.send(req)
			},
			"a change": func(name, pw string) reply {
				access := tk.access
				if name == "bob" {
					access = bob.access
				}
				return v.send(w.request("PUT", "/users/me/password", access, map[string]string{"current_password": pw, "new_password": "marzipan under the piano"}))
			},
		}
		for i, c := range [][2]string{{"/token", "ada"}, {"/auth/login", "ADA@Example.COM"}, {"Basic", "ａｄａ"}, {"a change", ""}, {"/token", "Ada"}} {
			if r := ways[c[0]](c[1], fmt.Sprint("a wrong one, number ", i)); r.status != 401 {
				t.Fatalf("%s as %q: status %d: %s", c[0], c[1], r.status, r.body)
			}
		}
		for way, try := range ways {
			for _, name := range []string{"ada", "aDA", "ada@example.com", "ada@EXAMPLE.com", "ＡＤＡ"} {
				locked(t, way+" as "+name, try(name, goodPassword), 15*time.Second, 30*time.Second)
			}
			if r := try("bob", badPassword); r.status != 401 {
				t.Errorf("%s as somebody else: status %d", way, r.status)
			}
		}
		// Who is signed in stays so; and a right password is known afterwards.
		if !w.alive(tk.access) {
			t.Error("a lock signed somebody out")
		}
		w.clock.advance(30 * time.Second)
		ways["Basic"]("ada", goodPassword).want(t, 200, "")
		v.guess("ada", 5)
		locked(t, "locked", v.token("ada", goodPassword), 20*time.Second, 30*time.Second)
		ways["Basic"]("ada", goodPassword).want(t, 200, "") // hashes nothing
		w.at("127.0.3.1").send(w.request("PUT", "/users/me/password", tk.access, map[string]string{
			"current_password": goodPassword, "new_password": "marzipan under the piano",
		})).want(t, 204, "")
		locked(t, "the new password, still", v.token("ada", "marzipan under the piano"), 10*time.Second, 30*time.Second)
	})
}

// Nobody elsewhere can keep an owner out of where they usually sign in.
func TestL_StrangersCannotLockOut(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.register("ada")
		home, mobile := w.at("127.0.1.1"), w.at("2001:db8:7::1")
		home.token("ada", goodPassword).want(t, 200, "")
		mobile.token("ada", goodPassword).want(t, 200, "")
		strangers := make([]*visitor, 60)
		for i := range strangers {
			strangers[i] = w.at(fmt.Sprintf("10.1.%d.1", i))
		}
		var tested, refused atomic.Int64
		parallel(len(strangers), func(i int) {
			switch r := strangers[i].token("ada", badPassword); r.status {
			case 401:
				tested.Add(1)
			case 429:
				refused.Add(1)
			default:
				t.Errorf("status %d: %s", r.status, r.body)
			}
		})
		if tested.Load() != 50 || refused.Load() != 10 {
			t.Errorf("%d tested, %d refused, want 50 and 10", tested.Load(), refused.Load())
		}
		// And from next door: the wider network is used up as well.
		parallel(100, func(i int) { w.at("127.0.1.2").token(fmt.Sprint("x", i), badPassword) })
		for i := range 3 {
			neighbour := w.at(fmt.Sprintf("127.0.1.%d", 3+i))
			parallel(100, func(j int) { neighbour.token(fmt.Sprint("y", i, j), badPassword) })
		}
		locked(t, "next door", w.at("127.0.1.9").token("bob", goodPassword), time.Second, 45*time.Second)
		home.guess("ada", 2)
		home.token("ada", goodPassword).want(t, 200, "")
		mobile.token("ada", goodPassword).want(t, 200, "")
		locked(t, "where she never was", w.at("127.0.9.1").token("ada", goodPassword), 20*time.Minute, 1728*time.Second)
		w.clock.advance(1728 * time.Second)
		w.at("127.0.9.1").token("ada", goodPassword).want(t, 200, "")
	})
}

// One password at many names, and many addresses of one site, end in 429; other
// networks go on, and so does who signs in.
func TestL_Spraying(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.register("ada")
		w.register("eve")
		w.register("bob")
		spray := func(n int, from func(i int) *visitor) int64 {
			var tested atomic.Int64
			parallel(n, func(i int) {
				switch r := from(i).token(fmt.Sprint("name", i), goodPassword); r.status {
				case 401:
					tested.Add(1)
				case 429:
				default:
					t.Errorf("status %d: %s", r.status, r.body)
				}
			})
			return tested.Load()
		}
		v := w.at("198.51.100.1")
		for range 3 { // an account of one's own clears nothing
			v.token("eve", goodPassword).want(t, 200, "")
		}
		if n := spray(60, func(int) *visitor { return v }); n != 60 {
			t.Errorf("%d of the first 60 were tested", n)
		}
		v.token("eve", goodPassword).want(t, 200, "")
		if n := spray(100, func(int) *visitor { return v }); n != 40 {
			t.Errorf("%d of 100 more were tested, want 40", n)
		}
		for _, name := range []string{"ada", "bob", "nobody"} {
			locked(t, name, v.token(name, goodPassword), 2*time.Minute, 3*time.Minute)
			locked(t, name+" in IPv6's notation", w.at("::ffff:198.51.100.1").token(name, goodPassword), 2*time.Minute, 3*time.Minute)
		}
		v.token("eve", goodPassword).want(t, 200, "")
		w.at("198.51.100.2").token("ada", goodPassword).want(t, 200, "")

		sites := make([]*visitor, 42)
		for i := range sites {
			sites[i] = w.at(fmt.Sprintf("2001:db8:1:%x::%x", i, i+1))
		}
		if n := spray(len(sites)*10, func(i int) *visitor { return sites[i%len(sites)] }); n != 400 {
			t.Errorf("%d guesses from the networks of one /48 were tested, want 400", n)
		}
		locked(t, "another /64 of it", w.at("2001:db8:1:ffff::1").token("bob", goodPassword), time.Second, 45*time.Second)
		w.at("2001:db8:2::1").token("bob", goodPassword).want(t, 200, "")
	})
}

// A lock is the database's: another node, and the same one after a restart, know
// of it.
func TestL_LockIsShared(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w1 := newWorld(t, d, nil)
		w1.register("ada")
		again := func(c *server.Config) { c.MasterKeyFile, c.Now = w1.cfg.MasterKeyFile, w1.clock.now }
		w2 := newWorld(t, testkit.Again(t, d), nil, again)
		w1.at("127.0.1.1").guess("ada", 3)
		w2.at("127.0.1.1").guess("ada", 2)
		locked(t, "one", w1.at("127.0.1.1").token("ada", goodPassword), 15*time.Second, 30*time.Second)
		locked(t, "the other", w2.at("127.0.1.1").token("ada", goodPassword), 15*time.Second, 30*time.Second)
		w1.http.Close()
		w1.sv.Close()
		w2.http.Close()
		w2.sv.Close()
		w3 := newWorld(t, testkit.Again(t, d), nil, again)
		locked(t, "restarted", w3.at("127.0.1.1").token("ada", goodPassword), 10*time.Second, 30*time.Second)
		w3.at("127.0.2.1").token("ada", goodPassword).want(t, 200, "")
		w1.clock.advance(31 * time.Second)
		w3.at("127.0.1.1").token("ada", goodPassword).want(t, 200, "")
	})
}

// Switched off, everybody may guess.
func TestL_NoLockout(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, noLockout)
	w.register("ada")
	v := w.at("127.0.1.1")
	parallel(40, func(int) { v.guess("ada", 1) })
	v.token("ada", goodPassword).want(t, 200, "")
}

// The document names the answer on every operation that tests a password, with
// its header.
func TestL_LockedIsDocumented(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	paths := w.do("GET", "/openapi.json", "", nil).json(t)["paths"].(map[string]any)
	for _, op := range [][2]string{{"/token", "post"}, {"/auth/login", "post"}, {"/users/me/password", "put"}} {
		responses := paths[op[0]].(map[string]any)[op[1]].(map[string]any)["responses"].(map[string]any)
		if responses["429"] == nil {
			t.Errorf("%s %s does not document 429", op[1], op[0])
		}
	}
}

// What cannot be counted is not tested, whether it would be right or wrong.
func TestL_WhatCannotBeCounted(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.register("ada")
	v := w.at("127.0.1.1")
	v.guess("ada", 1)
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec("ALTER TABLE sp_attempts RENAME TO elsewhere")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, pw := range []string{goodPassword, badPassword} {
		v.token("ada", pw).want(t, http.StatusServiceUnavailable, "temporarily_unavailable")
	}
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec("ALTER TABLE elsewhere RENAME TO sp_attempts")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	v.token("ada", goodPassword).want(t, 200, "")
}
