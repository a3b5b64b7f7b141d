package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// place is somewhere that a credential can be put.
type place struct {
	name    string
	put     func(cred string) *http.Request
	takes   []string // the kinds that belong there; nobody else gets in
	refused func(reply) string
	changes bool // the right one does something: it is tried last
	// open: here even a right one is not told from a wrong one by its answer.
	open bool
}

// refusedBy4xx is what comes of a credential in a wrong place, nearly everywhere.
func refusedBy4xx(r reply) string {
	switch {
	case r.status < 400 || r.status > 499:
		return fmt.Sprintf("status %d", r.status)
	case r.status == 401 && r.header.Get("Www-Authenticate") == "" && !strings.Contains(string(r.body), "invalid_credentials"):
		return "401 without a challenge"
	}
	return ""
}

// Every kind of credential in every place where one could stand: only the right
// pairs are let in, nothing ends or changes by the others, and none of it comes
// out in an answer, in the audit log or in the log.
func TestJ_EveryCredentialEverywhere(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		log := new(testkit.Buffer)
		static := apikey.Generate()
		w := newWorld(t, d, func(w *world) {
			ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
			w.mux.HandleFunc("/who", sallyport.SignedIn(), ok)
			w.mux.HandleFunc("GET /basic", sallyport.Via(sallyport.KindBasic, sallyport.KindBearer), ok)
			w.mux.HandleFunc("GET /machines", sallyport.Via(sallyport.KindClient, sallyport.KindBearer), ok)
		}, overHTTPS, noLockout, func(c *server.Config) {
			c.APIKeys = []apikey.Static{apikey.NewStatic("billing", static, []string{"introspect:tokens"})}
			c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		if err := w.sv.Declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		adaID, ada := w.user("ada")
		// The same database with opaque tokens.
		cfg := w.cfg
		cfg.TokenFormat = session.Opaque
		sv, err := server.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sv.Close)
		other := *w
		other.sv, other.http = sv, httptest.NewServer(behindTLS(cfg.BaseURL, sv.Guard(sv.Routes())))
		t.Cleanup(other.http.Close)
		opaque := other.signIn("ada", goodPassword)
		if !strings.HasPrefix(opaque.access, "at_") {
			t.Fatalf("not opaque: %.10s", opaque.access)
		}
		cookie, key := w.cookie("ada"), w.key(ada)
		client := w.machine([]string{"introspect:tokens"})
		machine := w.token(client)
		claims := payloadOf(t, ada.access)
		sid, jti := claims["sid"].(string), claims["jti"].(string)
		replaced := w.refresh(w.signIn("ada", goodPassword)) // its first refresh token is in the retry window

		kinds := map[string]string{
			"jwt": ada.access, "opaque": opaque.access, "machine jwt": machine, "refresh": ada.refresh, "rotated refresh": replaced.refresh,
			"cookie": cookie, "key": key.key, "static": static.Reveal(), "secret": client.Secret,
			"name": "ada", "address": "ada@example.com", "password": goodPassword, "pair": "ada:" + goodPassword, "client pair": client.ID + ":" + client.Secret,
			"pair in base64": base64.StdEncoding.EncodeToString([]byte("ada:" + goodPassword)), "client pair in base64": base64.StdEncoding.EncodeToString([]byte(client.ID + ":" + client.Secret)),
			"client id": client.ID, "own client": "first-party", "docs client": "docs", "subject": adaID, "sid": sid, "jti": jti, "key id": key.id, "key prefix": key.prefix, "static id": "config:billing", "static name": "billing",
			"mfa": "mfa_" + strings.Repeat("A", 86), "cookie pair": cookieName + "=" + cookie, "bearer text": "Bearer " + ada.access,
			"payload": strings.Split(ada.access, ".")[1], "unsigned": strings.Join(strings.Split(ada.access, ".")[:2], ".") + ".", "nothing known": "x", "null": "null",
		}
		// One kind's body behind another's prefix.
		prefixes := map[string]string{"at": "at_", "rt": "rt_", "st": "st_", "sp": "sp_", "cs": "cs_"}
		for from, text := range map[string]string{"opaque": opaque.access, "refresh": ada.refresh, "cookie": cookie, "key": key.key, "secret": client.Secret} {
			for to, prefix := range prefixes {
				if !strings.HasPrefix(text, prefix) {
					kinds[from+" as "+to] = prefix + text[3:]
				}
			}
			kinds[from+" without prefix"] = text[3:]
		}
		var secrets []string
		for _, kind := range []string{"opaque", "refresh", "rotated refresh", "cookie", "key", "static", "secret"} {
			secrets = append(secrets, kinds[kind], kinds[kind][9:]) // an API key's prefix is shown
		}
		for _, jwt := range []string{ada.access, machine} {
			secrets = append(secrets, jwt, jwt[strings.LastIndexByte(jwt, '.')+1:])
		}
		secrets = append(secrets, goodPassword, kinds["pair in base64"], kinds["client pair in base64"])

		header := func(method, path, name, before, after string) func(string) *http.Request {
			return func(cred string) *http.Request {
				req := w.request(method, path, "", nil)
				req.Header[http.CanonicalHeaderKey(name)] = []string{before + cred + after}
				return req
			}
		}
		basic := func(path string, text func(string) string) func(string) *http.Request {
			return func(cred string) *http.Request {
				return w.with("GET", path, "Basic "+base64.StdEncoding.EncodeToString([]byte(text(cred))))
			}
		}
		form := func(path string, fields ...string) func(string) *http.Request {
			return func(cred string) *http.Request {
				v := url.Values{}
				for i := 0; i < len(fields); i += 2 {
					if v.Set(fields[i], fields[i+1]); fields[i+1] == "?" {
						v.Set(fields[i], cred)
					}
				}
				return w.typed("POST", path, formType, v.Encode())
			}
		}
		grantBasic := func(path string, id, secret func(string) string, fields ...string) func(string) *http.Request {
			return func(cred string) *http.Request { return w.byBasic(path, id(cred), secret(cred), fields...) }
		}
		it, always := func(cred string) string { return cred }, func(s string) func(string) string { return func(string) string { return s } }
		inactive := func(r reply) string {
			if r.status != 200 || string(r.body) != `{"active":false}` || r.header.Get("Cache-Control") != "no-store" {
				return fmt.Sprintf("status %d, %v", r.status, r.header)
			}
			return ""
		}
		nothingDone := func(r reply) string { // RFC 7009, 2.2; that nothing ended is looked at below
			if r.status != 200 && (r.status < 400 || r.status > 499) || r.status == 200 && len(r.body) > 0 {
				return fmt.Sprintf("status %d", r.status)
			}
			return ""
		}
		bearers := []string{"jwt", "opaque", "machine jwt"}
		keys := []string{"key", "static"}
		places := []place{
			{name: "Bearer", put: header("GET", "/who", "Authorization", "Bearer ", ""), takes: bearers},
			{name: "Bearer in a POST", put: header("POST", "/who", "Authorization", "bearer ", ""), takes: bearers},
			{name: "Bearer at /users/me", put: header("GET", "/users/me", "Authorization", "Bearer ", ""), takes: []string{"jwt", "opaque"}},
			{name: "Authorization without a scheme", put: header("GET", "/who", "Authorization", "", ""), takes: []string{"bearer text"}},
			{name: "Authorization: Token", put: header("GET", "/who", "Authorization", "Token ", "")},
			{name: "Authorization: ApiKey", put: header("GET", "/who", "Authorization", "ApiKey ", "")},
			{name: "Proxy-Authorization", put: header("GET", "/who", "Proxy-Authorization", "Bearer ", "")},
			{name: "X-API-Key", put: header("GET", "/who", "X-API-Key", "", ""), takes: keys},
			{name: "X-API-Key, in a list", put: header("GET", "/who", "X-API-Key", "", ","+key.key)},
			{name: "X-Auth-Token", put: header("GET", "/who", "X-Auth-Token", "", "")},
			{name: "the session cookie", put: header("GET", "/who", "Cookie", cookieName+"=", ""), takes: []string{"cookie"}},
			{name: "the session cookie in a POST", put: header("POST", "/who", "Cookie", cookieName+"=", ""), takes: []string{"cookie"}},
			{name: "the cookie of development", put: header("GET", "/who", "Cookie", "sallyport=", "")},
			{name: "the session cookie in another case", put: header("GET", "/who", "Cookie", strings.ToLower(cookieName)+"=", "")},
			{name: "the session cookie in quotes", put: header("GET", "/who", "Cookie", cookieName+`="`, `"`)},
			{name: "a cookie for keys", put: header("GET", "/who", "Cookie", "X-API-Key=", "")},
			{name: "the Cookie header itself", put: header("GET", "/who", "Cookie", "", ""), takes: []string{"cookie pair"}},
			{name: "Basic where it is not read", put: basic("/who", func(c string) string { return "ada:" + c })},
			{name: "Basic as the name", put: basic("/basic", func(c string) string { return c + ":" + goodPassword }), takes: []string{"name", "address"}, changes: true},
			{name: "Basic as the password", put: basic("/basic", func(c string) string { return "ada:" + c }), takes: []string{"password"}, changes: true},
			{name: "Basic in all", put: basic("/basic", it), takes: []string{"pair"}, changes: true},
			{name: "Basic without base64", put: header("GET", "/basic", "Authorization", "Basic ", ""), takes: []string{"pair in base64"}, changes: true},
			{name: "Basic of a client as the id", put: basic("/machines", func(c string) string { return c + ":" + client.Secret }), takes: []string{"client id"}},
			{name: "Basic of a client as the secret", put: basic("/machines", func(c string) string { return client.ID + ":" + c }), takes: []string{"secret"}},
			{name: "Basic of a client in all", put: basic("/machines", it), takes: []string{"client pair"}},
			{name: "Basic of a client without base64", put: header("GET", "/machines", "Authorization", "Basic ", ""), takes: []string{"client pair in base64"}},
			{name: "the client's secret at /token", put: grantBasic("/token", always(client.ID), it, "grant_type", "client_credentials"), takes: []string{"secret"}, changes: true},
			{name: "the client's id at /token", put: grantBasic("/token", it, always(client.Secret), "grant_type", "client_credentials"), takes: []string{"client id"}, changes: true},
			{name: "client_secret", put: form("/token", "grant_type", "client_credentials", "client_id", client.ID, "client_secret", "?"), takes: []string{"secret"}, changes: true},
			{name: "client_id", put: form("/token", "grant_type", "client_credentials", "client_id", "?", "client_secret", client.Secret), takes: []string{"client id"}, changes: true},
			{name: "client_id alone", put: form("/token", "grant_type", "client_credentials", "client_id", "?")},
			{name: "client_secret of first-party", put: form("/token", "grant_type", "client_credentials", "client_id", "first-party", "client_secret", "?")},
			{name: "client_secret of docs", put: form("/token", "grant_type", "password", "username", "ada", "password", goodPassword, "client_id", "docs", "client_secret", "?")},
			{name: "a client signs a person in", put: form("/token", "grant_type", "password", "username", "ada", "password", goodPassword, "client_id", client.ID, "client_secret", "?")},
			{name: "password", put: form("/token", "grant_type", "password", "username", "ada", "password", "?"), takes: []string{"password"}, changes: true},
			{name: "username", put: form("/token", "grant_type", "password", "username", "?", "password", goodPassword), takes: []string{"name", "address"}, changes: true},
			{name: "the password at /auth/login", put: form("/auth/login", "username", "ada", "password", "?"), takes: []string{"password"}, changes: true},
			{name: "the password for a cookie", put: form("/auth/login?mode=cookie", "username", "ada", "password", "?"), takes: []string{"password"}, changes: true},
			{name: "grant_type", put: form("/token", "grant_type", "?", "username", "ada", "password", goodPassword)},
			{name: "assertion", put: form("/token", "grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion", "?")},
			{name: "subject_token", put: form("/token", "grant_type", "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token", "?")},
			{name: "code", put: form("/token", "grant_type", "authorization_code", "code", "?")},
			{name: "refresh_token", put: form("/token", "grant_type", "refresh_token", "refresh_token", "?"), takes: []string{"refresh", "rotated refresh"}, changes: true},
			{name: "refresh_token of docs", put: form("/token", "grant_type", "refresh_token", "refresh_token", "?", "client_id", "docs")},
			{name: "refresh_token of a client", put: form("/token", "grant_type", "refresh_token", "refresh_token", "?", "client_id", client.ID, "client_secret", client.Secret)},
			{name: "/token/refresh", put: func(cred string) *http.Request {
				return w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": cred})
			}, takes: []string{"refresh", "rotated refresh"}, changes: true},
			{name: "the asking credential, Bearer", put: func(cred string) *http.Request {
				req := form("/token/introspect", "token", ada.access)(cred)
				req.Header.Set("Authorization", "Bearer "+cred)
				return req
			}, takes: []string{"machine jwt"}},
			{name: "the asking credential, X-API-Key", put: func(cred string) *http.Request {
				req := form("/token/introspect", "token", ada.access)(cred)
				req.Header.Set("X-API-Key", cred)
				return req
			}, takes: []string{"static"}},
			{name: "the asking credential, Basic", put: grantBasic("/token/introspect", always(client.ID), it, "token", ada.access), takes: []string{"secret"}},
			{name: "the asking credential, cookie", put: func(cred string) *http.Request {
				req := form("/token/introspect", "token", ada.access)(cred)
				req.Header.Set("Cookie", cookieName+"="+cred)
				return req
			}},
			{name: "the asking credential, form", put: form("/token/introspect", "token", ada.access, "client_id", client.ID, "client_secret", "?")},
			{name: "the token that is asked about", put: grantBasicToken(w, client.ID, client.Secret), takes: []string{"jwt", "opaque", "machine jwt", "refresh", "rotated refresh", "key", "static"}, refused: inactive},
			{name: "the token that is revoked, by a client", put: func(cred string) *http.Request {
				return w.byBasic("/token/revoke", client.ID, client.Secret, "token", cred)
			}, takes: []string{"jwt", "opaque", "machine jwt", "refresh", "rotated refresh"}, refused: nothingDone, changes: true, open: true},
			{name: "the token that is revoked", put: form("/token/revoke", "token", "?"), takes: []string{"jwt", "opaque", "refresh", "rotated refresh"}, refused: nothingDone, changes: true, open: true},
			{name: "the revoking secret", put: form("/token/revoke", "token", machine, "client_id", client.ID, "client_secret", "?"), takes: []string{"secret"}, changes: true},
			{name: "the id of a session", put: func(cred string) *http.Request {
				return w.request("DELETE", "/users/me/sessions/"+url.PathEscape(cred), opaque.access, nil)
			}, takes: []string{"sid"}, changes: true},
			{name: "the id of a key", put: func(cred string) *http.Request {
				return w.request("DELETE", "/api-keys/"+url.PathEscape(cred), opaque.access, nil)
			}, takes: []string{"key id"}, changes: true},
			{name: "a body", put: func(cred string) *http.Request {
				return w.typed("POST", "/who", formType, url.Values{"access_token": {cred}, "token": {cred}, "api_key": {cred}}.Encode())
			}},
		}
		for _, name := range []string{"access_token", "token", "api_key", "X-API-Key", "key", "client_secret", "refresh_token", cookieName, "sid"} {
			for _, path := range []string{"/who", "/users/me"} {
				places = append(places, place{name: "the query, " + name + " of " + path, put: func(cred string) *http.Request {
					return w.request("GET", path+"?"+url.Values{name: {cred}}.Encode(), "", nil)
				}})
			}
		}
		before := w.holdings()
		type job struct {
			p    place
			kind string
		}
		var jobs []job
		for _, p := range places {
			for kind := range kinds {
				if !slices.Contains(p.takes, kind) {
					jobs = append(jobs, job{p, kind})
				}
			}
		}
		const workers = 16
		parallel(workers, func(n int) {
			for i := n; i < len(jobs); i += workers {
				j := jobs[i]
				refused := j.p.refused
				if refused == nil {
					refused = refusedBy4xx
				}
				r := w.send(j.p.put(kinds[j.kind]))
				if wrong := refused(r); wrong != "" {
					t.Errorf("%s as %s: %s: %.200s", j.kind, j.p.name, wrong, r.body)
				}
				quiet(t, j.kind+" as "+j.p.name, r, secrets...)
			}
		})
		if len(jobs) < 2000 {
			t.Errorf("only %d crossings were tried", len(jobs))
		}
		w.holds(before)

		// The right pairs. What has an effect comes last, with a credential of its own
		// where it uses one up.
		right := func(p place, kind, cred string) {
			t.Helper()
			r := w.send(p.put(cred))
			if r.status < 200 || r.status > 299 {
				t.Errorf("%s as %s: status %d: %.200s", kind, p.name, r.status, r.body)
			}
			if p.refused != nil && !p.open && p.refused(r) == "" {
				t.Errorf("%s as %s is taken for a wrong one: %.200s", kind, p.name, r.body)
			}
		}
		for _, p := range places {
			for _, kind := range p.takes {
				if !p.changes {
					right(p, kind, kinds[kind])
				}
			}
		}
		w.holds(before)
		var fresh []string
		for _, p := range places {
			if !p.changes {
				continue
			}
			for _, kind := range p.takes {
				cred := kinds[kind]
				var check func() bool
				switch kind {
				case "refresh", "rotated refresh":
					tk := w.signIn("ada", goodPassword)
					cred = tk.refresh
					if p.open {
						check = func() bool { return !w.alive(tk.access) }
					}
				case "jwt":
					tk := w.signIn("ada", goodPassword)
					cred, check = tk.access, func() bool { return !w.alive(tk.access) }
				case "opaque":
					tk := other.signIn("ada", goodPassword)
					cred, check = tk.access, func() bool { return !w.alive(tk.access) }
				case "machine jwt":
					access := w.token(client)
					cred, check = access, func() bool { return w.send(w.with("GET", "/who", "Bearer "+access)).status == 401 }
				}
				fresh = append(fresh, cred)
				if right(p, kind, cred); check != nil && !check() {
					t.Errorf("%s as %s had no effect", kind, p.name)
				}
			}
		}
		if w.alive(ada.access) {
			t.Error("the session whose id was given to DELETE lives")
		}

		other.sv.Close()
		w.sv.Close() // what waits is written
		for _, cred := range fresh {
			if len(cred) > 50 {
				secrets = append(secrets, cred[len(cred)-40:])
			}
		}
		all, err := audit.Latest(d.View(t.Context()), 1_000_000)
		if err != nil || len(all) < 100 {
			t.Fatalf("%d audit rows, %v", len(all), err)
		}
		noSecretsIn(t, all, secrets...)
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{"log": log.String(), "audit log": string(text)} {
			if len(text) < 10_000 {
				t.Errorf("the %s has %d bytes: the search is blind", where, len(text))
			}
			for _, s := range secrets {
				if i := strings.Index(text, s); i >= 0 {
					t.Errorf("the %s holds a secret (%.12s…): …%.200s", where, s, text[max(0, i-100):])
				}
			}
		}
		for _, line := range strings.Split(log.String(), "\n") {
			if strings.Contains(line, "level=ERROR") {
				t.Errorf("a caller's input is an error of the server: %.300s", line)
				break
			}
		}
	})
}

// grantBasicToken asks a client's question about a token.
func grantBasicToken(w *world, id, secret string) func(string) *http.Request {
	return func(cred string) *http.Request { return w.byBasic("/token/introspect", id, secret, "token", cred) }
}
