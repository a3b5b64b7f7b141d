package server_test

import (
	"context"
	"encoding/base64"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
)

func basicValue(name, pw string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+pw))
}

// as sends a request with an Authorization header.
func (w *world) as(method, path, authorization string, body any) reply {
	w.t.Helper()
	r := w.request(method, path, "", body)
	r.Header.Set("Authorization", authorization)
	return w.send(r)
}

// probes adds routes that answer 204: one that names Basic, and one that does
// not.
func probes(w *world) {
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	w.mux.HandleFunc("GET /by-basic", sallyport.Via(sallyport.KindBasic, sallyport.KindBearer), ok)
	w.mux.HandleFunc("GET /only-basic", sallyport.All(sallyport.Via(sallyport.KindBasic), sallyport.Permission("read:users")), ok)
	w.mux.HandleFunc("GET /plain", sallyport.SignedIn(), ok)
}

func TestBasicCountsOnlyWhereItIsNamed(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, probes)
		_, tk := w.user("ada")
		good := basicValue("ada", goodPassword)
		w.as("GET", "/by-basic", good, nil).want(t, 204, "")
		w.do("GET", "/by-basic", tk.access, nil).want(t, 204, "")
		w.as("GET", "/plain", good, nil).want(t, 401, "unauthenticated")
		w.as("GET", "/users/me", good, nil).want(t, 401, "unauthenticated")
		w.as("GET", "/only-basic", good, nil).want(t, 403, "insufficient_permission")
		w.grant(w.do("GET", "/users/me", tk.access, nil).text(t, "id"), "moderator")
		w.as("GET", "/only-basic", good, nil).want(t, 204, "")
		w.do("GET", "/only-basic", tk.access, nil).want(t, 403, "credential_not_accepted")
		r := w.do("GET", "/by-basic", "", nil).want(t, 401, "unauthenticated")
		if all := strings.Join(r.header["Www-Authenticate"], "; "); !strings.Contains(all, `Basic realm="sallyport", charset="UTF-8"`) || !strings.Contains(all, "Bearer") {
			t.Errorf("challenges: %s", all)
		}
		r = w.do("GET", "/plain", "", nil).want(t, 401, "unauthenticated")
		if all := strings.Join(r.header["Www-Authenticate"], "; "); strings.Contains(all, "Basic") {
			t.Errorf("a route that takes no Basic asks for it: %s", all)
		}
	})
}

func TestBasicOnEveryRouteWhenSwitchedOn(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, probes, func(c *server.Config) { c.Basic = true })
		w.register("ada")
		for _, name := range []string{"ada", "ADA", "ada@example.com"} {
			r := w.as("GET", "/users/me", basicValue(name, goodPassword), nil).want(t, 200, "")
			if r.text(t, "username") != "ada" {
				t.Errorf("%s: %s", name, r.body)
			}
		}
		w.as("GET", "/plain", basicValue("ada", goodPassword), nil).want(t, 204, "")
		w.as("PATCH", "/users/me", basicValue("ada", goodPassword), map[string]any{"full_name": "Ada"}).want(t, 200, "")
		if r := w.as("GET", "/users/me", basicValue("ada", goodPassword), nil).want(t, 200, ""); r.text(t, "full_name") != "Ada" {
			t.Errorf("as it was before: %s", r.body)
		}
	})
}

// Wrong, unknown, disabled and malformed are one answer; the audit log tells
// them apart.
func TestL_BasicRefusals(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, probes)
		w.register("ada")
		id := w.register("off")
		_, root := w.user("root", "admin")
		w.as("GET", "/by-basic", basicValue("off", goodPassword), nil).want(t, 204, "")
		w.do("PATCH", "/users/"+id, root.access, map[string]any{"disabled": true}).want(t, 200, "")
		var first reply
		for i, value := range []string{
			basicValue("ada", "wrong-"+goodPassword), basicValue("nobody", goodPassword), basicValue("off", goodPassword),
			basicValue("", goodPassword), basicValue("ada", ""), "Basic", "Basic ", "Basic !!!", "Basic " + base64.StdEncoding.EncodeToString([]byte("ada")),
			basicValue("ada", goodPassword+"\x00"), basicValue("ada", goodPassword+"\n"), basicValue("ada\xff", goodPassword),
			basicValue("ada", goodPassword) + "\t", "Basic " + base64.RawStdEncoding.EncodeToString([]byte("ada:"+goodPassword+"a")),
			basicValue("ada:"+goodPassword, ""), "Basic " + strings.Repeat("A", 12<<10),
		} {
			r := w.as("GET", "/by-basic", value, nil)
			if strings.HasSuffix(value, "\t") { // trimmed by net/http: it is the right one
				r.want(t, 204, "")
				continue
			}
			r.want(t, 401, "invalid_token")
			if i == 0 {
				first = r
				continue
			}
			if got, want := anonymise(r), anonymise(first); got != want {
				t.Errorf("%.40q is answered %s, and not %s", value, got, want)
			}
		}
		if e := w.events("credential.refused", 1); !slices.ContainsFunc(e, func(e audit.Record) bool { return e.Actor == id }) {
			t.Error("no event tells that the disabled account was refused")
		}
		reasons := map[string]bool{}
		for _, e := range w.events("signin.refused", 3) {
			reasons[e.Reason] = true
			if strings.Contains(e.Reason+e.Target, goodPassword) {
				t.Error("a password in the audit log")
			}
		}
		for _, want := range []string{"wrong password", "unknown name"} {
			if !reasons[want] {
				t.Errorf("no event for %q in %v", want, reasons)
			}
		}
	})
}

// anonymise returns an answer without what differs between any two.
func anonymise(r reply) string {
	body := regexp.MustCompile(`"request_id":"[^"]*"`).ReplaceAllString(string(r.body), "")
	return http.StatusText(r.status) + strings.Join(r.header["Www-Authenticate"], ";") + body
}

// What was accepted is refused at the next request once the password is changed,
// the account disabled, deleted, or given a second factor.
func TestL_BasicEndsAtOnce(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, probes)
		_, root := w.user("root", "admin")
		for _, c := range []struct {
			name string
			end  func(id, access string)
		}{
			{"changed", func(id, access string) {
				w.do("PUT", "/users/me/password", access, map[string]any{"current_password": goodPassword, "new_password": "another-" + goodPassword}).want(t, 204, "")
			}},
			{"disabled", func(id, _ string) {
				w.do("PATCH", "/users/"+id, root.access, map[string]any{"disabled": true}).want(t, 200, "")
			}},
			{"deleted", func(id, _ string) { w.do("DELETE", "/users/"+id, root.access, nil).want(t, 204, "") }},
			{"factor", func(id, _ string) {
				if err := d.Write(t.Context(), func(tx *db.Tx) error {
					if _, err := tx.Exec("UPDATE sp_accounts SET mfa = TRUE WHERE id = $1", id); err != nil {
						return err
					}
					return tx.Changed(id)
				}); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			id, tk := w.user(c.name)
			w.as("GET", "/by-basic", basicValue(c.name, goodPassword), nil).want(t, 204, "")
			w.as("GET", "/by-basic", basicValue(c.name, goodPassword), nil).want(t, 204, "")
			c.end(id, tk.access)
			w.as("GET", "/by-basic", basicValue(c.name, goodPassword), nil).want(t, 401, "invalid_token")
			w.as("GET", "/by-basic", basicValue("root", goodPassword), nil).want(t, 204, "") // the control
		}
		w.as("GET", "/by-basic", basicValue("changed", "another-"+goodPassword), nil).want(t, 204, "")
		// Nor does the password grant open an account with a second factor.
		w.form("/token", "grant_type", "password", "username", "factor", "password", goodPassword).want(t, 403, "mfa_required")
	})
}

// A password is hashed once, however many requests bring it, one after another
// or all at once.
func TestBasicHashesOnce(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, probes)
		w.register("ada")
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 10 {
					r, err := http.NewRequest("GET", w.http.URL+"/by-basic", nil)
					if err != nil {
						t.Error(err)
						return
					}
					r.Header.Set("Authorization", basicValue("ada", goodPassword))
					res, err := http.DefaultClient.Do(r)
					if err != nil {
						t.Error(err)
						return
					}
					res.Body.Close()
					if res.StatusCode != 204 {
						t.Errorf("status %d", res.StatusCode)
					}
				}
			})
		}
		wg.Wait()
		// Each check that succeeds writes one event.
		if n := len(w.events("password.accepted", 1)); n > 3 {
			t.Errorf("200 requests made %d checks", n)
		}
	})
}

// An imported hash is replaced at the first use, and that is the only check.
func TestBasicUpgradesTheHash(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, probes)
		id := w.register("ada")
		hasher, err := password.New(password.Config{Memory: 32, Time: 1, Threads: 1, DangerouslyWeak: true})
		if err != nil {
			t.Fatal(err)
		}
		old, err := hasher.Hash(t.Context(), goodPassword)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_accounts SET password_hash = $2 WHERE id = $1", id, old)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			w.as("GET", "/by-basic", basicValue("ada", goodPassword), nil).want(t, 204, "")
		}
		if n := len(w.events("password.accepted", 1)); n != 1 {
			t.Errorf("%d checks", n)
		}
		if len(w.events("password.upgraded", 1)) != 1 {
			t.Error("not upgraded once")
		}
	})
}

// Who guesses, and goes away, does not show when the check of their guess ended:
// not to themselves, asking the same at the same time.
func TestL_BasicGridWithoutTheFirst(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) { c.Basic = true })
	w.register("ada")
	for _, name := range []string{"ada", "nobody"} {
		for n := range 3 {
			text := basicValue(name, "wrong "+strconv.Itoa(n))
			ctx, leave := context.WithCancel(t.Context())
			gone := make(chan struct{})
			began := time.Now()
			go func() {
				defer close(gone)
				if res, err := http.DefaultClient.Do(w.with("GET", "/users/me", text).WithContext(ctx)); err == nil {
					res.Body.Close()
				}
			}()
			time.Sleep(20 * time.Millisecond)
			time.AfterFunc(20*time.Millisecond, leave)
			w.send(w.with("GET", "/users/me", text)).want(t, 401, "invalid_token")
			if took := time.Since(began); took < 95*time.Millisecond {
				t.Errorf("%s: answered after %v", name, took)
			}
			leave()
			<-gone
		}
	}
	req := w.request("GET", "/users/me", "", nil)
	req.SetBasicAuth("ada", goodPassword)
	w.send(req).want(t, 200, "")
}

// Who asks and goes away before their turn has no hash made: others are not kept
// waiting by the many who left.
func TestL_BasicAbandoned(t *testing.T) {
	slow := password.Config{Memory: 64 << 10, Time: 3, Threads: 1, Permits: 1, DangerouslyWeak: true}
	log := new(testkit.Buffer)
	w := newWorld(t, testkit.SQLite(t), nil, func(c *server.Config) {
		c.Basic, c.Password, c.Log = true, slow, slog.New(slog.NewTextHandler(log, nil))
	})
	w.register("ada")
	right := basicValue("ada", goodPassword)
	began := time.Now()
	w.as("GET", "/users/me", right, nil).want(t, 200, "")
	one := time.Since(began)
	ctx, leave := context.WithCancel(t.Context())
	var gone sync.WaitGroup
	for n := range 12 {
		gone.Go(func() {
			req := w.with("GET", "/users/me", basicValue("ada", "wrong "+strconv.Itoa(n))).WithContext(ctx)
			if res, err := http.DefaultClient.Do(req); err == nil {
				res.Body.Close()
			}
		})
	}
	time.Sleep(one / 2) // all are waiting
	leave()
	gone.Wait()
	time.Sleep(20 * time.Millisecond) // the server notices
	began = time.Now()
	w.signIn("ada", goodPassword)
	if took := time.Since(began); took > 5*one {
		t.Errorf("a sign-in took %v behind 12 who had left, where one hash takes %v", took, one)
	}
	if strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "GET /users/me") {
		t.Errorf("callers who left are a fault of the server, or nothing is logged: %.400s", log.String())
	}
}
