package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/compat/fastapiusers"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// What a front end that was written for fastapi-users meets: the statuses and
// bodies are written out here as the library gives them.

// asFastAPIUsers has a server answer as the library does.
func asFastAPIUsers(c *server.Config) { c.FastAPIUsers = true }

// is fails unless a reply has this status and exactly this JSON body; "" is none.
func (r reply) is(t *testing.T, status int, body string) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %.400s", r.status, status, r.body)
	}
	if body == "" {
		if len(r.body) > 0 {
			t.Fatalf("a body where there is none: %.400s", r.body)
		}
		return r
	}
	if !reflect.DeepEqual(decoded(t, r.body), decoded(t, []byte(body))) {
		t.Fatalf("answer %.400s, want %s", r.body, body)
	}
	if got := r.header.Get("Content-Type"); got != "application/json" {
		t.Fatalf("Content-Type %q", got)
	}
	if got := r.header.Get("Cache-Control"); got != "no-store" {
		t.Fatalf("Cache-Control %q", got)
	}
	return r
}

// says is is for a refusal with a detail string.
func (r reply) says(t *testing.T, status int, detail string) reply {
	t.Helper()
	return r.is(t, status, fmt.Sprintf(`{"detail":%q}`, detail))
}

// complains fails unless a reply is FastAPI's 422 with exactly these findings, each
// "member type", and without a value that was sent.
func (r reply) complains(t *testing.T, findings ...string) reply {
	t.Helper()
	if r.status != 422 {
		t.Fatalf("status %d, want 422: %.400s", r.status, r.body)
	}
	var m struct {
		Detail []struct {
			Loc   []any  `json:"loc"`
			Msg   string `json:"msg"`
			Type  string `json:"type"`
			Input any    `json:"input"`
		} `json:"detail"`
	}
	if err := json.Unmarshal(r.body, &m); err != nil {
		t.Fatalf("%v: %.400s", err, r.body)
	}
	var got []string
	for _, d := range m.Detail {
		if d.Loc[0] != "body" || d.Msg == "" || d.Input != nil {
			t.Fatalf("a finding has another form than FastAPI's, or repeats a value: %.400s", r.body)
		}
		name := ""
		for _, part := range d.Loc[1:] {
			name += fmt.Sprint(part)
		}
		got = append(got, strings.TrimSpace(name+" "+d.Type))
	}
	if !slices.Equal(got, findings) {
		t.Fatalf("findings %q, want %q", got, findings)
	}
	return r
}

// weakPassword fails unless a reply is the library's refusal of a password.
func (r reply) weakPassword(t *testing.T, code string) reply {
	t.Helper()
	var m struct {
		Detail struct{ Code, Reason string }
	}
	if err := json.Unmarshal(r.body, &m); r.status != 400 || err != nil || m.Detail.Code != code || m.Detail.Reason == "" {
		t.Fatalf("status %d, want 400 %s with its reason: %.400s", r.status, code, r.body)
	}
	return r
}

// userBody is the library's user.
func userBody(id, email string, active, superuser, verified bool) string {
	return fmt.Sprintf(`{"id":%q,"email":%q,"is_active":%t,"is_superuser":%t,"is_verified":%t}`, id, email, active, superuser, verified)
}

// member registers NAME@example.com as a front end does, grants roles as the
// operator would, and signs in.
func (w *world) member(name string, roles ...string) (id, access string) {
	w.t.Helper()
	id = w.do("POST", "/auth/register", "", map[string]any{"email": name + "@example.com", "password": goodPassword}).want(w.t, 201, "").text(w.t, "id")
	w.grant(id, roles...)
	return id, w.jwtLogin(name, goodPassword)
}

func (w *world) jwtLogin(name, pw string) string {
	w.t.Helper()
	return w.form("/auth/jwt/login", "username", name+"@example.com", "password", pw).want(w.t, 200, "").text(w.t, "access_token")
}

// TestFastAPIUsersFlow follows the page “Flow” of the library's documentation,
// request by request, as its curl and axios examples write them.
func TestFastAPIUsersFlow(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)

		// 1. Registration
		id := w.do("POST", "/auth/register", "", `{"email": "king.arthur@camelot.bt","password": "guinevere-and-97-knights"}`).want(t, 201, "").text(t, "id")
		w.do("POST", "/auth/register", "", `{"email": "King.Arthur@camelot.bt","password": "guinevere-and-97-knights"}`).
			says(t, 400, "REGISTER_USER_ALREADY_EXISTS")

		// 2. Login, as multipart/form-data
		var form bytes.Buffer
		mw := multipart.NewWriter(&form)
		_ = mw.WriteField("username", "king.arthur@camelot.bt")
		_ = mw.WriteField("password", "guinevere-and-97-knights")
		_ = mw.Close()
		r := w.send(w.typed("POST", "/auth/jwt/login", mw.FormDataContentType(), form.String())).want(t, 200, "")
		access := r.text(t, "access_token")
		r.is(t, 200, fmt.Sprintf(`{"access_token":%q,"token_type":"bearer"}`, access))

		// 3. Get my profile
		me := w.request("GET", "/users/me", access, nil)
		me.Header.Set("Content-Type", "application/json") // as the example does
		arthur := userBody(id, "king.arthur@camelot.bt", true, false, false)
		w.send(me).is(t, 200, arthur)

		// 5. Become a superuser; get and delete any user
		other, _ := w.member("mordred")
		w.do("GET", "/users/"+other, access, nil).says(t, 403, "Forbidden")
		w.do("DELETE", "/users/"+other, access, nil).says(t, 403, "Forbidden")
		w.grant(id, "admin")
		w.do("GET", "/users/me", access, nil).is(t, 200, userBody(id, "king.arthur@camelot.bt", true, true, false))
		w.do("GET", "/users/"+other, access, nil).is(t, 200, userBody(other, "mordred@example.com", true, false, false))
		w.do("DELETE", "/users/"+other, access, nil).is(t, 204, "")
		w.do("GET", "/users/"+other, access, nil).says(t, 404, "Not Found")
		w.do("DELETE", "/users/"+other, access, nil).says(t, 404, "Not Found")

		// 6. Logout
		out := w.request("POST", "/auth/jwt/logout", access, nil)
		out.Header.Set("Content-Type", "application/json")
		w.send(out).is(t, 204, "")
		w.do("GET", "/users/me", access, nil).says(t, 401, "Unauthorized")
		w.do("POST", "/auth/jwt/logout", access, nil).says(t, 401, "Unauthorized")
		w.noSecretIn(t, "guinevere-and-97-knights")
	})
}

// TestFastAPIUsersLogin: every answer of the sign-in.
func TestFastAPIUsersLogin(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers, noLockout)
		id, access := w.member("ada")
		offID, off := w.member("off")
		login := func(fields ...string) reply { return w.form("/auth/jwt/login", fields...) }
		const name = "ada@example.com"

		for what, fields := range map[string][]string{
			"wrong password": {"username", name, "password", badPassword},
			"unknown":        {"username", "nobody@example.com", "password", goodPassword},
			"not an address": {"username", "\x00'", "password", goodPassword},
		} {
			r := login(fields...).says(t, 400, "LOGIN_BAD_CREDENTIALS")
			if r.header.Get("Www-Authenticate") != "" {
				t.Errorf("%s: a challenge with 400", what)
			}
		}
		// What generated clients send besides is ignored.
		login("username", name, "password", goodPassword, "grant_type", "password", "scope", "", "client_id", "", "client_secret", "").want(t, 200, "")
		login("username", name, "password", goodPassword, "grant_type", "", "client_id", "string", "remember", "yes").want(t, 200, "")

		login("username", name).complains(t, "password missing")
		login("username", "", "password", "").complains(t, "username missing", "password missing")
		login("username", name, "password", goodPassword, "grant_type", "refresh_token").complains(t, "grant_type string_pattern_mismatch")
		login("username", name, "password", goodPassword, "scope", "a  b").complains(t, "scope value_error")
		login("username", name, "password", goodPassword, "scope", "no:such").complains(t, "scope value_error")
		w.send(w.typed("POST", "/auth/jwt/login", formType, "username=a&username=b&password=c")).want(t, 400, "invalid_request")
		w.send(w.typed("POST", "/auth/jwt/login", formType, "username=a&password="+strings.Repeat("x", 1<<17))).want(t, 413, "body_too_large")
		w.do("POST", "/auth/jwt/login", "", map[string]any{"username": name, "password": goodPassword}).want(t, 415, "unsupported_media_type")
		w.send(w.typed("POST", "/auth/jwt/login?username=ada&password=x", formType, "username=a&password=b")).want(t, 400, "credential_in_query")
		file := "--b\r\nContent-Disposition: form-data; name=\"username\"; filename=\"x\"\r\n\r\nada\r\n--b--\r\n"
		w.send(w.typed("POST", "/auth/jwt/login", "multipart/form-data; boundary=b", file)).want(t, 400, "invalid_request")
		w.send(w.typed("POST", "/auth/jwt/login", "multipart/form-data", file)).want(t, 415, "unsupported_media_type")

		// A scope limits, and gives nothing.
		scoped := login("username", name, "password", goodPassword, "scope", "read:users").want(t, 200, "").text(t, "access_token")
		w.do("GET", "/users/"+id, scoped, nil).says(t, 403, "Forbidden")
		w.do("GET", "/users/me", scoped, nil).want(t, 200, "")

		// A disabled account is not told apart, and its sessions are over.
		w.switchOff(offID, true)
		login("username", "off@example.com", "password", goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		w.do("GET", "/users/me", off, nil).says(t, 401, "Unauthorized")

		if r := w.do("GET", "/users/me", "", nil).says(t, 401, "Unauthorized"); r.header.Get("Www-Authenticate") == "" {
			t.Error("401 without a challenge")
		}
		w.do("GET", "/users/me", access+"x", nil).says(t, 401, "Unauthorized")
		w.do("GET", "/users/"+id, "", nil).says(t, 401, "Unauthorized")
		noGrant := another(t, w, func(c *server.Config) { c.NoPasswordGrant = true })
		noGrant.form("/auth/jwt/login", "username", name, "password", goodPassword).want(t, 403, "password_sign_in_off")

		// Expired or not, a token in the header does not stand in the way of signing in.
		req := w.typed("POST", "/auth/jwt/login", formType, url.Values{"username": {name}, "password": {goodPassword}}.Encode())
		req.Header.Set("Authorization", "Bearer null")
		w.send(req).want(t, 200, "")
	})
}

// TestFastAPIUsersSession: a client that keeps no refresh token has a session that
// is as long as its token.
func TestFastAPIUsersSession(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers, func(c *server.Config) { c.AccessTTL = time.Hour })
		_, access := w.member("ada")
		list := w.do("GET", "/users/me/sessions", access, nil).want(t, 200, "").json(t)["items"].([]any)
		if len(list) != 1 {
			t.Fatalf("%d sessions, want 1", len(list))
		}
		se := list[0].(map[string]any)
		for _, e := range w.events("session.started", 1) {
			if e.ActorKind == "client" {
				t.Errorf("the session counts as a machine client's: %+v", e)
			}
		}
		began, err := time.Parse(time.RFC3339, se["created_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		ends, err := time.Parse(time.RFC3339, se["expires_at"].(string))
		if err != nil || ends.Sub(began) != time.Hour {
			t.Errorf("the session lasts %v (%v), want 1h", ends.Sub(began), err)
		}
		w.clock.advance(59 * time.Minute)
		w.do("GET", "/users/me", access, nil).want(t, 200, "")
		w.clock.advance(2 * time.Minute)
		w.do("GET", "/users/me", access, nil).says(t, 401, "Unauthorized")
		if again := w.jwtLogin("ada", goodPassword); len(w.do("GET", "/users/me/sessions", again, nil).want(t, 200, "").json(t)["items"].([]any)) != 1 {
			t.Error("the session before is still listed")
		}
		opaque := another(t, w, func(c *server.Config) { c.TokenFormat = session.Opaque })
		access = opaque.jwtLogin("ada", goodPassword)
		opaque.do("GET", "/users/me", access, nil).want(t, 200, "")
		opaque.clock.advance(61 * time.Minute)
		opaque.do("GET", "/users/me", access, nil).says(t, 401, "Unauthorized")
	})
}

// TestFastAPIUsersRegister: every answer of the registration.
func TestFastAPIUsersRegister(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)
		post := func(body any) reply { return w.do("POST", "/auth/register", "", body) }
		type m = map[string]any

		r := post(m{"email": "ada@example.com", "password": goodPassword}).want(t, 201, "")
		r.is(t, 201, userBody(r.text(t, "id"), "ada@example.com", true, false, false))
		for _, same := range []string{"ada@example.com", "ADA@example.com", "ada@EXAMPLE.COM"} {
			post(m{"email": same, "password": goodPassword}).says(t, 400, "REGISTER_USER_ALREADY_EXISTS")
		}
		post(m{"email": "ada@example.com", "password": "short"}).weakPassword(t, "REGISTER_INVALID_PASSWORD") // before the address is looked for
		post(m{"email": "bob@example.com", "password": "password123"}).weakPassword(t, "REGISTER_INVALID_PASSWORD")
		post(m{"email": "bob@example.com", "password": "bob@example.com"}).weakPassword(t, "REGISTER_INVALID_PASSWORD")
		post(m{"email": "bob@example.com", "password": ""}).weakPassword(t, "REGISTER_INVALID_PASSWORD")

		post(m{}).complains(t, "email missing", "password missing")
		post(m{"email": "not an address", "password": goodPassword}).complains(t, "email value_error")
		post(m{"email": "not an address", "password": "short"}).complains(t, "email value_error")
		post(m{"email": 1, "password": nil}).complains(t, "email string_type", "password string_type")
		post(m{"email": m{"a": 1}, "password": []string{"x"}}).complains(t, "email string_type", "password string_type")
		post(m{"Email": "bob@example.com", "PASSWORD": goodPassword}).complains(t, "email missing", "password missing")
		for _, body := range []string{`[]`, `"x"`, `null`, `1`} {
			post(body).complains(t, "model_attributes_type")
		}
		for _, body := range []string{`{`, ``, `{"email":"a","email":"b"}`, `{"email":"\ud800"}`, strings.Repeat("[", 100)} {
			post(body).complains(t, "json_invalid")
		}
		req := w.typed("POST", "/auth/register", "text/plain", `{"email":"bob@example.com","password":"`+goodPassword+`"}`)
		w.send(req).want(t, 415, "unsupported_media_type")
		w.form("/auth/jwt/login", "username", "bob@example.com", "password", goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")

		post(m{"email": "bob@example.com", "password": goodPassword, "first_name": "Bob", "id": r.text(t, "id")}).want(t, 201, "")
		if got := w.events("account.registered", 2); len(got) != 2 {
			t.Errorf("%d registrations in the audit log, want 2", len(got))
		}
		w.noSecretIn(t)

		closed := newWorld(t, testkit.SQLite(t), nil, asFastAPIUsers, func(c *server.Config) { c.Registration = "closed" })
		closed.do("POST", "/auth/register", "", m{"email": "bob@example.com", "password": goodPassword}).want(t, 403, "registration_closed")
	})
}

// TestFastAPIUsersGolden: who may call what of the library's operations is in
// version control, everything else is as it is without them, and all of it is
// documented.
func TestFastAPIUsersGolden(t *testing.T) {
	plain, w := newWorld(t, testkit.SQLite(t), nil), newWorld(t, testkit.SQLite(t), nil, asFastAPIUsers)
	ours := func(name string) bool {
		return slices.Contains(fastapiusers.Replaced(), name) || strings.Contains(name, " /auth/jwt/")
	}
	list := func(w *world) (library, others []string) {
		for _, r := range w.sv.Routes().Routes() {
			line := fmt.Sprintf("%s %s %s", r.Method, r.Path, r.Rule)
			if r.Setup {
				line += " +setup"
			}
			if ours(r.Method + " " + r.Path) {
				library = append(library, line)
			} else {
				others = append(others, line)
			}
		}
		return library, others
	}
	library, others := list(w)
	if _, want := list(plain); !slices.Equal(others, want) {
		t.Errorf("other routes changed with the switch: %q, without it %q", others, want)
	}
	file := filepath.Join("testdata", "routes-fastapi-users.txt")
	got := strings.Join(library, "\n") + "\n"
	if *updateGolden {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("routes or rules changed. If that is meant, run go test ./server -run %s -update and have the diff of %s reviewed.\ngot:\n%s\nwant:\n%s", t.Name(), file, got, want)
	}
	declaredAreDocumented(t, w)
	for _, op := range w.operations() {
		if ours(op.name()) && (op.Responses["500"] == nil || op.Responses["503"] == nil) {
			t.Errorf("%s documents %v", op.name(), op.Responses)
		}
	}
}

// TestA_FastAPIUsersMatrix: each of the library's operations, every kind of caller:
// the outcome is the one that the documented rule gives, in the library's words.
func TestA_FastAPIUsersMatrix(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		plain := newWorld(t, d, nil)
		callers := plain.callers()
		admin := plain.signIn("root", goodPassword).access
		w := another(t, plain, asFastAPIUsers)
		refused, allowed := 0, 0
		plain.unchanged(t, admin, func() {
			for _, op := range w.operations() {
				if !slices.Contains(fastapiusers.Replaced(), op.name()) && op.path != "/auth/jwt/logout" && op.path != "/auth/jwt/login" {
					continue
				}
				those := callers
				if op.path == "/auth/jwt/logout" { // it would end their sessions: only those whom it refuses
					those = slices.DeleteFunc(slices.Clone(callers), func(c caller) bool {
						status, _ := expectation(decoded(t, op.Rule), c)
						return status == 0
					})
				}
				for _, c := range those {
					req := local(op.method, op.target(), c.token, "")
					if op.RequestBody != nil {
						req = local(op.method, op.target(), c.token, `[]`, "Content-Type", "application/json")
					}
					if c.key != "" {
						req.Header.Set("X-API-Key", c.key)
					}
					r := w.handle(req)
					status, _ := expectation(decoded(t, op.Rule), c)
					if c.bad && string(op.Rule) == `"public"` && op.path != "/auth/verify" {
						status = 0 // it looks at no credentials
					}
					switch status {
					case 0:
						allowed++
						if r.status == 401 || r.status == 403 || r.status >= 500 {
							t.Errorf("%s as %s: status %d, but rule %s lets them in: %.200s", op.name(), c.name, r.status, op.Rule, r.body)
						}
					case 401:
						refused++
						r.says(t, 401, "Unauthorized")
					case 403:
						refused++
						r.says(t, 403, "Forbidden")
					}
				}
			}
		})
		if refused < 50 || allowed < 50 {
			t.Errorf("%d refused and %d allowed: too few to tell anything", refused, allowed)
		}
	})
}

// another returns a server on the database of w, with another configuration.
func another(t *testing.T, w *world, change func(*server.Config)) *world {
	t.Helper()
	return newWorld(t, w.db, nil, func(c *server.Config) {
		now, file := c.Now, w.cfg.MasterKeyFile
		*c = w.cfg
		c.Now, c.MasterKeyFile = now, file
		change(c)
	})
}

// TestL_FastAPIUsersLockout: the library's sign-in counts with all others.
func TestL_FastAPIUsersLockout(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)
		w.member("ada")
		n := 0
		for ; n < 200; n++ {
			r := w.form("/auth/jwt/login", "username", "ada@example.com", "password", badPassword)
			if r.status == 429 {
				if r.header.Get("Retry-After") == "" || r.header.Get("Ratelimit") == "" {
					t.Errorf("429 with the header %v", r.header)
				}
				break
			}
			r.says(t, 400, "LOGIN_BAD_CREDENTIALS")
		}
		if n == 0 || n == 200 {
			t.Fatalf("locked after %d guesses", n)
		}
		// Locked on this way and on the others, the right password too.
		w.form("/auth/jwt/login", "username", "ada@example.com", "password", goodPassword).want(t, 429, "too_many_attempts")
		w.do("POST", "/auth/login", "", map[string]any{"username": "ada@example.com", "password": goodPassword}).want(t, 429, "too_many_attempts")
		w.form("/token", "grant_type", "password", "username", "ada@example.com", "password", goodPassword).want(t, 429, "too_many_attempts")
		if len(w.events("signin.refused", 1)) == 0 {
			t.Error("no event")
		}
		w.noSecretIn(t, badPassword)
		w.clock.advance(25 * time.Hour)
		w.jwtLogin("ada", goodPassword)
	})
}

// TestT_FastAPIUsersSecondFactor: it is asked for on this way as on all others.
func TestT_FastAPIUsersSecondFactor(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)
		// Where one is demanded of who has none: a session from before sees its account
		// and signs out, and there is no other.
		_, bob := w.member("bob")
		strict := another(t, w, func(c *server.Config) { c.MFARequired = []string{"*"} })
		strict.do("GET", "/users/me", bob, nil).want(t, 200, "")
		strict.do("PATCH", "/users/me", bob, map[string]any{"password": badPassword}).says(t, 401, "Unauthorized")
		strict.do("POST", "/auth/jwt/logout", bob, nil).is(t, 204, "")
		strict.form("/auth/jwt/login", "username", "bob@example.com", "password", goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		w.jwtLogin("bob", goodPassword)

		id, access := w.member("ada")
		app, recovery := w.enrol(access)
		before := w.live(id)
		login := func(more ...string) reply {
			return w.form("/auth/jwt/login", append([]string{"username", "ada@example.com", "password", goodPassword}, more...)...)
		}
		login().says(t, 400, "LOGIN_BAD_CREDENTIALS")
		login("otp", app.wrong()).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		if n := w.live(id); n != before {
			t.Fatalf("%d sessions, want %d", n, before)
		}
		code := app.next()
		login("otp", code).want(t, 200, "")
		login("otp", code).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		login("otp", recovery[0]).want(t, 200, "")
		login("otp", recovery[0]).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		w.noSecretIn(t, code, recovery[0])
	})
}

// TestT_FastAPIUsersOneRefusal: the right password of an account whose second factor is
// due, or demanded, is refused as a wrong one: neither time nor lockout tells it.
func TestT_FastAPIUsersOneRefusal(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)
		_, access := w.member("ada")
		a, _ := w.enrol(access)
		w.member("bob")
		strict := another(t, w, func(c *server.Config) { c.MFARequired = []string{"*"} })
		for name, at := range map[string]*world{"ada": w, "bob": strict} {
			login := func(more ...string) reply {
				return at.form("/auth/jwt/login", append([]string{"username", name + "@example.com", "password", goodPassword}, more...)...)
			}
			for range 5 {
				began := time.Now()
				login().says(t, 400, "LOGIN_BAD_CREDENTIALS")
				if d := time.Since(began); d < 100*time.Millisecond {
					t.Errorf("%s: answered after %v", name, d)
				}
			}
			login().want(t, 429, "too_many_attempts")
		}
		var waiting int
		if _, err := d.View(t.Context()).Row("SELECT count(*) FROM sp_pending_signins", nil, &waiting); err != nil || waiting != 0 {
			t.Errorf("%d sign-ins wait for what cannot come: %v", waiting, err)
		}
		w.clock.advance(2 * time.Hour)
		w.form("/auth/jwt/login", "username", "ada@example.com", "password", goodPassword, "otp", a.next()).want(t, 200, "")
	})
}

// TestA_FastAPIUsersMassAssignment: nobody makes themselves anything.
func TestA_FastAPIUsersMassAssignment(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)
		body := map[string]any{
			"email": "eve@example.com", "password": goodPassword, "id": "00000000-0000-7000-8000-000000000001",
			"is_active": false, "is_superuser": true, "is_verified": true,
			"Role": "admin", "disabled": true, "roles": []string{"admin"}, "permissions": []string{"read:users"}, "email_verified": true,
		}
		r := w.do("POST", "/auth/register", "", body).want(t, 201, "")
		id := r.text(t, "id")
		r.is(t, 201, userBody(id, "eve@example.com", true, false, false))
		w.do("POST", "/auth/register", "", `{"email":"eve2@example.com","password":"`+goodPassword+`","is_superuser":false,"IS_SUPERUSER":true}`).complains(t, "json_invalid")
		if id == body["id"] {
			t.Error("the id is the caller's")
		}
		access := w.jwtLogin("eve", goodPassword)
		w.do("GET", "/users/me", access, nil).is(t, 200, userBody(id, "eve@example.com", true, false, false))
		w.do("GET", "/users/"+id, access, nil).says(t, 403, "Forbidden")
	})
}

// TestA_FastAPIUsersForeign: another's account is none, and ids that are none are
// refused before the database sees them.
func TestA_FastAPIUsersForeign(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, asFastAPIUsers)
		victim, _ := w.member("victim")
		_, eve := w.member("eve")
		boss, admin := w.member("boss", "admin")
		mod, modAccess := w.member("mod")
		w.permit(mod, "delete:users", "read:users")
		w.unchanged(t, admin, func() {
			for _, method := range []string{"GET", "DELETE"} {
				w.do(method, "/users/"+victim, eve, nil).says(t, 403, "Forbidden")
				w.do(method, "/users/"+victim, "", nil).says(t, 401, "Unauthorized")
				for _, id := range []string{"x", "%00", "%FF", "1%27%20OR%20%271", strings.Repeat("a", 300), "00000000-0000-4000-8000-000000000000"} {
					w.do(method, "/users/"+id, admin, nil).says(t, 404, "Not Found")
				}
			}
			// Nobody above their own rank, and the last administrator stays.
			w.do("DELETE", "/users/"+boss, modAccess, nil).says(t, 403, "Forbidden")
			w.do("DELETE", "/users/"+boss, admin, nil).want(t, 409, "last_administrator")
		})
		w.events("access.denied", 4)
		w.do("DELETE", "/users/"+victim, modAccess, nil).is(t, 204, "")
		w.noSecretIn(t)
	})
}

// TestFastAPIUsersUpdateMe: every answer of PATCH /users/me.
func TestFastAPIUsersUpdateMe(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		var box mailbox
		w := newWorld(t, d, nil, asFastAPIUsers, withMail(&box), func(c *server.Config) { c.AccessTTL = time.Hour })
		id, access := w.member("ada")
		w.member("bob")
		_, admin := w.member("root", "admin")
		me := func(token string, body any) reply { return w.do("PATCH", "/users/me", token, body) }
		ada := userBody(id, "ada@example.com", true, false, false)
		const next = "lancelot-and-41-horses"

		// What the library does not let anybody change of themselves, and what it does
		// not know, is ignored; names match exactly.
		w.unchanged(t, admin, func() {
			me(access, m{"is_active": false, "is_superuser": true, "is_verified": true, "disabled": true, "roles": []string{"admin"}, "username": "x"}).is(t, 200, ada)
			me(access, m{"Email": "eve@example.com", "PASSWORD": next}).is(t, 200, ada)
			me(access, m{"email": nil, "password": nil}).is(t, 200, ada)
			me(access, m{"email": "ada@example.com", "is_active": true, "first_name": "Ada"}).is(t, 200, ada) // as front ends that send everything back
			me(access, m{}).is(t, 200, ada)

			me(access, m{"password": "short"}).weakPassword(t, "UPDATE_USER_INVALID_PASSWORD")
			me(access, m{"password": "ada@example.com"}).weakPassword(t, "UPDATE_USER_INVALID_PASSWORD")
			me(access, m{"email": "no address", "password": "short"}).complains(t, "email value_error")
			me(access, m{"email": "no address"}).complains(t, "email value_error")
			me(access, m{"email": m{"a": "b"}, "password": 12345678}).complains(t, "password string_type", "email string_type")
			me(access, `[]`).complains(t, "model_attributes_type")
			me(access, `{"email":"a@example.com","email":"b@example.com"}`).complains(t, "json_invalid")
			me("", m{"password": next}).says(t, 401, "Unauthorized")
		})

		yes := true
		if u, err := w.sv.Accounts.Replace(t.Context(), nil, id, account.Replacement{Admin: &yes}); err != nil || slices.Contains(u.Roles, "admin") {
			t.Fatalf("somebody gave themselves the role admin: %v, %v", u.Roles, err)
		}

		// A password: other sessions end, this one goes on, and a letter tells.
		other := w.jwtLogin("ada", goodPassword)
		me(access, m{"password": next}).is(t, 200, ada)
		w.do("GET", "/users/me", other, nil).says(t, 401, "Unauthorized")
		w.do("GET", "/users/me", access, nil).is(t, 200, ada)
		w.form("/auth/jwt/login", "username", "ada@example.com", "password", goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		w.jwtLogin("ada", next)
		if n := len(box.to(w, "ada@example.com", mail.PasswordChanged)); n != 1 {
			t.Errorf("%d letters of a new password, want 1", n)
		}

		// An address: it holds when its letter's link was used.
		me(access, m{"email": "ada@new.example.com", "password": next + "2"}).is(t, 200, ada)
		w.jwtLogin("ada", next+"2")
		w.do("GET", "/users/me", access, nil).is(t, 200, ada)
		token := box.token(w, "ada@new.example.com", mail.ChangeAddress)
		w.do("POST", "/auth/verify", "", m{"token": token}).complains(t, "password missing")
		w.do("POST", "/auth/verify", access, m{"token": token}).is(t, 200, userBody(id, "ada@new.example.com", true, false, true))
		w.do("GET", "/users/me", access, nil).is(t, 200, userBody(id, "ada@new.example.com", true, false, true))

		// One that is taken is answered alike, and its owner is told.
		me(access, m{"email": "bob@example.com"}).is(t, 200, userBody(id, "ada@new.example.com", true, false, true))
		if n := len(box.to(w, "bob@example.com", mail.AccountExists)); n != 1 {
			t.Errorf("%d letters to the owner of the address, want 1", n)
		}

		// Somebody who finds a session open takes nothing over.
		w.clock.advance(11 * time.Minute)
		admin = w.jwtLogin("root", goodPassword)
		w.unchanged(t, admin, func() {
			for _, body := range []m{{"password": next}, {"email": "eve@example.com"}} {
				r := me(access, body).says(t, 401, "Unauthorized")
				if c := r.header.Get("Www-Authenticate"); !strings.Contains(c, "insufficient_user_authentication") || !strings.Contains(c, "max_age") {
					t.Errorf("challenge %q", c)
				}
			}
		})
		me(access, m{"first_name": "Ada"}).want(t, 200, "")
		w.noSecretIn(t, next)

		// Where there is no mail, an address cannot be changed, and with it nothing else.
		mute := newWorld(t, testkit.SQLite(t), nil, asFastAPIUsers)
		_, access = mute.member("ada")
		mute.do("PATCH", "/users/me", access, m{"email": "new@example.com", "password": next}).want(t, 403, "mail_off")
		mute.jwtLogin("ada", goodPassword)
	})
}

// TestFastAPIUsersUpdateUser: every answer of PATCH /users/{id}.
func TestFastAPIUsersUpdateUser(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		var box mailbox
		w := newWorld(t, d, nil, asFastAPIUsers, withMail(&box), func(c *server.Config) { c.AccessTTL = time.Hour })
		ada, adaAccess := w.member("ada")
		_, bobAccess := w.member("bob")
		boss, admin := w.member("boss", "admin")
		mod, modAccess := w.member("mod")
		w.permit(mod, "write:users")
		const next = "galahad-and-63-grails"
		patch := func(token, id string, body any) reply { return w.do("PATCH", "/users/"+id, token, body) }

		w.unchanged(t, admin, func() {
			patch("", ada, m{"is_active": false}).says(t, 401, "Unauthorized")
			patch(bobAccess, ada, m{"is_active": false}).says(t, 403, "Forbidden")
			patch(adaAccess, ada, m{"is_superuser": true}).says(t, 403, "Forbidden")
			patch(admin, "00000000-0000-4000-8000-000000000000", m{"email": 1}).says(t, 404, "Not Found")
			patch(admin, "x%00", m{}).says(t, 404, "Not Found")
			patch(admin, ada, m{"email": "bob@example.com", "is_verified": true}).says(t, 400, "UPDATE_USER_EMAIL_ALREADY_EXISTS")
			patch(admin, ada, m{"password": "short", "is_verified": true}).weakPassword(t, "UPDATE_USER_INVALID_PASSWORD")
			patch(admin, ada, m{"email": "no address"}).complains(t, "email value_error")
			patch(admin, ada, m{"is_active": "false", "is_superuser": 1, "is_verified": m{}}).complains(t, "is_active bool_type", "is_superuser bool_type", "is_verified bool_type")

			// Nobody above their own rank, nobody by halves, and the last administrator stays.
			patch(modAccess, boss, m{"password": next}).says(t, 403, "Forbidden")
			patch(modAccess, boss, m{"is_active": false}).says(t, 403, "Forbidden")
			patch(modAccess, ada, m{"is_superuser": true, "is_verified": true}).says(t, 403, "Forbidden")
			patch(admin, boss, m{"is_superuser": false}).want(t, 409, "last_administrator")
			patch(admin, boss, m{"is_active": false, "password": next}).want(t, 409, "last_administrator")
			patch(admin, ada, m{"password": next, "email": "bob@example.com"}).says(t, 400, "UPDATE_USER_EMAIL_ALREADY_EXISTS")
			patch(admin, ada, m{"is_active": nil, "is_superuser": nil, "unknown": true}).is(t, 200, userBody(ada, "ada@example.com", true, false, false))
		})
		w.jwtLogin("ada", goodPassword)
		w.permit(mod, "write:users", "assign:roles")
		patch(modAccess, ada, m{"is_superuser": true}).says(t, 403, "Forbidden") // holds it not
		w.events("access.denied", 5)

		patch(modAccess, ada, m{"is_verified": true}).is(t, 200, userBody(ada, "ada@example.com", true, false, true))
		patch(admin, ada, m{"email": "ada@new.example.com", "is_superuser": true}).is(t, 200, userBody(ada, "ada@new.example.com", true, true, false))
		w.do("GET", "/users/"+boss, adaAccess, nil).want(t, 200, "")
		patch(modAccess, ada, m{"is_verified": true}).says(t, 403, "Forbidden") // she is above mod now
		patch(admin, ada, m{"is_superuser": false, "is_verified": true, "password": next}).is(t, 200, userBody(ada, "ada@new.example.com", true, false, true))
		w.do("GET", "/users/me", adaAccess, nil).says(t, 401, "Unauthorized")
		adaAccess = w.form("/auth/jwt/login", "username", "ada@new.example.com", "password", next).want(t, 200, "").text(t, "access_token")
		if n := len(box.to(w, "ada@new.example.com", mail.PasswordChanged)); n != 1 {
			t.Errorf("%d letters of a new password, want 1", n)
		}
		// With a new address, the letter of the new password goes to the one before.
		patch(admin, ada, m{"password": next + "3", "email": "ada@third.example.com"}).want(t, 200, "")
		if n := len(box.to(w, "ada@new.example.com", mail.PasswordChanged)); n != 2 {
			t.Errorf("%d letters of a new password, want 2", n)
		}
		patch(admin, ada, m{"password": next, "email": "ada@new.example.com", "is_verified": true}).want(t, 200, "")
		adaAccess = w.form("/auth/jwt/login", "username", "ada@new.example.com", "password", next).want(t, 200, "").text(t, "access_token")
		patch(admin, ada, m{"is_active": false}).is(t, 200, userBody(ada, "ada@new.example.com", false, false, true))
		w.do("GET", "/users/me", adaAccess, nil).says(t, 401, "Unauthorized")
		patch(admin, ada, m{"is_active": true}).is(t, 200, userBody(ada, "ada@new.example.com", true, false, true))

		// One's own, by id: this session goes on.
		patch(admin, boss, m{"password": next}).want(t, 200, "")
		w.do("GET", "/users/me", admin, nil).want(t, 200, "")

		// A password needs a session, and a fresh one; the rest does not.
		k := w.key(tokens{access: admin}, "write:users", "read:users", "role:admin").key
		w.send(w.keyed("PATCH", "/users/"+ada, k, m{"password": next + "2"})).says(t, 403, "Forbidden")
		w.send(w.keyed("PATCH", "/users/"+ada, k, m{"is_verified": false})).want(t, 200, "")
		w.clock.advance(11 * time.Minute)
		patch(admin, ada, m{"password": next + "2", "is_verified": true}).says(t, 401, "Unauthorized")
		patch(admin, ada, m{"email": "ada@example.com"}).is(t, 200, userBody(ada, "ada@example.com", true, false, false))
		w.noSecretIn(t, next)
	})
}

// TestE_FastAPIUsersLetters: the library's four routes that letters go with.
func TestE_FastAPIUsersLetters(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		var box mailbox
		w := newWorld(t, d, nil, asFastAPIUsers, withMail(&box), func(c *server.Config) { c.AccessTTL = time.Hour })
		post := func(path, token string, body any) reply { return w.do("POST", path, token, body) }
		id, access := w.member("ada")
		const next, name = "percival-and-25-lances", "ada@example.com"

		// Known and unknown are answered alike.
		for _, path := range []string{"/auth/forgot-password", "/auth/request-verify-token"} {
			known := post(path, "", m{"email": name}).is(t, 202, "null")
			unknown := post(path, "", m{"email": "nobody@example.com"}).is(t, 202, "null")
			for _, r := range []reply{known, unknown} {
				r.header.Del("X-Request-Id")
				r.header.Del("Date")
			}
			if !reflect.DeepEqual(known, unknown) {
				t.Errorf("%s: %v and %v", path, known, unknown)
			}
			post(path, "", m{}).complains(t, "email missing")
			post(path, "", m{"email": "no address"}).complains(t, "email value_error")
			post(path, "", m{"email": []string{name}}).complains(t, "email string_type")
			post(path, "", m{"email": "a@example.com\r\nBcc: eve@example.com"}).complains(t, "email value_error")
		}

		// Reset.
		token := box.token(w, name, mail.Reset)
		post("/auth/reset-password", "", m{"token": token}).complains(t, "password missing")
		post("/auth/reset-password", "", m{"token": 1, "password": true}).complains(t, "token string_type", "password string_type")
		post("/auth/reset-password", "", m{"token": token, "password": "short"}).weakPassword(t, "RESET_PASSWORD_INVALID_PASSWORD")
		for _, bad := range []string{"", "x", token + "x", strings.ToUpper(token), box.token(w, name, mail.Verify)} {
			post("/auth/reset-password", "", m{"token": bad, "password": next}).says(t, 400, "RESET_PASSWORD_BAD_TOKEN")
		}
		w.jwtLogin("ada", goodPassword)
		post("/auth/reset-password", "Bearer-of-nothing", m{"token": token, "password": next}).is(t, 200, "null")
		post("/auth/reset-password", "", m{"token": token, "password": next}).says(t, 400, "RESET_PASSWORD_BAD_TOKEN")
		w.do("GET", "/users/me", access, nil).says(t, 401, "Unauthorized")
		w.form("/auth/jwt/login", "username", name, "password", goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		access = w.jwtLogin("ada", next)
		w.do("GET", "/users/me", access, nil).is(t, 200, userBody(id, name, true, false, true))

		// Verify, with the access token: everything stays.
		_, bob := w.member("bob")
		post("/auth/request-verify-token", "", m{"email": "bob@example.com"}).is(t, 202, "null")
		token = box.token(w, "bob@example.com", mail.Verify)
		post("/auth/verify", "", m{}).complains(t, "token missing")
		for _, bad := range []string{"", "x", token + "x"} {
			post("/auth/verify", "", m{"token": bad}).says(t, 400, "VERIFY_USER_BAD_TOKEN")
			post("/auth/verify", bob, m{"token": bad}).says(t, 400, "VERIFY_USER_BAD_TOKEN")
		}
		post("/auth/verify", "eyJhbGciOiJub25lIn0.e30.", m{"token": token}).says(t, 401, "Unauthorized") // and nothing is used up
		post("/auth/verify", "", m{"token": token, "password": badPassword}).want(t, 400, "wrong_password")
		r := post("/auth/verify", bob, m{"token": token}).want(t, 200, "")
		r.is(t, 200, userBody(r.text(t, "id"), "bob@example.com", true, false, true))
		w.jwtLogin("bob", goodPassword)
		w.do("GET", "/users/me", bob, nil).want(t, 200, "")
		post("/auth/verify", bob, m{"token": token}).says(t, 400, "VERIFY_USER_ALREADY_VERIFIED")
		post("/auth/verify", "", m{"token": token}).says(t, 400, "VERIFY_USER_BAD_TOKEN")

		// With the password: the same.
		_, carl := w.member("carl")
		post("/auth/request-verify-token", "", m{"email": "carl@example.com"}).is(t, 202, "null")
		post("/auth/verify", "", m{"token": box.token(w, "carl@example.com", mail.Verify), "password": goodPassword}).want(t, 200, "")
		w.do("GET", "/users/me", carl, nil).want(t, 200, "")

		// With the token alone, what somebody else may have put there is worth nothing,
		// also where they send an access token of their own account along.
		for _, name := range []string{"dora", "emil"} {
			_, thief := w.member(name)
			address, with := name+"@example.com", ""
			if name == "emil" {
				with = bob
			}
			post("/auth/request-verify-token", "", m{"email": address}).is(t, 202, "null")
			r := post("/auth/verify", with, m{"token": box.token(w, address, mail.Verify)}).want(t, 200, "")
			r.is(t, 200, userBody(r.text(t, "id"), address, true, false, true))
			w.do("GET", "/users/me", thief, nil).says(t, 401, "Unauthorized")
			w.form("/auth/jwt/login", "username", address, "password", goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")
			post("/auth/forgot-password", "", m{"email": address}).is(t, 202, "null")
			post("/auth/reset-password", "", m{"token": box.token(w, address, mail.Reset), "password": next}).is(t, 200, "null")
			w.jwtLogin(name, next)
		}
		w.events("mail_token.refused", 1)
		w.noSecretIn(t, next, token)

		mute := newWorld(t, testkit.SQLite(t), nil, asFastAPIUsers)
		mute.do("POST", "/auth/forgot-password", "", m{"email": name}).want(t, 403, "mail_off")
		mute.do("POST", "/auth/request-verify-token", "", m{"email": name}).want(t, 403, "mail_off")
	})
}

// TestE_FastAPIUsersPages: the pages that letters lead to speak the server's own
// operations, and work all the same.
func TestE_FastAPIUsersPages(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, asFastAPIUsers, withMail(&box))
		_, access := w.member("ada")
		page := func(path string, fields url.Values) reply {
			req := w.typed("POST", path, formType, fields.Encode())
			req.Header.Set("Sec-Fetch-Site", "same-origin")
			return w.send(req)
		}
		const next = "tristan-and-12-harps"
		w.do("POST", "/auth/request-verify-token", "", map[string]string{"email": "ada@example.com"}).is(t, 202, "null")
		token := box.token(w, "ada@example.com", mail.Verify)
		if r := page("/account/verify", url.Values{"token": {token}, "password": {badPassword}}); r.status != 403 || !bytes.Contains(r.body, []byte("The password is not right")) {
			t.Errorf("a wrong password: status %d: %.300s", r.status, r.body)
		}
		if r := page("/account/verify", url.Values{"token": {token}, "password": {goodPassword}}); r.status != 303 {
			t.Fatalf("verify: status %d: %.300s", r.status, r.body)
		}
		if r := w.send(w.browse("GET", "/account/sign-in", "", nil)); r.status != 200 {
			t.Errorf("sign-in page: status %d", r.status)
		}
		if me := w.do("GET", "/users/me", access, nil).want(t, 200, "").json(t); me["is_verified"] != true {
			t.Errorf("not verified: %v", me)
		}
		w.do("POST", "/auth/forgot-password", "", map[string]string{"email": "ada@example.com"}).is(t, 202, "null")
		if r := page("/account/reset", url.Values{"token": {box.token(w, "ada@example.com", mail.Reset)}, "password": {next}}); r.status >= 400 {
			t.Fatalf("reset: status %d: %.300s", r.status, r.body)
		}
		w.jwtLogin("ada", next)
	})
}

// TestE_FastAPIUsersSilent: where addresses are verified first, nobody learns by
// registering or signing in who has an account.
func TestE_FastAPIUsersSilent(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		type m = map[string]any
		var box mailbox
		w := newWorld(t, d, nil, asFastAPIUsers, withMail(&box), noLockout, func(c *server.Config) { c.VerifyAddress = true })
		register := func(email string) reply {
			return w.do("POST", "/auth/register", "", m{"email": email, "password": goodPassword, "is_verified": true})
		}
		login := func(pw string) reply { return w.form("/auth/jwt/login", "username", "ada@example.com", "password", pw) }
		first := register("ada@example.com").want(t, 202, "")
		if first.json(t)["message"] == "" || len(first.json(t)) != 1 {
			t.Errorf("answer %s", first.body)
		}
		login(goodPassword).says(t, 400, "LOGIN_BAD_CREDENTIALS")
		r := w.do("POST", "/auth/verify", "", m{"token": box.token(w, "ada@example.com", mail.Verify), "password": goodPassword}).want(t, 200, "")
		r.is(t, 200, userBody(r.text(t, "id"), "ada@example.com", true, false, true))
		login(goodPassword).want(t, 200, "")

		// Now the address is taken: the same bytes, and a letter to its owner.
		if again := register("ada@example.com"); again.status != first.status || !bytes.Equal(again.body, first.body) {
			t.Errorf("%d %s for an address that is taken, %d %s for one that is not", again.status, again.body, first.status, first.body)
		}
		if n := len(box.to(w, "ada@example.com", mail.AccountExists)); n != 1 {
			t.Errorf("%d letters to the owner, want 1", n)
		}
		login(goodPassword).want(t, 200, "")
		register("no address").complains(t, "email value_error")
		w.do("POST", "/auth/register", "", m{"email": "ada@example.com", "password": "short"}).weakPassword(t, "REGISTER_INVALID_PASSWORD")
		w.noSecretIn(t)
	})
}

// TestC_FastAPIUsersInABrowser: a page of another origin, with the browser's own
// FormData, as the library's axios examples send it.
func TestC_FastAPIUsersInABrowser(t *testing.T) {
	tab := testkit.Browser(t, time.Minute)
	page := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(rw, "<!DOCTYPE html><title>front end</title>")
	}))
	t.Cleanup(page.Close)
	w := newWorld(t, testkit.SQLite(t), nil, asFastAPIUsers, func(c *server.Config) { c.CORS.Origins = []string{page.URL} })
	var got string
	err := chromedp.Run(tab, chromedp.Navigate(page.URL), chromedp.Evaluate(`(async () => {
		const base = `+strconv.Quote(w.http.URL)+`, json = {"Content-Type": "application/json"};
		const said = async (r) => r.status + " " + await r.text();
		const body = JSON.stringify({email: "ada@example.com", password: "`+goodPassword+`"});
		const out = [(await fetch(base + "/auth/register", {method: "POST", headers: json, body})).status];
		out.push(await said(await fetch(base + "/auth/register", {method: "POST", headers: json, body})));
		const form = new FormData();
		form.set("username", "ada@example.com");
		form.set("password", "wrong");
		out.push(await said(await fetch(base + "/auth/jwt/login", {method: "POST", body: form})));
		form.set("password", "`+goodPassword+`");
		const token = (await (await fetch(base + "/auth/jwt/login", {method: "POST", body: form})).json()).access_token;
		const headers = {Authorization: "Bearer " + token, ...json};
		out.push((await (await fetch(base + "/users/me", {headers})).json()).email);
		out.push((await fetch(base + "/users/me", {method: "PATCH", headers, body: JSON.stringify({password: "merlin-and-58-owls"})})).status);
		out.push(await said(await fetch(base + "/auth/jwt/logout", {method: "POST", headers})));
		out.push(await said(await fetch(base + "/users/me", {headers})));
		return out.join("; ");
	})()`, &got, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if err != nil {
		t.Fatal(err)
	}
	const want = `201; 400 {"detail":"REGISTER_USER_ALREADY_EXISTS"}; 400 {"detail":"LOGIN_BAD_CREDENTIALS"}; ada@example.com; 200; 204 ; 401 {"detail":"Unauthorized"}`
	if got != want {
		t.Errorf("the page got %s, want %s", got, want)
	}
}

// TestV_FastAPIUsersInput: whatever stands where a text or a flag is expected, the
// answer is a refusal or a change, in the library's form, and repeats nothing.
func TestV_FastAPIUsersInput(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, asFastAPIUsers, withMail(&box), noLockout)
		_, admin := w.member("root", "admin")
		victim, _ := w.member("victim")
		const planted = "planted-secret-4711"
		values := []any{
			nil, true, 1, -1.5e300,
			[]any{planted},
			map[string]any{"$ne": planted},
			"", planted, "\x00" + planted, "\u202e" + planted, "' OR '1'='1",
			planted + "@example.com\r\nBcc: x@example.com", strings.Repeat("ä", 20_000), strings.Repeat(planted, 500), "\ufffd",
		}
		tried := 0
		for _, op := range w.operations() {
			if !slices.Contains(fastapiusers.Replaced(), op.name()) && op.path != "/auth/jwt/login" || op.RequestBody == nil {
				continue
			}
			for _, content := range op.RequestBody.Content {
				for member := range content.Schema.Properties {
					for _, v := range values {
						body := map[string]any{"email": "new@example.com", "password": goodPassword, "token": "vt_x", "username": "root@example.com"}
						body[member] = v
						var r reply
						if op.path == "/auth/jwt/login" {
							text, ok := v.(string)
							if !ok {
								continue
							}
							r = w.form(op.path, "username", "root@example.com", "password", goodPassword, member, text)
						} else {
							token := ""
							if strings.Contains(op.path, "/users/") {
								token = admin
							}
							r = w.do(op.method, op.target(victim), token, body)
						}
						tried++
						if r.status >= 500 || r.status == 401 && op.path != "/auth/verify" {
							t.Fatalf("%s with %s = %.40q: status %d: %.200s", op.name(), member, v, r.status, r.body)
						}
						if r.status >= 400 && bytes.Contains(r.body, []byte("planted")) {
							t.Errorf("%s with %s = %.40q: the answer repeats it: %.300s", op.name(), member, v, r.body)
						}
						if got := r.header.Get("Content-Type"); got != "application/json" {
							t.Errorf("%s with %s = %.40q: Content-Type %q", op.name(), member, v, got)
						}
					}
				}
			}
		}
		if tried < 200 {
			t.Errorf("only %d requests: too few to tell anything", tried)
		}
		w.noSecretIn(t, "planted")
	})
}

// TestQ_FastAPIUsersLimits: the library's operations are limited as the server's own.
func TestQ_FastAPIUsersLimits(t *testing.T) {
	limited := func(c *server.Config) { c.Limits = server.Limits{Default: server.LimitOff, Register: "2/hour"} }
	limits := func(w *world) map[string]string {
		out := map[string]string{}
		for _, r := range w.sv.Routes().Routes() {
			if r.Limits != nil {
				out[r.Method+" "+r.Path] = fmt.Sprint(r.Limits)
			}
		}
		return out
	}
	w := newWorld(t, testkit.SQLite(t), nil, limited, asFastAPIUsers)
	own, library := limits(newWorld(t, testkit.SQLite(t), nil, limited)), limits(w)
	own["POST /auth/jwt/login"] = own["POST /auth/login"]
	if len(own) < 6 || !reflect.DeepEqual(own, library) {
		t.Errorf("limits %v, of the server's own operations %v", library, own)
	}
	register := func(name string) reply {
		return w.do("POST", "/auth/register", "", map[string]any{"email": name + "@example.com", "password": goodPassword})
	}
	register("ada").want(t, 201, "")
	register("ada").says(t, 400, "REGISTER_USER_ALREADY_EXISTS")
	r := register("bob").want(t, 429, "rate_limited")
	if r.header.Get("Retry-After") == "" || r.header.Get("Content-Type") != "application/json" || r.text(t, "detail") == "" {
		t.Errorf("%v %s", r.header, r.body)
	}
}
