package sanitize

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/sallyport/sallyport/internal/testkit"
)

// sentinel is in every page and frame before anything of its own: what runs
// there counts.
const sentinel = `window.pwned = 0; window.alert = window.confirm = window.prompt = window.print = () => { top.pwned++ };
	console.log = console.error = console.info = console.warn = () => { top.pwned++ };`

// inspect says what is in the boxes of a page and must not be.
const inspect = `(() => {
	const bad = [];
	for (const e of document.querySelectorAll("#text *")) bad.push("text has " + e.outerHTML);
	for (const e of document.querySelectorAll("#rich *")) {
		if (!ALLOWED.includes(e.localName) || e.namespaceURI !== "http://www.w3.org/1999/xhtml") bad.push("rich has " + e.outerHTML);
		for (const a of e.attributes) if (e.localName !== "a" || a.name !== "href" && a.name !== "rel") bad.push("rich has attribute " + a.name + " on " + e.outerHTML);
		if (e.localName === "a" && (!["http:", "https:", "mailto:"].includes(e.protocol) || e.rel !== "nofollow noopener noreferrer")) bad.push("rich has address " + e.href);
	}
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_COMMENT);
	while (walk.nextNode()) bad.push("a comment");
	if (document.getElementById("after")?.parentNode !== document.body) bad.push("what stands behind is swallowed");
	return bad.join("\n");
})()`

// V: in a real browser nothing runs and nothing is fetched, while the same
// texts as they came do run.
func TestV_InABrowser(t *testing.T) {
	// Each of these runs as it came, in the browsers of today.
	certain := []string{
		"<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
		"<details open ontoggle=alert(1)>x</details>", "<svg><script>alert(1)</script></svg>", "<video><source onerror=alert(1)></video>",
		"<iframe src=javascript:alert(1)></iframe>", `<svg></p><style><a id="</style><img src=1 onerror=alert(1)>">`,
	}
	samples := append(certain, payloads(t)...)
	var mu sync.Mutex
	var asked []string // but for pages and their icon
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("X-Xss-Protection", "0")
		switch {
		case strings.HasPrefix(r.URL.Path, "/raw/"):
			_, _ = fmt.Sscanf(r.URL.Path, "/raw/%d", &n)
			fmt.Fprintf(w, `<!doctype html><title>raw</title><body><div>%s</div>`, samples[n])
		case strings.HasPrefix(r.URL.Path, "/clean/"):
			_, _ = fmt.Sscanf(r.URL.Path, "/clean/%d", &n)
			text, rich := Text(samples[n]), Rich(samples[n])
			fmt.Fprintf(w, `<!doctype html><title>%s</title><body><div id="text">%[1]s</div><textarea>%[1]s</textarea><svg><desc id="text">%[1]s</desc></svg>`+
				`<textarea>%s</textarea><div id="rich">%[2]s</div><p id="after">`, text, rich)
		case r.URL.Path != "/favicon.ico":
			mu.Lock()
			asked = append(asked, r.URL.String())
			mu.Unlock()
		}
	}))
	defer srv.Close()

	// Nothing outside of this machine has an address.
	ctx := testkit.Browser(t, 3*time.Minute, chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	var clean bool
	chromedp.ListenTarget(ctx, func(event any) {
		if e, ok := event.(*network.EventRequestWillBeSent); ok {
			mu.Lock()
			defer mu.Unlock()
			if clean && !strings.HasPrefix(e.Request.URL, srv.URL+"/clean/") && e.Request.URL != srv.URL+"/favicon.ico" {
				asked = append(asked, e.Request.URL)
			}
		}
	})
	if err := chromedp.Run(ctx, network.Enable(), chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(sentinel).Do(ctx)
		return err
	})); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	var names []string
	for name := range elements {
		names = append(names, fmt.Sprintf("%q", name))
	}
	look := strings.ReplaceAll(inspect, "ALLOWED", "["+strings.Join(names, ",")+"]")

	// load returns how often something ran in a page.
	load := func(kind string, n int) (ran int, bad string) {
		t.Helper()
		one, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		// Errors of images and frames come behind the page's own end.
		settle := chromedp.Evaluate(`new Promise((done) => setTimeout(done, 20))`, nil,
			func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) })
		if err := chromedp.Run(one, chromedp.Navigate(fmt.Sprintf("%s/%s/%d", srv.URL, kind, n)), settle, chromedp.Evaluate("window.pwned", &ran)); err != nil {
			t.Fatalf("%q: %v", samples[n], err)
		}
		if kind == "clean" {
			if err := chromedp.Run(one, chromedp.Evaluate(look, &bad)); err != nil {
				t.Fatalf("%q: %v", samples[n], err)
			}
		}
		return ran, bad
	}

	setClean := func(on bool) { mu.Lock(); clean = on; mu.Unlock() }
	setClean(true)
	for n, s := range samples {
		ran, bad := load("clean", n)
		if ran != 0 || bad != "" {
			t.Errorf("%q: ran %d times, %s\nText: %q\nRich: %q", s, ran, bad, Text(s), Rich(s))
		}
	}
	setClean(false)
	mu.Lock()
	if len(asked) > 0 {
		t.Errorf("sanitised pages asked for %q", asked)
	}
	mu.Unlock()

	// The control: the same sentinel, the same pages, the texts as they came.
	for n, s := range certain {
		if ran, _ := load("raw", n); ran == 0 {
			t.Errorf("%q does not run as it came: the sentinel is blind", s)
		}
	}
}
