package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

// script runs an expression, waits for its promise, and returns its text.
func (b *tab) script(expression string) (out string) {
	b.t.Helper()
	b.do(expression, chromedp.Evaluate("(async () => { "+expression+" })().then(String, (e) => 'failed: ' + e)", &out,
		func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return out
}

func (b *tab) visit(address string) {
	b.t.Helper()
	b.do("visit "+address, chromedp.Navigate(address), chromedp.WaitReady("body", chromedp.ByQuery))
}

// jar returns the browser's cookies for an address.
func (b *tab) jar(address string) (out []*network.Cookie) {
	b.t.Helper()
	b.do("look at the cookies", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		out, err = network.GetCookies().WithURLs([]string{address}).Do(ctx)
		return err
	}))
	return out
}

// post has the page submit a form, as any page can, and returns what the browser
// shows then.
func (b *tab) post(address string, fields ...string) (shown string) {
	b.t.Helper()
	var inputs strings.Builder
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(&inputs, `<input name="%s" value="%s">`, fields[i], fields[i+1])
	}
	b.do("submit a form", chromedp.Evaluate(fmt.Sprintf(`document.body.innerHTML = %q; document.forms[0].submit()`,
		`<form method="post" action="`+address+`">`+inputs.String()+`</form>`), nil))
	return b.shown(address)
}

// shown waits until the browser has gone to an address, and returns what it shows.
func (b *tab) shown(address string) (text string) {
	b.t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// While the page changes there is nothing to ask.
		err = chromedp.Run(b.ctx, chromedp.Evaluate(fmt.Sprintf(`location.href === %q && document.readyState === "complete" ? document.body.innerText : ""`, address), &text))
		if err == nil && text != "" {
			return text
		}
	}
	b.fail("%s is not shown: %v", address, err)
	return ""
}

// pageOfDocs returns the one block of JavaScript of docs/cookies.md.
func pageOfDocs(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/cookies.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```js\n")
	code, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 || strings.Contains(rest, "```js") {
		t.Fatal("docs/cookies.md has not one block of js")
	}
	return code
}

// In a real browser: a page of the server signs in and acts with the cookie; it
// cannot read it; pages of other origins can do nothing with it.
func TestC_CookieInABrowser(t *testing.T) {
	for _, dev := range []bool{true, false} {
		t.Run(fmt.Sprintf("dev %v", dev), func(t *testing.T) {
			var done atomic.Int32
			html := func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.Header().Set("Content-Security-Policy", "connect-src *")
				fmt.Fprint(w, "<!doctype html><html lang=en><title>page</title><body>page")
			}
			w := newWorld(t, testkit.SQLite(t), func(w *world) {
				w.mux.HandleFunc("GET /page", sallyport.Public(), html)
				w.mux.HandleFunc("POST /any", sallyport.SignedIn(), func(w http.ResponseWriter, _ *http.Request) {
					done.Add(1)
					fmt.Fprint(w, "done")
				})
			}, func(c *server.Config) { c.BaseURL, c.InsecureLoopbackCookie = "http://127.0.0.1", dev })
			w.register("ada")
			w.register("eve")
			own := w.http.URL
			elsewhere := httptest.NewServer(http.HandlerFunc(html))
			t.Cleanup(elsewhere.Close)
			port := strings.TrimPrefix(elsewhere.URL, "http://127.0.0.1")
			b := newTab(t, own)
			me := func() string { return b.script(`return (await (await fetch("/users/me")).json()).username`) }

			// The page of the documentation signs in.
			b.visit(own + "/page")
			if got := b.script(fmt.Sprintf("const username = %q, password = %q;\n%s\nreturn me.username", "ada", goodPassword, pageOfDocs(t))); got != "ada" {
				t.Fatalf("signed in as %q", got)
			}
			if got := b.script(`return "[" + document.cookie + "]"`); got != "[]" {
				t.Errorf("a script reads the cookie: %s", got)
			}
			name := "__Host-sallyport"
			if dev {
				name = "sallyport"
			}
			jar := b.jar(own)
			if len(jar) != 1 || jar[0].Name != name || !jar[0].HTTPOnly || jar[0].Secure == dev || jar[0].SameSite != network.CookieSameSiteLax || jar[0].Path != "/" || jar[0].Domain != "127.0.0.1" || jar[0].Session {
				t.Fatalf("the browser keeps %+v", jar)
			}
			if got := b.script(`return (await fetch("/any", {method: "POST"})).text()`); got != "done" || done.Load() != 1 {
				t.Fatalf("the own page cannot act: %s", got)
			}
			if got := b.post(own + "/any"); got != "done" || done.Load() != 2 {
				t.Errorf("a form of the own page cannot act: %s", got)
			}

			// Another port: the same site, so the browser sends the cookie.
			b.visit("http://127.0.0.1" + port)
			if got := b.post(own + "/any"); !strings.Contains(got, "cross_origin") {
				t.Errorf("a form of another port: %s", got)
			}
			// Another site: it does not.
			b.visit("http://localhost" + port)
			if got := b.post(own + "/any"); !strings.Contains(got, "unauthenticated") {
				t.Errorf("a form of another site: %s", got)
			}
			for _, host := range []string{"127.0.0.1", "localhost"} {
				b.visit("http://" + host + port)
				if got := b.script(`return "[" + document.cookie + "]"`); got != "[]" {
					t.Errorf("a script on %s reads the cookie: %s", host, got)
				}
				for _, path := range []string{"/any", "/auth/logout", "/logout/all"} {
					// The answer cannot be read; that it came can be known.
					if got := b.script(fmt.Sprintf(`return (await fetch(%q, {method: "POST", mode: "no-cors", credentials: "include"})).type`, own+path)); got != "opaque" {
						t.Errorf("%s to %s: %s", host, path, got)
					}
				}
				if got := b.script(fmt.Sprintf(`return (await fetch(%q, {credentials: "include"})).status`, own+"/users/me")); !strings.HasPrefix(got, "failed") {
					t.Errorf("a page on %s reads an answer: %s", host, got)
				}
				if got := b.script(fmt.Sprintf(`return (await fetch(%q, {method: "PATCH", credentials: "include", body: "{}"})).status`, own+"/users/me")); !strings.HasPrefix(got, "failed") {
					t.Errorf("a page on %s sends PATCH: %s", host, got)
				}
				// Nobody is signed in as somebody else.
				if got := b.post(own+"/auth/login?mode=cookie", "username", "eve", "password", goodPassword); !strings.Contains(got, "cross_origin") {
					t.Errorf("a sign-in by a page on %s: %s", host, got)
				}
			}
			if done.Load() != 2 {
				t.Errorf("pages of other origins acted %d times", done.Load()-2)
			}

			// A link from anywhere finds the person signed in.
			b.do("follow a link", chromedp.Evaluate(fmt.Sprintf(`location.href = %q`, own+"/users/me"), nil))
			if got := b.shown(own + "/users/me"); !strings.Contains(got, "ada@example.com") {
				t.Errorf("after a link: %s", got)
			}
			b.visit(own + "/page")
			if got := me(); got != "ada" {
				t.Errorf("signed in as %q after all that", got)
			}

			// Signed out.
			if got := b.script(`return (await fetch("/auth/logout", {method: "POST"})).status`); got != "204" {
				t.Errorf("logout: %s", got)
			}
			if jar := b.jar(own); len(jar) != 0 {
				t.Errorf("the browser still has %+v", jar)
			}
			if got := b.script(`return (await fetch("/users/me")).status`); got != "401" {
				t.Errorf("status %s after the logout", got)
			}

			// A bad cookie goes with the first refusal.
			if dev {
				b.script(`document.cookie = "sallyport=nonsense; path=/"`)
				first := b.script(`return (await fetch("/page")).status`)
				if second := b.script(`return (await fetch("/page")).status`); first != "401" || second != "200" {
					t.Errorf("with a bad cookie: %s, then %s", first, second)
				}
			}
		})
	}
}
