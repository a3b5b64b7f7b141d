package server_test

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// Redis is emptied in the middle of everything that may happen once or so many
// times: nothing of it depends on Redis. That it was emptied shows in the limits,
// which begin anew.
func TestQ_RedisFlushed(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		url, start, _ := privateRedis(t)
		start()
		flush := func() {
			t.Helper()
			c, err := net.Dial("unix", strings.TrimPrefix(url, "unix://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			answer := make([]byte, 5)
			if _, err := c.Write([]byte("FLUSHALL\r\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(answer); err != nil || string(answer) != "+OK\r\n" {
				t.Fatalf("%q, %v", answer, err)
			}
		}
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), func(c *server.Config) {
			c.Limits = server.Limits{
				Default: "1000/hour", Login: "1000/hour", Register: "20/hour", Mail: "1000/hour", Guesses: "1000/hour",
				Share: sharedBy(t, url, "flushed:", nil),
			}
		})
		register := func() *http.Request { return w.request("POST", "/auth/register", "", "{}") }
		other := w.at("127.0.53.2")
		for i := range 2 {
			if n := other.passes(25, register); n != 20 {
				t.Errorf("%d of 20 passed, round %d", n, i)
			}
			flush()
		}

		t.Log("a refresh token")
		_, tk := w.user("ada")
		refresh := func(token string) reply {
			flush()
			return w.form("/token", "grant_type", "refresh_token", "refresh_token", token)
		}
		second := refresh(tk.refresh).want(t, 200, "").text(t, "refresh_token")
		third := refresh(second).want(t, 200, "").text(t, "refresh_token")
		refresh(tk.refresh).want(t, 400, "invalid_grant")
		refresh(third).want(t, 400, "invalid_grant") // the family is dead

		t.Log("a code of the second factor, and the tries of a sign-in")
		_, bob := w.user("bob")
		a, recovery := w.enrol(bob.access)
		w.clock.advance(totp.Period)
		mfa, code := w.due("bob"), a.code(0)
		flush()
		w.verify(mfa, code).want(t, 200, "")
		for _, used := range []struct{ mfa, code string }{{mfa, code}, {w.due("bob"), code}} {
			flush()
			if r := w.verify(used.mfa, used.code); r.status == 200 || r.status >= 500 {
				t.Errorf("a code was good twice: %d %s", r.status, r.body)
			}
		}
		mfa = w.due("bob")
		w.verify(mfa, recovery[0]).want(t, 200, "")
		flush()
		if r := w.verify(w.due("bob"), recovery[0]); r.status == 200 || r.status >= 500 {
			t.Errorf("a recovery code was good twice: %d %s", r.status, r.body)
		}
		w.clock.advance(25 * time.Hour) // nothing of that counts any more
		mfa = w.due("bob")
		for range 5 {
			flush()
			if r := w.verify(mfa, "000000"); r.status == 200 || r.status >= 500 {
				t.Fatalf("%d %s", r.status, r.body)
			}
		}
		flush()
		if r := w.verify(mfa, a.code(0)); r.status == 200 || r.status >= 500 {
			t.Errorf("a sign-in took a sixth code: %d %s", r.status, r.body)
		}

		t.Log("a token that was mailed")
		w.user("cyd")
		w.do("POST", "/auth/forgot-password", "", map[string]string{"email": "cyd@example.com"}).want(t, 202, "")
		token := box.token(w, "cyd@example.com", mail.Reset)
		reset := func(pw string) reply {
			flush()
			return w.do("POST", "/auth/reset-password", "", map[string]string{"token": token, "password": pw})
		}
		reset("first-"+goodPassword).want(t, 200, "")
		if r := reset("second-" + goodPassword); r.status/100 != 4 {
			t.Errorf("a token was good twice: %d %s", r.status, r.body)
		}

		t.Log("lockout")
		w.user("dora")
		eve := w.at("127.0.53.9")
		for range 5 {
			eve.guess("dora", 1)
			flush()
		}
		locked(t, "after five wrong passwords", eve.token("dora", goodPassword), 20*time.Second, 31*time.Second)
	})
}

// A node that knows how many there are, and counts for itself, lets through its
// part of each limit; what is told of the limit is the whole.
func TestQ_PartOfOneNode(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	w := newWorld(t, d, nil, limited(server.Limits{Default: "30/hour", Login: "10/hour", Nodes: 3}))
	ada := w.at("127.0.54.1")
	if n := ada.passes(40, func() *http.Request { return w.request("GET", "/users/me", "", nil) }); n != 10 {
		t.Errorf("%d requests passed on one of three nodes, want 10 of 30", n)
	}
	if n := w.at("127.0.54.2").passes(9, func() *http.Request { return w.signInRequests("ada", badPassword)["/token"] }); n != 4 {
		t.Errorf("%d passwords were tested on one of three nodes, want 4 of 10", n)
	}
	if doc := string(w.at("127.0.54.3").send(w.request("GET", "/openapi.json", "", nil)).want(t, 200, "").body); !strings.Contains(doc, `"rate":"10/hour"`) && !strings.Contains(doc, `"rate": "10/hour"`) {
		t.Error("the limit on sign-ins is not documented as the whole")
	}
	_, err := server.New(t.Context(), server.Config{DB: d, BaseURL: baseURL, Limits: server.Limits{Nodes: 1001}})
	if err == nil || !strings.Contains(err.Error(), "limits.nodes") {
		t.Errorf("of 1001 nodes: %v", err)
	}
}
