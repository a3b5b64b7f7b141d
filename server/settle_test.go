package server_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/oauth"
	"github.com/sallyport/sallyport/server"
)

// What a backup brings back (letter F of the threat list).

// TestF_EveryTableHasItsLineInTheBackupPage: whoever adds a table decides what
// becomes of it when a backup is restored, and in Settle ends what must not come
// back.
func TestF_EveryTableHasItsLineInTheBackupPage(t *testing.T) {
	b, err := os.ReadFile("../docs/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		tables, err := d.Tables(t.Context())
		if err != nil || len(tables) < 20 {
			t.Fatalf("%d tables: %v", len(tables), err)
		}
		for _, table := range tables {
			if !strings.Contains(string(b), "\n| `"+table.Name+"` | ") {
				t.Errorf("docs/backup.md does not say what becomes of %s when a backup is restored. Decide, end in server.Settle what must not come back, and add its line", table.Name)
			}
		}
	})
}

// settleWorld is a server with one of everything that a backup brings back.
type settleWorld struct {
	*world
	box      mailbox
	ada, bob tokens
	app      app
	used     string // a code of the app that was used
	recovery []string
	pending  string // an mfa_token
	reset    string // a token sent by mail
	key      apiKey
	client   oauth.NewClient
}

func newSettleWorld(t *testing.T, d *db.DB) *settleWorld {
	s := &settleWorld{}
	s.world = newClientWorld(t, d, withMail(&s.box))
	id, first := s.user("ada")
	s.app, s.recovery = s.enrol(first.access)
	s.used = s.app.next()
	r := s.verify(s.due("ada"), s.used).want(t, 200, "")
	s.ada = tokens{r.text(t, "access_token"), r.text(t, "refresh_token")}
	s.pending = s.due("ada")
	_, s.bob = s.user("bob")
	s.key = s.world.key(s.bob)
	s.client = s.machine([]string{"read:reports"})
	links := link.New(link.Config{Key: make([]byte, 32), Now: s.clock.now})
	secret := link.Make(link.Reset)
	s.reset = secret.Token
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		if _, err := links.Store(tx, secret, link.Grant{Subject: id, Address: "ada@example.com", Bound: []byte("x")}, time.Hour); err != nil {
			return err
		}
		// One that nobody sends before Settle.
		_, err := tx.Exec("INSERT INTO sp_outbox (id, subject_id, kind, sealed, attempts, due_at, created_at, expires_at, failure) VALUES ('letter', $1, 'x', $2, 0, $3, 0, $3, '')",
			id, []byte("x"), db.Micros(time.Now().Add(time.Hour)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *settleWorld) count(q string) (n int) {
	s.t.Helper()
	var err error
	switch q {
	case "letters":
		_, err = s.db.View(s.t.Context()).Row("SELECT COUNT(*) FROM sp_outbox WHERE id = 'letter'", nil, &n) // the server queues its own, too
	case "links":
		_, err = s.db.View(s.t.Context()).Row("SELECT COUNT(*) FROM sp_mail_tokens WHERE NOT used AND subject_id IS NOT NULL", nil, &n)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *settleWorld) settle(keep ...string) []server.Settled {
	s.t.Helper()
	done, err := server.Settle(s.t.Context(), s.cfg, keep, map[string]string{"made_at": "then"})
	if err != nil {
		s.t.Fatal(err)
	}
	time.Sleep(s.sv.Lease()) // a node hears of it by then at the latest
	return done
}

// fromClient asks for a token as the machine client.
func (s *settleWorld) fromClient() reply {
	return s.send(s.byBasic("/token", s.client.ID, s.client.Secret, "grant_type", "client_credentials"))
}

func TestF_SettleEndsWhatABackupBringsBack(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		s := newSettleWorld(t, d)
		machine := s.fromClient().want(t, 200, "").text(t, "access_token")
		if !s.alive(s.ada.access) || !s.alive(s.bob.access) || !s.accepted(s.key.key) || s.count("letters") != 1 || s.count("links") != 1 {
			t.Fatal("before Settle, something is not good that should be")
		}
		keysBefore := s.do("GET", "/.well-known/jwks.json", "", nil).want(t, 200, "").json(t)["keys"].([]any)

		done := s.settle()
		for _, at := range done {
			if at.Done != "ended" || at.Count == 0 {
				t.Errorf("%s: %s, %d", at.What, at.Done, at.Count)
			}
		}

		// The node that runs has heard of it.
		s.dead("a session", s.ada)
		s.dead("another's", s.bob)
		if s.alive(machine) || s.accepted(s.key.key) {
			t.Error("a machine client's token or an API key is still good")
		}
		s.fromClient().want(t, 401, "invalid_client")
		s.verify(s.pending, s.app.code(0)).want(t, 401, "")
		if n := s.count("letters") + s.count("links"); n != 0 {
			t.Errorf("%d letters or links are left", n)
		}
		keys := s.do("GET", "/.well-known/jwks.json", "", nil).want(t, 200, "").json(t)["keys"].([]any)
		for _, k := range keys {
			if slices.ContainsFunc(keysBefore, func(old any) bool { return old.(map[string]any)["kid"] == k.(map[string]any)["kid"] }) {
				t.Error("a signing key of the backup is still published")
			}
		}

		// Second factors: a used code, and one of this minute, are used up; recovery
		// codes are, and the app goes on.
		s.verify(s.due("ada"), s.used).want(t, 401, "invalid_2fa_code")
		s.verify(s.due("ada"), s.app.code(0)).want(t, 401, "invalid_2fa_code")
		s.verify(s.due("ada"), s.recovery[0]).want(t, 401, "invalid_2fa_code")
		s.clock.advance(2 * time.Minute)
		s.verify(s.due("ada"), s.app.code(0)).want(t, 200, "")

		// People sign in as before; keys and clients come back when somebody says so.
		bob := s.signIn("bob", goodPassword)
		s.do("PATCH", "/api-keys/"+s.key.id, bob.access, map[string]any{"is_active": true}).want(t, 200, "")
		if !s.accepted(s.key.key) {
			t.Error("an API key that its owner switched on again is refused")
		}
		if err := s.sv.Clients.SetDisabled(t.Context(), role.Operator(), s.client.ID, false); err != nil {
			t.Fatal(err)
		}
		s.fromClient().want(t, 200, "")

		events := s.events("database.restored", 1)
		if len(events) != 1 || events[0].Detail["sessions"] != "ended 4" || events[0].Detail["made_at"] != "then" {
			t.Errorf("%d events: %v", len(events), events[0].Detail)
		}
		for _, v := range events[0].Detail {
			for _, secret := range append([]string{s.ada.refresh, s.key.key, s.client.Secret, s.reset, s.pending}, s.recovery...) {
				if strings.Contains(v, secret) {
					t.Errorf("the event holds a secret: %v", events[0].Detail)
				}
			}
		}

		// Once more: there is little left to end.
		for _, at := range s.settle("sessions", "api-keys", "clients", "signing-keys") {
			if at.Done == "ended" && at.Count > 0 && at.What != "sign-ins under way" && at.What != "one-time codes of this minute" { // of which there are new ones
				t.Errorf("%s: %d more", at.What, at.Count)
			}
		}
		if !s.alive(bob.access) || !s.accepted(s.key.key) {
			t.Error("what was to be kept is not good any more")
		}
	})
}

func TestF_SettleKeepsWhatItIsTold(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		s := newSettleWorld(t, d)
		s.settle(server.Keepable()...)
		if !s.alive(s.ada.access) || !s.alive(s.bob.access) || !s.accepted(s.key.key) {
			t.Error("something that was to be kept is not good any more")
		}
		s.fromClient().want(t, 200, "")
		s.verify(s.due("ada"), s.recovery[0]).want(t, 200, "")
		s.verify(s.pending, s.app.next()).want(t, 401, "") // never kept
		if n := s.count("letters") + s.count("links"); n != 0 {
			t.Errorf("%d letters or links are left", n)
		}
		if _, err := server.Settle(t.Context(), s.cfg, []string{"session"}, nil); err == nil || !strings.Contains(err.Error(), "there is no such kind") {
			t.Errorf("an unknown kind: %v", err)
		}
		if len(s.events("database.restored", 1)) != 1 {
			t.Error("not one event")
		}
	})
}

// A node has read roles whose version, in the past that comes back, is another
// definition's. It must not go on with what it knows.
func TestF_ANodeForgetsWhatThePastContradicts(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		w.define("editor", "read:users")
		id, ada := w.user("ada", "editor")
		w.do("GET", "/users", ada.access, nil).want(t, 200, "")
		// pg_restore, as it were: the same versions, other rows, and no change declared.
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("DELETE FROM sp_role_permissions WHERE role = 'editor'")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w.do("GET", "/users", ada.access, nil).want(t, 200, "") // or the test shows nothing
		if _, err := server.Settle(t.Context(), w.cfg, server.Keepable(), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(w.sv.Lease())
		w.do("GET", "/users", ada.access, nil).want(t, 403, "insufficient_permission")
		w.grant(id, "moderator")
		w.do("GET", "/users", ada.access, nil).want(t, 200, "")
	})
}
