package cors_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/internal/testkit"
)

// tab starts a browser and returns what runs a script in the page of an
// address. The script's result is returned as text, an exception with "failed: "
// before it.
func tab(t *testing.T) func(address, script string) string {
	t.Helper()
	ctx := testkit.Browser(t, 2*time.Minute)
	return func(address, script string) (out string) {
		t.Helper()
		if err := chromedp.Run(ctx, chromedp.Navigate(address), chromedp.WaitReady("body", chromedp.ByQuery),
			chromedp.Evaluate("(async () => { "+script+" })().then(String, (e) => 'failed: ' + e)", &out,
				func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) })); err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return out
	}
}

// C: what a real browser lets pages of other origins read and do. Each refusal
// is made by the page that is not configured, with the same script that succeeds
// in the page that is.
func TestC_InABrowser(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<!doctype html><html lang=en><title>page</title><body>page")
	})
	friend, stranger := httptest.NewServer(page), httptest.NewServer(page)
	defer friend.Close()
	defer stranger.Close()

	var put atomic.Int32 // PUTs that arrived
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plain", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "plain") })
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("who")
		if err != nil {
			sallyport.WriteError(w, sallyport.Unauthenticated())
			return
		}
		fmt.Fprint(w, c.Value)
	})
	mux.HandleFunc("PUT /item", func(w http.ResponseWriter, r *http.Request) {
		put.Add(1)
		fmt.Fprint(w, r.Header.Get("X-API-Key"), r.Header.Get("Authorization"))
	})
	mux.HandleFunc("GET /limited", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Hidden", "hidden")
		sallyport.WriteError(w, &sallyport.Error{Status: 429, Code: "rate_limited", Message: "Too many.", RetryAfter: 7 * time.Second})
	})
	serve := func(credentials bool) string {
		c, err := cors.New(cors.Config{Origins: []string{friend.URL}, Credentials: credentials})
		if err != nil {
			t.Fatal(err)
		}
		h := c.Handler(mux)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", "the-id")
			h.ServeHTTP(w, r)
		}))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	with, without := serve(true), serve(false)
	run := tab(t)

	// The cookie belongs to 127.0.0.1, whatever the port: a page can set it, and
	// the browser sends it to every server here if it is told to.
	if got := run(friend.URL, `document.cookie = "who=ada; path=/"; return document.cookie`); got != "who=ada" {
		t.Fatalf("the cookie was not set: %s", got)
	}

	const refused = "failed: TypeError"
	for _, tt := range []struct {
		name, script string // SERVER is the API's address
		with         string // what the configured page reads, with credentials
		without      string // … and where credentials are not configured
	}{
		{"read", `return (await fetch("SERVER/plain")).text()`, "plain", "plain"},
		{"read with credentials", `return (await fetch("SERVER/whoami", {credentials: "include"})).text()`, "ada", refused},
		{"read without sending them", `return (await fetch("SERVER/whoami")).status`, "401", "401"},
		{"a method with a preflight", `return (await fetch("SERVER/item", {method: "PUT"})).text()`, "", ""},
		{"headers with a preflight", `return (await fetch("SERVER/item", {method: "PUT", headers: {"X-API-Key": "k", Authorization: "Bearer t", "Content-Type": "application/json"}, body: "{}"})).text()`, "kBearer t", "kBearer t"},
		{"a method that is not allowed", `return (await fetch("SERVER/item", {method: "PURGE"})).text()`, refused, refused},
		{"a header that is not allowed", `return (await fetch("SERVER/plain", {headers: {"X-Other": "x"}})).text()`, refused, refused},
		{
			"a refusal",
			`const r = await fetch("SERVER/limited"); return [r.status, (await r.json()).code, r.headers.get("X-Request-Id"), r.headers.get("Retry-After"), r.headers.get("X-Hidden")].join()`,
			"429,rate_limited,the-id,7,", "429,rate_limited,the-id,7,",
		},
		{"a path that is not there", `const r = await fetch("SERVER/nowhere"); return r.status + r.headers.get("X-Request-Id")`, "404the-id", "404the-id"},
	} {
		for server, want := range map[string]string{with: tt.with, without: tt.without} {
			script := strings.ReplaceAll(tt.script, "SERVER", server)
			if got := run(friend.URL, script); got != want && !(want == refused && strings.HasPrefix(got, refused)) {
				t.Errorf("%s, credentials %v: %q, want %q", tt.name, server == with, got, want)
			}
			before := put.Load()
			if got := run(stranger.URL, script); !strings.HasPrefix(got, refused) {
				t.Errorf("%s, credentials %v: a stranger reads %q", tt.name, server == with, got)
			}
			if put.Load() != before {
				t.Errorf("%s: a stranger's PUT arrived", tt.name)
			}
		}
	}
	if put.Load() != 4 {
		t.Errorf("%d PUTs arrived, want 4", put.Load())
	}

	// A frame without rights has the origin null, also within the page that is
	// allowed.
	const frame = `return new Promise((done) => {
		addEventListener("message", (e) => done(e.origin + " " + e.data));
		const f = document.createElement("iframe");
		f.sandbox = "allow-scripts";
		f.srcdoc = "<script>fetch('SERVER/plain').then((r) => r.text(), (e) => 'failed').then((t) => parent.postMessage(t, '*'))</" + "script>";
		document.body.append(f);
	})`
	if got := run(friend.URL, strings.ReplaceAll(frame, "SERVER", with)); got != "null failed" {
		t.Errorf("a frame of origin null: %s", got)
	}
}
