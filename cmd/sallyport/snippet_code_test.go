package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/internal/testkit"
)

// python is an interpreter that has what the printed code imports, and PyYAML.
func python(t *testing.T) string {
	t.Helper()
	for _, path := range []string{os.Getenv("SALLYPORT_TEST_PYTHON"), "/usr/bin/python3", "python3"} {
		if path != "" && exec.Command(path, "-c", "import fastapi, uvicorn, jwt, cryptography, yaml").Run() == nil {
			return path
		}
	}
	testkit.Missing(t, "there is no Python with fastapi, uvicorn, jwt, cryptography and yaml (Debian: apt-get install python3-fastapi python3-uvicorn python3-jwt python3-cryptography python3-yaml)")
	return ""
}

func startFastAPI(t *testing.T, text, addr string) {
	t.Helper()
	path := python(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app.py"), text)
	_, port, _ := strings.Cut(addr, ":")
	c := exec.Command(path, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", port)
	c.Dir, c.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PYTHONDONTWRITEBYTECODE=1"}
	background(t, c)
}

func startExpress(t *testing.T, text, addr string) {
	t.Helper()
	installed := os.Getenv("SALLYPORT_TEST_EXPRESS")
	node, err := exec.LookPath("node")
	if installed == "" || err != nil {
		testkit.Missing(t, "Express is not here: export SALLYPORT_TEST_EXPRESS=$(scripts/express /tmp/sallyport-express)")
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "app.mjs"), text)
	_, port, _ := strings.Cut(addr, ":")
	c := exec.Command(node, "app.mjs")
	c.Dir, c.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PORT=" + port}
	background(t, c)
}

// reheaded is a token with another header, its signature as it was.
func reheaded(t *testing.T, compact string, change func(map[string]any)) string {
	t.Helper()
	parts := strings.Split(compact, ".")
	b, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	var h map[string]any
	if err := json.Unmarshal(b, &h); err != nil {
		t.Fatal(err)
	}
	change(h)
	if b, err = json.Marshal(h); err != nil {
		t.Fatal(err)
	}
	parts[0] = base64.RawURLEncoding.EncodeToString(b)
	return strings.Join(parts, ".")
}

// signed is a token with a scope, for an hour, that a key has signed; claims and header
// change it, nil leaving out.
func signed(t *testing.T, key ed25519.PrivateKey, kid, typ, issuer, subject string, claims, header map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	h := map[string]any{"alg": "EdDSA", "kid": kid, "typ": typ}
	c := map[string]any{"iss": issuer, "aud": issuer, "sub": subject, "jti": "x", "client_id": "x", "iat": now, "exp": now + 3600, "scope": "read:items"}
	var input []string
	for _, part := range [][2]map[string]any{{h, header}, {c, claims}} {
		for name, v := range part[1] {
			if part[0][name] = v; v == nil {
				delete(part[0], name)
			}
		}
		b, err := json.Marshal(part[0])
		if err != nil {
			t.Fatal(err)
		}
		input = append(input, base64.RawURLEncoding.EncodeToString(b))
	}
	text := strings.Join(input, ".")
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
}

// TestSnippetCode runs what “sallyport snippet” prints for FastAPI and Express in the
// real framework, and sends it tokens that are good and that are not.
func TestSnippetCode(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T, text, addr string){"fastapi": startFastAPI, "express": startExpress} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			// At a port that it knows: its address is the issuer of its tokens.
			sallyport := p.serveCommand(t, p.command("serve", "--listen", freeAddress(t), "--set", "proxy.trusted=127.0.0.1"))
			addr := freeAddress(t)
			start(t, snippetText(t, name, "--url", sallyport.base, "--require", "read:items"), addr)
			app := "http://" + addr
			p.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
			p.cli(t, "permission", "set", "read:items")
			p.cli(t, "role", "set", "reader", "--permission", "read:items")
			p.cli(t, "grant", "ada", "reader")
			// The test has the key that signs, to say what a signature alone is not enough for.
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "key.pem")
			write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
			p.cli(t, "key", "import", file, "--active", "--yes")
			scoped := func(r *running, scope string) string {
				status, doc := r.call(t, "POST", "/token", "", url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {testPassword}, "scope": {scope}})
				if status != http.StatusOK {
					t.Fatalf("%d %v", status, doc)
				}
				return tokensOf(doc).access
			}
			id := fmt.Sprint(p.cli(t, "user", "get", "ada")["id"])
			reads, plain, other := scoped(sallyport, "read:items role:user"), sallyport.signIn(t, "ada").access, scoped(sallyport, "role:user")
			listening(t, addr)

			body := func(a heard) (doc map[string]any) {
				t.Helper()
				if err := json.Unmarshal(a.body, &doc); err != nil {
					t.Fatalf("%d %s", a.status, a.body)
				}
				return doc
			}
			for what, credential := range map[string]string{"with the scope": reads, "without a scope": plain, "with another": other} {
				if a := ask(t, "GET", app+"/me", "Authorization", "Bearer "+credential); a.status != 200 || body(a)["id"] != id {
					t.Errorf("%s: %d %s", what, a.status, a.body)
				}
			}
			if a := ask(t, "GET", app+"/items", "Authorization", "bearer "+reads); a.status != 200 || body(a)["for"] != id {
				t.Errorf("with the scope: %d %s", a.status, a.body)
			}
			for what, credential := range map[string]string{"without a scope": plain, "with another": other} {
				a := ask(t, "GET", app+"/items", "Authorization", "Bearer "+credential)
				if c := a.header.Get("Www-Authenticate"); a.status != 403 || !strings.Contains(c, `error="insufficient_scope"`) || !strings.Contains(c, `scope="read:items"`) {
					t.Errorf("%s: %d %s %s", what, a.status, c, a.body)
				}
			}

			// What the same server signs and is no access token; what another signs; what nobody
			// did.
			assertion := ask(t, "GET", sallyport.base+"/forward-auth/caddy", "Authorization", "Bearer "+reads, "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/", "X-Forwarded-Host", strings.TrimPrefix(sallyport.base, "http://")).header.Get("X-Sallyport-Assertion")
			if claimsOf(t, assertion)["sub"] != id {
				t.Fatalf("no assertion: %q", assertion)
			}
			q := newPlace(t)
			foreign := q.serveAt(t, sallyport.base)
			q.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
			parts := strings.Split(reads, ".")
			set := func(name string, value any) string {
				return reheaded(t, reads, func(h map[string]any) { h[name] = value })
			}
			for what, credential := range map[string]string{
				"an assertion": assertion, "another server's": scoped(foreign, "role:user"), "nothing": "", "a word": "x", "dots": "..", "too long": strings.Repeat("a", 9000),
				"another signature": parts[0] + "." + parts[1] + "." + strings.Split(plain, ".")[2], "no signature": parts[0] + "." + parts[1] + ".",
				"another payload": parts[0] + "." + strings.Split(plain, ".")[1] + "." + parts[2],
				"alg none":        set("alg", "none"), "alg HS256": set("alg", "HS256"), "alg ES256": set("alg", "ES256"), "typ JWT": set("typ", "JWT"), "typ of none": set("typ", nil),
				"another kid": set("kid", "x"), "a kid that is none": set("kid", 7), "crit": set("crit", []string{"exp"}), "jwk": set("jwk", map[string]string{"kty": "oct"}), "two tokens": reads + " " + reads,
				"a header that is nested": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`))[:8000] + ".e30.x",
				"and not closed":          base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("[", 5900))) + ".e30.x",
			} {
				for _, path := range []string{"/me", "/items"} {
					a := ask(t, "GET", app+path, "Authorization", "Bearer "+credential)
					if a.status != 401 || !strings.HasPrefix(a.header.Get("Www-Authenticate"), "Bearer ") {
						t.Errorf("%s at %s: %d %s", what, path, a.status, a.body)
					}
				}
			}
			// What the server's own key has signed, and would be good but for one thing.
			for what, tt := range map[string]struct {
				typ    string
				claims map[string]any
				header map[string]any
				good   bool
			}{
				"the control":          {typ: "at+jwt", good: true},
				"an assertion's typ":   {typ: "sallyport-assertion+jwt"},
				"an ID token's typ":    {typ: "JWT"},
				"another issuer":       {typ: "at+jwt", claims: map[string]any{"iss": sallyport.base + "/x"}},
				"another audience":     {typ: "at+jwt", claims: map[string]any{"aud": "https://other.example"}},
				"no audience":          {typ: "at+jwt", claims: map[string]any{"aud": nil}},
				"expired":              {typ: "at+jwt", claims: map[string]any{"iat": 1_700_000_000, "exp": 1_700_000_900}},
				"no expiry":            {typ: "at+jwt", claims: map[string]any{"exp": nil}},
				"not yet":              {typ: "at+jwt", claims: map[string]any{"nbf": 4_000_000_000}},
				"no subject":           {typ: "at+jwt", claims: map[string]any{"sub": nil}},
				"a critical extension": {typ: "at+jwt", header: map[string]any{"crit": []string{"x"}, "x": 1}},
			} {
				if a := ask(t, "GET", app+"/items", "Authorization", "Bearer "+signed(t, key, kid(t, reads), tt.typ, sallyport.base, id, tt.claims, tt.header)); (a.status == 200) != tt.good || !tt.good && a.status != 401 {
					t.Errorf("%s: %d %s", what, a.status, a.body)
				}
			}
			for what, headers := range map[string][]string{
				"nothing": nil, "two headers": {"Authorization", "Bearer " + reads, "Authorization", "Bearer " + reads}, "another scheme": {"Authorization", "Basic " + reads},
				"a cookie": {"Cookie", "sallyport=" + reads}, "another header": {"X-API-Key", reads},
			} {
				if a := ask(t, "GET", app+"/me", headers...); a.status != 401 {
					t.Errorf("%s: %d", what, a.status)
				}
			}
			if a := ask(t, "GET", app+"/me?access_token="+reads); a.status != 401 {
				t.Errorf("a token in the address: %d", a.status)
			}
			// The keys are remembered: it goes on while the issuer is away.
			sallyport.kill()
			<-sallyport.ended
			if a := ask(t, "GET", app+"/items", "Authorization", "Bearer "+reads); a.status != 200 {
				t.Errorf("while the issuer is away: %d %s", a.status, a.body)
			}
		})
	}
}

// Without the issuer's keys nobody is let in, and nobody is told that their token is
// wrong.
func TestSnippetCodeWithoutKeys(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T, text, addr string){"fastapi": startFastAPI, "express": startExpress} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			sallyport := p.serveCommand(t, p.command("serve", "--listen", freeAddress(t)))
			p.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
			access := sallyport.signIn(t, "ada").access
			sallyport.kill()
			<-sallyport.ended
			addr := freeAddress(t)
			start(t, snippetText(t, name, "--url", sallyport.base), addr)
			listening(t, addr)
			if a := ask(t, "GET", "http://"+addr+"/me", "Authorization", "Bearer "+access); a.status != 503 || a.header.Get("Retry-After") == "" {
				t.Errorf("%d %s", a.status, a.body)
			}
			if a := ask(t, "GET", "http://"+addr+"/me"); a.status != 401 {
				t.Errorf("without a token: %d", a.status)
			}
		})
	}
}

// While the issuer is slow, whoever's key is known does not wait for it. Who reads the
// keys gives up after 5 seconds, which is also what the other has to be answered in.
func TestSnippetCodeWithASlowIssuer(t *testing.T) {
	t.Parallel()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	hanging, gone := make(chan bool), make(chan bool)
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 2 {
			close(hanging)
			<-r.Context().Done() // until who asks gives up
			close(gone)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k", "x": base64.RawURLEncoding.EncodeToString(pub)}}})
	}))
	defer issuer.Close()
	addr := freeAddress(t)
	text := snippetText(t, "fastapi", "--url", issuer.URL)
	ages := "MAX_AGE, MIN_AGE, GRACE = 300, 10, 3600"
	if !strings.Contains(text, ages) {
		t.Fatal("the ages have other names")
	}
	startFastAPI(t, strings.Replace(text, ages, "MAX_AGE, MIN_AGE, GRACE = 0, 0, 3600", 1), addr)
	listening(t, addr)
	good := signed(t, key, "k", "at+jwt", issuer.URL, "ada", nil, nil)
	me := func() int { return ask(t, "GET", "http://"+addr+"/me", "Authorization", "Bearer "+good).status }
	if got := me(); got != 200 {
		t.Fatalf("the control: %d", got)
	}
	first := make(chan int, 1)
	go func() {
		req, _ := http.NewRequest("GET", "http://"+addr+"/me", nil)
		req.Header.Set("Authorization", "Bearer "+good)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			first <- 0
			return
		}
		res.Body.Close()
		first <- res.StatusCode
	}()
	<-hanging // somebody reads the keys
	if got := me(); got != 200 {
		t.Errorf("meanwhile: %d", got)
	}
	select {
	case <-gone:
		t.Error("everybody waited for the issuer")
	default:
	}
	if got := <-first; got != 200 { // who read, with the key that was known
		t.Errorf("who read: %d", got)
	}
}

// Traefik and Envoy are not run here. A parser reads what is printed for them, and a
// server is asked exactly as it says.
func TestSnippetYAML(t *testing.T) {
	t.Parallel()
	path := python(t)
	parsed := func(text string) (doc any) {
		t.Helper()
		c := exec.Command(path, "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))")
		c.Stdin = strings.NewReader(text)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err == nil {
			err = json.Unmarshal(out, &doc)
		}
		if err != nil {
			t.Fatalf("%v: %s\n%s", err, &stderr, text)
		}
		return doc
	}
	p := newPlace(t)
	r := p.serve(t, "--set", "proxy.trusted=127.0.0.1")
	p.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
	bearer := "Bearer " + r.signIn(t, "ada").access
	for _, base := range []string{r.base, "https://app.example.com"} {
		for _, site := range []string{base, "https://other.example.com"} {
			args := []string{"--base-url", base, "--url", r.base, "--site", site, "--upstream", "http://10.0.0.7:9000", "--require", "all(role(user), via(bearer))"}
			host := strings.TrimPrefix(strings.TrimPrefix(site, "https://"), "http://")

			text := snippetText(t, append([]string{"traefik"}, args...)...)
			doc := parsed(text)
			auth := inside[map[string]any](t, doc, "http", "middlewares", "sallyport", "forwardAuth")
			if fmt.Sprint(auth["authResponseHeaders"]) != fmt.Sprint(append(slices.Clone(forward.IdentityHeaders), "Upgrade")) || auth["trustForwardHeader"] != false {
				t.Errorf("%v", auth)
			}
			if got := inside[[]any](t, doc, "http", "routers", "app", "middlewares"); fmt.Sprint(got) != "[sallyport-underscores sallyport]" {
				t.Errorf("middlewares %v", got)
			}
			away := inside[map[string]any](t, doc, "http", "middlewares", "sallyport-underscores", "headers", "customRequestHeaders")
			for _, h := range forward.IdentityHeaders {
				for _, name := range []string{strings.ReplaceAll(h, "-", "_"), strings.Replace(h, "X-", "X_", 1), strings.Replace(h, "t-", "t_", 1)} {
					if v, ok := away[name]; !ok || v != "" {
						t.Errorf("%s stays", name)
					}
				}
			}
			if away["Host"] != host {
				t.Errorf("the service is told the host %v", away["Host"])
			}
			routers, services := inside[map[string]any](t, doc, "http", "routers"), inside[map[string]any](t, doc, "http", "services")
			if (routers["sallyport"] != nil) != (site == base) || (services["sallyport"] != nil) != (site == base) || len(routers) != len(services) {
				t.Errorf("routers %v, services %v", routers, services)
			}
			if got := inside[string](t, services, "app", "loadBalancer", "servers", 0, "url"); got != "http://10.0.0.7:9000" {
				t.Errorf("the service is %s", got)
			}
			asked := []string{"X-Forwarded-Method", "POST", "X-Forwarded-Uri", "/x", "X-Forwarded-Host", host}
			address := fmt.Sprint(auth["address"])
			if a := ask(t, "GET", address, append(asked, "Authorization", bearer)...); a.status != 200 || claimsOf(t, a.header.Get("X-Sallyport-Assertion"))["rule"] != "all(role(user), via(bearer))" {
				t.Errorf("asked at %s: %d %s", address, a.status, a.body)
			}
			if a := ask(t, "GET", address, asked...); a.status != 401 {
				t.Errorf("asked at %s by nobody: %d", address, a.status)
			}

			text = snippetText(t, append([]string{"envoy"}, args...)...)
			doc = parsed(text)
			chain := inside[map[string]any](t, doc, "static_resources", "listeners", 0, "filter_chains", 0)
			if (chain["transport_socket"] != nil) != strings.HasPrefix(site, "https:") {
				t.Errorf("TLS at %s: %v", site, chain["transport_socket"])
			}
			manager := inside[map[string]any](t, chain, "filters", 0, "typed_config")
			for name, want := range map[string]any{"use_remote_address": true, "normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "REJECT_REQUEST"} {
				if manager[name] != want {
					t.Errorf("%s is %v", name, manager[name])
				}
			}
			filters := inside[[]any](t, manager, "http_filters")
			authz := inside[map[string]any](t, filters, 0, "typed_config")
			service := inside[map[string]any](t, authz, "http_service")
			if len(filters) != 2 || authz["failure_mode_allow"] != false || inside[string](t, manager, "common_http_protocol_options", "headers_with_underscores_action") != "DROP_HEADER" {
				t.Errorf("%v", manager)
			}
			var up, down []string
			for _, x := range inside[[]any](t, service, "authorization_response", "allowed_upstream_headers", "patterns") {
				up = append(up, http.CanonicalHeaderKey(fmt.Sprint(x.(map[string]any)["exact"])))
			}
			if !slices.Equal(up, forward.IdentityHeaders) {
				t.Errorf("the service is told %v", up)
			}
			for _, x := range inside[[]any](t, authz, "allowed_headers", "patterns") {
				down = append(down, fmt.Sprint(x))
			}
			if s := strings.ToLower(fmt.Sprint(down)); strings.Contains(s, "x-sallyport") || !strings.Contains(s, "cookie") || !strings.Contains(s, "origin") || !strings.Contains(s, "sec-fetch-") || !strings.Contains(s, "sec-websocket-") || !strings.Contains(s, "x-forwarded-proto") {
				t.Errorf("Sallyport is told %s", s)
			}
			clusters := map[string]string{}
			for i := range inside[[]any](t, doc, "static_resources", "clusters") {
				c := inside[map[string]any](t, doc, "static_resources", "clusters", i)
				to := inside[map[string]any](t, c, "load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address", "socket_address")
				clusters[fmt.Sprint(c["name"])] = fmt.Sprintf("http://%v:%v", to["address"], to["port_value"])
			}
			if clusters["app"] != "http://10.0.0.7:9000" || clusters["sallyport"] != r.base || inside[string](t, service, "server_uri", "cluster") != "sallyport" {
				t.Errorf("clusters %v", clusters)
			}
			added := inside[map[string]any](t, service, "authorization_request", "headers_to_add", 0)
			target := clusters["sallyport"] + fmt.Sprint(service["path_prefix"]) + "/x?require=public"
			name, value := fmt.Sprint(added["key"]), fmt.Sprint(added["value"])
			if a := ask(t, "POST", target, name, value, "Authorization", bearer); a.status != 200 || claimsOf(t, a.header.Get("X-Sallyport-Assertion"))["rule"] != "all(role(user), via(bearer))" {
				t.Errorf("asked at %s: %d %s", target, a.status, a.body)
			}
			if a := ask(t, "POST", target, name, value); a.status != 401 {
				t.Errorf("asked at %s by nobody: %d", target, a.status)
			}
			routes := inside[[]any](t, manager, "route_config", "virtual_hosts", 0, "routes")
			if want := map[bool]int{true: 3, false: 2}[site == base]; len(routes) != want {
				t.Errorf("%d routes, want %d", len(routes), want)
			}
			for i, x := range routes {
				open := strings.Contains(fmt.Sprint(x), "disabled:true")
				if open != (i < len(routes)-1) {
					t.Errorf("route %d: %v", i, x)
				}
			}
		}
	}
}

// inside goes into a document by names and numbers.
func inside[T any](t *testing.T, doc any, path ...any) (found T) {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := doc.(map[string]any)
			doc = m[p]
		case int:
			l, _ := doc.([]any)
			if p >= len(l) {
				t.Fatalf("%v: there is no %d", path, p)
			}
			doc = l[p]
		}
	}
	found, ok := doc.(T)
	if !ok {
		t.Fatalf("%v is %v", path, doc)
	}
	return found
}
