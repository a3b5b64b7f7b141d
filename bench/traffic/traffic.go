// Package traffic is a server in this process, and people who do everything with it
// that there is to do: sign in, refresh, mistype passwords, make keys, forget
// passwords, administrate. It is for seeing what that asks of a database.
package traffic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// Password is everybody's.
const Password = "violet-anchor-97-marmalade"

// masterKey is that of every town, so that one can be opened again.
const masterKey = "bm90IGEgc2VjcmV0OiBhIHRvd24gdG8gbWVhc3VyZS4="

// Hashes are cheap: what is looked at is the database.
var Hashes = password.Config{Memory: 64, Time: 1, Threads: 1, Permits: 4, DangerouslyWeak: true}

// Town is a server and its administrator.
type Town struct {
	sv     *server.Server
	base   string
	client *http.Client
	http   *http.Server
	admin  string // an access token
	ahead  atomic.Int64
	made   atomic.Int64

	mu      sync.Mutex
	letters map[string]string // token of the last letter, by address
}

// Start serves a database on a port of loopback. Access tokens are opaque, which
// asks more of it.
func Start(ctx context.Context, d *db.DB) (*Town, error) {
	t := &Town{letters: map[string]string{}, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	var err error
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t.base = "http://" + l.Addr().String()
	if t.sv, err = server.New(ctx, server.Config{
		DB: d, BaseURL: t.base, MasterKey: masterKey, Password: Hashes, TokenFormat: session.Opaque, Basic: true,
		Mail: t, MailSignIn: true, Metrics: true, AccessTTL: session.MaxAccessTTL, CleanEvery: time.Hour, Now: t.now,
		Limits: server.Limits{Default: server.LimitOff, Login: "1000000/minute", Register: "1000000/minute", Mail: "1000000/minute", Guesses: "1000000/minute"},
	}); err != nil {
		return nil, err
	}
	t.http = &http.Server{Handler: t.sv.Guard(t.sv.Routes()), ReadHeaderTimeout: 10 * time.Second}
	go t.http.Serve(l)

	name := fmt.Sprint("mayor-", time.Now().UnixNano())
	u, err := t.sv.Accounts.Register(ctx, account.NewUser{Username: &name, Email: name + "@example.com", Password: Password})
	if err == nil {
		err = d.Write(ctx, func(tx *db.Tx) error { return role.Grant(ctx, tx, role.Operator(), u.ID, "admin") })
	}
	if err == nil {
		t.admin, _, err = t.signIn(ctx, name)
	}
	return t, err
}

// Close ends the server. The database stays open.
func (t *Town) Close() {
	t.http.Close()
	t.sv.Close()
}

func (t *Town) now() time.Time { return time.Now().Add(time.Duration(t.ahead.Load())) }

// Send implements mail.Sender: it keeps the token of the letter.
func (t *Town) Send(_ context.Context, m mail.Message) error {
	if _, token, ok := strings.Cut(m.Link, "#token="); ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.letters[m.To] = token
	}
	return nil
}

// letter returns the token of the letter to an address that comes now.
func (t *Town) letter(ctx context.Context, address string) (string, error) {
	if err := t.sv.Mail.Deliver(ctx); err != nil {
		return "", err
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		t.mu.Lock()
		token := t.letters[address]
		delete(t.letters, address)
		t.mu.Unlock()
		if token != "" {
			return token, nil
		}
	}
	return "", fmt.Errorf("no letter came to %s", address)
}

// answer is the members of an answer.
type answer map[string]any

func (a answer) text(name string) string { s, _ := a[name].(string); return s }

// call sends a request that must be answered with a status, of which 200 stands for
// all of 2xx. A body of url.Values is a form; auth is a header's “name: value”.
func (t *Town) call(ctx context.Context, want int, method, path, auth string, body any) (answer, error) {
	var text []byte
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case url.Values:
		text, kind = []byte(b.Encode()), "application/x-www-form-urlencoded"
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, t.base+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if name, value, ok := strings.Cut(auth, ": "); ok {
		req.Header.Set(name, value)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != want && (want != 200 || res.StatusCode/100 != 2) {
		return nil, fmt.Errorf("%s %s: %d, want %d: %.300s", method, path, res.StatusCode, want, got)
	}
	a := answer{}
	if len(got) > 0 && got[0] == '{' {
		err = json.Unmarshal(got, &a)
	}
	for _, c := range res.Cookies() {
		a["cookie"] = "Cookie: " + c.Name + "=" + c.Value
	}
	return a, err
}

func bearer(token string) string { return "Authorization: Bearer " + token }

func (t *Town) signIn(ctx context.Context, name string) (access, refresh string, err error) {
	a, err := t.call(ctx, 200, "POST", "/token", "", url.Values{"grant_type": {"password"}, "username": {name}, "password": {Password}})
	return a.text("access_token"), a.text("refresh_token"), err
}

// visit is calls one after the other, of which the first that fails is the last.
type visit struct {
	*Town
	ctx context.Context
	err error
}

func (v *visit) do(want int, method, path, auth string, body any) answer {
	if v.err != nil {
		return answer{}
	}
	a, err := v.call(v.ctx, want, method, path, auth, body)
	v.err = err
	if a == nil {
		a = answer{}
	}
	return a
}

// Person has somebody who has an account (name, name@example.com, Password) do
// everything that a person does. Of what there is nothing is left but the account,
// sessions that have ended, and events.
func (t *Town) Person(ctx context.Context, name string) error {
	v := &visit{Town: t, ctx: ctx}
	type m = map[string]any
	address := name + "@example.com"
	wrong := url.Values{"grant_type": {"password"}, "username": {name}, "password": {"not-the-password"}}
	v.do(401, "POST", "/token", "", wrong)
	wrong.Set("username", "nobody-"+name)
	v.do(401, "POST", "/token", "", wrong)
	signIn := func(login string) (access, refresh string) {
		a := v.do(200, "POST", "/token", "", url.Values{"grant_type": {"password"}, "username": {login}, "password": {Password}})
		return a.text("access_token"), a.text("refresh_token")
	}
	access, refresh := signIn(name)
	me := v.do(200, "GET", "/users/me", bearer(access), nil)
	again := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	a := v.do(200, "POST", "/token", "", again)
	access = a.text("access_token")
	v.do(200, "GET", "/users/me", bearer(access), nil)
	signIn(address)
	list := v.do(200, "GET", "/users/me/sessions", bearer(access), nil)
	for _, each := range items(list) {
		if current, _ := each["current"].(bool); !current && each.text("id") != "" {
			v.do(200, "DELETE", "/users/me/sessions/"+each.text("id"), bearer(access), nil)
			break
		}
	}

	key := v.do(200, "POST", "/api-keys", bearer(access), m{"name": "k", "scopes": []string{}})
	v.do(200, "GET", "/api-keys", bearer(access), nil)
	v.do(200, "GET", "/users/me", "X-API-Key: "+key.text("key"), nil)
	v.do(401, "GET", "/users/me", "X-API-Key: sp_live_nobody", nil)
	v.do(200, "PATCH", "/api-keys/"+key.text("id"), bearer(access), m{"name": "renamed"})
	v.do(200, "DELETE", "/api-keys/"+key.text("id"), bearer(access), nil)

	cookie := v.do(200, "POST", "/auth/login?mode=cookie", "", m{"username": name, "password": Password})
	v.do(200, "GET", "/users/me", cookie.text("cookie"), nil)
	v.do(200, "PATCH", "/users/me", bearer(access), m{"full_name": "Somebody"})
	v.do(200, "GET", "/users/me/export", bearer(access), nil)

	for _, flow := range []struct{ ask, use string }{
		{"/auth/request-verify-token", "/auth/verify"}, {"/auth/request-link", "/auth/link"}, {"/auth/forgot-password", "/auth/reset-password"},
	} {
		v.do(200, "POST", flow.ask, "", m{"email": address})
		if v.err != nil {
			break
		}
		if flow.ask == "/auth/request-verify-token" && me["email_verified"] == true {
			continue
		}
		token, err := t.letter(ctx, address)
		if v.err = cmp.Or(v.err, err); err == nil {
			body := m{"token": token}
			if strings.Contains(flow.use, "reset") {
				body["password"] = Password
			}
			v.do(200, "POST", flow.use, "", body)
		}
	}

	access, _ = signIn(name)
	setup := v.do(200, "POST", "/2fa/setup", bearer(access), nil)
	secret, _ := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(setup.text("secret"))
	code := func() string {
		t.ahead.Add(int64(totp.Period)) // each is good once
		return totp.Default.Code(secret, totp.StepAt(t.now()))
	}
	v.do(200, "POST", "/2fa/verify", bearer(access), m{"code": code()})
	due := v.do(403, "POST", "/token", "", url.Values{"grant_type": {"password"}, "username": {name}, "password": {Password}})
	v.do(401, "POST", "/2fa/verify", "", m{"mfa_token": due.text("mfa_token"), "code": "000000"})
	v.do(200, "POST", "/2fa/verify", "", m{"mfa_token": due.text("mfa_token"), "code": code()})
	v.do(200, "POST", "/2fa/recovery-codes", bearer(access), m{"code": code()})
	v.do(200, "DELETE", "/2fa", bearer(access), m{"code": code()})

	v.do(200, "PUT", "/users/me/password", bearer(access), m{"current_password": Password, "new_password": Password + "-2"})
	v.do(200, "PUT", "/users/me/password", bearer(access), m{"current_password": Password + "-2", "new_password": Password})
	v.do(200, "POST", "/logout", bearer(access), nil)
	v.do(401, "GET", "/users/me", bearer(access), nil)
	access, _ = signIn(name)
	v.do(200, "POST", "/logout/all", bearer(access), nil)
	return v.err
}

func items(a answer) (out []answer) {
	for _, name := range []string{"items", "sessions"} {
		list, _ := a[name].([]any)
		for _, e := range list {
			if m, ok := e.(map[string]any); ok {
				out = append(out, m)
			}
		}
	}
	return out
}

// Newcomer has somebody register and delete the account.
func (t *Town) Newcomer(ctx context.Context) error {
	v := &visit{Town: t, ctx: ctx}
	name := fmt.Sprintf("newcomer-%d-%d", time.Now().UnixNano(), t.made.Add(1))
	v.do(200, "POST", "/auth/register", "", map[string]any{"username": name, "email": name + "@example.com", "password": Password})
	v.do(409, "POST", "/auth/register", "", map[string]any{"username": name, "email": name + "@example.com", "password": Password})
	if v.err != nil {
		return v.err
	}
	access, _, err := t.signIn(ctx, name)
	v.err = err
	v.do(200, "DELETE", "/users/me", bearer(access), nil)
	return v.err
}

// Admin has the administrator look at an account and at lists, and do what
// administrators do.
func (t *Town) Admin(ctx context.Context, id string) error {
	v := &visit{Town: t, ctx: ctx}
	type m = map[string]any
	as := bearer(t.admin)
	page := v.do(200, "GET", "/users?limit=50", as, nil)
	if cursor := page.text("next_cursor"); cursor != "" {
		v.do(200, "GET", "/users?limit=50&cursor="+url.QueryEscape(cursor), as, nil)
	}
	v.do(200, "GET", "/users/"+id, as, nil)
	v.do(200, "PATCH", "/users/"+id, as, m{"full_name": "Somebody else"})
	v.do(200, "PATCH", "/users/"+id, as, m{"disabled": true})
	v.do(200, "PATCH", "/users/"+id, as, m{"disabled": false})
	v.do(200, "PUT", "/users/"+id+"/roles", as, m{"roles": []string{"user", "moderator"}})
	v.do(200, "PUT", "/users/"+id+"/roles", as, m{"roles": []string{"user"}})
	v.do(200, "PUT", "/users/"+id+"/permissions", as, m{"permissions": []string{"read:users"}})
	v.do(200, "PUT", "/users/"+id+"/permissions", as, m{"permissions": []string{}})
	address := fmt.Sprintf("made-%d-%d@example.com", time.Now().UnixNano(), t.made.Add(1))
	made := v.do(200, "POST", "/users", as, m{"email": address, "password": Password})
	v.do(200, "DELETE", "/users/"+made.text("id"), as, nil)
	return v.err
}

// Office has the administrator do what concerns nobody in particular, and what is
// done seldom: searching, roles, programs, keys, and deleting what is old.
func (t *Town) Office(ctx context.Context) error {
	v := &visit{Town: t, ctx: ctx}
	type m = map[string]any
	as := bearer(t.admin)
	v.do(200, "GET", "/users?q=mayor", as, nil)
	v.do(200, "GET", "/users?role=admin", as, nil)
	v.do(200, "GET", "/users?disabled=true", as, nil)
	v.do(200, "GET", "/roles", as, nil)
	v.do(200, "GET", "/permissions", as, nil)
	v.do(200, "PUT", "/permissions/read:reports", as, m{"description": "Reports"})
	v.do(200, "PUT", "/roles/reader", as, m{"description": "Reads", "permissions": []string{"read:reports"}})
	v.do(200, "DELETE", "/roles/reader", as, nil)
	made := v.do(200, "POST", "/clients", as, m{"name": "nightly", "scopes": []string{"introspect:tokens"}})
	program := url.Values{"grant_type": {"client_credentials"}, "client_id": {made.text("client_id")}, "client_secret": {made.text("client_secret")}}
	token := v.do(200, "POST", "/token", "", program).text("access_token")
	v.do(200, "POST", "/token/introspect", bearer(token), url.Values{"token": {t.admin}})
	program.Del("grant_type")
	program.Set("token", token)
	v.do(200, "POST", "/token/revoke", "", program)
	v.do(200, "GET", "/clients", as, nil)
	v.do(200, "DELETE", "/clients/"+made.text("client_id"), as, nil)
	v.do(200, "GET", "/doctor", as, nil)
	if v.err != nil {
		return v.err
	}
	if _, err := t.sv.Keys.Rotate(ctx); err != nil {
		return err
	}
	t.sv.Metrics(ctx)
	if err := t.sv.Accounts.Erase(ctx); err != nil {
		return err
	}
	_, err := t.sv.CleanUp(ctx)
	return err
}

// Move makes an account for Person and Admin.
func (t *Town) Move(ctx context.Context) (name, id string, err error) {
	name = fmt.Sprintf("resident-%d-%d", time.Now().UnixNano(), t.made.Add(1))
	u, err := t.sv.Accounts.Register(ctx, account.NewUser{Username: &name, Email: name + "@example.com", Password: Password})
	return name, u.ID, err
}
