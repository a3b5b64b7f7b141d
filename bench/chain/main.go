// Command chain is a service that mounts Sallyport, to be measured beside
// bench/bare: GET /items answers the same bytes behind the whole chain of guard,
// credential, rule and live state.
//
// It writes what a load driver needs: OUT/chain.json with a target for each
// kind of credential, and OUT/tokens with some of the access tokens, one a line.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
	"github.com/sallyport/sallyport/store/sqlite"
)

var (
	listen   = flag.String("listen", "127.0.0.1:0", "`address` to listen on")
	body     = flag.String("body", "", "`file` with the answer's body")
	out      = flag.String("out", "", "`folder` for the targets")
	name     = flag.String("name", "chain", "`name` of the targets")
	sessions = flag.Int("sessions", 0, "`number` of other people's sessions that are held in memory")
	revoked  = flag.Int("revoked", 0, "`number` of sessions that have ended")
	remember = flag.Int("remember", 0, "how many credentials are held at most; 0 is the default")
	limit    = flag.String("limit", server.LimitOff, "`rate` that bounds all requests of an address")
	profile  = flag.String("profile", "", "`file` for a profile of 5 seconds, begun 2 seconds after the start")
	sample   = flag.Int("sample", 20000, "how many of the sessions' tokens are written")
)

const password = "violet-anchor-97-marmalade"

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	answer, err := os.ReadFile(*body)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(*out, "chain")
	if err != nil {
		return err
	}
	d, err := sqlite.Open(filepath.Join(dir, "sallyport.db"))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	url := "http://" + ln.Addr().String()
	alg := token.EdDSA
	if *sessions > 10_000 {
		alg = token.HS256 // they are all made here, one by one
	}
	sp, err := server.New(ctx, server.Config{
		DB: d, BaseURL: url, Algorithm: alg, AccessTTL: 23 * time.Hour, Remember: *remember,
		// The load comes from one address.
		Limits: server.Limits{Default: *limit, Login: server.LimitOff}, NoLockout: true,
	})
	if err != nil {
		return err
	}
	mux := sallyport.NewMux(sp)
	mux.HandleFunc("GET /items", sallyport.Permission("read:items"), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	mux.Mount("/", sp.Routes())
	if err := sp.Declare(ctx); err != nil {
		return err
	}
	if err := d.Write(ctx, func(tx *db.Tx) error {
		return role.Put(ctx, tx, role.Operator(), role.Role{Name: role.User, Permissions: []string{"read:items"}, Includes: []string{role.Guest}})
	}); err != nil {
		return err
	}
	h := sp.Guard(mux)
	access, key, err := person(ctx, sp)
	if err != nil {
		return err
	}
	targets := []map[string]any{
		{"Name": *name + " /items", "URL": url + "/items", "Header": "Authorization: Bearer " + access},
		{"Name": *name + " key", "URL": url + "/items", "Header": "X-API-Key: " + key},
		{"Name": *name + " /users/me", "URL": url + "/users/me", "Header": "Authorization: Bearer " + access},
	}
	if *sessions > 0 {
		if err := crowd(ctx, sp, d, h); err != nil {
			return err
		}
		targets = append(targets, map[string]any{
			"Name": *name + " /items in turn", "URL": url + "/items", "Script": "bench/tokens.lua",
			"Env": map[string]string{"TOKENS": filepath.Join(*out, *name+".tokens")},
		})
	}
	text, err := json.MarshalIndent(targets, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(*out, *name+".json"), text, 0o600); err != nil {
		return err
	}
	fmt.Println("ready", url)
	if *profile != "" {
		go record(*profile)
	}
	return http.Serve(ln, h) // as bench/bare: time limits are the program's own
}

func record(file string) {
	time.Sleep(2 * time.Second)
	f, err := os.Create(file)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		log.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	pprof.StopCPUProfile()
}

// person makes the account that the load comes from, signs in, and makes an API
// key.
func person(ctx context.Context, sp *server.Server) (access, key string, err error) {
	ada := "ada"
	u, err := sp.Accounts.Register(ctx, account.NewUser{Username: &ada, Email: "ada@example.com", Password: password})
	if err != nil {
		return "", "", err
	}
	_, k, err := sp.APIKeys.Create(ctx, apikey.NewKey{Owner: u.ID, Name: "load", Scopes: []string{"read:items"}})
	if err != nil {
		return "", "", err
	}
	t, err := sp.SignIn.Password(ctx, signin.Attempt{Login: ada, Password: password, Client: session.FirstParty})
	return t.Access, k.Reveal(), err
}

// crowd makes other people's sessions, each of a person of its own, and has the
// server see each once. It prints what a credential in memory costs.
func crowd(ctx context.Context, sp *server.Server, d *db.DB, h http.Handler) error {
	began := time.Now()
	var m runtime.MemStats
	ids := make([][2]uuid.UUID, *sessions)
	for i := 0; i < *sessions; {
		err := d.Write(ctx, func(tx *db.Tx) error {
			for end := min(i+5000, *sessions); i < end; i++ {
				ids[i] = [2]uuid.UUID{uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())}
				if err := stored(tx, ids[i][0], ids[i][1], 0); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for i := 0; i < *revoked; {
		err := d.Write(ctx, func(tx *db.Tx) error {
			for end := min(i+5000, *revoked); i < end; i++ {
				if err := stored(tx, uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), 1); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	set, err := sp.Keys.Set(ctx)
	if err != nil {
		return err
	}
	runtime.GC()
	runtime.ReadMemStats(&m)
	before := m.HeapAlloc
	tokens := make([]string, 0, *sample)
	every := max(*sessions / *sample, 1)
	w := httptest.NewRecorder()
	for i, id := range ids {
		now := time.Now()
		text, err := set.Issue(token.Claims{
			Issuer: sp.Issuer(), Audience: []string{sp.Issuer()}, Subject: id[0].String(), Session: id[1].String(), ID: id[1].String(),
			ClientID: session.FirstParty, IssuedAt: now, Expires: now.Add(23 * time.Hour), AuthTime: now,
		})
		if err != nil {
			return err
		}
		if i%every == 0 && len(tokens) < *sample {
			tokens = append(tokens, text)
		}
		r := httptest.NewRequestWithContext(ctx, "GET", sp.Issuer()+"/items", nil)
		r.Header.Set("Authorization", "Bearer "+text)
		w.Body.Reset()
		w.Code = 200
		h.ServeHTTP(w, r)
		if w.Code != 200 {
			return fmt.Errorf("session %d: status %d: %s", i, w.Code, w.Body)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&m)
	fmt.Printf("memory %.0f bytes for each of %d credentials\n", float64(m.HeapAlloc-before)/float64(*sessions), *sessions)
	fmt.Fprintf(os.Stderr, "made %d sessions and %d that have ended in %v\n", *sessions, *revoked, time.Since(began).Round(time.Second))
	return os.WriteFile(filepath.Join(*out, *name+".tokens"), []byte(strings.Join(tokens, "\n")+"\n"), 0o600)
}

// stored writes a subject with a session; ended is when it ended, 0 if not.
func stored(tx *db.Tx, subject, session uuid.UUID, ended int64) error {
	now := time.Now()
	if err := role.Create(tx, subject.String(), "user", now, role.User); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO sp_sessions
		(id, subject_id, client_id, scoped, scope, amr, mfa, auth_time, created_at, last_used_at, idle_until,
		 expires_at, ended_at, end_reason, address, user_agent, generation, refresh, refreshed_at)
		VALUES ($1, $2, 'first-party', FALSE, '', 'pwd', FALSE, $3, $3, $3, $4, $4, $5, '', '', '', 0, $6, $3)`,
		session.String(), subject.String(), db.Micros(now), db.Micros(now.Add(720*time.Hour)), ended, []byte(session.String()))
	return err
}
