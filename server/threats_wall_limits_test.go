package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/redis"
)

// The limits of a whole server (letter Q of the threat list).

// limited has a server with these limits, and without lockout, which is another
// test's subject.
func limited(l server.Limits) func(*server.Config) {
	return func(c *server.Config) {
		if l.Default == "" {
			l.Default = server.LimitOff
		}
		c.Limits, c.NoLockout = l, true
	}
}

// passes reports how many of n requests one after the other are not refused with
// 429.
func (v *visitor) passes(n int, req func() *http.Request) (passed int) {
	v.w.t.Helper()
	for range n {
		if v.send(req()).status != 429 {
			passed++
		}
	}
	return passed
}

// Every request of an address counts, whatever it is for and whether it is
// good, but for those that ask how the server is. Other addresses go on, and
// what passes is told nothing of the limit.
func TestQ_EveryRequestOfAnAddress(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "12/hour", Login: server.LimitOff}))
	_, tk := w.at("127.0.40.9").signIn("ada")
	v, other := w.at("127.0.40.1"), w.at("127.0.40.2")
	requests := map[string]func() *http.Request{
		"own account":  func() *http.Request { return w.request("GET", "/users/me", tk, nil) },
		"no account":   func() *http.Request { return w.request("GET", "/users/me", "", nil) },
		"a bad token":  func() *http.Request { return w.request("GET", "/users/me", "x", nil) },
		"no path":      func() *http.Request { return w.request("GET", "/nothing", "", nil) },
		"no method":    func() *http.Request { return w.request("DELETE", "/docs", "", nil) },
		"the document": func() *http.Request { return w.request("GET", "/openapi.json", "", nil) },
		"the page":     func() *http.Request { return w.request("GET", "/docs", "", nil) },
		"a file":       func() *http.Request { return w.request("GET", "/docs/init.js", "", nil) },
		"keys":         func() *http.Request { return w.request("GET", "/.well-known/jwks.json", "", nil) },
		"a sign-in":    func() *http.Request { return w.signInRequests("ada", goodPassword)["/token"] },
		"a target":     func() *http.Request { return w.request("GET", "/users/%00", "", nil) },
		"almost":       func() *http.Request { return w.request("GET", "/livez/", "", nil) },
	}
	for what, req := range requests { // as many as may pass
		if r := v.send(req()); r.status == 429 || r.header.Get("RateLimit") != "" || r.header.Get("RateLimit-Policy") != "" {
			t.Errorf("%s: status %d, %v", what, r.status, r.header)
		}
	}
	for what, req := range requests {
		tooMany(t, what, v.send(req()), "all", 12, 300)
	}
	for range 30 {
		v.send(w.request("GET", "/livez", "", nil)).want(t, 200, "")
		v.send(w.request("GET", "/readyz?verbose", "", nil)).want(t, 200, "")
	}
	for what, req := range requests {
		if r := other.send(req()); r.status == 429 {
			t.Errorf("%s, from elsewhere: %s", what, r.body)
		}
	}
}

// signIn registers and signs in from an address of its own, and returns an
// access token.
func (v *visitor) signIn(name string) (id, access string) {
	v.w.t.Helper()
	id = v.send(v.w.request("POST", "/auth/register", "", map[string]any{
		"username": name, "email": name + "@example.com", "password": goodPassword,
	})).want(v.w.t, 201, "").text(v.w.t, "id")
	return id, v.token(name, goodPassword).want(v.w.t, 200, "").text(v.w.t, "access_token")
}

// An address is one however it is written and whatever a client says it is. Of
// IPv6 it is the /64 that everybody has.
func TestQ_AddressesCannotBeVaried(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "10/hour", Login: server.LimitOff}))
	get := func(headers ...string) func() *http.Request {
		return func() *http.Request {
			req := w.request("GET", "/users/me", "", nil)
			for i := 0; i < len(headers); i += 2 {
				req.Header.Add(headers[i], headers[i+1])
			}
			return req
		}
	}
	t.Run("IPv6", func(t *testing.T) {
		passed := 0
		for i := range 20 {
			passed += w.at(fmt.Sprintf("2001:db8:40:1::%x", 1+i)).passes(1, get())
		}
		if passed != 10 {
			t.Errorf("%d of 20 addresses of one /64 passed, want 10", passed)
		}
		if w.at("2001:db8:40:2::1").passes(1, get()) != 1 {
			t.Error("the /64 next door is limited too")
		}
	})
	t.Run("one IPv4 address", func(t *testing.T) {
		passed := 0
		for i := range 20 {
			passed += w.at([]string{"198.51.100.40", "::ffff:198.51.100.40", "::ffff:c633:6428", "64:ff9b::198.51.100.40"}[i%4]).passes(1, get())
		}
		if passed != 10 {
			t.Errorf("%d of 20 passed, want 10", passed)
		}
		if w.at("198.51.100.41").passes(1, get()) != 1 {
			t.Error("the address next door is limited too")
		}
	})
	t.Run("headers", func(t *testing.T) {
		v := w.at("127.0.41.1")
		passed := v.passes(5, get())
		for i := range 15 {
			ip := fmt.Sprintf("203.0.113.%d", i)
			for _, name := range []string{
				"X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "CF-Connecting-IP", "True-Client-IP", "X-Cluster-Client-IP", "X-Originating-IP", "Client-IP", "X-ProxyUser-Ip", "Via",
			} {
				value := ip
				if name == "Forwarded" {
					value = "for=" + ip
				}
				passed += v.passes(1, get(name, value))
			}
		}
		if passed != 10 {
			t.Errorf("%d passed, want 10", passed)
		}
		if w.at("127.0.41.2").passes(1, get("X-Forwarded-For", "127.0.41.1")) != 1 {
			t.Error("somebody used up another's limit by naming them")
		}
	})
}

// Behind declared proxies clients are told apart, and by what the proxy says
// alone.
func TestQ_DeclaredProxies(t *testing.T) {
	for _, tt := range []struct {
		header clientip.Header
		name   string
		value  func(client, forged string) []string // what arrives if a proxy appends, and the client has sent something
	}{
		{"", "X-Forwarded-For", func(c, forged string) []string { return []string{forged + ", " + c} }},
		{clientip.XForwardedFor, "X-Forwarded-For", func(c, forged string) []string { return []string{forged, c + ", 127.0.42.2"} }},
		{clientip.Forwarded, "Forwarded", func(c, forged string) []string { return []string{"for=" + forged, "for=" + c + ";proto=http"} }},
		{clientip.XRealIP, "X-Real-IP", func(c, _ string) []string { return []string{c} }},
	} {
		t.Run("header "+string(tt.header), func(t *testing.T) {
			w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "5/hour", Login: server.LimitOff}), func(c *server.Config) {
				c.TrustedProxies, c.ProxyHeader = []netip.Prefix{netip.MustParsePrefix("127.0.42.0/24")}, tt.header
			})
			proxy, stranger := w.at("127.0.42.1"), w.at("127.0.43.1")
			by := func(client, forged string) func() *http.Request {
				return func() *http.Request {
					req := w.request("GET", "/users/me", "", nil)
					for _, v := range tt.value(client, forged) {
						req.Header.Add(tt.name, v)
					}
					return req
				}
			}
			passed := 0
			for i := range 20 {
				passed += proxy.passes(1, by("203.0.113.1", fmt.Sprintf("198.51.100.%d", i)))
			}
			if passed != 5 {
				t.Errorf("%d of one client's passed, want 5", passed)
			}
			if n := proxy.passes(9, by("203.0.113.2", "203.0.113.1")); n != 5 {
				t.Errorf("%d of another's passed, want 5", n)
			}
			// Who is not declared names itself in vain, and names nobody else.
			passed = 0
			for i := range 20 {
				passed += stranger.passes(1, by(fmt.Sprintf("203.0.113.%d", 100+i), "127.0.42.1"))
			}
			if passed != 5 {
				t.Errorf("%d of a stranger's passed, want 5", passed)
			}
			if n := proxy.passes(9, by("203.0.113.100", "x")); n != 5 {
				t.Errorf("%d of a client that a stranger named passed, want 5", n)
			}
			// What a declared proxy says nothing of is its own.
			none := func() *http.Request { return w.request("GET", "/users/me", "", nil) }
			if n := proxy.passes(9, none); n != 5 {
				t.Errorf("%d of the proxy's own passed, want 5", n)
			}
		})
	}
}

// Exactly as many as the limit says pass, however many come at once.
func TestQ_ExactlyNOfAll(t *testing.T) {
	var limit atomic.Int64
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "50/hour", Login: "20/hour", Register: "10/hour"}))
	count := func(v *visitor, n int, req func(i int) *http.Request) int64 {
		limit.Store(0)
		parallel(n, func(i int) {
			switch r := v.send(req(i)); {
			case r.status == 429:
			case r.status >= 500 || r.status == 0:
				t.Errorf("status %d: %s", r.status, r.body)
			default:
				limit.Add(1)
			}
		})
		return limit.Load()
	}
	if n := count(w.at("127.0.44.1"), 200, func(int) *http.Request { return w.request("GET", "/users/me", "", nil) }); n != 50 {
		t.Errorf("%d requests passed, want 50", n)
	}
	if n := count(w.at("127.0.44.2"), 49, func(i int) *http.Request {
		return w.signInRequests(fmt.Sprint("name", i), badPassword)["/token"]
	}); n != 20 {
		t.Errorf("%d passwords were tested, want 20", n)
	}
	if n := count(w.at("127.0.44.3"), 49, func(i int) *http.Request {
		return w.request("POST", "/auth/register", "", map[string]any{"email": fmt.Sprintf("x%d@example.com", i), "password": goodPassword})
	}); n != 10 {
		t.Errorf("%d accounts were made, want 10", n)
	}
	var accounts int
	if _, err := w.db.View(t.Context()).Row("SELECT COUNT(*) FROM sp_accounts", nil, &accounts); err != nil || accounts != 10 {
		t.Errorf("there are %d accounts, want 10 (%v)", accounts, err)
	}
}

// Every password that is tested counts, right or wrong, on every way, in one
// bucket of the address; what tests none does not.
func TestQ_EveryPasswordCounts(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newClientWorld(t, d, limited(server.Limits{Login: "8/hour"}), func(c *server.Config) { c.Basic = true })
		c := w.machine(nil)
		_, tk := w.user("ada")
		v, home := w.at("127.0.45.1"), w.at("127.0.45.2")
		login := func(name, pw string) *http.Request { return w.signInRequests(name, pw)["/auth/login JSON"] }
		basic := func(name, pw string) *http.Request {
			req := w.request("GET", "/users/me", "", nil)
			req.SetBasicAuth(name, pw)
			return req
		}
		password := func(current string) *http.Request {
			return w.request("PUT", "/users/me/password", tk.access, map[string]string{"current_password": current, "new_password": "marzipan under the piano"})
		}
		token := func(name, pw string) *http.Request { return w.signInRequests(name, pw)["/token"] }
		free := func() {
			t.Helper()
			fresh := w.signIn("ada", goodPassword) // from where the world is
			for range 3 {
				for what, c := range map[string]struct {
					req    *http.Request
					status int
				}{
					"own account":        {w.request("GET", "/users/me", tk.access, nil), 200},
					"client_credentials": {w.byBasic("/token", c.ID, c.Secret, "grant_type", "client_credentials"), 200},
					"a refresh":          {w.typed("POST", "/token", formType, formOf("grant_type", "refresh_token", "refresh_token", fresh.refresh).Encode()), 200},
					"a refresh as JSON":  {w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": fresh.refresh}), 200},
					"no password":        {w.request("POST", "/auth/login", "", map[string]string{"username": "ada"}), 422},
					"no form":            {w.typed("POST", "/token", "text/plain", "x"), 415},
					"no current one":     {w.request("PUT", "/users/me/password", tk.access, map[string]string{"new_password": goodPassword}), 422},
				} {
					if r := v.send(c.req); r.status != c.status {
						t.Errorf("%s: status %d, want %d: %s", what, r.status, c.status, r.body)
					}
				}
			}
		}
		free()
		for i, c := range []struct {
			req    *http.Request
			status int
		}{
			{token("ada", goodPassword), 200},
			{token("ada", badPassword), 401},
			{token("nobody", goodPassword), 401},
			{login("ada@example.com", goodPassword), 200},
			{login("ADA", badPassword), 401},
			{basic("ada", goodPassword), 200},
			{basic("ada", badPassword), 401},
			{password(badPassword), 401},
		} {
			if r := v.send(c.req); r.status != c.status {
				t.Fatalf("password %d: status %d, want %d: %s", i, r.status, c.status, r.body)
			}
		}
		before := w.holdings()
		first := map[string]reply{}
		for what, req := range map[string]*http.Request{
			"/token right": token("ada", goodPassword), "/token wrong": token("ada", badPassword), "/token nobody": token("nobody", badPassword),
			"/auth/login right": login("ada", goodPassword), "/auth/login wrong": login("ada", badPassword), "/auth/login nobody": login("nobody", goodPassword),
			"Basic wrong": basic("ada", badPassword+"!"), "Basic nobody": basic("nobody", goodPassword),
			"change right": password(goodPassword), "change wrong": password(badPassword),
		} {
			r := v.send(req)
			tooMany(t, what, r, "sign-in", 8, 450)
			quiet(t, what, r, goodPassword, badPassword)
			if isForm := r.header.Get("Content-Type") == "application/json"; isForm != strings.HasPrefix(what, "/token") {
				t.Errorf("%s is answered as %s", what, r.header.Get("Content-Type"))
			}
			for _, name := range []string{"Retry-After", "Ratelimit"} { // a second may have gone by
				r.header.Del(name)
			}
			way, _, _ := strings.Cut(what, " ")
			if first[way].header == nil {
				first[way] = r
			}
			alike(t, what, r, first[way])
		}
		w.holds(before)
		free() // still
		// A password that has been found right is not tested again.
		v.send(basic("ada", goodPassword)).want(t, 200, "")
		// Elsewhere nobody notices.
		home.send(token("ada", goodPassword)).want(t, 200, "")
		home.send(password(goodPassword)).want(t, 204, "")
	})
}

// The limit stands beside lockout, which has its own answer, and counts what
// lockout refuses, too.
func TestQ_PasswordsAndLockout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) {
		c.Limits = server.Limits{Default: server.LimitOff, Login: "8/hour"}
	})
	w.register("ada")
	v := w.at("127.0.46.1")
	v.guess("ada", 5)
	for range 3 {
		locked(t, "locked", v.token("ada", goodPassword), 20*time.Second, 30*time.Second)
	}
	tooMany(t, "limited", v.token("ada", goodPassword), "sign-in", 8, 450)
	tooMany(t, "somebody else", v.token("bob", goodPassword), "sign-in", 8, 450)
	w.at("127.0.46.2").token("ada", goodPassword).want(t, 200, "")
}

// Accounts that an address may make, and tries to.
func TestQ_Register(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, limited(server.Limits{Register: "5/hour;burst=3"}))
		v := w.at("127.0.47.1")
		register := func(v *visitor, email, pw string) reply {
			return v.send(w.request("POST", "/auth/register", "", map[string]string{"email": email, "password": pw}))
		}
		register(v, "a@example.com", goodPassword).want(t, 201, "")
		register(v, "a@example.com", goodPassword).want(t, 409, "account_exists")
		register(v, "not an address", goodPassword).want(t, 422, "")
		before := w.holdings()
		for _, email := range []string{"b@example.com", "a@example.com", "nonsense"} {
			r := register(v, email, goodPassword)
			r.want(t, 429, "rate_limited")
			if p, l := r.header.Get("RateLimit-Policy"), r.header.Get("RateLimit"); p != `"register";q=3;w=2160` || !strings.HasPrefix(l, `"register";r=0;t=`) || l[len(`"register";r=0;t=`):] != r.header.Get("Retry-After") {
				t.Errorf("RateLimit-Policy %q, RateLimit %q, Retry-After %q", p, l, r.header.Get("Retry-After"))
			}
		}
		w.holds(before)
		v.token("a@example.com", goodPassword).want(t, 200, "")
		register(w.at("127.0.47.2"), "b@example.com", goodPassword).want(t, 201, "")
	})
}

// After as long as Retry-After says, exactly one more passes.
func TestQ_RetryAfterIsRight(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "1/3s;burst=3", Login: server.LimitOff}))
	v := w.at("127.0.48.1")
	get := func() *http.Request { return w.request("GET", "/users/me", "", nil) }
	if n := v.passes(3, get); n != 3 {
		t.Fatalf("%d passed", n)
	}
	r := v.send(get()).want(t, 429, "rate_limited")
	wait, err := strconv.Atoi(r.header.Get("Retry-After"))
	if err != nil || wait != 3 {
		t.Fatalf("Retry-After %q", r.header.Get("Retry-After"))
	}
	time.Sleep(time.Duration(wait) * time.Second)
	if n := v.passes(2, get); n != 1 {
		t.Errorf("%d passed after the wait, want 1", n)
	}
}

// Switched off, nothing is limited.
func TestQ_Off(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Limits = noLimits })
	w.register("ada")
	v := w.at("127.0.49.1")
	var bad atomic.Int64
	parallel(100, func(i int) {
		for _, req := range []*http.Request{w.request("GET", "/users/me", fmt.Sprint("x", i), nil), w.keyed("GET", "/users/me", made(), nil)} {
			if v.send(req).status != 401 {
				bad.Add(1)
			}
		}
	})
	if bad.Load() != 0 {
		t.Errorf("%d requests were limited", bad.Load())
	}
	if l := w.do("GET", "/openapi.json", "", nil).body; strings.Contains(string(l), "x-sallyport-limits") {
		t.Error("limits that are off are documented")
	}
}

// sharedBy has a server count in Redis, and in its own memory where that does not
// answer, as the command line has it.
func sharedBy(t *testing.T, url, prefix string, change func(error)) func([]byte) (ratelimit.Store, error) {
	return func(secret []byte) (ratelimit.Store, error) {
		c, err := redis.Open(url, redis.Options{Prefix: prefix, Secret: secret, Timeout: 2 * time.Second})
		if err != nil {
			return nil, err
		}
		t.Cleanup(c.Close)
		return ratelimit.NewFallback(ratelimit.FallbackConfig{Shared: c.Limits(), Retry: 100 * time.Millisecond, OnChange: change})
	}
}

// Servers of one database and one Redis have one limit, to the request.
func TestQ_SharedLimits(t *testing.T) {
	url, prefix := testkit.Redis(t)
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		share := limited(server.Limits{
			Default: "30/hour", Login: "6/hour", Register: "3/hour", Guesses: "5/hour", Share: sharedBy(t, url, fmt.Sprint(prefix, d.Dialect(), ":"), nil),
		})
		w1 := newWorld(t, d, nil, share)
		node := func() *world {
			return newWorld(t, testkit.Again(t, d), nil, share, func(c *server.Config) { c.MasterKeyFile, c.Now = w1.cfg.MasterKeyFile, w1.clock.now })
		}
		nodes := []*world{w1, node(), node()}
		w1.at("127.0.50.9").signIn("ada")
		count := func(n int, addr string, req func(w *world, i int) *http.Request) int64 {
			var passed atomic.Int64
			visitors := []*visitor{nodes[0].at(addr), nodes[1].at(addr), nodes[2].at(addr)}
			parallel(n, func(i int) {
				v := visitors[i%3]
				switch r := v.send(req(v.w, i)); {
				case r.status >= 500 || r.status == 0:
					t.Errorf("status %d: %s", r.status, r.body)
				case r.status != 429:
					passed.Add(1)
				}
			})
			return passed.Load()
		}
		if n := count(90, "127.0.50.1", func(w *world, _ int) *http.Request { return w.request("GET", "/users/me", "", nil) }); n != 30 {
			t.Errorf("%d of 90 requests to three nodes passed, want 30", n)
		}
		if n := count(27, "127.0.50.2", func(w *world, i int) *http.Request {
			return w.signInRequests("ada", []string{goodPassword, badPassword}[i%2])["/token"]
		}); n != 6 {
			t.Errorf("%d passwords of 27 were tested by three nodes, want 6", n)
		}
		if n := count(27, "127.0.50.3", func(w *world, i int) *http.Request {
			return w.request("POST", "/auth/register", "", map[string]string{"email": fmt.Sprintf("%d@example.com", i), "password": goodPassword})
		}); n != 3 {
			t.Errorf("%d of 27 accounts were made by three nodes, want 3", n)
		}
		passed := 0
		for i := range 9 { // one after the other: what is under way at once is not counted yet
			w := nodes[i%3]
			if w.at("127.0.50.4").send(w.keyed("GET", "/users/me", made(), nil)).status != 429 {
				passed++
			}
		}
		if passed != 5 {
			t.Errorf("%d unknown keys of 9 were looked for by three nodes, want 5", passed)
		}
		// Another installation on the same Redis has another secret.
		stranger := newWorld(t, testkit.SQLite(t), nil, share)
		if r := stranger.at("127.0.50.1").send(stranger.request("GET", "/users/me", "", nil)); r.status != 401 {
			t.Errorf("another database's server: status %d", r.status)
		}
	})
}

// privateRedis starts a server that a test may kill. start begins it anew.
func privateRedis(t *testing.T) (url string, start func(), kill func()) {
	path := testkit.RedisServer(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	url = "unix://" + socket
	var cmd *exec.Cmd
	kill = func() {
		if cmd != nil {
			_ = cmd.Process.Signal(syscall.SIGKILL)
			_ = cmd.Wait()
			cmd = nil
		}
	}
	start = func() {
		t.Helper()
		cmd = exec.Command(path, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			c, err := redis.Open(url, redis.Options{})
			if err == nil {
				c.Close()
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(kill)
	return url, start, kill
}

// Redis goes: each node limits by itself, with what it has let through before,
// nothing fails and nothing is unlimited. It comes back: limits are shared again.
func TestQ_RedisGone(t *testing.T) {
	url, start, kill := privateRedis(t)
	start()
	var down, up atomic.Int64
	share := limited(server.Limits{Default: "20/hour", Login: "5/hour", Guesses: "5/hour", Share: sharedBy(t, url, "gone:", func(err error) {
		if err != nil {
			down.Add(1)
		} else {
			up.Add(1)
		}
	})})
	d := testkit.SQLite(t)
	w1 := newWorld(t, d, nil, share)
	w2 := newWorld(t, testkit.Again(t, d), nil, share, func(c *server.Config) { c.MasterKeyFile, c.Now = w1.cfg.MasterKeyFile, w1.clock.now })
	root, tk := w1.at("127.0.51.9").signIn("root")
	w1.grant(root, "admin")
	get := func(w *world) func() *http.Request {
		return func() *http.Request { return w.request("GET", "/users/me", "", nil) }
	}
	shared := func() string {
		t.Helper()
		limits := w1.at("127.0.51.8").send(w1.request("GET", "/doctor", tk, nil)).want(t, 200, "").json(t)["limits"]
		return limits.(map[string]any)["shared"].(string)
	}
	if got := shared(); got != "yes" {
		t.Errorf("shared: %s", got)
	}
	a1, a2 := w1.at("127.0.51.1"), w2.at("127.0.51.1")
	if n := a1.passes(8, get(w1)) + a2.passes(8, get(w2)); n != 16 {
		t.Fatalf("%d passed, want 16", n)
	}

	kill()
	// Each has let 8 through.
	if n1, n2 := a1.passes(40, get(w1)), a2.passes(40, get(w2)); n1 != 12 || n2 != 12 {
		t.Errorf("without Redis %d and %d passed, want 12 and 12", n1, n2)
	}
	b := w1.at("127.0.51.2")
	if n := b.passes(30, func() *http.Request { return w1.signInRequests("root", badPassword)["/token"] }); n != 5 {
		t.Errorf("without Redis %d passwords were tested, want 5", n)
	}
	if n := w1.at("127.0.51.3").passes(20, func() *http.Request { return w1.keyed("GET", "/users/me", made(), nil) }); n != 5 {
		t.Errorf("without Redis %d keys were looked for, want 5", n)
	}
	if got := shared(); got != "away" {
		t.Errorf("shared: %s", got)
	}
	if down.Load() != 2 {
		t.Errorf("the operator was told %d times, want once by each node", down.Load())
	}

	start() // with nothing in it
	for deadline := time.Now().Add(10 * time.Second); shared() != "yes" || up.Load() != 2; time.Sleep(120 * time.Millisecond) {
		w2.at("127.0.51.7").send(get(w2)())
		if time.Now().After(deadline) {
			t.Fatalf("limits are not shared again: %d", up.Load())
		}
	}
	c1, c2 := w1.at("127.0.51.4"), w2.at("127.0.51.4")
	if n := c1.passes(15, get(w1)) + c2.passes(15, get(w2)); n != 20 {
		t.Errorf("with Redis again %d passed, want 20", n)
	}
}

// A server whose limits cannot be checked lets nothing through, and says so.
func TestQ_WhatCannotBeChecked(t *testing.T) {
	var broken atomic.Bool
	memory, err := ratelimit.NewMemory(ratelimit.MemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "1000/hour", Share: func([]byte) (ratelimit.Store, error) {
		return breakable{memory, &broken}, nil
	}}))
	_, tk := w.user("ada")
	w.do("GET", "/users/me", tk.access, nil).want(t, 200, "")
	broken.Store(true)
	for _, path := range []string{"/users/me", "/docs", "/nothing"} {
		r := w.do("GET", path, tk.access, nil).want(t, 503, "unavailable")
		if r.header.Get("Retry-After") == "" || strings.Contains(string(r.body), "planted") {
			t.Errorf("%s: %v %s", path, r.header, r.body)
		}
	}
	w.do("GET", "/livez", "", nil).want(t, 200, "")
	broken.Store(false)
	w.do("GET", "/users/me", tk.access, nil).want(t, 200, "")
}

// The same where only the limits of passwords, accounts and guesses are on.
func TestQ_WhatCannotBeCheckedWithin(t *testing.T) {
	var broken atomic.Bool
	memory, err := ratelimit.NewMemory(ratelimit.MemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Share: func([]byte) (ratelimit.Store, error) { return breakable{memory, &broken}, nil }}))
	_, tk := w.user("ada")
	fresh := w.key(tk)
	broken.Store(true)
	before := w.holdings()
	for what, req := range w.signInRequests("ada", goodPassword) {
		if r := w.send(req); r.status != 503 || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	w.do("POST", "/auth/register", "", map[string]string{"email": "b@example.com", "password": goodPassword}).want(t, 503, "unavailable")
	w.doKeyed("GET", "/users/me", fresh.key, nil).want(t, 503, "unavailable")
	w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 503, "unavailable")
	w.holds(before)
	w.do("GET", "/users/me", tk.access, nil).want(t, 200, "") // held in memory, and asks for no limit
	broken.Store(false)
	w.doKeyed("GET", "/users/me", fresh.key, nil).want(t, 200, "")
	w.signIn("ada", goodPassword)
}

type breakable struct {
	ratelimit.Store
	broken *atomic.Bool
}

func (b breakable) Take(ctx context.Context, key string, n int, rates ...ratelimit.Rate) (ratelimit.Decision, error) {
	if b.broken.Load() {
		return ratelimit.Decision{}, fmt.Errorf("planted in an error of the store")
	}
	return b.Store.Take(ctx, key, n, rates...)
}

// A wall around a wall, as where a service that is mounted has put one around
// itself: the same address, one id, one answer, and no panic. Only the limit on
// all requests counts at each.
func TestQ_GuardInGuard(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, limited(server.Limits{Default: "20/hour", Login: "4/hour", Guesses: "6/hour", Register: "2/hour"}), func(c *server.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.52.1/32")}
	})
	w.register("ada")
	outer := httptest.NewServer(w.sv.Guard(w.sv.Guard(w.mux)))
	t.Cleanup(outer.Close)
	twice := func(addr string) *visitor {
		v := w.at(addr)
		v.host = outer.Listener.Addr().String()
		return v
	}
	proxy := twice("127.0.52.1")
	for i := range 12 {
		req := w.request("GET", "/users/me", "", nil)
		req.Header.Set("X-Forwarded-For", "203.0.113.9")
		req.Header.Set("X-Request-Id", "asked-for")
		r := proxy.send(req)
		if want := map[bool]int{true: 401, false: 429}[i < 10]; r.status != want {
			t.Errorf("request %d of 12: status %d, want %d", i+1, r.status, want)
		}
		for _, name := range []string{"X-Request-Id", "X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy"} {
			if len(r.header[name]) != 1 {
				t.Errorf("%s: %q", name, r.header[name])
			}
		}
		if r.header.Get("X-Request-Id") != "asked-for" {
			t.Errorf("X-Request-Id %q", r.header.Get("X-Request-Id"))
		}
	}
	one := twice("127.0.52.2")
	for range 4 {
		one.token("ada", badPassword).want(t, 401, "")
	}
	tooMany(t, "passwords", one.token("ada", goodPassword), "sign-in", 4, 900)
	two := twice("127.0.52.3")
	for range 6 {
		two.send(w.keyed("GET", "/users/me", made(), nil)).want(t, 401, "")
	}
	tooMany(t, "guesses", two.send(w.keyed("GET", "/users/me", made(), nil)), "guesses", 6, 600)
	if e := w.events("credential.refused", 6); e[0].Address != "127.0.52.3" {
		t.Errorf("the audit log has %q", e[0].Address)
	}
}
