package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/sallyport/sallyport/internal/testkit"
)

// tab is a tab of a browser that writes down what a page must not do.
type tab struct {
	t   *testing.T
	ctx context.Context
	own string // the only address that may be asked

	mu       sync.Mutex
	asked    []string // "GET /path"
	problems []string
}

func newTab(t *testing.T, own string) *tab {
	t.Helper()
	ctx := testkit.Browser(t, 60*time.Second)
	b := &tab{t: t, ctx: ctx, own: own}
	chromedp.ListenTarget(ctx, b.listen)
	// The browser lives as long as the context of its first action.
	if err := chromedp.Run(ctx, network.Enable(), log.Enable(), runtime.Enable(),
		chromedp.ActionFunc(func(ctx context.Context) error {
			// In every page, before its own scripts.
			_, err := page.AddScriptToEvaluateOnNewDocument(`document.addEventListener("securitypolicyviolation",
				(e) => console.error("violation of " + e.effectiveDirective + ": " + e.blockedURI));`).Do(ctx)
			return err
		})); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return b
}

func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		path, own := strings.CutPrefix(e.Request.URL, b.own)
		switch {
		case own:
			b.asked = append(b.asked, e.Request.Method+" "+path)
		case !strings.HasPrefix(e.Request.URL, "data:"):
			b.problems = append(b.problems, "asked another address: "+e.Request.URL)
		}
	case *log.EventEntryAdded:
		// A refused sign-in and a refused call are noted by the browser itself.
		if e.Entry.Source == log.SourceNetwork && strings.Contains(e.Entry.Text, "status of 401") {
			return
		}
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning {
			b.problems = append(b.problems, fmt.Sprintf("log: %s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning || e.Type == runtime.APITypeAssert {
			var text strings.Builder
			for _, a := range e.Args {
				fmt.Fprintf(&text, " %s%s", a.Value, a.Description)
			}
			b.problems = append(b.problems, "console:"+text.String())
		}
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, "exception: "+e.ExceptionDetails.Error())
	}
}

// clean fails if the page did what it must not do, and begins anew.
func (b *tab) clean() {
	b.t.Helper()
	for _, p := range b.taken() {
		b.t.Error(p)
	}
}

func (b *tab) taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.problems
	b.problems = nil
	return out
}

// times returns how often a request was made.
func (b *tab) times(request string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.asked {
		if a == request {
			n++
		}
	}
	return n
}

// do acts as a person would; an element that does not come is waited for.
func (b *tab) do(what string, actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.fail("%s: %v", what, err)
	}
}

func (b *tab) fail(format string, args ...any) {
	b.t.Helper()
	b.t.Logf("problems: %q", b.taken())
	var text string
	if err := chromedp.Run(b.ctx, chromedp.Evaluate(`document.querySelector(".modal-ux, body").innerText`, &text)); err == nil {
		b.t.Logf("the page says: %.1500s", text)
	}
	b.t.Fatalf(format, args...)
}

func (b *tab) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(selector, chromedp.ByQuery, chromedp.NodeVisible))
}

// write puts text into a field in the place of what is there.
func (b *tab) write(selector, text string) {
	b.t.Helper()
	b.do("write into "+selector, chromedp.WaitVisible(selector, chromedp.ByQuery),
		chromedp.Evaluate(fmt.Sprintf(`document.querySelector(%q).select()`, selector), nil),
		chromedp.SendKeys(selector, text, chromedp.ByQuery))
}

func (b *tab) press(keys string) {
	b.t.Helper()
	b.do(fmt.Sprintf("press %q", keys), chromedp.KeyEvent(keys))
}

// until waits for an expression to be true.
func (b *tab) until(what, expression string) {
	b.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		var ok bool
		b.do(what, chromedp.Evaluate("!!("+expression+")", &ok))
		if ok {
			return
		}
		if time.Now().After(deadline) {
			b.fail("waited in vain until %s: %s", what, expression)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tabTo presses Tab until an element has the focus.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	for range 80 {
		var there bool
		b.do("look at the focus", chromedp.Evaluate(fmt.Sprintf(`document.activeElement.matches(%q)`, selector), &there))
		if there {
			return
		}
		b.press(kb.Tab)
	}
	b.fail("%s cannot be reached with the keyboard", selector)
}

// Parts of the docs page.
const (
	authorize   = ".auth-wrapper .authorize"
	dialogApply = ".auth-container > div .auth-btn-wrapper .authorize" // signs in, or out
	dialogClose = ".auth-container > div .auth-btn-wrapper .btn-done"
	keyField    = ".auth-container > form #api_key_value"
	keyApply    = ".auth-container > form .auth-btn-wrapper .auth:not(.btn-done)" // takes the key, or forgets it
	ownAccount  = "#operations-Own_account-get-users-me"
	accounts    = "#operations-Accounts-get-users"
)

// execute sends the operation and waits for an answer with a status and, in its
// body, a text.
func (b *tab) execute(op, status, text string) {
	b.t.Helper()
	b.click(op + " .execute")
	b.until("the answer is "+status, fmt.Sprintf(`
		document.querySelector(%q)?.innerText.trim().startsWith(%q) &&
		document.querySelector(%q)?.innerText.includes(%q)`,
		op+" .live-responses-table tr.response .response-col_status", status, op+" .live-responses-table tr.response .response-col_description", text))
}

// tryOut opens an operation.
func (b *tab) tryOut(op string) {
	b.t.Helper()
	b.click(op + " .opblock-summary-control")
	b.click(op + " .try-out__btn")
}

// A person reads the page, signs in on it, and calls operations; the page asks
// nobody but its own server and needs nothing that the policy forbids.
func TestC_DocsPage(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	id, own := w.user("ada", "moderator")
	b := newTab(t, w.http.URL)

	b.do("open the page", chromedp.Navigate(w.http.URL+"/docs"), chromedp.WaitVisible(authorize, chromedp.ByQuery),
		chromedp.WaitVisible(ownAccount, chromedp.ByQuery))
	b.until("title and headings are right", `document.title === "Sallyport – API" && document.querySelectorAll("h1").length === 1 &&
		document.documentElement.lang === "en" && document.querySelectorAll("main").length === 1`)
	b.clean()

	// A wrong password.
	b.click(authorize)
	b.until("client and scopes stand there", `document.querySelector("#client_id_password").value === "docs" &&
		document.querySelector("#client_secret_password").value === "" &&
		[...document.querySelectorAll(".scopes input")].some((e) => e.dataset.value === "read:users") &&
		![...document.querySelectorAll(".scopes input")].some((e) => e.checked)`)
	b.write("#oauth_username", "ada")
	b.write("#oauth_password", "not-the-password")
	b.click(dialogApply)
	b.until("the dialog says what was wrong", `document.querySelector(".modal-ux .errors[role=alert]")?.innerText.includes("Incorrect username or password")`)

	// The right one, without scopes.
	b.write("#oauth_password", goodPassword)
	b.click(dialogApply)
	b.until("signed in", `document.querySelector(".auth-container h6")?.innerText === "Authorized" && !document.querySelector(".modal-ux .errors")`)
	b.click(dialogClose)
	b.tryOut(ownAccount)
	b.execute(ownAccount, "200", "ada@example.com")
	if s := docsSessions(w, own); len(s) != 1 || s[0] != "" {
		t.Errorf("sessions of the docs page: %q, want one without a scope", s)
	}

	// Signed out.
	b.click(authorize)
	b.click(dialogApply)
	b.until("the dialog asks again", `document.querySelector("#oauth_password")`)
	b.click(dialogClose)
	b.execute(ownAccount, "401", "unauthenticated")

	// With one scope selected.
	b.click(authorize)
	b.write("#oauth_username", "ada@example.com")
	b.write("#oauth_password", goodPassword)
	b.click(`label[for="read:users-password-checkbox-bearer"]`)
	b.click(dialogApply)
	b.until("signed in", `document.querySelector(".auth-container h6")?.innerText === "Authorized"`)
	b.click(dialogClose)
	b.tryOut(accounts)
	b.execute(accounts, "200", id)
	if s := docsSessions(w, own); len(s) != 2 || s[0] != "read:users" {
		t.Errorf("sessions of the docs page: %q, want the newest with scope read:users", s)
	}
	b.clean()

	// With an API key, and nothing else.
	b.click(authorize)
	b.click(dialogApply)
	b.until("the dialog asks again", `document.querySelector("#oauth_password")`)
	b.write(keyField, w.key(own).key)
	b.click(keyApply)
	b.until("the key was taken", `document.querySelector(".auth-container > form h6")?.innerText === "Authorized"`)
	b.click(dialogClose)
	b.execute(ownAccount, "200", "ada@example.com")
	b.click(authorize)
	b.click(keyApply)
	b.until("the key was forgotten", `document.querySelector("`+keyField+`")`)
	b.click(dialogClose)
	b.execute(ownAccount, "401", "unauthenticated")
	b.clean()
	if n := b.times("POST /token"); n != 3 {
		t.Errorf("%d requests to /token, want 3", n)
	}

	// A link to an operation opens it.
	b.do("follow a deep link", chromedp.Navigate("about:blank"), chromedp.Navigate(w.http.URL+"/docs#/Own%20account/get-users-me"),
		chromedp.WaitVisible(ownAccount+".is-open .try-out__btn", chromedp.ByQuery))
	b.clean()

	// The watch is not blind.
	b.do("break the policy", chromedp.Evaluate(`document.body.setAttribute("style", "color: red"); void fetch("https://elsewhere.invalid/").catch(() => {})`, nil))
	var noted string
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(noted, "violation of style-src-attr") || !strings.Contains(noted, "violation of connect-src"); {
		if time.Now().After(deadline) {
			t.Fatalf("the policy was broken twice, and this was noted: %s", noted)
		}
		time.Sleep(10 * time.Millisecond)
		noted += strings.Join(b.taken(), "\n")
	}
}

// docsSessions returns the scopes of an account's sessions from the docs page,
// the newest first; "" for one that is not limited.
func docsSessions(w *world, own tokens) (scopes []string) {
	w.t.Helper()
	items, _ := w.do("GET", "/users/me/sessions", own.access, nil).want(w.t, 200, "").json(w.t)["items"].([]any)
	for _, i := range items {
		if s := i.(map[string]any); s["client_id"] == "docs" {
			scope, _ := s["scope"].(string)
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// The same without a mouse.
func TestC_DocsPageByKeyboard(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.register("ada")
	b := newTab(t, w.http.URL)
	b.do("open the page", chromedp.Navigate(w.http.URL+"/docs"), chromedp.WaitVisible(ownAccount, chromedp.ByQuery))

	b.tabTo(authorize)
	b.press(kb.Enter)
	b.until("the dialog has the focus and says what it is", `document.activeElement.id === "oauth_username" &&
		document.querySelector(".modal-ux[role=dialog][aria-modal=true][aria-label]") && document.querySelector(".close-modal").ariaLabel === "Close"`)
	b.press("ada")
	b.tabTo("#oauth_password")
	b.press("not-the-password" + kb.Enter)
	b.until("the dialog says what was wrong", `document.querySelector(".modal-ux .errors")?.innerText.includes("Incorrect username or password")`)
	b.do("select the password", chromedp.Evaluate(`document.activeElement.select()`, nil))
	b.press(goodPassword)
	b.tabTo(`.scopes a[data-all]`)
	b.press(kb.Enter)
	b.until("all scopes are selected", `![...document.querySelectorAll(".scopes input")].some((e) => !e.checked)`)
	b.tabTo(`[id="read:users-password-checkbox-bearer"]`)
	b.press(" ")
	b.until("one is not any more", `[...document.querySelectorAll(".scopes input")].filter((e) => !e.checked).length === 1`)
	b.tabTo(dialogClose)
	b.press(kb.Tab)
	b.until("the focus stays in the dialog", `document.activeElement.matches(".close-modal")`)
	b.tabTo("#oauth_password")
	b.press(kb.Enter)
	b.until("signed in, and the focus is in the dialog", `document.querySelector(".auth-container h6")?.innerText === "Authorized" &&
		document.activeElement.closest(".modal-ux")`)
	b.press(kb.Escape)
	b.until("the focus is back where it was", fmt.Sprintf(`!document.querySelector(".modal-ux") && document.activeElement.matches(%q)`, authorize))

	b.tabTo(ownAccount + " .opblock-summary-control")
	b.press(kb.Enter)
	b.do("wait for the operation", chromedp.WaitVisible(ownAccount+" .try-out__btn", chromedp.ByQuery))
	b.tabTo(ownAccount + " .try-out__btn")
	b.press(kb.Enter)
	b.tabTo(ownAccount + " .execute")
	b.press(kb.Enter)
	b.until("the account is shown", fmt.Sprintf(`document.querySelector(%q)?.innerText.includes("ada@example.com")`, ownAccount+" .live-responses-table"))
	b.clean()
}
