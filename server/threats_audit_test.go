package server_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// auditPage is an answer of GET /audit.
type auditPage struct {
	Items []audit.Record `json:"items"`
	Next  *string        `json:"next_cursor"`
}

func (w *world) auditPage(token, query string) (p auditPage) {
	w.t.Helper()
	r := w.do("GET", "/audit?"+query, token, nil).want(w.t, 200, "")
	if err := json.Unmarshal(r.body, &p); err != nil {
		w.t.Fatal(err)
	}
	if r.header.Get("Cache-Control") != "no-store" {
		w.t.Errorf("Cache-Control %q", r.header.Get("Cache-Control"))
	}
	return p
}

// U. GET /audit: who may, every filter by itself and together, pages that miss and
// repeat nothing, and cursors that are nobody's.
func TestU_ReadingTheLog(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.define("auditor", "read:audit")
		id, reader := w.user("reader", "auditor")
		_, other := w.user("other")
		w.do("GET", "/audit", "", nil).want(t, 401, "")
		w.do("GET", "/audit", other.access, nil).want(t, 403, "insufficient_permission")
		w.do("GET", "/audit/head", other.access, nil).want(t, 403, "insufficient_permission")
		w.do("GET", "/audit", reader.access, nil).want(t, 200, "")
		w.do("GET", "/audit", w.signIn("reader", goodPassword, "scope", "role:auditor").access, nil).want(t, 403, "")
		w.events("access.denied", 3) // those are written behind the answers

		req := w.request("PATCH", "/users/me", reader.access, map[string]any{"full_name": "R"})
		req.Header.Set("X-Request-Id", "the-request")
		req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
		w.send(req).want(t, 200, "")
		if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
			return audit.Append(t.Context(), tx, audit.Event{Action: "x.decided", Result: audit.Denied, DecisionID: "the-decision", Target: "t"})
		}); err != nil {
			t.Fatal(err)
		}
		all := w.auditPage(reader.access, "limit=200")
		if all.Next != nil || len(all.Items) < 10 {
			t.Fatalf("%d events", len(all.Items))
		}
		changed := w.auditPage(reader.access, "request_id=the-request").Items
		if len(changed) != 1 {
			t.Fatalf("%+v", changed)
		}
		if e := changed[0]; e.Action != "account.changed" || e.Actor != id || e.ActorKind != "user" || e.Session == "" || e.UserAgent != "Firefox/140.0 Linux" || e.Address != "127.0.0.1" || time.Since(e.At) > time.Minute || e.Result != audit.Success || e.Detail["members"] == "" {
			t.Errorf("%+v", e)
		}
		middle := all.Items[len(all.Items)/2].At
		for query, fits := range map[string]func(audit.Record) bool{
			"action=access.denied":                                 func(e audit.Record) bool { return e.Action == "access.denied" },
			"actor=" + id:                                          func(e audit.Record) bool { return e.Actor == id },
			"target=" + id:                                         func(e audit.Record) bool { return e.Target == id },
			"result=denied":                                        func(e audit.Record) bool { return e.Result == audit.Denied },
			"result=success":                                       func(e audit.Record) bool { return e.Result == audit.Success },
			"address=127.0.0.1":                                    func(e audit.Record) bool { return e.Address == "127.0.0.1" },
			"address=::ffff:127.0.0.1":                             func(e audit.Record) bool { return e.Address == "127.0.0.1" },
			"decision_id=the-decision":                             func(e audit.Record) bool { return e.DecisionID == "the-decision" },
			"since=" + middle.Format(time.RFC3339Nano):             func(e audit.Record) bool { return !e.At.Before(middle) },
			"until=" + middle.Format(time.RFC3339Nano):             func(e audit.Record) bool { return e.At.Before(middle) },
			"result=denied&action=access.denied&address=127.0.0.1": func(e audit.Record) bool { return e.Action == "access.denied" },
			"action=nothing":                                       func(audit.Record) bool { return false },
		} {
			query = strings.ReplaceAll(query, "+", "%2B")
			var want, got []string
			for _, e := range all.Items {
				if fits(e) {
					want = append(want, e.ID)
				}
			}
			cursor := ""
			for page := 0; ; page++ {
				p := w.auditPage(reader.access, query+"&limit=3"+cursor)
				for _, e := range p.Items {
					got = append(got, e.ID)
				}
				if p.Next == nil {
					break
				}
				if len(p.Items) != 3 || page > 100 {
					t.Fatalf("%s: page %d has %d", query, page, len(p.Items))
				}
				cursor = "&cursor=" + *p.Next
			}
			if !slices.Equal(got, want) || len(want) == 0 && query != "action=nothing" {
				t.Errorf("%s: %d events, want %d", query, len(got), len(want))
			}
		}

		next := *w.auditPage(reader.access, "limit=1").Next
		for _, bad := range []string{next[:len(next)-1], "x" + next, "A" + next[1:], url.QueryEscape(next + "\n"), next + "&actor=" + id} {
			w.do("GET", "/audit?limit=1&cursor="+bad, reader.access, nil).want(t, 400, "invalid_cursor")
		}
		w.do("GET", "/audit?limit=1&cursor="+next, reader.access, nil).want(t, 200, "")
		for _, bad := range []string{"limit=0", "limit=201", "result=other", "since=yesterday", "until=1", "address=x", "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "unknown=1"} {
			w.do("GET", "/audit?"+bad, reader.access, nil).want(t, 422, "validation_failed")
		}

		// The head is that of the chain, and what the server has written is whole.
		var h audit.Head
		for end := time.Now().Add(10 * time.Second); h.Position < 10; time.Sleep(10 * time.Millisecond) {
			if r := w.do("GET", "/audit/head", reader.access, nil); r.status == 200 {
				if err := json.Unmarshal(r.body, &h); err != nil {
					t.Fatal(err)
				}
			}
			if time.Now().After(end) {
				t.Fatal("no head")
			}
		}
		if !h.Genuine(w.sv.Chain.Key()) {
			t.Errorf("%+v", h)
		}
		if v, err := w.sv.Chain.Verify(t.Context(), h); err != nil || !v.Whole || v.Events < 10 {
			t.Errorf("%+v %v", v, err)
		}
	})
}

// No filter reads the whole table.
func TestU_FiltersHaveIndexes(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	var mu sync.Mutex
	var asked []string
	d.Trace(func(s string) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, s)
	})
	l := audit.Log{DB: d, CursorKey: make([]byte, 32)}
	for name, f := range map[string]audit.Filter{
		"sp_audit_by_time": {}, "sp_audit_by_action": {Action: "x"}, "sp_audit_by_actor": {Actor: "x"}, "sp_audit_by_target": {Target: "x"},
		"sp_audit_refusals": {Result: audit.Denied}, "sp_audit_by_address": {Address: "192.0.2.1"}, "sp_audit_by_request": {RequestID: "x"}, "sp_audit_by_decision": {DecisionID: "x"},
	} {
		mu.Lock()
		asked = nil
		mu.Unlock()
		if _, _, err := l.List(t.Context(), f, "", 10); err != nil {
			t.Fatal(err)
		}
		if err := l.Each(t.Context(), f, func(audit.Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if len(asked) != 2 {
			t.Fatalf("%q", asked)
		}
		for _, q := range asked {
			plan := explain(t, d, q)
			if !strings.Contains(plan, name+" ") && !strings.HasSuffix(plan, name) || strings.Contains(plan, "SCAN") {
				t.Errorf("%s: %s\n%s", name, plan, q)
			}
		}
	}
}

// U. Every route that writes leaves an event with the request's id; a route that is
// added has to be added here.
func TestU_EveryRouteThatWritesIsRecorded(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newClientWorld(t, d, withMail(&box), withMailSignIn, browserBase, noLockout)
		_, admin := w.user("root", "admin")
		_, ada := w.user("ada")
		_, ben := w.user("ben")
		_, cas := w.user("cas")
		_, dan := w.user("dan")
		vic := w.register("vic")
		eve := w.register("eve")
		set := w.do("POST", "/2fa/setup", dan.access, nil).want(t, 200, "").text(t, "secret")
		key := w.keyWith(ada, map[string]any{"name": "k", "scopes": []string{}})
		machine := w.machine([]string{"introspect:tokens"})
		gone := w.machine(nil)
		w.do("PUT", "/roles/old", admin.access, map[string]any{"description": "x"}).want(t, 200, "")
		sessions := w.do("GET", "/users/me/sessions", ben.access, nil).want(t, 200, "").json(t)["items"].([]any)
		_ = set
		app, codes := w.enrol(cas.access)
		_ = app
		cookie := w.cookie("ada")
		js := func(method, path, token string, body any) func() *http.Request {
			return func() *http.Request { return w.request(method, path, token, body) }
		}
		form := func(path string, fields ...string) func() *http.Request {
			return func() *http.Request {
				v := url.Values{}
				for i := 0; i < len(fields); i += 2 {
					v.Set(fields[i], fields[i+1])
				}
				req := w.request("POST", path, "", v.Encode())
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				req.Header.Set("Sec-Fetch-Site", "same-origin")
				return req
			}
		}
		withCookie := func(f func() *http.Request) func() *http.Request {
			return func() *http.Request {
				req := f()
				req.Header.Set("Cookie", cookieName+"="+cookie)
				return req
			}
		}
		const bad = "wrong-violet-97-anchor"
		cases := []struct {
			route, action string
			req           func() *http.Request
		}{
			{"POST /auth/register", "account.registered", js("POST", "/auth/register", "", map[string]any{"username": "new", "email": "new@example.com", "password": goodPassword})},
			{"POST /auth/login", "session.started", js("POST", "/auth/login", "", map[string]any{"username": "ada", "password": goodPassword})},
			{"POST /token", "session.started", form("/token", "grant_type", "password", "username", "ada", "password", goodPassword)},
			{"POST /token/refresh", "session.refreshed", js("POST", "/token/refresh", "", map[string]any{"refresh_token": ada.refresh})},
			{"POST /token/introspect", "credential.refused", func() *http.Request { return w.byBasic("/token/introspect", machine.ID, "cs_wrong", "token", "x") }},
			{"POST /token/revoke", "session.ended", form("/token/revoke", "token", w.signIn("ada", goodPassword).refresh)},
			{"POST /auth/accept-invitation", "mail_token.refused", js("POST", "/auth/accept-invitation", "", map[string]any{"token": "x", "password": goodPassword})},
			{"POST /auth/forgot-password", "password.reset_requested", js("POST", "/auth/forgot-password", "", map[string]any{"email": "ada@example.com"})},
			{"POST /auth/request-verify-token", "verification.requested", js("POST", "/auth/request-verify-token", "", map[string]any{"email": "ada@example.com"})},
			{"POST /auth/request-link", "link.requested", js("POST", "/auth/request-link", "", map[string]any{"email": "ada@example.com"})},
			{"POST /auth/link", "signin.refused", js("POST", "/auth/link", "", map[string]any{"token": "x"})},
			{"POST /auth/reset-password", "mail_token.refused", js("POST", "/auth/reset-password", "", map[string]any{"token": "x", "password": goodPassword})},
			{"POST /auth/verify", "mail_token.refused", js("POST", "/auth/verify", "", map[string]any{"token": "x"})},
			{"POST /auth/setup", "administrator.set_up", js("POST", "/auth/setup", "", map[string]any{"token": "x", "email": "x@example.com", "username": "x", "password": goodPassword})},
			{"POST /2fa/setup", "mfa.set_up", js("POST", "/2fa/setup", ben.access, nil)},
			{"POST /2fa/verify", "mfa.refused", js("POST", "/2fa/verify", dan.access, map[string]any{"code": "000000"})},
			{"POST /2fa/recovery-codes", "mfa.recovery_codes_replaced", js("POST", "/2fa/recovery-codes", cas.access, map[string]any{"code": codes[0]})},
			{"DELETE /2fa", "mfa.refused", js("DELETE", "/2fa", cas.access, map[string]any{"code": "000000"})},
			{"POST /api-keys", "apikey.created", js("POST", "/api-keys", ada.access, map[string]any{"name": "n", "scopes": []string{}})},
			{"PATCH /api-keys/{id}", "apikey.changed", js("PATCH", "/api-keys/"+key.id, ada.access, map[string]any{"name": "m"})},
			{"DELETE /api-keys/{id}", "apikey.deleted", js("DELETE", "/api-keys/"+key.id, ada.access, nil)},
			{"POST /clients", "client.created", js("POST", "/clients", admin.access, map[string]any{"name": "c", "scopes": []string{}})},
			{"DELETE /clients/{id}", "client.deleted", js("DELETE", "/clients/"+gone.ID, admin.access, nil)},
			{"PUT /permissions/{name}", "permission.put", js("PUT", "/permissions/read:things", admin.access, map[string]any{"description": "x"})},
			{"PUT /roles/{name}", "role.put", js("PUT", "/roles/new", admin.access, map[string]any{"description": "x"})},
			{"DELETE /roles/{name}", "role.deleted", js("DELETE", "/roles/old", admin.access, nil)},
			{"PUT /policies/{id}", "policy.put", js("PUT", "/policies/new", admin.access, map[string]any{"cedar": "forbid (principal, action == Action::\"read:users\", resource) when { context.mfa };"})},
			{"DELETE /policies/{id}", "policy.deleted", js("DELETE", "/policies/new", admin.access, nil)},
			{"POST /policies/check", "policy.checked", js("POST", "/policies/check", admin.access, map[string]any{"principal": "ada", "action": "read:users"})},
			{"POST /users", "account.created", js("POST", "/users", admin.access, map[string]any{"username": "made", "email": "made@example.com", "password": goodPassword})},
			{"PATCH /users/{id}", "account.changed", js("PATCH", "/users/"+vic, admin.access, map[string]any{"full_name": "V"})},
			{"PUT /users/{id}/roles", "grants.changed", js("PUT", "/users/"+vic+"/roles", admin.access, map[string]any{"roles": []string{"moderator"}})},
			{"PUT /users/{id}/permissions", "grants.changed", js("PUT", "/users/"+vic+"/permissions", admin.access, map[string]any{"permissions": []string{"read:users"}})},
			{"DELETE /users/{id}", "account.deleted", js("DELETE", "/users/"+eve, admin.access, nil)},
			{"PATCH /users/me", "account.changed", js("PATCH", "/users/me", ada.access, map[string]any{"full_name": "A"})},
			{"GET /users/me/export", "account.exported", js("GET", "/users/me/export", ada.access, nil)},
			{"PUT /users/me/password", "password.changed", js("PUT", "/users/me/password", ada.access, map[string]any{"current_password": bad, "new_password": goodPassword + "2"})},
			{"DELETE /users/me/sessions/{id}", "session.ended", js("DELETE", "/users/me/sessions/"+sessions[0].(map[string]any)["id"].(string), ben.access, nil)},
			{"POST /account/sign-in", "signin.refused", form("/account/sign-in", "username", "ada", "password", bad)},
			{"POST /account/forgot", "password.reset_requested", form("/account/forgot", "email", "ada@example.com")},
			{"POST /account/request-link", "link.requested", form("/account/request-link", "email", "ada@example.com")},
			{"POST /account/link", "signin.refused", form("/account/link", "token", "x")},
			{"POST /account/reset", "mail_token.refused", form("/account/reset", "token", "x", "password", goodPassword)},
			{"POST /account/invitation", "mail_token.refused", form("/account/invitation", "token", "x", "password", goodPassword)},
			{"POST /account/verify", "mail_token.refused", form("/account/verify", "token", "x", "password", goodPassword)},
			{"POST /account/second-factor", "mfa.set_up", withCookie(form("/account/second-factor", "do", "begin"))},
			{"POST /account/password", "password.changed", withCookie(form("/account/password", "current_password", bad, "new_password", goodPassword+"2"))},
			{"POST /account/sign-out", "session.ended", withCookie(form("/account/sign-out"))},
			{"POST /console/setup", "administrator.set_up", form("/console/setup", "token", "x", "email", "x@example.com", "username", "x", "password", goodPassword)},
			{"POST /logout", "session.ended", js("POST", "/logout", w.signIn("ada", goodPassword).access, nil)},
			{"POST /auth/logout", "session.ended", js("POST", "/auth/logout", w.signIn("ada", goodPassword).access, nil)},
			{"POST /logout/all", "sessions.ended", js("POST", "/logout/all", w.signIn("ada", goodPassword).access, nil)},
			{"DELETE /users/me", "account.deleted", js("DELETE", "/users/me", w.signIn("vic", goodPassword).access, nil)},
		}
		b, err := os.ReadFile("testdata/routes.txt")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if strings.HasPrefix(f[1], "/forward-auth/") {
				continue // a proxy's question, with the client's method
			}
			if f[0] != "GET" && !slices.ContainsFunc(cases, func(c struct {
				route, action string
				req           func() *http.Request
			},
			) bool {
				return c.route == f[0]+" "+f[1]
			}) {
				t.Errorf("%s %s writes, and is not in this test", f[0], f[1])
			}
		}
		for i, c := range cases {
			id := fmt.Sprintf("case-%d", i)
			req := c.req()
			req.Header.Set("X-Request-Id", id)
			before := time.Now()
			r := w.send(req)
			if r.status >= 500 {
				t.Errorf("%s: %d %s", c.route, r.status, r.body)
			}
			var events []audit.Record
			for end := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				all, _, err := w.sv.Audit.List(t.Context(), audit.Filter{Action: c.action, Since: before.Add(-time.Second)}, "", 50)
				if err != nil {
					t.Fatal(err)
				}
				events = slices.DeleteFunc(all, func(e audit.Record) bool {
					// A deletion of one's own account takes the request's id.
					return e.RequestID != id && !(c.route == "DELETE /users/me" && e.RequestID == "" && e.At.After(before))
				})
				if len(events) > 0 || time.Now().After(end) {
					break
				}
			}
			if len(events) != 1 {
				t.Errorf("%s: %d events %q, want 1 (%d %.200s)", c.route, len(events), c.action, r.status, r.body)
			}
		}
	})
}

// U. Secrets in every field of every operation are in no event, no line of the log
// and nothing that is handed on: to a file, a webhook, syslog over a socket.
func TestU_PlantedSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	var log testkit.Buffer
	var box mailbox
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	var hooked, messages testkit.Buffer
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(&hooked, r.Body); err != nil {
			t.Error(err)
		}
	}))
	defer hook.Close()
	syslog, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer syslog.Close()
	go func() {
		for {
			conn, err := syslog.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(&messages, conn) // until the server closes it
			}()
		}
	}()
	w := newClientWorld(t, d, withMail(&box), withMailSignIn, noLockout, func(c *server.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.AuditSinks = audit.SinksConfig{
			Log: true, File: file, Syslog: "tcp://" + syslog.Addr().String(),
			Webhook: hook.URL, WebhookSecret: []byte("0123456789abcdef0123456789abcdef"),
		}
	})
	_, admin := w.user("root", "admin")
	_, tk := w.user("ada")
	phone, codes := w.enrol(tk.access)
	// A genuine code of the next step. It is looked for as a number of its own: among
	// other digits it would be found by chance.
	totp := phone.code(1)
	number := regexp.MustCompile(`(^|[^0-9.])` + totp + `($|[^0-9])`)
	key := w.keyWith(admin, map[string]any{"name": "k", "scopes": []string{}})
	w.forgot("root@example.com").want(t, 202, "")
	letter := box.token(w, "root@example.com", mail.Reset)
	const planted = "hunter2-Zq7!planted"
	secrets := []string{planted, goodPassword, tk.access, tk.refresh, admin.access, admin.refresh, key.key, codes[0], codes[1], letter}
	w.do("POST", "/2fa/recovery-codes", tk.access, map[string]any{"code": totp}).want(t, 200, "")
	members := []string{"username", "email", "password", "token", "code", "mfa_token", "refresh_token", "current_password", "new_password", "name", "client_id", "client_secret", "scope", "grant_type", "full_name", "description", "handle"}
	var jobs []func()
	for _, op := range w.operations() {
		if op.method == "GET" || strings.Contains(op.path, "logout") {
			continue
		}
		path := strings.NewReplacer("{id}", planted, "{name}", planted).Replace(op.path)
		for _, s := range []string{planted, []string{tk.refresh, key.key, codes[0], letter, totp}[len(jobs)%5]} {
			body, fields := map[string]any{}, []string{}
			for _, name := range members {
				body[name], fields = s, append(fields, name, s)
				jobs = append(jobs, func() { w.do(op.method, path, admin.access, map[string]any{name: s}) })
			}
			jobs = append(jobs, func() { w.do(op.method, path, "", body) }, func() {
				req := w.request(op.method, path, "", nil)
				req.Header.Set("Authorization", "Bearer "+s)
				req.Header.Set("User-Agent", s)
				req.Header.Set("X-Request-Id", "x "+s)
				w.send(req)
			})
			if op.method == "POST" {
				jobs = append(jobs, func() { w.form(path, fields...) })
			}
		}
	}
	const workers = 16
	parallel(workers, func(n int) {
		for i := n; i < len(jobs); i += workers {
			jobs[i]()
		}
	})
	w.events("credential.refused", 10)
	const harmless = "harmless-zq7-planted" // which is to arrive
	w.do("PUT", "/roles/"+harmless, admin.access, map[string]any{"permissions": []string{}}).want(t, 200, "")
	time.Sleep(200 * time.Millisecond) // what is behind the last request
	all, err := audit.Latest(d.View(t.Context()), 100_000)
	if err != nil || len(all) < 30 {
		t.Fatal(len(all), err)
	}
	noSecretsIn(t, all, secrets...)
	newest := all[0].ID
	for what, read := range map[string]func() string{
		"the file": func() string {
			b, _ := os.ReadFile(file)
			return string(b)
		},
		"the webhook": hooked.String, "syslog": messages.String, "the log": log.String,
	} {
		text := ""
		for end := time.Now().Add(20 * time.Second); what == "the log" && text == "" || what != "the log" && !strings.Contains(text, newest); time.Sleep(20 * time.Millisecond) {
			text = read()
			if time.Now().After(end) {
				t.Fatalf("%s never has the newest event", what)
			}
		}
		if !strings.Contains(text, "credential.refused") || !strings.Contains(text, harmless) {
			t.Errorf("%s does not hold what it should: the search is blind", what)
		}
		if at := number.FindStringIndex(text); at != nil {
			t.Errorf("%s holds a code: …%.200s", what, text[max(0, at[0]-150):])
		}
		for _, s := range secrets {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("%s holds a secret: …%.200s", what, text[max(0, i-150):])
			}
		}
	}
}

// U. A restore and a move leave the log whole, with the same key; a head from after
// the backup tells that something is gone.
func TestU_TheLogSurvivesARestoreAndAMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	_, ada := w.user("ada", "admin")
	ben, _ := w.user("ben")
	w.do("DELETE", "/users/"+ben, ada.access, nil).want(t, 204, "") // what is erased stays whole, too
	if err := w.sv.Chain.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, _, err := w.sv.Chain.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.http.Close()
	w.sv.Close()
	to := testkit.Postgres(t)
	m := &db.Mover{From: w.db, To: to, Now: time.Now}
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := w.cfg
	cfg.DB, cfg.MasterKeyFile = to, w.cfg.MasterKeyFile
	if _, err := server.Settle(t.Context(), cfg, nil, map[string]string{"made_at": "then"}); err != nil {
		t.Fatal(err)
	}
	sv, err := server.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer sv.Close()
	if err := sv.Chain.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := sv.Chain.Verify(t.Context(), h)
	if err != nil || !v.Whole || v.Waiting != 0 || v.Head.Position <= h.Position {
		t.Errorf("%+v %v", v, err)
	}
}

// explain returns how SQLite goes about a statement.
func explain(t *testing.T, d *db.DB, q string) string {
	t.Helper()
	raw, err := sql.Open("sqlite", filepath.Join(d.Dir(), "sallyport.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	rows, err := raw.Query("EXPLAIN QUERY PLAN "+q, make([]any, 11)...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		out = append(out, detail)
	}
	return strings.Join(out, "\n")
}
