package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/server"

	"github.com/sallyport/sallyport/internal/testkit"
)

// v2 is a header of version 2 of the PROXY protocol.
func v2(command, family byte, addresses string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{0x20 | command, family, byte(len(addresses) >> 8), byte(len(addresses))}) + addresses
}

const (
	v4addresses = "\xc0\x00\x02\x01\xc0\x00\x02\x02\x1f\x90\x01\xbb"
	v6addresses = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x1f\x90\x01\xbb"
)

// serveProxied answers with the address that a request came from. All
// connections of a test come from 127.0.0.1.
func serveProxied(t *testing.T, trusted string, timeout time.Duration, cfg *tls.Config) (addr string, log *testkit.Buffer) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log = new(testkit.Buffer)
	srv := server.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from ", r.RemoteAddr) }), slog.New(slog.DiscardHandler))
	srv.TLSConfig = cfg
	d := drained(srv)
	behind := d.listen(behindProxies(ln, []netip.Prefix{netip.MustParsePrefix(trusted)}, timeout, slog.New(slog.NewTextHandler(log, nil))), cfg != nil)
	if cfg != nil {
		go srv.ServeTLS(behind, "", "")
	} else {
		go srv.Serve(behind)
	}
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String(), log
}

func TestPROXYProtocol(t *testing.T) {
	const declared, undeclared = "127.0.0.0/8", "192.0.2.0/24"
	files := newPair(t, "a.example")
	certs, err := https.NewCertificates(https.CertificatesConfig{Pairs: []https.Pair{{Cert: files.cert, Key: files.key}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, trusted, header string
		want                  string // beginning of the address; "" for a refusal
	}{
		{"version 1", declared, "PROXY TCP4 192.0.2.1 192.0.2.2 8080 443\r\n", "192.0.2.1:8080"},
		{"version 1, IPv6", declared, "PROXY TCP6 2001:db8::1 2001:db8::2 8080 443\r\n", "[2001:db8::1]:8080"},
		{"version 2", declared, v2(1, 0x11, v4addresses), "192.0.2.1:8080"},
		{"version 2, IPv6", declared, v2(1, 0x21, v6addresses), "[2001:db8::1]:8080"},
		{"version 2 with more", declared, v2(1, 0x11, v4addresses+"\x04\x00\x02xx"), "192.0.2.1:8080"},
		{"a check: UNKNOWN", declared, "PROXY UNKNOWN\r\n", "127.0.0.1:"},
		{"a check: UNKNOWN with an address", declared, "PROXY UNKNOWN 192.0.2.1 192.0.2.2 8080 443\r\n", "127.0.0.1:"},
		{"a check: LOCAL", declared, v2(0, 0, ""), "127.0.0.1:"},
		{"a check: LOCAL with an address", declared, v2(0, 0x11, v4addresses), "127.0.0.1:"},
		{"no header from elsewhere", undeclared, "", "127.0.0.1:"},

		{"spoofed", undeclared, "PROXY TCP4 192.0.2.1 192.0.2.2 8080 443\r\n", ""},
		{"spoofed, version 2", undeclared, v2(1, 0x11, v4addresses), ""},
		{"a check from elsewhere", undeclared, "PROXY UNKNOWN\r\n", ""},
		{"no header from a proxy", declared, "", ""},
		{"two headers", declared, strings.Repeat("PROXY TCP4 192.0.2.1 192.0.2.2 8080 443\r\n", 2), ""},
		{"another kind of address", declared, "PROXY TCP5 192.0.2.1 192.0.2.2 8080 443\r\n", ""},
		{"an address of the other kind", declared, "PROXY TCP4 2001:db8::1 2001:db8::2 8080 443\r\n", ""},
		{"no address", declared, "PROXY TCP4 x y 8080 443\r\n", ""},
		{"port out of range", declared, "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", ""},
		{"without an end", declared, "PROXY TCP4 " + strings.Repeat("1", 200), ""},
		{"UDP", declared, v2(1, 0x12, v4addresses), ""},
		{"a socket", declared, v2(1, 0x31, strings.Repeat("/", 216)), ""},
		{"another version", declared, strings.Replace(v2(1, 0x11, v4addresses), "\x21\x11", "\x31\x11", 1), ""},
		{"too short for its address", declared, v2(1, 0x11, v4addresses[:8]), ""},
	} {
		for _, over := range []string{"plain", "tls"} {
			t.Run(tt.name+"/"+over, func(t *testing.T) {
				t.Parallel()
				var cfg *tls.Config
				if over == "tls" {
					cfg = https.TLSConfig(certs.GetCertificate)
				}
				addr, _ := serveProxied(t, tt.trusted, 5*time.Second, cfg)
				tcp, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer tcp.Close()
				if err := tcp.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(tcp, tt.header); err != nil {
					t.Fatal(err)
				}
				var conn io.ReadWriter = tcp
				if over == "tls" {
					conn = tls.Client(tcp, &tls.Config{RootCAs: files.roots, ServerName: "a.example"})
				}
				_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
				var answer []byte
				if err == nil {
					answer, err = io.ReadAll(conn)
				}
				if os.IsTimeout(err) {
					t.Fatal("the connection is still open")
				}
				_, from, _ := strings.Cut(string(answer), "from ")
				if tt.want == "" && (from != "" || bytes.Contains(answer, []byte("200 OK"))) || tt.want != "" && !strings.HasPrefix(from, tt.want) {
					t.Errorf("answered %q (%v), want from %q", answer, err, tt.want)
				}
			})
		}
	}
}

// Who is not named cannot say who it is: the proxy's address is trusted with
// forwarded headers, but what it passes on is the client's.
func TestPROXYProtocolForwardedHeaders(t *testing.T) {
	nets := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("198.51.100.0/24")}
	for _, tt := range []struct{ name, headers, want string }{
		{"nobody named", "PROXY UNKNOWN\r\n", "127.0.0.1 false"},
		{"nobody named, version 2", v2(0, 0x11, v4addresses), "127.0.0.1 false"},
		{"a stranger", "PROXY TCP4 192.0.2.1 192.0.2.2 8080 443\r\n", "192.0.2.1 false"},
		{"another proxy", "PROXY TCP4 198.51.100.7 192.0.2.2 8080 443\r\n", "203.0.113.9 true"},
	} {
		for _, header := range []clientip.Header{clientip.XForwardedFor, clientip.Forwarded, clientip.XRealIP} {
			t.Run(tt.name+"/"+string(header), func(t *testing.T) {
				clients, err := clientip.New(clientip.Config{Trusted: nets, Header: header})
				if err != nil {
					t.Fatal(err)
				}
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				srv := server.HTTPServer(nothingForwarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c := clients.Resolve(r)
					fmt.Fprint(w, c.Addr, " ", c.HTTPS)
				})), slog.New(slog.DiscardHandler))
				behind := drained(srv).listen(behindProxies(ln, nets, 5*time.Second, slog.New(slog.DiscardHandler)), false)
				go srv.Serve(behind)
				t.Cleanup(func() { srv.Close() })
				conn, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, err = io.WriteString(conn, tt.headers+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n"+
					"X-Real-IP: 203.0.113.9\r\nForwarded: for=203.0.113.9;proto=https\r\n\r\n")
				if err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(conn)
				if _, got, _ := strings.Cut(string(answer), "\r\n\r\n"); err != nil || got != tt.want {
					t.Errorf("%q (%v), want %q", answer, err, tt.want)
				}
			})
		}
	}
}

// A header that does not come whole, or not at all, is not waited for.
func TestPROXYProtocolSlowHeader(t *testing.T) {
	const timeout = 100 * time.Millisecond
	for name, sent := range map[string]string{
		"nothing": "", "a letter": "P", "a part of version 1": "PROXY TCP4 192.0.2.1", "a part of version 2": v2(1, 0x11, v4addresses)[:20], "a part of the signature": "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := serveProxied(t, "127.0.0.0/8", timeout, nil)
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, sent); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(conn); os.IsTimeout(err) || bytes.Contains(answer, []byte("200 OK")) {
				t.Errorf("answered %q (%v)", answer, err)
			}
		})
	}
}

// The operator learns of a proxy that is not declared, and is not flooded.
func TestPROXYProtocolRefusalsAreLogged(t *testing.T) {
	addr, log := serveProxied(t, "192.0.2.0/24", 5*time.Second, nil)
	for range 3 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "PROXY TCP4 192.0.2.1 192.0.2.2 8080 443\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(conn)
		conn.Close()
	}
	if text := log.String(); strings.Count(text, "a connection was refused") != 1 || !strings.Contains(text, "peer=127.0.0.1:") || !strings.Contains(text, "does not list it") || strings.Contains(text, "192.0.2.1 ") {
		t.Errorf("logged:\n%s", text)
	}
}

// The whole server: PROXY first, then TLS, and the address is in the log.
func TestServeBehindAProxy(t *testing.T) {
	t.Parallel()
	p, files := newPlace(t), newPair(t, "127.0.0.1")
	port := fmt.Sprint(testkit.FreePort(t))
	flags := append([]string{"--listen", "127.0.0.1:" + port, "--set", "proxy.protocol=true", "--set", "proxy.trusted=10.0.0.0/8,127.0.0.0/8"}, files.flags()...)
	c := p.command(append([]string{"serve"}, flags...)...)
	log := new(testkit.Buffer)
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	// The check of the command line says that it speaks for itself.
	for deadline := time.Now().Add(20 * time.Second); p.command(append([]string{"healthcheck"}, flags...)...).Run() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not ready:\n%s", log)
		}
	}
	tcp, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	fmt.Fprint(tcp, "PROXY TCP4 192.0.2.77 192.0.2.2 8080 443\r\n")
	conn := tls.Client(tcp, &tls.Config{RootCAs: files.roots, ServerName: "127.0.0.1"})
	fmt.Fprint(conn, "GET /users/me HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("401 Unauthorized")) {
		t.Fatalf("%q, %v", answer, err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), `"address":"192.0.2.77"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the client's address is not in the log:\n%s", log)
		}
	}
	// Of nobody the proxy's word is not taken.
	if tcp, err = net.Dial("tcp", "127.0.0.1:"+port); err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	fmt.Fprint(tcp, "PROXY UNKNOWN\r\n")
	conn = tls.Client(tcp, &tls.Config{RootCAs: files.roots, ServerName: "127.0.0.1"})
	fmt.Fprint(conn, "GET /users/me HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX-Request-Id: nobody\r\nX-Forwarded-For: 192.0.2.88\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("401 Unauthorized")) {
		t.Fatalf("%q, %v", answer, err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), `"request_id":"nobody","address":"127.0.0.1"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the client's address is not the proxy's:\n%s", log)
		}
	}
	if strings.Contains(log.String(), "proxy.trusted is set, but") {
		t.Error("proxy.trusted is said to have no effect")
	}
}
