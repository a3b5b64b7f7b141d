package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
)

// Notices of what happens to an account at sign-in.

const (
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
	newer   = "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0"
	chrome  = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0 Safari/537.36"
)

// with signs in with a program of this name.
func (v *visitor) with(userAgent, name, pw string, more ...string) reply {
	v.w.t.Helper()
	form := url.Values{"grant_type": {"password"}, "username": {name}, "password": {pw}}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	req := v.w.typed("POST", "/token", formType, form.Encode())
	req.Header.Set("User-Agent", userAgent)
	return v.send(req)
}

// A new program or network is told of, once; an update of the program, another
// address nearby, the first sign-in ever and one that fails are not.
func TestL_NewDevice(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		w.person("ada", true)
		home, near, far, six := w.at("198.51.100.7"), w.at("198.51.100.200"), w.at("203.0.113.9"), w.at("2001:db8:1:2::3")
		letters := 0
		told := func(what string, n int) {
			t.Helper()
			got := box.to(w, "ada@example.com", mail.NewDevice)
			if letters += n; len(got) != letters {
				t.Fatalf("%s: %d letters, want %d", what, len(got), letters)
			}
		}
		home.with(firefox, "ada", badPassword).want(t, 401, "invalid_grant")
		told("a wrong password", 0)
		r := home.with(firefox, "ada", goodPassword).want(t, 200, "")
		told("the first sign-in ever", 0)
		w.clock.advance(time.Minute)
		home.with(firefox, "ada", goodPassword).want(t, 200, "")
		home.with(newer, "ada", goodPassword).want(t, 200, "")
		near.with(firefox, "ada", goodPassword).want(t, 200, "")
		told("the same", 0)
		home.with(chrome, "ada", badPassword).want(t, 401, "invalid_grant")
		told("a wrong password with another program", 0)
		home.with(chrome, "ada", goodPassword).want(t, 200, "")
		told("another program", 1)
		far.with(firefox, "ada", goodPassword).want(t, 200, "")
		told("another network", 1)
		six.with(firefox, "ada", goodPassword).want(t, 200, "")
		told("an IPv6 network", 1)
		w.at("2001:db8:1:99::8").with(firefox, "ada", goodPassword).want(t, 200, "")
		told("the same site", 0)
		far.with(newer, "ada", goodPassword).want(t, 200, "")
		told("once", 0)
		// A refresh is no sign-in.
		req := w.request("POST", "/token/refresh", "", map[string]string{"refresh_token": r.text(t, "refresh_token")})
		req.Header.Set("User-Agent", chrome)
		w.at("192.0.2.1").send(req).want(t, 200, "")
		told("a refresh", 0)
		// By mail, and with a second factor: when it is done, and not before.
		_, token, _ := box.letter(w, "ada@example.com")
		req = w.request("POST", "/auth/link", "", map[string]string{"token": token})
		req.Header.Set("User-Agent", firefox)
		six2 := w.at("2001:db8:2::1")
		access := six2.send(req).want(t, 200, "").text(t, "access_token")
		told("by mail", 1)
		a, _ := w.enrol(access)
		w.clock.advance(25 * time.Hour)
		other := w.at("192.0.2.77")
		mfa := other.with(firefox, "ada", goodPassword).want(t, 403, "mfa_required").text(t, "mfa_token")
		told("half a sign-in", 0)
		req = w.request("POST", "/2fa/verify", "", map[string]string{"mfa_token": mfa, "code": a.next()})
		req.Header.Set("User-Agent", firefox)
		other.send(req).want(t, 200, "")
		told("a whole one", 1)
		// One that was not seen for long is new again; one that is used is not.
		for range 3 {
			w.clock.advance(100 * 24 * time.Hour)
			home.with(firefox, "ada", goodPassword, "otp", a.next()).want(t, 200, "")
		}
		told("used all the time", 0)
		far.with(firefox, "ada", goodPassword, "otp", a.next()).want(t, 200, "")
		told("after 300 days", 1)
		w.cleanUp()
		var left int
		if _, err := d.View(t.Context()).Row("SELECT count(*) FROM sp_devices", nil, &left); err != nil || left != 2 {
			t.Errorf("%d devices are remembered: %v", left, err)
		}
	})
}

// Where somebody signed in who registered with another's address is no place that its
// owner knows.
func TestL_DevicesOfAnother(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), withMailSignIn, noLockout)
		w.person("ada", false)
		mallory, ada := w.at("203.0.113.9"), w.at("198.51.100.7")
		mallory.with(firefox, "ada", goodPassword).want(t, 200, "")
		_, token, _ := box.letter(w, "ada@example.com")
		ada.send(w.request("POST", "/auth/link", "", map[string]string{"token": token})).want(t, 200, "")
		w.do("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"}).want(t, 202, "")
		next := "another-" + goodPassword
		w.do("POST", "/auth/reset-password", "", map[string]string{"token": box.token(w, "ada@example.com", mail.Reset), "password": next}).want(t, 200, "")
		ada.with(firefox, "ada", next).want(t, 200, "")
		before := len(box.to(w, "ada@example.com", mail.NewDevice))
		mallory.with(firefox, "ada", next).want(t, 200, "")
		if n := len(box.to(w, "ada@example.com", mail.NewDevice)) - before; n != 1 {
			t.Errorf("%d letters of who was there before, want 1", n)
		}
		ada.with(newer, "ada", next).want(t, 200, "") // the control: hers is known
		if n := len(box.to(w, "ada@example.com", mail.NewDevice)) - before; n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
	})
}

// Nobody is pestered: five letters a day, and of an account's devices the last fifty
// are remembered. What is stored tells neither program nor network.
func TestL_NewDevicesAreBounded(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), noLockout)
		w.person("ada", true)
		v := w.at("198.51.100.7")
		for i := range 70 {
			v.with(fmt.Sprintf("program-%c%c", 'a'+i/10, 'a'+i%10), "ada", goodPassword).want(t, 200, "")
		}
		if n := len(box.to(w, "ada@example.com", mail.NewDevice)); n != 5 {
			t.Errorf("%d letters", n)
		}
		var n int
		if _, err := d.View(t.Context()).Row("SELECT count(*) FROM sp_devices", nil, &n); err != nil || n > 55 {
			t.Errorf("%d devices are remembered: %v", n, err)
		}
		if err := d.View(t.Context()).Rows("SELECT device FROM sp_devices", nil, func(scan db.Scan) error {
			var b []byte
			err := scan(&b)
			if len(b) != 32 || strings.Contains(string(b), "program") {
				t.Errorf("%q", b)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(25 * time.Hour)
		v.with("another", "ada", goodPassword).want(t, 200, "")
		if n := len(box.to(w, "ada@example.com", mail.NewDevice)); n != 6 {
			t.Errorf("%d letters the next day", n)
		}
	})
}

// Without mail, devices are remembered all the same: when mail is switched on,
// nobody is told of what they have used all along.
func TestL_DevicesWithoutMail(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, noLockout)
	w.person("ada", true)
	v := w.at("198.51.100.7")
	for range 2 {
		v.with(firefox, "ada", goodPassword).want(t, 200, "")
		w.clock.advance(time.Minute)
	}
	later := w.restarted(withMail(&box), noLockout)
	v = later.at("198.51.100.7")
	v.with(firefox, "ada", goodPassword).want(t, 200, "")
	if n := len(box.to(later, "ada@example.com", mail.NewDevice)); n != 0 {
		t.Errorf("%d letters", n)
	}
	v.with(chrome, "ada", goodPassword).want(t, 200, "")
	if n := len(box.to(later, "ada@example.com", mail.NewDevice)); n != 1 {
		t.Errorf("%d letters", n)
	}
}

// Who has a second factor switched on or off, or a recovery code used, is told, also
// when the operator does it; a code that is refused is no news.
func TestT_Notices(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), noLockout)
		id := w.person("ada", true)
		ada := w.signIn("ada", goodPassword)
		count := func(on, off, used int) {
			t.Helper()
			for k, want := range map[mail.Kind]int{mail.SecondFactorOn: on, mail.SecondFactorOff: off, mail.RecoveryCodeUsed: used} {
				if n := len(box.to(w, "ada@example.com", k)); n != want {
					t.Errorf("%d letters %s, want %d", n, k, want)
				}
			}
		}
		w.do("POST", "/2fa/setup", ada.access, nil).want(t, 200, "")
		count(0, 0, 0)
		a, recovery := w.enrol(ada.access)
		count(1, 0, 0)
		w.verify(w.due("ada"), a.wrong()).want(t, 401, "invalid_2fa_code")
		w.verify(w.due("ada"), a.next()).want(t, 200, "")
		count(1, 0, 0)
		w.verify(w.due("ada"), recovery[0]).want(t, 200, "")
		w.verify(w.due("ada"), recovery[0]).want(t, 401, "invalid_2fa_code")
		count(1, 0, 1)
		w.do("DELETE", "/2fa", ada.access, map[string]string{"code": a.wrong()}).want(t, 400, "invalid_2fa_code")
		count(1, 0, 1)
		w.do("DELETE", "/2fa", ada.access, map[string]string{"code": recovery[1]}).want(t, 204, "")
		count(1, 1, 2)
		w.enrol(ada.access)
		if err := w.sv.SignIn.Reset(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		count(2, 2, 2)
	})
}
