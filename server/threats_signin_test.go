package server_test

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

const formType = "application/x-www-form-urlencoded"

// typed returns a request whose body has a content type of its own.
func (w *world) typed(method, path, contentType, body string) *http.Request {
	w.t.Helper()
	req := w.request(method, path, "", body)
	req.Header.Del("Content-Type")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req
}

// signInRequests are the ways to sign in with a password.
func (w *world) signInRequests(name, pw string) map[string]*http.Request {
	w.t.Helper()
	grant := url.Values{"grant_type": {"password"}, "username": {name}, "password": {pw}}.Encode()
	return map[string]*http.Request{
		"/token":           w.typed("POST", "/token", formType, grant),
		"/auth/login JSON": w.request("POST", "/auth/login", "", map[string]string{"username": name, "password": pw}),
		"/auth/login form": w.typed("POST", "/auth/login", formType, grant),
	}
}

// setHash stores what an import, a restore or a foothold in the database could
// have put there.
func (w *world) setHash(id, hash string) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec("UPDATE sp_accounts SET password_hash = $2 WHERE id = $1", id, hash)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) hash(id string) (hash string) {
	w.t.Helper()
	if _, err := w.db.View(w.t.Context()).Row("SELECT password_hash FROM sp_accounts WHERE id = $1", []any{id}, &hash); err != nil {
		w.t.Fatal(err)
	}
	return hash
}

func (w *world) disable(id string) {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *db.Tx) error { return role.SetDisabled(tx, id, true) }); err != nil {
		w.t.Fatal(err)
	}
}

func bcryptOf(t *testing.T, pw string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(pw), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// djangoHash is PBKDF2 of djangoPassword as Django stores it.
const (
	djangoPassword = "not a password"
	djangoHash     = "pbkdf2_sha256$10000$kjVJaVz6qsnJ$5yPHw3rwJGECpUf70daLGhOrQ5+AMxIJdz1c3bqK1Rs="
)

// An unknown name, a wrong password, a disabled account and one whose stored
// hash cannot be used are answered alike, everywhere.
func TestL_RefusalsAreAlike(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		w.register("ada")
		w.disable(w.register("disabled"))
		for name, hash := range map[string]string{
			"nopassword": "", "switchedoff": "!", "shadow": "*LK*", "md5crypt": "$1$salt$qJH7.N4xYta3aEG/dfqo/0", "sha512crypt": "$6$saltsalt$x",
			"nonsense": "hello", "truncated": "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ", "cheap": bcryptOf(t, "something else altogether"),
		} {
			w.setHash(w.register(name), hash)
		}
		const wrong = "carousel-oatmeal-63-dirigible"
		type try struct{ name, pw string }
		tries := map[string]try{
			"wrong": {"ada", wrong}, "wrong, by address": {"ada@example.com", wrong}, "unknown": {"nobody", goodPassword}, "unknown address": {"nobody@example.com", goodPassword},
			"disabled": {"disabled", goodPassword}, "disabled and wrong": {"disabled", wrong}, "in another case": {"ada", strings.ToUpper(goodPassword)},
			"no name at all": {"@", wrong}, "SQL": {"' OR '1'='1", wrong}, "NUL": {"ada\x00", goodPassword}, "blank": {"ada ", goodPassword},
			"long": {strings.Repeat("a", 5000), wrong}, "right-to-left": {"\u202eada", goodPassword}, "wildcard": {"%", goodPassword}, "several": {"ada@example.com, bob@example.com", goodPassword},
			"long password": {"ada", strings.Repeat("x", 20<<10)}, "the hash itself": {"ada", ""}, "the id": {"", goodPassword},
		}
		for _, name := range []string{"nopassword", "switchedoff", "shadow", "md5crypt", "sha512crypt", "nonsense", "truncated", "cheap"} {
			tries[name] = try{name, goodPassword}
		}
		id := w.do("GET", "/users/me", w.signIn("ada", goodPassword).access, nil).text(t, "id")
		tries["the hash itself"] = try{"ada", w.hash(id)}
		tries["the id"] = try{id, goodPassword}
		before := w.holdings()

		names := slices.Sorted(maps.Keys(tries))
		want := map[string]reply{}
		for way, req := range w.signInRequests("ada", wrong) {
			want[way] = w.send(req)
		}
		want["/token"].want(t, 401, "invalid_grant")
		if c := want["/token"].header.Get("Www-Authenticate"); c != "Bearer" {
			t.Errorf("challenge %q", c)
		}
		want["/auth/login JSON"].want(t, 401, "invalid_credentials")
		tr := w.trail()
		parallel(len(names), func(i int) {
			try := tries[names[i]]
			for way, req := range w.signInRequests(try.name, try.pw) {
				r := tr.send(names[i]+" at "+way, req)
				alike(t, names[i]+" at "+way, r, want[way])
				quiet(t, names[i]+" at "+way, r, try.pw)
			}
		})
		w.holds(before)
		tr.audited("signin.refused", audit.Failure, goodPassword, wrong, strings.ToUpper(goodPassword))
		for way, req := range w.signInRequests("ada", goodPassword) {
			if r := w.send(req); r.status != 200 || r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("the right password at %s: status %d, Cache-Control %q", way, r.status, r.header.Get("Cache-Control"))
			}
		}
	})
}

// With the real cost, the time of a refusal tells nothing. Each is held to a
// whole tenth of a second: none is ever answered before the first. The medians
// are compared coarsely, for other programs use the machine as well.
func TestL_TimingOfRefusals(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, noLockout, withMail(&mailbox{}), func(c *server.Config) { c.Password, c.VerifyAddress = password.Config{Permits: 7}, true })
	w.person("ada", true)
	w.disable(w.person("disabled", true))
	w.setHash(w.person("unusable", true), "!")
	w.setHash(w.person("invited", true), "")
	w.setHash(w.person("cheap", true), bcryptOf(t, "something else altogether"))
	w.person("unverified", false)
	passwords := map[string]string{"unverified": goodPassword, "disabled": goodPassword} // whoever knows it learns nothing either
	classes := []string{"nobody", "ada", "disabled", "unusable", "invited", "cheap", "unverified"}
	const rounds, grid = 6, 100 * time.Millisecond

	for attempt := 1; ; attempt++ {
		times := make([][]time.Duration, len(classes))
		for round := range rounds {
			parallel(len(classes), func(i int) {
				i = (i + round) % len(classes) // nobody is always first
				began := time.Now()
				w.form("/token", "grant_type", "password", "username", classes[i], "password", cmp.Or(passwords[classes[i]], "carousel-oatmeal-63-dirigible")).want(t, 401, "invalid_grant")
				times[i] = append(times[i], time.Since(began))
			})
		}
		least, most := time.Hour, time.Duration(0)
		for i, name := range classes {
			slices.Sort(times[i])
			if times[i][0] < grid {
				t.Errorf("%s was refused after %v, before the grid of %v", name, times[i][0], grid)
			}
			median := times[i][rounds/2]
			t.Logf("%-10s median %v", name, median.Round(100*time.Microsecond))
			least, most = min(least, median), max(most, median)
		}
		if float64(most) < 1.5*float64(least) {
			return
		}
		if attempt == 5 {
			t.Fatalf("medians from %v to %v, five times in a row", least, most)
		}
	}
}

// Every byte of a password counts: behind the 72nd, behind a NUL, in every
// case; and the two spellings of the same text are the same password.
func TestL_EveryByteCounts(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, noLockout)
	long := strings.Repeat("quartz-lantern ", 6) // 90 bytes
	composed, decomposed := "gr\u00fcner-\u00e9lephant-53", "gru\u0308ner-e\u0301lephant-53"
	makeUser := func(name, pw string) {
		t.Helper()
		w.do("POST", "/auth/register", "", map[string]any{"username": name, "email": name + "@example.com", "password": pw}).want(t, 201, "")
	}
	makeUser("long", long)
	makeUser("composed", composed)
	makeUser("decomposed", decomposed)
	makeUser("blanks", "  leading and trailing  ")
	w.setHash(w.register("bcrypt"), bcryptOf(t, "short-one"))
	w.setHash(w.register("bcrypt72"), bcryptOf(t, long[:72]))

	refused := map[string][2]string{
		"first 72": {"long", long[:72]}, "first 73": {"long", long[:73]}, "one less": {"long", long[:89]}, "one more": {"long", long + "x"},
		"another last": {"long", long[:89] + "x"}, "NUL behind": {"long", long + "\x00"}, "NUL and more": {"long", long + "\x00more"}, "NUL before": {"long", "\x00" + long},
		"in capitals": {"long", strings.ToUpper(long)}, "compatibility": {"composed", strings.Replace(composed, "-", "\uff0d", 1)},
		"without marks": {"composed", "gruner-elephant-53"}, "trimmed": {"blanks", "leading and trailing"}, "plus for blank": {"blanks", "++leading+and+trailing++"},
		"bcrypt repeats its key": {"bcrypt", "short-one\x00short-one"}, "bcrypt and NUL": {"bcrypt", "short-one\x00"}, "bcrypt behind 72": {"bcrypt72", long[:72] + "anything"},
	}
	names := slices.Sorted(maps.Keys(refused))
	before := w.holdings()
	tr := w.trail()
	parallel(len(names), func(i int) {
		p := refused[names[i]]
		for way, req := range w.signInRequests(p[0], p[1]) {
			if r := tr.send(names[i], req); r.status != 401 {
				t.Errorf("%s at %s: status %d", names[i], way, r.status)
			}
		}
	})
	w.holds(before)
	tr.audited("signin.refused", audit.Failure, long, long[:72], "short-one", composed)
	for _, p := range [][2]string{
		{"long", long},
		{"composed", composed},
		{"composed", decomposed},
		{"decomposed", composed},
		{"decomposed", decomposed},
		{"blanks", "  leading and trailing  "},
		{"bcrypt", "short-one"},
		{"bcrypt72", long[:72]},
	} {
		for way, req := range w.signInRequests(p[0], p[1]) {
			if r := w.send(req); r.status != 200 {
				t.Errorf("the right password of %s at %s: status %d: %s", p[0], way, r.status, r.body)
			}
		}
	}
}

// zeros is a body without end that takes no memory.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// A password of 10 MiB is refused before anything is hashed or held. The hash
// costs 64 MiB here, so that one alone would show.
func TestL_HugePassword(t *testing.T) {
	w, costly := pair(t, testkit.SQLite(t), func(c *server.Config) { c.Password = password.Config{Memory: 64 << 10, Time: 2, Permits: 1} })
	id, tk := w.user("ada")
	before := w.holdings()
	const size = 10 << 20
	bodies := map[string]struct{ path, contentType, head string }{
		"/token":             {"POST /token", formType, "grant_type=password&username=ada&password="},
		"/auth/login JSON":   {"POST /auth/login", "application/json", `{"username":"ada","password":"`},
		"/auth/login form":   {"POST /auth/login", formType, "username=ada&password="},
		"/auth/register":     {"POST /auth/register", "application/json", `{"email":"x@example.com","password":"`},
		"/users/me/password": {"PUT /users/me/password", "application/json", `{"current_password":"`},
		"/token/refresh":     {"POST /token/refresh", "application/json", `{"refresh_token":"`},
	}
	var m1, m2 runtime.MemStats
	runtime.ReadMemStats(&m1)
	for what, b := range bodies {
		for _, declared := range []int64{size, -1} {
			method, path, _ := strings.Cut(b.path, " ")
			req := costly.typed(method, path, b.contentType, "")
			req.Body = io.NopCloser(io.MultiReader(strings.NewReader(b.head), io.LimitReader(zeros{}, size)))
			req.ContentLength = declared
			if declared >= 0 {
				req.ContentLength += int64(len(b.head))
			}
			req.GetBody = nil
			if method == "PUT" {
				req.Header.Set("Authorization", "Bearer "+tk.access)
			}
			req.Header.Set("Expect", "100-continue")
			began := time.Now()
			res, err := http.DefaultClient.Do(req)
			if err != nil { // the server may close while the client still sends
				if declared >= 0 {
					t.Errorf("%s: %v", what, err)
				}
				continue
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != 413 || !bytes.Contains(body, []byte("larger")) {
				t.Errorf("%s, declared %d: status %d: %.200s %v", what, declared, res.StatusCode, body, err)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("%s: took %v", what, d)
			}
		}
	}
	runtime.ReadMemStats(&m2)
	if grown := (m2.TotalAlloc - m1.TotalAlloc) >> 20; grown > 40 {
		t.Errorf("%d requests of 10 MiB made the program allocate %d MiB", 2*len(bodies), grown)
	}
	w.holds(before)

	// What is as large as allowed is read, and wrong.
	w.do("POST", "/auth/login", "", map[string]string{"username": "ada", "password": strings.Repeat("x", 60<<10)}).want(t, 401, "invalid_credentials")
	if w.hash(id) == "" || !w.alive(w.signIn("ada", goodPassword).access) {
		t.Error("the right password is refused")
	}
}

// What anybody would guess is no password: at registration and at a change.
func TestL_PasswordPolicy(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("adalovelace")
	before := w.holdings()
	for pw, code := range map[string]string{
		"password1": "common", "P@ssw0rd": "common", "qwertyuiop": "common", "12345678": "common", "ｐａｓｓｗｏｒｄ": "common", "P@ssw0rd2026": "common",
		"adalovelace": "contains_name", "AdaLovelace1": "contains_name", "adalovelace@example.com": "contains_name", "4d4l0v3l4c3": "contains_name",
		"short1!": "too_short", "": "", strings.Repeat("é", 1025): "too_long", "with\x00nul-and-more": "invalid_text", "line\nbreak-and-more": "invalid_text",
	} {
		r := w.do("POST", "/auth/register", "", map[string]any{"username": "adalovelace", "email": "adalovelace@example.com", "password": pw})
		if r.status != 422 || !strings.Contains(string(r.body), code) {
			t.Errorf("register with %.20q: status %d, want 422 and %q: %.300s", pw, r.status, code, r.body)
		}
		quiet(t, pw, r, pw)
		r = w.do("PUT", "/users/me/password", tk.access, map[string]any{"current_password": goodPassword, "new_password": pw})
		if r.status != 422 || !strings.Contains(string(r.body), code) || !strings.Contains(string(r.body), "/new_password") {
			t.Errorf("change to %.20q: status %d, want 422 and %q: %.300s", pw, r.status, code, r.body)
		}
		quiet(t, pw, r, pw, goodPassword)
	}
	w.holds(before)
	w.do("PUT", "/users/me/password", tk.access, map[string]any{"current_password": goodPassword, "new_password": "marzipan under the piano"}).want(t, 204, "")
	w.signIn("adalovelace", "marzipan under the piano")
}

// Five hundred sign-ins at once: each is answered 200, or 503 with Retry-After;
// memory stays within the budget, and nothing is left running.
func TestL_Storm(t *testing.T) {
	const permits, memory = 2, 19456 // KiB
	w := newWorld(t, testkit.SQLite(t), nil, noLockout, func(c *server.Config) {
		c.Password = password.Config{Memory: memory, Permits: permits, Queue: 4, MaxWait: 500 * time.Millisecond}
	})
	w.user("ada")
	runtime.GC()
	goroutines := runtime.NumGoroutine()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base := m.HeapInuse
	var peak atomic.Uint64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse))
		}
	})

	const n = 500
	client := &http.Client{Transport: &http.Transport{}}
	var ok, busy atomic.Int64
	parallel(n, func(i int) {
		way := []string{"/token", "/auth/login JSON", "/auth/login form"}[i%3]
		res, err := client.Do(w.signInRequests("ada", goodPassword)[way])
		if err != nil {
			t.Error(err)
			return
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		switch res.StatusCode {
		case 200:
			ok.Add(1)
		case 503:
			busy.Add(1)
			if s := res.Header.Get("Retry-After"); s != "1" {
				t.Errorf("503 with Retry-After %q", s)
			}
			if !bytes.Contains(body, []byte("temporarily_unavailable")) && !bytes.Contains(body, []byte(`"busy"`)) {
				t.Errorf("503: %s", body)
			}
		default:
			t.Errorf("status %d: %s", res.StatusCode, body)
		}
	})
	close(stop)
	watch.Wait()
	client.CloseIdleConnections()
	t.Logf("%d signed in, %d were told to come back; heap %d MiB, before %d", ok.Load(), busy.Load(), peak.Load()>>20, base>>20)
	if ok.Load() == 0 || busy.Load() == 0 {
		t.Errorf("%d signed in and %d were sent away: want some of both", ok.Load(), busy.Load())
	}
	// The budget, as much again until the collector has run, and 500 connections.
	if limit := base + 2*permits*memory<<10 + 128<<20; peak.Load() > limit {
		t.Errorf("the heap grew to %d MiB, want at most %d", peak.Load()>>20, limit>>20)
	}
	if got := settle(goroutines + 8); got > goroutines+8 {
		t.Errorf("%d goroutines, before %d", got, goroutines)
	}
	if !w.alive(w.signIn("ada", goodPassword).access) {
		t.Error("nobody can sign in after the storm")
	}
}

// A stored hash that asks for more than any hash may is as good as none: it is
// refused at once, and costs nothing.
func TestL_HostileParameters(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	const salt, digest = "c2FsdHNhbHRzYWx0c2FsdA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	hashes := map[string]string{
		"argon2 memory": "$argon2id$v=19$m=4294967295,t=1,p=1$" + salt + "$" + digest, "argon2 time": "$argon2id$v=19$m=64,t=4294967295,p=1$" + salt + "$" + digest,
		"argon2 threads": "$argon2id$v=19$m=65536,t=1,p=255$" + salt + "$" + digest, "argon2 all": "$argon2id$v=19$m=262144,t=16,p=16$" + salt + "$" + digest,
		"argon2 zero": "$argon2id$v=19$m=0,t=0,p=0$" + salt + "$" + digest, "argon2 overflow": "$argon2id$v=19$m=18446744073709551617,t=1,p=1$" + salt + "$" + digest,
		"argon2 negative": "$argon2id$v=19$m=-1,t=-1,p=-1$" + salt + "$" + digest, "argon2 empty digest": "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$",
		"argon2 one byte": "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$AA", "argon2 version": "$argon2id$v=99$m=64,t=1,p=1$" + salt + "$" + digest,
		"bcrypt 31": "$2b$31$" + strings.Repeat("a", 53), "bcrypt 99": "$2b$99$" + strings.Repeat("a", 53), "bcrypt 00": "$2b$00$" + strings.Repeat("a", 53), "bcrypt cut": "$2b$10$abc",
		"scrypt": "$scrypt$ln=40,r=8,p=1$" + salt + "$" + digest, "scrypt r": "$scrypt$ln=1,r=1073741823,p=1$" + salt + "$" + digest, "scrypt p": "$scrypt$ln=2,r=1,p=1073741823$" + salt + "$" + digest,
		"scrypt of Werkzeug": "scrypt$" + salt + "$1073741824$8$1$" + digest, "pbkdf2": "pbkdf2_sha256$9999999999$salt$" + digest + "=", "pbkdf2 zero": "pbkdf2_sha256$0$salt$" + digest + "=",
		"pbkdf2 of passlib": "$pbkdf2-sha512$2147483647$" + salt + "$" + digest, "firebase": "$firebase-scrypt$ln=40,r=8$" + salt + "$Bw$" + digest + "$" + digest,
		"very long": "$argon2id$" + strings.Repeat("m=64,", 200_000), "dollars": strings.Repeat("$", 5000), "control": "$2b$10$\x01\x02", "not ASCII": "пароль", "line ends": djangoHash + "\n",
	}
	names := slices.Sorted(maps.Keys(hashes))
	ids := map[string]string{}
	for i, name := range names {
		ids[name] = w.register(fmt.Sprintf("user%d", i))
		w.setHash(ids[name], hashes[name])
	}
	want := w.form("/token", "grant_type", "password", "username", "nobody", "password", goodPassword).want(t, 401, "invalid_grant")
	before := w.holdings()
	tr := w.trail()
	var m1, m2 runtime.MemStats
	runtime.ReadMemStats(&m1)
	began := time.Now()
	parallel(len(names), func(i int) {
		req := w.signInRequests(fmt.Sprintf("user%d", i), goodPassword)["/token"]
		alike(t, names[i], tr.send(names[i], req), want)
	})
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("the refusals took %v", d)
	}
	runtime.ReadMemStats(&m2)
	if grown := (m2.TotalAlloc - m1.TotalAlloc) >> 20; grown > 64 {
		t.Errorf("the refusals allocated %d MiB", grown)
	}
	w.holds(before)
	tr.audited("signin.refused", audit.Failure, goodPassword)

	// A change of the password by the person fails alike; the operator's mends it.
	id := ids["argon2 memory"]
	if err := w.sv.Accounts.SetPassword(t.Context(), id, goodPassword); err != nil {
		t.Fatal(err)
	}
	if !w.alive(w.signIn(fmt.Sprintf("user%d", slices.Index(names, "argon2 memory")), goodPassword).access) {
		t.Error("a new password does not help")
	}
}

// A hash that came from elsewhere is verified and replaced once, by the right
// password only.
func TestL_ImportedHash(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		for name, u := range map[string]struct{ hash, pw string }{
			"django": {djangoHash, djangoPassword}, "bcrypt": {bcryptOf(t, "from another place"), "from another place"},
			// A short or common password was accepted elsewhere: it goes on working.
			"common": {bcryptOf(t, "password1"), "password1"},
		} {
			id := w.register(name)
			w.setHash(id, u.hash)
			seen := len(w.events("password.upgraded", 0))
			w.form("/token", "grant_type", "password", "username", name, "password", goodPassword).want(t, 401, "invalid_grant")
			if w.hash(id) != u.hash {
				t.Fatalf("%s: a wrong password changed the hash", name)
			}
			w.signIn(name, u.pw)
			upgraded := w.hash(id)
			if !strings.HasPrefix(upgraded, "$argon2id$") {
				t.Fatalf("%s: the hash was not replaced", name)
			}
			if !w.alive(w.signIn(name, u.pw).access) || w.hash(id) != upgraded {
				t.Errorf("%s: the second sign-in is not as the first", name)
			}
			w.form("/token", "grant_type", "password", "username", name, "password", u.pw+"x").want(t, 401, "invalid_grant")
			events := w.events("password.upgraded", seen+1)
			if len(events) != seen+1 || events[0].Target != id {
				t.Errorf("%s: %d upgrades, want 1", name, len(events)-seen)
			}
			noSecretsIn(t, events, u.pw, u.hash, upgraded)
		}
	})
}

// Twenty sign-ins at once while the hash is replaced: all are let in, and it is
// replaced once.
func TestL_UpgradeRace(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		id := w.register("ada")
		for round := range 2 {
			w.setHash(id, djangoHash)
			var wrong atomic.Int64
			parallel(20, func(i int) {
				if i%5 == 4 { // and somebody guesses meanwhile
					w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 401, "invalid_grant")
					return
				}
				r := w.form("/token", "grant_type", "password", "username", "ada", "password", djangoPassword)
				if r.status != 200 {
					wrong.Add(1)
					t.Logf("status %d: %s", r.status, r.body)
				} else if !w.alive(r.text(t, "access_token")) {
					t.Error("a token of the race is dead")
				}
			})
			if n := wrong.Load(); n > 0 {
				t.Errorf("%d of 16 who know the password were refused", n)
			}
			if h := w.hash(id); !strings.HasPrefix(h, "$argon2id$") {
				t.Errorf("the hash is %.20s…", h)
			}
			if n := len(w.events("password.upgraded", round+1)); n != round+1 {
				t.Errorf("%d upgrades after %d rounds", n, round+1)
			}
			w.signIn("ada", djangoPassword)
		}
	})
}

// What is not one string where one is expected is refused as such, never read
// as one.
func TestL_TypeJuggling(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("ada")
	before := w.holdings()
	const p = goodPassword
	login := []string{
		`{"username":["ada"],"password":"` + p + `"}`, `{"username":"ada","password":["` + p + `"]}`, `{"username":{"$ne":null},"password":{"$ne":null}}`,
		`{"username":"ada","password":{"$gt":""}}`, `{"username":"ada","password":true}`, `{"username":"ada","password":null}`, `{"username":"ada","password":0}`,
		`{"username":"ada"}`, `{"password":"` + p + `"}`, `{}`, `[]`, `null`, `""`, `1`, `"ada"`, `[{"username":"ada","password":"` + p + `"}]`,
		`{"username":"ada","password":"` + p + `","password":"x"}`, `{"username":"ada","password":"` + p + `","PASSWORD":"x"}`, `{"username":"ada","Password":"` + p + `"}`,
		`{"username":"ada","passwor\u0064":"` + p + `","password":"` + p + `"}`, `{"username":"ada","password":"` + p + `"}{}`, `{"username":"ada","password":"` + p + `"} x`,
		`{"username":"ada","password":"` + p + `","admin":true}`, `{"username":"ada","password":"` + p + `","` + p + `":1}`, `{"username":"ada","password":"` + p + `","grant_type":"client_credentials"}`,
		`{"username":"ada","password":"` + p + `","grant_type":["password"]}`, `{"username":"ada","password":"` + p + "\xff\"}", `{"username":"ada","password":"\ud800"}`,
		`{"username":"ada","password":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `{"username":"ada","password":"` + p, ``, "\ufeff{}",
	}
	for _, body := range login {
		r := w.send(w.typed("POST", "/auth/login", "application/json", body))
		if r.status != 400 && r.status != 422 {
			t.Errorf("/auth/login %.80s: status %d: %.200s", body, r.status, r.body)
		}
		quiet(t, body, r, p)
	}
	refresh := `"` + tk.refresh + `"`
	for _, body := range []string{
		`{"refresh_token":[` + refresh + `]}`, `{"refresh_token":{"a":` + refresh + `}}`, `{"refresh_token":null}`, `{"refresh_token":1}`, `{}`, refresh, `null`,
		`{"refresh_token":` + refresh + `,"refresh_token":` + refresh + `}`, `{"REFRESH_TOKEN":` + refresh + `}`, `{"refresh_token":` + refresh + `,"x":1}`,
		`{"refresh_token":` + refresh + `,` + refresh + `:1}`, `{` + refresh + `:"refresh_token"}`,
	} {
		r := w.send(w.typed("POST", "/token/refresh", "application/json", body))
		if r.status != 400 && r.status != 422 {
			t.Errorf("/token/refresh %.40s…: status %d: %.200s", body, r.status, r.body)
		}
		quiet(t, body, r, tk.refresh)
	}
	q := url.QueryEscape(p)
	for _, body := range []string{
		"grant_type=password&username=ada&password=" + q + "&password=" + q, "grant_type=password&username=ada&username=bob&password=" + q, "grant_type=password&grant_type=password&username=ada&password=" + q,
		"grant_type=password&username=ada&password=x&password=" + q, "grant_type=password&username=ada&password=" + q + "&scope=a&scope=b", "grant_type=password&username=ada&password=" + q + "&x=1&x=2",
		"grant_type=password&username[]=ada&password=" + q, "grant_type=password&username=ada&password[]=" + q, "grant_type=password&username=ada&password[$ne]=", "grant_type[]=password&username=ada&password=" + q,
		"grant_type=password&username=ada&password=", "grant_type=password&username=&password=" + q, "grant_type=password&username=ada", "grant_type=password", "", "=", "%", "grant_type=password&username=ada&password=%zz",
		"grant_type=password;username=ada;password=" + q, "grant_type=password&username=ada&Password=" + q, "grant_type=password&username=ada&password=%ff", `{"grant_type":"password","username":"ada","password":"` + p + `"}`,
		"grant_type=refresh_token", "grant_type=refresh_token&refresh_token=" + tk.refresh + "&refresh_token=" + tk.refresh, "grant_type=refresh_token&refresh_token[]=" + tk.refresh,
		"grant_type=refresh_token&refresh_token=" + tk.refresh + "&" + tk.refresh + "=1&" + tk.refresh + "=2",
		"grant_type=password&username=ada&password=" + q + strings.Repeat("&a=1", 1) + strings.Repeat("&b%d=1", 80),
	} {
		r := w.send(w.typed("POST", "/token", formType, body)).want(t, 400, "")
		if c := r.text(t, "error"); c != "invalid_request" && c != "unsupported_grant_type" {
			t.Errorf("/token %.60s: error %q", body, c)
		}
		quiet(t, body, r, p, tk.refresh)
	}
	w.holds(before)
	w.send(w.typed("POST", "/auth/login", "application/json", `{"username":"ada","password":"`+p+`","grant_type":"password"}`)).want(t, 200, "")
}

// Nobody chooses another's session: each sign-in makes one of its own, and
// leaves the others as they are.
func TestL_SessionFixation(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, eve := w.user("eve")
	w.register("ada")
	fixed := sessionOf(t, eve.access)
	seen := map[string]bool{fixed: true}
	var all []tokens
	for i := range 4 {
		req := w.typed("POST", "/token", formType, url.Values{
			"grant_type": {"password"}, "username": {"ada"}, "password": {goodPassword}, "session": {fixed}, "sid": {fixed}, "session_id": {fixed}, "access_token": {eve.access},
		}.Encode())
		req.Header.Set("Cookie", "session="+fixed+"; sid="+fixed+"; __Host-session="+eve.access)
		if i%2 == 1 {
			req.Header.Set("Authorization", "Bearer "+eve.access) // signed in as somebody else
		}
		r := w.send(req).want(t, 200, "")
		if c := r.header["Set-Cookie"]; c != nil {
			t.Errorf("a cookie was set: %q", c)
		}
		tk := tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
		if sid := sessionOf(t, tk.access); seen[sid] {
			t.Errorf("session %s was there before", sid)
		} else {
			seen[sid] = true
		}
		all = append(all, tk)
	}
	if me := w.do("GET", "/users/me", eve.access, nil).text(t, "username"); me != "eve" {
		t.Errorf("eve's session became %s's", me)
	}
	// A refresh stays in its session; ending one leaves the others.
	r := w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": all[0].refresh}).want(t, 200, "")
	if sessionOf(t, r.text(t, "access_token")) != sessionOf(t, all[0].access) {
		t.Error("a refresh began another session")
	}
	w.do("POST", "/logout", all[0].access, nil).want(t, 200, "")
	for i, tk := range all {
		if alive := w.alive(tk.access); alive != (i > 0) {
			t.Errorf("session %d: alive %t", i, alive)
		}
	}
}

// Another site's page cannot sign somebody in: what a browser sends without
// asking is refused, and no answer sets a cookie or lets another origin read.
func TestL_CrossSite(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.register("ada")
	before := w.holdings()
	body := `{"username":"ada","password":"` + goodPassword + `"}`
	grant := "grant_type=password&username=ada&password=" + goodPassword
	multipart := "--x\r\nContent-Disposition: form-data; name=\"grant_type\"\r\n\r\npassword\r\n--x\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\nada\r\n--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n" + goodPassword + "\r\n--x--\r\n"
	for path, bodies := range map[string][]string{
		"/auth/login": {body, grant, multipart}, "/token": {grant, body, multipart},
		"/auth/register": {`{"email":"eve@example.com","password":"` + goodPassword + `"}`}, "/token/refresh": {`{"refresh_token":"rt_x"}`},
	} {
		for _, ct := range []string{
			"", "text/plain", "text/plain;charset=UTF-8", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded; boundary=x", "application/json, text/plain",
			"application/jsonp", "text/json", "application/json; charset=utf-16", "text/plain; application/json", "*/*", "application/xml", " ", "application/x-www-form-urlencoded2",
		} {
			for _, b := range bodies {
				req := w.typed("POST", path, ct, b)
				req.Header.Set("Origin", "https://evil.example")
				r := w.send(req)
				if r.status != 415 {
					t.Errorf("POST %s as %q: status %d: %.200s", path, ct, r.status, r.body)
				}
				quiet(t, path, r, goodPassword)
			}
		}
		if path != "/token" {
			continue
		}
		w.send(w.typed("POST", path, "application/json", body)).want(t, 415, "invalid_request")
	}
	for _, path := range []string{"/token", "/auth/login", "/token/refresh", "/logout", "/auth/register"} {
		if r := w.do("GET", path+"?x=1", "", nil); r.status != 405 {
			t.Errorf("GET %s: status %d", path, r.status)
		}
	}
	w.holds(before)
	req := w.signInRequests("ada", goodPassword)["/auth/login JSON"]
	req.Header.Set("Origin", "https://evil.example")
	r := w.send(req).want(t, 200, "")
	for name := range r.header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" {
			t.Errorf("header %s to another origin", name)
		}
	}
}

// A new database lets nobody in.
func TestL_NoDefaultAccount(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		var n int64
		for _, count := range []func() (bool, error){
			func() (bool, error) {
				return d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_accounts", nil, &n)
			},
			func() (bool, error) {
				return d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_subjects", nil, &n)
			},
			func() (bool, error) {
				return d.View(t.Context()).Row("SELECT COUNT(*) FROM sp_sessions", nil, &n)
			},
		} {
			if _, err := count(); err != nil || n != 0 {
				t.Errorf("%d rows in a new database, %v", n, err)
			}
		}
		pairs := [][2]string{
			{"admin", "admin"},
			{"admin", "password"},
			{"root", "root"},
			{"admin@example.com", "admin"},
			{"sallyport", "sallyport"},
			{"test", "test"},
			{"user", "user"},
			{"operator", "operator"},
			{"guest", "guest"},
			{"first-party", "docs"},
			{"docs", "docs"},
			{"admin", "changeme"},
		}
		parallel(len(pairs), func(i int) {
			w.form("/token", "grant_type", "password", "username", pairs[i][0], "password", pairs[i][1]).want(t, 401, "invalid_grant")
		})
		// Whoever registers first is nobody special.
		id, tk := w.user("ada")
		w.do("GET", "/users", tk.access, nil).want(t, 403, "insufficient_permission")
		w.do("PUT", "/users/"+id+"/roles", tk.access, map[string]any{"roles": []string{"admin"}}).want(t, 403, "insufficient_permission")
	})
}

// The client of a request to /token is known, or it is refused; what is not
// Basic authentication is not read as such.
func TestL_ClientOfTokenRequest(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.register("ada")
	grant := url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {goodPassword}}
	send := func(authorization string, more ...string) reply {
		t.Helper()
		v := url.Values{}
		maps.Copy(v, grant)
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		req := w.typed("POST", "/token", formType, v.Encode())
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		return w.send(req)
	}
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	for what, c := range map[string]struct {
		authorization string
		more          []string
		client        string
	}{
		"nothing":                 {"", nil, "first-party"},
		"Swagger UI's empty one":  {"Basic Og==", nil, "first-party"},
		"docs":                    {basic("docs:"), nil, "docs"},
		"docs in the body":        {"", []string{"client_id", "docs"}, "docs"},
		"docs, an empty secret":   {"", []string{"client_id", "docs", "client_secret", ""}, "docs"},
		"docs twice":              {basic("docs:"), []string{"client_id", "docs"}, "docs"},
		"first-party":             {basic("first-party:"), nil, "first-party"},
		"empty, docs in the body": {"Basic Og==", []string{"client_id", "docs"}, "docs"},
		"scheme in small letters": {"basic " + strings.TrimPrefix(basic("docs:"), "Basic "), nil, "docs"},
	} {
		r := send(c.authorization, c.more...)
		if r.status != 200 {
			t.Errorf("%s: status %d: %s", what, r.status, r.body)
			continue
		}
		if got := payloadOf(t, r.text(t, "access_token"))["client_id"]; got != c.client {
			t.Errorf("%s: client %q, want %q", what, got, c.client)
		}
	}
	before := w.holdings()
	for what, c := range map[string]struct {
		authorization string
		more          []string
		status        int
		code          string
	}{
		"not base64":                {"Basic !!!", nil, 400, "invalid_request"},
		"cut":                       {"Basic Zm9", nil, 400, "invalid_request"},
		"no padding":                {"Basic Og", nil, 400, "invalid_request"},
		"no colon":                  {basic("docs"), nil, 400, "invalid_request"},
		"nothing":                   {"Basic ", nil, 400, "invalid_request"},
		"bad escape":                {basic("%zz:x"), nil, 400, "invalid_request"},
		"two blanks":                {"Basic  " + strings.TrimPrefix(basic("docs:"), "Basic "), nil, 400, "invalid_request"},
		"line end inside":           {"Basic ZG9j\tczo=", nil, 400, "invalid_request"},
		"unknown":                   {basic("nobody:"), nil, 401, "invalid_client"},
		"unknown, with a secret":    {basic("nobody:hidden-secret"), nil, 401, "invalid_client"},
		"unknown in small letters":  {"basic " + strings.TrimPrefix(basic("nobody:hidden-secret"), "Basic "), nil, 401, "invalid_client"},
		"unknown in the body":       {"", []string{"client_id", "nobody"}, 401, "invalid_client"},
		"docs with a secret":        {basic("docs:hidden-secret"), nil, 401, "invalid_client"},
		"docs, secret in the body":  {"", []string{"client_id", "docs", "client_secret", "hidden-secret"}, 401, "invalid_client"},
		"first-party with a secret": {basic("first-party:hidden-secret"), nil, 401, "invalid_client"},
		"a secret alone":            {basic(":hidden-secret"), nil, 401, "invalid_client"},
		"the user as client":        {basic("ada:" + goodPassword), nil, 401, "invalid_client"},
		"docs in another case":      {basic("DOCS:"), nil, 401, "invalid_client"},
		"NUL":                       {basic("docs\x00:"), nil, 401, "invalid_client"},
		"two clients":               {basic("docs:"), []string{"client_id", "first-party"}, 400, "invalid_request"},
		"two secrets":               {basic("docs:hidden-secret"), []string{"client_secret", "hidden-secret"}, 400, "invalid_request"},
	} {
		r := send(c.authorization, c.more...)
		if r.status != c.status || r.json(t)["error"] != c.code {
			t.Errorf("%s: status %d, want %d %s: %s", what, r.status, c.status, c.code, r.body)
		}
		if r.status == 401 && !strings.HasPrefix(r.header.Get("Www-Authenticate"), "Basic ") {
			t.Errorf("%s: challenge %q", what, r.header.Get("Www-Authenticate"))
		}
		quiet(t, what, r, goodPassword, "hidden-secret", base64.StdEncoding.EncodeToString([]byte("ada:"+goodPassword)))
	}
	w.holds(before)
}

// Changing the password needs the current one, ends all other sessions, and
// keeps the one that asks.
func TestL_PasswordChange(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil, noLockout)
		_, own := w.user("ada")
		other, third := w.signIn("ada", goodPassword), w.signIn("ada", goodPassword, "client_id", "docs")
		_, bob := w.user("bob")
		const next = "marzipan under the piano"
		const path = "/users/me/password"
		before := w.holdings()

		tr := w.trail()
		for _, current := range []string{"wrong-but-long-enough", "", next, strings.ToUpper(goodPassword), goodPassword + "\x00", goodPassword[:len(goodPassword)-1], own.access} {
			r := tr.send("current: "+current, w.request("PUT", path, own.access, map[string]string{"current_password": current, "new_password": next}))
			r.want(t, 401, "wrong_password")
			if len(r.header["Www-Authenticate"]) == 0 {
				t.Error("401 without a challenge")
			}
			quiet(t, "wrong current", r, next, current)
		}
		tr.audited("password.changed", audit.Failure, next, goodPassword, "wrong-but-long-enough", own.access)
		w.do("PUT", path, own.access, map[string]string{"new_password": next}).want(t, 422, "validation_failed")
		w.do("PUT", path, own.access, map[string]any{"current_password": nil, "new_password": next}).want(t, 422, "validation_failed")
		w.do("PUT", path, "", map[string]string{"current_password": goodPassword, "new_password": next}).want(t, 401, "unauthenticated")
		w.do("PATCH", "/users/me", own.access, map[string]string{"password": next}).want(t, 422, "validation_failed")
		w.do("PUT", path, bob.access, map[string]string{"current_password": goodPassword, "new_password": next, "id": "ada"}).want(t, 422, "validation_failed")
		w.holds(before)

		w.do("PUT", path, own.access, map[string]string{"current_password": goodPassword, "new_password": next}).want(t, 204, "")
		if !w.alive(own.access) || !w.alive(bob.access) {
			t.Error("the session that changed the password, or another's, is dead")
		}
		for what, tk := range map[string]tokens{"another": other, "another client's": third} {
			if w.alive(tk.access) {
				t.Errorf("%s session lives", what)
			}
			client := "first-party"
			if what != "another" {
				client = "docs"
			}
			w.form("/token", "grant_type", "refresh_token", "refresh_token", tk.refresh, "client_id", client).want(t, 400, "invalid_grant")
		}
		w.do("POST", "/token/refresh", "", map[string]string{"refresh_token": own.refresh}).want(t, 200, "")
		w.form("/token", "grant_type", "password", "username", "ada", "password", goodPassword).want(t, 401, "invalid_grant")
		w.signIn("ada", next)
		noSecretsIn(t, w.events("password.changed", 8), next, goodPassword)
		noSecretsIn(t, w.events("sessions.ended", 1), own.refresh, other.refresh)

		// Of several at once one wins, and the password is then one of theirs.
		var won atomic.Int32
		var winner atomic.Value
		parallel(6, func(i int) {
			mine := fmt.Sprintf("%s number %d", next, i)
			r := w.do("PUT", path, own.access, map[string]string{"current_password": next, "new_password": mine})
			switch r.status {
			case 204:
				won.Add(1)
				winner.Store(mine)
			case 401, 409:
			default:
				t.Errorf("status %d: %s", r.status, r.body)
			}
		})
		if n := won.Load(); n != 1 {
			t.Fatalf("%d changes at once succeeded with the same current password", n)
		}
		w.signIn("ada", winner.Load().(string))
	})
}

// A request for a token names a grant that there is, and holds its credentials
// in the body.
func TestL_GrantsAndQuery(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	_, tk := w.user("ada")
	before := w.holdings()
	rest := []string{"username", "ada", "password", goodPassword, "refresh_token", tk.refresh, "client_id", "first-party"}
	w.form("/token", rest...).want(t, 400, "invalid_request")
	w.form("/token", append([]string{"grant_type", ""}, rest...)...).want(t, 400, "invalid_request")
	for _, grant := range []string{
		"authorization_code", "implicit", "PASSWORD", "Password", " password", "password ", "password\x00", "urn:ietf:params:oauth:grant-type:jwt-bearer",
		"urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange", "none", "null", strings.Repeat("a", 5000), "<script>",
	} {
		r := w.form("/token", append([]string{"grant_type", grant}, rest...)...).want(t, 400, "unsupported_grant_type")
		if strings.Contains(string(r.body), "<script>") {
			t.Errorf("the grant type is given back: %s", r.body)
		}
	}
	grant := url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {goodPassword}}
	for _, path := range []string{"/token", "/auth/login"} {
		for _, query := range []url.Values{
			grant, {"username": {"ada"}}, {"password": {goodPassword}}, {"refresh_token": {tk.refresh}}, {"client_secret": {"hidden-secret"}}, {"access_token": {tk.access}}, {"password": {""}},
		} {
			for _, body := range []string{grant.Encode(), ""} {
				r := w.send(w.typed("POST", path+"?"+query.Encode(), formType, body))
				if r.status != 400 {
					t.Errorf("POST %s with %q in the address: status %d, want 400", path, slices.Sorted(maps.Keys(query)), r.status)
				}
				quiet(t, path, r, goodPassword, tk.refresh, tk.access, "hidden-secret")
			}
		}
	}
	w.send(w.typed("POST", "/token?pass%77ord="+goodPassword, formType, grant.Encode())).want(t, 400, "invalid_request")
	if r := w.do("POST", "/token/refresh?refresh_token="+tk.refresh, "", map[string]string{"refresh_token": tk.refresh}); r.status != 400 && r.status != 422 {
		t.Errorf("a refresh token in the address: status %d", r.status)
	} else {
		quiet(t, "/token/refresh", r, tk.refresh)
	}
	w.holds(before)
	w.send(w.typed("POST", "/token?lang=en", formType, grant.Encode())).want(t, 200, "")
}

// A scope limits a token to what was asked for and is held, and says so; a name
// that does not exist is refused, whoever asks.
func TestL_Scope(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	id, _ := w.user("ada", "moderator")
	w.user("bob")
	ask := func(who, scope string) reply {
		t.Helper()
		return w.form("/token", "grant_type", "password", "username", who, "password", goodPassword, "scope", scope)
	}
	for what, c := range map[string]struct{ who, scope, granted string }{
		"held": {"ada", "read:users", "read:users"}, "not held": {"bob", "read:users", ""}, "one of two": {"ada", "write:users read:users", "read:users"},
		"twice": {"ada", "read:users read:users", "read:users"}, "a role": {"ada", "role:moderator", "role:moderator"}, "a role that is not held": {"ada", "role:admin read:users", "read:users"},
		"all of an administrator's": {"bob", "assign:roles write:roles role:admin", ""},
	} {
		r := ask(c.who, c.scope).want(t, 200, "")
		if got := r.text(t, "scope"); got != c.granted {
			t.Errorf("%s: scope %q, want %q", what, got, c.granted)
		}
		access := r.text(t, "access_token")
		if s, ok := payloadOf(t, access)["scope"].(string); !ok || s != c.granted {
			t.Errorf("%s: the token says %q, %t", what, s, ok)
		}
		want := 403
		if c.granted == "read:users" {
			want = 200
		}
		if r := w.do("GET", "/users", access, nil); r.status != want {
			t.Errorf("%s: GET /users: status %d, want %d", what, r.status, want)
		}
	}
	for _, scope := range []string{"", " ", "   "} { // as good as none
		if r := ask("ada", scope).want(t, 200, ""); payloadOf(t, r.text(t, "access_token"))["scope"] != nil {
			t.Errorf("scope %q limits the token", scope)
		}
	}
	before := w.holdings()
	for _, scope := range []string{
		"no:such", "read:users no:such", "role:none", "role:", "*", "admin", "openid", "read:users  write:users", " read:users", "read:users ", "read:users\twrite:users", "read:users,write:users",
		"READ:USERS", `"read:users"`, "read:users\x00", strings.Repeat("read:users ", 65) + "x", strings.Repeat("a", 5000), "read:\u0443sers",
	} {
		r := ask("ada", scope).want(t, 400, "invalid_scope")
		quiet(t, scope, r, goodPassword)
	}
	// Whoever does not know the password learns nothing of scopes.
	for _, scope := range []string{"no:such", "read:users"} {
		w.form("/token", "grant_type", "password", "username", "ada", "password", "wrong-but-long-enough", "scope", scope).want(t, 401, "invalid_grant")
	}
	w.holds(before)
	// The scope is an upper bound: what is taken from the user is taken from the token.
	access := ask("ada", "read:users").text(t, "access_token")
	w.do("GET", "/users", access, nil).want(t, 200, "")
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
		return role.Revoke(t.Context(), tx, role.Operator(), id, "moderator")
	}); err != nil {
		t.Fatal(err)
	}
	if r := w.do("GET", "/users", access, nil); r.status != 403 {
		t.Errorf("a scope outlived the permission: status %d", r.status)
	}
}
