package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// The HTTP threats (letter H of the threat list), over raw connections to a
// listener as the command line makes it.

// listen serves the world as sallyport serve does and returns the address.
func (w *world) listen(change ...func(*http.Server)) string {
	w.t.Helper()
	srv := server.HTTPServer(w.http.Config.Handler, slog.New(slog.DiscardHandler))
	for _, f := range change {
		f(srv)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	w.t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return ln.Addr().String()
}

// wire sends bytes and returns all that comes back until the server closes or
// has been silent for the given time, and whether it closed.
func wire(t *testing.T, addr, text string, silence time.Duration) (answer string, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = io.WriteString(c, text) }() // the server may close before it has read all
	var b bytes.Buffer
	buf := make([]byte, 64<<10)
	for {
		_ = c.SetReadDeadline(time.Now().Add(silence))
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			ne, ok := err.(net.Error)
			return b.String(), !ok || !ne.Timeout()
		}
	}
}

const silent = 400 * time.Millisecond

// responses counts the status lines of an answer.
func responses(answer string) int {
	return strings.Count(answer, "HTTP/1.1 ") + strings.Count(answer, "HTTP/1.0 ")
}

// A message whose end two readers could see in two places is refused, and the
// connection is closed: nothing that was smuggled behind it is answered.
func TestH_Smuggling(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("root", "admin")
	addr := w.listen()
	const smuggled = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
	post := "POST /auth/login HTTP/1.1\r\nHost: sallyport.test\r\nContent-Type: application/json\r\n"
	for name, text := range map[string]string{
		"two lengths":                   post + "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + smuggled,
		"a list of lengths":             post + "Content-Length: 2, 40\r\n\r\n{}" + smuggled,
		"a negative length":             post + "Content-Length: -1\r\n\r\n" + smuggled,
		"a signed length":               post + "Content-Length: +2\r\n\r\n{}" + smuggled,
		"a hexadecimal length":          post + "Content-Length: 0x2\r\n\r\n{}" + smuggled,
		"an empty length":               post + "Content-Length: \r\n\r\n{}" + smuggled,
		"an endless length":             post + "Content-Length: 99999999999999999999\r\n\r\n{}" + smuggled,
		"space before the colon":        post + "Content-Length : 2\r\n\r\n{}" + smuggled,
		"space before the colon of TE":  post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"a tab before the colon":        post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked twice":                 post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked and identity":          post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled,
		"identity, chunked":             post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"xchunked":                      post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked in quotes":             post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked behind a vertical tab": post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE gzip":                       post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"a folded first header":         "GET /livez HTTP/1.1\r\n Host: x\r\n\r\n" + smuggled,
		"a name with a space":           "GET /livez HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n" + smuggled,
		"a name with NUL":               "GET /livez HTTP/1.1\r\nHost: x\r\nA\x00B: c\r\n\r\n" + smuggled,
		"a value with NUL":              "GET /livez HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n" + smuggled,
		"a bare CR":                     "GET /livez HTTP/1.1\r\nHost: x\r\nA: b\rContent-Length: 5\r\n\r\n" + smuggled,
		"no colon":                      "GET /livez HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n" + smuggled,
		"no name":                       "GET /livez HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n" + smuggled,
		"two hosts":                     "GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + smuggled,
		"no host":                       "GET /livez HTTP/1.1\r\n\r\n" + smuggled,
		"a host that is none":           "GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n" + smuggled,
		"a version that is none":        "GET /livez HTTP/9.9\r\nHost: x\r\n\r\n" + smuggled,
		"a version in lower case":       "GET /livez http/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"no version":                    "GET /livez\r\nHost: x\r\n\r\n" + smuggled,
		"a method that is none":         "G(T /livez HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a target without a slash":      "GET livez HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a target with a space":         "GET /livez /x HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a target with NUL":             "GET /livez\x00 HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a broken escape":               "GET /livez%zz HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"HTTP/2 in clear":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled,
		"TLS":                           "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + smuggled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, closed := wire(t, addr, text, silent)
			if n := responses(answer); n > 1 || n == 1 && !strings.HasPrefix(answer, "HTTP/1.1 400 ") && !strings.HasPrefix(answer, "HTTP/1.1 501 ") && !strings.HasPrefix(answer, "HTTP/1.1 505 ") {
				t.Errorf("want one 4xx or 5xx of the parser: %.400s", answer)
			}
			if !closed {
				t.Errorf("the connection stays open after %.60q", answer)
			}
		})
	}
	// Both lengths (RFC 9112, 6.3): the length is ignored, and the connection
	// closed. What follows the chunks is not answered, whether the request was
	// good or not.
	t.Run("length and chunked", func(t *testing.T) {
		t.Parallel()
		for _, headers := range []string{"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"} {
			answer, closed := wire(t, addr, post+headers+"\r\n0\r\n\r\n"+smuggled, silent)
			if responses(answer) != 1 || !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !closed {
				t.Errorf("%q: closed %v: %.600s", headers, closed, answer)
			}
			good := "PATCH /users/me HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + tk.access + "\r\n" + headers + "\r\n2\r\n{}\r\n0\r\n\r\n"
			answer, closed = wire(t, addr, good+smuggled, silent)
			if responses(answer) != 1 || !closed {
				t.Errorf("%q: closed %v: %.600s", headers, closed, answer)
			}
		}
	})
	// A folded header: net/http reads the fold as a space (RFC 9112, 5.2 allows
	// it). The length inside it is none, and hides nothing.
	t.Run("a folded length", func(t *testing.T) {
		t.Parallel()
		answer, closed := wire(t, addr, post+"X: y\r\n Content-Length: 2\r\n\r\n{}"+smuggled, silent)
		if strings.Contains(answer, `"ok"`) || !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !closed {
			t.Errorf("closed %v: %.900s", closed, answer)
		}
	})
	// Chunks that are none.
	for name, body := range map[string]string{
		"a size that is none": "zz\r\n{}\r\n0\r\n\r\n", "a signed size": "+2\r\n{}\r\n0\r\n\r\n", "a size that is too long": "fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
		"a size with 0x": "0x2\r\n{}\r\n0\r\n\r\n", "more than its size": "1\r\n{}\r\n0\r\n\r\n", "bare line feeds": "2\n{}\n0\n\n", "endless extension": "2;" + strings.Repeat("a", 100_000) + "\r\n{}\r\n0\r\n\r\n",
	} {
		t.Run("chunks: "+name, func(t *testing.T) {
			t.Parallel()
			answer, _ := wire(t, addr, post+"Transfer-Encoding: chunked\r\n\r\n"+body+smuggled, silent)
			if strings.Contains(answer, `"ok"`) || responses(answer) > 1 || responses(answer) == 1 && !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%.600s", answer)
			}
		})
	}
	// A message that is as it should be: the next one on the connection is
	// answered. Lines that end in LF alone are one reader's end of the headers;
	// nobody but net/http may have read them otherwise.
	t.Run("two good requests", func(t *testing.T) {
		t.Parallel()
		good := "GET /users/me HTTP/1.1\r\nHost: sallyport.test\r\nAuthorization: Bearer " + tk.access + "\r\n\r\n"
		if answer, closed := wire(t, addr, good+smuggled, silent); responses(answer) != 2 || closed || !strings.Contains(answer, `"ok"`) {
			t.Errorf("closed %v: %.900s", closed, answer)
		}
		// Behind chunks the connection is closed, see above.
		if answer, closed := wire(t, addr, "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"+smuggled, silent); responses(answer) != 1 || !closed || !strings.HasPrefix(answer, "HTTP/1.1 422 ") {
			t.Errorf("chunks as they should be: %.900s", answer)
		}
	})
	// Bare line feeds: net/http takes them for line ends (RFC 9112, 2.2 allows
	// it). What matters is that they open nothing and hide no length.
	t.Run("bare line feeds", func(t *testing.T) {
		t.Parallel()
		answer, _ := wire(t, addr, "POST /auth/login HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 2\nContent-Length: 40\n\n{}"+smuggled, silent)
		if responses(answer) != 1 || !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
			t.Errorf("%.400s", answer)
		}
		answer, _ = wire(t, addr, "GET /users/me HTTP/1.1\nHost: x\n\n", silent)
		if responses(answer) != 1 || strings.HasPrefix(answer, "HTTP/1.1 2") {
			t.Errorf("%.400s", answer)
		}
	})
	// An upload that nobody reads: the answer comes, and what is left of the
	// body is never taken for a request.
	t.Run("an unread body", func(t *testing.T) {
		t.Parallel()
		body := strings.Repeat(smuggled, 100)
		answer, _ := wire(t, addr, fmt.Sprintf("PATCH /users/me HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body), silent)
		if responses(answer) != 1 || !strings.HasPrefix(answer, "HTTP/1.1 401 ") {
			t.Errorf("%.600s", answer)
		}
		answer, closed := wire(t, addr, "PATCH /users/me HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"+strings.Repeat(smuggled, 20_000), silent)
		if strings.Count(answer, `"ok"`) != 0 || !strings.HasPrefix(answer, "HTTP/1.1 401 ") || !closed {
			t.Errorf("closed %v: %.600s", closed, answer)
		}
	})
}

// Heads that are too long or too slow are cut.
func TestH_HeadLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	srv := server.HTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	for name, c := range map[string]struct{ got, limit time.Duration }{
		"ReadHeaderTimeout": {srv.ReadHeaderTimeout, 10 * time.Second}, "ReadTimeout": {srv.ReadTimeout, time.Minute},
		"WriteTimeout": {srv.WriteTimeout, 2 * time.Minute}, "IdleTimeout": {srv.IdleTimeout, 5 * time.Minute},
	} {
		if c.got <= 0 || c.got > c.limit {
			t.Errorf("%s is %v, want at most %v", name, c.got, c.limit)
		}
	}
	if srv.MaxHeaderBytes <= 0 || srv.MaxHeaderBytes > 64<<10 {
		t.Errorf("MaxHeaderBytes is %d", srv.MaxHeaderBytes)
	}

	addr := w.listen()
	for name, text := range map[string]string{
		"one header":   "GET /livez HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"many headers": "GET /livez HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 2000) + "\r\n",
		"a token":      "GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat("a.", 64<<10) + "\r\n\r\n",
		"request line": "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a query":      "GET /users?q=" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"no line end":  strings.Repeat("a", 128<<10),
	} {
		answer, closed := wire(t, addr, text, silent)
		if !closed || !strings.HasPrefix(answer, "HTTP/1.1 431 ") && !strings.HasPrefix(answer, "HTTP/1.1 414 ") {
			t.Errorf("%s: closed %v: %.200s", name, closed, answer)
		}
	}
	if answer, _ := wire(t, addr, "GET /livez HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 16<<10)+"\r\n\r\n", silent); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		t.Errorf("a header of 16 KiB: %.200s", answer)
	}

	quick := w.listen(func(s *http.Server) { s.ReadHeaderTimeout, s.ReadTimeout = 200*time.Millisecond, 300*time.Millisecond })
	for name, text := range map[string]string{
		"a head that does not end": "GET /livez HTTP/1.1\r\nHost: x\r\n", "nothing": "", "half a line": "GET /li",
		"a body that does not come": "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
	} {
		began := time.Now()
		answer, closed := wire(t, quick, text, 3*time.Second)
		if took := time.Since(began); !closed || took > 2*time.Second {
			t.Errorf("%s: closed %v after %v: %.200s", name, closed, took, answer)
		}
		if strings.Contains(answer, "HTTP/1.1 5") || strings.Contains(answer, "HTTP/1.1 2") {
			t.Errorf("%s: %.200s", name, answer)
		}
	}
	// A byte at a time does not help.
	c, err := net.Dial("tcp", quick)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	for range 100 {
		if _, err = io.WriteString(c, "X"); err != nil {
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	if err == nil || time.Since(began) > 2*time.Second {
		t.Errorf("a dripping head was read for %v", time.Since(began))
	}
	if answer, _ := wire(t, quick, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 100*time.Millisecond); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		t.Errorf("a quick one: %.200s", answer)
	}
}

// Targets and methods that HTTP allows and nobody should use.
func TestH_OddTargets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("root", "admin")
	addr := w.listen()
	for line, want := range map[string][]string{
		"GET http://evil.example/users/me HTTP/1.1": {"400"}, "GET http://sallyport.test/users HTTP/1.1": {"401"}, "GET HTTP://x:80//users HTTP/1.1": {"307", "301", "401", "404"},
		"TRACE / HTTP/1.1": {"404", "405", "501"}, "TRACE /livez HTTP/1.1": {"405", "501"}, "TRACE /users/me HTTP/1.1": {"405", "501"},
		"CONNECT example.com:443 HTTP/1.1": {"400", "404", "405"}, "CONNECT /users/me HTTP/1.1": {"400", "404", "405"}, "CONNECT 127.0.0.1:22 HTTP/1.1": {"400", "404", "405"},
		"OPTIONS * HTTP/1.1": {"400", "404", "405"}, "GET * HTTP/1.1": {"400"}, "PRI * HTTP/1.1": {"400"},
	} {
		answer, _ := wire(t, addr, line+"\r\nHost: sallyport.test\r\nX-Planted: yes\r\nConnection: close\r\n\r\n", silent)
		if responses(answer) != 1 || len(answer) < 12 || !slices.Contains(want, answer[9:12]) {
			t.Errorf("%s: want %v: %.200s", line, want, answer)
		}
		if strings.Contains(answer, "X-Planted") || strings.Contains(answer, "evil.example") {
			t.Errorf("%s is reflected: %s", line, answer)
		}
	}
	// What counts is the host of the absolute form (RFC 9112, 3.2.2).
	good := "GET http://sallyport.test/users/me HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer " + tk.access + "\r\n\r\n"
	if answer, _ := wire(t, addr, good, 150*time.Millisecond); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		t.Errorf("the absolute form with credentials: %.300s", answer)
	}
	// Files of the docs page and no others.
	for _, file := range []string{
		"../openapi.json", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..%5cserver.go", "%2fetc%2fpasswd", "....//init.js", "index.html", ".", "..", "%2e", "%2e%2e",
		"init.js%00", "init.js%00.png", "init.js/", "init.js/..", "init.js;x", "INIT.JS", "init.js%20", "swagger-ui.css.gz", "swagger-ui-bundle.js.map", "%c0%ae%c0%ae%2finit.js", "docs%2finit.js", "..%2fdocs%2finit.js", "",
	} {
		answer, _ := wire(t, addr, "GET /docs/"+file+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", silent)
		if strings.HasPrefix(answer, "HTTP/1.1 2") || strings.HasPrefix(answer, "HTTP/1.1 5") || strings.Contains(answer, "root:") {
			t.Errorf("/docs/%s: %.300s", file, answer)
		}
	}
	for _, file := range []string{"init.js", "page.css", "swagger-ui-bundle.js"} {
		w.do("GET", "/docs/"+file, "", nil).want(t, 200, "")
	}
}

// One reply of every class, and what must be true of each.
func TestH_EveryClassOfResponse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		w.mux.HandleFunc("GET /panics", sallyport.Public(), func(http.ResponseWriter, *http.Request) { panic("secret-of-the-handler") })
		w.mux.HandleFunc("GET /admin-only", sallyport.Role("admin"), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
		w.mux.HandleFunc("GET /moved/", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	})
	_, root := w.user("root", "admin")
	_, plain := w.user("plain")
	scoped := w.signIn("root", goodPassword, "scope", "read:users").access
	html := w.request("GET", "/users", root.access, nil)
	html.Header.Set("Accept", "text/html")
	text := w.request("PATCH", "/users/me", root.access, `{}`)
	text.Header.Set("Content-Type", "text/plain")
	two := w.request("GET", "/users/me", root.access, nil)
	two.Header.Add("Authorization", "Bearer x")
	basic := w.request("GET", "/users/me", "", nil)
	basic.SetBasicAuth("root", goodPassword)
	get := func(path, token string) reply { return w.do("GET", path, token, nil) }
	id := w.do("GET", "/users/me", plain.access, nil).text(t, "id")
	classes := []struct {
		name   string
		status int
		r      reply
	}{
		{"200 own account", 200, get("/users/me", root.access)},
		{"200 list", 200, get("/users", root.access)},
		{"200 list for a browser", 200, w.send(html)},
		{"200 one account", 200, get("/users/"+id, root.access)},
		{"200 sessions", 200, get("/users/me/sessions", root.access)},
		{"200 roles", 200, get("/roles", root.access)},
		{"200 token", 200, w.form("/token", "grant_type", "password", "username", "plain", "password", goodPassword)},
		{"200 login", 200, w.do("POST", "/auth/login", "", map[string]string{"username": "plain", "password": goodPassword})},
		{"200 refresh", 200, w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": plain.refresh})},
		{"200 logout", 200, w.do("POST", "/logout", w.signIn("plain", goodPassword).access, nil)},
		{"200 health", 200, get("/livez", "")},
		{"200 ready", 200, get("/readyz?verbose", "")},
		{"200 keys", 200, get("/.well-known/jwks.json", "")},
		{"200 document", 200, get("/openapi.json", "")},
		{"200 docs page", 200, get("/docs", "")},
		{"200 docs file", 200, get("/docs/init.js", "")},
		{"201 registered", 201, w.do("POST", "/auth/register", "", map[string]string{"email": "x@example.com", "password": goodPassword})},
		{"201 created", 201, w.do("POST", "/users", root.access, map[string]string{"email": "y@example.com", "password": goodPassword})},
		{"204 signed out", 204, w.do("POST", "/auth/logout", w.signIn("plain", goodPassword).access, nil)},
		{"204 plain handler", 204, get("/admin-only", root.access)},
		{"30x clean path", 307, get("/users//me", root.access)},
		{"30x slash", 307, get("/moved", "")},
		{"400 JSON", 400, w.do("PATCH", "/users/me", root.access, `{`)},
		{"400 cursor", 400, get("/users?cursor=x", root.access)},
		{"400 two credentials", 400, w.send(two)},
		{"400 credential in the query", 400, get("/users/me?access_token=x", "")},
		{"400 target", 400, get("/users/%00", root.access)},
		{"401 no credential", 401, get("/users/me", "")},
		{"401 plain handler", 401, get("/admin-only", "")},
		{"401 bad credential", 401, get("/users/me", "x")},
		{"200 bad credential where none is looked at", 200, get("/livez", "x")},
		{"401 bad credential on a public route", 401, get("/openapi.json", "x")},
		{"401 another scheme", 401, w.send(basic)},
		{"401 login", 401, w.do("POST", "/auth/login", "", map[string]string{"username": "plain", "password": "wrong-password-1"})},
		{"401 refresh", 401, w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": "x"})},
		{"401 current password", 401, w.do("PUT", "/users/me/password", root.access, map[string]string{"current_password": "wrong-password-1", "new_password": goodPassword + "2"})},
		{"403 permission", 403, get("/users", plain.access)},
		{"403 scope", 403, get("/roles/x", scoped)},
		{"403 role scope", 403, get("/admin-only", scoped)},
		{"404 path", 404, get("/nothing", "")},
		{"404 account", 404, get("/users/x", root.access)},
		{"404 docs file", 404, get("/docs/x", "")},
		{"405", 405, w.do("DELETE", "/livez", "", nil)},
		{"409", 409, w.do("POST", "/auth/register", "", map[string]string{"email": "x@example.com", "password": goodPassword})},
		{"413", 413, w.do("POST", "/auth/register", "", strings.Repeat(" ", api.MaxAuthBody+1))},
		{"415", 415, w.send(text)},
		{"422 body", 422, w.do("PATCH", "/users/me", root.access, `{"x":1}`)},
		{"422 query", 422, get("/users?limit=0", root.access)},
		{"500", 500, get("/panics", "")},
	}
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	classes = append(classes, []struct {
		name   string
		status int
		r      reply
	}{
		{"503 gate", 503, get("/users/me", root.access)},
		{"503 operation", 503, w.do("POST", "/auth/register", "", map[string]string{"email": "z@example.com", "password": goodPassword})},
		{"503 not ready", 503, get("/readyz", "")},
	}...)
	for _, c := range classes {
		if c.name == "403 scope" {
			c.status = 405 // GET is not a method of that path
		}
		h := c.r.header
		bad := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s: "+format+"\n%v\n%.300s", append(append([]any{c.name}, args...), h, c.r.body)...)
		}
		if c.r.status != c.status {
			bad("status %d", c.r.status)
			continue
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || len(h["X-Content-Type-Options"]) != 1 {
			bad("X-Content-Type-Options %q", h["X-Content-Type-Options"])
		}
		if h.Get("Referrer-Policy") != "no-referrer" {
			bad("Referrer-Policy %q", h["Referrer-Policy"])
		}
		if csp := h["Content-Security-Policy"]; len(csp) != 1 || !strings.Contains(csp[0], "frame-ancestors 'none'") || !strings.Contains(csp[0], "default-src 'none'") || strings.Contains(csp[0], "script-src 'unsafe") {
			bad("Content-Security-Policy %q", csp)
		}
		if rid := h["X-Request-Id"]; len(rid) != 1 || len(rid[0]) == 0 || len(rid[0]) > 64 {
			bad("X-Request-Id %q", rid)
		}
		for _, name := range []string{"Server", "X-Powered-By", "Set-Cookie", "Access-Control-Allow-Origin"} {
			if v := h[name]; v != nil {
				bad("%s %q", name, v)
			}
		}
		if (c.status == 401) != (h.Get("Www-Authenticate") != "") && c.name != "403 role scope" {
			bad("WWW-Authenticate %q", h["Www-Authenticate"])
		}
		public := []string{"200 keys", "200 document", "200 docs page", "200 docs file", "204 plain handler", "30x clean path", "30x slash"}
		if cc := h.Get("Cache-Control"); !slices.Contains(public, c.name) && cc != "no-store" {
			bad("Cache-Control %q", cc)
		}
		if c.status == 503 && c.name != "503 not ready" && h.Get("Retry-After") == "" {
			bad("no Retry-After")
		}
		if c.status == 405 && h.Get("Allow") == "" {
			bad("no Allow")
		}
		if c.status < 400 || c.name == "503 not ready" {
			continue
		}
		if ct := h.Get("Content-Type"); ct != "application/problem+json" {
			bad("Content-Type %q", ct)
			continue
		}
		var p sallyport.Problem
		if err := json.Unmarshal(c.r.body, &p); err != nil {
			bad("%v", err)
			continue
		}
		if p.Status != c.status || p.Code == "" || p.Detail == "" || p.Type != "urn:sallyport:error:"+p.Code || p.Title != http.StatusText(c.status) || p.RequestID != h.Get("X-Request-Id") {
			bad("the problem does not hold together: %+v", p)
		}
		if (c.status == 422) != (len(p.Errors) > 0) {
			bad("errors %v", p.Errors)
		}
	}
}

// The token endpoint speaks RFC 6749.
func TestH_OAuthErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	w.register("ada")
	basic := w.request("POST", "/token", "", "grant_type=password&username=ada&password=x")
	basic.Header.Set("Content-Type", api.FormType)
	basic.SetBasicAuth("somebody", "else")
	jsonBody := w.do("POST", "/token", "", `{}`)
	for name, c := range map[string]struct {
		r      reply
		status int
		code   string
	}{
		"wrong password":        {w.form("/token", "grant_type", "password", "username", "ada", "password", "x"), 401, "invalid_grant"},
		"unknown client":        {w.send(basic), 401, "invalid_client"},
		"no grant":              {w.form("/token"), 400, "invalid_request"},
		"another grant":         {w.form("/token", "grant_type", "implicit"), 400, "unsupported_grant_type"},
		"a bad refresh":         {w.form("/token", "grant_type", "refresh_token", "refresh_token", "x"), 400, "invalid_grant"},
		"a bad scope":           {w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword, "scope", "é"), 400, "invalid_scope"},
		"JSON":                  {jsonBody, 415, "invalid_request"},
		"a secret in the query": {w.form("/token?password=x", "grant_type", "password"), 400, "invalid_request"},
	} {
		c.r.want(t, c.status, c.code)
		m := c.r.json(t)
		if m["error"] != c.code || m["error_description"] == "" || m["error_description"] == nil || m["code"] != nil {
			t.Errorf("%s: %v", name, m)
		}
		if c.r.header.Get("Cache-Control") != "no-store" || c.r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", name, c.r.header)
		}
		if (c.status == 401) != (c.r.header.Get("Www-Authenticate") != "") {
			t.Errorf("%s: WWW-Authenticate %q", name, c.r.header.Get("Www-Authenticate"))
		}
		if c.r.header.Get("X-Request-Id") == "" || c.r.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", name, c.r.header)
		}
	}
	w.signIn("ada", goodPassword)
}

// A caller's request id is kept when it is fit for a log, and replaced when not.
func TestH_RequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	addr := w.listen()
	send := func(line string) string {
		t.Helper()
		answer, _ := wire(t, addr, "GET /users/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+line+"\r\n", silent)
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
		if err != nil {
			t.Fatalf("%q: %v: %s", line, err, answer)
		}
		defer res.Body.Close()
		var p sallyport.Problem
		if err := json.NewDecoder(res.Body).Decode(&p); err != nil || p.RequestID != res.Header.Get("X-Request-Id") || len(res.Header["X-Request-Id"]) != 1 || res.Header.Get("Injected") != "" {
			t.Errorf("%q: %v, %+v, %v", line, err, p, res.Header)
		}
		return p.RequestID
	}
	for _, id := range []string{"a", "abc-DEF_0.9", strings.Repeat("x", 64), "..", "-"} {
		if got := send("X-Request-Id: " + id + "\r\n"); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	seen := map[string]bool{}
	for _, line := range []string{
		"", "X-Request-Id: \r\n", "X-Request-Id: " + strings.Repeat("x", 65) + "\r\n", "X-Request-Id: a b\r\n", "X-Request-Id: a%0d%0aInjected: 1\r\n", "X-Request-Id: a/b\r\n",
		"X-Request-Id: <script>\r\n", "X-Request-Id: é\r\n", "X-Request-Id: a\r\nX-Request-Id: b\r\n", "X-Request-Id: a\r\n Injected: 1\r\n", "X-Request-Id: \"a\"\r\n", "X-Request-Id: a,b\r\n", "X-Request-Id: \x1b[31m\r\n",
	} {
		if strings.Contains(line, "\x1b") {
			continue // not a header at all: refused by the parser
		}
		got := send(line)
		if len(got) != 26 || seen[got] {
			t.Errorf("%q became %q", line, got)
		}
		seen[got] = true
	}
}

// A handler that panics is answered for, and tells the caller nothing.
func TestH_Panic(t *testing.T) {
	t.Parallel()
	log := new(testkit.Buffer)
	w := newWorld(t, testkit.SQLite(t), func(w *world) {
		w.mux.HandleFunc("GET /panics", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"x"`)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			panic(fmt.Errorf("a detail that is nobody's business"))
		})
		w.mux.HandleFunc("GET /half", sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat("half ", 4000)))
			panic("in the middle")
		})
		w.mux.HandleFunc("GET /aborts", sallyport.Public(), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		api.Get(w.sv.API(), "/typed-panic", sallyport.Public(), func(context.Context, *api.None) (*api.None, error) { panic("typed detail") })
		api.Get(w.sv.API(), "/typed-error", sallyport.Public(), func(context.Context, *api.None) (*api.None, error) {
			return nil, fmt.Errorf("reading /etc/secret: detail")
		})
	}, func(c *server.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	for _, path := range []string{"/panics", "/typed-panic", "/typed-error"} {
		r := w.do("GET", path, "", nil).want(t, 500, "internal")
		if bytes.Contains(r.body, []byte("detail that")) || bytes.Contains(r.body, []byte("typed detail")) || bytes.Contains(r.body, []byte("secret")) || bytes.Contains(r.body, []byte("goroutine")) || bytes.Contains(r.body, []byte(".go:")) {
			t.Errorf("%s tells: %s", path, r.body)
		}
		if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Etag") != "" {
			t.Errorf("%s: %v", path, r.header)
		}
		if id := r.text(t, "request_id"); id == "" || !strings.Contains(log.String(), id) {
			t.Errorf("%s: the log does not know the request %s", path, id)
		}
	}
	for _, part := range []string{"nobody's business", "typed detail", "threats_http_test.go", "goroutine", "reading /etc/secret"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %q", part)
		}
	}
	addr := w.listen()
	for _, path := range []string{"/half", "/aborts"} {
		answer, closed := wire(t, addr, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n", silent)
		if !closed || responses(answer) > 1 || strings.Contains(answer, "0\r\n\r\n") || strings.Contains(answer, "in the middle") {
			t.Errorf("%s: closed %v, half an answer looks like a whole one: …%.200s", path, closed, answer[max(0, len(answer)-200):])
		}
	}
	w.do("GET", "/livez", "", nil).want(t, 200, "")
}

// The log has no secrets: no tokens, passwords, or queries.
func TestH_LogHoldsNoSecrets(t *testing.T) {
	t.Parallel()
	log := new(testkit.Buffer)
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) {
		c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	_, tk := w.user("root", "admin")
	w.do("GET", "/users?q=query-5f1e", tk.access, nil).want(t, 200, "")
	w.do("GET", "/users/me?access_token=query-5f1e", "", nil).want(t, 400, "credential_in_query")
	w.do("GET", "/users/me", "bad-token-5f1e", nil).want(t, 401, "invalid_token")
	w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": tk.refresh}).want(t, 200, "")
	w.do("POST", "/auth/login", "", map[string]string{"username": "root", "password": "typed-5f1e-wrong"}).want(t, 401, "invalid_credentials")
	for _, s := range []string{goodPassword, tk.access, tk.refresh, "query-5f1e", "bad-token-5f1e", "typed-5f1e", "eyJ", "rt_"} {
		if strings.Contains(log.String(), s) {
			t.Errorf("the log holds %.20s", s)
		}
	}
	for _, route := range []string{"GET /users", "GET /users/me", "POST /token/refresh", "POST /auth/login"} {
		if !strings.Contains(log.String(), `msg=request method=`+route[:strings.IndexByte(route, ' ')]+` route="`+route+`"`) {
			t.Errorf("the log does not even hold %s", route)
		}
	}
}

// Requests leave nothing behind. Not parallel: it counts goroutines.
func TestH_NoGoroutineGrowth(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("root", "admin")
	addr := w.listen()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	round := func(n int) {
		for i := range n {
			method, path, body := "GET", "/users", ""
			switch i % 5 {
			case 1:
				method, path, body = "PATCH", "/users/me", `{"x":1}`
			case 2:
				path = "/nothing"
			case 3:
				path = "/users?cursor=x"
			case 4:
				method, path, body = "POST", "/auth/register", "{"
			}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+tk.access)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode >= 500 {
				t.Fatalf("%s %s: %d", method, path, res.StatusCode)
			}
		}
		for range 20 {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, "GET /livez HT") // and gone
			c.Close()
		}
		client.CloseIdleConnections()
	}
	settled := func(limit, tries int) (n int) {
		for range tries {
			if n = runtime.NumGoroutine(); n <= limit {
				return n
			}
			time.Sleep(50 * time.Millisecond)
		}
		return n
	}
	round(20)
	time.Sleep(500 * time.Millisecond) // what the first connections left goes
	before := settled(0, 10)
	round(500)
	if after := settled(before+5, 60); after > before+5 {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after 500 requests\n%s", before, after, buf[:runtime.Stack(buf, true)])
	}
}

// What health routes are spared is theirs: another method at their path, another
// spelling of it, are for other handlers and pass the whole wall.
func TestH_HealthIsSparedAlone(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		reached := make(chan string, 100) // more than are sent
		w := newWorld(t, d, func(w *world) {
			w.mux.HandleFunc("/", sallyport.Public(), func(rw http.ResponseWriter, r *http.Request) {
				reached <- r.Method + " " + r.URL.Path
				rw.WriteHeader(http.StatusNoContent)
			})
		})
		ask := func(method, target, host string) reply {
			t.Helper()
			req := w.request(method, "/", "", nil)
			req.URL.Opaque, req.Host = target, host
			return w.send(req)
		}
		for _, path := range []string{"/livez", "/readyz", "/%6civez"} {
			for _, method := range []string{"GET", "HEAD"} {
				if got := ask(method, path, "10.1.2.3:8080"); got.status != http.StatusOK {
					t.Errorf("a probe's %s %s: %d", method, path, got.status)
				}
			}
			for _, method := range []string{"POST", "PUT", "OPTIONS", "DELETE", "LIVEZ"} {
				if got := ask(method, path, "evil.example"); got.status != http.StatusBadRequest {
					t.Errorf("%s %s for another host: %d", method, path, got.status)
				}
				if got := ask(method, path, "sallyport.test"); got.status != http.StatusNoContent {
					t.Errorf("%s %s: %d", method, path, got.status)
				}
				<-reached
			}
		}
		for _, target := range []string{"//livez", "/livez/", "/x/../livez", "/livez//", "/LIVEZ", "/livez%2f", "/livez;x", "/livez%00", "/readyz."} {
			if got := ask("GET", target, "evil.example"); got.status != http.StatusBadRequest {
				t.Errorf("%s for another host: %d", target, got.status)
			}
		}
		select {
		case got := <-reached:
			t.Errorf("%s passed", got)
		default:
		}
	})
}

// A limit without a name is its route's own, also where routes of several Muxes
// are written alike.
func TestQ_LimitsOfRoutesWrittenAlike(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, func(w *world) {
			for prefix, rate := range map[string]string{"/a": "1/hour", "/b": "1/hour", "/c": "2/hour"} {
				sub := sallyport.NewMux(w.sv)
				sub.HandleFunc("GET /items", sallyport.Public(), func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) }, sallyport.Limit{Rate: rate})
				w.mux.Mount(prefix, sub)
			}
		})
		for _, path := range []string{"/a/items", "/b/items", "/c/items", "/c/items"} {
			w.do("GET", path, "", nil).want(t, 204, "")
		}
		for _, path := range []string{"/a/items", "/b/items", "/c/items"} {
			w.do("GET", path, "", nil).want(t, 429, "rate_limited")
		}
	})
}
