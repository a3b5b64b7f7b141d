package server_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// offer makes a token to set the first administrator up with.
func (w *world) offer(alone bool) string {
	w.t.Helper()
	token, _, err := w.sv.Accounts.OfferSetup(w.t.Context(), alone)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *world) administrate(token, name string) reply {
	w.t.Helper()
	return w.do("POST", "/auth/setup", "", map[string]string{"token": token, "email": name + "@example.com", "username": name, "password": goodPassword})
}

// accounts is how many there are, and administrators how many of them have the role.
func (w *world) accounts(t *testing.T) (accounts, administrators int64) {
	t.Helper()
	view := w.db.View(t.Context())
	if _, err := view.Row("SELECT COUNT(*) FROM sp_accounts", nil, &accounts); err != nil {
		t.Fatal(err)
	}
	if _, err := view.Row("SELECT COUNT(*) FROM sp_subject_roles WHERE role = 'admin'", nil, &administrators); err != nil {
		t.Fatal(err)
	}
	return accounts, administrators
}

// planted fails if a text stands anywhere in the audit log.
func (w *world) planted(t *testing.T, secrets ...string) {
	t.Helper()
	all, err := audit.Latest(w.db.View(t.Context()), 500)
	if err != nil || len(all) == 0 {
		t.Fatalf("%d events: %v", len(all), err)
	}
	for _, e := range all {
		for _, secret := range secrets {
			if text := text(t, e); strings.Contains(text, secret) {
				t.Errorf("a secret in the audit log: %s", text)
			}
		}
	}
}

// Who has the link of the operator makes the first administrator, once; nobody else
// does.
func TestE_SetUp(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		first := w.offer(true)
		other := w.offer(false)
		token := w.offer(false)
		unchanged := func() {
			t.Helper()
			if accounts, administrators := w.accounts(t); accounts != 0 || administrators != 0 {
				t.Fatalf("%d accounts, %d administrators", accounts, administrators)
			}
		}

		// Not who has none, and a page that is opened is no use of it.
		for _, bad := range []string{"su_" + strings.Repeat("A", 43), token[:len(token)-1], token + "A", "", " " + token, "vt_" + token[3:], "SU_" + token[3:], "%"} {
			w.administrate(bad, "eve").want(t, 400, "invalid_token")
		}
		w.do("GET", "/auth/setup?token="+token, "", nil).want(t, 405, "method_not_allowed")
		w.do("GET", "/console/setup?k="+token, "", nil).want(t, 200, "")
		unchanged()
		if e := w.events("administrator.set_up", 1)[0]; e.Result != audit.Failure || e.Actor != "" || e.Address == "" {
			t.Errorf("event %+v", e)
		}

		// What is wrong with the form does not use it up.
		w.do("POST", "/auth/setup", "", map[string]string{"token": token, "email": "nowhere", "username": "r t", "password": "short"}).want(t, 422, "validation_failed")
		w.do("POST", "/auth/setup", "", map[string]any{"token": token, "email": "a@example.com", "password": goodPassword, "roles": []string{"admin"}}).want(t, 422, "validation_failed")
		unchanged()

		// Newer links stand beside older ones only if they are meant to.
		last := w.offer(true)
		for _, dead := range []string{first, other, token} {
			w.administrate(dead, "eve").want(t, 400, "invalid_token")
		}
		unchanged()

		second := w.offer(false)
		root := w.administrate(last, "root").want(t, 201, "").json(t)
		if root["email_verified"] != true || text(t, root["roles"]) != text(t, []string{"admin"}) {
			t.Errorf("made %v", root)
		}
		done := w.events("administrator.set_up", 1)[0]
		if done.Result != audit.Success || done.Target != root["id"] || done.ActorKind != "anonymous" {
			t.Errorf("event %+v", done)
		}
		w.do("GET", "/users", w.signIn("root", goodPassword).access, nil).want(t, 200, "")

		// It was good once, and all others with it.
		w.administrate(last, "eve").want(t, 400, "invalid_token")
		w.administrate(second, "eve").want(t, 400, "invalid_token")
		if accounts, administrators := w.accounts(t); accounts != 1 || administrators != 1 {
			t.Errorf("%d accounts, %d administrators", accounts, administrators)
		}
		if _, _, err := w.sv.Accounts.OfferSetup(t.Context(), true); err == nil || !strings.Contains(err.Error(), "administrator_exists") {
			t.Errorf("another link: %v", err)
		}
		w.planted(t, last, token, goodPassword)
	})
}

func TestE_SetUpIsOver(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		late := w.offer(true)
		w.clock.advance(30 * time.Minute)
		w.administrate(late, "eve").want(t, 400, "invalid_token")

		// Somebody else became administrator meanwhile.
		token := w.offer(true)
		id := w.register("root")
		w.grant(id, "admin")
		w.administrate(token, "eve").want(t, 409, "administrator_exists")
		if accounts, administrators := w.accounts(t); accounts != 1 || administrators != 1 {
			t.Errorf("%d accounts, %d administrators", accounts, administrators)
		}
		// A name that is taken leaves the link good.
		w = newWorld(t, testkit.SQLite(t), nil)
		w.register("root")
		token = w.offer(true)
		w.administrate(token, "root").want(t, 409, "account_exists")
		w.administrate(token, "boss").want(t, 201, "")
	})
}

// Of 50 at once, with one link or with several, one becomes administrator.
func TestE_SetUpInARace(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		tokens := []string{w.offer(true), w.offer(false), w.offer(false)}
		var wg sync.WaitGroup
		statuses := make([]int, 50)
		start := make(chan struct{})
		for i := range statuses {
			body := strings.NewReader(text(t, map[string]string{"token": tokens[i%len(tokens)], "email": "r" + string(rune('a'+i%26)) + strings.Repeat("x", i/26) + "@example.com", "password": goodPassword}))
			wg.Go(func() {
				<-start
				res, err := http.Post(w.http.URL+"/auth/setup", "application/json", body)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				statuses[i] = res.StatusCode
			})
		}
		close(start)
		wg.Wait()
		count := map[int]int{}
		for _, s := range statuses {
			count[s]++
		}
		// On a busy machine some are told to try again (503): they have done nothing.
		if count[201] != 1 || count[201]+count[400]+count[409]+count[503] != 50 || count[503] > 40 {
			t.Errorf("answers: %v", count)
		}
		if accounts, administrators := w.accounts(t); accounts != 1 || administrators != 1 {
			t.Errorf("%d accounts, %d administrators", accounts, administrators)
		}
	})
}

// browserBase is a base URL at which browsers keep the cookie of a test's server.
func browserBase(c *server.Config) { c.BaseURL = "http://127.0.0.1" }

// post posts a form to a page as a browser does from a page of the same origin.
func (w *world) submit(path string, header http.Header, fields ...string) reply {
	w.t.Helper()
	v := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	req := w.request("POST", path, "", v.Encode())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	for name, values := range header {
		req.Header[name] = values
	}
	return w.send(req)
}

// What is done on a page is done by its browser: that is whose address, limits,
// lockout, sessions and events it counts with.
func TestC_PagesAreTheBrowsers(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, browserBase, func(c *server.Config) {
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
			c.Limits = server.Limits{Default: server.LimitOff, Login: "4/hour"}
		})
		id := w.register("ada")
		from := func(address string) http.Header {
			return http.Header{"X-Forwarded-For": {address}, "User-Agent": {"Page/1"}, "X-Request-Id": {"request-of-" + address}}
		}
		r := w.submit("/account/sign-in", from("203.0.113.7"), "username", "ada", "password", goodPassword).want(t, 303, "")
		if to := r.header.Get("Location"); to != "/account/" {
			t.Errorf("leads to %s", to)
		}
		if e := w.events("session.started", 1)[0]; e.Address != "203.0.113.7" || e.RequestID != "request-of-203.0.113.7" || e.Actor != id {
			t.Errorf("event %+v", e)
		}
		cookie := http.Header{"Cookie": {"__Host-sallyport=" + cookieOf(t, r)}}
		req := w.request("GET", "/users/me/sessions", "", nil)
		req.Header["Cookie"] = cookie["Cookie"]
		if s := string(w.send(req).want(t, 200, "").body); !strings.Contains(s, `"address":"203.0.113.7","user_agent":"Page/1"`) {
			t.Errorf("sessions: %s", s)
		}

		// The limit is of the browser's address, and not of all who use the page.
		for range 4 {
			w.submit("/account/sign-in", from("203.0.113.8"), "username", "nobody", "password", "wrong-"+goodPassword).want(t, 403, "")
		}
		if r := w.submit("/account/sign-in", from("203.0.113.8"), "username", "ada", "password", goodPassword); r.status != 429 || r.header.Get("Retry-After") == "" || !strings.Contains(string(r.body), `id="problem"`) {
			t.Errorf("over the limit: %d %v %s", r.status, r.header, r.body)
		}
		w.submit("/account/sign-in", from("203.0.113.9"), "username", "ada", "password", goodPassword).want(t, 303, "")
		if e := w.events("signin.refused", 4)[0]; e.Address != "203.0.113.8" {
			t.Errorf("event %+v", e)
		}

		// An access token beside a form does nothing: no form sends one.
		tk := w.signIn("ada", goodPassword)
		withToken := http.Header{"Authorization": {"Bearer " + tk.access}}
		w.submit("/account/sign-out", withToken).want(t, 303, "")
		if !w.alive(tk.access) {
			t.Error("the session of an access token was ended by a form")
		}
		// The cookie does.
		w.submit("/account/sign-out", cookie).want(t, 303, "")
		req = w.request("GET", "/users/me", "", nil)
		req.Header["Cookie"] = cookie["Cookie"]
		w.send(req).want(t, 401, "invalid_token")

		// One that is not good any more is taken away, and the page is there.
		req = w.request("GET", "/account/sign-in", "", nil)
		req.Header["Cookie"] = cookie["Cookie"]
		if r := w.send(req).want(t, 200, ""); len(r.header["Set-Cookie"]) != 1 || !strings.Contains(r.header.Get("Set-Cookie"), "Max-Age=0") {
			t.Errorf("an old cookie: %v", r.header["Set-Cookie"])
		}
		w.planted(t, goodPassword, tk.access)
	})
}

// Failures on the page count with those at the API, for one account.
func TestL_PagesCountInLockout(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, browserBase)
		w.register("ada")
		w.register("bob")
		locked := 0
		for range 30 {
			r := w.submit("/account/sign-in", nil, "username", "ada", "password", "wrong-"+goodPassword)
			if r.status == 429 {
				locked++
				break
			}
			if r.status != 403 {
				t.Fatalf("%d %s", r.status, r.body)
			}
		}
		if locked == 0 {
			t.Fatal("30 wrong passwords, and none was refused")
		}
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 429, "too_many_attempts")
		w.submit("/account/sign-in", nil, "username", "ada", "password", goodPassword).want(t, 429, "")
		w.submit("/account/sign-in", nil, "username", "bob", "password", goodPassword).want(t, 303, "")
	})
}

// Nobody's page but the server's own can post: not one of another origin, and not
// one that may act with the cookie.
func TestC_PagesOfOthersCannotPost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, browserBase, func(c *server.Config) {
		c.CORS.Origins, c.CORS.Credentials = []string{"https://app.example.com"}, true
	})
	w.register("ada")
	for name, header := range map[string]http.Header{
		"another site":                   {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}},
		"another origin, an old browser": {"Sec-Fetch-Site": nil, "Origin": {"https://evil.example"}},
		"null":                           {"Sec-Fetch-Site": nil, "Origin": {"null"}},
		"the same site":                  {"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://127.0.0.1:1"}},
		"an origin that may act":         {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://app.example.com"}},
	} {
		r := w.submit("/account/sign-in", header, "username", "ada", "password", goodPassword).want(t, 403, "")
		if len(r.header["Set-Cookie"]) > 0 || !strings.Contains(string(r.body), `id="problem"`) {
			t.Errorf("%s: %v %s", name, r.header, r.body)
		}
	}
	for _, e := range w.events("access.denied", 5) {
		if e.Detail["code"] != "cross_origin" || e.Detail["route"] != "POST /account/sign-in" {
			t.Errorf("event %+v", e)
		}
	}
	if all := w.events("session.started", 0); len(all) != 0 {
		t.Errorf("sessions were begun: %v", all)
	}
	// The controls: an old browser on the page itself, and what is no browser.
	w.submit("/account/sign-in", http.Header{"Sec-Fetch-Site": nil, "Origin": {w.http.URL}}, "username", "ada", "password", goodPassword).want(t, 303, "")
	w.submit("/account/sign-in", http.Header{"Sec-Fetch-Site": nil}, "username", "ada", "password", goodPassword).want(t, 303, "")
}

// No form makes a page fail: here one that asks for a secret with the mfa_token of an
// account that has a factor, of nobody who is signed in.
func TestV_SettingUpOnAPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, browserBase, noLockout)
	_, ada := w.user("ada")
	a, _ := w.enrol(ada.access)
	mfa := w.due("ada")
	if r := w.submit("/account/sign-in", nil, "mfa_token", mfa, "setup", "yes").want(t, 409, ""); !strings.Contains(string(r.body), `value="`+mfa+`"`) {
		t.Errorf("the sign-in cannot go on: %s", r.body)
	}
	w.submit("/account/sign-in", nil, "mfa_token", mfa, "code", a.next()).want(t, 303, "")
}

func TestNoPortal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.NoPortal = true })
	for _, path := range []string{"/account/", "/account/sign-in", "/console/setup", "/.well-known/change-password", "/account/assets/portal.css"} {
		w.do("GET", path, "", nil).want(t, 404, "not_found")
	}
	w.administrate(w.offer(true), "root").want(t, 201, "")
}
