package server_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// verifying makes addresses be verified before anybody is let in.
func verifying(c *server.Config) { c.VerifyAddress = true }

// make makes an account NAME (NAME@example.com, goodPassword) as the operator would.
func (w *world) make(name string, verified bool) (id string) {
	w.t.Helper()
	u, err := w.sv.Accounts.Create(w.t.Context(), role.Operator(), account.NewUser{
		Username: &name, Email: name + "@example.com", Password: goodPassword, EmailVerified: verified,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return u.ID
}

func (w *world) account(id string) account.User {
	w.t.Helper()
	u, err := w.sv.Accounts.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) post(path string, body any) reply {
	w.t.Helper()
	return w.do("POST", path, "", body)
}

func (w *world) registerSilently(name string) reply {
	w.t.Helper()
	return w.post("/auth/register", map[string]any{"username": name, "email": name + "@example.com", "password": goodPassword})
}

func (w *world) forgot(email string) reply {
	w.t.Helper()
	return w.post("/auth/forgot-password", map[string]string{"email": email})
}

func (w *world) reset(token, pw string) reply {
	w.t.Helper()
	return w.post("/auth/reset-password", map[string]string{"token": token, "password": pw})
}

// prove posts the token of a letter that asks whether an address is somebody's.
func (w *world) prove(token, pw string) reply {
	w.t.Helper()
	body := map[string]string{"token": token}
	if pw != "" {
		body["password"] = pw
	}
	return w.post("/auth/verify", body)
}

// signsIn reports whether a name and password are let in.
func (w *world) signsIn(name, pw string) bool {
	w.t.Helper()
	r := w.form("/token", "grant_type", "password", "username", name, "password", pw)
	if r.status != 200 && r.status != 401 {
		w.t.Fatalf("status %d: %s", r.status, r.body)
	}
	return r.status == 200
}

// letters returns how many letters of any kind an address has got.
func (m *mailbox) letters(w *world, address string) (n int) {
	w.t.Helper()
	for _, k := range mail.Kinds() {
		n += len(m.to(w, address, k))
	}
	return n
}

// askers are the ways in which a stranger has something done with an address.
var askers = map[string]func(address string) (path string, body map[string]any){
	"register": func(a string) (string, map[string]any) {
		return "/auth/register", map[string]any{"email": a, "password": "zeppelin-orchard-58-gravel"}
	},
	"request-verify-token": func(a string) (string, map[string]any) {
		return "/auth/request-verify-token", map[string]any{"email": a}
	},
	"forgot-password": func(a string) (string, map[string]any) {
		return "/auth/forgot-password", map[string]any{"email": a}
	},
}

// strangers makes one account of each kind, and returns their addresses and that of
// none.
func (w *world) strangers() []string {
	w.make("known", true)
	w.make("unproved", false)
	w.disable(w.make("disabled", true))
	return []string{"known@example.com", "unproved@example.com", "disabled@example.com", "unknown@example.com"}
}

// Whoever asks gets the same status, headers, bytes and limits, whatever there is.
func TestE_SameAnswersForKnownAndUnknownAddresses(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying, func(c *server.Config) {
			c.Limits = server.Limits{Default: server.LimitOff, Register: "4/hour", Mail: "5/hour"}
		})
		addresses := w.strangers()
		client := 0
		for name, ask := range askers {
			var answers []string
			for i, address := range addresses {
				client++
				v := w.at(fmt.Sprintf("127.0.41.%d", client))
				var all []string
				for range 6 { // up to the limits, of letters to the address and of the client
					path, body := ask(address)
					r := v.send(w.request("POST", path, "", body))
					h := maps.Clone(r.header)
					delete(h, "Date")
					delete(h, "X-Request-Id")
					body = map[string]any{}
					if err := json.Unmarshal(r.body, &body); err != nil {
						t.Fatalf("%s: %s", name, r.body)
					}
					delete(body, "request_id")
					h.Del("Content-Length")
					all = append(all, fmt.Sprint(r.status, body, h))
				}
				answers = append(answers, strings.Join(all, "\n"))
				if i > 0 && answers[i] != answers[0] {
					t.Errorf("%s: %s is answered\n%s\nand %s\n%s", name, address, answers[i], addresses[0], answers[0])
				}
			}
			if !strings.HasPrefix(answers[0], "202 ") || !strings.Contains(answers[0], "\n429 ") {
				t.Errorf("%s: the answers do not go from 202 to 429:\n%s", name, answers[0])
			}
		}
		// It did something all the same.
		for address, kinds := range map[string][]mail.Kind{
			"known@example.com": {mail.AccountExists, mail.Reset}, "unproved@example.com": {mail.Verify, mail.Reset}, "unknown@example.com": {mail.Verify},
		} {
			for _, k := range kinds {
				if len(box.to(w, address, k)) == 0 {
					t.Errorf("%s got no letter %s", address, k)
				}
			}
		}
		if n := box.letters(w, "disabled@example.com"); n != 0 {
			t.Errorf("a disabled account got %d letters", n)
		}
	})
}

// What is done is the same, too: hashes, statements in their order, transactions,
// letters. Time follows from that; bench/silence measures it.
func TestE_SameWorkForKnownAndUnknownAddresses(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var hashes atomic.Int64
		w := newWorld(t, d, nil, withMail(new(mailbox)), verifying, func(c *server.Config) {
			c.QueueOnly = true // nobody sends meanwhile
			c.Password.OnWork = func() { hashes.Add(1) }
		})
		addresses := w.strangers()
		work := func(f func()) string {
			var mu sync.Mutex
			var statements []string
			d.Trace(func(s string) {
				mu.Lock()
				defer mu.Unlock()
				if !strings.Contains(s, "sp_changes") && !strings.Contains(s, "txid_") { // the feed is read all the time
					statements = append(statements, s)
				}
			})
			before := hashes.Load()
			f()
			d.Trace(nil)
			mu.Lock()
			defer mu.Unlock()
			// The gate reads a session again when it hears of a change, here of the sign-in.
			for len(statements) > 0 && strings.HasPrefix(statements[0], "SELECT s.mfa") {
				statements = statements[1:]
			}
			return fmt.Sprintf("%d hashes\n%s", hashes.Load()-before, strings.Join(statements, "\n"))
		}
		same := func(what string, before func(), ask func(address string)) {
			t.Helper()
			var first string
			for i := range 4 { // the last without a letter: the address has had three
				for _, address := range addresses {
					before()
					got := work(func() { ask(address) })
					if address == addresses[0] {
						first = got
					}
					if got != first {
						t.Errorf("%s, time %d: not the same for %s and %s: %s", what, i+1, address, addresses[0], difference(got, first))
					}
				}
				if !strings.Contains(first, "INSERT INTO sp_mail_tokens") || !strings.Contains(first, "INSERT INTO sp_outbox") {
					t.Errorf("%s, time %d: no token, or no letter, is stored\n%s", what, i+1, first)
				}
			}
		}
		for name, ask := range askers {
			same(name, func() {}, func(address string) {
				path, body := ask(address)
				w.post(path, body).want(t, 202, "")
			})
		}
		n := 0
		var tk tokens
		same("another address", func() { // an account may ask ten times a day
			name := fmt.Sprint("asker", n)
			n++
			w.make(name, true)
			tk = w.signIn(name, goodPassword)
			w.alive(tk.access)
		}, func(address string) {
			w.do("PATCH", "/users/me", tk.access, map[string]string{"email": address}).want(t, 200, "")
		})
		if got := work(func() { w.registerSilently("somebody").want(t, 202, "") }); !strings.HasPrefix(got, "1 hashes\n") {
			t.Errorf("registering: %s", got)
		}
	})
}

// difference returns the first lines in which two texts differ.
func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d is\n%s\nand\n%s", i+1, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d and %d lines", len(x), len(y))
}

// verifiedSession makes an account whose address is verified, and signs in.
func (w *world) verifiedSession(name string) (id string, tk tokens) {
	w.t.Helper()
	id = w.make(name, true)
	return id, w.signIn(name, goodPassword)
}

// A user name tells nothing of an address.
func TestE_UserNamesTellNothingOfAddresses(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		w.make("known", true)
		register := func(address, name string) reply {
			return w.post("/auth/register", map[string]any{"email": address, "username": name, "password": goodPassword})
		}
		// If a registration took a name, the second one would be refused for the address
		// that was free.
		for _, address := range []string{"known@example.com", "free@example.com"} {
			first, second := register(address, "probe"), register("other-"+address, "probe")
			if first.status != 202 || second.status != 202 {
				t.Errorf("%s: %d, then %d", address, first.status, second.status)
			}
		}
		// A name of an account is told, with any address alike.
		for _, address := range []string{"known@example.com", "free@example.com"} {
			register(address, "KNOWN").want(t, 409, "username_taken")
		}
		if n := len(box.to(w, "free@example.com", mail.Verify)); n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
		// Of two who registered with one name the first who verifies has it; the other
		// loses nothing but the name.
		one, two := box.token(w, "free@example.com", mail.Verify), box.token(w, "other-free@example.com", mail.Verify)
		w.prove(one, goodPassword).want(t, 200, "")
		w.prove(two, goodPassword).want(t, 409, "username_taken")
		if u := w.prove(two, "").want(t, 200, "").json(t); u["username"] != nil || u["password_set"] != false {
			t.Errorf("%v", u)
		}
	})
}

// atOnce is how many use one token at the same time.
const atOnce = 50

// race sends the same request many times at once and returns how many succeeded;
// the others must all be refused alike, or told that there were too many.
func (w *world) race(n int, req func() *http.Request, status int, code string) (succeeded int) {
	w.t.Helper()
	replies := make([]reply, n)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		r := req()
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				w.t.Error(err)
				return
			}
			defer res.Body.Close()
			body := make([]byte, 1<<16)
			k, _ := res.Body.Read(body)
			replies[i] = reply{res.StatusCode, res.Header, body[:k]}
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	for _, r := range replies {
		switch {
		case r.status == 200:
			succeeded++
		case r.status == 503, r.status == 429 && r.header.Get("Retry-After") != "": // on a busy machine
		case r.status != status || !strings.Contains(string(r.body), `"`+code+`"`):
			w.t.Errorf("status %d: %.200s", r.status, r.body)
		}
	}
	return succeeded
}

// Of 50 who bring one token at once, one is served: each kind, on both databases.
func TestE_LinksAreGoodOnce(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		ada := w.make("ada", true)
		w.make("bob", false)
		w.registerSilently("carol").want(t, 202, "")
		w.forgot("ada@example.com").want(t, 202, "")
		tk := w.signIn("ada", goodPassword)
		w.do("PATCH", "/users/me", tk.access, map[string]string{"email": "ada@example.org"}).want(t, 200, "")
		if _, err := w.sv.Accounts.Create(t.Context(), role.Operator(), account.NewUser{Email: "dora@example.com", Invitation: true}); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			what, path string
			body       map[string]string
		}{
			{"registration", "/auth/verify", map[string]string{"token": box.token(w, "carol@example.com", mail.Verify), "password": goodPassword}},
			{"verification", "/auth/verify", map[string]string{"token": box.token(w, "bob@example.com", mail.Verify)}},
			{"another address", "/auth/verify", map[string]string{"token": box.token(w, "ada@example.org", mail.ChangeAddress), "password": goodPassword}},
			{"invitation", "/auth/accept-invitation", map[string]string{"token": box.token(w, "dora@example.com", mail.Invitation), "password": badPassword}},
		} {
			if n := w.race(atOnce, func() *http.Request { return w.request("POST", c.path, "", c.body) }, 400, "invalid_token"); n != 1 {
				t.Errorf("%s: %d of %d succeeded, want 1", c.what, n, atOnce)
			}
		}
		// The reset's letter went to the address before, and is worth nothing now.
		w.reset(box.token(w, "ada@example.com", mail.Reset), badPassword).want(t, 400, "invalid_token")
		w.forgot("ada@example.org").want(t, 202, "")
		token := box.token(w, "ada@example.org", mail.Reset)
		if n := w.race(atOnce, func() *http.Request {
			return w.request("POST", "/auth/reset-password", "", map[string]string{"token": token, "password": badPassword})
		}, 400, "invalid_token"); n != 1 {
			t.Errorf("reset: %d of %d succeeded, want 1", n, atOnce)
		}
		if !w.signsIn("ada", badPassword) || w.signsIn("ada", goodPassword) || w.account(ada).Email != "ada@example.org" {
			t.Error("the reset did not do what it says")
		}
		w.events("mail_token.refused", 1)
		w.noSecretIn(t, token, "rs_", "vt_", "ca_", "in_", "rg_", badPassword)
	})
}

// tokensOf makes an account with one good token of each kind. The values are the
// one path that takes each.
func (w *world) tokensOf(box *mailbox, name string) map[string]string {
	w.t.Helper()
	address := name + "@example.com"
	w.make(name, true)
	tk := w.signIn(name, goodPassword)
	w.forgot(address).want(w.t, 202, "")
	w.do("PATCH", "/users/me", tk.access, map[string]string{"email": name + "@example.org"}).want(w.t, 200, "")
	w.make(name+"2", false)
	w.registerSilently(name+"3").want(w.t, 202, "")
	if _, err := w.sv.Accounts.Create(w.t.Context(), role.Operator(), account.NewUser{Email: name + "4@example.com", Invitation: true}); err != nil {
		w.t.Fatal(err)
	}
	return map[string]string{
		box.token(w, address, mail.Reset):                     "/auth/reset-password",
		box.token(w, name+"@example.org", mail.ChangeAddress): "/auth/verify",
		box.token(w, name+"2@example.com", mail.Verify):       "/auth/verify",
		box.token(w, name+"3@example.com", mail.Verify):       "/auth/verify",
		box.token(w, name+"4@example.com", mail.Invitation):   "/auth/accept-invitation",
	}
}

// No token is good for what it was not made for, changed in a character, as another
// kind of credential, or by GET.
func TestE_LinksAcrossPurposes(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		all := w.tokensOf(&box, "ada")
		paths := []string{"/auth/verify", "/auth/reset-password", "/auth/accept-invitation"}
		prefixes := []string{"vt_", "rs_", "ca_", "in_", "rg_", "li_", "su_", "lh_", ""}
		body := func(token string) map[string]string {
			return map[string]string{"token": token, "password": badPassword}
		}
		for token, right := range all {
			for _, path := range paths {
				if path != right {
					w.post(path, body(token)).want(t, 400, "invalid_token")
				}
				for _, p := range prefixes { // the same bytes under another prefix
					if disguised := p + token[3:]; disguised != token {
						w.post(path, body(disguised)).want(t, 400, "invalid_token")
					}
				}
				for _, bad := range []string{"", token[:len(token)-1], token + "A", token + " ", strings.ToUpper(token), flip(token)} {
					w.post(path, body(bad)).want(t, 400, "invalid_token")
				}
				w.do("GET", path, "", nil).want(t, 405, "")
				w.do("GET", path+"?token="+token, "", nil).want(t, 405, "")
				w.do("POST", path+"?token="+token, "", body(token)).want(t, 422, "")
			}
			// As an access token, a refresh token, an mfa_token, an API key.
			w.do("GET", "/users/me", token, nil).want(t, 401, "")
			w.post("/token/refresh", map[string]string{"refresh_token": token}).want(t, 401, "")
			w.verify(token, "000000").want(t, 401, "")
			w.doKeyed("GET", "/users/me", token, nil).want(t, 401, "")
		}
		for _, other := range []string{w.signIn("ada", goodPassword).access, w.signIn("ada", goodPassword).refresh, made()} {
			for _, path := range paths {
				w.post(path, map[string]string{"token": other[:min(len(other), 128)], "password": badPassword}).want(t, 400, "invalid_token")
			}
		}
		w.events("mail_token.refused", 1)
		if !w.signsIn("ada", goodPassword) || w.signsIn("ada", badPassword) {
			t.Error("a password was changed")
		}
		// Each is still good for what it is.
		for token, path := range all {
			if strings.HasPrefix(token, "rs_") {
				continue // an address that is changed before it is another test's
			}
			in := body(token)
			if path == "/auth/verify" {
				in["password"] = goodPassword
			}
			w.post(path, in).want(t, 200, "")
		}
		w.forgot("ada@example.org").want(t, 202, "")
		w.reset(box.token(w, "ada@example.org", mail.Reset), badPassword).want(t, 200, "")
	})
}

// flip changes one character in the middle.
func flip(s string) string {
	b := []byte(s)
	if b[20]++; b[20] > 'z' || b[20] == '[' || b[20] == ':' {
		b[20] = 'A'
	}
	return string(b)
}

// A token dies with what it was made for, and with its time.
func TestE_LinksAreBound(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		_, rootTokens := w.user("root", "admin")
		id, tk := w.user("ada")
		letter := func(ask string, k mail.Kind, address string) string {
			t.Helper()
			w.clock.advance(16 * time.Minute) // as many letters as may be
			_ = w.post("/auth/"+ask, map[string]string{"email": address}).want(t, 202, "")
			return box.token(w, address, k)
		}
		reset := letter("forgot-password", mail.Reset, "ada@example.com")
		tk = w.signIn("ada", goodPassword)
		w.do("PUT", "/users/me/password", tk.access, map[string]string{"current_password": goodPassword, "new_password": badPassword}).want(t, 204, "")
		w.reset(reset, goodPassword).want(t, 400, "invalid_token") // the password changed

		reset = letter("forgot-password", mail.Reset, "ada@example.com")
		other := letter("forgot-password", mail.Reset, "ada@example.com")
		verify := letter("request-verify-token", mail.Verify, "ada@example.com")
		rootTokens = w.signIn("root", goodPassword)
		w.do("PATCH", "/users/"+id, rootTokens.access, map[string]string{"email": "ada@example.net"}).want(t, 200, "")
		w.reset(reset, goodPassword).want(t, 400, "invalid_token") // the address did
		w.prove(verify, "").want(t, 400, "invalid_token")
		w.do("PATCH", "/users/"+id, rootTokens.access, map[string]string{"email": "ada@example.com"}).want(t, 200, "")
		w.reset(reset, goodPassword).want(t, 400, "invalid_token") // and came back: what is void stays so

		old := letter("forgot-password", mail.Reset, "ada@example.com")
		w.clock.advance(15*time.Minute - time.Second)
		fresh := letter("forgot-password", mail.Reset, "ada@example.com")
		w.reset(old, goodPassword).want(t, 400, "invalid_token") // older than 30 minutes
		w.reset(other, goodPassword).want(t, 400, "invalid_token")
		w.reset(fresh, goodPassword).want(t, 200, "")
		if !w.signsIn("ada", goodPassword) {
			t.Error("not in")
		}
	})
}

// A link leads to the configured base URL, whatever a request says.
func TestE_LinksLeadToTheBaseURL(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying, func(c *server.Config) { c.BaseURL = "http://sallyport.test/identity" })
		w.make("ada", true)
		evil := map[string]string{
			"Origin": "https://evil.test", "Referer": "https://evil.test/", "X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "https",
			"X-Forwarded-For": "203.0.113.66", "Forwarded": `host="evil.test";proto=https`, "X-Original-URL": "https://evil.test/x", "X-Host": "evil.test",
			"X-Forwarded-Prefix": "/evil.test", "X-Rewrite-Url": "https://evil.test/",
		}
		asked := 0
		for name, ask := range askers {
			for header, value := range evil {
				w.clock.advance(16 * time.Minute)
				if asked%9 == 0 {
					w.clock.advance(25 * time.Hour)
				}
				asked++
				path, body := ask([]string{"ada@example.com", "nobody@example.com"}[asked%2])
				req := w.request("POST", path, "", body)
				req.Header.Set(header, value)
				if r := w.send(req); r.status != 202 {
					t.Errorf("%s with %s: %d %s", name, header, r.status, r.body)
				}
				box.letters(w, "ada@example.com") // sent before it expires
			}
			// A host that is not ours is not answered at all; one that is ours, but not the
			// base URL's, is no link.
			path, body := ask("ada@example.com")
			req := w.request("POST", path, "", body)
			req.Host = "evil.test"
			w.send(req).want(t, 400, "host_not_allowed")
			w.clock.advance(16 * time.Minute)
			req = w.request("POST", path, "", body)
			req.Host = "example.com"
			w.send(req).want(t, 202, "")
		}
		box.letters(w, "ada@example.com")
		links := 0
		for _, m := range box.got {
			if strings.Contains(m.Text+m.HTML+m.Subject+m.From, "evil.test") {
				t.Errorf("a letter speaks of evil.test:\n%s", m.Text)
			}
			if m.Link == "" {
				continue
			}
			links++
			if !strings.HasPrefix(m.Link, "http://sallyport.test/identity/account/") {
				t.Errorf("the link is %s", m.Link)
			}
		}
		if links < 10 {
			t.Errorf("%d letters with links; too few were looked at", links)
		}
	})
}

// One address, and the same one however it is written.
func TestE_Addresses(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		w.make("ada", true)
		if _, err := w.sv.Accounts.Create(t.Context(), role.Operator(), account.NewUser{Email: "bücher@bücher.example", Password: goodPassword, EmailVerified: true}); err != nil {
			t.Fatal(err)
		}
		_, tk := w.verifiedSession("eve")
		bad := []string{
			"", "ada", "ada@", "@example.com", "ada@example.com,eve@evil.test", "ada@example.com, eve@evil.test", "ada@example.com;eve@evil.test", "ada@example.com eve@evil.test",
			"ada@example.com\r\nBcc: eve@evil.test", "ada@example.com\nBcc: eve@evil.test", "ada@example.com\r", "ada@example.com\u0000", "ada@example.com%0d%0aBcc:eve@evil.test@x",
			"Ada <ada@example.com>", "<ada@example.com>", `"ada"@example.com`, "ada@example.com (x)", "ada@localhost", "ada@example.com.", " ada@example.com", "ada@example.com ",
			"ada@[127.0.0.1]", "ada@exa mple.com", strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("b", 300) + ".com", "ada@example.com\u2028", "ada@exam\u00adple.com,x",
		}
		for _, address := range bad {
			for name, ask := range askers {
				path, body := ask(address)
				if r := w.post(path, body); r.status != 422 || strings.Contains(string(r.body), "evil.test") {
					t.Errorf("%s of %q: %d %s", name, address, r.status, r.body)
				}
			}
			w.do("PATCH", "/users/me", tk.access, map[string]string{"email": address}).want(t, 422, "validation_failed")
		}
		if box.letters(w, "ada@example.com"); len(box.got) != 0 {
			t.Errorf("%d letters", len(box.got))
		}
		// Variants find the account, and the letter goes to the address that it has.
		for _, address := range []string{"ADA@EXAMPLE.COM", "Ada@Example.Com"} {
			w.forgot(address).want(t, 202, "")
		}
		if n := len(box.to(w, "ada@example.com", mail.Reset)); n != 2 {
			t.Errorf("%d letters, want 2", n)
		}
		w.forgot("ａda@example.com").want(t, 202, "") // full width, which is the same in NFKC
		if n := len(box.to(w, "ada@example.com", mail.Reset)); n != 3 {
			t.Errorf("%d letters, want 3", n)
		}
		w.forgot("BÜCHER@xn--bcher-kva.EXAMPLE").want(t, 202, "")
		if n := len(box.to(w, "bücher@bücher.example", mail.Reset)); n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
		if len(box.got) != 4 {
			t.Errorf("%d letters, want 4: one went elsewhere", len(box.got))
		}
		// Not the same: another letter that looks alike.
		w.forgot("аda@example.com").want(t, 202, "") // Cyrillic
		if n := box.letters(w, "ada@example.com"); n != 3 {
			t.Errorf("%d letters, want 3", n)
		}
	})
}

// Fifty registrations of one address at once, and all their links at once: one
// account.
func TestE_ParallelRegistration(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		n := 0
		w.race(atOnce, func() *http.Request {
			n++
			return w.request("POST", "/auth/register", "", map[string]any{"email": []string{"ada@example.com", "ADA@example.com"}[n%2], "username": fmt.Sprint("ada", n), "password": goodPassword})
		}, 202, "message")
		var tokens []string
		for _, a := range []string{"ada@example.com", "ADA@example.com"} {
			for _, m := range box.to(w, a, mail.Verify) {
				_, token, _ := strings.Cut(m.Link, "#token=")
				tokens = append(tokens, token)
			}
		}
		if len(tokens) != 3 {
			t.Fatalf("%d letters, want 3", len(tokens))
		}
		i := 0
		if n := w.race(atOnce, func() *http.Request {
			i++
			return w.request("POST", "/auth/verify", "", map[string]string{"token": tokens[i%3], "password": goodPassword})
		}, 400, "invalid_token"); n != 1 {
			t.Errorf("%d were verified, want 1", n)
		}
		users, _, err := w.sv.Accounts.List(t.Context(), account.Filter{}, "", 10)
		if err != nil || len(users) != 1 || !users[0].EmailVerified {
			t.Errorf("%v %v", users, err)
		}
	})
}

// loot is everything that somebody can leave in an account to come back with.
type loot struct {
	id     string
	tk     tokens
	key    apiKey
	app    app
	resets string
}

// hijack registers the victim's address before they do, as whoever is told the
// password of it, and leaves a way back of every kind.
func (w *world) hijack(box *mailbox, name string) loot {
	w.t.Helper()
	l := loot{id: w.register(name)}
	l.tk = w.signIn(name, goodPassword)
	l.key = w.key(l.tk)
	l.app, _ = w.enrol(l.tk.access)
	if !w.alive(l.tk.access) || !w.account(l.id).MFAEnabled {
		w.t.Fatal("nothing was left in the account")
	}
	w.forgot(name+"@example.com").want(w.t, 202, "")
	l.resets = box.token(w, name+"@example.com", mail.Reset)
	return l
}

// left returns what of the loot is still good.
func (l loot) left(w *world, name string) (out []string) {
	w.t.Helper()
	if w.alive(l.tk.access) {
		out = append(out, "session")
	}
	if w.post("/token/refresh", map[string]string{"refresh_token": l.tk.refresh}).status == 200 {
		out = append(out, "refresh token")
	}
	if w.doKeyed("GET", "/users/me", l.key.key, nil).status == 200 {
		out = append(out, "API key")
	}
	if w.account(l.id).MFAEnabled {
		out = append(out, "second factor")
	}
	if r := w.form("/token", "grant_type", "password", "username", name, "password", goodPassword); r.status != 401 {
		out = append(out, "password")
	}
	return out
}

var everything = []string{"session", "refresh token", "API key", "second factor", "password"}

// An account that somebody else registered on my address gives them nothing once I
// have verified it, by whichever letter; and keeps all that is mine if I show that
// it is.
func TestE_PreHijacking(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		for i, c := range []struct {
			what   string
			verify func(name string, l loot) reply
			keeps  []string
			set    any // password_set
		}{
			{"without a password", func(name string, l loot) reply {
				return w.prove(w.verifyToken(&box, name), "")
			}, nil, false},
			{"with the password", func(name string, l loot) reply {
				return w.prove(w.verifyToken(&box, name), goodPassword)
			}, everything, true},
			{"signed in to that account", func(name string, l loot) reply {
				return w.do("POST", "/auth/verify", l.tk.access, map[string]string{"token": w.verifyToken(&box, name)})
			}, everything, true},
			{"signed in to another account", func(name string, l loot) reply {
				other, tk := w.user("other-" + name)
				_ = other
				return w.do("POST", "/auth/verify", tk.access, map[string]string{"token": w.verifyToken(&box, name)})
			}, nil, false},
			{"with a scoped token of that account", func(name string, l loot) reply {
				scoped := w.form("/token", "grant_type", "password", "username", name, "password", goodPassword, "otp", l.app.next(), "scope", "read:users").want(t, 200, "").text(t, "access_token")
				return w.do("POST", "/auth/verify", scoped, map[string]string{"token": w.verifyToken(&box, name)})
			}, nil, false},
			{"with an API key of that account", func(name string, l loot) reply {
				return w.doKeyed("POST", "/auth/verify", l.key.key, map[string]string{"token": w.verifyToken(&box, name)})
			}, nil, false},
			{"by a reset", func(name string, l loot) reply { return w.reset(l.resets, badPassword) }, nil, nil},
		} {
			name := fmt.Sprintf("victim%d", i)
			l := w.hijack(&box, name)
			r := c.verify(name, l).want(t, 200, "").json(t)
			if r["email_verified"] != true || r["password_set"] != c.set {
				t.Errorf("%s: %v", c.what, r)
			}
			if left := l.left(w, name); !slices.Equal(left, c.keeps) {
				t.Errorf("%s: what is left is %v, want %v", c.what, left, c.keeps)
			}
			if c.keeps == nil {
				w.reset(l.resets, goodPassword).want(t, 400, "invalid_token") // a letter of before
				if keys, err := w.sv.APIKeys.List(t.Context(), l.id); err != nil || len(keys) != 0 {
					t.Errorf("%s: keys %v %v", c.what, keys, err)
				}
				w.clock.advance(16 * time.Minute)
				w.forgot(name+"@example.com").want(t, 202, "")
				w.reset(box.token(w, name+"@example.com", mail.Reset), badPassword).want(t, 200, "")
				if !w.signsIn(name, badPassword) { // the person is in, without the other's second factor
					t.Errorf("%s: the person cannot sign in", c.what)
				}
			}
		}
		if n := len(w.events("account.claimed", 5)); n != 5 {
			t.Errorf("%d accounts were claimed, want 5", n)
		}
	})
}

func (w *world) verifyToken(box *mailbox, name string) string {
	w.t.Helper()
	w.post("/auth/request-verify-token", map[string]string{"email": name + "@example.com"}).want(w.t, 202, "")
	return box.token(w, name+"@example.com", mail.Verify)
}

// Where addresses are verified, registering somebody's address leaves nothing
// behind, and keeps nobody out.
func TestE_PreHijackingSilent(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		register := func(pw, name string) string {
			t.Helper()
			w.post("/auth/register", map[string]any{"email": "victim@example.com", "username": name, "full_name": "Mallory", "password": pw}).want(t, 202, "")
			return box.token(w, "victim@example.com", mail.Verify)
		}
		theirs := register(badPassword, "mallory")
		if w.signsIn("victim@example.com", badPassword) || w.signsIn("mallory", badPassword) {
			t.Fatal("signed in to what was not verified")
		}
		mine := register(goodPassword, "victim")
		// The password goes with its own letter only.
		w.prove(theirs, goodPassword).want(t, 401, "wrong_password")
		w.prove(mine, badPassword).want(t, 401, "wrong_password")
		u := w.prove(mine, goodPassword).want(t, 200, "").json(t)
		if u["username"] != "victim" || u["email_verified"] != true || u["password_set"] != true {
			t.Errorf("%v", u)
		}
		w.prove(theirs, "").want(t, 400, "invalid_token")
		w.prove(theirs, badPassword).want(t, 400, "invalid_token")
		if w.signsIn("victim", badPassword) || !w.signsIn("victim", goodPassword) {
			t.Error("the wrong one is in")
		}

		// With nothing but the letter that somebody else had sent: the address, and nothing
		// of theirs.
		w.post("/auth/register", map[string]any{"email": "nora@example.com", "username": "mallory", "full_name": "Mallory", "password": badPassword}).want(t, 202, "")
		u = w.prove(box.token(w, "nora@example.com", mail.Verify), "").want(t, 200, "").json(t)
		if u["username"] != nil || u["full_name"] != nil || u["password_set"] != false {
			t.Errorf("%v", u)
		}
		if w.signsIn("nora@example.com", badPassword) || w.signsIn("mallory", badPassword) {
			t.Error("who registered is in")
		}
		w.forgot("nora@example.com").want(t, 202, "")
		w.reset(box.token(w, "nora@example.com", mail.Reset), goodPassword).want(t, 200, "")
		if !w.signsIn("nora@example.com", goodPassword) {
			t.Error("the person is not in")
		}
		w.noSecretIn(t, badPassword, mine, theirs)
	})
}

// A wrong password with a good token counts as at a sign-in, and uses nothing up.
func TestE_WrongPasswordAtVerification(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		for name, ask := range map[string]func(){
			"ada": func() { w.make("ada", false) }, "bob": func() { w.registerSilently("bob").want(t, 202, "") },
		} {
			ask()
			token := box.token(w, name+"@example.com", mail.Verify)
			locked := false
			for range 12 {
				r := w.prove(token, badPassword)
				if r.status == 429 {
					r.want(t, 429, "too_many_attempts")
					locked = true
					break
				}
				r.want(t, 401, "wrong_password")
			}
			if !locked {
				t.Error("never locked")
			}
			w.prove(token, goodPassword).want(t, 429, "too_many_attempts")
			w.clock.advance(20 * time.Minute)
			if r := w.prove(token, goodPassword).want(t, 200, "").json(t); r["password_set"] != true {
				t.Errorf("%v", r)
			}
		}
		if n := len(w.events("address.verified", 2)); n < 4 {
			t.Errorf("%d events", n)
		}
	})
}

// What a reset ends, and what it does not.
func TestE_Reset(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		id, tk := w.verifiedSession("ada")
		key := w.key(tk)
		a, _ := w.enrol(tk.access)
		w.forgot("ada@example.com").want(t, 202, "")
		first := box.token(w, "ada@example.com", mail.Reset)
		w.forgot("ada@example.com").want(t, 202, "")
		second := box.token(w, "ada@example.com", mail.Reset)
		for _, weak := range []string{"", "short", "password123", "ada@example.com"} {
			r := w.reset(second, weak)
			if r.status != 422 || !strings.Contains(string(r.body), `"/password"`) {
				t.Errorf("%q: %d %s", weak, r.status, r.body)
			}
		}
		if !w.alive(tk.access) {
			t.Fatal("a refused reset ended a session")
		}
		w.reset(second, badPassword).want(t, 200, "")
		if w.alive(tk.access) {
			t.Error("a session goes on")
		}
		w.reset(first, goodPassword).want(t, 400, "invalid_token")
		if n := len(box.to(w, "ada@example.com", mail.PasswordChanged)); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		// The second factor is still asked for, and the key goes on.
		w.form("/token", "grant_type", "password", "username", "ada", "password", badPassword).want(t, 403, "mfa_required")
		w.form("/token", "grant_type", "password", "username", "ada", "password", badPassword, "otp", a.next()).want(t, 200, "")
		w.doKeyed("GET", "/users/me", key.key, nil).want(t, 200, "")

		// A token of an account that was disabled meanwhile.
		w.clock.advance(16 * time.Minute)
		w.forgot("ada@example.com").want(t, 202, "")
		third := box.token(w, "ada@example.com", mail.Reset)
		w.disable(id)
		w.reset(third, goodPassword).want(t, 400, "invalid_token")
		for _, e := range w.events("password.changed", 1) {
			if e.Target != id || e.Detail["by"] != "letter" {
				t.Errorf("%+v", e)
			}
		}
	})
}

// Another address takes a fresh sign-in, a letter to it, and the password or a
// session; the old one is told, and nobody learns that it is taken.
func TestE_AnotherAddress(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		id, tk := w.verifiedSession("ada")
		w.make("bob", true)
		key := w.key(tk)
		change := func(access, address string) reply {
			return w.do("PATCH", "/users/me", access, map[string]string{"email": address})
		}
		// Who may not.
		w.doKeyed("PATCH", "/users/me", key.key, map[string]string{"email": "eve@evil.test"}).want(t, 403, "")
		scoped := w.signIn("ada", goodPassword, "scope", "")
		_ = scoped
		w.clock.advance(11 * time.Minute)
		r := change(tk.access, "eve@evil.test").want(t, 401, "insufficient_user_authentication")
		if h := r.header.Get("WWW-Authenticate"); !strings.Contains(h, `max_age="600"`) && !strings.Contains(h, "max_age=600") {
			t.Errorf("the challenge is %s", h)
		}
		w.do("PATCH", "/users/me", tk.access, map[string]string{"full_name": "Ada"}).want(t, 200, "") // that needs none
		if box.letters(w, "eve@evil.test"); len(box.got) != 0 {
			t.Fatalf("%d letters", len(box.got))
		}

		tk = w.signIn("ada", goodPassword)
		if u := change(tk.access, "ada@example.org").want(t, 200, "").json(t); u["email"] != "ada@example.com" {
			t.Errorf("changed at once: %v", u)
		}
		if n := len(box.to(w, "ada@example.com", mail.AddressChanging)); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		token := box.token(w, "ada@example.org", mail.ChangeAddress)
		if r := w.prove(token, "").want(t, 422, "validation_failed"); !strings.Contains(string(r.body), `"/password"`) {
			t.Errorf("%s", r.body)
		}
		w.prove(token, badPassword).want(t, 401, "wrong_password")
		_, eve := w.verifiedSession("eve")
		w.do("POST", "/auth/verify", eve.access, map[string]string{"token": token}).want(t, 422, "validation_failed")
		if w.account(id).Email != "ada@example.com" {
			t.Fatal("changed without proof")
		}
		if u := w.do("POST", "/auth/verify", tk.access, map[string]string{"token": token}).want(t, 200, "").json(t); u["email"] != "ada@example.org" || u["email_verified"] != true {
			t.Errorf("%v", u)
		}
		if n := len(box.to(w, "ada@example.com", mail.AddressChanged)); n != 1 {
			t.Errorf("%d notices to the old address, want 1", n)
		}
		if !w.signsIn("ada@example.org", goodPassword) || w.signsIn("ada@example.com", goodPassword) {
			t.Error("the address of sign-in did not change")
		}

		// A taken one: the same answer, and its person is told.
		free, taken := change(tk.access, "ada@example.net"), change(tk.access, "bob@example.com")
		one, other := free.want(t, 200, "").json(t), taken.want(t, 200, "").json(t)
		delete(one, "updated_at")
		delete(other, "updated_at")
		if fmt.Sprint(one) != fmt.Sprint(other) {
			t.Errorf("%s\n%s", free.body, taken.body)
		}
		if n := len(box.to(w, "bob@example.com", mail.AccountExists)); n != 1 {
			t.Errorf("%d letters to its person, want 1", n)
		}
		if n := len(box.to(w, "bob@example.com", mail.ChangeAddress)); n != 0 {
			t.Error("its person got a link")
		}
		// Taken while the letter was on its way.
		late := box.token(w, "ada@example.net", mail.ChangeAddress)
		op, net := role.Operator(), "ada@example.net"
		if _, err := w.sv.Accounts.Update(t.Context(), &op, w.make("carl", true), account.Change{Email: &net}); err != nil {
			t.Fatal(err)
		}
		w.prove(late, goodPassword).want(t, 409, "account_exists")

		// No more than ten strangers a day.
		for i := range 20 {
			w.clock.advance(time.Second)
			r := change(tk.access, fmt.Sprintf("stranger%d@example.com", i))
			if r.status == 429 {
				r.want(t, 429, "too_many_letters")
				if i < 6 || i > 8 {
					t.Errorf("refused after %d more", i)
				}
				break
			}
			r.want(t, 200, "")
			if i == 19 {
				t.Error("twenty strangers were written to")
			}
		}
	})
}

// Who may change accounts reaches their own by its id too: whoever finds a session of
// theirs open, or has a key, cannot take the account over with another address.
func TestE_OwnAddressByID(t *testing.T) {
	type m = map[string]any
	for _, compat := range []bool{false, true} {
		testkit.EachDB(t, func(t *testing.T, d *db.DB) {
			var box mailbox
			w := newWorld(t, d, nil, withMail(&box), noLockout, func(c *server.Config) { c.AccessTTL, c.FastAPIUsers = time.Hour, compat })
			id, other := w.person("ada", true), w.person("bob", true)
			w.permit(id, "write:users", "read:users")
			ada := w.signIn("ada", goodPassword)
			key := w.key(ada, "write:users", "read:users").key
			verified := "email_verified"
			if compat {
				verified = "is_verified"
			}
			same := func(what string, f func() reply, status int) {
				t.Helper()
				before := w.do("GET", "/users/"+id, ada.access, nil).want(t, 200, "")
				f().want(t, status, "")
				if after := w.do("GET", "/users/"+id, ada.access, nil).want(t, 200, ""); string(after.body) != string(before.body) {
					t.Errorf("%s: %s", what, after.body)
				}
			}
			mallorys := m{"email": "mallory@example.net"}
			same("a key", func() reply { return w.doKeyed("PATCH", "/users/"+id, key, mallorys) }, 403)
			w.clock.advance(11 * time.Minute)
			same("an old session", func() reply { return w.do("PATCH", "/users/"+id, ada.access, mallorys) }, 401)
			same("an old session, with more", func() reply {
				return w.do("PATCH", "/users/"+id, ada.access, m{"email": "mallory@example.net", verified: true})
			}, 401)
			same("an old session takes the proof away", func() reply { return w.do("PATCH", "/users/"+id, ada.access, m{verified: false}) }, 401)
			w.do("POST", "/auth/forgot-password", "", m{"email": "mallory@example.net"}).want(t, 202, "")
			if n := len(box.to(w, "mallory@example.net", mail.Reset)) + len(box.to(w, "ada@example.com", mail.AddressChanged)); n != 0 {
				t.Errorf("%d letters", n)
			}

			// What is theirs already is no change, and others' accounts are as before.
			w.do("PATCH", "/users/"+id, ada.access, m{"email": "ada@example.com", verified: true}).want(t, 200, "")
			w.do("PATCH", "/users/"+other, ada.access, m{"email": "bob@example.net"}).want(t, 200, "")
			w.doKeyed("PATCH", "/users/"+other, key, m{verified: true}).want(t, 200, "")
			fresh := w.signIn("ada", goodPassword)
			r := w.do("PATCH", "/users/"+id, fresh.access, m{"email": "ada@example.net"}).want(t, 200, "")
			if r.text(t, "email") != "ada@example.net" {
				t.Errorf("%s", r.body)
			}
		})
	}
}

// Who may make an account, by configuration.
func TestE_RegistrationModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode            account.Registration
		open, invitable bool
	}{{account.Open, true, true}, {account.Invite, false, true}, {account.Closed, false, false}} {
		for _, verified := range []bool{false, true} {
			t.Run(fmt.Sprint(c.mode, verified), func(t *testing.T) {
				var box mailbox
				w := newWorld(t, testkit.SQLite(t), nil, withMail(&box), func(cfg *server.Config) { cfg.Registration, cfg.VerifyAddress = c.mode, verified })
				r := w.registerSilently("ada")
				switch {
				case c.open && !verified:
					r.want(t, 201, "")
				case c.open:
					r.want(t, 202, "")
				default:
					r.want(t, 403, "registration_closed")
				}
				w.grant(w.make("root", true), "admin")
				tk := w.signIn("root", goodPassword)
				w.do("POST", "/users", tk.access, map[string]any{"email": "made@example.com", "password": goodPassword}).want(t, 201, "")
				r = w.do("POST", "/users", tk.access, map[string]any{"email": "invited@example.com", "invitation": true})
				if n := len(box.to(w, "invited@example.com", mail.Invitation)); (n == 1) != c.invitable {
					t.Errorf("%d letters", n)
				}
				if c.invitable {
					r.want(t, 201, "")
				} else {
					r.want(t, 403, "registration_closed")
				}
			})
		}
	}
}

// An invitation from the administrator to the first sign-in, and one that ran out.
func TestE_Invitation(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying, func(c *server.Config) { c.Registration = account.Invite })
		root := w.make("root", true)
		w.grant(root, "admin")
		tk := w.signIn("root", goodPassword)
		invite := func(body map[string]any) reply {
			body["invitation"] = true
			return w.do("POST", "/users", tk.access, body)
		}
		invite(map[string]any{"email": "ada@example.com", "password": goodPassword}).want(t, 422, "validation_failed")
		w.do("POST", "/users", tk.access, map[string]any{"email": "ada@example.com"}).want(t, 422, "validation_failed")
		w.do("POST", "/users", "", map[string]any{"email": "ada@example.com", "invitation": true}).want(t, 401, "")
		u := invite(map[string]any{"email": "ada@example.com", "email_verified": true, "full_name": "Ada", "roles": []string{"moderator"}}).want(t, 201, "").json(t)
		if u["email_verified"] != false || u["full_name"] != "Ada" {
			t.Errorf("%v", u)
		}
		invite(map[string]any{"email": "ADA@example.com"}).want(t, 409, "account_exists")
		if w.signsIn("ada@example.com", goodPassword) {
			t.Fatal("signed in without a password")
		}
		token := box.token(w, "ada@example.com", mail.Invitation)
		accept := func(token string, more map[string]any) reply {
			body := map[string]any{"token": token, "password": badPassword}
			maps.Copy(body, more)
			return w.post("/auth/accept-invitation", body)
		}
		accept(token, map[string]any{"username": "ro/ot"}).want(t, 422, "validation_failed")
		accept(token, map[string]any{"username": "ROOT"}).want(t, 409, "username_taken")
		accept(token, map[string]any{"password": "short"}).want(t, 422, "validation_failed")
		accept(token, map[string]any{"roles": []string{"admin"}}).want(t, 422, "validation_failed")
		accept(token, map[string]any{"email": "eve@evil.test"}).want(t, 422, "validation_failed")
		got := accept(token, map[string]any{"username": "ada"}).want(t, 200, "").json(t)
		if got["email_verified"] != true || got["username"] != "ada" || got["full_name"] != "Ada" || fmt.Sprint(got["roles"]) != "[moderator]" {
			t.Errorf("%v", got)
		}
		if !w.signsIn("ada", badPassword) {
			t.Error("not in")
		}
		w.events("invitation.accepted", 1)

		invite(map[string]any{"email": "bob@example.com"}).want(t, 201, "")
		old := box.token(w, "bob@example.com", mail.Invitation)
		w.clock.advance(31 * time.Minute)
		accept(old, nil).want(t, 400, "invalid_token")
		w.forgot("bob@example.com").want(t, 202, "")
		w.reset(box.token(w, "bob@example.com", mail.Reset), badPassword).want(t, 200, "")
		if !w.signsIn("bob@example.com", badPassword) {
			t.Error("not in")
		}
		if n := len(box.to(w, "bob@example.com", mail.PasswordChanged)); n != 0 {
			t.Error("told of the change of a password that there was not")
		}
		// Nobody above their own rank is invited.
		w.define("inviter", "write:users", "assign:roles")
		w.make("inviter", true)
		inviter, err := w.sv.Accounts.Find(t.Context(), "inviter")
		if err != nil {
			t.Fatal(err)
		}
		w.grant(inviter.ID, "inviter")
		w.do("POST", "/users", w.signIn("inviter", goodPassword).access, map[string]any{"email": "evil@example.com", "invitation": true, "roles": []string{"admin"}}).want(t, 403, "above_own_rights")
		if n := box.letters(w, "evil@example.com"); n != 0 {
			t.Errorf("%d letters of what was refused", n)
		}
	})
}

// An address gets three letters of a kind in a quarter of an hour, and ten a day;
// the answer is the same.
func TestE_LettersAreCapped(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		w.make("ada", true)
		var first string
		for range 5 {
			if r := w.forgot("ada@example.com").want(t, 202, ""); first == "" {
				first = string(r.body)
			} else if string(r.body) != first {
				t.Errorf("%s", r.body)
			}
		}
		if n := len(box.to(w, "ada@example.com", mail.Reset)); n != 3 {
			t.Errorf("%d letters, want 3", n)
		}
		for range 40 {
			w.clock.advance(6 * time.Minute)
			w.forgot("ADA@example.com").want(t, 202, "")
			box.letters(w, "ada@example.com")
		}
		got := box.to(w, "ada@example.com", mail.Reset)
		if len(got) != 10 {
			t.Errorf("%d letters in a day, want 10", len(got))
		}
		w.clock.advance(24 * time.Hour)
		w.forgot("ada@example.com").want(t, 202, "")
		w.reset(box.token(w, "ada@example.com", mail.Reset), badPassword).want(t, 200, "")
	})
}

// A letter that is asked for again is that of the newest registration.
func TestE_RegistrationLetterAgain(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		w.registerSilently("ada").want(t, 202, "")
		old := box.token(w, "ada@example.com", mail.Verify)
		w.clock.advance(time.Hour)
		w.prove(old, goodPassword).want(t, 400, "invalid_token")
		token := w.verifyToken(&box, "ada")
		if u := w.prove(token, goodPassword).want(t, 200, "").json(t); u["username"] != "ada" {
			t.Errorf("%v", u)
		}
		w.registerSilently("bob").want(t, 202, "")
		box.letters(w, "bob@example.com")
		w.clock.advance(25 * time.Hour) // forgotten
		before := len(box.to(w, "bob@example.com", mail.Verify))
		w.post("/auth/request-verify-token", map[string]string{"email": "bob@example.com"}).want(t, 202, "")
		if n := len(box.to(w, "bob@example.com", mail.Verify)); n != before {
			t.Error("a letter of what is forgotten")
		}
	})
}

// Without mail, whatever takes a letter is refused, and nothing is made.
func TestE_NoMail(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("root", "admin")
	for _, path := range []string{"/auth/request-verify-token", "/auth/forgot-password"} {
		w.post(path, map[string]string{"email": "ada@example.com"}).want(t, 403, "mail_off")
		w.post(path, map[string]string{"email": "ada"}).want(t, 422, "validation_failed")
	}
	w.do("PATCH", "/users/me", tk.access, map[string]string{"email": "ada@example.com"}).want(t, 403, "mail_off")
	w.do("POST", "/users", tk.access, map[string]any{"email": "ada@example.com", "invitation": true}).want(t, 403, "mail_off")
	w.register("ada")
}

// What is held about a person, and nothing of anybody else's.
func TestE_Export(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		_, rootTokens := w.user("root", "admin")
		id, tk := w.user("ada")
		key := w.key(tk)
		_, recovery := w.enrol(tk.access)
		w.forgot("ada@example.com").want(t, 202, "")
		root := w.at("127.0.77.9") // whose address is theirs
		req := w.request("PATCH", "/users/"+id, rootTokens.access, map[string]any{"full_name": "Ada L"})
		root.send(req).want(t, 200, "")

		for _, c := range []struct {
			what string
			r    reply
			want int
		}{
			{"nobody", w.do("GET", "/users/me/export", "", nil), 401},
			{"a key", w.doKeyed("GET", "/users/me/export", key.key, nil), 403},
			{"a query", w.do("GET", "/users/me/export?x=1", tk.access, nil), 422},
		} {
			if c.r.status != c.want {
				t.Errorf("%s: %d %s", c.what, c.r.status, c.r.body)
			}
		}
		r := w.do("GET", "/users/me/export", tk.access, nil).want(t, 200, "")
		if h := r.header; h.Get("Cache-Control") != "no-store" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") || h.Get("Content-Type") != "application/json" {
			t.Errorf("%v", h)
		}
		var x account.Export
		if err := json.Unmarshal(r.body, &x); err != nil {
			t.Fatal(err)
		}
		if x.Account.ID != id || x.Account.Email != "ada@example.com" || !x.PasswordSet || len(x.Sessions) != 1 || len(x.APIKeys) != 1 || x.APIKeys[0].Prefix == "" ||
			!x.SecondFactor.Enabled || x.SecondFactor.RecoveryCodesLeft != 10 || len(x.Networks) != 1 || len(x.Devices) != 1 || len(x.Letters) == 0 || !x.EventsComplete {
			t.Errorf("%s", r.body)
		}
		actions := map[string]bool{}
		for _, e := range x.Events {
			actions[e.Action] = true
			if e.By == "other" && (e.Address != "" || e.RequestID != "") {
				t.Errorf("tells from where somebody else did it: %+v", e)
			}
		}
		for _, a := range []string{"account.registered", "session.started", "apikey.created", "mfa.enabled", "account.changed", "password.reset_requested"} {
			if !actions[a] {
				t.Errorf("no event %s", a)
			}
		}
		rootUser, err := w.sv.Accounts.Find(t.Context(), "root")
		if err != nil {
			t.Fatal(err)
		}
		secrets := append([]string{"argon2", key.key, tk.access, tk.refresh, "127.0.77.9", rootUser.ID, box.token(w, "ada@example.com", mail.Reset)}, recovery...)
		for _, s := range secrets {
			if strings.Contains(string(r.body), s) {
				t.Errorf("the export holds %.20s", s)
			}
		}
		w.events("account.exported", 1)
		w.clock.advance(11 * time.Minute)
		w.do("GET", "/users/me/export", tk.access, nil).want(t, 401, "insufficient_user_authentication")
	})
}

// plant writes n events of an actor about a target.
func (w *world) plant(n int, actor, target string) {
	w.t.Helper()
	for n > 0 {
		some := min(n, 2000)
		n -= some
		if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error {
			for range some {
				if err := audit.Append(w.t.Context(), tx, audit.Event{Action: "planted", Actor: actor, Target: target, Reason: "planted-reason", Detail: map[string]string{"planted": "detail"}}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// An export is bounded, whatever an account has done.
func TestE_ExportIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	id, tk := w.user("ada")
	w.plant(account.MaxExported, id, "x")
	var x account.Export
	if err := json.Unmarshal(w.do("GET", "/users/me/export", tk.access, nil).want(t, 200, "").body, &x); err != nil {
		t.Fatal(err)
	}
	if len(x.Events) != account.MaxExported || x.EventsComplete || x.Events[0].Action != "account.exported" {
		t.Errorf("%d events, complete %v, first %s", len(x.Events), x.EventsComplete, x.Events[0].Action)
	}
}

// After a deletion the audit log keeps of a person who, what and when, also of a
// million events; of others it keeps everything.
func TestE_DeletionErases(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box))
		root, rootTokens := w.user("root", "admin")
		id, tk := w.user("ada")
		w.forgot("ada@example.com").want(t, 202, "") // by nobody known, about her
		box.letters(w, "ada@example.com")
		w.do("PATCH", "/users/"+id, rootTokens.access, map[string]any{"full_name": "Ada L"}).want(t, 200, "")
		w.plant(1700, id, "x")
		w.plant(700, "", id)
		w.plant(10, root, id)
		w.plant(10, id+"x", "x")

		w.clock.advance(11 * time.Minute)
		w.do("DELETE", "/users/me", tk.access, nil).want(t, 401, "insufficient_user_authentication")
		if !w.alive(tk.access) {
			t.Fatal("deleted all the same")
		}
		w.events("access.denied", 1) // written behind the request
		tk = w.signIn("ada", goodPassword)
		w.do("DELETE", "/users/me", tk.access, nil).want(t, 204, "")
		if w.alive(tk.access) {
			t.Error("alive")
		}
		if n := len(box.to(w, "ada@example.com", mail.AccountDeleted)); n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
		hers := func() (all, full, others int) {
			t.Helper()
			records, err := audit.Latest(w.db.View(t.Context()), 100_000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range records {
				holds := e.Address != "" || e.RequestID != "" || e.Reason != "" || len(e.Detail) > 0
				switch {
				case e.Actor == id, e.Target == id && e.Actor == "":
					all++
					if holds {
						full++
					}
				case e.Actor == root, e.Actor == id+"x":
					if holds {
						others++
					}
				}
			}
			return all, full, others
		}
		all, full, others := hers()
		if all < 2400 || full == 0 || full > all-500 || others < 20 {
			t.Fatalf("%d events of hers, %d with more than may be, %d of others", all, full, others)
		}
		// A late one, and then a server that goes on; twice, as after a crash.
		w.plant(1, id, "late")
		if err := w.sv.Accounts.Erase(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := audit.EraseNext(t.Context(), w.db, func() time.Time { return time.Now().Add(3 * time.Minute) }); err != nil {
				t.Fatal(err)
			}
		}
		after, full, othersAfter := hers()
		if full != 0 || after < all+1 || othersAfter != others { // none is gone, and one or two came late
			t.Errorf("%d events of %d hold more than they should, and there were %d; %d of others, were %d", full, after, all+1, othersAfter, others)
		}
		for _, e := range w.events("account.deleted", 1) {
			if e.Actor != id || e.At.IsZero() {
				t.Errorf("%+v", e)
			}
		}
		// The address is free, and nothing of the one before comes back.
		if again := w.register("ada"); again == id {
			t.Error("the same id")
		}
	})
}

// An administrator who changes an address or a password is told of to its person.
func TestE_NoticesOfOthers(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), verifying)
		id, _ := w.verifiedSession("ada")
		w.grant(w.make("root", true), "admin")
		tk := w.signIn("root", goodPassword)
		w.do("PATCH", "/users/"+id, tk.access, map[string]any{"email": "ada@example.org"}).want(t, 200, "")
		if n := len(box.to(w, "ada@example.com", mail.AddressChanged)); n != 1 {
			t.Errorf("%d letters to the old address, want 1", n)
		}
		w.prove(box.token(w, "ada@example.org", mail.Verify), goodPassword).want(t, 200, "")
		if err := w.sv.Accounts.SetPassword(t.Context(), id, badPassword); err != nil {
			t.Fatal(err)
		}
		if n := len(box.to(w, "ada@example.org", mail.PasswordChanged)); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		w.do("PATCH", "/users/"+id, tk.access, map[string]any{"full_name": "Ada"}).want(t, 200, "")
		if n := box.letters(w, "ada@example.org"); n != 2 {
			t.Errorf("%d letters, want 2", n)
		}
		w.do("DELETE", "/users/"+id, tk.access, nil).want(t, 204, "")
		if n := len(box.to(w, "ada@example.org", mail.AccountDeleted)); n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
	})
}
