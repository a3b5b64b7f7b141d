package server_test

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// axeEnv names the environment variable with the path of axe-core (scripts/axe).
// Without it the pages are held to our own checks alone.
const axeEnv = "SALLYPORT_TEST_AXE"

// people is a browser in which somebody uses the pages.
type people struct {
	*tab
	w   *world
	axe string
}

func newPeople(t *testing.T, w *world) *people {
	t.Helper()
	p := &people{tab: newTab(t, w.http.URL), w: w}
	if file := os.Getenv(axeEnv); file != "" {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p.axe = string(source)
	}
	return p
}

// at waits for a page by its heading, one that it has not seen yet, and looks at it
// as everybody does who cannot see it, or can little.
func (p *people) at(heading string) {
	p.t.Helper()
	there := fmt.Sprintf(`document.readyState === "complete" && document.querySelector("h1")?.innerText === %q && !window.seen && (window.seen = true)`, heading)
	var err error
	for end, is := time.Now().Add(20*time.Second), false; !is; time.Sleep(10 * time.Millisecond) {
		// While the page changes there is nothing to ask.
		if err = chromedp.Run(p.ctx, chromedp.Evaluate("!!("+there+")", &is)); !is && time.Now().After(end) {
			p.fail("the page “%s” is not there: %v", heading, err)
		}
	}
	for _, f := range p.findings() {
		p.t.Errorf("%s: %s", heading, f)
	}
	for _, problem := range p.taken() {
		// A page with a problem has its status, which the browser notes.
		if !strings.Contains(problem, "Failed to load resource: the server responded with a status of 4") {
			p.t.Errorf("%s: %s", heading, problem)
		}
	}
}

// findings holds the page to what can be computed: at 320 pixels nothing is cut
// off or needs scrolling sideways, targets are large enough (WCAG 2.2, 1.4.10 and
// 2.5.8), everything that can be used can be reached by Tab and has a name; and
// to axe-core, if it is there.
func (p *people) findings() (found []string) {
	p.t.Helper()
	p.do("narrow the window", emulation.SetDeviceMetricsOverride(320, 800, 1, false), chromedp.Evaluate(`(() => {
		const bad = [];
		if (document.documentElement.scrollWidth > 320) bad.push("it is " + document.documentElement.scrollWidth + " pixels wide at 320");
		for (const e of document.querySelectorAll("a, button, input:not([type=hidden])")) {
			if (!e.checkVisibility()) continue;
			const box = (e.labels?.length && e.type === "checkbox" ? e.labels[0] : e).getBoundingClientRect();
			if (box.height < 24 && !(e.tagName === "A" && e.closest("p, li, div.problem"))) bad.push(e.outerHTML.slice(0, 80) + " is " + box.height + " pixels high");
			if (e.tabIndex < 0) bad.push(e.outerHTML.slice(0, 80) + " cannot be reached");
		}
		const problem = document.getElementById("problem");
		if (problem && document.activeElement !== problem) bad.push("the problem has not the focus");
		return bad;
	})()`, &found), emulation.ClearDeviceMetricsOverride())
	// Until it has its width again, what is clicked on may move away.
	p.script(`while (innerWidth === 320) await new Promise((r) => setTimeout(r, 5));
		await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
		return ""`)
	if p.axe == "" {
		return found
	}
	for _, scheme := range []string{"light", "dark"} {
		var text string
		p.do("ask axe", emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
			chromedp.Evaluate(p.axe+";0", nil))
		text = p.script(`return JSON.stringify((await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})).violations
			.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html).join(" ")))`)
		var violations []string
		if err := json.Unmarshal([]byte(text), &violations); err != nil {
			p.t.Fatalf("axe: %s", text)
		}
		for _, v := range violations {
			found = append(found, scheme+": axe: "+v)
		}
	}
	p.do("by day", emulation.SetEmulatedMedia())
	return found
}

// What the pages are held to finds what is wrong.
func TestC_FindingsOfPages(t *testing.T) {
	p := newPeople(t, newWorld(t, testkit.SQLite(t), nil, browserBase))
	for what, html := range map[string]string{
		"pixels wide":       "<pre>" + strings.Repeat("x", 400) + "</pre>",
		"pixels high":       "<button class=small>x</button>",
		"cannot be reached": `<button tabindex=\"-1\">a button</button>`,
		"axe: label":        "<input>",
	} {
		if strings.HasPrefix(what, "axe") && p.axe == "" {
			continue
		}
		p.visit(p.own + "/account/sign-in")
		p.at("Sign in")
		p.do("spoil the page", chromedp.Evaluate(`document.querySelector("main").insertAdjacentHTML("beforeend", "`+html+`");
			for (const b of document.querySelectorAll(".small")) b.style.minHeight = b.style.height = "10px";`, nil))
		if got := strings.Join(p.findings(), "\n"); !strings.Contains(got, what) {
			t.Errorf("with %s it is not found that something is: %s; but %q", html, what, got)
		}
	}
}

// fill types into the fields of the page: name, text, name, text …
func (p *people) fill(fields ...string) {
	p.t.Helper()
	for i := 0; i < len(fields); i += 2 {
		p.write("#"+fields[i], fields[i+1])
	}
}

// says fails if the page does not say something.
func (p *people) says(text string) {
	p.t.Helper()
	var shown string
	p.do("read the page", chromedp.Evaluate("document.body.innerText", &shown))
	if !strings.Contains(shown, text) {
		p.fail("the page does not say %q", text)
	}
}

// text returns what an element says.
func (p *people) text(selector string) (text string) {
	p.t.Helper()
	p.do("read "+selector, chromedp.Text(selector, &text, chromedp.ByQuery, chromedp.NodeVisible))
	return text
}

// address returns what stands in the address bar, without the server's own address.
func (p *people) address() (address string) {
	p.t.Helper()
	p.do("read the address", chromedp.Location(&address))
	return strings.TrimPrefix(address, p.own)
}

// secret reads the secret of a second factor that is being set up.
func (p *people) secret() app {
	p.t.Helper()
	key := strings.ReplaceAll(p.text(".secret"), " ", "")
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(key)
	if err != nil {
		p.t.Fatalf("%q: %v", key, err)
	}
	return app{p.w, secret}
}

// submit presses Enter in a field.
func (p *people) submit(field string) {
	p.t.Helper()
	p.do("submit", chromedp.SendKeys("#"+field, kb.Enter, chromedp.ByQuery))
}

// The set-up of the first administrator, by keyboard alone; then signing in with
// the password, with a second factor, and with a recovery code.
func TestC_PagesInABrowser(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, browserBase)
	p := newPeople(t, w)

	// The token is taken out of the address at once, and nothing is used up.
	token := w.offer(true)
	p.visit(w.http.URL + "/console/setup#k=" + token)
	p.at("Set up the first administrator")
	if got := p.address(); got != "/console/setup" {
		t.Errorf("the address bar shows %s", got)
	}
	p.tabTo("#username")
	p.press("root")
	p.press(kb.Tab)
	p.press("root@example.com")
	p.press(kb.Tab)
	p.press("short")
	p.press(kb.Enter)
	p.at("Set up the first administrator")
	p.says("at least 8 characters")
	p.tabTo(`#problem a[href="#password"]`)
	p.press(kb.Enter)
	p.tabTo("#password")
	p.press(goodPassword)
	p.tabTo("main form button")
	p.press(kb.Enter)
	p.at("Sign in")
	p.says("The administrator's account is ready.")
	for _, asked := range p.asked {
		if strings.Contains(asked, token) {
			t.Errorf("the token stands in an address that was asked: %s", asked)
		}
	}

	p.tabTo("#username")
	p.press("root")
	p.press(kb.Tab)
	p.press("not my password")
	p.press(kb.Enter)
	p.at("Sign in")
	p.says("Incorrect username or password")
	p.tabTo("#password")
	p.press(goodPassword)
	p.press(kb.Enter)
	p.at("Your account")
	p.says("root@example.com (confirmed)")

	// A second factor: a wrong code, another QR code, the right one.
	p.click(`a[href="/account/second-factor"]`)
	p.at("Second factor")
	p.click("main form button")
	p.at("Set up a second factor")
	first := p.secret()
	var qr string
	p.do("look at the QR code", chromedp.Evaluate(`(() => { const i = document.querySelector("img.qr"); return i.complete && i.naturalWidth > 100 ? i.src : "" })()`, &qr))
	if !strings.HasPrefix(qr, "data:image/png;base64,") {
		t.Errorf("the QR code is not shown: %.40q", qr)
	}
	p.fill("code", first.wrong())
	p.submit("code")
	p.at("Set up a second factor")
	p.says("The code is not right")
	p.click("button.second")
	p.at("Set up a second factor")
	root := p.secret()
	if string(root.secret) == string(first.secret) {
		t.Error("the secret is the same")
	}
	p.fill("code", root.code(0))
	p.submit("code")
	p.at("Your recovery codes")
	codes := strings.Fields(p.text(".codes"))
	if len(codes) != 10 {
		t.Fatalf("recovery codes %q", codes)
	}
	p.click("a.button")
	p.at("Your account")
	p.click("main form button")
	p.at("Sign in")
	p.says("You are signed out.")

	// The password is not enough any more.
	p.visit(w.http.URL + "/account/second-factor")
	p.at("Sign in")
	p.fill("username", "root@example.com", "password", goodPassword)
	p.submit("password")
	p.at("Second step of signing in")
	if len(p.jar(w.http.URL)) > 0 {
		t.Error("there is a session already")
	}
	p.fill("code", root.wrong())
	p.submit("code")
	p.at("Second step of signing in")
	p.says("The code is not right")
	p.fill("code", root.next())
	p.submit("code")
	p.at("Second factor") // where the person wanted to go
	if len(p.jar(w.http.URL)) != 1 {
		t.Error("there is no session")
	}
	p.fill("code", root.next())
	p.click(`button[value="codes"]`)
	p.at("Your recovery codes")
	newer := strings.Fields(p.text(".codes"))
	p.click("a.button")
	p.at("Your account")
	p.click("main form button")
	p.at("Sign in")

	// A recovery code, once; those before are worthless.
	p.fill("username", "root", "password", goodPassword)
	p.submit("password")
	p.at("Second step of signing in")
	p.fill("code", codes[0])
	p.submit("code")
	p.at("Second step of signing in")
	p.says("The code is not right")
	p.fill("code", newer[0])
	p.submit("code")
	p.at("Your account")

	// A new password, and without the second factor again.
	p.visit(w.http.URL + "/.well-known/change-password")
	p.at("Change your password")
	p.fill("current_password", goodPassword, "new_password", "marmalade-anchor-97-violet")
	p.click(`[data-shows="new_password"]`)
	var kind string
	p.do("look", chromedp.Evaluate(`document.getElementById("new_password").type`, &kind))
	if kind != "text" {
		t.Errorf("what is typed is not shown: %s", kind)
	}
	p.submit("new_password")
	p.at("Your account")
	p.says("Your password was changed.")
	p.visit(w.http.URL + "/account/second-factor")
	p.at("Second factor")
	p.fill("code", newer[1])
	p.click(`button[value="off"]`)
	p.at("Your account")
	p.says("The second factor is off.")
	p.visit(w.http.URL + "/account/nothing")
	p.at("There is no such page")
	w.planted(t, goodPassword, "marmalade-anchor-97-violet", newer[0], token)
}

// follow opens the link of the newest letter of a kind to an address.
func (p *people) follow(box *mailbox, address string, k mail.Kind) {
	p.t.Helper()
	all := box.to(p.w, address, k)
	if len(all) == 0 {
		p.t.Fatalf("no letter %s to %s", k, address)
	}
	link := all[len(all)-1].Link
	path, ok := strings.CutPrefix(link, p.w.cfg.BaseURL)
	if !ok {
		p.t.Fatalf("the link leads to %s", link)
	}
	p.visit(p.w.http.URL + path)
	p.until("the token is taken out of the address", `location.hash === ""`)
}

// apart signs whoever is signed in out, as another browser would not be.
func (p *people) apart() {
	p.t.Helper()
	p.do("forget the cookies", network.ClearBrowserCookies())
}

// A forgotten password, from the page to sign in on to being signed in.
func TestC_ForgottenPasswordInABrowser(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, browserBase, withMail(&box))
	w.register("ada")
	p := newPeople(t, w)
	p.visit(w.http.URL + "/account/sign-in")
	p.at("Sign in")
	p.click(`a[href="/account/forgot"]`)
	for _, address := range []string{"nobody@example.com", "ada@example.com"} {
		p.at("Forgot your password?")
		p.fill("email", address)
		p.submit("email")
		p.at("Look into your mail")
		p.says("If there is an account with this address")
		p.visit(w.http.URL + "/account/forgot")
	}
	p.at("Forgot your password?")
	if all := box.to(w, "nobody@example.com", mail.Reset); len(all) != 0 {
		t.Errorf("a letter to nobody: %v", all)
	}

	const better = "marmalade-anchor-97-violet"
	first := box.token(w, "ada@example.com", mail.Reset)
	p.follow(&box, "ada@example.com", mail.Reset)
	p.at("Choose a new password")
	p.fill("password", "ada@example.com")
	p.submit("password")
	p.at("Choose a new password")
	p.says("Something is missing or not right.")
	p.fill("password", better)
	p.submit("password")
	p.at("Sign in")
	p.says("You have a new password")
	p.fill("username", "ada", "password", goodPassword)
	p.submit("password")
	p.at("Sign in")
	p.says("Incorrect username or password")
	p.fill("password", better)
	p.submit("password")
	p.at("Your account")
	p.says("ada@example.com (confirmed)")

	// The link was good once. One that is pasted into the page is as good as opened.
	p.visit(w.http.URL + "/account/reset#token=" + first)
	p.at("Choose a new password")
	p.fill("password", goodPassword)
	p.submit("password")
	p.at("Choose a new password")
	p.says("This link is not good")
	if err := w.sv.Accounts.Forgot(t.Context(), "ada@example.com"); err != nil {
		t.Fatal(err)
	}
	p.fill("token", w.http.URL+"/account/reset#token="+box.token(w, "ada@example.com", mail.Reset), "password", goodPassword)
	p.submit("password")
	p.at("Sign in")
	w.signIn("ada", goodPassword)

	// Another link that is opened in the same tab takes the place of the first.
	if err := w.sv.Accounts.Forgot(t.Context(), "ada@example.com"); err != nil {
		t.Fatal(err)
	}
	p.visit(w.http.URL + "/account/reset#token=rs_old")
	p.at("Choose a new password")
	p.do("open the link", chromedp.Evaluate(fmt.Sprintf("location.hash = %q", "#token="+box.token(w, "ada@example.com", mail.Reset)), nil))
	p.until("the token is taken out of the address", `location.hash === ""`)
	p.fill("password", better)
	p.submit("password")
	p.at("Sign in")
	w.signIn("ada", better)
	w.planted(t, better, first)
}

// Where addresses are verified: whoever registered gets in with the password, and
// somebody else's registration is worth nothing to them.
func TestC_VerificationInABrowser(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, browserBase, withMail(&box), func(c *server.Config) { c.VerifyAddress = true })
	registers := func(name, password string) {
		t.Helper()
		w.do("POST", "/auth/register", "", map[string]string{"username": name, "email": name + "@example.com", "password": password}).want(t, 202, "")
	}
	p := newPeople(t, w)
	registers("ada", goodPassword)
	p.follow(&box, "ada@example.com", mail.Verify)
	p.at("Confirm your address")
	p.do("send it as it is", chromedp.Evaluate(`document.querySelector("form").noValidate = true`, nil))
	p.submit("password")
	p.at("Confirm your address")
	p.says("use the other button if you did not choose one")
	p.fill("password", "not-the-password-41")
	p.submit("password")
	p.at("Confirm your address")
	p.says("The password is not right")
	p.fill("password", goodPassword)
	p.submit("password")
	p.at("Sign in")
	p.says("Your address is confirmed.")
	p.fill("username", "ada@example.com", "password", goodPassword)
	p.submit("password")
	p.at("Your account")
	p.says("ada@example.com (confirmed)")

	// Mallory registered with Bob's address.
	p.apart()
	registers("bob", goodPassword)
	p.follow(&box, "bob@example.com", mail.Verify)
	p.at("Confirm your address")
	p.click(`button[name="without"]`)
	p.at("Your address is confirmed")
	p.says("the account has no password now")
	p.submit("email")
	p.at("Look into your mail")
	w.form("/token", "grant_type", "password", "username", "bob@example.com", "password", goodPassword).want(t, 401, "invalid_grant")
	const bobs = "marmalade-anchor-97-violet"
	p.follow(&box, "bob@example.com", mail.Reset)
	p.at("Choose a new password")
	p.fill("password", bobs)
	p.submit("password")
	p.at("Sign in")
	p.fill("username", "bob@example.com", "password", bobs)
	p.submit("password")
	p.at("Your account")

	// Another address: by the letter to it, and who is signed in.
	ada := w.signIn("ada@example.com", goodPassword).access
	w.do("PATCH", "/users/me", ada, map[string]string{"email": "countess@example.com"}).want(t, 200, "")
	p.apart()
	p.follow(&box, "countess@example.com", mail.ChangeAddress)
	p.at("Confirm your address")
	p.click(`button[name="without"]`)
	p.at("Confirm your address")
	p.says("Send the account's password")
	p.fill("password", goodPassword)
	p.submit("password")
	p.at("Sign in")
	w.signIn("countess@example.com", goodPassword)
}

func TestC_InvitationInABrowser(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, browserBase, withMail(&box), func(c *server.Config) { c.Registration = account.Invite })
	if _, err := w.sv.Accounts.Create(t.Context(), role.Operator(), account.NewUser{Email: "ada@example.com", Invitation: true}); err != nil {
		t.Fatal(err)
	}
	p := newPeople(t, w)
	p.follow(&box, "ada@example.com", mail.Invitation)
	p.at("Accept your invitation")
	p.fill("username", "a da", "password", goodPassword)
	p.submit("password")
	p.at("Accept your invitation")
	p.says("Use 1 to 64 letters and digits")
	p.fill("username", "ada", "full_name", "Ada Lovelace", "password", goodPassword)
	p.submit("password")
	p.at("Sign in")
	p.says("Your account is ready.")
	p.fill("username", "ada", "password", goodPassword)
	p.submit("password")
	p.at("Your account")
	p.says("Ada Lovelace")
}

// Signing in by mail: with the link, with the code, and with the second factor that
// is asked for after either; and a second factor that must be set up on the way in.
func TestC_SignInByMailInABrowser(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, browserBase, withMail(&box), withMailSignIn, demanding("moderator"))
	w.person("ada", true)
	w.person("mod", true, "moderator")
	p := newPeople(t, w)
	ask := func(address string) {
		t.Helper()
		p.visit(w.http.URL + "/account/sign-in?next=/account/password")
		p.at("Sign in")
		p.click(`a[href^="/account/request-link"]`)
		p.at("Sign in by mail")
		p.fill("email", address)
		p.submit("email")
		p.at("Type the code from the letter")
	}

	// By code, on the device where it was asked for.
	ask("ada@example.com")
	letters := box.to(w, "ada@example.com", mail.SignIn)
	code := letters[len(letters)-1].Code
	p.fill("code", otherCode(code, 1))
	p.submit("code")
	p.at("Type the code from the letter")
	p.says("The code is not right")
	p.fill("code", code[:3]+" "+code[3:])
	p.submit("code")
	p.at("Change your password") // where the person wanted to go

	// The link of that letter is used up with it; the next one is good once.
	p.apart()
	p.follow(&box, "ada@example.com", mail.SignIn)
	p.at("Sign in with the link from your letter")
	p.click("main form button")
	p.at("Sign in with the link from your letter")
	p.says("This link is not good")
	ask("ada@example.com")
	p.follow(&box, "ada@example.com", mail.SignIn)
	p.at("Sign in with the link from your letter")
	p.click("main form button")
	p.at("Your account")
	p.says("ada@example.com")

	// Nobody is told that there is no account.
	p.apart()
	ask("nobody@example.com")
	p.fill("code", "123456")
	p.submit("code")
	p.at("Type the code from the letter")
	p.says("The code is not right")

	// Whoever must have a second factor sets it up before there is a session.
	p.visit(w.http.URL + "/account/sign-in")
	p.at("Sign in")
	p.fill("username", "mod", "password", goodPassword)
	p.submit("password")
	p.at("Set up a second factor")
	p.says("This account needs a second factor")
	mod := p.secret()
	p.fill("code", mod.wrong())
	p.submit("code")
	p.at("Set up a second factor")
	p.says("The code is not right")
	if len(p.jar(w.http.URL)) > 0 {
		t.Error("there is a session already")
	}
	p.click("button.second")
	p.at("Set up a second factor")
	mod = p.secret()
	p.fill("code", mod.code(0))
	p.submit("code")
	p.at("Your recovery codes")
	p.click("a.button")
	p.at("Your account")
	p.says("Second factor\non")

	// From then on it is asked for, after a link too.
	p.apart()
	ask("mod@example.com")
	p.follow(&box, "mod@example.com", mail.SignIn)
	p.at("Sign in with the link from your letter")
	p.click("main form button")
	p.at("Second step of signing in")
	p.fill("code", mod.next())
	p.submit("code")
	p.at("Your account")
}

// Without JavaScript the link of a letter is pasted into a field.
func TestC_PagesWithoutJavaScript(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, browserBase)
	p := newPeople(t, w)
	p.do("switch scripts off", emulation.SetScriptExecutionDisabled(true))
	link := w.http.URL + "/console/setup#k=" + w.offer(true)
	send := func(selector, text string) {
		t.Helper()
		p.do("write into "+selector, chromedp.SendKeys(selector, text, chromedp.ByQuery, chromedp.NodeVisible))
	}
	p.visit(link)
	send("#token", link)
	send("#email", "root@example.com")
	send("#password", goodPassword+kb.Enter)
	p.do("wait for the page to sign in on", chromedp.WaitVisible("p.notice", chromedp.ByQuery))
	send("#username", "root@example.com")
	send("#password", goodPassword+kb.Enter)
	p.do("wait for the account", chromedp.WaitVisible("dl", chromedp.ByQuery))
	p.clean()
}

// otherSite is a page of another origin.
func otherSite(t *testing.T) (address string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!doctype html><html lang=en><title>elsewhere</title><body>elsewhere")
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/"
}

// Pages of others can neither frame these pages, nor post to them, nor read them.
func TestC_PagesFromElsewhere(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, browserBase)
	w.register("ada")
	w.register("eve")
	elsewhere := otherSite(t)
	b := newTab(t, w.http.URL)
	b.visit(elsewhere)

	shown := b.post(w.http.URL+"/account/sign-in", "username", "eve", "password", goodPassword)
	if !strings.Contains(shown, "This was not accepted") || len(b.jar(w.http.URL)) > 0 {
		t.Errorf("a form of another origin: %s", shown)
	}
	b.visit(elsewhere)
	b.do("frame a page", chromedp.Evaluate(fmt.Sprintf(`document.body.innerHTML = '<iframe src=%q></iframe>'`, w.http.URL+"/account/sign-in"), nil))
	kept := false
	for end := time.Now().Add(10 * time.Second); !kept && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		kept = strings.Contains(strings.Join(b.taken(), " "), "frame-ancestors")
	}
	if !kept {
		t.Error("the browser does not say that it kept the page from the frame")
	}
	var frames string
	b.do("look into the frame", chromedp.ActionFunc(func(ctx context.Context) error {
		tree, err := page.GetFrameTree().Do(ctx)
		if err == nil {
			for _, f := range tree.ChildFrames {
				frames += f.Frame.URL + f.Frame.UnreachableURL
			}
		}
		return err
	}))
	if strings.HasPrefix(frames, w.http.URL) {
		t.Errorf("the page is in a frame: %s", frames)
	}
}
