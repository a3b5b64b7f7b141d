package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/internal/testkit"
)

// protected is a service behind a proxy. It knows nothing of Sallyport, and answers
// with what it was sent.
type protected struct {
	*httptest.Server
	mu    sync.Mutex
	paths []string // of all that reached it
	asked []string // protocols to change to
}

// echo is what it answers.
type echo struct {
	Method, URI, Host string
	Header            http.Header
}

func newProtected(t *testing.T) *protected {
	s := &protected{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.paths = append(s.paths, r.RequestURI)
		s.mu.Unlock()
		if r.Header.Get("Upgrade") != "" {
			s.mu.Lock()
			s.asked = append(s.asked, r.Header["Upgrade"]...)
			s.mu.Unlock()
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello %s", r.Header.Get("X-Sallyport-Subject"))
			_ = rw.Flush()
			return
		}
		_ = json.NewEncoder(w).Encode(echo{r.Method, r.RequestURI, r.Host, r.Header})
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *protected) reached() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.paths)
}

func (s *protected) upgrades() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// snippetText is what the command prints.
func snippetText(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.Command(binary, append([]string{"snippet"}, args...)...)
	c.Env = []string{"PATH=" + os.Getenv("PATH")}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("snippet %v: %v\n%s", args, err, &stderr)
	}
	return string(out)
}

// startNginx runs nginx with what is printed, as Debian's would include it.
func startNginx(t *testing.T, text string) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		testkit.Missing(t, "nginx is not here (Debian: apt-get install nginx-light)")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app.conf"), text)
	write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`daemon off; master_process off; worker_processes 1; error_log %[1]s/error.log; pid %[1]s/pid;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	include %[1]s/app.conf;
}
`, dir))
	background(t, exec.Command(path, "-e", filepath.Join(dir, "error.log"), "-p", dir, "-c", filepath.Join(dir, "nginx.conf")))
}

// startCaddy runs Caddy with what is printed. Around it stands only that its own
// administration, at one port of the machine, is off.
func startCaddy(t *testing.T, text string) {
	t.Helper()
	path, err := exec.LookPath("caddy")
	if err != nil {
		testkit.Missing(t, "Caddy is not here (Debian: apt-get install caddy)")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app.caddy"), text)
	write(t, filepath.Join(dir, "Caddyfile"), "{\n\tadmin off\n}\nimport app.caddy\n")
	c := exec.Command(path, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	c.Dir, c.Env = dir, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	background(t, c)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// background starts a process that ends with the test. What it said is told if the test
// failed.
func background(t *testing.T, c *exec.Cmd) {
	t.Helper()
	var out testkit.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait() // of a signal
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(c.Path), out.String())
		}
	})
}

// listening waits until somebody takes connections.
func listening(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens at %s: %v", addr, err)
		}
	}
}

// heard is a response that was read.
type heard struct {
	status int
	header http.Header
	body   []byte
}

// ask sends a request with headers, name and value in turn, which may be repeated.
func ask(t *testing.T, method, target string, headers ...string) heard {
	t.Helper()
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header[headers[i]] = append(req.Header[headers[i]], headers[i+1]) // as it is written
	}
	client := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return heard{res.StatusCode, res.Header, b}
}

// raw sends bytes and returns all that comes back until the other side ends.
func raw(t *testing.T, addr, text string) string {
	t.Helper()
	return rawUntil(t, 20*time.Second, "", addr, text)
}

// rawUntil returns what comes back until it holds a word, or for so long.
func rawUntil(t *testing.T, limit time.Duration, word, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err != nil || word != "" && bytes.Contains(got, []byte(word)) {
			return string(got) // it may have been cut off
		}
	}
}

// seen returns what a service takes for identity headers, as the sloppiest framework
// does: names without regard to case, underscores as hyphens.
func seen(h http.Header) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if strings.HasPrefix(name, "x-sallyport-") {
			out[name] = append(out[name], values...)
		}
	}
	return out
}

// TestSnippetProxies runs what “sallyport snippet” prints for nginx and Caddy in the
// real proxy, before a service that believes its headers, and attacks that.
func TestSnippetProxies(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, string){"nginx": startNginx, "caddy": startCaddy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := newProtected(t)
			addr := freeAddress(t)
			site := "http://" + addr
			p := newPlace(t)
			sallyport := p.serveAt(t, site)
			text := snippetText(t, name, "--base-url", site, "--url", sallyport.base, "--upstream", service.URL, "--require", "any(role(user), role(admin))")
			start(t, text)
			listening(t, addr)

			p.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
			ada := sallyport.signIn(t, "ada")
			bearer := []string{"Authorization", "Bearer " + ada.access}
			subject := fmt.Sprint(p.cli(t, "user", "get", "ada")["id"])
			cookie := []string{"Cookie", "sallyport=" + cookieThrough(t, site)}

			// Refused without, let in with a credential, and named to the service.
			if a := ask(t, "GET", site+"/items"); a.status != 401 || !strings.Contains(a.header.Get("Www-Authenticate"), "Bearer") {
				t.Errorf("without a credential: %d %v", a.status, a.header)
			}
			if a := ask(t, "GET", site+"/items", "Authorization", "Bearer x"); a.status != 401 || !strings.Contains(a.header.Get("Www-Authenticate"), "invalid_token") {
				t.Errorf("with a bad one: %d %v", a.status, a.header)
			}
			if got := service.reached(); len(got) > 0 {
				t.Fatalf("reached the service: %q", got)
			}
			passes := func(what, method, target string, headers ...string) (e echo) {
				t.Helper()
				a := ask(t, method, target, headers...)
				if err := json.Unmarshal(a.body, &e); a.status != 200 || err != nil {
					t.Fatalf("%s: %d %v\n%s", what, a.status, a.header, a.body)
				}
				return e
			}
			named := func(what string, e echo) {
				t.Helper()
				got := seen(e.Header)
				for name, want := range map[string]string{"subject": subject, "username": "ada", "roles": "guest user", "email": "ada@example.com", "permissions": "", "omitted": ""} {
					if values := got["x-sallyport-"+name]; len(values) > 1 || strings.Join(values, "") != want {
						t.Errorf("%s: the service is told %s %q, want %q", what, name, values, want)
					}
				}
				for name, values := range got {
					if !slices.ContainsFunc(forward.IdentityHeaders, func(h string) bool { return strings.EqualFold(h, name) }) || len(values) != 1 || strings.Contains(values[0], "forged") {
						t.Errorf("%s: the service is told %s %q", what, name, values)
					}
				}
			}
			e := passes("with a token", "POST", site+"/items?page=2", bearer...)
			named("with a token", e)
			if e.Method != "POST" || e.URI != "/items?page=2" || e.Host != addr {
				t.Errorf("the service is sent %s %s of %s", e.Method, e.URI, e.Host)
			}
			uri := sha256.Sum256([]byte("/items?page=2")) // as the service gets it
			if claims := claimsOf(t, e.Header.Get("X-Sallyport-Assertion")); claims["aud"] != addr || claims["sub"] != subject || claims["method"] != "POST" || claims["uri_sha256"] != base64.RawURLEncoding.EncodeToString(uri[:]) || claims["rule"] != "any(role(user), role(admin))" {
				t.Errorf("the assertion says %v", claims)
			}
			named("with a cookie", passes("with a cookie", "GET", site+"/items", cookie...))

			// What a client says of itself is replaced, however it is written.
			forged := slices.Clone(bearer)
			for _, h := range forward.IdentityHeaders {
				for _, name := range []string{h, strings.ToLower(h), strings.ReplaceAll(h, "-", "_"), strings.Replace(h, "X-", "x_", 1), strings.Replace(h, "t-", "t_", 1), strings.ToUpper(h)} {
					forged = append(forged, name, "forged", name, "forged-again")
				}
			}
			forged = append(forged, "X-Sallyport-Admin", "forged")
			got := passes("with forged headers", "GET", site+"/items", forged...)
			delete(got.Header, "X-Sallyport-Admin") // nginx hands on what it does not know; no such header exists
			named("with forged headers", got)
			if a := ask(t, "GET", site+"/items", forged[2:]...); a.status != 401 {
				t.Errorf("forged headers without a credential: %d", a.status)
			}
			// Nor is the question the client's to write.
			for _, h := range []string{"X-Original-URI", "X-Original-Method", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Host", "X-Sallyport-Require"} {
				e := passes(h, "DELETE", site+"/items", append(slices.Clone(bearer), h, "GET")...)
				if claims := claimsOf(t, e.Header.Get("X-Sallyport-Assertion")); claims["method"] != "DELETE" || claims["aud"] != addr {
					t.Errorf("with %s of its own, a client is asked about as %v", h, claims)
				}
			}
			for _, target := range []string{"/items?require=public", "/?require=public&require=public", "/forward-auth/" + name + "?require=public", "//forward-auth/" + name + "?require=public", "/x/../forward-auth/" + name + "?require=public"} {
				if out := raw(t, addr, "GET "+target+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n"); strings.HasPrefix(out, "HTTP/1.1 200") || strings.Contains(out, "X-Sallyport-Assertion") {
					t.Errorf("%s: %s", target, out)
				}
			}
			if a := ask(t, "GET", site+"/forward-auth/"+name, bearer...); a.status != 404 {
				t.Errorf("asked from outside: %d", a.status)
			}

			// A page of another origin with the browser's cookie; and the page itself.
			post := func(headers ...string) int {
				return ask(t, "POST", site+"/items", append(slices.Clone(cookie), headers...)...).status
			}
			for _, attack := range [][]string{
				{"Sec-Fetch-Site", "cross-site"},
				{"Sec-Fetch-Site", "same-site", "Origin", "http://other.example"},
				{"Origin", "http://evil.example"},
				{"Origin", "null"},
				{"Origin", "http://evil.example", "X-Original-Method", "GET", "X-Forwarded-Method", "GET"},
				{"Origin", "http://evil.example", "X-Http-Method-Override", "GET"},
				{"Origin", "http://evil.example", "X-Forwarded-Host", "evil.example"},
			} {
				if got := post(attack...); got != 403 {
					t.Errorf("a form from elsewhere %q: %d", attack, got)
				}
			}
			for _, own := range [][]string{{"Sec-Fetch-Site", "same-origin", "Origin", site}, {"Origin", site}, nil} {
				if got := post(own...); got != 200 {
					t.Errorf("a form of its own %q: %d", own, got)
				}
			}
			a := ask(t, "POST", site+"/items", append(slices.Clone(cookie), "Origin", "http://evil.example")...)
			if a.header.Get("X-Sallyport-Code") != "cross_origin" || a.header.Get("X-Sallyport-Decision") == "" {
				t.Errorf("the refusal has no name: %v", a.header)
			}

			// A WebSocket opens for its own pages, with the caller named, and for no others.
			socket := func(credential, origin string) string {
				return rawUntil(t, 20*time.Second, "hello "+subject, addr, "GET /live HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n"+credential+"Origin: "+origin+"\r\n\r\n")
			}
			for _, tt := range []struct{ what, credential, origin, want string }{
				{"its own page", "Cookie: " + cookie[1] + "\r\n", site, "101"},
				{"a token", "Authorization: " + bearer[1] + "\r\n", "http://evil.example", "101"},
				{"another's page", "Cookie: " + cookie[1] + "\r\n", "http://evil.example", "403"},
				{"nobody", "", site, "401"},
			} {
				out := socket(tt.credential, tt.origin)
				if !strings.HasPrefix(out, "HTTP/1.1 "+tt.want) || tt.want == "101" && !strings.Contains(out, "hello "+subject) {
					t.Errorf("a WebSocket of %s: %.200s", tt.what, out)
				}
			}

			// Nothing but a WebSocket opens: over another protocol (h2c) a client would send
			// the service requests that nobody asks about.
			for _, upgrade := range []string{"h2c", "h2c\r\nUpgrade: websocket", "websocket\r\nUpgrade: h2c", "h2c, websocket", "websocket, h2c"} {
				out := rawUntil(t, 20*time.Second, "hello ", addr, "GET /live HTTP/1.1\r\nHost: "+addr+"\r\nAuthorization: "+bearer[1]+"\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
				if got := service.upgrades(); strings.HasPrefix(out, "HTTP/1.1 101") && got[len(got)-1] != "websocket" || slices.ContainsFunc(got, func(s string) bool { return s != "websocket" }) {
					t.Errorf("Upgrade: %s: the service is asked for %q: %.100s", upgrade, got, out)
				}
			}
			// Nor does a client take away what the service is told, by calling it a matter of
			// the connection (RFC 9110, 7.6.1).
			for _, list := range []string{"close, X-Sallyport-Subject, X-Sallyport-Username, X-Sallyport-Roles", "Upgrade, X-Sallyport-Roles", "X-Sallyport-Email\r\nConnection: close"} {
				out := rawUntil(t, 20*time.Second, "}}", addr, "GET /items HTTP/1.1\r\nHost: "+addr+"\r\nAuthorization: "+bearer[1]+"\r\nConnection: "+list+"\r\n\r\n")
				var e echo
				if _, body, _ := strings.Cut(out, "{"); json.Unmarshal([]byte("{"+body[:strings.LastIndexByte(body, '}')+1]), &e) != nil {
					t.Errorf("Connection: %s: %s", list, out)
					continue
				}
				named("with Connection: "+list, e)
			}
			// A path that one side reads as Sallyport's page and the other as a question.
			for _, target := range []string{"/forward-auth/envoy/..%2f..%2faccount/sign-in", "/forward-auth/envoy/%2e%2e%2f%2e%2e%2faccount/sign-in", "/forward-auth/envoy/x/..%2F..%2F..%2Ftoken", "/account/..%2fforward-auth/envoy/x"} {
				out := raw(t, addr, "GET "+target+" HTTP/1.1\r\nHost: "+addr+"\r\nAuthorization: "+bearer[1]+"\r\nX-Sallyport-Require: signed-in\r\nConnection: close\r\n\r\n")
				if head, _, _ := strings.Cut(out, "\r\n\r\n"); strings.Contains(head, "X-Sallyport-Assertion") {
					t.Errorf("%s: a client asks: %s", target, head)
				}
			}
			// The host that is asked about is the service's, whatever a client calls it.
			_, port, _ := net.SplitHostPort(addr)
			for _, message := range []string{"GET /items HTTP/1.1\r\nHost: 127.0.0.1:1", "GET http://" + addr + "/items HTTP/1.1\r\nHost: other.example", "GET /items HTTP/1.1\r\nHost: other.example:" + port} {
				out := raw(t, addr, message+"\r\nAuthorization: "+bearer[1]+"\r\nConnection: close\r\n\r\n")
				var e echo
				if _, body, ok := strings.Cut(out, "{"); ok && json.Unmarshal([]byte("{"+body[:strings.LastIndexByte(body, '}')+1]), &e) == nil && e.Method != "" {
					if claims := claimsOf(t, e.Header.Get("X-Sallyport-Assertion")); claims["aud"] != addr || e.Host != addr {
						t.Errorf("%q: asked about %v, and the service is sent %s", message, claims["aud"], e.Host)
					}
				}
			}

			// Tricks with paths and messages reach the service with nobody's credential
			// never, and never as two requests.
			before := len(service.reached())
			for _, line := range []string{
				"GET //items", "GET /a/../items", "GET /a/%2e%2e/items", "GET /%2e%2e%2fitems", "GET /items%00", "GET /items%0d%0aX: y", `GET /\items`, "GET http://" + addr + "/items", "GET http://evil.example/items", "OPTIONS *", "GET /items;x=/../y", "TRACE /items", "get /items",
			} {
				out := raw(t, addr, line+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n")
				head, body, _ := strings.Cut(out, "\r\n\r\n")
				if strings.HasPrefix(head, "HTTP/1.1 2") && body != "" { // to a host that it does not serve, Caddy says nothing with 200
					t.Errorf("%s: %.200s", line, out)
				}
			}
			const hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\nX-Sallyport-Subject: forged\r\n\r\n"
			for _, message := range []string{
				"POST /items HTTP/1.1\r\nHost: " + addr + "\r\nContent-Length: " + fmt.Sprint(len(hidden)+5) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
				"POST /items HTTP/1.1\r\nHost: " + addr + "\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
				"POST /items HTTP/1.1\r\nHost: " + addr + "\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden,
				"POST /items HTTP/1.1\r\nHost: " + addr + "\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n" + hidden,
			} {
				// Some wait for more; what was to be hidden would be answered by then.
				rawUntil(t, time.Second, "", addr, message+"GET /last HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n")
			}
			if got := service.reached()[before:]; len(got) > 0 {
				t.Errorf("reached the service with no credential: %q", got)
			}
			// With a body, once for each request, and the body whole.
			if out := raw(t, addr, "POST /body HTTP/1.1\r\nHost: "+addr+"\r\nAuthorization: "+bearer[1]+"\r\nContent-Length: "+fmt.Sprint(len(hidden))+"\r\nConnection: close\r\n\r\n"+hidden); !strings.HasPrefix(out, "HTTP/1.1 200") {
				t.Errorf("with a body: %.200s", out)
			}
			if got := service.reached()[before:]; len(got) != 1 || got[0] != "/body" {
				t.Errorf("reached the service: %q", got)
			}

			// A browser goes to sign in and comes back; a script is told 401.
			a = ask(t, "GET", site+"/app?a=1&b=2", "Sec-Fetch-Mode", "navigate")
			if want := site + "/account/sign-in?next=%2Fapp%3Fa%3D1%26b%3D2"; a.status != 302 || a.header.Get("Location") != want {
				t.Errorf("a browser: %d to %s", a.status, a.header.Get("Location"))
			} else if page := ask(t, "GET", want); page.status != 200 || !bytes.Contains(page.body, []byte(`value="/app?a=1&amp;b=2"`)) {
				t.Errorf("the page: %d\n%s", page.status, page.body)
			}
			if a := ask(t, "GET", site+"/app", "Sec-Fetch-Mode", "cors", "Accept", "text/html"); a.status != 401 {
				t.Errorf("a script: %d", a.status)
			}

			// What is held but not in the scope; and a logout holds at the next request.
			_, doc := sallyport.call(t, "POST", "/token", "", url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {testPassword}, "scope": {"role:guest"}})
			if a := ask(t, "GET", site+"/items", "Authorization", "Bearer "+tokensOf(doc).access); a.status != 403 {
				t.Errorf("out of scope: %d", a.status)
			}
			for what, credential := range map[string][]string{"a token": bearer, "a cookie": cookie} {
				if ask(t, "GET", site+"/items", credential...).status != 200 {
					t.Errorf("%s before the logout is refused", what)
				}
				ask(t, "POST", sallyport.base+"/logout", credential...)
				if a := ask(t, "GET", site+"/items", credential...); a.status != 401 {
					t.Errorf("%s after the logout: %d", what, a.status)
				}
			}

			// Without Sallyport nothing passes.
			bearer[1] = "Bearer " + sallyport.signIn(t, "ada").access
			if ask(t, "GET", site+"/items", bearer...).status != 200 {
				t.Error("the last control")
			}
			sallyport.kill()
			<-sallyport.ended
			before = len(service.reached())
			if a := ask(t, "GET", site+"/items", bearer...); a.status < 500 || len(service.reached()) != before {
				t.Errorf("without Sallyport: %d", a.status)
			}
		})
	}
}

// What a client says of where it is reaches neither Sallyport nor the service, by
// whichever header Sallyport is told: a guesser would be somebody else each time.
func TestSnippetProxiesSayWhereClientsAre(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, string){"nginx": startNginx, "caddy": startCaddy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			heard := map[string]http.Header{}
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				heard[r.URL.Path] = r.Header
				for _, name := range forward.IdentityHeaders {
					w.Header().Set(name, "")
				}
			})
			sallyport, service := httptest.NewServer(h), httptest.NewServer(h)
			defer sallyport.Close()
			defer service.Close()
			addr := freeAddress(t)
			start(t, snippetText(t, name, "--base-url", "http://"+addr, "--url", sallyport.URL, "--upstream", service.URL))
			listening(t, addr)
			for _, path := range []string{"/items", "/account/"} {
				if a := ask(t, "GET", "http://"+addr+path, "X-Forwarded-For", "203.0.113.5", "X-Real-Ip", "203.0.113.5", "Forwarded", "for=203.0.113.5;proto=https", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example"); a.status != 200 {
					t.Fatalf("%s: %d", path, a.status)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, path := range []string{"/forward-auth/" + name, "/items", "/account/"} {
				h := heard[path]
				list := strings.Split(h.Get("X-Forwarded-For"), ", ")
				if h == nil || list[len(list)-1] != "127.0.0.1" || h.Get("X-Forwarded-Proto") != "http" || strings.Contains(fmt.Sprint(h["X-Real-Ip"], h["Forwarded"], h["X-Forwarded-Host"], h["X-Forwarded-Proto"]), "203.0.113.5") ||
					strings.Contains(h.Get("X-Forwarded-Host"), "evil") {
					t.Errorf("%s is told %v", path, h)
				}
			}
		})
	}
}

// serveAt is a server that clients reach at a site, through a proxy on this machine.
func (p place) serveAt(t *testing.T, site string) *running {
	t.Helper()
	addr := freeAddress(t)
	return p.serveCommandAt(t, "http://"+addr, p.command("serve", "--listen", addr, "--base-url", site, "--dev", "--set", "proxy.trusted=127.0.0.1"))
}

// cookieThrough signs ada in through a proxy, as a page does, and returns the cookie.
func cookieThrough(t *testing.T, site string) string {
	t.Helper()
	res, err := http.Post(site+"/auth/login?mode=cookie", "application/json", strings.NewReader(`{"username":"ada","password":"`+testPassword+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, c := range res.Cookies() {
		return c.Value
	}
	t.Fatalf("no cookie: %d", res.StatusCode)
	return ""
}

// claimsOf reads a token without verifying it: what it says is verified in package
// server.
func claimsOf(t *testing.T, compact string) (claims map[string]any) {
	t.Helper()
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %q", compact)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// What is printed for HTTPS, at either end, is read by the proxies' own parsers.
func TestSnippetProxiesOverTLS(t *testing.T) {
	t.Parallel()
	args := []string{"--base-url", "https://localhost", "--url", "https://127.0.0.1:8443", "--upstream", "https://127.0.0.1:9443"}
	t.Run("nginx", func(t *testing.T) {
		path, err := exec.LookPath("nginx")
		if err != nil {
			testkit.Missing(t, "nginx is not here (Debian: apt-get install nginx-light)")
		}
		files := newPair(t, "localhost")
		dir := t.TempDir()
		text := snippetText(t, append([]string{"nginx"}, args...)...)
		for from, to := range map[string]string{"/etc/ssl/certs/localhost.pem": files.cert, "/etc/ssl/private/localhost.key": files.key, "/etc/ssl/certs/ca-certificates.crt": files.cert} {
			if !strings.Contains(text, from) {
				t.Errorf("%s is not named", from)
			}
			text = strings.ReplaceAll(text, from, to)
		}
		write(t, filepath.Join(dir, "app.conf"), text)
		test := func(extra string) (string, error) {
			write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf("pid %[1]s/pid; error_log %[1]s/error.log; events {}\nhttp { access_log off; include %[1]s/app.conf; %[2]s client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s; }\n", dir, extra))
			out, err := exec.Command(path, "-t", "-e", filepath.Join(dir, "error.log"), "-p", dir, "-c", filepath.Join(dir, "nginx.conf")).CombinedOutput()
			return string(out), err
		}
		if out, err := test(""); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := test("nonsense on;"); err == nil {
			t.Errorf("the parser takes anything: %s", out)
		}
	})
	t.Run("caddy", func(t *testing.T) {
		path, err := exec.LookPath("caddy")
		if err != nil {
			testkit.Missing(t, "Caddy is not here (Debian: apt-get install caddy)")
		}
		file := filepath.Join(t.TempDir(), "Caddyfile")
		adapt := func(text string) (string, error) {
			write(t, file, text)
			c := exec.Command(path, "adapt", "--config", file, "--adapter", "caddyfile")
			c.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
			out, err := c.CombinedOutput()
			return string(out), err
		}
		text := snippetText(t, append([]string{"caddy"}, args...)...)
		out, err := adapt(text)
		if err != nil || !strings.Contains(out, "http.reverse_proxy.upstream.hostport") || !strings.Contains(out, `"dial":"127.0.0.1:8443"`) || !strings.Contains(out, `"tls":{}`) {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := adapt(strings.Replace(text, "forward_auth", "forward_authentication", 1)); err == nil {
			t.Errorf("the parser takes anything: %s", out)
		}
	})
}
