package server_test

import (
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// TestTheMasterKeyIsLost does what docs/operate.md says for the day on which it is:
// without the three statements nothing starts, and behind them everybody is there and
// signs in again.
func TestTheMasterKeyIsLost(t *testing.T) {
	page, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	const statements = "```sql\nDELETE FROM sp_signing_keys;\nDELETE FROM sp_secrets;\nDELETE FROM sp_sessions;\n```"
	if !strings.Contains(string(page), statements) {
		t.Fatalf("docs/operate.md does not say\n%s", statements)
	}
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		start := func(letter string) (*server.Server, error) {
			return server.New(ctx, server.Config{
				DB: d, BaseURL: "https://id.example.com", MasterKey: base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32))),
				Password: password.Config{Memory: 64, Time: 1, Threads: 1, Permits: 2, DangerouslyWeak: true},
			})
		}
		const pw = "wrong giraffe charger paperclip"
		in := signin.Attempt{Login: "ada@example.com", Password: pw, Client: session.FirstParty}
		sp, err := start("a")
		if err != nil {
			t.Fatal(err)
		}
		ada, err := sp.Accounts.Create(ctx, role.Operator(), account.NewUser{Email: "ada@example.com", Password: pw, Roles: []string{role.Admin}})
		if err != nil {
			t.Fatal(err)
		}
		client, err := sp.Clients.Create(ctx, role.Operator(), "nightly", []string{"read:users"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		before, err := sp.SignIn.Password(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		sp.Close()

		if sp, err := start("b"); err == nil {
			sp.Close()
			t.Fatal("a server started with another master key")
		} else if !strings.Contains(err.Error(), "it is not the master key that this database was sealed under") {
			t.Fatalf("another master key: %v", err)
		}
		if err := d.Write(ctx, func(tx *db.Tx) error {
			if _, err := tx.Exec("DELETE FROM sp_signing_keys"); err != nil {
				return err
			}
			if _, err := tx.Exec("DELETE FROM sp_secrets"); err != nil {
				return err
			}
			_, err := tx.Exec("DELETE FROM sp_sessions")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if sp, err = start("b"); err != nil {
			t.Fatal(err)
		}
		defer sp.Close()
		if _, err := sp.Sessions.Refresh(ctx, before.Refresh, session.FirstParty, false, nil); err == nil {
			t.Error("a session from before goes on")
		}
		after, err := sp.SignIn.Password(ctx, in)
		if err != nil {
			t.Fatalf("signing in afterwards: %v", err)
		}
		if _, err := sp.Sessions.VerifyAccess(ctx, after.Access); err != nil {
			t.Errorf("the new token: %v", err)
		}
		if _, err := sp.Sessions.VerifyAccess(ctx, before.Access); err == nil {
			t.Error("a token from before is accepted")
		}
		if err := sp.Clients.Authenticate(ctx, client.ID, client.Secret); err != nil {
			t.Errorf("the machine client: %v", err)
		}
		if found, err := sp.Accounts.Get(ctx, ada.ID); err != nil || len(found.Roles) != 1 || found.Roles[0] != role.Admin {
			t.Errorf("the account: %+v, %v", found, err)
		}
		if err := sp.Chain.Seal(ctx); err != nil {
			t.Fatal(err)
		}
		if verdict, err := sp.Chain.Verify(ctx); err != nil || verdict.Whole {
			t.Errorf("the audit log: %+v, %v; its seals from before are under a key that is gone, and the page says so", verdict, err)
		}
	})
}
