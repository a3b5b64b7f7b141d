package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// password is a good one; accounts add what makes it theirs.
const password = "correct horse battery staple"

// patience is how long a client waits for an answer. It is longer than what a node
// needs to find out that its database does not answer.
const patience = 15 * time.Second

// call is one request.
type call struct {
	method, path string
	bearer, key  string
	form         url.Values // or body, as JSON
	body         any
	from         string // the address of the client; empty: the next of its client's
}

// answer is how a node answered one.
type answer struct {
	what       string
	at         *node
	sent, came time.Time
	status     int // 0: not at all
	retryAfter string
	doc        map[string]any
	err        error
}

func (a answer) String() string {
	s := fmt.Sprintf("%s at %s, sent %s, after %v: ", a.what, a.at.name, a.sent.Format("05.000"), a.came.Sub(a.sent).Round(time.Millisecond))
	if a.err != nil {
		return s + a.err.Error()
	}
	return s + fmt.Sprint(a.status, " ", a.code())
}

func (a answer) text(member string) string {
	s, _ := a.doc[member].(string)
	return s
}

// code is why it was refused.
func (a answer) code() string {
	if s := a.text("code"); s != "" {
		return s
	}
	return a.text("error")
}

// certain tells whether the answer says what became of the request.
func (a answer) certain() bool { return a.status >= 200 && a.status < 500 }

func (a answer) ok() bool { return a.status/100 == 2 }

// client is one program with its connections. It comes from another address now
// and then, so that no limit is in its way.
type client struct {
	http  *http.Client
	calls atomic.Int64
	first int64 // of its addresses
}

var clients, requests atomic.Int64

func newClient(patience time.Duration) *client {
	return &client{
		http:  &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
		first: clients.Add(1) << 10,
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// perAddress is how many requests a client sends from one address: less than the
// nodes' limit.
const perAddress = addressLimit / 2

func (c *client) address() string {
	n := c.first + c.calls.Add(1)/perAddress
	return fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
}

// do sends a request to a node and enters it into the node's book.
func (c *client) do(n *node, r call) (a answer) {
	a = answer{what: r.method + " " + r.path, at: n}
	var b bytes.Buffer
	kind := ""
	switch {
	case r.form != nil:
		b.WriteString(r.form.Encode())
		kind = "application/x-www-form-urlencoded"
		a.what += " " + r.form.Get("grant_type")
	case r.body != nil:
		if a.err = json.NewEncoder(&b).Encode(r.body); a.err != nil {
			return a
		}
		kind = "application/json"
	}
	req, err := http.NewRequest(r.method, n.base+r.path, &b)
	if err != nil {
		a.err = err
		return a
	}
	id := fmt.Sprintf("chaos-%d", requests.Add(1))
	req.Header.Set("X-Request-Id", id)
	if r.from == "" {
		r.from = c.address()
	}
	req.Header.Set("X-Forwarded-For", r.from)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	if r.key != "" {
		req.Header.Set("X-API-Key", r.key)
	}
	a.sent = time.Now()
	defer func() {
		a.came = time.Now()
		n.note(id, a.status)
	}()
	res, err := c.http.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		a.err = err
		return a
	}
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		if a.err = json.Unmarshal(text, &a.doc); a.err != nil {
			return a // half an answer
		}
	}
	a.status, a.retryAfter = res.StatusCode, res.Header.Get("Retry-After")
	return a
}

func me(access string) call { return call{method: "GET", path: "/users/me", bearer: access} }

func meByKey(key string) call { return call{method: "GET", path: "/users/me", key: key} }

func signIn(name, password string) call {
	return call{method: "POST", path: "/token", form: url.Values{"grant_type": {"password"}, "username": {name}, "password": {password}}}
}

func refresh(token string) call {
	return call{method: "POST", path: "/token", form: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}}
}

func register(name, password string) call {
	return call{method: "POST", path: "/auth/register", body: map[string]string{"username": name, "email": name + "@example.com", "password": password}}
}

func setRoles(admin, id string, roles ...string) call {
	return call{method: "PUT", path: "/users/" + id + "/roles", bearer: admin, body: map[string]any{"roles": roles}}
}

func listUsers(access string) call {
	return call{method: "GET", path: "/users?limit=1", bearer: access}
}

func makeKey(access string) call {
	return call{method: "POST", path: "/api-keys", bearer: access, body: map[string]any{"name": "chaos", "scopes": []string{}}}
}

func deleteKey(access, id string) call {
	return call{method: "DELETE", path: "/api-keys/" + id, bearer: access}
}

func logout(access string) call { return call{method: "POST", path: "/logout", bearer: access} }

func changePassword(access, from, to string) call {
	return call{method: "PUT", path: "/users/me/password", bearer: access, body: map[string]string{"current_password": from, "new_password": to}}
}
