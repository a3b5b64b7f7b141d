package portal

import (
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// shows returns what shows a page to anybody.
func shows(name string) func(*exchange) {
	return func(x *exchange) { x.show(http.StatusOK, name, view{}) }
}

// signedIn returns what shows a page to who is signed in, and leads others to where
// they sign in first.
func signedIn(name string) func(*exchange) {
	return func(x *exchange) {
		person, ok := x.who()
		switch {
		case !ok:
		case person == nil:
			x.lead(http.StatusSeeOther, "/account/sign-in?next="+url.QueryEscape(x.here()))
		default:
			x.show(http.StatusOK, name, view{Notice: x.notice()})
		}
	}
}

// notices are what a page can be told to say by its address: these sentences, and
// no text of a link's author.
var notices = map[string]string{
	"signed_out":       "You are signed out.",
	"password_changed": "Your password was changed. Your other sessions have ended.",
	"password_reset":   "You have a new password, and all sessions have ended. Sign in with it.",
	"password_chosen":  "Your account is ready. Sign in with your password.",
	"address_verified": "Your address is confirmed.",
	"mfa_off":          "The second factor is off. Your other sessions have ended.",
	"set_up":           "The administrator's account is ready. Sign in with it.",
}

func (x *exchange) notice() string { return notices[x.r.URL.Query().Get("notice")] }

// said leads to a page that says what was done.
func (x *exchange) said(page, notice string) {
	x.lead(http.StatusSeeOther, page+"?notice="+notice)
}

func (x *exchange) signInPage() {
	if _, ok := x.who(); ok {
		x.show(http.StatusOK, "sign-in", view{Notice: x.notice()})
	}
}

// signIn takes the password, or, where a form has an mfa_token, what comes after
// it.
func (x *exchange) signIn() {
	switch {
	case x.form["mfa_token"] == "":
		x.signedInBy(x.call(http.MethodPost, "/auth/login?mode=cookie", x.pick("username", "password")), "sign-in", view{}, nil)
	case x.form["setup"] != "" && x.form["code"] == "":
		x.enrol(x.form["mfa_token"])
	default:
		x.secondStep()
	}
}

// signedInBy goes on with the answer to what somebody signed in with; page is where
// they did.
func (x *exchange) signedInBy(a answer, page string, v view, words map[string]string) {
	f := a.failure()
	switch {
	case a.ok():
		x.leave(http.StatusSeeOther, x.next())
	case f.Code == "mfa_required" && len(f.Methods) == 1 && f.Methods[0] == "setup":
		x.enrol(f.Token)
	case f.Code == "mfa_required":
		x.show(http.StatusOK, "code", view{MFAToken: f.Token})
	default:
		x.fail(a, page, v, words)
	}
}

// overWords are for a sign-in that took too long.
var overWords = map[string]string{"invalid_token": "This sign-in took too long, or too many codes were wrong. Begin again."}

// secondStep takes the code of somebody who is signing in.
func (x *exchange) secondStep() {
	token, setup := x.form["mfa_token"], x.form["setup"] != ""
	a := x.call(http.MethodPost, "/2fa/verify", map[string]string{"mfa_token": token, "code": x.form["code"]})
	var given struct {
		Recovery []string `json:"recovery_codes"`
	}
	page := "code"
	if setup {
		page = "enrol"
	}
	switch {
	case a.ok() && a.into(&given) && len(given.Recovery) > 0:
		x.show(http.StatusOK, "recovery", view{Recovery: given.Recovery, GoOn: x.next()})
	case a.ok():
		x.leave(http.StatusSeeOther, x.next())
	case a.failure().Code == "invalid_token":
		x.fail(a, "sign-in", view{}, overWords)
	default:
		x.fail(a, page, view{MFAToken: token, Setup: setup}, nil)
	}
}

// enrol shows a new secret for a second factor: to somebody who is signing in and
// must have one, or, without a token, to who is signed in.
func (x *exchange) enrol(token string) {
	var body any
	if token != "" {
		body = map[string]string{"mfa_token": token}
	}
	a := x.call(http.MethodPost, "/2fa/setup", body)
	var made struct {
		Secret string `json:"secret"`
		URI    string `json:"otpauth_uri"`
		PNG    string `json:"qr_png"`
	}
	switch code := a.failure().Code; {
	case a.ok() && a.into(&made):
		x.show(http.StatusOK, "enrol", view{
			MFAToken: token, Setup: token != "", Secret: inFours(made.Secret),
			QR: checked(pngData, made.PNG), AppLink: checked(appLink, made.URI),
		})
	case code == "invalid_token":
		x.fail(a, "sign-in", view{}, overWords)
	case token == "":
		x.fail(a, "second-factor", view{}, nil)
	case code == "mfa_on":
		x.fail(a, "code", view{MFAToken: token}, map[string]string{"mfa_on": "This account has a second factor already. Type a code of it."})
	default:
		x.fail(a, "enrol", view{MFAToken: token, Setup: true}, nil)
	}
}

// What may stand in an address of a page, though html/template does not know it.
var (
	pngData = regexp.MustCompile(`^data:image/png;base64,[A-Za-z0-9+/=]+$`)
	appLink = regexp.MustCompile(`^otpauth://totp/[!-~]+$`)
)

func checked(form *regexp.Regexp, text string) template.URL {
	if !form.MatchString(text) {
		return ""
	}
	return template.URL(text)
}

// inFours parts a secret for who types it.
func inFours(s string) string {
	var b strings.Builder
	for i, c := range s {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (x *exchange) signOut() {
	a := x.call(http.MethodPost, "/auth/logout", nil)
	if a.ok() || a.status == http.StatusUnauthorized { // nobody was signed in
		x.said("/account/sign-in", "signed_out")
		return
	}
	x.fail(a, "account", view{}, nil)
}

func (x *exchange) secondFactor() {
	if x.person == nil {
		signedIn("")(x)
		return
	}
	code := x.pick("code")
	switch x.form["do"] {
	case "begin":
		x.enrol("")
	case "confirm":
		x.recovery("enrol", x.call(http.MethodPost, "/2fa/verify", code))
	case "codes":
		x.recovery("second-factor", x.call(http.MethodPost, "/2fa/recovery-codes", code))
	case "off":
		if a := x.call(http.MethodDelete, "/2fa", code); a.ok() {
			x.said("/account/", "mfa_off")
		} else {
			x.fail(a, "second-factor", view{}, nil)
		}
	default:
		signedIn("second-factor")(x)
	}
}

// recovery shows codes that were made, or page again.
func (x *exchange) recovery(page string, a answer) {
	var given struct {
		Recovery []string `json:"recovery_codes"`
	}
	if a.ok() && a.into(&given) {
		x.person.MFAEnabled = true
		x.show(http.StatusOK, "recovery", view{Recovery: given.Recovery, GoOn: x.p.cfg.Path + "/account/"})
		return
	}
	x.fail(a, page, view{}, nil)
}

func (x *exchange) password() {
	if x.person == nil {
		signedIn("")(x)
		return
	}
	if a := x.call(http.MethodPut, "/users/me/password", x.pick("current_password", "new_password")); a.ok() {
		x.said("/account/", "password_changed")
	} else {
		x.fail(a, "password", view{}, nil)
	}
}

func (x *exchange) forgot() {
	if a := x.call(http.MethodPost, "/auth/forgot-password", x.pick("email")); a.ok() {
		x.show(http.StatusOK, "sent", view{})
	} else {
		x.fail(a, "forgot", view{}, nil)
	}
}

// staleWords are for a token that is not good.
var staleWords = map[string]string{
	"invalid_token": "This link is not good: it is older than 30 minutes, was used already, or your address or password has changed since. Ask for another letter.",
}

// withToken shows a page again that a token leads to. One that is not good is not
// given back: the person pastes another.
func (x *exchange) withToken(a answer, page string) {
	v := view{Token: x.token()}
	if a.failure().Code == "invalid_token" {
		v.Token = ""
	}
	x.fail(a, page, v, staleWords)
}

func (x *exchange) reset() {
	body := x.pick("password")
	body["token"] = x.token()
	if a := x.call(http.MethodPost, "/auth/reset-password", body); a.ok() {
		x.said("/account/sign-in", "password_reset")
	} else {
		x.withToken(a, "reset")
	}
}

// verify confirms an address. Without a password the API takes it that whoever
// registered may have been somebody else, and ends what they put there: that must
// be chosen and not happen by an empty field.
func (x *exchange) verify() {
	body := map[string]string{"token": x.token()}
	switch {
	case x.form["without"] != "":
	case x.form["password"] == "":
		x.show(http.StatusUnprocessableEntity, "verify", view{Token: x.token(), Problem: &problem{
			Detail: everywhere["validation_failed"], Fields: []wrong{{"password", "Type the password that you chose, or use the other button if you did not choose one."}},
		}})
		return
	default:
		body["password"] = x.form["password"]
	}
	a := x.call(http.MethodPost, "/auth/verify", body)
	if !a.ok() {
		x.withToken(a, "verify")
		return
	}
	var done struct {
		Email       string `json:"email"`
		PasswordSet bool   `json:"password_set"`
	}
	a.into(&done)
	switch {
	case !done.PasswordSet && x.p.cfg.Mail && !x.p.cfg.NoPassword:
		x.show(http.StatusOK, "verified", view{Values: map[string]string{"email": done.Email}})
	case x.person != nil:
		x.said("/account/", "address_verified")
	default:
		x.said("/account/sign-in", "address_verified")
	}
}

func (x *exchange) invitation() {
	body := x.pick("password", "username", "full_name")
	body["token"] = x.token()
	if a := x.call(http.MethodPost, "/auth/accept-invitation", body); a.ok() {
		x.said("/account/sign-in", "password_chosen")
	} else {
		x.withToken(a, "invitation")
	}
}

func (x *exchange) requestLink() {
	a := x.call(http.MethodPost, "/auth/request-link", x.pick("email"))
	if !a.ok() {
		x.fail(a, "request-link", view{}, nil)
		return
	}
	var made struct {
		Handle string `json:"handle"`
	}
	a.into(&made)
	x.show(http.StatusOK, "typed-code", view{Handle: made.Handle})
}

// link signs in with the token of a letter, or with the code in it, which is sent
// with the handle that asking for the letter gave.
func (x *exchange) link() {
	if handle := x.form["handle"]; handle != "" {
		a := x.call(http.MethodPost, "/auth/link?mode=cookie", map[string]string{"handle": handle, "code": strings.Join(strings.Fields(x.form["code"]), "")})
		x.signedInBy(a, "typed-code", view{Handle: handle}, map[string]string{
			"invalid_token": "The code is not right, or not good any more: it is good for ten minutes, and five codes are looked at. Ask for another letter if it stays.",
		})
		return
	}
	v := view{Token: x.token()}
	a := x.call(http.MethodPost, "/auth/link?mode=cookie", map[string]string{"token": v.Token})
	if a.failure().Code == "invalid_token" {
		v.Token = ""
	}
	x.signedInBy(a, "link", v, map[string]string{
		"invalid_token": "This link is not good: it is older than ten minutes, was used already, or a newer one took its place. Ask for another letter.",
	})
}

func (x *exchange) setup() {
	body := x.pick("username", "email", "password")
	body["token"] = x.token()
	a := x.call(http.MethodPost, "/auth/setup", body)
	if a.ok() {
		x.said("/account/sign-in", "set_up")
		return
	}
	v := view{Token: x.token()}
	if a.failure().Code == "invalid_token" {
		v.Token = ""
	}
	x.fail(a, "setup", v, map[string]string{
		"invalid_token": "This link is not good: it is older than 30 minutes, was used already, or a newer one took its place. “sallyport admin setup-link” makes another.",
	})
}
