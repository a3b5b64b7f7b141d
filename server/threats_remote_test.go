package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
)

// Another service that asks this server lets in whom this server lets in, and
// nobody else, for every kind of credential and rule.
func TestO_RemoteDecidesAlike(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		asking, static := apikey.Generate(), apikey.Generate()
		rules := map[string]sallyport.Rule{
			"signed in": sallyport.SignedIn(), "permission": sallyport.Permission("read:reports"), "role": sallyport.Role("clerk"), "unscoped": sallyport.Unscoped(),
			"fresh": sallyport.Fresh(time.Hour), "mfa": sallyport.MFA(), "key": sallyport.Via(sallyport.KindAPIKey), "bearer": sallyport.Via(sallyport.KindBearer), "cookie": sallyport.Via(sallyport.KindCookie),
		}
		ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, sallyport.From(r.Context()).ID())
		})
		path := func(name string) string { return "/rule/" + name[:3] }
		// The issuer's address is known only once it listens.
		issuer := httptest.NewUnstartedServer(nil)
		t.Cleanup(issuer.Close)
		w := newWorld(t, d, func(w *world) {
			for name, rule := range rules {
				w.mux.Handle("GET "+path(name), rule, ok)
			}
		}, func(c *server.Config) {
			c.BaseURL = "http://" + issuer.Listener.Addr().String()
			c.APIKeys = []apikey.Static{apikey.NewStatic("asking", asking, []string{"introspect:tokens"}), apikey.NewStatic("billing", static, []string{"read:reports"})}
		})
		issuer.Config.Handler = w.sv.Guard(w.mux)
		issuer.Start()
		if err := w.sv.Declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		cfg := w.cfg
		cfg.TokenFormat = session.Opaque
		sv, err := server.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sv.Close)
		opaques := *w
		opaques.sv, opaques.http = sv, httptest.NewServer(sv.Guard(sv.Routes()))
		t.Cleanup(opaques.http.Close)

		v, err := remote.New(remote.Config{Issuer: w.cfg.BaseURL, Introspection: &remote.Introspection{APIKey: asking.Reveal(), MaxAge: time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Close() })
		mux := sallyport.NewMux(v)
		for name, rule := range rules {
			mux.Handle("GET "+path(name), rule, ok)
		}
		service := httptest.NewServer(mux)
		t.Cleanup(service.Close)

		w.define("clerk", "read:reports")
		_, ada := w.user("ada", "clerk")
		_, root := w.user("root", "admin")
		bare := w.machine(nil)
		full := w.machine([]string{"read:reports"}, "clerk")
		ended := w.signIn("ada", goodPassword)
		w.do("POST", "/logout", ended.access, nil).want(t, 200, "")
		in := 0
		for what, c := range map[string][2]string{
			"jwt": {"Authorization", "Bearer " + ada.access}, "scoped jwt": {"Authorization", "Bearer " + w.signIn("ada", goodPassword, "scope", "read:reports").access},
			"jwt scoped to a role": {"Authorization", "Bearer " + w.signIn("ada", goodPassword, "scope", "role:clerk").access}, "scoped to nothing held": {"Authorization", "Bearer " + w.signIn("ada", goodPassword, "scope", "read:audit").access},
			"administrator": {"Authorization", "Bearer " + root.access}, "opaque": {"Authorization", "Bearer " + opaques.signIn("ada", goodPassword).access}, "scoped opaque": {"Authorization", "Bearer " + opaques.signIn("ada", goodPassword, "scope", "read:reports").access},
			"client without rights": {"Authorization", "Bearer " + w.token(bare)}, "client": {"Authorization", "Bearer " + w.token(full)}, "opaque client": {"Authorization", "Bearer " + opaques.token(full)},
			"key": {"X-API-Key", w.key(ada, "read:reports").key}, "key with a role": {"X-API-Key", w.key(ada, "role:clerk").key}, "key without scopes": {"X-API-Key", w.key(ada).key}, "static key": {"X-API-Key", static.Reveal()},
			"signed out": {"Authorization", "Bearer " + ended.access}, "unknown key": {"X-API-Key", made()}, "refresh token": {"Authorization", "Bearer " + ada.refresh}, "refresh token as a key": {"X-API-Key", ada.refresh},
			"token as a key": {"X-API-Key", ada.access}, "key as a token": {"Authorization", "Bearer " + static.Reveal()}, "cookie as a token": {"Authorization", "Bearer " + w.cookie("ada")}, "client secret": {"Authorization", "Bearer " + full.Secret},
		} {
			for name := range rules {
				var got [2]reply
				for i, at := range []string{w.http.URL, service.URL} {
					req, err := http.NewRequestWithContext(t.Context(), "GET", at+path(name), nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set(c[0], c[1])
					got[i] = w.send(req)
				}
				if got[1].status == 200 {
					in++
				}
				if got[0].status != got[1].status || got[0].status == 200 && string(got[0].body) != string(got[1].body) {
					t.Errorf("%s, %s: here %d %.150s, there %d %.150s", what, name, got[0].status, got[0].body, got[1].status, got[1].body)
				}
			}
		}
		if in < 40 {
			t.Errorf("only %d were let in: nothing was compared", in)
		}
	})
}
