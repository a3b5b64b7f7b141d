package server_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// waysIntoASession are all operations that may begin a session or go on with one,
// by what an answer of theirs can hold. TestT_EveryWayToASession looks at the source
// for the same.
var waysIntoASession = []string{"POST /2fa/verify", "POST /auth/link", "POST /auth/login", "POST /token", "POST /token/refresh"}

// way is one way of getting into an account.
type way struct {
	// begin prepares what is sent, while everything is well with the account, and
	// returns what sends it.
	begin func(w *world, box *mailbox, name string) func(*visitor) reply
	// What is answered to an account in each condition; 0 is as when all is well.
	factor, disabled, unverified, locked, demanded int
}

// everyWay is the ways of people; those of machine clients and API keys are in
// their own tests.
func everyWay() map[string]way {
	form := func(fields ...string) func(w *world, _ *mailbox, name string) func(*visitor) reply {
		return func(w *world, _ *mailbox, name string) func(*visitor) reply {
			return func(v *visitor) reply {
				return v.send(w.typed("POST", "/token", formType, "grant_type=password&username="+name+"&password="+goodPassword+strings.Join(fields, "")))
			}
		}
	}
	request := func(make func(w *world, name string) *http.Request) func(w *world, _ *mailbox, name string) func(*visitor) reply {
		return func(w *world, _ *mailbox, name string) func(*visitor) reply {
			return func(v *visitor) reply { return v.send(make(w, name)) }
		}
	}
	asked := func(path string, body func(handle, token, code string) map[string]string) func(w *world, box *mailbox, name string) func(*visitor) reply {
		return func(w *world, box *mailbox, name string) func(*visitor) reply {
			handle := w.ask(name + "@example.com")
			got := box.to(w, name+"@example.com", mail.SignIn)
			last := got[len(got)-1]
			_, token, _ := strings.Cut(last.Link, "#token=")
			return func(v *visitor) reply {
				return v.send(w.browse("POST", path, "", body(handle, token, last.Code), "Origin", "https://sallyport.test"))
			}
		}
	}
	link := func(_, token, _ string) map[string]string { return map[string]string{"token": token} }
	code := func(handle, _, code string) map[string]string {
		return map[string]string{"handle": handle, "code": code}
	}
	password := way{factor: 403, disabled: 401, unverified: 401, locked: 429, demanded: 403}
	with := func(p way, begin func(w *world, box *mailbox, name string) func(*visitor) reply) way {
		p.begin = begin
		return p
	}
	byMail := way{factor: 403, disabled: 401, locked: 429, demanded: 403}
	return map[string]way{
		"token":                        with(password, form()),
		"docs client":                  with(password, form("&client_id=docs")),
		"a code that nobody asked for": with(way{factor: 401, disabled: 401, unverified: 401, locked: 429, demanded: 403}, form("&otp=000000")),
		"JSON": with(password, request(func(w *world, name string) *http.Request {
			return w.request("POST", "/auth/login", "", map[string]string{"username": name, "password": goodPassword})
		})),
		"form": with(password, request(func(w *world, name string) *http.Request {
			return w.typed("POST", "/auth/login", formType, "username="+name+"&password="+goodPassword)
		})),
		"cookie": with(password, request(func(w *world, name string) *http.Request { return w.signInCookie(name, goodPassword, "") })),
		"Basic": with(way{factor: 401, disabled: 401, unverified: 401, locked: 429, demanded: 401}, request(func(w *world, name string) *http.Request {
			return w.with("GET", "/by-basic", basicValue(name, goodPassword))
		})),
		"link":             with(byMail, asked("/auth/link", link)),
		"code":             with(byMail, asked("/auth/link", code)),
		"link, for cookie": with(byMail, asked("/auth/link?mode=cookie", link)),
	}
}

// Every way into an account asks of it what every other asks: a second factor that
// is on, or demanded, an account that is not disabled, a verified address, and no
// more guesses than there may be.
func TestT_NoWayGoesRound(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, probes, withMail(&box), withMailSignIn, overHTTPS, demanding("moderator"), func(c *server.Config) {
			c.VerifyAddress = true
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // what ends TLS is anywhere here
		})
		ways := everyWay()
		n := 0
		for _, name := range slices.Sorted(maps.Keys(ways)) {
			c := ways[name]
			for _, condition := range []string{"well", "factor", "disabled", "unverified", "locked", "demanded"} {
				n++
				who := "person" + string(rune('a'+n/26)) + string(rune('a'+n%26))
				id := w.person(who, condition != "unverified")
				v := w.at("127.0.7.1")
				want := 0
				if condition == "factor" {
					w.enrol(w.signIn(who, goodPassword).access)
				}
				send := c.begin(w, &box, who)
				switch condition {
				case "factor":
					want = c.factor
				case "disabled":
					w.disable(id)
					want = c.disabled
				case "unverified":
					want = c.unverified
				case "locked":
					v.guess(who, 5)
					want = c.locked
				case "demanded":
					w.grant(id, "moderator")
					want = c.demanded
				}
				before := w.live(id)
				r := send(v)
				let := r.status == 200 || r.status == 204
				if want == 0 && !let || want != 0 && r.status != want {
					t.Errorf("%s, %s: %d, want %d: %.300s", name, condition, r.status, want, r.body)
				}
				began := w.live(id) - before
				if !let && (began != 0 || bytes.Contains(r.body, []byte("access_token")) || r.header.Get("Set-Cookie") != "") {
					t.Errorf("%s, %s: refused, and %d sessions began: %s", name, condition, began, r.body)
				}
				if let && name != "Basic" && began != 1 {
					t.Errorf("%s, %s: let in, and %d sessions began", name, condition, began)
				}
				if want == 403 {
					r.want(t, 403, "mfa_required")
				}
			}
			w.clock.advance(time.Hour) // the budgets of a network are for one client's attacks
		}
	})
}

// What a person is in already holds no longer than what they came in with: a session
// goes on by token, refresh or cookie only while the account may.
func TestT_NoSessionOutlivesItsGround(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, probes, withMail(&box), withMailSignIn, overHTTPS, noLockout, demanding("moderator"))
		for _, c := range []struct {
			name    string
			change  func(id string, tk tokens)
			refresh int // of the refresh token
			open    bool
		}{
			{"well", func(string, tokens) {}, 200, true},
			{"factor", func(_ string, tk tokens) { w.enrol(tk.access) }, 401, false},
			{"disabled", func(id string, _ tokens) { w.switchOff(id, true) }, 401, false},
			{"demanded", func(id string, _ tokens) { w.grant(id, "moderator") }, 200, false},
		} {
			id := w.person(c.name, true)
			other := w.signIn(c.name, goodPassword)
			tk, cookie := w.signIn(c.name, goodPassword), w.cookie(c.name)
			c.change(id, other)
			if got := w.do("GET", "/users/me/sessions", tk.access, nil).status == 200; got != c.open {
				t.Errorf("%s: an access token opens: %v", c.name, got)
			}
			if got := w.send(w.browse("GET", "/users/me/sessions", cookie, nil)).status == 200; got != c.open {
				t.Errorf("%s: a cookie opens: %v", c.name, got)
			}
			r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, c.refresh, "")
			if c.refresh == 200 {
				if got := w.do("GET", "/users/me/sessions", r.text(t, "access_token"), nil).status == 200; got != c.open {
					t.Errorf("%s: refreshed, it opens: %v", c.name, got)
				}
			}
		}
	})
}

// The operations that can answer with a token or a cookie are those that the tests
// of all ways know.
func TestT_EveryWayIsKnown(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Headers map[string]any             `json:"headers"`
				Content map[string]json.RawMessage `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(w.do("GET", "/openapi.json", "", nil).want(t, 200, "").body, &doc); err != nil {
		t.Fatal(err)
	}
	var found []string
	for path, methods := range doc.Paths {
		for method, op := range methods {
			name := strings.ToUpper(method) + " " + path
			for _, res := range op.Responses {
				gives := false
				for _, c := range res.Content {
					gives = gives || bytes.Contains(c, []byte("TokenResponse"))
				}
				cookie := res.Headers["Set-Cookie"] != nil && !strings.Contains(path, "logout") && !strings.HasPrefix(path, "/users/me/sessions")
				if gives || cookie {
					found = append(found, name)
				}
			}
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); !slices.Equal(found, waysIntoASession) {
		t.Errorf("operations that give a session: %v, known are %v. Add the new one to everyWay.", found, waysIntoASession)
	}
}

// A new password by mail is no way round the second factor of an account whose
// address was verified, nor round a lock; and none of it begins a session.
func TestT_ResetIsNoWayRound(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		id := w.person("ada", true)
		ada := w.signIn("ada", goodPassword)
		a, recovery := w.enrol(ada.access)
		due := w.due("ada")
		w.do("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"}).want(t, 202, "")
		token := box.token(w, "ada@example.com", mail.Reset)
		r := w.do("POST", "/auth/reset-password", "", map[string]string{"token": token, "password": "another-" + goodPassword}).want(t, 200, "")
		if bytes.Contains(r.body, []byte("access_token")) || r.header.Get("Set-Cookie") != "" || w.live(id) != 0 {
			t.Errorf("a reset begins a session: %s", r.body)
		}
		if r.json(t)["mfa_enabled"] != true {
			t.Errorf("the factor is gone: %s", r.body)
		}
		w.verify(due, a.next()).want(t, 401, "invalid_token") // it stood on the password before
		mfa := w.form("/token", "grant_type", "password", "username", "ada", "password", "another-"+goodPassword).want(t, 403, "mfa_required").text(t, "mfa_token")
		w.verify(mfa, recovery[0]).want(t, 200, "")
	})
}

// A lock holds where letters lead, and is not lifted there.
func TestL_LockHoldsOnLetters(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		w.person("ada", true)
		w.person("new", false)
		w.do("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"}).want(t, 202, "")
		w.do("POST", "/auth/request-verify-token", "", map[string]string{"email": "new@example.com"}).want(t, 202, "")
		reset, verify := box.token(w, "ada@example.com", mail.Reset), box.token(w, "new@example.com", mail.Verify)
		eve := w.at("127.0.1.1")
		for range 3 {
			eve.token("new", badPassword).want(t, 401, "invalid_grant")
		}
		tryVerify := func(pw string) reply {
			return eve.send(w.request("POST", "/auth/verify", "", map[string]string{"token": verify, "password": pw}))
		}
		for range 2 {
			tryVerify(badPassword).want(t, 401, "wrong_password")
		}
		locked(t, "verifying", tryVerify(goodPassword), 20*time.Second, 30*time.Second)
		eve.token("new", goodPassword).want(t, 429, "too_many_attempts")
		w.at("127.0.2.1").send(w.request("POST", "/auth/verify", "", map[string]string{"token": verify, "password": goodPassword})).want(t, 200, "")

		eve.guess("ada", 5)
		eve.send(w.request("POST", "/auth/reset-password", "", map[string]string{"token": reset, "password": "another-" + goodPassword})).want(t, 200, "")
		locked(t, "after a reset", eve.token("ada", "another-"+goodPassword), 20*time.Second, 30*time.Second)
		w.at("127.0.2.1").token("ada", "another-"+goodPassword).want(t, 200, "")
	})
}

// Letters are asked for no more often than limits.mail says, whatever they are for,
// and codes of letters are tried no more often than passwords.
func TestQ_LettersToSignInAreLimited(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, withMail(&box), withMailSignIn, noLockout, func(c *server.Config) {
		c.Limits = server.Limits{Default: server.LimitOff, Login: "4/hour", Mail: "3/hour"}
	})
	w.person("ada", true)
	eve := w.at("127.0.3.1")
	handle := ""
	for i := range 3 {
		r := eve.send(w.request("POST", "/auth/request-link", "", map[string]string{"email": []string{"ada@example.com", "nobody@example.com", "ada@example.com"}[i]})).want(t, 202, "")
		handle = r.text(t, "handle")
		box.to(w, "ada@example.com", mail.SignIn) // one after the other: several that wait are sent in any order
	}
	if r := eve.send(w.request("POST", "/auth/request-link", "", map[string]string{"email": "ada@example.com"})).want(t, 429, "rate_limited"); r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	code := box.to(w, "ada@example.com", mail.SignIn)[1].Code
	for i := range 4 {
		eve.send(w.request("POST", "/auth/link", "", map[string]string{"handle": handle, "code": otherCode(code, i)})).want(t, 401, "invalid_token")
	}
	eve.send(w.request("POST", "/auth/link", "", map[string]string{"handle": handle, "code": code})).want(t, 429, "rate_limited")
	w.at("127.0.3.2").send(w.request("POST", "/auth/link", "", map[string]string{"handle": handle, "code": code})).want(t, 200, "")
	w.at("127.0.3.2").send(w.request("POST", "/auth/request-link", "", map[string]string{"email": "ada@example.com"})).want(t, 202, "")
}

// Tokens of letters that nobody was sent are bounded by address, and a good one is
// looked for no more then.
func TestQ_GuessedLinks(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, withMail(&box), withMailSignIn, noLockout, func(c *server.Config) {
		c.Limits = server.Limits{Default: server.LimitOff, Guesses: "3/hour"}
	})
	w.person("ada", true)
	_, token, _ := box.letter(w, "ada@example.com")
	eve := w.at("127.0.3.1")
	for range 3 {
		eve.send(w.request("POST", "/auth/link", "", map[string]string{"token": "li_" + strings.Repeat("A", 43)})).want(t, 401, "invalid_token")
	}
	eve.send(w.request("POST", "/auth/link", "", map[string]string{"token": token})).want(t, 429, "rate_limited")
	w.at("127.0.3.2").send(w.request("POST", "/auth/link", "", map[string]string{"token": token})).want(t, 200, "")
}
